/* A system that fails on request: memory, threads, files. A test counts what one run asks for, then
   lets every single request fail in turn. Comes first of all. With FAULTS_SYSTEM it also takes the
   names that the code under test calls; included again, it gives them back. */
#ifdef LLM_TESTS_FAULTS_H
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef pthread_create
#undef pthread_mutex_init
#undef pthread_cond_init
#undef open
#undef close
#undef fstat
#undef mmap
#undef munmap
#undef fdopen
#undef fclose
#undef fwrite
#undef fsync
#undef rename
#endif
#ifndef LLM_TESTS_FAULTS_H
#define LLM_TESTS_FAULTS_H
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* One kind of request: how many there were, which one fails, and whether all after it do too. */
typedef struct fault {
    size_t calls, at; /* at 0: none fails */
    bool on;          /* from then on */
    size_t failed;
} fault;

static struct {
    fault memory, thread, lock, open, stat, map, write, sync, rename;
    size_t live, blocks; /* not yet released */
    long files, maps;    /* opened and not yet closed */
    bool wrong;          /* a size or an alignment */
    int fill;            /* what fresh memory holds besides 0xa5, if not 0 */
} faults;

static inline bool fault_now(fault *f) {
    size_t call = __atomic_add_fetch(&f->calls, 1, __ATOMIC_RELAXED);
    if (!f->at || (f->on ? call < f->at : call != f->at)) return false;
    f->failed++;
    return true;
}

static inline void faults_reset(void) { memset(&faults, 0, sizeof faults); }
static inline bool faults_balanced(void) {
    return !faults.live && !faults.blocks && !faults.files && !faults.maps && !faults.wrong;
}

/* ---- memory: a block knows its size ---- */

static inline void *fault_allocate(void *user, size_t size, size_t align) {
    void *memory = NULL;
    (void)user;
    if (fault_now(&faults.memory)) return NULL;
    if (!size || !align || align > 64 || (align & (align - 1))) faults.wrong = true;
    if (posix_memalign(&memory, 64, size + 64)) return NULL;
    memcpy(memory, &size, sizeof size);
    memset((char *)memory + 64, faults.fill ? faults.fill : 0xa5, size); /* nobody may count on zeros */
    faults.live += size, faults.blocks++;
    return (char *)memory + 64;
}
static inline void fault_release(void *user, void *memory, size_t size) {
    size_t asked;
    (void)user;
    memcpy(&asked, (char *)memory - 64, sizeof asked);
    if (asked != size) faults.wrong = true;
    faults.live -= asked, faults.blocks--;
    free((char *)memory - 64);
}

static inline void *fault_malloc(size_t size) { return fault_allocate(NULL, size ? size : 1, 16); }
static inline void fault_free(void *memory) {
    size_t size;
    if (!memory) return;
    memcpy(&size, (char *)memory - 64, sizeof size);
    fault_release(NULL, memory, size);
}
static inline void *fault_calloc(size_t count, size_t size) {
    void *memory;
    if (size && count > SIZE_MAX / size) return NULL;
    memory = fault_malloc(count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}
static inline void *fault_realloc(void *memory, size_t size) {
    void *larger = fault_malloc(size);
    size_t old;
    if (!larger || !memory) return larger;
    memcpy(&old, (char *)memory - 64, sizeof old);
    memcpy(larger, memory, old < size ? old : size);
    fault_free(memory);
    return larger;
}

/* ---- threads ---- */

static inline int fault_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                                       void *data) {
    return fault_now(&faults.thread) ? EAGAIN : pthread_create(thread, attributes, start, data);
}
static inline int fault_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    return fault_now(&faults.lock) ? ENOMEM : pthread_mutex_init(mutex, attributes);
}
static inline int fault_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes) {
    return fault_now(&faults.lock) ? ENOMEM : pthread_cond_init(condition, attributes);
}

/* ---- files ---- */

#define FAULT_CALL(kind, code, call) (fault_now(&faults.kind) ? (errno = (code), -1) : (call))
static inline int fault_opened(int file) { return faults.files += file >= 0, file; }
static inline int fault_close(int file) { return faults.files--, close(file); }
static inline FILE *fault_fdopen(int file, const char *mode) {
    return fault_now(&faults.open) ? (errno = EMFILE, (FILE *)NULL) : fdopen(file, mode);
}
static inline int fault_fclose(FILE *stream) { return faults.files--, fclose(stream); }
static inline void *fault_mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    void *map = MAP_FAILED;
    if (fault_now(&faults.map)) errno = ENOMEM;
    else map = mmap(at, size, protection, flags, file, offset);
    faults.maps += map != MAP_FAILED;
    return map;
}
static inline int fault_munmap(void *at, size_t size) { return faults.maps--, munmap(at, size); }
static inline size_t fault_fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    if (fault_now(&faults.write)) return errno = ENOSPC, (size_t)0;
    return fwrite(data, size, count, stream);
}

#ifdef FAULTS_SYSTEM
#define malloc                 fault_malloc
#define calloc                 fault_calloc
#define realloc                fault_realloc
#define free                   fault_free
#define pthread_create         fault_pthread_create
#define pthread_mutex_init     fault_mutex_init
#define pthread_cond_init      fault_cond_init
#define open(...)              fault_opened(FAULT_CALL(open, EMFILE, open(__VA_ARGS__)))
#define close                  fault_close
#define fstat(file, about)     FAULT_CALL(stat, EIO, fstat(file, about))
#define mmap                   fault_mmap
#define munmap                 fault_munmap
#define fdopen                 fault_fdopen
#define fclose                 fault_fclose
#define fwrite                 fault_fwrite
#define fsync(file)            FAULT_CALL(sync, EIO, fsync(file))
#define rename(from, to)       FAULT_CALL(rename, EXDEV, rename(from, to))
#endif
#endif
