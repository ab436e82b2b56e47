/* Chat templates with messages: the input is the settings, then the texts, each after its size, then
   the template itself. */
#include "fuzz.h"

static llm_result take_run(void *user, const char *data, size_t size, bool trusted) {
    size_t *sum = (size_t *)user;
    FUZZ_CHECK(data && size, "an empty run");
    (void)trusted;
    *sum += size;
    return LLM_OK;
}

static int fuzz_template(const uint8_t *data, size_t size) {
    static const char *const roles[] = {"user", "assistant", "system", "tool"};
    static char out[65536];
    fuzz_input in = {data, size};
    fuzz_memory memory;
    llm_template_desc d;
    llm_template_field field, tool;
    llm_message messages[4];
    llm_error error;
    llm_result r, again;
    unsigned how = (unsigned)fuzz_take(&in, 2), i;
    size_t needed = 0, sum = 0;
    memset(&memory, 0, sizeof memory);
    memset(&error, 0, sizeof error);
    memset(&d, 0, sizeof d);
    memset(messages, 0, sizeof messages);
    memset(&field, 0, sizeof field);
    memset(&tool, 0, sizeof tool);
    memory.fail_at = how >> 8;
    d.n_messages = how & 3;
    d.add_generation_prompt = how >> 2 & 1;
    d.date.year = how >> 3 & 1 ? 2026 : 0, d.date.month = 11, d.date.day = 24;
    for (i = 0; i < d.n_messages; i++) {
        messages[i].role = llm_string(roles[fuzz_below(&in, 4)]);
        messages[i].content = fuzz_bytes(&in, 63);
    }
    if (how >> 4 & 1) {
        tool.name = llm_string("tool_calls"), tool.text = fuzz_bytes(&in, 127), tool.json = true;
        messages[0].fields = &tool, messages[0].n_fields = 1;
    }
    if (how >> 5 & 1) {
        field.name = llm_string("flag"), field.text = fuzz_bytes(&in, 63), field.json = how >> 6 & 1;
        d.variables = &field, d.n_variables = 1;
    }
    if (how >> 7 & 1) d.tools = fuzz_bytes(&in, 127);
    d.messages = messages;
    d.bos_token = llm_string("<s>"), d.eos_token = llm_string("</s>");
    d.text.data = (const char *)in.data, d.text.size = in.size;
    d.max_steps = 20000, d.max_output = 60000, d.max_memory = 1 << 20;
    d.allocator = fuzz_allocator(&memory), d.error = &error;
    r = llm_template_render(&d, out, sizeof out, &needed);
    fuzz_refusal(r, &error);
    fuzz_balance(&memory);
    FUZZ_CHECK(needed <= sizeof out && (r == LLM_OK || !needed), "%zu bytes", needed);
    if (memory.fail_at && memory.requests >= memory.fail_at) {
        FUZZ_CHECK(r != LLM_OK, "it went on without memory");
        return 0;
    }
    memory.fail_at = 0;
    again = llm_template_runs(&d, take_run, &sum);
    FUZZ_CHECK(again == r && sum == needed, "%s and %s, %zu and %zu bytes", llm_result_name(r),
               llm_result_name(again), needed, sum);
    fuzz_balance(&memory);
    return 0;
}
