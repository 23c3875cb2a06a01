"""Bitmaps and rendezvous: examples on both twins, and the property that the twins are equal bit for bit."""

import math
from array import array
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill import _native
from p2pfill.hot import _pure_bits, bits

SEEDS = st.integers(0, 2**64 - 1)
WEIGHTS = st.floats(min_value=1e-6, max_value=1e12)
MEMBERS = st.lists(st.tuples(SEEDS, WEIGHTS), min_size=1, max_size=12)


def bitmap(n: int, *indexes: int) -> bytearray:
    out = bytearray((n + 7) // 8)
    for k in indexes:
        out[k >> 3] |= 1 << (k & 7)
    return out


def test_popcount(hot: SimpleNamespace) -> None:
    assert hot.bits.popcount(b"") == 0
    assert hot.bits.popcount(b"\xff" * 8 + b"\x01\x80\x03") == 68
    assert hot.bits.popcount(bytearray(bitmap(100, 0, 63, 64, 99))) == 4


@pytest.mark.parametrize("size", [0, 1, 8, 9, 100])
def test_bitmaps_are_combined(hot: SimpleNamespace, size: int) -> None:
    a, b = bytearray(b"\x0f\xa5" * 50)[:size], bytearray(b"\x33\xff\x00" * 34)[:size]
    assert hot.bits.bit_and(a, b) == bytes(x & y for x, y in zip(a, b, strict=True))
    assert hot.bits.bit_or(a, b) == bytes(x | y for x, y in zip(a, b, strict=True))
    assert hot.bits.bit_and_not(a, b) == bytes(x & ~y for x, y in zip(a, b, strict=True))
    for combine in (hot.bits.bit_and, hot.bits.bit_or, hot.bits.bit_and_not):
        assert type(combine(a, b)) is bytearray
        with pytest.raises(ValueError, match="do not go together"):
            combine(a, b + b"\0")


def test_count_owned(hot: SimpleNamespace) -> None:
    owners = array("H", [0, 2, bits.NOBODY, 7, 1] * 20)
    assert list(hot.bits.count_owned(bitmap(100), owners, 3)) == [0, 0, 0]
    assert list(hot.bits.count_owned(bitmap(100, 0, 1, 2, 3, 4, 64, 65, 99), owners, 3)) == [2, 3, 1]
    assert list(hot.bits.count_owned(b"", array("H"), 0)) == []
    assert list(hot.bits.count_owned(b"\xff", array("H", [0]), 1)) == [1]
    with pytest.raises(ValueError, match="does not fit"):
        hot.bits.count_owned(b"\0", owners, 3)
    with pytest.raises(ValueError, match="type 'H'"):
        hot.bits.count_owned(bitmap(100), array("I", [0] * 100), 3)


def test_pick_rarest_takes_least_available(hot: SimpleNamespace) -> None:
    avail = array("H", [5] * 200)
    avail[130], avail[131] = 2, 1
    have = bitmap(200, 3, 130)
    assert hot.bits.pick_rarest(have, bitmap(200, 3, 130, 131), avail, 0) == 130
    assert hot.bits.pick_rarest(have, bitmap(200, 3, 131), avail, 0) == 3
    assert hot.bits.pick_rarest(have, bitmap(200, 131), avail, 0) == -1


def test_pick_rarest_ties_go_around(hot: SimpleNamespace) -> None:
    avail = array("H", [65535] * 130)
    both = bitmap(130, 10, 64, 129)
    expected = {0: 10, 10: 10, 11: 64, 64: 64, 65: 129, 129: 129, 130: 10, 140: 10}
    assert {start: hot.bits.pick_rarest(both, both, avail, start) for start in expected} == expected


def test_pick_rarest_ignores_bits_beyond_the_end(hot: SimpleNamespace) -> None:
    assert hot.bits.pick_rarest(b"\xf8", b"\xff", array("H", [1, 1, 1]), 0) == -1
    assert hot.bits.pick_rarest(b"", b"", array("H"), 0) == -1


@pytest.mark.parametrize(
    ("have", "wanted", "avail", "start"),
    [
        (b"\0", b"\0\0", array("H", [0] * 9), 0),
        (b"\0\0", b"\0", array("H", [0] * 9), 0),
        (b"\0\0\0", b"\0\0\0", array("H", [0] * 9), 0),
        (b"\0\0", b"\0\0", array("I", [0] * 9), 0),
        (b"\0\0", b"\0\0", array("H", [0] * 9), -1),
    ],
)
def test_pick_rarest_refuses(hot: SimpleNamespace, have: bytes, wanted: bytes, avail: "array[int]", start: int) -> None:
    with pytest.raises(ValueError):
        hot.bits.pick_rarest(have, wanted, avail, start)


def test_assign_shares_are_exact(hot: SimpleNamespace) -> None:
    owners = hot.bits.assign(range(1000), [11, 22, 33, 44], [1.0, 2.0, 3.0, 4.0])
    assert [owners.count(i) for i in range(4)] == [100, 200, 300, 400]
    assert owners.typecode == "H"


def test_assign_follows_rank_while_quota_is_left(hot: SimpleNamespace) -> None:
    seeds, weights = [5, 6, 7], [1.0, 1.0, 2.5]
    left = list(bits.quotas(90, weights))
    for chunk, owner in enumerate(hot.bits.assign(range(90), seeds, weights)):
        assert owner == next(i for i in hot.bits.rank(chunk, seeds, weights) if left[i])
        left[owner] -= 1
    assert left == [0, 0, 0]


def test_rank_follows_weights(hot: SimpleNamespace) -> None:
    first = [hot.bits.rank(chunk, [1, 2], [1.0, 3.0])[0] for chunk in range(2000)]
    assert 0.70 < sum(first) / 2000 < 0.80
    assert sorted(hot.bits.rank(7, list(range(20)), [1.0] * 20)) == list(range(20))
    assert hot.bits.rank(0, [], []) == []


def test_known_answers(hot: SimpleNamespace) -> None:
    """Owners are agreed between machines, so they may never change by accident."""
    owners = hot.bits.assign(range(16), [1, 2, 3], [1.0, 1.0, 2.0])
    assert owners.tolist() == [2, 0, 0, 0, 0, 2, 2, 2, 1, 2, 2, 2, 1, 1, 1, 2]
    assert hot.bits.rank(5, [1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0]) == [4, 3, 0, 2, 1]


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_bad_weights_are_refused(hot: SimpleNamespace, weight: float) -> None:
    with pytest.raises(ValueError, match="weight 1"):
        hot.bits.assign(range(4), [1, 2], [1.0, weight])
    with pytest.raises(ValueError, match="weight 1"):
        hot.bits.rank(0, [1, 2], [1.0, weight])


def test_bad_members_are_refused(hot: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="at least one member"):
        hot.bits.assign(range(1), [], [])
    with pytest.raises(ValueError, match="do not fit"):
        hot.bits.assign(range(1), [1], [])
    with pytest.raises(ValueError, match="64-bit"):
        hot.bits.assign(range(1), [2**64], [1.0])
    with pytest.raises(ValueError, match="64-bit"):
        hot.bits.rank(1, [-1], [1.0])
    with pytest.raises(ValueError, match="more than"):
        hot.bits.assign(range(1), range(65536), [1.0] * 65536)
    with pytest.raises(ValueError, match="not within"):
        hot.bits.assign([-1], [1], [1.0])
    assert len(hot.bits.assign(range(0), [], [])) == 0


@given(st.data(), st.lists(st.integers(0, 9), max_size=200))
def test_twins_agree_on_count_owned(data: st.DataObject, owners: list[int]) -> None:
    size = (len(owners) + 7) // 8
    buf = data.draw(st.binary(min_size=size, max_size=size))
    native, pure = array("I", bytes(32)), array("I", bytes(32))
    _native.count_owned(buf, array("H", owners), native)
    _pure_bits.count_owned(buf, array("H", owners), pure)
    assert native == pure


@given(st.integers(0, 5000), st.lists(WEIGHTS, min_size=1, max_size=20))
@settings(deadline=None)
def test_quotas_are_within_one_of_the_exact_share(chunk_count: int, weights: list[float]) -> None:
    quotas = bits.quotas(chunk_count, weights)
    total = sum(Fraction(weight) for weight in weights)
    assert sum(quotas) == chunk_count
    assert all(abs(q - chunk_count * Fraction(w) / total) < 1 for q, w in zip(quotas, weights, strict=True))


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_twins_agree_on_popcount(data: bytes) -> None:
    assert _native.popcount(data) == _pure_bits.popcount(data)


@given(st.data(), st.integers(1, 300))
@settings(deadline=None)
def test_twins_agree_on_rarest(data: st.DataObject, n: int) -> None:
    size = (n + 7) // 8
    have = data.draw(st.binary(min_size=size, max_size=size))
    wanted = data.draw(st.binary(min_size=size, max_size=size))
    avail = array("H", data.draw(st.lists(st.sampled_from([0, 1, 2, 65535]), min_size=n, max_size=n)))
    start = data.draw(st.integers(0, n - 1))
    expected = min(
        (k for k in range(n) if (have[k >> 3] & wanted[k >> 3]) >> (k & 7) & 1),
        key=lambda k: (avail[k], (k - start) % n),
        default=-1,
    )
    assert _native.pick_rarest(have, wanted, avail, start) == expected
    assert _pure_bits.pick_rarest(have, wanted, avail, start) == expected


@given(SEEDS.filter(lambda chunk: chunk < 2**32), MEMBERS | st.just([(2**64 - 1, 5e-324), (0, 1.7e308)]))
@settings(deadline=None)
def test_twins_agree_on_scores_bit_for_bit(chunk: int, members: list[tuple[int, float]]) -> None:
    seeds, weights = array("Q", [m[0] for m in members]), array("d", [m[1] for m in members])
    native, pure = array("d", bytes(8 * len(members))), array("d", bytes(8 * len(members)))
    _native.scores(chunk, seeds, weights, native)
    _pure_bits.scores(chunk, seeds, weights, pure)
    assert native.tobytes() == pure.tobytes()


@given(st.integers(0, 200), MEMBERS)
@settings(deadline=None)
def test_twins_agree_on_owners(chunk_count: int, members: list[tuple[int, float]]) -> None:
    seeds, weights = array("Q", [m[0] for m in members]), array("d", [m[1] for m in members])
    native, pure = array("H", bytes(2 * chunk_count)), array("H", bytes(2 * chunk_count))
    chunks = array("I", range(7, 7 + 3 * chunk_count, 3))
    _native.assign(chunks, seeds, weights, bits.quotas(chunk_count, weights), native)
    _pure_bits.assign(chunks, seeds, weights, bits.quotas(chunk_count, weights), pure)
    assert native == pure


@given(st.floats(min_value=2.0**-53, max_value=1.0, exclude_max=True))
@settings(deadline=None)
def test_the_logarithm_is_a_logarithm(x: float) -> None:
    assert math.isclose(_pure_bits._ln(x), math.log(x), rel_tol=1e-11)


def test_the_mix_is_splitmix64() -> None:
    """The first output of the published generator from the seed 0."""
    assert _pure_bits._mix(0) == 0xE220A8397B1DCDAF


def test_native_checks_sizes_itself() -> None:
    with pytest.raises(ValueError):
        _native.pick_rarest(b"", b"\0", array("H", [1]), 0)
    with pytest.raises(ValueError):
        _native.scores(0, array("Q", [1]), array("d", [1.0]), array("d", [0.0, 0.0]))
    with pytest.raises(ValueError):
        _native.assign(array("I", [0, 1]), array("Q", [1]), array("d", [1.0]), array("I", [1]), array("H", [0, 0]))
