/* The same bits for every way to evaluate: each way against one row after the other on one thread
   with the scalar instruction set, all logits of all positions by memcmp. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"

#define TOKENS 96u /* two pages of the cache, and more than the windows of the models */

typedef struct setup {
    const llm_model *model;
    uint32_t vocab;
    llm_kv kv;
    int32_t ids[TOKENS];
    float *want, *got; /* [TOKENS][vocab] */
    char name[64];
} setup;

enum { CHUNK_WHOLE, CHUNK_ONE, CHUNK_RANDOM };

typedef struct way {
    const char *name, *isa;
    uint32_t threads;              /* 0: no pool */
    llm_parallel_for parallel_for; /* or the pool's own threads */
    int chunk;
    uint64_t budget;
    uint32_t others; /* sessions in the same batch; 0: alone */
} way;

/* ---- a host's ways to run lanes ---- */

static void in_order(void *user, void (*work)(void *context, uint32_t index), void *context,
                     uint32_t count) {
    uint32_t i;
    (void)user;
    for (i = 0; i < count; i++) work(context, i);
}
static void backwards(void *user, void (*work)(void *context, uint32_t index), void *context,
                      uint32_t count) {
    (void)user;
    while (count--) work(context, count);
}

typedef struct lane_job {
    void (*work)(void *context, uint32_t index);
    void *context;
    uint32_t index;
} lane_job;

static void *run_lane(void *data) {
    const lane_job *job = (const lane_job *)data;
    job->work(job->context, job->index);
    return NULL;
}
/* A thread per lane; the calling thread only waits. */
static void on_threads(void *user, void (*work)(void *context, uint32_t index), void *context,
                       uint32_t count) {
    pthread_t thread[8];
    lane_job job[8];
    uint32_t i, started = 0;
    (void)user;
    for (i = 0; i < count; i++) {
        job[i].work = work, job[i].context = context, job[i].index = i;
        if (i < 8 && !pthread_create(&thread[started], NULL, run_lane, &job[i])) started++;
        else work(context, i);
    }
    for (i = 0; i < started; i++) pthread_join(thread[i], NULL);
}

static const way ways[] = {
    {"scalar, whole", "scalar", 0, NULL, CHUNK_WHOLE, 0, 0},
    {"whole", NULL, 0, NULL, CHUNK_WHOLE, 0, 0},
    {"one by one", NULL, 0, NULL, CHUNK_ONE, 0, 0},
    {"random pieces", NULL, 0, NULL, CHUNK_RANDOM, 0, 0},
    {"2 threads", NULL, 2, NULL, CHUNK_WHOLE, 0, 0},
    {"3 threads, random pieces", NULL, 3, NULL, CHUNK_RANDOM, 0, 0},
    {"8 threads", NULL, 8, NULL, CHUNK_WHOLE, 0, 0},
    {"50 us", NULL, 0, NULL, CHUNK_RANDOM, 50, 0},
    {"1 us", NULL, 0, NULL, CHUNK_WHOLE, 1, 0},
    {"50 us, 2 threads", NULL, 2, NULL, CHUNK_WHOLE, 50, 0},
    {"1 us, 3 threads", NULL, 3, NULL, CHUNK_WHOLE, 1, 0},
    {"batch of 4", NULL, 0, NULL, CHUNK_RANDOM, 0, 3},
    {"batch of 2, 2 threads, 50 us", NULL, 2, NULL, CHUNK_RANDOM, 50, 1},
    {"scalar, batch of 3, 50 us", "scalar", 0, NULL, CHUNK_RANDOM, 50, 2},
    {"parallel_for in order", NULL, 3, in_order, CHUNK_RANDOM, 0, 0},
    {"parallel_for backwards, 50 us", NULL, 3, backwards, CHUNK_WHOLE, 50, 0},
    {"parallel_for on threads", NULL, 3, on_threads, CHUNK_WHOLE, 0, 0}};

/* ---- evaluating ---- */

static uint32_t random_state;
static uint32_t piece_of(int chunk, uint32_t left) {
    uint32_t most = left < 40 ? left : 40;
    random_state = random_state * 1664525u + 1013904223u;
    if (chunk == CHUNK_WHOLE) return most;
    return chunk == CHUNK_ONE ? 1 : 1 + (random_state >> 16) % most;
}

static void describe(const setup *s, const way *w, llm_pool *pool, llm_session_desc *d) {
    memset(d, 0, sizeof *d);
    d->model = s->model, d->pool = pool, d->kv = s->kv, d->isa = w->isa;
    d->context = TOKENS, d->rows = 40, d->logits = 40, d->batch_only = w->others > 0;
}

static bool keep(setup *s, uint32_t at, uint32_t piece, const llm_batch *batch, const llm_session *session) {
    uint32_t i;
    for (i = 0; i < piece; i++) {
        const float *logits = batch ? llm_batch_logits(batch, session, piece - 1 - i)
                                    : llm_session_logits(session, piece - 1 - i);
        if (!logits) return false;
        memcpy(s->got + (size_t)(at + i) * s->vocab, logits, s->vocab * sizeof(float));
    }
    return true;
}

/* Evaluates ids from..TOKENS - 1 with a session that is at `from`; false when something failed. */
static bool evaluate_alone(setup *s, const way *w, llm_session *session, uint32_t from) {
    uint32_t at, piece;
    llm_result r = LLM_OK;
    for (at = from; at < TOKENS; at += piece) {
        piece = piece_of(w->chunk, TOKENS - at);
        r = llm_session_feed(session, s->ids + at, piece);
        while (!r && (r = llm_step(session, w->budget)) == LLM_PENDING) r = LLM_OK;
        if (r || !keep(s, at, piece, NULL, session)) return false;
    }
    return true;
}

/* The session stands between the others in the batch; these lag behind, run ahead and start again. */
static bool evaluate_in_batch(setup *s, const way *w, llm_batch *batch, llm_session **sessions) {
    uint32_t at, piece, i, own = w->others / 2;
    llm_result r = LLM_OK;
    for (at = 0; at < TOKENS && !r; at += piece) {
        piece = piece_of(w->chunk, TOKENS - at);
        for (i = 0; i <= w->others && !r; i++) {
            uint32_t count = i == own ? piece : 1 + (at + i) % 7, first = i == own ? at : (at + 11 * i) % 80;
            if (llm_session_position(sessions[i]) + count > TOKENS) r = llm_session_rewind(sessions[i], i);
            if (!r) r = llm_batch_add(batch, sessions[i], s->ids + first, count, i == own ? count : i % 2);
        }
        while (!r && (r = llm_batch_step(batch, w->budget)) == LLM_PENDING) r = LLM_OK;
        if (!r && !keep(s, at, piece, batch, sessions[own])) return false;
    }
    return r == LLM_OK;
}

static bool run_batch(setup *s, const way *w, llm_pool *pool) {
    llm_session *sessions[4] = {NULL, NULL, NULL, NULL};
    llm_batch *batch = NULL;
    llm_batch_desc b;
    llm_session_desc d;
    uint32_t i;
    bool good = true;
    describe(s, w, pool, &d);
    memset(&b, 0, sizeof b);
    b.model = s->model, b.pool = pool, b.kv = s->kv, b.isa = w->isa, b.rows = 64, b.logits = 48;
    if (llm_batch_create(&batch, &b)) return false;
    for (i = 0; i <= w->others; i++) good &= llm_session_create(&sessions[i], &d) == LLM_OK;
    good = good && evaluate_in_batch(s, w, batch, sessions);
    llm_batch_destroy(batch);
    for (i = 0; i < 4; i++) llm_session_destroy(sessions[i]);
    return good;
}

static bool run_alone(setup *s, const way *w, llm_pool *pool) {
    llm_session_desc d;
    llm_session *session;
    bool good;
    describe(s, w, pool, &d);
    if (llm_session_create(&session, &d)) return false;
    good = evaluate_alone(s, w, session, 0);
    llm_session_destroy(session);
    return good;
}

static void run(setup *s, const way *w) {
    llm_pool *pool = NULL;
    llm_pool_desc p;
    bool good = true;
    memset(&p, 0, sizeof p);
    p.threads = w->threads, p.parallel_for = w->parallel_for;
    if (w->threads) good = llm_pool_create(&pool, &p) == LLM_OK;
    memset(s->got, 0xff, (size_t)TOKENS * s->vocab * sizeof(float));
    good = good && (w->others ? run_batch(s, w, pool) : run_alone(s, w, pool));
    CHECK(good, "%s, %s: an error", s->name, w->name);
    CHECK(!memcmp(s->want, s->got, (size_t)TOKENS * s->vocab * sizeof(float)), "%s, %s: other bits",
          s->name, w->name);
    llm_pool_destroy(pool);
}

/* ---- forks and rewinds ---- */

/* A fork takes another way, is destroyed or goes on, and neither notices the other. */
static void test_fork(setup *s, uint32_t at) {
    const way w = {"fork", NULL, 0, NULL, CHUNK_RANDOM, 0, 0};
    llm_session *parent = NULL, *child = NULL, *third = NULL;
    llm_session_desc d;
    const size_t size = (size_t)(TOKENS - at) * s->vocab * sizeof(float);
    bool good;
    describe(s, &w, NULL, &d);
    d.spare = 2 * TOKENS;
    good = !llm_session_create(&parent, &d) && !llm_eval(parent, s->ids, at) &&
           !llm_session_fork(&child, parent) && !llm_session_fork(&third, parent);
    good = good && !llm_eval(child, s->ids + 3, 20) && !llm_eval(parent, s->ids + 7, 9) &&
           !llm_session_rewind(child, at) && !llm_session_rewind(parent, at > 5 ? at - 5 : 0) &&
           !llm_eval(parent, s->ids + 1, 4);
    memset(s->got, 0xff, (size_t)TOKENS * s->vocab * sizeof(float));
    good = good && evaluate_alone(s, &w, child, at);
    CHECK(good, "%s at %u: an error", s->name, (unsigned)at);
    CHECK(!memcmp(s->want + (size_t)at * s->vocab, s->got + (size_t)at * s->vocab, size),
          "%s: a fork at %u has other bits", s->name, (unsigned)at);
    llm_session_destroy(parent);
    memset(s->got, 0xff, (size_t)TOKENS * s->vocab * sizeof(float));
    CHECK(good && evaluate_alone(s, &w, third, at), "%s: third fork at %u", s->name, (unsigned)at);
    CHECK(!memcmp(s->want + (size_t)at * s->vocab, s->got + (size_t)at * s->vocab, size),
          "%s: a fork at %u without its parent has other bits", s->name, (unsigned)at);
    llm_session_destroy(child);
    llm_session_destroy(third);
}

static void test_rewind(setup *s) {
    static const uint32_t to[] = {95, 65, 64, 63, 17, 1, 0};
    const way w = {"rewind", NULL, 0, NULL, CHUNK_RANDOM, 0, 0};
    llm_session *session;
    llm_session_desc d;
    size_t i;
    describe(s, &w, NULL, &d);
    if (llm_session_create(&session, &d) || !evaluate_alone(s, &w, session, 0)) {
        CHECK(false, "%s: an error", s->name);
        return;
    }
    for (i = 0; i < sizeof to / sizeof *to; i++) {
        memset(s->got, 0xff, (size_t)TOKENS * s->vocab * sizeof(float));
        CHECK(!llm_session_rewind(session, to[i]) && evaluate_alone(s, &w, session, to[i]),
              "%s: back to %u", s->name, (unsigned)to[i]);
        CHECK(!memcmp(s->want + (size_t)to[i] * s->vocab, s->got + (size_t)to[i] * s->vocab,
                      (size_t)(TOKENS - to[i]) * s->vocab * sizeof(float)),
              "%s: other bits after going back to %u", s->name, (unsigned)to[i]);
    }
    llm_session_destroy(session);
}

/* ---- long contexts: a row's positions are cut over the lanes ---- */

enum { DEEP = 1090, DEEP_ROWS = 12 }; /* three chunks of 512 positions */

/* Logits of DEEP_ROWS tokens at DEEP, `piece` at a time; with `other`, beside a session that is not as deep. */
static bool evaluate_deep(const setup *s, llm_pool *pool, uint32_t piece, uint64_t budget, bool other, float *out) {
    static int32_t ids[DEEP + DEEP_ROWS];
    llm_session *session[2] = {NULL, NULL};
    llm_batch *batch = NULL;
    llm_batch_desc b;
    llm_session_desc d;
    uint32_t i, at, cancelled = 0;
    llm_result r;
    for (i = 0; i < DEEP + DEEP_ROWS; i++) ids[i] = s->ids[i * 7 % TOKENS];
    memset(&d, 0, sizeof d), memset(&b, 0, sizeof b);
    d.model = b.model = s->model, d.pool = b.pool = pool, d.kv = b.kv = s->kv;
    d.context = DEEP + DEEP_ROWS, d.rows = b.rows = b.logits = 64;
    r = llm_batch_create(&batch, &b);
    for (i = 0; i < 2 && !r; i++) {
        r = llm_session_create(&session[i], &d);
        if (!r) r = llm_eval(session[i], ids, i ? 700 : DEEP);
    }
    for (at = 0; at < DEEP_ROWS && !r; at += piece) {
        r = llm_batch_add(batch, session[0], ids + DEEP + at, piece, piece);
        if (!r && other) r = llm_batch_add(batch, session[1], ids + at, piece, 1);
        if (budget && !r && at && !cancelled++) { /* in the middle, and again */
            for (i = 0; i < 9 && r != LLM_CANCELLED; i++) r = llm_batch_step(batch, 1);
            llm_batch_cancel(batch);
            while ((r = llm_batch_step(batch, 1)) == LLM_PENDING) continue;
            at -= piece, r = r == LLM_CANCELLED ? LLM_OK : LLM_ERROR_BUSY;
            continue;
        }
        while (!r && (r = llm_batch_step(batch, budget)) == LLM_PENDING) r = LLM_OK;
        for (i = 0; i < piece && !r; i++)
            memcpy(out + (at + i) * s->vocab, llm_batch_logits(batch, session[0], piece - 1 - i),
                   s->vocab * sizeof *out);
    }
    llm_batch_destroy(batch);
    llm_session_destroy(session[0]), llm_session_destroy(session[1]);
    return r == LLM_OK;
}

static void test_deep(const setup *s) {
    static const struct { uint32_t threads, piece; uint64_t budget; bool other; } deep[] = {
        {1, 4, 0, false}, {2, 1, 0, false}, {3, 1, 0, true}, {8, 2, 0, false}, {3, 6, 1, true}, {2, 3, 1, false}};
    const size_t size = (size_t)DEEP_ROWS * s->vocab * sizeof(float);
    float *want = (float *)malloc(size), *got = (float *)malloc(size);
    size_t i;
    CHECK(want && evaluate_deep(s, NULL, 1, 0, false, want), "%s: deep", s->name);
    for (i = 0; i < sizeof deep / sizeof *deep; i++) {
        llm_pool *pool = NULL;
        llm_pool_desc p;
        memset(&p, 0, sizeof p);
        p.threads = deep[i].threads;
        memset(got, 0xff, size);
        CHECK(!llm_pool_create(&pool, &p) &&
                  evaluate_deep(s, pool, deep[i].piece, deep[i].budget, deep[i].other, got),
              "%s, deep %u: an error", s->name, (unsigned)i);
        CHECK(!memcmp(want, got, size), "%s, deep %u: other bits", s->name, (unsigned)i);
        llm_pool_destroy(pool);
    }
    free(want), free(got);
}

/* ---- models ---- */

static void test_model(const char *name, const char *type, llm_kv kv, bool every_way) {
    const way reference = {"reference", "scalar", 0, NULL, CHUNK_ONE, 0, 0};
    llm_model *model = fixture_open(name, type);
    setup s;
    size_t i, size;
    memset(&s, 0, sizeof s);
    s.model = model, s.vocab = fixture_vocab(model), s.kv = kv;
    (void)snprintf(s.name, sizeof s.name, "%s %s kv %s", name, type,
                   kv == LLM_KV_Q8 ? "q8" : kv == LLM_KV_F16 ? "f16" : "q4");
    fixture_ids(name, s.ids);
    for (i = FIXTURE_TOKENS; i < TOKENS; i++) s.ids[i] = s.ids[(i * 7) % FIXTURE_TOKENS];
    size = (size_t)TOKENS * s.vocab * sizeof(float);
    s.want = (float *)malloc(size);
    s.got = (float *)malloc(size);
    random_state = 1;
    CHECK(run_alone(&s, &reference, NULL), "%s: the reference", s.name);
    memcpy(s.want, s.got, size);
    for (i = 0; i < sizeof ways / sizeof *ways; i++)
        if (every_way || (i > 0 && i < 4) || i == 11) run(&s, &ways[i]);
    test_fork(&s, 40), test_fork(&s, 64);
    test_rewind(&s);
    if (every_way) test_deep(&s);
    free(s.want), free(s.got);
    llm_model_close(model);
}

int main(int count, char **arguments) {
    static const char *const types[] = {"q8", "q4", "auto", "f32", "bf16", "q6", "q5", "q3", "q2", "mixed"};
    size_t i, t;
    fixture_arguments(count, arguments);
    for (i = 0; i < FIXTURES; i++)
        for (t = 0; t < sizeof types / sizeof *types; t++) {
            test_model(fixture_names[i], types[t], LLM_KV_Q8, t < 2);
            if (t == 0 || t == 3) test_model(fixture_names[i], types[t], LLM_KV_F16, t == 0);
            if (t == 1) test_model(fixture_names[i], types[t], LLM_KV_Q4, true);
        }
    if (!llm_isa_name(1)) SKIP("only \"%s\" runs on this machine", llm_isa_name(0));
    return check_report("bits");
}
