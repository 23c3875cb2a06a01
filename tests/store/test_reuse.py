"""Chunks that another version of a title holds are copied and checked, and a rotten one is nobody's."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfill.errors import StoreError
from p2pfill.model import limits
from p2pfill.model.files import Files
from p2pfill.model.manifest import Manifest
from p2pfill.store import Store, StoredTitle, publish
from p2pfill.store.reuse import Reuse, _same_files

CHUNK = limits.CHUNK_SIZE_MIN


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root, chance = tmp_path / "tree", random.Random(4)
    root.mkdir()
    for number in range(6):
        (root / f"large{number}").write_bytes(chance.randbytes(2 * CHUNK + 999 * number))
    for number in range(40):
        (root / f"small{number:02}").write_bytes(chance.randbytes(9000 + number))
    return root


def show(store: Store, tree: Path, manifest: Manifest) -> StoredTitle:
    """Make a title live."""
    title = store.begin_fill(manifest)
    for chunk in range(manifest.chunk_count):
        title.write_chunk(chunk, chunk_bytes(tree, manifest, chunk))
    title.commit(range(manifest.chunk_count))
    title.go_live()
    return title


def chunk_bytes(tree: Path, manifest: Manifest, chunk: int) -> bytes:
    parts = manifest.segments(chunk)
    return b"".join((tree / manifest.files.path(k)).read_bytes()[at : at + length] for k, at, length in parts)


def copy_all(reuse: Reuse | None) -> list[int]:
    assert reuse is not None
    return [chunk for chunk in reuse.chunks if reuse.copy(chunk)]


def check(tree: Path, title: StoredTitle, copied: list[int]) -> None:
    """What was copied is the title's and sealed; all else can be written yet."""
    for chunk in range(title.manifest.chunk_count):
        assert title.is_sealed(chunk) == (chunk in copied)
        if chunk in copied:
            data = b"".join(os.pread(fd, length, at) for fd, at, length in title.ranges(chunk))
            assert data == chunk_bytes(tree, title.manifest, chunk)


def lacking(title: StoredTitle, copied: list[int]) -> set[str]:
    """The files of which something was not copied."""
    files, rest = title.manifest.files, set(range(title.manifest.chunk_count)) - set(copied)
    return {files.path(part.file_index) for chunk in rest for part in title.manifest.segments(chunk)}


def test_all_but_what_has_changed_is_copied(store: Store, tree: Path) -> None:
    show(store, tree, publish(tree, name="t", chunk_size=CHUNK).manifest)
    (tree / "large2").write_bytes(b"grown" + (tree / "large2").read_bytes())
    (tree / "large4").rename(tree / "another name")
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    copied = copy_all(store.reusable(title))
    check(tree, title, copied)
    assert lacking(title, copied) == {"large2"}
    assert not any(title.have)  # durable is what was committed


def test_small_files_and_another_chunk_size_are_found_by_path_size_and_time(store: Store, tree: Path) -> None:
    show(store, tree, publish(tree, name="t", chunk_size=CHUNK).manifest)
    (tree / "small00").write_bytes(b"all that follow have moved")
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    copied = copy_all(store.reusable(title))
    check(tree, title, copied)
    assert len(lacking(title, copied)) < 10  # one chunk of eight
    larger = store.begin_fill(publish(tree, name="t", chunk_size=2 * CHUNK).manifest)
    copied = copy_all(store.reusable(larger))
    check(tree, larger, copied)
    assert len(lacking(larger, copied)) < 17
    assert {f"large{k}" for k in range(6)}.isdisjoint(lacking(larger, copied))


def test_a_file_of_another_content_that_looks_the_same_is_not_believed(store: Store, tree: Path) -> None:
    old = publish(tree, name="t", chunk_size=CHUNK).manifest
    show(store, tree, old)
    times = (tree / "large1").stat()
    (tree / "large1").write_bytes(os.urandom(times.st_size))
    os.utime(tree / "large1", ns=(times.st_atime_ns, times.st_mtime_ns))
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    reuse = store.reusable(title)
    assert reuse is not None
    copied = copy_all(reuse)
    check(tree, title, copied)
    assert lacking(title, copied) == {"large1"}
    assert len(reuse.chunks) == title.manifest.chunk_count


def test_a_rotten_version_costs_a_fetch_and_nothing_else(store: Store, tree: Path) -> None:
    old = publish(tree, name="t", chunk_size=CHUNK).manifest
    shown = store.root / "live" / "t"
    show(store, tree, old)
    with (shown / "large3").open("r+b") as file:
        file.seek(CHUNK + 7)
        file.write(b"rot")
    os.truncate(shown / "large0", 5)
    (shown / "large5").unlink()
    (tree / "new").touch()
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    copied = copy_all(store.reusable(title))
    check(tree, title, copied)
    assert lacking(title, copied) == {"large0", "large3", "large5"}
    store.remove(old.title_id)
    assert store.reusable(title) is None


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP])
def test_bytes_are_copied_where_the_kernel_does_not(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "copy_file_range", refusing(number))
    show(store, tree, publish(tree, name="t", chunk_size=CHUNK).manifest)
    (tree / "new").touch()
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    copied = copy_all(store.reusable(title))
    check(tree, title, copied)
    assert not lacking(title, copied)


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


def test_what_the_disk_refuses_is_said(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(store, tree, publish(tree, name="t", chunk_size=CHUNK).manifest)
    (tree / "new").touch()
    title = store.begin_fill(publish(tree, name="t", chunk_size=CHUNK).manifest)
    reuse = store.reusable(title)
    assert reuse is not None
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EIO))
    assert not reuse.copy(0)
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSPC))
    with pytest.raises(StoreError, match="the disk is full"):
        reuse.copy(0)
    monkeypatch.undo()
    assert reuse.copy(0)
    assert not reuse.copy(0)


def test_only_what_is_lacking_is_looked_for_and_only_below_the_same_name(store: Store, tree: Path) -> None:
    show(store, tree, publish(tree, name="t", chunk_size=CHUNK).manifest)
    (tree / "new").touch()
    manifest = publish(tree, name="t", chunk_size=CHUNK).manifest
    title = store.begin_fill(manifest)
    first = store.reusable(title)
    assert first is not None
    assert first.copy(3)
    title.commit([3])
    again = store.reusable(title)
    assert again is not None
    assert again.chunks == [chunk for chunk in range(manifest.chunk_count) if chunk != 3]
    other = store.begin_fill(publish(tree, name="other", chunk_size=CHUNK).manifest)
    assert store.reusable(other) is None
    shutil.rmtree(store.root / "live" / "t", ignore_errors=True)
    (store.root / "live" / "t").unlink()
    assert store.reusable(title) is None


def test_names_of_the_last_characters_there_are_end_the_comparison() -> None:
    records = [(path, 1, 5, False) for path in ("a", "b", "\U0010ffffa")]
    assert list(_same_files(Files(records), Files(records[:1]))) == [0, -1, -1]
    assert list(_same_files(Files(records[1:]), Files(records))) == [1, 2]
