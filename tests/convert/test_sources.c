/* The readers of safetensors, Hugging Face folders and llama2.c's .bin on files in memory: what they refuse, word for
   word, cut and mutated files, allocations that fail. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Allocation number `fail_at` fails. */
static size_t asked, fail_at;
static bool refuse(void) { return ++asked == fail_at; }
static void *maybe_malloc(size_t size) { return refuse() ? NULL : malloc(size); }
static void *maybe_calloc(size_t count, size_t size) { return refuse() ? NULL : calloc(count, size); }
static void *maybe_realloc(void *memory, size_t size) { return refuse() ? NULL : realloc(memory, size); }
#define malloc maybe_malloc
#define calloc maybe_calloc
#define realloc maybe_realloc
#define LLM_NO_TEMPLATE
int llm_convert_main(int count, char **arguments);
#define main llm_convert_main
#include "../../tools/convert/convert.c"
#undef main
#undef malloc
#undef calloc
#undef realloc
#include "../check.h"

#define FOLDERS "tests/fixtures/folders/"

static uint64_t state = 7;
static uint32_t any(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

/* ---- a small folder in memory -------------------------------------------- */

typedef struct item {
    const char *name, *dtype, *shape;
    unsigned bytes;
} item;

static const item good_items[] = {
    {"model.embed_tokens.weight", "F32", "[4,4]", 64}, {"model.layers.0.self_attn.q_proj.weight", "F32", "[4,4]", 64},
    {"model.layers.0.self_attn.k_proj.weight", "F32", "[2,4]", 32}, {"model.layers.0.self_attn.v_proj.weight", "F32", "[2,4]", 32},
    {"model.layers.0.self_attn.o_proj.weight", "F32", "[4,4]", 64}, {"model.layers.0.mlp.gate_proj.weight", "F32", "[4,4]", 64},
    {"model.layers.0.mlp.up_proj.weight", "F32", "[4,4]", 64}, {"model.layers.0.mlp.down_proj.weight", "F32", "[4,4]", 64},
    {"model.layers.0.input_layernorm.weight", "F32", "[4]", 16}, {"model.layers.0.post_attention_layernorm.weight", "F32", "[4]", 16},
    {"model.norm.weight", "F32", "[4]", 16}};
#define GOOD_ITEMS (sizeof good_items / sizeof *good_items)
static const char good_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": 4, "
    "\"intermediate_size\": 4, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
    "\"max_position_embeddings\": 8, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true, "
    "\"vocab_size\": 4}";

static item items[GOOD_ITEMS + 4];
static size_t item_count;
static void items_reset(void) {
    memcpy(items, good_items, sizeof good_items);
    item_count = GOOD_ITEMS;
}

/* `text` with the first `from` as `to`; NULL: as it is. */
static buffer replaced(const char *text, const char *from, const char *to) {
    buffer b = {NULL, 0, 0, false};
    const char *at = from ? strstr(text, from) : NULL;
    CHECK(!from || at, "%s is not in %s", from, text);
    if (at != text) buffer_add(&b, text, at ? (size_t)(at - text) : strlen(text));
    if (at) buffer_add(&b, to, strlen(to)), buffer_add(&b, at + strlen(from), strlen(at + strlen(from)));
    buffer_add(&b, "", 1);
    b.size--;
    return b;
}

static buffer put_header(const char *header, size_t data) {
    buffer b = {NULL, 0, 0, false};
    const uint64_t size = strlen(header);
    int i;
    for (i = 0; i < 8; i++) {
        const char byte = (char)(size >> 8 * i & 255);
        buffer_add(&b, &byte, 1);
    }
    buffer_add(&b, header, (size_t)size);
    while (data--) buffer_add(&b, "", 1);
    return b;
}

/* `count` items as a file; its header with `from` as `to`. */
static buffer make_tensors(const item *list, size_t count, const char *from, const char *to) {
    buffer header = {NULL, 0, 0, false}, changed, file;
    size_t at = 0, i;
    buffer_add(&header, "{\"__metadata__\":{\"format\":\"pt\"}", 31);
    for (i = 0; i < count; i++) {
        char text[300];
        (void)snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%u,%u]}", list[i].name,
                       list[i].dtype, list[i].shape, (unsigned)at, (unsigned)at + list[i].bytes);
        buffer_add(&header, text, strlen(text));
        at += list[i].bytes;
    }
    buffer_add(&header, "}", 2);
    changed = replaced(header.data, from, to);
    file = put_header(changed.data, at);
    free(header.data), free(changed.data);
    return file;
}

static hf_part part(const char *name, const buffer *b) {
    hf_part p;
    p.name = name;
    p.data = (const uint8_t *)b->data;
    p.size = b->size;
    return p;
}

/* Opens, plans and reads every tensor; what it says when something refuses. */
static llm_result use(source_file *s, llm_error *error) {
    plan p;
    size_t i;
    llm_result result = plan_open(&p, s, error);
    for (i = 0; i < s->tensor_count; i++) {
        const source_tensor *t = &s->tensors[i];
        const uint64_t rows = t->shape[1] * t->shape[2] * t->shape[3];
        float *row = (float *)malloc((size_t)t->shape[0] * sizeof *row + 1);
        if (rows && t->shape[0]) s->row(s, t, 0, row), s->row(s, t, rows - 1, row);
        free(row);
    }
    if (result == LLM_OK) plan_close(&p);
    return result;
}

static llm_error said;
static llm_result open_parts(const hf_part *parts, size_t count) {
    source_file s;
    llm_result result;
    said.text[0] = 0;
    result = huggingface_open_memory(&s, parts, count, &said);
    if (result != LLM_OK) return result;
    result = use(&s, &said);
    s.close(&s);
    return result;
}

/* A folder of config.json and model.safetensors (made of `items`), both changed. */
static llm_result open_changed(const char *config_from, const char *config_to, const char *header_from,
                               const char *header_to) {
    buffer config = replaced(good_config, config_from, config_to);
    buffer tensors = make_tensors(items, item_count, header_from, header_to);
    hf_part parts[2];
    llm_result result;
    parts[0] = part("config.json", &config), parts[1] = part("model.safetensors", &tensors);
    result = open_parts(parts, 2);
    free(config.data), free(tensors.data);
    return result;
}

#define SAYS(result, message)                                                                          \
    CHECK((result) != LLM_OK && !strcmp(said.text, message), "it says \"%s\", not \"%s\"", said.text, message)
#define CONFIG(from, to, message) SAYS(open_changed(from, to, NULL, NULL), message)
#define HEADER(from, to, message) SAYS(open_changed(NULL, NULL, from, to), message)
#define ITEM(number, new_name, new_type, new_shape, new_bytes, message)                               \
    do {                                                                                              \
        items[number].name = (new_name), items[number].dtype = (new_type);                            \
        items[number].shape = (new_shape), items[number].bytes = (new_bytes);                         \
        SAYS(open_changed(NULL, NULL, NULL, NULL), message);                                          \
        items_reset();                                                                                \
    } while (0)

static void test_config(void) {
    items_reset();
    CHECK(open_changed(NULL, NULL, NULL, NULL) == LLM_OK, "the good folder: %s", said.text);
    CHECK(open_changed("\"vocab_size\": 4", "\"head_dim\": null", NULL, NULL) == LLM_OK, "null: %s", said.text);
    CONFIG(good_config, "[]", "config.json: expected an object");
    CONFIG("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"",
           "config.json: model_type: \"mamba\", expected llama, mistral, qwen2, qwen3, gemma3, gemma3_text or bitnet");
    CONFIG("[\"LlamaForCausalLM\"]", "[\"LlamaForTokenClassification\"]",
           "config.json: architectures: \"LlamaForTokenClassification\", expected [\"LlamaForCausalLM\"]");
    CONFIG("\"hidden_size\": 4", "\"hidden_size\": 65537",
           "config.json: hidden_size: 65537, expected a number from 1 to 65536");
    CONFIG("\"hidden_size\": 4, ", "", "config.json: hidden_size: nothing, expected a number from 1 to 65536");
    CONFIG("\"num_attention_heads\": 2", "\"num_attention_heads\": \"2\"",
           "config.json: num_attention_heads: \"2\", expected a number from 1 to 1024");
    CONFIG("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 1.5",
           "config.json: num_hidden_layers: 1.5, expected a whole number");
    CONFIG("\"silu\"", "\"relu\"", "config.json: hidden_act: \"relu\", expected silu");
    CONFIG("\"rms_norm_eps\"", "\"num_local_experts\": 8, \"rms_norm_eps\"",
           "config.json: num_local_experts: 8, expected none");
    CONFIG("\"vocab_size\": 4", "\"vocab_size\": 5",
           "config.json: vocab_size: 5, but model.embed_tokens.weight has 4 rows");
    CONFIG("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
           "tensor lm_head.weight: missing, and config.json does not say tie_word_embeddings");
    CONFIG("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1",
           "config.json: tie_word_embeddings: 1, expected true or false");
    CONFIG("\"rms_norm_eps\"", "\"attention_bias\": true, \"rms_norm_eps\"",
           "config.json: attention_bias: true, but there is no tensor of it");
    CONFIG("\"rms_norm_eps\"", "\"eos_token_id\": [1, -2], \"rms_norm_eps\"",
           "config.json: eos_token_id: -2, expected token ids of 0 .. 4194303");
    CONFIG("\"rms_norm_eps\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"rms_norm_eps\"",
           "config.json: quantization_config.quant_method: \"gptq\", expected fp8, fbgemm_fp8, compressed-tensors or bitnet");
    CONFIG("\"rms_norm_eps\"", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}, \"rms_norm_eps\"",
           "config.json: rope_type: \"yarn\", expected default, linear or llama3");
    CONFIG("\"rms_norm_eps\"", "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
           "\"high_freq_factor\": 4}, \"rms_norm_eps\"",
           "config.json: high_freq_factor: 4, expected more than low_freq_factor (4)");
    CONFIG("\"rms_norm_eps\"", "\"layer_types\": [], \"rms_norm_eps\"",
           "config.json: layer_types: 0 elements, expected one for each of 1 layers");
    CONFIG("\"rms_norm_eps\"", "\"layer_types\": [\"linear_attention\"], \"use_sliding_window\": true, "
           "\"sliding_window\": 4, \"rms_norm_eps\"",
           "config.json: layer_types[0]: \"linear_attention\", expected full_attention or sliding_attention");
    CHECK(open_changed("\"rms_norm_eps\"", "\"use_sliding_window\": true, \"sliding_window\": 4, \"max_window_layers\": 0, "
                       "\"rms_norm_eps\"", NULL, NULL) == LLM_OK, "windows: %s", said.text);
}

static void test_tensors(void) {
    items_reset();
    HEADER("\"F32\"", "\"F31\"", "model.safetensors: tensor model.embed_tokens.weight: expected a dtype of 8 .. 64 bits (F32, F16, BF16, "
           "F8_E4M3, F8_E5M2, ...), found \"F31\"");
    HEADER("[4,4]", "4", "model.safetensors: tensor model.embed_tokens.weight: expected a shape of 0 .. 8 numbers, found 4");
    HEADER("[4,4]", "[4,72057594037927936]", "model.safetensors: tensor model.embed_tokens.weight: expected a shape of numbers, of at most 2^56 "
           "bytes, found 72057594037927936");
    HEADER("[0,64]", "[0]", "model.safetensors: tensor model.embed_tokens.weight: expected two numbers as data_offsets, found an array");
    HEADER("[0,64]", "[64,0]", "model.safetensors: tensor model.embed_tokens.weight: data_offsets 64, 0, expected 0 .. 496 in order");
    HEADER("[0,64]", "[0,497]", "model.safetensors: tensor model.embed_tokens.weight: data_offsets 0, 497, expected 0 .. 496 in order");
    HEADER("[0,64]", "[0,60]", "model.safetensors: tensor model.embed_tokens.weight: data_offsets span 60 bytes, expected 64 for its shape of F32");
    HEADER("[0,64]", "[1,65]", "model.safetensors: tensor model.embed_tokens.weight: begins at byte 1 of the data, expected 0, where the one before "
           "it ends");
    HEADER("[0,64]", "[64,128]", "model.safetensors: tensor model.embed_tokens.weight: begins at byte 64 of the data, expected 0, where the one "
           "before it ends");
    HEADER("[64,128]", "[32,96]", "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: begins at byte 32 of the data, expected 64, where the "
           "one before it ends");
    HEADER("\"model.norm.weight\"", "\"model.embed_tokens.weight\"",
           "model.safetensors: byte 0: the key \"model.embed_tokens.weight\" is twice in this object");
    HEADER("{\"format\":\"pt\"}", "7", "model.safetensors: __metadata__: expected an object of texts");
    HEADER("\"pt\"", "7", "model.safetensors: __metadata__: format: expected a text");
    HEADER("{\"__meta", " {\"__meta", "model.safetensors: the header begins with byte 0x20, expected '{'");
    ITEM(10, "model.norm.weight", "F64", "[4]", 32, "model.safetensors: tensor model.norm.weight: F64 in 1 dimensions, expected F32, F16, BF16, "
         "F8_E4M3 or F8_E5M2 in 1 .. 4");
    ITEM(10, "model.layers.1.mlp.experts.0.w1.weight", "F32", "[4]", 16,
         "model.safetensors: tensor model.layers.1.mlp.experts.0.w1.weight: not known in a model of the llama family with 1 layers");
    ITEM(10, "norm.bias", "F32", "[4]", 16, "model.safetensors: tensor norm.bias: not known in a model of the llama family with 1 layers");
    ITEM(10, "layers.0.input_layernorm.weight", "F32", "[4]", 16, "tensor blk.0.attn_norm.weight: there are two of it");
    ITEM(3, "model.layers.0.self_attn.v_proj.weight", "F32", "[4,2]", 32,
         "tensor model.layers.0.self_attn.v_proj.weight: shape 2 x 4 x 1 x 1, expected 4 x 2");
    item_count--;
    SAYS(open_changed(NULL, NULL, NULL, NULL), "tensor model.norm.weight: missing");
    items_reset();
    {
        static const item end = {"model.norm.weight", "F32", "[4]", 16};
        static const uint8_t short_file[9] = {2, 0, 0, 0, 0, 0, 0, 0, '{'};
        safetensors st;
        buffer b = make_tensors(&end, 1, NULL, NULL);
        buffer_add(&b, "", 1);
        CHECK(safetensors_open_memory(&st, "x", (const uint8_t *)b.data, b.size, &said) == LLM_ERROR_FORMAT, "a byte more");
        CHECK(!strcmp(said.text, "x: the tensors end at byte 16 of the data, expected 17, the end of the file"), "%s",
              said.text);
        CHECK(safetensors_open_memory(&st, "x", short_file, 9, &said) == LLM_ERROR_FORMAT, "a header of 2");
        CHECK(!strcmp(said.text, "x: a header of 2 bytes, expected 2 .. 2"), "%s", said.text);
        free(b.data);
    }
}

/* A matrix in 8 bits and its scales. */
static void test_scales(void) {
    static const char *const at = "\"rms_norm_eps\"";
    static const char *const fp8 = "\"quantization_config\": {\"quant_method\": \"fp8\"}, \"rms_norm_eps\"";
    static const char *const blocks =
        "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [2, 3]}, \"rms_norm_eps\"";
#define SCALED(sizes, count, kind, config, message)                                                    \
    do {                                                                                               \
        items_reset();                                                                                 \
        items[1].dtype = "F8_E4M3", items[1].bytes = 16;                                               \
        items[item_count].name = "model.layers.0.self_attn.q_proj.weight_scale_inv", items[item_count].dtype = (kind); \
        items[item_count].shape = (sizes), items[item_count++].bytes = (count);                        \
        if (message)                                                                                   \
            CHECK(open_changed(at, config, NULL, NULL) && !strcmp(said.text, message), "it says \"%s\"", said.text); \
        else                                                                                           \
            CHECK(open_changed(at, config, NULL, NULL) == LLM_OK, "scales %s: %s", sizes, said.text);  \
    } while (0)
    const char *none = NULL;
    SCALED("[]", 4, "F32", fp8, none);
    SCALED("[1,1]", 2, "BF16", fp8, none);
    SCALED("[4,1]", 16, "F32", fp8, none);
    SCALED("[4]", 8, "F16", fp8, none);
    SCALED("[2,2]", 16, "F32", blocks, none);
    SCALED("[2,2]", 16, "F32", fp8, "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale_inv: 2 x 2 scales in 2 dimensions, expected 1, "
           "one for each of 4 rows, or one for each block of weight_block_size (0 x 0)");
    SCALED("[2,3]", 24, "F32", blocks, "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale_inv: 2 x 3 scales in 2 dimensions, expected "
           "1, one for each of 4 rows, or one for each block of weight_block_size (2 x 3)");
    SCALED("[1]", 4, "I32", fp8, "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: 2 dimensions with scales of I32, expected a matrix with "
           "scales of F32, F16 or BF16");
    SCALED("[1]", 4, "F32", "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [0, 3]}, "
           "\"rms_norm_eps\"", "config.json: quantization_config.weight_block_size: an array, expected two numbers of 1 .. "
           "65536");
    items_reset();
    items[1].dtype = "F8_E5M2", items[1].bytes = 16;
    CHECK(open_changed(NULL, NULL, NULL, NULL) == LLM_OK, "8 bits without scales: %s", said.text);
    SAYS(open_changed(at, fp8, NULL, NULL), "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: F8_E5M2, expected a tensor weight_scale_inv "
         "or weight_scale beside it");
    items_reset();
#undef SCALED
}

/* Matrices of BitNet: q_proj packed, with a scale (0, as all data here) of `dtype`; settings of
   quantization_config. */
static llm_result open_ternary(const char *settings, const char *scale, const char *dtype, const char *shape) {
    char config[300];
    llm_result result;
    (void)snprintf(config, sizeof config, "\"quantization_config\": {\"quant_method\": \"bitnet\"%s}, \"rms_norm_eps\"", settings);
    items_reset();
    items[1].dtype = "U8", items[1].shape = "[1,4]", items[1].bytes = 4;
    items[item_count].name = scale, items[item_count].dtype = dtype, items[item_count].shape = shape;
    items[item_count++].bytes = 4;
    result = open_changed("\"rms_norm_eps\"", config, NULL, NULL);
    items_reset();
    return result;
}

/* q_proj packed, with this byte in it. */
static llm_result open_code(unsigned char byte) {
    hf_part parts[2];
    buffer config = replaced(good_config, "\"rms_norm_eps\"", "\"quantization_config\": {\"quant_method\": \"bitnet\", "
                             "\"linear_class\": \"autobitlinear\"}, \"rms_norm_eps\""), tensors;
    llm_result result;
    size_t i, data = 0;
    items_reset();
    items[1].dtype = "U8", items[1].shape = "[1,4]", items[1].bytes = 4;
    items[item_count].name = "model.layers.0.self_attn.q_proj.weight_scale", items[item_count].dtype = "F32";
    items[item_count].shape = "[1]", items[item_count++].bytes = 4;
    tensors = make_tensors(items, item_count, NULL, NULL);
    for (i = 0; i < item_count; i++) data += items[i].bytes;
    tensors.data[tensors.size - data + items[0].bytes + 2] = (char)byte;
    parts[0] = part("config.json", &config), parts[1] = part("model.safetensors", &tensors);
    result = open_parts(parts, 2);
    free(config.data), free(tensors.data);
    items_reset();
    return result;
}

static void test_ternary(void) {
    static const char *const scale = "model.layers.0.self_attn.q_proj.weight_scale";
    static const char *const offline = ", \"linear_class\": \"autobitlinear\"";
    static const char *const online = ", \"linear_class\": \"autobitlinear\", \"quantization_mode\": \"online\"";
    CHECK(open_ternary(offline, scale, "F32", "[1]") == LLM_OK, "packed: %s", said.text);
    CHECK(open_ternary(offline, scale, "F32", "[]") == LLM_OK, "packed: %s", said.text);
    CHECK(open_ternary(", \"linear_class\": \"autobitlinear\", \"modules_to_not_convert\": [\"lm_head\"]", scale, "F32", "[]") == LLM_OK,
          "packed: %s", said.text);
    CHECK(open_code(0xa6) == LLM_OK, "codes of 0 .. 2: %s", said.text);
    SAYS(open_code(0xac), "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: byte 2 is 0xac, expected codes of "
         "0 .. 2");
    SAYS(open_ternary("", scale, "F32", "[1]"), "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: the weights are inf "
         "times -1, 0 and 1, expected a finite number");
    SAYS(open_ternary(offline, scale, "F16", "[2]"), "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: packed, expected a tensor "
         "weight_scale of one number beside it");
    SAYS(open_ternary(offline, "model.layers.0.self_attn.q_proj.scale", "F32", "[1]"), "model.safetensors: tensor "
         "model.layers.0.self_attn.q_proj.weight: packed, expected a tensor weight_scale of one number beside it");
    SAYS(open_ternary(online, scale, "F32", "[1]"), "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: U8 in 2 dimensions, expected "
         "F32, F16, BF16, F8_E4M3 or F8_E5M2 in 1 .. 4");
    SAYS(open_ternary(", \"linear_class\": \"linear\"", scale, "F32", "[1]"),
         "config.json: quantization_config.linear_class: \"linear\", expected bitlinear or autobitlinear");
    SAYS(open_ternary(", \"quantization_mode\": 1", scale, "F32", "[1]"),
         "config.json: quantization_config.quantization_mode: 1, expected offline or online");
    SAYS(open_ternary(", \"use_rms_norm\": true", scale, "F32", "[1]"),
         "config.json: quantization_config.use_rms_norm: true, expected false");
    SAYS(open_ternary(", \"modules_to_not_convert\": [\"lm_head\", \"k_proj\"]", scale, "F32", "[1]"),
         "config.json: quantization_config.modules_to_not_convert: \"k_proj\", expected lm_head alone");
    items_reset();
    items[1].dtype = "U8", items[1].shape = "[0,4]", items[1].bytes = 0;
    items[item_count].name = scale, items[item_count].dtype = "F32", items[item_count].shape = "[1]";
    items[item_count++].bytes = 4;
    SAYS(open_changed("\"rms_norm_eps\"", "\"quantization_config\": {\"quant_method\": \"bitnet\", \"linear_class\": \"autobitlinear\"}, "
                      "\"rms_norm_eps\"", NULL, NULL),
         "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: 0 packed rows, expected 1 .. 1048576");
    items_reset();
}

/* ---- shards --------------------------------------------------------------- */

/* `items` in two files; the second begins with item `second`. */
static llm_result open_index(const char *from, const char *to, size_t second) {
    hf_part parts[4];
    buffer config = replaced(good_config, NULL, NULL), map = {NULL, 0, 0, false}, index;
    buffer one = make_tensors(items, 5, NULL, NULL), two = make_tensors(items + second, item_count - second, NULL, NULL);
    size_t i;
    llm_result result;
    buffer_add(&map, "{\"weight_map\":{", 15);
    for (i = 0; i < item_count; i++) {
        char text[200];
        (void)snprintf(text, sizeof text, "%s\"%s\":\"%s.safetensors\"", i ? "," : "", items[i].name, i < 5 ? "one" : "two");
        buffer_add(&map, text, strlen(text));
    }
    buffer_add(&map, "}}", 3);
    index = replaced(map.data, from, to);
    parts[0] = part("config.json", &config), parts[1] = part("one.safetensors", &one);
    parts[2] = part("two.safetensors", &two), parts[3] = part("model.safetensors.index.json", &index);
    result = open_parts(parts, 4);
    free(config.data), free(map.data), free(index.data), free(one.data), free(two.data);
    return result;
}

static void test_shards(void) {
    buffer config = replaced(good_config, NULL, NULL);
    hf_part only;
    items_reset();
    CHECK(open_index(NULL, NULL, 5) == LLM_OK, "two shards: %s", said.text);
    SAYS(open_index("two.safetensors", "../two.safetensors", 5), "model.safetensors.index.json: model.layers.0.mlp.gate_proj.weight: \"../two.safetensors\", expected a .safetensors file in the folder");
    CHECK(open_index("two.safetensors", "a/two.safetensors", 5) == LLM_ERROR_UNSUPPORTED, "%s", said.text);
    CHECK(open_index("two.safetensors", "C:two.safetensors", 5) == LLM_ERROR_UNSUPPORTED, "%s", said.text);
    CHECK(open_index("two.safetensors", "\\u0000.safetensors", 5) == LLM_ERROR_UNSUPPORTED, "%s", said.text);
    SAYS(open_index("two.safetensors", "six.safetensors", 5), "the folder has no six.safetensors, expected it");
    SAYS(open_index("two.safetensors", "one.safetensors", 5),
         "model.safetensors.index.json: tensor model.layers.0.mlp.gate_proj.weight is not in one.safetensors");
    SAYS(open_index(NULL, NULL, 4), "two.safetensors: tensor model.layers.0.self_attn.o_proj.weight is in "
         "one.safetensors too");
    SAYS(open_index(",\"model.norm.weight\":\"two.safetensors\"", "", 5),
         "model.safetensors.index.json: weight_map names 10 tensors, its files hold 11");
    SAYS(open_index("\"weight_map\"", "\"map\"", 5),
         "model.safetensors.index.json: weight_map: nothing, expected an object of names");
    only = part("config.json", &config);
    SAYS(open_parts(&only, 1), "the folder has neither model.safetensors nor model.safetensors.index.json");
    SAYS(open_parts(&only, 0), "the folder has no config.json, expected it");
    free(config.data);
}

static void test_many_shards(void) {
    static char names[1025][32];
    static hf_part parts[1027];
    buffer empty = put_header("{}", 0), map = {NULL, 0, 0, false}, config = replaced(good_config, NULL, NULL);
    int i;
    buffer_add(&map, "{\"weight_map\":{", 15);
    for (i = 0; i < 1025; i++) {
        char text[64];
        (void)snprintf(names[i], sizeof names[i], "s%04d.safetensors", i);
        (void)snprintf(text, sizeof text, "%s\"t%d\":\"%s\"", i ? "," : "", i, names[i]);
        buffer_add(&map, text, strlen(text));
        parts[i + 2] = part(names[i], &empty);
    }
    buffer_add(&map, "}}", 2);
    parts[0] = part("config.json", &config), parts[1] = part("model.safetensors.index.json", &map);
    SAYS(open_parts(parts, 1027), "model.safetensors.index.json: more than 1024 files");
    free(empty.data), free(map.data), free(config.data);
}

/* ---- llama2.c -------------------------------------------------------------- */

static const int32_t good_fields[7] = {4, 4, 1, 2, 1, 4, 2};
enum { GOOD_FLOATS = 16 + 4 + 16 + 8 + 8 + 16 + 4 + 16 * 3 + 4 + 2 * 2 };

static buffer make_bin(int field, int32_t value, size_t floats) {
    buffer b = {NULL, 0, 0, false};
    int i;
    for (i = 0; i < 7; i++) {
        const int32_t x = i == field ? value : good_fields[i];
        buffer_add(&b, (const char *)&x, 4);
    }
    for (; floats; floats--) buffer_add(&b, "\0\0\0", 4);
    return b;
}

static void put_token(buffer *b, float score, int32_t size, const char *text) {
    buffer_add(b, (const char *)&score, 4);
    buffer_add(b, (const char *)&size, 4);
    buffer_add(b, text, strlen(text));
}

static buffer make_words(int32_t longest, float score, int32_t size, int count) {
    buffer b = {NULL, 0, 0, false};
    int i;
    buffer_add(&b, (const char *)&longest, 4);
    for (i = 0; i < count; i++) put_token(&b, i == 3 ? score : 0.0f, i == 3 ? size : 5, "abcde");
    return b;
}

static llm_result open_bin(const buffer *b, const buffer *words) {
    source_file s;
    llm_result result;
    said.text[0] = 0;
    result = llama2c_open_memory(&s, (const uint8_t *)b->data, b->size, words ? (const uint8_t *)words->data : NULL,
                                 words ? words->size : 0, &said);
    if (result != LLM_OK) return result;
    result = use(&s, &said);
    s.close(&s);
    return result;
}

#define BIN(field, value, message)                               \
    do {                                                         \
        buffer bad = make_bin(field, value, GOOD_FLOATS);        \
        SAYS(open_bin(&bad, NULL), message);                     \
        free(bad.data);                                          \
    } while (0)
#define WORDS(longest, score, size, count, message)              \
    do {                                                         \
        buffer words = make_words(longest, score, size, count);  \
        SAYS(open_bin(&good, &words), message);                  \
        free(words.data);                                        \
    } while (0)

static void test_llama2c(void) {
    buffer good = make_bin(-1, 0, GOOD_FLOATS), words = make_words(5, 0.0f, 5, 4), numbered = {NULL, 0, 0, false};
    CHECK(open_bin(&good, NULL) == LLM_OK, "the good file: %s", said.text);
    CHECK(open_bin(&good, &words) == LLM_OK, "its tokenizer: %s", said.text);
    BIN(0, 0, "field dim: 0, expected 1 .. 65536");
    BIN(3, -7, "field n_heads: -7, expected 1 .. 1024");
    BIN(0, 6, "field dim: 6, expected an even multiple of n_heads (2)");
    BIN(4, 3, "field n_kv_heads: 3, expected a divisor of n_heads (2)");
    BIN(1, 5, "540 bytes, expected 588 for dim 4, hidden_dim 5, n_layers 1, n_heads 2, n_kv_heads 1, vocab_size 4, "
        "seq_len 2");
    BIN(5, -4, "540 bytes, expected 604 for dim 4, hidden_dim 4, n_layers 1, n_heads 2, n_kv_heads 1, vocab_size -4, "
        "seq_len 2");
    BIN(5, INT32_MIN, "field vocab_size: 2147483648, expected 1 .. 4194304");
    good.size = 27;
    SAYS(open_bin(&good, NULL), "27 bytes, expected a header of 28");
    good.size = 28 + 4 * GOOD_FLOATS;
    WORDS(0, 0.0f, 5, 4, "tokenizer: field max_token_length: 0, expected 1 .. 65536");
    WORDS(5, 0.0f, 5, 2, "tokenizer: 30 bytes are too few for 4 tokens (at least 3)");
    WORDS(5, 0.0f, 5, 3, "tokenizer: the file ends after 3 tokens, the model has 4");
    WORDS(5, 0.0f, 6, 4, "tokenizer: token 3 has 6 bytes, expected 1 .. 5 in the file");
    WORDS(9, 0.0f, -1, 4, "tokenizer: token 3 has -1 bytes, expected 1 .. 5 in the file");
    WORDS(5, 1e31f, 5, 4, "tokenizer: token 3 has the score 1e+31, expected -1e30 .. 1e30");
    WORDS(5, 0.0f, 4, 4, "tokenizer: 1 bytes are left after the 4 tokens of the model");
    buffer_add(&numbered, "24ka\2\0\0", 8);
    buffer_add(&numbered, good.data, 248);
    SAYS(open_bin(&numbered, NULL), "llama2.c version 2 (int8), expected 0 or 1 (floats)");
    numbered.data[4] = 1, numbered.data[36] = 2;
    SAYS(open_bin(&numbered, NULL), "field shared_classifier: 2, expected 0 or 1");
    numbered.size = 255;
    SAYS(open_bin(&numbered, NULL), "255 bytes, expected a header of 256");
    free(good.data), free(words.data), free(numbered.data);
}

/* ---- cuts, mutants, memory --------------------------------------------------- */

/* In a block of just that size, so that a sanitizer sees its end. */
static buffer exact(const buffer *b, size_t size) {
    buffer copy = {NULL, 0, 0, false};
    copy.data = (char *)malloc(size ? size : 1);
    copy.size = size;
    memcpy(copy.data, b->data, size);
    return copy;
}

static void test_cut(void) {
    buffer good = make_bin(-1, 0, GOOD_FLOATS), words = make_words(5, 0.0f, 5, 4), tensors, config;
    hf_part parts[2];
    size_t size;
    items_reset();
    tensors = make_tensors(items, item_count, NULL, NULL), config = replaced(good_config, NULL, NULL);
    for (size = 0; size < good.size; size++) {
        buffer cut = exact(&good, size);
        CHECK(open_bin(&cut, NULL) != LLM_OK && said.text[0], "a .bin cut to %zu", size);
        free(cut.data);
    }
    for (size = 0; size < words.size; size++) {
        buffer cut = exact(&words, size);
        CHECK(open_bin(&good, &cut) != LLM_OK && said.text[0], "tokenizer.bin cut to %zu", size);
        free(cut.data);
    }
    parts[0] = part("config.json", &config);
    for (size = 0; size < tensors.size; size++) {
        buffer cut = exact(&tensors, size);
        parts[1] = part("model.safetensors", &cut);
        CHECK(open_parts(parts, 2) != LLM_OK && said.text[0], "safetensors cut to %zu", size);
        free(cut.data);
    }
    parts[1] = part("model.safetensors", &tensors);
    for (size = 0; size < config.size; size++) {
        buffer cut = exact(&config, size);
        parts[0] = part("config.json", &cut);
        CHECK(open_parts(parts, 2) != LLM_OK && said.text[0], "config.json cut to %zu", size);
        free(cut.data);
    }
    free(good.data), free(words.data), free(tensors.data), free(config.data);
}

/* One to three bytes of one file; text gets the bytes that text is made of. */
static void mutate(buffer *b) {
    static const char text[] = "0123456789,:[]{}\"-.e";
    int i;
    for (i = (int)any(3); i >= 0; i--)
        b->data[any((uint32_t)b->size)] = (char)(any(3) ? text[any(sizeof text - 1)] : (int)any(256));
}

static void test_mutated(void) {
    buffer from[4];
    hf_part parts[2];
    unsigned i, good[2] = {0, 0};
    items_reset();
    items[1].dtype = "F8_E4M3", items[1].bytes = 16;
    items[item_count].name = "model.layers.0.self_attn.q_proj.weight_scale", items[item_count].dtype = "F32";
    items[item_count].shape = "[4,1]", items[item_count++].bytes = 16;
    from[0] = replaced(good_config, "\"rms_norm_eps\"", "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}, "
                       "\"layer_types\": [\"sliding_attention\"], \"use_sliding_window\": true, \"sliding_window\": 4, "
                       "\"rms_norm_eps\"");
    from[1] = make_tensors(items, item_count, NULL, NULL);
    from[2] = make_bin(-1, 0, GOOD_FLOATS), from[3] = make_words(5, 0.0f, 5, 4);
    for (i = 0; i < 20000; i++) {
        const unsigned which = i % 4;
        buffer copy = exact(&from[which], from[which].size);
        mutate(&copy);
        parts[0] = part("config.json", which == 0 ? &copy : &from[0]);
        parts[1] = part("model.safetensors", which == 1 ? &copy : &from[1]);
        good[which / 2] += which < 2 ? open_parts(parts, 2) == LLM_OK
                                     : open_bin(which == 2 ? &copy : &from[2], which == 3 ? &copy : &from[3]) == LLM_OK;
        free(copy.data);
    }
    CHECK(good[0] > 0 && good[0] < 10000 && good[1] > 0 && good[1] < 10000, "%u and %u of 10000 were read", good[0],
          good[1]);
    for (i = 0; i < 4; i++) free(from[i].data);
    items_reset();
}

static void test_memory(void) {
    buffer bin = make_bin(-1, 0, GOOD_FLOATS), words = make_words(5, 0.0f, 5, 4);
    buffer config = replaced(good_config, NULL, NULL), tensors;
    hf_part parts[2];
    llm_result result = LLM_ERROR_MEMORY;
    bool words_of_keys = false, words_of_tensors = false;
    items_reset();
    tensors = make_tensors(items, item_count, NULL, NULL);
    parts[0] = part("config.json", &config), parts[1] = part("model.safetensors", &tensors);
    for (fail_at = 1; result == LLM_ERROR_MEMORY; fail_at++) {
        asked = 0;
        result = open_parts(parts, 2);
        CHECK(result == LLM_OK || strstr(said.text, "no memory"), "a folder: %s", said.text);
        words_of_keys = words_of_keys || !strcmp(said.text, "no memory for the input's names and settings");
        words_of_tensors = words_of_tensors || !strcmp(said.text, "model.safetensors: no memory for 12 tensors");
    }
    CHECK(result == LLM_OK && words_of_keys && words_of_tensors, "a folder: %d, %s", (int)result, said.text);
    for (fail_at = 1, result = LLM_ERROR_MEMORY; result == LLM_ERROR_MEMORY; fail_at++) {
        asked = 0;
        result = open_bin(&bin, &words);
        CHECK(result == LLM_OK || strstr(said.text, "no memory"), "a .bin: %s", said.text);
    }
    CHECK(result == LLM_OK, "a .bin: %s", said.text);
    fail_at = 0;
    free(bin.data), free(words.data), free(config.data), free(tensors.data);
}

/* ---- the vocabulary of a folder, and what the program takes ------------------ */

static void test_vocabulary(void) {
    source_file s;
    unsigned char *section = NULL;
    size_t size = 0;
    CHECK(huggingface_open(&s, FOLDERS "qwen3", &said) == LLM_OK, "%s", said.text);
    CHECK(vocabulary_section(&s, 286, &section, &size, &said) == LLM_OK && size, "%s", said.text);
    free(section);
    SAYS(vocabulary_section(&s, 5, &section, &size, &said), "tokenizer.json: 283 tokens, the model has 5");
    asked = 0, fail_at = 1;
    SAYS(vocabulary_section(&s, 286, &section, &size, &said), "no memory for 2 ids");
    fail_at = 0;
    s.close(&s);
    CHECK(huggingface_open(&s, FOLDERS "llama/nothing", &said) == LLM_ERROR_IO, "a folder that is not there");
}

static void test_input(void) {
    static const char zip[] = "PK\3\4 and so on";
    char path[] = "/tmp/llm-sources-XXXXXX";
    source_file s;
    options o;
    int file = mkstemp(path);
    memset(&o, 0, sizeof o);
#define INPUT(name, message) SAYS((o.input = (name), open_input(&o, &s, &said)), message)
    INPUT("somebody/some-model", "somebody/some-model: no such file or folder, and nothing is downloaded: put the model's config.json, "
          "tokenizer.json, tokenizer_config.json, generation_config.json and *.safetensors (with its .index.json) into a "
          "folder and name that");
    INPUT("/nothing/of/this.gguf", "/nothing/of/this.gguf: no such file or folder");
    INPUT("nothing.bin", "nothing.bin: no such file or folder");
    INPUT(FOLDERS "qwen3/model.safetensors", "a part of a model; expected the folder that it lies in");
    CHECK(file >= 0 && write(file, zip, sizeof zip) == (ssize_t)sizeof zip, "%s cannot be written", path);
    INPUT(path, "a zip archive, such as PyTorch keeps weights in; expected the model's .safetensors in a folder");
    o.tokenizer = "words.bin";
    INPUT(FOLDERS "qwen3", "--tokenizer is words.bin, expected none: only a llama2.c .bin takes one");
    (void)close(file), (void)unlink(path);
}

int main(void) {
    test_config();
    test_tensors();
    test_scales();
    test_ternary();
    test_shards();
    test_many_shards();
    test_llama2c();
    test_cut();
    test_mutated();
    test_memory();
    test_vocabulary();
    test_input();
    return check_report("test_sources");
}
