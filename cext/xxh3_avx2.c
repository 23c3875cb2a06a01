/* The AVX2 build of what xxh3_dispatch.h declares; called only after a check of the processor. */
#define P2PFILL_XXH3_AVX2_UNIT
#include "xxh3_dispatch.h"

#ifdef P2PFILL_XXH3_AVX2
/* Before any other header, so that xxhash.h sees __AVX2__ and picks its AVX2 loops. */
#pragma GCC target("avx2")
#define XXH_INLINE_ALL
#include "xxhash.h"

#if XXH_VECTOR != XXH_AVX2
#error "xxhash.h did not pick AVX2"
#endif

void p2pfill_xxh3_update_avx2(void *state, const void *data, size_t size)
{
    XXH3_128bits_update((XXH3_state_t *)state, data, size);
}

void p2pfill_xxh3_128_avx2(const void *data, size_t size, unsigned char digest[16])
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)digest, XXH3_128bits(data, size));
}
#else
typedef int p2pfill_nothing_to_compile; /* C forbids an empty file */
#endif
