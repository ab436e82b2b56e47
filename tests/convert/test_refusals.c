/* What the converter refuses, word for word: broken GGUF files, models that are none, vocabularies, weights that
   are no numbers, memory and disks that end, command lines. */
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
#define LLM_NO_TEMPLATE
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#undef malloc
#undef calloc
#undef realloc
#include "../check.h"
#include <signal.h>
#include <sys/resource.h>

#define FIXTURES "tests/fixtures/models/"
static char folder[] = "/tmp/llm-refusals-XXXXXX";
static char path[300];
static const char *in_folder(const char *name) {
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* A message against a format: %s may be anything, other conversions are digits. */
static bool matches(const char *format, const char *text) {
    for (; *format; format++, text++) {
        if (*format != '%') {
            if (*format != *text) return false;
            continue;
        }
        while (!strchr("sud", *format)) format++;
        if (*format == 's') {
            for (; *text; text++)
                if (matches(format + 1, text)) return true;
            return matches(format + 1, text);
        }
        if (*text < '0' || *text > '9') return false;
        while (text[1] >= '0' && text[1] <= '9') text++;
    }
    return !*text;
}

static void expect(llm_result got, const llm_error *error, llm_result wanted, const char *message, int line) {
    CHECK(got == wanted && error->code == wanted && !strcmp(error->text, message),
          "line %d: %s \"%s\",\n    expected %s \"%s\"", line, llm_result_name(got), error->text, llm_result_name(wanted),
          message);
}

/* ---- GGUF files, byte by byte -------------------------------------------- */

static void put(buffer *b, const void *data, size_t size) { buffer_add(b, (const char *)data, size); }
static void put32(buffer *b, uint32_t x) { put(b, &x, 4); }
static void put64(buffer *b, uint64_t x) { put(b, &x, 8); }
static void put_text(buffer *b, const char *text) {
    put64(b, strlen(text));
    put(b, text, strlen(text));
}
static buffer gguf(uint64_t tensors, uint64_t pairs) {
    buffer b = {NULL, 0, 0, false};
    put(&b, "GGUF", 4);
    put32(&b, 3);
    put64(&b, tensors);
    put64(&b, pairs);
    return b;
}
static void put_value(buffer *b, const char *key, uint32_t type, const void *value, size_t size) {
    put_text(b, key);
    put32(b, type);
    put(b, value, size);
}
static void put_string(buffer *b, const char *key, const char *value) {
    put_value(b, key, GGUF_STRING, "", 0);
    put_text(b, value);
}
/* A file with an architecture and one tensor. */
static buffer one_tensor(const char *name, uint32_t dims, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset) {
    buffer b = gguf(1, 1);
    put_string(&b, "general.architecture", "llama");
    put_text(&b, name);
    put32(&b, dims);
    put64(&b, cols);
    if (dims > 1) put64(&b, rows);
    put32(&b, type);
    put64(&b, offset);
    return b;
}

static void refuse_gguf(buffer *b, const char *message, int line) {
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    uint8_t *copy = (uint8_t *)malloc(b->size ? b->size : 1); /* so that a sanitizer sees the end */
    source_file s;
    llm_error error;
    llm_result result;
    if (!file || !copy) exit(2);
    gguf_source(&s, file);
    if (b->size) memcpy(copy, b->data, b->size);
    file->map.data = copy, file->map.size = b->size;
    result = gguf_parse(&s, file, &error);
    expect(result, &error, LLM_ERROR_FORMAT, message, line);
    file->map.data = NULL;
    gguf_close(&s);
    free(copy);
    free(b->data);
}
#define REFUSE_GGUF(message) refuse_gguf(&b, message, __LINE__)

static void test_gguf_header(void) {
    buffer b = {NULL, 0, 0, false};
    uint32_t i;
    put(&b, "GG", 2);
    REFUSE_GGUF("the magic number at byte 0: 4 bytes wanted, the file ends after 2");
    b = gguf(0, 0);
    memcpy(b.data, "\033]0;", 4);
    REFUSE_GGUF("the file begins with \"?]0;\", a GGUF file with \"GGUF\"");
    for (i = 0; i < 3; i++) {
        static const uint32_t versions[] = {1, 4, 0x03000000};
        char message[80];
        b = gguf(0, 0);
        memcpy(b.data + 4, &versions[i], 4);
        (void)snprintf(message, sizeof message, "GGUF version %u, expected 2 or 3 in little-endian order", versions[i]);
        REFUSE_GGUF(message);
    }
    b = gguf((uint64_t)1 << 60, 5);
    REFUSE_GGUF("1152921504606846976 tensors and 5 keys do not fit the 0 bytes of the file");
    b = gguf(0, 2);
    put(&b, "0123456789", 10);
    REFUSE_GGUF("0 tensors and 2 keys do not fit the 10 bytes of the file");
}

static void test_gguf_keys(void) {
    const uint64_t large = ~(uint64_t)0;
    const uint32_t string = GGUF_STRING;
    buffer b = gguf(0, 1);
    put64(&b, 0);
    put(&b, "123456789", 9);
    REFUSE_GGUF("a key of 0 bytes, expected 1 .. 65535");
    b = gguf(0, 1);
    put64(&b, large);
    put(&b, "123456789", 9);
    REFUSE_GGUF("a key at byte 32: 18446744073709551615 bytes wanted, the file ends after 9");
    b = gguf(0, 1);
    put_value(&b, "k", 13, "", 0);
    REFUSE_GGUF("key k: value type 13, expected 0 .. 12 and no array in an array");
    b = gguf(0, 1);
    put_value(&b, "k\n\033[2J", GGUF_ARRAY, "\t\0\0\0\1\0\0\0\0\0\0\0", 12);
    REFUSE_GGUF("key k??[2J: value type 9, expected 0 .. 12 and no array in an array");
    b = gguf(0, 1);
    put_value(&b, "k", GGUF_ARRAY, "\4\0\0\0", 4);
    put64(&b, large);
    REFUSE_GGUF("key k: an array of 18446744073709551615 elements, expected at most 2305843009213693951");
    b = gguf(0, 1);
    put_value(&b, "k", GGUF_ARRAY, "\4\0\0\0", 4);
    put64(&b, 1000);
    REFUSE_GGUF("key k at byte 49: 4000 bytes wanted, the file ends after 0");
    b = gguf(0, 1);
    put_value(&b, "k", GGUF_ARRAY, &string, 4);
    put64(&b, large);
    put_text(&b, "one");
    REFUSE_GGUF("key k at byte 60: 8 bytes wanted, the file ends after 0");
    b = gguf(0, 1);
    put_value(&b, "k", GGUF_BOOL, "\2", 1);
    REFUSE_GGUF("key k: 2, expected 0 or 1");
    b = gguf(0, 2);
    put_string(&b, "twice", "a"), put_string(&b, "twice", "b");
    REFUSE_GGUF("key twice: there are two of it");
    b = gguf(0, 1);
    put_string(&b, "other", "a");
    REFUSE_GGUF("key general.architecture: missing, expected a text");
    b = gguf(0, 1);
    put_value(&b, "general.architecture", 4, "\7\0\0\0", 4);
    REFUSE_GGUF("key general.architecture: 7, expected a text");
    b = gguf(0, 1);
    put_string(&b, "general.architecture", "");
    REFUSE_GGUF("key general.architecture: \"\", 0 bytes, expected 1 .. 63 and no NUL");
    b = gguf(0, 1);
    put_string(&b, "general.architecture", "0123456789012345678901234567890123456789012345678901234567890123");
    REFUSE_GGUF("key general.architecture: \"0123456789012345678901234567890123456789012345678901234567890123\", "
                "64 bytes, expected 1 .. 63 and no NUL");
    b = gguf(0, 2);
    put_string(&b, "general.architecture", "llama"), put_value(&b, "general.alignment", 4, "\60\0\0\0", 4);
    REFUSE_GGUF("key general.alignment: 48, expected a power of two up to 1048576");
    b = gguf(0, 2);
    put_string(&b, "general.architecture", "llama"), put_value(&b, "general.alignment", 6, "\0\0\300\177", 4);
    REFUSE_GGUF("key general.alignment: nan, expected a power of two up to 1048576");
    b = gguf(0, 2);
    put_string(&b, "general.architecture", "llama"), put_string(&b, "general.alignment", "32");
    REFUSE_GGUF("key general.alignment: \"32\", expected a power of two up to 1048576");
    b = gguf(0, 2);
    put_string(&b, "general.architecture", "llama");
    put_value(&b, "general.alignment", GGUF_ARRAY, &string, 4), put64(&b, 0);
    REFUSE_GGUF("key general.alignment: an array of 0 texts, expected a power of two up to 1048576");
}

static void test_gguf_tensors(void) {
    buffer b = one_tensor("", 2, 1, 32, 0, 0);
    REFUSE_GGUF("a tensor's name of 0 bytes, expected 1 or more");
    b = one_tensor("t", 0, 1, 32, 0, 0);
    REFUSE_GGUF("tensor t: 0 dimensions, expected 1 .. 4");
    b = one_tensor("t", 5, 1, 32, 0, 0);
    REFUSE_GGUF("tensor t: 5 dimensions, expected 1 .. 4");
    b = one_tensor("t", 2, 0, 32, 0, 0);
    REFUSE_GGUF("tensor t: dimension 1 is 0, expected 1 .. 2251799813685248");
    b = one_tensor("t", 1, 1, (uint64_t)1 << 57, 0, 0);
    REFUSE_GGUF("tensor t: dimension 0 is 144115188075855872, expected 1 .. 72057594037927936");
    b = one_tensor("t", 2, 1, 32, 4, 0);
    REFUSE_GGUF("tensor t: type 4, expected one of 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 6 Q5_0, 7 Q5_1, 8 Q8_0, 10 Q2_K, "
                "11 Q3_K, 12 Q4_K, 13 Q5_K, 14 Q6_K, 20 IQ4_NL, 23 IQ4_XS, 30 BF16, 34 TQ1_0, 35 TQ2_0, 36 I2_S, 39 MXFP4");
    b = one_tensor("t", 2, 1, 33, 8, 0);
    REFUSE_GGUF("tensor t: rows of 33 weights, expected a multiple of 32 for Q8_0");
    b = one_tensor("t", 2, 1, 32, 0, 0);
    REFUSE_GGUF("the tensors' data begin at byte 128, the file has 110");
    b = one_tensor("t", 2, 1, 32, 0, 8);
    while (b.size < 128) put(&b, "", 1);
    REFUSE_GGUF("tensor t: offset 8 is no multiple of the alignment 32");
    b = one_tensor("t", 2, 1, 32, 0, 32);
    while (b.size < 128 + 32 + 127) put(&b, "", 1);
    REFUSE_GGUF("tensor t: offset 160 + 128 bytes passes the end of the file (287)");
    b = one_tensor("t", 2, 1, 128, 36, 0);
    while (b.size < 128 + 64) put(&b, "\x65", 1);
    b.data[128 + 9] = 0x6c;
    REFUSE_GGUF("tensor t: byte 9 is 0x6c, expected codes of 0 .. 2");
    b = one_tensor("t", 1, 1, 8, 0, 0);
    b.data[8] = 2; /* two of it */
    put_text(&b, "t"), put32(&b, 1), put64(&b, 8), put32(&b, 0), put64(&b, 0);
    while (b.size < 256) put(&b, "", 1);
    REFUSE_GGUF("tensor t: there are two of it");
}

/* ---- models ------------------------------------------------------------- */

/* A fixture with one value or tensor that is another. */
static const char *replaced_key;
static source_value replacement;
static source_value (*true_value)(const source_file *s, const char *key);
static source_value replaced(const source_file *s, const char *key) {
    return replaced_key && !strcmp(key, replaced_key) ? replacement : true_value(s, key);
}
static source_value number(double x) {
    source_value v;
    memset(&v, 0, sizeof v);
    v.kind = SOURCE_NUMBER, v.number = x;
    return v;
}
static source_value text(const char *x) {
    source_value v;
    memset(&v, 0, sizeof v);
    v.kind = SOURCE_TEXT, v.text = text_of(x);
    return v;
}
static source_value array_of(int element, uint64_t count) {
    source_value v;
    memset(&v, 0, sizeof v);
    v.kind = SOURCE_ARRAY, v.element = element, v.count = count;
    return v;
}
static source_value missing(void) {
    source_value v;
    memset(&v, 0, sizeof v);
    return v;
}

static source_file open_fixture(const char *name) {
    source_file s;
    llm_error error;
    char file[200];
    (void)snprintf(file, sizeof file, FIXTURES "%s.gguf", name);
    if (gguf_open(&s, file, &error)) {
        printf("FAIL %s\n", error.text);
        exit(1);
    }
    true_value = s.value;
    s.value = replaced;
    replaced_key = NULL;
    return s;
}

static void refuse_model(source_file *s, llm_result wanted, const char *message, int line) {
    llm_error error;
    plan p;
    llm_result result = plan_open(&p, s, &error);
    expect(result, &error, wanted, message, line);
    if (result == LLM_OK) plan_close(&p);
    s->close(s);
}
static void refuse_key(const char *fixture, const char *key, source_value value, llm_result wanted, const char *message,
                       int line) {
    source_file s = open_fixture(fixture);
    replaced_key = key, replacement = value;
    refuse_model(&s, wanted, message, line);
}
#define KEY(key, value, wanted, message) refuse_key("llama-untied", key, value, wanted, message, __LINE__)
#define GEMMA(key, value, wanted, message) refuse_key("gemma", key, value, wanted, message, __LINE__)
#define TENSOR(tensor, statement, wanted, message)               \
    do {                                                         \
        source_file s = open_fixture("llama-untied");            \
        source_tensor *t = source_find(&s, tensor);              \
        if (!t) exit(2);                                         \
        statement;                                               \
        refuse_model(&s, wanted, message, __LINE__);             \
    } while (0)

static void test_models(void) {
    KEY(".block_count", missing(), LLM_ERROR_FORMAT, "key llama.block_count: missing");
    KEY(".block_count", number(1025), LLM_ERROR_FORMAT, "key llama.block_count: 1025, expected 1 .. 1024");
    KEY(".block_count", number(1.5), LLM_ERROR_FORMAT, "key llama.block_count: 1.5, expected a whole number");
    KEY(".context_length", text("long"), LLM_ERROR_UNSUPPORTED, "key llama.context_length: \"long\", expected one number");
    KEY(".feed_forward_length", array_of(SOURCE_NUMBER, 2), LLM_ERROR_UNSUPPORTED,
        "key llama.feed_forward_length: an array of 2 numbers, expected one number");
    KEY(".attention.layer_norm_rms_epsilon", number(0), LLM_ERROR_FORMAT,
        "key llama.attention.layer_norm_rms_epsilon: 0, expected 1e-30 .. 1");
    KEY(".expert_count", number(8), LLM_ERROR_UNSUPPORTED,
        "key llama.expert_count: 8, expected none or 0: it is not supported");
    KEY(".logit_scale", text("x"), LLM_ERROR_UNSUPPORTED,
        "key llama.logit_scale: \"x\", expected none or 0: it is not supported");
    KEY(".attention.head_count_kv", number(3), LLM_ERROR_FORMAT,
        "key llama.attention.head_count_kv: 3, expected a divisor of head_count, 4");
    KEY(".attention.key_length", number(15), LLM_ERROR_UNSUPPORTED,
        "heads of 15 with values of 32, expected an even number in 2 .. 512 and values in 1 .. 512");
    KEY(".attention.value_length", number(513), LLM_ERROR_FORMAT,
        "key llama.attention.value_length: 513, expected 1 .. 512");
    KEY(".rope.dimension_count", number(7), LLM_ERROR_FORMAT, "key llama.rope.dimension_count: 7, expected an even number");
    KEY(".rope.scaling.type", text("yarn"), LLM_ERROR_UNSUPPORTED,
        "key llama.rope.scaling.type: \"yarn\", expected \"none\" or \"linear\"");
    KEY(".rope.scaling.type", number(1), LLM_ERROR_UNSUPPORTED,
        "key llama.rope.scaling.type: 1, expected \"none\" or \"linear\"");
    GEMMA(".attention.sliding_window_pattern", array_of(SOURCE_NUMBER, 2), LLM_ERROR_FORMAT,
          "key gemma3.attention.sliding_window_pattern: an array of 2 numbers, expected a number for each of 6 layers");
    TENSOR("token_embd.weight", t->name = text_of("token_embd"), LLM_ERROR_FORMAT, "tensor token_embd.weight: missing");
    TENSOR("token_embd.weight", t->shape[1] = 4194305, LLM_ERROR_FORMAT,
           "tensor token_embd.weight: 4194305 tokens, expected 1 .. 4194304");
    TENSOR("output_norm.weight", t->name = text_of("output_norn.weight"), LLM_ERROR_FORMAT,
           "tensor output_norm.weight: missing");
    TENSOR("blk.0.ffn_up.weight", t->name = text_of("blk.0.ffn_up.weighs"), LLM_ERROR_FORMAT,
           "tensor blk.0.ffn_up.weight: missing");
    TENSOR("blk.1.attn_k.weight", t->shape[1] = 31, LLM_ERROR_FORMAT, "tensor blk.1.attn_k.weight: shape 64 x 31 x 1 x 1, "
           "expected 64 x 64");
    TENSOR("token_embd.weight", (s.tensors[s.tensor_count - 1].name = text_of("zzz\033"),
           strcpy(s.architecture, "qwen\n9")), LLM_ERROR_UNSUPPORTED,
           "architecture \"qwen?9\" is not supported, expected llama, qwen2, qwen3, gemma3, bitnet or bitnet-b1.58");
}

/* A tensor that nothing asks for is not dropped in silence. */
static void test_unknown_tensor(void) {
    source_file s = open_fixture("llama-untied");
    source_tensor *more = (source_tensor *)calloc(s.tensor_count + 1, sizeof *more);
    if (!more) exit(2);
    memcpy(more, s.tensors, s.tensor_count * sizeof *more);
    more[s.tensor_count].name = text_of("zzz.weight");
    free(s.tensors);
    s.tensors = more, s.tensor_count++;
    refuse_model(&s, LLM_ERROR_UNSUPPORTED, "tensor zzz.weight: not known in a model of the llama family", __LINE__);
}

static void refuse_vocabulary(const char *key, source_value value, uint32_t rows, llm_result wanted, const char *message,
                              int line) {
    source_file s = open_fixture("llama-untied");
    unsigned char *section;
    size_t size;
    llm_error error;
    llm_result result;
    replaced_key = key, replacement = value;
    result = vocabulary_section(&s, rows, &section, &size, &error);
    expect(result, &error, wanted, message, line);
    CHECK(!section && !size, "line %d: a section from a failure", line);
    s.close(&s);
}

static void test_vocabularies(void) {
#define TOKENS(key, value, rows, message) refuse_vocabulary(key, value, rows, LLM_ERROR_FORMAT, message, __LINE__)
    TOKENS("tokenizer.ggml.tokens", missing(), 999, "key tokenizer.ggml.tokens: missing, expected an array of texts");
    TOKENS("tokenizer.ggml.tokens", number(5), 999, "key tokenizer.ggml.tokens: 5, expected an array of texts");
    TOKENS("tokenizer.ggml.tokens", array_of(SOURCE_NUMBER, 3), 999,
           "key tokenizer.ggml.tokens: an array of 3 numbers, expected an array of texts");
    TOKENS("tokenizer.ggml.merges", text("a b"), 999, "key tokenizer.ggml.merges: \"a b\", expected an array of texts");
    TOKENS("tokenizer.ggml.token_type", array_of(SOURCE_NUMBER, 3), 999,
           "key tokenizer.ggml.token_type: an array of 3 numbers, expected an array of 320 numbers");
    TOKENS("tokenizer.ggml.scores", array_of(SOURCE_TEXT, 320), 999,
           "key tokenizer.ggml.scores: an array of 320 texts, expected an array of 320 numbers");
    TOKENS(NULL, missing(), 319, "key tokenizer.ggml.tokens: 320 tokens, the embedding has 319");
#undef TOKENS
}

/* ---- weights ------------------------------------------------------------ */

static const source_tensor *bad_tensor;
static uint64_t bad_row, bad_col;
static float bad_weight;
static void (*true_row)(const source_file *s, const source_tensor *t, uint64_t row, float *out);
static void spoiled(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    true_row(s, t, row, out);
    if (t == bad_tensor && row == bad_row) out[bad_col] = bad_weight;
}

static void refuse_weight(const char *name, uint64_t row, uint64_t col, float weight, bool factors, llm_result wanted,
                          const char *message, int line) {
    source_file s = open_fixture("llama-untied");
    source_tensor some;
    options o;
    llm_error error;
    llm_result result;
    plan p;
    memset(&o, 0, sizeof o);
    o.type = LLM_Q8, o.quiet = true, o.threads = 2, o.output = in_folder("bad.llm"), o.calibrate = CALIBRATE_NO;
    true_row = s.row, s.row = spoiled;
    bad_tensor = source_find(&s, name), bad_row = row, bad_col = col, bad_weight = weight;
    if (!bad_tensor || plan_open(&p, &s, &error)) exit(2);
    if (factors) { /* as rope_freqs.weight: the beginning of another vector */
        plan_tensor *rope = plan_find(&p, LLM__ROPE, 0);
        some = *bad_tensor, some.shape[0] = rope->file.cols;
        bad_tensor = rope->from[0] = &some;
    }
    result = convert_plan(&o, &s, &p, &error);
    expect(result, &error, wanted, message, line);
    CHECK(access(o.output, F_OK), "line %d: a file is left", line);
    plan_close(&p);
    s.close(&s);
}

static void test_weights(void) {
#define WEIGHT(name, row, col, weight, message) \
    refuse_weight(name, row, col, weight, false, LLM_ERROR_NUMERIC, message, __LINE__)
    WEIGHT("blk.1.ffn_down.weight", 5, 7, INFINITY,
           "tensor blk.1.ffn_down.weight: row 5, column 7 is inf, expected a finite number; "
           "--non-finite bf16 keeps such a matrix in 16 bits");
    WEIGHT("blk.0.ffn_up.weight", 40, 0, -INFINITY,
           "tensor blk.0.ffn_up.weight: row 40, column 0 is -inf, expected a finite number; "
           "--non-finite bf16 keeps such a matrix in 16 bits");
    WEIGHT("output_norm.weight", 0, 63, NAN, "tensor output_norm.weight: row 0, column 63 is nan, expected a finite number; "
           "--non-finite bf16 keeps such a matrix in 16 bits");
    refuse_weight("output_norm.weight", 0, 2, 0, true, LLM_ERROR_FORMAT,
                  "tensor output_norm.weight: element 2 is 0, expected 0.001 .. 1e9", __LINE__);
}

/* A norm's gain that is a number, but too large for its layer to be looked at. */
static void test_activations(void) {
    source_file s = open_fixture("llama-untied");
    options o;
    llm_error error;
    llm_result result;
    plan p;
    memset(&o, 0, sizeof o);
    o.type = o.embedding = LLM_Q4, o.quiet = true, o.threads = 2, o.output = in_folder("bad.llm");
    o.calibrate = CALIBRATE_YES;
    true_row = s.row, s.row = spoiled;
    bad_tensor = source_find(&s, "blk.0.attn_norm.weight"), bad_row = 0, bad_col = 3, bad_weight = 3e38f;
    if (!bad_tensor || plan_open(&p, &s, &error)) exit(2);
    result = convert_plan(&o, &s, &p, &error);
    expect(result, &error, LLM_ERROR_NUMERIC, "layer 0: the activations are not finite; --fast does not look at them",
           __LINE__);
    CHECK(access(o.output, F_OK), "a file is left");
    plan_close(&p);
    s.close(&s);
}

/* A matrix with an infinity is kept in 16 bits, as it is; the others are not. */
static void test_kept(void) {
    source_file s = open_fixture("llama-untied");
    options o;
    llm_error error;
    llm_model_desc desc;
    llm_model *m = NULL;
    const llm__tensor *t;
    plan p;
    memset(&o, 0, sizeof o);
    memset(&desc, 0, sizeof desc);
    o.type = LLM_Q8, o.quiet = true, o.threads = 2, o.output = in_folder("kept.llm"), o.calibrate = CALIBRATE_NO;
    true_row = s.row, s.row = spoiled;
    bad_tensor = source_find(&s, "blk.1.ffn_down.weight"), bad_row = 5, bad_col = 7, bad_weight = -INFINITY;
    if (!bad_tensor || plan_open(&p, &s, &error)) exit(2);
    CHECK(choose_odd(&s, &p), "no matrix is odd");
    desc.path = o.output, desc.error = &error;
    if (convert_plan(&o, &s, &p, &error) || llm_model_open(&m, &desc)) {
        CHECK(false, "%s", error.text);
    } else {
        t = llm__tensor_at(m, 1, LLM__DOWN);
        CHECK(t->type == LLM_BF16 && llm__tensor_at(m, 0, LLM__DOWN)->type == LLM_Q8, "type %u", t->type);
        CHECK(llm__u16(t->data + (7 * 16 + 5) * 2) == 0xff80, "it became %04x", llm__u16(t->data + (7 * 16 + 5) * 2));
    }
    llm_model_close(m);
    (void)unlink(o.output);
    plan_close(&p);
    s.close(&s);
}

/* An importance matrix of another model. */
static void test_importance(void) {
    source_file s = open_fixture("llama-untied");
    const double sums[3] = {1.0, 2.0, 3.0};
    const char *const path = in_folder("other.gguf");
    char message[400];
    imatrix_entry entry;
    llm_error error;
    plan p;
    entry.name = "blk.0.another.weight", entry.sums = sums, entry.cols = 3, entry.count = 5;
    if (imatrix_write(path, &entry, 1, "text", 1, 512, &error) || plan_open(&p, &s, &error)) exit(2);
    (void)snprintf(message, sizeof message, "importance matrix %s: none of this model's matrices is in it", path);
    expect(importance_read(path, &p, &error), &error, LLM_ERROR_FORMAT, message, __LINE__);
    (void)unlink(path);
    plan_close(&p);
    s.close(&s);
}

/* ---- memory, disks ------------------------------------------------------ */

static options quiet_options(const char *output) {
    options o;
    memset(&o, 0, sizeof o);
    o.input = FIXTURES "llama-odd.gguf", o.output = output;
    o.type = LLM_Q8, o.quiet = true, o.threads = 1, o.calibrate = CALIBRATE_NO;
    return o;
}

/* Every allocation in turn: a message that says what for, and nothing is left. */
static void test_memory(void) {
    static const char *const formats[] = {
        "no memory for a file of %zu bytes", "no memory for %zu keys and %zu tensors", "no memory for %u layers",
        "no memory for %zu tensors", "no memory for %zu tokens", "tokenizer: no memory for %zu bytes",
        "tokenizer: no memory for %zu x %zu bytes", "tokenizer: no memory for a section of %llu bytes",
        "no memory for tables and %zu bytes of text", "no memory for a slab of %zu units of %zu columns",
        "%s: no memory for a name of %zu bytes", "no memory for %zu units of rows", "no memory for %u frequencies",
        "tensor %s: no memory for %u elements", "no memory for a directory of %zu tensors"};
    const size_t count = sizeof formats / sizeof *formats;
    options o = quiet_options(in_folder("memory.llm"));
    bool seen[sizeof formats / sizeof *formats] = {false};
    llm_result result = LLM_ERROR_MEMORY;
    size_t i, n;
    for (n = 1; result != LLM_OK && n < 1000; n++) {
        llm_error error;
        asked = 0, fail_at = n;
        result = convert(&o, &error);
        fail_at = 0;
        if (result == LLM_OK) break;
        for (i = 0; i < count && !matches(formats[i], error.text); i++) continue;
        CHECK(result == LLM_ERROR_MEMORY && error.code == result && i < count, "allocation %zu: %s \"%s\"", n,
              llm_result_name(result), error.text);
        if (i < count) seen[i] = true;
        CHECK(access(o.output, F_OK), "allocation %zu: a file is left", n);
    }
    CHECK(result == LLM_OK && n > 50, "%zu allocations", n);
    for (i = 0; i < count; i++) CHECK(seen[i], "no allocation failed with \"%s\"", formats[i]);
    CHECK(!unlink(o.output), "no file from enough memory");
}

/* Random weights: whatever allocation fails, nothing is left open. */
static void test_random_memory(void) {
    llm_result result = LLM_ERROR_MEMORY;
    size_t n;
    for (n = 1; result != LLM_OK && n < 1000; n++) {
        source_file s;
        llm_error error;
        asked = 0, fail_at = n;
        result = random_open(&s, random_find("tiny"), &error);
        fail_at = 0;
        if (result == LLM_OK) s.close(&s);
        else expect(result, &error, LLM_ERROR_MEMORY, "no memory for the input's names and settings", __LINE__);
    }
    CHECK(result == LLM_OK && n > 10, "%zu allocations", n);
}

static void test_disk(void) {
    const struct rlimit small = {5000, RLIM_INFINITY}, large = {RLIM_INFINITY, RLIM_INFINITY};
    options o = quiet_options(in_folder("disk.llm"));
    llm_error error;
    llm_result result;
    char message[400];
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &small)) {
        SKIP("file sizes cannot be limited");
    } else {
        result = convert(&o, &error);
        (void)snprintf(message, sizeof message, "%s: cannot be written: %s", o.output, strerror(EFBIG));
        expect(result, &error, LLM_ERROR_IO, message, __LINE__);
        (void)setrlimit(RLIMIT_FSIZE, &large);
    }
    o.output = "/no/such/folder/x.llm";
    (void)snprintf(message, sizeof message, "%s: cannot be created: %s", o.output, strerror(ENOENT));
    result = convert(&o, &error);
    expect(result, &error, LLM_ERROR_IO, message, __LINE__);
    o.output = folder;
    (void)snprintf(message, sizeof message, "%s: not a regular file, so not replaced", o.output);
    result = convert(&o, &error);
    expect(result, &error, LLM_ERROR_IO, message, __LINE__);
    o.input = "/no/such/file.gguf";
    (void)snprintf(message, sizeof message, "%s: no such file or folder", o.input);
    result = convert(&o, &error);
    expect(result, &error, LLM_ERROR_IO, message, __LINE__);
}

/* ---- command lines ------------------------------------------------------ */

static void refuse_line(const char *const *given, int status, const char *message, int line) {
    char *arguments[9], said[600] = "", whole[700];
    int count = 0, got;
    FILE *file;
    for (; given[count]; count++) arguments[count] = (char *)(uintptr_t)given[count];
    arguments[count] = NULL;
    if (!freopen(in_folder("said"), "w+", stderr)) exit(2);
    got = llm_convert_main(count, arguments);
    (void)fflush(stderr);
    file = fopen(in_folder("said"), "r");
    if (file && fread(said, 1, sizeof said - 1, file) == 0) said[0] = 0;
    if (file) (void)fclose(file);
    (void)snprintf(whole, sizeof whole, "llm-convert: %s%s\n", message,
                   status == 2 ? "; llm-convert --help says more" : "");
    CHECK(got == status && !strcmp(said, whole), "line %d: status %d \"%s\",\n    expected %d \"%s\"", line, got, said, status,
          whole);
}
#define LINE(status, message, ...)                                                 \
    do {                                                                           \
        static const char *const given[] = {"llm-convert", __VA_ARGS__, NULL};     \
        refuse_line(given, status, message, __LINE__);                             \
    } while (0)

static void test_lines(void) {
    LINE(2, "no value after --type", "a", "b", "--type");
    LINE(2, "--type is \"q9\", expected auto, q8, q6, q5, q4, q3, q2, bf16 or f32", "a", "b", "--type", "q9");
    LINE(2, "--embedding is \"\", expected auto, q8, q6, q5, q4, q3, q2, bf16 or f32", "a", "b", "--embedding", "");
    LINE(2, "--rotate is \"maybe\", expected auto, yes or no", "--rotate", "maybe");
    LINE(2, "--threads is \"0\", expected 1 .. 256", "--threads", "0");
    LINE(2, "--threads is \"257\", expected 1 .. 256", "--threads", "257");
    LINE(2, "--threads is \"2x\", expected 1 .. 256", "--threads", "2x");
    LINE(2, "--random is \"help\", expected tiny, smollm2-135m, qwen3-0.6b or llama-3.2-1b", "--random", "help");
    LINE(2, "OUTPUT.llm is missing", "--random", "tiny");
    LINE(2, "\"b\" is a name too many", "--random", "tiny", "a", "b");
    LINE(1, "tiny: --tokenizer is t.bin, expected none: only a llama2.c .bin takes one", "a.llm", "--random", "tiny",
         "--tokenizer", "t.bin");
    LINE(2, "--color is not an option", "--color", "yes");
    LINE(2, "\"c?[2J\" is a name too many", "a", "b", "c\033[2J");
    LINE(2, "INPUT is missing", "--quiet");
    LINE(2, "OUTPUT.llm is missing", "a");
    LINE(1, "/no/such/file.gguf: no such file or folder", "/no/such/file.gguf", "b.llm");
    LINE(1, "tests/check.h: the file begins with \"/* T\", a GGUF file with \"GGUF\"", "tests/check.h", "b.llm");
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    test_gguf_header();
    test_gguf_keys();
    test_gguf_tensors();
    test_models();
    test_unknown_tensor();
    test_vocabularies();
    test_weights();
    test_activations();
    test_kept();
    test_importance();
    test_memory();
    test_random_memory();
    test_disk();
    test_lines();
    (void)unlink(in_folder("said"));
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return check_report("test_refusals");
}
