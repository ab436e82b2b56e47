/* A conversion that the system refuses something - memory, threads, files, space -: exit status 1 and a
   message, no leak, nothing under the output's name nor beside it; and the next one works. */
#define FAULTS_SYSTEM
#include "../faults.h"
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#include "../faults.h"
#include "../check.h"
#include <dirent.h>

static char folder[] = "/tmp/llm-convert-faults-XXXXXX", input[64], output[64], messages[64], sample[64], seen[64];

/* `type` as the option wants it; with '+' behind it, it is calibrated, with '*' by bits, and with '=' what a
   calibration saw is used. */
static int convert_file(const char *type) {
    static const char *const plain[] = {"--fast"};
    const char *const calibrated[] = {"--write-imatrix", seen, "--calibrate", sample};
    const char *const mixed[] = {"--bits", "6", "--calibrate", sample};
    const char *const weighed[] = {"--rotate", "no", "--imatrix", seen};
    const char *const *more = strchr(type, '=') ? weighed : strchr(type, '+') ? calibrated : strchr(type, '*') ? mixed : plain;
    const char *list[12] = {"llm-convert", input, output, "--quiet", "--threads", "2", "--type"};
    char lines[12][64], *arguments[12];
    int count = 8, i;
    char value[8];
    (void)snprintf(value, sizeof value, "%.2s", type);
    list[7] = value;
    for (i = 0; i < (more == plain ? 1 : 4); i++) list[count++] = more[i];
    for (i = 0; i < count; i++) {
        (void)snprintf(lines[i], sizeof lines[i], "%s", list[i]);
        arguments[i] = lines[i];
    }
    if (!freopen(messages, "w", stderr)) exit(1);
    return llm_convert_main(count, arguments);
}

/* What was said, without the line's end. */
static const char *said(void) {
    static char text[1024];
    size_t size;
    FILE *file;
    (void)fflush(stderr);
    file = fopen(messages, "r");
    size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) (void)fclose(file);
    text[size] = 0;
    return text;
}

/* What a calibration says when it runs out of memory: each has to be said by some run. */
static const char *const scarce[] = {
    "no memory for the work of 2 threads", "no memory to run 149 tokens", "no memory for 149 tokens",
    "no memory for a layer's weights in float; --fast needs none", "no memory for 64 columns",
    "no memory for 38 entries"};
static bool scarce_said[sizeof scarce / sizeof *scarce];
static void scarce_note(void) {
    size_t i;
    for (i = 0; i < sizeof scarce / sizeof *scarce; i++) scarce_said[i] = scarce_said[i] || strstr(said(), scarce[i]);
}

/* Files in the folder but the messages. */
static unsigned files_left(void) {
    unsigned count = 0;
    struct dirent *entry;
    DIR *d = opendir(folder);
    while (d && (entry = readdir(d)) != NULL) count += entry->d_name[0] != '.' && strcmp(entry->d_name, "messages") &&
                                                   strcmp(entry->d_name, "sample") && strcmp(entry->d_name, "seen");
    if (d) (void)closedir(d);
    return count;
}

static uint64_t sum_of(const char *path) {
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(data, 1, sizeof data, file) : 0;
    if (file) (void)fclose(file);
    CHECK(size > 4096 && size < sizeof data, "%s: %zu bytes", path, size);
    return llm__xxh64(data, size);
}

/* Lets each request of a kind fail, once or from there on. */
static void test_kind(const char *kind, fault *f, const char *type, const char *word, bool harmless) {
    uint64_t want;
    size_t calls, n;
    int on;
    faults_reset();
    CHECK(convert_file(type) == 0 && faults_balanced(), "%s: %s", type, said());
    want = sum_of(output);
    calls = f->calls;
    CHECK(calls > 0, "%s: no request", kind);
    for (on = 0; on < (strpbrk(type, "*+") ? 1 : 2); on++) /* those take long */
        for (n = 1; n <= calls; n++) {
            int status;
            (void)unlink(output);
            faults_reset();
            f->at = n, f->on = on;
            status = convert_file(type);
            CHECK(f->failed, "%s %zu was not reached", kind, n);
            CHECK(faults_balanced(), "%s %zu: %zu blocks, %zu bytes, %ld files, %ld maps left", kind, n, faults.blocks,
                  faults.live, faults.files, faults.maps);
            if (harmless) {
                CHECK(status == 0 && sum_of(output) == want, "%s %zu: status %d: %s", kind, n, status, said());
                continue;
            }
            if (status == 0) { /* it did without: threads, say */
                CHECK(sum_of(output) == want, "%s %zu: another file", kind, n);
                continue;
            }
            scarce_note();
            CHECK(status == 1 && strstr(said(), word), "%s %zu: status %d, it says: %s", kind, n, status, said());
            CHECK(files_left() == 0 || strstr(said(), seen) || strstr(said(), "entries"), "%s %zu: %u files are left", kind, n, files_left());
        }
    faults_reset();
    CHECK(convert_file(type) == 0 && sum_of(output) == want, "%s: the conversion after the faults", kind);
    (void)unlink(output);
    printf("%s as %s: %zu requests, each refused\n", kind, type, calls);
}

/* An output that is there stays as it is when the conversion fails. */
static void test_old_output(void) {
    uint64_t want;
    faults_reset();
    CHECK(convert_file("q8") == 0, "%s", said());
    want = sum_of(output);
    faults_reset();
    faults.write.at = 5;
    CHECK(convert_file("q4") == 1 && sum_of(output) == want && files_left() == 1, "the old file is gone");
    (void)unlink(output);
}

static void write_sample(void) {
    FILE *file = fopen(sample, "w");
    CHECK(file && fwrite(calibration_pieces[0], 1, 200, file) == 200 && fclose(file) == 0, "%s", sample);
}

static void test_builtin(void) {
    const llm_text none = {NULL, 0};
    uint32_t length, sequences;
    int32_t *ids;
    llm_error error;
    faults_reset();
    faults.memory.at = 1;
    CHECK(calibration_read(NULL, none, 1, &ids, &length, &sequences, &error) == LLM_ERROR_MEMORY && !ids &&
          strcmp(error.text, "no memory for a text") == 0, "%s", error.text);
}

int main(void) {
    size_t i;
    (void)snprintf(input, sizeof input, "tests/fixtures/models/llama-tied.gguf");
    if (!mkdtemp(folder)) return 1;
    (void)snprintf(output, sizeof output, "%s/out.llm", folder);
    (void)snprintf(messages, sizeof messages, "%s/messages", folder);
    (void)snprintf(sample, sizeof sample, "%s/sample", folder);
    (void)snprintf(seen, sizeof seen, "%s/seen", folder);
    write_sample();
    test_kind("memory", &faults.memory, "q4", "memory", false);
    test_kind("thread", &faults.thread, "q8", "", true);
    test_kind("open", &faults.open, "q8", ": ", false);
    test_kind("stat", &faults.stat, "q8", ": ", false);
    test_kind("map", &faults.map, "q8", "mapped", false);
    test_kind("write", &faults.write, "q8", "cannot be written", false);
    test_kind("sync", &faults.sync, "q8", "cannot be written", false);
    test_kind("rename", &faults.rename, "q8", "cannot be renamed", false);
    (void)snprintf(input, sizeof input, "tests/fixtures/models/gemma.gguf"); /* a vocabulary of pieces */
    test_kind("memory", &faults.memory, "q8", "memory", false);
    (void)snprintf(input, sizeof input, "tests/fixtures/models/llama-tied.gguf");
    test_kind("memory", &faults.memory, "q4+", "memory", false);
    test_kind("memory", &faults.memory, "q4*", "memory", false);
    CHECK(convert_file("q4+") == 0, "%s", said());
    (void)unlink(output);
    test_kind("memory", &faults.memory, "q4=", "memory", false);
    test_builtin();
    test_kind("rename", &faults.rename, "q4+", "cannot be renamed", false);
    for (i = 0; i < sizeof scarce / sizeof *scarce; i++) CHECK(scarce_said[i], "nothing says \"%s\"", scarce[i]);
    test_old_output();
    (void)unlink(messages);
    (void)unlink(sample);
    (void)unlink(seen);
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return check_report("test_convert_faults");
}
