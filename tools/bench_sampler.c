/* How long a token takes to choose, in microseconds of processor time: the median of many, for the usual settings.

       cc -O2 tools/bench_sampler.c -o build/bench-sampler -lm -lpthread && build/bench-sampler [VOCAB [LOGITS]]

   LOGITS holds 8 x VOCAB floats (`evaluate --logits` writes such files); without it they are made up:
   normally distributed, with a few hundred that stand out. */
#define LLM_IMPLEMENTATION
#define LLM_STATIC
#include "../llm.h"
#include <time.h>

enum { ROUNDS = 31, SETS = 8, WINDOW = 512 };

static const struct {
    const char *name;
    llm_sampler_desc desc;
} cases[] = {
    {"greedy", {.temperature = 0}},
    {"greedy, penalties", {.temperature = 0, .repetition_penalty = 1.1f, .penalty_window = WINDOW}},
    {"temperature 1", {.temperature = 1}},
    {"temperature 1, log-probabilities", {.temperature = 1, .logprobs = true}},
    {"top-k 40", {.temperature = 0.8f, .top_k = 40}},
    {"top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f}},
    {"min-p 0.05", {.temperature = 0.8f, .min_p = 0.05f}},
    {"typical-p 0.9", {.temperature = 0.8f, .typical_p = 0.9f}},
    {"penalties", {.temperature = 0.8f, .repetition_penalty = 1.1f, .frequency_penalty = 0.2f, .penalty_window = WINDOW}},
    {"top-k 40, top-p 0.95, penalties",
     {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1.1f, .frequency_penalty = 0.2f,
      .penalty_window = WINDOW}},
    {"top-k 40, top-p, penalties, top 20 log-probabilities",
     {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repetition_penalty = 1.1f, .frequency_penalty = 0.2f,
      .penalty_window = WINDOW, .logprobs = true, .top_logprobs = 20}},
};

static uint64_t state = 1;
static float uniform(void) { return (float)(llm_random(7, 7, state++) >> 40) / 16777216.0f; }

/* `sharp`: how far the best ones stand out. */
static void make_logits(float *logits, size_t vocab, float sharp) {
    size_t i;
    for (i = 0; i < vocab; i++) {
        float sum = 0;
        int k;
        for (k = 0; k < 12; k++) sum += uniform();
        logits[i] = 2.5f * (sum - 6) - 5;
    }
    for (i = 0; i < 300; i++) {
        const float u = uniform();
        logits[llm_random(9, 9, state++) % vocab] = sharp * (1 - u * u) + 2 * uniform();
    }
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    const size_t vocab = argc > 1 ? (size_t)atol(argv[1]) : 262144;
    float *logits = (float *)malloc(SETS * vocab * sizeof *logits);
    uint64_t times[ROUNDS];
    size_t i, k;
    if (!logits) return 1;
    for (i = 0; i < SETS; i++) make_logits(logits + i * vocab, vocab, 6 + 2 * (float)i);
    if (argc > 2) {
        FILE *file = fopen(argv[2], "rb");
        if (!file || fread(logits, sizeof *logits, SETS * vocab, file) != SETS * vocab)
            return printf("%s: not %d x %zu floats\n", argv[2], SETS, vocab), 1;
        fclose(file);
    }
    for (k = 0; k < sizeof cases / sizeof *cases; k++) {
        llm_sampler *s;
        llm_error error;
        uint64_t tokens = 0;
        if (llm_sampler_create(&cases[k].desc, vocab, NULL, &s, &error)) return puts(error.text), 1;
        for (i = 0; i < WINDOW; i++) llm_sampler_accept(s, (uint32_t)(llm_random(3, 3, i / 2) % vocab), NULL);
        for (i = 0; i < ROUNDS; i++) {
            const clock_t start = clock();
            size_t set;
            for (set = 0; set < SETS; set++) {
                llm_sample sample;
                if (llm_sampler_sample(s, logits + set * vocab, NULL, &sample, &error))
                    return puts(error.text), 1;
                llm_sampler_accept(s, sample.token, NULL);
                tokens = tokens * 31 + sample.token;
            }
            times[i] = (uint64_t)((double)(clock() - start) * 1e6 / CLOCKS_PER_SEC);
        }
        qsort(times, ROUNDS, sizeof *times, ascending);
        printf("%-54s %8.1f us  (fastest %.1f; tokens %016llx)\n", cases[k].name, (double)times[ROUNDS / 2] / SETS,
               (double)times[0] / SETS, (unsigned long long)tokens);
        llm_sampler_destroy(s);
    }
    free(logits);
    return 0;
}
