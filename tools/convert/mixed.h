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
   with a price of a bit: for each price every matrix chooses by itself (Shoham and Gersho 1988). */
#ifndef CONVERT_MIXED_H
#define CONVERT_MIXED_H

#include "calibrate.h"

#define MIXED_NOISE   0.05f /* relative, on weights and on the embedding */
#define MIXED_DEPTHS  8u    /* layers with noise on all matrices */
#define MIXED_EVERY   4u    /* of so many positions, one is looked at behind the last layer */

/* Error in a matmul's output that a format leaves, relative to q4: summed over the first three
   layers of SmolLM2, with feedback. */
static const struct { uint32_t type; double noise; } mixed_formats[] = {
    {LLM_Q2, 16.0}, {LLM_Q3, 3.82}, {LLM_Q4, 1.0}, {LLM_Q5, 0.261}, {LLM_Q6, 0.069}, {LLM_Q8, 0.010}};
enum { MIXED_FORMATS = sizeof mixed_formats / sizeof *mixed_formats };

typedef struct mixed {
    calibration *c;        /* a small one of its own */
    float *stream[MIXED_DEPTHS + 2]; /* [tokens][width]: undisturbed; disturbed at depth[i - 1] */
    uint32_t depth[MIXED_DEPTHS + 1], depths; /* layers before which the stream is disturbed, from 0 on */
    double moved[MIXED_DEPTHS + 1];           /* by how much, relative squares */
    double far_off[MIXED_DEPTHS + 1];         /* divergence per unit of that */
    double *near_by;       /* [tensors of the plan] */
    double head;           /* divergence by noise on the output matrix */
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
   logits, sums of e^(z - largest), and sum of e^(zp - largest) (zp - zq). */
typedef struct mixed_position {
    double most_p, sum_p, most_q, sum_q, apart;
} mixed_position;

static void mixed_add(mixed_position *p, double zp, double zq) {
    if (zp > p->most_p) {
        const double less = exp(p->most_p - zp);
        p->sum_p *= less;
        p->apart *= less;
        p->most_p = zp;
    }
    if (zq > p->most_q) {
        p->sum_q *= exp(p->most_q - zq);
        p->most_q = zq;
    }
    p->sum_p += exp(zp - p->most_p);
    p->sum_q += exp(zq - p->most_q);
    p->apart += exp(zp - p->most_p) * (zp - zq);
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

enum { MIXED_SLAB = 16 }; /* units of rows of an item */

/* Some rows of the output matrix against all positions of all streams. */
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
    for (unit = 0; unit < MIXED_SLAB; unit++) {
        const uint32_t first = ((uint32_t)index * MIXED_SLAB + unit) * WRITER_UNIT;
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
                              (double)mixed_logit(d, z[(s * e->positions + p) * WRITER_UNIT + r]));
                mixed_add(&at[(e->streams - 1) * e->positions + p], (double)clean,
                          (double)mixed_logit(d, z[p * WRITER_UNIT + r] +
                                              size * e->size[p] * mixed_normal(first + r, p)));
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

/* Divergences of all streams, and of noise on the output matrix. */
static void mixed_sum_up(mixed *m, mixed_ends *e, size_t items) {
    const size_t n = e->positions * e->streams;
    size_t i, s, p;
    for (i = 1; i < items; i++)
        for (p = 0; p < n; p++) mixed_join(&e->at[p], &e->at[i * n + p]);
    for (s = 0; s < e->streams; s++) {
        double sum = 0.0;
        for (p = 0; p < e->positions; p++) sum += mixed_divergence(&e->at[s * e->positions + p]);
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
    items = (e.t->file.rows + WRITER_UNIT * MIXED_SLAB - 1) / (WRITER_UNIT * MIXED_SLAB);
    in = (float *)calloc(e.streams * positions * padded, sizeof *in);
    e.in = in;
    e.size = (float *)malloc(positions * sizeof *e.size);
    e.at = (mixed_position *)malloc(items * e.streams * positions * sizeof *e.at);
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
        if (result == LLM_OK) mixed_sum_up(m, &e, items);
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

/* Sensitivity of a matrix; those of a layer act on the stream behind it. */
static double mixed_sensitivity(const mixed *m, const plan_tensor *t) {
    const plan *p = m->c->w->plan;
    const double noise = (double)MIXED_NOISE * (double)MIXED_NOISE;
    const bool tied = !plan_find(p, LLM__HEAD, LLM__NONE);
    if (t->file.role == LLM__HEAD) return m->head;
    if (t->file.role == LLM__EMBEDDING)
        return m->far_off[0] * noise + (tied ? m->head : 0.0);
    return m->near_by[t - p->tensors] * mixed_far_at(m, (double)t->file.layer + 1.0);
}

/* What is measured on a few hundred tokens, with noise instead of feedback's errors, is off by factors,
   and so is the belief that all weights matter alike. Their geometric mean serves better than either:
   SmolLM2 at 4.4 bits has a KL of 0.099, 0.100 and 0.088. */
static void mixed_temper(const plan *p, double *sensitive) {
    double sum = 0.0, size = 0.0;
    size_t i;
    for (i = 0; i < p->count; i++) {
        if (!family_is_matrix(p->tensors[i].file.role)) continue;
        sum += sensitive[i];
        size += (double)p->tensors[i].file.rows * (double)p->tensors[i].file.cols;
    }
    for (i = 0; i < p->count; i++) {
        const llm__file_tensor *t = &p->tensors[i].file;
        if (family_is_matrix(t->role))
            sensitive[i] = sqrt(sensitive[i] * sum / size * (double)t->rows * (double)t->cols);
    }
}

static double mixed_bytes(const plan_tensor *t, uint32_t type) {
    return (double)((t->file.rows + 15) / 16) *
           (double)llm__panel_size(type, llm__padded(t->file.cols));
}

/* What format `f` does to a matrix. */
static double mixed_noise(const plan_tensor *t, size_t f) { return t->ternary ? 0.0 : mixed_formats[f].noise; }

/* Formats at a price of a byte; their bytes. */
static double mixed_at_price(const mixed *m, const double *sensitive, double price) {
    plan *p = m->c->w->plan;
    double bytes = 0.0;
    size_t i, f;
    for (i = 0; i < p->count; i++) {
        plan_tensor *t = &p->tensors[i];
        double least = 0.0;
        size_t best = MIXED_FORMATS;
        if (!family_is_matrix(t->file.role)) continue;
        for (f = 0; f < MIXED_FORMATS; f++) {
            const double cost = sensitive[i] * mixed_noise(t, f) +
                                price * mixed_bytes(t, mixed_formats[f].type);
            if (best < MIXED_FORMATS && cost >= least) continue;
            least = cost;
            best = f;
        }
        t->file.type = mixed_formats[best].type;
        bytes += mixed_bytes(t, t->file.type);
    }
    return bytes;
}

/* What is left of the budget goes to those matrices that gain the most by a byte. */
static void mixed_spend(const mixed *m, const double *sensitive, double left) {
    plan *p = m->c->w->plan;
    for (;;) {
        plan_tensor *best = NULL;
        double most = 0.0, price = 0.0;
        size_t i, f, to = 0;
        for (i = 0; i < p->count; i++) {
            plan_tensor *t = &p->tensors[i];
            double now = 0.0;
            if (!family_is_matrix(t->file.role)) continue;
            for (f = 0; f < MIXED_FORMATS; f++) {
                const double more = mixed_bytes(t, mixed_formats[f].type) -
                                    mixed_bytes(t, t->file.type);
                double gain;
                if (mixed_formats[f].type == t->file.type) now = mixed_noise(t, f);
                if (!(now > 0.0) || more <= 0.0 || more > left) continue;
                gain = sensitive[i] * (now - mixed_noise(t, f)) / more;
                if (gain > most) most = gain, best = t, to = f, price = more;
            }
        }
        if (!best) return;
        best->file.type = mixed_formats[to].type;
        left -= price;
    }
}

static llm_result mixed_choose(mixed *m, double bits) {
    plan *p = m->c->w->plan;
    double *sensitive = (double *)calloc(p->count, sizeof *sensitive);
    double budget = 0.0, low = 1e-30, high = 1e6, bytes;
    size_t i;
    int turn;
    if (!sensitive) return calibrate_memory(m->c, "the choice of formats");
    for (i = 0; i < p->count; i++) {
        const plan_tensor *t = &p->tensors[i];
        if (!family_is_matrix(t->file.role)) continue;
        sensitive[i] = mixed_sensitivity(m, t);
        budget += (double)t->file.rows * (double)t->file.cols * bits / 8.0;
    }
    mixed_temper(p, sensitive);
    for (turn = 0; turn < 200; turn++) { /* the lowest price that keeps to the budget */
        const double price = sqrt(low * high);
        if (mixed_at_price(m, sensitive, price) > budget) low = price;
        else high = price;
    }
    bytes = mixed_at_price(m, sensitive, high);
    if (bytes > budget) {
        free(sensitive);
        return llm__fail(m->c->w->error, LLM_ERROR_ARGUMENT, "%g bits a weight are too few, expected "
                         "at least %.3g", bits, bits * bytes / budget);
    }
    mixed_spend(m, sensitive, budget - bytes);
    free(sensitive);
    return LLM_OK;
}

/* The plan's matrices get their formats. `c` is attached to the writer's source and plan, with a few
   hundred tokens of its own. */
static llm_result mixed_arrange(calibration *c, double bits) {
    mixed m;
    llm_result result;
    memset(&m, 0, sizeof m);
    m.c = c;
    c->alone = (size_t)c->length * c->sequences / MIXED_EVERY * (MIXED_DEPTHS + 2) + WRITER_UNIT;
    m.near_by = (double *)calloc(c->w->plan->count, sizeof *m.near_by);
    if (!m.near_by) return calibrate_memory(c, "the choice of formats");
    result = calibrate_open(c);
    if (result == LLM_OK) result = mixed_survey(&m);
    if (result == LLM_OK) result = mixed_choose(&m, bits);
    free(m.near_by);
    return result;
}

#endif
