/* ======================================================================== */
/* Families: from an architecture's names to a description and a list        */
/* ========================================================================
   What the models of a family have in common is a row of a table; what a checkpoint says of itself
   is read by key. The result is the description of a .llm file and its tensors in order of
   execution, each with the source tensors that it is made of. Nothing is dropped: a tensor that no
   row of the tables asks for is an error. */
#ifndef CONVERT_FAMILY_H
#define CONVERT_FAMILY_H

#include "source.h"
#include <math.h>

/* A tensor of the result. */
typedef struct plan_tensor {
    llm__file_tensor file;  /* place and checksum are filled in by the writer */
    source_tensor *from[2]; /* gate and up; otherwise one, or none for ROPE */
    uint32_t first;         /* of a part of EMBEDDING or HEAD: the row of `from` that it begins with */
    uint32_t unit;          /* Q and K of an interleaved source: rows of a head; of these, */
    uint32_t turned;        /*   `turned` are pairs (2i, 2i + 1), to be (i, i + turned / 2) */
    uint32_t rotation;      /* of a vector: V's bias is turned as V's outputs are */
    double base, factor;    /* ROPE: frequency i is base^(-2 i / dims) / factor / from[0][i] */
    double norm, error;     /* squared, of the weights and of what the conversion changed */
    bool odd;               /* has weights that are not finite, and keeps them, in 16 bits */
    bool ternary;           /* every weight is one of three, and stays that */
    uint8_t *made;          /* its bytes, where they are there before it is written */
    float *importance;      /* [padded columns] mean squares of its input, from outside, or NULL */
    double *squares;        /* [columns] sums of squares of its input as it was seen, or NULL, */
    uint64_t seen;          /* over so many tokens */
} plan_tensor;

typedef struct plan {
    llm__file_desc desc;
    llm__file_layer *layers;
    plan_tensor *tensors;
    size_t count, capacity;
} plan;

#define FAMILY_BIT(role) ((uint32_t)1 << LLM__##role)

typedef struct family {
    const char *name;
    uint32_t required, optional; /* roles */
    uint32_t activation;
    bool scaled_embedding;       /* by sqrt(width) */
    uint32_t pattern;            /* every pattern-th layer has no window; 0 = none has */
    double local_base;           /* RoPE base of layers with a window */
    uint32_t odd_layers;         /* with so many layers queries are scaled by 1/sqrt(width/heads) */
} family;

#define FAMILY_BLOCK                                                                          \
    (FAMILY_BIT(EMBEDDING) | FAMILY_BIT(ATTN_NORM) | FAMILY_BIT(Q) | FAMILY_BIT(K) |           \
     FAMILY_BIT(V) | FAMILY_BIT(ATTN_OUT) | FAMILY_BIT(FFN_NORM) | FAMILY_BIT(GATE_UP) |      \
     FAMILY_BIT(DOWN) | FAMILY_BIT(OUT_NORM))

#define FAMILY_BITNET (FAMILY_BLOCK | FAMILY_BIT(ATTN_SUB_NORM) | FAMILY_BIT(FFN_SUB_NORM))
#define FAMILY_BITNET_TOO                                                                     \
    (FAMILY_BIT(HEAD) | FAMILY_BIT(Q_BIAS) | FAMILY_BIT(K_BIAS) | FAMILY_BIT(V_BIAS) |        \
     FAMILY_BIT(ATTN_OUT_BIAS))

static const family families[] = {
    {"llama", FAMILY_BLOCK,
     FAMILY_BIT(HEAD) | FAMILY_BIT(Q_BIAS) | FAMILY_BIT(K_BIAS) | FAMILY_BIT(V_BIAS) |
         FAMILY_BIT(ATTN_OUT_BIAS) | FAMILY_BIT(GATE_UP_BIAS) | FAMILY_BIT(DOWN_BIAS),
     LLM__ACT_SILU, false, 0, 0.0, 0},
    {"qwen2", FAMILY_BLOCK | FAMILY_BIT(Q_BIAS) | FAMILY_BIT(K_BIAS) | FAMILY_BIT(V_BIAS),
     FAMILY_BIT(HEAD), LLM__ACT_SILU, false, 0, 0.0, 0},
    {"qwen3", FAMILY_BLOCK | FAMILY_BIT(Q_NORM) | FAMILY_BIT(K_NORM),
     FAMILY_BIT(HEAD) | FAMILY_BIT(Q_BIAS) | FAMILY_BIT(K_BIAS) | FAMILY_BIT(V_BIAS) |
         FAMILY_BIT(ATTN_OUT_BIAS),
     LLM__ACT_SILU, false, 0, 0.0, 0},
    {"gemma3",
     FAMILY_BLOCK | FAMILY_BIT(Q_NORM) | FAMILY_BIT(K_NORM) | FAMILY_BIT(ATTN_POST_NORM) |
         FAMILY_BIT(FFN_POST_NORM),
     FAMILY_BIT(HEAD), LLM__ACT_GELU_TANH, true, 6, 10000.0, 62},
    {"bitnet", FAMILY_BITNET, FAMILY_BITNET_TOO, LLM__ACT_SILU, false, 0, 0.0, 0},
    {"bitnet-b1.58", FAMILY_BITNET, FAMILY_BITNET_TOO, LLM__ACT_RELU2, false, 0, 0.0, 0}};

/* How the source spells a tensor's name. */
typedef struct family_spelled {
    char text[100];
} family_spelled;
static family_spelled family_spell(const source_file *s, const char *name) {
    family_spelled spelled;
    if (s->spell) s->spell(s, name, spelled.text, sizeof spelled.text);
    else (void)snprintf(spelled.text, sizeof spelled.text, "%s", name);
    return spelled;
}

/* ---- keys -------------------------------------------------------------- */

enum { FAMILY_U32, FAMILY_F32 };

typedef struct family_key {
    const char *key;
    size_t at;             /* in llm__file_desc */
    int kind;
    bool required;
    double fallback, least, most; /* least and most of what the file says */
} family_key;

#define FAMILY_AT(field) offsetof(llm__file_desc, field)

static const family_key family_keys[] = {
    {".block_count", FAMILY_AT(layers), FAMILY_U32, true, 0, 1, 1024},
    {".context_length", FAMILY_AT(context), FAMILY_U32, true, 0, 1, 268435456},
    {".embedding_length", FAMILY_AT(width), FAMILY_U32, true, 0, 1, 65536},
    {".feed_forward_length", FAMILY_AT(ffn), FAMILY_U32, true, 0, 1, 262144},
    {".attention.head_count", FAMILY_AT(heads), FAMILY_U32, true, 0, 1, 1024},
    {".attention.head_count_kv", FAMILY_AT(kv_heads), FAMILY_U32, false, 0, 1, 1024},
    {".attention.key_length", FAMILY_AT(head_size), FAMILY_U32, false, 0, 2, 512},
    {".attention.value_length", FAMILY_AT(value_size), FAMILY_U32, false, 0, 1, 512},
    {".attention.layer_norm_rms_epsilon", FAMILY_AT(norm_epsilon), FAMILY_F32, true, 0, 1e-30, 1},
    {".attention.scale", FAMILY_AT(query_scale), FAMILY_F32, false, 0, 1e-9, 1e9},
    {".attn_logit_softcapping", FAMILY_AT(attention_softcap), FAMILY_F32, false, 0, 0, 1e9},
    {".final_logit_softcapping", FAMILY_AT(logit_softcap), FAMILY_F32, false, 0, 0, 1e9}};

/* Keys that would change the arithmetic in a way that no family here has. */
static const char *const family_refused[] = {".expert_count", ".residual_scale", ".logit_scale",
                                             ".embedding_scale", ".attention.clamp_kqv"};

/* A number, or `fallback` where the source has no such key. */
static llm_result family_number(const source_file *s, const char *key, double fallback,
                                double least,
                                double most, double *number, llm_error *error) {
    source_value value = s->value(s, key);
    *number = fallback;
    if (value.kind == SOURCE_NONE) return LLM_OK;
    if (value.kind != SOURCE_NUMBER)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "key %s%s: %s, expected one number",
                         key[0] == '.' ? s->architecture : "", key, show_value(value).text);
    *number = value.number;
    if (value.number >= least && value.number <= most) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "key %s%s: %g, expected %g .. %g",
                     key[0] == '.' ? s->architecture : "", key, value.number, least, most);
}

static llm_result family_read_key(const source_file *s, const family_key *k, llm__file_desc *desc,
                                  llm_error *error) {
    double number;
    llm_result result = family_number(s, k->key, k->fallback, k->least, k->most, &number, error);
    if (result != LLM_OK) return result;
    if (k->required && s->value(s, k->key).kind == SOURCE_NONE)
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s%s: missing", s->architecture, k->key);
    if (k->kind == FAMILY_U32) {
        uint32_t whole = (uint32_t)number;
        if ((double)whole != number)
            return llm__fail(error, LLM_ERROR_FORMAT, "key %s%s: %g, expected a whole number",
                             s->architecture, k->key, number);
        memcpy((char *)desc + k->at, &whole, sizeof whole);
    } else {
        float real = (float)number;
        memcpy((char *)desc + k->at, &real, sizeof real);
    }
    return LLM_OK;
}

static llm_result family_describe(const source_file *s, const family *f, llm__file_desc *desc,
                                  llm_error *error) {
    const source_tensor *embedding = source_find(s, "token_embd.weight");
    llm_result result = LLM_OK;
    size_t i;
    memset(desc, 0, sizeof *desc);
    memcpy(desc->family, f->name, strlen(f->name));
    for (i = 0; i < sizeof family_keys / sizeof *family_keys && result == LLM_OK; i++)
        result = family_read_key(s, &family_keys[i], desc, error);
    if (result != LLM_OK) return result;
    for (i = 0; i < sizeof family_refused / sizeof *family_refused; i++) {
        source_value value = s->value(s, family_refused[i]);
        if (value.kind == SOURCE_NUMBER && !(value.number > 0.0 || value.number < 0.0)) continue;
        if (value.kind != SOURCE_NONE)
            return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                             "key %s%s: %s, expected none or 0: it is not supported",
                             s->architecture, family_refused[i], show_value(value).text);
    }
    if (!embedding)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: missing",
                         family_spell(s, "token_embd.weight").text);
    if (embedding->shape[1] > 4194304)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: %llu tokens, expected 1 .. 4194304",
                         family_spell(s, "token_embd.weight").text,
                         (unsigned long long)embedding->shape[1]);
    desc->vocab = (uint32_t)embedding->shape[1];
    if (!desc->kv_heads) desc->kv_heads = desc->heads;
    if (desc->heads % desc->kv_heads)
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s.attention.head_count_kv: %u, expected a "
                         "divisor of head_count, %u", s->architecture, desc->kv_heads,
                         desc->heads);
    if (!desc->head_size) desc->head_size = desc->width / desc->heads;
    if (!desc->value_size) desc->value_size = desc->head_size;
    if (desc->head_size < 2 || desc->head_size > 512 || desc->head_size % 2 ||
        desc->value_size < 1 || desc->value_size > 512)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "heads of %u with values of %u, expected an "
                         "even number in 2 .. 512 and values in 1 .. 512", desc->head_size,
                         desc->value_size);
    desc->norm = LLM__NORM_RMS;
    desc->activation = f->activation;
    if (!(desc->query_scale > 0.0f)) {
        uint32_t size = f->odd_layers && f->odd_layers == desc->layers ? desc->width / desc->heads
                                                                     : desc->head_size;
        desc->query_scale = (float)(1.0 / sqrt((double)size));
    }
    desc->embedding_scale = f->scaled_embedding ? (float)sqrt((double)desc->width) : 1.0f;
    desc->residual_scale = 1.0f;
    desc->logit_scale = 1.0f;
    return LLM_OK;
}

/* ---- tensors ----------------------------------------------------------- */

/* What each role is made of; names with a layer have "blk.N." in front of them. */
typedef struct family_part {
    uint32_t role;
    bool layer;
    const char *name, *second;
} family_part;

static const family_part family_embedding = {LLM__EMBEDDING, false, "token_embd.weight", NULL};
static const family_part family_parts[] = {
    {LLM__ATTN_NORM, true, "attn_norm.weight", NULL},
    {LLM__Q, true, "attn_q.weight", NULL},
    {LLM__K, true, "attn_k.weight", NULL},
    {LLM__V, true, "attn_v.weight", NULL},
    {LLM__Q_BIAS, true, "attn_q.bias", NULL},
    {LLM__K_BIAS, true, "attn_k.bias", NULL},
    {LLM__V_BIAS, true, "attn_v.bias", NULL},
    {LLM__Q_NORM, true, "attn_q_norm.weight", NULL},
    {LLM__K_NORM, true, "attn_k_norm.weight", NULL},
    {LLM__ATTN_SUB_NORM, true, "attn_sub_norm.weight", NULL},
    {LLM__ATTN_OUT, true, "attn_output.weight", NULL},
    {LLM__ATTN_OUT_BIAS, true, "attn_output.bias", NULL},
    {LLM__ATTN_POST_NORM, true, "post_attention_norm.weight", NULL},
    {LLM__FFN_NORM, true, "ffn_norm.weight", NULL},
    {LLM__GATE_UP, true, "ffn_gate.weight", "ffn_up.weight"},
    {LLM__GATE_UP_BIAS, true, "ffn_gate.bias", "ffn_up.bias"},
    {LLM__FFN_SUB_NORM, true, "ffn_sub_norm.weight", NULL},
    {LLM__DOWN, true, "ffn_down.weight", NULL},
    {LLM__DOWN_BIAS, true, "ffn_down.bias", NULL},
    {LLM__FFN_POST_NORM, true, "post_ffw_norm.weight", NULL},
    {LLM__OUT_NORM, false, "output_norm.weight", NULL},
    {LLM__HEAD, false, "output.weight", NULL}};

static bool family_is_matrix(uint32_t role) {
    static const char shapes[] = {
#define FAMILY_V 'V'
#define FAMILY_M 'M'
#define FAMILY_R 'R'
#define FAMILY_SHAPE(NAME, name, shape) FAMILY_##shape,
        LLM__ROLES(FAMILY_SHAPE)
#undef FAMILY_SHAPE
    };
    return shapes[role] == 'M';
}

/* Outputs and inputs of a matrix, or 1 and the length of a vector, as the source has them. */
static void family_shape(const llm__file_desc *d, uint32_t role, uint32_t *rows, uint32_t *cols) {
    uint32_t q = d->heads * d->head_size, k = d->kv_heads * d->head_size;
    uint32_t v = d->kv_heads * d->value_size, o = d->heads * d->value_size;
    *rows = 1;
    *cols = d->width;
    switch (role) {
    case LLM__EMBEDDING: case LLM__HEAD: *rows = d->vocab; break;
    case LLM__Q: *rows = q; break;
    case LLM__K: *rows = k; break;
    case LLM__V: *rows = v; break;
    case LLM__Q_BIAS: *cols = q; break;
    case LLM__K_BIAS: *cols = k; break;
    case LLM__V_BIAS: *cols = v; break;
    case LLM__Q_NORM: case LLM__K_NORM: *cols = d->head_size; break;
    case LLM__ATTN_OUT: *rows = d->width, *cols = o; break;
    case LLM__GATE_UP: *rows = d->ffn; break;
    case LLM__GATE_UP_BIAS: *cols = d->ffn; break;
    case LLM__DOWN: *rows = d->width, *cols = d->ffn; break;
    case LLM__ATTN_SUB_NORM: *cols = o; break;
    case LLM__FFN_SUB_NORM: *cols = d->ffn; break;
    default: break;
    }
}

static plan_tensor *family_add(plan *p, uint32_t role, uint32_t layer) {
    plan_tensor *t;
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 256;
        t = (plan_tensor *)realloc(p->tensors, capacity * sizeof *t);
        if (!t) return NULL;
        p->tensors = t;
        p->capacity = capacity;
    }
    t = &p->tensors[p->count++];
    memset(t, 0, sizeof *t);
    t->file.role = role;
    t->file.layer = layer;
    t->file.expert = LLM__NONE;
    t->file.type = LLM_F32;
    return t;
}

/* Finds a source tensor and checks its shape; *out is NULL if there is none and none is needed. */
static llm_result family_take(const source_file *s, const char *name, bool required, uint32_t rows,
                              uint32_t cols, source_tensor **out, llm_error *error) {
    source_tensor *t = source_find(s, name);
    *out = t;
    if (!t && !required) return LLM_OK;
    if (!t)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: missing", family_spell(s, name).text);
    if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return llm__fail(error, LLM_ERROR_FORMAT,
                         "tensor %s: shape %llu x %llu x %llu x %llu, expected %u x %u",
                         family_spell(s, name).text,
                         (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
                         (unsigned long long)t->shape[2], (unsigned long long)t->shape[3], cols,
                         rows);
    t->used = true;
    return LLM_OK;
}

/* The tensor of a role, if the family and the source have it. `turned`: dimensions of a head
   that RoPE turns. */
static llm_result family_make(const source_file *s, const family *f, plan *p,
                              const family_part *part,
                              uint32_t layer, uint32_t turned, llm_error *error) {
    char name[64], second[64];
    source_tensor *from[2] = {NULL, NULL};
    uint32_t role = part->role, rows, cols;
    plan_tensor *t;
    llm_result result;
    if (!((f->required | f->optional) >> role & 1u)) return LLM_OK;
    if (part->layer) (void)snprintf(name, sizeof name, "blk.%u.%s", layer, part->name);
    else (void)snprintf(name, sizeof name, "%s", part->name);
    (void)snprintf(second, sizeof second, "blk.%u.%s", layer, part->second ? part->second : "");
    family_shape(&p->desc, role, &rows, &cols);
    result = family_take(s, name, f->required >> role & 1u, rows, cols, &from[0], error);
    if (result == LLM_OK && part->second && from[0])
        result = family_take(s, second, true, rows, cols, &from[1], error);
    if (result != LLM_OK || !from[0]) return result;
    t = family_add(p, role, layer);
    if (!t) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tensors", p->count + 1);
    t->from[0] = from[0];
    t->from[1] = from[1];
    t->file.rows = role == LLM__GATE_UP ? 2 * ((rows + 15) / 16 * 16) : rows;
    t->file.cols = role == LLM__GATE_UP_BIAS ? 2 * ((cols + 15) / 16 * 16) : cols;
    if (s->rope_interleaved && (role == LLM__Q || role == LLM__K || role == LLM__Q_BIAS ||
                                role == LLM__K_BIAS)) {
        t->unit = p->desc.head_size;
        t->turned = turned;
    }
    return LLM_OK;
}

/* ---- positions --------------------------------------------------------- */

static llm_result family_rope(const source_file *s, const family *f, plan *p, uint32_t *turned,
                              llm_error *error) {
    source_value scaling = s->value(s, ".rope.scaling.type");
    source_tensor *factors = source_find(s, "rope_freqs.weight");
    double dims, base, local, factor;
    uint32_t i, ropes = f->pattern ? 2 : 1;
    llm_result result;
    result = family_number(s, ".rope.dimension_count", p->desc.head_size, 2, p->desc.head_size,
                           &dims, error);
    if (result == LLM_OK)
        result = family_number(s, ".rope.freq_base", 10000, 1, 1e30, &base, error);
    if (result == LLM_OK)
        result = family_number(s, ".rope.freq_base_swa", f->local_base, 1, 1e30, &local, error);
    if (result == LLM_OK)
        result = family_number(s, ".rope.scale_linear", 1, 1e-6, 1e6, &factor, error);
    if (result == LLM_OK)
        result = family_number(s, ".rope.scaling.factor", factor, 1e-6, 1e6, &factor, error);
    if (result != LLM_OK) return result;
    *turned = (uint32_t)dims;
    if ((double)*turned != dims || *turned % 2)
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s.rope.dimension_count: %g, expected an "
                         "even number", s->architecture, dims);
    if (scaling.kind == SOURCE_TEXT && text_compare(scaling.text, text_of("none")) == 0)
        factor = 1.0;
    else if (scaling.kind != SOURCE_NONE && (scaling.kind != SOURCE_TEXT ||
             text_compare(scaling.text, text_of("linear")) != 0))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "key %s.rope.scaling.type: %s, expected "
                         "\"none\" or \"linear\"", s->architecture, show_value(scaling).text);
    if (factors) {
        result = family_take(s, "rope_freqs.weight", true, 1, *turned / 2, &factors, error);
        if (result != LLM_OK) return result;
    }
    p->desc.ropes = ropes;
    for (i = 0; i < ropes; i++) { /* the last one is of the layers that attend to everything */
        plan_tensor *t = family_add(p, LLM__ROPE, i);
        if (!t)
            return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tensors", p->count + 1);
        t->file.rows = 1;
        t->file.cols = *turned / 2;
        t->base = i + 1 < ropes ? local : base;
        t->factor = i + 1 < ropes ? 1.0 : factor;
        t->from[0] = i + 1 < ropes ? NULL : factors;
    }
    return LLM_OK;
}

/* Windows: all layers but every pattern-th, or as the source lists them. A family without a pattern
   has one rope, and windows only where they are listed. */
static llm_result family_layers(const source_file *s, const family *f, plan *p, llm_error *error) {
    source_value listed = s->value(s, ".attention.sliding_window_pattern"), element;
    double window, every;
    uint32_t i;
    llm_result result = LLM_OK;
    p->layers = (llm__file_layer *)calloc(p->desc.layers, sizeof *p->layers);
    if (!p->layers)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %u layers", p->desc.layers);
    if (!f->pattern && listed.kind != SOURCE_ARRAY) return LLM_OK;
    result = family_number(s, ".attention.sliding_window", 0, 0, 1073741824, &window, error);
    every = f->pattern ? f->pattern : 1;
    if (result == LLM_OK && listed.kind != SOURCE_ARRAY)
        result = family_number(s, ".attention.sliding_window_pattern", every, 1, 1024, &every,
                               error);
    if (result == LLM_OK && listed.kind == SOURCE_ARRAY &&
        (listed.element != SOURCE_NUMBER || listed.count < p->desc.layers))
        result = llm__fail(error, LLM_ERROR_FORMAT, "key %s.attention.sliding_window_pattern: %s, "
                           "expected a number for each of %u layers", s->architecture,
                           show_value(listed).text, p->desc.layers);
    for (i = 0; i < p->desc.layers && result == LLM_OK; i++) {
        bool local = (i + 1) % (uint32_t)every != 0;
        if (listed.kind == SOURCE_ARRAY && s->next(s, &listed, &element))
            local = element.number > 0.0;
        p->layers[i].window = local ? (uint32_t)window : 0;
        p->layers[i].rope = f->pattern && !(local && window > 0.0) ? 1 : 0;
    }
    return result;
}

/* ---- the whole plan ---------------------------------------------------- */

/* Of several parts, the first; the others stand behind it. */
static plan_tensor *plan_find(const plan *p, uint32_t role, uint32_t layer) {
    size_t i;
    for (i = 0; i < p->count; i++)
        if (p->tensors[i].file.role == role && p->tensors[i].file.layer == layer)
            return &p->tensors[i];
    return NULL;
}

/* EMBEDDING or HEAD, whole and with nothing made of it yet, becomes parts that begin with the rows
   first[0] = 0, first[1], …; false: no memory. Other tensors move. */
static bool plan_cut(plan *p, uint32_t role, const uint32_t *first, uint32_t parts) {
    const size_t at = (size_t)(plan_find(p, role, LLM__NONE) - p->tensors);
    uint32_t rows = p->tensors[at].file.rows, i;
    for (i = 1; i < parts; i++)
        if (!family_add(p, role, LLM__NONE)) return false;
    memmove(p->tensors + at + parts, p->tensors + at + 1,
            (p->count - at - parts) * sizeof *p->tensors);
    for (i = parts; i-- > 0; rows = first[i]) {
        plan_tensor *t = &p->tensors[at + i];
        *t = p->tensors[at];
        t->first = first[i];
        t->file.rows = rows - first[i];
        t->file.expert = i ? i : LLM__NONE;
    }
    return true;
}

static void plan_close(plan *p) {
    size_t i;
    for (i = 0; i < p->count; i++) {
        free(p->tensors[i].made);
        free(p->tensors[i].importance);
        free(p->tensors[i].squares);
    }
    free(p->layers);
    free(p->tensors);
    memset(p, 0, sizeof *p);
}

static llm_result family_list(const source_file *s, const family *f, plan *p, llm_error *error) {
    const size_t count = sizeof family_parts / sizeof *family_parts;
    bool tied = !source_find(s, "output.weight");
    uint32_t layer, turned = 0;
    size_t i;
    llm_result result = family_rope(s, f, p, &turned, error);
    if (result == LLM_OK && !tied)
        result = family_make(s, f, p, &family_embedding, LLM__NONE, 0, error);
    for (layer = 0; layer < p->desc.layers; layer++)
        for (i = 0; i < count && result == LLM_OK; i++)
            if (family_parts[i].layer)
                result = family_make(s, f, p, &family_parts[i], layer, turned, error);
    for (i = 0; i < count && result == LLM_OK; i++)
        if (!family_parts[i].layer)
            result = family_make(s, f, p, &family_parts[i], LLM__NONE, 0, error);
    /* A tied embedding serves as the head too: last, where the stream reads it whole. */
    if (result == LLM_OK && tied)
        result = family_make(s, f, p, &family_embedding, LLM__NONE, 0, error);
    return result;
}

/* Everything about the result but types, rotations and places. After an error nothing is left. */
static llm_result plan_open(plan *p, const source_file *s, llm_error *error) {
    const family *f = NULL;
    llm_result result;
    size_t i;
    memset(p, 0, sizeof *p);
    for (i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].name, s->architecture) == 0) f = &families[i];
    if (!f)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "architecture \"%s\" is not supported, expected llama, qwen2, qwen3, "
                         "gemma3, bitnet or bitnet-b1.58", show(text_of(s->architecture)).text);
    result = family_describe(s, f, &p->desc, error);
    if (result == LLM_OK) result = family_layers(s, f, p, error);
    if (result == LLM_OK) result = family_list(s, f, p, error);
    for (i = 0; i < s->tensor_count && result == LLM_OK; i++)
        if (!s->tensors[i].used)
            result = llm__fail(error, LLM_ERROR_UNSUPPORTED, "tensor %s: not known in a model of "
                               "the %s family", show(s->tensors[i].name).text, f->name);
    if (result != LLM_OK) plan_close(p);
    return result;
}

#endif
