/* ======================================================================== */
/* Continuation: a calibration text that the model goes on with              */
/* ========================================================================
   A text that is built in has to be short, and says little of what a model is used for. What the
   model itself writes says more, of any length, and needs no data (LLM-QAT, Liu et al. 2023, arXiv
   2305.17888, section 3.1): a draft of 8 bits draws each token from its own distribution. Every
   sequence begins with a few tokens of the text, each with others, and so does what follows a token
   that ends a text. The same draft writes the same on every machine. */
#ifndef CONVERT_CONTINUATION_H
#define CONVERT_CONTINUATION_H

#include "platform.h"

#define CONTINUATION_GIVEN  24u /* tokens of the text at the beginning */
#define CONTINUATION_AT_ONCE 16u /* sequences */

typedef struct continuation {
    const llm_model *model;
    llm_pool *pool;
    llm_batch *batch;
    llm_session *session[CONTINUATION_AT_ONCE];
    llm_sampler *sampler[CONTINUATION_AT_ONCE];
    uint32_t given[CONTINUATION_AT_ONCE];   /* tokens of the text that are still to come, */
    const int32_t *next[CONTINUATION_AT_ONCE]; /* from here on */
    const int32_t *text; /* [tokens] */
    size_t tokens;
    uint32_t starts;     /* of the text so far */
    uint32_t length;     /* of a sequence */
    int32_t bos;         /* -1: none */
    llm_error *error;
} continuation;

static void continuation_close(continuation *c) {
    uint32_t i;
    llm_batch_destroy(c->batch);
    for (i = 0; i < CONTINUATION_AT_ONCE; i++) {
        llm_session_destroy(c->session[i]);
        llm_sampler_destroy(c->sampler[i]);
    }
    llm_pool_destroy(c->pool);
}

static llm_result continuation_open(continuation *c, unsigned threads) {
    llm_pool_desc pool;
    llm_batch_desc batch;
    llm_session_desc session;
    llm_sampler_desc sampler;
    llm_model_info about;
    uint32_t i;
    llm_result result;
    memset(&pool, 0, sizeof pool);
    memset(&batch, 0, sizeof batch);
    memset(&session, 0, sizeof session);
    memset(&sampler, 0, sizeof sampler);
    llm_model_get_info(c->model, &about);
    pool.threads = threads;
    if (threads > 1) (void)llm_pool_create(&c->pool, &pool); /* none: the caller does it alone */
    batch.model = c->model, batch.pool = c->pool, batch.error = c->error;
    batch.rows = batch.logits = CONTINUATION_AT_ONCE;
    session.model = c->model, session.context = c->length, session.rows = 1, session.error = c->error;
    sampler.temperature = 1.0f;
    result = llm_batch_create(&c->batch, &batch);
    for (i = 0; i < CONTINUATION_AT_ONCE && result == LLM_OK; i++) {
        result = llm_session_create(&c->session[i], &session);
        if (result == LLM_OK)
            result = llm_sampler_create(&sampler, about.vocab, NULL, &c->sampler[i], c->error);
    }
    return result;
}

/* The next place in the text: places are spread over it by the golden ratio. */
static void continuation_begin(continuation *c, uint32_t i) {
    const uint32_t place = c->starts++ * 0x9E3779B9u;
    const uint32_t given = c->tokens < CONTINUATION_GIVEN ? (uint32_t)c->tokens : CONTINUATION_GIVEN;
    c->next[i] = c->text + (size_t)((c->tokens - given + 1) * (uint64_t)place >> 32);
    c->given[i] = given;
}

/* The token at a place of a sequence. Of the evaluation before; the first token that is added to the
   next one takes its logits away. */
static llm_result continuation_token(continuation *c, uint32_t i, uint32_t at, int32_t *token) {
    const llm_tokenizer *words = llm_model_tokenizer(c->model);
    llm_sample drawn;
    llm_result result;
    if (at == 0) continuation_begin(c, i);
    if (at == 0 && c->bos >= 0) return *token = c->bos, LLM_OK;
    if (c->given[i]) return c->given[i]--, *token = *c->next[i]++, LLM_OK;
    result = llm_sampler_sample(c->sampler[i], llm_batch_logits(c->batch, c->session[i], 0), NULL, &drawn,
                                c->error);
    if (result == LLM_OK) result = llm_sampler_accept(c->sampler[i], drawn.token, c->error);
    if (result != LLM_OK) return result;
    *token = (int32_t)drawn.token;
    if (words && llm_token_is_end(words, *token)) continuation_begin(c, i);
    return LLM_OK;
}

/* `count` sequences side by side, the first of which is the `first` of all. */
static llm_result continuation_some(continuation *c, uint32_t first, uint32_t count, int32_t *ids) {
    uint32_t at, i;
    llm_result result = LLM_OK;
    for (i = 0; i < count && result == LLM_OK; i++) {
        llm_sampler_reseed(c->sampler[i], 0, first + i);
        result = llm_session_rewind(c->session[i], 0);
    }
    for (at = 0; at < c->length && result == LLM_OK; at++) {
        for (i = 0; i < count && result == LLM_OK; i++)
            result = continuation_token(c, i, at, &ids[(size_t)i * c->length + at]);
        for (i = 0; i < count && result == LLM_OK; i++)
            result = llm_batch_add(c->batch, c->session[i], &ids[(size_t)i * c->length + at], 1, 1);
        if (result == LLM_OK) result = llm_batch_step(c->batch, 0);
    }
    return result;
}

/* ids[sequences][length] as the model in the file at `path` writes them; text[tokens] is what it has
   to begin with, `bos` the token that a text begins with, or -1. */
static llm_result continuation_write(const char *path, unsigned threads, const int32_t *text,
                                     size_t tokens, int32_t bos, uint32_t length, uint32_t sequences,
                                     void (*progress)(void *user, uint64_t done, uint64_t total),
                                     void *user, int32_t *ids, llm_error *error) {
    llm_model_desc desc;
    llm_model *model = NULL;
    continuation c;
    uint32_t done, now;
    llm_result result;
    memset(&desc, 0, sizeof desc);
    memset(&c, 0, sizeof c);
    desc.path = path, desc.error = error;
    result = llm_model_open(&model, &desc);
    if (result != LLM_OK) return result;
    c.model = model, c.text = text, c.tokens = tokens, c.length = length, c.bos = bos, c.error = error;
    result = continuation_open(&c, threads);
    for (done = 0; done < sequences && result == LLM_OK; done += now) {
        now = sequences - done < CONTINUATION_AT_ONCE ? sequences - done : CONTINUATION_AT_ONCE;
        result = continuation_some(&c, done, now, ids + (size_t)done * length);
        progress(user, done + now, sequences);
    }
    continuation_close(&c);
    llm_model_close(model);
    return result;
}

#endif
