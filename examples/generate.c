/* generate: continues a text. */
#include "options.h"

static const char *model_path, *prompt, *file, *isa, *kv = "q8";
static bool as_ids, special;
static uint32_t most = 128, threads, context;
static llm_sampler_desc sampling;
static adapters lora;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"-p", OPTION_TEXT, &prompt, "TEXT", "the text to continue", false},
    {"-f", OPTION_TEXT, &file, "FILE", "or the file that holds it, - for standard input", false},
    {"-n", OPTION_COUNT, &most, "N", "at most this many tokens (default 128)", false},
    {"--lora", OPTION_ADAPTERS, &lora, "FILE[=W]",
     "use this adapter, W times (default 1); several may be given", false},
    {"--temp", OPTION_FLOAT, &sampling.temperature, "F",
     "temperature; 0 (default) always takes the likeliest token", false},
    {"--top-k", OPTION_COUNT, &sampling.top_k, "N", "only among the N likeliest; 0 (default): all",
     false},
    {"--top-p", OPTION_FLOAT, &sampling.top_p, "F",
     "only among the likeliest that make up F; 0 (default): all", false},
    {"--min-p", OPTION_FLOAT, &sampling.min_p, "F",
     "only those at least F times as likely as the likeliest", false},
    {"--seed", OPTION_SEED, &sampling.seed, "N", "of the drawing (default 0); the same everywhere",
     false},
    {"--special", OPTION_FLAG, &special, NULL,
     "the prompt may hold control tokens, such as <|im_start|>", false},
    {"--ids", OPTION_FLAG, &as_ids, NULL,
     "write token ids, and go on after the model's end token; of a model without a tokenizer the "
     "prompt is ids too", false},
    {"--ctx", OPTION_COUNT, &context, "N", "positions; by default what prompt and -n need", false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default), f16 or q4", false},
    {"--threads", OPTION_COUNT, &threads, "N", "by default one per core", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set: avx2, scalar; by default the best",
     false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {
    "generate",
    "Continues a text. Only what is generated goes to standard output, speed to standard error.",
    "The text ends with the model's end token, after -n tokens, or when the context is full.",
    options};

/* Ids between blanks or commas. */
static int32_t *read_ids(llm_text text, size_t *count) {
    int32_t *ids = (int32_t *)malloc((text.size / 2 + 1) * sizeof *ids);
    size_t i;
    bool inside = false;
    if (!ids) fail(EXIT_FAILED, "no memory for the ids of %lu bytes", (unsigned long)text.size);
    for (i = *count = 0; i < text.size; i++) {
        const char c = text.data[i];
        const bool digit = c >= '0' && c <= '9';
        if (!digit && (!c || !strchr(" \t\r\n,", c)))
            fail(EXIT_FAILED, "%s: byte %lu of the prompt is 0x%02X, expected token ids: the model "
                 "has no tokenizer", self.name, (unsigned long)i, (unsigned)(unsigned char)c);
        if (digit && !inside) ids[(*count)++] = 0;
        inside = digit;
        if (!digit) continue;
        if (ids[*count - 1] > 99999999)
            fail(EXIT_FAILED, "%s: byte %lu of the prompt: a token id of over 9 digits", self.name,
                 (unsigned long)i);
        ids[*count - 1] = ids[*count - 1] * 10 + (c - '0');
    }
    return ids;
}

static int32_t *read_prompt(const llm_model *model, size_t *count) {
    llm_text text = llm_string(prompt);
    char *data = NULL;
    int32_t *ids;
    if (!prompt == !file)
        fail(EXIT_USAGE, "%s: give either -p TEXT or -f FILE; see %s --help", self.name, self.name);
    if (file) text.data = data = read_all(file, &text.size);
    if (as_ids && !llm_model_tokenizer(model)) {
        ids = read_ids(text, count);
        free(data);
        if (!*count) fail(EXIT_FAILED, "%s: the prompt holds no token id", self.name);
        return ids;
    }
    ids = tokenize(model, text, special, 0, -1, count);
    if (!*count) { /* nothing to start from but the beginning of text */
        free(ids);
        ids = tokenize(model, text, special, 1, -1, count);
    }
    if (!*count)
        fail(EXIT_FAILED, "%s: the prompt is empty, and the model has no token for a beginning",
             self.name);
    free(data);
    return ids;
}

static llm_session *make_session(const llm_model *model, llm_pool *pool, size_t count) {
    llm_error error;
    llm_session *session;
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.isa = isa, d.kv = parse_kv(&self, kv), d.error = &error;
    d.adapter_rank = lora.rank;
    d.context =
        context ? context : (uint32_t)(count + most < UINT32_MAX ? count + most : UINT32_MAX);
    CHECKED(llm_session_create(&session, &d), &error);
    use_adapters(&lora, session);
    return session;
}

/* Writes all that the stream has to give; `input` NULL at the end. */
static void show(llm_stream *stream, llm_text *input) {
    llm_text piece;
    while (llm_stream_next(stream, input, &piece)) (void)fwrite(piece.data, 1, piece.size, stdout);
    (void)fflush(stdout);
}

static uint32_t generate(llm_session *session, llm_sampler *sampler) {
    const llm_tokenizer *t = llm_model_tokenizer(llm_session_model(session));
    llm_error error;
    llm_sample sample;
    llm_stream *stream;
    uint32_t n;
    CHECKED(llm_stream_create(NULL, NULL, &stream, &error), &error);
    for (n = 0; n < most; n++) {
        int32_t id;
        llm_result r;
        CHECKED(llm_sampler_sample(sampler, llm_session_logits(session, 0), NULL, &sample, &error),
                &error);
        CHECKED(llm_sampler_accept(sampler, sample.token, &error), &error);
        id = (int32_t)sample.token;
        if (as_ids) {
            (void)printf(n ? " %d" : "%d", (int)id);
        } else {
            llm_text bytes = llm_token_bytes(t, id);
            if (llm_token_is_end(t, id)) break;
            if (special || llm_token_kind_of(t, id) != LLM_TOKEN_CONTROL) show(stream, &bytes);
        }
        if (n + 1 == most) continue;
        r = llm_eval(session, &id, 1);
        if (r == LLM_ERROR_CONTEXT_FULL) {
            (void)fprintf(stderr, "%s: the context of %u tokens is full\n", self.name,
                          (unsigned)llm_session_context(session));
            n++;
            break;
        }
        CHECKED(r, llm_session_error(session));
    }
    if (!as_ids) show(stream, NULL);
    if (as_ids || isatty(fileno(stdout))) (void)putchar('\n');
    llm_stream_destroy(stream);
    return n;
}

int main(int argc, char **argv) {
    llm_error error;
    llm_model *model;
    llm_model_info info;
    llm_pool *pool;
    llm_session *session;
    llm_sampler *sampler;
    int32_t *ids;
    size_t count;
    uint32_t n;
    double start, middle, end;
    parse_options(&self, argc, argv);
    model = open_model(model_path);
    open_adapters(&lora, model);
    llm_model_get_info(model, &info);
    ids = read_prompt(model, &count);
    pool = make_pool(threads);
    session = make_session(model, pool, count);
    CHECKED(llm_sampler_create(&sampling, info.vocab, NULL, &sampler, &error), &error);
    (void)llm_sampler_rewind(sampler, count, NULL, 0, NULL);
    start = seconds();
    CHECKED(llm_eval(session, ids, count), llm_session_error(session));
    middle = seconds();
    n = generate(session, sampler);
    end = seconds();
    (void)fprintf(stderr,
                  "%s, %u threads: prompt %lu tokens, %.1f tok/s; generated %u, %.1f tok/s\n",
                  llm_session_isa(session), (unsigned)llm_pool_threads(pool), (unsigned long)count,
                  (double)count / (middle - start), (unsigned)n, (double)n / (end - middle));
    free(ids);
    llm_sampler_destroy(sampler);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    close_adapters(&lora);
    llm_model_close(model);
    return finish(&self);
}
