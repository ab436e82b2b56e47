/* ======================================================================== */
/* A PEFT folder as a source                                                 */
/* ========================================================================
   A low-rank adapter as Hugging Face's peft saves it: adapter_config.json and
   adapter_model.safetensors. Its tensors get the names that llama.cpp gives them in a GGUF file
   ("blk.3.attn_q.weight.lora_a", [rank][in], and ".lora_b", [out][rank]), with rows in the order of
   the checkpoint. What changes the model in any other way is refused.

       peft_open(s, path, error)                  a folder
       peft_open_memory(s, parts, count, error)   files in memory
       peft_scale(s, tensor, &scale, error)       what B (A x) is multiplied by */
#ifndef CONVERT_PEFT_H
#define CONVERT_PEFT_H

#include "huggingface.h"
#include "family.h"

/* Matrices of a layer that adapters change. */
typedef struct adapter_part {
    const char *theirs, *ours;
    uint32_t role, half; /* half: GATE_UP has two */
} adapter_part;

enum { ADAPTER_PARTS = 7 };
static const adapter_part adapter_parts[ADAPTER_PARTS] = {
    {"self_attn.q_proj", "attn_q", LLM__Q, 0},
    {"self_attn.k_proj", "attn_k", LLM__K, 0},
    {"self_attn.v_proj", "attn_v", LLM__V, 0},
    {"self_attn.o_proj", "attn_output", LLM__ATTN_OUT, 0},
    {"mlp.gate_proj", "ffn_gate", LLM__GATE_UP, 0},
    {"mlp.up_proj", "ffn_up", LLM__GATE_UP, 1},
    {"mlp.down_proj", "ffn_down", LLM__DOWN, 0}};

/* ---- settings ----------------------------------------------------------- */

/* Settings that make more of an adapter than B A, or B A of something else. */
static const char *const peft_refused[] = {
    "use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "modules_to_save",
    "trainable_token_indices", "layer_replication", "target_parameters", "alora_invocation_tokens"};

/* Beginnings that leave the model's own weights as they are; peft's others change them. */
static const char *const peft_beginnings[] = {"gaussian", "eva", "orthogonal"};

static llm_result peft_check(const json *j, llm_error *error) {
    const uint32_t bias = hf_find(j, 0, "bias"), begun = hf_find(j, 0, "init_lora_weights");
    bool known = json_type(j, begun) != JSON_STRING;
    size_t i;
    if (!json_is(j, hf_find(j, 0, "peft_type"), "LORA"))
        return hf_refuse(j, "peft_type", hf_find(j, 0, "peft_type"), "LORA", error);
    for (i = 0; i < sizeof peft_refused / sizeof *peft_refused; i++) {
        const uint32_t node = hf_find(j, 0, peft_refused[i]);
        if (hf_set(j, 0, peft_refused[i]) &&
            (json_type(j, node) < JSON_ARRAY || json_count(j, node)))
            return hf_refuse(j, peft_refused[i], node, "none: it is not supported", error);
    }
    if (bias != JSON_NONE && !json_is(j, bias, "none"))
        return hf_refuse(j, "bias", bias, "\"none\"", error);
    for (i = 0; i < sizeof peft_beginnings / sizeof *peft_beginnings; i++)
        if (json_is(j, begun, peft_beginnings[i])) known = true;
    if (known) return LLM_OK;
    return hf_refuse(j, "init_lora_weights", begun, "true, false, gaussian, eva or orthogonal: "
                     "others change the model too", error);
}

static bool peft_ends(llm_text text, llm_text end) {
    return text.size >= end.size && !memcmp(text.data + text.size - end.size, end.data, end.size) &&
           (text.size == end.size || text.data[text.size - end.size - 1] == '.');
}

/* What rank_pattern or alpha_pattern has for a module: the first key that is the end of its name,
   or with '^' in front of it the whole. */
static llm_result peft_pattern(const json *j, const char *setting, llm_text module, double *number,
                               llm_error *error) {
    const uint32_t object = hf_find(j, 0, setting);
    bool found = false;
    uint32_t n;
    size_t i;
    if (object != JSON_NONE && json_type(j, object) != JSON_OBJECT)
        return hf_refuse(j, setting, object, "an object", error);
    for (n = object + 1; object != JSON_NONE && n < json_next(j, object); n = json_next(j, n + 1)) {
        llm_text key = json_text(j, n);
        const bool whole = key.size && key.data[0] == '^';
        if (whole) key.data++, key.size--;
        for (i = 0; i < key.size; i++)
            if (!(key.data[i] == '.' || key.data[i] == '_' ||
                  (key.data[i] >= '0' && key.data[i] <= '9') ||
                  ((key.data[i] | 32) >= 'a' && (key.data[i] | 32) <= 'z')))
                return hf_refuse(j, setting, n, "the end of a module's name", error);
        if (found || (whole ? text_compare(module, key) != 0 : !peft_ends(module, key))) continue;
        found = true;
        if (!json_double(j, n + 1, number) || !(*number >= 0.0 && *number <= 1e9))
            return hf_refuse(j, setting, n + 1, "a number from 0 to 1e9", error);
    }
    return LLM_OK;
}

/* ---- names -------------------------------------------------------------- */

/* The module that a tensor belongs to, and whether it is A (1) or B (2); 0: neither. */
static int peft_module(llm_text name, llm_text *module) {
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight",
                                       ".lora_B.default.weight"};
    size_t i;
    (void)hf_begins(&name, "base_model.model.");
    for (i = 0; i < 4; i++) {
        const size_t size = strlen(ends[i]);
        if (name.size <= size || memcmp(name.data + name.size - size, ends[i], size) != 0) continue;
        module->data = name.data;
        module->size = name.size - size;
        return (int)(i % 2) + 1;
    }
    return 0;
}

/* GGUF's name of a tensor; false when it has none. */
static bool peft_translate(llm_text name, char out[64]) {
    llm_text module;
    const int which = peft_module(name, &module);
    uint32_t layer = 0, digits = 0, i;
    if (!which) return false;
    while (hf_begins(&module, "model.") || hf_begins(&module, "language_model.")) continue;
    if (!hf_begins(&module, "layers.")) return false;
    for (; module.size && *module.data >= '0' && *module.data <= '9' && digits < 5; digits++) {
        layer = layer * 10 + (uint32_t)(*module.data++ - '0');
        module.size--;
    }
    if (!digits || !hf_begins(&module, ".")) return false;
    for (i = 0; i < ADAPTER_PARTS; i++)
        if (hf_equals(module, adapter_parts[i].theirs))
            return (void)snprintf(out, 64, "blk.%u.%s.weight.lora_%c", (unsigned)layer,
                                  adapter_parts[i].ours, which == 1 ? 'a' : 'b'), true;
    return false;
}

/* The way back, for messages. */
static void peft_spell(const source_file *s, const char *name, char *out, size_t room) {
    const hf_file *f = (const hf_file *)s->self;
    char ours[64];
    unsigned layer;
    size_t i;
    for (i = 0; i < f->all_count; i++)
        if (f->all[i] && peft_translate(f->all[i]->name, ours) && !strcmp(ours, name)) {
            (void)snprintf(out, room, "%.90s", show(f->all[i]->name).text);
            return;
        }
    (void)snprintf(out, room, "%s", name);
    for (i = 0; i < ADAPTER_PARTS; i++) {
        char *end = strstr(out, adapter_parts[i].ours);
        if (!end || sscanf(out, "blk.%u.", &layer) != 1) continue;
        (void)snprintf(out, room, "base_model.model.model.layers.%u.%s.lora_%c.weight", layer,
                       adapter_parts[i].theirs, name[strlen(name) - 1] == 'a' ? 'A' : 'B');
        return;
    }
}

/* ---- tensors ------------------------------------------------------------ */

static llm_result peft_add(source_file *s, hf_file *f, safetensors_tensor *from,
                           llm_error *error) {
    source_tensor *t = &s->tensors[s->tensor_count];
    char name[64], *copy;
    if (!peft_translate(from->name, name))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: tensor %.80s: expected lora_A or lora_B "
                         "of self_attn.q_proj, k_proj, v_proj, o_proj, mlp.gate_proj, up_proj or "
                         "down_proj in a layer", f->shards->name, show(from->name).text);
    if (!from->type->read || from->dims != 2)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: tensor %.80s: %s in %u dimensions, "
                         "expected F32, F16, BF16, F8_E4M3 or F8_E5M2 in 2", f->shards->name,
                         show(from->name).text, from->type->name, from->dims);
    copy = (char *)keys_take(&f->keys, strlen(name) + 1, 1);
    if (!copy) return keys_no_memory(error);
    memcpy(copy, name, strlen(name) + 1);
    t->name = text_of(copy);
    t->type = from->type->name;
    t->bits = from->type->size * 8;
    t->dims = 2;
    t->shape[0] = from->shape[1], t->shape[1] = from->shape[0];
    t->shape[2] = t->shape[3] = 1;
    t->data = from->data;
    t->format = (uint32_t)s->tensor_count;
    f->tensors[s->tensor_count].type = from->type;
    f->all[s->tensor_count++] = from;
    return LLM_OK;
}

static llm_result peft_tensors(source_file *s, hf_file *f, llm_error *error) {
    static const char file[] = "adapter_model.safetensors";
    hf_part part;
    size_t i;
    llm_result result = hf_load(f, file, true, &part, error);
    if (result != LLM_OK) return result;
    f->shards = (safetensors *)calloc(1, sizeof *f->shards);
    if (!f->shards) return keys_no_memory(error);
    result = safetensors_open_memory(f->shards, file, part.data, part.size, error);
    if (result != LLM_OK) return result;
    f->shard_count = 1;
    f->all_count = f->shards->count;
    s->tensors = (source_tensor *)calloc(f->all_count + 1, sizeof *s->tensors);
    f->tensors = (hf_tensor *)keys_take(&f->keys, f->all_count, sizeof *f->tensors);
    f->all = (safetensors_tensor **)keys_take(&f->keys, f->all_count, sizeof *f->all);
    if (!s->tensors || !f->tensors || !f->all) return keys_no_memory(error);
    for (i = 0; i < f->shards->count && result == LLM_OK; i++)
        result = peft_add(s, f, &f->shards->tensors[i], error);
    if (result != LLM_OK) return result;
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, hf_source_order);
    for (i = 1; i < s->tensor_count; i++)
        if (text_compare(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: there are two of it",
                             family_spell(s, s->tensors[i].name.data).text);
    return LLM_OK;
}

/* alpha / rank, or alpha / sqrt(rank); the rank must be that of the settings. `t` is A or B. */
static llm_result peft_scale(const source_file *s, const source_tensor *t, uint64_t rank,
                             double *scale, llm_error *error) {
    const hf_file *f = (const hf_file *)s->self;
    const json *j = &f->config;
    double alpha, said;
    llm_text module;
    bool root;
    llm_result result = hf_whole(j, 0, "r", 0, 1, 1024, &said, error);
    (void)peft_module(f->all[t->format]->name, &module);
    if (result == LLM_OK) result = hf_number(j, 0, "lora_alpha", -1, 0, 1e9, &alpha, error);
    if (result == LLM_OK) result = hf_flag(j, 0, "use_rslora", false, &root, error);
    if (result == LLM_OK) result = peft_pattern(j, "rank_pattern", module, &said, error);
    if (result == LLM_OK) result = peft_pattern(j, "alpha_pattern", module, &alpha, error);
    if (result != LLM_OK) return result;
    if ((double)rank != said)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: its rank is %llu, adapter_config.json "
                         "says %g", family_spell(s, t->name.data).text, (unsigned long long)rank,
                         said);
    *scale = alpha / (root ? sqrt((double)rank) : (double)rank);
    return LLM_OK;
}

/* ---- the whole ---------------------------------------------------------- */

static llm_result peft_start(source_file *s, hf_file *f, llm_error *error) {
    llm_result result;
    uint32_t base;
    memset(s, 0, sizeof *s);
    s->self = f;
    s->format = "PEFT folder";
    s->value = keys_value;
    s->next = keys_next;
    s->entry = keys_entry;
    s->row = hf_row;
    s->close = hf_close;
    s->spell = peft_spell;
    result = hf_load_json(f, "adapter_config.json", true, &f->config, error);
    if (result == LLM_OK) result = peft_check(&f->config, error);
    if (result == LLM_OK) result = peft_tensors(s, f, error);
    base = hf_find(&f->config, 0, "base_model_name_or_path");
    if (result == LLM_OK && json_type(&f->config, base) == JSON_STRING)
        keys_text(&f->keys, "general.base_model", json_text(&f->config, base));
    if (result == LLM_OK && f->keys.failed) result = keys_no_memory(error);
    if (result != LLM_OK) hf_close(s);
    return result;
}

/* Files in memory, which outlive the source. After an error nothing is left to close. */
static LLM__UNUSED llm_result peft_open_memory(source_file *s, const hf_part *parts, size_t count,
                                               llm_error *error) {
    hf_file *f = (hf_file *)calloc(1, sizeof *f);
    if (!f) return keys_no_memory(error);
    f->given = parts;
    f->given_count = count;
    return peft_start(s, f, error);
}

/* The folder `path`, which is a text that outlives the source. */
static LLM__UNUSED llm_result peft_open(source_file *s, const char *path, llm_error *error) {
    hf_file *f = (hf_file *)calloc(1, sizeof *f);
    if (!f) return keys_no_memory(error);
    f->path = path;
    return peft_start(s, f, error);
}

#endif
