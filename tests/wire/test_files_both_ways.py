"""p2pfill and the independent implementation read each other's manifests and journals."""

from __future__ import annotations

import ast
import os
import struct
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import xxhash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire import independent
from wire.independent import Invalid

from p2pfill.errors import ManifestError, StoreError
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.cut import Cut
from p2pfill.model.files import Files
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Integrity, Manifest
from p2pfill.store.disk import DIRECTORY_FLAGS
from p2pfill.store.journal import JOURNAL, Journal

SAMPLE = Path(__file__).parent / "sample.manifest"
TITLE = TitleId(bytes(range(32)))
CHUNKS = 70_000
"""Indexes of all three widths."""


def test_the_independent_one_is_independent() -> None:
    tree = ast.parse(Path(independent.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {
        "__future__", "math", "re", "struct", "collections.abc", "typing", "msgpack", "xxhash", "blake3",
    }  # fmt: skip


# ---- manifests

sizes = st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32]) | st.integers(0, 1 << 33)
times = st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1]) | st.integers(0, (1 << 32) - 1)
# A name of ASCII letters and digits cannot collide with another, so what is drawn is a valid title.
paths = st.builds(lambda k, pad: f"d{k % 7}/{'ä' * (k % 3)}{k}" + "n" * pad, st.integers(0, 99), st.integers(0, 40))


@st.composite
def titles(draw: st.DrawFn) -> Manifest:
    drawn = draw(st.dictionaries(paths, st.tuples(sizes, times, st.booleans()), min_size=1, max_size=40))
    empty = draw(st.sets(st.builds(lambda k: f"empty/ö{k}", st.integers(0, 99)), max_size=20))
    files = Files(((path, *drawn[path]) for path in sorted(drawn)), sorted(empty))
    chunk_size = draw(st.sampled_from(independent.CHUNK_BYTES[4:]))
    count = Cut(files, chunk_size).count
    integrity: Integrity = draw(st.sampled_from(["blake3", "xxh3"]))
    name = draw(st.sampled_from(["film", "ä" * 100, "n" * 31, "n" * 32, "n" * 200]))
    digests = draw(st.integers(0, 255))
    return Manifest(
        name, chunk_size, files, bytes(k * digests % 256 for k in range(16 * count)), bytes(32 * count),
        integrity,
    )  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(titles())
def test_manifests_both_ways(manifest: Manifest) -> None:
    data = manifest.encode()
    title = independent.decode_manifest(data)
    assert title.id == manifest.title_id
    assert (title.name, title.chunk_size, title.integrity) == (manifest.name, manifest.chunk_size, manifest.integrity)
    assert title.files == list(manifest.files)
    assert title.directories == list(manifest.files.directories)
    chunks = range(manifest.chunk_count)
    assert title.lengths == [manifest.chunk_length(chunk) for chunk in chunks]
    assert title.xxh3 == [manifest.chunk_xxh3(chunk) for chunk in chunks]
    assert title.blake3 == [manifest.chunk_blake3(chunk) for chunk in chunks]
    files, directories = list(manifest.files.records()), list(manifest.files.directories)
    theirs = independent.encode_manifest(
        manifest.name, manifest.chunk_size, manifest.integrity, files[::-1], directories[::-1], manifest.xxh3,
        manifest.blake3,
    )  # fmt: skip
    assert theirs == data
    again = Manifest.decode(theirs)
    assert (again, again.title_id) == (manifest, manifest.title_id)


def test_the_sample() -> None:
    data = SAMPLE.read_bytes()
    title, manifest = independent.decode_manifest(data), Manifest.decode(data)
    assert title.id == manifest.title_id
    assert title.files == list(manifest.files)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(titles(), st.data())
def test_a_manifest_with_bytes_changed(manifest: Manifest, data: st.DataObject) -> None:
    """p2pfill may refuse more, since it looks at paths and names; what it takes, the other takes too, as the same."""
    raw = bytearray(manifest.encode())
    for _ in range(data.draw(st.integers(1, 2))):
        raw[data.draw(st.integers(0, min(len(raw), 300) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = Manifest.decode(bytes(raw))
    except ManifestError as error:
        if "path" not in str(error) and "name" not in str(error):
            with pytest.raises(Invalid):
                independent.decode_manifest(bytes(raw))
        return
    title = independent.decode_manifest(bytes(raw))
    assert (title.id, title.name, title.files) == (ours.title_id, ours.name, list(ours.files))


@pytest.mark.parametrize("size", [1 << 62, limits.TITLE_BYTES_MAX, limits.TITLE_BYTES_MAX + 1])
def test_a_size_that_no_digests_go_with(size: int) -> None:
    fields = ["p2pfill-manifest-2", "film", limits.CHUNK_SIZE_MIN, "xxh3", [("a", size, 0, False)], [], b"", b""]
    data = msgpack.packb(fields)
    with pytest.raises(Invalid):
        independent.decode_manifest(data)
    with pytest.raises(ManifestError):
        Manifest.decode(data)


texts = st.text(max_size=5) | st.binary(max_size=5)
values = st.none() | st.booleans() | st.floats() | st.integers(-5, 1 << 40) | texts


@settings(deadline=None)
@given(
    st.integers(0, 7),
    values
    | st.lists(values)
    | st.lists(st.text("ab/", max_size=5))
    | st.lists(st.tuples(st.text("ab/", max_size=5), values, values, values)),
)
@example(6, "YQ==")
@example(4, [("a", 1.0, 0, False)])
@example(4, [("a", 1, 0, 0)])
@example(5, ["b", "b"])
def test_a_field_of_a_manifest_of_another_kind(place: int, value: Any) -> None:
    fields: list[Any] = [
        "p2pfill-manifest-2", "film", limits.CHUNK_SIZE_MIN, "xxh3", [("a", 1, 0, False)], ["c"], bytes(16), bytes(32)
    ]  # fmt: skip
    fields[place] = value
    data = msgpack.packb(fields)
    try:
        Manifest.decode(data)
    except ManifestError as error:
        if "path" not in str(error) and "name" not in str(error):
            with pytest.raises(Invalid):
                independent.decode_manifest(data)
    else:
        independent.decode_manifest(data)


# ---- journals

records = st.lists(st.lists(st.integers(0, CHUNKS - 1), min_size=1, max_size=40, unique=True), max_size=8)


def written(directory: Path, parts: list[list[int]]) -> bytes:
    """What p2pfill writes for these commits."""
    fd = os.open(directory, DIRECTORY_FLAGS)
    try:
        journal = Journal.create(fd, TITLE)
        for part in parts:
            journal.append(part)
        journal.close()
    finally:
        os.close(fd)
    return (directory / JOURNAL).read_bytes()


def opened(directory: Path, data: bytes) -> tuple[list[int], bytes]:
    """What p2pfill finds in a journal, and what the file is afterwards."""
    (directory / JOURNAL).write_bytes(data)
    fd = os.open(directory, DIRECTORY_FLAGS)
    try:
        journal, have = Journal.open(fd, TITLE, CHUNKS)
        journal.close()
    finally:
        os.close(fd)
    return list(have.indexes()), (directory / JOURNAL).read_bytes()


def chunks_of(parts: list[list[int]]) -> list[int]:
    return sorted({chunk for part in parts for chunk in part})


fast = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(parts=records)
def test_journals_both_ways(tmp_path: Path, parts: list[list[int]]) -> None:
    data = written(tmp_path, parts)
    assert data == independent.encode_journal(TITLE, parts)
    assert independent.decode_journal(data, TITLE, CHUNKS) == parts
    assert opened(tmp_path, data) == (chunks_of(parts), data)


@fast
@given(parts=records, data=st.data())
def test_a_damaged_journal(tmp_path: Path, parts: list[list[int]], data: st.DataObject) -> None:
    """Cut, changed, or followed by anything: both believe the same records, and the rest is cut off."""
    raw = bytearray(independent.encode_journal(TITLE, parts))
    match data.draw(st.sampled_from(["cut", "change", "more"])):
        case "cut":
            del raw[data.draw(st.integers(40, len(raw))) :]
        case "change" if len(raw) > 40:
            place = data.draw(st.integers(40, len(raw) - 1))
            raw[place] ^= data.draw(st.integers(1, 255))
        case _:
            raw += data.draw(st.binary(max_size=30))
    left = independent.decode_journal(bytes(raw), TITLE, CHUNKS)
    assert left == parts[: len(left)]
    assert opened(tmp_path, bytes(raw)) == (chunks_of(left), independent.encode_journal(TITLE, left))


@pytest.mark.parametrize(
    "tail",
    [
        b"\x92" + b"\x91" * 3000,
        b"\x92\xdd\xff\xff\xff\xff",
        b"\x92\xdd\x00\x01\x00\x00" * 500,
        b"\x92\xdf\xff\xff\xff\xff",
        b"\x82\x01\x01\x01\x02",
        b"\x92\x91\xff\xc4\x08" + bytes(8),
        b"\x92\x91\xcb" + struct.pack(">d", 1.0) + b"\xc4\x08" + bytes(8),
        b"\x92\x91\xa1\xff\xc4\x08" + bytes(8),
        b"\x92\x91\xc7\x00\x05\xc4\x08" + bytes(8),
        b"\x92\x91\xd6\xff\x00\x00\x00\x01\xc4\x08" + bytes(8),
        b"\x92\x90\xc4\x08" + bytes(8),
        b"\xc1",
        b"\x01",
    ],
    ids=bytes.hex,
)
def test_what_is_no_record_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    data = independent.encode_journal(TITLE, [[5, 300]])
    assert opened(tmp_path, data + tail) == ([5, 300], data)


@pytest.mark.parametrize(
    "body",
    [
        b"\x91\xcd\x00\x05",
        b"\x91\xff",
        b"\x91\xcb" + struct.pack(">d", 5),
        b"\x90",
        msgpack.packb([5] * (CHUNKS + 1)),
    ],
    ids=["wide", "negative", "float", "none", "more than there are"],
)
def test_a_checksum_alone_makes_no_record(tmp_path: Path, body: bytes) -> None:
    """p2pfill writes none of these."""
    data = independent.encode_journal(TITLE, [[5]])
    check = xxhash.xxh3_64(TITLE + struct.pack("<Q", len(data)) + body).digest()
    tail = b"\x92" + body + b"\xc4\x08" + check
    assert opened(tmp_path, data + tail) == ([5], data)


def test_a_chunk_that_the_title_does_not_have(tmp_path: Path) -> None:
    data = independent.encode_journal(TITLE, [[5], [CHUNKS]])
    assert opened(tmp_path, data) == ([5], independent.encode_journal(TITLE, [[5]]))


# ---- journals of the first format


def first_format(parts: list[list[int]]) -> bytes:
    data = b"p2pfjrn1" + TITLE
    for part in parts:
        body = struct.pack(f"<I{len(part)}I", len(part), *part)
        data += body + xxhash.xxh3_64(TITLE + struct.pack("<Q", len(data)) + body).digest()
    return data


FIRST_CHECK = "b773c2d967ca9665"


def test_bytes_of_the_first_format() -> None:
    """As a release that wrote it did; here so that the function above cannot drift."""
    assert first_format([[7, 300]]).hex() == (
        "703270666a726e31000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "02000000070000002c010000" + FIRST_CHECK
    )


@fast
@given(parts=records, cut=st.integers(0, 60))
def test_a_journal_of_the_first_format_is_replaced(tmp_path: Path, parts: list[list[int]], cut: int) -> None:
    """Also where its tail is torn; what it vouches for is kept, and is in a journal of today at once."""
    whole = first_format(parts)
    data = whole[: max(40, len(whole) - cut)]
    kept = [part for index, part in enumerate(parts) if len(first_format(parts[: index + 1])) <= len(data)]
    chunks = chunks_of(kept)
    assert opened(tmp_path, data) == (chunks, independent.encode_journal(TITLE, [chunks] if chunks else []))


@pytest.mark.parametrize(
    "data", [b"", b"p2pfjrn2", b"p2pfjrn3" + TITLE, b"p2pfjrn1" + bytes(32), b"p2pfjrn2" + bytes(32)]
)
def test_a_journal_of_something_else(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StoreError, match="not its own"):
        opened(tmp_path, data)


def test_a_replaced_journal_goes_on(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(first_format([[1, 2], [3]]))
    fd = os.open(tmp_path, DIRECTORY_FLAGS)
    try:
        journal, have = Journal.open(fd, TITLE, 10)
        assert list(have.indexes()) == [1, 2, 3]
        journal.append([4])
        journal.close()
        journal, have = Journal.open(fd, TITLE, 10)
        journal.close()
    finally:
        os.close(fd)
    assert have == Bitmap.from_bytes(b"\x1e\x00", 10)
