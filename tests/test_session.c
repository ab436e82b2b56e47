/* Sessions, batches and pools: memory, limits, refusals, cancelling, several threads at once. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What the library takes from the system, seen and made to fail. */
static unsigned mallocs, threads_left = ~0u;
static void *counted_malloc(size_t size) {
    __atomic_fetch_add(&mallocs, 1, __ATOMIC_RELAXED);
    return malloc(size);
}
#if defined(_WIN32)
#include <windows.h>
#define CreateThread(...) (threads_left-- ? CreateThread(__VA_ARGS__) : NULL)
#else
static bool no_mutex;
static int limited_mutex(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    return no_mutex ? 12 : pthread_mutex_init(mutex, attributes);
}
static int limited_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data) {
    return threads_left-- ? pthread_create(thread, attributes, start, data) : 11;
}
#define pthread_create limited_thread
#define pthread_mutex_init limited_mutex
#endif
#define malloc counted_malloc
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#undef malloc
#undef pthread_create
#undef pthread_mutex_init
#include "check.h"
#include "fixture.h"

#define TOKENS 96u
static llm_model *model;      /* llama-tied, q8 */
static uint32_t vocab;
static int32_t ids[TOKENS];
static llm_kv cache; /* of plain sessions */
static float *want; /* [TOKENS][vocab] the right logits */

/* ---- an allocator that counts ---- */

typedef struct counter {
    unsigned calls, fail_at; /* fails from call number fail_at on; 0: never */
    size_t asked, live;
    unsigned blocks; /* not yet released */
    bool wrong;      /* a size, an alignment */
} counter;

static void *count_allocate(void *user, size_t size, size_t align) {
    counter *c = (counter *)user;
    void *memory = NULL;
    c->calls++;
    if (c->fail_at && c->calls >= c->fail_at) return NULL;
    if (!size || !align || align > 64 || (align & (align - 1))) c->wrong = true;
    if (posix_memalign(&memory, 64, size + 64)) return NULL;
    memcpy(memory, &size, sizeof size); /* to hold against the size at release */
    c->asked += size, c->live += size, c->blocks++;
    return (char *)memory + 64;
}
static void count_release(void *user, void *memory, size_t size) {
    counter *c = (counter *)user;
    size_t asked;
    memcpy(&asked, (char *)memory - 64, sizeof asked);
    if (asked != size) c->wrong = true;
    c->live -= size, c->blocks--;
    free((char *)memory - 64);
}
static llm_allocator counting(counter *c) {
    llm_allocator a;
    memset(c, 0, sizeof *c);
    a.allocate = count_allocate, a.release = count_release, a.user = c;
    return a;
}

/* ---- helpers ---- */

static llm_session_desc plain(void) {
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = model, d.context = TOKENS, d.rows = 32, d.logits = 32, d.kv = cache;
    return d;
}

static llm_session *session_of(const llm_session_desc *desc) {
    llm_session_desc d = *desc;
    llm_session *s = NULL;
    llm_error error;
    d.error = &error;
    if (llm_session_create(&s, &d)) {
        printf("FAIL a session: %s\n", error.text);
        exit(1);
    }
    return s;
}

static bool right(const llm_session *s, uint32_t back) {
    const float *logits = llm_session_logits(s, back);
    return logits && !memcmp(logits, want + (size_t)(llm_session_position(s) - 1 - back) * vocab, vocab * sizeof(float));
}

static void expect(llm_result got, llm_result wanted, const llm_error *error, const char *message, int line) {
    CHECK(got == wanted && !strcmp(error->text, message), "line %d: %s \"%s\",\n    expected %s \"%s\"", line,
          llm_result_name(got), error->text, llm_result_name(wanted), message);
    CHECK(error->code == wanted, "line %d: the error says %s", line, llm_result_name(error->code));
}
#define EXPECT(call, result, error, message) expect(call, result, error, message, __LINE__)

static void prepare(void) {
    llm_session_desc d = plain();
    llm_session *s = session_of(&d);
    uint32_t i;
    fixture_ids("llama-tied", ids);
    for (i = FIXTURE_TOKENS; i < TOKENS; i++) ids[i] = ids[(i * 7) % FIXTURE_TOKENS];
    want = (float *)malloc((size_t)TOKENS * vocab * sizeof(float));
    for (i = 0; i < TOKENS; i++) {
        if (llm_eval(s, &ids[i], 1)) exit(1);
        memcpy(want + (size_t)i * vocab, llm_session_logits(s, 0), vocab * sizeof(float));
    }
    llm_session_destroy(s);
}

/* ---- memory ---- */

static void test_query(void) {
    static const uint32_t contexts[] = {1, 64, 65, 300}, rows[] = {1, 7, 128};
    counter c;
    llm_session_desc d, resolved;
    llm_session *s;
    size_t bytes, i, j;
    int kv, variant;
    for (i = 0; i < 4; i++)
        for (j = 0; j < 3; j++)
            for (kv = 0; kv < LLM_KV_COUNT; kv++)
                for (variant = 0; variant < 4; variant++) {
                    d = plain();
                    d.allocator = counting(&c);
                    d.context = contexts[i], d.rows = rows[j], d.kv = (llm_kv)kv;
                    d.logits = variant & 1 ? rows[j] : 0;
                    d.batch_only = (variant & 2) != 0, d.spare = variant == 3 ? 100 : 0;
                    CHECK(!llm_session_query(&d, NULL, &bytes) && !c.calls, "a query that allocates");
                    CHECK(!llm_session_create(&s, &d), "context %u", (unsigned)contexts[i]);
                    CHECK(c.calls == 1 && c.asked == bytes, "%u calls for %zu bytes, the query said %zu", c.calls, c.asked, bytes);
                    llm_session_destroy(s);
                    CHECK(!c.blocks && !c.live && !c.wrong, "%u blocks left", c.blocks);
                }
    memset(&d, 0, sizeof d);
    d.model = model;
    CHECK(!llm_session_query(&d, &resolved, NULL), "the defaults");
    CHECK(resolved.context == 256 && resolved.rows == 128 && resolved.logits == 1, "%u %u %u",
          resolved.context, resolved.rows, resolved.logits);
}

static void test_batch_query(void) {
    static const uint32_t rows[] = {0, 1, 16, 300};
    counter c;
    llm_batch_desc d, resolved;
    llm_batch *b;
    size_t bytes, i;
    int kv;
    for (i = 0; i < 4; i++)
        for (kv = 0; kv < LLM_KV_COUNT; kv++) {
            memset(&d, 0, sizeof d);
            d.model = model, d.rows = rows[i], d.kv = (llm_kv)kv, d.allocator = counting(&c);
            CHECK(!llm_batch_query(&d, &resolved, &bytes) && !c.calls, "a query that allocates");
            CHECK(resolved.rows == (rows[i] ? rows[i] : 128), "%u", resolved.rows);
            CHECK(resolved.logits == (resolved.rows < 16 ? resolved.rows : 16), "%u", resolved.logits);
            CHECK(!llm_batch_create(&b, &d), "rows %u", rows[i]);
            CHECK(c.calls == 1 && c.asked == bytes, "%u calls for %zu bytes, the query said %zu", c.calls, c.asked, bytes);
            llm_batch_destroy(b);
            CHECK(!c.blocks && !c.live && !c.wrong, "%u blocks left", c.blocks);
        }
}

/* 1,000 tokens, in pieces, with a pool and in a batch: nothing is allocated, by nobody. */
static void test_no_allocation(void) {
    counter c, pc, bc;
    llm_session_desc d = plain();
    llm_pool_desc p;
    llm_batch_desc bd;
    llm_pool *pool;
    llm_batch *batch;
    llm_session *s;
    unsigned before;
    uint32_t i, n;
    memset(&p, 0, sizeof p), memset(&bd, 0, sizeof bd);
    p.threads = 2, p.allocator = counting(&pc);
    CHECK(!llm_pool_create(&pool, &p), "a pool");
    d.context = 1000, d.allocator = counting(&c), d.pool = pool;
    bd.model = model, bd.pool = pool, bd.kv = cache, bd.allocator = counting(&bc);
    CHECK(!llm_session_create(&s, &d) && !llm_batch_create(&batch, &bd), "a session and a batch");
    before = mallocs;
    for (i = 0; i < 500; i += n) {
        n = i % 3 ? 1 : 12 < 500 - i ? 12 : 500 - i;
        CHECK(!llm_eval(s, ids + i % 48, n), "%s", llm_session_error(s)->text);
    }
    for (; i < 1000; i += n) {
        n = i % 3 ? 1 : 12 < 1000 - i ? 12 : 1000 - i;
        CHECK(!llm_batch_add(batch, s, ids + i % 48, n, 1) && !llm_batch_step(batch, 0), "%s", llm_batch_error(batch)->text);
    }
    CHECK(llm_session_position(s) == 1000, "at %u", (unsigned)llm_session_position(s));
    CHECK(c.calls == 1 && bc.calls == 1 && pc.calls == 1, "%u, %u and %u allocations", c.calls, bc.calls, pc.calls);
    CHECK(mallocs == before, "%u calls of malloc", mallocs - before);
    llm_session_destroy(s);
    llm_batch_destroy(batch);
    llm_pool_destroy(pool);
    CHECK(!c.blocks && !bc.blocks && !pc.blocks && !c.wrong && !bc.wrong && !pc.wrong, "blocks left");
}

/* Whatever allocation fails, the result says so, the object is NULL and nothing is lost. */
static void test_no_memory(void) {
    unsigned n, what;
    char message[80];
    for (what = 0; what < 5; what++)
        for (n = 1; n < 10; n++) {
            counter c;
            llm_error error;
            llm_allocator a = counting(&c);
            llm_session_desc sd = plain();
            llm_result r = LLM_OK;
            void *object = &c;
            memset(&error, 0, sizeof error);
            c.fail_at = n;
            sd.allocator = a, sd.error = &error;
            if (what == 0) {
                llm_model_desc d;
                llm_model *m = (llm_model *)object;
                memset(&d, 0, sizeof d);
                d.path = fixture_model_path("llama-tied", "q8"), d.allocator = a, d.error = &error;
                r = llm_model_open(&m, &d);
                object = m;
                if (!r) llm_model_close(m);
            } else if (what == 1) {
                llm_session *s = (llm_session *)object;
                r = llm_session_create(&s, &sd);
                object = s;
                if (!r) llm_session_destroy(s);
            } else if (what == 2) {
                llm_batch_desc d;
                llm_batch *b = (llm_batch *)object;
                memset(&d, 0, sizeof d);
                d.model = model, d.allocator = a, d.error = &error;
                r = llm_batch_create(&b, &d);
                object = b;
                if (!r) llm_batch_destroy(b);
            } else if (what == 3) {
                llm_pool_desc d;
                llm_pool *p = (llm_pool *)object;
                memset(&d, 0, sizeof d);
                d.threads = 3, d.allocator = a, d.error = &error;
                r = llm_pool_create(&p, &d);
                object = p;
                if (!r) llm_pool_destroy(p);
            } else {
                llm_session *s = NULL, *child = (llm_session *)object;
                c.fail_at = n + 1;
                if (llm_session_create(&s, &sd) || llm_eval(s, ids, 3)) exit(1);
                r = llm_session_fork(&child, s);
                object = child;
                error = *llm_session_error(s);
                CHECK(!llm_eval(s, ids + 3, 1) && right(s, 0), "a session after a fork without memory");
                llm_session_destroy(child);
                llm_session_destroy(s);
            }
            CHECK(!c.blocks && !c.live && !c.wrong, "object %u, allocation %u: %u blocks left", what, n, c.blocks);
            if (r == LLM_OK) {
                CHECK(n > 1, "object %u needs no memory", what);
                break;
            }
            CHECK(r == LLM_ERROR_MEMORY && error.code == r && !object && strstr(error.text, "no memory for"),
                  "object %u, allocation %u: %s \"%s\"", what, n, llm_result_name(r), error.text);
            if (what < 4) {
                size_t bytes = 0;
                llm_batch_desc bd;
                memset(&bd, 0, sizeof bd);
                bd.model = model;
                if (what == 1) (void)llm_session_query(&sd, NULL, &bytes);
                if (what == 2) (void)llm_batch_query(&bd, NULL, &bytes);
                if (what == 3) bytes = sizeof(llm_pool) + 3 * sizeof(llm__worker);
                (void)snprintf(message, sizeof message,
                               what == 1   ? "session: no memory for %zu bytes"
                               : what == 2 ? "batch: no memory for %zu bytes"
                                           : "pool: no memory for %zu bytes", bytes);
                CHECK(!what || !strcmp(error.text, message), "%s, expected %s", error.text, message);
            }
        }
}

static void test_no_thread(void) {
    counter c;
    llm_pool_desc d;
    llm_pool *pool;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.threads = 4, d.allocator = counting(&c), d.error = &error;
    for (threads_left = 0; threads_left < 3;) {
        unsigned started = threads_left;
        char message[64];
        (void)snprintf(message, sizeof message, "pool: thread %u of 4 did not start", started + 2);
        EXPECT(llm_pool_create(&pool, &d), LLM_ERROR_THREAD, &error, message);
        CHECK(!pool && !c.blocks, "something is left");
        threads_left = started + 1;
    }
    threads_left = ~0u;
#if !defined(_WIN32) /* a critical section is always to be had */
    no_mutex = true;
    EXPECT(llm_pool_create(&pool, &d), LLM_ERROR_THREAD, &error, "pool: no mutex to be had");
    CHECK(!pool && !c.blocks, "something is left");
    no_mutex = false;
#endif
    d.threads = 257;
    EXPECT(llm_pool_create(&pool, &d), LLM_ERROR_ARGUMENT, &error, "pool: threads is 257, not in 0 .. 256");
    d.threads = 0;
    CHECK(!llm_pool_create(&pool, &d) && llm_pool_threads(pool) >= 1, "as many as cores");
    llm_pool_destroy(pool);
    llm_pool_destroy(NULL);
    CHECK(llm_pool_create(NULL, &d) == LLM_ERROR_ARGUMENT && llm_pool_create(&pool, NULL) == LLM_ERROR_ARGUMENT, "NULL");
}

/* ---- refusals ---- */

/* A descriptor and what is wrong with it: the query and the creation say the same. */
static void refuse_session(const llm_session_desc *given, llm_result code, const char *message) {
    llm_session_desc d = *given;
    llm_session *s = (llm_session *)(void *)&d; /* must be overwritten */
    llm_error error;
    d.error = &error;
    EXPECT(llm_session_query(&d, NULL, NULL), code, &error, message);
    EXPECT(llm_session_create(&s, &d), code, &error, message);
    CHECK(!s, "a session from a failure");
    d.error = NULL;
    CHECK(llm_session_create(&s, &d) == code && !s, "without an error to fill in");
}

static void refuse_batch(const llm_batch_desc *given, llm_result code, const char *message) {
    llm_batch_desc d = *given;
    llm_batch *b = (llm_batch *)(void *)&d;
    llm_error error;
    d.error = &error;
    EXPECT(llm_batch_query(&d, NULL, NULL), code, &error, message);
    EXPECT(llm_batch_create(&b, &d), code, &error, message);
    CHECK(!b, "a batch from a failure");
    d.error = NULL;
    CHECK(llm_batch_create(&b, &d) == code && !b, "without an error to fill in");
}

static void test_arguments(void) {
    llm_session_desc d;
    llm_batch_desc b;
    char message[128];
#define BAD_SESSION(field, value, code, message) \
    (d = plain(), d.field = value, refuse_session(&d, code, message))
#define BAD_BATCH(field, value, code, message) \
    (memset(&b, 0, sizeof b), b.model = model, b.rows = 9, b.field = value, refuse_batch(&b, code, message))
    (void)snprintf(message, sizeof message, "isa: \"pentium\" is none of this machine's, of which %s is the best",
                   llm_isa_name(0));
    BAD_SESSION(model, NULL, LLM_ERROR_ARGUMENT, "session: model is NULL");
    BAD_SESSION(rows, 1025, LLM_ERROR_ARGUMENT, "session: rows is 1025, not in 0 .. 1024");
    BAD_SESSION(rows, ~0u, LLM_ERROR_ARGUMENT, "session: rows is 4294967295, not in 0 .. 1024");
    BAD_SESSION(logits, 33, LLM_ERROR_ARGUMENT, "session: logits is 33, not in 0 .. rows, 32");
    BAD_SESSION(kv, (llm_kv)3, LLM_ERROR_ARGUMENT, "session: kv is 3, not in 0 .. 2");
    BAD_SESSION(context, (1u << 24) + 1, LLM_ERROR_ARGUMENT, "session: context is 16777217, not in 0 .. 16777216");
    BAD_SESSION(spare, ~0u, LLM_ERROR_ARGUMENT, "session: spare is 4294967295, not in 0 .. 16777216");
    BAD_SESSION(isa, "pentium", LLM_ERROR_UNSUPPORTED, message);
    BAD_BATCH(model, NULL, LLM_ERROR_ARGUMENT, "batch: model is NULL");
    BAD_BATCH(rows, 1025, LLM_ERROR_ARGUMENT, "batch: rows is 1025, not in 0 .. 1024");
    BAD_BATCH(logits, 10, LLM_ERROR_ARGUMENT, "batch: logits is 10, not in 0 .. rows, 9");
    BAD_BATCH(kv, (llm_kv)~0u, LLM_ERROR_ARGUMENT, "batch: kv is -1, not in 0 .. 2");
    BAD_BATCH(isa, "pentium", LLM_ERROR_UNSUPPORTED, message);
#undef BAD_SESSION
#undef BAD_BATCH
}

/* A description whose sizes pass what can be addressed: found by the query, before anything is asked
   for. No file can say this much, as its tensors would have to be there. */
static void test_address_space(void) {
    llm__file_desc huge;
    llm_model immense;
    llm_session_desc d;
    llm_batch_desc b;
    memset(&immense, 0, sizeof immense), memset(&b, 0, sizeof b), memset(&d, 0, sizeof d);
    huge = *model->desc;
    huge.layers = huge.heads = huge.kv_heads = huge.head_size = huge.value_size = ~0u / 2;
    huge.width = huge.ffn = huge.vocab = ~0u / 2;
    immense.desc = &huge;
    d.model = b.model = &immense, d.context = 1u << 24, d.batch_only = true;
    refuse_session(&d, LLM_ERROR_MEMORY, "session: its size passes that of the address space");
    b.rows = b.logits = 1024;
    refuse_batch(&b, LLM_ERROR_MEMORY, "batch: its size passes that of the address space");
}

/* Functions without an object: a refusal, or nothing. */
static void test_null(void) {
    llm_session_desc sd = plain();
    llm_batch_desc bd;
    llm_pool_desc pd;
    llm_session *s = session_of(&sd), *none = s;
    llm_batch *b = NULL;
    llm_pool *p = NULL;
    memset(&bd, 0, sizeof bd), memset(&pd, 0, sizeof pd);
#define REFUSED(call) CHECK((call) == LLM_ERROR_ARGUMENT, "%s", #call)
    REFUSED(llm_session_query(NULL, NULL, NULL));
    REFUSED(llm_session_create(NULL, &sd));
    REFUSED(llm_session_create(&none, NULL));
    CHECK(!none, "a session from a failure");
    REFUSED(llm_session_fork(NULL, s));
    REFUSED(llm_session_fork(&none, NULL));
    REFUSED(llm_session_feed(NULL, ids, 1));
    REFUSED(llm_step(NULL, 0));
    REFUSED(llm_eval(NULL, ids, 1));
    REFUSED(llm_session_rewind(NULL, 0));
    REFUSED(llm_batch_query(NULL, NULL, NULL));
    REFUSED(llm_batch_create(NULL, &bd));
    REFUSED(llm_batch_create(&b, NULL));
    REFUSED(llm_batch_add(NULL, s, ids, 1, 1));
    REFUSED(llm_batch_step(NULL, 0));
    REFUSED(llm_pool_create(NULL, &pd));
    REFUSED(llm_pool_create(&p, NULL));
#undef REFUSED
    llm_session_destroy(s);
    llm_session_destroy(NULL), llm_batch_destroy(NULL), llm_pool_destroy(NULL);
    llm_session_cancel(NULL), llm_batch_cancel(NULL);
    CHECK(!llm_session_logits(NULL, 0) && !llm_session_position(NULL) && !llm_session_context(NULL), "of no session");
    CHECK(!llm_session_tokens(NULL) && !llm_session_model(NULL) && !*llm_session_isa(NULL), "of no session");
    CHECK(!llm_batch_logits(NULL, NULL, 0) && llm_pool_threads(NULL) == 1, "of no batch, of no pool");
    CHECK(llm_session_error(NULL)->code == LLM_ERROR_ARGUMENT && !strcmp(llm_session_error(NULL)->text, "session is NULL"), "its error");
    CHECK(llm_batch_error(NULL)->code == LLM_ERROR_ARGUMENT && !strcmp(llm_batch_error(NULL)->text, "batch is NULL"), "its error");
    CHECK(!llm_isa_name(~0u), "an instruction set");
}

static void test_isa(void) {
    uint32_t i;
    for (i = 0; llm_isa_name(i); i++) {
        llm_session_desc d = plain();
        llm_session *s;
        d.isa = llm_isa_name(i);
        s = session_of(&d);
        CHECK(!strcmp(llm_session_isa(s), llm_isa_name(i)), "%s", llm_session_isa(s));
        llm_session_destroy(s);
        if (i == 0) {
            d.isa = NULL;
            s = session_of(&d);
            CHECK(!strcmp(llm_session_isa(s), llm_isa_name(0)), "%s is not the best", llm_session_isa(s));
            llm_session_destroy(s);
            { /* the name that the host gave may be gone */
                char *name = strdup("scalar");
                llm_session *child;
                d.isa = name;
                s = session_of(&d);
                memset(name, 'x', 6);
                free(name);
                CHECK(!llm_session_fork(&child, s) && !strcmp(llm_session_isa(child), "scalar"), "%s", llm_session_isa(s));
                llm_session_destroy(s), llm_session_destroy(child);
            }
        }
    }
    CHECK(i > 0 && !strcmp(llm_isa_name(i - 1), "scalar"), "%u instruction sets", (unsigned)i);
}

static void test_feed(void) {
    llm_session_desc d = plain();
    llm_session *s = session_of(&d);
    int32_t bad[] = {1, 2, -1};
    char message[80];
    CHECK(llm_session_logits(s, 0) == NULL && llm_session_position(s) == 0 && llm_session_context(s) == TOKENS, "a new session");
    CHECK(!llm_step(s, 0) && !llm_session_feed(s, NULL, 0), "nothing to do");
    EXPECT(llm_session_feed(s, NULL, 1), LLM_ERROR_ARGUMENT, llm_session_error(s), "feed: tokens is NULL");
    (void)snprintf(message, sizeof message, "feed: token 2 is -1, not in 0 .. %u", vocab - 1);
    EXPECT(llm_session_feed(s, bad, 3), LLM_ERROR_ARGUMENT, llm_session_error(s), message);
    bad[0] = (int32_t)vocab;
    (void)snprintf(message, sizeof message, "feed: token 0 is %u, not in 0 .. %u", vocab, vocab - 1);
    EXPECT(llm_eval(s, bad, 3), LLM_ERROR_ARGUMENT, llm_session_error(s), message);
    CHECK(!llm_step(s, 0) && llm_session_position(s) == 0, "all or nothing");
    CHECK(!llm_eval(s, ids, 5) && right(s, 0) && right(s, 4), "the right logits after refusals");
    CHECK(llm_session_logits(s, 5) == NULL, "there were five");
    CHECK(!memcmp(llm_session_tokens(s), ids, 5 * sizeof *ids) && llm_session_model(s) == model, "its tokens");
    CHECK(!llm_session_feed(s, ids + 5, 2) && llm_session_logits(s, 0) == NULL, "logits after feed");
    CHECK(!llm_session_feed(s, ids + 7, 30) && !llm_step(s, 0) && right(s, 0), "fed twice, more than rows");
    llm_session_destroy(s);
}

/* The last logits are kept however the tokens are cut into evaluations. */
static void test_kept_logits(void) {
    uint32_t n, back;
    for (n = 32; n < 70; n++) {
        llm_session_desc d = plain();
        llm_session *s;
        d.logits = 8;
        s = session_of(&d);
        CHECK(!llm_eval(s, ids, n), "%s", llm_session_error(s)->text);
        for (back = 0; back < 8; back++)
            CHECK(right(s, back), "%u tokens, 32 rows, 8 logits: none for number %u from the end", (unsigned)n, (unsigned)back);
        CHECK(!llm_session_logits(s, 8), "more logits than asked for");
        llm_session_destroy(s);
    }
}

static void test_full(void) {
    llm_session_desc d = plain();
    llm_session *s = session_of(&d);
    uint32_t at;
    CHECK(!llm_eval(s, ids, 90), "%s", llm_session_error(s)->text);
    EXPECT(llm_session_feed(s, ids, 7), LLM_ERROR_CONTEXT_FULL, llm_session_error(s),
           "feed: 7 tokens at position 90 pass the context of 96; rewind, or open a longer session");
    CHECK(right(s, 0), "logits stay after a refusal");
    CHECK(!llm_eval(s, ids + 90, 6) && right(s, 0), "to the last position");
    EXPECT(llm_eval(s, ids, 1), LLM_ERROR_CONTEXT_FULL, llm_session_error(s),
           "feed: 1 tokens at position 96 pass the context of 96; rewind, or open a longer session");
    CHECK(llm_session_feed(s, ids, (size_t)-1) == LLM_ERROR_CONTEXT_FULL, "as many as size_t holds");
    EXPECT(llm_session_rewind(s, 97), LLM_ERROR_ARGUMENT, llm_session_error(s), "rewind: position 97 is past the present one, 96");
    for (at = 95; at > 0; at -= at > 13 ? 13 : at) {
        CHECK(!llm_session_rewind(s, at) && llm_session_position(s) == at, "back to %u", (unsigned)at);
        CHECK(!llm_session_logits(s, 0), "no logits after going back");
        CHECK(!llm_eval(s, ids + at, 1) && right(s, 0), "other bits at %u", (unsigned)at);
    }
    llm_session_destroy(s);
}

/* ---- budgets ---- */

static void test_budget(void) {
    static const uint64_t budgets[] = {1, 50, 100000000};
    llm_session_desc d = plain();
    size_t i;
    for (i = 0; i < 3; i++) {
        llm_session *s;
        unsigned steps = 1;
        llm_result r;
        d.isa = "scalar";
        s = session_of(&d);
        CHECK(!llm_session_feed(s, ids, TOKENS), "%s", llm_session_error(s)->text);
        while ((r = llm_step(s, budgets[i])) == LLM_PENDING && steps < 10000000) steps++;
        CHECK(r == LLM_OK && right(s, 0), "%s after %u steps", llm_result_name(r), steps);
        if (i < 2) CHECK(steps > 2, "96 tokens in %u steps of %u us", steps, (unsigned)budgets[i]);
        llm_session_destroy(s);
    }
}

static void late(void *user, void (*work)(void *context, uint32_t index), void *context, uint32_t count) {
    const struct timespec pause = {0, 200000};
    uint32_t i;
    (void)user;
    (void)nanosleep(&pause, NULL);
    for (i = 0; i < count; i++) work(context, i);
}
static void backwards(void *user, void (*work)(void *context, uint32_t index), void *context, uint32_t count) {
    (void)user;
    while (count--) work(context, count);
}

/* A host that is slow to start lanes: every step still does something. One that starts lane 0 last:
   the budget still holds. */
static void test_budget_of_host(void) {
    static const llm_parallel_for hosts[] = {late, backwards};
    llm_session_desc d = plain();
    llm_pool_desc p;
    size_t i;
    d.isa = "scalar";
    for (i = 0; i < 2; i++) {
        llm_session *s;
        unsigned steps = 1;
        llm_result r;
        memset(&p, 0, sizeof p);
        p.threads = 3, p.parallel_for = hosts[i];
        CHECK(!llm_pool_create(&d.pool, &p), "a pool");
        s = session_of(&d);
        CHECK(!llm_session_feed(s, ids, 32), "%s", llm_session_error(s)->text);
        while ((r = llm_step(s, 50)) == LLM_PENDING && steps < 5000) steps++;
        CHECK(r == LLM_OK && right(s, 0), "host %zu: %s after %u steps", i, llm_result_name(r), steps);
        CHECK(steps > 2, "host %zu: 32 tokens in %u steps of 50 us", i, steps);
        llm_session_destroy(s);
        llm_pool_destroy(d.pool);
    }
}

/* In the middle of an evaluation: what is refused, what is dropped. */
static void test_pending(void) {
    llm_session_desc d = plain();
    llm_session *s, *child;
    d.isa = "scalar";
    s = session_of(&d);
    CHECK(!llm_eval(s, ids, 10) && !llm_session_feed(s, ids + 20, 32), "%s", llm_session_error(s)->text);
    CHECK(llm_step(s, 1) == LLM_PENDING && llm_session_position(s) == 10, "at %u", llm_session_position(s));
    EXPECT(llm_session_fork(&child, s), LLM_ERROR_BUSY, llm_session_error(s), "fork: 32 tokens were fed that are not evaluated");
    CHECK(!child, "a child from a failure");
    CHECK(!llm_session_rewind(s, 10) && !llm_eval(s, ids + 10, 10) && right(s, 0), "what was fed is dropped");
    CHECK(!llm_session_feed(s, ids + 20, 20) && llm_step(s, 1) == LLM_PENDING, "pending");
    CHECK(!llm_session_feed(s, ids + 40, 20) && !llm_step(s, 0) && right(s, 0), "fed while pending");
    CHECK(!llm_session_feed(s, ids, 20) && llm_step(s, 1) == LLM_PENDING, "pending");
    llm_session_destroy(s);
}

/* ---- forks ---- */

static void test_forks(void) {
    static const uint8_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    size_t o, i;
    for (o = 0; o < 6; o++) {
        counter c;
        llm_session_desc d = plain();
        llm_session *s[3];
        d.allocator = counting(&c), d.spare = 192;
        s[0] = session_of(&d);
        CHECK(!llm_eval(s[0], ids, 70) && !llm_session_fork(&s[1], s[0]) && !llm_session_fork(&s[2], s[1]), "forks");
        CHECK(llm_session_position(s[2]) == 70 && !memcmp(llm_session_tokens(s[2]), ids, 70 * sizeof *ids), "of the same past");
        CHECK(!llm_eval(s[1], ids + 1, 5) && !llm_session_rewind(s[1], 66), "one takes another way");
        for (i = 0; i < 3; i++) {
            size_t j;
            for (j = i; j < 3; j++) {
                llm_session *t = s[orders[o][j]];
                uint32_t at = llm_session_position(t);
                CHECK(!llm_eval(t, ids + at, 3) && right(t, 0) && right(t, 2), "order %zu: %s", o, llm_session_error(t)->text);
            }
            llm_session_destroy(s[orders[o][i]]);
        }
        CHECK(!c.blocks && !c.wrong, "order %zu: %u blocks left", o, c.blocks);
    }
}

/* Without spare pages a fork can stand but not diverge, and says so; when the other goes, it can. */
static void test_fork_without_pages(void) {
    llm_session_desc d = plain();
    llm_session *s = session_of(&d), *child;
    CHECK(!llm_eval(s, ids, 70) && !llm_session_fork(&child, s), "%s", llm_session_error(s)->text);
    EXPECT(llm_session_feed(child, ids + 70, 1), LLM_ERROR_CONTEXT_FULL, llm_session_error(child),
           "feed: no page left for 1 tokens at position 70; forks share 2 pages");
    CHECK(!llm_session_rewind(s, 0), "the parent gives its share back");
    CHECK(!llm_eval(child, ids + 70, 10) && right(child, 0), "%s", llm_session_error(child)->text);
    llm_session_destroy(s);
    CHECK(!llm_eval(child, ids + 80, 10) && right(child, 0), "%s", llm_session_error(child)->text);
    llm_session_destroy(child);
}

/* ---- batches ---- */

static void test_batch(void) {
    llm_session_desc d = plain();
    llm_batch_desc bd;
    llm_batch *b, *b2;
    llm_session *s, *t;
    memset(&bd, 0, sizeof bd);
    bd.model = model, bd.rows = 16, bd.logits = 4;
    CHECK(!llm_batch_create(&b, &bd) && !llm_batch_create(&b2, &bd), "two batches");
    s = session_of(&d);
    d.batch_only = true;
    t = session_of(&d);
    CHECK(!llm_batch_step(b, 0) && !llm_batch_logits(b, s, 0), "an empty batch");
    EXPECT(llm_batch_add(b, NULL, ids, 1, 1), LLM_ERROR_ARGUMENT, llm_batch_error(b), "add: session is NULL");
    {
        llm_model *twin = fixture_open("llama-tied", "q8");
        llm_session_desc od = plain();
        llm_session *other;
        od.model = twin;
        other = session_of(&od);
        EXPECT(llm_batch_add(b, other, ids, 1, 1), LLM_ERROR_ARGUMENT, llm_batch_error(b), "add: the session is of another model");
        llm_session_destroy(other), llm_model_close(twin);
        od.model = model, od.kv = LLM_KV_F16;
        other = session_of(&od);
        EXPECT(llm_batch_add(b, other, ids, 1, 1), LLM_ERROR_ARGUMENT, llm_batch_error(b), "add: the session's kv is 1, the batch's 0");
        llm_session_destroy(other);
    }
    EXPECT(llm_batch_add(b, s, ids, 0, 0), LLM_ERROR_ARGUMENT, llm_batch_error(b), "add: count is 0, not 1 or more");
    EXPECT(llm_batch_add(b, s, ids, 2, 3), LLM_ERROR_ARGUMENT, llm_batch_error(b), "add: logits is 3, not in 0 .. count, 2");
    EXPECT(llm_batch_add(b, s, NULL, 2, 1), LLM_ERROR_ARGUMENT, llm_batch_error(b), "feed: tokens is NULL");
    EXPECT(llm_batch_add(b, s, ids, 17, 1), LLM_ERROR_LIMIT, llm_batch_error(b), "add: 17 rows and 1 logits do not fit; 16 and 4 are free");
    CHECK(!llm_batch_add(b, s, ids, 10, 3), "%s", llm_batch_error(b)->text);
    EXPECT(llm_batch_add(b, s, ids, 1, 1), LLM_ERROR_BUSY, llm_batch_error(b), "add: the session has an evaluation that is not done");
    EXPECT(llm_batch_add(b2, s, ids, 1, 1), LLM_ERROR_BUSY, llm_batch_error(b2), "add: the session has an evaluation that is not done");
    EXPECT(llm_batch_add(b, t, ids, 7, 1), LLM_ERROR_LIMIT, llm_batch_error(b), "add: 7 rows and 1 logits do not fit; 6 and 1 are free");
    EXPECT(llm_batch_add(b, t, ids, 2, 2), LLM_ERROR_LIMIT, llm_batch_error(b), "add: 2 rows and 2 logits do not fit; 6 and 1 are free");
    CHECK(!llm_batch_add(b, t, ids, 6, 1), "%s", llm_batch_error(b)->text);
    EXPECT(llm_session_feed(s, ids, 1), LLM_ERROR_BUSY, llm_session_error(s), "feed: the session takes part in a batch");
    EXPECT(llm_step(s, 0), LLM_ERROR_BUSY, llm_session_error(s), "step: the session takes part in a batch");
    EXPECT(llm_session_rewind(s, 0), LLM_ERROR_BUSY, llm_session_error(s), "rewind: the session takes part in a batch");
    EXPECT(llm_session_feed(t, ids, 1), LLM_ERROR_ARGUMENT, llm_session_error(t), "feed: the session is batch_only; add it to a batch");
    EXPECT(llm_step(t, 0), LLM_ERROR_ARGUMENT, llm_session_error(t), "step: the session is batch_only; step its batch");
    CHECK(!llm_batch_logits(b, s, 0), "logits before the evaluation");
    CHECK(!llm_batch_step(b, 0) && !llm_batch_step(b, 0), "%s", llm_batch_error(b)->text);
    CHECK(llm_session_position(s) == 10 && llm_session_position(t) == 6, "%u %u", llm_session_position(s), llm_session_position(t));
    CHECK(llm_batch_logits(b, s, 2) && !memcmp(llm_batch_logits(b, s, 2), want + 7 * vocab, vocab * 4), "logits of s");
    CHECK(llm_batch_logits(b, t, 0) && !memcmp(llm_batch_logits(b, t, 0), want + 5 * vocab, vocab * 4), "logits of t");
    CHECK(!llm_batch_logits(b, s, 3) && !llm_batch_logits(b, t, 1), "logits that were not asked for");
    CHECK(!llm_eval(s, ids + 10, 5) && right(s, 0), "alone after a batch");
    CHECK(!llm_batch_add(b, s, ids + 15, 1, 1) && !llm_batch_add(b2, t, ids + 6, 1, 1), "two at once");
    CHECK(!llm_batch_step(b, 0) && !llm_batch_step(b2, 0), "two at once");
    CHECK(!memcmp(llm_batch_logits(b, s, 0), want + 15 * vocab, vocab * 4) && !memcmp(llm_batch_logits(b2, t, 0), want + 6 * vocab, vocab * 4), "two at once");
    CHECK(!llm_batch_add(b, s, ids + 16, 1, 1) && !llm_batch_add(b, t, ids + 7, 2, 1), "%s", llm_batch_error(b)->text);
    llm_session_destroy(t);
    CHECK(!llm_batch_step(b, 0), "a batch that lost a session");
    CHECK(llm_session_position(s) == 16 || llm_session_position(s) == 17, "at %u", llm_session_position(s));
    CHECK(llm_session_rewind(s, 16) == LLM_OK && !llm_batch_add(b, s, ids + 16, 1, 1), "%s", llm_batch_error(b)->text);
    llm_batch_destroy(b);
    CHECK(!llm_eval(s, ids + 16, 1) && right(s, 0), "after its batch is gone: %s", llm_session_error(s)->text);
    CHECK(llm_session_position(s) == 17, "at %u", llm_session_position(s));
    llm_batch_destroy(b2);
    llm_session_destroy(s);
}

static void test_batch_pending(void) {
    llm_session_desc d = plain();
    llm_batch_desc bd;
    llm_batch *b;
    llm_session *s, *t;
    llm_result r;
    memset(&bd, 0, sizeof bd);
    bd.model = model, bd.isa = "scalar";
    CHECK(!llm_batch_create(&b, &bd), "a batch");
    s = session_of(&d), t = session_of(&d);
    CHECK(!llm_batch_add(b, s, ids, 60, 1) && llm_batch_step(b, 1) == LLM_PENDING, "pending");
    EXPECT(llm_batch_add(b, t, ids, 1, 1), LLM_ERROR_BUSY, llm_batch_error(b), "add: an evaluation runs; step until it is done");
    while ((r = llm_batch_step(b, 50)) == LLM_PENDING) continue;
    CHECK(!r && llm_batch_logits(b, s, 0) && !memcmp(llm_batch_logits(b, s, 0), want + 59 * vocab, vocab * 4), "%s", llm_result_name(r));
    CHECK(!llm_batch_add(b, s, ids + 60, 10, 1) && llm_batch_step(b, 1) == LLM_PENDING, "pending");
    llm_batch_cancel(b);
    EXPECT(llm_batch_step(b, 0), LLM_CANCELLED, llm_batch_error(b), "step: cancelled; 1 sessions are where they were");
    CHECK(llm_session_position(s) == 60, "cancelled");
    CHECK(!llm_batch_add(b, s, ids + 60, 10, 1) && !llm_batch_step(b, 0), "again: %s", llm_batch_error(b)->text);
    CHECK(!memcmp(llm_batch_logits(b, s, 0), want + 69 * vocab, vocab * 4), "the same bits after cancelling");
    EXPECT(llm_batch_add(b, s, ids, 27, 1), LLM_ERROR_CONTEXT_FULL, llm_batch_error(b),
           "feed: 27 tokens at position 70 pass the context of 96; rewind, or open a longer session");
    CHECK(!llm_batch_add(b, s, ids + 70, 1, 1) && !llm_batch_step(b, 0), "after the refusal: %s", llm_batch_error(b)->text);
    llm_session_destroy(s), llm_session_destroy(t);
    llm_batch_destroy(b);
}

/* ---- threads ---- */

static void test_cancel(void) {
    llm_session_desc d = plain();
    llm_session *s = session_of(&d);
    CHECK(!llm_session_feed(s, ids, 40), "%s", llm_session_error(s)->text);
    llm_session_cancel(s);
    EXPECT(llm_step(s, 0), LLM_CANCELLED, llm_session_error(s), "step: cancelled at position 0");
    CHECK(!llm_step(s, 0) && llm_session_position(s) == 0, "nothing is left of it");
    CHECK(!llm_eval(s, ids, 40) && right(s, 0), "the next evaluation is right");
    llm_session_destroy(s);
}

typedef struct canceller {
    llm_session *session;
    uint32_t quit;
} canceller;

static void *keep_cancelling(void *data) {
    canceller *c = (canceller *)data;
    struct timespec pause = {0, 300000};
    while (!llm__load32(&c->quit)) {
        llm_session_cancel(c->session);
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

static void test_cancel_from_outside(void) {
    llm_session_desc d = plain();
    llm_pool_desc p;
    canceller c;
    pthread_t thread;
    unsigned i, cancelled = 0, done = 0;
    memset(&p, 0, sizeof p);
    p.threads = 2;
    if (llm_pool_create(&d.pool, &p)) exit(1);
    c.quit = 0, c.session = session_of(&d);
    if (pthread_create(&thread, NULL, keep_cancelling, &c)) exit(1);
    for (i = 0; i < 200; i++) {
        uint32_t at = llm_session_position(c.session), n = 1 + i % 20;
        llm_result r;
        if (at + n > TOKENS) at = 0, (void)llm_session_rewind(c.session, 0);
        r = llm_eval(c.session, ids + at, n);
        CHECK(r == LLM_OK || r == LLM_CANCELLED, "%s", llm_result_name(r));
        CHECK(llm_session_position(c.session) == (r ? at : at + n), "at %u", llm_session_position(c.session));
        if (!r) CHECK(right(c.session, 0), "other bits between two cancellations");
        if (r) cancelled++;
        else done++;
    }
    llm__store32(&c.quit, 1);
    pthread_join(thread, NULL);
    CHECK(cancelled > 0, "%u cancelled, %u done", cancelled, done);
    llm_session_destroy(c.session);
    llm_pool_destroy(d.pool);
}

typedef struct user {
    llm_session *session;
    unsigned wrong;
} user;

static void *use(void *data) {
    user *u = (user *)data;
    unsigned i;
    for (i = 0; i < 40; i++) {
        uint32_t at = llm_session_position(u->session), n = 1 + i % 5;
        llm_result r = LLM_OK;
        if (at + n > TOKENS) at = 30, r = llm_session_rewind(u->session, 30);
        if (!r) r = llm_session_feed(u->session, ids + at, n);
        while (!r && (r = llm_step(u->session, i % 3 ? 0 : 50)) == LLM_PENDING) r = LLM_OK;
        if (r || !right(u->session, 0)) u->wrong++;
    }
    return NULL;
}

/* Sessions, two of them forks that share pages, on a thread each, with one pool for all. */
static void test_shared_pool(void) {
    llm_session_desc d = plain();
    llm_pool_desc p;
    user users[4];
    pthread_t thread[4];
    size_t i;
    memset(&p, 0, sizeof p), memset(users, 0, sizeof users);
    p.threads = 2;
    if (llm_pool_create(&d.pool, &p)) exit(1);
    d.spare = 300;
    users[0].session = session_of(&d), users[1].session = session_of(&d);
    CHECK(!llm_eval(users[0].session, ids, 33) && !llm_session_fork(&users[2].session, users[0].session) &&
              !llm_session_fork(&users[3].session, users[2].session), "forks");
    for (i = 0; i < 4; i++)
        if (pthread_create(&thread[i], NULL, use, &users[i])) exit(1);
    for (i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    for (i = 0; i < 4; i++) {
        CHECK(!users[i].wrong, "thread %zu: %u of 40 evaluations are wrong", i, users[i].wrong);
        llm_session_destroy(users[i].session);
    }
    llm_pool_destroy(d.pool);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    model = fixture_open("llama-tied", "q8");
    vocab = fixture_vocab(model);
    prepare();
    test_query();
    test_batch_query();
    test_no_allocation();
    test_no_memory();
    test_no_thread();
    test_arguments();
    test_address_space();
    test_null();
    test_isa();
    test_feed();
    test_kept_logits();
    test_full();
    test_budget();
    test_budget_of_host();
    test_pending();
    test_forks();
    test_fork_without_pages();
    test_batch();
    test_batch_pending();
    test_cancel();
    test_cancel_from_outside();
    test_shared_pool();
    free(want);
    cache = LLM_KV_Q4;
    prepare();
    test_no_allocation();
    test_budget();
    test_forks();
    test_fork_without_pages();
    free(want);
    llm_model_close(model);
    return check_report("session");
}
