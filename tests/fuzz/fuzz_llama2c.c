/* llama2.c's two files: byte 0, bit 0: the model gets the size that its header asks for, by repeating
   itself; two bytes with the size of tokenizer.bin (none: no tokenizer), that file, and the model. */
#include "fuzz.h"

#include "../../tools/convert/llama2c.h"
#include "../../tools/convert/family.h"
#include "../../tools/convert/vocabulary.h"
#include "fuzz_source.h"

/* 0: the header asks for nothing that could be made. */
static size_t llama2c_right_size(const uint8_t *data, size_t size) {
    source_file s;
    llama2c_file f;
    llm_error error;
    uint64_t floats = 0;
    int i;
    memset(&s, 0, sizeof s);
    memset(&f, 0, sizeof f);
    f.map.data = data, f.map.size = size;
    if (llama2c_header(&s, &f, &error)) return 0;
    for (i = 0; i < LLAMA2C_PARTS; i++) floats += llama2c_floats(&s, &f, &llama2c_parts[s.version][i]);
    return floats < 1 << 15 ? f.at + (size_t)floats * 4 : 0;
}

static int fuzz_llama2c(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const bool right = fuzz_take(&in, 1) & 1;
    const size_t words_size = fuzz_below(&in, 65536);
    const uint8_t *words = in.data;
    source_file source;
    llm_error error;
    llm_result r;
    uint8_t *model;
    size_t i, length;
    if (words_size > in.size) return 0;
    in.data += words_size, in.size -= words_size;
    length = right ? llama2c_right_size(in.data, in.size) : 0;
    if (!length) length = in.size;
    model = (uint8_t *)malloc(length ? length : 1);
    FUZZ_CHECK(model, "no memory");
    for (i = 0; i < length; i += in.size) /* again and again */
        memcpy(model + i, in.data, length - i < in.size ? length - i : in.size);
    memset(&error, 0, sizeof error);
    r = llama2c_open_memory(&source, model, length, words_size ? words : NULL, words_size, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) {
        fuzz_source(&source);
        source.close(&source);
    }
    free(model);
    return 0;
}
