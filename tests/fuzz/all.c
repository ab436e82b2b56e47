/* Every fuzzer in one program, so that the library is compiled once. With libFuzzer the program's own
   name says which of them runs: run.py makes a link for each. With -DFUZZ_REPLAY it has a main() that
   runs kept inputs, for any compiler. */
#include "fuzz.h"

#include "fuzz_adapter.c"
#include "fuzz_calls.c"
#include "fuzz_gguf.c"
#include "fuzz_imatrix.c"
#include "fuzz_llama2c.c"
#include "fuzz_llm.c"
#include "fuzz_lora.c"
#include "fuzz_safetensors.c"
#include "fuzz_sampler.c"
#include "fuzz_template.c"
#include "fuzz_text.c"
#include "fuzz_tokenizer_json.c"

static const struct target {
    const char *name;
    int (*run)(const uint8_t *data, size_t size);
} targets[] = {{"llm", fuzz_llm},           {"gguf", fuzz_gguf},
               {"safetensors", fuzz_safetensors}, {"llama2c", fuzz_llama2c},
               {"tokenizer_json", fuzz_tokenizer_json}, {"template", fuzz_template},
               {"text", fuzz_text},         {"sampler", fuzz_sampler},
               {"calls", fuzz_calls},       {"adapter", fuzz_adapter},
               {"imatrix", fuzz_imatrix},   {"lora", fuzz_lora}};

/* By the name of a file: "build/llm", "corpus/llm.pack", "found/llm.window-zero". */
static const struct target *target_of(const char *path) {
    const char *name = strrchr(path, '/');
    size_t i, n;
    name = name ? name + 1 : path;
    n = strcspn(name, ".");
    for (i = 0; i < sizeof targets / sizeof *targets; i++)
        if (strlen(targets[i].name) == n && !memcmp(targets[i].name, name, n)) return &targets[i];
    fprintf(stderr, "%s: no fuzzer of that name\n", path);
    exit(2);
}

#ifdef FUZZ_REPLAY
/* In a block of its own, so that a sanitizer sees the end. */
static void run_copy(const struct target *target, const uint8_t *data, size_t size) {
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    FUZZ_CHECK(copy, "no memory");
    if (size) memcpy(copy, data, size);
    (void)target->run(copy, size);
    free(copy);
}

/* A file that ends with .pack holds many inputs, each after its size as four bytes. */
static unsigned long replay(const char *path) {
    const struct target *target = target_of(path);
    size_t size, at = 0, n = strlen(path);
    uint8_t *data = fuzz_file(path, &size);
    unsigned long runs = 0;
    if (n < 5 || strcmp(path + n - 5, ".pack") != 0) {
        run_copy(target, data, size);
        runs = 1;
    } else {
        for (; size - at >= 4; runs++) {
            uint32_t one = llm__u32(data + at);
            at += 4;
            FUZZ_CHECK(one <= size - at, "%s is cut", path);
            run_copy(target, data + at, one);
            at += one;
        }
    }
    free(data);
    return runs;
}

int main(int count, char **arguments) {
    int i;
    for (i = 1; i < count; i++) {
        printf("%s: ", arguments[i]);
        fflush(stdout); /* it names the file, should this be the end */
        printf("%lu inputs\n", replay(arguments[i]));
    }
    return 0;
}
#else
int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct target *chosen;

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    (void)count;
    chosen = target_of((*arguments)[0]);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return chosen->run(data, size); }
#endif
