"""A fixed number of bits, as holdings travel and are kept: the pure twin of the class of `p2pfill._native`.

Bit k is mask 1 << (k & 7) of byte k >> 3; the unused bits of the last byte are always zero, so that counting,
comparing and encoding need no masks. `buffer` is shared with the native bit operations, which is why this is a
bytearray and not one large int: setting a bit of an int would copy all of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator

from p2pfill.hot import bits

_new = object.__new__
_BITS_OF_BYTE = tuple(tuple(bit for bit in range(8) if value >> bit & 1) for value in range(256))

_DIGITS = bytes.maketrans(b"\0\1", b"01")
_FLAGS = bytes.maketrans(b"01", b"\0\1")


class Bitmap:
    """`n` bits, all clear at first. Indexes outside 0 to n - 1 raise `IndexError`; negative ones too."""

    __slots__ = ("_buffer", "_n")

    # Mutable and compared by value, so not hashable.
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, n: int) -> None:
        if n < 0:
            raise ValueError(f"a bitmap of {n} bits is not possible")
        self._n = n
        self._buffer = bytearray((n + 7) >> 3)

    @classmethod
    def full(cls, n: int) -> Bitmap:
        """Return a bitmap of `n` set bits."""
        bitmap = cls(n)
        bitmap._buffer[:] = b"\xff" * len(bitmap._buffer)
        if n & 7:
            bitmap._buffer[-1] = (1 << (n & 7)) - 1
        return bitmap

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, n: int) -> Bitmap:
        """Return the bitmap of `n` bits in `data`. Raises `ValueError` for a wrong length or stray trailing bits."""
        bitmap = cls(n)
        if len(data) != len(bitmap._buffer):
            raise ValueError(f"{len(data)} bytes where a bitmap of {n} bits has {len(bitmap._buffer)}")
        bitmap._buffer[:] = data
        if n & 7 and bitmap._buffer[-1] >> (n & 7):
            raise ValueError(f"bits are set beyond the {n} of the bitmap")
        return bitmap

    @classmethod
    def from_flags(cls, flags: bytes | bytearray) -> Bitmap:
        """Return the bitmap in which bit k is set where byte k of `flags` is 1; all others are 0."""
        # As digits: a number is read from those at once, where setting bit after bit takes a hundred times as long.
        n = len(flags)
        bits_of = int(flags.translate(_DIGITS)[::-1], 2) if n else 0
        return cls.from_bytes(bits_of.to_bytes((n + 7) >> 3, "little"), n)

    def to_flags(self) -> bytes:
        """Return a byte a bit, 1 where it is set, as `from_flags` takes them."""
        digits = f"{int.from_bytes(self._buffer, 'little'):0{self._n}b}" if self._n else ""
        return digits.encode()[::-1].translate(_FLAGS)

    @property
    def buffer(self) -> bytearray:
        """The bits themselves, for native operations. Callers keep its length and leave unused bits zero."""
        return self._buffer

    def to_bytes(self) -> bytes:
        """Return the bits as `from_bytes` takes them."""
        return bytes(self._buffer)

    def copy(self) -> Bitmap:
        """Return an independent copy."""
        bitmap = _new(Bitmap)
        bitmap._n, bitmap._buffer = self._n, self._buffer[:]
        return bitmap

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, k: int) -> bool:
        if not 0 <= k < self._n:
            raise IndexError(f"bit {k} of a bitmap of {self._n}")
        return bool(self._buffer[k >> 3] >> (k & 7) & 1)

    def __setitem__(self, k: int, value: bool) -> None:
        if value:
            self.add(k)
        else:
            self.discard(k)

    def __contains__(self, k: int) -> bool:
        """Tell whether bit `k` is set; False outside of the bitmap."""
        return 0 <= k < self._n and bool(self._buffer[k >> 3] >> (k & 7) & 1)

    def add(self, k: int) -> None:
        """Set bit `k`."""
        if not 0 <= k < self._n:
            raise IndexError(f"bit {k} of a bitmap of {self._n}")
        self._buffer[k >> 3] |= 1 << (k & 7)

    def add_all(self, chosen: Iterable[int]) -> list[int]:
        """Set the bits `chosen`; return those of them that were clear, each once, in the order given."""
        buffer, n, fresh = self._buffer, self._n, []
        for k in chosen:
            if not 0 <= k < n:
                raise IndexError(f"bit {k} of a bitmap of {n}")
            place, bit = k >> 3, 1 << (k & 7)
            if not buffer[place] & bit:
                buffer[place] |= bit
                fresh.append(k)
        return fresh

    def lacking(self, chosen: Collection[int]) -> list[int]:
        """Return those of the bits `chosen` that are clear, in the order given."""
        if chosen and not 0 <= min(chosen) <= max(chosen) < self._n:
            raise IndexError(f"bits {min(chosen)} to {max(chosen)} of a bitmap of {self._n}")
        buffer = self._buffer
        return [k for k in chosen if not buffer[k >> 3] >> (k & 7) & 1]

    def discard(self, k: int) -> None:
        """Clear bit `k`."""
        if not 0 <= k < self._n:
            raise IndexError(f"bit {k} of a bitmap of {self._n}")
        self._buffer[k >> 3] &= ~(1 << (k & 7)) & 0xFF

    def count(self) -> int:
        """Return how many bits are set."""
        return bits.popcount(self._buffer)

    def all(self) -> bool:
        """Tell whether every bit is set; True for a bitmap of no bits."""
        return self.count() == self._n

    def any(self) -> bool:
        """Tell whether some bit is set."""
        # One comparison in C; looking at byte after byte takes as long as a whole decision where few are set.
        return self._buffer != bytes(len(self._buffer))

    def meets(self, other: Bitmap) -> bool:
        """Tell whether some bit is set in both. Raises `ValueError` where lengths differ."""
        return self._combined(bits.bit_and, other).any()

    def rarest(self, other: Bitmap, counts: array[int], start: int) -> int:
        """Return the bit that is set here and in `other` and has the least of `counts`, an array('H') with one a bit.

        -1 where there is none; of equals the first at or after bit `start`, cyclic, which is 0 to n. Raises
        `ValueError` where lengths differ.
        """
        if not self._n == other._n == len(counts) or not 0 <= start <= self._n:
            raise ValueError(
                f"bitmaps of {self._n} and {other._n} bits, {len(counts)} counts and start {start} do not go together"
            )
        return bits.pick_rarest(self._buffer, other._buffer, counts, start) if self._n else -1

    def indexes(self) -> Iterator[int]:
        """Yield the set bits, ascending. Bits changed meanwhile may or may not be seen."""
        for position, value in enumerate(self._buffer):
            if value:
                for bit in _BITS_OF_BYTE[value]:
                    yield (position << 3) + bit

    def __iter__(self) -> Iterator[bool]:
        """Yield every bit in order. (`indexes` gives the numbers of the set ones.)"""
        for k in range(self._n):
            yield bool(self._buffer[k >> 3] >> (k & 7) & 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self._n == other._n and self._buffer == other._buffer

    def __or__(self, other: Bitmap) -> Bitmap:
        return self._combined(bits.bit_or, other)

    def __and__(self, other: Bitmap) -> Bitmap:
        return self._combined(bits.bit_and, other)

    def and_not(self, other: Bitmap) -> Bitmap:
        """Return the bits that are set here and not in `other`. Raises `ValueError` where lengths differ."""
        return self._combined(bits.bit_and_not, other)

    def __repr__(self) -> str:
        return f"<Bitmap {self.count()} of {self._n}>"

    def _combined(self, how: Callable[[bytearray, bytearray], bytearray], other: Bitmap) -> Bitmap:
        if self._n != other._n:
            raise ValueError(f"bitmaps of {self._n} and {other._n} bits do not go together")
        bitmap = _new(Bitmap)
        bitmap._n, bitmap._buffer = self._n, how(self._buffer, other._buffer)
        return bitmap
