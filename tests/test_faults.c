/* Whatever the system refuses - memory, threads, files, maps -, the library says so with the right
   code, loses nothing, and what was refused works when it is asked for again, with the same bits. */
#define FAULTS_SYSTEM
#include "faults.h"
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "faults.h"
#include "check.h"
#include "fixture.h"
#include <dirent.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- memory: every allocation of one run through the library ---- */

static size_t refusals;

/* A refusal for want of memory says so, twice the same while there is none; then it works. */
#define TRY(call, why)                                                                                      \
    do {                                                                                                    \
        llm_result result_ = (call);                                                                        \
        if (result_ == LLM_ERROR_MEMORY) {                                                                  \
            refusals++;                                                                                     \
            CHECK(faults.memory.failed && (why)->code == result_ && strstr((why)->text, "memory"),          \
                  "%s: it says %s \"%s\"", #call, llm_result_name((why)->code), (why)->text);               \
            if (faults.memory.on) CHECK((call) == LLM_ERROR_MEMORY, "%s: the second refusal", #call);       \
            faults.memory.at = 0;                                                                           \
            result_ = (call);                                                                               \
        }                                                                                                   \
        CHECK(result_ == LLM_OK, "%s: %s: %s", #call, llm_result_name(result_), (why)->text);               \
    } while (0)
#include "everything.h"

static void test_memory(const char *name, bool allocator, bool on, bool read) {
    everything e;
    uint64_t want;
    size_t n, calls;
    memset(&e, 0, sizeof e);
    e.name = name, e.type = "q8", e.threads = 2, e.brief = true, e.read = read;
    if (allocator) e.allocator.allocate = fault_allocate, e.allocator.release = fault_release;
    faults_reset();
    want = everything_run(&e);
    calls = faults.memory.calls;
    CHECK(calls > 60 && faults_balanced(), "%zu allocations, %zu blocks left", calls, faults.blocks);
    refusals = 0;
    for (n = 1; n <= calls; n++) {
        uint64_t got;
        faults_reset();
        faults.memory.at = n, faults.memory.on = on;
        got = everything_run(&e);
        CHECK(faults.memory.failed, "allocation %zu was not reached", n);
        CHECK(got == want, "other bits after allocation %zu", n);
        CHECK(faults_balanced(), "allocation %zu: %zu blocks, %zu bytes, %ld files, %ld maps left%s", n, faults.blocks,
              faults.live, faults.files, faults.maps, faults.wrong ? ", a wrong size" : "");
    }
    CHECK(refusals == calls, "%zu refusals of %zu allocations", refusals, calls);
    printf("%s: %zu allocations, each refused %s, %s\n", name, calls, on ? "from there on" : "once",
           allocator ? "by the caller's allocator" : "by malloc");
}

/* What memory held before has no say in the bits: 0xff are NaNs, in 16 bits and in 32. */
static void test_fill(const char *name, const char *type) {
    everything e;
    uint64_t got[3];
    int i;
    memset(&e, 0, sizeof e);
    e.name = name, e.type = type, e.threads = 1, e.brief = true;
    e.allocator.allocate = fault_allocate, e.allocator.release = fault_release;
    for (i = 0; i < 3; i++) {
        faults_reset();
        faults.fill = i == 0 ? 0xff : i == 1 ? 0x7f : 1;
        got[i] = everything_run(&e);
    }
    CHECK(got[0] == got[1] && got[1] == got[2], "%s %s: what memory held makes a difference", name, type);
}

/* An arena that never takes anything back. */
static char arena[1 << 22];
static size_t arena_used;
static void *arena_allocate(void *user, size_t size, size_t align) {
    size_t at = (arena_used + align - 1) / align * align;
    (void)user;
    if (size > sizeof arena - 64 - at) return NULL;
    arena_used = at + size;
    return arena + (64 - (uintptr_t)arena % 64) + at;
}
static void test_arena(void) {
    everything e;
    memset(&e, 0, sizeof e);
    e.name = "llama-tied", e.type = "q8", e.threads = 1, e.brief = true;
    e.allocator.allocate = arena_allocate;
    faults_reset();
    (void)everything_run(&e);
    CHECK(!faults.memory.calls && arena_used > 1000, "%zu calls of malloc beside an arena", faults.memory.calls);
}

/* ---- threads ---- */

static unsigned threads_now(void) {
    unsigned count = 0;
    DIR *d = opendir("/proc/self/task");
    while (d && readdir(d)) count++;
    if (d) closedir(d);
    return count;
}
static bool threads_are(unsigned wanted) {
    int tries;
    for (tries = 0; tries < 1000 && threads_now() != wanted; tries++) (void)usleep(1000); /* a joined one fades */
    return threads_now() == wanted;
}

static void refuse_pool(const llm_pool_desc *desc, const char *word, unsigned before) {
    llm_pool *pool = (llm_pool *)(void *)&faults;
    llm_error *error = desc->error;
    CHECK(llm_pool_create(&pool, desc) == LLM_ERROR_THREAD && !pool, "it was created");
    CHECK(error->code == LLM_ERROR_THREAD && strstr(error->text, word), "%s: \"%s\"", word, error->text);
    CHECK(faults_balanced(), "%zu blocks left", faults.blocks);
    CHECK(threads_are(before), "%u threads, there were %u", threads_now(), before);
}

static void test_threads(void) {
    unsigned before = threads_now();
    llm_pool_desc d;
    llm_error error;
    llm_pool *pool;
    char word[64];
    size_t n;
    int on;
    memset(&d, 0, sizeof d);
    d.threads = 5, d.allocator.allocate = fault_allocate, d.allocator.release = fault_release, d.error = &error;
    for (on = 0; on < 2; on++) {
        for (n = 1; n < 5; n++) {
            faults_reset();
            faults.thread.at = n, faults.thread.on = on;
            (void)snprintf(word, sizeof word, "thread %zu of 5 did not start", n + 1);
            refuse_pool(&d, word, before);
        }
        for (n = 1; n < 3; n++) {
            faults_reset();
            faults.lock.at = n, faults.lock.on = on;
            refuse_pool(&d, "no mutex", before);
        }
    }
    faults_reset();
    CHECK(!llm_pool_create(&pool, &d) && threads_are(before + 4), "%u threads", threads_now());
    llm_pool_destroy(pool);
    CHECK(threads_are(before) && faults_balanced(), "%u threads are left", threads_now());
}

/* ---- files ---- */

static llm_result open_path(const char *path, llm_error *error) {
    llm_model *model = (llm_model *)(void *)&faults;
    llm_model_desc d;
    llm_result r;
    memset(&d, 0, sizeof d), memset(error, 0, sizeof *error);
    d.path = path, d.error = error;
    d.allocator.allocate = fault_allocate, d.allocator.release = fault_release;
    r = llm_model_open(&model, &d);
    CHECK(r ? !model : model != NULL, "%s: %s", path, llm_result_name(r));
    llm_model_close(model);
    CHECK(faults_balanced(), "%s: %zu blocks, %ld files, %ld maps left", path, faults.blocks, faults.files, faults.maps);
    return r;
}
static void refuse_path(const char *path, llm_result wanted, const char *word) {
    llm_error error;
    llm_result r = open_path(path, &error);
    CHECK(r == wanted && error.code == wanted && strstr(error.text, word), "%s: %s \"%s\", expected %s \"%s\"", path,
          llm_result_name(r), error.text, llm_result_name(wanted), word);
}

static void test_calls(void) {
    const char *path = fixture_model_path("llama-tied", "q8");
    llm_error error;
    faults_reset();
    faults.open.at = 1;
    refuse_path(path, LLM_ERROR_IO, "cannot be opened");
    faults_reset();
    faults.stat.at = 1;
    refuse_path(path, LLM_ERROR_IO, "cannot be examined");
    faults_reset();
    faults.map.at = 1;
    refuse_path(path, LLM_ERROR_IO, "cannot be mapped");
    CHECK(open_path(path, &error) == LLM_OK, "%s", error.text); /* what failed once works now */
}

static char folder[] = "/tmp/llm-faults-XXXXXX";
static const char *in_folder(const char *name) {
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}
static int make_file(const char *name, const void *data, size_t size) {
    int file = open(in_folder(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(file >= 0 && write(file, data, size) == (ssize_t)size, "%s: %s", name, strerror(errno));
    return file;
}

/* What paths can lead to. */
static void test_paths(void) {
    char loop[300];
    faults_reset();
    refuse_path("", LLM_ERROR_IO, "cannot be opened");
    refuse_path("/no/such/file", LLM_ERROR_IO, "cannot be opened");
    refuse_path("/proc/self/status", LLM_ERROR_IO, "0 bytes, not in 1 .. ");
    refuse_path("/dev/null", LLM_ERROR_IO, "is not a regular file");
    refuse_path("/dev/zero", LLM_ERROR_IO, "is not a regular file");
    if (!mkdtemp(folder)) exit(1);
    refuse_path(folder, LLM_ERROR_IO, "is not a regular file");
    (void)close(make_file("empty", "", 0));
    refuse_path(in_folder("empty"), LLM_ERROR_IO, "0 bytes, not in 1 .. ");
    (void)unlink(in_folder("empty"));
    if (mkfifo(in_folder("pipe"), 0600)) exit(1);
    (void)alarm(60); /* opening a pipe waits for its writer */
    refuse_path(in_folder("pipe"), LLM_ERROR_IO, "is not a regular file");
    (void)alarm(0);
    (void)unlink(in_folder("pipe"));
    (void)snprintf(loop, sizeof loop, "%s", in_folder("loop"));
    if (symlink(loop, loop)) exit(1);
    refuse_path(loop, LLM_ERROR_IO, "cannot be opened");
    (void)unlink(loop);
}

/* More than 4 GB, of which nothing but the model is on the disk: opens if the header says so. */
static void test_large(void) {
    const off_t large = ((off_t)5 << 30) + 4096;
    llm__file_header header;
    llm_error error;
    size_t size;
    void *data = fixture_read(fixture_model_path("llama-tied", "q8"), &size);
    int file = make_file("large", data, size);
    faults_reset();
    memcpy(&header, data, sizeof header);
    free(data);
    if (ftruncate(file, large)) {
        SKIP("no sparse file of 5 GB: %s", strerror(errno));
    } else {
        refuse_path(in_folder("large"), LLM_ERROR_FORMAT, "but the file has 5368713216 bytes");
        header.file_size = (uint64_t)large;
        CHECK(pwrite(file, &header, sizeof header, 0) == sizeof header, "the header");
        CHECK(open_path(in_folder("large"), &error) == LLM_OK, "5 GB: %s", error.text);
    }
    (void)close(file);
    (void)unlink(in_folder("large"));
}

/* In a process of its own, because what it gives up is not to be had again. */
static void in_child(const char *what, void (*test)(void)) {
    int status = -1, before = check_failed;
    pid_t child;
    (void)fflush(stdout);
    child = fork();
    if (child == 0) {
        test();
        (void)fflush(stdout);
        _exit(check_failed != before);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "%s: status %d", what, status);
}
static void without_permission(void) {
    int file = make_file("secret", "secret", 6);
    (void)fchmod(file, 0000);
    (void)chmod(folder, 0755);
    (void)close(file);
    if (geteuid() == 0 && setuid(65534)) return;
    refuse_path(in_folder("secret"), LLM_ERROR_IO, "errno 13");
}
static void without_handles(void) {
    const struct rlimit none = {0, 0};
    CHECK(!setrlimit(RLIMIT_NOFILE, &none), "RLIMIT_NOFILE");
    refuse_path(fixture_model_path("llama-tied", "q8"), LLM_ERROR_IO, "errno 24");
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    test_memory("llama-tied", true, false, false);
    test_memory("gemma", false, true, true);
    test_fill("llama-odd", "q4");
    test_fill("gemma-pattern", "bf16");
    test_arena();
    test_threads();
    test_calls();
    test_paths();
    test_large();
    in_child("no permission", without_permission);
    in_child("no handles", without_handles);
    (void)unlink(in_folder("secret"));
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return check_report("test_faults");
}
