/* What the fuzzers share: bytes of the input as numbers, an allocator that balances and can run out,
   checks that end the process, files of the tests' fixtures. A fuzzer is a function of one file;
   all.c makes a program of them. */
#ifndef LLM_TESTS_FUZZ_H
#define LLM_TESTS_FUZZ_H
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
/* A virtual machine traps CPUID, which would then be most of a session's creation: asked once. */
static int fuzz_cpuid(unsigned leaf, unsigned sub, unsigned *a, unsigned *b, unsigned *c,
                      unsigned *d) {
    static unsigned known[8][5];
    unsigned *r = known[leaf % 8];
    if (!r[4]) r[4] = 1 + (unsigned)__get_cpuid_count(leaf, sub, &r[0], &r[1], &r[2], &r[3]);
    *a = r[0], *b = r[1], *c = r[2], *d = r[3];
    return (int)r[4] - 1;
}
#define __get_cpuid_count fuzz_cpuid
#endif
#define LLM_IMPLEMENTATION
#include "../../llm.h"

#define FUZZ_CHECK(condition, ...)                                              \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "\n%s:%d: %s: ", __FILE__, __LINE__, #condition);   \
            fprintf(stderr, __VA_ARGS__);                                       \
            fprintf(stderr, "\n");                                              \
            abort();                                                            \
        }                                                                       \
    } while (0)

/* From the root of the repository: the models of tests/fixtures, and smaller ones. run.py makes both. */
#define FUZZ_FILES "build/tests/models"
#define FUZZ_TINY  "build/tests/fuzz"

/* ---- the input, taken from the front; zeros past its end ---- */

typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

static LLM__UNUSED uint64_t fuzz_take(fuzz_input *in, unsigned bytes) {
    uint64_t value = 0;
    unsigned i;
    for (i = 0; i < bytes && in->size; i++, in->data++, in->size--)
        value |= (uint64_t)*in->data << (8 * i);
    return value;
}
static LLM__UNUSED uint32_t fuzz_below(fuzz_input *in, uint32_t n) {
    return (uint32_t)(fuzz_take(in, n > 65536 ? 4 : n > 256 ? 2 : 1) % n);
}
/* At most `most` bytes, by a length that comes first. */
static LLM__UNUSED llm_text fuzz_bytes(fuzz_input *in, uint32_t most) {
    llm_text text;
    text.size = fuzz_below(in, most + 1);
    if (text.size > in->size) text.size = in->size;
    text.data = (const char *)in->data;
    in->data += text.size, in->size -= text.size;
    return text;
}

/* ---- memory ---- */

typedef struct fuzz_memory {
    size_t blocks, bytes;
    uint64_t requests, fail_at; /* the request, from 1 on, that gets nothing; 0: none */
    bool and_later;
} fuzz_memory;

static LLM__UNUSED void *fuzz_allocate(void *user, size_t size, size_t align) {
    fuzz_memory *m = (fuzz_memory *)user;
    void *memory = NULL;
    m->requests++;
    if (m->fail_at && (m->requests == m->fail_at || (m->and_later && m->requests > m->fail_at)))
        return NULL;
    if (size > (size_t)1 << 30 || posix_memalign(&memory, align < 8 ? 8 : align, size)) return NULL;
    m->blocks++, m->bytes += size;
    return memory;
}
static LLM__UNUSED void fuzz_release(void *user, void *memory, size_t size) {
    fuzz_memory *m = (fuzz_memory *)user;
    if (!memory) return;
    FUZZ_CHECK(m->blocks > 0 && m->bytes >= size, "released more than there was");
    m->blocks--, m->bytes -= size;
    free(memory);
}
static LLM__UNUSED llm_allocator fuzz_allocator(fuzz_memory *m) {
    llm_allocator a;
    a.allocate = fuzz_allocate, a.release = fuzz_release, a.user = m;
    return a;
}
static LLM__UNUSED void fuzz_balance(const fuzz_memory *m) {
    FUZZ_CHECK(!m->blocks && !m->bytes, "%zu blocks of %zu bytes are left", m->blocks, m->bytes);
}

/* A refusal has its code in the error, and words. */
static LLM__UNUSED void fuzz_refusal(llm_result result, const llm_error *error) {
    FUZZ_CHECK(result == LLM_OK || error->code == result, "%s, but the error says %s",
               llm_result_name(result), llm_result_name(error->code));
    FUZZ_CHECK(result == LLM_OK || error->text[0], "no words for %s", llm_result_name(result));
    FUZZ_CHECK(memchr(error->text, 0, sizeof error->text), "the message has no end");
}

/* ---- files ---- */

/* A whole file in a block of exactly its size, 64-byte aligned. */
static LLM__UNUSED uint8_t *fuzz_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long length;
    FUZZ_CHECK(file, "%s cannot be read; tests/run.py makes what is in build/", path);
    fseek(file, 0, SEEK_END);
    length = ftell(file);
    rewind(file);
    *size = (size_t)length;
    FUZZ_CHECK(length > 0 && !posix_memalign(&data, 64, *size) &&
                   fread(data, 1, *size, file) == *size, "%s", path);
    fclose(file);
    return (uint8_t *)data;
}
#endif
