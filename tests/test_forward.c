/* Logits of the small models against their references: every weight type, every KV type.

   NAME.logits are those of the `transformers` package, in float64 with exact keys and values.
   NAME.f16.logits are those of tests/reference/forward.py --kv f16, which rounds keys and values to
   16 bits as the cache does. The rounding alone moves the logits by 4e-4 to 2e-3; against the second
   reference what is left is the arithmetic, and the few values that two nearly equal numbers on both
   sides of a tie are rounded to (in a model of one layer these change no later key: 7e-7). */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include <math.h>

/* Expected logits, f32 [48][vocab]; `kind` is "logits", or "f16.logits" for 16-bit keys and values. */
static float *fixture_logits(const char *name, const char *kind, uint32_t vocab) {
    char path[256];
    size_t size;
    void *data;
    (void)snprintf(path, sizeof path, "tests/fixtures/models/%s.%s", name, kind);
    data = fixture_read(path, &size);
    if (size != (size_t)FIXTURE_TOKENS * vocab * sizeof(float)) fixture_missing(path);
    return (float *)data;
}

typedef struct difference {
    double all;   /* |a - b| / |b| over all positions */
    double worst; /* the same of the worst position */
    double kl;    /* mean KL divergence of a's distribution from b's, in nats */
} difference;

static double log_sum(const float *x, uint32_t n) {
    double most = x[0], sum = 0;
    uint32_t i;
    for (i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

static difference differ(const float *a, const float *b, uint32_t vocab) {
    difference d = {0, 0, 0};
    double all_error = 0, all_size = 0;
    uint32_t t, i;
    for (t = 0; t < FIXTURE_TOKENS; t++, a += vocab, b += vocab) {
        const double log_a = log_sum(a, vocab), log_b = log_sum(b, vocab);
        double error = 0, size = 0;
        for (i = 0; i < vocab; i++) {
            const double delta = (double)a[i] - b[i], log_p = b[i] - log_b;
            error += delta * delta, size += (double)b[i] * b[i];
            d.kl += exp(log_p) * (log_p - (a[i] - log_a)) / FIXTURE_TOKENS;
        }
        if (!(sqrt(error / size) <= d.worst)) d.worst = sqrt(error / size);
        all_error += error, all_size += size;
    }
    d.all = sqrt(all_error / all_size);
    return d;
}

/* Logits of all tokens, f32 [48][vocab]; the caller frees them. */
static float *evaluate(const llm_model *model, const char *name, llm_kv kv) {
    const uint32_t vocab = fixture_vocab(model);
    float *out = (float *)malloc((size_t)FIXTURE_TOKENS * vocab * sizeof(float));
    int32_t ids[FIXTURE_TOKENS];
    llm_session_desc desc;
    llm_session *session;
    llm_result r;
    uint32_t t;
    fixture_ids(name, ids);
    memset(&desc, 0, sizeof desc);
    desc.model = model, desc.kv = kv;
    desc.context = desc.rows = desc.logits = FIXTURE_TOKENS;
    r = llm_session_create(&session, &desc);
    if (!r) r = llm_eval(session, ids, FIXTURE_TOKENS);
    CHECK(r == LLM_OK, "%s: %s", name, llm_result_name(r));
    for (t = 0; out && !r && t < FIXTURE_TOKENS; t++) {
        const float *logits = llm_session_logits(session, FIXTURE_TOKENS - 1 - t);
        CHECK(logits != NULL, "%s: no logits at %u", name, (unsigned)t);
        if (logits) memcpy(out + (size_t)t * vocab, logits, vocab * sizeof(float));
    }
    llm_session_destroy(session);
    return out;
}

static void test_exact(const char *name) {
    llm_model *model = fixture_open(name, "f32");
    const uint32_t vocab = fixture_vocab(model);
    float *got = evaluate(model, name, LLM_KV_F16);
    float *exact = fixture_logits(name, "logits", vocab), *rounded = fixture_logits(name, "f16.logits", vocab);
    difference d = differ(got, exact, vocab), r = differ(got, rounded, vocab);
    difference rounding = differ(rounded, exact, vocab);
    printf("%-14s f32, KV f16: %.1e of the reference with rounded KV (worst position %.1e); "
           "%.1e of the exact one, %.1e of which the rounding itself\n",
           name, r.all, r.worst, d.all, rounding.all);
    CHECK(r.all < 1e-4, "%s: %g", name, r.all);
    CHECK(r.worst < 5e-4, "%s: %g", name, r.worst);
    CHECK(d.all < 1e-3 && d.all < 1.2 * rounding.all, "%s: %g", name, d.all);
    CHECK(d.worst < 2.5e-3, "%s: %g", name, d.worst);
    CHECK(d.kl < 1e-6, "%s: %g", name, d.kl);
    if (!strcmp(name, "llama-odd")) CHECK(r.worst < 5e-6, "one layer: %g", r.worst);
    free(got), free(exact), free(rounded);
    llm_model_close(model);
}

/* What a type may cost. The models are random, so these are far above what real ones show. */
static void test_types(const char *name, llm_kv kv) {
    static const struct { const char *type; double all, kl; } limits[] = {
        {"f32", 0.025, 4e-4}, {"bf16", 0.03, 6e-4}, {"q8", 0.07, 3e-3}, {"q6", 0.13, 1e-2},
        {"q5", 0.25, 4e-2},   {"q4", 0.45, 0.15},  {"q3", 0.75, 0.35}, {"q2", 1.6, 1.6}};
    const double all = kv == LLM_KV_Q4 ? 0.3 : 0, kl = kv == LLM_KV_Q4 ? 0.06 : 0; /* of 4 bits, on top */
    double before = 0;
    size_t i;
    for (i = 0; i < sizeof limits / sizeof *limits; i++) {
        llm_model *model = fixture_open(name, limits[i].type);
        const uint32_t vocab = fixture_vocab(model);
        float *got = evaluate(model, name, kv), *exact = fixture_logits(name, "logits", vocab);
        difference d = differ(got, exact, vocab);
        CHECK(d.all < limits[i].all + all, "%s %s kv %d: error %g", name, limits[i].type, (int)kv, d.all);
        CHECK(d.kl < limits[i].kl + kl, "%s %s kv %d: divergence %g", name, limits[i].type, (int)kv, d.kl);
        CHECK(d.all >= 0.9 * before, "%s %s kv %d: fewer bits, but %g after %g", name, limits[i].type,
              (int)kv, d.all, before);
        before = d.all;
        free(got), free(exact);
        llm_model_close(model);
    }
}

int main(int count, char **arguments) {
    int i;
    fixture_arguments(count, arguments);
    for (i = 0; i < FIXTURES; i++) {
        test_exact(fixture_names[i]);
        test_types(fixture_names[i], LLM_KV_F16);
        test_types(fixture_names[i], LLM_KV_Q8);
        test_types(fixture_names[i], LLM_KV_Q4);
    }
    return check_report("forward");
}
