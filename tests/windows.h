/* What the C tests use of POSIX and mingw lacks; tests/windows.py includes it before everything else and
   links with --wrap, so that every block is aligned and one `free` takes back whatever gave it. */
#ifndef LLM_TESTS_WINDOWS_H
#define LLM_TESTS_WINDOWS_H
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t size) { return _aligned_malloc(size ? size : 1, 64); }
void *__wrap_calloc(size_t count, size_t size) {
    void *memory = size && count > (size_t)-1 / size ? NULL : __wrap_malloc(count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}
void *__wrap_realloc(void *memory, size_t size) { return _aligned_realloc(memory, size, 64); }
void __wrap_free(void *memory) { _aligned_free(memory); }

static inline int posix_memalign(void **memory, size_t align, size_t size) {
    (void)align; /* at most 64 in the tests */
    *memory = __wrap_malloc(size);
    return *memory == NULL;
}
#endif
