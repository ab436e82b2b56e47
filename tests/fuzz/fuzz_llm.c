/* .llm files: the input is a list of changes to a small model, whose checksums are then repaired (or
   not). What is accepted is used: described, tokenized with, rendered, evaluated. */
#include "fuzz.h"

static const char *const file_names[] = {"tiny-llama.q4.llm", "tiny-gemma.q8.llm", "tiny-qwen.f32.llm"};
#define FILES (sizeof file_names / sizeof *file_names)
static uint8_t *base[FILES], *work[FILES];
static size_t base_size[FILES];

static void file_start(void) {
    size_t i;
    char path[256];
    if (base[0]) return;
    for (i = 0; i < FILES; i++) {
        (void)snprintf(path, sizeof path, FUZZ_TINY "/%s", file_names[i]);
        base[i] = fuzz_file(path, &base_size[i]);
        work[i] = fuzz_file(path, &base_size[i]);
    }
}

/* The checksum of a section, taken from the base's table where bytes low .. high - 1, all that
   changed, are not in it. */
static uint64_t sum_of(const uint8_t *file, const llm__file_section *s, unsigned which, size_t low,
                       size_t high) {
    const uint32_t count = llm__u32(base[which] + offsetof(llm__file_header, section_count));
    llm__file_section was;
    uint32_t i;
    for (i = 0; i < count && (high <= s->offset || low >= s->offset + s->size); i++) {
        memcpy(&was, base[which] + sizeof(llm__file_header) + i * sizeof was, sizeof was);
        if (was.offset == s->offset && was.size == s->size) return was.checksum;
    }
    return llm__xxh64(file + s->offset, (size_t)s->size);
}

/* Right checksums for what the table says, as far as it lies in the file; of DATA, which is most of it, if `data`. */
static void repair(uint8_t *file, size_t size, unsigned which, size_t low, size_t high, bool data) {
    llm__file_header header;
    llm__file_section section;
    uint32_t i, count;
    if (size < sizeof header) return;
    memcpy(&header, file, sizeof header);
    count = header.section_count;
    if (count > 64 || count * sizeof section > size - sizeof header) return;
    for (i = 0; i < count; i++) {
        uint8_t *at = file + sizeof header + i * sizeof section;
        memcpy(&section, at, sizeof section);
        if ((section.kind == LLM__SECTION_DATA && !data) || section.offset > size || section.size > size - section.offset)
            continue;
        section.checksum = sum_of(file, &section, which, low, high);
        memcpy(at, &section, sizeof section);
    }
    header.file_size = size;
    header.checksum = llm__xxh64(file + sizeof header, count * sizeof section);
    memcpy(file, &header, sizeof header);
}

static void use_text(const llm_model *model, fuzz_memory *memory) {
    static const char text[] = "The <s> quick\xc3\xa9 1234 <|im_end|> brown\xff fox's\n\n  jump";
    const llm_tokenizer *t = llm_model_tokenizer(model);
    llm_tokenize_desc d;
    llm_detokenize_desc u;
    llm_tokenizer_info info;
    llm_error error;
    int32_t ids[64];
    char out[256];
    size_t count, size;
    llm_text meta = llm_model_meta(model);
    if (meta.size) (void)llm__xxh64(meta.data, meta.size);
    if (!t) return;
    llm_tokenizer_describe(t, &info);
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.text = text, d.size = sizeof text - 1, d.special = true;
    d.allocator = fuzz_allocator(memory), d.error = &error;
    fuzz_refusal(llm_tokenize(t, &d, ids, 64, &count), &error);
    if (count > 64) count = 64;
    memset(&u, 0, sizeof u);
    u.ids = ids, u.count = count;
    (void)llm_detokenize(t, &u, out, sizeof out, &size);
    (void)llm_token_find(t, llm_string("the"));
}

/* A template that was accepted with the file, rendered within tight bounds. */
static void use_template(const llm_model *model, fuzz_memory *memory) {
    static char out[4096];
    llm_template_desc d;
    llm_message message;
    llm_error error;
    size_t size;
    memset(&d, 0, sizeof d);
    memset(&message, 0, sizeof message);
    memset(&error, 0, sizeof error);
    message.role = llm_string("user"), message.content = llm_string("Hello");
    d.text = llm_model_template(model);
    d.messages = &message, d.n_messages = 1, d.add_generation_prompt = true;
    d.bos_token = llm_string("<s>"), d.eos_token = llm_string("</s>");
    d.max_steps = 5000, d.max_output = sizeof out, d.max_memory = 1 << 20;
    d.allocator = fuzz_allocator(memory), d.error = &error;
    if (d.text.size) fuzz_refusal(llm_template_render(&d, out, sizeof out, &size), &error);
}

/* The file as llm_read hands it out. */
typedef struct file_bytes {
    const uint8_t *data;
    size_t size;
} file_bytes;
static bool read_bytes(void *user, uint64_t offset, void *to, size_t size) {
    const file_bytes *f = (const file_bytes *)user;
    FUZZ_CHECK(offset <= f->size && size <= f->size - offset, "a read past the end");
    memcpy(to, f->data + offset, size);
    return true;
}

static void use_session(const llm_model *model, fuzz_memory *memory) {
    static const int32_t ids[3] = {1, 0, 2};
    llm_session_desc d;
    llm_session *session;
    llm_error error;
    llm_result r;
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.model = model, d.context = 64, d.rows = 4, d.allocator = fuzz_allocator(memory);
    d.error = &error;
    r = llm_session_create(&session, &d);
    fuzz_refusal(r, &error);
    if (r) return;
    r = llm_eval(session, ids, 3);
    FUZZ_CHECK(r == LLM_OK || r == LLM_ERROR_ARGUMENT, "%s", llm_result_name(r));
    if (r == LLM_OK) FUZZ_CHECK(llm_session_logits(session, 0), "no logits");
    llm_session_destroy(session);
}

static void open_and_use(uint8_t *file, size_t size, unsigned how) {
    llm_model_desc d;
    llm_model_info info;
    llm_model *model;
    llm_error error;
    llm_result r;
    fuzz_memory memory;
    file_bytes bytes;
    memset(&memory, 0, sizeof memory);
    memset(&error, 0, sizeof error);
    memset(&d, 0, sizeof d);
    bytes.data = file, bytes.size = size;
    if (how >> 6 & 1) d.read = read_bytes, d.read_user = &bytes;
    else d.data = file;
    d.size = size, d.verify = how >> 1 & 1, d.error = &error;
    d.allocator = fuzz_allocator(&memory);
    r = llm_model_open(&model, &d);
    fuzz_refusal(r, &error);
    FUZZ_CHECK((r == LLM_OK) == (model != NULL), "%s", llm_result_name(r));
    if (r == LLM_OK) {
        llm_model_get_info(model, &info);
        use_text(model, &memory);
        use_template(model, &memory);
        if (how >> 2 & 1) use_session(model, &memory);
        llm_model_close(model);
    }
    fuzz_balance(&memory);
}

/* Byte 0: bit 0 repair, 1 verify, 2 evaluate, 3 repair the checksum of DATA too, 4 to 7 the model, of
   them 6: through a read callback. Then changes: three bytes of
   offset; one that says how many bytes follow to stand there, 1 to 32, or, in its top bits, that the
   file ends there, or that the offset counts from one of the first sections. */
static int fuzz_llm(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    unsigned how = (unsigned)fuzz_take(&in, 1), which;
    size_t length, changed_low = SIZE_MAX, changed_high = 0, i;
    uint8_t *file;
    file_start();
    which = (how >> 4) % FILES;
    file = work[which], length = base_size[which];
    while (in.size) {
        uint32_t at = (uint32_t)fuzz_take(&in, 3), op = (uint32_t)fuzz_take(&in, 1);
        uint32_t kind = op >> 5, n = op % 32 + 1;
        llm__file_section s;
        if (kind >= 1 && kind <= 4) { /* inside the section of that number */
            memcpy(&s, base[which] + 64 + 32 * (kind - 1), sizeof s);
            at = (uint32_t)s.offset + at % (uint32_t)(s.size ? s.size : 1);
        }
        if (kind == 7) {
            length = at % (length + 1);
            continue;
        }
        if (kind == 5) at %= 512; /* header and table */
        for (i = 0; i < n && in.size && at + i < base_size[which]; i++)
            file[at + i] = (uint8_t)fuzz_take(&in, 1);
        if (at < changed_low) changed_low = at;
        if (at + i > changed_high) changed_high = at + i;
    }
    if (length < base_size[which]) { /* its own block, with nothing behind it */
        void *cut = NULL;
        if (posix_memalign(&cut, 64, length ? length : 1)) return 0;
        memcpy(cut, file, length);
        if (how & 1) repair((uint8_t *)cut, length, which, changed_low, changed_high, how >> 3 & 1);
        open_and_use((uint8_t *)cut, length, how);
        free(cut);
    } else {
        if (how & 1) repair(file, length, which, changed_low, changed_high, how >> 3 & 1);
        open_and_use(file, length, how);
    }
    memcpy(file, base[which], 4096);
    if (changed_high > base_size[which]) changed_high = base_size[which];
    if (changed_low < changed_high)
        memcpy(file + changed_low, base[which] + changed_low, changed_high - changed_low);
    return 0;
}
