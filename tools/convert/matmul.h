/* ======================================================================== */
/* Matmul: dense float algebra for the calibration                           */
/* ========================================================================
   One tile of 4 x 16 sums does all of it: matrices are packed into strips of 4 rows and 16 columns
   that it walks from front to back. Sums over K are cut at fixed places and tiles of the result
   are independent, so the number of threads changes no bit. */
#ifndef CONVERT_MATMUL_H
#define CONVERT_MATMUL_H

#include "platform.h"
#include <math.h>

#define MATMUL_ROWS  128u /* of a block of the result, */
#define MATMUL_COLS  256u /* its columns, */
#define MATMUL_DEPTH 256u /* and how much of K is packed at a time */

/* c[r][16] (+)= sum over k of a(r, k) b[k][16] for 4 rows, with a(r, k) at a[k * step + r * row] and rows of
   `c` `stride` apart. */
typedef void (*matmul_tile)(size_t k, const float *a, size_t step, size_t row, const float *b, float *c,
                            size_t stride, bool add);

static void matmul_tile_plain(size_t k, const float *a, size_t step, size_t row, const float *b, float *c,
                              size_t stride, bool add) {
    float sum[4][16];
    size_t i, r, j;
    memset(sum, 0, sizeof sum);
    for (i = 0; i < k; i++, a += step, b += 16)
        for (r = 0; r < 4; r++)
            for (j = 0; j < 16; j++) sum[r][j] += a[r * row] * b[j];
    for (r = 0; r < 4; r++)
        for (j = 0; j < 16; j++) c[r * stride + j] = (add ? c[r * stride + j] : 0.0f) + sum[r][j];
}

#if (defined(__GNUC__) || defined(__clang__)) && defined(LLM__HAVE_AVX2)
#define MATMUL_AVX2 1
__attribute__((target("avx2,fma"))) static void
matmul_tile_avx2(size_t k, const float *a, size_t step, size_t row, const float *b, float *c,
                 size_t stride, bool add) {
    __m256 c00 = _mm256_setzero_ps(), c01 = c00, c10 = c00, c11 = c00;
    __m256 c20 = c00, c21 = c00, c30 = c00, c31 = c00;
    size_t i;
    for (i = 0; i < k; i++, a += step, b += 16) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
        __m256 x = _mm256_broadcast_ss(a);
        c00 = _mm256_fmadd_ps(x, b0, c00), c01 = _mm256_fmadd_ps(x, b1, c01);
        x = _mm256_broadcast_ss(a + row);
        c10 = _mm256_fmadd_ps(x, b0, c10), c11 = _mm256_fmadd_ps(x, b1, c11);
        x = _mm256_broadcast_ss(a + 2 * row);
        c20 = _mm256_fmadd_ps(x, b0, c20), c21 = _mm256_fmadd_ps(x, b1, c21);
        x = _mm256_broadcast_ss(a + 3 * row);
        c30 = _mm256_fmadd_ps(x, b0, c30), c31 = _mm256_fmadd_ps(x, b1, c31);
    }
#define MATMUL_STORE(row, low, high)                                              \
    if (add) {                                                                    \
        low = _mm256_add_ps(low, _mm256_loadu_ps(c + (row) * stride));            \
        high = _mm256_add_ps(high, _mm256_loadu_ps(c + (row) * stride + 8));      \
    }                                                                             \
    _mm256_storeu_ps(c + (row) * stride, low);                                    \
    _mm256_storeu_ps(c + (row) * stride + 8, high)
    MATMUL_STORE(0, c00, c01);
    MATMUL_STORE(1, c10, c11);
    MATMUL_STORE(2, c20, c21);
    MATMUL_STORE(3, c30, c31);
#undef MATMUL_STORE
}
#endif

static matmul_tile matmul_tile_best(void) {
#ifdef MATMUL_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return matmul_tile_avx2;
#endif
    return matmul_tile_plain;
}

/* Threads that are kept, and room for packed matrices. */
typedef struct crew {
    llm_pool *pool; /* NULL: one thread */
    unsigned threads;
    matmul_tile tile;
    size_t most;        /* m + n, rounded up to 16 each, of any matmul of all threads */
    size_t most_alone;  /* and of one by a thread alone */
    float *space;       /* [MATMUL_DEPTH][most] */
    float *alone;       /* [threads][MATMUL_DEPTH][most_alone] */
} crew;

static llm_result crew_open(crew *c, unsigned threads, size_t most, size_t most_alone,
                            llm_error *error) {
    llm_pool_desc desc;
    memset(&desc, 0, sizeof desc);
    memset(c, 0, sizeof *c);
    desc.threads = threads;
    c->threads = threads;
    c->tile = matmul_tile_best();
    c->most = most, c->most_alone = most_alone;
    c->space = (float *)malloc(most * MATMUL_DEPTH * sizeof *c->space);
    c->alone = (float *)malloc(most_alone * MATMUL_DEPTH * threads * sizeof *c->alone);
    if (!c->space || !c->alone)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for the work of %u threads", threads);
    if (threads > 1) (void)llm_pool_create(&c->pool, &desc); /* none: the caller does it alone */
    return LLM_OK;
}

static void crew_close(crew *c) {
    llm_pool_destroy(c->pool);
    free(c->space);
    free(c->alone);
    memset(c, 0, sizeof *c);
}

static void crew_for(const crew *c, size_t count, parallel_work work, void *context) {
    parallel_job job;
    job.work = work, job.context = context;
    job.next = 0, job.count = (uint32_t)count;
    llm__pool_run(c->pool, parallel_lane, &job);
}

/* Elements (i, j) at data[i * row + j * col]. */
typedef struct matrix {
    const float *data;
    size_t row, col;
} matrix;

/* A result: element (i, j) at data[j / 16 * strip + i * row + j % 16]. An ordinary matrix of rows
   has strip 16. */
typedef struct strips {
    float *data;
    size_t row, strip;
} strips;

typedef struct matmul_job {
    size_t m, n, k, down; /* blocks of rows */
    matrix a, b;
    strips c;
    float factor;
    bool add, upper; /* add to what is there; only blocks that hold elements with i <= j */
    matmul_tile tile;
    size_t from, depth; /* the part of K that is packed: */
    float *rows, *cols; /* [strip of 4][depth][4], [strip of 16][depth][16] */
} matmul_job;

/* `lanes` rows of m from `at` on, `depth` of their elements from `from` on, as [depth][lanes]; zeros
   beyond `end`. */
LLM__INLINE void matmul_strip(matrix m, size_t at, size_t end, size_t from, size_t depth,
                              size_t lanes, float factor, float *out) {
    const size_t some = at >= end ? 0 : end - at < lanes ? end - at : lanes;
    const float *x = m.data + at * m.row + from * m.col;
    size_t k, i;
    if (some == lanes && m.row == 1) {
        for (k = 0; k < depth; k++, out += lanes, x += m.col)
            for (i = 0; i < lanes; i++) out[i] = x[i] * factor;
        return;
    }
    if (some == lanes) {
        for (k = 0; k < depth; k++, out += lanes, x += m.col)
            for (i = 0; i < lanes; i++) out[i] = x[i * m.row] * factor;
        return;
    }
    for (k = 0; k < depth; k++, out += lanes, x += m.col) {
        for (i = 0; i < some; i++) out[i] = x[i * m.row] * factor;
        for (; i < lanes; i++) out[i] = 0.0f;
    }
}

/* A tile that reaches over an edge goes through a copy. */
static void matmul_put(const matmul_job *j, size_t row, size_t col, size_t depth, const float *a,
                       const float *b, bool add) {
    float *c = j->c.data + col / 16 * j->c.strip + row * j->c.row, copy[4][16];
    const size_t rows = j->m - row < 4 ? j->m - row : 4, cols = j->n - col < 16 ? j->n - col : 16;
    size_t r, i;
    if (rows == 4 && cols == 16) {
        j->tile(depth, a, 4, 1, b, c, j->c.row, add);
        return;
    }
    j->tile(depth, a, 4, 1, b, copy[0], 16, false);
    for (r = 0; r < rows; r++)
        for (i = 0; i < cols; i++)
            c[r * j->c.row + i] = (add ? c[r * j->c.row + i] : 0.0f) + copy[r][i];
}

enum { MATMUL_PACKED = 16 }; /* strips of an item */

static void matmul_pack(void *context, size_t index, unsigned worker) {
    const matmul_job *j = (const matmul_job *)context;
    const size_t row_items = (j->m + 4 * MATMUL_PACKED - 1) / (4 * MATMUL_PACKED);
    const bool rows = index < row_items;
    const size_t lanes = rows ? 4 : 16, end = rows ? j->m : j->n;
    size_t at = (rows ? index : index - row_items) * lanes * MATMUL_PACKED, i;
    (void)worker;
    for (i = 0; i < MATMUL_PACKED && at < end; i++, at += lanes) {
        if (rows) matmul_strip(j->a, at, end, j->from, j->depth, 4, j->factor, j->rows + at * j->depth);
        else matmul_strip(j->b, at, end, j->from, j->depth, 16, 1.0f, j->cols + at * j->depth);
    }
}

static void matmul_block(void *context, size_t index, unsigned worker) {
    const matmul_job *j = (const matmul_job *)context;
    const size_t row = index % j->down * MATMUL_ROWS, col = index / j->down * MATMUL_COLS;
    const size_t row_end = j->m - row < MATMUL_ROWS ? j->m : row + MATMUL_ROWS;
    const size_t col_end = j->n - col < MATMUL_COLS ? j->n : col + MATMUL_COLS;
    size_t r, c;
    (void)worker;
    if (j->upper && row >= col_end) return;
    for (c = col; c < col_end; c += 16)
        for (r = row; r < row_end; r += 4)
            matmul_put(j, r, c, j->depth, j->rows + r * j->depth, j->cols + c * j->depth,
                       j->add || j->from > 0);
}

static void matmul_each(const crew *w, int alone, size_t count, parallel_work work, void *job) {
    size_t i;
    if (alone < 0) crew_for(w, count, work, job);
    else
        for (i = 0; i < count; i++) work(job, i, (unsigned)alone);
}

/* c[m][n] (+)= factor * a[m][k] b[n][k]^T. With `alone` >= 0 by the calling thread, in that
   worker's room. */
static void matmul(const crew *w, int alone, size_t m, size_t n, size_t k, matrix a, matrix b,
                   strips c, float factor, bool add, bool upper) {
    matmul_job j;
    const size_t packed = (m + 4 * MATMUL_PACKED - 1) / (4 * MATMUL_PACKED) +
                          (n + 16 * MATMUL_PACKED - 1) / (16 * MATMUL_PACKED);
    j.m = m, j.n = n, j.k = k;
    j.down = (m + MATMUL_ROWS - 1) / MATMUL_ROWS;
    j.a = a, j.b = b, j.c = c;
    j.factor = factor, j.add = add, j.upper = upper;
    j.tile = w->tile;
    for (j.from = 0; j.from < k; j.from += j.depth) {
        j.depth = k - j.from < MATMUL_DEPTH ? k - j.from : MATMUL_DEPTH;
        j.cols = alone < 0 ? w->space : w->alone + (size_t)alone * w->most_alone * MATMUL_DEPTH;
        j.rows = j.cols + (n + 15) / 16 * 16 * j.depth;
        matmul_each(w, alone, packed, matmul_pack, &j);
        matmul_each(w, alone, j.down * ((n + MATMUL_COLS - 1) / MATMUL_COLS), matmul_block, &j);
    }
}

static matrix matrix_of(const float *data, size_t row, size_t col) {
    matrix m;
    m.data = data, m.row = row, m.col = col;
    return m;
}
static strips strips_of(float *data, size_t row, size_t strip) {
    strips s;
    s.data = data, s.row = row, s.strip = strip;
    return s;
}

/* ---- H = U D U^T -------------------------------------------------------- */

/* A symmetric matrix of n (a multiple of 64) columns as strips [n / 16][n][16]; only i <= j
   counts. */
#define MOMENTS_AT(h, n, i, j) ((h)[(j) / 16 * (n) * 16 + (i) * 16 + (j) % 16])

/* Cholesky of 64 x 64 from the last column on, in place: r r^T = what was there, r upper. False: a
   pivot is not above `least`. */
static bool moments_corner(float *r, float least) {
    size_t i, j, k;
    for (j = 64; j-- > 0;) {
        float pivot = r[j * 64 + j], root;
        if (!(pivot > least)) return false;
        root = sqrtf(pivot);
        for (i = 0; i < j; i++) r[i * 64 + j] /= root;
        r[j * 64 + j] = root;
        for (i = 0; i < j; i++)
            for (k = 0; k <= i; k++) r[k * 64 + i] -= r[k * 64 + j] * r[i * 64 + j];
    }
    return true;
}

typedef struct moments_job {
    float *h, *panel; /* [rows][64] of the columns from `at` on, solved */
    const float *corner;
    size_t n, at;
} moments_job;

/* A row of the columns right above a corner: x corner^T = what was there. */
static void moments_solve(void *context, size_t i, unsigned worker) {
    const moments_job *job = (const moments_job *)context;
    float *x = job->panel + i * 64;
    size_t j, k;
    (void)worker;
    for (j = 0; j < 64; j++) x[j] = MOMENTS_AT(job->h, job->n, i, job->at + j);
    for (j = 64; j-- > 0;) {
        x[j] /= job->corner[j * 64 + j];
        for (k = 0; k < j; k++) x[k] -= x[j] * job->corner[k * 64 + j];
    }
    for (j = 0; j < 64; j++) MOMENTS_AT(job->h, job->n, i, job->at + j) = x[j] / job->corner[j * 65];
}

/* h becomes U (above the diagonal; its own diagonal is 1) and, on the diagonal, D. False: h is not
   positive enough; then it is spoiled. `panel` [n][64]. */
static bool moments_factor(const crew *w, float *h, size_t n, float least, float *panel) {
    float corner[64 * 64];
    moments_job job;
    size_t at, i, j;
    job.h = h, job.panel = panel, job.corner = corner, job.n = n;
    for (at = n; at > 0;) {
        job.at = at -= 64;
        for (i = 0; i < 64; i++)
            for (j = 0; j < 64; j++)
                corner[i * 64 + j] = i <= j ? MOMENTS_AT(h, n, at + i, at + j) : 0.0f;
        if (!moments_corner(corner, least)) return false;
        crew_for(w, at, moments_solve, &job);
        if (at)
            matmul(w, -1, at, at, 64, matrix_of(panel, 64, 1), matrix_of(panel, 64, 1),
                   strips_of(h, 16, n * 16), -1.0f, true, true);
        for (j = 0; j < 64; j++) {
            const float root = corner[j * 65];
            for (i = 0; i < j; i++)
                MOMENTS_AT(h, n, at + i, at + j) = corner[i * 64 + j] / root;
            MOMENTS_AT(h, n, at + j, at + j) = root * root;
        }
    }
    return true;
}

#endif
