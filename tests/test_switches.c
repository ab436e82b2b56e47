/* Built without maps, threads, chat templates and vector kernels: what is left works, what is gone says so. */
#define LLM_NO_MMAP
#define LLM_NO_THREADS
#define LLM_NO_TEMPLATE
#define LLM_NO_AVX2
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "check.h"
#include "fixture.h"

int main(int count, char **arguments) {
    llm_model_desc desc;
    llm_session_desc sd;
    llm_prefetch_desc pd;
    llm_pool_desc pool_desc;
    llm_error error;
    llm_model *model;
    llm_session *session;
    llm_pool *pool;
    int32_t ids[FIXTURE_TOKENS];
    char message[600];
    void *data;
    fixture_arguments(count, arguments);
    memset(&desc, 0, sizeof desc), memset(&sd, 0, sizeof sd), memset(&pd, 0, sizeof pd);
    memset(&pool_desc, 0, sizeof pool_desc);
    desc.path = fixture_model_path("llama-tied", "q8"), desc.error = &error;
    (void)snprintf(message, sizeof message, "%s: built with LLM_NO_MMAP, open from memory", desc.path);
    CHECK(llm_model_open(&model, &desc) == LLM_ERROR_UNSUPPORTED && !model && error.code == LLM_ERROR_UNSUPPORTED &&
              !strcmp(error.text, message), "%s", error.text);
    desc.data = data = fixture_read(desc.path, &desc.size);
    desc.path = NULL;
    CHECK(!llm_model_open(&model, &desc), "%s", error.text);
    pd.lock = true, pd.error = &error;
    CHECK(llm_model_prefetch(model, &pd) == LLM_ERROR_UNSUPPORTED &&
              !strcmp(error.text, "prefetch: built with LLM_NO_MMAP, cannot lock"), "%s", error.text);
    pd.lock = false;
    CHECK(!llm_model_prefetch(model, &pd), "%s", error.text);
    pool_desc.threads = 8;
    CHECK(!llm_pool_create(&pool, &pool_desc) && llm_pool_threads(pool) == 1, "%u threads", llm_pool_threads(pool));
    sd.model = model, sd.pool = pool;
    fixture_ids("llama-tied", ids);
    CHECK(!llm_session_create(&session, &sd) && !llm_eval(session, ids, FIXTURE_TOKENS), "an evaluation");
    CHECK(llm_session_logits(session, 0) && !strcmp(llm_session_isa(session), "scalar"), "%s", llm_session_isa(session));
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    llm_model_close(model);
    free(data);
    return check_report("test_switches");
}
