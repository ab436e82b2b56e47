/* A .llm file in memory that can be changed, with its checksums made right again. Comes after
   fixture.h. */
#ifndef LLM_TESTS_IMAGE_H
#define LLM_TESTS_IMAGE_H

typedef struct image {
    uint8_t *data;
    size_t size;
} image;

static LLM__UNUSED image copy_of(const image *from) {
    image to;
    void *data = NULL;
    to.size = from->size;
    if (posix_memalign(&data, 64, to.size)) exit(1);
    to.data = (uint8_t *)data;
    memcpy(to.data, from->data, to.size);
    return to;
}

static LLM__UNUSED llm__file_header *header_of(const image *f) { return (llm__file_header *)(void *)f->data; }

/* Entries of the section table; 0 where the header asks for more than can be. */
static LLM__UNUSED uint32_t section_count_of(const image *f) {
    if (f->size < sizeof(llm__file_header) || header_of(f)->section_count > 64) return 0;
    if ((f->size - sizeof(llm__file_header)) / sizeof(llm__file_section) < header_of(f)->section_count) return 0;
    return header_of(f)->section_count;
}

static LLM__UNUSED llm__file_section *find_section(const image *f, uint32_t kind) {
    llm__file_section *s = (llm__file_section *)(void *)(f->data + sizeof(llm__file_header));
    uint32_t i, count = section_count_of(f);
    for (i = 0; i < count; i++)
        if (s[i].kind == kind) return &s[i];
    return NULL;
}

static LLM__UNUSED llm__file_section *section_of(const image *f, uint32_t kind) {
    llm__file_section *s = find_section(f, kind);
    if (s) return s;
    printf("FAIL the fixture has no section %08x\n", (unsigned)kind);
    exit(1);
}

static LLM__UNUSED llm__file_desc *desc_of(const image *f) {
    return (llm__file_desc *)(void *)(f->data + section_of(f, LLM__SECTION_DESC)->offset);
}
static LLM__UNUSED llm__file_layer *layers_of(const image *f) {
    return (llm__file_layer *)(void *)(f->data + section_of(f, LLM__SECTION_LAYR)->offset);
}

static LLM__UNUSED llm__file_tensor *find_tensor(const image *f, uint32_t role, uint32_t layer) {
    llm__file_section *s = section_of(f, LLM__SECTION_TDIR);
    llm__file_tensor *t = (llm__file_tensor *)(void *)(f->data + s->offset);
    size_t i;
    for (i = 0; i < s->size / sizeof *t; i++)
        if (t[i].role == role && t[i].layer == layer) return &t[i];
    return NULL;
}

static LLM__UNUSED llm__file_tensor *tensor_of(const image *f, uint32_t role, uint32_t layer) {
    llm__file_tensor *t = find_tensor(f, role, layer);
    if (t) return t;
    printf("FAIL the fixture has no tensor of role %u\n", (unsigned)role);
    exit(1);
}

/* Makes right the checksums that are looked at when the file is opened. */
static LLM__UNUSED void seal(image *f) {
    static const uint32_t kinds[] = {LLM__SECTION_DESC, LLM__SECTION_LAYR, LLM__SECTION_TDIR};
    size_t i;
    for (i = 0; i < 3; i++) {
        llm__file_section *s = find_section(f, kinds[i]);
        if (s && s->offset <= f->size && s->size <= f->size - s->offset)
            s->checksum = llm__xxh64(f->data + s->offset, (size_t)s->size);
    }
    if (section_count_of(f))
        header_of(f)->checksum = llm__xxh64(f->data + sizeof(llm__file_header),
                                            section_count_of(f) * sizeof(llm__file_section));
}
#endif
