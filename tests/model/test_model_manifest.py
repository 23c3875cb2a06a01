"""Manifest: canonical encoding, exact cover of the stream, and hostile input that only ever raises ManifestError."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.cut import Cut
from p2pfill.model.manifest import FORMAT, Manifest, default_chunk_size, layout

CHUNK = limits.CHUNK_SIZE_MIN


def build(files: list[tuple[str, int]], chunk_size: int = CHUNK, name: str = "a title") -> Manifest:
    entries = layout(files)
    count = Cut(entries, chunk_size).count
    xxh3 = bytes(k % 251 for k in range(count * 16))
    return Manifest(name, chunk_size, entries, xxh3, b"\x07" * (32 * count))


def wire(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "format": FORMAT,
        "name": "a title",
        "chunk_size": CHUNK,
        "integrity": "blake3",
        "files": [["a", 1, 5, False], ["b/c", 2, 1 << 31, True]],
        "directories": ["b/d", "e"],
        "xxh3": bytes(16),
        "blake3": bytes(32),
    }
    fields.update(changes)
    return msgspec.msgpack.encode(list(fields.values()))


component = st.text("abcXYZ019 ._-äß日", min_size=1, max_size=8).filter(lambda text: text not in (".", ".."))
path = st.lists(component, min_size=1, max_size=4).map("/".join)
file_lists = st.dictionaries(path, st.one_of(st.just(0), st.integers(0, 3 * CHUNK)), min_size=1, max_size=12)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    sizes = draw(file_lists)
    kept: list[tuple[str, int]] = []
    for item in sizes.items():
        try:
            build([*kept, item])
        except ManifestError:
            continue
        kept.append(item)
    return build(kept or [("only", 5)])


@given(manifests())
def test_roundtrip(manifest: Manifest) -> None:
    data = manifest.encode()
    again = Manifest.decode(data)
    assert again == manifest
    assert again.encode() == data
    assert again.title_id == manifest.title_id
    assert len(manifest.title_id) == limits.TITLE_ID_BYTES


@given(manifests(), st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(manifest: Manifest, random: object) -> None:
    files = [(entry.path, entry.size) for entry in manifest.files]
    assert layout(reversed(files)) == manifest.files
    assert [entry.path.encode() for entry in manifest.files] == sorted(entry.path.encode() for entry in manifest.files)


@given(manifests(), st.data())
def test_segments_cover_the_stream_exactly(manifest: Manifest, data: st.DataObject) -> None:
    position = 0
    for chunk in range(manifest.chunk_count):
        for segment in manifest.segments(chunk):
            entry = manifest.files[segment.file_index]
            assert segment.length > 0
            assert entry.offset + segment.offset == position
            assert segment.offset + segment.length <= entry.size
            position += segment.length
        assert position == manifest.cut.span(chunk)[1]
    assert position == manifest.size
    if manifest.chunk_count:
        chunk = data.draw(st.integers(0, manifest.chunk_count - 1))
        start = data.draw(st.integers(0, manifest.chunk_length(chunk)))
        tail = list(manifest.segments(chunk, start))
        assert sum(segment.length for segment in tail) == manifest.chunk_length(chunk) - start
        whole = list(manifest.segments(chunk))
        assert tail[1:] == whole[len(whole) - len(tail) + 1 :]


@given(manifests())
def test_large_files_have_chunks_of_their_own(manifest: Manifest) -> None:
    """By the rule as it is written down: pieces, each cut from its beginning."""
    pieces, small = [], 0
    for entry in manifest.files:
        if entry.size < CHUNK:
            small += entry.size
        else:
            pieces += [small, entry.size]
            small = 0
    pieces = [piece for piece in (*pieces, small) if piece]
    assert list(manifest.cut.pieces()) == pieces
    lengths = [min(CHUNK, piece - at) for piece in pieces for at in range(0, piece, CHUNK)]
    assert [manifest.chunk_length(chunk) for chunk in range(manifest.chunk_count)] == lengths
    for entry in manifest.files:
        held = {c for c in range(manifest.chunk_count) for s in manifest.segments(c) if manifest.files[s[0]] == entry}
        assert set(manifest.cut.chunks(entry.offset, entry.offset + entry.size)) == held


def test_a_change_of_one_file_leaves_the_chunks_of_large_ones_alone() -> None:
    sizes = {f"f{k:02}": CHUNK * (k % 5) + 1000 * k for k in range(1, 20)}

    def spans(changed: dict[str, int]) -> dict[str, list[tuple[int, int]]]:
        """Where the chunks of each file lie in it."""
        manifest = build(list({**sizes, **changed}.items()))
        found: dict[str, list[tuple[int, int]]] = {}
        for chunk in range(manifest.chunk_count):
            for index, offset, length in manifest.segments(chunk):
                found.setdefault(manifest.files.path(index), []).append((offset, length))
        return found

    before, after = spans({}), spans({"f03": 5 * CHUNK + 7, "a new one": 12})
    assert all(before[path] == after[path] for path in sizes if path != "f03" and sizes[path] >= CHUNK)


@given(st.binary(max_size=400))
@example(b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
def test_any_bytes_raise_only_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(data)


@given(manifests(), st.data())
def test_mutated_bytes_decode_to_themselves_or_are_refused(manifest: Manifest, data: st.DataObject) -> None:
    raw = bytearray(manifest.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = Manifest.decode(bytes(raw))
    except ManifestError:
        return
    assert decoded.encode() == raw


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        ".",
        "..",
        "a//b",
        "a/",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "a\x85b",
        "x" * 256,
        "é" * 128,
        "/".join(["x" * 200] * 21),
        "/".join("x" * 65),
    ],
)
def test_unsafe_path_is_refused_and_named(bad: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.decode(wire(files=[[bad, 1, 0, False]]))
    assert "path" in str(caught.value)
    assert ascii(bad)[1:11].rstrip("'") in ascii(str(caught.value)).replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (["a", "a"], "twice"),
        (["a", "a/b"], "also a directory"),
        (["a", "a b", "a/b"], "also a directory"),
        (["b", "a"], "out of order"),
    ],
)
def test_paths_that_exclude_each_other_are_refused_and_named(paths: list[str], match: str) -> None:
    with pytest.raises(ManifestError, match=match) as caught:
        Manifest.decode(wire(files=[[path, 1, 0, False] for path in paths]))
    assert paths[-1] in str(caught.value)


@pytest.mark.parametrize("paths", [["A", "a"], ["Straße", "strasse"], ["e\u0301", "\u00e9"], ["A", "a/b"]])
def test_names_that_differ_in_case_or_composition_are_two(paths: list[str]) -> None:
    assert [entry.path for entry in build([(path, 1) for path in paths]).files] == paths


@pytest.mark.parametrize(
    ("directories", "match"),
    [
        (["a"], "a file and also a directory"),
        (["a/x"], "'a' is a file and also a directory of 'a/x'"),
        (["b"], "'b' is listed as empty, but 'b/c' lies in it"),
        (["x", "x/y"], "'x' is listed as empty, but 'x/y' lies in it"),
        (["x\ny"], "control character"),
    ],
)
def test_directories_that_are_not_empty_are_refused_and_named(directories: list[str], match: str) -> None:
    with pytest.raises(ManifestError, match=match):
        Manifest.decode(wire(directories=directories))


def test_too_many_empty_directories_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EMPTY_DIRECTORY_COUNT_MAX", 1)
    with pytest.raises(ManifestError, match="too many empty directories"):
        Manifest.decode(wire())


@pytest.mark.parametrize("limit", ["DIRECTORY_COUNT_MAX", "DIRECTORY_BYTES_MAX"])
def test_too_many_directories_in_all_are_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(limits, limit, 20)
    with pytest.raises(ManifestError, match="too many directories"):
        Manifest.decode(wire(directories=["/".join(["d"] * 30)]))


def test_a_manifest_of_an_older_release_says_what_to_do() -> None:
    old = msgspec.msgpack.encode(["p2pfill-manifest-1", "t", CHUNK, "blake3", [["a", 1]], bytes(16), bytes(32)])
    with pytest.raises(ManifestError, match="older release; publish the title again"):
        Manifest.decode(old)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "p2pfill-manifest-3"},
        {"name": ""},
        {"name": ".."},
        {"name": "a/b"},
        {"name": "a\x1bb"},
        {"name": "x" * 201},
        {"chunk_size": 0},
        {"chunk_size": -CHUNK},
        {"chunk_size": CHUNK + 1},
        {"chunk_size": CHUNK // 2},
        {"chunk_size": limits.CHUNK_SIZE_MAX * 2},
        {"chunk_size": float(CHUNK)},
        {"integrity": "md5"},
        {"files": []},
        {"files": [["a", -1, 0, False]]},
        {"files": [["a", True, 0, False]]},
        {"files": [["a", 2**63, 0, False]]},
        {"files": [["a", limits.TITLE_BYTES_MAX, 0, False], ["b", limits.TITLE_BYTES_MAX, 0, False]]},
        {"files": [["a", (limits.CHUNK_COUNT_MAX + 1) * CHUNK, 0, False]]},
        {"files": [["a", 3, -1, False]]},
        {"files": [["a", 3, 1 << 32, False]]},
        {"files": [["a", 3, 0.0, False]]},
        {"files": [["a", 3, 0, 0]]},
        {"files": [["a", 3]]},
        {"files": [["a", 3, 0, False, 0]]},
        {"files": [[b"a", 3, 0, False]]},
        {"directories": None},
        {"directories": ["e", "b/d"]},
        {"directories": ["e", "e"]},
        {"directories": [b"e"]},
        {"directories": ["../e"]},
        {"directories": [["e"]]},
        {"xxh3": bytes(15)},
        {"xxh3": bytes(32)},
        {"blake3": b""},
        {"blake3": bytes(33)},
        {"extra": 1},
    ],
)
def test_broken_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(wire(**changes))


def test_only_the_shortest_form_is_accepted() -> None:
    data = wire()
    assert Manifest.decode(data).size == 3
    assert data[-33 - 1 :][:2] == b"\xc4\x20"
    longer = data[:-34] + b"\xc5\x00\x20" + bytes(32)
    with pytest.raises(ManifestError, match="canonical"):
        Manifest.decode(longer)
    with pytest.raises(ManifestError):
        Manifest.decode(data + b"\x00")


def test_lone_surrogate_cannot_be_published() -> None:
    with pytest.raises(ManifestError, match="UTF-8"):
        build([("a\udcff", 1)])


def test_too_large_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MANIFEST_BYTES_MAX", 10)
    with pytest.raises(ManifestError, match="too large"):
        Manifest.decode(wire())


def test_only_empty_files_make_no_chunks() -> None:
    manifest = build([("a", 0), ("b", 0)])
    assert (manifest.size, manifest.chunk_count) == (0, 0)
    with pytest.raises(IndexError):
        manifest.segments(0)
    with pytest.raises(IndexError):
        manifest.chunk_xxh3(0)


def test_the_id_is_the_same_for_ever() -> None:
    """A change of the encoding would orphan every published title; this value may only change with the format."""
    manifest = build([("b/ä", CHUNK), ("a", 3), ("empty", 0)])
    assert manifest.title_id.hex() == "82713a7b11032b2224af60eb1ba6dbb0706a95e85fa2f23d74339482b8ae79cc"


def test_a_hundred_thousand_tiny_files() -> None:
    manifest = build([(f"d{k % 100}/f{k}", 10) for k in range(100_000)])
    assert manifest.chunk_count == 16
    assert sum(1 for _ in manifest.segments(3)) in range(6553, 6556)
    assert Manifest.decode(manifest.encode()) == manifest


@given(st.integers(0, limits.TITLE_BYTES_MAX))
@example(limits.TITLE_BYTES_MAX)
@example(0)
def test_default_chunk_size(size: int) -> None:
    chunk_size = default_chunk_size(size)
    assert chunk_size & (chunk_size - 1) == 0
    assert 256 * limits.KIB <= chunk_size <= limits.CHUNK_SIZE_MAX
    assert -(-size // chunk_size) <= limits.CHUNK_COUNT_MAX
    assert default_chunk_size(512 * limits.MIB) == 512 * limits.KIB
    with pytest.raises(ManifestError):
        default_chunk_size(limits.TITLE_BYTES_MAX + 1)
