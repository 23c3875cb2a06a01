"""A repair that is cut short at any step: viewers see nothing wrong, and opening the store goes on from there."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfill.errors import StoreError
from p2pfill.model import limits
from p2pfill.model.manifest import Manifest
from p2pfill.store import Store, StoredTitle, publish, verify_tree
from p2pfill.store import title as title_module
from p2pfill.store.disk import Tree
from p2pfill.store.journal import Journal
from p2pfill.store.mending import MEND, Mend
from p2pfill.store.scrub import FreshLook, examine

CHUNK = limits.CHUNK_SIZE_MIN


class Crash(BaseException):
    """The machine has stopped."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(7)
    (root / "sub").mkdir()
    for name, size in (("a", 5 * CHUNK + 9), ("b", 3 * CHUNK + 1), ("sub/c", 200), ("sub/d", CHUNK), ("z", 2 * CHUNK)):
        (root / name).write_bytes(rng.randbytes(size))
    (root / "sub" / "empty").touch()
    return root


@pytest.fixture(scope="module")
def manifest(tree: Path) -> Manifest:
    return publish(tree, name="film", chunk_size=CHUNK).manifest


def chunks(tree: Path, manifest: Manifest) -> list[bytes]:
    files = [(tree / entry.path).read_bytes() for entry in manifest.files]
    return [
        b"".join(files[index][offset : offset + length] for index, offset, length in manifest.segments(chunk))
        for chunk in range(manifest.chunk_count)
    ]


def fetch(stored: StoredTitle, data: list[bytes]) -> None:
    """Write and commit what is lacking, two chunks at a time, and show it."""
    lacking = [chunk for chunk in range(stored.manifest.chunk_count) if not stored.have[chunk]]
    for first in range(0, len(lacking), 2):
        some = lacking[first : first + 2]
        for chunk in some:
            stored.write_chunk(chunk, data[chunk])
            assert stored.check_blake3(chunk)
        stored.commit(some)
    stored.go_live()


def mend(store: Store, manifest: Manifest, data: list[bytes]) -> None:
    """Find what is bad of a title, and repair it."""
    stored = store.open_title(manifest.title_id)
    stored.begin_again()
    bad, lost = examine(stored, [chunk for chunk in range(manifest.chunk_count) if stored.have[chunk]])
    if bad or lost:
        store.lose(stored, bad, lost)
    fetch(stored, data)


def ruin(live: Path) -> None:
    with (live / "a").open("r+b") as file:
        file.seek(2 * CHUNK + 5)
        file.write(b"rot")
    (live / "b").unlink()
    os.truncate(live / "sub" / "d", 77)
    (live / "sub" / "empty").unlink()


def check_seen(live: Path, tree: Path) -> None:
    """Fail where a viewer could see a wrong byte that was right before, or half of a file that was lost."""
    right, seen = (tree / "a").read_bytes(), (live / "a").read_bytes()
    rot = range(2 * CHUNK + 5, 2 * CHUNK + 8)
    assert seen[: rot.start] == right[: rot.start]
    assert seen[rot.stop :] == right[rot.stop :]
    for name in ("sub/c", "z"):
        assert (live / name).read_bytes() == (tree / name).read_bytes()
    for name in ("b", "sub/d", "sub/empty"):
        if (live / name).exists() and (live / name).stat().st_size != 77:
            assert (live / name).read_bytes() == (tree / name).read_bytes()


STEPS: list[tuple[Any, str]] = [
    (title_module, "write_all"),
    (title_module.os, "utime"),
    (title_module.os, "posix_fallocate"),
    (title_module.os, "unlink"),
    (title_module.os, "replace"),
    (StoredTitle, "_sync"),
    (StoredTitle, "_read_back"),
    (Journal, "append"),
    (Journal, "create"),
    (Tree, "place"),
    (Mend, "direct"),
    (Mend, "end"),
]


def crash_at(patched: pytest.MonkeyPatch, count: int) -> None:
    """Stop before the step of that number, of all that change the disk."""
    left = count

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real(*arguments, **named)

        return step

    for owner, name in STEPS:
        patched.setattr(owner, name, stopping(getattr(owner, name)))


def filled(data_root: Path, manifest: Manifest, data: list[bytes]) -> Iterator[Store]:
    with Store.open(data_root) as store:
        fetch(store.begin_fill(manifest), data)
        yield store


def test_a_repair_that_is_cut_short_anywhere_goes_on_at_opening(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = chunks(tree, manifest)
    for _ in filled(tmp_path / "whole", manifest, data):
        pass
    crashes = 0
    for count in range(200):
        root = tmp_path / "data"
        shutil.copytree(tmp_path / "whole", root, symlinks=True)
        live = root / "live" / "film"
        ruin(live)
        store = Store.open(root)
        try:
            with monkeypatch.context() as patched:
                crash_at(patched, count)
                mend(store, manifest, data)
            ended = True
        except Crash:
            ended, crashes = False, crashes + 1
        store.close()
        check_seen(live, tree)
        with Store.open(root) as store:
            stored = store.open_title(manifest.title_id)
            with FreshLook(stored) as look:
                # Once the repair has begun, all that opening vouches for is right.
                wrong = [c for c in range(manifest.chunk_count) if stored.have[c] and not look.is_good(c)]
            if stored.takes_writes or ended:
                assert not wrong
            mend(store, manifest, data)
            assert not stored.takes_writes
        check_seen(live, tree)
        assert verify_tree(live, manifest) == verify_tree(tree, manifest)
        assert not (live.resolve().parent / MEND).exists()
        shutil.rmtree(root)
        if ended:
            break
    assert crashes > 20


def test_what_reads_back_wrong_is_not_called_good(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = chunks(tree, manifest)
    for store in filled(tmp_path, manifest, data):
        stored = store.open_title(manifest.title_id)
        ruin(tmp_path / "live" / "film")

        def write_badly(fd: int, view: Any, offset: int) -> None:
            os.pwrite(fd, bytes(len(view)), offset)

        with monkeypatch.context() as patched:
            patched.setattr(title_module, "write_all", write_badly)
            with pytest.raises(StoreError, match="reads back wrong"):
                mend(store, manifest, data)
        assert not stored.have[2]
        mend(store, manifest, data)
        assert verify_tree(tmp_path / "live" / "film", manifest).ok


def test_what_is_made_again_is_found_after_a_power_loss(
    tmp_path: Path, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a file are of no use where its entry, or that of its directory, is lost."""
    data = chunks(tree, manifest)
    with Store.open(tmp_path) as store:
        title = store.begin_fill(manifest)
        fetch(title, data)
        files = tmp_path / "titles" / manifest.title_id.hex() / "files"
        shutil.rmtree(files)
        synced: dict[str, list[str]] = {}
        fsync = os.fsync

        def note(fd: int) -> None:
            fsync(fd)
            place = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.isdir(place):
                synced[place] = os.listdir(place)

        monkeypatch.setattr(os, "fsync", note)
        store.lose(title, [], range(len(manifest.files)))
        aside = [str(index) for index in range(len(manifest.files)) if manifest.files.size(index)]
        assert set(aside) <= set(synced[f"{files.parent}/{MEND}"])
        assert "files" in synced[str(files.parent)]
        restored = []
        place = Tree.place

        def note_place(self: Tree, directory_fd: int, name: str, path: str) -> None:
            place(self, directory_fd, name, path)
            restored.append(path)
            parent = files / path
            while parent != files:
                assert parent.name in synced[str(parent.parent)], f"{parent} may be lost"
                parent = parent.parent

        monkeypatch.setattr(Tree, "place", note_place)
        fetch(title, data)
        assert "sub/c" in restored
        assert verify_tree(files, manifest).ok


def test_a_directory_in_the_place_of_a_file_is_said_and_left_alone(
    tmp_path: Path, tree: Path, manifest: Manifest
) -> None:
    data = chunks(tree, manifest)
    for store in filled(tmp_path, manifest, data):
        live = tmp_path / "live" / "film"
        (live / "b").unlink()
        (live / "b").mkdir()
        (live / "b" / "mine").write_text("by hand")
        with pytest.raises(StoreError, match="film"):
            mend(store, manifest, data)
        assert (live / "b" / "mine").read_text() == "by hand"
        shutil.rmtree(live / "b")
        mend(store, manifest, data)
        assert verify_tree(live, manifest).ok


def test_a_live_title_takes_no_writes_but_for_what_is_bad(tmp_path: Path, tree: Path, manifest: Manifest) -> None:
    data = chunks(tree, manifest)
    for store in filled(tmp_path, manifest, data):
        stored = store.open_title(manifest.title_id)
        with pytest.raises(StoreError, match="live"):
            stored.ranges(0, write=True)
        store.lose(stored, [2], [])
        with pytest.raises(StoreError, match="verified"):
            stored.ranges(0, write=True)
        with pytest.raises(StoreError, match="chunks are missing"):
            stored.go_live()
        stored.write_chunk(2, data[2])
        stored.commit([2])
        stored.go_live()
        with pytest.raises(StoreError, match="live"):
            stored.ranges(2, write=True)
