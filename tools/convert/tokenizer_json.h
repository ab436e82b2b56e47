/* ======================================================================== */
/* tokenizer.json: the vocabulary of a Hugging Face folder                   */
/* ========================================================================
   tokenizer_json_parse(&t, tokenizer, config, &error) reads two texts in memory, the files
   tokenizer.json and tokenizer_config.json (the latter may be empty), and fills t.source for
   tokenizer_build; tokenizer_json_free releases it. Both texts must outlive t.

   The library `tokenizers` makes a tokenizer of a file's description, step by step. What is
   understood here comes out as its ids, all of them; anything else is refused by name:

     model          BPE, byte-level or with byte fallback (or a fused unknown token)
     normalizer     byte-level: none or NFC; else Prepend and Replace that turn " " into U+2581
     pre_tokenizer  byte-level: GPT-2's, Llama 3's and Qwen 2's expressions, GPT-2's with single
                    digits (SmolLM); else none, Metaspace, or Split at spaces that are there no more
     post_processor one token before the text, one behind it, or none
     added_tokens   with all their flags; "special" makes a control token, everything else a
                    user-defined one (but see tb_is_mark in tokenizer_build.h)

   One thing is different on purpose: a text never becomes a control token unless its caller says
   that it may, not even where the model's own rules would merge it to one. */
#ifndef CONVERT_TOKENIZER_JSON_H
#define CONVERT_TOKENIZER_JSON_H

#include "json.h"
#include "tokenizer_build.h"

typedef struct tokenizer_json {
    json file, config;
    llm_error *error;
    llm_result result;
    llm_text *tokens, *merges;
    int32_t *types;
    uint8_t *flags;
    bool pieces, byte_fallback;
    tokenizer_source source;
} tokenizer_json;

static bool tj_fail(tokenizer_json *t, const char *field, const char *what, llm_text value) {
    int size = value.size < 150 ? (int)value.size : 150;
    t->result = llm__fail(t->error, LLM_ERROR_UNSUPPORTED, "tokenizer.json: %s: %s%s%.*s%s", field,
                          what, value.size ? " \"" : "", size, value.data, value.size ? "\"" : "");
    return false;
}

static bool tj_wrong(tokenizer_json *t, const char *field, const char *what, llm_text value) {
    (void)tj_fail(t, field, what, value);
    t->result = LLM_ERROR_FORMAT;
    if (t->error) t->error->code = LLM_ERROR_FORMAT;
    return false;
}

static bool tj_no_memory(tokenizer_json *t) {
    t->result = llm__fail(t->error, LLM_ERROR_MEMORY, "tokenizer.json: no memory");
    return false;
}

static bool tj_is_null(const json *j, uint32_t node) {
    return node == JSON_NONE || json_type(j, node) == JSON_NULL;
}

/* A boolean member; `fallback` where there is none. */
static bool tj_flag(tokenizer_json *t, uint32_t object, const char *key, bool fallback,
                    bool *value) {
    uint32_t node = json_find(&t->file, object, key);
    int type = json_type(&t->file, node);
    *value = type == JSON_TRUE || (fallback && type != JSON_FALSE);
    return tj_is_null(&t->file, node) || type == JSON_TRUE || type == JSON_FALSE ||
           tj_wrong(t, key, "expected true or false", text_of(""));
}

/* ---- steps: an object, or a Sequence of them ---- */

enum { TJ_STEPS = 8 };
typedef struct tj_steps {
    const char *field;
    uint32_t node[TJ_STEPS], count;
} tj_steps;

static bool tj_read_steps(tokenizer_json *t, const char *field, const char *list, tj_steps *steps) {
    const json *j = &t->file;
    uint32_t node = json_find(j, 0, field), inner, n;
    steps->field = field;
    steps->count = 0;
    if (tj_is_null(j, node)) return true;
    if (json_type(j, node) != JSON_OBJECT)
        return tj_wrong(t, field, "expected an object", text_of(""));
    if (!json_is(j, json_find(j, node, "type"), "Sequence")) {
        steps->node[steps->count++] = node;
        return true;
    }
    inner = json_find(j, node, list);
    if (json_type(j, inner) != JSON_ARRAY)
        return tj_wrong(t, field, "expected an array of steps", text_of(list));
    if (json_count(j, inner) > TJ_STEPS) return tj_fail(t, field, "too many steps", text_of(""));
    for (n = inner + 1; n < json_next(j, inner); n = json_next(j, n))
        steps->node[steps->count++] = n;
    return true;
}

static bool tj_step_is(const tokenizer_json *t, const tj_steps *steps, uint32_t i,
                       const char *type) {
    return i < steps->count &&
           json_is(&t->file, json_find(&t->file, steps->node[i], "type"), type);
}

static bool tj_refuse_step(tokenizer_json *t, const tj_steps *steps, uint32_t i) {
    uint32_t type = i < steps->count ? json_find(&t->file, steps->node[i], "type") : JSON_NONE;
    return tj_fail(t, steps->field, "not supported here:",
                   json_type(&t->file, type) == JSON_STRING ? json_text(&t->file, type)
                                                            : text_of("a step without a type"));
}

/* Whether a member is this string; for patterns its String or its Regex. */
static bool tj_member_is(const tokenizer_json *t, uint32_t object, const char *key,
                         const char *value) {
    return json_is(&t->file, json_find(&t->file, object, key), value);
}

static bool tj_pattern_is(const tokenizer_json *t, uint32_t step, const char *string) {
    return tj_member_is(t, json_find(&t->file, step, "pattern"), "String", string);
}

/* ---- byte-level vocabularies ---- */

#define TJ_AFTER_NUMBER "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TJ_BEFORE_NUMBER "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define TJ_GPT2_WORDS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
static const struct {
    const char *expression, *pre;
} tj_expressions[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d" TJ_GPT2_WORDS, "gpt-2"},
    {"'(?:[sdmt]|ll|ve|re)" TJ_GPT2_WORDS, "gpt-2"},
    {TJ_BEFORE_NUMBER "\\p{N}{1,3}" TJ_AFTER_NUMBER, "llama3"},
    {TJ_BEFORE_NUMBER "\\p{N}" TJ_AFTER_NUMBER, "qwen2"},
};

/* Split, isolated, at a known expression. */
static bool tj_read_split(tokenizer_json *t, const tj_steps *steps, uint32_t i) {
    const uint32_t step = steps->node[i];
    const uint32_t regex = json_find(&t->file, json_find(&t->file, step, "pattern"), "Regex");
    bool invert;
    size_t k;
    if (!tj_flag(t, step, "invert", false, &invert)) return false;
    if (invert || !tj_member_is(t, step, "behavior", "Isolated"))
        return tj_fail(t, steps->field, "Split other than \"Isolated\", not inverted", text_of(""));
    for (k = 0; k < sizeof tj_expressions / sizeof *tj_expressions; k++)
        if (json_is(&t->file, regex, tj_expressions[k].expression))
            t->source.pre = tj_expressions[k].pre;
    return t->source.pre ||
           tj_fail(t, steps->field, "an expression that is not known:",
                   json_type(&t->file, regex) == JSON_STRING ? json_text(&t->file, regex)
                                                             : text_of("no Regex"));
}

/* [Digits | Split], ByteLevel */
static bool tj_read_words(tokenizer_json *t, const tj_steps *steps) {
    const uint32_t last = steps->count - 1, level = steps->node[last];
    bool prefix, regex, single = false;
    if (!tj_flag(t, level, "add_prefix_space", true, &prefix) ||
        !tj_flag(t, level, "use_regex", true, &regex))
        return false;
    if (prefix) return tj_fail(t, steps->field, "ByteLevel with add_prefix_space", text_of(""));
    if (last == 0) {
        t->source.pre = "gpt-2";
        return regex || tj_fail(t, steps->field, "ByteLevel alone without use_regex", text_of(""));
    }
    if (last > 1) return tj_refuse_step(t, steps, 1);
    if (tj_step_is(t, steps, 0, "Digits") && regex) {
        t->source.pre = "smollm";
        return tj_flag(t, steps->node[0], "individual_digits", false, &single) &&
               (single || tj_fail(t, steps->field, "Digits not one by one", text_of("")));
    }
    if (!tj_step_is(t, steps, 0, "Split") || regex) return tj_refuse_step(t, steps, 0);
    return tj_read_split(t, steps, 0);
}

static bool tj_read_byte_level(tokenizer_json *t, const tj_steps *before, const tj_steps *words) {
    t->source.model = "gpt2";
    if (before->count > 1 || (before->count && !tj_step_is(t, before, 0, "NFC")))
        return tj_refuse_step(t, before, before->count > 1);
    t->source.nfc = before->count == 1;
    return tj_read_words(t, words);
}

/* ---- vocabularies of pieces ---- */

#define TJ_BLOCK "\xE2\x96\x81" /* U+2581 */

static bool tj_read_metaspace(tokenizer_json *t, const tj_steps *steps) {
    const uint32_t step = steps->node[0], scheme = json_find(&t->file, step, "prepend_scheme");
    bool prefix;
    if (!tj_member_is(t, step, "replacement", TJ_BLOCK))
        return tj_fail(t, steps->field, "Metaspace with another replacement than U+2581",
                       text_of(""));
    if (!tj_flag(t, step, "split", true, &t->source.split_spaces) ||
        !tj_flag(t, step, "add_prefix_space", true, &prefix))
        return false;
    t->source.prefix_new = true;
    t->source.prefix_first = json_is(&t->file, scheme, "first");
    t->source.add_space_prefix = prefix && !json_is(&t->file, scheme, "never");
    return tj_is_null(&t->file, scheme) || t->source.prefix_first || !t->source.add_space_prefix ||
           json_is(&t->file, scheme, "always") ||
           tj_fail(t, steps->field, "Metaspace with prepend_scheme", json_text(&t->file, scheme));
}

static bool tj_read_pieces(tokenizer_json *t, const tj_steps *before, const tj_steps *words) {
    bool replaced = false;
    uint32_t i;
    t->source.model = "llama";
    for (i = 0; i < before->count; i++) {
        const uint32_t step = before->node[i];
        if (tj_step_is(t, before, i, "Prepend") && !t->source.add_space_prefix &&
            tj_member_is(t, step, "prepend", TJ_BLOCK))
            t->source.add_space_prefix = true;
        else if (tj_step_is(t, before, i, "Replace") && !replaced && tj_pattern_is(t, step, " ") &&
                 tj_member_is(t, step, "content", TJ_BLOCK))
            replaced = true;
        else return tj_refuse_step(t, before, i);
    }
    if (words->count > 1) return tj_refuse_step(t, words, 1);
    if (tj_step_is(t, words, 0, "Metaspace") && !before->count) return tj_read_metaspace(t, words);
    if (!replaced)
        return tj_fail(t, "normalizer", "no step turns spaces into U+2581", text_of(""));
    /* no space is left to be split at */
    if (words->count && !(tj_step_is(t, words, 0, "Split") && tj_pattern_is(t, words->node[0], " ")))
        return tj_refuse_step(t, words, 0);
    if (words->count && !tj_member_is(t, words->node[0], "behavior", "MergedWithPrevious"))
        return tj_fail(t, words->field, "Split at spaces other than \"MergedWithPrevious\"",
                       text_of(""));
    return true;
}

/* ---- the model ---- */

static bool tj_read_model(tokenizer_json *t, uint32_t model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json *j = &t->file;
    const uint32_t type = json_find(j, model, "type"), dropout = json_find(j, model, "dropout");
    const uint32_t unknown = json_find(j, model, "unk_token");
    bool fuse;
    double number = 1;
    int i;
    if (json_type(j, model) != JSON_OBJECT)
        return tj_wrong(t, "model", "expected an object", text_of(""));
    if (type != JSON_NONE && !json_is(j, type, "BPE"))
        return tj_fail(t, "model", "only BPE is supported, not", json_text(j, type));
    if (!tj_is_null(j, dropout) && !(json_double(j, dropout, &number) && !(number > 0)))
        return tj_fail(t, "model", "dropout", text_of(""));
    for (i = 0; i < 2; i++) {
        uint32_t affix = json_find(j, model, affixes[i]);
        if (!tj_is_null(j, affix) && !json_is(j, affix, ""))
            return tj_fail(t, "model", affixes[i], json_text(j, affix));
    }
    if (!tj_flag(t, model, "byte_fallback", false, &t->byte_fallback) ||
        !tj_flag(t, model, "ignore_merges", false, &t->source.ignore_merges) ||
        !tj_flag(t, model, "fuse_unk", false, &fuse))
        return false;
    if (!t->pieces)
        return !t->byte_fallback || tj_fail(t, "model", "ByteLevel with byte_fallback", text_of(""));
    if (t->source.ignore_merges)
        return tj_fail(t, "model", "ignore_merges without ByteLevel", text_of(""));
    if (!t->byte_fallback && (tj_is_null(j, unknown) || !fuse))
        return tj_fail(t, "model", "neither byte_fallback nor an unk_token with fuse_unk",
                       text_of(""));
    return true;
}

/* An id; refused where no vocabulary can have it. */
static bool tj_read_id(tokenizer_json *t, const char *field, uint32_t node, llm_text of,
                       size_t *id) {
    uint64_t value = 0;
    if (!json_uint64(&t->file, node, &value))
        return tj_wrong(t, field, "expected an id for", of);
    if (value >= LLM__TOK_MAX_VOCAB)
        return tj_wrong(t, field, "an id of 2097152 or more for", of);
    *id = (size_t)value;
    return true;
}

/* How many ids there are, and room for them. */
static bool tj_reserve(tokenizer_json *t, uint32_t vocab, uint32_t added) {
    const json *j = &t->file;
    size_t id = 0, count = 0;
    uint32_t n;
    if (json_type(j, vocab) != JSON_OBJECT)
        return tj_wrong(t, "model.vocab", "expected an object", text_of(""));
    if (!tj_is_null(j, added) && json_type(j, added) != JSON_ARRAY)
        return tj_wrong(t, "added_tokens", "expected an array", text_of(""));
    for (n = vocab + 1; n < json_next(j, vocab); n = json_next(j, n + 1)) {
        if (!tj_read_id(t, "model.vocab", n + 1, json_text(j, n), &id)) return false;
        if (id >= count) count = id + 1;
    }
    for (n = added + 1; json_count(j, added) && n < json_next(j, added); n = json_next(j, n)) {
        llm_text content = json_text(j, json_find(j, n, "content"));
        if (!tj_read_id(t, "added_tokens", json_find(j, n, "id"), content, &id)) return false;
        if (id >= count) count = id + 1;
    }
    t->tokens = (llm_text *)calloc(count + 1, sizeof *t->tokens);
    t->types = (int32_t *)calloc(count + 1, sizeof *t->types);
    t->flags = (uint8_t *)calloc(count + 1, 1);
    if (!t->tokens || !t->types || !t->flags) return tj_no_memory(t);
    for (id = 0; id < count; id++) t->types[id] = LLM_TOKEN_UNUSED, t->tokens[id].data = "";
    t->source.count = count;
    t->source.tokens = t->tokens;
    t->source.types = t->types;
    t->source.flags = t->flags;
    return true;
}

/* "<0x0A>", as byte_fallback spells a byte; -1: something else. */
static int tj_byte(llm_text token) {
    static const char digits[] = "0123456789ABCDEF";
    const char *high, *low;
    if (token.size != 6 || memcmp(token.data, "<0x", 3) != 0 || token.data[5] != '>') return -1;
    high = (const char *)memchr(digits, token.data[3], 16);
    low = (const char *)memchr(digits, token.data[4], 16);
    return high && low ? (int)(high - digits) * 16 + (int)(low - digits) : -1;
}

/* The byte that a byte-level token of one character stands for; -1: something else. */
static int tj_level_byte(llm_text token) {
    uint8_t bytes[4];
    size_t size = 0;
    return token.size && token.size <= 2 && tb_decode_bytes(token, bytes, &size) && size == 1
               ? bytes[0] : -1;
}

static bool tj_read_vocab(tokenizer_json *t, uint32_t model, uint32_t vocab) {
    const json *j = &t->file;
    const uint32_t unknown = json_find(j, model, "unk_token");
    bool bytes[256] = {false};
    uint32_t n;
    size_t id = 0, k;
    for (n = vocab + 1; n < json_next(j, vocab); n = json_next(j, n + 1)) {
        llm_text token = json_text(j, n);
        int byte = t->byte_fallback ? tj_byte(token) : -1;
        if (!tj_read_id(t, "model.vocab", n + 1, token, &id)) return false;
        if (t->types[id] != LLM_TOKEN_UNUSED || t->tokens[id].size)
            return tj_wrong(t, "model.vocab", "two tokens have the id of", token);
        t->tokens[id] = token;
        t->types[id] = byte < 0 ? LLM_TOKEN_NORMAL : LLM_TOKEN_BYTE;
        if (byte < 0 && !t->pieces) byte = tj_level_byte(token);
        if (byte >= 0) bytes[byte] = true;
        /* text has no spaces left when it is merged */
        if (t->pieces && token.size && memchr(token.data, ' ', token.size))
            t->types[id] = LLM_TOKEN_UNUSED;
        if (json_type(j, unknown) == JSON_STRING && text_compare(token, json_text(j, unknown)) == 0)
            t->source.unknown = (int32_t)id;
    }
    if (t->byte_fallback || (!t->pieces && json_type(j, unknown) == JSON_STRING))
        for (k = 0; k < 256; k++)
            if (!bytes[k])
                return tj_fail(t, "model", "not all 256 bytes are tokens, with", text_of(
                               t->pieces ? "byte_fallback" : "unk_token"));
    if (json_type(j, unknown) == JSON_STRING && t->source.unknown < 0)
        return tj_wrong(t, "model.unk_token", "not in the vocabulary:", json_text(j, unknown));
    return true;
}

/* ---- added tokens ---- */

typedef struct tj_added {
    llm_text content;
    size_t id;
} tj_added;

static int tj_compare_added(const void *a, const void *b) {
    return text_compare(((const tj_added *)a)->content, ((const tj_added *)b)->content);
}

/* One text has one id: neither another added token nor one of the model may have it too. */
static bool tj_check_added(tokenizer_json *t, tj_added *added, size_t count, uint32_t vocab) {
    const json *j = &t->file;
    size_t i, id = 0;
    uint32_t n;
    qsort(added, count, sizeof *added, tj_compare_added);
    for (i = 1; i < count; i++)
        if (tj_compare_added(&added[i - 1], &added[i]) == 0)
            return tj_wrong(t, "added_tokens", "twice:", added[i].content);
    for (n = vocab + 1; n < json_next(j, vocab); n = json_next(j, n + 1)) {
        tj_added wanted, *found;
        wanted.content = json_text(j, n);
        found = (tj_added *)bsearch(&wanted, added, count, sizeof *added, tj_compare_added);
        if (!found) continue;
        if (!tj_read_id(t, "model.vocab", n + 1, wanted.content, &id)) return false;
        if (id != found->id)
            return tj_wrong(t, "added_tokens", "the vocabulary has another id for", wanted.content);
    }
    return true;
}

static bool tj_read_added_token(tokenizer_json *t, uint32_t n, tj_added *added) {
    const json *j = &t->file;
    bool special, normalized, left, right, single;
    llm_text *token;
    added->content = json_text(j, json_find(j, n, "content"));
    if (!tj_read_id(t, "added_tokens", json_find(j, n, "id"), added->content, &added->id) ||
        !tj_flag(t, n, "special", false, &special) ||
        !tj_flag(t, n, "normalized", !special, &normalized) ||
        !tj_flag(t, n, "lstrip", false, &left) || !tj_flag(t, n, "rstrip", false, &right) ||
        !tj_flag(t, n, "single_word", false, &single))
        return false;
    if (!added->content.size)
        return tj_wrong(t, "added_tokens", "a token without content", text_of(""));
    token = &t->tokens[added->id];
    if (token->size && text_compare(*token, added->content) != 0)
        return tj_wrong(t, "added_tokens", "another token has the id of", added->content);
    if (t->types[added->id] == LLM_TOKEN_NORMAL && !special)
        t->flags[added->id] = TOKENIZER_MERGED;
    *token = added->content;
    t->types[added->id] = special ? LLM_TOKEN_CONTROL : LLM_TOKEN_USER_DEFINED;
    t->flags[added->id] = (uint8_t)(t->flags[added->id] | (normalized ? TOKENIZER_NORMALIZED : 0) |
                                    (left ? TOKENIZER_LSTRIP : 0) |
                                    (right ? TOKENIZER_RSTRIP : 0) |
                                    (single ? TOKENIZER_SINGLE_WORD : 0));
    return true;
}

static bool tj_read_added(tokenizer_json *t, uint32_t list, uint32_t vocab) {
    const json *j = &t->file;
    const size_t count = json_count(j, list);
    tj_added *added = (tj_added *)calloc(count + 1, sizeof *added);
    size_t i = 0;
    uint32_t n;
    bool good = true;
    if (!added) return tj_no_memory(t);
    for (n = list + 1; good && i < count; n = json_next(j, n))
        good = tj_read_added_token(t, n, &added[i++]);
    good = good && (!count || tj_check_added(t, added, count, vocab));
    free(added);
    return good;
}

/* ---- merges ---- */

/* "left right", with one space; a line of the old text form may say its version instead. */
static bool tj_read_merge(tokenizer_json *t, llm_text merge, llm_text *pair) {
    const char *space = merge.size ? (const char *)memchr(merge.data, ' ', merge.size) : NULL;
    size_t left = space ? (size_t)(space - merge.data) : 0;
    if (!space || memchr(space + 1, ' ', merge.size - left - 1))
        return tj_wrong(t, "model.merges", "expected two tokens and one space:", merge);
    pair[0].data = merge.data;
    pair[0].size = left;
    pair[1].data = space + 1;
    pair[1].size = merge.size - left - 1;
    return true;
}

static bool tj_read_merges(tokenizer_json *t, uint32_t list) {
    const json *j = &t->file;
    size_t count = 0;
    uint32_t n;
    if (json_type(j, list) != JSON_ARRAY)
        return tj_wrong(t, "model.merges", "expected an array", text_of(""));
    t->merges = (llm_text *)calloc(2 * (size_t)json_count(j, list) + 1, sizeof *t->merges);
    if (!t->merges) return tj_no_memory(t);
    for (n = list + 1; n < json_next(j, list); n = json_next(j, n)) {
        llm_text *pair = &t->merges[2 * count], one = json_text(j, n);
        if (json_type(j, n) == JSON_STRING) {
            if (one.size >= 8 && !memcmp(one.data, "#version", 8)) continue;
            if (!tj_read_merge(t, one, pair)) return false;
        } else if (json_count(j, n) == 2 && json_type(j, n) == JSON_ARRAY &&
                   json_type(j, n + 1) == JSON_STRING && json_type(j, n + 2) == JSON_STRING) {
            pair[0] = json_text(j, n + 1);
            pair[1] = json_text(j, n + 2);
        } else {
            return tj_wrong(t, "model.merges", "expected a text or two of them", text_of(""));
        }
        count++;
    }
    t->source.pairs = t->merges;
    t->source.merge_count = count;
    return true;
}

/* ---- what goes around a text ---- */

/* The id of the one token that a template's SpecialToken stands for. */
static bool tj_read_mark(tokenizer_json *t, uint32_t step, uint32_t mark, int32_t *id) {
    const json *j = &t->file;
    const uint32_t all = json_find(j, step, "special_tokens"), name = json_find(j, mark, "id");
    uint32_t n, ids = JSON_NONE;
    size_t value = 0;
    for (n = all + 1; json_count(j, all) && n < json_next(j, all); n = json_next(j, n + 1))
        if (text_compare(json_text(j, n), json_text(j, name)) == 0)
            ids = json_find(j, n + 1, "ids");
    if (json_count(j, ids) != 1)
        return tj_fail(t, "post_processor", "not one token for", json_text(j, name));
    if (!tj_read_id(t, "post_processor", ids + 1, json_text(j, name), &value)) return false;
    *id = (int32_t)value;
    return true;
}

/* [SpecialToken], Sequence, [SpecialToken] */
static bool tj_read_template(tokenizer_json *t, uint32_t step) {
    const json *j = &t->file;
    const uint32_t single = json_find(j, step, "single");
    int texts = 0;
    uint32_t n;
    if (json_type(j, single) != JSON_ARRAY)
        return tj_wrong(t, "post_processor", "expected an array", text_of("single"));
    for (n = single + 1; n < json_next(j, single); n = json_next(j, n)) {
        const uint32_t mark = json_find(j, n, "SpecialToken");
        if (mark == JSON_NONE) {
            if (json_find(j, n, "Sequence") == JSON_NONE || texts++)
                return tj_fail(t, "post_processor", "not one Sequence in a template", text_of(""));
        } else if (texts ? t->source.add_eos : t->source.add_bos) {
            return tj_fail(t, "post_processor", "several tokens before a text or behind it",
                           text_of(""));
        } else {
            if (!tj_read_mark(t, step, mark, texts ? &t->source.eos : &t->source.bos)) return false;
            if (texts) t->source.add_eos = true;
            else t->source.add_bos = true;
        }
    }
    return texts == 1 || tj_fail(t, "post_processor", "a template without a Sequence", text_of(""));
}

static bool tj_read_ends(tokenizer_json *t, bool *template) {
    tj_steps steps;
    uint32_t i;
    *template = false;
    if (!tj_read_steps(t, "post_processor", "processors", &steps)) return false;
    for (i = 0; i < steps.count; i++) {
        if (tj_step_is(t, &steps, i, "ByteLevel")) continue; /* it moves offsets only */
        if (*template || !tj_step_is(t, &steps, i, "TemplateProcessing"))
            return tj_refuse_step(t, &steps, i);
        if (!tj_read_template(t, steps.node[i])) return false;
        *template = true;
    }
    return true;
}

/* ---- tokenizer_config.json ---- */

/* The id of a token that the configuration names: a text, or an object with its content. */
static int32_t tj_named(const tokenizer_json *t, const char *key) {
    const json *j = &t->config;
    uint32_t node = json_find(j, 0, key);
    llm_text name;
    size_t i;
    if (json_type(j, node) == JSON_OBJECT) node = json_find(j, node, "content");
    name = json_text(j, node);
    for (i = 0; name.size && i < t->source.count; i++)
        if (text_compare(t->tokens[i], name) == 0) return (int32_t)i;
    return -1;
}

static void tj_read_config(tokenizer_json *t, bool template) {
    tokenizer_source *s = &t->source;
    const json *j = &t->config;
    if (!s->add_bos) s->bos = tj_named(t, "bos_token");
    if (!s->add_eos) s->eos = tj_named(t, "eos_token");
    s->padding = tj_named(t, "pad_token");
    if (s->unknown < 0) s->unknown = tj_named(t, "unk_token");
    if (template) return; /* it says it itself */
    s->add_bos = json_type(j, json_find(j, 0, "add_bos_token")) == JSON_TRUE && s->bos >= 0;
    s->add_eos = json_type(j, json_find(j, 0, "add_eos_token")) == JSON_TRUE && s->eos >= 0;
}

/* ---- all of it ---- */

static bool tj_read(tokenizer_json *t) {
    const json *j = &t->file;
    const uint32_t model = json_find(j, 0, "model"), vocab = json_find(j, model, "vocab");
    const uint32_t added = json_find(j, 0, "added_tokens");
    tj_steps before, words;
    bool template;
    uint32_t i;
    if (json_type(j, 0) != JSON_OBJECT)
        return tj_wrong(t, "the text", "expected an object", text_of(""));
    if (!tj_read_steps(t, "normalizer", "normalizers", &before) ||
        !tj_read_steps(t, "pre_tokenizer", "pretokenizers", &words))
        return false;
    t->pieces = true;
    for (i = 0; i < words.count; i++)
        if (tj_step_is(t, &words, i, "ByteLevel")) t->pieces = i + 1 != words.count;
    if (!tj_read_model(t, model)) return false;
    if (!(t->pieces ? tj_read_pieces(t, &before, &words) : tj_read_byte_level(t, &before, &words)))
        return false;
    if (!tj_reserve(t, vocab, added) || !tj_read_vocab(t, model, vocab) ||
        !tj_read_added(t, added, vocab) || !tj_read_merges(t, json_find(j, model, "merges")) ||
        !tj_read_ends(t, &template))
        return false;
    tj_read_config(t, template);
    return true;
}

static LLM__UNUSED void tokenizer_json_free(tokenizer_json *t) {
    json_free(&t->file);
    json_free(&t->config);
    free(t->tokens);
    free(t->merges);
    free(t->types);
    free(t->flags);
    memset(t, 0, sizeof *t);
}

/* After a failure there is nothing to be freed. */
static LLM__UNUSED llm_result tokenizer_json_parse(tokenizer_json *t, llm_text tokenizer,
                                                   llm_text config, llm_error *error) {
    llm_result result;
    memset(t, 0, sizeof *t);
    t->error = error;
    t->source.exact = true;
    t->source.bos = t->source.eos = t->source.eot = t->source.eom = -1;
    t->source.unknown = t->source.padding = -1;
    result = json_parse(&t->file, "tokenizer.json", tokenizer.data, tokenizer.size, error);
    if (result == LLM_OK && config.size)
        result = json_parse(&t->config, "tokenizer_config.json", config.data, config.size, error);
    if (result == LLM_OK && !tj_read(t)) result = t->result;
    if (result != LLM_OK) tokenizer_json_free(t);
    return result;
}

#endif
