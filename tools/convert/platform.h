/* ======================================================================== */
/* Platform: what the C library lacks                                        */
/* ========================================================================
   Files as memory, threads, and files that appear whole or not at all. POSIX; another system
   needs these functions and nothing else. */
#ifndef CONVERT_PLATFORM_H
#define CONVERT_PLATFORM_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file as read-only memory. */
typedef struct map_file {
    const uint8_t *data;
    size_t size;
} map_file;

static void map_close(map_file *map) {
    union { const uint8_t *in; void *out; } address; /* munmap wants a pointer without const */
    address.in = map->data;
    if (map->data) (void)munmap(address.out, map->size);
    map->data = NULL;
    map->size = 0;
}

static llm_result map_open(map_file *map, const char *path, llm_error *error) {
    struct stat status;
    void *memory;
    int file = open(path, O_RDONLY | O_NONBLOCK); /* a pipe is refused, not waited for */
    map->data = NULL;
    map->size = 0;
    if (file < 0) return llm__fail(error, LLM_ERROR_IO, "%s: %s", path, strerror(errno));
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        (void)close(file);
        return llm__fail(error, LLM_ERROR_IO, "%s: not a regular file", path);
    }
    if (status.st_size <= 0 || (uint64_t)status.st_size > SIZE_MAX / 2) {
        (void)close(file);
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: a file of %.0f bytes", path,
                         (double)status.st_size);
    }
    memory = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    (void)close(file);
    if (memory == MAP_FAILED)
        return llm__fail(error, LLM_ERROR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    map->data = (const uint8_t *)memory;
    map->size = (size_t)status.st_size;
    return LLM_OK;
}

static LLM__UNUSED unsigned core_count(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1u : count > 256 ? 256u : (unsigned)count;
}

/* Calls work(context, index, worker) for every index below count; worker < threads. */
typedef void (*parallel_work)(void *context, size_t index, unsigned worker);

typedef struct parallel_job {
    parallel_work work;
    void *context;
    size_t next, count;
    unsigned workers;
    pthread_mutex_t mutex;
} parallel_job;

static void *parallel_worker(void *argument) {
    parallel_job *job = (parallel_job *)argument;
    unsigned worker;
    size_t index;
    (void)pthread_mutex_lock(&job->mutex);
    worker = job->workers++;
    while (job->next < job->count) {
        index = job->next++;
        (void)pthread_mutex_unlock(&job->mutex);
        job->work(job->context, index, worker);
        (void)pthread_mutex_lock(&job->mutex);
    }
    (void)pthread_mutex_unlock(&job->mutex);
    return NULL;
}

#define PARALLEL_MOST 256u

/* A thread that does not start is no error: the others do its share. */
static LLM__UNUSED void parallel_for(unsigned threads, size_t count, parallel_work work,
                                     void *context) {
    pthread_t handles[PARALLEL_MOST];
    parallel_job job;
    unsigned started = 0, i;
    job.work = work;
    job.context = context;
    job.next = 0;
    job.count = count;
    job.workers = 0;
    (void)pthread_mutex_init(&job.mutex, NULL);
    while (started + 1 < threads && started + 1 < PARALLEL_MOST && started + 1 < count &&
           pthread_create(&handles[started], NULL, parallel_worker, &job) == 0)
        started++;
    (void)parallel_worker(&job);
    for (i = 0; i < started; i++) (void)pthread_join(handles[i], NULL);
    (void)pthread_mutex_destroy(&job.mutex);
}

/* A file that is written under a temporary name beside its own and renamed when it is whole. */
typedef struct new_file {
    FILE *stream;
    char *temporary;
    const char *path;
} new_file;

static llm_result new_file_fail(const new_file *file, const char *what, llm_error *error) {
    return llm__fail(error, LLM_ERROR_IO, "%s: %s: %s", file->path, what, strerror(errno));
}

/* Removes the temporary file, if it is still there. */
static void new_file_abandon(new_file *file) {
    if (file->stream) (void)fclose(file->stream);
    if (file->temporary) (void)unlink(file->temporary);
    free(file->temporary);
    file->stream = NULL;
    file->temporary = NULL;
}

static LLM__UNUSED llm_result new_file_open(new_file *file, const char *path, llm_error *error) {
    size_t size = strlen(path) + 32;
    int handle;
    file->path = path;
    file->stream = NULL;
    file->temporary = (char *)malloc(size);
    if (!file->temporary) return llm__fail(error, LLM_ERROR_MEMORY, "no memory");
    (void)snprintf(file->temporary, size, "%s.%ld.tmp", path, (long)getpid());
    handle = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (handle >= 0) file->stream = fdopen(handle, "wb");
    if (!file->stream) {
        llm_result result = new_file_fail(file, "cannot be created", error);
        if (handle >= 0) {
            (void)close(handle);
            (void)unlink(file->temporary);
        }
        free(file->temporary);
        file->temporary = NULL;
        return result;
    }
    return LLM_OK;
}

static LLM__UNUSED llm_result new_file_write(new_file *file, const void *data, size_t size,
                                             llm_error *error) {
    if (size && fwrite(data, 1, size, file->stream) != size)
        return new_file_fail(file, "writing failed", error);
    return LLM_OK;
}

/* Everything on the disk, then under its name: a killed conversion leaves no half file there. */
static LLM__UNUSED llm_result new_file_commit(new_file *file, llm_error *error) {
    FILE *stream = file->stream;
    bool synced = fflush(stream) == 0 && fsync(fileno(stream)) == 0;
    llm_result result = LLM_OK;
    if (!synced) result = new_file_fail(file, "writing failed", error);
    file->stream = NULL;
    if (fclose(stream) != 0 && result == LLM_OK)
        result = new_file_fail(file, "writing failed", error);
    if (result == LLM_OK && rename(file->temporary, file->path) != 0)
        result = new_file_fail(file, "renaming failed", error);
    if (result == LLM_OK) {
        free(file->temporary);
        file->temporary = NULL;
    }
    new_file_abandon(file);
    return result;
}

#endif
