/* ======================================================================== */
/* Mixed: formats by what they cost                                          */
/* ========================================================================
   For a budget of bits a weight, every matrix gets the format that serves the whole best. What a
   matrix may lose is measured in float, on a few hundred tokens:

       near   noise on a matrix, spread as its quantisation would be: how far the stream behind its
              layer moves, relative to its size
       far    noise on all matrices of a layer, at a few depths: how far the next token's
              distribution moves (Kullback-Leibler) as the stream moves, interpolated between them

   The product is the matrix's sensitivity. A format's cost is that, times the noise that the format
   leaves behind (a constant, measured); costs add up. Minimising them under a sum of sizes is done
   with a price of a bit: for each price every matrix chooses by itself (Shoham and Gersho 1988).

   Rows of the embedding and of the output matrix are tokens, of which some are met ten thousand times
   as often as others, and vocabularies are sorted by that more or less. So these two are cut into a
   few ranges of tokens with a format each. A range is as sensitive as the text has of its tokens, and
   as its tokens are likely: noise e on the logits costs a divergence of half the variance of e under
   the distribution, so sum p (1 - p) |row|^2 of it is a range's share. Some of that is spread evenly,
   since a text has not all languages that a model knows. */
#ifndef CONVERT_MIXED_H
#define CONVERT_MIXED_H

#include "calibrate.h"

#define MIXED_NOISE   0.05f /* relative, on weights and on the embedding */
#define MIXED_DEPTHS  8u    /* layers with noise on all matrices */
#define MIXED_SLABS   64u   /* of a vocabulary, or more, so that a slab is at most */
#define MIXED_UNITS   16u   /* so many WRITER_UNITs */
#define MIXED_EVERY   4u    /* of so many positions, one is looked at behind the last layer */

/* Error in a matmul's output that a format leaves, relative to q4: summed over the first three
   layers of SmolLM2, with feedback. */
static const struct { uint32_t type; double noise; } mixed_formats[] = {
    {LLM_Q2, 16.0}, {LLM_Q3, 3.82}, {LLM_Q4, 1.0}, {LLM_Q5, 0.261}, {LLM_Q6, 0.069}, {LLM_Q8, 0.010}};
enum { MIXED_FORMATS = sizeof mixed_formats / sizeof *mixed_formats };
#define MIXED_LEAST_CUT 1u /* of mixed_formats: what rare tokens keep at least; with q2 Gemma loses more */
#define MIXED_EVEN      0.1 /* of the sensitivity of a vocabulary, spread evenly */

typedef struct mixed {
    calibration *c;        /* a small one of its own */
    float *stream[MIXED_DEPTHS + 2]; /* [tokens][width]: undisturbed; disturbed at depth[i - 1] */
    uint32_t depth[MIXED_DEPTHS + 1], depths; /* layers before which the stream is disturbed, from 0 on */
    double moved[MIXED_DEPTHS + 1];           /* by how much, relative squares */
    double far_off[MIXED_DEPTHS + 1];         /* divergence per unit of that */
    double *near_by;       /* [tensors of the plan] */
    double head;           /* divergence by noise on the output matrix */
    uint32_t slab, slabs;  /* tokens that are looked at as one, a multiple of WRITER_UNIT; how many slabs */
    double *told, *heard;  /* [slabs] share of each, as output and as input; sums of 1 */
} mixed;

/* A normal number that depends on the seed and the place alone (Box and Muller). */
static float mixed_normal(uint64_t seed, uint64_t at) {
    uint64_t h = (seed + 1) * 0x9E3779B97F4A7C15u ^ (at + 1) * 0xC2B2AE3D27D4EB4Fu;
    double a, b;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    a = ((double)(h >> 32) + 0.5) / 4294967296.0;
    b = (double)(h & 0xffffffffu) / 4294967296.0;
    return (float)(sqrt(-2.0 * log(a)) * cos(6.283185307179586 * b));
}

/* ---- near ----------------------------------------------------------------- */

/* w + noise, as large as MIXED_NOISE of a row once its inputs are evened out. */
static void mixed_disturb(const plan_tensor *t, const float *w, const float *scales, float *out) {
    const uint32_t cols = t->file.cols, padded = llm__padded(cols);
    uint32_t r, i;
    for (r = 0; r < t->file.rows; r++) {
        const size_t at = (size_t)r * padded;
        float sum = 0.0f, size;
        for (i = 0; i < cols; i++) sum += w[at + i] * scales[i] * w[at + i] * scales[i];
        size = MIXED_NOISE * sqrtf(sum / (float)cols);
        for (i = 0; i < cols; i++)
            out[at + i] = w[at + i] + size * mixed_normal(t->file.role, at + i) / scales[i];
    }
}

/* Mean over tokens of |a - b|^2 / |b|^2. */
static double mixed_moved(const float *a, const float *b, size_t tokens, uint32_t n) {
    double sum = 0.0;
    size_t t;
    uint32_t i;
    for (t = 0; t < tokens; t++) {
        double moved = 0.0, size = 1e-30;
        for (i = 0; i < n; i++) {
            const double x = (double)b[t * n + i], e = (double)a[t * n + i] - x;
            moved += e * e;
            size += x * x;
        }
        sum += moved / size;
    }
    return sum / (double)tokens;
}

enum { MIXED_MATRICES = 6 };
static const struct { uint32_t role; int input; } mixed_matrices[MIXED_MATRICES] = {
    {LLM__Q, 0}, {LLM__K, 0}, {LLM__V, 0}, {LLM__ATTN_OUT, 1}, {LLM__GATE_UP, 2}, {LLM__DOWN, 3}};

/* What noise on some matrices of a layer (bits of `which`) does to the stream: `before` the layer,
   `after` it undisturbed, `x` disturbed. */
static llm_result mixed_try(mixed *m, unsigned which, double *const squares[4], const float *before,
                            const float *after, float *x, double *moved) {
    calibration *c = m->c;
    const size_t tokens = forward_tokens(&c->run);
    float *w[MIXED_MATRICES] = {NULL}, *own = c->x;
    float *scales = (float *)malloc(c->w->widest * sizeof *scales);
    llm_result result = scales ? LLM_OK : calibrate_memory(c, "a matrix with noise");
    unsigned i;
    for (i = 0; i < MIXED_MATRICES && result == LLM_OK; i++) {
        const uint32_t role = mixed_matrices[i].role;
        const plan_tensor *t = c->tensor[role];
        float *noisy;
        if (!(which >> i & 1)) continue;
        noisy = (float *)calloc(calibrate_rows(t) * llm__padded(t->file.cols), sizeof *noisy);
        if (!noisy) {
            result = calibrate_memory(c, "a matrix with noise");
            break;
        }
        calibrate_scales(squares[mixed_matrices[i].input], tokens, t->file.cols, scales);
        mixed_disturb(t, c->layer.w[role], scales, noisy);
        w[i] = c->layer.w[role];
        c->layer.w[role] = noisy;
    }
    if (result == LLM_OK) {
        memcpy(x, before, tokens * c->run.d->width * sizeof *x);
        c->x = x;
        calibrate_run(c, NULL);
        c->x = own;
        *moved = mixed_moved(x, after, tokens, c->run.d->width);
    }
    for (i = 0; i < MIXED_MATRICES; i++) {
        if (!w[i]) continue;
        free(c->layer.w[mixed_matrices[i].role]);
        c->layer.w[mixed_matrices[i].role] = w[i];
    }
    free(scales);
    return result;
}

static llm_result mixed_near(mixed *m, const float *before, double *squares[4]) {
    calibration *c = m->c;
    llm_result result = LLM_OK;
    unsigned i;
    for (i = 0; i < MIXED_MATRICES && result == LLM_OK; i++)
        result = mixed_try(m, 1u << i, squares, before, m->stream[0], c->x,
                           &m->near_by[c->tensor[mixed_matrices[i].role] - c->w->plan->tensors]);
    return result;
}

/* ---- far ------------------------------------------------------------------ */

/* What is known of a position's distributions p and q while the vocabulary goes by: their largest
   logits, sums of e^(z - largest), and sum of e^(zp - largest) (zp - zq); with |row|^2 as a factor,
   sums of the first and of its square. */
typedef struct mixed_position {
    double most_p, sum_p, most_q, sum_q, apart, once, twice;
} mixed_position;

static void mixed_add(mixed_position *p, double zp, double zq, double square) {
    double e;
    if (zp > p->most_p) {
        const double less = exp(p->most_p - zp);
        p->sum_p *= less;
        p->apart *= less;
        p->once *= less;
        p->twice *= less * less;
        p->most_p = zp;
    }
    if (zq > p->most_q) {
        p->sum_q *= exp(p->most_q - zq);
        p->most_q = zq;
    }
    e = exp(zp - p->most_p);
    p->sum_p += e;
    p->sum_q += exp(zq - p->most_q);
    p->apart += e * (zp - zq);
    p->once += e * square;
    p->twice += e * e * square;
}

static double mixed_divergence(const mixed_position *p) {
    return p->apart / p->sum_p - (p->most_p + log(p->sum_p)) + (p->most_q + log(p->sum_q));
}

typedef struct mixed_ends {
    const mixed *m;
    const float *in;   /* [streams][positions][padded] normed */
    float *size;       /* [positions] root mean squares of the undisturbed ones */
    size_t positions, streams; /* streams: the undisturbed one first */
    const plan_tensor *t;
    mixed_position *at; /* [units of rows][streams][positions]; the last stream is noise on t */
    writer_unit *units;
    float *rows;        /* [threads][WRITER_UNIT][padded] */
} mixed_ends;

static float mixed_logit(const llm__file_desc *d, float z) {
    z *= d->logit_scale;
    return d->logit_softcap > 0.0f ? d->logit_softcap * tanhf(z / d->logit_softcap) : z;
}

/* A slab of the output matrix against all positions of all streams. */
static void mixed_logits(void *context, size_t index, unsigned worker) {
    mixed_ends *e = (mixed_ends *)context;
    const calibration *c = e->m->c;
    const llm__file_desc *d = c->run.d;
    const uint32_t padded = llm__padded(d->width);
    const size_t n = e->positions * e->streams;
    float *rows = e->rows + worker * (WRITER_UNIT * padded + n * WRITER_UNIT);
    float *z = rows + WRITER_UNIT * padded;
    mixed_position *at = e->at + index * e->streams * e->positions;
    size_t p, s;
    uint32_t unit, r, k;
    for (unit = 0; unit < e->m->slab / WRITER_UNIT; unit++) {
        const uint32_t first = (uint32_t)index * e->m->slab + unit * WRITER_UNIT;
        if (first >= e->t->file.rows) return;
        writer_gather(c->w, e->t, first, rows, c->w->row + worker * c->w->widest, &e->units[index]);
        matmul(&c->crew, (int)worker, n, WRITER_UNIT, padded, matrix_of(e->in, padded, 1),
               matrix_of(rows, padded, 1), strips_of(z, WRITER_UNIT, 16), 1.0f, false, false);
        for (r = 0; r < WRITER_UNIT && first + r < e->t->file.rows; r++) {
            float size = 0.0f;
            for (k = 0; k < d->width; k++) size += rows[r * padded + k] * rows[r * padded + k];
            size = MIXED_NOISE * sqrtf(size);
            for (p = 0; p < e->positions; p++) {
                const float clean = mixed_logit(d, z[p * WRITER_UNIT + r]);
                for (s = 1; s < e->streams; s++)
                    mixed_add(&at[(s - 1) * e->positions + p], (double)clean,
                              (double)mixed_logit(d, z[(s * e->positions + p) * WRITER_UNIT + r]), 0.0);
                mixed_add(&at[(e->streams - 1) * e->positions + p], (double)clean,
                          (double)mixed_logit(d, z[p * WRITER_UNIT + r] +
                                              size * e->size[p] * mixed_normal(first + r, p)),
                          (double)size * (double)size);
            }
        }
    }
}

/* Two parts of the vocabulary become one. */
static void mixed_join(mixed_position *a, const mixed_position *b) {
    const double p = b->most_p > a->most_p ? b->most_p : a->most_p;
    const double q = b->most_q > a->most_q ? b->most_q : a->most_q;
    const double pa = exp(a->most_p - p), pb = exp(b->most_p - p);
    a->apart = a->apart * pa + b->apart * pb;
    a->sum_p = a->sum_p * pa + b->sum_p * pb;
    a->sum_q = a->sum_q * exp(a->most_q - q) + b->sum_q * exp(b->most_q - q);
    a->most_p = p, a->most_q = q;
}

/* What slabs have of the divergence by noise on the output matrix; `all`: the vocabulary as a whole. */
static void mixed_tell(mixed *m, const mixed_ends *e, const mixed_position *all) {
    const size_t n = e->positions * e->streams, last = n - e->positions;
    double sum = 0.0;
    size_t p;
    uint32_t i;
    for (i = 0; i < m->slabs; i++) {
        m->told[i] = 0.0;
        for (p = 0; p < e->positions; p++) {
            const mixed_position *at = &e->at[i * n + last + p];
            const double part = exp(at->most_p - all[last + p].most_p) / all[last + p].sum_p;
            const double size = (double)e->size[p] * (double)e->size[p];
            m->told[i] += size * (at->once * part - at->twice * part * part);
        }
        sum += m->told[i];
    }
    for (i = 0; i < m->slabs; i++) m->told[i] = sum > 0.0 ? m->told[i] / sum : 1.0 / m->slabs;
}

/* Divergences of all streams, and of noise on the output matrix. `all`: [streams][positions] work. */
static void mixed_sum_up(mixed *m, const mixed_ends *e, size_t items, mixed_position *all) {
    const size_t n = e->positions * e->streams;
    size_t i, s, p;
    memcpy(all, e->at, n * sizeof *all);
    for (i = 1; i < items; i++)
        for (p = 0; p < n; p++) mixed_join(&all[p], &e->at[i * n + p]);
    mixed_tell(m, e, all);
    for (s = 0; s < e->streams; s++) {
        double sum = 0.0;
        for (p = 0; p < e->positions; p++) sum += mixed_divergence(&all[s * e->positions + p]);
        sum /= (double)e->positions;
        sum = sum > 1e-12 ? sum : 1e-12;
        if (s + 1 < e->streams) m->far_off[s] = sum / m->moved[s];
        else m->head = sum;
    }
}

static llm_result mixed_far(mixed *m) {
    calibration *c = m->c;
    const llm__file_desc *d = c->run.d;
    const plan_tensor *norm = plan_find(c->w->plan, LLM__OUT_NORM, LLM__NONE);
    const uint32_t padded = llm__padded(d->width);
    const size_t tokens = forward_tokens(&c->run), positions = tokens / MIXED_EVERY;
    float *gain = NULL, *in;
    size_t i, s, p, items;
    mixed_ends e;
    llm_result result = writer_load_vector(c->w, norm, &gain);
    memset(&e, 0, sizeof e);
    e.m = m, e.positions = positions, e.streams = m->depths + 1;
    e.t = plan_find(c->w->plan, LLM__HEAD, LLM__NONE);
    if (!e.t) e.t = plan_find(c->w->plan, LLM__EMBEDDING, LLM__NONE);
    items = m->slabs;
    in = (float *)calloc(e.streams * positions * padded, sizeof *in);
    e.in = in;
    e.size = (float *)malloc(positions * sizeof *e.size);
    e.at = (mixed_position *)malloc((items + 1) * e.streams * positions * sizeof *e.at);
    e.units = (writer_unit *)calloc(items, sizeof *e.units);
    e.rows = (float *)malloc(c->crew.threads * (WRITER_UNIT * padded +
                             e.streams * positions * WRITER_UNIT) * sizeof *e.rows);
    if (result == LLM_OK && (!in || !e.size || !e.at || !e.units || !e.rows))
        result = calibrate_memory(c, "the logits of a few hundred tokens");
    for (i = 0; result == LLM_OK && i < items * e.streams * positions; i++) {
        memset(&e.at[i], 0, sizeof e.at[i]);
        e.at[i].most_p = e.at[i].most_q = -1e30;
    }
    for (s = 0; s < e.streams && result == LLM_OK; s++)
        for (p = 0; p < positions; p++)
            forward_norm(m->stream[s] + (p * MIXED_EVERY + MIXED_EVERY - 1) * d->width, gain,
                         d->width, d->norm_epsilon, in + (s * positions + p) * padded);
    for (p = 0; p < positions && result == LLM_OK; p++) {
        float sum = 0.0f;
        for (i = 0; i < d->width; i++) sum += in[p * padded + i] * in[p * padded + i];
        e.size[p] = sqrtf(sum / (float)d->width);
    }
    if (result == LLM_OK) {
        crew_for(&c->crew, items, mixed_logits, &e);
        for (i = 0; i < items && result == LLM_OK; i++)
            if (e.units[i].bad) result = writer_not_finite(c->w, e.t, &e.units[i]);
        if (result == LLM_OK) mixed_sum_up(m, &e, items, e.at + items * e.streams * positions);
    }
    free(gain);
    free(in);
    free(e.size);
    free(e.at);
    free(e.units);
    free(e.rows);
    return result;
}

/* Divergence per relative noise on the stream before `layer` (= layers: behind the last). */
static double mixed_far_at(const mixed *m, double layer) {
    uint32_t i;
    for (i = 1; i < m->depths; i++) {
        const double from = m->depth[i - 1], to = m->depth[i];
        const double part = to > from ? (layer - from) / (to - from) : 1.0;
        if (layer > to && i + 1 < m->depths) continue;
        return exp(log(m->far_off[i - 1]) * (1.0 - part) + log(m->far_off[i]) * part);
    }
    return m->far_off[0];
}

/* ---- the survey ----------------------------------------------------------- */

/* Noise on the embedding. */
static void mixed_add_noise(float *x, size_t tokens, uint32_t n) {
    size_t t;
    uint32_t i;
    for (t = 0; t < tokens; t++) {
        float sum = 0.0f;
        for (i = 0; i < n; i++) sum += x[t * n + i] * x[t * n + i];
        sum = MIXED_NOISE * sqrtf(sum / (float)n);
        for (i = 0; i < n; i++) x[t * n + i] += sum * mixed_normal(1000u, t * n + i);
    }
}

/* All streams through a layer, which may be one that disturbs one of them. */
static llm_result mixed_pass(mixed *m, uint32_t layer, double *squares[4], float *before) {
    calibration *c = m->c;
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run), bytes = tokens * d->width * sizeof(float);
    float *own = c->x;
    uint32_t i;
    llm_result result = calibrate_load_layer(c, layer);
    if (result != LLM_OK) return result;
    memcpy(before, m->stream[0], bytes);
    for (i = 0; i <= m->depths; i++) {
        if (i && m->depth[i - 1] > layer) continue;
        c->x = m->stream[i];
        calibrate_run(c, i ? NULL : squares);
    }
    c->x = own;
    for (i = 1; i < m->depths && result == LLM_OK; i++)
        if (m->depth[i] == layer + 1)
            result = mixed_try(m, (1u << MIXED_MATRICES) - 1, squares, before, m->stream[0],
                               m->stream[i + 1], &m->moved[i]);
    return result == LLM_OK ? mixed_near(m, before, squares) : result;
}

static llm_result mixed_survey(mixed *m) {
    calibration *c = m->c;
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run), bytes = tokens * d->width * sizeof(float);
    const size_t widest = d->ffn + (size_t)d->heads * d->value_size + d->width;
    double *squares[4] = {NULL, NULL, NULL, NULL};
    float *before = (float *)malloc(bytes);
    uint32_t layer, i;
    llm_result result = before ? LLM_OK : calibrate_memory(c, "a few hundred tokens");
    for (i = 0; i < 4; i++)
        if (!(squares[i] = (double *)malloc(widest * sizeof(double))))
            result = calibrate_memory(c, "a few hundred tokens");
    m->depths = d->layers < MIXED_DEPTHS ? d->layers + 1 : MIXED_DEPTHS + 1;
    for (i = 0; i < m->depths; i++) m->depth[i] = d->layers * i / (m->depths - 1);
    for (i = 0; i <= m->depths; i++)
        if (!(m->stream[i] = (float *)malloc(bytes)))
            result = calibrate_memory(c, "a few hundred tokens");
    if (result == LLM_OK) {
        memcpy(m->stream[0], c->x, bytes);
        memcpy(m->stream[1], c->x, bytes);
        mixed_add_noise(m->stream[1], tokens, d->width);
        m->moved[0] = (double)MIXED_NOISE * (double)MIXED_NOISE;
    }
    for (layer = 0; layer < d->layers && result == LLM_OK; layer++) {
        result = mixed_pass(m, layer, squares, before);
        c->w->progress(c->w->user, layer + 1, 4 * (uint64_t)d->layers); /* a part of the whole */
    }
    if (result == LLM_OK) result = mixed_far(m);
    for (i = 0; i < 4; i++) free(squares[i]);
    for (i = 0; i <= m->depths; i++) free(m->stream[i]);
    free(before);
    return result;
}

/* ---- the choice ----------------------------------------------------------- */

/* How often the tokens of a slab stand in the text; sums of 1. */
static void mixed_hear(mixed *m, const calibration *text) {
    const size_t tokens = (size_t)text->length * text->sequences;
    size_t i;
    for (i = 0; i < tokens; i++) m->heard[(uint32_t)text->ids[i] / m->slab] += 1.0 / (double)tokens;
}

/* A matrix, or a range of tokens, that gets a format of its own. */
typedef struct mixed_piece {
    uint32_t rows, cols;
    double sensitivity; /* divergence by its noise */
    bool exact;         /* no format changes it */
    uint32_t type;
} mixed_piece;

/* A matrix of the plan: one piece, or a run of slabs. */
typedef struct mixed_run {
    size_t first, count; /* in mixed_choice.piece */
    size_t tensor;       /* of the plan */
    uint32_t least;      /* of mixed_formats */
} mixed_run;

typedef struct mixed_choice {
    mixed_piece *piece;
    mixed_run *run;
    size_t pieces, runs;
    uint8_t *from; /* [slabs][LLM__VOCAB_PARTS][MIXED_FORMATS] formats of the slab before, see mixed_cut */
} mixed_choice;

static double mixed_sensitivity(const mixed *m, const plan_tensor *t) {
    return m->near_by[t - m->c->w->plan->tensors] * mixed_far_at(m, (double)t->file.layer + 1.0);
}

/* Of a slab of EMBEDDING or HEAD. */
static double mixed_share(const mixed *m, const plan_tensor *t, uint32_t slab) {
    const double even = MIXED_EVEN / m->slabs, noise = (double)MIXED_NOISE * (double)MIXED_NOISE;
    const double input = m->far_off[0] * noise * ((1.0 - MIXED_EVEN) * m->heard[slab] + even);
    const double output = m->head * ((1.0 - MIXED_EVEN) * m->told[slab] + even);
    const bool tied = !plan_find(m->c->w->plan, LLM__HEAD, LLM__NONE);
    return t->file.role == LLM__HEAD ? output : tied ? input + output : input;
}

/* What is measured on a few hundred tokens, with noise instead of feedback's errors, is off by factors,
   and so is the belief that all weights matter alike. Their geometric mean serves better than either:
   SmolLM2 at 4.4 bits has a KL of 0.099, 0.100 and 0.088. What slabs have of a matrix is left as it is. */
static void mixed_temper(mixed_choice *choice) {
    double sum = 0.0, size = 0.0;
    size_t i, k;
    for (i = 0; i < choice->pieces; i++) {
        sum += choice->piece[i].sensitivity;
        size += (double)choice->piece[i].rows * (double)choice->piece[i].cols;
    }
    for (i = 0; i < choice->runs; i++) {
        mixed_piece *p = &choice->piece[choice->run[i].first];
        double all = 0.0, weights = 0.0;
        for (k = 0; k < choice->run[i].count; k++) {
            all += p[k].sensitivity;
            weights += (double)p[k].rows * (double)p[k].cols;
        }
        for (k = 0; k < choice->run[i].count; k++)
            p[k].sensitivity *= all > 0.0 ? sqrt(sum / size * weights / all) : 0.0;
    }
}

/* The pieces of all matrices. */
static void mixed_list(const mixed *m, mixed_choice *choice) {
    const plan *p = m->c->w->plan;
    size_t i;
    uint32_t k;
    for (i = 0; i < p->count; i++) {
        const plan_tensor *t = &p->tensors[i];
        const uint32_t slabs = llm__may_be_cut(t->file.role) ? m->slabs : 1;
        mixed_run *run = &choice->run[choice->runs];
        if (!family_is_matrix(t->file.role)) continue;
        run->first = choice->pieces, run->count = slabs, run->tensor = i;
        run->least = llm__may_be_cut(t->file.role) ? MIXED_LEAST_CUT : 0;
        choice->runs++;
        for (k = 0; k < slabs; k++) {
            mixed_piece *piece = &choice->piece[choice->pieces++];
            piece->rows = slabs > 1 ? m->slab : t->file.rows;
            if (k && k + 1 == slabs) piece->rows = t->file.rows - k * m->slab;
            piece->cols = t->file.cols;
            piece->exact = t->ternary;
            piece->sensitivity = llm__may_be_cut(t->file.role) ? mixed_share(m, t, k) : mixed_sensitivity(m, t);
        }
    }
    mixed_temper(choice);
}

static double mixed_bytes(const mixed_piece *p, uint32_t type) {
    return (double)((p->rows + 15) / 16) * (double)llm__panel_size(type, llm__padded(p->cols));
}

/* What format `f` does to a piece, at a price of a byte. */
static double mixed_noise(const mixed_piece *p, size_t f) { return p->exact ? 0.0 : mixed_formats[f].noise; }
static double mixed_cost(const mixed_piece *p, size_t f, double price) {
    return p->sensitivity * mixed_noise(p, f) + price * mixed_bytes(p, mixed_formats[f].type);
}

/* The cheapest formats of a run's slabs in at most LLM__VOCAB_PARTS ranges, by dynamic programming: `least`
   of all ways to come to a slab in its range number `part` with a format. */
static void mixed_cut(mixed_choice *choice, const mixed_run *run, double price) {
    const double never = 1e300;
    double least[LLM__VOCAB_PARTS][MIXED_FORMATS], next[LLM__VOCAB_PARTS][MIXED_FORMATS];
    size_t s, part, f, g, at = 0, format = run->least;
    for (s = 0; s < run->count; s++) {
        uint8_t *from = choice->from + s * LLM__VOCAB_PARTS * MIXED_FORMATS;
        for (part = 0; part < LLM__VOCAB_PARTS; part++)
            for (f = 0; f < MIXED_FORMATS; f++) {
                double best = s ? least[part][f] : part ? never : 0.0;
                from[part * MIXED_FORMATS + f] = (uint8_t)f;
                for (g = run->least; s && part && g < MIXED_FORMATS; g++)
                    if (g != f && least[part - 1][g] < best) {
                        best = least[part - 1][g];
                        from[part * MIXED_FORMATS + f] = (uint8_t)g;
                    }
                next[part][f] = best + mixed_cost(&choice->piece[run->first + s], f, price);
            }
        memcpy(least, next, sizeof least);
    }
    for (part = 0; part < LLM__VOCAB_PARTS; part++)
        for (f = run->least; f < MIXED_FORMATS; f++)
            if (least[part][f] < least[at][format]) at = part, format = f;
    for (s = run->count; s-- > 0;) {
        choice->piece[run->first + s].type = mixed_formats[format].type;
        g = choice->from[(s * LLM__VOCAB_PARTS + at) * MIXED_FORMATS + format];
        if (g != format) at--, format = g;
    }
}

/* Formats at a price of a byte; their bytes. */
static double mixed_at_price(mixed_choice *choice, double price) {
    double bytes = 0.0;
    size_t i;
    for (i = 0; i < choice->runs; i++) mixed_cut(choice, &choice->run[i], price);
    for (i = 0; i < choice->pieces; i++) bytes += mixed_bytes(&choice->piece[i], choice->piece[i].type);
    return bytes;
}

/* Neighbours of a format become one piece, from now on. */
static void mixed_join_pieces(mixed_choice *choice) {
    size_t i, k, to = 0;
    for (i = 0; i < choice->runs; i++) {
        mixed_run *run = &choice->run[i];
        const size_t first = to;
        for (k = run->first; k < run->first + run->count; k++) {
            mixed_piece *last = &choice->piece[to - (to > first)];
            if (to > first && last->type == choice->piece[k].type) {
                last->rows += choice->piece[k].rows;
                last->sensitivity += choice->piece[k].sensitivity;
            } else {
                choice->piece[to++] = choice->piece[k];
            }
        }
        run->first = first, run->count = to - first;
    }
    choice->pieces = to;
}

/* What is left of the budget goes to those pieces that gain the most by a byte. */
static void mixed_spend(mixed_choice *choice, double left) {
    for (;;) {
        mixed_piece *best = NULL;
        double most = 0.0, price = 0.0;
        size_t i, f, to = 0;
        for (i = 0; i < choice->pieces; i++) {
            mixed_piece *p = &choice->piece[i];
            double now = 0.0;
            for (f = 0; f < MIXED_FORMATS; f++) {
                const double more = mixed_bytes(p, mixed_formats[f].type) - mixed_bytes(p, p->type);
                double gain;
                if (mixed_formats[f].type == p->type) now = mixed_noise(p, f);
                if (!(now > 0.0) || more <= 0.0 || more > left) continue;
                gain = p->sensitivity * (now - mixed_noise(p, f)) / more;
                if (gain > most) most = gain, best = p, to = f, price = more;
            }
        }
        if (!best) return;
        best->type = mixed_formats[to].type;
        left -= price;
    }
}

/* To the plan. From the back, since a matrix that is cut moves those behind it. */
static llm_result mixed_apply(const mixed *m, const mixed_choice *choice) {
    plan *p = m->c->w->plan;
    size_t i, k;
    for (i = choice->runs; i-- > 0;) {
        const mixed_run *run = &choice->run[i];
        const mixed_piece *piece = &choice->piece[run->first];
        uint32_t first[LLM__VOCAB_PARTS] = {0};
        for (k = 1; k < run->count; k++) first[k] = first[k - 1] + piece[k - 1].rows;
        if (run->count > 1 && !plan_cut(p, p->tensors[run->tensor].file.role, first, (uint32_t)run->count))
            return calibrate_memory(m->c, "the choice of formats");
        for (k = 0; k < run->count; k++) p->tensors[run->tensor + k].file.type = piece[k].type;
    }
    return LLM_OK;
}

/* Within the budget, in bytes. */
static llm_result mixed_choose_in(const mixed *m, mixed_choice *choice, double bits) {
    double budget = 0.0, low = 1e-30, high = 1e6, bytes;
    size_t i;
    int turn;
    mixed_list(m, choice);
    for (i = 0; i < choice->pieces; i++)
        budget += (double)choice->piece[i].rows * (double)choice->piece[i].cols * bits / 8.0;
    for (turn = 0; turn < 200; turn++) { /* the lowest price that keeps to the budget */
        const double price = sqrt(low * high);
        if (mixed_at_price(choice, price) > budget) low = price;
        else high = price;
    }
    bytes = mixed_at_price(choice, high);
    if (bytes > budget)
        return llm__fail(m->c->w->error, LLM_ERROR_ARGUMENT, "%g bits a weight are too few, expected "
                         "at least %.3g", bits, bits * bytes / budget);
    mixed_join_pieces(choice);
    mixed_spend(choice, budget - bytes);
    return mixed_apply(m, choice);
}

static llm_result mixed_choose(const mixed *m, double bits) {
    const size_t tensors = m->c->w->plan->count;
    mixed_choice choice;
    llm_result result;
    memset(&choice, 0, sizeof choice);
    choice.piece = (mixed_piece *)calloc(tensors + 2 * (size_t)m->slabs, sizeof *choice.piece);
    choice.run = (mixed_run *)calloc(tensors, sizeof *choice.run);
    choice.from = (uint8_t *)malloc((size_t)m->slabs * LLM__VOCAB_PARTS * MIXED_FORMATS);
    result = choice.piece && choice.run && choice.from
                 ? mixed_choose_in(m, &choice, bits)
                 : calibrate_memory(m->c, "the choice of formats");
    free(choice.piece);
    free(choice.run);
    free(choice.from);
    return result;
}

/* The plan's matrices get their formats, by a look at a few hundred tokens: `c` is attached to the
   writer's source and plan, with these; `text` has all there are, and the bits of a weight. */
static llm_result mixed_arrange(calibration *c, const calibration *text) {
    mixed m;
    llm_result result;
    memset(&m, 0, sizeof m);
    m.c = c;
    m.slab = c->w->plan->desc.vocab / MIXED_SLABS / WRITER_UNIT;
    m.slab = (m.slab < 1 ? 1 : m.slab < MIXED_UNITS ? m.slab : MIXED_UNITS) * WRITER_UNIT;
    m.slabs = (c->w->plan->desc.vocab + m.slab - 1) / m.slab;
    c->alone = (size_t)c->length * c->sequences / MIXED_EVERY * (MIXED_DEPTHS + 2) + WRITER_UNIT;
    m.near_by = (double *)calloc(c->w->plan->count, sizeof *m.near_by);
    m.told = (double *)calloc(m.slabs, sizeof *m.told);
    m.heard = (double *)calloc(m.slabs, sizeof *m.heard);
    result = m.near_by && m.told && m.heard ? calibrate_open(c)
                                            : calibrate_memory(c, "the choice of formats");
    if (result == LLM_OK) result = mixed_survey(&m);
    if (result == LLM_OK) mixed_hear(&m, text);
    if (result == LLM_OK) result = mixed_choose(&m, text->bits);
    free(m.near_by);
    free(m.told);
    free(m.heard);
    return result;
}

#endif
