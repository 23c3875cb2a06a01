"""What reading a chunk gives."""

from __future__ import annotations

from typing import NamedTuple

from p2pfill.origin.buffers import BUFFERS


class OriginChunk(NamedTuple):
    """One chunk as an origin delivered it. Not yet checked against its digests: see `verify_chunk`."""

    data: memoryview
    """Exactly `manifest.chunk_length(k)` bytes, of memory that goes back to the system with the last view of it,
    or is read into again after `give_back`."""
    bytes_received: int
    """Payload bytes that arrived for it, waste included, but for what was of use as other chunks."""
    requests: int
    """Requests made for it, failed ones included."""
    failed: int = 0
    """Of those, such as brought no answer, or less than they promised."""
    is_pieced: bool = False
    """A part of it was put together of several answers, which may have come of several servers."""

    def give_back(self) -> None:
        """Let the memory serve again: nobody looks at `data` from now on. Who does not call this only loses time."""
        BUFFERS.give_back(self.data)
