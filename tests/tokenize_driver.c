/* Serves a tokenizer over stdin and stdout, for tests/real/tokenizer_compare.py.

       tokenize_driver VOCABULARY             requests of (u32 flags, u32 size, text) answered by
                                              (u32 count, count x i32); flag 1: special tokens,
                                              2: what the model wants around the text
       tokenize_driver VOCABULARY --time      1, 2, 4 and 8 MB of several texts: ratios and MB/s
       tokenize_driver VOCABULARY --time FILE also of this file's text, repeated

   VOCABULARY is a tokenizer.json, or the script's dump of another file: u32 words and strings (u32
   size, bytes), see read_source. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 199309L
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#ifndef LLM_BUILD_HEADER
#define LLM_BUILD_HEADER "../tools/convert/tokenizer_build.h"
#endif
#include LLM_BUILD_HEADER
#include "../tools/convert/tokenizer_json.h"
#include <stdio.h>
#include <time.h>

static unsigned char *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    unsigned char *data;
    long n;
    if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0 || fseek(f, 0, SEEK_SET)) return NULL;
    data = (unsigned char *)malloc((size_t)n + 1);
    *size = data ? fread(data, 1, (size_t)n, f) : 0;
    (void)fclose(f);
    return data;
}

static const unsigned char *cursor;

static uint32_t take(void) {
    uint32_t v = llm__u32(cursor);
    cursor += 4;
    return v;
}

static llm_text take_text(void) {
    llm_text t;
    t.size = take();
    t.data = (const char *)cursor;
    cursor += t.size;
    return t;
}

static llm_text *take_texts(uint32_t count) {
    llm_text *texts = (llm_text *)calloc(count + 1, sizeof *texts);
    uint32_t i;
    for (i = 0; texts && i < count; i++) texts[i] = take_text();
    return texts;
}

/* model, pre (both zero-terminated), flags, six ids, tokens, types, scores, merges. */
static void read_source(tokenizer_source *s) {
    uint32_t flags, i;
    int32_t *types;
    float *scores;
    memset(s, 0, sizeof *s);
    s->model = take_text().data;
    s->pre = take_text().data;
    flags = take();
    s->add_bos = flags & 1;
    s->add_space_prefix = (flags & 2) != 0;
    s->ignore_merges = (flags & 4) != 0;
    s->bos = (int32_t)take();
    s->eos = (int32_t)take();
    s->eot = (int32_t)take();
    s->eom = (int32_t)take();
    s->unknown = (int32_t)take();
    s->padding = (int32_t)take();
    s->count = take();
    s->tokens = take_texts((uint32_t)s->count);
    types = (int32_t *)calloc(s->count + 1, sizeof *types);
    for (i = 0; types && i < s->count; i++) types[i] = (int32_t)take();
    s->types = types;
    if (flags & 8) {
        scores = (float *)calloc(s->count + 1, sizeof *scores);
        memcpy(scores, cursor, s->count * sizeof *scores);
        cursor += s->count * sizeof *scores;
        s->scores = scores;
    }
    s->merge_count = take();
    if (flags & 16) s->merges = take_texts((uint32_t)s->merge_count);
}

static int serve(const llm_tokenizer *t) {
    uint32_t head[2];
    char *text = NULL;
    int32_t *ids = NULL;
    size_t room = 0;
    while (fread(head, 4, 2, stdin) == 2) {
        llm_tokenize_desc desc = LLM__ZERO;
        llm_error error;
        size_t count;
        uint32_t out;
        if (!room || head[1] > room) {
            room = head[1] + 1024u;
            free(text);
            free(ids);
            text = (char *)malloc(room);
            ids = (int32_t *)malloc((room * 4 + 64) * sizeof *ids);
            if (!text || !ids) return 1;
        }
        if (fread(text, 1, head[1], stdin) != head[1]) return 1;
        desc.text = text;
        desc.size = head[1];
        desc.special = (head[0] & 1) != 0;
        desc.bos = desc.eos = head[0] & 2 ? 0 : -1;
        desc.error = &error;
        if (llm_tokenize(t, &desc, ids, room * 4 + 64, &count) != LLM_OK) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
        out = (uint32_t)count;
        if (fwrite(&out, 4, 1, stdout) != 1 || fwrite(ids, 4, count, stdout) != count) return 1;
        (void)fflush(stdout);
    }
    return 0;
}

static uint64_t random_state = 1;
static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

/* Fills a text of one of the hard kinds; returns its name, or NULL after the last. */
static const char *make_text(int kind, char *s, size_t n, llm_text file) {
    static const char *const units[] = {"a", " ", "ab", NULL, NULL, "\xF0\x9F\x98\x80", NULL,
                                        "\n", "=",
                                        "\xE2\x96\x81", "aab", "0", "\xEF\xBF\xBD", "\x01", NULL};
    static const char *const names[] = {"one letter", "spaces", "ab", "random letters",
                                        "mixed file",
                                        "one emoji", "Chinese", "newlines", "=", "U+2581", "aab",
                                        "zeros", "U+FFFD", "control 1", "random bytes"};
    size_t i, k;
    if (kind >= (int)(sizeof names / sizeof *names)) return NULL;
    if (kind == 4 && !file.size) return make_text(0, s, n, file);
    for (i = 0; i < n;) {
        char wide[3];
        if (units[kind]) {
            for (k = 0; units[kind][k] && i < n; k++) s[i++] = units[kind][k];
        } else if (kind == 3) {
            s[i++] = (char)('a' + random_below(26));
        } else if (kind == 4) {
            s[i] = file.data[i % file.size], i++;
        } else if (kind == 6) {
            uint32_t c = 0x4E00 + random_below(2500);
            wide[0] = (char)(0xE0 | c >> 12);
            wide[1] = (char)(0x80 | (c >> 6 & 63));
            wide[2] = (char)(0x80 | (c & 63));
            for (k = 0; k < 3 && i < n; k++) s[i++] = wide[k];
        } else {
            s[i++] = (char)random_below(256);
        }
    }
    return names[kind];
}

/* Processor time: wall time says little on a machine that others use too. */
static double seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int time_all(const llm_tokenizer *t, llm_text file) {
    const size_t most = (size_t)8 << 20;
    char *text = (char *)malloc(most);
    int32_t *ids = (int32_t *)malloc(most * 4 * sizeof *ids);
    int kind, round, bad = 0;
    const char *name;
    if (!text || !ids) return 1;
    memset(ids, 0, most * 4 * sizeof *ids);
    for (kind = 0; (name = make_text(kind, text, most, file)) != NULL; kind++) {
        double best[4] = {1e9, 1e9, 1e9, 1e9};
        size_t count = 0, size;
        int k;
        for (round = 0; round < 3; round++)
            for (k = 0; k < 4; k++) {
                llm_tokenize_desc desc = LLM__ZERO;
                double start;
                size = most >> (3 - k);
                desc.text = text;
                desc.size = size;
                start = seconds();
                if (llm_tokenize(t, &desc, ids, most * 4, &count) != LLM_OK) return 1;
                start = seconds() - start;
                if (start < best[k]) best[k] = start;
            }
        printf("%-16s 8 MB: %7.2f MB/s, %5.2f bytes/token, doubling x%.2f x%.2f x%.2f\n", name,
               8.388608 / best[3], (double)most / (double)count, best[1] / best[0],
                   best[2] / best[1],
               best[3] / best[2]);
        for (k = 1; k < 4; k++) bad |= best[k] > 2.3 * best[k - 1];
    }
    return bad;
}

int main(int argc, char **argv) {
    tokenizer_source source;
    llm_tokenizer t;
    llm_error error;
    unsigned char *section, *dump, *aligned;
    size_t size, dump_size = 0;
    llm_text file = {NULL, 0};
    double start = seconds();
    if (argc < 2 || (dump = read_file(argv[1], &dump_size)) == NULL) return 2;
    cursor = dump;
    if (strlen(argv[1]) > 5 && !strcmp(argv[1] + strlen(argv[1]) - 5, ".json")) {
        tokenizer_json *json = (tokenizer_json *)calloc(1, sizeof *json);
        llm_text text = {(const char *)dump, dump_size}, none = {NULL, 0};
        if (!json || tokenizer_json_parse(json, text, none, &error) != LLM_OK) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
        source = json->source;
    } else {
        read_source(&source);
    }
    if (tokenizer_build(&source, &section, &size, &error) != LLM_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    aligned = (unsigned char *)malloc(size + 64);
    if (!aligned) return 1;
    aligned += 64 - (uintptr_t)aligned % 64;
    memcpy(aligned, section, size);
    if (llm__tokenizer_init(&t, aligned, size, 0, &error) != LLM_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    if (argc < 3) return serve(&t);
    {
        const llm__tok_header *h = llm__tok_head(&t);
        printf("section %lu bytes, built in %.2f s; reach %u; trie %u nodes; added %u; pairs %u\n",
               (unsigned long)size, seconds() - start, (unsigned)h->reach, (unsigned)t.trie_count,
               (unsigned)t.added_count[0], (unsigned)t.pair_buckets * 8);
    }
    if (argc > 3) file.data = (const char *)read_file(argv[3], &file.size);
    return time_all(&t, file);
}
