/* GGUF files, as they are. What is accepted goes through all that the converter does with it before
   it writes: the plan, the vocabulary, rows of every tensor. */
#include "fuzz.h"

#include "../../tools/convert/gguf.h"
#include "../../tools/convert/family.h"
#include "../../tools/convert/vocabulary.h"
#include "fuzz_source.h"

static int fuzz_gguf(const uint8_t *data, size_t size) {
    source_file source;
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    llm_error error;
    llm_result r;
    if (!file) return 0;
    memset(&error, 0, sizeof error);
    gguf_source(&source, file);
    file->map.data = data, file->map.size = size;
    r = gguf_parse(&source, file, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) fuzz_source(&source);
    file->map.data = NULL, file->map.size = 0; /* not a map: nothing to close */
    gguf_close(&source);
    return 0;
}
