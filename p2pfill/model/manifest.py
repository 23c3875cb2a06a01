"""What a title is: its files, its chunk size and the digests of its chunks.

The files of a title, sorted by the UTF-8 bytes of their paths, are one stream; chunk k is the bytes
[k * chunk_size, (k + 1) * chunk_size) of it. Small files so share chunks, and a hundred thousand of them cost no
more digests or requests than one large file. Chunks per file were rejected for that reason.

The encoding is one msgpack array: [format, name, chunk_size, integrity, [[path, size], ...], xxh3, blake3], each
value in its shortest form. It is canonical: a title has exactly one encoding, and its id is the BLAKE3 of that.
Offsets are not encoded, since they follow from the sizes. A `Manifest` that exists is valid: every way to one
passes the checks of `__post_init__`, and what comes from a remote can only ever raise `ManifestError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

import msgspec
from blake3 import blake3 as _blake3

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.files import Files
from p2pfill.model.ids import TitleId
from p2pfill.model.paths import check_component, show

Integrity = Literal["blake3", "xxh3"]
"""Which digest a cache checks before it announces a chunk. Both digests are always in the manifest."""

FORMAT: Final = "p2pfill-manifest-1"
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


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest as encoded. Wrong types are refused by msgspec before any of our code sees them."""

    format: str
    name: str
    chunk_size: int
    integrity: Integrity
    files: list[tuple[str, int]]
    xxh3: bytes
    blake3: bytes


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)


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


def layout(files: Iterable[tuple[str, int]]) -> Files:
    """Return (path, size) pairs, which may come in any order, as the files of a title. Raises `ManifestError`."""
    return Files(sorted(files))


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
        size = self.chunk_size
        if size & (size - 1) or not limits.CHUNK_SIZE_MIN <= size <= limits.CHUNK_SIZE_MAX:
            raise ManifestError(
                f"chunk size {size} is not a power of two from {limits.CHUNK_SIZE_MIN} to {limits.CHUNK_SIZE_MAX}"
            )
        count = self.chunk_count
        if count > limits.CHUNK_COUNT_MAX:
            raise ManifestError(
                f"{self.size} bytes in chunks of {size} make {count}; at most {limits.CHUNK_COUNT_MAX} are allowed"
            )
        for kind, digests, length in (("XXH3", self.xxh3, XXH3_BYTES), ("BLAKE3", self.blake3, BLAKE3_BYTES)):
            if len(digests) != count * length:
                raise ManifestError(f"{kind} digests: {len(digests)} bytes where {count} chunks need {count * length}")

    @cached_property
    def size(self) -> int:
        """The length of the title stream in bytes."""
        return self.files.total_bytes

    @cached_property
    def chunk_count(self) -> int:
        """The number of chunks; 0 where all files are empty."""
        return -(-self.size // self.chunk_size)

    @cached_property
    def title_id(self) -> TitleId:
        """The BLAKE3 digest of the canonical encoding."""
        return TitleId(_blake3(self.encode()).digest())

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        files = list(self.files.pairs())
        wire = _Wire(FORMAT, self.name, self.chunk_size, self.integrity, files, self.xxh3, self.blake3)
        return _ENCODER.encode(wire)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest that `data` encodes. Raises `ManifestError` for anything but a canonical, safe one."""
        if len(data) > limits.MANIFEST_BYTES_MAX:
            raise ManifestError(
                f"a manifest of {len(data)} bytes is too large; at most {limits.MANIFEST_BYTES_MAX} are allowed"
            )
        try:
            wire = _DECODER.decode(data)
        # Text that is no UTF-8 surfaces as UnicodeDecodeError, hostile nesting as RecursionError.
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ManifestError(f"not a manifest: {error}") from error
        if wire.format != FORMAT:
            raise ManifestError(f"manifest format {show(wire.format)} is unknown; this release reads {FORMAT!r}")
        manifest = cls(wire.name, wire.chunk_size, Files(wire.files), wire.xxh3, wire.blake3, wire.integrity)
        if _ENCODER.encode(wire) != data:
            raise ManifestError(f"manifest of {show(wire.name)} is not in canonical encoding")
        # Known now, and it would cost another encoding.
        manifest.__dict__["title_id"] = TitleId(_blake3(data).digest())
        return manifest

    def chunk_length(self, chunk: int) -> int:
        """Return the length of a chunk in bytes; only the last may be shorter than `chunk_size`."""
        self._check_chunk(chunk)
        return min(self.chunk_size, self.size - chunk * self.chunk_size)

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
        length = self.chunk_length(chunk)
        if not 0 <= start <= length:
            raise IndexError(f"byte {start} is outside of chunk {chunk} of {length} bytes")
        return self._segments(chunk * self.chunk_size + start, chunk * self.chunk_size + length)

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
        if not 0 <= chunk < self.chunk_count:
            raise IndexError(f"chunk {chunk} is outside of a title of {self.chunk_count} chunks")


def _check_name(name: str) -> None:
    """A title's name becomes a directory entry below `live/`, so it is held to the rules of one component."""
    if len(name) > limits.TITLE_NAME_CHARS_MAX:
        raise ManifestError(f"name {show(name)} is longer than {limits.TITLE_NAME_CHARS_MAX} characters")
    try:
        check_component(name, name)
    except ManifestError as error:
        raise ManifestError(f"the title's name cannot be used: {error}") from error
