/* The small models of tests/fixtures for C tests. tests/run.py converts each of them to every type
   into one folder, which a test gets as its argument; it runs in the root of the repository. Comes
   after llm.h with its implementation. */
#ifndef LLM_TESTS_FIXTURE_H
#define LLM_TESTS_FIXTURE_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXTURES 7
#define FIXTURE_TOKENS 48u

static const char *const fixture_names[FIXTURES] = {"llama-tied", "llama-untied", "llama-odd", "qwen3", "gemma",
                                                    "gemma-pattern", "bitnet"};
static const char *fixture_folder = "build/tests/models";

/* Every test that uses fixtures begins with this. */
static LLM__UNUSED void fixture_arguments(int count, char **arguments) {
    if (count > 1) fixture_folder = arguments[1];
    setvbuf(stdout, NULL, _IOLBF, 0);
}

/* A test without its input ends at once, and the runner counts it as failed. */
static LLM__UNUSED void fixture_missing(const char *path) {
    printf("FAIL cannot read %s (tests/run.py makes what is in build/)\n", path);
    exit(1);
}

static LLM__UNUSED const char *fixture_model_path(const char *name, const char *type) {
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/%s.%s.llm", fixture_folder, name, type);
    return path;
}

/* A whole file in a block of its own size (so that a sanitizer sees the end), 64-byte aligned. */
static LLM__UNUSED void *fixture_read(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long length = 0;
    if (!file || fseek(file, 0, SEEK_END) || (length = ftell(file)) < 1 || fseek(file, 0, SEEK_SET))
        fixture_missing(path);
    *size = (size_t)length;
    if (posix_memalign(&data, 64, *size) || fread(data, 1, *size, file) != *size) fixture_missing(path);
    fclose(file);
    return data;
}

static LLM__UNUSED llm_model *fixture_open(const char *name, const char *type) {
    llm_model_desc desc;
    llm_error error;
    llm_model *model;
    memset(&desc, 0, sizeof desc);
    desc.path = fixture_model_path(name, type);
    desc.verify = true;
    desc.error = &error;
    if (llm_model_open(&model, &desc)) {
        printf("FAIL %s: %s\n", desc.path, error.text);
        exit(1);
    }
    return model;
}

/* The 48 token ids that the expected logits belong to. */
static LLM__UNUSED void fixture_ids(const char *name, int32_t ids[FIXTURE_TOKENS]) {
    char path[256];
    FILE *file;
    int i, id;
    (void)snprintf(path, sizeof path, "tests/fixtures/models/%s.ids", name);
    if (!(file = fopen(path, "r"))) fixture_missing(path);
    for (i = 0; i < (int)FIXTURE_TOKENS && fscanf(file, "%d", &id) == 1; i++) ids[i] = id;
    fclose(file);
    if (i < (int)FIXTURE_TOKENS) fixture_missing(path);
}

static LLM__UNUSED uint32_t fixture_vocab(const llm_model *model) {
    llm_model_info info;
    llm_model_get_info(model, &info);
    return info.vocab;
}
#endif
