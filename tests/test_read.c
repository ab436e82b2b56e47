/* Models that are read in pieces through a callback: the same bits as from a map, no piece read
   twice, none read before it is needed, and reads that fail cost nothing but a retry. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#include <sys/mman.h>
#include <sys/resource.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
/* Sanitizers make these do nothing. */
static int lock_really(const void *from, size_t size) { return (int)syscall(SYS_mlock, from, size); }
static int unlock_really(const void *from, size_t size) { return (int)syscall(SYS_munlock, from, size); }
#define mlock lock_really
#define munlock unlock_really
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"

/* ---- a file that counts who reads it, and fails when told to ---- */

#define PIECES 1024u

typedef struct source {
    const uint8_t *data;
    size_t size;
    uint32_t reads[PIECES]; /* good ones, of every piece */
    uint32_t calls, bad;    /* in all; outside the file or larger than promised */
    uint32_t fail_at;       /* this call fails, from 1; 0: none */
    bool fail_all;
} source;

static bool read_source(void *user, uint64_t offset, void *to, size_t size) {
    source *s = (source *)user;
    const uint32_t call = llm__fetch_add32(&s->calls, 1) + 1;
    if (offset > s->size || size > s->size - offset || !size || size > LLM_READ_MOST ||
        offset % LLM_READ_MOST) {
        llm__fetch_add32(&s->bad, 1);
        return false;
    }
    if (s->fail_all || call == s->fail_at) {
        memset(to, 0x5a, size / 2); /* as a read that ends early */
        return false;
    }
    memcpy(to, s->data + offset, size);
    llm__fetch_add32(&s->reads[offset / LLM_READ_MOST], 1);
    return true;
}

static uint32_t pieces_read(const source *s) {
    uint32_t i, n = 0;
    for (i = 0; i < PIECES; i++) n += s->reads[i] > 0;
    return n;
}
static uint32_t most_reads(const source *s) {
    uint32_t i, most = 0;
    for (i = 0; i < PIECES; i++) most = s->reads[i] > most ? s->reads[i] : most;
    return most;
}

/* Memory full of nonsense, so that what was not read cannot look right. */
static size_t most_memory, memory_in_use;
static void *take_nonsense(void *user, size_t size, size_t align) {
    void *memory = NULL;
    (void)user;
    if (size > SIZE_MAX / 4) return NULL; /* which a sanitizer takes for an error */
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size)) return NULL;
    memset(memory, 0xa5, size);
    memory_in_use += size;
    if (size > most_memory) most_memory = size;
    return memory;
}
static void give_back(void *user, void *memory, size_t size) {
    (void)user;
    memory_in_use -= size;
    free(memory);
}

static llm_result open_source(llm_model **model, source *s, bool verify, llm_error *error) {
    llm_model_desc d;
    memset(&d, 0, sizeof d);
    memset(error, 0, sizeof *error);
    d.read = read_source, d.read_user = s, d.size = s->size, d.verify = verify, d.error = error;
    d.allocator.allocate = take_nonsense, d.allocator.release = give_back;
    return llm_model_open(model, &d);
}

static llm_session *session_of(const llm_model *model, llm_pool *pool) {
    llm_session_desc d;
    llm_session *session = NULL;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.context = 128, d.rows = 20;
    CHECK(!llm_session_create(&session, &d), "no session");
    return session;
}

static void restart(source *s) {
    const uint8_t *data = s->data;
    const size_t size = s->size;
    memset(s, 0, sizeof *s);
    s->data = data, s->size = size;
}

/* A model of many pieces: a fixture is smaller than one, so its tensors are spread over a file with
   gaps, which readers allow. */
static source spread(const char *name, const char *type) {
    source s;
    size_t size, i, at, gap = 100000 / 64 * 64;
    uint8_t *from = (uint8_t *)fixture_read(fixture_model_path(name, type), &size), *to;
    const llm__file_header *old = (const llm__file_header *)(const void *)from;
    llm__file_header header = *old;
    llm__file_section table[64], *data = NULL, *directory = NULL;
    llm__file_tensor *tensor;
    void *memory = NULL;
    size_t count;
    memset(&s, 0, sizeof s);
    memcpy(table, from + sizeof header, header.section_count * sizeof *table);
    for (i = 0; i < header.section_count; i++) {
        if (table[i].kind == LLM__SECTION_DATA) data = &table[i];
        if (table[i].kind == LLM__SECTION_TDIR) directory = &table[i];
    }
    count = (size_t)directory->size / sizeof *tensor;
    s.size = (size + 63) / 64 * 64 + count * gap + 64;
    if (posix_memalign(&memory, 64, s.size)) exit(1);
    to = (uint8_t *)memory;
    memset(to, 0, s.size);
    memcpy(to, from, (size_t)data->offset);
    tensor = (llm__file_tensor *)(void *)(to + directory->offset);
    if (directory->offset > data->offset) {
        printf("FAIL the directory comes after the data\n");
        exit(1);
    }
    at = (size_t)data->offset;
    for (i = 0; i < count; i++) {
        memcpy(to + at, from + tensor[i].offset, (size_t)tensor[i].size);
        tensor[i].offset = at;
        at += ((size_t)tensor[i].size + 63) / 64 * 64 + gap;
    }
    data->size = at - data->offset;
    data->checksum = llm__xxh64(to + data->offset, (size_t)data->size);
    directory->checksum = llm__xxh64(tensor, (size_t)directory->size);
    header.file_size = s.size;
    header.checksum = llm__xxh64(table, header.section_count * sizeof *table);
    memcpy(to, &header, sizeof header);
    memcpy(to + sizeof header, table, header.section_count * sizeof *table);
    for (i = 0; i < header.section_count; i++)
        if (table[i].offset > data->offset) {
            printf("FAIL a section comes after the data\n");
            exit(1);
        }
    free(from);
    s.data = to;
    CHECK(llm__pieces(s.size) > 4 && llm__pieces(s.size) <= PIECES, "%zu bytes", s.size);
    return s;
}

/* ---- the checks ---- */

#define TOKENS 40u
static int32_t ids[FIXTURE_TOKENS];
static float *want; /* logits after TOKENS, from memory */
static size_t logits_size;

static void make_reference(const source *s) {
    llm_model_desc d;
    llm_model *model = NULL;
    llm_session *session;
    memset(&d, 0, sizeof d);
    d.data = s->data, d.size = s->size, d.verify = true;
    CHECK(!llm_model_open(&model, &d), "the spread model does not open from memory");
    session = session_of(model, NULL);
    CHECK(!llm_eval(session, ids, TOKENS), "the reference");
    logits_size = fixture_vocab(model) * sizeof(float);
    want = (float *)malloc(logits_size);
    memcpy(want, llm_session_logits(session, 0), logits_size);
    llm_session_destroy(session);
    llm_model_close(model);
}

static void check_bits(const llm_session *session, const char *what) {
    const float *got = llm_session_logits(session, 0);
    CHECK(llm_session_position(session) == TOKENS, "%s: position %u", what,
          (unsigned)llm_session_position(session));
    CHECK(got && !memcmp(got, want, logits_size), "%s: other bits", what);
}

/* Opening reads little, evaluating what it needs, each piece once, however many lanes there are. */
static void test_lazy(source *s) {
    static const uint32_t threads[] = {1, 2, 8};
    size_t i;
    for (i = 0; i < 3; i++) {
        llm_pool_desc p;
        llm_pool *pool = NULL;
        llm_model *model;
        llm_session *session;
        llm_error error;
        uint32_t after;
        restart(s);
        memset(&p, 0, sizeof p);
        p.threads = threads[i];
        CHECK(!llm_pool_create(&pool, &p), "no pool");
        CHECK(!open_source(&model, s, false, &error), "%s", error.text);
        CHECK(pieces_read(s) <= 2 + llm__pieces(s->size) / 4, "opening read %u of %zu pieces",
              (unsigned)pieces_read(s), llm__pieces(s->size));
        after = s->calls;
        session = session_of(model, pool);
        CHECK(s->calls == after, "creating a session read something");
        CHECK(!llm_eval(session, ids, TOKENS), "%s", llm_session_error(session)->text);
        check_bits(session, "read in pieces");
        CHECK(most_reads(s) == 1 && !s->bad, "a piece was read %u times, %u bad reads",
              (unsigned)most_reads(s), (unsigned)s->bad);
        after = s->calls;
        CHECK(!llm_session_rewind(session, 0) && !llm_eval(session, ids, TOKENS), "again");
        check_bits(session, "again");
        CHECK(s->calls == after, "the second evaluation read something");
        llm_session_destroy(session);
        llm_model_close(model);
        llm_pool_destroy(pool);
    }
}

/* Every call in turn fails: while opening, while evaluating. All is well at the second attempt. */
static void test_failures(source *s, llm_pool *pool) {
    uint32_t fail, opening = 0;
    for (fail = 1; fail < PIECES; fail++) {
        llm_model *model;
        llm_session *session;
        llm_error error;
        llm_result r;
        restart(s);
        s->fail_at = fail;
        r = open_source(&model, s, false, &error);
        if (s->calls >= fail) {
            opening++;
            CHECK(r == LLM_ERROR_IO && !model && error.code == r &&
                      strstr(error.text, "bytes at offset"), "%s \"%s\"", llm_result_name(r), error.text);
            CHECK(memory_in_use == 0, "%zu bytes stayed", memory_in_use);
            continue;
        }
        session = session_of(model, pool);
        r = llm_eval(session, ids, TOKENS);
        if (r == LLM_OK) fail = PIECES;
        else
            CHECK(r == LLM_ERROR_IO && llm_session_position(session) == 0 &&
                      !llm_session_logits(session, 0) && llm_session_error(session)->code == r &&
                      strstr(llm_session_error(session)->text, "bytes at offset"),
                  "call %u: %s \"%s\"", (unsigned)fail, llm_result_name(r), llm_session_error(session)->text);
        if (r) CHECK(!llm_eval(session, ids, TOKENS), "call %u, again", (unsigned)fail);
        check_bits(session, "after a failure");
        CHECK(most_reads(s) == 1, "a piece was read %u times", (unsigned)most_reads(s));
        llm_session_destroy(session);
        llm_model_close(model);
    }
    CHECK(opening > 0, "opening read nothing");
}

/* A step that failed keeps what was fed; feeding more, rewinding and destroying work. */
static void test_steps(source *s) {
    llm_model *model;
    llm_session *session, *child;
    llm_error error;
    llm_result r = LLM_PENDING;
    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    session = session_of(model, NULL);
    s->fail_all = true;
    CHECK(!llm_session_feed(session, ids, 30), "feed");
    CHECK(llm_step(session, 0) == LLM_ERROR_IO && llm_step(session, 5) == LLM_ERROR_IO, "all reads fail");
    CHECK(llm_session_fork(&child, session) == LLM_ERROR_BUSY && !child, "a fork of what is not done");
    CHECK(!llm_session_feed(session, ids + 30, TOKENS - 30), "feed more");
    s->fail_all = false;
    while (r == LLM_PENDING) r = llm_step(session, 1);
    CHECK(r == LLM_OK, "%s", llm_session_error(session)->text);
    check_bits(session, "slices after a failure");
    llm_session_destroy(session);
    llm_model_close(model);

    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    session = session_of(model, NULL);
    CHECK(!llm_eval(session, ids, 5), "a beginning");
    CHECK(!llm_session_feed(session, ids + 5, 2), "feed");
    llm__store32(&model->read_state[llm__pieces(s->size) - 1], LLM__ABSENT); /* as if it was not read */
    s->fail_all = true;
    CHECK(llm_eval(session, ids + 9, 3) == LLM_ERROR_IO && llm_session_position(session) == 5, "eval on top");
    s->fail_all = false;
    CHECK(!llm_step(session, 0) && llm_session_position(session) == 7, "what was fed before is kept");
    CHECK(!llm_eval(session, ids + 7, TOKENS - 7), "the rest");
    check_bits(session, "eval on top of a feed");
    llm__store32(&model->read_state[llm__pieces(s->size) - 1], LLM__ABSENT);
    s->fail_all = true;
    CHECK(!llm_session_feed(session, ids, 2) && llm_step(session, 0) == LLM_ERROR_IO, "fails");
    CHECK(!llm_session_rewind(session, 7) && !llm_session_feed(session, ids + 7, TOKENS - 7), "rewind");
    s->fail_all = false;
    CHECK(!llm_step(session, 0), "step");
    check_bits(session, "after rewinding a failure");
    s->fail_all = true;
    llm__store32(&model->read_state[llm__pieces(s->size) - 1], LLM__ABSENT);
    CHECK(!llm_session_feed(session, ids, 2) && llm_step(session, 0) == LLM_ERROR_IO, "fails");
    llm_session_cancel(session);
    CHECK(llm_step(session, 0) == LLM_CANCELLED && llm_session_position(session) == TOKENS, "cancelled");
    CHECK(!llm_session_feed(session, ids, 2) && llm_step(session, 0) == LLM_ERROR_IO, "fails");
    llm_session_destroy(session); /* in the middle of it */
    llm_model_close(model);
}

static void test_batch(source *s) {
    llm_model *model;
    llm_session *session[2];
    llm_session_desc d;
    llm_batch_desc b;
    llm_batch *batch;
    llm_error error;
    const float *got;
    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    memset(&d, 0, sizeof d), memset(&b, 0, sizeof b);
    d.model = b.model = model, d.context = 64, d.batch_only = true;
    CHECK(!llm_session_create(&session[0], &d) && !llm_session_create(&session[1], &d) &&
          !llm_batch_create(&batch, &b), "no batch");
    CHECK(!llm_batch_add(batch, session[0], ids, TOKENS, 1), "add");
    s->fail_all = true;
    CHECK(llm_batch_step(batch, 0) == LLM_ERROR_IO && llm_batch_error(batch)->code == LLM_ERROR_IO &&
              !llm_batch_logits(batch, session[0], 0), "all reads fail");
    CHECK(!llm_batch_add(batch, session[1], ids, 3, 1), "another one joins");
    s->fail_all = false;
    CHECK(!llm_batch_step(batch, 0), "%s", llm_batch_error(batch)->text);
    got = llm_batch_logits(batch, session[0], 0);
    CHECK(got && !memcmp(got, want, logits_size), "batch after a failure: other bits");
    llm__store32(&model->read_state[llm__pieces(s->size) - 1], LLM__ABSENT);
    s->fail_all = true;
    CHECK(!llm_batch_add(batch, session[1], ids, 3, 1) && llm_batch_step(batch, 0) == LLM_ERROR_IO, "fails");
    llm_batch_cancel(batch);
    CHECK(llm_batch_step(batch, 0) == LLM_CANCELLED && llm_session_position(session[1]) == 3, "cancelled");
    llm_batch_destroy(batch);
    llm_session_destroy(session[0]), llm_session_destroy(session[1]);
    llm_model_close(model);
}

/* Two threads that meet at the same absent pieces, in sessions of their own. */
static void *evaluate(void *session) {
    return llm_eval((llm_session *)session, ids, TOKENS) ? NULL : session;
}
static void test_two_threads(source *s) {
    llm_model *model;
    llm_session *one, *two;
    llm_error error;
    pthread_t thread;
    void *good = NULL;
    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    one = session_of(model, NULL), two = session_of(model, NULL);
    CHECK(!pthread_create(&thread, NULL, evaluate, one), "no thread");
    CHECK(evaluate(two) == two && !pthread_join(thread, &good) && good == one, "an evaluation failed");
    check_bits(one, "one of two threads"), check_bits(two, "two of two threads");
    CHECK(most_reads(s) == 1, "a piece was read %u times", (unsigned)most_reads(s));
    llm_session_destroy(one), llm_session_destroy(two);
    llm_model_close(model);
}

static void test_open(source *s) {
    llm_model_desc d;
    llm_model *model;
    llm_error error;
    uint8_t *data = (uint8_t *)(uintptr_t)s->data;
    size_t damaged, whole = s->size;
    char message[80];
    restart(s);
    CHECK(!open_source(&model, s, true, &error), "%s", error.text);
    most_memory = 0;
    damaged = (size_t)model->directory[model->tensors - 1].offset;
    llm_model_close(model);
    CHECK(memory_in_use == 0, "%zu bytes stayed", memory_in_use);
    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    CHECK(most_memory == (s->size + 63) / 64 * 64 + 4 * llm__pieces(s->size), "%zu bytes for a file of %zu",
          most_memory, s->size);
    llm_model_close(model);
    restart(s);
    data[damaged] ^= 1;
    CHECK(open_source(&model, s, true, &error) == LLM_ERROR_CHECKSUM && !model, "a damaged file verifies");
    data[damaged] ^= 1;
    s->size = 63;
    CHECK(open_source(&model, s, false, &error) == LLM_ERROR_FORMAT, "63 bytes: %s", error.text);
    CHECK(!strcmp(error.text, "file: 63 bytes, shorter than a header of 64"), "%s", error.text);
    for (s->size = SIZE_MAX; s->size >= SIZE_MAX - 63; s->size -= 63) {
        (void)snprintf(message, sizeof message, "model: %zu bytes pass the address space", s->size);
        CHECK(open_source(&model, s, false, &error) == LLM_ERROR_MEMORY && !strcmp(error.text, message), "%s", error.text);
    }
    s->size = SIZE_MAX / 2;
    (void)snprintf(message, sizeof message, "model: no memory for a file of %zu bytes", s->size);
    CHECK(open_source(&model, s, false, &error) == LLM_ERROR_MEMORY && !strcmp(error.text, message), "%s", error.text);
    s->size = whole;
    memset(&d, 0, sizeof d);
    d.error = &error;
    CHECK(llm_model_open(&model, &d) == LLM_ERROR_ARGUMENT, "nothing was given");
    d.read = read_source, d.read_user = s, d.path = "x";
    CHECK(llm_model_open(&model, &d) == LLM_ERROR_ARGUMENT && !strcmp(error.text, "model: 2 of path, data and read are given, want exactly one"), "%s", error.text);
}

/* Every section in a piece of its own: whichever cannot be read, opening says which bytes. */
static void test_sections_apart(void) {
    size_t size, i, count, at;
    uint8_t *from = (uint8_t *)fixture_read(fixture_model_path("llama-tied", "q8"), &size), *to;
    llm__file_header header;
    llm__file_section table[64];
    llm_error error;
    llm_model *model;
    source s;
    memset(&s, 0, sizeof s);
    memcpy(&header, from, sizeof header);
    count = header.section_count;
    memcpy(table, from + sizeof header, count * sizeof *table);
    at = (size + LLM_READ_MOST - 1) / LLM_READ_MOST * LLM_READ_MOST;
    s.size = at + count * LLM_READ_MOST;
    to = (uint8_t *)calloc(1, s.size);
    if (!to) exit(1);
    memcpy(to, from, size);
    for (i = 0; i < count; i++) {
        if (table[i].kind == LLM__SECTION_DATA) continue;
        memcpy(to + at, from + table[i].offset, (size_t)table[i].size);
        table[i].offset = at;
        at += LLM_READ_MOST;
    }
    header.file_size = s.size;
    header.checksum = llm__xxh64(table, count * sizeof *table);
    memcpy(to, &header, sizeof header);
    memcpy(to + sizeof header, table, count * sizeof *table);
    s.data = to;
    CHECK(!open_source(&model, &s, false, &error), "%s", error.text);
    llm_model_close(model);
    CHECK(s.calls == count, "%u calls for %zu sections", (unsigned)s.calls, count);
    for (i = 0; i < 2 * count; i++) {
        char message[80];
        size_t piece = 0;
        restart(&s);
        s.fail_at = (uint32_t)(i / 2) + 1;
        CHECK(open_source(&model, &s, i % 2, &error) == LLM_ERROR_IO && !model && !memory_in_use, "%s", error.text);
        for (piece = 0; piece < PIECES; piece++) { /* the piece that was not read is named */
            (void)snprintf(message, sizeof message, "model: reading %u bytes at offset %zu failed",
                           (unsigned)LLM_READ_MOST, piece * LLM_READ_MOST);
            if (!strcmp(error.text, message)) break;
        }
        CHECK(piece < PIECES && !s.reads[piece], "call %u: %s", (unsigned)s.fail_at, error.text);
    }
    free(from), free(to);
}

/* ---- bringing it all in beforehand ---- */

typedef struct watch {
    size_t calls, last, stop_at;
} watch;
static bool watching(void *user, size_t done, size_t size) {
    watch *w = (watch *)user;
    CHECK(done > w->last && done <= size, "%zu after %zu of %zu", done, w->last, size);
    w->calls++, w->last = done;
    return !w->stop_at || done < w->stop_at;
}

/* With a limit of 0 and no privilege, nothing can be locked. */
static void test_lock(llm_model *model, size_t size) {
    const uid_t user = geteuid();
    struct rlimit old, none;
    char message[160];
    llm_prefetch_desc d;
    llm_error error;
    size_t position = 0;
    llm_result r;
    memset(&d, 0, sizeof d);
    d.lock = true, d.position = &position, d.error = &error;
    (void)getrlimit(RLIMIT_MEMLOCK, &old);
    none = old, none.rlim_cur = 0;
    if ((user == 0 && seteuid(65534)) || setrlimit(RLIMIT_MEMLOCK, &none)) {
        SKIP("the limit on locked memory cannot be lowered");
    } else {
        (void)snprintf(message, sizeof message, "prefetch: byte 0 of %zu cannot be locked (errno %d); the process may "
                       "lock 0 bytes (RLIMIT_MEMLOCK)", size, EPERM);
        r = llm_model_prefetch(model, &d);
        CHECK(r == LLM_ERROR_LIMIT && error.code == r && !strcmp(error.text, message) && position == 0,
              "%s \"%s\"", llm_result_name(r), error.text);
    }
    (void)setrlimit(RLIMIT_MEMLOCK, &old);
    if (user == 0) CHECK(!seteuid(0), "privileges");
    r = llm_model_prefetch(model, &d);
    if (r == LLM_ERROR_LIMIT) SKIP("%s", error.text);
    else CHECK(r == LLM_OK && position == size, "%s \"%s\"", llm_result_name(r), error.text);
}

static void test_prefetch(source *s) {
    llm_model *model;
    llm_model_desc open;
    llm_session *session;
    llm_error error;
    llm_prefetch_desc d;
    watch w;
    char message[80];
    size_t position = 0, steps = 0;
    llm_result r = LLM_PENDING;
    restart(s);
    CHECK(!open_source(&model, s, false, &error), "%s", error.text);
    memset(&d, 0, sizeof d), memset(&w, 0, sizeof w);
    CHECK(llm_model_prefetch(NULL, &d) == LLM_ERROR_ARGUMENT && llm_model_prefetch(model, NULL) == LLM_ERROR_ARGUMENT,
          "nothing given");
    d.error = &error, d.progress = watching, d.user = &w, d.position = &position, d.huge = true;
    w.stop_at = s->size / 2;
    CHECK(llm_model_prefetch(model, &d) == LLM_CANCELLED && position >= s->size / 2 &&
              position < s->size / 2 + LLM_READ_MOST,
          "cancelled at %zu", position);
    (void)snprintf(message, sizeof message, "prefetch: stopped at byte %zu of %zu", position, s->size);
    CHECK(error.code == LLM_CANCELLED && !strcmp(error.text, message), "%s", error.text);
    w.stop_at = 0, s->fail_all = true;
    CHECK(llm_model_prefetch(model, &d) == LLM_ERROR_IO && strstr(error.text, "at offset"), "%s", error.text);
    s->fail_all = false, d.budget_us = 1;
    for (; r == LLM_PENDING; steps++) r = llm_model_prefetch(model, &d);
    CHECK(r == LLM_OK && position == s->size && w.last == s->size, "%s at %zu", llm_result_name(r), position);
    CHECK(w.calls == llm__pieces(s->size) && pieces_read(s) == w.calls && most_reads(s) == 1 && steps > 1,
          "%zu calls, %zu steps", w.calls, steps);
    position = s->size + 1;
    (void)snprintf(message, sizeof message, "prefetch: position is %zu, not in 0 .. %zu", position, s->size);
    CHECK(llm_model_prefetch(model, &d) == LLM_ERROR_ARGUMENT && !strcmp(error.text, message), "%s", error.text);
    s->fail_all = true;
    session = session_of(model, NULL);
    CHECK(!llm_eval(session, ids, TOKENS), "an evaluation reads what was brought in");
    check_bits(session, "brought in");
    llm_session_destroy(session);
    test_lock(model, s->size);
    llm_model_close(model);
    memset(&open, 0, sizeof open);
    open.data = s->data, open.size = s->size;
    CHECK(!llm_model_open(&model, &open), "memory");
    memset(&d, 0, sizeof d);
    d.huge = true;
    CHECK(!llm_model_prefetch(model, &d), "memory");
    test_lock(model, s->size);
    llm_model_close(model);
    model = fixture_open("llama-tied", "q8"); /* a map */
    CHECK(!llm_model_prefetch(model, &d), "a map");
    test_lock(model, model->size);
    llm_model_close(model);
}

int main(int count, char **arguments) {
    static const char *const names[] = {"llama-odd", "gemma-pattern", "bitnet"};
    llm_pool_desc p;
    llm_pool *pool;
    size_t i;
    fixture_arguments(count, arguments);
    memset(&p, 0, sizeof p);
    p.threads = 3;
    if (llm_pool_create(&pool, &p)) return 1;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        source s = spread(names[i], i ? "q4" : "f32");
        fixture_ids(names[i], ids);
        make_reference(&s);
        test_lazy(&s);
        test_failures(&s, NULL), test_failures(&s, pool);
        test_steps(&s);
        test_batch(&s);
        test_two_threads(&s);
        test_open(&s);
        test_prefetch(&s);
        free((void *)(uintptr_t)s.data), free(want);
    }
    test_sections_apart();
    llm_pool_destroy(pool);
    return check_report("read");
}
