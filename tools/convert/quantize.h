/* ======================================================================== */
/* Quantise: floats to panels                                                */
/* ========================================================================
   A weight becomes scale * value, value = M[p] * U[code] - B[p] (see >>formats in llm.h): a scale
   per (row, super-block), p per (row, 16 columns). For 2 to 6 bits a grid of scales is tried; under
   each, every 16 weights take the p of the least squared error; the best scale is refitted by least
   squares and rounded to bf16, and p and codes are chosen again under what it became. */
#ifndef CONVERT_QUANTIZE_H
#define CONVERT_QUANTIZE_H

#include <math.h>

/* x / scale is looked up in steps of a half over -128 .. 127.5: midpoints between two neighbouring
   integers are multiples of a half, so within a step the nearest value is one and the same. */
#define QUANTIZE_STEPS 512

typedef struct quantize_table {
    float value[QUANTIZE_STEPS][16];  /* nearest value, for each p */
    uint8_t code[QUANTIZE_STEPS][16]; /* and its code */
} quantize_table;

/* Tables of the types of 2 to 6 bits. */
typedef struct quantizer {
    quantize_table table[LLM_TYPE_COUNT];
} quantizer;

static void quantize_fill(quantize_table *table, const llm__format *f) {
    unsigned step, p, code, codes = 1u << f->bits;
    for (step = 0; step < QUANTIZE_STEPS; step++) {
        for (p = 0; p < 16; p++) {
            float x = ((float)step - 256.0f) * 0.5f + 0.25f, least = 1e9f;
            for (code = 0; code < codes; code++) {
                float value = (float)((int)f->m[p] * f->u[code] - f->b[p]);
                float distance = value < x ? x - value : value - x;
                if (distance >= least) continue;
                least = distance;
                table->value[step][p] = value;
                table->code[step][p] = (uint8_t)code;
            }
        }
    }
}

static LLM__UNUSED quantizer *quantize_create(void) {
    quantizer *q = (quantizer *)calloc(1, sizeof *q);
    unsigned type;
    for (type = 0; q && type < LLM_TYPE_COUNT; type++)
        if (llm__formats[type].bits && llm__formats[type].bits < 8)
            quantize_fill(&q->table[type], &llm__formats[type]);
    return q;
}

/* ---- bf16 -------------------------------------------------------------- */

static uint32_t quantize_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static float quantize_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static bool quantize_finite(float x) { return (quantize_bits(x) & 0x7f800000u) != 0x7f800000u; }

/* To nearest, ties to even; finite stays finite, and what is not stays what it is. */
static uint16_t quantize_bf16(float x) {
    uint32_t bits = quantize_bits(x), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    if (!quantize_finite(x)) return (uint16_t)(bits >> 16 | (bits & 0x7fffffu ? 0x40u : 0u));
    if ((rounded & 0x7f800000u) == 0x7f800000u) rounded = (bits & 0x80000000u) | 0x7f7f0000u;
    return (uint16_t)(rounded >> 16);
}
static float quantize_from_bf16(uint16_t h) { return quantize_float((uint32_t)h << 16); }
static float quantize_round(float x) { return quantize_from_bf16(quantize_bf16(x)); }

/* ---- rotation ---------------------------------------------------------- */

/* `count` floats, `stride` apart, in blocks of `block` (16, 32 or 64): each block times the
   normalised Hadamard matrix, which is its own inverse. */
static LLM__UNUSED void quantize_rotate(float *x, size_t count, size_t stride, uint32_t block) {
    float norm = block == 64 ? 0.125f : block == 32 ? 0.17677669529663687f : 0.25f;
    size_t start, i, j, half;
    if (block == 0) return;
    for (start = 0; start + block <= count; start += block) {
        float *b = x + start * stride;
        for (half = 1; half < block; half *= 2)
            for (i = 0; i < block; i += 2 * half)
                for (j = i; j < i + half; j++) {
                    float sum = b[j * stride] + b[(j + half) * stride];
                    b[(j + half) * stride] = b[j * stride] - b[(j + half) * stride];
                    b[j * stride] = sum;
                }
        for (i = 0; i < block; i++) b[i * stride] *= norm;
    }
}

/* ---- panels ------------------------------------------------------------ */

/* Sets a code in a zeroed record: the inverse of llm__code. */
static void quantize_put(unsigned bits, uint8_t *record, unsigned r, unsigned k, unsigned code) {
    unsigned g = k / 4, at = 4 * r + k % 4;
    switch (bits) {
    case 8: record[64 * g + at] = (uint8_t)code; break;
    case 6:
        record[256 + 64 * (g / 2) + at] |= (uint8_t)((code & 15u) << 4 * (g % 2));
        record[64 * (g / 4) + at] |= (uint8_t)(code >> 4 << 2 * (g % 4));
        break;
    case 5:
        record[128 + 64 * (g / 2) + at] |= (uint8_t)((code & 15u) << 4 * (g % 2));
        record[64 * (g / 8) + at] |= (uint8_t)(code >> 4 << g % 8);
        break;
    case 4: record[64 * (g / 2) + at] |= (uint8_t)(code << 4 * (g % 2)); break;
    case 2: record[64 * (g / 4) + at] |= (uint8_t)(code << 2 * (g % 4)); break;
    default:
        record[128 + 64 * (g / 4) + at] |= (uint8_t)((code & 3u) << 2 * (g % 4));
        record[64 * (g / 8) + at] |= (uint8_t)(code >> 2 << g % 8);
    }
}

/* What a super-block of one row becomes. */
typedef struct quantize_block {
    uint16_t scale;     /* bf16 */
    uint8_t p[16];      /* one for each 16 weights */
    uint8_t code[256];
    float value[256];   /* as an integer */
} quantize_block;

static float quantize_largest(const float *x, uint32_t count) {
    float most = 0.0f;
    uint32_t i;
    for (i = 0; i < count; i++) {
        float size = x[i] < 0.0f ? -x[i] : x[i];
        most = size > most ? size : most;
    }
    return most;
}

/* Steps of x / scale for 16 weights, and x / scale itself. */
static void quantize_steps(const float *x, float scale, float *t, int32_t *step) {
    int i;
    for (i = 0; i < 16; i++) {
        float at = x[i] / scale;
        t[i] = at;
        at = at * 2.0f + 256.0f;
        at = at > 0.0f ? at : 0.0f;
        at = at < 511.0f ? at : 511.0f;
        step[i] = (int32_t)at;
    }
}

/* The p of the least error (in units of scale^2) for 16 weights. */
static unsigned quantize_choose(const quantize_table *table, const float *t, const int32_t *step,
                                const float *weight, float *error) {
    float sums[16];
    unsigned i, p, best = 0;
    for (p = 0; p < 16; p += 8) { /* eight sums at a time stay in registers */
        float sum[8] = {0};
        for (i = 0; i < 16; i++) {
            const float *value = table->value[step[i]] + p;
            float at = t[i], w = weight ? weight[i] : 1.0f;
            unsigned j;
            for (j = 0; j < 8; j++) {
                float d = at - value[j];
                sum[j] += w * (d * d);
            }
        }
        memcpy(sums + p, sum, sizeof sum);
    }
    for (p = 1; p < 16; p++)
        if (sums[p] < sums[best]) best = p;
    *error = sums[best];
    return best;
}

/* Squared error of a super-block under a scale, every 16 weights at their best, as soon as it
   passes `limit` (if that is not negative) only so far. `fit`, if wanted, gets the scale that
   suits the chosen values best. */
static double quantize_try(const quantize_table *table, const float *x, uint32_t size,
                           const float *weight, float scale, double limit, float *fit) {
    double total = 0.0, xv = 0.0, vv = 0.0, unit = (double)scale * (double)scale;
    uint32_t i, j;
    for (i = 0; i < size && !(limit >= 0.0 && total * unit > limit); i += 16) {
        float t[16], error;
        int32_t step[16];
        unsigned p;
        quantize_steps(x + i, scale, t, step);
        p = quantize_choose(table, t, step, weight ? weight + i : NULL, &error);
        total += (double)error;
        for (j = 0; fit && j < 16; j++) {
            float v = table->value[step[j]][p], w = weight ? weight[i + j] : 1.0f;
            xv += (double)(w * t[j] * v);
            vv += (double)(w * v * v);
        }
    }
    if (fit) *fit = vv > 0.0 && xv > 0.0 ? (float)((double)scale * xv / vv) : scale;
    return total * unit;
}

/* The grid: the largest weight at 127 / quantize_grid[i]. The likely ones come first, so that the
   others are soon seen to be worse. */
static const float quantize_grid[] = {0.92f, 1.06f, 0.99f, 0.86f, 1.14f, 1.22f, 0.80f,
                                      1.32f, 1.43f, 1.55f, 1.68f, 1.82f, 2.00f, 2.20f};

/* Keeps a scale that is better than the best. */
static void quantize_offer(const quantize_table *table, const float *x, uint32_t size,
                           const float *weight, float scale, float *best, double *least) {
    double error;
    if (scale <= 0.0f || !quantize_finite(scale) || *least == 0.0) return;
    error = quantize_try(table, x, size, weight, scale, *least, NULL);
    if (*least >= 0.0 && error >= *least) return;
    *least = error;
    *best = scale;
}

static float quantize_search(const quantize_table *table, const float *x, uint32_t size,
                             const float *weight, float most) {
    const float power = quantize_float(quantize_bits(most) & 0x7f800000u); /* most / 2 < power <= most */
    float best = 0.0f, fit;
    double least = -1.0, was;
    size_t i;
    for (i = 0; i < sizeof quantize_grid / sizeof *quantize_grid; i++)
        quantize_offer(table, x, size, weight, quantize_round(most / 127.0f * quantize_grid[i]), &best,
                       &least);
    /* Weights that stand on a grid already: 0 and one size (ternary), small integers of 2^n (MXFP4). */
    quantize_offer(table, x, size, weight, quantize_round(most / 4.0f), &best, &least);
    quantize_offer(table, x, size, weight, quantize_round(most / 32.0f), &best, &least);
    for (i = 2; i < 7; i++)
        quantize_offer(table, x, size, weight, power / (float)(1u << i), &best, &least);
    for (i = 0; i < 3 && best > 0.0f && least > 0.0; i++) {
        (void)quantize_try(table, x, size, weight, best, -1.0, &fit);
        fit = quantize_round(fit);
        was = least;
        if (fit != best) quantize_offer(table, x, size, weight, fit, &best, &least);
        if (least == was) break;
    }
    return best;
}

static void quantize_codes(const quantize_table *table, const float *x, uint32_t size,
                           const float *weight, float scale, quantize_block *out) {
    uint32_t i, j;
    out->scale = quantize_bf16(scale);
    for (i = 0; i < size; i += 16) {
        float t[16], error;
        int32_t step[16];
        unsigned p;
        if (scale > 0.0f) quantize_steps(x + i, scale, t, step);
        for (j = 0; j < 16 && !(scale > 0.0f); j++) t[j] = 0.0f, step[j] = 256;
        p = quantize_choose(table, t, step, weight ? weight + i : NULL, &error);
        out->p[i / 16] = (uint8_t)p;
        for (j = 0; j < 16; j++) {
            out->code[i + j] = table->code[step[j]][p];
            out->value[i + j] = table->value[step[j]][p];
        }
    }
}

static float quantize_nearest8(float x, float scale) {
    float at = x / scale;
    at = at < 127.0f ? at : 127.0f;
    at = at > -127.0f ? at : -127.0f;
    return rintf(at);
}

/* 8 bits: of the bf16 scales around the one that lets nothing clip, and the power of two below, at
   which small integers of 2^n stay what they are, the one of the least error. */
static void quantize_eight(const float *x, uint32_t size, const float *weight,
                           quantize_block *out) {
    float most = quantize_largest(x, size);
    uint32_t bits = quantize_bits(most / 127.0f) + 0xffffu, i, tried;
    uint16_t first = (uint16_t)(bits >> 16), best = 0;
    double least = -1.0;
    for (tried = 0; tried < 7 && most > 0.0f; tried++) {
        uint16_t at = (uint16_t)(first - tried);
        float scale;
        double error = 0.0;
        if (tried == 6) at = quantize_bf16(quantize_float(quantize_bits(most) & 0x7f800000u) / 64.0f);
        else if (tried >= first) continue;
        scale = quantize_from_bf16(at);
        if (scale <= 0.0f) continue;
        for (i = 0; i < size; i++) {
            float d = x[i] / scale - quantize_nearest8(x[i], scale);
            error += (double)(weight ? weight[i] * d * d : d * d);
        }
        error *= (double)scale * (double)scale;
        if (least >= 0.0 && error >= least) continue;
        least = error;
        best = at;
    }
    out->scale = best;
    for (i = 0; i < size; i++) {
        float value = best ? quantize_nearest8(x[i], quantize_from_bf16(best)) : 0.0f;
        out->value[i] = value;
        out->code[i] = (uint8_t)((int)value & 255);
    }
}

static void quantize_row_block(const quantizer *q, uint32_t type, const float *x, uint32_t size,
                               const float *weight, quantize_block *out) {
    const quantize_table *table = &q->table[type];
    if (llm__formats[type].bits == 8) {
        quantize_eight(x, size, weight, out);
    } else {
        float most = quantize_largest(x, size);
        float scale = most > 0.0f ? quantize_search(table, x, size, weight, most) : 0.0f;
        quantize_codes(table, x, size, weight, scale, out);
    }
}

/* Scale, parameters and codes of one row's super-block into a zeroed panel. */
static void quantize_store(uint32_t type, const quantize_block *b, uint32_t padded, unsigned r,
                           uint32_t start, uint32_t size, uint8_t *panel) {
    size_t scales = (size_t)padded / llm__super_block(padded) * 32;
    uint8_t *records = panel + llm__panel_header(type, padded);
    unsigned bits = llm__formats[type].bits;
    uint32_t i, k;
    memcpy(panel + (size_t)(start / size) * 32 + r * 2, &b->scale, 2);
    for (i = 0; bits < 8 && i < size / 16; i++)
        panel[scales + (size_t)(start / 16 + i) * 8 + r % 8] |=
            (uint8_t)(b->p[i] << (r < 8 ? 0 : 4));
    for (i = 0; i < size; i++) {
        k = start + i;
        quantize_put(bits, records + k / 64 * llm__record_size(type), r, k % 64, b->code[i]);
    }
}

/* Sums of squares: of the weights, and of what the conversion changed. */
typedef struct quantize_sums {
    double norm, error;
} quantize_sums;

static void quantize_plain(uint32_t type, const float *rows, uint32_t padded, uint8_t *panel,
                           quantize_sums *sums) {
    uint32_t k, r;
    for (k = 0; k < padded; k++) {
        for (r = 0; r < 16; r++) {
            float x = rows[(size_t)r * padded + k], y = x;
            size_t at = (size_t)k * 16 + r;
            if (type == LLM_F32) {
                memcpy(panel + at * 4, &x, 4);
            } else {
                uint16_t half = quantize_bf16(x);
                memcpy(panel + at * 2, &half, 2);
                y = quantize_from_bf16(half);
            }
            sums->norm += (double)x * (double)x;
            sums->error += ((double)x - (double)y) * ((double)x - (double)y);
        }
    }
}

/* Sixteen finite rows of `padded` floats to a panel of llm__panel_size(type, padded) bytes.
   `weight` [padded], or NULL, says how much an error in each column matters. Adds to `sums`. */
static LLM__UNUSED void quantize_panel(const quantizer *q, uint32_t type, const float *rows,
                                       uint32_t padded,
                           const float *weight, uint8_t *panel, quantize_sums *sums) {
    uint32_t size = llm__super_block(padded), start, i;
    unsigned r;
    memset(panel, 0, llm__panel_size(type, padded));
    if (!llm__formats[type].bits) {
        quantize_plain(type, rows, padded, panel, sums);
        return;
    }
    for (r = 0; r < 16; r++) {
        for (start = 0; start < padded; start += size) {
            const float *x = rows + (size_t)r * padded + start;
            quantize_block block;
            double scale;
            quantize_row_block(q, type, x, size, weight ? weight + start : NULL, &block);
            quantize_store(type, &block, padded, r, start, size, panel);
            scale = (double)quantize_from_bf16(block.scale);
            for (i = 0; i < size; i++) {
                double d = (double)x[i] - scale * (double)block.value[i];
                sums->norm += (double)x[i] * (double)x[i];
                sums->error += d * d;
            }
        }
    }
}

#endif
