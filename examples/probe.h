/* What the machine can do, measured on a pool's own threads (which is why this looks inside the
   library): how fast they read memory, and how fast they multiply int8. */
#ifndef LLM_EXAMPLES_PROBE_H
#define LLM_EXAMPLES_PROBE_H
#include "options.h"

enum { MOST_THREADS = 256 };

#define STREAM_BYTES ((size_t)256 << 20)
#define PROBE_EXTRA  ((size_t)(MOST_THREADS + 1) * 64) /* results, and to align */

typedef struct probe {
    uint8_t *block; /* what to free */
    const uint8_t *memory;
    size_t bytes;          /* a lane's share */
    size_t ahead;          /* bytes to prefetch ahead */
    uint64_t (*result)[8]; /* [lanes] a cache line each: nothing is optimised away */
} probe;

#if defined(LLM__HAVE_AVX2)
__attribute__((target("avx2"))) static void read_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    const uint8_t *at = p->memory + lane * p->bytes, *end = at + p->bytes;
    __m256i a = _mm256_setzero_si256(), b = a;
    for (; at < end; at += 128) {
        _mm_prefetch((const char *)at + p->ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)at + p->ahead + 64, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)at));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(at + 32)));
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)(at + 64)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(at + 96)));
    }
    a = _mm256_xor_si256(a, b);
    _mm256_store_si256((__m256i *)(void *)p->result[lane], a);
}

enum { PEAK_LOOPS = 4000000 };

/* Eight independent chains; each step is 32 products, 16 sums of pairs, 16 sums into the chain. */
__attribute__((target("avx2"))) static void peak_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    __m256i u = _mm256_set1_epi8(3), s = _mm256_set1_epi8(1);
    __m256i c0 = u, c1 = u, c2 = u, c3 = u, c4 = u, c5 = u, c6 = u, c7 = u;
    uint32_t i;
    for (i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile("" : "+x"(u), "+x"(s)); /* the products cannot be hoisted */
        c0 = _mm256_add_epi16(c0, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c0));
        c1 = _mm256_add_epi16(c1, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c1));
        c2 = _mm256_add_epi16(c2, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c2));
        c3 = _mm256_add_epi16(c3, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c3));
        c4 = _mm256_add_epi16(c4, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c4));
        c5 = _mm256_add_epi16(c5, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c5));
        c6 = _mm256_add_epi16(c6, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c6));
        c7 = _mm256_add_epi16(c7, _mm256_maddubs_epi16(u, s));
    }
    c0 = _mm256_add_epi16(_mm256_add_epi16(c0, c1), _mm256_add_epi16(c2, c3));
    c4 = _mm256_add_epi16(_mm256_add_epi16(c4, c5), _mm256_add_epi16(c6, c7));
    _mm256_store_si256((__m256i *)(void *)p->result[lane], _mm256_xor_si256(c0, c4));
}
#else
static void read_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    const uint64_t *at = (const uint64_t *)(const void *)(p->memory + lane * p->bytes);
    const uint64_t *end = at + p->bytes / sizeof *at;
    uint64_t sum = 0;
    for (; at < end; at++) sum += *at;
    p->result[lane][0] = sum;
}
#endif

static bool has_avx2(void) {
    uint32_t i;
    for (i = 0; llm_isa_name(i); i++)
        if (!strcmp(llm_isa_name(i), "avx2")) return true;
    return false;
}

/* Reads all of it once; bytes a second, 0 where there is no such loop. */
static double read_once(llm_pool *pool, probe *p) {
    const uint32_t threads = llm_pool_threads(pool);
    double start = seconds();
#if defined(LLM__HAVE_AVX2)
    if (!has_avx2()) return 0;
#endif
    p->bytes = STREAM_BYTES / threads / 128 * 128;
    llm__pool_run(pool, read_lane, p);
    return (double)(p->bytes * threads) / (seconds() - start);
}

/* Bytes a second; tries some distances, twice each, and leaves the best one in `ahead`. */
static double measure_stream(llm_pool *pool, probe *p) {
    static const size_t distances[] = {512, 1024, 1792, 2560, 4096, 6144, 8192, 16384};
    const size_t count = sizeof distances / sizeof *distances;
    double best = 0;
    size_t i, ahead = distances[0];
    for (i = 0; i < 2 * count; i++) {
        double rate;
        p->ahead = distances[i % count];
        rate = read_once(pool, p);
        if (rate > best) best = rate, ahead = p->ahead;
    }
    p->ahead = ahead;
    return best;
}

/* Operations a second (a multiplication and an addition are two); 0: no such instruction. */
static double measure_peak(llm_pool *pool, probe *p) {
    double best = 0;
#if defined(LLM__HAVE_AVX2)
    int i;
    for (i = 0; i < 3 && has_avx2(); i++) {
        double start = seconds(), rate;
        llm__pool_run(pool, peak_lane, p);
        rate = 8.0 * 64 * PEAK_LOOPS * llm_pool_threads(pool) / (seconds() - start);
        if (rate > best) best = rate;
    }
#else
    (void)pool, (void)p;
#endif
    return best;
}

/* Its memory; prefetching past the end of it is harmless. */
static void probe_open(probe *p) {
    memset(p, 0, sizeof *p);
    p->block = (uint8_t *)malloc(STREAM_BYTES + PROBE_EXTRA);
    if (!p->block) fail(EXIT_FAILED, "no memory for the probe");
    memset(p->block, 1, STREAM_BYTES + PROBE_EXTRA);
    p->memory = p->block + (64 - (uintptr_t)p->block % 64) % 64;
    p->result = (uint64_t(*)[8])(void *)(p->block + (p->memory - p->block) + STREAM_BYTES);
}

#endif
