/* bench: how fast a model is evaluated here, and how much of the machine that uses. */
#include "options.h"

static const char *model_path, *isa, *kv = "q8", *thread_list = "1";
static bool as_json;
static uint32_t prompt = 512, decode = 128, rounds = 5;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"-p", OPTION_COUNT, &prompt, "N", "tokens of the prompt (default 512; 0: not measured)",
     false},
    {"-n", OPTION_COUNT, &decode, "N",
     "tokens decoded one by one from an empty context (default 128)", false},
    {"-t", OPTION_TEXT, &thread_list, "N,N", "numbers of threads, one after the other (default 1)",
     false},
    {"-r", OPTION_COUNT, &rounds, "N", "rounds, of which the median counts (default 5)", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set: avx2, scalar; by default the best",
     false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default) or f16", false},
    {"--json", OPTION_FLAG, &as_json, NULL, "one JSON object a line", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {"bench", "Measures prefill and decode, in tokens a second.",
                             "Bandwidth share: the bytes of weights that a token reads times "
                             "tokens a second, of what the same\n"
                             "threads read in a plain loop over 256 MB, measured in between. Peak "
                             "share: two operations per\n"
                             "weight and token, of what the same threads reach with the int8 "
                             "multiply-add of AVX2 on registers.",
                             options};

enum { MOST_THREADS = 256, MOST_ROUNDS = 101 };

/* ---- what the machine can do; on the pool's own threads, which is why this looks inside ---- */

#define STREAM_BYTES ((size_t)256 << 20)
#define PROBE_EXTRA  ((size_t)(MOST_THREADS + 1) * 64) /* results, and to align */

typedef struct probe {
    const uint8_t *memory;
    size_t bytes;          /* a lane's share */
    size_t ahead;          /* bytes to prefetch ahead */
    uint64_t (*result)[8]; /* [lanes] a cache line each: nothing is optimised away */
} probe;

#if defined(LLM__HAVE_AVX2)
__attribute__((target("avx2"))) static void read_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    const uint8_t *at = p->memory + lane * p->bytes, *end = at + p->bytes;
    __m256i a = _mm256_setzero_si256(), b = a;
    for (; at < end; at += 128) {
        _mm_prefetch((const char *)at + p->ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)at + p->ahead + 64, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)at));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(at + 32)));
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)(at + 64)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(at + 96)));
    }
    a = _mm256_xor_si256(a, b);
    _mm256_store_si256((__m256i *)(void *)p->result[lane], a);
}

enum { PEAK_LOOPS = 4000000 };

/* Eight independent chains; each step is 32 products, 16 sums of pairs, 16 sums into the chain. */
__attribute__((target("avx2"))) static void peak_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    __m256i u = _mm256_set1_epi8(3), s = _mm256_set1_epi8(1);
    __m256i c0 = u, c1 = u, c2 = u, c3 = u, c4 = u, c5 = u, c6 = u, c7 = u;
    uint32_t i;
    for (i = 0; i < PEAK_LOOPS; i++) {
        __asm__ volatile("" : "+x"(u), "+x"(s)); /* the products cannot be hoisted */
        c0 = _mm256_add_epi16(c0, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c0));
        c1 = _mm256_add_epi16(c1, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c1));
        c2 = _mm256_add_epi16(c2, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c2));
        c3 = _mm256_add_epi16(c3, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c3));
        c4 = _mm256_add_epi16(c4, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c4));
        c5 = _mm256_add_epi16(c5, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c5));
        c6 = _mm256_add_epi16(c6, _mm256_maddubs_epi16(u, s));
        __asm__ volatile("" : "+x"(u), "+x"(c6));
        c7 = _mm256_add_epi16(c7, _mm256_maddubs_epi16(u, s));
    }
    c0 = _mm256_add_epi16(_mm256_add_epi16(c0, c1), _mm256_add_epi16(c2, c3));
    c4 = _mm256_add_epi16(_mm256_add_epi16(c4, c5), _mm256_add_epi16(c6, c7));
    _mm256_store_si256((__m256i *)(void *)p->result[lane], _mm256_xor_si256(c0, c4));
}
#else
static void read_lane(void *context, uint32_t lane) {
    probe *p = (probe *)context;
    const uint64_t *at = (const uint64_t *)(const void *)(p->memory + lane * p->bytes);
    const uint64_t *end = at + p->bytes / sizeof *at;
    uint64_t sum = 0;
    for (; at < end; at++) sum += *at;
    p->result[lane][0] = sum;
}
#endif

static bool has_avx2(void) {
    uint32_t i;
    for (i = 0; llm_isa_name(i); i++)
        if (!strcmp(llm_isa_name(i), "avx2")) return true;
    return false;
}

/* Bytes a second; the best of some distances, twice each. */
static double measure_stream(llm_pool *pool, probe *p) {
    const uint32_t threads = llm_pool_threads(pool);
    double best = 0;
    int i;
#if defined(LLM__HAVE_AVX2)
    if (!has_avx2()) return 0;
#endif
    p->bytes = STREAM_BYTES / threads / 128 * 128;
    for (i = 0; i < 12; i++) {
        double start = seconds(), rate;
        p->ahead = (size_t)512 << i % 6;
        llm__pool_run(pool, read_lane, p);
        rate = (double)(p->bytes * threads) / (seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

/* Operations a second (a multiplication and an addition are two); 0: no such instruction. */
static double measure_peak(llm_pool *pool, probe *p) {
    double best = 0;
#if defined(LLM__HAVE_AVX2)
    int i;
    for (i = 0; i < 3 && has_avx2(); i++) {
        double start = seconds(), rate;
        llm__pool_run(pool, peak_lane, p);
        rate = 8.0 * 64 * PEAK_LOOPS * llm_pool_threads(pool) / (seconds() - start);
        if (rate > best) best = rate;
    }
#else
    (void)pool, (void)p;
#endif
    return best;
}

/* Resident bytes of this process; 0 where that is not known. */
static double resident(void) {
    double kb = 0;
#if defined(__linux__)
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "VmRSS:", 6)) kb = strtod(line + 6, NULL);
    if (file) (void)fclose(file);
#endif
    return kb * 1024;
}

/* ---- the model ---- */

/* What a token costs: an embedding that is not the head too is looked up, not read. */
typedef struct costs {
    double bytes; /* of weights read for a decoded token */
    double block_weights, head_weights;
} costs;

static costs count_costs(const llm_model *model) {
    const llm__tensor *head = llm__tensor_at(model, LLM__NONE, LLM__HEAD);
    const llm__tensor *embedding = llm__tensor_at(model, LLM__NONE, LLM__EMBEDDING);
    llm_model_info info;
    costs c;
    llm_model_get_info(model, &info);
    c.head_weights = (double)info.vocab * info.width;
    c.block_weights = (double)info.weights - c.head_weights * (head->data ? 2 : 1);
    c.bytes = (double)info.weight_size;
    if (head->data)
        c.bytes -= (double)((embedding->rows + 15) / 16 *
                            llm__panel_size(embedding->type, llm__padded(embedding->cols)));
    return c;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

/* Seconds for `count` tokens from an empty context, `step` at a time. */
static double run_once(llm_session *session, const int32_t *tokens, uint32_t count, uint32_t step) {
    double start;
    uint32_t i;
    CHECKED(llm_session_rewind(session, 0), llm_session_error(session));
    start = seconds();
    for (i = 0; i < count; i += step)
        CHECKED(llm_eval(session, tokens + i, step), llm_session_error(session));
    return seconds() - start;
}

static void report(const llm_model *model, const llm_session *session, const char *test,
                   uint32_t threads, uint32_t tokens, double time, double bandwidth, double peak) {
    const costs c = count_costs(model);
    const bool one = !strcmp(test, "decode");
    const double rate = tokens / time;
    const double bytes = one ? c.bytes * rate : c.bytes / time * ((tokens + 127) / 128);
    const double work = 2 * rate * (c.block_weights + c.head_weights / (one ? 1 : tokens));
    llm_model_info info;
    char shares[2][32] = {"null", "null"};
    llm_model_get_info(model, &info);
    if (bandwidth > 0) (void)snprintf(shares[0], sizeof shares[0], "%.3f", bytes / bandwidth);
    if (peak > 0) (void)snprintf(shares[1], sizeof shares[1], "%.3f", work / peak);
    if (as_json) {
        const char *at;
        (void)fputs("{\"model\": \"", stdout);
        for (at = model_path; *at; at++) {
            if (*at == '"' || *at == '\\') (void)putchar('\\');
            (void)putchar((unsigned char)*at < 32 ? '?' : *at);
        }
        (void)printf(
            "\", \"isa\": \"%s\", \"threads\": %u, \"test\": \"%s\", \"tokens\": %u, "
            "\"tokens_per_second\": %.3f, \"seconds\": %.6f, \"bytes\": %llu, "
            "\"bandwidth_share\": %s, \"peak_share\": %s}\n",
            llm_session_isa(session), (unsigned)threads, test, (unsigned)tokens, rate, time,
            (unsigned long long)info.file_size, shares[0], shares[1]);
    } else {
        (void)printf("%-8s %6u %8u %12.1f %12.6f %17s %12s\n", test, (unsigned)tokens,
                     (unsigned)threads, rate, time, shares[0], shares[1]);
    }
    (void)fflush(stdout);
}

static llm_session *make_session(const llm_model *model, llm_pool *pool, size_t *bytes) {
    llm_error error;
    llm_session *session;
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.isa = isa, d.kv = parse_kv(&self, kv), d.error = &error;
    d.context = prompt > decode ? prompt : decode;
    CHECKED(llm_session_query(&d, NULL, bytes), &error);
    CHECKED(llm_session_create(&session, &d), &error);
    return session;
}

static void bench(const llm_model *model, uint32_t threads, const int32_t *tokens, probe *p) {
    double prefills[MOST_ROUNDS], decodes[MOST_ROUNDS], bandwidth, peak;
    llm_pool *pool = make_pool(threads);
    size_t bytes;
    llm_session *session = make_session(model, pool, &bytes);
    uint32_t i;
    if (prompt) (void)run_once(session, tokens, prompt, prompt); /* pages and clock frequency */
    if (decode) (void)run_once(session, tokens, decode < 8 ? decode : 8, 1);
    bandwidth = measure_stream(pool, p);
    peak = measure_peak(pool, p);
    for (i = 0; i < rounds; i++) {
        if (prompt) prefills[i] = run_once(session, tokens, prompt, prompt);
        if (decode) decodes[i] = run_once(session, tokens, decode, 1);
    }
    if (!as_json)
        (void)printf(
            "\n%u threads: session %.1f MB as queried, process %.1f MB resident without the "
            "probe's 256, "
            "stream %.1f GB/s, int8 peak %.3f TOPS\n%-8s %6s %8s %12s %12s %17s %12s\n",
            (unsigned)threads, (double)bytes * 1e-6, (resident() - (double)STREAM_BYTES) * 1e-6,
            bandwidth * 1e-9, peak * 1e-12, "test", "tokens", "threads", "tokens/s", "seconds",
            "share of stream", "of peak");
    if (prompt)
        report(model, session, "prefill", threads, prompt, median(prefills, rounds), bandwidth,
               peak);
    if (decode)
        report(model, session, "decode", threads, decode, median(decodes, rounds), bandwidth, peak);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
}

static void make_tokens(int32_t *tokens, uint32_t count, uint32_t vocab) {
    uint32_t i;
    for (i = 0; i < count; i++) tokens[i] = (int32_t)(llm_random(1, 0, i) % vocab);
}

int main(int argc, char **argv) {
    probe p;
    llm_model *model;
    llm_model_info info;
    uint32_t most;
    int32_t *tokens;
    uint8_t *memory;
    const char *at;
    double start;
    parse_options(&self, argc, argv);
    if (!rounds || rounds > MOST_ROUNDS)
        fail(EXIT_USAGE, "%s: -r is 1 to %d", self.name, MOST_ROUNDS);
    if (!prompt && !decode) fail(EXIT_USAGE, "%s: -p and -n are both 0", self.name);
    start = seconds();
    model = open_model(model_path);
    start = seconds() - start;
    llm_model_get_info(model, &info);
    if (!as_json)
        (void)printf("%s: %.1f MB, %.1f M weights in %.1f MB, opened in %.2f ms\n", model_path,
                     (double)info.file_size * 1e-6, (double)info.weights * 1e-6,
                     (double)info.weight_size * 1e-6, start * 1e3);
    most = prompt > decode ? prompt : decode;
    tokens = (int32_t *)malloc(most * sizeof *tokens);
    memory = (uint8_t *)malloc(STREAM_BYTES + PROBE_EXTRA);
    if (!tokens || !memory) fail(EXIT_FAILED, "%s: no memory for the probe", self.name);
    make_tokens(tokens, most, info.vocab);
    memset(memory, 1, STREAM_BYTES + PROBE_EXTRA);
    p.memory = memory + (64 - (uintptr_t)memory % 64) % 64;
    p.result = (uint64_t(*)[8])(void *)(memory + (p.memory - memory) + STREAM_BYTES);
    for (at = thread_list; *at;) {
        char *end;
        unsigned long threads = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || threads < 1 || threads > MOST_THREADS)
            fail(EXIT_USAGE, "%s: -t is a list like 1,2 of numbers up to %d, not \"%s\"", self.name,
                 MOST_THREADS, thread_list);
        bench(model, (uint32_t)threads, tokens, &p);
        at = *end ? end + 1 : end;
    }
    free(memory);
    free(tokens);
    llm_model_close(model);
    return finish(&self);
}
