/* ======================================================================== */
/* Source: a checkpoint as the converter sees it                             */
/* ========================================================================
   Metadata by key, tensors by name, rows of tensors as floats. The names are GGUF's ("block_count",
   without the architecture in front of it; "blk.3.attn_q.weight"); a reader of another format
   translates its own into them. */
#ifndef CONVERT_SOURCE_H
#define CONVERT_SOURCE_H

enum { SOURCE_NONE, SOURCE_NUMBER, SOURCE_TEXT, SOURCE_ARRAY };

/* Arrays are walked with source_next, from a copy of the value. */
typedef struct source_value {
    int kind;
    double number;
    llm_text text;
    int element;        /* SOURCE_NUMBER or SOURCE_TEXT */
    uint64_t count;     /* elements of the array, those left while it is walked */
    const uint8_t *at;  /* private to the reader: the next element */
    uint32_t type;      /* private to the reader */
} source_value;

typedef struct source_tensor {
    llm_text name;
    const char *type;   /* as the source says it: "Q4_1" */
    unsigned bits;      /* of a weight's code, 32 and 16 for floats */
    unsigned dims;      /* 1 .. 4 */
    uint64_t shape[4];  /* elements; shape[0] lie side by side: a matrix is [shape[1]][shape[0]] */
    const uint8_t *data;
    uint32_t format;    /* private to the reader */
    bool used;          /* some tensor of the result is made of it */
} source_tensor;

typedef struct source_file source_file;
struct source_file {
    const char *format;      /* "GGUF": for people */
    uint32_t version;        /* of the format */
    char architecture[64];   /* "llama" */
    bool rope_interleaved;   /* rows of q and k lie as pairs (2i, 2i + 1) */
    source_tensor *tensors;  /* sorted by name, no name twice */
    size_t tensor_count;
    char note[256];          /* what the user should know of the input; empty: nothing */
    void *self;
    /* The value of a key; kind SOURCE_NONE when there is none. A key that begins with '.' has the
       architecture in front of it. */
    source_value (*value)(const source_file *s, const char *key);
    /* The next element of an array as a value of its own; false at the end. */
    bool (*next)(const source_file *s, source_value *array, source_value *element);
    /* Key number `index` (0 and up) and its value; false past the end. */
    bool (*entry)(const source_file *s, size_t index, llm_text *key, source_value *value);
    /* Row `row` of a tensor seen as [everything else][shape[0]], as floats. */
    void (*row)(const source_file *s, const source_tensor *t, uint64_t row, float *out);
    /* Panel `number` of a matrix, in a type of 3 to 8 bits; NULL: panels are quantised from rows. */
    void (*panel)(const source_file *s, const source_tensor *t, uint32_t type, uint64_t number,
                  uint8_t *panel);
    void (*close)(source_file *s);
    /* What the input calls the tensor `name`, for messages; NULL: the same. */
    void (*spell)(const source_file *s, const char *name, char *out, size_t room);
};

/* A name from outside, fit to be printed: no control characters, at most 99 bytes. */
typedef struct shown {
    char text[100];
} shown;
static LLM__UNUSED shown show(llm_text name) {
    shown s;
    size_t i, size = name.size < sizeof s.text - 1 ? name.size : sizeof s.text - 1;
    for (i = 0; i < size; i++)
        s.text[i] = (unsigned char)name.data[i] < 32 || (unsigned char)name.data[i] == 127
                        ? '?' : name.data[i];
    s.text[size] = 0;
    return s;
}

/* A value in a message: "8", "\"silu\"", "an array of 3 numbers", "missing". */
static LLM__UNUSED shown show_value(source_value value) {
    shown s;
    if (value.kind == SOURCE_NONE)
        (void)snprintf(s.text, sizeof s.text, "missing");
    else if (value.kind == SOURCE_NUMBER)
        (void)snprintf(s.text, sizeof s.text, "%.10g", value.number);
    else if (value.kind == SOURCE_TEXT)
        (void)snprintf(s.text, sizeof s.text, "\"%.90s\"", show(value.text).text);
    else
        (void)snprintf(s.text, sizeof s.text, "an array of %llu %s",
                       (unsigned long long)value.count,
                       value.element == SOURCE_TEXT ? "texts" : "numbers");
    return s;
}

static int text_compare(llm_text a, llm_text b) {
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size ? memcmp(a.data, b.data, size) : 0;
    return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

static LLM__UNUSED llm_text text_of(const char *string) {
    llm_text text;
    text.data = string;
    text.size = strlen(string);
    return text;
}

static LLM__UNUSED source_tensor *source_find(const source_file *s, const char *name) {
    llm_text wanted = text_of(name);
    size_t low = 0, high = s->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = text_compare(s->tensors[middle].name, wanted);
        if (order == 0) return &s->tensors[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

#endif
