/* Byte 0 says what comes: 0 a JSON text; 1 a safetensors file as it is; 2 and 3 a Hugging Face folder:
   config.json, tokenizer_config.json, generation_config.json and chat_template.jinja, each after its
   size in two bytes, two bytes with the size of the data, and the header of model.safetensors, which
   gets its size before it and the data behind it. */
#include "fuzz.h"

#include "../../tools/convert/huggingface.h"
#include "../../tools/convert/family.h"
#include "../../tools/convert/vocabulary.h"
#include "fuzz_source.h"

static void walk_json(const uint8_t *data, size_t size) {
    json j;
    llm_error error;
    llm_result r;
    uint32_t i;
    memset(&j, 0, sizeof j);
    memset(&error, 0, sizeof error);
    r = json_parse(&j, "config.json", (const char *)data, size, &error);
    fuzz_refusal(r, &error);
    for (i = 0; r == LLM_OK && i < j.count; i++) {
        double number;
        uint64_t whole;
        llm_text text = json_text(&j, i);
        FUZZ_CHECK(json_next(&j, i) > i && json_next(&j, i) <= j.count, "node %u", (unsigned)i);
        FUZZ_CHECK(json_count(&j, i) <= j.count, "node %u", (unsigned)i);
        if (text.size) (void)llm__xxh64(text.data, text.size); /* all of it is there */
        if (json_uint64(&j, i, &whole)) FUZZ_CHECK(json_double(&j, i, &number), "node %u", (unsigned)i);
        (void)json_find(&j, i, "model_type");
    }
    json_free(&j);
}

static void walk_tensors(const uint8_t *data, size_t size) {
    safetensors st;
    llm_error error;
    llm_result r;
    size_t i;
    float out;
    memset(&error, 0, sizeof error);
    r = safetensors_open_memory(&st, "model.safetensors", data, size, &error);
    fuzz_refusal(r, &error);
    if (r) return;
    for (i = 0; i < st.count; i++) {
        const safetensors_tensor *t = &st.tensors[i];
        if (!t->type->read || !t->size) continue;
        t->type->read(t->data, &out);
        t->type->read(t->data + t->size - t->type->size, &out);
    }
    safetensors_close(&st);
}

static void convert_folder(fuzz_input *in) {
    static const char *const names[] = {"config.json", "tokenizer_config.json", "generation_config.json",
                                        "chat_template.jinja", "model.safetensors"};
    hf_part parts[5];
    source_file source;
    llm_error error;
    llm_result r;
    uint8_t *file;
    size_t i, room;
    memset(&error, 0, sizeof error);
    for (i = 0; i < 4; i++) {
        llm_text text = fuzz_bytes(in, 65535);
        parts[i].name = names[i];
        parts[i].data = text.size ? (const uint8_t *)text.data : NULL;
        parts[i].size = text.size;
    }
    room = fuzz_below(in, 65536);
    parts[4].name = names[4];
    parts[4].size = 8 + in->size + room;
    parts[4].data = file = (uint8_t *)malloc(parts[4].size);
    FUZZ_CHECK(file, "no memory");
    for (i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)in->size >> (8 * i));
    if (in->size) memcpy(file + 8, in->data, in->size);
    for (i = 0; i < room; i++) file[8 + in->size + i] = (uint8_t)(i * 37);
    r = huggingface_open_memory(&source, parts, 5, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) {
        fuzz_source(&source);
        source.close(&source);
    }
    free(file);
}

static int fuzz_safetensors(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    switch (fuzz_take(&in, 1) & 3) {
    case 0: walk_json(in.data, in.size); break;
    case 1: walk_tensors(in.data, in.size); break;
    default: convert_folder(&in); break;
    }
    return 0;
}
