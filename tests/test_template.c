/* Chat templates against jinja2 (fixtures/generate_templates.py made the expectations), the origin
   of every byte, hostile templates, allocation failures and mutants.
       test_template [FIXTURE...]   (default: those in tests/fixtures/templates) */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include <float.h>
#include <math.h>
#include <pthread.h>
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

/* `count` copies of `piece` between `head` and `tail`, from malloc. */
static llm_text repeated(const char *head, const char *piece, size_t count, const char *tail) {
    size_t h = strlen(head), p = strlen(piece), n = strlen(tail), i;
    char *text = (char *)malloc(h + p * count + n + 1);
    llm_text t;
    if (!text) abort();
    memcpy(text, head, h);
    for (i = 0; i < count; i++) memcpy(text + h + i * p, piece, p);
    memcpy(text + h + p * count, tail, n + 1);
    t.data = text;
    t.size = h + p * count + n;
    return t;
}

static void drop(llm_text text) {
    free((void *)(uintptr_t)text.data);
}

/* What every refusal says, word by word. */
static void test_messages(void) {
    static const struct {
        const char *source;
        llm_result code;
        const char *message;
    } pins[] = {
        {"a\n {{ x|\n  nosuch }}", LLM_ERROR_UNSUPPORTED,
         "line 3, column 3: the filter 'nosuch' is not supported"},
        {"{% include 'x' %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: the statement 'include' is not supported"},
        {"{{ 'a'.zfill(3) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 13: the method 'zfill' of a str is not supported"},
        {"{{ 1 is prime }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 9: the test 'prime' is not supported"},
        {"{{ messages[0].role }}", LLM_ERROR_TEMPLATE,
         "line 1, column 16: list has no attribute or item '0'"},
        {"{{ a.b }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: 'a' is undefined"},
        {"{{ a() }}", LLM_ERROR_TEMPLATE,
         "line 1, column 5: 'a' is undefined"},
        {"{{ 5() }}", LLM_ERROR_TEMPLATE,
         "line 1, column 5: int 5 cannot be called"},
        {"{{ raise_exception('Say it so') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 19: Say it so"},
        {"{% if a %}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: this is not closed: expected 'endif'"},
        {"{% for a in b %}{% else %}", LLM_ERROR_TEMPLATE,
         "line 1, column 25: this is not closed: expected 'endfor'"},
        {"{% for a in b recursive %}{% endfor %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 15: a recursive 'for' is not supported"},
        {"{% for i in recursive %}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: unexpected 'recursive', expected an expression"},
        {"{{ range(9)|tojson }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: a range cannot be written as JSON"},
        {"{{ range(9) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 13: a range cannot be written as text"},
        {"{{ missing|tojson }}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: 'missing' is undefined"},
        {"{{ {(1, 2): 3}|tojson }}", LLM_ERROR_TEMPLATE,
         "line 1, column 16: tuple cannot be a key in JSON: expected a str, a number or none"},
        {"{{ 1 < 'a' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: no order between int and str"},
        {"{{ 1 < missing }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: 'missing' is undefined"},
        {"{{ 1 in 'abc' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: int 1 cannot be in a str: expected a str"},
        {"{{ 1 in 5 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: int 5 is not iterable"},
        {"{% for i in 5 %}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: int 5 is not iterable"},
        {"{{ '\\x4g' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: the escape has 1 hexadecimal digits, expected 2"},
        {"{{ '\\u12' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: the escape has 2 hexadecimal digits, expected 4"},
        {"{{ '\\U00110000' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: the escape U+110000 is no character, expected one up to U+10FFFF but "
         "not U+D800 to U+DFFF"},
        {"{{ '\\ud800' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: the escape U+D800 is no character, expected one up to U+10FFFF but no"
         "t U+D800 to U+DFFF"},
        {"{{ '\\N{DASH}' }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: the escape '\\N' is not supported"},
        {"{{ 'abc", LLM_ERROR_TEMPLATE,
         "line 1, column 4: a string is not closed: expected '"},
        {"{{ \"abc", LLM_ERROR_TEMPLATE,
         "line 1, column 4: a string is not closed: expected \""},
        {"{{ $ }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected byte 0x24, expected a name, a number, a string or an opera"
         "tor"},
        {"{{ 0x1f }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: a number with 'x' is not supported, expected a decimal one"},
        {"{{ 1_000 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: a number with '_' is not supported, expected a decimal one"},
        {"{{ 99999999999999999999 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: the integer '99999999999999999999' needs more than 64 bits"},
        {"{{ 9223372036854775807 + 1 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 24: 9223372036854775807 + 1 needs more than 64 bits"},
        {"{{ -9223372036854775807 - 2 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 25: -9223372036854775807 - 2 needs more than 64 bits"},
        {"{{ 3037000500 * 3037000500 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 15: 3037000500 * 3037000500 needs more than 64 bits"},
        {"{{ -1 * (-9223372036854775807 - 1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 7: -1 * -9223372036854775808 needs more than 64 bits"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 31: -9223372036854775808 // -1 needs more than 64 bits"},
        {"{{ -(-9223372036854775807 - 1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: 0 - -9223372036854775808 needs more than 64 bits"},
        {"{{ 2 ** 63 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 6: 2 ** 63 needs more than 64 bits"},
        {"{{ 3 ** 99999999999 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 6: 3 ** 99999999999 needs more than 64 bits"},
        {"{{ 2 ** -1 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 6: int ** int is not supported with these numbers"},
        {"{{ 2.5 // 2 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: float // int is not supported with these numbers"},
        {"{{ 2.5 % 2 }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: float % int is not supported with these numbers"},
        {"{{ 1 / 0 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: int 1 cannot be divided by zero"},
        {"{{ 1.5 // 0 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: float cannot be divided by zero"},
        {"{{ 'a' % missing }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: '%' after a str is not supported"},
        {"{{ 'a' + 1 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: there is no str + int"},
        {"{{ [] - missing }}", LLM_ERROR_TEMPLATE,
         "line 1, column 7: 'missing' is undefined"},
        {"{{ (", LLM_ERROR_TEMPLATE,
         "line 1, column 5: unexpected end of the template, expected an expression"},
        {"{{ [1 2] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 7: unexpected number, expected ','"},
        {"{{ {1 2} }}", LLM_ERROR_TEMPLATE,
         "line 1, column 7: unexpected number, expected ':'"},
        {"{{ {1: 2 3} }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected number, expected ','"},
        {"{{ f(1 2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: unexpected number, expected ','"},
        {"{{ f(a=1, 2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 11: unexpected argument without a name, expected 'name='"},
        {"{{ f(*a) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 6: '*' before an argument is not supported"},
        {"{{ f(**a) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 6: '*' before an argument is not supported"},
        {"{{ a[1 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: unexpected '}', expected ']'"},
        {"{{ a[1, 2] }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 7: a tuple as an index is not supported"},
        {"{{ a. }}", LLM_ERROR_TEMPLATE,
         "line 1, column 7: unexpected end of the tag, expected a name"},
        {"{{ a.'b' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: unexpected string, expected a name"},
        {"{{ a|5 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: unexpected number, expected a name"},
        {"{{ a|b.c }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 7: 'b.': a name with a dot is not supported here"},
        {"{{ a is 5 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: unexpected number, expected a name"},
        {"{{ 1 is odd is even }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: unexpected 'is', expected 'and': tests cannot be chained"},
        {"{{ 1 not 2 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected number, expected 'in'"},
        {"{{ ** }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected operator, expected an expression"},
        {"{{ 1 1 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: unexpected number, expected the end of the tag"},
        {"{{ 1 'a' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: unexpected string, expected the end of the tag"},
        {"{{ }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected end of the tag, expected an expression"},
        {"{{ 1", LLM_ERROR_TEMPLATE,
         "line 1, column 5: unexpected end of the template, expected the end of the tag"},
        {"{% 5 %}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected number, expected a statement"},
        {"{% if a", LLM_ERROR_TEMPLATE,
         "line 1, column 8: unexpected end of the template, expected the end of the tag"},
        {"{% if 1 %}{% elif %}{% endif %}", LLM_ERROR_TEMPLATE,
         "line 1, column 19: unexpected end of the tag, expected an expression"},
        {"{% for 5 in a %}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: unexpected number, expected a name to assign to"},
        {"{% for a b %}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected 'b', expected 'in'"},
        {"{% set a.5 = 1 %}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected number, expected a name"},
        {"{% set 5 = 1 %}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: unexpected number, expected a name to assign to"},
        {"{% with a %}{% endwith %}", LLM_ERROR_TEMPLATE,
         "line 1, column 11: unexpected end of the tag, expected '='"},
        {"{% macro 5() %}{% endmacro %}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected number, expected a name"},
        {"{% macro f %}{% endmacro %}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: unexpected end of the tag, expected '('"},
        {"{% macro f(5) %}{% endmacro %}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: unexpected number, expected a name"},
        {"{% macro f(a b) %}{% endmacro %}", LLM_ERROR_TEMPLATE,
         "line 1, column 14: unexpected 'b', expected ','"},
        {"{% macro f() %}{{ caller() }}{% endmacro %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 19: in a macro 'caller' is not supported"},
        {"{% macro f() %}{{ varargs }}{% endmacro %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 19: in a macro 'varargs' is not supported"},
        {"{% macro f() %}{{ kwargs }}{% endmacro %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 19: in a macro 'kwargs' is not supported"},
        {"{# a", LLM_ERROR_TEMPLATE,
         "line 1, column 1: a comment is not closed: expected '#}'"},
        {"{% raw %}a", LLM_ERROR_TEMPLATE,
         "line 1, column 1: 'raw' is not closed: expected 'endraw'"},
        {"{% break %}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: 'break' outside of a loop"},
        {"{% continue %}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: 'continue' outside of a loop"},
        {"{% macro f() %}{% break %}{% endmacro %}", LLM_ERROR_TEMPLATE,
         "line 1, column 19: 'break' outside of a loop"},
        {"{% block a %}{% endblock %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 4: the statement 'block' is not supported"},
        {"{{ '\303\237'|upper }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 9: changing the case of U+00DF is not supported"},
        {"{{ '\303\277'|upper }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 9: changing the case of U+00FF is not supported"},
        {"{{ 'a'.split('') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: the separator of 'split' is empty, expected a character or more"},
        {"{{ 'a'|indent(1.5) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: float cannot be an indentation"},
        {"{{ [1]|tojson(indent=none) }}{{ [1]|tojson(indent=1.5) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 37: float cannot be an indentation"},
        {"{{ '{!r}'.format(1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 17: a field of format() at character 0 is not '{}', '{0}' or '{name}'"},
        {"{{ '{x'.format(1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 15: a field of format() at character 0 is not '{}', '{0}' or '{name}'"},
        {"{{ '}'.format(1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 14: a field of format() at character 0 is not '{}', '{0}' or '{name}'"},
        {"{{ '{}'.format() }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: format() has no argument for '{}'"},
        {"{{ '{}{0}'.format(1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 18: format() has no argument for '{0}'"},
        {"{{ '{a}'.format(b=1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 16: format() has no argument for '{a}'"},
        {"{{ strftime_now('%c') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 16: '%c' of strftime is not supported"},
        {"{{ strftime_now('%-') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 16: '%-' of strftime is not supported"},
        {"{{ strftime_now(5) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 16: 'strftime_now' got int, expected str"},
        {"{% for i in [1] %}{{ loop.changed(1) }}{% endfor %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 27: 'loop.changed' is not supported"},
        {"{% for i in [1] %}{{ loop.nosuch.x }}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 34: loop has no attribute or item 'nosuch'"},
        {"{% set n = namespace() %}{% for i in [1] %}{% set n.l = loop %}{% endfor %}{{ n.l.index"
         " }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 83: 'loop' after the end of its loop is not supported"},
        {"{% set n = namespace() %}{% for i in [1] %}{% set n.l = loop %}{% endfor %}{% for i in "
         "[1] %}{{ n.l.index }}{% endfor %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 101: 'loop' after the end of its loop is not supported"},
        {"{{ 'abc'['a':] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 14: str 'a' cannot be a bound of a slice: expected an integer"},
        {"{{ 'abc'[::0] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: int 0 cannot be the step of a slice: expected an integer other than "
         "0"},
        {"{{ 'abc'[::'a'] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: str 'a' cannot be the step of a slice: expected an integer other tha"
         "n 0"},
        {"{{ 5[1:] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: int 5 cannot be sliced"},
        {"{{ missing[1:] }}", LLM_ERROR_TEMPLATE,
         "line 1, column 14: 'missing' is undefined"},
        {"{{ 'abc'.strip(1, 2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: 'strip' got 2 arguments, expected at most 1"},
        {"{{ 'abc'.strip(x=1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: 'strip' got the argument 'x', which it does not take"},
        {"{{ 'abc'.replace('a', old='b') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 17: 'replace' got the argument 'old' twice"},
        {"{{ 'abc'.strip(1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: 'strip' got int, expected str"},
        {"{{ 'abc'.strip(missing) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 15: 'missing' is undefined"},
        {"{{ ['a']|join(nosuch=1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: 'join' got the argument 'nosuch', which it does not take"},
        {"{{ [[1]]|unique|list }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: list cannot be compared by 'unique': expected what can be a key"},
        {"{{ {'a': 1}|dictsort(by='x') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: str 'x' cannot be what 'dictsort' goes by: expected 'key' or 'value'"},
        {"{{ [1]|selectattr }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'selectattr' and 'rejectattr' need an attribute"},
        {"{{ [1]|select('nosuch') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: the test 'nosuch' is not supported"},
        {"{{ [1]|select(5) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'select' got int, expected str"},
        {"{{ [1]|map('nosuch') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: in 'map' the filter 'nosuch' is not supported"},
        {"{{ [1]|map('map', 'upper') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: in 'map' the filter 'map' is not supported"},
        {"{{ [1]|map }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'map' needs a filter or 'attribute='"},
        {"{{ [1]|map(nosuch=1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'map' got the argument 'nosuch', which it does not take"},
        {"{{ [1]|tojson(separators=5) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: int 5 cannot be the separators of JSON: expected two strings"},
        {"{{ [1]|tojson(separators=(1, 2)) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'separators' got int, expected str"},
        {"{{ '1_000'|int }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 12: a number written as '1_000' is not supported"},
        {"{{ 'Infinity'|float }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 15: a number written as 'Infinity' is not supported"},
        {"{{ ' -nan '|float }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 13: a number written as 'nan' is not supported"},
        {"{{ 1e300|int }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 10: 'int' of a float beyond 64 bits"},
        {"{{ missing|int }}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: 'missing' is undefined"},
        {"{{ 5|length }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: int 5 has no length"},
        {"{{ [1]|map('upper')|last }}", LLM_ERROR_TEMPLATE,
         "line 1, column 21: generator has no last item: expected a list"},
        {"{{ ['a']|sum(start='') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: str '' cannot be summed up: use 'join'"},
        {"{{ '12'|int(0, '10') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 9: 'int' with a base other than 10 is not supported"},
        {"{{ '12'|int(0, 16) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 9: 'int' with a base other than 10 is not supported"},
        {"{{ 'a'|abs }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: str 'a' has no absolute value"},
        {"{{ 5|items }}", LLM_ERROR_TEMPLATE,
         "line 1, column 6: int 5 is not a mapping"},
        {"{{ 'a'|trim(1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'trim' got int, expected str"},
        {"{{ 'a'|replace('b') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'replace' got fewer than 2 arguments"},
        {"{{ 'a'.startswith(1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 18: 'startswith' got int, expected str"},
        {"{{ ','.join([1]) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: 'join' got int, expected str"},
        {"{{ 'a b'.rsplit(none, 1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 16: 'rsplit' by white space with a limit is not supported"},
        {"{{ {}.get() }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: 'get' needs a key"},
        {"{{ [1].index('x') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: str 'x' is not in the list"},
        {"{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 32: 'cycle' needs items"},
        {"{{ {}.update({}) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: 'update' would change a dict, which templates may not"},
        {"{{ [].append(1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: 'append' would change a list, which templates may not"},
        {"{{ range('a') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: str 'a' cannot be a bound of a range: expected an integer"},
        {"{{ range(1, 2, 3, 4) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: 'range' got 4 plain and 0 named arguments, expected 1 to 3 integers, "
         "the step not 0"},
        {"{{ range(stop=1) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: 'range' got 0 plain and 1 named arguments, expected 1 to 3 integers, "
         "the step not 0"},
        {"{{ range(1, 2, 0) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: 'range' got 3 plain and 0 named arguments, expected 1 to 3 integers, "
         "the step not 0"},
        {"{{ range(100001) }}", LLM_ERROR_LIMIT,
         "line 1, column 9: a range with more than 100000 items"},
        {"{{ dict([1]) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: 'dict' of anything but one dict and named values is not supported"},
        {"{{ namespace(1) }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 13: 'namespace' of anything but one dict and named values is not support"
         "ed"},
        {"{{ 1 is divisibleby }}", LLM_ERROR_TEMPLATE,
         "line 1, column 9: the test 'divisibleby' needs an argument"},
        {"{% set a.b = 1 %}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: 'a' is undefined"},
        {"{% set a = {} %}{% set a.b = 1 %}", LLM_ERROR_TEMPLATE,
         "line 1, column 26: dict has no attributes to set: expected a namespace"},
        {"{% set a, b = [1] %}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 1 values for 2 names, expected as many"},
        {"{{ {[]: 1} }}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: list cannot be a key: expected a str, a number, a tuple or none"},
        {"{{ 5 is iterable }}{{ 5|list }}", LLM_ERROR_TEMPLATE,
         "line 1, column 25: int 5 is not iterable"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 35: the macro 'f' got 2 arguments, expected at most 1"},
        {"{% macro f(a, b) %}{% endmacro %}{{ f(1, a=2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 38: the macro 'f' got the argument 'a' twice"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 35: the macro 'f' got the argument 'a' twice"},
        {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", LLM_ERROR_TEMPLATE,
         "line 1, column 35: the macro 'f' has no parameter 'b'"},
        {"{% set n = namespace() %}{% for i in [1] %}{% macro f() %}{% endmacro %}{% set n.f = f "
         "%}{% endfor %}{{ n.f() }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 108: the macro 'f' outside of the scope that defined it is not supported"},
        {"{% set n = namespace() %}{% for i in [1] %}{% macro f() %}{% endmacro %}{% set n.f = f "
         "%}{% endfor %}{% for i in [1] %}{{ n.f() }}{% endfor %}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 126: the macro 'f' outside of the scope that defined it is not supported"},
        {"{{ -'a' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: str 'a' has no sign"},
        {"{{ +missing }}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: 'missing' is undefined"},
        {"{{ (1).real.x }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: int has no attribute or item 'real'"},
        {"{{ 'a'.b.c }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: str has no attribute or item 'b'"},
        {"{{ a_name_that_is_longer_than_the_sixty_bytes_which_a_message_shows_of_it.x }}", LLM_ERROR_TEMPLATE,
         "line 1, column 75: 'a_name_that_is_longer_than_the_sixty_bytes_which_a_message_s' is un"
         "defined"},
        {"{{ raise_exception('A long reason, more than the one hundred and ninety bytes that a me"
         "ssage has room for, is cut at its end and not at its beginning, because the beginning s"
         "ays what matters: the rest may be left out.') }}", LLM_ERROR_TEMPLATE,
         "line 1, column 19: A long reason, more than the one hundred and ninety bytes that a mes"
         "sage has room for, is cut at its end and not at its beginning, because the beginning sa"
         "ys what matters: the rest may be lef"},
        {"{{ [1]|map('a_name_that_is_longer_than_the_sixty_bytes_which_a_message_shows_of_it') }}", LLM_ERROR_UNSUPPORTED,
         "line 1, column 8: in 'map' the filter 'a_name_that_is_longer_than_the_sixty_bytes_which"
         "_a_message_s' is not supported"},
        {"{% if 1 %}{% endfor %}", LLM_ERROR_TEMPLATE,
         "line 1, column 14: unexpected 'endfor', expected a statement"},
        {"{% else %}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected 'else', expected a statement"},
        {"{% endif x %}", LLM_ERROR_TEMPLATE,
         "line 1, column 4: unexpected 'endif', expected a statement"},
        {"{{ 'abc'[9].x }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: str has no attribute or item '9'"},
        {"{{ {1: 2}[5].x }}", LLM_ERROR_TEMPLATE,
         "line 1, column 14: dict has no attribute or item '5'"},
        {"{{ [1][1.5].x }}", LLM_ERROR_TEMPLATE,
         "line 1, column 13: list has no attribute or item '1.5'"},
        {"{{ 'a'|replace }}", LLM_ERROR_TEMPLATE,
         "line 1, column 8: 'replace' got fewer than 2 arguments"},
        {"{{ [1, 2 }}", LLM_ERROR_TEMPLATE,
         "line 1, column 10: unexpected '}', expected ','"},
        {"{{ missing in 'abc' }}", LLM_ERROR_TEMPLATE,
         "line 1, column 12: 'missing' is undefined"}};
    size_t i;
    for (i = 0; i < sizeof pins / sizeof pins[0]; i++) {
        llm_template_desc d;
        memset(&d, 0, sizeof d);
        d.text = text_of(pins[i].source);
        d.date.year = 2024, d.date.month = d.date.day = 1;
        use_counting(&d);
        render(&out, &d);
        CHECK(out.result == pins[i].code && out.error.code == out.result &&
                  strncmp(out.error.text, "chat template, ", 15) == 0 &&
                  strcmp(out.error.text + 15, pins[i].message) == 0,
              "%s\n  is       %s\n  expected %s %s", pins[i].source, out.error.text,
              llm_result_name(pins[i].code), pins[i].message);
        CHECK(counts.live == 0, "%.60s: blocks are left", pins[i].source);
    }
}

/* Fails as it should, within bounds: the default 20 million steps are about a second. */
static void expect_hostile(const char *head, const char *piece, size_t count, const char *tail) {
    llm_template_desc d;
    clock_t begin = clock();
    memset(&d, 0, sizeof d);
    d.text = repeated(head, piece, count, tail);
    use_counting(&d);
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT || out.result == LLM_ERROR_TEMPLATE ||
              out.result == LLM_ERROR_UNSUPPORTED,
          "%.60s%.20s..: %s", head, piece, llm_result_name(out.result));
    CHECK(counts.live == 0 && counts.peak <= (size_t)128 << 20,
          "%.60s: %lu blocks left, %lu bytes at most", head, (unsigned long)counts.live,
          (unsigned long)counts.peak);
    CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 200.0, "%.60s%.20s..: took too long", head,
          piece);
    if (getenv("LLM_TEST_VERBOSE")) {
        printf("%.2f s %.60s%.20s: %s\n", (double)(clock() - begin) / CLOCKS_PER_SEC, head, piece,
               out.error.text);
    }
    drop(d.text);
}

/* Each limit, and what is said when it is passed. */
static void test_bounds(void) {
    static const struct {
        const char *head, *piece, *tail;
        size_t count;
        const char *message;
    } bounds[] = {
        {"{{ ", "(", "", 200, "the template is nested more than 112 deep"},
        {"", "{% if 1 %}", "", 200, "the template is nested more than 112 deep"},
        {"{% set ", "(", "a", 200, "the template is nested more than 112 deep"},
        {"{{ f(", "1,", ") }}", 65, "a call has 65 arguments, expected at most 64"},
        {"{% macro f(", "a,", "b) %}", 32, "a macro with more than 32 parameters"},
        {"{% with ", "a=1,", "a=1 %}", 8, "more than 8 names in 'with'"},
        {"{{ [", "1,", "] }}", 513, "more than 512 values at once"},
        {"{% set ", "a, ", "a = range(514) %}", 513, "more than 512 values at once"},
        {"{{ range(100001) }}", "", "", 0, "a range with more than 100000 items"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "", "", 0, "more than 64 calls at once"},
        {"{% macro f() %}{% for i in [1] %}{% for j in [1] %}{{ f() }}{% endfor %}{% endfor %}"
         "{% endmacro %}{{ f() }}",
         "", "", 0, "more than 64 loops at once"},
        {"{% macro f() %}{% with %}{% with %}{% with %}{% with %}{% with %}{{ f() }}{% endwith %}"
         "{% endwith %}{% endwith %}{% endwith %}{% endwith %}{% endmacro %}{{ f() }}",
         "", "", 0, "more than 256 scopes at once"},
        {"{% macro f() %}{% with %}{% with %}{% with %}{% with %}{% for i in [1] %}{{ f() }}"
         "{% endfor %}{% endwith %}{% endwith %}{% endwith %}{% endwith %}{% endmacro %}{{ f() }}",
         "", "", 0, "more than 256 scopes at once"},
        {"{% set n = namespace(x=[]) %}{% for i in range(49) %}{% set n.x = [n.x] %}{% endfor %}"
         "{{ n.x }}",
         "", "", 0, "a value nested more than 48 deep"},
        {"{% set n = namespace(x=1, y=2) %}{% for i in range(50) %}{% set n.x = [n.x] %}"
         "{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
         "", "", 0, "a value nested more than 48 deep"},
        {"{% set n = namespace(x=1, y=2) %}{% for i in range(49) %}{% set n.x = [n.x] %}"
         "{% set n.y = [n.y] %}{% endfor %}{{ n.x < n.y }}",
         "", "", 0, "a value nested more than 48 deep"},
        {"{% for i in range(10) %}{{ 'a' * 10000000 }}{% endfor %}", "", "", 0,
         "it needs more than max_output, which is 16777216 bytes"},
        {"{% set n = namespace(x=[1]) %}{% for i in range(30) %}{% set n.x = n.x + n.x %}"
         "{% endfor %}",
         "", "", 0, "it needs more than max_memory, which is 134217728 bytes"},
        {"{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "", "", 0,
         "it needs more than max_steps, which is 20000000 operations"}};
    llm_template_desc d;
    llm_message message;
    const char *text;
    size_t i;
    for (i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
        memset(&d, 0, sizeof d);
        d.text = repeated(bounds[i].head, bounds[i].piece, bounds[i].count, bounds[i].tail);
        use_counting(&d);
        render(&out, &d);
        text = strstr(out.error.text, ": ");
        CHECK(out.result == LLM_ERROR_LIMIT && text && strcmp(text + 2, bounds[i].message) == 0 &&
                  counts.live == 0,
              "%.60s: %s, expected %s", bounds[i].head, out.error.text, bounds[i].message);
        drop(d.text);
    }
    if (sizeof(size_t) <= 4) return; /* texts beyond 2 GiB, whose bytes are never looked at */
    memset(&d, 0, sizeof d);
    memset(&message, 0, sizeof message);
    d.messages = &message;
    d.n_messages = 1;
    d.max_output = d.max_memory = SIZE_MAX;
    d.max_steps = UINT64_MAX;
    message.content = text_of("x");
    message.content.size = (size_t)1 << 31;
    use_counting(&d);
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT && strstr(out.error.text, "a text has 2147483648 bytes, "
                                                                  "expected at most 2147483647"),
          "%s", out.error.text);
    message.content.size--;
    d.text = text_of("x{{ messages[0].content }}");
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT &&
              strstr(out.error.text, "it needs more than one value may have, which is 2147483647"),
          "%s", out.error.text);
    d.text = text_of("{{ [1] * 134217728 }}{{ [1] * 9223372036854775807 }}");
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT &&
              strstr(out.error.text, "it needs more than one value may have, which is 2147483647"),
          "%s", out.error.text);
    CHECK(counts.live == 0, "%lu blocks are left", (unsigned long)counts.live);
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
        "{% for i in range(9999) %}{% for j in range(9999) %}{% set x = 1.2345678901234567e-300|string "
        "%}{% endfor %}{% endfor %}",
        "{% set s = '9' * 790 + '.5e-1' %}{% for i in range(9999) %}{% for j in range(9999) %}{% set x "
        "= s|float %}{% endfor %}{% endfor %}",
        "{% set s = '0' * 1000000 + 'x' %}{% for i in range(99999) %}{% set x = s|int %}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% set r = s + '' %}{% for i in range(99999) %}{% if "
        "s.startswith(r) and s == r %}{% endif %}{% endfor %}",
        "{% set s = '\x01' * 300000 %}{% for i in range(99999) %}{% set x = s|tojson|length %}{% "
        "endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ ''.upper() }}{{ loop.depth }}{% "
        "endfor %}{% endfor %}",
        "{% set s = range(100000)|list %}{{ s[::-1]|sort }}",
        "{% set s = range(100000)|list %}{{ s|unique|list }}",
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
    expect_hostile("", "{{ abc }}{% set abc = 1 %}", 100000, "{{ x.y }}");
}

/* ---- the stack of the thread ---- */

#if defined(__SANITIZE_ADDRESS__)
#define STACK_LIMIT 400000u /* the sanitizer's frames are several times as large */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STACK_LIMIT 400000u
#endif
#endif
#if !defined(STACK_LIMIT)
#define STACK_LIMIT 65536u
#endif
enum { STACK_ROOM = 1 << 20 };

/* As deep as can be written, in each construct that nests; then as deep as data can be. */
static void *go_deep(void *unused) {
    static const char *const nests[][3] = {{"{{ ", "(", "1"},
                                           {"{{ ", "[", "1"},
                                           {"{{ ", "{1:", "1"},
                                           {"{{ ", "not ", "1"},
                                           {"{{ ", "-", "1"},
                                           {"{{ x", "[x", ""},
                                           {"{{ f", "(f", ""},
                                           {"{{ f", "(a=f", ""},
                                           {"{{ 1", "|d(1", ""},
                                           {"{{ 1", " is eq(1", ""},
                                           {"{{ ", "1 if 1 else ", "1 }}"},
                                           {"{{ ", "x[1:(", "1"},
                                           {"", "{% if 1 %}", ""},
                                           {"", "{% for a in [1] %}", ""},
                                           {"", "{% for a in [1] if a %}{% else %}", ""},
                                           {"", "{% with a=1, b=2 %}", ""},
                                           {"", "{% macro f(a=1, b=2) %}", ""},
                                           {"", "{% filter upper|lower %}", ""},
                                           {"", "{% set x %}", ""},
                                           {"", "{% generation %}", ""},
                                           {"{% for ", "(", "a"}};
    llm_template_desc d;
    llm_template_field fields[2];
    char json[200];
    size_t i, n;
    (void)unused;
    memset(&d, 0, sizeof d);
    for (i = 0; i < sizeof nests / sizeof nests[0]; i++) {
        for (n = 1; n < 200; n++) {
            d.text = repeated(nests[i][0], nests[i][1], n, nests[i][2]);
            render(&out, &d);
            drop(d.text);
            if (out.result == LLM_ERROR_LIMIT) break;
        }
        CHECK(n > 15 && n < 120, "%s: %lu deep: %s", nests[i][1], (unsigned long)n, out.error.text);
    }
    memset(fields, 0, sizeof fields);
    for (i = 0, n = 0; i < 48; i++) n += (size_t)sprintf(json + n, i % 2 ? "[" : "{\"a\":");
    for (i = 48; i-- > 0;) n += (size_t)sprintf(json + n, i % 2 ? "]" : "}");
    fields[0].name = text_of("x");
    fields[1].name = text_of("y");
    fields[0].text.data = fields[1].text.data = json;
    fields[0].text.size = fields[1].text.size = n;
    fields[0].json = fields[1].json = true;
    d.variables = fields;
    d.n_variables = 2;
    d.text = text_of("{{ x }}{{ x|tojson(indent=1, sort_keys=true) }}{{ [x]|map('tojson')|first }}"
                     "{{ x == y }}{{ [x]|select('eq', y)|list|length }}{{ [0.1, 1e300]|tojson }}");
    render(&out, &d);
    CHECK(out.result == LLM_OK, "deep data: %s", out.error.text);
    return NULL;
}

static void test_stack(void) {
    unsigned char *stack = NULL;
    pthread_attr_t attributes;
    pthread_t thread;
    size_t unused = 0;
    if (posix_memalign((void **)&stack, 4096, STACK_ROOM)) abort();
    memset(stack, 0xa5, STACK_ROOM);
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstack(&attributes, stack, STACK_ROOM) == 0, "a stack of its own");
    CHECK(pthread_create(&thread, &attributes, go_deep, NULL) == 0, "a thread");
    pthread_join(thread, NULL);
    while (unused < STACK_ROOM && stack[unused] == 0xa5) unused++;
    if (getenv("LLM_TEST_VERBOSE"))
        printf("%lu bytes of stack\n", (unsigned long)(STACK_ROOM - unused));
    CHECK(STACK_ROOM - unused <= STACK_LIMIT, "%lu bytes of stack, expected at most %u",
          (unsigned long)(STACK_ROOM - unused), STACK_LIMIT);
    pthread_attr_destroy(&attributes);
    free(stack);
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

/* Every budget of steps that is too small says so and leaves nothing; then the result is the same. */
static void test_budgets(const char *path, size_t every, size_t finest) {
    static fixture f;
    llm_text expected;
    size_t at = 0, runs_out = 0;
    int letter;
    if (!fixture_open(&f, path)) return;
    while ((letter = fixture_next(&f, &expected)) != 0) {
        llm_result result;
        if (at++ % every) continue;
        f.desc.max_steps = 0;
        use_counting(&f.desc);
        render(&out, &f.desc);
        result = out.result;
        for (f.desc.max_steps = 1;; f.desc.max_steps += 1 + f.desc.max_steps / finest) {
            render(&out, &f.desc);
            if (out.result != LLM_ERROR_LIMIT || out.size || counts.live) break;
            if (!strstr(out.error.text, "max_steps")) break;
            runs_out++;
        }
        CHECK(out.result == result && counts.live == 0, "%.*s with %lu steps: %s", (int)f.name.size,
              f.name.data, (unsigned long)f.desc.max_steps, out.error.text);
    }
    CHECK(runs_out > 100, "only %lu budgets tried", (unsigned long)runs_out);
    free(f.data);
}

/* A budget of steps, or memory, that ends within a function's loop: with every budget, and with every allocation
   failing, templates whose values are too large for what is allocated already. */
static void end_everywhere(llm_template_desc *d, size_t most) {
    size_t n, finest = most ? most : 1, ends = 0;
    d->max_steps = 0;
    for (n = 1;; n++) {
        use_counting(d);
        counts.fail_at = n;
        render(&out, d);
        if (counts.calls < n) break;
        CHECK(out.result == LLM_ERROR_MEMORY && !counts.live, "%.40s: allocation %lu: %s", d->text.data, (unsigned long)n,
              out.error.text);
    }
    CHECK(out.result == LLM_OK && !counts.live, "%.40s: %s", d->text.data, out.error.text);
    use_counting(d);
    for (d->max_steps = 1; most; d->max_steps += 1 + d->max_steps / finest) {
        render(&out, d);
        if (out.result != LLM_ERROR_LIMIT) break;
        ends++;
    }
    CHECK(!most || (out.result == LLM_OK && ends > 10), "%.40s: %lu ends: %s", d->text.data, (unsigned long)ends,
          out.error.text);
    d->max_steps = 0;
}

static void test_ends(void) {
    static const char *const large[] = { /* `big` has 2100 pairs, `long` 9000 bytes */
        "{{ big|tojson(sort_keys=true)|length }}", "{% for k in big %}{% endfor %}", "{{ big.keys()|length }}",
        "{{ big.values()|length }}", "{{ big.items()|length }}", "{{ long|list|length }}",
        "{{ '\\12' }}{{ []|sort(true) }}{{ []|max(true) is defined }}",
        "{% for i in range(3000) %}{% macro f() %}{% endmacro %}{% endfor %}",
        "{% macro f(a, b, c) %}{% endmacro %}{% for i in range(70) %}{{ f(1) }}{% endfor %}"};
    static const char *const steps[] = {
        "{% if long == long ~ '' %}x{% endif %}", "{{ 'abcabc'.strip('xyzabc') }}", "{{ 'aaaaaaaaaaaa'.replace('', 'b') }}",
        "{{ ', '.join(['a', 'b', 'c', 'd', 'e']) }}", "{{ '0123456789'.isdigit() }}{{ '      '.isspace() }}",
        "{% set a0 = 1 %}{% set a1 = 1 %}{% set a2 = 1 %}{% set a3 = 1 %}{% set a4 = 1 %}{% set a5 = 1 %}{% set a6 = 1 %}"
        "{% set a7 = 1 %}{% set a8 = 1 %}{% for i in [1] %}{% for j in [1] %}{{ a0 }}{{ none_such }}{% endfor %}{% endfor %}",
        "{{ {'d': 1, 'c': 2, 'b': 3, 'a': 4}|tojson(sort_keys=true) }}"};
    llm_template_desc d;
    llm_template_field fields[2];
    llm_text big = repeated("", "x", 9000, ""), code;
    char *text = (char *)calloc(1, 60000);
    size_t i, at;
    if (!text) abort();
    memset(&d, 0, sizeof d);
    memset(fields, 0, sizeof fields);
    for (i = at = 0; i < 2100; i++) at += (size_t)snprintf(text + at, 60000 - at, "%c\"k%u\": 1", i ? ',' : '{', (unsigned)i);
    text[at] = '}';
    fields[0].name = text_of("long"), fields[0].text = big;
    fields[1].name = text_of("big"), fields[1].text = text_of(text), fields[1].json = true;
    d.variables = fields, d.n_variables = 2;
    for (i = 0; i < sizeof large / sizeof *large; i++) d.text = text_of(large[i]), end_everywhere(&d, 0);
    d.n_variables = 1;
    for (i = 0; i < sizeof steps / sizeof *steps; i++) d.text = text_of(steps[i]), end_everywhere(&d, 400);
    d.n_variables = 0;
    for (i = 0; i < 70; i++) { /* where the list of instructions grows */
        code = repeated("", "{{ 1 }}", i, "{% macro f(a=1) %}{% endmacro %}");
        d.text = code, end_everywhere(&d, 0);
        drop(code);
    }
    drop(big), free(text);
}

static void expect_argument(llm_template_desc *d, const char *message) {
    render(&out, d);
    CHECK(out.result == LLM_ERROR_ARGUMENT && out.size == 0 && strcmp(out.error.text, message) == 0,
          "%s, expected %s", out.error.text, message);
}

/* Pointers that are missing and dates that are none. */
static void test_descriptors(void) {
    static const int wrong[][6] = {{-1, 1, 1, 0, 0, 0}, {10000, 1, 1, 0, 0, 0}, {1, 0, 1, 0, 0, 0},
                                   {1, 13, 1, 0, 0, 0}, {1, 1, 0, 0, 0, 0},     {1, 1, 32, 0, 0, 0},
                                   {1, 1, 1, -1, 0, 0}, {1, 1, 1, 24, 0, 0},    {1, 1, 1, 0, -1, 0},
                                   {1, 1, 1, 0, 60, 0}, {1, 1, 1, 0, 0, -1},    {1, 1, 1, 0, 0, 62}};
    static const char *const dates[] = {"chat template: date.year is -1, expected 1 to 9999",
                                        "chat template: date.year is 10000, expected 1 to 9999",
                                        "chat template: date.month is 0, expected 1 to 12",
                                        "chat template: date.month is 13, expected 1 to 12",
                                        "chat template: date.day is 0, expected 1 to 31",
                                        "chat template: date.day is 32, expected 1 to 31",
                                        "chat template: date.hour is -1, expected 0 to 23",
                                        "chat template: date.hour is 24, expected 0 to 23",
                                        "chat template: date.minute is -1, expected 0 to 59",
                                        "chat template: date.minute is 60, expected 0 to 59",
                                        "chat template: date.second is -1, expected 0 to 61",
                                        "chat template: date.second is 62, expected 0 to 61"};
    llm_template_desc d;
    llm_message messages[2];
    llm_template_field fields[2];
    char text[100];
    size_t i, size = 1;
    memset(&d, 0, sizeof d);
    memset(messages, 0, sizeof messages);
    memset(fields, 0, sizeof fields);
    messages[0].fields = messages[1].fields = d.variables = fields;
    d.text.size = 5;
    expect_argument(&d, "chat template: text: NULL with a size of 5");
    d.text = text_of("x");
    d.text.size = ((size_t)1 << 24) + 1;
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT &&
              strcmp(out.error.text,
                     "chat template: it has 16777217 bytes, expected at most 16777216") == 0,
          "%s", out.error.text);
    d.text.size = 1;
    d.n_messages = 2;
    expect_argument(&d, "chat template: messages: NULL with a size of 2");
    d.messages = messages;
    messages[1].role.size = 4;
    expect_argument(&d, "chat template: role of message 1: NULL with a size of 4");
    messages[1].role.data = "user";
    messages[0].content.size = 6;
    expect_argument(&d, "chat template: content of message 0: NULL with a size of 6");
    messages[0].content.size = 0;
    messages[1].n_fields = 2;
    messages[1].fields = NULL;
    expect_argument(&d, "chat template: fields or variables: NULL with a size of 2");
    messages[1].fields = fields;
    fields[1].name.size = 7;
    expect_argument(&d, "chat template: name of field or variable 1: NULL with a size of 7");
    fields[1].name.size = 0;
    fields[0].text.size = 8;
    expect_argument(&d, "chat template: text of field or variable 0: NULL with a size of 8");
    messages[1].n_fields = 0;
    d.n_variables = 1;
    expect_argument(&d, "chat template: text of field or variable 0: NULL with a size of 8");
    d.n_variables = 0;
    for (i = 0; i < 12; i++) {
        d.date.year = wrong[i][0], d.date.month = wrong[i][1], d.date.day = wrong[i][2];
        d.date.hour = wrong[i][3], d.date.minute = wrong[i][4], d.date.second = wrong[i][5];
        expect_argument(&d, dates[i]);
    }
    d.date.second = 61;
    render(&out, &d);
    CHECK(out.result == LLM_OK, "a leap second: %s", out.error.text);
    d.error = &out.error;
    CHECK(llm_template_render(&d, text, 8, NULL) == LLM_ERROR_ARGUMENT &&
              !strcmp(out.error.text, "chat template: size is NULL"), "no size: %s", out.error.text);
    CHECK(llm_template_render(&d, NULL, 8, &size) == LLM_ERROR_ARGUMENT && size == 0 &&
              !strcmp(out.error.text, "chat template: out is NULL"), "no buffer: %s", out.error.text);
    d.text = text_of("four");
    CHECK(llm_template_render(&d, text, 1, &size) == LLM_ERROR_ARGUMENT && size == 4, "no room");
    (void)snprintf(text, sizeof text, "chat template: the text has %lu bytes, the buffer 1", (unsigned long)size);
    CHECK(!strcmp(out.error.text, text), "%s", out.error.text);
    CHECK(llm_template_runs(NULL, collect, &parts) == LLM_ERROR_ARGUMENT, "no description");
    CHECK(llm_template_runs(&d, NULL, &parts) == LLM_ERROR_ARGUMENT &&
              !strcmp(out.error.text, "chat template: write is NULL"), "no writer: %s", out.error.text);
    d.text = text_of("{{ a.b }}");
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_ERROR_TEMPLATE, "an error");
    d.text = text_of("a{{ messages[1].content }}b");
    messages[1].content = text_of("c");
    memset(&parts, 0, sizeof parts);
    parts.size = sizeof parts.text - 1; /* collect refuses the second run */
    parts.count = 0;
    CHECK(llm_template_runs(&d, collect, &parts) == LLM_ERROR_IO && parts.count == 1,
          "the writer's refusal");
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
        {"\n\r\t [\n1\r,\t2 ]\n", "[1, 2]"},
        {"0e5", "0.0"},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"1e400", "inf"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"0.1", "0.1"},
        {"123456789012345678.0", "1.2345678901234568e+17"}};
    static const char *const said[][2] = {
        {"", "line 1, column 1: a field's value is not JSON: it ends after 0 bytes, expected a value"},
        {"[1, 2", "it ends after 5 bytes, expected ',' or ']'"},
        {"[1, x]", "byte 4 is 0x78, expected a value"},
        {"{\"a\": 1, 2}", "byte 9 is 0x32, expected '\"'"},
        {"{\"a\" 1}", "byte 5 is 0x31, expected ':'"},
        {"{\"a\": 1 2}", "byte 8 is 0x32, expected ',' or '}'"},
        {"1 2", "byte 2 is 0x32, expected its end"},
        {"\"a\nb\"", "byte 2 is 0x0a, expected '\"'"},
        {"\"a", "it ends after 2 bytes, expected '\"'"},
        {"\"\\q\"", "byte 2 is 0x71, expected an escape"},
        {"\"\\ud800\"", "byte 2 is 0x75, expected a pair of surrogates"},
        {"\"\\ud800xxxxxxx\"", "expected a pair of surrogates"},
        {"\"\\ud800\\nxxxxxx\"", "expected a pair of surrogates"},
        {"\"\\ud800\\u0041xx\"", "expected a pair of surrogates"},
        {"\"\\ud800\\ue000xx\"", "expected a pair of surrogates"},
        {"\"\\udc00\"", "expected a pair of surrogates"}};
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
    for (i = 0; i < sizeof said / sizeof said[0]; i++) {
        field.text = text_of(said[i][0]);
        render(&out, &d);
        CHECK(out.result == LLM_ERROR_FORMAT && strstr(out.error.text, said[i][1]), "%s: %s",
              said[i][0], out.error.text);
    }
    field.text.data = NULL;
    field.text.size = 0;
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_FORMAT, "no JSON: %s", out.error.text);
    field.text.data = "1\0";
    field.text.size = 2;
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_FORMAT &&
              !strcmp(out.error.text, "chat template, line 1, column 1: a field's value is not JSON: "
                                      "byte 1 is 0x00, expected its end"), "%s", out.error.text);
    field.text.data = "\"\\\0\"";
    field.text.size = 4;
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_FORMAT && strstr(out.error.text, "expected an escape"), "%s",
          out.error.text);
    deep = (char *)malloc(100001);
    if (!deep) abort();
    memset(deep, '[', 100000);
    deep[100000] = 0;
    field.text = text_of(deep);
    render(&out, &d);
    CHECK(out.result == LLM_ERROR_LIMIT &&
              strstr(out.error.text, "a field's value is nested more than 48 deep"),
          "%s", out.error.text);
    free(deep);
}

/* Text that is no UTF-8, and zero bytes, pass through. */
static void test_bytes(void) {
    static const char odd[] =
        "\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80\x80\x80\xc3\x82\x80\x80\x80\x80";
    const char *expected;
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
    /* one by one they are characters: no change of case, no escape, no space */
    message.content.data = odd;
    message.content.size = sizeof odd - 1;
    d.text = text_of("{{ messages[0].content|upper }}{{ messages[0].content|length }}"
                     "{{ [messages[0].content] }}{{ messages[0].content|tojson }}"
                     "{{ messages[0].content.rstrip(messages[0].content[-1]) }}");
    expected = "\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80\x80\x80\xc3\x82\x80\x80\x80\x80"
               "16['\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80\x80\x80\xc3\x82\x80\x80\x80\x80']"
               "\"\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80\x80\x80\xc3\x82\x80\x80\x80\x80\""
               "\xe0\x80\x80\xf4\x90\x80\x80\xf0\x80\x80\x80\xc3\x82";
    render(&out, &d);
    CHECK(out.result == LLM_OK && out.size == strlen(expected) &&
              memcmp(out.text, expected, out.size) == 0,
          "%s: %.*s", out.error.text, (int)out.size, out.text);
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
    char message[80];
    const char *said;
    if (!fixture_open(&f, path)) return;
    while ((letter = fixture_next(&f, &expected)) != 0) {
        if (at++ % 9) continue;
        for (n = 1;; n++) {
            use_counting(&f.desc);
            counts.fail_at = n;
            render(&out, &f.desc);
            if (counts.live != 0 || counts.calls < n) break;
            if (out.result != LLM_ERROR_MEMORY || out.size) break;
            said = strstr(out.error.text, ": ");
            (void)snprintf(message, sizeof message, "no memory for %lu bytes",
                           said ? strtoul(said + 16, NULL, 10) : 0);
            CHECK(said && !strcmp(said + 2, message), "%s", out.error.text);
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

/* ---- decimal numbers, against the C library's strtod ---- */

/* "digits", then 'e' and an exponent, without sign or point. */
static void check_decimal(const char *text) {
    static char digits[LLM__TPL_DIGITS];
    const char *s = text;
    uint32_t n = 0;
    int64_t exponent = 0;
    double mine, theirs = strtod(text, NULL);
    for (; *s && *s != 'e'; s++) exponent += !llm__tpl_push_digit(digits, &n, *s);
    if (*s) exponent += strtol(s + 1, NULL, 10);
    mine = llm__tpl_decimal(digits, n, exponent);
#if defined(_WIN32)
    if (theirs == DBL_MIN && mine < DBL_MIN) return; /* mingw's strtod errs at powers of two below it */
#endif
    CHECK(memcmp(&mine, &theirs, sizeof mine) == 0, "%.60s: %a, not %a", text, mine, theirs);
}

/* The middle between a double and the next, exactly, a little more and a little less. */
static void check_middle(double value) {
    enum { WHOLE = 310, PART = 1076, SIZE = WHOLE + PART };
    static char low[SIZE + 2], high[SIZE + 2], text[SIZE + 400];
    double next;
    uint64_t bits;
    int i, n = SIZE, carry = 0;
    memcpy(&bits, &value, sizeof bits);
    bits++;
    memcpy(&next, &bits, sizeof next);
    (void)snprintf(low, sizeof low, "%0*.*f", SIZE + 1, PART, value);
    (void)snprintf(high, sizeof high, "%0*.*f", SIZE + 1, PART, next);
    for (i = SIZE - 1; i >= 0; i--) { /* half of the sum is five times the sum, a place lower */
        const int at = i < WHOLE ? i : i + 1;
        carry += 5 * (low[at] - '0' + high[at] - '0');
        text[i] = (char)('0' + carry % 10);
        carry /= 10;
    }
    while (n > 1 && text[n - 1] == '0') n--;
    (void)snprintf(text + n, 20, "e%d", WHOLE - n - 1);
    check_decimal(text);
    memset(text + n, '0', 300);
    (void)snprintf(text + n + 300, 20, "1e%d", WHOLE - n - 302);
    check_decimal(text);
    text[n - 1]--; /* it was not 0 */
    (void)snprintf(text + n, 40, "9999999999999e%d", WHOLE - n - 14);
    check_decimal(text);
}

static void test_decimals(void) {
    static const char *const hard[] = {
        "0", "0e99", "1", "9007199254740993", "9007199254740992", "9007199254740995", "1e22",
        "1e23", "17976931348623157e292", "17976931348623158e292", "17976931348623159e292", "1e308",
        "1e309", "1e310", "1e99999", "1e-99999", "5e-324", "4e-324", "3e-324", "2e-324", "1e-324",
        "24703282292062327e-340", "24703282292062328e-340", "22250738585072011e-324",
        "22250738585072012e-324", "22250738585072014e-324", "6929001713869936e236",
        "6631236846766476e-316", "9214843084008499", "30078505129381147446200",
        "1777820000000000000001", "500000000000000166547e-20", "2e-308", "89255e-22",
        "104110013277974872254e-225",
    };
    static char text[1400];
    uint64_t bits, state = 1;
    double value;
    int i, k;
    for (i = 0; i < (int)(sizeof hard / sizeof *hard); i++) check_decimal(hard[i]);
    for (i = -1074; i < 1024; i += 7) check_middle(ldexp(1, i));
    for (i = 0; i < 2000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bits = (state ^ state >> 29) & (uint64_t)INT64_MAX;
        if (i % 4 == 0) bits >>= 11 + i % 52; /* denormals as well */
        memcpy(&value, &bits, sizeof value);
        if (value < 1e308) check_middle(value);
    }
    for (i = 0; i < 20000; i++) {
        const int n = i % 50 ? 1 + i % 25 : 1 + i % 1300;
        for (k = 0; k < n; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            text[k] = (char)('0' + (state >> 33) % 10);
        }
        (void)snprintf(text + n, 20, "e%d", (int)(state >> 40) % 680 - 340 - n + 10);
        check_decimal(text);
    }
    for (i = 0; i < 1000; i++) { /* long halfway cases end beyond what is kept of them */
        memset(text, '0', sizeof text);
        memcpy(text, "9007199254740993", 16);
        text[16 + i] = (char)('0' + i % 3);
        (void)snprintf(text + 17 + i, 20, "e%d", -1 - i);
        check_decimal(text);
    }
}

int main(int argc, char **argv) {
    static const char conversations[] = "tests/fixtures/templates/conversations.txt";
    static const char expressions[] = "tests/fixtures/templates/expressions.txt";
    static const char edges[] = "tests/fixtures/templates/edges.txt";
    int i;
    if (argc > 1) {
        for (i = 1; i < argc; i++) test_fixture(argv[i], 1);
        return check_report("template");
    }
    test_fixture(conversations, 300);
    test_fixture(expressions, 4000);
    test_fixture(edges, 250);
    test_messages();
    test_limits();
    test_bounds();
    test_ends();
    test_budgets(edges, 1, 24);
    test_budgets(conversations, 7, 3);
    test_stack();
    test_arguments();
    test_decimals();
    test_descriptors();
    test_json();
    test_bytes();
    test_origins();
    test_hostile();
    test_allocation(conversations);
    test_allocation(expressions);
    test_mutants(conversations, 30);
    return check_report("template");
}
