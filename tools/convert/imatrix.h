/* ======================================================================== */
/* Importance matrices: what llama.cpp's llama-imatrix writes                */
/* ========================================================================
   For every matrix the mean square of each of its inputs over a text. A GGUF file with

       general.type          "imatrix"
       imatrix.datasets      paths of the texts
       imatrix.chunk_count   pieces of text that were evaluated
       imatrix.chunk_size    tokens of each

   and for a matrix NAME two tensors in F32: NAME.in_sum2 [columns] are sums of squares, NAME.counts
   [1] says over how many tokens. Those of experts have a row for each, [columns, experts] and
   [1, experts]. Tensors with other endings are not looked at. */
#ifndef CONVERT_IMATRIX_H
#define CONVERT_IMATRIX_H

#include <math.h>
#include "gguf.h"

typedef struct imatrix {
    source_file source;
    const char *path;
    uint32_t entries;            /* matrices */
    uint32_t chunks, chunk_size; /* 0: the file does not say */
} imatrix;

#define IMATRIX_SUMS   ".in_sum2"
#define IMATRIX_COUNTS ".counts"
enum { IMATRIX_NAME = 55 }; /* bytes; with an ending as many as llama.cpp's tensors have */

/* ---- checks -------------------------------------------------------------- */

/* The name of a matrix, if `name` is that with the ending. */
static bool imatrix_stem(llm_text name, const char *ending, llm_text *stem) {
    const size_t size = strlen(ending);
    stem->data = name.data;
    stem->size = name.size > size ? name.size - size : 0;
    return stem->size && memcmp(name.data + stem->size, ending, size) == 0;
}

static const source_tensor *imatrix_tensor(const source_file *s, llm_text stem,
                                           const char *ending) {
    char name[128];
    if (stem.size + strlen(ending) >= sizeof name || memchr(stem.data, 0, stem.size)) return NULL;
    memcpy(name, stem.data, stem.size);
    memcpy(name + stem.size, ending, strlen(ending) + 1);
    return source_find(s, name);
}

static float imatrix_value(const source_tensor *t, uint64_t index) {
    return ggml_bits(llm__u32(t->data + index * 4));
}

static llm_result imatrix_check_sum(llm_text name, uint64_t index, double sum, llm_error *error) {
    if (sum >= 0.0 && sum <= LLM__FLT_MAX) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT,
                     "tensor %s: value %llu is %g, expected a finite number, 0 or more",
                     show(name).text, (unsigned long long)index, sum);
}

/* Counts are whole, so that sums over them are finite. */
static llm_result imatrix_check_count(llm_text name, uint64_t index, double count,
                                      llm_error *error) {
    if (count >= 0.0 && count <= 9007199254740992.0 && count == floor(count)) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT,
                     "tensor %s: value %llu is %g, expected a whole number of 0 .. 2^53",
                     show(name).text, (unsigned long long)index, count);
}

/* Sums and their counts: types, shapes, numbers. */
static llm_result imatrix_check_pair(const source_tensor *sums, const source_tensor *counts,
                                     llm_error *error) {
    const uint64_t matrices = sums->shape[1] * sums->shape[2] * sums->shape[3];
    const source_tensor *wrong = strcmp(sums->type, "F32") ? sums : counts;
    llm_result result = LLM_OK;
    uint64_t i;
    if (strcmp(wrong->type, "F32"))
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: type %s, expected F32",
                         show(wrong->name).text, wrong->type);
    if (counts->shape[0] != 1 ||
        counts->shape[1] * counts->shape[2] * counts->shape[3] != matrices)
        return llm__fail(error, LLM_ERROR_FORMAT,
                         "tensor %s: shape %llu x %llu x %llu x %llu, expected 1 x %llu, one for "
                         "each matrix", show(counts->name).text,
                         (unsigned long long)counts->shape[0], (unsigned long long)counts->shape[1],
                         (unsigned long long)counts->shape[2], (unsigned long long)counts->shape[3],
                         (unsigned long long)matrices);
    for (i = 0; i < matrices && result == LLM_OK; i++)
        result = imatrix_check_count(counts->name, i, (double)imatrix_value(counts, i), error);
    for (i = 0; i < matrices * sums->shape[0] && result == LLM_OK; i++)
        result = imatrix_check_sum(sums->name, i, (double)imatrix_value(sums, i), error);
    return result;
}

static llm_result imatrix_check_tensors(imatrix *m, llm_error *error) {
    llm_result result = LLM_OK;
    size_t i;
    for (i = 0; i < m->source.tensor_count && result == LLM_OK; i++) {
        const source_tensor *t = &m->source.tensors[i], *other;
        llm_text stem;
        const bool is_sums = imatrix_stem(t->name, IMATRIX_SUMS, &stem);
        if (!is_sums && !imatrix_stem(t->name, IMATRIX_COUNTS, &stem)) continue;
        other = imatrix_tensor(&m->source, stem, is_sums ? IMATRIX_COUNTS : IMATRIX_SUMS);
        if (!other)
            result = llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: expected %s%s beside it",
                               show(t->name).text, show(stem).text,
                               is_sums ? IMATRIX_COUNTS : IMATRIX_SUMS);
        else if (is_sums)
            result = imatrix_check_pair(t, other, error);
        m->entries += is_sums;
    }
    return result;
}

static llm_result imatrix_number(const source_file *s, const char *key, uint32_t *number,
                                 llm_error *error) {
    const source_value value = s->value(s, key);
    *number = 0;
    if (value.kind == SOURCE_NONE) return LLM_OK;
    if (value.kind != SOURCE_NUMBER || !(value.number >= 0.0 && value.number <= 4294967295.0) ||
        value.number != floor(value.number))
        return llm__fail(error, LLM_ERROR_FORMAT, "key %s: %s, expected a whole number of 0 .. "
                         "4294967295", key, show_value(value).text);
    *number = (uint32_t)value.number;
    return LLM_OK;
}

static llm_result imatrix_check(imatrix *m, llm_error *error) {
    const source_file *s = &m->source;
    const source_value type = s->value(s, "general.type");
    llm_result result;
    if (type.kind != SOURCE_TEXT || text_compare(type.text, text_of("imatrix")) != 0)
        return llm__fail(error, LLM_ERROR_FORMAT, "key general.type: %s, expected \"imatrix\"",
                         show_value(type).text);
    result = imatrix_number(s, "imatrix.chunk_count", &m->chunks, error);
    if (result == LLM_OK)
        result = imatrix_number(s, "imatrix.chunk_size", &m->chunk_size, error);
    if (result == LLM_OK) result = imatrix_check_tensors(m, error);
    if (result == LLM_OK && !m->entries)
        result = llm__fail(error, LLM_ERROR_FORMAT, "no tensor NAME.in_sum2 among "
                           "%zu tensors, expected one for each matrix", s->tensor_count);
    return result;
}

/* ---- reading ------------------------------------------------------------- */

/* The form before GGUF: a number of entries, then the first one's name after its length. */
static bool imatrix_is_old(const uint8_t *data, size_t size) {
    uint32_t length, i;
    if (size < 12 || memcmp(data, "GGUF", 4) == 0) return false;
    length = llm__u32(data + 4);
    if (llm__u32(data) - 1 >= 1u << 24 || length - 1 >= 256 || length > size - 8) return false;
    for (i = 0; i < length; i++)
        if (data[8 + i] <= 32 || data[8 + i] >= 127) return false;
    return true;
}

/* What was said, after the file's name. */
static llm_result imatrix_named(const char *path, llm_error *error) {
    const llm_error said = *error;
    return llm__fail(error, said.code, "importance matrix %s: %s", path, said.text);
}

/* Reads a file that is in memory. After an error nothing is left to close, and `map` is still the
   caller's. */
static llm_result imatrix_parse(imatrix *m, const char *path, map_file map, llm_error *error) {
    gguf_file *file = (gguf_file *)calloc(1, sizeof *file);
    llm_result result;
    memset(m, 0, sizeof *m);
    m->path = path;
    if (!file) {
        (void)llm__fail(error, LLM_ERROR_MEMORY, "no memory for a file of %zu bytes",
                        sizeof *file);
        return imatrix_named(path, error);
    }
    gguf_source(&m->source, file);
    file->map = map;
    if (imatrix_is_old(map.data, map.size))
        result = llm__fail(error, LLM_ERROR_UNSUPPORTED, "the old binary form of an importance "
                           "matrix (.dat), expected GGUF; llama-imatrix --in-file OLD -o NEW.gguf "
                           "turns one into the other");
    else
        result = gguf_parse_as(&m->source, file, false, error);
    if (result == LLM_OK) result = imatrix_check(m, error);
    if (result == LLM_OK) return LLM_OK;
    file->map.data = NULL;
    gguf_close(&m->source);
    return imatrix_named(path, error);
}

/* Opens `path`, which has to stay, and checks all that is in the file. After an error nothing is
   left to close. */
static LLM__UNUSED llm_result imatrix_open(imatrix *m, const char *path, llm_error *error) {
    map_file map;
    llm_result result;
    memset(m, 0, sizeof *m);
    result = map_open(&map, path, error);
    if (result != LLM_OK) return result;
    result = imatrix_parse(m, path, map, error);
    if (result != LLM_OK) map_close(&map);
    return result;
}

static LLM__UNUSED void imatrix_close(imatrix *m) {
    if (m->source.close) m->source.close(&m->source);
    memset(m, 0, sizeof *m);
}

/* The mean squares of the `cols` inputs of a matrix by its name in GGUF ("blk.3.attn_q.weight").
   *found is false where the file knows nothing of it; then `mean_squares` stays as it is. */
static LLM__UNUSED llm_result imatrix_find(const imatrix *m, const char *name, uint32_t cols,
                                           float *mean_squares, bool *found, llm_error *error) {
    const source_tensor *sums = imatrix_tensor(&m->source, text_of(name), IMATRIX_SUMS);
    const source_tensor *counts = imatrix_tensor(&m->source, text_of(name), IMATRIX_COUNTS);
    double count;
    uint32_t i;
    *found = false;
    if (!sums || !counts) return LLM_OK;
    if (sums->shape[0] != cols || sums->shape[1] * sums->shape[2] * sums->shape[3] != 1) {
        (void)llm__fail(error, LLM_ERROR_FORMAT,
                        "tensor %s: shape %llu x %llu x %llu x %llu, expected %u, the columns of "
                        "the model's matrix", show(sums->name).text,
                        (unsigned long long)sums->shape[0], (unsigned long long)sums->shape[1],
                        (unsigned long long)sums->shape[2], (unsigned long long)sums->shape[3],
                        cols);
        return imatrix_named(m->path, error);
    }
    count = (double)imatrix_value(counts, 0);
    if (count == 0.0) return LLM_OK; /* no token came there */
    for (i = 0; i < cols; i++)
        mean_squares[i] = (float)((double)imatrix_value(sums, i) / count);
    *found = true;
    return LLM_OK;
}

#define IMATRIX_LEAST 1e-9f

/* Mean squares as weights of errors: only their ratios count, and with the largest at 0.5 .. 1 sums
   of weighted squares neither overflow nor vanish. By a power of two, so ratios stay; but a channel that
   saw nothing counts for IMATRIX_LEAST, or blocks of such channels would get arbitrary parameters. */
static LLM__UNUSED void imatrix_scale(float *mean_squares, uint32_t cols) {
    float most = 0.0f;
    int exponent;
    uint32_t i;
    for (i = 0; i < cols; i++) most = mean_squares[i] > most ? mean_squares[i] : most;
    (void)frexpf(most, &exponent);
    for (i = 0; i < cols; i++) {
        mean_squares[i] = ldexpf(mean_squares[i], -exponent);
        if (mean_squares[i] < IMATRIX_LEAST) mean_squares[i] = IMATRIX_LEAST;
    }
}

/* ---- writing ------------------------------------------------------------- */

typedef struct imatrix_entry {
    const char *name;   /* of the matrix, as in GGUF */
    const double *sums; /* [cols] of squares */
    uint32_t cols;
    uint64_t count;     /* tokens */
} imatrix_entry;

/* A file that is being written; after an error nothing more is. */
typedef struct imatrix_writer {
    new_file file;
    uint64_t at; /* bytes so far */
    llm_error *error;
    llm_result result;
} imatrix_writer;

static void imatrix_put(imatrix_writer *w, const void *data, size_t size) {
    if (w->result == LLM_OK) w->result = new_file_write(&w->file, data, size, w->error);
    w->at += size;
}
static void imatrix_put32(imatrix_writer *w, uint32_t x) { imatrix_put(w, &x, 4); }
static void imatrix_put64(imatrix_writer *w, uint64_t x) { imatrix_put(w, &x, 8); }
static void imatrix_put_text(imatrix_writer *w, const char *text, const char *ending) {
    imatrix_put64(w, strlen(text) + strlen(ending));
    imatrix_put(w, text, strlen(text));
    imatrix_put(w, ending, strlen(ending));
}
static void imatrix_pad(imatrix_writer *w) {
    static const uint8_t zeros[32] = {0};
    imatrix_put(w, zeros, (size_t)((32 - w->at % 32) % 32));
}

static void imatrix_put_keys(imatrix_writer *w, uint64_t tensors, const char *dataset,
                             uint32_t chunks, uint32_t chunk_size) {
    imatrix_put(w, "GGUF", 4);
    imatrix_put32(w, 3);
    imatrix_put64(w, tensors);
    imatrix_put64(w, 4);
    imatrix_put_text(w, "general.type", "");
    imatrix_put32(w, GGUF_STRING);
    imatrix_put_text(w, "imatrix", "");
    imatrix_put_text(w, "imatrix.datasets", "");
    imatrix_put32(w, GGUF_ARRAY);
    imatrix_put32(w, GGUF_STRING);
    imatrix_put64(w, 1);
    imatrix_put_text(w, dataset, "");
    imatrix_put_text(w, "imatrix.chunk_count", "");
    imatrix_put32(w, 4);
    imatrix_put32(w, chunks);
    imatrix_put_text(w, "imatrix.chunk_size", "");
    imatrix_put32(w, 4);
    imatrix_put32(w, chunk_size);
}

/* Where a tensor is; returns the place after it. */
static uint64_t imatrix_put_info(imatrix_writer *w, const char *name, const char *ending,
                                 uint32_t cols, uint64_t offset) {
    imatrix_put_text(w, name, ending);
    imatrix_put32(w, 2);
    imatrix_put64(w, cols);
    imatrix_put64(w, 1);
    imatrix_put32(w, 0); /* F32 */
    imatrix_put64(w, offset);
    return offset + ((uint64_t)cols * 4 + 31) / 32 * 32;
}

static void imatrix_put_entry(imatrix_writer *w, const imatrix_entry *e) {
    const float count = (float)e->count;
    uint32_t i;
    for (i = 0; i < e->cols; i++) {
        const float sum = (float)e->sums[i];
        imatrix_put(w, &sum, 4);
    }
    imatrix_pad(w);
    imatrix_put(w, &count, 4);
    imatrix_pad(w);
}

/* What could not be read again is not written. */
static llm_result imatrix_check_entry(const imatrix_entry *e, llm_error *error) {
    const llm_text name = text_of(e->name);
    llm_result result = LLM_OK;
    uint32_t i;
    if (name.size < 1 || name.size > IMATRIX_NAME || !e->cols)
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "tensor %s: a name of %zu bytes and %u columns, expected 1 .. %d and at "
                         "least one", show(name).text, name.size, e->cols, IMATRIX_NAME);
    for (i = 0; i < e->cols && result == LLM_OK; i++)
        result = imatrix_check_sum(name, i, e->sums[i], error);
    return result;
}

/* Writes what llama-quantize --imatrix takes. Names are different ones. */
static LLM__UNUSED llm_result imatrix_write(const char *path, const imatrix_entry *entries,
                                            size_t count, const char *dataset, uint32_t chunks,
                                            uint32_t chunk_size, llm_error *error) {
    imatrix_writer w;
    uint64_t offset = 0;
    size_t i;
    w.at = 0;
    w.error = error;
    w.result = LLM_OK;
    for (i = 0; i < count && w.result == LLM_OK; i++)
        w.result = imatrix_check_entry(&entries[i], error);
    if (w.result == LLM_OK) w.result = new_file_open(&w.file, path, error);
    if (w.result != LLM_OK) return w.result;
    imatrix_put_keys(&w, 2 * (uint64_t)count, dataset, chunks, chunk_size);
    for (i = 0; i < count; i++) {
        const imatrix_entry *e = &entries[i];
        offset = imatrix_put_info(&w, e->name, IMATRIX_SUMS, e->cols, offset);
        offset = imatrix_put_info(&w, e->name, IMATRIX_COUNTS, 1, offset);
    }
    imatrix_pad(&w);
    for (i = 0; i < count; i++) imatrix_put_entry(&w, &entries[i]);
    if (w.result == LLM_OK) return new_file_commit(&w.file, error);
    new_file_abandon(&w.file);
    return w.result;
}

#endif
