/* The GGUF reader against files that are cut, wrong and mutated; whole conversions of a fixture. */
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#include "../check.h"

static uint64_t state = 7;
static uint32_t any(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

/* ---- a small GGUF file in memory --------------------------------------- */

static void put32(buffer *b, uint32_t x) { buffer_add(b, (const char *)&x, 4); }
static void put64(buffer *b, uint64_t x) { buffer_add(b, (const char *)&x, 8); }
static void put_text(buffer *b, const char *text) {
    put64(b, strlen(text));
    buffer_add(b, text, strlen(text));
}
static void put_key(buffer *b, const char *key, uint32_t type) {
    put_text(b, key);
    put32(b, type);
}
static void put_tensor(buffer *b, const char *name, uint32_t cols, uint32_t rows, uint32_t type,
                       uint64_t offset) {
    put_text(b, name);
    put32(b, 2);
    put64(b, cols);
    put64(b, rows);
    put32(b, type);
    put64(b, offset);
}

/* What to spoil. */
enum { GOOD, SAME_KEY, SAME_TENSOR, ALIGNMENT, ALIGNMENT_KIND, MISALIGNED, OUTSIDE, NESTED,
      VALUE_TYPE,
       TENSOR_TYPE, ROW, DIMENSION, HUGE_ARRAY, VERSION, COUNTS, NO_ARCHITECTURE, SPOILS };

static buffer make(int spoil) {
    buffer b = {NULL, 0, 0, false};
    int i;
    buffer_add(&b, "GGUF", 4);
    put32(&b, spoil == VERSION ? 1 : 3);
    put64(&b, spoil == COUNTS ? (uint64_t)1 << 60 : 2);
    put64(&b, 5);
    put_key(&b, spoil == NO_ARCHITECTURE ? "general.arch" : "general.architecture", GGUF_STRING);
    put_text(&b, "llama");
    put_key(&b, "general.alignment", spoil == ALIGNMENT_KIND ? 6 : 4);
    put32(&b, spoil == ALIGNMENT ? 48 : spoil == ALIGNMENT_KIND ? 0x7fc00000u : 64);
    put_key(&b, spoil == SAME_KEY ? "general.alignment" : "x.words", GGUF_ARRAY);
    put32(&b, spoil == NESTED ? GGUF_ARRAY : GGUF_STRING);
    put64(&b, 2);
    put_text(&b, "one");
    put_text(&b, "two");
    put_key(&b, "x.numbers", GGUF_ARRAY);
    put32(&b, 6);
    put64(&b, spoil == HUGE_ARRAY ? ~(uint64_t)0 / 4 : 3);
    put32(&b, 0);
    put32(&b, 1);
    put32(&b, 2);
    put_key(&b, "x.flag", spoil == VALUE_TYPE ? 99 : GGUF_BOOL);
    buffer_add(&b, "\1", 1);
    put_tensor(&b, "b", spoil == ROW ? 33 : 32, spoil == DIMENSION ? 0 : 2,
               spoil == TENSOR_TYPE ? 77 : 8,
               spoil == MISALIGNED ? 32 : 0);
    put_tensor(&b, spoil == SAME_TENSOR ? "b" : "a", 8, 1, 0, spoil == OUTSIDE ? 1024 : 128);
    while (b.size % 64) buffer_add(&b, "", 1);
    for (i = 0; i < 160; i++) buffer_add(&b, "\1", 1);
    return b;
}

/* Reads `size` bytes in a block of just that size, and everything that the file says it holds. */
static llm_result parse(const char *data, size_t size, llm_error *error) {
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    source_file s;
    llm_result result;
    size_t i;
    memset(&s, 0, sizeof s);
    s.self = file;
    memcpy(copy, data, size);
    file->map.data = copy;
    file->map.size = size;
    result = gguf_parse(&s, file, error);
    if (result == LLM_OK) {
        llm_text key;
        source_value value, element;
        for (i = 0; gguf_entry(&s, i, &key, &value); i++)
            while (gguf_next(&s, &value, &element))
                if (element.kind == SOURCE_TEXT) (void)show(element.text);
        for (i = 0; i < s.tensor_count; i++) {
            const source_tensor *t = &s.tensors[i];
            uint64_t rows = t->shape[1] * t->shape[2] * t->shape[3];
            float *row = (float *)malloc((size_t)t->shape[0] * sizeof *row);
            if (row) gguf_row(&s, t, 0, row);
            if (row) gguf_row(&s, t, rows - 1, row);
            free(row);
        }
    }
    file->map.data = NULL;
    gguf_close(&s);
    free(copy);
    return result;
}

static void test_spoiled(void) {
    static const char *const says[SPOILS] = {
        "", "general.alignment", "tensor b", "48", "general.alignment", "tensor b: offset 32",
        "tensor a: offset", "x.words", "x.flag", "77", "tensor b", "tensor b", "x.numbers",
        "version 1", "tensors", "general.architecture"};
    int spoil;
    for (spoil = 0; spoil < SPOILS; spoil++) {
        buffer b = make(spoil);
        llm_error error = {LLM_OK, ""};
        llm_result result = parse(b.data, b.size, &error);
        CHECK((result == LLM_OK) == (spoil == GOOD), "spoiled %d: %s (%s)", spoil,
              llm_result_name(result), error.text);
        CHECK(spoil == GOOD || strstr(error.text, says[spoil]),
              "spoiled %d: \"%s\" does not name %s",
              spoil, error.text, says[spoil]);
        free(b.data);
    }
}

static void test_cut(void) {
    buffer b = make(GOOD);
    size_t size, used = b.size;
    llm_error error;
    while (used && parse(b.data, used - 1, &error) == LLM_OK) used--; /* padding */
    CHECK(b.size - used < 64, "%zu bytes at the end are not missed", b.size - used);
    for (size = 0; size < used; size++) {
        error.text[0] = 0;
        CHECK(parse(b.data, size, &error) == LLM_ERROR_FORMAT && error.text[0],
              "cut to %zu bytes: %s",
              size, error.text);
    }
    free(b.data);
}

static void test_mutated(void) {
    buffer b = make(GOOD);
    char *copy = (char *)malloc(b.size);
    unsigned i, j, good = 0;
    for (i = 0; i < 20000; i++) {
        llm_error error;
        memcpy(copy, b.data, b.size);
        for (j = any(3) + 1; j > 0; j--)
            copy[any((uint32_t)b.size)] = (char)(any(4) ? any(256) : 255 * any(2));
        good += parse(copy, b.size, &error) == LLM_OK;
    }
    CHECK(good > 0 && good < 20000, "%u of 20000 mutated files were read", good);
    free(copy);
    free(b.data);
}

/* bitnet.cpp's ternary weights: their unit lies behind all rows, and 32 bytes with it. */
static void test_i2_s(void) {
    enum { ROWS = 3, COLS = 256 };
    const float unit = 0.375f;
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    buffer b = {NULL, 0, 0, false};
    source_file s;
    llm_error error = {LLM_OK, ""};
    float row[COLS];
    int want[ROWS][COLS];
    uint8_t packed[ROWS * COLS / 4 + 32] = {0};
    uint32_t r, i, wrong = 0;
    size_t size;
    for (r = 0; r < ROWS; r++)
        for (i = 0; i < COLS; i++) {
            want[r][i] = (int)any(3) - 1;
            packed[r * COLS / 4 + i / 128 * 32 + i % 32] |= (uint8_t)((want[r][i] + 1) << (6 - 2 * (i % 128 / 32)));
        }
    memcpy(packed + ROWS * COLS / 4, &unit, sizeof unit);
    buffer_add(&b, "GGUF", 4), put32(&b, 3), put64(&b, 1), put64(&b, 1);
    put_key(&b, "general.architecture", GGUF_STRING), put_text(&b, "bitnet-b1.58");
    put_tensor(&b, "t", COLS, ROWS, 36, 0);
    while (b.size % 32) buffer_add(&b, "", 1);
    size = b.size;
    buffer_add(&b, (const char *)packed, sizeof packed);
    memset(&s, 0, sizeof s);
    s.self = file, file->map.data = (const uint8_t *)b.data, file->map.size = b.size;
    CHECK(gguf_parse(&s, file, &error) == LLM_OK && s.tensors[0].bits == 1, "%s", error.text);
    for (r = 0; r < ROWS; r++) {
        gguf_row(&s, &s.tensors[0], r, row);
        for (i = 0; i < COLS; i++) wrong += memcmp(&row[i], &(float){(float)want[r][i] * unit}, sizeof *row) != 0;
    }
    CHECK(!wrong, "%u weights of I2_S are others", (unsigned)wrong);
    file->map.data = NULL;
    gguf_close(&s);
    CHECK(parse(b.data, b.size - 1, &error) == LLM_ERROR_FORMAT && strstr(error.text, "+ 224 bytes passes the end"), "%s",
          error.text);
    b.data[size + 100] |= 0x30;
    CHECK(parse(b.data, b.size, &error) == LLM_ERROR_FORMAT, "a code of 3 is read");
    free(b.data);
}

/* ---- whole conversions ------------------------------------------------- */

#ifndef FIXTURES
#define FIXTURES "tests/fixtures/models/"
#endif

static int run(const char *input, const char *output, const char *option, const char *value) {
    char *arguments[8], program[] = "llm-convert", quiet[] = "--quiet", fast[] = "--fast", in[256], out[256], o[64],
    v[64];
    (void)snprintf(in, sizeof in, "%s", input);
    (void)snprintf(out, sizeof out, "%s", output);
    (void)snprintf(o, sizeof o, "%s", option ? option : "");
    (void)snprintf(v, sizeof v, "%s", value ? value : "");
    arguments[0] = program, arguments[1] = in, arguments[2] = out, arguments[3] = quiet, arguments[4] = fast;
    arguments[5] = o, arguments[6] = v, arguments[7] = NULL;
    return llm_convert_main(option ? 7 : 5, arguments);
}

/* The file opens and every checksum matches. */
static bool sound(const char *path) {
#ifdef LLM_DEV_HEADER
    return access(path, R_OK) == 0;
#else
    llm_model *model;
    llm_model_desc desc;
    llm_error error;
    llm_result result;
    memset(&desc, 0, sizeof desc);
    desc.path = path;
    desc.verify = true;
    desc.error = &error;
    result = llm_model_open(&model, &desc);
    if (result != LLM_OK) printf("%s: %s\n", path, error.text);
    llm_model_close(model);
    return result == LLM_OK;
#endif
}

static buffer read_file(const char *path) {
    buffer b = {NULL, 0, 0, false};
    char part[4096];
    size_t size;
    FILE *file = fopen(path, "rb");
    while (file && (size = fread(part, 1, sizeof part, file)) > 0) buffer_add(&b, part, size);
    if (file) (void)fclose(file);
    return b;
}

static void write_file(const char *path, const char *data, size_t size) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, size, file) == size, "%s cannot be written", path);
    if (file) (void)fclose(file);
}

static void test_types(const char *folder) {
    static const char *const names[] = {"llama-tied", "llama-untied", "llama-odd", "gemma",
                                        "gemma-pattern"};
    static const char *const types[] = {"auto", "q8", "q6", "q5", "q4", "q3", "q2", "bf16", "f32"};
    char input[256], output[256], again[256];
    size_t n, t;
    (void)snprintf(output, sizeof output, "%s/out.llm", folder);
    (void)snprintf(again, sizeof again, "%s/again.llm", folder);
    for (n = 0; n < sizeof names / sizeof *names; n++) {
        (void)snprintf(input, sizeof input, FIXTURES "%s.gguf", names[n]);
        for (t = 0; t < sizeof types / sizeof *types; t++) {
            buffer a, b;
            CHECK(run(input, output, "--type", types[t]) == 0, "%s as %s", input, types[t]);
            CHECK(sound(output), "%s as %s: does not open", input, types[t]);
            CHECK(run(input, again, "--type", types[t]) == 0, "%s as %s", input, types[t]);
            a = read_file(output);
            b = read_file(again);
            CHECK(a.size && a.size == b.size && memcmp(a.data, b.data, a.size) == 0,
                  "%s as %s: not the same bytes twice", input, types[t]);
            free(a.data);
            free(b.data);
        }
        CHECK(run(input, output, "--rotate", "yes") == 0 && sound(output), "%s rotated", input);
        CHECK(run(input, output, "--rotate", "no") == 0 && sound(output), "%s unrotated", input);
        CHECK(run(input, output, "--embedding", "q4") == 0 && sound(output), "%s embedding", input);
        CHECK(run(input, output, "--threads", "3") == 0 && sound(output), "%s threads", input);
    }
    (void)unlink(output);
    (void)unlink(again);
}

/* A cut input: exit status 1, no output, nothing left behind. */
static void test_cut_input(const char *folder) {
    char input[256], output[256], temporary[300];
    buffer whole = read_file(FIXTURES "llama-untied.gguf");
    size_t size;
    CHECK(whole.size > 0, FIXTURES "llama-untied.gguf is missing");
    (void)snprintf(input, sizeof input, "%s/cut.gguf", folder);
    (void)snprintf(output, sizeof output, "%s/cut.llm", folder);
    (void)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", output, (long)getpid());
    if (!freopen("/dev/null", "w", stderr)) return;
    for (size = 1; size < whole.size; size += whole.size / 150) {
        write_file(input, whole.data, size);
        CHECK(run(input, output, NULL, NULL) == 1, "cut to %zu of %zu bytes", size, whole.size);
        CHECK(access(output, F_OK) != 0 && access(temporary, F_OK) != 0,
              "cut to %zu: a file is left", size);
    }
    if (whole.size) memset(whole.data + whole.size - 4, 0xff, 4); /* a weight is not a number */
    write_file(input, whole.data, whole.size);
    CHECK(run(input, output, NULL, NULL) == 1, "a weight that is not a number was accepted");
    CHECK(access(output, F_OK) != 0 && access(temporary, F_OK) != 0, "NaN: a file is left");
    CHECK(run(FIXTURES "gemma.gguf", "/nonexistent/x.llm", NULL, NULL) == 1, "no such folder");
    CHECK(run("/nonexistent.gguf", output, NULL, NULL) == 1, "no such input");
    CHECK(run(input, output, "--type", "q9") == 2, "no such type");
    CHECK(run(input, output, "--threads", "0") == 2, "no threads");
    (void)unlink(input);
    free(whole.data);
}

/* XXH64 in pieces is XXH64 at once. */
static void test_checksum(void) {
    uint8_t data[300];
    size_t size, i;
    for (i = 0; i < sizeof data; i++) data[i] = (uint8_t)any(256);
    for (size = 0; size <= sizeof data; size++) {
        checksum c;
        size_t at = 0, part;
        checksum_start(&c);
        for (; at < size; at += part) {
            part = any(70);
            if (part > size - at) part = size - at;
            checksum_add(&c, data + at, part);
        }
        CHECK(checksum_end(&c) == llm__xxh64(data, size), "checksum of %zu bytes", size);
    }
}

/* ---- random weights ------------------------------------------------------ */

static int run_random(const char *type, const char *threads, const char *output) {
    const char *const given[] = {"llm-convert", "--random", "tiny", "--type", type, "--threads",
                                 threads, "--quiet", output};
    char text[9][64], *arguments[10] = {NULL};
    int i;
    for (i = 0; i < 9; i++) {
        (void)snprintf(text[i], sizeof text[i], "%s", given[i]);
        arguments[i] = text[i];
    }
    return llm_convert_main(9, arguments);
}

/* The mean square of the weights of a matrix, times its columns. */
static double mean_square(const llm_model *m, uint32_t layer, uint32_t role, bool *in_range) {
    const llm__tensor *t = llm__tensor_at(m, layer, role);
    const uint32_t size = llm__super_block(t->cols);
    double sum = 0.0;
    uint32_t row, k;
    for (row = 0; row < t->rows; row++) {
        const uint8_t *panel = t->data + row / 16 * llm__panel_size(t->type, t->cols);
        for (k = 0; k < t->cols; k++) {
            uint16_t scale;
            const int value = llm__value(t->type, panel, t->cols, row % 16, k);
            memcpy(&scale, panel + (size_t)(k / size) * 32 + row % 16 * 2, 2);
            *in_range = *in_range && value >= -127 && value <= 127;
            sum += (double)(value * value) * pow((double)quantize_from_bf16(scale), 2.0);
        }
    }
    return sum / t->rows;
}

/* Weights of the size that was promised, and logits that are numbers of order 1, not all the same. */
static void check_random(const char *path, const char *type) {
    const int32_t tokens[] = {1, 2, 3, 500, 511};
    llm_model_desc desc;
    llm_session_desc d;
    llm_model *model;
    llm_session *session;
    llm_error error;
    double sum = 0.0;
    bool in_range = true;
    uint32_t role, i;
    memset(&desc, 0, sizeof desc);
    memset(&d, 0, sizeof d);
    desc.path = path, desc.verify = true, desc.error = d.error = &error;
    CHECK(llm_model_open(&model, &desc) == LLM_OK, "%s: %s", type, error.text);
    for (role = LLM__Q; role <= LLM__DOWN && model; role++) {
        double square;
        const llm__tensor *t = llm__tensor_at(model, 1, role);
        if (!family_is_matrix(role) || !t->data || !llm__formats[t->type].bits) continue;
        square = mean_square(model, 1, role, &in_range);
        CHECK(square > 0.94 && square < 1.06, "%s: role %u: %f", type, role, square);
    }
    CHECK(in_range, "%s: a value outside -127 .. 127", type);
    d.model = model, d.context = 8;
    CHECK(model && llm_session_create(&session, &d) == LLM_OK, "%s: %s", type, error.text);
    if (!model || !session) return;
    CHECK(!llm_model_tokenizer(model), "%s: a tokenizer", type);
    CHECK(llm_eval(session, tokens, 5) == LLM_OK, "%s: %s", type, llm_session_error(session)->text);
    for (i = 0; i < 512; i++) sum += pow((double)llm_session_logits(session, 0)[i], 2.0);
    CHECK(sum / 512 > 0.3 && sum / 512 < 3.0, "%s: mean square of logits %f", type, sum / 512);
    llm_session_destroy(session);
    llm_model_close(model);
}

static void test_random(const char *folder) {
    static const char *const types[] = {"auto", "q8", "q6", "q5", "q4", "q3", "q2", "bf16", "f32"};
    static const uint64_t weights[] = {663552, 134479872, 595984384, 1235746816};
    char output[256], again[256];
    size_t i;
    (void)snprintf(output, sizeof output, "%s/random.llm", folder);
    (void)snprintf(again, sizeof again, "%s/again.llm", folder);
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        buffer a, b;
        CHECK(run_random(types[i], "1", output) == 0, "random as %s", types[i]);
        check_random(output, types[i]);
        CHECK(run_random(types[i], "3", again) == 0, "random as %s", types[i]);
        a = read_file(output), b = read_file(again);
        CHECK(a.size && a.size == b.size && memcmp(a.data, b.data, a.size) == 0,
              "%s: one thread and three make different bytes", types[i]);
        free(a.data), free(b.data);
    }
    for (i = 0; i < sizeof weights / sizeof *weights; i++) { /* every shape: planned, not written */
        const random_shape *shape = &random_shapes[i];
        source_file s;
        plan p;
        llm_error error = {LLM_OK, ""};
        uint64_t count = 0;
        size_t t;
        CHECK(random_open(&s, shape, &error) == LLM_OK && plan_open(&p, &s, &error) == LLM_OK,
              "%s: %s", shape->name, error.text);
        for (t = 0; t < p.count; t++)
            if (family_is_matrix(p.tensors[t].file.role))
                count += (uint64_t)p.tensors[t].file.rows * p.tensors[t].file.cols;
        CHECK(count == weights[i], "%s: %llu weights", shape->name, (unsigned long long)count);
        CHECK(strstr(usage, shape->name), "%s is not in the help", shape->name);
        plan_close(&p);
        s.close(&s);
    }
    CHECK(i == sizeof random_shapes / sizeof *random_shapes, "%zu shapes", i);
    (void)unlink(output);
    (void)unlink(again);
}

int main(void) {
    char folder[] = "/tmp/llm-convert-XXXXXX";
    test_spoiled();
    test_cut();
    test_mutated();
    test_checksum();
    test_i2_s();
    if (!mkdtemp(folder)) return 1;
    test_types(folder);
    test_random(folder);
    test_cut_input(folder);
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return check_report("test_convert");
}
