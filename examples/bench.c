/* bench: how fast a model is evaluated here, and how much of the machine that uses. */
#include "options.h"
#include "probe.h"

static const char *model_path, *isa, *kv = "q8", *thread_list = "1", *prompt_list = "512";
static const char *depth_list = "0", *batch_list = "0";
static bool as_json;
static uint32_t decode = 128, rounds = 5;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"-p", OPTION_TEXT, &prompt_list, "N,N", "prefill: tokens of the prompt (default 512; 0: none)",
     false},
    {"-n", OPTION_COUNT, &decode, "N", "decode: tokens, one by one (default 128; 0: none)", false},
    {"-d", OPTION_TEXT, &depth_list, "N,N", "decode after so many tokens of context (default 0)",
     false},
    {"-b", OPTION_TEXT, &batch_list, "N,N",
     "batch: so many sessions decode together, -n tokens each, from an empty context", false},
    {"-t", OPTION_TEXT, &thread_list, "N,N", "numbers of threads, one after the other (default 1)",
     false},
    {"-r", OPTION_COUNT, &rounds, "N", "rounds, of which the median counts (default 5)", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set: avx2, scalar; by default the best",
     false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default), f16 or q4", false},
    {"--json", OPTION_FLAG, &as_json, NULL, "one JSON object a line", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {
    "bench", "Measures how fast a model is evaluated.",
    "open: opens the model. first: opens it, evaluates a prompt of 10 tokens, picks a token; the "
    "page\n"
    "cache is warm. sample: picks a token with top-k, top-p and penalties, on one thread.\n"
    "Every round does every test once.\n"
    "Stream share: the bytes that the tokens read (weights, and the cache's keys and values), of "
    "what\n"
    "the same threads read at their best in a plain loop over 256 MB, measured in between. Peak\n"
    "share: two operations per weight and token, of what the same threads reach with the int8\n"
    "multiply-add of AVX2 on registers.",
    options};

enum {
    MOST_ROUNDS = 101,
    MOST_LISTED = 16,
    MOST_TESTS = 3 * MOST_LISTED + 3,
    MOST_BATCH = 256,
    FIRST_PROMPT = 10,
    SAMPLES = 16
};

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

/* ---- what a token costs ---- */

typedef struct costs {
    double bytes; /* of weights read for a decoded token */
    double block_weights, head_weights;
} costs;

/* An embedding that is not the head too is looked up, not read. */
static costs count_costs(const llm_model *model) {
    const llm__tensor *embedding = model->vocab[0];
    const bool untied = model->vocab[1]->rows > 0;
    llm_model_info info;
    uint32_t i;
    costs c;
    llm_model_get_info(model, &info);
    c.head_weights = (double)info.vocab * info.width;
    c.block_weights = (double)info.weights - c.head_weights * (untied ? 2 : 1);
    c.bytes = (double)info.weight_size;
    for (i = 0; untied && i < LLM__VOCAB_PARTS; i++)
        c.bytes -= (double)((embedding[i].rows + 15) / 16 *
                            llm__panel_size(embedding[i].type, llm__padded(embedding[i].cols)));
    return c;
}

/* Bytes of keys and values that a token reads at a depth: a window sees no further than it is. */
static double cache_bytes(const llm_model *model, double depth) {
    llm_session_desc d;
    llm_model_info info;
    size_t bytes[2] = {0, 0};
    double seen = 0;
    uint32_t i;
    llm_model_get_info(model, &info);
    memset(&d, 0, sizeof d);
    d.model = model, d.kv = parse_kv(&self, kv), d.batch_only = true;
    for (i = 0; i < 2; i++) {
        d.context = 1024 * (i + 1);
        if (llm_session_query(&d, NULL, &bytes[i]) != LLM_OK) return 0;
    }
    for (i = 0; i < info.layers; i++) {
        const double window = model->layer[i].window;
        seen += window > 0 && window < depth ? window : depth;
    }
    return (double)(bytes[1] - bytes[0]) / 1024 * seen / info.layers;
}

/* ---- tests ---- */

typedef struct setting {
    llm_model *model;
    llm_pool *pool;
    const int32_t *tokens; /* as many as any test wants */
} setting;

typedef struct test {
    const char *name;
    double (*run)(struct test *, const setting *); /* seconds */
    uint32_t tokens;       /* evaluated or picked in a run, those of all sessions together */
    uint32_t depth, batch; /* context before; sessions, 0: one with its own evaluator */
    llm_session *session[MOST_BATCH];
    llm_batch *together;
    llm_sampler *sampler;
    double times[MOST_ROUNDS];
} test;

static llm_session *make_session(const setting *s, uint32_t context, bool batch_only) {
    llm_error error;
    llm_session *session;
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = s->model, d.pool = s->pool, d.isa = isa, d.kv = parse_kv(&self, kv);
    d.context = context, d.batch_only = batch_only, d.error = &error;
    CHECKED(llm_session_create(&session, &d), &error);
    return session;
}

static void eval(llm_session *session, const int32_t *tokens, uint32_t count) {
    CHECKED(llm_eval(session, tokens, count), llm_session_error(session));
}

static double run_prefill(test *t, const setting *s) {
    const double start = seconds();
    CHECKED(llm_session_rewind(t->session[0], 0), llm_session_error(t->session[0]));
    eval(t->session[0], s->tokens, t->tokens);
    return seconds() - start;
}

static double run_decode(test *t, const setting *s) {
    llm_session *session = t->session[0];
    double start;
    uint32_t i;
    CHECKED(llm_session_rewind(session, t->depth), llm_session_error(session));
    start = seconds();
    for (i = 0; i < t->tokens; i++) eval(session, s->tokens + i, 1);
    return seconds() - start;
}

static double run_batch(test *t, const setting *s) {
    double start;
    uint32_t i, j;
    for (j = 0; j < t->batch; j++)
        CHECKED(llm_session_rewind(t->session[j], 0), llm_session_error(t->session[j]));
    start = seconds();
    for (i = 0; i < t->tokens / t->batch; i++) {
        for (j = 0; j < t->batch; j++)
            CHECKED(llm_batch_add(t->together, t->session[j], s->tokens + (i + j) % decode, 1, 1),
                    llm_batch_error(t->together));
        CHECKED(llm_batch_step(t->together, 0), llm_batch_error(t->together));
    }
    return seconds() - start;
}

static uint32_t pick(llm_sampler *sampler, const llm_session *session) {
    llm_error error;
    llm_sample sample;
    CHECKED(llm_sampler_sample(sampler, llm_session_logits(session, 0), NULL, &sample, &error),
            &error);
    CHECKED(llm_sampler_accept(sampler, sample.token, &error), &error);
    return sample.token;
}

static llm_sampler *make_sampler(const llm_model *model, const llm_sampler_desc *desc) {
    llm_error error;
    llm_model_info info;
    llm_sampler *sampler;
    llm_model_get_info(model, &info);
    CHECKED(llm_sampler_create(desc, info.vocab, NULL, &sampler, &error), &error);
    return sampler;
}

static double run_sample(test *t, const setting *s) {
    const double start = seconds();
    uint32_t i;
    (void)s;
    for (i = 0; i < t->tokens; i++) (void)pick(t->sampler, t->session[0]);
    return seconds() - start;
}

static double run_open(test *t, const setting *s) {
    const double start = seconds();
    double end;
    llm_model *model = open_model(model_path);
    (void)t, (void)s;
    end = seconds();
    llm_model_close(model);
    return end - start;
}

static double run_first(test *t, const setting *s) {
    const double start = seconds();
    double end;
    setting fresh = *s;
    llm_session *session;
    llm_sampler *sampler;
    fresh.model = open_model(model_path);
    session = make_session(&fresh, t->tokens, false);
    sampler = make_sampler(fresh.model, NULL);
    eval(session, s->tokens, t->tokens);
    (void)pick(sampler, session);
    end = seconds();
    llm_sampler_destroy(sampler);
    llm_session_destroy(session);
    llm_model_close(fresh.model);
    return end - start;
}

/* ---- what each needs ---- */

static void prepare_batch(test *t, const setting *s) {
    llm_error error;
    llm_batch_desc d;
    uint32_t i;
    memset(&d, 0, sizeof d);
    d.model = s->model, d.pool = s->pool, d.isa = isa, d.kv = parse_kv(&self, kv);
    d.rows = d.logits = t->batch, d.error = &error;
    CHECKED(llm_batch_create(&t->together, &d), &error);
    for (i = 0; i < t->batch; i++) t->session[i] = make_session(s, t->tokens / t->batch, true);
}

static void prepare_sample(test *t, const setting *s) {
    llm_sampler_desc d;
    uint32_t i;
    memset(&d, 0, sizeof d);
    d.temperature = 0.8f, d.top_k = 40, d.top_p = 0.95f;
    d.repetition_penalty = 1.1f, d.frequency_penalty = d.presence_penalty = 0.1f;
    t->sampler = make_sampler(s->model, &d);
    t->session[0] = make_session(s, FIRST_PROMPT, false);
    eval(t->session[0], s->tokens, FIRST_PROMPT);
    for (i = 0; i < 64; i++) (void)pick(t->sampler, t->session[0]); /* fills the penalty window */
}

/* Once, and a run that does not count: pages, clock frequency. */
static void prepare(test *t, const setting *s) {
    if (t->run == run_prefill) t->session[0] = make_session(s, t->tokens, false);
    if (t->run == run_decode) {
        t->session[0] = make_session(s, t->depth + t->tokens, false);
        if (t->depth) eval(t->session[0], s->tokens, t->depth);
    }
    if (t->run == run_batch) prepare_batch(t, s);
    if (t->run == run_sample) prepare_sample(t, s);
    (void)t->run(t, s);
}

static void release(test *t) {
    uint32_t i;
    llm_batch_destroy(t->together);
    llm_sampler_destroy(t->sampler);
    for (i = 0; i < MOST_BATCH; i++) llm_session_destroy(t->session[i]);
}

/* ---- report ---- */

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

static void print_json(const test *t, const setting *s, double time, const char *isa_name,
                       double stream, double peak, const char *const shares[2]) {
    llm_model_info info;
    const char *at;
    llm_model_get_info(s->model, &info);
    (void)fputs("{\"model\": \"", stdout);
    for (at = model_path; *at; at++) {
        if (*at == '"' || *at == '\\') (void)putchar('\\');
        (void)putchar((unsigned char)*at < 32 ? '?' : *at);
    }
    (void)printf(
        "\", \"bytes\": %llu, \"isa\": \"%s\", \"threads\": %u, \"test\": \"%s\", "
        "\"tokens\": %u, \"depth\": %u, \"batch\": %u, \"rounds\": %u, ",
        (unsigned long long)info.file_size, isa_name, llm_pool_threads(s->pool), t->name, t->tokens,
        t->depth, t->batch, rounds);
    (void)printf(
        "\"tokens_per_second\": %.3f, \"seconds\": %.6f, \"seconds_least\": %.6f, "
        "\"seconds_most\": %.6f, \"cache_bytes\": %.0f, \"stream\": %.0f, \"peak\": %.0f, "
        "\"bandwidth_share\": %s, \"peak_share\": %s}\n",
        t->tokens / time, time, t->times[0], t->times[rounds - 1],
        cache_bytes(s->model, t->depth + (t->run == run_decode ? 0.5 * t->tokens : 0)), stream,
        peak, shares[0], shares[1]);
}

static void report(test *t, const setting *s, double stream, double peak, const char *isa_name) {
    const costs c = count_costs(s->model);
    const double time = median(t->times, rounds);
    const double sessions = t->batch ? t->batch : 1, steps = t->tokens / sessions;
    char text[2][32] = {"null", "null"};
    const char *const shares[2] = {text[0], text[1]};
    double bytes = 0, work = 0;
    if (t->run == run_decode || t->run == run_batch) {
        bytes = steps * (c.bytes + sessions * cache_bytes(s->model, t->depth + 0.5 * steps));
        work = 2.0 * t->tokens * (c.block_weights + c.head_weights);
    } else if (t->run == run_prefill) {
        bytes = c.bytes * ((t->tokens + 127) / 128);
        work = 2.0 * (t->tokens * c.block_weights + c.head_weights);
    }
    if (stream > 0 && bytes > 0)
        (void)snprintf(text[0], sizeof text[0], "%.3f", bytes / time / stream);
    if (peak > 0 && work > 0) (void)snprintf(text[1], sizeof text[1], "%.3f", work / time / peak);
    if (as_json)
        print_json(t, s, time, isa_name, stream, peak, shares);
    else
        (void)printf("%-8s %6u %6u %6u %10.1f %11.6f %11.6f %11.6f %10s %8s\n", t->name, t->tokens,
                     t->depth, t->batch, t->tokens / time, time, t->times[0], t->times[rounds - 1],
                     text[0], text[1]);
    (void)fflush(stdout);
}

/* ---- all of it ---- */

/* Reads "1,2" into at most MOST_LISTED numbers, 0 standing for nothing unless it is `allowed`. */
static uint32_t read_list(const char *name, const char *text, uint32_t most, bool allowed,
                          uint32_t *values) {
    const char *at = text;
    uint32_t count = 0;
    do {
        char *end;
        const unsigned long value = strtoul(at, &end, 10);
        if (end == at || *at < '0' || *at > '9' || (*end && *end != ',') || value > most ||
            count == MOST_LISTED)
            fail(EXIT_USAGE, "%s: %s is a list like 1,2 of at most %d numbers up to %u, not \"%s\"",
                 self.name, name, MOST_LISTED, most, text);
        if (value || allowed) values[count++] = (uint32_t)value;
        at = *end ? end + 1 : end;
    } while (*at);
    return count;
}

static test *add(test *tests, uint32_t *count, const char *name,
                 double (*run)(test *, const setting *), uint32_t tokens) {
    test *t = &tests[(*count)++];
    memset(t, 0, sizeof *t);
    t->name = name, t->run = run, t->tokens = tokens;
    return t;
}

static uint32_t list_tests(test *tests) {
    uint32_t values[MOST_LISTED], count = 0, listed, i;
    (void)add(tests, &count, "open", run_open, 1);
    (void)add(tests, &count, "first", run_first, FIRST_PROMPT);
    (void)add(tests, &count, "sample", run_sample, SAMPLES);
    listed = read_list("-p", prompt_list, 1 << 20, false, values);
    for (i = 0; i < listed; i++) (void)add(tests, &count, "prefill", run_prefill, values[i]);
    listed = decode ? read_list("-d", depth_list, 1 << 20, true, values) : 0;
    for (i = 0; i < listed; i++)
        add(tests, &count, "decode", run_decode, decode)->depth = values[i];
    listed = decode ? read_list("-b", batch_list, MOST_BATCH, false, values) : 0;
    for (i = 0; i < listed; i++)
        add(tests, &count, "batch", run_batch, values[i] * decode)->batch = values[i];
    return count;
}

static void bench(setting *s, uint32_t threads, test *tests, uint32_t count, probe *p) {
    llm_session *any;
    double stream, peak, rate;
    uint32_t i, round;
    s->pool = make_pool(threads);
    any = make_session(s, 64, false);
    for (i = 0; i < count; i++) prepare(&tests[i], s);
    stream = measure_stream(s->pool, p);
    peak = measure_peak(s->pool, p);
    for (round = 0; round < rounds; round++) {
        for (i = 0; i < count; i++) tests[i].times[round] = tests[i].run(&tests[i], s);
        rate = read_once(s->pool, p);
        if (rate > stream) stream = rate;
    }
    if (!as_json)
        (void)printf(
            "\n%s, %u threads: stream %.1f GB/s, int8 peak %.3f TOPS, process %.1f MB "
            "resident without the probe's 256\n%-8s %6s %6s %6s %10s %11s %11s %11s %10s "
            "%8s\n",
            llm_session_isa(any), threads, stream * 1e-9, peak * 1e-12,
            (resident() - (double)STREAM_BYTES) * 1e-6, "test", "tokens", "depth", "batch",
            "tokens/s", "seconds", "least", "most", "of stream", "of peak");
    for (i = 0; i < count; i++) report(&tests[i], s, stream, peak, llm_session_isa(any));
    for (i = 0; i < count; i++) {
        release(&tests[i]);
        tests[i].together = NULL, tests[i].sampler = NULL;
        memset(tests[i].session, 0, sizeof tests[i].session);
    }
    llm_session_destroy(any);
    llm_pool_destroy(s->pool);
}

/* As many tokens as the longest test wants, at random. */
static int32_t *make_tokens(const test *tests, uint32_t tests_count, uint32_t vocab) {
    int32_t *tokens;
    uint32_t i, count = FIRST_PROMPT;
    for (i = 0; i < tests_count; i++) {
        const uint32_t wanted = tests[i].depth > tests[i].tokens ? tests[i].depth : tests[i].tokens;
        if (wanted > count) count = wanted;
    }
    tokens = (int32_t *)malloc(count * sizeof *tokens);
    if (!tokens) fail(EXIT_FAILED, "%s: no memory for %u tokens", self.name, count);
    for (i = 0; i < count; i++) tokens[i] = (int32_t)(llm_random(1, 0, i) % vocab);
    return tokens;
}

int main(int argc, char **argv) {
    static test tests[MOST_TESTS];
    uint32_t threads[MOST_LISTED], thread_counts, count, i;
    probe p;
    setting s;
    llm_model_info info;
    int32_t *tokens;
    parse_options(&self, argc, argv);
    if (!rounds || rounds > MOST_ROUNDS)
        fail(EXIT_USAGE, "%s: -r is 1 to %d", self.name, MOST_ROUNDS);
    if (decode > 1 << 20) fail(EXIT_USAGE, "%s: -n is at most %d", self.name, 1 << 20);
    count = list_tests(tests);
    thread_counts = read_list("-t", thread_list, MOST_THREADS, false, threads);
    if (!thread_counts) fail(EXIT_USAGE, "%s: -t is at least 1", self.name);
    s.model = open_model(model_path);
    llm_model_get_info(s.model, &info);
    if (!as_json)
        (void)printf("%s: %.1f MB, %.1f M weights in %.1f MB\n", model_path,
                     (double)info.file_size * 1e-6, (double)info.weights * 1e-6,
                     (double)info.weight_size * 1e-6);
    s.tokens = tokens = make_tokens(tests, count, info.vocab);
    probe_open(&p);
    for (i = 0; i < thread_counts; i++) bench(&s, threads[i], tests, count, &p);
    free(p.block);
    free(tokens);
    llm_model_close(s.model);
    return finish(&self);
}
