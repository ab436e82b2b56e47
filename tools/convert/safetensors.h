/* ======================================================================== */
/* safetensors: named tensors in a file                                      */
/* ========================================================================
   u64 size of the header; the header, a JSON object of name -> {"dtype", "shape", "data_offsets"}
   and perhaps "__metadata__"; the data, to which the offsets refer. What is checked: the header has
   at most 100,000,000 bytes and begins with '{'; shape times the size of the type is the distance
   of the offsets; all tensors together cover the data exactly once; no name twice.
   https://github.com/huggingface/safetensors

       safetensors_open_memory(st, name, data, size, error)   `name` is for messages
       safetensors_close(st) */
#ifndef CONVERT_SAFETENSORS_H
#define CONVERT_SAFETENSORS_H

#include "dequantize.h"
#include "json.h"
#include "source.h"

#define SAFETENSORS_HEADER 100000000u

/* ---- types ------------------------------------------------------------- */

/* Sign, 4 bits of exponent, 3 of fraction; no infinity, 0x7f and 0xff are no numbers. */
static void safetensors_e4m3(const uint8_t *p, float *out) {
    unsigned exponent = *p >> 3 & 15u, fraction = *p & 7u;
    float size = exponent ? (float)(8 + fraction) * ggml_bits((exponent + 117) << 23)
                          : (float)fraction * ggml_bits(118u << 23);
    if ((*p & 0x7fu) == 0x7fu) size = ggml_bits(0x7fc00000u);
    *out = *p & 0x80u ? -size : size;
}
/* The upper byte of a half. */
static void safetensors_e5m2(const uint8_t *p, float *out) {
    uint8_t half[2];
    half[0] = 0;
    half[1] = *p;
    *out = ggml_half(half);
}
static void safetensors_f32(const uint8_t *p, float *out) { *out = ggml_bits(llm__u32(p)); }

typedef struct safetensors_type {
    const char *name;
    unsigned size;                               /* bytes */
    void (*read)(const uint8_t *p, float *out);  /* NULL: nothing that weights are kept in */
} safetensors_type;

static const safetensors_type safetensors_types[] = {
    {"F32", 4, safetensors_f32},      {"F16", 2, ggml_f16},
    {"BF16", 2, ggml_bf16},           {"F8_E4M3", 1, safetensors_e4m3},
    {"F8_E5M2", 1, safetensors_e5m2}, {"F64", 8, NULL},
    {"I64", 8, NULL},                 {"U64", 8, NULL},
    {"I32", 4, NULL},                 {"U32", 4, NULL},
    {"I16", 2, NULL},                 {"U16", 2, NULL},
    {"I8", 1, NULL},                  {"U8", 1, NULL},
    {"BOOL", 1, NULL}};

/* ---- tensors ----------------------------------------------------------- */

enum { SAFETENSORS_DIMS = 8 };

typedef struct safetensors_tensor {
    llm_text name;
    const safetensors_type *type;
    unsigned dims;                   /* 0: one element */
    uint64_t shape[SAFETENSORS_DIMS]; /* the last lie side by side */
    uint64_t begin, size;            /* bytes, in the data */
    const uint8_t *data;
} safetensors_tensor;

typedef struct safetensors {
    const char *name;
    json header;
    safetensors_tensor *tensors; /* by place */
    size_t count;
} safetensors;

static llm_result safetensors_refuse(const safetensors *st, llm_text tensor, const char *what,
                                     const json *j, uint32_t found, llm_error *error) {
    static const char *const kinds[] = {"null", "false", "true", "a number", "a text", "an array",
                                        "an object"};
    const int kind = json_type(j, found);
    char text[48];
    if (found == JSON_NONE) (void)snprintf(text, sizeof text, "nothing");
    else if (kind == JSON_NUMBER)
        (void)snprintf(text, sizeof text, "%.*s", j->nodes[found].size > 40
                       ? 40 : (int)j->nodes[found].size, j->text + j->nodes[found].at);
    else if (kind == JSON_STRING)
        (void)snprintf(text, sizeof text, "\"%.40s\"", show(json_text(j, found)).text);
    else (void)snprintf(text, sizeof text, "%s", kinds[kind]);
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: %s, found %s", st->name,
                     show(tensor).text, what, text);
}

static llm_result safetensors_read_shape(const safetensors *st, safetensors_tensor *t,
                                         uint32_t node, uint64_t *bytes, llm_error *error) {
    const json *j = &st->header;
    uint32_t n;
    *bytes = t->type->size;
    if (json_type(j, node) != JSON_ARRAY || json_count(j, node) > SAFETENSORS_DIMS)
        return safetensors_refuse(st, t->name, "expected a shape of 0 .. 8 numbers", j, node,
                                  error);
    for (n = node + 1; n < json_next(j, node); n = json_next(j, n)) {
        uint64_t size;
        if (!json_uint64(j, n, &size) || size > ((uint64_t)1 << 56) / (*bytes ? *bytes : 1))
            return safetensors_refuse(st, t->name, "expected a shape of numbers, of at most 2^56 "
                                      "bytes", j, n, error);
        t->shape[t->dims++] = size;
        *bytes *= size;
    }
    return LLM_OK;
}

static llm_result safetensors_read(const safetensors *st, safetensors_tensor *t, uint32_t node,
                                   uint64_t room, llm_error *error) {
    const json *j = &st->header;
    const uint32_t dtype = json_find(j, node, "dtype");
    const uint32_t offsets = json_find(j, node, "data_offsets");
    uint64_t bytes, end = 0;
    llm_result result;
    size_t i;
    if (!t->name.size || json_type(j, node) != JSON_OBJECT)
        return safetensors_refuse(st, t->name, "expected a name and an object", j, node, error);
    for (i = 0; i < sizeof safetensors_types / sizeof *safetensors_types; i++)
        if (json_is(j, dtype, safetensors_types[i].name)) t->type = &safetensors_types[i];
    if (!t->type)
        return safetensors_refuse(st, t->name, "expected a dtype of 8 .. 64 bits (F32, F16, BF16, "
                                  "F8_E4M3, F8_E5M2, ...)", j, dtype, error);
    result = safetensors_read_shape(st, t, json_find(j, node, "shape"), &bytes, error);
    if (result != LLM_OK) return result;
    if (json_type(j, offsets) != JSON_ARRAY || json_count(j, offsets) != 2 ||
        !json_uint64(j, offsets + 1, &t->begin) || !json_uint64(j, offsets + 2, &end))
        return safetensors_refuse(st, t->name, "expected two numbers as data_offsets", j, offsets,
                                  error);
    if (t->begin > end || end > room)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: data_offsets %llu, %llu, "
                         "expected 0 .. %llu in order", st->name, show(t->name).text,
                         (unsigned long long)t->begin, (unsigned long long)end,
                         (unsigned long long)room);
    t->size = end - t->begin;
    if (t->size == bytes) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: data_offsets span %llu bytes, "
                     "expected %llu for its shape of %s", st->name, show(t->name).text,
                     (unsigned long long)t->size, (unsigned long long)bytes, t->type->name);
}

static int safetensors_by_place(const void *a, const void *b) {
    const safetensors_tensor *s = (const safetensors_tensor *)a, *t = (const safetensors_tensor *)b;
    if (s->begin != t->begin) return s->begin < t->begin ? -1 : 1;
    if (s->size != t->size) return s->size < t->size ? -1 : 1; /* empty ones first */
    return text_compare(s->name, t->name);
}

/* Each begins where the one before it ends, and the last ends with the file. */
static llm_result safetensors_place(safetensors *st, const uint8_t *data, uint64_t room,
                                    llm_error *error) {
    uint64_t at = 0;
    size_t i;
    if (st->count) qsort(st->tensors, st->count, sizeof *st->tensors, safetensors_by_place);
    for (i = 0; i < st->count; i++) {
        safetensors_tensor *t = &st->tensors[i];
        if (t->begin != at)
            return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: begins at byte %llu of "
                             "the data, expected %llu, where the one before it ends", st->name,
                             show(t->name).text, (unsigned long long)t->begin,
                             (unsigned long long)at);
        t->data = data + at;
        at += t->size;
    }
    if (at == room) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: the tensors end at byte %llu of the data, "
                     "expected %llu, the end of the file", st->name, (unsigned long long)at,
                     (unsigned long long)room);
}

/* ---- the whole --------------------------------------------------------- */

static void safetensors_close(safetensors *st) {
    json_free(&st->header);
    free(st->tensors);
    memset(st, 0, sizeof *st);
}

static llm_result safetensors_metadata(const safetensors *st, uint32_t node, llm_error *error) {
    const json *j = &st->header;
    uint32_t n;
    if (json_type(j, node) != JSON_OBJECT)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: __metadata__: expected an object of texts",
                         st->name);
    for (n = node + 1; n < json_next(j, node); n = json_next(j, n + 1))
        if (json_type(j, n + 1) != JSON_STRING)
            return llm__fail(error, LLM_ERROR_FORMAT, "%s: __metadata__: %.80s: expected a text",
                             st->name, show(json_text(j, n)).text);
    return LLM_OK;
}

static llm_result safetensors_parse(safetensors *st, const uint8_t *data, size_t size,
                                    llm_error *error) {
    const json *j = &st->header;
    uint64_t header = size >= 8 ? llm__u64(data) : 0, room;
    llm_result result;
    uint32_t n;
    if (size < 8 || header > size - 8 || header > SAFETENSORS_HEADER || header < 2)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: a header of %llu bytes, expected 2 .. %llu",
                         st->name, (unsigned long long)header,
                         (unsigned long long)(size < 10 ? 2 : size - 8 > SAFETENSORS_HEADER
                                                                  ? SAFETENSORS_HEADER : size - 8));
    if (data[8] != '{')
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: the header begins with byte 0x%02X, "
                         "expected '{'", st->name, data[8]);
    result = json_parse(&st->header, st->name, (const char *)data + 8, (size_t)header, error);
    if (result != LLM_OK) return result;
    room = size - 8 - header;
    st->tensors = (safetensors_tensor *)calloc((size_t)json_count(j, 0) + 1, sizeof *st->tensors);
    if (!st->tensors) return llm__fail(error, LLM_ERROR_MEMORY, "%s: no memory for %u tensors", st->name,
                         json_count(j, 0));
    for (n = 1; n < json_next(j, 0) && result == LLM_OK; n = json_next(j, n + 1)) {
        if (json_is(j, n, "__metadata__")) {
            result = safetensors_metadata(st, n + 1, error);
            continue;
        }
        st->tensors[st->count].name = json_text(j, n);
        result = safetensors_read(st, &st->tensors[st->count++], n + 1, room, error);
    }
    if (result == LLM_OK) result = safetensors_place(st, data + 8 + header, room, error);
    return result;
}

/* `name` and `data` outlive it. After an error nothing is left to close. */
static llm_result safetensors_open_memory(safetensors *st, const char *name, const uint8_t *data,
                                          size_t size, llm_error *error) {
    llm_result result;
    memset(st, 0, sizeof *st);
    st->name = name;
    result = safetensors_parse(st, data, size, error);
    if (result != LLM_OK) safetensors_close(st);
    return result;
}

#endif
