"""What has come of a title from where, over all of its fills on this disk: kept beside its journal.

A process counts from nothing when it starts; what people are shown of a fill must not shrink with that. It is written
after each commit and not synced: what a crash of the machine loses is a figure, and no chunk relies on it. What was
fetched and not committed is fetched again after a restart, and then counts twice, as it has crossed borders twice.
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import msgspec

from p2pfill.model.packing import JSON_ERRORS
from p2pfill.store.disk import FILE_FLAGS, read_into, write_all

TALLY: Final = "tally"
BYTES_MAX: Final = 64 * 1024
"""Of the file: some figures, and a count for each of a dozen reasons."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


class Tally(msgspec.Struct, frozen=True):
    """Figures of a title as a report has them (`model.reports.TitleReport`); sizes in bytes, times since the epoch."""

    bytes_peer: Count = 0
    bytes_regional: Count = 0
    bytes_origin: Count = 0
    duplicate_bytes: Count = 0
    reused_bytes: Count = 0
    escalations: dict[str, Count] = {}
    started_at: float = 0.0
    finished_at: float = 0.0


def read_tally(directory_fd: int) -> Tally:
    """Return what was kept in a title's directory; nothing where there is none, or none that can be read."""
    try:
        fd = os.open(TALLY, os.O_RDONLY | FILE_FLAGS, dir_fd=directory_fd)
        try:
            data = bytearray(BYTES_MAX)
            count = read_into(fd, memoryview(data), 0)
        finally:
            os.close(fd)
        return msgspec.json.decode(data[:count], type=Tally)
    except (OSError, *JSON_ERRORS):
        return Tally()


def write_tally(directory_fd: int, tally: Tally) -> None:
    """Keep `tally` in a title's directory, all or nothing. Raises `OSError`."""
    temporary = f"{TALLY}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FILE_FLAGS, 0o644, dir_fd=directory_fd)
    try:
        write_all(fd, msgspec.json.encode(tally), 0)
    finally:
        os.close(fd)
    os.replace(temporary, TALLY, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
