/* Which instruction sets are offered, for every combination of what the processor has and the system
   saves; and that Linux is asked for the tiles of AMX when a session may use them, and only then. No
   kernel runs here: tests/platforms.py runs those that this machine lacks, under emulation. */
#if defined(__x86_64__) && defined(__linux__)
#include "emulate/cpu.h"
#endif
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "check.h"
#include "fixture.h"

#ifdef LLM__HAVE_AMX
static llm_model *model;

/* The names offered, as "a b c", against what the bits promise. */
static void expect_names(void) {
    const bool avx2 = emulated.osxsave && emulated.saves_ymm && emulated.f16c && emulated.avx2;
    const bool avx512 = avx2 && emulated.saves_zmm && emulated.avx512 && emulated.vnni;
    const bool amx = avx512 && emulated.saves_tiles && emulated.amx_tile && emulated.amx_int8 && emulated.knows_tiles;
    char got[100] = "", want[100];
    uint32_t i;
    for (i = 0; llm_isa_name(i); i++) strcat(strcat(got, llm_isa_name(i)), " ");
    (void)snprintf(want, sizeof want, "%s%s%s%sscalar ", amx ? "amx " : "", avx512 ? "avx512 " : "",
                   avx2 && emulated.avx_vnni ? "avx-vnni " : "", avx2 ? "avx2 " : "");
    CHECK(!strcmp(got, want), "%s, expected %s", got, want);
    CHECK(emulated.asked == 0, "asked for a list of names");
}

static void test_names(void) {
    uint32_t bits;
    for (bits = 0; bits < 1u << 12; bits++) {
        emulated.f16c = bits & 1, emulated.avx2 = bits >> 1 & 1, emulated.avx_vnni = bits >> 2 & 1;
        emulated.avx512 = bits >> 3 & 1, emulated.vnni = bits >> 4 & 1, emulated.amx_tile = bits >> 5 & 1;
        emulated.amx_int8 = bits >> 6 & 1, emulated.osxsave = bits >> 7 & 1, emulated.saves_ymm = bits >> 8 & 1;
        emulated.saves_zmm = bits >> 9 & 1, emulated.saves_tiles = bits >> 10 & 1, emulated.knows_tiles = bits >> 11 & 1;
        expect_names();
    }
}

/* A session's instruction set, or the refusal. */
static void expect_session(const char *isa, const char *want, unsigned asked) {
    llm_session_desc d;
    llm_session *session;
    llm_error error;
    memset(&d, 0, sizeof d);
    d.model = model, d.isa = isa, d.context = 16, d.rows = 2, d.error = &error;
    emulated.asked = 0;
    if (llm_session_create(&session, &d)) {
        CHECK(error.code == LLM_ERROR_UNSUPPORTED && !strcmp(error.text, want), "%s", error.text);
    } else {
        CHECK(!strcmp(llm_session_isa(session), want), "%s", llm_session_isa(session));
        llm_session_destroy(session);
    }
    CHECK(!emulated.asked == !asked, "asked %u times", emulated.asked);
}

static void test_permission(void) {
    llm_session_desc d, resolved;
    llm_batch_desc b;
    llm_batch *batch;
    llm_error error;
    emulate_all();
    expect_session(NULL, "amx", 1);
    expect_session("amx", "amx", 1);
    expect_session("avx512", "avx512", 0);
    expect_session("scalar", "scalar", 0);
    emulated.allows_tiles = false;
    expect_session(NULL, "avx512", 1);
    expect_session("amx", "isa: the system does not allow \"amx\"", 1);
    expect_session("avx-vnni", "avx-vnni", 0);
    memset(&d, 0, sizeof d), memset(&b, 0, sizeof b);
    d.model = b.model = model, d.context = 16, b.error = &error;
    CHECK(!llm_session_query(&d, &resolved, NULL) && !strcmp(resolved.isa, "avx512"), "the query");
    b.isa = "amx";
    CHECK(llm_batch_create(&batch, &b) == LLM_ERROR_UNSUPPORTED && !batch &&
              !strcmp(error.text, "isa: the system does not allow \"amx\""), "%s", error.text);
    emulated.knows_tiles = false;
    expect_session(NULL, "avx512", 0);
    expect_session("amx", "isa: \"amx\" is none of this machine's, of which avx512 is the best", 0);
}

int main(int count, char **arguments) {
    llm_model_desc desc;
    fixture_arguments(count, arguments);
    test_names();
    memset(&desc, 0, sizeof desc);
    desc.path = fixture_model_path("llama-tied", "q8");
    CHECK(!llm_model_open(&model, &desc), "%s", desc.path);
    test_permission();
    llm_model_close(model);
    return check_report("isa");
}
#else
int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    SKIP("the choice of instruction sets is tested on x86-64 Linux");
    return check_report("isa");
}
#endif
