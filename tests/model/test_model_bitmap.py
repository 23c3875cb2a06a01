"""Bitmap: equal to a set of integers in every operation, the compiled one and its pure twin."""

from __future__ import annotations

from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill import _native, hot
from p2pfill.hot._pure_bitmaps import Bitmap as PureBitmap
from p2pfill.model.bitmap import Bitmap

NativeBitmap: type[PureBitmap] = _native.Bitmap  # type: ignore[attr-defined]

both = pytest.mark.parametrize("kind", [NativeBitmap, PureBitmap], ids=["native", "pure"])

sized = st.integers(0, 200).flatmap(
    lambda n: st.tuples(st.just(n), *[st.sets(st.integers(0, n - 1)) if n else st.just(set()) for _ in range(2)])
)


def of(kind: type[PureBitmap], n: int, bits: set[int]) -> PureBitmap:
    bitmap = kind(n)
    for k in bits:
        bitmap.add(k)
    return bitmap


@both
@given(case=sized)
def test_is_a_set_of_integers(kind: type[PureBitmap], case: tuple[int, set[int], set[int]]) -> None:
    n, a, b = case
    left, right = of(kind, n, a), of(kind, n, b)
    assert len(left) == n
    assert left.count() == len(a)
    assert list(left.indexes()) == sorted(a)
    assert [k for k, bit in enumerate(left) if bit] == sorted(a)
    assert left.all() == (len(a) == n)
    assert left.any() == bool(a)
    assert left.meets(right) == bool(a & b)
    assert set((left | right).indexes()) == a | b
    assert set((left & right).indexes()) == a & b
    assert set(left.and_not(right).indexes()) == a - b
    assert kind.from_bytes(left.to_bytes(), n) == left
    assert left.to_flags() == bytes(k in a for k in range(n))
    assert kind.from_flags(left.to_flags()) == left
    copy = left.copy()
    for k in b:
        copy[k] = False
    assert copy == left.and_not(right)
    assert set(left.indexes()) == a
    assert kind.full(n).count() == n
    assert all(k in left for k in a)
    assert left.lacking(sorted(b)) == sorted(b - a)
    assert left.lacking(sorted(b, reverse=True)) == sorted(b - a, reverse=True)
    assert left.add_all([*b, *b]) == [k for k in b if k not in a]
    assert set(left.indexes()) == a | b


@both
def test_bit_order_is_lsb_first(kind: type[PureBitmap]) -> None:
    bitmap = kind(10)
    bitmap[0] = bitmap[9] = True
    assert bitmap.to_bytes() == b"\x01\x02"
    assert bitmap.buffer is bitmap.buffer


@both
@pytest.mark.parametrize(("data", "n"), [(b"", 1), (b"\x00\x00", 8), (b"\x02", 1), (b"\xff\x04", 10)])
def test_from_bytes_refuses(kind: type[PureBitmap], data: bytes, n: int) -> None:
    with pytest.raises(ValueError, match="bit"):
        kind.from_bytes(data, n)


@both
@pytest.mark.parametrize("k", [-1, 10, 1 << 70, -1 << 70])
def test_outside(kind: type[PureBitmap], k: int) -> None:
    bitmap = kind(10)
    assert bitmap.add_all([9, 9]) == [9]
    assert k not in bitmap
    for action in (bitmap.add, bitmap.discard, bitmap.__getitem__):
        with pytest.raises(IndexError):
            action(k)
    for several in (bitmap.add_all, bitmap.lacking):
        with pytest.raises(IndexError):
            several([3, k])


@both
def test_lengths_must_agree(kind: type[PureBitmap]) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        kind(3) | kind(4)
    with pytest.raises(ValueError, match="do not go together"):
        kind(3).meets(kind(4))


@both
@given(case=sized, chance=st.randoms(use_true_random=False))
def test_rarest(kind: type[PureBitmap], case: tuple[int, set[int], set[int]], chance: Random) -> None:
    n, a, b = case
    counts, start = array("H", [chance.randrange(4) for _ in range(n)]), chance.randint(0, n)
    found = sorted(a & b, key=lambda k: (counts[k], (k - start) % n))
    assert of(kind, n, a).rarest(of(kind, n, b), counts, start) == (found[0] if found else -1)


@both
@pytest.mark.parametrize(("n", "count", "start"), [(9, 8, 0), (8, 9, 0), (8, 7, 0), (8, 8, 9), (8, 8, -1)])
def test_rarest_of_what_does_not_go_together(kind: type[PureBitmap], n: int, count: int, start: int) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        kind(8).rarest(kind(n), array("H", bytes(2 * count)), start)


@both
def test_is_compared_by_value(kind: type[PureBitmap]) -> None:
    assert kind(3) == kind(3) != kind(4)
    assert kind(3) != 3
    assert kind(3) != kind.full(3)
    with pytest.raises(TypeError):
        hash(kind(3))


@both
def test_a_buffer_of_another_length_is_not_read(kind: type[PureBitmap]) -> None:
    bitmap = kind(100)
    bitmap.buffer.clear()
    with pytest.raises((ValueError, IndexError)):
        bitmap[99]


def test_no_flag_but_0_and_1() -> None:
    for kind in (NativeBitmap, PureBitmap):
        with pytest.raises(ValueError, match=r"0|base 2"):
            kind.from_flags(b"\0\2")


def test_which_one_is_used() -> None:
    assert Bitmap is (NativeBitmap if hot.NATIVE else PureBitmap)
