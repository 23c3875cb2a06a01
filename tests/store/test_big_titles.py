"""Titles of many files and chunks: what opening, resuming and hashing may touch, counted and not timed."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfill.bench.big import Stock, write_small_files
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.store import Store, disk, hashing, publish, verify_tree
from p2pfill.swarm.ledger import ChunkLedger

CHUNK = limits.CHUNK_SIZE_MIN


def stock_of(place: Path, files: int) -> Stock:
    place.mkdir()
    write_small_files(place / "tree", files)
    return Stock(place / "tree", place, publish(place / "tree", name="title", chunk_size=CHUNK).manifest)


def test_a_whole_title_is_opened_without_a_look_at_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = stock_of(tmp_path / "work", 300)

    def refuse(*_: object) -> int:
        raise AssertionError("a file of the title was looked at")

    with monkeypatch.context() as patched:
        for name in ("open", "size"):
            patched.setattr(disk.Tree, name, refuse)
        decoded = Counter[str]()
        count_calls(patched, Manifest, "decode", decoded)
        with Store.open(stock.complete()) as store:
            (title_id,) = store.live_ids()
            title = store.open_title(title_id)
            assert title.have.all()
            assert title.live
            assert decoded["decode"] == 1


def count_calls(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: Counter[str]) -> None:
    """Count the calls of a function, which does what it did."""
    before: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return before(*arguments, **named)

    patch.setattr(owner, name, counted)


def resume_calls(place: Path, files: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], int]:
    """Return what a resume of a half complete title calls, and in how many directories its files are."""
    stock = stock_of(place, files)
    calls = Counter[str]()
    data = stock.half()
    with monkeypatch.context() as patched:
        count_calls(patched, disk.Tree, "size", calls)
        count_calls(patched, disk, "open_directory", calls)
        count_calls(patched, Bitmap, "__getitem__", calls)
        with Store.open(data) as store:
            title = store.begin_fill(stock.manifest)
            assert title.have == stock.half_bitmap()
    return calls, len({entry.path.rpartition("/")[0] for entry in stock.manifest.files})


def test_a_resume_looks_once_at_what_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, _ = resume_calls(tmp_path / "few", 500, monkeypatch)
    many, directories = resume_calls(tmp_path / "many", 2_000, monkeypatch)
    assert 2_000 * 0.4 < many["size"] < 2_000 * 0.65  # half of the chunks, and files that begin in another one
    assert many["open_directory"] <= directories
    assert many.total() < 5 * few.total()


def test_live_titles_with_few_files_come_first(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Store.open(data):
        pass
    for name, count in (("c", 90), ("a", 5), ("b", 40)):
        (laid_out,) = (stock_of(tmp_path / name, count).complete() / "titles").iterdir()
        laid_out.rename(data / "titles" / laid_out.name)
    with Store.open(data) as store:
        counts = [len(store.open_title(title_id).manifest.files) for title_id in store.live_ids()]
    assert counts == [5, 40, 90]


@pytest.mark.parametrize("fits", [True, False])
def test_a_title_larger_than_memory_is_not_left_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    tree = tmp_path / "tree"
    write_small_files(tree, 50)
    (tree / "large").write_bytes(os.urandom(5 * CHUNK + 1))
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    dropped: list[int] = []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        assert os.fstat(fd).st_size >= offset + length
        dropped.append(length)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(hashing, "memory_bytes", lambda: size * (3 if fits else 1))
    manifest = publish(tree, name="title", chunk_size=CHUNK).manifest
    assert sum(dropped) == (0 if fits else size)
    assert verify_tree(tree, manifest).ok
    assert sum(dropped) == (0 if fits else 2 * size)


def test_the_ledger_keeps_a_byte_and_two_bits_a_chunk() -> None:
    chunks = 25_600
    durable = Bitmap.full(chunks)
    tracemalloc.start()
    try:
        ledger = ChunkLedger(chunks, durable)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ledger.is_complete()
    assert kept < 1.5 * chunks
    assert peak < 20 * chunks


def test_a_resumed_ledger_is_what_single_steps_would_make() -> None:
    for count in (1, 7, 8, 9, 100):
        durable = Bitmap(count)
        for chunk in range(0, count, 3):
            durable.add(chunk)
        ledger, stepped = ChunkLedger(count, durable), ChunkLedger(count)
        for chunk in durable.indexes():
            stepped.request(chunk)
            stepped.verify(chunk)
            stepped.commit(chunk)
        ledger.check()
        assert [ledger.state(chunk) for chunk in range(count)] == [stepped.state(chunk) for chunk in range(count)]
        assert (ledger.have, ledger.missing, ledger.counts) == (stepped.have, stepped.missing, stepped.counts)
        ledger.have.discard(0)
        assert durable[0]


def test_lost_small_files_are_noticed_on_resume(tmp_path: Path) -> None:
    stock = stock_of(tmp_path / "work", 200)
    data = stock.half()
    gone = list(stock.manifest.segments(0))[3]
    (stock.files() / stock.manifest.files.path(gone.file_index)).unlink()
    with Store.open(data) as store:
        title = store.begin_fill(stock.manifest)
        assert not title.have[0]
        assert title.have.count() == stock.half_bitmap().count() - 1

