/* Low-rank adapters as the converter reads them, for a small model. Byte 0: bit 0 a PEFT folder, that
   is adapter_config.json after its size in two bytes, two bytes with the size of the data, and the
   header of adapter_model.safetensors, which gets its size before it and the data behind it; else a
   GGUF file as it is. What is accepted is read, and added to rows of every matrix. */
#include "fuzz.h"

#include "../../tools/convert/adapter.h"

static source_file lora_model;
static plan lora_plan;
static adapter_shape lora_shape;

static void lora_start(void) {
    llm_error error;
    size_t i;
    if (lora_shape.desc) return;
    memset(&error, 0, sizeof error);
    FUZZ_CHECK(gguf_open(&lora_model, FUZZ_TINY "/tiny-llama.gguf", &error) == LLM_OK, "%s", error.text);
    FUZZ_CHECK(plan_open(&lora_plan, &lora_model, &error) == LLM_OK, "%s", error.text);
    for (i = 0; i < lora_plan.count; i++)
        if (lora_plan.tensors[i].file.role == LLM__ROPE) lora_shape.turned = 2 * lora_plan.tensors[i].file.cols;
    lora_shape.desc = &lora_plan.desc;
}

/* A matrix is changed once, its pair has its shape, and what is added are numbers. */
static void lora_pairs(const adapter *a) {
    size_t i;
    for (i = 0; i < a->count; i++) {
        const llm__file_pair *t = &a->pairs[i].file;
        uint32_t rows, cols;
        family_shape(a->shape.desc, t->role, &rows, &cols);
        FUZZ_CHECK(t->rows == rows && t->cols == cols && t->layer < a->shape.desc->layers, "pair %zu", i);
        FUZZ_CHECK(t->rank >= 1 && t->rank <= 1024 && quantize_finite(t->scale), "pair %zu", i);
        FUZZ_CHECK(!i || adapter_order(&a->pairs[i - 1], &a->pairs[i]) < 0, "a matrix has two pairs");
    }
}

static void lora_merge(const adapter *a) {
    static float row[4096];
    merge_list list;
    llm_error error;
    llm_result r;
    size_t i;
    memset(&list, 0, sizeof list);
    memset(&error, 0, sizeof error);
    r = merge_take(&list, a, 0.5f, &error);
    fuzz_refusal(r, &error);
    for (i = 0; r == LLM_OK && i < lora_plan.count; i++) {
        const plan_tensor *t = &lora_plan.tensors[i];
        if (!family_is_matrix(t->file.role)) continue;
        FUZZ_CHECK(t->file.cols <= 4096, "the small model is large");
        memset(row, 0, sizeof row);
        merge_row(&list, t, 0, row);
        merge_row(&list, t, t->file.rows - 1, row);
    }
    merge_close(&list);
}

static void lora_use(const source_file *from) {
    adapter a;
    llm_error error;
    llm_result r;
    memset(&error, 0, sizeof error);
    (void)adapter_is(from);
    r = adapter_take(&a, from, &lora_shape, &error);
    fuzz_refusal(r, &error);
    if (r != LLM_OK) return;
    lora_pairs(&a);
    lora_merge(&a);
    adapter_close(&a);
}

static void lora_folder(fuzz_input *in) {
    hf_part parts[2];
    source_file from;
    llm_error error;
    llm_result r;
    uint8_t *file;
    const llm_text config = fuzz_bytes(in, 65535);
    size_t i, room = fuzz_below(in, 65536);
    memset(&error, 0, sizeof error);
    parts[0].name = "adapter_config.json";
    parts[0].data = (const uint8_t *)config.data, parts[0].size = config.size;
    parts[1].name = "adapter_model.safetensors";
    parts[1].size = 8 + in->size + room;
    parts[1].data = file = (uint8_t *)malloc(parts[1].size);
    FUZZ_CHECK(file, "no memory");
    for (i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)in->size >> (8 * i));
    if (in->size) memcpy(file + 8, in->data, in->size);
    for (i = 0; i < room; i++) file[8 + in->size + i] = (uint8_t)(i * 37 & 63); /* small numbers, for the most part */
    r = peft_open_memory(&from, parts, 2, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) lora_use(&from);
    free(file);
}

/* What is in memory is not a map. */
static void lora_close(source_file *s) {
    ((gguf_file *)s->self)->map.data = NULL;
    gguf_close(s);
}

static void lora_file(const uint8_t *data, size_t size) {
    source_file from;
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    llm_error error;
    llm_result r;
    if (!file) return;
    memset(&error, 0, sizeof error);
    gguf_source(&from, file);
    file->map.data = data, file->map.size = size;
    r = gguf_parse(&from, file, &error);
    fuzz_refusal(r, &error);
    from.close = lora_close;
    if (r == LLM_OK) lora_use(&from);
    else lora_close(&from);
}

static int fuzz_lora(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const bool folder = fuzz_take(&in, 1) & 1;
    lora_start();
    if (folder) lora_folder(&in);
    else lora_file(in.data, in.size);
    return 0;
}
