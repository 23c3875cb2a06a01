"""Pure twin of the memory operations of `p2pfill._native`. The checks of arguments are in `bits`.

Scores must be the same bits on every machine, or two caches would disagree about who fetches a chunk. So the
logarithm uses only operations that IEEE 754 rounds exactly, in a fixed order. Rejected: libm's log(), which differs
in the last bit between libraries, and in glibc between processors with and without fused multiply-add.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import chain, compress

_MASK = 0xFFFFFFFFFFFFFFFF
_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_ONE = "1"


def _mix(value: int) -> int:
    """The splitmix64 step (Steele, Lea, Flood 2014): a bijection of 64 bits with full avalanche."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _ln(x: float) -> float:
    """Natural logarithm of a positive x by the series of artanh; good to 1e-14, the same bits everywhere."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    series = 1.0 / 17.0
    for divisor in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = series * z + 1.0 / divisor
    return 2.0 * s * series + exponent * _LN2


def _score(chunk_mix: int, seed: int, weight: float) -> float:
    # 52 bits and a half fit a double exactly, so 0 < u < 1 always.
    u = ((_mix(seed ^ chunk_mix) >> 12) + 0.5) * (1.0 / 4503599627370496.0)
    return -_ln(u) / weight


def popcount(buf: bytes | bytearray) -> int:
    """Number of set bits."""
    return int.from_bytes(buf, "little").bit_count()


def bit_and(a: bytearray, b: bytearray) -> bytearray:
    """Contract in `bits.bit_and`."""
    return _combine(a, b, int.__and__)


def bit_or(a: bytearray, b: bytearray) -> bytearray:
    """Contract in `bits.bit_or`."""
    return _combine(a, b, int.__or__)


def bit_and_not(a: bytearray, b: bytearray) -> bytearray:
    """Contract in `bits.bit_and_not`."""
    return _combine(a, b, lambda x, y: x & ~y)


def _combine(a: bytearray, b: bytearray, how: Callable[[int, int], int]) -> bytearray:
    if len(a) != len(b):
        raise ValueError(f"bitmaps of {len(a)} and {len(b)} bytes do not go together")
    return bytearray(how(int.from_bytes(a, "little"), int.from_bytes(b, "little")).to_bytes(len(a), "little"))


def pick_rarest(have: bytes | bytearray, wanted: bytes | bytearray, avail: "array[int]", start: int) -> int:
    """Contract in `bits.pick_rarest`; all lengths are checked there."""
    both = int.from_bytes(have, "little") & int.from_bytes(wanted, "little")
    n = len(avail)
    # Of equals min() takes the first.
    after = compress(range(start, n), map(_ONE.__eq__, _bits(both >> start, n - start)))
    before = compress(range(start), map(_ONE.__eq__, _bits(both, start)))
    return min(chain(after, before), key=avail.__getitem__, default=-1)


def _bits(value: int, count: int) -> str:
    """The lowest `count` bits of `value` as text, the lowest first."""
    return f"{value & ((1 << count) - 1):0{count}b}"[::-1] if count else ""


def count_owned(buf: bytes | bytearray, owners: "array[int]", counts: "array[int]") -> None:
    """Add the number of set bits of each owner to `counts`; contract in `bits.count_owned`."""
    chosen = compress(owners, map(_ONE.__eq__, _bits(int.from_bytes(buf, "little"), len(owners))))
    for owner, count in Counter(chosen).items():
        if owner < len(counts):
            counts[owner] += count


def scores(chunk: int, seeds: "array[int]", weights: "array[float]", out: "array[float]") -> None:
    """Write the rendezvous score of each member for `chunk` to `out`; the least is the best."""
    chunk_mix = _mix(chunk)
    for i, (seed, weight) in enumerate(zip(seeds, weights, strict=True)):
        out[i] = _score(chunk_mix, seed, weight)


def assign(
    chunks: "array[int]", seeds: "array[int]", weights: "array[float]", quotas: "array[int]", out: "array[int]"
) -> None:
    """Write the owner of each chunk to `out`. `quotas` (array('I')) adds up to len(out); it is used up."""
    members = [i for i, quota in enumerate(quotas) if quota]
    for place, chunk in enumerate(chunks):
        chunk_mix = _mix(chunk)
        best = members[0]
        best_score = _score(chunk_mix, seeds[best], weights[best])
        for i in members[1:]:
            score = _score(chunk_mix, seeds[i], weights[i])
            if score < best_score:
                best, best_score = i, score
        out[place] = best
        quotas[best] -= 1
        if not quotas[best]:
            members.remove(best)
