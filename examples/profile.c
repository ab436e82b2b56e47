/* profile: where the time of every kind of step goes, for each thread. */
#define LLM_PROFILE
#include "options.h"

static const char *model_path, *isa, *kv = "q8";
static uint32_t tokens = 128, at_once = 1, threads = 1;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "the model", true},
    {"-n", OPTION_COUNT, &tokens, "N", "tokens to evaluate (default 128)", false},
    {"-b", OPTION_COUNT, &at_once, "N", "tokens in one evaluation (default 1: decode)", false},
    {"-t", OPTION_COUNT, &threads, "N", "threads (default 1)", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set; by default the best", false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default), f16 or q4", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const program self = {"profile", "Shows what each kind of step takes, and waits for.",
                             "Microseconds of each thread for a token: work, then waiting for "
                             "other threads after it.",
                             options};

static void evaluate(llm_session *session, const int32_t *ids, uint32_t count) {
    uint32_t i;
    CHECKED(llm_session_rewind(session, 0), llm_session_error(session));
    for (i = 0; i < count; i += at_once) {
        const uint32_t left = count - i;
        CHECKED(llm_eval(session, ids + i, left < at_once ? left : at_once),
                llm_session_error(session));
    }
}

static void print_lane(llm_session *session, uint32_t lane) {
    llm_profile step[LLM_PROFILE_STEPS];
    double work = 0, wait = 0;
    uint32_t i;
    (void)llm_session_profile(session, lane, step);
    (void)printf("\nthread %u      items      work      wait\n", (unsigned)lane);
    for (i = 0; i < LLM_PROFILE_STEPS; i++) {
        work += (double)step[i].work_ns, wait += (double)step[i].wait_ns;
        (void)printf("%-12s %7.1f %9.2f %9.2f\n", step[i].step, (double)step[i].items / tokens,
                     (double)step[i].work_ns * 1e-3 / tokens,
                     (double)step[i].wait_ns * 1e-3 / tokens);
    }
    (void)printf("%-20s %9.2f %9.2f  %.1f %% waiting\n", "all", work * 1e-3 / tokens,
                 wait * 1e-3 / tokens, 100 * wait / (work + wait));
}

int main(int argc, char **argv) {
    llm_error error;
    llm_model *model;
    llm_model_info info;
    llm_pool *pool;
    llm_session *session;
    llm_session_desc d;
    int32_t *ids;
    uint32_t i;
    parse_options(&self, argc, argv);
    if (!tokens || !at_once || at_once > 1024)
        fail(EXIT_USAGE, "%s: -n is 1 or more, -b is 1 to 1024", self.name);
    model = open_model(model_path);
    llm_model_get_info(model, &info);
    ids = (int32_t *)malloc(tokens * sizeof *ids);
    if (!ids) fail(EXIT_FAILED, "%s: no memory", self.name);
    for (i = 0; i < tokens; i++) ids[i] = (int32_t)(llm_random(1, 0, i) % info.vocab);
    pool = make_pool(threads);
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.isa = isa, d.kv = parse_kv(&self, kv), d.error = &error;
    d.context = tokens, d.rows = at_once;
    CHECKED(llm_session_create(&session, &d), &error);
    evaluate(session, ids, tokens); /* pages and clock frequency */
    for (i = 0; i < llm_pool_threads(pool); i++) {
        llm_profile unused[LLM_PROFILE_STEPS];
        (void)llm_session_profile(session, i, unused);
    }
    evaluate(session, ids, tokens);
    for (i = 0; i < llm_pool_threads(pool); i++) print_lane(session, i);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    llm_model_close(model);
    free(ids);
    return finish(&self);
}
