/* Adapter files: the input is a list of changes to one of random numbers that fits a small model, whose
   checksums are then repaired (or not). What is accepted is evaluated with; without it the session then
   has the logits of one that never had it. */
#include "fuzz.h"

#include "../adapter.h"

static const char *const adapter_models[] = {"tiny-llama.q4.llm", "tiny-gemma.q8.llm"};
#define ADAPTER_MODELS (sizeof adapter_models / sizeof *adapter_models)
enum { ADAPTER_ROOM = 48 }; /* ranks of a session; the files' is 16 with padding */

static struct adapter_base {
    llm_model *model;
    uint8_t *file[2]; /* of each type */
    size_t size[2];
    float *logits;    /* of adapter_ids without an adapter */
    uint32_t vocab;
} adapter_bases[ADAPTER_MODELS];

static const int32_t adapter_ids[3] = {1, 0, 2};

static llm_session *adapter_session(const struct adapter_base *base, fuzz_memory *memory) {
    llm_session_desc d;
    llm_session *session;
    llm_error error;
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.model = base->model, d.context = 16, d.rows = 4, d.adapter_rank = ADAPTER_ROOM;
    d.error = &error;
    if (memory) d.allocator = fuzz_allocator(memory);
    FUZZ_CHECK(llm_session_create(&session, &d) == LLM_OK, "%s", error.text);
    return session;
}

static void adapter_start(void) {
    size_t i, k;
    for (i = 0; !adapter_bases[ADAPTER_MODELS - 1].model && i < ADAPTER_MODELS; i++) {
        struct adapter_base *base = &adapter_bases[i];
        adapter_spec spec;
        llm_model_desc d;
        llm_model_info info;
        llm_session *session;
        char path[256];
        memset(&spec, 0, sizeof spec);
        memset(&d, 0, sizeof d);
        (void)snprintf(path, sizeof path, FUZZ_TINY "/%s", adapter_models[i]);
        d.path = path;
        FUZZ_CHECK(llm_model_open(&base->model, &d) == LLM_OK, "%s", path);
        llm_model_get_info(base->model, &info);
        base->vocab = info.vocab;
        spec.rank = 5, spec.scale = 0.5f, spec.seed = 7;
        for (k = 0; k < 2; k++) {
            spec.type = k ? LLM_F32 : LLM_BF16;
            base->file[k] = adapter_image(base->model, &spec, &base->size[k]);
        }
        base->logits = (float *)malloc(base->vocab * sizeof *base->logits);
        session = adapter_session(base, NULL);
        FUZZ_CHECK(base->logits && llm_eval(session, adapter_ids, 3) == LLM_OK, "without an adapter");
        memcpy(base->logits, llm_session_logits(session, 0), base->vocab * sizeof *base->logits);
        llm_session_destroy(session);
    }
}

static void adapter_same(const struct adapter_base *base, llm_session *session) {
    const llm_result r = llm_eval(session, adapter_ids, 3);
    FUZZ_CHECK(r == LLM_OK, "%s", llm_session_error(session)->text);
    FUZZ_CHECK(!memcmp(llm_session_logits(session, 0), base->logits, base->vocab * sizeof *base->logits),
               "other logits than without an adapter");
}

/* A few tokens with the adapter, once or twice at the same time, and the same ones without. */
static void adapter_use(const struct adapter_base *base, const llm_adapter *adapter, fuzz_memory *memory,
                        size_t count, const float *weights) {
    const llm_adapter *both[2];
    llm_session *session;
    llm_adapter_info info;
    llm_result r;
    size_t i;
    bool finite = true;
    uint64_t rank = 0;
    llm_adapter_get_info(adapter, &info);
    FUZZ_CHECK(info.rank % 16 == 0 && info.rank <= 1024, "rank %u", (unsigned)info.rank);
    if (info.meta.size) (void)llm__xxh64(info.meta.data, info.meta.size); /* all of it is there */
    for (i = 0; i < count; i++) {
        finite = finite && llm__finite(weights[i]);
        rank += weights[i] != 0.0f ? info.rank : 0;
    }
    both[0] = both[1] = adapter;
    session = adapter_session(base, memory);
    r = llm_session_set_adapters(session, both, weights, count);
    fuzz_refusal(r, llm_session_error(session));
    FUZZ_CHECK((r == LLM_OK) == (finite && rank <= ADAPTER_ROOM), "%s", llm_result_name(r));
    if (r == LLM_OK) {
        r = llm_eval(session, adapter_ids, 3);
        FUZZ_CHECK(r == LLM_OK && llm_session_logits(session, 0), "%s", llm_result_name(r));
        FUZZ_CHECK(llm_session_rewind(session, 0) == LLM_OK &&
                       llm_session_set_adapters(session, NULL, NULL, 0) == LLM_OK,
                   "%s", llm_session_error(session)->text);
    }
    adapter_same(base, session);
    llm_session_destroy(session);
}

/* Where it begins: at the file's start, or at that of LORA, PAIR or DATA. How many bytes, the offset, they. */
static void adapter_change(uint8_t *file, size_t size, fuzz_input *in) {
    static const uint32_t starts[] = {0, 4096, 8192, 12288};
    const uint32_t where = fuzz_below(in, 4), n = fuzz_below(in, 16) + 1;
    const size_t at = starts[where] + fuzz_take(in, 2) % (where ? 4096 : 256);
    uint32_t i;
    for (i = 0; i < n && in->size && at + i < size; i++) file[at + i] = (uint8_t)fuzz_take(in, 1);
}

/* Right checksums and size, as far as sections lie in the file. */
static void adapter_repair(uint8_t *file, size_t size, bool all) {
    llm__file_header *header = (llm__file_header *)(void *)file;
    llm__file_section *s = (llm__file_section *)(void *)(header + 1);
    uint32_t i;
    if (size < sizeof *header || header->section_count > (size - sizeof *header) / sizeof *s) return;
    header->file_size = size;
    for (i = 0; i < header->section_count && i < 64; i++)
        if ((all || s[i].kind != LLM__SECTION_DATA) && s[i].offset <= size && s[i].size <= size - s[i].offset)
            s[i].checksum = llm__xxh64(file + s[i].offset, (size_t)s[i].size);
    header->checksum = llm__xxh64(s, header->section_count * sizeof *s);
}

/* Byte 0: bit 0 repair the checksums that opening looks at, 1 all of them, 2 verify, 3 the file is cut at a
   sixteenth given by the upper bits. Byte 1: bit 0 the model, 1 the type, 2 the adapter twice, 3 its allocation
   fails. Then two weights, and changes. */
static int fuzz_adapter(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const unsigned how = (unsigned)fuzz_take(&in, 1), which = (unsigned)fuzz_take(&in, 1), type = which >> 1 & 1;
    const struct adapter_base *base = &adapter_bases[which & 1];
    float weights[2];
    llm_adapter_desc d;
    llm_adapter *adapter;
    llm_error error;
    llm_result r;
    fuzz_memory memory;
    void *file = NULL;
    adapter_start();
    weights[0] = llm__float((uint32_t)fuzz_take(&in, 4)), weights[1] = llm__float((uint32_t)fuzz_take(&in, 4));
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    memset(&memory, 0, sizeof memory);
    d.size = how >> 3 & 1 ? base->size[type] * (how >> 4) / 16 : base->size[type];
    if (posix_memalign(&file, 64, d.size ? d.size : 1)) return 0; /* ends where the file does */
    memcpy(file, base->file[type], d.size);
    while (in.size) adapter_change((uint8_t *)file, d.size, &in);
    if (how & 3) adapter_repair((uint8_t *)file, d.size, how >> 1 & 1);
    d.model = base->model, d.data = file, d.verify = how >> 2 & 1, d.error = &error;
    d.allocator = fuzz_allocator(&memory), memory.fail_at = which >> 3 & 1;
    r = llm_adapter_open(&adapter, &d);
    fuzz_refusal(r, &error);
    FUZZ_CHECK((r == LLM_OK) == (adapter != NULL), "%s", llm_result_name(r));
    FUZZ_CHECK(!memory.fail_at || r != LLM_OK, "opened without memory");
    if (r == LLM_OK) adapter_use(base, adapter, &memory, 1 + (which >> 2 & 1), weights);
    llm_adapter_close(adapter);
    fuzz_balance(&memory);
    free(file);
    return 0;
}
