/* A game's own job system runs the model: lanes of an evaluation are jobs like any other, between
   those of the game. Nothing here is the library's but one callback, parallel_for. */
#include "options.h"
#if !defined(_WIN32)
#include <pthread.h>
#endif

static const char *model_path, *prompt = "The sky is blue because";
static uint32_t most_tokens = 48, threads = 2, game_jobs = 4, rounds = 5;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"-p", OPTION_TEXT, &prompt, "TEXT", "what to continue", false},
    {"-n", OPTION_COUNT, &most_tokens, "N", "at most N tokens (default 48)", false},
    {"-t", OPTION_COUNT, &threads, "N", "threads of the job system, all in all (default 2)", false},
    {"-g", OPTION_COUNT, &game_jobs, "N", "jobs of the game in every frame (default 4)", false},
    {"-r", OPTION_COUNT, &rounds, "N", "rounds of measuring (default 5; 0: none)", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {
    "jobs",
    "Continues a text with the threads of a game, frame by frame, and measures that beside the\n"
    "library's own threads. The text goes to standard output, everything else to standard error.",
    "Speed: medians of the rounds.", options};

/* ---- the job system: a queue, workers, and groups of jobs to wait for ---- */

#if defined(_WIN32)
typedef CRITICAL_SECTION mutex;
typedef CONDITION_VARIABLE condition;
typedef HANDLE thread;
#define mutex_start(m)       InitializeCriticalSection(m)
#define mutex_lock(m)        EnterCriticalSection(m)
#define mutex_unlock(m)      LeaveCriticalSection(m)
#define condition_start(c)   InitializeConditionVariable(c)
#define condition_wait(c, m) (void)SleepConditionVariableCS(c, m, INFINITE)
#define condition_wake(c)    WakeAllConditionVariable(c)
#else
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
typedef pthread_t thread;
#define mutex_start(m)       (void)pthread_mutex_init(m, NULL)
#define mutex_lock(m)        (void)pthread_mutex_lock(m)
#define mutex_unlock(m)      (void)pthread_mutex_unlock(m)
#define condition_start(c)   (void)pthread_cond_init(c, NULL)
#define condition_wait(c, m) (void)pthread_cond_wait(c, m)
#define condition_wake(c)    (void)pthread_cond_broadcast(c)
#endif

enum { QUEUE = 256, MOST_WORKERS = 64 };

typedef struct job {
    void (*work)(void *context, uint32_t index);
    void *context;
    uint32_t index;
    uint32_t *left; /* jobs of its group that are not done */
} job;

typedef struct job_system {
    mutex lock; /* of all that follows */
    condition changed;
    job queue[QUEUE];
    uint32_t first, count, workers;
    uint64_t done;
    bool quit;
    thread worker[MOST_WORKERS];
} job_system;

/* Runs the oldest job; the caller holds the lock, and holds it again afterwards. */
static void run_one(job_system *s) {
    const job j = s->queue[s->first];
    s->first = (s->first + 1) % QUEUE, s->count--;
    mutex_unlock(&s->lock);
    j.work(j.context, j.index);
    mutex_lock(&s->lock);
    s->done++;
    if (--*j.left == 0) condition_wake(&s->changed);
}

/* Works until `*left` is 0, or to the end without it. With nothing to do it looks again for some 50
   microseconds, because falling asleep and waking up take as long. */
static void work_until(job_system *s, const uint32_t *left) {
    uint32_t looked = 0, i;
    mutex_lock(&s->lock);
    while (left ? *left > 0 : !s->quit) {
        if (s->count) {
            run_one(s);
            looked = 0;
        } else if (looked++ < 100) {
            mutex_unlock(&s->lock);
            for (i = 0; i < 32; i++) llm__relax();
            mutex_lock(&s->lock);
        } else {
            condition_wait(&s->changed, &s->lock);
        }
    }
    mutex_unlock(&s->lock);
}

/* Puts jobs 0 .. count - 1 of a group behind those that wait. A full queue makes room by working. */
static void add_jobs(job_system *s, void (*work)(void *, uint32_t), void *context, uint32_t count,
                     uint32_t *left) {
    uint32_t i;
    mutex_lock(&s->lock);
    *left += count;
    for (i = 0; i < count; i++) {
        job *j;
        while (s->count == QUEUE) run_one(s);
        j = &s->queue[(s->first + s->count++) % QUEUE];
        j->work = work, j->context = context, j->index = i, j->left = left;
    }
    condition_wake(&s->changed);
    mutex_unlock(&s->lock);
}

#if defined(_WIN32)
static DWORD WINAPI start(void *s) { return work_until((job_system *)s, NULL), 0; }
static bool start_thread(thread *t, job_system *s) {
    return (*t = CreateThread(NULL, 0, start, s, 0, NULL)) != NULL;
}
static void join_thread(thread t) { (void)WaitForSingleObject(t, INFINITE), CloseHandle(t); }
#else
static void *start(void *s) { return work_until((job_system *)s, NULL), NULL; }
static bool start_thread(thread *t, job_system *s) { return !pthread_create(t, NULL, start, s); }
static void join_thread(thread t) { (void)pthread_join(t, NULL); }
#endif

static void start_jobs(job_system *s, uint32_t workers) {
    memset(s, 0, sizeof *s);
    mutex_start(&s->lock), condition_start(&s->changed);
    for (; s->workers < workers && s->workers < MOST_WORKERS; s->workers++)
        if (!start_thread(&s->worker[s->workers], s)) fail(EXIT_FAILED, "a thread did not start");
}
static void stop_jobs(job_system *s) {
    mutex_lock(&s->lock);
    s->quit = true;
    condition_wake(&s->changed);
    mutex_unlock(&s->lock);
    while (s->workers) join_thread(s->worker[--s->workers]);
}

/* ---- what the library gets ---- */

/* Lanes are jobs. One that starts late finds less to do, one that starts too late finds nothing. */
static void parallel_for(void *user, void (*work)(void *context, uint32_t index), void *context,
                         uint32_t count) {
    uint32_t left = 0;
    add_jobs((job_system *)user, work, context, count, &left);
    work_until((job_system *)user, &left);
}

/* ---- what the game does ---- */

#define PARTICLES 20000u
static float particles[64][PARTICLES];

static void move_particles(void *context, uint32_t index) {
    float *x = particles[index % 64];
    uint32_t i;
    (void)context;
    for (i = 0; i < PARTICLES; i++) x[i] = x[i] * 0.99f + 0.01f * (float)(i % 7);
}

static int32_t most_likely(const llm_session *session, uint32_t vocab) {
    const float *logits = llm_session_logits(session, 0);
    uint32_t i, best = 0;
    for (i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* A frame: the game's jobs, a few milliseconds of the model, and both are waited for. */
static void play(job_system *s, llm_session *session, const int32_t *ids, size_t count) {
    const llm_tokenizer *t = llm_model_tokenizer(llm_session_model(session));
    llm_tokenizer_info info;
    const uint64_t before = s->done;
    const double began = seconds();
    uint32_t frames = 0, tokens = 0, left = 0;
    llm_tokenizer_describe(t, &info);
    CHECKED(llm_session_feed(session, ids, count), llm_session_error(session));
    while (tokens < most_tokens) {
        llm_result r;
        int32_t id;
        if (game_jobs) add_jobs(s, move_particles, NULL, game_jobs, &left);
        r = llm_step(session, 4000);
        work_until(s, &left);
        frames++;
        if (r == LLM_PENDING) continue;
        CHECKED(r, llm_session_error(session));
        id = most_likely(session, info.vocab_size);
        if (llm_token_is_end(t, id) || ++tokens == most_tokens) break;
        (void)fwrite(llm_token_bytes(t, id).data, 1, llm_token_bytes(t, id).size, stdout);
        (void)fflush(stdout);
        CHECKED(llm_session_feed(session, &id, 1), llm_session_error(session));
    }
    (void)fputc('\n', stdout);
    (void)fprintf(stderr, "%u tokens in %u frames and %.2f s, %llu jobs\n", (unsigned)tokens,
                  (unsigned)frames, seconds() - began, (unsigned long long)(s->done - before));
}

/* ---- beside the library's own threads ---- */

enum { PREFILL = 128, DECODE = 32, MOST_ROUNDS = 101 };

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *values, uint32_t n) {
    qsort(values, n, sizeof *values, by_size);
    return values[n / 2];
}

/* Tokens a second of a prompt, and of tokens one by one. */
static void measure(llm_session *session, const int32_t *ids, size_t count, double *prefill,
                    double *decode) {
    int32_t text[PREFILL + DECODE];
    double began;
    size_t i;
    for (i = 0; i < PREFILL + DECODE; i++) text[i] = ids[i % count];
    CHECKED(llm_session_rewind(session, 0), llm_session_error(session));
    began = seconds();
    CHECKED(llm_eval(session, text, PREFILL), llm_session_error(session));
    *prefill = PREFILL / (seconds() - began);
    began = seconds();
    for (i = PREFILL; i < PREFILL + DECODE; i++)
        CHECKED(llm_eval(session, text + i, 1), llm_session_error(session));
    *decode = DECODE / (seconds() - began);
}

static void compare(llm_session *jobs, llm_session *own, const int32_t *ids, size_t count,
                    uint32_t vocab) {
    static double prefill[2][MOST_ROUNDS], decode[2][MOST_ROUNDS];
    double p[2], d[2];
    uint32_t r, n = rounds < MOST_ROUNDS ? rounds : MOST_ROUNDS;
    for (r = 0; r < n; r++) {
        measure(r % 2 ? own : jobs, ids, count, &prefill[r % 2][r], &decode[r % 2][r]);
        measure(r % 2 ? jobs : own, ids, count, &prefill[1 - r % 2][r], &decode[1 - r % 2][r]);
    }
    for (r = 0; r < 2; r++) p[r] = median(prefill[r], n), d[r] = median(decode[r], n);
    (void)fprintf(stderr, "tokens/s     prefill    decode\nthese jobs  %8.1f  %8.1f\n", p[0], d[0]);
    (void)fprintf(stderr, "own pool    %8.1f  %8.1f\n", p[1], d[1]);
    (void)fprintf(stderr, "ratio       %8.3f  %8.3f\n", p[0] / p[1], d[0] / d[1]);
    if (memcmp(llm_session_logits(jobs, 0), llm_session_logits(own, 0), vocab * sizeof(float)))
        fail(EXIT_FAILED, "the logits differ");
}

static llm_session *make_session(const llm_model *model, llm_pool *pool) {
    llm_session_desc d;
    llm_session *session;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.error = &error;
    CHECKED(llm_session_create(&session, &d), &error);
    return session;
}

int main(int argc, char **argv) {
    static job_system jobs;
    llm_pool *pool, *own_pool;
    llm_pool_desc d;
    llm_model *model;
    llm_session *session;
    llm_model_info info;
    llm_error error;
    int32_t *ids;
    size_t count;
    parse_options(&self, argc, argv);
    if (threads < 1 || threads > MOST_WORKERS)
        fail(EXIT_USAGE, "jobs: -t %u, not in 1 .. %d", (unsigned)threads, MOST_WORKERS);
    model = open_model(model_path);
    llm_model_get_info(model, &info);
    ids = tokenize(model, llm_string(prompt), false, 0, -1, &count);
    if (!count) fail(EXIT_USAGE, "jobs: the prompt is empty");
    start_jobs(&jobs, threads - 1);
    memset(&d, 0, sizeof d);
    d.threads = threads, d.parallel_for = parallel_for, d.user = &jobs, d.error = &error;
    CHECKED(llm_pool_create(&pool, &d), &error);
    session = make_session(model, pool);
    play(&jobs, session, ids, count);
    if (rounds) {
        llm_session *own;
        own_pool = make_pool(threads);
        own = make_session(model, own_pool);
        compare(session, own, ids, count, info.vocab);
        llm_session_destroy(own);
        llm_pool_destroy(own_pool);
    }
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    stop_jobs(&jobs);
    free(ids);
    llm_model_close(model);
    return finish(&self);
}
