/* Dequantises raw blocks for compare_dequant.py: dequantize_driver TYPE < blocks > floats. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "../../tools/convert/dequantize.h"

int main(int count, char **arguments) {
    uint8_t block[256];
    float out[256];
    size_t i, types = sizeof ggml_types / sizeof *ggml_types;
    const ggml_type *type = NULL;
    if (count == 1) { /* which types there are */
        for (i = 0; i < types; i++) printf("%s\n", ggml_types[i].name);
        return 0;
    }
    for (i = 0; i < types; i++)
        if (strcmp(arguments[1], ggml_types[i].name) == 0) type = ggml_type_find(ggml_types[i].id);
    if (!type) return 2;
    while (fread(block, type->size, 1, stdin) == 1) {
        type->dequantize(block, out);
        if (fwrite(out, 4 * type->block, 1, stdout) != 1) return 1;
    }
    return 0;
}
