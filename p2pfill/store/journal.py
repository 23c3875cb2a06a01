"""Which chunks of a fill are durable.

A header (magic, title id), then records: count (u32), `count` chunk indexes (u32 each), XXH3-64 over the title id,
the record's position and its body. All little endian. A record is appended only after its chunks' bytes are
durable, and is durable itself before anybody relies on it. The journal ends at the first record that is torn or
wrong: what follows was never acknowledged, so cutting it loses nothing but work. Rewriting a bitmap in place was
rejected: a torn write could then claim chunks that are not there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final

import xxhash

from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.store.disk import FILE_FLAGS, replace_file, write_all

MAGIC: Final = b"p2pfjrn1"
_HEADER_BYTES: Final = len(MAGIC) + 32
_CHECK_BYTES: Final = 8
JOURNAL: Final = "journal"


def _check(title_id: TitleId, position: int, body: bytes) -> bytes:
    return xxhash.xxh3_64(title_id + position.to_bytes(8, "little") + body).digest()


def _record(title_id: TitleId, position: int, chunks: Sequence[int]) -> bytes:
    body = struct.pack(f"<I{len(chunks)}I", len(chunks), *chunks)
    return body + _check(title_id, position, body)


class Journal:
    """The open journal of one fill. Not thread-safe; `StoredTitle` holds its lock around it."""

    def __init__(self, fd: int, title_id: TitleId, end: int) -> None:
        self._fd = fd
        self._title_id = title_id
        self._end = end

    @classmethod
    def create(cls, directory_fd: int, title_id: TitleId, chunks: Sequence[int] = ()) -> Journal:
        """Make a journal that holds `chunks`, replacing any other, durably. Raises `OSError`."""
        data = MAGIC + title_id
        if chunks:
            data += _record(title_id, len(data), chunks)
        replace_file(directory_fd, JOURNAL, data)
        fd = os.open(JOURNAL, os.O_RDWR | FILE_FLAGS, dir_fd=directory_fd)
        return cls(fd, title_id, len(data))

    @classmethod
    def open(cls, directory_fd: int, title_id: TitleId, chunk_count: int) -> tuple[Journal, Bitmap]:
        """Open a journal, cut its torn tail and return it with the durable chunks.

        Raises `OSError`, and `StoreError` where the header is not this title's.
        """
        fd = os.open(JOURNAL, os.O_RDWR | FILE_FLAGS, dir_fd=directory_fd)
        try:
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read()
            if data[:_HEADER_BYTES] != MAGIC + title_id:
                raise StoreError(
                    f"the journal of title {title_id.hex()} is not its own; remove the title and fill again"
                )
            have = Bitmap(chunk_count)
            end = _replay(data, title_id, have)
            if end != len(data):
                os.ftruncate(fd, end)
                os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, title_id, end), have

    def append(self, chunks: Sequence[int]) -> None:
        """Add a record and make it durable. Raises `OSError`; the journal then is as it was before."""
        record = _record(self._title_id, self._end, chunks)
        try:
            write_all(self._fd, record, self._end)
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(record)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def _replay(data: bytes, title_id: TitleId, have: Bitmap) -> int:
    """Add the chunks of all whole records to `have` and return where they end."""
    position = _HEADER_BYTES
    while position + 4 <= len(data):
        (count,) = struct.unpack_from("<I", data, position)
        body_end = position + 4 + 4 * count
        if count == 0 or body_end + _CHECK_BYTES > len(data):
            break
        body = data[position:body_end]
        if data[body_end : body_end + _CHECK_BYTES] != _check(title_id, position, body):
            break
        chunks = struct.unpack_from(f"<{count}I", data, position + 4)
        if max(chunks) >= len(have):
            break
        for chunk in chunks:
            have.add(chunk)
        position = body_end + _CHECK_BYTES
    return position
