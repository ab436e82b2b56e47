/* ======================================================================== */
/* Writer: a plan and its source to a .llm file                              */
/* ========================================================================
   Every size is known before the first byte is written, so the file is written from front to back:
   room for the tables, the small sections, the tensors in slabs of rows that all threads quantise,
   and at the end the tables over the room that was left. */
#ifndef CONVERT_WRITER_H
#define CONVERT_WRITER_H

#include "family.h"
#include "feedback.h"

/* XXH64 of a stream: llm__xxh64 in pieces. */
typedef struct checksum {
    uint64_t v[4], size;
    uint8_t rest[32];
} checksum;

#define CHECKSUM_P1 0x9E3779B185EBCA87u
#define CHECKSUM_P2 0xC2B2AE3D27D4EB4Fu
#define CHECKSUM_P3 0x165667B19E3779F9u
#define CHECKSUM_P4 0x85EBCA77C2B2AE63u
#define CHECKSUM_P5 0x27D4EB2F165667C5u

static void checksum_start(checksum *c) {
    memset(c, 0, sizeof *c);
    c->v[0] = CHECKSUM_P1 + CHECKSUM_P2;
    c->v[1] = CHECKSUM_P2;
    c->v[3] = 0 - CHECKSUM_P1;
}

static void checksum_stripe(checksum *c, const uint8_t *p) {
    int i;
    for (i = 0; i < 4; i++)
        c->v[i] = llm__rotl64(c->v[i] + llm__u64(p + 8 * i) * CHECKSUM_P2, 31) * CHECKSUM_P1;
}

static void checksum_add(checksum *c, const void *data, size_t size) {
    const uint8_t *p = (const uint8_t *)data;
    size_t held = (size_t)(c->size % 32), part;
    c->size += size;
    if (held) {
        part = 32 - held < size ? 32 - held : size;
        memcpy(c->rest + held, p, part);
        p += part;
        size -= part;
        if (held + part < 32) return;
        checksum_stripe(c, c->rest);
    }
    for (; size >= 32; p += 32, size -= 32) checksum_stripe(c, p);
    if (size) memcpy(c->rest, p, size);
}

static uint64_t checksum_end(const checksum *c) {
    const uint8_t *p = c->rest, *end = p + c->size % 32;
    uint64_t h = CHECKSUM_P5;
    int i;
    if (c->size >= 32) {
        h = llm__rotl64(c->v[0], 1) + llm__rotl64(c->v[1], 7) + llm__rotl64(c->v[2], 12) +
            llm__rotl64(c->v[3], 18);
        for (i = 0; i < 4; i++)
            h = (h ^ llm__rotl64(c->v[i] * CHECKSUM_P2, 31) * CHECKSUM_P1) * CHECKSUM_P1 +
                CHECKSUM_P4;
    }
    h += c->size;
    for (; end - p >= 8; p += 8)
        h = llm__rotl64(h ^ llm__rotl64(llm__u64(p) * CHECKSUM_P2, 31) * CHECKSUM_P1, 27) *
                CHECKSUM_P1 + CHECKSUM_P4;
    for (; end - p >= 4; p += 4)
        h = llm__rotl64(h ^ llm__u32(p) * CHECKSUM_P1, 23) * CHECKSUM_P2 + CHECKSUM_P3;
    for (; p < end; p++) h = llm__rotl64(h ^ *p * CHECKSUM_P5, 11) * CHECKSUM_P1;
    h = (h ^ h >> 33) * CHECKSUM_P2;
    h = (h ^ h >> 29) * CHECKSUM_P3;
    return h ^ h >> 32;
}

/* ---- the file ---------------------------------------------------------- */

#define WRITER_SECTIONS 8
#define WRITER_UNIT 64u /* rows that one thread takes at a time: a multiple of every rotation */

typedef struct writer_section {
    uint32_t kind;
    const void *data; /* NULL for DATA */
    size_t size;
} writer_section;

typedef struct writer {
    const source_file *from;
    plan *plan;
    const quantizer *tables;
    unsigned threads;
    void (*progress)(void *user, uint64_t done, uint64_t total);
    void *user;
    /* Adds to a row of a matrix of the result as it comes from the source; NULL: nothing. */
    void (*add)(const void *user, const plan_tensor *t, uint32_t row, float *x);
    const void *add_user;
    new_file file;
    llm__file_section sections[WRITER_SECTIONS];
    uint32_t section_count;
    uint64_t at;     /* bytes written so far */
    uint64_t size;   /* of the whole file */
    checksum tensor, data;
    /* Called before places are given to tensors, unless it is NULL: may cut them, and change their
       types to types that are no larger. */
    llm_result (*arrange)(void *calibration);
    /* Called before a tensor is written, unless it is NULL: may set its `made`, or `feedback`. */
    llm_result (*prepare)(void *calibration, plan_tensor *t);
    /* Where they are not NULL: what an earlier run left is taken up (`first`, `at`, `data`), given a
       hash of the sections before the tensors; so many tensors are written; it is over. */
    bool (*load)(void *calibration, uint64_t sections);
    void (*save)(void *calibration, size_t done);
    size_t first; /* tensors that are there already */
    uint8_t *smooth;    /* the section SMTH, final when all tensors are written, or NULL */
    size_t smooth_size;
    void *calibration;
    const feedback *feedback; /* of the tensor at hand; NULL: columns are quantised by themselves */
    float *space;             /* [threads][feedback_floats(widest)] */
    float *rows;     /* [threads][WRITER_UNIT][widest padded row] */
    float *row;      /* [threads][widest source row] */
    uint8_t *panels; /* one slab */
    size_t widest, slab;
    llm_error *error;
} writer;

static uint64_t writer_round(uint64_t size, uint64_t to) { return (size + to - 1) / to * to; }

static uint64_t writer_tensor_size(const llm__file_tensor *t) {
    if (t->role == LLM__ROPE) return (uint64_t)t->cols * 8;
    if (!family_is_matrix(t->role)) return (uint64_t)t->cols * 4;
    return (uint64_t)((t->rows + 15) / 16) * llm__panel_size(t->type, llm__padded(t->cols));
}

/* Where everything will lie. */
static void writer_layout(writer *w, const writer_section *sections) {
    uint64_t at = sizeof(llm__file_header) + w->section_count * sizeof(llm__file_section);
    uint32_t i;
    size_t j;
    for (i = 0; i < w->section_count; i++) {
        llm__file_section *s = &w->sections[i];
        at = writer_round(at, LLM__PAGE);
        memset(s, 0, sizeof *s);
        s->kind = sections[i].kind;
        s->offset = at;
        for (j = 0; !sections[i].data && j < w->plan->count; j++) {
            llm__file_tensor *t = &w->plan->tensors[j].file;
            t->offset = at = writer_round(at, 64);
            t->size = writer_tensor_size(t);
            at += t->size;
        }
        if (sections[i].data) at += sections[i].size;
        s->size = at - s->offset;
    }
    w->size = writer_round(at, 64); /* a reader may load a vector's last 64 bytes whole */
}

static llm_result writer_put(writer *w, const void *data, size_t size) {
    w->at += size;
    return new_file_write(&w->file, data, size, w->error);
}

/* Zeros up to a place; those between tensors belong to the section's checksum. */
static llm_result writer_fill(writer *w, uint64_t to) {
    static const uint8_t zeros[LLM__PAGE] = {0};
    llm_result result = LLM_OK;
    while (w->at < to && result == LLM_OK) {
        size_t size = to - w->at < sizeof zeros ? (size_t)(to - w->at) : sizeof zeros;
        checksum_add(&w->data, zeros, size);
        result = writer_put(w, zeros, size);
    }
    return result;
}

static llm_result writer_tensor_bytes(writer *w, const void *data, size_t size) {
    checksum_add(&w->tensor, data, size);
    checksum_add(&w->data, data, size);
    return writer_put(w, data, size);
}

/* ---- rows -------------------------------------------------------------- */

/* Which row of which source tensor a row of the result is; NULL for padding. */
static const source_tensor *writer_source_row(const plan_tensor *t, uint32_t row, uint64_t *from) {
    uint32_t in_unit;
    *from = t->first + (uint64_t)row;
    if (t->file.role == LLM__GATE_UP || t->file.role == LLM__GATE_UP_BIAS) {
        uint32_t panel = row / 16, rows = (uint32_t)(t->file.role == LLM__GATE_UP
                                                        ? t->from[0]->shape[1]
                                                        : t->from[0]->shape[0]);
        *from = (uint64_t)(panel / 2) * 16 + row % 16;
        return *from < rows ? t->from[panel % 2] : NULL;
    }
    if (t->unit) {
        in_unit = row % t->unit;
        if (in_unit < t->turned / 2) *from = row + in_unit;
        else if (in_unit < t->turned) *from = row + in_unit + 1 - t->turned;
    }
    return t->from[0];
}

typedef struct writer_unit {
    quantize_sums sums;
    bool bad; /* a weight that is not finite */
    uint32_t row;
    uint64_t col;
    float value;
} writer_unit;

typedef struct writer_job {
    writer *w;
    const plan_tensor *tensor;
    uint32_t first;      /* row of the slab */
    writer_unit *units;
} writer_job;

static void writer_check(const float *x, uint64_t count, uint32_t row, writer_unit *unit) {
    uint64_t i;
    for (i = 0; i < count; i++) {
        if (quantize_finite(x[i]) || unit->bad) continue;
        unit->bad = true;
        unit->row = row;
        unit->col = i;
        unit->value = x[i];
    }
}

/* Rows first .. first + WRITER_UNIT - 1 as floats [WRITER_UNIT][padded], as the source has them. */
static void writer_gather(const writer *w, const plan_tensor *t, uint32_t first, float *rows,
                          float *row, writer_unit *unit) {
    uint32_t cols = t->file.cols, padded = llm__padded(cols), i;
    memset(rows, 0, (size_t)WRITER_UNIT * padded * sizeof *rows);
    for (i = 0; i < WRITER_UNIT && first + i < t->file.rows; i++) {
        uint64_t from;
        const source_tensor *tensor = writer_source_row(t, first + i, &from);
        if (!tensor) continue;
        w->from->row(w->from, tensor, from, row);
        if (w->add) w->add(w->add_user, t, first + i, row);
        if (!t->odd) writer_check(row, cols, first + i, unit);
        memcpy(rows + (size_t)i * padded, row, cols * sizeof *row);
    }
}

static void writer_rotate(const plan_tensor *t, float *rows) {
    uint32_t padded = llm__padded(t->file.cols), i;
    for (i = 0; t->file.row_rotation && i < t->file.cols; i++)
        quantize_rotate(rows + i, WRITER_UNIT, padded, t->file.row_rotation);
    quantize_rotate(rows, (size_t)WRITER_UNIT * padded, 1, t->file.rotation);
}

/* A panel from its rows. */
static void writer_quantize(const writer *w, const plan_tensor *t, unsigned worker, float *rows,
                            uint8_t *panel, quantize_sums *sums) {
    const uint32_t padded = llm__padded(t->file.cols);
    feedback_space space;
    if (!w->feedback) {
        quantize_panel(w->tables, t->file.type, rows, padded, t->file.rotation ? NULL : t->importance,
                       panel, sums);
        return;
    }
    feedback_place(&space, w->space + worker * feedback_floats((uint32_t)w->widest), padded);
    feedback_panel(w->feedback, &space, rows, panel, sums);
}

static void writer_work(void *context, size_t index, unsigned worker) {
    writer_job *job = (writer_job *)context;
    writer *w = job->w;
    const plan_tensor *t = job->tensor;
    writer_unit *unit = &job->units[index];
    uint32_t padded = llm__padded(t->file.cols), i;
    uint32_t first = job->first + (uint32_t)index * WRITER_UNIT;
    size_t size = llm__panel_size(t->file.type, padded);
    float *rows = w->rows + (size_t)worker * WRITER_UNIT * w->widest;
    uint8_t *panel = w->panels + index * (WRITER_UNIT / 16) * size;
    const bool made = w->from->panel && llm__formats[t->file.type].bits;
    if (!made) writer_gather(w, t, first, rows, w->row + (size_t)worker * w->widest, unit);
    if (!made && !unit->bad) writer_rotate(t, rows);
    for (i = 0; i < WRITER_UNIT && first + i < t->file.rows && !unit->bad; i += 16, panel += size) {
        if (made)
            w->from->panel(w->from, t->from[0], t->file.type, (t->first + first + i) / 16, panel);
        else
            writer_quantize(w, t, worker, rows + (size_t)i * padded, panel, &unit->sums);
    }
}

static llm_result writer_not_finite(const writer *w, const plan_tensor *t, const writer_unit *u) {
    uint64_t row = u->row;
    const source_tensor *tensor = writer_source_row(t, u->row, &row);
    if (!tensor) tensor = t->from[0];
    return llm__fail(w->error, LLM_ERROR_NUMERIC,
                     "tensor %s: row %llu, column %llu is %f, expected a finite number; "
                     "--non-finite bf16 keeps such a matrix in 16 bits",
                     show(tensor->name).text, (unsigned long long)row, (unsigned long long)u->col,
                     (double)u->value);
}

static llm_result writer_matrix(writer *w, plan_tensor *t) {
    size_t panel = llm__panel_size(t->file.type, llm__padded(t->file.cols)), i;
    size_t units = (t->file.rows + WRITER_UNIT - 1) / WRITER_UNIT, done = 0, now;
    llm_result result = LLM_OK;
    writer_job job;
    job.w = w;
    job.tensor = t;
    job.units = (writer_unit *)calloc(w->slab, sizeof *job.units);
    if (!job.units)
        return llm__fail(w->error, LLM_ERROR_MEMORY, "no memory for %zu units of rows", w->slab);
    for (done = 0; done < units && result == LLM_OK; done += now) {
        uint32_t rows;
        now = units - done < w->slab ? units - done : w->slab;
        job.first = (uint32_t)done * WRITER_UNIT;
        memset(job.units, 0, now * sizeof *job.units);
        parallel_for(w->threads, now, writer_work, &job);
        for (i = 0; i < now && result == LLM_OK; i++) {
            if (job.units[i].bad) result = writer_not_finite(w, t, &job.units[i]);
            t->norm += job.units[i].sums.norm;
            t->error += job.units[i].sums.error;
        }
        rows = t->file.rows - job.first;
        if (rows > now * WRITER_UNIT) rows = (uint32_t)now * WRITER_UNIT;
        if (result == LLM_OK) result = writer_tensor_bytes(w, w->panels, (rows + 15) / 16 * panel);
        w->progress(w->user, w->at, w->size);
    }
    free(job.units);
    return result;
}

/* ---- vectors ----------------------------------------------------------- */

/* The vector as the source has it, from malloc; the caller frees it, also after an error. */
static llm_result writer_load_vector(const writer *w, const plan_tensor *t, float **out) {
    float *row[2] = {NULL, NULL};
    writer_unit unit;
    llm_result result = LLM_OK;
    uint32_t i;
    memset(&unit, 0, sizeof unit);
    *out = (float *)calloc(t->file.cols, sizeof **out);
    for (i = 0; i < 2 && t->from[i] && *out; i++) {
        row[i] = (float *)malloc((size_t)t->from[i]->shape[0] * sizeof **out);
        if (!row[i]) break;
        w->from->row(w->from, t->from[i], 0, row[i]);
        writer_check(row[i], t->from[i]->shape[0], 0, &unit);
    }
    if (!*out || !row[0] || (t->from[1] && !row[1]))
        result = llm__fail(w->error, LLM_ERROR_MEMORY, "tensor %s: no memory for %u elements",
                           show(t->from[0]->name).text, t->file.cols);
    else if (unit.bad)
        result = writer_not_finite(w, t, &unit);
    for (i = 0; i < t->file.cols && result == LLM_OK; i++) {
        uint64_t from;
        const source_tensor *tensor = writer_source_row(t, i, &from);
        if (tensor) (*out)[i] = row[tensor == t->from[0] ? 0 : 1][from];
    }
    free(row[0]);
    free(row[1]);
    return result;
}

static llm_result writer_vector(writer *w, const plan_tensor *t) {
    float *out = NULL;
    llm_result result = writer_load_vector(w, t, &out);
    if (result == LLM_OK) {
        quantize_rotate(out, t->file.cols, 1, t->rotation);
        result = writer_tensor_bytes(w, out, t->file.cols * sizeof *out);
    }
    free(out);
    return result;
}

/* Turns per position times 2^64, for every pair, from malloc; the caller frees them. */
static llm_result writer_load_rope(const writer *w, const plan_tensor *t, uint64_t **turns_out) {
    const long double turn = 6.28318530717958647692528676655900577L;
    uint64_t *out = *turns_out = (uint64_t *)calloc(t->file.cols, sizeof *out);
    float *factors = (float *)calloc(t->file.cols, sizeof *factors);
    llm_result result = LLM_OK;
    uint32_t i;
    if (!out || !factors)
        result = llm__fail(w->error, LLM_ERROR_MEMORY, "no memory for %u frequencies",
                           t->file.cols);
    else if (t->from[0]) w->from->row(w->from, t->from[0], 0, factors);
    for (i = 0; i < t->file.cols && result == LLM_OK; i++) {
        long double factor = t->from[0] ? (long double)factors[i] : 1.0L, turns;
        if (!(factor >= 1e-3L && factor <= 1e9L)) {
            result = llm__fail(w->error, LLM_ERROR_FORMAT, "tensor %s: element %u is %g, expected "
                               "0.001 .. 1e9", show(t->from[0]->name).text, i, (double)factor);
            break;
        }
        turns = powl((long double)t->base, -(long double)i / t->file.cols) / turn;
        turns /= factor * (long double)t->factor;
        turns -= floorl(turns);
        turns = roundl(ldexpl(turns, 64));
        out[i] = turns < 18446744073709551616.0L ? (uint64_t)turns : 0;
    }
    free(factors);
    return result;
}

static llm_result writer_rope(writer *w, const plan_tensor *t) {
    uint64_t *turns = NULL;
    llm_result result = writer_load_rope(w, t, &turns);
    if (result == LLM_OK) result = writer_tensor_bytes(w, turns, t->file.cols * sizeof *turns);
    free(turns);
    return result;
}

static llm_result writer_tensors(writer *w) {
    llm_result result = LLM_OK;
    size_t i;
    for (i = w->first; i < w->plan->count && result == LLM_OK; i++) {
        plan_tensor *t = &w->plan->tensors[i];
        const bool last = i + 1 == w->plan->count || w->plan->tensors[i + 1].file.layer != t->file.layer;
        result = writer_fill(w, t->file.offset);
        checksum_start(&w->tensor);
        if (result == LLM_OK && w->prepare) result = w->prepare(w->calibration, t);
        if (result != LLM_OK) break;
        if (t->made) result = writer_tensor_bytes(w, t->made, (size_t)t->file.size);
        else if (t->file.role == LLM__ROPE) result = writer_rope(w, t);
        else if (!family_is_matrix(t->file.role)) result = writer_vector(w, t);
        else result = writer_matrix(w, t);
        free(t->made);
        t->made = NULL;
        t->file.checksum = checksum_end(&w->tensor);
        if (w->save && last && t->file.role != LLM__ROPE && t->file.layer != LLM__NONE &&
            result == LLM_OK)
            w->save(w->calibration, i + 1);
        w->progress(w->user, w->at, w->size);
    }
    return result;
}

/* ---- the whole --------------------------------------------------------- */

static llm_result writer_buffers(writer *w) {
    size_t i, largest = 0;
    for (i = 0; i < w->plan->count; i++) {
        const llm__file_tensor *t = &w->plan->tensors[i].file;
        size_t padded = llm__padded(t->cols), unit;
        if (!family_is_matrix(t->role)) continue;
        unit = llm__panel_size(t->type, (uint32_t)padded) * (WRITER_UNIT / 16);
        largest = unit > largest ? unit : largest;
        w->widest = padded > w->widest ? padded : w->widest;
    }
    w->slab = (size_t)w->threads * 4;
    w->rows = (float *)calloc(w->threads, WRITER_UNIT * w->widest * sizeof *w->rows);
    w->row = (float *)calloc(w->threads, w->widest * sizeof *w->row);
    w->panels = (uint8_t *)calloc(w->slab, largest);
    if (w->rows && w->row && w->panels) return LLM_OK;
    return llm__fail(w->error, LLM_ERROR_MEMORY,
                     "no memory for a slab of %zu units of %zu columns", w->slab, w->widest);
}

static llm__file_tensor *writer_directory(const plan *p) {
    llm__file_tensor *directory = (llm__file_tensor *)calloc(p->count, sizeof *directory);
    size_t i;
    for (i = 0; directory && i < p->count; i++) directory[i] = p->tensors[i].file;
    return directory;
}

/* The tables over the room that was left for them. */
static llm_result writer_tables(writer *w, const llm__file_tensor *directory) {
    llm__file_header header;
    llm_result result = LLM_OK;
    uint32_t i;
    memset(&header, 0, sizeof header);
    memcpy(header.magic, LLM__MAGIC, sizeof header.magic);
    header.version = LLM__VERSION;
    header.section_count = w->section_count;
    header.file_size = w->size;
    for (i = 0; i < w->section_count && result == LLM_OK; i++) {
        llm__file_section *s = &w->sections[i];
        const void *data = s->kind == LLM__SECTION_TDIR   ? (const void *)directory
                           : s->kind == LLM__SECTION_SMTH ? (const void *)w->smooth : NULL;
        if (!data) continue;
        s->checksum = llm__xxh64(data, (size_t)s->size);
        result = new_file_seek(&w->file, s->offset, w->error);
        if (result != LLM_OK) return result;
        result = new_file_write(&w->file, data, (size_t)s->size, w->error);
    }
    header.checksum = llm__xxh64(w->sections, w->section_count * sizeof *w->sections);
    if (result == LLM_OK) result = new_file_seek(&w->file, 0, w->error);
    if (result == LLM_OK) result = new_file_write(&w->file, &header, sizeof header, w->error);
    if (result == LLM_OK)
        result = new_file_write(&w->file, w->sections, w->section_count * sizeof *w->sections,
                                w->error);
    return result;
}

static llm_result writer_sections(writer *w, const writer_section *sections) {
    llm_result result = LLM_OK;
    uint64_t hash = 0;
    uint32_t i;
    for (i = 0; i < w->section_count && result == LLM_OK; i++) {
        llm__file_section *s = &w->sections[i];
        if (!sections[i].data && w->load) (void)w->load(w->calibration, hash);
        if (!w->first) {
            result = writer_fill(w, s->offset);
            checksum_start(&w->data);
        }
        if (result != LLM_OK) break;
        if (!sections[i].data) {
            result = writer_tensors(w);
            s->checksum = checksum_end(&w->data);
        } else {
            s->checksum = llm__xxh64(sections[i].data, sections[i].size);
            hash = llm__rotl64(hash, 7) ^ s->checksum;
            result = writer_put(w, sections[i].data, sections[i].size);
        }
    }
    if (result == LLM_OK) result = writer_fill(w, w->size);
    return result;
}

/* Writes `path`. `w` holds source, plan, tables, threads, progress and error; the texts may be
   empty. The plan's tensors get their places, checksums and errors. */
static llm_result writer_run(writer *w, const char *path, llm_text meta, llm_text chat_template,
                             llm_text tokenizer) {
    plan *p = w->plan;
    llm__file_tensor *directory = NULL;
    writer_section sections[WRITER_SECTIONS];
    uint32_t count = 0;
    llm_result result = writer_buffers(w);
    if (result == LLM_OK && w->arrange) result = w->arrange(w->calibration);
    if (result == LLM_OK && !(directory = writer_directory(p)))
        result = llm__fail(w->error, LLM_ERROR_MEMORY,
                           "no memory for a directory of %zu tensors", p->count);
#define WRITER_ADD(name, bytes, length)               \
    do {                                              \
        sections[count].kind = LLM__SECTION_##name;   \
        sections[count].data = (bytes);               \
        sections[count++].size = (length);            \
    } while (0)
    WRITER_ADD(DESC, &p->desc, sizeof p->desc);
    WRITER_ADD(LAYR, p->layers, p->desc.layers * sizeof *p->layers);
    WRITER_ADD(TDIR, directory, p->count * sizeof *directory);
    if (w->smooth) WRITER_ADD(SMTH, w->smooth, w->smooth_size);
    if (meta.size) WRITER_ADD(META, meta.data, meta.size);
    if (chat_template.size) WRITER_ADD(TMPL, chat_template.data, chat_template.size);
    if (tokenizer.size) WRITER_ADD(TOKN, tokenizer.data, tokenizer.size);
    WRITER_ADD(DATA, NULL, 0);
#undef WRITER_ADD
    w->section_count = count;
    w->at = 0;
    if (result == LLM_OK) {
        writer_layout(w, sections);
        result = new_file_open(&w->file, path, w->error);
        if (result == LLM_OK) result = writer_sections(w, sections);
        free(directory);
        directory = writer_directory(p);
        if (result == LLM_OK && !directory)
            result = llm__fail(w->error, LLM_ERROR_MEMORY,
                               "no memory for a directory of %zu tensors", p->count);
        if (result == LLM_OK) result = writer_tables(w, directory);
        if (result == LLM_OK) result = new_file_commit(&w->file, w->error);
        else new_file_abandon(&w->file);
    }
    free(directory);
    free(w->rows);
    free(w->row);
    free(w->panels);
    return result;
}

#endif
