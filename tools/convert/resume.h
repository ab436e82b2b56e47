/* ======================================================================== */
/* Resume: a calibration that was killed goes on where it was                */
/* ========================================================================
   After every layer OUTPUT.resume says what has been written to the temporary file and what the
   stream is. A later run with the same input, options and text finds it, takes over the temporary
   file and goes on behind it; anything else, or a damaged file, begins anew. Written whole under
   another name and renamed, as every file here.

       +-------+-----+------+----+----------+------+------------------+------+-------------+--------+
       | magic | key | done | at | checksum | name | done x (checksum | SMTH | streams f32 | XXH64  |
       |       |     |      |    | of DATA  |      | norm, error)     |      | 2 x [t][w]  | of all |
       +-------+-----+------+----+----------+------+------------------+------+-------------+--------+ */
#ifndef CONVERT_RESUME_H
#define CONVERT_RESUME_H

#include "calibrate.h"

/* A test dies here by defining this. */
#ifndef RESUME_SAVED
#define RESUME_SAVED(done) ((void)0)
#endif

/* Ends in a number that changes with what a calibration makes of the same input. */
#define RESUME_MAGIC "llmrsm04"

typedef struct resume_head {
    char magic[8];
    uint64_t key;       /* of everything that the result depends on */
    uint64_t done, at;  /* tensors and bytes that are in the temporary file */
    uint64_t floats;    /* of a stream, ours and the original's */
    checksum data;
    char temporary[32]; /* what comes after OUTPUT in its name */
} resume_head;

typedef struct resume_tensor {
    uint64_t checksum;
    double norm, error;
} resume_tensor;

/* Its path, which the calibration keeps; NULL: nothing is kept. */
static const char *resume_path(calibration *c) {
    const char *output = c->w->file.path;
    const size_t size = strlen(output) + 8;
    if (!c->resume) c->resume = (char *)malloc(size);
    if (c->resume) (void)snprintf(c->resume, size, "%s.resume", output);
    return c->resume;
}

/* What the result depends on: plan, tokens, the small sections, and of each source tensor the first
   row. */
static uint64_t resume_key(const calibration *c, uint64_t sections) {
    const plan *p = c->w->plan;
    const size_t tokens = (size_t)c->length * c->sequences;
    float row[256];
    float *whole = c->w->row;
    checksum sum;
    size_t i;
    int k;
    checksum_start(&sum);
    checksum_add(&sum, &sections, sizeof sections);
    checksum_add(&sum, &p->desc, sizeof p->desc);
    checksum_add(&sum, p->layers, p->desc.layers * sizeof *p->layers);
    checksum_add(&sum, c->ids, tokens * sizeof *c->ids);
    for (i = 0; i < p->count; i++) {
        const plan_tensor *t = &p->tensors[i];
        checksum_add(&sum, &t->file.role, sizeof(uint32_t) * 8);
        for (k = 0; k < 2 && t->from[k] && family_is_matrix(t->file.role); k++) {
            memset(row, 0, sizeof row);
            c->w->from->row(c->w->from, t->from[k], 0, whole);
            memcpy(row, whole, (t->file.cols < 256 ? t->file.cols : 256) * sizeof *row);
            checksum_add(&sum, row, sizeof row);
        }
    }
    return checksum_end(&sum);
}

static const char *resume_temporary(const writer *w) {
    return w->file.temporary + strlen(w->file.path);
}

/* Everything so far; a run without it only begins anew, so what fails here is no error. */
static void resume_save(void *user, size_t done) {
    calibration *c = (calibration *)user;
    const writer *w = c->w;
    const size_t floats = forward_tokens(&c->run) * w->plan->desc.width;
    const char *path = resume_path(c);
    resume_head head;
    new_file file;
    checksum sum;
    llm_error error;
    uint64_t end;
    size_t i;
    bool good;
    if (!path || strlen(resume_temporary(w)) >= sizeof head.temporary ||
        fflush(w->file.stream) != 0 || !platform_sync(w->file.stream) || new_file_open(&file, path, &error) != LLM_OK)
        return;
    memset(&head, 0, sizeof head);
    memcpy(head.magic, RESUME_MAGIC, 8);
    head.key = c->key, head.done = done, head.at = w->at, head.floats = floats;
    head.data = w->data;
    memcpy(head.temporary, resume_temporary(w), strlen(resume_temporary(w)));
    checksum_start(&sum);
    checksum_add(&sum, &head, sizeof head);
    good = new_file_write(&file, &head, sizeof head, &error) == LLM_OK;
    for (i = 0; i < done && good; i++) {
        const plan_tensor *t = &w->plan->tensors[i];
        resume_tensor r;
        r.checksum = t->file.checksum, r.norm = t->norm, r.error = t->error;
        checksum_add(&sum, &r, sizeof r);
        good = new_file_write(&file, &r, sizeof r, &error) == LLM_OK;
    }
    checksum_add(&sum, w->smooth, w->smooth_size);
    checksum_add(&sum, c->x, floats * sizeof *c->x);
    checksum_add(&sum, c->exact, floats * sizeof *c->exact);
    end = checksum_end(&sum);
    good = good && new_file_write(&file, w->smooth, w->smooth_size, &error) == LLM_OK &&
           new_file_write(&file, c->x, floats * sizeof *c->x, &error) == LLM_OK &&
           new_file_write(&file, c->exact, floats * sizeof *c->exact, &error) == LLM_OK &&
           new_file_write(&file, &end, sizeof end, &error) == LLM_OK;
    if (good) (void)new_file_commit(&file, &error);
    else new_file_abandon(&file);
    RESUME_SAVED(done);
}

/* Where the temporary file ends after so many tensors. */
static uint64_t resume_end_of(const plan *p, uint64_t done) {
    const llm__file_tensor *last = done && done <= p->count ? &p->tensors[done - 1].file : NULL;
    return last ? last->offset + last->size : 0;
}

/* A file that says it is ours, whole, and of this conversion. */
static bool resume_fits(const calibration *c, map_file map, resume_head *head) {
    const size_t floats = (size_t)c->length * c->sequences * c->w->plan->desc.width;
    uint64_t end;
    if (map.size < sizeof *head + sizeof end) return false;
    memcpy(head, map.data, sizeof *head);
    memcpy(&end, map.data + map.size - sizeof end, sizeof end);
    return memcmp(head->magic, RESUME_MAGIC, 8) == 0 && head->key == c->key &&
           head->floats == floats && head->at &&
           head->at == resume_end_of(c->w->plan, head->done) &&
           map.size == sizeof *head + head->done * sizeof(resume_tensor) +
                           c->w->smooth_size + 2 * floats * sizeof(float) + sizeof end &&
           memchr(head->temporary, 0, sizeof head->temporary) &&
           !strpbrk(head->temporary, "/\\") &&
           llm__xxh64(map.data, map.size - sizeof end) == end;
}

/* Goes on where an earlier run was, if there is one. */
static bool resume_load(void *user, uint64_t sections) {
    calibration *c = (calibration *)user;
    writer *w = c->w;
    const char *path = resume_path(c);
    resume_head head;
    map_file map;
    llm_error error;
    bool fits = false;
    size_t i;
    if (calibrate_start(c) != LLM_OK) return false; /* the first tensor meets that again */
    c->key = resume_key(c, sections);
    if (!path || !platform_exists(path) || map_open(&map, path, &error) != LLM_OK)
        return false;
    if (resume_fits(c, map, &head) && new_file_take(&w->file, head.temporary, head.at)) {
        const uint8_t *at = map.data + sizeof head;
        for (i = 0; i < head.done; i++, at += sizeof(resume_tensor)) {
            plan_tensor *t = &w->plan->tensors[i];
            resume_tensor r;
            memcpy(&r, at, sizeof r);
            t->file.checksum = r.checksum, t->norm = r.norm, t->error = r.error;
        }
        memcpy(w->smooth, at, w->smooth_size);
        at += w->smooth_size;
        memcpy(c->x, at, (size_t)head.floats * sizeof *c->x);
        memcpy(c->exact, at + (size_t)head.floats * sizeof *c->x, (size_t)head.floats * sizeof *c->x);
        w->at = head.at;
        w->data = head.data;
        w->first = (size_t)head.done;
        fits = true;
    }
    map_close(&map);
    return fits;
}

/* The result is there, or will not be. */
static void resume_end(const calibration *c) {
    if (c->resume) (void)platform_remove(c->resume);
}

#endif
