/* evaluate: how well a model predicts a text, and how far its logits are from another's. */
#include "options.h"
#include <math.h>

static const char *model_path, *text_path, *logits_path, *against_path, *isa, *kv = "q8";
static uint32_t context = 512, threads, limit;
static bool all;
static adapters lora;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"FILE", OPTION_TEXT, &text_path, NULL, "the text, UTF-8", true},
    {"--ctx", OPTION_COUNT, &context, "N", "tokens of a window (default 512)", false},
    {"--limit-windows", OPTION_COUNT, &limit, "N", "only the first N windows", false},
    {"--all", OPTION_FLAG, &all, NULL, "score whole windows, not only their second halves", false},
    {"--logits", OPTION_TEXT, &logits_path, "OUT",
     "write the logits of the scored positions, raw f32 [position][vocab]", false},
    {"--against", OPTION_TEXT, &against_path, "OUT",
     "compare with such a file, written with the same text and options", false},
    {"--lora", OPTION_ADAPTERS, &lora, "FILE[=W]",
     "use this adapter, W times (default 1); several may be given", false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default), f16 or q4", false},
    {"--threads", OPTION_COUNT, &threads, "N", "by default one per core", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set: avx2, scalar; by default the best",
     false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {
    "evaluate",
    "Perplexity as llama.cpp defines it: the text is cut into windows without overlap, and in "
    "each\n"
    "the predictions of the second half are scored. Where the model wants a token at the\n"
    "beginning of a text, it takes the place of every window's first token.",
    "--against reports the Kullback-Leibler divergence of this model from the file's, in nats "
    "(mean,\n"
    "99 % of positions are below, largest), how often both hold the same token for the likeliest, "
    "and\n"
    "this model's perplexity over that of the file.",
    options};

enum { CHUNK = 64 }; /* logits that are kept at once */

typedef struct scores {
    uint64_t count;
    double nll, nll_squares; /* sums of negative log-likelihoods */
    double other_nll;        /* the file's */
    uint64_t same_top;
    double kl_sum;
    double *kl; /* [count] */
    size_t kl_capacity;
    FILE *logits, *against;
    float *other; /* [vocab] a row of the file */
} scores;

/* log of the sum of exp(logits), and which is the largest. */
static double log_sum(const float *logits, uint32_t vocab, uint32_t *top) {
    double sum = 0;
    uint32_t i, best = 0;
    for (i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    for (i = 0; i < vocab; i++) sum += exp((double)logits[i] - (double)logits[best]);
    *top = best;
    return log(sum) + (double)logits[best];
}

/* The file's logits for the next position. */
static void read_other(scores *s, uint32_t vocab) {
    uint32_t i;
    if (fread(s->other, sizeof(float), vocab, s->against) != vocab)
        fail(EXIT_FAILED, "%s: %s ends at position %llu", self.name, against_path,
             (unsigned long long)s->count);
    for (i = 0; i < vocab; i++)
        if (!(fabs((double)s->other[i]) <= 1e30))
            fail(EXIT_FAILED, "%s: %s: position %llu, token %lu: %g, expected a finite logit",
                 self.name, against_path, (unsigned long long)s->count, (unsigned long)i,
                 (double)s->other[i]);
}

static void add_divergence(scores *s, const float *logits, double norm, uint32_t top,
                           uint32_t vocab, int32_t next) {
    uint32_t other_top, i;
    double other_norm, kl = 0;
    read_other(s, vocab);
    other_norm = log_sum(s->other, vocab, &other_top);
    s->other_nll += other_norm - (double)s->other[next];
    for (i = 0; i < vocab; i++) {
        const double p = (double)s->other[i] - other_norm;
        kl += exp(p) * (p - ((double)logits[i] - norm));
    }
    if (s->count >= s->kl_capacity) {
        s->kl_capacity = s->kl_capacity ? s->kl_capacity * 2 : 4096;
        s->kl = (double *)realloc(s->kl, s->kl_capacity * sizeof *s->kl);
        if (!s->kl) fail(EXIT_FAILED, "%s: no memory", self.name);
    }
    s->kl[s->count] = kl;
    s->kl_sum += kl;
    s->same_top += top == other_top;
}

static void score(scores *s, const float *logits, uint32_t vocab, int32_t next) {
    uint32_t top;
    const double norm = log_sum(logits, vocab, &top), nll = norm - (double)logits[next];
    if (s->logits && fwrite(logits, sizeof *logits, vocab, s->logits) != vocab)
        fail(EXIT_FAILED, "%s: %s: %s", self.name, logits_path, strerror(errno));
    if (s->against) add_divergence(s, logits, norm, top, vocab, next);
    s->nll += nll;
    s->nll_squares += nll * nll;
    s->count++;
}

/* Positions first .. context - 2 predict the tokens after them. */
static void evaluate_window(llm_session *session, const int32_t *window, scores *s) {
    const uint32_t first = all ? 0 : context / 2;
    llm_model_info info;
    uint32_t at, i;
    llm_model_get_info(llm_session_model(session), &info);
    CHECKED(llm_session_rewind(session, 0), llm_session_error(session));
    if (first) CHECKED(llm_eval(session, window, first), llm_session_error(session));
    for (at = first; at + 1 < context; at += i) {
        const uint32_t count = context - 1 - at < CHUNK ? context - 1 - at : CHUNK;
        CHECKED(llm_eval(session, window + at, count), llm_session_error(session));
        for (i = 0; i < count; i++)
            score(s, llm_session_logits(session, count - 1 - i), info.vocab, window[at + i + 1]);
    }
}

static llm_session *make_session(const llm_model *model, llm_pool *pool) {
    llm_error error;
    llm_session *session;
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.isa = isa, d.kv = parse_kv(&self, kv), d.error = &error;
    d.context = context, d.logits = CHUNK, d.adapter_rank = lora.rank;
    CHECKED(llm_session_create(&session, &d), &error);
    use_adapters(&lora, session);
    return session;
}

static FILE *open_if_given(const char *path, const char *mode) {
    FILE *file = path ? open_file(path, mode) : NULL;
    if (path && !file) fail(EXIT_FAILED, "%s: %s: %s", self.name, path, strerror(errno));
    return file;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(scores *s, size_t tokens, size_t windows, double time) {
    const double n = (double)s->count, mean = s->nll / n;
    const double spread = n > 1 ? sqrt((s->nll_squares / n - mean * mean) / (n - 1)) : 0;
    (void)printf(
        "tokens %lu\nwindows %lu of %u\nscored %llu\nperplexity %.4f\nperplexity_error %.4f\n",
        (unsigned long)tokens, (unsigned long)windows, (unsigned)context,
        (unsigned long long)s->count, exp(mean), exp(mean) * spread);
    if (s->against) {
        qsort(s->kl, s->count, sizeof *s->kl, compare_doubles);
        (void)printf("kl_mean %.6g\nkl_99 %.6g\nkl_max %.6g\nsame_top %.6f\n", s->kl_sum / n,
                     s->kl[(size_t)(0.99 * (n - 1))], s->kl[s->count - 1], (double)s->same_top / n);
        (void)printf("perplexity_ratio %.6f\n", exp(mean - s->other_nll / n));
    }
    (void)fprintf(stderr, "%.1f s\n", time);
}

int main(int argc, char **argv) {
    llm_model *model;
    llm_model_info info;
    llm_tokenizer_info vocabulary;
    llm_pool *pool;
    llm_session *session;
    llm_text text;
    scores s;
    size_t count, windows, i;
    int32_t *ids;
    char *data;
    double start = seconds();
    parse_options(&self, argc, argv);
    if (context < 4) fail(EXIT_USAGE, "%s: --ctx is at least 4", self.name);
    model = open_model(model_path);
    open_adapters(&lora, model);
    llm_model_get_info(model, &info);
    text.data = data = read_all(text_path, &text.size);
    ids = tokenize(model, text, false, 0, -1, &count);
    llm_tokenizer_describe(llm_model_tokenizer(model), &vocabulary);
    windows = count / context;
    if (!windows)
        fail(EXIT_FAILED, "%s: %s has %lu tokens, a window %u", self.name, text_path,
             (unsigned long)count, (unsigned)context);
    if (limit && windows > limit) windows = limit;
    memset(&s, 0, sizeof s);
    s.logits = open_if_given(logits_path, "wb");
    s.against = open_if_given(against_path, "rb");
    s.other = (float *)malloc(info.vocab * sizeof(float));
    if (!s.other) fail(EXIT_FAILED, "%s: no memory", self.name);
    pool = make_pool(threads);
    session = make_session(model, pool);
    for (i = 0; i < windows; i++) {
        int32_t *window = ids + i * context;
        if (vocabulary.add_bos && vocabulary.bos >= 0) window[0] = vocabulary.bos;
        evaluate_window(session, window, &s);
        if (isatty(fileno(stderr)))
            (void)fprintf(stderr, "\r%lu of %lu windows, perplexity %.4f ", (unsigned long)i + 1,
                          (unsigned long)windows, exp(s.nll / (double)s.count));
    }
    if (isatty(fileno(stderr))) (void)fputc('\n', stderr);
    if (s.against && fgetc(s.against) != EOF)
        fail(EXIT_FAILED, "%s: %s goes on after the last position; was it made with other options?",
             self.name, against_path);
    if (s.logits && fclose(s.logits))
        fail(EXIT_FAILED, "%s: %s: %s", self.name, logits_path, strerror(errno));
    report(&s, count, windows, seconds() - start);
    if (s.against) (void)fclose(s.against);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    close_adapters(&lora);
    llm_model_close(model);
    free(s.other);
    free(s.kl);
    free(ids);
    free(data);
    return finish(&self);
}
