/* ======================================================================== */
/* A Hugging Face folder as a source                                         */
/* ========================================================================
   config.json says what the model is; model.safetensors holds its tensors, or several files that
   model.safetensors.index.json names. Beside them chat_template.jinja or tokenizer_config.json's
   chat_template, and generation_config.json with the tokens that end a text. Names and settings
   become those that GGUF has for the same model, so that both give the same .llm file. Nothing
   is read outside of the folder.

       huggingface_open_memory(s, parts, count, error)   files in memory
       huggingface_open(s, path, error)                  a folder */
#ifndef CONVERT_HUGGINGFACE_H
#define CONVERT_HUGGINGFACE_H

#include "json.h"
#include "keys.h"
#include "platform.h"
#include "ternary.h"

/* A file of a folder. */
typedef struct hf_part {
    const char *name;
    const uint8_t *data;
    size_t size;
} hf_part;

/* How a tensor of the source is read. */
typedef struct hf_tensor {
    const safetensors_type *type;
    const safetensors_tensor *scale;     /* NULL: none */
    uint64_t block_rows, block_cols, scale_cols; /* one scale for each block */
    float add;                           /* to every element */
    uint64_t quarter;                    /* packed ternary weights: rows as they are stored, or 0 */
    float size;                          /* of ternary weights, packed */
    bool rounded;                        /* or to be rounded */
} hf_tensor;

enum { HF_SHARDS = 1024, HF_LAYERS = 1024 };

/* Ternary weights: none, packed with a scale that they are divided or multiplied by, or to be rounded. */
enum { HF_NOT_TERNARY, HF_DIVIDED, HF_MULTIPLIED, HF_ROUNDED };

typedef struct hf_family hf_family;

typedef struct hf_file {
    key_list keys;       /* first */
    const hf_part *given; /* files in memory */
    size_t given_count;
    const char *path;    /* or a folder */
    map_file *maps;      /* of files that were opened */
    size_t map_count, map_room;
    const hf_family *family;
    json config, index, tokenizer_config, generation;
    uint32_t text;       /* the node of `config` that describes the model of text */
    safetensors *shards;
    size_t shard_count;
    safetensors_tensor **all; /* of all shards, by name */
    bool *consumed;      /* by another one (scales), or left out */
    size_t all_count;
    hf_tensor *tensors;  /* source_tensor.format counts them */
    uint8_t *factors;    /* of Llama 3's frequencies, F32, or NULL */
    size_t factor_count;
    uint32_t layers, left_out;
    int ternary;
    bool tied;
} hf_file;

/* ---- files ------------------------------------------------------------- */

/* A file of the folder; one that is not there has no data, which is an error if it is `required`. */
static llm_result hf_load(hf_file *f, const char *name, bool required, hf_part *part,
                          llm_error *error) {
    char *path;
    map_file *maps;
    llm_result result = LLM_OK;
    size_t i;
    memset(part, 0, sizeof *part);
    part->name = name;
    for (i = 0; i < f->given_count; i++)
        if (strcmp(f->given[i].name, name) == 0) *part = f->given[i];
    if (f->path && !part->data) {
        path = platform_join(f->path, strlen(f->path), name);
        maps = (map_file *)keys_grow(&f->keys, f->maps, &f->map_room, f->map_count, sizeof *maps);
        if (maps) f->maps = maps, memset(&maps[f->map_count], 0, sizeof *maps);
        if (!path || !maps) result = keys_no_memory(error);
        else if (platform_exists(path))
            result = map_open(&f->maps[f->map_count], path, error);
        if (result == LLM_OK && f->maps[f->map_count].data) {
            part->data = f->maps[f->map_count].data;
            part->size = f->maps[f->map_count++].size;
        }
        free(path);
    }
    if (result != LLM_OK || part->data || !required) return result;
    return llm__fail(error, LLM_ERROR_IO, "the folder has no %s, expected it", name);
}

/* Reads a JSON file whose top is an object; `j` stays empty when there is none. */
static llm_result hf_load_json(hf_file *f, const char *name, bool required, json *j,
                               llm_error *error) {
    hf_part part;
    llm_result result = hf_load(f, name, required, &part, error);
    if (result != LLM_OK || !part.data) return result;
    result = json_parse(j, name, (const char *)part.data, part.size, error);
    if (result == LLM_OK && json_type(j, 0) != JSON_OBJECT)
        result = llm__fail(error, LLM_ERROR_FORMAT, "%s: expected an object", name);
    return result;
}

/* ---- settings ---------------------------------------------------------- */

/* The value of a node in a few words. */
static const char *hf_show(const json *j, uint32_t node, char text[64]) {
    static const char *const kinds[] = {"null", "false", "true", "", "", "an array", "an object"};
    const int kind = json_type(j, node);
    if (node == JSON_NONE) return "nothing";
    if (kind == JSON_NUMBER)
        (void)snprintf(text, 64, "%.*s", j->nodes[node].size > 40 ? 40 : (int)j->nodes[node].size,
                       j->text + j->nodes[node].at);
    else if (kind == JSON_STRING)
        (void)snprintf(text, 64, "\"%.40s\"", show(json_text(j, node)).text);
    return kind == JSON_NUMBER || kind == JSON_STRING ? text : kinds[kind];
}

/* The value of a key; JSON_NONE where it is null or missing. */
static uint32_t hf_find(const json *j, uint32_t object, const char *name) {
    const uint32_t node = json_find(j, object, name);
    return node != JSON_NONE && json_type(j, node) == JSON_NULL ? JSON_NONE : node;
}

static llm_result hf_refuse(const json *j, const char *name, uint32_t node, const char *expected,
                            llm_error *error) {
    char text[64];
    return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: %s: %s, expected %s", j->name, name,
                     hf_show(j, node, text), expected);
}

/* A number; `fallback` where there is none, which below `least` means that there must be one. */
static llm_result hf_number(const json *j, uint32_t object, const char *name, double fallback,
                            double least, double most, double *number, llm_error *error) {
    const uint32_t node = hf_find(j, object, name);
    char text[64];
    *number = fallback;
    if (node == JSON_NONE && fallback >= least) return LLM_OK;
    if (json_double(j, node, number) && *number >= least && *number <= most) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: %s: %s, expected a number from %g to %g",
                     j->name, name, hf_show(j, node, text), least, most);
}

static llm_result hf_whole(const json *j, uint32_t object, const char *name, double fallback,
                           double least, double most, double *number, llm_error *error) {
    llm_result result = hf_number(j, object, name, fallback, least, most, number, error);
    char text[64];
    if (result != LLM_OK || floor(*number) >= *number) return result;
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: %s: %s, expected a whole number", j->name, name,
                     hf_show(j, hf_find(j, object, name), text));
}

static llm_result hf_flag(const json *j, uint32_t object, const char *name, bool fallback,
                          bool *flag, llm_error *error) {
    const uint32_t node = hf_find(j, object, name);
    *flag = node == JSON_NONE ? fallback : json_type(j, node) == JSON_TRUE;
    if (node == JSON_NONE || *flag || json_type(j, node) == JSON_FALSE) return LLM_OK;
    return hf_refuse(j, name, node, "true or false", error);
}

/* Is a setting there that is neither false nor 0? */
static bool hf_set(const json *j, uint32_t object, const char *name) {
    const uint32_t node = hf_find(j, object, name);
    double number;
    if (node == JSON_NONE || json_type(j, node) == JSON_FALSE) return false;
    return !json_double(j, node, &number) || number > 0.0 || number < 0.0;
}

/* ---- families ---------------------------------------------------------- */

/* What config.json need not say, and what is told apart by name. Below 0: it must say it. */
struct hf_family {
    const char *type, *class_name; /* model_type and architectures */
    const char *name;              /* of the family of the result */
    const char *activation_key, *activation;
    double width, ffn, layers, heads, kv_heads, head_size, context, window; /* head size 0: width /
                                      heads; window 0: the model has none unless it says so */
    double rope_base, local_base, epsilon;
    bool tied, gemma, windows;     /* windows: in all layers, when a window is given */
};

static const hf_family hf_families[] = {
    {"llama", "LlamaForCausalLM", "llama", "hidden_act", "silu",
     -1, -1, -1, -1, 0, 0, 2048, 0, 1e4, 0, 1e-6, false, false, false},
    {"mistral", "MistralForCausalLM", "llama", "hidden_act", "silu",
     -1, -1, -1, -1, 8, 0, 131072, 0, 1e4, 0, 1e-6, false, false, true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", "hidden_act", "silu",
     -1, -1, -1, -1, 32, 0, 32768, 0, 1e4, 0, 1e-6, false, false, false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", "hidden_act", "silu",
     -1, -1, -1, -1, 32, 128, 32768, 0, 1e4, 0, 1e-6, false, false, false},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", "hidden_activation", "gelu_pytorch_tanh",
     2304, 9216, 26, 8, 4, 256, 131072, 4096, 1e6, 1e4, 1e-6, true, true, false},
    {"gemma3", "Gemma3ForConditionalGeneration", "gemma3", "hidden_activation",
     "gelu_pytorch_tanh", 2304, 9216, 26, 8, 4, 256, 131072, 4096, 1e6, 1e4, 1e-6, true, true, false},
    {"bitnet", "BitNetForCausalLM", "bitnet-b1.58", "hidden_act", "relu2",
     -1, -1, -1, -1, 5, 0, 2048, 0, 5e5, 0, 1e-5, false, false, false},
    {"bitnet", "BitNetForCausalLM", "bitnet", "hidden_act", "silu",
     -1, -1, -1, -1, 5, 0, 2048, 0, 5e5, 0, 1e-5, false, false, false}};

/* Settings of other arithmetic than any family here has. */
static const char *const hf_refused[] = {
    "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "use_bidirectional_attention", "attention_chunk_size", "embedding_multiplier",
    "residual_multiplier", "attention_multiplier", "logits_scaling", "logit_scale", "clip_qkv"};

static llm_result hf_family_of(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    const uint32_t type = hf_find(j, 0, "model_type");
    const uint32_t classes = hf_find(j, 0, "architectures");
    char text[64];
    size_t i;
    for (i = 0; i < sizeof hf_families / sizeof *hf_families; i++) /* some differ in the activation */
        if (json_is(j, type, hf_families[i].type) &&
            (!f->family || json_is(j, hf_find(j, 0, hf_families[i].activation_key), hf_families[i].activation)))
            f->family = &hf_families[i];
    if (!f->family)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "config.json: model_type: %s, expected "
                         "llama, mistral, qwen2, qwen3, gemma3, gemma3_text or bitnet",
                         hf_show(j, type, text));
    if (classes != JSON_NONE &&
        (json_type(j, classes) != JSON_ARRAY || json_count(j, classes) != 1 ||
         (!json_is(j, classes + 1, f->family->class_name) &&
          !(f->family->gemma && json_is(j, classes + 1, "Gemma3ForCausalLM")))))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "config.json: architectures: %s, expected "
                         "[\"%s\"]", hf_show(j, json_count(j, classes) ? classes + 1 : classes,
                                             text), f->family->class_name);
    f->text = 0;
    if (f->family->gemma && hf_find(j, 0, "text_config") != JSON_NONE) {
        f->text = hf_find(j, 0, "text_config");
        if (json_type(j, f->text) != JSON_OBJECT)
            return hf_refuse(j, "text_config", f->text, "an object", error);
        if (hf_find(j, f->text, "model_type") != JSON_NONE &&
            !json_is(j, hf_find(j, f->text, "model_type"), "gemma3_text"))
            return hf_refuse(j, "text_config.model_type", hf_find(j, f->text, "model_type"),
                             "gemma3_text", error);
    }
    return LLM_OK;
}

/* ---- from config.json to keys ------------------------------------------- */

static llm_result hf_sizes(hf_file *f, llm_error *error) {
    const hf_family *family = f->family;
    const struct {
        const char *name, *key;
        double fallback, most;
    } sizes[] = {{"hidden_size", ".embedding_length", family->width, 65536},
                 {"intermediate_size", ".feed_forward_length", family->ffn, 262144},
                 {"num_hidden_layers", ".block_count", family->layers, HF_LAYERS},
                 {"num_attention_heads", ".attention.head_count", family->heads, 1024},
                 {"max_position_embeddings", ".context_length", family->context, 268435456}};
    double number[5] = {0}, other;
    llm_result result = LLM_OK;
    size_t i;
    for (i = 0; i < 5 && result == LLM_OK; i++) {
        result = hf_whole(&f->config, f->text, sizes[i].name, sizes[i].fallback, 1, sizes[i].most,
                          &number[i], error);
        keys_number(&f->keys, sizes[i].key, number[i]);
    }
    if (result != LLM_OK) return result;
    f->layers = (uint32_t)number[2];
    result = hf_whole(&f->config, f->text, "num_key_value_heads",
                      family->kv_heads > 0 ? family->kv_heads : number[3], 1, 1024, &other, error);
    keys_number(&f->keys, ".attention.head_count_kv", other);
    if (result == LLM_OK)
        result = hf_whole(&f->config, f->text, "head_dim", family->head_size > 0 ? family->head_size
                          : floor(number[0] / number[3]), 1, 512, &other, error);
    keys_number(&f->keys, ".attention.key_length", other);
    keys_number(&f->keys, ".attention.value_length", other);
    if (result == LLM_OK)
        result = hf_number(&f->config, f->text, "rms_norm_eps", family->epsilon, 1e-30, 1, &other,
                           error);
    keys_number(&f->keys, ".attention.layer_norm_rms_epsilon", other);
    return result;
}

/* What has to be as the family has it. */
static llm_result hf_assumed(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    const uint32_t activation = hf_find(j, f->text, f->family->activation_key);
    double part;
    llm_result result;
    size_t i;
    for (i = 0; i < sizeof hf_refused / sizeof *hf_refused; i++)
        if (hf_set(j, f->text, hf_refused[i]))
            return hf_refuse(j, hf_refused[i], hf_find(j, f->text, hf_refused[i]), "none", error);
    if (activation != JSON_NONE && !json_is(j, activation, f->family->activation))
        return hf_refuse(j, f->family->activation_key, activation, f->family->activation, error);
    result = hf_number(j, f->text, "partial_rotary_factor", 1, 1, 1, &part, error);
    if (result != LLM_OK) return result;
    return hf_flag(j, f->text, "tie_word_embeddings",
                   json_type(j, hf_find(j, 0, "tie_word_embeddings")) == JSON_TRUE ||
                       (f->family->tied && hf_find(j, 0, "tie_word_embeddings") == JSON_NONE),
                   &f->tied, error);
}

/* Gemma scales queries by a number of its own, and squashes scores and logits. */
static llm_result hf_scales(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    double scalar, cap;
    llm_result result;
    if (!f->family->gemma) return LLM_OK;
    result = hf_number(j, f->text, "query_pre_attn_scalar", 256, 1e-6, 1e6, &scalar, error);
    if (result != LLM_OK) return result;
    keys_number(&f->keys, ".attention.scale", 1.0 / sqrt(scalar));
    result = hf_number(j, f->text, "attn_logit_softcapping", 0, 0, 1e9, &cap, error);
    if (cap > 0.0) keys_number(&f->keys, ".attn_logit_softcapping", cap);
    if (result == LLM_OK)
        result = hf_number(j, f->text, "final_logit_softcapping", 0, 0, 1e9, &cap, error);
    if (cap > 0.0) keys_number(&f->keys, ".final_logit_softcapping", cap);
    return result;
}

/* Does this layer see only a window? As the config lists it, or by the family's rule. */
static llm_result hf_is_local(hf_file *f, uint32_t types, uint32_t layer, double every, double from,
                              bool *local, llm_error *error) {
    const json *j = &f->config;
    char name[64];
    *local = false;
    if (types == JSON_NONE) {
        *local = f->family->gemma ? (layer + 1) % (uint32_t)every != 0 : (double)layer >= from;
        return LLM_OK;
    }
    *local = json_is(j, types, "sliding_attention");
    if (*local || json_is(j, types, "full_attention")) return LLM_OK;
    (void)snprintf(name, sizeof name, "layer_types[%u]", (unsigned)layer);
    return hf_refuse(j, name, types, "full_attention or sliding_attention", error);
}

static llm_result hf_windows(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    const hf_family *family = f->family;
    double window, every, from = 0, *list;
    uint32_t types = hf_find(j, f->text, "layer_types"), layer;
    bool used = family->gemma || family->windows, local;
    llm_result result = LLM_OK;
    if (!used) result = hf_flag(j, f->text, "use_sliding_window", false, &used, error);
    if (result == LLM_OK)
        result = hf_whole(j, f->text, "sliding_window", family->window, 0, 1073741824, &window,
                          error);
    if (result == LLM_OK)
        result = hf_whole(j, f->text, hf_find(j, f->text, "sliding_window_pattern") != JSON_NONE
                          ? "sliding_window_pattern" : "_sliding_window_pattern", 6, 1, HF_LAYERS,
                          &every, error);
    if (result == LLM_OK && used && !family->gemma && !family->windows)
        result = hf_whole(j, f->text, "max_window_layers", f->layers, 0, 1e6, &from, error);
    if (result != LLM_OK) return result;
    if (types != JSON_NONE && json_count(j, types) != f->layers)
        return llm__fail(error, LLM_ERROR_FORMAT, "config.json: layer_types: %u elements, expected "
                         "one for each of %u layers", json_count(j, types), (unsigned)f->layers);
    if (!used || !(window > 0.0)) return LLM_OK;
    list = (double *)keys_take(&f->keys, f->layers, sizeof *list);
    if (types != JSON_NONE) types++; /* the first element */
    for (layer = 0; list && layer < f->layers && result == LLM_OK; layer++) {
        result = hf_is_local(f, types, layer, every, from, &local, error);
        list[layer] = local;
        if (types != JSON_NONE) types = json_next(j, types);
    }
    keys_number(&f->keys, ".attention.sliding_window", window);
    keys_array(&f->keys, ".attention.sliding_window_pattern", SOURCE_NUMBER, list, f->layers);
    return result;
}

/* ---- positions --------------------------------------------------------- */

static void hf_put_f32(uint8_t *out, float x) {
    uint32_t bits;
    int i;
    memcpy(&bits, &x, sizeof bits);
    for (i = 0; i < 4; i++) out[i] = (uint8_t)(bits >> 8 * i);
}

/* Llama 3.1: long waves are slowed by a factor, short ones stay, and there is a passage between
   them. The factors become the tensor that GGUF has for them. */
static llm_result hf_llama3(hf_file *f, uint32_t rope, double base, double head, llm_error *error) {
    const json *j = &f->config;
    const size_t count = (size_t)head / 2;
    double factor, low = 0, high = 0, context = 0;
    llm_result result = hf_number(j, rope, "factor", -1, 1, 1e6, &factor, error);
    size_t i;
    if (result == LLM_OK)
        result = hf_number(j, rope, "low_freq_factor", 1, 1e-3, 1e6, &low, error);
    if (result == LLM_OK)
        result = hf_number(j, rope, "high_freq_factor", 4, 1e-3, 1e6, &high, error);
    if (result == LLM_OK)
        result = hf_number(j, rope, "original_max_position_embeddings", 8192, 1, 1e9, &context,
                           error);
    if (result != LLM_OK) return result;
    if (!(high > low))
        return llm__fail(error, LLM_ERROR_FORMAT, "config.json: high_freq_factor: %g, expected "
                         "more than low_freq_factor (%g)", high, low);
    f->factors = (uint8_t *)keys_take(&f->keys, count, 4);
    f->factor_count = count;
    for (i = 0; f->factors && i < count; i++) {
        const double wave = 6.283185307179586 * pow(base, 2.0 * (double)i / head);
        double between = (context / wave - low) / (high - low);
        between = between < 0.0 ? 0.0 : between > 1.0 ? 1.0 : between;
        hf_put_f32(f->factors + 4 * i, (float)(1.0 / ((1.0 - between) / factor + between)));
    }
    return LLM_OK;
}

/* One kind of layers: an object with rope_type, rope_theta and what the type needs; may be none. */
static llm_result hf_rope_object(hf_file *f, uint32_t rope, const char *key, double base,
                                 bool global, llm_error *error) {
    const json *j = &f->config;
    uint32_t type = hf_find(j, rope, "rope_type");
    double factor;
    llm_result result;
    if (type == JSON_NONE) type = hf_find(j, rope, "type");
    result = hf_number(j, rope, "rope_theta", base, 1, 1e30, &base, error);
    if (result == LLM_OK) result = hf_number(j, rope, "partial_rotary_factor", 1, 1, 1, &factor,
                                             error);
    if (result != LLM_OK) return result;
    keys_number(&f->keys, key, base);
    if (type == JSON_NONE || json_is(j, type, "default")) return LLM_OK;
    if (global && json_is(j, type, "linear")) {
        result = hf_number(j, rope, "factor", 0, 1e-6, 1e6, &factor, error);
        keys_text(&f->keys, ".rope.scaling.type", text_of("linear"));
        keys_number(&f->keys, ".rope.scaling.factor", factor);
        return result;
    }
    if (global && json_is(j, type, "llama3") && !f->family->gemma)
        return hf_llama3(f, rope, base, keys_find(&f->keys, ".attention.key_length"), error);
    return hf_refuse(j, "rope_type", type, global ? "default, linear or llama3" : "default", error);
}

static llm_result hf_rope(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    uint32_t rope = hf_find(j, f->text, "rope_parameters"), local = JSON_NONE;
    double base, local_base;
    llm_result result;
    if (rope == JSON_NONE) rope = hf_find(j, f->text, "rope_scaling");
    if (rope != JSON_NONE && json_type(j, rope) != JSON_OBJECT)
        return hf_refuse(j, "rope_scaling", rope, "an object", error);
    result = hf_number(j, f->text, "rope_theta", f->family->rope_base, 1, 1e30, &base, error);
    if (result == LLM_OK)
        result = hf_number(j, f->text, "rope_local_base_freq", f->family->local_base, 0, 1e30,
                           &local_base, error);
    if (result != LLM_OK) return result;
    if (f->family->gemma && hf_find(j, rope, "full_attention") != JSON_NONE) {
        local = hf_find(j, rope, "sliding_attention");
        rope = hf_find(j, rope, "full_attention");
    }
    result = hf_rope_object(f, rope, ".rope.freq_base", base, true, error);
    if (result == LLM_OK && f->family->gemma)
        result = hf_rope_object(f, local, ".rope.freq_base_swa", local_base, false, error);
    return result;
}

/* ---- shards ------------------------------------------------------------ */

/* A name that stays in the folder. */
static bool hf_is_plain(llm_text name) {
    static const char end[] = ".safetensors";
    const size_t tail = sizeof end - 1;
    size_t i;
    if (name.size <= tail || name.size > 200 || name.data[0] == '.' ||
        memcmp(name.data + name.size - tail, end, tail) != 0)
        return false;
    for (i = 0; i < name.size; i++)
        if ((unsigned char)name.data[i] < 32 || strchr("/\\:*?\"<>|", name.data[i])) return false;
    return true;
}

static llm_result hf_open_shard(hf_file *f, const char *name, llm_error *error) {
    hf_part part;
    llm_result result = hf_load(f, name, true, &part, error);
    if (result == LLM_OK)
        result = safetensors_open_memory(&f->shards[f->shard_count], name, part.data, part.size,
                                         error);
    if (result == LLM_OK) f->shard_count++;
    return result;
}

static int hf_text_order(const void *a, const void *b) {
    return text_compare(*(const llm_text *)a, *(const llm_text *)b);
}

/* The files that the index names, each once. */
static llm_result hf_open_index(hf_file *f, llm_error *error) {
    const json *j = &f->index;
    const uint32_t map = json_find(j, 0, "weight_map");
    llm_text *names;
    llm_result result = LLM_OK;
    size_t count = 0, i;
    uint32_t n;
    if (json_type(j, map) != JSON_OBJECT || !json_count(j, map))
        return hf_refuse(j, "weight_map", map, "an object of names", error);
    names = (llm_text *)keys_take(&f->keys, json_count(j, map), sizeof *names);
    f->shards = (safetensors *)calloc(HF_SHARDS, sizeof *f->shards);
    if (!names || !f->shards) return keys_no_memory(error);
    for (n = map + 1; n < json_next(j, map); n = json_next(j, n + 1)) {
        if (!hf_is_plain(json_text(j, n + 1)))
            return hf_refuse(j, show(json_text(j, n)).text, n + 1, "a .safetensors file in the "
                             "folder", error);
        names[count++] = json_text(j, n + 1);
    }
    qsort(names, count, sizeof *names, hf_text_order);
    for (i = 0; i < count && result == LLM_OK; i++) {
        char *name;
        if (i && text_compare(names[i - 1], names[i]) == 0) continue;
        if (f->shard_count == HF_SHARDS)
            return llm__fail(error, LLM_ERROR_LIMIT, "%s: more than %d files", j->name, HF_SHARDS);
        name = (char *)keys_take(&f->keys, names[i].size + 1, 1);
        if (!name) return keys_no_memory(error);
        memcpy(name, names[i].data, names[i].size);
        result = hf_open_shard(f, name, error);
    }
    return result;
}

static int hf_tensor_order(const void *a, const void *b) {
    return text_compare((*(safetensors_tensor *const *)a)->name,
                        (*(safetensors_tensor *const *)b)->name);
}

/* The number of a tensor of the checkpoint; all_count when there is none. */
static size_t hf_lookup(const hf_file *f, llm_text name) {
    size_t low = 0, high = f->all_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = text_compare(f->all[middle]->name, name);
        if (order == 0) return middle;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return f->all_count;
}

static const char *hf_shard_of(const hf_file *f, const safetensors_tensor *t) {
    size_t i;
    for (i = 0; i < f->shard_count; i++)
        if (f->shards[i].count && t >= f->shards[i].tensors &&
            t < f->shards[i].tensors + f->shards[i].count)
            return f->shards[i].name;
    return "";
}

/* Every tensor lies where the index says, and the index says so of every tensor. */
static llm_result hf_check_index(hf_file *f, llm_error *error) {
    const json *j = &f->index;
    const uint32_t map = json_find(j, 0, "weight_map");
    uint32_t n;
    for (n = map + 1; n < json_next(j, map); n = json_next(j, n + 1)) {
        const size_t found = hf_lookup(f, json_text(j, n));
        if (found == f->all_count || !json_is(j, n + 1, hf_shard_of(f, f->all[found])))
            return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s is not in %.80s", j->name,
                             show(json_text(j, n)).text, show(json_text(j, n + 1)).text);
    }
    if (json_count(j, map) == f->all_count) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "%s: weight_map names %u tensors, its files hold "
                     "%zu", j->name, json_count(j, map), f->all_count);
}

static llm_result hf_open_tensors(hf_file *f, llm_error *error) {
    static const char single[] = "model.safetensors", many[] = "model.safetensors.index.json";
    hf_part part;
    llm_result result = hf_load(f, single, false, &part, error);
    size_t i, k;
    if (result != LLM_OK) return result;
    if (part.data) {
        f->shards = (safetensors *)calloc(1, sizeof *f->shards);
        if (!f->shards) return keys_no_memory(error);
        result = safetensors_open_memory(f->shards, single, part.data, part.size, error);
        if (result == LLM_OK) f->shard_count = 1;
    } else {
        result = hf_load_json(f, many, false, &f->index, error);
        if (result == LLM_OK && !f->index.count)
            result = llm__fail(error, LLM_ERROR_IO, "the folder has neither %s nor %s", single,
                               many);
        if (result == LLM_OK) result = hf_open_index(f, error);
    }
    if (result != LLM_OK) return result;
    for (i = 0; i < f->shard_count; i++) f->all_count += f->shards[i].count;
    f->all = (safetensors_tensor **)keys_take(&f->keys, f->all_count, sizeof *f->all);
    f->consumed = (bool *)keys_take(&f->keys, f->all_count, sizeof *f->consumed);
    if (!f->all || !f->consumed) return keys_no_memory(error);
    for (i = 0, f->all_count = 0; i < f->shard_count; i++)
        for (k = 0; k < f->shards[i].count; k++)
            f->all[f->all_count++] = &f->shards[i].tensors[k];
    if (f->all_count) qsort(f->all, f->all_count, sizeof *f->all, hf_tensor_order);
    for (i = 1; i < f->all_count; i++)
        if (text_compare(f->all[i - 1]->name, f->all[i]->name) == 0)
            return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s is in %s too",
                             hf_shard_of(f, f->all[i]), show(f->all[i]->name).text,
                             hf_shard_of(f, f->all[i - 1]));
    return f->index.count ? hf_check_index(f, error) : LLM_OK;
}

/* ---- names ------------------------------------------------------------- */

typedef struct hf_name {
    const char *theirs, *ours;
    int gemma; /* 1: of that family, 0: of the others, -1: of all */
} hf_name;

static const hf_name hf_names[] = {
    {"self_attn.q_proj", "attn_q", -1},       {"self_attn.k_proj", "attn_k", -1},
    {"self_attn.v_proj", "attn_v", -1},       {"self_attn.o_proj", "attn_output", -1},
    {"self_attn.q_norm", "attn_q_norm", -1},  {"self_attn.k_norm", "attn_k_norm", -1},
    {"self_attn.attn_sub_norm", "attn_sub_norm", 0}, {"mlp.ffn_sub_norm", "ffn_sub_norm", 0},
    {"mlp.gate_proj", "ffn_gate", -1},        {"mlp.up_proj", "ffn_up", -1},
    {"mlp.down_proj", "ffn_down", -1},        {"input_layernorm", "attn_norm", -1},
    {"post_attention_layernorm", "ffn_norm", 0},
    {"post_attention_layernorm", "post_attention_norm", 1},
    {"pre_feedforward_layernorm", "ffn_norm", 1},
    {"post_feedforward_layernorm", "post_ffw_norm", 1}};

/* Removes a beginning. */
static bool hf_begins(llm_text *name, const char *with) {
    const size_t size = strlen(with);
    if (name->size < size || memcmp(name->data, with, size) != 0) return false;
    name->data += size;
    name->size -= size;
    return true;
}
static bool hf_equals(llm_text name, const char *to) {
    return name.size == strlen(to) && !memcmp(name.data, to, name.size);
}

/* Our name of a tensor; false when it has none. */
static bool hf_translate(const hf_file *f, llm_text name, char out[64]) {
    uint32_t layer = 0, digits = 0;
    size_t i;
    const char *kind = "weight";
    out[0] = 0;
    if (f->family->gemma && !hf_begins(&name, "model.language_model."))
        (void)hf_begins(&name, "language_model.");
    if (hf_equals(name, "lm_head.weight")) return (void)snprintf(out, 64, "output.weight"), true;
    (void)hf_begins(&name, "model.");
    if (hf_equals(name, "embed_tokens.weight"))
        return (void)snprintf(out, 64, "token_embd.weight"), true;
    if (hf_equals(name, "norm.weight"))
        return (void)snprintf(out, 64, "output_norm.weight"), true;
    if (!hf_begins(&name, "layers.")) return false;
    for (; name.size && *name.data >= '0' && *name.data <= '9' && digits < 5; digits++) {
        layer = layer * 10 + (uint32_t)(*name.data++ - '0');
        name.size--;
    }
    if (!digits || layer >= f->layers || !hf_begins(&name, ".")) return false;
    if (name.size > 7 && !memcmp(name.data + name.size - 7, ".weight", 7)) name.size -= 7;
    else if (name.size > 5 && !memcmp(name.data + name.size - 5, ".bias", 5))
        name.size -= 5, kind = "bias";
    else return false;
    for (i = 0; i < sizeof hf_names / sizeof *hf_names; i++)
        if (hf_equals(name, hf_names[i].theirs) &&
            (hf_names[i].gemma < 0 || hf_names[i].gemma == (int)f->family->gemma))
            return (void)snprintf(out, 64, "blk.%u.%s.%s", layer, hf_names[i].ours, kind), true;
    return false;
}

/* The way back, for messages: the name as it is without a beginning for a model in a model. */
static void hf_spell(const source_file *s, const char *name, char *out, size_t room) {
    const hf_file *f = (const hf_file *)s->self;
    const char *dot, *end;
    size_t i;
    (void)snprintf(out, room, "%s", name);
    if (!strcmp(name, "token_embd.weight")) (void)snprintf(out, room, "model.embed_tokens.weight");
    if (!strcmp(name, "output_norm.weight")) (void)snprintf(out, room, "model.norm.weight");
    if (!strcmp(name, "output.weight")) (void)snprintf(out, room, "lm_head.weight");
    if (strncmp(name, "blk.", 4) != 0 || !(dot = strchr(name + 4, '.'))) return;
    end = strrchr(name, '.');
    for (i = 0; i < sizeof hf_names / sizeof *hf_names; i++)
        if ((size_t)(end - dot - 1) == strlen(hf_names[i].ours) &&
            !memcmp(dot + 1, hf_names[i].ours, (size_t)(end - dot - 1)) &&
            (hf_names[i].gemma < 0 || hf_names[i].gemma == (int)f->family->gemma))
            (void)snprintf(out, room, "model.layers.%.*s.%s%s", (int)(dot - name - 4), name + 4,
                           hf_names[i].theirs, end);
}

/* What a model of text does without: an image encoder beside it, frequencies that are computed. */
static bool hf_leaves_out(const hf_file *f, llm_text name) {
    static const char computed[] = ".self_attn.rotary_emb.inv_freq";
    const size_t tail = sizeof computed - 1;
    if (name.size > tail && !memcmp(name.data + name.size - tail, computed, tail)) return true;
    if (f->tied && (hf_equals(name, "lm_head.weight") ||
                    (f->family->gemma && hf_equals(name, "language_model.lm_head.weight"))))
        return true;
    if (!f->text) return false;
    (void)hf_begins(&name, "model.");
    return hf_begins(&name, "vision_tower.") || hf_begins(&name, "multi_modal_projector.");
}

/* ---- scales of 8-bit weights --------------------------------------------- */

static bool hf_is_eight(const safetensors_tensor *t) {
    return t->type->size == 1 && t->type->read;
}

/* NAME.weight with another end; all_count when there is no such tensor. */
static size_t hf_companion(const hf_file *f, llm_text name, const char *end) {
    char whole[256];
    llm_text wanted;
    if (name.size < 7 || name.size > 200 || memcmp(name.data + name.size - 7, ".weight", 7) != 0)
        return f->all_count;
    (void)snprintf(whole, sizeof whole, "%.*s%s", (int)name.size - 7, name.data, end);
    wanted = text_of(whole);
    return wanted.size == name.size - 7 + strlen(end) ? hf_lookup(f, wanted) : f->all_count;
}

/* Rows and columns that share a scale. */
static llm_result hf_blocks(hf_file *f, const safetensors_tensor *t, hf_tensor *h,
                            llm_error *error) {
    const json *j = &f->config;
    const uint32_t settings = hf_find(j, 0, "quantization_config");
    const uint32_t size = hf_find(j, settings, "weight_block_size");
    const safetensors_tensor *scale = h->scale;
    const uint64_t rows = scale->dims > 0 ? scale->shape[0] : 1;
    const uint64_t cols = scale->dims > 1 ? scale->shape[1] : 1;
    uint64_t block[2] = {0, 0};
    if (size != JSON_NONE &&
        (json_type(j, size) != JSON_ARRAY || json_count(j, size) != 2 ||
         !json_uint64(j, size + 1, &block[0]) || !json_uint64(j, size + 2, &block[1]) ||
         !block[0] || !block[1] || block[0] > 65536 || block[1] > 65536))
        return hf_refuse(j, "quantization_config.weight_block_size", size,
                         "two numbers of 1 .. 65536", error);
    h->scale_cols = cols;
    if (scale->dims <= 2 && rows == 1 && cols == 1)
        h->block_rows = t->shape[0], h->block_cols = t->shape[1];
    else if (scale->dims <= 2 && rows == t->shape[0] && cols == 1 && size == JSON_NONE)
        h->block_rows = 1, h->block_cols = t->shape[1];
    else if (scale->dims == 2 && block[0] && rows == (t->shape[0] + block[0] - 1) / block[0] &&
             cols == (t->shape[1] + block[1] - 1) / block[1])
        h->block_rows = block[0], h->block_cols = block[1];
    else
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: %llu x %llu scales in %u "
                         "dimensions, expected 1, one for each of %llu rows, or one for each block "
                         "of weight_block_size (%llu x %llu)", hf_shard_of(f, scale),
                         show(scale->name).text, (unsigned long long)rows,
                         (unsigned long long)cols, scale->dims, (unsigned long long)t->shape[0],
                         (unsigned long long)block[0], (unsigned long long)block[1]);
    return LLM_OK;
}

static llm_result hf_scale(hf_file *f, const safetensors_tensor *t, hf_tensor *h,
                           llm_error *error) {
    static const char *const inputs[] = {".input_scale", ".activation_scale"};
    size_t found = hf_companion(f, t->name, ".weight_scale_inv"), i;
    if (found == f->all_count) found = hf_companion(f, t->name, ".weight_scale");
    if (found == f->all_count) {
        if (hf_find(&f->config, 0, "quantization_config") == JSON_NONE) return LLM_OK;
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: %s, expected a tensor "
                         "weight_scale_inv or weight_scale beside it", hf_shard_of(f, t),
                         show(t->name).text, t->type->name);
    }
    h->scale = f->all[found];
    f->consumed[found] = true;
    for (i = 0; i < 2; i++) { /* of inputs, which are quantised otherwise here */
        const size_t input = hf_companion(f, t->name, inputs[i]);
        if (input < f->all_count) f->consumed[input] = true;
    }
    if (t->dims != 2 || !t->shape[0] || !t->shape[1] || !h->scale->type->read)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: tensor %.80s: %u dimensions with "
                         "scales of %s, expected a matrix with scales of F32, F16 or BF16",
                         hf_shard_of(f, t), show(t->name).text, t->dims, h->scale->type->name);
    return hf_blocks(f, t, h, error);
}

/* ---- ternary weights ------------------------------------------------------- */

/* A text of quantization_config that is one of two; the first where there is none. */
static llm_result hf_either(const hf_file *f, const char *name, const char *first, const char *second,
                            bool *is_second, llm_error *error) {
    const json *j = &f->config;
    const uint32_t node = hf_find(j, hf_find(j, 0, "quantization_config"), name);
    char whole[64], expected[64];
    *is_second = json_is(j, node, second);
    if (node == JSON_NONE || *is_second || json_is(j, node, first)) return LLM_OK;
    (void)snprintf(whole, sizeof whole, "quantization_config.%s", name);
    (void)snprintf(expected, sizeof expected, "%s or %s", first, second);
    return hf_refuse(j, whole, node, expected, error);
}

/* What transformers' BitLinear and AutoBitLinear make of the same settings. */
static llm_result hf_ternary_settings(hf_file *f, llm_error *error) {
    const json *j = &f->config;
    const uint32_t settings = hf_find(j, 0, "quantization_config");
    const uint32_t kept = hf_find(j, settings, "modules_to_not_convert");
    bool automatic, online, normed;
    uint32_t n;
    llm_result result = hf_either(f, "linear_class", "bitlinear", "autobitlinear", &automatic, error);
    if (result == LLM_OK)
        result = hf_either(f, "quantization_mode", "offline", "online", &online, error);
    if (result == LLM_OK) result = hf_flag(j, settings, "use_rms_norm", false, &normed, error);
    if (result != LLM_OK) return result;
    if (normed)
        return hf_refuse(j, "quantization_config.use_rms_norm", hf_find(j, settings, "use_rms_norm"),
                         "false", error);
    for (n = kept + 1; json_type(j, kept) == JSON_ARRAY && n < json_next(j, kept); n = json_next(j, n))
        if (!json_is(j, n, "lm_head"))
            return hf_refuse(j, "quantization_config.modules_to_not_convert", n, "lm_head alone", error);
    f->ternary = !automatic ? HF_DIVIDED : online ? HF_ROUNDED : HF_MULTIPLIED;
    return LLM_OK;
}

/* A matrix whose bytes hold four weights each. */
static bool hf_is_packed(const hf_file *f, const safetensors_tensor *t) {
    return (f->ternary == HF_DIVIDED || f->ternary == HF_MULTIPLIED) && t->dims == 2 &&
           strcmp(t->type->name, "U8") == 0;
}

static llm_result hf_add_packed(hf_file *f, const safetensors_tensor *from, source_tensor *t,
                                hf_tensor *h, llm_error *error) {
    const size_t found = hf_companion(f, from->name, ".weight_scale");
    const safetensors_tensor *scale = found < f->all_count ? f->all[found] : NULL;
    uint64_t odd;
    if (!scale || !scale->type->read || scale->size != scale->type->size)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: packed, expected a tensor "
                         "weight_scale of one number beside it", hf_shard_of(f, from),
                         show(from->name).text);
    if (!from->shape[0] || from->shape[0] > 1u << 20)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: %llu packed rows, expected 1 .. "
                         "1048576", hf_shard_of(f, from), show(from->name).text,
                         (unsigned long long)from->shape[0]);
    scale->type->read(scale->data, &h->size);
    if (f->ternary == HF_DIVIDED) h->size = 1.0f / h->size;
    if (!llm__finite(h->size))
        return llm__fail(error, LLM_ERROR_NUMERIC, "%s: tensor %.80s: the weights are %g times -1, 0 and "
                         "1, expected a finite number", hf_shard_of(f, scale), show(scale->name).text,
                         (double)h->size);
    odd = ternary_odd(from->data, from->size);
    if (odd < from->size)
        return llm__fail(error, LLM_ERROR_FORMAT, "%s: tensor %.80s: byte %llu is 0x%02x, expected codes of "
                         "0 .. 2", hf_shard_of(f, from), show(from->name).text, (unsigned long long)odd,
                         (unsigned)from->data[odd]);
    f->consumed[found] = true;
    h->quarter = from->shape[0];
    t->type = "ternary";
    t->bits = 1;
    t->shape[1] = 4 * from->shape[0];
    return LLM_OK;
}

/* Matrices of layers that are rounded when they are used. */
static void hf_add_rounded(const safetensors_tensor *from, source_tensor *t, hf_tensor *h) {
    h->size = ternary_size(from->type, from->data, from->shape[0] * from->shape[1]);
    h->rounded = true;
    t->type = "ternary";
    t->bits = 1;
}

static bool hf_is_scaled(const hf_file *f, const safetensors_tensor *t) {
    return hf_is_eight(t) || hf_is_packed(f, t);
}

/* Weights in 8-bit floats and ternary ones are read; other whole numbers are another matter. */
static llm_result hf_check_quantization(hf_file *f, llm_error *error) {
    static const char *const known[] = {"fp8", "fbgemm_fp8", "compressed-tensors"};
    const json *j = &f->config;
    const uint32_t settings = hf_find(j, 0, "quantization_config");
    const uint32_t method = hf_find(j, settings, "quant_method");
    size_t i;
    if (settings == JSON_NONE) return LLM_OK;
    if (json_is(j, method, "bitnet")) return hf_ternary_settings(f, error);
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (json_is(j, method, known[i])) return LLM_OK;
    return hf_refuse(j, "quantization_config.quant_method", method,
                     "fp8, fbgemm_fp8, compressed-tensors or bitnet", error);
}

/* ---- tensors of the source ----------------------------------------------- */

static void hf_row(const source_file *s, const source_tensor *t, uint64_t row, float *out) {
    const hf_file *f = (const hf_file *)s->self;
    const hf_tensor *h = &f->tensors[t->format];
    const uint8_t *p = t->data + row * t->shape[0] * h->type->size;
    uint64_t i;
    if (h->quarter) {
        ternary_unpack(t->data, h->quarter, t->shape[0], row, h->size, out);
        return;
    }
    for (i = 0; i < t->shape[0]; i++) h->type->read(p + i * h->type->size, &out[i]);
    for (i = 0; h->scale && i < t->shape[0]; i++) {
        const safetensors_type *type = h->scale->type;
        const uint64_t at = row / h->block_rows * h->scale_cols + i / h->block_cols;
        float scale;
        type->read(h->scale->data + at * type->size, &scale);
        out[i] *= scale;
    }
    if (h->add > 0.0f)
        for (i = 0; i < t->shape[0]; i++) out[i] += h->add;
    if (h->rounded) ternary_round(out, t->shape[0], h->size);
}

static llm_result hf_add(source_file *s, hf_file *f, const safetensors_tensor *from,
                         llm_error *error) {
    source_tensor *t = &s->tensors[s->tensor_count];
    hf_tensor *h = &f->tensors[s->tensor_count];
    char name[64], *copy;
    unsigned i;
    llm_result result = LLM_OK;
    if (!hf_translate(f, from->name, name))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: tensor %.80s: not known in a model of "
                         "the %s family with %u layers", hf_shard_of(f, from),
                         show(from->name).text, f->family->name, (unsigned)f->layers);
    if ((!from->type->read && !hf_is_packed(f, from)) || from->dims < 1 || from->dims > 4)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: tensor %.80s: %s in %u dimensions, "
                         "expected F32, F16, BF16, F8_E4M3 or F8_E5M2 in 1 .. 4",
                         hf_shard_of(f, from), show(from->name).text, from->type->name,
                         from->dims);
    copy = (char *)keys_take(&f->keys, strlen(name) + 1, 1);
    if (!copy) return keys_no_memory(error);
    memcpy(copy, name, strlen(name) + 1);
    t->name = text_of(copy);
    t->type = from->type->name;
    t->bits = from->type->size * 8;
    t->dims = from->dims;
    for (i = 0; i < 4; i++) t->shape[i] = i < from->dims ? from->shape[from->dims - 1 - i] : 1;
    t->data = from->data;
    t->format = (uint32_t)s->tensor_count++;
    h->type = from->type;
    if (hf_is_eight(from)) result = hf_scale(f, from, h, error);
    if (hf_is_packed(f, from)) result = hf_add_packed(f, from, t, h, error);
    if (f->ternary == HF_ROUNDED && from->dims == 2 && strncmp(name, "blk.", 4) == 0)
        hf_add_rounded(from, t, h);
    if (f->family->gemma && from->dims == 1 && t->name.size > 11 &&
        !memcmp(t->name.data + t->name.size - 11, "norm.weight", 11))
        h->add = 1.0f;
    return result;
}

static void hf_add_factors(source_file *s, hf_file *f) {
    source_tensor *t = &s->tensors[s->tensor_count];
    if (!f->factors) return;
    t->name = text_of("rope_freqs.weight");
    t->type = "F32";
    t->bits = 32;
    t->dims = 1;
    t->shape[0] = f->factor_count;
    t->shape[1] = t->shape[2] = t->shape[3] = 1;
    t->data = f->factors;
    t->format = (uint32_t)s->tensor_count;
    f->tensors[s->tensor_count++].type = &safetensors_types[0];
}

static int hf_source_order(const void *a, const void *b) {
    return text_compare(((const source_tensor *)a)->name, ((const source_tensor *)b)->name);
}

static llm_result hf_tensors(source_file *s, hf_file *f, llm_error *error) {
    llm_result result = LLM_OK;
    size_t i;
    s->tensors = (source_tensor *)calloc(f->all_count + 2, sizeof *s->tensors);
    f->tensors = (hf_tensor *)keys_take(&f->keys, f->all_count + 2, sizeof *f->tensors);
    if (!s->tensors || !f->tensors) return keys_no_memory(error);
    for (i = 0; i < f->all_count; i++) {
        if (!hf_leaves_out(f, f->all[i]->name)) continue;
        f->consumed[i] = true;
        f->left_out++;
    }
    for (i = 0; i < f->all_count && result == LLM_OK; i++) /* weights first, which have scales */
        if (!f->consumed[i] && hf_is_scaled(f, f->all[i])) result = hf_add(s, f, f->all[i], error);
    for (i = 0; i < f->all_count && result == LLM_OK; i++)
        if (!f->consumed[i] && !hf_is_scaled(f, f->all[i])) result = hf_add(s, f, f->all[i], error);
    if (result != LLM_OK) return result;
    hf_add_factors(s, f);
    qsort(s->tensors, s->tensor_count, sizeof *s->tensors, hf_source_order);
    for (i = 1; i < s->tensor_count; i++)
        if (text_compare(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: there are two of it",
                             show(s->tensors[i].name).text);
    return LLM_OK;
}

/* What config.json says of tensors: their presence must agree. */
static llm_result hf_agrees(const source_file *s, hf_file *f, llm_error *error) {
    static const struct {
        const char *setting, *tensor;
    } biases[] = {{"attention_bias", "blk.0.attn_q.bias"}, {"mlp_bias", "blk.0.ffn_gate.bias"}};
    const json *j = &f->config;
    const source_tensor *embedding = source_find(s, "token_embd.weight");
    double vocab = 0;
    llm_result result = LLM_OK;
    size_t i;
    for (i = 0; i < 2 && result == LLM_OK; i++) {
        const bool there = source_find(s, biases[i].tensor) != NULL;
        bool wanted;
        result = hf_flag(j, f->text, biases[i].setting, there, &wanted, error);
        if (result == LLM_OK && wanted != there)
            result = llm__fail(error, LLM_ERROR_FORMAT, "config.json: %s: %s, but there is %s "
                               "tensor of it", biases[i].setting, wanted ? "true" : "false",
                               there ? "a" : "no");
    }
    if (result == LLM_OK)
        result = hf_whole(j, f->text, "vocab_size", 0, 0, 4194304, &vocab, error);
    if (result != LLM_OK) return result;
    if (embedding && vocab > 0.0 && (double)embedding->shape[1] != vocab)
        return llm__fail(error, LLM_ERROR_FORMAT, "config.json: vocab_size: %.0f, but "
                         "model.embed_tokens.weight has %llu rows", vocab,
                         (unsigned long long)embedding->shape[1]);
    if (!f->tied && embedding && !source_find(s, "output.weight"))
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor lm_head.weight: missing, and config.json "
                         "does not say tie_word_embeddings");
    return LLM_OK;
}

/* ---- texts -------------------------------------------------------------- */

/* chat_template.jinja, or tokenizer_config.json's chat_template: a text, or a list of named ones. */
static llm_result hf_template(hf_file *f, llm_error *error) {
    const json *j = &f->tokenizer_config;
    uint32_t node, n;
    llm_text text;
    hf_part part;
    llm_result result = hf_load(f, "chat_template.jinja", false, &part, error);
    if (result != LLM_OK) return result;
    text.data = (const char *)part.data;
    text.size = part.size;
    node = hf_find(j, 0, "chat_template");
    if (!part.data && json_type(j, node) == JSON_ARRAY) {
        for (n = node + 1; n < json_next(j, node); n = json_next(j, n))
            if (json_is(j, json_find(j, n, "name"), "default"))
                text = json_text(j, json_find(j, n, "template"));
    } else if (!part.data && node != JSON_NONE) {
        if (json_type(j, node) != JSON_STRING)
            return hf_refuse(j, "chat_template", node, "a text or a list", error);
        text = json_text(j, node);
    }
    if (text.size) keys_text(&f->keys, "tokenizer.chat_template", text);
    return LLM_OK;
}

/* eos_token_id: a number or a list of them. */
static llm_result hf_ends(hf_file *f, llm_error *error) {
    const json *j = &f->generation;
    uint32_t node = hf_find(j, 0, "eos_token_id"), n, last;
    double *ids;
    size_t count = 0;
    if (node == JSON_NONE) j = &f->config, node = hf_find(j, 0, "eos_token_id");
    if (node == JSON_NONE && f->text) node = hf_find(j, f->text, "eos_token_id");
    if (node == JSON_NONE) return LLM_OK;
    ids = (double *)keys_take(&f->keys, (size_t)json_count(j, node) + 1, sizeof *ids);
    if (!ids) return keys_no_memory(error);
    n = json_type(j, node) == JSON_ARRAY ? node + 1 : node;
    last = json_next(j, node);
    for (; n < last; n = json_next(j, n)) {
        uint64_t id;
        if (!json_uint64(j, n, &id) || id >= 4194304)
            return hf_refuse(j, "eos_token_id", n, "token ids of 0 .. 4194303", error);
        ids[count++] = (double)id;
    }
    keys_array(&f->keys, "eos_token_id", SOURCE_NUMBER, ids, count);
    return LLM_OK;
}

/* A file as the value of a key of its name. */
static llm_result hf_text(hf_file *f, const char *name, llm_error *error) {
    hf_part part;
    llm_text text;
    llm_result result = hf_load(f, name, false, &part, error);
    text.data = (const char *)part.data;
    text.size = part.size;
    if (part.data) keys_text(&f->keys, name, text);
    return result;
}

static llm_result hf_texts(source_file *s, hf_file *f, llm_error *error) {
    llm_result result = hf_load_json(f, "tokenizer_config.json", false, &f->tokenizer_config,
                                     error);
    if (result == LLM_OK)
        result = hf_load_json(f, "generation_config.json", false, &f->generation, error);
    if (result == LLM_OK) result = hf_template(f, error);
    if (result == LLM_OK) result = hf_ends(f, error);
    if (result == LLM_OK) result = hf_text(f, "tokenizer.json", error);
    if (result == LLM_OK) result = hf_text(f, "tokenizer_config.json", error);
    if (result == LLM_OK && keys_value(s, "tokenizer.json").kind == SOURCE_NONE)
        (void)snprintf(s->note, sizeof s->note, "no tokenizer: there is no tokenizer.json");
    return result;
}

/* ---- the whole --------------------------------------------------------- */

static void hf_close(source_file *s) {
    hf_file *f = (hf_file *)s->self;
    size_t i;
    if (f) {
        for (i = 0; i < f->shard_count; i++) safetensors_close(&f->shards[i]);
        json_free(&f->config);
        json_free(&f->index);
        json_free(&f->tokenizer_config);
        json_free(&f->generation);
        for (i = 0; i < f->map_count; i++) map_close(&f->maps[i]);
        free(f->maps);
        free(f->shards);
        keys_free(&f->keys);
        free(f);
    }
    free(s->tensors);
    memset(s, 0, sizeof *s);
}

static llm_result hf_describe(source_file *s, hf_file *f, llm_error *error) {
    llm_result result = hf_load_json(f, "config.json", true, &f->config, error);
    if (result == LLM_OK) result = hf_family_of(f, error);
    if (result != LLM_OK) return result;
    (void)snprintf(s->architecture, sizeof s->architecture, "%s", f->family->name);
    keys_text(&f->keys, "general.architecture", text_of(f->family->name));
    result = hf_check_quantization(f, error);
    if (result == LLM_OK) result = hf_assumed(f, error);
    if (result == LLM_OK) result = hf_sizes(f, error);
    if (result == LLM_OK) result = hf_scales(f, error);
    if (result == LLM_OK) result = hf_windows(f, error);
    if (result == LLM_OK) result = hf_rope(f, error);
    return result;
}

static void hf_note_left_out(source_file *s, const hf_file *f) {
    const size_t used = strlen(s->note);
    (void)snprintf(s->note + used, sizeof s->note - used, "%sonly the model of text is converted: "
                   "%u tensors are left out", used ? "; " : "", (unsigned)f->left_out);
}

static llm_result hf_open(source_file *s, hf_file *f, llm_error *error) {
    llm_result result;
    memset(s, 0, sizeof *s);
    s->self = f;
    s->format = "Hugging Face folder";
    s->value = keys_value;
    s->next = keys_next;
    s->entry = keys_entry;
    s->row = hf_row;
    s->close = hf_close;
    s->spell = hf_spell;
    result = hf_describe(s, f, error);
    if (result == LLM_OK) result = hf_open_tensors(f, error);
    if (result == LLM_OK) result = hf_tensors(s, f, error);
    if (result == LLM_OK) result = hf_agrees(s, f, error);
    if (result == LLM_OK) result = hf_texts(s, f, error);
    if (result == LLM_OK && f->keys.failed)
        result = keys_no_memory(error);
    if (result == LLM_OK && f->text && f->left_out)
        hf_note_left_out(s, f);
    if (result != LLM_OK) hf_close(s);
    return result;
}

/* Files in memory, which outlive the source. After an error nothing is left to close. */
static LLM__UNUSED llm_result huggingface_open_memory(source_file *s, const hf_part *parts,
                                                      size_t count, llm_error *error) {
    hf_file *f = (hf_file *)calloc(1, sizeof *f);
    if (!f) return keys_no_memory(error);
    f->given = parts;
    f->given_count = count;
    return hf_open(s, f, error);
}

/* The folder `path`, which is a text that outlives the source. */
static LLM__UNUSED llm_result huggingface_open(source_file *s, const char *path, llm_error *error) {
    hf_file *f = (hf_file *)calloc(1, sizeof *f);
    if (!f) return keys_no_memory(error);
    f->path = path;
    return hf_open(s, f, error);
}

#endif
