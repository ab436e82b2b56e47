/* Samplers: every setting from the input, most often in range, and logits that may be anything. */
#include "fuzz.h"

#define LOGITS 70u

static float take_float(fuzz_input *in, float low, float high) {
    static const uint32_t odd[] = {0x7fc00000u, 0xffc00000u, 0x7f800000u, 0xff800000u, 0x80000000u, 1u,
                                   0x7f7fffffu, 0xff7fffffu, 0x00800000u, 0x3f800000u};
    uint32_t kind = fuzz_below(in, 256);
    if (kind < 160) return low + (high - low) * (float)fuzz_below(in, 65536) / 65535.0f;
    if (kind < 240) return 0;
    return kind < 250 ? llm__float(odd[kind - 240]) : llm__float((uint32_t)fuzz_take(in, 4));
}

static void check_sample(llm_result r, const llm_sample *s, const llm_error *error, const float *logits,
                         const uint32_t *mask) {
    size_t i;
    fuzz_refusal(r, error);
    if (r) return;
    FUZZ_CHECK(s->token < LOGITS, "token %u", (unsigned)s->token);
    FUZZ_CHECK(!mask || mask[s->token / 32] >> s->token % 32 & 1, "a token that the mask forbids");
    FUZZ_CHECK((llm__bits(logits[s->token]) & 0x7fffffffu) <= 0x7f800000u, "a NaN was chosen");
    FUZZ_CHECK(llm__bits(logits[s->token]) != 0xff800000u, "minus infinity was chosen");
    for (i = 0; i < s->top_count; i++) FUZZ_CHECK(s->top[i].token < LOGITS, "a listed token");
}

static void use_sampler(llm_sampler *s, fuzz_input *in) {
    float logits[LOGITS];
    uint32_t mask[(LOGITS + 31) / 32], i, round;
    llm_candidate list[LOGITS];
    llm_error error;
    for (round = 0; round < 3 && (!round || in->size); round++) {
        llm_sample a, b;
        llm_result r, again;
        size_t count = 0;
        bool masked = fuzz_below(in, 4) == 0;
        for (i = 0; i < LOGITS; i++) logits[i] = take_float(in, -12, 12);
        for (i = 0; i < sizeof mask / sizeof *mask; i++) mask[i] = (uint32_t)fuzz_take(in, 4);
        memset(&error, 0, sizeof error);
        r = llm_sampler_sample(s, logits, masked ? mask : NULL, &a, &error);
        check_sample(r, &a, &error, logits, masked ? mask : NULL);
        again = llm_sampler_sample(s, logits, masked ? mask : NULL, &b, &error);
        FUZZ_CHECK(r == again && (r || a.token == b.token), "asked again, it says something else");
        again = llm_sampler_distribution(s, logits, masked ? mask : NULL, list, LOGITS, &count, &error);
        FUZZ_CHECK(r == again && (r || (count > 0 && count <= LOGITS)), "%s and %s, %zu tokens",
                   llm_result_name(r), llm_result_name(again), count);
        for (i = 0; !r && i < count && list[i].token != a.token; i++) continue;
        FUZZ_CHECK(r || i < count, "token %u is not in its distribution", (unsigned)a.token);
        (void)llm_sampler_accept(s, r ? fuzz_below(in, 256) : a.token, &error);
        if (fuzz_below(in, 8) == 0) {
            uint32_t past[4];
            for (i = 0; i < 4; i++) past[i] = fuzz_below(in, LOGITS + 4);
            (void)llm_sampler_rewind(s, fuzz_below(in, 8), past, fuzz_below(in, 5), &error);
        }
    }
}

static int fuzz_sampler(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    fuzz_memory memory;
    llm_sampler_desc d, resolved;
    llm_logit_bias bias[4];
    llm_sampler *s;
    llm_error error;
    llm_result r;
    llm_allocator allocator;
    size_t bytes = 0;
    uint32_t i;
    memset(&memory, 0, sizeof memory);
    memset(&error, 0, sizeof error);
    memset(&d, 0, sizeof d);
    memory.fail_at = fuzz_below(&in, 8) == 0;
    d.temperature = take_float(&in, 0, 3);
    d.top_k = fuzz_below(&in, 3) ? fuzz_below(&in, 100) : (uint32_t)fuzz_take(&in, 4);
    d.typical_p = take_float(&in, 0, 1);
    d.top_p = take_float(&in, 0, 1);
    d.min_p = take_float(&in, 0, 1);
    d.repetition_penalty = take_float(&in, 0.01f, 4);
    d.frequency_penalty = take_float(&in, -4, 4);
    d.presence_penalty = take_float(&in, -4, 4);
    d.penalty_window = fuzz_below(&in, 32) ? fuzz_below(&in, 20) : fuzz_below(&in, 70000);
    d.logprobs = fuzz_below(&in, 2);
    d.top_logprobs = fuzz_below(&in, 3) ? 0 : fuzz_below(&in, 1100);
    d.seed = fuzz_take(&in, 8), d.stream = fuzz_take(&in, 1);
    d.bias_count = fuzz_below(&in, 5), d.bias = bias;
    for (i = 0; i < 4; i++) bias[i].token = fuzz_below(&in, 74), bias[i].bias = take_float(&in, -5, 5);
    allocator = fuzz_allocator(&memory);
    r = llm_sampler_query(&d, LOGITS, &resolved, &bytes, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) {
        r = llm_sampler_create(&d, LOGITS, &allocator, &s, &error);
        fuzz_refusal(r, &error);
        FUZZ_CHECK(r == (memory.fail_at ? LLM_ERROR_MEMORY : LLM_OK), "%s", llm_result_name(r));
        if (r == LLM_OK) {
            FUZZ_CHECK(memory.bytes == bytes, "%zu bytes, the query says %zu", memory.bytes, bytes);
            use_sampler(s, &in);
            llm_sampler_destroy(s);
        }
    } else {
        FUZZ_CHECK(llm_sampler_create(&d, LOGITS, &allocator, &s, &error) == r, "the query refused it");
    }
    fuzz_balance(&memory);
    return 0;
}
