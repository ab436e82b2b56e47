/* Importance matrices: what is written is read again; what is refused, word for word; every truncation, mutated files,
   memory and disks that end. */
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
#define malloc maybe_malloc
#define calloc maybe_calloc
#define LLM_NO_TEMPLATE
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#include "../../tools/convert/imatrix.h"
#undef malloc
#undef calloc
#include "../check.h"
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static char folder[] = "/tmp/llm-imatrix-XXXXXX";
static char path[64];
static llm_error said;

/* ---- files in memory ------------------------------------------------------ */

typedef struct bytes {
    uint8_t data[4096];
    size_t size;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
}
static void put32(bytes *b, uint32_t x) { put(b, &x, 4); }
static void put64(bytes *b, uint64_t x) { put(b, &x, 8); }
static void put_text(bytes *b, const char *text) {
    put64(b, strlen(text));
    put(b, text, strlen(text));
}
static void pad(bytes *b) {
    while (b->size % 32) put(b, "", 1);
}

typedef struct item {
    const char *name;
    uint32_t type;
    uint64_t cols, rows;
    float values[4];
} item;

/* What good files hold; a test changes one thing. */
static const char *kind, *count_key;
static uint32_t count_type, item_count;
static uint64_t count_value;
static item items[6];
static void reset(void) {
    static const item good[] = {{"a.weight.in_sum2", 0, 2, 1, {8, 2, 0, 0}}, {"a.weight.counts", 0, 1, 1, {4, 0, 0, 0}},
                                {"e.weight.counts", 0, 1, 2, {1, 0, 0, 0}}, {"e.weight.in_sum2", 0, 2, 2, {1, 2, 3, 4}},
                                {"a.weight.in_sum", 0, 2, 1, {-1, 2, 0, 0}}};
    kind = "imatrix", count_key = "imatrix.chunk_count", count_type = 4, count_value = 3;
    memcpy(items, good, sizeof good);
    item_count = 5;
}

static bytes make(void) {
    static bytes b;
    uint64_t offset = 0;
    uint32_t i;
    b.size = 0;
    put(&b, "GGUF", 4);
    put32(&b, 3);
    put64(&b, item_count);
    put64(&b, kind ? 2 : 1);
    if (kind) put_text(&b, "general.type"), put32(&b, GGUF_STRING), put_text(&b, kind);
    put_text(&b, count_key);
    put32(&b, count_type);
    put(&b, &count_value, gguf_sizes[count_type]);
    for (i = 0; i < item_count; i++) {
        put_text(&b, items[i].name);
        put32(&b, 2);
        put64(&b, items[i].cols);
        put64(&b, items[i].rows);
        put32(&b, items[i].type);
        put64(&b, offset);
        offset += 32;
    }
    pad(&b);
    for (i = 0; i < item_count; i++) put(&b, items[i].values, sizeof items[i].values), pad(&b);
    return b;
}

/* Opens the first `size` bytes, in a block of just that size, and looks for all there is. */
static llm_result open_bytes(const void *data, size_t size) {
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    map_file map;
    imatrix m;
    llm_result result;
    said.text[0] = 0;
    if (!copy) exit(2);
    memcpy(copy, data, size);
    map.data = copy, map.size = size;
    result = imatrix_parse(&m, "x.gguf", map, &said);
    if (result == LLM_OK) {
        float mean[8];
        bool found;
        size_t i;
        for (i = 0; i < m.source.tensor_count; i++) {
            char name[64];
            llm_text stem;
            if (!imatrix_stem(m.source.tensors[i].name, IMATRIX_SUMS, &stem) || stem.size >= sizeof name) continue;
            memcpy(name, stem.data, stem.size);
            name[stem.size] = 0;
            if (imatrix_find(&m, name, 2, mean, &found, &said) == LLM_OK && found)
                CHECK(mean[0] >= 0 && mean[1] >= 0 && isfinite(mean[0]) && isfinite(mean[1]), "%g %g", (double)mean[0],
                      (double)mean[1]);
        }
        ((gguf_file *)m.source.self)->map.data = NULL;
        imatrix_close(&m);
    }
    free(copy);
    return result;
}

static llm_result open_made(void) {
    const bytes b = make();
    return open_bytes(b.data, b.size);
}

/* The file's name is in front. */
#define SAYS(file, message) CHECK(!strcmp(said.text, "importance matrix " file ": " message), "%s", said.text)
#define REFUSED(wanted, message)                                                                                      \
    do {                                                                                                              \
        const llm_result got = open_made();                                                                           \
        CHECK(got == (wanted) && said.code == (wanted), "%s \"%s\"", llm_result_name(got), said.text);                \
        SAYS("x.gguf", message);                                                                                      \
        reset();                                                                                                      \
    } while (0)

static void test_refused(void) {
    reset();
    CHECK(open_made() == LLM_OK, "%s", said.text);
    kind = "model";
    REFUSED(LLM_ERROR_FORMAT, "key general.type: \"model\", expected \"imatrix\"");
    kind = NULL;
    REFUSED(LLM_ERROR_FORMAT, "key general.type: missing, expected \"imatrix\"");
    count_type = 5, count_value = 0xffffffff;
    REFUSED(LLM_ERROR_FORMAT, "key imatrix.chunk_count: -1, expected a whole number of 0 .. 4294967295");
    count_key = "imatrix.chunk_size", count_type = 6, count_value = 0x3fc00000;
    REFUSED(LLM_ERROR_FORMAT, "key imatrix.chunk_size: 1.5, expected a whole number of 0 .. 4294967295");
    items[1].name = "b.weight.counts";
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.in_sum2: expected a.weight.counts beside it");
    items[0].name = "b.weight.in_sum2";
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.counts: expected a.weight.in_sum2 beside it");
    items[0].type = 30;
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.in_sum2: type BF16, expected F32");
    items[2].type = 1;
    REFUSED(LLM_ERROR_FORMAT, "tensor e.weight.counts: type F16, expected F32");
    items[1].rows = 2;
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.counts: shape 1 x 2 x 1 x 1, expected 1 x 1, one for each matrix");
    items[2].cols = 2, items[2].rows = 1;
    REFUSED(LLM_ERROR_FORMAT, "tensor e.weight.counts: shape 2 x 1 x 1 x 1, expected 1 x 2, one for each matrix");
    items[3].rows = 1;
    REFUSED(LLM_ERROR_FORMAT, "tensor e.weight.counts: shape 1 x 2 x 1 x 1, expected 1 x 1, one for each matrix");
    items[3].values[2] = -1e-3f;
    REFUSED(LLM_ERROR_FORMAT, "tensor e.weight.in_sum2: value 2 is -0.001, expected a finite number, 0 or more");
    items[0].values[1] = HUGE_VALF;
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.in_sum2: value 1 is inf, expected a finite number, 0 or more");
    items[2].values[1] = -1;
    REFUSED(LLM_ERROR_FORMAT, "tensor e.weight.counts: value 1 is -1, expected a whole number of 0 .. 2^53");
    items[1].values[0] = 0.5f;
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.counts: value 0 is 0.5, expected a whole number of 0 .. 2^53");
    items[1].values[0] = HUGE_VALF;
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.counts: value 0 is inf, expected a whole number of 0 .. 2^53");
    items[0] = items[4], item_count = 1;
    REFUSED(LLM_ERROR_FORMAT, "no tensor NAME.in_sum2 among 1 tensors, expected one for each matrix");
    items[4].name = "a.weight.counts";
    REFUSED(LLM_ERROR_FORMAT, "tensor a.weight.counts: there are two of it");
    items[0].name = ".in_sum2", items[1].name = ".counts"; /* of no matrix: not looked at */
    CHECK(open_made() == LLM_OK, "%s", said.text);
    reset();
    items[0].values[0] = items[1].values[0] = -NAN; /* as text, NaN has a sign or none */
    CHECK(open_made() == LLM_ERROR_FORMAT && strstr(said.text, "a.weight.counts: value 0 is "), "%s", said.text);
    items[1].values[0] = 1;
    CHECK(open_made() == LLM_ERROR_FORMAT && strstr(said.text, "a.weight.in_sum2: value 0 is "), "%s", said.text);
    reset();
}

static void test_old(void) {
    static const char old[] = "\1\0\0\0\10\0\0\0a.weight\4\0\0\0\1\0\0\0\0\0\200\77";
    CHECK(open_bytes(old, sizeof old - 1) == LLM_ERROR_UNSUPPORTED, "%s", said.text);
    SAYS("x.gguf", "the old binary form of an importance matrix (.dat), expected GGUF; llama-imatrix --in-file OLD "
                   "-o NEW.gguf turns one into the other");
    CHECK(open_bytes("GG", 2) == LLM_ERROR_FORMAT, "%s", said.text);
    CHECK(!strcmp(said.text, "importance matrix x.gguf: the magic number at byte 0: 4 bytes wanted, the file ends after 2"),
          "%s", said.text);
    CHECK(open_bytes(old, 15) == LLM_ERROR_FORMAT, "a name that is cut: %s", said.text);
    CHECK(open_bytes("\1\0\0\0\0\0\0\0a.weight", 16) == LLM_ERROR_FORMAT, "a name without bytes: %s", said.text);
    CHECK(open_bytes("\0\0\0\0\10\0\0\0a.weight", 16) == LLM_ERROR_FORMAT, "no entries: %s", said.text);
    CHECK(open_bytes("\1\0\0\0\10\0\0\0a.w\tight", 16) == LLM_ERROR_FORMAT, "a strange name: %s", said.text);
}

/* ---- damage ---------------------------------------------------------------- */

static void test_cut(void) {
    bytes b;
    size_t size, needed;
    reset();
    b = make();
    needed = b.size - 32 + 8; /* the last tensor has two values */
    for (size = 0; size < b.size; size++) {
        const llm_result result = open_bytes(b.data, size);
        CHECK((result == LLM_OK) == (size >= needed), "%zu of %zu bytes: %s", size, b.size, said.text);
    }
}

static void test_mutated(void) {
    uint64_t state = 11;
    unsigned round, good = 0;
    reset();
    for (round = 0; round < 20000; round++) {
        bytes b = make();
        unsigned i;
        for (i = 0; i < 1 + round % 3; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            b.data[(state >> 33) % b.size] ^= (uint8_t)(1u << (state >> 61));
        }
        good += open_bytes(b.data, b.size) == LLM_OK;
    }
    CHECK(good > 2000 && good < 18000, "%u of 20000 are accepted", good);
}

/* ---- writing and reading ----------------------------------------------------- */

static const double sums_a[] = {0, 1.5, 3e38, 2}, sums_b[] = {7};
static const imatrix_entry written[] = {{"blk.0.ffn_down.weight", sums_a, 4, 2}, {"blk.0.attn_q.weight", sums_b, 1, 0},
                                        {"blk.1.attn_q.weight", sums_b, 1, 3}};
static llm_result write_all(void) { return imatrix_write(path, written, 3, "text.txt", 9, 512, &said); }

static void test_round(void) {
    imatrix m;
    float mean[4] = {5, 5, 5, 5};
    bool found;
    source_value value;
    CHECK(write_all() == LLM_OK && imatrix_open(&m, path, &said) == LLM_OK, "%s", said.text);
    CHECK(m.entries == 3 && m.chunks == 9 && m.chunk_size == 512, "%u %u %u", m.entries, m.chunks, m.chunk_size);
    value = m.source.value(&m.source, "imatrix.datasets");
    CHECK(value.kind == SOURCE_ARRAY && value.element == SOURCE_TEXT && value.count == 1, "datasets");
    CHECK(imatrix_find(&m, "blk.0.ffn_down.weight", 4, mean, &found, &said) == LLM_OK && found, "%s", said.text);
    CHECK(mean[0] == 0 && mean[1] == 0.75f && mean[2] == 1.5e38f && mean[3] == 1, "%g", (double)mean[1]);
    CHECK(imatrix_find(&m, "blk.0.attn_q.weight", 1, mean, &found, &said) == LLM_OK && !found, "no tokens");
    CHECK(imatrix_find(&m, "blk.9.attn_q.weight", 1, mean, &found, &said) == LLM_OK && !found, "not there");
    CHECK(mean[0] == 0, "%g", (double)mean[0]);
    CHECK(imatrix_find(&m, "blk.1.attn_q.weight", 1, mean, &found, &said) == LLM_OK && found, "%s", said.text);
    CHECK(mean[0] == 7.0f / 3, "%g", (double)mean[0]);
    m.path = "y.gguf";
    CHECK(imatrix_find(&m, "blk.0.ffn_down.weight", 5, mean, &found, &said) && !found, "%s", said.text);
    SAYS("y.gguf", "tensor blk.0.ffn_down.weight.in_sum2: shape 4 x 1 x 1 x 1, expected 5, the columns of the model's "
                   "matrix");
    imatrix_close(&m);
    imatrix_close(&m);
    CHECK(imatrix_open(&m, "/nowhere/x", &said) == LLM_ERROR_IO && strstr(said.text, "/nowhere/x: "), "%s", said.text);
}

/* Numbers at the ends of floats weigh as others do, and nothing weighs nothing. */
static void test_scale(void) {
    const float want[4] = {0.5f, 0.25f, IMATRIX_LEAST, 0.75f};
    float at[4];
    int power, i;
    for (power = -126; power <= 128; power++) {
        for (i = 0; i < 4; i++) at[i] = i == 2 ? 0.0f : ldexpf(want[i], power);
        imatrix_scale(at, 4);
        CHECK(!memcmp(at, want, sizeof at), "2^%d: %g %g %g %g", power, (double)at[0], (double)at[1], (double)at[2],
              (double)at[3]);
    }
    memset(at, 0, sizeof at);
    imatrix_scale(at, 4);
    CHECK(at[0] > 0.0f && at[0] <= IMATRIX_LEAST && !memcmp(&at[0], &at[3], sizeof *at), "%g", (double)at[0]);
}

static void test_not_written(void) {
    static const double bad[] = {1, -1};
    imatrix_entry e = written[0];
    FILE *file;
    (void)unlink(path);
    e.name = "";
    CHECK(imatrix_write(path, &e, 1, "", 0, 0, &said) == LLM_ERROR_ARGUMENT &&
              !strcmp(said.text, "tensor : a name of 0 bytes and 4 columns, expected 1 .. 55 and at least one"),
          "%s", said.text);
    e.name = "12345678901234567890123456789012345678901234567890123456";
    CHECK(imatrix_write(path, &e, 1, "", 0, 0, &said) == LLM_ERROR_ARGUMENT, "%s", said.text);
    e.name = "a", e.sums = bad, e.cols = 2;
    CHECK(imatrix_write(path, &e, 1, "", 0, 0, &said) == LLM_ERROR_FORMAT &&
              !strcmp(said.text, "tensor a: value 1 is -1, expected a finite number, 0 or more"),
          "%s", said.text);
    e.sums = sums_a, e.cols = 0;
    CHECK(imatrix_write(path, &e, 1, "", 0, 0, &said) == LLM_ERROR_ARGUMENT, "%s", said.text);
    file = fopen(path, "rb");
    CHECK(!file, "a file was left");
    CHECK(imatrix_write("/nowhere/x.gguf", written, 3, "", 0, 0, &said) == LLM_ERROR_IO, "%s", said.text);
}

/* Files end at so many bytes. */
static void test_full(void) {
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
    char temporary[96];
    int limit;
    (void)signal(SIGXFSZ, SIG_IGN);
    for (limit = 0; limit < 800; limit += 100) {
        struct rlimit few = none;
        llm_result result;
        few.rlim_cur = (rlim_t)limit;
        if (setrlimit(RLIMIT_FSIZE, &few)) break;
        result = write_all();
        (void)setrlimit(RLIMIT_FSIZE, &none);
        CHECK(result == LLM_ERROR_IO && strstr(said.text, "cannot be written"), "%d bytes: %s", limit, said.text);
        (void)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
        CHECK(access(path, F_OK) && access(temporary, F_OK), "%d bytes: a file was left", limit);
    }
}

static void test_memory(void) {
    imatrix m;
    llm_result result = LLM_ERROR_MEMORY;
    for (fail_at = 1; fail_at < 20 && result == LLM_ERROR_MEMORY; fail_at++) {
        asked = 0;
        result = write_all();
        CHECK(asked < fail_at || result == LLM_ERROR_MEMORY, "allocation %zu: %s", fail_at, said.text);
    }
    CHECK(result == LLM_OK, "%s", said.text);
    for (fail_at = 1, result = LLM_ERROR_MEMORY; fail_at < 20 && result == LLM_ERROR_MEMORY; fail_at++) {
        asked = 0;
        result = imatrix_open(&m, path, &said);
        CHECK(asked < fail_at || result == LLM_ERROR_MEMORY, "allocation %zu: %s", fail_at, said.text);
    }
    CHECK(result == LLM_OK && fail_at > 4, "%s", said.text);
    imatrix_close(&m);
    fail_at = 0;
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    (void)snprintf(path, sizeof path, "%s/x.gguf", folder);
    test_refused();
    test_old();
    test_cut();
    test_mutated();
    test_round();
    test_scale();
    test_not_written();
    test_full();
    test_memory();
    (void)unlink(path);
    (void)rmdir(folder);
    return check_report("imatrix");
}
