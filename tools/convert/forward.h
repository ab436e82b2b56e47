/* ======================================================================== */
/* Forward: a layer in float, over many tokens at once                       */
/* ========================================================================
   The library's forward pass as llm.h describes it, without its fixed order and its int8: what the
   calibration looks at. Activations are [token][channel]; tokens are sequences of one length that
   begin at position 0 and do not see each other. Matrices are as the file's rows and columns are,
   [rows][padded columns]. */
#ifndef CONVERT_FORWARD_H
#define CONVERT_FORWARD_H

#include "family.h"
#include "matmul.h"

typedef struct forward {
    const crew *crew;
    const llm__file_desc *d;
    uint32_t length, sequences; /* tokens of a sequence, and how many there are */
    float *q, *k, *v;           /* [length][heads * size] of the sequence at hand */
    float *score;               /* [threads][length][length] */
    float *wide;                /* [length][rows of gate and up] */
    double *turns;              /* [ropes][frequencies] radians per position */
    float *cosine, *sine;       /* [ropes][length][frequencies] */
    uint32_t frequencies[8];
} forward;

static size_t forward_tokens(const forward *f) { return (size_t)f->length * f->sequences; }

/* y[n] = x[n] / rms(x) * gain[n] */
static void forward_norm(const float *x, const float *gain, uint32_t n, float epsilon, float *y) {
    float sum = 0.0f, scale;
    uint32_t i;
    for (i = 0; i < n; i++) sum += x[i] * x[i];
    scale = 1.0f / sqrtf(sum / (float)n + epsilon);
    for (i = 0; i < n; i++) y[i] = x[i] * scale * gain[i];
}

/* out[n][rows] = in[n][padded] w^T + bias */
static void forward_matmul(const forward *f, const float *in, size_t n, const float *w,
                           uint32_t rows, uint32_t padded, const float *bias, float *out) {
    size_t i;
    uint32_t r;
    matmul(f->crew, -1, n, rows, padded, matrix_of(in, padded, 1), matrix_of(w, padded, 1),
           strips_of(out, rows, 16), 1.0f, false, false);
    for (i = 0; bias && i < n; i++)
        for (r = 0; r < rows; r++) out[i * rows + r] += bias[r];
}

/* The turns of every position: pairs (i, i + frequencies). */
static void forward_turns(forward *f) {
    uint32_t rope, p, i;
    for (rope = 0; rope < f->d->ropes; rope++)
        for (p = 0; p < f->length; p++)
            for (i = 0; i < f->frequencies[rope]; i++) {
                const size_t half = f->d->head_size / 2;
                const double angle = f->turns[rope * half + i] * p;
                f->cosine[((size_t)rope * f->length + p) * half + i] = (float)cos(angle);
                f->sine[((size_t)rope * f->length + p) * half + i] = (float)sin(angle);
            }
}

static void forward_turn(const forward *f, uint32_t rope, uint32_t position, float *x) {
    const size_t at = ((size_t)rope * f->length + position) * (f->d->head_size / 2);
    const uint32_t half = f->frequencies[rope];
    uint32_t i;
    for (i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half], c = f->cosine[at + i], s = f->sine[at + i];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

typedef struct forward_heads {
    const forward *f;
    const llm__file_layer *layer;
    const float *q_norm, *k_norm; /* [head_size], or NULL */
    float *out;                   /* [length][stride] */
    size_t stride;
} forward_heads;

/* A position's queries and keys: normed, turned. */
static void forward_position(void *context, size_t position, unsigned worker) {
    const forward_heads *h = (const forward_heads *)context;
    const llm__file_desc *d = h->f->d;
    uint32_t i;
    (void)worker;
    for (i = 0; i < d->heads + d->kv_heads; i++) {
        const bool query = i < d->heads;
        float *x = query ? h->f->q + (position * d->heads + i) * d->head_size
                         : h->f->k + (position * d->kv_heads + i - d->heads) * d->head_size;
        const float *gain = query ? h->q_norm : h->k_norm;
        if (gain) forward_norm(x, gain, d->head_size, d->norm_epsilon, x);
        if (h->layer->rope != LLM__NONE)
            forward_turn(h->f, h->layer->rope, (uint32_t)position, x);
    }
}

/* score[n] of the query at position `i`: softmax over the positions that it sees, 0 elsewhere. */
static void forward_softmax(const llm__file_desc *d, uint32_t window, float *score, uint32_t i,
                            uint32_t n) {
    const uint32_t first = window && i + 1 > window ? i + 1 - window : 0;
    float most = -INFINITY, sum = 0.0f;
    uint32_t j;
    for (j = first; j <= i; j++) {
        if (d->attention_softcap > 0.0f)
            score[j] = d->attention_softcap * tanhf(score[j] / d->attention_softcap);
        most = score[j] > most ? score[j] : most;
    }
    for (j = 0; j < n; j++) {
        score[j] = j >= first && j <= i ? llm__exp(score[j] - most) : 0.0f;
        sum += score[j];
    }
    for (j = first; j <= i; j++) score[j] /= sum;
}

/* A query head over its sequence. */
static void forward_head(void *context, size_t head, unsigned worker) {
    const forward_heads *h = (const forward_heads *)context;
    const forward *f = h->f;
    const llm__file_desc *d = f->d;
    const size_t kv = head / (d->heads / d->kv_heads), n = f->length;
    float *score = f->score + (size_t)worker * n * n;
    const size_t q_row = (size_t)d->heads * d->head_size, k_row = (size_t)d->kv_heads * d->head_size;
    const size_t v_row = (size_t)d->kv_heads * d->value_size;
    uint32_t i;
    matmul(f->crew, (int)worker, n, n, d->head_size,
           matrix_of(f->q + head * d->head_size, q_row, 1),
           matrix_of(f->k + kv * d->head_size, k_row, 1), strips_of(score, n, 16), d->query_scale,
           false, false);
    for (i = 0; i < n; i++)
        forward_softmax(d, h->layer->window, score + i * n, i, (uint32_t)n);
    matmul(f->crew, (int)worker, n, d->value_size, n, matrix_of(score, n, 1),
           matrix_of(f->v + kv * d->value_size, 1, v_row),
           strips_of(h->out + head * d->value_size, h->stride, 16), 1.0f, false, false);
}

/* The matrices and vectors of a layer, NULL where it has none. */
typedef struct forward_layer {
    uint32_t number;
    float *w[LLM__ROLE_COUNT];
} forward_layer;

/* x[length][stride] = x, normed in its first n columns, where the family does that to what goes into the
   output matrices of attention and feed-forward. */
static void forward_sub_norm(const forward *f, const float *gain, uint32_t n, float *x, size_t stride) {
    uint32_t i;
    for (i = 0; gain && i < f->length; i++, x += stride) forward_norm(x, gain, n, f->d->norm_epsilon, x);
}

/* out[tokens][out_stride] = what the heads make of in[tokens][in_stride], normed, of the first
   `sequences` sequences. */
static void forward_attention(const forward *f, uint32_t sequences, const llm__file_layer *layer,
                              const forward_layer *l, const float *in, uint32_t in_stride,
                              float *out, uint32_t out_stride) {
    const llm__file_desc *d = f->d;
    forward_heads h;
    uint32_t s;
    h.f = f, h.layer = layer, h.stride = out_stride;
    h.q_norm = l->w[LLM__Q_NORM], h.k_norm = l->w[LLM__K_NORM];
    for (s = 0; s < sequences; s++, in += (size_t)f->length * in_stride) {
        h.out = out + (size_t)s * f->length * out_stride;
        forward_matmul(f, in, f->length, l->w[LLM__Q], d->heads * d->head_size, in_stride,
                       l->w[LLM__Q_BIAS], f->q);
        forward_matmul(f, in, f->length, l->w[LLM__K], d->kv_heads * d->head_size, in_stride,
                       l->w[LLM__K_BIAS], f->k);
        forward_matmul(f, in, f->length, l->w[LLM__V], d->kv_heads * d->value_size, in_stride,
                       l->w[LLM__V_BIAS], f->v);
        crew_for(f->crew, f->length, forward_position, &h);
        crew_for(f->crew, d->heads, forward_head, &h);
        forward_sub_norm(f, l->w[LLM__ATTN_SUB_NORM], d->heads * d->value_size, h.out, out_stride);
    }
}

static float forward_activate(uint32_t activation, float x) {
    switch (activation) {
    case LLM__ACT_SILU: return x / (1.0f + llm__exp(-x));
    case LLM__ACT_GELU_TANH: return llm__gelu_tanh(x);
    case LLM__ACT_RELU: return x > 0.0f ? x : 0.0f;
    default: return x > 0.0f ? x * x : 0.0f;
    }
}

typedef struct forward_gate {
    const forward *f;
    float *out;
    uint32_t rows, stride; /* of gate and up, of out */
} forward_gate;

static void forward_gate_token(void *context, size_t token, unsigned worker) {
    const forward_gate *g = (const forward_gate *)context;
    const float *wide = g->f->wide + token * g->rows;
    float *out = g->out + token * g->stride;
    uint32_t i;
    (void)worker;
    for (i = 0; i < g->rows / 2; i++) {
        const float *x = wide + i / 16 * 32 + i % 16;
        out[i] = forward_activate(g->f->d->activation, x[0]) * x[16];
    }
}

/* out[tokens][out_stride] = act(gate) * up of in[tokens][in_stride], normed, likewise. */
static void forward_hidden(const forward *f, uint32_t sequences, const forward_layer *l, const float *in,
                           uint32_t in_stride, float *out, uint32_t out_stride) {
    forward_gate g;
    uint32_t s;
    g.f = f, g.rows = 2 * ((f->d->ffn + 15) / 16 * 16), g.stride = out_stride;
    for (s = 0; s < sequences; s++, in += (size_t)f->length * in_stride) {
        g.out = out + (size_t)s * f->length * out_stride;
        forward_matmul(f, in, f->length, l->w[LLM__GATE_UP], g.rows, in_stride,
                       l->w[LLM__GATE_UP_BIAS], f->wide);
        crew_for(f->crew, f->length, forward_gate_token, &g);
        forward_sub_norm(f, l->w[LLM__FFN_SUB_NORM], f->d->ffn, g.out, out_stride);
    }
}

/* x[tokens][width] += block output: in[tokens][padded] w^T + bias, normed if `gain`. */
static void forward_add(const forward *f, const float *in, uint32_t padded, const float *w,
                        const float *bias, const float *gain, float *x) {
    const llm__file_desc *d = f->d;
    const size_t n = forward_tokens(f);
    size_t t, now;
    uint32_t i;
    for (t = 0; t < n; t += now) {
        now = n - t < f->length ? n - t : f->length;
        forward_matmul(f, in + t * padded, now, w, d->width, padded, bias, f->wide);
        for (i = 0; i < now; i++) {
            float *y = f->wide + (size_t)i * d->width, *to = x + (t + i) * d->width;
            uint32_t c;
            if (gain) forward_norm(y, gain, d->width, d->norm_epsilon, y);
            for (c = 0; c < d->width; c++) to[c] += d->residual_scale * y[c];
        }
    }
}

static void forward_close(forward *f) {
    free(f->q);
    free(f->k);
    free(f->v);
    free(f->score);
    free(f->wide);
    free(f->turns);
    free(f->cosine);
    free(f->sine);
    memset(f, 0, sizeof *f);
}

/* Buffers for `sequences` times `length` tokens; `turns` is left to be filled in. */
static llm_result forward_open(forward *f, const crew *c, const llm__file_desc *d, uint32_t length,
                               uint32_t sequences, llm_error *error) {
    const size_t n = length, half = d->head_size / 2;
    const size_t wide = ((size_t)d->ffn + 15) / 16 * 32;
    memset(f, 0, sizeof *f);
    f->crew = c, f->d = d, f->length = length, f->sequences = sequences;
    f->q = (float *)malloc(n * d->heads * d->head_size * sizeof *f->q);
    f->k = (float *)malloc(n * d->kv_heads * d->head_size * sizeof *f->k);
    f->v = (float *)malloc(n * d->kv_heads * d->value_size * sizeof *f->v);
    f->score = (float *)malloc(n * n * c->threads * sizeof *f->score);
    f->wide = (float *)malloc(n * (wide > d->width ? wide : d->width) * sizeof *f->wide);
    f->turns = (double *)calloc(d->ropes * half + 1, sizeof *f->turns);
    f->cosine = (float *)malloc((d->ropes * n * half + 1) * sizeof *f->cosine);
    f->sine = (float *)malloc((d->ropes * n * half + 1) * sizeof *f->sine);
    if (f->q && f->k && f->v && f->score && f->wide && f->turns && f->cosine && f->sine)
        return LLM_OK;
    forward_close(f);
    return llm__fail(error, LLM_ERROR_MEMORY, "no memory to run %u tokens", length);
}

#endif
