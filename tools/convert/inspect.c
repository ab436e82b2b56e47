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
#include "platform.h"
#include "source.h"

static const char usage[] =
    "usage: llm-inspect FILE.llm [--tensors] [--verify] [--base MODEL.llm]\n"
    "\n"
    "Says what a .llm file holds: description, sections, tensors by kind with their sizes,\n"
    "tokenizer, chat template. The file is sound if the library opens it. Of an adapter: the\n"
    "matrices that it changes; without --base it is not held against the model that it is for.\n"
    "\n"
    "  --tensors  list every tensor\n"
    "  --verify   compute every checksum, which reads the whole file\n"
    "  --base M   of an adapter: the model that it is for\n"
    "  --help     this text\n"
    "\n"
    "Exit status: 0 the file is sound, 1 it is not or cannot be read, 2 the command line is\n"
    "wrong.\n";

static shown section_name(uint32_t kind) {
    llm_text text;
    text.data = (const char *)&kind;
    text.size = 4;
    return show(text);
}

/* ---- print ------------------------------------------------------------- */

static void print_description(const llm_model *f) {
    static const char *const activations[] = {"silu", "gelu_tanh", "gelu", "relu", "relu2"};
    const llm__file_desc *d = f->desc;
    uint32_t i, windows = 0, window = 0;
    llm_model_info info;
    llm_model_get_info(f, &info);
    for (i = 0; i < d->layers; i++)
        if (f->layer[i].window) windows++, window = f->layer[i].window;
    printf("family           %s\n", show(info.family).text);
    printf("vocabulary       %u tokens\n", d->vocab);
    printf("layers           %u of width %u, feed-forward %u (%s)\n", d->layers, d->width, d->ffn,
           activations[d->activation]);
    printf("attention        %u heads of %u, %u for keys and values", d->heads, d->head_size,
           d->kv_heads);
    if (windows) printf(", window %u in %u layers", window, windows);
    printf("\ncontext          %u\n", d->context);
    printf("norm             rms, epsilon %g\n", (double)d->norm_epsilon);
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

/* `f` has a header that is in order, and need be no model. */
static void print_sections(const llm_model *f) {
    llm__file_header header;
    uint32_t i;
    memcpy(&header, f->file, sizeof header);
    printf("\n%-8s %14s %14s\n", "section", "offset", "bytes");
    for (i = 0; i < header.section_count; i++) {
        llm__file_section section;
        memcpy(&section, f->file + sizeof header + i * sizeof section, sizeof section);
        printf("%-8s %14llu %14llu\n", section_name(section.kind).text,
               (unsigned long long)section.offset, (unsigned long long)section.size);
    }
}

static const char *type_name(const llm__file_tensor *t) {
    return t->role == LLM__ROPE ? "u64" : llm__type_names[t->type];
}

static void print_tensors(const llm_model *f) {
    size_t i;
    printf("\n%5s %-15s %-5s %17s %4s %4s %14s %12s\n", "layer", "tensor", "type", "shape", "rot",
           "rows", "offset", "bytes");
    for (i = 0; i < f->tensors; i++) {
        const llm__file_tensor *t = &f->directory[i];
        char layer[16] = "-", name[64] = "";
        if (t->layer != LLM__NONE) (void)snprintf(layer, sizeof layer, "%u", t->layer);
        printf("%5s %-15s %-5s %8u x %6u %4u %4u %14llu %12llu\n", layer,
               t->layer == LLM__NONE ? llm__entry_name(name, t) : llm__role_names[t->role],
               type_name(t), t->rows, t->cols, t->rotation, t->row_rotation,
               (unsigned long long)t->offset, (unsigned long long)t->size);
    }
}

/* One line for every role and type that occur together. */
static void print_kinds(const llm_model *f) {
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
            for (i = 0; i < f->tensors; i++) {
                const llm__file_tensor *t = &f->directory[i];
                if (t->role != role || t->type != type) continue;
                one = t;
                count++;
                weights += (double)t->rows * (double)t->cols;
                bytes += (double)t->size;
            }
            if (!one) continue;
            printf("%-15s %-5s %6u %14.0f %14.0f %8.3f\n", llm__role_names[role], type_name(one),
                   count, weights, bytes, bytes * 8.0 / weights);
            all_weights += weights;
            all_bytes += bytes;
        }
    }
    printf("%-15s %-5s %6u %14.0f %14.0f %8.3f\n", "all", "", f->tensors, all_weights, all_bytes,
           all_weights > 0.0 ? all_bytes * 8.0 / all_weights : 0.0);
}

static void print_tokenizer(const llm_model *f) {
    llm_tokenizer_info info;
    if (!llm_model_tokenizer(f)) {
        printf("\ntokenizer        none\n");
        return;
    }
    llm_tokenizer_describe(llm_model_tokenizer(f), &info);
    printf("\ntokenizer        %u tokens, bos %d%s, eos %d%s, %u that end a generation\n",
           info.vocab_size, info.bos, info.add_bos ? " (added)" : "", info.eos,
           info.add_eos ? " (added)" : "", info.end_count);
}

/* ---- adapters ---------------------------------------------------------- */

static void print_pairs(const llm_adapter *a) {
    double weights = 0.0, bytes = 0.0;
    uint32_t i;
    printf("\n%5s %-15s %-5s %5s %17s %4s %10s %14s %12s\n", "layer", "matrix", "type", "rank",
           "shape", "rows", "scale", "offset", "bytes");
    for (i = 0; i < a->pairs; i++) {
        const llm__file_pair *t = &a->pair[i];
        const char *name = t->role < LLM__ROLE_COUNT ? llm__role_names[t->role] : "?";
        if (t->role == LLM__GATE_UP) name = t->half ? "ffn_up" : "ffn_gate";
        printf("%5u %-15s %-5s %5u %8u x %6u %4u %10g %14llu %12llu\n", t->layer, name,
               t->type < LLM_TYPE_COUNT ? llm__type_names[t->type] : "?", t->rank, t->rows, t->cols,
               t->row_rotation, (double)t->scale, (unsigned long long)t->offset,
               (unsigned long long)t->size);
        weights += (double)t->rank * ((double)t->rows + (double)t->cols);
        bytes += (double)t->size;
    }
    printf("%5s %-15s %-5s %5s %17.0f %4s %10s %14s %12.0f\n", "all", "", "", "", weights, "", "",
           "", bytes);
}

/* The tables of an adapter that no model is at hand for. */
static llm_result open_alone(llm_adapter *a, bool verify, llm_error *error) {
    const llm__file_section lora = llm__section(&a->file, LLM__SECTION_LORA);
    const llm__file_section pairs = llm__section(&a->file, LLM__SECTION_PAIR);
    const llm__file_section meta = llm__section(&a->file, LLM__SECTION_META);
    uint32_t kind;
    llm_result result = llm__check_sum(&a->file, LLM__SECTION_LORA, error);
    if (result == LLM_OK) result = llm__check_sum(&a->file, LLM__SECTION_PAIR, error);
    if (result == LLM_OK && (lora.size < sizeof(llm__file_lora) || pairs.size % sizeof *a->pair))
        result = llm__fail(error, LLM_ERROR_FORMAT, "sections LORA and PAIR of %llu and %llu bytes, "
                           "not 64 or more and a multiple of 64", (unsigned long long)lora.size,
                           (unsigned long long)pairs.size);
    if (result == LLM_OK && verify) result = llm__verify_sections(&a->file, &kind, error);
    a->pair = (const llm__file_pair *)(const void *)(a->file.file + pairs.offset);
    a->pairs = (uint32_t)(pairs.size / sizeof *a->pair);
    a->meta.data = (const char *)a->file.file + meta.offset;
    a->meta.size = (size_t)meta.size;
    return result;
}

static void print_adapter(const char *path, const llm_adapter *a, bool tensors, bool verify,
                          bool held) {
    llm__file_lora head;
    llm_text name;
    memcpy(&head, a->file.file + llm__section(&a->file, LLM__SECTION_LORA).offset, sizeof head);
    name.data = head.family;
    for (name.size = 0; name.size < sizeof head.family && head.family[name.size];) name.size++;
    printf("file             %s, %zu bytes\n", path, a->file.size);
    printf("adapter          for %s, %u layers of width %u%s, %s\n", show(name).text, head.layers,
           head.width, head.smoothing ? " with smoothed inputs" : "",
           held ? "fits the model" : "not held against a model (--base)");
    printf("matrices         %u\n", a->pairs);
    print_meta(a->meta);
    print_sections(&a->file);
    if (tensors) print_pairs(a);
    printf("checksums        %s\n", verify ? "all match" : "tables match (--verify: all)");
}

/* Takes over the open file in `found`. */
static llm_result inspect_adapter(const char *path, const llm_model *found, const char *base,
                                  bool tensors, bool verify, llm_error *error) {
    llm_adapter_desc desc;
    llm_adapter alone, *a = NULL;
    llm_model_desc model;
    llm_model *m = NULL;
    llm_error why;
    llm_result result = LLM_OK;
    memset(&alone, 0, sizeof alone);
    memset(&desc, 0, sizeof desc);
    memset(&model, 0, sizeof model);
    alone.file = *found;
    if (!base) {
        result = open_alone(&alone, verify, error);
        if (result == LLM_OK) print_adapter(path, &alone, tensors, verify, false);
        llm__drop_file(&alone.file);
        return result;
    }
    llm__drop_file(&alone.file);
    model.path = base, model.error = &why;
    result = llm_model_open(&m, &model);
    if (result == LLM_ERROR_IO) *error = why;
    else if (result != LLM_OK)
        (void)llm__fail(error, result, "the model %s cannot be the base: %s", base, why.text);
    desc.model = m, desc.path = path, desc.verify = verify, desc.error = error;
    if (result == LLM_OK) result = llm_adapter_open(&a, &desc);
    if (result == LLM_OK) print_adapter(path, a, tensors, verify, true);
    llm_adapter_close(a);
    llm_model_close(m);
    return result;
}

static llm_result inspect(const char *path, const char *base, bool tensors, bool verify,
                          llm_error *error) {
    llm_model_desc desc;
    llm_model *f, file;
    llm_result result;
    memset(&desc, 0, sizeof desc);
    desc.path = path;
    desc.error = error;
    result = llm__find_file(&file, &desc);
    if (result != LLM_OK) return result;
    if (llm__check_header(&file, error) == LLM_OK && llm__section(&file, LLM__SECTION_LORA).size)
        return inspect_adapter(path, &file, base, tensors, verify, error);
    llm__drop_file(&file);
    desc.verify = verify;
    result = llm_model_open(&f, &desc);
    if (result != LLM_OK) return result;
    printf("file             %s, %zu bytes\n", path, f->size);
    print_description(f);
    print_meta(llm_model_meta(f));
    print_sections(f);
    if (tensors) print_tensors(f);
    print_kinds(f);
    print_tokenizer(f);
    printf("chat template    %s\n", llm_model_template(f).size ? "yes" : "no");
    printf("checksums        %s\n", verify ? "all match" : "tables match (--verify: all)");
    llm_model_close(f);
    return LLM_OK;
}

static int usage_error(const char *format, ...) LLM__PRINTF(1, 2);
static int usage_error(const char *format, ...) {
    llm_error error;
    va_list args;
    va_start(args, format);
    (void)llm__vfail(&error, LLM_ERROR_ARGUMENT, format, args);
    va_end(args);
    fprintf(stderr, "llm-inspect: %s; llm-inspect --help says more\n", error.text);
    return 2;
}

int main(int count, char **arguments) {
    const char *path = NULL, *base = NULL;
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
        } else if (strcmp(arguments[i], "--base") == 0) {
            if (i + 1 == count) return usage_error("no value after %s", arguments[i]);
            base = arguments[++i];
        } else if (arguments[i][0] == '-') {
            return usage_error("%s is not an option", arguments[i]);
        } else if (path) {
            return usage_error("\"%s\" is a name too many", arguments[i]);
        } else {
            path = arguments[i];
        }
    }
    if (!path) return usage_error("%s is missing", "FILE.llm");
    if (inspect(path, base, tensors, verify, &error) == LLM_OK) return !output_written("llm-inspect");
    (void)fflush(stdout);
    if (error.code == LLM_ERROR_IO) fprintf(stderr, "llm-inspect: %s\n", error.text);
    else fprintf(stderr, "llm-inspect: %s: %s\n", path, error.text);
    return 1;
}
