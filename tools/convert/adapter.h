/* ======================================================================== */
/* Adapters: to a file of their own, or into a model                         */
/* ========================================================================
   A PEFT folder, or a GGUF file of general.type "adapter". Its matrices A [rank][in] and B
   [out][rank] are brought into the order of the model's rows (Q and K of an interleaved source have
   another one). Then they become an adapter's file for a model that is there, following what that
   one's rows and inputs went through, or weight * scale * B A is added to the rows of a checkpoint
   while that is converted.

       adapter_is_folder(path, expected, &is, error), adapter_is(source)   is it one?
       adapter_open(a, path, shape, error), adapter_take(a, source, shape, error), adapter_close(a)
       adapter_write(a, model, path, type, meta, error)
       merge_add(m, path, weight, shape, error), merge_row, merge_close */
#ifndef CONVERT_ADAPTER_H
#define CONVERT_ADAPTER_H

#include "gguf.h"
#include "peft.h"
#include "writer.h"

/* The model that an adapter is for. */
typedef struct adapter_shape {
    const llm__file_desc *desc;
    uint32_t turned; /* dimensions of a head that RoPE turns */
} adapter_shape;

typedef struct adapter_pair {
    llm__file_pair file;        /* its place is filled in by the writer */
    const source_tensor *a, *b;
} adapter_pair;

typedef struct adapter {
    source_file from;
    bool peft;
    adapter_shape shape;
    adapter_pair *pairs; /* by layer, then as adapter_parts */
    size_t count;
} adapter;

/* ---- what it is --------------------------------------------------------- */

static bool adapter_says(const source_file *s, const char *key, const char *value) {
    const source_value found = s->value(s, key);
    return found.kind == SOURCE_TEXT && text_compare(found.text, text_of(value)) == 0;
}

/* A folder with an adapter's settings; if it has a model's too, it is one where it is `expected`. */
static LLM__UNUSED llm_result adapter_is_folder(const char *path, bool expected, bool *is,
                                                llm_error *error) {
    char *ours = platform_join(path, strlen(path), "adapter_config.json");
    char *model = platform_join(path, strlen(path), "config.json");
    const bool memory = ours && model;
    *is = memory && platform_exists(ours) && (expected || !platform_exists(model));
    free(ours);
    free(model);
    return memory ? LLM_OK : llm__fail(error, LLM_ERROR_MEMORY, "no memory for a path");
}

/* A source that says so. */
static LLM__UNUSED bool adapter_is(const source_file *s) {
    return s->spell == peft_spell || adapter_says(s, "general.type", "adapter");
}

static llm_result adapter_check_gguf(const source_file *s, const adapter_shape *shape,
                                     llm_error *error) {
    char name[17] = {0};
    memcpy(name, shape->desc->family, sizeof shape->desc->family);
    if (!adapter_says(s, "adapter.type", "lora"))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "key adapter.type: %s, expected \"lora\"",
                         show_value(s->value(s, "adapter.type")).text);
    if (s->value(s, "adapter.lora.alpha").kind != SOURCE_NUMBER)
        return llm__fail(error, LLM_ERROR_FORMAT, "key adapter.lora.alpha: %s, expected a number",
                         show_value(s->value(s, "adapter.lora.alpha")).text);
    if (s->value(s, "adapter.alora.invocation_tokens").kind != SOURCE_NONE)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "key adapter.alora.invocation_tokens: %s, "
                         "expected none: it is not supported",
                         show_value(s->value(s, "adapter.alora.invocation_tokens")).text);
    if (strcmp(s->architecture, name) == 0) return LLM_OK;
    return llm__fail(error, LLM_ERROR_ARGUMENT, "key general.architecture: \"%s\", but the model is "
                     "of the %s family", s->architecture, show(text_of(name)).text);
}

/* ---- pairs -------------------------------------------------------------- */

/* Which matrix of which layer a name means, and whether A or B; false: none. A layer has one
   spelling, or a matrix would have two. */
static bool adapter_name(llm_text name, const adapter_part **part, uint32_t *layer, bool *is_b) {
    char whole[64];
    unsigned i, c, digits = 0;
    if (!hf_begins(&name, "blk.")) return false;
    for (*layer = 0; digits < name.size && name.data[digits] >= '0' && name.data[digits] <= '9' &&
                     digits < 5; digits++)
        *layer = *layer * 10 + (uint32_t)(name.data[digits] - '0');
    if (!digits || (digits > 1 && *name.data == '0')) return false;
    name.data += digits;
    name.size -= digits;
    for (i = 0; i < ADAPTER_PARTS; i++)
        for (c = 0; c < 2; c++) {
            (void)snprintf(whole, sizeof whole, ".%s.weight.lora_%c", adapter_parts[i].ours,
                           c ? 'b' : 'a');
            if (!hf_equals(name, whole)) continue;
            *part = &adapter_parts[i];
            *is_b = c != 0;
            return true;
        }
    return false;
}

static llm_result adapter_check_shape(const adapter *a, const source_tensor *t, uint64_t rows,
                                      uint64_t cols, llm_error *error) {
    if (t->shape[0] == cols && t->shape[1] == rows && t->shape[2] == 1 && t->shape[3] == 1)
        return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT,
                     "tensor %s: shape %llu x %llu x %llu x %llu, expected %llu x %llu",
                     family_spell(&a->from, show(t->name).text).text,
                     (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
                     (unsigned long long)t->shape[2], (unsigned long long)t->shape[3],
                     (unsigned long long)cols, (unsigned long long)rows);
}

/* The pair of an A. */
static llm_result adapter_pair_of(adapter *a, source_tensor *t, const adapter_part *part,
                                  uint32_t layer, llm_error *error) {
    adapter_pair *pair = &a->pairs[a->count];
    llm__file_pair *file = &pair->file;
    const uint64_t rank = t->shape[1];
    char name[64];
    double scale = 1.0, alpha;
    llm_result result;
    source_tensor *b;
    (void)snprintf(name, sizeof name, "blk.%u.%s.weight.lora_b", layer, part->ours);
    b = source_find(&a->from, name);
    if (!b)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: missing",
                         family_spell(&a->from, name).text);
    file->role = part->role, file->half = part->half, file->layer = layer;
    family_shape(a->shape.desc, part->role, &file->rows, &file->cols);
    if (layer >= a->shape.desc->layers || rank < 1 || rank > 1024)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "tensor %s: rank %llu in layer %u, expected "
                         "1 .. 1024 in 0 .. %u", family_spell(&a->from, show(t->name).text).text,
                         (unsigned long long)rank, layer, a->shape.desc->layers - 1);
    result = adapter_check_shape(a, t, rank, file->cols, error);
    if (result == LLM_OK) result = adapter_check_shape(a, b, file->rows, rank, error);
    if (result == LLM_OK && a->peft) result = peft_scale(&a->from, t, rank, &scale, error);
    if (result != LLM_OK) return result;
    if (!a->peft) {
        alpha = a->from.value(&a->from, "adapter.lora.alpha").number;
        if (alpha > 0.0 || alpha < 0.0) scale = alpha / (double)rank; /* llama.cpp: 0 is 1 */
    }
    file->scale = (float)scale;
    if (!quantize_finite(file->scale))
        return llm__fail(error, LLM_ERROR_NUMERIC, "tensor %s: its scale is %g, expected a finite "
                         "number", family_spell(&a->from, show(t->name).text).text, scale);
    file->rank = (uint32_t)rank;
    pair->a = t, pair->b = b;
    t->used = b->used = true;
    a->count++;
    return LLM_OK;
}

static int adapter_order(const void *p, const void *q) {
    const llm__file_pair *s = &((const adapter_pair *)p)->file;
    const llm__file_pair *t = &((const adapter_pair *)q)->file;
    if (s->layer != t->layer) return s->layer < t->layer ? -1 : 1;
    if (s->role != t->role) return s->role < t->role ? -1 : 1;
    return s->half < t->half ? -1 : s->half > t->half;
}

static llm_result adapter_collect(adapter *a, llm_error *error) {
    llm_result result = LLM_OK;
    const adapter_part *part = NULL;
    uint32_t layer = 0;
    bool is_b = false;
    size_t i;
    a->pairs = (adapter_pair *)calloc(a->from.tensor_count + 1, sizeof *a->pairs);
    if (!a->pairs)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tensors",
                         a->from.tensor_count);
    for (i = 0; i < a->from.tensor_count && result == LLM_OK; i++) {
        source_tensor *t = &a->from.tensors[i];
        if (!adapter_name(t->name, &part, &layer, &is_b))
            return llm__fail(error, LLM_ERROR_UNSUPPORTED, "tensor %s: expected "
                             "blk.N.NAME.weight.lora_a or .lora_b of attn_q, attn_k, attn_v, "
                             "attn_output, ffn_gate, ffn_up or ffn_down", show(t->name).text);
        if (!is_b) result = adapter_pair_of(a, t, part, layer, error);
    }
    for (i = 0; i < a->from.tensor_count && result == LLM_OK; i++)
        if (!a->from.tensors[i].used) {
            char name[100];
            (void)snprintf(name, sizeof name, "%s", show(a->from.tensors[i].name).text);
            name[strlen(name) - 1] = 'a';
            result = llm__fail(error, LLM_ERROR_FORMAT, "tensor %s: missing",
                               family_spell(&a->from, name).text);
        }
    if (result == LLM_OK && !a->count)
        result = llm__fail(error, LLM_ERROR_FORMAT, "the adapter has no tensors, expected one pair or "
                           "more");
    if (result == LLM_OK) qsort(a->pairs, a->count, sizeof *a->pairs, adapter_order);
    return result;
}

static void adapter_close(adapter *a) {
    free(a->pairs);
    if (a->from.close) a->from.close(&a->from);
    memset(a, 0, sizeof *a);
}

/* From a source that is open, which it takes over. After an error nothing is left to close. */
static llm_result adapter_take(adapter *a, const source_file *from, const adapter_shape *shape,
                               llm_error *error) {
    llm_result result = LLM_OK;
    memset(a, 0, sizeof *a);
    a->from = *from;
    a->peft = from->spell == peft_spell;
    a->shape = *shape;
    if (!a->peft) result = adapter_check_gguf(&a->from, shape, error);
    if (result == LLM_OK) result = adapter_collect(a, error);
    if (result != LLM_OK) adapter_close(a);
    return result;
}

static LLM__UNUSED llm_result adapter_open(adapter *a, const char *path, const adapter_shape *shape,
                                           llm_error *error) {
    source_file from;
    llm_result result = platform_is_folder(path) ? peft_open(&from, path, error)
                                                 : gguf_open(&from, path, error);
    return result == LLM_OK ? adapter_take(a, &from, shape, error) : result;
}

/* ---- numbers ------------------------------------------------------------ */

static llm_result adapter_rows(const adapter *a, const source_tensor *t, uint32_t unit, float *to,
                               llm_error *error) {
    const uint64_t cols = t->shape[0], turned = a->shape.turned;
    uint64_t i, k;
    for (i = 0; i < t->shape[1]; i++, to += cols) {
        const uint64_t in_unit = unit ? i % unit : 0;
        uint64_t from = i;
        if (unit && in_unit < turned / 2) from = i + in_unit;
        else if (unit && in_unit < turned) from = i + in_unit + 1 - turned;
        a->from.row(&a->from, t, from, to);
        for (k = 0; k < cols; k++)
            if (!quantize_finite(to[k]))
                return llm__fail(error, LLM_ERROR_NUMERIC, "tensor %s: row %llu, column %llu is %f, "
                                 "expected a finite number",
                                 family_spell(&a->from, show(t->name).text).text,
                                 (unsigned long long)from, (unsigned long long)k, (double)to[k]);
    }
    return LLM_OK;
}

/* A [rank][cols] and B [rows][rank], with the model's order of rows; from malloc. */
static llm_result adapter_load(const adapter *a, const adapter_pair *pair, float **low,
                               float **high, llm_error *error) {
    const llm__file_pair *t = &pair->file;
    const bool turned = a->from.rope_interleaved && (t->role == LLM__Q || t->role == LLM__K);
    llm_result result = LLM_OK;
    *low = (float *)malloc((size_t)t->rank * t->cols * sizeof **low);
    *high = (float *)malloc((size_t)t->rank * t->rows * sizeof **high);
    if (!*low || !*high)
        result = llm__fail(error, LLM_ERROR_MEMORY, "no memory for %u x (%u + %u) numbers", t->rank,
                           t->rows, t->cols);
    if (result == LLM_OK) result = adapter_rows(a, pair->a, 0, *low, error);
    if (result == LLM_OK)
        result = adapter_rows(a, pair->b, turned ? a->shape.desc->head_size : 0, *high, error);
    if (result == LLM_OK) return result;
    free(*low);
    free(*high);
    *low = *high = NULL;
    return result;
}

/* ---- what the model's rows and inputs went through ---------------------- */

/* Bytes of an entry of SMTH. */
static uint64_t adapter_smooth_size(const llm__file_smooth *head) {
    return sizeof *head + ((uint64_t)head->cols * 4 + 15) / 16 * 16;
}

/* Is every entry of the section an input of the model? */
static llm_result adapter_check_smoothing(const llm_model *m, llm_error *error) {
    const llm__file_section section = llm__section(m, LLM__SECTION_SMTH);
    const uint8_t *at = m->file + section.offset;
    uint64_t left = section.size, size;
    uint32_t rows, cols, i;
    llm__file_smooth head;
    llm_result result = llm__check_sum(m, LLM__SECTION_SMTH, error);
    if (result != LLM_OK) return result;
    for (; left; at += size, left -= size) {
        memset(&head, 0, sizeof head);
        if (left >= sizeof head) memcpy(&head, at, sizeof head);
        family_shape(m->desc, head.role, &rows, &cols);
        size = adapter_smooth_size(&head);
        if ((head.role != LLM__Q && head.role != LLM__ATTN_OUT && head.role != LLM__GATE_UP &&
             head.role != LLM__DOWN) || head.layer >= m->desc->layers || head.cols != cols ||
            size > left)
            return llm__fail(error, LLM_ERROR_FORMAT, "section SMTH: role %u, layer %u, %u columns "
                             "before %llu bytes, expected an input of the model", head.role,
                             head.layer, head.cols, (unsigned long long)left);
        for (i = 0; i < cols; i++) {
            const float scale = llm__float(llm__u32(at + sizeof head + 4 * (size_t)i));
            if (!(scale > 0.0f) || !quantize_finite(scale))
                return llm__fail(error, LLM_ERROR_FORMAT, "section SMTH: role %u, layer %u: scale %u "
                                 "is %g, expected a number above 0", head.role, head.layer, i,
                                 (double)scale);
        }
    }
    return LLM_OK;
}

/* What the input of a role is divided by, f32 [cols]; NULL: by nothing. */
static const uint8_t *adapter_smoothing(const llm_model *m, uint32_t role, uint32_t layer) {
    const llm__file_section section = llm__section(m, LLM__SECTION_SMTH);
    uint64_t at = 0;
    llm__file_smooth head;
    if (role == LLM__K || role == LLM__V) role = LLM__Q;
    for (; at < section.size; at += adapter_smooth_size(&head)) {
        const uint8_t *entry = m->file + section.offset + at;
        memcpy(&head, entry, sizeof head);
        if (head.role == role && head.layer == layer) return entry + sizeof head;
    }
    return NULL;
}

/* A's columns times what the input was divided by. B's rows of V and up divided by what their
   outputs are, and V's rotated. */
static void adapter_follow(const llm_model *m, llm__file_pair *t, float *low, float *high) {
    const llm__file_desc *d = m->desc;
    const uint32_t group = d->heads / d->kv_heads;
    const bool v = t->role == LLM__V, up = t->role == LLM__GATE_UP && t->half;
    const uint8_t *scales = adapter_smoothing(m, t->role, t->layer);
    uint32_t i, k;
    for (i = 0; scales && i < t->rank; i++)
        for (k = 0; k < t->cols; k++)
            low[(size_t)i * t->cols + k] *= llm__float(llm__u32(scales + 4 * (size_t)k));
    if (!v && !up) return;
    scales = adapter_smoothing(m, v ? LLM__ATTN_OUT : LLM__DOWN, t->layer);
    for (i = 0; scales && i < t->rows; i++) {
        const uint32_t head = i / d->value_size * group, at = i % d->value_size;
        const uint32_t channel = up ? i : head * d->value_size + at;
        const float scale = llm__float(llm__u32(scales + 4 * (size_t)channel));
        for (k = 0; k < t->rank; k++) high[(size_t)i * t->rank + k] /= scale;
    }
    if (v) t->row_rotation = llm__tensor_at(m, t->layer, LLM__V)->row_rotation;
    for (k = 0; t->row_rotation && k < t->rank; k++)
        quantize_rotate(high + k, t->rows, t->rank, t->row_rotation);
}

/* ---- the file ----------------------------------------------------------- */

/* A matrix [rows][cols] as panels of `padded` columns. */
static llm_result adapter_panels(writer *w, uint32_t type, const float *x, uint32_t rows,
                                 uint32_t cols, uint32_t padded) {
    const size_t size = llm__panel_size(type, padded);
    float *sixteen = (float *)malloc(16 * (size_t)padded * sizeof *sixteen);
    uint8_t *panel = (uint8_t *)malloc(size);
    llm_result result = LLM_OK;
    quantize_sums sums = {0, 0};
    uint32_t i, r;
    if (!sixteen || !panel)
        result = llm__fail(w->error, LLM_ERROR_MEMORY, "no memory for a panel of %u columns",
                           padded);
    for (i = 0; i < rows && result == LLM_OK; i += 16) {
        memset(sixteen, 0, 16 * (size_t)padded * sizeof *sixteen);
        for (r = 0; r < 16 && i + r < rows; r++)
            memcpy(sixteen + (size_t)r * padded, x + ((size_t)i + r) * cols, cols * sizeof *x);
        quantize_panel(NULL, type, sixteen, padded, NULL, panel, &sums);
        result = writer_tensor_bytes(w, panel, size);
    }
    free(sixteen);
    free(panel);
    return result;
}

static llm_result adapter_data(const adapter *a, const llm_model *model, writer *w,
                               llm__file_pair *directory) {
    llm_result result = LLM_OK;
    float *low, *high;
    size_t i;
    for (i = 0; i < a->count && result == LLM_OK; i++) {
        llm__file_pair *t = &directory[i];
        result = adapter_load(a, &a->pairs[i], &low, &high, w->error);
        if (result != LLM_OK) break;
        adapter_follow(model, t, low, high);
        checksum_start(&w->tensor);
        result = adapter_panels(w, t->type, low, t->rank, t->cols, llm__padded(t->cols));
        if (result == LLM_OK)
            result = adapter_panels(w, t->type, high, t->rows, t->rank, (t->rank + 15) / 16 * 16);
        t->checksum = checksum_end(&w->tensor);
        free(low);
        free(high);
    }
    return result;
}

/* Places of sections and pairs; the file's size. */
static void adapter_layout(writer *w, const size_t *sizes, llm__file_pair *directory,
                           size_t count) {
    static const uint32_t kinds[] = {LLM__SECTION_LORA, LLM__SECTION_PAIR, LLM__SECTION_META,
                                     LLM__SECTION_DATA};
    uint64_t at = sizeof(llm__file_header) + 4 * sizeof(llm__file_section), both;
    size_t i;
    w->section_count = 4;
    for (i = 0; i < 4; i++) {
        memset(&w->sections[i], 0, sizeof w->sections[i]);
        w->sections[i].kind = kinds[i];
        w->sections[i].offset = at = writer_round(at, LLM__PAGE);
        w->sections[i].size = sizes[i];
        at += sizes[i];
    }
    for (i = 0; i < count; i++) { /* multiples of 64 bytes */
        (void)llm__low_size(&directory[i], &both);
        directory[i].offset = at;
        directory[i].size = both;
        at += both;
    }
    w->sections[3].size = at - w->sections[3].offset;
    w->size = at;
}

/* The sections in order; then the directory again, with its checksums, and the tables. */
static llm_result adapter_sections(const adapter *a, const llm_model *model, writer *w,
                                   const llm__file_lora *head, llm__file_pair *directory,
                                   llm_text meta) {
    llm__file_section *s = w->sections;
    llm__file_header header;
    llm_result result = writer_fill(w, s[0].offset);
    if (result == LLM_OK) result = writer_put(w, head, sizeof *head);
    if (result == LLM_OK) result = writer_fill(w, s[1].offset + s[1].size);
    if (result == LLM_OK) result = writer_fill(w, s[2].offset);
    if (result == LLM_OK) result = writer_put(w, meta.data, meta.size);
    if (result == LLM_OK) result = writer_fill(w, s[3].offset);
    checksum_start(&w->data);
    if (result == LLM_OK) result = adapter_data(a, model, w, directory);
    if (result != LLM_OK) return result;
    s[0].checksum = llm__xxh64(head, sizeof *head);
    s[1].checksum = llm__xxh64(directory, (size_t)s[1].size);
    s[2].checksum = llm__xxh64(meta.size ? meta.data : "", meta.size);
    s[3].checksum = checksum_end(&w->data);
    memset(&header, 0, sizeof header);
    memcpy(header.magic, LLM__MAGIC, sizeof header.magic);
    header.version = LLM__VERSION;
    header.section_count = w->section_count;
    header.file_size = w->size;
    header.checksum = llm__xxh64(s, w->section_count * sizeof *s);
    result = new_file_seek(&w->file, s[1].offset, w->error);
    if (result == LLM_OK) result = new_file_write(&w->file, directory, (size_t)s[1].size, w->error);
    if (result == LLM_OK) result = new_file_seek(&w->file, 0, w->error);
    if (result == LLM_OK) result = new_file_write(&w->file, &header, sizeof header, w->error);
    if (result == LLM_OK)
        result = new_file_write(&w->file, s, w->section_count * sizeof *s, w->error);
    return result;
}

/* Writes `path` for a model that it was opened with the shape of; type f32 or bf16. */
static LLM__UNUSED llm_result adapter_write(const adapter *a, const llm_model *model,
                                            const char *path, uint32_t type, llm_text meta,
                                            uint64_t *size, llm_error *error) {
    const llm__file_section smoothing = llm__section(model, LLM__SECTION_SMTH);
    llm__file_pair *directory = (llm__file_pair *)calloc(a->count, sizeof *directory);
    llm__file_lora head;
    size_t sizes[4] = {sizeof head, a->count * sizeof *directory, 0, 0}, i;
    writer w;
    llm_result result;
    if (!directory)
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for a directory of %zu tensors",
                         a->count);
    memset(&w, 0, sizeof w);
    memset(&head, 0, sizeof head);
    sizes[2] = meta.size;
    w.error = error;
    memcpy(head.family, model->desc->family, sizeof head.family);
    head.layers = model->desc->layers, head.width = model->desc->width;
    head.smoothing = smoothing.size ? smoothing.checksum : 0;
    for (i = 0; i < a->count; i++) directory[i] = a->pairs[i].file, directory[i].type = type;
    adapter_layout(&w, sizes, directory, a->count);
    result = adapter_check_smoothing(model, error);
    if (result == LLM_OK) result = new_file_open(&w.file, path, error);
    if (result == LLM_OK) {
        result = adapter_sections(a, model, &w, &head, directory, meta);
        if (result == LLM_OK) result = new_file_commit(&w.file, error);
        else new_file_abandon(&w.file);
    }
    *size = w.size;
    free(directory);
    return result;
}

/* ---- into a model ------------------------------------------------------- */

typedef struct merge_pair {
    llm__file_pair file;
    float factor;      /* weight * scale */
    float *low, *high; /* A, B */
} merge_pair;

typedef struct merge_list {
    merge_pair *pairs;
    size_t count, room;
} merge_list;

static LLM__UNUSED void merge_close(merge_list *m) {
    size_t i;
    for (i = 0; i < m->count; i++) {
        free(m->pairs[i].low);
        free(m->pairs[i].high);
    }
    free(m->pairs);
    memset(m, 0, sizeof *m);
}

static llm_result merge_take(merge_list *m, const adapter *a, float weight, llm_error *error) {
    const size_t room = m->count + a->count;
    merge_pair *pairs = (merge_pair *)realloc(m->pairs, room * sizeof *pairs);
    llm_result result = LLM_OK;
    size_t i;
    if (!pairs) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tensors", room);
    m->pairs = pairs;
    for (i = 0; i < a->count && result == LLM_OK; i++) {
        merge_pair *to = &pairs[m->count];
        to->file = a->pairs[i].file;
        to->factor = weight * to->file.scale;
        result = adapter_load(a, &a->pairs[i], &to->low, &to->high, error);
        if (result == LLM_OK) m->count++;
    }
    return result;
}

static LLM__UNUSED llm_result merge_add(merge_list *m, const char *path, float weight,
                                        const adapter_shape *shape, llm_error *error) {
    adapter a;
    llm_result result = adapter_open(&a, path, shape, error);
    if (result != LLM_OK) return result;
    result = merge_take(m, &a, weight, error);
    adapter_close(&a);
    return result;
}

/* Is there anything to add to this tensor? */
static LLM__UNUSED bool merge_changes(const merge_list *m, const plan_tensor *t) {
    size_t i;
    for (i = 0; m && i < m->count; i++)
        if (m->pairs[i].file.role == t->file.role && m->pairs[i].file.layer == t->file.layer) return true;
    return false;
}

/* Adds to row `row` of a tensor of the result, still in the checkpoint's basis. */
static LLM__UNUSED void merge_row(const void *user, const plan_tensor *t, uint32_t row, float *x) {
    const merge_list *m = (const merge_list *)user;
    const bool pair = t->file.role == LLM__GATE_UP;
    const uint32_t half = pair ? row / 16 % 2 : 0, at = pair ? row / 32 * 16 + row % 16 : row;
    size_t i;
    uint32_t j, k;
    for (i = 0; i < m->count; i++) {
        const merge_pair *p = &m->pairs[i];
        if (p->file.role != t->file.role || p->file.layer != t->file.layer ||
            p->file.half != half || at >= p->file.rows)
            continue;
        for (j = 0; j < p->file.rank; j++) {
            const float b = p->factor * p->high[(size_t)at * p->file.rank + j];
            const float *low = p->low + (size_t)j * p->file.cols;
            for (k = 0; k < p->file.cols; k++) x[k] += b * low[k];
        }
    }
}

#endif
