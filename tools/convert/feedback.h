/* ======================================================================== */
/* Feedback: quantising so that errors cancel in the output                  */
/* ========================================================================
   With H the second moments of a matmul's input, a row's errors e = w - w' cost e H e^T. H = U D
   U^T (unit upper U, see matmul.h) makes that the sum over columns k of D_k (e_k + sum of e_j U_jk
   over j < k)^2: so a column is rounded to w_k + sum of e_j U_jk, and what the columns before it
   did wrong is made good. That is GPTQ (Frantar et al. 2022, arXiv 2210.17323) as LDLQ states it
   (Chee et al. 2023, arXiv 2307.13304, whose theorem 6 shows them to be one).

   A parameter is chosen for 16 columns at a time: all 16 are tried with the feedback among these
   columns, and the one of the least cost stays. So is the scale of a super-block, from several. */
#ifndef CONVERT_FEEDBACK_H
#define CONVERT_FEEDBACK_H

#include "matmul.h"
#include "quantize.h"

typedef struct feedback {
    const quantizer *tables;
    uint32_t type, n;   /* n: padded columns */
    const float *u;     /* strips of U, and */
    const float *d;     /* [n] D, of H */
    matmul_tile tile;
} feedback;

/* What a thread needs for a panel, [..][16 rows] each but for `block`. */
typedef struct feedback_space {
    float *w, *e;        /* [n] weights and errors */
    float *base, *tried; /* [256] aims before the super-block's own errors, errors of a try */
    float *best;         /* [256] errors of the best try */
    quantize_block block[16], best_block[16];
} feedback_space;

/* 16 columns of a row. */
typedef struct feedback_group {
    float aim[16], w[16]; /* in: what to round to, the weights; both in units of the scale */
    float value[16];      /* out */
    uint8_t code[16], p;
    float cost;
} feedback_group;

/* All 16 parameters, one in each lane. u[16][16], d[16]. */
LLM__INLINE void feedback_choose_in(const quantize_table *table, const float *u, const float *d,
                                    feedback_group *g) {
    float aim[16][16], value[16][16], cost[16], e[16], at[16];
    int32_t step[16][16];
    unsigned i, j, p, best = 0;
    for (p = 0; p < 16; p++) cost[p] = 0.0f;
    for (i = 0; i < 16; i++)
        for (p = 0; p < 16; p++) aim[i][p] = g->aim[i];
    for (i = 0; i < 16; i++) {
        for (p = 0; p < 16; p++) {
            float x = aim[i][p] * 2.0f + 256.0f;
            x = x > 0.0f ? x : 0.0f;
            at[p] = x < 511.0f ? x : 511.0f;
        }
        for (p = 0; p < 16; p++) step[i][p] = (int32_t)at[p];
        for (p = 0; p < 16; p++) value[i][p] = table->value[step[i][p]][p];
        for (p = 0; p < 16; p++) {
            const float off = aim[i][p] - value[i][p];
            cost[p] += d[i] * off * off;
            e[p] = g->w[i] - value[i][p];
        }
        for (j = i + 1; j < 16; j++) {
            const float f = u[i * 16 + j];
            for (p = 0; p < 16; p++) aim[j][p] += e[p] * f;
        }
    }
    for (p = 1; p < 16; p++)
        if (cost[p] < cost[best]) best = p;
    g->p = (uint8_t)best;
    g->cost = cost[best];
    for (i = 0; i < 16; i++) {
        g->value[i] = value[i][best];
        g->code[i] = table->code[step[i][best]][best];
    }
}

/* 8 bits: no parameters. */
LLM__INLINE void feedback_round_in(const float *u, const float *d, feedback_group *g) {
    unsigned i, j;
    g->p = 0;
    g->cost = 0.0f;
    for (i = 0; i < 16; i++) {
        const float value = quantize_nearest8(g->aim[i], 1.0f), off = g->aim[i] - value;
        const float e = g->w[i] - value;
        g->value[i] = value;
        g->code[i] = (uint8_t)((int)value & 255);
        g->cost += d[i] * off * off;
        for (j = i + 1; j < 16; j++) g->aim[j] += e * u[i * 16 + j];
    }
}

typedef void (*feedback_chooser)(const quantize_table *table, const float *u, const float *d,
                                 feedback_group *g);
static void feedback_choose_plain(const quantize_table *table, const float *u, const float *d,
                                  feedback_group *g) {
    feedback_choose_in(table, u, d, g);
}
#ifdef MATMUL_AVX2
__attribute__((target("avx2,fma"))) static void
feedback_choose_avx2(const quantize_table *table, const float *u, const float *d,
                     feedback_group *g) {
    feedback_choose_in(table, u, d, g);
}
#endif
static feedback_chooser feedback_chooser_of(const feedback *f) {
#ifdef MATMUL_AVX2
    if (f->tile == matmul_tile_avx2) return feedback_choose_avx2;
#endif
    (void)f;
    return feedback_choose_plain;
}

/* Columns at .. at + 15 of all rows: aims[16][16] = from[16][16] + sum of e[k][16] U over the `k`
   columns from `first` on. */
static void feedback_aim(const feedback *f, size_t at, const float *from, const float *e,
                         size_t first, size_t k, float *aims) {
    const float *u = f->u + at / 16 * f->n * 16 + first * 16;
    unsigned c;
    memcpy(aims, from, 256 * sizeof *aims);
    for (c = 0; k && c < 16; c += 4) f->tile(k, u + c, 16, 1, e, aims + c * 16, 16, true);
}

/* One try at a super-block with a scale for each row; costs[16]. */
static void feedback_try(const feedback *f, feedback_space *s, uint32_t start, uint32_t size,
                         const float *scales, double *costs) {
    const quantize_table *table = &f->tables->table[f->type];
    const feedback_chooser choose = feedback_chooser_of(f);
    const bool eight = llm__formats[f->type].bits == 8;
    float aims[256];
    uint32_t g, i, r;
    for (r = 0; r < 16; r++) costs[r] = 0.0;
    for (g = 0; g < size; g += 16) {
        const size_t at = (size_t)start + g;
        const float *u = f->u + at / 16 * f->n * 16 + at * 16, *d = f->d + at;
        feedback_aim(f, at, s->base + g * 16, s->tried, start, g, aims);
        for (r = 0; r < 16; r++) {
            quantize_block *block = &s->block[r];
            feedback_group group;
            const float scale = scales[r], inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            for (i = 0; i < 16; i++) {
                group.aim[i] = aims[i * 16 + r] * inverse;
                group.w[i] = s->w[(at + i) * 16 + r] * inverse;
            }
            if (eight) feedback_round_in(u, d, &group);
            else choose(table, u, d, &group);
            block->p[g / 16] = group.p;
            memcpy(block->code + g, group.code, sizeof group.code);
            memcpy(block->value + g, group.value, sizeof group.value);
            for (i = 0; i < 16; i++)
                s->tried[(g + i) * 16 + r] = s->w[(at + i) * 16 + r] - scale * group.value[i];
            costs[r] += (double)group.cost * (double)scale * (double)scale;
        }
    }
}

/* Of what a scale that ignores feedback is, these are tried. */
static const float feedback_factors[] = {1.0f, 0.95f, 1.05f, 0.9f, 1.1f};

static void feedback_super_block(const feedback *f, feedback_space *s, uint32_t start,
                                 uint32_t size) {
    const quantize_table *table = &f->tables->table[f->type];
    const bool eight = llm__formats[f->type].bits == 8;
    float first[16], scales[16], x[256];
    double costs[16], least[16];
    uint32_t i, r, t;
    for (i = 0; i < size; i += 16)
        feedback_aim(f, (size_t)start + i, s->w + ((size_t)start + i) * 16, s->e, 0, start,
                     s->base + i * 16);
    for (r = 0; r < 16; r++) {
        float most;
        for (i = 0; i < size; i++) x[i] = s->base[i * 16 + r];
        most = quantize_largest(x, size);
        first[r] = most <= 0.0f ? 0.0f
                   : eight      ? quantize_round(most / 126.5f)
                                : quantize_search(table, x, size, f->d + start, most);
        least[r] = -1.0;
    }
    for (t = 0; t < sizeof feedback_factors / sizeof *feedback_factors; t++) {
        for (r = 0; r < 16; r++) scales[r] = quantize_round(first[r] * feedback_factors[t]);
        feedback_try(f, s, start, size, scales, costs);
        for (r = 0; r < 16; r++) {
            if (least[r] >= 0.0 && !(costs[r] < least[r])) continue;
            least[r] = costs[r];
            s->block[r].scale = quantize_bf16(scales[r]);
            s->best_block[r] = s->block[r];
            for (i = 0; i < size; i++) s->best[i * 16 + r] = s->tried[i * 16 + r];
        }
    }
    memcpy(s->e + (size_t)start * 16, s->best, (size_t)size * 16 * sizeof *s->e);
}

/* Sixteen rows of n floats to a panel of llm__panel_size bytes; the rows become what the panel
   holds. */
static void feedback_panel(const feedback *f, feedback_space *s, float *rows, uint8_t *panel,
                           quantize_sums *sums) {
    const uint32_t n = f->n, size = llm__super_block(n);
    uint32_t start, i, r;
    memset(panel, 0, llm__panel_size(f->type, n));
    for (r = 0; r < 16; r++)
        for (i = 0; i < n; i++) s->w[(size_t)i * 16 + r] = rows[(size_t)r * n + i];
    for (start = 0; start < n; start += size) {
        feedback_super_block(f, s, start, size);
        for (r = 0; r < 16; r++) {
            const quantize_block *block = &s->best_block[r];
            const float scale = quantize_from_bf16(block->scale);
            quantize_store(f->type, block, n, r, start, size, panel);
            for (i = 0; i < size; i++) {
                float *x = rows + (size_t)r * n + start + i;
                const double e = (double)s->e[((size_t)start + i) * 16 + r];
                sums->norm += (double)*x * (double)*x;
                sums->error += e * e;
                *x = scale * block->value[i];
            }
        }
    }
}

/* Floats of a thread's space. */
static size_t feedback_floats(uint32_t n) { return (size_t)n * 32 + 3 * 256 * 16; }
static void feedback_place(feedback_space *s, float *space, uint32_t n) {
    s->w = space;
    s->e = s->w + (size_t)n * 16;
    s->base = s->e + (size_t)n * 16;
    s->tried = s->base + 256 * 16;
    s->best = s->tried + 256 * 16;
}

#endif
