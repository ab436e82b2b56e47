/* llm-inspect: what it prints of a file, and what it refuses. */
#define LLM_NO_TEMPLATE
int llm_inspect_main(int count, char **arguments);
#define main llm_inspect_main
#include "../../tools/convert/inspect.c"
#undef main
#include "../check.h"
#include "../fixture.h"
#include "../adapter.h"

static char out[65536], said[1024];

static void read_back(const char *path, char *text, size_t room) {
    FILE *file = fopen(path, "r");
    text[file ? fread(text, 1, room - 1, file) : 0] = 0;
    if (file) (void)fclose(file);
}

/* Runs it with its output in files; standard output comes back afterwards. */
static int inspected4(const char *a, const char *b, const char *c, const char *d) {
    char program[] = "llm-inspect", *arguments[6], path[2][300];
    int count = 1, status, stdout_was = dup(1);
    arguments[0] = program;
    if (a) arguments[count++] = (char *)(uintptr_t)a;
    if (b) arguments[count++] = (char *)(uintptr_t)b;
    if (c) arguments[count++] = (char *)(uintptr_t)c;
    if (d) arguments[count++] = (char *)(uintptr_t)d;
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

static int inspected(const char *a, const char *b, const char *c) { return inspected4(a, b, c, NULL); }

static void refused3(const char *a, const char *b, const char *c, int status, const char *message) {
    int got = inspected(a, b, c);
    char whole[1100];
    (void)snprintf(whole, sizeof whole, "llm-inspect: %s%s\n", message, status == 2 ? "; llm-inspect --help says more" : "");
    CHECK(got == status && !strcmp(said, whole), "status %d \"%s\",\n    expected %d \"%s\"", got, said, status, whole);
    CHECK(!out[0], "it prints %s", out);
}

static void refused(const char *a, const char *b, int status, const char *message) { refused3(a, b, NULL, status, message); }

static void test_refusals(void) {
    char damaged[300], message[700];
    size_t size;
    uint8_t *data = (uint8_t *)fixture_read(fixture_model_path("gemma", "q5"), &size);
    FILE *file;
    refused(NULL, NULL, 2, "FILE.llm is missing");
    refused("--verify", NULL, 2, "FILE.llm is missing");
    refused("a", "b", 2, "\"b\" is a name too many");
    refused("--all", "b", 2, "--all is not an option");
    refused("a", "--base", 2, "no value after --base");
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
    static const char *const types[] = {"f32", "bf16", "q8", "q6", "q5", "q4", "q3", "q2"};
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

static void write_adapter(const char *path, const uint8_t *file, size_t size) {
    FILE *to = fopen(path, "wb");
    if (!to || fwrite(file, 1, size, to) != size || fclose(to)) exit(2);
}

static void test_adapter(void) {
    static const adapter_spec spec = {6, LLM_BF16, 1 << LLM__LOW_K, 1, 1.5f};
    llm_model *m = fixture_open("gemma", "q5");
    char path[300], base[300], words[200], message[700];
    size_t size;
    uint8_t *file = adapter_image(m, &spec, &size);
    llm__file_section *section = (llm__file_section *)(void *)(file + 64);
    (void)snprintf(path, sizeof path, "%s/inspected-adapter.llm", fixture_folder);
    (void)snprintf(base, sizeof base, "%s", fixture_model_path("gemma", "q5"));
    write_adapter(path, file, size);
    CHECK(!inspected(path, "--tensors", "--verify") && !said[0], "%s", said);
    CHECK(strstr(out, "\nadapter          for gemma3, 6 layers of width 64, not held against a model (--base)\n"), "%s", out);
    CHECK(strstr(out, "\n    5 ffn_up          bf16      6 ") && strstr(out, "\nchecksums        all match\n"), "%s", out);
    CHECK(strstr(out, "\nPAIR ") && !strstr(out, " attn_k "), "%s", out);
    CHECK(!inspected4(path, "--base", base, "--verify") && !said[0] && strstr(out, ", fits the model\n"), "%s%s", said, out);
    (void)snprintf(message, sizeof message, "%s: the model tests/check.h cannot be the base: header: the file begins with "
                   "\"/* The s\", a .llm file with \"llm.h\"", path);
    refused3(path, "--base", "tests/check.h", 1, message);
    (void)snprintf(message, sizeof message, "%s: section LORA: it is for 6 layers of width 64, the model has 2 of 64", path);
    refused3(path, "--base", fixture_model_path("llama-tied", "q8"), 1, message);
    (void)snprintf(message, sizeof message, "/no/base.llm: cannot be opened (errno %d)", ENOENT);
    refused3(path, "--base", "/no/base.llm", 1, message);
    section[1].size -= 16;
    adapter_seal(file, false);
    write_adapter(path, file, size);
    (void)snprintf(words, sizeof words, "sections LORA and PAIR of 64 and %u bytes, not 64 or more and a multiple of 64",
                   (unsigned)section[1].size);
    (void)snprintf(message, sizeof message, "%s: %s", path, words);
    refused(path, NULL, 1, message);
    section[1].size += 16, file[size - 1] ^= 1;
    adapter_seal(file, false);
    write_adapter(path, file, size);
    CHECK(!inspected(path, NULL, NULL) && inspected(path, "--verify", NULL) == 1 && strstr(said, "section DATA: its bytes sum to "),
          "%s", said);
    (void)remove(path);
    free(file);
    llm_model_close(m);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    test_refusals();
    test_print();
    test_adapter();
    return check_report("test_inspect");
}
