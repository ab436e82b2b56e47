/* What the programs share: the library, options from a table (which is also the help text), files, errors.
   Exit status: 0 done, 1 something failed, 2 the command line is wrong. */
#ifndef LLM_EXAMPLES_OPTIONS_H
#define LLM_EXAMPLES_OPTIONS_H
#if !defined(_WIN32) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1 /* sigaction, clock_gettime, isatty, under -std=c99 too */
#endif
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <shellapi.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <time.h>
#include <unistd.h>
#endif

#if defined(__GNUC__)
#define OPTIONS_MAYBE __attribute__((unused))
#define OPTIONS_EXITS __attribute__((unused, noreturn, format(printf, 2, 3)))
#else
#define OPTIONS_MAYBE
#define OPTIONS_EXITS
#endif

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
typedef enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_COUNT,
    OPTION_SEED,
    OPTION_FLOAT,
    OPTION_ADAPTERS /* may stand several times */
} option_kind;

/* What --lora FILE or FILE=WEIGHT asks for; see open_adapters. */
typedef struct adapters {
    const char *text[LLM_ADAPTERS_MOST];
    llm_adapter *adapter[LLM_ADAPTERS_MOST];
    float weight[LLM_ADAPTERS_MOST];
    uint32_t count, rank; /* what a session needs as adapter_rank */
} adapters;

/* An option, or, with a name that does not begin with '-', what stands without one, in order. */
typedef struct option {
    const char *name;
    option_kind kind;
    void *value;          /* bool, const char *, uint32_t, uint64_t, float, adapters */
    const char *argument; /* what to call its value in the help; NULL for flags */
    const char *help;
    bool needed;
} option;

typedef struct program {
    const char *name, *about, *more;
    const option *options; /* up to one with name NULL */
} program;

OPTIONS_EXITS static void fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
    exit(status);
}

/* Standard output could not be written (a full disk) is a failure too. */
OPTIONS_MAYBE static int finish(const program *p) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    (void)fprintf(stderr, "%s: the output could not be written\n", p->name);
    return EXIT_FAILED;
}

static void print_help(const program *p) {
    const option *o;
    (void)printf("usage: %s", p->name);
    for (o = p->options; o->name; o++)
        if (o->name[0] != '-') (void)printf(o->needed ? " %s" : " [%s]", o->name);
    (void)printf(" [options]\n\n%s\n\n", p->about);
    for (o = p->options; o->name; o++) {
        char left[64];
        (void)snprintf(left, sizeof left, "%s%s%s", o->name, o->argument ? " " : "",
                       o->argument ? o->argument : "");
        (void)printf("  %-18s %s\n", left, o->help);
    }
    (void)printf("  %-18s %s\n", "--help", "this text");
    if (p->more) (void)printf("\n%s\n", p->more);
    (void)printf("\nExit status: 0 done, 1 something failed, 2 the command line is wrong.\n");
}

/* Stores a value; false if it is not what the kind asks for. */
static bool set_option(const option *o, const char *text) {
    char *end = NULL;
    if (o->kind == OPTION_FLAG) {
        *(bool *)o->value = true;
        return true;
    }
    if (o->kind == OPTION_TEXT) {
        *(const char **)o->value = text;
        return true;
    }
    if (o->kind == OPTION_ADAPTERS) {
        adapters *a = (adapters *)o->value;
        if (a->count == LLM_ADAPTERS_MOST) return false;
        a->text[a->count++] = text;
        return true;
    }
    errno = 0;
    if (o->kind == OPTION_FLOAT) {
        double value = strtod(text, &end);
        *(float *)o->value = (float)value;
    } else {
        unsigned long long value = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || (o->kind == OPTION_COUNT && value > UINT32_MAX))
            return false;
        if (o->kind == OPTION_COUNT)
            *(uint32_t *)o->value = (uint32_t)value;
        else
            *(uint64_t *)o->value = value;
    }
    return end != text && *end == 0 && errno == 0;
}

/* Option `name[0, size)`, or the next one without a dash (`name` NULL). */
static const option *find_option(const program *p, const char *name, size_t size, int position) {
    const option *o;
    for (o = p->options; o->name; o++) {
        if (!name && o->name[0] != '-' && position-- == 0) return o;
        if (name && o->name[0] == '-' && strlen(o->name) == size && !memcmp(o->name, name, size))
            return o;
    }
    return NULL;
}

#if defined(_WIN32)
/* The command line in UTF-8, for as long as the program runs. */
static char **utf8_arguments(int *count) {
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), count);
    char **list = wide ? (char **)calloc((size_t)*count + 1, sizeof *list) : NULL;
    int i;
    for (i = 0; list && i < *count; i++) {
        const int size = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
        list[i] = (char *)calloc((size_t)size + 1, 1);
        if (!list[i]) break;
        (void)WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, list[i], size, NULL, NULL);
    }
    if (!list || i < *count) fail(EXIT_FAILED, "no memory for the command line");
    (void)LocalFree(wide);
    return list;
}
#endif

/* fopen, with a path in UTF-8. */
OPTIONS_MAYBE static FILE *open_file(const char *path, const char *mode) {
#if defined(_WIN32)
    wchar_t wide[1024], wide_mode[8];
    errno = EINVAL;
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, 1024) &&
                   MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, mode, -1, wide_mode, 8)
               ? _wfopen(wide, wide_mode)
               : NULL;
#else
    return fopen(path, mode);
#endif
}

/* Reads the command line or ends the program. "--name value" and "--name=value" are the same. */
OPTIONS_MAYBE static void parse_options(const program *p, int argc, char **argv) {
    int i, positions = 0;
    bool dashes = true;
    const option *o;
#if defined(_WIN32)
    argv = utf8_arguments(&argc);
    SetConsoleOutputCP(CP_UTF8);
    SetConsoleCP(CP_UTF8);
    (void)_setmode(_fileno(stdout), _O_BINARY);
    (void)_setmode(_fileno(stdin), _O_BINARY);
#endif
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = NULL;
        const size_t size = strcspn(name, "=");
        if (dashes && !strcmp(name, "--help")) {
            print_help(p);
            exit(finish(p));
        }
        if (dashes && !strcmp(name, "--")) {
            dashes = false;
            continue;
        }
        if (!dashes || name[0] != '-' || !name[1]) {
            o = find_option(p, NULL, 0, positions++);
            if (!o)
                fail(EXIT_USAGE, "%s: \"%s\" is one too many; see %s --help", p->name, name,
                     p->name);
            value = name;
        } else {
            o = find_option(p, name, size, 0);
            if (!o || (o->kind == OPTION_FLAG && name[size]))
                fail(EXIT_USAGE, "%s: there is no option %s; see %s --help", p->name, name,
                     p->name);
            if (o->kind != OPTION_FLAG)
                value = name[size] ? name + size + 1 : ++i < argc ? argv[i] : NULL;
            if (o->kind != OPTION_FLAG && !value)
                fail(EXIT_USAGE, "%s: %s wants a value", p->name, o->name);
        }
        if (!set_option(o, value))
            fail(EXIT_USAGE, "%s: %s cannot be \"%s\"", p->name, o->name, value);
    }
    for (i = 0; (o = find_option(p, NULL, 0, i)) != NULL; i++)
        if (o->needed && i >= positions)
            fail(EXIT_USAGE, "%s: %s is missing; see %s --help", p->name, o->name, p->name);
}

/* A whole file, "-" for standard input; from malloc, with a NUL behind it. */
OPTIONS_MAYBE static char *read_all(const char *path, size_t *size) {
    FILE *file = strcmp(path, "-") ? open_file(path, "rb") : stdin;
    size_t capacity = 1 << 16, used = 0, got = 1;
    char *data = (char *)malloc(capacity);
    if (!file) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    while (data && got) {
        got = fread(data + used, 1, capacity - used - 1, file);
        used += got;
        if (used + 1 == capacity) data = (char *)realloc(data, capacity *= 2);
    }
    if (!data) fail(EXIT_FAILED, "%s: no memory to read it", path);
    if (ferror(file)) fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
    if (file != stdin) (void)fclose(file);
    data[used] = 0;
    *size = used;
    return data;
}

#define CHECKED(call, error)                                          \
    do {                                                              \
        if ((call) != LLM_OK) fail(EXIT_FAILED, "%s", (error)->text); \
    } while (0)

OPTIONS_MAYBE static llm_kv parse_kv(const program *p, const char *name) {
    if (!strcmp(name, "q8")) return LLM_KV_Q8;
    if (!strcmp(name, "f16")) return LLM_KV_F16;
    if (!strcmp(name, "q4")) return LLM_KV_Q4;
    fail(EXIT_USAGE, "%s: --kv is q8, f16 or q4, not \"%s\"", p->name, name);
}

OPTIONS_MAYBE static llm_model *open_model(const char *path) {
    llm_error error;
    llm_model *model;
    llm_model_desc d;
    memset(&d, 0, sizeof d);
    d.path = path, d.error = &error;
    CHECKED(llm_model_open(&model, &d), &error);
    return model;
}

/* FILE=WEIGHT: the weight is what stands behind the last '=', if that is a number. */
OPTIONS_MAYBE static void open_adapters(adapters *a, const llm_model *model) {
    llm_error error;
    llm_adapter_desc d;
    llm_adapter_info info;
    uint32_t i;
    for (i = 0; i < a->count; i++) {
        const char *equals = strrchr(a->text[i], '=');
        char *end = NULL, *path = (char *)malloc(strlen(a->text[i]) + 1);
        if (!path) fail(EXIT_FAILED, "no memory for a path");
        memcpy(path, a->text[i], strlen(a->text[i]) + 1);
        a->weight[i] = equals && equals[1] ? (float)strtod(equals + 1, &end) : 1.0f;
        if (end && !*end) path[equals - a->text[i]] = 0;
        else a->weight[i] = 1.0f;
        memset(&d, 0, sizeof d);
        d.model = model, d.path = path, d.error = &error;
        if (llm_adapter_open(&a->adapter[i], &d) != LLM_OK)
            fail(EXIT_FAILED, "%s%s%s", error.code == LLM_ERROR_IO ? "" : path,
                 error.code == LLM_ERROR_IO ? "" : ": ", error.text);
        free(path);
        llm_adapter_get_info(a->adapter[i], &info);
        a->rank += info.rank;
    }
}

OPTIONS_MAYBE static void use_adapters(const adapters *a, llm_session *session) {
    CHECKED(llm_session_set_adapters(session, (const llm_adapter *const *)a->adapter, a->weight,
                                     a->count),
            llm_session_error(session));
}

OPTIONS_MAYBE static void close_adapters(const adapters *a) {
    uint32_t i;
    for (i = 0; i < a->count; i++) llm_adapter_close(a->adapter[i]);
}

OPTIONS_MAYBE static llm_pool *make_pool(uint32_t threads) {
    llm_error error;
    llm_pool *pool;
    llm_pool_desc d;
    memset(&d, 0, sizeof d);
    d.threads = threads, d.error = &error;
    CHECKED(llm_pool_create(&pool, &d), &error);
    return pool;
}

/* The ids of a text; from malloc. `bos` and `eos` as in llm_tokenize_desc. */
OPTIONS_MAYBE static int32_t *tokenize(const llm_model *model, llm_text text, bool special, int bos,
                                       int eos, size_t *count) {
    llm_error error;
    llm_tokenize_desc d;
    int32_t *ids = (int32_t *)malloc((text.size + 8) * sizeof *ids);
    if (!llm_model_tokenizer(model)) fail(EXIT_FAILED, "the model's file has no tokenizer");
    if (!ids) fail(EXIT_FAILED, "no memory for the ids of %lu bytes", (unsigned long)text.size);
    memset(&d, 0, sizeof d);
    d.text = text.data, d.size = text.size, d.special = special;
    d.bos = bos, d.eos = eos, d.error = &error;
    CHECKED(llm_tokenize(llm_model_tokenizer(model), &d, ids, text.size + 8, count), &error);
    return ids;
}

/* Seconds, from some moment on. */
OPTIONS_MAYBE static double seconds(void) {
#if defined(_WIN32)
    LARGE_INTEGER now, rate;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&rate);
    return (double)now.QuadPart / (double)rate.QuadPart;
#else
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

#endif
