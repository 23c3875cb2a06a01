"""Some files of a title on disk: only they are seen, and what shares chunks with them is kept out of sight."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pfill.cli import main
from p2pfill.errors import ConfigError, ManifestError, StoreError
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.model.selection import (
    chunks_of_file,
    chunks_of_selection,
    decode_selection,
    encode_selection,
    select,
    union,
)
from p2pfill.store import Store, StoredTitle, publish
from p2pfill.store.scrub import examine

CHUNK = limits.CHUNK_SIZE_MIN

SIZES = {
    "1080p/a": 2 * CHUNK + 9, "1080p/b": CHUNK, "2160p/a": 4 * CHUNK + 1, "audio/de": 300, "audio/en": CHUNK // 2,
    "audio/fr": CHUNK // 2, "empty": 0, "meta/x": 5, "subs/deep/y": 70, "subs/z": CHUNK - 1, "z": CHUNK + 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(11)
    for name, size in SIZES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(rng.randbytes(size))
    (root / "nothing").mkdir()
    return root


@pytest.fixture(scope="module")
def manifest(tree: Path) -> Manifest:
    return publish(tree, name="film", chunk_size=CHUNK).manifest


@pytest.fixture(scope="module")
def data(tree: Path, manifest: Manifest) -> list[bytes]:
    files = [(tree / entry.path).read_bytes() for entry in manifest.files]
    return [
        b"".join(files[index][offset : offset + length] for index, offset, length in manifest.segments(chunk))
        for chunk in range(manifest.chunk_count)
    ]


def fetch(stored: StoredTitle, data: list[bytes], count: int | None = None) -> None:
    """Write and commit chunks that are lacking, all or the first `count`."""
    stored.begin_again()
    lacking = list(stored.wanted.and_not(stored.have).indexes())[:count]
    for chunk in lacking:
        stored.write_chunk(chunk, data[chunk])
        assert stored.check_blake3(chunk)
    stored.commit(lacking)


def shown(root: Path) -> set[str]:
    """Return the paths of the files that viewers see of the title."""
    live = root / "live" / "film"
    return {str(path.relative_to(live)) for path in live.rglob("*") if path.is_file()}


def paths(manifest: Manifest, selection: Bitmap | None) -> set[str]:
    indexes = range(len(manifest.files)) if selection is None else selection.indexes()
    return {manifest.files.path(index) for index in indexes}


def check(root: Path, tree: Path, manifest: Manifest, stored: StoredTitle) -> None:
    """The files that are seen are those that are wanted, as they were published; what is held reads back right."""
    if stored.live and not stored.takes_writes:
        assert shown(root) == paths(manifest, stored.selection)
    for path in shown(root) if stored.live else ():
        assert (root / "live" / "film" / path).read_bytes() == (tree / path).read_bytes(), path
        assert (root / "live" / "film" / path).stat().st_mtime == int((tree / path).stat().st_mtime)
    for chunk in stored.have.indexes():
        assert stored.check_blake3(chunk), chunk


def test_patterns(manifest: Manifest) -> None:
    files = manifest.files
    assert paths(manifest, select(files, ["1080p/a", "audio/"])) == {"1080p/a", "audio/de", "audio/en", "audio/fr"}
    assert paths(manifest, select(files, ["subs/*", "?"])) == {"subs/deep/y", "subs/z", "z"}
    assert paths(manifest, select(files, ["audio/[de]*"])) == {"audio/de", "audio/en"}
    assert select(files, ["*"]) is None
    with pytest.raises(ConfigError, match=r"meant by 'audio', nor 1 more"):
        select(files, ["audio", "z", "zz"])
    with pytest.raises(ConfigError, match="10001 files"):
        select(files, ["z"] * 10_001)
    with pytest.raises(ConfigError, match="65 patterns"):
        select(files, ["*"] * 65)


def test_a_selection_of_another_title_is_refused(manifest: Manifest) -> None:
    chosen = select(manifest.files, ["z"])
    count = len(manifest.files)
    assert decode_selection(encode_selection(chosen), count) == chosen
    assert decode_selection(encode_selection(None), count) is None
    for data in (b"\x01", b"\x01\xff", b"\x01\x00\x00"):
        with pytest.raises(ManifestError, match="of another title"):
            decode_selection(data, count)


def test_only_what_is_wanted_is_seen(tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes]) -> None:
    chosen = select(manifest.files, ["2160p/a", "audio/en", "empty"])
    assert chosen is not None
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, chosen)
        assert not (tmp_path / "filling" / manifest.title_id.hex() / "files" / "1080p").exists()
        assert stored.wanted == chunks_of_selection(manifest, chosen)
        fetch(stored, data, 2)
        with pytest.raises(StoreError, match="chunks are missing"):
            stored.go_live()
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert not (tmp_path / "live" / "film" / "nothing").exists()
    # What shares a chunk with a wanted file is there, and nobody sees it.
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert stored.selection == chosen
        assert stored.have == stored.wanted
        check(tmp_path, tree, manifest, stored)
        assert not examine(stored, list(stored.have.indexes()))[0]


def test_more_files_come_as_lost_ones_do(tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes]) -> None:
    first, more = select(manifest.files, ["audio/en"]), select(manifest.files, ["audio/fr", "1080p/", "empty"])
    assert first is not None
    assert more is not None
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, first)
        fetch(stored, data)
        stored.go_live()
        held = stored.have.copy()
        assert store.begin_fill(manifest, more) is stored
        assert stored.takes_writes
        assert shown(tmp_path) == {"audio/en", "empty"}
        assert stored.have == held, "what is here already is fetched once"
        fetch(stored, data, 1)
        check(tmp_path, tree, manifest, stored)
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert stored.live
        assert stored.takes_writes
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert shown(tmp_path) == paths(manifest, union(first, more))


def test_a_rest_that_is_lost_is_found(tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes]) -> None:
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, select(manifest.files, ["audio/en"]))
        fetch(stored, data)
        stored.go_live()
        shutil.rmtree(tmp_path / "titles" / manifest.title_id.hex() / "rest")
        stored.let_go()
        bad, lost = examine(stored, list(stored.have.indexes()))
        assert bad
        assert not lost
        store.lose(stored, bad, lost)
        assert shown(tmp_path) == {"audio/en"}
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert examine(stored, list(stored.have.indexes())) == ([], [])


def spoil(place: Path, kind: str) -> None:
    """Put something else in the place of a file or of a directory."""
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("/etc/hostname" if place.name.isdecimal() else "/tmp")
    elif kind == "directory":
        place.mkdir()
        (place / "precious").touch()


@pytest.mark.parametrize("kind", ["gone", "fifo", "link", "directory", "cut"])
@pytest.mark.parametrize("live", [True, False])
def test_what_is_in_the_place_of_a_rest_keeps_no_files_from_being_had(
    tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes], kind: str, live: bool
) -> None:
    """A fifo there failed with "Illegal seek", and where a rest was gone its file was shown with a hole."""
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, select(manifest.files, ["audio/en"]))
        fetch(stored, data)
        if live:
            stored.go_live()
        rest = tmp_path / ("titles" if live else "filling") / manifest.title_id.hex() / "rest"
        place = min(path for path in rest.iterdir() if manifest.files.path(int(path.name)) == "audio/de")
        if kind == "cut":
            place.write_bytes(b"")
        else:
            spoil(place, kind)
        stored.let_go()
        more = select(manifest.files, ["audio/"])
        if kind == "directory":
            with pytest.raises(StoreError, match=f"{place}.* is a directory.* move it away"):
                store.begin_fill(manifest, more)
            assert (place / "precious").exists()
            shutil.rmtree(place)
        assert store.begin_fill(manifest, more) is stored
        if live:
            assert shown(tmp_path) == {"audio/en"}, "what is not there is not shown"
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert shown(tmp_path) == {"audio/de", "audio/en", "audio/fr"}
        assert examine(stored, list(stored.have.indexes())) == ([], [])


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_is_in_the_place_of_all_rests_goes(
    tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes], kind: str
) -> None:
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, select(manifest.files, ["audio/en"]))
        fetch(stored, data)
        stored.go_live()
        spoil(tmp_path / "titles" / manifest.title_id.hex() / "rest", kind)
        stored.let_go()
        bad, lost = examine(stored, list(stored.have.indexes()))
        assert (bool(bad), lost) == (True, [])
        store.lose(stored, bad, lost)
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert examine(stored, list(stored.have.indexes())) == ([], [])


@pytest.mark.parametrize("kind", ["gone", "empty", "cut", "garbage", "fifo", "link", "directory"])
def test_a_selection_that_was_damaged_claims_no_more_than_there_is(
    tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes], kind: str
) -> None:
    """Without it the whole title was said to be here."""
    chosen = select(manifest.files, ["audio/en", "1080p/a"])
    assert chosen is not None
    place = tmp_path / "titles" / manifest.title_id.hex() / "selection"
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, chosen)
        fetch(stored, data)
        stored.go_live()
    if kind in ("empty", "cut", "garbage"):
        place.write_bytes({"empty": b"", "cut": place.read_bytes()[:1], "garbage": b"\xff" * 99}[kind])
    else:
        spoil(place, kind)
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert str(place) in stored.doubt
        assert stored.selection == chosen
        assert stored.have == chunks_of_selection(manifest, chosen)
        with pytest.raises(StoreError, match="being checked"):
            store.begin_fill(manifest)
        stored.settle_doubt()
        assert not stored.doubt
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert (stored.selection, stored.doubt) == (chosen, "")
        # All files after all, which is not said by an empty file any more.
        store.begin_fill(manifest)
        fetch(stored, data)
        stored.go_live()
    assert place.stat().st_size > 0
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert (stored.selection, stored.doubt) == (None, "")
    place.unlink()
    with Store.open(tmp_path) as store:
        stored = store.open_title(manifest.title_id)
        assert stored.selection is None
        assert "missing" in stored.doubt


def test_files_are_dropped(tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes]) -> None:
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest)
        fetch(stored, data)
        stored.go_live()
        kept = select(manifest.files, ["audio/de", "subs/z"])
        assert kept is not None
        gone = stored.drop_files(kept)
        assert set(gone) == set(range(manifest.chunk_count)) - set(chunks_of_selection(manifest, kept).indexes())
        check(tmp_path, tree, manifest, stored)
        assert not (tmp_path / "live" / "film" / "1080p").exists()
        assert (tmp_path / "live" / "film" / "subs").exists()
        assert examine(stored, list(stored.have.indexes())) == ([], [])
        # And back.
        assert store.begin_fill(manifest) is stored
        fetch(stored, data)
        stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert shown(tmp_path) == set(SIZES)


selections = st.one_of(st.none(), st.sets(st.integers(0, len(SIZES) - 1), min_size=1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("order"), selections),
            st.tuples(st.just("fetch"), st.integers(0, 20)),
            st.tuples(st.just("drop"), selections),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=12,
    )
)
def test_any_order_of_selections(
    tree: Path, manifest: Manifest, data: list[bytes], steps: list[tuple[str, int | set[int] | None]]
) -> None:
    def as_bitmap(chosen: object) -> Bitmap | None:
        if not isinstance(chosen, set):
            return None
        found = Bitmap(len(manifest.files))
        found.add_all(chosen)
        return None if found.all() else found

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        store = Store.open(root)
        try:
            ordered = as_bitmap({1})
            stored = store.begin_fill(manifest, ordered)
            for what, value in steps:
                if what == "order":
                    stored = store.begin_fill(manifest, as_bitmap(value))
                    if not stored.live:
                        assert stored.selection == as_bitmap(value)
                elif what == "fetch" and stored.takes_writes:
                    fetch(stored, data, value if isinstance(value, int) else None)
                    if not stored.wanted.and_not(stored.have).any():
                        stored.go_live()
                elif what == "drop" and stored.live and not stored.takes_writes:
                    target = as_bitmap(value)
                    if target is not None and stored.selection is not None:
                        target = target & stored.selection
                    if target is not None and target.any():
                        stored.drop_files(target)
                elif what == "reopen":
                    store.close()
                    store = Store.open(root)
                    stored = store.open_title(manifest.title_id)
                check(root, tree, manifest, stored)
            if stored.takes_writes:
                fetch(stored, data)
                stored.go_live()
            check(root, tree, manifest, stored)
            assert all(stored.have[chunk] for i in range(3) for chunk in chunks_of_file(manifest, i)
                       if stored.selection is None or stored.selection[i])  # fmt: skip
        finally:
            store.close()


def test_what_is_wanted_no_more_when_a_title_goes_live_takes_no_room(
    tmp_path: Path, tree: Path, manifest: Manifest, data: list[bytes]
) -> None:
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, select(manifest.files, ["2160p/a", "audio/en"]))
        fetch(stored, data, 3)
        stored = store.begin_fill(manifest, select(manifest.files, ["audio/en"]))
        fetch(stored, data)
        stored.go_live()
        assert stored.have == stored.wanted
        kept = {int(path.name) for path in (tmp_path / "titles" / manifest.title_id.hex() / "rest").iterdir()}
        assert kept
        assert all(any(stored.wanted[c] for c in chunks_of_file(manifest, index)) for index in kept)
        check(tmp_path, tree, manifest, stored)


class Crash(BaseException):
    """The machine has stopped."""


@pytest.mark.parametrize("steps", range(24))
@pytest.mark.parametrize("what", ["more", "other", "drop"])
def test_a_change_of_files_that_is_cut_short_is_finished(
    tmp_path: Path,
    tree: Path,
    manifest: Manifest,
    data: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    steps: int,
) -> None:
    first, more = select(manifest.files, ["audio/en", "1080p/a"]), select(manifest.files, ["audio/fr", "z", "empty"])
    kept = select(manifest.files, ["audio/en"])
    assert first is not None
    assert kept is not None
    store = Store.open(tmp_path)
    stored = store.begin_fill(manifest, first)
    fetch(stored, data, 2 if what == "other" else None)  # of a title that fills yet, or of a live one
    if what != "other":
        stored.go_live()
    left = steps

    def counted(call: Any) -> Any:
        def one(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return call(*args, **kwargs)

        return one

    with monkeypatch.context() as patched, suppress(Crash):
        for name in ("rename", "replace", "mkdir", "unlink", "posix_fallocate", "rmdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        if what == "drop":
            stored.drop_files(kept)
        else:
            stored.select(more)
    store.close()
    with Store.open(tmp_path) as store:
        stored = store.begin_fill(manifest, kept if what == "drop" else more)
        bad, lost = examine(stored, list(stored.have.indexes()))
        if bad or lost:
            store.lose(stored, bad, lost)
        if stored.takes_writes:
            fetch(stored, data)
            stored.go_live()
        check(tmp_path, tree, manifest, stored)
        assert examine(stored, list(stored.have.indexes())) == ([], [])


def test_the_chunks_of_a_selection_are_worked_out_before_the_store_is_locked(
    tmp_path: Path, manifest: Manifest, data: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a second for a million files, in which no other title could be opened."""
    with Store.open(tmp_path) as store:
        looks: list[bool] = []

        def look(manifest: Manifest, selection: Bitmap | None) -> Bitmap:
            looks.append(store._lock._is_owned())  # type: ignore[attr-defined]
            return chunks_of_selection(manifest, selection)

        monkeypatch.setattr("p2pfill.store.wanted.chunks_of_selection", look)
        stored = store.begin_fill(manifest, select(manifest.files, ["audio/"]))
        assert store.begin_fill(manifest, select(manifest.files, ["audio/", "meta/"])) is stored
        fetch(stored, data)
        stored.go_live()
        store.begin_fill(manifest, select(manifest.files, ["subs/"]))
        assert looks == [False] * 3
        assert stored.wanted == chunks_of_selection(manifest, select(manifest.files, ["audio/", "meta/", "subs/"]))
        assert stored.wanted_bytes == sum(map(manifest.chunk_length, stored.wanted.indexes()))
        store.begin_fill(manifest)
        assert (stored.selection, stored.wanted_bytes) == (None, manifest.size)


def test_a_scrub_of_a_stopped_node_looks_at_what_is_wanted(
    tmp_path: Path, manifest: Manifest, data: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = select(manifest.files, ["audio/en", "1080p/a"])
    assert chosen is not None
    with Store.open(tmp_path / "a1") as store:
        stored = store.begin_fill(manifest, chosen)
        fetch(stored, data)
        stored.go_live()
        wanted = stored.wanted.count()
    assert wanted < manifest.chunk_count
    assert main(["scrub", "--data", str(tmp_path / "a1"), "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)["titles"]
    assert (only["chunks"], only["bad"], only["error"]) == (wanted, [], "")
    assert not list((tmp_path / "a1").rglob("mend"))
