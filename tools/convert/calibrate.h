/* ======================================================================== */
/* Calibrate: quantising with the model's own activations in view            */
/* ========================================================================
   A text runs through the model in float, layer by layer, through layers that are already
   quantised. Of a layer, in this order:

       the norm's output       its channels are evened out (a scale that the norm's gain takes
                               back), rotated; second moments; Q, K and V with feedback
       what the heads put out  evened out by V's rows, before V is quantised; ATTN_OUT likewise
       the norm's output       as above; GATE_UP
       the hidden values       evened out by up's rows; DOWN

   Evening out is SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) with the fourth root of a
   channel's RMS. The embedding is quantised before all layers. Where it is the output matrix too, some
   of the text runs through the original first, to show what that eats.

   The text runs through the original as well. What the layers before have changed shows as the
   difference of the two, and the part of it that a matrix can tell from its input is made good by
   the matrix before it is quantised (see calibrate_follow). Memory is that of a layer's matrices,
   of the second moments of one input, and of the activations of all tokens, twice. */
#ifndef CONVERT_CALIBRATE_H
#define CONVERT_CALIBRATE_H

#include "feedback.h"
#include "forward.h"
#include "writer.h"

#define CALIBRATE_LENGTH 512u  /* tokens of a sequence */
#define CALIBRATE_LEAST  128u  /* fewer tokens say too little */
#define CALIBRATE_DAMP   0.01f /* of the mean second moment, added to each */
#define CALIBRATE_AHEAD  16u   /* sequences that show what the output matrix eats */
#define CALIBRATE_SAMPLE 40u   /* sixteens of rows that tell chance from the rest */

typedef struct calibration {
    writer *w;          /* source, plan, tables, threads, error */
    const int32_t *ids; /* [sequences][length] what runs through the model */
    uint32_t length, sequences;
    double bits;        /* of a weight, on average; 0: the plan's types are final */
    size_t alone;       /* room that a thread needs beyond that of the forward pass, see matmul.h */
    bool collect;       /* the squares of every matrix's input are kept in the plan */
    uint64_t key;       /* see resume.h */
    char *resume;
    bool tried;         /* to open it, with this result */
    llm_result opened;
    crew crew;
    forward run;
    float *x;           /* [tokens][width] the stream */
    float *in;          /* [tokens][in_stride] what a matmul eats */
    float *out;         /* [tokens][..] what attention or the hidden layer puts out */
    float *exact, *exact_in, *exact_out; /* the same of the original */
    float *delta, *doubt;                /* [padded width][widest], see calibrate_follow */
    float *h, *d, *panel, *space; /* second moments as matmul.h factors them; work */
    forward_layer layer;
    plan_tensor *tensor[LLM__ROLE_COUNT]; /* of this layer */
    const plan_tensor *part; /* of the embedding, at hand */
    feedback head;      /* of the output matrix, once its input has been seen, and */
    float *head_u, *head_d; /* what it points to */
} calibration;

static llm_result calibrate_memory(const calibration *c, const char *what) {
    return llm__fail(c->w->error, LLM_ERROR_MEMORY, "no memory for %s; --fast needs none", what);
}

/* ---- a layer's weights --------------------------------------------------- */

static void calibrate_release(calibration *c) {
    unsigned role;
    for (role = 0; role < LLM__ROLE_COUNT; role++) {
        free(c->layer.w[role]);
        c->layer.w[role] = NULL;
        c->tensor[role] = NULL;
    }
}

typedef struct calibrate_load {
    calibration *c;
    const plan_tensor *t;
    float *rows;
    writer_unit *units;
} calibrate_load;

static void calibrate_load_rows(void *context, size_t index, unsigned worker) {
    calibrate_load *load = (calibrate_load *)context;
    const writer *w = load->c->w;
    writer_gather(w, load->t, (uint32_t)index * WRITER_UNIT,
                  load->rows + index * WRITER_UNIT * llm__padded(load->t->file.cols),
                  w->row + worker * w->widest, &load->units[index]);
}

/* Rows as the file will have them, rounded up to WRITER_UNIT, neither scaled nor rotated. */
static llm_result calibrate_load_matrix(calibration *c, const plan_tensor *t, float **rows) {
    const size_t units = (t->file.rows + WRITER_UNIT - 1) / WRITER_UNIT;
    llm_result result = LLM_OK;
    calibrate_load load;
    size_t i;
    load.c = c, load.t = t;
    load.units = (writer_unit *)calloc(units, sizeof *load.units);
    load.rows = *rows = (float *)malloc(units * WRITER_UNIT * llm__padded(t->file.cols) *
                                        sizeof **rows);
    if (!load.units || !load.rows) result = calibrate_memory(c, "a layer's weights in float");
    else crew_for(&c->crew, units, calibrate_load_rows, &load);
    for (i = 0; i < units && result == LLM_OK; i++)
        if (load.units[i].bad) result = writer_not_finite(c->w, t, &load.units[i]);
    free(load.units);
    return result;
}

static llm_result calibrate_load_layer(calibration *c, uint32_t layer) {
    llm_result result = LLM_OK;
    size_t i;
    calibrate_release(c);
    c->layer.number = layer;
    for (i = 0; i < c->w->plan->count && result == LLM_OK; i++) {
        plan_tensor *t = &c->w->plan->tensors[i];
        if (t->file.layer != layer || t->file.role == LLM__ROPE) continue;
        c->tensor[t->file.role] = t;
        if (family_is_matrix(t->file.role))
            result = calibrate_load_matrix(c, t, &c->layer.w[t->file.role]);
        else
            result = writer_load_vector(c->w, t, &c->layer.w[t->file.role]);
    }
    return result;
}

/* ---- scaling and rotating ------------------------------------------------ */

/* Fourth root of the mean squares' root, around 1; dead channels stay as they are. */
static void calibrate_scales(const double *squares, size_t tokens, uint32_t n, float *scales) {
    double mean = 0.0, most = 0.0;
    uint32_t i, live = 0;
    for (i = 0; i < n; i++) most = squares[i] > most ? squares[i] : most;
    for (i = 0; i < n; i++) {
        if (!(squares[i] > most * 1e-12)) continue;
        mean += log(squares[i] / (double)tokens);
        live++;
    }
    mean = live ? mean / live : 0.0;
    for (i = 0; i < n; i++)
        scales[i] = squares[i] > most * 1e-12
                        ? (float)exp((log(squares[i] / (double)tokens) - mean) / 8.0) : 1.0f;
}

static void calibrate_scale_columns(float *w, size_t rows, uint32_t padded, uint32_t cols,
                                    const float *scales) {
    size_t r;
    uint32_t i;
    for (r = 0; r < rows; r++)
        for (i = 0; i < cols; i++) w[r * padded + i] *= scales[i];
}

static size_t calibrate_rows(const plan_tensor *t) {
    return (t->file.rows + WRITER_UNIT - 1) / WRITER_UNIT * WRITER_UNIT;
}

static void calibrate_rotate_columns(const plan_tensor *t, float *w) {
    quantize_rotate(w, calibrate_rows(t) * llm__padded(t->file.cols), 1, t->file.rotation);
}

/* What is stored in integers and loses by that: there the activations are of use. Ternary weights stay what
   they are in every type. */
static bool calibrate_quantised(const plan_tensor *t) {
    return t && llm__formats[t->file.type].bits != 0 && !(t->ternary && !t->file.rotation);
}

/* ---- second moments and quantising --------------------------------------- */

/* The second moments of data[tokens][n], as U and D. */
static llm_result calibrate_moments(calibration *c, const float *data, uint32_t n) {
    const size_t tokens = forward_tokens(&c->run);
    float damp = CALIBRATE_DAMP;
    int tries;
    for (tries = 0; tries < 8; tries++, damp *= 10.0f) {
        double mean = 0.0;
        uint32_t i;
        matmul(&c->crew, -1, n, n, tokens, matrix_of(data, 1, n), matrix_of(data, 1, n),
               strips_of(c->h, 16, (size_t)n * 16), 1.0f / (float)tokens, false, true);
        for (i = 0; i < n; i++) mean += (double)MOMENTS_AT(c->h, n, i, i);
        mean = mean / n > 1e-20 ? mean / n : 1e-20;
        for (i = 0; i < n; i++) MOMENTS_AT(c->h, n, i, i) += damp * (float)mean;
        if (!moments_factor(&c->crew, c->h, n, 1e-9f * (float)mean, c->panel)) continue;
        for (i = 0; i < n; i++) c->d[i] = MOMENTS_AT(c->h, n, i, i);
        return LLM_OK;
    }
    return llm__fail(c->w->error, LLM_ERROR_NUMERIC, "layer %u: the activations are not finite; "
                     "--fast does not look at them", c->layer.number);
}

typedef struct calibrate_job {
    calibration *c;
    plan_tensor *t;
    float *rows;
    feedback f;
    quantize_sums *sums;
} calibrate_job;

static void calibrate_panel(void *context, size_t index, unsigned worker) {
    calibrate_job *j = (calibrate_job *)context;
    const uint32_t n = j->f.n;
    uint8_t *panel = j->t->made + index * llm__panel_size(j->t->file.type, n);
    float *rows = j->rows + index * 16 * n;
    feedback_space space;
    if (!calibrate_quantised(j->t)) {
        quantize_panel(j->c->w->tables, j->t->file.type, rows, n, NULL, panel, &j->sums[index]);
        return;
    }
    feedback_place(&space, j->c->space + worker * feedback_floats((uint32_t)j->c->w->widest), n);
    feedback_panel(&j->f, &space, rows, panel, &j->sums[index]);
}

/* The panels of a tensor of the layer; its floats become what the panels hold. */
static llm_result calibrate_quantise(calibration *c, uint32_t role) {
    plan_tensor *t = c->tensor[role];
    const uint32_t n = llm__padded(t->file.cols);
    const size_t panels = (t->file.rows + 15) / 16;
    calibrate_job j;
    size_t i;
    j.c = c, j.t = t, j.rows = c->layer.w[role];
    j.f.tables = c->w->tables, j.f.type = t->file.type, j.f.n = n;
    j.f.u = c->h, j.f.d = c->d, j.f.tile = c->crew.tile;
    j.sums = (quantize_sums *)calloc(panels, sizeof *j.sums);
    t->made = (uint8_t *)malloc(panels * llm__panel_size(t->file.type, n));
    if (!j.sums || !t->made) {
        free(j.sums);
        return calibrate_memory(c, "a layer's panels");
    }
    crew_for(&c->crew, panels, calibrate_panel, &j);
    for (i = 0; i < panels; i++) {
        t->norm += j.sums[i].norm;
        t->error += j.sums[i].error;
    }
    free(j.sums);
    return LLM_OK;
}

/* A vector of the layer as it is now. */
static llm_result calibrate_vector(calibration *c, uint32_t role) {
    plan_tensor *t = c->tensor[role];
    if (!t) return LLM_OK;
    t->made = (uint8_t *)malloc((size_t)t->file.cols * sizeof(float));
    if (!t->made) return calibrate_memory(c, "a vector");
    memcpy(t->made, c->layer.w[role], (size_t)t->file.cols * sizeof(float));
    return LLM_OK;
}

/* ---- the inputs ---------------------------------------------------------- */

static void calibrate_squares(const float *data, size_t tokens, uint32_t stride, uint32_t n,
                              double *squares) {
    size_t t;
    uint32_t i;
    for (i = 0; i < n; i++) squares[i] = 0.0;
    for (t = 0; t < tokens; t++)
        for (i = 0; i < n; i++) {
            const double x = (double)data[t * stride + i];
            squares[i] += x * x;
        }
}

/* ---- what was evened out, for the section SMTH ---------------------------- */

static size_t calibrate_smooth_size(uint32_t cols) {
    return sizeof(llm__file_smooth) + ((size_t)cols * sizeof(float) + 15) / 16 * 16;
}

/* Where the scales of an input are in the section; roles: see llm__file_smooth. */
static uint8_t *calibrate_smooth_at(const calibration *c, uint32_t role, uint32_t layer) {
    const llm__file_desc *d = &c->w->plan->desc;
    const uint32_t cols[4] = {d->width, d->heads * d->value_size, d->width, d->ffn};
    static const uint32_t roles[4] = {LLM__Q, LLM__ATTN_OUT, LLM__GATE_UP, LLM__DOWN};
    uint8_t *at = c->w->smooth;
    size_t all = 0;
    int i;
    for (i = 0; i < 4; i++) all += calibrate_smooth_size(cols[i]);
    at += all * layer;
    for (i = 0; i < 4 && roles[i] != role; i++) at += calibrate_smooth_size(cols[i]);
    return at + sizeof(llm__file_smooth);
}

static void calibrate_smooth(const calibration *c, uint32_t role, const float *scales,
                             uint32_t cols) {
    memcpy(calibrate_smooth_at(c, role, c->layer.number), scales, cols * sizeof *scales);
}

/* The section with nothing evened out. */
static llm_result calibrate_smooth_open(calibration *c) {
    const llm__file_desc *d = &c->w->plan->desc;
    const llm__file_smooth inputs[4] = {{LLM__Q, 0, d->width, 0},
                                        {LLM__ATTN_OUT, 0, d->heads * d->value_size, 0},
                                        {LLM__GATE_UP, 0, d->width, 0},
                                        {LLM__DOWN, 0, d->ffn, 0}};
    const float one = 1.0f;
    uint8_t *at;
    size_t all = 0;
    uint32_t layer, k;
    int i;
    for (i = 0; i < 4; i++) all += calibrate_smooth_size(inputs[i].cols);
    c->w->smooth_size = all * d->layers;
    c->w->smooth = at = (uint8_t *)calloc(c->w->smooth_size, 1);
    if (!at) return calibrate_memory(c, "the scales of all channels");
    for (layer = 0; layer < d->layers; layer++)
        for (i = 0; i < 4; at += calibrate_smooth_size(inputs[i++].cols)) {
            llm__file_smooth head = inputs[i];
            head.layer = layer;
            memcpy(at, &head, sizeof head);
            for (k = 0; k < head.cols; k++)
                memcpy(at + sizeof head + (size_t)k * sizeof one, &one, sizeof one);
        }
    return LLM_OK;
}

/* Sums of squares of the input of a matrix, for an importance matrix. */
static llm_result calibrate_note(const calibration *c, plan_tensor *t, const double *squares,
                                 size_t tokens) {
    if (!c->collect) return LLM_OK;
    t->squares = (double *)malloc(t->file.cols * sizeof *t->squares);
    if (!t->squares) return calibrate_memory(c, "an importance matrix");
    memcpy(t->squares, squares, t->file.cols * sizeof *squares);
    t->seen = tokens;
    return LLM_OK;
}

/* The same of an input that is left as it is. */
static llm_result calibrate_note_input(const calibration *c, plan_tensor *t, const float *in, size_t tokens,
                                       uint32_t padded) {
    const uint32_t n = t->file.cols;
    double *squares;
    llm_result result;
    if (!c->collect) return LLM_OK;
    squares = (double *)malloc(n * sizeof *squares);
    if (!squares) return calibrate_memory(c, "an importance matrix");
    calibrate_squares(in, tokens, padded, n, squares);
    result = calibrate_note(c, t, squares, tokens);
    free(squares);
    return result;
}

/* in[tokens][padded] = the stream x, normed. */
static void calibrate_norm_of(const calibration *c, const float *x, const float *gain, uint32_t padded,
                              float *in) {
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run);
    size_t t;
    for (t = 0; t < tokens; t++) {
        float *to = in + t * padded;
        memset(to, 0, padded * sizeof *to);
        forward_norm(x + t * d->width, gain, d->width, d->norm_epsilon, to);
    }
}
static void calibrate_norm(calibration *c, const float *gain, uint32_t padded) {
    calibrate_norm_of(c, c->x, gain, padded, c->in);
}

/* ---- making good what came before ----------------------------------------- */

typedef struct calibrate_solving {
    const calibration *c;
    size_t n;
    float *x;      /* [m][n] */
    size_t every;  /* only every so manyth 16 rows */
    double *norms; /* [m / 16 / every] sums of x H^-1 x^T */
    bool whole;    /* x becomes x H^-1 */
} calibrate_solving;

/* 16 rows of x H^-1, with H = U D U^T: first by D^-1 U^-T, then, negated, by U^-1. */
static void calibrate_solve(void *context, size_t index, unsigned worker) {
    const calibrate_solving *s = (const calibrate_solving *)context;
    const size_t n = s->n;
    float *x = s->x + index * s->every * 16 * n;
    float *t = s->c->space + worker * feedback_floats((uint32_t)s->c->w->widest);
    size_t b, i, j, r;
    for (i = 0; i < n; i++)
        for (r = 0; r < 16; r++) t[i * 16 + r] = x[r * n + i];
    for (b = n; b > 0;) {
        const float *u = s->c->h + (b -= 16) * n;
        float minus[256];
        for (i = 16; i-- > 0;)
            for (j = 0; j < i; j++)
                for (r = 0; r < 16; r++) t[(b + j) * 16 + r] -= t[(b + i) * 16 + r] * u[(b + j) * 16 + i];
        for (i = 0; i < 256; i++) minus[i] = -t[b * 16 + i];
        for (j = 0; j < b; j += 4) s->c->crew.tile(16, u + j * 16, 1, 16, minus, t + j * 16, 16, true);
    }
    s->norms[index] = 0.0;
    for (i = 0; i < n; i++)
        for (r = 0; r < 16; r++) {
            const float y = t[i * 16 + r];
            t[i * 16 + r] = -y / s->c->d[i];
            s->norms[index] += (double)y * (double)y / (double)s->c->d[i];
        }
    if (!s->whole) return;
    for (b = 0; b < n; b += 16) {
        const float *u = s->c->h + b * n;
        float sums[256];
        memset(sums, 0, sizeof sums);
        for (i = 0; b && i < 16; i += 4) s->c->crew.tile(b, u + i, 16, 1, t, sums + i * 16, 16, true);
        for (i = 0; i < 256; i++) t[b * 16 + i] -= sums[i];
        for (i = 0; i < 16; i++)
            for (j = i + 1; j < 16; j++)
                for (r = 0; r < 16; r++) t[(b + j) * 16 + r] -= t[(b + i) * 16 + r] * u[(b + i) * 16 + j];
    }
    for (i = 0; i < n; i++)
        for (r = 0; r < 16; r++) x[r * n + i] = -t[i * 16 + r];
}

/* Of every so manyth 16 rows of x[m][n]: the sums, or x H^-1 as well. */
static void calibrate_solve_some(calibration *c, float *x, size_t m, size_t n, size_t every, double *norms,
                                 bool whole) {
    calibrate_solving s;
    s.c = c, s.n = n, s.x = x, s.every = every, s.norms = norms, s.whole = whole;
    crew_for(&c->crew, (m / 16 + every - 1) / every, calibrate_solve, &s);
}

/* delta[m][n] = what best tells missing[tokens][m] from data[tokens][n], whose moments are factored:
   the regression C H^-1, C = missing^T data (QEP, Arai and Ichikawa 2025, arXiv 2504.09629; GPTAQ, Li
   et al. 2025, arXiv 2504.02692), shrunk, since few tokens also tell what is only chance. Of two halves
   of the tokens chance makes the C differ, and it is in their sum as much as in their difference: so
   1 - |difference|^2 / |sum|^2 of C H^-1/2 is what holds for other tokens. Some hundred of m rows tell. */
static llm_result calibrate_follow(calibration *c, const float *missing, size_t m, size_t stride,
                                   const float *data, size_t n) {
    const size_t tokens = forward_tokens(&c->run), half = tokens / 2, rows = (m + 15) / 16 * 16;
    const float part = 1.0f / (float)tokens;
    const size_t every = (rows / 16 - 1) / CALIBRATE_SAMPLE + 1;
    double *norms = (double *)malloc(rows / 16 * sizeof *norms), sum = 0.0, difference = 0.0, share;
    size_t i;
    if (!norms) return calibrate_memory(c, "what layers before have changed");
    memset(c->delta + m * n, 0, (rows - m) * n * sizeof *c->delta);
    memset(c->doubt + m * n, 0, (rows - m) * n * sizeof *c->doubt);
    matmul(&c->crew, -1, m, n, half, matrix_of(missing, 1, stride), matrix_of(data, 1, n),
           strips_of(c->delta, n, 16), part, false, false);
    matmul(&c->crew, -1, m, n, tokens - half, matrix_of(missing + half * stride, 1, stride),
           matrix_of(data + half * n, 1, n), strips_of(c->doubt, n, 16), part, false, false);
    for (i = 0; i < rows * n; i++) {
        const float a = c->delta[i], b = c->doubt[i];
        c->delta[i] = a + b;
        c->doubt[i] = a - b;
    }
    calibrate_solve_some(c, c->doubt, rows, n, every, norms, false);
    for (i = 0; i < rows / 16; i += every) difference += norms[i / every];
    calibrate_solve_some(c, c->delta, rows, n, 1, norms, true);
    for (i = 0; i < rows / 16; i += every) sum += norms[i];
    share = sum > difference ? 1.0 - difference / sum : 0.0; /* 0 as well where they are not finite */
    for (i = 0; i < rows * n; i++) c->delta[i] = share > 0.0 ? (float)share * c->delta[i] : 0.0f;
    free(norms);
    return LLM_OK;
}

/* The matrices that eat `in` get w (I + delta), where the original's input is exact_in. */
static llm_result calibrate_follow_input(calibration *c, const uint32_t *roles, unsigned count) {
    const size_t n = llm__padded(c->run.d->width), all = forward_tokens(&c->run) * n;
    llm_result result;
    size_t i;
    unsigned r;
    for (i = 0; i < all; i++) c->exact_in[i] -= c->in[i];
    result = calibrate_follow(c, c->exact_in, n, n, c->in, n);
    for (r = 0; r < count && result == LLM_OK; r++) {
        const size_t rows = calibrate_rows(c->tensor[roles[r]]);
        float *w = c->layer.w[roles[r]], *was;
        if (!calibrate_quantised(c->tensor[roles[r]])) continue;
        was = (float *)malloc(rows * n * sizeof *was);
        if (!was) return calibrate_memory(c, "a matrix before it is changed");
        memcpy(was, w, rows * n * sizeof *was);
        matmul(&c->crew, -1, rows, n, n, matrix_of(was, n, 1), matrix_of(c->delta, 1, n), strips_of(w, n, 16),
               1.0f, true, false);
        free(was);
    }
    return result;
}

/* A block's output matrix: the original's stream goes on, and the matrix makes good what its own input
   and, where nothing norms its output, the stream lack. exact_in is work. */
static llm_result calibrate_follow_output(calibration *c, uint32_t role, uint32_t bias, uint32_t post,
                                          uint32_t padded) {
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run), width = d->width;
    float *missing = c->exact_in, *w = c->layer.w[role];
    const float *gain = c->layer.w[post];
    llm_result result;
    size_t i;
    for (i = 0; i < tokens * width; i++) missing[i] = gain ? 0.0f : c->exact[i] - c->x[i];
    forward_add(&c->run, c->exact_out, padded, w, c->layer.w[bias], gain, c->exact);
    if (!calibrate_quantised(c->tensor[role]) || !(d->residual_scale > 0.0f)) return LLM_OK;
    for (i = 0; i < tokens * padded; i++) c->exact_out[i] -= c->out[i];
    forward_add(&c->run, c->exact_out, padded, w, NULL, NULL, missing);
    result = calibrate_follow(c, missing, width, width, c->out, padded);
    for (i = 0; i < width * padded && result == LLM_OK; i++) w[i] += c->delta[i] / d->residual_scale;
    return result;
}

/* The input of the matrices roles[0 .. count - 1], which `gain` norms: evened out, rotated, and its
   second moments. */
static llm_result calibrate_normed(calibration *c, uint32_t gain_role, const uint32_t *roles,
                                   unsigned count) {
    const uint32_t cols = c->run.d->width, padded = llm__padded(cols);
    const plan_tensor *first = c->tensor[roles[0]];
    const size_t tokens = forward_tokens(&c->run);
    float *gain = c->layer.w[gain_role], *scales;
    double *squares;
    bool quantised = false;
    llm_result result = LLM_OK;
    unsigned r;
    uint32_t i;
    for (r = 0; r < count; r++) quantised = quantised || calibrate_quantised(c->tensor[roles[r]]);
    calibrate_norm(c, gain, padded);
    if (!quantised) {
        calibrate_norm_of(c, c->exact, gain, padded, c->exact_in);
        for (r = 0; r < count && result == LLM_OK; r++)
            result = calibrate_note_input(c, c->tensor[roles[r]], c->in, tokens, padded);
        return result;
    }
    squares = (double *)malloc(cols * sizeof *squares);
    scales = (float *)malloc(cols * sizeof *scales);
    if (!squares || !scales) {
        free(squares);
        free(scales);
        return calibrate_memory(c, "the scales of channels");
    }
    calibrate_squares(c->in, tokens, padded, cols, squares);
    calibrate_scales(squares, tokens, cols, scales);
    for (i = 0; i < cols; i++) gain[i] /= scales[i];
    calibrate_smooth(c, roles[0], scales, cols);
    for (r = 0; r < count && result == LLM_OK; r++) {
        plan_tensor *t = c->tensor[roles[r]];
        result = calibrate_note(c, t, squares, tokens);
        calibrate_scale_columns(c->layer.w[roles[r]], calibrate_rows(t), padded, cols, scales);
        calibrate_rotate_columns(t, c->layer.w[roles[r]]);
    }
    free(squares);
    free(scales);
    calibrate_norm(c, gain, padded);
    calibrate_norm_of(c, c->exact, gain, padded, c->exact_in);
    quantize_rotate(c->in, tokens * padded, 1, first->file.rotation);
    quantize_rotate(c->exact_in, tokens * padded, 1, first->file.rotation);
    return result == LLM_OK ? calibrate_moments(c, c->in, padded) : result;
}

/* Clears what lies beyond the `n` channels of out[tokens][padded]. */
static void calibrate_clear(const calibration *c, float *out, uint32_t n, uint32_t padded) {
    const size_t tokens = forward_tokens(&c->run);
    size_t t;
    for (t = 0; t < tokens; t++) memset(out + t * padded + n, 0, (padded - n) * sizeof *out);
}

/* ---- attention ------------------------------------------------------------ */

/* Sequences that tell a channel's size well enough. */
static uint32_t calibrate_some(const calibration *c) { return (c->run.sequences + 3) / 4; }

/* What the heads put out is evened out by V's rows: a channel of a kv head has one scale, whatever
   query heads there are. */
static llm_result calibrate_even_values(calibration *c, uint32_t padded) {
    const llm__file_desc *d = c->run.d;
    const size_t tokens = (size_t)calibrate_some(c) * c->run.length;
    const uint32_t n = d->heads * d->value_size, group = d->heads / d->kv_heads;
    const uint32_t values = d->kv_heads * d->value_size, v_cols = llm__padded(d->width);
    float *v = c->layer.w[LLM__V], *bias = c->layer.w[LLM__V_BIAS];
    double *squares = (double *)calloc((size_t)n + values, sizeof *squares), *per_value;
    float *scales = (float *)malloc(((size_t)n + values) * sizeof *scales), *all;
    llm_result result;
    uint32_t i, k;
    if (!squares || !scales) {
        free(squares);
        free(scales);
        return calibrate_memory(c, "the scales of values");
    }
    per_value = squares + n, all = scales + values;
    calibrate_squares(c->out, tokens, padded, n, squares);
    for (i = 0; i < n; i++)
        per_value[i / d->value_size / group * d->value_size + i % d->value_size] += squares[i];
    calibrate_scales(per_value, tokens * group, values, scales);
    for (i = 0; i < values; i++) {
        for (k = 0; k < v_cols; k++) v[(size_t)i * v_cols + k] /= scales[i];
        if (bias) bias[i] /= scales[i];
    }
    for (i = 0; i < n; i++)
        all[i] = scales[i / d->value_size / group * d->value_size + i % d->value_size];
    calibrate_scale_columns(c->layer.w[LLM__ATTN_OUT], calibrate_rows(c->tensor[LLM__ATTN_OUT]),
                            padded, n, all);
    calibrate_smooth(c, LLM__ATTN_OUT, all, n);
    result = calibrate_note(c, c->tensor[LLM__ATTN_OUT], squares, tokens);
    free(squares);
    free(scales);
    return result;
}

/* Is the input of an output matrix evened out? Not where a norm of its own makes it. */
static bool calibrate_evened(const calibration *c, uint32_t role, uint32_t norm) {
    return calibrate_quantised(c->tensor[role]) && !c->layer.w[norm];
}

/* What the heads put out is rotated where V's rows have not done that. */
static void calibrate_rotate_heads(const calibration *c, float *out, uint32_t padded) {
    if (c->tensor[LLM__V]->file.row_rotation) return;
    quantize_rotate(out, forward_tokens(&c->run) * padded, 1, c->tensor[LLM__ATTN_OUT]->file.rotation);
}

static void calibrate_rotate_values(calibration *c) {
    const plan_tensor *v = c->tensor[LLM__V], *out = c->tensor[LLM__ATTN_OUT];
    const uint32_t cols = llm__padded(v->file.cols);
    uint32_t i;
    if (v->file.row_rotation) {
        for (i = 0; i < cols; i++)
            quantize_rotate(c->layer.w[LLM__V] + i, v->file.rows, cols, v->file.row_rotation);
        if (c->layer.w[LLM__V_BIAS])
            quantize_rotate(c->layer.w[LLM__V_BIAS], v->file.rows, 1, v->file.row_rotation);
    }
    calibrate_rotate_columns(out, c->layer.w[LLM__ATTN_OUT]);
}

static llm_result calibrate_attention(calibration *c) {
    static const uint32_t qkv[] = {LLM__Q, LLM__K, LLM__V};
    const llm__file_desc *d = c->run.d;
    const llm__file_layer *layer = &c->w->plan->layers[c->layer.number];
    const uint32_t width = llm__padded(d->width), n = d->heads * d->value_size;
    const uint32_t padded = llm__padded(n);
    const size_t some = (size_t)calibrate_some(c) * c->run.length;
    const bool quantised = calibrate_quantised(c->tensor[LLM__Q]) || calibrate_quantised(c->tensor[LLM__K]) ||
                           calibrate_quantised(c->tensor[LLM__V]);
    unsigned i;
    llm_result result = calibrate_normed(c, LLM__ATTN_NORM, qkv, 3);
    if (result == LLM_OK && (c->collect || calibrate_quantised(c->tensor[LLM__ATTN_OUT]))) {
        forward_attention(&c->run, calibrate_some(c), layer, &c->layer, c->in, width, c->out,
                          padded);
        result = calibrate_evened(c, LLM__ATTN_OUT, LLM__ATTN_SUB_NORM)
                     ? calibrate_even_values(c, padded)
                     : calibrate_note_input(c, c->tensor[LLM__ATTN_OUT], c->out, some, padded);
    }
    if (result == LLM_OK) calibrate_rotate_values(c);
    if (result != LLM_OK) return result;
    forward_attention(&c->run, c->run.sequences, layer, &c->layer, c->exact_in, width, c->exact_out,
                      padded);
    calibrate_clear(c, c->exact_out, n, padded);
    calibrate_rotate_heads(c, c->exact_out, padded);
    if (quantised) result = calibrate_follow_input(c, qkv, 3);
    for (i = 0; i < 3 && result == LLM_OK; i++) result = calibrate_quantise(c, qkv[i]);
    if (result != LLM_OK) return result;
    forward_attention(&c->run, c->run.sequences, layer, &c->layer, c->in, width, c->out, padded);
    calibrate_clear(c, c->out, n, padded);
    calibrate_rotate_heads(c, c->out, padded);
    if (calibrate_quantised(c->tensor[LLM__ATTN_OUT])) result = calibrate_moments(c, c->out, padded);
    if (result == LLM_OK)
        result = calibrate_follow_output(c, LLM__ATTN_OUT, LLM__ATTN_OUT_BIAS, LLM__ATTN_POST_NORM, padded);
    if (result == LLM_OK) result = calibrate_quantise(c, LLM__ATTN_OUT);
    if (result == LLM_OK)
        forward_add(&c->run, c->out, padded, c->layer.w[LLM__ATTN_OUT],
                    c->layer.w[LLM__ATTN_OUT_BIAS], c->layer.w[LLM__ATTN_POST_NORM], c->x);
    return result;
}

/* ---- feed-forward --------------------------------------------------------- */

/* The hidden values are evened out by up's rows. */
static llm_result calibrate_even_hidden(calibration *c, uint32_t padded) {
    const uint32_t n = c->run.d->ffn, cols = llm__padded(c->run.d->width);
    const size_t tokens = (size_t)calibrate_some(c) * c->run.length;
    float *up = c->layer.w[LLM__GATE_UP], *bias = c->layer.w[LLM__GATE_UP_BIAS];
    double *squares = (double *)malloc(n * sizeof *squares);
    float *scales = (float *)malloc(n * sizeof *scales);
    uint32_t i, k;
    llm_result result = LLM_OK;
    if (!squares || !scales) {
        result = calibrate_memory(c, "the scales of hidden channels");
    } else {
        calibrate_squares(c->out, tokens, padded, n, squares);
        calibrate_scales(squares, tokens, n, scales);
        for (i = 0; i < n; i++) {
            const size_t row = i / 16 * 32 + 16 + i % 16;
            for (k = 0; k < cols; k++) up[row * cols + k] /= scales[i];
            if (bias) bias[row] /= scales[i];
        }
        calibrate_scale_columns(c->layer.w[LLM__DOWN], calibrate_rows(c->tensor[LLM__DOWN]), padded,
                                n, scales);
        calibrate_smooth(c, LLM__DOWN, scales, n);
        result = calibrate_note(c, c->tensor[LLM__DOWN], squares, tokens);
    }
    free(squares);
    free(scales);
    return result;
}

static llm_result calibrate_feed_forward(calibration *c) {
    static const uint32_t gate_up[] = {LLM__GATE_UP};
    const llm__file_desc *d = c->run.d;
    const uint32_t width = llm__padded(d->width), n = (d->ffn + 15) / 16 * 16;
    const uint32_t padded = llm__padded(d->ffn);
    const size_t some = (size_t)calibrate_some(c) * c->run.length;
    const plan_tensor *down = c->tensor[LLM__DOWN];
    llm_result result = calibrate_normed(c, LLM__FFN_NORM, gate_up, 1);
    if (result == LLM_OK && (c->collect || calibrate_quantised(down))) {
        forward_hidden(&c->run, calibrate_some(c), &c->layer, c->in, width, c->out, padded);
        result = calibrate_evened(c, LLM__DOWN, LLM__FFN_SUB_NORM)
                     ? calibrate_even_hidden(c, padded)
                     : calibrate_note_input(c, c->tensor[LLM__DOWN], c->out, some, padded);
    }
    if (result != LLM_OK) return result;
    calibrate_rotate_columns(down, c->layer.w[LLM__DOWN]);
    forward_hidden(&c->run, c->run.sequences, &c->layer, c->exact_in, width, c->exact_out, padded);
    calibrate_clear(c, c->exact_out, n, padded);
    quantize_rotate(c->exact_out, forward_tokens(&c->run) * padded, 1, down->file.rotation);
    if (calibrate_quantised(c->tensor[LLM__GATE_UP])) result = calibrate_follow_input(c, gate_up, 1);
    if (result == LLM_OK) result = calibrate_quantise(c, LLM__GATE_UP);
    if (result != LLM_OK) return result;
    forward_hidden(&c->run, c->run.sequences, &c->layer, c->in, width, c->out, padded);
    calibrate_clear(c, c->out, n, padded);
    quantize_rotate(c->out, forward_tokens(&c->run) * padded, 1, down->file.rotation);
    if (calibrate_quantised(down)) result = calibrate_moments(c, c->out, padded);
    if (result == LLM_OK)
        result = calibrate_follow_output(c, LLM__DOWN, LLM__DOWN_BIAS, LLM__FFN_POST_NORM, padded);
    if (result == LLM_OK) result = calibrate_quantise(c, LLM__DOWN);
    if (result == LLM_OK)
        forward_add(&c->run, c->out, padded, c->layer.w[LLM__DOWN], c->layer.w[LLM__DOWN_BIAS],
                    c->layer.w[LLM__FFN_POST_NORM], c->x);
    return result;
}

/* ---- embedding and output matrix ------------------------------------------- */

/* The layer at hand in float over c->x; squares of every matmul's input, where wanted. */
static void calibrate_run(calibration *c, double *squares[4]) {
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run);
    const uint32_t width = llm__padded(d->width), hidden = llm__padded(d->ffn);
    const uint32_t attention = llm__padded(d->heads * d->value_size);
    const forward_layer *l = &c->layer;
    calibrate_norm(c, l->w[LLM__ATTN_NORM], width);
    if (squares) calibrate_squares(c->in, tokens, width, d->width, squares[0]);
    forward_attention(&c->run, c->run.sequences, &c->w->plan->layers[l->number], l, c->in, width,
                      c->out, attention);
    calibrate_clear(c, c->out, d->heads * d->value_size, attention);
    if (squares) calibrate_squares(c->out, tokens, attention, d->heads * d->value_size, squares[1]);
    forward_add(&c->run, c->out, attention, l->w[LLM__ATTN_OUT], l->w[LLM__ATTN_OUT_BIAS],
                l->w[LLM__ATTN_POST_NORM], c->x);
    calibrate_norm(c, l->w[LLM__FFN_NORM], width);
    if (squares) calibrate_squares(c->in, tokens, width, d->width, squares[2]);
    forward_hidden(&c->run, c->run.sequences, l, c->in, width, c->out, hidden);
    calibrate_clear(c, c->out, (d->ffn + 15) / 16 * 16, hidden);
    if (squares) calibrate_squares(c->out, tokens, hidden, d->ffn, squares[3]);
    forward_add(&c->run, c->out, hidden, l->w[LLM__DOWN], l->w[LLM__DOWN_BIAS],
                l->w[LLM__FFN_POST_NORM], c->x);
}

/* Second moments of what the output matrix eats, from the stream behind the last layer. */
static llm_result calibrate_head_moments(calibration *c, plan_tensor *t, bool note) {
    const uint32_t padded = llm__padded(c->run.d->width);
    const size_t tokens = forward_tokens(&c->run);
    plan_tensor *norm = plan_find(c->w->plan, LLM__OUT_NORM, LLM__NONE);
    float *gain = NULL;
    llm_result result = writer_load_vector(c->w, norm, &gain);
    if (result == LLM_OK) {
        calibrate_norm(c, gain, padded);
        if (note) result = calibrate_note_input(c, t, c->in, tokens, padded);
    }
    free(gain);
    if (result != LLM_OK || c->head.n || !calibrate_quantised(t)) return result;
    quantize_rotate(c->in, tokens * padded, 1, t->file.rotation);
    result = calibrate_moments(c, c->in, padded);
    if (result != LLM_OK) return result;
    memcpy(c->head_u, c->h, (size_t)padded * padded * sizeof *c->h);
    memcpy(c->head_d, c->d, padded * sizeof *c->d);
    c->head.tables = c->w->tables, c->head.n = padded;
    c->head.u = c->head_u, c->head.d = c->head_d, c->head.tile = c->crew.tile;
    return result;
}

/* The same before anything is quantised: some sequences through the original. c->x is work. */
static llm_result calibrate_look_ahead(calibration *c, plan_tensor *t) {
    const uint32_t all = c->run.sequences;
    uint32_t layer;
    llm_result result = LLM_OK;
    if (all > CALIBRATE_AHEAD) c->run.sequences = CALIBRATE_AHEAD;
    for (layer = 0; layer < c->run.d->layers && result == LLM_OK; layer++) {
        result = calibrate_load_layer(c, layer);
        if (result == LLM_OK) calibrate_run(c, NULL);
        c->w->progress(c->w->user, layer + 1, 8 * (uint64_t)c->run.d->layers); /* a part of the whole */
    }
    calibrate_release(c);
    if (result == LLM_OK) result = calibrate_head_moments(c, t, false);
    c->run.sequences = all;
    return result;
}

/* Those of sixteen tokens of the stream whose rows are in the part at hand: as the file will hold them. */
static void calibrate_look_up_rows(void *context, size_t index, unsigned worker) {
    calibration *c = (calibration *)context;
    const llm__file_desc *d = c->run.d;
    const writer *w = c->w;
    const plan_tensor *t = c->part;
    const uint32_t padded = llm__padded(d->width);
    const size_t first = index * 16, tokens = forward_tokens(&c->run);
    const size_t count = tokens - first < 16 ? tokens - first : 16;
    float *rows = w->rows + (size_t)worker * WRITER_UNIT * w->widest;
    uint8_t *panel = w->panels + worker * llm__panel_size(t->file.type, padded);
    quantize_sums sums = {0.0, 0.0};
    uint32_t r, k, any = 0;
    memset(rows, 0, (size_t)16 * padded * sizeof *rows);
    for (r = 0; r < count; r++) {
        if ((uint32_t)c->ids[first + r] - t->first >= t->file.rows) continue;
        w->from->row(w->from, t->from[0], (uint64_t)c->ids[first + r], rows + r * padded);
        any |= (uint32_t)1 << r;
    }
    if (!any) return;
    quantize_rotate(rows, (size_t)16 * padded, 1, t->file.rotation);
    writer_quantize(w, t, worker, rows, panel, &sums);
    for (r = 0; r < count; r++) {
        float *x = c->x + (first + r) * d->width, *row = rows + r * padded;
        if (!(any >> r & 1)) continue;
        for (k = 0; k < padded; k++) row[k] = llm__weight_at(t->file.type, panel, padded, r, k);
        quantize_rotate(row, padded, 1, t->file.rotation);
        for (k = 0; k < d->width; k++) x[k] = row[k] * d->embedding_scale;
    }
}

/* All tokens of the stream. */
static void calibrate_look_up(calibration *c) {
    const plan *p = c->w->plan;
    const plan_tensor *t = plan_find(p, LLM__EMBEDDING, LLM__NONE);
    c->w->feedback = c->head.n ? &c->head : NULL;
    for (; t < p->tensors + p->count && t->file.role == LLM__EMBEDDING; t++) {
        c->part = t;
        c->head.type = t->file.type;
        crew_for(&c->crew, (forward_tokens(&c->run) + 15) / 16, calibrate_look_up_rows, c);
    }
    c->w->feedback = NULL;
}

/* The stream at the first layer, once more, of the embedding as it will be: its error is made good by the
   layers behind it. One that is the output matrix too is quantised for that. Where values are not finite,
   the layers, or the output matrix at the end, say so. */
static llm_result calibrate_begin(calibration *c) {
    plan_tensor *t = plan_find(c->w->plan, LLM__EMBEDDING, LLM__NONE);
    const bool tied = !plan_find(c->w->plan, LLM__HEAD, LLM__NONE);
    llm_result result = LLM_OK;
    if (tied && calibrate_quantised(t)) result = calibrate_look_ahead(c, t);
    if (result != LLM_OK && result != LLM_ERROR_NUMERIC) return result;
    calibrate_look_up(c);
    return LLM_OK;
}

/* ---- the whole ------------------------------------------------------------ */

/* Every tensor of the layer is made. */
static llm_result calibrate_layer(calibration *c, uint32_t layer) {
    unsigned role;
    llm_result result = calibrate_load_layer(c, layer);
    if (result == LLM_OK) result = calibrate_attention(c);
    if (result == LLM_OK) result = calibrate_feed_forward(c);
    for (role = 0; role < LLM__ROLE_COUNT && result == LLM_OK; role++)
        if (c->tensor[role] && !family_is_matrix(role)) result = calibrate_vector(c, role);
    calibrate_release(c);
    return result;
}

/* The stream at the first layer. */
static llm_result calibrate_embed(calibration *c) {
    const plan_tensor *t = plan_find(c->w->plan, LLM__EMBEDDING, LLM__NONE);
    const llm__file_desc *d = c->run.d;
    const size_t tokens = forward_tokens(&c->run);
    writer_unit unit;
    size_t i;
    uint32_t k;
    memset(&unit, 0, sizeof unit);
    for (i = 0; i < tokens; i++) {
        float *x = c->x + i * d->width;
        c->w->from->row(c->w->from, t->from[0], (uint64_t)c->ids[i], x);
        writer_check(x, d->width, (uint32_t)c->ids[i], &unit);
        if (unit.bad) return writer_not_finite(c->w, t, &unit);
        for (k = 0; k < d->width; k++) x[k] *= d->embedding_scale;
    }
    memcpy(c->exact, c->x, tokens * d->width * sizeof *c->x);
    return LLM_OK;
}

static void calibrate_close(calibration *c) {
    calibrate_release(c);
    forward_close(&c->run);
    crew_close(&c->crew);
    free(c->x);
    free(c->in);
    free(c->out);
    free(c->exact);
    free(c->exact_in);
    free(c->exact_out);
    free(c->delta);
    free(c->doubt);
    free(c->h);
    free(c->d);
    free(c->panel);
    free(c->space);
    free(c->head_u);
    free(c->head_d);
    free(c->resume);
    memset(c, 0, sizeof *c);
}

/* Frequencies of every ROPE, in radians per position. */
static llm_result calibrate_turns(calibration *c) {
    const plan *p = c->w->plan;
    uint32_t rope, i;
    for (rope = 0; rope < p->desc.ropes; rope++) {
        const plan_tensor *t = plan_find(c->w->plan, LLM__ROPE, rope);
        uint64_t *turns = NULL;
        llm_result result = writer_load_rope(c->w, t, &turns);
        if (result != LLM_OK) {
            free(turns);
            return result;
        }
        c->run.frequencies[rope] = t->file.cols;
        for (i = 0; i < t->file.cols; i++)
            c->run.turns[rope * (p->desc.head_size / 2) + i] =
                ldexp((double)turns[i], -64) * 6.283185307179586;
        free(turns);
    }
    forward_turns(&c->run);
    return LLM_OK;
}

/* Room, and the stream of the original. */
static llm_result calibrate_open(calibration *c) {
    writer *w = c->w;
    const llm__file_desc *d = &w->plan->desc;
    const size_t tokens = (size_t)c->length * c->sequences;
    const size_t attention = llm__padded(d->heads * d->value_size), hidden = llm__padded(d->ffn);
    const size_t width = llm__padded(d->width), out = attention > hidden ? attention : hidden;
    const size_t widest = out > width ? out : width;
    /* The largest matmuls: gate and up of a sequence, second moments of the widest input. */
    const size_t wide = (size_t)c->length + ((size_t)d->ffn + 15) / 16 * 32 + d->width;
    const size_t heads = (size_t)d->heads * d->head_size + c->length + width + WRITER_UNIT;
    const size_t most = wide > 2 * widest ? wide : 2 * widest;
    const size_t head = d->head_size > d->value_size ? d->head_size : d->value_size;
    const size_t alone = c->length + (head > c->length ? head : c->length);
    llm_result result = crew_open(&c->crew, w->threads, (most > heads ? most : heads) + 32,
                                  (alone > c->alone ? alone : c->alone) + 32, w->error);
    if (result == LLM_OK)
        result = forward_open(&c->run, &c->crew, d, c->length, c->sequences, w->error);
    if (result != LLM_OK) return result;
    c->x = (float *)malloc(tokens * d->width * sizeof *c->x);
    c->in = (float *)malloc(tokens * width * sizeof *c->in);
    c->out = (float *)malloc(tokens * out * sizeof *c->out);
    c->exact = (float *)malloc(tokens * d->width * sizeof *c->exact);
    c->exact_in = (float *)malloc(tokens * width * sizeof *c->exact_in);
    c->exact_out = (float *)malloc(tokens * out * sizeof *c->exact_out);
    c->delta = (float *)malloc(width * widest * sizeof *c->delta);
    c->doubt = (float *)malloc(width * widest * sizeof *c->doubt);
    c->h = (float *)malloc(widest * widest * sizeof *c->h);
    c->d = (float *)malloc(widest * sizeof *c->d);
    c->panel = (float *)malloc(widest * 64 * sizeof *c->panel);
    c->space = (float *)malloc(w->threads * feedback_floats((uint32_t)w->widest) *
                               sizeof *c->space);
    c->head_u = (float *)malloc(width * width * sizeof *c->head_u);
    c->head_d = (float *)malloc(width * sizeof *c->head_d);
    if (!c->x || !c->in || !c->out || !c->exact || !c->exact_in || !c->exact_out || !c->delta ||
        !c->doubt || !c->h || !c->d || !c->panel || !c->space || !c->head_u || !c->head_d)
        return calibrate_memory(c, "the calibration");
    w->space = c->space;
    result = calibrate_turns(c);
    return result == LLM_OK ? calibrate_embed(c) : result;
}

/* Once; what it made is released with the rest. */
static llm_result calibrate_start(calibration *c) {
    if (c->tried) return c->opened;
    c->tried = true;
    c->opened = calibrate_open(c);
    if (c->opened == LLM_OK) c->opened = calibrate_begin(c);
    return c->opened;
}

/* Called by the writer before it writes a tensor. */
static llm_result calibrate_tensor(void *user, plan_tensor *t) {
    calibration *c = (calibration *)user;
    const bool tied = !plan_find(c->w->plan, LLM__HEAD, LLM__NONE);
    const uint32_t head = tied ? LLM__EMBEDDING : LLM__HEAD;
    llm_result result = calibrate_start(c);
    if (result != LLM_OK) return result;
    if (t->file.layer != LLM__NONE && t->file.role != LLM__ROPE)
        return t->made ? LLM_OK : calibrate_layer(c, t->file.layer);
    c->w->feedback = NULL;
    if (t->file.role != head || !(c->collect || calibrate_quantised(t))) return LLM_OK;
    if (t->file.expert == LLM__NONE) result = calibrate_head_moments(c, t, true);
    c->head.type = t->file.type;
    if (calibrate_quantised(t)) c->w->feedback = &c->head;
    return result;
}

/* What runs through the model when `w` writes: `ids` [sequences][length], which stay the caller's. */
static llm_result calibrate_attach(calibration *c, writer *w, const int32_t *ids, uint32_t length,
                                   uint32_t sequences) {
    memset(c, 0, sizeof *c);
    c->w = w, c->ids = ids, c->length = length, c->sequences = sequences;
    w->prepare = calibrate_tensor;
    w->calibration = c;
    return calibrate_smooth_open(c);
}

#endif
