"""Operations on bitmaps and on rendezvous scores: memory only, no files, sockets or clocks.

This module checks arguments and does what is cheap; the loops are in `p2pfill._native` or in `_pure_bits`.

Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): with u uniform
in (0, 1) from a hash of (member, chunk), the member with the least -ln(u)/weight wins with probability
weight/sum. `assign` bounds that by exact quotas, since a link that got 10 % more chunks than its share finishes 10 %
later; a quota costs a little of the stability when members change, which a running fill does not notice.

Invariant: both twins give the same bits on every machine (see `_pure_bits` on the logarithm).
"""

import math
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfill.hot import NATIVE

if TYPE_CHECKING or not NATIVE:
    from p2pfill.hot import _pure_bits as _twin
else:
    from p2pfill import _native as _twin

__all__ = [
    "MEMBERS_MAX",
    "NOBODY",
    "assign",
    "bit_and",
    "bit_and_not",
    "bit_or",
    "count_owned",
    "pick_rarest",
    "popcount",
    "quotas",
    "rank",
]

MEMBERS_MAX = 0xFFFF  # an owner is one 16-bit number
NOBODY = 0xFFFF  # the owner of what nobody owns: an index that no member has
CHUNKS_MAX = 0xFFFFFFFF  # a quota is one 32-bit number


def popcount(buf: bytes | bytearray) -> int:
    """Number of set bits in `buf`."""
    return _twin.popcount(buf)


def bit_and(a: bytearray, b: bytearray) -> bytearray:
    """The bits that are set in both, as a new bitmap. Raises ValueError for bitmaps of different lengths."""
    return _twin.bit_and(a, b)


def bit_or(a: bytearray, b: bytearray) -> bytearray:
    """The bits that are set in either, as a new bitmap. Raises ValueError for bitmaps of different lengths."""
    return _twin.bit_or(a, b)


def bit_and_not(a: bytearray, b: bytearray) -> bytearray:
    """The bits that are set in `a` and not in `b`, as a new bitmap. Raises ValueError for different lengths."""
    return _twin.bit_and_not(a, b)


def pick_rarest(have: bytes | bytearray, wanted: bytes | bytearray, avail: "array[int]", start: int) -> int:
    """The bit that is set in both bitmaps and has the least `avail`, or -1 if there is none.

    Bitmaps are LSB first, ceil(len(avail) / 8) bytes each; bits from len(avail) on are ignored. `avail` is an
    array('H') with one count per bit. Of equals, the first at or after bit `start`, cyclic, is taken.
    Raises ValueError if lengths do not fit, `avail` is no array('H'), or `start` is negative.
    """
    n = len(avail)
    if avail.typecode != "H":
        raise ValueError(f"avail must be an array of type 'H', not '{avail.typecode}'")
    if not len(have) == len(wanted) == (n + 7) >> 3:
        raise ValueError(f"bitmaps of {len(have)} and {len(wanted)} bytes do not fit {n} counts")
    if start < 0:
        raise ValueError(f"start is negative: {start}")
    return _twin.pick_rarest(have, wanted, avail, start % n) if n else -1


def count_owned(buf: bytes | bytearray, owners: "array[int]", member_count: int) -> "array[int]":
    """How many of the set bits each member owns: an array('I') of `member_count`.

    `buf` is a bitmap, LSB first, of len(owners) bits; `owners` an array('H') with a member's index for each bit, or
    `NOBODY`. Bits of other owners count for nobody. Raises ValueError if lengths do not fit.
    """
    if owners.typecode != "H":
        raise ValueError(f"owners must be an array of type 'H', not '{owners.typecode}'")
    if len(buf) != (len(owners) + 7) >> 3:
        raise ValueError(f"a bitmap of {len(buf)} bytes does not fit {len(owners)} owners")
    counts = array("I", bytes(4 * member_count))
    _twin.count_owned(buf, owners, counts)
    return counts


def quotas(chunk_count: int, weights: Sequence[float]) -> "array[int]":
    """Chunks per member in proportion to weight, by largest remainder: each within 1 of its exact share.

    Computed in whole numbers (a float is a fraction), so no rounding can lose or invent a chunk. Of equal remainders
    the earlier member's counts as larger. Raises ValueError as `assign` does.
    """
    if not 0 <= chunk_count <= CHUNKS_MAX:
        raise ValueError(f"chunk count {chunk_count} is not within 0..{CHUNKS_MAX}")
    _check_weights(weights)
    if not weights:
        if chunk_count:
            raise ValueError("chunks need at least one member")
        return array("I")
    ratios = [float(weight).as_integer_ratio() for weight in weights]
    scale = max(denominator for _, denominator in ratios)  # all are powers of two, so this is the common one
    shares = [numerator * (scale // denominator) * chunk_count for numerator, denominator in ratios]
    total = sum(numerator * (scale // denominator) for numerator, denominator in ratios)
    result = array("I", [share // total for share in shares])
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(shares[i] % total), i))
    for i in by_remainder[: chunk_count - sum(result)]:
        result[i] += 1
    return result


def assign(chunks: Sequence[int], seeds: Sequence[int], weights: Sequence[float]) -> "array[int]":
    """Owner of each of `chunks` (numbers) as an array('H') of member indexes.

    In the order given each chunk goes to its best-scored member that has quota left (`quotas`), so every member owns
    its share of them to within one. `seeds` are 64-bit numbers, one per member, well mixed or not; `weights` are
    positive and finite. Raises ValueError if these do not hold, for more than MEMBERS_MAX members, for numbers beyond
    CHUNKS_MAX and for chunks without members. Cost: chunks x members; the native twin drops the GIL.
    """
    seed_array, weight_array = _members(seeds, weights)
    quota_array = quotas(len(chunks), weights)
    try:
        chunk_array = array("I", chunks)
    except OverflowError as error:
        raise ValueError(f"a chunk is not within 0..{CHUNKS_MAX}: {error}") from error
    out = array("H", bytes(2 * len(chunk_array)))
    _twin.assign(chunk_array, seed_array, weight_array, quota_array, out)
    return out


def rank(chunk: int, seeds: Sequence[int], weights: Sequence[float]) -> list[int]:
    """All members by their plain score for `chunk`, best first; of equals the earlier. Raises as `assign` does."""
    if not 0 <= chunk <= CHUNKS_MAX:
        raise ValueError(f"chunk {chunk} is not within 0..{CHUNKS_MAX}")
    seed_array, weight_array = _members(seeds, weights)
    out = array("d", bytes(8 * len(seed_array)))
    _twin.scores(chunk, seed_array, weight_array, out)
    return sorted(range(len(out)), key=out.__getitem__)


def _check_weights(weights: Sequence[float]) -> None:
    if len(weights) > MEMBERS_MAX:
        raise ValueError(f"{len(weights)} members are more than {MEMBERS_MAX}")
    for i, weight in enumerate(weights):
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"weight {i} is {weight}; weights must be positive and finite")


def _members(seeds: Sequence[int], weights: Sequence[float]) -> "tuple[array[int], array[float]]":
    if len(seeds) != len(weights):
        raise ValueError(f"{len(seeds)} seeds do not fit {len(weights)} weights")
    _check_weights(weights)
    try:
        return array("Q", seeds), array("d", weights)
    except OverflowError as error:
        raise ValueError(f"a seed is not a 64-bit number: {error}") from error
