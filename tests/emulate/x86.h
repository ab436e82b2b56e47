/* AVX-512 with VNNI, AVX-VNNI and AMX on a machine that has AVX2 and F16C: for compilers with
   -mavx2 -mf16c -include tests/emulate/x86.h. Every instruction set of llm.h is then offered and
   computes what the instructions compute. AVX-512 is SIMDe's where SIMDe has it. Tiles check their
   configuration and their shapes, and that they are released; they read and write the bytes that
   the instructions would, so that sanitizers see them. */
#ifndef LLM_TESTS_EMULATE_X86_H
#define LLM_TESTS_EMULATE_X86_H
#include "cpu.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#define LLM__AVX512      __attribute__((target("avx2,f16c")))
#define LLM__AVX_VNNI    LLM__AVX512
#define LLM__AMX         LLM__AVX512
#define LLM__PIN512(x)   __asm__("" : "+m"(x))
#define EMULATED_INLINE  static inline __attribute__((unused))

__attribute__((constructor)) static void emulated_all(void) { emulate_all(); }

static void emulated_wrong(const char *what) {
    printf("FAIL emulated: %s\n", what);
    fflush(stdout);
    abort();
}

/* ---- what SIMDe lacks ---- */

#define EMULATED(type, bytes) type __attribute__((vector_size(bytes), may_alias))
typedef EMULATED(float, 64) emulated_f32x16;
typedef EMULATED(float, 32) emulated_f32x8;
typedef EMULATED(int32_t, 64) emulated_i32x16;
typedef EMULATED(int16_t, 32) emulated_i16x16;
typedef EMULATED(uint16_t, 32) emulated_u16x16;
typedef EMULATED(int64_t, 64) emulated_i64x8;
typedef EMULATED(int16_t, 16) emulated_i16x8;
typedef EMULATED(int8_t, 16) emulated_i8x16;
typedef EMULATED(uint8_t, 16) emulated_u8x16;
#define EMULATED_CONVERT(result, x, from, to) ((result)__builtin_convertvector((from)(x), to))
#define _mm512_cvtepi32_ps(x)    EMULATED_CONVERT(__m512, x, emulated_i32x16, emulated_f32x16)
#define _mm512_cvtepi32_epi16(x) EMULATED_CONVERT(__m256i, x, emulated_i32x16, emulated_i16x16)
#define _mm512_cvtepi32_epi8(x)  EMULATED_CONVERT(__m128i, x, emulated_i32x16, emulated_i8x16)
#define _mm512_cvtepi64_epi16(x) EMULATED_CONVERT(__m128i, x, emulated_i64x8, emulated_i16x8)
#define _mm512_cvtepu16_epi32(x) EMULATED_CONVERT(__m512i, x, emulated_u16x16, emulated_i32x16)
#define _mm512_cvtepu8_epi32(x)  EMULATED_CONVERT(__m512i, x, emulated_u8x16, emulated_i32x16)

#define _mm256_cvtepi16_epi8(x)  EMULATED_CONVERT(__m128i, x, emulated_i16x16, emulated_i8x16)
/* SIMDe wants their counts constant. */
typedef EMULATED(uint16_t, 64) emulated_u16x32;
#undef _mm512_srli_epi16
#undef _mm512_slli_epi16
#define _mm512_srli_epi16(x, n)  ((__m512i)((emulated_u16x32)(x) >> (uint16_t)(n)))
#define _mm512_slli_epi16(x, n)  ((__m512i)((emulated_u16x32)(x) << (uint16_t)(n)))

/* A function of vectors x and y (or an immediate y): `value` for every lane i. */
#define EMULATED_LANES(name, result, X, Y, lanes, n, value)   \
    EMULATED_INLINE result name(X x_, Y y) {                  \
        const emulated_f32x16 x = (emulated_f32x16)x_;        \
        lanes to;                                             \
        int i;                                                \
        (void)y;                                              \
        for (i = 0; i < (n); i++) to[i] = (value);            \
        return (result)to;                                    \
    }
EMULATED_LANES(emulated_permute, __m512, __m512, int, emulated_f32x16, 16, x[i / 4 * 4 + (y >> 2 * (i % 4) & 3)])
EMULATED_LANES(emulated_shuffle, __m512, __m512, int, emulated_f32x16, 16, x[4 * (y >> 2 * (i / 4) & 3) + i % 4])
EMULATED_LANES(emulated_extract, __m256, __m512, int, emulated_f32x8, 8, x[8 * y + i])
EMULATED_LANES(emulated_round, __m512i, __m512, int, emulated_i32x16, 16, (int32_t)nearbyintf(x[i]))
#define _mm512_permute_ps(x, n)       emulated_permute(x, n)
#define _mm512_extractf32x8_ps(x, n)  emulated_extract(x, n)
#define _mm512_cvtps_epi32(x)         emulated_round(x, 0)
/* llm.h shuffles a register with itself. */
#define _mm512_shuffle_f32x4(x, y, n) emulated_shuffle(x, n)

/* 0x99: which of them are NaN or infinite. */
EMULATED_INLINE __mmask16 emulated_class(__m512 x, int classes) {
    uint32_t bits[16], i, found = 0;
    if (classes != 0x99) emulated_wrong("other classes of floats");
    memcpy(bits, &x, sizeof bits);
    for (i = 0; i < 16; i++) found |= (uint32_t)((bits[i] & 0x7f800000u) == 0x7f800000u) << i;
    return (__mmask16)found;
}
EMULATED_INLINE void emulated_store_some(float *to, __mmask16 which, __m512 x) {
    float from[16];
    int i;
    memcpy(from, &x, sizeof from);
    for (i = 0; i < 16; i++)
        if (which >> i & 1) to[i] = from[i];
}
#define _mm512_fpclass_ps_mask(x, classes) emulated_class(x, classes)
#define _mm512_mask_storeu_ps(to, which, x) emulated_store_some(to, which, x)

/* `best` of the lanes x[0] .. x[15], in a tree, as the compilers' own. */
#define EMULATED_REDUCE(name, result, X, lanes, best)          \
    EMULATED_INLINE result name(X x_) {                        \
        lanes x = (lanes)x_;                                   \
        int i, w;                                              \
        for (w = 8; w; w /= 2)                                 \
            for (i = 0; i < w; i++) x[i] = (best);             \
        return x[0];                                           \
    }
EMULATED_REDUCE(emulated_sum, int32_t, __m512i, emulated_i32x16, (int32_t)((uint32_t)x[i] + (uint32_t)x[i + w]))
EMULATED_REDUCE(emulated_most, int32_t, __m512i, emulated_i32x16, x[i] > x[i + w] ? x[i] : x[i + w])
EMULATED_REDUCE(emulated_most_ps, float, __m512, emulated_f32x16, x[i] > x[i + w] ? x[i] : x[i + w])
#define _mm512_reduce_add_epi32(x)     emulated_sum(x)
#define _mm512_reduce_max_epi32(x)     emulated_most(x)
#define _mm512_reduce_max_ps(x)        emulated_most_ps(x)
#define _mm512_cmpneq_epi32_mask(x, y) ((__mmask16)~_mm512_cmpeq_epi32_mask(x, y))

/* Four products of an unsigned and a signed byte, added to each lane. */
EMULATED_INLINE __m256i emulated_dpbusd(__m256i sum, __m256i u, __m256i s) {
    int32_t to[8], i;
    uint8_t a[32];
    int8_t b[32];
    memcpy(to, &sum, 32), memcpy(a, &u, 32), memcpy(b, &s, 32);
    for (i = 0; i < 32; i++) to[i / 4] += a[i] * b[i];
    memcpy(&sum, to, 32);
    return sum;
}
#define _mm256_dpbusd_avx_epi32(sum, u, s) emulated_dpbusd(sum, u, s)

/* ---- tiles ---- */

static _Thread_local struct {
    bool configured;
    uint8_t rows[8];
    uint16_t bytes[8];
    uint8_t data[8][16][64];
} emulated_tiles;

static void emulated_loadconfig(const void *from) {
    uint8_t config[64];
    int i;
    memcpy(config, from, sizeof config);
    if (emulated_tiles.configured) emulated_wrong("tiles were not released");
    if (config[0] != 1 || config[1]) emulated_wrong("not palette 1 from row 0");
    for (i = 2; i < 16; i++)
        if (config[i]) emulated_wrong("reserved bytes are not 0");
    for (i = 0; i < 16; i++) {
        const unsigned bytes = config[16 + 2 * i] | (unsigned)config[17 + 2 * i] << 8, rows = config[48 + i];
        if (bytes > 64 || rows > 16 || !bytes != !rows || (i > 7 && rows)) emulated_wrong("a tile's shape");
        if (i < 8) emulated_tiles.rows[i] = (uint8_t)rows, emulated_tiles.bytes[i] = (uint16_t)bytes;
    }
    memset(emulated_tiles.data, 0, sizeof emulated_tiles.data);
    emulated_tiles.configured = true;
}
static void emulated_use(int tile) {
    if (!emulated_tiles.configured || tile < 0 || tile > 7 || !emulated_tiles.rows[tile])
        emulated_wrong("a tile that is not configured");
}
static void emulated_zero(int tile) {
    emulated_use(tile);
    memset(emulated_tiles.data[tile], 0, sizeof emulated_tiles.data[tile]);
}
static void emulated_load(int tile, const void *from, size_t stride) {
    int row;
    emulated_zero(tile);
    for (row = 0; row < emulated_tiles.rows[tile]; row++)
        memcpy(emulated_tiles.data[tile][row], (const char *)from + (size_t)row * stride, emulated_tiles.bytes[tile]);
}
static void emulated_store(int tile, void *to, size_t stride) {
    int row;
    emulated_use(tile);
    for (row = 0; row < emulated_tiles.rows[tile]; row++)
        memcpy((char *)to + (size_t)row * stride, emulated_tiles.data[tile][row], emulated_tiles.bytes[tile]);
}
/* c[m][n] += sum of a[m][4 k + i] b[k][4 n + i], signed bytes. */
static void emulated_dpbssd(int c, int a, int b) {
    int m, n, k;
    emulated_use(a), emulated_use(b), emulated_use(c);
    if (a == b || b == c || a == c || emulated_tiles.rows[a] != emulated_tiles.rows[c] ||
        emulated_tiles.bytes[a] != 4 * emulated_tiles.rows[b] || emulated_tiles.bytes[b] != emulated_tiles.bytes[c])
        emulated_wrong("tiles that cannot be multiplied");
    for (m = 0; m < emulated_tiles.rows[c]; m++)
        for (n = 0; n < emulated_tiles.bytes[c]; n += 4) {
            uint32_t sum; /* which wraps */
            memcpy(&sum, emulated_tiles.data[c][m] + n, 4);
            for (k = 0; k < emulated_tiles.bytes[a]; k++)
                sum += (uint32_t)((int8_t)emulated_tiles.data[a][m][k] * (int8_t)emulated_tiles.data[b][k / 4][n + k % 4]);
            memcpy(emulated_tiles.data[c][m] + n, &sum, 4);
        }
}
static void emulated_release(void) { memset(&emulated_tiles, 0, sizeof emulated_tiles); }

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#define _tile_loadconfig(from)           emulated_loadconfig(from)
#define _tile_release()                  emulated_release()
#define _tile_zero(tile)                 emulated_zero(tile)
#define _tile_loadd(tile, from, stride)  emulated_load(tile, from, stride)
#define _tile_stored(tile, to, stride)   emulated_store(tile, to, stride)
#define _tile_dpbssd(c, a, b)            emulated_dpbssd(c, a, b)
#endif
