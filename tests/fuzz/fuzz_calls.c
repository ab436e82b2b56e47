/* Sequences of calls with valid and invalid arguments. Whatever is refused, what is left must still
   be usable, and the logits must be those of a session that was fed the same tokens at once. */
#include "fuzz.h"

#define SESSIONS 4
static const char *const call_names[] = {"tiny-llama.q4.llm", "tiny-gemma.q8.llm"};
static llm_model *call_models[2];
static uint32_t call_vocab[2];

typedef struct world {
    fuzz_input in;
    fuzz_memory memory;
    llm_model *model;
    uint32_t vocab;
    llm_session *session[SESSIONS];
    llm_batch *batch;
    bool added; /* something is in the batch */
    llm_pool *pool;
    llm_chat *chat; /* of session 0 */
} world;

static void call_start(void) {
    size_t i;
    for (i = 0; !call_models[1] && i < 2; i++) {
        char path[256];
        llm_model_desc d;
        llm_model_info info;
        memset(&d, 0, sizeof d);
        (void)snprintf(path, sizeof path, FUZZ_TINY "/%s", call_names[i]);
        d.path = path;
        FUZZ_CHECK(!llm_model_open(&call_models[i], &d), "%s", path);
        llm_model_get_info(call_models[i], &info);
        call_vocab[i] = info.vocab;
    }
}

/* Lanes in any order, on this thread. */
static void backwards(void *user, void (*work)(void *context, uint32_t index), void *context,
                      uint32_t count) {
    (void)user;
    while (count) work(context, --count);
}

static void create_session(world *w, uint32_t at) {
    llm_session_desc d, resolved;
    llm_error error;
    llm_result r, asked;
    size_t bytes = 0, before = w->memory.bytes;
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.model = fuzz_below(&w->in, 20) ? w->model : NULL;
    d.pool = w->pool;
    d.context = fuzz_below(&w->in, 10) ? 1 + fuzz_below(&w->in, 130) : (uint32_t)fuzz_take(&w->in, 4);
    d.rows = fuzz_below(&w->in, 10) ? fuzz_below(&w->in, 9) : fuzz_below(&w->in, 65536);
    d.logits = fuzz_below(&w->in, 4) ? 0 : fuzz_below(&w->in, 12);
    d.kv = (llm_kv)fuzz_below(&w->in, fuzz_below(&w->in, 10) ? 2 : 5);
    d.batch_only = fuzz_below(&w->in, 6) == 0;
    d.spare = fuzz_below(&w->in, 3) ? 0 : fuzz_below(&w->in, 200);
    d.isa = fuzz_below(&w->in, 12) ? NULL : "no such";
    d.allocator = fuzz_allocator(&w->memory), d.error = &error;
    if (d.context > 4096 || d.rows > 64) d.batch_only = true; /* not gigabytes */
    asked = llm_session_query(&d, &resolved, &bytes);
    if (!asked && bytes > (size_t)64 << 20) return;
    r = llm_session_create(&w->session[at], &d);
    fuzz_refusal(r, &error);
    FUZZ_CHECK((r == LLM_OK) == (w->session[at] != NULL), "%s", llm_result_name(r));
    FUZZ_CHECK(asked == r || r == LLM_ERROR_MEMORY, "%s, the query says %s", llm_result_name(r),
               llm_result_name(asked));
    FUZZ_CHECK(w->memory.bytes == before + (r ? 0 : bytes), "%zu bytes more, the query says %zu",
               w->memory.bytes - before, bytes);
}

static uint32_t take_tokens(world *w, int32_t *ids, uint32_t most) {
    uint32_t i, n = fuzz_below(&w->in, most + 1);
    for (i = 0; i < n; i++) ids[i] = (int32_t)fuzz_below(&w->in, w->vocab);
    if (n && fuzz_below(&w->in, 30) == 0) ids[n - 1] = (int32_t)fuzz_take(&w->in, 4);
    return n;
}

static void check_result(llm_session *s, llm_result r) {
    if (r != LLM_OK && r != LLM_PENDING && r != LLM_CANCELLED) fuzz_refusal(r, llm_session_error(s));
    FUZZ_CHECK(llm_session_position(s) <= llm_session_context(s), "position %u",
               (unsigned)llm_session_position(s));
}

/* The logits of a session that has some, against those of a new one. */
static void check_logits(world *w, llm_session *s) {
    const float *have = llm_session_logits(s, 0), *want;
    llm_session_desc d, of;
    llm_session *fresh;
    const uint32_t n = llm_session_position(s);
    if (!have || !n || n > 24) return;
    memset(&d, 0, sizeof d);
    of = s->desc;
    d.model = of.model, d.context = n, d.rows = n, d.kv = of.kv;
    FUZZ_CHECK(!llm_session_create(&fresh, &d), "a fresh session");
    FUZZ_CHECK(!llm_eval(fresh, llm_session_tokens(s), n), "its evaluation");
    want = llm_session_logits(fresh, 0);
    FUZZ_CHECK(!memcmp(want, have, w->vocab * sizeof(float)), "other logits after %u tokens", (unsigned)n);
    llm_session_destroy(fresh);
}

static void destroy_session(world *w, uint32_t at) {
    if (at == 0) llm_chat_destroy(w->chat), w->chat = NULL;
    llm_session_destroy(w->session[at]);
    w->session[at] = NULL;
}

static void call_session(world *w, uint32_t at, uint32_t what) {
    llm_session *s = w->session[at];
    int32_t ids[12];
    uint32_t n, other = fuzz_below(&w->in, SESSIONS);
    switch (what) {
    case 0:
        n = take_tokens(w, ids, 12);
        check_result(s, llm_session_feed(s, ids, n));
        break;
    case 1: check_result(s, llm_step(s, fuzz_below(&w->in, 40))); break;
    case 2:
        n = take_tokens(w, ids, 12);
        check_result(s, llm_eval(s, ids, n));
        break;
    case 3: check_result(s, llm_session_rewind(s, fuzz_below(&w->in, 40))); break;
    case 4: llm_session_cancel(s); break;
    case 5:
        if (w->session[other]) break;
        check_result(s, llm_session_fork(&w->session[other], s));
        break;
    case 6: check_logits(w, s); break;
    case 7: (void)llm_session_logits(s, (uint32_t)fuzz_take(&w->in, 2)); break;
    default: destroy_session(w, at); break;
    }
}

static void call_batch(world *w, uint32_t at) {
    int32_t ids[8];
    uint32_t n;
    llm_result r;
    if (!w->batch) {
        llm_batch_desc d;
        llm_error error;
        memset(&d, 0, sizeof d);
        memset(&error, 0, sizeof error);
        d.model = w->model, d.pool = w->pool, d.rows = 1 + fuzz_below(&w->in, 20);
        d.logits = fuzz_below(&w->in, 4), d.kv = (llm_kv)fuzz_below(&w->in, 3);
        d.allocator = fuzz_allocator(&w->memory), d.error = &error;
        fuzz_refusal(llm_batch_create(&w->batch, &d), &error);
        return;
    }
    switch (fuzz_below(&w->in, 6)) {
    case 0: llm_batch_cancel(w->batch); break;
    case 1:
    case 2:
        r = llm_batch_step(w->batch, fuzz_below(&w->in, 40));
        if (r == LLM_OK || r == LLM_CANCELLED) w->added = false;
        break;
    case 3:
        if (w->added) break;
        llm_batch_destroy(w->batch);
        w->batch = NULL;
        break;
    default:
        if (!w->session[at]) break;
        n = take_tokens(w, ids, 8);
        r = llm_batch_add(w->batch, w->session[at], ids, n, fuzz_below(&w->in, 3));
        if (r == LLM_OK && n) w->added = true;
    }
}

static void call_pool(world *w) {
    llm_pool_desc d;
    llm_error error;
    if (w->pool) return;
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    d.threads = fuzz_below(&w->in, 5);
    d.parallel_for = backwards; /* threads of its own are test_threads' */
    d.allocator = fuzz_allocator(&w->memory), d.error = &error;
    fuzz_refusal(llm_pool_create(&w->pool, &d), &error);
}

static void call_chat(world *w) {
    llm_text piece;
    llm_result r = LLM_OK;
    if (!w->session[0]) return;
    if (!w->chat) {
        llm_chat_desc d;
        llm_error error;
        memset(&d, 0, sizeof d);
        memset(&error, 0, sizeof error);
        d.session = w->session[0], d.max_tokens = 1 + fuzz_below(&w->in, 6);
        d.template_text = llm_string("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}");
        d.sampler.temperature = fuzz_below(&w->in, 2) ? 1.0f : 0.0f;
        d.allocator = fuzz_allocator(&w->memory), d.error = &error;
        fuzz_refusal(llm_chat_create(&w->chat, &d), &error);
        return;
    }
    switch (fuzz_below(&w->in, 8)) {
    case 0: r = llm_chat_add(w->chat, llm_string("system"), fuzz_bytes(&w->in, 9)); break;
    case 1: r = llm_chat_say(w->chat, fuzz_bytes(&w->in, 9)); break;
    case 2:
    case 3: r = llm_chat_next(w->chat, fuzz_below(&w->in, 60), &piece); break;
    case 4: llm_chat_stop(w->chat); break;
    case 5: r = llm_chat_forget(w->chat, fuzz_below(&w->in, 4)); break;
    case 6: r = llm_chat_rewind(w->chat, fuzz_below(&w->in, 4)); break;
    default: r = llm_chat_answer(w->chat); break;
    }
    if (r && r != LLM_PENDING && r != LLM_CANCELLED) fuzz_refusal(r, llm_chat_error(w->chat));
}

typedef struct written {
    char text[256];
    size_t size;
} written;

/* Whole characters, as they come. */
static bool take_text(void *user, llm_text text) {
    written *to = (written *)user;
    uint32_t scalar;
    size_t i, n;
    for (i = 0; i < text.size; i += n) {
        n = llm__tok_utf8((const uint8_t *)text.data + i, text.size - i, &scalar);
        FUZZ_CHECK(n, "a piece is not whole characters");
    }
    FUZZ_CHECK(text.size <= sizeof to->text - to->size, "more than three bytes for one");
    memcpy(to->text + to->size, text.data, text.size);
    to->size += text.size;
    return true;
}

/* The same bytes at once and in two parts: the same text, the same stop string. */
static void call_stream(world *w) {
    llm_allocator allocator = fuzz_allocator(&w->memory);
    llm_stream_desc d;
    llm_stream *s;
    llm_error error;
    llm_text stops[2], text, part;
    written whole, parts;
    llm_result r;
    int stopped;
    memset(&d, 0, sizeof d);
    memset(&error, 0, sizeof error);
    whole.size = parts.size = 0;
    d.stops = stops, d.stop_count = fuzz_below(&w->in, 3);
    stops[0] = fuzz_bytes(&w->in, 4), stops[1] = fuzz_bytes(&w->in, 4);
    text = part = fuzz_bytes(&w->in, 60);
    part.size = fuzz_below(&w->in, (uint32_t)text.size + 1);
    r = llm_stream_create(&d, &allocator, &s, &error);
    fuzz_refusal(r, &error);
    if (r) return;
    (void)llm_stream_feed(s, text, take_text, &whole);
    (void)llm_stream_flush(s, take_text, &whole);
    stopped = llm_stream_stopped(s);
    llm_stream_reset(s);
    (void)llm_stream_feed(s, part, take_text, &parts);
    part.data += part.size, part.size = text.size - part.size;
    (void)llm_stream_feed(s, part, take_text, &parts);
    (void)llm_stream_flush(s, take_text, &parts);
    FUZZ_CHECK(stopped == llm_stream_stopped(s) && whole.size == parts.size &&
                   !memcmp(whole.text, parts.text, whole.size), "a cut changes what comes out");
    llm_stream_destroy(s);
}

/* What was begun in a batch is ended before its sessions go. */
static void call_end(world *w) {
    uint32_t i;
    w->memory.fail_at = 0;
    if (w->batch && w->added) {
        llm_batch_cancel(w->batch);
        (void)llm_batch_step(w->batch, 0);
    }
    for (i = 0; i < SESSIONS; i++) destroy_session(w, i);
    llm_batch_destroy(w->batch);
    llm_pool_destroy(w->pool);
    fuzz_balance(&w->memory);
}

static int fuzz_calls(const uint8_t *data, size_t size) {
    world w;
    unsigned calls = 0;
    call_start();
    memset(&w, 0, sizeof w);
    w.in.data = data, w.in.size = size;
    w.model = call_models[size & 1], w.vocab = call_vocab[size & 1];
    w.memory.fail_at = fuzz_take(&w.in, 1) % 16;
    while (w.in.size && calls++ < 40) {
        uint32_t what = fuzz_below(&w.in, 16), at = fuzz_below(&w.in, SESSIONS);
        if (what < 9) {
            if (!w.session[at]) create_session(&w, at);
            else if (!(what == 8 && w.added)) call_session(&w, at, what);
        } else if (what < 12) {
            call_batch(&w, at);
        } else if (what == 12) {
            call_pool(&w);
        } else if (what == 15) {
            call_stream(&w);
        } else {
            call_chat(&w);
        }
    }
    call_end(&w);
    return 0;
}
