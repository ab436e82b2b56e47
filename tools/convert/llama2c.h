/* ======================================================================== */
/* llama2.c's .bin as a source                                               */
/* ========================================================================
   Version 0: seven i32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a
   negative vocab_size says that the classifier is a matrix of its own), then floats in a fixed
   order. Version 1: "ak42", i32 version, the same seven, a byte that says whether the classifier is
   the embedding, zeros up to 256, floats in another order. The file has exactly the size that its
   header asks for. tokenizer.bin: i32 longest token, then f32 score, i32 size and bytes for each
   token, whose number only the model knows. https://github.com/karpathy/llama2.c

       llama2c_open_memory(s, data, size, words, words_size, error)   both of them in memory
       llama2c_open(s, path, tokenizer, error)                        files */
#ifndef CONVERT_LLAMA2C_H
#define CONVERT_LLAMA2C_H

#include "dequantize.h"
#include "keys.h"
#include "platform.h"

#define LLAMA2C_MAGIC 0x616b3432u

enum { LLAMA2C_DIM, LLAMA2C_HIDDEN, LLAMA2C_LAYERS, LLAMA2C_HEADS, LLAMA2C_KV_HEADS, LLAMA2C_VOCAB,
       LLAMA2C_SEQ, LLAMA2C_FIELDS };

typedef struct llama2c_file {
    key_list keys; /* first */
    map_file map, words;
    int64_t fields[LLAMA2C_FIELDS];
    bool shared;   /* the embedding is the classifier */
    size_t at;     /* where the floats begin */
} llama2c_file;

/* ---- header ------------------------------------------------------------ */

static const struct {
    const char *name;
    int64_t most;
} llama2c_fields[LLAMA2C_FIELDS] = {{"dim", 65536},     {"hidden_dim", 262144}, {"n_layers", 1024},
                                    {"n_heads", 1024},  {"n_kv_heads", 1024},
                                    {"vocab_size", 4194304}, {"seq_len", 268435456}};

static int64_t llama2c_i32(const uint8_t *p) {
    const uint32_t u = llm__u32(p);
    return u < 0x80000000u ? (int64_t)u : (int64_t)u - 4294967296;
}

static llm_result llama2c_check(const llama2c_file *f, llm_error *error) {
    const int64_t *field = f->fields;
    int i;
    for (i = 0; i < LLAMA2C_FIELDS; i++)
        if (field[i] < 1 || field[i] > llama2c_fields[i].most)
            return llm__fail(error, LLM_ERROR_FORMAT, "field %s: %ld, expected 1 .. %ld",
                             llama2c_fields[i].name, (long)field[i],
                             (long)llama2c_fields[i].most);
    if (field[LLAMA2C_DIM] % field[LLAMA2C_HEADS] ||
        field[LLAMA2C_DIM] / field[LLAMA2C_HEADS] % 2)
        return llm__fail(error, LLM_ERROR_FORMAT, "field dim: %ld, expected an even multiple of "
                         "n_heads (%ld)", (long)field[LLAMA2C_DIM], (long)field[LLAMA2C_HEADS]);
    if (field[LLAMA2C_HEADS] % field[LLAMA2C_KV_HEADS])
        return llm__fail(error, LLM_ERROR_FORMAT, "field n_kv_heads: %ld, expected a divisor of "
                         "n_heads (%ld)", (long)field[LLAMA2C_KV_HEADS],
                         (long)field[LLAMA2C_HEADS]);
    return LLM_OK;
}

static llm_result llama2c_header(source_file *s, llama2c_file *f, llm_error *error) {
    const uint8_t *p = f->map.data;
    const size_t size = f->map.size;
    int i;
    if (size < 28)
        return llm__fail(error, LLM_ERROR_FORMAT, "%zu bytes, expected a header of 28", size);
    if (llm__u32(p) == LLAMA2C_MAGIC) {
        s->version = llm__u32(p + 4);
        if (s->version != 1)
            return llm__fail(error, LLM_ERROR_UNSUPPORTED, "llama2.c version %u%s, expected 0 or 1 "
                             "(floats)", s->version, s->version == 2 ? " (int8)" : "");
        if (size < 256)
            return llm__fail(error, LLM_ERROR_FORMAT, "%zu bytes, expected a header of 256", size);
        if (p[36] > 1)
            return llm__fail(error, LLM_ERROR_FORMAT, "field shared_classifier: %u, expected 0 or "
                             "1", p[36]);
        f->at = 256;
        f->shared = p[36];
        p += 8;
    } else {
        f->at = 28;
        f->shared = llama2c_i32(p + 4 * LLAMA2C_VOCAB) > 0;
    }
    for (i = 0; i < LLAMA2C_FIELDS; i++) f->fields[i] = llama2c_i32(p + 4 * i);
    if (!s->version && !f->shared) f->fields[LLAMA2C_VOCAB] *= -1;
    return llama2c_check(f, error);
}

/* ---- tensors ----------------------------------------------------------- */

enum { LLAMA2C_ONE, LLAMA2C_WIDTH, LLAMA2C_FFN, LLAMA2C_TOKENS, LLAMA2C_KEYS, LLAMA2C_TURNS,
       LLAMA2C_SIZES };

typedef struct llama2c_part {
    const char *name;   /* NULL: nobody needs it */
    bool layered;       /* one for each layer */
    uint8_t rows, cols; /* LLAMA2C_ONE … */
} llama2c_part;

#define LLAMA2C_PARTS 14
static const llama2c_part llama2c_parts[2][LLAMA2C_PARTS] = {
    {{"token_embd.weight", false, LLAMA2C_TOKENS, LLAMA2C_WIDTH},
     {"attn_norm.weight", true, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {"attn_q.weight", true, LLAMA2C_WIDTH, LLAMA2C_WIDTH},
     {"attn_k.weight", true, LLAMA2C_KEYS, LLAMA2C_WIDTH},
     {"attn_v.weight", true, LLAMA2C_KEYS, LLAMA2C_WIDTH},
     {"attn_output.weight", true, LLAMA2C_WIDTH, LLAMA2C_WIDTH},
     {"ffn_norm.weight", true, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {"ffn_gate.weight", true, LLAMA2C_FFN, LLAMA2C_WIDTH},
     {"ffn_down.weight", true, LLAMA2C_WIDTH, LLAMA2C_FFN},
     {"ffn_up.weight", true, LLAMA2C_FFN, LLAMA2C_WIDTH},
     {"output_norm.weight", false, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {NULL, false, LLAMA2C_ONE, LLAMA2C_TURNS}, /* cosines */
     {NULL, false, LLAMA2C_ONE, LLAMA2C_TURNS}, /* sines */
     {"output.weight", false, LLAMA2C_TOKENS, LLAMA2C_WIDTH}},
    {{"attn_norm.weight", true, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {"ffn_norm.weight", true, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {"output_norm.weight", false, LLAMA2C_ONE, LLAMA2C_WIDTH},
     {"token_embd.weight", false, LLAMA2C_TOKENS, LLAMA2C_WIDTH},
     {"attn_q.weight", true, LLAMA2C_WIDTH, LLAMA2C_WIDTH},
     {"attn_k.weight", true, LLAMA2C_KEYS, LLAMA2C_WIDTH},
     {"attn_v.weight", true, LLAMA2C_KEYS, LLAMA2C_WIDTH},
     {"attn_output.weight", true, LLAMA2C_WIDTH, LLAMA2C_WIDTH},
     {"ffn_gate.weight", true, LLAMA2C_FFN, LLAMA2C_WIDTH},
     {"ffn_down.weight", true, LLAMA2C_WIDTH, LLAMA2C_FFN},
     {"ffn_up.weight", true, LLAMA2C_FFN, LLAMA2C_WIDTH},
     {NULL, false, LLAMA2C_ONE, LLAMA2C_ONE}, /* stands for nothing: see llama2c_floats */
     {NULL, false, LLAMA2C_ONE, LLAMA2C_ONE},
     {"output.weight", false, LLAMA2C_TOKENS, LLAMA2C_WIDTH}}};

static void llama2c_sizes(const llama2c_file *f, uint64_t sizes[LLAMA2C_SIZES]) {
    const int64_t head = f->fields[LLAMA2C_DIM] / f->fields[LLAMA2C_HEADS];
    sizes[LLAMA2C_ONE] = 1;
    sizes[LLAMA2C_WIDTH] = (uint64_t)f->fields[LLAMA2C_DIM];
    sizes[LLAMA2C_FFN] = (uint64_t)f->fields[LLAMA2C_HIDDEN];
    sizes[LLAMA2C_TOKENS] = (uint64_t)f->fields[LLAMA2C_VOCAB];
    sizes[LLAMA2C_KEYS] = (uint64_t)(f->fields[LLAMA2C_KV_HEADS] * head);
    sizes[LLAMA2C_TURNS] = (uint64_t)(f->fields[LLAMA2C_SEQ] * (head / 2));
}

/* Floats of a part in all layers together: at most 2^44, so that sums do not overflow. */
static uint64_t llama2c_floats(const source_file *s, const llama2c_file *f,
                               const llama2c_part *part) {
    uint64_t sizes[LLAMA2C_SIZES];
    llama2c_sizes(f, sizes);
    if (!part->name && s->version) return 0;
    if (part == &llama2c_parts[s->version][LLAMA2C_PARTS - 1] && f->shared) return 0;
    return sizes[part->rows] * sizes[part->cols] *
           (part->layered ? (uint64_t)f->fields[LLAMA2C_LAYERS] : 1);
}

/* The tensors of a part, which begins at `data`. */
static void llama2c_add(source_file *s, llama2c_file *f, const llama2c_part *part,
                        const uint8_t *data) {
    const int64_t layers = part->layered ? f->fields[LLAMA2C_LAYERS] : 1;
    uint64_t sizes[LLAMA2C_SIZES];
    int64_t layer;
    llama2c_sizes(f, sizes);
    for (layer = 0; layer < layers; layer++) {
        source_tensor *t = &s->tensors[s->tensor_count];
        char *name = (char *)keys_take(&f->keys, 48, 1);
        if (!name) return;
        if (part->layered) (void)snprintf(name, 48, "blk.%d.%s", (int)layer, part->name);
        else (void)snprintf(name, 48, "%s", part->name);
        t->name = text_of(name);
        t->type = "F32";
        t->bits = 32;
        t->dims = part->rows == LLAMA2C_ONE ? 1 : 2;
        t->shape[0] = sizes[part->cols];
        t->shape[1] = sizes[part->rows];
        t->shape[2] = t->shape[3] = 1;
        t->data = data + (uint64_t)layer * t->shape[0] * t->shape[1] * 4;
        s->tensor_count++;
    }
}

static int llama2c_order(const void *a, const void *b) {
    return text_compare(((const source_tensor *)a)->name, ((const source_tensor *)b)->name);
}

static llm_result llama2c_tensors(source_file *s, llama2c_file *f, llm_error *error) {
    const llama2c_part *parts = llama2c_parts[s->version];
    const uint8_t *data = f->map.data + f->at;
    uint64_t wanted = f->at;
    size_t i;
    for (i = 0; i < LLAMA2C_PARTS; i++) wanted += 4 * llama2c_floats(s, f, &parts[i]);
    if (wanted != f->map.size)
        return llm__fail(error, LLM_ERROR_FORMAT, "%zu bytes, expected %llu for dim %d, hidden_dim "
                         "%d, n_layers %d, n_heads %d, n_kv_heads %d, vocab_size %d, seq_len %d",
                         f->map.size, (unsigned long long)wanted, (int)f->fields[0],
                         (int)f->fields[1], (int)f->fields[2], (int)f->fields[3],
                         (int)f->fields[4], (int)f->fields[5] * (f->shared ? 1 : -1),
                         (int)f->fields[6]);
    s->tensors = (source_tensor *)calloc((size_t)f->fields[LLAMA2C_LAYERS] * 9 + 3,
                                         sizeof *s->tensors);
    if (!s->tensors) return keys_no_memory(error);
    for (i = 0; i < LLAMA2C_PARTS; i++) {
        const uint64_t floats = llama2c_floats(s, f, &parts[i]);
        if (floats && parts[i].name) llama2c_add(s, f, &parts[i], data);
        data += floats * 4;
    }
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, llama2c_order);
    return LLM_OK;
}

static void llama2c_row(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    const uint8_t *p = t->data + row * t->shape[0] * 4;
    uint64_t i;
    (void)s;
    for (i = 0; i < t->shape[0]; i++) out[i] = ggml_bits(llm__u32(p + 4 * i));
}

/* ---- tokens ------------------------------------------------------------ */

/* The file has blanks for U+2581, and lines around the names of the two control tokens. */
static bool llama2c_token(llama2c_file *f, size_t id, const uint8_t *bytes, size_t size,
                          llm_text *token, double *type) {
    char *text = (char *)keys_take(&f->keys, 3 * size + 1, 1);
    size_t i, used = 0;
    if (!text) return false;
    for (i = 0; i < size; i++) {
        if (bytes[i] == ' ') memcpy(text + used, "\xe2\x96\x81", 3), used += 3;
        else text[used++] = (char)bytes[i];
    }
    token->data = text;
    token->size = used;
    *type = size == 6 && !memcmp(text, "<0x", 3) && text[5] == '>' ? LLM_TOKEN_BYTE
                                                                   : LLM_TOKEN_NORMAL;
    if (id > 2) return true;
    *type = id ? LLM_TOKEN_CONTROL : LLM_TOKEN_UNKNOWN;
    if (id) *token = text_of(id == 1 ? "<s>" : "</s>");
    return true;
}

/* As many tokens as the model has, and nothing behind them. */
static llm_result llama2c_tokens(llama2c_file *f, llm_text *tokens, double *types, double *scores,
                                 llm_error *error) {
    const uint8_t *p = f->words.data, *end = p + f->words.size;
    const size_t count = (size_t)f->fields[LLAMA2C_VOCAB];
    int64_t longest = end - p >= 4 ? llama2c_i32(p) : 0;
    size_t i;
    if (longest < 1 || longest > 65536)
        return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: field max_token_length: %ld, "
                         "expected 1 .. 65536", (long)longest);
    p += 4;
    for (i = 0; i < count; i++) {
        int64_t size = end - p >= 8 ? llama2c_i32(p + 4) : 0;
        if (end - p < 8)
            return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: the file ends after %zu tokens, "
                             "the model has %zu", i, count);
        scores[i] = (double)ggml_bits(llm__u32(p));
        if (size < 1 || size > longest || size > end - p - 8)
            return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: token %zu has %ld bytes, "
                             "expected 1 .. %ld in the file", i, (long)size,
                             (long)(longest < end - p - 8 ? longest : end - p - 8));
        if (!(scores[i] >= -1e30 && scores[i] <= 1e30))
            return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: token %zu has the score %g, "
                             "expected -1e30 .. 1e30", i, scores[i]);
        if (!llama2c_token(f, i, p + 8, (size_t)size, &tokens[i], &types[i]))
            return keys_no_memory(error);
        p += 8 + size;
    }
    if (p != end)
        return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: %zu bytes are left after the %zu "
                         "tokens of the model", (size_t)(end - p), count);
    return LLM_OK;
}

/* The vocabulary is that of SentencePiece: <unk>, <s>, </s>, the bytes, pieces with scores. */
static llm_result llama2c_vocabulary(llama2c_file *f, llm_error *error) {
    const size_t count = (size_t)f->fields[LLAMA2C_VOCAB];
    key_list *keys = &f->keys;
    llm_text *tokens;
    double *types, *scores;
    llm_result result;
    if (count < 3 || f->words.size / 9 < count)
        return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: %zu bytes are too few for %zu tokens "
                         "(at least 3)", f->words.size, count);
    tokens = (llm_text *)keys_take(keys, count, sizeof *tokens);
    types = (double *)keys_take(keys, count, sizeof *types);
    scores = (double *)keys_take(keys, count, sizeof *scores);
    if (!tokens || !types || !scores) return keys_no_memory(error);
    result = llama2c_tokens(f, tokens, types, scores, error);
    if (result != LLM_OK) return result;
    keys_text(keys, "tokenizer.ggml.model", text_of("llama"));
    keys_array(keys, "tokenizer.ggml.tokens", SOURCE_TEXT, tokens, count);
    keys_array(keys, "tokenizer.ggml.token_type", SOURCE_NUMBER, types, count);
    keys_array(keys, "tokenizer.ggml.scores", SOURCE_NUMBER, scores, count);
    keys_number(keys, "tokenizer.ggml.add_bos_token", 1);
    keys_number(keys, "tokenizer.ggml.add_space_prefix", 1);
    return LLM_OK;
}

/* ---- the whole --------------------------------------------------------- */

static void llama2c_describe(source_file *s, llama2c_file *f) {
    static const char *const keys[LLAMA2C_FIELDS] = {
        ".embedding_length", ".feed_forward_length", ".block_count", ".attention.head_count",
        ".attention.head_count_kv", NULL, ".context_length"};
    int i;
    memcpy(s->architecture, "llama", 6);
    s->rope_interleaved = true;
    keys_text(&f->keys, "general.architecture", text_of("llama"));
    for (i = 0; i < LLAMA2C_FIELDS; i++)
        if (keys[i]) keys_number(&f->keys, keys[i], (double)f->fields[i]);
    keys_number(&f->keys, ".attention.layer_norm_rms_epsilon", 1e-5);
}

static void llama2c_close(source_file *s) {
    llama2c_file *f = (llama2c_file *)s->self;
    if (f) keys_free(&f->keys);
    free(f);
    free(s->tensors);
    memset(s, 0, sizeof *s);
}

/* Reads the model; `data` outlives the source. After an error nothing is left to close. */
static llm_result llama2c_open_model(source_file *s, const uint8_t *data, size_t size,
                                     llm_error *error) {
    llama2c_file *f = (llama2c_file *)calloc(1, sizeof *f);
    llm_result result;
    memset(s, 0, sizeof *s);
    if (!f) return keys_no_memory(error);
    s->self = f;
    s->format = "llama2.c";
    s->value = keys_value;
    s->next = keys_next;
    s->entry = keys_entry;
    s->row = llama2c_row;
    s->close = llama2c_close;
    f->map.data = data;
    f->map.size = size;
    result = llama2c_header(s, f, error);
    if (result == LLM_OK) result = llama2c_tensors(s, f, error);
    if (result == LLM_OK) llama2c_describe(s, f);
    if (result == LLM_OK && f->keys.failed)
        result = keys_no_memory(error);
    if (result != LLM_OK) llama2c_close(s);
    return result;
}

/* Adds the tokenizer; without success the source is as before. */
static llm_result llama2c_add_tokenizer(source_file *s, const uint8_t *words, size_t size,
                                        llm_error *error) {
    llama2c_file *f = (llama2c_file *)s->self;
    llm_result result;
    f->words.data = words;
    f->words.size = size;
    result = llama2c_vocabulary(f, error);
    if (result == LLM_OK && f->keys.failed)
        result = keys_no_memory(error);
    return result;
}

/* `words` is NULL where there is no tokenizer. Both outlive the source. */
static LLM__UNUSED llm_result llama2c_open_memory(source_file *s, const uint8_t *data, size_t size,
                                                  const uint8_t *words, size_t words_size,
                                                  llm_error *error) {
    llm_result result = llama2c_open_model(s, data, size, error);
    if (result != LLM_OK || !words) return result;
    result = llama2c_add_tokenizer(s, words, words_size, error);
    if (result != LLM_OK) s->close(s);
    return result;
}

static void llama2c_close_files(source_file *s) {
    llama2c_file *f = (llama2c_file *)s->self;
    map_file map, words;
    memset(&map, 0, sizeof map);
    memset(&words, 0, sizeof words);
    if (f) map = f->map, words = f->words;
    llama2c_close(s);
    map_close(&map);
    map_close(&words);
}

/* tokenizer.bin beside the model, if there is one and it fits. */
static llm_result llama2c_find_tokenizer(source_file *s, const char *path, llm_error *error) {
    llama2c_file *f = (llama2c_file *)s->self;
    char *beside = platform_beside(path, "tokenizer.bin");
    llm_error why;
    llm_result result = LLM_OK;
    if (!beside) return keys_no_memory(error);
    why.code = LLM_OK;
    if (!platform_exists(beside)) {
        (void)snprintf(s->note, sizeof s->note, "no tokenizer: there is no tokenizer.bin beside it "
                       "(--tokenizer FILE)");
    } else if ((result = map_open(&f->words, beside, &why)) == LLM_OK) {
        result = llama2c_add_tokenizer(s, f->words.data, f->words.size, &why);
    }
    if (result != LLM_OK) {
        map_close(&f->words);
        (void)snprintf(s->note, sizeof s->note, "no tokenizer: tokenizer.bin beside it does not "
                       "fit: %.160s", why.text);
    }
    free(beside);
    if (result != LLM_ERROR_MEMORY) return LLM_OK;
    if (error) *error = why;
    return result;
}

/* `tokenizer` is NULL for the one beside the model. After an error nothing is left to close. */
static LLM__UNUSED llm_result llama2c_open(source_file *s, const char *path, const char *tokenizer,
                                           llm_error *error) {
    map_file map, words;
    llm_result result = map_open(&map, path, error);
    if (result != LLM_OK) return result;
    result = llama2c_open_model(s, map.data, map.size, error);
    if (result != LLM_OK) {
        map_close(&map);
        return result;
    }
    s->close = llama2c_close_files;
    if (!tokenizer) result = llama2c_find_tokenizer(s, path, error);
    else if ((result = map_open(&words, tokenizer, error)) == LLM_OK)
        result = llama2c_add_tokenizer(s, words.data, words.size, error);
    if (result != LLM_OK) s->close(s);
    return result;
}

#endif
