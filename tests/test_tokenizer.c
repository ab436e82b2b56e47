/* The tokenizer and the builder of its tables: small vocabularies made here, merging compared with
   the plain definition on random rules, cutting, special tokens, hostile tables, linear work. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200112L
#endif
static unsigned long long work; /* counted by the tokenizer's loops */
#define LLM__TOK_COUNT(n) (work += (unsigned)(n))
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#ifndef LLM_BUILD_HEADER
#define LLM_BUILD_HEADER "../tools/convert/tokenizer_build.h"
#endif
#include LLM_BUILD_HEADER
#include "check.h"
#include <math.h>

/* ---- help ---- */

static uint64_t random_state = 88172645463325252u;
static uint32_t below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 16) % n);
}

static llm_text text_of(const char *s) {
    llm_text t;
    t.data = s;
    t.size = strlen(s);
    return t;
}

/* A vocabulary that grows in arrays of fixed size. */
typedef struct vocabulary {
    tokenizer_source source;
    llm_text tokens[1024], merges[1024];
    int32_t types[1024];
    float scores[1024];
    char text[32768];
    size_t used;
    unsigned char *section;
    size_t size;
    llm_tokenizer t;
    llm_error error;
} vocabulary;

static vocabulary *vocabulary_new(const char *model, const char *pre) {
    vocabulary *v = (vocabulary *)calloc(1, sizeof *v);
    if (!v) exit(2);
    v->source.model = model;
    v->source.pre = pre;
    v->source.tokens = v->tokens;
    v->source.types = v->types;
    v->source.bos = v->source.eos = v->source.eot = v->source.eom = -1;
    v->source.unknown = v->source.padding = -1;
    return v;
}

static llm_text keep(vocabulary *v, const char *s, size_t size) {
    llm_text t;
    memcpy(v->text + v->used, s, size);
    t.data = v->text + v->used;
    t.size = size;
    v->used += size;
    return t;
}

static int32_t add(vocabulary *v, const char *s, int32_t type, float score) {
    v->tokens[v->source.count] = keep(v, s, strlen(s));
    v->types[v->source.count] = type;
    v->scores[v->source.count] = score;
    return (int32_t)v->source.count++;
}

/* A rule and, if it is new, the token that it makes. */
static void rule(vocabulary *v, const char *s) {
    char joined[64];
    const char *space = strchr(s, ' ');
    size_t split = (size_t)(space - s), i;
    memcpy(joined, s, split);
    memcpy(joined + split, space + 1, strlen(space));
    for (i = 0; i < v->source.count; i++)
        if (v->tokens[i].size == strlen(joined) && !memcmp(v->tokens[i].data, joined,
                                                           strlen(joined)))
            break;
    if (i == v->source.count) (void)add(v, joined, LLM_TOKEN_NORMAL, 0);
    v->merges[v->source.merge_count++] = keep(v, s, strlen(s));
    v->source.merges = v->merges;
}

/* The 256 byte symbols, spelled as byte-level vocabularies do; ids are the byte values. */
static void add_bytes(vocabulary *v) {
    uint32_t c, next = 256, scalar;
    for (c = 0; c < 256; c++) {
        char s[3] = {0, 0, 0};
        scalar = tb_shown(c) ? c : next++;
        s[0] = (char)(scalar < 128 ? scalar : 0xC0 | scalar >> 6);
        if (scalar >= 128) s[1] = (char)(0x80 | (scalar & 63));
        (void)add(v, s, LLM_TOKEN_NORMAL, 0);
    }
}

static llm_result build(vocabulary *v) {
    unsigned char *section;
    llm_result result = tokenizer_build(&v->source, &section, &v->size, &v->error);
    if (result != LLM_OK) return result;
    {
        void *place = NULL;
        if (posix_memalign(&place, 64, v->size)) exit(2);
        memcpy(place, section, v->size);
        v->section = (unsigned char *)place;
    }
    free(section);
    return llm__tokenizer_init(&v->t, v->section, v->size, (uint32_t)v->source.count, &v->error);
}

static void vocabulary_free(vocabulary *v) {
    free(v->section);
    free(v);
}

static size_t tokenize(const llm_tokenizer *t, llm_text text, bool special, int32_t *ids,
                       size_t room) {
    llm_tokenize_desc desc = LLM__ZERO;
    llm_error error;
    size_t count = 0;
    llm_result result;
    desc.text = text.data;
    desc.size = text.size;
    desc.special = special;
    desc.error = &error;
    result = llm_tokenize(t, &desc, ids, room, &count);
    CHECK(result == LLM_OK, "%s", error.text);
    return result == LLM_OK ? count : 0;
}

/* The tokens of a text, as bytes with bars between. */
static const char *shown(const vocabulary *v, const char *s, bool special) {
    static char out[4096];
    int32_t ids[512];
    size_t count = tokenize(&v->t, text_of(s), special, ids, 512), i, k = 0;
    for (i = 0; i < count; i++) {
        llm_text bytes = llm_token_bytes(&v->t, ids[i]);
        if (i) out[k++] = '|';
        memcpy(out + k, bytes.data, bytes.size);
        k += bytes.size;
    }
    out[k] = 0;
    return out;
}

#define CHECK_SHOWN(v, text, special, want)                                   \
    do {                                                                      \
        const char *got_ = shown(v, text, special);                           \
        CHECK(!strcmp(got_, want), "\"%s\": \"%s\"", text, got_);             \
    } while (0)

/* ---- cutting: the expected cuts are those of the `tokenizers` package ---- */

static void test_cuts(void) {
    static const struct {
        int pre;
        const char *text, *cut;
    } cases[] = {
        {LLM__PRE_GPT2, "Hello world, it's  12345 o'clock!\012\012  We'LL see: a   b\011 c",
         "Hello| world|,| it|'s| | 12345| o|'|clock|!|\012\012 | We|'|LL| see|:| a|  | b|\011| c"},
        {LLM__PRE_GPT2, "x\015\012\015\012  y !!\012\012\077\012",
         "x|\015\012\015\012 | y| !!|\012|\012|\077|\012"},
        {LLM__PRE_GPT2, "  7  8 9a 'Ve\305\277'\305\277",
         " | 7| | 8| 9|a| '|Ve\305\277|'|\305\277"},
        {LLM__PRE_GPT2, "\303\251t\303\251 \344\270\255\346\226\2071\302\275 \360\237\230\200\360\237\230\200 a\314\201b\343\200\200\343\200\200c",
         "\303\251t\303\251| \344\270\255\346\226\207|1\302\275| \360\237\230\200\360\237\230\200| a|\314\201|b|\343\200\200|\343\200\200|c"},
        {LLM__PRE_GPT2, "tail   ",
         "tail|   "},
        {LLM__PRE_GPT2, "\011\012 \012",
         "\011\012 \012"},
        {LLM__PRE_SMOLLM, "Hello world, it's  12345 o'clock!\012\012  We'LL see: a   b\011 c",
         "Hello| world|,| it|'s|  |1|2|3|4|5| o|'|clock|!|\012\012 | We|'|LL| see|:| a|  | b|\011| c"},
        {LLM__PRE_SMOLLM, "x\015\012\015\012  y !!\012\012\077\012",
         "x|\015\012\015\012 | y| !!|\012|\012|\077|\012"},
        {LLM__PRE_SMOLLM, "  7  8 9a 'Ve\305\277'\305\277",
         "  |7|  |8| |9|a| '|Ve\305\277|'|\305\277"},
        {LLM__PRE_SMOLLM, "\303\251t\303\251 \344\270\255\346\226\2071\302\275 \360\237\230\200\360\237\230\200 a\314\201b\343\200\200\343\200\200c",
         "\303\251t\303\251| \344\270\255\346\226\207|1|\302\275| \360\237\230\200\360\237\230\200| a|\314\201|b|\343\200\200|\343\200\200|c"},
        {LLM__PRE_SMOLLM, "tail   ",
         "tail|   "},
        {LLM__PRE_SMOLLM, "\011\012 \012",
         "\011\012 \012"},
        {LLM__PRE_LLAMA3, "Hello world, it's  12345 o'clock!\012\012  We'LL see: a   b\011 c",
         "Hello| world|,| it|'s| | |123|45| o|'clock|!\012\012| | We|'LL| see|:| a|  | b|\011| c"},
        {LLM__PRE_LLAMA3, "x\015\012\015\012  y !!\012\012\077\012",
         "x|\015\012\015\012| | y| !!\012\012|\077\012"},
        {LLM__PRE_LLAMA3, "  7  8 9a 'Ve\305\277'\305\277",
         " | |7| | |8| |9|a| '|Ve\305\277|'\305\277"},
        {LLM__PRE_LLAMA3, "\303\251t\303\251 \344\270\255\346\226\2071\302\275 \360\237\230\200\360\237\230\200 a\314\201b\343\200\200\343\200\200c",
         "\303\251t\303\251| \344\270\255\346\226\207|1\302\275| \360\237\230\200\360\237\230\200| a|\314\201b|\343\200\200|\343\200\200c"},
        {LLM__PRE_LLAMA3, "tail   ",
         "tail|   "},
        {LLM__PRE_LLAMA3, "\011\012 \012",
         "\011\012 \012"},
        {LLM__PRE_QWEN2, "Hello world, it's  12345 o'clock!\012\012  We'LL see: a   b\011 c",
         "Hello| world|,| it|'s| | |1|2|3|4|5| o|'clock|!\012\012| | We|'LL| see|:| a|  | b|\011| c"},
        {LLM__PRE_QWEN2, "x\015\012\015\012  y !!\012\012\077\012",
         "x|\015\012\015\012| | y| !!\012\012|\077\012"},
        {LLM__PRE_QWEN2, "  7  8 9a 'Ve\305\277'\305\277",
         " | |7| | |8| |9|a| '|Ve\305\277|'\305\277"},
        {LLM__PRE_QWEN2, "\303\251t\303\251 \344\270\255\346\226\2071\302\275 \360\237\230\200\360\237\230\200 a\314\201b\343\200\200\343\200\200c",
         "\303\251t\303\251| \344\270\255\346\226\207|1|\302\275| \360\237\230\200\360\237\230\200| a|\314\201b|\343\200\200|\343\200\200c"},
        {LLM__PRE_QWEN2, "tail   ",
         "tail|   "},
        {LLM__PRE_QWEN2, "\011\012 \012",
         "\011\012 \012"},
        {LLM__PRE_GPT2, "a'm a're b've c'll d'd e't f'ro g'vo h'l i'",
         "a|'m| a|'re| b|'ve| c|'ll| d|'d| e|'t| f|'|ro| g|'|vo| h|'|l| i|'"},
        {LLM__PRE_LLAMA3, "a'M a'RE b'Ve c'lL d'r'v'\305\276 e'\305\277",
         "a|'M| a|'RE| b|'Ve| c|'lL| d|'r|'v|'\305\276| e|'\305\277"},
        {LLM__PRE_SMOLLM, "a \360\221\267\240!", "a| |\360\221\267\240|!"}, /* U+11DE0, a digit of Unicode 17 */
        {LLM__PRE_GPT2, "a \360\221\267\240!", "a| \360\221\267\240!"},
    };
    size_t k;
    for (k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint8_t *s = (const uint8_t *)cases[k].text;
        size_t n = strlen(cases[k].text), i = 0, used = 0;
        char out[512];
        while (i < n) {
            size_t end = llm__cut(&llm__pre_rules[cases[k].pre], s, i, n);
            if (i) out[used++] = '|';
            memcpy(out + used, s + i, end - i);
            used += end - i;
            i = end;
        }
        out[used] = 0;
        CHECK(!strcmp(out, cases[k].cut), "rule %d: \"%s\"", cases[k].pre, out);
    }
}

static void test_unicode(void) {
    CHECK(llm__unicode('A') == LLM__CLASS_LETTER && llm__unicode('z') == LLM__CLASS_LETTER &&
          llm__unicode(0x4E2D) == LLM__CLASS_LETTER && llm__unicode(0x323AF) == LLM__CLASS_LETTER,
          "letter");
    CHECK(llm__unicode('7') == LLM__CLASS_NUMBER, "7");
    CHECK(llm__unicode(0xBD) == LLM__CLASS_NUMBER, "one half");
    CHECK(llm__unicode(0x11DE0) == LLM__CLASS_DIGIT_ONLY, "a newer digit");
    CHECK(llm__unicode(0x85) == LLM__CLASS_SPACE && llm__unicode(0x3000) == LLM__CLASS_SPACE,
          "space");
    CHECK(llm__unicode(0x200B) == LLM__CLASS_OTHER, "zero width space");
    CHECK(llm__unicode(0x301) == LLM__CLASS_OTHER && llm__unicode('!') == LLM__CLASS_OTHER &&
          llm__unicode(0x1F600) == LLM__CLASS_OTHER, "mark, punctuation, symbol");
    CHECK(llm__unicode(0x323B0) == LLM__CLASS_OTHER && llm__unicode(0xE01EF) == LLM__CLASS_OTHER &&
          llm__unicode(0x10FFFF) == LLM__CLASS_OTHER, "last");
    {
        static const char *const bad[] = {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80",
                                          "\xE2\x96",
                                          "\xF5\x80\x80\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80"};
        uint32_t c, k;
        for (k = 0; k < 8; k++)
            CHECK(!llm__tok_utf8((const uint8_t *)bad[k], strlen(bad[k]), &c), "bad %u",
                  (unsigned)k);
        CHECK(llm__tok_utf8((const uint8_t *)"\xF0\x9F\x98\x80", 4, &c) == 4 && c == 0x1F600,
              "emoji");
    }
}

/* ---- a byte-level vocabulary ---- */

/* "\xC4\xA0" is how byte-level vocabularies spell a space. */
static vocabulary *byte_level(const char *pre) {
    vocabulary *v = vocabulary_new("gpt2", pre);
    add_bytes(v);
    rule(v, "h e");
    rule(v, "l l");
    rule(v, "he ll");
    rule(v, "hell o");
    rule(v, "\xC4\xA0 w");
    rule(v, "\xC4\xA0w o");
    rule(v, "o r");
    rule(v, "l d");
    rule(v, "\xC4\xA0 \xC4\xA0");
    rule(v, "a a");
    rule(v, "aa aa");
    v->source.bos = add(v, "<s>", LLM_TOKEN_CONTROL, 0);
    v->source.eos = add(v, "<|im_end|>", LLM_TOKEN_CONTROL, 0);
    (void)add(v, "<|im_start|>", LLM_TOKEN_CONTROL, 0);
    (void)add(v, "<think>", LLM_TOKEN_USER_DEFINED, 0);
    (void)add(v, "<think", LLM_TOKEN_USER_DEFINED, 0);
    (void)add(v, "[PAD1]", LLM_TOKEN_UNUSED, 0);
    return v;
}

static void test_byte_level(void) {
    vocabulary *v = byte_level("smollm");
    int32_t ids[64];
    llm_tokenizer_info info;
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK_SHOWN(v, "hello world", false, "hello| wo|r|ld");
    CHECK_SHOWN(v, "aaaaaaa", false, "aaaa|aa|a");
    CHECK_SHOWN(v, "1  hell", false, "1| | |hell");
    llm_tokenizer_describe(&v->t, &info);
    CHECK(info.vocab_size == v->source.count && info.bos == v->source.bos && info.eot == info.eos &&
          info.padding == -1 && !info.add_bos, "described");
    CHECK_SHOWN(v, "<s>he<think>y<|im_end|>", true, "<s>|he|<think>|y|<|im_end|>");
    CHECK_SHOWN(v, "<s>he<thinky", false, "<|s|>|he|<think|y");
    CHECK_SHOWN(v, "<|im_<|im_start|>", true, "<|||i|m|_|<|im_start|>");
    CHECK_SHOWN(v, "[PAD1]", true, "[|P|A|D|1|]");
    CHECK(llm_token_find(&v->t, text_of("<|im_end|>")) == v->source.eos, "find control");
    CHECK(llm_token_find(&v->t, text_of(" wo")) == 256 + 5, "find normal");
    CHECK(llm_token_find(&v->t, text_of("wor")) == -1 && llm_token_find(&v->t, text_of("")) == -1,
          "no");
    CHECK(llm_token_find(&v->t, text_of("[PAD1]")) == -1, "unused");
    CHECK(llm_token_kind_of(&v->t, v->source.eos) == LLM_TOKEN_CONTROL, "kind");
    CHECK(llm_token_kind_of(&v->t, -1) == LLM_TOKEN_NONE && llm_token_kind_of(&v->t, 1 << 20)
          == 0, "kind");
    CHECK(llm_token_is_end(&v->t, v->source.eos) && !llm_token_is_end(&v->t, v->source.bos),
          "ends");
    CHECK(llm_token_bytes(&v->t, 5000).size == 0 && llm_token_bytes(&v->t, -1).data != NULL,
          "bytes");
    CHECK(tokenize(&v->t, text_of(""), true, ids, 64) == 0, "empty");
    vocabulary_free(v);
}

/* Bytes that a vocabulary lacks vanish before merging, as in the original. */
static void test_missing_bytes(void) {
    vocabulary *v = vocabulary_new("gpt2", "gpt-2");
    (void)add(v, "x", LLM_TOKEN_NORMAL, 0);
    (void)add(v, "y", LLM_TOKEN_NORMAL, 0);
    rule(v, "x y");
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK_SHOWN(v, "xzy", false, "xy");
    CHECK_SHOWN(v, "zzz", false, "");
    CHECK_SHOWN(v, "zxyxz", false, "xy|x");
    vocabulary_free(v);
}

/* ---- a SentencePiece vocabulary ---- */

static vocabulary *pieces(bool prefix) {
    vocabulary *v = vocabulary_new("llama", "default");
    char name[8];
    int i;
    v->source.scores = v->scores;
    v->source.unknown = add(v, "<unk>", LLM_TOKEN_UNKNOWN, 0);
    v->source.bos = add(v, "<bos>", LLM_TOKEN_CONTROL, 0);
    v->source.eos = add(v, "<eos>", LLM_TOKEN_CONTROL, 0);
    (void)add(v, "<end_of_turn>", LLM_TOKEN_CONTROL, 0);
    for (i = 0; i < 256; i++) {
        (void)snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        (void)add(v, name, LLM_TOKEN_BYTE, 0);
    }
    (void)add(v, "\n\n", LLM_TOKEN_USER_DEFINED, -1000);
    (void)add(v, "  ", LLM_TOKEN_USER_DEFINED, -1000);
    (void)add(v, "</s>", LLM_TOKEN_USER_DEFINED, -1000);
    (void)add(v, "\xE2\x96\x81t", LLM_TOKEN_NORMAL, -1);
    (void)add(v, "he", LLM_TOKEN_NORMAL, -2);
    (void)add(v, "\xE2\x96\x81the", LLM_TOKEN_NORMAL, -3);
    (void)add(v, "\xC3\xA9t", LLM_TOKEN_NORMAL, -4);
    (void)add(v, "\xE2\x96\x81", LLM_TOKEN_NORMAL, -10);
    (void)add(v, "t", LLM_TOKEN_NORMAL, -11);
    (void)add(v, "h", LLM_TOKEN_NORMAL, -12);
    (void)add(v, "e", LLM_TOKEN_NORMAL, -13);
    (void)add(v, "\xC3\xA9", LLM_TOKEN_NORMAL, -14);
    v->source.add_bos = true;
    v->source.add_space_prefix = prefix;
    return v;
}

static void test_pieces(void) {
    vocabulary *v = pieces(false);
    int32_t ids[64];
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK_SHOWN(v, "the the", false, "<bos>|t|he| the");
    CHECK_SHOWN(v, "\xE2\x96\x81the", false, "<bos>| the");
    CHECK_SHOWN(v, "the  the\n\n\n", false, "<bos>|t|he|  |t|he|\n\n|\n");
    CHECK_SHOWN(v, "t\xE2\x96\x81 e", false, "<bos>|t|  |e");
    CHECK_SHOWN(v, "\xC3\xA9t<eos></s>", false, "<bos>|\xC3\xA9t|<|e|o|s|>|</s>");
    CHECK_SHOWN(v, "t<eos>", true, "<bos>|t|<eos>");
    CHECK(tokenize(&v->t, text_of("\xE4\xB8\xAD\xFF"), false, ids, 64) == 5 && ids[1] == 4 + 0xE4 &&
          ids[2] == 4 + 0xB8 && ids[3] == 4 + 0xAD && ids[4] == 4 + 0xFF, "byte fallback");
    CHECK(llm_token_find(&v->t, text_of("\n")) == 4 + 10, "find a byte");
    CHECK(llm_token_find(&v->t, text_of(" the")) == 265, "find");
    CHECK(llm_token_is_end(&v->t, 3) && llm_token_is_end(&v->t, 2) && !llm_token_is_end(&v->t,
                                                                                        262),
                                                                                            "ends");
    vocabulary_free(v);
    v = pieces(true);
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK_SHOWN(v, "the<eos>the", true, "<bos>| the|<eos>| the");
    CHECK_SHOWN(v, "", true, "<bos>");
    {
        llm_detokenize_desc desc = LLM__ZERO;
        char out[16];
        size_t size, count = tokenize(&v->t, text_of("the the"), false, ids, 64);
        desc.ids = ids;
        desc.count = count;
        CHECK(llm_detokenize(&v->t, &desc, out, 16, &size) == LLM_OK && size == 7 &&
              !memcmp(out, "the the", 7), "the prefix goes again");
    }
    vocabulary_free(v);
}

/* ---- merging against its definition, on random rules in random order ---- */

/* Merges ids in place: lowest rank first, leftmost first. */
static size_t plain_merge(const vocabulary *v, int32_t *ids, size_t count) {
    for (;;) {
        size_t i, k, best = 0, best_rank = v->source.merge_count;
        for (i = 0; i + 1 < count; i++)
            for (k = 0; k < best_rank; k++) {
                llm_text m = v->merges[k], a = v->tokens[ids[i]], b = v->tokens[ids[i + 1]];
                if (m.size != a.size + b.size + 1 || memcmp(m.data, a.data, a.size) ||
                    m.data[a.size] != ' ' || memcmp(m.data + a.size + 1, b.data, b.size))
                    continue;
                best = i;
                best_rank = k;
            }
        if (best_rank == v->source.merge_count) return count;
        for (k = 0; k < v->source.count; k++) {
            llm_text a = v->tokens[ids[best]], b = v->tokens[ids[best + 1]], c = v->tokens[k];
            if (c.size == a.size + b.size && !memcmp(c.data, a.data, a.size) &&
                !memcmp(c.data + a.size, b.data, b.size))
                break;
        }
        ids[best] = (int32_t)k;
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        count--;
    }
}

static bool has_rule(const vocabulary *v, const char *s) {
    size_t i;
    for (i = 0; i < v->source.merge_count; i++)
        if (v->merges[i].size == strlen(s) && !memcmp(v->merges[i].data, s, strlen(s))) return true;
    return false;
}

static vocabulary *random_rules(uint32_t letters, uint32_t rules) {
    vocabulary *v = vocabulary_new("gpt2", "gpt-2");
    uint32_t i, tries;
    for (i = 0; i < letters; i++) {
        char s[2] = {0, 0};
        s[0] = (char)('a' + i);
        (void)add(v, s, LLM_TOKEN_NORMAL, 0);
    }
    for (i = tries = 0; i < rules && tries < 1000; tries++) {
        llm_text a = v->tokens[below((uint32_t)v->source.count)];
        llm_text b = v->tokens[below((uint32_t)v->source.count)];
        char s[40];
        if (a.size + b.size > 9) continue;
        (void)snprintf(s, sizeof s, "%.*s %.*s", (int)a.size, a.data, (int)b.size, b.data);
        if (has_rule(v, s)) continue;
        rule(v, s);
        i++;
    }
    for (i = (uint32_t)v->source.merge_count; i > 1 && below(3); i--) { /* ranks in any order */
        uint32_t k = below(i);
        llm_text t = v->merges[i - 1];
        v->merges[i - 1] = v->merges[k];
        v->merges[k] = t;
    }
    return v;
}

static void test_random_rules(void) {
    int round, k, wrong = 0, texts = 0;
    for (round = 0; round < 700; round++) {
        uint32_t letters = 1 + below(3);
        vocabulary *v = random_rules(letters, 2 + below(28));
        CHECK(build(v) == LLM_OK, "%s", v->error.text);
        for (k = 0; k < 60; k++) {
            char s[80];
            int32_t want[80], got[80];
            size_t n = 1 + below(k < 50 ? 24 : 79), i, count;
            for (i = 0; i < n; i++) want[i] = (int32_t)below(letters), s[i] = (char)('a' + want[i]);
            s[n] = 0;
            count = tokenize(&v->t, text_of(s), false, got, 80);
            n = plain_merge(v, want, n);
            wrong += count != n || memcmp(want, got, n * sizeof *got);
            texts++;
        }
        vocabulary_free(v);
    }
    CHECK(wrong == 0, "%d of %d texts differ from plain merging", wrong, texts);
}

/* ---- buffers, memory, errors ---- */

typedef struct counter {
    size_t calls, live, most, refuse_at; /* 0: never */
    bool refuse;
} counter;

static void *count_allocate(void *user, size_t size, size_t align) {
    counter *c = (counter *)user;
    void *memory = NULL;
    if (c->refuse || ++c->calls == c->refuse_at || posix_memalign(&memory, align, size)) return NULL;
    c->live += size;
    if (c->live > c->most) c->most = c->live;
    return memory;
}

static void count_release(void *user, void *memory, size_t size) {
    ((counter *)user)->live -= size;
    free(memory);
}

/* What llm_tokenize refuses, and leaves alone then. */
static void refuse_text(const llm_tokenizer *t, const llm_tokenize_desc *given, int32_t *ids,
                        size_t capacity, size_t *count, const char *message) {
    llm_tokenize_desc desc = *given;
    llm_error error;
    llm_result result;
    desc.error = &error;
    if (count) *count = 99;
    result = llm_tokenize(t, &desc, ids, capacity, count);
    CHECK(result == LLM_ERROR_ARGUMENT && error.code == result && !strcmp(error.text, message) &&
          (!count || !*count), "%s \"%s\", expected \"%s\"", llm_result_name(result), error.text,
          message);
    desc.error = NULL;
    CHECK(llm_tokenize(t, &desc, ids, capacity, count) == result, "%s: without an error", message);
}

static void refuse_ids(const llm_tokenizer *t, const llm_detokenize_desc *given, char *text,
                       size_t capacity, size_t *size, const char *message) {
    llm_detokenize_desc desc = *given;
    llm_error error;
    llm_result result;
    desc.error = &error;
    if (size) *size = 99;
    result = llm_detokenize(t, &desc, text, capacity, size);
    CHECK(result == LLM_ERROR_ARGUMENT && error.code == result && !strcmp(error.text, message) &&
          (!size || !*size), "%s \"%s\", expected \"%s\"", llm_result_name(result), error.text,
          message);
    desc.error = NULL;
    CHECK(llm_detokenize(t, &desc, text, capacity, size) == result, "%s: without an error", message);
}

static void test_refusals(void) {
    vocabulary *v = byte_level("gpt-2");
    const llm_tokenizer blank = LLM__ZERO;
    llm_tokenize_desc d = LLM__ZERO;
    llm_detokenize_desc b = LLM__ZERO;
    char message[128], out[4];
    int32_t ids[4] = {1, 2, -1, 3};
    size_t count;
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    d.text = "a", d.size = 1;
    CHECK(llm_tokenize(&v->t, NULL, ids, 4, &count) == LLM_ERROR_ARGUMENT && !count, "NULL");
    refuse_text(NULL, &d, ids, 4, &count, "llm_tokenize: the tokenizer is NULL");
    refuse_text(&blank, &d, ids, 4, &count, "llm_tokenize: the tokenizer is NULL");
    refuse_text(&v->t, &d, ids, 4, NULL, "llm_tokenize: count is NULL");
    refuse_text(&v->t, &d, NULL, 4, &count, "llm_tokenize: ids is NULL");
    d.text = NULL;
    refuse_text(&v->t, &d, ids, 4, &count, "llm_tokenize: text is NULL");
    d.size = 0;
    refuse_text(&v->t, &d, NULL, 4, &count, "llm_tokenize: ids is NULL");
    CHECK(llm_tokenize(&v->t, &d, NULL, 0, &count) == LLM_OK && !count, "nothing at all");
    d.text = "a", d.size = SIZE_MAX / 4 + 1;
    (void)snprintf(message, sizeof message, "llm_tokenize: size is %zu, not in 0 .. %zu", d.size,
                   d.size - 1);
    refuse_text(&v->t, &d, ids, 4, &count, message);
    d.size = 1, d.bos = 2;
    refuse_text(&v->t, &d, ids, 4, &count, "llm_tokenize: bos is 2 and eos 0, not in -1 .. 1");
    d.bos = -2;
    refuse_text(&v->t, &d, ids, 4, &count, "llm_tokenize: bos is -2 and eos 0, not in -1 .. 1");
    d.bos = -1, d.eos = 7;
    refuse_text(&v->t, &d, ids, 4, &count, "llm_tokenize: bos is -1 and eos 7, not in -1 .. 1");
    d.eos = -2;
    refuse_text(&v->t, &d, ids, 4, &count, "llm_tokenize: bos is -1 and eos -2, not in -1 .. 1");
    CHECK(llm_detokenize(&v->t, NULL, out, 4, &count) == LLM_ERROR_ARGUMENT && !count, "NULL");
    b.ids = ids, b.count = 4;
    refuse_ids(NULL, &b, out, 4, &count, "llm_detokenize: the tokenizer is NULL");
    refuse_ids(&blank, &b, out, 4, &count, "llm_detokenize: the tokenizer is NULL");
    refuse_ids(&v->t, &b, out, 4, NULL, "llm_detokenize: size is NULL");
    refuse_ids(&v->t, &b, NULL, 4, &count, "llm_detokenize: text is NULL");
    (void)snprintf(message, sizeof message, "llm_detokenize: ids[2] is -1, not in 0 .. %u",
                   v->t.vocab - 1);
    refuse_ids(&v->t, &b, out, 4, &count, message);
    (void)snprintf(message, sizeof message, "llm_detokenize: ids[2] is %u, not in 0 .. %u",
                   v->t.vocab, v->t.vocab - 1);
    ids[2] = (int32_t)v->t.vocab;
    refuse_ids(&v->t, &b, out, 4, &count, message);
    b.ids = NULL;
    refuse_ids(&v->t, &b, out, 4, &count, "llm_detokenize: ids is NULL");
    b.count = 0;
    refuse_ids(&v->t, &b, NULL, 4, &count, "llm_detokenize: text is NULL");
    CHECK(llm_detokenize(&v->t, &b, NULL, 0, &count) == LLM_OK && !count, "nothing at all");
    vocabulary_free(v);
}

/* Memory that runs out at any call: said, and released. */
static void test_no_memory(void) {
    vocabulary *v[3];
    char *text = (char *)malloc(8192);
    size_t k, i, n, count;
    if (!text) exit(2);
    v[0] = byte_level("gpt-2");
    v[1] = pieces(true);
    v[2] = vocabulary_new("gpt2", "gpt-2"); /* lacks all bytes but two */
    (void)add(v[2], "x", LLM_TOKEN_NORMAL, 0), (void)add(v[2], "y", LLM_TOKEN_NORMAL, 0);
    (void)add(v[1], "tt", LLM_TOKEN_NORMAL, -1);
    for (k = 0; k < 3; k++) {
        for (i = 0; i < 8192; i++) { /* stretches of some hundred bytes, between other text */
            text[i] = i % 2048 < 100 ? "t e\n"[i % 4] : i % 700 == 3 ? 'z' : "xytt"[i * i / 7 % 2 + k % 2 * 2];
            if (!k && i % 2048 == 1500) memcpy(text + i - 7, "<think>", 7);
            if (i % 2048 == 100) memcpy(text + i - 3, "\xE2\x96\x81", 3);
        }
        CHECK(build(v[k]) == LLM_OK, "%s", v[k]->error.text);
        for (i = 0; i < 8; i++) {
            llm_tokenize_desc d = LLM__ZERO;
            counter c = LLM__ZERO;
            llm_error error;
            llm_result result = LLM_ERROR_MEMORY;
            d.text = text + 256 * i, d.size = 8192 - 256 * i, d.error = &error;
            d.allocator.allocate = count_allocate, d.allocator.release = count_release;
            d.allocator.user = &c;
            for (n = 1; result == LLM_ERROR_MEMORY && n < 40; n++) {
                c.calls = 0, c.refuse_at = n;
                result = llm_tokenize(&v[k]->t, &d, NULL, 0, &count);
                CHECK(c.live == 0, "%lu bytes are not released", (unsigned long)c.live);
                CHECK(result == LLM_OK || (result == LLM_ERROR_MEMORY && !count &&
                                           strstr(error.text, "no working memory for")),
                      "%s %s", llm_result_name(result), error.text);
            }
            CHECK(result == LLM_OK && n > 2, "vocabulary %lu needs no memory", (unsigned long)k);
        }
    }
    for (k = 0; k < 3; k++) vocabulary_free(v[k]);
    free(text);
}

/* What vocabularies may lack: normal tokens, added ones, byte tokens, an unknown token. */
static void test_sparse(void) {
    vocabulary *v = vocabulary_new("llama", "");
    int32_t ids[16];
    v->source.scores = v->scores;
    v->source.unknown = add(v, "<unk>", LLM_TOKEN_UNKNOWN, 0);
    (void)add(v, "a", LLM_TOKEN_NORMAL, -1);
    (void)add(v, "b", LLM_TOKEN_NORMAL, -1);
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK(!v->t.added_count[0], "%u nodes for no token", v->t.added_count[0]);
    CHECK_SHOWN(v, "a<unk>\xE2\x96\x82\xE2\x97\x81" "b", true, "a|<unk>|b"); /* neither is U+2581 */
    CHECK(llm_token_find(&v->t, text_of("c")) == -1 && llm_token_find(&v->t, text_of("a")) == 1, "find");
    vocabulary_free(v);
    v = vocabulary_new("llama", "");
    v->source.scores = v->scores;
    (void)add(v, " think", LLM_TOKEN_USER_DEFINED, 0);
    (void)add(v, "\xE2\x96\x81\xE2\x96\x81x", LLM_TOKEN_USER_DEFINED, 0);
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK(!v->t.trie_count, "%u nodes for no token", v->t.trie_count);
    CHECK_SHOWN(v, "no think \xE2\x96\x81x thin\xE2\x96\x82", false, " think|  x");
    CHECK(tokenize(&v->t, text_of("\xE2\x96\x81think"), false, ids, 16) == 1 && ids[0] == 0,
          "U+2581 is a space of an added token");
    CHECK(llm_token_find(&v->t, text_of("\xE2\x96\x81think")) == -1 &&
          llm_token_find(&v->t, text_of(" think")) == 0, "but not of its name");
    CHECK(llm__tokenizer_init(&v->t, v->section, v->size, 1u << 22, &v->error) == LLM_OK,
          "a model has more rows than a vocabulary can: %s", v->error.text);
    vocabulary_free(v);
}

/* Without a tokenizer, and outside the vocabulary: nothing, said in the way of each function. */
static void test_nothing(void) {
    vocabulary *v = byte_level("gpt-2");
    const llm_tokenizer blank = LLM__ZERO;
    const llm_tokenizer *none[3] = {NULL, NULL, NULL};
    const llm_text null = {NULL, 1};
    llm_tokenizer_info info;
    size_t i;
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    none[1] = &blank;
    for (i = 0; i < 2; i++) {
        CHECK(llm_token_bytes(none[i], 0).size == 0 && llm_token_bytes(none[i], 0).data, "bytes");
        CHECK(llm_token_kind_of(none[i], 0) == LLM_TOKEN_NONE && !llm_token_is_end(none[i], 0), "kind");
        CHECK(llm_token_find(none[i], text_of("a")) == -1, "find");
        memset(&info, 1, sizeof info);
        llm_tokenizer_describe(none[i], &info);
        CHECK(!info.vocab_size && info.bos == -1 && info.eos == -1 && info.eot == -1 &&
              info.unknown == -1 && info.padding == -1 && !info.ends && !info.end_count &&
              !info.add_bos && !info.add_eos, "description");
    }
    llm_tokenizer_describe(&v->t, NULL);
    CHECK(llm_token_find(&v->t, null) == -1 && llm_token_find(&v->t, text_of("")) == -1, "no text");
    CHECK(!llm_token_bytes(&v->t, -1).size && !llm_token_bytes(&v->t, (int32_t)v->t.vocab).size, "ids");
    CHECK(!llm_token_kind_of(&v->t, -1) && !llm_token_kind_of(&v->t, (int32_t)v->t.vocab), "ids");
    CHECK(!llm_token_is_end(&v->t, -1) && llm_token_is_end(&v->t, v->source.eos) &&
          !llm_token_is_end(&v->t, v->source.eos + 1), "ends");
    vocabulary_free(v);
}

static void test_calls(void) {
    vocabulary *v = byte_level("gpt-2");
    llm_tokenize_desc desc = LLM__ZERO;
    llm_error error;
    counter c = LLM__ZERO;
    int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    size_t count = 99;
    char *big = (char *)malloc(1 << 20);
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    desc.text = "hello world";
    desc.size = 11;
    desc.error = &error;
    desc.allocator.allocate = count_allocate;
    desc.allocator.release = count_release;
    desc.allocator.user = &c;
    CHECK(llm_tokenize(&v->t, &desc, NULL, 0, &count) == LLM_OK && count == 4, "count");
    CHECK(llm_tokenize(&v->t, &desc, ids, 2, &count) == LLM_ERROR_LIMIT && count == 4 &&
          ids[2] == -7 &&
          ids[1] >= 0 && !strcmp(error.text, "llm_tokenize: 4 ids, room for 2"),
          "too small: %s", error.text);
    CHECK(llm_tokenize(&v->t, &desc, ids, 4, &count) == LLM_OK && ids[4] == -7, "exactly");
    desc.bos = desc.eos = 1;
    CHECK(llm_tokenize(&v->t, &desc, ids, 8, &count) == LLM_OK && count == 6 &&
          ids[0] == v->source.bos && ids[5] == v->source.eos, "bos and eos");
    desc.bos = desc.eos = -1;
    CHECK(llm_tokenize(&v->t, &desc, ids, 8, &count) == LLM_OK && count == 4, "neither");
    CHECK(c.calls == 0, "short texts allocate nothing");
    memset(big, 'a', 1 << 20);
    big[1 << 19] = 'b';
    desc.text = big;
    desc.size = 1 << 20;
    CHECK(llm_tokenize(&v->t, &desc, NULL, 0, &count) == LLM_OK, "%s", error.text);
    CHECK(c.live == 0 && c.calls >= 1 && c.most < (1 << 20) / 2, "%lu bytes",
          (unsigned long)c.most);
    c.refuse = true;
    CHECK(llm_tokenize(&v->t, &desc, NULL, 0, &count) == LLM_ERROR_MEMORY && count == 0 &&
          !strcmp(error.text, "llm_tokenize: no working memory for 1048576 bytes of text"),
          "no memory: %s", error.text);
    vocabulary_free(v);
    free(big);
}

static void test_detokenize(void) {
    int round;
    for (round = 0; round < 2; round++) {
        vocabulary *v = round ? pieces(false) : byte_level("llama-bpe");
        llm_detokenize_desc desc = LLM__ZERO;
        unsigned char in[300], out[300];
        int32_t ids[400];
        size_t size, count, i;
        char message[64];
        int k, wrong = 0;
        CHECK(build(v) == LLM_OK, "%s", v->error.text);
        for (k = 0; k < 500; k++) {
            llm_text text;
            size_t n = below(300);
            for (i = 0; i < n; i++)
                in[i] = (unsigned char)(below(2) ? below(256)
                                        : (unsigned)"hello world  aa\n"[below(16)]);
            for (i = 0; i + 2 < n; i++) /* U+2581 comes back as a space */
                if (in[i] == 0xE2 && in[i + 1] == 0x96) in[i] = 'x';
            text.data = (const char *)in;
            text.size = n;
            count = tokenize(&v->t, text, false, ids, 400);
            desc.ids = ids;
            desc.count = count;
            wrong += llm_detokenize(&v->t, &desc, (char *)out, 300, &size) != LLM_OK || size != n ||
                     memcmp(in, out, n);
        }
        CHECK(wrong == 0, "%d texts do not come back", wrong);
        ids[0] = v->source.eos;
        desc.count = 1;
        CHECK(llm_detokenize(&v->t, &desc, NULL, 0, &size) == LLM_OK && size == 0,
              "control left out");
        desc.special = true;
        desc.error = &v->error;
        CHECK(llm_detokenize(&v->t, &desc, (char *)out, 2, &size) == LLM_ERROR_LIMIT && size > 2,
              "room");
        (void)snprintf(message, sizeof message, "llm_detokenize: %lu bytes, room for 2",
                       (unsigned long)size);
        CHECK(!strcmp(v->error.text, message), "%s", v->error.text);
        vocabulary_free(v);
    }
}

static void refuse(vocabulary *v, llm_result want, const char *message) {
    llm_result result = build(v);
    CHECK(result == want && v->error.code == want && !strcmp(v->error.text, message),
          "%s \"%s\",\n    expected \"%s\"", llm_result_name(result), v->error.text, message);
    vocabulary_free(v);
}

/* A vocabulary of its own arrays, for what needs many tokens. */
static void refuse_many(size_t count, const llm_text *tokens, const llm_text *merges,
                        size_t merge_count, const char *model, llm_result want,
                        const char *message) {
    tokenizer_source source;
    float *scores = (float *)calloc(count, sizeof *scores);
    int32_t *types = (int32_t *)calloc(count, sizeof *types);
    unsigned char *section = NULL;
    size_t size = 1, i;
    llm_error error;
    llm_result result;
    if (!scores || !types) exit(2);
    memset(&source, 0, sizeof source);
    source.model = model, source.pre = "gpt2", source.count = count, source.tokens = tokens;
    source.scores = scores, source.types = types;
    source.merges = merges, source.merge_count = merge_count;
    source.bos = source.eos = source.eot = source.eom = source.unknown = source.padding = -1;
    for (i = 0; i < count; i++) types[i] = merges ? LLM_TOKEN_NORMAL : LLM_TOKEN_USER_DEFINED;
    result = tokenizer_build(&source, &section, &size, &error);
    CHECK(result == want && !section && !size && error.code == want && !strcmp(error.text, message),
          "%s \"%s\",\n    expected \"%s\"", llm_result_name(result), error.text, message);
    free(section), free(scores), free(types);
}

/* 64 KB of text a token, from one place. */
static void test_much_text(void) {
    enum { COUNT = 16385 };
    llm_text *tokens = (llm_text *)calloc(COUNT, sizeof *tokens);
    char *text = (char *)calloc(65535, 1);
    size_t i;
    if (!tokens || !text) exit(2);
    for (i = 0; i < COUNT; i++) tokens[i].data = text, tokens[i].size = 65535;
    refuse_many(COUNT, tokens, NULL, 0, "llama", LLM_ERROR_LIMIT,
                "tokenizer: tokens 0 .. 16384 have 1073790975 bytes, expected at most 1073741823");
    free(tokens), free(text);
}

/* Sets of children of which no two fit one block of the double array: every difference of two bytes
   is one of two of them. */
static void test_sparse_trie(void) {
    enum { COUNT = 256 * 31 };
    llm_text *tokens = (llm_text *)calloc(COUNT, sizeof *tokens);
    char *text = (char *)malloc(2 * COUNT);
    size_t i, k, n = 0;
    if (!tokens || !text) exit(2);
    for (i = 0; i < 256; i++)
        for (k = 0; k < 31; k++, n++) {
            tokens[n].data = text + 2 * n, tokens[n].size = 2;
            text[2 * n] = (char)i, text[2 * n + 1] = (char)(k < 16 ? k : (k - 15) << 4);
        }
    refuse_many(COUNT, tokens, NULL, 0, "llama", LLM_ERROR_LIMIT,
                "tokenizer: the trie of 7936 tokens has more than 32256 nodes");
    free(tokens), free(text);
}

/* Rules whose hashes begin alike lie in one bucket, and those that follow. */
static void test_crowded_rules(void) {
    enum { SYMBOLS = 1100, RULES = 600 };
    llm_text *tokens = (llm_text *)calloc(SYMBOLS + RULES, sizeof *tokens);
    llm_text *merges = (llm_text *)calloc(RULES, sizeof *merges);
    char *text = (char *)malloc(SYMBOLS * 3 + RULES * 16), *at = text;
    uint32_t i, k, n = 0;
    if (!tokens || !merges || !text) exit(2);
    for (i = 0; i < SYMBOLS; i++) { /* U+4E00 and on */
        uint32_t c = 0x4E00 + i;
        tokens[i].data = at, tokens[i].size = 3;
        *at++ = (char)(0xE0 | c >> 12), *at++ = (char)(0x80 | (c >> 6 & 63)), *at++ = (char)(0x80 | (c & 63));
    }
    for (i = 0; i < SYMBOLS && n < RULES; i++)
        for (k = 0; k < SYMBOLS && n < RULES; k++) {
            const uint64_t key = i | (uint64_t)k << 21;
            if ((key * 0x9E3779B97F4A7C15u) >> 32 >= 0xFFFFFFFFu / (RULES + 1)) continue;
            tokens[SYMBOLS + n].data = at, tokens[SYMBOLS + n].size = 6;
            memcpy(at, tokens[i].data, 3), memcpy(at + 3, tokens[k].data, 3), at += 6;
            merges[n].data = at, merges[n].size = 7;
            memcpy(at, tokens[i].data, 3), at[3] = ' ', memcpy(at + 4, tokens[k].data, 3), at += 7;
            n++;
        }
    CHECK(n == RULES, "%u rules", n);
    refuse_many(SYMBOLS + RULES, tokens, merges, n, "llama", LLM_ERROR_LIMIT,
                "tokenizer: 600 merges spread over 75 buckets, expected at most 64");
    free(tokens), free(merges), free(text);
}

static void test_many_rules(void) {
    enum { RULES = 1 << 22 };
    const llm_text rule_text = {"a b", 3}, tokens[] = {{"a", 1}, {"b", 1}, {"ab", 2}};
    llm_text *merges = (llm_text *)malloc((size_t)RULES * sizeof *merges);
    size_t i;
    if (!merges) exit(2);
    for (i = 0; i < RULES; i++) merges[i] = rule_text;
    refuse_many(3, tokens, merges, RULES, "gpt2", LLM_ERROR_LIMIT,
                "tokenizer: 4194304 merges, expected at most 4194303");
    free(merges);
}

static void test_builder_errors(void) {
    vocabulary *v = byte_level("martian\033[2J");
    static char long_text[70000];
    char message[256];
    memset(long_text, 't', sizeof long_text);
    refuse(v, LLM_ERROR_UNSUPPORTED, "tokenizer: the pre-tokenizer is \"martian?[2J\", expected that of GPT-2, "
           "SmolLM, Llama 3, Qwen 2 or one of their kin");
    v = byte_level("gpt-2");
    v->source.model = "bert";
    refuse(v, LLM_ERROR_UNSUPPORTED, "tokenizer: the model is \"bert\", expected \"gpt2\" or \"llama\"");
    v = byte_level("gpt-2");
    v->source.model = v->source.pre = NULL;
    refuse(v, LLM_ERROR_UNSUPPORTED, "tokenizer: the model is \"\", expected \"gpt2\" or \"llama\"");
    v = byte_level("gpt-2");
    v->merges[3] = text_of("q zz");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: merge 3 is \"q zz\": no such token as the second");
    v = byte_level("gpt-2");
    v->merges[3] = text_of("zz q");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: merge 3 is \"zz q\": no such token as the first");
    v = byte_level("gpt-2");
    v->merges[3] = text_of("q z");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: merge 3 is \"q z\": no such token as both together");
    v = byte_level("gpt-2");
    v->merges[3] = text_of("qzz");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: merge 3 is \"qzz\", 3 bytes, expected two tokens with a space between, "
           "at most 65536");
    v = byte_level("gpt-2");
    v->source.eos = 1000000;
    (void)snprintf(message, sizeof message, "tokenizer: eos is token 1000000, expected -1 .. %u",
                   (unsigned)v->source.count - 1);
    refuse(v, LLM_ERROR_FORMAT, message);
    v = byte_level("gpt-2");
    v->source.eom = -2;
    (void)snprintf(message, sizeof message, "tokenizer: eom is token -2, expected -1 .. %u",
                   (unsigned)v->source.count - 1);
    refuse(v, LLM_ERROR_FORMAT, message);
    v = byte_level("gpt-2");
    v->types[2] = 9;
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: token 2 \"\xC4\x82\" is of type 9, expected 1 .. 6");
    v = byte_level("gpt-2");
    v->types[2] = 0;
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: token 2 \"\xC4\x82\" is of type 0, expected 1 .. 6");
    v = pieces(false);
    (void)snprintf(message, sizeof message, "tokenizer: neither scores nor merges for %u tokens",
                   (unsigned)v->source.count);
    v->source.scores = NULL;
    refuse(v, LLM_ERROR_FORMAT, message);
    v = pieces(false);
    v->scores[5] = NAN;
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: token 5 \"<0x01>\" has the score nan, expected a number");
    v = pieces(false);
    v->tokens[10] = text_of("<0xZZ>");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: token 10 is the byte \"<0xZZ>\", expected the form <0xNN>");
    v = pieces(false);
    v->tokens[10] = text_of("<0x0>");
    refuse(v, LLM_ERROR_FORMAT, "tokenizer: token 10 is the byte \"<0x0>\", expected the form <0xNN>");
    v = byte_level("gpt-2");
    v->source.count = 0;
    refuse(v, LLM_ERROR_LIMIT, "tokenizer: 0 tokens, expected 1 .. 2097152");
    v = pieces(false);
    v->tokens[263].data = long_text, v->tokens[263].size = 65536;
    (void)snprintf(message, sizeof message, "tokenizer: token 263 \"%.80s\" has 65536 bytes, expected at most 65535",
                   long_text);
    refuse(v, LLM_ERROR_LIMIT, message);
    v = pieces(false);
    v->tokens[263].data = long_text, v->tokens[263].size = 5000;
    (void)snprintf(message, sizeof message, "tokenizer: token 263 \"%.80s\" has 5000 symbols, expected at most 4096",
                   long_text);
    refuse(v, LLM_ERROR_LIMIT, message);
    v = byte_level("gpt-2"); /* of two tokens spelled alike the last one is found */
    v->tokens[v->source.count - 1] = text_of("hello");
    v->types[v->source.count - 1] = LLM_TOKEN_NORMAL;
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    CHECK(llm_token_find(&v->t, text_of("hello")) == (int32_t)v->source.count - 1, "last");
    vocabulary_free(v);
    test_much_text();
    test_sparse_trie();
    test_crowded_rules();
    test_many_rules();
}

/* ---- hostile tables ---- */

static void use_everything(const llm_tokenizer *t) {
    static const char *const texts[] = {
        "hello world <think> <|im_start|>user\n\n  the the \xC3\xA9t\xE4\xB8\xAD aaaaaaaaaaaaaaaa 123 x'll",
        "\xE2\x96\x81\xE2\x96\x81t\xFF\xC3 </s><eos>\n\n\n   hellohellohellohello"};
    int32_t ids[256];
    char out[512];
    size_t count, size, i;
    for (i = 0; i < 2; i++) {
        llm_tokenize_desc desc = LLM__ZERO;
        llm_detokenize_desc back = LLM__ZERO;
        desc.text = texts[i];
        desc.size = strlen(texts[i]);
        desc.special = i == 0;
        (void)llm_tokenize(t, &desc, ids, 256, &count);
        back.ids = ids;
        back.count = count < 256 ? count : 256;
        (void)llm_detokenize(t, &back, out, sizeof out, &size);
        (void)llm_token_find(t, text_of(texts[i]));
    }
    for (i = 0; i < 400; i += 7) {
        llm_text bytes = llm_token_bytes(t, (int32_t)i);
        for (size = 0, count = 0; count < bytes.size; count++)
            size += (unsigned char)bytes.data[count];
        out[i % 512] = (char)size;
        (void)llm_token_kind_of(t, (int32_t)i);
        (void)llm_token_is_end(t, (int32_t)i);
    }
}

/* A section with one field of its header changed. */
static void refuse_section(vocabulary *v, uint32_t *field, uint32_t value, llm_result code,
                           const char *message, int line) {
    const uint32_t was = *field;
    llm_result result;
    *field = value;
    result = llm__tokenizer_init(&v->t, v->section, v->size, (uint32_t)v->source.count, &v->error);
    CHECK(result == code && v->error.code == code && !strcmp(v->error.text, message),
          "line %d: %s \"%s\",\n    expected \"%s\"", line, llm_result_name(result), v->error.text,
          message);
    CHECK(llm__tokenizer_init(&v->t, v->section, v->size, 0, NULL) == code ||
              field == &((llm__tok_header *)(void *)v->section)->vocab,
          "line %d: without an error", line);
    *field = was;
}

static void test_section_refusals(void) {
    static const char *const names[LLM__TOK_TABLES] = {
        "tokens", "kinds", "text", "trie", "added", "pairs", "bytes", "starts", "joins", "ends",
        "normalized", "NFC pages", "NFC classes", "NFC splits", "NFC joins", "words"};
    vocabulary *v = byte_level("gpt-2");
    llm__tok_header *h;
    char message[160];
    uint32_t i;
    CHECK(build(v) == LLM_OK, "%s", v->error.text);
    h = (llm__tok_header *)(void *)v->section;
#define REFUSED(field, value, code, text) \
    refuse_section(v, &h->field, value, code, text, __LINE__)
    REFUSED(magic, 0x12345678, LLM_ERROR_FORMAT,
            "tokenizer: magic is 0x12345678, not 0x4b4f544c");
    REFUSED(version, 3000000000u, LLM_ERROR_VERSION,
            "tokenizer: version 3000000000, this library reads 2");
    (void)snprintf(message, sizeof message, "tokenizer: size is %u, the section has %u bytes",
                   (unsigned)v->size + 1, (unsigned)v->size);
    REFUSED(size, (uint32_t)v->size + 1, LLM_ERROR_FORMAT, message);
    (void)snprintf(message, sizeof message,
                   "tokenizer: pre-tokenizer %u is not known, only 0 .. %u",
                   (unsigned)LLM__PRE_COUNT, (unsigned)LLM__PRE_COUNT - 1);
    REFUSED(pre, LLM__PRE_COUNT, LLM_ERROR_UNSUPPORTED, message);
    (void)snprintf(message, sizeof message, "tokenizer: vocab is 0, not in 1 .. %u", h->vocab);
    REFUSED(vocab, 0, LLM_ERROR_FORMAT, message);
    (void)snprintf(message, sizeof message, "tokenizer: vocab is %u, not in 1 .. %u", h->vocab + 1,
                   h->vocab);
    REFUSED(vocab, h->vocab + 1, LLM_ERROR_FORMAT, message);
    REFUSED(longest, 65536, LLM_ERROR_FORMAT, "tokenizer: longest is 65536, not in 0 .. 65535");
    REFUSED(reach, 65, LLM_ERROR_FORMAT, "tokenizer: reach is 65, not in 0 .. 64");
    REFUSED(table[LLM__TOK_TRIE].count, 16776961, LLM_ERROR_FORMAT,
            "tokenizer: nodes of table trie is 16776961, not in 0 .. 16776960");
    REFUSED(table[LLM__TOK_ADDED].count, 4294967295u, LLM_ERROR_FORMAT,
            "tokenizer: nodes of table added is 4294967295, not in 0 .. 16776960");
    REFUSED(table[LLM__TOK_NORMALIZED].count, 16776961, LLM_ERROR_FORMAT,
            "tokenizer: nodes of table normalized is 16776961, not in 0 .. 16776960");
    REFUSED(table[LLM__TOK_PAIRS].count, 0, LLM_ERROR_FORMAT,
            "tokenizer: buckets of table pairs is 0, not in 1 .. 4294967295");
#define REFUSED_ID(name)                                                                        \
    (void)snprintf(message, sizeof message,                                                     \
                   "tokenizer: " #name " is token %u, not in 0 .. %u or 4294967295, none", h->vocab, \
                   h->vocab - 1);                                                               \
    REFUSED(name, h->vocab, LLM_ERROR_FORMAT, message)
    REFUSED_ID(bos);
    REFUSED_ID(eos);
    REFUSED_ID(eot);
    REFUSED_ID(unknown);
    REFUSED_ID(padding);
    for (i = 0; i < LLM__TOK_TABLES; i++) {
        const uint32_t at[] = {h->table[i].at + 8, 192}, count = h->table[i].count;
        const uint32_t end = ((uint32_t)v->size + 63) / 64 * 64;
        size_t k;
        for (k = 0; k < 2; k++) {
            (void)snprintf(message, sizeof message,
                           "tokenizer: table %s at %u, not a multiple of 64 from 256 on", names[i],
                           at[k]);
            REFUSED(table[i].at, at[k], LLM_ERROR_FORMAT, message);
        }
        (void)snprintf(message, sizeof message, "tokenizer: table %s at %u, %u elements, passes the"
                       " end of the section of %u bytes", names[i], end, count, (unsigned)v->size);
        if (count) REFUSED(table[i].at, end, LLM_ERROR_FORMAT, message);
        if (i == LLM__TOK_TEXT || i == LLM__TOK_TRIE || i == LLM__TOK_ADDED || i == LLM__TOK_PAIRS ||
            i >= LLM__TOK_ENDS)
            continue;
        (void)snprintf(message, sizeof message, "tokenizer: table %s has %u elements, not %u",
                       names[i], count - 1, count);
        REFUSED(table[i].count, count - 1, LLM_ERROR_FORMAT, message);
    }
#undef REFUSED
#undef REFUSED_ID
    CHECK(llm__tokenizer_init(&v->t, v->section, 255, 0, &v->error) == LLM_ERROR_FORMAT &&
              !strcmp(v->error.text, "tokenizer: 255 bytes, a header has 256"), "%s", v->error.text);
    CHECK(llm__tokenizer_init(&v->t, v->section, v->size, h->vocab, &v->error) == LLM_OK, "as it was");
    vocabulary_free(v);
}

static void test_hostile(void) {
    int round, opened = 0;
    for (round = 0; round < 2; round++) {
        vocabulary *v = round ? pieces(true) : byte_level("llama-bpe");
        unsigned char *good;
        size_t k;
        CHECK(build(v) == LLM_OK, "%s", v->error.text);
        good = (unsigned char *)malloc(v->size);
        if (!good) exit(2);
        memcpy(good, v->section, v->size);
        for (k = 0; k < sizeof(llm__tok_header); k += 16) {
            void *part = NULL;
            if (posix_memalign(&part, 64, k ? k : 1)) exit(2);
            memcpy(part, good, k);
            CHECK(llm__tokenizer_init(&v->t, part, k, 0, &v->error) == LLM_ERROR_FORMAT,
                  "cut at %u", (unsigned)k);
            free(part);
        }
        for (k = 0; k < 6000; k++) {
            uint32_t flips = 1 + below(12), area = below(4);
            memcpy(v->section, good, v->size);
            while (flips--) {
                size_t at = area == 0 ? below(256) : 256 + below((uint32_t)v->size - 256);
                static const uint32_t odd[] = {0, 1, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF,
                                               0x80000000, 64, 255};
                if (area < 3) {
                    v->section[at] = (unsigned char)below(256);
                } else {
                    uint32_t value = below(2)
                        ? odd[below(8)] : below((uint32_t)v->source.count + 2);
                    memcpy(v->section + (at & ~(size_t)3), &value, 4);
                }
            }
            if (llm__tokenizer_init(&v->t, v->section, v->size, 0, &v->error) != LLM_OK) continue;
            opened++;
            use_everything(&v->t);
        }
        free(good);
        vocabulary_free(v);
    }
    CHECK(opened > 6000, "only %d altered sections were opened", opened);
}

/* ---- linear work ---- */

static void test_linear(void) {
    static const char *const units[] = {"a", " ", "hello", "\xE4\xB8\xAD", "the ", "\n", "0",
                                        "aab", "\xFF"};
    vocabulary *v[3];
    char *text = (char *)malloc(1 << 18);
    size_t i, k, n;
    if (!text) exit(2);
    v[0] = byte_level("smollm");
    v[1] = pieces(false);
    v[2] = random_rules(2, 30);
    for (k = 0; k < 3; k++) CHECK(build(v[k]) == LLM_OK, "%s", v[k]->error.text);
    for (k = 0; k < 3; k++)
        for (i = 0; i < sizeof units / sizeof *units; i++) {
            double steps[2];
            size_t unit = strlen(units[i]), round;
            for (round = 0; round < 2; round++) {
                llm_text t;
                t.data = text;
                t.size = (size_t)1 << (17 + round);
                for (n = 0; n < t.size; n++) text[n] = units[i][n % unit];
                work = 0;
                (void)tokenize(&v[k]->t, t, true, NULL, 0);
                steps[round] = (double)work;
            }
            CHECK(steps[1] < 2.1 * steps[0] + 1000,
                  "vocabulary %u, \"%s\": %.0f steps, then %.0f", (unsigned)k,
                  units[i], steps[0], steps[1]);
            CHECK(steps[1] < 200.0 * (1 << 18), "%.0f steps", steps[1]);
        }
    for (k = 0; k < 3; k++) vocabulary_free(v[k]);
    free(text);
}

int main(void) {
    test_unicode();
    test_cuts();
    test_byte_level();
    test_missing_bytes();
    test_pieces();
    test_random_rules();
    test_calls();
    test_refusals();
    test_no_memory();
    test_sparse();
    test_nothing();
    test_detokenize();
    test_builder_errors();
    test_section_refusals();
    test_hostile();
    test_linear();
    return check_report("tokenizer");
}
