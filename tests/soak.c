/* A long life: models, sessions, forks, batches, chats and pools come and go at random until so many
   tokens are evaluated. Now and then all is closed: the allocator must balance to the byte, and memory,
   handles, threads and maps of the process be what they were.

   soak FOLDER TOKENS [SEED] */
#include "faults.h"
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include <dirent.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define MODELS      3u
#define SESSIONS    6u
#define CONTEXT     200u
#define CHECKPOINTS 20u
#define SLACK_KB    256L /* by which resident memory may exceed that of the first checkpoints */

static uint64_t state;
static uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

typedef struct place {
    llm_session *session;
    uint32_t model;
    llm_kv kv;
    bool pooled, batch_only;
    llm_chat *chat;
} place;

static llm_model *models[MODELS];
static place places[SESSIONS];
static llm_pool *pool;
static void *files[MODELS]; /* of models that are read in pieces */
static uint64_t tokens, compared, opened, forks, batches, answers, refusals, cancels;

static llm_allocator counting(void) {
    llm_allocator a;
    memset(&a, 0, sizeof a);
    a.allocate = fault_allocate, a.release = fault_release;
    return a;
}
static void must(llm_result r, const llm_error *error, const char *what) {
    CHECK(r == LLM_OK, "%s: %s: %s", what, llm_result_name(r), error ? error->text : "");
}
static void note(llm_session *s, uint32_t before) {
    const uint32_t now = llm_session_position(s);
    if (now > before) tokens += now - before;
}

/* ---- things come and go ---- */

static bool read_file(void *user, uint64_t offset, void *to, size_t size) {
    memcpy(to, (const char *)user + offset, size);
    return true;
}

static void open_model(uint32_t m) {
    static const char *const types[] = {"q8", "q6", "q5", "q4", "q3", "q2", "bf16"};
    const char *path = fixture_model_path(fixture_names[below(FIXTURES)], types[below(6)]);
    llm_model_desc d;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.allocator = counting(), d.error = &error, d.verify = below(4) == 0;
    if (below(3)) d.path = path;
    else d.read = read_file, d.read_user = files[m] = fixture_read(path, &d.size);
    must(llm_model_open(&models[m], &d), &error, "open");
    opened++;
}
static void close_place(place *p) {
    llm_chat_destroy(p->chat);
    llm_session_destroy(p->session);
    memset(p, 0, sizeof *p);
}
static void close_model(uint32_t m) {
    uint32_t i;
    for (i = 0; i < SESSIONS; i++)
        if (places[i].session && places[i].model == m) close_place(&places[i]);
    llm_model_close(models[m]);
    free(files[m]);
    models[m] = NULL, files[m] = NULL;
}
static void open_session(place *p) {
    llm_session_desc d;
    llm_error error;
    memset(&d, 0, sizeof d);
    p->model = below(MODELS);
    if (!models[p->model]) open_model(p->model);
    p->kv = (llm_kv)below(LLM_KV_COUNT), p->pooled = below(2), p->batch_only = below(6) == 0;
    d.model = models[p->model], d.context = CONTEXT, d.rows = 1 + below(40), d.kv = p->kv;
    d.spare = below(3) * 200, d.pool = p->pooled ? pool : NULL, d.batch_only = p->batch_only;
    d.allocator = counting(), d.error = &error;
    must(llm_session_create(&p->session, &d), &error, "session");
}
static void fork_session(place *from, place *to) {
    *to = *from;
    to->chat = NULL;
    must(llm_session_fork(&to->session, from->session), llm_session_error(from->session), "fork");
    forks++;
}
static void renew_pool(void) {
    llm_pool_desc d;
    uint32_t i;
    for (i = 0; i < SESSIONS; i++)
        if (places[i].session && places[i].pooled) close_place(&places[i]);
    llm_pool_destroy(pool);
    memset(&d, 0, sizeof d);
    d.threads = 3, d.allocator = counting();
    must(llm_pool_create(&pool, &d), NULL, "pool");
}
static void close_all(void) {
    uint32_t i;
    for (i = 0; i < SESSIONS; i++) close_place(&places[i]);
    for (i = 0; i < MODELS; i++) close_model(i);
    llm_pool_destroy(pool);
    pool = NULL;
}

/* ---- what they do ---- */

static uint32_t some_ids(const place *p, int32_t ids[64], uint32_t most) {
    uint32_t i, count = 1 + below(below(3) ? 8 : most);
    for (i = 0; i < count; i++) ids[i] = (int32_t)below(fixture_vocab(models[p->model]));
    return count;
}

/* Feeds and steps; full and bad ids are refused, cancelling drops what was fed. */
static void evaluate(place *p) {
    llm_session *s = p->session;
    int32_t ids[64];
    uint32_t before = llm_session_position(s), count = some_ids(p, ids, 64);
    llm_result r;
    if (below(40) == 0) ids[count - 1] = -1;
    r = llm_session_feed(s, ids, count);
    if (ids[count - 1] < 0) CHECK(r == LLM_ERROR_ARGUMENT || r == LLM_ERROR_CONTEXT_FULL, "a bad id: %s", llm_result_name(r));
    else CHECK(r == LLM_OK || r == LLM_ERROR_CONTEXT_FULL, "feed: %s", llm_result_name(r));
    if (r) {
        refusals++;
        must(llm_session_rewind(s, below(before + 1)), llm_session_error(s), "rewind");
        return;
    }
    if (below(30) == 0) llm_session_cancel(s);
    do r = llm_step(s, below(3) ? 0 : 1 + below(50));
    while (r == LLM_PENDING && below(50));
    if (r == LLM_CANCELLED) cancels++;
    else if (r == LLM_PENDING) must(llm_session_rewind(s, llm_session_position(s)), llm_session_error(s), "drop");
    else must(r, llm_session_error(s), "step");
    note(s, before);
}

static void evaluate_batch(void) {
    llm_batch_desc d;
    llm_batch *b;
    llm_error error;
    int32_t ids[64];
    uint32_t before[SESSIONS], i, first = below(SESSIONS);
    bool added[SESSIONS] = {false};
    place *p = &places[first];
    memset(&d, 0, sizeof d);
    if (!p->session) return;
    d.model = models[p->model], d.kv = p->kv, d.rows = 64, d.logits = 8, d.pool = below(2) ? pool : NULL;
    d.allocator = counting(), d.error = &error;
    must(llm_batch_create(&b, &d), &error, "batch");
    for (i = 0; i < SESSIONS; i++) {
        place *q = &places[i];
        if (!q->session || q->model != p->model || q->kv != p->kv) continue;
        before[i] = llm_session_position(q->session);
        if (llm_batch_add(b, q->session, ids, some_ids(q, ids, 20), 1)) refusals++;
        else added[i] = true;
    }
    if (below(10)) must(llm_batch_step(b, 0), llm_batch_error(b), "batch");
    else (void)llm_batch_step(b, 1); /* and dropped */
    llm_batch_destroy(b);
    for (i = 0; i < SESSIONS; i++)
        if (added[i]) note(places[i].session, before[i]);
    batches++;
}

static void talk(place *p) {
    llm_chat_desc d;
    llm_error error;
    llm_text piece;
    llm_result r;
    size_t count;
    uint32_t before;
    if (p->batch_only) return;
    if (!p->chat) {
        memset(&d, 0, sizeof d);
        d.session = p->session, d.max_tokens = 1 + below(12), d.sampler.temperature = 1.0f, d.sampler.seed = below(99);
        d.system = llm_string("x"), d.template_text = llm_string("{% for m in messages %}{{ m.role[0] ~ m.content }}\n{% endfor %}");
        d.allocator = counting(), d.error = &error;
        must(llm_chat_create(&p->chat, &d), &error, "chat");
    }
    r = llm_chat_say(p->chat, llm_string(below(2) ? "hello you" : "the rain"));
    if (r == LLM_ERROR_CONTEXT_FULL) {
        refusals++;
        (void)llm_chat_messages(p->chat, &count);
        if (count > 1) must(llm_chat_forget(p->chat, (count - 1) / 2 + 1 > count - 1 ? count - 1 : (count - 1) / 2 + 1),
                            llm_chat_error(p->chat), "forget");
        else llm_chat_destroy(p->chat), p->chat = NULL;
        return;
    }
    must(r, llm_chat_error(p->chat), "say");
    do {
        before = llm_session_position(p->session);
        r = llm_chat_next(p->chat, below(4) ? 0 : 40, &piece);
        note(p->session, before);
    } while ((r == LLM_PENDING || (r == LLM_OK && piece.size)) && below(60));
    CHECK(r == LLM_OK || r == LLM_PENDING, "next: %s", llm_result_name(r));
    llm_chat_stop(p->chat);
    answers++;
}

/* A session's last logits are those of its tokens in a fresh session at once. */
static void compare(const place *p) {
    llm_session_desc d;
    llm_session *fresh;
    uint32_t count = llm_session_position(p->session);
    const float *logits = llm_session_logits(p->session, 0);
    if (!logits) return;
    memset(&d, 0, sizeof d);
    d.model = models[p->model], d.context = CONTEXT, d.kv = p->kv, d.allocator = counting();
    must(llm_session_create(&fresh, &d), NULL, "session");
    must(llm_eval(fresh, llm_session_tokens(p->session), count), llm_session_error(fresh), "eval");
    CHECK(!memcmp(logits, llm_session_logits(fresh, 0), fixture_vocab(models[p->model]) * sizeof *logits),
          "other bits after %u tokens", count);
    tokens += count, compared++;
    llm_session_destroy(fresh);
}

static void act(void) {
    place *p = &places[below(SESSIONS)], *q = &places[below(SESSIONS)];
    const uint32_t what = below(100);
    if (!p->session) open_session(p);
    else if (what < 55) p->batch_only ? evaluate_batch() : evaluate(p);
    else if (what < 65) must(llm_session_rewind(p->session, below(llm_session_position(p->session) + 1)),
                             llm_session_error(p->session), "rewind");
    else if (what < 73) evaluate_batch();
    else if (what < 80) talk(p);
    else if (what < 86 && !q->session) fork_session(p, q);
    else if (what < 92) close_place(p);
    else if (what < 95) compare(p);
    else if (what < 97) close_model(p->model);
    else if (what < 98) renew_pool();
}

/* ---- what the process holds ---- */

typedef struct holding {
    long resident; /* KB */
    unsigned handles, threads, maps;
} holding;

static unsigned entries(const char *path) {
    unsigned count = 0;
    DIR *d = opendir(path);
    while (d && readdir(d)) count++;
    if (d) (void)closedir(d);
    return count;
}
static holding look(void) {
    holding h;
    long total = 0, pages = 0;
    int c, tries;
    FILE *f = fopen("/proc/self/maps", "r");
#if defined(__GLIBC__)
    (void)malloc_trim(0); /* what free() keeps back is not the library's */
#endif
    for (h.maps = 0; f && (c = getc(f)) != EOF;) h.maps += c == '\n';
    if (f) (void)fclose(f);
    f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &total, &pages) != 2) pages = 0;
    if (f) (void)fclose(f);
    h.resident = pages * (sysconf(_SC_PAGESIZE) / 1024);
    h.handles = entries("/proc/self/fd");
    for (tries = 0; (h.threads = entries("/proc/self/task")) > 3 && tries < 500; tries++) (void)usleep(1000);
    return h; /* 3: ., .. and this one; a joined thread fades */
}

int main(int count, char **arguments) {
    uint64_t wanted = count > 2 ? strtoull(arguments[2], NULL, 10) : 5000, begin = llm__now();
    holding first = {0, 0, 0, 0}, now = first;
    long most = 0;
    uint32_t i;
    fixture_arguments(count, arguments);
    state = count > 3 ? strtoull(arguments[3], NULL, 10) : 1;
    for (i = 1; i <= CHECKPOINTS && !check_failed; i++) {
        renew_pool();
        while (tokens < wanted * i / CHECKPOINTS && check_failed < 20) act();
        close_all();
        CHECK(faults_balanced(), "checkpoint %u: %zu blocks, %zu bytes are left, or a wrong size", i, faults.blocks, faults.live);
        now = look();
        most = now.resident > most ? now.resident : most;
        if (i <= CHECKPOINTS / 4) { /* until then buffers of the C library and stacks fill */
            if (first.resident > now.resident) now.resident = first.resident;
            first = now;
        }
        CHECK(now.threads == 3, "checkpoint %u: %u threads", i, now.threads - 2);
        CHECK(now.handles == first.handles, "checkpoint %u: %u handles, there were %u", i, now.handles, first.handles);
        CHECK(now.maps <= first.maps + 2, "checkpoint %u: %u maps, there were %u", i, now.maps, first.maps);
        CHECK(now.resident <= first.resident + SLACK_KB, "checkpoint %u: %ld KB resident, there were %ld", i, now.resident,
              first.resident);
    }
    CHECK(compared && forks && batches && answers && refusals && cancels, "something never happened");
    printf("%llu tokens, %llu models, %llu forks, %llu batches, %llu answers, %llu refusals, %llu cancelled, "
           "%llu compared; %zu allocations; %.1f s\n",
           (unsigned long long)tokens, (unsigned long long)opened, (unsigned long long)forks, (unsigned long long)batches,
           (unsigned long long)answers, (unsigned long long)refusals, (unsigned long long)cancels,
           (unsigned long long)compared, faults.memory.calls, (double)(llm__now() - begin) / 1e6);
    printf("resident %ld KB at a quarter, %ld at the end, at most %ld; %u handles, %u maps\n", first.resident, now.resident,
           most, now.handles - 3, now.maps);
    return check_report("soak");
}
