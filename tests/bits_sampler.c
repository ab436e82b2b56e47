/* Prints a hash of tokens, log-probabilities and distributions over adversarial logits. Built by
   any compiler with any flags, the hash must be the same: bits_sampler.sh compares. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include <stdio.h>
#include <string.h>

enum { VOCAB = 5000, ROUNDS = 400, DRAWS = 8 };

/* Everything here is made of integers and exact conversions: this file gets the flags too. */
static uint64_t counter;
static uint64_t rng(void) { return llm_random(2024, 3, counter++); }
static uint32_t below(uint32_t n) { return (uint32_t)((rng() >> 32) * n >> 32); }
static float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A number of a given kind, put together from bits. */
static float number(int kind) {
    uint32_t r = (uint32_t)(rng() >> 32), sign = r & 0x80000000u, mantissa = r & 0x7fffffu;
    switch (kind) {
    case 0: return of_bits(sign | (uint32_t)(127 + 3) << 23 | mantissa); /* 8 to 16 */
    case 1:
        return of_bits(sign | (uint32_t)(127 - 6 + below(10)) << 23 | mantissa); /* 1/64 to 16 */
    case 2: return of_bits(sign | (uint32_t)(127 + below(3)) << 23 | (r & 0x700000u)); /* ties */
    case 3: return of_bits(r);               /* any float */
    case 4: return of_bits(sign | mantissa); /* denormal */
    case 5: return of_bits(sign | (uint32_t)(127 + 20 + below(100)) << 23 | mantissa); /* huge */
    case 6: return of_bits(0x41200000u + below(64)); /* 10, ulps apart */
    default: return below(9) ? of_bits(0xc0000000u | (r & 0xffffffu)) : number((int)below(7));
    }
}

/* A setting in [0, 2), in steps of 2^-12 */
static float setting(void) { return (float)(int)below(8192) * 0.000244140625f; }

static uint64_t hash = 14695981039346656037u;
static void add(uint64_t value) {
    hash = (hash ^ value) * 1099511628211u;
    hash ^= hash >> 29;
}
static void add_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    add(bits);
}

static float logits[VOCAB];
static uint32_t mask[VOCAB / 32 + 1];
static llm_candidate list[VOCAB];

static int one_round(int round) {
    llm_sampler_desc d;
    llm_logit_bias bias[8];
    llm_sampler *s;
    llm_sample out;
    llm_error e;
    size_t i, k, n = 0, vocab = 1 + below(below(3) ? VOCAB : 300);
    bool masked = below(3) == 0;
    for (i = 0; i < vocab; i++) logits[i] = number(round % 8);
    for (i = 0; i < VOCAB / 32 + 1; i++) mask[i] = (uint32_t)(rng() >> 32);
    memset(&d, 0, sizeof d);
    if (below(8)) d.temperature = 0.0625f + setting();
    if (below(2)) d.top_k = 1 + below(300);
    if (below(3) == 0) d.typical_p = setting() * 0.5f;
    if (below(2)) d.top_p = setting() * 0.5f;
    if (below(3) == 0) d.min_p = setting() * 0.125f;
    if (below(2)) d.repetition_penalty = 0.5f + setting();
    if (below(2)) d.frequency_penalty = setting() - 0.5f;
    if (below(2)) d.presence_penalty = setting() - 0.5f;
    d.penalty_window = below(70);
    d.bias = bias;
    d.bias_count = below(8);
    for (i = 0; i < d.bias_count; i++) {
        bias[i].token = below((uint32_t)vocab);
        bias[i].bias = below(5) ? setting() - 1 : of_bits(0xff800000u);
    }
    d.top_logprobs = below(30);
    d.logprobs = true;
    d.seed = rng();
    d.stream = rng();
    if (llm_sampler_create(&d, vocab, NULL, &s, &e)) {
        printf("%s\n", e.text);
        return 1;
    }
    for (i = below(100); i > 0; i--) (void)llm_sampler_accept(s, below((uint32_t)vocab), NULL);
    for (i = 0; i < DRAWS; i++) {
        llm_result r = llm_sampler_sample(s, logits, masked ? mask : NULL, &out, &e);
        add((uint64_t)r);
        add(out.token);
        add_float(out.logprob);
        for (k = 0; k < out.top_count; k++) {
            add(out.top[k].token);
            add_float(out.top[k].logprob);
        }
        if (r == LLM_OK) (void)llm_sampler_accept(s, out.token, NULL);
    }
    add((uint64_t)llm_sampler_distribution(s, logits, masked ? mask : NULL, list, VOCAB, &n, &e));
    add(n);
    for (i = 0; i < n; i++) {
        add(list[i].token);
        add_float(list[i].logprob);
    }
    llm_sampler_destroy(s);
    return 0;
}

int main(void) {
    int round;
    for (round = 0; round < ROUNDS; round++)
        if (one_round(round)) return 1;
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
