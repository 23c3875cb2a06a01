"""Bitmap: equal to a set of integers in every operation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap

sized = st.integers(0, 200).flatmap(
    lambda n: st.tuples(st.just(n), *[st.sets(st.integers(0, n - 1)) if n else st.just(set()) for _ in range(2)])
)


def of(n: int, bits: set[int]) -> Bitmap:
    bitmap = Bitmap(n)
    for k in bits:
        bitmap.add(k)
    return bitmap


@given(sized)
def test_is_a_set_of_integers(case: tuple[int, set[int], set[int]]) -> None:
    n, a, b = case
    left, right = of(n, a), of(n, b)
    assert len(left) == n
    assert left.count() == len(a)
    assert list(left.indexes()) == sorted(a)
    assert [k for k, bit in enumerate(left) if bit] == sorted(a)
    assert left.all() == (len(a) == n)
    assert left.any() == bool(a)
    assert set((left | right).indexes()) == a | b
    assert set((left & right).indexes()) == a & b
    assert set(left.and_not(right).indexes()) == a - b
    assert Bitmap.from_bytes(left.to_bytes(), n) == left
    assert left.to_flags() == bytes(k in a for k in range(n))
    assert Bitmap.from_flags(left.to_flags()) == left
    copy = left.copy()
    for k in b:
        copy[k] = False
    assert copy == left.and_not(right)
    assert set(left.indexes()) == a
    assert Bitmap.full(n).count() == n
    assert all(k in left for k in a)
    assert left.lacking(sorted(b)) == sorted(b - a)
    assert left.lacking(sorted(b, reverse=True)) == sorted(b - a, reverse=True)
    assert left.add_all([*b, *b]) == [k for k in b if k not in a]
    assert set(left.indexes()) == a | b


def test_bit_order_is_lsb_first() -> None:
    bitmap = Bitmap(10)
    bitmap[0] = bitmap[9] = True
    assert bitmap.to_bytes() == b"\x01\x02"
    assert bitmap.buffer is bitmap.buffer


@pytest.mark.parametrize(("data", "n"), [(b"", 1), (b"\x00\x00", 8), (b"\x02", 1), (b"\xff\x04", 10)])
def test_from_bytes_refuses(data: bytes, n: int) -> None:
    with pytest.raises(ValueError, match="bit"):
        Bitmap.from_bytes(data, n)


@pytest.mark.parametrize("k", [-1, 10])
def test_outside(k: int) -> None:
    bitmap = Bitmap(10)
    assert k not in bitmap
    for action in (bitmap.add, bitmap.discard, bitmap.__getitem__):
        with pytest.raises(IndexError):
            action(k)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="do not go together"):
        Bitmap(3) | Bitmap(4)
