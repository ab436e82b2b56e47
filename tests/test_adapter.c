/* Adapters at run time: the same bits however they are evaluated, sessions with different ones side by side,
   memory, refusals, files that are cut and changed. That they compute the right thing is tested in
   tests/convert/test_adapter.c, against models into which they were merged. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
static unsigned mallocs;
static void *counted_malloc(size_t size) { return mallocs++, malloc(size); }
#define malloc counted_malloc
#define LLM_NO_TEMPLATE
#define LLM_IMPLEMENTATION
#include "../llm.h"
#undef malloc
#include "adapter.h"
#include "check.h"
#include "fixture.h"

#define ADAPTERS 4u
#define TOKENS FIXTURE_TOKENS

static llm_model *model;
static uint32_t vocab;
static int32_t ids[TOKENS];
static llm_adapter *adapter[ADAPTERS];
static uint8_t *image[ADAPTERS];
static size_t image_size[ADAPTERS];
/* One rounded rank, two panels of A, few matrices, another type. */
static const adapter_spec specs[ADAPTERS] = {{8, LLM_F32, 0, 1, 0.5f},
                                             {24, LLM_BF16, 0, 2, 0.25f},
                                             {16, LLM_BF16, 0x5b, 3, 1.0f}, /* V and up */
                                             {70, LLM_F32, 0x0c, 4, 0.125f}};

static void open_adapters(void) {
    llm_adapter_desc d;
    llm_error error;
    uint32_t i;
    for (i = 0; i < ADAPTERS; i++) {
        image[i] = adapter_image(model, &specs[i], &image_size[i]);
        memset(&d, 0, sizeof d);
        d.model = model, d.data = image[i], d.size = image_size[i], d.verify = true, d.error = &error;
        CHECK(llm_adapter_open(&adapter[i], &d) == LLM_OK, "adapter %u: %s", (unsigned)i, error.text);
    }
}
static void close_adapters(void) {
    uint32_t i;
    for (i = 0; i < ADAPTERS; i++) llm_adapter_close(adapter[i]), free(image[i]);
}

/* Which adapters a session uses. */
typedef struct use {
    uint32_t count, number[3];
    float weight[3];
} use;
static const use uses[] = {{0, {0}, {0}},
                           {1, {0}, {1.0f}},
                           {1, {1}, {-0.5f}},
                           {2, {2, 0}, {0.75f, 0.5f}},
                           {3, {1, 3, 2}, {0.3f, 1.5f, -1.0f}}};
#define USES 5u
#define RANK (32 + 80 + 16)

static void use_adapters(llm_session *s, const use *u) {
    const llm_adapter *list[3];
    uint32_t i;
    for (i = 0; i < u->count; i++) list[i] = adapter[u->number[i]];
    CHECK(llm_session_set_adapters(s, list, u->weight, u->count) == LLM_OK, "%s", llm_session_error(s)->text);
}

static llm_session *make(llm_pool *pool, const char *isa, llm_kv kv, uint32_t rank) {
    llm_session_desc d;
    llm_session *s = NULL;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.context = 2 * TOKENS, d.rows = 32, d.logits = 1, d.kv = kv, d.spare = 256;
    d.isa = isa, d.adapter_rank = rank, d.error = &error;
    if (llm_session_create(&s, &d)) {
        printf("FAIL %s\n", error.text);
        exit(1);
    }
    return s;
}

/* The logits behind each of the tokens, [TOKENS][vocab], evaluated one by one by the scalar kernels. */
static float *reference(const use *u, llm_kv kv) {
    float *want = (float *)malloc((size_t)TOKENS * vocab * sizeof *want);
    llm_session *s = make(NULL, "scalar", kv, u->count ? RANK : 0);
    uint32_t i;
    if (u->count) use_adapters(s, u);
    for (i = 0; i < TOKENS; i++) {
        CHECK(llm_eval(s, &ids[i], 1) == LLM_OK, "%s", llm_session_error(s)->text);
        memcpy(want + (size_t)i * vocab, llm_session_logits(s, 0), vocab * sizeof *want);
    }
    llm_session_destroy(s);
    return want;
}

static bool right(const llm_session *s, const float *want) {
    const float *logits = llm_session_logits(s, 0);
    return logits && !memcmp(logits, want + (size_t)(llm_session_position(s) - 1) * vocab, vocab * sizeof(float));
}

/* ---- the same bits, however evaluated ---- */

static void evaluate_ways(const char *isa, llm_pool *pool, llm_kv kv, const use *u, const float *want, uint32_t ways) {
    static const uint32_t pieces[] = {5, 48, 1, 17};
    llm_session *s = make(pool, isa, kv, RANK);
    uint32_t i, at, n;
    for (i = 0; i < ways; i++) {
        CHECK(llm_session_rewind(s, 0) == LLM_OK, "rewind");
        use_adapters(s, u);
        for (at = 0; at < TOKENS; at += n) {
            n = TOKENS - at < pieces[i] ? TOKENS - at : pieces[i];
            if (i % 2) {
                CHECK(llm_eval(s, ids + at, n) == LLM_OK, "%s", llm_session_error(s)->text);
            } else { /* in many short steps */
                CHECK(llm_session_feed(s, ids + at, n) == LLM_OK, "%s", llm_session_error(s)->text);
                while (llm_step(s, 1) == LLM_PENDING) continue;
            }
            CHECK(right(s, want), "%s, %u threads, kv %d, pieces of %u, at %u", isa, (unsigned)llm_pool_threads(pool),
                  (int)kv, (unsigned)pieces[i], (unsigned)(at + n));
        }
    }
    llm_session_destroy(s);
}

static void backwards(void *user, void (*work)(void *context, uint32_t index), void *context, uint32_t count) {
    (void)user;
    while (count--) work(context, count);
}

static void test_bits(float **want, llm_kv kv, uint32_t ways) {
    llm_pool_desc d;
    llm_pool *pool[3] = {NULL, NULL, NULL};
    uint32_t i, k, n;
    memset(&d, 0, sizeof d);
    d.threads = 3;
    CHECK(llm_pool_create(&pool[1], &d) == LLM_OK, "a pool");
    d.threads = 2, d.parallel_for = backwards;
    CHECK(llm_pool_create(&pool[2], &d) == LLM_OK, "a pool");
    for (i = 0; llm_isa_name(i); i++)
        for (k = 0; k < USES; k++)
            for (n = 0; n < 3; n++)
                if (n == (i + k) % 3 || (k == USES - 1 && ways == 4))
                    evaluate_ways(llm_isa_name(i), pool[n], kv, &uses[k], want[k], ways);
    llm_pool_destroy(pool[1]), llm_pool_destroy(pool[2]);
}

/* Weights of 0, and adapters that were taken away again, are none; and they change something. */
static void test_none(float **want) {
    const float zero[2] = {0.0f, -0.0f};
    const llm_adapter *list[2];
    llm_session *s = make(NULL, NULL, LLM_KV_Q8, 16); /* less than those of weight 0 would need */
    uint32_t k;
    list[0] = adapter[3], list[1] = adapter[1];
    CHECK(llm_session_set_adapters(s, list, zero, 2) == LLM_OK, "%s", llm_session_error(s)->text);
    CHECK(llm_eval(s, ids, 20) == LLM_OK && right(s, want[0]), "adapters of weight 0");
    list[0] = adapter[0];
    CHECK(llm_session_set_adapters(s, list, uses[1].weight, 1) == LLM_OK, "%s", llm_session_error(s)->text);
    CHECK(llm_session_set_adapters(s, NULL, NULL, 0) == LLM_OK, "%s", llm_session_error(s)->text);
    CHECK(llm_eval(s, ids + 20, 28) == LLM_OK && right(s, want[0]), "no adapters any more");
    llm_session_destroy(s);
    for (k = 1; k < USES; k++)
        CHECK(memcmp(want[k], want[0], vocab * sizeof(float)) != 0, "adapters %u change nothing", (unsigned)k);
}

/* ---- sessions side by side ---- */

static llm_batch *make_batch(llm_pool *pool, uint32_t rows, uint32_t rank) {
    llm_batch_desc d;
    llm_batch *b = NULL;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.rows = rows, d.adapter_rank = rank, d.error = &error;
    if (llm_batch_create(&b, &d)) {
        printf("FAIL %s\n", error.text);
        exit(1);
    }
    return b;
}

/* Every session at its own pace; neighbours have the same adapters, or others, or none. */
static void test_batch(float **want, uint32_t threads) {
    enum { SESSIONS = 9 };
    static const uint32_t which[SESSIONS] = {1, 1, 0, 4, 4, 2, 0, 3, 4};
    llm_session *s[SESSIONS];
    llm_pool_desc d;
    llm_pool *pool = NULL;
    llm_batch *b;
    uint32_t i, round, n;
    memset(&d, 0, sizeof d);
    d.threads = threads;
    CHECK(threads == 1 || llm_pool_create(&pool, &d) == LLM_OK, "a pool");
    b = make_batch(pool, 64, RANK);
    for (i = 0; i < SESSIONS; i++) {
        s[i] = make(NULL, NULL, LLM_KV_Q8, RANK);
        use_adapters(s[i], &uses[which[i]]);
    }
    for (round = 0; round < 12; round++) {
        for (i = 0; i < SESSIONS; i++) {
            n = round % 3 == 2 ? 1 : (i + round) % 4;
            if (round == 4 && i == 3) n = 30;
            if (!n || llm_session_position(s[i]) + n > TOKENS) continue;
            CHECK(llm_batch_add(b, s[i], ids + llm_session_position(s[i]), n, 1) == LLM_OK, "%s", llm_batch_error(b)->text);
        }
        while (llm_batch_step(b, round % 2 ? 3 : 0) == LLM_PENDING) continue;
        for (i = 0; i < SESSIONS; i++) {
            const float *logits = llm_batch_logits(b, s[i], 0);
            if (!logits) continue;
            CHECK(!memcmp(logits, want[which[i]] + (size_t)(llm_session_position(s[i]) - 1) * vocab, vocab * sizeof(float)),
                  "round %u, session %u, adapters %u", (unsigned)round, (unsigned)i, (unsigned)which[i]);
        }
    }
    llm_batch_destroy(b);
    for (i = 0; i < SESSIONS; i++) {
        CHECK(llm_session_position(s[i]) > 8, "session %u stands at %u", (unsigned)i,
              (unsigned)llm_session_position(s[i]));
        llm_session_destroy(s[i]);
    }
    llm_pool_destroy(pool);
}

/* A batch of more rows than a kernel takes at once, and a session in two parts of it. */
static void test_many_rows(float **want) {
    enum { SESSIONS = 12 };
    llm_session *s[SESSIONS];
    llm_batch *b = make_batch(NULL, SESSIONS * TOKENS, RANK);
    uint32_t i;
    for (i = 0; i < SESSIONS; i++) {
        s[i] = make(NULL, NULL, LLM_KV_Q8, RANK);
        use_adapters(s[i], &uses[i < 9 ? 4 : i - 9]);
        CHECK(llm_batch_add(b, s[i], ids, TOKENS, 1) == LLM_OK, "%s", llm_batch_error(b)->text);
    }
    CHECK(llm_batch_step(b, 0) == LLM_OK, "%s", llm_batch_error(b)->text);
    for (i = 0; i < SESSIONS; i++)
        CHECK(!memcmp(llm_batch_logits(b, s[i], 0), want[i < 9 ? 4 : i - 9] + (size_t)(TOKENS - 1) * vocab,
                      vocab * sizeof(float)), "session %u of many", (unsigned)i);
    llm_batch_destroy(b);
    for (i = 0; i < SESSIONS; i++) llm_session_destroy(s[i]);
}

/* A switch holds from there on, keys and values of before stay; a fork begins with its parent's. */
static void test_switch_and_fork(float **want) {
    llm_session *s = make(NULL, NULL, LLM_KV_Q8, RANK), *t = make(NULL, NULL, LLM_KV_Q8, RANK), *fork;
    uint32_t i;
    use_adapters(s, &uses[4]), use_adapters(t, &uses[4]);
    CHECK(llm_eval(s, ids, 20) == LLM_OK && right(s, want[4]), "before");
    use_adapters(s, &uses[1]);
    CHECK(right(s, want[4]), "the logits of before are still there");
    CHECK(llm_session_fork(&fork, s) == LLM_OK, "%s", llm_session_error(s)->text);
    CHECK(llm_eval(s, ids + 20, 5) == LLM_OK && llm_eval(fork, ids + 20, 5) == LLM_OK, "after");
    CHECK(!memcmp(llm_session_logits(s, 0), llm_session_logits(fork, 0), vocab * sizeof(float)), "the fork");
    CHECK(!right(s, want[4]) && !right(s, want[1]), "the keys of before are not those of the adapter of now");
    for (i = 0; i < 25; i++) { /* the same, token by token */
        if (i == 20) use_adapters(t, &uses[1]);
        CHECK(llm_eval(t, ids + i, 1) == LLM_OK, "%s", llm_session_error(t)->text);
    }
    CHECK(!memcmp(llm_session_logits(s, 0), llm_session_logits(t, 0), vocab * sizeof(float)), "the switch");
    CHECK(llm_session_rewind(s, 0) == LLM_OK && llm_eval(s, ids, 30) == LLM_OK && right(s, want[1]), "begun anew");
    use_adapters(fork, &uses[0]);
    CHECK(llm_session_rewind(fork, 0) == LLM_OK && llm_eval(fork, ids, 30) == LLM_OK && right(fork, want[0]),
          "a fork without adapters");
    llm_session_destroy(s), llm_session_destroy(t), llm_session_destroy(fork);
}

/* ---- memory ---- */

typedef struct counter {
    size_t asked, calls, fail_at;
    long blocks;
} counter;
static void *count_allocate(void *user, size_t size, size_t align) {
    counter *c = (counter *)user;
    void *memory = NULL;
    (void)align;
    if (++c->calls == c->fail_at || posix_memalign(&memory, 64, size)) return NULL;
    memset(memory, 0xa5, size);
    c->asked += size, c->blocks++;
    return memory;
}
static void count_release(void *user, void *memory, size_t size) {
    counter *c = (counter *)user;
    c->asked -= size, c->blocks--;
    free(memory);
}

static void test_memory(float **want) {
    static const uint32_t ranks[] = {0, 1, 16, RANK, 8192};
    llm_session_desc d, resolved;
    llm_adapter_desc a;
    llm_adapter *opened;
    llm_session *s;
    llm_error error;
    char message[100];
    counter c;
    size_t bytes, i;
    memset(&c, 0, sizeof c), memset(&d, 0, sizeof d), memset(&a, 0, sizeof a);
    d.allocator.allocate = count_allocate, d.allocator.release = count_release, d.allocator.user = &c;
    d.model = model, d.context = 64, d.rows = 32, d.error = &error;
    for (i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        d.adapter_rank = ranks[i];
        CHECK(llm_session_query(&d, &resolved, &bytes) == LLM_OK && resolved.adapter_rank == (ranks[i] + 15) / 16 * 16,
              "%s", error.text);
        CHECK(llm_session_create(&s, &d) == LLM_OK, "%s", error.text);
        CHECK(c.asked == bytes && c.blocks == 1, "rank %u: %zu bytes asked for, the query says %zu", (unsigned)ranks[i],
              c.asked, bytes);
        if (ranks[i] >= RANK) {
            const size_t before = c.calls;
            mallocs = 0;
            use_adapters(s, &uses[4]);
            CHECK(llm_eval(s, ids, 20) == LLM_OK && right(s, want[4]), "%s", llm_session_error(s)->text);
            CHECK(c.calls == before && !mallocs, "evaluating allocates");
        }
        llm_session_destroy(s);
        CHECK(!c.blocks && !c.asked, "%ld blocks left", c.blocks);
    }
    (void)snprintf(message, sizeof message, "adapter: no memory for a directory of %zu bytes",
                   sizeof(llm_adapter) + model->desc->layers * LLM__LOW_COUNT * sizeof(llm__low));
    a.allocator = d.allocator, a.model = model, a.data = image[0], a.size = image_size[0], a.error = &error;
    for (i = 1; i <= 2; i++) {
        c.calls = 0, c.fail_at = i;
        CHECK(llm_adapter_open(&opened, &a) == (i == 1 ? LLM_ERROR_MEMORY : LLM_OK), "allocation %zu", i);
        CHECK(i > 1 || (!opened && !strcmp(error.text, message)), "%s", error.text);
        CHECK(c.blocks == (i == 2), "%ld blocks", c.blocks);
        llm_adapter_close(opened);
    }
    CHECK(!c.blocks && !c.asked, "%ld blocks left", c.blocks);
}

/* ---- refusals ---- */

static void expect(llm_result got, llm_result wanted, const llm_error *error, const char *message, int line) {
    CHECK(got == wanted && error->code == wanted && !strcmp(error->text, message),
          "line %d: %s \"%s\",\n    expected %s \"%s\"", line, llm_result_name(got), error->text, llm_result_name(wanted),
          message);
}
#define EXPECT(call, result, error, message) expect(call, result, error, message, __LINE__)

static void test_calls(void) {
    const llm_adapter *list[9];
    float weights[9], infinite;
    const uint32_t bits = 0x7f800000u;
    llm_session_desc d;
    llm_batch_desc q;
    llm_adapter_info info;
    llm_session *s = make(NULL, NULL, LLM_KV_Q8, 32), *wide = make(NULL, NULL, LLM_KV_Q8, RANK);
    llm_batch *b = make_batch(NULL, 8, 16);
    llm_model *other = fixture_open("llama-tied", "f32");
    llm_adapter_desc a;
    llm_adapter *foreign;
    llm_error error;
    uint32_t i;
    memcpy(&infinite, &bits, sizeof infinite);
    for (i = 0; i < 9; i++) list[i] = adapter[0], weights[i] = 1.0f;
    EXPECT(llm_session_set_adapters(s, list, weights, 9), LLM_ERROR_ARGUMENT, llm_session_error(s),
           "adapters: count is 9, not in 0 .. 8");
    EXPECT(llm_session_set_adapters(s, NULL, weights, 1), LLM_ERROR_ARGUMENT, llm_session_error(s),
           "adapters: adapters is NULL");
    EXPECT(llm_session_set_adapters(s, list, NULL, 1), LLM_ERROR_ARGUMENT, llm_session_error(s),
           "adapters: weights is NULL");
    EXPECT(llm_session_set_adapters(s, list, weights, 3), LLM_ERROR_LIMIT, llm_session_error(s),
           "adapters: their ranks sum up to 48, adapter_rank is 32");
    weights[1] = infinite;
    EXPECT(llm_session_set_adapters(s, list, weights, 2), LLM_ERROR_ARGUMENT, llm_session_error(s),
           "adapters: weight 1 is inf, not a finite number");
    weights[1] = 1.0f, list[1] = NULL;
    EXPECT(llm_session_set_adapters(s, list, weights, 2), LLM_ERROR_ARGUMENT, llm_session_error(s),
           "adapters: number 1 is NULL");
    memset(&a, 0, sizeof a);
    {
        size_t size;
        uint8_t *file = adapter_image(other, &specs[0], &size);
        a.model = other, a.data = file, a.size = size, a.error = &error;
        CHECK(llm_adapter_open(&foreign, &a) == LLM_OK, "%s", error.text);
        list[1] = foreign;
        EXPECT(llm_session_set_adapters(s, list, weights, 2), LLM_ERROR_ARGUMENT, llm_session_error(s),
               "adapters: number 1 is of another model");
        llm_adapter_close(foreign);
        free(file);
    }
    CHECK(llm_session_feed(s, ids, 2) == LLM_OK, "feed");
    EXPECT(llm_session_set_adapters(s, list, weights, 1), LLM_ERROR_BUSY, llm_session_error(s),
           "adapters: the session has an evaluation that is not done");
    CHECK(llm_step(s, 0) == LLM_OK && llm_session_set_adapters(NULL, NULL, NULL, 0) == LLM_ERROR_ARGUMENT, "step");
    use_adapters(wide, &uses[4]);
    EXPECT(llm_batch_add(b, wide, ids, 2, 1), LLM_ERROR_LIMIT, llm_batch_error(b),
           "add: the ranks of the session's adapters sum up to 128, the batch's adapter_rank is 16");
    use_adapters(wide, &uses[1]);
    CHECK(llm_batch_add(b, wide, ids, 2, 1) == LLM_OK, "%s", llm_batch_error(b)->text);
    EXPECT(llm_session_set_adapters(wide, NULL, NULL, 0), LLM_ERROR_BUSY, llm_session_error(wide),
           "adapters: the session has an evaluation that is not done");
    memset(&d, 0, sizeof d), memset(&q, 0, sizeof q);
    d.model = q.model = model, d.error = q.error = &error, d.adapter_rank = q.adapter_rank = 8193;
    EXPECT(llm_session_query(&d, NULL, NULL), LLM_ERROR_ARGUMENT, &error,
           "session: adapter_rank is 8193, not in 0 .. 8192");
    EXPECT(llm_batch_query(&q, NULL, NULL), LLM_ERROR_ARGUMENT, &error,
           "batch: adapter_rank is 8193, not in 0 .. 8192");
    llm_adapter_get_info(adapter[1], &info);
    CHECK(info.rank == 32 && info.matrices == 7 * model->desc->layers && info.file_size == image_size[1] &&
              info.weights > 0 && !info.meta.size, "the adapter's info");
    llm_adapter_get_info(NULL, &info);
    CHECK(!info.rank && !info.matrices && info.meta.data && !info.meta.size, "the info of none");
    llm_adapter_get_info(adapter[1], NULL);
    llm_adapter_close(NULL);
    llm_batch_destroy(b);
    llm_session_destroy(s), llm_session_destroy(wide);
    llm_model_close(other);
}

static void test_open(void) {
    llm_adapter_desc a;
    llm_adapter *opened = adapter[0];
    llm_error error;
    llm_model_desc m;
    llm_model *as_model;
    size_t size;
    void *file = fixture_read(fixture_model_path("llama-tied", "q8"), &size);
    memset(&a, 0, sizeof a), memset(&m, 0, sizeof m);
    a.error = &error;
    EXPECT(llm_adapter_open(&opened, &a), LLM_ERROR_ARGUMENT, &error, "adapter: model is NULL");
    CHECK(!opened && llm_adapter_open(NULL, &a) == LLM_ERROR_ARGUMENT && llm_adapter_open(&opened, NULL) == LLM_ERROR_ARGUMENT,
          "NULL");
    a.model = model;
    EXPECT(llm_adapter_open(&opened, &a), LLM_ERROR_ARGUMENT, &error,
           "adapter: 0 of path and data are given, want exactly one");
    a.data = image[0] + 4, a.size = 8;
    EXPECT(llm_adapter_open(&opened, &a), LLM_ERROR_ARGUMENT, &error,
           "adapter: data is 4 bytes past a multiple of 64, must be at one");
    a.path = "x";
    EXPECT(llm_adapter_open(&opened, &a), LLM_ERROR_ARGUMENT, &error,
           "adapter: 2 of path and data are given, want exactly one");
    a.path = "/no/such/adapter.llm", a.data = NULL;
    CHECK(llm_adapter_open(&opened, &a) == LLM_ERROR_IO && !opened, "%s", error.text);
    a.path = NULL, a.data = file, a.size = size;
    EXPECT(llm_adapter_open(&opened, &a), LLM_ERROR_FORMAT, &error,
           "header: the file is no adapter: it has no section LORA");
    m.data = image[0], m.size = image_size[0], m.error = &error;
    EXPECT(llm_model_open(&as_model, &m), LLM_ERROR_FORMAT, &error,
           "header: the file is an adapter (section LORA), not a model");
    free(file);
}

/* ---- numbers that are none ---- */

/* Infinities, NaNs of all kinds, denormals: the same bits everywhere too. */
static void test_hostile(void) {
    const use one = {1, {0}, {1.0f}};
    const llm__file_pair *pairs = (const llm__file_pair *)(const void *)(image[0] + 8192);
    float *want;
    uint32_t state = 11, i, k;
    llm_adapter *good = adapter[0];
    size_t at, size = image_size[0];
    void *memory = NULL;
    llm_adapter_desc d;
    llm_error error;
    if (posix_memalign(&memory, 64, size)) exit(1);
    for (i = 0; i < 2; i++) {
        memcpy(memory, image[0], size);
        for (at = (size_t)pairs[0].offset; at < size; at += 4) {
            const uint32_t bits = adapter_any(&state) ^ adapter_any(&state) >> 16;
            if (i == 0 || adapter_any(&state) >> 24 < i) memcpy((char *)memory + at, &bits, 4);
        }
        memset(&d, 0, sizeof d);
        d.model = model, d.data = memory, d.size = size, d.error = &error;
        CHECK(llm_adapter_open(&adapter[0], &d) == LLM_OK, "%s", error.text);
        want = reference(&one, LLM_KV_Q8);
        for (k = 0; llm_isa_name(k); k++) evaluate_ways(llm_isa_name(k), NULL, LLM_KV_Q8, &one, want, 2);
        free(want);
        llm_adapter_close(adapter[0]);
    }
    adapter[0] = good;
    free(memory);
}

/* ---- files that are wrong ---- */

static llm_result open_copy(const uint8_t *file, size_t size, bool verify, llm_adapter **opened, void **block,
                            llm_error *error) {
    llm_adapter_desc a;
    memset(&a, 0, sizeof a);
    if (posix_memalign(block, 64, size ? size : 1)) exit(1);
    if (size) memcpy(*block, file, size);
    a.model = model, a.data = *block, a.size = size, a.verify = verify, a.error = error;
    return llm_adapter_open(opened, &a);
}

static uint8_t *spoiled;
#define PAIR(i)    ((llm__file_pair *)(void *)(spoiled + 8192) + (i))
#define LORA       ((llm__file_lora *)(void *)(spoiled + 4096))
#define SECTION(i) ((llm__file_section *)(void *)(spoiled + 64) + (i))
static void refuse(llm_result wanted, const char *message, int line) {
    llm_adapter *opened;
    llm_error error;
    void *block;
    const llm_result got = (adapter_seal(spoiled, false), open_copy(spoiled, image_size[0], false, &opened, &block, &error));
    if (got == LLM_OK) memset(&error, 0, sizeof error);
    expect(got, wanted, &error, message, line);
    llm_adapter_close(opened);
    free(block);
    memcpy(spoiled, image[0], image_size[0]);
}
#define REFUSE(statement, message) (void)(statement), refuse(LLM_ERROR_FORMAT, message, __LINE__)

static void test_spoiled(void) {
    const uint32_t infinity = 0x7f800000u;
    char message[200];
    void *memory = NULL;
    if (posix_memalign(&memory, 64, image_size[0])) exit(1);
    spoiled = (uint8_t *)memory;
    memcpy(spoiled, image[0], image_size[0]);
    REFUSE(SECTION(0)->size = 63, "section LORA: 63 bytes, not 64 or more");
    REFUSE(LORA->layers++, "section LORA: it is for 3 layers of width 64, the model has 2 of 64");
    REFUSE(LORA->smoothing = 5, "section LORA: smoothing is 0000000000000005, that of the model 0000000000000000; convert the "
                                "adapter for it");
    REFUSE(SECTION(1)->size -= 32, "section PAIR: 864 bytes, not a multiple of 64 up to 16777216");
    PAIR(0)->role = LLM__EMBEDDING;
    refuse(LLM_ERROR_UNSUPPORTED, "section PAIR: role 0, expected one of attn_q, attn_k, attn_v, attn_out, ffn_gate_up and "
                                  "ffn_down", __LINE__);
    REFUSE(PAIR(0)->half = 1, "pair blk.0.attn_q: half 1 has no place among 2 layers");
    REFUSE(PAIR(6)->layer = 2, "pair blk.2.ffn_down: half 0 has no place among 2 layers");
    REFUSE(PAIR(5)->half = 2, "pair blk.0.ffn_up: half 2 has no place among 2 layers");
    REFUSE(PAIR(5)->half = 0, "pair blk.0.ffn_gate: stands twice");
    REFUSE(PAIR(1)->type = LLM_Q8, "pair blk.0.attn_k: type is 2, not in 0 .. 1");
    REFUSE(PAIR(1)->rank = 0, "pair blk.0.attn_k: rank is 0, not in 1 .. 1024");
    REFUSE(PAIR(1)->rank = 1025, "pair blk.0.attn_k: rank is 1025, not in 1 .. 1024");
    (void)snprintf(message, sizeof message, "pair blk.0.attn_k: shape %u x 65, the model's matrix has %u x 64",
                   (unsigned)PAIR(1)->rows, (unsigned)PAIR(1)->rows);
    REFUSE(PAIR(1)->cols++, message);
    (void)snprintf(message, sizeof message, "pair blk.0.attn_v: row_rotation is 0, that of the model %u; convert the adapter "
                   "for it", (unsigned)PAIR(2)->row_rotation);
    REFUSE(PAIR(2)->row_rotation = 0, message);
    REFUSE(PAIR(1)->row_rotation = 16, "pair blk.0.attn_k: row_rotation is 16, that of the model 0; convert the adapter for it");
    REFUSE(memcpy(&PAIR(3)->scale, &infinity, 4), "pair blk.0.attn_out: scale is inf, not a finite number");
    (void)snprintf(message, sizeof message, "pair blk.0.attn_q: offset 0x%llx is not a multiple of 64",
                   (unsigned long long)PAIR(0)->offset + 4);
    REFUSE(PAIR(0)->offset += 4, message);
    (void)snprintf(message, sizeof message, "pair blk.0.attn_q: offset 0x1000 + %llu bytes is outside section DATA, 0x%llx + %llu",
                   (unsigned long long)PAIR(0)->size, (unsigned long long)SECTION(2)->offset,
                   (unsigned long long)SECTION(2)->size);
    REFUSE(PAIR(0)->offset = 0x1000, message);
    (void)snprintf(message, sizeof message, "pair blk.0.attn_q: %llu bytes, its shape asks for %llu",
                   (unsigned long long)PAIR(0)->size + 64, (unsigned long long)PAIR(0)->size);
    REFUSE(PAIR(0)->size += 64, message);
    free(spoiled);
}

/* Cut anywhere: refused, by the file's size, or with a header that agrees by what then does not lie in it. A byte
   changed: found with `verify`, unless nobody looks at it. */
static void test_cut_and_changed(void) {
    llm_adapter *opened;
    llm_error error;
    void *block;
    const size_t data = 8192 + 4096; /* behind a directory of one page */
    size_t n, step;
    uint8_t *copy;
    for (n = 0; n < image_size[0]; n += n < 300 || n > image_size[0] - 300 ? 1 : 61) {
        CHECK(open_copy(image[0], n, false, &opened, &block, &error) == LLM_ERROR_FORMAT && !opened, "cut to %zu", n);
        free(block);
    }
    copy = (uint8_t *)malloc(image_size[0]);
    for (n = 64; n < image_size[0]; n += 64) {
        uint64_t size = n;
        memcpy(copy, image[0], image_size[0]);
        memcpy(copy + offsetof(llm__file_header, file_size), &size, 8);
        CHECK(open_copy(copy, n, false, &opened, &block, &error) != LLM_OK && !opened, "cut to %zu, and it says so", n);
        free(block);
    }
    for (n = 0; n < image_size[0]; n += step) {
        const bool looked_at = n < 32 || (n >= 64 && n < 160) || (n >= 4096 && n < 4160) || (n >= 8192 && n < 8192 + 14 * 64) ||
                               n >= data;
        step = n < 200 || (n > 4000 && n < 4200) || (n > 8100 && n < 9600) ? 1 : 97;
        memcpy(copy, image[0], image_size[0]);
        copy[n] ^= 0x10;
        CHECK(open_copy(copy, image_size[0], true, &opened, &block, &error) == LLM_OK ? !looked_at : looked_at, "byte %zu: %s", n,
              error.text);
        llm_adapter_close(opened);
        free(block);
    }
    memcpy(copy, image[0], image_size[0]);
    copy[image_size[0] - 1] ^= 1;
    CHECK(open_copy(copy, image_size[0], true, &opened, &block, &error) == LLM_ERROR_CHECKSUM &&
              !strncmp(error.text, "pair blk.1.ffn_down: its bytes sum to ", 38), "%s", error.text);
    free(block);
    ((llm__file_section *)(void *)(copy + 64))[1].size -= 64; /* now the byte belongs to no pair */
    ((llm__file_section *)(void *)(copy + 64))[1].checksum = llm__xxh64(copy + 8192, 13 * 64);
    ((llm__file_header *)(void *)copy)->checksum = llm__xxh64(copy + 64, 96);
    CHECK(open_copy(copy, image_size[0], true, &opened, &block, &error) == LLM_ERROR_CHECKSUM &&
              !strncmp(error.text, "section DATA: its bytes sum to ", 31), "%s", error.text);
    free(block);
    memcpy(copy, image[0], image_size[0]); /* a section that nobody knows, with another checksum */
    memcpy(copy + 160, copy + 128, 32), memset(copy + 128, 'X', 4), memset(copy + 152, 0, 8);
    ((llm__file_header *)(void *)copy)->section_count = 4;
    ((llm__file_header *)(void *)copy)->checksum = llm__xxh64(copy + 64, 128);
    CHECK(open_copy(copy, image_size[0], true, &opened, &block, &error) == LLM_ERROR_CHECKSUM &&
              !strncmp(error.text, "section XXXX: its bytes sum to ", 31), "%s", error.text);
    free(block), free(copy);
}

/* Tables of other bytes, with checksums that are right: refused, or evaluated without harm. */
static void test_mutated(void) {
    uint8_t *copy = (uint8_t *)malloc(image_size[0]);
    llm_session *s = make(NULL, NULL, LLM_KV_Q8, RANK);
    const float one = 1.0f;
    uint32_t state = 5, i, k, good = 0;
    for (i = 0; i < 3000; i++) {
        llm_adapter *opened;
        llm_error error;
        void *block;
        memcpy(copy, image[0], image_size[0]);
        for (k = adapter_any(&state) >> 16 & 1; k < 2; k++) {
            static const uint32_t from[] = {64, 4096, 8192, 8192}, size[] = {96, 64, 14 * 64, 14 * 64};
            const uint32_t where = adapter_any(&state) >> 16 & 3;
            copy[from[where] + (adapter_any(&state) >> 8) % size[where]] = (uint8_t)(adapter_any(&state) >> 20);
        }
        {
            llm__file_section *t = (llm__file_section *)(void *)(copy + 64);
            for (k = 0; k < 3; k++)
                if (t[k].offset < image_size[0] && t[k].size <= image_size[0] - t[k].offset)
                    t[k].checksum = llm__xxh64(copy + t[k].offset, (size_t)t[k].size);
            ((llm__file_header *)(void *)copy)->checksum = llm__xxh64(t, 96);
        }
        if (open_copy(copy, image_size[0], false, &opened, &block, &error) == LLM_OK) {
            const llm_adapter *list = opened;
            good++;
            if (opened->rank <= RANK) {
                CHECK(llm_session_set_adapters(s, &list, &one, 1) == LLM_OK, "%s", llm_session_error(s)->text);
                CHECK(llm_session_rewind(s, 0) == LLM_OK && llm_eval(s, ids, 2) == LLM_OK, "mutant %u", (unsigned)i);
                CHECK(llm_session_set_adapters(s, NULL, NULL, 0) == LLM_OK, "away");
            }
        } else {
            CHECK(error.text[0] && !opened, "mutant %u", (unsigned)i);
        }
        llm_adapter_close(opened);
        free(block);
    }
    CHECK(good > 10 && good < 2900, "%u of 3000 mutants are taken", (unsigned)good);
    llm_session_destroy(s);
    free(copy);
}

static void test_model(const char *name, const char *type, llm_kv kv, bool brief) {
    float *want[USES];
    uint32_t k;
    model = fixture_open(name, type);
    vocab = fixture_vocab(model);
    fixture_ids(name, ids);
    open_adapters();
    for (k = 0; k < USES; k++) want[k] = reference(&uses[k], kv);
    test_bits(want, kv, brief ? 2 : 4);
    if (kv == LLM_KV_Q8) test_batch(want, 3);
    if (!brief) {
        test_none(want);
        test_batch(want, 1);
        test_many_rows(want);
        test_switch_and_fork(want);
        test_memory(want);
        test_calls();
        test_open();
        test_hostile();
        test_spoiled();
        test_cut_and_changed();
        test_mutated();
    }
    for (k = 0; k < USES; k++) free(want[k]);
    close_adapters();
    llm_model_close(model);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
#if defined(__SANITIZE_THREAD__)
    test_model("llama-tied", "q8", LLM_KV_Q8, true);
    return check_report("adapter");
#endif
    test_model("llama-tied", "q8", LLM_KV_Q8, false);
    test_model("llama-odd", "q4", LLM_KV_Q8, true);
    test_model("gemma-pattern", "q6", LLM_KV_F16, true);
    test_model("gemma", "bf16", LLM_KV_Q8, true);
    test_model("qwen3", "f32", LLM_KV_F16, true);
    test_model("bitnet", "q6", LLM_KV_Q8, true);
    return check_report("adapter");
}
