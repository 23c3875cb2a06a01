"""From a byte stream to payloads and back: the preamble of a control connection, then length-prefixed frames.

    connection = "P2FC" version_min:u8 version_max:u8 frame*
    frame      = length:u32 (big endian, 1..FRAME_BYTES_MAX) payload

The deframer keeps less than one frame between calls, whatever it is fed and in whatever pieces. A length is checked
as soon as its four bytes are there, so nobody makes us wait for, or hold, more than `FRAME_BYTES_MAX`.
Rejected: msgpack's streaming unpacker straight on the socket. It saves the prefix, but then a message's size is
known only after its parts have been allocated, and after a bad byte there is no telling what was meant.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import FRAME_BYTES_MAX

CONTROL_MAGIC: Final = b"P2FC"
PREAMBLE_BYTES: Final = 6
VERSION_MIN: Final = 2
"""Version 1 had tokens of 128 bits, in a shorter preface of data streams. Nobody may be talked down to it."""

VERSION_MAX: Final = 2

PREFIX_BYTES: Final = 4
_LENGTH: Final = struct.Struct(">I")
_pack_length: Final = _LENGTH.pack
_unpack_length: Final = _LENGTH.unpack_from


class VersionRange(NamedTuple):
    """The versions of the protocol that a side speaks, both ends included; each 1 to 255."""

    lowest: int = VERSION_MIN
    highest: int = VERSION_MAX


OUR_VERSIONS: Final = VersionRange()


def negotiate(ours: VersionRange, theirs: VersionRange) -> int:
    """Return the highest version that both speak. Raises `RemoteProtocolError` where there is none."""
    version = min(ours.highest, theirs.highest)
    if version < max(ours.lowest, theirs.lowest):
        older = "remote" if theirs.highest < ours.lowest else "local"
        raise RemoteProtocolError(
            f"no protocol version in common: local speaks {ours.lowest} to {ours.highest}, "
            f"remote {theirs.lowest} to {theirs.highest}; upgrade the {older} node"
        )
    return version


def encode_preamble(versions: VersionRange) -> bytes:
    """Return the 6 bytes that open a control connection. Raises `LocalProtocolError` for an impossible range."""
    if not 1 <= versions.lowest <= versions.highest <= 255:
        raise LocalProtocolError(f"versions {versions.lowest} to {versions.highest} are not a range within 1 to 255")
    return CONTROL_MAGIC + bytes(versions)


def encode_frame(payload: bytes) -> bytes:
    """Return `payload` with its length in front. Raises `LocalProtocolError` where it is empty or too long."""
    if not 1 <= len(payload) <= FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a frame carries 1 to {FRAME_BYTES_MAX} bytes, not {len(payload)}")
    return _pack_length(len(payload)) + payload


class Deframer:
    """Cuts the bytes of one direction of a control connection. Useless after it has raised."""

    def __init__(self) -> None:
        self.versions: VersionRange | None = None
        """What the preamble said; None until all of it is here."""
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished preamble or frame; 0 where the stream may end cleanly."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes in; then call `poll_preamble` and, once it has answered, `poll_frames` until it returns none."""
        self._buffer += data

    def poll_preamble(self) -> VersionRange | None:
        """Return the remote's versions once they are here. Raises `RemoteProtocolError` at the first wrong byte."""
        if self.versions is not None:
            return self.versions
        magic = bytes(self._buffer[: len(CONTROL_MAGIC)])
        if not CONTROL_MAGIC.startswith(magic):
            raise RemoteProtocolError(f"not a p2pfill control connection: it begins with {magic!r}")
        if len(self._buffer) < PREAMBLE_BYTES:
            return None
        lowest, highest = self._buffer[4], self._buffer[5]
        if not 1 <= lowest <= highest:
            raise RemoteProtocolError(f"remote announces an impossible range of versions: {lowest} to {highest}")
        del self._buffer[:PREAMBLE_BYTES]
        self.versions = VersionRange(lowest, highest)
        return self.versions

    def poll_frames(self) -> list[bytes]:
        """Return the payloads of all complete frames; call it after the preamble has been taken.

        Raises `RemoteProtocolError` for a length of 0 or above `FRAME_BYTES_MAX`; the frames before it are
        then returned first, and the error comes with the next call.
        """
        frames: list[bytes] = []
        buffer, start = self._buffer, 0
        held = len(buffer)
        while held - start >= PREFIX_BYTES:
            (length,) = _unpack_length(buffer, start)
            if not 1 <= length <= FRAME_BYTES_MAX:
                if frames:
                    break
                raise RemoteProtocolError(f"frame of {length} bytes announced; 1 to {FRAME_BYTES_MAX} are allowed")
            end = start + PREFIX_BYTES + length
            if end > held:
                break
            frames.append(bytes(buffer[start + PREFIX_BYTES : end]))
            start = end
        # One cut for all frames: cutting each would copy the rest of the buffer once per frame.
        del buffer[:start]
        return frames
