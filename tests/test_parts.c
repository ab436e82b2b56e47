/* An embedding and an output matrix that are cut into parts: where the parts have the bytes of the whole, so have
   the logits; where parts come from another type, every token has the row and the logit that it has there. */
#ifdef LLM_DEV_HEADER
#include LLM_DEV_HEADER
#else
#define LLM_IMPLEMENTATION
#include "../llm.h"
#endif
#include "check.h"
#include "fixture.h"
#include "image.h"

#define TOKENS 20u

/* A model whose matrix of a role has parts that begin with the rows first[0] = 0, first[1], …; those whose bit is
   set in `others` are b's, which is the same model in another type. Behind a's bytes come b's matrix and the
   directory, for which there may be no room where it was. */
static image cut(const image *a, const image *b, uint32_t role, const uint32_t *first, uint32_t parts, unsigned others) {
    const llm__file_tensor theirs = *tensor_of(b, role, LLM__NONE);
    const size_t at = (a->size + 63) / 64 * 64, end = (at + (size_t)theirs.size + LLM__PAGE - 1) / LLM__PAGE * LLM__PAGE;
    llm__file_section *directory, *data;
    llm__file_tensor *t, whole;
    void *memory = NULL;
    image f;
    uint32_t i;
    directory = section_of(a, LLM__SECTION_TDIR);
    f.size = end + (size_t)directory->size + (parts - 1) * sizeof whole;
    if (posix_memalign(&memory, 64, f.size)) exit(1);
    f.data = (uint8_t *)memory;
    memset(f.data, 0, f.size);
    memcpy(f.data, a->data, a->size);
    memcpy(f.data + at, b->data + theirs.offset, (size_t)theirs.size);
    memcpy(f.data + end, a->data + directory->offset, (size_t)directory->size);
    header_of(&f)->file_size = f.size;
    data = section_of(&f, LLM__SECTION_DATA), data->size = end - data->offset;
    directory = section_of(&f, LLM__SECTION_TDIR), directory->offset = end;
    t = tensor_of(&f, role, LLM__NONE), whole = *t;
    for (i = 0; i < parts; i++) {
        const llm__file_tensor *from = others >> i & 1 ? &theirs : &whole;
        const uint64_t panel = llm__panel_size(from->type, llm__padded(from->cols));
        if (i) t = (llm__file_tensor *)(void *)(f.data + directory->offset + directory->size);
        if (i) directory->size += sizeof *t;
        *t = *from;
        t->expert = i ? i : LLM__NONE;
        t->rows = (i + 1 < parts ? first[i + 1] : whole.rows) - first[i];
        t->offset = (from == &theirs ? at : whole.offset) + first[i] / 16 * panel;
        t->size = (t->rows + 15) / 16 * panel;
        t->checksum = llm__xxh64(f.data + t->offset, (size_t)t->size);
    }
    data->checksum = llm__xxh64(f.data + data->offset, (size_t)data->size);
    seal(&f);
    return f;
}

static image read_model(const char *name, const char *type) {
    image f;
    f.data = (uint8_t *)fixture_read(fixture_model_path(name, type), &f.size);
    return f;
}

static llm_result open_image(const image *f, llm_model **model, llm_error *error) {
    llm_model_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.data = f->data, desc.size = f->size, desc.verify = true, desc.error = error;
    return llm_model_open(model, &desc);
}

static bool read_image(void *user, uint64_t offset, void *to, size_t size) {
    memcpy(to, ((const image *)user)->data + offset, size);
    return true;
}

/* Logits [TOKENS][vocab] of some tokens; they come as the host reads them where `lazily`. */
static float *logits_of(image *f, const int32_t *ids, const char *isa, uint32_t threads, bool lazily) {
    llm_model_desc desc;
    llm_session_desc s;
    llm_pool_desc p;
    llm_error error;
    llm_model *model = NULL;
    llm_session *session = NULL;
    llm_pool *pool = NULL;
    float *all = NULL;
    uint32_t vocab, i;
    memset(&desc, 0, sizeof desc), memset(&s, 0, sizeof s), memset(&p, 0, sizeof p);
    desc.error = p.error = &error, desc.size = f->size;
    if (lazily) desc.read = read_image, desc.read_user = f;
    else desc.data = f->data;
    p.threads = threads;
    if (llm_model_open(&model, &desc) || llm_pool_create(&pool, &p)) {
        CHECK(false, "%s", error.text);
        exit(1);
    }
    vocab = fixture_vocab(model);
    s.model = model, s.context = s.rows = s.logits = TOKENS, s.isa = isa, s.pool = pool, s.error = &error;
    if (llm_session_create(&session, &s) || llm_eval(session, ids, TOKENS)) {
        CHECK(false, "%s", error.text);
        exit(1);
    }
    all = (float *)malloc((size_t)TOKENS * vocab * sizeof *all);
    for (i = 0; all && i < TOKENS; i++)
        memcpy(all + (size_t)i * vocab, llm_session_logits(session, TOKENS - 1 - i), vocab * sizeof *all);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    llm_model_close(model);
    return all;
}

/* Tokens of [from, to), all over it. */
static void pick(int32_t *ids, uint32_t from, uint32_t to) {
    uint32_t i;
    for (i = 0; i < TOKENS; i++) ids[i] = (int32_t)(from + (to - from) * i / TOKENS);
    ids[TOKENS - 1] = (int32_t)to - 1;
}

static void test_same(const char *name, const char *type) {
    static const uint32_t firsts[3][LLM__VOCAB_PARTS] = {{0, 16}, {0, 64, 80}, {0, 16, 32, 48, 96, 112, 128, 240}},
                          counts[3] = {2, 3, LLM__VOCAB_PARTS};
    image whole = read_model(name, type);
    const uint32_t vocab = desc_of(&whole)->vocab;
    const size_t size = (size_t)TOKENS * vocab * sizeof(float);
    int32_t ids[TOKENS];
    float *want;
    uint32_t i, k;
    pick(ids, 0, vocab);
    want = logits_of(&whole, ids, NULL, 1, false);
    for (k = 0; k < 3; k++) {
        image f = cut(&whole, &whole, LLM__EMBEDDING, firsts[k], counts[k], k), both = f;
        if (find_tensor(&whole, LLM__HEAD, LLM__NONE)) {
            both = cut(&f, &whole, LLM__HEAD, firsts[2 - k], counts[2 - k], 1);
            free(f.data);
        }
        for (i = 0; llm_isa_name(i); i++) {
            float *got = logits_of(&both, ids, llm_isa_name(i), 1 + (i + k) % 3, (i + k) % 2);
            CHECK(!memcmp(got, want, size), "%s %s in %u parts, %s: other logits than whole", name, type,
                  (unsigned)counts[k], llm_isa_name(i));
            free(got);
        }
        free(both.data);
    }
    free(want);
    free(whole.data);
}

/* Every second part is of another type. */
static void test_mixed(const char *one, const char *two) {
    static const uint32_t firsts[4] = {0, 32, 64, 112}, all[1] = {0};
    image a = read_model("llama-untied", one), b = read_model("llama-untied", two);
    const uint32_t vocab = desc_of(&a)->vocab;
    image m = cut(&a, &b, LLM__HEAD, firsts, 4, 10), other = cut(&a, &b, LLM__HEAD, all, 1, 1);
    int32_t ids[TOKENS];
    float *got, *want[2];
    uint32_t i, t, k, wrong = 0;
    pick(ids, 0, vocab);
    got = logits_of(&m, ids, NULL, 2, true);
    want[0] = logits_of(&a, ids, NULL, 1, false), want[1] = logits_of(&other, ids, NULL, 1, false);
    for (t = 0; t < TOKENS; t++)
        for (i = 0; i < vocab; i++) {
            for (k = 3; i < firsts[k]; k--) {}
            wrong += memcmp(&got[t * vocab + i], &want[k % 2][t * vocab + i], sizeof *got) != 0;
        }
    CHECK(!wrong, "%s and %s: %u logits are not those of their part", one, two, (unsigned)wrong);
    free(got), free(want[0]), free(want[1]), free(m.data), free(other.data);

    m = cut(&a, &b, LLM__EMBEDDING, firsts, 4, 10), other = cut(&a, &b, LLM__EMBEDDING, all, 1, 1);
    for (k = 0; k < 4; k++) {
        pick(ids, firsts[k], k < 3 ? firsts[k + 1] : vocab);
        got = logits_of(&m, ids, NULL, 1, k % 2), want[0] = logits_of(k % 2 ? &other : &a, ids, NULL, 1, false);
        CHECK(!memcmp(got, want[0], (size_t)TOKENS * vocab * sizeof *got),
              "%s and %s: tokens of part %u are not looked up there", one, two, (unsigned)k);
        free(got), free(want[0]);
    }
    free(a.data), free(b.data), free(m.data), free(other.data);
}

/* One change to `whole` whose `role` is in three parts, and what a model says of it. */
#define REFUSED(change, result, ...)                                                  \
    do {                                                                              \
        image f = cut(&whole, &whole, role, firsts, 3, 0);                            \
        llm__file_tensor *t = part_of(&f, role, 1), *last = part_of(&f, role, 2);     \
        char message[200];                                                            \
        llm_error error;                                                              \
        llm_model *model;                                                             \
        llm_result r;                                                                 \
        (void)last, change;                                                           \
        seal(&f);                                                                     \
        r = open_image(&f, &model, &error);                                           \
        (void)snprintf(message, sizeof message, __VA_ARGS__);                         \
        CHECK(r == (result) && !strcmp(error.text, message), "%s", error.text);       \
        free(f.data);                                                                 \
    } while (0)

static llm__file_tensor *part_of(const image *f, uint32_t role, uint32_t part) {
    const llm__file_section *s = section_of(f, LLM__SECTION_TDIR);
    llm__file_tensor *t = (llm__file_tensor *)(void *)(f->data + s->offset + s->size);
    while ((--t)->role != role || t->expert != part) {}
    return t;
}

static void test_refused(void) {
    static const uint32_t firsts[] = {0, 32, 64};
    uint32_t role = LLM__EMBEDDING;
    image whole = read_model("llama-tied", "q8");
    const uint32_t vocab = desc_of(&whole)->vocab;
    const uint64_t panel = tensor_of(&whole, LLM__EMBEDDING, LLM__NONE)->size / ((vocab + 15) / 16);
    REFUSED(t->expert = 8, LLM_ERROR_UNSUPPORTED,
            "tensor embedding.8: expert 8, this version supports none (4294967295) and 1 .. 7");
    REFUSED(t->expert = 0, LLM_ERROR_UNSUPPORTED,
            "tensor embedding.0: expert 0, this version supports none (4294967295) and 1 .. 7");
    REFUSED(t->expert = 2, LLM_ERROR_FORMAT, "tensor embedding.2: stands twice in the directory");
    REFUSED(t->expert = 3, LLM_ERROR_FORMAT, "tensor embedding.2: there is no part before it");
    REFUSED(t->rows -= 1, LLM_ERROR_FORMAT, "tensor embedding.2: begins at row 63, not at a multiple of 16");
    REFUSED((t->rows -= 16, t->size -= panel), LLM_ERROR_FORMAT,
            "tensor embedding: %u rows in all parts, the description asks for %u", (unsigned)vocab - 16, (unsigned)vocab);
    REFUSED(last->rows = vocab + 1, LLM_ERROR_FORMAT, "tensor embedding.2: shape %u x %u, the description asks for %u x %u",
            (unsigned)vocab + 1, (unsigned)t->cols, (unsigned)vocab, (unsigned)t->cols);
    REFUSED(t->rotation = 32, LLM_ERROR_FORMAT, "tensor embedding.1: rotation 32, but a part before it has 64");
    REFUSED(f.data[t->offset] ^= 1, LLM_ERROR_CHECKSUM, "tensor embedding.1: its bytes sum to %016llx, not to %016llx",
            (unsigned long long)llm__xxh64(f.data + t->offset, (size_t)t->size), (unsigned long long)t->checksum);
    free(whole.data);
    whole = read_model("llama-untied", "q8"), role = LLM__HEAD;
    REFUSED(t->expert = 3, LLM_ERROR_FORMAT, "tensor head.2: there is no part before it");
    free(whole.data);
}

int main(int count, char **arguments) {
    static const char *const types[] = {"f32", "bf16", "q8", "q5", "q3", "q2"};
    size_t i, k;
    fixture_arguments(count, arguments);
    for (i = 0; i < FIXTURES; i++)
        for (k = 0; k < sizeof types / sizeof *types; k++) test_same(fixture_names[i], types[k]);
    test_mixed("q8", "q4");
    test_mixed("q3", "q2");
    test_mixed("f32", "q8");
    test_mixed("q2", "bf16");
    test_refused();
    return check_report("parts");
}
