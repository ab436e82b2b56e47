/* Opening files that are cut, wrong and mutated: a code, and a message that names field and value. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#if !defined(_WIN32)
#include <sys/mman.h>
#include <sys/stat.h>

/* What the system can refuse once a file is open. */
static bool no_status, no_map;
static int maybe_fstat(int file, struct stat *about) {
    if (no_status) errno = EOVERFLOW;
    return no_status ? -1 : fstat(file, about);
}
static void *maybe_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    if (no_map) errno = ENOMEM;
    return no_map ? MAP_FAILED : mmap(at, size, protection, flags, file, offset);
}
#define fstat maybe_fstat
#define mmap maybe_mmap
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#undef fstat
#undef mmap
#include "check.h"
#include "fixture.h"
#include "image.h"

static image good; /* llama-tied in q8: two layers, an embedding that is also the head */

/* Two tokens with every instruction set: whatever the model is now, nothing may break. */
static void try_out(const llm_model *model, llm_kv kv) {
    const int32_t ids[] = {0, (int32_t)fixture_vocab(model) - 1};
    llm_session_desc desc;
    llm_session *session;
    uint32_t i;
    for (i = 0; llm_isa_name(i); i++) {
        llm_result r;
        memset(&desc, 0, sizeof desc);
        desc.model = model, desc.context = 70, desc.rows = 2, desc.isa = llm_isa_name(i), desc.kv = kv;
        r = llm_session_create(&session, &desc);
        if (!r) r = llm_eval(session, ids, 2);
        CHECK(r == LLM_OK && llm_session_logits(session, 0), "%s: %s", desc.isa, llm_result_name(r));
        llm_session_destroy(session);
    }
}

static bool trying; /* open_image evaluates what opens */

static llm_result open_image(const image *f, bool verify, llm_error *error) {
    llm_model_desc desc;
    llm_model *model = (llm_model *)(void *)f->data; /* must be overwritten */
    llm_result r;
    memset(&desc, 0, sizeof desc);
    desc.data = f->data, desc.size = f->size, desc.verify = verify, desc.error = error;
    memset(error, 0, sizeof *error);
    r = llm_model_open(&model, &desc);
    CHECK((r == LLM_OK) == (model != NULL), "result %s, model %p", llm_result_name(r), (void *)model);
    CHECK(r == error->code, "result %s, error %s", llm_result_name(r), llm_result_name(error->code));
    if (model && trying) try_out(model, LLM_KV_Q8), try_out(model, LLM_KV_F16), try_out(model, LLM_KV_Q4);
    llm_model_close(model);
    return r;
}

static void expect(const image *f, llm_result want, const char *message, int line) {
    llm_error error;
    llm_result r = open_image(f, false, &error);
    CHECK(r == want && !strcmp(error.text, message), "line %d: %s \"%s\",\n    expected %s \"%s\"", line,
          llm_result_name(r), error.text, llm_result_name(want), message);
}

/* `what` names bytes that do not have the checksum which the file says. */
static const char *sum_message(const void *data, size_t size, uint64_t checksum, const char *what) {
    static char message[160];
    (void)snprintf(message, sizeof message, "%s: its bytes sum to %016llx, not to %016llx", what,
                   (unsigned long long)llm__xxh64(data, size), (unsigned long long)checksum);
    return message;
}

static void expect_sum(const image *f, const void *data, size_t size, uint64_t checksum, const char *what) {
    expect(f, LLM_ERROR_CHECKSUM, sum_message(data, size, checksum, what), __LINE__);
}

static void expect_section_sum(const image *f, uint32_t kind) {
    const llm__file_section *s = section_of(f, kind);
    char what[16];
    (void)snprintf(what, sizeof what, "section %.4s", (const char *)&kind);
    expect_sum(f, f->data + s->offset, (size_t)s->size, s->checksum, what);
}

/* Changes a copy of the good file by one statement on `f`, seals it and opens it. */
#define MUTATED(statement, result, message)     \
    do {                                        \
        image f = copy_of(&good);               \
        statement;                              \
        seal(&f);                               \
        expect(&f, result, message, __LINE__);  \
        free(f.data);                           \
    } while (0)
#define BAD_FORMAT(statement, message) MUTATED(statement, LLM_ERROR_FORMAT, message)

/* ---- one field after the other ---- */

static void test_header(void) {
    BAD_FORMAT(f.data[0] = 'L', "header: the file begins with \"Llm.h? ?\", a .llm file with \"llm.h\"");
    BAD_FORMAT(f.data[5] = '\n', "header: the file begins with \"llm.h  ?\", a .llm file with \"llm.h\"");
    BAD_FORMAT(memcpy(f.data, "\033[2J\xFF\xC3\xA9", 8),
               "header: the file begins with \"?[2J?\xC3\xA9\", a .llm file with \"llm.h\"");
    MUTATED(header_of(&f)->version = 2, LLM_ERROR_VERSION, "header: version 2, this library reads 1");
    MUTATED(header_of(&f)->version = 0, LLM_ERROR_VERSION, "header: version 0, this library reads 1");
    {
        image f = copy_of(&good);
        header_of(&f)->section_count = 0;
        expect(&f, LLM_ERROR_FORMAT, "header: section_count is 0, not in 1 .. 64", __LINE__);
        header_of(&f)->section_count = 65;
        expect(&f, LLM_ERROR_FORMAT, "header: section_count is 65, not in 1 .. 64", __LINE__);
        header_of(&f)->section_count = 6;
        expect_sum(&f, f.data + 64, 6 * 32, header_of(&f)->checksum, "header, table of sections");
        free(f.data);
        f = copy_of(&good);
        section_of(&f, LLM__SECTION_DESC)->size++;
        expect_sum(&f, f.data + 64, header_of(&f)->section_count * 32u, header_of(&f)->checksum,
                   "header, table of sections");
        free(f.data);
    }
    {
        char message[128];
        (void)snprintf(message, sizeof message, "header: file_size is 5, but the file has %zu bytes", good.size);
        BAD_FORMAT(header_of(&f)->file_size = 5, message);
    }
}

static void test_sections(void) {
    char message[200];
    const llm__file_section *data = section_of(&good, LLM__SECTION_DATA);
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->offset += 64,
               "section DESC: offset 0x1040 is not a multiple of 4096");
    (void)snprintf(message, sizeof message,
                   "section LAYR: offset 0xfffffffffffff000 + 32 bytes passes the end of the file of %zu", good.size);
    BAD_FORMAT(section_of(&f, LLM__SECTION_LAYR)->offset = ~(uint64_t)4095, message);
    (void)snprintf(message, sizeof message,
                   "section DATA: offset 0x%llx + 18446744073709551615 bytes passes the end of the file of %zu",
                   (unsigned long long)data->offset, good.size);
    BAD_FORMAT(section_of(&f, LLM__SECTION_DATA)->size = ~(uint64_t)0, message);
    BAD_FORMAT((section_of(&f, LLM__SECTION_META)->kind = LLM__FOURCC(27, '[', 255, 'J'),
                find_section(&f, LLM__FOURCC(27, '[', 255, 'J'))->offset = 1),
               "section ?[?J: offset 0x1 is not a multiple of 4096");
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->size = 127, "section DESC: 127 bytes, not 128 or more");
    BAD_FORMAT(section_of(&f, LLM__SECTION_LAYR)->size = 16, "section LAYR: 16 bytes, 2 layers ask for 32");
    BAD_FORMAT(section_of(&f, LLM__SECTION_TDIR)->size = 1407,
               "section TDIR: 1407 bytes, not a multiple of 64 up to 16777216");
    BAD_FORMAT(section_of(&f, LLM__SECTION_TDIR)->size = 0, "tensor embedding is missing");
    {
        image f = copy_of(&good);
        desc_of(&f)->vocab ^= 1;
        expect_section_sum(&f, LLM__SECTION_DESC);
        free(f.data), f = copy_of(&good);
        layers_of(&f)->window = 1;
        expect_section_sum(&f, LLM__SECTION_LAYR);
        free(f.data), f = copy_of(&good);
        tensor_of(&f, LLM__Q, 1)->offset += 64;
        expect_section_sum(&f, LLM__SECTION_TDIR);
        free(f.data);
    }
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->kind = 1, "section DESC: 0 bytes, not 128 or more");
    BAD_FORMAT(section_of(&f, LLM__SECTION_META)->kind = LLM__SECTION_TOKN, "section TOKN: stands twice in the table");
}

#define DESC_RANGE(field, value, least, most)            \
    BAD_FORMAT(desc_of(&f)->field = value##u,            \
               "description: " #field " is " #value ", not in " #least " .. " #most)
#define DESC_FLOAT(field, value, message) \
    BAD_FORMAT(desc_of(&f)->field = llm__float(value), "description: " #field " " message)
#define NOT_FINITE(field)                                          \
    DESC_FLOAT(field, 0x7f800000u, "is inf, not a finite number"); \
    DESC_FLOAT(field, 0x7fc00001u, "is nan, not a finite number"); \
    DESC_FLOAT(field, 0xff800000u, "is -inf, not a finite number")

#define SOFTCAPS(attention, logit, first, second)                                                       \
    BAD_FORMAT((desc_of(&f)->attention_softcap = attention, desc_of(&f)->logit_softcap = logit),        \
               "description: softcaps are " first " for attention and " second " for logits, not 0 or " \
               "in 1e-30 .. 1e30")

static void test_description(void) {
    DESC_RANGE(vocab, 0, 1, 4194304);
    DESC_RANGE(vocab, 4194305, 1, 4194304);
    DESC_RANGE(width, 0, 1, 65536);
    DESC_RANGE(width, 65537, 1, 65536);
    DESC_RANGE(layers, 0, 1, 1024);
    DESC_RANGE(layers, 4294967295, 1, 1024);
    DESC_RANGE(context, 0, 1, 268435456);
    DESC_RANGE(context, 268435457, 1, 268435456);
    DESC_RANGE(heads, 0, 1, 1024);
    DESC_RANGE(heads, 1025, 1, 1024);
    DESC_RANGE(kv_heads, 0, 1, 2);
    DESC_RANGE(kv_heads, 3, 1, 2);
    DESC_RANGE(head_size, 1, 2, 512);
    DESC_RANGE(head_size, 514, 2, 512);
    DESC_RANGE(value_size, 0, 1, 512);
    DESC_RANGE(value_size, 513, 1, 512);
    DESC_RANGE(ffn, 0, 1, 262144);
    DESC_RANGE(ffn, 262145, 1, 262144);
    DESC_RANGE(norm, 2, 0, 1);
    DESC_RANGE(activation, 5, 0, 4);
    DESC_RANGE(ropes, 9, 0, 8);
    BAD_FORMAT(desc_of(&f)->head_size = 33, "description: head_size is 33, not an even number");
    BAD_FORMAT((desc_of(&f)->heads = 3, desc_of(&f)->kv_heads = 2),
               "description: kv_heads 2 does not divide heads 3");
    BAD_FORMAT(desc_of(&f)->norm_epsilon = INFINITY, "description: norm_epsilon is inf, not a finite number");
    BAD_FORMAT(desc_of(&f)->norm_epsilon = 0, "description: norm_epsilon is 0, not above 0");
    NOT_FINITE(norm_epsilon);
    NOT_FINITE(query_scale);
    NOT_FINITE(embedding_scale);
    NOT_FINITE(residual_scale);
    NOT_FINITE(logit_scale);
    NOT_FINITE(attention_softcap);
    NOT_FINITE(logit_softcap);
    DESC_FLOAT(norm_epsilon, 0, "is 0, not above 0");
    DESC_FLOAT(norm_epsilon, 0xb727c5acu, "is -1e-05, not above 0");
    BAD_FORMAT(desc_of(&f)->logit_softcap = -1, "description: logit_softcap is -1, not 0 or in 1e-30 .. 1e30");
    BAD_FORMAT(desc_of(&f)->attention_softcap = -2.5f, "description: attention_softcap is -2.5, not 0 or in 1e-30 .. 1e30");
    BAD_FORMAT(desc_of(&f)->logit_softcap = 1e-31f, "description: logit_softcap is 1e-31, not 0 or in 1e-30 .. 1e30");
    BAD_FORMAT(desc_of(&f)->attention_softcap = 2e30f, "description: attention_softcap is 2e+30, not 0 or in 1e-30 .. 1e30");
    MUTATED(desc_of(&f)->experts = 8, LLM_ERROR_UNSUPPORTED, "description: experts is 8, this version supports 0");
    MUTATED(desc_of(&f)->flags = 0x10, LLM_ERROR_UNSUPPORTED, "description: flags is 16, this version supports 0");
    MUTATED(desc_of(&f)->norm = 1, LLM_ERROR_UNSUPPORTED, "description: norm is 1, this version supports 0");
    MUTATED(desc_of(&f)->activation = 2, LLM_ERROR_UNSUPPORTED,
            "description: activation is 2, this version supports 0, 1, 3 and 4");
}

#define BAD_TENSOR(role, layer, statement, message)    \
    BAD_FORMAT(                                         \
        {                                               \
            llm__file_tensor *t = tensor_of(&f, role, layer); \
            statement;                                  \
        },                                              \
        message)

static void test_directory(void) {
    static const struct { uint32_t role; const char *name; } unused[] = {
        {LLM__POSITIONS, "positions"}, {LLM__ROUTER, "ffn_router"}, {LLM__ATTN_NORM_BIAS, "attn_norm_bias"},
        {LLM__FFN_NORM_BIAS, "ffn_norm_bias"}, {LLM__OUT_NORM_BIAS, "out_norm_bias"}};
    char message[200];
    size_t i;
    const llm__file_tensor *q = tensor_of(&good, LLM__Q, 1);
    const llm__file_section *data = section_of(&good, LLM__SECTION_DATA);
    BAD_TENSOR(LLM__Q, 1, t->layer = 2, "tensor blk.2.attn_q: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__ROPE, 0, t->layer = 1, "tensor blk.1.rope: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__Q, 1, t->type = LLM_TYPE_COUNT, "tensor blk.1.attn_q: type is 8, not in 0 .. 7");
    BAD_TENSOR(LLM__ATTN_NORM, 0, t->type = LLM_Q8, "tensor blk.0.attn_norm: type is 2, not in 0 .. 0");
    BAD_TENSOR(LLM__Q, 0, t->rows = 0, "tensor blk.0.attn_q: shape 0 x 64, not in 1 .. 4194304 x 1 .. 262144");
    BAD_TENSOR(LLM__Q, 0, t->cols = 262145, "tensor blk.0.attn_q: shape 64 x 262145, not in 1 .. 4194304 x 1 .. 262144");
    BAD_TENSOR(LLM__K, 0, t->rows = 64, "tensor blk.0.attn_k: shape 64 x 64, the description asks for 32 x 64");
    BAD_TENSOR(LLM__DOWN, 0, t->cols = 65, "tensor blk.0.ffn_down: shape 64 x 65, the description asks for 64 x 64");
    BAD_TENSOR(LLM__ROPE, 0, t->cols = 17, "tensor blk.0.rope: 17 pairs do not fit a head of 32");
    BAD_TENSOR(LLM__Q, 0, t->rotation = 48, "tensor blk.0.attn_q: rotation is 48, not 0, 16, 32 or 64");
    BAD_TENSOR(LLM__Q, 0, t->row_rotation = 32, "tensor blk.0.attn_q: row_rotation is 32, not 0");
    BAD_TENSOR(LLM__V, 0, t->row_rotation = 64, "tensor blk.0.attn_v: row_rotation 64 does not divide value_size 32");
    BAD_TENSOR(LLM__V, 0, t->row_rotation = 8, "tensor blk.0.attn_v: row_rotation is 8, not 0, 16, 32 or 64");
    BAD_TENSOR(LLM__ATTN_NORM, 0, t->rotation = 16, "tensor blk.0.attn_norm: rotation is 16, not 0");
    BAD_TENSOR(LLM__K, 0, t->rotation = 16, "tensor blk.0.attn_k: rotation 16, but attn_q has 64");
    (void)snprintf(message, sizeof message, "tensor blk.1.attn_q: offset 0x%llx is not a multiple of 64",
                   (unsigned long long)q->offset + 32);
    BAD_TENSOR(LLM__Q, 1, t->offset += 32, message);
    for (i = 0; i < 3; i++) {
        const uint64_t offsets[] = {~(uint64_t)63, 0, data->offset + (data->size + 63) / 64 * 64 - 192};
        (void)snprintf(message, sizeof message,
                       "tensor out_norm: offset 0x%llx + 256 bytes is outside section DATA, 0x%llx + %llu",
                       (unsigned long long)offsets[i], (unsigned long long)data->offset, (unsigned long long)data->size);
        BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, t->offset = offsets[i], message);
    }
    (void)snprintf(message, sizeof message, "tensor blk.1.attn_q: %llu bytes, its shape asks for %llu",
                   (unsigned long long)q->size - 1, (unsigned long long)q->size);
    BAD_TENSOR(LLM__Q, 1, t->size--, message);
    BAD_TENSOR(LLM__FFN_NORM, 1, (t->role = LLM__ATTN_NORM), "tensor blk.1.attn_norm: stands twice in the directory");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__ATTN_POST_NORM, "tensor blk.1.ffn_norm is missing");
    MUTATED(tensor_of(&f, LLM__Q, 1)->role = 99, LLM_ERROR_UNSUPPORTED, "directory: a tensor has role 99, not in 0 .. 29");
    MUTATED(tensor_of(&f, LLM__Q, 1)->expert = 3, LLM_ERROR_UNSUPPORTED, "tensor blk.1.attn_q: expert 3, this version supports none (4294967295)");
    BAD_FORMAT(layers_of(&f)[1].rope = 1, "layer 1: rope 1, the description has 1");
    /* With q as floats, k and v still share an input. */
    BAD_FORMAT((tensor_of(&f, LLM__Q, 0)->rotation = 0, tensor_of(&f, LLM__Q, 0)->type = LLM_BF16,
                tensor_of(&f, LLM__Q, 0)->size = 64 * 64 * 2, tensor_of(&f, LLM__K, 0)->rotation = 16),
               "tensor blk.0.attn_v: rotation 64, but attn_k has 16");
    for (i = 0; i < sizeof unused / sizeof *unused; i++) {
        (void)snprintf(message, sizeof message, "tensor blk.1.%s: not in this version", unused[i].name);
        MUTATED(tensor_of(&f, LLM__Q, 1)->role = unused[i].role, LLM_ERROR_UNSUPPORTED, message);
    }
}

/* Every role asks for a shape of its own. */
static void test_shapes(void) {
    BAD_TENSOR(LLM__ATTN_NORM, 0, t->cols = 63, "tensor blk.0.attn_norm: shape 1 x 63, the description asks for 1 x 64");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__Q_BIAS, "tensor blk.1.ffn_norm is missing");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__K_BIAS, "tensor blk.1.attn_k_bias: shape 1 x 64, the description asks for 1 x 32");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__V_BIAS, "tensor blk.1.attn_v_bias: shape 1 x 64, the description asks for 1 x 32");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__K_NORM, "tensor blk.1.attn_k_norm: shape 1 x 64, the description asks for 1 x 32");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__GATE_UP_BIAS, "tensor blk.1.ffn_gate_up_bias: shape 1 x 64, the description asks for 1 x 128");
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, t->role = LLM__HEAD_BIAS, "tensor head_bias: shape 1 x 64, the description asks for 1 x 320");
    BAD_TENSOR(LLM__ROPE, 0, t->rows = 2, "tensor blk.0.rope: shape 2 x 16, the description asks for 1 x 16");
}

/* A panel's size by the description of the format, for all widths and types. */
static void test_formats(void) {
    static const unsigned bits[LLM_TYPE_COUNT] = {32, 16, 8, 6, 5, 4, 3, 2};
    uint32_t k, type;
    for (k = 64; k <= 4096; k += 64) {
        const uint32_t block = k % 256 == 0 ? 256 : k % 192 == 0 ? 192 : k % 128 == 0 ? 128 : 64;
        CHECK(llm__super_block(k) == block && k % block == 0, "%u: blocks of %u", k, llm__super_block(k));
        CHECK(llm__padded(k) == k && llm__padded(k - 1) == k && llm__padded(k - 63) == k, "%u padded", k);
        for (type = 0; type < LLM_TYPE_COUNT; type++) {
            const size_t head = type <= LLM_BF16 ? 0 : k / block * 16 * 2 + (type == LLM_Q8 ? 0 : k / 16 * 16 / 2);
            CHECK(llm__panel_header(type, k) == (head + 63) / 64 * 64, "type %u: header of %zu", type, llm__panel_header(type, k));
            CHECK(llm__panel_size(type, k) == (head + 63) / 64 * 64 + (size_t)k * 16 * bits[type] / 8,
                  "type %u, %u columns: %zu bytes", type, k, llm__panel_size(type, k));
        }
    }
}

/* Files that lack what need not be there, or hold more than is usual. */
static void test_optional(void) {
    image f = copy_of(&good);
    llm_model_desc desc;
    llm_model_info info;
    llm_model *model;
    llm_error error;
    llm__file_tensor *q = tensor_of(&f, LLM__Q, 0);
    section_of(&f, LLM__SECTION_TOKN)->kind = LLM__FOURCC('N', 'E', 'W', '!');
    section_of(&f, LLM__SECTION_META)->kind = 0, section_of(&f, LLM__SECTION_TMPL)->kind = 1;
    memcpy(desc_of(&f)->family, "sixteen letters!", 16);
    q->type = LLM_BF16, q->rotation = 0, q->size = 64 * 64 * 2; /* beside keys that are rotated */
    seal(&f);
    memset(&desc, 0, sizeof desc);
    desc.data = f.data, desc.size = f.size, desc.error = &error;
    CHECK(llm_model_open(&model, &desc) == LLM_OK, "%s", error.text);
    try_out(model, LLM_KV_Q8);
    llm_model_get_info(model, &info);
    CHECK(info.family.size == 16 && !memcmp(info.family.data, "sixteen letters!", 16), "%zu", info.family.size);
    CHECK(!llm_model_tokenizer(model) && !llm_model_template(model).size && !llm_model_meta(model).size, "nothing");
    llm_model_close(model);
    free(f.data);
}

/* A directory of more than 16 MB. */
static void test_long_directory(void) {
    const size_t at = (good.size + 4095) / 4096 * 4096, size = (1u << 24) + 64;
    llm__file_section *s;
    image f;
    void *data = NULL;
    if (posix_memalign(&data, 64, at + size)) exit(1);
    f.data = (uint8_t *)memset(data, 0, at + size), f.size = at + size;
    memcpy(f.data, good.data, good.size);
    header_of(&f)->file_size = f.size;
    s = section_of(&f, LLM__SECTION_TDIR);
    s->offset = at, s->size = size;
    seal(&f);
    expect(&f, LLM_ERROR_FORMAT, "section TDIR: 16777280 bytes, not a multiple of 64 up to 16777216", __LINE__);
    free(f.data);
}

/* A vector of odd length at the very end of a file: its last line cannot be read whole. */
static void test_last_line(void) {
    const size_t end = good.size + 120;
    size_t size;
    for (size = end; size <= end + 8; size += 8) {
        image f;
        char message[200];
        llm_error error;
        llm__file_tensor *t;
        void *data = NULL;
        if (posix_memalign(&data, 64, size)) exit(1);
        f.data = (uint8_t *)memcpy(data, good.data, good.size), f.size = size;
        memset(f.data + good.size, 0, size - good.size);
        t = tensor_of(&f, LLM__ROPE, 0);
        t->cols = 15, t->size = 120, t->offset = good.size;
        section_of(&f, LLM__SECTION_DATA)->size = end - section_of(&f, LLM__SECTION_DATA)->offset;
        header_of(&f)->file_size = size;
        seal(&f);
        (void)snprintf(message, sizeof message, "tensor blk.0.rope: offset 0x%llx + %llu bytes, rounded up to 64, "
                       "passes the end of the file of %zu", (unsigned long long)t->offset,
                       (unsigned long long)t->size, size);
        if (size == end) expect(&f, LLM_ERROR_FORMAT, message, __LINE__);
        else CHECK(open_image(&f, false, &error) == LLM_OK, "%s", error.text);
        free(f.data);
    }
}

/* Roles that belong to no layer given one, and the other way round, must not pass unseen. */
static void test_missing(void) {
    BAD_FORMAT(section_of(&f, LLM__SECTION_TDIR)->size -= 64, "tensor embedding is missing"); /* it comes last */
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, (t->role = LLM__ATTN_POST_NORM, t->layer = 0), "tensor out_norm is missing");
    BAD_FORMAT((desc_of(&f)->ropes = 2, layers_of(&f)[1].rope = 1), "tensor blk.1.rope is missing");
}

static void test_misplaced(void) {
    BAD_TENSOR(LLM__EMBEDDING, LLM__NONE, t->layer = 0, "tensor blk.0.embedding: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, t->layer = 1, "tensor blk.1.out_norm: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__DOWN, 1, t->layer = LLM__NONE, "tensor ffn_down: has no place among 2 layers and 1 ropes");
}

/* ---- whole files ---- */

static void test_truncations(void) {
    char message[128];
    size_t size;
    llm_error error;
    for (size = 0; size < good.size; size += size < 8192 || size + 128 > good.size ? 1 : 61) {
        image f;
        void *data = NULL;
        llm_result r;
        if (posix_memalign(&data, 64, size ? size : 1)) exit(1);
        f.data = (uint8_t *)data, f.size = size;
        memcpy(f.data, good.data, size);
        r = open_image(&f, false, &error);
        CHECK(r == LLM_ERROR_FORMAT, "%zu bytes: %s", size, llm_result_name(r));
        if (size >= sizeof(llm__file_header)) { /* and with a header that claims to be right */
            header_of(&f)->file_size = size;
            r = open_image(&f, false, &error);
            CHECK(r == LLM_ERROR_FORMAT, "%zu bytes, as the header says: %s", size, llm_result_name(r));
            (void)snprintf(message, sizeof message, "header: %u sections pass the end of the file of %zu bytes",
                           (unsigned)header_of(&f)->section_count, size);
            if (size < 64 + header_of(&f)->section_count * 32u) CHECK(!strcmp(error.text, message), "%s", error.text);
        }
        free(f.data);
    }
}

/* Any single byte changed: an error or a model, never anything else. Sealed, so that the checks
   behind the checksums are reached. A file that opens can be evaluated. */
static void test_bytes(void) {
    const size_t end = (size_t)section_of(&good, LLM__SECTION_DATA)->offset;
    size_t at, opened = 0, tried = 0;
    uint32_t random = 1;
    for (at = 0; at < end; at += at % 4096 < 1500 ? 1 : 31) {
        image f = copy_of(&good);
        llm_error error;
        random = random * 1664525u + 1013904223u;
        f.data[at] ^= (uint8_t)(1u << (random >> 16) % 8);
        if (header_of(&f)->section_count <= 64 && header_of(&f)->section_count == header_of(&good)->section_count &&
            at >= 64 + header_of(&good)->section_count * 32)
            seal(&f);
        tried++;
        if (open_image(&f, false, &error) == LLM_OK) opened++;
        free(f.data);
    }
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

/* Words of description, layers and directory replaced by others that may just fit. */
static void test_words(void) {
    static const uint32_t words[] = {0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 256, 320, 1u << 16,
                                     1u << 31, 0x3f800000u, 0x7f7fffffu, 0xffffffffu};
    static const uint32_t kinds[] = {LLM__SECTION_DESC, LLM__SECTION_LAYR, LLM__SECTION_TDIR};
    size_t k, at, w, opened = 0, tried = 0;
    llm_error error;
    trying = true;
    for (k = 0; k < 3; k++) {
        const llm__file_section *s = section_of(&good, kinds[k]);
        for (at = 0; at < s->size; at += 4)
            for (w = at % 3; w < sizeof words / sizeof *words; w += k == 2 ? 3 : 1) {
                image f = copy_of(&good);
                memcpy(f.data + s->offset + at, &words[w], 4);
                seal(&f);
                tried++;
                if (open_image(&f, false, &error) == LLM_OK) opened++;
                else CHECK(error.text[0], "no message");
                free(f.data);
            }
    }
    trying = false;
    CHECK(opened > 0 && opened < tried, "%zu of %zu opened", opened, tried);
}

/* Weights, norms and rotary frequencies of random bits, infinities and NaN among them. */
static void test_garbage(void) {
    static const char *const types[] = {"f32", "bf16", "q8", "q6", "q5", "q4", "q3", "q2"};
    uint32_t random = 7;
    size_t t, i;
    llm_error error;
    trying = true;
    for (t = 0; t < sizeof types / sizeof *types; t++) {
        image f;
        const llm__file_section *data;
        f.data = (uint8_t *)fixture_read(fixture_model_path("gemma", types[t]), &f.size);
        data = section_of(&f, LLM__SECTION_DATA);
        for (i = (size_t)data->offset; i < (size_t)(data->offset + data->size); i++) {
            random = random * 1664525u + 1013904223u;
            f.data[i] = (uint8_t)(random >> 20);
        }
        CHECK(open_image(&f, false, &error) == LLM_OK, "%s: %s", types[t], error.text);
        free(f.data);
    }
    trying = false;
}

/* A damaged weight is found by `verify`, by name: its own checksum is looked at where that of DATA is wrong. */
static void test_verify(void) {
    static const struct { uint32_t role, layer; const char *name; } which[] = {
        {LLM__Q, 1, "blk.1.attn_q"}, {LLM__EMBEDDING, LLM__NONE, "embedding"}, {LLM__FFN_NORM, 0, "blk.0.ffn_norm"}};
    static const uint32_t kinds[] = {LLM__SECTION_TOKN, LLM__SECTION_TMPL, LLM__SECTION_META};
    llm_error error;
    size_t i;
    CHECK(open_image(&good, true, &error) == LLM_OK, "%s", error.text);
    for (i = 0; i < 3; i++) {
        image f = copy_of(&good);
        char what[80];
        const llm__file_tensor *t = tensor_of(&f, which[i].role, which[i].layer);
        const llm__file_section *s;
        f.data[t->offset + t->size - 1] ^= 1;
        CHECK(open_image(&f, false, &error) == LLM_OK, "%s", error.text);
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM, "%s", error.text);
        (void)snprintf(what, sizeof what, "tensor %s", which[i].name);
        CHECK(!strcmp(error.text, sum_message(f.data + t->offset, (size_t)t->size, t->checksum, what)), "%s", error.text);
        free(f.data), f = copy_of(&good);
        tensor_of(&f, which[i].role, which[i].layer)->checksum ^= 1;
        seal(&f);
        CHECK(open_image(&f, true, &error) == LLM_OK, "%s", error.text);
        section_of(&f, LLM__SECTION_DATA)->checksum = 5;
        seal(&f);
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM && strstr(error.text, what) == error.text, "%s", error.text);
        free(f.data), f = copy_of(&good);
        section_of(&f, LLM__SECTION_DATA)->checksum = 5;
        seal(&f);
        s = section_of(&f, LLM__SECTION_DATA);
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM &&
                  !strcmp(error.text, sum_message(f.data + s->offset, (size_t)s->size, 5, "section DATA")), "%s", error.text);
        free(f.data), f = copy_of(&good);
        s = section_of(&f, kinds[i]);
        f.data[s->offset + s->size - 1] ^= 1;
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM, "%s", error.text);
        (void)snprintf(what, sizeof what, "section %.4s", (const char *)&kinds[i]);
        CHECK(!strcmp(error.text, sum_message(f.data + s->offset, (size_t)s->size, s->checksum, what)), "%s", error.text);
        free(f.data);
    }
}

/* A file inside a larger one, as in a game's archive: between other things, which are not looked at. */
static void test_inside(void) {
    const size_t before = 64 * 3, after = 1000, total = before + good.size + after;
    image pak = {NULL, 0}, inside;
    void *memory = NULL;
    llm_error error;
    if (posix_memalign(&memory, 64, total)) exit(1);
    pak.data = (uint8_t *)memory, pak.size = total;
    memset(pak.data, 0xa5, total);
    memcpy(pak.data + before, good.data, good.size);
    inside.data = pak.data + before, inside.size = good.size;
    trying = true;
    CHECK(open_image(&inside, true, &error) == LLM_OK, "%s", error.text);
    trying = false;
    inside.size += 64; /* the archive's index and the file do not agree */
    CHECK(open_image(&inside, true, &error) == LLM_ERROR_FORMAT && strstr(error.text, "file_size"), "%s", error.text);
    memmove(pak.data + before + 32, pak.data + before, good.size);
    inside.data += 32, inside.size = good.size;
    CHECK(open_image(&inside, true, &error) == LLM_ERROR_ARGUMENT &&
              !strcmp(error.text, "model: data is 32 bytes past a multiple of 64, must be at one"), "%s", error.text);
    free(pak.data);
}

static void refuse_open(const llm_model_desc *given, llm_result code, const char *message) {
    llm_model_desc desc = *given;
    llm_model *model = (llm_model *)(void *)&desc; /* must be overwritten */
    llm_error error;
    desc.error = &error;
    CHECK(llm_model_open(&model, &desc) == code && !model && error.code == code && !strcmp(error.text, message),
          "%s \"%s\",\n    expected %s \"%s\"", llm_result_name(error.code), error.text, llm_result_name(code), message);
    desc.error = NULL;
    CHECK(llm_model_open(&model, &desc) == code && !model, "without an error to fill in");
}

static void *no_memory(void *user, size_t size, size_t align) {
    (void)user, (void)size, (void)align;
    return NULL;
}

static void test_arguments(void) {
    static const char *const absent = "build/tests/there is no such file.llm";
    llm_model_desc desc;
    llm_model *model = NULL;
    char message[1400], path[1200];
    size_t i;
    memset(&desc, 0, sizeof desc);
    CHECK(llm_model_open(NULL, &desc) == LLM_ERROR_ARGUMENT, "no model");
    CHECK(llm_model_open(&model, NULL) == LLM_ERROR_ARGUMENT, "no descriptor");
    refuse_open(&desc, LLM_ERROR_ARGUMENT, "model: 0 of path, data and read are given, want exactly one");
    desc.data = good.data + 4, desc.size = good.size - 4;
    refuse_open(&desc, LLM_ERROR_ARGUMENT, "model: data is 4 bytes past a multiple of 64, must be at one");
    desc.data = NULL;
#if !defined(_WIN32)
    desc.path = absent;
    (void)snprintf(message, sizeof message, "%s: cannot be opened (errno %d)", absent, ENOENT);
    refuse_open(&desc, LLM_ERROR_IO, message);
    desc.path = fixture_folder;
    (void)snprintf(message, sizeof message, "%s: is not a regular file", fixture_folder);
    refuse_open(&desc, LLM_ERROR_IO, message);
    (void)snprintf(path, sizeof path, "%s/empty.llm", fixture_folder);
    fclose(fopen(path, "wb"));
    desc.path = path;
    (void)snprintf(message, sizeof message, "%s: 0 bytes, not in 1 .. %zu", path, SIZE_MAX);
    refuse_open(&desc, LLM_ERROR_IO, message);
    (void)remove(path);
    desc.path = fixture_model_path("llama-tied", "q8");
    (void)snprintf(message, sizeof message, "%s: cannot be examined (errno %d)", desc.path, EOVERFLOW);
    no_status = true;
    refuse_open(&desc, LLM_ERROR_IO, message);
    no_status = false, no_map = true;
    (void)snprintf(message, sizeof message, "%s: cannot be mapped (errno %d)", desc.path, ENOMEM);
    refuse_open(&desc, LLM_ERROR_IO, message);
    no_map = false;
#endif
    desc.path = fixture_model_path("llama-tied", "q8");
    desc.allocator.allocate = no_memory;
    (void)snprintf(message, sizeof message, "model: no memory for a directory of %zu bytes",
                   sizeof(llm_model) + 3 * LLM__ROLE_COUNT * sizeof(llm__tensor));
    refuse_open(&desc, LLM_ERROR_MEMORY, message);
    desc.allocator.allocate = NULL;
#if !defined(_WIN32) /* which would refuse the path as no UTF-8 */
    { /* the message is cut between characters */
        llm_error error;
        const char *end;
        for (i = 0; i + 3 < 400; i += 3) memcpy(path + i, "\xE2\x82\xAC", 4);
        desc.error = &error;
        for (i = 0; i < 3; i++) {
            desc.path = path + 3 - i, path[3 - i] = 'x';
            CHECK(llm_model_open(&model, &desc) == LLM_ERROR_IO, "a path of 400 bytes");
            end = strrchr(error.text, (char)0xE2);
            CHECK(strlen(error.text) >= 248 && end && strlen(end) == 3, "cut to %zu bytes: %s", strlen(error.text), error.text);
        }
    }
#endif
    llm_model_close(NULL);
}

static void test_no_model(void) {
    llm_model_info info;
    memset(&info, 1, sizeof info);
    llm_model_get_info(NULL, &info);
    CHECK(info.vocab == 0 && info.weight_size == 0 && info.family.size == 0 && info.family.data, "what no model is");
    llm_model_get_info(NULL, NULL);
    CHECK(!llm_model_tokenizer(NULL) && !llm_model_template(NULL).size && !llm_model_meta(NULL).size, "what no model has");
}

static void test_info(void) {
    llm_model *model = fixture_open("llama-tied", "q8");
    llm_model_info i;
    llm_text meta = llm_model_meta(model), chat = llm_model_template(model);
    llm_model_get_info(model, &i);
    CHECK(i.family.size == 5 && !memcmp(i.family.data, "llama", 5), "%.*s", (int)i.family.size, i.family.data);
    CHECK(i.vocab == 320 && i.width == 64 && i.layers == 2, "%u %u %u", i.vocab, i.width, i.layers);
    CHECK(i.heads == 2 && i.kv_heads == 1 && i.head_size == 32, "%u %u %u", i.heads, i.kv_heads, i.head_size);
    CHECK(i.ffn == 64 && i.context == 256, "%u %u", i.ffn, i.context);
    CHECK(i.file_size == good.size, "%llu", (unsigned long long)i.file_size);
    CHECK(i.weights == 320 * 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 64), "%llu", (unsigned long long)i.weights);
    CHECK(i.weight_size > i.weights && i.weight_size < i.weights * 5 / 4, "%llu", (unsigned long long)i.weight_size);
    CHECK(llm_model_tokenizer(model) != NULL, "no tokenizer");
    CHECK(meta.size > 0 && meta.data[meta.size - 1] == '\n', "meta of %zu bytes", meta.size);
    CHECK(chat.size > 0 && chat.data[0] == '{', "template of %zu bytes", chat.size);
    llm_model_close(model);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    good.data = (uint8_t *)fixture_read(fixture_model_path("llama-tied", "q8"), &good.size);
    test_inside();
    test_arguments();
    test_no_model();
    test_info();
    test_header();
    test_sections();
    test_description();
    test_directory();
    test_shapes();
    test_formats();
    test_optional();
    test_long_directory();
    test_last_line();
    test_missing();
    test_misplaced();
    test_truncations();
    test_bytes();
    test_words();
    test_garbage();
    test_verify();
    free(good.data);
    return check_report("model");
}
