/* llm-inspect: what it prints of a file, and what it refuses. */
#define LLM_NO_TEMPLATE
int llm_inspect_main(int count, char **arguments);
#define main llm_inspect_main
#include "../../tools/convert/inspect.c"
#undef main
#include "../check.h"
#include "../fixture.h"

static char out[65536], said[1024];

static void read_back(const char *path, char *text, size_t room) {
    FILE *file = fopen(path, "r");
    text[file ? fread(text, 1, room - 1, file) : 0] = 0;
    if (file) (void)fclose(file);
}

/* Runs it with its output in files; standard output comes back afterwards. */
static int inspected(const char *a, const char *b, const char *c) {
    char program[] = "llm-inspect", *arguments[5], path[2][300];
    int count = 1, status, stdout_was = dup(1);
    arguments[0] = program;
    if (a) arguments[count++] = (char *)(uintptr_t)a;
    if (b) arguments[count++] = (char *)(uintptr_t)b;
    if (c) arguments[count++] = (char *)(uintptr_t)c;
    arguments[count] = NULL;
    (void)snprintf(path[0], sizeof path[0], "%s/inspected.out", fixture_folder);
    (void)snprintf(path[1], sizeof path[1], "%s/inspected.err", fixture_folder);
    (void)fflush(stdout);
    if (!freopen(path[0], "w", stdout) || !freopen(path[1], "w", stderr)) exit(2);
    status = llm_inspect_main(count, arguments);
    (void)fflush(stdout), (void)fflush(stderr);
    (void)dup2(stdout_was, 1), (void)close(stdout_was);
    read_back(path[0], out, sizeof out);
    read_back(path[1], said, sizeof said);
    (void)remove(path[0]), (void)remove(path[1]);
    return status;
}

static void refused(const char *a, const char *b, int status, const char *message) {
    int got = inspected(a, b, NULL);
    char whole[1100];
    (void)snprintf(whole, sizeof whole, "llm-inspect: %s%s\n", message, status == 2 ? "; llm-inspect --help says more" : "");
    CHECK(got == status && !strcmp(said, whole), "status %d \"%s\",\n    expected %d \"%s\"", got, said, status, whole);
    CHECK(!out[0], "it prints %s", out);
}

static void test_refusals(void) {
    char damaged[300], message[700];
    size_t size;
    uint8_t *data = (uint8_t *)fixture_read(fixture_model_path("gemma", "q5"), &size);
    FILE *file;
    refused(NULL, NULL, 2, "FILE.llm is missing");
    refused("--verify", NULL, 2, "FILE.llm is missing");
    refused("a", "b", 2, "\"b\" is a name too many");
    refused("--all", "b", 2, "--all is not an option");
    (void)snprintf(message, sizeof message, "/no/such/file.llm: cannot be opened (errno %d)", ENOENT);
    refused("/no/such/file.llm", NULL, 1, message);
    refused("tests/check.h", NULL, 1, "tests/check.h: header: the file begins with \"/* The s\", a .llm file with \"llm.h\"");
    (void)snprintf(damaged, sizeof damaged, "%s/damaged.llm", fixture_folder);
    data[size - 100] ^= 1; /* a weight */
    file = fopen(damaged, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) exit(2);
    CHECK(!inspected(damaged, NULL, NULL) && strstr(out, "tables match (--verify: all)"), "%s", said);
    CHECK(inspected(damaged, "--verify", NULL) == 1 && strstr(said, ": its bytes sum to "), "%s", said);
    (void)remove(damaged);
    free(data);
}

static void test_print(void) {
    static const char *const types[] = {"f32", "bf16", "q8", "q6", "q5", "q4", "q3"};
    static const char *const parts[] = {"\nfamily           gemma3\n", "\nvocabulary       ", "\nlayers           6 of width 64,",
                                        ", window ", "\ncontext          ", "\nnorm             rms, epsilon ", "\nTOKN ",
                                        "\nattn_q ", "\ntokenizer        ", "\nchat template    no\n",
                                        "\nchecksums        all match\n"};
    char line[64];
    size_t i, k;
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        const char *path = fixture_model_path("gemma", types[i]);
        CHECK(!inspected("--tensors", path, "--verify") && !said[0], "%s: %s", types[i], said);
        for (k = 0; k < sizeof parts / sizeof *parts; k++)
            CHECK(strstr(out, parts[k]), "%s: no \"%s\" in\n%s", types[i], parts[k], out);
        (void)snprintf(line, sizeof line, "\n%5u %-15s %-5s", 5u, "ffn_down", types[i]);
        CHECK(strstr(out, line), "%s: no \"%s\" in\n%s", types[i], line, out);
    }
    CHECK(!inspected("--help", NULL, NULL) && !strncmp(out, "usage: llm-inspect", 18), "%s", out);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    test_refusals();
    test_print();
    return check_report("test_inspect");
}
