/* Paths are UTF-8: a model in a folder, and under a name, that no code page of 8 bits has. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include <sys/stat.h>

#define FOLDER "build/tests/w\xc3\xb6rter \xe6\xa8\xa1\xe5\x9e\x8b"
#define NAME   "mod\xc3\xa8le \xf0\x9f\x99\x82.llm"

#if defined(_WIN32)
static void make_folder(void) { (void)CreateDirectoryW(L"build/tests/w\x00f6rter \x6a21\x578b", NULL); }
static FILE *create(void) {
    return _wfopen(L"build/tests/w\x00f6rter \x6a21\x578b/mod\x00e8le \xd83d\xde42.llm", L"wb");
}
#else
static void make_folder(void) { (void)mkdir(FOLDER, 0777); }
static FILE *create(void) { return fopen(FOLDER "/" NAME, "wb"); }
#endif

static llm_result open_path(const char *path, llm_error *error) {
    llm_model_desc d;
    llm_model *model;
    llm_result r;
    memset(&d, 0, sizeof d);
    memset(error, 0, sizeof *error);
    d.path = path, d.verify = true, d.error = error;
    r = llm_model_open(&model, &d);
    CHECK((model != NULL) == (r == LLM_OK) && error->code == r, "%s: %s", path, llm_result_name(r));
    llm_model_close(model);
    return r;
}

int main(int count, char **arguments) {
    static char longest[40000];
    llm_error error;
    size_t size;
    FILE *file;
    void *data;
    fixture_arguments(count, arguments);
    data = fixture_read(fixture_model_path("llama-tied", "q8"), &size);
    make_folder();
    file = create();
    CHECK(file && fwrite(data, 1, size, file) == size && !fclose(file), "the file cannot be written");
    free(data);
    CHECK(open_path(FOLDER "/" NAME, &error) == LLM_OK, "%s", error.text);
    CHECK(open_path(FOLDER "/no " NAME, &error) == LLM_ERROR_IO && strstr(error.text, "no " NAME ": cannot be opened"),
          "%s", error.text);
    CHECK(open_path("", &error) == LLM_ERROR_IO, "an empty path: %s", error.text);
    memset(longest, 'x', sizeof longest - 1);
    CHECK(open_path(longest, &error) != LLM_OK, "a path of 40,000 bytes opens");
#if defined(_WIN32)
    CHECK(open_path("build/tests/\xff.llm", &error) == LLM_ERROR_ARGUMENT && strstr(error.text, "UTF-8"), "%s",
          error.text);
    CHECK(open_path("build/tests/\xed\xa0\x80.llm", &error) == LLM_ERROR_ARGUMENT, "a surrogate: %s", error.text);
    CHECK(open_path("build/tests/\xc0\xaf.llm", &error) == LLM_ERROR_ARGUMENT, "an overlong form: %s", error.text);
#endif
    return check_report("paths");
}
