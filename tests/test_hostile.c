/* Weights and hyperparameters at the ends of what floats can be: NaN, infinities, denormals, the largest. Every
   instruction set, cache and cut of the prompt gives the same bits, a NaN's too; the session goes on afterwards,
   and a sampler that sees nothing finite says so. tests/hostile.py compares the hash at the end between compilers.

       test_hostile FOLDER [--hash]   --hash: not for each instruction set in turn, only the hash */
#define LLM_NO_TEMPLATE /* half of the time to compile */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include "image.h"

#define TOKENS 4u

static image good, f;
static uint64_t hash = 0xcbf29ce484222325u;
static uint32_t tests;
static bool brief; /* --hash */
static size_t with_nan, without_nan;

static uint32_t random_state = 1;
static uint32_t random_u32(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state ^ random_state >> 15;
}

/* ---- evaluation ---- */

static llm_model *open_image(const char *what) {
    llm_model_desc desc;
    llm_model *model;
    llm_error error;
    memset(&desc, 0, sizeof desc);
    desc.data = f.data, desc.size = f.size, desc.error = &error;
    if (llm_model_open(&model, &desc)) {
        CHECK(false, "%s: %s", what, error.text);
        return NULL;
    }
    return model;
}

static llm_session *session_of(const llm_model *model, const char *isa, llm_kv kv) {
    llm_session_desc desc;
    llm_session *session = NULL;
    memset(&desc, 0, sizeof desc);
    desc.model = model, desc.context = 80, desc.rows = TOKENS, desc.logits = TOKENS, desc.isa = isa, desc.kv = kv;
    CHECK(llm_session_create(&session, &desc) == LLM_OK, "%s", isa);
    return session;
}

/* Evaluates four tokens in pieces of `piece`; keeps the logits of each, [TOKENS][vocab]. */
static void evaluate(llm_session *session, uint32_t vocab, uint32_t piece, float *logits, const char *what) {
    const int32_t ids[TOKENS] = {5, (int32_t)vocab - 1, 5, 17};
    uint32_t i, k;
    for (i = 0; i < TOKENS; i += piece) {
        const llm_result r = llm_eval(session, ids + i, piece);
        CHECK(r == LLM_OK, "%s: %s", what, llm_result_name(r));
        for (k = 0; k < piece && !r; k++)
            memcpy(logits + (size_t)(i + k) * vocab, llm_session_logits(session, piece - 1 - k), vocab * sizeof *logits);
    }
}

/* A token, or the reason why there is none. */
static void sample(const float *logits, uint32_t vocab, const char *what) {
    llm_sampler_desc desc;
    llm_sampler *sampler = NULL;
    llm_sample chosen;
    llm_error error;
    uint32_t i, usable = 0;
    llm_result r;
    for (i = 0; i < vocab; i++) {
        const uint32_t bits = llm__u32(logits + i);
        CHECK((bits & 0x7fffffffu) <= 0x7f800000u || bits == 0x7fc00000u, "%s: a NaN of bits %08x", what, bits);
        usable += (bits & 0x7fffffffu) <= 0x7f800000u && bits != 0xff800000u;
    }
    with_nan += usable < vocab, without_nan += usable == vocab;
    memset(&desc, 0, sizeof desc);
    if (tests % 2) desc.temperature = 1, desc.top_p = 0.9f, desc.top_k = tests % 3 ? 40 : 0, desc.logprobs = true;
    if (llm_sampler_create(&desc, vocab, NULL, &sampler, NULL)) exit(1);
    r = llm_sampler_sample(sampler, logits, NULL, &chosen, &error);
    if (usable)
        CHECK(r == LLM_OK && chosen.token < vocab && llm__u32(logits + chosen.token) != 0x7fc00000u, "%s: %s", what,
              llm_result_name(r));
    else
        CHECK(r == LLM_ERROR_NUMERIC && strstr(error.text, "is finite"), "%s: %s", what, llm_result_name(r));
    llm_sampler_destroy(sampler);
}

static void add_to_hash(const float *logits, size_t count) {
    size_t i;
    for (i = 0; i < count; i++) hash = (hash ^ llm__u32(logits + i)) * 0x100000001b3u;
}

/* The file as it is now: the same bits from everyone. */
static void compare(const char *what) {
    llm_model *model = open_image(what);
    const llm_kv kv = (llm_kv)(tests++ % LLM_KV_COUNT);
    uint32_t vocab, i;
    float *want, *got;
    if (!model) return;
    vocab = fixture_vocab(model);
    want = (float *)calloc((size_t)2 * TOKENS * vocab, sizeof *want);
    if (!want) exit(1);
    got = want + (size_t)TOKENS * vocab;
    for (i = 0; llm_isa_name(i) && !(brief && i); i++) {
        llm_session *session = session_of(model, llm_isa_name(i), kv);
        evaluate(session, vocab, TOKENS, i ? got : want, what);
        CHECK(!i || !memcmp(want, got, TOKENS * vocab * sizeof *want), "%s: %s and %s differ (kv %d)", what,
              llm_isa_name(0), llm_isa_name(i), (int)kv);
        if (!i) { /* the same session once more, token by token and in pairs */
            CHECK(llm_session_rewind(session, 0) == LLM_OK, "%s", what);
            evaluate(session, vocab, 1 + tests % 2, got, what);
            CHECK(!memcmp(want, got, TOKENS * vocab * sizeof *want), "%s: another cut differs (kv %d)", what, (int)kv);
            sample(want + (TOKENS - 1) * vocab, vocab, what);
        }
        llm_session_destroy(session);
    }
    add_to_hash(want, TOKENS * vocab);
    free(want);
    llm_model_close(model);
}

/* ---- weights ---- */

static const uint32_t floats[] = {0x7fc00000u, 0xffc00001u, 0x7f800001u, 0x7f800000u, 0xff800000u, 0x7f7fffffu,
                                  0xff7fffffu, 0x00000001u, 0x80000000u, 0x00800000u, 0x7e000000u, 0x0da24261u};
#define FLOATS (sizeof floats / sizeof *floats)
#define PATTERNS (FLOATS + 3) /* all of them in turn, random bits, one at one place */

static uint32_t float_of(size_t pattern, size_t i) {
    if (pattern < FLOATS) return floats[pattern];
    return pattern == FLOATS ? floats[i % FLOATS] : random_u32();
}

static void fill_floats(uint8_t *to, size_t count, size_t width, size_t pattern) {
    size_t i, one = random_u32() % count;
    for (i = 0; i < count; i++) {
        const uint32_t bits = float_of(pattern, i);
        if (pattern == FLOATS + 2 && i != one) continue;
        memcpy(to + i * width, (const uint8_t *)&bits + (4 - width), width);
    }
}

/* Scales, and in some patterns parameters and codes as well. */
static void fill_panels(const llm__file_tensor *t, size_t pattern) {
    static const uint8_t codes[] = {0x00, 0xff, 0x80, 0x7f};
    const uint32_t padded = llm__padded(t->cols);
    const size_t size = llm__panel_size(t->type, padded);
    const size_t scales = (size_t)padded / llm__super_block(padded) * 16;
    size_t i, k;
    for (i = 0; i < t->size / size; i++) {
        uint8_t *panel = f.data + t->offset + i * size;
        fill_floats(panel, scales, 2, pattern);
        for (k = 2 * scales; k < size && pattern % 3 == 0; k++)
            panel[k] = pattern > FLOATS ? (uint8_t)random_u32() : codes[pattern % 4];
    }
}

static void fill_tensor(const llm__file_tensor *t, size_t pattern) {
    if (t->role == LLM__ROPE)
        fill_floats(f.data + t->offset, 2 * (size_t)t->cols, 4, pattern);
    else if (llm__formats[t->type].size)
        fill_floats(f.data + t->offset, (size_t)t->size / llm__formats[t->type].size, llm__formats[t->type].size, pattern);
    else
        fill_panels(t, pattern);
}

/* A tensor of the first layer, or of none; all at once for `all`. `step`: every so many patterns. */
static void test_weights(const char *name, const char *type, bool all, size_t step) {
    const llm__file_tensor *t;
    char what[160], tensor[64];
    size_t i, pattern, count;
    good.data = (uint8_t *)fixture_read(fixture_model_path(name, type), &good.size);
    f = copy_of(&good);
    t = (const llm__file_tensor *)(const void *)(good.data + section_of(&good, LLM__SECTION_TDIR)->offset);
    count = (size_t)section_of(&good, LLM__SECTION_TDIR)->size / sizeof *t;
    for (pattern = 0; pattern < PATTERNS && all; pattern++) {
        (void)snprintf(what, sizeof what, "%s %s, all tensors, pattern %zu", name, type, pattern);
        for (i = 0; i < count; i++) fill_tensor(&t[i], pattern);
        compare(what);
        memcpy(f.data, good.data, f.size);
    }
    for (i = 0; i < count; i++)
        for (pattern = i % step; pattern < PATTERNS && (t[i].layer == 0 || t[i].layer == LLM__NONE); pattern += step) {
            (void)snprintf(what, sizeof what, "%s %s, %s, pattern %zu", name, type,
                           llm__tensor_name(tensor, t[i].role, t[i].layer), pattern);
            fill_tensor(&t[i], pattern);
            compare(what);
            memcpy(f.data + t[i].offset, good.data + t[i].offset, (size_t)t[i].size);
        }
    free(good.data), free(f.data);
}

/* Only some positions are spoilt: the second token's embedding. Those before it stay as they are, those after it
   look at its key and value. */
static void test_positions(const char *name) {
    const llm__file_tensor *t;
    size_t pattern, k;
    char what[120];
    good.data = (uint8_t *)fixture_read(fixture_model_path(name, "f32"), &good.size);
    f = copy_of(&good);
    t = tensor_of(&good, LLM__EMBEDDING, LLM__NONE);
    for (pattern = 0; pattern < 2 * PATTERNS; pattern++) {
        uint8_t *panel = f.data + t->offset + (t->rows - 1) / 16 * llm__panel_size(LLM_F32, llm__padded(t->cols));
        for (k = 0; k < t->cols; k++) {
            const uint32_t bits = float_of(pattern / 2, k);
            memcpy(panel + (k * 16 + (t->rows - 1) % 16) * 4, &bits, 4);
        }
        (void)snprintf(what, sizeof what, "%s, one token, pattern %zu", name, pattern / 2);
        compare(what);
        memcpy(f.data, good.data, f.size);
    }
    free(good.data), free(f.data);
}

/* ---- hyperparameters ---- */

static void test_description(const char *name, const char *type) {
    static const uint32_t values[] = {0, 0x80000000u, 1, 0x00800000u, 0x7f7fffffu, 0xff7fffffu, 0xbf800000u, 0x7149f2cau};
    static const uint32_t caps[] = {0x80000000u, 0x0da24260u, 0x7149f2cau, 0x41f00000u};
    static const uint32_t epsilons[] = {1, 0x00800000u, 0x3f800000u, 0x7f7fffffu};
    static const uint32_t activations[] = {LLM__ACT_SILU, LLM__ACT_GELU_TANH, LLM__ACT_RELU, LLM__ACT_RELU2};
    const size_t first = offsetof(llm__file_desc, query_scale), cap = offsetof(llm__file_desc, attention_softcap);
    size_t at, i, k;
    char what[120];
    good.data = (uint8_t *)fixture_read(fixture_model_path(name, type), &good.size);
    f = copy_of(&good);
#define CHANGED(offset, bits, ...)                                     \
    do {                                                               \
        memcpy((uint8_t *)desc_of(&f) + (offset), &(bits), 4);         \
        seal(&f);                                                      \
        (void)snprintf(what, sizeof what, __VA_ARGS__);                \
        compare(what);                                                 \
        memcpy(f.data, good.data, f.size);                             \
    } while (0)
    for (at = first; at < cap; at += 4)
        for (i = 0; i < sizeof values / sizeof *values; i++)
            for (k = 0; k < 2; k++) /* with caps and without */ {
                if (k) desc_of(&f)->attention_softcap = 50, desc_of(&f)->logit_softcap = 1e30f;
                CHANGED(at, values[i], "%s %s, description %zu is %08x, caps %zu", name, type, at, values[i], k);
            }
    for (at = cap; at < cap + 8; at += 4)
        for (i = 0; i < sizeof caps / sizeof *caps; i++)
            CHANGED(at, caps[i], "%s %s, cap %zu is %08x", name, type, at, caps[i]);
    at = offsetof(llm__file_desc, norm_epsilon);
    for (i = 0; i < sizeof epsilons / sizeof *epsilons; i++)
        CHANGED(at, epsilons[i], "%s %s, epsilon is %08x", name, type, epsilons[i]);
    at = offsetof(llm__file_desc, activation);
    for (i = 0; i < sizeof activations / sizeof *activations; i++)
        for (k = 0; k < 2; k++) {
            if (k) fill_tensor(tensor_of(&good, LLM__FFN_NORM, 0), PATTERNS - 3);
            CHANGED(at, activations[i], "%s %s, activation %u, norm %zu", name, type, activations[i], k);
        }
    free(good.data), free(f.data);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    brief = count > 2 && !strcmp(arguments[2], "--hash");
    test_weights("llama-tied", "f32", true, 1);
    test_weights("llama-tied", "q4", true, 1);
    test_weights("llama-odd", "q8", true, 4);
    test_weights("llama-odd", "bf16", true, 4);
    test_weights("gemma-pattern", "q6", true, 8);
    test_weights("gemma-pattern", "q3", true, 8);
    test_weights("llama-tied", "q5", true, 8);
    test_weights("bitnet", "q2", true, 8);
    test_positions("llama-tied");
    test_positions("llama-odd");
    test_description("llama-tied", "q4");
    CHECK(with_nan > 50 && without_nan > 50, "%zu models with NaN, %zu without", with_nan, without_nan);
    printf("%u models, %zu with NaN; hash %016llx\n", tests, with_nan, (unsigned long long)hash);
    return check_report("hostile");
}
