/* Importance matrices, as they are. What is accepted is asked for every name that it holds and for every
   matrix of a small model's plan; one that it knows is quantised with what it says. */
#include "fuzz.h"

#include "../../tools/convert/imatrix.h"
#include "../../tools/convert/family.h"
#include "../../tools/convert/quantize.h"

static source_file imatrix_model;
static plan imatrix_plan;
static quantizer *imatrix_tables;

static void imatrix_start(void) {
    llm_error error;
    if (imatrix_tables) return;
    memset(&error, 0, sizeof error);
    FUZZ_CHECK(gguf_open(&imatrix_model, FUZZ_TINY "/tiny-llama.gguf", &error) == LLM_OK, "%s", error.text);
    FUZZ_CHECK(plan_open(&imatrix_plan, &imatrix_model, &error) == LLM_OK, "%s", error.text);
    imatrix_tables = quantize_create();
    FUZZ_CHECK(imatrix_tables, "no memory");
}

/* Every scale is finite, whatever the weights of errors are, and so is the error. */
static void imatrix_quantise(const plan_tensor *t, uint32_t type, const float *squares) {
    static float rows[16 * 4096];
    static uint8_t panel[16 * 4096 * 4];
    const uint32_t padded = llm__padded(t->file.cols);
    quantize_sums sums;
    uint32_t i, k;
    FUZZ_CHECK(padded <= 4096, "the small model is large");
    memset(rows, 0, sizeof *rows * 16 * padded);
    memset(&sums, 0, sizeof sums);
    for (i = 0; i < 16 && i < t->file.rows; i++)
        imatrix_model.row(&imatrix_model, t->from[0], i, rows + (size_t)i * padded);
    quantize_panel(imatrix_tables, type, rows, padded, squares, panel, &sums);
    FUZZ_CHECK(isfinite(sums.error) && sums.norm > 0.0, "an error of %g of %g", sums.error, sums.norm);
    for (i = 0; i < padded / llm__super_block(padded); i++)
        for (k = 0; k < 16; k++)
            FUZZ_CHECK(quantize_finite(quantize_from_bf16((uint16_t)(panel[32 * i + 2 * k] | panel[32 * i + 2 * k + 1] << 8))),
                       "a scale is not finite");
}

/* What is found are numbers that can be counted with. */
static bool imatrix_ask(const imatrix *m, const char *name, uint32_t cols, float *squares) {
    llm_error error;
    bool found;
    uint32_t i;
    llm_result r;
    memset(&error, 0, sizeof error);
    r = imatrix_find(m, name, cols, squares, &found, &error);
    fuzz_refusal(r, &error);
    FUZZ_CHECK(r == LLM_OK || !found, "found and refused");
    for (i = 0; found && i < cols; i++)
        FUZZ_CHECK(squares[i] >= 0.0f && quantize_finite(squares[i]), "%s: input %u is %g", name, (unsigned)i,
                   (double)squares[i]);
    return found;
}

static void imatrix_ask_all(const imatrix *m) {
    static float squares[4096];
    size_t i;
    for (i = 0; i < m->source.tensor_count; i++) {
        const source_tensor *t = &m->source.tensors[i];
        llm_text stem;
        char name[128];
        if (!imatrix_stem(t->name, IMATRIX_SUMS, &stem) || stem.size >= sizeof name) continue;
        memcpy(name, stem.data, stem.size);
        name[stem.size] = 0;
        (void)imatrix_ask(m, name, (uint32_t)(t->shape[0] < 4096 ? t->shape[0] : 4096), squares);
    }
}

static void imatrix_ask_plan(const imatrix *m, uint32_t type) {
    size_t i;
    bool known = false;
    for (i = 0; i < imatrix_plan.count; i++) {
        static float squares[4096];
        const plan_tensor *t = &imatrix_plan.tensors[i];
        if (!family_is_matrix(t->file.role)) continue;
        memset(squares, 0, sizeof squares);
        if (!imatrix_ask(m, show(t->from[0]->name).text, t->file.cols, squares) || known) continue;
        imatrix_scale(squares, t->file.cols);
        imatrix_quantise(t, type, squares);
        known = true; /* one says enough, the others take long */
    }
}

static int fuzz_imatrix(const uint8_t *data, size_t size) {
    imatrix m;
    map_file map;
    llm_error error;
    llm_result r;
    imatrix_start();
    memset(&map, 0, sizeof map);
    memset(&error, 0, sizeof error);
    map.data = data, map.size = size;
    r = imatrix_parse(&m, "input", map, &error);
    fuzz_refusal(r, &error);
    if (r != LLM_OK) return 0;
    imatrix_ask_all(&m);
    imatrix_ask_plan(&m, LLM_Q8 + (uint32_t)(m.chunks % (LLM_TYPE_COUNT - LLM_Q8)));
    ((gguf_file *)m.source.self)->map.data = NULL; /* not a map: nothing to close */
    imatrix_close(&m);
    return 0;
}
