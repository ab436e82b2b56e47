/* The smallest test harness: CHECK counts, check_report prints the line that the runner adds up. */
#ifndef LLM_TESTS_CHECK_H
#define LLM_TESTS_CHECK_H
#include <stdio.h>

static int check_passed, check_failed, check_skipped;

/* CHECK(condition, "format", ...): says where and what when the condition does not hold. */
#define CHECK(condition, ...)                                       \
    do {                                                            \
        if (condition) {                                            \
            check_passed++;                                         \
        } else {                                                    \
            check_failed++;                                         \
            printf("FAIL %s:%d %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__);                                    \
            printf("\n");                                           \
        }                                                           \
    } while (0)

/* A part that cannot run here, and why. */
#define SKIP(...)                                        \
    do {                                                 \
        check_skipped++;                                 \
        printf("SKIP %s:%d ", __FILE__, __LINE__);       \
        printf(__VA_ARGS__);                             \
        printf("\n");                                    \
    } while (0)

static int check_report(const char *name) {
    printf("%s: %d passed, %d failed, %d skipped\n", name, check_passed, check_failed, check_skipped);
    return check_failed != 0;
}
#endif
