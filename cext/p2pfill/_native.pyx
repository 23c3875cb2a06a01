# cython: cdivision=True, boundscheck=False, wraparound=False, embedsignature=False
"""The compiled twins of p2pfill.hot. See p2pfill/hot/bits.py and io.py for contracts, _native.pxd for the map.

Loops are `noexcept nogil` over primitive arguments; Python objects are touched only before and after them.
Memory safety is checked here (buffer sizes, index ranges), all friendlier checks are in p2pfill.hot.
"""
from cpython.bytearray cimport PyByteArray_AsString, PyByteArray_FromStringAndSize
from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport frexp
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

import os

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t
    ctypedef long off_t

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int, void*, size_t, off_t)
    ssize_t pwrite(int, const void*, size_t, off_t)
    int syncfs(int)

cdef extern from "<fcntl.h>" nogil:
    int sync_file_range(int, off_t, off_t, unsigned int)
    const unsigned int SYNC_FILE_RANGE_WRITE

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void*, size_t, int)
    ssize_t send(int, const void*, size_t, int)
    int setsockopt(int, int, int, const void*, unsigned int)
    int getsockopt(int, int, int, void*, unsigned int*)
    const int MSG_DONTWAIT
    const int SOL_SOCKET
    const int SO_RCVBUF
    const int SO_RCVLOWAT
    const int MSG_NOSIGNAL
    const int MSG_MORE

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd*, unsigned long, int)
    const short POLLIN

cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_NODELAY

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int, int, off_t*, size_t)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int, timespec*)
    const int CLOCK_MONOTONIC

cdef extern from *:
    """
    #define p2pfill_popcount64(x) __builtin_popcountll(x)
    #define p2pfill_ctz64(x) __builtin_ctzll(x)

    /* How many bits are set, in a dozen instructions on any processor: the builtin is a call where there is no popcnt. */
    static inline int p2pfill_few_popcount64(uint64_t x) {
        x -= x >> 1 & 0x5555555555555555ULL;
        x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
        return (int)(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL) * 0x0101010101010101ULL >> 56);
    }

    /* The least of 64 counts, those alone whose bit is set; 0xffff where none is. Eight at a time on any processor. */
    typedef uint16_t p2pfill_lanes __attribute__((vector_size(16)));
    static inline uint16_t p2pfill_least64(uint64_t word, const uint16_t* counts) {
        const p2pfill_lanes places = {1, 2, 4, 8, 16, 32, 64, 128};
        p2pfill_lanes least = ~(p2pfill_lanes){0}, some, smaller;
        uint16_t found = 0xffff;
        int i;
        for (i = 0; i < 8; i++, word >>= 8) {
            uint16_t byte = (uint16_t)(word & 0xff);
            memcpy(&some, counts + 8 * i, 16);
            some |= (p2pfill_lanes)((places & (p2pfill_lanes){byte, byte, byte, byte, byte, byte, byte, byte}) == 0);
            smaller = (p2pfill_lanes)(some < least);
            least = (some & smaller) | (least & ~smaller);
        }
        for (i = 0; i < 8; i++)
            found = least[i] < found ? least[i] : found;
        return found;
    }
    """
    int p2pfill_popcount64(uint64_t) nogil
    int p2pfill_ctz64(uint64_t) nogil
    int p2pfill_few_popcount64(uint64_t) nogil
    uint16_t p2pfill_least64(uint64_t, const uint16_t*) nogil

cdef enum:
    SLICE_BYTES = 262144  # as io.BUFFER_BYTES
    GIL_DROP_BYTES = 65536  # below this, hashing is quicker than a hand-over of the GIL
    LOW_WATER_BYTES = 262144  # as io.LOW_WATER_BYTES
    SENDFILE_BYTES_MAX = 1 << 30  # sendfile moves less than 2 GiB a call

cdef double LN2 = 0.6931471805599453
cdef double SQRT_HALF = 0.7071067811865476


# ---- bits

cdef uint64_t mix(uint64_t value) noexcept nogil:
    value += <uint64_t>0x9E3779B97F4A7C15u
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9u
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EBu
    return value ^ (value >> 31)


cdef double ln(double x) noexcept nogil:
    # Same operations in the same order as _pure_bits._ln: the results must be the same bits.
    cdef int exponent = 0
    cdef double mantissa = frexp(x, &exponent)
    cdef double s, z, series
    if mantissa < SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    series = 1.0 / 17.0
    series = series * z + 1.0 / 15.0
    series = series * z + 1.0 / 13.0
    series = series * z + 1.0 / 11.0
    series = series * z + 1.0 / 9.0
    series = series * z + 1.0 / 7.0
    series = series * z + 1.0 / 5.0
    series = series * z + 1.0 / 3.0
    series = series * z + 1.0
    return 2.0 * s * series + exponent * LN2


cdef double score(uint64_t chunk_mix, uint64_t seed, double weight) noexcept nogil:
    cdef double u = (<double>(mix(seed ^ chunk_mix) >> 12) + 0.5) * (1.0 / 4503599627370496.0)
    return -ln(u) / weight


cdef enum:
    MANY_OF_64 = 24  # bits of a word from which to look at all 64 counts at once is less than to look at each


cdef int64_t rarest_between(const uint8_t* have, const uint8_t* wanted, const uint16_t* avail,
                            int64_t low, int64_t high, uint32_t* best_avail) noexcept nogil:
    cdef int64_t best = -1, base = low & ~<int64_t>63, byte_count = (high + 7) >> 3, width, k
    cdef uint64_t a, b
    cdef uint32_t least = best_avail[0]
    while base < high:
        width = byte_count - (base >> 3)
        a = b = 0
        # The copy reads the last, partial word without leaving the bitmap.
        memcpy(&a, have + (base >> 3), 8 if width > 8 else <size_t>width)
        memcpy(&b, wanted + (base >> 3), 8 if width > 8 else <size_t>width)
        a &= b
        if base < low:
            a &= (~<uint64_t>0) << (low - base)
        if high - base < 64:
            a &= ((<uint64_t>1) << (high - base)) - 1
        elif p2pfill_few_popcount64(a) > MANY_OF_64 and p2pfill_least64(a, avail + base) >= least:
            # Nothing here is rarer than what was found: of most words of a title that is just begun it is so.
            a = 0
        while a:
            k = base + p2pfill_ctz64(a)
            if avail[k] < least:
                least = avail[k]
                best = k
            a &= a - 1
        base += 64
    best_avail[0] = least
    return best


cdef void assign_loop(const uint32_t* chunks, const uint64_t* seeds, const double* weights, uint32_t* quotas,
                      uint32_t* members, size_t member_count, uint16_t* out, size_t chunk_count) noexcept nogil:
    # `members` lists those with quota left, ascending, so that of equal scores the earlier member wins.
    cdef size_t i, j, best_j
    cdef uint64_t chunk_mix
    cdef double best_score, this_score
    cdef uint32_t best
    for i in range(chunk_count):
        chunk_mix = mix(chunks[i])
        best_j = 0
        best_score = score(chunk_mix, seeds[members[0]], weights[members[0]])
        for j in range(1, member_count):
            this_score = score(chunk_mix, seeds[members[j]], weights[members[j]])
            if this_score < best_score:
                best_score = this_score
                best_j = j
        best = members[best_j]
        out[i] = <uint16_t>best
        quotas[best] -= 1
        if quotas[best] == 0:
            member_count -= 1
            for j in range(best_j, member_count):
                members[j] = members[j + 1]


cdef class Lent:
    """A buffer lent by a Python object for as long as this lives; the object cannot be resized meanwhile."""
    cdef Py_buffer view

    def __cinit__(self, lender, bint writable=False):
        PyObject_GetBuffer(lender, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


def popcount(buf):
    cdef Lent lent = Lent(buf)
    cdef const uint8_t* data = <const uint8_t*>lent.view.buf
    cdef size_t size = <size_t>lent.view.len, i = 0
    cdef uint64_t word
    cdef int64_t total = 0
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        total += p2pfill_popcount64(word)
        i += 8
    while i < size:
        total += p2pfill_popcount64(data[i])
        i += 1
    return total


cdef bytearray combine(bytearray a, bytearray b, int how):
    cdef Py_ssize_t size = len(a), i
    if len(b) != size:
        raise ValueError(f"bitmaps of {size} and {len(b)} bytes do not go together")
    cdef bytearray result = PyByteArray_FromStringAndSize(NULL, size)
    cdef const uint8_t* x = <const uint8_t*>PyByteArray_AsString(a)
    cdef const uint8_t* y = <const uint8_t*>PyByteArray_AsString(b)
    cdef uint8_t* out = <uint8_t*>PyByteArray_AsString(result)
    if how == 0:
        for i in range(size):
            out[i] = x[i] & y[i]
    elif how == 1:
        for i in range(size):
            out[i] = x[i] | y[i]
    else:
        for i in range(size):
            out[i] = x[i] & <uint8_t>~y[i]
    return result


def bit_and(bytearray a not None, bytearray b not None):
    return combine(a, b, 0)


def bit_or(bytearray a not None, bytearray b not None):
    return combine(a, b, 1)


def bit_and_not(bytearray a not None, bytearray b not None):
    return combine(a, b, 2)


def pick_rarest(have, wanted, avail, int64_t start):
    cdef Lent have_lent = Lent(have), wanted_lent = Lent(wanted), avail_lent = Lent(avail)
    cdef int64_t n = avail_lent.view.len // 2, first, second
    cdef uint32_t best_avail = 0x10000
    if have_lent.view.len < (n + 7) >> 3 or wanted_lent.view.len < (n + 7) >> 3 or not 0 <= start <= n:
        raise ValueError("bitmaps or start do not fit the counts")
    cdef const uint8_t* have_data = <const uint8_t*>have_lent.view.buf
    cdef const uint8_t* wanted_data = <const uint8_t*>wanted_lent.view.buf
    cdef const uint16_t* avail_data = <const uint16_t*>avail_lent.view.buf
    first = rarest_between(have_data, wanted_data, avail_data, start, n, &best_avail)
    second = rarest_between(have_data, wanted_data, avail_data, 0, start, &best_avail)
    return second if second >= 0 else first


def count_owned(buf, owners, counts):
    cdef Lent lent = Lent(buf), owners_lent = Lent(owners), counts_lent = Lent(counts, True)
    cdef const uint8_t* data = <const uint8_t*>lent.view.buf
    cdef const uint16_t* owner = <const uint16_t*>owners_lent.view.buf
    cdef uint32_t* count = <uint32_t*>counts_lent.view.buf
    cdef size_t size = <size_t>lent.view.len, base = 0, width, k
    cdef size_t n = <size_t>owners_lent.view.len // 2, count_size = <size_t>counts_lent.view.len // 4
    cdef uint64_t word
    if size != (n + 7) >> 3:
        raise ValueError("bitmap and owners differ in number")
    while base < size:
        width = size - base
        word = 0
        memcpy(&word, data + base, 8 if width > 8 else width)
        while word:
            k = 8 * base + p2pfill_ctz64(word)
            if k < n and owner[k] < count_size:
                count[owner[k]] += 1
            word &= word - 1
        base += 8


def scores(uint64_t chunk, seeds, weights, out):
    cdef Lent seeds_lent = Lent(seeds), weights_lent = Lent(weights), out_lent = Lent(out, True)
    cdef size_t i, n = <size_t>out_lent.view.len // 8
    cdef uint64_t chunk_mix = mix(chunk)
    if seeds_lent.view.len != out_lent.view.len or weights_lent.view.len != out_lent.view.len:
        raise ValueError("seeds, weights and scores differ in number")
    for i in range(n):
        (<double*>out_lent.view.buf)[i] = score(
            chunk_mix, (<uint64_t*>seeds_lent.view.buf)[i], (<double*>weights_lent.view.buf)[i])


def assign(chunks, seeds, weights, quotas, out):
    cdef Lent chunks_lent = Lent(chunks), seeds_lent = Lent(seeds), weights_lent = Lent(weights)
    cdef Lent quotas_lent = Lent(quotas, True), out_lent = Lent(out, True)
    cdef size_t n = <size_t>quotas_lent.view.len // 4, chunk_count = <size_t>out_lent.view.len // 2
    cdef size_t i, member_count = 0
    cdef uint64_t total = 0
    cdef uint32_t* quota_data = <uint32_t*>quotas_lent.view.buf
    if <size_t>seeds_lent.view.len != 8 * n or <size_t>weights_lent.view.len != 8 * n or n > 65535:
        raise ValueError("seeds, weights and quotas differ in number")
    if <size_t>chunks_lent.view.len != 4 * chunk_count:
        raise ValueError("chunks and owners differ in number")
    for i in range(n):
        total += quota_data[i]
    if total != chunk_count:
        raise ValueError("the quotas do not add up to the chunks")
    cdef uint32_t* members = <uint32_t*>malloc(4 * n + 4)
    if members == NULL:
        raise MemoryError
    for i in range(n):
        if quota_data[i]:
            members[member_count] = <uint32_t>i
            member_count += 1
    with nogil:
        assign_loop(<const uint32_t*>chunks_lent.view.buf, <const uint64_t*>seeds_lent.view.buf,
                    <const double*>weights_lent.view.buf, quota_data, members, member_count,
                    <uint16_t*>out_lent.view.buf, chunk_count)
    free(members)


# ---- io

cdef int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef int write_all(int fd, const uint8_t* data, size_t size, int64_t offset) noexcept nogil:
    """0, or the errno."""
    cdef ssize_t n
    while size:
        n = pwrite(fd, data, size, offset)
        if n < 0:
            if errno == EINTR:
                continue
            return errno
        data += n
        offset += n
        size -= <size_t>n
    return 0


cdef int64_t hash_range(XXH3_state_t* state, int fd, int64_t offset, int64_t length,
                        uint8_t* buffer, size_t buffer_bytes, int* error) noexcept nogil:
    """Bytes hashed: less than length at the end of the file; or FAULT_ERRNO."""
    cdef int64_t done = 0
    cdef ssize_t n
    while done < length:
        n = pread(fd, buffer, <size_t>min(<int64_t>buffer_bytes, length - done), offset + done)
        if n < 0:
            if errno == EINTR:
                continue
            error[0] = errno
            return FAULT_ERRNO
        if n == 0:
            break
        p2pfill_xxh3_update(state, buffer, <size_t>n)
        done += n
    return done


cdef int64_t send_file_loop(int sock_fd, int file_fd, int64_t offset, int64_t length, int* error) noexcept nogil:
    cdef int64_t sent = 0
    cdef off_t position = offset
    cdef ssize_t n
    cdef int on = 1
    while sent < length:
        n = sendfile(sock_fd, file_fd, &position, <size_t>min(length - sent, <int64_t>SENDFILE_BYTES_MAX))
        if n > 0:
            sent += n
        elif n == 0:
            error[0] = 0
            return FAULT_EOF
        elif errno == EAGAIN:
            # A sendfile that was cut short has told TCP that more follows, so the last part segment stays back. Where
            # the kernel has no room for a second one (a low tcp_notsent_lowat, a limit on the control group's memory),
            # it stays until a timer of 200 ms ends it, and the socket is not writable meanwhile. Setting TCP_NODELAY
            # pushes it out. Other kinds of socket refuse, and need no push.
            setsockopt(sock_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
            break
        elif errno != EINTR:
            error[0] = errno
            return FAULT_ERRNO
    return sent


cdef int64_t recv_loop(XXH3_state_t* state, uint8_t* buffer, size_t buffer_bytes, int sock_fd, int file_fd,
                       int64_t offset, int64_t length, StreamStats* spent, int* error) noexcept nogil:
    cdef int64_t taken = 0, began_ns, hashed_ns
    cdef uint8_t* at
    cdef ssize_t n
    while taken < length:
        # One piece after the other, so that what fits into the buffer is all there afterwards.
        at = buffer + taken % <int64_t>buffer_bytes
        n = recv(sock_fd, at, <size_t>min(buffer + buffer_bytes - at, length - taken), MSG_DONTWAIT)
        if n > 0:
            # Three looks at the clock cost 0.1 us, a slice 100 us: 1 % of processor time in the medians of 7 runs of
            # 2 GiB, 2 % where slices are of 16 KiB, both within the noise.
            began_ns = now_ns()
            p2pfill_xxh3_update(state, at, <size_t>n)
            hashed_ns = now_ns()
            error[0] = write_all(file_fd, at, <size_t>n, offset + taken)
            spent.hash_ns += hashed_ns - began_ns
            spent.write_ns += now_ns() - hashed_ns
            if error[0]:
                return FAULT_ERRNO
            taken += n
        elif n == 0:
            # Bytes that came before the end are good; the next call meets the end again.
            if taken == 0:
                return FAULT_EOF
            break
        elif errno == EAGAIN:
            break
        elif errno != EINTR:
            if taken:
                break
            error[0] = errno
            return FAULT_ERRNO
    return taken


cdef int low_water_of(int sock_fd, int64_t left) noexcept nogil:
    """Bytes for which it pays to be woken where `left` are to come."""
    cdef int buffer_bytes = 0
    cdef unsigned int size = sizeof(buffer_bytes)
    cdef int64_t wanted = min(left, <int64_t>LOW_WATER_BYTES)
    if getsockopt(sock_fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, &size) == 0:
        wanted = min(wanted, <int64_t>(buffer_bytes // 4))
    return <int>max(wanted, <int64_t>1)


cdef int64_t recv_within_loop(int sock_fd, uint8_t* data, int64_t size, int64_t wait_ms, int* error) noexcept nogil:
    cdef int64_t taken = 0, left_ns, until_ns = now_ns() + wait_ms * 1000000
    cdef int low_water = 1, wanted
    cdef ssize_t n
    cdef pollfd waiting
    waiting.fd, waiting.events = sock_fd, POLLIN
    while taken < size:
        n = recv(sock_fd, data + taken, <size_t>(size - taken), MSG_DONTWAIT)
        if n > 0:
            taken += n
        elif n == 0:
            if taken == 0:
                taken = FAULT_EOF
            break
        elif errno == EAGAIN:
            left_ns = until_ns - now_ns()
            if left_ns <= 0:
                break
            # By a poll, and not by a recv that waits: that takes what is there, and waits for as much once more.
            wanted = low_water_of(sock_fd, size - taken)
            if wanted != low_water:
                low_water = wanted
                setsockopt(sock_fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water))
            poll(&waiting, 1, <int>((left_ns + 999999) // 1000000))
        elif errno != EINTR:
            if taken == 0:
                error[0] = errno
                taken = FAULT_ERRNO
            break
    if taken == 0 and size:
        error[0] = EAGAIN
        taken = FAULT_ERRNO
    if low_water != 1:
        low_water = 1
        setsockopt(sock_fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water))
    return taken


cdef object os_error(int code):
    return OSError(code, os.strerror(code))


def xxh3_128(data):
    cdef Lent lent = Lent(data)
    cdef unsigned char digest[16]
    if lent.view.len < GIL_DROP_BYTES:
        p2pfill_xxh3_128(lent.view.buf, <size_t>lent.view.len, digest)
    else:
        with nogil:
            p2pfill_xxh3_128(lent.view.buf, <size_t>lent.view.len, digest)
    return <bytes>(<char*>digest)[:16]


def xxh3_128_range(int fd, int64_t offset, int64_t length):
    cdef ChunkReceiver hasher = ChunkReceiver(SLICE_BYTES)
    cdef int error = 0
    cdef int64_t done
    with nogil:
        done = hash_range(hasher.state, fd, offset, length, hasher.buffer, hasher.buffer_bytes, &error)
    if done == FAULT_ERRNO:
        raise os_error(error)
    if done < length:
        raise EOFError(f"file ends at {offset + done}, {length - done} bytes early")
    return hasher.digest()


def send_bytes(int sock_fd, data, size_t start, bint more):
    cdef Lent lent = Lent(data)
    cdef int flags = MSG_NOSIGNAL | MSG_DONTWAIT, error = 0
    cdef ssize_t n
    if start > <size_t>lent.view.len:
        raise ValueError("start is outside of the data")
    if more:
        flags |= MSG_MORE
    with nogil:
        while True:
            n = send(sock_fd, <const uint8_t*>lent.view.buf + start, <size_t>lent.view.len - start, flags)
            error = errno
            if n >= 0 or error != EINTR:
                break
    if n >= 0:
        return n
    if error == EAGAIN:
        return 0
    raise os_error(error)


def send_file(int sock_fd, int file_fd, int64_t offset, int64_t length):
    cdef int error = 0
    cdef int64_t sent
    with nogil:
        sent = send_file_loop(sock_fd, file_fd, offset, length, &error)
    if sent == FAULT_EOF:
        raise EOFError(f"file ends before {offset + length}")
    if sent == FAULT_ERRNO:
        raise os_error(error)
    return sent


def recv_within(int sock_fd, buffer, int64_t wait_ms):
    cdef Lent lent = Lent(buffer, True)
    cdef int error = 0
    cdef int64_t taken
    with nogil:
        taken = recv_within_loop(sock_fd, <uint8_t*>lent.view.buf, lent.view.len, wait_ms, &error)
    if taken == FAULT_EOF:
        return 0
    if taken == FAULT_ERRNO:
        raise os_error(error)
    return taken


cdef class ChunkReceiver:

    def __cinit__(self, size_t buffer_bytes=SLICE_BYTES):
        if not 0 < buffer_bytes <= 1 << 30:
            raise ValueError("buffer size out of range")
        self.buffer_bytes = buffer_bytes
        self.buffer = <uint8_t*>malloc(buffer_bytes)
        self.state = XXH3_createState()
        if self.buffer == NULL or self.state == NULL:
            raise MemoryError
        XXH3_128bits_reset(self.state)

    def __dealloc__(self):
        free(self.buffer)
        XXH3_freeState(self.state)

    cdef int check_idle(self) except -1:
        if self.busy:
            raise RuntimeError("this ChunkReceiver is in use by another thread")
        return 0

    def reset(self):
        self.check_idle()
        XXH3_128bits_reset(self.state)

    def digest(self):
        cdef unsigned char digest[16]
        self.check_idle()
        p2pfill_xxh3_digest(self.state, digest)
        return <bytes>(<char*>digest)[:16]

    def spent_ns(self):
        return self.spent.hash_ns, self.spent.write_ns

    def recv_to_file(self, int sock_fd, int file_fd, int64_t offset, int64_t length):
        cdef int error = 0
        cdef int64_t taken
        self.check_idle()
        self.busy = True
        with nogil:
            taken = recv_loop(self.state, self.buffer, self.buffer_bytes, sock_fd, file_fd,
                              offset, length, &self.spent, &error)
        self.busy = False
        if taken == FAULT_EOF:
            raise ConnectionResetError("the peer closed the connection")
        if taken == FAULT_ERRNO:
            raise os_error(error)
        return taken


def sync_fs(int fd):
    cdef int error = 0
    with nogil:
        if syncfs(fd) != 0:
            error = errno
    if error:
        raise os_error(error)


def begin_write_out(int fd, int64_t offset, int64_t length):
    cdef int error = 0
    with nogil:
        if sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE) != 0:
            error = errno
    if error:
        raise os_error(error)


include "bitmaps.pxi"
include "lanes.pxi"
