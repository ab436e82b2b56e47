/* Importance matrices, as they are; what is accepted is asked for every name that it holds. */
#include "fuzz.h"

#include "../../tools/convert/imatrix.h"

static int fuzz_imatrix(const uint8_t *data, size_t size) {
    static float squares[4096];
    imatrix m;
    map_file map;
    llm_error error;
    llm_result r;
    size_t i;
    memset(&map, 0, sizeof map);
    memset(&error, 0, sizeof error);
    map.data = data, map.size = size;
    r = imatrix_parse(&m, "input", map, &error);
    fuzz_refusal(r, &error);
    if (r != LLM_OK) return 0;
    for (i = 0; i < m.source.tensor_count; i++) {
        const source_tensor *t = &m.source.tensors[i];
        llm_text stem;
        bool found;
        char name[128];
        if (!imatrix_stem(t->name, IMATRIX_SUMS, &stem) || stem.size >= sizeof name) continue;
        memcpy(name, stem.data, stem.size);
        name[stem.size] = 0;
        r = imatrix_find(&m, name, (uint32_t)(t->shape[0] < 4096 ? t->shape[0] : 4096), squares, &found, &error);
        fuzz_refusal(r, &error);
    }
    ((gguf_file *)m.source.self)->map.data = NULL; /* not a map: nothing to close */
    imatrix_close(&m);
    return 0;
}
