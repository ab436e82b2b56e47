/* llm-convert with adapters: what is evaluated beside a model is what is merged into it, from GGUF and from PEFT,
   through rotations, rows in another order and smoothed inputs; and what it refuses, word for word. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Allocation number `fail_at` fails. */
static size_t asked, fail_at;
static bool refuse(void) { return ++asked == fail_at; }
static void *maybe_malloc(size_t size) { return refuse() ? NULL : malloc(size); }
static void *maybe_calloc(size_t count, size_t size) { return refuse() ? NULL : calloc(count, size); }
static void *maybe_realloc(void *memory, size_t size) { return refuse() ? NULL : realloc(memory, size); }
#define malloc maybe_malloc
#define calloc maybe_calloc
#define realloc maybe_realloc
#define LLM_NO_TEMPLATE
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#undef malloc
#undef calloc
#undef realloc
#include "../check.h"
#include "../fixture.h"
#include "../image.h"

static char folder[] = "/tmp/llm-adapters-XXXXXX", said[1024];
static const char *in_folder(const char *name) {
    static char paths[64][300];
    static unsigned next;
    char *path = paths[next++ % 64];
    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}
static const char *fixture_source(const char *name) {
    static char path[300];
    (void)snprintf(path, sizeof path, "tests/fixtures/models/%s.gguf", name);
    return path;
}

/* The program's exit status; what it says stands in `said`. */
static int run(const char *const *given) {
    char text[40][300], *arguments[41] = {NULL}, *newline;
    int count = 0, status;
    FILE *file;
    size_t size;
    for (; given[count]; count++) {
        (void)snprintf(text[count], sizeof text[0], "%s", given[count]);
        arguments[count] = text[count];
    }
    if (!freopen(in_folder("said"), "w", stderr)) exit(2);
    status = llm_convert_main(count, arguments);
    (void)fflush(stderr);
    file = fopen(in_folder("said"), "r");
    size = file ? fread(said, 1, sizeof said - 1, file) : 0;
    said[size] = 0;
    if ((newline = strchr(said, '\n')) != NULL) *newline = 0;
    if (file) (void)fclose(file);
    return status;
}
#define RUN(...) run((const char *const[]){"llm-convert", "--quiet", __VA_ARGS__, NULL})

static void put_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) exit(2);
}

/* ---- adapters of random numbers ------------------------------------------- */

static uint32_t state;
static float any(float size) {
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) / 8388608.0f - 1.0f) * size;
}

/* What to write differently from the rest. */
typedef struct spoil {
    const char *from, *to; /* a tensor of this name gets another, or none (NULL) */
    uint32_t more_cols, more_rank;
    bool nan;
    const char *config; /* settings of PEFT */
    const char *architecture, *type;
    bool no_alpha, invoked;
} spoil;

typedef struct sample {
    llm__file_desc desc;
    bool interleaved; /* as GGUF has the rows of q and k */
    uint32_t rank, seed, turned;
    float alpha;
    bool only_attention;
} sample;

typedef struct made {
    char name[100];
    uint32_t rows, cols;
    float *x;
} made;

/* A and B of every matrix in the order of the checkpoint: names of GGUF, or of PEFT. */
static uint32_t make_tensors(const sample *s, bool peft, const spoil *spoiled, made *out) {
    uint32_t layer, i, c, r, k, count = 0;
    state = s->seed;
    for (layer = 0; layer < s->desc.layers; layer++)
        for (i = 0; i < ADAPTER_PARTS; i++)
            for (c = 0; c < 2; c++) {
                const adapter_part *part = &adapter_parts[i];
                uint32_t rows, cols, rank = s->rank + (i == 2) * 3; /* V has another rank */
                made *m = &out[count];
                family_shape(&s->desc, part->role, &rows, &cols);
                if (peft) (void)snprintf(m->name, sizeof m->name, "base_model.model.model.layers.%u.%s.lora_%c.weight", layer,
                                         part->theirs, "AB"[c]);
                else (void)snprintf(m->name, sizeof m->name, "blk.%u.%s.weight.lora_%c", layer, part->ours, "ab"[c]);
                m->rows = c ? rows : rank, m->cols = c ? rank : cols;
                if (spoiled && spoiled->from && !strcmp(spoiled->from, m->name)) {
                    if (!spoiled->to) continue;
                    (void)snprintf(m->name, sizeof m->name, "%s", spoiled->to);
                    m->cols += spoiled->more_cols, m->rows += spoiled->more_rank;
                }
                m->x = (float *)malloc((size_t)m->rows * m->cols * sizeof(float));
                for (r = 0; r < m->rows; r++) {
                    uint32_t to = r, head = s->desc.head_size, half = s->turned / 2;
                    if (!peft && c && s->interleaved && i < 2 && r % head < s->turned)
                        to = r - r % head + (r % head < half ? 2 * (r % head) : 2 * (r % head - half) + 1);
                    for (k = 0; k < m->cols; k++) m->x[(size_t)to * m->cols + k] = any(c ? 0.4f : 0.25f);
                }
                if (spoiled && spoiled->nan && !count) m->x[5] = -logf(0.0f);
                if (s->only_attention && i > 3) {
                    free(m->x);
                    continue;
                }
                count++;
            }
    return count;
}

static void put(buffer *b, const void *data, size_t size) { buffer_add(b, (const char *)data, size); }
static void put32(buffer *b, uint32_t x) { put(b, &x, 4); }
static void put64(buffer *b, uint64_t x) { put(b, &x, 8); }
static void put_text(buffer *b, const char *text) {
    put64(b, strlen(text));
    put(b, text, strlen(text));
}
static void put_string(buffer *b, const char *key, const char *value) {
    put_text(b, key), put32(b, GGUF_STRING), put_text(b, value);
}

static made tensors[2 * ADAPTER_PARTS * 16];

static void write_gguf(const char *path, const sample *s, const spoil *spoiled) {
    const uint32_t count = make_tensors(s, false, spoiled, tensors);
    buffer b = {NULL, 0, 0, false};
    uint64_t offset = 0;
    uint32_t i;
    char family_name[17] = {0};
    memcpy(family_name, s->desc.family, 16);
    put(&b, "GGUF", 4), put32(&b, 3), put64(&b, count), put64(&b, 5);
    put_string(&b, "general.architecture", spoiled && spoiled->architecture ? spoiled->architecture : family_name);
    put_string(&b, "general.type", "adapter"), put_string(&b, spoiled && spoiled->invoked ? "adapter.alora.invocation_tokens" : "general.name", "a pirate");
    put_string(&b, "adapter.type", spoiled && spoiled->type ? spoiled->type : "lora");
    put_text(&b, spoiled && spoiled->no_alpha ? "adapter.lora.beta" : "adapter.lora.alpha");
    put32(&b, 6), put(&b, &s->alpha, 4);
    for (i = 0; i < count; i++) {
        put_text(&b, tensors[i].name), put32(&b, 2), put64(&b, tensors[i].cols), put64(&b, tensors[i].rows);
        put32(&b, 0), put64(&b, offset);
        offset += ((uint64_t)tensors[i].rows * tensors[i].cols * 4 + 31) / 32 * 32;
    }
    for (i = 0; i < count; i++) {
        while (b.size % 32) put(&b, "", 1);
        put(&b, tensors[i].x, (size_t)tensors[i].rows * tensors[i].cols * 4);
        free(tensors[i].x);
    }
    while (b.size % 32) put(&b, "", 1);
    put_file(path, b.data, b.size);
    free(b.data);
}

static void write_peft(const char *path, const sample *s, const spoil *spoiled) {
    const uint32_t count = make_tensors(s, true, spoiled, tensors);
    buffer b = {NULL, 0, 0, false}, file = {NULL, 0, 0, false};
    char line[300], name[400];
    uint64_t at = 0, size;
    uint32_t i;
    put(&b, "{", 1);
    for (i = 0; i < count; i++) {
        size = (uint64_t)tensors[i].rows * tensors[i].cols * 4;
        (void)snprintf(line, sizeof line, "%s\"%.99s\": {\"dtype\": \"F32\", \"shape\": [%u, %u], \"data_offsets\": [%llu, %llu]}",
                       i ? ", " : "", tensors[i].name, tensors[i].rows, tensors[i].cols, (unsigned long long)at,
                       (unsigned long long)(at + size));
        put(&b, line, strlen(line));
        at += size;
    }
    put(&b, "}", 1);
    put64(&file, b.size), put(&file, b.data, b.size);
    for (i = 0; i < count; i++) {
        put(&file, tensors[i].x, (size_t)tensors[i].rows * tensors[i].cols * 4);
        free(tensors[i].x);
    }
    (void)mkdir(path, 0777);
    (void)snprintf(name, sizeof name, "%s/adapter_model.safetensors", path);
    put_file(name, file.data, file.size);
    (void)snprintf(name, sizeof name, "%s/adapter_config.json", path);
    put_file(name, spoiled && spoiled->config ? spoiled->config : "", spoiled && spoiled->config ? strlen(spoiled->config) : 0);
    free(b.data), free(file.data);
}

static sample sample_of(const llm_model *m, uint32_t rank, uint32_t seed) {
    sample s;
    memset(&s, 0, sizeof s);
    s.desc = *m->desc;
    s.interleaved = !strncmp(m->desc->family, "llama", 16);
    s.turned = 2 * m->rope[0].cols;
    s.rank = rank, s.seed = seed, s.alpha = 6.0f;
    return s;
}

/* ---- logits ---------------------------------------------------------------- */

static llm_model *open_path(const char *path) {
    llm_model_desc d;
    llm_model *m = NULL;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.path = path, d.verify = true, d.error = &error;
    CHECK(llm_model_open(&m, &d) == LLM_OK, "%s", error.text);
    if (!m) exit(1);
    return m;
}

/* f32 [48][vocab] with up to two adapters. */
static float *logits_of(llm_model *m, const char *name, const char *const *paths, const float *weights, uint32_t count) {
    const uint32_t vocab = fixture_vocab(m);
    float *out = (float *)calloc((size_t)FIXTURE_TOKENS * vocab, sizeof *out);
    int32_t ids[FIXTURE_TOKENS];
    llm_adapter *adapters[2] = {NULL, NULL};
    llm_adapter_desc a;
    llm_session_desc d;
    llm_session *s = NULL;
    llm_error error;
    uint32_t i;
    fixture_ids(name, ids);
    memset(&d, 0, sizeof d), memset(&a, 0, sizeof a);
    d.model = m, d.kv = LLM_KV_F16, d.error = &error, d.adapter_rank = 128;
    d.context = d.rows = d.logits = FIXTURE_TOKENS;
    CHECK(llm_session_create(&s, &d) == LLM_OK, "%s", error.text);
    a.model = m, a.verify = true, a.error = &error;
    for (i = 0; i < count; i++) {
        a.path = paths[i];
        CHECK(llm_adapter_open(&adapters[i], &a) == LLM_OK, "%s: %s", paths[i], error.text);
    }
    CHECK(llm_session_set_adapters(s, (const llm_adapter *const *)adapters, weights, count) == LLM_OK, "%s",
          llm_session_error(s)->text);
    CHECK(llm_eval(s, ids, FIXTURE_TOKENS) == LLM_OK, "%s", llm_session_error(s)->text);
    for (i = 0; i < FIXTURE_TOKENS; i++)
        memcpy(out + (size_t)i * vocab, llm_session_logits(s, FIXTURE_TOKENS - 1 - i), vocab * sizeof *out);
    llm_session_destroy(s);
    for (i = 0; i < count; i++) llm_adapter_close(adapters[i]);
    return out;
}

/* |a - b| / |b| */
static double apart(const float *a, const float *b, uint32_t vocab) {
    double error = 0, size = 0;
    size_t i;
    for (i = 0; i < (size_t)FIXTURE_TOKENS * vocab; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(error / size);
}

/* ---- beside and merged ------------------------------------------------------ */

static const char plain_config[] =
    "{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 6, \"bias\": \"none\", \"use_dora\": false, "
    "\"modules_to_save\": null, \"init_lora_weights\": true, \"base_model_name_or_path\": \"x/y\", "
    "\"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"self_attn.v_proj\": 8}, \"alpha_pattern\": {}}";

/* `limit`: how far apart, relative to what the adapters change. */
static void test_fixture(const char *name, const char *type, const char *rotate, double limit) {
    const char *const source = fixture_source(name), *const base = in_folder("base.llm"), *const merged = in_folder("merged.llm");
    const char *const gguf = in_folder("a.gguf"), *const second = in_folder("second.gguf"), *const peft = in_folder("peft");
    const char *paths[2];
    const float weights[2] = {0.75f, -0.5f};
    char merge[2][400];
    spoil spoiled;
    sample s, t;
    llm_model *m, *with;
    float *plain, *beside, *in;
    uint32_t vocab;
    CHECK(!RUN(source, base, "--type", type, "--rotate", rotate), "%s", said);
    m = open_path(base);
    vocab = fixture_vocab(m);
    s = sample_of(m, 5, 1), t = sample_of(m, 17, 2);
    t.only_attention = true;
    memset(&spoiled, 0, sizeof spoiled);
    spoiled.config = plain_config;
    write_gguf(gguf, &s, NULL), write_gguf(second, &t, NULL), write_peft(peft, &s, &spoiled);
    CHECK(!RUN(gguf, in_folder("a.llm"), "--base", base, "--type", "f32"), "%s", said);
    CHECK(!RUN(second, in_folder("b.llm"), "--base", base, "--type", "f32"), "%s", said);
    (void)snprintf(merge[0], sizeof merge[0], "%s=0.75", peft);
    (void)snprintf(merge[1], sizeof merge[1], "%s=-0.5", second);
    CHECK(!RUN(source, merged, "--type", type, "--rotate", rotate, "--merge", merge[0], "--merge", merge[1]), "%s", said);
    with = open_path(merged);
    paths[0] = in_folder("a.llm"), paths[1] = in_folder("b.llm");
    plain = logits_of(m, name, paths, weights, 0);
    beside = logits_of(m, name, paths, weights, 2);
    in = logits_of(with, name, paths, weights, 0);
    CHECK(apart(in, plain, vocab) > 0.1, "%s: the adapters change the logits by %g only", name, apart(in, plain, vocab));
    CHECK(apart(beside, in, vocab) < limit * apart(in, plain, vocab), "%s %s: beside and merged are %g apart, of %g", name, type,
          apart(beside, in, vocab), apart(in, plain, vocab));
    printf("%s %s: beside and merged %.2g apart, of %.2g\n", name, type, apart(beside, in, vocab), apart(in, plain, vocab));
    free(plain), free(beside), free(in);
    llm_model_close(with), llm_model_close(m);
}


/* The same adapter from both formats gives the same numbers, byte for byte. */
static void test_formats(const char *name) {
    llm_model *m;
    llm_adapter *a[2] = {NULL, NULL};
    llm_adapter_desc d;
    llm_adapter_info info;
    llm_error error;
    spoil spoiled;
    sample s;
    uint32_t i;
    CHECK(!RUN(fixture_source(name), in_folder("base.llm"), "--type", "q8"), "%s", said);
    m = open_path(in_folder("base.llm"));
    s = sample_of(m, 5, 9);
    memset(&spoiled, 0, sizeof spoiled), memset(&d, 0, sizeof d);
    spoiled.config = plain_config;
    write_gguf(in_folder("a.gguf"), &s, NULL), write_peft(in_folder("peft"), &s, &spoiled);
    CHECK(!RUN(in_folder("a.gguf"), in_folder("a.llm"), "--base", in_folder("base.llm")), "%s", said);
    CHECK(!RUN(in_folder("peft"), in_folder("b.llm"), "--base", in_folder("base.llm")), "%s", said);
    d.model = m, d.verify = true, d.error = &error;
    for (i = 0; i < 2; i++) {
        d.path = in_folder(i ? "b.llm" : "a.llm");
        CHECK(!llm_adapter_open(&a[i], &d), "%s", error.text);
    }
    if (!a[0] || !a[1]) exit(1);
    CHECK(a[0]->pairs == 7 * s.desc.layers && a[0]->pairs == a[1]->pairs, "%u pairs", a[0]->pairs);
    for (i = 0; i < a[0]->pairs && i < a[1]->pairs; i++) {
        const llm__file_pair *t = &a[0]->pair[i], *u = &a[1]->pair[i];
        CHECK(t->checksum == u->checksum && t->role == u->role && t->type == LLM_BF16, "%s: pair %u differs", name, i);
        CHECK(llm__bits(t->scale) == llm__bits(6.0f / (float)t->rank) && llm__bits(t->scale) == llm__bits(u->scale),
              "%s: pair %u: scales %g, %g", name, i, (double)t->scale, (double)u->scale);
    }
    llm_adapter_get_info(a[0], &info);
    CHECK(info.meta.size > 24 && !memcmp(info.meta.data, "general.architecture=", 21), "%.*s", (int)info.meta.size, info.meta.data);
    llm_adapter_close(a[0]), llm_adapter_close(a[1]);
    llm_model_close(m);
}

/* ---- a model with smoothed inputs -------------------------------------------- */

static float *element(const image *f, const llm__file_tensor *t, uint32_t row, uint32_t k) {
    return (float *)(void *)(f->data + t->offset) + ((size_t)(row / 16) * llm__padded(t->cols) + k) * 16 + row % 16;
}
static void scale_columns(const image *f, uint32_t role, uint32_t layer, const float *s) {
    const llm__file_tensor *t = tensor_of(f, role, layer);
    uint32_t row, k;
    for (row = 0; row < t->rows; row++)
        for (k = 0; k < t->cols; k++) *element(f, t, row, k) *= s[k];
}
static void shrink_gain(const image *f, uint32_t role, uint32_t layer, const float *s) {
    const llm__file_tensor *t = tensor_of(f, role, layer);
    float *gain = (float *)(void *)(f->data + t->offset);
    uint32_t k;
    for (k = 0; k < t->cols; k++) gain[k] /= s[k];
}
static void shrink_row(const image *f, const llm__file_tensor *t, uint32_t row, float s) {
    uint32_t k;
    for (k = 0; k < t->cols; k++) *element(f, t, row, k) /= s;
}
/* Outputs of V's heads turned, as weights of few bits have them. */
static void rotate_values(const image *f, uint32_t layer) {
    llm__file_tensor *t = tensor_of(f, LLM__V, layer);
    float column[4096];
    uint32_t row, k;
    for (k = 0; k < t->cols; k++) {
        for (row = 0; row < t->rows; row++) column[row] = *element(f, t, row, k);
        quantize_rotate(column, t->rows, 1, 16);
        for (row = 0; row < t->rows; row++) *element(f, t, row, k) = column[row];
    }
    t->row_rotation = 16;
}

/* Random scales of an input, behind the section so far. */
static const float *put_scales(buffer *b, uint32_t role, uint32_t layer, uint32_t cols, uint32_t head, uint32_t group) {
    static float s[4096];
    llm__file_smooth start;
    uint32_t k;
    memset(&start, 0, sizeof start);
    start.role = role, start.layer = layer, start.cols = cols;
    for (k = 0; k < cols; k++) s[k] = 1.25f + any(0.75f);
    for (k = 0; head && k < cols; k++) s[k] = s[k / head / group * group * head + k % head];
    put(b, &start, sizeof start), put(b, s, cols * sizeof *s);
    while (b->size % 16) put(b, "", 1);
    return s;
}

static void smooth_layer(const image *f, const llm__file_desc *d, uint32_t layer, buffer *b) {
    const uint32_t group = d->heads / d->kv_heads;
    const float *s = put_scales(b, LLM__Q, layer, d->width, 0, 1);
    const llm__file_tensor *t;
    uint32_t i;
    shrink_gain(f, LLM__ATTN_NORM, layer, s);
    for (i = LLM__Q; i <= LLM__V; i++) scale_columns(f, i, layer, s);
    s = put_scales(b, LLM__ATTN_OUT, layer, d->heads * d->value_size, d->value_size, group);
    t = tensor_of(f, LLM__V, layer);
    for (i = 0; i < t->rows; i++) shrink_row(f, t, i, s[i / d->value_size * group * d->value_size + i % d->value_size]);
    scale_columns(f, LLM__ATTN_OUT, layer, s);
    rotate_values(f, layer);
    s = put_scales(b, LLM__GATE_UP, layer, d->width, 0, 1);
    shrink_gain(f, LLM__FFN_NORM, layer, s);
    scale_columns(f, LLM__GATE_UP, layer, s);
    s = put_scales(b, LLM__DOWN, layer, d->ffn, 0, 1);
    t = tensor_of(f, LLM__GATE_UP, layer);
    for (i = 0; i < d->ffn; i++) shrink_row(f, t, i / 16 * 32 + 16 + i % 16, s[i]);
    scale_columns(f, LLM__DOWN, layer, s);
}

/* The file with a further section. */
static void put_smoothed(const char *path, image *f, const buffer *b) {
    const size_t at = (f->size + 4095) / 4096 * 4096;
    llm__file_section *s = (llm__file_section *)(void *)(f->data + sizeof(llm__file_header)) + section_count_of(f);
    llm__file_section *data = section_of(f, LLM__SECTION_DATA);
    buffer whole = {NULL, 0, 0, false};
    data->checksum = llm__xxh64(f->data + data->offset, (size_t)data->size);
    s->kind = LLM__SECTION_SMTH, s->zero = 0, s->offset = at, s->size = b->size;
    s->checksum = llm__xxh64(b->data, b->size);
    header_of(f)->section_count++;
    header_of(f)->file_size = at + b->size;
    seal(f);
    put(&whole, f->data, f->size);
    while (whole.size < at) put(&whole, "", 1);
    put(&whole, b->data, b->size);
    put_file(path, whole.data, whole.size);
    free(whole.data);
    header_of(f)->section_count--;
}

static void refuse_smoothing(image *f, buffer *b, const char *message) {
    char whole[400];
    put_smoothed(in_folder("wrong.llm"), f, b);
    (void)snprintf(whole, sizeof whole, "llm-convert: %s: %s", in_folder("a.gguf"), message);
    CHECK(RUN(in_folder("a.gguf"), in_folder("x.llm"), "--base", in_folder("wrong.llm")) == 1 && !strcmp(said, whole),
          "\"%s\",\n    expected \"%s\"", said, whole);
    CHECK(access(in_folder("x.llm"), F_OK) != 0, "a file is left");
}

static void test_smoothing(const char *name) {
    const float one = 1.0f;
    const char *path = in_folder("a.llm"), *smooth_path = in_folder("b.llm");
    llm_model *m, *smooth;
    llm_adapter_desc d;
    llm_adapter *wrong;
    llm_error error;
    image f;
    buffer b = {NULL, 0, 0, false};
    sample s;
    float *plain, *beside, *without, zero = 0.0f;
    uint32_t layer, vocab, layers = 99;
    char message[200];
    CHECK(!RUN(fixture_source(name), in_folder("base.llm"), "--type", "f32"), "%s", said);
    f.data = (uint8_t *)fixture_read(in_folder("base.llm"), &f.size);
    m = open_path(in_folder("base.llm"));
    vocab = fixture_vocab(m);
    s = sample_of(m, 7, 3);
    write_gguf(in_folder("a.gguf"), &s, NULL);
    for (layer = 0; layer < s.desc.layers; layer++) smooth_layer(&f, &s.desc, layer, &b);
    put_smoothed(in_folder("smooth.llm"), &f, &b);
    smooth = open_path(in_folder("smooth.llm"));
    CHECK(!RUN(in_folder("a.gguf"), path, "--base", in_folder("base.llm"), "--type", "f32"), "%s", said);
    CHECK(!RUN(in_folder("a.gguf"), smooth_path, "--base", in_folder("smooth.llm"), "--type", "f32"), "%s", said);
    without = logits_of(smooth, name, &path, &one, 0);
    plain = logits_of(m, name, &path, &one, 0);
    CHECK(apart(without, plain, vocab) < 1e-2, "%s: the smoothed model is %g apart", name, apart(without, plain, vocab));
    free(plain), free(without);
    plain = logits_of(m, name, &path, &one, 1);
    beside = logits_of(smooth, name, &smooth_path, &one, 1);
    CHECK(apart(beside, plain, vocab) < 1e-2, "%s: with the adapter it is %g apart", name, apart(beside, plain, vocab));
    printf("%s smoothed: %.2g apart\n", name, apart(beside, plain, vocab));
    memset(&d, 0, sizeof d);
    d.model = smooth, d.path = path, d.error = &error;
    CHECK(llm_adapter_open(&wrong, &d) == LLM_ERROR_FORMAT &&
              !strncmp(error.text, "section LORA: smoothing is 0000000000000000, that of the model ", 63), "%s", error.text);
    memcpy(b.data + 16, &zero, 4);
    refuse_smoothing(&f, &b, "section SMTH: role 5, layer 0: scale 0 is 0, expected a number above 0");
    memcpy(b.data + 4, &layers, 4);
    (void)snprintf(message, sizeof message, "section SMTH: role 5, layer 99, 64 columns before %llu bytes, expected an input of "
                   "the model", (unsigned long long)b.size);
    refuse_smoothing(&f, &b, message);
    b.size = 10;
    refuse_smoothing(&f, &b, "section SMTH: role 0, layer 0, 0 columns before 10 bytes, expected an input of the model");
    free(plain), free(beside), free(f.data), free(b.data);
    llm_model_close(m), llm_model_close(smooth);
}

/* ---- refusals ------------------------------------------------------------------ */

static sample small;
static void expect_said(int status, int wanted, const char *input, const char *message, int line) {
    char whole[700];
    (void)snprintf(whole, sizeof whole, "llm-convert: %s%s%s%s", input ? input : "", input ? ": " : "", message,
                   wanted == 2 ? "; llm-convert --help says more" : "");
    CHECK(status == wanted && !strcmp(said, whole), "line %d: status %d \"%s\",\n    expected \"%s\"", line, status, said, whole);
    CHECK(access(in_folder("x.llm"), F_OK) != 0, "line %d: a file is left", line);
}
static void refuse_gguf(const spoil *spoiled, const char *message, int line) {
    write_gguf(in_folder("a.gguf"), &small, spoiled);
    expect_said(RUN(in_folder("a.gguf"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, in_folder("a.gguf"), message,
                line);
}
static void refuse_peft(const spoil *spoiled, const char *message, int line) {
    write_peft(in_folder("peft"), &small, spoiled);
    expect_said(RUN(in_folder("peft"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, in_folder("peft"), message, line);
}
#define GGUF(message, ...)                        \
    do {                                          \
        const spoil spoiled = {__VA_ARGS__};      \
        refuse_gguf(&spoiled, message, __LINE__); \
    } while (0)
#define PEFT(message, ...)                                     \
    do {                                                       \
        spoil spoiled = {__VA_ARGS__};                         \
        if (!spoiled.config) spoiled.config = plain_config;    \
        refuse_peft(&spoiled, message, __LINE__);              \
    } while (0)
#define CONFIG(settings, message) PEFT(message, .config = "{\"peft_type\": \"LORA\", " settings "}")

static void test_tensors_refused(void) {
    GGUF("key adapter.type: \"dora\", expected \"lora\"", .type = "dora");
    GGUF("key adapter.lora.alpha: missing, expected a number", .no_alpha = true);
    GGUF("key adapter.alora.invocation_tokens: \"a pirate\", expected none: it is not supported", .invoked = true);
    GGUF("key general.architecture: \"qwen3\", but the model is of the llama family", .architecture = "qwen3");
    GGUF("tensor token_embd.weight.lora_a: expected blk.N.NAME.weight.lora_a or .lora_b of attn_q, attn_k, attn_v, "
         "attn_output, ffn_gate, ffn_up or ffn_down", .from = "blk.0.attn_q.weight.lora_a", .to = "token_embd.weight.lora_a");
    GGUF("tensor blk.0.attn_q.weight.lora_b: missing", .from = "blk.0.attn_q.weight.lora_b");
    GGUF("tensor blk.00.attn_q.weight.lora_a: expected blk.N.NAME.weight.lora_a or .lora_b of attn_q, attn_k, attn_v, "
         "attn_output, ffn_gate, ffn_up or ffn_down", .from = "blk.1.attn_q.weight.lora_a",
         .to = "blk.00.attn_q.weight.lora_a");
    GGUF("tensor blk..attn_q.weight.lora_a: expected blk.N.NAME.weight.lora_a or .lora_b of attn_q, attn_k, attn_v, "
         "attn_output, ffn_gate, ffn_up or ffn_down", .from = "blk.1.attn_q.weight.lora_a",
         .to = "blk..attn_q.weight.lora_a");
    GGUF("tensor blk.0.attn_q.weight.lora_a: missing", .from = "blk.0.attn_q.weight.lora_a");
    GGUF("tensor blk.1.ffn_up.weight.lora_a: shape 65 x 5 x 1 x 1, expected 64 x 5", .from = "blk.1.ffn_up.weight.lora_a",
         .to = "blk.1.ffn_up.weight.lora_a", .more_cols = 1);
    GGUF("tensor blk.1.ffn_up.weight.lora_b: shape 5 x 64 x 1 x 1, expected 6 x 64", .from = "blk.1.ffn_up.weight.lora_a",
         .to = "blk.1.ffn_up.weight.lora_a", .more_rank = 1);
    GGUF("tensor blk.1.ffn_up.weight.lora_a: rank 1025 in layer 1, expected 1 .. 1024 in 0 .. 1",
         .from = "blk.1.ffn_up.weight.lora_a", .to = "blk.1.ffn_up.weight.lora_a", .more_rank = 1020);
    GGUF("tensor blk.0.attn_q.weight.lora_a: row 0, column 5 is inf, expected a finite number", .nan = true);
    PEFT("adapter_model.safetensors: tensor base_model.model.lm_head.lora_A.weight: expected lora_A or lora_B of "
         "self_attn.q_proj, k_proj, v_proj, o_proj, mlp.gate_proj, up_proj or down_proj in a layer",
         .from = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", .to = "base_model.model.lm_head.lora_A.weight");
    PEFT("adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight: "
         "expected lora_A or lora_B of self_attn.q_proj, k_proj, v_proj, o_proj, mlp.gate_proj, up_proj or down_proj in a layer",
         .from = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
         .to = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight");
    PEFT("tensor base_model.model.model.layers.1.mlp.up_proj.lora_B.weight: missing",
         .from = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight");
    PEFT("tensor base_model.model.model.layers.1.mlp.up_proj.lora_A.weight: shape 65 x 5 x 1 x 1, expected 64 x 5",
         .from = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight",
         .to = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", .more_cols = 1);
    PEFT("tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight: there are two of it",
         .from = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
         .to = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight");
}

static void test_settings_refused(void) {
    CONFIG("\"peft_type\": 1", "adapter_config.json: byte 0: the key \"peft_type\" is twice in this object");
    PEFT("adapter_config.json: peft_type: \"IA3\", expected LORA", .config = "{\"peft_type\": \"IA3\"}");
    CONFIG("\"use_dora\": true", "adapter_config.json: use_dora: true, expected none: it is not supported");
    CONFIG("\"modules_to_save\": [\"lm_head\"]", "adapter_config.json: modules_to_save: an array, expected none: it is not "
           "supported");
    CONFIG("\"bias\": \"all\"", "adapter_config.json: bias: \"all\", expected \"none\"");
    CONFIG("\"init_lora_weights\": \"pissa\"", "adapter_config.json: init_lora_weights: \"pissa\", expected true, false, "
           "gaussian, eva or orthogonal: others change the model too");
    CONFIG("\"lora_alpha\": 6", "adapter_config.json: r: nothing, expected a number from 1 to 1024");
    CONFIG("\"r\": 5", "adapter_config.json: lora_alpha: nothing, expected a number from 0 to 1e+09");
    CONFIG("\"r\": 6, \"lora_alpha\": 6", "tensor base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight: its rank is 5, "
           "adapter_config.json says 6");
    CONFIG("\"r\": 5, \"lora_alpha\": 6, \"rank_pattern\": 3", "adapter_config.json: rank_pattern: 3, expected an object");
    CONFIG("\"r\": 5, \"lora_alpha\": 6, \"rank_pattern\": {\"layers\\\\.[01].*\": 3}",
           "adapter_config.json: rank_pattern: \"layers\\.[01].*\", expected the end of a module's name");
    CONFIG("\"r\": 5, \"lora_alpha\": 6, \"rank_pattern\": {\"v_proj\": 8}, \"alpha_pattern\": {\"down_proj\": \"x\"}",
           "adapter_config.json: alpha_pattern: \"x\", expected a number from 0 to 1e9");
    CONFIG("\"r\": 5, \"lora_alpha\": 6, \"use_rslora\": 2", "adapter_config.json: use_rslora: 2, expected true or false");
}

static void test_lines(void) {
    char message[700];
    const char *const gguf = in_folder("a.gguf"), *const out = in_folder("x.llm"), *const base = in_folder("base.llm");
    const char *many[40] = {"llm-convert", gguf, out};
    int i;
    write_gguf(gguf, &small, NULL);
    expect_said(RUN(gguf, out), 1, gguf, "an adapter; expected --base with the .llm file of the model that it is for", __LINE__);
    (void)snprintf(message, sizeof message, "--merge is m.gguf, expected none: the input is an adapter itself");
    expect_said(RUN(gguf, out, "--base", base, "--merge", "m.gguf"), 1, gguf, message, __LINE__);
    expect_said(RUN(gguf, out, "--base", base, "--type", "q8"), 1, gguf, "--type is q8, an adapter takes auto, bf16 or f32", __LINE__);
    (void)snprintf(message, sizeof message, "the model %s cannot be the base: header: the file begins with \"GGUF?\", a .llm file "
                   "with \"llm.h\"", gguf);
    expect_said(RUN(gguf, out, "--base", gguf), 1, gguf, message, __LINE__);
    (void)snprintf(message, sizeof message, "/no/base.llm: cannot be opened (errno %d)", ENOENT);
    expect_said(RUN(gguf, out, "--base", "/no/base.llm"), 1, NULL, message, __LINE__);
    (void)snprintf(message, sizeof message, "--base is %s, expected none: only an adapter takes one", base);
    expect_said(RUN(fixture_source("gemma"), out, "--base", base), 1, fixture_source("gemma"), message, __LINE__);
    (void)snprintf(message, sizeof message, "adapter %s cannot be merged: key general.architecture: \"llama\", but the model is of "
                   "the gemma3 family", gguf);
    expect_said(RUN(fixture_source("gemma"), out, "--merge", gguf), 1, fixture_source("gemma"), message, __LINE__);
    (void)snprintf(message, sizeof message, "/no/a.gguf=: cannot be opened (errno %d)", ENOENT);
    expect_said(RUN(fixture_source("gemma"), out, "--merge", "/no/a.gguf="), 1, NULL, message, __LINE__);
    for (i = 0; i < 17; i++) many[3 + 2 * i] = "--merge", many[4 + 2 * i] = "a.gguf";
    expect_said(run(many), 2, NULL, "--merge stands over 16 times", __LINE__);
    expect_said(RUN("--random", "tiny", out, "--merge", gguf), 2, NULL, "--merge wants an INPUT with weights", __LINE__);
}

/* A file without tensors, and scales that no float holds. */
static void test_odd_files(void) {
    buffer b = {NULL, 0, 0, false};
    const float alpha = 3e38f;
    put(&b, "GGUF", 4), put32(&b, 3), put64(&b, 0), put64(&b, 4);
    put_string(&b, "general.architecture", "llama"), put_string(&b, "general.type", "adapter");
    put_string(&b, "adapter.type", "lora"), put_text(&b, "adapter.lora.alpha"), put32(&b, 6), put(&b, &alpha, 4);
    put_file(in_folder("a.gguf"), b.data, b.size);
    free(b.data);
    expect_said(RUN(in_folder("a.gguf"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, in_folder("a.gguf"),
                "the adapter has no tensors, expected one pair or more", __LINE__);
    small.alpha = -logf(0.0f);
    GGUF("tensor blk.0.attn_k.weight.lora_a: its scale is inf, expected a finite number", .nan = false);
    small.alpha = 6.0f;
}

/* Tensors of another kind, in files of PEFT that are written by hand. */
static void test_kinds(void) {
    static const char header[] = "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\": {\"dtype\": \"I32\", "
                                 "\"shape\": [1, 2], \"data_offsets\": [0, 8]}}";
    buffer b = {NULL, 0, 0, false};
    spoil spoiled;
    memset(&spoiled, 0, sizeof spoiled);
    spoiled.config = plain_config;
    write_peft(in_folder("peft"), &small, &spoiled);
    put64(&b, sizeof header - 1), put(&b, header, sizeof header - 1), put64(&b, 0);
    put_file(in_folder("peft/adapter_model.safetensors"), b.data, b.size);
    free(b.data);
    expect_said(RUN(in_folder("peft"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, in_folder("peft"),
                "adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight: I32 in 2 "
                "dimensions, expected F32, F16, BF16, F8_E4M3 or F8_E5M2 in 2", __LINE__);
    put_file(in_folder("peft/config.json"), "{}", 2); /* both a model's and an adapter's */
    expect_said(RUN(in_folder("peft"), in_folder("x.llm")), 1, in_folder("peft"),
                "config.json: model_type: nothing, expected llama, mistral, qwen2, qwen3, gemma3, gemma3_text or bitnet", __LINE__);
    expect_said(RUN(in_folder("peft"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, in_folder("peft"),
                "adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight: I32 in 2 "
                "dimensions, expected F32, F16, BF16, F8_E4M3 or F8_E5M2 in 2", __LINE__);
    (void)unlink(in_folder("peft/config.json"));
    (void)unlink(in_folder("peft/adapter_model.safetensors"));
    expect_said(RUN(in_folder("peft"), in_folder("x.llm"), "--base", in_folder("base.llm")), 1, NULL,
                "the folder has no adapter_model.safetensors, expected it", __LINE__);
}

/* alpha by sqrt(r), and by the first pattern that fits. */
static void test_scales(void) {
    spoil spoiled;
    llm_adapter_desc d;
    llm_adapter *a = NULL;
    llm_model *m = open_path(in_folder("base.llm"));
    llm_error error;
    uint32_t i;
    memset(&spoiled, 0, sizeof spoiled), memset(&d, 0, sizeof d);
    spoiled.config = "{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 6, \"use_rslora\": true, \"rank_pattern\": "
                     "{\"v_proj\": 8}, \"alpha_pattern\": {\"^model.layers.1.mlp.up_proj\": 3, \"^up_proj\": 50, "
                     "\"1.mlp.up_proj\": 60, \"up_proj\": 12, \"p_proj\": 70}}";
    write_peft(in_folder("peft"), &small, &spoiled);
    CHECK(!RUN(in_folder("peft"), in_folder("a.llm"), "--base", in_folder("base.llm")), "%s", said);
    d.model = m, d.path = in_folder("a.llm"), d.error = &error;
    CHECK(!llm_adapter_open(&a, &d), "%s", error.text);
    for (i = 0; a && i < a->pairs; i++) {
        const llm__file_pair *t = &a->pair[i];
        const bool up = t->role == LLM__GATE_UP && t->half;
        const double alpha = up ? t->layer == 1 ? 3 : 12 : 6, want = alpha / sqrt(t->rank);
        CHECK(fabs(t->scale - want) < 1e-6, "pair %u: scale %g, expected %g", i, (double)t->scale, want);
    }
    llm_adapter_close(a);
    llm_model_close(m);
}

/* ---- memory ---------------------------------------------------------------------- */

static bool matches(const char *format, const char *text) {
    for (; *format; format++, text++) {
        if (*format != '%') {
            if (*format != *text) return false;
            continue;
        }
        while (!strchr("sud", *format)) format++;
        if (*format == 's') {
            for (; *text; text++)
                if (matches(format + 1, text)) return true;
            return matches(format + 1, text);
        }
        if (*text < '0' || *text > '9') return false;
        while (text[1] >= '0' && text[1] <= '9') text++;
    }
    return !*text;
}

/* Every allocation in turn: a message that says what for, and nothing is left. */
static void test_memory(const char *input, const char *base, const char *merged) {
    static const char *const formats[] = {
        "no memory for a file of %zu bytes", "no memory for %zu keys and %zu tensors", "no memory for %zu tensors",
        "no memory for a directory of %zu tensors", "no memory for %zu bytes of text", "%s: no memory for a name of %zu bytes",
        "no memory for a panel of %u columns", "no memory for %u x (%u + %u) numbers", "no memory for the input's names and settings",
        "the model %s cannot be the base: model: no memory for a directory of %zu bytes", "no memory for a path",
        "adapter %s cannot be merged: %s", "no memory for %u layers", "adapter_config.json: no memory for %zu bytes",
        "adapter_config.json: byte %zu: no memory", "adapter_config.json: %s", "adapter_model.safetensors: %s",
        "no memory for %zu tokens", "tokenizer: no memory for %zu bytes", "tokenizer: no memory for %zu x %zu bytes",
        "tokenizer: no memory for a section of %llu bytes", "no memory for tables and %zu bytes of text",
        "no memory for a slab of %zu units of %zu columns", "no memory for %zu units of rows", "no memory for %u frequencies",
        "tensor %s: no memory for %u elements"};
    const size_t count = sizeof formats / sizeof *formats;
    llm_result result = LLM_ERROR_MEMORY;
    options o;
    size_t i, n;
    memset(&o, 0, sizeof o);
    o.input = input, o.output = in_folder("x.llm"), o.base = base, o.quiet = true, o.threads = 1, o.type = LLM_F32;
    if (merged) o.merge[o.merges++] = merged;
    for (n = 1; result != LLM_OK && n < 2000; n++) {
        llm_error error;
        asked = 0, fail_at = n;
        result = convert(&o, &error);
        fail_at = 0;
        if (result == LLM_OK) break;
        for (i = 0; i < count && !matches(formats[i], error.text); i++) continue;
        CHECK(result == LLM_ERROR_MEMORY && error.code == result && i < count, "allocation %zu: %s \"%s\"", n,
              llm_result_name(result), error.text);
        CHECK(access(o.output, F_OK), "allocation %zu: a file is left", n);
    }
    CHECK(result == LLM_OK && n > 10, "%zu allocations", n);
    CHECK(!unlink(o.output), "no file from enough memory");
}

static void test_refusals(void) {
    llm_model *m;
    CHECK(!RUN(fixture_source("llama-tied"), in_folder("base.llm"), "--type", "q8"), "%s", said);
    m = open_path(in_folder("base.llm"));
    small = sample_of(m, 5, 4);
    llm_model_close(m);
    test_tensors_refused();
    test_settings_refused();
    test_lines();
    test_odd_files();
    test_kinds();
    test_scales();
    write_gguf(in_folder("a.gguf"), &small, NULL);
    test_memory(in_folder("a.gguf"), in_folder("base.llm"), NULL);
    test_memory(in_folder("peft"), in_folder("base.llm"), NULL);
    test_memory(fixture_source("llama-tied"), NULL, in_folder("a.gguf"));
}

static void clean_up(void) {
    static const char *const names[] = {"base.llm", "merged.llm", "smooth.llm", "wrong.llm", "a.gguf", "second.gguf", "a.llm",
                                        "b.llm", "peft/adapter_config.json", "peft/adapter_model.safetensors", "said"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) (void)unlink(in_folder(names[i]));
    CHECK(!rmdir(in_folder("peft")) && !rmdir(folder), "%s is not empty", folder);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    if (!mkdtemp(folder)) return 1;
    test_fixture("llama-tied", "f32", "no", 1e-3);
    test_fixture("llama-odd", "f32", "no", 1e-3);
    test_fixture("qwen3", "f32", "no", 1e-3);
    test_fixture("gemma-pattern", "f32", "no", 1e-3);
    test_fixture("bitnet", "f32", "no", 1e-3);
    test_fixture("bitnet", "auto", "no", 0.5); /* merged, the weights are ternary no more */
    test_fixture("llama-untied", "q8", "yes", 0.1); /* both are quantised, each by itself */
    test_fixture("gemma", "q8", "yes", 0.1);
    test_fixture("llama-tied", "q6", "no", 0.25);
    test_formats("llama-untied"), test_formats("qwen3"), test_formats("gemma-pattern"), test_formats("llama-odd");
    test_smoothing("llama-untied"), test_smoothing("llama-tied");
    test_refusals();
    clean_up();
    return check_report("adapters");
}
