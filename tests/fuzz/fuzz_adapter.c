/* Adapter files: the input is a list of changes to one of random numbers that fits a small model, whose
   checksums are then repaired (or not). What is accepted changes a session's logits. */
#include "fuzz.h"

#include "../adapter.h"

static struct {
    uint8_t *file, *model_file;
    size_t size;
    llm_model *model;
} adapter_base;

static void adapter_start(void) {
    adapter_spec spec;
    llm_model_desc d;
    if (adapter_base.model) return;
    memset(&spec, 0, sizeof spec);
    memset(&d, 0, sizeof d);
    adapter_base.model_file = fuzz_file(FUZZ_TINY "/tiny-llama.q4.llm", &d.size);
    d.data = adapter_base.model_file;
    FUZZ_CHECK(llm_model_open(&adapter_base.model, &d) == LLM_OK, "the small model");
    spec.rank = 5, spec.type = LLM_BF16, spec.scale = 0.5f, spec.seed = 7;
    adapter_base.file = adapter_image(adapter_base.model, &spec, &adapter_base.size);
}

/* A few tokens with the adapter, as far as it finds room. */
static void adapter_use(const llm_adapter *adapter, fuzz_memory *memory, float weight) {
    static const int32_t ids[3] = {1, 0, 2};
    llm_session_desc d;
    llm_session *session;
    llm_adapter_info info;
    llm_error error;
    llm_result r;
    llm_adapter_get_info(adapter, &info);
    if (info.meta.size) (void)llm__xxh64(info.meta.data, info.meta.size);
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.model = adapter_base.model, d.context = 64, d.rows = 4, d.adapter_rank = 64;
    d.allocator = fuzz_allocator(memory), d.error = &error;
    r = llm_session_create(&session, &d);
    FUZZ_CHECK(r == LLM_OK, "%s", error.text);
    r = llm_session_set_adapters(session, &adapter, &weight, 1);
    fuzz_refusal(r, llm_session_error(session));
    FUZZ_CHECK(r == LLM_OK || info.rank > 64 || !llm__finite(weight), "%s", llm_session_error(session)->text);
    r = llm_eval(session, ids, 3);
    FUZZ_CHECK(r == LLM_OK && llm_session_logits(session, 0), "%s", llm_result_name(r));
    llm_session_destroy(session);
}

/* Offsets count from the file's start, or from that of LORA, PAIR or DATA. */
static void adapter_change(uint8_t *file, fuzz_input *in) {
    static const uint32_t starts[] = {0, 4096, 8192};
    const uint32_t where = fuzz_below(in, 4), n = fuzz_below(in, 16) + 1;
    const uint32_t start = where < 3 ? starts[where] : (uint32_t)adapter_base.size / 2;
    const size_t at = start + fuzz_take(in, 2) % (where == 0 ? 256 : 4096);
    uint32_t i;
    for (i = 0; i < n && in->size && at + i < adapter_base.size; i++) file[at + i] = (uint8_t)fuzz_take(in, 1);
}

/* Right checksums, as far as sections lie in the file. */
static void adapter_repair(uint8_t *file, bool all) {
    llm__file_header *header = (llm__file_header *)(void *)file;
    llm__file_section *s = (llm__file_section *)(void *)(header + 1);
    uint32_t i;
    if (header->section_count > 8) return;
    for (i = 0; i < header->section_count; i++)
        if ((all || s[i].kind != LLM__SECTION_DATA) && s[i].offset <= adapter_base.size &&
            s[i].size <= adapter_base.size - s[i].offset)
            s[i].checksum = llm__xxh64(file + s[i].offset, (size_t)s[i].size);
    header->checksum = llm__xxh64(s, header->section_count * sizeof *s);
}

/* Byte 0: bit 0 repair the checksums that opening looks at, 1 all of them, 2 verify, 3 the file is cut at an
   eighth given by the upper bits. Then the weight, and changes. */
static int fuzz_adapter(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const unsigned how = (unsigned)fuzz_take(&in, 1);
    const float weight = llm__float((uint32_t)fuzz_take(&in, 4));
    llm_adapter_desc d;
    llm_adapter *adapter;
    llm_error error;
    llm_result r;
    fuzz_memory memory;
    void *file = NULL;
    adapter_start();
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    memset(&memory, 0, sizeof memory);
    d.size = how >> 3 & 1 ? adapter_base.size * (how >> 4) / 16 : adapter_base.size;
    if (posix_memalign(&file, 64, adapter_base.size)) return 0;
    memcpy(file, adapter_base.file, adapter_base.size);
    while (in.size) adapter_change((uint8_t *)file, &in);
    if (how & 3) adapter_repair((uint8_t *)file, how >> 1 & 1);
    d.model = adapter_base.model, d.data = file, d.verify = how >> 2 & 1, d.error = &error;
    d.allocator = fuzz_allocator(&memory);
    r = llm_adapter_open(&adapter, &d);
    fuzz_refusal(r, &error);
    FUZZ_CHECK((r == LLM_OK) == (adapter != NULL), "%s", llm_result_name(r));
    if (r == LLM_OK) adapter_use(adapter, &memory, weight);
    llm_adapter_close(adapter);
    fuzz_balance(&memory);
    free(file);
    return 0;
}
