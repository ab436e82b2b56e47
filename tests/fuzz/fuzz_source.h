/* What the converter does with a checkpoint of any format, short of writing. */
#ifndef LLM_TESTS_FUZZ_SOURCE_H
#define LLM_TESTS_FUZZ_SOURCE_H

static void fuzz_source(const source_file *s) {
    static float row[1 << 16];
    unsigned char *section = NULL;
    source_value value, element;
    llm_text key;
    plan p;
    llm_error error;
    size_t i, size, walked;
    llm_result r;
    memset(&error, 0, sizeof error);
    for (i = 0; s->entry(s, i, &key, &value); i++)
        for (walked = 0; value.kind == SOURCE_ARRAY && walked < 1000 && s->next(s, &value, &element);)
            walked++;
    for (i = 0; i < s->tensor_count; i++) {
        const source_tensor *t = &s->tensors[i];
        uint64_t rows = 1;
        unsigned k;
        for (k = 1; k < t->dims; k++) rows *= t->shape[k];
        if (!rows || t->shape[0] > 1 << 16) continue;
        s->row(s, t, 0, row);
        s->row(s, t, rows - 1, row);
    }
    memset(&p, 0, sizeof p);
    r = plan_open(&p, s, &error);
    fuzz_refusal(r, &error);
    if (r == LLM_OK) {
        r = vocabulary_section(s, p.desc.vocab, &section, &size, &error);
        fuzz_refusal(r, &error);
        if (r == LLM_OK && section) {
            llm_tokenizer t;
            r = llm__tokenizer_init(&t, section, size, p.desc.vocab, &error);
            FUZZ_CHECK(r == LLM_OK, "the section that was built is refused: %s", error.text);
        }
        free(section);
        plan_close(&p);
    }
}
#endif
