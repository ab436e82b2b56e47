/* Evaluates token ids and prints a hash of all logits: the same for every way to do it.

       bits MODEL.llm IDS.txt [--count N] [--isa NAME] [--threads N] [--kv q8|f16|q4] [--chunk whole|one|SEED]
            [--with N] [--budget MICROSECONDS] [--host] [--out FILE.f32] [--kv-out FILE.f16]

   IDS.txt holds ids separated by blanks. --chunk SEED feeds random pieces, --with N puts the tokens
   into a batch together with N other sessions, --host uses a parallel_for that runs lanes backwards,
   --out writes the logits, f32 [position][vocab]; --kv-out, of a session alone with --kv f16, what lies
   in the cache at the end, 16-bit floats: keys [layer][position][kv head][channel], then values. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define LLM_IMPLEMENTATION
#include "../llm.h"

#define MOST_TOKENS 1024
#define MOST_OTHERS 8u

typedef struct options {
    const char *model, *ids, *isa, *chunk, *out, *kv_out;
    long count, threads, with, budget;
    bool host;
    llm_kv kv;
} options;

typedef struct job {
    options o;
    llm_model *model;
    llm_pool *pool;
    int32_t ids[MOST_TOKENS];
    uint32_t count, vocab;
    uint64_t hash, random;
    FILE *out;
} job;

static int fail(const char *what, const char *why) {
    fprintf(stderr, "bits: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 2;
}

static int parse_options(options *o, int count, char **arguments) {
    int i;
    memset(o, 0, sizeof *o);
    o->chunk = "whole", o->count = MOST_TOKENS, o->threads = 1;
    for (i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (name[0] != '-') {
            if (o->model) o->ids = name;
            else o->model = name;
            continue;
        }
        if (!strcmp(name, "--host")) {
            o->host = true;
            continue;
        }
        if (!value) return fail(name, "no value");
        i++;
        if (!strcmp(name, "--isa")) o->isa = value;
        else if (!strcmp(name, "--chunk")) o->chunk = value;
        else if (!strcmp(name, "--out")) o->out = value;
        else if (!strcmp(name, "--kv-out")) o->kv_out = value;
        else if (!strcmp(name, "--count")) o->count = atol(value);
        else if (!strcmp(name, "--threads")) o->threads = atol(value);
        else if (!strcmp(name, "--with")) o->with = atol(value);
        else if (!strcmp(name, "--budget")) o->budget = atol(value);
        else if (!strcmp(name, "--kv")) o->kv = !strcmp(value, "f16") ? LLM_KV_F16 : !strcmp(value, "q4") ? LLM_KV_Q4 : LLM_KV_Q8;
        else return fail(name, "unknown option");
    }
    if (o->with < 0 || o->with > (long)MOST_OTHERS) return fail("--with", "0 .. 8");
    if (o->kv_out && (o->kv != LLM_KV_F16 || o->with)) return fail("--kv-out", "wants --kv f16, and no --with");
    return o->model && o->ids ? 0 : fail("MODEL.llm IDS.txt wanted", NULL);
}

static int read_ids(job *j) {
    FILE *file = fopen(j->o.ids, "r");
    int id;
    if (!file) return fail(j->o.ids, "cannot be read");
    while (j->count < MOST_TOKENS && (long)j->count < j->o.count && fscanf(file, "%d", &id) == 1)
        j->ids[j->count++] = id;
    fclose(file);
    return j->count ? 0 : fail(j->o.ids, "no ids");
}

static void backwards(void *user, void (*work)(void *context, uint32_t index), void *context,
                      uint32_t count) {
    (void)user;
    while (count--) work(context, count);
}

/* Adds `rows` rows of logits, the oldest first, to the hash. */
static bool take_logits(job *j, const llm_batch *batch, const llm_session *session, uint32_t rows) {
    while (rows--) {
        const float *logits = batch ? llm_batch_logits(batch, session, rows)
                                    : llm_session_logits(session, rows);
        if (!logits) return false;
        j->hash = (j->hash << 1 | j->hash >> 63) ^ llm__xxh64(logits, j->vocab * sizeof(float));
        if (j->out && fwrite(logits, sizeof(float), j->vocab, j->out) != j->vocab) return false;
    }
    return true;
}

static uint32_t next_piece(job *j, uint32_t left) {
    uint32_t most = left < 64 ? left : 64;
    if (!strcmp(j->o.chunk, "whole")) return most;
    if (!strcmp(j->o.chunk, "one")) return 1;
    j->random = j->random * 6364136223846793005u + 1442695040888963407u;
    return 1 + (uint32_t)(j->random >> 40) % (most < 17 ? most : 17);
}

static void describe_session(job *j, llm_session_desc *d, llm_error *error) {
    memset(d, 0, sizeof *d);
    d->model = j->model, d->pool = j->pool, d->kv = j->o.kv, d->isa = j->o.isa;
    d->context = j->count, d->rows = 64, d->logits = 64, d->error = error;
}

/* A key's channels lie 16 positions apart, a value's side by side. */
static bool write_head(FILE *file, const llm_session *s, uint32_t layer, uint32_t t, uint32_t kv_head, bool values) {
    const llm__unit u = llm__unit_at(s, t / LLM__PAGE_POSITIONS, layer, kv_head);
    const llm__file_desc *d = s->model->desc;
    const uint16_t *at = (const uint16_t *)(const void *)(values ? u.v : u.k);
    const uint32_t in_page = t % LLM__PAGE_POSITIONS;
    uint16_t head[512];
    uint32_t c, n = values ? d->value_size : d->head_size;
    for (c = 0; c < n; c++)
        head[c] = values ? at[in_page * s->shape.value + c]
                         : at[(in_page / 16 * s->shape.head + c) * 16 + in_page % 16];
    return fwrite(head, sizeof *head, n, file) == n;
}

static int write_cache(const job *j, const llm_session *s) {
    const llm__file_desc *d = s->model->desc;
    FILE *file = fopen(j->o.kv_out, "wb");
    uint32_t values, layer, t, h;
    bool good = file != NULL;
    for (values = 0; values < 2; values++)
        for (layer = 0; layer < d->layers; layer++)
            for (t = 0; t < s->position; t++)
                for (h = 0; h < d->kv_heads; h++) good = good && write_head(file, s, layer, t, h, values == 1);
    if (file && fclose(file)) good = false;
    return good ? 0 : fail(j->o.kv_out, "cannot be written");
}

/* Alone. */
static int run_session(job *j) {
    llm_session_desc d;
    llm_error error;
    llm_session *s;
    uint32_t at, piece;
    llm_result r;
    int status = 0;
    describe_session(j, &d, &error);
    if (llm_session_create(&s, &d)) return fail("session", error.text);
    for (at = 0; at < j->count && !status; at += piece) {
        piece = next_piece(j, j->count - at);
        r = llm_session_feed(s, j->ids + at, piece);
        while (!r && (r = llm_step(s, (uint64_t)j->o.budget)) == LLM_PENDING) r = LLM_OK;
        if (r) status = fail("step", llm_session_error(s)->text);
        else if (!take_logits(j, NULL, s, piece)) status = fail("logits", "missing, or not written");
    }
    if (!status && j->o.kv_out) status = write_cache(j, s);
    llm_session_destroy(s);
    return status;
}

/* In a batch: between the others, which are fed other tokens and move at their own pace. */
static int fill_batch(job *j, llm_batch *batch, llm_session **s, uint32_t at, uint32_t piece) {
    uint32_t others = (uint32_t)j->o.with, i;
    for (i = 0; i <= others; i++) {
        bool own = i == others / 2;
        uint32_t count = own ? piece : 1 + (i + at) % 3;
        const int32_t *ids = own ? j->ids + at : j->ids + (at + 5 * i) % (j->count - (j->count > 3 ? 3 : 0));
        if (count > j->count) count = j->count;
        if (!own && llm_session_position(s[i]) + count > llm_session_context(s[i]) &&
            llm_session_rewind(s[i], 0))
            return fail("rewind", llm_session_error(s[i])->text);
        if (llm_batch_add(batch, s[i], ids, count, own ? count : i % 2))
            return fail("add", llm_batch_error(batch)->text);
    }
    return 0;
}

static int run_pieces(job *j, llm_batch *batch, llm_session **s) {
    uint32_t at, piece, own = (uint32_t)j->o.with / 2;
    int status = 0;
    llm_result r = LLM_OK;
    for (at = 0; at < j->count && !status; at += piece) {
        piece = next_piece(j, j->count - at);
        if ((status = fill_batch(j, batch, s, at, piece)) != 0) break;
        while ((r = llm_batch_step(batch, (uint64_t)j->o.budget)) == LLM_PENDING) continue;
        if (r) status = fail("step", llm_batch_error(batch)->text);
        else if (!take_logits(j, batch, s[own], piece)) status = fail("logits", "missing, or not written");
    }
    return status;
}

static int run_batch(job *j) {
    llm_session_desc d;
    llm_batch_desc b;
    llm_error error;
    llm_session *s[MOST_OTHERS + 1];
    llm_batch *batch;
    uint32_t i;
    int status = 0;
    memset(&b, 0, sizeof b);
    memset(s, 0, sizeof s);
    b.model = j->model, b.pool = j->pool, b.kv = j->o.kv, b.isa = j->o.isa, b.error = &error;
    b.rows = 64 + 3 * MOST_OTHERS, b.logits = 64 + MOST_OTHERS;
    if (llm_batch_create(&batch, &b)) return fail("batch", error.text);
    describe_session(j, &d, &error);
    d.batch_only = true;
    for (i = 0; i <= (uint32_t)j->o.with && !status; i++)
        if (llm_session_create(&s[i], &d)) status = fail("session", error.text);
    if (!status) status = run_pieces(j, batch, s);
    llm_batch_destroy(batch);
    for (i = 0; i <= MOST_OTHERS; i++) llm_session_destroy(s[i]);
    return status;
}

static int run(job *j) {
    llm_model_desc m;
    llm_pool_desc p;
    llm_model_info info;
    llm_error error;
    int status;
    memset(&m, 0, sizeof m), memset(&p, 0, sizeof p);
    m.path = j->o.model, m.error = &error;
    p.threads = (uint32_t)j->o.threads, p.parallel_for = j->o.host ? backwards : NULL, p.error = &error;
    if (llm_model_open(&j->model, &m)) return fail(j->o.model, error.text);
    if (llm_pool_create(&j->pool, &p)) status = fail("pool", error.text);
    else {
        llm_model_get_info(j->model, &info);
        j->vocab = info.vocab;
        status = j->o.with ? run_batch(j) : run_session(j);
    }
    llm_pool_destroy(j->pool);
    llm_model_close(j->model);
    return status;
}

int main(int count, char **arguments) {
    static job j;
    int status = parse_options(&j.o, count, arguments);
    if (status || (status = read_ids(&j)) != 0) return status;
    j.random = (uint64_t)atol(j.o.chunk) + 1;
    if (j.o.out && !(j.out = fopen(j.o.out, "wb"))) return fail(j.o.out, "cannot be written");
    status = run(&j);
    if (j.out && fclose(j.out)) status = fail(j.o.out, "cannot be written");
    if (!status) printf("%08lx%08lx\n", (unsigned long)(j.hash >> 32), (unsigned long)(j.hash & 0xffffffffu));
    return status;
}
