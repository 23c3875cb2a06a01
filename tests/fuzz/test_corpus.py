"""All inputs that the fuzzers begin with, and what hypothesis makes of them, through all targets; see `bench.fuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzz.mutation import changed
from bench.fuzz.target import CORPUS, Target
from bench.fuzz.targets import TARGETS
from p2pfill import _native
from p2pfill.hot import _pure_bits, _pure_io, bits, io

CORPUS_BYTES_MAX = 300 * 1024

PURE = ("dialogues", "manifests", "selections", "journals", "small-files", "starts", "api")
"""Targets whose parsers keep bitmaps, or read and write by what is compiled."""

EDITS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4)
"""Places, how many bytes go there, and what comes in their place."""


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, gone, new in edits:
        place %= len(data) + 1
        data = data[:place] + new + data[place + gone :]
    return data


@pytest.fixture
def work() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="p2pfill-fuzz-", dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def use_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "_twin", _pure_bits)
    monkeypatch.setattr(io, "_twin", _pure_io)


def replay(target: Target, work: Path) -> None:
    inputs = target.inputs()
    with target.opened(work) as run:
        taken = [run(data) for data in inputs]
    # Else nothing but the first check of it is ever reached.
    assert any(taken)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_the_fuzzers_begin_with(target: Target, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "_twin", _native)
    monkeypatch.setattr(io, "_twin", _native)
    replay(target, work)


@pytest.mark.parametrize("name", PURE)
def test_the_same_without_what_is_compiled(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_pure(monkeypatch)
    replay(TARGETS[name], work)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_near_to_that(target: Target, work: Path) -> None:
    inputs = target.inputs()
    with target.opened(work) as run:

        @settings(max_examples=20, deadline=None)
        @given(data=st.sampled_from(inputs), seed=st.integers(0, 1 << 32), edits=EDITS)
        def look(data: bytes, seed: int, edits: list[tuple[int, int, bytes]]) -> None:
            by_parts = changed(data, target.form, Random(seed), target.words) if seed % 4 else None
            run(edited(data, edits) if by_parts is None else by_parts[: target.size_max])

        look()


def test_the_corpus_is_small_and_of_targets_that_there_are() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= CORPUS_BYTES_MAX
    assert {path.parent.name for path in kept} <= TARGETS.keys()
    for path in kept:
        assert path.stat().st_size <= TARGETS[path.parent.name].size_max
