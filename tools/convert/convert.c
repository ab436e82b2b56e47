/* llm-convert: a checkpoint to a .llm file. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../../llm.h"
#endif
#include "adapter.h"
#include "gguf.h"
#include "huggingface.h"
#include "llama2c.h"
#include "family.h"
#include "quantize.h"
#include "random.h"
#include "vocabulary.h"
#include "writer.h"
#include "calibration.h"
#include "continuation.h"
#include "imatrix.h"
#include "resume.h"

static const char usage[] =
    "usage: llm-convert INPUT OUTPUT.llm [options]\n"
    "       llm-convert ADAPTER OUTPUT.llm --base MODEL.llm [--type bf16|f32] [--quiet]\n"
    "       llm-convert --random SHAPE OUTPUT.llm [options]\n"
    "\n"
    "Converts a checkpoint to a .llm file. INPUT is one of these, of the Llama (and Mistral),\n"
    "Qwen 2, Qwen 3, Gemma 3 or BitNet b1.58 family:\n"
    "\n"
    "  a GGUF file       version 2 or 3\n"
    "  a folder          as Hugging Face has it: config.json, tokenizer.json,\n"
    "                    tokenizer_config.json, generation_config.json, and model.safetensors or\n"
    "                    model.safetensors.index.json with the files that it names; weights in\n"
    "                    F32, F16, BF16, 8-bit floats with their scales, or ternary\n"
    "  a llama2.c .bin   version 0 or 1\n"
    "\n"
    "ADAPTER is a low-rank adapter (LoRA) for such a model: a folder as PEFT has it, with\n"
    "adapter_config.json and adapter_model.safetensors, or a GGUF file of llama.cpp's. It becomes\n"
    "a file that is used beside the model's (generate --lora), or part of the model:\n"
    "\n"
    "  --base MODEL.llm  of an adapter: the model that it is for. The file fits it in all types,\n"
    "                    if these are rotated, or not, as this one is\n"
    "  --merge A[=W]     adds adapter A, W times (default 1), to INPUT's weights; up to 16 times\n"
    "\n"
    "  --tokenizer FILE  of a .bin: its tokenizer; by default tokenizer.bin beside it, if that fits\n"
    "  --type TYPE       how to store matrices: auto, q8, q6, q5, q4, q3, q2, bf16 or f32.\n"
    "                    auto (default) keeps what the source has: 5 bits for a source of up to\n"
    "                    3 bits, 6 bits for one of 4 or 5, 8 bits for the rest\n"
    "  --embedding TYPE  the same for the embedding and the output head; by default one step\n"
    "                    better than TYPE where TYPE has fewer than 8 bits\n"
    "  --rotate WHEN     rotate matrices and their inputs by a Hadamard matrix: yes, no, or\n"
    "                    auto (default: those of 6 and 8 bits)\n"
    "  --calibrate [TEXT]  run a text (UTF-8, after INPUT and OUTPUT; by default one that is built\n"
    "                    in, and that a small model goes on with) through the model, and\n"
    "                    quantise so that errors cancel in what it computes. The default where\n"
    "                    the source has 16 bits or more and a tokenizer\n"
    "  --fast            do not: every weight by itself\n"
    "  --bits N          3 .. 8: so many bits a weight on average, in formats that are chosen\n"
    "                    matrix by matrix by what they cost the model\n"
    "  --imatrix FILE    weigh errors by an importance matrix (llama-imatrix, GGUF) instead\n"
    "  --write-imatrix FILE  keep what was seen as an importance matrix\n"
    "  --non-finite WHAT  a matrix with NaN or infinities: stop (default), or bf16: store it in 16\n"
    "                    bits as it is, and calibrate nothing\n"
    "  --random SHAPE    no INPUT: random weights, always the same, and no tokenizer, to measure\n"
    "                    speed; SHAPE is tiny, smollm2-135m, qwen3-0.6b or llama-3.2-1b\n"
    "  --threads N       1 .. 256; by default as many as there are cores\n"
    "  --quiet           no progress bar and no report\n"
    "  --help            this text\n"
    "\n"
    "The report counts, per kind of tensor, bits per stored weight and the relative error\n"
    "|new - old| / |old| that the conversion added. Exit status: 0 done, 1 the input or the\n"
    "output is at fault (no output file is left; it is there when only the report or the\n"
    "importance matrix could not be written), 2 the command line is.\n";

enum { ROTATE_AUTO, ROTATE_YES, ROTATE_NO };
enum { CALIBRATE_AUTO, CALIBRATE_YES, CALIBRATE_NO };
#define TYPE_AUTO LLM_TYPE_COUNT

enum { MOST_MERGES = 16 };

typedef struct options {
    const char *input, *output, *tokenizer, *base;
    const char *merge[MOST_MERGES]; /* PATH or PATH=WEIGHT */
    unsigned merges;
    const merge_list *merged; /* all of them; NULL: none */
    const random_shape *random; /* NULL: there is an input */
    uint32_t type, embedding;
    bool embedding_given, quiet, keep_odd;
    int rotate, calibrate;
    const char *text; /* to calibrate on; NULL: the built-in one */
    double bits;      /* of a weight; 0: by type */
    const char *imatrix, *write_imatrix;
    unsigned threads;
} options;

/* The tokenizer section and, for a calibration, the tokens of its text; all from malloc. */
typedef struct spoken {
    unsigned char *tokenizer;
    size_t size;
    int32_t *ids;
    uint32_t length, sequences;
} spoken;

/* ---- types and rotations ----------------------------------------------- */

/* Of a weight in the source. */
static unsigned choose_bits(const plan_tensor *t) {
    const unsigned bits = t->from[0]->bits;
    return t->from[1] && t->from[1]->bits > bits ? t->from[1]->bits : bits;
}

/* More than the source has: a second rounding at the same width would double the error. Measured on
   SmolLM2 from Q4_1, perplexity over the source's: 5 bits +3.3 %, 6 bits +0.3 %. Ternary weights
   are values of 2 bits, unless something is added to them. */
static uint32_t choose_auto(const plan_tensor *t) {
    const unsigned bits = choose_bits(t);
    if (t->ternary) return LLM_Q2;
    return bits == 1 ? LLM_Q8 : bits <= 3 ? LLM_Q5 : bits <= 5 ? LLM_Q6 : LLM_Q8;
}

static uint32_t choose_type(const options *o, const plan_tensor *t) {
    uint32_t role = t->file.role, type = o->type;
    if (!family_is_matrix(role)) return LLM_F32;
    if (t->odd) return LLM_BF16;
    if (role == LLM__EMBEDDING || role == LLM__HEAD) {
        if (o->embedding_given) type = o->embedding;
        else if (type == LLM_Q6) type = LLM_Q8;
        else if (type == LLM_Q5 || type == LLM_Q4) type = LLM_Q6;
        else if (type == LLM_Q3) type = LLM_Q5;
        else if (type == LLM_Q2) type = LLM_Q4;
    }
    return type == TYPE_AUTO ? choose_auto(t) : type;
}

static bool choose_rotated(const options *o, const plan_tensor *t) {
    const unsigned bits = t ? llm__formats[t->file.type].bits : 0;
    if (!bits || o->rotate != ROTATE_AUTO) return bits && o->rotate == ROTATE_YES;
    return !t->ternary && (bits >= 6 || o->calibrate == CALIBRATE_YES);
}

/* Queries, keys and values share one input: all or none. What the attention puts out is rotated
   by V's rows, so by no block that is larger than a head allows; where a norm follows, behind that. */
static void choose_attention(const options *o, plan *p, uint32_t layer) {
    plan_tensor *q = plan_find(p, LLM__Q, layer), *k = plan_find(p, LLM__K, layer);
    plan_tensor *v = plan_find(p, LLM__V, layer), *bias = plan_find(p, LLM__V_BIAS, layer);
    plan_tensor *out = plan_find(p, LLM__ATTN_OUT, layer);
    uint32_t block = 64;
    bool rotated = choose_rotated(o, q) && choose_rotated(o, k) && choose_rotated(o, v);
    if (q && k && v && rotated) q->file.rotation = k->file.rotation = v->file.rotation = 64;
    if (plan_find(p, LLM__ATTN_SUB_NORM, layer)) {
        out->file.rotation = choose_rotated(o, out) ? block : 0;
        return;
    }
    while (p->desc.value_size % block) block /= 2;
    if (block < 16 || !v || !out || !choose_rotated(o, out)) return;
    out->file.rotation = v->file.row_rotation = block;
    if (bias) bias->rotation = block;
}

static void choose(const options *o, plan *p) {
    uint32_t layer;
    size_t i;
    for (i = 0; i < p->count; i++) {
        plan_tensor *t = &p->tensors[i];
        t->ternary = family_is_matrix(t->file.role) && choose_bits(t) == 1 && !merge_changes(o->merged, t);
        t->file.type = choose_type(o, t);
        t->file.rotation = t->file.row_rotation = t->rotation = 0;
        if (t->file.role == LLM__EMBEDDING || t->file.role == LLM__HEAD ||
            t->file.role == LLM__GATE_UP || t->file.role == LLM__DOWN)
            t->file.rotation = choose_rotated(o, t) ? 64 : 0;
    }
    for (layer = 0; layer < p->desc.layers; layer++) choose_attention(o, p, layer);
}

/* Is every weight 0 or of one size? */
static bool choose_is_ternary(const source_file *s, const source_tensor *t, float *row) {
    float size = 0.0f;
    uint64_t r, c;
    for (r = 0; r < t->shape[1]; r++) {
        s->row(s, t, r, row);
        for (c = 0; c < t->shape[0]; c++) {
            const float x = fabsf(row[c]);
            if (!(x > 0.0f)) continue;
            if (!(size > 0.0f)) size = x;
            if (x < size || x > size) return false;
        }
    }
    return size > 0.0f;
}

/* BitNet's matrices are ternary, whatever type the source keeps them in. */
static llm_result choose_ternary(const source_file *s, plan *p, llm_error *error) {
    const uint32_t widest = p->desc.ffn > p->desc.width ? p->desc.ffn : p->desc.width;
    const uint32_t heads = p->desc.heads * p->desc.value_size;
    float *row;
    size_t i;
    int k;
    if (!plan_find(p, LLM__FFN_SUB_NORM, 0)) return LLM_OK;
    row = (float *)malloc((widest > heads ? widest : heads) * sizeof *row);
    if (!row) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %u columns", widest);
    for (i = 0; i < p->count; i++)
        for (k = 0; k < 2; k++) {
            source_tensor *t = p->tensors[i].from[k];
            if (t && family_is_matrix(p->tensors[i].file.role) && p->tensors[i].file.layer != LLM__NONE &&
                t->bits >= 16 && choose_is_ternary(s, t, row))
                t->bits = 1;
        }
    free(row);
    return LLM_OK;
}

/* Marks matrices with weights that are not finite; true if there are any. */
static bool choose_odd(const source_file *s, plan *p) {
    bool any = false;
    float *row = NULL;
    size_t i;
    int k;
    for (i = 0; i < p->count; i++) {
        plan_tensor *t = &p->tensors[i];
        for (k = 0; k < 2 && t->from[k] && family_is_matrix(t->file.role) && !t->odd; k++) {
            const uint64_t cols = t->from[k]->shape[0];
            float *larger = (float *)realloc(row, (size_t)cols * sizeof *row);
            uint64_t r, c;
            if (!larger) break; /* the writer finds them, and stops */
            row = larger;
            for (r = 0; r < t->from[k]->shape[1] && !t->odd; r++) {
                s->row(s, t->from[k], r, row);
                for (c = 0; c < cols; c++) t->odd = t->odd || !quantize_finite(row[c]);
            }
        }
        any = any || t->odd;
    }
    free(row);
    return any;
}

/* Tokens times weights of all layers that a calibration may take (SmolLM2: eleven minutes of processor
   time on Zen 3), and tokens beyond which more teach nothing new. */
#define CHOOSE_EFFORT 2.3e12
#define CHOOSE_TOKENS 20480.0

/* So many tokens may run through the model, where its weights are few enough to add to a text. */
static double choose_tokens(const plan *p) {
    double weights = 1.0;
    size_t i;
    for (i = 0; i < p->count; i++)
        if (family_is_matrix(p->tensors[i].file.role) && p->tensors[i].file.layer != LLM__NONE)
            weights += (double)p->tensors[i].file.rows * p->tensors[i].file.cols;
    return CHOOSE_EFFORT / weights < CHOOSE_TOKENS ? CHOOSE_EFFORT / weights : CHOOSE_TOKENS;
}

/* Bytes that a calibration works in, about: a layer in float, activations, second moments. */
static double choose_memory(const plan *p) {
    const llm__file_desc *d = &p->desc;
    const double widest = d->ffn > d->width ? d->ffn : d->width;
    const double tokens = choose_tokens(p) > 5120.0 ? choose_tokens(p) : 5120.0;
    double layer = 0.0;
    size_t i;
    for (i = 0; i < p->count; i++)
        if (p->tensors[i].file.layer == 0 && p->tensors[i].file.role != LLM__ROPE)
            layer += (double)p->tensors[i].file.rows * p->tensors[i].file.cols;
    return 4.0 * (1.5 * layer + tokens * (4.0 * d->width + 2.0 * widest) + widest * (widest + 2.0 * d->width) +
                  (double)d->width * d->width);
}

/* By default where something can be learnt: what was 16 bits wide becomes narrower, and there is a
   vocabulary to say a text with. */
static bool choose_calibration(const options *o, const source_file *s, const plan *p) {
    size_t i;
    bool narrower = false;
    if (o->calibrate != CALIBRATE_AUTO) return o->calibrate == CALIBRATE_YES;
    if (o->write_imatrix) return true;
    if (o->imatrix || s->panel || (s->value(s, "tokenizer.json").kind == SOURCE_NONE &&
                     s->value(s, "tokenizer.ggml.model").kind == SOURCE_NONE))
        return false;
    for (i = 0; i < p->count; i++) {
        const plan_tensor *t = &p->tensors[i];
        if (!family_is_matrix(t->file.role)) continue;
        if (t->from[0]->bits < 16) return false;
        narrower = narrower || llm__formats[choose_type(o, t)].bits;
    }
    if (!narrower || !platform_memory() || choose_memory(p) <= 0.7 * (double)platform_memory())
        return narrower;
    if (!o->quiet)
        fprintf(stderr, "llm-convert: not calibrated: that takes about %.1f GB of memory; --calibrate "
                "does it nevertheless\n", choose_memory(p) / 1e9);
    return false;
}

/* The vocabulary and what a calibration says with it. Who did not ask for a calibration is told why
   there is none; who did gets an error. */
static llm_result choose_text(options *o, const source_file *s, const plan *p, spoken *t,
                              llm_error *error) {
    const bool asked = o->calibrate == CALIBRATE_YES || o->write_imatrix;
    llm_text section;
    llm_result result = vocabulary_section(s, p->desc.vocab, &t->tokenizer, &t->size, error);
    if (result != LLM_OK) return result;
    o->calibrate = choose_calibration(o, s, p) ? CALIBRATE_YES : CALIBRATE_NO;
    if (o->calibrate == CALIBRATE_NO) return LLM_OK;
    section.data = (const char *)t->tokenizer;
    section.size = t->size;
    result = section.data ? calibration_read(o->text, section, p->desc.vocab, &t->ids, &t->length,
                                             &t->sequences, error)
                          : llm__fail(error, LLM_ERROR_ARGUMENT, "no tokenizer, expected one to calibrate");
    if (result != LLM_ERROR_ARGUMENT || asked) return result;
    if (!o->quiet) fprintf(stderr, "llm-convert: not calibrated: %s\n", error->text);
    o->calibrate = CALIBRATE_NO;
    return LLM_OK;
}

/* ---- importance matrices ----------------------------------------------- */

/* How much each input of a matrix matters, from the file to the plan. */
static llm_result importance_read(const char *path, plan *p, llm_error *error) {
    imatrix m;
    size_t i, found = 0;
    llm_result result = imatrix_open(&m, path, error);
    if (result != LLM_OK) return result;
    for (i = 0; i < p->count && result == LLM_OK; i++) {
        plan_tensor *t = &p->tensors[i];
        bool known = false;
        if (!family_is_matrix(t->file.role)) continue;
        t->importance = (float *)calloc(llm__padded(t->file.cols), sizeof *t->importance);
        if (!t->importance)
            result = llm__fail(error, LLM_ERROR_MEMORY, "no memory for %u columns", t->file.cols);
        else
            result = imatrix_find(&m, show(t->from[0]->name).text, t->file.cols, t->importance,
                                  &known, error);
        found += known;
        if (known) {
            imatrix_scale(t->importance, t->file.cols);
            continue;
        }
        free(t->importance);
        t->importance = NULL;
    }
    if (result == LLM_OK && !found)
        result = llm__fail(error, LLM_ERROR_FORMAT, "importance matrix %s: none of this model's "
                           "matrices is in it", path);
    imatrix_close(&m);
    return result;
}

static llm_result importance_write(const char *path, const plan *p, const options *o,
                                   const calibration *seen, llm_error *error) {
    imatrix_entry *entries = (imatrix_entry *)calloc(2 * p->count, sizeof *entries);
    shown *names = (shown *)calloc(2 * p->count, sizeof *names);
    size_t i, count = 0;
    int k;
    llm_result result;
    if (!entries || !names) {
        free(entries);
        free(names);
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu entries", 2 * p->count);
    }
    for (i = 0; i < p->count; i++)
        for (k = 0; k < 2 && p->tensors[i].squares && p->tensors[i].from[k]; k++, count++) {
            names[count] = show(p->tensors[i].from[k]->name);
            entries[count].name = names[count].text;
            entries[count].sums = p->tensors[i].squares;
            entries[count].cols = p->tensors[i].file.cols;
            entries[count].count = p->tensors[i].seen;
        }
    result = imatrix_write(path, entries, count, o->text ? o->text : "built-in text",
                           seen->sequences, seen->length, error);
    free(entries);
    free(names);
    return result;
}

/* ---- text -------------------------------------------------------------- */

typedef struct buffer {
    char *data;
    size_t size, capacity;
    bool failed; /* no memory */
} buffer;

static void buffer_add(buffer *b, const char *data, size_t size) {
    if (b->capacity - b->size < size) {
        size_t capacity = 2 * b->capacity + size + 256;
        char *larger = (char *)realloc(b->data, capacity);
        if (!larger) {
            b->failed = true;
            return;
        }
        b->data = larger;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void buffer_line(buffer *b, llm_text key, llm_text value) {
    size_t i, start = b->size;
    buffer_add(b, key.data, key.size);
    buffer_add(b, "=", 1);
    buffer_add(b, value.data, value.size);
    for (i = start; i < b->size; i++)
        if ((unsigned char)b->data[i] < 32) b->data[i] = ' ';
    buffer_add(b, "\n", 1);
}

/* What the source says of itself: name, author, licence. */
static void collect_meta(const source_file *s, buffer *b) {
    char format[64];
    llm_text key;
    source_value value;
    size_t i;
    for (i = 0; s->entry(s, i, &key, &value); i++)
        if (key.size > 8 && memcmp(key.data, "general.", 8) == 0 && value.kind == SOURCE_TEXT)
            buffer_line(b, key, value.text);
    if (s->version) (void)snprintf(format, sizeof format, "%s version %u", s->format, s->version);
    else (void)snprintf(format, sizeof format, "%s", s->format);
    buffer_line(b, text_of("source.format"), text_of(format));
}

/* ---- progress and report ----------------------------------------------- */

typedef struct progress {
    bool shown, quiet;
    int last;
} progress;

static void progress_show(void *user, uint64_t done, uint64_t total) {
    progress *p = (progress *)user;
    int per_mille = (int)((double)done / (double)total * 1000.0), i;
    char bar[41];
    if (!p->shown || per_mille == p->last) return;
    p->last = per_mille;
    for (i = 0; i < 40; i++) bar[i] = i * 25 < per_mille ? '#' : '.';
    bar[40] = 0;
    fprintf(stderr, "\r[%s] %5.1f%%", bar, per_mille / 10.0);
    if (done == total) fprintf(stderr, "\r%60s\r", "");
    (void)fflush(stderr);
}

typedef struct report_line {
    char source[48], target[48];
    double weights, bytes, norm, error;
} report_line;

/* Adds a word to a list of different words, if there is room. */
static void report_word(char *list, size_t room, const char *word) {
    const char *at = list;
    size_t size = strlen(word), used = strlen(list);
    while ((at = strstr(at, word)) != NULL) {
        if ((at == list || at[-1] == ' ') && (at[size] == ' ' || at[size] == 0)) return;
        at += size;
    }
    if (used + size + 2 <= room) (void)snprintf(list + used, room - used, "%s%s", used ? " " : "",
                                                word);
}

static void report_add(report_line *line, const plan_tensor *t) {
    int i;
    for (i = 0; i < 2; i++)
        if (t->from[i]) report_word(line->source, sizeof line->source, t->from[i]->type);
    report_word(line->target, sizeof line->target,
                t->file.role == LLM__ROPE ? "u64" : llm__type_names[t->file.type]);
    if (t->file.rotation) report_word(line->target, sizeof line->target, "rotated");
    line->weights += (double)t->file.rows * (double)t->file.cols;
    line->bytes += (double)t->file.size;
    line->norm += t->norm;
    line->error += t->error;
}

static void report_print(const char *name, const report_line *line) {
    printf("%-15s %-12s %-14s %6.3f", name, line->source[0] ? line->source : "-", line->target,
           line->weights > 0.0 ? line->bytes * 8.0 / line->weights : 0.0);
    if (line->norm > 0.0) printf(" %10.6f", sqrt(line->error / line->norm));
    else printf(" %10s", "-");
    printf(" %14.0f\n", line->bytes);
}

static void report(const plan *p, uint64_t file_size) {
    static const char *const names[] = {
#define REPORT_NAME(NAME, name, shape) name,
        LLM__ROLES(REPORT_NAME)
#undef REPORT_NAME
    };
    report_line lines[LLM__ROLE_COUNT], total;
    uint32_t role;
    size_t i;
    memset(lines, 0, sizeof lines);
    memset(&total, 0, sizeof total);
    for (i = 0; i < p->count; i++) {
        report_add(&lines[p->tensors[i].file.role], &p->tensors[i]);
        report_add(&total, &p->tensors[i]);
    }
    printf("%-15s %-12s %-14s %6s %10s %14s\n", "tensors", "source", "target", "bits", "error",
           "bytes");
    for (role = 0; role < LLM__ROLE_COUNT; role++)
        if (lines[role].weights > 0.0) report_print(names[role], &lines[role]);
    memcpy(total.source, "", 1);
    memcpy(total.target, "", 1);
    report_print("all", &total);
    printf("%-15s %67.0f\n", "file", (double)file_size);
}

/* ---- the program ------------------------------------------------------- */

static bool convert_load(void *user, uint64_t sections) {
    const calibration *c = (const calibration *)user;
    const progress *bar = (const progress *)c->w->user;
    if (!resume_load(user, sections)) return false;
    if (!bar->quiet)
        fprintf(stderr, "llm-convert: going on behind tensor %zu of %zu, where an earlier run was\n",
                c->w->first, c->w->plan->count);
    return true;
}

static llm_result convert_write(const options *o, const source_file *s, plan *p, const spoken *t,
                                llm_error *error) {
    quantizer *tables = quantize_create();
    buffer meta = {NULL, 0, 0, false};
    source_value template_value = s->value(s, "tokenizer.chat_template");
    llm_text meta_text, template_text, tokenizer;
    progress bar;
    writer w;
    calibration seen;
    llm_result result = LLM_OK;
    memset(&w, 0, sizeof w);
    memset(&template_text, 0, sizeof template_text);
    if (template_value.kind == SOURCE_TEXT) template_text = template_value.text;
    collect_meta(s, &meta);
    meta_text.data = meta.data;
    meta_text.size = meta.size;
    bar.quiet = o->quiet;
    bar.shown = !o->quiet && isatty(2);
    bar.last = -1;
    w.from = s;
    w.plan = p;
    if (o->merged) w.add = merge_row, w.add_user = o->merged;
    w.tables = tables;
    w.threads = o->threads;
    w.progress = progress_show;
    w.user = &bar;
    w.error = error;
    tokenizer.data = (const char *)t->tokenizer;
    tokenizer.size = t->size;
    memset(&seen, 0, sizeof seen);
    if (o->calibrate == CALIBRATE_YES) {
        result = calibrate_attach(&seen, &w, t->ids, t->length, t->sequences);
        seen.bits = o->bits;
        seen.collect = o->write_imatrix != NULL;
        if (o->bits > 0.0) w.arrange = calibration_arrange;
        w.load = convert_load;
        w.save = resume_save;
    }
    if (result == LLM_OK && (!tables || meta.failed))
        result = llm__fail(error, LLM_ERROR_MEMORY, "no memory for tables and %zu bytes of text",
                           meta.size);
    if (result == LLM_OK)
        result = writer_run(&w, o->output, meta_text, template_text, tokenizer);
    if (w.load) resume_end(&seen);
    if (result == LLM_OK && o->write_imatrix)
        result = importance_write(o->write_imatrix, p, o, &seen, error);
    if (result == LLM_OK && !o->quiet) report(p, w.size);
    calibrate_close(&seen);
    free(w.smooth);
    free(meta.data);
    free(tables);
    return result;
}

static bool ends_with(const char *text, const char *end) {
    const size_t size = strlen(text), tail = strlen(end);
    return size >= tail && strcmp(text + size - tail, end) == 0;
}

/* A path that is not there: perhaps it is the name of a model on a hub. */
static llm_result input_missing(const char *path, llm_error *error) {
    const char *slash = strchr(path, '/');
    if (!slash || slash == path || !slash[1] || strchr(slash + 1, '/') || path[0] == '.' ||
        ends_with(path, ".gguf") || ends_with(path, ".bin") || ends_with(path, ".safetensors"))
        return llm__fail(error, LLM_ERROR_IO, "%s: no such file or folder", path);
    return llm__fail(error, LLM_ERROR_IO, "%s: no such file or folder, and nothing is downloaded: put "
                     "the model's config.json, tokenizer.json, tokenizer_config.json, "
                     "generation_config.json and *.safetensors (with its .index.json) into a folder "
                     "and name that", path);
}

static llm_result refuse_tokenizer(const options *o, llm_error *error) {
    return llm__fail(error, LLM_ERROR_ARGUMENT, "--tokenizer is %s, expected none: only a llama2.c "
                     ".bin takes one", o->tokenizer);
}

/* By what the input is or how it begins; a .bin of version 0 by its name. */
static llm_result open_input(const options *o, source_file *s, llm_error *error) {
    static const uint8_t numbered[] = {0x32, 0x34, 0x6b, 0x61}; /* LLAMA2C_MAGIC */
    map_file map;
    llm_result result;
    bool is_adapter;
    uint8_t start[4] = {0};
    if (o->random && !o->tokenizer) return random_open(s, o->random, error);
    if (o->random) return refuse_tokenizer(o, error);
    if (!platform_exists(o->input)) return input_missing(o->input, error);
    if (platform_is_folder(o->input) && !o->tokenizer) {
        result = adapter_is_folder(o->input, o->base != NULL, &is_adapter, error);
        if (result != LLM_OK) return result;
        return is_adapter ? peft_open(s, o->input, error) : huggingface_open(s, o->input, error);
    }
    if (platform_is_folder(o->input)) return refuse_tokenizer(o, error);
    result = map_open(&map, o->input, error);
    if (result != LLM_OK) return result;
    memcpy(start, map.data, map.size < 4 ? map.size : 4);
    map_close(&map);
    if (memcmp(start, "PK\3\4", 4) == 0)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "a zip archive, such as PyTorch keeps "
                         "weights in; expected the model's .safetensors in a folder");
    if (memcmp(start, numbered, 4) == 0 ||
        (memcmp(start, "GGUF", 4) != 0 && ends_with(o->input, ".bin")))
        return llama2c_open(s, o->input, o->tokenizer, error);
    if (ends_with(o->input, ".safetensors") || ends_with(o->input, ".json"))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "a part of a model; expected the folder "
                         "that it lies in");
    if (o->tokenizer) return refuse_tokenizer(o, error);
    return gguf_open(s, o->input, error);
}

/* PATH=WEIGHT, where what stands behind the last '=' is a number; else all of it is a path. */
static char *split_weight(const char *text, float *weight) {
    const char *equals = strrchr(text, '=');
    char *end = NULL, *path = (char *)malloc(strlen(text) + 1);
    if (!path) return NULL;
    memcpy(path, text, strlen(text) + 1);
    *weight = 1.0f;
    if (!equals || !equals[1]) return path;
    *weight = strtof(equals + 1, &end);
    if (*end || !quantize_finite(*weight)) *weight = 1.0f;
    else path[equals - text] = 0;
    return path;
}

static llm_result merge_all(const options *o, const plan *p, merge_list *m, llm_error *error) {
    llm_result result = LLM_OK;
    adapter_shape shape;
    unsigned i;
    shape.desc = &p->desc;
    shape.turned = p->desc.head_size;
    for (i = 0; i < p->count; i++)
        if (p->tensors[i].file.role == LLM__ROPE) shape.turned = 2 * p->tensors[i].file.cols;
    for (i = 0; i < o->merges && result == LLM_OK; i++) {
        float weight;
        char *path = split_weight(o->merge[i], &weight);
        llm_error why;
        if (!path) return llm__fail(error, LLM_ERROR_MEMORY, "no memory for a path");
        result = merge_add(m, path, weight, &shape, &why);
        if (result == LLM_ERROR_IO) *error = why;
        else if (result != LLM_OK)
            (void)llm__fail(error, result, "adapter %s cannot be merged: %s", path, why.text);
        free(path);
    }
    return result;
}

/* The model that an adapter is for. */
static llm_result open_base(const options *o, llm_model **model, llm_error *error) {
    llm_model_desc desc;
    llm_error why;
    llm_result result;
    if (!o->base)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "an adapter; expected --base with the .llm file "
                         "of the model that it is for");
    if (o->merges)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "--merge is %s, expected none: the input is an "
                         "adapter itself", o->merge[0]);
    if (o->type != TYPE_AUTO && o->type > LLM_BF16)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "--type is %s, an adapter takes auto, bf16 or "
                         "f32", llm__type_names[o->type]);
    memset(&desc, 0, sizeof desc);
    desc.path = o->base, desc.error = &why;
    result = llm_model_open(model, &desc);
    if (result == LLM_ERROR_IO) *error = why;
    else if (result != LLM_OK)
        (void)llm__fail(error, result, "the model %s cannot be the base: %s", o->base,
                        why.text);
    return result;
}

/* Takes over `s`. */
static llm_result convert_adapter(const options *o, source_file *s, llm_error *error) {
    llm_model *model = NULL;
    adapter_shape shape;
    adapter a;
    buffer meta = {NULL, 0, 0, false};
    llm_text text;
    uint64_t size = 0;
    llm_result result = open_base(o, &model, error);
    if (result != LLM_OK) {
        s->close(s);
        return result;
    }
    shape.desc = model->desc;
    shape.turned = model->desc->ropes ? 2 * model->rope[0].cols : model->desc->head_size;
    result = adapter_take(&a, s, &shape, error);
    if (result == LLM_OK) {
        collect_meta(&a.from, &meta);
        text.data = meta.data, text.size = meta.size;
        if (meta.failed)
            result = llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu bytes of text", meta.size);
        else
            result = adapter_write(&a, model, o->output, o->type == LLM_F32 ? LLM_F32 : LLM_BF16,
                                   text, &size, error);
        if (result == LLM_OK && !o->quiet)
            printf("%zu matrices, %.0f bytes\n", a.count, (double)size);
        adapter_close(&a);
    }
    free(meta.data);
    llm_model_close(model);
    return result;
}

/* ---- a text that goes on ------------------------------------------------- */

/* Sequences that the model should add to the built-in text. */
static uint32_t convert_wants(const options *o, const plan *p, const spoken *t) {
    uint32_t sequences;
    if (o->calibrate != CALIBRATE_YES || o->text) return 0;
    sequences = (uint32_t)(choose_tokens(p) / t->length);
    return sequences > t->sequences ? sequences - t->sequences : 0;
}

/* The draft: every matrix in 8 bits, by itself. The plan is as it was, but for types. */
static llm_result convert_draft(const options *o, const source_file *s, plan *p, const spoken *t,
                                const char *path, llm_error *error) {
    options draft = *o;
    llm_result result;
    size_t i;
    draft.output = path, draft.type = draft.embedding = LLM_Q8, draft.bits = 0.0;
    draft.calibrate = CALIBRATE_NO, draft.write_imatrix = NULL, draft.quiet = true;
    choose(&draft, p);
    result = convert_write(&draft, s, p, t, error);
    for (i = 0; i < p->count; i++) p->tensors[i].norm = p->tensors[i].error = 0.0;
    return result;
}

/* The built-in text, continued by the model. Where there is no room for the draft, or it has no words to
   say, the text alone has to do: it finds the layer whose values are not finite. */
static llm_result convert_continue(const options *o, const source_file *s, plan *p, spoken *t,
                                   llm_error *error) {
    const uint32_t more = convert_wants(o, p, t);
    const size_t own = (size_t)t->length * t->sequences, room = strlen(o->output) + 8;
    llm_tokenizer_info about;
    llm_tokenizer words;
    progress bar;
    char *path;
    int32_t *ids;
    llm_result result;
    if (!more) return LLM_OK;
    path = (char *)malloc(room);
    ids = (int32_t *)malloc((own + (size_t)t->length * more) * sizeof *ids);
    if (!path || !ids) {
        free(path);
        free(ids);
        return llm__fail(error, LLM_ERROR_MEMORY, "no memory for %zu tokens", (size_t)t->length * more);
    }
    (void)snprintf(path, room, "%s.draft", o->output);
    memcpy(ids, t->ids, own * sizeof *ids);
    bar.quiet = o->quiet, bar.shown = !o->quiet && isatty(2), bar.last = -1;
    result = convert_draft(o, s, p, t, path, error);
    if (result == LLM_OK)
        result = llm__tokenizer_init(&words, (const char *)t->tokenizer, t->size, p->desc.vocab, error);
    if (result == LLM_OK) {
        llm_tokenizer_describe(&words, &about);
        result = continuation_write(path, o->threads, ids, own, about.add_bos ? about.bos : -1, t->length,
                                    more, progress_show, &bar, ids + own, error);
    }
    (void)platform_remove(path);
    free(path);
    if (result == LLM_OK) {
        free(t->ids);
        t->ids = ids;
        t->sequences += more;
        return LLM_OK;
    }
    free(ids);
    if (result != LLM_ERROR_IO && result != LLM_ERROR_NUMERIC) return result;
    if (!o->quiet) fprintf(stderr, "llm-convert: the text is not continued: %s\n", error->text);
    return LLM_OK;
}

/* From the plan to the file. */
static llm_result convert_plan(options *o, const source_file *s, plan *p, llm_error *error) {
    merge_list m = {NULL, 0, 0};
    spoken text = {NULL, 0, NULL, 0, 0};
    llm_result result = choose_text(o, s, p, &text, error);
    if (result == LLM_OK && o->imatrix) result = importance_read(o->imatrix, p, error);
    if (result == LLM_OK) result = merge_all(o, p, &m, error);
    if (m.count) o->merged = &m;
    if (result == LLM_OK) result = convert_continue(o, s, p, &text, error);
    if (result == LLM_OK) choose(o, p);
    if (result == LLM_OK) result = convert_write(o, s, p, &text, error);
    o->merged = NULL;
    merge_close(&m);
    free(text.tokenizer);
    free(text.ids);
    return result;
}

static llm_result convert(options *o, llm_error *error) {
    source_file s;
    plan p;
    llm_result result = open_input(o, &s, error);
    if (result != LLM_OK) return result;
    if (adapter_is(&s)) return convert_adapter(o, &s, error);
    if (s.note[0] && !o->quiet) fprintf(stderr, "llm-convert: %s: %s\n", o->input, s.note);
    if (o->base)
        result = llm__fail(error, LLM_ERROR_ARGUMENT, "--base is %s, expected none: only an adapter "
                           "takes one", o->base);
    if (result == LLM_OK) result = plan_open(&p, &s, error);
    if (result == LLM_OK) {
        result = choose_ternary(&s, &p, error);
        if (result == LLM_OK && o->keep_odd && choose_odd(&s, &p)) o->calibrate = CALIBRATE_NO;
        if (result == LLM_OK) result = convert_plan(o, &s, &p, error);
        plan_close(&p);
    }
    s.close(&s);
    return result;
}

static bool parse_type(const char *text, uint32_t *type) {
    uint32_t i;
    for (i = 0; i < LLM_TYPE_COUNT; i++)
        if (strcmp(text, llm__type_names[i]) == 0) return *type = i, true;
    *type = TYPE_AUTO;
    return strcmp(text, "auto") == 0;
}

static int usage_error(const char *format, ...) LLM__PRINTF(1, 2);
static int usage_error(const char *format, ...) {
    llm_error error;
    va_list args;
    va_start(args, format);
    (void)llm__vfail(&error, LLM_ERROR_ARGUMENT, format, args);
    va_end(args);
    fprintf(stderr, "llm-convert: %s; llm-convert --help says more\n", error.text);
    return 2;
}

/* One option and its value; 0, or the exit status. */
static int parse_option(options *o, const char *name, const char *value) {
    if (!value) return usage_error("no value after %s", name);
    if (strcmp(name, "--type") == 0 || strcmp(name, "--embedding") == 0) {
        bool embedding = name[2] == 'e';
        if (!parse_type(value, embedding ? &o->embedding : &o->type))
            return usage_error("%s is \"%s\", expected auto, q8, q6, q5, q4, q3, q2, bf16 or f32", name,
                               value);
        o->embedding_given = o->embedding_given || embedding;
    } else if (strcmp(name, "--rotate") == 0) {
        if (strcmp(value, "auto") == 0) o->rotate = ROTATE_AUTO;
        else if (strcmp(value, "yes") == 0) o->rotate = ROTATE_YES;
        else if (strcmp(value, "no") == 0) o->rotate = ROTATE_NO;
        else return usage_error("--rotate is \"%s\", expected auto, yes or no", value);
    } else if (strcmp(name, "--non-finite") == 0) {
        o->keep_odd = strcmp(value, "bf16") == 0;
        if (!o->keep_odd && strcmp(value, "stop") != 0)
            return usage_error("--non-finite is \"%s\", expected stop or bf16", value);
    } else if (strcmp(name, "--imatrix") == 0) {
        o->imatrix = value;
    } else if (strcmp(name, "--write-imatrix") == 0) {
        o->write_imatrix = value;
    } else if (strcmp(name, "--bits") == 0) {
        char *end;
        o->bits = strtod(value, &end);
        if (*end || end == value || !(o->bits >= 3.0 && o->bits <= 8.0))
            return usage_error("--bits is \"%s\", expected 3 .. 8", value);
        if (o->calibrate == CALIBRATE_AUTO) o->calibrate = CALIBRATE_YES;
        o->type = o->embedding = LLM_Q8; /* until they are chosen */
    } else if (strcmp(name, "--tokenizer") == 0) {
        o->tokenizer = value;
    } else if (strcmp(name, "--base") == 0) {
        o->base = value;
    } else if (strcmp(name, "--merge") == 0) {
        if (o->merges == MOST_MERGES)
            return usage_error("--merge stands over %d times", MOST_MERGES);
        o->merge[o->merges++] = value;
    } else if (strcmp(name, "--random") == 0) {
        o->random = random_find(value);
        if (!o->random)
            return usage_error("--random is \"%s\", expected tiny, smollm2-135m, qwen3-0.6b or "
                               "llama-3.2-1b", value);
    } else if (strcmp(name, "--threads") == 0) {
        char *end;
        long threads = strtol(value, &end, 10);
        if (*end || end == value || threads < 1 || threads > (long)LLM__MOST_LANES)
            return usage_error("--threads is \"%s\", expected 1 .. 256", value);
        o->threads = (unsigned)threads;
    } else {
        return usage_error("%s is not an option", name);
    }
    return 0;
}

int main(int count, char **arguments) {
    options o;
    llm_error error;
    int i, status;
    memset(&o, 0, sizeof o);
    o.type = TYPE_AUTO;
    o.threads = core_count();
    arguments = platform_arguments(&count, arguments);
    for (i = 1; i < count; i++) {
        const char *argument = arguments[i];
        if (strcmp(argument, "--help") == 0)
            return fputs(usage, stdout) < 0 || !output_written("llm-convert");
        if (strcmp(argument, "--quiet") == 0) {
            o.quiet = true;
        } else if (strcmp(argument, "--fast") == 0) {
            o.calibrate = CALIBRATE_NO;
        } else if (strcmp(argument, "--calibrate") == 0) {
            o.calibrate = CALIBRATE_YES;
            if (o.output && i + 1 < count && arguments[i + 1][0] != '-') o.text = arguments[++i];
        } else if (argument[0] == '-' && argument[1]) {
            status = parse_option(&o, argument, i + 1 < count ? arguments[i + 1] : NULL);
            if (status) return status;
            i++;
        } else if (!o.input) {
            o.input = argument;
        } else if (!o.output) {
            o.output = argument;
        } else {
            return usage_error("\"%s\" is a name too many", argument);
        }
    }
    if (o.random && o.output) return usage_error("\"%s\" is a name too many", o.output);
    if (o.random && o.input) o.output = o.input, o.input = o.random->name;
    if (o.calibrate == CALIBRATE_YES && o.imatrix)
        return usage_error("--imatrix and --calibrate exclude each other");
    if (o.keep_odd && (o.bits > 0.0 || o.write_imatrix))
        return usage_error("--non-finite bf16 excludes %s", o.bits > 0.0 ? "--bits" : "--write-imatrix");
    if (o.calibrate == CALIBRATE_NO && (o.bits > 0.0 || o.write_imatrix))
        return usage_error("--fast excludes %s", o.bits > 0.0 ? "--bits" : "--write-imatrix");
    if (!o.output)
        return usage_error("%s is missing", o.input || o.random ? "OUTPUT.llm" : "INPUT");
    if (o.random && o.merges) return usage_error("--merge wants an INPUT with weights");
    if (convert(&o, &error) == LLM_OK) return !output_written("llm-convert");
    if (error.code == LLM_ERROR_IO) fprintf(stderr, "llm-convert: %s\n", error.text);
    else fprintf(stderr, "llm-convert: %s: %s\n", o.input, error.text);
    return 1;
}
