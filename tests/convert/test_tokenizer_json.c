/* tokenizer.json, read from memory: what each refusal says, allocations that fail, and that what is accepted gives
   the ids of `tokenizers`, which tests/fixtures/tokenizers.txt holds. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Allocation number `fail_at` fails. */
static size_t asked, fail_at;
static bool refuse(void) { return ++asked == fail_at; }
static void *maybe_malloc(size_t size) { return refuse() ? NULL : malloc(size); }
static void *maybe_calloc(size_t count, size_t size) { return refuse() ? NULL : calloc(count, size); }
static void *maybe_realloc(void *memory, size_t size) { return refuse() ? NULL : realloc(memory, size); }
#define malloc maybe_malloc
#define calloc maybe_calloc
#define realloc maybe_realloc
#define LLM_IMPLEMENTATION
#define LLM_NO_TEMPLATE
#include "../../llm.h"
#include "../../tools/convert/tokenizer_json.h"
#undef malloc
#undef calloc
#undef realloc
#include "../check.h"

/* With ' for ". A byte-level vocabulary, and one of pieces. */
#define ADDED "'added_tokens':[{'id':0,'content':'<s>','special':true}]"
#define LEVEL "'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false}"
#define ENDS "'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}},{'Sequence':{'id':'A'}}]," \
             "'special_tokens':{'<s>':{'ids':[0]}}}"
#define MODEL "'type':'BPE','vocab':{'a':1,'b':2,'ab':3},'merges':['#version: 0.2','a b']"
static const char level[] = "{" ADDED ",'normalizer':null," LEVEL "," ENDS ",'model':{" MODEL "}}";
#define BLOCK "'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'\xe2\x96\x81'}," \
              "{'type':'Replace','pattern':{'String':' '},'content':'\xe2\x96\x81'}]}"
#define PIECES "'type':'BPE','unk_token':'a','fuse_unk':true,'vocab':{'a':1,'b':2,'\xe2\x96\x81':3,'ab':4},'merges':[['a','b']]"
static const char pieces[] = "{" ADDED "," BLOCK ",'pre_tokenizer':null," ENDS ",'model':{" PIECES "}}";

static llm_error said;
static llm_result parse(const char *text) {
    tokenizer_json t;
    unsigned char *section = NULL;
    size_t size = 0;
    llm_result r;
    memset(&said, 0, sizeof said);
    r = tokenizer_json_parse(&t, llm_string(text), llm_string(""), &said);
    if (r != LLM_OK) return r;
    r = tokenizer_build(&t.source, &section, &size, &said);
    free(section);
    tokenizer_json_free(&t);
    return r;
}

/* `text` with the first `from` as `to`, and ' as ". */
static const char *changed(const char *text, const char *from, const char *to) {
    static char out[4096];
    const char *at = strstr(text, from);
    char *c;
    CHECK(at, "%s is not in %s", from, text);
    (void)snprintf(out, sizeof out, "%.*s%s%s", at ? (int)(at - text) : 0, text, to, at ? at + strlen(from) : "");
    for (c = out; *c; c++) *c = *c == '\'' ? '"' : *c;
    return out;
}

static void check_says(const char *text, const char *from, const char *to, llm_result code, const char *message) {
    const llm_result r = parse(changed(text, from, to));
    CHECK(r == code && said.code == code && !strcmp(said.text, message), "%s: %s, %s, expected %s", to, llm_result_name(r),
          said.text, message);
}

typedef struct change {
    const char *from, *to, *message;
} change;

/* What cannot be done. */
static void test_unsupported(void) {
    static const change levels[] = {
        {"'normalizer':null", "'normalizer':{'type':'NFKC'}", "tokenizer.json: normalizer: not supported here: \"NFKC\""},
        {"'normalizer':null", "'normalizer':{}", "tokenizer.json: normalizer: not supported here: \"a step without a type\""},
        {"'normalizer':null", "'normalizer':{'type':'Sequence','normalizers':[1,2,3,4,5,6,7,8,9]}",
         "tokenizer.json: normalizer: too many steps"},
        {",'add_prefix_space':false", "", "tokenizer.json: pre_tokenizer: ByteLevel with add_prefix_space"},
        {"'add_prefix_space':false", "'add_prefix_space':false,'use_regex':false",
         "tokenizer.json: pre_tokenizer: ByteLevel alone without use_regex"},
        {LEVEL, "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Digits'},{'type':'ByteLevel',"
         "'add_prefix_space':false}]}", "tokenizer.json: pre_tokenizer: Digits not one by one"},
        {LEVEL, "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Punctuation'},{'type':'ByteLevel',"
         "'add_prefix_space':false}]}", "tokenizer.json: pre_tokenizer: not supported here: \"Punctuation\""},
        {LEVEL, "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split'},{'type':'ByteLevel',"
         "'add_prefix_space':false,'use_regex':false}]}",
         "tokenizer.json: pre_tokenizer: Split other than \"Isolated\", not inverted"},
        {LEVEL, "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','behavior':'Isolated','pattern':"
         "{'Regex':'a+'}},{'type':'ByteLevel','add_prefix_space':false,'use_regex':false}]}",
         "tokenizer.json: pre_tokenizer: an expression that is not known: \"a+\""},
        {LEVEL, "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Split','behavior':'Isolated'},"
         "{'type':'ByteLevel','add_prefix_space':false,'use_regex':false}]}",
         "tokenizer.json: pre_tokenizer: an expression that is not known: \"no Regex\""},
        {"'type':'BPE'", "'type':'WordPiece'", "tokenizer.json: model: only BPE is supported, not \"WordPiece\""},
        {"'type':'BPE'", "'dropout':0.1", "tokenizer.json: model: dropout"},
        {"'type':'BPE'", "'continuing_subword_prefix':'##'", "tokenizer.json: model: continuing_subword_prefix \"##\""},
        {"'type':'BPE'", "'end_of_word_suffix':'</w>'", "tokenizer.json: model: end_of_word_suffix \"</w>\""},
        {"'type':'BPE'", "'byte_fallback':true", "tokenizer.json: model: ByteLevel with byte_fallback"},
        {"'type':'BPE'", "'unk_token':'a'", "tokenizer.json: model: not all 256 bytes are tokens, with \"unk_token\""},
        {"'ids':[0]", "'ids':[0,1]", "tokenizer.json: post_processor: not one token for \"<s>\""},
        {"{'SpecialToken':{'id':'<s>'}}", "{}", "tokenizer.json: post_processor: not one Sequence in a template"},
        {"{'SpecialToken':{'id':'<s>'}}", "{'SpecialToken':{'id':'<s>'}},{'SpecialToken':{'id':'<s>'}}",
         "tokenizer.json: post_processor: several tokens before a text or behind it"},
        {",{'Sequence':{'id':'A'}}", "", "tokenizer.json: post_processor: a template without a Sequence"},
        {"'TemplateProcessing'", "'RobertaProcessing'", "tokenizer.json: post_processor: not supported here: \"RobertaProcessing\""},
    };
    static const change of_pieces[] = {
        {"'pre_tokenizer':null", "'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'Metaspace'},{'type':'BertX'}]}",
         "tokenizer.json: pre_tokenizer: not supported here: \"BertX\""},
        {BLOCK ",'pre_tokenizer':null", "'pre_tokenizer':{'type':'Metaspace','replacement':'_'}",
         "tokenizer.json: pre_tokenizer: Metaspace with another replacement than U+2581"},
        {BLOCK ",'pre_tokenizer':null",
         "'pre_tokenizer':{'type':'Metaspace','replacement':'\xe2\x96\x81','prepend_scheme':'often'}",
         "tokenizer.json: pre_tokenizer: Metaspace with prepend_scheme \"often\""},
        {BLOCK, "'normalizer':null", "tokenizer.json: normalizer: no step turns spaces into U+2581"},
        {"'pre_tokenizer':null", "'pre_tokenizer':{'type':'Split','pattern':{'String':' '},'behavior':'Removed'}",
         "tokenizer.json: pre_tokenizer: Split at spaces other than \"MergedWithPrevious\""},
        {"'type':'BPE'", "'ignore_merges':true", "tokenizer.json: model: ignore_merges without ByteLevel"},
        {"'fuse_unk':true", "'fuse_unk':false",
         "tokenizer.json: model: neither byte_fallback nor an unk_token with fuse_unk"},
        {"'type':'BPE'", "'byte_fallback':true", "tokenizer.json: model: not all 256 bytes are tokens, with \"byte_fallback\""},
    };
    size_t i;
    for (i = 0; i < sizeof levels / sizeof *levels; i++)
        check_says(level, levels[i].from, levels[i].to, LLM_ERROR_UNSUPPORTED, levels[i].message);
    for (i = 0; i < sizeof of_pieces / sizeof *of_pieces; i++)
        check_says(pieces, of_pieces[i].from, of_pieces[i].to, LLM_ERROR_UNSUPPORTED, of_pieces[i].message);
}

/* What no such file has. */
static void test_wrong(void) {
    static const change levels[] = {
        {level, "[]", "tokenizer.json: the text: expected an object"},
        {"'normalizer':null", "'normalizer':5", "tokenizer.json: normalizer: expected an object"},
        {"'normalizer':null", "'normalizer':{'type':'Sequence'}", "tokenizer.json: normalizer: expected an array of steps \"normalizers\""},
        {"'special':true", "'special':1", "tokenizer.json: special: expected true or false"},
        {"'model':{", "'model':7,'other':{", "tokenizer.json: model: expected an object"},
        {"'vocab':", "'words':", "tokenizer.json: model.vocab: expected an object"},
        {"'a':1", "'a':-1", "tokenizer.json: model.vocab: expected an id for \"a\""},
        {"'a':1", "'a':2097152", "tokenizer.json: model.vocab: an id of 2097152 or more for \"a\""},
        {"'a':1", "'a':2", "tokenizer.json: model.vocab: two tokens have the id of \"b\""},
        {ADDED, "'added_tokens':{}", "tokenizer.json: added_tokens: expected an array"},
        {"'id':0,", "", "tokenizer.json: added_tokens: expected an id for \"<s>\""},
        {"'<s>'", "''", "tokenizer.json: added_tokens: a token without content"},
        {"'id':0", "'id':1", "tokenizer.json: added_tokens: another token has the id of \"<s>\""},
        {"'added_tokens':[", "'added_tokens':[{'id':5,'content':'<s>'},", "tokenizer.json: added_tokens: twice: \"<s>\""},
        {"'content':'<s>'", "'content':'a'", "tokenizer.json: added_tokens: the vocabulary has another id for \"a\""},
        {"'merges':", "'pairs':", "tokenizer.json: model.merges: expected an array"},
        {"'a b'", "'a  b'", "tokenizer.json: model.merges: expected two tokens and one space: \"a  b\""},
        {"'a b'", "['a']", "tokenizer.json: model.merges: expected a text or two of them"},
        {"'single'", "'pair'", "tokenizer.json: post_processor: expected an array \"single\""},
    };
    size_t i;
    for (i = 0; i < sizeof levels / sizeof *levels; i++)
        check_says(level, levels[i].from, levels[i].to, LLM_ERROR_FORMAT, levels[i].message);
    check_says(pieces, "'unk_token':'a'", "'unk_token':'none'", LLM_ERROR_FORMAT,
               "tokenizer.json: model.unk_token: not in the vocabulary: \"none\"");
}

static void test_memory(void) {
    const char *const texts[] = {level, pieces};
    bool own = false; /* its own words, not those of json.h or tokenizer_build.h */
    size_t i;
    for (i = 0; i < 2; i++) {
        const char *text = changed(texts[i], "'", "'");
        llm_result r = LLM_ERROR_MEMORY;
        for (fail_at = 1; r == LLM_ERROR_MEMORY && fail_at < 1000; fail_at++) {
            asked = 0;
            r = parse(text);
            CHECK(r == LLM_OK || (r == LLM_ERROR_MEMORY && strstr(said.text, "no memory")), "%s", said.text);
            own = own || !strcmp(said.text, "tokenizer.json: no memory");
        }
        CHECK(r == LLM_OK && fail_at > 5, "%s after %u allocations", said.text, (unsigned)fail_at);
    }
    CHECK(own, "it never lacked memory itself");
    fail_at = 0;
}

/* ---- the ids of texts ---- */

typedef struct opened {
    void *section;
    llm_tokenizer tokenizer;
} opened;

static opened open_json(llm_text text) {
    tokenizer_json t;
    unsigned char *section = NULL;
    size_t size = 0;
    opened o;
    memset(&o, 0, sizeof o), memset(&said, 0, sizeof said);
    if (tokenizer_json_parse(&t, text, llm_string(""), &said) || tokenizer_build(&t.source, &section, &size, &said) ||
        posix_memalign(&o.section, 64, size))
        printf("FAIL %.60s: %s\n", text.data, said.text), exit(1);
    memcpy(o.section, section, size);
    free(section);
    tokenizer_json_free(&t);
    if (llm__tokenizer_init(&o.tokenizer, o.section, size, 0, &said)) printf("FAIL %s\n", said.text), exit(1);
    return o;
}

static int hex(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* One line: 1 or 0, the text in hex or "-", ids. Every allocation for it fails in turn. */
static void check_line(const llm_tokenizer *t, const char *line, size_t number) {
    static char text[4096];
    static int32_t ids[4096];
    llm_tokenize_desc d;
    size_t size = 0, count = 0, i;
    char *at;
    llm_result r;
    memset(&d, 0, sizeof d), memset(&said, 0, sizeof said);
    d.special = line[0] == '1', d.bos = d.eos = -1, d.text = text, d.error = &said;
    for (line += 2; *line != ' ' && size < sizeof text; line += *line == '-' ? 1 : 2)
        if (*line != '-') text[size++] = (char)(hex(line[0]) * 16 + hex(line[1]));
    d.size = size;
    for (fail_at = 1;; fail_at++) {
        asked = 0;
        r = llm_tokenize(t, &d, ids, 4096, &count);
        CHECK(r == (asked < fail_at ? LLM_OK : LLM_ERROR_MEMORY), "line %u: %s", (unsigned)number, said.text);
        if (asked < fail_at) break;
    }
    fail_at = 0;
    r = llm_tokenize(t, &d, ids, 4096, &count);
    for (i = 0, at = (char *)(uintptr_t)line; i < count && *at == ' ' && strtol(at, &at, 10) == ids[i]; i++) continue;
    CHECK(r == LLM_OK && i == count && !strchr("0123456789", at[0] == ' ' ? at[1] : 'x'),
          "line %u: id %u of %u is %d, expected%.20s", (unsigned)number, (unsigned)i, (unsigned)count,
          i < count ? (int)ids[i] : -1, at);
}

/* Bytes that are no characters come back as they were; what is around them is in normal form C. */
static void check_bytes(const llm_tokenizer *t) {
    static const char *const pairs[][2] = {{"e\xcc\x81\xff" "e\xcc", "\xc3\xa9\xff" "e\xcc"},
                                           {"\xcc\x81\xcc", "\xcc\x81\xcc"},
                                           {"\xc3<w>e\xcc\x81\xc3", "\xc3<w>\xc3\xa9\xc3"},
                                           {"<end> \xe2\x80 e\xcc\x81\xed\xa0\x80", "<end>\xe2\x80 \xc3\xa9\xed\xa0\x80"},
                                           {"\xff<w>\xff", "\xff<w>\xff"}, {"\xc3\xa9\xc3", "\xc3\xa9\xc3"}};
    llm_tokenize_desc d;
    llm_detokenize_desc back;
    int32_t ids[64];
    char text[64];
    size_t i, count = 0, size = 0;
    for (i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        memset(&d, 0, sizeof d), memset(&back, 0, sizeof back);
        d.text = pairs[i][0], d.size = strlen(d.text), d.special = true, d.bos = d.eos = -1;
        CHECK(!llm_tokenize(t, &d, ids, 64, &count), "pair %u", (unsigned)i);
        back.ids = ids, back.count = count, back.special = true;
        CHECK(!llm_detokenize(t, &back, text, sizeof text, &size) && size == strlen(pairs[i][1]) &&
                  !memcmp(text, pairs[i][1], size),
              "pair %u: %.*s", (unsigned)i, (int)size, text);
    }
}

static void test_ids(void) {
    static char line[65536];
    FILE *file = fopen("tests/fixtures/tokenizers.txt", "r");
    size_t number = 0;
    opened o;
    memset(&o, 0, sizeof o);
    CHECK(file, "tests/fixtures/tokenizers.txt cannot be read");
    while (file && fgets(line, sizeof line, file)) {
        llm_text text = llm_string(line + 2);
        number++;
        if (line[0] == 'T') check_line(&o.tokenizer, line + 2, number);
        if (line[0] != 'J') continue;
        free(o.section);
        o = open_json(text);
        if (number == 1) check_bytes(&o.tokenizer);
    }
    free(o.section);
    if (file) (void)fclose(file);
    CHECK(number > 1000, "only %u lines", (unsigned)number);
}

int main(void) {
    test_ids();
    test_unsupported();
    test_wrong();
    test_memory();
    return check_report("test_tokenizer_json");
}
