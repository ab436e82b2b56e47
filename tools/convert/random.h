/* ======================================================================== */
/* Random weights as a source                                                */
/* ========================================================================
   A model of a well-known shape, to measure speed with; only the shape is the original's. Matrices
   of 3 to 8 bits are made as panels at once: every code and every parameter is equally likely, and
   one scale for all makes the weights' mean square 1 / columns, so that activations keep their size
   and logits are of order 1. Other matrices are floats of that mean square, norms are ones. The bits
   depend on shape and type alone (llm_random, with the tensor's number as stream), not on the
   number of threads. There is no tokenizer. */
#ifndef CONVERT_RANDOM_H
#define CONVERT_RANDOM_H

#include "family.h"
#include "keys.h"
#include "quantize.h"

/* Rows are multiples of 16, columns of 64: no panel has padding. All are tied. */
typedef struct random_shape {
    const char *name, *family;
    uint32_t layers, width, ffn, heads, kv_heads, head_size, vocab, context;
    double epsilon, rope_base;
} random_shape;

static const random_shape random_shapes[] = {
    {"tiny", "qwen3", 2, 192, 320, 6, 2, 32, 512, 4096, 1e-6, 1e4},
    {"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e-5, 1e5},
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e-6, 1e6},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 1e-5, 5e5}};

enum { RANDOM_SEED = 1 };

/* NULL: there is no such shape. */
static const random_shape *random_find(const char *name) {
    size_t i;
    for (i = 0; i < sizeof random_shapes / sizeof *random_shapes; i++)
        if (strcmp(random_shapes[i].name, name) == 0) return &random_shapes[i];
    return NULL;
}

/* ---- weights ----------------------------------------------------------- */

static void random_row(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    const float size = (float)sqrt(3.0 / (double)t->shape[0]); /* uniform in -size .. size */
    uint64_t i;
    (void)s;
    for (i = 0; i < t->shape[0]; i++) {
        const uint64_t bits = llm_random(RANDOM_SEED, t->format, row * t->shape[0] + i) >> 40;
        out[i] = t->dims == 1 ? 1.0f : size * ((float)bits / 8388608.0f - 1.0f);
    }
}

/* The root of the mean square of the values of a type, all codes and parameters equally likely. */
static double random_size(uint32_t type) {
    const llm__format *f = &llm__formats[type];
    double sum = 0.0;
    unsigned p, code;
    if (f->bits == 8) return sqrt(127.0 * 128.0 / 3.0);
    for (p = 0; p < 16; p++) {
        for (code = 0; code < 1u << f->bits; code++) {
            const double value = (int)f->m[p] * f->u[code] - f->b[p];
            sum += value * value;
        }
    }
    return sqrt(sum / (16u << f->bits));
}

/* Every combination of bits is a code but -128, of 8 bits. */
static void random_panel(const source_file *s, const source_tensor *t, uint32_t type,
                         uint64_t number, uint8_t *panel) {
    const uint32_t cols = (uint32_t)t->shape[0];
    const size_t header = llm__panel_header(type, cols), size = llm__panel_size(type, cols);
    const size_t scales = (size_t)cols / llm__super_block(cols) * 32;
    const bool eight = llm__formats[type].bits == 8;
    const size_t used = scales + (eight ? 0 : (size_t)cols / 16 * 8);
    const uint16_t scale = quantize_bf16((float)(1.0 / sqrt((double)cols) / random_size(type)));
    uint64_t at = number * (size / 8);
    size_t i;
    (void)s;
    for (i = 0; i < scales; i += 2) memcpy(panel + i, &scale, 2);
    for (i = scales; i < size; i += 8) {
        const uint64_t bits = llm_random(RANDOM_SEED, t->format, at++);
        memcpy(panel + i, &bits, 8);
    }
    memset(panel + used, 0, header - used);
    for (i = header; eight && i < size; i++)
        if (panel[i] == 128) panel[i] = 0;
}

/* ---- names and settings ------------------------------------------------ */

static void random_keys(key_list *keys, const random_shape *shape) {
    keys_text(keys, "general.architecture", text_of(shape->family));
    keys_text(keys, "general.name", text_of(shape->name));
    keys_number(keys, ".block_count", shape->layers);
    keys_number(keys, ".context_length", shape->context);
    keys_number(keys, ".embedding_length", shape->width);
    keys_number(keys, ".feed_forward_length", shape->ffn);
    keys_number(keys, ".attention.head_count", shape->heads);
    keys_number(keys, ".attention.head_count_kv", shape->kv_heads);
    keys_number(keys, ".attention.key_length", shape->head_size);
    keys_number(keys, ".attention.value_length", shape->head_size);
    keys_number(keys, ".attention.layer_norm_rms_epsilon", shape->epsilon);
    keys_number(keys, ".rope.freq_base", shape->rope_base);
}

static void random_add(source_file *s, key_list *keys, const family_part *part, const char *name,
                       uint32_t layer, const random_shape *shape) {
    source_tensor *t = &s->tensors[s->tensor_count];
    char *spelled = (char *)keys_take(keys, 64, 1);
    llm__file_desc d;
    uint32_t rows, cols;
    if (!spelled) return;
    if (part->layer) (void)snprintf(spelled, 64, "blk.%u.%s", layer, name);
    else (void)snprintf(spelled, 64, "%s", name);
    memset(&d, 0, sizeof d);
    d.vocab = shape->vocab, d.width = shape->width, d.ffn = shape->ffn;
    d.heads = shape->heads, d.kv_heads = shape->kv_heads;
    d.head_size = d.value_size = shape->head_size;
    family_shape(&d, part->role, &rows, &cols);
    t->name = text_of(spelled);
    t->type = "random";
    t->bits = 16;
    t->dims = family_is_matrix(part->role) ? 2 : 1;
    t->shape[0] = cols, t->shape[1] = rows, t->shape[2] = t->shape[3] = 1;
    t->format = (uint32_t)s->tensor_count++;
}

static int random_order(const void *a, const void *b) {
    return text_compare(((const source_tensor *)a)->name, ((const source_tensor *)b)->name);
}

/* One tensor, or gate and up, for each role that the family requires. */
static void random_tensors(source_file *s, key_list *keys, const random_shape *shape) {
    const family *f = families;
    uint32_t layer;
    size_t i;
    while (strcmp(f->name, shape->family) != 0) f++;
    random_add(s, keys, &family_embedding, family_embedding.name, 0, shape);
    for (i = 0; i < sizeof family_parts / sizeof *family_parts; i++) {
        const family_part *part = &family_parts[i];
        if (!(f->required >> part->role & 1u)) continue;
        for (layer = 0; layer < (part->layer ? shape->layers : 1); layer++) {
            random_add(s, keys, part, part->name, layer, shape);
            if (part->second) random_add(s, keys, part, part->second, layer, shape);
        }
    }
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, random_order);
}

static void random_close(source_file *s) {
    if (s->self) keys_free((key_list *)s->self);
    free(s->self);
    free(s->tensors);
    memset(s, 0, sizeof *s);
}

/* After an error nothing is left to close. */
static LLM__UNUSED llm_result random_open(source_file *s, const random_shape *shape,
                                          llm_error *error) {
    const size_t parts = 2 * sizeof family_parts / sizeof *family_parts;
    key_list *keys = (key_list *)calloc(1, sizeof *keys);
    memset(s, 0, sizeof *s);
    s->self = keys;
    s->format = "random weights";
    s->value = keys_value;
    s->next = keys_next;
    s->entry = keys_entry;
    s->row = random_row;
    s->panel = random_panel;
    s->close = random_close;
    (void)snprintf(s->architecture, sizeof s->architecture, "%s", shape->family);
    s->tensors = (source_tensor *)calloc(parts * shape->layers, sizeof *s->tensors);
    if (keys && s->tensors) {
        random_keys(keys, shape);
        random_tensors(s, keys, shape);
        if (!keys->failed) return LLM_OK;
    }
    random_close(s);
    return keys_no_memory(error);
}

#endif
