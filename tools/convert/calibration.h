/* ======================================================================== */
/* Calibration: which tokens run through the model                           */
/* ======================================================================== */
#ifndef CONVERT_CALIBRATION_H
#define CONVERT_CALIBRATION_H

#include "mixed.h"
#include "calibration_text.h"

#define CALIBRATION_SURVEY 256u /* tokens of a sequence for the choice of formats, two of them */

/* The text that is built in; from malloc. */
static char *calibration_builtin(size_t *size) {
    char *text;
    size_t i, total = 0, at = 0;
    for (i = 0; i < CALIBRATION_PIECES; i++) total += strlen(calibration_pieces[i]) + 1;
    text = (char *)malloc(total);
    for (i = 0; text && i < CALIBRATION_PIECES; i++) {
        const size_t piece = strlen(calibration_pieces[i]);
        memcpy(text + at, calibration_pieces[i], piece);
        at += piece;
        text[at++] = '\n';
    }
    *size = total;
    return text;
}

static bool calibration_utf8(const uint8_t *s, size_t size, size_t *at) {
    size_t i = 0;
    while (i < size) {
        const unsigned c = s[i];
        const unsigned more = c < 0x80 ? 0 : c < 0xc2 ? 4 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : 4;
        unsigned k;
        *at = i;
        if (more == 4 || size - i <= more) return false;
        for (k = 1; k <= more; k++)
            if ((s[i + k] & 0xc0) != 0x80) return false;
        i += more + 1;
    }
    return true;
}

/* Ids of the text, from malloc. */
static llm_result calibration_tokenize(const llm_tokenizer *t, llm_text text, int32_t **ids,
                                       size_t *count, llm_error *error) {
    llm_tokenize_desc desc;
    llm_result result;
    memset(&desc, 0, sizeof desc);
    desc.text = text.data, desc.size = text.size, desc.bos = -1, desc.eos = -1, desc.error = error;
    result = llm_tokenize(t, &desc, NULL, 0, count);
    if (result != LLM_OK) return result;
    *ids = (int32_t *)malloc((*count + 1) * sizeof **ids);
    if (!*ids) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tokens", *count);
    return llm_tokenize(t, &desc, *ids, *count, count);
}

/* A text that the vocabulary cannot say teaches nothing. */
static llm_result calibration_fits(const llm_tokenizer *t, const int32_t *ids, size_t count,
                                   const char *name, llm_error *error) {
    size_t i, odd = 0;
    for (i = 0; i < count; i++) {
        const llm_token_kind kind = llm_token_kind_of(t, ids[i]);
        odd += kind == LLM_TOKEN_UNKNOWN || kind == LLM_TOKEN_BYTE;
    }
    if (odd * 2 > count)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: the vocabulary has no words for %zu of %zu "
                         "tokens, expected a text in a language that the model knows", name, odd,
                         count);
    if (count < CALIBRATE_LEAST)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: %zu tokens, expected at least %u", name,
                         count, CALIBRATE_LEAST);
    return LLM_OK;
}

/* Sequences of CALIBRATE_LENGTH tokens (one shorter one if there are not so many), each behind the
   token that a text begins with, where the model wants one; what is left over is not used. */
static llm_result calibration_cut(const llm_tokenizer *t, const int32_t *text, size_t count,
                                  int32_t **ids, uint32_t *length, uint32_t *sequences,
                                  llm_error *error) {
    llm_tokenizer_info about;
    uint32_t s, begins;
    llm_tokenizer_describe(t, &about);
    begins = about.add_bos && about.bos >= 0;
    *length = CALIBRATE_LENGTH - begins;
    if (count < *length) *length = (uint32_t)count;
    *sequences = count / *length < 4096 ? (uint32_t)(count / *length) : 4096u;
    *ids = (int32_t *)malloc((size_t)*sequences * (*length + begins) * sizeof **ids);
    if (!*ids) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tokens", count);
    for (s = 0; s < *sequences; s++) {
        int32_t *to = *ids + (size_t)s * (*length + begins);
        if (begins) *to++ = about.bos;
        memcpy(to, text + (size_t)s * *length, *length * sizeof *to);
    }
    *length += begins;
    return LLM_OK;
}

/* The tokens of the file at `path` (NULL: of the text that is built in) under a tokenizer section.
   The caller frees *ids, also after an error. */
static llm_result calibration_read(const char *path, llm_text section, uint32_t vocab,
                                   int32_t **ids, uint32_t *length, uint32_t *sequences,
                                   llm_error *error) {
    const char *name = path ? path : "the built-in text";
    llm_tokenizer t;
    llm_text text;
    map_file map;
    char *own = NULL;
    int32_t *all = NULL;
    size_t count = 0, at = 0;
    llm_result result = LLM_OK;
    *ids = NULL;
    memset(&map, 0, sizeof map);
    if (path) result = map_open(&map, path, error);
    else own = calibration_builtin(&text.size);
    if (path) text.data = (const char *)map.data, text.size = map.size;
    else text.data = own;
    if (result == LLM_OK && !text.data)
        result = llm__fail(error, LLM_ERROR_MEMORY, "no memory for a text");
    if (result == LLM_OK && !calibration_utf8((const uint8_t *)text.data, text.size, &at))
        result = llm__fail(error, LLM_ERROR_ARGUMENT, "%s: byte %zu is not UTF-8, expected text", name,
                           at);
    if (result == LLM_OK)
        result = llm__tokenizer_init(&t, section.data, section.size, vocab, error);
    if (result == LLM_OK) result = calibration_tokenize(&t, text, &all, &count, error);
    if (result == LLM_OK) result = calibration_fits(&t, all, count, name, error);
    if (result == LLM_OK) result = calibration_cut(&t, all, count, ids, length, sequences, error);
    free(all);
    free(own);
    map_close(&map);
    return result;
}

/* The writer's `arrange`: formats within the budget, seen on a part of the tokens. */
static llm_result calibration_arrange(void *user) {
    const calibration *whole = (const calibration *)user;
    calibration survey;
    const uint32_t length = whole->length < CALIBRATION_SURVEY ? whole->length : CALIBRATION_SURVEY;
    const uint32_t sequences = whole->sequences < 2 ? 1 : 2;
    int32_t ids[2 * CALIBRATION_SURVEY];
    llm_result result;
    uint32_t s;
    for (s = 0; s < sequences; s++)
        memcpy(ids + s * length, whole->ids + (size_t)s * (whole->sequences / 2) * whole->length,
               length * sizeof *ids);
    memset(&survey, 0, sizeof survey);
    survey.w = whole->w, survey.ids = ids, survey.length = length, survey.sequences = sequences;
    result = mixed_arrange(&survey, whole);
    calibrate_close(&survey);
    return result;
}

#endif
