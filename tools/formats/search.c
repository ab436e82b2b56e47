/* Searches the tables U, M and B of the 2- to 6-bit types (llm.h, >>formats).

     cc -O3 -o search tools/formats/search.c -lm -lpthread
     search TYPE SECONDS SEED GGUF...

   A climb from the tables in llm.h: one entry or a few are changed at random, and the change stays
   if the error becomes less and the constraints hold: |M U - B| <= 127, U within 0 .. 32 (0 .. 63
   and linear for 6 bits, linear for 5 and 2), B within 0 .. 127, and one M = B = 32 in 2 bits. The
   error is the relative squared error of the converter's own quantiser, averaged in logarithms over
   synthetic samples and over rows of every kind of matrix in the GGUF files, made continuous again
   by a dither one quantisation step wide. At the end it is measured on rows that the search has not
   seen. */
#define _POSIX_C_SOURCE 200809L
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "../convert/gguf.h"
#include "../convert/quantize.h"
#include <time.h>

#define SETS 64
#define SET_WEIGHTS 12288u

typedef struct sample {
    char name[128];
    float *rows[2]; /* for the search, for the end */
    uint32_t cols, count;
} sample;

static sample samples[SETS];
static unsigned sample_count;
static unsigned thread_count;
static uint64_t state;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}
static unsigned any(unsigned below) { return (unsigned)(uniform() * below); }

static sample *add_sample(const char *name, uint32_t cols) {
    sample *s = &samples[sample_count++];
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    s->cols = cols;
    s->count = (SET_WEIGHTS + cols - 1) / cols;
    s->rows[0] = (float *)malloc((size_t)s->count * cols * sizeof(float));
    s->rows[1] = (float *)malloc((size_t)s->count * cols * sizeof(float));
    if (!s->rows[0] || !s->rows[1]) exit(1);
    return s;
}

static double gauss(void) {
    return sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* Gaussian; with blocks of 16 of very different size; with long tails. */
static void add_synthetic(const char *name, double spread, bool tails) {
    sample *s = add_sample(name, 256);
    size_t i, part;
    double size = 1.0;
    for (part = 0; part < 2; part++)
        for (i = 0; i < (size_t)s->count * s->cols; i++) {
            if (i % 16 == 0) size = exp(spread * gauss());
            s->rows[part][i] =
                (float)(size * (tails ? log(uniform()) * (any(2) ? 1.0 : -1.0) : gauss()));
        }
}

/* The distance of neighbouring values among 16 weights is the step of their quantisation. */
static void dither(float *x, uint32_t cols) {
    uint32_t start, i, j;
    for (start = 0; start + 16 <= cols; start += 16) {
        float step = 0.0f;
        for (i = 0; i < 16; i++)
            for (j = 0; j < 16; j++) {
                float gap = x[start + i] - x[start + j];
                if (gap > 0.0f && (step <= 0.0f || gap < step)) step = gap;
            }
        for (i = 0; i < 16; i++) x[start + i] += step * (float)(uniform() - 0.5);
    }
}

/* Rows of a kind of matrix, from any layers. */
static void add_tensors(const source_file *s, const char *kind) {
    sample *to = NULL;
    size_t length = strlen(kind), i;
    double seen = 0.0;
    unsigned part;
    uint32_t r;
    for (i = 0; i < s->tensor_count; i++) {
        const source_tensor *t = &s->tensors[i];
        char name[128];
        if (t->name.size < length || memcmp(t->name.data + t->name.size - length, kind,
                                            length) != 0 ||
            t->shape[0] % 64 || t->shape[0] > 65536 || sample_count >= SETS)
            continue;
        (void)snprintf(name, sizeof name, "%s %s", s->architecture, kind);
        if (!to) to = add_sample(name, (uint32_t)t->shape[0]);
        seen += 1.0;
        for (part = 0; part < 2; part++)
            for (r = 0; r < to->count; r++) {
                float *row = to->rows[part] + (size_t)r * to->cols;
                if (uniform() * seen > 1.0) continue; /* every layer is as likely */
                s->row(s, t, (uint64_t)(uniform() * (double)t->shape[1]), row);
                dither(row, to->cols);
            }
    }
}

typedef struct job {
    const quantize_table *table;
    unsigned part;
    double error[SETS];
} job;

static void measure_set(void *context, size_t index, unsigned worker) {
    job *j = (job *)context;
    const sample *s = &samples[index];
    uint32_t size = llm__super_block(s->cols), start;
    double error = 0.0, norm = 0.0;
    size_t r, i;
    (void)worker;
    for (r = 0; r < s->count; r++)
        for (start = 0; start < s->cols; start += size) {
            const float *x = s->rows[j->part] + r * s->cols + start;
            float most = quantize_largest(x, size);
            if (!(most > 0.0f)) continue;
            error += quantize_try(j->table, x, size, NULL,
                                  quantize_search(j->table, x, size, NULL, most), -1.0, NULL);
            for (i = 0; i < size; i++) norm += (double)x[i] * (double)x[i];
        }
    j->error[index] = error / norm;
}

static double measure(const llm__format *f, unsigned part, job *j) {
    static quantize_table table;
    double sum = 0.0;
    unsigned i;
    quantize_fill(&table, f);
    j->table = &table;
    j->part = part;
    parallel_for(thread_count, sample_count, measure_set, j);
    for (i = 0; i < sample_count; i++) sum += log(j->error[i]);
    return exp(sum / sample_count);
}

static bool allowed(const llm__format *f) {
    unsigned codes = 1u << f->bits, p, code;
    bool ternary = false;
    for (code = 0; code < codes; code++) {
        if (f->u[code] > (f->bits == 6 ? 63 : 32)) return false;
        if (code && f->u[code] <= f->u[code - 1]) return false;
    }
    for (p = 0; p < 16; p++) {
        if (f->m[p] == 0 || f->b[p] > 127) return false;
        if (f->m[p] * f->u[codes - 1] - f->b[p] > 127) return false;
        ternary = ternary || (f->m[p] == 32 && f->b[p] == 32);
    }
    return f->bits > 2 || ternary;
}

static void change(llm__format *f) {
    unsigned p = any(16), q = any(16), code = any(1u << f->bits);
    int by = (int)any(3) + 1, sign = any(2) ? 1 : -1;
    double middle = f->m[p] ? (double)f->b[p] / f->m[p] : 0.0;
    switch (any(f->bits == 3 || f->bits == 4 ? 6 : 4)) {
    case 0: f->b[p] = (uint8_t)(f->b[p] + sign * by); break;
    case 1: /* another multiplier about the same middle */
        f->m[p] = (uint8_t)(f->m[p] + sign);
        f->b[p] = (uint8_t)(middle * f->m[p] + 0.5);
        break;
    case 2: f->m[p] = (uint8_t)(f->m[p] + sign); break;
    case 3:
        f->m[p] = f->m[q];
        f->b[p] = (uint8_t)(f->b[q] + sign * by);
        break;
    case 4: f->u[code] = (uint8_t)(f->u[code] + sign); break;
    default: /* stretch the upper or the lower part */
        for (; sign > 0 ? code < 1u << f->bits : code + 1 > 0; sign > 0 ? code++ : code--) {
            f->u[code] = (uint8_t)(f->u[code] + (by & 1 ? 1 : -1));
            if (code == 0 && sign < 0) break;
        }
    }
}

static void print_table(const llm__format *f) {
    unsigned i;
    printf("{%u, 0,\n {", f->bits);
    for (i = 0; i < 1u << f->bits; i++) printf("%s%u", i ? ", " : "", f->u[i]);
    printf("},\n {");
    for (i = 0; i < 16; i++) printf("%s%u", i ? ", " : "", f->m[i]);
    printf("},\n {");
    for (i = 0; i < 16; i++) printf("%s%u", i ? ", " : "", f->b[i]);
    printf("}}\n");
}

static void print_errors(const char *what, const llm__format *f) {
    job j;
    double mean = measure(f, 1, &j);
    unsigned i;
    printf("%s, relative squared error x1e-3 on rows not searched on: mean %.4f\n", what,
           mean * 1e3);
    for (i = 0; i < sample_count; i++) printf("  %-28s %.4f\n", samples[i].name, j.error[i] * 1e3);
}

static void climb(llm__format *best, double seconds) {
    struct timespec start, now;
    job j;
    double least = measure(best, 0, &j), error;
    unsigned long tries = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        llm__format next = *best;
        unsigned steps = any(3) + 1;
        while (steps--) change(&next);
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        if (!allowed(&next) || memcmp(&next, best, sizeof next) == 0) continue;
        tries++;
        error = measure(&next, 0, &j);
        if (error >= least) continue;
        least = error;
        *best = next;
        fprintf(stderr, "%6lu %.5f\n", tries, least * 1e3);
    } while ((double)(now.tv_sec - start.tv_sec) < seconds);
}

/* Pairs (M, B) in order; codes and results do not depend on it. */
static void sort_parameters(llm__format *f) {
    unsigned p, q;
    for (p = 0; p < 16; p++)
        for (q = p + 1; q < 16; q++)
            if (f->m[q] < f->m[p] || (f->m[q] == f->m[p] && f->b[q] < f->b[p])) {
                uint8_t m = f->m[p], b = f->b[p];
                f->m[p] = f->m[q], f->b[p] = f->b[q];
                f->m[q] = m, f->b[q] = b;
            }
}

int main(int count, char **arguments) {
    static const char *const kinds[] = {"token_embd.weight", "attn_q.weight", "attn_v.weight",
                                        "attn_output.weight", "ffn_gate.weight", "ffn_down.weight"};
    llm__format found;
    unsigned type = 0, k;
    int i;
    if (count < 4) return fputs("usage: search q2|q3|q4|q5|q6 SECONDS SEED GGUF...\n", stderr), 2;
    for (k = LLM_Q6; k < LLM_TYPE_COUNT; k++)
        if (strcmp(arguments[1], llm__type_names[k]) == 0) type = k;
    if (!type) return fputs("no such type\n", stderr), 2;
    state = strtoull(arguments[3], NULL, 10);
    thread_count = core_count();
    add_synthetic("gaussian", 0.0, false);
    add_synthetic("gaussian, uneven", 0.5, false);
    add_synthetic("laplace", 0.0, true);
    for (i = 4; i < count; i++) {
        source_file s;
        llm_error error;
        if (gguf_open(&s, arguments[i], &error) != LLM_OK) return fputs(error.text, stderr), 1;
        for (k = 0; k < sizeof kinds / sizeof *kinds; k++) add_tensors(&s, kinds[k]);
        s.close(&s);
    }
    found = llm__formats[type];
    print_errors("in llm.h", &found);
    climb(&found, strtod(arguments[2], NULL));
    sort_parameters(&found);
    print_errors("found", &found);
    print_table(&found);
    return 0;
}
