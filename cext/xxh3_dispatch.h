/* XXH3-128 from xxhash.h with the vector width chosen when it runs.
 *
 * A wheel must run on any x86-64, so this header compiles XXH3 for the baseline (SSE2); xxh3_avx2.c compiles the same
 * functions once more for AVX2, which is about twice as fast. Both share one layout of XXH3_state_t: its accumulators
 * are 64-bit numbers in memory between calls. Only GCC lets a pragma switch the target of a whole file, so other
 * compilers and other processors keep the one version (NEON is baseline on arm64). Rejected: -march=native.
 */
#ifndef P2PFILL_XXH3_DISPATCH_H
#define P2PFILL_XXH3_DISPATCH_H

#include <stddef.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define P2PFILL_XXH3_AVX2 1
void p2pfill_xxh3_update_avx2(void *state, const void *data, size_t size);
void p2pfill_xxh3_128_avx2(const void *data, size_t size, unsigned char digest[16]);
#endif

#ifndef P2PFILL_XXH3_AVX2_UNIT

#define XXH_INLINE_ALL
#include "xxhash.h"

static inline void p2pfill_xxh3_update(XXH3_state_t *state, const void *data, size_t size)
{
#ifdef P2PFILL_XXH3_AVX2
    if (__builtin_cpu_supports("avx2")) {
        p2pfill_xxh3_update_avx2(state, data, size);
        return;
    }
#endif
    XXH3_128bits_update(state, data, size);
}

/* Of a whole buffer; big endian. */
static inline void p2pfill_xxh3_128(const void *data, size_t size, unsigned char digest[16])
{
#ifdef P2PFILL_XXH3_AVX2
    if (__builtin_cpu_supports("avx2")) {
        p2pfill_xxh3_128_avx2(data, size, digest);
        return;
    }
#endif
    XXH128_canonicalFromHash((XXH128_canonical_t *)digest, XXH3_128bits(data, size));
}

static inline void p2pfill_xxh3_digest(const XXH3_state_t *state, unsigned char digest[16])
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)digest, XXH3_128bits_digest(state));
}

#endif
#endif
