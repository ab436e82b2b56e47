/* ======================================================================== */
/* JSON: text from outside as an array of nodes                              */
/* ========================================================================
   json_parse(&j, "config.json", text, size, &error), then look around, then json_free. Strict
   (RFC 8259): UTF-8 is checked, a byte order mark, a trailing comma, NaN, a lone surrogate and the
   same key twice in one object are refused. A refusal says where: "config.json: byte 123: expected
   a value, found '}'". No recursion; 64 levels deep at most.

   Nodes lie in the order of the text: a container, then all that is in it. Node 0 is the whole.
   Node i ends before node json_next(j, i), so its children are walked by

       for (n = i + 1; n < json_next(j, i); n = json_next(j, n))

   In an object keys and values alternate: a key is a string node, its value is the next node.
   Strings are decoded while parsing: what they hold is valid UTF-8, which may have zeros in it.
   Text without escapes is not copied, so the text must outlive `j`. Besides it a node takes 16
   bytes (a node takes at least two bytes of text), decoded strings at most their own size. */
#ifndef CONVERT_JSON_H
#define CONVERT_JSON_H

#include "source.h"
#include <locale.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
enum {
    JSON_DEPTH = 64,
    JSON_DIGITS = 300,     /* most bytes of a number */
    JSON_MOST = 0x40000000 /* most bytes of text */
};
#define JSON_DECODED 0x80000000u /* in json_node.at: the string lies in `strings` */
#define JSON_NONE 0xFFFFFFFFu    /* no such node */

typedef struct json_node {
    uint32_t at;   /* in the text, behind the quote of a string; or in `strings` */
    uint32_t size; /* bytes of a string or a number, elements or members of a container */
    uint32_t next; /* the node behind this one and all that is in it */
    uint32_t type;
} json_node;

typedef struct json {
    const char *name, *text;
    size_t size;
    json_node *nodes;
    uint32_t count, room;
    char *strings; /* those that had escapes, decoded */
    size_t string_size, string_room;
} json;

/* ---- looking around ---- */

static LLM__UNUSED int json_type(const json *j, uint32_t node) {
    return node < j->count ? (int)j->nodes[node].type : JSON_NULL;
}

static LLM__UNUSED uint32_t json_next(const json *j, uint32_t node) {
    return node < j->count ? j->nodes[node].next : j->count;
}

/* Elements of an array, members of an object; 0 for everything else. */
static LLM__UNUSED uint32_t json_count(const json *j, uint32_t node) {
    return json_type(j, node) >= JSON_ARRAY ? j->nodes[node].size : 0;
}

/* What a string holds; empty, but not NULL, for everything else. */
static LLM__UNUSED llm_text json_text(const json *j, uint32_t node) {
    llm_text text = {"", 0};
    if (json_type(j, node) != JSON_STRING) return text;
    text.size = j->nodes[node].size;
    text.data = j->nodes[node].at & JSON_DECODED
                    ? j->strings + (j->nodes[node].at & ~JSON_DECODED)
                    : j->text + j->nodes[node].at;
    return text;
}

static LLM__UNUSED bool json_is(const json *j, uint32_t node, const char *string) {
    llm_text text = json_text(j, node);
    return json_type(j, node) == JSON_STRING && text.size == strlen(string) &&
           !memcmp(text.data, string, text.size);
}

/* The value of a key, JSON_NONE where there is none or `object` is no object. Looks at one key
   after another: walk large objects instead. */
static LLM__UNUSED uint32_t json_find(const json *j, uint32_t object, const char *key) {
    uint32_t n;
    if (json_type(j, object) != JSON_OBJECT) return JSON_NONE;
    for (n = object + 1; n < json_next(j, object); n = json_next(j, n + 1))
        if (json_is(j, n, key)) return n + 1;
    return JSON_NONE;
}

/* A whole number; false where it is none, or has a fraction, an exponent or too many digits. */
static LLM__UNUSED bool json_uint64(const json *j, uint32_t node, uint64_t *value) {
    const char *s;
    uint32_t i;
    uint64_t sum = 0;
    if (json_type(j, node) != JSON_NUMBER) return false;
    s = j->text + j->nodes[node].at;
    for (i = 0; i < j->nodes[node].size; i++) {
        unsigned digit = (unsigned)(unsigned char)s[i] - '0';
        if (digit > 9 || sum > (UINT64_MAX - digit) / 10) return false;
        sum = sum * 10 + digit;
    }
    *value = sum;
    return true;
}

static LLM__UNUSED bool json_int64(const json *j, uint32_t node, int64_t *value) {
    const char *s;
    uint32_t i;
    int64_t sum = 0;
    bool negative;
    if (json_type(j, node) != JSON_NUMBER) return false;
    s = j->text + j->nodes[node].at;
    negative = s[0] == '-';
    for (i = negative; i < j->nodes[node].size; i++) { /* downwards: the lowest has no opposite */
        int digit = (int)(unsigned char)s[i] - '0';
        if (digit < 0 || digit > 9 || sum < (INT64_MIN + digit) / 10) return false;
        sum = sum * 10 - digit;
    }
    if (!negative && sum == INT64_MIN) return false;
    *value = negative ? sum : -sum;
    return true;
}

/* The nearest double, infinite where the number is too large; false for what is no number. */
static LLM__UNUSED bool json_double(const json *j, uint32_t node, double *value) {
    char copy[JSON_DIGITS + 1], *point;
    if (json_type(j, node) != JSON_NUMBER || j->nodes[node].size > JSON_DIGITS) return false;
    memcpy(copy, j->text + j->nodes[node].at, j->nodes[node].size);
    copy[j->nodes[node].size] = 0;
    point = strchr(copy, '.');
    if (point) *point = *localeconv()->decimal_point; /* strtod reads the locale's */
    *value = strtod(copy, NULL);
    return true;
}

/* ---- parsing ---- */

typedef struct json_parser {
    json *j;
    llm_error *error;
    llm_result result;
    size_t at;
    uint32_t open[JSON_DEPTH]; /* the containers that are open */
    uint32_t depth;
    llm_text *keys; /* of the object that was closed last */
    size_t key_room;
} json_parser;

static bool json_fail(json_parser *p, size_t at, const char *what) {
    char found[24];
    if (at >= p->j->size) (void)snprintf(found, sizeof found, "the end");
    else if (p->j->text[at] > 32 && p->j->text[at] < 127)
        (void)snprintf(found, sizeof found, "'%c'", p->j->text[at]);
    else (void)snprintf(found, sizeof found, "byte 0x%02X", (unsigned)(uint8_t)p->j->text[at]);
    p->result = llm__fail(p->error, LLM_ERROR_FORMAT, "%s: byte %lu: %s, found %s", p->j->name,
                          (unsigned long)at, what, found);
    return false;
}

/* `memory`, of *room elements, with room for one more at index `count`; NULL: there is no memory,
   and the old one stays. */
static void *json_grow(json_parser *p, void *memory, size_t *room, size_t count, size_t size) {
    size_t more = *room ? *room * 2 : 64;
    void *grown;
    if (count < *room) return memory;
    while (more <= count) more *= 2;
    grown = more < SIZE_MAX / 2 / size ? realloc(memory, more * size) : NULL;
    if (grown) *room = more;
    else
        p->result = llm__fail(p->error, LLM_ERROR_MEMORY, "%s: no memory for %lu elements",
                              p->j->name, (unsigned long)more);
    return grown;
}

/* A new node; its container counts it, keys of objects excepted. */
static bool json_add(json_parser *p, uint32_t type, size_t at, size_t size, bool key) {
    json *j = p->j;
    size_t room = j->room;
    json_node *grown = (json_node *)json_grow(p, j->nodes, &room, j->count, sizeof *grown), *node;
    if (!grown) return false;
    j->nodes = grown;
    j->room = (uint32_t)room;
    if (p->depth && !key) j->nodes[p->open[p->depth - 1]].size++;
    node = &j->nodes[j->count++];
    node->at = (uint32_t)at;
    node->size = (uint32_t)size;
    node->next = j->count;
    node->type = type;
    return true;
}

static void json_skip(json_parser *p) {
    const json *j = p->j;
    while (p->at < j->size && (j->text[p->at] == ' ' || j->text[p->at] == '\n' ||
                               j->text[p->at] == '\r' || j->text[p->at] == '\t'))
        p->at++;
}

static bool json_put(json_parser *p, const char *data, size_t size) {
    json *j = p->j;
    char *grown = (char *)json_grow(p, j->strings, &j->string_room, j->string_size + size, 1);
    if (!grown) return false;
    j->strings = grown;
    if (size) memcpy(j->strings + j->string_size, data, size);
    j->string_size += size;
    return true;
}

/* Four hexadecimal digits at `at`; -1 where there are none. */
static int32_t json_hex(const json *j, size_t at) {
    int32_t value = 0;
    int i;
    if (j->size - at < 4) return -1;
    for (i = 0; i < 4; i++) {
        char c = j->text[at + (size_t)i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f'
                                                         ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* \uXXXX, or two of them for a character beyond U+FFFF; p->at is at the u. */
static bool json_unicode(json_parser *p) {
    const json *j = p->j;
    const size_t start = p->at - 1;
    int32_t scalar = json_hex(j, p->at + 1), low;
    char out[4];
    size_t size = 0;
    if (scalar < 0) return json_fail(p, p->at + 1, "expected four hexadecimal digits");
    p->at += 5;
    if (scalar >= 0xD800 && scalar < 0xE000) {
        low = j->size - p->at >= 6 && j->text[p->at] == '\\' && j->text[p->at + 1] == 'u'
                  ? json_hex(j, p->at + 2) : -1;
        if (scalar >= 0xDC00 || low < 0xDC00 || low >= 0xE000)
            return json_fail(p, start, "expected a pair of surrogates");
        scalar = 0x10000 + (scalar - 0xD800) * 0x400 + (low - 0xDC00);
        p->at += 6;
    }
    if (scalar >= 0x10000) {
        out[size++] = (char)(0xF0 | scalar >> 18);
        out[size++] = (char)(0x80 | (scalar >> 12 & 63));
    } else if (scalar >= 0x800) {
        out[size++] = (char)(0xE0 | scalar >> 12);
    }
    if (scalar >= 0x800) out[size++] = (char)(0x80 | (scalar >> 6 & 63));
    else if (scalar >= 0x80) out[size++] = (char)(0xC0 | scalar >> 6);
    out[size++] = (char)(scalar < 0x80 ? scalar : 0x80 | (scalar & 63));
    return json_put(p, out, size);
}

static bool json_escape(json_parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = p->at < p->j->size ? p->j->text[p->at] : 0;
    const char *found = c ? strchr(from, c) : NULL;
    if (c == 'u') return json_unicode(p);
    if (!found) return json_fail(p, p->at, "expected one of \"\\/bfnrtu after a backslash");
    p->at++;
    return json_put(p, &to[found - from], 1);
}

/* A string; p->at is at its quote. */
static bool json_string(json_parser *p, bool key) {
    json *j = p->j;
    const size_t start = ++p->at, decoded = j->string_size;
    size_t from = start; /* what has not been copied yet, once there was an escape */
    bool escaped = false;
    for (;;) {
        uint8_t c = p->at < j->size ? (uint8_t)j->text[p->at] : 0;
        if (c == '"') break;
        if (c < 32) return json_fail(p, p->at, "expected the end of a string");
        if (c == '\\') {
            escaped = true;
            if (!json_put(p, j->text + from, p->at - from)) return false;
            p->at++;
            if (!json_escape(p)) return false;
            from = p->at;
        } else if (c < 128) {
            p->at++;
        } else {
            uint32_t scalar;
            size_t size = llm__tok_utf8((const uint8_t *)j->text + p->at, j->size - p->at, &scalar);
            if (!size) return json_fail(p, p->at, "expected UTF-8");
            p->at += size;
        }
    }
    if (escaped && !json_put(p, j->text + from, p->at - from)) return false;
    p->at++;
    return escaped ? json_add(p, JSON_STRING, decoded | JSON_DECODED, j->string_size - decoded, key)
                   : json_add(p, JSON_STRING, start, p->at - 1 - start, key);
}

static bool json_digits(json_parser *p) {
    const json *j = p->j;
    if (p->at >= j->size || j->text[p->at] < '0' || j->text[p->at] > '9')
        return json_fail(p, p->at, "expected a digit");
    while (p->at < j->size && j->text[p->at] >= '0' && j->text[p->at] <= '9') p->at++;
    return true;
}

static bool json_number(json_parser *p) {
    const json *j = p->j;
    const size_t start = p->at;
    if (j->text[p->at] == '-') p->at++;
    if (p->at < j->size && j->text[p->at] == '0') p->at++;
    else if (!json_digits(p)) return false;
    if (p->at < j->size && j->text[p->at] == '.') {
        p->at++;
        if (!json_digits(p)) return false;
    }
    if (p->at < j->size && (j->text[p->at] | 32) == 'e') {
        p->at++;
        if (p->at < j->size && (j->text[p->at] == '+' || j->text[p->at] == '-')) p->at++;
        if (!json_digits(p)) return false;
    }
    if (p->at - start > JSON_DIGITS) return json_fail(p, start, "a number of over 300 bytes");
    return json_add(p, JSON_NUMBER, start, p->at - start, false);
}

static bool json_word(json_parser *p, const char *word, uint32_t type) {
    const size_t size = strlen(word);
    if (p->j->size - p->at < size || memcmp(p->j->text + p->at, word, size) != 0)
        return json_fail(p, p->at, "expected a value");
    if (!json_add(p, type, p->at, size, false)) return false;
    p->at += size;
    return true;
}

/* A value, of containers the beginning. */
static bool json_value(json_parser *p) {
    char c = p->at < p->j->size ? p->j->text[p->at] : 0;
    switch (c) {
    case '"': return json_string(p, false);
    case 'n': return json_word(p, "null", JSON_NULL);
    case 't': return json_word(p, "true", JSON_TRUE);
    case 'f': return json_word(p, "false", JSON_FALSE);
    case '[':
    case '{':
        if (p->depth == JSON_DEPTH) return json_fail(p, p->at, "more than 64 levels deep");
        if (!json_add(p, c == '[' ? JSON_ARRAY : JSON_OBJECT, p->at, 0, false)) return false;
        p->open[p->depth++] = p->j->count - 1;
        p->at++;
        return true;
    default:
        if (c == '-' || (c >= '0' && c <= '9')) return json_number(p);
        return json_fail(p, p->at, "expected a value");
    }
}

static int json_compare_keys(const void *a, const void *b) {
    return text_compare(*(const llm_text *)a, *(const llm_text *)b);
}

/* Of a key that is there twice some reader would take the first and another one the last. */
static bool json_check_keys(json_parser *p, uint32_t object) {
    const json *j = p->j;
    size_t count = 0, i;
    uint32_t n;
    for (n = object + 1; n < j->count; n = j->nodes[n + 1].next) {
        llm_text *grown = (llm_text *)json_grow(p, p->keys, &p->key_room, count, sizeof *grown);
        if (!grown) return false;
        p->keys = grown;
        p->keys[count++] = json_text(j, n);
    }
    if (count > 1) qsort(p->keys, count, sizeof *p->keys, json_compare_keys);
    for (i = 1; i < count; i++)
        if (text_compare(p->keys[i - 1], p->keys[i]) == 0) {
            p->result = llm__fail(p->error, LLM_ERROR_FORMAT,
                                  "%s: byte %lu: the key \"%s\" is twice in this object", j->name,
                                  (unsigned long)j->nodes[object].at, show(p->keys[i]).text);
            return false;
        }
    return true;
}

/* A key and its colon. */
static bool json_key(json_parser *p) {
    if (p->at >= p->j->size || p->j->text[p->at] != '"')
        return json_fail(p, p->at, "expected a key");
    if (!json_string(p, true)) return false;
    json_skip(p);
    if (p->at >= p->j->size || p->j->text[p->at] != ':')
        return json_fail(p, p->at, "expected ':'");
    p->at++;
    json_skip(p);
    return true;
}

/* What follows a value, up to the beginning of the next one; false at the end of the text too. */
static bool json_follow(json_parser *p, bool *done) {
    json *j = p->j;
    bool first = j->count && j->nodes[j->count - 1].type >= JSON_ARRAY && p->depth &&
                 p->open[p->depth - 1] == j->count - 1; /* this container has only begun */
    for (;; first = false) {
        uint32_t container;
        bool object;
        json_skip(p);
        if (!p->depth) {
            *done = p->at == j->size;
            return *done || json_fail(p, p->at, "expected the end of the text");
        }
        container = p->open[p->depth - 1];
        object = j->nodes[container].type == JSON_OBJECT;
        if (p->at < j->size && j->text[p->at] == (object ? '}' : ']')) {
            if (object && !json_check_keys(p, container)) return false;
            j->nodes[container].next = j->count;
            p->depth--;
            p->at++;
            continue;
        }
        if (!first) {
            if (p->at >= j->size || j->text[p->at] != ',')
                return json_fail(p, p->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
            p->at++;
            json_skip(p);
        }
        return !object || json_key(p);
    }
}

static LLM__UNUSED void json_free(json *j) {
    free(j->nodes);
    free(j->strings);
    memset(j, 0, sizeof *j);
}

/* `name` is what messages call the text; both outlive `j`. After a failure there is nothing to be
   freed, and `j` is as an empty one: no node is found in it. */
static LLM__UNUSED llm_result json_parse(json *j, const char *name, const char *text, size_t size,
                                         llm_error *error) {
    json_parser p;
    bool done = false, good;
    memset(j, 0, sizeof *j);
    memset(&p, 0, sizeof p);
    if (size > JSON_MOST)
        return llm__fail(error, LLM_ERROR_LIMIT, "%s: %.0f bytes, at most %.0f are read", name,
                         (double)size, (double)JSON_MOST);
    j->name = name;
    j->text = text;
    j->size = size;
    p.j = j;
    p.error = error;
    json_skip(&p);
    do good = json_value(&p) && json_follow(&p, &done);
    while (good && !done);
    free(p.keys);
    if (good) return LLM_OK;
    json_free(j);
    return p.result;
}

#endif
