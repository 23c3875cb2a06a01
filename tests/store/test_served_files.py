"""What a web server sees of a live title: times, modes, directories and names are the title's, on every cache."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfill.errors import ManifestError, StoreError
from p2pfill.model import limits
from p2pfill.model.manifest import Manifest
from p2pfill.store import Store, publish, verify_tree
from p2pfill.store import title as title_module
from p2pfill.store.disk import DIRECTORY_FLAGS, Tree

CHUNK = limits.CHUNK_SIZE_MIN
SUMMER = 1_500_000_000


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask under which nobody else may read anything."""
    before = os.umask(0o077)
    yield 0o077
    os.umask(before)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "deep" / "void").mkdir(parents=True)
    (root / "none").mkdir()
    (root / "m.bin").write_bytes(os.urandom(2 * CHUNK))
    (root / "sub" / "run.sh").write_bytes(b"#!/bin/sh\necho hi\n")
    (root / "sub" / "run.sh").chmod(0o700)
    (root / "sub" / "empty").touch()
    for number, file in enumerate(path for path in root.rglob("*") if path.is_file()):
        os.utime(file, ns=(0, (SUMMER + number) * 10**9 + 123_456_789))
    return root


def go_live(store: Store, manifest: Manifest, tree: Path) -> Path:
    title = store.begin_fill(manifest)
    for chunk in range(manifest.chunk_count):
        parts = manifest.segments(chunk)
        title.write_chunk(
            chunk,
            b"".join((tree / manifest.files.path(k)).read_bytes()[at : at + length] for k, at, length in parts),
        )
    title.commit(range(manifest.chunk_count))
    title.go_live()
    return store.root / "live" / manifest.name


def seen(root: Path) -> dict[str, tuple[int, float]]:
    """Mode and time of all files below a directory, and the mode of each directory."""
    found = {}
    for path in (root.resolve(), *root.resolve().rglob("*")):
        status = path.stat()
        is_file = stat.S_ISREG(status.st_mode)
        found[str(path.relative_to(root.resolve()))] = stat.S_IMODE(status.st_mode), is_file and status.st_mtime
    return found


def test_times_and_modes_are_the_titles_whatever_the_umask(tmp_path: Path, tree: Path, umask: int) -> None:
    manifest = publish(tree, name="t", chunk_size=CHUNK).manifest
    with Store.open(tmp_path / "new" / "data") as store:
        shown = go_live(store, manifest, tree)
        there = seen(shown)
    times = {entry.path: entry.mtime for entry in manifest.files}
    assert there == {
        ".": (0o755, False), "none": (0o755, False), "sub": (0o755, False),
        "sub/deep": (0o755, False), "sub/deep/void": (0o755, False),
        "m.bin": (0o644, times["m.bin"]),
        "sub/run.sh": (0o755, times["sub/run.sh"]),
        "sub/empty": (0o644, times["sub/empty"]),
    }  # fmt: skip
    assert set(times.values()) == {SUMMER, SUMMER + 1, SUMMER + 2}
    for directory in (shown.resolve().parent, shown.parent, tmp_path / "new" / "data", tmp_path / "new"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    report = verify_tree(shown, manifest)
    assert report.ok
    assert not report.altered


def test_a_data_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o750)
    Store.open(tmp_path / "data").close()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750


@pytest.mark.parametrize("sync_files_max", [title_module.SYNC_FILES_MAX, 0])
def test_they_are_durable_before_the_title_is_shown(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, sync_files_max: int
) -> None:
    monkeypatch.setattr(title_module, "SYNC_FILES_MAX", sync_files_max)
    manifest = publish(tree, name="t", chunk_size=CHUNK).manifest
    calls: list[str] = []

    def note(module: object, name: str) -> None:
        real = getattr(module, name)

        def noted(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    with Store.open(tmp_path / "data") as store:
        title = store.begin_fill(manifest)
        for chunk, data in enumerate(chunks_of(manifest, tree)):
            title.write_chunk(chunk, data)
        title.commit(range(manifest.chunk_count))
        for module, name in ((os, "utime"), (os, "fchmod"), (os, "fsync"), (title_module, "sync_fs")):
            note(module, name)
        monkeypatch.setattr(title, "_publish_live", lambda title: calls.append("live"))
        title.go_live()
    assert calls[-1] == "live"
    last = max(k for k, name in enumerate(calls) if name in ("utime", "fchmod"))
    if sync_files_max:
        assert calls[last + 1] == "fsync"
        assert calls.count("fsync") == len(manifest.files) + 5
    else:
        assert calls[last + 1 :] == ["sync_fs", "live"]


def chunks_of(manifest: Manifest, tree: Path) -> list[bytes]:
    return [
        b"".join(
            (tree / manifest.files.path(k)).read_bytes()[at : at + length] for k, at, length in manifest.segments(chunk)
        )
        for chunk in range(manifest.chunk_count)
    ]


def test_the_same_tree_is_the_same_title_and_another_time_or_mode_another(tmp_path: Path, tree: Path) -> None:
    first = publish(tree, name="t").manifest
    assert first.files.directories == ("none", "sub/deep/void")
    assert [entry.path for entry in first.files if entry.executable] == ["sub/run.sh"]
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    assert publish(copy, name="t").manifest.title_id == first.title_id
    os.utime(copy / "m.bin", (0, (copy / "m.bin").stat().st_mtime // 1))  # as tar keeps it
    assert publish(copy, name="t").manifest.title_id == first.title_id
    os.utime(copy / "m.bin")
    assert verify_tree(copy, first).altered == ["m.bin"]
    (copy / "sub" / "run.sh").chmod(0o600)
    (copy / "none").rmdir()
    report = verify_tree(copy, first)
    assert (report.altered, report.missing, report.ok) == (["m.bin", "sub/run.sh"], ["none/"], False)
    assert publish(copy, name="t").manifest.title_id != first.title_id


def test_times_that_no_manifest_can_say_are_the_nearest(tmp_path: Path) -> None:
    for name, mtime in (("before", -5), ("after", 1 << 33)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, mtime))
    manifest = publish(tmp_path, name="t").manifest
    assert {entry.path: entry.mtime for entry in manifest.files} == {"before": 0, "after": (1 << 32) - 1}


def test_a_change_of_mode_meanwhile_is_noticed(tree: Path) -> None:
    with pytest.raises(StoreError, match="changed while"):
        publish(tree, name="t", progress=lambda done, size: (tree / "m.bin").chmod(0o755))


PROGRAM = """
import os, sys
from pathlib import Path
from p2pfill.store import Store, publish, verify_tree
tree, data = map(Path, sys.argv[1:])
manifest = publish(tree, name="gr\\u00f6\\u00dfe").manifest
with Store.open(data) as store:
    title = store.begin_fill(manifest)
    title.write_chunk(0, (tree / os.fsdecode("gr\\u00f6\\u00dfe".encode())).read_bytes())
    title.commit([0])
    title.go_live()
assert verify_tree(data / "live" / os.fsdecode(manifest.name.encode()), manifest).ok
print(sys.getfilesystemencoding(), manifest.title_id.hex())
"""


@pytest.mark.parametrize("mode", ["0", "1"])
def test_names_are_utf8_whatever_the_locale(tmp_path: Path, mode: str) -> None:
    """Under the C locale Python takes names for ASCII where it is told to believe it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "größe").write_bytes(b"x")
    (tmp_path / "tree" / "leer ü").mkdir()
    expected = publish(tmp_path / "tree", name="größe").manifest
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": mode, "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "tree"), str(tmp_path / "data")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["utf-8" if mode == "1" else "ascii", expected.title_id.hex()]
    assert os.listdir(os.fsencode(tmp_path / "data" / "live")) == ["größe".encode()]
    names = sorted(os.listdir(os.fsencode(tmp_path / "data" / "live" / "größe")))
    assert names == ["größe".encode(), "leer ü".encode()]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_is_no_utf8_is_refused_and_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").touch()
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    bad.touch() if kind == "file" else bad.mkdir()
    with pytest.raises(ManifestError, match=r"caf.udce9' is not valid UTF-8; rename it"):
        publish(tmp_path, name="t")


def test_what_is_repaired_looks_as_before(tmp_path: Path, tree: Path, umask: int) -> None:
    manifest = publish(tree, name="t", chunk_size=CHUNK).manifest
    with Store.open(tmp_path / "data") as store:
        shown = go_live(store, manifest, tree)
        before = seen(shown)
        (shown / "m.bin").unlink()
        (shown / "none").rmdir()
        shutil.rmtree(shown / "sub")
        title = store.open_title(manifest.title_id)
        title.lose([], range(len(manifest.files)))
        for chunk, data in enumerate(chunks_of(manifest, tree)):
            title.write_chunk(chunk, data)
        title.commit(range(manifest.chunk_count))
        title.go_live()
        assert seen(shown) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody whom modes stop")
@pytest.mark.parametrize("mode", [0, 0o300, 0o600])
def test_a_directory_that_may_not_be_read_is_shown_again(mode: int) -> None:
    def show_again(root: Path) -> None:
        os.umask(0o022)
        (root / "files" / "sub" / "deep").mkdir(parents=True)
        (root / "files" / "sub").chmod(mode)
        tree = Tree(os.open(root / "files", DIRECTORY_FLAGS))
        assert tree.show_directory_again("sub")
        assert not tree.show_directory_again("sub")
        assert not tree.show_directory_again("sub/deep")
        (root / "files").chmod(0o700)
        assert tree.show_directory_again("")

    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        child = os.fork()
        if not child:
            try:
                os.setgroups([])
                os.setuid(65534)
                show_again(Path(name))
            except BaseException:  # noqa: BLE001 (said on stderr; a child of pytest must end here)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        files = Path(name) / "files"
        places = files, files / "sub", files / "sub" / "deep"
        assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o755}
