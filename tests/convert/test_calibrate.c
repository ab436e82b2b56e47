/* The calibration: its algebra against plain sums, feedback against rounding, whole conversions of the
   small models, those that are killed, and what it refuses. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <signal.h>
static unsigned long kill_after;
#define RESUME_SAVED(done) ((void)(kill_after && (done) >= kill_after && raise(SIGKILL)))
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#include "../check.h"
#include "../fixture.h"
#include <dirent.h>
#include <sys/wait.h>

static uint64_t state = 5;
static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}
static float gauss(void) {
    return (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform()));
}
static float *gaussian(size_t count) {
    float *x = (float *)malloc(count * sizeof *x);
    size_t i;
    for (i = 0; i < count; i++) x[i] = gauss();
    return x;
}

/* ---- algebra ------------------------------------------------------------- */

static void test_matmul(crew *c, size_t m, size_t n, size_t k, int turned) {
    float *a = gaussian(m * k), *b = gaussian(n * k), *out = gaussian(m * n), *was = gaussian(m * n);
    const matrix ma = turned ? matrix_of(a, 1, m) : matrix_of(a, k, 1);
    const matrix mb = turned ? matrix_of(b, 1, n) : matrix_of(b, k, 1);
    double worst = 0.0;
    size_t i, j, l;
    memcpy(was, out, m * n * sizeof *out);
    matmul(c, -1, m, n, k, ma, mb, strips_of(out, n, 16), -0.5f, true, false);
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++) {
            double want = (double)was[i * n + j], off;
            for (l = 0; l < k; l++)
                want -= 0.5 * (double)ma.data[i * ma.row + l * ma.col] * (double)mb.data[j * mb.row + l * mb.col];
            off = fabs(want - (double)out[i * n + j]);
            worst = off > worst ? off : worst;
        }
    CHECK(worst < 1e-3 * sqrt((double)k), "%zu x %zu x %zu: off by %g", m, n, k, worst);
    memcpy(was, out, m * n * sizeof *out);
    matmul(c, 0, m, n, k, ma, mb, strips_of(out, n, 16), 1.0f, false, false);
    matmul(c, -1, m, n, k, ma, mb, strips_of(was, n, 16), 1.0f, false, false);
    CHECK(memcmp(out, was, m * n * sizeof *out) == 0, "%zu x %zu x %zu: alone it is another result", m, n, k);
    free(a);
    free(b);
    free(out);
    free(was);
}

/* Second moments of correlated inputs x[tokens][n]; the last column is dead. */
static float *inputs(size_t tokens, size_t n) {
    float *x = gaussian(tokens * n);
    size_t t, i;
    for (t = 0; t < tokens; t++) {
        const float common = gauss();
        for (i = 0; i < n; i++) x[t * n + i] = i + 1 == n ? 0.0f : x[t * n + i] + (i % 3 ? common : 0.0f);
    }
    return x;
}

static void moments(crew *c, const float *x, size_t tokens, size_t n, float *h) {
    size_t i;
    matmul(c, -1, n, n, tokens, matrix_of(x, 1, n), matrix_of(x, 1, n), strips_of(h, 16, n * 16),
           1.0f / (float)tokens, false, true);
    for (i = 0; i < n; i++) MOMENTS_AT(h, n, i, i) += 0.01f;
}

static void test_factor(crew *c, size_t n) {
    const size_t tokens = 3 * n;
    float *x = inputs(tokens, n), *h = (float *)calloc(n * n, sizeof *h), *was = (float *)calloc(n * n, sizeof *h);
    float *panel = (float *)calloc(n * 64, sizeof *panel);
    double worst = 0.0;
    size_t i, j, k;
    moments(c, x, tokens, n, h);
    memcpy(was, h, n * n * sizeof *h);
    CHECK(moments_factor(c, h, n, 1e-6f, panel), "%zu columns are not positive", n);
    for (i = 0; i < n; i++)
        for (j = i; j < n; j++) {
            double sum = 0.0, off;
            for (k = j; k < n; k++)
                sum += (k == i ? 1.0 : (double)MOMENTS_AT(h, n, i, k)) * (double)MOMENTS_AT(h, n, k, k) *
                       (k == j ? 1.0 : (double)MOMENTS_AT(h, n, j, k));
            off = fabs(sum - (double)MOMENTS_AT(was, n, i, j));
            worst = off > worst ? off : worst;
        }
    CHECK(worst < 1e-4, "%zu columns: U D U^T is off by %g", n, worst);
    MOMENTS_AT(was, n, 5, 5) = -1.0f;
    CHECK(!moments_factor(c, was, n, 1e-6f, panel), "%zu columns: a negative square passes", n);
    free(x);
    free(h);
    free(was);
    free(panel);
}

/* What a matrix can tell from its input is found, scaled down by little; what is only chance, by much. */
static void test_follow(crew *c, size_t n, size_t m, double least, double most, float signal) {
    const size_t tokens = 6 * n + 1, rows = (m + 15) / 16 * 16;
    float *x = inputs(tokens, n), *map = gaussian(m * n), *missing = gaussian(tokens * m), *panel = gaussian(n * 64);
    double dot = 0.0, square = 0.0, worst = 0.0, share;
    calibration cal;
    writer w;
    llm__file_desc desc;
    llm_error error;
    size_t i, j, t;
    memset(&cal, 0, sizeof cal);
    memset(&w, 0, sizeof w);
    memset(&desc, 0, sizeof desc);
    cal.w = &w, w.widest = n, w.error = &error;
    cal.crew = *c, cal.run.d = &desc, cal.run.length = (uint32_t)tokens, cal.run.sequences = 1;
    cal.h = (float *)calloc(n * n, sizeof *cal.h), cal.d = (float *)calloc(n, sizeof *cal.d);
    cal.delta = gaussian(rows * n), cal.doubt = gaussian(rows * n);
    cal.space = gaussian(c->threads * feedback_floats((uint32_t)n));
    for (t = 0; t < tokens; t++)
        for (i = 0; i < m; i++)
            for (j = 0; j < n; j++) missing[t * m + i] += signal * x[t * n + j] * map[i * n + j];
    moments(c, x, tokens, n, cal.h);
    CHECK(moments_factor(c, cal.h, n, 1e-6f, panel), "%zu columns are not positive", n);
    for (i = 0; i < n; i++) cal.d[i] = MOMENTS_AT(cal.h, n, i, i);
    CHECK(calibrate_follow(&cal, missing, m, m, x, n) == LLM_OK, "it fails: %s", error.text);
    for (i = 0; i < m; i++)
        for (j = 0; j + 1 < n; j++) {
            const double want = (double)(signal * map[i * n + j]), got = (double)cal.delta[i * n + j];
            dot += want * got;
            square += signal > 0.0f ? want * want : got * got;
        }
    share = signal > 0.0f ? dot / square : sqrt(square * (double)tokens / (double)(m * n));
    CHECK(share > least && share < most, "%zu columns, signal %g: share %g", n, (double)signal, share);
    for (i = m * n; i < rows * n; i++) worst = fabs((double)cal.delta[i]) > worst ? fabs((double)cal.delta[i]) : worst;
    CHECK(!(worst > 0.0), "rows beyond the last are %g", worst);
    free(x), free(map), free(missing), free(panel);
    free(cal.h), free(cal.d), free(cal.delta), free(cal.doubt), free(cal.space);
}

/* ---- feedback ------------------------------------------------------------ */

static double weight_at(uint32_t type, const uint8_t *panel, uint32_t n, unsigned r, uint32_t k) {
    return (double)quantize_from_bf16(llm__u16(panel + (size_t)(k / llm__super_block(n)) * 32 + 2 * r)) *
           (double)llm__value(type, panel, n, r, k);
}

/* Mean square of what a panel's rows put out wrongly over the inputs. */
static double output_error(uint32_t type, const uint8_t *panel, const float *rows, uint32_t n, const float *x,
                           size_t tokens) {
    double sum = 0.0;
    size_t t;
    unsigned r;
    uint32_t k;
    for (t = 0; t < tokens; t++)
        for (r = 0; r < 16; r++) {
            double off = 0.0;
            for (k = 0; k < n; k++)
                off += ((double)rows[r * n + k] - weight_at(type, panel, n, r, k)) * (double)x[t * n + k];
            sum += off * off;
        }
    return sum / (double)tokens;
}

static void test_feedback(crew *c, const quantizer *tables, uint32_t type, uint32_t n) {
    const size_t tokens = 2 * n, size = llm__panel_size(type, n);
    float *x = inputs(tokens, n), *h = (float *)calloc((size_t)n * n, sizeof *h), *d = gaussian(n);
    float *panel64 = gaussian((size_t)n * 64), *rows = gaussian(16 * (size_t)n), *became = gaussian(16 * (size_t)n);
    float *room = gaussian(feedback_floats(n)), *weight = gaussian(n);
    uint8_t *panel = (uint8_t *)malloc(size), *plain = (uint8_t *)malloc(size);
    quantize_sums sums = {0.0, 0.0}, plain_sums = {0.0, 0.0};
    feedback_space space;
    feedback f;
    double error, plain_error, off = 0.0;
    uint32_t i;
    unsigned r;
    moments(c, x, tokens, n, h);
    for (i = 0; i < n; i++) weight[i] = MOMENTS_AT(h, n, i, i);
    CHECK(moments_factor(c, h, n, 1e-6f, panel64), "not positive");
    for (i = 0; i < n; i++) d[i] = MOMENTS_AT(h, n, i, i);
    f.tables = tables, f.type = type, f.n = n, f.u = h, f.d = d, f.tile = c->tile;
    feedback_place(&space, room, n);
    memcpy(became, rows, 16 * (size_t)n * sizeof *rows);
    feedback_panel(&f, &space, became, panel, &sums);
    quantize_panel(tables, type, rows, n, weight, plain, &plain_sums);
    for (r = 0; r < 16; r++)
        for (i = 0; i < n; i++) off += fabs((double)became[r * n + i] - weight_at(type, panel, n, r, i));
    CHECK(off == 0.0, "%s: rows are not what the panel holds, off by %g", llm__type_names[type], off);
    error = output_error(type, panel, rows, n, x, tokens);
    plain_error = output_error(type, plain, rows, n, x, tokens);
    CHECK(error < 0.8 * plain_error, "%s, %u columns: %g with feedback, %g without", llm__type_names[type], n, error,
          plain_error);
    memset(became, 0, 16 * (size_t)n * sizeof *became);
    feedback_panel(&f, &space, became, panel, &sums);
    for (i = 0, off = 0.0; i < n; i++) off += fabs((double)became[i]);
    CHECK(off == 0.0, "%s: zeros became %g", llm__type_names[type], off);
    free(x);
    free(h);
    free(d);
    free(panel64);
    free(rows);
    free(became);
    free(room);
    free(weight);
    free(panel);
    free(plain);
}

static void embedding_row(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    memcpy(out, (const float *)s->self + row * t->shape[0], (size_t)t->shape[0] * sizeof *out);
}

/* What the stream begins with is what the file's embedding holds, in two parts, whoever a row shares a panel with. */
static void test_look_up(crew *c, const quantizer *tables, uint32_t type, uint32_t rotation, bool fed) {
    enum { VOCAB = 48, TOKENS = 70, N = 96, PADDED = 128 };
    float *all = gaussian((size_t)VOCAB * PADDED), *x = gaussian((size_t)TOKENS * N), *h, *in, *panel64, d[PADDED];
    float *rows = (float *)calloc((size_t)c->threads * WRITER_UNIT, PADDED * sizeof *rows);
    float *space = gaussian(c->threads * feedback_floats(PADDED)), made[16 * PADDED];
    uint8_t *panels = (uint8_t *)malloc(c->threads * llm__panel_size(LLM_F32, PADDED));
    uint8_t *panel = (uint8_t *)malloc(llm__panel_size(LLM_F32, PADDED));
    const uint32_t firsts[2] = {0, 32};
    int32_t ids[TOKENS];
    quantize_sums sums = {0.0, 0.0};
    source_file from;
    source_tensor source;
    plan_tensor *tensor;
    plan p;
    writer w;
    calibration cal;
    uint32_t i, k, t, wrong = 0;
    memset(&from, 0, sizeof from), memset(&source, 0, sizeof source);
    memset(&p, 0, sizeof p), memset(&w, 0, sizeof w), memset(&cal, 0, sizeof cal);
    from.self = all, from.row = embedding_row, source.shape[0] = N;
    (void)family_add(&p, LLM__OUT_NORM, LLM__NONE), tensor = family_add(&p, LLM__EMBEDDING, LLM__NONE);
    (void)family_add(&p, LLM__ATTN_NORM, 0);
    tensor->file.rows = VOCAB, tensor->file.cols = N, tensor->file.rotation = rotation, tensor->from[0] = &source;
    tensor->file.type = type, p.desc.width = N, p.desc.embedding_scale = 3.0f;
    CHECK(plan_cut(&p, LLM__EMBEDDING, firsts, 2) && p.count == 4 && p.tensors[3].file.role == LLM__ATTN_NORM,
          "the plan is not cut");
    p.tensors[2].file.type = type == LLM_Q8 ? LLM_Q3 : LLM_Q8;
    w.from = &from, w.plan = &p, w.tables = tables, w.rows = rows, w.panels = panels, w.widest = PADDED, w.space = space;
    cal.w = &w, cal.run.d = &p.desc, cal.run.length = TOKENS, cal.run.sequences = 1, cal.crew = *c, cal.x = x;
    cal.ids = ids;
    for (t = 0; t < TOKENS; t++) ids[t] = (int32_t)(t * 29 % 47);
    h = (float *)calloc((size_t)PADDED * PADDED, sizeof *h), panel64 = gaussian((size_t)PADDED * 64);
    in = inputs(3 * PADDED, PADDED);
    moments(c, in, 3 * PADDED, PADDED, h);
    CHECK(moments_factor(c, h, PADDED, 1e-6f, panel64), "not positive");
    for (i = 0; i < PADDED; i++) d[i] = MOMENTS_AT(h, PADDED, i, i);
    cal.head.tables = tables, cal.head.n = fed ? PADDED : 0, cal.head.tile = c->tile;
    cal.head.u = h, cal.head.d = d;
    calibrate_look_up(&cal);
    for (i = 0; i < VOCAB; i += 16) {
        tensor = &p.tensors[i < 32 ? 1 : 2], type = cal.head.type = tensor->file.type;
        w.feedback = fed ? &cal.head : NULL;
        memset(made, 0, sizeof made);
        for (k = 0; k < 16; k++) memcpy(made + k * PADDED, all + (i + k) * N, N * sizeof *made);
        quantize_rotate(made, sizeof made / sizeof *made, 1, rotation);
        writer_quantize(&w, tensor, 0, made, panel, &sums);
        for (t = 0; t < TOKENS; t++) {
            if (ids[t] / 16 != (int32_t)(i / 16)) continue;
            for (k = 0; k < PADDED; k++) made[k] = llm__weight_at(type, panel, PADDED, (uint32_t)ids[t] % 16, k);
            quantize_rotate(made, PADDED, 1, rotation);
            for (k = 0; k < N; k++) wrong += made[k] * 3.0f != x[t * N + k];
        }
    }
    CHECK(wrong == 0, "%s, rotation %u: %u values of the stream are not what the embedding holds",
          llm__type_names[p.tensors[1].file.type], rotation, wrong);
    plan_close(&p);
    free(all), free(x), free(h), free(in), free(panel64), free(rows), free(space), free(panels), free(panel);
}

/* ---- ranges of tokens ------------------------------------------------------- */

enum { SLABS = LLM__VOCAB_PARTS + 2 };

/* The least that slabs from `at` on may cost, behind one of a format that is in part number `part`: all ways are tried. */
static double least_of(double cost[SLABS][MIXED_FORMATS], size_t at, uint32_t before, unsigned part) {
    double least = 1e300;
    uint32_t f;
    if (at == SLABS) return 0.0;
    for (f = MIXED_LEAST_CUT; f < MIXED_FORMATS; f++) {
        const unsigned here = part + (at && f != before);
        const double sum = here < LLM__VOCAB_PARTS ? cost[at][f] + least_of(cost, at + 1, f, here) : 1e300;
        least = sum < least ? sum : least;
    }
    return least;
}

/* The formats of a vocabulary's slabs are the best of all that there are in so many parts. */
static void test_cut(double price) {
    mixed_piece piece[SLABS];
    mixed_run run = {0, SLABS, 0, MIXED_LEAST_CUT};
    uint8_t from[SLABS * LLM__VOCAB_PARTS * MIXED_FORMATS];
    mixed_choice choice;
    double cost[SLABS][MIXED_FORMATS], least, got = 0.0;
    size_t i, parts = 1;
    uint32_t f;
    memset(&choice, 0, sizeof choice), memset(piece, 0, sizeof piece);
    choice.piece = piece, choice.run = &run, choice.pieces = SLABS, choice.runs = 1, choice.from = from;
    for (i = 0; i < SLABS; i++) { /* so that every slab by itself would be a part of its own */
        piece[i].rows = i + 1 < SLABS ? 64 : 48, piece[i].cols = 64;
        piece[i].sensitivity = 1e-3 * pow(4.0, i % 2 ? uniform() : 2.0 + 2.0 * uniform());
        for (f = 0; f < MIXED_FORMATS; f++) cost[i][f] = mixed_cost(&piece[i], f, price);
    }
    least = least_of(cost, 0, 0, 0);
    mixed_cut(&choice, &run, price);
    for (i = 0; i < SLABS; i++) {
        for (f = 0; mixed_formats[f].type != piece[i].type; f++) {}
        got += cost[i][f];
        parts += i && piece[i].type != piece[i - 1].type;
    }
    CHECK(parts <= LLM__VOCAB_PARTS && got <= least * (1.0 + 1e-12), "price %g: %zu parts cost %g, there are some for %g",
          price, parts, got, least);
    mixed_join_pieces(&choice);
    for (i = 0, f = 0; i < choice.pieces; i++) f += piece[i].rows;
    CHECK(run.count == parts && choice.pieces == parts && f == SLABS * 64 - 16, "%zu pieces of %u rows", choice.pieces, f);
}

/* ---- whole conversions ---------------------------------------------------- */

static char folder[] = "/tmp/llm-calibrate-XXXXXX";
static char text[512];
static const char sample[] = /* to be judged by */
    "The river had been low all summer, and the children walked across it on the stones to the mill. "
    "Nobody ground corn there any more; swallows nested in the roof.";
static char learned[2048]; /* to calibrate on: a part of what is built in */

static const char *in_folder(const char *name) {
    static char path[4][128];
    static unsigned turn;
    turn = (turn + 1) % 4;
    (void)snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* Runs the converter; `options` are separated by spaces. Its exit status; what it says is in `text`. */
static int run_converter(const char *input, const char *output, const char *options) {
    static char line[512];
    char *arguments[24];
    int count = 0, status;
    size_t size;
    char *word;
    FILE *said = NULL;
    (void)snprintf(line, sizeof line, "llm-convert %s %s --quiet %s", input, output, options);
    for (word = strtok(line, " "); word && count < 23; word = strtok(NULL, " ")) arguments[count++] = word;
    arguments[count] = NULL;
    if (!freopen(in_folder("messages"), "w", stderr)) exit(1);
    status = llm_convert_main(count, arguments);
    (void)fflush(stderr);
    said = fopen(in_folder("messages"), "r");
    size = said ? fread(text, 1, sizeof text - 1, said) : 0;
    text[size] = 0;
    if (said) (void)fclose(said);
    return status;
}

static void write_text(const char *name, const char *data, size_t size) {
    FILE *file = fopen(in_folder(name), "wb");
    CHECK(file && fwrite(data, 1, size, file) == size && fclose(file) == 0, "%s", name);
}

static uint8_t *bytes_of(const char *path, size_t *size) { return (uint8_t *)fixture_read(path, size); }

static bool same_files(const char *a, const char *b) {
    size_t size_a, size_b;
    uint8_t *one = bytes_of(a, &size_a), *two = bytes_of(b, &size_b);
    const bool same = size_a == size_b && memcmp(one, two, size_a) == 0;
    free(one);
    free(two);
    return same;
}

/* Logits of the sample's first tokens, from malloc. */
static float *logits_of(const char *path, uint32_t *vocab) {
    llm_model_desc desc;
    llm_session_desc s;
    llm_error error;
    llm_model *model;
    llm_session *session;
    llm_tokenize_desc t;
    int32_t ids[FIXTURE_TOKENS];
    float *all;
    size_t tokens;
    uint32_t i;
    memset(&desc, 0, sizeof desc);
    memset(&s, 0, sizeof s);
    desc.path = path, desc.error = &error, desc.verify = true;
    if (llm_model_open(&model, &desc)) {
        printf("FAIL %s: %s\n", path, error.text);
        exit(1);
    }
    memset(&t, 0, sizeof t);
    t.text = sample, t.size = sizeof sample - 1;
    (void)llm_tokenize(llm_model_tokenizer(model), &t, ids, FIXTURE_TOKENS, &tokens);
    CHECK(tokens >= FIXTURE_TOKENS, "%zu tokens", tokens);
    *vocab = fixture_vocab(model);
    s.model = model, s.context = FIXTURE_TOKENS, s.logits = FIXTURE_TOKENS, s.kv = LLM_KV_F16, s.error = &error;
    all = (float *)malloc((size_t)FIXTURE_TOKENS * *vocab * sizeof *all);
    if (llm_session_create(&session, &s) || llm_eval(session, ids, FIXTURE_TOKENS)) {
        printf("FAIL %s: %s\n", path, error.text);
        exit(1);
    }
    for (i = 0; i < FIXTURE_TOKENS; i++)
        memcpy(all + (size_t)i * *vocab, llm_session_logits(session, FIXTURE_TOKENS - 1 - i), *vocab * sizeof *all);
    llm_session_destroy(session);
    llm_model_close(model);
    return all;
}

static double apart(const char *path, const float *want) {
    uint32_t vocab;
    float *got = logits_of(path, &vocab);
    double sum = 0.0, size = 0.0;
    size_t i;
    for (i = 0; i < (size_t)FIXTURE_TOKENS * vocab; i++) {
        const double off = (double)got[i] - (double)want[i];
        sum += off * off;
        size += (double)want[i] * (double)want[i];
    }
    free(got);
    return sqrt(sum / size);
}

static const char *source_of(const char *name) {
    static char path[128];
    (void)snprintf(path, sizeof path, "tests/fixtures/models/%s.gguf", name);
    return path;
}

/* Ternary weights are rotated only if asked to, and only then there is something to learn. */
static void test_whole(const char *name) {
    static const char *const types[] = {"q8", "q5", "q3"};
    const char *rotate = strcmp(name, "bitnet") ? "auto" : "yes";
    char a[128], b[128], options[256];
    uint32_t vocab;
    float *want;
    double fast, seen;
    size_t i;
    (void)snprintf(a, sizeof a, "%s", in_folder("a.llm"));
    (void)snprintf(b, sizeof b, "%s", in_folder("b.llm"));
    CHECK(run_converter(source_of(name), a, "--type f32") == 0, "%s: %s", name, text);
    want = logits_of(a, &vocab);
    for (i = 0; i < 3; i++) {
        (void)snprintf(options, sizeof options, "--type %s --rotate %s --fast", types[i], rotate);
        CHECK(run_converter(source_of(name), a, options) == 0, "%s: %s", name, text);
        fast = apart(a, want);
        (void)snprintf(options, sizeof options, "--type %s --rotate %s --threads %zu --calibrate %s", types[i], rotate,
                       i % 3 + 1, in_folder("learned"));
        CHECK(run_converter(source_of(name), a, options) == 0, "%s: %s", name, text);
        seen = apart(a, want);
        CHECK(i ? seen < 0.95 * fast : seen < 1.2 * fast, "%s %s: %g of the logits with calibration, %g without", name,
              types[i], seen, fast);
    }
    (void)snprintf(options, sizeof options, "--type q3 --rotate %s --threads 1 --calibrate %s", rotate, in_folder("learned"));
    CHECK(run_converter(source_of(name), b, options) == 0 && same_files(a, b), "%s: with one thread it is another file",
          name);
    (void)snprintf(options, sizeof options, "--bits %s --calibrate %s", strcmp(name, "llama-odd") ? "5" : "7.5",
                   in_folder("learned"));
    CHECK(run_converter(source_of(name), b, options) == 0, "%s: %s", name, text);
    CHECK(apart(b, want) < seen, "%s: with more bits it is worse than q3", name);
    free(want);
}

/* Matrices of layers have the same bytes with and without a look at the activations. */
static void test_ternary(void) {
    llm_model_desc desc;
    llm_model *m[2] = {NULL, NULL};
    uint32_t layer, role;
    char options[256];
    (void)snprintf(options, sizeof options, "--bits 4 --calibrate %s", in_folder("learned"));
    CHECK(run_converter(source_of("bitnet"), in_folder("a.llm"), "--type q2 --fast") == 0, "%s", text);
    CHECK(run_converter(source_of("bitnet"), in_folder("b.llm"), options) == 0, "%s", text);
    memset(&desc, 0, sizeof desc);
    for (role = 0; role < 2; role++) {
        desc.path = in_folder(role ? "b.llm" : "a.llm");
        CHECK(!llm_model_open(&m[role], &desc), "%s", desc.path);
    }
    for (layer = 0; m[0] && m[1] && layer < m[0]->desc->layers; layer++)
        for (role = LLM__Q; role <= LLM__DOWN; role++) {
            const llm__tensor *a = llm__tensor_at(m[0], layer, role), *b = llm__tensor_at(m[1], layer, role);
            const size_t size = llm__panel_size(LLM_Q2, llm__padded(a->cols)) * ((a->rows + 15) / 16);
            if (!a->data || a->type == LLM_F32) continue;
            CHECK(a->type == LLM_Q2 && b->type == LLM_Q2 && !memcmp(a->data, b->data, size), "layer %u, role %u: other bytes",
                  layer, role);
        }
    llm_model_close(m[0]);
    llm_model_close(m[1]);
}

/* ---- killed, and taken up again ------------------------------------------ */

static unsigned files_with(const char *part) {
    unsigned count = 0;
    struct dirent *entry;
    DIR *d = opendir(folder);
    while (d && (entry = readdir(d)) != NULL) count += strstr(entry->d_name, part) != NULL;
    if (d) (void)closedir(d);
    return count;
}

/* By default a source of 16 bits is calibrated, on the text that is built in. */
static void test_default(void) {
    char a[128], b[128];
    (void)snprintf(a, sizeof a, "%s", in_folder("a.llm"));
    (void)snprintf(b, sizeof b, "%s", in_folder("b.llm"));
    CHECK(run_converter(source_of("gemma"), a, "--type q4") == 0, "%s", text);
    CHECK(run_converter(source_of("gemma"), b, "--calibrate --type q4") == 0 && same_files(a, b), "%s", text);
    CHECK(run_converter(source_of("gemma"), b, "--type q4 --fast") == 0 && !same_files(a, b), "%s", text);
    CHECK(run_converter(source_of("gemma"), b, "--type bf16") == 0, "%s", text);
}

static void killed(const char *output, const char *options, unsigned long after) {
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        kill_after = after;
        _exit(run_converter(source_of("gemma"), output, options));
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "it was not killed");
}

/* What is changed of what was kept: nothing; a byte; where the file ends, under a right checksum. */
typedef enum spoil { WHOLE, DAMAGED, WRONG_END } spoil;

static void spoil_kept(uint8_t *data, size_t size, spoil how) {
    resume_head head;
    uint64_t end;
    if (how == DAMAGED) data[size / 2] ^= 1;
    if (how != WRONG_END) return;
    memcpy(&head, data, sizeof head);
    head.at -= 64;
    memcpy(data, &head, sizeof head);
    end = llm__xxh64(data, size - sizeof end);
    memcpy(data + size - sizeof end, &end, sizeof end);
}

static void test_killed(unsigned long after, const char *then, spoil how) {
    char a[128], b[128], kept[160];
    (void)snprintf(a, sizeof a, "%s", in_folder("killed.llm"));
    (void)snprintf(b, sizeof b, "%s", in_folder("whole.llm"));
    (void)snprintf(kept, sizeof kept, "%s.resume", a);
    char first[256];
    (void)unlink(a);
    (void)snprintf(first, sizeof first, "--type q4 --threads 1 --calibrate %s", in_folder("learned"));
    CHECK(run_converter(source_of("gemma"), b, then) == 0, "%s", text);
    killed(a, first, after);
    CHECK(files_with("killed.llm.") == 2 && !platform_exists(a), "%u files are left", files_with("killed.llm."));
    if (how != WHOLE) {
        size_t size;
        uint8_t *data = bytes_of(kept, &size);
        FILE *file = fopen(kept, "wb");
        spoil_kept(data, size, how);
        CHECK(file && fwrite(data, 1, size, file) == size && fclose(file) == 0, "%s", kept);
        free(data);
    }
    CHECK(run_converter(source_of("gemma"), a, then) == 0, "%s", text);
    CHECK(same_files(a, b), "killed behind %lu tensors, then %s: another file", after, then);
    CHECK(!platform_exists(kept), "%s is still there", kept);
    CHECK(files_with(".tmp") == (how != WHOLE || !strstr(then, "q4")), "%u files are left", files_with(".tmp"));
    (void)system("rm -f /tmp/llm-calibrate-*/*.tmp");
}

/* ---- importance matrices --------------------------------------------------- */

/* What was seen is kept of every matrix, also of those that lose nothing. */
static void test_seen(const char *name, const char *type) {
    static const char *const matrices[] = {"blk.0.attn_q.weight", "blk.0.attn_output.weight", "blk.1.ffn_up.weight",
                                           "blk.1.ffn_down.weight", "token_embd.weight"};
    char options[256];
    float mean[256];
    llm_error error;
    imatrix m;
    bool found;
    size_t i;
    (void)snprintf(options, sizeof options, "--type %s --write-imatrix %s --calibrate %s", type, in_folder("seen.gguf"),
                   in_folder("learned"));
    CHECK(run_converter(source_of(name), in_folder("a.llm"), options) == 0, "%s", text);
    CHECK(imatrix_open(&m, in_folder("seen.gguf"), &error) == LLM_OK, "%s", error.text);
    for (i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        const uint32_t n = strcmp(name, "bitnet") ? 64 : strstr(matrices[i], "ffn_down") ? 104 : 96;
        CHECK(imatrix_find(&m, matrices[i], n, mean, &found, &error) == LLM_OK && found && mean[n / 2] > 0.0f,
              "%s as %s: nothing of %s", name, type, matrices[i]);
    }
    imatrix_close(&m);
}

static void test_importance(void) {
    char a[128], b[128], options[256];
    uint32_t vocab;
    float *want;
    (void)snprintf(a, sizeof a, "%s", in_folder("a.llm"));
    (void)snprintf(b, sizeof b, "%s", in_folder("b.llm"));
    CHECK(run_converter(source_of("qwen3"), a, "--type f32") == 0, "%s", text);
    want = logits_of(a, &vocab);
    (void)snprintf(options, sizeof options, "--type q4 --write-imatrix %s --calibrate %s", in_folder("seen.gguf"),
                   in_folder("learned"));
    CHECK(run_converter(source_of("qwen3"), a, options) == 0, "%s", text);
    (void)snprintf(options, sizeof options, "--type q4 --imatrix %s", in_folder("seen.gguf"));
    CHECK(run_converter(source_of("qwen3"), a, options) == 0, "%s", text);
    CHECK(run_converter(source_of("qwen3"), b, "--type q4 --fast") == 0, "%s", text);
    CHECK(!same_files(a, b), "an importance matrix changes nothing");
    /* The channels of a random model matter alike: what is gained or lost is luck (test_quantize.c has more). */
    CHECK(apart(a, want) < 1.3 * apart(b, want), "with an importance matrix %g, without %g", apart(a, want),
          apart(b, want));
    CHECK(run_converter(source_of("llama-odd"), b, options) == 1 && strstr(text, "the columns of the model's matrix"),
          "%s", text);
    free(want);
}

/* ---- refusals --------------------------------------------------------------- */

static void refused(const char *input, const char *options, int status, const char *words) {
    char want[256];
    (void)snprintf(want, sizeof want, "%s", words);
    CHECK(run_converter(input, in_folder("no.llm"), options) == status, "%s: accepted", options);
    CHECK(strstr(text, want), "%s: it says: %sexpected: %s", options, text, want);
    CHECK(!platform_exists(in_folder("no.llm")), "%s: a file is there", options);
}

static void test_refusals(void) {
    char options[256];
    static char long_text[40000];
    size_t i;
    write_text("short", "A few words.", 12);
    (void)snprintf(options, sizeof options, "--type q4 --calibrate %s", in_folder("short"));
    refused(source_of("llama-tied"), options, 1, "short: 10 tokens, expected at least 128");
    write_text("latin", "caf\xe9", 4);
    (void)snprintf(options, sizeof options, "--type q4 --calibrate %s", in_folder("latin"));
    refused(source_of("llama-tied"), options, 1, "latin: byte 3 is not UTF-8, expected text");
    for (i = 0; i + 3 <= sizeof long_text; i += 3) memcpy(long_text + i, "\xe2\x98\x83", 3); /* snowmen */
    write_text("odd", long_text, i);
    (void)snprintf(options, sizeof options, "--type q4 --calibrate %s", in_folder("odd"));
    refused(source_of("gemma"), options, 1, "odd: the vocabulary has no words for 39999 of 39999 tokens, expected a text in a language that "
            "the model knows");
    refused("--random tiny", "--type q4 --calibrate", 1, "no tokenizer, expected one to calibrate");
    refused(source_of("llama-odd"), "--bits 3.1", 1, "3.1 bits a weight are too few, expected at least 3.66");
    refused(source_of("gemma"), "--bits 2", 2, "--bits is \"2\", expected 3 .. 8");
    refused(source_of("gemma"), "--bits x", 2, "--bits is \"x\", expected 3 .. 8");
    refused(source_of("gemma"), "--calibrate --imatrix x.gguf", 2, "--imatrix and --calibrate exclude each other");
    refused(source_of("gemma"), "--non-finite bf16 --bits 5", 2, "--non-finite bf16 excludes --bits");
    refused(source_of("gemma"), "--non-finite q8", 2, "--non-finite is \"q8\", expected stop or bf16");
    refused(source_of("gemma"), "--fast --bits 4", 2, "--fast excludes --bits");
    refused(source_of("gemma"), "--fast --write-imatrix x", 2, "--fast excludes --write-imatrix");
}

/* ---- the model's own words ------------------------------------------------ */

static void count_progress(void *user, uint64_t done, uint64_t total) {
    *(uint64_t *)user = done * 1000 + total;
}

/* As often as asked for, by any number of threads the same; every sequence begins with the text. */
static void test_continuation(const char *name) {
    enum { SEQUENCES = 20, LENGTH = 80, TEXT = 60 };
    llm_model *model = fixture_open(name, "q8");
    const uint32_t vocab = fixture_vocab(model);
    int32_t text[TEXT], ids[2][SEQUENCES * LENGTH];
    uint64_t progress = 0;
    unsigned threads, i, k, found = 0, different = 0;
    llm_error error;
    llm_model_close(model);
    for (i = 0; i < TEXT; i++) text[i] = (int32_t)((i * 37 + 11) % vocab);
    for (threads = 1; threads <= 3; threads += 2)
        CHECK(continuation_write(fixture_model_path(name, "q8"), threads, text, TEXT, 2, LENGTH, SEQUENCES,
                                 count_progress, &progress, ids[threads / 2], &error) == LLM_OK,
              "%s: %s", name, error.text);
    CHECK(progress == SEQUENCES * 1000 + SEQUENCES, "%s: progress ends at %llu", name, (unsigned long long)progress);
    CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0, "%s: three threads write something else", name);
    for (i = 0; i < SEQUENCES; i++) {
        const int32_t *row = ids[0] + i * LENGTH;
        for (k = 0; k + CONTINUATION_GIVEN <= TEXT; k++)
            if (memcmp(row + 1, text + k, CONTINUATION_GIVEN * sizeof *text) == 0) break;
        found += row[0] == 2 && k + CONTINUATION_GIVEN <= TEXT;
        different += i && memcmp(row + 40, row + 40 - LENGTH, 40 * sizeof *row) != 0;
        for (k = 0; k < LENGTH; k++)
            if (row[k] < 0 || row[k] >= (int32_t)vocab) break;
        CHECK(k == LENGTH, "%s: sequence %u: token %u is %d", name, i, k, row[k]);
    }
    CHECK(found == SEQUENCES, "%s: %u of %u sequences begin with the text", name, found, SEQUENCES);
    CHECK(different == SEQUENCES - 1, "%s: %u sequences are as the one before", name, SEQUENCES - 1 - different);
    CHECK(continuation_write("no such file", 1, text, TEXT, -1, LENGTH, 1, count_progress, &progress, ids[0],
                             &error) == LLM_ERROR_IO, "a draft that is not there: %s", error.text);
}

int main(int count, char **arguments) {
    quantizer *tables = quantize_create();
    llm_error error;
    crew one, three;
    char then[256];
    size_t i;
    fixture_arguments(count, arguments);
    if (!mkdtemp(folder)) return 1;
    CHECK(crew_open(&one, 1, 1024, 1024, &error) == LLM_OK && crew_open(&three, 3, 1024, 1024, &error) == LLM_OK,
          "%s", error.text);
    for (i = 0; i < 2; i++) {
        crew *c = i ? &three : &one;
        if (!i) c->tile = matmul_tile_plain;
        test_matmul(c, 1, 1, 1, 0);
        test_matmul(c, 5, 17, 300, 0);
        test_matmul(c, 130, 270, 257, 1);
        test_matmul(c, 128, 256, 256, 0);
        test_factor(c, 64);
        test_factor(c, 192);
        test_follow(c, 64, 40, 0.75, 1.02, 1.0f);
        test_follow(c, 192, 192, 0.75, 1.02, 1.0f);
        test_follow(c, 64, 40, -1.0, 0.3, 0.0f);
        test_feedback(c, tables, LLM_Q4, 256);
    }
    test_feedback(&three, tables, LLM_Q3, 192);
    test_feedback(&three, tables, LLM_Q5, 128);
    test_feedback(&three, tables, LLM_Q6, 320);
    test_feedback(&three, tables, LLM_Q8, 64);
    test_cut(1e-6), test_cut(1e-5), test_cut(1e-3);
    test_look_up(&three, tables, LLM_Q4, 0, true);
    test_look_up(&three, tables, LLM_Q8, 64, true);
    test_look_up(&three, tables, LLM_Q3, 32, false);
    test_look_up(&three, tables, LLM_BF16, 0, false);
    test_look_up(&one, tables, LLM_Q5, 64, true);
    test_look_up(&one, tables, LLM_F32, 0, false);
    crew_close(&one);
    crew_close(&three);
    free(tables);
    for (i = 0; i < CALIBRATION_PIECES && strlen(learned) + strlen(calibration_pieces[i]) < sizeof learned; i++)
        strcat(learned, calibration_pieces[i]);
    write_text("learned", learned, strlen(learned));
    for (i = 0; i < FIXTURES; i++) test_whole(fixture_names[i]);
    test_ternary();
    test_continuation("llama-tied");
    test_continuation("gemma");
    test_default();
    (void)snprintf(then, sizeof then, "--type q4 --threads 2 --calibrate %s", in_folder("learned"));
    test_killed(8, then, WHOLE);
    test_killed(20, then, DAMAGED);
    test_killed(8, then, WRONG_END);
    then[8] = '5';
    test_killed(8, then, WHOLE);
    test_seen("llama-tied", "f32");
    test_seen("bitnet", "q2");
    test_importance();
    test_refusals();
    (void)snprintf(text, sizeof text, "rm -rf %s", folder);
    CHECK(system(text) == 0, "%s is still there", folder);
    return check_report("test_calibrate");
}
