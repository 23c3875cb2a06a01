"""Manifests as bytes: what was published keeps its id, hostile bytes are refused by name and without much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from blake3 import blake3

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.files import FileRecord, Files
from p2pfill.model.manifest import FORMAT, Manifest

SAMPLE = Path(__file__).parents[1] / "wire" / "sample.manifest"
SAMPLE_ID = "bc1a6350c5e2bbaf27cbda8aa386f47f259e859ca5089fc10e9fd1f790cb1706"

CHUNK = limits.CHUNK_SIZE_MIN
MANY = 3000
"""Files in more than one batch."""
GOOD = [[f"f{k:04}", 1, 0, False] for k in range(MANY)]


def packed(
    files: object = (("a", 1, 0, False), ("b/c", 2, 0, True)),
    name: object = "a title",
    size: object = CHUNK,
    digest: object = bytes(16),
    directories: object = (),
) -> bytes:
    """A manifest, good unless told otherwise."""
    return bytes(msgpack.packb([FORMAT, name, size, "blake3", files, directories, digest, bytes(32)]))


def around(files: bytes) -> bytes:
    """A manifest whose files are encoded by hand."""
    parts = [b"\x98", *(msgpack.packb(value) for value in (FORMAT, "a title", CHUNK, "blake3"))]
    return b"".join([*parts, files, b"\x90", msgpack.packb(bytes(16)), msgpack.packb(bytes(32))])


def test_a_published_title_keeps_its_bytes_and_its_id() -> None:
    data = SAMPLE.read_bytes()
    manifest = Manifest.decode(data)
    assert manifest.title_id.hex() == SAMPLE_ID == blake3(data).hexdigest()
    assert (len(manifest.files), manifest.chunk_count, manifest.integrity) == (2103, 77, "xxh3")
    built = Manifest(
        manifest.name,
        manifest.chunk_size,
        Files(list(manifest.files.records()), manifest.files.directories),
        manifest.xxh3,
        manifest.blake3,
        "xxh3",
    )
    assert built.encode() == data
    assert built.title_id == manifest.title_id


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (packed(size=float(CHUNK)), r"Expected `int`, got `float` - at `\$\.chunk_size`"),
        (packed(size=True), r"got `bool` - at `\$\.chunk_size`"),
        (packed(name=b"a title"), r"Expected `str`, got `bytes` - at `\$\.name`"),
        # Text that base64 could be read from is still no bytes.
        (packed(digest="YQ=="), r"Expected `bytes`, got `str` - at `\$\.xxh3`"),
        (packed(digest=list(bytes(16))), "16 exceeds max_array_len"),
        (packed([["a", 1, 0, False], ["b", 2.0, 0, False]]), r"file 1: Expected `int`, got `float` - at `\$\[1\]`"),
        (packed([*GOOD, ["g", "1", 0, False]]), "file 3000: Expected `int`, got `str`"),
        (packed([*GOOD, {}]), "file 3000: Expected `array`, got `object`"),
        (packed([{"a": 1}]), r"file 0: 1 exceeds max_map_len\(0\)"),
        (packed([["a", msgpack.Timestamp(1, 0)]]), "file 0: 5 exceeds max_ext_len"),
        (packed([["a", 1, 0, 1]]), r"file 0: Expected `bool`, got `int` - at `\$\[3\]`"),
        (packed(directories=["a"]), "a file and also a directory"),
        (packed(directories=["d", 1]), "empty directory 1: Expected `str`, got `int`"),
        (around(b"\x91\x92\xa1a\xc7\x00\x05"), "file 0: extension types are not known here"),
        (around(b"\x91\x92\xa1\xff\x01"), "file 0: 'utf-8' codec"),
        # A surrogate, encoded.
        (around(b"\x91\x92\xa3\xed\xa0\x80\x01"), "file 0: 'utf-8' codec"),
        (packed([["x" * 5000, 1, 0, False]]), "longer than 4096 bytes"),
        (packed([["x" * 20_000, 1]]), "file 0: 20000 exceeds max_str_len"),
        (packed([["a", 1, 2, False, 0]]), "file 0: 5 exceeds max_array_len"),
        (packed()[:-1], "end within a value"),
        (packed() + b"\xc0", "1 bytes follow it"),
        (b"\x96" + packed()[1:], "has 6 fields, not 8"),
        (msgpack.packb({"format": FORMAT}), "not a manifest"),
        (b"\xdd\xff\xff\xff\xff", "has 4294967295 fields, not 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(data: bytes, match: str) -> None:
    with pytest.raises(ManifestError, match=match):
        Manifest.decode(data)


@pytest.mark.parametrize(
    "files",
    [
        b"\xdc\x00\x01\x94\xa1a\x01\x00\xc2",
        b"\xdd\x00\x00\x00\x01\x94\xa1a\x01\x00\xc2",
        b"\x91\xdc\x00\x04\xa1a\x01\x00\xc2",
        b"\x91\x94\xd9\x01a\x01\x00\xc2",
        b"\x91\x94\xa1a\xcc\x01\x00\xc2",
        b"\x91\x94\xa1a\x01\xcc\x00\xc2",
        # Signed, where it is as short as unsigned.
        b"\x91\x94\xa1a\xd1\x01\x00\x00\xc2",
    ],
)
def test_wider_and_signed_forms_are_refused(files: bytes) -> None:
    assert Manifest.decode(around(b"\x91\x94\xa1a\xcd\x01\x00\x00\xc2")).size == 256
    with pytest.raises(ManifestError, match="not in canonical encoding"):
        Manifest.decode(around(files))


@pytest.mark.parametrize("header", [b"\x99", b"\xdc\x00\x08", b"\xdd\x00\x00\x00\x08"])
def test_only_one_way_to_begin(header: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(header + packed()[1:])


@pytest.mark.parametrize(
    "files",
    [
        # A million files announced, at every depth.
        b"\xdd\x00\x10\x00\x00" * 5000,
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x92\xdb\xff\xff\xff\xff",
        b"\x91\x92\xc6\xff\xff\xff\xff",
        b"\x91\x92\xc9\xff\xff\xff\xff\x05",
        b"\x91\x92\xdf\xff\xff\xff\xff",
    ],
)
def test_what_is_announced_takes_no_memory(files: bytes) -> None:
    data = around(files)
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError):
            Manifest.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * limits.MIB
    finally:
        tracemalloc.stop()


def test_records_never_exist_all_at_once() -> None:
    """Decoding takes what `Files` takes while it checks them, and next to nothing beside."""
    count = 100_000

    def records() -> Iterator[FileRecord]:
        return ((f"content/{k // 1000:03}/{k:06}.ts", CHUNK // 64, 1 << 30, False) for k in range(count))

    chunks = -(-Files(records()).total_bytes // CHUNK)
    data = Manifest("big", CHUNK, Files(records()), bytes(16 * chunks), bytes(32 * chunks)).encode()
    peaks = []
    for make in (lambda: Files(records()), lambda: Manifest.decode(data)):
        tracemalloc.start()
        make()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2 * limits.MIB
