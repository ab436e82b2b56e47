/* Builds the tokenizer section of an .llm file (its format: llm.h, >>tokenizer-section) from a
   vocabulary as GGUF and tokenizer.json state it. Host side: uses malloc and takes its time.
   Include after the implementation of llm.h. */
#ifndef LLM_TOKENIZER_BUILD_H
#define LLM_TOKENIZER_BUILD_H

#include "unicode_tables.h"
#include <stdlib.h>
#include <string.h>

enum { /* tokenizer_source.flags, of control and user-defined tokens */
    TOKENIZER_MERGED = 1,           /* user-defined, but merging may also produce it */
    TOKENIZER_NORMALIZED = 2,       /* found in normalised text, between the others */
    TOKENIZER_LSTRIP = LLM__TOK_LSTRIP, /* takes the white space before it */
    TOKENIZER_RSTRIP = LLM__TOK_RSTRIP, /* and behind it */
    TOKENIZER_SINGLE_WORD = LLM__TOK_SINGLE_WORD /* not where a word goes on beside it */
};

typedef struct tokenizer_source {
    const char *model;      /* "gpt2": byte-level BPE, "llama": SentencePiece BPE */
    const char *pre;        /* the pre-tokenizer's name in GGUF; SentencePiece ignores it */
    size_t count;           /* of tokens */
    const llm_text *tokens; /* as GGUF spells them: gpt2 bytes as printable characters, U+2581 */
    const int32_t *types;   /* llm_token_kind; NULL: all normal */
    const float *scores;    /* llama; NULL where `merges` are given */
    const llm_text *merges; /* "left right", best first; llama: NULL derives them from the scores */
    const llm_text *pairs; /* the same as left, right, left, right; instead of `merges` */
    size_t merge_count;
    const uint8_t *flags;  /* TOKENIZER_…; NULL: none */
    const int32_t *ends;   /* ids that end a generation, besides eos, eot and eom */
    size_t end_count;
    int32_t bos, eos, eot, eom, unknown, padding; /* -1: none */
    bool add_bos, add_eos, add_space_prefix;
    bool ignore_merges; /* tokenizer.json's; implied by GGUF's Llama 3 pre-tokenizer */
    bool exact; /* tokenizer.json: what it says holds to the letter. Otherwise, as in GGUF, U+2581 in
                   a text is a space to added tokens too, and Llama 3 ignores merges */
    bool nfc;   /* text is brought into normal form C first (byte-level vocabularies) */
    /* SentencePiece: what add_space_prefix means, and words that begin at every space. */
    bool prefix_first; /* only at the beginning of the whole text */
    bool prefix_new;   /* not before a space; behind TOKENIZER_NORMALIZED tokens too */
    bool split_spaces; /* no token goes on across a space */
} tokenizer_source;

typedef struct tb_rule {
    uint32_t left, right, result, rank;
} tb_rule;

typedef struct tb_string {
    const uint8_t *data;
    uint32_t size, id;
} tb_string;

typedef struct tb_state {
    const tokenizer_source *source;
    llm_error *error;
    llm__tok_header header;
    void *blocks[64]; /* everything allocated, freed at the end */
    int block_count;
    bool pieces;
    uint32_t *map; /* hash of the tokens as spelled: id + 1 */
    size_t map_mask;
    uint32_t *normal; /* the same of normal tokens only */
    tb_rule *rules;
    size_t rule_count;
    uint32_t *rule_map; /* hash of (left, right): rule + 1 */
    size_t rule_mask;
    uint8_t *kinds;
    uint8_t *merged; /* normal, or user-defined and merged */
    llm__tok_token *tokens; /* count + 1 */
    uint8_t *text;
    size_t text_size;
    uint8_t *reachable; /* by merging */
    uint32_t bytes[256], starts[32], joins[2048];
    uint32_t ends[64];
    uint32_t end_count;
    llm__tok_node *trie[3]; /* normal tokens, added ones, added ones that are normalised */
    uint32_t trie_count[3];
    uint64_t *pairs;
    uint32_t buckets;
    uint8_t nfc_page[2048], (*nfc_class)[128];
    uint32_t *nfc_split, *nfc_join;
    uint32_t nfc_pages, nfc_classes, nfc_splits, nfc_joins;
    uint8_t *added_text; /* of added tokens that are normalised */
    size_t added_room, added_used;
    llm_allocator allocator; /* malloc */
} tb_state;

static void *tb_allocate(tb_state *b, size_t count, size_t size) {
    void *memory = NULL;
    if (b->block_count < 64) memory = calloc(count ? count : 1, size);
    if (memory) b->blocks[b->block_count++] = memory;
    else (void)llm__fail(b->error, LLM_ERROR_MEMORY, "tokenizer: no memory for %zu x %zu bytes",
                         count, size);
    return memory;
}

/* Refuses; false. */
#define TB_FAIL(b, code, ...) (llm__fail((b)->error, code, __VA_ARGS__), false)

/* The first bytes of a text, for a message. */
typedef struct tb_shown_text {
    char text[81];
} tb_shown_text;
static tb_shown_text tb_show(llm_text text) {
    tb_shown_text s;
    size_t size = text.data && text.size < 80 ? text.size : text.data ? 80 : 0;
    memcpy(s.text, text.data ? text.data : "", size);
    s.text[size] = 0;
    return s;
}

/* ---- names ---- */

static const struct {
    const char *name;
    uint8_t pre;
} tb_pre_names[] = {
    {"gpt-2", LLM__PRE_GPT2},      {"gpt2", LLM__PRE_GPT2},        {"phi-2", LLM__PRE_GPT2},
    {"mpt", LLM__PRE_GPT2},        {"olmo", LLM__PRE_GPT2},        {"jina-es", LLM__PRE_GPT2},
    {"jina-de", LLM__PRE_GPT2},    {"roberta-bpe", LLM__PRE_GPT2}, {"smollm", LLM__PRE_SMOLLM},
    {"starcoder", LLM__PRE_SMOLLM}, {"refact", LLM__PRE_SMOLLM},   {"codeshell", LLM__PRE_SMOLLM},
    {"llama-bpe", LLM__PRE_LLAMA3}, {"llama3", LLM__PRE_LLAMA3},   {"llama-v3", LLM__PRE_LLAMA3},
    {"qwen2", LLM__PRE_QWEN2},     {"stablelm2", LLM__PRE_QWEN2},  {"megrez", LLM__PRE_QWEN2},
    {"deepseek-r1-qwen", LLM__PRE_QWEN2},
};

static bool tb_choose_pre(tb_state *b) {
    const tokenizer_source *s = b->source;
    const char *model = s->model ? s->model : "", *pre = s->pre ? s->pre : "";
    size_t i;
    b->pieces = !strcmp(model, "llama");
    if (!b->pieces && strcmp(model, "gpt2"))
        return TB_FAIL(b, LLM_ERROR_UNSUPPORTED,
                       "tokenizer: the model is \"%.80s\", expected \"gpt2\" or \"llama\"", model);
    b->header.pre = LLM__PRE_SENTENCEPIECE;
    if (b->pieces) return true;
    for (i = 0; i < sizeof tb_pre_names / sizeof *tb_pre_names; i++)
        if (!strcmp(pre, tb_pre_names[i].name)) b->header.pre = tb_pre_names[i].pre;
    if (b->header.pre == LLM__PRE_SENTENCEPIECE)
        return TB_FAIL(b, LLM_ERROR_UNSUPPORTED, "tokenizer: the pre-tokenizer is \"%.80s\", "
                       "expected that of GPT-2, SmolLM, Llama 3, Qwen 2 or one of their kin", pre);
    return true;
}

/* ---- marks ---- */

/* Names that end a generation wherever they are a control token (the list is llama.cpp's). */
static const char *const tb_end_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\xEF\xBD\x9C\145nd\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>", "[e~["};

/* Of turns and their ends. */
static const char *const tb_turn_names[] = {"<start_of_turn>", "<end_of_turn>", "<turn|>", "<|turn>",
                                            "<end_of_utterance>"};

static bool tb_named(const tb_state *b, uint32_t id, const char *name) {
    llm_text t = b->source->tokens[id];
    return t.size == strlen(name) && !memcmp(t.data, name, t.size);
}

/* Whether a token must be a control token, whatever the source says: text from outside could end
   the model's turn otherwise. That is so for what is written as a mark ("<|im_end|>"), for the
   names above, which mean nothing else, and for user-defined ids that begin a text or end one. What
   tokenizer.json does not list among the added tokens is found by nothing but merging. */
static bool tb_is_mark(const tb_state *b, size_t i) {
    const tokenizer_source *s = b->source;
    const llm_text t = s->tokens[i];
    const int64_t id = (int64_t)i;
    size_t k;
    if (b->kinds[i] != LLM_TOKEN_USER_DEFINED && (b->kinds[i] != LLM_TOKEN_NORMAL || s->exact))
        return false;
    if (t.size >= 5 && !memcmp(t.data, "<|", 2) && !memcmp(t.data + t.size - 2, "|>", 2)) return true;
    for (k = 0; k < sizeof tb_turn_names / sizeof *tb_turn_names; k++)
        if (tb_named(b, (uint32_t)i, tb_turn_names[k])) return true;
    for (k = 0; k < s->end_count; k++)
        if (b->kinds[i] == LLM_TOKEN_USER_DEFINED && s->ends[k] == id) return true;
    return b->kinds[i] == LLM_TOKEN_USER_DEFINED &&
           (s->bos == id || s->eos == id || s->eot == id || s->eom == id);
}

/* ---- strings to ids ---- */

static uint64_t tb_hash(const char *data, size_t size) {
    uint64_t h = 0xCBF29CE484222325u;
    size_t i;
    for (i = 0; i < size; i++) h = (h ^ (uint8_t)data[i]) * 0x100000001B3u;
    return h ^ h >> 29;
}

/* The slot of a string: its id + 1, or 0 where it would go. */
static uint32_t *tb_slot(tb_state *b, uint32_t *map, const char *data, size_t size) {
    const llm_text *tokens = b->source->tokens;
    size_t at = (size_t)tb_hash(data, size) & b->map_mask;
    for (; map[at]; at = (at + 1) & b->map_mask) {
        const llm_text *other = &tokens[map[at] - 1];
        if (other->size == size && !memcmp(other->data, data, size)) break;
    }
    return &map[at];
}

static uint32_t tb_find(tb_state *b, uint32_t *map, const char *data, size_t size) {
    uint32_t found = size ? *tb_slot(b, map, data, size) : 0;
    return found ? found - 1 : LLM__TOK_NONE;
}

/* Of tokens spelled alike the last one counts, as in a JSON object. */
static bool tb_make_maps(tb_state *b) {
    const tokenizer_source *s = b->source;
    size_t i;
    for (b->map_mask = 1024; b->map_mask < s->count * 2; b->map_mask *= 2) continue;
    b->map = (uint32_t *)tb_allocate(b, b->map_mask, sizeof(uint32_t));
    b->normal = (uint32_t *)tb_allocate(b, b->map_mask, sizeof(uint32_t));
    b->map_mask--;
    if (!b->map || !b->normal) return false;
    for (i = 0; i < s->count; i++) {
        if (!s->tokens[i].size) continue;
        *tb_slot(b, b->map, s->tokens[i].data, s->tokens[i].size) = (uint32_t)i + 1;
        if (b->merged[i])
            *tb_slot(b, b->normal, s->tokens[i].data, s->tokens[i].size) = (uint32_t)i + 1;
    }
    return true;
}

/* ---- tokens to bytes ---- */

/* The bytes that byte-level vocabularies show as themselves; the other 68 follow U+0100 on. */
static bool tb_shown(uint32_t c) {
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

static int tb_byte_of(uint32_t scalar) {
    uint32_t c, next = 256;
    if (scalar < 256) return tb_shown(scalar) ? (int)scalar : -1;
    for (c = 0; c < 256; c++)
        if (!tb_shown(c) && next++ == scalar) return (int)c;
    return -1;
}

/* Writes what a byte-level token stands for; false if some character stands for no byte. */
static bool tb_decode_bytes(llm_text in, uint8_t *out, size_t *size) {
    const uint8_t *s = (const uint8_t *)in.data;
    size_t i = 0, k, used = 0;
    while (i < in.size) {
        uint32_t scalar = 0;
        int byte;
        k = llm__tok_utf8(s + i, in.size - i, &scalar);
        byte = k ? tb_byte_of(scalar) : -1;
        if (byte < 0) return false;
        out[used++] = (uint8_t)byte;
        i += k;
    }
    *size = used;
    return true;
}

static int tb_hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint8_t tb_flags(const tb_state *b, size_t i) {
    return b->source->flags ? b->source->flags[i] : 0;
}

static bool tb_plain(llm_text t) {
    size_t i;
    for (i = 0; i < t.size; i++)
        if (t.data[i] < 33 || t.data[i] > 126) return false;
    return true;
}

/* Decodes token i behind the text so far. Tokens that spell no bytes keep their spelling. */
static bool tb_decode(tb_state *b, size_t i) {
    llm_text in = b->source->tokens[i];
    uint8_t *out = b->text + b->text_size;
    size_t k, size = 0;
    if (b->kinds[i] == LLM_TOKEN_BYTE && b->pieces) {
        if (in.size != 6 || memcmp(in.data, "<0x", 3) || tb_hex(in.data[3]) < 0 ||
            tb_hex(in.data[4]) < 0)
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: token %zu is the byte \"%s\", expected "
                           "the form <0xNN>", i, tb_show(in).text);
        out[size++] = (uint8_t)(tb_hex(in.data[3]) * 16 + tb_hex(in.data[4]));
        b->bytes[out[0]] = (uint32_t)i;
    } else if (b->pieces) {
        for (k = 0; k < in.size; k++) {
            if (in.size - k >= 3 && !memcmp(in.data + k, "\xE2\x96\x81", 3)) {
                out[size++] = ' ';
                k += 2;
            } else {
                out[size++] = (uint8_t)in.data[k];
            }
        }
    } else if (b->kinds[i] != LLM_TOKEN_NORMAL || !tb_decode_bytes(in, out, &size)) {
        memcpy(out, in.data, in.size);
        size = in.size;
        if (b->kinds[i] == LLM_TOKEN_NORMAL) b->kinds[i] = LLM_TOKEN_UNUSED; /* no text spells it */
    }
    if (size > b->header.longest) b->header.longest = (uint32_t)size;
    b->merged[i] = b->kinds[i] == LLM_TOKEN_NORMAL;
    if (b->kinds[i] == LLM_TOKEN_USER_DEFINED && tb_flags(b, i) & TOKENIZER_MERGED)
        b->merged[i] = b->pieces || tb_plain(in); /* byte-level: spelled as it is written */
    b->text_size += size;
    return true;
}

static bool tb_make_text(tb_state *b) {
    const tokenizer_source *s = b->source;
    size_t i, total = 1;
    for (i = 0; i < s->count; i++) {
        if (s->tokens[i].size > LLM__TOK_MAX_LENGTH)
            return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: token %zu \"%s\" has %zu bytes, "
                           "expected at most %d", i, tb_show(s->tokens[i]).text, s->tokens[i].size,
                           (int)LLM__TOK_MAX_LENGTH);
        if (s->types && (s->types[i] < 1 || s->types[i] > 6))
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: token %zu \"%s\" is of type %d, "
                           "expected 1 .. 6", i, tb_show(s->tokens[i]).text, (int)s->types[i]);
        total += s->tokens[i].size;
        if (total > 0x40000000u)
            return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: tokens 0 .. %zu have %zu bytes, "
                           "expected at most %u", i, total - 1, 0x40000000u - 1);
    }
    b->kinds = (uint8_t *)tb_allocate(b, s->count, 1);
    b->merged = (uint8_t *)tb_allocate(b, s->count, 1);
    b->tokens = (llm__tok_token *)tb_allocate(b, s->count + 1, sizeof(llm__tok_token));
    b->text = (uint8_t *)tb_allocate(b, total, 1);
    b->reachable = (uint8_t *)tb_allocate(b, s->count, 1);
    if (!b->kinds || !b->merged || !b->tokens || !b->text || !b->reachable) return false;
    for (i = 0; i < 256; i++) b->bytes[i] = 0xFFFFFFFFu;
    for (i = 0; i < s->count; i++) {
        b->kinds[i] = s->types ? (uint8_t)s->types[i] : LLM_TOKEN_NORMAL;
        if (tb_is_mark(b, i)) b->kinds[i] = LLM_TOKEN_CONTROL;
        b->tokens[i].text = (uint32_t)b->text_size;
        if (!tb_decode(b, i)) return false;
    }
    b->tokens[s->count].text = (uint32_t)b->text_size;
    return true;
}

static tb_string tb_bytes(const tb_state *b, uint32_t id) {
    tb_string s;
    s.data = b->text + b->tokens[id].text;
    s.size = b->tokens[id + 1].text - b->tokens[id].text;
    s.id = id;
    return s;
}

/* ---- merge rules ---- */

static uint32_t *tb_rule_slot(tb_state *b, uint32_t left, uint32_t right) {
    uint64_t h = (left | (uint64_t)right << 32) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h >> 20) & b->rule_mask;
    for (; b->rule_map[at]; at = (at + 1) & b->rule_mask) {
        const tb_rule *rule = &b->rules[b->rule_map[at] - 1];
        if (rule->left == left && rule->right == right) break;
    }
    return &b->rule_map[at];
}

static const tb_rule *tb_rule_of(tb_state *b, uint32_t left, uint32_t right) {
    uint32_t found = *tb_rule_slot(b, left, right);
    return found ? &b->rules[found - 1] : NULL;
}

/* The two parts of merge i; false if it has not got two. */
static bool tb_parts(const tokenizer_source *s, size_t i, llm_text *left, llm_text *right) {
    const char *space;
    if (s->pairs) {
        *left = s->pairs[2 * i];
        *right = s->pairs[2 * i + 1];
        return left->size && right->size;
    }
    *left = *right = s->merges[i];
    space = left->size > 2 ? (const char *)memchr(left->data + 1, ' ', left->size - 2) : NULL;
    if (!space) return false;
    left->size = (size_t)(space - left->data);
    right->data = space + 1;
    right->size -= left->size + 1;
    return true;
}

/* A merge for messages: of a pair its first token. */
static llm_text tb_merge_text(const tokenizer_source *s, size_t i) {
    return s->pairs ? s->pairs[2 * i] : s->merges[i];
}

/* Rules as listed. Of two rules for one pair the last counts. Rules for tokens that no merging can
   meet (control tokens and the like) are left out. */
static bool tb_listed_rules(tb_state *b) {
    const tokenizer_source *s = b->source;
    char *joined = (char *)tb_allocate(b, 2 * 65536, 1);
    size_t i;
    b->rules = (tb_rule *)tb_allocate(b, s->merge_count, sizeof(tb_rule));
    if (!b->rules || !joined) return false;
    for (i = 0; i < s->merge_count; i++) {
        llm_text l, r;
        uint32_t left, right, result;
        if (!tb_parts(s, i, &l, &r) || l.size + r.size > 65535)
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: merge %zu is \"%s\", %zu bytes, "
                           "expected two tokens with a space between, at most 65536", i,
                           tb_show(tb_merge_text(s, i)).text, tb_merge_text(s, i).size);
        memcpy(joined, l.data, l.size);
        memcpy(joined + l.size, r.data, r.size);
        left = tb_find(b, b->map, l.data, l.size);
        right = tb_find(b, b->map, r.data, r.size);
        result = tb_find(b, b->map, joined, l.size + r.size);
        if (left == LLM__TOK_NONE || right == LLM__TOK_NONE || result == LLM__TOK_NONE)
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: merge %zu is \"%s\": no such token as "
                           "%s", i, tb_show(tb_merge_text(s, i)).text,
                           left == LLM__TOK_NONE    ? "the first"
                           : right == LLM__TOK_NONE ? "the second"
                                                    : "both together");
        if (!b->merged[left] || !b->merged[right] || !b->merged[result]) continue;
        b->rules[b->rule_count].left = left;
        b->rules[b->rule_count].right = right;
        b->rules[b->rule_count].result = result;
        b->rules[b->rule_count++].rank = (uint32_t)i + 1;
    }
    return true;
}

typedef struct tb_split {
    float score;
    uint32_t left_size, right_size; /* characters */
    tb_rule rule;
} tb_split;

/* Best score first, then the longest left part, then the longest right part, then the lowest ids:
   the order in which SentencePiece models are turned into merge lists. */
static int tb_compare_splits(const void *x, const void *y) {
    const tb_split *a = (const tb_split *)x, *b = (const tb_split *)y;
    if (a->score > b->score || a->score < b->score) return a->score > b->score ? -1 : 1;
    if (a->left_size != b->left_size) return a->left_size > b->left_size ? -1 : 1;
    if (a->right_size != b->right_size) return a->right_size > b->right_size ? -1 : 1;
    if (a->rule.result != b->rule.result) return a->rule.result < b->rule.result ? -1 : 1;
    if (a->rule.left != b->rule.left) return a->rule.left < b->rule.left ? -1 : 1;
    return a->rule.right < b->rule.right ? -1 : a->rule.right > b->rule.right;
}

static bool tb_starts_character(char c) { return ((uint8_t)c & 0xC0) != 0x80; }

/* Every way to cut token i into two tokens; returns how many, and stores them if asked to. */
static size_t tb_splits_of(tb_state *b, uint32_t i, tb_split *out) {
    llm_text t = b->source->tokens[i];
    uint32_t characters = 0, before = 0;
    size_t k, found = 0;
    if (!b->merged[i]) return 0;
    for (k = 0; k < t.size; k++) characters += tb_starts_character(t.data[k]);
    for (k = 1, before = 1; k < t.size; k++) {
        uint32_t left, right;
        if (!tb_starts_character(t.data[k])) continue;
        left = tb_find(b, b->normal, t.data, k);
        right = left == LLM__TOK_NONE ? left : tb_find(b, b->normal, t.data + k, t.size - k);
        if (right != LLM__TOK_NONE && out) {
            out[found].score = b->source->scores[i];
            out[found].left_size = before;
            out[found].right_size = characters - before;
            out[found].rule.left = left;
            out[found].rule.right = right;
            out[found].rule.result = i;
        }
        found += right != LLM__TOK_NONE;
        before++;
    }
    return found;
}

static bool tb_scored_rules(tb_state *b) {
    tb_split *splits;
    size_t i, total = 0;
    for (i = 0; i < b->source->count; i++) {
        if (b->source->scores[i] != b->source->scores[i])
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: token %zu \"%s\" has the score nan, "
                           "expected a number", i, tb_show(b->source->tokens[i]).text);
        total += tb_splits_of(b, (uint32_t)i, NULL);
    }
    splits = (tb_split *)tb_allocate(b, total, sizeof(tb_split));
    b->rules = (tb_rule *)tb_allocate(b, total, sizeof(tb_rule));
    if (!splits || !b->rules) return false;
    for (i = total = 0; i < b->source->count; i++)
        total += tb_splits_of(b, (uint32_t)i, splits + total);
    qsort(splits, total, sizeof *splits, tb_compare_splits);
    for (i = 0; i < total; i++) {
        b->rules[i] = splits[i].rule;
        b->rules[i].rank = (uint32_t)i + 1;
    }
    b->rule_count = total;
    return true;
}

static bool tb_make_rules(tb_state *b) {
    size_t i;
    if (b->source->merges || b->source->pairs || !b->pieces) {
        if (!tb_listed_rules(b)) return false;
    } else if (!b->source->scores) {
        return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: neither scores nor merges for %zu tokens",
                       b->source->count);
    } else if (!tb_scored_rules(b)) {
        return false;
    }
    if (b->rule_count && b->rules[b->rule_count - 1].rank > LLM__TOK_MAX_RANK)
        return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: %u merges, expected at most %d",
                       b->rules[b->rule_count - 1].rank, (int)LLM__TOK_MAX_RANK);
    for (b->rule_mask = 1024; b->rule_mask < b->rule_count * 2; b->rule_mask *= 2) continue;
    b->rule_map = (uint32_t *)tb_allocate(b, b->rule_mask--, sizeof(uint32_t));
    if (!b->rule_map) return false;
    for (i = 0; i < b->rule_count; i++)
        *tb_rule_slot(b, b->rules[i].left, b->rules[i].right) = (uint32_t)i + 1;
    return true;
}

/* ---- how each token comes about ---- */

/* Merges `count` symbols as the rules say, keeping the last merge and the greatest rank. */
static uint32_t tb_merge(tb_state *b, uint32_t *symbols, size_t count, tb_rule *last,
                         uint32_t *time) {
    size_t i, best;
    *time = 0;
    while (count > 1) {
        const tb_rule *rule = NULL;
        for (i = best = 0; i + 1 < count; i++) {
            const tb_rule *other = tb_rule_of(b, symbols[i], symbols[i + 1]);
            if (other && (!rule || other->rank < rule->rank)) {
                rule = other;
                best = i;
            }
        }
        if (!rule) return LLM__TOK_NONE;
        *last = *rule;
        if (rule->rank > *time) *time = rule->rank;
        symbols[best] = rule->result;
        count--;
        memmove(symbols + best + 1, symbols + best + 2, (count - best - 1) * sizeof *symbols);
    }
    return symbols[0];
}

/* The symbols that merging starts from: bytes, or characters. 0 if one is no token. */
static size_t tb_symbols(tb_state *b, uint32_t id, uint32_t *symbols) {
    llm_text spelled = b->source->tokens[id];
    tb_string bytes = tb_bytes(b, id);
    size_t i, k, count = 0;
    if (!b->pieces) {
        for (i = 0; i < bytes.size; i++)
            if ((symbols[count++] = b->bytes[bytes.data[i]]) == 0xFFFFFFFFu) return 0;
        return count;
    }
    for (i = 1; i < bytes.size; i++)
        if (b->source->split_spaces && bytes.data[i] == ' ') return 0;
    for (i = 0; i < spelled.size; i += k) {
        for (k = 1; i + k < spelled.size && !tb_starts_character(spelled.data[i + k]);) k++;
        symbols[count] = tb_find(b, b->normal, spelled.data + i, k);
        if (symbols[count++] == LLM__TOK_NONE) return 0;
    }
    return count;
}

static bool tb_make_trees(tb_state *b) {
    uint32_t *symbols = (uint32_t *)tb_allocate(b, 65536, sizeof(uint32_t)), i;
    if (!symbols) return false;
    for (i = 0; i < b->source->count; i++) /* single bytes first: they are the symbols */
        if (!b->pieces && b->merged[i] && tb_bytes(b, i).size == 1)
            b->bytes[*tb_bytes(b, i).data] = i;
    for (i = 0; i < b->source->count; i++) {
        llm__tok_token *token = &b->tokens[i];
        size_t count;
        tb_rule last;
        token->left = token->right = i;
        token->shorter = 0xFFFFFFFFu;
        if (!b->merged[i] || (count = tb_symbols(b, i, symbols)) == 0) continue;
        if (count > 4096)
            return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: token %u \"%s\" has %zu symbols, "
                           "expected at most 4096", i, tb_show(b->source->tokens[i]).text, count);
        memset(&last, 0, sizeof last);
        if (tb_merge(b, symbols, count, &last, &token->time) != i) {
            token->time = 0;
            continue;
        }
        b->reachable[i] = 1;
        if (count == 1) continue;
        token->left = last.left;
        token->right = last.right;
        token->rank = last.rank;
    }
    for (i = 0; i < b->source->count; i++)
        if (b->tokens[i].left != i &&
            b->tokens[b->tokens[i].left].time > b->tokens[b->tokens[i].right].time)
            b->tokens[i].left |= LLM__TOK_LATER;
    return true;
}

/* ---- tries ---- */

static int tb_compare_strings(const void *x, const void *y) {
    const tb_string *a = (const tb_string *)x, *b = (const tb_string *)y;
    uint32_t size = a->size < b->size ? a->size : b->size;
    int order = size ? memcmp(a->data, b->data, size) : 0;
    if (order) return order;
    if (a->size != b->size) return a->size < b->size ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* A double array being filled. Empty nodes are a ring through `next` and `before`, 0 its anchor. */
typedef struct tb_array {
    llm__tok_node *nodes;
    uint32_t *next, *before;
    uint8_t *based; /* bases in use: no two nodes may share one */
    uint32_t count, room;
} tb_array;

static void tb_grow(tb_array *a) {
    uint32_t i;
    for (i = a->count; i < a->count + 256; i++) {
        a->nodes[i].token = LLM__TOK_EMPTY;
        a->nodes[i].link = LLM__TOK_LEAF << 8;
        if (!i) continue;
        a->before[i] = a->before[0];
        a->next[i] = 0;
        a->next[a->before[0]] = i;
        a->before[0] = i;
    }
    a->count += 256;
}

static void tb_take(tb_array *a, uint32_t node, uint8_t label) {
    a->next[a->before[node]] = a->next[node];
    a->before[a->next[node]] = a->before[node];
    a->next[node] = a->before[node] = node;
    a->nodes[node].token = LLM__TOK_NONE;
    a->nodes[node].link = LLM__TOK_LEAF << 8 | label;
}

static bool tb_fits(const tb_array *a, uint32_t base, const uint8_t *labels, uint32_t count) {
    uint32_t i;
    if (a->based[base]) return false;
    for (i = 0; i < count; i++) {
        uint32_t at = base ^ labels[i];
        if (!at || a->nodes[at].token != LLM__TOK_EMPTY) return false;
    }
    return true;
}

/* A base whose children are all empty; 0xFFFFFFFF when the array is full. */
static uint32_t tb_base(tb_array *a, const uint8_t *labels, uint32_t count) {
    const uint32_t *follow = count > 1 ? a->before : a->next; /* single children fill the gaps */
    uint32_t at, tries = 0;
    for (at = follow[0]; at && tries < 512; at = follow[at], tries++)
        if (tb_fits(a, at ^ labels[0], labels, count)) return at ^ labels[0];
    if (a->count + 256 > a->room) return 0xFFFFFFFFu;
    at = a->count;
    tb_grow(a);
    return tb_fits(a, at, labels, count) ? at : 0xFFFFFFFFu; /* a new block is all empty */
}

typedef struct tb_work {
    uint32_t node, from, to, depth;
} tb_work;

/* Gives node `w` its children: strings from..to share their first `depth` bytes. */
static bool tb_expand(tb_array *a, const tb_string *s, tb_work w, tb_work *queue, size_t *tail,
                      const uint8_t *reachable) {
    uint8_t labels[256];
    uint32_t count = 0, i = w.from, k, base;
    if (s[i].size == w.depth) {
        a->nodes[w.node].token = s[i].id;
        if (reachable && !reachable[s[i].id]) a->nodes[w.node].token |= LLM__TOK_NO_MERGE;
        i++;
    }
    for (k = i; k < w.to; k++)
        if (!count || labels[count - 1] != s[k].data[w.depth]) labels[count++] = s[k].data[w.depth];
    if (!count) return true;
    base = tb_base(a, labels, count);
    if (base == 0xFFFFFFFFu) return false;
    a->based[base] = 1;
    a->nodes[w.node].link = base << 8 | (a->nodes[w.node].link & 255);
    for (k = 0; k < count; k++) {
        tb_work child;
        child.node = base ^ labels[k];
        child.from = i;
        while (i < w.to && s[i].data[w.depth] == labels[k]) i++;
        child.to = i;
        child.depth = w.depth + 1;
        tb_take(a, child.node, labels[k]);
        queue[(*tail)++] = child;
    }
    return true;
}

/* Builds trie `which` of sorted, distinct, non-empty strings, level by level. */
static bool tb_make_trie(tb_state *b, int which, const tb_string *s, uint32_t count) {
    tb_array a;
    tb_work *queue;
    size_t total = 1, head = 0, tail = 1;
    uint32_t i;
    for (i = 0; i < count; i++) total += s[i].size;
    memset(&a, 0, sizeof a);
    a.room = (uint32_t)(total * 2 + 512) & ~255u;
    if (a.room > LLM__TOK_MAX_NODES) a.room = LLM__TOK_MAX_NODES & ~255u;
    a.nodes = (llm__tok_node *)tb_allocate(b, a.room, sizeof(llm__tok_node));
    a.next = (uint32_t *)tb_allocate(b, a.room, sizeof(uint32_t));
    a.before = (uint32_t *)tb_allocate(b, a.room, sizeof(uint32_t));
    a.based = (uint8_t *)tb_allocate(b, a.room, 1);
    queue = (tb_work *)tb_allocate(b, total, sizeof(tb_work));
    if (!a.nodes || !a.next || !a.before || !a.based || !queue) return false;
    tb_grow(&a);
    queue[0].node = queue[0].from = queue[0].depth = 0;
    queue[0].to = count;
    for (; count && head < tail; head++)
        if (!tb_expand(&a, s, queue[head], queue, &tail, which ? NULL : b->reachable)) {
            return TB_FAIL(b, LLM_ERROR_LIMIT,
                           "tokenizer: the trie of %u tokens has more than %u nodes", count,
                           a.room);
        }
    b->trie[which] = a.nodes;
    b->trie_count[which] = count ? a.count : 0;
    return true;
}

/* Sorts strings; of equal ones the last one stays. */
static uint32_t tb_sort(tb_string *s, uint32_t count) {
    uint32_t i, k;
    if (!count) return 0;
    qsort(s, count, sizeof *s, tb_compare_strings);
    for (i = k = 0; i < count; i++) {
        bool same = i && s[i].size == s[k - 1].size && !memcmp(s[i].data, s[k - 1].data, s[i].size);
        if (same) k--;
        s[k++] = s[i];
    }
    return k;
}

static uint32_t tb_normal_strings(tb_state *b, tb_string *s) {
    uint32_t i, count = 0;
    for (i = 0; i < b->source->count; i++)
        if (b->merged[i] && tb_bytes(b, i).size) s[count++] = tb_bytes(b, i);
    return tb_sort(s, count);
}

/* Room for the normalised text of all added tokens: none grows more than eightfold. */
static bool tb_make_added_room(tb_state *b) {
    size_t i;
    for (i = 0; i < b->source->count; i++)
        if (tb_flags(b, i) & TOKENIZER_NORMALIZED)
            b->added_room += 8 * b->source->tokens[i].size + 16;
    b->added_text = (uint8_t *)tb_allocate(b, b->added_room, 1);
    return b->added_text != NULL;
}

/* What an added token looks for in normalised text: its own text, normalised. */
static bool tb_normalized(tb_state *b, tb_string *s) {
    const uint32_t flags = b->header.flags;
    const size_t room = (size_t)s->size * 2 + 4;
    uint32_t *scalars = (uint32_t *)calloc(room, sizeof(uint32_t));
    uint8_t *out;
    size_t count;
    llm_tokenizer t;
    llm__tok_run run;
    if (!scalars)
        return TB_FAIL(b, LLM_ERROR_MEMORY, "tokenizer: no memory for %zu x %zu bytes", room,
                       sizeof *scalars);
    out = b->added_text + b->added_used;
    memset(&t, 0, sizeof t);
    memset(&run, 0, sizeof run);
    t.nfc_page = b->nfc_page;
    t.nfc_class = b->nfc_class ? b->nfc_class[0] : NULL;
    t.nfc_split = b->nfc_split;
    t.nfc_join = b->nfc_join;
    t.nfc_pages = b->nfc_pages;
    t.nfc_classes = b->nfc_classes;
    t.nfc_splits = b->nfc_splits;
    t.nfc_joins = b->nfc_joins;
    run.t = &t;
    run.allocator = &b->allocator;
    if (b->source->nfc) {
        count = llm__nfc_join(&run, scalars, llm__nfc_take_apart(&t, s->data, s->size, scalars));
        count = llm__nfc_encode(scalars, count, (uint8_t *)scalars);
    } else {
        memcpy(scalars, s->data, count = s->size);
    }
    s->size = 0;
    if ((flags & LLM__TOK_SPACE_PREFIX) && !(flags & LLM__TOK_PREFIX_NEW)) out[s->size++] = ' ';
    if (count) memcpy(out + s->size, scalars, count);
    s->size += (uint32_t)count;
    s->data = out;
    b->added_used += s->size;
    llm__release(&b->allocator, run.memory, run.memory_size);
    free(scalars);
    return true;
}

/* The added tokens of a pass: found in the text as it is, or once it is normalised. */
static bool tb_added_strings(tb_state *b, bool normalized, tb_string *s, uint32_t *count) {
    uint32_t i;
    for (i = *count = 0; i < b->source->count; i++) {
        tb_string one = tb_bytes(b, i);
        bool added = b->kinds[i] == LLM_TOKEN_CONTROL || b->kinds[i] == LLM_TOKEN_USER_DEFINED;
        if (!added || !one.size || normalized != ((tb_flags(b, i) & TOKENIZER_NORMALIZED) != 0))
            continue;
        if (!(b->header.flags & (normalized ? LLM__TOK_FOLD_NORMALIZED : LLM__TOK_FOLD_ADDED))) {
            one.data = (const uint8_t *)b->source->tokens[i].data; /* as it is written */
            one.size = (uint32_t)b->source->tokens[i].size;
        }
        if (normalized && !tb_normalized(b, &one)) return false;
        if (one.size > b->header.longest) b->header.longest = one.size;
        s[(*count)++] = one;
    }
    *count = tb_sort(s, *count);
    return true;
}

/* The longest reachable token that each one starts with: in sorted order, a stack of prefixes. */
static bool tb_make_shorter(tb_state *b, const tb_string *s, uint32_t count) {
    uint32_t *stack = (uint32_t *)tb_allocate(b, 65536, sizeof(uint32_t)), depth = 0, i;
    if (!stack) return false;
    for (i = 0; i < count; i++) {
        while (depth) {
            const tb_string *top = &s[stack[depth - 1]];
            if (top->size < s[i].size && !memcmp(top->data, s[i].data, top->size)) break;
            depth--;
        }
        if (depth) b->tokens[s[i].id].shorter = s[stack[depth - 1]].id;
        if (b->reachable[s[i].id]) stack[depth++] = i;
    }
    return true;
}

static bool tb_make_added(tb_state *b, int pass, tb_string *s) {
    uint32_t *starts = b->starts + 16 * pass, count, i, k;
    if (!tb_added_strings(b, pass != 0, s, &count)) return false;
    for (i = 0; i < count; i++) {
        uint32_t first = s[i].data[0];
        for (k = b->kinds[s[i].id] == LLM_TOKEN_CONTROL; k < 2; k++) {
            starts[8 * k + (first >> 5)] |= 1u << (first & 31);
            if (b->pieces && first == ' ') starts[8 * k + 7] |= 1u << (0xE2 & 31); /* U+2581 */
        }
    }
    return tb_make_trie(b, 1 + pass, s, count);
}

static bool tb_make_tries(tb_state *b) {
    tb_string *s = (tb_string *)tb_allocate(b, b->source->count, sizeof(tb_string));
    uint32_t count, i, k;
    if (!s || !tb_make_added_room(b)) return false;
    count = tb_normal_strings(b, s);
    if (!tb_make_shorter(b, s, count) || !tb_make_trie(b, 0, s, count)) return false;
    for (i = 0; i < count; i++)
        for (k = 1; b->reachable[s[i].id] && k < s[i].size; k++) {
            uint32_t pair = (uint32_t)s[i].data[k - 1] << 8 | s[i].data[k];
            b->joins[pair >> 5] |= 1u << (pair & 31);
        }
    return tb_make_added(b, 0, s) && tb_make_added(b, 1, s);
}

/* ---- pairs ---- */

/* Fills the hash of rules, `load` of the eight places in a bucket on average. Rules whose parts
   never come about are left out. */
static bool tb_fill_pairs(tb_state *b, size_t load) {
    size_t i, k, kept = 0;
    for (i = 0; i < b->rule_count; i++)
        kept += b->reachable[b->rules[i].left] && b->reachable[b->rules[i].right];
    b->buckets = (uint32_t)(kept / load + 1);
    b->pairs = (uint64_t *)tb_allocate(b, (size_t)b->buckets * 8, sizeof(uint64_t));
    if (!b->pairs) return false;
    b->header.reach = 1;
    for (i = 0; i < b->rule_count; i++) {
        const tb_rule *rule = &b->rules[i];
        uint64_t key = rule->left | (uint64_t)rule->right << 21;
        uint32_t bucket, reach = 1;
        if (!b->reachable[rule->left] || !b->reachable[rule->right]) continue;
        if (tb_rule_of(b, rule->left, rule->right) != rule) continue; /* a later one replaces it */
        bucket = (uint32_t)(((key * 0x9E3779B97F4A7C15u) >> 32) * b->buckets >> 32);
        for (k = 0; b->pairs[(size_t)bucket * 8 + k];) {
            if (++k < 8) continue;
            k = 0;
            reach++;
            if (++bucket == b->buckets) bucket = 0;
        }
        b->pairs[(size_t)bucket * 8 + k] = key | (uint64_t)rule->rank << 42;
        if (reach > b->header.reach) b->header.reach = reach;
    }
    return true;
}

static bool tb_make_pairs(tb_state *b) {
    size_t load;
    for (load = 5; load; load--) {
        if (!tb_fill_pairs(b, load)) return false;
        if (b->header.reach <= LLM__TOK_MAX_REACH) return true;
    }
    return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: %zu merges spread over %u buckets, expected at "
                   "most %d", b->rule_count, b->header.reach, (int)LLM__TOK_MAX_REACH);
}

/* ---- end of generation ---- */

static uint32_t tb_control(const tb_state *b, const char *name) {
    uint32_t i;
    for (i = 0; i < b->source->count; i++)
        if (b->kinds[i] == LLM_TOKEN_CONTROL && tb_named(b, i, name)) return i;
    return 0xFFFFFFFFu;
}

static void tb_add_end(tb_state *b, uint32_t id) {
    uint32_t i;
    for (i = 0; i < b->end_count; i++)
        if (b->ends[i] == id) return;
    if (id < b->source->count && b->end_count < 64) b->ends[b->end_count++] = id;
}

static void tb_make_ends(tb_state *b) {
    const tokenizer_source *s = b->source;
    bool calls = (tb_control(b, "<|return|>") < s->count && tb_control(b, "<|call|>") < s->count) ||
                 (tb_control(b, "<|calls|>") < s->count && tb_control(b, "<|flush|>") < s->count);
    size_t i;
    tb_add_end(b, (uint32_t)s->eos);
    tb_add_end(b, (uint32_t)s->eot);
    tb_add_end(b, (uint32_t)s->eom);
    for (i = 0; i < s->end_count; i++) tb_add_end(b, (uint32_t)s->ends[i]);
    for (i = 0; i < sizeof tb_end_names / sizeof *tb_end_names; i++)
        if (!calls || strcmp(tb_end_names[i], "<|end|>")) /* there it only ends a message */
            tb_add_end(b, tb_control(b, tb_end_names[i]));
}

static bool tb_make_header(tb_state *b) {
    static const char *const turns[] = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"};
    const tokenizer_source *s = b->source;
    const int32_t ids[6] = {s->bos, s->eos, s->eot, s->unknown, s->padding, s->eom};
    static const char names[6][8] = {"bos", "eos", "eot", "unknown", "padding", "eom"};
    llm__tok_header *h = &b->header;
    size_t i;
    if (!s->count || s->count > LLM__TOK_MAX_VOCAB)
        return TB_FAIL(b, LLM_ERROR_LIMIT, "tokenizer: %zu tokens, expected 1 .. %d", s->count,
                       (int)LLM__TOK_MAX_VOCAB);
    for (i = 0; i < 6; i++)
        if (ids[i] < -1 || ids[i] >= (int64_t)s->count)
            return TB_FAIL(b, LLM_ERROR_FORMAT, "tokenizer: %s is token %d, expected -1 .. %zu",
                           names[i], (int)ids[i], s->count - 1);
    h->magic = LLM__TOK_MAGIC;
    h->version = LLM__TOK_VERSION;
    h->vocab = (uint32_t)s->count;
    h->bos = (uint32_t)s->bos;
    h->eos = (uint32_t)s->eos;
    h->eot = (uint32_t)s->eot;
    h->unknown = (uint32_t)s->unknown;
    h->padding = (uint32_t)s->padding;
    for (i = 0; i < 4 && h->eot >= h->vocab; i++) h->eot = tb_control(b, turns[i]);
    h->flags = (s->add_bos ? LLM__TOK_ADD_BOS : 0u) | (s->add_eos ? LLM__TOK_ADD_EOS : 0u);
    if (b->pieces && s->add_space_prefix) {
        h->flags |= LLM__TOK_SPACE_PREFIX;
        if (s->prefix_first) h->flags |= LLM__TOK_PREFIX_FIRST;
    }
    if (b->pieces && s->prefix_new) h->flags |= LLM__TOK_PREFIX_NEW;
    if (b->pieces && !s->exact) h->flags |= LLM__TOK_FOLD_ADDED;
    if (b->pieces && !s->prefix_new) h->flags |= LLM__TOK_FOLD_NORMALIZED;
    if (s->ignore_merges || (h->pre == LLM__PRE_LLAMA3 && !s->exact))
        h->flags |= LLM__TOK_WHOLE_WORDS;
    return true;
}

/* ---- normal form C ---- */

static int tb_compare_triples(const void *x, const void *y) {
    const uint32_t *a = (const uint32_t *)x, *b = (const uint32_t *)y;
    if (a[0] != b[0]) return a[0] < b[0] ? -1 : 1;
    return a[1] < b[1] ? -1 : a[1] > b[1];
}

/* Decompositions, compositions, and 255 for what cannot stand in the form or may join what is before
   it. `kinds` has the class of every scalar. */
static void tb_nfc_lists(tb_state *b, uint8_t *kinds, uint32_t limit) {
    const uint32_t count = (uint32_t)(sizeof unicode_splits / sizeof *unicode_splits);
    uint32_t i, c, at = 0;
    uint8_t *odd = kinds + limit;
    for (i = 0; i < count; i++) {
        const uint32_t *split = unicode_splits[i];
        uint32_t *join = b->nfc_join + 3 * (size_t)b->nfc_joins;
        if (split[0] >> 31) {
            odd[split[0] & 0x1FFFFF] = 1;
            continue;
        }
        odd[split[2]] = 1;
        join[0] = split[1], join[1] = split[2], join[2] = split[0];
        b->nfc_joins++;
    }
    for (c = 0x1161; c <= 0x1175; c++) odd[c] = 1; /* Hangul */
    for (c = 0x11A8; c <= 0x11C2; c++) odd[c] = 1;
    qsort(b->nfc_join, b->nfc_joins, 3 * sizeof(uint32_t), tb_compare_triples);
    for (c = 0; c < limit; c++) {
        uint32_t *record = b->nfc_split + 3 * (size_t)b->nfc_splits;
        bool splits = at < count && (unicode_splits[at][0] & 0x1FFFFF) == c;
        if (!splits && !odd[c]) continue;
        record[0] = c | (uint32_t)kinds[c] << 24;
        record[1] = splits ? unicode_splits[at][1] : 0;
        record[2] = splits ? unicode_splits[at][2] : 0;
        b->nfc_splits++;
        at += splits;
        if (odd[c]) kinds[c] = 255;
    }
}

static bool tb_make_nfc(tb_state *b) {
    const uint32_t limit = 0x30000; /* beyond it all is inert */
    uint8_t *kinds;
    uint32_t i, c, page;
    if (!b->source->nfc) return true;
    kinds = (uint8_t *)tb_allocate(b, 2 * (size_t)limit, 1);
    b->nfc_split = (uint32_t *)tb_allocate(b, 4096, 3 * sizeof(uint32_t));
    b->nfc_join = (uint32_t *)tb_allocate(b, 4096, 3 * sizeof(uint32_t));
    b->nfc_class = (uint8_t(*)[128])tb_allocate(b, 255, 128);
    if (!kinds || !b->nfc_split || !b->nfc_join || !b->nfc_class) return false;
    for (i = 0; i < sizeof unicode_classes / sizeof *unicode_classes; i++)
        for (c = unicode_classes[i][0]; c <= unicode_classes[i][1]; c++)
            kinds[c] = (uint8_t)unicode_classes[i][2];
    tb_nfc_lists(b, kinds, limit);
    b->nfc_pages = limit / 128;
    for (page = 0; page < b->nfc_pages; page++) {
        for (i = c = 0; c < 128; c++) i |= kinds[page * 128 + c];
        b->nfc_page[page] = 255;
        if (!i) continue;
        for (i = 0; i < b->nfc_classes; i++)
            if (!memcmp(b->nfc_class[i], kinds + page * 128, 128)) break;
        if (i == b->nfc_classes) memcpy(b->nfc_class[b->nfc_classes++], kinds + page * 128, 128);
        b->nfc_page[page] = (uint8_t)i;
    }
    return true;
}

/* ---- the section ---- */

static bool tb_write(tb_state *b, unsigned char **section, size_t *size) {
    const void *data[LLM__TOK_TABLES];
    uint32_t counts[LLM__TOK_TABLES], i;
    uint64_t at = sizeof b->header;
    data[LLM__TOK_TOKENS] = b->tokens, counts[LLM__TOK_TOKENS] = b->header.vocab + 1;
    data[LLM__TOK_KINDS] = b->kinds, counts[LLM__TOK_KINDS] = b->header.vocab;
    data[LLM__TOK_TEXT] = b->text, counts[LLM__TOK_TEXT] = (uint32_t)b->text_size;
    data[LLM__TOK_TRIE] = b->trie[0], counts[LLM__TOK_TRIE] = b->trie_count[0];
    data[LLM__TOK_ADDED] = b->trie[1], counts[LLM__TOK_ADDED] = b->trie_count[1];
    data[LLM__TOK_PAIRS] = b->pairs, counts[LLM__TOK_PAIRS] = b->buckets;
    data[LLM__TOK_BYTES] = b->bytes, counts[LLM__TOK_BYTES] = 256;
    data[LLM__TOK_STARTS] = b->starts, counts[LLM__TOK_STARTS] = 4;
    data[LLM__TOK_JOINS] = b->joins, counts[LLM__TOK_JOINS] = 8192;
    data[LLM__TOK_ENDS] = b->ends, counts[LLM__TOK_ENDS] = b->end_count;
    data[LLM__TOK_NORMALIZED] = b->trie[2], counts[LLM__TOK_NORMALIZED] = b->trie_count[2];
    data[LLM__TOK_NFC_PAGES] = b->nfc_page, counts[LLM__TOK_NFC_PAGES] = b->nfc_pages;
    data[LLM__TOK_NFC_CLASSES] = b->nfc_class, counts[LLM__TOK_NFC_CLASSES] = b->nfc_classes;
    data[LLM__TOK_NFC_SPLITS] = b->nfc_split, counts[LLM__TOK_NFC_SPLITS] = b->nfc_splits;
    data[LLM__TOK_NFC_JOINS] = b->nfc_join, counts[LLM__TOK_NFC_JOINS] = b->nfc_joins;
    data[LLM__TOK_WORDS] = unicode_words, counts[LLM__TOK_WORDS] = 0;
    for (i = 0; i < b->header.vocab; i++) {
        uint8_t flags = tb_flags(b, i) & (TOKENIZER_LSTRIP | TOKENIZER_RSTRIP | TOKENIZER_SINGLE_WORD);
        b->kinds[i] = (uint8_t)(b->kinds[i] | flags);
        if (flags & TOKENIZER_SINGLE_WORD)
            counts[LLM__TOK_WORDS] = sizeof unicode_words / sizeof *unicode_words;
    }
    for (i = 0; i < LLM__TOK_TABLES; i++) {
        b->header.table[i].at = (uint32_t)at;
        b->header.table[i].count = counts[i];
        at = (at + (uint64_t)counts[i] * llm__tok_table_size[i] + 63) & ~(uint64_t)63;
    }
    /* Text of 1 GB, 2^21 tokens, 2^22 rules and 2^24 nodes twice: less than 4 GB. */
    b->header.size = (uint32_t)at;
    *section = (unsigned char *)calloc((size_t)at, 1);
    if (!*section)
        return TB_FAIL(b, LLM_ERROR_MEMORY, "tokenizer: no memory for a section of %llu bytes",
                       (unsigned long long)at);
    memcpy(*section, &b->header, sizeof b->header);
    for (i = 0; i < LLM__TOK_TABLES; i++)
        if (counts[i])
            memcpy(*section + b->header.table[i].at, data[i],
                   (size_t)counts[i] * llm__tok_table_size[i]);
    *size = (size_t)at;
    return true;
}

/* Builds a section; the caller frees it. On failure `error` (not NULL) says what is wrong. */
static LLM__UNUSED llm_result tokenizer_build(const tokenizer_source *source,
                                              unsigned char **section, size_t *size,
                                              llm_error *error) {
    tb_state *b = (tb_state *)calloc(1, sizeof *b);
    bool done;
    *section = NULL;
    *size = 0;
    error->code = LLM_OK;
    if (!b)
        return llm__fail(error, LLM_ERROR_MEMORY, "tokenizer: no memory for %zu bytes", sizeof *b);
    b->source = source;
    b->error = error;
    done = tb_choose_pre(b) && tb_make_text(b) && tb_make_header(b) && tb_make_maps(b) &&
           tb_make_nfc(b) && tb_make_rules(b) && tb_make_trees(b) && tb_make_tries(b) && tb_make_pairs(b);
    if (done) {
        tb_make_ends(b);
        done = tb_write(b, section, size);
    }
    while (b->block_count) free(b->blocks[--b->block_count]);
    free(b);
    return done ? LLM_OK : error->code;
}
#endif
