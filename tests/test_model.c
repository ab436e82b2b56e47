/* Opening files that are cut, wrong and mutated: a code, and a message that names field and value. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
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
    if (model && trying) try_out(model, LLM_KV_Q8), try_out(model, LLM_KV_F16);
    llm_model_close(model);
    return r;
}

static void expect(const image *f, llm_result want, const char *message, int line) {
    llm_error error;
    llm_result r = open_image(f, false, &error);
    CHECK(r == want && !strcmp(error.text, message), "line %d: %s \"%s\",\n    expected %s \"%s\"", line,
          llm_result_name(r), error.text, llm_result_name(want), message);
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
    BAD_FORMAT(f.data[0] = 'L', "header: the magic is not that of a .llm file");
    BAD_FORMAT(f.data[5] = '\n', "header: the magic is not that of a .llm file");
    MUTATED(header_of(&f)->version = 2, LLM_ERROR_VERSION, "header: version 2, this library reads 1");
    MUTATED(header_of(&f)->version = 0, LLM_ERROR_VERSION, "header: version 0, this library reads 1");
    {
        image f = copy_of(&good);
        header_of(&f)->section_count = 0;
        expect(&f, LLM_ERROR_FORMAT, "header: section_count 0 is not in 1 .. 64", __LINE__);
        header_of(&f)->section_count = 65;
        expect(&f, LLM_ERROR_FORMAT, "header: section_count 65 is not in 1 .. 64", __LINE__);
        header_of(&f)->section_count = 6;
        expect(&f, LLM_ERROR_CHECKSUM, "header: the section table does not match its checksum", __LINE__);
        free(f.data);
        f = copy_of(&good);
        section_of(&f, LLM__SECTION_DESC)->size++;
        expect(&f, LLM_ERROR_CHECKSUM, "header: the section table does not match its checksum", __LINE__);
        free(f.data);
    }
    {
        char message[128];
        (void)snprintf(message, sizeof message, "header: file_size 5, but the file has %zu bytes", good.size);
        BAD_FORMAT(header_of(&f)->file_size = 5, message);
    }
}

static void test_sections(void) {
    char message[200];
    const llm__file_section *data = section_of(&good, LLM__SECTION_DATA);
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->offset += 64,
               "section DESC: offset 0x1040 + 128 bytes is unaligned or passes the end of the file");
    BAD_FORMAT(section_of(&f, LLM__SECTION_LAYR)->offset = ~(uint64_t)4095,
               "section LAYR: offset 0xfffffffffffff000 + 32 bytes is unaligned or passes the end of the file");
    (void)snprintf(message, sizeof message,
                   "section DATA: offset 0x%llx + 18446744073709551615 bytes is unaligned or passes the end of the file",
                   (unsigned long long)data->offset);
    BAD_FORMAT(section_of(&f, LLM__SECTION_DATA)->size = ~(uint64_t)0, message);
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->size = 127, "section DESC: 127 bytes, needs 128");
    BAD_FORMAT(section_of(&f, LLM__SECTION_LAYR)->size = 16, "section LAYR: 16 bytes, 2 layers ask for 32");
    BAD_FORMAT(section_of(&f, LLM__SECTION_TDIR)->size = 1407,
               "section TDIR: 1407 bytes, not a multiple of 64 up to 16 MB");
    BAD_FORMAT(section_of(&f, LLM__SECTION_TDIR)->size = 0, "tensor embedding is missing");
    {
        image f = copy_of(&good);
        desc_of(&f)->vocab ^= 1;
        expect(&f, LLM_ERROR_CHECKSUM, "section DESC: does not match its checksum", __LINE__);
        free(f.data), f = copy_of(&good);
        layers_of(&f)->window = 1;
        expect(&f, LLM_ERROR_CHECKSUM, "section LAYR: does not match its checksum", __LINE__);
        free(f.data), f = copy_of(&good);
        tensor_of(&f, LLM__Q, 1)->offset += 64;
        expect(&f, LLM_ERROR_CHECKSUM, "section TDIR: does not match its checksum", __LINE__);
        free(f.data);
    }
    BAD_FORMAT(section_of(&f, LLM__SECTION_DESC)->kind = 1, "section DESC: 0 bytes, needs 128");
    BAD_FORMAT(section_of(&f, LLM__SECTION_META)->kind = LLM__SECTION_TOKN, "section TOKN: stands twice in the table");
    BAD_FORMAT((section_of(&f, LLM__SECTION_META)->offset++, section_of(&f, LLM__SECTION_META)->kind = 0xff41001b),
               "section ??A?: offset 0x4001 + 121 bytes is unaligned or passes the end of the file");
}

#define DESC_RANGE(field, value, least, most)            \
    BAD_FORMAT(desc_of(&f)->field = value##u,            \
               "description: " #field " is " #value ", not in " #least " .. " #most)
#define DESC_FLOAT(field, value, message) \
    BAD_FORMAT(desc_of(&f)->field = llm__float(value), "description: " #field " " message)
#define NOT_FINITE(field)                        \
    DESC_FLOAT(field, 0x7f800000u, "is not finite"); \
    DESC_FLOAT(field, 0x7fc00001u, "is not finite"); \
    DESC_FLOAT(field, 0xff800000u, "is not finite")

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
    BAD_FORMAT(desc_of(&f)->head_size = 33, "description: head_size 33 is odd");
    BAD_FORMAT((desc_of(&f)->heads = 3, desc_of(&f)->kv_heads = 2),
               "description: kv_heads 2 does not divide heads 3");
    NOT_FINITE(norm_epsilon);
    NOT_FINITE(query_scale);
    NOT_FINITE(embedding_scale);
    NOT_FINITE(residual_scale);
    NOT_FINITE(logit_scale);
    NOT_FINITE(attention_softcap);
    NOT_FINITE(logit_softcap);
    DESC_FLOAT(norm_epsilon, 0, "is not above 0");
    DESC_FLOAT(norm_epsilon, 0xb727c5acu, "is not above 0");
    SOFTCAPS(-1.0f, 0.0f, "-1", "0");
    SOFTCAPS(0.0f, -30.0f, "0", "-30");
    SOFTCAPS(0.0f, 1e-31f, "0", "1e-31");
    SOFTCAPS(2e30f, 30.0f, "2e+30", "30");
    MUTATED(desc_of(&f)->experts = 8, LLM_ERROR_UNSUPPORTED,
            "description: experts 8, norm 0, flags 0x0, activation 0: not in this version");
    MUTATED(desc_of(&f)->flags = 0x10, LLM_ERROR_UNSUPPORTED,
            "description: experts 0, norm 0, flags 0x10, activation 0: not in this version");
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
    BAD_TENSOR(LLM__Q, 1, t->layer = 2, "tensor blk.2.attn_q: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__ROPE, 0, t->layer = 1, "tensor blk.1.rope: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__Q, 1, t->type = 7, "tensor blk.1.attn_q: type 7 does not fit its role");
    BAD_TENSOR(LLM__ATTN_NORM, 0, t->type = LLM_Q8, "tensor blk.0.attn_norm: type 2 does not fit its role");
    BAD_TENSOR(LLM__Q, 0, t->rows = 0, "tensor blk.0.attn_q: shape 0 x 64 is out of range");
    BAD_TENSOR(LLM__Q, 0, t->cols = 262145, "tensor blk.0.attn_q: shape 64 x 262145 is out of range");
    BAD_TENSOR(LLM__K, 0, t->rows = 64, "tensor blk.0.attn_k: shape 64 x 64, the description asks for 32 x 64");
    BAD_TENSOR(LLM__DOWN, 0, t->cols = 65, "tensor blk.0.ffn_down: shape 64 x 65, the description asks for 64 x 64");
    BAD_TENSOR(LLM__ROPE, 0, t->cols = 17, "tensor blk.0.rope: 17 pairs do not fit a head of 32");
    BAD_TENSOR(LLM__Q, 0, t->rotation = 48, "tensor blk.0.attn_q: rotation 48, rows 0: not 0, 16, 32 or 64, or it does not fit");
    BAD_TENSOR(LLM__Q, 0, t->row_rotation = 32, "tensor blk.0.attn_q: rotation 64, rows 32: not 0, 16, 32 or 64, or it does not fit");
    BAD_TENSOR(LLM__V, 0, t->row_rotation = 64, "tensor blk.0.attn_v: rotation 64, rows 64: not 0, 16, 32 or 64, or it does not fit");
    BAD_TENSOR(LLM__K, 0, t->rotation = 16, "tensor blk.0.attn_k: rotation 16, but attn_q has 64");
    (void)snprintf(message, sizeof message, "tensor blk.1.attn_q: offset 0x%llx + %llu bytes is unaligned or passes the end of the data",
                   (unsigned long long)q->offset + 32, (unsigned long long)q->size);
    BAD_TENSOR(LLM__Q, 1, t->offset += 32, message);
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, (t->offset = ~(uint64_t)63),
               "tensor out_norm: offset 0xffffffffffffffc0 + 256 bytes is unaligned or passes the end of the data");
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, t->offset = 0,
               "tensor out_norm: offset 0x0 + 256 bytes is unaligned or passes the end of the data");
    (void)snprintf(message, sizeof message, "tensor blk.1.attn_q: %llu bytes, its shape asks for %llu",
                   (unsigned long long)q->size - 1, (unsigned long long)q->size);
    BAD_TENSOR(LLM__Q, 1, t->size--, message);
    BAD_TENSOR(LLM__FFN_NORM, 1, (t->role = LLM__ATTN_NORM), "tensor blk.1.attn_norm: stands twice in the directory");
    BAD_TENSOR(LLM__FFN_NORM, 1, t->role = LLM__ATTN_POST_NORM, "tensor blk.1.ffn_norm is missing");
    MUTATED(tensor_of(&f, LLM__Q, 1)->role = 99, LLM_ERROR_UNSUPPORTED, "directory: a tensor has role 99, not in 0 .. 27");
    MUTATED(tensor_of(&f, LLM__Q, 1)->expert = 3, LLM_ERROR_UNSUPPORTED, "tensor blk.1.attn_q: experts are not in this version");
    BAD_FORMAT(layers_of(&f)[1].rope = 1, "layer 1: rope 1, there are 1");
    /* With q as floats, k and v still share an input. */
    BAD_FORMAT((tensor_of(&f, LLM__Q, 0)->rotation = 0, tensor_of(&f, LLM__Q, 0)->type = LLM_BF16,
                tensor_of(&f, LLM__Q, 0)->size = 64 * 64 * 2, tensor_of(&f, LLM__K, 0)->rotation = 16),
               "tensor blk.0.attn_v: rotation 64, but attn_k has 16");
    for (i = 0; i < sizeof unused / sizeof *unused; i++) {
        (void)snprintf(message, sizeof message, "tensor blk.1.%s: not in this version", unused[i].name);
        MUTATED(tensor_of(&f, LLM__Q, 1)->role = unused[i].role, LLM_ERROR_UNSUPPORTED, message);
    }
}

/* Roles that belong to no layer given one, and the other way round, must not pass unseen. */
static void test_misplaced(void) {
    BAD_TENSOR(LLM__EMBEDDING, LLM__NONE, t->layer = 0, "tensor blk.0.embedding: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__OUT_NORM, LLM__NONE, t->layer = 1, "tensor blk.1.out_norm: has no place among 2 layers and 1 ropes");
    BAD_TENSOR(LLM__DOWN, 1, t->layer = LLM__NONE, "tensor ffn_down: has no place among 2 layers and 1 ropes");
}

/* ---- whole files ---- */

static void test_truncations(void) {
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
    static const char *const types[] = {"f32", "bf16", "q8", "q6", "q5", "q4", "q3"};
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

/* A damaged weight is found by `verify`, by name. */
static void test_verify(void) {
    static const struct { uint32_t role, layer; const char *name; } which[] = {
        {LLM__Q, 1, "blk.1.attn_q"}, {LLM__EMBEDDING, LLM__NONE, "embedding"}, {LLM__FFN_NORM, 0, "blk.0.ffn_norm"}};
    static const uint32_t kinds[] = {LLM__SECTION_TOKN, LLM__SECTION_TMPL, LLM__SECTION_META};
    llm_error error;
    size_t i;
    CHECK(open_image(&good, true, &error) == LLM_OK, "%s", error.text);
    for (i = 0; i < 3; i++) {
        image f = copy_of(&good);
        char message[80];
        const llm__file_tensor *t = tensor_of(&f, which[i].role, which[i].layer);
        f.data[t->offset + t->size - 1] ^= 1;
        CHECK(open_image(&f, false, &error) == LLM_OK, "%s", error.text);
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM, "%s", error.text);
        (void)snprintf(message, sizeof message, "tensor %s: does not match its checksum", which[i].name);
        CHECK(!strcmp(error.text, message), "%s", error.text);
        free(f.data), f = copy_of(&good);
        f.data[section_of(&f, kinds[i])->offset + section_of(&f, kinds[i])->size - 1] ^= 1;
        CHECK(open_image(&f, true, &error) == LLM_ERROR_CHECKSUM, "%s", error.text);
        (void)snprintf(message, sizeof message, "section %.4s: does not match its checksum", (const char *)&kinds[i]);
        CHECK(!strcmp(error.text, message), "%s", error.text);
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

static void test_arguments(void) {
    llm_model_desc desc;
    llm_error error;
    llm_model *model = NULL;
    char message[600];
    memset(&desc, 0, sizeof desc);
    desc.error = &error;
    CHECK(llm_model_open(NULL, &desc) == LLM_ERROR_ARGUMENT, "no model");
    CHECK(llm_model_open(&model, NULL) == LLM_ERROR_ARGUMENT, "no descriptor");
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_ARGUMENT &&
              !strcmp(error.text, "model: want exactly one of path, data and read"), "%s", error.text);
    desc.data = good.data + 4, desc.size = good.size - 4;
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_ARGUMENT &&
              !strcmp(error.text, "model: data is 4 bytes past a multiple of 64, must be at one"), "%s", error.text);
    desc.path = "x";
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_ARGUMENT &&
              !strcmp(error.text, "model: want exactly one of path, data and read"), "%s", error.text);
    desc.data = NULL;
    desc.path = "build/tests/there is no such file.llm";
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_IO &&
              !strncmp(error.text, "build/tests/there is no such file.llm: cannot be opened (errno", 60), "%s", error.text);
    desc.error = NULL;
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_IO, "without an error to fill in");
    desc.error = &error;
    desc.path = fixture_folder;
    (void)snprintf(message, sizeof message, "%s: cannot be mapped (is it an ordinary, non-empty file?)", fixture_folder);
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_IO && !strcmp(error.text, message), "%s", error.text);
    CHECK(model == NULL, "a model from a failure");
    llm_model_close(NULL);
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
    test_info();
    test_header();
    test_sections();
    test_description();
    test_directory();
    test_misplaced();
    test_truncations();
    test_bytes();
    test_words();
    test_garbage();
    test_verify();
    free(good.data);
    return check_report("model");
}
