"""Publishing a tree and comparing one with a manifest."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import xxhash
from blake3 import blake3

from p2pfill.errors import ManifestError, StoreError
from p2pfill.model import limits
from p2pfill.store import publish, verify_tree

CHUNK = limits.CHUNK_SIZE_MIN


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "b").mkdir(parents=True)
    rng = random.Random(3)
    (root / "a").write_bytes(rng.randbytes(3 * CHUNK + 5))
    (root / "b" / "ä é").write_bytes(rng.randbytes(CHUNK))
    (root / "b" / "empty").touch()
    (root / "z").write_bytes(b"tail")
    return root


def test_digests_are_those_of_the_stream(tree: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = publish(tree, name="t", chunk_size=CHUNK, progress=lambda done, total: calls.append((done, total)))
    manifest = result.manifest
    assert [entry.path for entry in manifest.files] == ["a", "b/empty", "b/ä é", "z"]
    stream = b"".join((tree / entry.path).read_bytes() for entry in manifest.files)
    assert manifest.size == len(stream)
    for chunk in range(manifest.chunk_count):
        data = stream[slice(*manifest.cut.span(chunk))]
        assert manifest.chunk_xxh3(chunk) == xxhash.xxh3_128(data).digest()
        assert manifest.chunk_blake3(chunk) == blake3(data).digest()
    assert calls[-1] == (len(stream), len(stream))
    assert publish(tree, name="t", chunk_size=CHUNK, workers=1).manifest.title_id == manifest.title_id
    assert not result.skipped


def test_a_single_file(tree: Path) -> None:
    manifest = publish(tree / "a", name="one", integrity="xxh3").manifest
    assert [entry.path for entry in manifest.files] == ["a"]
    assert manifest.integrity == "xxh3"


def test_links_and_special_files(tree: Path) -> None:
    (tree / "to-file").symlink_to("z")
    (tree / "to-directory").symlink_to("b")
    (tree / "broken").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    result = publish(tree, name="t")
    assert "to-file" in [entry.path for entry in result.manifest.files]
    assert [text.split(" ")[0] for text in result.skipped] == ["broken", "fifo", "to-directory"]
    assert verify_tree(tree, result.manifest).ok


def test_what_cannot_be_published(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no-such"):
        publish(tmp_path / "no-such", name="t")
    (tmp_path / "void").mkdir()
    with pytest.raises(StoreError, match="no file"):
        publish(tmp_path / "void", name="t")
    with pytest.raises(ManifestError, match="chunk size"):
        publish(tree, name="t", chunk_size=0)
    with pytest.raises(ManifestError, match="name"):
        publish(tree, name="../t")
    Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff")).touch()
    with pytest.raises(ManifestError, match="UTF-8"):
        publish(tree, name="t")


@pytest.mark.parametrize("change", ["append", "rewrite", "delete", "cut"])
def test_a_change_meanwhile_is_noticed(tree: Path, change: str) -> None:
    victim = tree / "a"

    def progress(done: int, total: int) -> None:
        if not victim.exists() or victim.stat().st_mtime_ns == 1:
            return
        if change == "delete":
            victim.unlink()
        elif change == "cut":
            os.truncate(victim, 5)
        else:
            with victim.open("ab" if change == "append" else "r+b") as file:
                file.write(b"x")
        if victim.exists():
            os.utime(victim, ns=(1, 1))

    with pytest.raises(StoreError, match=r"chang|shorter"):
        publish(tree, name="t", chunk_size=CHUNK, progress=progress)


def test_verify_finds_each_kind_of_damage(tree: Path) -> None:
    manifest = publish(tree, name="t", chunk_size=CHUNK).manifest
    assert verify_tree(tree, manifest).ok
    (tree / "unasked").touch()
    report = verify_tree(tree, manifest)
    assert report.ok
    assert report.extra == ["unasked"]
    with (tree / "a").open("r+b") as file:
        file.seek(CHUNK + 1)
        byte = file.read(1)
        file.seek(CHUNK + 1)
        file.write(bytes([byte[0] ^ 0x10]))
    report = verify_tree(tree, manifest)
    assert [(bad.chunk, bad.files) for bad in report.bad] == [(1, ("a",))]
    assert not report.ok
    (tree / "z").unlink()
    os.truncate(tree / "b" / "ä é", 3)
    report = verify_tree(tree, manifest)
    assert report.missing == ["z"]
    assert [(wrong.path, wrong.actual) for wrong in report.wrong_size] == [("b/ä é", 3)]
    assert {bad.chunk for bad in report.bad} == {1, 4, 5}
    with pytest.raises(StoreError, match="not a directory"):
        verify_tree(tree / "a", manifest)


def test_the_manifest_in_the_tree_is_no_file_of_the_title(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path given for it decides, however that is written, and no name does."""
    first = publish(tree, name="t", out=tree / "t.fill")
    (tree / "t.fill").write_bytes(first.manifest.encode())
    (tree / "b" / "t.fill").write_bytes(b"another file of that name")
    again = publish(tree, name="t", out=tree / "t.fill")
    assert [entry.path for entry in again.manifest.files] == ["a", "b/empty", "b/t.fill", "b/ä é", "z"]
    assert again.skipped == ["t.fill (the title's own manifest)"]
    (tree / "b" / "t.fill").unlink()
    (tree.parent / "link").symlink_to("tree/b")
    monkeypatch.chdir(tree)
    for root, out in ((".", "t.fill"), (tree, "b/../t.fill"), ("../tree", "../link/../t.fill")):
        assert publish(Path(root), name="t", out=Path(out)).manifest == first.manifest
    elsewhere = publish(tree, name="t", out=tree.parent / "t.fill").manifest
    assert "t.fill" in [entry.path for entry in elsewhere.files]
    with pytest.raises(StoreError, match="written over it"):
        publish(tree / "a", name="t", out=tree / "a")
