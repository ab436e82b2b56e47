/* What tests/instructions.py counts: `measured` under callgrind, one decode step or a prefill of 64 tokens. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <stdio.h>
#include <string.h>

enum { CONTEXT = 128, PROMPT = 64 };

__attribute__((noinline)) void measured(llm_session *session, const int32_t *tokens, size_t count, llm_result *result);
void measured(llm_session *session, const int32_t *tokens, size_t count, llm_result *result) {
    *result = llm_eval(session, tokens, count);
}

int main(int count, char **arguments) {
    const bool decode = count == 3 && !strcmp(arguments[2], "decode");
    llm_error error;
    llm_model *model;
    llm_session *session;
    llm_model_desc m;
    llm_session_desc d;
    llm_result result;
    int32_t tokens[PROMPT];
    int i;
    if (count != 3) return 2;
    memset(&m, 0, sizeof m), memset(&d, 0, sizeof d);
    m.path = arguments[1], m.error = d.error = &error;
    if (llm_model_open(&model, &m)) return fprintf(stderr, "%s\n", error.text), 1;
    d.model = model, d.context = CONTEXT, d.isa = "avx2";
    if (llm_session_create(&session, &d)) return fprintf(stderr, "%s\n", error.text), 1;
    for (i = 0; i < PROMPT; i++) tokens[i] = i * 7 + 1;
    if (decode && llm_eval(session, tokens, PROMPT)) return 1; /* the context of the step that counts */
    measured(session, tokens, decode ? 1 : PROMPT, &result);
    llm_session_destroy(session);
    llm_model_close(model);
    return result != LLM_OK;
}
