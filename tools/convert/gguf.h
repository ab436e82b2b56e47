/* ======================================================================== */
/* GGUF, versions 2 and 3, as a source                                       */
/* ========================================================================
   "GGUF", u32 version, u64 tensors, u64 pairs; the pairs (key, type, value); the tensors (name,
   dimensions, type, offset); padding to the alignment; the data. A file is walked once and
   everything in it checked; after that values are read without further ado.
   https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

   What the specification leaves open, and where this is narrower or wider: keys have 1 .. 65535
   bytes, tensors' names at least one, and none stands twice; texts may hold any bytes. There are no
   arrays in arrays. Booleans are 0 or 1. general.architecture is a text of 1 .. 63 bytes without
   NUL. general.alignment, where it is given, is a number of any type (true is 1), a power of two up
   to 2^20. A tensor has 1 .. 4 dimensions, none of them 0, at most 2^56 elements, one of the types
   of ggml_types, and rows of whole blocks; its offset is a multiple of the alignment, its data lie
   in the file and may overlap others'. Without tensors there need be no padding. */
#ifndef CONVERT_GGUF_H
#define CONVERT_GGUF_H

#include "dequantize.h"
#include "platform.h"
#include "ternary.h"

enum { GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_TYPES = 13 };

/* Bytes of a value of each type; 0 where it depends. */
static const uint8_t gguf_sizes[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct gguf_pair {
    llm_text key;
    uint32_t type;       /* of the value, or of the array's elements */
    bool array;
    uint64_t count;      /* elements; 1 when it is no array */
    const uint8_t *data; /* the first element */
} gguf_pair;

typedef struct gguf_file {
    map_file map;
    gguf_pair *pairs; /* sorted by key */
    size_t pair_count;
} gguf_file;

/* Reads on until something is wrong; then `failed` stays and the first message counts. */
typedef struct gguf_cursor {
    const uint8_t *start, *at, *end;
    llm_error *error;
    bool failed;
} gguf_cursor;

static void gguf_refuse(gguf_cursor *c, const char *format, ...) LLM__PRINTF(2, 3);
static void gguf_refuse(gguf_cursor *c, const char *format, ...) {
    va_list args;
    if (c->failed) return;
    c->failed = true;
    c->at = c->end;
    va_start(args, format);
    (void)llm__vfail(c->error, LLM_ERROR_FORMAT, format, args);
    va_end(args);
}

/* `size` bytes; NULL when the file ends before. */
static const uint8_t *gguf_take(gguf_cursor *c, uint64_t size, const char *what) {
    const uint8_t *at = c->at;
    if (c->failed) return NULL;
    if (size > (uint64_t)(c->end - at)) {
        gguf_refuse(c, "%s at byte %zu: %llu bytes wanted, the file ends after %zu", what,
                    (size_t)(at - c->start), (unsigned long long)size, (size_t)(c->end - at));
        return NULL;
    }
    c->at += size;
    return at;
}

static uint32_t gguf_u32(gguf_cursor *c, const char *what) {
    const uint8_t *p = gguf_take(c, 4, what);
    return p ? llm__u32(p) : 0;
}
static uint64_t gguf_u64(gguf_cursor *c, const char *what) {
    const uint8_t *p = gguf_take(c, 8, what);
    return p ? llm__u64(p) : 0;
}
static llm_text gguf_text(gguf_cursor *c, const char *what) {
    uint64_t size = gguf_u64(c, what);
    const uint8_t *p = gguf_take(c, size, what);
    llm_text text;
    text.data = (const char *)p;
    text.size = p ? (size_t)size : 0;
    return text;
}

static void gguf_check_booleans(gguf_cursor *c, const gguf_pair *pair) {
    uint64_t i;
    if (c->failed || pair->type != GGUF_BOOL) return;
    for (i = 0; i < pair->count; i++)
        if (pair->data[i] > 1) {
            gguf_refuse(c, "key %s: %u, expected 0 or 1", show(pair->key).text, pair->data[i]);
            return;
        }
}

static void gguf_read_pair(gguf_cursor *c, gguf_pair *pair) {
    char what[112];
    uint64_t i;
    pair->key = gguf_text(c, "a key");
    if (!c->failed && (pair->key.size == 0 || pair->key.size > 65535))
        gguf_refuse(c, "a key of %zu bytes, expected 1 .. 65535", pair->key.size);
    pair->type = gguf_u32(c, "a value's type");
    pair->array = pair->type == GGUF_ARRAY;
    pair->count = 1;
    if (pair->array) {
        pair->type = gguf_u32(c, "an array's type");
        pair->count = gguf_u64(c, "an array's length");
    }
    if (!c->failed && (pair->type >= GGUF_TYPES || pair->type == GGUF_ARRAY))
        gguf_refuse(c, "key %s: value type %u, expected 0 .. 12 and no array in an array",
                    show(pair->key).text, pair->type);
    pair->data = c->at;
    if (c->failed) return;
    (void)snprintf(what, sizeof what, "key %s", show(pair->key).text);
    if (pair->type == GGUF_STRING) {
        for (i = 0; i < pair->count && !c->failed; i++) (void)gguf_text(c, what);
    } else if (pair->count > UINT64_MAX / 8) {
        gguf_refuse(c, "key %s: an array of %llu elements, expected at most %llu",
                    show(pair->key).text, (unsigned long long)pair->count,
                    (unsigned long long)(UINT64_MAX / 8));
    } else {
        (void)gguf_take(c, pair->count * gguf_sizes[pair->type], what);
        gguf_check_booleans(c, pair);
    }
}

/* Everything about a tensor but where its data begin: `offset` counts from the data section. */
static void gguf_read_tensor(gguf_cursor *c, source_tensor *t, uint64_t *offset) {
    const ggml_type *type;
    uint64_t elements = 1;
    unsigned i;
    t->name = gguf_text(c, "a tensor's name");
    t->dims = gguf_u32(c, "a tensor's dimensions");
    if (!c->failed && t->name.size == 0)
        gguf_refuse(c, "a tensor's name of 0 bytes, expected 1 or more");
    if (!c->failed && (t->dims < 1 || t->dims > 4))
        gguf_refuse(c, "tensor %s: %u dimensions, expected 1 .. 4", show(t->name).text, t->dims);
    for (i = 0; i < 4; i++) {
        t->shape[i] = i < t->dims && !c->failed ? gguf_u64(c, "a tensor's shape") : 1;
        if (c->failed) return;
        if (t->shape[i] == 0 || t->shape[i] > ((uint64_t)1 << 56) / elements)
            gguf_refuse(c, "tensor %s: dimension %u is %llu, expected 1 .. %llu",
                        show(t->name).text, i, (unsigned long long)t->shape[i],
                        (unsigned long long)(((uint64_t)1 << 56) / elements));
        else
            elements *= t->shape[i];
    }
    t->format = gguf_u32(c, "a tensor's type");
    *offset = gguf_u64(c, "a tensor's offset");
    if (c->failed) return;
    type = ggml_type_find(t->format);
    if (!type) {
        gguf_refuse(c, "tensor %s: type %u, expected one of %s", show(t->name).text, t->format,
                    ggml_type_names().text);
    } else if (t->shape[0] % type->block != 0) {
        gguf_refuse(c, "tensor %s: rows of %llu weights, expected a multiple of %u for %s",
                    show(t->name).text, (unsigned long long)t->shape[0], type->block, type->name);
    } else {
        t->type = type->name;
        t->bits = type->bits;
    }
}

static void gguf_check_ternary(gguf_cursor *c, const source_tensor *t, uint64_t size) {
    const uint64_t odd = ternary_odd(t->data, size);
    if (odd < size)
        gguf_refuse(c, "tensor %s: byte %llu is 0x%02x, expected codes of 0 .. 2", show(t->name).text,
                    (unsigned long long)odd, (unsigned)t->data[odd]);
}

/* In bounds; elements <= 2^56 and blocks hold at least as many weights as a sixth of their bytes,
   so that no product overflows. */
static void gguf_place_tensor(gguf_cursor *c, source_tensor *t, uint64_t offset, size_t data,
                              uint64_t alignment) {
    const ggml_type *type = ggml_type_find(t->format);
    uint64_t rows = t->shape[1] * t->shape[2] * t->shape[3];
    uint64_t size = t->shape[0] / type->block * type->size * rows + type->end;
    uint64_t room = (size_t)(c->end - c->start) - data;
    if (offset % alignment != 0)
        gguf_refuse(c, "tensor %s: offset %llu is no multiple of the alignment %llu",
                    show(t->name).text, (unsigned long long)offset, (unsigned long long)alignment);
    else if (offset > room || size > room - offset)
        gguf_refuse(c, "tensor %s: offset %llu + %llu bytes passes the end of the file (%llu)",
                    show(t->name).text, (unsigned long long)(data + offset),
                    (unsigned long long)size, (unsigned long long)(data + room));
    else
        t->data = c->start + data + offset;
    if (t->data && type->end) gguf_check_ternary(c, t, size - type->end);
}

static int gguf_pair_order(const void *a, const void *b) {
    return text_compare(((const gguf_pair *)a)->key, ((const gguf_pair *)b)->key);
}
static int gguf_tensor_order(const void *a, const void *b) {
    return text_compare(((const source_tensor *)a)->name, ((const source_tensor *)b)->name);
}

static const gguf_pair *gguf_find(const gguf_file *file, llm_text key) {
    size_t low = 0, high = file->pair_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = text_compare(file->pairs[middle].key, key);
        if (order == 0) return &file->pairs[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static double gguf_number(uint32_t type, const uint8_t *p) {
    uint64_t u = 0;
    double d;
    memcpy(&u, p, gguf_sizes[type]);
    switch (type) {
    case 1: return u < 128 ? (double)u : (double)u - 256.0;
    case 3: return u < 32768 ? (double)u : (double)u - 65536.0;
    case 5: return u < 0x80000000u ? (double)u : (double)u - 4294967296.0;
    case 6: return (double)ggml_bits((uint32_t)u);
    case 11: return u >> 63 ? -(double)(0 - u) : (double)u;
    case 12: memcpy(&d, &u, sizeof d); return d;
    default: return (double)u;
    }
}

/* One element; returns where the next one lies. */
static const uint8_t *gguf_element(uint32_t type, const uint8_t *p, source_value *value) {
    memset(value, 0, sizeof *value);
    if (type == GGUF_STRING) {
        value->kind = SOURCE_TEXT;
        value->text.size = (size_t)llm__u64(p);
        value->text.data = (const char *)p + 8;
        return p + 8 + value->text.size;
    }
    value->kind = SOURCE_NUMBER;
    value->number = gguf_number(type, p);
    return p + gguf_sizes[type];
}

static source_value gguf_pair_value(const gguf_pair *pair) {
    source_value value;
    memset(&value, 0, sizeof value);
    if (!pair) return value;
    if (!pair->array) {
        (void)gguf_element(pair->type, pair->data, &value);
        return value;
    }
    value.kind = SOURCE_ARRAY;
    value.element = pair->type == GGUF_STRING ? SOURCE_TEXT : SOURCE_NUMBER;
    value.count = pair->count;
    value.at = pair->data;
    value.type = pair->type;
    return value;
}

static source_value gguf_value(const source_file *s, const char *key) {
    char whole[256];
    if (key[0] == '.') {
        (void)snprintf(whole, sizeof whole, "%s%s", s->architecture, key);
        key = whole;
    }
    return gguf_pair_value(gguf_find((const gguf_file *)s->self, text_of(key)));
}

static bool gguf_next(const source_file *s, source_value *array, source_value *element) {
    (void)s;
    if (array->kind != SOURCE_ARRAY || array->count == 0) return false;
    array->at = gguf_element(array->type, array->at, element);
    array->count--;
    return true;
}

static bool gguf_entry(const source_file *s, size_t index, llm_text *key, source_value *value) {
    const gguf_file *file = (const gguf_file *)s->self;
    if (index >= file->pair_count) return false;
    *key = file->pairs[index].key;
    *value = gguf_pair_value(&file->pairs[index]);
    return true;
}

static void gguf_row(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    const ggml_type *type = ggml_type_find(t->format);
    uint64_t blocks = t->shape[0] / type->block, i;
    const uint8_t *p = t->data + row * blocks * type->size;
    float unit;
    (void)s;
    for (i = 0; i < blocks; i++) type->dequantize(p + i * type->size, out + i * type->block);
    if (!type->end) return;
    ggml_f32(t->data + t->shape[1] * t->shape[2] * t->shape[3] * blocks * type->size, &unit);
    for (i = 0; i < t->shape[0]; i++) out[i] *= unit;
}

static void gguf_close(source_file *s) {
    gguf_file *file = (gguf_file *)s->self;
    if (file) {
        map_close(&file->map);
        free(file->pairs);
        free(file);
    }
    free(s->tensors);
    memset(s, 0, sizeof *s);
}

/* Header: version and the two counts, which the bytes that follow must be able to hold. */
static void gguf_read_header(gguf_cursor *c, source_file *s, gguf_file *file) {
    const uint8_t *magic = gguf_take(c, 4, "the magic number");
    uint64_t tensors, pairs, left;
    if (magic && memcmp(magic, "GGUF", 4) != 0)
        gguf_refuse(c, "the file begins with \"%.4s\", a GGUF file with \"GGUF\"",
                    (const char *)magic);
    s->version = gguf_u32(c, "the version");
    if (!c->failed && (s->version < 2 || s->version > 3))
        gguf_refuse(c, "GGUF version %u, expected 2 or 3 in little-endian order", s->version);
    tensors = gguf_u64(c, "the number of tensors");
    pairs = gguf_u64(c, "the number of keys");
    left = (uint64_t)(c->end - c->at);
    if (!c->failed && (tensors > left / 32 || pairs > left / 13))
        gguf_refuse(c, "%llu tensors and %llu keys do not fit the %llu bytes of the file",
                    (unsigned long long)tensors, (unsigned long long)pairs,
                    (unsigned long long)left);
    s->tensor_count = c->failed ? 0 : (size_t)tensors;
    file->pair_count = c->failed ? 0 : (size_t)pairs;
}

static void gguf_read_pairs(gguf_cursor *c, gguf_file *file) {
    size_t i;
    for (i = 0; i < file->pair_count && !c->failed; i++) gguf_read_pair(c, &file->pairs[i]);
    if (c->failed) return;
    qsort(file->pairs, file->pair_count, sizeof *file->pairs, gguf_pair_order);
    for (i = 1; i < file->pair_count; i++)
        if (text_compare(file->pairs[i - 1].key, file->pairs[i].key) == 0)
            gguf_refuse(c, "key %s: there are two of it", show(file->pairs[i].key).text);
}

static void gguf_read_architecture(gguf_cursor *c, source_file *s, const gguf_file *file) {
    const gguf_pair *pair = gguf_find(file, text_of("general.architecture"));
    llm_text name;
    if (!pair || pair->array || pair->type != GGUF_STRING) {
        gguf_refuse(c, "key general.architecture: %s, expected a text",
                    show_value(gguf_pair_value(pair)).text);
        return;
    }
    name = gguf_pair_value(pair).text;
    if (name.size == 0 || name.size >= sizeof s->architecture || memchr(name.data, 0, name.size))
        gguf_refuse(c, "key general.architecture: \"%s\", %zu bytes, expected 1 .. %zu and no NUL",
                    show(name).text, name.size, sizeof s->architecture - 1);
    else
        memcpy(s->architecture, name.data, name.size);
}

/* Where tensors may begin; 32 if the file does not say. */
static uint64_t gguf_alignment(gguf_cursor *c, const gguf_file *file) {
    const gguf_pair *pair = c->failed ? NULL : gguf_find(file, text_of("general.alignment"));
    const source_value value = gguf_pair_value(pair);
    uint64_t alignment = 0;
    if (!pair) return 32;
    if (value.kind == SOURCE_NUMBER && value.number >= 1.0 && value.number <= 1048576.0)
        alignment = (uint64_t)value.number;
    if (!alignment || (double)alignment != value.number || (alignment & (alignment - 1)) != 0)
        gguf_refuse(c, "key general.alignment: %s, expected a power of two up to 1048576",
                    show_value(value).text);
    return alignment;
}

static void gguf_read_tensors(gguf_cursor *c, source_file *s, gguf_file *file, uint64_t *offsets) {
    const uint64_t alignment = gguf_alignment(c, file);
    size_t i, data;
    if (c->failed) return;
    for (i = 0; i < s->tensor_count && !c->failed; i++)
        gguf_read_tensor(c, &s->tensors[i], &offsets[i]);
    data = (size_t)(c->at - c->start);
    data += (size_t)((alignment - data % alignment) % alignment);
    if (!c->failed && s->tensor_count && data > (size_t)(c->end - c->start))
        gguf_refuse(c, "the tensors' data begin at byte %zu, the file has %zu", data,
                    (size_t)(c->end - c->start));
    for (i = 0; i < s->tensor_count && !c->failed; i++)
        gguf_place_tensor(c, &s->tensors[i], offsets[i], data, alignment);
    if (c->failed) return;
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, gguf_tensor_order);
    for (i = 1; i < s->tensor_count; i++)
        if (text_compare(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            gguf_refuse(c, "tensor %s: there are two of it", show(s->tensors[i].name).text);
}

/* Reads what `file->map` holds: a model, or any keys and tensors. */
static llm_result gguf_parse_as(source_file *s, gguf_file *file, bool model, llm_error *error) {
    gguf_cursor c;
    c.start = c.at = file->map.data;
    c.end = c.start + file->map.size;
    c.error = error;
    c.failed = false;
    gguf_read_header(&c, s, file);
    if (!c.failed) {
        uint64_t *offsets = (uint64_t *)calloc(s->tensor_count + 1, sizeof *offsets);
        file->pairs = (gguf_pair *)calloc(file->pair_count + 1, sizeof *file->pairs);
        s->tensors = (source_tensor *)calloc(s->tensor_count + 1, sizeof *s->tensors);
        if (!file->pairs || !s->tensors || !offsets) {
            free(offsets);
            return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu keys and %zu tensors",
                             file->pair_count, s->tensor_count);
        }
        gguf_read_pairs(&c, file);
        if (model && !c.failed) gguf_read_architecture(&c, s, file);
        gguf_read_tensors(&c, s, file, offsets);
        free(offsets);
    }
    return c.failed ? LLM_ERROR_FORMAT : LLM_OK;
}

static llm_result gguf_parse(source_file *s, gguf_file *file, llm_error *error) {
    return gguf_parse_as(s, file, true, error);
}

/* A source that is to be read from `file`. */
static void gguf_source(source_file *s, gguf_file *file) {
    memset(s, 0, sizeof *s);
    s->self = file;
    s->format = "GGUF";
    s->value = gguf_value;
    s->next = gguf_next;
    s->entry = gguf_entry;
    s->row = gguf_row;
    s->close = gguf_close;
}

/* Opens a file. After an error nothing is left to close. */
static LLM__UNUSED llm_result gguf_open(source_file *s, const char *path, llm_error *error) {
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    llm_result result;
    if (!file)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for a file of %zu bytes",
                         sizeof *file);
    gguf_source(s, file);
    result = map_open(&file->map, path, error);
    if (result == LLM_OK) result = gguf_parse(s, file, error);
    if (result != LLM_OK) gguf_close(s);
    /* GGUF stores the rows of this architecture's q and k reordered. */
    else s->rope_interleaved = strcmp(s->architecture, "llama") == 0;
    return result;
}

#endif
