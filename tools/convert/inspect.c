/* llm-inspect: what is inside a .llm file, and whether it is whole. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "source.h"
#include "platform.h"

static const char usage[] =
    "usage: llm-inspect FILE.llm [--tensors] [--verify]\n"
    "\n"
    "Says what a .llm file holds: description, sections, tensors by kind with their sizes,\n"
    "tokenizer, chat template.\n"
    "\n"
    "  --tensors  list every tensor\n"
    "  --verify   compute every checksum, which reads the whole file\n"
    "  --help     this text\n"
    "\n"
    "Exit status: 0 the file is sound, 1 it is not or cannot be read, 2 the command line is\n"
    "wrong.\n";

static const char *const role_names[] = {
#define INSPECT_NAME(NAME, name, shape) name,
    LLM__ROLES(INSPECT_NAME)
#undef INSPECT_NAME
};

enum { INSPECT_V, INSPECT_M, INSPECT_R };
static const uint8_t role_shapes[] = {
#define INSPECT_SHAPE(NAME, name, shape) INSPECT_##shape,
    LLM__ROLES(INSPECT_SHAPE)
#undef INSPECT_SHAPE
};

typedef struct inspection {
    map_file map;
    llm__file_header header;
    const llm__file_section *sections; /* the map begins a page, sections are aligned in it */
    const llm__file_desc *desc;
    const llm__file_layer *layers;
    const llm__file_tensor *tensors;
    size_t count;
    llm_text chat_template, meta, tokenizer;
    llm__file_section data;
} inspection;

/* ---- checks ------------------------------------------------------------ */

static llm_result check_header(inspection *f, llm_error *error) {
    const llm__file_header *h = &f->header;
    size_t size = f->map.size;
    if (size < sizeof *h)
        return llm__fail(error, LLM_ERROR_FORMAT, "%zu bytes, a header has %zu", size, sizeof *h);
    memcpy(&f->header, f->map.data, sizeof *h);
    if (memcmp(h->magic, LLM__MAGIC, sizeof h->magic) != 0)
        return llm__fail(error, LLM_ERROR_FORMAT, "no .llm file");
    if (h->version != LLM__VERSION)
        return llm__fail(error, LLM_ERROR_VERSION, "version %u, expected %u", h->version,
                         LLM__VERSION);
    if (h->file_size != size)
        return llm__fail(error, LLM_ERROR_FORMAT, "%zu bytes, the header says %llu", size,
                         (unsigned long long)h->file_size);
    if (h->section_count > 64 || sizeof *h + h->section_count * sizeof *f->sections > size)
        return llm__fail(error, LLM_ERROR_FORMAT, "%u sections, expected at most 64 in the file",
                         h->section_count);
    f->sections = (const llm__file_section *)(const void *)(f->map.data + sizeof *h);
    if (llm__xxh64(f->sections, h->section_count * sizeof *f->sections) != h->checksum)
        return llm__fail(error, LLM_ERROR_CHECKSUM,
                         "the section table does not match its checksum");
    return LLM_OK;
}

static shown section_name(uint32_t kind) {
    llm_text text;
    text.data = (const char *)&kind;
    text.size = 4;
    return show(text);
}

/* DATA is left to its tensors, which say more precisely what is wrong. */
static bool check_sum_of(uint32_t kind, bool verify) {
    if (verify) return kind != LLM__SECTION_DATA;
    return kind == LLM__SECTION_DESC || kind == LLM__SECTION_LAYR || kind == LLM__SECTION_TDIR;
}

static llm_result check_section(inspection *f, const llm__file_section *s, bool verify,
                                llm_error *error) {
    const uint8_t *at = f->map.data + s->offset;
    if (s->offset % LLM__PAGE || s->offset > f->map.size || s->size > f->map.size - s->offset)
        return llm__fail(error, LLM_ERROR_FORMAT, "section %s: offset 0x%llx + %llu bytes passes "
                         "the end of the file or is not aligned", section_name(s->kind).text,
                         (unsigned long long)s->offset, (unsigned long long)s->size);
    if (check_sum_of(s->kind, verify) && llm__xxh64(at, (size_t)s->size) != s->checksum)
        return llm__fail(error, LLM_ERROR_CHECKSUM, "section %s: does not match its checksum",
                         section_name(s->kind).text);
    switch (s->kind) {
    case LLM__SECTION_DESC:
        if (s->size >= sizeof *f->desc) f->desc = (const llm__file_desc *)(const void *)at;
        break;
    case LLM__SECTION_LAYR: f->layers = (const llm__file_layer *)(const void *)at; break;
    case LLM__SECTION_TDIR:
        f->tensors = (const llm__file_tensor *)(const void *)at;
        f->count = (size_t)(s->size / sizeof *f->tensors);
        break;
    case LLM__SECTION_TMPL:
        f->chat_template.data = (const char *)at, f->chat_template.size = (size_t)s->size;
        break;
    case LLM__SECTION_META: f->meta.data = (const char *)at, f->meta.size = (size_t)s->size; break;
    case LLM__SECTION_TOKN:
        f->tokenizer.data = (const char *)at, f->tokenizer.size = (size_t)s->size;
        break;
    case LLM__SECTION_DATA: f->data = *s; break;
    default: break;
    }
    return LLM_OK;
}

static llm_result check_tensor(const inspection *f, size_t index, bool verify, llm_error *error) {
    const llm__file_tensor *t = &f->tensors[index];
    char name[64];
    uint64_t size;
    if (t->role >= LLM__ROLE_COUNT || t->type >= LLM_TYPE_COUNT || t->cols < 1 ||
        t->cols > 1u << 20 || t->rows < 1 || t->rows > 1u << 24)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %zu: role %u, type %u, shape %u x %u",
                         index, t->role, t->type, t->rows, t->cols);
    size = role_shapes[t->role] == INSPECT_R   ? (uint64_t)t->cols * 8
           : role_shapes[t->role] == INSPECT_V ? (uint64_t)t->cols * 4
                                               : (uint64_t)((t->rows + 15) / 16) *
                                                     llm__panel_size(t->type, llm__padded(t->cols));
    if (t->size != size)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %zu (%s): %llu bytes, its shape asks for "
                         "%llu", index, role_names[t->role], (unsigned long long)t->size,
                         (unsigned long long)size);
    if (t->offset % 64 || t->offset < f->data.offset || t->size > f->data.size ||
        t->offset - f->data.offset > f->data.size - t->size)
        return llm__fail(error, LLM_ERROR_FORMAT, "tensor %zu (%s): offset 0x%llx + %llu bytes "
                         "passes the end of the data or is not aligned", index,
                         role_names[t->role], (unsigned long long)t->offset,
                         (unsigned long long)t->size);
    if (verify && llm__xxh64(f->map.data + t->offset, (size_t)t->size) != t->checksum)
        return llm__fail(error, LLM_ERROR_CHECKSUM, "tensor %s: does not match its checksum",
                         llm__tensor_name(name, t->role, t->layer));
    return LLM_OK;
}

static llm_result check(inspection *f, bool verify, llm_error *error) {
    llm_result result = check_header(f, error);
    size_t i;
    for (i = 0; result == LLM_OK && i < f->header.section_count; i++)
        result = check_section(f, &f->sections[i], verify, error);
    if (result == LLM_OK && (!f->desc || !f->layers || !f->tensors || !f->data.size))
        result = llm__fail(error, LLM_ERROR_FORMAT, "a section is missing or short: DESC, LAYR, "
                           "TDIR and DATA are needed");
    for (i = 0; result == LLM_OK && i < f->header.section_count; i++)
        if (f->sections[i].kind == LLM__SECTION_LAYR &&
            f->sections[i].size != (uint64_t)f->desc->layers * sizeof *f->layers)
            result = llm__fail(error, LLM_ERROR_FORMAT, "section LAYR: %llu bytes for %u layers",
                               (unsigned long long)f->sections[i].size, f->desc->layers);
    for (i = 0; result == LLM_OK && i < f->count; i++) result = check_tensor(f, i, verify, error);
    if (result == LLM_OK && verify &&
        llm__xxh64(f->map.data + f->data.offset, (size_t)f->data.size) != f->data.checksum)
        result = llm__fail(error, LLM_ERROR_CHECKSUM, "section DATA: does not match its checksum");
    return result;
}

/* What the library would refuse is not sound either. */
static llm_result check_opens(const inspection *f, llm_error *error) {
    llm_model_desc desc;
    llm_model *model;
    llm_result result;
    memset(&desc, 0, sizeof desc);
    desc.data = f->map.data;
    desc.size = f->map.size;
    desc.error = error;
    result = llm_model_open(&model, &desc);
    llm_model_close(model);
    return result;
}

/* ---- print ------------------------------------------------------------- */

static void print_description(const inspection *f) {
    static const char *const activations[] = {"silu", "gelu_tanh", "gelu", "relu", "relu2"};
    const llm__file_desc *d = f->desc;
    uint32_t i, windows = 0, window = 0;
    llm_text family;
    family.data = d->family;
    family.size = 0;
    while (family.size < sizeof d->family && d->family[family.size]) family.size++;
    for (i = 0; i < d->layers; i++)
        if (f->layers[i].window) windows++, window = f->layers[i].window;
    printf("family           %s\n", show(family).text);
    printf("vocabulary       %u tokens\n", d->vocab);
    printf("layers           %u of width %u, feed-forward %u (%s)\n", d->layers, d->width, d->ffn,
           d->activation < 5 ? activations[d->activation] : "?");
    printf("attention        %u heads of %u, %u for keys and values", d->heads, d->head_size,
           d->kv_heads);
    if (windows) printf(", window %u in %u layers", window, windows);
    printf("\ncontext          %u\n", d->context);
    printf("norm             %s, epsilon %g\n", d->norm == LLM__NORM_RMS ? "rms" : "layer",
           (double)d->norm_epsilon);
    printf("scales           query %g, embedding %g, residual %g, logits %g\n",
           (double)d->query_scale, (double)d->embedding_scale, (double)d->residual_scale,
           (double)d->logit_scale);
    if (d->attention_softcap > 0.0f || d->logit_softcap > 0.0f)
        printf("soft caps        attention %g, logits %g\n", (double)d->attention_softcap,
               (double)d->logit_softcap);
}

static void print_meta(llm_text meta) {
    size_t start = 0, end;
    for (; start < meta.size; start = end + 1) {
        llm_text line;
        for (end = start; end < meta.size && meta.data[end] != '\n'; end++) continue;
        line.data = meta.data + start;
        line.size = end - start;
        printf("  %s\n", show(line).text);
    }
}

static void print_sections(const inspection *f) {
    uint32_t i;
    printf("\n%-8s %14s %14s\n", "section", "offset", "bytes");
    for (i = 0; i < f->header.section_count; i++)
        printf("%-8s %14llu %14llu\n", section_name(f->sections[i].kind).text,
               (unsigned long long)f->sections[i].offset,
               (unsigned long long)f->sections[i].size);
}

static const char *type_name(const llm__file_tensor *t) {
    return t->role == LLM__ROPE ? "u64" : llm__type_names[t->type];
}

static void print_tensors(const inspection *f) {
    size_t i;
    printf("\n%5s %-15s %-5s %17s %4s %4s %14s %12s\n", "layer", "tensor", "type", "shape", "rot",
           "rows", "offset", "bytes");
    for (i = 0; i < f->count; i++) {
        const llm__file_tensor *t = &f->tensors[i];
        char layer[16] = "-";
        if (t->layer != LLM__NONE) (void)snprintf(layer, sizeof layer, "%u", t->layer);
        printf("%5s %-15s %-5s %8u x %6u %4u %4u %14llu %12llu\n", layer, role_names[t->role],
               type_name(t), t->rows, t->cols, t->rotation, t->row_rotation,
               (unsigned long long)t->offset, (unsigned long long)t->size);
    }
}

/* One line for every role and type that occur together. */
static void print_kinds(const inspection *f) {
    double all_weights = 0.0, all_bytes = 0.0;
    uint32_t role, type;
    size_t i;
    printf("\n%-15s %-5s %6s %14s %14s %8s\n", "tensors", "type", "count", "weights", "bytes",
           "bits");
    for (role = 0; role < LLM__ROLE_COUNT; role++) {
        for (type = 0; type < LLM_TYPE_COUNT; type++) {
            double weights = 0.0, bytes = 0.0;
            const llm__file_tensor *one = NULL;
            unsigned count = 0;
            for (i = 0; i < f->count; i++) {
                const llm__file_tensor *t = &f->tensors[i];
                if (t->role != role || t->type != type) continue;
                one = t;
                count++;
                weights += (double)t->rows * (double)t->cols;
                bytes += (double)t->size;
            }
            if (!one) continue;
            printf("%-15s %-5s %6u %14.0f %14.0f %8.3f\n", role_names[role], type_name(one), count,
                   weights, bytes, bytes * 8.0 / weights);
            all_weights += weights;
            all_bytes += bytes;
        }
    }
    printf("%-15s %-5s %6zu %14.0f %14.0f %8.3f\n", "all", "", f->count, all_weights, all_bytes,
           all_weights > 0.0 ? all_bytes * 8.0 / all_weights : 0.0);
}

static llm_result print_tokenizer(const inspection *f, llm_error *error) {
    llm_tokenizer tokenizer;
    llm_tokenizer_info info;
    llm_result result;
    if (!f->tokenizer.size) {
        printf("\ntokenizer        none\n");
        return LLM_OK;
    }
    result = llm__tokenizer_init(&tokenizer, f->tokenizer.data, f->tokenizer.size, f->desc->vocab,
                                 error);
    if (result != LLM_OK) return result;
    llm_tokenizer_describe(&tokenizer, &info);
    printf("\ntokenizer        %u tokens, bos %d%s, eos %d%s, %u that end a generation\n",
           info.vocab_size, info.bos, info.add_bos ? " (added)" : "", info.eos,
           info.add_eos ? " (added)" : "", info.end_count);
    return LLM_OK;
}

static llm_result inspect(const char *path, bool tensors, bool verify, llm_error *error) {
    inspection f;
    llm_result result;
    memset(&f, 0, sizeof f);
    result = map_open(&f.map, path, error);
    if (result == LLM_OK) result = check(&f, verify, error);
    if (result == LLM_OK) result = check_opens(&f, error);
    if (result == LLM_OK) {
        printf("file             %s, %zu bytes\n", path, f.map.size);
        print_description(&f);
        if (f.meta.size) print_meta(f.meta);
        print_sections(&f);
        if (tensors) print_tensors(&f);
        print_kinds(&f);
        result = print_tokenizer(&f, error);
    }
    if (result == LLM_OK) {
        printf("chat template    %s\n", f.chat_template.size ? "yes" : "no");
        printf("checksums        %s\n", verify ? "all match" : "tables match (--verify: all)");
    }
    map_close(&f.map);
    return result;
}

int main(int count, char **arguments) {
    const char *path = NULL;
    bool tensors = false, verify = false;
    llm_error error;
    int i;
    arguments = platform_arguments(&count, arguments);
    for (i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--help") == 0) return fputs(usage, stdout) < 0 || !output_written("llm-inspect");
        if (strcmp(arguments[i], "--tensors") == 0) {
            tensors = true;
        } else if (strcmp(arguments[i], "--verify") == 0) {
            verify = true;
        } else if (arguments[i][0] == '-' || path) {
            fprintf(stderr, "llm-inspect: what is %s? llm-inspect --help says more\n",
                    arguments[i]);
            return 2;
        } else {
            path = arguments[i];
        }
    }
    if (!path) {
        fputs("llm-inspect: FILE.llm wanted; llm-inspect --help says more\n", stderr);
        return 2;
    }
    if (inspect(path, tensors, verify, &error) == LLM_OK) return !output_written("llm-inspect");
    (void)fflush(stdout);
    fprintf(stderr, "llm-inspect: %s: %s\n", path, error.text);
    return 1;
}
