/* Text to tokens and back, with vocabularies of both kinds. */
#include "fuzz.h"

static const char *const text_names[] = {"llama-tied.q4.llm", "gemma-pattern.q8.llm", "llama-odd.q8.llm"};
#define TEXT_MODELS (sizeof text_names / sizeof *text_names)
static llm_model *text_models[TEXT_MODELS];

static void text_start(void) {
    size_t i;
    for (i = 0; !text_models[TEXT_MODELS - 1] && i < TEXT_MODELS; i++) {
        char path[256];
        llm_model_desc d;
        memset(&d, 0, sizeof d);
        (void)snprintf(path, sizeof path, FUZZ_FILES "/%s", text_names[i]);
        d.path = path;
        FUZZ_CHECK(!llm_model_open(&text_models[i], &d), "%s", path);
    }
}

/* Ids to bytes, all at once and with what a short buffer would give. */
static size_t text_decode(const llm_tokenizer *t, const int32_t *ids, size_t count, char *out, size_t room) {
    llm_detokenize_desc d;
    size_t size = 0, needed = 0;
    memset(&d, 0, sizeof d);
    d.ids = ids, d.count = count, d.special = true;
    FUZZ_CHECK(llm_detokenize(t, &d, out, room, &size) == LLM_OK && size <= room, "%zu", size);
    FUZZ_CHECK(llm_detokenize(t, &d, NULL, 0, &needed) == LLM_OK && needed == size, "%zu", needed);
    return size;
}

static void check_ids(const llm_tokenizer *t, const int32_t *ids, size_t count, bool special,
                      const llm_tokenizer_info *info) {
    size_t i;
    for (i = 0; i < count; i++) {
        llm_token_kind kind = llm_token_kind_of(t, ids[i]);
        FUZZ_CHECK(ids[i] >= 0 && (uint32_t)ids[i] < info->vocab_size, "id %d", (int)ids[i]);
        FUZZ_CHECK(special || kind != LLM_TOKEN_CONTROL, "control token %d from plain text", (int)ids[i]);
    }
}

static int fuzz_text(const uint8_t *data, size_t size) {
    static int32_t ids[40000];
    static char out[200000];
    fuzz_input in = {data, size};
    unsigned how = (unsigned)fuzz_take(&in, 1);
    const llm_tokenizer *t;
    llm_tokenizer_info info;
    llm_tokenize_desc d;
    llm_error error;
    llm_result r;
    fuzz_memory memory;
    size_t count = 0, needed = 0, back, skip;
    if (in.size > 8192) return 0;
    text_start();
    t = llm_model_tokenizer(text_models[how % TEXT_MODELS]);
    llm_tokenizer_describe(t, &info);
    memset(&memory, 0, sizeof memory);
    memset(&error, 0, sizeof error);
    memset(&d, 0, sizeof d);
    d.text = (const char *)in.data, d.size = in.size, d.special = how >> 4 & 1;
    d.bos = how >> 5 & 1 ? 0 : -1, d.eos = how >> 6 & 1 ? 0 : -1;
    memory.fail_at = how >> 7;
    d.allocator = fuzz_allocator(&memory), d.error = &error;
    r = llm_tokenize(t, &d, ids, sizeof ids / sizeof *ids, &count);
    fuzz_refusal(r, &error);
    fuzz_balance(&memory);
    if (memory.fail_at && memory.requests) {
        FUZZ_CHECK(r == LLM_ERROR_MEMORY, "%s", llm_result_name(r));
        return 0;
    }
    FUZZ_CHECK(r == LLM_OK && count <= sizeof ids / sizeof *ids, "%s", error.text);
    FUZZ_CHECK(llm_tokenize(t, &d, NULL, 0, &needed) == LLM_OK && needed == count, "%zu and %zu ids",
               needed, count);
    if (d.bos || !info.add_bos) check_ids(t, ids, count, d.special || !d.eos, &info);
    if (d.bos || d.eos || d.special) return 0;
    for (back = 0; back + 3 <= in.size; back++) /* stands for a space in SentencePiece */
        if (!memcmp(in.data + back, "\xe2\x96\x81", 3)) return 0;
    skip = count && info.add_bos && ids[0] == info.bos;
    back = text_decode(t, ids + skip, count - skip - (info.add_eos ? 1 : 0), out, sizeof out);
    if (back == in.size + 1 && out[0] == ' ') /* SentencePiece's space before a text */
        FUZZ_CHECK(!memcmp(out + 1, in.data, in.size), "the text has changed");
    else
        FUZZ_CHECK(back == in.size && !memcmp(out, in.data, in.size), "%zu bytes came back of %zu", back,
                   in.size);
    return 0;
}
