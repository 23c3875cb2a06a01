"""The packed files of a title: what a plain list would say, in little memory, and every collision found."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from p2pfill.errors import ManifestError
from p2pfill.model.files import FileEntry, Files
from p2pfill.model.paths import check_tree, collision_key, find_collision

names = st.text("abAB.ß ", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


def excludes(one: str, other: str) -> bool:
    """Tell, by the rule as it is written down, whether two paths cannot be files of one tree."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


@given(st.lists(paths, min_size=1, max_size=6, unique=True))
def test_conflicts_are_found_and_nothing_else(found: list[str]) -> None:
    expected = any(excludes(one, other) for k, one in enumerate(found) for other in found[:k])
    if expected:
        with pytest.raises(ManifestError):
            check_tree(found, ())
    else:
        check_tree(found, ())


@given(st.lists(paths, min_size=1, max_size=6, unique=True))
def test_what_a_disk_may_take_for_the_same_is_found_and_nothing_else(found: list[str]) -> None:
    assume(not any(excludes(one, other) for k, one in enumerate(found) for other in found[:k]))
    keys = [collision_key(path) for path in found]
    expected = any(excludes(one, other) for k, one in enumerate(keys) for other in keys[:k])
    pair = find_collision(found, ())
    assert (pair is not None) == expected
    if pair is not None:
        assert pair[0] != pair[1]
        assert collision_key(pair[0]) == collision_key(pair[1])


@given(st.dictionaries(st.text("abcä日", min_size=1, max_size=6), st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_it_says_what_a_list_would(sizes: dict[str, int], data: st.DataObject) -> None:
    records = [(path, size, size * 7, size % 2 == 1) for path, size in sorted(sizes.items())]
    plain, offset = [], 0
    for path, size, mtime, executable in records:
        plain.append(FileEntry(path, size, offset, mtime, executable))
        offset += size
    files = Files(records, ["empty/one", "empty/two"])
    assert list(files) == plain
    assert list(files.records()) == records
    assert files.total_bytes == offset
    assert files == Files(records, ["empty/one", "empty/two"])
    assert files != Files(records, ["empty/one"])
    assert files != Files([(*record[:2], 1, record[3]) for record in records], ["empty/one", "empty/two"])
    assert files != Files([(*record[:3], not record[3]) for record in records], ["empty/one", "empty/two"])
    assert hash(files) == hash(Files(records))
    start, stop = (data.draw(st.integers(-10, 10)) for _ in range(2))
    assert files[start:stop] == tuple(plain[start:stop])
    index = data.draw(st.integers(-len(plain), len(plain) - 1))
    assert files[index] == plain[index]
    for outside in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            files[outside]
    for position in range(offset):
        found = plain[files.find(position)]
        assert found.offset <= position < found.offset + found.size


def kept_bytes(count: int) -> int:
    records = [(f"{number // 1000:04d}/segment-{number:07d}.ts", 5000, 1 << 30, True) for number in range(count)]
    tracemalloc.start()
    try:
        files = Files(records)
        assert len(files) == count
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_file_costs_little_more_than_its_path() -> None:
    few, many = kept_bytes(5_000), kept_bytes(20_000)
    assert many < 20_000 * 60  # its path is 23 bytes
    assert many < 5 * few
