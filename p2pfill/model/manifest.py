"""What a title is: its files, its chunk size and the digests of its chunks.

The files of a title, sorted by the UTF-8 bytes of their paths, are one stream, which `p2pfill.model.cut` cuts into
chunks. Small files share chunks, and a hundred thousand of them cost no more digests or requests than one large file.

The encoding is one msgpack array: [format, name, chunk_size, integrity, files, directories, xxh3, blake3], each value
in its shortest form; a file is [path, size, mtime, executable], and directories are those in which nothing lies. It is
canonical: a title has exactly one encoding, and its id is the BLAKE3 of that. Offsets are not encoded, since they
follow from the sizes. A `Manifest` that exists is valid: every way to one passes the checks of `__post_init__`, and
what comes from a remote can only ever raise `ManifestError`.

Times and modes are the title's, so that web servers over two caches give one ETag and Last-Modified: a viewer may go on
with another cache within a file. Leaving them to each cache was tried, and then they are those of its fill.

Files are read and written some at a time, so that a million of them exist as `Files` and never as a million pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgpack  # type: ignore[import-untyped]
import msgspec
from blake3 import blake3 as _blake3

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.cut import Cut
from p2pfill.model.files import FileRecord, Files
from p2pfill.model.ids import TitleId
from p2pfill.model.packing import AS_THEY_ARE, UNPACK_ERRORS, open_unpacker
from p2pfill.model.paths import check_component, show

Integrity = Literal["blake3", "xxh3"]
"""Which digest a cache checks before it announces a chunk. Both digests are always in the manifest."""

FORMAT: Final = "p2pfill-manifest-2"
_FORMAT_BEFORE: Final = "p2pfill-manifest-1"
_FIELDS_BEFORE: Final = 7
XXH3_BYTES: Final = 16
BLAKE3_BYTES: Final = 32

CHUNKS_AIM: Final = 1024
"""Enough chunks that striping over a fleet is even, few enough that their messages cost nothing."""
DEFAULT_CHUNK_SIZE_MIN: Final = 256 * limits.KIB
DEFAULT_CHUNK_SIZE_MAX: Final = 4 * limits.MIB


class Segment(NamedTuple):
    """A run of a chunk's bytes that lie in one file; `offset` counts from the start of that file."""

    file_index: int
    offset: int
    length: int


class _Head(msgspec.Struct, frozen=True):
    """What stands before the files."""

    format: str
    name: str
    chunk_size: int
    integrity: Integrity


class _Digests(msgspec.Struct, frozen=True):
    """What stands after them."""

    xxh3: bytes
    blake3: bytes


_FIELDS: Final = len(_Head.__struct_fields__) + 2 + len(_Digests.__struct_fields__)

_RECORD: Final = 4
"""Of a file: the longest array that is unpacked as a whole."""

_TEXT_BYTES_MAX: Final = 4 * limits.PATH_BYTES_MAX
"""Longer texts are refused unread. Above what is allowed, so that a path that is somewhat too long is named."""

_FILES_AT_ONCE: Final = 1024
"""Files, or directories, that are read or written together: enough that a call for each batch costs nothing, and 100
KiB of memory."""

_RecordT = TypeVar("_RecordT", _Head, _Digests)


def default_chunk_size(size: int) -> int:
    """Return the chunk size in bytes, a power of two, for a title of `size` bytes.

    Aims at about `CHUNKS_AIM` chunks between 256 KiB and 4 MiB; beyond that it grows only as the limit on the number
    of chunks demands. Raises `ManifestError` where no allowed chunk size is large enough.
    """
    if not 0 <= size <= limits.TITLE_BYTES_MAX:
        raise ManifestError(f"a title of {size} bytes is not possible; at most {limits.TITLE_BYTES_MAX} are allowed")
    chunk_size = DEFAULT_CHUNK_SIZE_MIN
    while chunk_size < DEFAULT_CHUNK_SIZE_MAX and size > chunk_size * CHUNKS_AIM:
        chunk_size *= 2
    while size > chunk_size * limits.CHUNK_COUNT_MAX:
        chunk_size *= 2
    return chunk_size


def check_chunk_size(size: int) -> None:
    """Raise `ManifestError` where chunks cannot be of `size` bytes."""
    if size & (size - 1) or not limits.CHUNK_SIZE_MIN <= size <= limits.CHUNK_SIZE_MAX:
        raise ManifestError(
            f"chunk size {size} is not a power of two from {limits.CHUNK_SIZE_MIN} to {limits.CHUNK_SIZE_MAX}"
        )


def layout(files: Iterable[tuple[str, int]]) -> Files:
    """Return (path, size) pairs, which may come in any order, as the files of a title that were last changed in 1970.

    Raises `ManifestError`.
    """
    return Files((path, size, 0, False) for path, size in sorted(files))


@dataclass(frozen=True)
class Manifest:
    """A title, complete and checked. `xxh3` is 16 bytes a chunk (big endian), `blake3` 32 bytes a chunk.

    Raises `ManifestError` where anything about it breaks a limit or a rule; see `p2pfill.model.paths` for paths.
    """

    name: str
    chunk_size: int
    files: Files
    xxh3: bytes
    blake3: bytes
    integrity: Integrity = "blake3"

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.integrity not in ("blake3", "xxh3"):
            raise ManifestError(f"integrity must be 'blake3' or 'xxh3', not {self.integrity!r}")
        check_chunk_size(self.chunk_size)
        count = self.chunk_count
        if count > limits.CHUNK_COUNT_MAX:
            raise ManifestError(
                f"{self.size} bytes in chunks of {self.chunk_size} make {count}; at most {limits.CHUNK_COUNT_MAX} are "
                "allowed"
            )
        for kind, digests, length in (("XXH3", self.xxh3, XXH3_BYTES), ("BLAKE3", self.blake3, BLAKE3_BYTES)):
            if len(digests) != count * length:
                raise ManifestError(f"{kind} digests: {len(digests)} bytes where {count} chunks need {count * length}")

    @cached_property
    def size(self) -> int:
        """The length of the title stream in bytes."""
        return self.files.total_bytes

    @cached_property
    def cut(self) -> Cut:
        """Where the chunks lie in the title stream."""
        return Cut(self.files, self.chunk_size)

    @property
    def chunk_count(self) -> int:
        """The number of chunks; 0 where all files are empty."""
        return self.cut.count

    @cached_property
    def title_id(self) -> TitleId:
        """The BLAKE3 digest of the canonical encoding."""
        return TitleId(_blake3(self.encode()).digest())

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        packer = msgpack.Packer()
        head = _Head(FORMAT, self.name, self.chunk_size, self.integrity)
        parts = [_pack_head(head, len(self.files))]
        records = self.files.records()
        while batch := list(islice(records, _FILES_AT_ONCE)):
            parts.append(_pack_batch(packer, batch))
        directories = self.files.directories
        parts.append(packer.pack_array_header(len(directories)))
        for first in range(0, len(directories), _FILES_AT_ONCE):
            parts.append(_pack_batch(packer, directories[first : first + _FILES_AT_ONCE]))
        return b"".join([*parts, _bin_header(self.xxh3), self.xxh3, _bin_header(self.blake3), self.blake3])

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest that `data` encodes. Raises `ManifestError` for anything but a canonical, safe one."""
        if len(data) > limits.MANIFEST_BYTES_MAX:
            raise ManifestError(
                f"a manifest of {len(data)} bytes is too large; at most {limits.MANIFEST_BYTES_MAX} are allowed"
            )
        try:
            manifest = _read(data)
        except msgpack.OutOfData as error:
            raise ManifestError(f"not a manifest: {len(data)} bytes end within a value") from error
        except UNPACK_ERRORS as error:
            raise ManifestError(f"not a manifest: {error or type(error).__name__}") from error
        # Known now, and it would cost another encoding.
        manifest.__dict__["title_id"] = TitleId(_blake3(data).digest())
        return manifest

    def chunk_length(self, chunk: int) -> int:
        """Return the length of a chunk in bytes, at most `chunk_size`."""
        return self.cut.length(chunk)

    def chunk_xxh3(self, chunk: int) -> bytes:
        """Return the XXH3-128 of a chunk, 16 bytes."""
        self._check_chunk(chunk)
        return self.xxh3[chunk * XXH3_BYTES : (chunk + 1) * XXH3_BYTES]

    def chunk_blake3(self, chunk: int) -> bytes:
        """Return the BLAKE3 of a chunk, 32 bytes."""
        self._check_chunk(chunk)
        return self.blake3[chunk * BLAKE3_BYTES : (chunk + 1) * BLAKE3_BYTES]

    def segments(self, chunk: int, start: int = 0) -> Iterator[Segment]:
        """Yield where the bytes of a chunk lie, from byte `start` of the chunk on, in order; none is empty.

        Raises `IndexError` for a chunk that the title does not have and for a `start` outside of it.
        """
        first, stop = self.cut.span(chunk)
        if not 0 <= start <= stop - first:
            raise IndexError(f"byte {start} is outside of chunk {chunk} of {stop - first} bytes")
        return self._segments(first + start, stop)

    def _segments(self, position: int, end: int) -> Iterator[Segment]:
        index = self.files.find(position)
        while position < end:
            file_start, file_end = self.files.span(index)
            length = min(file_end, end) - position
            if length > 0:
                yield Segment(index, position - file_start, length)
                position += length
            index += 1

    def _check_chunk(self, chunk: int) -> None:
        if not 0 <= chunk < self.cut.count:
            raise IndexError(f"chunk {chunk} is outside of a title of {self.chunk_count} chunks")


def _read(data: bytes) -> Manifest:
    """Return what `data` encodes. Raises `ManifestError` and `UNPACK_ERRORS`, to which msgspec's errors belong."""
    unpacker = open_unpacker(
        data,
        str_bytes_max=_TEXT_BYTES_MAX,
        bin_bytes_max=limits.CHUNK_COUNT_MAX * BLAKE3_BYTES,
        array_len_max=_RECORD,
    )
    fields = unpacker.read_array_header()
    if fields != _FIELDS:
        if fields == _FIELDS_BEFORE and unpacker.unpack() == _FORMAT_BEFORE:
            raise ManifestError("this manifest was written by an older release; publish the title again with this one")
        raise ManifestError(f"not a manifest: it has {fields} fields, not {_FIELDS}")
    head = _read_record(unpacker, _Head)
    if head.format != FORMAT:
        raise ManifestError(f"manifest format {show(head.format)} is unknown; this release reads {FORMAT!r}")
    count = unpacker.read_array_header()
    _check_canonical(_pack_head(head, count), data, 0)
    files = Files(
        _read_items(unpacker, data, count, FileRecord, "file"), _read_directories(unpacker, data)
    )
    start = unpacker.tell()
    digests = _read_record(unpacker, _Digests)
    end = unpacker.tell()
    # The lengths tell it all, since each wider header is longer.
    if end - start != sum(len(_bin_header(value)) + len(value) for value in (digests.xxh3, digests.blake3)):
        raise ManifestError(f"manifest of {show(head.name)} is not in canonical encoding")
    if end != len(data):
        raise ManifestError(f"not a manifest: {len(data) - end} bytes follow it")
    return Manifest(head.name, head.chunk_size, files, digests.xxh3, digests.blake3, head.integrity)


def _read_record(unpacker: Any, kind: type[_RecordT]) -> _RecordT:
    # By name, so that an error says which field it means.
    values = {name: unpacker.unpack() for name in kind.__struct_fields__}
    return msgspec.convert(values, kind, builtin_types=AS_THEY_ARE)


def _read_directories(unpacker: Any, data: bytes) -> Iterator[str]:
    """Yield the empty directories, which follow the files. A generator, so that the files are read first."""
    start = unpacker.tell()
    count = unpacker.read_array_header()
    _check_canonical(msgpack.Packer().pack_array_header(count), data, start)
    yield from _read_items(unpacker, data, count, str, "empty directory")


def _read_items(unpacker: Any, data: bytes, count: int, kind: Any, noun: str) -> Iterator[Any]:
    """Yield `count` items of one kind, types and encoding checked; `noun` says in an error what they are."""
    packer = msgpack.Packer()
    for first in range(0, count, _FILES_AT_ONCE):
        start = unpacker.tell()
        items = _read_batch(unpacker, first, min(_FILES_AT_ONCE, count - first), kind, noun)
        _check_canonical(_pack_batch(packer, items), data, start)
        yield from items


def _read_batch(unpacker: Any, first: int, count: int, kind: Any, noun: str) -> list[Any]:
    """Return `count` items, the first of which has the index `first`."""
    raw: list[Any] = []
    try:
        for _ in range(count):
            raw.append(unpacker.unpack())
    except msgpack.OutOfData:
        raise
    except UNPACK_ERRORS as error:
        raise ManifestError(f"not a manifest: {noun} {first + len(raw)}: {error or type(error).__name__}") from error
    try:
        return msgspec.convert(raw, list[kind], builtin_types=AS_THEY_ARE)
    except msgspec.ValidationError:
        # Once more, one by one, to say which it is.
        return [_convert_item(value, index, kind, noun) for index, value in enumerate(raw, first)]


def _convert_item(value: Any, index: int, kind: Any, noun: str) -> Any:
    try:
        return msgspec.convert(value, kind, builtin_types=AS_THEY_ARE)
    except msgspec.ValidationError as error:
        raise ManifestError(f"not a manifest: {noun} {index}: {error}") from error


def _pack_head(head: _Head, file_count: int) -> bytes:
    packer = msgpack.Packer()
    values = [packer.pack(value) for value in msgspec.structs.astuple(head)]
    return b"".join([packer.pack_array_header(_FIELDS), *values, packer.pack_array_header(file_count)])


def _pack_batch(packer: Any, items: Sequence[FileRecord] | Sequence[str]) -> bytes:
    """Return items one after the other, at most `_FILES_AT_ONCE` of them."""
    # As one array, without its header: with a call for each a manifest takes a tenth more time.
    packed: bytes = packer.pack(items)
    return packed[1 if len(items) < 16 else 3 :]


def _check_canonical(packed: bytes, data: bytes, start: int) -> None:
    """Check that `packed` is what stands at `start`. Raises `ManifestError`."""
    if data[start : start + len(packed)] != packed:
        raise ManifestError(f"not in canonical encoding: a manifest's bytes {start} to {start + len(packed)}")


def _bin_header(value: bytes) -> bytes:
    """Return what msgpack puts before `value`. By hand, since a packer would copy 64 MiB of digests twice."""
    size = len(value)
    if size < 1 << 8:
        return bytes((0xC4, size))
    return b"\xc5" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xc6" + size.to_bytes(4, "big")


def _check_name(name: str) -> None:
    """A title's name becomes a directory entry below `live/`, so it is held to the rules of one component."""
    if len(name) > limits.TITLE_NAME_CHARS_MAX:
        raise ManifestError(f"name {show(name)} is longer than {limits.TITLE_NAME_CHARS_MAX} characters")
    try:
        check_component(name, name)
    except ManifestError as error:
        raise ManifestError(f"the title's name cannot be used: {error}") from error
