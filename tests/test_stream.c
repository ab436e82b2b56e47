/* The text stream against a plain reference, over random cuts. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include <stdlib.h>
#include <string.h>

static uint64_t rng_state = 88172645463325252u;
static uint32_t below(uint32_t n) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state * 0x2545F4914F6CDD1Du >> 32) * n >> 32);
}

/* ---- the reference: whole texts, code points, memcmp ---------------------- */

/* Length of the longest prefix of a well-formed character at p, and whether it is complete. Written
   from table 3-7 of the Unicode Standard: first byte, ranges of the second, 80..BF after that. */
static size_t well_formed(const unsigned char *p, size_t n, bool *complete) {
    static const unsigned char rows[9][5] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    size_t r, k;
    *complete = false;
    for (r = 0; r < 9; r++) {
        if (p[0] < rows[r][0] || p[0] > rows[r][1]) continue;
        for (k = 1; k < rows[r][4] && k < n; k++) {
            unsigned char low = k == 1 ? rows[r][2] : 0x80, high = k == 1 ? rows[r][3] : 0xbf;
            if (p[k] < low || p[k] > high) break;
        }
        *complete = k == rows[r][4];
        return k;
    }
    return 1;
}

static size_t clean(const unsigned char *in, size_t n, unsigned char *out) {
    size_t i = 0, o = 0;
    while (i < n) {
        bool complete;
        size_t k = well_formed(in + i, n - i, &complete);
        if (complete) {
            memcpy(out + o, in + i, k);
            o += k;
        } else {
            memcpy(out + o, "\xef\xbf\xbd", 3);
            o += 3;
        }
        i += k;
    }
    return o;
}

/* Earliest end, then longest, then first listed. Returns the length before it. */
static size_t first_stop(const unsigned char *text, size_t n, const llm_text *stops, size_t count,
                         int *which) {
    size_t end, i, best = 0;
    *which = -1;
    for (end = 1; end <= n; end++) {
        for (i = 0; i < count; i++)
            if (stops[i].size <= end && stops[i].size > best &&
                !memcmp(text + end - stops[i].size, stops[i].data, stops[i].size)) {
                best = stops[i].size;
                *which = (int)i;
            }
        if (*which >= 0) return end - best;
    }
    return n;
}

/* ---- the collector ----------------------------------------------------------- */

typedef struct collected {
    unsigned char text[40000];
    size_t size, pieces;
    bool whole;   /* every piece was well-formed by itself */
    size_t limit; /* says no after so many pieces; 0: never */
} collected;

static bool collect(void *user, llm_text piece) {
    collected *c = (collected *)user;
    size_t i = 0;
    while (i < piece.size) {
        bool complete;
        i += well_formed((const unsigned char *)piece.data + i, piece.size - i, &complete);
        if (!complete) c->whole = false;
    }
    if (piece.size == 0 || c->size + piece.size > sizeof c->text)
        c->whole = false;
    else
        memcpy(c->text + c->size, piece.data, piece.size);
    c->size += piece.size;
    c->pieces++;
    return !c->limit || c->pieces < c->limit;
}

static llm_text text_of(const char *s) {
    llm_text t;
    t.data = s;
    t.size = strlen(s);
    return t;
}

/* ---- tests ---------------------------------------------------------------------- */

static size_t random_text(unsigned char *out, size_t n, int kind) {
    static const char *const pieces[] = {"a",
                                         "b",
                                         "ab",
                                         "aab",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xf0\x9f\x98\x80",
                                         "\xe4\xb8\xad",
                                         "<|im_end|>",
                                         "\n\n"};
    size_t o = 0;
    while (o + 12 < n) {
        uint32_t r = below(100);
        if (kind == 0 && r < 30) { /* any byte, lead bytes often */
            out[o++] = (unsigned char)(below(2) ? below(256) : 0xc0 + below(64));
        } else if (kind == 1 && r < 97) { /* an alphabet that matches often */
            out[o++] = (unsigned char)('a' + below(2));
        } else {
            const char *p = pieces[below(10)];
            size_t length = strlen(p);
            if (kind == 0 && below(4) == 0) length = 1 + below((uint32_t)length); /* cut short */
            memcpy(out + o, p, length);
            o += length;
        }
        if (below(200) == 0) break;
    }
    return o;
}

/* A stop string: valid UTF-8, taken from the text or made up. */
static size_t random_stop(const unsigned char *text, size_t n, char *out) {
    size_t start = n ? below((uint32_t)n) : 0, i = start, length = 1 + below(12), o = 0;
    bool complete;
    if (below(4) == 0) {
        size_t k;
        for (k = 0; k < length; k++) out[o++] = (char)('a' + below(2));
        return o;
    }
    while (i < n && o + 4 < 24 && i < start + length) {
        size_t k = well_formed(text + i, n - i, &complete);
        if (complete) {
            memcpy(out + o, text + i, k);
            o += k;
        } else if (o) {
            break;
        }
        i += k;
    }
    if (o == 0) out[o++] = 'q';
    return o;
}

static collected got;

static void test_random(void) {
    int trial, hits = 0;
    for (trial = 0; trial < 30000; trial++) {
        static unsigned char in[600], want[1800];
        static char stop_bytes[6][24];
        llm_text stops[6];
        llm_stream_desc desc;
        llm_stream *s = NULL;
        llm_error e;
        size_t n = random_text(in, 20 + below(500), trial % 3), count = below(6), i, size, before;
        int which, r = 0;
        for (i = 0; i < count; i++) {
            stops[i].data = stop_bytes[i];
            stops[i].size = random_stop(in, n, stop_bytes[i]);
        }
        desc.stops = stops;
        desc.stop_count = count;
        CHECK(!llm_stream_create(&desc, NULL, &s, &e), "create: %s", e.text);
        size = clean(in, n, want);
        before = first_stop(want, size, stops, count, &which);
        got.size = got.pieces = got.limit = 0;
        got.whole = true;
        for (i = 0; i < n;) {
            llm_text bytes;
            size_t most = trial % 4 ? 1 + below(6) : 600;
            bytes.data = (const char *)in + i;
            bytes.size = n - i < most ? n - i : most;
            r |= llm_stream_feed(s, bytes, collect, &got);
            i += bytes.size;
        }
        r |= llm_stream_flush(s, collect, &got);
        CHECK(r == LLM_OK && got.whole, "trial %d: a character was split", trial);
        CHECK(got.size == before && !memcmp(got.text, want, before),
              "trial %d: %lu bytes, expected %lu", trial, (unsigned long)got.size,
              (unsigned long)before);
        CHECK(llm_stream_stopped(s) == which, "trial %d: stop %d, expected %d", trial,
              llm_stream_stopped(s), which);
        hits += which >= 0;
        llm_stream_destroy(s);
    }
    CHECK(hits > 3000 && hits < 29000, "%d stops", hits);
}

/* What one input gives, byte by byte, with the stops listed. */
static void expect(const char *in, const char *const *list, size_t count, const char *out,
                   int stop) {
    llm_text stops[8], byte;
    llm_stream_desc desc;
    llm_stream *s = NULL;
    size_t i;
    for (i = 0; i < count; i++) stops[i] = text_of(list[i]);
    desc.stops = stops;
    desc.stop_count = count;
    CHECK(!llm_stream_create(&desc, NULL, &s, NULL), "create");
    got.size = got.pieces = got.limit = 0;
    got.whole = true;
    for (i = 0; in[i]; i++) {
        byte.data = in + i;
        byte.size = 1;
        (void)llm_stream_feed(s, byte, collect, &got);
    }
    (void)llm_stream_flush(s, collect, &got);
    CHECK(got.size == strlen(out) && !memcmp(got.text, out, got.size),
          "%s: \"%.*s\", expected \"%s\"", in, (int)got.size, (const char *)got.text, out);
    CHECK(llm_stream_stopped(s) == stop, "%s: stop %d, expected %d", in, llm_stream_stopped(s),
          stop);
    llm_stream_destroy(s);
}

static void test_known(void) {
    static const char *const prefixes[] = {"abc", "ab", "abcd"};
    static const char *const nested[] = {"b", "abc"};
    static const char *const tails[] = {"c", "bc", "abc", "bc"};
    static const char *const overlap[] = {"aab", "abaa"};
    static const char *const euro[] = {"\xe2\x82\xac\xe2\x82\xac", "\xef\xbf\xbd!"};
    expect("xxabcdef", prefixes, 3, "xx", 1);
    expect("xxabcdef", nested, 2, "xxa", 0);
    expect("xxabcdef", tails, 4, "xx", 2);
    expect("aaaaabaa", overlap, 2, "aaa", 0);
    expect("abab", overlap, 2, "abab", -1);
    expect("a", overlap, 2, "a", -1); /* held back, then given at the end */
    expect("1\xe2\x82\xac\xe2\x82\xac", euro, 2, "1", 0);
    expect("1\xe2\x82\xac\xe2\x82!", euro, 2, "1\xe2\x82\xac", 1); /* U+FFFD is text as well */
    /* Unicode 15, table 3-8 to 3-11 */
    expect("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", NULL, 0,
           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
           "\xef\xbf\xbd\x41",
           -1);
    expect("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", NULL, 0,
           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
           "\xef\xbf\xbd\x41",
           -1);
    expect("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", NULL, 0,
           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41\xef\xbf\xbd\xef\xbf"
           "\xbd\x42",
           -1);
    expect("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", NULL, 0,
           "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41", -1);
}

/* Text comes out as soon as it is certain; a long input passes a small buffer; nothing is
 * allocated. */
static size_t live, calls;
static void *count_allocate(void *user, size_t size, size_t align) {
    (void)user;
    (void)align;
    calls++;
    live += size;
    return calls == 3 ? NULL : malloc(size);
}
static void count_release(void *user, void *memory, size_t size) {
    (void)user;
    live -= size;
    free(memory);
}

static void test_flow(void) {
    llm_allocator a = {count_allocate, count_release, NULL};
    llm_text stop = text_of("\n\nUser:"), in, out;
    llm_stream_desc desc;
    llm_stream *s = NULL;
    llm_error e;
    static char big[20000];
    static char long_stop[4096];
    size_t bytes = 0, total = 0;
    desc.stops = &stop;
    desc.stop_count = 1;
    CHECK(!llm_stream_query(&desc, &bytes, &e), "query");
    CHECK(!llm_stream_create(&desc, &a, &s, &e), "create");
    CHECK(calls == 1 && live == bytes, "asked for %lu, said %lu", (unsigned long)live,
          (unsigned long)bytes);
    in = text_of("Hi\nyo\n\nUs");
    CHECK(llm_stream_next(s, &in, &out) && out.size == 5 && !memcmp(out.data, "Hi\nyo", 5),
          "certain part");
    CHECK(!llm_stream_next(s, &in, &out) && in.size == 0, "the rest is held");
    in = text_of("a\xe2\x82");
    CHECK(llm_stream_next(s, &in, &out) && out.size == 5 && !memcmp(out.data, "\n\nUsa", 5),
          "released");
    CHECK(!llm_stream_next(s, &in, &out), "half a character is held");
    in = text_of("\xac\n\nUser: no");
    CHECK(llm_stream_next(s, &in, &out) && out.size == 3, "up to the stop");
    CHECK(!llm_stream_next(s, &in, &out) && llm_stream_stopped(s) == 0, "stopped");
    CHECK(in.size == 3 && !memcmp(in.data, " no", 3), "what follows is left");
    CHECK(!llm_stream_next(s, NULL, &out), "nothing after the stop");
    llm_stream_reset(s);
    CHECK(llm_stream_stopped(s) == -1, "reset");
    memset(big, 'x', sizeof big);
    in.data = big;
    in.size = sizeof big;
    while (llm_stream_next(s, &in, &out)) total += out.size;
    CHECK(total == sizeof big && in.size == 0, "%lu of a long input", (unsigned long)total);
    got.size = got.pieces = 0;
    got.limit = 2;
    in.data = big;
    in.size = sizeof big;
    CHECK(llm_stream_feed(s, in, collect, &got) == LLM_CANCELLED && got.pieces == 2,
          "no more, please");
    CHECK(calls == 1, "feeding allocates");
    llm_stream_destroy(s);
    memset(long_stop, 'x',
           sizeof long_stop); /* the longest stop string, nearly matched all the time */
    long_stop[4095] = 'y';
    stop.data = long_stop;
    stop.size = sizeof long_stop;
    CHECK(!llm_stream_create(&desc, &a, &s, &e), "create");
    in.data = big;
    in.size = sizeof big;
    for (total = 0; llm_stream_next(s, &in, &out);) total += out.size;
    CHECK(total == sizeof big - 4095, "%lu given before the longest stop", (unsigned long)total);
    in = text_of("yz");
    CHECK(!llm_stream_next(s, &in, &out) && llm_stream_stopped(s) == 0, "longest stop");
    llm_stream_destroy(s);
    CHECK(live == 0, "%lu bytes not released", (unsigned long)live);
    CHECK(llm_stream_create(&desc, &a, &s, &e) == LLM_ERROR_MEMORY && !s, "no memory");
    llm_stream_destroy(NULL);
}

static void refuse(const llm_text *stops, size_t count, const char *what) {
    llm_stream_desc desc;
    llm_stream *s = NULL;
    llm_error e;
    desc.stops = stops;
    desc.stop_count = count;
    e.text[0] = 0;
    CHECK(llm_stream_create(&desc, NULL, &s, &e) == LLM_ERROR_ARGUMENT && !s, "%s accepted", what);
    CHECK(strstr(e.text, what) && strstr(e.text, "expected"), "message: %s", e.text);
}

static void refuse_exactly(const llm_text *stops, size_t count, const char *message) {
    llm_stream_desc desc;
    llm_stream *s = NULL;
    llm_error e;
    desc.stops = stops;
    desc.stop_count = count;
    CHECK(llm_stream_create(&desc, NULL, &s, &e) == LLM_ERROR_ARGUMENT && !s &&
              e.code == LLM_ERROR_ARGUMENT && strcmp(e.text, message) == 0,
          "%s, expected %s", e.text, message);
}

static void test_arguments(void) {
    static char long_stop[4097];
    llm_text stops[2], bytes;
    llm_stream *s = NULL;
    llm_error e;
    memset(long_stop, 'x', sizeof long_stop);
    stops[0] = text_of("ok");
    stops[1] = text_of("");
    refuse(stops, 2, "stops[1] has 0 bytes");
    stops[1].data = long_stop;
    stops[1].size = 4097;
    refuse(stops, 2, "stops[1] has 4097 bytes");
    stops[1].data = NULL;
    stops[1].size = 3;
    refuse(stops, 2, "stops[1]");
    stops[1] = text_of("a\xc3");
    refuse(stops, 2, "offset 1");
    stops[1] = text_of("ab\xed\xa0\x80");
    refuse(stops, 2, "0xED at offset 2");
    refuse(NULL, 1, "stop_count");
    refuse(stops, 257, "stop_count");
    CHECK(llm_stream_create(NULL, NULL, NULL, &e) == LLM_ERROR_ARGUMENT, "NULL out");
    CHECK(!llm_stream_create(NULL, NULL, &s, NULL), "no settings");
    bytes.data = NULL;
    bytes.size = 1;
    CHECK(llm_stream_feed(s, bytes, collect, &got) == LLM_ERROR_ARGUMENT, "NULL bytes");
    CHECK(llm_stream_feed(s, text_of("x"), NULL, NULL) == LLM_ERROR_ARGUMENT, "NULL emit");
    CHECK(llm_stream_stopped(NULL) == -1, "NULL stream");
    CHECK(strcmp(e.text, "llm_stream_create: stream is NULL") == 0, "message: %s", e.text);
    CHECK(llm_stream_feed(NULL, text_of("x"), collect, &got) == LLM_ERROR_ARGUMENT, "NULL stream");
    CHECK(llm_stream_flush(NULL, collect, &got) == LLM_ERROR_ARGUMENT, "NULL stream");
    CHECK(llm_stream_flush(s, NULL, NULL) == LLM_ERROR_ARGUMENT, "NULL emit");
    CHECK(!llm_stream_next(NULL, &bytes, &bytes) && !llm_stream_next(s, NULL, NULL), "next of NULL");
    llm_stream_reset(NULL);
    bytes.size = 0;
    CHECK(llm_stream_feed(s, bytes, collect, &got) == LLM_OK, "no bytes at all");
    got.size = got.pieces = 0, got.limit = 1;
    CHECK(llm_stream_feed(s, text_of("\xc3"), collect, &got) == LLM_OK && !got.pieces, "half");
    CHECK(llm_stream_flush(s, collect, &got) == LLM_CANCELLED && got.size == 3, "a flush refused");
    llm_stream_destroy(s);
    CHECK(llm_stream_query(NULL, NULL, NULL) == LLM_OK, "a query for nothing");
    refuse_exactly(stops, 257, "stream: stop_count is 257 with stops set; expected at most 256");
    refuse_exactly(NULL, 2, "stream: stop_count is 2 with stops NULL; expected at most 256");
    stops[1] = text_of("");
    refuse_exactly(stops, 2, "stream: stops[1] has 0 bytes; expected 1 to 4096");
    stops[1].data = NULL, stops[1].size = 3;
    refuse_exactly(stops, 2, "stream: stops[1] has 3 bytes at NULL; expected 1 to 4096");
    stops[1] = text_of("ab\xed\xa0\x80");
    refuse_exactly(stops, 2, "stream: stops[1] has byte 0xED at offset 2; expected UTF-8");
}

/* The exact words. */
static void says(const llm_stream_desc *d, llm_result wanted, const char *message) {
    llm_error e;
    llm_result r = llm_stream_query(d, NULL, &e);
    CHECK(r == wanted && e.code == wanted && !strcmp(e.text, message), "%s \"%s\", expected \"%s\"", llm_result_name(r),
          e.text, message);
    CHECK(llm_stream_query(d, NULL, NULL) == wanted, "without an error");
}

static void test_messages(void) {
    static char long_stop[4097];
    const llm_allocator none = {count_allocate, count_release, NULL};
    llm_text stops[2];
    llm_stream_desc d;
    llm_stream *s;
    llm_error e;
    size_t bytes;
    char message[80];
    memset(long_stop, 'x', sizeof long_stop);
    d.stops = NULL, d.stop_count = 1;
    says(&d, LLM_ERROR_ARGUMENT, "stream: stop_count is 1 with stops NULL; expected at most 256");
    d.stops = stops, d.stop_count = 257;
    says(&d, LLM_ERROR_ARGUMENT, "stream: stop_count is 257 with stops set; expected at most 256");
    d.stop_count = 2;
    stops[0] = text_of("ok"), stops[1] = text_of("");
    says(&d, LLM_ERROR_ARGUMENT, "stream: stops[1] has 0 bytes; expected 1 to 4096");
    stops[1].data = long_stop, stops[1].size = 4097;
    says(&d, LLM_ERROR_ARGUMENT, "stream: stops[1] has 4097 bytes; expected 1 to 4096");
    stops[1].data = NULL, stops[1].size = 7;
    says(&d, LLM_ERROR_ARGUMENT, "stream: stops[1] has 7 bytes at NULL; expected 1 to 4096");
    stops[1] = text_of("ab\xed\xa0\x80");
    says(&d, LLM_ERROR_ARGUMENT, "stream: stops[1] has byte 0xED at offset 2; expected UTF-8");
    CHECK(llm_stream_create(NULL, NULL, NULL, &e) == LLM_ERROR_ARGUMENT &&
              !strcmp(e.text, "llm_stream_create: stream is NULL"), "%s", e.text);
    CHECK(!llm_stream_query(NULL, &bytes, &e), "the size");
    (void)snprintf(message, sizeof message, "stream: no memory for %lu bytes", (unsigned long)bytes);
    calls = 2; /* the third one fails */
    CHECK(llm_stream_create(NULL, &none, &s, &e) == LLM_ERROR_MEMORY && !s && !strcmp(e.text, message), "%s", e.text);
    CHECK(llm_stream_feed(NULL, stops[0], collect, &got) == LLM_ERROR_ARGUMENT &&
              llm_stream_flush(NULL, collect, &got) == LLM_ERROR_ARGUMENT, "of no stream");
    CHECK(!llm_stream_next(NULL, NULL, NULL) && llm_stream_stopped(NULL) == -1, "of no stream");
    llm_stream_reset(NULL);
    CHECK(!llm_stream_create(NULL, NULL, &s, NULL) && llm_stream_flush(s, NULL, NULL) == LLM_ERROR_ARGUMENT &&
              !llm_stream_next(s, &stops[0], NULL), "nowhere to put it");
    llm_stream_destroy(s);
}

int main(void) {
    test_known();
    test_random();
    test_flow();
    test_arguments();
    test_messages();
    return check_report("stream");
}
