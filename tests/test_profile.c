/* LLM_PROFILE: every item of every lane is counted, by kind of step, and costs some time. */
#define LLM_PROFILE
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "check.h"
#include "fixture.h"

static const char *const names[LLM_PROFILE_STEPS] = {"embed", "input",       "qkv",  "heads", "attend",
                                                     "out",   "gate and up", "down", "head",  "cap"};

/* The sums over all lanes of what was done since the last call. */
static void take(llm_session *s, uint32_t lanes, llm_profile sum[LLM_PROFILE_STEPS]) {
    llm_profile one[LLM_PROFILE_STEPS];
    uint32_t lane, i;
    memset(sum, 0, LLM_PROFILE_STEPS * sizeof *sum);
    for (lane = 0; lane < lanes; lane++) {
        CHECK(llm_session_profile(s, lane, one) == LLM_PROFILE_STEPS, "lane %u", lane);
        for (i = 0; i < LLM_PROFILE_STEPS; i++) {
            CHECK(!strcmp(one[i].step, names[i]), "step %u is %s", i, one[i].step);
            sum[i].items += one[i].items, sum[i].work_ns += one[i].work_ns, sum[i].wait_ns += one[i].wait_ns;
        }
    }
}

static void test_lanes(const llm_model *model, const int32_t *ids, uint32_t lanes) {
    const uint64_t layers = model->desc->layers, kv_heads = model->desc->kv_heads;
    llm_profile sum[LLM_PROFILE_STEPS], none[LLM_PROFILE_STEPS];
    llm_pool_desc p;
    llm_session_desc d;
    llm_session *s;
    uint32_t i;
    memset(&p, 0, sizeof p), memset(&d, 0, sizeof d), memset(none, 0, sizeof none);
    p.threads = lanes, d.model = model;
    CHECK(!llm_pool_create(&d.pool, &p) && !llm_session_create(&s, &d), "a session");
    take(s, lanes, sum);
    for (i = 0; i < LLM_PROFILE_STEPS; i++) CHECK(!sum[i].items && !sum[i].work_ns, "%s before", names[i]);
    CHECK(!llm_eval(s, ids, 7), "%s", llm_session_error(s)->text);
    take(s, lanes, sum);
    CHECK(sum[0].items == 7 && sum[3].items == 7 * layers * kv_heads, "rows");
    CHECK(sum[4].items && sum[4].items <= sum[3].items && sum[4].items % (layers * kv_heads) == 0,
          "%u tiles of attention", (unsigned)sum[4].items); /* each of several rows */
    CHECK(sum[1].items >= 4 * 7 * layers + 1, "%u inputs", (unsigned)sum[1].items);
    for (i = 0; i < LLM_PROFILE_STEPS - 1; i++) {
        CHECK(sum[i].items && sum[i].work_ns && sum[i].work_ns < (uint64_t)1 << 40, "%s: %u items, %u ns", names[i],
              (unsigned)sum[i].items, (unsigned)sum[i].work_ns);
        CHECK(sum[i].wait_ns < (uint64_t)1 << 40, "%s waits", names[i]);
    }
    CHECK(!llm_eval(s, ids + 7, 1), "%s", llm_session_error(s)->text); /* each lane that works makes inputs */
    take(s, lanes, sum);
    CHECK(sum[1].items >= 4 * layers + 1 && sum[1].items <= lanes * (4 * layers + 1), "%u inputs",
          (unsigned)sum[1].items);
    CHECK(!sum[3].items && sum[4].items == layers * kv_heads * (kv_heads < lanes ? 2 : 1), "heads count as attend");
    take(s, lanes, sum);
    for (i = 0; i < LLM_PROFILE_STEPS; i++) CHECK(!sum[i].items && !sum[i].wait_ns, "%s is cleared", names[i]);
    CHECK(!llm_session_profile(s, lanes, none) && !llm_session_profile(NULL, 0, none) && !none[0].step, "no such lane");
    llm_session_destroy(s);
    d.batch_only = true;
    CHECK(!llm_session_create(&s, &d) && !llm_session_profile(s, 0, none), "no evaluator");
    CHECK(!llm_batch_profile(NULL, 0, none), "no batch");
    llm_session_destroy(s);
    llm_pool_destroy(d.pool);
}

int main(int count, char **arguments) {
    int32_t ids[FIXTURE_TOKENS];
    llm_model *model;
    fixture_arguments(count, arguments);
    fixture_ids("llama-tied", ids);
    model = fixture_open("llama-tied", "q8");
    test_lanes(model, ids, 1);
    test_lanes(model, ids, 3);
    llm_model_close(model);
    return check_report("test_profile");
}
