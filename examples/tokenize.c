/* tokenize: text to token ids and back. */
#include "options.h"

static const char *model_path;
static bool decode, special, plain;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "whose vocabulary to use", true},
    {"--decode", OPTION_FLAG, &decode, NULL, "the other way: ids to text", false},
    {"--special", OPTION_FLAG, &special, NULL,
     "the text may hold control tokens: recognise, or write, their names", false},
    {"--plain", OPTION_FLAG, &plain, NULL,
     "add no token at the beginning or end, even if the model wants one", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {
    "tokenize",
    "Text on standard input becomes ids on standard output, in one line, or, with --decode,\n"
    "ids become text.",
    NULL, options};

static void encode_all(const llm_model *model, llm_text text) {
    const int ends = plain ? -1 : 0;
    size_t count, i;
    int32_t *ids = tokenize(model, text, special, ends, ends, &count);
    for (i = 0; i < count; i++) (void)printf(i ? " %d" : "%d", (int)ids[i]);
    (void)putchar('\n');
    free(ids);
}

/* Whatever separates numbers in a list is skipped. */
static int32_t *parse_ids(const char *at, const char *end, size_t *count) {
    int32_t *ids = (int32_t *)malloc(((size_t)(end - at) / 2 + 1) * sizeof *ids);
    if (!ids) fail(EXIT_FAILED, "%s: no memory for the ids", self.name);
    for (*count = 0;; (*count)++) {
        char *next;
        long id;
        at += strspn(at, " \t\r\n,[]");
        if (at == end) return ids;
        id = strtol(at, &next, 10);
        if (next == at || id < 0 || id > INT32_MAX)
            fail(EXIT_FAILED, "%s: \"%.20s\" is no id", self.name, at);
        at = next;
        ids[*count] = (int32_t)id;
    }
}

static void decode_all(const llm_model *model, llm_text text) {
    llm_error error;
    llm_detokenize_desc d;
    int32_t *ids;
    char *out;
    size_t size;
    memset(&d, 0, sizeof d);
    d.ids = ids = parse_ids(text.data, text.data + text.size, &d.count);
    d.special = special, d.error = &error;
    CHECKED(llm_detokenize(llm_model_tokenizer(model), &d, NULL, 0, &size), &error);
    out = (char *)malloc(size + 1);
    if (!out) fail(EXIT_FAILED, "%s: no memory for %lu bytes", self.name, (unsigned long)size);
    CHECKED(llm_detokenize(llm_model_tokenizer(model), &d, out, size, &size), &error);
    (void)fwrite(out, 1, size, stdout);
    free(out);
    free(ids);
}

int main(int argc, char **argv) {
    llm_model *model;
    llm_text text;
    char *data;
    parse_options(&self, argc, argv);
    model = open_model(model_path);
    if (!llm_model_tokenizer(model))
        fail(EXIT_FAILED, "%s: %s has no tokenizer", self.name, model_path);
    text.data = data = read_all("-", &text.size);
    if (decode)
        decode_all(model, text);
    else
        encode_all(model, text);
    free(data);
    llm_model_close(model);
    return finish(&self);
}
