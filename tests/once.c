/* One run through the whole library, small enough for a memory checker: once FOLDER ISA NAME TYPE... prints
   a digest that is the same for every instruction set. Memory comes from malloc, so that the checker
   knows what was never written. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include "everything.h"

int main(int count, char **arguments) {
    everything e;
    int i;
    fixture_arguments(count, arguments);
    for (i = 3; i + 1 < count; i += 2) {
        memset(&e, 0, sizeof e);
        e.isa = arguments[2], e.name = arguments[i], e.type = arguments[i + 1];
        e.threads = i / 2 % 2 ? 2 : 1, e.read = i % 4 == 1, e.brief = true;
        printf("%s %s: %016llx\n", e.name, e.type, (unsigned long long)everything_run(&e));
    }
    return check_report("once");
}
