/* The JSON reader: what it accepts and refuses, where it says the fault is, cut and altered texts,
   and that time and memory grow with the text. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_NO_TEMPLATE
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "../../tools/convert/json.h"
#include "../check.h"
#include <time.h>

static uint64_t state = 11;
static uint32_t any(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

/* Parses a copy of just that size, so that a read behind it is seen; json_free is the caller's. */
static llm_result parse(json *j, const char *text, size_t size, char **copy, llm_error *error) {
    *copy = (char *)malloc(size ? size : 1);
    if (!*copy) exit(2);
    memcpy(*copy, text, size);
    return json_parse(j, "x.json", *copy, size, error);
}

/* Every node through every function; the sum keeps the reads. */
static unsigned walk(const json *j) {
    unsigned sum = 0;
    uint32_t n, child;
    for (n = 0; n < j->count; n++) {
        llm_text text = json_text(j, n);
        double number = 0;
        uint64_t natural = 0;
        int64_t whole = 0;
        size_t i;
        for (i = 0; i < text.size; i++) sum += (unsigned char)text.data[i];
        sum += (unsigned)json_double(j, n, &number) + (unsigned)json_uint64(j, n, &natural);
        sum += (unsigned)json_int64(j, n, &whole);
        sum += json_find(j, n, "a") + json_count(j, n);
        if (json_type(j, n) >= JSON_ARRAY)
            for (child = n + 1; child < json_next(j, n); child = json_next(j, child)) sum++;
    }
    return sum;
}

static void test_values(void) {
    static const char text[] = " {\"a\": [1, -2.5e1, true, false, null, [], {}],\r\n\t\"b\\n\": "
                               "{\"\": \"\"}, \"c\": \"\xC3\xA9\\u00e9\\uD83D\\uDE00\\u0000\\/\"} ";
    json j;
    llm_error error = {LLM_OK, ""};
    char *copy;
    double number = 0;
    uint32_t a, n, count = 0;
    llm_text c;
    CHECK(parse(&j, text, sizeof text - 1, &copy, &error) == LLM_OK, "%s", error.text);
    CHECK(json_type(&j, 0) == JSON_OBJECT && json_count(&j, 0) == 3 && json_next(&j, 0) == j.count,
          "the whole");
    a = json_find(&j, 0, "a");
    CHECK(json_type(&j, a) == JSON_ARRAY && json_count(&j, a) == 7, "%u", (unsigned)a);
    for (n = a + 1; n < json_next(&j, a); n = json_next(&j, n)) count++;
    CHECK(count == 7, "%u children", (unsigned)count);
    CHECK(json_double(&j, a + 2, &number) && number == -25.0, "%g", number);
    CHECK(json_type(&j, a + 3) == JSON_TRUE && json_type(&j, a + 5) == JSON_NULL, "words");
    CHECK(json_count(&j, a + 6) == 0 && json_type(&j, a + 7) == JSON_OBJECT, "empty containers");
    n = json_find(&j, 0, "b\n");
    CHECK(n != JSON_NONE && json_is(&j, json_find(&j, n, ""), ""), "an escaped key, an empty one");
    c = json_text(&j, json_find(&j, 0, "c"));
    CHECK(c.size == 10 && !memcmp(c.data, "\xC3\xA9\xC3\xA9\xF0\x9F\x98\x80\0/", 10), "%lu bytes",
          (unsigned long)c.size);
    CHECK(json_find(&j, 0, "d") == JSON_NONE && json_find(&j, a, "a") == JSON_NONE &&
          json_find(&j, JSON_NONE, "a") == JSON_NONE, "what is not there");
    CHECK(json_text(&j, 0).size == 0 && !json_is(&j, 0, "") && json_count(&j, a + 1) == 0 &&
          json_type(&j, 1000) == JSON_NULL, "what is something else");
    json_free(&j);
    free(copy);
}

static void test_numbers(void) {
    static const struct {
        const char *text;
        double value;
        int natural, whole;
        uint64_t u;
        int64_t i;
    } cases[] = {
        {"0", 0, 1, 1, 0, 0},
        {"-0", 0, 0, 1, 0, 0},
        {"18446744073709551615", 18446744073709551615.0, 1, 0, UINT64_MAX, 0},
        {"18446744073709551616", 18446744073709551616.0, 0, 0, 0, 0},
        {"9223372036854775807", 9223372036854775807.0, 1, 1, INT64_MAX, INT64_MAX},
        {"9223372036854775808", 9223372036854775808.0, 1, 0, (uint64_t)INT64_MAX + 1, 0},
        {"-9223372036854775808", -9223372036854775808.0, 0, 1, 0, INT64_MIN},
        {"-9223372036854775809", -9223372036854775808.0, 0, 0, 0, 0},
        {"1e3", 1000, 0, 0, 0, 0},
        {"1.0", 1, 0, 0, 0, 0},
        {"1e-05", 1e-05, 0, 0, 0, 0},
        {"0.1E+2", 10, 0, 0, 0, 0},
        {"5e-324", 5e-324, 0, 0, 0, 0},
        {"1e-9999", 0, 0, 0, 0, 0},
    };
    json j;
    llm_error error = {LLM_OK, ""};
    char *copy;
    double huge = 0;
    size_t k;
    for (k = 0; k < sizeof cases / sizeof *cases; k++) {
        double value = -1;
        uint64_t u = 0;
        int64_t i = 0;
        CHECK(parse(&j, cases[k].text, strlen(cases[k].text), &copy, &error) == LLM_OK, "%s: %s",
              cases[k].text, error.text);
        CHECK(json_double(&j, 0, &value) && !(value < cases[k].value) && !(value > cases[k].value),
              "%s: %.17g", cases[k].text, value);
        CHECK(json_uint64(&j, 0, &u) == cases[k].natural && u == cases[k].u, "%s", cases[k].text);
        CHECK(json_int64(&j, 0, &i) == cases[k].whole && i == cases[k].i, "%s", cases[k].text);
        json_free(&j);
        free(copy);
    }
    CHECK(parse(&j, "1e999", 5, &copy, &error) == LLM_OK, "%s", error.text);
    CHECK(json_double(&j, 0, &huge) && huge > 1.7e308, "too large is infinite");
    json_free(&j);
    free(copy);
}

static void test_refusals(void) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "byte 0: expected a value, found the end"},
        {"{}}", "byte 2: expected the end of the text, found '}'"},
        {"1 2", "byte 2: expected the end of the text, found '2'"},
        {"\xEF\xBB\xBF{}", "byte 0: expected a value, found byte 0xEF"},
        {"[1,]", "byte 3: expected a value, found ']'"},
        {"[,1]", "byte 1: expected a value, found ','"},
        {"[1 2]", "byte 3: expected ',' or ']', found '2'"},
        {"[1}", "byte 2: expected ',' or ']', found '}'"},
        {"[1", "byte 2: expected ',' or ']', found the end"},
        {"{\"a\":1]", "byte 6: expected ',' or '}', found ']'"},
        {"{\"a\" 1}", "byte 5: expected ':', found '1'"},
        {"{\"a\":1,}", "byte 7: expected a key, found '}'"},
        {"{a:1}", "byte 1: expected a key, found 'a'"},
        {"{1:1}", "byte 1: expected a key, found '1'"},
        {"{\"a\":}", "byte 5: expected a value, found '}'"},
        {"{\"a\":1,\"b\":2,\"\\u0061\":3}", "byte 0: the key \"a\" is twice in this object"},
        {"[{\"a\":{\"a\":1,\"b\":2,\"b\":2}}]", "byte 6: the key \"b\" is twice in this object"},
        {"nul", "byte 0: expected a value, found 'n'"},
        {"NaN", "byte 0: expected a value, found 'N'"},
        {"[-Infinity]", "byte 2: expected a digit, found 'I'"},
        {"+1", "byte 0: expected a value, found '+'"},
        {"01", "byte 1: expected the end of the text, found '1'"},
        {"1.", "byte 2: expected a digit, found the end"},
        {".5", "byte 0: expected a value, found '.'"},
        {"1e", "byte 2: expected a digit, found the end"},
        {"[1e+]", "byte 4: expected a digit, found ']'"},
        {"0x10", "byte 1: expected the end of the text, found 'x'"},
        {"'a'", "byte 0: expected a value, found '''"},
        {"\"a", "byte 2: expected the end of a string, found the end"},
        {"\"a\nb\"", "byte 2: expected the end of a string, found byte 0x0A"},
        {"\"\\x\"", "byte 2: expected one of \"\\/bfnrtu after a backslash, found 'x'"},
        {"\"\\", "byte 2: expected one of \"\\/bfnrtu after a backslash, found the end"},
        {"\"\\u12g4\"", "byte 3: expected four hexadecimal digits, found '1'"},
        {"\"\\u12", "byte 3: expected four hexadecimal digits, found '1'"},
        {"\"\\ud800\"", "byte 1: expected a pair of surrogates, found '\\'"},
        {"\"\\ud800\\n\"", "byte 1: expected a pair of surrogates, found '\\'"},
        {"\"\\ud800\\u0041\"", "byte 1: expected a pair of surrogates, found '\\'"},
        {"\"\\udc00\\ud800\"", "byte 1: expected a pair of surrogates, found '\\'"},
        {"\"\xC0\x80\"", "byte 1: expected UTF-8, found byte 0xC0"},
        {"\"\xED\xA0\x80\"", "byte 1: expected UTF-8, found byte 0xED"},
        {"\"\xE2\x96", "byte 1: expected UTF-8, found byte 0xE2"},
        {"\"a\xFF\"", "byte 2: expected UTF-8, found byte 0xFF"},
        {"// c\n1", "byte 0: expected a value, found '/'"},
    };
    json j;
    llm_error error = {LLM_OK, ""};
    char *copy, deep[200], digits[302];
    size_t k;
    for (k = 0; k < sizeof cases / sizeof *cases; k++) {
        llm_result result = parse(&j, cases[k].text, strlen(cases[k].text), &copy, &error);
        CHECK(result == LLM_ERROR_FORMAT && !strncmp(error.text, "x.json: ", 8) &&
              !strcmp(error.text + 8, cases[k].says), "%s: %s",
              cases[k].text, error.text);
        CHECK(!j.nodes && !j.strings && json_find(&j, 0, "a") == JSON_NONE, "empty after a failure");
        free(copy);
    }
    CHECK(parse(&j, "\"\0\"", 3, &copy, &error) == LLM_ERROR_FORMAT, "a zero in a string");
    free(copy);
    memset(deep, '[', sizeof deep);
    memset(deep + 64, ']', 64);
    CHECK(parse(&j, deep, 128, &copy, &error) == LLM_OK, "%s", error.text);
    json_free(&j);
    free(copy);
    memset(deep + 64, '[', 64);
    CHECK(parse(&j, deep, 200, &copy, &error) == LLM_ERROR_FORMAT &&
          strstr(error.text, "byte 64: more than 64 levels"), "%s", error.text);
    free(copy);
    memset(digits, '7', sizeof digits);
    CHECK(parse(&j, digits, 300, &copy, &error) == LLM_OK, "%s", error.text);
    json_free(&j);
    free(copy);
    CHECK(parse(&j, digits, 301, &copy, &error) == LLM_ERROR_FORMAT && strstr(error.text, "300"),
          "%s", error.text);
    free(copy);
    CHECK(json_parse(&j, "x.json", "{", 1, NULL) == LLM_ERROR_FORMAT, "no place for the message");
    CHECK(json_parse(&j, "x.json", "1", (size_t)1 << 31, &error) == LLM_ERROR_LIMIT &&
          !strcmp(error.text, "x.json: 2147483648 bytes, at most 1073741824 are read"), "%s", error.text);
}

static void test_cut_and_altered(void) {
    static const char good[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\u0120\\\"b\":1},"
                               "\"merges\":[\"a b\",[\"\xC3\xA9\",\"\\ud83d\\ude00\"]]},\"n\":[-1.5e3,"
                               "12345678901234567890,null,true,{}],\"a\":false}";
    static const char pool[] = "{}[]:,\"\\u0e-+.d8tfn \n\xE2\x80";
    json j;
    llm_error error = {LLM_OK, ""};
    char *copy;
    size_t k;
    unsigned sum = 0, accepted = 0;
    for (k = 0; k < sizeof good - 1; k++) {
        CHECK(parse(&j, good, k, &copy, &error) == LLM_ERROR_FORMAT, "cut at %lu",
              (unsigned long)k);
        free(copy);
    }
    for (k = 0; k < 60000; k++) {
        char text[sizeof good];
        uint32_t changes = 1 + any(4);
        memcpy(text, good, sizeof good);
        while (changes--)
            text[any(sizeof good - 1)] = any(3) ? pool[any(sizeof pool - 1)] : (char)any(256);
        if (parse(&j, text, sizeof good - 1, &copy, &error) == LLM_OK) {
            accepted++;
            sum += walk(&j);
        }
        json_free(&j);
        free(copy);
    }
    CHECK(accepted > 1000 && sum, "%u altered texts accepted", accepted);
}

/* Something like a large tokenizer.json, and shapes that are hard on a reader. */
static char *make_large(int kind, size_t size) {
    char *text = (char *)malloc(size + 64);
    size_t at = 0;
    unsigned long k = 0;
    if (!text) exit(2);
    text[at++] = kind == 1 ? '[' : '{';
    for (; at + 40 < size; k++) {
        const unsigned long n = kind == 0 ? k * 7919 % 1000003 : kind == 2 ? 0xFFFFFFFFu - k : k;
        if (kind == 1) memcpy(text + at, "0,", 2), at += 2;
        else if (kind == 0) at += (size_t)sprintf(text + at, "\"\\u0120token%lu\":%lu,", n, k);
        else if (kind == 2) at += (size_t)sprintf(text + at, "\"%08lx\":{},", n);
        else at += (size_t)sprintf(text + at, "\"%lu\":[\"a\",\"\\n\"],", n);
    }
    at += (size_t)sprintf(text + at, kind == 1 ? "0]" : "\"end\":0}");
    memset(text + at, ' ', size - at);
    return text;
}

static void test_large(void) {
    const size_t size = (size_t)11 << 20;
    int kind;
    for (kind = 0; kind < 4; kind++) {
        char *text = make_large(kind, size);
        llm_error error = {LLM_OK, ""};
        json j;
        clock_t start = clock();
        double seconds;
        size_t memory;
        CHECK(json_parse(&j, "large.json", text, size, &error) == LLM_OK, "%s", error.text);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        memory = j.count * sizeof *j.nodes + j.string_size;
        printf("  11 MB of kind %d: %.2f s, %lu nodes, %.1f bytes a byte\n", kind, seconds,
               (unsigned long)j.count, (double)memory / (double)size);
        CHECK(seconds < 10 && memory <= size * 9, "%.2f s, %lu bytes", seconds,
              (unsigned long)memory); /* a bound for a busy machine with sanitizers */
        json_free(&j);
        free(text);
    }
}

int main(void) {
    test_values();
    test_numbers();
    test_refusals();
    test_cut_and_altered();
    test_large();
    return check_report("test_json");
}
