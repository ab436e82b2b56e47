/* One run through the whole library: model, tokenizer, pool, sessions, forks, adapters, batch, sampler,
   stream, template and chat. The digest of all that came out is the same on every machine. Comes after
   fixture.h. TRY(call, error) makes each call that may be refused; who includes this may define it. */
#ifndef LLM_TESTS_EVERYTHING_H
#define LLM_TESTS_EVERYTHING_H
#include "adapter.h"

#ifndef TRY
#define TRY(call, why)                                                                               \
    do {                                                                                             \
        llm_result result_ = (call);                                                                 \
        CHECK(result_ == LLM_OK, "%s: %s: %s", #call, llm_result_name(result_), (why)->text);        \
    } while (0)
#endif

typedef struct everything {
    const char *name, *type; /* of the fixture */
    const char *isa;         /* NULL: the best */
    uint32_t threads;        /* 1: no pool */
    bool brief;              /* shorter texts, fewer tokens */
    bool read;               /* the model comes through a read callback */
    llm_allocator allocator;
    /* what is there now */
    llm_error error;
    llm_model *model;
    const llm_tokenizer *tokenizer;
    uint32_t vocab;
    llm_pool *pool;
    llm_session *session, *fork;
    int32_t ids[FIXTURE_TOKENS];
    void *file; /* with `read` */
    uint64_t digest;
} everything;

static void everything_fold(everything *e, const void *data, size_t size) {
    e->digest = (e->digest ^ llm__xxh64((const uint8_t *)data, size)) * 0x9E3779B97F4A7C15u;
}
static bool everything_emit(void *user, llm_text text) {
    everything_fold((everything *)user, text.data, text.size);
    return true;
}
static LLM__UNUSED llm_result everything_write(void *user, const char *data, size_t size, bool trusted) {
    everything_fold((everything *)user, data, size);
    everything_fold((everything *)user, &trusted, sizeof trusted);
    return LLM_OK;
}
static void everything_logits(everything *e, const float *logits) {
    CHECK(logits != NULL, "no logits");
    if (logits) everything_fold(e, logits, e->vocab * sizeof *logits);
}

static bool everything_read(void *user, uint64_t offset, void *to, size_t size) {
    memcpy(to, (const char *)user + offset, size);
    return true;
}

static void everything_open(everything *e) {
    llm_model_desc d;
    memset(&d, 0, sizeof d);
    if (e->read) d.read = everything_read, d.read_user = e->file = fixture_read(fixture_model_path(e->name, e->type), &d.size);
    else d.path = fixture_model_path(e->name, e->type);
    d.verify = true, d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_model_open(&e->model, &d), &e->error);
    e->vocab = fixture_vocab(e->model);
    e->tokenizer = llm_model_tokenizer(e->model);
}

/* A word without a break (working memory), a sentence, bytes that are no text; and back. */
static void everything_tokenize(everything *e) {
    static char text[3000], back[3000];
    static int32_t ids[3000];
    llm_tokenize_desc d;
    llm_detokenize_desc u;
    size_t count, size, i, part;
    for (part = 0; part < 3; part++) {
        size = e->brief ? 700 : sizeof text;
        for (i = 0; i < size; i++)
            text[i] = part == 1 ? "the old people, "[i % 16] : (char)(part == 0 ? 'a' + i * i % 7 : 128 + i * 37 % 128);
        memset(&d, 0, sizeof d), memset(&u, 0, sizeof u);
        d.text = text, d.size = size, d.bos = d.eos = -1, d.allocator = e->allocator, d.error = &e->error;
        TRY(llm_tokenize(e->tokenizer, &d, NULL, 0, &count), &e->error);
        CHECK(count <= size, "%zu ids", count);
        TRY(llm_tokenize(e->tokenizer, &d, ids, sizeof ids / sizeof *ids, &count), &e->error);
        everything_fold(e, ids, count * sizeof *ids);
        u.ids = ids, u.count = count, u.error = &e->error;
        TRY(llm_detokenize(e->tokenizer, &u, back, sizeof back, &size), &e->error);
        everything_fold(e, back, size);
    }
}

/* More than a page in pieces, a fork that copies a page, the way back. */
static void everything_sessions(everything *e) {
    llm_session_desc d;
    llm_session *half;
    uint32_t i;
    if (e->threads > 1) {
        llm_pool_desc p;
        memset(&p, 0, sizeof p);
        p.threads = e->threads, p.allocator = e->allocator, p.error = &e->error;
        TRY(llm_pool_create(&e->pool, &p), &e->error);
    }
    memset(&d, 0, sizeof d);
    d.model = e->model, d.pool = e->pool, d.context = 256, d.rows = 24, d.logits = 2, d.spare = 300;
    d.isa = e->isa, d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_session_create(&e->session, &d), &e->error);
    fixture_ids(e->name, e->ids);
    TRY(llm_eval(e->session, e->ids, FIXTURE_TOKENS), llm_session_error(e->session));
    everything_logits(e, llm_session_logits(e->session, 1));
    TRY(llm_session_feed(e->session, e->ids, e->brief ? 18 : 30), llm_session_error(e->session));
    for (i = 0; llm_step(e->session, 1) == LLM_PENDING; i++) {
    }
    everything_logits(e, llm_session_logits(e->session, 0));
    TRY(llm_session_fork(&e->fork, e->session), llm_session_error(e->session));
    for (i = 0; i < 3; i++) {
        TRY(llm_eval(e->fork, e->ids + 9 + i, 1), llm_session_error(e->fork));
        TRY(llm_eval(e->session, e->ids + i, 1), llm_session_error(e->session));
        everything_logits(e, llm_session_logits(e->fork, 0));
    }
    d.kv = LLM_KV_F16;
    TRY(llm_session_create(&half, &d), &e->error);
    TRY(llm_eval(half, e->ids, 20), llm_session_error(half));
    everything_logits(e, llm_session_logits(half, 0));
    llm_session_destroy(half);
    TRY(llm_session_rewind(e->session, 40), llm_session_error(e->session));
    TRY(llm_eval(e->session, e->ids + 40, 8), llm_session_error(e->session));
    everything_logits(e, llm_session_logits(e->session, 0));
}

/* With an adapter, and without it again. */
static void everything_adapters(everything *e) {
    static const adapter_spec spec = {12, LLM_BF16, 0, 3, 0.5f};
    const float weight = 0.75f;
    llm_adapter_desc a;
    llm_adapter *adapter;
    const llm_adapter *list[1];
    llm_session_desc d;
    llm_session *s;
    size_t size;
    uint8_t *file = adapter_image(e->model, &spec, &size);
    memset(&a, 0, sizeof a), memset(&d, 0, sizeof d);
    a.model = e->model, a.data = file, a.size = size, a.verify = true, a.allocator = e->allocator, a.error = &e->error;
    TRY(llm_adapter_open(&adapter, &a), &e->error);
    d.model = e->model, d.pool = e->pool, d.context = 64, d.rows = 24, d.adapter_rank = 16;
    d.isa = e->isa, d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_session_create(&s, &d), &e->error);
    list[0] = adapter;
    TRY(llm_session_set_adapters(s, list, &weight, 1), llm_session_error(s));
    TRY(llm_eval(s, e->ids, 9), llm_session_error(s));
    TRY(llm_eval(s, e->ids + 9, 1), llm_session_error(s));
    everything_logits(e, llm_session_logits(s, 0));
    TRY(llm_session_set_adapters(s, NULL, NULL, 0), llm_session_error(s));
    TRY(llm_eval(s, e->ids + 10, 1), llm_session_error(s));
    everything_logits(e, llm_session_logits(s, 0));
    llm_session_destroy(s);
    llm_adapter_close(adapter);
    free(file);
}

static void everything_batch(everything *e) {
    llm_batch_desc d;
    llm_batch *b;
    memset(&d, 0, sizeof d);
    d.model = e->model, d.pool = e->pool, d.rows = 16, d.isa = e->isa, d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_batch_create(&b, &d), &e->error);
    TRY(llm_batch_add(b, e->session, e->ids, 7, 1), llm_batch_error(b));
    TRY(llm_batch_add(b, e->fork, e->ids + 5, 2, 2), llm_batch_error(b));
    TRY(llm_batch_step(b, 0), llm_batch_error(b));
    everything_logits(e, llm_batch_logits(b, e->session, 0));
    everything_logits(e, llm_batch_logits(b, e->fork, 1));
    TRY(llm_eval(e->session, e->ids, 1), llm_session_error(e->session)); /* for the sampler */
    llm_batch_destroy(b);
}

static void everything_sample(everything *e) {
    static llm_candidate candidates[512];
    const llm_logit_bias bias[] = {{3, -1.0f}, {5, 2.0f}, {3, 0.5f}};
    const float *logits = llm_session_logits(e->session, 0);
    llm_sampler_desc d;
    llm_sampler *s;
    llm_sample out;
    size_t count, i;
    memset(&d, 0, sizeof d);
    d.temperature = 0.9f, d.top_k = 60, d.typical_p = 0.95f, d.top_p = 0.9f, d.min_p = 0.01f, d.seed = 7;
    d.repetition_penalty = 1.1f, d.frequency_penalty = 0.1f, d.bias = bias, d.bias_count = 3, d.top_logprobs = 8;
    TRY(llm_sampler_create(&d, e->vocab, &e->allocator, &s, &e->error), &e->error);
    for (i = 0; i < 6; i++) {
        TRY(llm_sampler_sample(s, logits, NULL, &out, &e->error), &e->error);
        everything_fold(e, &out.token, sizeof out.token);
        everything_fold(e, &out.logprob, sizeof out.logprob);
        for (count = 0; count < out.top_count; count++) everything_fold(e, &out.top[count].token, sizeof(uint32_t));
        TRY(llm_sampler_accept(s, out.token, &e->error), &e->error);
    }
    TRY(llm_sampler_distribution(s, logits, NULL, candidates, 512, &count, &e->error), &e->error);
    for (i = 0; i < count && i < 512; i++) everything_fold(e, &candidates[i].logprob, sizeof(float));
    llm_sampler_destroy(s);
}

static void everything_stream(everything *e) {
    llm_text stops[2], text = llm_string("caf\xc3\xa9 \xff\xe2\x82 and then stop it");
    llm_stream_desc d;
    llm_stream *s;
    size_t i;
    stops[0] = llm_string("stop it"), stops[1] = llm_string("stopped");
    memset(&d, 0, sizeof d);
    d.stops = stops, d.stop_count = 2;
    TRY(llm_stream_create(&d, &e->allocator, &s, &e->error), &e->error);
    for (i = 0; i < text.size; i++) {
        llm_text one;
        one.data = text.data + i, one.size = 1;
        TRY(llm_stream_feed(s, one, everything_emit, e), &e->error);
    }
    CHECK(llm_stream_stopped(s) == 0, "the stop string");
    TRY(llm_stream_flush(s, everything_emit, e), &e->error);
    llm_stream_destroy(s);
}

#ifndef LLM_NO_TEMPLATE
static const char everything_template[] =
    "{% macro show(x, n=2) %}[{{ x | upper }}{{ n + 1 }}]{% endmacro %}{% set ns = namespace(k=0) %}"
    "{% for m in messages if m.role != 'none' %}{% set ns.k = ns.k + 1 %}<|im_start|>{{ m.role + '\n' }}"
    "{{ m['content'] | trim | replace('a', 'b') }}{{ show(loop.index ~ '') }}<|im_end|>\n{% endfor %}"
    "{{ {'k': [1, 2.5, ns.k, none], 't': tools} | tojson(indent=1) }}{{ messages | map(attribute='role') | join(',') }}"
    "{{ '%s-%d' | format('x', 3) if false else (messages | length * 3 // 2) }}{{ bos_token }}";

static void everything_template_render(everything *e) {
    static char text[4096];
    llm_template_field variable;
    llm_message message[3];
    llm_template_desc d;
    size_t size, i;
    memset(message, 0, sizeof message), memset(&variable, 0, sizeof variable), memset(&d, 0, sizeof d);
    for (i = 0; i < 3; i++) {
        message[i].role = llm_string(i % 2 ? "assistant" : "user");
        message[i].content = llm_string(i ? " an answer <|im_end|> " : "a question");
    }
    variable.name = llm_string("extra"), variable.text = llm_string("[1, {\"a\": \"b\"}]"), variable.json = true;
    d.text = llm_string(everything_template), d.messages = message, d.n_messages = 3, d.bos_token = llm_string("<s>");
    d.tools = llm_string("[{\"name\": \"f\", \"x\": [1, 2, {\"y\": null}]}]"), d.variables = &variable;
    d.n_variables = 1, d.add_generation_prompt = true, d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_template_render(&d, text, sizeof text, &size), &e->error);
    everything_fold(e, text, size);
    TRY(llm_template_runs(&d, everything_write, e), &e->error);
}

/* An answer to its end. */
static void everything_listen(everything *e, llm_chat *chat) {
    llm_text piece;
    memset(&piece, 0, sizeof piece);
    do {
        TRY(llm_chat_next(chat, 0, &piece), llm_chat_error(chat));
        everything_fold(e, piece.data, piece.size);
    } while (piece.size);
}

static void everything_chat(everything *e) {
    const llm_text stop = llm_string("zzzz");
    llm_template_field variable;
    llm_chat_desc d;
    llm_chat *chat;
    llm_text piece;
    size_t i;
    memset(&variable, 0, sizeof variable), memset(&d, 0, sizeof d);
    variable.name = llm_string("mood"), variable.text = llm_string("fine");
    d.session = e->session, d.system = llm_string("Be brief."), d.stops = &stop, d.stop_count = 1;
    if (e->brief) d.template_text = llm_string("{% for m in messages %}{{ m.role[0] + m.content }}\n{% endfor %}");
    d.variables = &variable, d.n_variables = 1, d.max_tokens = e->brief ? 3 : 8, d.sampler.temperature = 1.0f;
    d.allocator = e->allocator, d.error = &e->error;
    TRY(llm_chat_create(&chat, &d), &e->error);
    for (i = 0; i < 5; i++) /* more messages than the first list holds */
        TRY(llm_chat_add(chat, llm_string(i % 2 ? "assistant" : "user"), llm_string("it rains")), llm_chat_error(chat));
    TRY(llm_chat_say(chat, llm_string("and now?")), llm_chat_error(chat));
    everything_listen(e, chat);
    TRY(llm_chat_say(chat, llm_string("why")), llm_chat_error(chat));
    TRY(llm_chat_next(chat, 0, &piece), llm_chat_error(chat));
    llm_chat_stop(chat);
    TRY(llm_chat_forget(chat, 6), llm_chat_error(chat));
    TRY(llm_chat_answer(chat), llm_chat_error(chat));
    everything_listen(e, chat);
    llm_chat_destroy(chat);
}
#endif

static void everything_close(everything *e) {
    llm_session_destroy(e->session); /* its store goes with the fork */
    TRY(llm_eval(e->fork, e->ids, 2), llm_session_error(e->fork));
    everything_logits(e, llm_session_logits(e->fork, 0));
    llm_session_destroy(e->fork);
    llm_pool_destroy(e->pool);
    llm_model_close(e->model);
    if (e->read) free(e->file);
}

static LLM__UNUSED uint64_t everything_run(everything *e) {
    e->model = NULL, e->pool = NULL, e->session = e->fork = NULL;
    e->digest = 1;
    everything_open(e);
    everything_tokenize(e);
    everything_sessions(e);
    everything_adapters(e);
    everything_batch(e);
    everything_sample(e);
    everything_stream(e);
#ifndef LLM_NO_TEMPLATE
    everything_template_render(e);
    everything_chat(e);
#endif
    everything_close(e);
    return e->digest;
}
#endif
