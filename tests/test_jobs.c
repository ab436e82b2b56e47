/* The example of a host's job system: it ends well only if its logits are those of the library's threads. */
#define main jobs_main
#include "../examples/jobs.c"
#undef main
#include "check.h"
#include "fixture.h"

int main(int count, char **arguments) {
    static const char *const numbers[] = {"1", "2", "3", "8"};
    size_t i, n;
    fixture_arguments(count, arguments);
    for (i = 0; i < 2; i++)
        for (n = 0; n < 4; n++) {
            char path[512], *line[] = {(char *)"jobs", path, (char *)"-n", (char *)"12", (char *)"-r", (char *)"1",
                                       (char *)"-g", (char *)(uintptr_t)numbers[3 - n], (char *)"-t",
                                       (char *)(uintptr_t)numbers[n]};
            (void)snprintf(path, sizeof path, "%s", fixture_model_path(i ? "gemma" : "llama-tied", "q4"));
            CHECK(jobs_main(10, line) == 0, "%s, %s threads", path, numbers[n]);
        }
    return check_report("jobs");
}
