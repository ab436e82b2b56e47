/* ======================================================================== */
/* Vocabulary: the source's tokenizer to the tokenizer section               */
/* ======================================================================== */
#ifndef CONVERT_VOCABULARY_H
#define CONVERT_VOCABULARY_H

#include "source.h"
#include "tokenizer_build.h"
#include "tokenizer_json.h"

/* Copies a text value; empty where there is none. */
static void vocabulary_name(const source_file *s, const char *key, char *out, size_t room) {
    source_value value = s->value(s, key);
    size_t size = value.kind == SOURCE_TEXT ? value.text.size : 0;
    if (size >= room) size = room - 1;
    if (size) memcpy(out, value.text.data, size);
    out[size] = 0;
}

static bool vocabulary_flag(const source_file *s, const char *key, bool fallback) {
    source_value value = s->value(s, key);
    return value.kind == SOURCE_NUMBER ? value.number > 0.0 : fallback;
}

/* A token id; -1 says that there is none, and so does an id that no vocabulary can have. */
static int32_t vocabulary_id(const source_file *s, const char *name, int32_t fallback) {
    char key[64];
    source_value value;
    (void)snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name);
    value = s->value(s, key);
    if (value.kind != SOURCE_NUMBER) return fallback;
    return value.number >= 0.0 && value.number < 2147483647.0 ? (int32_t)value.number : -1;
}

/* The elements of an array, one by one, into floats, integers or texts. */
static llm_result vocabulary_array(const source_file *s, const char *key, int element,
                                   uint64_t count,
                                   void *out, size_t size, llm_error *error) {
    source_value array = s->value(s, key), one;
    size_t i;
    if (array.kind != SOURCE_ARRAY || array.element != element || array.count != count)
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s: %s, expected an array of %llu %s", key,
                         show_value(array).text, (unsigned long long)count,
                         element == SOURCE_TEXT ? "texts" : "numbers");
    for (i = 0; s->next(s, &array, &one); i++) {
        char *to = (char *)out + i * size;
        if (element == SOURCE_TEXT) {
            memcpy(to, &one.text, sizeof one.text);
        } else {
            float score = (float)one.number;
            memcpy(to, &score, sizeof score);
        }
    }
    return LLM_OK;
}

/* The number of texts in an array; there may be none of it. */
static llm_result vocabulary_count(const source_file *s, const char *key, bool required,
                                   size_t *count, llm_error *error) {
    source_value array = s->value(s, key);
    *count = 0;
    if (array.kind == SOURCE_NONE && !required) return LLM_OK;
    if (array.kind != SOURCE_ARRAY || array.element != SOURCE_TEXT)
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s: %s, expected an array of texts", key,
                         show_value(array).text);
    *count = (size_t)array.count;
    return LLM_OK;
}

typedef struct vocabulary {
    char model[64], pre[64];
    llm_text *tokens, *merges;
    int32_t *types;
    float *scores, *numbers;
    tokenizer_source from;
} vocabulary;

static void vocabulary_special(const source_file *s, vocabulary *v) {
    static const char *const with_bos[] = {"llama-bpe", "llama3", "llama-v3"};
    bool pieces = strcmp(v->model, "llama") == 0, bos = pieces;
    size_t i;
    for (i = 0; i < 3; i++) bos = bos || strcmp(v->pre, with_bos[i]) == 0;
    v->from.bos = vocabulary_id(s, "bos", pieces ? 1 : -1);
    v->from.eos = vocabulary_id(s, "eos", pieces ? 2 : -1);
    v->from.unknown = vocabulary_id(s, "unknown", pieces ? 0 : -1);
    v->from.eot = vocabulary_id(s, "eot", -1);
    v->from.eom = vocabulary_id(s, "eom", -1);
    v->from.padding = vocabulary_id(s, "padding", -1);
    v->from.add_bos = vocabulary_flag(s, "tokenizer.ggml.add_bos_token", bos);
    v->from.add_eos = vocabulary_flag(s, "tokenizer.ggml.add_eos_token", false);
    v->from.add_space_prefix = vocabulary_flag(s, "tokenizer.ggml.add_space_prefix", pieces);
}

/* The arrays; the counts were checked against the size of the file when it was read. */
static llm_result vocabulary_read(const source_file *s, vocabulary *v, llm_error *error) {
    bool typed = s->value(s, "tokenizer.ggml.token_type").kind != SOURCE_NONE;
    bool scored = s->value(s, "tokenizer.ggml.scores").kind != SOURCE_NONE;
    size_t count, rules, i;
    llm_result result = vocabulary_count(s, "tokenizer.ggml.tokens", true, &count, error);
    if (result == LLM_OK)
        result = vocabulary_count(s, "tokenizer.ggml.merges", false, &rules, error);
    if (result != LLM_OK) return result;
    v->tokens = (llm_text *)calloc(count + 1, sizeof *v->tokens);
    v->merges = (llm_text *)calloc(rules + 1, sizeof *v->merges);
    v->types = (int32_t *)calloc(count + 1, sizeof *v->types);
    v->scores = (float *)calloc(count + 1, sizeof *v->scores);
    v->numbers = (float *)calloc(count + 1, sizeof *v->numbers);
    if (!v->tokens || !v->merges || !v->types || !v->scores || !v->numbers)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tokens", count);
    result = vocabulary_array(s, "tokenizer.ggml.tokens", SOURCE_TEXT, count, v->tokens,
                              sizeof *v->tokens, error);
    if (result == LLM_OK && rules)
        result = vocabulary_array(s, "tokenizer.ggml.merges", SOURCE_TEXT, rules, v->merges,
                                  sizeof *v->merges, error);
    if (result == LLM_OK && typed)
        result = vocabulary_array(s, "tokenizer.ggml.token_type", SOURCE_NUMBER, count, v->numbers,
                                  sizeof *v->numbers, error);
    if (result == LLM_OK && scored)
        result = vocabulary_array(s, "tokenizer.ggml.scores", SOURCE_NUMBER, count, v->scores,
                                  sizeof *v->scores, error);
    for (i = 0; i < count && typed; i++)
        v->types[i] = v->numbers[i] >= 0.0f && v->numbers[i] < 100.0f ? (int32_t)v->numbers[i] : 0;
    v->from.count = count;
    v->from.tokens = v->tokens;
    v->from.types = typed ? v->types : NULL;
    v->from.scores = scored ? v->scores : NULL;
    v->from.merges = rules ? v->merges : NULL;
    v->from.merge_count = rules;
    return result;
}

/* The texts of a folder, and the ids that end a generation, besides those that the texts name. */
static llm_result vocabulary_from_json(const source_file *s, uint32_t model_vocab,
                                       unsigned char **section, size_t *size, llm_error *error) {
    const source_value text = s->value(s, "tokenizer.json");
    const source_value config = s->value(s, "tokenizer_config.json");
    source_value listed = s->value(s, "eos_token_id"), one;
    int32_t *ends = (int32_t *)calloc((size_t)listed.count + 1, sizeof *ends);
    tokenizer_json t;
    llm_result result;
    size_t count = 0;
    if (!ends)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu ids", (size_t)listed.count);
    while (s->next(s, &listed, &one)) ends[count++] = (int32_t)one.number;
    result = tokenizer_json_parse(&t, text.text, config.text, error);
    if (result == LLM_OK) {
        t.source.ends = ends;
        t.source.end_count = count;
        if (t.source.count > model_vocab)
            result = llm__fail(error, LLM_ERROR_FORMAT, "tokenizer.json: %zu tokens, the model has "
                               "%u", t.source.count, model_vocab);
        else
            result = tokenizer_build(&t.source, section, size, error);
        tokenizer_json_free(&t);
    }
    free(ends);
    return result;
}

/* *section is NULL when the source has no tokenizer; otherwise the caller frees it. */
static llm_result vocabulary_section(const source_file *s, uint32_t model_vocab,
                                     unsigned char **section,
                                     size_t *size, llm_error *error) {
    vocabulary v;
    llm_result result;
    *section = NULL;
    *size = 0;
    if (s->value(s, "tokenizer.json").kind == SOURCE_TEXT)
        return vocabulary_from_json(s, model_vocab, section, size, error);
    if (s->value(s, "tokenizer.ggml.model").kind == SOURCE_NONE) return LLM_OK;
    memset(&v, 0, sizeof v);
    vocabulary_name(s, "tokenizer.ggml.model", v.model, sizeof v.model);
    vocabulary_name(s, "tokenizer.ggml.pre", v.pre, sizeof v.pre);
    v.from.model = v.model;
    v.from.pre = v.pre;
    vocabulary_special(s, &v);
    result = vocabulary_read(s, &v, error);
    if (result == LLM_OK && v.from.count > model_vocab)
        result = llm__fail(error, LLM_ERROR_FORMAT, "key tokenizer.ggml.tokens: %zu tokens, the "
                           "embedding has %u", v.from.count, model_vocab);
    if (result == LLM_OK) result = tokenizer_build(&v.from, section, size, error);
    free(v.tokens);
    free(v.merges);
    free(v.types);
    free(v.scores);
    free(v.numbers);
    return result;
}

#endif
