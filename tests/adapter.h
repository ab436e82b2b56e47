/* Adapter files of random numbers, made in memory for a model that is open. Comes after llm.h with its
   implementation. */
#ifndef LLM_TESTS_ADAPTER_H
#define LLM_TESTS_ADAPTER_H

typedef struct adapter_spec {
    uint32_t rank, type;
    uint32_t leave_out; /* bit of LLM__LOW_…: these matrices are not changed */
    uint32_t seed;
    float scale;
} adapter_spec;

static uint32_t adapter_any(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

/* Numbers of -1 .. 1 times `size` in `count` panels of `padded` columns; beyond `cols` and `rows` zeros. */
static void adapter_fill(uint8_t *to, uint32_t type, uint32_t rows, uint32_t cols, uint32_t padded, float size,
                         uint32_t *state) {
    uint32_t row, k;
    for (row = 0; row < rows; row++)
        for (k = 0; k < cols; k++) {
            const float x = ((float)(adapter_any(state) >> 8) / 8388608.0f - 1.0f) * size;
            const size_t at = ((size_t)(row / 16) * padded + k) * 16 + row % 16;
            uint32_t bits;
            uint16_t half;
            memcpy(&bits, &x, 4);
            half = (uint16_t)(bits >> 16);
            if (type == LLM_F32) memcpy(to + 4 * at, &x, 4);
            else memcpy(to + 2 * at, &half, 2);
        }
}

static uint32_t adapter_pairs(const llm_model *m, const adapter_spec *spec, llm__file_pair *pairs) {
    static const uint32_t roles[LLM__LOW_COUNT] = {LLM__Q,       LLM__K,       LLM__V,   LLM__ATTN_OUT,
                                                   LLM__GATE_UP, LLM__GATE_UP, LLM__DOWN};
    uint32_t layer, i, count = 0;
    for (layer = 0; layer < m->desc->layers; layer++)
        for (i = 0; i < LLM__LOW_COUNT; i++) {
            llm__file_pair *t = &pairs[count];
            if (spec->leave_out >> i & 1) continue;
            memset(t, 0, sizeof *t);
            t->role = roles[i], t->layer = layer, t->half = i == LLM__LOW_UP;
            t->type = spec->type, t->rank = spec->rank, t->scale = spec->scale;
            llm__role_shape(m->desc, t->role, &t->rows, &t->cols);
            if (t->role == LLM__GATE_UP) t->rows = m->desc->ffn;
            t->row_rotation = llm__tensor_at(m, layer, t->role)->row_rotation;
            count++;
        }
    return count;
}

/* The checksums that are looked at when the file is opened; `all`: those of the data too. */
static LLM__UNUSED void adapter_seal(uint8_t *file, bool all) {
    llm__file_header *header = (llm__file_header *)(void *)file;
    llm__file_section *s = (llm__file_section *)(void *)(header + 1);
    uint32_t i;
    for (i = 0; i < 3; i++)
        if (i < 2 || all) s[i].checksum = llm__xxh64(file + s[i].offset, (size_t)s[i].size);
    header->checksum = llm__xxh64(s, header->section_count * sizeof *s);
}

/* The file, 64-byte aligned, in a block of its own size; from malloc. */
static LLM__UNUSED uint8_t *adapter_image(const llm_model *m, const adapter_spec *spec, size_t *size) {
    static llm__file_pair pairs[1024 * LLM__LOW_COUNT];
    const uint32_t count = adapter_pairs(m, spec, pairs);
    const size_t data = 8192 + (count * sizeof *pairs + 4095) / 4096 * 4096;
    llm__file_header header;
    llm__file_section s[3];
    llm__file_lora lora;
    uint32_t i, state = spec->seed;
    uint64_t both;
    void *memory = NULL;
    uint8_t *file;
    *size = data;
    for (i = 0; i < count; i++) {
        (void)llm__low_size(&pairs[i], &both);
        pairs[i].offset = *size, pairs[i].size = both;
        *size += (size_t)both;
    }
    if (posix_memalign(&memory, 64, *size)) exit(1);
    file = (uint8_t *)memory;
    memset(file, 0, *size);
    for (i = 0; i < count; i++) {
        llm__file_pair *t = &pairs[i];
        const size_t b = (size_t)llm__low_size(t, &both);
        uint8_t *at = file + t->offset;
        adapter_fill(at, t->type, t->rank, t->cols, llm__padded(t->cols), 0.3f, &state);
        adapter_fill(at + b, t->type, t->rows, t->rank, (t->rank + 15) / 16 * 16, 0.3f, &state);
        t->checksum = llm__xxh64(at, (size_t)t->size);
    }
    memset(&header, 0, sizeof header), memset(s, 0, sizeof s), memset(&lora, 0, sizeof lora);
    memcpy(header.magic, LLM__MAGIC, 8);
    header.version = LLM__VERSION, header.section_count = 3, header.file_size = *size;
    s[0].kind = LLM__SECTION_LORA, s[0].offset = 4096, s[0].size = sizeof lora;
    s[1].kind = LLM__SECTION_PAIR, s[1].offset = 8192, s[1].size = count * sizeof *pairs;
    s[2].kind = LLM__SECTION_DATA, s[2].offset = data, s[2].size = *size - data;
    lora.layers = m->desc->layers, lora.width = m->desc->width;
    memcpy(lora.family, m->desc->family, sizeof lora.family);
    memcpy(file, &header, sizeof header);
    memcpy(file + sizeof header, s, sizeof s);
    memcpy(file + 4096, &lora, sizeof lora);
    memcpy(file + 8192, pairs, count * sizeof *pairs);
    adapter_seal(file, true);
    return file;
}
#endif
