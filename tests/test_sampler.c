/* The sampler against a plain reference: full sorts, doubles, libm. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 20000 };

static uint64_t rng_state = 88172645463325252u;
static uint64_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * 0x2545F4914F6CDD1Du;
}
static uint32_t below(uint32_t n) { return (uint32_t)((rng() >> 32) * n >> 32); }
static double uniform(void) { return (double)(rng() >> 11) / 9007199254740992.0; }

/* ---- the reference ------------------------------------------------------ */

typedef struct item {
    double logit, p, key;
    uint32_t id;
} item;

static item items[MAX_VOCAB];
static bool ambiguous; /* a cut so close that rounding may decide it */

static int by_key(const void *a, const void *b) { /* larger key, then lower id */
    const item *x = (const item *)a, *y = (const item *)b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void by_logit(size_t n) {
    size_t i;
    for (i = 0; i < n; i++) items[i].key = items[i].logit;
    qsort(items, n, sizeof *items, by_key);
}

static double softmax(size_t n, double temperature) {
    double max = -INFINITY, sum = 0;
    size_t i;
    for (i = 0; i < n; i++) max = items[i].logit > max ? items[i].logit : max;
    for (i = 0; i < n; i++) sum += items[i].p = exp((items[i].logit - max) / temperature);
    for (i = 0; i < n; i++) items[i].p /= sum;
    return max + log(sum) * temperature;
}

/* The shortest run whose probability reaches p. */
static size_t prefix(size_t n, double p, double gap) {
    double sum = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        sum += items[i].p;
        if (fabs(sum - p) < 2e-6) ambiguous = true;
        if (sum >= p) break;
    }
    if (i + 1 < n && items[i].key != items[i + 1].key &&
        fabs(items[i].key - items[i + 1].key) < gap)
        ambiguous = true;
    if (i > 0 && i < n && items[i].key != items[i - 1].key &&
        fabs(items[i].key - items[i - 1].key) < gap)
        ambiguous = true;
    return i < n ? i + 1 : n;
}

/* Fills items with what is left and its probabilities, sorted by id. */
static size_t reference(const llm_sampler_desc *d, const float *logits, size_t vocab,
                        const uint32_t *mask, const uint32_t *history, size_t length) {
    size_t i, j, n = 0, window = d->penalty_window ? d->penalty_window : 64;
    static double eff[MAX_VOCAB];
    static uint32_t counts[MAX_VOCAB];
    double rep = d->repetition_penalty > 0 ? (double)d->repetition_penalty : 1;
    ambiguous = false;
    memset(counts, 0, vocab * sizeof *counts);
    for (i = length > window ? length - window : 0; i < length; i++) counts[history[i]]++;
    for (i = 0; i < vocab; i++) {
        eff[i] = logits[i];
        if (isinf(logits[i]) && logits[i] > 0) eff[i] = 3.40282346638528859812e38;
    }
    for (j = 0; j < d->bias_count; j++) eff[d->bias[j].token] += (double)d->bias[j].bias;
    for (i = 0; i < vocab; i++) {
        if (counts[i]) {
            eff[i] = eff[i] > 0 ? eff[i] / rep : eff[i] * rep;
            eff[i] -=
                (double)counts[i] * (double)d->frequency_penalty + (double)d->presence_penalty;
        }
        if (isnan(eff[i]) || (isinf(eff[i]) && eff[i] < 0)) continue;
        if (mask && !(mask[i / 32] >> i % 32 & 1)) continue;
        items[n].id = (uint32_t)i;
        items[n++].logit = (double)(float)eff[i];
    }
    if (n == 0) return 0;
    by_logit(n);
    if (!(d->temperature > 0)) {
        items[0].p = 1;
        return 1;
    }
    if (d->top_k && d->top_k < n) n = d->top_k;
    if (d->typical_p > 0 && d->typical_p < 1) {
        double entropy = 0;
        softmax(n, 1);
        for (i = 0; i < n; i++)
            if (items[i].p > 0) entropy -= items[i].p * log(items[i].p);
        for (i = 0; i < n; i++) items[i].key = -fabs(-log(items[i].p) - entropy);
        qsort(items, n, sizeof *items, by_key);
        n = prefix(n, (double)d->typical_p, 2e-5);
        by_logit(n);
    }
    if (d->top_p > 0 && d->top_p < 1) {
        softmax(n, 1);
        n = prefix(n, (double)d->top_p, 0);
    }
    if (d->min_p > 0) {
        double bound = items[0].logit + log((double)d->min_p);
        for (i = 0; i < n && items[i].logit >= bound; i++) {
        }
        if (fabs(items[i < n ? i : n - 1].logit - bound) < 2e-6 * (1 + fabs(bound)))
            ambiguous = true;
        if (fabs(items[i ? i - 1 : 0].logit - bound) < 2e-6 * (1 + fabs(bound))) ambiguous = true;
        n = i;
    }
    softmax(n, (double)d->temperature);
    for (i = 0; i < n; i++) items[i].key = -(double)items[i].id;
    qsort(items, n, sizeof *items, by_key);
    return n;
}

/* ---- helpers ------------------------------------------------------------- */

static llm_sampler *make(const llm_sampler_desc *d, size_t vocab) {
    llm_sampler *s = NULL;
    llm_error e;
    llm_result r = llm_sampler_create(d, vocab, NULL, &s, &e);
    CHECK(r == LLM_OK, "create: %s", r ? e.text : "");
    return s;
}

static void fill(float *logits, size_t n, int kind) {
    size_t i;
    double scale = exp(uniform() * 4 - 1);
    for (i = 0; i < n; i++) {
        double g = uniform() + uniform() + uniform() + uniform() - 2; /* sd 0.58 */
        if (kind == 1) g = floor(g * 8) / 8;                          /* many ties */
        if (kind == 2) g = g * g * g * 3;                             /* peaked */
        if (kind == 3) g = (double)(i % 7);                           /* few values */
        logits[i] = (float)(g * scale - scale * 2);
    }
}

static float logits[MAX_VOCAB];
static llm_candidate found[MAX_VOCAB];
static uint32_t mask[MAX_VOCAB / 32 + 1];

/* ---- the chain ------------------------------------------------------------ */

static void test_chain(void) {
    int trial, skipped = 0;
    enum { TRIALS = 1500 };
    for (trial = 0; trial < TRIALS; trial++) {
        static const size_t sizes[] = {1, 2, 7, 255, 256, 257, 600, 3000, 20000};
        size_t vocab = sizes[below(trial % 20 ? 8 : 9)], i, n, count = 0, length = below(100);
        llm_sampler_desc d;
        llm_logit_bias bias[10];
        uint32_t history[100];
        llm_sampler *s;
        llm_error e;
        llm_sample out;
        bool masked = below(4) == 0, same = true;
        double worst = 0;
        fill(logits, vocab, trial % 5);
        if (below(4) == 0)
            for (i = 0; i < 5; i++)
                logits[below((uint32_t)vocab)] = below(2) ? -INFINITY : (below(2) ? NAN : -NAN);
        memset(&d, 0, sizeof d);
        d.temperature = below(10) ? (float)(0.3 + uniform() * 1.5) : 0;
        if (below(2)) d.top_k = 1 + below(below(2) ? 50 : 3000);
        if (below(3) == 0) d.typical_p = (float)(0.05 + 0.9 * uniform());
        if (below(2)) d.top_p = (float)(0.05 + 0.94 * uniform());
        if (below(3) == 0) d.min_p = (float)(0.3 * uniform());
        if (below(2)) d.repetition_penalty = (float)(0.7 + uniform());
        if (below(2)) d.frequency_penalty = (float)(uniform() * 2 - 0.5);
        if (below(2)) d.presence_penalty = (float)(uniform() * 2 - 0.5);
        if (below(2)) d.penalty_window = 1 + below(80);
        if (below(2)) {
            d.bias = bias;
            d.bias_count = 1 + below(10);
            for (i = 0; i < d.bias_count; i++) {
                bias[i].token = below((uint32_t)vocab);
                bias[i].bias = below(5) ? (float)below(64) / 8 - 4 : -INFINITY;
            }
        }
        for (i = 0; i < MAX_VOCAB / 32 + 1; i++) mask[i] = (uint32_t)(rng() >> 32);
        for (i = 0; i < length; i++) history[i] = below((uint32_t)vocab);
        d.seed = rng();
        s = make(&d, vocab);
        for (i = 0; i < length; i++) CHECK(!llm_sampler_accept(s, history[i], &e), "accept");
        n = reference(&d, logits, vocab, masked ? mask : NULL, history, length);
        if (n == 0) {
            CHECK(llm_sampler_sample(s, logits, masked ? mask : NULL, &out, &e) ==
                      LLM_ERROR_NUMERIC,
                  "nothing allowed");
            llm_sampler_destroy(s);
            continue;
        }
        if (ambiguous) {
            skipped++;
            llm_sampler_destroy(s);
            continue;
        }
        CHECK(!llm_sampler_distribution(s, logits, masked ? mask : NULL, found, MAX_VOCAB, &count,
                                        &e),
              "distribution: %s", e.text);
        /* tokens that count as zero may be missing */
        {
            size_t a = 0, b = 0;
            for (; a < n && same; a++) {
                if (b < count && found[b].token == items[a].id) {
                    double x = fabs(exp((double)found[b].logprob) - items[a].p);
                    if (x > worst) worst = x;
                    b++;
                } else if (items[a].p > 1e-11) {
                    same = false;
                }
            }
            same = same && b == count;
        }
        CHECK(same, "trial %d: vocab %lu kept %lu, expected %lu (k %u typ %g p %g min %g)", trial,
              (unsigned long)vocab, (unsigned long)count, (unsigned long)n, d.top_k,
              (double)d.typical_p, (double)d.top_p, (double)d.min_p);
        CHECK(worst < 2e-6, "trial %d: probability off by %g", trial, worst);
        for (i = 0; i < 5; i++) {
            size_t b;
            CHECK(!llm_sampler_sample(s, logits, masked ? mask : NULL, &out, &e), "sample");
            for (b = 0; b < count && found[b].token != out.token; b++) {
            }
            CHECK(b < count, "trial %d: drew %u, which was not kept", trial, out.token);
            llm_sampler_reseed(s, rng(), i);
        }
        llm_sampler_destroy(s);
    }
    CHECK(skipped < TRIALS / 10, "%d of %d trials too close to judge", skipped, TRIALS);
}

/* Draws follow the distribution: chi-square over positions, seeds and streams. */
static void test_draws(void) {
    int round;
    for (round = 0; round < 9; round++) {
        enum { N = 30000 };
        size_t vocab = round < 6 ? 60 : 1000, n, i, cells = 0;
        static uint32_t hits[1000];
        double chi = 0, rest_p = 1, rest = N;
        llm_sampler_desc d;
        llm_sampler *s;
        llm_sample out;
        llm_error e;
        memset(&d, 0, sizeof d);
        memset(hits, 0, sizeof hits);
        d.temperature = round % 2 ? 1.0f : 1.7f;
        if (round % 3 == 1) d.top_k = 20;
        if (round % 3 == 2) d.top_p = 0.8f;
        for (i = 0; i < vocab; i++) logits[i] = (float)(uniform() * 4 - 7);
        s = make(&d, vocab);
        n = reference(&d, logits, vocab, NULL, NULL, 0);
        for (i = 0; i < N; i++) {
            /* one seed and its positions, many seeds, many streams */
            if (round % 3 == 1) llm_sampler_reseed(s, i, 0);
            if (round % 3 == 2) llm_sampler_reseed(s, 7, i);
            if (llm_sampler_sample(s, logits, NULL, &out, &e)) break;
            hits[out.token]++;
            if (round % 3 == 0) (void)llm_sampler_accept(s, 0, NULL);
        }
        CHECK(i == N, "sampling failed");
        for (i = 0; i < n; i++) {
            double expected = items[i].p * N, x = (double)hits[items[i].id] - expected;
            if (expected < 10) continue;
            chi += x * x / expected;
            rest_p -= items[i].p;
            rest -= (double)hits[items[i].id];
            cells++;
        }
        if (rest_p * N > 10) {
            chi += (rest - rest_p * N) * (rest - rest_p * N) / (rest_p * N);
            cells++;
        }
        CHECK(cells > 3 && chi < (double)cells + 4.5 * sqrt(2.0 * (double)cells) + 5,
              "round %d: chi-square %g for %lu cells", round, chi, (unsigned long)cells);
        llm_sampler_destroy(s);
    }
}

/* ---- log-probabilities ---------------------------------------------------- */

static void test_logprobs(void) {
    int trial;
    for (trial = 0; trial < 200; trial++) {
        static const size_t sizes[] = {1, 3, 256, 300, 5000, 20000};
        size_t vocab = sizes[trial % 6], n = 0, i;
        llm_sampler_desc d;
        llm_logit_bias bias = {0, -INFINITY};
        llm_sampler *s;
        llm_sample out;
        llm_error e;
        double total, expected = 0;
        bool ok = true;
        fill(logits, vocab, trial % 5);
        if (trial % 7 == 0) { /* one peak above a floor that together weighs something */
            for (i = 0; i < vocab; i++) logits[i] = -(float)(8 + trial % 20);
            logits[vocab / 2] = 0;
        }
        if (trial % 11 == 0 && vocab > 1) logits[1] = NAN;
        if (trial % 13 == 0 && vocab > 2) logits[2] = -INFINITY;
        memset(&d, 0, sizeof d);
        d.temperature = 0.7f;
        d.top_k = 40;
        d.top_p = 0.9f;
        d.top_logprobs = 1 + below(trial % 3 ? 20 : 1024);
        d.seed = rng();
        if (trial % 4 == 0 && vocab > 3) d.bias = &bias, d.bias_count = 1;
        s = make(&d, vocab);
        CHECK(!llm_sampler_sample(s, logits, NULL, &out, &e), "sample");
        for (i = 0; i < vocab; i++) {
            if (isnan(logits[i]) || isinf(logits[i])) continue;
            items[n].id = (uint32_t)i;
            items[n++].logit = (double)logits[i];
        }
        by_logit(n);
        total = softmax(n, 1);
        expected = (double)logits[out.token] - total;
        CHECK(fabs((double)out.logprob - expected) < 1e-5, "chosen %g, expected %g",
              (double)out.logprob, expected);
        CHECK(out.top_count == (n < d.top_logprobs ? n : d.top_logprobs), "%lu listed",
              (unsigned long)out.top_count);
        for (i = 0; i < out.top_count && ok; i++)
            ok = out.top[i].token == items[i].id &&
                 fabs((double)out.top[i].logprob - (items[i].logit - total)) <
                     1e-5 + 6e-8 * fabs(items[i].logit - total); /* a float's own rounding */
        CHECK(ok, "trial %d: top %lu differs at %lu", trial, (unsigned long)out.top_count,
              (unsigned long)i);
        llm_sampler_destroy(s);
    }
}

/* ---- odd logits ------------------------------------------------------------ */

static uint32_t pick(const llm_sampler_desc *d, const float *x, size_t n, const uint32_t *m) {
    llm_sampler *s = make(d, n);
    llm_sample out;
    llm_error e;
    llm_result r = llm_sampler_sample(s, x, m, &out, &e);
    llm_sampler_destroy(s);
    if (r) CHECK(r == LLM_ERROR_NUMERIC && strstr(e.text, "finite"), "%s", e.text);
    return r ? UINT32_MAX : out.token;
}

static void test_odd(void) {
    llm_sampler_desc greedy, warm;
    static float x[1000];
    uint32_t m[32], i;
    uint32_t bits = 1;
    float tiny;
    int heat;
    memset(&greedy, 0, sizeof greedy);
    memset(&warm, 0, sizeof warm);
    memset(m, 0, sizeof m);
    memcpy(&tiny, &bits, sizeof tiny);
    warm.temperature = 1;
    warm.top_p = 0.9f;
    warm.min_p = 0.01f;
    warm.typical_p = 0.95f;
    warm.seed = 3;
    for (heat = 0; heat < 2; heat++) {
        const llm_sampler_desc *d = heat ? &warm : &greedy;
        for (i = 0; i < 1000; i++) x[i] = NAN;
        CHECK(pick(d, x, 1000, NULL) == UINT32_MAX, "all NaN");
        x[777] = -3e38f;
        CHECK(pick(d, x, 1000, NULL) == 777, "one number among NaN");
        for (i = 0; i < 1000; i++) x[i] = -INFINITY;
        CHECK(pick(d, x, 1000, NULL) == UINT32_MAX, "all -inf");
        CHECK(pick(d, x, 1, NULL) == UINT32_MAX, "one -inf");
        x[999] = -NAN;
        CHECK(pick(d, x, 1000, NULL) == UINT32_MAX, "-inf and -NaN");
        x[500] = INFINITY;
        x[600] = 1e30f;
        CHECK(pick(d, x, 1000, NULL) == 500, "+inf wins");
        CHECK(pick(d, x, 1000, m) == UINT32_MAX, "nothing in the mask");
        m[600 / 32] = 1u << 600 % 32;
        CHECK(pick(d, x, 1000, m) == 600, "only one in the mask");
        m[600 / 32] = 0;
        m[10] = 1u << 3; /* 323 is -inf */
        CHECK(pick(d, x, 1000, m) == UINT32_MAX, "the mask allows only -inf");
        m[10] = 0;
    }
    for (i = 0; i < 1000; i++) x[i] = -0.0f;
    x[900] = 0.0f;
    CHECK(pick(&greedy, x, 1000, NULL) == 0, "-0 equals 0");
    x[901] = tiny;
    CHECK(pick(&greedy, x, 1000, NULL) == 901, "a denormal is larger than 0");
    { /* two +inf share evenly */
        llm_sampler *s;
        llm_sample out;
        int hits[2] = {0, 0};
        memset(&warm, 0, sizeof warm);
        warm.temperature = 1;
        warm.logprobs = true;
        for (i = 0; i < 1000; i++) x[i] = 5;
        x[3] = x[998] = INFINITY;
        s = make(&warm, 1000);
        for (i = 0; i < 400; i++) {
            CHECK(!llm_sampler_sample(s, x, NULL, &out, NULL), "sample");
            CHECK(out.token == 3 || out.token == 998, "drew %u beside +inf", out.token);
            CHECK(fabs((double)out.logprob + 0.693147) < 1e-5, "logprob %g", (double)out.logprob);
            hits[out.token == 3]++;
            (void)llm_sampler_accept(s, 0, NULL);
        }
        CHECK(hits[0] > 120 && hits[1] > 120, "%d to %d", hits[0], hits[1]);
        llm_sampler_destroy(s);
    }
    { /* all equal: top-k keeps the first ids */
        llm_candidate c[1000];
        size_t count = 0;
        llm_sampler *s;
        memset(&warm, 0, sizeof warm);
        warm.temperature = 1;
        warm.top_k = 600;
        warm.top_p = 0.5f;
        for (i = 0; i < 1000; i++) x[i] = 2.5f;
        s = make(&warm, 1000);
        CHECK(!llm_sampler_distribution(s, x, NULL, c, 1000, &count, NULL), "distribution");
        CHECK(count == 300 && c[299].token == 299, "kept %lu of equals", (unsigned long)count);
        CHECK(!llm_sampler_distribution(s, x, NULL, NULL, 0, &count, NULL) && count == 300,
              "count only");
        llm_sampler_destroy(s);
    }
}

/* ---- state ------------------------------------------------------------------ */

static size_t live, calls, fail_at;
static void *count_allocate(void *user, size_t size, size_t align) {
    (void)user;
    (void)align;
    calls++;
    if (fail_at && calls == fail_at) return NULL;
    live += size;
    return malloc(size);
}
static void count_release(void *user, void *memory, size_t size) {
    (void)user;
    live -= size;
    free(memory);
}

static void test_state(void) {
    llm_sampler_desc d, resolved;
    llm_allocator a = {count_allocate, count_release, NULL};
    llm_sampler *s = NULL, *t = NULL, *other;
    uint32_t tokens[200];
    llm_sample out;
    llm_error e;
    size_t bytes = 0, i;
    memset(&d, 0, sizeof d);
    d.temperature = 1.2f;
    d.top_p = 0.97f;
    d.repetition_penalty = 1.3f;
    d.frequency_penalty = 0.2f;
    d.penalty_window = 17;
    d.top_logprobs = 5;
    d.seed = 99;
    CHECK(!llm_sampler_query(&d, 3000, &resolved, &bytes, &e), "query");
    CHECK(resolved.logprobs && resolved.penalty_window == 17 && resolved.presence_penalty == 0,
          "resolved");
    CHECK(!llm_sampler_create(&d, 3000, &a, &s, &e), "create");
    CHECK(calls == 1 && live == bytes, "asked for %lu, said %lu", (unsigned long)live,
          (unsigned long)bytes);
    CHECK(!llm_sampler_create(&d, 3000, &a, &t, &e), "create");
    fill(logits, 3000, 0);
    for (i = 0; i < 200; i++) {
        CHECK(!llm_sampler_sample(s, logits, NULL, &out, &e), "sample");
        tokens[i] = out.token;
        CHECK(!llm_sampler_sample(s, logits, NULL, &out, &e) && out.token == tokens[i],
              "asked again");
        CHECK(!llm_sampler_accept(s, out.token, &e), "accept");
        if (i == 120) CHECK(!llm_sampler_copy(t, s, &e), "copy");
    }
    CHECK(calls == 2, "sampling allocates");
    CHECK(llm_sampler_position(s) == 200 && llm_sampler_position(t) == 121, "positions");
    for (i = 121; i < 200; i++) {
        CHECK(!llm_sampler_sample(t, logits, NULL, &out, &e) && out.token == tokens[i],
              "copy replays");
        CHECK(!llm_sampler_accept(t, out.token, &e), "accept");
    }
    for (i = 0; i < 200; i += 13) {
        size_t from = i > 30 ? i - 30 : 0;
        CHECK(!llm_sampler_rewind(s, i, tokens + from, i - from, &e), "rewind");
        CHECK(!llm_sampler_sample(s, logits, NULL, &out, &e) && out.token == tokens[i],
              "rewound to %lu", (unsigned long)i);
    }
    CHECK(llm_sampler_accept(s, 3000, &e) == LLM_ERROR_ARGUMENT && strstr(e.text, "3000"),
          "token range");
    tokens[5] = 3000;
    CHECK(llm_sampler_rewind(s, 10, tokens, 10, &e) == LLM_ERROR_ARGUMENT, "rewind range");
    CHECK(llm_sampler_position(s) == 195, "a refused rewind changes nothing");
    llm_sampler_reseed(s, 5, 6);
    CHECK(llm_sampler_seed(s) == 5, "seed");
    d.penalty_window = 18;
    CHECK(!llm_sampler_create(&d, 3000, &a, &other, &e), "create");
    CHECK(llm_sampler_copy(other, s, &e) == LLM_ERROR_ARGUMENT && strstr(e.text, "17"), "unlike");
    llm_sampler_destroy(other);
    llm_sampler_destroy(s);
    llm_sampler_destroy(t);
    llm_sampler_destroy(NULL);
    CHECK(live == 0, "%lu bytes not released", (unsigned long)live);
    fail_at = calls + 1;
    CHECK(llm_sampler_create(&d, 3000, &a, &s, &e) == LLM_ERROR_MEMORY && !s, "no memory");
    fail_at = 0;
    { /* llm_random: the known answers of Random123 (kat_vectors, philox4x32 10) */
        CHECK(llm_random(0, 0, 0) == 0xe169c58d6627e8d5u, "zeros");
        CHECK(llm_random(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x41c83b0e408f276du, "ones");
        CHECK(llm_random(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) ==
                  0x94fdccebd16cfe09u,
              "pi");
    }
}

/* ---- arguments ----------------------------------------------------------------- */

static void refuse(const llm_sampler_desc *d, size_t vocab, const char *field) {
    llm_sampler *s = (llm_sampler *)&live; /* must be cleared */
    llm_error e;
    e.code = LLM_OK;
    CHECK(llm_sampler_create(d, vocab, NULL, &s, &e) == LLM_ERROR_ARGUMENT && !s, "%s accepted",
          field);
    CHECK(e.code == LLM_ERROR_ARGUMENT && strstr(e.text, field) && strstr(e.text, "expected"),
          "message for %s: %s", field, e.text);
}

/* The last call was refused, in these words. */
#define SAYS(call, wanted, message)                                                            \
    do {                                                                                       \
        llm_error e;                                                                           \
        llm_result r = (call);                                                                 \
        CHECK(r == wanted && e.code == wanted && !strcmp(e.text, message),                     \
              "%s \"%s\",\n    expected \"%s\"", llm_result_name(r), e.text, message);          \
    } while (0)

static void test_messages(void) {
    static const llm_logit_bias outside[] = {{3, 1}, {10, 1}}, infinite[] = {{3, INFINITY}};
    static const llm_logit_bias forbid[] = {{0, -INFINITY}, {1, -INFINITY}};
    const llm_allocator none = {count_allocate, count_release, NULL};
    llm_sampler_desc d;
    llm_sampler *s, *other, *made;
    uint32_t tokens[] = {0, 1, 2}, mask = 0;
    float x[2] = {NAN, -INFINITY};
    llm_sample out;
    llm_candidate c;
    size_t count, bytes;
    char message[128];
#define BAD(field, value, message) \
    (memset(&d, 0, sizeof d), d.field = value, (void)0); \
    SAYS(llm_sampler_query(&d, 10, NULL, NULL, &e), LLM_ERROR_ARGUMENT, message)
    BAD(temperature, -1, "sampler: temperature is -1; expected 0 (default) or 0.0001 to 10000");
    BAD(temperature, INFINITY, "sampler: temperature is inf; expected 0 (default) or 0.0001 to 10000");
    BAD(temperature, NAN, "sampler: temperature is nan; expected 0 (default) or 0.0001 to 10000");
    BAD(top_p, 1.5f, "sampler: top_p is 1.5; expected 0 to 1");
    BAD(typical_p, -INFINITY, "sampler: typical_p is -inf; expected 0 to 1");
    BAD(min_p, 2, "sampler: min_p is 2; expected 0 to 1");
    BAD(repetition_penalty, 200, "sampler: repetition_penalty is 200; expected 0 (default) or 0.01 to 100");
    BAD(frequency_penalty, 101, "sampler: frequency_penalty is 101; expected -100 to 100");
    BAD(presence_penalty, -101, "sampler: presence_penalty is -101; expected -100 to 100");
    BAD(penalty_window, 65537, "sampler: penalty_window is 65537; expected 0 to 65536");
    BAD(top_logprobs, 1025, "sampler: top_logprobs is 1025; expected 0 to 1024");
    BAD(bias_count, 1, "sampler: bias_count is 1 with bias NULL; expected at most 2097152 entries");
#undef BAD
    memset(&d, 0, sizeof d);
    SAYS(llm_sampler_query(&d, 0, NULL, NULL, &e), LLM_ERROR_ARGUMENT, "sampler: vocab is 0; expected 1 to 2097152");
    d.bias = outside, d.bias_count = 3000000;
    SAYS(llm_sampler_query(&d, 10, NULL, NULL, &e), LLM_ERROR_ARGUMENT,
         "sampler: bias_count is 3000000 with bias set; expected at most 2097152 entries");
    d.bias_count = 2;
    SAYS(llm_sampler_query(&d, 10, NULL, NULL, &e), LLM_ERROR_ARGUMENT,
         "sampler: bias[1].token is 10; expected less than the 10 tokens of the vocabulary");
    d.bias = infinite, d.bias_count = 1;
    SAYS(llm_sampler_query(&d, 10, NULL, NULL, &e), LLM_ERROR_ARGUMENT,
         "sampler: bias[0].bias is inf; expected a finite number or -inf");
    SAYS(llm_sampler_create(NULL, 2, NULL, NULL, &e), LLM_ERROR_ARGUMENT, "llm_sampler_create: sampler is NULL");
    CHECK(!llm_sampler_query(NULL, 2, NULL, &bytes, NULL), "the size");
    (void)snprintf(message, sizeof message, "sampler: no memory for %lu bytes", (unsigned long)bytes);
    fail_at = calls + 1;
    SAYS(llm_sampler_create(NULL, 2, &none, &s, &e), LLM_ERROR_MEMORY, message);
    fail_at = 0;
    s = make(NULL, 2);
    SAYS(llm_sampler_sample(s, x, NULL, &out, &e), LLM_ERROR_NUMERIC, "sampler, position 0: none of 2 logits is finite");
    SAYS(llm_sampler_sample(s, x, &mask, &out, &e), LLM_ERROR_NUMERIC,
         "sampler, position 0: none of 2 logits is finite and allowed by the mask");
    SAYS(llm_sampler_distribution(s, x, NULL, &c, 1, &count, &e), LLM_ERROR_NUMERIC,
         "sampler, position 0: none of 2 logits is finite");
    SAYS(llm_sampler_sample(NULL, x, NULL, &out, &e), LLM_ERROR_ARGUMENT, "llm_sampler_sample: sampler is NULL");
    SAYS(llm_sampler_sample(s, NULL, NULL, &out, &e), LLM_ERROR_ARGUMENT, "llm_sampler_sample: logits is NULL");
    SAYS(llm_sampler_sample(s, x, NULL, NULL, &e), LLM_ERROR_ARGUMENT, "llm_sampler_sample: out is NULL");
    SAYS(llm_sampler_distribution(NULL, x, NULL, &c, 1, &count, &e), LLM_ERROR_ARGUMENT,
         "llm_sampler_distribution: sampler is NULL");
    SAYS(llm_sampler_distribution(s, NULL, NULL, &c, 1, &count, &e), LLM_ERROR_ARGUMENT,
         "llm_sampler_distribution: logits is NULL");
    SAYS(llm_sampler_distribution(s, x, NULL, &c, 1, NULL, &e), LLM_ERROR_ARGUMENT,
         "llm_sampler_distribution: count is NULL");
    SAYS(llm_sampler_distribution(s, x, NULL, NULL, 1, &count, &e), LLM_ERROR_ARGUMENT,
         "llm_sampler_distribution: candidates is NULL");
    SAYS(llm_sampler_accept(s, 2, &e), LLM_ERROR_ARGUMENT, "sampler: token 2; expected less than the 2 tokens of the vocabulary");
    SAYS(llm_sampler_accept(NULL, 2, &e), LLM_ERROR_ARGUMENT, "llm_sampler_accept: sampler is NULL");
    SAYS(llm_sampler_rewind(NULL, 0, NULL, 0, &e), LLM_ERROR_ARGUMENT, "llm_sampler_rewind: sampler is NULL");
    SAYS(llm_sampler_rewind(s, 0, NULL, 1, &e), LLM_ERROR_ARGUMENT, "llm_sampler_rewind: tokens is NULL");
    SAYS(llm_sampler_copy(NULL, s, &e), LLM_ERROR_ARGUMENT, "llm_sampler_copy: to is NULL");
    SAYS(llm_sampler_copy(s, NULL, &e), LLM_ERROR_ARGUMENT, "llm_sampler_copy: from is NULL");
    memset(&d, 0, sizeof d);
    d.presence_penalty = 1, d.bias = forbid, d.bias_count = 2;
    other = make(&d, 2);
    SAYS(llm_sampler_copy(other, s, &e), LLM_ERROR_ARGUMENT,
         "llm_sampler_copy: from 2 tokens, window 0 to 2 tokens, window 64; expected the same");
    SAYS(llm_sampler_rewind(other, 3, tokens, 3, &e), LLM_ERROR_ARGUMENT,
         "sampler: token 2; expected less than the 2 tokens of the vocabulary");
    x[0] = x[1] = 1;
    CHECK(!llm_sampler_accept(other, 1, NULL), "accept");
    SAYS(llm_sampler_sample(other, x, NULL, &out, &e), LLM_ERROR_NUMERIC,
         "sampler, position 1: none of 2 logits is finite and allowed by the bias");
    CHECK(!llm_sampler_create(NULL, 2, NULL, &made, NULL) && !llm_sampler_copy(made, made, NULL), "of itself");
    llm_sampler_destroy(s), llm_sampler_destroy(other), llm_sampler_destroy(made);
    llm_sampler_reseed(NULL, 1, 2);
    CHECK(!llm_sampler_position(NULL) && !llm_sampler_seed(NULL), "of no sampler");
}

static void test_arguments(void) {
    static const float bad_p[] = {-0.001f, 1.001f, NAN, -NAN, INFINITY, -INFINITY};
    static const float bad_t[] = {-1, 0.00009f, 10001, NAN, INFINITY, -INFINITY};
    static const float bad_r[] = {-1, 0.009f, 100.5f, NAN, INFINITY, -INFINITY};
    static const float bad_f[] = {-100.5f, 100.5f, NAN, -NAN, INFINITY, -INFINITY};
    llm_sampler_desc d;
    llm_logit_bias bias[2] = {{0, 0}, {0, 0}};
    llm_sampler *s;
    llm_sample out;
    llm_error e;
    size_t i, count;
#define REFUSE(member, value, vocab)                                                               \
    do {                                                                                           \
        memset(&d, 0, sizeof d);                                                                   \
        d.member = value;                                                                          \
        refuse(&d, vocab, #member);                                                                \
    } while (0)
    for (i = 0; i < 6; i++) {
        REFUSE(temperature, bad_t[i], 10);
        REFUSE(typical_p, bad_p[i], 10);
        REFUSE(top_p, bad_p[i], 10);
        REFUSE(min_p, bad_p[i], 10);
        REFUSE(repetition_penalty, bad_r[i], 10);
        REFUSE(frequency_penalty, bad_f[i], 10);
        REFUSE(presence_penalty, bad_f[i], 10);
    }
    REFUSE(penalty_window, 65537, 10);
    REFUSE(top_logprobs, 1025, 10);
    REFUSE(bias_count, 1, 10); /* bias is NULL */
    REFUSE(bias_count, (size_t)-1, 10);
    memset(&d, 0, sizeof d);
    refuse(&d, 0, "vocab");
    refuse(&d, ((size_t)1 << 21) + 1, "vocab");
    d.bias = bias;
    d.bias_count = 2;
    bias[1].token = 10;
    refuse(&d, 10, "bias[1].token");
    bias[1].token = 9;
    bias[1].bias = NAN;
    refuse(&d, 10, "bias[1].bias");
    bias[1].bias = INFINITY;
    refuse(&d, 10, "bias[1].bias");
    bias[1].bias = -INFINITY;
    CHECK(!llm_sampler_query(&d, 10, NULL, NULL, NULL), "-inf is a bias");
    CHECK(llm_sampler_create(NULL, 10, NULL, NULL, &e) == LLM_ERROR_ARGUMENT, "NULL out");
    CHECK(llm_sampler_create(NULL, 10, NULL, &s, NULL) == LLM_OK, "NULL desc is greedy");
    CHECK(llm_sampler_sample(NULL, logits, NULL, &out, &e) == LLM_ERROR_ARGUMENT, "NULL sampler");
    CHECK(llm_sampler_sample(s, NULL, NULL, &out, &e) == LLM_ERROR_ARGUMENT, "NULL logits");
    CHECK(llm_sampler_sample(s, logits, NULL, NULL, &e) == LLM_ERROR_ARGUMENT, "NULL out");
    CHECK(llm_sampler_distribution(s, logits, NULL, NULL, 3, &count, &e) == LLM_ERROR_ARGUMENT,
          "NULL list");
    CHECK(llm_sampler_rewind(s, 0, NULL, 3, &e) == LLM_ERROR_ARGUMENT, "NULL tokens");
    CHECK(llm_sampler_copy(s, NULL, &e) == LLM_ERROR_ARGUMENT, "NULL from");
    CHECK(llm_sampler_accept(NULL, 0, NULL) == LLM_ERROR_ARGUMENT, "NULL sampler");
    llm_sampler_destroy(s);
    for (i = 0; i < 4; i++) { /* the ends of the ranges are in */
        memset(&d, 0, sizeof d);
        d.temperature = i % 2 ? 1e-4f : 1e4f;
        d.repetition_penalty = i % 2 ? 0.01f : 100.0f;
        d.top_p = d.min_p = d.typical_p = i < 2 ? 1.0f : 1e-30f;
        fill(logits, 500, 0);
        s = make(&d, 500);
        CHECK(!llm_sampler_sample(s, logits, NULL, &out, &e), "ends of the ranges");
        llm_sampler_destroy(s);
    }
}

int main(void) {
    test_chain();
    test_draws();
    test_logprobs();
    test_odd();
    test_state();
    test_arguments();
    test_messages();
    return check_report("sampler");
}
