"""Which chunks of a fill are durable.

A header (magic, title id), then records, each a msgpack array of two: the chunk indexes as an array, and XXH3-64 over
the title id, the record's position in the file and the bytes of that inner array. A record is appended only after its
chunks' bytes are durable, and is durable itself before anybody relies on it. The journal ends at the first record that
is torn or is not what `Journal.append` writes: what follows was never acknowledged, so cutting it loses nothing but
work. Rewriting a bitmap in place was rejected: a torn write could then claim chunks that are not there.

A journal of the first format, whose records are fixed-width numbers, is read once and replaced by one of this format.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import msgspec
import xxhash

from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.packing import UNPACK_ERRORS, open_unpacker
from p2pfill.store.disk import FILE_FLAGS, replace_file, write_all

MAGIC: Final = b"p2pfjrn2"
MAGIC_FIRST: Final = b"p2pfjrn1"
_HEADER_BYTES: Final = len(MAGIC) + 32
_FIELDS: Final = 2
"""Of a record: the chunks and the checksum."""
_CHECK_BYTES: Final = 8
JOURNAL: Final = "journal"
DAMAGED: Final = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN, errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""What opening or reading a file answers that cannot be read any more, or is none."""

def _check(title_id: TitleId, position: int, body: bytes) -> bytes:
    return xxhash.xxh3_64(title_id + position.to_bytes(8, "little") + body).digest()


def _record(title_id: TitleId, position: int, chunks: Sequence[int]) -> bytes:
    packer = msgpack.Packer()
    body: bytes = packer.pack(list(chunks))
    head: bytes = packer.pack_array_header(_FIELDS)
    check: bytes = packer.pack(_check(title_id, position, body))
    return head + body + check


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
    def open(
        cls, directory_fd: int, title_id: TitleId, chunk_count: int, on_cut: Callable[[], object] = lambda: None
    ) -> tuple[Journal, Bitmap]:
        """Open a journal, cut its torn tail and return it with the durable chunks.

        One of the first format is replaced, durably. `on_cut` is called before something is cut, which may be rot and
        not the end of a crash.

        Raises `OSError`, and `StoreError` where the header is not this title's.
        """
        fd = os.open(JOURNAL, os.O_RDWR | FILE_FLAGS, dir_fd=directory_fd)
        try:
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read() or b""  # of a fifo None
            magic = data[: len(MAGIC)]
            if magic not in _READERS or data[len(MAGIC) : _HEADER_BYTES] != title_id:
                raise StoreError(
                    f"the journal of title {title_id.hex()} is not its own, or damaged"
                )
            have = Bitmap(chunk_count)
            end = _HEADER_BYTES
            for end, chunks in _READERS[magic](data, title_id, chunk_count):  # noqa: B007  the last one counts
                for chunk in chunks:
                    have.add(chunk)
            if magic == MAGIC and end != len(data):
                on_cut()
                os.ftruncate(fd, end)
                os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        if magic == MAGIC:
            return cls(fd, title_id, end), have
        os.close(fd)
        return cls.create(directory_fd, title_id, list(have.indexes())), have

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


Records = Iterator[tuple[int, Sequence[int]]]
"""Where each record ends, and its chunks; up to the first that is torn or wrong."""


def _read(data: bytes, title_id: TitleId, chunk_count: int) -> Records:
    records = data[_HEADER_BYTES:]
    unpacker = open_unpacker(records, str_bytes_max=0, bin_bytes_max=_CHECK_BYTES, array_len_max=0)
    end = _HEADER_BYTES
    while end < len(data):
        try:
            chunks = _read_record(unpacker, chunk_count)
        except UNPACK_ERRORS:
            return
        start, end = end, _HEADER_BYTES + unpacker.tell()
        # Written again it is the same to the last bit, checksum and widths and all, or it is not ours.
        if data[start:end] != _record(title_id, start, chunks):
            return
        yield end, chunks


def _read_record(unpacker: Any, chunk_count: int) -> list[int]:
    """Return the chunks of a record, whose checksum is yet to be compared. Raises `UNPACK_ERRORS`."""
    if unpacker.read_array_header() != _FIELDS:
        raise ValueError("not a record")
    # Read as a header, since a broken one may announce any number.
    count = unpacker.read_array_header()
    if not 1 <= count <= chunk_count:
        raise ValueError(f"a record of {count} chunks")
    chunks = msgspec.convert([unpacker.unpack() for _ in range(count)], list[int])
    if min(chunks) < 0 or max(chunks) >= chunk_count:
        raise ValueError("a chunk that the title does not have")
    unpacker.unpack()
    return chunks


def _read_first(data: bytes, title_id: TitleId, chunk_count: int) -> Records:
    """Read the first format: count (u32), as many chunks (u32 each), checksum; all little endian."""
    start = _HEADER_BYTES
    while start + 4 <= len(data):
        (count,) = struct.unpack_from("<I", data, start)
        body_end = start + 4 + 4 * count
        end = body_end + _CHECK_BYTES
        if count == 0 or end > len(data) or data[body_end:end] != _check(title_id, start, data[start:body_end]):
            return
        chunks = struct.unpack_from(f"<{count}I", data, start + 4)
        if max(chunks) >= chunk_count:
            return
        yield end, chunks
        start = end


_READERS: Final = {MAGIC: _read, MAGIC_FIRST: _read_first}
