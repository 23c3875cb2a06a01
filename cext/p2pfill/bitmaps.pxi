# The compiled twin of p2pfill/hot/_pure_bitmaps.py, which has the contracts.
# The bits are a bytearray, since Python looks at them too (`buffer`); that nobody has changed its length is looked at
# before each use.

from cython cimport no_gc
from cpython.bytearray cimport PyByteArray_Size

cdef extern from "Python.h":
    Py_ssize_t clipped_index "PyNumber_AsSsize_t"(object, void*) except? -1


cdef uint8_t* bits_of(Bitmap bitmap) except NULL:
    if bitmap._buffer is None or PyByteArray_Size(bitmap._buffer) != (bitmap._n + 7) >> 3:
        raise ValueError("the buffer of a bitmap has not the length of its bits")
    return <uint8_t*>PyByteArray_AsString(bitmap._buffer)


cdef Py_ssize_t index_of(Bitmap bitmap, k) except -1:
    # Clipped, as what lies outside is refused anyway.
    cdef Py_ssize_t i = clipped_index(k, NULL)
    if not 0 <= i < bitmap._n:
        raise IndexError(f"bit {k} of a bitmap of {bitmap._n}")
    return i


cdef Bitmap zeros(Py_ssize_t n):
    cdef Bitmap bitmap = Bitmap.__new__(Bitmap)
    cdef Py_ssize_t size = (n + 7) >> 3
    bitmap._n = n
    bitmap._buffer = PyByteArray_FromStringAndSize(NULL, size)
    memset(PyByteArray_AsString(bitmap._buffer), 0, <size_t>size)
    return bitmap


cdef Bitmap joined(Bitmap a, Bitmap b, int how):
    if a._n != b._n:
        raise ValueError(f"bitmaps of {a._n} and {b._n} bits do not go together")
    cdef Bitmap bitmap = Bitmap.__new__(Bitmap)
    bitmap._n = a._n
    bits_of(a)
    bits_of(b)
    bitmap._buffer = combine(a._buffer, b._buffer, how)
    return bitmap


@no_gc
cdef class Bitmap:
    """As `_pure_bitmaps.Bitmap`."""
    cdef bytearray _buffer
    cdef Py_ssize_t _n

    __hash__ = None

    def __init__(self, Py_ssize_t n):
        if n < 0:
            raise ValueError(f"a bitmap of {n} bits is not possible")
        cdef Py_ssize_t size = (n + 7) >> 3
        self._n = n
        self._buffer = PyByteArray_FromStringAndSize(NULL, size)
        memset(PyByteArray_AsString(self._buffer), 0, <size_t>size)

    @staticmethod
    def full(Py_ssize_t n):
        cdef Bitmap bitmap = Bitmap(n)
        cdef Py_ssize_t size = (n + 7) >> 3
        cdef uint8_t* data = bits_of(bitmap)
        memset(data, 0xff, <size_t>size)
        if n & 7:
            data[size - 1] = <uint8_t>((1 << (n & 7)) - 1)
        return bitmap

    @staticmethod
    def from_bytes(data, Py_ssize_t n):
        cdef Bitmap bitmap = Bitmap(n)
        cdef Lent lent = Lent(data)
        cdef Py_ssize_t size = (n + 7) >> 3
        if lent.view.len != size:
            raise ValueError(f"{lent.view.len} bytes where a bitmap of {n} bits has {size}")
        cdef uint8_t* bits = bits_of(bitmap)
        memcpy(bits, lent.view.buf, <size_t>size)
        if n & 7 and bits[size - 1] >> (n & 7):
            raise ValueError(f"bits are set beyond the {n} of the bitmap")
        return bitmap

    @staticmethod
    def from_flags(flags):
        cdef Lent lent = Lent(flags)
        cdef Bitmap bitmap = Bitmap(lent.view.len)
        cdef const uint8_t* flag = <const uint8_t*>lent.view.buf
        cdef uint8_t* bits = bits_of(bitmap)
        cdef Py_ssize_t k
        for k in range(bitmap._n):
            if flag[k] > 1:
                raise ValueError(f"flag {k} is {flag[k]}, neither 0 nor 1")
            bits[k >> 3] |= flag[k] << (k & 7)
        return bitmap

    def to_flags(self):
        cdef const uint8_t* bits = bits_of(self)
        cdef bytearray flags = PyByteArray_FromStringAndSize(NULL, self._n)
        cdef uint8_t* out = <uint8_t*>PyByteArray_AsString(flags)
        cdef Py_ssize_t k
        for k in range(self._n):
            out[k] = bits[k >> 3] >> (k & 7) & 1
        return bytes(flags)

    @property
    def buffer(self):
        return self._buffer

    def to_bytes(self):
        return bytes(self._buffer)

    def copy(self):
        cdef Bitmap bitmap = zeros(self._n)
        memcpy(bits_of(bitmap), bits_of(self), <size_t>((self._n + 7) >> 3))
        return bitmap

    def __len__(self):
        return self._n

    def __getitem__(self, k):
        cdef Py_ssize_t i = index_of(self, k)
        return bits_of(self)[i >> 3] >> (i & 7) & 1 != 0

    def __setitem__(self, k, value):
        if value:
            self.add(k)
        else:
            self.discard(k)

    def __contains__(self, k):
        cdef Py_ssize_t i = clipped_index(k, NULL)
        return 0 <= i < self._n and bits_of(self)[i >> 3] >> (i & 7) & 1 != 0

    def add(self, k):
        cdef Py_ssize_t i = index_of(self, k)
        bits_of(self)[i >> 3] |= <uint8_t>(1 << (i & 7))

    def add_all(self, chosen):
        cdef list fresh = []
        cdef Py_ssize_t i
        cdef uint8_t bit
        cdef uint8_t* bits
        for k in chosen:
            i = index_of(self, k)
            bits = bits_of(self)
            bit = <uint8_t>(1 << (i & 7))
            if not bits[i >> 3] & bit:
                bits[i >> 3] |= bit
                fresh.append(k)
        return fresh

    def lacking(self, chosen):
        cdef list found = []
        cdef Py_ssize_t i
        for k in chosen:
            i = index_of(self, k)
            if not bits_of(self)[i >> 3] >> (i & 7) & 1:
                found.append(k)
        return found

    def discard(self, k):
        cdef Py_ssize_t i = index_of(self, k)
        bits_of(self)[i >> 3] &= <uint8_t>~(1 << (i & 7))

    def count(self):
        return popcount(self._buffer)

    def all(self):
        return popcount(self._buffer) == self._n

    def any(self):
        cdef const uint8_t* bits = bits_of(self)
        cdef Py_ssize_t size = (self._n + 7) >> 3, i = 0
        cdef uint64_t word
        while i + 8 <= size:
            memcpy(&word, bits + i, 8)
            if word:
                return True
            i += 8
        while i < size:
            if bits[i]:
                return True
            i += 1
        return False

    def meets(self, Bitmap other not None):
        if self._n != other._n:
            raise ValueError(f"bitmaps of {self._n} and {other._n} bits do not go together")
        cdef const uint8_t* x = bits_of(self)
        cdef const uint8_t* y = bits_of(other)
        cdef Py_ssize_t size = (self._n + 7) >> 3, i = 0
        cdef uint64_t left, right
        while i + 8 <= size:
            memcpy(&left, x + i, 8)
            memcpy(&right, y + i, 8)
            if left & right:
                return True
            i += 8
        while i < size:
            if x[i] & y[i]:
                return True
            i += 1
        return False

    def rarest(self, Bitmap other not None, counts, int64_t start):
        cdef Lent lent = Lent(counts)
        cdef int64_t first, second, n = self._n
        cdef uint32_t least = 0x10000
        if other._n != n or lent.view.len != 2 * n or not 0 <= start <= n:
            raise ValueError(f"bitmaps of {n} and {other._n} bits, {lent.view.len // 2} counts and start {start} do "
                             "not go together")
        cdef const uint8_t* x = bits_of(self)
        cdef const uint8_t* y = bits_of(other)
        cdef const uint16_t* count = <const uint16_t*>lent.view.buf
        first = rarest_between(x, y, count, start, n, &least)
        second = rarest_between(x, y, count, 0, start, &least)
        return second if second >= 0 else first

    def indexes(self):
        cdef list found = []
        cdef const uint8_t* bits = bits_of(self)
        cdef Py_ssize_t size = (self._n + 7) >> 3, base = 0, width
        cdef uint64_t word
        while base < size:
            width = size - base
            word = 0
            memcpy(&word, bits + base, 8 if width > 8 else <size_t>width)
            while word:
                found.append(8 * base + p2pfill_ctz64(word))
                word &= word - 1
            base += 8
        return iter(found)

    def __iter__(self):
        cdef const uint8_t* bits = bits_of(self)
        cdef Py_ssize_t k
        return iter([bits[k >> 3] >> (k & 7) & 1 != 0 for k in range(self._n)])

    def __eq__(self, other):
        if not isinstance(other, Bitmap):
            return NotImplemented
        cdef Bitmap known = <Bitmap>other
        if self._n != known._n:
            return False
        return memcmp(bits_of(self), bits_of(known), <size_t>((self._n + 7) >> 3)) == 0

    def __or__(self, other):
        if not isinstance(other, Bitmap):
            return NotImplemented
        return joined(self, other, 1)

    def __and__(self, other):
        if not isinstance(other, Bitmap):
            return NotImplemented
        return joined(self, other, 0)

    def and_not(self, Bitmap other not None):
        return joined(self, other, 2)

    def __repr__(self):
        return f"<Bitmap {self.count()} of {self._n}>"
