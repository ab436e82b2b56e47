/* Threads: eight sessions with one model and one pool, cancelled from outside; pools that end at every
   stage; processes that fork. Also runs under a thread sanitizer. */
#include "faults.h"
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include <signal.h>
#include <sys/wait.h>

#if defined(__SANITIZE_THREAD__)
#define RACES 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RACES 1
#endif
#endif
#ifndef RACES
#define RACES 0
#endif

#define USERS   8u
#define TOKENS  96u
#define ROUNDS  30u
#define SECONDS 60 /* after which a child counts as hanging */

static llm_model *model;
static uint32_t vocab;
static int32_t ids[TOKENS];
static float *want; /* [TOKENS][vocab] */

static llm_pool *pool_of(uint32_t threads) {
    llm_pool_desc d;
    llm_pool *pool;
    memset(&d, 0, sizeof d);
    d.threads = threads;
    if (llm_pool_create(&pool, &d)) printf("FAIL no pool of %u threads\n", threads), exit(1);
    return pool;
}
static llm_session *session_of(llm_pool *pool, llm_allocator allocator) {
    llm_session_desc d;
    llm_session *s;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.context = TOKENS, d.rows = 32, d.spare = 600, d.allocator = allocator;
    if (llm_session_create(&s, &d)) printf("FAIL no session\n"), exit(1);
    return s;
}
static llm_allocator plain(void) {
    llm_allocator a;
    return memset(&a, 0, sizeof a), a;
}
static bool right(const llm_session *s) {
    const float *logits = llm_session_logits(s, 0);
    return logits && !memcmp(logits, want + (size_t)(llm_session_position(s) - 1) * vocab, vocab * sizeof(float));
}

static void prepare(void) {
    llm_session *s = session_of(NULL, plain());
    uint32_t i;
    vocab = fixture_vocab(model);
    fixture_ids("llama-tied", ids);
    for (i = FIXTURE_TOKENS; i < TOKENS; i++) ids[i] = ids[i * 7 % FIXTURE_TOKENS];
    want = (float *)malloc((size_t)TOKENS * vocab * sizeof(float));
    for (i = 0; i < TOKENS; i++) {
        if (llm_eval(s, &ids[i], 1)) exit(1);
        memcpy(want + (size_t)i * vocab, llm_session_logits(s, 0), vocab * sizeof(float));
    }
    llm_session_destroy(s);
}

/* ---- eight sessions, one pool, one more thread that cancels ---- */

typedef struct user {
    llm_session *session;
    llm_tokenize_desc text;
    bool goes_on; /* until it has been cancelled */
    unsigned wrong, cancelled, done;
} user;

/* Feeds, steps, rewinds, forks and closes; all with the bits of one thread alone. */
static void *use(void *data) {
    user *u = (user *)data;
    int32_t some[64];
    size_t count;
    unsigned i;
    for (i = 0; i < ROUNDS || (u->goes_on && !u->cancelled && i < 1000 * ROUNDS); i++) {
        uint32_t at = llm_session_position(u->session), n = 1 + i % 9;
        llm_session *child = NULL;
        llm_result r = LLM_OK;
        if (at + n > TOKENS) r = llm_session_rewind(u->session, at = 20 + i % 20);
        if (!r && i % 4 == 3) r = llm_session_fork(&child, u->session);
        if (!r) r = llm_session_feed(u->session, ids + at, n);
        while (!r && (r = llm_step(u->session, i % 3 ? 0 : 30)) == LLM_PENDING) r = LLM_OK;
        if (r == LLM_CANCELLED ? llm_session_position(u->session) > at + n : r || !right(u->session)) u->wrong++;
        if (child && ((r = llm_eval(child, ids + at, 1)) == LLM_OK ? !right(child) : r != LLM_CANCELLED)) u->wrong++;
        llm_session_destroy(child);
        if (llm_tokenize(llm_model_tokenizer(model), &u->text, some, 64, &count)) u->wrong++;
        if (r == LLM_CANCELLED) u->cancelled++;
        else u->done++;
    }
    return NULL;
}

typedef struct canceller {
    user *users;
    uint32_t quit;
} canceller;
static void *cancel(void *data) {
    canceller *c = (canceller *)data;
    struct timespec pause = {0, 700000};
    unsigned i;
    for (i = 0; !llm__load32(&c->quit); i++) {
        llm_session_cancel(c->users[i % USERS / 2].session); /* half of them are left alone */
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

static void test_users(void) {
    llm_pool *pool = pool_of(3);
    user users[USERS];
    pthread_t thread[USERS], other;
    canceller c;
    unsigned i, cancelled = 0, done = 0;
    memset(users, 0, sizeof users);
    for (i = 0; i < USERS; i++) { /* forks of the first share its pages; the others stand alone */
        users[i].text.text = "in the evening", users[i].text.size = 14;
        if (i == 0 || i > 3) users[i].session = session_of(pool, plain());
        else CHECK(!llm_session_fork(&users[i].session, users[0].session), "fork %u", i);
        if (i == 0) CHECK(!llm_eval(users[0].session, ids, 30), "the shared past");
    }
    users[0].goes_on = true;
    c.users = users, c.quit = 0;
    for (i = 0; i < USERS; i++)
        if (pthread_create(&thread[i], NULL, use, &users[i])) exit(1);
    if (pthread_create(&other, NULL, cancel, &c)) exit(1);
    for (i = 0; i < USERS; i++) pthread_join(thread[i], NULL);
    llm__store32(&c.quit, 1);
    pthread_join(other, NULL);
    for (i = 0; i < USERS; i++) {
        CHECK(!users[i].wrong, "thread %u: %u rounds are wrong", i, users[i].wrong);
        CHECK(i < USERS / 2 || !users[i].cancelled, "thread %u was cancelled", i);
        cancelled += users[i].cancelled, done += users[i].done;
        llm_session_destroy(users[(i * 3) % USERS].session); /* in another order than they came */
    }
    CHECK(cancelled && done, "%u cancelled, %u done", cancelled, done);
    llm_pool_destroy(pool);
}

/* ---- pools that end at every stage ---- */

static void test_pool_ends(void) {
    llm_session *s;
    llm_pool *pool;
    uint32_t i, steps;
    for (i = 0; i < 40; i++) { /* its threads have hardly begun */
        pool = pool_of(2 + i % 4);
        if (i % 3 == 2) (void)usleep(300); /* they sleep */
        llm_pool_destroy(pool);
    }
    for (i = 0; i < 20; i++) { /* right after an evaluation, finished or not */
        pool = pool_of(3);
        s = session_of(pool, plain());
        CHECK(!llm_session_feed(s, ids, TOKENS), "%s", llm_session_error(s)->text);
        for (steps = 0; steps < i && llm_step(s, 1) == LLM_PENDING; steps++) {
        }
        if (i % 4 == 3) CHECK(!llm_step(s, 0) && right(s), "%s", llm_session_error(s)->text);
        llm_pool_destroy(pool);
        CHECK(!llm_session_rewind(s, 0) && !llm_session_position(s), "a session without its pool");
        llm_session_destroy(s);
    }
    for (i = 0; i < 20; i++) { /* the session first, in the middle of an evaluation */
        pool = pool_of(3);
        s = session_of(pool, plain());
        CHECK(!llm_session_feed(s, ids, TOKENS), "%s", llm_session_error(s)->text);
        (void)llm_step(s, 1 + i);
        llm_session_destroy(s);
        llm_pool_destroy(pool);
    }
}

/* ---- fork() ---- */

static uint32_t asked;
static void in_order(void *user, void (*work)(void *context, uint32_t index), void *context, uint32_t count) {
    uint32_t i;
    (void)user;
    asked += count;
    for (i = 0; i < count; i++) work(context, i);
}

/* A child that returns 0 in time. */
static void in_child(const char *what, int (*test)(llm_session *session, llm_pool *pool), llm_session *s, llm_pool *p) {
    int status = -1;
    pid_t child;
    (void)fflush(stdout);
    child = fork();
    if (child == 0) {
        (void)alarm(SECONDS);
        _exit(test(s, p));
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "%s: %s %d", what,
          WIFSIGNALED(status) ? "killed by signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : status >> 8);
}
/* Goes on where the parent is, makes and ends everything, also what it has from its parent. */
static int child_goes_on(llm_session *s, llm_pool *pool) {
    uint32_t at;
    llm_session *fresh, *child;
    while (llm_step(s, 20) == LLM_PENDING) {
    }
    at = llm_session_position(s);
    if (!right(s) || llm_eval(s, ids + at, 3) || !right(s)) return 1;
    if (llm_session_fork(&child, s) || llm_eval(child, ids + at + 3, 2) || !right(child)) return 2;
    fresh = session_of(pool, plain());
    if (llm_eval(fresh, ids, 40) || !right(fresh)) return 3;
    llm_session_destroy(fresh);
    llm_session_destroy(child);
    llm_session_destroy(s);
    llm_pool_destroy(pool);
#if !RACES
    pool = pool_of(3); /* and threads of its own */
    fresh = session_of(pool, plain());
    if (llm_eval(fresh, ids, 40) || !right(fresh)) return 4;
    llm_session_destroy(fresh);
    llm_pool_destroy(pool);
#endif
    llm_model_close(model);
    return 0;
}

static void fork_with(llm_pool *pool, const char *what) {
    llm_session *s = session_of(pool, plain());
    uint32_t stage;
    char text[64];
    for (stage = 0; stage < 3; stage++) {
        if (stage == 0) CHECK(!llm_eval(s, ids, 33), "an evaluation");
        if (stage == 1) CHECK(!llm_session_feed(s, ids + 33, 20), "tokens to come");
        if (stage == 2) (void)llm_step(s, 1); /* its threads are awake */
        (void)snprintf(text, sizeof text, "%s, stage %u", what, stage);
        in_child(text, child_goes_on, s, pool);
    }
    CHECK(!llm_step(s, 0) && llm_session_position(s) == 53 && right(s), "the parent");
    (void)usleep(2000); /* its threads sleep */
    in_child(what, child_goes_on, s, pool);
    CHECK(!llm_eval(s, ids + 53, 4) && right(s), "the parent after its children");
    llm_session_destroy(s);
}

/* A fork while another thread evaluates with the pool: the child leaves that session alone. */
static void *keep_evaluating(void *data) {
    canceller *c = (canceller *)data;
    while (!llm__load32(&c->quit)) {
        if (llm_session_rewind(c->users->session, 0) || llm_eval(c->users->session, ids, 40)) c->users->wrong++;
    }
    return NULL;
}
static void test_fork_in_between(llm_pool *pool) {
    canceller c;
    user u;
    pthread_t thread;
    llm_session *s = session_of(pool, plain());
    unsigned i;
    memset(&u, 0, sizeof u);
    u.session = session_of(pool, plain());
    c.users = &u, c.quit = 0;
    CHECK(!llm_eval(s, ids, 33), "an evaluation");
    if (pthread_create(&thread, NULL, keep_evaluating, &c)) exit(1);
    for (i = 0; i < 20; i++) in_child("a fork in between", child_goes_on, s, pool);
    llm__store32(&c.quit, 1);
    pthread_join(thread, NULL);
    CHECK(!u.wrong && right(u.session), "%u evaluations are wrong", u.wrong);
    llm_session_destroy(u.session);
    llm_session_destroy(s);
}

static void test_fork(void) {
    llm_pool_desc d;
    llm_pool *pool = pool_of(3);
    fork_with(NULL, "no pool");
    fork_with(pool, "a pool of 3");
    test_fork_in_between(pool);
    llm_pool_destroy(pool);
    memset(&d, 0, sizeof d);
    d.threads = 3, d.parallel_for = in_order;
    if (llm_pool_create(&pool, &d)) exit(1);
    fork_with(pool, "the host's threads");
    CHECK(asked > 3, "the host was not asked");
    llm_pool_destroy(pool);
}

/* ---- stopping at every item ---- */

static uint32_t turn;
static void in_turn(void *user, void (*work)(void *context, uint32_t index), void *context, uint32_t count) {
    uint32_t i;
    (void)user;
    turn++; /* another lane is first each time: it does an item, and then the budget is spent */
    for (i = 0; i < count; i++) work(context, (i + turn) % count);
}

/* A prompt of many rows, single rows, and rows of two sessions, a microsecond at a time. */
static void stop_everywhere(llm_pool *pool, const llm_model *m, const int32_t *tokens, const char *what) {
    static const uint32_t cuts[] = {5, 1, 1, 70, 1, 1, 2, 1};
    llm_session_desc d;
    llm_session *s, *whole;
    uint32_t at = 0, i, steps;
    llm_result r;
    memset(&d, 0, sizeof d);
    d.model = m, d.context = TOKENS;
    CHECK(!llm_session_create(&whole, &d), "%s", what);
    d.pool = pool;
    CHECK(!llm_session_create(&s, &d), "%s", what);
    for (i = 0; i < sizeof cuts / sizeof *cuts; at += cuts[i++]) {
        CHECK(!llm_session_feed(s, tokens + at, cuts[i]), "%s", llm_session_error(s)->text);
        for (steps = 1; (r = llm_step(s, 1)) == LLM_PENDING; steps++) {
        }
        CHECK(!r && steps > 8, "%s: %s after %u steps", what, llm_result_name(r), steps);
        CHECK(!llm_eval(whole, tokens + at, cuts[i]), "%s", llm_session_error(whole)->text);
        CHECK(!memcmp(llm_session_logits(s, 0), llm_session_logits(whole, 0), fixture_vocab(m) * sizeof(float)),
              "%s: other bits at %u", what, at);
    }
    llm_session_destroy(whole);
    llm_session_destroy(s);
}

static void test_stops(void) {
    static const char *const names[] = {"llama-tied", "qwen3", "gemma", "gemma-pattern", "bitnet"};
    int32_t tokens[TOKENS];
    llm_pool_desc d;
    llm_pool *pool;
    llm_model *m;
    unsigned i, k;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        m = fixture_open(names[i], i % 2 ? "q4" : "q8");
        fixture_ids(names[i], tokens);
        for (k = FIXTURE_TOKENS; k < TOKENS; k++) tokens[k] = tokens[k - FIXTURE_TOKENS];
        stop_everywhere(NULL, m, tokens, names[i]);
        memset(&d, 0, sizeof d);
        d.threads = 3, d.parallel_for = in_turn;
        if (llm_pool_create(&pool, &d)) exit(1);
        stop_everywhere(pool, m, tokens, names[i]);
        llm_pool_destroy(pool);
        pool = pool_of(3);
        stop_everywhere(pool, m, tokens, names[i]);
        llm_pool_destroy(pool);
        llm_model_close(m);
    }
}

/* ---- lanes that leave ---- */

static uint32_t entered;
static void lose(void *context, uint32_t lane) {
    uint32_t i;
    llm__fetch_add32(&entered, 1);
    if (lane) { /* a core lost for long, again and again */
        for (i = 0; i < 8 && !llm__pool_lost((llm_pool *)context, lane, 3000); i++) {
        }
        CHECK(i > 4 && i < 8, "out after %u losses of 3 ms", i);
        llm__pool_rest((llm_pool *)context, lane);
    }
    for (i = 0; !lane && i < 100 && llm__load32(&entered) < 2; i++) (void)usleep(1000);
}
static void enter(void *context, uint32_t lane) {
    (void)context, (void)lane;
    llm__fetch_add32(&entered, 1);
    (void)usleep(1000);
}
/* A worker that does harm stays out for a while, and comes back; what runs meanwhile does not wait. */
static void test_rest(void) {
    llm_pool *pool = pool_of(2);
    llm_session *s = session_of(pool, plain());
    unsigned i;
    llm__pool_run(pool, lose, pool);
    CHECK(entered == 2, "%u lanes", entered);
    entered = 0;
    llm__pool_run(pool, enter, NULL);
    CHECK(entered == 1, "%u lanes while one rests", entered);
    CHECK(!llm_eval(s, ids, 20) && right(s), "%s", llm_session_error(s)->text);
    for (i = 0; i < 400 && entered < 2; i++) {
        entered = 0;
        llm__pool_run(pool, enter, NULL);
    }
    CHECK(entered == 2, "it is not back after %u ms", i);
    CHECK(!llm__pool_lost(NULL, 1, 1000000), "no pool");
    llm_session_destroy(s);
    llm_pool_destroy(pool);
}

/* ---- pinned threads ---- */

#if defined(__linux__)
static uint32_t cores[3];
static uint32_t cores_allowed(void) {
    unsigned long may[16];
    uint32_t i, n = 0;
    memset(may, 0, sizeof may);
    if (syscall(SYS_sched_getaffinity, 0, sizeof may, may) < 0) return 0;
    for (i = 0; i < 16 * 8 * sizeof *may; i++) n += may[i / (8 * sizeof *may)] >> i % (8 * sizeof *may) & 1;
    return n;
}
static void count_cores(void *context, uint32_t lane) {
    uint32_t i;
    (void)context;
    llm__store32(&cores[lane], cores_allowed());
    for (i = 0; i < 2000 && (!llm__load32(&cores[1]) || !llm__load32(&cores[2])); i++) (void)usleep(1000);
}
static void test_pin(void) {
    const uint32_t all = cores_allowed();
    uint32_t pin;
    for (pin = 0; pin < 2; pin++) {
        llm_pool_desc d;
        llm_pool *pool;
        llm_session *s;
        memset(&d, 0, sizeof d), memset(cores, 0, sizeof cores);
        d.threads = 3, d.pin = pin != 0;
        if (llm_pool_create(&pool, &d)) exit(1);
        llm__pool_run(pool, count_cores, NULL);
        CHECK(cores[0] == all, "the caller has %u cores of %u", cores[0], all);
        CHECK(cores[1] == (pin && all > 1 ? 1 : all), "a thread has %u cores of %u", cores[1], all);
        CHECK(cores[2] == (pin && all > 2 ? 1 : all), "more threads than cores: %u of %u", cores[2], all);
        s = session_of(pool, plain());
        CHECK(!llm_eval(s, ids, 20) && right(s), "%s", llm_session_error(s)->text);
        llm_session_destroy(s);
        llm_pool_destroy(pool);
    }
}
#endif

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    model = fixture_open("llama-tied", "q8");
    prepare();
    test_users();
    test_pool_ends();
    test_fork();
    test_stops();
    test_rest();
#if defined(__linux__)
    test_pin();
#endif
    free(want);
    llm_model_close(model);
    return check_report("test_threads");
}
