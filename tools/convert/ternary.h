/* ======================================================================== */
/* Ternary weights of BitNet b1.58                                           */
/* ========================================================================
   A matrix of -s, 0 and s, with one s for all (Ma et al. 2024, arXiv 2402.17764). A checkpoint keeps
   it packed, or keeps what training has left it with, to be rounded whenever it is used.

   Packed: a byte holds four rows, a quarter of the matrix apart; a code is the weight over s, plus 1.

       bits     7 6   5 4   3 2   1 0
              +-----+-----+-----+-----+
       byte   | r+3n| r+2n| r+n |  r  |   of column c at [r][c]; n: a quarter of the rows
              +-----+-----+-----+-----+ */
#ifndef CONVERT_TERNARY_H
#define CONVERT_TERNARY_H

#include "safetensors.h"
#include <math.h>

/* out[cols] = row `row` of 4 * quarter rows. */
static LLM__UNUSED void ternary_unpack(const uint8_t *data, uint64_t quarter, uint64_t cols, uint64_t row,
                           float size, float *out) {
    const uint8_t *p = data + row % quarter * cols;
    const unsigned shift = (unsigned)(row / quarter) * 2;
    uint64_t i;
    for (i = 0; i < cols; i++) out[i] = (float)((int)(p[i] >> shift & 3u) - 1) * size;
}

/* The first byte that holds a code of 3, which no weight has; `size` if none does. */
static uint64_t ternary_odd(const uint8_t *data, uint64_t size) {
    uint64_t i;
    for (i = 0; i < size && !(data[i] & data[i] >> 1 & 0x55u); i++) continue;
    return i;
}

/* The size that weights are rounded to, their mean: what is half as large or smaller becomes 0. */
static LLM__UNUSED float ternary_size(const safetensors_type *type, const uint8_t *data, uint64_t count) {
    double sum = 0.0, mean;
    uint64_t i;
    for (i = 0; i < count; i++) {
        float x;
        type->read(data + i * type->size, &x);
        if (llm__finite(x)) sum += fabs((double)x);
    }
    mean = count ? sum / (double)count : 0.0;
    return mean > 1e-5 ? (float)mean : 1e-5f;
}

/* x[n] to -size, 0 and size; what is not finite stays. */
static LLM__UNUSED void ternary_round(float *x, uint64_t n, float size) {
    uint64_t i;
    for (i = 0; i < n; i++)
        if (llm__finite(x[i]))
            x[i] = fabsf(x[i]) * (1.0f / size) > 0.5f ? copysignf(size, x[i]) : 0.0f;
}

#endif
