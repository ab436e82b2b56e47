/* Mutants of good files: whatever is changed in one, it is refused with a message, or it can be used.

       test_mutants FOLDER                 every 47th mutant or so, in some seconds
       test_mutants FOLDER --part I N      mutants I, I + N, I + 2 N, … of all
       test_mutants --serve llm|gguf FILE  answers for mutants that come on stdin, see tests/mutants.py

   The mutants: the file cut at every byte of its metadata, as it is and with the size in the header made
   right; every byte of the metadata with every value; every field with some fifty values that are at some
   border. Checksums are made right again, or else they would be all that is tested. */
#ifndef MUTANTS_WHOLE
#define LLM_NO_TEMPLATE /* half of the time to compile */
#endif
#define main convert_main
#include "../tools/convert/convert.c"
#undef main
#include "check.h"
#include "fixture.h"
#include "image.h"

/* ---- which ones ---- */

static uint64_t number, every = 1, part;

/* Is the next mutant one of this run's? */
static bool mine(void) { return number++ % every == part; }

static image good; /* never changed */
static image f;    /* the mutant */

static void start_from(const char *path) {
    good.data = (uint8_t *)fixture_read(path, &good.size);
    f = copy_of(&good);
}
static void end_of_file(void) {
    free(good.data);
    free(f.data);
}

/* Takes back what was changed in bytes from .. to - 1. */
static void restore(size_t from, size_t to) { memcpy(f.data + from, good.data + from, to - from); }

/* The first `size` bytes of the good file in a block of their own, so that a sanitizer sees its end. */
static image cut_at(size_t size) {
    image cut;
    void *data = NULL;
    if (posix_memalign(&data, 64, size ? size : 1)) exit(1);
    cut.data = (uint8_t *)data, cut.size = size;
    memcpy(cut.data, good.data, size);
    return cut;
}

/* ---- a model is used ---- */

enum { USE_NOTHING, USE_TOKENIZER, USE_ALL };

static unsigned touched; /* so that what is read is not optimised away */

static void use_tokenizer(const llm_tokenizer *t) {
    static const char text[] = "The  cat's <|im_start|>caf\xc3\xa9<s>\n\n12345 \xf0\x9f\x98\x80\xff" "aaaaaaaaaaaaaaaa";
    int32_t ids[256];
    char back[4096];
    size_t count = 0, size = 0, i;
    llm_tokenize_desc desc;
    llm_detokenize_desc undo;
    llm_tokenizer_info info;
    llm_text piece;
    llm_result r;
    memset(&desc, 0, sizeof desc);
    memset(&undo, 0, sizeof undo);
    desc.text = text, desc.size = sizeof text - 1, desc.bos = 1;
    desc.special = number % 2;
    r = llm_tokenize(t, &desc, ids, 256, &count);
    CHECK(r == LLM_OK, "%s, %zu ids", llm_result_name(r), count);
    undo.ids = ids, undo.count = r ? 0 : count, undo.special = true;
    r = llm_detokenize(t, &undo, back, sizeof back, &size);
    CHECK(r == LLM_OK || (r == LLM_ERROR_LIMIT && size > sizeof back), "%s", llm_result_name(r));
    llm_tokenizer_describe(t, &info);
    CHECK(info.bos >= -1 && info.bos < (int32_t)info.vocab_size, "bos %d", (int)info.bos);
    for (i = 0; i < info.vocab_size; i++) {
        piece = llm_token_bytes(t, (int32_t)i);
        if (piece.size) touched += (unsigned char)piece.data[0] + (unsigned char)piece.data[piece.size - 1];
        touched += (unsigned)llm_token_kind_of(t, (int32_t)i) + llm_token_is_end(t, (int32_t)i);
    }
    piece.data = text, piece.size = 5;
    touched += (unsigned)llm_token_find(t, piece);
}

/* Two tokens; the scalar instruction set, which is slow, now and then. */
static void use_session(const llm_model *model) {
    llm_session_desc desc;
    llm_session *session;
    llm_sampler *sampler;
    llm_sample sample;
    llm_model_info info;
    int32_t ids[2] = {0, 0};
    llm_result r;
    llm_model_get_info(model, &info);
    ids[1] = (int32_t)info.vocab - 1;
    memset(&desc, 0, sizeof desc);
    desc.model = model, desc.context = 70, desc.rows = 2;
    desc.kv = (llm_kv)(number / 2 % LLM_KV_COUNT);
    if (number % 61 == 0) desc.isa = "scalar";
    r = llm_session_create(&session, &desc);
    if (!r) r = llm_eval(session, ids, 2);
    CHECK(r == LLM_OK && llm_session_logits(session, 0), "%s", llm_result_name(r));
    if (!r) r = llm_sampler_create(NULL, info.vocab, NULL, &sampler, NULL);
    if (!r) {
        r = llm_sampler_sample(sampler, llm_session_logits(session, 0), NULL, &sample, NULL);
        CHECK(r == LLM_ERROR_NUMERIC || (r == LLM_OK && sample.token < info.vocab), "%s", llm_result_name(r));
        llm_sampler_destroy(sampler);
    }
    llm_session_destroy(session);
}

static void use_template(const llm_model *model) {
#ifndef LLM_NO_TEMPLATE
    llm_message messages[2];
    llm_template_desc desc;
    llm_error error;
    char text[4096];
    size_t size;
    memset(&desc, 0, sizeof desc);
    memset(messages, 0, sizeof messages);
    messages[0].role = llm_string("system"), messages[0].content = llm_string("Be brief.");
    messages[1].role = llm_string("user"), messages[1].content = llm_string("Hello");
    desc.text = llm_model_template(model);
    desc.messages = messages, desc.n_messages = 2, desc.max_steps = 20000, desc.error = &error;
    error.text[0] = 0;
    if (desc.text.size && llm_template_render(&desc, text, sizeof text, &size) != LLM_OK)
        CHECK(error.text[0], "no message");
#else
    (void)model;
#endif
}

static llm_error error_of;

/* Opens a file and uses what opens; the result. */
static llm_result try_llm(const image *file, bool verify, int use) {
    llm_model_desc desc;
    llm_model *model = (llm_model *)(void *)file->data; /* must be overwritten */
    llm_result r;
    memset(&desc, 0, sizeof desc);
    desc.data = file->data, desc.size = file->size, desc.verify = verify, desc.error = &error_of;
    error_of.code = LLM_OK, error_of.text[0] = 0;
    r = llm_model_open(&model, &desc);
    CHECK((r == LLM_OK) == (model != NULL) && r == error_of.code && (!r || error_of.text[0]),
          "%s, model %p, error %s \"%s\"", llm_result_name(r), (void *)model, llm_result_name(error_of.code),
          error_of.text);
    if (model && use >= USE_TOKENIZER && llm_model_tokenizer(model)) use_tokenizer(llm_model_tokenizer(model));
    if (model && use >= USE_ALL) {
        use_session(model);
        if (number % 16 == 0) use_template(model);
    }
    llm_model_close(model);
    return r;
}

/* ---- fields ---- */

typedef struct field {
    size_t at;
    int width; /* bytes */
} field;

static field fields[4096];
static size_t field_count;

static void add_fields(size_t at, size_t count, int width) {
    for (; count && field_count < sizeof fields / sizeof *fields; count--, at += (size_t)width) {
        fields[field_count].at = at;
        fields[field_count++].width = width;
    }
}

static uint64_t read_field(const field *of, const uint8_t *data) {
    uint64_t value = 0;
    memcpy(&value, data + of->at, (size_t)of->width);
    return value;
}

/* Values at borders; some depend on what stands there, on the file's size, and on what stands in another field. */
static uint64_t border(const field *of, size_t which) {
    static const uint64_t fixed[] = {
        0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 512, 513, 1024, 1025, 4095, 4096,
        4097, 0x7fff, 0xffff, 0x10000, 0x3ffff, 0x40000, 0x40001, 0x3fffff, 0x400000, 0x400001, 0xffffff, 0x1000000,
        0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000,
        0xffffffffffffff00, 0xfffffffffffff000, 0xffffffffffffffff, 0x7f800000, 0x7fc00000, 0xff800000, 0x00800000,
        0x00000001, 0x3f800000, 0x7f7fffff};
    const size_t n = sizeof fixed / sizeof *fixed;
    const uint64_t value = read_field(of, good.data);
    if (which < n) return fixed[which];
    switch (which - n) {
    case 0: return value + 1;
    case 1: return value - 1;
    case 2: return value * 2;
    case 3: return value / 2;
    case 4: return good.size;
    case 5: return good.size - 1;
    case 6: return good.size + 1;
    case 7: return good.size - value;
    case 8: return good.size / 4096 * 4096;
    case 9: return value + 4096;
    case 10: return value + 64;
    case 11: return value - 64;
    case 12: return value ^ 1u << (number >> 3) % 32;
    case 13: return 0 - value;
    case 14: return read_field(&fields[(number * 7919) % field_count], good.data);
    case 15: return read_field(&fields[(number * 104729) % field_count], good.data);
    default: return UINT64_MAX;
    }
}
#define BORDERS 70

/* ---- .llm ---- */

static void count_result(llm_result r, size_t *opened, size_t *tried) {
    *opened += r == LLM_OK;
    ++*tried;
}

/* Sections end where the file does. */
static void clip(image *cut) {
    llm__file_section *s = (llm__file_section *)(void *)(cut->data + sizeof(llm__file_header));
    uint32_t i;
    for (i = 0; i < section_count_of(cut); i++)
        if (s[i].offset <= cut->size && s[i].size > cut->size - s[i].offset) s[i].size = cut->size - s[i].offset;
}

static void llm_truncations(size_t metadata) {
    size_t size;
    for (size = 0; size < good.size; size += size < metadata || good.size - size <= 130 ? 1 : 64) {
        image cut;
        if (!mine()) continue;
        cut = cut_at(size);
        CHECK(try_llm(&cut, false, USE_ALL) == LLM_ERROR_FORMAT, "cut at %zu: %s", size, error_of.text);
        if (size >= sizeof(llm__file_header)) {
            header_of(&cut)->file_size = size;
            CHECK(try_llm(&cut, false, USE_ALL) != LLM_OK, "cut at %zu, which the header says", size);
            clip(&cut);
            seal(&cut);
            CHECK(try_llm(&cut, false, USE_ALL) != LLM_OK, "cut at %zu, with its sections", size);
        }
        free(cut.data);
    }
}

/* Every section with every size up to its own; tokenizer, template and text may well open then. */
static void llm_sections(size_t metadata) {
    size_t i, size, opened = 0, tried = 0;
    for (i = 0; i < header_of(&good)->section_count; i++) {
        llm__file_section *s = (llm__file_section *)(void *)(f.data + sizeof(llm__file_header)) + i;
        const size_t whole = (size_t)s->size;
        for (size = 0; size <= whole; size += s->kind == LLM__SECTION_DATA && size + 200 < whole ? 64 : 1) {
            if (!mine()) continue;
            s->size = size;
            seal(&f);
            count_result(try_llm(&f, false, s->kind == LLM__SECTION_TMPL ? USE_ALL : USE_TOKENIZER), &opened, &tried);
            restore(0, metadata);
        }
    }
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

static void llm_byte(size_t at, unsigned change, int use, size_t metadata, size_t *opened, size_t *tried) {
    if (!mine()) return;
    f.data[at] = (uint8_t)(f.data[at] ^ change);
    if (number % 3 == 0 && at < 4096) /* unsealed; only the header and its table can matter then */
        CHECK(at >= 32 && at < 64 ? try_llm(&f, false, USE_NOTHING) == LLM_OK : try_llm(&f, false, USE_NOTHING) != LLM_OK,
              "byte %zu ^ %u, checksums as they were", at, change);
    seal(&f);
    count_result(try_llm(&f, false, use), opened, tried);
    restore(0, metadata);
}

/* All values for the tables, bit by bit and some more for the vocabulary. */
static void llm_bytes(size_t metadata) {
    const llm__file_section *tokens = section_of(&good, LLM__SECTION_TOKN), *text = find_section(&good, LLM__SECTION_TMPL);
    size_t i, at, opened = 0, tried = 0;
    unsigned change, bit;
    for (i = 0; i < field_count; i++)
        for (at = fields[i].at; at < fields[i].at + (size_t)fields[i].width; at++)
            for (change = 1; change < 256; change++)
                llm_byte(at, change, at >= tokens->offset ? USE_TOKENIZER : USE_ALL, metadata, &opened, &tried);
    for (at = (size_t)tokens->offset + 256; at < (size_t)(tokens->offset + tokens->size); at++) {
        for (bit = 1; bit < 256; bit *= 2) llm_byte(at, bit, USE_TOKENIZER, metadata, &opened, &tried);
        llm_byte(at, 0xff, USE_TOKENIZER, metadata, &opened, &tried);
    }
    for (at = text ? (size_t)text->offset : 0; text && at < (size_t)(text->offset + text->size); at++)
        for (bit = 1; bit < 256; bit *= 2) llm_byte(at, bit, USE_TOKENIZER, metadata, &opened, &tried);
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

static void llm_borders(size_t metadata) {
    size_t i, which, opened = 0, tried = 0;
    for (i = 0; i < field_count; i++)
        for (which = 0; which < BORDERS; which++) {
            uint64_t value;
            if (!mine()) continue;
            value = border(&fields[i], which);
            memcpy(f.data + fields[i].at, &value, (size_t)fields[i].width);
            seal(&f);
            count_result(try_llm(&f, number % 16 == 0, USE_ALL), &opened, &tried);
            restore(0, metadata);
        }
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

/* Two fields at once, at borders: what one hides may show with the other. */
static void llm_pairs(size_t metadata) {
    size_t i, opened = 0, tried = 0;
    uint64_t random = 1;
    for (i = 0; i < 200000; i++) {
        int k;
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (!mine()) continue;
        for (k = 0; k < 2; k++) {
            const field *of = &fields[(random >> (k ? 40 : 20)) % field_count];
            uint64_t value = border(of, (size_t)(random >> (k ? 52 : 32)) % BORDERS);
            memcpy(f.data + of->at, &value, (size_t)of->width);
        }
        seal(&f);
        count_result(try_llm(&f, false, USE_ALL), &opened, &tried);
        restore(0, metadata);
    }
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

/* A byte of a section or tensor is flipped: `verify` finds it, by the tensor's name, and so does llm-inspect. */
static void llm_flips(void) {
    const llm__file_section *directory = section_of(&good, LLM__SECTION_TDIR);
    const llm__file_section *s = (const llm__file_section *)(const void *)(good.data + sizeof(llm__file_header));
    char message[120], name[64];
    size_t i, k, at;
    CHECK(try_llm(&good, true, USE_NOTHING) == LLM_OK, "%s", error_of.text);
    for (i = 0; i < directory->size / sizeof(llm__file_tensor); i++) {
        const llm__file_tensor *t = (const llm__file_tensor *)(const void *)(good.data + directory->offset) + i;
        (void)snprintf(message, sizeof message, "tensor %s: its bytes sum to ",
                       llm__tensor_name(name, t->role, t->layer));
        for (k = 0; k < t->size; k++) {
            if (!mine()) continue;
            at = (size_t)t->offset + k;
            f.data[at] ^= (uint8_t)(1u << k % 8);
            CHECK(try_llm(&f, true, USE_NOTHING) == LLM_ERROR_CHECKSUM && !strncmp(error_of.text, message, strlen(message)),
                  "byte %zu of %s: %s", k, name, error_of.text);
            restore(at, at + 1);
        }
    }
    for (i = 0; i < header_of(&good)->section_count; i++)
        for (k = 0; k < s[i].size; k++) {
            if (!mine()) continue;
            at = (size_t)s[i].offset + k;
            f.data[at] ^= (uint8_t)(1u << k % 8);
            CHECK(try_llm(&f, true, USE_NOTHING) == LLM_ERROR_CHECKSUM &&
                      (s[i].kind == LLM__SECTION_DATA || strstr(error_of.text, llm__name_kind(s[i].kind).text)),
                  "byte %zu of section %s: %s", k, llm__name_kind(s[i].kind).text, error_of.text);
            restore(at, at + 1);
        }
}

static void llm_fields(void) {
    const uint32_t count = header_of(&good)->section_count;
    const llm__file_section *tensors = section_of(&good, LLM__SECTION_TDIR);
    const llm__file_section *layers = section_of(&good, LLM__SECTION_LAYR);
    size_t at, i;
    field_count = 0;
    add_fields(0, 4, 4), add_fields(16, 2, 8), add_fields(32, 8, 4);
    for (i = 0; i < count; i++) add_fields(64 + 32 * i, 2, 4), add_fields(72 + 32 * i, 3, 8);
    add_fields((size_t)section_of(&good, LLM__SECTION_DESC)->offset, sizeof(llm__file_desc) / 4, 4);
    add_fields((size_t)layers->offset, (size_t)layers->size / 4, 4);
    for (i = 0; i < tensors->size / sizeof(llm__file_tensor); i++) {
        at = (size_t)tensors->offset + i * sizeof(llm__file_tensor);
        add_fields(at, 8, 4), add_fields(at + 32, 4, 8);
    }
    add_fields((size_t)section_of(&good, LLM__SECTION_TOKN)->offset, sizeof(llm__tok_header) / 4, 4);
}

static void test_llm(const char *name, const char *type) {
    size_t metadata;
    start_from(fixture_model_path(name, type));
    metadata = (size_t)section_of(&good, LLM__SECTION_DATA)->offset;
    llm_fields();
    llm_truncations(metadata);
    llm_sections(metadata);
    llm_bytes(metadata);
    llm_borders(metadata);
    llm_pairs(metadata);
    llm_flips();
    end_of_file();
}

/* ---- GGUF ---- */

/* The whole conversion to a file that must then open. */
static void gguf_convert(source_file *s, plan *p) {
    const char *path = "build/tests/mutant.llm";
    llm_model_desc desc;
    llm_model *model;
    options o;
    llm_result r;
    memset(&o, 0, sizeof o);
    memset(&desc, 0, sizeof desc);
    o.calibrate = CALIBRATE_NO;
    o.output = path, o.type = (uint32_t)(number / 64 % LLM_TYPE_COUNT), o.quiet = true, o.threads = 1;
    r = convert_plan(&o, s, p, &error_of);
    CHECK(r == LLM_OK || error_of.text[0], "%s", llm_result_name(r));
    if (r) return;
    desc.path = path, desc.verify = true, desc.error = &error_of;
    r = llm_model_open(&model, &desc);
    CHECK(r == LLM_OK, "a converted mutant: %s", error_of.text);
    if (!r && llm_model_tokenizer(model)) use_tokenizer(llm_model_tokenizer(model));
    if (!r) use_session(model);
    llm_model_close(model);
}

static void gguf_use(source_file *s) {
    unsigned char *section = NULL;
    size_t size = 0, i;
    llm_text key;
    source_value value, element;
    llm_tokenizer tokenizer;
    plan p;
    float row[4096];
    for (i = 0; s->entry(s, i, &key, &value); i++)
        while (s->next(s, &value, &element)) touched += (unsigned)element.text.size;
    for (i = 0; i < s->tensor_count; i++) {
        const source_tensor *t = &s->tensors[i];
        const uint64_t rows = t->shape[1] * t->shape[2] * t->shape[3];
        if (t->shape[0] <= 4096) s->row(s, t, 0, row), s->row(s, t, rows - 1, row);
    }
    error_of.text[0] = 0;
    if (plan_open(&p, s, &error_of) != LLM_OK) {
        CHECK(error_of.text[0], "no message");
        return;
    }
    error_of.text[0] = 0;
    if (vocabulary_section(s, p.desc.vocab, &section, &size, &error_of) != LLM_OK) CHECK(error_of.text[0], "no message");
    if (section) {
        CHECK(llm__tokenizer_init(&tokenizer, section, size, p.desc.vocab, &error_of) == LLM_OK, "%s", error_of.text);
        use_tokenizer(&tokenizer);
        free(section);
    }
    if (number % 64 == 0) gguf_convert(s, &p);
    plan_close(&p);
}

static llm_result try_gguf(const image *from, int use) {
    source_file s;
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    llm_result r;
    if (!file) exit(1);
    memset(&s, 0, sizeof s);
    gguf_source(&s, file);
    file->map.data = from->data, file->map.size = from->size;
    error_of.code = LLM_OK, error_of.text[0] = 0;
    r = gguf_parse(&s, file, &error_of);
    CHECK(!r || (error_of.code == r && error_of.text[0]), "%s, error %s", llm_result_name(r),
          llm_result_name(error_of.code));
    if (!r && use) gguf_use(&s);
    file->map.data = NULL; /* it is not this file's to unmap */
    s.close(&s);
    return r;
}

/* Sizes, counts, types and numbers of the metadata as fields; the rest is text. Returns where it ends. */
static size_t gguf_fields(void) {
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const uint8_t *d = good.data;
    uint64_t tensors = llm__u64(d + 8), pairs = llm__u64(d + 16), i, k, count;
    size_t at = 24;
    field_count = 0;
    add_fields(0, 2, 4), add_fields(8, 2, 8);
    for (i = 0; i < pairs; i++) {
        uint32_t type;
        add_fields(at, 1, 8), at += 8 + (size_t)llm__u64(d + at);
        add_fields(at, 1, 4), type = llm__u32(d + at), at += 4, count = 1;
        if (type == GGUF_ARRAY) {
            add_fields(at, 1, 4), add_fields(at + 4, 1, 8);
            type = llm__u32(d + at), count = llm__u64(d + at + 4), at += 12;
        }
        for (k = 0; k < count; k++) {
            size_t size = type == GGUF_STRING ? 8 : sizes[type];
            if (k < 3 || k + 2 > count) add_fields(at, 1, (int)size);
            at += size + (type == GGUF_STRING ? (size_t)llm__u64(d + at) : 0);
        }
    }
    for (i = 0; i < tensors; i++) {
        add_fields(at, 1, 8), at += 8 + (size_t)llm__u64(d + at);
        add_fields(at, 1, 4), k = llm__u32(d + at), at += 4;
        add_fields(at, (size_t)k, 8), at += 8 * (size_t)k;
        add_fields(at, 1, 4), add_fields(at + 4, 1, 8), at += 12;
    }
    return at;
}

static void gguf_one(size_t metadata, size_t *opened, size_t *tried) {
    count_result(try_gguf(&f, USE_ALL), opened, tried);
    restore(0, metadata);
}

static void test_gguf(const char *name) {
    char path[256];
    size_t metadata, i, at, opened = 0, tried = 0;
    unsigned change, bit;
    (void)snprintf(path, sizeof path, "tests/fixtures/models/%s.gguf", name);
    start_from(path);
    metadata = gguf_fields();
    CHECK(try_gguf(&good, USE_ALL) == LLM_OK, "%s", error_of.text);
    for (at = 0; at < metadata + 64; at++) {
        image cut;
        if (!mine()) continue;
        cut = cut_at(at);
        CHECK(try_gguf(&cut, USE_ALL) == LLM_ERROR_FORMAT, "cut at %zu: %s", at, error_of.text);
        free(cut.data);
    }
    for (i = 0; i < field_count; i++)
        for (at = fields[i].at; at < fields[i].at + (size_t)fields[i].width; at++)
            for (change = 1; change < 256; change++) {
                if (!mine()) continue;
                f.data[at] = (uint8_t)(f.data[at] ^ change);
                gguf_one(metadata, &opened, &tried);
            }
    for (at = 0; at < metadata; at++)
        for (bit = 1; bit < 256; bit *= 2) {
            if (!mine()) continue;
            f.data[at] = (uint8_t)(f.data[at] ^ bit);
            gguf_one(metadata, &opened, &tried);
        }
    for (i = 0; i < field_count; i++)
        for (at = 0; at < BORDERS; at++) {
            uint64_t value;
            if (!mine()) continue;
            value = border(&fields[i], at);
            memcpy(f.data + fields[i].at, &value, (size_t)fields[i].width);
            gguf_one(metadata, &opened, &tried);
        }
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
    end_of_file();
}

/* ---- answers for another reader ---- */

static bool read_exactly(void *to, size_t size) { return fread(to, 1, size, stdin) == size; }

/* One mutant: u32 flags (1: verify, 2: use), u64 size, u32 changes, then for each u32 where, u32 how many, the bytes.
   flags ~0: send what was answered. The answer is a byte, the result. */
static int serve(bool llm, const char *path) {
    const size_t room = 1 << 16;
    uint32_t head[4], change[2], i;
    llm_result r;
    start_from(path);
    while (read_exactly(head, sizeof head)) {
        uint64_t size = llm__u64(&head[1]);
        image mutant;
        if (head[0] == UINT32_MAX) {
            (void)fflush(stdout);
            continue;
        }
        if (size > good.size + room) return 2;
        number++;
        mutant = cut_at(0);
        free(mutant.data);
        if (posix_memalign((void **)(void *)&mutant.data, 64, size ? (size_t)size : 1)) return 2;
        mutant.size = (size_t)size;
        memset(mutant.data, 0, mutant.size);
        memcpy(mutant.data, good.data, good.size < mutant.size ? good.size : mutant.size);
        for (i = 0; i < head[3]; i++)
            if (!read_exactly(change, sizeof change) || change[0] > size || change[1] > size - change[0] ||
                !read_exactly(mutant.data + change[0], change[1]))
                return 2;
        r = llm ? try_llm(&mutant, head[0] & 1, head[0] & 2 ? USE_ALL : USE_NOTHING)
                : try_gguf(&mutant, head[0] & 2 ? USE_ALL : USE_NOTHING);
        (void)putchar((int)r);
        free(mutant.data);
    }
    end_of_file();
    return check_failed != 0;
}

int main(int count, char **arguments) {
    if (count > 3 && !strcmp(arguments[1], "--serve")) return serve(!strcmp(arguments[2], "llm"), arguments[3]);
    fixture_arguments(count, arguments);
    every = 47;
    if (count > 4 && !strcmp(arguments[2], "--part")) {
        part = strtoull(arguments[3], NULL, 10);
        every = strtoull(arguments[4], NULL, 10);
    }
    test_llm("llama-tied", "q8");
    test_gguf("llama-tied");
    if (every < 47) test_llm("gemma-pattern", "q4"), test_gguf("gemma-pattern");
    printf("%llu mutants, %u\n", (unsigned long long)(number / every), touched & 1);
    return check_report("mutants");
}
