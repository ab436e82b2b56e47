/* llm-convert with adapters: what is evaluated beside a model is what is merged into it, from GGUF and from PEFT,
   through rotations, rows in another order and smoothed inputs; and what it refuses, word for word. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define LLM_NO_TEMPLATE
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
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
    char text[16][300], *arguments[17] = {NULL}, *newline;
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
    bool no_alpha;
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
    put(&b, "GGUF", 4), put32(&b, 3), put64(&b, count), put64(&b, spoiled && spoiled->no_alpha ? 4 : 5);
    put_string(&b, "general.architecture", spoiled && spoiled->architecture ? spoiled->architecture : family_name);
    put_string(&b, "general.type", "adapter"), put_string(&b, "general.name", "a pirate");
    put_string(&b, "adapter.type", spoiled && spoiled->type ? spoiled->type : "lora");
    if (!(spoiled && spoiled->no_alpha)) put_text(&b, "adapter.lora.alpha"), put32(&b, 6), put(&b, &s->alpha, 4);
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

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    if (!mkdtemp(folder)) return 1;
    test_fixture("llama-tied", "f32", "no", 1e-3);
    test_fixture("llama-odd", "f32", "no", 1e-3);
    test_fixture("qwen3", "f32", "no", 1e-3);
    test_fixture("gemma-pattern", "f32", "no", 1e-3);
    test_fixture("llama-untied", "q8", "yes", 0.05);
    test_fixture("gemma", "q8", "yes", 0.05);
    test_fixture("llama-tied", "q6", "no", 0.1);
    return check_report("adapters");
}
