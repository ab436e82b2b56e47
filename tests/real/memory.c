/* memory MODEL.llm: opens it, evaluates 1,000 tokens in pieces and one by one, and prints how many
   allocations that took after the session existed, what the query said, and what is resident. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdlib.h>
static unsigned long mallocs;
static void *counted_malloc(size_t size) {
    mallocs++;
    return malloc(size);
}
#define malloc counted_malloc
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#undef malloc

static unsigned long calls, asked;
static void *count_allocate(void *user, size_t size, size_t align) {
    void *memory = NULL;
    (void)user, (void)align;
    calls++, asked += (unsigned long)size;
    return posix_memalign(&memory, 64, size) ? NULL : memory;
}
static void count_release(void *user, void *memory, size_t size) {
    (void)user, (void)size;
    free(memory);
}

/* A line of /proc/self/status, in bytes; 0 where there is none. */
static unsigned long status_line(const char *name) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long kilobytes = 0;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name))) (void)sscanf(line + strlen(name), ": %lu", &kilobytes);
    if (file) fclose(file);
    return kilobytes * 1024;
}

static int die(const llm_error *error) {
    fprintf(stderr, "memory: %s\n", error->text);
    return 1;
}

int main(int count, char **arguments) {
    llm_model_desc m;
    llm_session_desc d;
    llm_model_info info;
    llm_model *model;
    llm_session *session;
    llm_error error;
    unsigned long before, base;
    size_t query;
    int32_t tokens[16];
    uint32_t at, n, i;
    if (count != 2) return 2;
    base = status_line("RssAnon") + status_line("RssFile");
    memset(&m, 0, sizeof m), memset(&d, 0, sizeof d);
    m.path = arguments[1], d.error = m.error = &error;
    if (llm_model_open(&model, &m)) return die(&error);
    llm_model_get_info(model, &info);
    d.model = model, d.context = 1000;
    d.allocator.allocate = count_allocate, d.allocator.release = count_release;
    if (llm_session_query(&d, NULL, &query) || llm_session_create(&session, &d)) return die(&error);
    before = mallocs;
    printf("session_calls %lu\nsession_bytes %lu\nquery %lu\n", calls, asked, (unsigned long)query);
    for (at = 0; at < 1000; at += n) {
        n = at < 600 ? 16 : 1;
        if (n > 1000 - at) n = 1000 - at;
        for (i = 0; i < n; i++) tokens[i] = (int32_t)(((at + i) * 7919u + 13u) % info.vocab);
        if (llm_eval(session, tokens, n)) return die(llm_session_error(session));
    }
    printf("eval_calls %lu\n", calls - 1 + mallocs - before);
    printf("file %lu\nrss_base %lu\nrss_anon %lu\nrss_file %lu\n", (unsigned long)info.file_size, base,
           status_line("RssAnon"), status_line("RssFile"));
    llm_session_destroy(session);
    llm_model_close(model);
    return 0;
}
