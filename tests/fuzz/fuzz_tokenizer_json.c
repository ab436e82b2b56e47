/* tokenizer.json, after tokenizer_config.json, which stands after its size in two bytes. What is
   accepted is built, opened by the library and used. */
#include "fuzz.h"

#include "../../tools/convert/tokenizer_json.h"

static void use_vocabulary(const unsigned char *section, size_t size) {
    static const char text[] = "hello a1 \xe2\x96\x81\xc3\xa9 <|end|>\n\xff";
    llm_tokenizer t;
    llm_tokenize_desc d;
    llm_detokenize_desc back;
    llm_tokenizer_info info;
    llm_error error;
    int32_t ids[128];
    char out[4096];
    size_t count, i, length;
    llm_result r;
    void *aligned = NULL;
    FUZZ_CHECK(!posix_memalign(&aligned, 64, size), "no memory");
    memcpy(aligned, section, size);
    memset(&error, 0, sizeof error);
    r = llm__tokenizer_init(&t, aligned, size, 0, &error);
    FUZZ_CHECK(r == LLM_OK, "the section that was built is refused: %s", error.text);
    llm_tokenizer_describe(&t, &info);
    memset(&d, 0, sizeof d);
    d.text = text, d.size = sizeof text - 1, d.bos = d.eos = -1, d.error = &error;
    r = llm_tokenize(&t, &d, ids, 128, &count);
    FUZZ_CHECK(r == LLM_OK, "%s", error.text);
    for (i = 0; i < count; i++)
        FUZZ_CHECK(llm_token_kind_of(&t, ids[i]) != LLM_TOKEN_CONTROL || ids[i] == info.unknown,
                   "control token %d from plain text", (int)ids[i]);
    memset(&back, 0, sizeof back);
    back.ids = ids, back.count = count;
    r = llm_detokenize(&t, &back, out, sizeof out, &length);
    FUZZ_CHECK(r == LLM_OK || r == LLM_ERROR_LIMIT, "%s", llm_result_name(r));
    free(aligned);
}

static int fuzz_tokenizer_json(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    llm_text config = fuzz_bytes(&in, 65535), text;
    tokenizer_json t;
    unsigned char *section = NULL;
    size_t length = 0;
    llm_error error;
    llm_result r;
    memset(&error, 0, sizeof error);
    text.data = (const char *)in.data, text.size = in.size;
    r = tokenizer_json_parse(&t, text, config, &error);
    fuzz_refusal(r, &error);
    if (r) return 0;
    r = tokenizer_build(&t.source, &section, &length, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) use_vocabulary(section, length);
    free(section);
    tokenizer_json_free(&t);
    return 0;
}
