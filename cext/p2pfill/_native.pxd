"""Map of the native module: what each part owns, and which functions run without the GIL.

bits     loops over memory that the caller lends through the buffer protocol for one call
io       loops over descriptors; each returns a count or a negative Fault and leaves errno in its last argument
ChunkReceiver   owns `buffer` and `state` from __cinit__ to __dealloc__:

    idle --recv_to_file--> busy (GIL dropped) --return or raise--> idle
    any call while busy raises RuntimeError: two threads would mix two chunks into one digest
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "xxh3_dispatch.h" nogil:
    ctypedef struct XXH3_state_t:
        pass
    XXH3_state_t* XXH3_createState()
    int XXH3_freeState(XXH3_state_t*)
    int XXH3_128bits_reset(XXH3_state_t*)
    void p2pfill_xxh3_update(XXH3_state_t*, const void*, size_t)
    void p2pfill_xxh3_digest(const XXH3_state_t*, unsigned char*)
    void p2pfill_xxh3_128(const void*, size_t, unsigned char*)

# What a loop without the GIL can report instead of a count.
cdef enum Fault:
    FAULT_ERRNO = -1
    FAULT_EOF = -2

cdef uint64_t mix(uint64_t value) noexcept nogil
cdef double ln(double x) noexcept nogil
cdef double score(uint64_t chunk_mix, uint64_t seed, double weight) noexcept nogil
cdef int64_t rarest_between(const uint8_t* have, const uint8_t* wanted, const uint16_t* avail,
                            int64_t low, int64_t high, uint32_t* best_avail) noexcept nogil
cdef void assign_loop(const uint32_t* chunks, const uint64_t* seeds, const double* weights, uint32_t* quotas,
                      uint32_t* members, size_t member_count, uint16_t* out, size_t chunk_count) noexcept nogil

cdef struct StreamStats:
    int64_t hash_ns
    int64_t write_ns

cdef int64_t now_ns() noexcept nogil
cdef int write_all(int fd, const uint8_t* data, size_t size, int64_t offset) noexcept nogil
cdef int64_t hash_range(XXH3_state_t* state, int fd, int64_t offset, int64_t length,
                        uint8_t* buffer, size_t buffer_bytes, int* error) noexcept nogil
cdef int64_t send_file_loop(int sock_fd, int file_fd, int64_t offset, int64_t length, int* error) noexcept nogil
cdef int64_t recv_loop(XXH3_state_t* state, uint8_t* buffer, size_t buffer_bytes, int sock_fd, int file_fd,
                       int64_t offset, int64_t length, StreamStats* spent, int* error) noexcept nogil
cdef int64_t recv_within_loop(int sock_fd, uint8_t* data, int64_t size, int64_t wait_ms, int* error) noexcept nogil

cdef class ChunkReceiver:
    cdef uint8_t* buffer
    cdef size_t buffer_bytes
    cdef XXH3_state_t* state
    cdef bint busy
    cdef StreamStats spent
    cdef int check_idle(self) except -1
