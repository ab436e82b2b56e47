/* Chat templates against jinja2 (fixtures/generate_templates.py made the expectations), the origin
   of every byte, hostile templates, allocation failures and mutants.
       test_template [FIXTURE...]   (default: those in tests/fixtures/templates) */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

enum { MAX_MESSAGES = 16, MAX_FIELDS = 64 };

/* ---- an allocator that counts, checks sizes and can fail ---- */

typedef struct counting {
    size_t live, bytes, calls, peak, fail_at; /* fail_at: 1-based call that returns NULL; 0 never */
} counting;

static void *counting_allocate(void *user, size_t size, size_t align) {
    counting *c = (counting *)user;
    char *raw, *memory;
    if (++c->calls == c->fail_at) return NULL;
    raw = (char *)malloc(size + 128);
    if (!raw || align > 64) abort();
    memory = raw + 128 - (size_t)((uintptr_t)raw % 64); /* at least 64 bytes behind raw */
    memcpy(memory - 16, &raw, sizeof raw);
    memcpy(memory - 8, &size, sizeof size);
    c->live++;
    c->bytes += size;
    if (c->bytes > c->peak) c->peak = c->bytes;
    return memory;
}

static void counting_release(void *user, void *memory, size_t size) {
    counting *c = (counting *)user;
    size_t asked;
    char *raw;
    memcpy(&raw, (char *)memory - 16, sizeof raw);
    memcpy(&asked, (char *)memory - 8, sizeof asked);
    if (asked != size) abort();
    c->live--;
    c->bytes -= size;
    free(raw);
}

static counting counts;

static void use_counting(llm_template_desc *d) {
    memset(&counts, 0, sizeof counts);
    d->allocator.allocate = counting_allocate;
    d->allocator.release = counting_release;
    d->allocator.user = &counts;
}

/* ---- fixtures: records of a letter, a length and bytes ---- */

typedef struct fixture {
    llm_template_desc desc;
    llm_message messages[MAX_MESSAGES];
    llm_template_field fields[MAX_FIELDS], variables[MAX_FIELDS];
    size_t n_fields, base_variables;
    llm_template_field *open; /* the field whose value comes next */
    llm_text name;
    char *data, *at, *end;
} fixture;

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    long n;
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (n = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
        data = (char *)malloc((size_t)n + 1);
        *size = data ? fread(data, 1, (size_t)n, file) : 0;
    }
    fclose(file);
    return data;
}

static bool fixture_open(fixture *f, const char *path) {
    size_t size = 0;
    memset(f, 0, sizeof *f);
    f->data = f->at = read_file(path, &size);
    f->end = f->data ? f->data + size : NULL;
    f->desc.messages = f->messages;
    f->desc.variables = f->variables;
    return f->data != NULL;
}

static void fixture_reset(fixture *f, llm_text name) {
    llm_template_desc *d = &f->desc;
    f->name = name;
    memset(f->messages, 0, sizeof f->messages);
    f->n_fields = d->n_messages = 0;
    d->n_variables = f->base_variables;
    d->add_generation_prompt = false;
    memset(&d->bos_token, 0, sizeof d->bos_token);
    d->eos_token = d->tools = d->bos_token;
}

static void fixture_date(fixture *f, llm_text text) {
    int *parts[6], i;
    char copy[64];
    char *s = copy;
    parts[0] = &f->desc.date.year, parts[1] = &f->desc.date.month, parts[2] = &f->desc.date.day;
    parts[3] = &f->desc.date.hour, parts[4] = &f->desc.date.minute, parts[5] = &f->desc.date.second;
    memset(copy, 0, sizeof copy);
    memcpy(copy, text.data, text.size < 63 ? text.size : 63);
    for (i = 0; i < 6; i++) *parts[i] = (int)strtol(s, &s, 10);
}

/* Reads records up to a case that is complete: returns 'X' or 'F', or 0 at the end. */
static int fixture_next(fixture *f, llm_text *expected) {
    llm_template_desc *d = &f->desc;
    while (f->at < f->end) {
        int letter = *f->at;
        llm_text text;
        llm_message *message = d->n_messages ? &f->messages[d->n_messages - 1] : NULL;
        text.size = (size_t)strtoul(f->at + 2, &f->at, 10);
        text.data = ++f->at;
        f->at += text.size + 1;
        switch (letter) {
        case 'T': d->text = text; break;
        case 'N': fixture_reset(f, text); break;
        case 'R':
            if (d->n_messages == MAX_MESSAGES) abort();
            f->messages[d->n_messages++].role = text;
            break;
        case 'C': message->content = text; break;
        case 'K':
        case 'V':
            if (f->n_fields == MAX_FIELDS || d->n_variables == MAX_FIELDS) abort();
            f->open = letter == 'K' ? &f->fields[f->n_fields++] : &f->variables[d->n_variables++];
            memset(f->open, 0, sizeof *f->open);
            f->open->name = text;
            if (letter == 'K' && message->n_fields++ == 0) message->fields = f->open;
            break;
        case 'S':
        case 'J':
            f->open->text = text;
            f->open->json = letter == 'J';
            break;
        case 'O': d->tools = text; break;
        case 'G': d->add_generation_prompt = true; break;
        case 'B': d->bos_token = text; break;
        case 'E': d->eos_token = text; break;
        case 'D': fixture_date(f, text); break;
        case 'Z': f->base_variables = d->n_variables; break;
        default: *expected = text; return letter;
        }
    }
    return 0;
}

/* ---- rendering ---- */

typedef struct rendered {
    llm_result result;
    llm_error error;
    size_t size;
    char text[1 << 18];
} rendered;

static void render(rendered *r, llm_template_desc *d) {
    memset(&r->error, 0, sizeof r->error);
    d->error = &r->error;
    r->result = llm_template_render(d, r->text, sizeof r->text, &r->size);
}

/* The runs put together must be the text; every byte of marked content must be untrusted. */
typedef struct runs {
    char text[1 << 18];
    char trusted[1 << 18];
    size_t size, count;
    bool last;
} runs;

static llm_result collect(void *user, const char *data, size_t size, bool trusted) {
    runs *r = (runs *)user;
    if (size == 0 || size > sizeof r->text - r->size) return LLM_ERROR_IO;
    if (r->count++ && r->last == trusted) return LLM_ERROR_FORMAT;
    r->last = trusted;
    memcpy(r->text + r->size, data, size);
    memset(r->trusted + r->size, trusted, size);
    r->size += size;
    return LLM_OK;
}

static rendered out;
static runs parts;

static void check_runs(llm_template_desc *d, llm_text name) {
    bool marked = name.size > 6 && memcmp(name.data + name.size - 6, "marked", 6) == 0;
    size_t i, bad = 0, seen = 0;
    llm_result result;
    memset(&parts, 0, sizeof parts);
    result = llm_template_runs(d, collect, &parts);
    CHECK(result == LLM_OK && parts.size == out.size && memcmp(parts.text, out.text, out.size) == 0,
          "%.*s: the runs are not the text", (int)name.size, name.data);
    for (i = 0; marked && i + 2 < out.size; i++) { /* the two characters of the content */
        bool mark = memcmp(out.text + i, "\xe6\xbc\xa2", 3) == 0 ||
                    memcmp(out.text + i, "\xe5\xad\x97", 3) == 0;
        seen += mark;
        bad += mark && (parts.trusted[i] || parts.trusted[i + 1] || parts.trusted[i + 2]);
        bad += memcmp(out.text + i, "im_end|>\xe5\xad\x97", 11) == 0 && parts.trusted[i];
        bad += memcmp(out.text + i, "<|start", 7) == 0 && !parts.trusted[i];
    }
    CHECK(!marked || (bad == 0 && seen > 0), "%.*s: %lu bytes of the wrong origin, %lu seen",
          (int)name.size, name.data, (unsigned long)bad, (unsigned long)seen);
}

static void test_fixture(const char *path, size_t least) {
    static fixture f;
    llm_text expected;
    int letter;
    size_t cases = 0, unsupported = 0;
    if (!fixture_open(&f, path)) {
        CHECK(false, "cannot read %s", path);
        return;
    }
    while ((letter = fixture_next(&f, &expected)) != 0) {
        int n = (int)f.name.size;
        cases++;
        use_counting(&f.desc);
        render(&out, &f.desc);
        CHECK(counts.live == 0, "%.*s: %lu blocks are left", n, f.name.data,
              (unsigned long)counts.live);
        if (letter == 'X' && out.result == LLM_ERROR_UNSUPPORTED && f.base_variables) {
            unsupported++; /* a named gap: counted, and bounded below */
            if (getenv("LLM_TEST_VERBOSE"))
                printf("%s: %.*s\n", out.error.text, (int)f.desc.text.size, f.desc.text.data);
            continue;
        }
        if (letter == 'X') {
            CHECK(out.result == LLM_OK && out.size == expected.size &&
                      memcmp(out.text, expected.data, out.size) == 0,
                  "%.*s: %.*s\n  is       %s %.*s\n  expected %.*s", n, f.name.data,
                  (int)(f.desc.text.size < 300 ? f.desc.text.size : 0), f.desc.text.data,
                  out.result == LLM_OK ? "" : out.error.text, (int)out.size, out.text,
                  (int)expected.size, expected.data);
            if (out.result == LLM_OK) check_runs(&f.desc, f.name);
        } else {
            CHECK(out.result != LLM_OK && out.size == 0 && out.error.code == out.result &&
                      strstr(out.error.text, "line "),
                  "%.*s: %.*s\n  is       %.*s\n  expected an error: %.*s", n, f.name.data,
                  (int)(f.desc.text.size < 300 ? f.desc.text.size : 0), f.desc.text.data,
                  (int)out.size, out.text, (int)expected.size, expected.data);
        }
    }
    CHECK(cases >= least, "%s: only %lu cases", path, (unsigned long)cases);
    CHECK(unsupported * 33 <= cases, "%s: %lu of %lu cases are unsupported", path,
          (unsigned long)unsupported, (unsigned long)cases);
    free(f.data);
}

/* ---- what is not in the fixtures ---- */

static llm_text text_of(const char *s) {
    llm_text t;
    t.data = s;
    t.size = strlen(s);
    return t;
}

static void expect_error(const char *source, llm_result code, const char *message) {
    llm_template_desc d;
    memset(&d, 0, sizeof d);
    d.text = text_of(source);
    use_counting(&d);
    render(&out, &d);
    CHECK(out.result == code && strstr(out.error.text, message), "%.60s: %s: %s", source,
          llm_result_name(out.result), out.error.text);
    CHECK(counts.live == 0, "%.60s: blocks are left", source);
}

static void test_messages(void) {
    expect_error("{% include 'x' %}", LLM_ERROR_UNSUPPORTED,
                 "line 1, column 4: the statement 'include' is not supported");
    expect_error("a\n {{ x|\n  nosuch }}", LLM_ERROR_UNSUPPORTED,
                 "line 3, column 3: the filter 'nosuch' is not supported");
    expect_error("{{ 'a'.zfill(3) }}", LLM_ERROR_UNSUPPORTED,
                 "the method 'zfill' of a str is not supported");
    expect_error("{{ 1 is prime }}", LLM_ERROR_UNSUPPORTED, "the test 'prime' is not supported");
    expect_error("{{ messages[0].role }}", LLM_ERROR_TEMPLATE, "list has no attribute 'item'");
    expect_error("{{ a.b }}", LLM_ERROR_TEMPLATE, "line 1, column 6: 'a' is undefined");
    expect_error("{{ raise_exception('Say it so') }}", LLM_ERROR_TEMPLATE, "Say it so");
    expect_error("{% if a %}", LLM_ERROR_TEMPLATE, "no 'endif'");
    expect_error("{{ lipsum() }}", LLM_ERROR_TEMPLATE, "'lipsum' is undefined");
    expect_error("{% for a in b recursive %}{% endfor %}", LLM_ERROR_UNSUPPORTED, "recursive");
}

/* A template of `count` copies of `piece` between `head` and `tail`. */
static void expect_hostile(const char *head, const char *piece, size_t count, const char *tail) {
    size_t h = strlen(head), p = strlen(piece), n = strlen(tail), i;
    char *text = (char *)malloc(h + p * count + n + 1);
    llm_template_desc d;
    clock_t begin = clock();
    if (!text) abort();
    memcpy(text, head, h);
    for (i = 0; i < count; i++) memcpy(text + h + i * p, piece, p);
    memcpy(text + h + p * count, tail, n + 1);
    memset(&d, 0, sizeof d);
    d.text.data = text;
    d.text.size = h + p * count + n;
    use_counting(&d);
    render(&out, &d);
    CHECK(out.result != LLM_OK, "%.60s%.20s..: succeeded", head, piece);
    CHECK(counts.live == 0 && counts.peak <= (size_t)128 << 20,
          "%.60s: %lu blocks left, %lu bytes at most", head, (unsigned long)counts.live,
          (unsigned long)counts.peak);
    CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 20.0, "%.60s%.20s..: took too long", head,
          piece);
    if (getenv("LLM_TEST_VERBOSE")) {
        printf("%.2f s %.60s%.20s: %s\n", (double)(clock() - begin) / CLOCKS_PER_SEC, head, piece,
               out.error.text);
    }
    free(text);
}

static void test_hostile(void) {
    static const char *const alone[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% "
        "endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ ('a' * 1000000) * 1000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ ([[1] * 100000] * 100000) | string }}",
        "{% set x = 'aaaaaaaaaa' %}{% for i in range(50) %}{% set x = x.replace('a', x) %}{{ "
        "x.replace('a', x).replace('a', x).replace('a', x) }}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor "
        "%}",
        "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor "
        "%}",
        "{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor "
        "%}{{ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor "
        "%}{{ n.x|tojson }}",
        "{% set n = namespace(x=[], y=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% set "
        "n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
        "{% set n = namespace(x=[], y=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% set "
        "n.y = [n.y] %}{% endfor %}{{ n.x < n.y }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor "
        "%}{{ n.x }}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% "
        "set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% for i in range(3) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
        "{% set n = namespace() %}{% macro f(n) %}{{ f(n) }}{% endmacro %}{% set n.f = f %}{{ "
        "n.f(n) }}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ s.find('b') }}{{ s|length }}{{ "
        "s[::-1] }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{{ s.replace('a' * 500000 + 'b', '') }}{{ s.split('a' * 500000 "
        "+ 'b') }}{{ s.count('a' * 499999 + 'b') }}"
        "{{ nothing.x }}",
        "{% set s = ('abc ' * 1000000).split() %}{{ s|unique|list|length }}{{ s|sort|length }}{{ "
        "('cba ' * 100000 + 'aab')|list|sort|length }}{{ x.y }}",
        "{{ 'a'|indent(1000000000) }}",
        "{{ [[1, 2], [3, 4]]|tojson(indent=1000000000) }}",
        "{% for i in range(0, 9000000000000000000, 1) %}{% endfor %}",
        "{{ 99999999999999999999 }}",
        "{{ 9223372036854775807 + 1 }}{{ -9223372036854775807 - 2 }}",
        "{{ 3037000500 * 3037000500 }}",
        "{{ 2 ** 63 }}",
        "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ -(-9223372036854775807 - 1) }}",
        "{{ '{}'.format() }}",
        "{{ 'x'.split('') }}",
        "{{ loop.index }}",
        "{% set n = namespace() %}{% for i in range(3) %}{% set n.l = loop %}{% endfor %}{% for i "
        "in range(3) %}{{ n.l.index }}{% endfor %}",
        "{% set n = namespace() %}{% for i in range(3) %}{% macro f() %}{{ i }}{% endmacro %}{% "
        "set n.f = f %}{% endfor %}{% for j in [1] %}{{ n.f() }}{% endfor %}",
        "{% for i in range(50000) %}{% set a = 1 %}{% for j in range(500) %}{% set b = 2 %}{% "
        "endfor %}{% endfor %}",
    };
    size_t i;
    for (i = 0; i < sizeof alone / sizeof alone[0]; i++) expect_hostile(alone[i], "", 0, "");
    expect_hostile("{{ ", "(", 100000, "");
    expect_hostile("{{ ", "[", 100000, "");
    expect_hostile("{{ ", "{1:", 100000, "");
    expect_hostile("{{ ", "not ", 100000, "x.y }}");
    expect_hostile("{{ ", "-", 100000, "x }}");
    expect_hostile("{{ ", "1 if ", 100000, "x }}");
    expect_hostile("{{ 1", " if 1", 100000, " else x.y.z }}");
    expect_hostile("{{ ", "1 if 1 else ", 100000, "x.y }}");
    expect_hostile("{{ x", ".a", 100000, "}}");
    expect_hostile("{{ x", "[0]", 100000, "}}");
    expect_hostile("{{ x", "()", 100000, "}}");
    expect_hostile("{{ f(", "f(", 100000, "}}");
    expect_hostile("{{ x.y ", "|d", 100000, "}}");
    expect_hostile("{{ [", "1,", 100000, "] }}");
    expect_hostile("{{ 'a'", " ~ 'b'", 100000, " ~ x.y }}");
    expect_hostile("{{ f(", "1,", 1000, ") }}");
    expect_hostile("", "{% if 1 %}", 100000, "");
    expect_hostile("{% if 0 %}", "{% elif 0 %}", 100000, "");
    expect_hostile("", "{% for a in b %}", 100000, "");
    expect_hostile("", "{% macro f() %}", 100000, "");
    expect_hostile("{% for ", "(", 100000, "a in b %}");
    expect_hostile("{% set ", "(", 100000, "a = b %}");
    expect_hostile("{% macro f(", "a,", 1000, "b) %}{% endmacro %}");
    expect_hostile("{% with ", "a=1,", 1000, "b=1 %}{% endwith %}{{ x.y }}");
    expect_hostile("", "{% raw %}", 100000, "");
    expect_hostile("{% raw %}", "{% endra %}", 100000, "");
    expect_hostile("", "{", 1000001, "{ x.y }}");
    expect_hostile("{{ '", "\\", 1000001, "");
    expect_hostile("", "{% set a = 1 %}", 300000, "{{ x.y }}");
    expect_hostile("{{ x is ", "not ", 100000, "y }}");
}

/* Bounds that the caller sets. */
static void test_limits(void) {
    llm_template_desc d;
    size_t i;
    memset(&d, 0, sizeof d);
    d.text = text_of("{% for i in range(1000) %}abcdefghij{% endfor %}");
    use_counting(&d);
    render(&out, &d);
    CHECK(out.result == LLM_OK && out.size == 10000, "%s", out.error.text);
    d.max_output = 10000;
    render(&out, &d);
    CHECK(out.result == LLM_OK, "%s", out.error.text);
    d.max_output = 9999;
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT && out.size == 0, "%s", out.error.text);
    d.max_output = 0;
    for (i = 1; i < 5000; i = i * 3 / 2 + 1) {
        d.max_steps = i;
        render(&out, &d);
        CHECK(out.result == LLM_ERROR_LIMIT && strstr(out.error.text, "max_steps"), "%lu steps: %s",
              (unsigned long)i, out.error.text);
    }
    d.max_steps = 0;
    for (i = 1; i < 60000; i = i * 3 / 2 + 1) {
        d.max_memory = i;
        use_counting(&d);
        render(&out, &d);
        CHECK(out.result == LLM_ERROR_LIMIT && counts.peak <= i && counts.live == 0,
              "%lu bytes: %s", (unsigned long)i, out.error.text);
    }
}

static void test_arguments(void) {
    llm_template_desc d;
    llm_message message;
    char text[8];
    size_t size = 77;
    llm_result result;
    memset(&d, 0, sizeof d);
    memset(&message, 0, sizeof message);
    CHECK(llm_template_render(NULL, text, 8, &size) == LLM_ERROR_ARGUMENT && size == 0,
          "no description");
    CHECK(llm_template_render(&d, text, 8, &size) == LLM_OK && size == 0, "an empty template");
    d.text = text_of("0123456789");
    result = llm_template_render(&d, text, 8, &size);
    CHECK(result == LLM_ERROR_ARGUMENT && size == 10, "a small buffer: %d, %lu", (int)result,
          (unsigned long)size);
    result = llm_template_render(&d, NULL, 0, &size);
    CHECK(result == LLM_ERROR_ARGUMENT && size == 10, "no buffer: %d, %lu", (int)result,
          (unsigned long)size);
    d.n_messages = 1;
    CHECK(llm_template_render(&d, text, 8, &size) == LLM_ERROR_ARGUMENT && size == 0,
          "no messages");
    d.messages = &message;
    message.n_fields = 1;
    CHECK(llm_template_render(&d, text, 8, &size) == LLM_ERROR_ARGUMENT && size == 0, "no fields");
    message.n_fields = 0;
    d.date.year = 2024;
    d.date.month = 13;
    CHECK(llm_template_render(&d, text, 8, &size) == LLM_ERROR_ARGUMENT && size == 0,
          "no such month");
    memset(&d.date, 0, sizeof d.date);
    d.tools = text_of("[1, 2");
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_FORMAT && strstr(out.error.text, "tools"), "%s", out.error.text);
    d.text = text_of("{{ strftime_now is defined }}{{ tools is none }}{{ bos_token is defined }}{{ "
                     "messages[0].content is none }}");
    d.tools.data = NULL;
    render(&out, &d);
    CHECK(out.result == LLM_OK && out.size == 18 && memcmp(out.text, "FalseTrueFalseTrue", 18) == 0,
          "%s", out.error.text);
}

static void test_json(void) {
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "}",
                                      "[1,]",
                                      "{\"a\":}",
                                      "{\"a\" 1}",
                                      "{a:1}",
                                      "01",
                                      "-",
                                      "+1",
                                      ".5",
                                      "1.",
                                      "tru",
                                      "nulll",
                                      "\"a",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\ud800\"",
                                      "\"\n\"",
                                      "[1 2]",
                                      "1 2",
                                      "[[[[",
                                      "{\"a\":1,}",
                                      "\"\\",
                                      "[\"\\u",
                                      "99999999999999999999",
                                      "nan",
                                      "'a'",
                                      "\"\\udc00\\ud800\""};
    static const char *const good[][2] = {
        {" [1, -2.50, 1e3, true, null] ", "[1, -2.5, 1000.0, True, None]"},
        {"{\"a\": {\"b\": []}, \"a\": 2}", "{'a': 2}"},
        {"\"\\u00e9\\n\\ud834\\udd1e\\/\"", "\xc3\xa9\n\xf0\x9d\x84\x9e/"},
        {"9223372036854775807", "9223372036854775807"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"1e400", "inf"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"0.1", "0.1"},
        {"123456789012345678.0", "1.2345678901234568e+17"}};
    llm_template_desc d;
    llm_template_field field;
    char *deep;
    size_t i;
    memset(&d, 0, sizeof d);
    memset(&field, 0, sizeof field);
    field.name = text_of("x");
    field.json = true;
    d.text = text_of("{{ x }}");
    d.variables = &field;
    d.n_variables = 1;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        field.text = text_of(bad[i]);
        use_counting(&d);
        render(&out, &d);
        CHECK(out.result != LLM_OK && counts.live == 0, "%s is taken for JSON", bad[i]);
    }
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        field.text = text_of(good[i][0]);
        render(&out, &d);
        CHECK(out.result == LLM_OK && out.size == strlen(good[i][1]) &&
                  memcmp(out.text, good[i][1], out.size) == 0,
              "%s: %s%.*s", good[i][0], out.error.text, (int)out.size, out.text);
    }
    deep = (char *)malloc(100001);
    if (!deep) abort();
    memset(deep, '[', 100000);
    deep[100000] = 0;
    field.text = text_of(deep);
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT, "%s", out.error.text);
    free(deep);
}

/* Text that is no UTF-8, and zero bytes, pass through. */
static void test_bytes(void) {
    static const char bytes[] = "\xff\xfe a\0b \xc3 \xed\xa0\x80 \xf0\x9f\x98";
    llm_template_desc d;
    llm_message message;
    memset(&d, 0, sizeof d);
    memset(&message, 0, sizeof message);
    message.role = text_of("user");
    message.content.data = bytes;
    message.content.size = sizeof bytes - 1;
    d.messages = &message;
    d.n_messages = 1;
    d.text = text_of("{{ messages[0].content | trim }}{{ messages[0].content[::-1][::-1] == "
                     "messages[0].content }}"
                     "{{ messages[0].content.split(' ')|join(' ') == messages[0].content }}");
    render(&out, &d);
    CHECK(out.result == LLM_OK && out.size == sizeof bytes - 1 + 8 &&
              memcmp(out.text, bytes, sizeof bytes - 1) == 0 &&
              memcmp(out.text + sizeof bytes - 1, "TrueTrue", 8) == 0,
          "%s", out.error.text);
}

/* Origins through every way that text can take: lower case letters are content, others template. */
static void test_origins(void) {
    static const char *const sources[] = {
        "A{{ c }}B",
        "{{ 'A' + c + 'B' }}",
        "{{ 'A' ~ c ~ 'B' }}",
        "{{ ('A' + c + 'B')[1:4] }}",
        "{{ ('A' + c + 'B')[::-1] }}",
        "{{ (c + 'A').replace('A', 'B') }}",
        "{{ 'AXB'.replace('X', c) }}",
        "{{ c.replace('b', 'X') }}",
        "{{ ('A,' + c).split(',')|join('X') }}",
        "{{ ['A', c, 'B']|join('X') }}",
        "{% set x %}A{{ c }}B{% endset %}{{ x }}{{ x|trim }}",
        "{% macro f(x) %}A{{ x }}B{% endmacro %}{{ f(c) }}{{ f(c)[2:] }}",
        "{% filter trim %} A{{ c }} {% endfilter %}",
        "{{ '{}A{}'.format(c, 'B') }}",
        "{{ ('A' + c)|indent(2) }}",
        "{{ (c + 'A')|reverse }}",
        "{% for x in 'A' + c %}{{ x }}{{ loop.index }}{% endfor %}",
        "{{ ('A' + c) * 3 }}",
        "{{ {'k': 'A' + c}.k }}",
        "{{ ('A' + c).strip('A') + 'B' }}",
        "{{ (c + 'AB' + c).split('AB')[1] }}",
        "{{ ('A\n' + c + '\nB').splitlines()|last }}",
        "{{ c if c else 'B' }}",
        "{{ none|default(c) }}{{ 1 + 2 }}",
        "{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s ~ 'A' ~ m.content "
        "%}{% endfor %}{{ n.s }}",
        "{{ ('A' ~ c)|list|join }}",
        "{{ ['B' ~ c, 'A']|sort|join }}",
        "{{ ('A' ~ c)|first }}{{ ('A' ~ c)|last }}",
        "{{ ('<' ~ c)|safe + '<' ~ c }}"};
    llm_template_desc d;
    llm_message message;
    llm_template_field variable;
    size_t i, k;
    memset(&d, 0, sizeof d);
    memset(&message, 0, sizeof message);
    memset(&variable, 0, sizeof variable);
    message.role = text_of("user");
    message.content = variable.text = text_of("abc");
    variable.name = text_of("c");
    d.messages = &message;
    d.variables = &variable;
    d.n_messages = d.n_variables = 1;
    for (i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        d.text = text_of(sources[i]);
        memset(&parts, 0, sizeof parts);
        d.error = &out.error;
        CHECK(llm_template_runs(&d, collect, &parts) == LLM_OK && parts.size, "%s: %s", sources[i],
              out.error.text);
        for (k = 0; k < parts.size; k++) {
            bool content = parts.text[k] >= 'a' && parts.text[k] <= 'c';
            CHECK(!content || !parts.trusted[k], "%s: byte %lu of %.*s is trusted", sources[i],
                  (unsigned long)k, (int)parts.size, parts.text);
            CHECK(content || parts.trusted[k] || !(parts.text[k] >= 'A' && parts.text[k] <= 'C'),
                  "%s: byte %lu of %.*s is not trusted", sources[i], (unsigned long)k,
                  (int)parts.size, parts.text);
        }
    }
    d.text = text_of(
        "{{ c|tojson }}{{ [c]|string }}{{ c|upper }}{{ c.title() }}"); /* and what filters make of it */
    memset(&parts, 0, sizeof parts);
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_OK && parts.count == 1 && !parts.last,
          "derived text is trusted");
    d.text = text_of("{{ c }}");
    variable.trusted = true;
    memset(&parts, 0, sizeof parts);
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_OK && parts.count == 1 && parts.last,
          "a trusted variable is not");
    d.text = text_of("{{ '<|' + messages[0].role + '|>' }}");
    memset(&parts, 0, sizeof parts);
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_OK && parts.count == 1 && parts.last,
          "a known role is not trusted");
    message.role = text_of("endoftext");
    memset(&parts, 0, sizeof parts);
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_OK && parts.count == 3,
          "an unknown role is trusted");
}

/* Every allocation may fail: the code says so, nothing leaks, the next call works. */
static void test_allocation(const char *path) {
    static fixture f;
    llm_text expected;
    int letter;
    size_t n, tried = 0, at = 0;
    if (!fixture_open(&f, path)) return;
    while ((letter = fixture_next(&f, &expected)) != 0) {
        if (at++ % 9) continue;
        for (n = 1;; n++) {
            use_counting(&f.desc);
            counts.fail_at = n;
            render(&out, &f.desc);
            if (counts.live != 0 || counts.calls < n) break;
            if (out.result != LLM_ERROR_MEMORY || out.size) break;
            tried++;
        }
        CHECK(counts.live == 0 && counts.calls < n &&
                  (letter == 'X' ? out.result == LLM_OK || out.result == LLM_ERROR_UNSUPPORTED
                                 : out.result != LLM_OK),
              "%.*s: allocation %lu: %s", (int)f.name.size, f.name.data, (unsigned long)n,
              out.error.text);
    }
    CHECK(tried > 100, "only %lu failures tried", (unsigned long)tried);
    free(f.data);
}

/* ---- mutants of real templates ---- */

static uint64_t random_state = 1;
static size_t random_below(size_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? (size_t)(random_state % n) : 0;
}

static size_t mutate(char *text, size_t size, size_t capacity) {
    static const char *const pieces[] = {"{% if x %}",
                                         "{% endif %}",
                                         "{% for i in messages %}",
                                         "{% endfor %}",
                                         "{{",
                                         "}}",
                                         "{%",
                                         "%}",
                                         "-%}",
                                         "(",
                                         ")",
                                         "[",
                                         "]",
                                         "'",
                                         "\"",
                                         "|",
                                         ".",
                                         "messages",
                                         "loop.index",
                                         "[::-1]",
                                         "|tojson",
                                         "|length",
                                         "not ",
                                         " in ",
                                         " is ",
                                         "0",
                                         "9999999999",
                                         "-1",
                                         "\xff",
                                         "\\",
                                         ",",
                                         ":",
                                         "namespace(",
                                         "range(99999)",
                                         "{% set x = ",
                                         "{% macro f(a) %}",
                                         "{% endmacro %}",
                                         "{% break %}",
                                         "{% else %}",
                                         "*",
                                         "**",
                                         "//",
                                         "~",
                                         "{#",
                                         "#}",
                                         "none"};
    size_t count = 1 + random_below(4), from, n, to;
    while (count--) {
        const char *piece = pieces[random_below(sizeof pieces / sizeof pieces[0])];
        from = random_below(size + 1);
        switch (random_below(5)) {
        case 0: /* delete */
            n = random_below(size - from < 20 ? size - from : 20);
            memmove(text + from, text + from + n, size - from - n);
            size -= n;
            break;
        case 1: /* change a byte */
            if (from < size) text[from] = (char)random_below(256);
            break;
        case 2: /* copy a stretch elsewhere */
            n = random_below(size - from < 60 ? size - from : 60);
            to = random_below(size - n + 1);
            memmove(text + to, text + from, n);
            break;
        default: /* insert */
            n = strlen(piece);
            if (size + n > capacity) break;
            memmove(text + from + n, text + from, size - from);
            memcpy(text + from, piece, n);
            size += n;
        }
    }
    return size;
}

static void test_mutants(const char *path, size_t each) {
    static fixture f;
    static char text[1 << 16];
    llm_text expected, original;
    size_t at = 0, i, fine = 0, all = 0;
    if (!fixture_open(&f, path)) return;
    while (fixture_next(&f, &expected) != 0) {
        if (f.desc.text.size > sizeof text || at++ % 3) continue;
        original = f.desc.text;
        f.desc.max_steps = 200000;
        f.desc.max_memory = (size_t)4 << 20;
        for (i = 0; i < each; i++) {
            memcpy(text, original.data, original.size);
            f.desc.text.data = text;
            f.desc.text.size = mutate(text, original.size, sizeof text);
            use_counting(&f.desc);
            render(&out, &f.desc);
            all++;
            fine += out.result == LLM_OK;
            CHECK(counts.live == 0 && counts.peak <= f.desc.max_memory,
                  "a mutant leaves %lu blocks, %lu bytes at most", (unsigned long)counts.live,
                  (unsigned long)counts.peak);
            CHECK(out.result == LLM_OK || out.error.code == out.result,
                  "a mutant's error has no message");
        }
        f.desc.text = original;
    }
    CHECK(all > 1000 && fine > all / 50, "%lu mutants, %lu of them fine", (unsigned long)all,
          (unsigned long)fine);
    free(f.data);
}

int main(int argc, char **argv) {
    static const char conversations[] = "tests/fixtures/templates/conversations.txt";
    static const char expressions[] = "tests/fixtures/templates/expressions.txt";
    int i;
    if (argc > 1) {
        for (i = 1; i < argc; i++) test_fixture(argv[i], 1);
        return check_report("template");
    }
    test_fixture(conversations, 300);
    test_fixture(expressions, 4000);
    test_messages();
    test_limits();
    test_arguments();
    test_json();
    test_bytes();
    test_origins();
    test_hostile();
    test_allocation(conversations);
    test_allocation(expressions);
    test_mutants(conversations, 30);
    return check_report("template");
}
