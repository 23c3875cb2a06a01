"""The chunks of selections are those that hold a byte of one of their files, however many are looked at together."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.cut import Cut
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.selection import chunks_of_file, chunks_of_selection, chunks_of_selections

CHUNK = limits.CHUNK_SIZE_MIN


def make(sizes: list[int]) -> Manifest:
    files = layout([(f"{number:07}", size) for number, size in enumerate(sizes)])
    count = Cut(files, CHUNK).count
    return Manifest("film", CHUNK, files, xxh3=bytes(16 * count), blake3=bytes(32 * count), integrity="blake3")


sizes = st.lists(st.sampled_from([0, 0, 1, 9, CHUNK // 3, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]), min_size=1)


@given(sizes, st.lists(st.integers(0, 1 << 64) | st.none(), max_size=9))
def test_each_selection_has_the_chunks_of_its_files(sizes: list[int], chosen: list[int | None]) -> None:
    manifest, count = make(sizes), len(sizes)
    selections = [
        None if one is None else Bitmap.from_flags(bytes(one >> (index % 65) & 1 for index in range(count)))
        for one in chosen
    ]
    right = []
    for selection in selections:
        chunks = Bitmap(manifest.chunk_count)
        for index in range(count):
            if selection is None or selection[index]:
                chunks.add_all(chunks_of_file(manifest, index))
        right.append(chunks)
    assert chunks_of_selections(manifest, selections) == right
    assert [chunks_of_selection(manifest, selection) for selection in selections] == right


def test_many_selections_look_at_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of each selection was looked for in the cut by itself: minutes, for some hundred caches."""
    random, count = Random(4), 2000
    manifest = make([random.randrange(2 * CHUNK) for _ in range(count)])
    selections = [Bitmap.from_flags(bytes(random.choices((0, 1), k=count))) for _ in range(100)]
    looks = 0
    at = Cut._at

    def counting(cut: Cut, position: int) -> int:
        nonlocal looks
        looks += 1
        return at(cut, position)

    monkeypatch.setattr(Cut, "_at", counting)
    chunks_of_selections(manifest, selections)
    assert looks <= 2 * count
