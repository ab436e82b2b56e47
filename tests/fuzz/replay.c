/* Runs a fuzzer's function on files: `replay FILE...`, for compilers without libFuzzer. A file whose
   name ends with .pack holds many inputs, each after its size as four bytes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In a block of its own, so that a sanitizer sees the end. */
static void run(const uint8_t *data, size_t size) {
    uint8_t *copy = (uint8_t *)malloc(size + 1);
    if (!copy) exit(2);
    if (size) memcpy(copy, data, size);
    copy = (uint8_t *)realloc(copy, size ? size : 1);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

int main(int count, char **arguments) {
    unsigned long runs = 0;
    int i;
    for (i = 1; i < count; i++) {
        FILE *file = fopen(arguments[i], "rb");
        uint8_t *data;
        size_t size, at = 0, n = strlen(arguments[i]);
        long length;
        if (!file || fseek(file, 0, SEEK_END) || (length = ftell(file)) < 0) {
            printf("FAIL %s cannot be read\n", arguments[i]);
            return 1;
        }
        rewind(file);
        data = (uint8_t *)malloc((size_t)length + 1);
        size = data ? fread(data, 1, (size_t)length, file) : 0;
        fclose(file);
        if (n < 5 || strcmp(arguments[i] + n - 5, ".pack") != 0) {
            run(data, size);
            runs++;
        } else {
            for (; size - at >= 4; runs++) {
                uint32_t one;
                memcpy(&one, data + at, 4);
                at += 4;
                if (one > size - at) {
                    printf("FAIL %s is cut\n", arguments[i]);
                    return 1;
                }
                run(data + at, one);
                at += one;
            }
        }
        free(data);
    }
    printf("%lu inputs\n", runs);
    return 0;
}
