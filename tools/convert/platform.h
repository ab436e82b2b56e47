/* ======================================================================== */
/* Platform: what the C library lacks                                        */
/* ========================================================================
   Files as memory, threads, and files that appear whole or not at all; paths and arguments are
   UTF-8 everywhere. POSIX and Windows. Comes after llm.h with its implementation. */
#ifndef CONVERT_PLATFORM_H
#define CONVERT_PLATFORM_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#if defined(_WIN32)
#include <io.h>
#include <process.h>
#include <shellapi.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

/* ---- the system's calls under the names of POSIX, with UTF-8 ------------ */

#if defined(_WIN32)
/* From malloc; NULL: not UTF-8, or no memory. */
static wchar_t *platform_wide(const char *text) {
    const int size = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    wchar_t *wide = size ? (wchar_t *)malloc((size_t)size * sizeof *wide) : NULL;
    if (wide) (void)MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, size);
    if (!wide) errno = EINVAL;
    return wide;
}

/* The command line in UTF-8, for as long as the program runs; the given one if that fails. */
static LLM__UNUSED char **platform_arguments(int *count, char **arguments) {
    int given = 0, i;
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &given);
    char **list = wide ? (char **)calloc((size_t)given + 1, sizeof *list) : NULL;
    for (i = 0; list && i < given; i++) {
        const int size = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
        list[i] = (char *)calloc((size_t)size + 1, 1);
        if (!list[i]) return arguments;
        (void)WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, list[i], size, NULL, NULL);
    }
    if (wide) (void)LocalFree(wide);
    SetConsoleOutputCP(CP_UTF8);
    if (list) *count = given;
    return list ? list : arguments;
}

static int platform_create(const char *path) {
    wchar_t *wide = platform_wide(path);
    const int flags = _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY;
    const int handle = wide ? _wopen(wide, flags, _S_IREAD | _S_IWRITE) : -1;
    free(wide);
    return handle;
}
static bool platform_remove(const char *path) {
    wchar_t *wide = platform_wide(path);
    const bool good = wide && _wunlink(wide) == 0;
    free(wide);
    return good;
}
static bool platform_rename(const char *from, const char *to) {
    wchar_t *old = platform_wide(from), *new_name = platform_wide(to);
    const DWORD flags = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
    const bool good = old && new_name && MoveFileExW(old, new_name, flags);
    if (!good) errno = EACCES;
    free(old);
    free(new_name);
    return good;
}
static bool platform_sync(FILE *stream) { return _commit(_fileno(stream)) == 0; }
static bool platform_seek(FILE *stream, uint64_t at) {
    return _fseeki64(stream, (int64_t)at, SEEK_SET) == 0;
}
#define platform_fdopen _fdopen
#define platform_close  _close
#define platform_id     _getpid
#else
static LLM__UNUSED char **platform_arguments(int *count, char **arguments) {
    (void)count;
    return arguments;
}
static int platform_create(const char *path) {
    return open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
}
static bool platform_remove(const char *path) { return unlink(path) == 0; }
static bool platform_rename(const char *from, const char *to) { return rename(from, to) == 0; }
static bool platform_sync(FILE *stream) { return fsync(fileno(stream)) == 0; }
static bool platform_seek(FILE *stream, uint64_t at) {
    return fseeko(stream, (off_t)at, SEEK_SET) == 0;
}
#define platform_fdopen fdopen
#define platform_close  close
#define platform_id     getpid
#endif

/* ---- paths -------------------------------------------------------------- */

#if defined(_WIN32)
static DWORD platform_attributes(const char *path) {
    wchar_t *wide = platform_wide(path);
    const DWORD attributes = wide ? GetFileAttributesW(wide) : INVALID_FILE_ATTRIBUTES;
    free(wide);
    return attributes;
}
static LLM__UNUSED bool platform_exists(const char *path) {
    return platform_attributes(path) != INVALID_FILE_ATTRIBUTES;
}
static LLM__UNUSED bool platform_is_folder(const char *path) {
    const DWORD attributes = platform_attributes(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
}
static bool platform_separates(char c) { return c == '/' || c == '\\'; }
#else
static LLM__UNUSED bool platform_exists(const char *path) { return access(path, F_OK) == 0; }
static LLM__UNUSED bool platform_is_folder(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}
static bool platform_separates(char c) { return c == '/'; }
#endif

/* Where the last name of a path begins. */
static LLM__UNUSED size_t platform_base(const char *path) {
    size_t at = strlen(path);
    while (at && !platform_separates(path[at - 1])) at--;
    return at;
}

/* FOLDER/NAME, where `folder` is the first `size` bytes; from malloc. */
static char *platform_join(const char *folder, size_t size, const char *name) {
    char *path = (char *)malloc(size + strlen(name) + 2);
    if (!path) return NULL;
    if (size) memcpy(path, folder, size);
    if (size && !platform_separates(folder[size - 1])) path[size++] = '/';
    memcpy(path + size, name, strlen(name) + 1);
    return path;
}

/* The path of a file in the folder of another one; from malloc. */
static LLM__UNUSED char *platform_beside(const char *path, const char *name) {
    return platform_join(path, platform_base(path), name);
}

/* ---- files as memory ---------------------------------------------------- */

/* A file as read-only memory. */
typedef struct map_file {
    const uint8_t *data;
    size_t size;
} map_file;

static LLM__UNUSED void map_close(map_file *map) {
    if (map->data) llm__unmap(map->data, map->size);
    map->data = NULL;
    map->size = 0;
}

static LLM__UNUSED llm_result map_open(map_file *map, const char *path, llm_error *error) {
    map->size = 0;
    map->data = llm__map(path, &map->size, error);
    return map->data ? LLM_OK : error->code;
}

/* Bytes of memory that the machine has; 0: not known. */
static LLM__UNUSED uint64_t platform_memory(void) {
#if defined(_WIN32)
    MEMORYSTATUSEX status;
    status.dwLength = sizeof status;
    return GlobalMemoryStatusEx(&status) ? status.ullTotalPhys : 0;
#elif defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
#else
    return 0;
#endif
}

/* ---- threads ------------------------------------------------------------ */

static LLM__UNUSED unsigned core_count(void) { return llm__cores(); }

/* Calls work(context, index, worker) for every index below count, at most 2^31; worker < threads. */
typedef void (*parallel_work)(void *context, size_t index, unsigned worker);

typedef struct parallel_job {
    parallel_work work;
    void *context;
    uint32_t next, count;
} parallel_job;

static void parallel_lane(void *context, uint32_t lane) {
    parallel_job *job = (parallel_job *)context;
    uint32_t index;
    while ((index = llm__fetch_add32(&job->next, 1)) < job->count)
        job->work(job->context, index, lane);
}

/* A thread that does not start is no error: the others do its share. */
static LLM__UNUSED void parallel_for(unsigned threads, size_t count, parallel_work work,
                                     void *context) {
    llm_pool_desc desc;
    llm_pool *pool = NULL;
    parallel_job job;
    memset(&desc, 0, sizeof desc);
    desc.threads = count < threads ? (uint32_t)count : threads;
    job.work = work, job.context = context;
    job.next = 0, job.count = (uint32_t)count;
    if (desc.threads > 1) (void)llm_pool_create(&pool, &desc);
    llm__pool_run(pool, parallel_lane, &job);
    llm_pool_destroy(pool);
}

/* What was printed is on its way; false, with a message: a full disk, a closed handle. */
static LLM__UNUSED bool output_written(const char *program) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return true;
    fprintf(stderr, "%s: standard output could not be written\n", program);
    return false;
}

/* ---- new files ---------------------------------------------------------- */

/* A file that is written under a temporary name beside its own and renamed when it is whole. */
typedef struct new_file {
    FILE *stream;
    char *temporary;
    const char *path;
} new_file;

static llm_result new_file_fail(const new_file *file, const char *what, llm_error *error) {
    return llm__fail(error, LLM_ERROR_IO, "%s: cannot be %s: %s", file->path, what,
                     strerror(errno));
}

/* Removes the temporary file, if it is still there. */
static void new_file_abandon(new_file *file) {
    if (file->stream) (void)fclose(file->stream);
    if (file->temporary) (void)platform_remove(file->temporary);
    free(file->temporary);
    file->stream = NULL;
    file->temporary = NULL;
}

static LLM__UNUSED llm_result new_file_open(new_file *file, const char *path, llm_error *error) {
    size_t size = strlen(path) + 32;
    struct stat there;
    int handle;
    file->path = path;
    file->stream = NULL;
    file->temporary = NULL;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) /* no device may become a file */
        return llm__fail(error, LLM_ERROR_IO, "%s: not a regular file, so not replaced", path);
    file->temporary = (char *)malloc(size);
    if (!file->temporary)
        return llm__fail(error, LLM_ERROR_MEMORY, "%s: no memory for a name of %zu bytes", path,
                         size);
    (void)snprintf(file->temporary, size, "%s.%ld.tmp", path, (long)platform_id());
    handle = platform_create(file->temporary);
    if (handle >= 0) file->stream = platform_fdopen(handle, "wb");
    if (!file->stream) {
        llm_result result = new_file_fail(file, "created", error);
        if (handle >= 0) {
            (void)platform_close(handle);
            (void)platform_remove(file->temporary);
        }
        free(file->temporary);
        file->temporary = NULL;
        return result;
    }
    return LLM_OK;
}

/* Takes over what an earlier process left under `file`'s path and `ending`: its first `size` bytes,
   to be written behind. The file is open; false: nothing has changed. */
static LLM__UNUSED bool new_file_take(new_file *file, const char *ending, uint64_t size) {
    const size_t room = strlen(file->path) + strlen(ending) + 1;
    char *old = (char *)malloc(room);
    struct stat there;
    FILE *stream = NULL;
    if (old) (void)snprintf(old, room, "%s%s", file->path, ending);
    if (old && strcmp(old, file->temporary) != 0 && stat(old, &there) == 0 &&
        S_ISREG(there.st_mode) && (uint64_t)there.st_size >= size)
        stream = fopen(old, "r+b");
    if (stream && platform_seek(stream, size)) {
        (void)fclose(file->stream);
        (void)platform_remove(file->temporary);
        free(file->temporary);
        file->stream = stream;
        file->temporary = old;
        return true;
    }
    if (stream) (void)fclose(stream);
    free(old);
    return false;
}

static LLM__UNUSED llm_result new_file_write(new_file *file, const void *data, size_t size,
                                             llm_error *error) {
    if (size && fwrite(data, 1, size, file->stream) != size)
        return new_file_fail(file, "written", error);
    return LLM_OK;
}

static LLM__UNUSED llm_result new_file_seek(new_file *file, uint64_t at, llm_error *error) {
    if (platform_seek(file->stream, at)) return LLM_OK;
    return new_file_fail(file, "written", error);
}

/* Everything on the disk, then under its name: a killed conversion leaves no half file there. */
static LLM__UNUSED llm_result new_file_commit(new_file *file, llm_error *error) {
    FILE *stream = file->stream;
    bool synced = fflush(stream) == 0 && platform_sync(stream);
    llm_result result = LLM_OK;
    if (!synced) result = new_file_fail(file, "written", error);
    file->stream = NULL;
    if (fclose(stream) != 0 && result == LLM_OK)
        result = new_file_fail(file, "written", error);
    if (result == LLM_OK && !platform_rename(file->temporary, file->path))
        result = new_file_fail(file, "renamed", error);
    if (result == LLM_OK) {
        free(file->temporary);
        file->temporary = NULL;
    }
    new_file_abandon(file);
    return result;
}

#endif
