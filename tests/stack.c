/* Everything on a stack of 64 KB: each part of the library runs on a thread whose stack is painted and
   ends at a page that may not be touched; how deep it came is measured. */
#include "faults.h"
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include "everything.h"

#define STACK  65536u
#define GUARD  65536u
#define PAINT  0xa5
#define TOKENS 40u

static unsigned char *stack; /* [GUARD] not to be touched, then [STACK] */
static size_t deepest;
static const char *deepest_part;

typedef struct part {
    void (*run)(void *data);
    void *data;
    unsigned char *top; /* where it began */
} part;

static void *begin(void *data) {
    part *p = (part *)data;
    unsigned char here = 0;
    p->top = &here;
    p->run(p->data);
    return NULL;
}

/* Runs a part on the small stack; the bytes below its first frame that were used. */
static size_t measure(const char *name, void (*run)(void *data), void *data) {
    pthread_attr_t attributes;
    pthread_t thread;
    part p;
    size_t low = 0, depth;
    p.run = run, p.data = data, p.top = NULL;
    memset(stack + GUARD, PAINT, STACK);
    if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack + GUARD, STACK) ||
        pthread_create(&thread, &attributes, begin, &p) || pthread_join(thread, NULL)) {
        CHECK(false, "%s: no thread with a stack of %u bytes", name, STACK);
        return 0;
    }
    (void)pthread_attr_destroy(&attributes);
    while (low < STACK && stack[GUARD + low] == PAINT) low++;
    depth = (size_t)(p.top - (stack + GUARD)) - low;
    CHECK(low > 0 && low < STACK, "%s: the stack is used to its end", name);
    if (depth > deepest) deepest = depth, deepest_part = name;
    return depth;
}
static void report(const char *name, void (*run)(void *data), void *data) {
    printf("%-22s %6zu bytes\n", name, measure(name, run, data));
}

/* ---- the parts ---- */

static everything all;

static void part_open(void *unused) { (void)unused, everything_open(&all); }
static void part_tokenize(void *unused) { (void)unused, everything_tokenize(&all); }
static void part_sessions(void *unused) { (void)unused, everything_sessions(&all); }
static void part_batch(void *unused) { (void)unused, everything_batch(&all); }
static void part_sample(void *unused) { (void)unused, everything_sample(&all); }
static void part_stream(void *unused) { (void)unused, everything_stream(&all); }
static void part_template(void *unused) { (void)unused, everything_template_render(&all); }
static void part_chat(void *unused) { (void)unused, everything_chat(&all); }
static void part_close(void *unused) { (void)unused, everything_close(&all); }

static void part_prefetch(void *unused) {
    llm_prefetch_desc d;
    (void)unused;
    memset(&d, 0, sizeof d);
    d.error = &all.error;
    TRY(llm_model_prefetch(all.model, &d), &all.error);
}

static void measure_parts(const char *name, bool read) {
    memset(&all, 0, sizeof all);
    all.name = name, all.type = "q4", all.threads = 2, all.read = read;
    report(read ? "open, read" : "open", part_open, NULL);
    report("prefetch", part_prefetch, NULL);
    report("tokenize", part_tokenize, NULL);
    report("session, fork", part_sessions, NULL);
    report("batch", part_batch, NULL);
    report("sampler", part_sample, NULL);
    report("stream", part_stream, NULL);
    report("template", part_template, NULL);
    report("chat", part_chat, NULL);
    report("close", part_close, NULL);
}

/* ---- evaluation: every format, cache, instruction set and number of rows ---- */

typedef struct setting {
    const llm_model *model;
    const char *isa;
    llm_kv kv;
    int32_t ids[FIXTURE_TOKENS];
} setting;

static void part_evaluate(void *data) {
    static const uint32_t rows[] = {1, 3, 4, 30}; /* of one evaluation */
    setting *e = (setting *)data;
    llm_session_desc d;
    llm_session *s;
    llm_error error;
    uint32_t i, at;
    memset(&d, 0, sizeof d);
    d.model = e->model, d.isa = e->isa, d.kv = e->kv, d.context = TOKENS, d.rows = 32, d.error = &error;
    TRY(llm_session_create(&s, &d), &error);
    for (i = 0, at = 0; i < 4; at += rows[i++]) TRY(llm_eval(s, e->ids + at, rows[i]), llm_session_error(s));
    llm_session_destroy(s);
}

static void measure_evaluation(void) {
    static const char *const types[] = {"q8", "q6", "q5", "q4", "q3", "q2", "bf16", "f32"};
    static const char *const models[] = {"llama-odd", "gemma"};
    setting e;
    uint32_t isa, type, m, kv;
    for (isa = 0; (e.isa = llm_isa_name(isa)) != NULL; isa++) {
        size_t most = 0, depth;
        char name[64];
        for (m = 0; m < 2; m++)
            for (type = 0; type < 7; type++)
                for (kv = 0; kv < LLM_KV_COUNT; kv++) {
                    llm_model *model = fixture_open(models[m], types[type]);
                    e.model = model, e.kv = (llm_kv)kv;
                    fixture_ids(models[m], e.ids);
                    depth = measure("evaluate", part_evaluate, &e);
                    most = depth > most ? depth : most;
                    llm_model_close(model);
                }
        (void)snprintf(name, sizeof name, "evaluate, %s", e.isa);
        printf("%-22s %6zu bytes\n", name, most);
    }
}

/* ---- templates that nest as deep as they may, and deeper ---- */

typedef struct nest {
    const char *head, *open, *middle, *close, *tail;
} nest;
static const nest nests[] = {
    {"{{ ", "(", "1", ")", " }}"},
    {"{{ ", "[", "1", "]", " }}"},
    {"{{ ", "[", "1", "]", " | tojson }}"},
    {"{{ ", "{1: ", "1", "}", " }}"},
    {"{{ ", "not ", "1", "", " }}"},
    {"{{ ", "-", "1", "", " }}"},
    {"{{ ", "1 if 1 else ", "1", "", " }}"},
    {"{{ ", "", "1", " if 1 else 2", " }}"},
    {"{{ 2", " ** 1", "", "", " }}"},
    {"{{ x", "[", "0", "]", " }}"},
    {"{{ [0]", "[0:", "1", "]", " }}"},
    {"{{ ", "range(", "1", ")", " }}"},
    {"{{ 1", "|default(", "1", ")", " }}"},
    {"{{ ", "(1 is eq ", "1", ")", " }}"},
    {"", "{% if 1 %}", "x", "{% endif %}", ""},
    {"", "{% for a in [1] %}", "x", "{% endfor %}", ""},
    {"", "{% set a %}", "x", "{% endset %}", ""},
    {"", "{% with a = 1 %}", "x", "{% endwith %}", ""},
    {"", "{% filter upper %}", "x", "{% endfilter %}", ""},
    {"", "{% macro f() %}", "x", "{% endmacro %}", ""},
    {"{% for ", "(", "a, b", "),", " in [] %}{% endfor %}"},
    {"{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "", "", "", ""},
    {"{% set n = namespace(x=[]) %}{% for i in range(46) %}{% set n.x = [n.x] %}{% endfor %}"
     "{{ n.x }}{{ n.x | tojson }}{{ n.x == n.x }}{{ n.x < [n.x] }}{{ [n.x, [n.x]] | sort | length }}", "", "", "", ""},
    {"{{ 1.7976931348623157e308 }}{{ 5e-324 }}{{ 0.1 | tojson }}{{ 2.5 | round(1) }}{{ '%.17g' | format(1.1) }}"
     "{{ strftime_now('%A %d %B %Y %H:%M:%S') }}", "", "", "", ""}};

static char source[1 << 16], rendered[1 << 16];
static const char *template_json;
static void part_render(void *unused) {
    llm_template_desc d;
    llm_error error;
    size_t size;
    (void)unused;
    memset(&d, 0, sizeof d);
    d.text = llm_string(source), d.error = &error, d.max_steps = 100000;
    d.date.year = 2024, d.date.month = 2, d.date.day = 29;
    if (template_json) d.tools = llm_string(template_json);
    (void)llm_template_render(&d, rendered, sizeof rendered, &size);
}
static size_t repeat(size_t at, const char *text, uint32_t count) {
    size_t size = strlen(text);
    for (; count; count--, at += size) memcpy(source + at, text, size);
    source[at] = 0;
    return at;
}
static void measure_templates(void) {
    static char json[1 << 12];
    size_t most = 0, depth, i, at;
    const char *worst = "";
    uint32_t count;
    for (i = 0; i < sizeof nests / sizeof *nests; i++)
        for (count = 1; count < 1000; count += count < 130 ? 1 : 217) {
            at = repeat(0, nests[i].head, 1);
            at = repeat(at, nests[i].open, count);
            at = repeat(at, nests[i].middle, 1);
            at = repeat(at, nests[i].close, count);
            (void)repeat(at, nests[i].tail, 1);
            depth = measure("a nested template", part_render, NULL);
            if (depth > most) most = depth, worst = *nests[i].open ? nests[i].open : nests[i].head;
        }
    printf("%-22s %6zu bytes (%.40s)\n", "nested templates", most, worst);
    (void)repeat(0, "{{ tools }}{{ tools | tojson }}{{ tools | tojson(indent=2) }}{{ tools | string | length }}", 1);
    for (count = 1, most = 0; count < 60; count++) {
        memset(json, '[', count), memset(json + count, ']', count), json[2 * count] = 0;
        template_json = json;
        depth = measure("nested JSON", part_render, NULL);
        most = depth > most ? depth : most;
    }
    template_json = NULL;
    printf("%-22s %6zu bytes\n", "nested JSON", most);
}

int main(int count, char **arguments) {
    fixture_arguments(count, arguments);
    stack = (unsigned char *)mmap(NULL, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, GUARD, PROT_NONE)) return 1;
    measure_parts("llama-tied", false);
    measure_parts("gemma", true);
    measure_evaluation();
    measure_templates();
    printf("deepest: %s, %zu of %u bytes\n", deepest_part, deepest, STACK);
    return check_report("stack");
}
