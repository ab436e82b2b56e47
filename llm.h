/* llm.h - a language model in one C header - version 1.0

   A game, an app or a device includes this file, maps one model file, and has a model that talks:
   no build system, no runtime, no second process. C99, C11 and C++11; libc and libm alone.

   USE

   In one C or C++ file:

       #define LLM_IMPLEMENTATION
       #include "llm.h"

   and wherever else it is needed only the #include. Link with -lm -lpthread where the system has
   them apart. No flag for the CPU is needed: the instruction set is chosen at run time.

   A CHAT, IN TEN LINES (examples/minimal.c)

       #define LLM_IMPLEMENTATION
       #include "llm.h"

       int main(int argc, char **argv) {
           llm_error error;
           llm_model *model;
           llm_session *session;
           llm_chat *chat;
           llm_text piece;
           if (argc != 3) return 2;
           if (llm_model_open(&model, &(llm_model_desc){.path = argv[1], .error = &error}) ||
               llm_session_create(&session, &(llm_session_desc){.model = model, .error = &error}) ||
               llm_chat_create(&chat, &(llm_chat_desc){.session = session, .error = &error}))
               return fprintf(stderr, "%s\n", error.text), 1;
           if (llm_chat_say(chat, llm_string(argv[2]))) puts(llm_chat_error(chat)->text);
           while (llm_chat_next(chat, 0, &piece) == LLM_OK && piece.size)
               fwrite(piece.data, 1, piece.size, stdout);
           llm_chat_destroy(chat);
           llm_session_destroy(session);
           llm_model_close(model);
           return 0;
       }

   CONTENTS (search for the tag)

       >>configuration   macros, results, errors, memory
       >>tokenizer       text to ids and back
       >>model           an opened file, shared by everyone
       >>adapter         low-rank changes to its matrices, for any session
       >>pool            threads, or the host's own job system
       >>session         a timeline: tokens, their keys and values
       >>batch           several sessions in one evaluation
       >>sampler-api     from logits to a token
       >>stream-api      bytes of tokens to whole characters; stop strings
       >>template        from a conversation to the model's text
       >>chat            all of the above for the usual case
     and in the implementation
       >>base >>file >>formats >>tokenizer-section >>numerics >>kernels >>runner >>forward >>cache
       >>evaluate >>threads >>scalar >>avx2 >>avx-vnni >>avx512 >>amx
       >>simd128 >>dispatch

   CONFIGURATION (define before the #include that implements)

       LLM_STATIC        everything is static: one file, nothing exported
       LLM_API           how public functions are declared, if not `extern` (a DLL export, say)
       LLM_NO_THREADS    no threads of its own; a pool works through parallel_for only
       LLM_NO_MMAP       no file mapping; models are opened from memory
       LLM_NO_AVX2       without the AVX2 kernels, and so without any of the next three
       LLM_NO_AVX_VNNI   without the AVX-VNNI kernels
       LLM_NO_AVX512     without the AVX-512 kernels, and so without those for AMX
       LLM_NO_AMX        without the AMX kernels; Linux is never asked for its tiles then
       LLM_NO_SIMD128    without the NEON or WebAssembly kernels
       LLM_NO_TEMPLATE   without chat templates, and so without llm_chat
       LLM_PROFILE       evaluations keep account of their time, see llm_session_profile
       LLM_NO_MESSAGES   the text of an error is the name of its code, and nothing more
       LLM_OPENMP        with -fopenmp: pools run on OpenMP's threads

   WHAT IT KEEPS TO

   Same bits everywhere. The same model, tokens and seed give the same bits of every logit on every
   instruction set, with any number of threads, any cut of the prompt, any batch and any compiler
   flags. So a saved game can be a token log, and a bug report can be replayed. How: dots of
   quantised matrices are integers; every output row owns a lane, to which super-blocks are added
   in order; sums over a row use 16 virtual lanes and one tree; activations are quantised per token;
   exp, sine and reciprocals are its own (see >>numerics). That holds for damaged weights too: what
   is not finite shows in the logits, and every NaN there has the same bits. One exception: on
   32-bit x86 without SSE2 (-msse2 -mfpmath=sse) the logits are the same, but doubles are rounded
   twice, so a sampler may decide differently where two tokens are as good as equal.

   A guest. It never aborts, exits, prints, reads the environment, installs handlers or keeps
   writable globals. Every failure is a code and a message on the object, which stays usable. All
   memory comes through the caller's allocator, in sizes that a query tells beforehand; once a
   session exists, evaluating allocates nothing.

   Straight from the map. A file holds weights, vocabulary and hash tables as the kernels want
   them. Opening touches a few pages, whatever the size; nothing is repacked, copied or parsed.

   Bounded steps. An evaluation is a list of small items (see >>runner). It can be run for so many
   microseconds and resumed, cancelled, spread over threads, or handed to the host's job system.

   Nothing is trusted. Model files, text, templates: every size is checked once with arithmetic that
   cannot overflow, every index where it is used, and what a user types never becomes a control
   token unless the caller asks for it.

   FOUR OBJECTS

   llm_model    immutable; any number of sessions and threads share it
   llm_session  one timeline of tokens with its cache; one thread at a time. A fork costs a page
                table, not a copy: pages of 64 positions are reference-counted, copied on write.
                It may use llm_adapters: low-rank changes to the model, switched at any token
   llm_batch    rows of several sessions in one evaluation: the weights are read once for all
   llm_pool     threads; or the host's parallel_for; or none

   Settings are structs that start zeroed ("0 = default") and are passed by pointer. Functions
   return an llm_result; 0 is success.

   HOW IT WORKS

   The forward pass is data. A model's description is compiled into a flat list of steps, each with
   a number of independent items; one runner walks it (>>forward, >>runner). A row of an evaluation
   is a token of some session at some position: a prompt, a single decode step and eight sessions at
   once are the same steps with other rows.

   Weights are an int8 value times a scale per row and super-block of up to 256 columns; 2- to 6-bit
   formats are ways to store that value: M * U[code] - B with small tables (>>formats). Panels of 16
   rows are the same bytes for every instruction set. Inputs are quantised to int8 per token and
   super-block, after a Walsh-Hadamard rotation in blocks of 64 that the converter has applied to
   the weights as well: it spreads outliers, and costs additions only. Measured on SmolLM2-135M, KL
   divergence to float activations: unrotated 2.3e-2, rotated 2.1e-3. Embedding and output matrix may
   be cut into ranges of tokens, each with a format of its own: rare tokens do with fewer bits.

   The cache of keys and values is int8, rotated, with a scale per position and head, in the layout
   of the weights: scores and sums of values are integer dots as well. Its choice of 4 bits is made
   int8 by the page, for all queries that go through it together.

   LICENCE: MIT or public domain, your choice; see the end of this file. */

#ifndef LLM_H
#define LLM_H

/* ======================================================================== */
/* >>configuration                                                           */
/* ======================================================================== */

#if defined(LLM_IMPLEMENTATION) && !defined(_WIN32) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1 /* clock_gettime and the like under -std=c99, if this comes first */
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef LLM_API
#if defined(LLM_STATIC) && (defined(__GNUC__) || defined(__clang__))
#define LLM_API static __attribute__((unused))
#elif defined(LLM_STATIC)
#define LLM_API static
#elif defined(__cplusplus)
#define LLM_API extern "C"
#else
#define LLM_API extern
#endif
#endif

/* Every way a call can end. X(NAME, "what it means"). */
#define LLM_RESULTS(X)                                                              \
    X(OK, "success")                                                                \
    X(ERROR_ARGUMENT, "an argument is outside its documented range")               \
    X(ERROR_MEMORY, "the allocator returned no memory")                             \
    X(ERROR_IO, "a file could not be opened, read, mapped, locked or written")      \
    X(ERROR_FORMAT, "the data is not what its format requires")                    \
    X(ERROR_VERSION, "the data is of a version that this library does not read")   \
    X(ERROR_UNSUPPORTED, "valid, but not supported by this build or library")      \
    X(ERROR_CHECKSUM, "a checksum does not match its data")                         \
    X(ERROR_CONTEXT_FULL, "the session has no room for another token")             \
    X(ERROR_BUSY, "the object is in the middle of an evaluation")                   \
    X(ERROR_LIMIT, "a configured limit was reached")                               \
    X(ERROR_NUMERIC, "no finite number to work with")                               \
    X(ERROR_TEMPLATE, "the chat template is malformed or raised an error")         \
    X(ERROR_THREAD, "a thread could not be started")                               \
    X(CANCELLED, "the evaluation was cancelled")                                    \
    X(PENDING, "the budget ran out; call again to continue")

typedef enum llm_result {
#define LLM__ENUM(name, text) LLM_##name,
    LLM_RESULTS(LLM__ENUM)
#undef LLM__ENUM
        LLM_RESULT_COUNT
} llm_result;

/* A code and a message that says what was wrong, and where. docs/errors.md lists them. */
typedef struct llm_error {
    llm_result code;
    char text[252]; /* one line of UTF-8, always terminated; cut at the end if too long */
} llm_error;

/* Arguments, in every function below.

   A function that returns an llm_result refuses with LLM_ERROR_ARGUMENT: NULL for an object, a
   descriptor or a place for the result, unless it says "may be NULL"; NULL for an array whose count
   is not 0; a value outside the range that is stated where it is declared, NaN and infinities
   included. Then nothing has happened, but that the results are NULL or 0. The message names the
   argument, its value and the range. It stands in the descriptor's or the call's `error`, else on
   the object (llm_session_error and the like); with neither at hand there is the code alone.
   `error` may always be NULL, and is written only when a call fails.

   All other functions take NULL for the object. Those that destroy, close, cancel, stop, reset or
   reseed do nothing; the others say 0, -1, false, NULL or an empty text. The error of no object
   (llm_session_error(NULL)) is a refusal, not NULL.

   Undefined, as in C: pointers that are neither NULL nor what they should be; descriptors that were
   not zeroed first; an object used by two threads at once, where that is not allowed; an object
   used after it, or the model or pool that it was made with, is gone. */

/* Memory comes from here and nowhere else. All zero means malloc and free.
   `align` is a power of two, at most 64. `release` gets the size that was asked for; it may be
   NULL, for memory that is given back otherwise. */
typedef struct llm_allocator {
    void *(*allocate)(void *user, size_t size, size_t align); /* NULL: no memory */
    void (*release)(void *user, void *memory, size_t size);
    void *user;
} llm_allocator;

/* A piece of text: UTF-8, not necessarily terminated, never owned. */
typedef struct llm_text {
    const char *data;
    size_t size; /* bytes */
} llm_text;

/* "LLM_ERROR_FORMAT" and the like; never NULL. */
LLM_API const char *llm_result_name(llm_result result);


/* How weights are stored; bits per weight include scales and parameters (K a multiple of 256). */
typedef enum llm_type {
    LLM_F32,  /* 32 */
    LLM_BF16, /* 16 */
    LLM_Q8,   /* 8.0625 */
    LLM_Q6,   /* 6.3125 */
    LLM_Q5,   /* 5.3125 */
    LLM_Q4,   /* 4.3125 */
    LLM_Q3,   /* 3.3125 */
    LLM_Q2,   /* 2.3125 */
    LLM_TYPE_COUNT
} llm_type;

/* ======================================================================== */
/* >>tokenizer: text to token ids and back                                   */
/* ======================================================================== */
/* A tokenizer is a view of the tokenizer section of an opened file: opening it reads one page, and
   nothing is built. It is immutable, so any number of threads may use it at once; it lives as long
   as the memory that it looks into. Ids run from 0 to vocab_size - 1; -1 means "none". */

/* A few pointers into the section. Read it through the functions below. */
typedef struct llm_tokenizer {
    const void *section;
    const void *tokens;
    const uint8_t *kinds;
    const uint8_t *text;
    const void *trie;
    const void *added[2]; /* looked for in the text as it is, and once it is normalised */
    const uint64_t *pairs;
    const uint32_t *bytes;
    const uint32_t *starts;
    const uint32_t *joins;
    const uint32_t *ends;
    const uint8_t *nfc_page, *nfc_class;
    const uint32_t *nfc_split, *nfc_join, *words;
    uint32_t vocab, text_size, trie_count, added_count[2], pair_buckets, end_count;
    uint32_t nfc_pages, nfc_classes, nfc_splits, nfc_joins, word_ranges;
} llm_tokenizer;

/* What a token is (the numbers are GGUF's). */
typedef enum llm_token_kind {
    LLM_TOKEN_NONE = 0,         /* no such id */
    LLM_TOKEN_NORMAL = 1,       /* a piece of text */
    LLM_TOKEN_UNKNOWN = 2,      /* stands for what the vocabulary cannot say */
    LLM_TOKEN_CONTROL = 3,      /* a mark such as <|im_end|>: found only in text that may hold it */
    LLM_TOKEN_USER_DEFINED = 4, /* whole text found in any text, before everything else */
    LLM_TOKEN_UNUSED = 5,       /* fills the vocabulary; never produced */
    LLM_TOKEN_BYTE = 6          /* one byte of a character that the vocabulary lacks */
} llm_token_kind;

typedef struct llm_tokenizer_info {
    uint32_t vocab_size;
    int32_t bos, eos, eot, unknown, padding; /* -1: the model has none */
    bool add_bos, add_eos;                   /* what the model wants around a text */
    const uint32_t *ends;                    /* ids that end a generation */
    uint32_t end_count;
} llm_tokenizer_info;

/* No tokenizer: 0 and -1. */
LLM_API void llm_tokenizer_describe(const llm_tokenizer *t, llm_tokenizer_info *info);

typedef struct llm_tokenize_desc {
    const char *text; /* may be NULL when size is 0 */
    size_t size;      /* bytes */
    bool special;     /* the text may hold control tokens ("<|im_end|>" becomes one id). Leave it
                         false for text from outside, or whoever wrote it can end its own turn.
                         User-defined tokens are text and are found either way */
    int bos;          /* 0: as the model wants, 1: always (where there is one), -1: never */
    int eos;          /* the same for the end of the text */
    llm_allocator allocator; /* for working memory, released before the call returns */
    llm_error *error;        /* may be NULL */
} llm_tokenize_desc;

/* Text to ids, exactly as the vocabulary's original tokenizer does. `*count` becomes the number of
   ids that the text has. Fewer than `capacity`: all are written. More: the first `capacity` are
   written, and the result is LLM_ERROR_LIMIT, unless `ids` is NULL (a request for the count).
   The time is linear in the text, whatever the text. A stretch that the vocabulary's rules do not
   split (a word, a run of letters) needs at most 1.6 bytes of working memory a byte, normally 0.3;
   stretches below 512 bytes need none. Where the vocabulary wants its text in Unicode's normal form
   C (Qwen), what is in it already, as almost all text is, costs nothing; what is not is brought into
   it, for which a stretch of over 170 bytes without a space needs up to 16 bytes more a byte.
   Bytes that are no UTF-8: a byte-level vocabulary takes each as a symbol that is neither letter,
   number nor space; a SentencePiece vocabulary as its byte token. Both come back unchanged, as
   does a NUL. A byte-level vocabulary that lacks a byte drops it, as its original does. */
LLM_API llm_result llm_tokenize(const llm_tokenizer *t, const llm_tokenize_desc *desc, int32_t *ids,
                                size_t capacity, size_t *count);

typedef struct llm_detokenize_desc {
    const int32_t *ids;
    size_t count;
    bool special;     /* write the names of control tokens; false: they are left out */
    llm_error *error; /* may be NULL */
} llm_detokenize_desc;

/* Ids to bytes, which are UTF-8 where the ids stand for UTF-8. `*size` and `capacity` as above.
   LLM_ERROR_ARGUMENT: an id outside the vocabulary. */
LLM_API llm_result llm_detokenize(const llm_tokenizer *t, const llm_detokenize_desc *desc,
                                  char *text, size_t capacity, size_t *size);

/* The bytes that a token stands for, straight from the file, possibly a part of a character;
   empty for an id outside the vocabulary. A control token's bytes are its name. */
LLM_API llm_text llm_token_bytes(const llm_tokenizer *t, int32_t id);
LLM_API llm_token_kind llm_token_kind_of(const llm_tokenizer *t, int32_t id);
/* True for the ids that end a generation: eos, end of turn and the like. */
LLM_API bool llm_token_is_end(const llm_tokenizer *t, int32_t id);
/* The token of exactly these bytes, -1 if there is none. Control and user-defined tokens come
   before normal ones, normal ones before byte tokens. */
LLM_API int32_t llm_token_find(const llm_tokenizer *t, llm_text bytes);

/* ---- >>model ----------------------------------------------------------- */

/* An opened .llm file: immutable, shared by any number of sessions and threads. */
typedef struct llm_model llm_model;

/* Reads bytes offset .. offset + size - 1 of the file to `to`; false: it could not read them all.
   Called from any thread that opens, prefetches or evaluates (a pool's workers, the host's jobs),
   from several at once for different bytes: use pread, or a lock of your own. `size` is at most
   LLM_READ_MOST. It must not call the library with the model or with a session of it. */
typedef bool (*llm_read)(void *user, uint64_t offset, void *to, size_t size);
#define LLM_READ_MOST 262144u

/* Where the file is: exactly one of `path`, `data` and `read`. */
typedef struct llm_model_desc {
    const char *path; /* UTF-8; the file is mapped and must not be truncated while open */
    const void *data; /* the bytes of the file, 64-byte aligned, which must stay as they are until
                         the model is closed: an array, a part of a larger file */
    llm_read read;    /* pieces of the file, read when they are needed */
    void *read_user;  /* passed to it; both are used until the model is closed */
    size_t size;      /* bytes of the file, for `data` and `read` */
    bool verify;      /* check every section's checksum now: reads the whole file */
    llm_allocator allocator; /* a few KB for the directory; with `read` also the file's size and 4
                                bytes for each LLM_READ_MOST of it, in one piece, of which only
                                what is read gets touched */
    llm_error *error;        /* says why opening failed; may be NULL */
} llm_model_desc;

/* The file, or the bytes, must stay as they are until the model is closed: they are checked once
   and then used in place. A file that is truncated under the map ends the process (SIGBUS; on
   Windows the truncation fails): replace a model by renaming a new file over it, never by writing
   into it. A file that was damaged before it is opened is found: a cut one by its size, and a byte
   changed in any section by `verify`. */

/* Opens a model. *model is NULL unless the result is LLM_OK. Without `verify`, touches only the
   header, description, directory and the head of the tokenizer; every offset in them is proved to
   be in bounds. LLM_ERROR_IO, _FORMAT, _VERSION, _UNSUPPORTED, _CHECKSUM, _MEMORY, _ARGUMENT.

   With `read` it reads those, and the tokenizer, template and meta whole. Weights are read by the
   first evaluation that needs them, never twice; a read that fails ends that evaluation with
   LLM_ERROR_IO, and the next one reads again. The bits are those of a map. A step's budget does
   not reach into a read: it may be passed by those of one item, usually one or two. */
LLM_API llm_result llm_model_open(llm_model **model, const llm_model_desc *desc);

typedef struct llm_prefetch_desc {
    bool lock;          /* also keep it in memory until the model is closed (mlock, VirtualLock) */
    bool huge;          /* with llm_model_desc.read: ask the system for huge pages before they are
                           filled; ignored where there are none, and for maps and `data` */
    uint64_t budget_us; /* stop after so many microseconds; 0: when done */
    size_t *position;   /* bytes of the file that are done, 0 .. its size: where this call begins,
                           and where it stopped. NULL: begins at 0 */
    bool (*progress)(void *user, size_t done, size_t size); /* called after every LLM_READ_MOST
                           bytes; false stops. May be NULL */
    void *user;
    llm_error *error; /* may be NULL */
} llm_prefetch_desc;

/* Brings the file into memory, so that evaluations do not wait for it: a loading screen, or a
   thread of its own while others already evaluate. LLM_PENDING: the budget ran out, `position` says
   where; LLM_CANCELLED by `progress`; LLM_ERROR_IO: a read failed; LLM_ERROR_LIMIT: the system
   does not let the process lock so much (the message says how much): nothing is locked, and
   `position` is 0;
   LLM_ERROR_UNSUPPORTED: no locking on this system. The model is usable after each of them.

   Measured, decoding SmolLM2-135M in q4 on AVX-512 with one thread and two: `read` with huge pages
   is 1.12 and 1.05 times as fast as a map, without them 0.79 and 0.8 times. */
LLM_API llm_result llm_model_prefetch(llm_model *model, const llm_prefetch_desc *desc);

/* Close it after the last session, batch and tokenizer use. NULL is allowed. */
LLM_API void llm_model_close(llm_model *model);

typedef struct llm_model_info {
    llm_text family; /* "llama", "gemma3", … */
    uint32_t vocab;  /* tokens, and logits per position */
    uint32_t width;  /* of the residual stream */
    uint32_t layers;
    uint32_t heads, kv_heads, head_size;
    uint32_t ffn;         /* hidden width of the feed-forward */
    uint32_t context;     /* positions that the model was trained for */
    uint64_t file_size;   /* bytes */
    uint64_t weights;     /* number of weights in matrices */
    uint64_t weight_size; /* bytes that hold them */
} llm_model_info;

LLM_API void llm_model_get_info(const llm_model *model, llm_model_info *info);

/* Views into the file, valid until the model is closed; empty where the file has none. */
LLM_API const llm_tokenizer *llm_model_tokenizer(const llm_model *model); /* NULL: none */
LLM_API llm_text llm_model_template(const llm_model *model);              /* Jinja source */
LLM_API llm_text llm_model_meta(const llm_model *model);                  /* "key=value\n" lines */

/* ---- >>adapter ----------------------------------------------------------- */

/* Low-rank changes to a model's matrices (LoRA: Hu et al., arXiv 2106.09685): where the model has
   y = W x, a session that uses the adapter has y = W x + weight scale B (A x), with A of `rank` rows
   and B of `rank` columns. llm-convert makes such a file from an adapter and the model. It changes
   queries, keys, values, the attention's output, gate, up and down in any layer; not the embedding
   and the head. x is the input before it is quantised, and the products are float, in an order that
   is the same everywhere: bits do not depend on the batch, the threads or the instruction set.
   Immutable: any number of sessions and threads share one. */
typedef struct llm_adapter llm_adapter;

/* Where the file is: exactly one of `path` and `data`. */
typedef struct llm_adapter_desc {
    const llm_model *model; /* that it was made for, which must outlive it */
    const char *path;       /* as in llm_model_desc */
    const void *data;       /* the bytes, 64-byte aligned, used until the adapter is closed */
    size_t size;            /* of `data` */
    bool verify;            /* check every section's checksum now: reads the whole file */
    llm_allocator allocator; /* a few KB for the directory */
    llm_error *error;        /* says why opening failed; may be NULL */
} llm_adapter_desc;

/* Opens an adapter. *adapter is NULL unless the result is LLM_OK. What is said of a model's file
   and its checks holds for this one as well; also every shape is held against the model.
   LLM_ERROR_IO, _FORMAT, _VERSION, _UNSUPPORTED, _CHECKSUM, _MEMORY, _ARGUMENT. */
LLM_API llm_result llm_adapter_open(llm_adapter **adapter, const llm_adapter_desc *desc);

/* Close it after the last session that uses it was destroyed or uses others. NULL is allowed. */
LLM_API void llm_adapter_close(llm_adapter *adapter);

typedef struct llm_adapter_info {
    uint32_t matrices; /* that it changes; gate and up are two */
    uint32_t rank;     /* the largest, rounded up to a multiple of 16 */
    uint64_t weights;  /* in A and B together */
    uint64_t file_size; /* bytes */
    llm_text meta;      /* "key=value\n" lines, a view into the file */
} llm_adapter_info;

/* Without an adapter: all 0 and empty. */
LLM_API void llm_adapter_get_info(const llm_adapter *adapter, llm_adapter_info *info);

/* ---- >>pool -------------------------------------------------------------- */

/* Threads that evaluate. A pool serves one evaluation at a time; a session that finds it busy
   evaluates on its own thread alone, with the same bits. Any number of sessions and threads may
   share one.
   Its threads have stacks of 256 KB (more where the host's thread-local variables need it), and
   the signal mask of the thread that creates the pool. No call of this library needs more than
   64 KB of stack, on any thread.
   fork(): the child has none of the threads. There a pool runs everything on the calling thread,
   with the same bits, and can be destroyed; a parallel_for is called as ever. As with every object,
   what another thread was using at the moment of the fork must not be touched in the child. */
typedef struct llm_pool llm_pool;

/* The host's own job system: call `work(context, i)` for every i in 0 .. count - 1, on any
   threads, in any order, at once or one after the other, and return when all have returned. */
typedef void (*llm_parallel_for)(void *user, void (*work)(void *context, uint32_t index),
                                 void *context, uint32_t count);

typedef struct llm_pool_desc {
    uint32_t threads; /* the caller's own included; 0 = as many as there are cores */
    bool pin;         /* each thread of the pool, not the caller's, stays on a core of its own;
                         Linux only, elsewhere, or where it is refused, they are not pinned */
    llm_parallel_for
        parallel_for; /* given: no thread is started, `threads` says how many to ask for */
    void *user;       /* passed to it */
    llm_allocator allocator;
    llm_error *error;
} llm_pool_desc;

/* LLM_ERROR_ARGUMENT, _MEMORY; LLM_ERROR_THREAD when a thread does not start. Workers spin within
   an evaluation and for 50 microseconds after it; then they sleep. One that loses its core to
   another process while others wait for it stays out for some milliseconds (known on Linux). */
LLM_API llm_result llm_pool_create(llm_pool **pool, const llm_pool_desc *desc);

/* After the last evaluation with it; sessions and batches made with it may still be destroyed, read
   and rewound. NULL is allowed. */
LLM_API void llm_pool_destroy(llm_pool *pool);

LLM_API uint32_t llm_pool_threads(const llm_pool *pool); /* without a pool: 1 */

/* The instruction sets that this machine can run, best first: "amx", "avx512", "avx-vnni", "avx2"
   and "scalar", or "neon-i8mm", "neon-dot", "neon" and "scalar"; NULL past the end.
   Linux wants to be asked for "amx", once in a process (arch_prctl), because the stack frames of
   signals grow by 8 KB with it. That happens when a session or a batch is queried or created that
   may use it: isa NULL or "amx". A refusal leaves the next best where isa is NULL. */
LLM_API const char *llm_isa_name(uint32_t index);

/* ---- >>session ------------------------------------------------------------- */

/* One timeline: the tokens so far and their keys and values. Used by one thread at a time;
   only llm_session_cancel may come from another. Different sessions are independent, also forks
   that share pages. After fork() both processes may go on with it, each with a copy of its own,
   unless another thread was in a call with it, or with one that shares its pages. */
typedef struct llm_session llm_session;

typedef enum llm_kv {
    LLM_KV_Q8,  /* int8, rotated, a scale per position and head: 8.5 bits a value with heads of 64 */
    LLM_KV_F16, /* 16-bit float */
    LLM_KV_Q4,  /* 4 bits, rotated, a multiplier per 16 channels and a scale per position and head: 4.5
                   bits a value with heads of 64, 4.375 of 128. For a long context in little memory:
                   it costs quality. SmolLM2-135M, KL divergence to LLM_KV_F16 over windows of 512:
                   5.1e-2, int8 3.3e-3; perplexity 4.8 and 0.1 % up */
    LLM_KV_COUNT
} llm_kv;

typedef struct llm_session_desc {
    const llm_model *model;
    llm_pool *pool;   /* NULL: evaluates on the calling thread */
    uint32_t context; /* positions it can hold; 0 = the model's own, at most 4096; the
                                query says what came of it */
    uint32_t rows;    /* tokens evaluated at once, 1 .. 1024; 0 = 128 */
    uint32_t logits;  /* for how many of the last tokens fed to keep logits, 1 .. rows; 0 = 1 */
    llm_kv kv;
    bool batch_only; /* no evaluator of its own: it is only fed through an llm_batch */
    uint32_t spare;  /* further positions in its page store, for forks that diverge */
    uint32_t adapter_rank; /* room for adapters: the most that the ranks of those that are used at
                              once sum up to (llm_adapter_info.rank), 0 .. 8192; is rounded up to
                              a multiple of 16. 0: none can be used */
    const char *isa; /* force an instruction set by name; NULL = the best (llm_isa_name) */
    llm_allocator allocator;
    llm_error *error;
} llm_session_desc;

/* Fills in the defaults and says how many bytes llm_session_create will ask the allocator for,
   in one piece. Nothing is allocated. `resolved` and `bytes` may be NULL. */
LLM_API llm_result llm_session_query(const llm_session_desc *desc, llm_session_desc *resolved,
                                     size_t *bytes);

/* *session is NULL unless the result is LLM_OK. After this, evaluating allocates nothing. */
LLM_API llm_result llm_session_create(llm_session **session, const llm_session_desc *desc);
LLM_API void llm_session_destroy(llm_session *session);

/* A second timeline with the same past, for the cost of a page table. Both share the page store of
   the first (which lives until the last of them is destroyed) and copy a page when they diverge
   in it; with no page left, feeding says LLM_ERROR_CONTEXT_FULL. The child has no logits before its
   first evaluation. LLM_ERROR_BUSY: the parent was fed tokens that are not evaluated. */
LLM_API llm_result llm_session_fork(llm_session **child, llm_session *parent);

#define LLM_ADAPTERS_MOST 8u /* that a session uses at once */

/* From now on the session evaluates with these adapters, each with its weight, in this order, and
   with no others; `count` 0 (the arrays may be NULL): with none. A weight is any finite number; one
   of 0 is as good as no adapter, and no adapter gives the bits of a session that never had any.
   A fork begins with its parent's. Other sessions are not affected, also in the same batch.
   Tokens that were evaluated keep the keys and values, and the logits, that they had: only what is
   fed from now on is computed with these. To have all of a text so, rewind to 0 and feed it again.
   LLM_ERROR_ARGUMENT: more than LLM_ADAPTERS_MOST, an adapter of another model; LLM_ERROR_LIMIT:
   their ranks pass adapter_rank; LLM_ERROR_BUSY: the session was fed tokens that are not evaluated,
   or takes part in a batch. Then it uses what it used before. Costs no allocation. */
LLM_API llm_result llm_session_set_adapters(llm_session *session,
                                            const llm_adapter *const *adapters,
                                            const float *weights, size_t count);

/* Appends tokens to be evaluated; nothing is computed yet. All or nothing: LLM_ERROR_CONTEXT_FULL
   when they do not fit, LLM_ERROR_ARGUMENT for an id outside the vocabulary. */
LLM_API llm_result llm_session_feed(llm_session *session, const int32_t *tokens, size_t count);

/* Evaluates what was fed, for about `budget_us` microseconds (0: until done): LLM_PENDING when
   there is more to do, LLM_OK when there is nothing left, LLM_CANCELLED. The bits of the logits do
   not depend on how the work was cut. LLM_ERROR_IO: weights could not be read (llm_model_desc.read);
   nothing that was fed is lost, the next step reads them again, llm_session_rewind drops it. */
LLM_API llm_result llm_step(llm_session *session, uint64_t budget_us);

/* Feed and step until done. After LLM_ERROR_IO the session is where it was before the call. */
LLM_API llm_result llm_eval(llm_session *session, const int32_t *tokens, size_t count);

/* From any thread: the step that runs, or else the next one, returns LLM_CANCELLED soon. Tokens
   that were fed and not finished are dropped; llm_session_position says where the session is. */
LLM_API void llm_session_cancel(llm_session *session);

/* Logits f32 [vocab] of the last evaluated token, or of the `back`-th before it; NULL where
   there are none (nothing evaluated, not kept). Valid until the next feed or destroy. */
LLM_API const float *llm_session_logits(const llm_session *session, uint32_t back);

/* Goes back to any earlier position; keeps the first `position` tokens. What was fed and is not
   evaluated is dropped. LLM_ERROR_ARGUMENT past the present position. */
LLM_API llm_result llm_session_rewind(llm_session *session, uint32_t position);

LLM_API uint32_t llm_session_position(const llm_session *session);     /* tokens evaluated */
LLM_API uint32_t llm_session_context(const llm_session *session);      /* tokens it can hold */
LLM_API const int32_t *llm_session_tokens(const llm_session *session); /* i32 [position] */
LLM_API const llm_model *llm_session_model(const llm_session *session);
LLM_API const char *llm_session_isa(const llm_session *session);

/* What the last refusal of this session was about. */
LLM_API const llm_error *llm_session_error(const llm_session *session);

/* ---- >>batch ------------------------------------------------------------- */

/* Rows of several sessions of one model in one evaluation. The weights are read once for all. */
typedef struct llm_batch llm_batch;

typedef struct llm_batch_desc {
    const llm_model *model;
    llm_pool *pool;
    uint32_t rows;   /* tokens in one evaluation, 1 .. 1024; 0 = 128 */
    uint32_t logits; /* rows of logits, 1 .. rows; 0 = min(rows, 16) */
    llm_kv kv;       /* of the sessions that take part */
    uint32_t adapter_rank; /* as in llm_session_desc, of any one of them */
    const char *isa;
    llm_allocator allocator;
    llm_error *error;
} llm_batch_desc;

LLM_API llm_result llm_batch_query(const llm_batch_desc *desc, llm_batch_desc *resolved,
                                   size_t *bytes);
LLM_API llm_result llm_batch_create(llm_batch **batch, const llm_batch_desc *desc);
LLM_API void llm_batch_destroy(llm_batch *batch); /* its sessions first finish or are dropped */

/* Adds tokens of a session to the evaluation that comes; logits are kept for the last `logits` of
   them. All or nothing: LLM_ERROR_LIMIT when rows, logits or adapter_rank do not suffice,
   LLM_ERROR_CONTEXT_FULL, LLM_ERROR_BUSY when the session already takes part in one. */
LLM_API llm_result llm_batch_add(llm_batch *batch, llm_session *session, const int32_t *tokens,
                                 size_t count, uint32_t logits);

/* As llm_step, for all that was added. When it returns LLM_OK the sessions have moved on and the
   next llm_batch_add begins a new evaluation. After LLM_ERROR_IO step again, or cancel and step. */
LLM_API llm_result llm_batch_step(llm_batch *batch, uint64_t budget_us);
LLM_API void llm_batch_cancel(llm_batch *batch);

/* As llm_session_logits, for a session of the last finished evaluation, which must still exist. */
LLM_API const float *llm_batch_logits(const llm_batch *batch, const llm_session *session,
                                      uint32_t back);
LLM_API const llm_error *llm_batch_error(const llm_batch *batch);

#if defined(LLM_PROFILE)
/* Where the time of one lane (a thread of the pool; 0 is the caller's) went since the last call, by
   kind of step. The lanes' sums of work and wait are what evaluations took, but for starting. A
   single row's "input" is made by every lane; its "heads" count as "attend". */
#define LLM_PROFILE_STEPS 10
typedef struct llm_profile {
    const char *step; /* "embed", "input", "qkv", … */
    uint64_t items;   /* done by this lane */
    uint64_t work_ns; /* nanoseconds */
    uint64_t wait_ns; /* for other lanes, after it */
} llm_profile;

/* Fills in profile [LLM_PROFILE_STEPS] and returns how many; 0 if there is no such lane, or no
   evaluator. Not while an evaluation runs. */
LLM_API uint32_t llm_session_profile(llm_session *session, uint32_t lane, llm_profile *profile);
LLM_API uint32_t llm_batch_profile(llm_batch *batch, uint32_t lane, llm_profile *profile);
#endif

/* ======================================================================== */
/* >>sampler-api: from logits to a token                                     */
/*                                                                           */
/* A sampler turns an array of logits into one token. It needs no model: any */
/* float array will do. Its answer is a pure function of (settings, tokens    */
/* in the window, seed, stream, position, logits, mask), with the same bits   */
/* on every machine, compiler and flag, so a rewound session replays itself.  */
/*                                                                           */
/* The chain, in this order (the default order of llama.cpp):                 */
/*   logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw.  */
/* The three that cut by probability see the probabilities at temperature 1   */
/* of what the steps before them kept. Where an order decides, the larger     */
/* logit comes first, and of equal logits (0 equals -0) the lower token.      */
/*                                                                           */
/* NaN and -inf logits are never chosen; +inf counts as the largest float.    */
/* A token whose probability is below 2^-42 of the largest counts as zero     */
/* (of the largest kept one, for the draw).                                   */
/*                                                                           */
/* Work is linear in the vocabulary; after creation nothing is allocated.     */
/* One thread at a time per sampler; different samplers are independent.      */
/* ======================================================================== */
typedef struct llm_sampler llm_sampler;

enum {
    LLM_SAMPLER_MAX_VOCAB = 1 << 21,
    LLM_SAMPLER_MAX_WINDOW = 1 << 16,
    LLM_SAMPLER_MAX_TOP_LOGPROBS = 1024
};

/* Added to a token's logit. -INFINITY forbids the token; NaN and +inf are refused. */
typedef struct llm_logit_bias {
    uint32_t token;
    float bias;
} llm_logit_bias;

/* All zero: greedy, nothing cut, no penalties. */
typedef struct llm_sampler_desc {
    float temperature;   /* 1e-4 to 1e4. 0: greedy, the largest logit; the cuts do nothing then */
    uint32_t top_k;      /* keep the k largest logits. 0: all */
    float typical_p;     /* locally typical sampling (Meister et al. 2022), 0 to 1. 0 and 1: off */
    float top_p;         /* nucleus sampling (Holtzman et al. 2020), 0 to 1. 0 and 1: off */
    float min_p;         /* drop tokens below min_p x the largest probability, 0 to 1. 0: off */

    /* For each token found n > 0 times in the window: positive logits are divided, others are
       multiplied by repetition_penalty (Keskar et al. 2019); then n x frequency_penalty +
       presence_penalty is subtracted (OpenAI). */
    float repetition_penalty; /* 0.01 to 100. 0 means 1: off */
    float frequency_penalty;  /* -100 to 100. 0: off */
    float presence_penalty;   /* -100 to 100. 0: off */
    uint32_t penalty_window;  /* the last accepted tokens that count, up to 65,536. 0 means 64 */

    const llm_logit_bias *bias; /* copied; a token listed twice gets the sum */
    size_t bias_count;

    bool logprobs;         /* report the log-probability of the chosen token */
    uint32_t top_logprobs; /* and of this many most probable ones, up to 1,024; implies logprobs */

    uint64_t seed;   /* every value is a seed, 0 too */
    uint64_t stream; /* keeps samplers of one seed apart: session, NPC, ... */
} llm_sampler_desc;

typedef struct llm_candidate {
    uint32_t token;
    float logprob; /* natural logarithm */
} llm_candidate;

/* What a call chose. Log-probabilities are the model's own: of the logits as given, before bias,
   penalties, mask, cuts and temperature. */
typedef struct llm_sample {
    uint32_t token;
    float logprob;            /* 0 where logprobs were not asked for */
    const llm_candidate *top; /* most probable first; the sampler's, valid until its next call */
    size_t top_count;         /* at most top_logprobs; -inf and NaN logits are not listed */
} llm_sample;

/* Checks the settings. `resolved` (may be NULL) gets them with the defaults filled in, `bytes` (may
   be NULL) the exact size of the one block that llm_sampler_create will ask the allocator for.
   LLM_ERROR_ARGUMENT names the field, the value found and the range expected. */
LLM_API llm_result llm_sampler_query(const llm_sampler_desc *desc, size_t vocab,
                                     llm_sampler_desc *resolved, size_t *bytes, llm_error *error);

/* Makes a sampler for `vocab` logits (1 to 2^21). `desc` NULL: all zero. `allocator` NULL: malloc;
   else it is copied, and its functions are used until llm_sampler_destroy. */
LLM_API llm_result llm_sampler_create(const llm_sampler_desc *desc, size_t vocab,
                                      const llm_allocator *allocator, llm_sampler **sampler,
                                      llm_error *error);
LLM_API void llm_sampler_destroy(llm_sampler *sampler); /* NULL is fine */

/* Chooses a token from logits[vocab]. `mask` (may be NULL) allows token i where bit i % 32 of
   mask[i / 32] is set. Changes nothing but the space that `out->top` lies in: asked again before
   llm_sampler_accept, the answer is the same. LLM_ERROR_NUMERIC: no allowed finite logit. */
LLM_API llm_result llm_sampler_sample(llm_sampler *sampler, const float *logits,
                                      const uint32_t *mask, llm_sample *out, llm_error *error);

/* The distribution that llm_sampler_sample would draw from, after the whole chain: the tokens that
   can be drawn, by ascending token, with the logarithm of their probability. Writes at most
   `capacity`, sets `count` to how many there are. Errors as llm_sampler_sample. */
LLM_API llm_result llm_sampler_distribution(llm_sampler *sampler, const float *logits,
                                            const uint32_t *mask, llm_candidate *candidates,
                                            size_t capacity, size_t *count, llm_error *error);

/* Tells the sampler that `token` is part of the text: it enters the penalty window, and the
   position advances by one. Whether the prompt's tokens are fed too is the caller's choice. */
LLM_API llm_result llm_sampler_accept(llm_sampler *sampler, uint32_t token, llm_error *error);

/* Puts the sampler where a session was after `position` tokens: `tokens[count]` are the last ones
   before that position, oldest first; those beyond the window are not looked at. Nothing changes on
   an error. llm_sampler_rewind(s, 0, NULL, 0, NULL) is a reset. */
LLM_API llm_result llm_sampler_rewind(llm_sampler *sampler, uint64_t position,
                                      const uint32_t *tokens, size_t count, llm_error *error);

/* Copies window, position, seed and stream (not the settings) between samplers whose vocabulary and
   penalty window are the same. */
LLM_API llm_result llm_sampler_copy(llm_sampler *to, const llm_sampler *from, llm_error *error);

LLM_API uint64_t llm_sampler_position(const llm_sampler *sampler); /* tokens accepted so far */
LLM_API uint64_t llm_sampler_seed(const llm_sampler *sampler);
LLM_API void llm_sampler_reseed(llm_sampler *sampler, uint64_t seed, uint64_t stream);

/* The random 64 bits of a position: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
   as 1, 2, 3", 2011) with counter (position, stream) and key (seed), words 0, 1 of its output. */
LLM_API uint64_t llm_random(uint64_t seed, uint64_t stream, uint64_t position);

/* ======================================================================== */
/* >>stream-api: bytes of tokens in, whole characters out                    */
/*                                                                           */
/* A token of a byte-level vocabulary can end in the middle of a character.   */
/* A stream takes the bytes as they come and gives text of whole characters:  */
/* valid UTF-8 at every point. Ill-formed bytes become U+FFFD, one for each   */
/* maximal subpart (The Unicode Standard, section 3.9, table 3-11), the same  */
/* as Python's errors="replace" and the WHATWG decoder.                       */
/*                                                                           */
/* It also watches for stop strings, wherever token borders fall. Text that   */
/* may yet turn out to be the start of one is held back. The first one to be  */
/* complete ends the stream; if several end at the same byte, the longest,    */
/* then the one listed first. The text before it comes out, it and what       */
/* follows do not. They are looked for in the text that comes out, U+FFFD     */
/* included. Nothing is allocated after creation. One thread at a time.       */
/* ======================================================================== */
typedef struct llm_stream llm_stream;

enum {
    LLM_STREAM_MAX_STOPS = 256,
    LLM_STREAM_MAX_STOP_BYTES = 4096 /* of one stop string */
};

/* All zero: no stop strings. */
typedef struct llm_stream_desc {
    const llm_text *stops; /* copied; each valid UTF-8, 1 to 4,096 bytes */
    size_t stop_count;     /* 0 to 256 */
} llm_stream_desc;

/* Takes a piece of text, whole characters, valid during the call. false: no more, please. */
typedef bool (*llm_emit)(void *user, llm_text text);

/* Checks the settings. `bytes` (may be NULL) gets the exact size of the one block that
   llm_stream_create will ask for: some hundred bytes, 3 x every stop string, and the longest.
   LLM_ERROR_ARGUMENT names the stop string, what is wrong and what is expected. */
LLM_API llm_result llm_stream_query(const llm_stream_desc *desc, size_t *bytes, llm_error *error);

/* `desc` NULL: all zero. `allocator` NULL: malloc; else copied, used until llm_stream_destroy. */
LLM_API llm_result llm_stream_create(const llm_stream_desc *desc, const llm_allocator *allocator,
                                     llm_stream **stream, llm_error *error);
LLM_API void llm_stream_destroy(llm_stream *stream); /* NULL is fine */

/* Gives the next piece of text that is certain: takes bytes from the front of `input`, as many as
   it needs, and says true with a non-empty `output` (valid until the next call), or false when
   there is nothing to give: all of `input` is used, or a stop string was found (what follows it is
   then left in `input`). Call it until it says false. `input` NULL means that the text ends: gives
   what was held back, an unfinished character as U+FFFD, and is ready for another text. */
LLM_API bool llm_stream_next(llm_stream *stream, llm_text *input, llm_text *output);

/* The same with a callback: all of `bytes`; llm_stream_flush at the end of the text.
   LLM_CANCELLED: `emit` said false, and what it had not seen of these bytes is dropped. */
LLM_API llm_result llm_stream_feed(llm_stream *stream, llm_text bytes, llm_emit emit, void *user);
LLM_API llm_result llm_stream_flush(llm_stream *stream, llm_emit emit, void *user);

/* Index of the stop string that was found, or -1. Stays until llm_stream_reset. */
LLM_API int llm_stream_stopped(const llm_stream *stream);

/* Forgets what was fed and found. */
LLM_API void llm_stream_reset(llm_stream *stream);

/* ======================================================================== */
/* >>template api: from a conversation to the text that a model was trained on */
/* ======================================================================== */
/* A model comes with a chat template: a program in the Jinja language that turns messages into one
   text. Templates are rendered here as `jinja2` 3.1 does in the environment that Hugging Face's
   `apply_chat_template` sets up (trim_blocks, lstrip_blocks, break and continue, `generation`
   blocks, raise_exception, strftime_now, tojson as json.dumps).
   Source: https://jinja.palletsprojects.com/en/stable/templates/ and jinja2's own lexer and parser.

   The language: text, comments, raw; for (with if, else, unpacking, and `loop` except changed and
   recursion), if, set (also of a namespace's attribute, and as a block), macro, filter, with,
   break, continue, generation; all operators, slices and literals; the filters, tests, methods and
   functions listed in LLM__TPL_NATIVES. What is missing (include, extends, block, call, import,
   `*args`, integers beyond 64 bits, the remainder and the floored quotient of floats, ...) ends
   with LLM_ERROR_UNSUPPORTED and a message that names it; a filter, test, method or function that
   is missing only when it is reached, so that a template with an exotic branch still serves for
   the others.

   A template is data from somewhere, so nothing of a message is ever taken for a part of the
   program, and everything is bounded: steps, output and memory by the descriptor; and by the
   interpreter 16 MiB of template, 112 levels of nesting in it (a parenthesis is about 3), 48 levels
   of JSON and of values that are printed or compared, 512 values, 256 scopes, 64 loops and 64
   macro calls at once, 64 arguments, 32 parameters, 8 names in a `with`, 100,000 items of a range,
   integers of 64 bits, 2 GiB of one text. Beyond a bound is LLM_ERROR_LIMIT. No more than 48 KiB of
   the thread's stack are used.

   Origin. Every byte of the output is known to be trusted (it was written in the template, or is
   the text of bos_token or eos_token, a number, or a date) or not (it came from a message, a tool
   or a variable, whatever filters and methods have done to it since). A tokenizer should recognise
   control tokens only in trusted bytes: then a user who types "<|im_end|>" ends nothing. A
   message's role counts as trusted when it is one of the usual words (system, user, assistant,
   tool, developer, model, function, ipython, observation), because some templates build a token
   from it ('<|' + role + '|>'). */

#ifndef LLM_NO_TEMPLATE

/* A named value: a variable of the template, or another key of a message. */
typedef struct llm_template_field {
    llm_text name;
    llm_text text; /* its value */
    bool json;     /* `text` is JSON of any type (true, 3, [..], {..}), and not a string as it is */
    bool trusted;  /* control tokens may be recognised in it */
} llm_template_field;

/* One message of a conversation. `content.data` NULL: none (as beside a tool call). Other keys
   (name, reasoning_content, tool_calls as JSON, ...) are fields; a field named "content" or "role"
   takes the place of the text (a list of parts as JSON, for example). */
typedef struct llm_message {
    llm_text role;
    llm_text content;
    const llm_template_field *fields;
    size_t n_fields;
} llm_message;

/* A moment for strftime_now, as on the wall: month 1..12, day 1..31, hour 0..23. */
typedef struct llm_template_date {
    int year, month, day, hour, minute, second; /* year 0: strftime_now is not defined */
} llm_template_date;

typedef struct llm_template_desc {
    llm_text text; /* the template; at most 16 MiB */
    const llm_message *messages;
    size_t n_messages;
    bool add_generation_prompt; /* end with the beginning of the model's answer */
    llm_text bos_token;         /* `data` NULL: not defined */
    llm_text eos_token;
    llm_text tools; /* JSON, a list of function schemas; `data` NULL: none */
    const llm_template_field *variables; /* enable_thinking and the like */
    size_t n_variables;
    llm_template_date date;
    uint64_t max_steps; /* 0: 20 million operations, about a second of a hostile template */
    size_t max_output;  /* bytes; 0: 16 MiB */
    size_t max_memory;  /* bytes; 0: 128 MiB */
    llm_allocator allocator; /* everything is given back before the call returns */
    llm_error *error;        /* may be NULL */
} llm_template_desc;

/* Renders into `out` (UTF-8, not terminated) and sets `*size` to the bytes of the whole text. A
   buffer that is too small (or NULL with capacity 0) ends with LLM_ERROR_ARGUMENT and `*size` set
   to what is needed; any other failure sets 0. LLM_ERROR_TEMPLATE: the template is malformed, did
   what Python would refuse, or called raise_exception; LLM_ERROR_UNSUPPORTED: a construct outside
   the subset; LLM_ERROR_FORMAT: JSON that is none; LLM_ERROR_LIMIT: a bound was reached;
   LLM_ERROR_MEMORY. The message says the line and the column. Any thread; no state is kept. */
LLM_API llm_result llm_template_render(const llm_template_desc *desc, char *out, size_t capacity,
                                       size_t *size);

/* Renders, then hands the text to `write` in order, in runs of one origin each, none of them empty.
   A result of `write` other than LLM_OK stops and is returned. Nothing is written unless the whole
   text could be rendered. */
typedef llm_result (*llm_template_write)(void *user, const char *data, size_t size, bool trusted);
LLM_API llm_result llm_template_runs(const llm_template_desc *desc, llm_template_write write,
                                     void *user);

#endif /* LLM_NO_TEMPLATE */

/* ======================================================================== */
/* >>chat-api: a conversation                                                */
/*                                                                           */
/* A chat holds messages and turns them into answers: it renders them with    */
/* the chat template, tokenizes the text, evaluates in a session what is new, */
/* samples, and gives whole characters. What the session already holds is     */
/* kept, so a turn costs its own tokens only, and dropping or replacing        */
/* messages costs what comes after them.                                      */
/*                                                                           */
/* Control tokens are recognised in what the template wrote, never in what a   */
/* message says; control tokens of an answer are not shown.                   */
/*                                                                           */
/* One thread at a time. The session is the chat's while an answer is made;   */
/* between answers anyone may use it, other chats too.                        */
/* ======================================================================== */
/* A text that ends with a NUL, which is not counted; NULL gives the empty text. */
LLM_API llm_text llm_string(const char *terminated);

#ifndef LLM_NO_TEMPLATE
typedef struct llm_chat llm_chat;

typedef struct llm_chat_desc {
    llm_session *session;     /* with an evaluator of its own (not batch_only); outlives the chat */
    llm_sampler_desc sampler; /* all zero: greedy. Penalties look at the answer at hand */
    llm_text template_text;   /* empty: the model's own. It has none: ChatML if its vocabulary has
                                 <|im_start|> and <|im_end|>, Gemma's form if <start_of_turn> */
    llm_text system;          /* first message; empty: none */
    const llm_text *stops;    /* stop strings, as in llm_stream_desc; each ends an answer */
    size_t stop_count;
    uint32_t max_tokens;      /* of an answer; 0: until the context is full */
    uint32_t room;            /* positions that an answer must have left to begin; 0: 1 */
    /* For the template, as in llm_template_desc. */
    llm_text tools;
    const llm_template_field *variables;
    size_t n_variables;
    llm_template_date date;
    llm_allocator allocator;
    llm_error *error; /* says why creation failed; may be NULL */
} llm_chat_desc;

/* Copies all that the descriptor points to but the session. *chat is NULL unless the result is
   LLM_OK. LLM_ERROR_UNSUPPORTED: no tokenizer, or no template and no known form. */
LLM_API llm_result llm_chat_create(llm_chat **chat, const llm_chat_desc *desc);
LLM_API void llm_chat_destroy(llm_chat *chat); /* NULL is allowed */

/* Adds a message, and no more. Texts are copied. LLM_ERROR_BUSY while an answer is made. */
LLM_API llm_result llm_chat_add(llm_chat *chat, llm_text role, llm_text content);

/* Begins an answer to the messages so far: renders, tokenizes, and tells the session what to
   evaluate. Nothing is computed yet. LLM_ERROR_CONTEXT_FULL when the conversation leaves less
   than `room` (llm_chat_forget makes some), LLM_ERROR_TEMPLATE and others: the conversation is
   as before. */
LLM_API llm_result llm_chat_answer(llm_chat *chat);

/* llm_chat_add of a user's message, then llm_chat_answer; on an error the message is not added. */
LLM_API llm_result llm_chat_say(llm_chat *chat, llm_text text);

/* The next piece of the answer, for about `budget_us` microseconds (0: however long it takes).
   LLM_OK with a non-empty piece: whole UTF-8 characters, valid until the next call. LLM_OK with
   an empty piece: the answer is complete and has become an assistant's message. LLM_PENDING: the
   budget ran out. LLM_CANCELLED (by llm_session_cancel) and errors: nothing is lost; the next call
   goes on, llm_chat_stop ends the answer there.
   Allocates only when the answer grows beyond what llm_chat_answer set aside (8 bytes a token
   of max_tokens or of the rest of the context), and never within an evaluation. */
LLM_API llm_result llm_chat_next(llm_chat *chat, uint64_t budget_us, llm_text *piece);

/* Ends the answer here. What was shown of it becomes an assistant's message. */
LLM_API void llm_chat_stop(llm_chat *chat);

typedef enum llm_chat_ending {
    LLM_CHAT_NONE,         /* no answer yet, or one is being made */
    LLM_CHAT_END_TOKEN,    /* the model was done */
    LLM_CHAT_STOP_STRING,  /* of the descriptor's stops */
    LLM_CHAT_MAX_TOKENS,   /* of the descriptor */
    LLM_CHAT_CONTEXT_FULL, /* the session holds no more */
    LLM_CHAT_STOPPED       /* llm_chat_stop */
} llm_chat_ending;

/* How the last answer ended. */
LLM_API llm_chat_ending llm_chat_end(const llm_chat *chat);

/* The conversation, oldest first; valid until the next call that changes it. */
LLM_API const llm_message *llm_chat_messages(const llm_chat *chat, size_t *count);

/* Three ways to drop messages: the oldest n after a leading system message; all but the first n;
   all but a leading system message. The next answer evaluates only what comes after the first one
   that changed. LLM_ERROR_BUSY while an answer is made, LLM_ERROR_ARGUMENT when there are fewer. */
LLM_API llm_result llm_chat_forget(llm_chat *chat, size_t n);
LLM_API llm_result llm_chat_rewind(llm_chat *chat, size_t n);
LLM_API llm_result llm_chat_reset(llm_chat *chat);

/* How many tokens the last answer has, and the prompt before it. */
LLM_API uint32_t llm_chat_answer_tokens(const llm_chat *chat);
LLM_API uint32_t llm_chat_prompt_tokens(const llm_chat *chat);

LLM_API llm_sampler *llm_chat_sampler(llm_chat *chat); /* to reseed it, for another answer */

/* What the last error was about. */
LLM_API const llm_error *llm_chat_error(const llm_chat *chat);
#endif /* LLM_NO_TEMPLATE */

#endif /* LLM_H */

/* ======================================================================== */
/*                             IMPLEMENTATION                               */
/* ======================================================================== */
#if defined(LLM_IMPLEMENTATION) && !defined(LLM__IMPLEMENTED)
#define LLM__IMPLEMENTED

/* GCC obeys this, for intrinsics as well; clang needs LLM__PIN, see >>numerics. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-fast-math", "fp-contract=off")
#elif defined(_MSC_VER) && !defined(__clang__)
#pragma float_control(precise, on, push)
#pragma fp_contract(off)
#endif

/* Between LLM__SMALL and LLM__SMALL_END is what runs once or seldom: it is compiled for size, at
   whatever level the host compiles the rest. */
#if defined(__clang__)
#define LLM__SMALL _Pragma("clang attribute push(__attribute__((minsize)), apply_to = function)")
#define LLM__SMALL_END _Pragma("clang attribute pop")
#elif defined(__GNUC__) && __GNUC__ >= 12
#define LLM__SMALL     _Pragma("GCC push_options") _Pragma("GCC optimize(\"Oz\")")
#define LLM__SMALL_END _Pragma("GCC pop_options")
#elif defined(__GNUC__)
#define LLM__SMALL     _Pragma("GCC push_options") _Pragma("GCC optimize(\"Os\")")
#define LLM__SMALL_END _Pragma("GCC pop_options")
#else
#define LLM__SMALL
#define LLM__SMALL_END
#endif

/* ======================================================================== */
/* >>base: errors, memory, checked arithmetic, unaligned reads              */
/* ======================================================================== */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#if !defined(LLM_NO_MMAP)
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#endif
#if !defined(LLM_NO_THREADS)
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#if defined(__linux__)
#include <sys/resource.h>
#endif
#endif
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#ifndef llm__syscall /* else emulated: tests/emulate/cpu.h */
extern long llm__syscall(long number, ...) __asm__("syscall"); /* unistd.h may keep it to itself */
#endif
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

/* The old C library of Windows does not know %zu, which mingw's own function does. */
#if defined(__MINGW32__)
#define llm__vsnprintf __mingw_vsnprintf
#define LLM__PRINTF_AS gnu_printf
#else
#define llm__vsnprintf vsnprintf
#define LLM__PRINTF_AS printf
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LLM__PRINTF(f, a) __attribute__((format(LLM__PRINTF_AS, f, a)))
#define LLM__UNUSED       __attribute__((unused))
#define LLM__NOINLINE     __attribute__((noinline))
#if defined(__OPTIMIZE__)
#define LLM__INLINE_ALWAYS 1
#define LLM__INLINE static inline __attribute__((always_inline, unused))
#else /* under -O0 each inlined call would keep its own place on the stack: frames of 230 KB */
#define LLM__INLINE static inline LLM__UNUSED
#endif
#else
#define LLM__PRINTF(f, a)
#define LLM__INLINE static inline
#define LLM__UNUSED
#define LLM__NOINLINE
#endif

#ifdef __cplusplus
#define LLM__CAST(type, value) static_cast<type>(value)
#define LLM__ZERO \
    {}
#else
#define LLM__CAST(type, value) ((type)(value))
#define LLM__ZERO \
    { 0 }
#endif

LLM__SMALL
LLM_API const char *llm_result_name(llm_result result) {
    switch (result) {
#define LLM__NAME(name, text) \
    case LLM_##name: return "LLM_" #name;
        LLM_RESULTS(LLM__NAME)
#undef LLM__NAME
    default: return "LLM_UNKNOWN";
    }
}

static size_t llm__tok_utf8(const uint8_t *s, size_t n, uint32_t *scalar);

/* Fills `error` (may be NULL) and returns `code`, so that a refusal is one statement. */
#if defined(LLM_NO_MESSAGES)
/* Arguments are looked at, for warnings, but not evaluated. */
static LLM__UNUSED int llm__words(const char *format, ...) LLM__PRINTF(1, 2);
static LLM__UNUSED int llm__words(const char *format, ...) { return (void)format, 0; }
#define llm__fail(error, code, ...) ((void)sizeof(llm__words(__VA_ARGS__)), llm__fail_as(error, code))

static LLM__UNUSED llm_result llm__fail_as(llm_error *error, llm_result code) {
    if (!error) return code;
    error->code = code;
    memcpy(error->text, llm_result_name(code), strlen(llm_result_name(code)) + 1);
    return code;
}
#else
/* What a file calls its parts, and a host its files, may be any bytes. A message is one line of
   whole characters, none of which steers a terminal. */
static void llm__clean(char *text, bool cut) {
    uint8_t *s = LLM__CAST(uint8_t *, LLM__CAST(void *, text));
    size_t n = strlen(text), i, size;
    if (cut) { /* the last character may be a part of one */
        while (n && (s[n - 1] & 0xC0) == 0x80) n--;
        if (n && s[n - 1] >= 0xC0) n--;
        s[n] = 0;
    }
    for (i = 0; i < n; i += size) {
        uint32_t c = 0;
        size = llm__tok_utf8(s + i, n - i, &c);
        if (size && ((c >= 32 && c < 127) || c >= 160)) continue;
        if (!size) size = 1;
        memset(s + i, c == '\n' || c == '\t' ? ' ' : '?', size);
    }
}

static llm_result llm__vfail(llm_error *error, llm_result code, const char *format, va_list args)
    LLM__PRINTF(3, 0);
static llm_result llm__vfail(llm_error *error, llm_result code, const char *format, va_list args) {
    int size;
    if (!error) return code;
    error->code = code;
    size = llm__vsnprintf(error->text, sizeof error->text, format, args);
    llm__clean(error->text, size >= (int)sizeof error->text);
    return code;
}
static llm_result llm__fail(llm_error *error, llm_result code, const char *format, ...)
    LLM__PRINTF(3, 4) LLM__UNUSED;
static llm_result llm__fail(llm_error *error, llm_result code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)llm__vfail(error, code, format, args);
    va_end(args);
    return code;
}
#endif

/* NULL when there is no memory; size 0 is treated as 1. 64-byte aligned, not zeroed. */
static LLM__UNUSED void *llm__allocate(const llm_allocator *a, size_t size) {
    if (size == 0) size = 1;
    if (a->allocate) return a->allocate(a->user, size, 64);
    { /* over-aligned block from malloc, the original pointer kept just before it */
        unsigned char *raw, *memory;
        if (size > SIZE_MAX - 64 - sizeof(void *)) return NULL;
        raw = LLM__CAST(unsigned char *, malloc(size + 64 + sizeof(void *)));
        if (!raw) return NULL;
        memory = raw + sizeof(void *);
        memory += (64 - (uintptr_t)memory % 64) % 64;
        memcpy(memory - sizeof(void *), &raw, sizeof raw);
        return memory;
    }
}

static LLM__UNUSED void llm__release(const llm_allocator *a, void *memory, size_t size) {
    void *raw;
    if (!memory) return;
    if (a->allocate) {
        if (a->release) a->release(a->user, memory, size ? size : 1);
        return;
    }
    memcpy(&raw, LLM__CAST(unsigned char *, memory) - sizeof(void *), sizeof raw);
    free(raw);
}

/* *out = a * b, a + b; false on overflow. */
LLM__INLINE bool llm__mul(size_t a, size_t b, size_t *out) {
    if (a && b > SIZE_MAX / a) return false;
    *out = a * b;
    return true;
}
LLM__INLINE bool llm__add(size_t a, size_t b, size_t *out) {
    if (b > SIZE_MAX - a) return false;
    *out = a + b;
    return true;
}

/* Little-endian reads from any address. */
LLM__INLINE uint16_t llm__u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
LLM__INLINE uint32_t llm__u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
LLM__INLINE uint64_t llm__u64(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Floats by their bits, which fast-math cannot assume anything about. */
LLM__INLINE uint32_t llm__bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
LLM__INLINE float llm__float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
LLM__INLINE bool llm__finite(float x) { return (llm__bits(x) & 0x7f800000u) != 0x7f800000u; }

/* ======================================================================== */
/* >>file: the .llm format, version 1                                        */
/* ========================================================================
   Little-endian. A header, a table of sections, the sections. Sections start at multiples of
   LLM__PAGE, so that a map can advise or lock them one by one; unknown sections are ignored.

        0        8      12      16          24          32                     64
       +--------+-------+-------+-----------+-----------+----------------------+
       | magic  |version| count | file size | checksum  | zero                 |  header
       +--------+-------+-------+-----------+-----------+----------------------+
       | kind   | zero  | offset        | size          | checksum             |  x count, 32 each
       +--------+-------+---------------+---------------+----------------------+

   The header's checksum covers the table. "DESC", "LAYR" and "TDIR" are verified when a model is
   opened; all other sections only on request, so that opening touches a few pages. A tensor's own
   checksum tells which of them is damaged where that of "DATA" is wrong. Checksums are XXH64
   (seed 0).

   A reader takes a file if all of this holds, with offsets and sizes as 64-bit numbers that no sum
   may pass; it refuses it otherwise. Fields called `zero` are written as 0 and not looked at.

   Header and table. file_size is the size of the file. There are 1 .. 64 sections, the table lies
   in the file and has the header's checksum. Every section, also of an unknown kind, starts at a
   multiple of 4096 and ends within the file, and no kind stands twice. A section of size 0 is as
   good as none, and then its checksum is not looked at. Sections and tensors may overlap.

   DESC has at least 128 bytes; what comes after is for later versions. Every field is in the range
   that stands beside it. Valid but not in this version, and so refused: experts, LLM__NORM_LAYER,
   any flag, LLM__ACT_GELU.

   LAYR has exactly 16 bytes per layer; rope is LLM__NONE or below `ropes`.

   TDIR has at most 2^24 bytes, a multiple of 64. Of every tensor:
   - role is one of LLM__ROLES, and not POSITIONS, ROUTER or a bias of a norm: not in this version
   - layer is LLM__NONE for EMBEDDING, OUT_NORM, HEAD and HEAD_BIAS, the number (below `ropes`) of a
     ROPE, and below `layers` for everything else; no role stands twice in a layer
   - expert is LLM__NONE or, for the parts of EMBEDDING and HEAD behind the first, 1 .. 7
   - type is an llm_type; LLM_F32 for vectors and ROPE
   - rows and cols are those of its role, see LLM__ROLES; cols at most 2^18. EMBEDDING and HEAD may
     be cut into parts of at least one row, so that tokens differ in type: all but the last of them
     have a multiple of 16 rows, and together they have the rows of the role
   - rotation is 0 (none) or 16, 32, 64, and 0 for vectors, ROPE, f32 and bf16
   - row_rotation is the same, 0 for all but V, and divides value_size
   - offset is a multiple of 64; offset and offset + size lie within DATA, and so does in the file
     what is left of the last 64-byte line (readers load vectors by whole lines; zeros stand there)
   - size is that of the panels, see >>formats; 4 cols for a vector, 8 cols for ROPE
   There must be EMBEDDING, OUT_NORM, every ROPE below `ropes`, and in every layer ATTN_NORM, Q, K,
   V, ATTN_OUT, FFN_NORM, GATE_UP and DOWN. Of Q, K and V in a layer, and of the parts of HEAD and
   EMBEDDING, those that are neither f32 nor bf16 have the same rotation. Without HEAD the embedding
   is the head.

   TOKN, if there is one, is as >>tokenizer-section says. TMPL, META and SMTH are not looked at.
   With `verify` the checksums of all sections (of a size above 0) must be right.

   SMTH says where the writer has divided the input of a matmul by a number per channel and
   multiplied the columns of its matrix by the same: what the model computes is as before, but
   whoever adds to the matrices has to follow. It is a sequence of llm__file_smooth, each followed by
   its f32 scales [cols] and by zeros up to a multiple of 16 bytes; no input stands twice. Role Q is
   the input of Q, K and V, ATTN_OUT, GATE_UP and DOWN are their own; where nothing is said, all are
   1. The division is done by norm gains for Q and GATE_UP, by V's rows for ATTN_OUT (so the scales of
   query heads with the same kv head are equal; before the rows are rotated), by up's rows for DOWN.
   Inputs with a SUB_NORM are not divided: their scales are 1.

   An adapter's file has the same header and table, and is of its own kind: it has LORA, PAIR and
   DATA, perhaps META, and no DESC. It is opened with a model. A reader takes it if the header and
   table are as above, LORA and PAIR have their checksums, and all of this holds:
   LORA has at least 64 bytes; layers and width are the model's, smoothing is the checksum of the
   model's SMTH in its table, 0 if it has none.
   PAIR has at most 2^24 bytes, a multiple of 64. Of every pair:
   - role is Q, K, V, ATTN_OUT, GATE_UP or DOWN; half is 1 or, as for all others, 0; layer is below
     `layers`; none stands twice
   - rows and cols are those that the role has in the model, rows of GATE_UP (a half): ffn
   - type is f32 or bf16; rank is 1 .. 1024; scale is finite
   - row_rotation is that of the model's V of the layer, and 0 for all but V
   - offset is a multiple of 64; offset and offset + size lie within DATA; size is that of the panels:
     A [rank][cols], then B [rows][rank], whose K is padded to 16 and not to 64.
   A is meant for the input before a rotation, so an adapter fits all types and rotations of a
   model, V's rows excepted. */

#define LLM__MAGIC "llm.h\r\n\x1a" /* 8 bytes; survives no text-mode transfer unnoticed */
#define LLM__VERSION 1u
#define LLM__PAGE 4096u
#define LLM__FOURCC(a, b, c, d) \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

enum {
    LLM__SECTION_DESC = 0x43534544, /* "DESC" llm__file_desc */
    LLM__SECTION_LAYR = 0x5259414c, /* "LAYR" llm__file_layer[layers] */
    LLM__SECTION_TDIR = 0x52494454, /* "TDIR" llm__file_tensor[], the directory */
    LLM__SECTION_TOKN = 0x4e4b4f54, /* "TOKN" tokenizer tables, see >>tokenizer */
    LLM__SECTION_TMPL = 0x4c504d54, /* "TMPL" chat template, UTF-8 */
    LLM__SECTION_META = 0x4154454d, /* "META" "key=value\n" lines for people, UTF-8 */
    LLM__SECTION_SMTH = 0x48544d53, /* "SMTH" llm__file_smooth with scales, for whoever adds to W */
    LLM__SECTION_LORA = 0x41524f4c, /* "LORA" llm__file_lora: the file is an adapter */
    LLM__SECTION_PAIR = 0x52494150, /* "PAIR" llm__file_pair[], its directory */
    LLM__SECTION_DATA = 0x41544144  /* "DATA" tensors, in order of execution */
};

typedef struct llm__file_header { /* 64 bytes */
    char magic[8];
    uint32_t version;
    uint32_t section_count; /* at most 64 */
    uint64_t file_size;
    uint64_t checksum; /* of the section table */
    uint8_t zero[32];
} llm__file_header;

typedef struct llm__file_section { /* 32 bytes */
    uint32_t kind;
    uint32_t zero;
    uint64_t offset; /* from the start of the file, a multiple of LLM__PAGE */
    uint64_t size;   /* bytes used */
    uint64_t checksum;
} llm__file_section;

/* How an architecture is said. Values of 0 mean "none" unless a range is given. */
enum { LLM__NORM_RMS = 0, LLM__NORM_LAYER = 1 };
enum {
    LLM__ACT_SILU = 0,
    LLM__ACT_GELU_TANH = 1,
    LLM__ACT_GELU = 2,
    LLM__ACT_RELU = 3,
    LLM__ACT_RELU2 = 4
};
enum {
    LLM__FLAG_PARALLEL = 1u << 0,      /* attention and feed-forward read the same normed input */
    LLM__FLAG_POSITIONS = 1u << 1,     /* learned positions are added to the embedding */
    LLM__FLAG_UNGATED = 1u << 2        /* feed-forward: down(act(up x)), without a gate */
};

typedef struct llm__file_desc { /* 128 bytes */
    char family[16];         /* "llama", "gemma3", …: for people, decides nothing */
    uint32_t vocab;          /* tokens; 1 .. 2^22 */
    uint32_t width;          /* residual stream; 1 .. 2^16 */
    uint32_t layers;         /* 1 .. 1024 */
    uint32_t context;        /* positions that the model was trained for; 1 .. 2^28 */
    uint32_t heads;          /* query heads; 1 .. 1024 */
    uint32_t kv_heads;       /* divides heads */
    uint32_t head_size;      /* of queries and keys; even, 2 .. 512 */
    uint32_t value_size;     /* of values, per head; 1 .. 512 */
    uint32_t ffn;            /* hidden width of the feed-forward; 1 .. 2^18 */
    uint32_t norm;           /* LLM__NORM_… */
    uint32_t activation;     /* LLM__ACT_… */
    uint32_t flags;          /* LLM__FLAG_… */
    float norm_epsilon;      /* finite, as all that follow; > 0 */
    float query_scale;       /* scores are (query_scale * q) . k */
    float embedding_scale;   /* multiplies the looked-up embedding */
    float residual_scale;    /* multiplies what a block adds to the stream */
    float logit_scale;       /* multiplies the logits */
    float attention_softcap; /* cap * tanh(score / cap), 1e-30 .. 1e30; 0 = off */
    float logit_softcap;     /* the same for logits */
    uint32_t ropes;          /* number of ROPE tensors, 0 .. 8 */
    uint32_t experts;        /* mixture of experts: routed experts per layer, 0 = dense */
    uint32_t experts_used;   /* … and how many of them each token takes; any if dense */
    uint32_t zero[6];
} llm__file_desc;

typedef struct llm__file_layer { /* 16 bytes */
    uint32_t window; /* attend to the last `window` positions, own included; 0 = all */
    uint32_t rope;   /* which ROPE tensor turns q and k, or LLM__NONE */
    uint32_t zero[2];
} llm__file_layer;

#define LLM__NONE 0xffffffffu
#define LLM__VOCAB_PARTS 8u /* at most, of EMBEDDING and of HEAD */

/* Roles of tensors. X(NAME, "name", shape): `V` a plain f32 vector [cols], `M` a matrix in
   panels [rows][cols], `R` rope frequencies: u64 [cols], turns per position times 2^64. Roles are
   numbered from 0 in this order. rows x cols, where they are not 1 x width (vectors have 1 row):

       EMBEDDING, HEAD   vocab x width, in parts      HEAD_BIAS     1 x vocab
       ROPE              1 x (1 .. head_size / 2)     Q_NORM, K_NORM     1 x head_size
       Q                 heads head_size x width      Q_BIAS        1 x heads head_size
       K                 kv_heads head_size x width   K_BIAS        1 x kv_heads head_size
       V                 kv_heads value_size x width  V_BIAS        1 x kv_heads value_size
       ATTN_OUT          width x heads value_size     ATTN_SUB_NORM      1 x heads value_size
       GATE_UP           2 (ffn rounded up to 16) x width, see llm__file_tensor; its BIAS: 1 x rows
       DOWN              width x ffn                  FFN_SUB_NORM       1 x ffn

   The SUB_NORMs norm what ATTN_OUT and DOWN eat (BitNet b1.58, Ma et al. 2025, arXiv 2504.12285). */
#define LLM__ROLES(X)                             \
    X(EMBEDDING, "embedding", M)                  \
    X(POSITIONS, "positions", M)                  \
    X(ROPE, "rope", R)                            \
    X(ATTN_NORM, "attn_norm", V)                  \
    X(ATTN_NORM_BIAS, "attn_norm_bias", V)        \
    X(Q, "attn_q", M)                             \
    X(K, "attn_k", M)                             \
    X(V, "attn_v", M)                             \
    X(Q_BIAS, "attn_q_bias", V)                   \
    X(K_BIAS, "attn_k_bias", V)                   \
    X(V_BIAS, "attn_v_bias", V)                   \
    X(Q_NORM, "attn_q_norm", V)                   \
    X(K_NORM, "attn_k_norm", V)                   \
    X(ATTN_OUT, "attn_out", M)                    \
    X(ATTN_OUT_BIAS, "attn_out_bias", V)          \
    X(ATTN_POST_NORM, "attn_post_norm", V)        \
    X(FFN_NORM, "ffn_norm", V)                    \
    X(FFN_NORM_BIAS, "ffn_norm_bias", V)          \
    X(ROUTER, "ffn_router", M)                    \
    X(GATE_UP, "ffn_gate_up", M)                  \
    X(GATE_UP_BIAS, "ffn_gate_up_bias", V)        \
    X(DOWN, "ffn_down", M)                        \
    X(DOWN_BIAS, "ffn_down_bias", V)              \
    X(FFN_POST_NORM, "ffn_post_norm", V)          \
    X(OUT_NORM, "out_norm", V)                    \
    X(OUT_NORM_BIAS, "out_norm_bias", V)          \
    X(HEAD, "head", M)                            \
    X(HEAD_BIAS, "head_bias", V)                  \
    X(ATTN_SUB_NORM, "attn_sub_norm", V)          \
    X(FFN_SUB_NORM, "ffn_sub_norm", V)

typedef enum llm__role {
#define LLM__ROLE(NAME, name, shape) LLM__##NAME,
    LLM__ROLES(LLM__ROLE)
#undef LLM__ROLE
        LLM__ROLE_COUNT
} llm__role;

typedef struct llm__file_tensor { /* 64 bytes */
    uint32_t role;     /* llm__role; unknown ones are refused: without them it is another model */
    uint32_t layer;    /* or LLM__NONE; for ROPE its number */
    uint32_t expert;   /* LLM__NONE; of EMBEDDING and HEAD: or the number of the part, from 1 on */
    uint32_t type;     /* llm_type */
    uint32_t rows;     /* outputs; panels hold them rounded up to 16. GATE_UP: 2 * (ffn rounded up),
                          panel 2i = 16 rows of gate, panel 2i + 1 the same rows of up */
    uint32_t cols;     /* inputs K; panels hold K rounded up to 64, with zeros */
    uint32_t rotation; /* block of the Hadamard rotation of the input: 0 (none), 16, 32 or 64 */
    uint32_t row_rotation; /* V only: block by which the outputs of each head are rotated, or 0 */
    uint64_t offset;   /* from the start of the file, a multiple of 64, inside DATA */
    uint64_t size;     /* bytes, exactly what shape and type ask for */
    uint64_t checksum;
    uint64_t zero;
} llm__file_tensor;

typedef struct llm__file_smooth { /* 16 bytes, then the scales */
    uint32_t role; /* LLM__Q, LLM__ATTN_OUT, LLM__GATE_UP or LLM__DOWN: whose input */
    uint32_t layer;
    uint32_t cols; /* of the matrix */
    uint32_t zero;
} llm__file_smooth;

typedef struct llm__file_lora { /* 64 bytes */
    char family[16];    /* as in llm__file_desc */
    uint32_t layers;    /* of the model */
    uint32_t width;     /* of the model */
    uint64_t smoothing; /* checksum of its SMTH */
    uint8_t zero[32];
} llm__file_lora;

typedef struct llm__file_pair { /* 64 bytes */
    uint32_t role, layer;
    uint32_t half; /* GATE_UP: 0 gate, 1 up; else 0 */
    uint32_t type; /* LLM_F32 or LLM_BF16 */
    uint32_t rank, rows, cols; /* A [rank][cols], B [rows][rank] */
    uint32_t row_rotation;     /* V: block by which B's outputs of each head are rotated */
    float scale;               /* y += weight * scale * B (A x) */
    uint32_t zero;
    uint64_t offset, size, checksum; /* of A's panels and behind them B's */
} llm__file_pair;

/* ======================================================================== */
/* >>formats: how weights are stored                                         */
/* ========================================================================
   A matrix [N][K] is cut into panels of 16 rows. A panel holds, for its 16 rows r:

       +--------------------------+------------------------------+-----+-------------------------+
       | scales bf16 [K/S][16]    | parameters [K/16][8 bytes]   | pad | codes, records of 64 k  |
       +--------------------------+------------------------------+-----+-------------------------+
         S = super-block: the       byte j: low nibble row j,       to 64
         largest of 256, 192,       high nibble row j + 8;
         128, 64 that divides K     8 bits: none

   A weight is scale * value, and value = M[p] * U[code] - B[p], an int8 in -127 .. 127, where p is
   the parameter nibble of its row and of its 16 columns, and U, M, B are the small tables of the
   type. A record is cut in 16 groups of 4 columns (g = k / 4, i = k % 4) and consists of lines of
   64 bytes, in which byte 4 r + i belongs to row r and column 4 g + i:

       8 bits  16 lines: line g holds the int8 value itself
       6 bits   4 lines: bits 2 (g % 4).. of line g / 4 are code bits 4, 5, then 8 nibble lines
       5 bits   2 lines: bit g % 8 of line g / 8 is code bit 4, then 8 nibble lines
       4 bits   8 nibble lines: line g / 2, low nibble for even g, high nibble for odd g
       3 bits   2 lines: bit g % 8 of line g / 8 is code bit 2, then 4 lines: bits 2 (g % 4).. of
                line g / 4
       2 bits   4 lines: bits 2 (g % 4).. of line g / 4

   so a line is at once an AMX B tile row set, a vpdpbusd or sdot operand and two maddubs operands.
   f32 and bf16 panels are [K][16] values. */

typedef struct llm__format {
    uint8_t bits;      /* of a code */
    uint8_t size;      /* bytes of a value, for f32 and bf16 */
    uint8_t u[64];     /* U, one entry per code */
    uint8_t m[16];     /* M */
    uint8_t b[16];     /* B */
} llm__format;

/* U, M and B of every type. Found by tools/formats: least squared error over real weights among
   tables whose products stay in int8, whose U stays within 0 .. 32 for 2 to 5 bits (eight products
   with an int8 then fit 16 bits) and 0 .. 63 for 6 bits, and whose B stays within 0 .. 127. The
   M and B that are equal in q2 leave -1, 0 and 1 what they are. */
static const llm__format llm__formats[LLM_TYPE_COUNT] = {
    {0, 4, {0}, {0}, {0}}, /* f32 */
    {0, 2, {0}, {0}, {0}}, /* bf16 */
    {8, 0, {0}, {0}, {0}}, /* q8 */
    {6, 0,
     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
      25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46,
      47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63},
     {1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4},
     {31, 39, 50, 57, 66, 71, 78, 89, 62, 70, 90, 97, 107, 123, 127, 125}}, /* q6 */
    {5, 0,
     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
      25, 26, 27, 28, 29, 30, 31},
     {1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6},
     {15, 31, 38, 46, 54, 41, 58, 60, 69, 71, 61, 82, 84, 110, 76, 103}}, /* q5 */
    {4, 0,
     {0, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22},
     {2, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 10},
     {25, 42, 46, 48, 48, 53, 56, 62, 63, 72, 78, 71, 79, 88, 97, 106}}, /* q4 */
    {3, 0,
     {0, 3, 5, 7, 9, 11, 13, 16},
     {1, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 9, 9},
     {7, 26, 26, 36, 31, 37, 42, 40, 44, 52, 65, 43, 54, 71, 52, 78}}, /* q3 */
    {2, 0,
     {0, 1, 2, 3},
     {10, 17, 17, 18, 23, 23, 24, 25, 25, 25, 32, 33, 33, 36, 36, 42},
     {16, 18, 25, 34, 18, 53, 33, 28, 41, 48, 32, 49, 70, 29, 66, 51}} /* q2 */
};

static const char llm__type_names[LLM_TYPE_COUNT][8] = {"f32", "bf16", "q8", "q6",
                                                        "q5",  "q4",   "q3", "q2"};

/* K as stored, and the super-block S that it is cut into. */
LLM__INLINE uint32_t llm__padded(uint32_t cols) { return (cols + 63u) / 64u * 64u; }
LLM__INLINE uint32_t llm__super_block(uint32_t padded) {
    return padded % 256 == 0 ? 256u : padded % 192 == 0 ? 192u : padded % 128 == 0 ? 128u : 64u;
}
/* Of f32 and bf16: B of an adapter has a K that is padded to 16 only. */
LLM__INLINE uint32_t llm__float_block(uint32_t padded) {
    return padded % 64 ? 16u : llm__super_block(padded);
}

/* Bytes of a panel before its codes; of a record; of a panel. K is at most 2^20: no overflow. */
LLM__INLINE size_t llm__panel_header(uint32_t type, uint32_t padded) {
    size_t scales = (size_t)padded / llm__super_block(padded) * 32;
    size_t parameters = llm__formats[type].bits < 8 ? (size_t)padded / 16 * 8 : 0;
    return llm__formats[type].bits ? (scales + parameters + 63) / 64 * 64 : 0;
}
LLM__INLINE size_t llm__record_size(uint32_t type) { return (size_t)llm__formats[type].bits * 128; }
LLM__INLINE size_t llm__panel_size(uint32_t type, uint32_t padded) {
    if (llm__formats[type].size) return (size_t)padded * 16 * llm__formats[type].size;
    return llm__panel_header(type, padded) + (size_t)padded / 64 * llm__record_size(type);
}

/* The code of row r (0 .. 15), column k (0 .. 63) of a record: the layout's definition. */
LLM__INLINE unsigned llm__code(uint32_t type, const uint8_t *record, unsigned r, unsigned k) {
    unsigned g = k / 4, at = 4 * r + k % 4;
    switch (llm__formats[type].bits) {
    case 8: return record[64 * g + at];
    case 6:
        return ((unsigned)record[256 + 64 * (g / 2) + at] >> 4 * (g % 2) & 15u) |
               ((unsigned)record[64 * (g / 4) + at] >> 2 * (g % 4) & 3u) << 4;
    case 5:
        return ((unsigned)record[128 + 64 * (g / 2) + at] >> 4 * (g % 2) & 15u) |
               ((unsigned)record[64 * (g / 8) + at] >> g % 8 & 1u) << 4;
    case 4: return (unsigned)record[64 * (g / 2) + at] >> 4 * (g % 2) & 15u;
    case 2: return (unsigned)record[64 * (g / 4) + at] >> 2 * (g % 4) & 3u;
    default:
        return ((unsigned)record[128 + 64 * (g / 4) + at] >> 2 * (g % 4) & 3u) |
               ((unsigned)record[64 * (g / 8) + at] >> g % 8 & 1u) << 2;
    }
}

/* The value of row r, column k of a panel, without its scale. */
LLM__INLINE int llm__value(uint32_t type, const uint8_t *panel, uint32_t padded, unsigned r,
                      uint32_t k) {
    const llm__format *f = &llm__formats[type];
    const uint8_t *parameters = panel + (size_t)padded / llm__super_block(padded) * 32;
    const uint8_t *record =
        panel + llm__panel_header(type, padded) + (size_t)(k / 64) * llm__record_size(type);
    unsigned code = llm__code(type, record, r, k % 64), p;
    if (f->bits == 8) return code < 128 ? (int)code : (int)code - 256;
    p = parameters[(size_t)(k / 16) * 8 + r % 8] >> (r < 8 ? 0 : 4) & 15u;
    return (int)f->m[p] * f->u[code] - f->b[p];
}

/* XXH64 with seed 0 (Collet, https://xxhash.com), over memory at once. */
LLM__INLINE uint64_t llm__rotl64(uint64_t x, int n) { return x << n | x >> (64 - n); }
static uint64_t llm__xxh64(const void *data, size_t size) {
    const uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p3 = 0x165667B19E3779F9u,
                   p4 = 0x85EBCA77C2B2AE63u, p5 = 0x27D4EB2F165667C5u;
    const uint8_t *p = (const uint8_t *)data, *end = p + size;
    uint64_t v[4], h;
    int i;
    if (size >= 32) {
        v[0] = p1 + p2, v[1] = p2, v[2] = 0, v[3] = 0 - p1;
        for (; end - p >= 32; p += 32)
            for (i = 0; i < 4; i++)
                v[i] = llm__rotl64(v[i] + llm__u64(p + 8 * i) * p2, 31) * p1;
        h = llm__rotl64(v[0], 1) + llm__rotl64(v[1], 7) + llm__rotl64(v[2], 12) +
            llm__rotl64(v[3], 18);
        for (i = 0; i < 4; i++) h = (h ^ llm__rotl64(v[i] * p2, 31) * p1) * p1 + p4;
    } else {
        h = p5;
    }
    h += size;
    for (; end - p >= 8; p += 8)
        h = llm__rotl64(h ^ llm__rotl64(llm__u64(p) * p2, 31) * p1, 27) * p1 + p4;
    for (; end - p >= 4; p += 4) h = llm__rotl64(h ^ llm__u32(p) * p1, 23) * p2 + p3;
    for (; p < end; p++) h = llm__rotl64(h ^ *p * p5, 11) * p1;
    h = (h ^ h >> 33) * p2;
    h = (h ^ h >> 29) * p3;
    return h ^ h >> 32;
}

/* ======================================================================== */
/* >>tokenizer-section: the tables of a vocabulary, as they lie in the file  */
/* ======================================================================== */
/*
   One section holds one vocabulary, ready to use in place. All numbers are little-endian u32 (or
   u64 where said), every table starts at a multiple of 64 bytes from the section's start, behind
   the header, and ends within the section.

    byte 0    header, 256 bytes: llm__tok_header
         .    TOKENS  (vocab + 1) x 24 bytes: llm__tok_token; the last one only ends the text
         .    KINDS   vocab x u8: llm_token_kind in bits 0 .. 3; of added tokens also: bit 4 takes
                      the white space before it, bit 5 behind it, bit 6 never inside a word
         .    TEXT    the bytes of all tokens, one after another (SentencePiece's U+2581 as a space)
         .    TRIE    nodes x 8 bytes: llm__tok_node; normal tokens by their bytes
         .    ADDED   the same for control and user-defined tokens, found before anything else
         .    PAIRS   buckets x 8 x u64: merge rules, hashed
         .    BYTES   256 x u32: the token of a byte; ~0: none
         .    STARTS  4 x 256 bits: bytes that an added token can start with; user-defined, then
                      all; the same for NORMALIZED
         .    JOINS   65536 bits: bit 256 * x + y set if a normal token holds byte x before byte y
         .    ENDS    u32 ids that end a generation
         .    NORMALIZED   as ADDED: those found in what lies between ADDED ones, once normalised
         .    NFC PAGES    u8 for every 128 scalars: the element of NFC CLASSES that has them
         .    NFC CLASSES  128 x u8: a scalar's combining class; 255 if it may not be in normal form
                           C: then NFC SPLITS has its class
         .    NFC SPLITS   3 x u32, sorted: scalar | class << 24, and the two scalars that it
                           decomposes into in one step (one and 0; or 0 and 0, if it does not)
         .    NFC JOINS    3 x u32, sorted: two scalars, and what they compose to
         .    WORDS        2 x u32, sorted: first and last of a range of scalars that make words

   The tables NFC are empty in a vocabulary that does not want its text in normal form C. WORDS is
   empty where no token has bit 6.

   A trie is a double array. The child of a node for byte c is node number (base ^ c), and it is one
   only if that node's label is c; the root is node 0.

    word 0   31 | 30..21 | 20..0       word 1   31..8 | 7..0
             no |   0    | token id             base  | label
             merge

   `no merge`: the token exists, but merging its own bytes does not produce it. Word 0 is
   0xFFFFFFFE in a node without a token, 0xFFFFFFFF in an empty node; base is 0xFFFFFF in a node
   without children.

   A pair is one merge rule, 0 if empty. Rules fill their bucket of eight, then the next one.

    bit 63..42 | 41..21   | 20..0
        rank   | right id | left id      rank 1 merges first

   A reader takes a section whose header holds what stands beside its fields, whose tables lie in
   the section, are of their size (BYTES 256 elements, STARTS 4 of 32 bytes, JOINS 8192 bytes;
   TOKENS and KINDS by the vocabulary), with at most 0xFFFF00 nodes in a trie and at least one
   bucket.

   Nothing in here is trusted: the header's extents are checked once, every number read later where
   it is used. Wrong tables give wrong ids, never a read outside the section or a loop without end.
*/
enum {
    LLM__TOK_MAGIC = 0x4B4F544C, /* the bytes "LTOK" */
    LLM__TOK_VERSION = 2,
    LLM__TOK_MAX_VOCAB = 1 << 21,
    LLM__TOK_MAX_RANK = (1 << 22) - 1,
    LLM__TOK_MAX_NODES = 0xFFFF00,
    LLM__TOK_MAX_REACH = 64,
    LLM__TOK_MAX_LENGTH = 65535,
    LLM__TOK_SHORT = 512 /* stretches below this many bytes need no memory */
};
#define LLM__TOK_NONE 0xFFFFFFFEu
#define LLM__TOK_EMPTY 0xFFFFFFFFu
#define LLM__TOK_NO_MERGE 0x80000000u
#define LLM__TOK_ID 0x001FFFFFu
#define LLM__TOK_LATER 0x80000000u
#define LLM__TOK_LEAF 0xFFFFFFu

enum { /* header.flags */
    LLM__TOK_ADD_BOS = 1,
    LLM__TOK_ADD_EOS = 2,
    LLM__TOK_SPACE_PREFIX = 4, /* SentencePiece: a space before every stretch of text */
    LLM__TOK_WHOLE_WORDS = 8,  /* a word that is a token is not merged (`ignore_merges`) */
    LLM__TOK_PREFIX_FIRST = 16, /* the space only at the beginning of the whole text */
    LLM__TOK_PREFIX_NEW = 32,   /* the space behind NORMALIZED tokens too, not before a space */
    LLM__TOK_FOLD_ADDED = 64,   /* U+2581 in the text is a space to ADDED tokens */
    LLM__TOK_FOLD_NORMALIZED = 128 /* the same for NORMALIZED ones, and both are no white space */
};

enum { /* KINDS */
    LLM__TOK_KIND = 15,
    LLM__TOK_LSTRIP = 16,
    LLM__TOK_RSTRIP = 32,
    LLM__TOK_SINGLE_WORD = 64
};

enum { /* header.pre: how text is cut before it is merged */
    LLM__PRE_SENTENCEPIECE = 0, /* not at all; characters, with byte fallback */
    LLM__PRE_GPT2 = 1,
    LLM__PRE_SMOLLM = 2, /* every digit alone, then as GPT-2 */
    LLM__PRE_LLAMA3 = 3,
    LLM__PRE_QWEN2 = 4,
    LLM__PRE_COUNT
};

enum {
    LLM__TOK_TOKENS, LLM__TOK_KINDS, LLM__TOK_TEXT, LLM__TOK_TRIE, LLM__TOK_ADDED,
    LLM__TOK_PAIRS, LLM__TOK_BYTES, LLM__TOK_STARTS, LLM__TOK_JOINS, LLM__TOK_ENDS,
    LLM__TOK_NORMALIZED, LLM__TOK_NFC_PAGES, LLM__TOK_NFC_CLASSES, LLM__TOK_NFC_SPLITS,
    LLM__TOK_NFC_JOINS, LLM__TOK_WORDS,
    LLM__TOK_TABLES
};

typedef struct llm__tok_table {
    uint32_t at, count; /* bytes from the section's start; elements */
} llm__tok_table;

typedef struct llm__tok_header {
    uint32_t magic, version;
    uint32_t size;    /* bytes in use, at most the section's */
    uint32_t pre;     /* LLM__PRE_… */
    uint32_t flags;   /* LLM__TOK_…; further bits are not looked at */
    uint32_t vocab;   /* 1 .. 2^21, at most the model's */
    uint32_t longest; /* bytes of the longest token, at most 65535 */
    uint32_t reach;   /* most buckets that a search for a pair looks at, at most 64 */
    uint32_t bos, eos, eot, unknown, padding; /* ids below vocab; ~0: none */
    uint32_t reserved[3];                     /* not looked at */
    llm__tok_table table[LLM__TOK_TABLES];    /* in the order above */
    uint32_t zero[16];                        /* not looked at */
} llm__tok_header;

/* How a token comes about when its own bytes are merged: the last merge joins `left` and `right`
   (both the token itself for a symbol that no merge made) by the rule of rank `rank`. `time` is the
   greatest rank among all its merges. Bit 31 of `left` is set if the left part is finished later
   than the right one. `shorter` is the longest token that this one starts with, ~0 if none. */
typedef struct llm__tok_token {
    uint32_t text, left, right, time, rank, shorter;
} llm__tok_token;

typedef struct llm__tok_node {
    uint32_t token, link;
} llm__tok_node;

static const uint8_t llm__tok_table_size[LLM__TOK_TABLES] = {24, 1, 1, 8, 8,   64, 4,  32,
                                                              1,  4, 8, 1, 128, 12, 12, 8};

static llm_result llm__tok_check_tables(const llm__tok_header *h, size_t size, llm_error *error) {
    static const char names[LLM__TOK_TABLES][12] = {
        "tokens", "kinds", "text", "trie", "added", "pairs", "bytes", "starts", "joins", "ends",
        "normalized", "NFC pages", "NFC classes", "NFC splits", "NFC joins", "words"};
    uint32_t exact[LLM__TOK_TABLES];
    uint32_t i;
    for (i = 0; i < LLM__TOK_TABLES; i++) exact[i] = h->table[i].count;
    exact[LLM__TOK_TOKENS] = h->vocab + 1;
    exact[LLM__TOK_KINDS] = h->vocab;
    exact[LLM__TOK_BYTES] = 256;
    exact[LLM__TOK_STARTS] = 4;
    exact[LLM__TOK_JOINS] = 8192;
    for (i = 0; i < LLM__TOK_TABLES; i++) {
        uint64_t end = h->table[i].at + (uint64_t)h->table[i].count * llm__tok_table_size[i];
        if (h->table[i].at % 64 || h->table[i].at < sizeof *h)
            return llm__fail(error, LLM_ERROR_FORMAT,
                             "tokenizer: table %s at %u, not a multiple of 64 from %u on", names[i],
                             (unsigned)h->table[i].at, (unsigned)sizeof *h);
        if (end > size)
            return llm__fail(error, LLM_ERROR_FORMAT,
                             "tokenizer: table %s at %u, %u elements, passes the end of the section"
                             " of %lu bytes", names[i], (unsigned)h->table[i].at,
                             (unsigned)h->table[i].count, (unsigned long)size);
        if (h->table[i].count != exact[i])
            return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: table %s has %u elements, not %u",
                             names[i], (unsigned)h->table[i].count, (unsigned)exact[i]);
    }
    return LLM_OK;
}

static llm_result llm__tok_check_ranges(const llm__tok_header *h, uint32_t most_vocab,
                                        llm_error *error) {
    const struct {
        const char *field;
        uint32_t value, least, most;
    } ranges[] = {{"vocab", h->vocab, 1, most_vocab},
                  {"longest", h->longest, 0, LLM__TOK_MAX_LENGTH},
                  {"reach", h->reach, 0, LLM__TOK_MAX_REACH},
                  {"nodes of table trie", h->table[LLM__TOK_TRIE].count, 0, LLM__TOK_MAX_NODES},
                  {"nodes of table added", h->table[LLM__TOK_ADDED].count, 0, LLM__TOK_MAX_NODES},
                  {"nodes of table normalized", h->table[LLM__TOK_NORMALIZED].count, 0,
                   LLM__TOK_MAX_NODES},
                  {"buckets of table pairs", h->table[LLM__TOK_PAIRS].count, 1, 0xFFFFFFFFu}};
    const struct {
        const char *field;
        uint32_t value;
    } ids[] = {{"bos", h->bos},
               {"eos", h->eos},
               {"eot", h->eot},
               {"unknown", h->unknown},
               {"padding", h->padding}};
    size_t i;
    for (i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].least || ranges[i].value > ranges[i].most)
            return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: %s is %u, not in %u .. %u",
                             ranges[i].field, (unsigned)ranges[i].value, (unsigned)ranges[i].least,
                             (unsigned)ranges[i].most);
    for (i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].value >= h->vocab && ids[i].value != 0xFFFFFFFFu)
            return llm__fail(error, LLM_ERROR_FORMAT,
                             "tokenizer: %s is token %u, not in 0 .. %u or 4294967295, none",
                             ids[i].field, (unsigned)ids[i].value, (unsigned)h->vocab - 1);
    return LLM_OK;
}

static llm_result llm__tok_check_header(const llm__tok_header *h, size_t size, uint32_t model_vocab,
                                        llm_error *error) {
    uint32_t most_vocab = LLM__TOK_MAX_VOCAB;
    llm_result result;
    if (model_vocab && model_vocab < most_vocab) most_vocab = model_vocab;
    if (h->magic != LLM__TOK_MAGIC)
        return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: magic is 0x%08x, not 0x%08x",
                         (unsigned)h->magic, (unsigned)LLM__TOK_MAGIC);
    if (h->version != LLM__TOK_VERSION)
        return llm__fail(error, LLM_ERROR_VERSION, "tokenizer: version %u, this library reads %d",
                         (unsigned)h->version, (int)LLM__TOK_VERSION);
    if (h->size > size)
        return llm__fail(error, LLM_ERROR_FORMAT,
                         "tokenizer: size is %u, the section has %lu bytes", (unsigned)h->size,
                         (unsigned long)size);
    if (h->pre >= LLM__PRE_COUNT)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "tokenizer: pre-tokenizer %u is not known, only 0 .. %d", (unsigned)h->pre,
                         LLM__PRE_COUNT - 1);
    result = llm__tok_check_ranges(h, most_vocab, error);
    return result ? result : llm__tok_check_tables(h, size, error);
}

/* Looks at the section's header only. `section` is 8-byte aligned and outlives `t`; `model_vocab`,
   if not 0, is the number of rows that the model has for ids. */
static LLM__UNUSED llm_result llm__tokenizer_init(llm_tokenizer *t, const void *section,
                                                  size_t size, uint32_t model_vocab,
                                                  llm_error *error) {
    const llm__tok_header *h = LLM__CAST(const llm__tok_header *, section);
    const uint8_t *base = LLM__CAST(const uint8_t *, section);
    const void *at[LLM__TOK_TABLES];
    llm_result result;
    int i;
    memset(t, 0, sizeof *t);
    if (size < sizeof *h)
        return llm__fail(error, LLM_ERROR_FORMAT, "tokenizer: %lu bytes, a header has %u",
                         (unsigned long)size, (unsigned)sizeof *h);
    result = llm__tok_check_header(h, size, model_vocab, error);
    if (result != LLM_OK) return result;
    for (i = 0; i < LLM__TOK_TABLES; i++) at[i] = base + h->table[i].at;
    t->section = section;
    t->tokens = at[LLM__TOK_TOKENS];
    t->kinds = LLM__CAST(const uint8_t *, at[LLM__TOK_KINDS]);
    t->text = LLM__CAST(const uint8_t *, at[LLM__TOK_TEXT]);
    t->trie = at[LLM__TOK_TRIE];
    t->added[0] = at[LLM__TOK_ADDED];
    t->added[1] = at[LLM__TOK_NORMALIZED];
    t->pairs = LLM__CAST(const uint64_t *, at[LLM__TOK_PAIRS]);
    t->bytes = LLM__CAST(const uint32_t *, at[LLM__TOK_BYTES]);
    t->starts = LLM__CAST(const uint32_t *, at[LLM__TOK_STARTS]);
    t->joins = LLM__CAST(const uint32_t *, at[LLM__TOK_JOINS]);
    t->ends = LLM__CAST(const uint32_t *, at[LLM__TOK_ENDS]);
    t->vocab = h->vocab;
    t->text_size = h->table[LLM__TOK_TEXT].count;
    t->trie_count = h->table[LLM__TOK_TRIE].count;
    t->added_count[0] = h->table[LLM__TOK_ADDED].count;
    t->added_count[1] = h->table[LLM__TOK_NORMALIZED].count;
    t->pair_buckets = h->table[LLM__TOK_PAIRS].count;
    t->end_count = h->table[LLM__TOK_ENDS].count;
    t->nfc_page = LLM__CAST(const uint8_t *, at[LLM__TOK_NFC_PAGES]);
    t->nfc_class = LLM__CAST(const uint8_t *, at[LLM__TOK_NFC_CLASSES]);
    t->nfc_split = LLM__CAST(const uint32_t *, at[LLM__TOK_NFC_SPLITS]);
    t->nfc_join = LLM__CAST(const uint32_t *, at[LLM__TOK_NFC_JOINS]);
    t->words = LLM__CAST(const uint32_t *, at[LLM__TOK_WORDS]);
    t->nfc_pages = h->table[LLM__TOK_NFC_PAGES].count;
    t->nfc_classes = h->table[LLM__TOK_NFC_CLASSES].count;
    t->nfc_splits = h->table[LLM__TOK_NFC_SPLITS].count;
    t->nfc_joins = h->table[LLM__TOK_NFC_JOINS].count;
    t->word_ranges = h->table[LLM__TOK_WORDS].count;
    return LLM_OK;
}

LLM__INLINE const llm__tok_header *llm__tok_head(const llm_tokenizer *t) {
    return LLM__CAST(const llm__tok_header *, t->section);
}

/* The record of a token; `id` may be anything below LLM__TOK_NONE. */
LLM__INLINE const llm__tok_token *llm__tok_at(const llm_tokenizer *t, uint32_t id) {
    const llm__tok_token *all = LLM__CAST(const llm__tok_token *, t->tokens);
    return all + (id < t->vocab ? id : 0);
}

/* The number of bytes of a token, 0 if the table makes no sense. */
LLM__INLINE size_t llm__tok_length(const llm_tokenizer *t, uint32_t id) {
    const llm__tok_token *token = llm__tok_at(t, id);
    uint32_t a = token[0].text, b = token[1].text;
    return a <= b && b <= t->text_size ? b - a : 0;
}

/* A test counts the work done by defining this. */
#ifndef LLM__TOK_COUNT
#define LLM__TOK_COUNT(n) ((void)0)
#endif

LLM__SMALL_END

/* ======================================================================== */
/* >>tokenizer-unicode: classes of characters                                */
/* ======================================================================== */
/* >>unicode-table: generated by tools/unicode/generate.py, do not edit */
/* 4688 bytes: 1024 scalars, 8 times 128, 16 times 8 in them, a nibble each. */
enum {
    LLM__CLASS_OTHER = 0,
    LLM__CLASS_LETTER = 1,
    LLM__CLASS_NUMBER = 2,
    LLM__CLASS_DIGIT_ONLY = 3,
    LLM__CLASS_SPACE = 4,
    LLM__UNICODE_LIMIT = 0x32400
};
static const uint64_t llm__unicode_book[26] = {
    0x706050403020100, 0xd0d0d0c0b0a0908, 0xd0d0d0d0e0d0d0d, 0xd0d0d0d0d0d0d0d, 0xd0d0d0d0d0d0d0d,
    0xd0d0d0d0d100f0d, 0xa0a110d0d0d0d0d, 0x13120a0a0a0a0a0a, 0x1b1a191817161514, 0xd0d1f0d1e0a1d1c,
    0xa0a0a0a0a0a2120, 0xd0d0d0d24230a22, 0xa0a0a0a260d250d, 0x290a0a28270a0a0a, 0x2d0a2c2b2a0a0a0a,
    0xa330a3231302f2e, 0xd0d0d0d0d0d0d0d, 0xd0d0d0d0d0d0d0d, 0xd0d0d0d0d0d0d0d, 0xd0d0d0d0d0d0d0d,
    0xd0d0d0d0d0d0d0d, 0xd36350d0d0d340d, 0xd0d0d0d370d0d0d, 0xa3a0a0a39380d0d, 0xd0d0d3b0d0d0d0d,
    0x3c,
};
static const uint64_t llm__unicode_page[61] = {
    0x504030202020100, 0xc0b0a0908070602, 0x14131211100f0e0d, 0x1c1b1a1918171615, 0x2221201f02021e1d,
    0x2726252402020223, 0x2f2e2d2c2b2a2928, 0x3433020232023130, 0x3939393938373635, 0x3d3c393939393b3a,
    0x3939393939393939, 0x39393941403f3e02, 0x3939474645444342, 0x202020202020202, 0x202020232020202,
    0x4c4b4a4902024802, 0x54535251504f4e4d, 0x5502020202020202, 0x5958575602023939, 0x5f5e5d5c5b5a0202,
    0x6665643963626160, 0x6b6a020269686702, 0x737271706f6e6d6c, 0x7b7a797877767574, 0x838281807f7e7d7c,
    0x3989888786398584, 0x90398f8e8d8c8b8a, 0x9796953994939291, 0x9802020202020202, 0x39393939399a0299,
    0x9b39393939393939, 0x20202020202029c, 0x6102020202020202, 0x3939399d02020202, 0x39393939399e3939,
    0x92a1a09f02020202, 0xa6a5a4a339a23939, 0xa702020202020202, 0x3939393939a9a802, 0xaa39393939393939,
    0x3939ac0202ab0202, 0x393939393939aead, 0x393939393939af39, 0x39b1b03939393939, 0xb7b6b50202b4b3b2,
    0x39b8393939393939, 0x3939bb3939ba39b9, 0xbe393939bd39bc39, 0x3939393939c0bf02, 0x3939c5c439c3c2c1,
    0x3939393939c63939, 0xaf39393939393939, 0x202c70202020202, 0x2c8020202020202, 0x2020202020202c9,
    0x202ca0202020202, 0xcb02020202020202, 0x393939cc02020202, 0x393939cd02020202, 0x2ce020202020202,
    0xcf02020202020202,
};
static const uint64_t llm__unicode_row[416] = {
    0x403000200000100, 0x706060507060605, 0xb0a090200000008, 0x60c0606060c0606, 0x606060606060606,
    0x606060606060606, 0x606060606060606, 0x100f000e060d, 0x0, 0x1211000000000000,
    0x606061506061413, 0x616060606060606, 0x60606060606170e, 0x606060606060606, 0x605060606060606,
    0x6060606180c0606, 0x1906, 0x71a0606060000, 0x606060600000000, 0x6051b0300000706,
    0x606060606060606, 0x1f031e1d001c0606, 0x60606200000, 0x606060606062100, 0x18002206060606,
    0x924070606062303, 0x192509220606, 0x606070619060606, 0x606060600002606, 0xe06,
    0x2806060606060627, 0x605032906190000, 0x282d2006062c2b2a, 0x302f03292e001300, 0xe312006062c1a21,
    0x34033332000000, 0x2835200606151621, 0x1800032900190000, 0x28352006062c2b21, 0x3603292e000000,
    0xe06383b3a393837, 0x3c033300190000, 0x2806200606201121, 0x3e0003293d000000, 0x283f20060620112a,
    0x4003291d000000, 0x3d06060606201127, 0x4303032942411300, 0x1c150606170c0621, 0x3330000000c,
    0x44060606060605, 0x403000c, 0x474406460606453a, 0x49030048, 0x4a030300000019,
    0xf0606060506, 0xf00, 0x0, 0x4b00070606060606, 0x62a1e4d4c220403,
    0x60606060403130e, 0x4506060606064716, 0x606060606060606, 0x6060606390c3906, 0xc39060606063906,
    0x6060606060c0639, 0x606060606390606, 0x4f034e0007060606, 0x606060600000606, 0x2222060606060606,
    0x606060606060605, 0x606060606060606, 0x606060606060606, 0x6062b0606060606, 0x606060607060650,
    0x1952510606060606, 0xe06064b0e0606, 0x191106000e0606, 0x53060606060606, 0x4030403254b0000,
    0x606060604030000, 0x1906060606060606, 0x60654060606062b, 0x22060606060606, 0xc060606,
    0xf220606060333, 0x606530606060606, 0x3c030e06, 0x6060606000c0606, 0xf0606,
    0x4b04030403, 0x0, 0x53060606060621, 0x4030f21, 0x23031e1906060655,
    0x2206060606, 0x5306060606, 0x2206060623035603, 0x5706060606060706, 0x959580000000000,
    0x606060606060606, 0x0, 0x606060622220606, 0x220606065a062222, 0x4811060606060606,
    0xf5b0f06535c0f5b, 0x5f0000005e5d, 0x6261000060000000, 0xf060403, 0x0,
    0x66066510641c1763, 0x303030303036721, 0x468, 0x0, 0x0,
    0x0, 0x0, 0x303030300000000, 0x4a030303, 0x303690000000000,
    0x0, 0x333000000000000, 0x4a0303, 0x0, 0x606060606060606,
    0x6c6b6a0f06060606, 0x606471606060606, 0x4b0606060606, 0xc0c0c0c000c0606, 0xc0c0c0c,
    0x4b0000000000, 0x0, 0x6e64044e0000006d, 0x606060606060605, 0x6060605210c0606,
    0x4506060606060606, 0x605060606060621, 0x606060606060606, 0x6060606006f0c06, 0x606000000000000,
    0x40300000000, 0x34e0300, 0x34e000000000403, 0x0, 0xf06,
    0x2206060606060000, 0x700306060f06, 0x4b000c0606060606, 0x606060622060606, 0x37106060606,
    0x6060617064b0000, 0x606060606060606, 0x606060606062c06, 0x61700000f722206, 0x74000706064573,
    0x53060606060606, 0x53060606060617, 0x7517000004030000, 0x606002206062303, 0xf0606060000000c,
    0x7060606060627, 0x7603061104034b00, 0x190606060606, 0x770c060604035345, 0x644d060606060606,
    0x34070678000054, 0x6060c0c00262626, 0x6060e0645060606, 0x606060606060606, 0x403000706060606,
    0x606005306060606, 0x530606060606550c, 0x606060606060606, 0x606220606060606, 0x606060606060606,
    0xe060606, 0x480c20067955000c, 0x60606060606067a, 0xe060606060606, 0x606060606550000,
    0x2206060606060606, 0x606060606060000, 0x606060606170606, 0x5306000000000006, 0x0,
    0x611000000000000, 0x606060606060606, 0xf06060606060606, 0x706060504030000, 0x606061e07060605,
    0xc06060606060606, 0x34171717, 0x7b06060c06063f06, 0x22062206, 0x606060606060606,
    0x706060606060606, 0x4a03030303037c, 0x7d03030303030303, 0x7e00, 0x0,
    0x60606060f060606, 0x4a03034e00190606, 0x606214a06060606, 0x2206060606807f, 0x606060622060606,
    0x810653, 0x606040322060606, 0x5306060606530606, 0x606000606060606, 0x4506005306060606,
    0x82150615067b4506, 0x53060606060606, 0xc060606060606, 0x600220606, 0x720060606060616,
    0x0, 0x8316060606062022, 0x4e0c060603220606, 0x37c0c060606, 0x8584060600000000,
    0xe0606064a710606, 0x0, 0x8606060606060606, 0x303030303690303, 0x220606053f0019,
    0x8706060600007d03, 0x88060606, 0x850f06060506, 0x22060606060606, 0x307060603220606,
    0x4e00000e0606, 0x0, 0x606060606060606, 0x1906, 0x7060606060606,
    0x6907060606060606, 0x403005306060606, 0x6064b2206062303, 0x22, 0x0,
    0x0, 0x3e03030300000000, 0xe0e0606060606, 0x34, 0x606004288060606,
    0x606000000890022, 0x60600000000000e, 0xc060600004a88, 0x6060606060655, 0x8a030303690000,
    0x60606060655, 0x403190606060000, 0x333000c06060655, 0x8c06060606008b, 0x7060606060655,
    0x4f034e8e03008d, 0x4b00530606150606, 0x19, 0x60619061606650c, 0x40300000c060606,
    0x28352006062c2b21, 0xe21190000, 0x16060606068f06, 0x900000, 0xf060606060606,
    0xe6203074b, 0x60606060606, 0x403002e, 0xc0606060606, 0x53000000,
    0x60606060606, 0x4030025, 0x1900070606060606, 0x4a03030403, 0x4a03000007060606,
    0xc, 0x530606060606, 0x0, 0x606060600000000, 0x4b3c030306060606,
    0x4b0006060659910c, 0x4030018, 0x606170600000000, 0x9000190606, 0x907060606065519,
    0x606060627190000, 0x606000047000e06, 0x1906060606060606, 0x0, 0x403001906060606,
    0xc0606062006, 0x6174f0303030019, 0x606, 0x0, 0x1906060606150c,
    0x606201604030013, 0x40319000e06, 0x939200000000, 0x0, 0x7060600000000,
    0x53060606200694, 0x4030000, 0x19000000000000, 0x4f0303, 0xe060606,
    0x0, 0x303030303030303, 0x3e0303030303, 0x606060606060606, 0x53,
    0x606060606060000, 0x19060606060606, 0x60606060606, 0x606060600000026, 0x606060606060606,
    0xc, 0x403000022060606, 0x0, 0x1906060606060606, 0x60604030c060606,
    0xc06060606060606, 0x220606060403, 0x60606060606, 0x2106069695030053, 0x0,
    0x4030f0606060606, 0x0, 0x606060606060606, 0x3e0303, 0x0,
    0x606060606060606, 0x190706, 0x6550000, 0x98009700000000, 0x606060606060606,
    0x6060606060606, 0x606060606060606, 0x4b00000000220606, 0x1906, 0x0,
    0x0, 0x593f000000000000, 0x9000706060606, 0x6060027003d0000, 0x606060606060606,
    0x5306060606060606, 0x606060606060606, 0xf06070606060606, 0xe061906, 0x0,
    0x0, 0x403000000000000, 0x0, 0x4a0303004a0303, 0x0,
    0x7d03030300000000, 0x606060606060606, 0x606060606110606, 0x7206589911060606, 0x60606060606063f,
    0x9a06060611115716, 0x606060606201748, 0x606062206060606, 0x4506060645060620, 0x611060606110606,
    0x6060c0606060c06, 0x606200606062006, 0x303030303039b45, 0x7210c060606, 0x0,
    0x606000000000000, 0x220606060606, 0x224b0f0606060606, 0x9c03, 0x220606060000,
    0x403530606060606, 0x0, 0x403530606060000, 0x0, 0x3c9d220606060000,
    0x0, 0xc06590c00000000, 0x606060606060606, 0x39e, 0x606060606060606,
    0x4039f53, 0x0, 0x34e000000000000, 0x89a00303030303, 0x0,
    0x7403a1030303034e, 0x0, 0x904505a20606063f, 0x324545a25aa2a363, 0x530615a453061506,
    0x0, 0x4f03, 0x0, 0x606060606060606, 0x6060606,
    0xe06060606060606, 0x606060606060606, 0x606060622060606, 0x606060606060606, 0x606000e06060606,
    0x606060606060606, 0x606060606060606, 0x606001906060606, 0x606060606060606, 0x22060606,
    0x22060606, 0x0, 0x606060606060606, 0x606060606060706, 0x60606060606,
    0x0,
};
static const uint64_t llm__unicode_class[83] = {
    0x44444000000000, 0x2222222200000004, 0x1111111000000022, 0x11111111111, 0x10000400000,
    0x222012000102200, 0x1100001101111111, 0x1111100000011, 0x1101111101010000, 0x100000010111100,
    0x1111101111010111, 0x1111110010111111, 0x100000010, 0x1100002210000111, 0x110000000101111,
    0x1001112211000000, 0x1110000011111101, 0x1111112200111111, 0x1000000110000, 0x1111000001111110,
    0x2200001100100011, 0x1001111111100001, 0x1100010111111001, 0x2222001110110000, 0x110110100010022,
    0x2200000001011110, 0x1110110100011100, 0x1110100022222210, 0x11110111000111, 0x1100011010110,
    0x10011100000222, 0x1110111102222222, 0x111000000000110, 0x1111110212222222, 0x1111011100001101,
    0x10000010101111, 0x1111002201011111, 0x1000000000002222, 0x110001000111100, 0x2222222222220,
    0x2200011111111114, 0x111111111112, 0x1111100000000101, 0x1110011111100022, 0x110111111011110,
    0x1101110010101010, 0x4444444411001111, 0x4000004400000444, 0x2222001240000000, 0x1000010010000022,
    0x1011110100111110, 0x100001111110011, 0x2222220022211222, 0x110001111000, 0x2110000400200000,
    0x22220000011222, 0x2211111100001122, 0x1011101111101011, 0x110100000222222, 0x1100010001111122,
    0x1010000000111000, 0x1011011111011011, 0x220000000, 0x1111112100002200, 0x22222000000211,
    0x1001000100011011, 0x2222200000110111, 0x221111111220000, 0x2222022211111, 0x1001000000100110,
    0x1111001000111, 0x100101100010122, 0x1111001000001010, 0x3333333333, 0x2222202211110100,
    0x101111111022, 0x110010003330000, 0x2200111101111011, 0x2222222101000022, 0x100020011111,
    0x2022222222202222, 0x1110101010010110, 0x11101110,
};
/* unicode-table end */

/* The class of a scalar. */
LLM__INLINE unsigned llm__unicode(uint32_t c) {
    uint32_t at;
    if (c >= LLM__UNICODE_LIMIT) return LLM__CLASS_OTHER;
    at = (uint32_t)(llm__unicode_book[c >> 13] >> (8 * (c >> 10 & 7))) & 255;
    at = (uint32_t)(llm__unicode_page[at] >> (8 * (c >> 7 & 7))) & 255;
    at = (uint32_t)(llm__unicode_row[2 * at + (c >> 6 & 1)] >> (8 * (c >> 3 & 7))) & 255;
    return (unsigned)(llm__unicode_class[at >> 1] >> (32 * (at & 1) + 4 * (c & 7))) & 15;
}

/* Reads one character of strict UTF-8 (no surrogates, nothing overlong) from s[0..n), n > 0.
   Returns its bytes, or 0 if there is none; then the first byte stands for itself. */
static size_t llm__tok_utf8(const uint8_t *s, size_t n, uint32_t *scalar) {
    uint32_t a = s[0], c;
    if (a < 0x80) {
        *scalar = a;
        return 1;
    }
    if (a < 0xC2 || a > 0xF4 || n < 2 || (s[1] & 0xC0) != 0x80) return 0;
    c = s[1] & 0x3Fu;
    if (a < 0xE0) {
        *scalar = (a & 31) << 6 | c;
        return 2;
    }
    if (n < 3 || (s[2] & 0xC0) != 0x80) return 0;
    c = c << 6 | (s[2] & 0x3Fu);
    if (a < 0xF0) {
        *scalar = c |= (a & 15) << 12;
        return c < 0x800 || (c >= 0xD800 && c < 0xE000) ? 0 : 3;
    }
    if (n < 4 || (s[3] & 0xC0) != 0x80) return 0;
    *scalar = c = (a & 7) << 18 | c << 6 | (s[3] & 0x3Fu);
    return c < 0x10000 || c > 0x10FFFF ? 0 : 4;
}

/* ======================================================================== */
/* >>tokenizer-pre: cutting text into words, by hand instead of by regex     */
/* ======================================================================== */
/* The regular expressions that vocabularies were trained with differ in five places only:

     GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
     Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
              ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
     Qwen 2   as Llama 3 with \p{N}

   SmolLM first isolates every digit; what lies between is cut by GPT-2's expression, piece by
   piece, so for that expression a digit is the end of the text. */
typedef struct llm__pre_rule {
    uint8_t digits;   /* every digit stands alone and ends the text */
    uint8_t fold;     /* contractions in either case */
    uint8_t prefix;   /* a word may start with any character but a newline, not just a space */
    uint8_t numbers;  /* most digits in a number; 0: any number of them, after a space if any */
    uint8_t newlines; /* newlines belong to the symbols or the space before them */
} llm__pre_rule;

static const llm__pre_rule llm__pre_rules[LLM__PRE_COUNT] = {
    {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}, {1, 0, 0, 0, 0}, {0, 1, 1, 3, 1}, {0, 1, 1, 1, 1}};

enum { LLM__CUT_OTHER, LLM__CUT_LETTER, LLM__CUT_NUMBER, LLM__CUT_SPACE, LLM__CUT_END };

/* What stands at s[i], and where the next character starts. */
LLM__INLINE unsigned llm__cut_kind(const llm__pre_rule *rule, const uint8_t *s, size_t i, size_t n,
                                   size_t *next) {
    uint32_t scalar;
    size_t size;
    unsigned k;
    if (i >= n) {
        *next = i;
        return LLM__CUT_END;
    }
    size = llm__tok_utf8(s + i, n - i, &scalar);
    *next = i + (size ? size : 1);
    if (!size) return LLM__CUT_OTHER;
    k = llm__unicode(scalar);
    if (k == LLM__CLASS_LETTER) return LLM__CUT_LETTER;
    if (k == LLM__CLASS_SPACE) return LLM__CUT_SPACE;
    if (k == LLM__CLASS_NUMBER) return rule->digits ? LLM__CUT_END : LLM__CUT_NUMBER;
    return k == LLM__CLASS_DIGIT_ONLY && rule->digits ? LLM__CUT_END : LLM__CUT_OTHER;
}

/* The end of a run of one kind that goes on at i, of at most `most` characters (0: any number). */
static size_t llm__cut_run(const llm__pre_rule *rule, const uint8_t *s, size_t i, size_t n,
                           unsigned kind, unsigned most) {
    size_t next;
    while (llm__cut_kind(rule, s, i, n, &next) == kind) {
        i = next;
        if (most && --most == 0) break;
    }
    return i;
}

/* The length of 's 't 're 've 'm 'll 'd at an apostrophe, or 0. */
static size_t llm__cut_contraction(const llm__pre_rule *rule, const uint8_t *s, size_t n) {
    uint8_t a = n > 1 ? s[1] : 0, b = n > 2 ? s[2] : 0;
    if (rule->fold) {
        if (a >= 'A' && a <= 'Z') a = (uint8_t)(a + 32);
        if (b >= 'A' && b <= 'Z') b = (uint8_t)(b + 32);
        if (a == 0xC5 && b == 0xBF) return 3; /* U+017F, the long s, is an s in another case */
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* White space from i on: up to its last newline where newlines count, else all but the last
   character if a word follows, which may take that one as its prefix. */
static size_t llm__cut_space(const llm__pre_rule *rule, const uint8_t *s, size_t i, size_t n) {
    size_t last = i, newline = i, at = i, next;
    unsigned kind;
    while ((kind = llm__cut_kind(rule, s, at, n, &next)) == LLM__CUT_SPACE) {
        if (s[at] == '\r' || s[at] == '\n') newline = next;
        last = at;
        at = next;
    }
    if (rule->newlines && newline > i) return newline;
    return kind == LLM__CUT_END || last == i ? at : last;
}

/* The end of the word that starts at s[i], i < n. */
static size_t llm__cut(const llm__pre_rule *rule, const uint8_t *s, size_t i, size_t n) {
    size_t after, end;
    unsigned kind = llm__cut_kind(rule, s, i, n, &after), follow;
    if (kind == LLM__CUT_END) return after;
    if (s[i] == '\'' && (end = llm__cut_contraction(rule, s + i, n - i)) != 0) return i + end;
    if (kind == LLM__CUT_LETTER) return llm__cut_run(rule, s, after, n, kind, 0);
    if (kind == LLM__CUT_NUMBER)
        return rule->numbers == 1 ? after
                                  : llm__cut_run(rule, s, i, n, kind, rule->numbers);
    follow = llm__cut_kind(rule, s, after, n, &end);
    if (follow == LLM__CUT_LETTER &&
        (s[i] == ' ' || (rule->prefix && s[i] != '\r' && s[i] != '\n')))
        return llm__cut_run(rule, s, end, n, follow, 0);
    if (s[i] == ' ' && follow == LLM__CUT_NUMBER && !rule->numbers)
        return llm__cut_run(rule, s, end, n, follow, 0);
    if (kind == LLM__CUT_OTHER || (s[i] == ' ' && follow == LLM__CUT_OTHER)) {
        end = llm__cut_run(rule, s, after, n, LLM__CUT_OTHER, 0);
        while (rule->newlines && end < n && (s[end] == '\r' || s[end] == '\n')) end++;
        return end;
    }
    return llm__cut_space(rule, s, i, n);
}

/* ======================================================================== */
/* >>tokenizer-merge: byte pair encoding in linear time                      */
/* ======================================================================== */
/* Byte pair encoding merges the adjacent pair of lowest rank (the leftmost of equals) until no rule
   applies. What it makes of a text is the one sequence of tokens in which every two neighbours
   hold: merged side by side, from single symbols, no rule ever joins across their border. So the
   result is found from left to right: take the longest token that holds against the last one,
   shorten it if it does not, and step back where none does. A prefix of the text has one encoding,
   so a position that failed once has failed for good (`dead`): the work is linear in the text. */

/* The rank of the rule that joins two tokens, 0 if there is none. */
static uint32_t llm__tok_rank(const llm_tokenizer *t, uint32_t left, uint32_t right) {
    const uint64_t key = left | (uint64_t)right << 21, mask = ((uint64_t)1 << 42) - 1;
    const uint64_t hash = (key * 0x9E3779B97F4A7C15u) >> 32;
    uint32_t bucket = (uint32_t)(hash * t->pair_buckets >> 32);
    uint32_t reach = llm__tok_head(t)->reach, i;
    for (; reach; reach--) {
        const uint64_t *pairs = t->pairs + (size_t)bucket * 8;
        for (i = 0; i < 8; i++) {
            if ((pairs[i] & mask) == key && pairs[i]) return (uint32_t)(pairs[i] >> 42);
            if (!pairs[i]) return 0;
        }
        if (++bucket == t->pair_buckets) bucket = 0;
    }
    return 0;
}

/* Whether tokens u and v, side by side, come out of the merging of their symbols as they are.
   Both are taken apart again, the later merge first, and at every stage the rule that would join
   what lies on either side of the border must come too late. It fires if it ranks below some merge
   that the left side still has to do before its edge changes, and not above some merge of the right
   side (of equal ranks the left one goes first). Those greatest ranks are: of the side whose edge
   was last to appear, `*_step`, what it does between two edges; of the other, `*_end`. In most
   vocabularies ranks only grow as tokens do, and all of this is one comparison. */
static bool llm__tok_hold(const llm_tokenizer *t, uint32_t u, uint32_t v) {
    uint32_t u_end = 0xFFFFFFFFu, u_step = u_end, v_end = u_end, v_step = u_end;
    uint32_t budget = 2 * llm__tok_head(t)->longest + 2;
    const llm__tok_token *a = llm__tok_at(t, u), *b = llm__tok_at(t, v);
    for (; budget; budget--) {
        uint32_t rank = llm__tok_rank(t, u, v);
        bool u_last = a->time > b->time;
        LLM__TOK_COUNT(1);
        if (rank && (u_last ? rank < u_step && rank <= v_end : rank < u_end && rank <= v_step))
            return false;
        if (u_last) {
            u_end = a->time;
            u_step = a->left & LLM__TOK_LATER ? a->time : a->rank;
            a = llm__tok_at(t, u = a->right);
        } else {
            if (!b->time) return true;
            v_end = b->time;
            v_step = b->left & LLM__TOK_LATER ? b->rank : b->time;
            b = llm__tok_at(t, v = b->left & ~LLM__TOK_LATER);
        }
    }
    return false;
}

/* The longest token that s[0..n) starts with and that merging can produce, or LLM__TOK_NONE.
   `*whole`, if asked for, is the token of exactly s[0..n), produced by merging or not. */
static uint32_t llm__tok_longest(const llm_tokenizer *t, const uint8_t *s, size_t n,
                                 uint32_t *whole) {
    const llm__tok_node *nodes = LLM__CAST(const llm__tok_node *, t->trie);
    const size_t most = llm__tok_head(t)->longest;
    uint32_t at = 0, best = LLM__TOK_NONE, token;
    size_t i;
    if (whole) *whole = LLM__TOK_NONE;
    if (!t->trie_count) return best;
    for (i = 0; i < n && i < most; i++) {
        at = nodes[at].link >> 8 ^ s[i];
        LLM__TOK_COUNT(1);
        if (at >= t->trie_count) break;
        token = nodes[at].token;
        if ((nodes[at].link & 255) != s[i] || token == LLM__TOK_EMPTY) break;
        if (token == LLM__TOK_NONE) continue;
        if (!(token & LLM__TOK_NO_MERGE)) best = token;
        if (whole && i + 1 == n) *whole = token & LLM__TOK_ID;
    }
    return best;
}

/* The same for the added tokens of pass 0 or 1 (ADDED, NORMALIZED); `*size` becomes the bytes that
   it takes up in the text. Of user-defined and control tokens only the former unless `special`.
   `prefix`: a space that is not in the text goes before it. */
static uint32_t llm__tok_match_added(const llm_tokenizer *t, unsigned pass, const uint8_t *s,
                                     size_t n, bool special, bool prefix, size_t *size) {
    const llm__tok_node *nodes = LLM__CAST(const llm__tok_node *, t->added[pass]);
    const uint32_t flags = llm__tok_head(t)->flags, count = t->added_count[pass];
    const bool fold = (flags & (pass ? LLM__TOK_FOLD_NORMALIZED : LLM__TOK_FOLD_ADDED)) != 0;
    uint32_t at = 0, best = LLM__TOK_NONE, depth = llm__tok_head(t)->longest + 1, token;
    size_t i = 0;
    if (!count) return best;
    while (i < n && depth--) {
        uint8_t c = prefix ? ' ' : s[i++];
        if (fold && c == 0xE2 && n - i >= 2 && s[i] == 0x96 && s[i + 1] == 0x81) {
            c = ' ';
            i += 2;
        }
        prefix = false;
        LLM__TOK_COUNT(1);
        at = nodes[at].link >> 8 ^ c;
        if (at >= count) break;
        token = nodes[at].token;
        if ((nodes[at].link & 255) != c || token == LLM__TOK_EMPTY) break;
        if (token == LLM__TOK_NONE || (token &= LLM__TOK_ID) >= t->vocab) continue;
        if ((t->kinds[token] & LLM__TOK_KIND) != LLM_TOKEN_USER_DEFINED && !special) continue;
        best = token;
        *size = i;
    }
    return best;
}

/* What stands before s[i], i > 0, and where it starts. */
static size_t llm__tok_before(const uint8_t *s, size_t i, uint32_t *scalar) {
    size_t k;
    for (k = 2; k <= 4 && k <= i; k++)
        if (s[i - k] >= 0xC0) {
            if (llm__tok_utf8(s + i - k, k, scalar) == k) return i - k;
            break;
        }
    *scalar = s[i - 1] < 0x80 ? s[i - 1] : 0xFFFD;
    return i - 1;
}

/* Whether a scalar is white space to added tokens that strip it; `folded`: a space is U+2581. */
LLM__INLINE bool llm__tok_is_space(uint32_t c, bool folded) {
    return llm__unicode(c) == LLM__CLASS_SPACE && !(folded && c == ' ');
}

/* Whether words are made of this scalar, as far as added tokens care. */
static bool llm__tok_is_word(const llm_tokenizer *t, uint32_t c) {
    uint32_t low = 0, high = t->word_ranges;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (c < t->words[2 * (size_t)middle]) high = middle;
        else if (c > t->words[2 * (size_t)middle + 1]) low = middle + 1;
        else return true;
    }
    return false;
}

/* Whether no word goes on before s[start] or at s[end]. */
static bool llm__tok_is_alone(const llm_tokenizer *t, const uint8_t *s, size_t start, size_t end,
                              size_t n) {
    uint32_t scalar = 0;
    if (start) (void)llm__tok_before(s, start, &scalar);
    if (start && llm__tok_is_word(t, scalar)) return false;
    return end >= n || !llm__tok_utf8(s + end, n - end, &scalar) || !llm__tok_is_word(t, scalar);
}

/* An added token in a text, and where to go on. */
typedef struct llm__tok_added {
    uint32_t id;       /* LLM__TOK_NONE: there is no other one */
    bool prefix;       /* it takes the space that is not in the text */
    size_t start, end; /* with the white space that it takes */
    size_t next;       /* behind its own bytes: where to look for the next one */
    size_t space;      /* up to here white space goes on behind it */
} llm__tok_added;

/* Widens a token found in [start, next) by the white space that it takes: before it not beyond
   `from`, where the last one ended. */
static void llm__tok_strip(const llm_tokenizer *t, bool folded, const uint8_t *s, size_t n,
                           size_t from, llm__tok_added *a) {
    uint32_t scalar = 0;
    size_t k, at = a->next;
    a->end = at;
    if (t->kinds[a->id] & LLM__TOK_LSTRIP) {
        if (a->start < from) a->start = from;
        while (a->start > from) {
            k = llm__tok_before(s, a->start, &scalar);
            if (!llm__tok_is_space(scalar, folded)) break;
            a->start = k;
            LLM__TOK_COUNT(1);
        }
    }
    if (!(t->kinds[a->id] & LLM__TOK_RSTRIP)) return;
    if (at < a->space) at = a->space;
    while (at < n && (k = llm__tok_utf8(s + at, n - at, &scalar)) != 0 &&
           llm__tok_is_space(scalar, folded)) {
        at += k;
        LLM__TOK_COUNT(1);
    }
    a->end = a->space = at;
}

/* The next added token from a->next on: the leftmost, and of those the longest. `prefix`: a space
   that is not there goes before s[0]. */
static void llm__tok_next_added(const llm_tokenizer *t, unsigned pass, const uint8_t *s, size_t n,
                                bool special, bool prefix, size_t from, llm__tok_added *a) {
    const uint32_t *starts = t->starts + 16 * pass + (special ? 8 : 0);
    const bool folded = pass && (llm__tok_head(t)->flags & LLM__TOK_FOLD_NORMALIZED) != 0;
    size_t i = a->next, size = 0;
    prefix = prefix && i == 0;
    while (i < n) {
        a->id = LLM__TOK_NONE;
        a->prefix = prefix;
        prefix = false;
        if (a->prefix) a->id = llm__tok_match_added(t, pass, s, n, special, true, &size);
        if (a->id == LLM__TOK_NONE && starts[s[i] >> 5] >> (s[i] & 31) & 1) {
            a->prefix = false;
            a->id = llm__tok_match_added(t, pass, s + i, n - i, special, false, &size);
        }
        if (a->id == LLM__TOK_NONE) {
            i++;
            continue;
        }
        a->start = i;
        a->next = i += size;
        if ((t->kinds[a->id] & LLM__TOK_SINGLE_WORD) && !llm__tok_is_alone(t, s, a->start, i, n))
            continue;
        llm__tok_strip(t, folded, s, n, from, a);
        return;
    }
    a->id = LLM__TOK_NONE;
}

/* One call's state. */
typedef struct llm__tok_run {
    const llm_tokenizer *t;
    const llm_allocator *allocator;
    int32_t *ids;
    size_t capacity, count;
    size_t fused;   /* `count` after the last unknown token, which swallows further ones */
    uint8_t *memory; /* for stretches of LLM__TOK_SHORT bytes and more */
    size_t memory_size;
    uint8_t *normal; /* for stretches that are brought into normal form C */
    size_t normal_size;
    const uint8_t *first; /* where the whole text begins; NULL: not in this call */
    bool special;
    bool failed; /* no memory */
    uint64_t bits[2 * (LLM__TOK_SHORT / 64)];
    uint8_t copy[LLM__TOK_SHORT];
} llm__tok_run;

LLM__INLINE void llm__tok_emit(llm__tok_run *run, uint32_t id) {
    if (run->count < run->capacity) run->ids[run->count] = (int32_t)id;
    run->count++;
}

static bool llm__tok_room(llm__tok_run *run, uint8_t **memory, size_t *room, size_t size) {
    if (size <= *room) return true;
    llm__release(run->allocator, *memory, *room);
    *room = size + size / 4;
    *memory = LLM__CAST(uint8_t *, llm__allocate(run->allocator, *room));
    if (*memory) return true;
    *room = 0;
    run->failed = true;
    return false;
}

static bool llm__tok_reserve(llm__tok_run *run, size_t size) {
    return llm__tok_room(run, &run->memory, &run->memory_size, size);
}

/* Bytes of the two bit sets over the positions 0..n. */
LLM__INLINE size_t llm__tok_bits_size(size_t n) { return 2 * 8 * (n / 64 + 1); }

LLM__INLINE bool llm__bit(const uint64_t *bits, size_t i) { return bits[i >> 6] >> (i & 63) & 1; }
LLM__INLINE void llm__bit_set(uint64_t *bits, size_t i) { bits[i >> 6] |= (uint64_t)1 << (i & 63); }
LLM__INLINE void llm__bit_clear(uint64_t *bits, size_t i) {
    bits[i >> 6] &= ~((uint64_t)1 << (i & 63));
}

/* A character that is no token: its byte tokens, or the unknown token. Returns its size. */
static size_t llm__tok_fallback(llm__tok_run *run, const uint8_t *s, size_t n) {
    const llm_tokenizer *t = run->t;
    uint32_t scalar, unknown = llm__tok_head(t)->unknown;
    size_t size = llm__tok_utf8(s, n, &scalar), i;
    if (!size) size = 1;
    for (i = 0; i < size && t->bytes[s[i]] < t->vocab; i++) continue;
    if (i == size) {
        for (i = 0; i < size; i++) llm__tok_emit(run, t->bytes[s[i]]);
    } else if (unknown < t->vocab && run->fused != run->count) {
        llm__tok_emit(run, unknown);
        run->fused = run->count;
    }
    return size;
}

/* The longest candidate, from *next downwards, that holds after `last` at `at`. Returns its end, 0
   if there is none. */
static size_t llm__tok_fit(const llm_tokenizer *t, uint32_t last, uint32_t *next, size_t at,
                           size_t n, const uint64_t *dead) {
    size_t length = n - at + 1;
    while (*next < t->vocab) {
        size_t size = llm__tok_length(t, *next);
        if (size == 0 || size >= length) return 0; /* each is shorter than the one before */
        if (!llm__bit(dead, at + size) && (last == LLM__TOK_NONE || llm__tok_hold(t, last, *next)))
            return at + size;
        length = size;
        *next = llm__tok_at(t, *next)->shorter;
    }
    return 0;
}

/* The position before `at` where a token starts, not below `base`. */
static size_t llm__tok_back(const uint64_t *edge, size_t base, size_t at) {
    do at--;
    while (at > base && !llm__bit(edge, at));
    return at;
}

/* Merges s[0..n), whose longest first token is `next`. A character without a token becomes its
   bytes if `fallback`; else the search ends there. Returns the position of the end. */
static size_t llm__tok_search(llm__tok_run *run, const uint8_t *s, size_t n, uint32_t next,
                              bool fallback, uint64_t *dead, uint64_t *edge) {
    const llm_tokenizer *t = run->t;
    uint32_t last = LLM__TOK_NONE;
    size_t base = 0, at = 0, end;
    while (at < n) {
        if (next == LLM__TOK_NONE) { /* no token reaches across: start afresh behind it */
            if (!fallback) return at;
            base = at += llm__tok_fallback(run, s + at, n - at);
            last = LLM__TOK_NONE;
        } else if ((end = llm__tok_fit(t, last, &next, at, n, dead)) != 0) {
            llm__tok_emit(run, next);
            llm__bit_set(edge, end);
            last = next;
            at = end;
        } else if (at == base) { /* only in tables that contradict themselves */
            next = LLM__TOK_NONE;
            continue;
        } else { /* step back */
            llm__bit_set(dead, at);
            llm__bit_clear(edge, at);
            run->count--;
            next = llm__tok_at(t, last)->shorter;
            if (next >= t->vocab) next = last, end = 0;
            at = llm__tok_back(edge, base, at);
            end = at > base ? llm__tok_back(edge, base, at) : at;
            last = end < at ? llm__tok_longest(t, s + end, at - end, NULL) : LLM__TOK_NONE;
            continue;
        }
        next = at < n ? llm__tok_longest(t, s + at, n - at, NULL) : LLM__TOK_NONE;
    }
    return n;
}

/* Emits the tokens of one stretch; returns how far it came (short of n only without `fallback`). */
static size_t llm__tok_encode(llm__tok_run *run, const uint8_t *s, size_t n, bool fallback) {
    const llm_tokenizer *t = run->t;
    uint64_t *bits = run->bits;
    uint32_t whole, first = llm__tok_longest(t, s, n, &whole);
    if (whole < t->vocab &&
        (first == whole || (llm__tok_head(t)->flags & LLM__TOK_WHOLE_WORDS))) {
        llm__tok_emit(run, whole);
        return n;
    }
    if (n >= LLM__TOK_SHORT) {
        if (!llm__tok_reserve(run, llm__tok_bits_size(n))) return n;
        bits = LLM__CAST(uint64_t *, LLM__CAST(void *, run->memory));
    }
    memset(bits, 0, llm__tok_bits_size(n));
    return llm__tok_search(run, s, n, first, fallback, bits, bits + n / 64 + 1);
}

/* Room for n bytes of text that stays where it is while up to n bytes are encoded. */
static uint8_t *llm__tok_copy_room(llm__tok_run *run, size_t n) {
    const size_t bits = llm__tok_bits_size(n); /* n is at most SIZE_MAX / 4 */
    if (n < LLM__TOK_SHORT) return run->copy;
    return llm__tok_reserve(run, bits + n) ? run->memory + bits : NULL;
}

/* A word of a byte-level vocabulary. Bytes that it lacks are as if they were not there. */
static void llm__tok_word(llm__tok_run *run, const uint8_t *s, size_t n) {
    const size_t before = run->count;
    uint8_t *copy;
    size_t i, kept = 0;
    if (llm__tok_encode(run, s, n, false) == n) return; /* n without memory, too */
    run->count = before;
    copy = llm__tok_copy_room(run, n);
    if (!copy) return;
    for (i = 0; i < n; i++)
        if (run->t->bytes[s[i]] < run->t->vocab) copy[kept++] = s[i];
    if (kept) (void)llm__tok_encode(run, copy, kept, true);
}

static void llm__tok_segment_words(llm__tok_run *run, const uint8_t *s, size_t n) {
    const llm__pre_rule *rule = &llm__pre_rules[llm__tok_head(run->t)->pre];
    size_t i = 0, end;
    while (i < n && !run->failed) {
        end = llm__cut(rule, s, i, n);
        llm__tok_word(run, s + i, end - i);
        i = end;
    }
}

/* One byte of SentencePiece's normalised text, in which U+2581 is a space; *i moves on. */
LLM__INLINE uint8_t llm__tok_piece_byte(const uint8_t *s, size_t *i, size_t n) {
    if (s[*i] == 0xE2 && n - *i >= 3 && s[*i + 1] == 0x96 && s[*i + 2] == 0x81) {
        *i += 3;
        return ' ';
    }
    return s[(*i)++];
}

/* SentencePiece text is one word, but no token reaches across two bytes that no token joins. So it
   falls apart there, almost always before a space. */
static void llm__tok_segment_pieces(llm__tok_run *run, const uint8_t *s, size_t n, bool prefix) {
    const uint32_t *joins = run->t->joins;
    size_t i = 0;
    while ((i < n || prefix) && !run->failed) {
        size_t at = i, next = i, size = prefix ? 1 : 0, k;
        uint32_t pair = prefix ? ' ' : llm__tok_piece_byte(s, &at, n);
        if (!prefix) size = 1;
        while (at < n) {
            next = at;
            pair = (pair << 8 | llm__tok_piece_byte(s, &next, n)) & 0xFFFF;
            if (!(joins[pair >> 5] >> (pair & 31) & 1)) break;
            at = next;
            size++;
        }
        if (size == at - i) { /* neither a prefix nor a U+2581 */
            (void)llm__tok_encode(run, s + i, size, true);
        } else {
            uint8_t *copy = llm__tok_copy_room(run, size);
            if (!copy) return;
            k = 0;
            if (prefix) copy[k++] = ' ';
            for (next = i; next < at;) copy[k++] = llm__tok_piece_byte(s, &next, n);
            (void)llm__tok_encode(run, copy, k, true);
        }
        prefix = false;
        i = at;
    }
}

static void llm__tok_segment(llm__tok_run *run, const uint8_t *s, size_t n, bool prefix) {
    if ((llm__tok_head(run->t)->flags & LLM__TOK_PREFIX_NEW) && n &&
        (*s == ' ' || (n >= 3 && s[0] == 0xE2 && s[1] == 0x96 && s[2] == 0x81)))
        prefix = false;
    run->fused = (size_t)-1;
    if (llm__tok_head(run->t)->pre == LLM__PRE_SENTENCEPIECE)
        llm__tok_segment_pieces(run, s, n, prefix);
    else
        llm__tok_segment_words(run, s, n);
}

/* Whether a space goes before a stretch of text. */
static bool llm__tok_prefix(const llm__tok_run *run, const uint8_t *s) {
    const uint32_t flags = llm__tok_head(run->t)->flags;
    return (flags & LLM__TOK_SPACE_PREFIX) && (!(flags & LLM__TOK_PREFIX_FIRST) || s == run->first);
}

/* Normalised text, cut at the added tokens that are looked for in it. */
static void llm__tok_normalized(llm__tok_run *run, const uint8_t *s, size_t n) {
    const bool late = (llm__tok_head(run->t)->flags & LLM__TOK_PREFIX_NEW) != 0;
    bool prefix = llm__tok_prefix(run, s); /* late: before what is left of the text */
    llm__tok_added a = LLM__ZERO;
    size_t from = 0;
    while (run->t->added_count[1] && !run->failed) {
        llm__tok_next_added(run->t, 1, s, n, run->special, prefix && !late, from, &a);
        if (a.id == LLM__TOK_NONE) break;
        if (from < a.start || (prefix && !late && !a.prefix))
            llm__tok_segment(run, s + from, from < a.start ? a.start - from : 0, prefix);
        llm__tok_emit(run, a.id);
        from = a.end;
        prefix = late && llm__tok_prefix(run, s + from);
    }
    if (from < n && !run->failed) llm__tok_segment(run, s + from, n - from, prefix);
}

/* ---- normal form C: what is in it already is found to be so, and not touched ---- */

enum { LLM__NFC_SCALARS = 256, LLM__NFC_CHUNK = 128, LLM__NFC_BYTE = 0x110000 };

/* A scalar's combining class; 255: see its record. */
LLM__INLINE uint32_t llm__nfc_class(const llm_tokenizer *t, uint32_t c) {
    uint32_t page;
    if (c >> 7 >= t->nfc_pages || (page = t->nfc_page[c >> 7]) >= t->nfc_classes) return 0;
    return t->nfc_class[page * 128 + (c & 127)];
}

/* Whether text is in NFC for certain. Whatever is below U+0300 is. */
static bool llm__nfc_is(const llm_tokenizer *t, const uint8_t *s, size_t n) {
    uint32_t last = 0, scalar = 0, kind;
    size_t i = 0, size;
    while (i < n) {
        LLM__TOK_COUNT(1);
        if (n - i >= 8 && !(llm__u64(s + i) & 0x8080808080808080u)) {
            i += 8;
            last = 0;
            continue;
        }
        size = s[i] < 0xCC ? 0 : llm__tok_utf8(s + i, n - i, &scalar);
        kind = size ? llm__nfc_class(t, scalar) : 0;
        if (kind == 255 || (kind && kind < last)) return false;
        last = kind;
        i += size ? size : s[i] >= 0xC2 && s[i] < 0xCC && n - i >= 2 ? 2 : 1;
    }
    return true;
}

LLM__SMALL
/* The record of a scalar, NULL if it has none. */
static const uint32_t *llm__nfc_record(const llm_tokenizer *t, uint32_t c) {
    uint32_t low = 0, high = t->nfc_splits;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t *record = t->nfc_split + 3 * (size_t)middle;
        if ((record[0] & 0xFFFFFF) == c) return record;
        if ((record[0] & 0xFFFFFF) < c) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* scalar | combining class << 24 */
static uint32_t llm__nfc_mark(const llm_tokenizer *t, uint32_t c) {
    const uint32_t kind = llm__nfc_class(t, c);
    const uint32_t *record = kind == 255 ? llm__nfc_record(t, c) : NULL;
    return c | (record ? record[0] & 0xFF000000u : kind << 24);
}

/* The scalars that one decomposes into, at most four, with their classes. */
static uint32_t llm__nfc_decompose(const llm_tokenizer *t, uint32_t c, uint32_t *out) {
    uint32_t tail[3], count = 0, used = 0, steps;
    const uint32_t *record;
    if (c - 0xAC00 < 11172) { /* Hangul */
        c -= 0xAC00;
        out[0] = 0x1100 + c / 588;
        out[1] = 0x1161 + c % 588 / 28;
        out[2] = 0x11A7 + c % 28;
        return c % 28 ? 3 : 2;
    }
    for (steps = 0; c >= 0xC0 && steps < 8 && count < 3; steps++) {
        record = llm__nfc_record(t, c);
        if (!record || !record[1]) break;
        c = record[1] & 0x1FFFFF;
        if (record[2]) tail[count++] = record[2] & 0x1FFFFF;
    }
    for (out[used++] = llm__nfc_mark(t, c); count;) out[used++] = llm__nfc_mark(t, tail[--count]);
    return used;
}

/* What two scalars compose to, 0 if nothing. */
static uint32_t llm__nfc_compose(const llm_tokenizer *t, uint32_t a, uint32_t b) {
    uint32_t low = 0, high = t->nfc_joins;
    if (a - 0x1100 < 19 && b - 0x1161 < 21)
        return 0xAC00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
    if (a - 0xAC00 < 11172 && (a - 0xAC00) % 28 == 0 && b - 0x11A8 < 27) return a + (b - 0x11A7);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t *join = t->nfc_join + 3 * (size_t)middle;
        if (join[0] == a && join[1] == b) return join[2] & 0x1FFFFF;
        if (join[0] < a || (join[0] == a && join[1] < b)) low = middle + 1;
        else high = middle;
    }
    return 0;
}

/* Sorts marks by class, those of a class as they come, in linear time. */
static bool llm__nfc_order(llm__tok_run *run, uint32_t *c, size_t n) {
    size_t i, k, counts[256];
    uint32_t *copy;
    LLM__TOK_COUNT(n);
    if (n <= 16) {
        for (i = 1; i < n; i++) {
            const uint32_t one = c[i];
            for (k = i; k && c[k - 1] >> 24 > one >> 24; k--) c[k] = c[k - 1];
            c[k] = one;
        }
        return true;
    }
    if (!llm__tok_reserve(run, n * sizeof *c)) return false;
    copy = LLM__CAST(uint32_t *, LLM__CAST(void *, run->memory));
    memcpy(copy, c, n * sizeof *c);
    memset(counts, 0, sizeof counts);
    for (i = 0; i < n; i++) counts[copy[i] >> 24]++;
    for (i = k = 0; i < 256; i++) {
        const size_t count = counts[i];
        counts[i] = k;
        k += count;
    }
    for (i = 0; i < n; i++) c[counts[copy[i] >> 24]++] = copy[i];
    return true;
}

/* Orders and composes n scalars in place; returns how many are left. */
static size_t llm__nfc_join(llm__tok_run *run, uint32_t *c, size_t n) {
    size_t i, k, out = 0, starter = n;
    for (i = 0; i < n; i = k + 1) {
        for (k = i; k < n && c[k] >> 24; k++) continue;
        if (k - i > 1 && !llm__nfc_order(run, c + i, k - i)) return 0;
    }
    for (i = 0; i < n; i++) {
        const uint32_t kind = c[i] >> 24;
        uint32_t composed = 0;
        LLM__TOK_COUNT(1);
        if (starter < n && (out == starter + 1 || c[out - 1] >> 24 < kind))
            composed = llm__nfc_compose(run->t, c[starter] & 0xFFFFFF, c[i] & 0xFFFFFF);
        if (composed) {
            c[starter] = composed;
            continue;
        }
        if (!kind) starter = out;
        c[out++] = c[i];
    }
    return out;
}

/* Scalars to UTF-8, in place: none takes more than four bytes. Returns the bytes. */
static size_t llm__nfc_encode(const uint32_t *c, size_t n, uint8_t *out) {
    size_t i, used = 0;
    for (i = 0; i < n; i++) {
        const uint32_t scalar = c[i] & 0xFFFFFF;
        if (scalar < 0x80 || scalar >= LLM__NFC_BYTE) {
            out[used++] = (uint8_t)scalar; /* ASCII, or a byte that is no UTF-8 */
            continue;
        }
        if (scalar >= 0x10000) {
            out[used++] = (uint8_t)(0xF0 | scalar >> 18);
            out[used++] = (uint8_t)(0x80 | (scalar >> 12 & 63));
        } else if (scalar >= 0x800) {
            out[used++] = (uint8_t)(0xE0 | scalar >> 12);
        }
        out[used++] = (uint8_t)(scalar < 0x800 ? 0xC0 | scalar >> 6 : 0x80 | (scalar >> 6 & 63));
        out[used++] = (uint8_t)(0x80 | (scalar & 63));
    }
    return used;
}

/* Decomposes s[0..n) into `out`; NULL: only counts. */
static size_t llm__nfc_take_apart(const llm_tokenizer *t, const uint8_t *s, size_t n,
                                  uint32_t *out) {
    uint32_t parts[4], scalar = 0, k, count;
    size_t i, size, used = 0;
    for (i = 0; i < n; i += size) {
        size = llm__tok_utf8(s + i, n - i, &scalar);
        count = size ? llm__nfc_decompose(t, scalar, parts) : 1;
        if (!size) parts[0] = LLM__NFC_BYTE + s[i], size = 1;
        for (k = 0; out && k < count; k++) out[used + k] = parts[k];
        used += count;
        LLM__TOK_COUNT(1);
    }
    return used;
}

/* A stretch that may not be in NFC. */
static void llm__nfc_stretch(llm__tok_run *run, const uint8_t *s, size_t n) {
    uint32_t few[LLM__NFC_SCALARS], *c = few;
    uint8_t *text;
    size_t count = llm__nfc_take_apart(run->t, s, n, NULL);
    if (count > LLM__NFC_SCALARS) {
        if (!llm__tok_room(run, &run->normal, &run->normal_size, count * sizeof *c)) return;
        c = LLM__CAST(uint32_t *, LLM__CAST(void *, run->normal));
    }
    text = LLM__CAST(uint8_t *, LLM__CAST(void *, c));
    count = llm__nfc_join(run, c, llm__nfc_take_apart(run->t, s, n, c));
    if (!run->failed) llm__tok_normalized(run, text, llm__nfc_encode(c, count, text));
}

/* Text between added tokens. What is not in NFC is brought into it piece by piece: every expression
   that cuts words cuts before a space that no white space precedes, and nothing composes there. */
static void llm__tok_stretch(llm__tok_run *run, const uint8_t *s, size_t n) {
    const llm_tokenizer *t = run->t;
    const bool whole = t->added_count[1] || llm__tok_head(t)->pre == LLM__PRE_SENTENCEPIECE;
    size_t i, size;
    if (!t->nfc_pages || llm__nfc_is(t, s, n)) {
        llm__tok_normalized(run, s, n);
        return;
    }
    for (i = 0; i < n && !run->failed; i += size) {
        for (size = whole ? n - i : 0; size < n - i; size++) {
            uint32_t scalar;
            if (size < LLM__NFC_CHUNK || s[i + size] != ' ') continue;
            (void)llm__tok_before(s + i, size, &scalar);
            if (llm__unicode(scalar) != LLM__CLASS_SPACE) break;
        }
        if (llm__nfc_is(t, s + i, size)) llm__tok_normalized(run, s + i, size);
        else llm__nfc_stretch(run, s + i, size);
    }
}

/* Cuts the text at the added tokens that are looked for before anything else. */
static void llm__tok_text(llm__tok_run *run, const uint8_t *s, size_t n) {
    llm__tok_added a = LLM__ZERO;
    size_t from = 0;
    while (run->t->added_count[0] && !run->failed) {
        llm__tok_next_added(run->t, 0, s, n, run->special, false, from, &a);
        if (a.id == LLM__TOK_NONE) break;
        if (from < a.start) llm__tok_stretch(run, s + from, a.start - from);
        llm__tok_emit(run, a.id);
        from = a.end;
    }
    if (from < n && !run->failed) llm__tok_stretch(run, s + from, n - from);
}

/* ======================================================================== */
/* >>tokenizer-calls: the public functions                                   */
/* ======================================================================== */
/* llm_tokenize; `first`: the text is not the continuation of another one. */
static llm_result llm__tokenize(const llm_tokenizer *t, const llm_tokenize_desc *desc, bool first,
                                int32_t *ids, size_t capacity, size_t *count) {
    llm__tok_run run;
    const uint8_t *text;
    const llm__tok_header *h;
    if (count) *count = 0;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if (!t || !t->section || !count || (desc->size && !desc->text) || (capacity && !ids))
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "llm_tokenize: %s is NULL",
                         !t || !t->section ? "the tokenizer"
                         : !count ? "count"
                         : desc->size && !desc->text ? "text"
                                                     : "ids");
    if (desc->size > SIZE_MAX / 4)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "llm_tokenize: size is %zu, not in 0 .. %zu",
                         desc->size, SIZE_MAX / 4);
    if (desc->bos < -1 || desc->bos > 1 || desc->eos < -1 || desc->eos > 1)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                         "llm_tokenize: bos is %d and eos %d, not in -1 .. 1", desc->bos, desc->eos);
    h = llm__tok_head(t);
    run.t = t;
    run.allocator = &desc->allocator;
    run.ids = ids;
    run.capacity = capacity;
    run.count = 0;
    run.memory = run.normal = NULL;
    run.memory_size = run.normal_size = 0;
    run.special = desc->special;
    run.failed = false;
    text = LLM__CAST(const uint8_t *, LLM__CAST(const void *, desc->text));
    run.first = first ? text : NULL;
    if (h->bos < t->vocab && (desc->bos > 0 || (!desc->bos && (h->flags & LLM__TOK_ADD_BOS))))
        llm__tok_emit(&run, h->bos);
    if (desc->size) llm__tok_text(&run, text, desc->size);
    if (h->eos < t->vocab && (desc->eos > 0 || (!desc->eos && (h->flags & LLM__TOK_ADD_EOS))))
        llm__tok_emit(&run, h->eos);
    llm__release(&desc->allocator, run.memory, run.memory_size);
    llm__release(&desc->allocator, run.normal, run.normal_size);
    if (run.failed)
        return llm__fail(desc->error, LLM_ERROR_MEMORY,
                         "llm_tokenize: no working memory for %lu bytes of text",
                         (unsigned long)desc->size);
    *count = run.count;
    if (ids && run.count > capacity)
        return llm__fail(desc->error, LLM_ERROR_LIMIT, "llm_tokenize: %lu ids, room for %lu",
                         (unsigned long)run.count, (unsigned long)capacity);
    return LLM_OK;
}

LLM_API llm_result llm_tokenize(const llm_tokenizer *t, const llm_tokenize_desc *desc, int32_t *ids,
                                size_t capacity, size_t *count) {
    return llm__tokenize(t, desc, true, ids, capacity, count);
}

LLM_API llm_text llm_token_bytes(const llm_tokenizer *t, int32_t id) {
    llm_text text = LLM__ZERO;
    text.data = "";
    if (!t || id < 0 || (uint32_t)id >= t->vocab) return text;
    text.size = llm__tok_length(t, (uint32_t)id);
    if (text.size)
        text.data = LLM__CAST(const char *, LLM__CAST(const void *, t->text)) +
                    llm__tok_at(t, (uint32_t)id)->text;
    return text;
}

LLM_API llm_token_kind llm_token_kind_of(const llm_tokenizer *t, int32_t id) {
    if (!t || id < 0 || (uint32_t)id >= t->vocab || (t->kinds[id] & LLM__TOK_KIND) > LLM_TOKEN_BYTE)
        return LLM_TOKEN_NONE;
    return LLM__CAST(llm_token_kind, t->kinds[id] & LLM__TOK_KIND);
}

LLM_API bool llm_token_is_end(const llm_tokenizer *t, int32_t id) {
    uint32_t i;
    for (i = 0; t && i < t->end_count; i++)
        if (id >= 0 && t->ends[i] == (uint32_t)id) return true;
    return false;
}

LLM_API int32_t llm_token_find(const llm_tokenizer *t, llm_text bytes) {
    const uint8_t *s = LLM__CAST(const uint8_t *, LLM__CAST(const void *, bytes.data));
    size_t size = 0;
    uint32_t id;
    unsigned k;
    if (!t || !t->section || !bytes.size || !s) return -1;
    for (k = 0; k < 3; k++) { /* NORMALIZED also has those that begin with the prefix */
        id = llm__tok_match_added(t, k > 0, s, bytes.size, true, k == 2, &size);
        if (id < t->vocab && size == bytes.size && llm__tok_length(t, id) == size)
            return (int32_t)id;
    }
    (void)llm__tok_longest(t, s, bytes.size, &id);
    if (id < t->vocab) return (int32_t)id;
    if (bytes.size == 1 && t->bytes[s[0]] < t->vocab) return (int32_t)t->bytes[s[0]];
    return -1;
}

LLM_API void llm_tokenizer_describe(const llm_tokenizer *t, llm_tokenizer_info *info) {
    const llm__tok_header *h;
    if (!info) return;
    memset(info, 0, sizeof *info);
    info->bos = info->eos = info->eot = info->unknown = info->padding = -1;
    if (!t || !t->section) return;
    h = llm__tok_head(t);
    info->vocab_size = t->vocab;
    info->bos = (int32_t)h->bos;
    info->eos = (int32_t)h->eos;
    info->eot = (int32_t)h->eot;
    info->unknown = (int32_t)h->unknown;
    info->padding = (int32_t)h->padding;
    info->add_bos = (h->flags & LLM__TOK_ADD_BOS) != 0;
    info->add_eos = (h->flags & LLM__TOK_ADD_EOS) != 0;
    info->ends = t->ends;
    info->end_count = t->end_count;
}

LLM_API llm_result llm_detokenize(const llm_tokenizer *t, const llm_detokenize_desc *desc,
                                  char *text, size_t capacity, size_t *size) {
    size_t i, k, used = 0;
    bool strip;
    if (size) *size = 0;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if (!t || !t->section || !size || (desc->count && !desc->ids) || (capacity && !text))
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "llm_detokenize: %s is NULL",
                         !t || !t->section ? "the tokenizer"
                         : !size ? "size"
                         : desc->count && !desc->ids ? "ids"
                                                     : "text");
    strip = (llm__tok_head(t)->flags & LLM__TOK_SPACE_PREFIX) != 0;
    for (i = 0; i < desc->count; i++) {
        llm_text bytes = llm_token_bytes(t, desc->ids[i]);
        llm_token_kind kind = llm_token_kind_of(t, desc->ids[i]);
        if (desc->ids[i] < 0 || (uint32_t)desc->ids[i] >= t->vocab)
            return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                             "llm_detokenize: ids[%zu] is %ld, not in 0 .. %u", i,
                             (long)desc->ids[i], (unsigned)t->vocab - 1);
        if (kind == LLM_TOKEN_CONTROL && !desc->special) continue;
        k = strip && bytes.size && bytes.data[0] == ' '; /* the space that tokenizing put there */
        strip = false;
        for (; k < bytes.size; k++, used++)
            if (used < capacity) text[used] = bytes.data[k];
    }
    *size = used;
    if (text && used > capacity)
        return llm__fail(desc->error, LLM_ERROR_LIMIT, "llm_detokenize: %lu bytes, room for %lu",
                         (unsigned long)used, (unsigned long)capacity);
    return LLM_OK;
}

/* ======================================================================== */
/* >>model: opening a file                                                   */
/* ========================================================================
   The header, description, layers and directory are proved consistent here, once; everything
   after relies on it. Weights are never read at open. */

typedef struct llm__tensor { /* a matrix or vector in the map; data is NULL where there is none */
    const uint8_t *data;
    uint32_t type, rows, cols;
    uint32_t rotation, row_rotation;
} llm__tensor;

struct llm_model {
    llm_allocator allocator;
    size_t memory;       /* bytes of this block */
    const uint8_t *file; /* the whole file */
    size_t size;
    bool mapped;
    llm_read read; /* NULL: every byte is there */
    void *read_user;
    uint8_t *block; /* with read: the file's bytes, then their states */
    size_t block_size;
    uint32_t *read_state; /* [pieces of LLM_READ_MOST] LLM__ABSENT, … */
    uint32_t locked;      /* 1: pages have been locked */
    const llm__file_desc *desc;
    const llm__file_layer *layer;      /* [layers] */
    const llm__file_tensor *directory; /* [tensors] */
    uint32_t tensors;
    llm__tensor *tensor; /* [1 + layers][LLM__ROLE_COUNT], the first row for those without layer */
    llm__tensor rope[8];
    llm__tensor vocab[2][LLM__VOCAB_PARTS]; /* EMBEDDING and HEAD in parts, those without rows last */
    llm_tokenizer tokenizer;
    bool has_tokenizer;
    llm_text chat_template, meta;
    uint64_t weights, weight_size;
};

/* Row 0 of the table is for tensors of no layer, but those that may be cut. */
LLM__INLINE llm__tensor *llm__tensor_at(const llm_model *m, uint32_t layer, uint32_t role) {
    return &m->tensor[(size_t)(layer == LLM__NONE ? 0 : layer + 1) * LLM__ROLE_COUNT + role];
}

static const char llm__role_names[LLM__ROLE_COUNT][20] = {
#define LLM__ROLE(NAME, name, shape) name,
    LLM__ROLES(LLM__ROLE)
#undef LLM__ROLE
};
static const char llm__role_shapes[LLM__ROLE_COUNT] = {
#define LLM__ROLE(NAME, name, shape) #shape[0],
    LLM__ROLES(LLM__ROLE)
#undef LLM__ROLE
};

/* "blk.3.attn_k", for messages. */
static const char *llm__tensor_name(char text[64], uint32_t role, uint32_t layer) {
    if (layer == LLM__NONE)
        (void)snprintf(text, 64, "%s", llm__role_names[role]);
    else
        (void)snprintf(text, 64, "blk.%u.%s", (unsigned)layer, llm__role_names[role]);
    return text;
}

LLM__INLINE bool llm__may_be_cut(uint32_t role) {
    return role == LLM__EMBEDDING || role == LLM__HEAD;
}

/* "embedding.1" as well. */
static const char *llm__entry_name(char text[64], const llm__file_tensor *t) {
    if (t->expert == LLM__NONE || !llm__may_be_cut(t->role))
        return llm__tensor_name(text, t->role, t->layer);
    (void)snprintf(text, 64, "%s.%u", llm__role_names[t->role], (unsigned)t->expert);
    return text;
}

/* ---- maps ---- */

#if defined(_WIN32)
static const uint8_t *llm__map(const char *path, size_t *size, llm_error *error) {
    wchar_t wide[1024];
    HANDLE file, mapping;
    LARGE_INTEGER length;
    void *view = NULL;
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, 1024)) {
        llm__fail(error, LLM_ERROR_ARGUMENT, "%s: the path is not UTF-8 of at most 1023 characters",
                  path);
        return NULL;
    }
    file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE) {
        llm__fail(error, LLM_ERROR_IO, "%s: cannot be opened (error %u)", path,
                  (unsigned)GetLastError());
        return NULL;
    }
    if (GetFileSizeEx(file, &length) && length.QuadPart > 0 &&
        (uint64_t)length.QuadPart <= SIZE_MAX) {
        mapping = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
        if (mapping) {
            view = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
            CloseHandle(mapping);
        }
    }
    CloseHandle(file);
    if (!view)
        llm__fail(error, LLM_ERROR_IO, "%s: cannot be mapped (error %u)", path,
                  (unsigned)GetLastError());
    *size = view ? (size_t)length.QuadPart : 0;
    return (const uint8_t *)view;
}
static void llm__unmap(const uint8_t *file, size_t size) {
    (void)size;
    UnmapViewOfFile(file);
}
#elif defined(LLM_NO_MMAP)
static const uint8_t *llm__map(const char *path, size_t *size, llm_error *error) {
    *size = 0;
    llm__fail(error, LLM_ERROR_UNSUPPORTED, "%s: built with LLM_NO_MMAP, open from memory", path);
    return NULL;
}
static void llm__unmap(const uint8_t *file, size_t size) { (void)file, (void)size; }
#else
/* A pipe must not make the host wait, a terminal not become its own, no child inherit the file. */
#if defined(O_CLOEXEC)
#define LLM__OPEN_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#else
#define LLM__OPEN_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY)
#endif
static const uint8_t *llm__map(const char *path, size_t *size, llm_error *error) {
    struct stat about;
    void *view = MAP_FAILED;
    int file = open(path, LLM__OPEN_FLAGS);
    if (file < 0) {
        llm__fail(error, LLM_ERROR_IO, "%s: cannot be opened (errno %d)", path, errno);
        return NULL;
    }
    if (fstat(file, &about)) {
        llm__fail(error, LLM_ERROR_IO, "%s: cannot be examined (errno %d)", path, errno);
    } else if (!S_ISREG(about.st_mode)) {
        llm__fail(error, LLM_ERROR_IO, "%s: is not a regular file", path);
    } else if (about.st_size <= 0 || (uint64_t)about.st_size > SIZE_MAX) {
        llm__fail(error, LLM_ERROR_IO, "%s: %llu bytes, not in 1 .. %zu", path,
                  (unsigned long long)about.st_size, SIZE_MAX);
    } else {
        view = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (view == MAP_FAILED)
            llm__fail(error, LLM_ERROR_IO, "%s: cannot be mapped (errno %d)", path, errno);
    }
    (void)close(file);
    if (view == MAP_FAILED) return NULL;
    *size = (size_t)about.st_size;
    return (const uint8_t *)view;
}
static void llm__unmap(const uint8_t *file, size_t size) {
    (void)munmap((void *)(uintptr_t)file, size);
}
#endif

/* ---- pages that stay in memory, and large ones; the ends are rounded to whole pages ---- */

#if defined(_WIN32)
static bool llm__lock_pages(const uint8_t *from, size_t size) {
    return VirtualLock((void *)(uintptr_t)from, size) != 0;
}
static void llm__unlock_pages(const uint8_t *from, size_t size) {
    (void)VirtualUnlock((void *)(uintptr_t)from, size);
}
static llm_result llm__lock_failed(size_t at, size_t size, llm_error *error) {
    const unsigned code = (unsigned)GetLastError();
    SIZE_T least = 0, most = 0;
    (void)GetProcessWorkingSetSize(GetCurrentProcess(), &least, &most);
    return llm__fail(error, LLM_ERROR_LIMIT,
                     "prefetch: byte %zu of %zu cannot be locked (error %u); the process's minimum "
                     "working set is %zu bytes",
                     at, size, code, (size_t)least);
}
static void llm__wish_huge(const uint8_t *from, size_t size) { (void)from, (void)size; }
#elif defined(LLM_NO_MMAP)
static bool llm__lock_pages(const uint8_t *from, size_t size) {
    return (void)from, (void)size, false;
}
static void llm__unlock_pages(const uint8_t *from, size_t size) { (void)from, (void)size; }
static llm_result llm__lock_failed(size_t at, size_t size, llm_error *error) {
    (void)at, (void)size;
    return llm__fail(error, LLM_ERROR_UNSUPPORTED, "prefetch: built with LLM_NO_MMAP, cannot lock");
}
static void llm__wish_huge(const uint8_t *from, size_t size) { (void)from, (void)size; }
#else
static void *llm__page_of(const uint8_t *from, size_t *size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), past = (uintptr_t)from % page;
    *size += past;
    return (void *)((uintptr_t)from - past);
}
static bool llm__lock_pages(const uint8_t *from, size_t size) {
    void *page = llm__page_of(from, &size);
    return mlock(page, size) == 0;
}
static void llm__unlock_pages(const uint8_t *from, size_t size) {
    void *page = llm__page_of(from, &size);
    (void)munlock(page, size);
}
static llm_result llm__lock_failed(size_t at, size_t size, llm_error *error) {
    const int code = errno;
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) limit.rlim_cur = 0;
    return llm__fail(error, LLM_ERROR_LIMIT,
                     "prefetch: byte %zu of %zu cannot be locked (errno %d); the process may lock "
                     "%llu bytes (RLIMIT_MEMLOCK)",
                     at, size, code, (unsigned long long)limit.rlim_cur);
}
/* A wish: where the system knows no huge pages, or refuses, nothing is lost. */
static void llm__wish_huge(const uint8_t *from, size_t size) {
#if defined(MADV_HUGEPAGE)
    void *page = llm__page_of(from, &size);
    (void)madvise(page, size, MADV_HUGEPAGE);
#else
    (void)from, (void)size;
#endif
}
#endif

/* ---- files that are read in pieces ---- */

enum { LLM__ABSENT, LLM__LOADING, LLM__PRESENT };

static llm_result llm__read_piece(const llm_model *m, size_t piece, llm_error *error);

LLM__INLINE size_t llm__pieces(size_t size) {
    return size / LLM_READ_MOST + (size % LLM_READ_MOST != 0);
}

/* Before bytes inside the file are looked at: makes sure that they are there. */
static llm_result llm__need(const llm_model *m, const void *from, size_t size, llm_error *error) {
    size_t at, piece;
    if (!m->read || !from || !size) return LLM_OK;
    at = (size_t)(LLM__CAST(const uint8_t *, from) - m->file);
    for (piece = at / LLM_READ_MOST; piece <= (at + size - 1) / LLM_READ_MOST; piece++)
        if (llm__read_piece(m, piece, error)) return LLM_ERROR_IO;
    return LLM_OK;
}

/* Memory for a file of m->size bytes, none of which is there yet. */
static llm_result llm__make_block(llm_model *m, llm_error *error) {
    const size_t states = llm__pieces(m->size) * sizeof *m->read_state;
    const size_t file = m->size + (64 - m->size % 64) % 64;
    if (file < m->size || !llm__add(file, states, &m->block_size))
        return llm__fail(error, LLM_ERROR_MEMORY, "model: %zu bytes pass the address space",
                         m->size);
    m->block = LLM__CAST(uint8_t *, llm__allocate(&m->allocator, m->block_size));
    if (!m->block)
        return llm__fail(error, LLM_ERROR_MEMORY, "model: no memory for a file of %zu bytes",
                         m->size);
    m->file = m->block;
    m->read_state = LLM__CAST(uint32_t *, LLM__CAST(void *, m->block + file));
    memset(m->read_state, 0, states);
    return LLM_OK;
}

/* ---- checks ---- */

#define LLM__REFUSE(...) return llm__fail(error, LLM_ERROR_FORMAT, __VA_ARGS__)

/* The section of a kind; a missing one has size 0. */
static llm__file_section llm__section(const llm_model *m, uint32_t kind) {
    llm__file_header header;
    llm__file_section section;
    uint32_t i;
    memcpy(&header, m->file, sizeof header);
    for (i = 0; i < header.section_count; i++) {
        memcpy(&section, m->file + sizeof header + i * sizeof section, sizeof section);
        if (section.kind == kind) return section;
    }
    memset(&section, 0, sizeof section);
    return section;
}

/* The four letters of a section's kind; '?' for what is none. */
typedef struct llm__kind_name {
    char text[5];
} llm__kind_name;
static llm__kind_name llm__name_kind(uint32_t kind) {
    llm__kind_name name;
    int i;
    for (i = 0; i < 4; i++, kind >>= 8)
        name.text[i] = (kind & 255) > 32 && (kind & 255) < 127 ? (char)(kind & 255) : '?';
    name.text[4] = 0;
    return name;
}

/* `what` names the bytes. */
static llm_result llm__compare_sum(const llm_model *m, const void *data, size_t size,
                                   uint64_t checksum, const char *what, const char *name,
                                   llm_error *error) {
    const llm_result r = llm__need(m, data, size, error);
    const uint64_t sum = r ? 0 : llm__xxh64(data, size);
    if (r || sum == checksum) return r;
    return llm__fail(error, LLM_ERROR_CHECKSUM, "%s%s: its bytes sum to %016llx, not to %016llx",
                     what, name, (unsigned long long)sum, (unsigned long long)checksum);
}

static llm_result llm__check_section(const llm_model *m, uint32_t index, llm_error *error) {
    const uint8_t *table = m->file + sizeof(llm__file_header);
    llm__file_section s;
    uint32_t i;
    memcpy(&s, table + index * sizeof s, sizeof s);
    if (s.offset % LLM__PAGE)
        LLM__REFUSE("section %s: offset 0x%llx is not a multiple of 4096",
                    llm__name_kind(s.kind).text, (unsigned long long)s.offset);
    if (s.offset > m->size || s.size > m->size - s.offset)
        LLM__REFUSE("section %s: offset 0x%llx + %llu bytes passes the end of the file of %zu",
                    llm__name_kind(s.kind).text, (unsigned long long)s.offset,
                    (unsigned long long)s.size, m->size);
    for (i = 0; i < index; i++)
        if (llm__u32(table + i * sizeof s) == s.kind)
            LLM__REFUSE("section %s: stands twice in the table", llm__name_kind(s.kind).text);
    return LLM_OK;
}

static llm_result llm__check_header(const llm_model *m, llm_error *error) {
    const uint16_t probe = 1;
    llm__file_header header;
    llm_result r;
    size_t table;
    uint32_t i;
    uint8_t little;
    memcpy(&little, &probe, 1);
    if (!little)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "the host is big-endian, .llm files are not");
    if (m->size < sizeof header)
        LLM__REFUSE("file: %zu bytes, shorter than a header of 64", m->size);
    if ((r = llm__need(m, m->file, sizeof header, error)) != LLM_OK) return r;
    memcpy(&header, m->file, sizeof header);
    if (memcmp(header.magic, LLM__MAGIC, 8))
        LLM__REFUSE("header: the file begins with \"%.8s\", a .llm file with \"llm.h\"",
                    header.magic);
    if (header.version != LLM__VERSION)
        return llm__fail(error, LLM_ERROR_VERSION, "header: version %u, this library reads 1",
                         (unsigned)header.version);
    if (header.section_count < 1 || header.section_count > 64)
        LLM__REFUSE("header: section_count is %u, not in 1 .. 64", (unsigned)header.section_count);
    if (header.file_size != m->size)
        LLM__REFUSE("header: file_size is %llu, but the file has %zu bytes",
                    (unsigned long long)header.file_size, m->size);
    table = header.section_count * sizeof(llm__file_section);
    if (table > m->size - sizeof header)
        LLM__REFUSE("header: %u sections pass the end of the file of %zu bytes",
                    (unsigned)header.section_count, m->size);
    r = llm__compare_sum(m, m->file + sizeof header, table, header.checksum, "header",
                         ", table of sections", error);
    for (i = 0; i < header.section_count && !r; i++) {
        r = llm__check_section(m, i, error);
    }
    return r;
}

static llm_result llm__check_sum(const llm_model *m, uint32_t kind, llm_error *error) {
    llm__file_section s = llm__section(m, kind);
    if (!s.size) return LLM_OK;
    return llm__compare_sum(m, m->file + s.offset, (size_t)s.size, s.checksum, "section ",
                            llm__name_kind(kind).text, error);
}

static llm_result llm__range(const char *field, uint32_t value, uint32_t least, uint32_t most,
                             llm_error *error) {
    if (value >= least && value <= most) return LLM_OK;
    return llm__fail(error, LLM_ERROR_FORMAT, "description: %s is %u, not in %u .. %u", field,
                     (unsigned)value, (unsigned)least, (unsigned)most);
}

/* 0, or far from where the reciprocal of a float ends. */
LLM__INLINE bool llm__is_softcap(float cap) {
    const uint32_t bits = llm__bits(cap);
    return !(bits & 0x7fffffffu) || (bits >= llm__bits(1e-30f) && bits <= llm__bits(1e30f));
}

/* What the format can say and this version of the library does not do. */
static llm_result llm__check_supported(const llm__file_desc *d, llm_error *error) {
    const struct {
        const char *field, *supported;
        uint32_t value;
        bool missing;
    } parts[] = {{"experts", "0", d->experts, d->experts > 0},
                 {"norm", "0", d->norm, d->norm == LLM__NORM_LAYER},
                 {"flags", "0", d->flags, d->flags != 0},
                 {"activation", "0, 1, 3 and 4", d->activation, d->activation == LLM__ACT_GELU}};
    size_t i;
    for (i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].missing)
            return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                             "description: %s is %u, this version supports %s", parts[i].field,
                             (unsigned)parts[i].value, parts[i].supported);
    return LLM_OK;
}

static llm_result llm__check_desc(const llm__file_desc *d, llm_error *error) {
    const struct {
        const char *field;
        uint32_t value, least, most;
    } ranges[] = {{"vocab", d->vocab, 1, 1u << 22},
                  {"width", d->width, 1, 1u << 16},
                  {"layers", d->layers, 1, 1024},
                  {"context", d->context, 1, 1u << 28},
                  {"heads", d->heads, 1, 1024},
                  {"kv_heads", d->kv_heads, 1, d->heads},
                  {"head_size", d->head_size, 2, 512},
                  {"value_size", d->value_size, 1, 512},
                  {"ffn", d->ffn, 1, 1u << 18},
                  {"norm", d->norm, 0, LLM__NORM_LAYER},
                  {"activation", d->activation, 0, LLM__ACT_RELU2},
                  {"ropes", d->ropes, 0, 8}};
    const struct {
        const char *field;
        float value;
    } floats[] = {
        {"norm_epsilon", d->norm_epsilon},       {"query_scale", d->query_scale},
        {"embedding_scale", d->embedding_scale}, {"residual_scale", d->residual_scale},
        {"logit_scale", d->logit_scale},         {"attention_softcap", d->attention_softcap},
        {"logit_softcap", d->logit_softcap}};
    size_t i;
    for (i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        llm_result r =
            llm__range(ranges[i].field, ranges[i].value, ranges[i].least, ranges[i].most, error);
        if (r) return r;
    }
    for (i = 0; i < sizeof floats / sizeof *floats; i++)
        if (!llm__finite(floats[i].value))
            LLM__REFUSE("description: %s is %g, not a finite number", floats[i].field,
                        (double)floats[i].value);
    if ((int32_t)llm__bits(d->norm_epsilon) <= 0) /* the host may take denormals for 0 */
        LLM__REFUSE("description: norm_epsilon is %g, not above 0", (double)d->norm_epsilon);
    for (i = 5; i < sizeof floats / sizeof *floats; i++)
        if (!llm__is_softcap(floats[i].value))
            LLM__REFUSE("description: %s is %g, not 0 or in 1e-30 .. 1e30", floats[i].field,
                        (double)floats[i].value);
    if (d->heads % d->kv_heads)
        LLM__REFUSE("description: kv_heads %u does not divide heads %u", (unsigned)d->kv_heads,
                    (unsigned)d->heads);
    if (d->head_size % 2)
        LLM__REFUSE("description: head_size is %u, not an even number", (unsigned)d->head_size);
    return llm__check_supported(d, error);
}

/* rows and cols that a role must have by the description; 0 = any. */
static void llm__role_shape(const llm__file_desc *d, uint32_t role, uint32_t *rows,
                            uint32_t *cols) {
    const uint32_t q = d->heads * d->head_size, k = d->kv_heads * d->head_size,
                   v = d->kv_heads * d->value_size, f = (d->ffn + 15) / 16 * 16;
    *rows = 1;
    *cols = d->width;
    switch (role) {
    case LLM__EMBEDDING:
    case LLM__HEAD: *rows = d->vocab; break;
    case LLM__ROPE: *cols = 0; break;
    case LLM__Q: *rows = q; break;
    case LLM__K: *rows = k; break;
    case LLM__V: *rows = v; break;
    case LLM__Q_BIAS: *cols = q; break;
    case LLM__K_BIAS: *cols = k; break;
    case LLM__V_BIAS: *cols = v; break;
    case LLM__Q_NORM:
    case LLM__K_NORM: *cols = d->head_size; break;
    case LLM__ATTN_OUT:
        *rows = d->width;
        *cols = d->heads * d->value_size;
        break;
    case LLM__GATE_UP: *rows = 2 * f; break;
    case LLM__GATE_UP_BIAS: *cols = 2 * f; break;
    case LLM__DOWN:
        *rows = d->width;
        *cols = d->ffn;
        break;
    case LLM__HEAD_BIAS: *cols = d->vocab; break;
    case LLM__ATTN_SUB_NORM: *cols = d->heads * d->value_size; break;
    case LLM__FFN_SUB_NORM: *cols = d->ffn; break;
    default: break;
    }
}

static uint64_t llm__tensor_size(const llm__file_tensor *t) {
    char shape = llm__role_shapes[t->role];
    if (shape == 'V') return (uint64_t)t->cols * 4;
    if (shape == 'R') return (uint64_t)t->cols * 8;
    return ((uint64_t)t->rows + 15) / 16 * llm__panel_size(t->type, llm__padded(t->cols));
}

/* Roles that a later version may give a meaning: without it, it is another model. */
static bool llm__role_unused(uint32_t role) {
    return role == LLM__POSITIONS || role == LLM__ROUTER || role == LLM__ATTN_NORM_BIAS ||
           role == LLM__FFN_NORM_BIAS || role == LLM__OUT_NORM_BIAS;
}

static bool llm__layer_fits(const llm__file_desc *d, uint32_t role, uint32_t layer) {
    switch (role) {
    case LLM__ROPE: return layer < d->ropes;
    case LLM__EMBEDDING:
    case LLM__OUT_NORM:
    case LLM__HEAD:
    case LLM__HEAD_BIAS: return layer == LLM__NONE;
    default: return layer < d->layers;
    }
}

static llm_result llm__check_shape(const llm_model *m, const llm__file_tensor *t, const char *name,
                                   llm_error *error) {
    uint32_t rows, cols;
    if (t->cols < 1 || t->cols > 1u << 18 || t->rows < 1 || t->rows > 1u << 22)
        LLM__REFUSE("tensor %s: shape %u x %u, not in 1 .. 4194304 x 1 .. 262144", name,
                    (unsigned)t->rows, (unsigned)t->cols);
    llm__role_shape(m->desc, t->role, &rows, &cols);
    if (llm__may_be_cut(t->role) && t->rows < rows) rows = t->rows; /* see llm__check_parts */
    if (t->rows != rows || (cols && t->cols != cols))
        LLM__REFUSE("tensor %s: shape %u x %u, the description asks for %u x %u", name,
                    (unsigned)t->rows, (unsigned)t->cols, (unsigned)rows,
                    (unsigned)(cols ? cols : t->cols));
    if (t->role == LLM__ROPE && t->cols * 2 > m->desc->head_size)
        LLM__REFUSE("tensor %s: %u pairs do not fit a head of %u", name, (unsigned)t->cols,
                    (unsigned)m->desc->head_size);
    return LLM_OK;
}

/* Rows are rotated in blocks of a head of V, inputs where they are quantised. */
static llm_result llm__check_rotations(const llm_model *m, const llm__file_tensor *t,
                                       const char *name, llm_error *error) {
    const bool rows = t->role == LLM__V, cols = !llm__formats[t->type].size;
    if (t->rotation && (!cols || (t->rotation != 16 && t->rotation != 32 && t->rotation != 64)))
        LLM__REFUSE("tensor %s: rotation is %u, not %s", name, (unsigned)t->rotation,
                    cols ? "0, 16, 32 or 64" : "0");
    if (t->row_rotation &&
        (!rows || (t->row_rotation != 16 && t->row_rotation != 32 && t->row_rotation != 64)))
        LLM__REFUSE("tensor %s: row_rotation is %u, not %s", name, (unsigned)t->row_rotation,
                    rows ? "0, 16, 32 or 64" : "0");
    if (t->row_rotation && m->desc->value_size % t->row_rotation)
        LLM__REFUSE("tensor %s: row_rotation %u does not divide value_size %u", name,
                    (unsigned)t->row_rotation, (unsigned)m->desc->value_size);
    return LLM_OK;
}

static llm_result llm__check_place(const llm_model *m, const llm__file_tensor *t, const char *name,
                                   llm_error *error) {
    const llm__file_section data = llm__section(m, LLM__SECTION_DATA);
    if (t->offset % 64)
        LLM__REFUSE("tensor %s: offset 0x%llx is not a multiple of 64", name,
                    (unsigned long long)t->offset);
    if (t->offset < data.offset || t->offset - data.offset > data.size ||
        t->size > data.size - (t->offset - data.offset))
        LLM__REFUSE("tensor %s: offset 0x%llx + %llu bytes is outside section DATA, 0x%llx + %llu",
                    name, (unsigned long long)t->offset, (unsigned long long)t->size,
                    (unsigned long long)data.offset, (unsigned long long)data.size);
    if ((m->size - t->offset) / 64 < (t->size + 63) / 64) /* a vector's last line is read whole */
        LLM__REFUSE("tensor %s: offset 0x%llx + %llu bytes, rounded up to 64, passes the end of the "
                    "file of %zu", name, (unsigned long long)t->offset, (unsigned long long)t->size,
                    m->size);
    if (t->size != llm__tensor_size(t))
        LLM__REFUSE("tensor %s: %llu bytes, its shape asks for %llu", name,
                    (unsigned long long)t->size, (unsigned long long)llm__tensor_size(t));
    return LLM_OK;
}

static llm_result llm__check_tensor(const llm_model *m, const llm__file_tensor *t,
                                    llm_error *error) {
    char name[64];
    uint32_t types;
    llm_result r;
    if (t->role >= LLM__ROLE_COUNT)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "directory: a tensor has role %u, not in 0 .. %d", (unsigned)t->role,
                         LLM__ROLE_COUNT - 1);
    llm__entry_name(name, t);
    if (llm__role_unused(t->role))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED, "tensor %s: not in this version", name);
    if (!llm__layer_fits(m->desc, t->role, t->layer))
        LLM__REFUSE("tensor %s: has no place among %u layers and %u ropes", name,
                    (unsigned)m->desc->layers, (unsigned)m->desc->ropes);
    if (t->expert != LLM__NONE &&
        !(llm__may_be_cut(t->role) && t->expert >= 1 && t->expert < LLM__VOCAB_PARTS))
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "tensor %s: expert %u, this version supports none (4294967295)%s", name,
                         (unsigned)t->expert, llm__may_be_cut(t->role) ? " and 1 .. 7" : "");
    types = llm__role_shapes[t->role] == 'M' ? LLM_TYPE_COUNT : 1; /* vectors are f32 */
    if (t->type >= types)
        LLM__REFUSE("tensor %s: type is %u, not in 0 .. %u", name, (unsigned)t->type,
                    (unsigned)types - 1);
    if ((r = llm__check_shape(m, t, name, error)) != LLM_OK) return r;
    if ((r = llm__check_rotations(m, t, name, error)) != LLM_OK) return r;
    return llm__check_place(m, t, name, error);
}

/* Where a tensor of the directory goes. */
static llm__tensor *llm__place_of(llm_model *m, const llm__file_tensor *t) {
    if (t->role == LLM__ROPE) return &m->rope[t->layer];
    if (!llm__may_be_cut(t->role)) return llm__tensor_at(m, t->layer, t->role);
    return &m->vocab[t->role == LLM__HEAD][t->expert == LLM__NONE ? 0 : t->expert];
}

/* Fills the table of tensors. */
static llm_result llm__load_directory(llm_model *m, llm_error *error) {
    uint32_t i;
    char name[64];
    for (i = 0; i < m->tensors; i++) {
        const llm__file_tensor *t = &m->directory[i];
        llm__tensor *to;
        llm_result r = llm__check_tensor(m, t, error);
        if (r) return r;
        to = llm__place_of(m, t);
        if (to->data)
            LLM__REFUSE("tensor %s: stands twice in the directory", llm__entry_name(name, t));
        to->data = m->file + t->offset;
        to->type = t->type, to->rows = t->rows, to->cols = t->cols;
        to->rotation = t->rotation, to->row_rotation = t->row_rotation;
        if (llm__role_shapes[t->role] == 'M') {
            m->weights += (uint64_t)t->rows * t->cols;
            m->weight_size += t->size;
        }
    }
    return LLM_OK;
}

/* Parts follow each other at whole panels, and eat one input. */
static llm_result llm__check_parts(const llm_model *m, uint32_t role, llm_error *error) {
    const llm__tensor *part = m->vocab[role == LLM__HEAD];
    const char *name = llm__role_names[role];
    uint32_t rows = 0, first = LLM__VOCAB_PARTS, i;
    for (i = 0; i < LLM__VOCAB_PARTS; rows += part[i++].rows) { /* 2^25 at most */
        if (!part[i].data) continue;
        if (i && !part[i - 1].data)
            LLM__REFUSE("tensor %s.%u: there is no part before it", name, (unsigned)i);
        if (rows % 16)
            LLM__REFUSE("tensor %s.%u: begins at row %u, not at a multiple of 16", name,
                        (unsigned)i, (unsigned)rows);
        if (llm__formats[part[i].type].size) continue;
        if (first == LLM__VOCAB_PARTS) first = i;
        if (part[i].rotation != part[first].rotation)
            LLM__REFUSE("tensor %s.%u: rotation %u, but a part before it has %u", name, (unsigned)i,
                        (unsigned)part[i].rotation, (unsigned)part[first].rotation);
    }
    if (rows && rows != m->desc->vocab)
        LLM__REFUSE("tensor %s: %u rows in all parts, the description asks for %u", name,
                    (unsigned)rows, (unsigned)m->desc->vocab);
    return LLM_OK;
}

/* What every model must have, and what must agree. */
static llm_result llm__check_model(const llm_model *m, llm_error *error) {
    static const uint32_t needed[] = {LLM__ATTN_NORM, LLM__Q,        LLM__K,       LLM__V,
                                      LLM__ATTN_OUT,  LLM__FFN_NORM, LLM__GATE_UP, LLM__DOWN};
    char name[64];
    uint32_t layer, i, first;
    if (!m->vocab[0]->rows) LLM__REFUSE("tensor embedding is missing");
    if (llm__check_parts(m, LLM__EMBEDDING, error) || llm__check_parts(m, LLM__HEAD, error))
        return LLM_ERROR_FORMAT;
    if (!llm__tensor_at(m, LLM__NONE, LLM__OUT_NORM)->data)
        LLM__REFUSE("tensor out_norm is missing");
    for (i = 0; i < m->desc->ropes; i++)
        if (!m->rope[i].data) LLM__REFUSE("tensor blk.%u.rope is missing", (unsigned)i);
    for (layer = 0; layer < m->desc->layers; layer++) {
        const llm__tensor *row = llm__tensor_at(m, layer, 0);
        uint32_t rope = m->layer[layer].rope;
        for (i = 0; i < sizeof needed / sizeof *needed; i++)
            if (!row[needed[i]].data)
                LLM__REFUSE("tensor %s is missing", llm__tensor_name(name, needed[i], layer));
        if (rope != LLM__NONE && rope >= m->desc->ropes)
            LLM__REFUSE("layer %u: rope %u, the description has %u", (unsigned)layer, (unsigned)rope,
                        (unsigned)m->desc->ropes);
        first = LLM__ROLE_COUNT; /* one input, quantised once, serves all three */
        for (i = LLM__Q; i <= LLM__V; i++) {
            if (llm__formats[row[i].type].size) continue;
            if (first == LLM__ROLE_COUNT) first = i;
            if (row[i].rotation != row[first].rotation)
                LLM__REFUSE("tensor %s: rotation %u, but %s has %u",
                            llm__tensor_name(name, i, layer), (unsigned)row[i].rotation,
                            llm__role_names[first], (unsigned)row[first].rotation);
        }
    }
    return LLM_OK;
}

/* DATA is damaged: which of its tensors is? Between them lies padding. */
static llm_result llm__blame_tensor(const llm_model *m, llm_error *error) {
    llm_result r = LLM_OK;
    char name[64];
    uint32_t i;
    for (i = 0; i < m->tensors && !r; i++) {
        const llm__file_tensor *t = &m->directory[i];
        r = llm__compare_sum(m, m->file + t->offset, (size_t)t->size, t->checksum, "tensor ",
                             llm__entry_name(name, t), error);
    }
    return r ? r : LLM_ERROR_CHECKSUM;
}

/* Until one is damaged, whose kind it tells. */
static llm_result llm__verify_sections(const llm_model *m, uint32_t *kind, llm_error *error) {
    const uint32_t sections = llm__u32(m->file + offsetof(llm__file_header, section_count));
    llm_result r = LLM_OK;
    uint32_t i;
    for (i = 0; i < sections && !r; i++) {
        *kind = llm__u32(m->file + sizeof(llm__file_header) + i * sizeof(llm__file_section));
        r = llm__check_sum(m, *kind, error);
    }
    return r;
}

static llm_result llm__verify(const llm_model *m, llm_error *error) {
    uint32_t kind = 0;
    const llm_result r = llm__verify_sections(m, &kind, error);
    return r == LLM_ERROR_CHECKSUM && kind == LLM__SECTION_DATA ? llm__blame_tensor(m, error) : r;
}

static llm_result llm__section_text(const llm_model *m, uint32_t kind, llm_text *text,
                                    llm_error *error) {
    llm__file_section s = llm__section(m, kind);
    text->data = (const char *)m->file + s.offset;
    text->size = (size_t)s.size;
    return llm__need(m, text->data, text->size, error);
}

/* Description, layers and directory; then the table of tensors is allocated behind the model. */
static llm_result llm__load(llm_model **model, bool verify, llm_error *error) {
    llm_model *m = *model, *whole;
    llm__file_section desc, layers, tensors, tokens;
    llm_result r;
    size_t size;
    if ((r = llm__check_header(m, error)) != LLM_OK) return r;
    if (llm__section(m, LLM__SECTION_LORA).size)
        LLM__REFUSE("header: the file is an adapter (section LORA), not a model");
    if ((r = llm__check_sum(m, LLM__SECTION_DESC, error)) != LLM_OK) return r;
    if ((r = llm__check_sum(m, LLM__SECTION_LAYR, error)) != LLM_OK) return r;
    if ((r = llm__check_sum(m, LLM__SECTION_TDIR, error)) != LLM_OK) return r;
    desc = llm__section(m, LLM__SECTION_DESC);
    layers = llm__section(m, LLM__SECTION_LAYR);
    tensors = llm__section(m, LLM__SECTION_TDIR);
    if (desc.size < sizeof(llm__file_desc))
        LLM__REFUSE("section DESC: %llu bytes, not %zu or more", (unsigned long long)desc.size,
                    sizeof(llm__file_desc));
    m->desc = (const llm__file_desc *)(const void *)(m->file + desc.offset);
    if ((r = llm__check_desc(m->desc, error)) != LLM_OK) return r;
    if (layers.size != m->desc->layers * sizeof(llm__file_layer))
        LLM__REFUSE("section LAYR: %llu bytes, %u layers ask for %zu",
                    (unsigned long long)layers.size, (unsigned)m->desc->layers,
                    m->desc->layers * sizeof(llm__file_layer));
    if (tensors.size % sizeof(llm__file_tensor) || tensors.size > 1u << 24)
        LLM__REFUSE("section TDIR: %llu bytes, not a multiple of 64 up to 16777216",
                    (unsigned long long)tensors.size);
    m->layer = (const llm__file_layer *)(const void *)(m->file + layers.offset);
    m->directory = (const llm__file_tensor *)(const void *)(m->file + tensors.offset);
    m->tensors = (uint32_t)(tensors.size / sizeof(llm__file_tensor));

    size = sizeof *m + ((size_t)m->desc->layers + 1) * LLM__ROLE_COUNT * sizeof(llm__tensor);
    whole = LLM__CAST(llm_model *, llm__allocate(&m->allocator, size));
    if (!whole)
        return llm__fail(error, LLM_ERROR_MEMORY, "model: no memory for a directory of %zu bytes",
                         size);
    memset(whole, 0, size);
    *whole = *m;
    *model = m = whole;
    m->memory = size;
    m->tensor = (llm__tensor *)(void *)(m + 1);
    if ((r = llm__load_directory(m, error)) != LLM_OK) return r;
    if ((r = llm__check_model(m, error)) != LLM_OK) return r;
    if (verify && (r = llm__verify(m, error)) != LLM_OK) return r;
    tokens = llm__section(m, LLM__SECTION_TOKN);
    if (tokens.size) {
        r = llm__need(m, m->file + tokens.offset, (size_t)tokens.size, error);
        if (r) return r;
        r = llm__tokenizer_init(&m->tokenizer, m->file + tokens.offset, (size_t)tokens.size,
                                m->desc->vocab, error);
        if (r) return r;
        m->has_tokenizer = true;
    }
    r = llm__section_text(m, LLM__SECTION_TMPL, &m->chat_template, error);
    return r ? r : llm__section_text(m, LLM__SECTION_META, &m->meta, error);
}

/* The file's bytes, or memory for them. */
static llm_result llm__find_file(llm_model *m, const llm_model_desc *desc) {
    const int given = (desc->path != NULL) + (desc->data != NULL) + (desc->read != NULL);
    llm_error why;
    memset(m, 0, sizeof *m);
    m->allocator = desc->allocator;
    m->size = desc->size;
    if (given != 1)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                         "model: %d of path, data and read are given, want exactly one", given);
    if (desc->path) {
        m->file = llm__map(desc->path, &m->size, &why);
        if (!m->file && desc->error) *desc->error = why;
        if (!m->file) return why.code;
        m->mapped = true;
    } else if (desc->read) {
        m->read = desc->read, m->read_user = desc->read_user;
        return llm__make_block(m, desc->error);
    } else {
        if ((uintptr_t)desc->data % 64)
            return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                             "model: data is %u bytes past a multiple of 64, must be at one",
                             (unsigned)((uintptr_t)desc->data % 64));
        m->file = LLM__CAST(const uint8_t *, desc->data);
    }
    return LLM_OK;
}

static void llm__drop_file(const llm_model *m) {
    if (m->locked) llm__unlock_pages(m->file, m->size);
    if (m->mapped) llm__unmap(m->file, m->size);
    llm__release(&m->allocator, m->block, m->block_size);
}

LLM_API llm_result llm_model_open(llm_model **model, const llm_model_desc *desc) {
    llm_model start, *m = &start;
    llm_result r;
    if (!model) return LLM_ERROR_ARGUMENT;
    *model = NULL;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if ((r = llm__find_file(&start, desc)) != LLM_OK) return r;
    r = llm__load(&m, desc->verify, desc->error);
    if (r != LLM_OK) {
        llm__drop_file(&start);
        if (m != &start) llm__release(&start.allocator, m, m->memory);
        return r;
    }
    *model = m;
    return LLM_OK;
}

LLM_API void llm_model_close(llm_model *model) {
    llm_allocator allocator;
    if (!model) return;
    allocator = model->allocator;
    llm__drop_file(model);
    llm__release(&allocator, model, model->memory);
}

LLM_API void llm_model_get_info(const llm_model *model, llm_model_info *info) {
    const llm__file_desc *d;
    const char *end;
    if (!info) return;
    memset(info, 0, sizeof *info);
    info->family.data = "";
    if (!model) return;
    d = model->desc;
    end = (const char *)memchr(d->family, 0, sizeof d->family);
    info->family.data = d->family;
    info->family.size = end ? (size_t)(end - d->family) : sizeof d->family;
    info->vocab = d->vocab, info->width = d->width, info->layers = d->layers;
    info->heads = d->heads, info->kv_heads = d->kv_heads, info->head_size = d->head_size;
    info->ffn = d->ffn, info->context = d->context;
    info->file_size = model->size;
    info->weights = model->weights, info->weight_size = model->weight_size;
}

LLM_API const llm_tokenizer *llm_model_tokenizer(const llm_model *model) {
    return model && model->has_tokenizer ? &model->tokenizer : NULL;
}
LLM_API llm_text llm_model_template(const llm_model *model) {
    const llm_text none = {"", 0};
    return model ? model->chat_template : none;
}
LLM_API llm_text llm_model_meta(const llm_model *model) {
    const llm_text none = {"", 0};
    return model ? model->meta : none;
}

/* ---- >>adapter: a model's checks of a file, and every shape against the model's ---- */

/* The matrices of a layer that an adapter can change, in the order of the plan. */
enum {
    LLM__LOW_Q,
    LLM__LOW_K,
    LLM__LOW_V,
    LLM__LOW_OUT,
    LLM__LOW_GATE,
    LLM__LOW_UP,
    LLM__LOW_DOWN,
    LLM__LOW_COUNT
};

typedef struct llm__low {
    const uint8_t *a, *b; /* panels */
    uint32_t type;
    uint32_t rank; /* rounded up to 16; 0: there is none */
    float scale;
} llm__low;

struct llm_adapter {
    llm_model file; /* no model: only its bytes, allocator and size of this block count */
    const llm_model *model;
    const llm__file_pair *pair; /* [pairs] */
    uint32_t pairs, rank;
    uint64_t weights;
    llm_text meta;
    llm__low *low; /* [layers][LLM__LOW_COUNT] */
};

/* Bytes of a panel of so many columns. */
LLM__INLINE size_t llm__low_panel(uint32_t type, uint32_t padded) {
    return (size_t)padded * 16 * llm__formats[type].size;
}

LLM__INLINE const llm__low *llm__low_at(const llm_adapter *a, uint32_t layer, uint32_t which) {
    return &a->low[(size_t)layer * LLM__LOW_COUNT + which];
}

/* Which matrix of its layer a role is; LLM__LOW_COUNT: none that can be changed. */
static uint32_t llm__low_of(uint32_t role, uint32_t half) {
    switch (role) {
    case LLM__Q: return LLM__LOW_Q;
    case LLM__K: return LLM__LOW_K;
    case LLM__V: return LLM__LOW_V;
    case LLM__ATTN_OUT: return LLM__LOW_OUT;
    case LLM__GATE_UP: return half ? LLM__LOW_UP : LLM__LOW_GATE;
    case LLM__DOWN: return LLM__LOW_DOWN;
    default: return LLM__LOW_COUNT;
    }
}

static const char *llm__pair_name(char text[64], const llm__file_pair *t) {
    if (t->role != LLM__GATE_UP) return llm__tensor_name(text, t->role, t->layer);
    (void)snprintf(text, 64, "blk.%u.ffn_%s", (unsigned)t->layer, t->half ? "up" : "gate");
    return text;
}

/* Bytes of A's panels, and of A's and B's. */
static uint64_t llm__low_size(const llm__file_pair *t, uint64_t *both) {
    const uint32_t rank = (t->rank + 15) / 16 * 16;
    const uint64_t a = (uint64_t)(rank / 16) * llm__low_panel(t->type, llm__padded(t->cols));
    *both = a + ((uint64_t)t->rows + 15) / 16 * llm__low_panel(t->type, rank);
    return a;
}

static llm_result llm__check_pair_place(const llm_adapter *a, const llm__file_pair *t,
                                        const char *name, llm_error *error) {
    const llm__file_section data = llm__section(&a->file, LLM__SECTION_DATA);
    uint64_t size;
    (void)llm__low_size(t, &size);
    if (t->offset % 64)
        LLM__REFUSE("pair %s: offset 0x%llx is not a multiple of 64", name,
                    (unsigned long long)t->offset);
    if (t->offset < data.offset || t->offset - data.offset > data.size ||
        t->size > data.size - (t->offset - data.offset))
        LLM__REFUSE("pair %s: offset 0x%llx + %llu bytes is outside section DATA, 0x%llx + %llu",
                    name, (unsigned long long)t->offset, (unsigned long long)t->size,
                    (unsigned long long)data.offset, (unsigned long long)data.size);
    if (t->size != size)
        LLM__REFUSE("pair %s: %llu bytes, its shape asks for %llu", name,
                    (unsigned long long)t->size, (unsigned long long)size);
    return LLM_OK;
}

static llm_result llm__check_pair(const llm_adapter *a, const llm__file_pair *t, llm_error *error) {
    const llm__file_desc *d = a->model->desc;
    uint32_t rows, cols, rotation;
    char name[64];
    if (llm__low_of(t->role, 0) == LLM__LOW_COUNT)
        return llm__fail(error, LLM_ERROR_UNSUPPORTED,
                         "section PAIR: role %u, expected one of attn_q, attn_k, attn_v, attn_out, "
                         "ffn_gate_up and ffn_down", (unsigned)t->role);
    llm__pair_name(name, t);
    if (t->half > (t->role == LLM__GATE_UP) || t->layer >= d->layers)
        LLM__REFUSE("pair %s: half %u has no place among %u layers", name, (unsigned)t->half,
                    (unsigned)d->layers);
    if (t->type > LLM_BF16)
        LLM__REFUSE("pair %s: type is %u, not in 0 .. 1", name, (unsigned)t->type);
    if (t->rank < 1 || t->rank > 1024)
        LLM__REFUSE("pair %s: rank is %u, not in 1 .. 1024", name, (unsigned)t->rank);
    llm__role_shape(d, t->role, &rows, &cols);
    if (t->role == LLM__GATE_UP) rows = d->ffn;
    if (t->rows != rows || t->cols != cols)
        LLM__REFUSE("pair %s: shape %u x %u, the model's matrix has %u x %u", name,
                    (unsigned)t->rows, (unsigned)t->cols, (unsigned)rows, (unsigned)cols);
    rotation = llm__tensor_at(a->model, t->layer, t->role)->row_rotation;
    if (t->row_rotation != rotation)
        LLM__REFUSE("pair %s: row_rotation is %u, that of the model %u; convert the adapter for it",
                    name, (unsigned)t->row_rotation, (unsigned)rotation);
    if (!llm__finite(t->scale))
        LLM__REFUSE("pair %s: scale is %g, not a finite number", name, (double)t->scale);
    return llm__check_pair_place(a, t, name, error);
}

static llm_result llm__load_pairs(llm_adapter *a, llm_error *error) {
    uint32_t i;
    char name[64];
    for (i = 0; i < a->pairs; i++) {
        const llm__file_pair *t = &a->pair[i];
        llm__low *to;
        uint64_t size;
        const llm_result r = llm__check_pair(a, t, error);
        if (r) return r;
        to = &a->low[(size_t)t->layer * LLM__LOW_COUNT + llm__low_of(t->role, t->half)];
        if (to->rank) LLM__REFUSE("pair %s: stands twice", llm__pair_name(name, t));
        to->a = a->file.file + t->offset;
        to->b = to->a + llm__low_size(t, &size);
        to->type = t->type, to->scale = t->scale;
        to->rank = (t->rank + 15) / 16 * 16;
        if (to->rank > a->rank) a->rank = to->rank;
        a->weights += (uint64_t)t->rank * ((uint64_t)t->rows + t->cols);
    }
    return LLM_OK;
}

static llm_result llm__verify_adapter(const llm_adapter *a, llm_error *error) {
    uint32_t kind = 0, i;
    char name[64];
    const llm_result why = llm__verify_sections(&a->file, &kind, error);
    llm_result r = LLM_OK;
    if (why != LLM_ERROR_CHECKSUM || kind != LLM__SECTION_DATA) return why;
    for (i = 0; i < a->pairs && !r; i++)
        r = llm__compare_sum(&a->file, a->file.file + a->pair[i].offset, (size_t)a->pair[i].size,
                             a->pair[i].checksum, "pair ", llm__pair_name(name, &a->pair[i]),
                             error);
    return r ? r : why;
}

/* Was it made for this model? */
static llm_result llm__check_lora(const llm_adapter *a, llm__file_section lora, llm_error *error) {
    const llm__file_section smoothing = llm__section(a->model, LLM__SECTION_SMTH);
    const uint64_t sum = smoothing.size ? smoothing.checksum : 0;
    llm__file_lora head;
    if (!lora.size)
        LLM__REFUSE("header: the file is no adapter: it has no section LORA");
    if (lora.size < sizeof head)
        LLM__REFUSE("section LORA: %llu bytes, not %zu or more", (unsigned long long)lora.size,
                    sizeof head);
    memcpy(&head, a->file.file + lora.offset, sizeof head);
    if (head.layers != a->model->desc->layers || head.width != a->model->desc->width)
        LLM__REFUSE("section LORA: it is for %u layers of width %u, the model has %u of %u",
                    (unsigned)head.layers, (unsigned)head.width, (unsigned)a->model->desc->layers,
                    (unsigned)a->model->desc->width);
    if (head.smoothing != sum)
        LLM__REFUSE("section LORA: smoothing is %016llx, that of the model %016llx; convert the "
                    "adapter for it", (unsigned long long)head.smoothing, (unsigned long long)sum);
    return LLM_OK;
}

/* The table of matrices is allocated behind the adapter. */
static llm_result llm__load_adapter(llm_adapter **adapter, bool verify, llm_error *error) {
    llm_adapter *a = *adapter, *whole;
    llm__file_section pairs, meta;
    llm_result r;
    size_t size;
    if ((r = llm__check_header(&a->file, error)) != LLM_OK) return r;
    if ((r = llm__check_sum(&a->file, LLM__SECTION_LORA, error)) != LLM_OK) return r;
    if ((r = llm__check_sum(&a->file, LLM__SECTION_PAIR, error)) != LLM_OK) return r;
    r = llm__check_lora(a, llm__section(&a->file, LLM__SECTION_LORA), error);
    if (r) return r;
    pairs = llm__section(&a->file, LLM__SECTION_PAIR);
    if (pairs.size % sizeof *a->pair || pairs.size > 1u << 24)
        LLM__REFUSE("section PAIR: %llu bytes, not a multiple of 64 up to 16777216",
                    (unsigned long long)pairs.size);
    a->pair = (const llm__file_pair *)(const void *)(a->file.file + pairs.offset);
    a->pairs = (uint32_t)(pairs.size / sizeof *a->pair);
    meta = llm__section(&a->file, LLM__SECTION_META);
    a->meta.data = (const char *)a->file.file + meta.offset, a->meta.size = (size_t)meta.size;

    size = sizeof *a + (size_t)a->model->desc->layers * LLM__LOW_COUNT * sizeof(llm__low);
    whole = LLM__CAST(llm_adapter *, llm__allocate(&a->file.allocator, size));
    if (!whole)
        return llm__fail(error, LLM_ERROR_MEMORY, "adapter: no memory for a directory of %zu bytes",
                         size);
    memset(whole, 0, size);
    *whole = *a;
    *adapter = a = whole;
    a->file.memory = size;
    a->low = (llm__low *)(void *)(a + 1);
    if ((r = llm__load_pairs(a, error)) != LLM_OK) return r;
    return verify ? llm__verify_adapter(a, error) : LLM_OK;
}

LLM_API llm_result llm_adapter_open(llm_adapter **adapter, const llm_adapter_desc *desc) {
    llm_adapter start, *a = &start;
    llm_model_desc file;
    llm_result r;
    if (!adapter) return LLM_ERROR_ARGUMENT;
    *adapter = NULL;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if (!desc->model) return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "adapter: model is NULL");
    if (!desc->path == !desc->data)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                         "adapter: %d of path and data are given, want exactly one",
                         desc->path ? 2 : 0);
    if (desc->data && (uintptr_t)desc->data % 64)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                         "adapter: data is %u bytes past a multiple of 64, must be at one",
                         (unsigned)((uintptr_t)desc->data % 64));
    memset(&start, 0, sizeof start);
    memset(&file, 0, sizeof file);
    file.path = desc->path, file.data = desc->data, file.size = desc->size;
    file.allocator = desc->allocator, file.error = desc->error;
    if ((r = llm__find_file(&start.file, &file)) != LLM_OK) return r;
    start.model = desc->model;
    r = llm__load_adapter(&a, desc->verify, desc->error);
    if (r != LLM_OK) {
        llm__drop_file(&start.file);
        if (a != &start) llm__release(&start.file.allocator, a, a->file.memory);
        return r;
    }
    *adapter = a;
    return LLM_OK;
}

LLM_API void llm_adapter_close(llm_adapter *adapter) {
    llm_allocator allocator;
    if (!adapter) return;
    allocator = adapter->file.allocator;
    llm__drop_file(&adapter->file);
    llm__release(&allocator, adapter, adapter->file.memory);
}

LLM_API void llm_adapter_get_info(const llm_adapter *adapter, llm_adapter_info *info) {
    if (!info) return;
    memset(info, 0, sizeof *info);
    info->meta.data = "";
    if (!adapter) return;
    info->matrices = adapter->pairs, info->rank = adapter->rank;
    info->weights = adapter->weights, info->file_size = adapter->file.size;
    info->meta = adapter->meta;
}

LLM__SMALL_END

/* ======================================================================== */
/* >>numerics: float arithmetic with one result                              */
/* ========================================================================
   The host may compile with -Ofast, with FMA at hand. LLM__PIN makes a value opaque to the
   optimiser, between a product and the addition that follows, and between the additions of a
   fixed order, so that nothing is contracted, reassociated or turned into a reciprocal. There is
   no division and no call to libm: both differ between compilers, flags and platforms. */

#if defined(__GNUC__) || defined(__clang__)
#if defined(__x86_64__) || (defined(__i386__) && defined(__SSE2_MATH__))
#define LLM__PIN(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define LLM__PIN(x) __asm__("" : "+w"(x))
#elif defined(__wasm__)
#define LLM__PIN(x) __asm__("" : "+r"(x))
#else
#define LLM__PIN(x) __asm__("" : "+m"(x))
#endif
#else
#define LLM__PIN(x) ((void)0)
#endif

LLM__INLINE float llm__mulf(float a, float b) {
    float p = a * b;
    LLM__PIN(p);
    return p;
}
LLM__INLINE float llm__addf(float a, float b) {
    float s = a + b;
    LLM__PIN(s);
    return s;
}
LLM__INLINE float llm__subf(float a, float b) {
    float s = a - b;
    LLM__PIN(s);
    return s;
}

LLM__INLINE float llm__bf16(uint16_t h) { return llm__float((uint32_t)h << 16); }

/* To the nearest integer, ties to even; |x| < 2^22. */
LLM__INLINE int32_t llm__round(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: its last bit is worth 1 */
    return (int32_t)llm__bits(llm__addf(x, magic)) - (int32_t)llm__bits(magic);
}

/* 1 / x for normal x in 0 < x < 2^126, by Newton's method from a guess in the exponent's bits. */
LLM__INLINE float llm__recip(float x) {
    float y = llm__float(0x7ef311c3u - llm__bits(x));
    int i;
    for (i = 0; i < 3; i++) y = llm__mulf(y, llm__subf(2.0f, llm__mulf(x, y)));
    return y;
}

/* 1 / sqrt(x) for finite x > 0. */
LLM__INLINE float llm__rsqrt(float x) {
    float y = llm__float(0x5f375a86u - (llm__bits(x) >> 1));
    float h = llm__mulf(0.5f, x);
    int i;
    for (i = 0; i < 4; i++) y = llm__mulf(y, llm__subf(1.5f, llm__mulf(llm__mulf(h, y), y)));
    return y;
}

#define LLM__LOG2E     1.44269504088896341f
#define LLM__LN2_HI    0.693359375f
#define LLM__LN2_LO    -2.12194440e-4f
#define LLM__EXP_LEAST -87.0f
#define LLM__EXP_MOST  87.0f /* so that 1 / (1 + e^x) is a normal number */

/* e^x, x cut to -87 .. 87: x = n ln 2 + r, a polynomial in r (Cephes expf), times 2^n. */
LLM__INLINE float llm__exp(float x) {
    float n, r, p;
    int32_t i;
    x = x > LLM__EXP_LEAST ? x : LLM__EXP_LEAST;
    x = x < LLM__EXP_MOST ? x : LLM__EXP_MOST;
    i = llm__round(llm__mulf(x, LLM__LOG2E));
    n = (float)i;
    r = llm__subf(x, llm__mulf(n, LLM__LN2_HI));
    r = llm__subf(r, llm__mulf(n, LLM__LN2_LO));
    p = llm__addf(llm__mulf(1.9875691500e-4f, r), 1.3981999507e-3f);
    p = llm__addf(llm__mulf(p, r), 8.3334519073e-3f);
    p = llm__addf(llm__mulf(p, r), 4.1665795894e-2f);
    p = llm__addf(llm__mulf(p, r), 1.6666665459e-1f);
    p = llm__addf(llm__mulf(p, r), 5.0000001201e-1f);
    p = llm__addf(llm__mulf(llm__mulf(p, r), r), r);
    p = llm__addf(p, 1.0f);
    return llm__mulf(p, llm__float((uint32_t)(i + 127) << 23));
}

/* tanh u = 1 - 2 / (e^(2u) + 1) */
LLM__INLINE float llm__tanh(float u) {
    float e = llm__addf(llm__exp(llm__mulf(2.0f, u)), 1.0f);
    return llm__subf(1.0f, llm__mulf(2.0f, llm__recip(e)));
}

LLM__INLINE float llm__silu(float x) {
    return llm__mulf(x, llm__recip(llm__addf(1.0f, llm__exp(-x))));
}
LLM__INLINE float llm__gelu_tanh(float x) {
    float cube = llm__mulf(llm__mulf(x, x), x);
    float u = llm__mulf(0.7978845608f, llm__addf(x, llm__mulf(0.044715f, cube)));
    return llm__mulf(llm__mulf(0.5f, x), llm__addf(1.0f, llm__tanh(u)));
}

/* Sine and cosine of a phase in turns times 2^32: an octant and two polynomials, so that a
   position of any size keeps its full precision. */
static void llm__sincos(uint32_t phase, float *sine, float *cosine) {
    uint32_t quadrant = (phase + 0x20000000u) >> 30;
    float x = (float)(int32_t)(phase - (quadrant << 30)), z, s, c;
    LLM__PIN(x); /* 30 bits: x87 would keep them */
    x = llm__mulf(x, 1.46291807927e-9f); /* 2 pi / 2^32 */
    z = llm__mulf(x, x);
    s = llm__addf(llm__mulf(-1.9515295891e-4f, z), 8.3321608736e-3f);
    s = llm__addf(llm__mulf(s, z), -1.6666654611e-1f);
    s = llm__addf(llm__mulf(llm__mulf(s, z), x), x);
    c = llm__addf(llm__mulf(2.443315711809948e-5f, z), -1.388731625493765e-3f);
    c = llm__addf(llm__mulf(c, z), 4.166664568298827e-2f);
    c = llm__addf(llm__mulf(llm__mulf(c, z), z), llm__subf(1.0f, llm__mulf(0.5f, z)));
    if (quadrant & 1) {
        float t = s;
        s = c;
        c = -t;
    }
    *sine = quadrant & 2 ? -s : s;
    *cosine = quadrant & 2 ? -c : c;
}

/* IEEE half to float, exactly; and back, to nearest even. */
static float llm__half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, f = h & 0x3ffu;
    if (e == 31) return llm__float(sign | 0x7f800000u | f << 13);
    if (e) return llm__float(sign | (e + 112) << 23 | f << 13);
    return llm__float(sign | llm__bits((float)(int32_t)f * 5.9604644775390625e-8f));
}
static uint16_t llm__float_to_half(float x) {
    uint32_t u = llm__bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu, e, f, shift, half;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    e = a >> 23;
    if (e < 102) return (uint16_t)sign;
    f = (a & 0x7fffffu) | 0x800000u;
    shift = e < 113 ? 126 - e : 13;
    half = (f >> shift) + (e < 113 ? 0 : (e - 113) << 10);
    f &= (1u << shift) - 1;
    if (f > 1u << (shift - 1) || (f == 1u << (shift - 1) && (half & 1))) half++;
    return (uint16_t)(sign | half);
}

/* ======================================================================== */
/* >>kernels: one table per instruction set                                  */
/* ========================================================================
   Every inner loop is a leaf behind a table of functions. The scalar table is the specification;
   any other gives the same bits. Rows of floats are padded with zeros to 64, so leaves take
   lengths that are multiples of 16 (the virtual lanes in which sums are kept) or 64. */

/* The inputs of a matmul, rows of `padded` values: quantised, and where a part is f32 or bf16
   also as floats. */
typedef struct llm__input {
    int8_t *q;       /* [rows][stride] */
    int16_t *wide;   /* the same as 16 bits, [rows][stride] */
    float *scale;    /* [rows][stride / 64], a scale per super-block */
    int16_t *sums;   /* [rows][stride / 16], sum of q over 16 columns */
    int32_t *total;  /* [rows][stride / 64], the same over a super-block */
    float *x;        /* [rows][stride] */
    uint32_t stride; /* the largest K of the model, padded */
    bool distant;    /* weights are asked for from further away: see LLM__AHEAD */
} llm__input;

typedef struct llm__weights llm__weights; /* of a page: >>forward */

typedef struct llm__kernels {
    const char *name;
    bool (*allowed)(void); /* asks the system whether it may be used; NULL: it may */
    void (*enter)(void);   /* before a thread uses what follows, and after it; NULL: nothing to do */
    void (*leave)(void);
    /* y = x * rsqrt(mean(x^2) + epsilon) * gain; f32 [n] */
    void (*norm)(float *y, const float *x, const float *gain, uint32_t n, float inverse_n,
                 float epsilon);
    /* Normalised Walsh-Hadamard transform of each `block` (16, 32, 64) of x, in place. */
    void (*rotate)(float *x, uint32_t n, uint32_t block);
    /* Row x to int8 with a scale per super-block s; sums over 16; wide = q as 16 bits, which only
       the panels of AVX2 want and those that have no others write. */
    void (*quantize)(const float *x, uint32_t n, uint32_t s, int8_t *q, int16_t *wide, float *scale,
                     int16_t *sums);
    /* x[n] to integers in -limit .. limit with one scale, which it returns. */
    float (*quantize_head)(const float *x, uint32_t n, float limit, int16_t *q);
    /* (x0, x1) turned by (cos, sin): x f32 [2][half], turn f32 [2][half]. */
    void (*rope)(float *x, const float *turn, uint32_t half);
    /* y += x * scale */
    void (*add)(float *y, const float *x, float scale, uint32_t n);
    /* y = y * a + x * b */
    void (*blend)(float *y, float a, const float *x, float b, uint32_t n);
    /* y = activation(gate) * up; y may be gate */
    void (*gate)(float *y, const float *gate, const float *up, uint32_t n, uint32_t activation);
    /* x = x * scale, and if cap > 0 then cap * tanh(x / cap); a NaN stays one */
    void (*cap)(float *x, uint32_t n, float scale, float cap);
    /* s = exp(s - most), 0 where it is LLM__MASKED; the sum, over 64 positions */
    float (*softmax)(float *s, float most);
    /* s = s * (factor * scale) for positions first .. last of 64, LLM__MASKED for the others, and
       the largest; scale f32 [64] or NULL for ones. False: one of them is not finite */
    bool (*mask)(float *s, const float *scale, float factor, uint32_t first, uint32_t last,
                 float *most);
    /* e * scale, 0 where e is 0, over 64 positions to integers in -LLM__INT16_MOST ..
       LLM__INT16_MOST with one scale, which it returns */
    float (*weigh)(int16_t *p, const float *e, const float *scale);
    /* The last three in one, for queries from .. end - 1 of a page; NULL: one by one */
    void (*page_weights)(llm__weights *w, uint32_t from, uint32_t end, const float *k_scale,
                         const float *v_scale);
    /* to [rows][stride], 16 columns, = or += from [rows][16] * scale */
    void (*put)(float *to, size_t stride, const float *from, uint32_t rows);
    void (*put_add)(float *to, size_t stride, const float *from, uint32_t rows, float scale);
    /* dot [count][64] = q [count][n] . k for the 64 positions of a page, int8 or f16, in the cache's
       layout; count is 1 .. LLM__QUERIES; the next page lies `ahead` bytes further, 0 = none */
    void (*scores_q8)(float *dot, const int16_t *q, const int8_t *k, uint32_t n, uint32_t count,
                      ptrdiff_t ahead);
    void (*scores_f16)(float *dot, const float *q, const uint16_t *k, uint32_t n, uint32_t count);
    /* A page's keys, or values, of 4 bits to int8; the next page's lie `ahead` bytes further */
    void (*unpack_keys)(int8_t *k, const uint8_t *codes, const uint8_t *times, uint32_t n,
                        ptrdiff_t ahead);
    void (*unpack_values)(int8_t *v, const uint8_t *codes, const uint8_t *times, uint32_t n,
                          ptrdiff_t ahead);
    /* out [count][n] = out * keep [count] + (sum of p [count][64] v over the positions) * take [count];
       for f16 over first .. last, so that what was never written is not read */
    void (*values_q8)(float *out, const float *keep, const float *take, const int16_t *p,
                      const int8_t *v, uint32_t n, uint32_t count, ptrdiff_t ahead);
    void (*values_f16)(float *out, const float *keep, const float *take, const float *p,
                       const uint16_t *v, uint32_t n, uint32_t count, uint32_t first, uint32_t last);
    /* out f32 [rows][16] = one panel times `rows` (1 .. 256) rows of the input from `row` on */
    void (*panel[LLM_TYPE_COUNT])(float *out, const uint8_t *panel, uint32_t padded,
                                  const llm__input *in, uint32_t row, uint32_t rows);
    /* The same for two panels, `size` bytes apart, out f32 [2][rows][16], LLM__TILE_ROWS rows and
       more; NULL: one after the other */
    void (*two_panels[LLM_TYPE_COUNT])(float *out, const uint8_t *panel, size_t size,
                                       uint32_t padded, const llm__input *in, uint32_t row,
                                       uint32_t rows);
} llm__kernels;

#define LLM__ROWS_AT_ONCE 256u
#define LLM__TILE_ROWS    16u /* of AMX; two_panels takes no fewer */
#define LLM__LOW_INPUTS   3u /* matrices of a matmul that adapters may change */
#define LLM__QUERIES      16u /* that go through a page of the cache together */
#define LLM__MASKED       -1e30f /* finite: fast-math may assume that there are no infinities */
#define LLM__INT8_MOST    127.0f
#define LLM__INT16_MOST   16256.0f /* 127 * 128: two int8 digits */

/* ======================================================================== */
/* >>threads: atomics, time, the pool                                        */
/* ========================================================================
   A pool runs one function on several lanes. Lanes take items of an evaluation by themselves (see
   >>runner), so it does not matter when a lane starts, or whether it starts at all: the host's
   parallel_for, worker threads and the caller alone are the same thing. */

#if defined(__GNUC__) || defined(__clang__)
LLM__INLINE uint32_t llm__load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
LLM__INLINE void llm__store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
LLM__INLINE uint32_t llm__fetch_add32(uint32_t *p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
LLM__INLINE uint32_t llm__exchange32(uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);
}
/* On 32-bit x86 a member of 64 bits is aligned to 4 only: across a cache line it would not be
   atomic, and clang asks for a library. */
typedef uint64_t llm__atomic64 __attribute__((aligned(8)));
LLM__INLINE uint64_t llm__load64(const llm__atomic64 *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
/* *p = v if it is *was, which otherwise becomes *p. */
LLM__INLINE bool llm__exchange_if64(llm__atomic64 *p, uint64_t *was, uint64_t v) {
    return __atomic_compare_exchange_n(p, was, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
#elif defined(_MSC_VER)
LLM__INLINE uint32_t llm__load32(const uint32_t *p) {
    return (uint32_t)_InterlockedOr((volatile long *)p, 0);
}
LLM__INLINE void llm__store32(uint32_t *p, uint32_t v) {
    (void)_InterlockedExchange((volatile long *)p, (long)v);
}
LLM__INLINE uint32_t llm__fetch_add32(uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)p, (long)v);
}
LLM__INLINE uint32_t llm__exchange32(uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedExchange((volatile long *)p, (long)v);
}
typedef uint64_t llm__atomic64;
LLM__INLINE uint64_t llm__load64(const uint64_t *p) {
    return (uint64_t)_InterlockedOr64((volatile __int64 *)p, 0);
}
LLM__INLINE bool llm__exchange_if64(uint64_t *p, uint64_t *was, uint64_t v) {
    const uint64_t expected = *was;
    *was = (uint64_t)_InterlockedCompareExchange64((volatile __int64 *)p, (__int64)v,
                                                   (__int64)expected);
    return *was == expected;
}
#else
#error "llm.h needs atomics: GCC, clang or MSVC"
#endif

LLM__INLINE void llm__relax(void) {
#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    _mm_pause();
#elif defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Microseconds from some fixed point; never goes back. */
static uint64_t llm__now(void) {
#if defined(_WIN32)
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (uint64_t)count.QuadPart / (uint64_t)frequency.QuadPart * 1000000u +
           (uint64_t)count.QuadPart % (uint64_t)frequency.QuadPart * 1000000u /
               (uint64_t)frequency.QuadPart;
#elif defined(CLOCK_MONOTONIC)
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
#else
    struct timeval t;
    (void)gettimeofday(&t, NULL);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_usec;
#endif
}

/* Into the second level of the cache: the first has few places for lines on their way, and more of
   them wait. An address that is not there does no harm. */
LLM__INLINE void llm__prefetch(const void *p) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#elif defined(_M_X64) || defined(_M_IX86)
    _mm_prefetch((const char *)p, _MM_HINT_T1);
#else
    (void)p;
#endif
}

LLM__INLINE void llm__yield(void) {
#if defined(_WIN32)
    (void)SwitchToThread();
#elif !defined(LLM_NO_THREADS)
    (void)sched_yield();
#endif
}

/* How often the system has taken the core from this thread; 0 where it does not say. */
static uint32_t llm__interruptions(void) {
#if defined(__linux__) && !defined(LLM_NO_THREADS)
    struct rusage use;
    if (getrusage(1 /* RUSAGE_THREAD, which wants _GNU_SOURCE */, &use) == 0) return (uint32_t)use.ru_nivcsw;
#endif
    return 0;
}

/* ---- the float environment: no flush of denormals, to nearest, on every thread that computes ---- */

LLM__INLINE uint32_t llm__float_environment(bool enter, uint32_t saved) {
#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
    uint32_t now = _mm_getcsr();
    _mm_setcsr(enter ? 0x1f80u : saved); /* all exceptions masked, everything else off */
    return now;
#elif defined(__aarch64__)
    uint64_t now;
    __asm__ volatile("mrs %0, fpcr" : "=r"(now));
    __asm__ volatile("msr fpcr, %0" : : "r"(enter ? (uint64_t)0 : (uint64_t)saved));
    return (uint32_t)now;
#else
    (void)enter;
    return saved;
#endif
}

/* ---- reading pieces of a model's file ---- */

/* Who finds a piece absent and exchanges that for "loading" reads it; the others wait. Exchanging a
   piece that became present in between shows it as loading for a moment, and is put right. */
static llm_result llm__read_piece(const llm_model *m, size_t piece, llm_error *error) {
    uint32_t *state = &m->read_state[piece], was = llm__load32(state), waited = 0;
    const size_t at = piece * LLM_READ_MOST, left = m->size - at;
    const size_t size = left < LLM_READ_MOST ? left : LLM_READ_MOST;
    if (was == LLM__PRESENT) return LLM_OK;
    if (was == LLM__ABSENT) was = llm__exchange32(state, LLM__LOADING);
    if (was == LLM__ABSENT) {
        const bool read = m->read(m->read_user, at, m->block + at, size);
        llm__store32(state, read ? LLM__PRESENT : LLM__ABSENT);
    } else if (was == LLM__PRESENT) {
        llm__store32(state, LLM__PRESENT);
    }
    while ((was = llm__load32(state)) == LLM__LOADING) {
        if (++waited % 256 == 0) llm__yield();
        llm__relax();
    }
    if (was == LLM__PRESENT) return LLM_OK;
    return llm__fail(error, LLM_ERROR_IO, "model: reading %zu bytes at offset %zu failed", size,
                     at);
}

/* Each page of a map faults when it is first looked at. */
static void llm__touch(const uint8_t *from, size_t size) {
    volatile uint8_t seen;
    size_t i;
    for (i = 0; i < size; i += LLM__PAGE) seen = from[i];
    (void)seen;
}

LLM_API llm_result llm_model_prefetch(llm_model *model, const llm_prefetch_desc *desc) {
    llm_model *m = model;
    uint64_t deadline;
    size_t start = 0, *at;
    llm_result r;
    if (!m || !desc) return LLM_ERROR_ARGUMENT;
    at = desc->position ? desc->position : &start;
    if (*at > m->size)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                         "prefetch: position is %zu, not in 0 .. %zu", *at, m->size);
    deadline = desc->budget_us ? llm__now() + desc->budget_us : 0;
    if (desc->huge && m->read && *at == 0) llm__wish_huge(m->block, m->block_size);
    while (*at < m->size) {
        const size_t left = m->size - *at, size = left < LLM_READ_MOST ? left : LLM_READ_MOST;
        if ((r = llm__need(m, m->file + *at, size, desc->error)) != LLM_OK) return r;
        llm__touch(m->file + *at, size);
        if (desc->lock) {
            llm__store32(&m->locked, 1);
            if (!llm__lock_pages(m->file + *at, size)) {
                r = llm__lock_failed(*at, m->size, desc->error);
                llm__unlock_pages(m->file, m->size);
                *at = 0;
                return r;
            }
        }
        *at += size;
        if (desc->progress && !desc->progress(desc->user, *at, m->size))
            return llm__fail(desc->error, LLM_CANCELLED, "prefetch: stopped at byte %zu of %zu", *at,
                             m->size);
        if (deadline && *at < m->size && llm__now() >= deadline) return LLM_PENDING;
    }
    return LLM_OK;
}

/* What the engine room at the end of the file provides. */
typedef void (*llm__lane)(void *context, uint32_t lane);
static void llm__pool_run(llm_pool *pool, llm__lane work, void *context);
static bool llm__pool_lost(llm_pool *pool, uint32_t lane, uint32_t us);
static void llm__pool_rest(llm_pool *pool, uint32_t lane);
static bool llm__kernels_by_name(const char *name, llm__kernels *kernels, llm_error *error);
static bool llm__asks_from_afar(void); /* how this processor wants to be asked for weights */

/* ======================================================================== */
/* >>runner: a plan's items, taken by lanes                                  */
/* ========================================================================
   An evaluation is a list of steps; a step is a number of independent items. Every lane has a share
   of a step's items, neighbours, so that it reads weights from one end to the other and shares no
   counter; when its own are taken, it takes from other shares. It counts what it has done when
   there is nothing more to take, and who counts the last item moves on to the next step. A lane
   waits only for items that another lane is running, so any number of lanes makes progress, and
   stopping is not taking any more. */

#define LLM__LINE    64u
#define LLM__AHEAD_BYTES 4096u /* of what a lane reads next are asked for before it waits */
#define LLM__SPIN_US 50u  /* a wait goes to sleep, or yields, after so long */
#define LLM__LATE_US 200u /* no item should keep others waiting for longer */

typedef struct llm__share {
    llm__atomic64 taken; /* (step + 1) << 32 | items taken from it; of an earlier step: none */
    uint8_t line[LLM__LINE];
} llm__share;

typedef struct llm__run {
    uint32_t step; /* the present one; all lanes look at it while they wait */
    uint8_t line[LLM__LINE];
    uint32_t done; /* its items that have been counted */
    uint8_t line_too[LLM__LINE];
    uint32_t stop; /* 1: the budget is spent, the evaluation is cancelled or has failed */
    uint32_t failed;
    uint32_t late;       /* step + 1 that somebody waits for too long, */
    uint32_t late_since; /* and since when, in the lower bits of llm__now's time */
    uint32_t crowded;    /* a lane shall leave */
    uint32_t lanes;
    llm__share *share;     /* [lanes] */
    const uint32_t *count; /* [steps] items, 0 = skip */
    uint32_t steps;
    uint32_t *cancel;  /* set from outside */
    uint64_t deadline; /* in llm__now's time, 0 = none */
    void (*enter)(void);   /* a lane's first and last call; NULL: none */
    void (*leave)(void);
    bool (*item)(void *user, uint32_t step, uint32_t item, uint32_t lane); /* false: failed */
    void (*ahead)(void *user, uint32_t step, uint32_t item); /* a lane will begin there */
    void *user;
    llm_pool *pool;
#if defined(LLM_PROFILE)
    uint64_t began; /* in nanoseconds */
    void (*spent)(void *user, uint32_t step, uint32_t lane, uint32_t items, uint64_t ns);
#endif
} llm__run;

#if defined(LLM_PROFILE)
#define LLM__PROFILED(statement) statement
static uint64_t llm__now_ns(void) {
#if defined(CLOCK_MONOTONIC) && !defined(_WIN32)
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#else
    return llm__now() * 1000;
#endif
}
#else
#define LLM__PROFILED(statement)
#endif

/* A lane's way through an evaluation. */
typedef struct llm__walk {
    llm__run *run;
    uint32_t lane, step;
    uint32_t empty; /* shares of the step, its own first, from which all is taken */
    uint32_t items; /* that it has done in this step and not counted */
    uint32_t interruptions;
    bool worked, leaves;
    LLM__PROFILED(uint64_t mark;) /* until when its time is accounted for */
} llm__walk;

static uint32_t llm__next_step(const llm__run *run, uint32_t step) {
    while (step < run->steps && !run->count[step]) step++;
    return step;
}

LLM__INLINE uint32_t llm__share_begin(const llm__run *run, uint32_t step, uint32_t share) {
    return (uint32_t)((uint64_t)run->count[step] * share / run->lanes);
}

/* What passed since the last call was work on so many items of the step, or with 0 a wait. */
LLM__INLINE void llm__account(llm__walk *w, uint32_t items) {
#if defined(LLM_PROFILE)
    const uint64_t now = llm__now_ns();
    w->run->spent(w->run->user, w->step, w->lane, items, now - w->mark);
    w->mark = now;
#else
    (void)w, (void)items;
#endif
}

/* Every lane looks at the clock, but not before it has done an item: a step always makes progress,
   however late the host starts it. */
LLM__INLINE bool llm__should_stop(llm__run *run, bool worked) {
    if (llm__load32(&run->stop)) return true;
    if ((worked && run->deadline && llm__now() >= run->deadline) || llm__load32(run->cancel)) {
        llm__store32(&run->stop, 1);
        return true;
    }
    return false;
}

/* A lane that comes late finds shares that belong to a later step. */
static bool llm__take_from(llm__run *run, uint32_t step, uint32_t share, uint32_t *item) {
    const uint32_t begin = llm__share_begin(run, step, share),
                   size = llm__share_begin(run, step, share + 1) - begin;
    const uint64_t none = ((uint64_t)step + 1) << 32;
    uint64_t was;
    if (!size) return false;
    was = llm__load64(&run->share[share].taken);
    do {
        *item = was < none ? 0 : (uint32_t)was;
        if (was >> 32 > none >> 32 || *item >= size) return false;
    } while (!llm__exchange_if64(&run->share[share].taken, &was, none | (*item + 1)));
    *item += begin;
    return true;
}

static bool llm__take_item(llm__walk *w, uint32_t *item) {
    for (; w->empty < w->run->lanes; w->empty++)
        if (llm__take_from(w->run, w->step, (w->lane + w->empty) % w->run->lanes, item)) return true;
    return false;
}

/* Another process on a core takes it for milliseconds, and what a lane has in hand then keeps all
   others waiting: two lanes become slower than one. So a lane that was waited for and had lost its
   core tells the pool, which knows whether that happens so often that the lane does harm. Then it
   leaves; the first lane, which cannot, has another one leave, whose core the system gives it. */
static void llm__notice_crowd(llm__walk *w) {
    llm__run *run = w->run;
    uint32_t interruptions;
    if (w->lane && llm__load32(&run->crowded) && llm__exchange32(&run->crowded, 0)) w->leaves = true;
    if (!w->items || llm__load32(&run->late) != w->step + 1) return;
    interruptions = llm__interruptions();
    if (interruptions == w->interruptions) return; /* the item was long, no more */
    w->interruptions = interruptions;
    if (!llm__pool_lost(run->pool, w->lane, (uint32_t)llm__now() - llm__load32(&run->late_since)))
        return;
    if (w->lane) w->leaves = true;
    else llm__store32(&run->crowded, 1);
}

static void llm__count_done(llm__walk *w) {
    llm__run *run = w->run;
    if (w->items) llm__account(w, w->items);
    if (run->lanes > 1) llm__notice_crowd(w);
    if (w->items && llm__fetch_add32(&run->done, w->items) + w->items == run->count[w->step]) {
        llm__store32(&run->done, 0);
        llm__store32(&run->step, llm__next_step(run, w->step + 1));
    }
    w->items = 0;
}

/* Others still run the step's last items. */
static void llm__wait_for_step(llm__walk *w) {
    llm__run *run = w->run;
    const uint32_t next = llm__next_step(run, w->step + 1);
    uint64_t since = 0, now;
    uint32_t spins;
    if (next < run->steps && llm__share_begin(run, next, w->lane) < run->count[next])
        run->ahead(run->user, next, llm__share_begin(run, next, w->lane));
    for (spins = 1; llm__load32(&run->step) == w->step; spins++) {
        llm__relax();
        if (spins % 64) continue;
        if (llm__should_stop(run, w->worked)) break;
        now = llm__now();
        if (!since) since = now;
        if (now - since < LLM__SPIN_US) continue;
        if (now - since > LLM__LATE_US && llm__load32(&run->late) != w->step + 1) {
            llm__store32(&run->late_since, (uint32_t)since);
            llm__store32(&run->late, w->step + 1);
        }
        llm__yield(); /* which counts as an interruption */
        w->interruptions = llm__interruptions();
    }
    llm__account(w, 0);
}

static void llm__run_lane(void *context, uint32_t lane) {
    llm__run *run = LLM__CAST(llm__run *, context);
    uint32_t saved = llm__float_environment(true, 0), item;
    llm__walk w;
    if (run->enter) run->enter();
    memset(&w, 0, sizeof w);
    w.run = run, w.lane = lane, w.step = llm__load32(&run->step);
    if (run->lanes > 1) w.interruptions = llm__interruptions();
    LLM__PROFILED(w.mark = run->began;)
    if (w.step < run->steps) llm__account(&w, 0);
    while (w.step < run->steps && !w.leaves && !llm__should_stop(run, w.worked)) {
        if (llm__take_item(&w, &item)) {
            if (!run->item(run->user, w.step, item, lane)) {
                llm__store32(&run->stop, 1);
                break;
            }
            w.items++;
            w.worked = true;
            continue;
        }
        llm__count_done(&w);
        if (llm__load32(&run->step) == w.step && !w.leaves) llm__wait_for_step(&w);
        if (llm__load32(&run->step) != w.step) w.step = llm__load32(&run->step), w.empty = 0;
    }
    llm__count_done(&w);
    if (w.leaves) llm__pool_rest(run->pool, lane);
    if (run->leave) run->leave();
    (void)llm__float_environment(false, saved);
}

/* ======================================================================== */
/* >>forward: the plan                                                       */
/* ========================================================================
   The description is compiled into a flat list of steps. A row is a token of some session at some
   position; every step treats every row by itself, and only keys and values connect them.

       embed
       per layer:  input(norm) | q k v | heads: norm, rope, append | attend |
                   input | out, added | input(norm) | gate and up | input | down, added
       input(norm) | head | cap

   "input" makes what a matmul eats: it finishes the residual stream where the model norms a
   block's output (post_gain), norms (the inputs of out and down in few families), rotates,
   quantises. Where there is a single row it is part of the matmul, and where each session has one,
   "heads" is part of "attend": five steps a layer.

   Where rows have adapters, a step "low" between input and matmul makes A x for all of them, and
   the matmul's items add B of that to the panels that they have made. */

enum {
    LLM__OP_EMBED,
    LLM__OP_INPUT,
    LLM__OP_LOW,
    LLM__OP_MATMUL,
    LLM__OP_HEADS,
    LLM__OP_ATTEND,
    LLM__OP_CAP
};
enum { LLM__FROM_STREAM, LLM__FROM_ATTENTION, LLM__FROM_HIDDEN };
enum { LLM__TO_STORE, LLM__TO_ADD, LLM__TO_GATE };

typedef struct llm__part { /* one matrix of a matmul */
    const llm__tensor *weight;
    const float *bias; /* f32 [rows], or NULL */
    uint32_t column;   /* of the output, where its first row goes */
    uint32_t panels;
} llm__part;

typedef struct llm__step {
    uint8_t op, from, to;
    bool last;                 /* works on the rows that want logits only */
    bool want_int, want_float; /* input: which forms the matmul needs */
    bool begins;               /* input: the layer's, where a page begins with the row */
    uint32_t layer;
    const float *gain, *post_gain; /* input: norms, or NULL */
    const float *x;                /* input: the stream that it reads, */
    float *next;                   /* and where it is finished (post_gain) */
    uint32_t width;                /* input: values per row */
    uint32_t unrotate, rotate;     /* input: blocks to rotate by, in this order; 0 = not */
    const llm__part *part;
    uint32_t parts, panels; /* matmul: panels in all, */
    uint32_t planned;       /* per item of few rows, */
    uint32_t per_item;      /* and as the rows at hand want it */
    uint32_t input;         /* low and matmul: the number of the step that makes their input, */
    uint32_t low, lows;     /* and the matrices that adapters may change: LLM__LOW_…, how many */
    float *out;
    uint32_t out_stride;
} llm__step;

typedef struct llm__row {
    llm_session *session;
    uint32_t position;
    int32_t token;
} llm__row;

typedef struct llm__entry { /* a session's share of an evaluation */
    llm_session *session;
    uint32_t first, count;         /* rows */
    uint32_t first_logits, logits; /* rows of logits, of its last tokens */
} llm__entry;

/* Rows side by side with the same adapters and weights, at most LLM__ROWS_AT_ONCE. */
typedef struct llm__adapted {
    const llm_session *session; /* one of theirs */
    uint32_t first, count;
} llm__adapted;

/* Sizes that follow from the description. */
typedef struct llm__shape {
    uint32_t stream;      /* width padded to 64 */
    uint32_t qkv;         /* columns of q, k and v, each padded to 16 */
    uint32_t k_at, v_at;  /* where k and v begin */
    uint32_t attention;   /* heads * value_size, padded to 64 */
    uint32_t hidden;      /* ffn padded to 64 */
    uint32_t input;       /* the widest input of a matmul, padded; an odd multiple of 64, so that
                             the rows of a column do not meet in a few sets of a cache */
    uint32_t vocab;       /* padded to 16 */
    uint32_t head, value; /* head_size and value_size padded to 16 */
    uint32_t group;       /* query heads per kv head */
    uint32_t turn;        /* floats of rotary turns per row and rope */
    uint32_t q_rotation;  /* of q and k in the int8 cache */
    uint32_t v_rotation;  /* of v in the int8 cache, unless the weights did it */
} llm__shape;

/* How attention is cut into items: tiles of queries of a kv head, times chunks of positions. */
typedef struct llm__split {
    uint32_t queries; /* of a tile; a kv head's are numbered row * group + head of the group */
    uint32_t tiles;   /* of a kv head */
    uint32_t chunks;  /* items for each tile; 1: not cut */
    bool fused;       /* an item makes its row's queries, key and value first, */
    uint32_t shares;  /* or its share of them: items for each tile then */
} llm__split;

/* A softmax on its way over positions: weight is the sum of e^(score - most). The sums of the same
   times v lie elsewhere, [value] for each of these. */
typedef struct llm__running {
    float most, weight;
    bool any;
} llm__running;

/* What a lane has for itself. Nothing here has to last when an evaluation stops. */
typedef struct llm__own {
    llm__input in;     /* of a single row, */
    uint32_t made;     /* by this step; 0 = none */
    float *stream;     /* that row of the stream as `in` was made from it */
    float *scratch;    /* for what an item needs */
    int8_t *unpacked;  /* keys or values of a page that are stored in 4 bits, */
    float *unpacked_scale; /* [2][positions of a page] and scales of both */
    LLM__PROFILED(llm_profile profile[LLM_PROFILE_STEPS];)
    uint8_t line[LLM__LINE];
} llm__own;

struct llm_batch {
    llm_allocator allocator;
    size_t memory;
    const llm_model *model;
    llm_pool *pool;
    llm__kernels kernels;
    uint32_t rows, most_logits, lanes;
    uint32_t adapter_rank; /* columns of `low` for each matrix of a matmul; 0: no adapters */
    llm_kv kv;
    llm__shape shape;
    llm_error error;
    /* the evaluation that is put together or runs */
    llm__entry *entry; /* [rows] */
    llm__row *row;     /* [rows] */
    uint32_t *wanted;  /* [most_logits] the row of each row of logits */
    uint32_t entries, used_rows, used_logits;
    bool running, finished;
    uint32_t cancel;
    llm__run run;
    llm__step *step; /* [steps] */
    uint32_t *count; /* [steps] items */
    llm__part *matrix; /* [matrices] of all matmuls, in order */
    uint32_t steps, matrices;
    llm__adapted *adapted; /* [rows] of which there are */
    uint32_t adapteds, low_panels; /* the most panels of A that one has for a matrix */
    /* activations */
    float *x, *x_too; /* the stream; where blocks have a norm of their own, in turn */
    float *stream;    /* the one of them that the plan has come to */
    float *y, *qkv, *attention, *hidden, *turns, *logits;
    int16_t *q16;   /* [kv heads][rows][group][head] queries of an integer cache, */
    float *q_scale; /* [kv heads][rows][group] with their scales, */
    float *q32;     /* or those of the f16 cache */
    float *low;     /* [rows][LLM__LOW_INPUTS][adapter_rank] A x */
    llm__input in;
    llm__split split;
    uint32_t most_parts;    /* rows times chunks of positions that may be items of their own */
    float *part;            /* [most_parts][heads][value] their sums … */
    llm__running *part_run; /* … and what belongs to these */
    uint32_t *arrived;      /* [most_parts][heads] finished chunks of each tile */
    llm__own *own; /* [lanes] */
};

LLM__INLINE uint32_t llm__up(uint32_t n, uint32_t to) { return (n + to - 1) / to * to; }
LLM__INLINE uint32_t llm__least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* The largest of 64, 32, 16 that divides n; 0 if none does. */
LLM__INLINE uint32_t llm__rotation_for(uint32_t n) {
    return n % 64 == 0 ? 64u : n % 32 == 0 ? 32u : n % 16 == 0 ? 16u : 0u;
}

static llm__shape llm__shape_of(const llm__file_desc *d) {
    llm__shape s;
    uint32_t hidden = llm__up(d->ffn, 16);
    s.stream = llm__up(d->width, 64);
    s.k_at = llm__up(d->heads * d->head_size, 16);
    s.v_at = s.k_at + llm__up(d->kv_heads * d->head_size, 16);
    s.qkv = llm__up(s.v_at + llm__up(d->kv_heads * d->value_size, 16), 64);
    s.attention = llm__up(d->heads * d->value_size, 64);
    s.hidden = llm__up(hidden, 64);
    s.input = s.stream > s.attention ? s.stream : s.attention;
    s.input = (s.input > s.hidden ? s.input : s.hidden) | 64u;
    s.vocab = llm__up(d->vocab, 16);
    s.head = llm__up(d->head_size, 16);
    s.value = llm__up(d->value_size, 16);
    s.group = d->heads / d->kv_heads;
    s.turn = llm__up(d->head_size, 16);
    s.q_rotation = llm__rotation_for(d->head_size);
    s.v_rotation = llm__rotation_for(d->value_size);
    return s;
}

/* ---- >>cache: pages of 64 positions, shared by the timelines that agree in them ---- */

#define LLM__PAGE_POSITIONS 64u

typedef struct llm__store {
    uint32_t lock;
    uint32_t sessions; /* that use it */
    uint32_t pages, unused;
    size_t page_size;
    uint32_t *uses; /* [pages] */
    uint32_t *free; /* [unused] a stack */
    uint8_t *data;  /* [pages][page_size] */
    llm_allocator allocator;
    void *block; /* the memory it lies in, released with the last session */
    size_t block_size;
} llm__store;

struct llm_session {
    llm_allocator allocator;
    size_t memory;
    llm_session_desc desc; /* resolved */
    const llm_model *model;
    llm__shape shape;
    llm__store *store;
    bool owns_block; /* the store lies in this session's block */
    llm_batch *own;  /* its evaluator, or NULL */
    llm_batch *busy; /* the batch that it takes part in now */
    uint32_t context, position, fed;
    uint32_t *page; /* [pages of the context] */
    uint32_t pages; /* held */
    int32_t *token; /* [context] */
    bool has_logits;
    uint32_t cancel;
    const llm_adapter *adapter[LLM_ADAPTERS_MOST];
    float weight[LLM_ADAPTERS_MOST]; /* of each, not 0 */
    uint32_t adapters, adapter_rank; /* how many; the sum of their ranks */
    llm_error error;
};

/* Integers with scales, of 8 or 4 bits? */
LLM__INLINE bool llm__integer_kv(llm_kv kv) { return kv != LLM_KV_F16; }

/* Bytes of the keys or values of a page, `n` channels of one kv head of one layer; and, for 4 bits,
   of their multipliers. */
LLM__INLINE size_t llm__codes_size(uint32_t n, llm_kv kv) {
    const size_t values = (size_t)LLM__PAGE_POSITIONS * n;
    return kv == LLM_KV_F16 ? values * 2 : kv == LLM_KV_Q8 ? values : values / 2;
}
LLM__INLINE size_t llm__times_size(uint32_t n) {
    return (size_t)LLM__PAGE_POSITIONS * ((n + 31) / 32);
}

/* Bytes of one kv head of one layer in a page: keys, values, and for integers their scales. */
static size_t llm__unit_size(const llm__shape *s, llm_kv kv) {
    const size_t codes = llm__codes_size(s->head, kv) + llm__codes_size(s->value, kv);
    if (kv == LLM_KV_Q4)
        return codes + llm__times_size(s->head) + llm__times_size(s->value) +
               2 * LLM__PAGE_POSITIONS * sizeof(uint16_t);
    return kv == LLM_KV_Q8 ? codes + 2 * LLM__PAGE_POSITIONS * sizeof(float) : codes;
}

typedef struct llm__unit {
    uint8_t *k, *v;
    float *k_scale, *v_scale;     /* of int8, or what the following were unpacked to */
    uint8_t *k_times, *v_times;   /* of 4 bits: multipliers, */
    uint16_t *k_short, *v_short;  /* and scales, bf16 */
} llm__unit;

static llm__unit llm__unit_at(const llm_session *s, uint32_t page, uint32_t layer,
                              uint32_t kv_head) {
    const llm_kv kv = s->desc.kv;
    const size_t size = llm__unit_size(&s->shape, kv);
    llm__unit u;
    u.k = s->store->data + s->page[page] * s->store->page_size +
          ((size_t)layer * s->model->desc->kv_heads + kv_head) * size;
    u.v = u.k + llm__codes_size(s->shape.head, kv);
    u.k_times = u.v + llm__codes_size(s->shape.value, kv);
    u.k_scale = (float *)(void *)u.k_times;
    u.v_scale = u.k_scale + LLM__PAGE_POSITIONS;
    u.v_times = u.k_times + llm__times_size(s->shape.head);
    u.k_short = (uint16_t *)(void *)(u.v_times + llm__times_size(s->shape.value));
    u.v_short = u.k_short + LLM__PAGE_POSITIONS;
    return u;
}

static void llm__store_lock(llm__store *store) {
    while (llm__exchange32(&store->lock, 1)) llm__yield();
}
static void llm__store_unlock(llm__store *store) { llm__store32(&store->lock, 0); }

/* Gives back the pages from number `keep` on. */
static void llm__drop_pages(llm_session *s, uint32_t keep) {
    llm__store_lock(s->store);
    while (s->pages > keep) {
        uint32_t page = s->page[--s->pages];
        if (--s->store->uses[page] == 0) s->store->free[s->store->unused++] = page;
    }
    llm__store_unlock(s->store);
}

/* Makes positions from .. to - 1 writable: pages there, and not shared. False: no page is left,
   and nothing has changed but that shared pages may have been copied. */
static bool llm__claim_pages(llm_session *s, uint32_t from, uint32_t to) {
    llm__store *store = s->store;
    uint32_t had = s->pages, first = from / LLM__PAGE_POSITIONS,
             end = (to + LLM__PAGE_POSITIONS - 1) / LLM__PAGE_POSITIONS;
    bool enough = true;
    llm__store_lock(store);
    if (first < had && store->uses[s->page[first]] > 1) {
        enough = store->unused > 0;
        if (enough) {
            uint32_t fresh = store->free[--store->unused], old = s->page[first];
            memcpy(store->data + fresh * store->page_size, store->data + old * store->page_size,
                   store->page_size);
            store->uses[old]--;
            store->uses[fresh] = 1;
            s->page[first] = fresh;
        }
    }
    if (end > had && store->unused < end - had) enough = false;
    while (enough && s->pages < end) {
        uint32_t fresh = store->free[--store->unused];
        store->uses[fresh] = 1;
        s->page[s->pages++] = fresh;
    }
    llm__store_unlock(store);
    return enough;
}

/* ---- what the steps do with an item ---- */

/* The part of the embedding that holds a token, whose row in it takes the token's place. */
static const llm__tensor *llm__embedding_of(const llm_model *m, uint32_t *token) {
    const llm__tensor *t = m->vocab[0];
    while (*token >= t->rows) *token -= t++->rows;
    return t;
}

/* The weight of row r, column k of a panel. */
LLM__INLINE float llm__weight_at(uint32_t type, const uint8_t *panel, uint32_t padded, unsigned r,
                            uint32_t k) {
    const uint32_t s = llm__super_block(padded);
    if (type == LLM_F32) return llm__float(llm__u32(panel + ((size_t)k * 16 + r) * 4));
    if (type == LLM_BF16) return llm__bf16(llm__u16(panel + ((size_t)k * 16 + r) * 2));
    return llm__mulf((float)llm__value(type, panel, padded, r, k),
                     llm__bf16(llm__u16(panel + (k / s * 16 + r) * 2)));
}

/* Row `token` of the embedding matrix, back in the stream's basis. */
static void llm__embed(const llm_batch *b, uint32_t row) {
    const llm_model *m = b->model;
    uint32_t token = (uint32_t)b->row[row].token, k, i;
    const llm__tensor *t = llm__embedding_of(m, &token);
    const uint32_t padded = llm__padded(t->cols);
    const uint8_t *panel = t->data + token / 16 * llm__panel_size(t->type, padded);
    float *x = b->x + (size_t)row * b->shape.stream;
    for (k = 0; k < padded; k++) x[k] = llm__weight_at(t->type, panel, padded, token % 16, k);
    if (t->rotation) b->kernels.rotate(x, padded, t->rotation);
    for (k = 0; k < padded; k++)
        x[k] = k < t->cols ? llm__mulf(x[k], m->desc->embedding_scale) : 0.0f;
    for (i = 0; i < m->desc->ropes; i++) {
        const llm__tensor *rope = &m->rope[i];
        float *turn = b->turns + ((size_t)i * b->rows + row) * b->shape.turn;
        for (k = 0; k < rope->cols; k++) {
            uint64_t phase = llm__u64(rope->data + 8 * (size_t)k) * b->row[row].position;
            llm__sincos((uint32_t)(phase >> 32), &turn[rope->cols + k], &turn[k]);
        }
    }
}

/* Sums over 16 columns to sums over super-blocks. */
static void llm__total_sums(const int16_t *sums, uint32_t n, uint32_t super_block, int32_t *total) {
    uint32_t i, j;
    for (i = 0; i < n / super_block; i++, sums += super_block / 16)
        for (total[i] = 0, j = 0; j < super_block / 16; j++) total[i] += sums[j];
}

/* A page is read whole (what is masked does not count), so a layer's part of it is cleared by the
   row that begins it, before any row writes there. */
static void llm__begin_page(const llm_batch *b, uint32_t layer, uint32_t row) {
    const llm_session *s = b->row[row].session;
    const uint32_t position = b->row[row].position;
    if (position % LLM__PAGE_POSITIONS) return;
    memset(llm__unit_at(s, position / LLM__PAGE_POSITIONS, layer, 0).k, 0,
           llm__unit_size(&s->shape, s->desc.kv) * b->model->desc->kv_heads);
}

/* The row of the stream that is row `item` of a step. */
LLM__INLINE uint32_t llm__stream_row(const llm_batch *b, const llm__step *step, uint32_t item) {
    return step->last ? b->wanted[item] : item;
}

/* Makes the input of a matmul from row `item`, as row `to` of `in`; `next` is where that row of the
   stream is finished, if it has to be. */
static void llm__make_input(const llm_batch *b, const llm__step *step, uint32_t item,
                            const llm__input *in, uint32_t to, float *next, float *buffer) {
    const llm__file_desc *d = b->model->desc;
    const llm__kernels *kernels = &b->kernels;
    const uint32_t padded = llm__padded(step->width), aligned = llm__up(step->width, 16);
    const bool same = /* there and back */
        step->unrotate == step->rotate && !step->want_float && !step->gain;
    const size_t row = llm__stream_row(b, step, item), at = (size_t)to * in->stride;
    const size_t tail = (padded - step->width) * sizeof(float);
    const float *x = step->x + row * b->shape.stream;
    const float *from = step->from == LLM__FROM_STREAM ? step->post_gain ? next : x
                        : step->from == LLM__FROM_ATTENTION
                            ? b->attention + row * b->shape.attention
                            : b->hidden + row * b->shape.hidden;
    if (step->post_gain) {
        kernels->norm(buffer, b->y + row * b->shape.stream, step->post_gain, aligned,
                      llm__recip((float)d->width), d->norm_epsilon);
        memcpy(next, x, aligned * sizeof(float));
        kernels->add(next, buffer, d->residual_scale, aligned);
    }
    if (step->from != LLM__FROM_STREAM) {
        memcpy(buffer, from, step->width * sizeof(float));
        memset(buffer + step->width, 0, tail);
        if (step->unrotate && !same) kernels->rotate(buffer, padded, step->unrotate);
        from = buffer;
    }
    if (step->gain)
        kernels->norm(buffer, from, step->gain, aligned, llm__recip((float)step->width),
                      d->norm_epsilon);
    memset(buffer + step->width, 0, tail);
    if (step->want_float || b->row[row].session->adapters) {
        memcpy(in->x + at, buffer, padded * sizeof(float));
        if (same && step->unrotate) kernels->rotate(in->x + at, padded, step->unrotate);
    }
    if (step->want_int) {
        if (step->rotate && !same) kernels->rotate(buffer, padded, step->rotate);
        kernels->quantize(buffer, padded, llm__super_block(padded), in->q + at, in->wide + at,
                          in->scale + at / 64, in->sums + at / 16);
        llm__total_sums(in->sums + at / 16, padded, llm__super_block(padded), in->total + at / 64);
    }
}

#if defined(LLM_PROFILE)
enum {
    LLM__PROFILE_EMBED,
    LLM__PROFILE_INPUT,
    LLM__PROFILE_QKV,
    LLM__PROFILE_HEADS,
    LLM__PROFILE_ATTEND,
    LLM__PROFILE_OUT,
    LLM__PROFILE_GATE_UP,
    LLM__PROFILE_DOWN,
    LLM__PROFILE_HEAD,
    LLM__PROFILE_CAP
};

static llm_profile *llm__profile_of(const llm_batch *b, uint32_t number, uint32_t lane) {
    const llm__step *step = &b->step[number];
    uint32_t at = LLM__PROFILE_CAP;
    switch (step->op) {
    case LLM__OP_EMBED: at = LLM__PROFILE_EMBED; break;
    case LLM__OP_INPUT: at = LLM__PROFILE_INPUT; break;
    case LLM__OP_HEADS: at = LLM__PROFILE_HEADS; break;
    case LLM__OP_ATTEND: at = LLM__PROFILE_ATTEND; break;
    case LLM__OP_MATMUL:
        at = step->last                           ? LLM__PROFILE_HEAD
             : step->out == b->qkv                ? LLM__PROFILE_QKV
             : step->to == LLM__TO_GATE           ? LLM__PROFILE_GATE_UP
             : b->step[step->input].from == LLM__FROM_ATTENTION ? LLM__PROFILE_OUT
                                                                : LLM__PROFILE_DOWN;
        break;
    case LLM__OP_LOW: return llm__profile_of(b, number + 1, lane); /* part of its matmul */
    default: break;
    }
    return &b->own[lane].profile[at];
}

static void llm__spent(void *user, uint32_t number, uint32_t lane, uint32_t items, uint64_t ns) {
    llm_profile *p = llm__profile_of(LLM__CAST(llm_batch *, user), number, lane);
    if (items) p->work_ns += ns;
    else p->wait_ns += ns;
    p->items += items;
}

/* Part of what the matmul takes was making its input. */
static void llm__profile_moved(const llm_batch *b, uint32_t number, uint32_t lane, uint64_t ns) {
    llm_profile *input = llm__profile_of(b, b->step[number].input, lane);
    llm__profile_of(b, number, lane)->work_ns -= ns;
    input->work_ns += ns;
    input->items++;
}

static uint32_t llm__take_profile(llm_batch *b, uint32_t lane, llm_profile *to) {
    static const char *const names[LLM_PROFILE_STEPS] = {
        "embed", "input", "qkv", "heads", "attend", "out", "gate and up", "down", "head", "cap"};
    uint32_t i;
    if (!b || lane >= b->lanes) return 0;
    memcpy(to, b->own[lane].profile, sizeof b->own[lane].profile);
    memset(b->own[lane].profile, 0, sizeof b->own[lane].profile);
    for (i = 0; i < LLM_PROFILE_STEPS; i++) to[i].step = names[i];
    return LLM_PROFILE_STEPS;
}
#endif

/* One row: it takes less time to make its input than to wait until another lane has made it, so
   every lane makes its own when it comes to the matmul, and INPUT is no step. */
LLM__INLINE bool llm__makes_own(const llm_batch *b, const llm__step *step) {
    return (step->last ? b->used_logits : b->used_rows) == 1;
}

static const llm__input *llm__own_input(const llm_batch *b, uint32_t number, uint32_t item,
                                        uint32_t lane) {
    const uint32_t input = b->step[number].input;
    const llm__step *step = &b->step[input];
    const size_t row = llm__stream_row(b, step, 0);
    llm__own *own = &b->own[lane];
    if (own->made != input) {
        LLM__PROFILED(const uint64_t start = llm__now_ns();)
        llm__make_input(b, step, 0, &own->in, 0, own->stream, own->scratch);
        own->made = input;
        LLM__PROFILED(llm__profile_moved(b, number, lane, llm__now_ns() - start);)
    }
    if (item == 0 && b->step[number].op == LLM__OP_MATMUL) { /* what the lanes share: once */
        if (step->begins) llm__begin_page(b, step->layer, (uint32_t)row);
        if (step->post_gain)
            memcpy(step->next + row * b->shape.stream, own->stream,
                   llm__up(step->width, 16) * sizeof(float));
    }
    return &own->in;
}

static void llm__shared_input(const llm_batch *b, const llm__step *step, uint32_t item,
                              uint32_t lane) {
    const uint32_t row = llm__stream_row(b, step, item);
    if (step->begins) llm__begin_page(b, step->layer, row);
    llm__make_input(b, step, item, &b->in, item, step->next + (size_t)row * b->shape.stream,
                    b->own[lane].scratch);
}

/* Every NaN has these bits in the end: its sign and payload depend on the hardware, and on the order
   of operands, which compilers are free to change. */
LLM__INLINE uint32_t llm__one_nan(uint32_t bits) {
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
}
static void llm__put_logits(float *to, const float *from, uint32_t n) {
    uint32_t i, bits;
    for (i = 0; i < n; i++) {
        bits = llm__one_nan(llm__u32(from + i));
        memcpy(to + i, &bits, sizeof bits);
    }
}

/* Sixteen columns of `rows` rows to where the step wants them. */
static void llm__put(const llm_batch *b, const llm__step *step, const llm__part *part,
                     uint32_t panel, const float *out, uint32_t row, uint32_t rows) {
    float *to = step->out + (size_t)row * step->out_stride + part->column + 16 * panel;
    uint32_t i;
    if (step->to == LLM__TO_ADD)
        b->kernels.put_add(to, step->out_stride, out, rows, b->model->desc->residual_scale);
    else if (step->last)
        for (i = 0; i < rows; i++)
            llm__put_logits(to + (size_t)i * step->out_stride, out + 16 * i, 16);
    else
        b->kernels.put(to, step->out_stride, out, rows);
}

/* ---- adapters: y += weight * scale * B (A x) ---- */

/* An item: a panel of A against rows with the same adapters. Those of a matrix lie one behind the
   other; where some rows have fewer panels than others, there is nothing to do. */
LLM__NOINLINE static void llm__low_item(const llm_batch *b, const llm__step *step,
                                        const llm__input *in, uint32_t item, uint32_t lane) {
    const uint32_t padded = llm__padded(b->step[step->input].width);
    const uint32_t which = item / b->low_panels % step->lows, number = item % b->low_panels;
    const llm__adapted *rows = &b->adapted[item / (step->lows * b->low_panels)];
    float *out = b->own[lane].scratch;
    float *to = b->low + ((size_t)rows->first * LLM__LOW_INPUTS + which) * b->adapter_rank;
    uint32_t panel = number, i, r;
    for (i = 0; i < rows->session->adapters; i++) {
        const llm_adapter *adapter = rows->session->adapter[i];
        const llm__low *low = llm__low_at(adapter, step->layer, step->low + which);
        if (panel >= low->rank / 16) {
            panel -= low->rank / 16;
            continue;
        }
        b->kernels.panel[low->type](out, low->a + panel * llm__low_panel(low->type, padded), padded,
                                    in, rows->first, rows->count);
        for (r = 0; r < rows->count; r++)
            memcpy(to + (size_t)r * LLM__LOW_INPUTS * b->adapter_rank + 16 * number, out + 16 * r,
                   16 * sizeof(float));
        return;
    }
}

/* Adds B's share to a panel [rows][16] of matrix `which` of the step; `product` is as large. */
LLM__NOINLINE static void llm__add_low(const llm_batch *b, const llm__step *step, uint32_t which,
                                       uint32_t panel, uint32_t row, uint32_t rows, float *out,
                                       float *product) {
    const uint8_t *w;
    llm__input in;
    uint32_t i, k;
    memset(&in, 0, sizeof in);
    in.stride = LLM__LOW_INPUTS * b->adapter_rank;
    in.distant = b->in.distant;
    for (k = 0; k < b->adapteds; k++) {
        const llm__adapted *of = &b->adapted[k];
        const llm_session *s = of->session;
        const uint32_t first = of->first > row ? of->first : row;
        const uint32_t end = llm__least(of->first + of->count, row + rows);
        if (first >= end) continue;
        in.x = b->low + (size_t)which * b->adapter_rank;
        for (i = 0; i < s->adapters; i++) {
            const llm__low *low = llm__low_at(s->adapter[i], step->layer, step->low + which);
            if (!low->rank) continue;
            w = low->b + panel * llm__low_panel(low->type, low->rank);
            b->kernels.panel[low->type](product, w, low->rank, &in, first, end - first);
            b->kernels.add(out + 16 * (first - row), product, llm__mulf(s->weight[i], low->scale),
                           16 * (end - first));
            in.x += low->rank;
        }
    }
}

/* What is done to the product of panel p: bias, adapters, activation; and where it goes. Gate and
   up lie in turn: an odd panel ends a pair, whose gate lies before it. */
static void llm__finish_panel(const llm_batch *b, const llm__step *step, uint32_t number, uint32_t p,
                              float *out, uint32_t row, uint32_t rows, float *buffer) {
    const llm__part *part = &step->part[number];
    const bool gated = step->to == LLM__TO_GATE;
    uint32_t r;
    for (r = 0; r < rows && part->bias; r++)
        b->kernels.add(out + 16 * r, part->bias + 16 * p, 1.0f, 16);
    if (b->adapteds && step->lows)
        llm__add_low(b, step, gated ? p % 2 : number, gated ? p / 2 : p, row, rows, out, buffer);
    if (gated && p % 2 == 0) return;
    if (gated) {
        b->kernels.gate(out, out - 16 * rows, out, 16 * rows, b->model->desc->activation);
        p /= 2;
    }
    llm__put(b, step, part, p, out, row, rows);
}

/* A few panels against up to 256 rows. */
static void llm__matmul(const llm_batch *b, const llm__step *step, const llm__input *in,
                        uint32_t item, uint32_t all_rows, uint32_t lane) {
    const uint32_t blocks = (all_rows + LLM__ROWS_AT_ONCE - 1) / LLM__ROWS_AT_ONCE;
    const uint32_t row = item % blocks * LLM__ROWS_AT_ONCE;
    const uint32_t rows = llm__least(all_rows - row, LLM__ROWS_AT_ONCE);
    uint32_t at = item / blocks * step->per_item, i, p, first = 0;
    const uint32_t end = llm__least(at + step->per_item, step->panels);
    float *out = b->own[lane].scratch, *next = out + 16 * rows; /* and a buffer */
    for (i = 0; i < step->parts && at < end; first += step->part[i++].panels) {
        const llm__part *part = &step->part[i];
        const llm__tensor *w = part->weight;
        const uint32_t padded = llm__padded(w->cols);
        const size_t size = llm__panel_size(w->type, padded);
        for (p = at - first; at < end && p < part->panels; p++, at++) {
            const bool two = b->kernels.two_panels[w->type] && rows >= LLM__TILE_ROWS &&
                             p % 2 == 0 && p + 1 < part->panels && at + 1 < end;
            const uint8_t *panel = w->data + p * size;
            float *to = step->to == LLM__TO_GATE && p % 2 ? next : out;
            if (two)
                b->kernels.two_panels[w->type](out, panel, size, padded, in, row, rows);
            else
                b->kernels.panel[w->type](to, panel, padded, in, row, rows);
            llm__finish_panel(b, step, i, p, to, row, rows, next + 16 * rows);
            if (!two) continue;
            p++, at++;
            llm__finish_panel(b, step, i, p, next, row, rows, next + 16 * rows);
        }
    }
}

/* A head's values from a row, padded with zeros to 16. */
static void llm__load_head(float *to, const float *from, uint32_t n, uint32_t padded) {
    memcpy(to, from, n * sizeof(float));
    memset(to + n, 0, (padded - n) * sizeof(float));
}

/* Norm and rope of one query or key head in place. */
static void llm__turn_head(const llm_batch *b, float *head, const llm__tensor *norm, uint32_t layer,
                           uint32_t row) {
    const llm__file_desc *d = b->model->desc;
    const uint32_t rope = b->model->layer[layer].rope;
    if (norm->data)
        b->kernels.norm(head, head, (const float *)(const void *)norm->data, b->shape.head,
                        llm__recip((float)d->head_size), d->norm_epsilon);
    if (rope != LLM__NONE)
        b->kernels.rope(head, b->turns + ((size_t)rope * b->rows + row) * b->shape.turn,
                        b->model->rope[rope].cols);
}

/* 4 bits: int8 values are m * llm__kv_book[code], where 16 channels of a position share m, -7 .. 7.
   The book fits what a rotation makes of a head, nearly a normal distribution; m has the sign of the
   largest channel, so that it falls to the side that reaches further. */
static const int8_t llm__kv_book[16] = {-16, -13, -10, -8, -6, -4, -2, 0,
                                        2,   4,   6,   8,  10, 12, 15, 18};
#define LLM__KV_UNIT 129 /* LLM__INT16_MOST / (7 * 18), and next to nothing is left over */

/* 16 channels to codes with multiplier m; the sum of the squared errors. */
static uint32_t llm__code_group(const int16_t *q, int32_t m, uint8_t *code) {
    const int32_t unit = m * LLM__KV_UNIT, sign = m < 0 ? -1 : 1;
    int16_t twice[16], at[16];
    uint32_t i, k, error = 0;
    for (i = 0; i < 16; i++) twice[i] = (int16_t)(2 * sign * q[i]), at[i] = 0;
    for (k = 0; k < 15; k++) { /* past which edges between codes; as compilers make vectors of it */
        const int16_t edge = (int16_t)(sign * unit * (llm__kv_book[k] + llm__kv_book[k + 1]));
        for (i = 0; i < 16; i++) at[i] = (int16_t)(at[i] + (twice[i] > edge));
    }
    for (i = 0; i < 16; i++) {
        const int32_t off = q[i] - unit * llm__kv_book[at[i]];
        code[i] = (uint8_t)at[i];
        error += (uint32_t)(off * off);
    }
    return error;
}

/* The better of two multipliers: with one nothing is cut off; the other may, and is finer. */
static int32_t llm__code_best(const int16_t *q, uint8_t *code) {
    uint8_t finer[16];
    uint32_t i, error;
    int32_t most = 0, m, step;
    for (i = 0; i < 16; i++)
        if ((q[i] < 0 ? -q[i] : q[i]) > (most < 0 ? -most : most)) most = q[i];
    step = most < 0 ? -1 : 1;
    m = (most * step + 18 * LLM__KV_UNIT - 1) / (18 * LLM__KV_UNIT);
    m = step * (m > 7 ? 7 : m);
    error = llm__code_group(q, m, code);
    if (m * step < 2 || llm__code_group(q, m - step, finer) >= error) return m;
    memcpy(code, finer, sizeof finer);
    return m - step;
}

/* A head to codes [n] and multipliers [n / 16], 4 bits with their sign; the scale, a bf16. */
static uint16_t llm__code_head(const llm_batch *b, const float *head, uint32_t n, uint8_t *code,
                               uint8_t *times) {
    int16_t q[512];
    const float scale = b->kernels.quantize_head(head, n, LLM__INT16_MOST, q);
    const uint32_t bits = llm__bits(llm__mulf(scale, (float)LLM__KV_UNIT));
    uint32_t g;
    for (g = 0; g < n / 16; g++)
        times[g] = (uint8_t)(llm__code_best(q + 16 * g, code + 16 * g) & 15);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* The multipliers of position t, those of 32 channels in a byte. */
static void llm__put_times(uint8_t *to, const uint8_t *times, uint32_t n, uint32_t t) {
    uint32_t g;
    for (g = 0; g < n / 16; g += 2)
        to[g / 2 * LLM__PAGE_POSITIONS + t] =
            (uint8_t)(times[g] | (g + 1 < n / 16 ? times[g + 1] << 4 : 0));
}

/* A position's codes: two share a byte, never those of two positions, which other lanes may write. */
static void llm__put_key_codes(const llm_batch *b, llm__unit u, uint32_t t, const float *head) {
    const uint32_t n = b->shape.head;
    uint8_t code[512], times[32];
    uint32_t c, i;
    u.k_short[t] = llm__code_head(b, head, n, code, times);
    llm__put_times(u.k_times, times, n, t);
    for (c = 0; c < n; c += 8)
        for (i = 0; i < 4; i++)
            u.k[t / 16 * 8 * n + c * 8 + 4 * (t % 16) + i] =
                (uint8_t)(code[c + i] | code[c + 4 + i] << 4);
}
static void llm__put_value_codes(const llm_batch *b, llm__unit u, uint32_t t, const float *head) {
    const uint32_t n = b->shape.value;
    uint8_t code[512], times[32];
    uint32_t c, i;
    u.v_short[t] = llm__code_head(b, head, n, code, times);
    llm__put_times(u.v_times, times, n, t);
    for (c = 0; c < n; c += 16)
        for (i = 0; i < 8; i++)
            u.v[c * 32 + t / 4 * 32 + 4 * i + t % 4] =
                (uint8_t)(code[c + i] | code[c + 8 + i] << 4);
}

/* Writes a key (channels in fours, by position) or value (positions in fours, by channel). */
static void llm__append_key(const llm_batch *b, llm__unit u, llm_kv kv, uint32_t t, float *head) {
    const uint32_t n = b->shape.head;
    uint32_t c;
    if (llm__integer_kv(kv) && b->shape.q_rotation)
        b->kernels.rotate(head, b->model->desc->head_size, b->shape.q_rotation);
    if (kv == LLM_KV_Q4) {
        llm__put_key_codes(b, u, t, head);
    } else if (kv == LLM_KV_Q8) {
        int16_t q[512];
        u.k_scale[t] = b->kernels.quantize_head(head, n, LLM__INT8_MOST, q);
        for (c = 0; c < n; c++)
            u.k[t / 16 * 16 * n + c / 4 * 64 + 4 * (t % 16) + c % 4] = (uint8_t)q[c];
    } else {
        uint16_t *k = (uint16_t *)(void *)u.k;
        for (c = 0; c < n; c++) k[(t / 16 * n + c) * 16 + t % 16] = llm__float_to_half(head[c]);
    }
}
static void llm__append_value(const llm_batch *b, llm__unit u, llm_kv kv, uint32_t t, float *head,
                              bool rotated) {
    const uint32_t n = b->shape.value;
    uint32_t c;
    if (llm__integer_kv(kv) && b->shape.v_rotation && !rotated)
        b->kernels.rotate(head, b->model->desc->value_size, b->shape.v_rotation);
    if (kv == LLM_KV_Q4) {
        llm__put_value_codes(b, u, t, head);
    } else if (kv == LLM_KV_Q8) {
        int16_t q[512];
        u.v_scale[t] = b->kernels.quantize_head(head, n, LLM__INT8_MOST, q);
        for (c = 0; c < n; c++)
            u.v[c / 16 * 1024 + t / 4 * 64 + 4 * (c % 16) + t % 4] = (uint8_t)q[c];
    } else {
        uint16_t *v = (uint16_t *)(void *)u.v;
        for (c = 0; c < n; c++) v[t * n + c] = llm__float_to_half(head[c]);
    }
}

/* Where a query of a kv head lies in b->q16, q_scale and q32. */
LLM__INLINE size_t llm__query_at(const llm_batch *b, uint32_t kv_head, uint32_t query) {
    return (size_t)kv_head * b->rows * b->shape.group + query;
}

/* Queries i .. end - 1 of one kv head of one row. */
static void llm__queries(const llm_batch *b, uint32_t layer, uint32_t row, uint32_t kv_head,
                         uint32_t i, uint32_t end) {
    const llm_model *m = b->model;
    const llm__file_desc *d = m->desc;
    const uint32_t n = b->shape.head, group = b->shape.group;
    const float *qkv = b->qkv + (size_t)row * b->shape.qkv;
    float head[512];
    for (; i < end; i++) {
        const size_t at = llm__query_at(b, kv_head, row * group + i);
        float *to = llm__integer_kv(b->kv) ? head : b->q32 + at * n;
        llm__load_head(to, qkv + ((size_t)kv_head * group + i) * d->head_size, d->head_size, n);
        llm__turn_head(b, to, llm__tensor_at(m, layer, LLM__Q_NORM), layer, row);
        if (llm__integer_kv(b->kv)) {
            if (b->shape.q_rotation) b->kernels.rotate(head, d->head_size, b->shape.q_rotation);
            b->q_scale[at] = b->kernels.quantize_head(head, n, LLM__INT16_MOST, b->q16 + at * n);
        }
    }
}

/* The key and the value of one kv head of one row. */
static void llm__key_value(const llm_batch *b, uint32_t layer, uint32_t row, uint32_t kv_head) {
    const llm_model *m = b->model;
    const llm__file_desc *d = m->desc;
    const uint32_t position = b->row[row].position, t = position % LLM__PAGE_POSITIONS;
    const llm__unit u =
        llm__unit_at(b->row[row].session, position / LLM__PAGE_POSITIONS, layer, kv_head);
    const float *qkv = b->qkv + (size_t)row * b->shape.qkv;
    float head[512];
    llm__load_head(head, qkv + b->shape.k_at + (size_t)kv_head * d->head_size, d->head_size,
                   b->shape.head);
    llm__turn_head(b, head, llm__tensor_at(m, layer, LLM__K_NORM), layer, row);
    llm__append_key(b, u, b->kv, t, head);
    llm__load_head(head, qkv + b->shape.v_at + (size_t)kv_head * d->value_size, d->value_size,
                   b->shape.value);
    llm__append_value(b, u, b->kv, t, head, llm__tensor_at(m, layer, LLM__V)->row_rotation != 0);
}

/* ---- attention: pages are summed in chunks of eight, and the chunks in order, so that chunks may
   be given to different threads without a bit changing ---- */

#define LLM__PARTS_LEAST     16u
#define LLM__PARTS_MOST      128u
#define LLM__CHUNK_PAGES     8u
#define LLM__SHORT_WAIT      100u /* a microsecond or two */
#define LLM__CHUNK_POSITIONS (LLM__CHUNK_PAGES * LLM__PAGE_POSITIONS)

/* Queries of one kv head and one session that go through its pages together. */
typedef struct llm__tile {
    const llm_session *session;
    uint32_t layer, kv_head;
    uint32_t first, count;       /* queries, at most LLM__QUERIES */
    uint32_t first_page, last_page; /* that one of them sees */
} llm__tile;

/* What a tile does with a page. */
struct llm__weights {
    float score[LLM__QUERIES][LLM__PAGE_POSITIONS]; /* scores, then what became of them */
    int16_t p[LLM__QUERIES][LLM__PAGE_POSITIONS];   /* the same as integers, for an integer cache */
    float factor[LLM__QUERIES];                     /* of the scores */
    float most[LLM__QUERIES], weight[LLM__QUERIES]; /* the largest score, the sum of the weights */
    float v_factor[LLM__QUERIES];                   /* of the integers */
    float keep[LLM__QUERIES], take[LLM__QUERIES];   /* factors of the sum so far, and of the page's */
    uint32_t first[LLM__QUERIES], last[LLM__QUERIES]; /* positions that a query sees */
    bool finite[LLM__QUERIES];                        /* its scores are numbers */
};

/* Positions that query `i` of a tile sees. */
LLM__INLINE uint32_t llm__last_seen(const llm_batch *b, const llm__tile *tile, uint32_t i) {
    return b->row[(tile->first + i) / b->shape.group].position;
}
LLM__INLINE uint32_t llm__first_seen(const llm_batch *b, const llm__tile *tile, uint32_t i) {
    const uint32_t window = b->model->layer[tile->layer].window;
    const uint32_t last = llm__last_seen(b, tile, i);
    return window && last >= window ? last - window + 1 : 0;
}

/* The tile of queries from `first` on and before `end`. */
static llm__tile llm__tile_at(const llm_batch *b, uint32_t layer, uint32_t kv_head, uint32_t first,
                              uint32_t end) {
    llm__tile t;
    t.session = b->row[first / b->shape.group].session;
    t.layer = layer, t.kv_head = kv_head, t.first = first;
    end = llm__least(end, first + LLM__QUERIES);
    while (end > first && b->row[(end - 1) / b->shape.group].session != t.session) end--;
    t.count = end - first;
    t.first_page = llm__first_seen(b, &t, 0) / LLM__PAGE_POSITIONS;
    t.last_page = llm__last_seen(b, &t, t.count - 1) / LLM__PAGE_POSITIONS;
    return t;
}

/* Takes up a further sum, and gives the factors of both: relative to the larger most (Milakov and
   Gimelshein, arXiv 1805.02867). */
static void llm__merge(llm__running *to, float most, float weight, float *keep, float *take) {
    *keep = to->any ? 1.0f : 0.0f;
    *take = 1.0f;
    if (to->any && to->most > most) {
        *take = llm__exp(llm__subf(most, to->most));
    } else {
        if (to->any) *keep = llm__exp(llm__subf(to->most, most));
        to->most = most;
    }
    to->weight = llm__addf(llm__mulf(to->weight, *keep), llm__mulf(weight, *take));
    to->any = true;
}

/* Scores first .. last of a page, and the largest. */
static void llm__soft_cap(const llm_batch *b, float *score, uint32_t first, uint32_t last,
                          float *most) {
    const float cap = b->model->desc->attention_softcap;
    uint32_t t;
    b->kernels.cap(score, LLM__PAGE_POSITIONS, 1.0f, cap);
    for (t = 0; t < LLM__PAGE_POSITIONS; t++)
        if (t < first || t > last) score[t] = LLM__MASKED;
    *most = llm__mulf(cap, llm__tanh(llm__mulf(*most, llm__recip(cap))));
}

/* Query i, one of whose scores is not a number. */
static void llm__no_score(llm__weights *w, uint32_t i) {
    memset(w->score[i], 0, sizeof w->score[i]);
    w->most[i] = LLM__MASKED;
    w->weight[i] = 0;
}

/* The scores of queries from .. end - 1 of a tile to weights. Each step is done for all queries before
   the next, as steps of one query wait for each other and those of several do not. */
static void llm__weigh_page(const llm_batch *b, const llm__tile *tile, const llm__unit *u,
                            uint32_t start, uint32_t from, uint32_t end, llm__weights *w,
                            llm__running *run) {
    const llm__kernels *kernels = &b->kernels;
    const bool integer = llm__integer_kv(b->kv);
    const bool soft_cap = b->model->desc->attention_softcap > 0;
    uint32_t i;
    for (i = from; i < end; i++) {
        const uint32_t least = llm__first_seen(b, tile, i), last = llm__last_seen(b, tile, i);
        const size_t at = llm__query_at(b, tile->kv_head, tile->first + i);
        w->first[i] = least > start ? least - start : 0;
        w->last[i] = llm__least(last - start, LLM__PAGE_POSITIONS - 1);
        w->factor[i] = b->model->desc->query_scale;
        if (integer) w->factor[i] = llm__mulf(w->factor[i], b->q_scale[at]);
    }
    if (kernels->page_weights && integer && !soft_cap) {
        kernels->page_weights(w, from, end, u->k_scale, u->v_scale);
    } else {
        for (i = from; i < end; i++)
            w->finite[i] = kernels->mask(w->score[i], integer ? u->k_scale : NULL, w->factor[i],
                                         w->first[i], w->last[i], &w->most[i]);
        for (i = from; i < end && soft_cap; i++)
            if (w->finite[i]) llm__soft_cap(b, w->score[i], w->first[i], w->last[i], &w->most[i]);
        for (i = from; i < end; i++)
            if (w->finite[i]) w->weight[i] = kernels->softmax(w->score[i], w->most[i]);
            else llm__no_score(w, i);
        for (i = from; i < end && integer; i++)
            w->v_factor[i] = kernels->weigh(w->p[i], w->score[i], u->v_scale);
    }
    for (i = from; i < end; i++) {
        llm__merge(&run[i], w->most[i], w->weight[i], &w->keep[i], &w->take[i]);
        if (integer) w->take[i] = llm__mulf(w->take[i], w->v_factor[i]);
    }
    for (i = from; i < end; i++) /* NaN: a comparison would lose it in one place or another */
        if (!w->finite[i]) memset(&w->take[i], 0xff, sizeof w->take[i]);
}

/* Keys or values as the kernels want them: those of 4 bits as int8, for all queries of a tile. The
   next page has been asked for then. */
static const int8_t *llm__page_keys(const llm_batch *b, const llm__unit *u, uint32_t lane,
                                    ptrdiff_t *ahead) {
    int8_t *to = b->own[lane].unpacked;
    if (b->kv != LLM_KV_Q4) return (const int8_t *)u->k;
    b->kernels.unpack_keys(to, u->k, u->k_times, b->shape.head, *ahead);
    *ahead = 0;
    return to;
}
static const int8_t *llm__page_values(const llm_batch *b, const llm__unit *u, uint32_t lane,
                                      ptrdiff_t *ahead) {
    int8_t *to = b->own[lane].unpacked;
    if (b->kv != LLM_KV_Q4) return (const int8_t *)u->v;
    b->kernels.unpack_values(to, u->v, u->v_times, b->shape.value, *ahead);
    *ahead = 0;
    return to;
}
static void llm__unpack_scales(const llm_batch *b, llm__unit *u, uint32_t lane) {
    uint32_t t;
    u->k_scale = b->own[lane].unpacked_scale;
    u->v_scale = u->k_scale + LLM__PAGE_POSITIONS;
    for (t = 0; t < LLM__PAGE_POSITIONS; t++) {
        u->k_scale[t] = llm__bf16(u->k_short[t]);
        u->v_scale[t] = llm__bf16(u->v_short[t]);
    }
}

/* Weighted values of a page into the sums of queries i .. end - 1. */
static void llm__add_values(const llm_batch *b, const llm__unit *u, const llm__weights *w,
                            uint32_t i, uint32_t end, float *sums, ptrdiff_t ahead,
                            uint32_t lane) {
    const uint32_t n = b->shape.value;
    uint32_t next;
    if (llm__integer_kv(b->kv)) {
        const int8_t *v = llm__page_values(b, u, lane, &ahead);
        b->kernels.values_q8(sums + (size_t)i * n, w->keep + i, w->take + i, w->p[i], v, n, end - i,
                             ahead);
        return;
    }
    for (; i < end; i = next) {
        for (next = i + 1; next < end; next++)
            if (w->first[next] != w->first[i] || w->last[next] != w->last[i]) break;
        b->kernels.values_f16(sums + (size_t)i * n, w->keep + i, w->take + i, w->score[i],
                              (const uint16_t *)(const void *)u->v, n, next - i, w->first[i],
                              w->last[i]);
    }
}

/* One page into the running sums of a tile, [count][value], of those that see it; `next` follows. */
static void llm__attend_page(const llm_batch *b, const llm__tile *tile, uint32_t page, uint32_t next,
                             float *sums, llm__running *run, uint32_t lane) {
    const uint32_t start = page * LLM__PAGE_POSITIONS, n = b->shape.head;
    llm__unit u = llm__unit_at(tile->session, page, tile->layer, tile->kv_head);
    const ptrdiff_t ahead =
        llm__unit_at(tile->session, next, tile->layer, tile->kv_head).k - u.k;
    uint32_t first = 0, end = tile->count;
    size_t at;
    llm__weights w;
    while (llm__last_seen(b, tile, first) < start) first++;
    while (llm__first_seen(b, tile, end - 1) >= start + LLM__PAGE_POSITIONS) end--;
    for (at = (size_t)(u.k_times - u.k); at < llm__unit_size(&b->shape, b->kv); at += LLM__LINE)
        llm__prefetch(u.k + ahead + at); /* the next page's scales */
    if (b->kv == LLM_KV_Q4) llm__unpack_scales(b, &u, lane);
    at = llm__query_at(b, tile->kv_head, tile->first + first) * n;
    if (llm__integer_kv(b->kv)) {
        ptrdiff_t next_keys = ahead;
        const int8_t *k = llm__page_keys(b, &u, lane, &next_keys);
        b->kernels.scores_q8(w.score[first], b->q16 + at, k, n, end - first, next_keys);
    } else {
        b->kernels.scores_f16(w.score[first], b->q32 + at, (const uint16_t *)(const void *)u.k, n,
                              end - first);
    }
    llm__weigh_page(b, tile, &u, start, first, end, &w, run);
    llm__add_values(b, &u, &w, first, end, sums, ahead, lane);
}

/* A chunk of pages into sums that begin with it. */
static void llm__attend_chunk(const llm_batch *b, const llm__tile *tile, uint32_t chunk, float *sums,
                              llm__running *run, uint32_t lane) {
    const uint32_t end = llm__least((chunk + 1) * LLM__CHUNK_PAGES, tile->last_page + 1);
    uint32_t page = chunk * LLM__CHUNK_PAGES;
    if (page < tile->first_page) page = tile->first_page;
    memset(sums, 0, (size_t)tile->count * b->shape.value * sizeof *sums);
    memset(run, 0, tile->count * sizeof *run);
    for (; page < end; page++)
        llm__attend_page(b, tile, page, llm__least(page + 1, tile->last_page), sums, run, lane);
}

/* A chunk's sums into those of all chunks before it. */
static void llm__add_chunk(const llm_batch *b, const llm__tile *tile, float *total,
                           llm__running *total_run, const float *sums, const llm__running *run) {
    const uint32_t n = b->shape.value;
    float keep, take;
    uint32_t i;
    for (i = 0; i < tile->count; i++) {
        if (!run[i].any) continue;
        llm__merge(&total_run[i], run[i].most, run[i].weight, &keep, &take);
        b->kernels.blend(total + (size_t)i * n, keep, sums + (size_t)i * n, take, n);
    }
}

/* The sums and their state that a tile keeps for a chunk that is an item of its own. */
LLM__INLINE size_t llm__part_at(const llm_batch *b, const llm__tile *tile, uint32_t chunk) {
    const size_t queries = (size_t)b->used_rows * b->shape.group;
    return ((size_t)chunk * b->model->desc->kv_heads + tile->kv_head) * queries + tile->first;
}

/* All chunks of a tile, computed here or, if they were items, elsewhere: what the heads give. */
static void llm__attend_tile(const llm_batch *b, const llm__tile *tile, bool parts, uint32_t lane) {
    const llm__file_desc *d = b->model->desc;
    const uint32_t n = b->shape.value, group = b->shape.group;
    float *total = b->own[lane].scratch;
    float *sums = total + (size_t)LLM__QUERIES * n;
    llm__running total_run[LLM__QUERIES], run[LLM__QUERIES];
    uint32_t chunk, i;
    memset(total, 0, (size_t)tile->count * n * sizeof *total);
    memset(total_run, 0, sizeof total_run);
    for (chunk = tile->first_page / LLM__CHUNK_PAGES; chunk <= tile->last_page / LLM__CHUNK_PAGES;
         chunk++) {
        const size_t part = llm__part_at(b, tile, chunk);
        if (!parts) llm__attend_chunk(b, tile, chunk, sums, run, lane);
        llm__add_chunk(b, tile, total, total_run, parts ? b->part + part * n : sums,
                       parts ? b->part_run + part : run);
    }
    for (i = 0; i < tile->count; i++, total += n) {
        const uint32_t row = (tile->first + i) / group;
        const uint32_t h = tile->kv_head * group + (tile->first + i) % group;
        b->kernels.blend(total, llm__recip(total_run[i].weight), total, 0.0f, n);
        memcpy(b->attention + (size_t)row * b->shape.attention + (size_t)h * d->value_size, total,
               d->value_size * sizeof *total);
    }
}

static void llm__attend_queries(const llm_batch *b, uint32_t layer, uint32_t kv_head, uint32_t at,
                                uint32_t end, uint32_t lane) {
    llm__tile tile;
    for (; at < end; at += tile.count) {
        tile = llm__tile_at(b, layer, kv_head, at, end);
        llm__attend_tile(b, &tile, b->split.chunks > 1, lane);
    }
}

/* The first page that a row sees is asked for while its queries are made. */
static void llm__fetch_page(const llm_batch *b, uint32_t layer, uint32_t row, uint32_t kv_head) {
    const uint32_t group = b->shape.group;
    const llm__tile tile = llm__tile_at(b, layer, kv_head, row * group, row * group + group);
    const llm__unit u = llm__unit_at(tile.session, tile.first_page, layer, kv_head);
    const size_t keys = llm__codes_size(b->shape.head, b->kv);
    const size_t values = llm__codes_size(b->shape.value, b->kv);
    size_t at;
    for (at = 0; at < keys; at += LLM__LINE) llm__prefetch(u.k + at);
    for (at = 0; at < values; at += LLM__LINE) llm__prefetch(u.v + at);
}

/* A share of a row's queries of a kv head. The first makes key and value, which the others need:
   what is not there in time they leave to it, and it does that as well. */
static void llm__attend_share(const llm_batch *b, uint32_t layer, uint32_t number, uint32_t share,
                              uint32_t lane) {
    const uint32_t group = b->shape.group, shares = b->split.shares;
    const uint32_t kv_head = number / b->split.tiles, row = number % b->split.tiles;
    uint32_t *arrived = &b->arrived[number];
    uint32_t i, was;
    llm__fetch_page(b, layer, row, kv_head);
    if (share) {
        llm__queries(b, layer, row, kv_head, share * group / shares, (share + 1) * group / shares);
        for (i = 0; i < LLM__SHORT_WAIT && !(llm__load32(arrived) & 1); i++) llm__relax();
    } else {
        llm__key_value(b, layer, row, kv_head);
    }
    was = llm__fetch_add32(arrived, (uint32_t)1 << share);
    if ((was | (uint32_t)1 << share) == ((uint32_t)1 << shares) - 1) llm__store32(arrived, 0);
    if (!share) llm__queries(b, layer, row, kv_head, 0, group / shares);
    for (i = share; i < shares; i++) {
        if (i == share ? !share || (was & 1) : !share && (was >> i & 1))
            llm__attend_queries(b, layer, kv_head, row * group + i * group / shares,
                                row * group + (i + 1) * group / shares, lane);
    }
}

/* An item: queries of a kv head, all their positions or a chunk of these. Who finishes the last
   chunk puts them together. */
static void llm__attend(const llm_batch *b, const llm__step *step, uint32_t item, uint32_t lane) {
    const llm__split *split = &b->split;
    const uint32_t chunk = item % split->chunks, number = item / split->chunks;
    const uint32_t kv_head = number / split->tiles, begin = number % split->tiles * split->queries;
    const uint32_t end = llm__least(begin + split->queries, b->used_rows * b->shape.group);
    if (split->fused) {
        llm__fetch_page(b, step->layer, begin / b->shape.group, kv_head);
        llm__queries(b, step->layer, begin / b->shape.group, kv_head, 0, b->shape.group);
        llm__key_value(b, step->layer, begin / b->shape.group, kv_head);
    }
    if (split->chunks > 1) {
        llm__tile tile;
        uint32_t at;
        for (at = begin; at < end; at += tile.count) {
            tile = llm__tile_at(b, step->layer, kv_head, at, end);
            if (chunk >= tile.first_page / LLM__CHUNK_PAGES &&
                chunk <= tile.last_page / LLM__CHUNK_PAGES) {
                const size_t part = llm__part_at(b, &tile, chunk);
                llm__attend_chunk(b, &tile, chunk, b->part + part * b->shape.value,
                                  b->part_run + part, lane);
            }
        }
        if (llm__fetch_add32(&b->arrived[number], 1) + 1 < split->chunks) return;
        llm__store32(&b->arrived[number], 0);
    }
    llm__attend_queries(b, step->layer, kv_head, begin, end, lane);
}

/* Scales and caps a row of logits. */
static void llm__cap(const llm_batch *b, uint32_t item) {
    const llm__file_desc *d = b->model->desc;
    float *logits = b->logits + (size_t)item * b->shape.vocab;
    b->kernels.cap(logits, b->shape.vocab, d->logit_scale, d->logit_softcap);
    llm__put_logits(logits, logits, d->vocab);
}

/* ---- what an item looks at in the file ---- */

static const float *llm__vector(const llm_model *m, uint32_t layer, uint32_t role) {
    return (const float *)(const void *)llm__tensor_at(m, layer, role)->data;
}

static llm_result llm__need_panels(const llm_batch *b, const llm__step *step, uint32_t item,
                                   llm_error *error) {
    const uint32_t rows = step->last ? b->used_logits : b->used_rows;
    const uint32_t blocks = (rows + LLM__ROWS_AT_ONCE - 1) / LLM__ROWS_AT_ONCE;
    const uint32_t at = item / blocks * step->per_item, end = at + step->per_item;
    uint32_t i, first = 0, p;
    for (i = 0; i < step->parts; first += step->part[i++].panels) {
        const llm__part *part = &step->part[i];
        const llm__tensor *w = part->weight;
        const size_t size = llm__panel_size(w->type, llm__padded(w->cols));
        const uint32_t last = llm__least(end, first + part->panels);
        if (at >= last || end <= first) continue;
        p = at > first ? at - first : 0;
        if (llm__need(b->model, w->data + p * size, (last - first - p) * size, error) ||
            llm__need(b->model, part->bias ? part->bias + 16 * p : NULL,
                      (size_t)(last - first - p) * 16 * sizeof(float), error))
            return LLM_ERROR_IO;
    }
    return LLM_OK;
}

/* Vectors count with the rest of their last line, which leaves may read. */
static llm_result llm__need_vector(const llm_batch *b, const void *data, uint32_t n,
                                   llm_error *error) {
    return llm__need(b->model, data, (size_t)llm__up(n, 16) * sizeof(float), error);
}

static llm_result llm__need_gains(const llm_batch *b, const llm__step *input, llm_error *error) {
    if (llm__need_vector(b, input->gain, input->width, error)) return LLM_ERROR_IO;
    return llm__need_vector(b, input->post_gain, b->model->desc->width, error);
}

static llm_result llm__need_item(const llm_batch *b, const llm__step *step, uint32_t item,
                                 llm_error *error) {
    const llm_model *m = b->model;
    const llm__tensor *t;
    size_t size;
    uint32_t token, i;
    switch (step->op) {
    case LLM__OP_EMBED:
        token = (uint32_t)b->row[item].token;
        t = llm__embedding_of(m, &token);
        size = llm__panel_size(t->type, llm__padded(t->cols));
        for (i = 0; i < m->desc->ropes; i++)
            if (llm__need(m, m->rope[i].data, (size_t)m->rope[i].cols * 8, error))
                return LLM_ERROR_IO;
        return llm__need(m, t->data + token / 16 * size, size, error);
    case LLM__OP_INPUT: return llm__need_gains(b, step, error);
    case LLM__OP_LOW:
    case LLM__OP_MATMUL: /* which may make the input of a step before */
        if (llm__makes_own(b, step) && llm__need_gains(b, &b->step[step->input], error))
            return LLM_ERROR_IO;
        return step->op == LLM__OP_LOW ? LLM_OK : llm__need_panels(b, step, item, error);
    case LLM__OP_HEADS:
    case LLM__OP_ATTEND:
        for (i = LLM__Q_NORM; i <= LLM__K_NORM; i++)
            if (llm__need_vector(b, llm__vector(m, step->layer, i), m->desc->head_size, error))
                return LLM_ERROR_IO;
        return LLM_OK;
    default: return LLM_OK;
    }
}

/* The first lane that cannot read says so for all. */
static bool llm__read_for_item(llm_batch *b, const llm__step *step, uint32_t item) {
    llm_error why;
    if (!llm__need_item(b, step, item, &why)) return true;
    if (!llm__exchange32(&b->run.failed, 1)) b->error = why;
    return false;
}

/* The host's function may use registers that kernels set up. */
static bool llm__read_outside(llm_batch *b, const llm__step *step, uint32_t item) {
    bool read;
    if (b->kernels.leave) b->kernels.leave();
    read = llm__read_for_item(b, step, item);
    if (b->kernels.enter) b->kernels.enter();
    return read;
}

static bool llm__run_item(void *user, uint32_t number, uint32_t item, uint32_t lane) {
    llm_batch *b = LLM__CAST(llm_batch *, user);
    const llm__step *step = &b->step[number];
    uint32_t at;
    if (b->model->read && !llm__read_outside(b, step, item)) return false;
    switch (step->op) {
    case LLM__OP_EMBED: llm__embed(b, item); break;
    case LLM__OP_INPUT: llm__shared_input(b, step, item, lane); break;
    case LLM__OP_LOW:
        llm__low_item(b, step,
                      llm__makes_own(b, step) ? llm__own_input(b, number, item, lane) : &b->in,
                      item, lane);
        break;
    case LLM__OP_MATMUL:
        llm__matmul(b, step,
                    llm__makes_own(b, step) ? llm__own_input(b, number, item, lane) : &b->in, item,
                    step->last ? b->used_logits : b->used_rows, lane);
        break;
    case LLM__OP_HEADS:
        at = item % b->model->desc->kv_heads, item /= b->model->desc->kv_heads;
        llm__queries(b, step->layer, item, at, 0, b->shape.group);
        llm__key_value(b, step->layer, item, at);
        break;
    case LLM__OP_ATTEND:
        at = b->model->desc->kv_heads * b->split.tiles;
        if (b->split.shares > 1) llm__attend_share(b, step->layer, item % at, item / at, lane);
        else llm__attend(b, step, item, lane);
        break;
    default: llm__cap(b, item); break;
    }
    return true;
}

/* While a lane waits for others: the first lines of what it reads next. */
static void llm__fetch_ahead(void *user, uint32_t number, uint32_t item) {
    const llm_batch *b = LLM__CAST(const llm_batch *, user);
    const llm__step *step = &b->step[number];
    const uint32_t rows = step->last ? b->used_logits : b->used_rows;
    const llm__tensor *w;
    uint32_t panel, i = 0;
    size_t size, at;
    if (step->op != LLM__OP_MATMUL) return;
    panel = item / ((rows + LLM__ROWS_AT_ONCE - 1) / LLM__ROWS_AT_ONCE) * step->per_item;
    while (panel >= step->part[i].panels) panel -= step->part[i++].panels;
    w = step->part[i].weight;
    size = llm__panel_size(w->type, llm__padded(w->cols));
    for (at = 0; at < LLM__AHEAD_BYTES && at < size; at += LLM__LINE)
        llm__prefetch(w->data + panel * size + at);
}

/* ---- compiling the plan ---- */
LLM__SMALL

#define LLM__STEPS_PER_LAYER    10u
#define LLM__MATRICES_PER_LAYER 6u
#define LLM__LOW_STEPS          4u /* more where there may be adapters */
#define LLM__ITEM_BYTES         8192u /* least weight bytes of a matmul item for several lanes, */
#define LLM__MANY_ROWS          16u   /* with fewer rows than this */

static llm__step *llm__new_step(llm_batch *b, uint32_t op, uint32_t layer) {
    llm__step *step = &b->step[b->steps++];
    memset(step, 0, sizeof *step);
    step->op = (uint8_t)op;
    step->layer = layer;
    return step;
}

/* An input for the matmul that comes next; `basis` is the rotation that its source already has. */
static llm__step *llm__plan_input(llm_batch *b, uint32_t layer, uint32_t from, uint32_t width,
                                  uint32_t basis) {
    llm__step *step = llm__new_step(b, LLM__OP_INPUT, layer);
    step->from = (uint8_t)from;
    step->width = width;
    step->unrotate = basis;
    step->x = step->next = b->stream;
    return step;
}

/* The block before has a norm of its own (or NULL): this input finishes the stream. All lanes may
   read a row of it while one writes it, so it goes to the other of two places. */
static void llm__plan_post_norm(llm_batch *b, llm__step *input, const float *gain) {
    input->post_gain = gain;
    if (gain) b->stream = b->stream == b->x ? b->x_too : b->x;
    input->next = b->stream;
}

/* Between an input and its matmul, which has `lows` matrices that adapters may change. */
static void llm__plan_low(llm_batch *b, uint32_t low, uint32_t lows) {
    const uint32_t input = b->steps - 1;
    llm__step *step;
    if (!b->adapter_rank) return;
    step = llm__new_step(b, LLM__OP_LOW, b->step[input].layer);
    step->input = input;
    step->low = low, step->lows = lows;
}

static llm__step *llm__plan_matmul(llm_batch *b, uint32_t layer, uint32_t to, float *out,
                                   uint32_t stride) {
    const llm__step *before = &b->step[b->steps - 1];
    llm__step *step = llm__new_step(b, LLM__OP_MATMUL, layer);
    step->input = before->op == LLM__OP_LOW ? before->input : b->steps - 2;
    step->low = before->low, step->lows = before->lows;
    step->to = (uint8_t)to;
    step->out = out;
    step->out_stride = stride;
    return step;
}

static void llm__plan_part(llm_batch *b, llm__step *input, llm__step *step,
                           const llm__tensor *weight, const float *bias, uint32_t column) {
    llm__part *part = &b->matrix[b->matrices++];
    const uint32_t size = (uint32_t)llm__panel_size(weight->type, llm__padded(weight->cols));
    uint32_t least = (b->lanes > 1 ? LLM__ITEM_BYTES : 2 * LLM__ITEM_BYTES) / size + 1;
    if (!step->parts++) step->part = part;
    part->weight = weight;
    part->bias = bias;
    part->column = column;
    part->panels = (weight->rows + 15) / 16;
    step->panels += part->panels;
    if (least > step->planned) step->planned = least;
    if (llm__formats[weight->type].size) {
        input->want_float = true;
    } else {
        input->want_int = true;
        input->rotate = weight->rotation; /* equal in all parts, see llm__check_model */
    }
}

static void llm__plan_layer(llm_batch *b, uint32_t layer) {
    const llm_model *m = b->model;
    const llm__file_desc *d = m->desc;
    const llm__tensor *t = llm__tensor_at(m, layer, 0), *v = &t[LLM__V];
    const uint32_t basis = v->row_rotation           ? v->row_rotation
                           : llm__integer_kv(b->kv) ? b->shape.v_rotation
                                                     : 0;
    llm__step *input, *step;

    input = llm__plan_input(b, layer, LLM__FROM_STREAM, d->width, 0);
    input->gain = llm__vector(m, layer, LLM__ATTN_NORM);
    input->begins = true;
    if (layer) llm__plan_post_norm(b, input, llm__vector(m, layer - 1, LLM__FFN_POST_NORM));
    llm__plan_low(b, LLM__LOW_Q, 3);
    step = llm__plan_matmul(b, layer, LLM__TO_STORE, b->qkv, b->shape.qkv);
    llm__plan_part(b, input, step, &t[LLM__Q], llm__vector(m, layer, LLM__Q_BIAS), 0);
    llm__plan_part(b, input, step, &t[LLM__K], llm__vector(m, layer, LLM__K_BIAS), b->shape.k_at);
    llm__plan_part(b, input, step, &t[LLM__V], llm__vector(m, layer, LLM__V_BIAS), b->shape.v_at);
    llm__new_step(b, LLM__OP_HEADS, layer);
    llm__new_step(b, LLM__OP_ATTEND, layer);

    input = llm__plan_input(b, layer, LLM__FROM_ATTENTION, d->heads * d->value_size, basis);
    input->gain = llm__vector(m, layer, LLM__ATTN_SUB_NORM);
    llm__plan_low(b, LLM__LOW_OUT, 1);
    step = t[LLM__ATTN_POST_NORM].data
               ? llm__plan_matmul(b, layer, LLM__TO_STORE, b->y, b->shape.stream)
               : llm__plan_matmul(b, layer, LLM__TO_ADD, b->stream, b->shape.stream);
    llm__plan_part(b, input, step, &t[LLM__ATTN_OUT], llm__vector(m, layer, LLM__ATTN_OUT_BIAS), 0);

    input = llm__plan_input(b, layer, LLM__FROM_STREAM, d->width, 0);
    input->gain = llm__vector(m, layer, LLM__FFN_NORM);
    llm__plan_post_norm(b, input, llm__vector(m, layer, LLM__ATTN_POST_NORM));
    llm__plan_low(b, LLM__LOW_GATE, 2);
    step = llm__plan_matmul(b, layer, LLM__TO_GATE, b->hidden, b->shape.hidden);
    llm__plan_part(b, input, step, &t[LLM__GATE_UP], llm__vector(m, layer, LLM__GATE_UP_BIAS), 0);
    step->planned = llm__up(step->planned, 2);

    input = llm__plan_input(b, layer, LLM__FROM_HIDDEN, d->ffn, 0);
    input->gain = llm__vector(m, layer, LLM__FFN_SUB_NORM);
    llm__plan_low(b, LLM__LOW_DOWN, 1);
    step = t[LLM__FFN_POST_NORM].data
               ? llm__plan_matmul(b, layer, LLM__TO_STORE, b->y, b->shape.stream)
               : llm__plan_matmul(b, layer, LLM__TO_ADD, b->stream, b->shape.stream);
    llm__plan_part(b, input, step, &t[LLM__DOWN], llm__vector(m, layer, LLM__DOWN_BIAS), 0);
}

static void llm__plan(llm_batch *b) {
    const llm_model *m = b->model;
    const llm__file_desc *d = m->desc;
    const llm__tensor *head = m->vocab[m->vocab[1]->rows > 0];
    const float *bias = llm__vector(m, LLM__NONE, LLM__HEAD_BIAS);
    llm__step *input, *step;
    uint32_t layer, i, row = 0;
    b->steps = b->matrices = 0;
    b->stream = b->x;
    llm__new_step(b, LLM__OP_EMBED, 0);
    for (layer = 0; layer < d->layers; layer++) llm__plan_layer(b, layer);
    input = llm__plan_input(b, d->layers, LLM__FROM_STREAM, d->width, 0);
    input->gain = llm__vector(m, LLM__NONE, LLM__OUT_NORM);
    llm__plan_post_norm(b, input, llm__vector(m, d->layers - 1, LLM__FFN_POST_NORM));
    input->last = true;
    step = llm__plan_matmul(b, d->layers, LLM__TO_STORE, b->logits, b->shape.vocab);
    for (i = 0; i < LLM__VOCAB_PARTS && head[i].rows; row += head[i++].rows)
        llm__plan_part(b, input, step, &head[i], bias ? bias + row : NULL, row);
    step->last = true;
    if (d->logit_softcap > 0 || llm__bits(d->logit_scale) != llm__bits(1.0f))
        llm__new_step(b, LLM__OP_CAP, d->layers)->last = true;
    for (i = 0; m->read && i < b->steps; i++) { /* as large as a read, but some eight per lane */
        const llm__tensor *w = b->step[i].parts ? b->step[i].part->weight : NULL;
        uint32_t groups = b->step[i].panels / (8 * b->lanes);
        if (!w) continue;
        groups = llm__least(groups, (uint32_t)(LLM_READ_MOST /
                                               llm__panel_size(w->type, llm__padded(w->cols))));
        if (groups > b->step[i].planned) b->step[i].planned = llm__up(groups, 2);
    }
}

/* A tile for each row where every session has one, so that a step is saved. Positions are cut where
   there are too few items for the lanes, which costs that step again. Queries that share a key head
   are cut only where lanes would have nothing to do: each share reads all keys and values. */
static void llm__split_attention(llm_batch *b) {
    const uint32_t group = b->shape.group, kv_heads = b->model->desc->kv_heads;
    const bool alone = b->used_rows == b->entries;
    llm__split *split = &b->split;
    uint32_t i, items, last = 0;
    for (i = 0; i < b->used_rows; i++)
        if (b->row[i].position > last) last = b->row[i].position;
    split->queries = alone ? group : LLM__QUERIES;
    split->tiles = (b->used_rows * group + split->queries - 1) / split->queries;
    split->chunks = last / LLM__CHUNK_POSITIONS + 1;
    items = kv_heads * split->tiles;
    if (items >= 4 * b->lanes || b->used_rows * split->chunks > b->most_parts)
        split->chunks = 1;
    split->fused = alone && split->chunks == 1;
    split->shares = 1;
    if (split->fused && items < b->lanes && b->used_rows <= b->most_parts)
        split->shares = llm__least(llm__least((b->lanes + items - 1) / items, group), 16);
    memset(b->arrived, 0, (size_t)b->most_parts * b->model->desc->heads * sizeof *b->arrived);
}

static bool llm__same_adapters(const llm_session *s, const llm_session *t) {
    return s->adapters == t->adapters &&
           !memcmp(s->adapter, t->adapter, s->adapters * sizeof *s->adapter) &&
           !memcmp(s->weight, t->weight, s->adapters * sizeof *s->weight);
}

/* Which rows have adapters. Neighbours with the same ones go together: B and A are read once. */
static void llm__find_adapted(llm_batch *b) {
    uint32_t i, row, now;
    b->adapteds = b->low_panels = 0;
    for (i = 0; i < b->entries && b->adapter_rank; i++) {
        const llm__entry *e = &b->entry[i];
        const llm_session *s = e->session;
        if (s->adapter_rank / 16 > b->low_panels) b->low_panels = s->adapter_rank / 16;
        for (row = e->first; row < e->first + e->count && s->adapters; row += now) {
            llm__adapted *to = &b->adapted[b->adapteds - (b->adapteds > 0)];
            if (!b->adapteds || to->first + to->count < row || to->count == LLM__ROWS_AT_ONCE ||
                !llm__same_adapters(to->session, s)) {
                to = &b->adapted[b->adapteds++];
                to->session = s, to->first = row, to->count = 0;
            }
            now = llm__least(e->first + e->count - row, LLM__ROWS_AT_ONCE - to->count);
            to->count += now;
        }
    }
}

/* Items of every step for the rows at hand. */
static void llm__count_items(llm_batch *b) {
    uint32_t i;
    llm__split_attention(b);
    llm__find_adapted(b);
    for (i = 0; i < b->steps; i++) {
        llm__step *step = &b->step[i];
        const uint32_t rows = step->last ? b->used_logits : b->used_rows;
        const uint32_t blocks = (rows + LLM__ROWS_AT_ONCE - 1) / LLM__ROWS_AT_ONCE;
        switch (step->op) {
        case LLM__OP_MATMUL: /* with many rows a panel is enough to do; gate and up are two */
            step->per_item = b->model->read || rows < LLM__MANY_ROWS ? step->planned
                             : step->to == LLM__TO_GATE              ? 2
                                                                     : 1;
            b->count[i] = (step->panels + step->per_item - 1) / step->per_item * blocks;
            break;
        case LLM__OP_HEADS:
            b->count[i] = b->split.fused ? 0 : rows * b->model->desc->kv_heads;
            break;
        case LLM__OP_ATTEND:
            b->count[i] = b->model->desc->kv_heads * b->split.tiles * b->split.chunks *
                          b->split.shares;
            break;
        case LLM__OP_INPUT: b->count[i] = llm__makes_own(b, step) ? 0 : rows; break;
        case LLM__OP_LOW: b->count[i] = b->adapteds * step->lows * b->low_panels; break;
        default: b->count[i] = rows; break;
        }
    }
}

/* ======================================================================== */
/* >>evaluate: batches and sessions                                          */
/* ======================================================================== */

/* ---- memory: one walk that measures, and the same walk that hands out ---- */

typedef struct llm__arena {
    uint8_t *base; /* NULL: measure only */
    size_t used;
    bool overflow;
} llm__arena;

static void *llm__take(llm__arena *arena, size_t count, size_t size) {
    size_t bytes, at = arena->used;
    if (!llm__mul(count, size, &bytes) || !llm__add(bytes, 63, &bytes) ||
        !llm__add(at, bytes / 64 * 64, &arena->used)) {
        arena->overflow = true;
        return NULL;
    }
    return arena->base ? arena->base + at : NULL;
}
#define LLM__TAKE(type, count) (type *)llm__take(arena, count, sizeof(type))

/* ---- batch ---- */

static void llm__lay_out_input(const llm__shape *s, llm__input *in, size_t rows,
                               llm__arena *arena) {
    in->stride = s->input;
    in->distant = llm__asks_from_afar();
    in->q = LLM__TAKE(int8_t, rows * s->input);
    in->wide = LLM__TAKE(int16_t, rows * s->input);
    in->sums = LLM__TAKE(int16_t, rows * (s->input / 16));
    in->total = LLM__TAKE(int32_t, rows * (s->input / 64));
    in->scale = LLM__TAKE(float, rows *(s->input / 64));
    in->x = LLM__TAKE(float, rows * s->input);
}

static void llm__lay_out_own(const llm_batch *b, llm__own *own, llm__arena *arena) {
    const llm__shape *s = &b->shape;
    size_t scratch = (b->adapter_rank ? 48u : 32u) * (size_t)llm__least(b->rows, LLM__ROWS_AT_ONCE);
    if (scratch < s->input) scratch = s->input;
    if (scratch < 2 * LLM__QUERIES * (size_t)s->value) scratch = 2 * LLM__QUERIES * (size_t)s->value; /* sums of a tile */
    llm__lay_out_input(s, &own->in, 1, arena);
    own->stream = LLM__TAKE(float, s->stream);
    own->scratch = LLM__TAKE(float, scratch);
    if (b->kv == LLM_KV_Q4) {
        own->unpacked = LLM__TAKE(int8_t, LLM__PAGE_POSITIONS *(size_t)(s->head > s->value ? s->head : s->value));
        own->unpacked_scale = LLM__TAKE(float, 2 * LLM__PAGE_POSITIONS);
    }
}

static void llm__lay_out_batch(llm_batch *b, llm__arena *arena) {
    const llm__file_desc *d = b->model->desc;
    const llm__shape *s = &b->shape;
    const size_t rows = b->rows, low = LLM__LOW_INPUTS * (size_t)b->adapter_rank;
    const size_t steps =
        4 + (size_t)d->layers * (LLM__STEPS_PER_LAYER + (low ? LLM__LOW_STEPS : 0));
    size_t parts;
    llm__own measured;
    uint32_t i;
    b->entry = LLM__TAKE(llm__entry, rows);
    b->row = LLM__TAKE(llm__row, rows);
    b->wanted = LLM__TAKE(uint32_t, b->most_logits);
    b->step = LLM__TAKE(llm__step, steps);
    b->count = LLM__TAKE(uint32_t, steps);
    b->matrix =
        LLM__TAKE(llm__part, LLM__VOCAB_PARTS + (size_t)d->layers * LLM__MATRICES_PER_LAYER);
    b->adapted = LLM__TAKE(llm__adapted, low ? rows : 0);
    b->low = LLM__TAKE(float, rows * low);
    b->x = LLM__TAKE(float, rows * s->stream);
    b->x_too = LLM__TAKE(float, rows * s->stream);
    b->y = LLM__TAKE(float, rows * s->stream);
    b->qkv = LLM__TAKE(float, rows * s->qkv);
    b->attention = LLM__TAKE(float, rows * s->attention);
    b->hidden = LLM__TAKE(float, rows * s->hidden);
    b->turns = LLM__TAKE(float, rows * s->turn * d->ropes);
    if (llm__integer_kv(b->kv)) {
        b->q16 = LLM__TAKE(int16_t, rows * d->heads * s->head);
        b->q_scale = LLM__TAKE(float, rows * d->heads);
    } else {
        b->q32 = LLM__TAKE(float, rows * d->heads * s->head);
    }
    if (b->lanes > 1) { /* positions are cut for other lanes only */
        b->most_parts = llm__least(d->context / LLM__CHUNK_POSITIONS, LLM__PARTS_MOST);
        if (b->most_parts < LLM__PARTS_LEAST) b->most_parts = LLM__PARTS_LEAST;
    }
    parts = (size_t)b->most_parts * d->heads;
    b->part = LLM__TAKE(float, parts * s->value);
    b->part_run = LLM__TAKE(llm__running, parts);
    b->arrived = LLM__TAKE(uint32_t, parts);
    llm__lay_out_input(s, &b->in, rows, arena);
    b->run.share = LLM__TAKE(llm__share, b->lanes);
    b->own = LLM__TAKE(llm__own, b->lanes);
    for (i = 0; i < b->lanes; i++)
        llm__lay_out_own(b, b->own ? &b->own[i] : &measured, arena);
    b->logits = LLM__CAST(float *, llm__take(arena, b->most_logits, s->vocab * sizeof(float)));
}

/* Checks a descriptor and fills in its defaults. */
static llm_result llm__resolve_batch(llm_batch_desc *d, const char *what) {
    llm_error *error = d->error;
    llm__kernels kernels;
    if (!d->model) return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: model is NULL", what);
    if (!d->rows) d->rows = 128;
    if (d->rows > 1024)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: rows is %u, not in 0 .. 1024", what,
                         (unsigned)d->rows);
    if (!d->logits) d->logits = llm__least(d->rows, 16);
    if (d->logits > d->rows)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: logits is %u, not in 0 .. rows, %u", what,
                         (unsigned)d->logits, (unsigned)d->rows);
    if ((unsigned)d->kv >= LLM_KV_COUNT)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: kv is %d, not in 0 .. %d", what,
                         (int)d->kv, LLM_KV_COUNT - 1);
    if (d->adapter_rank > LLM_ADAPTERS_MOST * 1024)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "%s: adapter_rank is %u, not in 0 .. %u", what,
                         (unsigned)d->adapter_rank, LLM_ADAPTERS_MOST * 1024);
    d->adapter_rank = llm__up(d->adapter_rank, 16);
    if (!llm__kernels_by_name(d->isa, &kernels, error)) return LLM_ERROR_UNSUPPORTED;
    d->isa = kernels.name; /* the host's string need not outlive the call */
    return LLM_OK;
}

/* Everything of an evaluator but the block itself, from a resolved descriptor. */
static void llm__set_batch(llm_batch *b, const llm_batch_desc *d) {
    memset(b, 0, sizeof *b);
    b->allocator = d->allocator;
    b->model = d->model;
    b->pool = d->pool;
    (void)llm__kernels_by_name(d->isa, &b->kernels, NULL);
    b->rows = d->rows;
    b->most_logits = d->logits;
    b->kv = d->kv;
    b->adapter_rank = d->adapter_rank;
    b->lanes = llm_pool_threads(d->pool);
    b->shape = llm__shape_of(d->model->desc);
}

/* Inside memory that is zeroed. */
static void llm__make_batch(llm_batch *b, const llm_batch_desc *d, llm__arena *arena) {
    llm__set_batch(b, d);
    llm__lay_out_batch(b, arena);
    llm__plan(b);
}

static void llm__measure_batch(const llm_batch_desc *d, llm__arena *arena) {
    llm_batch b;
    llm__set_batch(&b, d);
    (void)llm__take(arena, 1, sizeof b);
    llm__lay_out_batch(&b, arena);
}

LLM_API llm_result llm_batch_query(const llm_batch_desc *desc, llm_batch_desc *resolved,
                                   size_t *bytes) {
    llm__arena arena = {NULL, 0, false};
    llm_batch_desc d;
    llm_result r;
    if (!desc) return LLM_ERROR_ARGUMENT;
    d = *desc;
    if ((r = llm__resolve_batch(&d, "batch")) != LLM_OK) return r;
    llm__measure_batch(&d, &arena);
    if (arena.overflow)
        return llm__fail(d.error, LLM_ERROR_MEMORY,
                         "batch: its size passes that of the address space");
    if (resolved) *resolved = d;
    if (bytes) *bytes = arena.used;
    return LLM_OK;
}

LLM_API llm_result llm_batch_create(llm_batch **batch, const llm_batch_desc *desc) {
    llm__arena arena = {NULL, 0, false};
    llm_batch_desc d;
    llm_batch *b;
    llm_result r;
    size_t size = 0; /* GCC does not see that the query sets it */
    if (!batch) return LLM_ERROR_ARGUMENT;
    *batch = NULL;
    if (!desc) return LLM_ERROR_ARGUMENT;
    d = *desc;
    if ((r = llm_batch_query(desc, &d, &size)) != LLM_OK) return r;
    arena.base = LLM__CAST(uint8_t *, llm__allocate(&d.allocator, size));
    if (!arena.base)
        return llm__fail(d.error, LLM_ERROR_MEMORY, "batch: no memory for %zu bytes", size);
    memset(arena.base, 0, size);
    b = LLM__CAST(llm_batch *, llm__take(&arena, 1, sizeof *b));
    llm__make_batch(b, &d, &arena);
    b->memory = size;
    *batch = b;
    return LLM_OK;
}

/* Forgets the evaluation at hand; its sessions stay where they were before it. */
static void llm__drop_batch(llm_batch *b) {
    uint32_t i;
    for (i = 0; i < b->entries; i++) {
        llm_session *s = b->entry[i].session;
        if (!b->finished) s->busy = NULL, s->fed = s->position;
    }
    b->entries = b->used_rows = b->used_logits = 0;
    b->running = b->finished = false;
}

LLM_API void llm_batch_destroy(llm_batch *batch) {
    llm_allocator allocator;
    if (!batch) return;
    llm__drop_batch(batch);
    allocator = batch->allocator;
    llm__release(&allocator, batch, batch->memory);
}

LLM_API const llm_error *llm_batch_error(const llm_batch *batch) {
    static const llm_error none = {LLM_ERROR_ARGUMENT, "batch is NULL"};
    return batch ? &batch->error : &none;
}

/* Adds tokens that already stand in the session's timeline, from its position on. */
static void llm__add_rows(llm_batch *b, llm_session *s, uint32_t count, uint32_t logits) {
    llm__entry *e = &b->entry[b->entries++];
    uint32_t i;
    e->session = s;
    e->first = b->used_rows, e->count = count;
    e->first_logits = b->used_logits, e->logits = logits;
    for (i = 0; i < count; i++) {
        llm__row *row = &b->row[b->used_rows++];
        row->session = s;
        row->position = s->position + i;
        row->token = s->token[s->position + i];
        if (i + logits >= count) b->wanted[b->used_logits++] = e->first + i;
    }
    s->busy = b;
}

/* Puts tokens behind what was fed, with pages for them. */
static llm_result llm__extend(llm_session *s, const int32_t *tokens, size_t count,
                              llm_error *error) {
    size_t i;
    if (count && !tokens) return llm__fail(error, LLM_ERROR_ARGUMENT, "feed: tokens is NULL");
    if (count > s->context - s->fed)
        return llm__fail(error, LLM_ERROR_CONTEXT_FULL,
                         "feed: %zu tokens at position %u pass the context of %u; rewind, or open "
                         "a longer session",
                         count, (unsigned)s->fed, (unsigned)s->context);
    for (i = 0; i < count; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->model->desc->vocab)
            return llm__fail(error, LLM_ERROR_ARGUMENT, "feed: token %zu is %d, not in 0 .. %u", i,
                             (int)tokens[i], (unsigned)s->model->desc->vocab - 1);
    if (count && !llm__claim_pages(s, s->fed, s->fed + (uint32_t)count))
        return llm__fail(error, LLM_ERROR_CONTEXT_FULL,
                         "feed: no page left for %zu tokens at position %u; forks share %u pages",
                         count, (unsigned)s->fed, (unsigned)s->store->pages);
    if (count) memcpy(s->token + s->fed, tokens, count * sizeof *tokens);
    s->fed += (uint32_t)count;
    return LLM_OK;
}

LLM_API llm_result llm_batch_add(llm_batch *batch, llm_session *session, const int32_t *tokens,
                                 size_t count, uint32_t logits) {
    llm_batch *b = batch;
    llm_result r;
    if (!b) return LLM_ERROR_ARGUMENT;
    if (b->running)
        return llm__fail(&b->error, LLM_ERROR_BUSY,
                         "add: an evaluation runs; step until it is done");
    if (b->finished) llm__drop_batch(b);
    if (!session) return llm__fail(&b->error, LLM_ERROR_ARGUMENT, "add: session is NULL");
    if (session->model != b->model)
        return llm__fail(&b->error, LLM_ERROR_ARGUMENT, "add: the session is of another model");
    if (session->desc.kv != b->kv)
        return llm__fail(&b->error, LLM_ERROR_ARGUMENT, "add: the session's kv is %d, the batch's %d",
                         (int)session->desc.kv, (int)b->kv);
    if (session->busy || session->fed > session->position)
        return llm__fail(&b->error, LLM_ERROR_BUSY,
                         "add: the session has an evaluation that is not done");
    if (!count) return llm__fail(&b->error, LLM_ERROR_ARGUMENT, "add: count is 0, not 1 or more");
    if (logits > count)
        return llm__fail(&b->error, LLM_ERROR_ARGUMENT, "add: logits is %u, not in 0 .. count, %zu",
                         (unsigned)logits, count);
    if (count > b->rows - b->used_rows || logits > b->most_logits - b->used_logits)
        return llm__fail(&b->error, LLM_ERROR_LIMIT,
                         "add: %zu rows and %u logits do not fit; %u and %u are free", count,
                         (unsigned)logits, (unsigned)(b->rows - b->used_rows),
                         (unsigned)(b->most_logits - b->used_logits));
    if (session->adapter_rank > b->adapter_rank)
        return llm__fail(&b->error, LLM_ERROR_LIMIT,
                         "add: the ranks of the session's adapters sum up to %u, the batch's "
                         "adapter_rank is %u",
                         (unsigned)session->adapter_rank, (unsigned)b->adapter_rank);
    if ((r = llm__extend(session, tokens, count, &b->error)) != LLM_OK) return r;
    session->has_logits = false;
    llm__add_rows(b, session, (uint32_t)count, logits);
    return LLM_OK;
}

static void llm__begin(llm_batch *b) {
    llm__run *run = &b->run;
    llm__count_items(b);
    memset(run->share, 0, b->lanes * sizeof *run->share);
    run->failed = run->done = 0;
    run->lanes = b->lanes;
    run->count = b->count;
    run->steps = b->steps;
    run->enter = b->kernels.enter;
    run->leave = b->kernels.leave;
    run->item = llm__run_item;
    run->ahead = llm__fetch_ahead;
    run->user = b;
    run->pool = b->pool;
    LLM__PROFILED(run->spent = llm__spent;)
    run->step = llm__next_step(run, 0);
    b->running = true;
}

/* Runs what was begun until done, the deadline, or cancelled. */
static llm_result llm__continue(llm_batch *b, uint64_t deadline, uint32_t *cancel) {
    uint32_t i;
    b->run.deadline = deadline;
    b->run.cancel = cancel;
    b->run.stop = b->run.late = b->run.crowded = 0;
    for (i = 0; i < b->lanes; i++) b->own[i].made = 0;
    LLM__PROFILED(b->run.began = llm__now_ns();)
    llm__pool_run(b->pool, llm__run_lane, &b->run);
    if (b->run.step < b->steps) {
        if (!llm__load32(cancel)) {
            b->running = !b->run.failed; /* a failed evaluation begins again */
            return b->running ? LLM_PENDING : LLM_ERROR_IO;
        }
        llm__store32(cancel, 0);
        llm__drop_batch(b);
        return LLM_CANCELLED;
    }
    b->running = false;
    b->finished = true;
    for (i = 0; i < b->entries; i++) {
        llm_session *s = b->entry[i].session;
        s->position += b->entry[i].count;
        s->busy = NULL;
    }
    return LLM_OK;
}

LLM__INLINE uint64_t llm__deadline(uint64_t budget_us) {
    return budget_us ? llm__now() + budget_us : 0;
}

LLM_API llm_result llm_batch_step(llm_batch *batch, uint64_t budget_us) {
    uint32_t entries;
    llm_result r;
    if (!batch) return LLM_ERROR_ARGUMENT;
    if (!batch->running) {
        if (!batch->entries || batch->finished) return LLM_OK;
        llm__begin(batch);
    }
    entries = batch->entries;
    r = llm__continue(batch, llm__deadline(budget_us), &batch->cancel);
    if (r == LLM_CANCELLED)
        llm__fail(&batch->error, r, "step: cancelled; %u sessions are where they were",
                  (unsigned)entries);
    return r;
}

#if defined(LLM_PROFILE)
LLM_API uint32_t llm_batch_profile(llm_batch *batch, uint32_t lane, llm_profile *profile) {
    return llm__take_profile(batch, lane, profile);
}
LLM_API uint32_t llm_session_profile(llm_session *session, uint32_t lane, llm_profile *profile) {
    return llm__take_profile(session ? session->own : NULL, lane, profile);
}
#endif

LLM_API void llm_batch_cancel(llm_batch *batch) {
    if (batch) llm__store32(&batch->cancel, 1);
}

LLM_API const float *llm_batch_logits(const llm_batch *batch, const llm_session *session,
                                      uint32_t back) {
    uint32_t i;
    if (!batch || !batch->finished) return NULL;
    for (i = 0; i < batch->entries; i++) {
        const llm__entry *e = &batch->entry[i];
        if (e->session == session && back < e->logits)
            return batch->logits +
                   (size_t)(e->first_logits + e->logits - 1 - back) * batch->shape.vocab;
    }
    return NULL;
}

/* ---- session ---- */

static void llm__own_batch_desc(const llm_session_desc *s, llm_batch_desc *b) {
    memset(b, 0, sizeof *b);
    b->model = s->model, b->pool = s->pool, b->rows = s->rows, b->logits = s->logits;
    b->kv = s->kv, b->isa = s->isa, b->allocator = s->allocator, b->error = s->error;
    b->adapter_rank = s->adapter_rank;
}

static llm_result llm__resolve_session(llm_session_desc *d) {
    llm_batch_desc b;
    llm_result r;
    if (!d->model) return llm__fail(d->error, LLM_ERROR_ARGUMENT, "session: model is NULL");
    if (!d->context) d->context = llm__least(d->model->desc->context, 4096);
    if (d->context > 1u << 24)
        return llm__fail(d->error, LLM_ERROR_ARGUMENT, "session: context is %u, not in 0 .. %u",
                         (unsigned)d->context, 1u << 24);
    if (d->spare > 1u << 24)
        return llm__fail(d->error, LLM_ERROR_ARGUMENT, "session: spare is %u, not in 0 .. %u",
                         (unsigned)d->spare, 1u << 24);
    if (!d->rows) d->rows = 128;
    if (!d->logits) d->logits = 1;
    llm__own_batch_desc(d, &b);
    if ((r = llm__resolve_batch(&b, "session")) != LLM_OK) return r;
    d->isa = b.isa;
    d->adapter_rank = b.adapter_rank;
    return LLM_OK;
}

static uint32_t llm__pages_for(uint32_t positions) {
    return (positions + LLM__PAGE_POSITIONS - 1) / LLM__PAGE_POSITIONS;
}

/* What a session holds besides its evaluator; with_store: not for a fork. */
static void llm__lay_out_session(llm_session *s, llm__arena *arena, bool with_store) {
    s->page = LLM__TAKE(uint32_t, llm__pages_for(s->context));
    s->token = LLM__TAKE(int32_t, s->context);
    if (with_store) {
        const uint32_t pages = llm__pages_for(s->context) + llm__pages_for(s->desc.spare);
        uint32_t *uses, *unused;
        s->store = LLM__TAKE(llm__store, 1);
        uses = LLM__TAKE(uint32_t, pages);
        unused = LLM__TAKE(uint32_t, pages);
        if (s->store) s->store->uses = uses, s->store->free = unused;
    }
}

/* The pages lie at the end of the block and are not touched before they are used. */
static void llm__lay_out_pages(const llm_session *s, llm__store *store, llm__arena *arena) {
    const llm__file_desc *d = s->model->desc;
    store->pages = llm__pages_for(s->context) + llm__pages_for(s->desc.spare);
    const size_t unit = llm__unit_size(&s->shape, s->desc.kv);
    if (!llm__mul(unit, d->layers, &store->page_size) ||
        !llm__mul(store->page_size, d->kv_heads, &store->page_size))
        arena->overflow = true;
    store->data = LLM__CAST(uint8_t *, llm__take(arena, store->pages, store->page_size));
}

/* Bytes that llm__lay_out_pages takes; the caller has made sure that they do not overflow. */
static size_t llm__store_size(const llm_session *s, bool with_store) {
    llm__arena arena = {NULL, 0, false};
    llm__store store;
    memset(&store, 0, sizeof store);
    if (with_store) llm__lay_out_pages(s, &store, &arena);
    return arena.used;
}

static void llm__set_session(llm_session *s, const llm_session_desc *d) {
    memset(s, 0, sizeof *s);
    s->allocator = d->allocator;
    s->desc = *d;
    s->desc.error = NULL; /* it need not outlive the call */
    s->model = d->model;
    s->shape = llm__shape_of(d->model->desc);
    s->context = d->context;
}

static void llm__measure_session(const llm_session_desc *d, llm__arena *arena, bool with_store) {
    llm_session s;
    llm__store store;
    llm_batch_desc b;
    memset(&store, 0, sizeof store);
    llm__set_session(&s, d);
    (void)llm__take(arena, 1, sizeof s);
    llm__lay_out_session(&s, arena, with_store);
    llm__own_batch_desc(d, &b);
    if (!d->batch_only) llm__measure_batch(&b, arena);
    if (with_store) llm__lay_out_pages(&s, &store, arena);
}

/* A token reads a little of each page of the cache, in more places than a core finds addresses of
   small pages of memory for. The host's own allocator has its own ways. */
#define LLM__HUGE_LEAST ((size_t)8 << 20)

/* A session in one block; `store` is NULL for a new one, or the store that a fork shares. */
static llm_result llm__new_session(llm_session **session, const llm_session_desc *d,
                                   llm__store *store) {
    llm__arena arena = {NULL, 0, false};
    llm_session *s;
    llm_batch_desc own;
    size_t size;
    uint32_t i;
    llm__measure_session(d, &arena, !store);
    size = arena.used;
    if (arena.overflow)
        return llm__fail(d->error, LLM_ERROR_MEMORY,
                         "session: its size passes that of the address space");
    arena.used = 0;
    arena.base = LLM__CAST(uint8_t *, llm__allocate(&d->allocator, size));
    if (!arena.base)
        return llm__fail(d->error, LLM_ERROR_MEMORY, "session: no memory for %zu bytes", size);
    s = LLM__CAST(llm_session *, llm__take(&arena, 1, sizeof *s));
    llm__set_session(s, d);
    memset(arena.base + arena.used, 0, size - arena.used - llm__store_size(s, !store));
    s->memory = size;
    llm__lay_out_session(s, &arena, !store);
    if (!d->batch_only) {
        llm__own_batch_desc(d, &own);
        s->own = LLM__CAST(llm_batch *, llm__take(&arena, 1, sizeof *s->own));
        llm__make_batch(s->own, &own, &arena);
    }
    if (store) {
        s->store = store;
    } else {
        store = s->store;
        llm__lay_out_pages(s, store, &arena);
        store->allocator = d->allocator;
        store->block = s;
        store->block_size = size;
        store->unused = store->pages;
        for (i = 0; i < store->pages; i++) store->free[i] = store->pages - 1 - i;
        s->owns_block = true;
        if (!d->allocator.allocate && size >= LLM__HUGE_LEAST)
            llm__wish_huge(store->data, store->pages * store->page_size);
    }
    llm__store_lock(store);
    store->sessions++;
    llm__store_unlock(store);
    *session = s;
    return LLM_OK;
}

LLM_API llm_result llm_session_query(const llm_session_desc *desc, llm_session_desc *resolved,
                                     size_t *bytes) {
    llm__arena arena = {NULL, 0, false};
    llm_session_desc d;
    llm_result r;
    if (!desc) return LLM_ERROR_ARGUMENT;
    d = *desc;
    if ((r = llm__resolve_session(&d)) != LLM_OK) return r;
    llm__measure_session(&d, &arena, true);
    if (arena.overflow)
        return llm__fail(d.error, LLM_ERROR_MEMORY,
                         "session: its size passes that of the address space");
    if (resolved) *resolved = d;
    if (bytes) *bytes = arena.used;
    return LLM_OK;
}

LLM_API llm_result llm_session_create(llm_session **session, const llm_session_desc *desc) {
    llm_session_desc d;
    llm_result r;
    if (!session) return LLM_ERROR_ARGUMENT;
    *session = NULL;
    if ((r = llm_session_query(desc, &d, NULL)) != LLM_OK) return r;
    return llm__new_session(session, &d, NULL);
}

LLM_API void llm_session_destroy(llm_session *session) {
    llm_allocator allocator;
    llm__store *store;
    bool last;
    if (!session) return;
    if (session->busy) llm__drop_batch(session->busy);
    llm__drop_pages(session, 0);
    store = session->store;
    llm__store_lock(store);
    last = --store->sessions == 0;
    llm__store_unlock(store);
    allocator = session->allocator;
    if (!session->owns_block) llm__release(&allocator, session, session->memory);
    if (last) {
        allocator = store->allocator;
        llm__release(&allocator, store->block, store->block_size);
    }
}

LLM_API llm_result llm_session_fork(llm_session **child, llm_session *parent) {
    llm_session_desc d;
    llm_session *c;
    llm_result r;
    uint32_t i;
    if (!child) return LLM_ERROR_ARGUMENT;
    *child = NULL;
    if (!parent) return LLM_ERROR_ARGUMENT;
    if (parent->fed > parent->position)
        return llm__fail(&parent->error, LLM_ERROR_BUSY,
                         "fork: %u tokens were fed that are not evaluated",
                         (unsigned)(parent->fed - parent->position));
    d = parent->desc;
    d.error = &parent->error;
    if ((r = llm__new_session(&c, &d, parent->store)) != LLM_OK) return r;
    memcpy(c->token, parent->token, parent->position * sizeof *c->token);
    c->position = c->fed = parent->position;
    memcpy(c->adapter, parent->adapter, sizeof c->adapter);
    memcpy(c->weight, parent->weight, sizeof c->weight);
    c->adapters = parent->adapters, c->adapter_rank = parent->adapter_rank;
    llm__store_lock(c->store);
    c->pages = llm__least(parent->pages, llm__pages_for(c->position));
    for (i = 0; i < c->pages; i++) {
        c->page[i] = parent->page[i];
        c->store->uses[c->page[i]]++;
    }
    llm__store_unlock(c->store);
    *child = c;
    return LLM_OK;
}

static llm_result llm__check_adapter(const llm_session *s, const llm_adapter *adapter, float weight,
                                     size_t number, llm_error *error) {
    if (!adapter)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "adapters: number %zu is NULL", number);
    if (adapter->model != s->model)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "adapters: number %zu is of another model",
                         number);
    if (!llm__finite(weight))
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "adapters: weight %zu is %g, not a finite number", number, (double)weight);
    return LLM_OK;
}

LLM_API llm_result llm_session_set_adapters(llm_session *session,
                                            const llm_adapter *const *adapters,
                                            const float *weights, size_t count) {
    llm_session *s = session;
    llm_result r;
    uint32_t rank = 0;
    size_t i;
    if (!s) return LLM_ERROR_ARGUMENT;
    if (count > LLM_ADAPTERS_MOST)
        return llm__fail(&s->error, LLM_ERROR_ARGUMENT, "adapters: count is %zu, not in 0 .. %u",
                         count, LLM_ADAPTERS_MOST);
    if (count && (!adapters || !weights))
        return llm__fail(&s->error, LLM_ERROR_ARGUMENT, "adapters: %s is NULL",
                         adapters ? "weights" : "adapters");
    if (s->busy || s->fed > s->position)
        return llm__fail(&s->error, LLM_ERROR_BUSY,
                         "adapters: the session has an evaluation that is not done");
    for (i = 0; i < count; i++) {
        r = llm__check_adapter(s, adapters[i], weights[i], i, &s->error);
        if (r) return r;
        if (llm__bits(weights[i]) & 0x7fffffffu) rank += adapters[i]->rank;
    }
    if (s->own && rank > s->own->adapter_rank)
        return llm__fail(&s->error, LLM_ERROR_LIMIT,
                         "adapters: their ranks sum up to %u, adapter_rank is %u", (unsigned)rank,
                         (unsigned)s->own->adapter_rank);
    for (i = 0, s->adapters = 0, s->adapter_rank = rank; i < count; i++) {
        if (!(llm__bits(weights[i]) & 0x7fffffffu)) continue;
        s->adapter[s->adapters] = adapters[i];
        s->weight[s->adapters++] = weights[i];
    }
    return LLM_OK;
}

LLM_API llm_result llm_session_feed(llm_session *session, const int32_t *tokens, size_t count) {
    llm_result r;
    if (!session) return LLM_ERROR_ARGUMENT;
    if (!session->own)
        return llm__fail(&session->error, LLM_ERROR_ARGUMENT,
                         "feed: the session is batch_only; add it to a batch");
    if (session->busy && session->busy != session->own)
        return llm__fail(&session->error, LLM_ERROR_BUSY,
                         "feed: the session takes part in a batch");
    if ((r = llm__extend(session, tokens, count, &session->error)) != LLM_OK) return r;
    if (count) session->has_logits = false;
    return LLM_OK;
}

LLM_API llm_result llm_step(llm_session *session, uint64_t budget_us) {
    const uint64_t deadline = llm__deadline(budget_us);
    llm_session *s = session;
    llm_result r;
    if (!s) return LLM_ERROR_ARGUMENT;
    if (!s->own)
        return llm__fail(&s->error, LLM_ERROR_ARGUMENT,
                         "step: the session is batch_only; step its batch");
    if (s->busy && s->busy != s->own)
        return llm__fail(&s->error, LLM_ERROR_BUSY, "step: the session takes part in a batch");
    while (s->position < s->fed) {
        if (!s->own->running) {
            const uint32_t left = s->fed - s->position;
            uint32_t count = llm__least(left, s->own->rows);
            /* The last evaluation keeps all logits that were asked for. */
            if (left > count && left - count < s->own->most_logits)
                count = left - s->own->most_logits;
            uint32_t logits =
                s->position + count == s->fed ? llm__least(count, s->own->most_logits) : 0;
            s->own->entries = s->own->used_rows = s->own->used_logits = 0;
            s->own->finished = false;
            llm__add_rows(s->own, s, count, logits);
            llm__begin(s->own);
        }
        r = llm__continue(s->own, deadline, &s->cancel);
        if (r == LLM_CANCELLED) {
            s->fed = s->position;
            return llm__fail(&s->error, LLM_CANCELLED, "step: cancelled at position %u",
                             (unsigned)s->position);
        }
        if (r == LLM_ERROR_IO) s->error = s->own->error;
        if (r) return r;
        s->has_logits = s->position == s->fed;
        if (deadline && s->position < s->fed && llm__now() >= deadline) return LLM_PENDING;
    }
    return LLM_OK;
}

/* Takes back what was fed from token number `fed` on. */
static void llm__unfeed(llm_session *s, uint32_t fed) {
    if (fed <= s->position) {
        (void)llm_session_rewind(s, fed);
    } else {
        llm__drop_batch(s->own);
        s->fed = fed;
    }
}

LLM_API llm_result llm_eval(llm_session *session, const int32_t *tokens, size_t count) {
    const uint32_t fed = session ? session->fed : 0;
    llm_result r = llm_session_feed(session, tokens, count);
    if (r) return r;
    r = llm_step(session, 0);
    if (r == LLM_ERROR_IO) llm__unfeed(session, fed);
    return r;
}

LLM_API void llm_session_cancel(llm_session *session) {
    if (session) llm__store32(&session->cancel, 1);
}

LLM_API const float *llm_session_logits(const llm_session *session, uint32_t back) {
    return session && session->has_logits ? llm_batch_logits(session->own, session, back) : NULL;
}

LLM_API llm_result llm_session_rewind(llm_session *session, uint32_t position) {
    llm_session *s = session;
    if (!s) return LLM_ERROR_ARGUMENT;
    if (s->busy && s->busy != s->own)
        return llm__fail(&s->error, LLM_ERROR_BUSY, "rewind: the session takes part in a batch");
    if (position > s->position)
        return llm__fail(&s->error, LLM_ERROR_ARGUMENT,
                         "rewind: position %u is past the present one, %u", (unsigned)position,
                         (unsigned)s->position);
    if (s->busy) llm__drop_batch(s->own);
    if (position < s->position || s->fed > s->position) s->has_logits = false;
    s->position = s->fed = position;
    llm__drop_pages(s, llm__pages_for(position));
    return LLM_OK;
}

LLM_API uint32_t llm_session_position(const llm_session *session) {
    return session ? session->position : 0;
}
LLM_API uint32_t llm_session_context(const llm_session *session) {
    return session ? session->context : 0;
}
LLM_API const int32_t *llm_session_tokens(const llm_session *session) {
    return session ? session->token : NULL;
}
LLM_API const llm_model *llm_session_model(const llm_session *session) {
    return session ? session->model : NULL;
}
LLM_API const char *llm_session_isa(const llm_session *session) {
    return session ? session->desc.isa : "";
}
LLM_API const llm_error *llm_session_error(const llm_session *session) {
    static const llm_error none = {LLM_ERROR_ARGUMENT, "session is NULL"};
    return session ? &session->error : &none;
}

LLM__SMALL_END

/* ======================================================================== */
/* >>sampler-math: exp and log in integers                                   */
/*                                                                           */
/* A probability is a 64-bit integer: 2^42 for the largest logit, less for    */
/* the others, 0 below 2^-42 of it. Integer sums are exact, so they have no   */
/* order, and no compiler flag can change them. Floats are only subtracted,   */
/* scaled and compared, one rounding at a time, pinned in between; what may   */
/* be NaN or infinite is compared by its bits.                                */
/* ======================================================================== */

/* Makes a value opaque, so that no flag contracts or reassociates across it; costs nothing. */
#ifndef LLM__PIN
#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__SSE2_MATH__))
#define LLM__PIN(x) __asm__("" : "+x"(x))
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__)
#define LLM__PIN(x) __asm__("" : "+w"(x))
#elif defined(__GNUC__) || defined(__clang__)
#define LLM__PIN(x) __asm__("" : "+m"(x))
#else
#define LLM__PIN(x) ((void)(x))
#endif
#endif

#define LLM__FLT_MAX 3.40282346638528859812e38
#define LLM__KEY_MAX 0x7f7fffff        /* key of the largest finite float */
#define LLM__MINUS_INF 0xff800000u     /* bits of -inf */
#define LLM__OCTAVE 1048576.0          /* steps in a factor of two */
#define LLM__STEPS_PER_NAT 1512775.3950951185 /* LLM__OCTAVE / ln 2 */
#define LLM__LN2 0.69314718055994530942

/* Order-preserving integer of a float: -0 and 0 are both 0, NaNs lie beyond the infinities. */
LLM__INLINE int32_t llm__float_key(float x) {
    uint32_t bits, sign;
    memcpy(&bits, &x, sizeof bits);
    sign = 0u - (bits >> 31);
    return (int32_t)(((bits & 0x7fffffffu) ^ sign) - sign);
}

LLM__INLINE float llm__float_of_key(int32_t key) {
    uint32_t bits = key < 0 ? 0x80000000u | (0u - (uint32_t)key) : (uint32_t)key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest finite float; results that a flushing FPU would lose are 0 everywhere. */
static float llm__to_float(double x) {
    float y;
    if (x > LLM__FLT_MAX) x = LLM__FLT_MAX;
    if (x < -LLM__FLT_MAX) x = -LLM__FLT_MAX;
    if (x < 1.1754943508222875e-38 && x > -1.1754943508222875e-38) x = 0;
    y = (float)x;
    LLM__PIN(y);
    return y;
}

/* High 64 bits of a product. */
static uint64_t llm__mul_high(uint64_t a, uint64_t b) {
    uint64_t al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    uint64_t low = al * bl, middle = ah * bl + (low >> 32);
    uint64_t other = al * bh + (middle & 0xffffffffu);
    return ah * bh + (middle >> 32) + (other >> 32);
}

/* log2(x) in units of 2^-40, for x > 0, by repeated squaring of the mantissa. */
static int64_t llm__log2_fixed(uint64_t x) {
    int64_t result = 63;
    int i;
    while (!(x >> 63)) x <<= 1, result--;
    for (i = 0; i < 40; i++) { /* x / 2^63 in [1, 2) */
        x = llm__mul_high(x, x);
        result = result * 2 + (int64_t)(x >> 63);
        if (!(x >> 63)) x <<= 1;
    }
    return result;
}

/* ln(x * 2^exponent), x > 0. */
static double llm__log_fixed(uint64_t x, int exponent) {
    double l = (double)(llm__log2_fixed(x) + (int64_t)exponent * ((int64_t)1 << 40));
    l *= LLM__LN2 / 1099511627776.0;
    LLM__PIN(l);
    return l;
}

enum { LLM__ROOTS = 1024 };

/* high[i] = 2^(-i / 2^10), low[i] = 2^(-i / 2^20), both times 2^31. */
typedef struct llm__exp_table {
    uint32_t high[LLM__ROOTS], low[LLM__ROOTS];
} llm__exp_table;

static void llm__exp_table_fill(llm__exp_table *table) {
    /* round(2^32 * 2^(-2^-(i + 1))) */
    static const uint32_t roots[20] = {
        0xB504F334u, 0xD744FCCBu, 0xEAC0C6E8u, 0xF5257D15u, 0xFA83B2DBu,
        0xFD3E0C0Du, 0xFE9E115Cu, 0xFF4ECB59u, 0xFFA75652u, 0xFFD3A752u,
        0xFFE9D2B3u, 0xFFF4E91Cu, 0xFFFA747Fu, 0xFFFD3A3Bu, 0xFFFE9D1Du,
        0xFFFF4E8Eu, 0xFFFFA747u, 0xFFFFD3A3u, 0xFFFFE9D2u, 0xFFFFF4E9u,
    };
    uint32_t i, bit;
    for (i = 0; i < LLM__ROOTS; i++) {
        uint64_t high = (uint64_t)1 << 32, low = high;
        for (bit = 0; bit < 10; bit++) {
            if (!(i >> (9 - bit) & 1)) continue;
            high = (high * roots[bit] + 0x80000000u) >> 32;
            low = (low * roots[bit + 10] + 0x80000000u) >> 32;
        }
        table->high[i] = (uint32_t)((high + 1) >> 1);
        table->low[i] = (uint32_t)((low + 1) >> 1);
    }
}

/* 2^(42 - steps / 2^20), rounded down; steps < 44 * 2^20. */
LLM__INLINE uint64_t llm__weight(const llm__exp_table *table, uint32_t steps) {
    uint64_t product = (uint64_t)table->high[steps >> 10 & 1023] * table->low[steps & 1023];
    return product >> (20 + (steps >> 20));
}

/* Philox4x32-10, Salmon et al. 2011. */
LLM_API uint64_t llm_random(uint64_t seed, uint64_t stream, uint64_t position) {
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    int round;
    for (round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c1 << 32 | c0;
}

/* In place, ascending, no recursion: heapsort. */
static void llm__sort_u64(uint64_t *a, size_t n) {
    size_t start = n / 2, end = n;
    while (end > 1) {
        uint64_t value;
        size_t hole, child;
        if (start > 0) {
            value = a[--start];
        } else {
            value = a[--end];
            a[end] = a[0];
        }
        for (hole = start; (child = 2 * hole + 1) < end; hole = child) {
            if (child + 1 < end && a[child + 1] > a[child]) child++;
            if (a[child] <= value) break;
            a[hole] = a[child];
        }
        a[hole] = value;
    }
}

/* ======================================================================== */
/* >>sampler: selection without sorting                                      */
/*                                                                           */
/* The vocabulary is looked at in blocks of 256. One pass notes each block's  */
/* largest logit; after that a pass that wants tokens above some logit opens  */
/* only the blocks that have one. A cut is an edge in an order (the logit, or */
/* the distance from the typical), found by a histogram of counts or of       */
/* probability mass that is refined inside the one bin where the target is    */
/* reached. The draw walks the kept tokens by id: no order is needed there.   */
/* ======================================================================== */
enum { LLM__LOGIT_BLOCK = 256, LLM__BINS = 2048, LLM__SHORT_LIST = LLM_SAMPLER_MAX_TOP_LOGPROBS };

/* Keeps what has a lower rank, and of the same rank the ids up to this one. */
typedef struct llm__rank_edge {
    uint32_t rank, id;
} llm__rank_edge;

/* What keeps a block's values from being used as they are. */
enum { LLM__CHANGED = 1 /* by patches or the mask */, LLM__ABNORMAL = 2 /* NaN or +inf */ };

/* How a distance from the largest logit becomes a weight. */
typedef struct llm__heat {
    float peak, scale; /* weight = 2^(42 - (peak - value) * scale / 2^20) */
    uint32_t limit;    /* bits of the distance from which on the weight is 0 */
} llm__heat;

typedef struct llm__patch { /* a logit that differs from the given one */
    uint32_t id;
    float value;
} llm__patch;

typedef struct llm__repeat { /* a token in the penalty window */
    uint32_t token, count;
} llm__repeat;

/* Logits as one step of the chain sees them. */
typedef struct llm__view {
    const float *values;
    const uint32_t *ids; /* NULL: the index is the id */
    size_t count, blocks;
    const uint32_t *mask;
    const llm__patch *patches; /* ascending ids */
    size_t patch_count;
    float *tops;          /* largest value of each block, -inf where none is allowed */
    unsigned char *dirty; /* [blocks] LLM__CHANGED, LLM__ABNORMAL; NULL: none */
    int32_t top;          /* key of the largest value; ranks count from here */
    llm__rank_edge edge;       /* kept by logit */
    bool cut, typical;    /* is anything cut; is `band` in use */
    uint32_t center;      /* mean distance from the peak, in steps */
    llm__rank_edge band;       /* kept by distance from `center`, see llm__rank_typical */
    llm__heat heat;       /* at temperature 1 */
    const llm__exp_table *table;
} llm__view;

/* The kept tokens of one block. */
typedef struct llm__members {
    size_t count;
    uint32_t ids[LLM__LOGIT_BLOCK];
    float values[LLM__LOGIT_BLOCK];
} llm__members;

struct llm_sampler {
    llm_sampler_desc desc; /* resolved; the biases are in `bias` */
    llm_allocator allocator;
    size_t vocab, blocks, bytes;
    uint64_t position;
    uint32_t window, window_used, window_next; /* ring of the last tokens */
    size_t repeat_count;
    llm__heat plain, heated; /* at temperature 1, at the set one; peak not set */
    double min_p_distance; /* -ln(min_p); below 0: off */
    uint64_t top_p_fixed, typical_p_fixed; /* times 2^32 */
    /* arrays of this block */
    uint64_t *masses;     /* [blocks] */
    uint64_t *sorted;     /* [top_logprobs] */
    uint64_t *bias;       /* [bias_count] token << 32 | bits of the float, ascending */
    llm_candidate *found; /* [top_logprobs] */
    llm__patch *patches;  /* [window + bias_count] */
    llm__repeat *repeats; /* [window], ascending tokens */
    float *tops;          /* [blocks] */
    float *list_values;   /* [LLM__SHORT_LIST] */
    uint32_t *list_ids;   /* [LLM__SHORT_LIST] */
    uint32_t *ring;       /* [window] */
    unsigned char *dirty; /* [blocks] */
    float super[LLM_SAMPLER_MAX_VOCAB / LLM__LOGIT_BLOCK / LLM__LOGIT_BLOCK]; /* tops of tops */
    llm__exp_table table;
    uint64_t bins[LLM__BINS];
};

/* Distance from the peak in steps; whatever is too far, -inf and NaN included, gets weight 0. */
LLM__INLINE uint32_t llm__steps_below(const llm__heat *heat, float value) {
    float distance = heat->peak - value, steps;
    uint32_t bits;
    LLM__PIN(distance);
    memcpy(&bits, &distance, sizeof bits);
    bits &= 0x7fffffffu;
    if (bits > heat->limit) bits = heat->limit;
    memcpy(&distance, &bits, sizeof bits);
    steps = distance * heat->scale;
    return (uint32_t)(int32_t)steps;
}

LLM__INLINE uint32_t llm__logit_rank(const llm__view *view, float value) {
    return (uint32_t)view->top - (uint32_t)llm__float_key(value);
}

/* Rank of the last token that may be chosen at all. */
LLM__INLINE uint32_t llm__rank_last(const llm__view *view) {
    return (uint32_t)view->top + LLM__KEY_MAX;
}

LLM__INLINE size_t llm__block_size(const llm__view *view, size_t block) {
    size_t left = view->count - block * LLM__LOGIT_BLOCK;
    return left < LLM__LOGIT_BLOCK ? left : (size_t)LLM__LOGIT_BLOCK;
}

/* llm__steps_below of a whole block, in a loop that vectorises; past the end its weight is 0. */
static void llm__block_steps(const llm__heat *heat, const float *values, size_t count,
                             int32_t steps[LLM__LOGIT_BLOCK]) {
    const float peak = heat->peak, scale = heat->scale;
    const int32_t limit = (int32_t)heat->limit;
    float padded[LLM__LOGIT_BLOCK];
    size_t i;
    if (count < LLM__LOGIT_BLOCK) {
        memcpy(padded, values, count * sizeof *padded);
        for (i = count; i < LLM__LOGIT_BLOCK; i++) padded[i] = llm__float(LLM__MINUS_INF);
        values = padded;
    }
    for (i = 0; i < LLM__LOGIT_BLOCK; i++) { /* the bits in between keep the two roundings apart */
        int32_t bits = (int32_t)(llm__bits(peak - values[i]) & 0x7fffffffu);
        bits = bits < limit ? bits : limit;
        steps[i] = (int32_t)(llm__float((uint32_t)bits) * scale);
    }
}

/* The total weight of a whole block. `moment` gets the sum of weight / 2^8 x steps: below 2^54
   each, so below 2^62. */
static uint64_t llm__block_mass(const llm__exp_table *table, const llm__heat *heat,
                                const float *values, size_t count, uint64_t *moment) {
    int32_t steps[LLM__LOGIT_BLOCK];
    uint64_t mass = 0, sum = 0;
    size_t i;
    llm__block_steps(heat, values, count, steps);
    if (!moment) { /* two sums: one alone waits for itself */
        for (i = 0; i < LLM__LOGIT_BLOCK; i += 2) {
            mass += llm__weight(table, (uint32_t)steps[i]);
            sum += llm__weight(table, (uint32_t)steps[i + 1]);
        }
        return mass + sum;
    }
    for (i = 0; i < LLM__LOGIT_BLOCK; i++) {
        uint64_t weight = llm__weight(table, (uint32_t)steps[i]);
        mass += weight;
        sum += (weight >> 8) * (uint32_t)steps[i];
    }
    *moment = sum;
    return mass;
}

/* Largest key of a block. */
LLM__INLINE int32_t llm__largest_key(const float *values, size_t count) {
    int32_t largest = -0x7fffffff;
    size_t i;
    for (i = 0; i < count; i++) {
        int32_t key = llm__float_key(values[i]);
        largest = key > largest ? key : largest;
    }
    return largest;
}

static float llm__largest(const float *values, size_t count, bool *abnormal) {
    int32_t key = count == LLM__LOGIT_BLOCK ? llm__largest_key(values, LLM__LOGIT_BLOCK)
                                      : llm__largest_key(values, count);
    *abnormal = key > LLM__KEY_MAX; /* +inf or NaN */
    return llm__float_of_key(key < -LLM__KEY_MAX ? -LLM__KEY_MAX - 1 : key);
}

/* Takes NaN for -inf, and +inf for the largest number. */
static void llm__block_clean(float *values, size_t count) {
    size_t i;
    for (i = 0; i < count; i++) {
        int32_t key = llm__float_key(values[i]);
        if (key > LLM__KEY_MAX + 1 || key < -LLM__KEY_MAX) key = -LLM__KEY_MAX - 1;
        else if (key > LLM__KEY_MAX) key = LLM__KEY_MAX;
        values[i] = llm__float_of_key(key);
    }
}

/* Takes -inf for what the mask's bits, from those of the first value on, do not allow. */
static void llm__block_mask(float *values, size_t count, const uint32_t *mask) {
    size_t i, k;
    for (i = 0; i < count; i += 32, mask++) {
        if (*mask == UINT32_MAX) continue;
        for (k = 0; k < 32 && i + k < count; k++)
            if (!(*mask >> k & 1)) values[i + k] = llm__float(LLM__MINUS_INF);
    }
}

/* The values of a block, in `buffer` if the mask, patches, NaN or +inf change any. */
static const float *llm__block_values(const llm__view *view, size_t block, float *buffer) {
    const size_t base = block * LLM__LOGIT_BLOCK, count = llm__block_size(view, block);
    size_t low = 0, high = view->patch_count;
    if (!view->dirty || !view->dirty[block]) return view->values + base;
    memcpy(buffer, view->values + base, count * sizeof *buffer);
    while (low < high) { /* first patch of this block */
        size_t middle = low + (high - low) / 2;
        if (view->patches[middle].id < base) low = middle + 1;
        else high = middle;
    }
    for (; low < view->patch_count && view->patches[low].id < base + count; low++)
        buffer[view->patches[low].id - base] = view->patches[low].value;
    if (view->dirty[block] & LLM__ABNORMAL) llm__block_clean(buffer, count);
    if (view->mask) llm__block_mask(buffer, count, view->mask + base / 32);
    return buffer;
}

/* Notes the largest value of every block (of the dirty ones, if `again`) and of all. */
static void llm__view_scan(llm__view *view, bool again) {
    float buffer[LLM__LOGIT_BLOCK];
    size_t block;
    bool abnormal;
    for (block = 0; block < view->blocks; block++) {
        size_t count = llm__block_size(view, block);
        if (again && !view->dirty[block]) continue;
        view->tops[block] = llm__largest(llm__block_values(view, block, buffer), count, &abnormal);
        if (!abnormal) continue;
        view->dirty[block] |= LLM__ABNORMAL;
        view->tops[block] = llm__largest(llm__block_values(view, block, buffer), count, &abnormal);
    }
    view->top = -LLM__KEY_MAX - 1;
    for (block = 0; block < view->blocks; block++) {
        int32_t key = llm__float_key(view->tops[block]);
        if (key > view->top) view->top = key;
    }
    view->heat.peak = llm__float_of_key(view->top);
    view->edge.rank = llm__rank_last(view);
    view->edge.id = UINT32_MAX;
}

/* Rank by typicality: distance from the center, the more probable of two first. */
LLM__INLINE uint32_t llm__rank_typical(const llm__view *view, float value) {
    uint32_t steps = llm__steps_below(&view->heat, value);
    return steps > view->center ? (steps - view->center) << 1 | 1 : (view->center - steps) << 1;
}

/* Has this block nothing up to rank `reach` in the order of logits, or in the typical band? */
LLM__INLINE bool llm__block_out(const llm__view *view, size_t block, uint32_t reach,
                                uint32_t band) {
    uint32_t rank = llm__logit_rank(view, view->tops[block]);
    if (rank > reach || rank > view->edge.rank) return true;
    if (view->typical && band > view->band.rank) band = view->band.rank;
    if (band == UINT32_MAX) return false;
    rank = llm__rank_typical(view, view->tops[block]);
    return (rank & 1) && rank > band; /* even the top is on the far side */
}

/* Collects the kept tokens of a block whose logits have rank low to high. */
static void llm__gather_kept(const llm__view *view, size_t block, uint32_t low, uint32_t high,
                        llm__members *members) {
    float buffer[LLM__LOGIT_BLOCK];
    const float *values = llm__block_values(view, block, buffer);
    const size_t base = block * LLM__LOGIT_BLOCK, count = llm__block_size(view, block);
    const llm__rank_edge edge = view->edge, band = view->band;
    const uint32_t top = (uint32_t)view->top;
    const uint32_t range = (high < edge.rank ? high : edge.rank) - low;
    uint32_t *ids = members->ids;
    float *kept = members->values;
    size_t i, n = 0, all;
    for (i = 0; i < count; i++) {
        uint32_t rank = top - (uint32_t)llm__float_key(values[i]);
        ids[n] = (uint32_t)(base + i);
        kept[n] = values[i];
        n += rank - low <= range;
    }
    if (view->ids)
        for (i = 0; i < n; i++) ids[i] = view->ids[ids[i]];
    if (edge.id != UINT32_MAX || view->typical) {
        for (all = n, i = n = 0; i < all; i++) {
            uint32_t id = ids[i];
            bool keep = llm__logit_rank(view, kept[i]) < edge.rank || id <= edge.id;
            if (keep && view->typical) {
                uint32_t rank = llm__rank_typical(view, kept[i]);
                keep = rank < band.rank || (rank == band.rank && id <= band.id);
            }
            kept[n] = kept[i];
            ids[n] = id;
            n += keep;
        }
    }
    members->count = n;
}

/* The same for all that is kept. */
LLM__INLINE void llm__gather_all(const llm__view *view, size_t block, llm__members *members) {
    llm__gather_kept(view, block, 0, UINT32_MAX, members);
}

/* How a selection orders tokens and what it adds up. */
typedef enum llm__measure {
    LLM__BY_COUNT,  /* by logit, counting */
    LLM__BY_MASS,   /* by logit, adding weights */
    LLM__BY_TYPICAL /* by distance from `center`, adding weights */
} llm__measure;

/* What a token of this rank adds; tokens of one rank are alike. */
static uint64_t llm__rank_amount(const llm__view *view, llm__measure how, uint32_t rank) {
    uint32_t steps;
    if (how == LLM__BY_COUNT) return 1;
    if (how == LLM__BY_TYPICAL) {
        steps = rank & 1 ? view->center + (rank >> 1) : view->center - (rank >> 1);
    } else {
        float value = llm__float_of_key((int32_t)((uint32_t)view->top - rank));
        steps = llm__steps_below(&view->heat, value);
    }
    return llm__weight(view->table, steps);
}

/* The ranks and ids of the kept tokens of a block that have ranks low to high. */
static size_t llm__gather_ranks(const llm__view *view, llm__measure how, size_t block,
                                uint32_t low, uint32_t high, uint32_t *ranks,
                                llm__members *members) {
    size_t i, n = 0;
    if (how != LLM__BY_TYPICAL) {
        if (llm__block_out(view, block, high, UINT32_MAX)) return 0;
        llm__gather_kept(view, block, low, high, members);
        for (i = 0; i < members->count; i++) ranks[i] = llm__logit_rank(view, members->values[i]);
        return members->count;
    }
    if (llm__block_out(view, block, UINT32_MAX, high)) return 0;
    llm__gather_all(view, block, members);
    for (i = 0; i < members->count; i++) {
        uint32_t rank = llm__rank_typical(view, members->values[i]);
        ranks[n] = rank;
        members->ids[n] = members->ids[i];
        n += rank - low <= high - low;
    }
    return n;
}

/* Fills bins[(rank - low) >> shift] for ranks low to high. */
static void llm__histogram(const llm__view *view, llm__measure how, uint32_t low, uint32_t high,
                           int shift, uint64_t *bins) {
    llm__members members;
    uint32_t ranks[LLM__LOGIT_BLOCK];
    size_t block, i, n;
    memset(bins, 0, LLM__BINS * sizeof *bins);
    for (block = 0; block < view->blocks; block++) {
        n = llm__gather_ranks(view, how, block, low, high, ranks, &members);
        for (i = 0; i < n; i++)
            bins[(ranks[i] - low) >> shift] += llm__rank_amount(view, how, ranks[i]);
    }
}

/* rank << 32 | id of the kept tokens with ranks low to high, best first; more than a block's
   worth: LLM__LOGIT_BLOCK + 1 and no list. */
static size_t llm__sorted_ranks(const llm__view *view, llm__measure how, uint32_t low,
                                uint32_t high, uint64_t *list) {
    llm__members members;
    uint32_t ranks[LLM__LOGIT_BLOCK];
    size_t block, i, n, count = 0;
    for (block = 0; block < view->blocks; block++) {
        n = llm__gather_ranks(view, how, block, low, high, ranks, &members);
        if (count + n > LLM__LOGIT_BLOCK) return LLM__LOGIT_BLOCK + 1;
        for (i = 0; i < n; i++) list[count++] = (uint64_t)ranks[i] << 32 | members.ids[i];
    }
    llm__sort_u64(list, count);
    return count;
}

/* The id of the n-th token (from 1) of one rank. */
static uint32_t llm__nth_of_rank(const llm__view *view, llm__measure how, uint32_t rank,
                                 uint64_t n) {
    llm__members members;
    uint32_t ranks[LLM__LOGIT_BLOCK];
    size_t block, count;
    for (block = 0; block < view->blocks; block++) {
        count = llm__gather_ranks(view, how, block, rank, rank, ranks, &members);
        if (n <= count) return members.ids[n - 1];
        n -= count;
    }
    return UINT32_MAX;
}

/* The edge of the shortest run of tokens, best first, that reaches `target` (> 0); false if the
   tokens up to rank `high` do not reach it. Bins narrow the ranks down until a sort is short. */
static bool llm__select_edge(const llm__view *view, llm__measure how, uint64_t target,
                             uint32_t high, uint64_t *bins, llm__rank_edge *edge) {
    uint64_t list[LLM__LOGIT_BLOCK];
    uint32_t low = 0, bin, last;
    for (;;) {
        size_t i, count = llm__sorted_ranks(view, how, low, high, list);
        int shift = 0;
        for (i = 0; count <= LLM__LOGIT_BLOCK && i < count; i++) {
            uint64_t amount = llm__rank_amount(view, how, (uint32_t)(list[i] >> 32));
            if (amount >= target) {
                edge->rank = (uint32_t)(list[i] >> 32);
                edge->id = (uint32_t)list[i];
                return true;
            }
            target -= amount;
        }
        if (count <= LLM__LOGIT_BLOCK) return false;
        while ((high - low) >> shift >= LLM__BINS) shift++;
        llm__histogram(view, how, low, high, shift, bins);
        last = (high - low) >> shift;
        for (bin = 0; bins[bin] < target; bin++) {
            target -= bins[bin];
            if (bin == last) return false;
        }
        low += bin << shift;
        if (shift == 0) break;
        if (high - low > ((uint32_t)1 << shift) - 1) high = low + (((uint32_t)1 << shift) - 1);
    }
    edge->rank = low; /* many tokens of one rank */
    target = (target - 1) / llm__rank_amount(view, how, low) + 1;
    edge->id = llm__nth_of_rank(view, how, low, target);
    return true;
}

/* Keeps the `k` largest. Where k blocks exist, the k-th largest block maximum bounds the search. */
static void llm__keep_count(llm__view *view, uint64_t k, llm_sampler *s) {
    uint32_t reach = llm__rank_last(view);
    llm__rank_edge edge;
    bool found;
    if (view->blocks >= k) {
        llm__view tops = *view;
        tops.values = view->tops;
        tops.count = view->blocks;
        tops.blocks = (tops.count + LLM__LOGIT_BLOCK - 1) / LLM__LOGIT_BLOCK;
        tops.ids = NULL;
        tops.dirty = NULL;
        tops.tops = s->super;
        llm__view_scan(&tops, false);
        if (llm__select_edge(&tops, LLM__BY_COUNT, k, reach, s->bins, &edge)) reach = edge.rank;
    }
    found = llm__select_edge(view, LLM__BY_COUNT, k, reach, s->bins, &edge);
    if (found) view->edge = edge, view->cut = true;
}

/* Copies what is kept into a short list, where it fits, and looks at that from then on. */
static void llm__compact(llm__view *view, llm_sampler *s) {
    llm__members members;
    size_t block, count = 0;
    for (block = 0; block < view->blocks; block++) {
        if (llm__block_out(view, block, UINT32_MAX, UINT32_MAX)) continue;
        llm__gather_all(view, block, &members);
        if (count + members.count > LLM__SHORT_LIST) return;
        memcpy(s->list_values + count, members.values, members.count * sizeof(float));
        memcpy(s->list_ids + count, members.ids, members.count * sizeof(uint32_t));
        count += members.count;
    }
    view->values = s->list_values;
    view->ids = s->list_ids;
    view->count = count;
    view->blocks = (count + LLM__LOGIT_BLOCK - 1) / LLM__LOGIT_BLOCK;
    view->mask = NULL;
    view->patch_count = 0;
    view->dirty = NULL;
    view->tops = s->super;
    view->cut = false;
    llm__view_scan(view, false);
}

/* The weight of all kept tokens, and of each block if `masses` is given. */
static uint64_t llm__view_mass(const llm__view *view, const llm__heat *heat, uint64_t *masses) {
    float buffer[LLM__LOGIT_BLOCK];
    llm__members members;
    uint64_t total = 0;
    size_t block, i;
    for (block = 0; block < view->blocks; block++) {
        uint64_t mass = 0;
        uint32_t best = llm__steps_below(heat, view->tops[block]);
        bool out = !view->typical && llm__weight(view->table, best) == 0; /* the top is too small */
        if (!out && !llm__block_out(view, block, UINT32_MAX, UINT32_MAX)) {
            if (!view->cut) {
                mass = llm__block_mass(view->table, heat, llm__block_values(view, block, buffer),
                                       llm__block_size(view, block), NULL);
            } else {
                llm__gather_all(view, block, &members);
                for (i = 0; i < members.count; i++)
                    mass += llm__weight(view->table, llm__steps_below(heat, members.values[i]));
            }
        }
        if (masses) masses[block] = mass;
        total += mass;
    }
    return total;
}

/* fraction / 2^32 of a mass, at least 1. */
static uint64_t llm__mass_share(uint64_t mass, uint64_t fraction) {
    uint64_t share = (mass >> 32) * fraction + ((mass & 0xffffffffu) * fraction >> 32);
    return share ? share : 1;
}

/* Typical: the information of a token minus the entropy is its distance from the peak minus the
   mean of that distance, so neither needs the normaliser. */
static void llm__keep_typical(llm__view *view, llm_sampler *s) {
    llm__members members;
    uint64_t low = 0, high = 0, mass = 0, part, divisor;
    uint32_t octaves;
    size_t block;
    for (block = 0; block < view->blocks; block++) {
        if (llm__block_out(view, block, UINT32_MAX, UINT32_MAX)) continue;
        llm__gather_all(view, block, &members);
        mass += llm__block_mass(view->table, &view->heat, members.values, members.count, &part);
        low += part;
        high += low < part;
    }
    divisor = mass >> 8; /* 2^34 at least: the peak is kept */
    for (; high; high >>= 1, divisor >>= 1) low = low >> 1 | high << 63;
    view->center = (uint32_t)(low / divisor);
    mass = llm__mass_share(mass, s->typical_p_fixed);
    for (octaves = 4; octaves <= 64; octaves *= 2) { /* most bands are narrow */
        uint32_t reach = octaves << 21;
        if (!llm__select_edge(view, LLM__BY_TYPICAL, mass, reach, s->bins, &view->band)) continue;
        view->typical = view->cut = true;
        return;
    }
}

/* A rank some way below the peak. */
static uint32_t llm__rank_below(const llm__view *view, float peak, double distance) {
    double value = (double)peak - distance;
    LLM__PIN(value);
    return llm__logit_rank(view, llm__to_float(value));
}

/* The nucleus. The search starts near the peak, where the edge of most distributions lies. */
static void llm__keep_top_p(llm__view *view, llm_sampler *s) {
    uint64_t target = llm__mass_share(llm__view_mass(view, &view->heat, NULL), s->top_p_fixed);
    uint32_t last = llm__rank_last(view), reach = 0;
    double nats;
    llm__rank_edge edge;
    for (nats = 4; reach < last; nats *= 2) {
        reach = nats > 32 ? last : llm__rank_below(view, view->heat.peak, nats);
        if (!llm__select_edge(view, LLM__BY_MASS, target, reach, s->bins, &edge)) continue;
        view->edge = edge;
        view->cut = true;
        return;
    }
}

/* The largest value that is kept. */
static float llm__kept_peak(const llm__view *view) {
    llm__members members;
    int32_t largest = -LLM__KEY_MAX;
    size_t block, i;
    if (!view->typical) return view->heat.peak;
    for (block = 0; block < view->blocks; block++) {
        if (llm__block_out(view, block, UINT32_MAX, UINT32_MAX)) continue;
        llm__gather_all(view, block, &members);
        for (i = 0; i < members.count; i++) {
            int32_t key = llm__float_key(members.values[i]);
            if (key > largest) largest = key;
        }
    }
    return llm__float_of_key(largest);
}

static void llm__keep_min_p(llm__view *view, const llm_sampler *s) {
    uint32_t rank = llm__rank_below(view, llm__kept_peak(view), s->min_p_distance);
    if (rank >= view->edge.rank) return;
    view->edge.rank = rank;
    view->edge.id = UINT32_MAX;
    view->cut = true;
}

/* The cuts, in the order of the chain. */
static void llm__truncate(llm__view *view, llm_sampler *s) {
    const llm_sampler_desc *d = &s->desc;
    if (d->top_k && d->top_k < view->count) {
        llm__keep_count(view, d->top_k, s);
        llm__compact(view, s);
    }
    if (s->typical_p_fixed) llm__keep_typical(view, s);
    if (s->top_p_fixed) llm__keep_top_p(view, s);
    if (s->min_p_distance >= 0) llm__keep_min_p(view, s);
}

/* The first token with the largest logit. */
static uint32_t llm__first_largest(const llm__view *view) {
    float buffer[LLM__LOGIT_BLOCK];
    const float *values;
    size_t block = 0, i = 0;
    while (llm__logit_rank(view, view->tops[block])) block++;
    values = llm__block_values(view, block, buffer);
    while (llm__logit_rank(view, values[i])) i++;
    return (uint32_t)(block * LLM__LOGIT_BLOCK + i);
}

/* One token by weight: the same random number always falls on the same one. */
static uint32_t llm__draw_token(const llm__view *view, llm_sampler *s) {
    llm__heat heat = s->heated;
    llm__members members;
    uint64_t total, point;
    size_t block = 0, i;
    heat.peak = llm__kept_peak(view);
    total = llm__view_mass(view, &heat, s->masses);
    point = llm__mul_high(llm_random(s->desc.seed, s->desc.stream, s->position), total);
    while (point >= s->masses[block]) point -= s->masses[block++];
    llm__gather_all(view, block, &members);
    for (i = 0;; i++) {
        uint64_t weight = llm__weight(view->table, llm__steps_below(&heat, members.values[i]));
        if (point < weight) return members.ids[i];
        point -= weight;
    }
}

LLM__SMALL
/* A logit after bias and penalties. NaN and -inf stay what they are. */
static float llm__patched(const llm_sampler *s, float logit, double bias, uint32_t count) {
    const llm_sampler_desc *d = &s->desc;
    int32_t key = llm__float_key(logit);
    double x, y;
    if (key > LLM__KEY_MAX + 1 || key < -LLM__KEY_MAX) return logit;
    if (key > LLM__KEY_MAX) key = LLM__KEY_MAX;
    if (key < 0x00800000 && key > -0x00800000) key = 0; /* an FPU may flush these */
    x = (double)llm__float_of_key(key) + bias;
    LLM__PIN(x);
    if (count == 0) return llm__to_float(x);
    y = (double)d->repetition_penalty;
    LLM__PIN(y); /* no reciprocal */
    x = x > 0 ? x / y : x * y;
    LLM__PIN(x);
    y = (double)count * (double)d->frequency_penalty;
    LLM__PIN(y);
    y += (double)d->presence_penalty;
    LLM__PIN(y);
    x -= y;
    LLM__PIN(x);
    return llm__to_float(x);
}

/* Merges the biases and the window, both ascending, into the list of changed logits. */
static size_t llm__patch_all(llm_sampler *s, const float *logits) {
    size_t i = 0, j = 0, n = 0;
    while (i < s->desc.bias_count || j < s->repeat_count) {
        uint32_t id = UINT32_MAX, count = 0;
        double bias = 0;
        bool banned = false;
        if (i < s->desc.bias_count) id = (uint32_t)(s->bias[i] >> 32);
        if (j < s->repeat_count && s->repeats[j].token <= id) id = s->repeats[j].token;
        for (; i < s->desc.bias_count && s->bias[i] >> 32 == id; i++) {
            uint32_t bits = (uint32_t)s->bias[i];
            float value;
            memcpy(&value, &bits, sizeof value);
            if (bits == LLM__MINUS_INF) banned = true;
            else bias += (double)value;
            LLM__PIN(bias);
        }
        if (j < s->repeat_count && s->repeats[j].token == id) count = s->repeats[j++].count;
        s->patches[n].id = id;
        s->patches[n++].value = banned ? llm__float_of_key(-LLM__KEY_MAX - 1)
                                       : llm__patched(s, logits[id], bias, count);
    }
    return n;
}

/* A view of the logits as given. */
static void llm__view_raw(llm__view *view, llm_sampler *s, const float *logits) {
    memset(view, 0, sizeof *view);
    memset(s->dirty, 0, s->blocks);
    view->values = logits;
    view->count = s->vocab;
    view->blocks = s->blocks;
    view->tops = s->tops;
    view->dirty = s->dirty;
    view->table = &s->table;
    view->heat = s->plain;
    llm__view_scan(view, false);
}

/* Turns it into the view after bias, penalties and mask. */
static llm_result llm__view_patch(llm__view *view, llm_sampler *s, const uint32_t *mask,
                                  llm_error *error) {
    size_t i;
    view->mask = mask;
    view->patches = s->patches;
    view->patch_count = llm__patch_all(s, view->values);
    for (i = 0; mask && i < s->blocks; i++) s->dirty[i] |= LLM__CHANGED;
    for (i = 0; i < view->patch_count; i++)
        s->dirty[s->patches[i].id / LLM__LOGIT_BLOCK] |= LLM__CHANGED;
    if (mask || view->patch_count) llm__view_scan(view, true);
    if (view->top >= -LLM__KEY_MAX) return LLM_OK;
    return llm__fail(error, LLM_ERROR_NUMERIC,
                     "sampler, position %llu: none of %lu logits is finite%s",
                     (unsigned long long)s->position, (unsigned long)s->vocab,
                     mask                 ? " and allowed by the mask"
                     : s->desc.bias_count ? " and allowed by the bias"
                                          : "");
}

/* Log-probability of a token among the logits as given. */
static float llm__logprob(float value, float peak, double log_mass) {
    double x = (double)value - (double)peak;
    LLM__PIN(x);
    x -= log_mass;
    LLM__PIN(x);
    return llm__to_float(x);
}

/* The most probable tokens, best first. */
static size_t llm__report_top(const llm__view *raw, llm_sampler *s, double log_mass) {
    llm__view view = *raw;
    size_t i;
    if (s->desc.top_logprobs < view.count) llm__keep_count(&view, s->desc.top_logprobs, s);
    llm__compact(&view, s);
    for (i = 0; i < view.count; i++) /* rank, then id */
        s->sorted[i] = (uint64_t)llm__logit_rank(&view, view.values[i]) << 32 | view.ids[i];
    llm__sort_u64(s->sorted, view.count);
    for (i = 0; i < view.count; i++) {
        int32_t key = (int32_t)((uint32_t)view.top - (uint32_t)(s->sorted[i] >> 32));
        s->found[i].token = (uint32_t)s->sorted[i];
        s->found[i].logprob = llm__logprob(llm__float_of_key(key), view.heat.peak, log_mass);
    }
    return view.count;
}

LLM_API llm_result llm_sampler_sample(llm_sampler *s, const float *logits, const uint32_t *mask,
                                      llm_sample *out, llm_error *error) {
    llm__view view;
    float peak;
    double log_mass = 0;
    llm_result result;
    if (!s || !logits || !out)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_sample: %s is NULL",
                         !s ? "sampler" : !logits ? "logits" : "out");
    memset(out, 0, sizeof *out);
    llm__view_raw(&view, s, logits);
    peak = view.heat.peak;
    if (s->desc.logprobs && view.top >= -LLM__KEY_MAX) {
        log_mass = llm__log_fixed(llm__view_mass(&view, &view.heat, NULL), -42);
        if (s->desc.top_logprobs) out->top_count = llm__report_top(&view, s, log_mass);
        out->top = out->top_count ? s->found : NULL;
    }
    result = llm__view_patch(&view, s, mask, error);
    if (result != LLM_OK) return result;
    if (s->desc.temperature > 0) {
        llm__truncate(&view, s);
        out->token = llm__draw_token(&view, s);
    } else {
        out->token = llm__first_largest(&view);
    }
    if (s->desc.logprobs) {
        int32_t key = llm__float_key(logits[out->token]);
        if (key > LLM__KEY_MAX) key = LLM__KEY_MAX;
        out->logprob = llm__logprob(llm__float_of_key(key), peak, log_mass);
    }
    return LLM_OK;
}

LLM_API llm_result llm_sampler_distribution(llm_sampler *s, const float *logits,
                                            const uint32_t *mask, llm_candidate *candidates,
                                            size_t capacity, size_t *count, llm_error *error) {
    llm__view view;
    llm__members members;
    llm__heat heat;
    double log_total;
    size_t block, i, n = 0;
    llm_result result;
    if (!s || !logits || !count || (!candidates && capacity))
        return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_distribution: %s is NULL",
                         !s ? "sampler" : !logits ? "logits" : !count ? "count" : "candidates");
    *count = 0;
    llm__view_raw(&view, s, logits);
    result = llm__view_patch(&view, s, mask, error);
    if (result != LLM_OK) return result;
    if (!(s->desc.temperature > 0)) {
        *count = 1;
        if (capacity) candidates[0].token = llm__first_largest(&view), candidates[0].logprob = 0;
        return LLM_OK;
    }
    llm__truncate(&view, s);
    heat = s->heated;
    heat.peak = llm__kept_peak(&view);
    log_total = llm__log_fixed(llm__view_mass(&view, &heat, NULL), 0);
    for (block = 0; block < view.blocks; block++) {
        if (llm__block_out(&view, block, UINT32_MAX, UINT32_MAX)) continue;
        llm__gather_all(&view, block, &members);
        for (i = 0; i < members.count; i++) {
            uint64_t weight = llm__weight(view.table, llm__steps_below(&heat, members.values[i]));
            if (weight && n++ < capacity) {
                double logprob = llm__log_fixed(weight, 0) - log_total;
                candidates[n - 1].token = members.ids[i];
                candidates[n - 1].logprob = llm__to_float(logprob);
            }
        }
    }
    *count = n;
    return LLM_OK;
}

/* ------------------------------------------------------------------------ */
/* The object: settings, memory, the penalty window.                         */
/* ------------------------------------------------------------------------ */

/* Is the value in the range, by bits, so that NaN is out under every flag? */
static llm_result llm__check_setting(const char *name, float value, double low, double high,
                                     bool zero_too, llm_error *error) {
    int32_t key = llm__float_key(value);
    if (zero_too && key == 0) return LLM_OK;
    if (key >= llm__float_key((float)low) && key <= llm__float_key((float)high)) return LLM_OK;
    return llm__fail(error, LLM_ERROR_ARGUMENT, "sampler: %s is %g; expected %s%g to %g", name,
                     (double)value, zero_too ? "0 (default) or " : "", low, high);
}

static llm_result llm__check_bias(const llm_sampler_desc *d, size_t vocab, llm_error *error) {
    size_t i;
    if (d->bias_count > LLM_SAMPLER_MAX_VOCAB || (d->bias_count && !d->bias))
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "sampler: bias_count is %lu with bias %s; expected at most %d entries",
                         (unsigned long)d->bias_count, d->bias ? "set" : "NULL",
                         (int)LLM_SAMPLER_MAX_VOCAB);
    for (i = 0; i < d->bias_count; i++) {
        int32_t key = llm__float_key(d->bias[i].bias);
        if (d->bias[i].token >= vocab)
            return llm__fail(error, LLM_ERROR_ARGUMENT,
                             "sampler: bias[%lu].token is %lu; expected less than the %lu tokens "
                             "of the vocabulary", (unsigned long)i,
                             (unsigned long)d->bias[i].token, (unsigned long)vocab);
        if (key > LLM__KEY_MAX || key < -LLM__KEY_MAX - 1)
            return llm__fail(error, LLM_ERROR_ARGUMENT,
                             "sampler: bias[%lu].bias is %g; expected a finite number or -inf",
                             (unsigned long)i, (double)d->bias[i].bias);
    }
    return LLM_OK;
}

static llm_result llm__check_integer(const char *name, size_t value, size_t low, size_t high,
                                     llm_error *error) {
    if (value >= low && value <= high) return LLM_OK;
    return llm__fail(error, LLM_ERROR_ARGUMENT, "sampler: %s is %lu; expected %lu to %lu", name,
                     (unsigned long)value, (unsigned long)low, (unsigned long)high);
}

static llm_result llm__resolve_sampler(llm_sampler_desc *d, size_t vocab, llm_error *error) {
    llm_result r = llm__check_integer("vocab", vocab, 1, LLM_SAMPLER_MAX_VOCAB, error);
#define LLM__SETTING(field, low, high, zero_too) \
    if (!r) r = llm__check_setting(#field, d->field, low, high, zero_too, error)
#define LLM__INTEGER(field, high) \
    if (!r) r = llm__check_integer(#field, d->field, 0, high, error)
    LLM__SETTING(temperature, 1e-4, 1e4, true);
    LLM__SETTING(typical_p, 0, 1, false);
    LLM__SETTING(top_p, 0, 1, false);
    LLM__SETTING(min_p, 0, 1, false);
    LLM__SETTING(repetition_penalty, 0.01, 100, true);
    LLM__SETTING(frequency_penalty, -100, 100, false);
    LLM__SETTING(presence_penalty, -100, 100, false);
    LLM__INTEGER(penalty_window, LLM_SAMPLER_MAX_WINDOW);
    LLM__INTEGER(top_logprobs, LLM_SAMPLER_MAX_TOP_LOGPROBS);
#undef LLM__SETTING
#undef LLM__INTEGER
    if (!r) r = llm__check_bias(d, vocab, error);
    if (r) return r;
    if (llm__float_key(d->repetition_penalty) == 0) d->repetition_penalty = 1;
    if (d->penalty_window == 0) d->penalty_window = 64;
    if (d->top_logprobs) d->logprobs = true;
    return LLM_OK;
}

/* Places `count` items behind what is already there, on a 64-byte line. */
static size_t llm__sampler_place(size_t *offset, size_t count, size_t size) {
    size_t at = (*offset + 63) / 64 * 64;
    *offset = at + count * size;
    return at;
}

/* Lays the arrays out behind `s` (NULL: only measures); the sizes are bounded by the checks. */
static size_t llm__layout_sampler(llm_sampler *s, const llm_sampler_desc *d, size_t vocab) {
    bool penalties = llm__float_key(d->repetition_penalty) != llm__float_key(1) ||
                     llm__float_key(d->frequency_penalty) || llm__float_key(d->presence_penalty);
    size_t blocks = (vocab + LLM__LOGIT_BLOCK - 1) / LLM__LOGIT_BLOCK;
    size_t short_blocks = LLM__SHORT_LIST / LLM__LOGIT_BLOCK, masses = blocks;
    size_t window = penalties ? d->penalty_window : 0, end = sizeof(llm_sampler), at[11];
    if (masses < short_blocks) masses = short_blocks;
    at[0] = llm__sampler_place(&end, masses, sizeof(uint64_t));
    at[1] = llm__sampler_place(&end, d->top_logprobs, sizeof(uint64_t));
    at[2] = llm__sampler_place(&end, d->bias_count, sizeof(uint64_t));
    at[3] = llm__sampler_place(&end, d->top_logprobs, sizeof(llm_candidate));
    at[4] = llm__sampler_place(&end, window + d->bias_count, sizeof(llm__patch));
    at[5] = llm__sampler_place(&end, window, sizeof(llm__repeat));
    at[6] = llm__sampler_place(&end, blocks, sizeof(float));
    at[7] = llm__sampler_place(&end, LLM__SHORT_LIST, sizeof(float));
    at[8] = llm__sampler_place(&end, LLM__SHORT_LIST, sizeof(uint32_t));
    at[9] = llm__sampler_place(&end, window, sizeof(uint32_t));
    at[10] = llm__sampler_place(&end, blocks, 1);
    if (s) {
        char *base = (char *)(void *)s;
        s->masses = (uint64_t *)(void *)(base + at[0]);
        s->sorted = (uint64_t *)(void *)(base + at[1]);
        s->bias = (uint64_t *)(void *)(base + at[2]);
        s->found = (llm_candidate *)(void *)(base + at[3]);
        s->patches = (llm__patch *)(void *)(base + at[4]);
        s->repeats = (llm__repeat *)(void *)(base + at[5]);
        s->tops = (float *)(void *)(base + at[6]);
        s->list_values = (float *)(void *)(base + at[7]);
        s->list_ids = (uint32_t *)(void *)(base + at[8]);
        s->ring = (uint32_t *)(void *)(base + at[9]);
        s->dirty = (unsigned char *)(base + at[10]);
        s->window = (uint32_t)window;
        s->blocks = blocks;
        s->vocab = vocab;
        s->bytes = end;
    }
    return end;
}

LLM_API llm_result llm_sampler_query(const llm_sampler_desc *desc, size_t vocab,
                                     llm_sampler_desc *resolved, size_t *bytes, llm_error *error) {
    llm_sampler_desc d;
    llm_result result;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    result = llm__resolve_sampler(&d, vocab, error);
    if (result != LLM_OK) return result;
    if (resolved) *resolved = d;
    if (bytes) *bytes = llm__layout_sampler(NULL, &d, vocab);
    return LLM_OK;
}

/* Steps per unit of logit at a temperature, and the distance at which weights end. */
static llm__heat llm__heat_at(double temperature) {
    llm__heat heat;
    double scale, end;
    float limit;
    LLM__PIN(temperature);
    scale = LLM__STEPS_PER_NAT / temperature;
    LLM__PIN(scale);
    heat.peak = 0;
    heat.scale = (float)scale;
    LLM__PIN(heat.scale);
    scale = (double)heat.scale;
    LLM__PIN(scale);
    end = 43.5 * LLM__OCTAVE / scale; /* weight 0, yet the shift of llm__weight is below 64 */
    LLM__PIN(end);
    limit = (float)end;
    LLM__PIN(limit);
    memcpy(&heat.limit, &limit, sizeof limit);
    return heat;
}

/* A fraction in (0, 1) times 2^32; 0, "off", for 0 and 1. */
static uint64_t llm__fraction(float p) {
    int32_t key = llm__float_key(p);
    uint64_t fixed;
    if (key == 0 || key == llm__float_key(1)) return 0;
    fixed = (uint64_t)((double)p * 4294967296.0);
    return fixed ? fixed : 1;
}

/* -ln(p) for 0 < p <= 1, from the float's bits. */
static double llm__minus_log(float p) {
    int32_t key = llm__float_key(p);
    if (key < 0x00800000) return 87.5; /* below the smallest normal: further than any weight */
    return -llm__log_fixed(((uint64_t)key & 0x7fffffu) | 0x800000u, (key >> 23) - 127 - 23);
}

LLM_API llm_result llm_sampler_create(const llm_sampler_desc *desc, size_t vocab,
                                      const llm_allocator *allocator, llm_sampler **sampler,
                                      llm_error *error) {
    llm_sampler_desc d;
    llm_allocator a;
    llm_sampler *s;
    size_t bytes = 0, i;
    llm_result result;
    if (!sampler)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_create: sampler is NULL");
    *sampler = NULL;
    memset(&a, 0, sizeof a);
    if (allocator) a = *allocator;
    result = llm_sampler_query(desc, vocab, &d, &bytes, error);
    if (result != LLM_OK) return result;
    s = LLM__CAST(llm_sampler *, llm__allocate(&a, bytes));
    if (!s)
        return llm__fail(error, LLM_ERROR_MEMORY, "sampler: no memory for %lu bytes",
                         (unsigned long)bytes);
    memset(s, 0, bytes);
    (void)llm__layout_sampler(s, &d, vocab);
    for (i = 0; i < d.bias_count; i++) {
        uint32_t bits;
        memcpy(&bits, &d.bias[i].bias, sizeof bits);
        s->bias[i] = (uint64_t)d.bias[i].token << 32 | bits;
    }
    llm__sort_u64(s->bias, d.bias_count);
    d.bias = NULL;
    s->desc = d;
    s->allocator = a;
    s->plain = llm__heat_at(1);
    if (d.temperature > 0) s->heated = llm__heat_at((double)d.temperature);
    s->top_p_fixed = llm__fraction(d.top_p);
    s->typical_p_fixed = llm__fraction(d.typical_p);
    s->min_p_distance = llm__float_key(d.min_p) ? llm__minus_log(d.min_p) : -1;
    llm__exp_table_fill(&s->table);
    *sampler = s;
    return LLM_OK;
}

LLM_API void llm_sampler_destroy(llm_sampler *s) {
    llm_allocator a;
    if (!s) return;
    a = s->allocator;
    llm__release(&a, s, s->bytes);
}

/* Adds to or takes from the count of a token in the window, which stays ascending. */
static void llm__repeat_change(llm_sampler *s, uint32_t token, bool add) {
    size_t low = 0, high = s->repeat_count;
    llm__repeat *r;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->repeats[middle].token < token) low = middle + 1;
        else high = middle;
    }
    r = s->repeats + low;
    if (low == s->repeat_count || r->token != token) {
        if (!add) return;
        memmove(r + 1, r, (s->repeat_count++ - low) * sizeof *r);
        r->token = token;
        r->count = 0;
    }
    r->count = add ? r->count + 1 : r->count - 1;
    if (r->count == 0) memmove(r, r + 1, (--s->repeat_count - low) * sizeof *r);
}

static void llm__window_push(llm_sampler *s, uint32_t token) {
    if (!s->window) return;
    if (s->window_used == s->window) llm__repeat_change(s, s->ring[s->window_next], false);
    else s->window_used++;
    s->ring[s->window_next] = token;
    s->window_next = (s->window_next + 1) % s->window;
    llm__repeat_change(s, token, true);
}

static llm_result llm__sampler_check_token(const llm_sampler *s, uint32_t token, llm_error *error) {
    if (token < s->vocab) return LLM_OK;
    return llm__fail(error, LLM_ERROR_ARGUMENT,
                     "sampler: token %lu; expected less than the %lu tokens of the vocabulary",
                     (unsigned long)token, (unsigned long)s->vocab);
}

LLM_API llm_result llm_sampler_accept(llm_sampler *s, uint32_t token, llm_error *error) {
    llm_result result;
    if (!s) return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_accept: sampler is NULL");
    result = llm__sampler_check_token(s, token, error);
    if (result != LLM_OK) return result;
    llm__window_push(s, token);
    s->position++;
    return LLM_OK;
}

LLM_API llm_result llm_sampler_rewind(llm_sampler *s, uint64_t position, const uint32_t *tokens,
                                      size_t count, llm_error *error) {
    size_t i, first;
    if (!s || (!tokens && count))
        return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_rewind: %s is NULL",
                         !s ? "sampler" : "tokens");
    first = count > s->window ? count - s->window : 0;
    for (i = first; i < count; i++) {
        llm_result result = llm__sampler_check_token(s, tokens[i], error);
        if (result != LLM_OK) return result;
    }
    s->window_used = s->window_next = 0;
    s->repeat_count = 0;
    for (i = first; i < count; i++) llm__window_push(s, tokens[i]);
    s->position = position;
    return LLM_OK;
}

LLM_API llm_result llm_sampler_copy(llm_sampler *to, const llm_sampler *from, llm_error *error) {
    if (!to || !from)
        return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_sampler_copy: %s is NULL",
                         !to ? "to" : "from");
    if (to->vocab != from->vocab || to->window != from->window)
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "llm_sampler_copy: from %lu tokens, window %lu to %lu tokens, window %lu; "
                         "expected the same", (unsigned long)from->vocab,
                         (unsigned long)from->window, (unsigned long)to->vocab,
                         (unsigned long)to->window);
    if (to == from) return LLM_OK;
    memcpy(to->ring, from->ring, from->window * sizeof *to->ring);
    memcpy(to->repeats, from->repeats, from->repeat_count * sizeof *to->repeats);
    to->repeat_count = from->repeat_count;
    to->window_used = from->window_used;
    to->window_next = from->window_next;
    to->position = from->position;
    to->desc.seed = from->desc.seed;
    to->desc.stream = from->desc.stream;
    return LLM_OK;
}

LLM_API uint64_t llm_sampler_position(const llm_sampler *s) { return s ? s->position : 0; }
LLM_API uint64_t llm_sampler_seed(const llm_sampler *s) { return s ? s->desc.seed : 0; }
LLM_API void llm_sampler_reseed(llm_sampler *s, uint64_t seed, uint64_t stream) {
    if (!s) return;
    s->desc.seed = seed;
    s->desc.stream = stream;
}

/* ======================================================================== */
/* >>stream: UTF-8 put together again, and stop strings                      */
/*                                                                           */
/* Bytes -> whole characters -> buffer -> out. Each stop string is matched    */
/* by the automaton of Knuth, Morris and Pratt: its state is how much of it   */
/* the end of the text matches, and so how much must be held back. Stop       */
/* strings are valid UTF-8, so what precedes a match ends with a character.   */
/* ======================================================================== */
enum { LLM__STREAM_ROOM = 256 }; /* what one call can give at least, in bytes */

typedef struct llm__stop {
    const unsigned char *text;
    const uint16_t *fallback; /* [i]: longest proper border of the first i + 1 bytes */
    size_t size, matched;
} llm__stop;

/* The decoder: what has been seen of a character and which bytes may follow. */
typedef struct llm__utf8 {
    unsigned char bytes[4];
    unsigned count, missing;
    unsigned char low, high;
} llm__utf8;

struct llm_stream {
    llm_allocator allocator;
    size_t bytes;
    llm__utf8 utf8;
    llm__stop *stops;
    size_t stop_count;
    char *text; /* [capacity]: given[0, given), then held back up to `used` */
    size_t capacity, used, given;
    int stopped;
};

/* Takes a byte. 1: `utf8->bytes[count]` is a character. 0: not yet. -1: what was there is no
   character (one U+FFFD), and the byte is the next one's unless `*taken`. */
static int llm__utf8_byte(llm__utf8 *u, unsigned char byte, bool *taken) {
    *taken = true;
    if (u->missing) {
        if (byte < u->low || byte > u->high) {
            u->missing = 0;
            *taken = false;
            return -1;
        }
        u->bytes[u->count++] = byte;
        u->low = 0x80;
        u->high = 0xbf;
        return --u->missing == 0;
    }
    u->bytes[0] = byte;
    u->count = 1;
    if (byte < 0x80) return 1;
    if (byte < 0xc2 || byte > 0xf4) return -1;
    u->missing = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    u->low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80; /* no overlong forms, */
    u->high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf; /* surrogates, above 10FFFF */
    return 0;
}

/* Offset of the first ill-formed byte sequence; `size` if there is none. */
static size_t llm__utf8_valid(llm_text text) {
    llm__utf8 u;
    size_t i, start = 0;
    bool taken;
    memset(&u, 0, sizeof u);
    for (i = 0; i < text.size; i++) {
        int r = llm__utf8_byte(&u, (unsigned char)text.data[i], &taken);
        if (r < 0) return start;
        if (r > 0) start = i + 1;
    }
    return start;
}

/* Moves a matcher over one more byte; true when the whole stop string is there. */
static bool llm__stop_byte(llm__stop *stop, unsigned char byte) {
    size_t m = stop->matched;
    while (m && stop->text[m] != byte) m = stop->fallback[m - 1];
    if (stop->text[m] == byte) m++;
    stop->matched = m;
    return m == stop->size;
}

/* Appends a character to the buffer and looks for stop strings. */
static void llm__stream_character(llm_stream *s, const unsigned char *bytes, size_t count) {
    size_t i, b, longest = 0;
    memcpy(s->text + s->used, bytes, count);
    s->used += count;
    for (i = 0; i < s->stop_count; i++) {
        llm__stop *stop = s->stops + i;
        bool found = false;
        for (b = 0; b < count; b++) found = llm__stop_byte(stop, bytes[b]);
        if (!found || stop->size <= longest) continue;
        longest = stop->size;
        s->stopped = (int)i;
    }
    s->used -= longest;
}

/* Clears everything but the verdict. */
static void llm__stream_clear(llm_stream *s) {
    size_t i;
    for (i = 0; i < s->stop_count; i++) s->stops[i].matched = 0;
    memset(&s->utf8, 0, sizeof s->utf8);
}

LLM_API bool llm_stream_next(llm_stream *s, llm_text *input, llm_text *output) {
    static const unsigned char replacement[3] = {0xef, 0xbf, 0xbd};
    size_t held = 0, i;
    if (!s || !output) return false;
    s->used -= s->given; /* what the last call gave is gone */
    memmove(s->text, s->text + s->given, s->used);
    s->given = 0;
    while (input && input->size && s->stopped < 0 && s->capacity - s->used >= 4) {
        bool taken;
        int r = llm__utf8_byte(&s->utf8, (unsigned char)*input->data, &taken);
        if (r > 0) llm__stream_character(s, s->utf8.bytes, s->utf8.count);
        if (r < 0) llm__stream_character(s, replacement, sizeof replacement);
        input->data += taken;
        input->size -= taken;
    }
    if (!input && s->stopped < 0 && s->utf8.missing && s->capacity - s->used >= 4) {
        s->utf8.missing = 0;
        llm__stream_character(s, replacement, sizeof replacement);
    }
    if (!input) llm__stream_clear(s);
    for (i = 0; i < s->stop_count && s->stopped < 0; i++)
        if (s->stops[i].matched > held) held = s->stops[i].matched;
    s->given = s->used - held;
    output->data = s->text;
    output->size = s->given;
    return s->given > 0;
}

LLM_API llm_result llm_stream_feed(llm_stream *s, llm_text bytes, llm_emit emit, void *user) {
    llm_text piece;
    if (!s || !emit || (bytes.size && !bytes.data)) return LLM_ERROR_ARGUMENT;
    while (llm_stream_next(s, &bytes, &piece))
        if (!emit(user, piece)) return LLM_CANCELLED;
    return LLM_OK;
}

LLM_API llm_result llm_stream_flush(llm_stream *s, llm_emit emit, void *user) {
    llm_text piece;
    if (!s || !emit) return LLM_ERROR_ARGUMENT;
    while (llm_stream_next(s, NULL, &piece))
        if (!emit(user, piece)) return LLM_CANCELLED;
    return LLM_OK;
}

LLM_API int llm_stream_stopped(const llm_stream *s) { return s ? s->stopped : -1; }

LLM_API void llm_stream_reset(llm_stream *s) {
    if (!s) return;
    llm__stream_clear(s);
    s->used = s->given = 0;
    s->stopped = -1;
}

/* One stop string: present, not too long, valid. */
static llm_result llm__check_stop(llm_text stop, size_t index, llm_error *error) {
    size_t valid;
    if (!stop.data || stop.size == 0 || stop.size > LLM_STREAM_MAX_STOP_BYTES)
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "stream: stops[%lu] has %lu bytes%s; expected 1 to %d",
                         (unsigned long)index, (unsigned long)stop.size,
                         stop.data ? "" : " at NULL", (int)LLM_STREAM_MAX_STOP_BYTES);
    valid = llm__utf8_valid(stop);
    if (valid < stop.size)
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "stream: stops[%lu] has byte 0x%02X at offset %lu; expected UTF-8",
                         (unsigned long)index, (unsigned)(unsigned char)stop.data[valid],
                         (unsigned long)valid);
    return LLM_OK;
}

LLM_API llm_result llm_stream_query(const llm_stream_desc *desc, size_t *bytes, llm_error *error) {
    size_t i, total = 0, longest = 0, count = desc ? desc->stop_count : 0;
    if (count > LLM_STREAM_MAX_STOPS || (count && !desc->stops))
        return llm__fail(error, LLM_ERROR_ARGUMENT,
                         "stream: stop_count is %lu with stops %s; expected at most %d",
                         (unsigned long)count, desc->stops ? "set" : "NULL",
                         (int)LLM_STREAM_MAX_STOPS);
    for (i = 0; i < count; i++) {
        llm_result result = llm__check_stop(desc->stops[i], i, error);
        if (result != LLM_OK) return result;
        total += desc->stops[i].size;
        if (desc->stops[i].size > longest) longest = desc->stops[i].size;
    }
    /* the object, the matchers, their fallbacks, their texts, the buffer */
    if (bytes)
        *bytes = sizeof(llm_stream) + count * sizeof(llm__stop) + total * 3 + longest +
                 LLM__STREAM_ROOM;
    return LLM_OK;
}

/* fallback[i] = length of the longest proper prefix of text[0..i] that is also its suffix. */
static void llm__stop_prepare(const unsigned char *text, size_t size, uint16_t *fallback) {
    size_t i, m = 0;
    fallback[0] = 0;
    for (i = 1; i < size; i++) {
        while (m && text[m] != text[i]) m = fallback[m - 1];
        if (text[m] == text[i]) m++;
        fallback[i] = (uint16_t)m;
    }
}

/* Places the arrays behind the object and fills the matchers. */
static void llm__stream_layout(llm_stream *s, const llm_stream_desc *desc) {
    size_t i, total = 0;
    uint16_t *fallback;
    unsigned char *text;
    s->stop_count = desc ? desc->stop_count : 0;
    s->stops = (llm__stop *)(void *)(s + 1);
    for (i = 0; i < s->stop_count; i++) total += desc->stops[i].size;
    fallback = (uint16_t *)(void *)(s->stops + s->stop_count);
    text = (unsigned char *)(void *)(fallback + total);
    for (i = 0; i < s->stop_count; i++) {
        llm__stop *stop = s->stops + i;
        stop->size = desc->stops[i].size;
        memcpy(text, desc->stops[i].data, stop->size);
        llm__stop_prepare(text, stop->size, fallback);
        stop->text = text;
        stop->fallback = fallback;
        text += stop->size;
        fallback += stop->size;
    }
    s->text = (char *)text;
    s->capacity = s->bytes - (size_t)(s->text - (char *)(void *)s);
}

LLM_API llm_result llm_stream_create(const llm_stream_desc *desc, const llm_allocator *allocator,
                                     llm_stream **stream, llm_error *error) {
    llm_allocator a;
    llm_stream *s;
    size_t bytes = 0;
    llm_result result;
    if (!stream) return llm__fail(error, LLM_ERROR_ARGUMENT, "llm_stream_create: stream is NULL");
    *stream = NULL;
    memset(&a, 0, sizeof a);
    if (allocator) a = *allocator;
    result = llm_stream_query(desc, &bytes, error);
    if (result != LLM_OK) return result;
    s = LLM__CAST(llm_stream *, llm__allocate(&a, bytes));
    if (!s)
        return llm__fail(error, LLM_ERROR_MEMORY, "stream: no memory for %lu bytes",
                         (unsigned long)bytes);
    memset(s, 0, bytes);
    s->allocator = a;
    s->bytes = bytes;
    llm__stream_layout(s, desc);
    s->stopped = -1;
    *stream = s;
    return LLM_OK;
}

LLM_API void llm_stream_destroy(llm_stream *s) {
    llm_allocator a;
    if (!s) return;
    a = s->allocator;
    llm__release(&a, s, s->bytes);
}

/* ======================================================================== */
/* >>template: chat templates, an interpreter of the part of Jinja they use  */
/* ======================================================================== */
/* Source text becomes code for a small stack machine in one pass, without a tree; the machine has
   its own stacks for values, scopes, loops and calls, so the C stack only grows with the nesting
   of an expression or of JSON, which is bounded. Everything lives in one arena that goes back when
   the call returns. Errors stick: the first one is kept, later work becomes harmless, and the
   loops look at `result`. Every piece of work is charged against one budget of steps. */
#ifndef LLM_NO_TEMPLATE

enum {
    LLM__TPL_DEPTH = 112,  /* nesting of the parser's functions (about 3 for a parenthesis) */
    LLM__TPL_NEST = 48,    /* nesting of JSON and of printed values */
    LLM__TPL_STACK = 512,  /* values */
    LLM__TPL_SCOPES = 256, /* open scopes */
    LLM__TPL_LOOPS = 64,
    LLM__TPL_CALLS = 64,
    LLM__TPL_ARGUMENTS = 64,  /* of a call */
    LLM__TPL_PARAMETERS = 32, /* of a macro */
    LLM__TPL_WITH = 8,        /* names in one `with` */
    LLM__TPL_RANGE = 100000, /* items of range(), the limit of jinja2's sandbox */
    LLM__TPL_DIGITS = 800,     /* of a number; 767 tell every double from its neighbours */
    LLM__TPL_SOURCE = 1 << 24, /* bytes of a template */
    LLM__TPL_MAX = 0x7fffffff
};

typedef enum llm__tpl_type {
    LLM__T_MISSING, /* an argument that was not given */
    LLM__T_UNDEFINED,
    LLM__T_NONE,
    LLM__T_BOOL,
    LLM__T_INT,
    LLM__T_FLOAT,
    LLM__T_STRING,
    LLM__T_LIST,
    LLM__T_TUPLE,
    LLM__T_RANGE,
    LLM__T_VIEW,      /* dict.items() and its like */
    LLM__T_GENERATOR, /* what select, map, ... give: empty after it was walked once */
    LLM__T_DICT,
    LLM__T_NAMESPACE,
    LLM__T_LOOP,
    LLM__T_MACRO,
    LLM__T_FUNCTION,
    LLM__T_METHOD,
    LLM__T_MARK /* on the stack only: where captured output began */
} llm__tpl_type;

/* The origin of a string's bytes. */
enum { LLM__UNTRUSTED, LLM__TRUSTED, LLM__MIXED };

/* A value, in 16 bytes. Strings, lists and dicts never change once made, so they are shared. */
typedef struct llm__tval {
    uint8_t type;
    uint8_t trust; /* STRING: origin; when MIXED, that of each byte is 1 << plane bytes behind it */
    uint8_t plane;
    uint8_t more;  /* STRING: 1 is jinja2's Markup, which escapes what is added to it;
                      UNDEFINED: type whose attribute is missing */
    uint32_t n;    /* bytes, items, pairs, native, loop */
    union {
        int64_t i;
        double f;
        const char *s;
        struct llm__tval *v; /* items; keys and values; a GENERATOR's state is before them */
        struct llm__tpl_space *space;
        struct llm__tpl_closure *closure;
    } u;
} llm__tval;

typedef struct llm__tpl_space { /* what namespace() makes: pairs that may change */
    llm__tval *v;
    uint32_t n, capacity;
} llm__tpl_space;

typedef struct llm__tpl_macro {
    llm_text name;
    uint32_t entry, n_params;
    uint32_t *params; /* names */
} llm__tpl_macro;

typedef struct llm__tpl_closure {
    const llm__tpl_macro *macro;
    uint32_t scope;
    uint64_t serial; /* of the scope: says whether it is still the same one */
} llm__tpl_closure;

typedef struct llm__tpl_op {
    uint8_t code, a;
    uint16_t b;
    int32_t c; /* jumps: distance from this operation */
    uint32_t where; /* offset in the source */
} llm__tpl_op;

typedef struct llm__tpl_var {
    uint32_t name;
    llm__tval value;
} llm__tpl_var;

typedef struct llm__tpl_scope {
    uint32_t base, parent; /* first variable; enclosing scope by the text, not by the call */
    uint64_t serial;
} llm__tpl_scope;

typedef struct llm__tpl_loop {
    llm__tval *items, *kept; /* kept: of a loop that filters */
    uint32_t n, i, n_kept, scopes, sp;
    bool filter, walked; /* walked: the end of the body was reached, so `else` does not run */
    uint64_t serial;
} llm__tpl_loop;

typedef struct llm__tpl_call {
    uint32_t back, scopes, loops, sp;
    size_t mark;
} llm__tpl_call;

typedef struct llm__tpl_token {
    int kind;
    uint32_t where;
    llm__tval value; /* NAME, STRING, numbers */
} llm__tpl_token;

typedef struct llm__tpl_array { /* grows by doubling, outside of the arena */
    void *data;
    size_t n, capacity;
} llm__tpl_array;

typedef struct llm__tpl_chunk {
    struct llm__tpl_chunk *next;
    size_t size;
} llm__tpl_chunk;

/* The jumps out of the loop that is being compiled, chained through their `c`. */
typedef struct llm__tpl_exits {
    int32_t breaks, continues;
} llm__tpl_exits;

typedef struct llm__tpl { /* what is used most comes first: short offsets make small code */
    llm_result result;
    uint32_t where; /* of the token or operation at hand: what an error names */
    const llm_template_desc *desc;
    /* source */
    const char *src;
    uint32_t n_src, pos;
    llm__tpl_token token;
    llm__tpl_exits *exits;
    int depth, brackets;
    bool in_block, in_macro;
    /* machine */
    uint32_t sp, n_scopes, n_loops, n_calls;
    uint32_t name_loop;
    llm__tval *stack;
    llm__tpl_scope *scopes;
    llm__tpl_loop *loops;
    llm__tpl_call *calls;
    /* memory */
    llm__tpl_array out, code, vars, names, consts; /* out: bytes, then as many origins */
    llm__tpl_chunk *chunks;
    char *arena;
    size_t arena_left;
    uint64_t steps, serial, max_steps;
    size_t memory, max_memory, max_output;
} llm__tpl;

/* ---- errors, steps, memory ------------------------------------------------------------------- */

/* The parser sees the end, once there was an error. */
static void llm__tpl_end(llm__tpl *t, llm_result code) {
    t->result = code;
    t->pos = t->n_src;
    t->token.kind = 0;
}

#if defined(LLM_NO_MESSAGES)
#define llm__tpl_fail(t, code, ...) ((void)sizeof(llm__words(__VA_ARGS__)), llm__tpl_fail_as(t, code))
static void llm__tpl_fail_as(llm__tpl *t, llm_result code) {
    if (t->result == LLM_OK) llm__tpl_end(t, llm__fail_as(t->desc->error, code));
}
#else
static void llm__tpl_fail(llm__tpl *t, llm_result code, const char *format, ...) LLM__PRINTF(3, 4);
static void llm__tpl_fail(llm__tpl *t, llm_result code, const char *format, ...) {
    uint32_t i, line = 1, column = 1;
    char text[192];
    va_list args;
    if (t->result != LLM_OK) return;
    for (i = 0; i < t->where; i++) {
        column++;
        if (t->src[i] == '\n') line++, column = 1;
    }
    va_start(args, format);
    (void)llm__vsnprintf(text, sizeof text, format, args);
    va_end(args);
    llm__tpl_end(t, llm__fail(t->desc->error, code, "chat template, line %u, column %u: %s",
                              (unsigned)line, (unsigned)column, text));
}
#endif

/* One of the bounds that the caller may set. */
static void llm__tpl_fail_limit(llm__tpl *t, const char *what, uint64_t limit, const char *unit) {
    llm__tpl_fail(t, LLM_ERROR_LIMIT, "it needs more than %s, which is %llu %s", what,
                  (unsigned long long)limit, unit);
}

static bool llm__tpl_charge(llm__tpl *t, size_t steps) {
    if (t->result != LLM_OK) return false;
    if (t->steps < steps) {
        t->steps = 0;
        llm__tpl_fail_limit(t, "max_steps", t->max_steps, "operations");
        return false;
    }
    t->steps -= steps;
    return true;
}

static void *llm__tpl_block(llm__tpl *t, size_t count, size_t item) {
    void *memory = NULL;
    if (count > t->memory / item) {
        llm__tpl_fail_limit(t, "max_memory", t->max_memory, "bytes");
    } else {
        memory = llm__allocate(&t->desc->allocator, count * item);
        if (memory) t->memory -= count * item;
        else llm__tpl_fail(t, LLM_ERROR_MEMORY, "no memory for %lu bytes",
                           (unsigned long)(count * item));
    }
    return memory;
}

/* NULL after an error. Aligned for every type used here. */
static void *llm__tpl_alloc(llm__tpl *t, size_t count, size_t item) {
    size_t size, big;
    char *memory;
    if (t->result != LLM_OK) return NULL;
    if (count > LLM__TPL_MAX / item) {
        llm__tpl_fail_limit(t, "one value may have", LLM__TPL_MAX, "bytes");
        return NULL;
    }
    size = (count * item + 15) & ~(size_t)15;
    if (size > t->arena_left) {
        size_t head = (sizeof(llm__tpl_chunk) + 15) & ~(size_t)15;
        big = size + head > 0x8000 ? size + head : 0x8000;
        memory = LLM__CAST(char *, llm__tpl_block(t, big, 1));
        if (!memory) return NULL;
        {
            llm__tpl_chunk chunk;
            chunk.next = t->chunks;
            chunk.size = big;
            memcpy(memory, &chunk, sizeof chunk);
        }
        t->chunks = LLM__CAST(llm__tpl_chunk *, LLM__CAST(void *, memory));
        if (big - head - size >= t->arena_left) { /* keep the chunk with more room */
            t->arena = memory + head + size;
            t->arena_left = big - head - size;
        }
        return memory + head;
    }
    memory = t->arena;
    t->arena += size;
    t->arena_left -= size;
    return memory;
}

/* Makes room for `more` items in an array; `two` parallel planes for the output. */
static bool llm__tpl_reserve(llm__tpl *t, llm__tpl_array *a, size_t more, size_t item, bool two) {
    size_t capacity = a->capacity ? a->capacity : 64, planes = two ? 2 : 1;
    void *data;
    if (t->result != LLM_OK) return false;
    if (more <= a->capacity - a->n) return true;
    if (more > LLM__TPL_MAX - a->n) {
        llm__tpl_fail_limit(t, "one value may have", LLM__TPL_MAX, "bytes");
        return false;
    }
    while (capacity < a->n + more) capacity *= 2;
    data = llm__tpl_block(t, capacity, item * planes);
    if (!data) return false;
    if (a->n) memcpy(data, a->data, a->n * item);
    if (two && a->n) {
        memcpy(LLM__CAST(char *, data) + capacity, LLM__CAST(char *, a->data) + a->capacity, a->n);
    }
    llm__release(&t->desc->allocator, a->data, a->capacity * item * planes);
    t->memory += a->capacity * item * planes;
    a->data = data;
    a->capacity = capacity;
    return true;
}

static void llm__tpl_close(llm__tpl *t) {
    const llm_allocator *a = &t->desc->allocator;
    llm__release(a, t->code.data, t->code.capacity * sizeof(llm__tpl_op));
    llm__release(a, t->consts.data, t->consts.capacity * sizeof(llm__tval));
    llm__release(a, t->names.data, t->names.capacity * sizeof(llm_text));
    llm__release(a, t->vars.data, t->vars.capacity * sizeof(llm__tpl_var));
    llm__release(a, t->out.data, t->out.capacity * 2);
    while (t->chunks) {
        llm__tpl_chunk *chunk = t->chunks;
        t->chunks = chunk->next;
        llm__release(a, chunk, chunk->size);
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

static llm__tval llm__tpl_value(llm__tpl_type type) {
    llm__tval v;
    memset(&v, 0, sizeof v);
    v.type = (uint8_t)type;
    return v;
}

static llm__tval llm__tpl_int(int64_t i) {
    llm__tval v = llm__tpl_value(LLM__T_INT);
    v.u.i = i;
    return v;
}

static llm__tval llm__tpl_bool(bool b) {
    llm__tval v = llm__tpl_value(LLM__T_BOOL);
    v.u.i = b;
    return v;
}

static llm__tval llm__tpl_float(double f) {
    llm__tval v = llm__tpl_value(LLM__T_FLOAT);
    v.u.f = f;
    return v;
}

static llm__tval llm__tpl_string(const char *s, size_t n, unsigned trust) {
    llm__tval v = llm__tpl_value(LLM__T_STRING);
    v.u.s = s ? s : "";
    v.n = (uint32_t)n;
    v.trust = (uint8_t)trust;
    return v;
}

static llm__tval llm__tpl_text_value(llm__tpl *t, llm_text text, unsigned trust) {
    if (text.size > LLM__TPL_MAX) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "a text has %llu bytes, expected at most %d",
                      (unsigned long long)text.size, (int)LLM__TPL_MAX);
        text.size = 0;
    }
    return llm__tpl_string(text.data, text.size, trust);
}

static llm__tval llm__tpl_undefined(const char *name, size_t n, unsigned owner) {
    llm__tval v = llm__tpl_string(name, n, LLM__UNTRUSTED);
    v.type = LLM__T_UNDEFINED;
    v.more = (uint8_t)owner;
    return v;
}

/* `n` items (twice as many for DICT), which the caller fills. */
static llm__tval llm__tpl_seq(llm__tpl *t, llm__tpl_type type, size_t n) {
    llm__tval v = llm__tpl_value(type);
    size_t count = (type == LLM__T_DICT ? 2 * n : n) + (type == LLM__T_GENERATOR);
    if (!llm__tpl_charge(t, n / 4)) return v;
    v.u.v = LLM__CAST(llm__tval *, llm__tpl_alloc(t, count, sizeof v));
    if (!v.u.v) return v;
    if (type == LLM__T_GENERATOR) *v.u.v++ = llm__tpl_bool(false);
    v.n = (uint32_t)n;
    return v;
}

static bool llm__tpl_is_seq(const llm__tval *v) {
    return v->type == LLM__T_LIST || v->type == LLM__T_TUPLE || v->type == LLM__T_RANGE;
}
static bool llm__tpl_is_number(const llm__tval *v) {
    return v->type == LLM__T_INT || v->type == LLM__T_FLOAT || v->type == LLM__T_BOOL;
}
static bool llm__tpl_is_integer(const llm__tval *v) {
    return v->type == LLM__T_INT || v->type == LLM__T_BOOL;
}
static double llm__tpl_real(const llm__tval *v) {
    return v->type == LLM__T_FLOAT ? v->u.f : (double)v->u.i;
}
static bool llm__tpl_is(const llm__tval *v, const char *text) {
    size_t n = strlen(text);
    return v->type == LLM__T_STRING && v->n == n && memcmp(v->u.s, text, n) == 0;
}

static bool llm__tpl_truth(const llm__tval *v) {
    switch (v->type) {
    case LLM__T_MISSING: case LLM__T_UNDEFINED: case LLM__T_NONE: return false;
    case LLM__T_BOOL: case LLM__T_INT: return v->u.i != 0;
    case LLM__T_FLOAT: return v->u.f < 0 || v->u.f > 0;
    case LLM__T_STRING: case LLM__T_LIST: case LLM__T_TUPLE: case LLM__T_RANGE: case LLM__T_VIEW:
    case LLM__T_DICT: return v->n != 0;
    default: return true;
    }
}

/* The type's name in Python, for messages. */
static const char *llm__tpl_type_name(unsigned type) {
    static const char names[][12] = {"nothing",   "undefined", "None",   "bool",      "int",
                                        "float",     "str",       "list",   "tuple",     "range",
                                        "dict view", "generator", "dict",   "Namespace", "loop",
                                        "macro",     "function",  "method", "mark"};
    return names[type];
}

/* How much of a text a message shows. */
static int llm__tpl_clip(size_t n) {
    return n > 60 ? 60 : (int)n;
}

/* What jinja2 says when an undefined value is used. */
static void llm__tpl_fail_undefined(llm__tpl *t, const llm__tval *v) {
    int n = llm__tpl_clip(v->n);
    if (v->more) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%s has no attribute or item '%.*s'",
                      llm__tpl_type_name(v->more), n, v->u.s);
    } else {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%.*s' is undefined", n, v->u.s);
    }
}

/* A value that cannot be used so: names it by type and, where that is short, by itself. */
static void llm__tpl_fail_type(llm__tpl *t, const char *what, const llm__tval *v) {
    const char *type = llm__tpl_type_name(v->type);
    if (v->type == LLM__T_UNDEFINED) {
        llm__tpl_fail_undefined(t, v);
    } else if (v->type == LLM__T_INT) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%s %lld %s", type, (long long)v->u.i, what);
    } else if (v->type == LLM__T_STRING) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%s '%.*s' %s", type, llm__tpl_clip(v->n), v->u.s,
                      what);
    } else {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%s %s", type, what);
    }
}

/* What Python has and this has not. */
static void llm__tpl_fail_missing(llm__tpl *t, const char *what, const llm__tval *name) {
    llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "%s '%.*s' is not supported", what,
                  llm__tpl_clip(name->n), name->u.s);
}

/* ---- characters ------------------------------------------------------------------------------ */

/* The character at s < end, and its bytes in *n. A byte that is no UTF-8 is a character of its
   own, above Unicode, so that it passes through unharmed. */
static uint32_t llm__tpl_char(const char *s, const char *end, uint32_t *n) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c = (unsigned char)*s, k, i;
    *n = 1;
    if (c < 0x80) return c;
    k = c >= 0xf0 && c < 0xf5 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc2 && c < 0xe0 ? 2 : 0;
    if (k == 0 || (size_t)(end - s) < k) return 0x110000 + c;
    c &= 0xffu >> (k + 1);
    for (i = 1; i < k; i++) {
        if (((unsigned char)s[i] & 0xc0) != 0x80) return 0x110000 + (unsigned char)*s;
        c = c << 6 | ((unsigned char)s[i] & 0x3f);
    }
    if (c < least[k] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        return 0x110000 + (unsigned char)*s;
    }
    *n = k;
    return c;
}

static uint32_t llm__tpl_encode(uint32_t c, char *s) {
    if (c > 0x10ffff) return s[0] = (char)(c & 0xff), 1;
    if (c < 0x80) return s[0] = (char)c, 1;
    if (c < 0x800) return s[0] = (char)(0xc0 | c >> 6), s[1] = (char)(0x80 | (c & 63)), 2;
    s[1] = (char)(0x80 | (c >> 6 & 63));
    s[2] = (char)(0x80 | (c & 63));
    if (c < 0x10000) return s[0] = (char)(0xe0 | c >> 12), 3;
    s[3] = s[2];
    s[2] = s[1];
    s[1] = (char)(0x80 | (c >> 12 & 63));
    return s[0] = (char)(0xf0 | c >> 18), 4;
}

/* str.isspace, which is also what \s matches. */
static bool llm__tpl_space_char(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Where str.splitlines ends a line. */
static bool llm__tpl_line_char(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

/* Control, format, separator, surrogate and private characters, which repr() escapes (and so it
   does with unassigned ones; here they pass, as do bytes that are no UTF-8). */
static bool llm__tpl_printable(uint32_t c) {
    static const uint32_t borders[] = { /* first of a range, first after it, and so on */
        0x00,    0x20,    0x7f,    0xa1,    0xad,    0xae,    0x600,   0x606,   0x61c,   0x61d,
        0x6dd,   0x6de,   0x70f,   0x710,   0x890,   0x892,   0x8e2,   0x8e3,   0x1680,  0x1681,
        0x180e,  0x180f,  0x2000,  0x2010,  0x2028,  0x2030,  0x205f,  0x2070,  0x3000,  0x3001,
        0xd800,  0xf900,  0xfeff,  0xff00,  0xfff0,  0xfffc,  0xfffe,  0x10000, 0x110bd, 0x110be,
        0x110cd, 0x110ce, 0x13430, 0x13440, 0x1bca0, 0x1bca4, 0x1d173, 0x1d17b, 0xe0000, 0xe0100,
        0xe01f0, 0x110000};
    size_t i = sizeof borders / sizeof borders[0];
    while (c < borders[i - 1]) i--;
    return i % 2 == 0;
}

/* Upper and lower case of the common alphabets; 0 in `*known` for a character outside of them that
   may have case. Positive delta: upper case at lo..hi, lower case that much further. 1: pairs
   beginning with an upper case letter. 0: not known here. Others have no case. */
static uint32_t llm__tpl_case_char(uint32_t c, bool upper, bool *known) {
    static const uint32_t ranges[][3] = {
        {0x41, 0x5a, 32},      {0xb5, 0xb5, 0},       {0xc0, 0xd6, 32},      {0xd8, 0xde, 32},
        {0xdf, 0xdf, 0},       {0x100, 0x12f, 1},     {0x130, 0x131, 0},     {0x132, 0x137, 1},
        {0x139, 0x148, 1},     {0x149, 0x149, 0},     {0x14a, 0x177, 1},     {0x179, 0x17e, 1},
        {0x178, 0x2af, 0},     {0x345, 0x37f, 0},     {0x386, 0x390, 0},     {0x3a3, 0x3a3, 0},
        {0x3c2, 0x3c3, 0},     {0x391, 0x3a1, 32},    {0x3a4, 0x3a9, 32},    {0x3aa, 0x3b0, 0},
        {0x3ca, 0x3ff, 0},     {0x400, 0x40f, 80},    {0x410, 0x42f, 32},    {0x460, 0x481, 1},
        {0x48a, 0x4bf, 1},     {0x4c0, 0x4cf, 0},     {0x4d0, 0x52f, 1},     {0x531, 0x556, 48},
        {0x587, 0x587, 0},     {0x10a0, 0x10ff, 0},   {0x13a0, 0x13ff, 0},   {0x1c80, 0x1cbf, 0},
        {0x1d00, 0x1dbf, 0},   {0x1e00, 0x1fff, 0},   {0x2071, 0x209c, 0},   {0x2102, 0x2188, 0},
        {0x24b6, 0x24cf, 26},  {0x2c00, 0x2d2d, 0},   {0xa640, 0xa69d, 0},   {0xa722, 0xa7ff, 0},
        {0xab30, 0xabbf, 0},   {0xfb00, 0xfb17, 0},   {0xff21, 0xff3a, 32},  {0x10400, 0x105bf, 0},
        {0x10780, 0x107bf, 0}, {0x10c80, 0x10d9f, 0}, {0x118a0, 0x118df, 0}, {0x16e40, 0x16eff, 0},
        {0x1e900, 0x1e943, 0}};
    size_t i;
    *known = true;
    if (c == 0xff) *known = false; /* its upper case lies elsewhere */
    for (i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        uint32_t lo = ranges[i][0], hi = ranges[i][1], delta = ranges[i][2];
        if (delta == 1) {
            if (c >= lo && c <= hi) return upper ? lo + ((c - lo) & ~1u) : lo + ((c - lo) | 1);
        } else if (c >= lo && c <= hi) {
            *known = delta != 0;
            return upper ? c : c + delta;
        } else if (delta && c >= lo + delta && c <= hi + delta) {
            return upper ? c - delta : c;
        }
    }
    return c;
}

/* Code points in a string; the byte where code point k begins (the end if there are fewer). */
static uint32_t llm__tpl_chars(llm__tpl *t, const llm__tval *v) {
    const char *s = v->u.s, *end = s + v->n;
    uint32_t n, count = 0;
    if (!llm__tpl_charge(t, v->n / 8)) return 0;
    for (; s < end; s += n, count++) (void)llm__tpl_char(s, end, &n);
    return count;
}
static uint32_t llm__tpl_offset(llm__tpl *t, const llm__tval *v, uint32_t k) {
    const char *s = v->u.s, *end = s + v->n;
    uint32_t n;
    if (!llm__tpl_charge(t, k / 8)) return 0;
    for (; s < end && k; s += n, k--) (void)llm__tpl_char(s, end, &n);
    return (uint32_t)(s - v->u.s);
}

/* Bytes [begin, end) of a string, shared. */
static llm__tval llm__tpl_sub(const llm__tval *v, uint32_t begin, uint32_t end) {
    llm__tval r = *v;
    r.u.s += begin;
    r.n = end - begin;
    return r;
}

/* ---- output: one growing buffer for the text and for every string in the making -------------- */

static void llm__tpl_put(llm__tpl *t, const char *s, size_t n, unsigned trust,
                         const uint8_t *mask) {
    uint8_t *origins;
    if (n == 0 || !llm__tpl_charge(t, n / 32)) return;
    if (n > t->max_output - t->out.n) {
        llm__tpl_fail_limit(t, "max_output", t->max_output, "bytes");
        return;
    }
    if (!llm__tpl_reserve(t, &t->out, n, 1, true)) return;
    origins = LLM__CAST(uint8_t *, t->out.data) + t->out.capacity + t->out.n;
    memcpy(LLM__CAST(char *, t->out.data) + t->out.n, s, n);
    if (mask) memcpy(origins, mask, n);
    else memset(origins, (int)trust, n);
    t->out.n += n;
}

static void llm__tpl_puts(llm__tpl *t, const char *s, unsigned trust) {
    llm__tpl_put(t, s, strlen(s), trust, NULL);
}

/* The origins of a string's bytes, or NULL when they are all the same. */
static const uint8_t *llm__tpl_origins(const llm__tval *v) {
    if (v->trust != LLM__MIXED) return NULL;
    return LLM__CAST(const uint8_t *, LLM__CAST(const void *, v->u.s)) + ((size_t)1 << v->plane);
}

/* Bytes [at, at + n) of `v` as they are, or character `c` with the origin of byte `at`. */
static void llm__tpl_put_sub(llm__tpl *t, const llm__tval *v, uint32_t at, uint32_t n) {
    const uint8_t *origins = llm__tpl_origins(v);
    llm__tpl_put(t, v->u.s + at, n, v->trust, origins ? origins + at : NULL);
}
static void llm__tpl_put_string(llm__tpl *t, const llm__tval *v) {
    llm__tpl_put_sub(t, v, 0, v->n);
}
static void llm__tpl_put_char(llm__tpl *t, uint32_t c, const llm__tval *v, uint32_t at) {
    char s[4];
    uint32_t n = llm__tpl_encode(c, s);
    const uint8_t *origins = llm__tpl_origins(v);
    llm__tpl_put(t, s, n, origins ? origins[at] : v->trust, NULL);
}

/* What was put since `mark`, taken out of the buffer as a string. */
static llm__tval llm__tpl_cut(llm__tpl *t, size_t mark) {
    size_t n = t->out.n - mark, plane = 0;
    const char *s = LLM__CAST(const char *, t->out.data);
    llm__tval v = llm__tpl_string("", 0, LLM__TRUSTED);
    const uint8_t *origins;
    char *copy;
    if (t->result != LLM_OK || n == 0) return v;
    origins = LLM__CAST(const uint8_t *, t->out.data) + t->out.capacity + mark;
    v.trust = origins[0];
    if (memchr(origins, origins[0] == LLM__TRUSTED ? LLM__UNTRUSTED : LLM__TRUSTED, n)) {
        v.trust = LLM__MIXED;
        while ((size_t)1 << v.plane < n) v.plane++;
        plane = (size_t)1 << v.plane;
    }
    copy = LLM__CAST(char *, llm__tpl_alloc(t, n + plane, 1));
    if (!copy) return llm__tpl_string("", 0, LLM__TRUSTED);
    memcpy(copy, s + mark, n);
    if (plane) memcpy(copy + plane, origins, n);
    t->out.n = mark;
    v.u.s = copy;
    v.n = (uint32_t)n;
    return v;
}

static bool llm__tpl_digit(char c) {
    return (unsigned char)(c - '0') < 10;
}

/* A natural number, the least word first. The largest of llm__tpl_decimal is less than
   2^60 * 10^LLM__TPL_DIGITS, which takes 85 words. */
typedef struct llm__tpl_big {
    uint32_t n, words[96];
} llm__tpl_big;

/* a = a * by + add */
static void llm__tpl_big_mul(llm__tpl_big *a, uint32_t by, uint32_t add) {
    uint64_t carry = add;
    uint32_t i;
    for (i = 0; i < a->n; i++, carry >>= 32) {
        carry += (uint64_t)a->words[i] * by;
        a->words[i] = (uint32_t)carry;
    }
    if (carry) a->words[a->n++] = (uint32_t)carry;
}

/* a = a * 2^k, where a is not 0. */
static void llm__tpl_big_shift(llm__tpl_big *a, uint32_t k) {
    memmove(a->words + k / 32, a->words, a->n * sizeof *a->words);
    memset(a->words, 0, k / 32 * sizeof *a->words);
    a->n += k / 32;
    llm__tpl_big_mul(a, (uint32_t)1 << k % 32, 0);
}

/* a = a - q * b, which is not negative. */
static void llm__tpl_big_sub(llm__tpl_big *a, const llm__tpl_big *b, uint32_t q) {
    uint64_t carry = 0, less;
    uint32_t i;
    for (i = 0; i < a->n; i++) {
        carry += i < b->n ? (uint64_t)b->words[i] * q : 0;
        less = (uint64_t)a->words[i] - (uint32_t)carry;
        a->words[i] = (uint32_t)less;
        carry = (carry >> 32) + (less >> 63);
    }
    while (a->n && !a->words[a->n - 1]) a->n--;
}

static bool llm__tpl_big_less(const llm__tpl_big *a, const llm__tpl_big *b) {
    uint32_t i = a->n;
    if (a->n != b->n) return a->n < b->n;
    while (i && a->words[i - 1] == b->words[i - 1]) i--;
    return i && a->words[i - 1] < b->words[i - 1];
}

/* a = a % b; returns a / b, which is less than 2^28. The first word of b is at least 2^31, so that
   the quotient of the first words is hardly too small. */
static uint32_t llm__tpl_big_divide(llm__tpl_big *a, const llm__tpl_big *b) {
    uint64_t top = a->n < b->n ? 0 : a->words[b->n - 1];
    uint32_t q;
    if (a->n > b->n) top |= (uint64_t)a->words[b->n] << 32;
    q = (uint32_t)(top / ((uint64_t)b->words[b->n - 1] + 1));
    for (llm__tpl_big_sub(a, b, q); !llm__tpl_big_less(a, b); q++) llm__tpl_big_sub(a, b, 1);
    return q;
}

static int llm__tpl_big_bits(const llm__tpl_big *a) {
    int bits = 32 * ((int)a->n - 1);
    uint32_t top = a->words[a->n - 1];
    for (; top; top >>= 1) bits++;
    return bits;
}

/* bits * 2^two, where bits has 55 or 56 bits, as the double's bits; halves go to even. */
static uint64_t llm__tpl_round(uint64_t bits, int two) {
    const uint64_t infinity = (uint64_t)0x7ff << 52;
    int drop = bits >> 55 ? 3 : 2;
    uint64_t rest, half;
    if (two + drop < -1074) drop = -1074 - two; /* fewer bits where doubles have fewer */
    half = (uint64_t)1 << (drop - 1);
    rest = bits & (2 * half - 1);
    bits >>= drop;
    bits += rest > half || (rest == half && (bits & 1));
    bits += (uint64_t)(two + drop + 1074) << 52; /* the first of 53 bits adds one to the exponent */
    return bits < infinity ? bits : infinity;
}

/* digits * 10^exponent, rounded once, by long division: libraries differ, and so do locales. There
   are at most LLM__TPL_DIGITS digits; the first is not 0 unless all are. */
static double llm__tpl_decimal(const char *digits, uint32_t n, int64_t exponent) {
    llm__tpl_big a = {0, {0}}, b = {1, {1}};
    uint64_t bits;
    double value;
    uint32_t i, by, add;
    int k, two;
    if (exponent + n < -324) return 0;
    if (exponent + n > 310) exponent = 310 - (int64_t)n; /* infinity all the same */
    for (i = 0; i < n; llm__tpl_big_mul(&a, by, add)) {
        for (by = 1, add = 0; i < n && by < 1000000000; by *= 10) {
            add = add * 10 + (uint32_t)(digits[i++] - '0');
        }
    }
    if (!a.n) return 0;
    for (k = abs((int)exponent); k > 0; k -= 13) { /* the twos of the tens come with the rest */
        for (by = 1, i = 0; i < 13 && (int)i < k; i++) by *= 5;
        llm__tpl_big_mul(exponent < 0 ? &b : &a, by, 0);
    }
    two = llm__tpl_big_bits(&a) - llm__tpl_big_bits(&b) - 27;
    k = -(llm__tpl_big_bits(&b) + (two > 0 ? two : 0)) & 31;
    llm__tpl_big_shift(&b, (uint32_t)(k + (two > 0 ? two : 0)));
    llm__tpl_big_shift(&a, (uint32_t)(k + (two < 0 ? -two : 0))); /* 2^26 < a / b < 2^28 */
    bits = (uint64_t)llm__tpl_big_divide(&a, &b) << 28;
    llm__tpl_big_mul(&a, (uint32_t)1 << 28, 0);
    bits |= llm__tpl_big_divide(&a, &b);
    bits |= a.n != 0; /* of what remains, only whether there is any can decide */
    bits = llm__tpl_round(bits, two - 28 + (int)exponent);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* repr(float): the shortest digits that read back as the same number. Independent of the locale,
   as the point is never read by the C library, whatever it prints. */
static void llm__tpl_put_float(llm__tpl *t, double f, bool json) {
    char text[40], digits[24], out[64];
    int p, i, n = 0, exponent = 0, sign, k = 0;
    double size;
    uint64_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (bits >> 63) out[k++] = '-';
    bits &= (uint64_t)INT64_MAX;
    if (bits >= (uint64_t)0x7ff << 52) {
        static const char names[2][2][9] = {{"inf", "nan"}, {"Infinity", "NaN"}};
        const bool nan = bits > (uint64_t)0x7ff << 52;
        if (k && !nan) llm__tpl_puts(t, "-", LLM__TRUSTED);
        llm__tpl_puts(t, names[json][nan], LLM__TRUSTED);
        return;
    }
    memcpy(&size, &bits, sizeof size);
    if (!llm__tpl_charge(t, 64)) return;
    for (p = 0;; p++) { /* ends: 17 digits name every double */
        double back;
        (void)snprintf(text, sizeof text, "%.*e", p, size);
        for (i = 0, n = 0; text[i] != 'e'; i++) {
            if (llm__tpl_digit(text[i])) digits[n++] = text[i];
        }
        sign = text[i + 1] == '-' ? -1 : 1;
        for (exponent = 0, i += 2; text[i]; i++) exponent = 10 * exponent + sign * (text[i] - '0');
        back = llm__tpl_decimal(digits, (uint32_t)n, exponent - p);
        if (memcmp(&back, &size, sizeof back) == 0) break;
    }
    if (exponent < -4 || exponent >= 16) {
        out[k++] = digits[0];
        if (n > 1) out[k++] = '.';
        for (i = 1; i < n; i++) out[k++] = digits[i];
        (void)snprintf(out + k, 16, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        for (i = exponent < 0 ? exponent : 0; i < n || i <= exponent + 1; i++) {
            if (i == exponent + 1) out[k++] = '.';
            out[k++] = i < 0 || i >= n ? '0' : digits[i];
        }
        out[k] = 0;
    }
    llm__tpl_puts(t, out, LLM__TRUSTED);
}

/* Appends a digit to a number's, leading zeros apart. false: there is no room; then the last digit
   only says whether all that follow are 0. */
static bool llm__tpl_push_digit(char *digits, uint32_t *n, char c) {
    if (*n == LLM__TPL_DIGITS) {
        if (c != '0' && digits[*n - 1] == '0') digits[*n - 1] = '1';
        return false;
    }
    if (*n || c != '0') digits[(*n)++] = c;
    return true;
}

/* The bytes of "12", "1.5", "1e9" (no sign) at the beginning of s; 0: no number. `loose`: also of
   "1." and ".5". */
static uint32_t llm__tpl_number(llm__tpl *t, const char *s, uint32_t size, llm__tval *v,
                                bool loose) {
    char text[LLM__TPL_DIGITS];
    uint32_t i = 0, n = 0, j;
    int64_t whole = 0, exponent = 0;
    bool big = false, real = false;
    for (; i < size && llm__tpl_digit(s[i]); i++) {
        big = big || whole > (INT64_MAX - (s[i] - '0')) / 10;
        if (!big) whole = whole * 10 + (s[i] - '0');
        exponent += !llm__tpl_push_digit(text, &n, s[i]);
    }
    if (i < size && s[i] == '.' &&
        ((i && loose) || (i + 1 < size && llm__tpl_digit(s[i + 1]) && (i || loose)))) {
        real = true;
        for (i++; i < size && llm__tpl_digit(s[i]); i++) {
            exponent -= llm__tpl_push_digit(text, &n, s[i]);
        }
    }
    if (i && i < size && (s[i] | 32) == 'e') {
        int64_t e = 0;
        j = i + 1;
        if (j < size && (s[j] == '+' || s[j] == '-')) j++;
        if (j < size && llm__tpl_digit(s[j])) {
            for (real = true; j < size && llm__tpl_digit(s[j]); j++) {
                if (e < (int64_t)1 << 40) e = e * 10 + (s[j] - '0');
            }
            exponent += s[i + 1] == '-' ? -e : e;
            i = j;
        }
    }
    (void)llm__tpl_charge(t, i / 8);
    if (real) {
        (void)llm__tpl_charge(t, 8);
        *v = llm__tpl_float(llm__tpl_decimal(text, n, exponent));
    } else {
        if (big) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "the integer '%.*s' needs more than 64 bits",
                          llm__tpl_clip(i), s);
        }
        *v = llm__tpl_int(whole);
    }
    return i;
}

/* ---- writing values: str(), repr(), json.dumps() --------------------------------------------- */

typedef struct llm__tpl_json {
    bool ascii, sort, pretty;
    llm__tval indent, comma, colon;
} llm__tpl_json;

static void llm__tpl_put_int(llm__tpl *t, int64_t i) {
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)i);
    llm__tpl_puts(t, text, LLM__TRUSTED);
}

/* A quoted string; json NULL: as repr() does. The quotes are formatting, hence not trusted. */
static void llm__tpl_put_quoted(llm__tpl *t, const llm__tval *v, const llm__tpl_json *json) {
    const char *s = v->u.s, *e;
    char text[16];
    uint32_t i, n, c, from = 0;
    char quote = '"';
    if (!json && (!memchr(s, '\'', v->n) || memchr(s, '"', v->n))) quote = '\'';
    llm__tpl_put(t, &quote, 1, LLM__UNTRUSTED, NULL);
    if (!llm__tpl_charge(t, v->n / 4)) return;
    for (i = 0; i < v->n; i += n) {
        static const char plain[] = "\n\r\t\\\b\f", letter[] = "nrt\\bf";
        c = llm__tpl_char(s + i, s + v->n, &n);
        e = c && c < 0x80 ? strchr(plain, (int)c) : NULL;
        if (e && (json || e < plain + 4)) {
            (void)snprintf(text, sizeof text, "\\%c", letter[e - plain]);
        } else if (c == (unsigned char)quote) {
            (void)snprintf(text, sizeof text, "\\%c", quote);
        } else if (json ? c > 0x10ffff || (c >= 0x20 && (!json->ascii || c < 0x7f))
                        : llm__tpl_printable(c)) {
            continue;
        } else if (!json && c < 0x10000) {
            (void)snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)c);
        } else if (!json) {
            (void)snprintf(text, sizeof text, "\\U%08x", (unsigned)c);
        } else if (c < 0x10000) {
            (void)snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        } else {
            (void)snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0u + (unsigned)(c >> 10),
                           0xdc00u + (unsigned)(c & 0x3ff));
        }
        llm__tpl_put_sub(t, v, from, i - from);
        llm__tpl_puts(t, text, LLM__UNTRUSTED);
        from = i + n;
    }
    llm__tpl_put_sub(t, v, from, v->n - from);
    llm__tpl_put(t, &quote, 1, LLM__UNTRUSTED, NULL);
}

static llm__tval llm__tpl_sorted(llm__tpl *t, const llm__tval *list, const llm__tval *keys,
                                 bool reverse);

/* The pairs of a dict in the order of their keys. */
static llm__tval llm__tpl_sort_pairs(llm__tpl *t, const llm__tval *v) {
    llm__tval keys = llm__tpl_seq(t, LLM__T_LIST, v->n), pairs = llm__tpl_seq(t, LLM__T_LIST, v->n);
    llm__tval r = *v, sorted;
    uint32_t i;
    if (t->result != LLM_OK) return r;
    for (i = 0; i < v->n; i++) {
        keys.u.v[i] = v->u.v[2 * i];
        pairs.u.v[i] = llm__tpl_value(LLM__T_TUPLE);
        pairs.u.v[i].u.v = v->u.v + 2 * i;
        pairs.u.v[i].n = 2;
    }
    sorted = llm__tpl_sorted(t, &pairs, &keys, false);
    r = llm__tpl_seq(t, LLM__T_DICT, v->n);
    if (t->result != LLM_OK) return *v;
    for (i = 0; i < v->n; i++) {
        r.u.v[2 * i] = sorted.u.v[i].u.v[0];
        r.u.v[2 * i + 1] = sorted.u.v[i].u.v[1];
    }
    return r;
}

static void llm__tpl_newline(llm__tpl *t, const llm__tpl_json *json, int level) {
    if (!json || !json->pretty) return;
    llm__tpl_puts(t, "\n", LLM__UNTRUSTED);
    while (level-- > 0) llm__tpl_put_string(t, &json->indent);
}

static void llm__tpl_write(llm__tpl *t, const llm__tval *v, const llm__tpl_json *json, int level);

/* The key of a JSON object. */
static void llm__tpl_write_key(llm__tpl *t, const llm__tval *v, const llm__tpl_json *json) {
    if (v->type == LLM__T_STRING || (v->type != LLM__T_NONE && !llm__tpl_is_number(v))) {
        if (v->type == LLM__T_STRING) llm__tpl_put_quoted(t, v, json);
        else llm__tpl_fail_type(t, "cannot be a key in JSON: expected a str, a number or none", v);
        return;
    }
    llm__tpl_puts(t, "\"", LLM__UNTRUSTED);
    llm__tpl_write(t, v, json, 0);
    llm__tpl_puts(t, "\"", LLM__UNTRUSTED);
}

static void llm__tpl_write_items(llm__tpl *t, const llm__tval *v, const llm__tpl_json *json,
                                 int level) {
    const char *open = v->type == LLM__T_DICT ? "{" : json || v->type == LLM__T_LIST ? "[" : "(";
    bool dict = v->type == LLM__T_DICT;
    uint32_t i;
    llm__tpl_puts(t, open, LLM__UNTRUSTED);
    for (i = 0; i < v->n && llm__tpl_charge(t, 1); i++) {
        if (i && json) llm__tpl_put_string(t, &json->comma);
        else if (i) llm__tpl_puts(t, ", ", LLM__UNTRUSTED);
        llm__tpl_newline(t, json, level + 1);
        if (dict) {
            if (json) llm__tpl_write_key(t, &v->u.v[2 * i], json);
            else llm__tpl_write(t, &v->u.v[2 * i], json, level + 1);
            if (json) llm__tpl_put_string(t, &json->colon);
            else llm__tpl_puts(t, ": ", LLM__UNTRUSTED);
        }
        llm__tpl_write(t, &v->u.v[dict ? 2 * i + 1 : i], json, level + 1);
    }
    if (v->n) llm__tpl_newline(t, json, level);
    if (*open == '(' && v->n == 1) llm__tpl_puts(t, ",", LLM__UNTRUSTED);
    llm__tpl_puts(t, *open == '{' ? "}" : *open == '[' ? "]" : ")", LLM__UNTRUSTED);
}

/* As repr() or, with `json`, json.dumps() does. */
static void llm__tpl_write(llm__tpl *t, const llm__tval *v, const llm__tpl_json *json, int level) {
    llm__tval sorted;
    if (level > LLM__TPL_NEST) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "a value nested more than %d deep", (int)LLM__TPL_NEST);
        return;
    }
    switch (v->type) {
    case LLM__T_UNDEFINED:
        if (json) llm__tpl_fail_undefined(t, v);
        else llm__tpl_puts(t, "Undefined", LLM__TRUSTED);
        break;
    case LLM__T_NONE: llm__tpl_puts(t, json ? "null" : "None", LLM__TRUSTED); break;
    case LLM__T_BOOL:
        if (json) llm__tpl_puts(t, v->u.i ? "true" : "false", LLM__TRUSTED);
        else llm__tpl_puts(t, v->u.i ? "True" : "False", LLM__TRUSTED);
        break;
    case LLM__T_INT: llm__tpl_put_int(t, v->u.i); break;
    case LLM__T_FLOAT: llm__tpl_put_float(t, v->u.f, json != NULL); break;
    case LLM__T_STRING: llm__tpl_put_quoted(t, v, json); break;
    case LLM__T_LIST: case LLM__T_TUPLE: llm__tpl_write_items(t, v, json, level); break;
    case LLM__T_DICT:
        sorted = json && json->sort ? llm__tpl_sort_pairs(t, v) : *v;
        llm__tpl_write_items(t, &sorted, json, level);
        break;
    default:
        llm__tpl_fail(t, json ? LLM_ERROR_TEMPLATE : LLM_ERROR_UNSUPPORTED, "a %s cannot be written as %s",
                      llm__tpl_type_name(v->type), json ? "JSON" : "text");
    }
}

/* As str() does: what `{{ v }}` prints. */
static void llm__tpl_put_value(llm__tpl *t, const llm__tval *v) {
    if (v->type == LLM__T_STRING) llm__tpl_put_string(t, v);
    else if (v->type != LLM__T_UNDEFINED) llm__tpl_write(t, v, NULL, 0);
}

static llm__tval llm__tpl_str(llm__tpl *t, const llm__tval *v) {
    size_t mark = t->out.n;
    if (v->type == LLM__T_STRING) return *v;
    llm__tpl_put_value(t, v);
    return llm__tpl_cut(t, mark);
}

/* ---- comparing, looking up, walking ---------------------------------------------------------- */

static bool llm__tpl_equal(llm__tpl *t, const llm__tval *a, const llm__tval *b, int level);

static bool llm__tpl_equal_items(llm__tpl *t, const llm__tval *a, const llm__tval *b, int level);

/* The value of a key, or NULL. */
static llm__tval *llm__tpl_find(llm__tpl *t, llm__tval *pairs, uint32_t n, const llm__tval *key,
                                int level) {
    uint32_t i;
    for (i = 0; i < n && llm__tpl_charge(t, 1); i++) {
        if (llm__tpl_equal(t, &pairs[2 * i], key, level)) return &pairs[2 * i + 1];
    }
    return NULL;
}

static bool llm__tpl_equal_items(llm__tpl *t, const llm__tval *a, const llm__tval *b, int level) {
    uint32_t i;
    const llm__tval *other;
    if (a->n != b->n) return false;
    if (level > LLM__TPL_NEST) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "a value nested more than %d deep", (int)LLM__TPL_NEST);
        return false;
    }
    for (i = 0; i < a->n && llm__tpl_charge(t, 1); i++) {
        if (a->type == LLM__T_DICT) {
            other = llm__tpl_find(t, b->u.v, b->n, &a->u.v[2 * i], level + 1);
            if (!other || !llm__tpl_equal(t, &a->u.v[2 * i + 1], other, level + 1)) return false;
        } else if (!llm__tpl_equal(t, &a->u.v[i], &b->u.v[i], level + 1)) {
            return false;
        }
    }
    return t->result == LLM_OK;
}

static bool llm__tpl_equal(llm__tpl *t, const llm__tval *a, const llm__tval *b, int level) {
    if (llm__tpl_is_number(a) && llm__tpl_is_number(b)) {
        if (a->type != LLM__T_FLOAT && b->type != LLM__T_FLOAT) return a->u.i == b->u.i;
        return llm__tpl_real(a) <= llm__tpl_real(b) && llm__tpl_real(a) >= llm__tpl_real(b);
    }
    if (a->type != b->type) return false;
    switch (a->type) {
    case LLM__T_UNDEFINED: case LLM__T_NONE: return true;
    case LLM__T_STRING:
        return a->n == b->n && llm__tpl_charge(t, a->n / 64) && memcmp(a->u.s, b->u.s, a->n) == 0;
    case LLM__T_LIST: case LLM__T_TUPLE: case LLM__T_RANGE: case LLM__T_DICT:
        return llm__tpl_equal_items(t, a, b, level);
    case LLM__T_FUNCTION: return a->n == b->n;
    default: return a->u.v == b->u.v;
    }
}

/* -1, 0, 1, by Python's order; a message for types that have none. Bytes order as code points. */
static int llm__tpl_order(llm__tpl *t, const llm__tval *a, const llm__tval *b) {
    uint32_t i, n = a->n < b->n ? a->n : b->n;
    int level, c;
    for (level = 0; level <= LLM__TPL_NEST; level++) { /* goes down into the first unequal items */
        if (llm__tpl_is_number(a) && llm__tpl_is_number(b)) {
            if (a->type != LLM__T_FLOAT && b->type != LLM__T_FLOAT)
                return (a->u.i > b->u.i) - (a->u.i < b->u.i);
            return (llm__tpl_real(a) > llm__tpl_real(b)) - (llm__tpl_real(a) < llm__tpl_real(b));
        }
        n = a->n < b->n ? a->n : b->n;
        if (a->type == LLM__T_STRING && b->type == LLM__T_STRING) {
            c = llm__tpl_charge(t, n / 64) ? memcmp(a->u.s, b->u.s, n) : 0;
            return c ? (c > 0) - (c < 0) : (a->n > b->n) - (a->n < b->n);
        }
        if (a->type != b->type || (a->type != LLM__T_LIST && a->type != LLM__T_TUPLE)) {
            if (b->type == LLM__T_UNDEFINED) a = b;
            if (a->type == LLM__T_UNDEFINED) llm__tpl_fail_undefined(t, a);
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "no order between %s and %s",
                          llm__tpl_type_name(a->type), llm__tpl_type_name(b->type));
            return 0;
        }
        for (i = 0; i < n && llm__tpl_charge(t, 1) && llm__tpl_equal(t, &a->u.v[i], &b->u.v[i], 0);)
            i++;
        if (i == n || t->result != LLM_OK) return (a->n > b->n) - (a->n < b->n);
        a = &a->u.v[i];
        b = &b->u.v[i];
    }
    llm__tpl_fail(t, LLM_ERROR_LIMIT, "a value nested more than %d deep", (int)LLM__TPL_NEST);
    return 0;
}

/* `list` in the order of `keys`; stable. The keys are reordered too. */
static llm__tval llm__tpl_sorted(llm__tpl *t, const llm__tval *list, const llm__tval *keys,
                                 bool reverse) {
    llm__tval r = llm__tpl_seq(t, LLM__T_LIST, list->n), key, item;
    uint32_t i, j;
    int c;
    if (t->result != LLM_OK) return r;
    if (list->n) memcpy(r.u.v, list->u.v, list->n * sizeof *r.u.v);
    for (i = 1; i < r.n && t->result == LLM_OK; i++) {
        key = keys->u.v[i];
        item = r.u.v[i];
        for (j = i; j > 0 && llm__tpl_charge(t, 1); j--) {
            c = llm__tpl_order(t, &keys->u.v[j - 1], &key);
            if (reverse ? c >= 0 : c <= 0) break;
            keys->u.v[j] = keys->u.v[j - 1];
            r.u.v[j] = r.u.v[j - 1];
        }
        keys->u.v[j] = key;
        r.u.v[j] = item;
    }
    return r;
}

/* The items of anything that `for` walks over, as a list that shares them where it can. */
static llm__tval llm__tpl_items(llm__tpl *t, const llm__tval *v) {
    llm__tval r = llm__tpl_value(LLM__T_LIST);
    uint32_t i, at, n;
    switch (v->type) {
    case LLM__T_UNDEFINED: break;
    case LLM__T_LIST: case LLM__T_TUPLE: case LLM__T_RANGE: case LLM__T_VIEW:
        r.u.v = v->u.v;
        r.n = v->n;
        break;
    case LLM__T_GENERATOR:
        if (v->u.v[-1].u.i) break;
        v->u.v[-1].u.i = 1;
        r.u.v = v->u.v;
        r.n = v->n;
        break;
    case LLM__T_DICT:
        r = llm__tpl_seq(t, LLM__T_LIST, v->n);
        for (i = 0; t->result == LLM_OK && i < v->n; i++) r.u.v[i] = v->u.v[2 * i];
        break;
    case LLM__T_STRING:
        r = llm__tpl_seq(t, LLM__T_LIST, llm__tpl_chars(t, v));
        for (i = at = 0; t->result == LLM_OK && i < r.n; i++, at += n) {
            (void)llm__tpl_char(v->u.s + at, v->u.s + v->n, &n);
            r.u.v[i] = llm__tpl_sub(v, at, at + n);
        }
        break;
    default: llm__tpl_fail_type(t, "is not iterable", v);
    }
    return r;
}

static bool llm__tpl_contains(llm__tpl *t, const llm__tval *item, const llm__tval *v);
static uint32_t llm__tpl_search(llm__tpl *t, const llm__tval *v, uint32_t from,
                                const llm__tval *what);

static bool llm__tpl_contains(llm__tpl *t, const llm__tval *item, const llm__tval *v) {
    llm__tval list;
    uint32_t i;
    if (v->type == LLM__T_STRING) {
        if (item->type == LLM__T_STRING) return llm__tpl_search(t, v, 0, item) != UINT32_MAX;
        llm__tpl_fail_type(t, "cannot be in a str: expected a str", item);
        return false;
    }
    if (v->type == LLM__T_DICT) return llm__tpl_find(t, v->u.v, v->n, item, 0) != NULL;
    list = llm__tpl_items(t, v);
    for (i = 0; i < list.n && llm__tpl_charge(t, 1); i++) {
        if (llm__tpl_equal(t, &list.u.v[i], item, 0)) return true;
    }
    return false;
}

/* Where `what` begins in `v` at or after byte `from`; UINT32_MAX: nowhere. */
static uint32_t llm__tpl_search(llm__tpl *t, const llm__tval *v, uint32_t from,
                                const llm__tval *what) {
    const char *p = v->u.s + from, *end = v->u.s + v->n, *q;
    if (what->n == 0) return from;
    while ((size_t)(end - p) >= what->n) {
        q = LLM__CAST(const char *, memchr(p, what->u.s[0], (size_t)(end - p) - what->n + 1));
        if (!llm__tpl_charge(t, (size_t)((q ? q : end) - p) / 64 + what->n / 64 + 1) || !q) break;
        if (memcmp(q, what->u.s, what->n) == 0) return (uint32_t)(q - v->u.s);
        p = q + 1;
    }
    return UINT32_MAX;
}

/* A list in the making. */
typedef struct llm__tpl_list {
    llm__tval v;
    uint32_t capacity;
} llm__tpl_list;

static void llm__tpl_push_item(llm__tpl *t, llm__tpl_list *list, llm__tval item) {
    if (list->v.n == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 8;
        llm__tval grown = llm__tpl_seq(t, LLM__T_LIST, capacity);
        if (t->result != LLM_OK) return;
        if (list->v.n) memcpy(grown.u.v, list->v.u.v, list->v.n * sizeof item);
        list->v.u.v = grown.u.v;
        list->capacity = capacity;
    }
    list->v.u.v[list->v.n++] = item;
}

static llm__tpl_list llm__tpl_list_make(void) {
    llm__tpl_list list;
    list.v = llm__tpl_value(LLM__T_LIST);
    list.capacity = 0;
    return list;
}

/* Adds or replaces a pair; `pairs` alternates keys and values. */
static void llm__tpl_set_pair(llm__tpl *t, llm__tpl_list *pairs, const llm__tval *key,
                              const llm__tval *value) {
    llm__tval *old = llm__tpl_find(t, pairs->v.u.v, pairs->v.n / 2, key, 0);
    if (old) {
        *old = *value;
        return;
    }
    llm__tpl_push_item(t, pairs, *key);
    llm__tpl_push_item(t, pairs, *value);
}
static llm__tval llm__tpl_dict_of(const llm__tpl_list *pairs) {
    llm__tval v = pairs->v;
    v.type = LLM__T_DICT;
    v.n /= 2;
    return v;
}

/* ---- natives: what a template may call ------------------------------------------------------- */
/* X(kind, id, name, parameters): 'f' filter, 't' test, 's' method of a string, 'd' of a dict,
   'l' of a list, 'o' of `loop`, 'g' global function. Parameters "*": the function reads its
   arguments itself. An argument beyond the subject is always optional here; the function looks. */
#define LLM__TPL_NATIVES(X) \
    X("f", f_abs, "abs", "") \
    X("f", f_capitalize, "capitalize", "") \
    X("f", f_count, "count", "") \
    X("f", f_d, "d", "default_value,boolean") \
    X("f", f_default, "default", "default_value,boolean") \
    X("f", f_dictsort, "dictsort", "case_sensitive,by,reverse") \
    X("f", f_first, "first", "") \
    X("f", f_float, "float", "default") \
    X("f", f_indent, "indent", "width,first,blank") \
    X("f", f_int, "int", "default,base") \
    X("f", f_items, "items", "") \
    X("f", f_join, "join", "d,attribute") \
    X("f", f_last, "last", "") \
    X("f", f_length, "length", "") \
    X("f", f_list, "list", "") \
    X("f", f_lower, "lower", "") \
    X("f", f_map, "map", "*") \
    X("f", f_max, "max", "case_sensitive,attribute") \
    X("f", f_min, "min", "case_sensitive,attribute") \
    X("f", f_reject, "reject", "*") \
    X("f", f_rejectattr, "rejectattr", "*") \
    X("f", f_replace, "replace", "old,new,count") \
    X("f", f_reverse, "reverse", "") \
    X("f", f_safe, "safe", "") \
    X("f", f_select, "select", "*") \
    X("f", f_selectattr, "selectattr", "*") \
    X("f", f_sort, "sort", "reverse,case_sensitive,attribute") \
    X("f", f_string, "string", "") \
    X("f", f_sum, "sum", "attribute,start") \
    X("f", f_title, "title", "") \
    X("f", f_tojson, "tojson", "ensure_ascii,indent,separators,sort_keys") \
    X("f", f_trim, "trim", "chars") \
    X("f", f_unique, "unique", "case_sensitive,attribute") \
    X("f", f_upper, "upper", "") \
    X("t", t_boolean, "boolean", "") \
    X("t", t_callable, "callable", "") \
    X("t", t_defined, "defined", "") \
    X("t", t_divisibleby, "divisibleby", "num") \
    X("t", t_eq, "eq", "b") \
    X("t", t_eq1, "==", "b") \
    X("t", t_eq2, "equalto", "b") \
    X("t", t_even, "even", "") \
    X("t", t_false, "false", "") \
    X("t", t_float, "float", "") \
    X("t", t_ge, "ge", "b") \
    X("t", t_ge1, ">=", "b") \
    X("t", t_gt, "gt", "b") \
    X("t", t_gt1, ">", "b") \
    X("t", t_gt2, "greaterthan", "b") \
    X("t", t_in, "in", "seq") \
    X("t", t_integer, "integer", "") \
    X("t", t_iterable, "iterable", "") \
    X("t", t_le, "le", "b") \
    X("t", t_le1, "<=", "b") \
    X("t", t_lt, "lt", "b") \
    X("t", t_lt1, "<", "b") \
    X("t", t_lt2, "lessthan", "b") \
    X("t", t_mapping, "mapping", "") \
    X("t", t_ne, "ne", "b") \
    X("t", t_ne1, "!=", "b") \
    X("t", t_none, "none", "") \
    X("t", t_number, "number", "") \
    X("t", t_odd, "odd", "") \
    X("t", t_sameas, "sameas", "other") \
    X("t", t_sequence, "sequence", "") \
    X("t", t_string, "string", "") \
    X("t", t_true, "true", "") \
    X("t", t_undefined, "undefined", "") \
    X("s", s_capitalize, "capitalize", "") \
    X("s", s_count, "count", "sub") \
    X("s", s_endswith, "endswith", "suffix") \
    X("s", s_find, "find", "sub") \
    X("s", s_format, "format", "*") \
    X("s", s_isdigit, "isdigit", "") \
    X("s", s_isspace, "isspace", "") \
    X("s", s_join, "join", "iterable") \
    X("s", s_lower, "lower", "") \
    X("s", s_lstrip, "lstrip", "chars") \
    X("s", s_removeprefix, "removeprefix", "prefix") \
    X("s", s_removesuffix, "removesuffix", "suffix") \
    X("s", s_replace, "replace", "old,new,count") \
    X("s", s_rsplit, "rsplit", "sep,maxsplit") \
    X("s", s_rstrip, "rstrip", "chars") \
    X("s", s_split, "split", "sep,maxsplit") \
    X("s", s_splitlines, "splitlines", "") \
    X("s", s_startswith, "startswith", "prefix") \
    X("s", s_strip, "strip", "chars") \
    X("s", s_title, "title", "") \
    X("s", s_upper, "upper", "") \
    X("d", d_get, "get", "key,default") \
    X("d", d_items, "items", "") \
    X("d", d_keys, "keys", "") \
    X("d", d_values, "values", "") \
    X("d", x_clear, "clear", "*") \
    X("d", x_pop, "pop", "*") \
    X("d", x_popitem, "popitem", "*") \
    X("d", x_setdefault, "setdefault", "*") \
    X("d", x_update, "update", "*") \
    X("l", l_count, "count", "value") \
    X("l", l_index, "index", "value") \
    X("l", x_append, "append", "*") \
    X("l", x_extend, "extend", "*") \
    X("l", x_insert, "insert", "*") \
    X("l", x_lpop, "pop", "*") \
    X("l", x_remove, "remove", "*") \
    X("l", x_reverse, "reverse", "*") \
    X("l", x_sort, "sort", "*") \
    X("o", o_cycle, "cycle", "*") \
    X("g", g_dict, "dict", "*") \
    X("g", g_namespace, "namespace", "*") \
    X("g", g_raise, "raise_exception", "message") \
    X("g", g_range, "range", "*") \
    X("g", g_strftime, "strftime_now", "format")

enum {
#define LLM__X(kind, id, name, parameters) LLM__N_##id,
    LLM__TPL_NATIVES(LLM__X)
#undef LLM__X
        LLM__N_COUNT
};

typedef struct llm__tpl_native {
    char kind;
    const char *name, *parameters;
} llm__tpl_native;

/* The table is one string, so that it needs no relocation: kind and name, parameters, and so on. */
static bool llm__tpl_native_next(const char **s, llm__tpl_native *native) {
    native->kind = **s;
    native->name = *s + (**s != 0);
    native->parameters = native->name + strlen(native->name) + 1;
    if (native->kind) *s = native->parameters + strlen(native->parameters) + 1;
    return native->kind != 0;
}

static const char *llm__tpl_native_table(void) {
    static const char kinds_names_parameters[] = {
#define LLM__X(kind, id, name, parameters) kind name "\0" parameters "\0"
        LLM__TPL_NATIVES(LLM__X)
#undef LLM__X
    };
    return kinds_names_parameters;
}

static llm__tpl_native llm__tpl_native_at(uint32_t id) {
    llm__tpl_native native = {0, "", ""};
    const char *s = llm__tpl_native_table();
    do (void)llm__tpl_native_next(&s, &native);
    while (id--);
    return native;
}

static uint32_t llm__tpl_native_find(char kind, const char *name, size_t n) {
    llm__tpl_native native = {0, "", ""};
    const char *s = llm__tpl_native_table();
    uint32_t id;
    for (id = 0; llm__tpl_native_next(&s, &native); id++) {
        if (native.kind == kind && strlen(native.name) == n && memcmp(native.name, name, n) == 0)
            break;
    }
    return id; /* LLM__N_COUNT: none */
}

/* ---- source to tokens ------------------------------------------------------------------------ */

enum { /* kinds of tokens beside single characters */
    LLM__K_EOF = 0,
    LLM__K_NAME = 256,
    LLM__K_STRING,
    LLM__K_NUMBER,
    LLM__K_END, /* of the tag: %} or }} */
    LLM__K_EQ,
    LLM__K_NE,
    LLM__K_LE,
    LLM__K_GE,
    LLM__K_POW,
    LLM__K_IDIV
};

static void llm__tpl_skip_space(llm__tpl *t) {
    uint32_t n;
    while (t->pos < t->n_src &&
           llm__tpl_space_char(llm__tpl_char(t->src + t->pos, t->src + t->n_src, &n))) {
        t->pos += n;
    }
}

static bool llm__tpl_at(const llm__tpl *t, uint32_t pos, const char *text) {
    size_t n = strlen(text);
    return t->n_src - pos >= n && memcmp(t->src + pos, text, n) == 0;
}

/* After "%}", "#}" or "}}" at `pos`: `sign` is the character before it. */
static void llm__tpl_tag_end(llm__tpl *t, uint32_t pos, char sign, bool trim) {
    t->pos = pos + 2;
    if (sign == '-') llm__tpl_skip_space(t);
    else if (sign != '+' && trim && llm__tpl_at(t, t->pos, "\n")) t->pos++;
}

static uint32_t llm__tpl_hex(llm__tpl *t, const char *s, const char *end, uint32_t digits) {
    uint32_t i, c = 0;
    for (i = 0; i < digits; i++) {
        int h = s + i < end ? s[i] : 0;
        if (h >= '0' && h <= '9') c = c << 4 | (uint32_t)(h - '0');
        else if ((h | 32) >= 'a' && (h | 32) <= 'f') c = c << 4 | (uint32_t)((h | 32) - 'a' + 10);
        else llm__tpl_fail(t, LLM_ERROR_TEMPLATE,
                           "the escape has %u hexadecimal digits, expected %u", (unsigned)i,
                           (unsigned)digits);
    }
    return c;
}

/* One escape of a string literal, s after the backslash; returns the bytes read. */
static uint32_t llm__tpl_escape(llm__tpl *t, const char *s, const char *end) {
    static const char letters[] = "nrtabfv\\'\"", values[] = "\n\r\t\a\b\f\v\\'\"";
    const char *e = *s ? strchr(letters, *s) : NULL;
    uint32_t c = 0, n = 0, digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    char utf8[4];
    if (e) {
        llm__tpl_put(t, values + (e - letters), 1, LLM__TRUSTED, NULL);
        return 1;
    }
    if (*s == '\n') return 1;
    if (digits) {
        c = llm__tpl_hex(t, s + 1, end, digits);
        n = digits + 1;
    } else if (*s >= '0' && *s <= '7') {
        while (n < 3 && s + n < end && s[n] >= '0' && s[n] <= '7')
            c = c * 8 + (uint32_t)(s[n++] - '0');
    } else {
        if (*s == 'N') llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "the escape '\\N' is not supported");
        llm__tpl_put(t, "\\", 1, LLM__TRUSTED, NULL);
        return 0;
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE,
                      "the escape U+%04lX is no character, expected one up to U+10FFFF but not "
                      "U+D800 to U+DFFF",
                      (unsigned long)c);
        return n;
    }
    llm__tpl_put(t, utf8, llm__tpl_encode(c, utf8), LLM__TRUSTED, NULL);
    return n;
}

static void llm__tpl_lex_string(llm__tpl *t) {
    char quote = t->src[t->pos];
    uint32_t begin = ++t->pos, from;
    size_t mark = t->out.n;
    bool escaped = false;
    while (t->pos < t->n_src && t->src[t->pos] != quote) {
        escaped = escaped || t->src[t->pos] == '\\';
        t->pos += t->src[t->pos] == '\\' ? 2 : 1;
    }
    if (t->pos >= t->n_src) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "a string is not closed: expected %c", quote);
        return;
    }
    t->token.kind = LLM__K_STRING;
    t->token.value = llm__tpl_string(t->src + begin, t->pos - begin, LLM__TRUSTED);
    if (!llm__tpl_charge(t, (t->pos - begin) / 8)) return;
    t->pos++;
    if (!escaped) return;
    for (from = begin; begin < t->pos - 1;) {
        if (t->src[begin] != '\\') {
            begin++;
            continue;
        }
        llm__tpl_put(t, t->src + from, begin - from, LLM__TRUSTED, NULL);
        begin += 1 + llm__tpl_escape(t, t->src + begin + 1, t->src + t->pos - 1);
        from = begin;
    }
    llm__tpl_put(t, t->src + from, t->pos - 1 - from, LLM__TRUSTED, NULL);
    t->token.value = llm__tpl_cut(t, mark);
}

static bool llm__tpl_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static void llm__tpl_lex_operator(llm__tpl *t) {
    static const char pairs[][3] = {"==", "!=", "<=", ">=", "**", "//"};
    static const char singles[] = "+-/*%~[](){}<>=.:|,";
    char c = t->src[t->pos];
    int i;
    for (i = 0; i < 6; i++) {
        if (llm__tpl_at(t, t->pos, pairs[i])) {
            t->token.kind = LLM__K_EQ + i;
            t->pos += 2;
            return;
        }
    }
    if (!c || !strchr(singles, c)) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected byte 0x%02x, expected a name, a number, a string or an operator",
                      (unsigned)(unsigned char)c);
        return;
    }
    t->brackets += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
    t->token.kind = c;
    t->pos++;
}

/* Reads the next token of a tag into t->token. */
static void llm__tpl_next(llm__tpl *t) {
    const char *end = t->in_block ? "%}" : "}}";
    uint32_t begin, n;
    t->token.kind = LLM__K_EOF;
    if (!llm__tpl_charge(t, 1)) return;
    llm__tpl_skip_space(t);
    t->where = t->token.where = begin = t->pos;
    if (begin >= t->n_src) return;
    if (t->brackets <= 0) {
        char c = t->src[begin], sign = c == '-' || (c == '+' && t->in_block) ? c : 0;
        if (llm__tpl_at(t, begin + (sign != 0), end)) {
            llm__tpl_tag_end(t, begin + (sign != 0), sign, t->in_block);
            t->token.kind = LLM__K_END;
            return;
        }
    }
    n = llm__tpl_number(t, t->src + begin, t->n_src - begin, &t->token.value,
                        false);
    if (n && t->token.value.type == LLM__T_FLOAT && t->src[begin - 1] == '.') { /* a.0.1 */
        for (n = 0; llm__tpl_digit(t->src[begin + n]);) n++;
        (void)llm__tpl_number(t, t->src + begin, n, &t->token.value, false);
    }
    if (n) {
        t->pos += n;
        t->token.kind = LLM__K_NUMBER;
        if (t->pos < t->n_src && llm__tpl_name_char(t->src[t->pos])) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                          "a number with '%c' is not supported, expected a decimal one",
                          t->src[t->pos]);
        }
    } else if (t->src[begin] == '"' || t->src[begin] == '\'') {
        llm__tpl_lex_string(t);
    } else if (llm__tpl_name_char(t->src[begin])) {
        while (t->pos < t->n_src && llm__tpl_name_char(t->src[t->pos])) t->pos++;
        t->token.kind = LLM__K_NAME;
        t->token.value = llm__tpl_string(t->src + begin, t->pos - begin, LLM__TRUSTED);
    } else {
        llm__tpl_lex_operator(t);
    }
}

static bool llm__tpl_is_name(const llm__tpl *t, const char *name) {
    return t->token.kind == LLM__K_NAME && llm__tpl_is(&t->token.value, name);
}
static bool llm__tpl_accept(llm__tpl *t, int kind) {
    if (t->token.kind != kind) return false;
    llm__tpl_next(t);
    return true;
}
static bool llm__tpl_accept_name(llm__tpl *t, const char *name) {
    if (!llm__tpl_is_name(t, name)) return false;
    llm__tpl_next(t);
    return true;
}

/* "unexpected X, expected Y" */
static void llm__tpl_unexpected(llm__tpl *t, const char *expected) {
    const llm__tpl_token *k = &t->token;
    int n = llm__tpl_clip(k->value.n);
    t->where = k->where;
    if (k->kind == LLM__K_EOF) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected end of the template, expected %s",
                      expected);
    } else if (k->kind == LLM__K_END) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected end of the tag, expected %s", expected);
    } else if (k->kind == LLM__K_NAME) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected '%.*s', expected %s", n, k->value.u.s,
                      expected);
    } else if (k->kind < 256) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected '%c', expected %s", k->kind, expected);
    } else {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected %s, expected %s",
                      k->kind == LLM__K_STRING   ? "string"
                      : k->kind == LLM__K_NUMBER ? "number"
                                                 : "operator",
                      expected);
    }
}

static void llm__tpl_expect(llm__tpl *t, int kind, const char *what) {
    if (!llm__tpl_accept(t, kind)) llm__tpl_unexpected(t, what);
}
/* The end of a tag: what follows is text, so no token is read. */
static void llm__tpl_expect_end(llm__tpl *t) {
    if (t->token.kind != LLM__K_END) llm__tpl_unexpected(t, "the end of the tag");
}

/* ---- code ------------------------------------------------------------------------------------ */

enum {
    LLM__O_TEXT, LLM__O_PRINT, LLM__O_CONST, LLM__O_LOAD, LLM__O_STORE, LLM__O_STORE_ATTR,
    LLM__O_UNPACK, LLM__O_LIST, LLM__O_TUPLE, LLM__O_DICT, LLM__O_ATTR, LLM__O_ITEM, LLM__O_SLICE,
    LLM__O_CALL, LLM__O_FILTER, LLM__O_TEST, LLM__O_NEG, LLM__O_POS, LLM__O_NOT, LLM__O_ADD,
    LLM__O_SUB, LLM__O_MUL, LLM__O_DIV, LLM__O_IDIV, LLM__O_MOD, LLM__O_POW, LLM__O_CONCAT,
    LLM__O_COMPARE, LLM__O_CHAIN, LLM__O_JUMP, LLM__O_JUMP_FALSE, LLM__O_AND, LLM__O_OR, LLM__O_FOR,
    LLM__O_KEEP,
    LLM__O_WALKED,
    LLM__O_AGAIN,
    LLM__O_END_FOR,
    LLM__O_SCOPE,
    LLM__O_END_SCOPE,
    LLM__O_CAPTURE,
    LLM__O_END_CAPTURE, LLM__O_MACRO, LLM__O_IF_GIVEN, LLM__O_RETURN, LLM__O_NOTHING, LLM__O_HALT
};
enum { LLM__C_EQ, LLM__C_NE, LLM__C_LT, LLM__C_LE, LLM__C_GT, LLM__C_GE, LLM__C_IN, LLM__C_NOT_IN };

static llm__tpl_op *llm__tpl_code(llm__tpl *t) {
    return LLM__CAST(llm__tpl_op *, t->code.data);
}
static int32_t llm__tpl_here(const llm__tpl *t) {
    return (int32_t)t->code.n;
}

static int32_t llm__tpl_emit(llm__tpl *t, int code, int32_t c) {
    llm__tpl_op *op;
    if (!llm__tpl_reserve(t, &t->code, 1, sizeof *op, false)) return 0;
    op = llm__tpl_code(t) + t->code.n;
    memset(op, 0, sizeof *op);
    op->code = (uint8_t)code;
    op->c = c;
    op->where = t->where;
    return (int32_t)t->code.n++;
}

/* Makes the jump at `from` land on the next operation. */
static void llm__tpl_land(llm__tpl *t, int32_t from) {
    if (t->result == LLM_OK) llm__tpl_code(t)[from].c = llm__tpl_here(t) - from;
}

/* The same for a chain of jumps, each holding the one before it (-1: none). */
static void llm__tpl_land_chain(llm__tpl *t, int32_t from) {
    while (t->result == LLM_OK && from >= 0) {
        int32_t before = llm__tpl_code(t)[from].c;
        llm__tpl_land(t, from);
        from = before;
    }
}

static int32_t llm__tpl_constant(llm__tpl *t, llm__tval v) {
    if (!llm__tpl_reserve(t, &t->consts, 1, sizeof v, false)) return 0;
    LLM__CAST(llm__tval *, t->consts.data)[t->consts.n] = v;
    return (int32_t)t->consts.n++;
}

static uint32_t llm__tpl_intern(llm__tpl *t, const char *s, size_t n) {
    llm_text *names = LLM__CAST(llm_text *, t->names.data);
    uint32_t i;
    for (i = 0; i < t->names.n && !(names[i].size == n && memcmp(names[i].data, s, n) == 0);) i++;
    if (!llm__tpl_charge(t, i / 16)) return 0;
    if (i < t->names.n) return i;
    if (!llm__tpl_reserve(t, &t->names, 1, sizeof *names, false)) return 0;
    names = LLM__CAST(llm_text *, t->names.data);
    names[t->names.n].data = s;
    names[t->names.n].size = n;
    return (uint32_t)t->names.n++;
}

/* Swaps the neighbouring pieces of code [a, b) and [b, end): jumps within them stay right. */
static void llm__tpl_rotate(llm__tpl *t, int32_t a, int32_t b) {
    llm__tpl_op *code = llm__tpl_code(t), save;
    int32_t end = llm__tpl_here(t), part, i, j;
    if (!llm__tpl_charge(t, (size_t)(end - a) / 4)) return;
    for (part = 0; part < 3; part++) {
        i = part == 1 ? b : a;
        j = (part == 0 ? b : end) - 1;
        if (part == 2) b = a;
        for (; i < j; i++, j--) {
            save = code[i];
            code[i] = code[j];
            code[j] = save;
        }
    }
}

static bool llm__tpl_enter(llm__tpl *t) {
    if (++t->depth > LLM__TPL_DEPTH)
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "the template is nested more than %d deep",
                      (int)LLM__TPL_DEPTH);
    return t->result == LLM_OK;
}

/* ---- expressions ----------------------------------------------------------------------------- */
/* Grammar and precedence are those of jinja2's parser.py. */

static void llm__tpl_expression(llm__tpl *t, bool conditional);
static void llm__tpl_unary(llm__tpl *t, bool filters);

/* Expressions with commas make a tuple. `closed`: within parentheses, where () is one too. */
static void llm__tpl_tuple(llm__tpl *t, bool conditional, bool closed) {
    int32_t n = 0;
    bool tuple = false;
    for (;;) {
        int k = t->token.kind;
        if (k == LLM__K_END || k == ')' || llm__tpl_is_name(t, "recursive")) break;
        llm__tpl_expression(t, conditional);
        n++;
        if (t->token.kind != ',') break;
        tuple = true;
        llm__tpl_next(t);
    }
    if (n == 0 && !closed) llm__tpl_unexpected(t, "an expression");
    if (tuple || n == 0) llm__tpl_emit(t, LLM__O_TUPLE, n);
}

static void llm__tpl_list_literal(llm__tpl *t) {
    int32_t n = 0;
    while (t->token.kind != ']' && t->result == LLM_OK) {
        if (n++) llm__tpl_expect(t, ',', "','");
        if (t->token.kind == ']') {
            n--;
            break;
        }
        llm__tpl_expression(t, true);
    }
    llm__tpl_expect(t, ']', "']'");
    llm__tpl_emit(t, LLM__O_LIST, n);
}

static void llm__tpl_dict_literal(llm__tpl *t) {
    int32_t n = 0;
    while (t->token.kind != '}' && t->result == LLM_OK) {
        if (n++) llm__tpl_expect(t, ',', "','");
        if (t->token.kind == '}') {
            n--;
            break;
        }
        llm__tpl_expression(t, true);
        llm__tpl_expect(t, ':', "':'");
        llm__tpl_expression(t, true);
    }
    llm__tpl_expect(t, '}', "'}'");
    llm__tpl_emit(t, LLM__O_DICT, n);
}

/* After '('; returns the counts of positional and named arguments, which are on the stack in that
   order, named ones as pairs. */
static void llm__tpl_arguments(llm__tpl *t, uint8_t *n_plain, uint16_t *n_named) {
    int plain = 0, named = 0, n = 0;
    while (t->token.kind != ')' && t->result == LLM_OK) {
        uint32_t pos;
        int brackets;
        llm__tpl_token token;
        if (n++) llm__tpl_expect(t, ',', "','");
        if (t->token.kind == ')') break;
        if (t->token.kind == '*' || t->token.kind == LLM__K_POW) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'*' before an argument is not supported");
        }
        pos = t->pos;
        brackets = t->brackets;
        token = t->token;
        if (token.kind == LLM__K_NAME) {
            llm__tpl_next(t);
            if (t->token.kind == '=') {
                llm__tpl_next(t);
                llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, token.value));
                llm__tpl_expression(t, true);
                named++;
                continue;
            }
            if (t->result != LLM_OK) return;
            t->brackets = brackets;
            t->pos = pos;
            t->token = token;
            t->where = token.where;
        }
        if (named) llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected argument without a name, expected 'name='");
        llm__tpl_expression(t, true);
        plain++;
    }
    llm__tpl_expect(t, ')', "')'");
    if (plain + named > LLM__TPL_ARGUMENTS) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "a call has %d arguments, expected at most %d",
                      plain + named, (int)LLM__TPL_ARGUMENTS);
    }
    *n_plain = (uint8_t)plain;
    *n_named = (uint16_t)named;
}

static void llm__tpl_emit_call(llm__tpl *t, int code, int32_t c, uint8_t plain, uint16_t named,
                               uint32_t where) {
    int32_t at = llm__tpl_emit(t, code, c);
    if (t->result != LLM_OK) return;
    llm__tpl_code(t)[at].a = plain;
    llm__tpl_code(t)[at].b = named;
    llm__tpl_code(t)[at].where = where;
}

static void llm__tpl_call_suffix(llm__tpl *t) {
    uint8_t plain = 0;
    uint16_t named = 0;
    uint32_t where = t->token.where;
    llm__tpl_next(t);
    llm__tpl_arguments(t, &plain, &named);
    llm__tpl_emit_call(t, LLM__O_CALL, 0, plain, named, where);
}

/* [index] or [from:to:step], after '['. */
static void llm__tpl_subscript(llm__tpl *t) {
    int part;
    bool slice = t->token.kind == ':';
    if (!slice) llm__tpl_expression(t, true);
    if (t->token.kind != ':') {
        if (t->token.kind == ',')
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "a tuple as an index is not supported");
        llm__tpl_emit(t, LLM__O_ITEM, 0);
    } else {
        if (slice)
            llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, llm__tpl_value(LLM__T_NONE)));
        for (part = 0; part < 2; part++) {
            if (llm__tpl_accept(t, ':') && t->token.kind != ']' && t->token.kind != ':') {
                llm__tpl_expression(t, true);
            } else {
                llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, llm__tpl_value(LLM__T_NONE)));
            }
        }
        llm__tpl_emit(t, LLM__O_SLICE, 0);
    }
    llm__tpl_expect(t, ']', "']'");
}

static void llm__tpl_postfix(llm__tpl *t) {
    for (;;) {
        t->where = t->token.where;
        if (t->token.kind == '(') {
            llm__tpl_call_suffix(t);
        } else if (llm__tpl_accept(t, '[')) {
            llm__tpl_subscript(t);
        } else if (llm__tpl_accept(t, '.')) {
            if (t->token.kind == LLM__K_NAME) {
                llm__tpl_emit(t, LLM__O_ATTR, llm__tpl_constant(t, t->token.value));
            } else if (t->token.kind == LLM__K_NUMBER && t->token.value.type == LLM__T_INT) {
                llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, t->token.value));
                llm__tpl_emit(t, LLM__O_ITEM, 0);
            } else {
                llm__tpl_unexpected(t, "a name");
            }
            llm__tpl_next(t);
        } else {
            return;
        }
    }
}

/* The name of a filter or a test as an operand: the native's number, or less than zero and the
   name as a constant, which fails when it is reached. */
static int32_t llm__tpl_native_operand(llm__tpl *t, char kind) {
    llm__tval name = t->token.value;
    uint32_t id;
    if (t->token.kind != LLM__K_NAME) {
        llm__tpl_unexpected(t, "a name");
        return 0;
    }
    id = llm__tpl_native_find(kind, name.u.s, name.n);
    llm__tpl_next(t);
    if (t->token.kind == '.')
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'%.*s.': a name with a dot is not supported here",
                      llm__tpl_clip(name.n), name.u.s);
    return id < LLM__N_COUNT ? (int32_t)id : -1 - llm__tpl_constant(t, name);
}

static void llm__tpl_filter(llm__tpl *t) {
    uint8_t plain = 0;
    uint16_t named = 0;
    uint32_t where = t->token.where;
    int32_t id = llm__tpl_native_operand(t, 'f');
    if (llm__tpl_accept(t, '(')) llm__tpl_arguments(t, &plain, &named);
    llm__tpl_emit_call(t, LLM__O_FILTER, id, plain, named, where);
}

static void llm__tpl_primary(llm__tpl *t);

/* After `is`. */
static void llm__tpl_test(llm__tpl *t) {
    bool negated = llm__tpl_accept_name(t, "not");
    uint8_t plain = 0;
    uint16_t named = 0;
    uint32_t where = t->token.where;
    int32_t id = llm__tpl_native_operand(t, 't');
    int k = t->token.kind;
    if (llm__tpl_accept(t, '(')) {
        llm__tpl_arguments(t, &plain, &named);
    } else if (k == LLM__K_STRING || k == LLM__K_NUMBER || k == '[' || k == '{' ||
               (k == LLM__K_NAME && !llm__tpl_is_name(t, "else") && !llm__tpl_is_name(t, "or") &&
                !llm__tpl_is_name(t, "and"))) {
        if (llm__tpl_is_name(t, "is"))
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "unexpected 'is', expected 'and': tests cannot be chained");
        /* jinja2 takes any name here for an argument, `if` included */
        llm__tpl_primary(t);
        llm__tpl_postfix(t);
        plain = 1;
    }
    llm__tpl_emit_call(t, LLM__O_TEST, id, plain, named, where);
    if (negated) llm__tpl_emit(t, LLM__O_NOT, 0);
}

static void llm__tpl_primary_string(llm__tpl *t) {
    llm__tval v = t->token.value;
    size_t mark = t->out.n;
    llm__tpl_next(t);
    if (t->token.kind == LLM__K_STRING) { /* neighbours are one string */
        llm__tpl_put_string(t, &v);
        while (t->token.kind == LLM__K_STRING) {
            llm__tpl_put_string(t, &t->token.value);
            llm__tpl_next(t);
        }
        v = llm__tpl_cut(t, mark);
    }
    llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, v));
}

static void llm__tpl_primary(llm__tpl *t) {
    llm__tval v = t->token.value;
    t->where = t->token.where;
    if (t->token.kind == LLM__K_STRING) {
        llm__tpl_primary_string(t);
    } else if (t->token.kind == LLM__K_NUMBER) {
        llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, v));
        llm__tpl_next(t);
    } else if (t->token.kind == LLM__K_NAME) {
        bool yes = llm__tpl_is(&v, "true") || llm__tpl_is(&v, "True");
        if (yes || llm__tpl_is(&v, "false") || llm__tpl_is(&v, "False")) {
            llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, llm__tpl_bool(yes)));
        } else if (llm__tpl_is(&v, "none") || llm__tpl_is(&v, "None")) {
            llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, llm__tpl_value(LLM__T_NONE)));
        } else {
            if (t->in_macro && (llm__tpl_is(&v, "caller") || llm__tpl_is(&v, "varargs") ||
                                llm__tpl_is(&v, "kwargs"))) {
                llm__tpl_fail_missing(t, "in a macro", &v);
            }
            llm__tpl_emit(t, LLM__O_LOAD, (int32_t)llm__tpl_intern(t, v.u.s, v.n));
        }
        llm__tpl_next(t);
    } else if (llm__tpl_accept(t, '(')) {
        llm__tpl_tuple(t, true, true);
        llm__tpl_expect(t, ')', "')'");
    } else if (llm__tpl_accept(t, '[')) {
        llm__tpl_list_literal(t);
    } else if (llm__tpl_accept(t, '{')) {
        llm__tpl_dict_literal(t);
    } else {
        llm__tpl_unexpected(t, "an expression");
    }
}

static void llm__tpl_unary(llm__tpl *t, bool filters) {
    const int sign = t->token.kind;
    const uint32_t where = t->token.where;
    if (!llm__tpl_enter(t)) return;
    if (sign == '-' || sign == '+') {
        llm__tpl_next(t);
        llm__tpl_unary(t, false);
        t->where = where;
        llm__tpl_emit(t, sign == '-' ? LLM__O_NEG : LLM__O_POS, 0);
    } else {
        llm__tpl_primary(t);
    }
    llm__tpl_postfix(t);
    while (filters && t->result == LLM_OK) {
        if (llm__tpl_accept(t, '|')) llm__tpl_filter(t);
        else if (llm__tpl_accept_name(t, "is")) llm__tpl_test(t);
        else if (t->token.kind == '(') llm__tpl_call_suffix(t);
        else break;
    }
    t->depth--;
}

enum { LLM__P_OR, LLM__P_AND, LLM__P_NOT, LLM__P_COMPARE, LLM__P_ADD, LLM__P_CONCAT, LLM__P_MUL,
       LLM__P_POW, LLM__P_NONE };

/* The binary operator at hand: its precedence, and what to emit (for comparisons, which one). */
static int llm__tpl_operator(const llm__tpl *t, int *code) {
    switch (t->token.kind) {
    case '+': return *code = LLM__O_ADD, LLM__P_ADD;
    case '-': return *code = LLM__O_SUB, LLM__P_ADD;
    case '~': return *code = LLM__O_CONCAT, LLM__P_CONCAT;
    case '*': return *code = LLM__O_MUL, LLM__P_MUL;
    case '/': return *code = LLM__O_DIV, LLM__P_MUL;
    case '%': return *code = LLM__O_MOD, LLM__P_MUL;
    case LLM__K_IDIV: return *code = LLM__O_IDIV, LLM__P_MUL;
    case LLM__K_POW: return *code = LLM__O_POW, LLM__P_POW;
    case LLM__K_EQ: return *code = LLM__C_EQ, LLM__P_COMPARE;
    case LLM__K_NE: return *code = LLM__C_NE, LLM__P_COMPARE;
    case LLM__K_LE: return *code = LLM__C_LE, LLM__P_COMPARE;
    case LLM__K_GE: return *code = LLM__C_GE, LLM__P_COMPARE;
    case '<': return *code = LLM__C_LT, LLM__P_COMPARE;
    case '>': return *code = LLM__C_GT, LLM__P_COMPARE;
    case LLM__K_NAME:
        if (llm__tpl_is_name(t, "or")) return *code = LLM__O_OR, LLM__P_OR;
        if (llm__tpl_is_name(t, "and")) return *code = LLM__O_AND, LLM__P_AND;
        if (llm__tpl_is_name(t, "in")) return *code = LLM__C_IN, LLM__P_COMPARE;
        if (llm__tpl_is_name(t, "not")) return *code = LLM__C_NOT_IN, LLM__P_COMPARE;
        break;
    default: break;
    }
    return LLM__P_NONE;
}

static void llm__tpl_binary(llm__tpl *t, int least);

/* a < b <= c: each operand once, false as soon as one link is. */
static void llm__tpl_comparison(llm__tpl *t, int code) {
    int32_t chain = -1, at;
    for (;;) {
        int this_code = code, prec;
        uint32_t where = t->token.where;
        llm__tpl_next(t);
        if (this_code == LLM__C_NOT_IN && !llm__tpl_accept_name(t, "in"))
            llm__tpl_unexpected(t, "'in'");
        llm__tpl_binary(t, LLM__P_COMPARE + 1);
        prec = llm__tpl_operator(t, &code);
        t->where = where;
        at = llm__tpl_emit(t, prec == LLM__P_COMPARE ? LLM__O_CHAIN : LLM__O_COMPARE, chain);
        if (t->result != LLM_OK) return;
        llm__tpl_code(t)[at].a = (uint8_t)this_code;
        if (prec != LLM__P_COMPARE) break;
        chain = at;
    }
    llm__tpl_land_chain(t, chain);
}

static void llm__tpl_binary(llm__tpl *t, int least) {
    int code = 0, prec;
    int32_t at;
    uint32_t where;
    if (!llm__tpl_enter(t)) return;
    if (least <= LLM__P_NOT && llm__tpl_accept_name(t, "not")) {
        llm__tpl_binary(t, LLM__P_NOT);
        llm__tpl_emit(t, LLM__O_NOT, 0);
    } else {
        llm__tpl_unary(t, true);
    }
    while (t->result == LLM_OK) {
        prec = llm__tpl_operator(t, &code);
        if (prec < least || prec == LLM__P_NONE) break;
        t->where = where = t->token.where;
        if (prec == LLM__P_COMPARE) {
            llm__tpl_comparison(t, code);
            continue;
        }
        at = prec <= LLM__P_AND ? llm__tpl_emit(t, code, 0) : 0;
        llm__tpl_next(t);
        llm__tpl_binary(t, prec + 1);
        t->where = where;
        if (prec <= LLM__P_AND) llm__tpl_land(t, at);
        else llm__tpl_emit(t, code, 0);
    }
    t->depth--;
}

/* a if condition else b: the condition is written second and runs first. */
static void llm__tpl_expression(llm__tpl *t, bool conditional) {
    int32_t begin = llm__tpl_here(t), middle, jump;
    if (!llm__tpl_enter(t)) return;
    llm__tpl_binary(t, LLM__P_OR);
    while (conditional && t->result == LLM_OK && llm__tpl_accept_name(t, "if")) {
        middle = llm__tpl_here(t);
        llm__tpl_binary(t, LLM__P_OR);
        llm__tpl_emit(t, LLM__O_JUMP_FALSE, middle - begin + 2);
        llm__tpl_rotate(t, begin, middle);
        jump = llm__tpl_emit(t, LLM__O_JUMP, 0);
        if (llm__tpl_accept_name(t, "else")) {
            llm__tpl_expression(t, true);
        } else {
            llm__tpl_emit(
                t, LLM__O_CONST,
                llm__tpl_constant(t, llm__tpl_undefined("an inline if without else", 25, 0)));
        }
        llm__tpl_land(t, jump);
    }
    t->depth--;
}

/* ---- statements ------------------------------------------------------------------------------ */

/* Text up to `end`, then a tag with `sign`: cut as lstrip_blocks and '-' ask for. */
static void llm__tpl_emit_text(llm__tpl *t, uint32_t begin, uint32_t end, char sign, bool block) {
    uint32_t line = end, n;
    if (sign == '-') {
        uint32_t keep = begin;
        for (line = begin; line < end; line += n) {
            if (!llm__tpl_space_char(llm__tpl_char(t->src + line, t->src + end, &n)))
                keep = line + n;
        }
        end = keep;
    } else if (block && sign != '+') {
        while (line > begin && t->src[line - 1] != '\n') line--;
        if (line > begin || begin == 0 || t->src[begin - 1] == '\n') {
            uint32_t at = line;
            while (at < end && llm__tpl_space_char(llm__tpl_char(t->src + at, t->src + end, &n)))
                at += n;
            if (at >= end) end = line;
        }
    }
    t->where = begin;
    if (!llm__tpl_charge(t, (end - begin) / 8 + 1) || end == begin) return;
    llm__tpl_emit(t, LLM__O_TEXT,
                  llm__tpl_constant(t, llm__tpl_string(t->src + begin, end - begin, LLM__TRUSTED)));
}

/* After "{%": is this `word` and the end of the tag? Then the text goes on behind it. */
static bool llm__tpl_plain_tag(llm__tpl *t, const char *word, bool trim) {
    uint32_t save = t->pos;
    char sign = t->pos < t->n_src ? t->src[t->pos] : 0;
    if (sign == '-' || sign == '+') t->pos++;
    llm__tpl_skip_space(t);
    if (llm__tpl_at(t, t->pos, word)) {
        t->pos += (uint32_t)strlen(word);
        llm__tpl_skip_space(t);
        sign = t->pos < t->n_src ? t->src[t->pos] : 0;
        if (sign != '-' && (sign != '+' || !trim)) sign = 0;
        if (llm__tpl_at(t, t->pos + (sign != 0), "%}")) {
            llm__tpl_tag_end(t, t->pos + (sign != 0), sign, trim);
            return true;
        }
    }
    t->pos = save;
    return false;
}

static void llm__tpl_comment(llm__tpl *t) {
    uint32_t at = t->pos;
    if (at >= t->n_src) return; /* jinja2 lets this pass */
    while (at < t->n_src && !llm__tpl_at(t, at, "#}")) at++;
    if (at >= t->n_src) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "a comment is not closed: expected '#}'");
        return;
    }
    llm__tpl_tag_end(t, at, at > t->pos ? t->src[at - 1] : ' ', true);
}

static void llm__tpl_raw(llm__tpl *t) {
    uint32_t begin = t->pos, at;
    if (begin >= t->n_src) return; /* jinja2 lets this pass */
    for (at = begin; at + 1 < t->n_src && llm__tpl_charge(t, 1); at++) {
        if (!llm__tpl_at(t, at, "{%")) continue;
        t->pos = at + 2;
        if (llm__tpl_plain_tag(t, "endraw", true)) {
            llm__tpl_emit_text(t, begin, at, t->src[at + 2], true);
            return;
        }
    }
    llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'raw' is not closed: expected 'endraw'");
}

/* Compiles text up to the next tag; its first token is then at hand. Returns '{' or '%', or 0 at
   the end. */
static int llm__tpl_text(llm__tpl *t) {
    while (t->result == LLM_OK) {
        uint32_t begin = t->pos, at = begin;
        char kind = 0, sign;
        for (; at + 1 < t->n_src; at++) {
            kind = t->src[at + 1];
            if (t->src[at] == '{' && (kind == '{' || kind == '%' || kind == '#')) break;
        }
        if (at + 1 >= t->n_src) {
            llm__tpl_emit_text(t, begin, t->n_src, '+', false);
            t->pos = t->where = t->n_src;
            t->token.kind = LLM__K_EOF;
            return 0;
        }
        sign = at + 2 < t->n_src ? t->src[at + 2] : 0;
        llm__tpl_emit_text(t, begin, at, sign, kind != '{');
        t->where = at;
        t->pos = at + 2;
        if (kind == '%' && llm__tpl_plain_tag(t, "raw", false)) {
            llm__tpl_raw(t);
            continue;
        }
        if (sign == '-' || sign == '+') t->pos++;
        if (kind == '#') {
            llm__tpl_comment(t);
            continue;
        }
        t->in_block = kind == '%';
        t->brackets = 0;
        llm__tpl_next(t);
        return kind;
    }
    return 0;
}

static void llm__tpl_body(llm__tpl *t, const char *const *ends);

/* Statements up to a tag that begins with one of `ends`, which is then at hand. */
static void llm__tpl_body_until(llm__tpl *t, const char *a, const char *b, const char *c) {
    const char *ends[4];
    ends[0] = a;
    ends[1] = b;
    ends[2] = c;
    ends[3] = NULL;
    llm__tpl_expect_end(t);
    llm__tpl_body(t, ends);
}

/* Names to assign to, as code that stores from the stack. `attribute`: also name.attribute. */
static void llm__tpl_target(llm__tpl *t, bool attribute, bool closed) {
    int32_t head = llm__tpl_emit(t, LLM__O_NOTHING, 0), n = 0;
    bool tuple = false;
    if (!llm__tpl_enter(t)) return;
    for (;;) {
        if (llm__tpl_accept(t, '(')) {
            llm__tpl_target(t, false, true);
            llm__tpl_expect(t, ')', "')'");
        } else if (t->token.kind == LLM__K_NAME) {
            llm__tval name = t->token.value;
            uint32_t id = llm__tpl_intern(t, name.u.s, name.n);
            t->where = t->token.where;
            llm__tpl_next(t);
            if (attribute && llm__tpl_accept(t, '.')) {
                if (t->token.kind != LLM__K_NAME) llm__tpl_unexpected(t, "a name");
                llm__tpl_emit(t, LLM__O_LOAD, (int32_t)id);
                llm__tpl_emit(t, LLM__O_STORE_ATTR, llm__tpl_constant(t, t->token.value));
                llm__tpl_next(t);
            } else {
                llm__tpl_emit(t, LLM__O_STORE, (int32_t)id);
            }
        } else {
            break;
        }
        n++;
        if (!llm__tpl_accept(t, ',')) break;
        tuple = true;
    }
    if (n == 0 && !closed) llm__tpl_unexpected(t, "a name to assign to");
    if ((tuple || n == 0) && t->result == LLM_OK) {
        llm__tpl_code(t)[head].code = LLM__O_UNPACK;
        llm__tpl_code(t)[head].c = n;
    }
    t->depth--;
}

/* Takes the code from `begin` on out again, so that it can be put elsewhere. */
static llm__tpl_op *llm__tpl_take(llm__tpl *t, int32_t begin, int32_t *n) {
    llm__tpl_op *copy;
    *n = llm__tpl_here(t) - begin;
    copy = LLM__CAST(llm__tpl_op *, llm__tpl_alloc(t, (size_t)*n, sizeof *copy));
    if (!copy) return NULL;
    memcpy(copy, llm__tpl_code(t) + begin, (size_t)*n * sizeof *copy);
    t->code.n = (size_t)begin;
    return copy;
}
static void llm__tpl_place(llm__tpl *t, const llm__tpl_op *ops, int32_t n) {
    if (!ops || !llm__tpl_reserve(t, &t->code, (size_t)n, sizeof *ops, false)) return;
    memcpy(llm__tpl_code(t) + t->code.n, ops, (size_t)n * sizeof *ops);
    t->code.n += (size_t)n;
}

/* A walk over the list on the stack: FOR, the target, then the caller's code. */
static int32_t llm__tpl_for_head(llm__tpl *t, const llm__tpl_op *target, int32_t n, bool filter) {
    int32_t at = llm__tpl_emit(t, LLM__O_FOR, 0);
    if (t->result == LLM_OK) llm__tpl_code(t)[at].a = filter;
    llm__tpl_place(t, target, n);
    return at;
}

static void llm__tpl_for(llm__tpl *t) {
    int32_t begin = llm__tpl_here(t), n, head, end;
    llm__tpl_op *target;
    llm__tpl_exits exits, *outer = t->exits;
    llm__tpl_target(t, false, false);
    target = llm__tpl_take(t, begin, &n);
    if (!llm__tpl_accept_name(t, "in")) llm__tpl_unexpected(t, "'in'");
    llm__tpl_tuple(t, false, false);
    if (llm__tpl_accept_name(t, "if")) {
        head = llm__tpl_for_head(t, target, n, true);
        llm__tpl_expression(t, true);
        llm__tpl_emit(t, LLM__O_KEEP, 0);
        llm__tpl_emit(t, LLM__O_AGAIN, head + 1 - llm__tpl_here(t));
        llm__tpl_land(t, head);
        llm__tpl_emit(t, LLM__O_END_FOR, 0);
    }
    if (llm__tpl_is_name(t, "recursive"))
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "a recursive 'for' is not supported");
    head = llm__tpl_for_head(t, target, n, false);
    exits.breaks = exits.continues = -1;
    t->exits = &exits;
    llm__tpl_body_until(t, "endfor", "else", NULL);
    t->exits = outer;
    llm__tpl_emit(t, LLM__O_WALKED, 0);
    llm__tpl_land_chain(t, exits.continues);
    llm__tpl_emit(t, LLM__O_AGAIN, head + 1 - llm__tpl_here(t));
    llm__tpl_land_chain(t, exits.breaks);
    llm__tpl_land(t, head);
    end = llm__tpl_emit(t, LLM__O_END_FOR, 1);
    if (llm__tpl_accept_name(t, "else")) {
        llm__tpl_emit(t, LLM__O_SCOPE, 0);
        llm__tpl_body_until(t, "endfor", NULL, NULL);
        llm__tpl_emit(t, LLM__O_END_SCOPE, 0);
    }
    llm__tpl_land(t, end);
    llm__tpl_next(t);
}

static void llm__tpl_if(llm__tpl *t) {
    int32_t chain = -1, jump;
    for (;;) {
        llm__tpl_tuple(t, false, false);
        jump = llm__tpl_emit(t, LLM__O_JUMP_FALSE, 0);
        llm__tpl_body_until(t, "elif", "else", "endif");
        if (llm__tpl_is_name(t, "endif") || t->result != LLM_OK) break;
        chain = llm__tpl_emit(t, LLM__O_JUMP, chain);
        llm__tpl_land(t, jump);
        jump = -1;
        if (llm__tpl_accept_name(t, "elif")) continue;
        llm__tpl_next(t);
        llm__tpl_body_until(t, "endif", NULL, NULL);
        break;
    }
    if (jump >= 0) llm__tpl_land(t, jump);
    llm__tpl_land_chain(t, chain);
    llm__tpl_next(t);
}

/* Output of the statements up to `end` as a string on the stack, with filters from `begin` on. */
static void llm__tpl_captured(llm__tpl *t, const char *end) {
    int32_t begin = llm__tpl_here(t), n;
    llm__tpl_op *filters;
    while (llm__tpl_accept(t, '|')) llm__tpl_filter(t);
    filters = llm__tpl_take(t, begin, &n);
    llm__tpl_emit(t, LLM__O_CAPTURE, 0);
    llm__tpl_emit(t, LLM__O_SCOPE, 0);
    llm__tpl_body_until(t, end, NULL, NULL);
    llm__tpl_emit(t, LLM__O_END_SCOPE, 0);
    llm__tpl_emit(t, LLM__O_END_CAPTURE, 0);
    llm__tpl_place(t, filters, n);
}

static void llm__tpl_set(llm__tpl *t) {
    int32_t begin = llm__tpl_here(t), n;
    llm__tpl_op *target;
    llm__tpl_target(t, true, false);
    target = llm__tpl_take(t, begin, &n);
    if (llm__tpl_accept(t, '=')) {
        llm__tpl_tuple(t, true, false);
        llm__tpl_place(t, target, n);
        return;
    }
    llm__tpl_captured(t, "endset");
    llm__tpl_place(t, target, n);
    llm__tpl_next(t);
}

static void llm__tpl_filter_block(llm__tpl *t) {
    int32_t begin = llm__tpl_here(t), n;
    llm__tpl_op *filters;
    do llm__tpl_filter(t);
    while (llm__tpl_accept(t, '|'));
    filters = llm__tpl_take(t, begin, &n);
    llm__tpl_captured(t, "endfilter");
    llm__tpl_place(t, filters, n);
    llm__tpl_emit(t, LLM__O_PRINT, 0);
    llm__tpl_next(t);
}

static void llm__tpl_with(llm__tpl *t) {
    int32_t begin, n, count = 0;
    llm__tpl_op *target[LLM__TPL_WITH];
    int32_t sizes[LLM__TPL_WITH];
    while (t->token.kind != LLM__K_END && t->result == LLM_OK) {
        if (count) llm__tpl_expect(t, ',', "','");
        if (count == LLM__TPL_WITH) {
            llm__tpl_fail(t, LLM_ERROR_LIMIT, "more than %d names in 'with'", (int)LLM__TPL_WITH);
            return;
        }
        begin = llm__tpl_here(t);
        llm__tpl_target(t, false, false);
        target[count] = llm__tpl_take(t, begin, &n);
        sizes[count++] = n;
        llm__tpl_expect(t, '=', "'='");
        llm__tpl_expression(t, true);
    }
    llm__tpl_emit(t, LLM__O_SCOPE, 0);
    while (count-- > 0) llm__tpl_place(t, target[count], sizes[count]);
    llm__tpl_body_until(t, "endwith", NULL, NULL);
    llm__tpl_emit(t, LLM__O_END_SCOPE, 0);
    llm__tpl_next(t);
}

/* MACRO c -> over the body; the body begins with the defaults: IF_GIVEN c -> over one. */
static void llm__tpl_macro_definition(llm__tpl *t) {
    llm__tpl_macro *macro = LLM__CAST(llm__tpl_macro *, llm__tpl_alloc(t, 1, sizeof *macro));
    uint32_t names[LLM__TPL_PARAMETERS], n = 0;
    llm__tval name = t->token.value, v = llm__tpl_value(LLM__T_MACRO);
    llm__tpl_exits *outer = t->exits;
    bool in_macro = t->in_macro;
    int32_t head, given;
    if (!macro) return;
    if (t->token.kind != LLM__K_NAME) llm__tpl_unexpected(t, "a name");
    llm__tpl_next(t);
    llm__tpl_expect(t, '(', "'('");
    v.u.v = LLM__CAST(llm__tval *, LLM__CAST(void *, macro));
    llm__tpl_emit(t, LLM__O_CONST, llm__tpl_constant(t, v));
    head = llm__tpl_emit(t, LLM__O_MACRO, 0);
    macro->entry = (uint32_t)llm__tpl_here(t);
    t->in_macro = true;
    while (t->token.kind != ')' && t->result == LLM_OK) {
        if (n) llm__tpl_expect(t, ',', "','");
        if (t->token.kind != LLM__K_NAME) llm__tpl_unexpected(t, "a name");
        if (n == LLM__TPL_PARAMETERS) {
            llm__tpl_fail(t, LLM_ERROR_LIMIT, "a macro with more than %d parameters",
                          (int)LLM__TPL_PARAMETERS);
        }
        if (t->result != LLM_OK) return;
        names[n] = llm__tpl_intern(t, t->token.value.u.s, t->token.value.n);
        llm__tpl_next(t);
        if (llm__tpl_accept(t, '=')) {
            given = llm__tpl_emit(t, LLM__O_IF_GIVEN, 0);
            if (t->result == LLM_OK) llm__tpl_code(t)[given].b = (uint16_t)n;
            llm__tpl_expression(t, true);
            llm__tpl_emit(t, LLM__O_STORE, (int32_t)names[n]);
            llm__tpl_land(t, given);
        }
        n++;
    }
    llm__tpl_expect(t, ')', "')'");
    macro->name.data = name.u.s;
    macro->name.size = name.n;
    macro->n_params = n;
    macro->params = LLM__CAST(uint32_t *, llm__tpl_alloc(t, n, sizeof *names));
    if (macro->params && n) memcpy(macro->params, names, n * sizeof *names);
    t->exits = NULL;
    llm__tpl_body_until(t, "endmacro", NULL, NULL);
    t->exits = outer;
    t->in_macro = in_macro;
    llm__tpl_emit(t, LLM__O_RETURN, 0);
    llm__tpl_land(t, head);
    if (t->result == LLM_OK)
        llm__tpl_emit(t, LLM__O_STORE, (int32_t)llm__tpl_intern(t, name.u.s, name.n));
    llm__tpl_next(t);
}

static void llm__tpl_leave_loop(llm__tpl *t, bool last) {
    int32_t *chain;
    if (!t->exits) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%s' outside of a loop", last ? "break" : "continue");
        return;
    }
    chain = last ? &t->exits->breaks : &t->exits->continues;
    *chain = llm__tpl_emit(t, LLM__O_JUMP, *chain);
    llm__tpl_next(t);
}

static void llm__tpl_statement(llm__tpl *t) {
    llm__tval name = t->token.value;
    if (!llm__tpl_enter(t)) return;
    t->where = t->token.where;
    if (t->token.kind != LLM__K_NAME) llm__tpl_unexpected(t, "a statement");
    else if (llm__tpl_accept_name(t, "for")) llm__tpl_for(t);
    else if (llm__tpl_accept_name(t, "if")) llm__tpl_if(t);
    else if (llm__tpl_accept_name(t, "set")) llm__tpl_set(t);
    else if (llm__tpl_accept_name(t, "macro")) llm__tpl_macro_definition(t);
    else if (llm__tpl_accept_name(t, "with")) llm__tpl_with(t);
    else if (llm__tpl_accept_name(t, "filter")) llm__tpl_filter_block(t);
    else if (llm__tpl_is(&name, "break")) llm__tpl_leave_loop(t, true);
    else if (llm__tpl_is(&name, "continue")) llm__tpl_leave_loop(t, false);
    else if (llm__tpl_accept_name(t, "generation")) {
        llm__tpl_emit(t, LLM__O_SCOPE, 0);
        llm__tpl_body_until(t, "endgeneration", NULL, NULL);
        llm__tpl_emit(t, LLM__O_END_SCOPE, 0);
        llm__tpl_next(t);
    } else if (llm__tpl_is(&name, "else") || llm__tpl_is(&name, "elif") ||
               llm__tpl_at(t, t->where, "end")) {
        llm__tpl_unexpected(t, "a statement");
    } else {
        llm__tpl_fail_missing(t, "the statement", &name);
    }
    llm__tpl_expect_end(t);
    t->depth--;
}

static void llm__tpl_body(llm__tpl *t, const char *const *ends) {
    uint32_t begin = t->where;
    if (!llm__tpl_enter(t)) return;
    while (t->result == LLM_OK) {
        int i, kind = llm__tpl_text(t);
        if (kind == 0) {
            t->where = begin;
            if (ends)
                llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "this is not closed: expected '%s'",
                              ends[ends[2] ? 2 : 0]);
            break;
        }
        if (kind == '{') {
            llm__tpl_tuple(t, true, false);
            llm__tpl_emit(t, LLM__O_PRINT, 0);
            llm__tpl_expect_end(t);
            continue;
        }
        for (i = 0; ends && ends[i]; i++) {
            if (llm__tpl_is_name(t, ends[i])) break;
        }
        if (ends && ends[i]) break;
        llm__tpl_statement(t);
    }
    t->depth--;
}

/* The arguments of one call: `plain` values, then `named` pairs. */
typedef struct llm__tpl_args {
    const llm__tval *v;
    uint32_t plain, named;
} llm__tpl_args;

/* ---- text functions -------------------------------------------------------------------------- */

enum { LLM__CASE_LOWER, LLM__CASE_UPPER, LLM__CASE_CAPITAL, LLM__CASE_TITLE, LLM__CASE_WORDS };

/* upper, lower, capitalize, str.title and the filter `title`, which begins words elsewhere. */
static llm__tval llm__tpl_case(llm__tpl *t, const llm__tval *v, int mode) {
    size_t mark = t->out.n;
    uint32_t at, n, c, mapped;
    bool start = true, known, upper;
    for (at = 0; at < v->n && llm__tpl_charge(t, 1); at += n) {
        c = llm__tpl_char(v->u.s + at, v->u.s + v->n, &n);
        if (mode == LLM__CASE_WORDS &&
            (llm__tpl_space_char(c) || (c < 0x80 && c && strchr("-({[<", (int)c)))) {
            start = true;
            llm__tpl_put_sub(t, v, at, n);
            continue;
        }
        upper = mode == LLM__CASE_UPPER || (mode != LLM__CASE_LOWER && start);
        mapped = llm__tpl_case_char(c, upper, &known);
        if (!known) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "changing the case of U+%04X is not supported",
                          (unsigned)c);
        }
        llm__tpl_put_char(t, mapped, v, at);
        start =
            mode == LLM__CASE_TITLE && mapped == c &&
            llm__tpl_case_char(c, !upper, &known) == c; /* a word goes on while letters have case */
    }
    return llm__tpl_cut(t, mark);
}

/* Is the character of `v` at `at` one of `chars` (NULL: white space)? */
static bool llm__tpl_one_of(llm__tpl *t, uint32_t c, const llm__tval *chars) {
    uint32_t at, n;
    if (!chars) return llm__tpl_space_char(c);
    for (at = 0; at < chars->n && llm__tpl_charge(t, 1); at += n) {
        if (llm__tpl_char(chars->u.s + at, chars->u.s + chars->n, &n) == c) return true;
    }
    return false;
}

/* The first byte of the character that ends at `end`. */
static uint32_t llm__tpl_back(const llm__tval *v, uint32_t begin, uint32_t end) {
    uint32_t at = end - 1, k, n;
    for (k = 1; k < 4 && at - begin >= k && ((unsigned char)v->u.s[end - k] & 0xc0) == 0x80;) k++;
    (void)llm__tpl_char(v->u.s + end - k, v->u.s + end, &n);
    return n == k ? end - k : at;
}

static llm__tval llm__tpl_strip(llm__tpl *t, const llm__tval *v, const llm__tval *chars, bool left,
                                bool right) {
    uint32_t begin = 0, end = v->n, at, n;
    while (left && begin < end && llm__tpl_charge(t, 1) &&
           llm__tpl_one_of(t, llm__tpl_char(v->u.s + begin, v->u.s + end, &n), chars)) {
        begin += n;
    }
    while (right && begin < end && llm__tpl_charge(t, 1)) {
        at = llm__tpl_back(v, begin, end);
        if (!llm__tpl_one_of(t, llm__tpl_char(v->u.s + at, v->u.s + end, &n), chars)) break;
        end = at;
    }
    return llm__tpl_sub(v, begin, end);
}

static llm__tval llm__tpl_replace(llm__tpl *t, const llm__tval *v, const llm__tval *old,
                                  const llm__tval *with, int64_t count) {
    size_t mark = t->out.n;
    uint32_t from = 0, at, n;
    while (count != 0 && t->result == LLM_OK) {
        at = llm__tpl_search(t, v, from, old);
        if (at == UINT32_MAX) break;
        llm__tpl_put_sub(t, v, from, at - from);
        llm__tpl_put_string(t, with);
        from = at + old->n;
        count--;
        if (old->n == 0) { /* before every character and at the end */
            if (from >= v->n) break;
            (void)llm__tpl_char(v->u.s + from, v->u.s + v->n, &n);
            llm__tpl_put_sub(t, v, from, n);
            from += n;
            if (!llm__tpl_charge(t, 1)) break;
        }
    }
    llm__tpl_put_sub(t, v, from, v->n - from);
    return llm__tpl_cut(t, mark);
}

/* str.split() without a separator: words. */
static llm__tval llm__tpl_words(llm__tpl *t, const llm__tval *v, int64_t most) {
    llm__tpl_list list = llm__tpl_list_make();
    llm__tval rest = llm__tpl_strip(t, v, NULL, true, false);
    uint32_t at, n = 0;
    while (rest.n && t->result == LLM_OK) {
        for (at = 0; at < rest.n && llm__tpl_charge(t, 1); at += n) {
            if (llm__tpl_space_char(llm__tpl_char(rest.u.s + at, rest.u.s + rest.n, &n))) break;
        }
        if (most-- == 0) {
            llm__tpl_push_item(t, &list, rest);
            break;
        }
        llm__tpl_push_item(t, &list, llm__tpl_sub(&rest, 0, at));
        rest = llm__tpl_sub(&rest, at, rest.n);
        rest = llm__tpl_strip(t, &rest, NULL, true, false);
    }
    return list.v;
}

static llm__tval llm__tpl_split(llm__tpl *t, const llm__tval *v, const llm__tval *sep, int64_t most,
                                bool last) {
    llm__tpl_list list = llm__tpl_list_make();
    int64_t skip = 0;
    uint32_t from = 0, at, next = 0;
    if (sep->n == 0) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "the separator of 'split' is empty, expected a character or more");
        return list.v;
    }
    if (last && most >= 0) { /* from the right: leave the first ones together */
        for (at = 0; (at = llm__tpl_search(t, v, at, sep)) != UINT32_MAX; at += sep->n) skip++;
        skip = skip > most ? skip - most : 0;
        most = -1;
    }
    while (t->result == LLM_OK && (at = llm__tpl_search(t, v, next, sep)) != UINT32_MAX &&
           most != 0) {
        next = at + sep->n;
        if (skip-- > 0) continue;
        llm__tpl_push_item(t, &list, llm__tpl_sub(v, from, at));
        from = next;
        most--;
    }
    llm__tpl_push_item(t, &list, llm__tpl_sub(v, from, v->n));
    return list.v;
}

static llm__tval llm__tpl_lines(llm__tpl *t, const llm__tval *v) {
    llm__tpl_list list = llm__tpl_list_make();
    uint32_t from = 0, at, n, c;
    for (at = 0; at < v->n && llm__tpl_charge(t, 1); at += n) {
        c = llm__tpl_char(v->u.s + at, v->u.s + v->n, &n);
        if (!llm__tpl_line_char(c)) continue;
        llm__tpl_push_item(t, &list, llm__tpl_sub(v, from, at));
        if (c == '\r' && at + 1 < v->n && v->u.s[at + 1] == '\n') n = 2;
        from = at + n;
    }
    if (from < v->n) llm__tpl_push_item(t, &list, llm__tpl_sub(v, from, v->n));
    return list.v;
}

/* An indentation: a string as it is, or so many spaces. */
static llm__tval llm__tpl_spaces(llm__tpl *t, const llm__tval *width, unsigned trust) {
    size_t mark = t->out.n;
    int64_t i;
    if (width->type == LLM__T_STRING) return *width;
    if (!llm__tpl_is_integer(width)) llm__tpl_fail_type(t, "cannot be an indentation", width);
    for (i = 0; i < width->u.i && llm__tpl_charge(t, 1); i++) llm__tpl_puts(t, " ", trust);
    return llm__tpl_cut(t, mark);
}

static llm__tval llm__tpl_indent(llm__tpl *t, const llm__tval *v, const llm__tval *width,
                                 bool first, bool blank) {
    llm__tval space = llm__tpl_string("    ", 4, LLM__TRUSTED), lines, line;
    size_t mark = t->out.n;
    int64_t i;
    if (width->type != LLM__T_MISSING) space = llm__tpl_spaces(t, width, LLM__TRUSTED);
    llm__tpl_put_string(t, v);
    llm__tpl_puts(t, "\n", LLM__TRUSTED);
    line = llm__tpl_cut(t, mark);
    lines = llm__tpl_lines(t, &line);
    for (i = 0; i < lines.n && llm__tpl_charge(t, 1); i++) {
        line = lines.u.v[i];
        if (i) llm__tpl_puts(t, "\n", LLM__TRUSTED);
        if (i ? blank || line.n : first) llm__tpl_put_string(t, &space);
        llm__tpl_put_string(t, &line);
    }
    return llm__tpl_cut(t, mark);
}

/* '{} {0} {name}'.format(..): plain fields only. */
static llm__tval llm__tpl_format(llm__tpl *t, const llm__tval *v, llm__tpl_args args) {
    size_t mark = t->out.n;
    uint32_t at = 0, end, k, next = 0, size;
    int64_t number;
    bool counted = false; /* {0}: then no {} */
    while (at < v->n && llm__tpl_charge(t, 1)) {
        const char c = v->u.s[at], *name = v->u.s + at + 1;
        const llm__tval *value = NULL;
        if ((c != '{' && c != '}') || (at + 1 < v->n && *name == c)) {
            llm__tpl_put_sub(t, v, at, 1);
            at += c == '{' || c == '}' ? 2 : 1;
            continue;
        }
        for (end = at + 1; end < v->n && llm__tpl_name_char(v->u.s[end]);) end++;
        size = end - at - 1;
        if (c == '}' || end >= v->n || v->u.s[end] != '}') {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                          "a field of format() at character %lu is not '{}', '{0}' or '{name}'",
                          (unsigned long)at);
            break;
        }
        for (k = 0, number = 0; k < size && llm__tpl_digit(name[k]) && number < args.plain; k++)
            number = number * 10 + (name[k] - '0');
        counted = counted || (size && llm__tpl_digit(*name));
        if (!size && !counted) number = next++;
        if (k == size && number < args.plain) value = &args.v[number];
        for (k = 0; k < args.named; k++) {
            const llm__tval *given = &args.v[args.plain + 2 * k];
            if (given->n == size && memcmp(given->u.s, name, size) == 0) value = given + 1;
        }
        if (counted && (!size || next)) value = NULL;
        if (value) llm__tpl_put_value(t, value);
        else llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "format() has no argument for '{%.*s}'",
                           llm__tpl_clip(size), name);
        at = end + 1;
    }
    return llm__tpl_cut(t, mark);
}

/* str() of the items with `sep` between them. */
static llm__tval llm__tpl_join(llm__tpl *t, const llm__tval *list, const llm__tval *sep) {
    size_t mark = t->out.n;
    uint32_t i;
    for (i = 0; i < list->n && llm__tpl_charge(t, 1); i++) {
        if (i) llm__tpl_put_value(t, sep);
        llm__tpl_put_value(t, &list->u.v[i]);
    }
    return llm__tpl_cut(t, mark);
}

static llm__tval llm__tpl_reversed(llm__tpl *t, const llm__tval *v) {
    size_t mark = t->out.n;
    llm__tval list = llm__tpl_items(t, v), r;
    uint32_t i;
    if (v->type == LLM__T_STRING) {
        for (i = list.n; i-- > 0 && t->result == LLM_OK;) llm__tpl_put_string(t, &list.u.v[i]);
        return llm__tpl_cut(t, mark);
    }
    r = llm__tpl_seq(t, LLM__T_GENERATOR, list.n);
    for (i = 0; t->result == LLM_OK && i < list.n; i++) r.u.v[i] = list.u.v[list.n - 1 - i];
    return r;
}

static llm__tval llm__tpl_strftime(llm__tpl *t, const llm__tval *v) {
    static const char days[7][10] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                     "Thursday", "Friday", "Saturday"};
    static const char months[12][10] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};
    static const int before[12] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    const llm_template_date *d = &t->desc->date;
    int y = d->year - (d->month < 3), day, of_year, hour = d->hour % 12 ? d->hour % 12 : 12;
    size_t mark = t->out.n;
    uint32_t at;
    day = (d->year - 1) * 365 + y / 4 - y / 100 + y / 400 + before[d->month - 1] + d->day;
    of_year = before[d->month - 1] + d->day +
              (d->month > 2 && d->year % 4 == 0 && (d->year % 100 != 0 || d->year % 400 == 0));
    for (at = 0; at < v->n && llm__tpl_charge(t, 1); at++) {
        char text[24], c = v->u.s[at];
        const char *s = text;
        bool bare;
        if (c != '%' || at + 1 >= v->n) {
            llm__tpl_put_sub(t, v, at, 1);
            continue;
        }
        bare = v->u.s[++at] == '-' && at + 1 < v->n;
        c = v->u.s[at += bare];
        text[0] = 0;
        switch (c) {
        case 'Y': (void)snprintf(text, sizeof text, "%d", d->year); break;
        case 'y': (void)snprintf(text, sizeof text, "%02d", d->year % 100); break;
        case 'm': (void)snprintf(text, sizeof text, "%02d", d->month); break;
        case 'd': (void)snprintf(text, sizeof text, "%02d", d->day); break;
        case 'e': (void)snprintf(text, sizeof text, "%2d", d->day); break;
        case 'H': (void)snprintf(text, sizeof text, "%02d", d->hour); break;
        case 'I': (void)snprintf(text, sizeof text, "%02d", hour); break;
        case 'M': (void)snprintf(text, sizeof text, "%02d", d->minute); break;
        case 'S': (void)snprintf(text, sizeof text, "%02d", d->second); break;
        case 'j': (void)snprintf(text, sizeof text, "%03d", of_year); break;
        case 'p': s = d->hour < 12 ? "AM" : "PM"; break;
        case 'B': s = months[d->month - 1]; break;
        case 'b': (void)snprintf(text, sizeof text, "%.3s", months[d->month - 1]); break;
        case 'A': s = days[day % 7]; break;
        case 'a': (void)snprintf(text, sizeof text, "%.3s", days[day % 7]); break;
        case '%': s = "%"; break;
        default: llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'%%%c' of strftime is not supported", c);
        }
        while (bare && *s == '0' && s[1]) s++;
        llm__tpl_puts(t, s, LLM__TRUSTED);
    }
    return llm__tpl_cut(t, mark);
}

/* ---- attributes, items, slices --------------------------------------------------------------- */

static llm__tval llm__tpl_loop_attr(llm__tpl *t, const llm__tval *v, const llm__tval *name) {
    const llm__tpl_loop *loop = &t->loops[v->n];
    if (v->n >= t->n_loops || loop->serial != (uint64_t)v->u.i) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                      "'loop' after the end of its loop is not supported");
    } else if (llm__tpl_is(name, "index0")) {
        return llm__tpl_int(loop->i);
    } else if (llm__tpl_is(name, "index")) {
        return llm__tpl_int((int64_t)loop->i + 1);
    } else if (llm__tpl_is(name, "revindex0")) {
        return llm__tpl_int((int64_t)loop->n - 1 - loop->i);
    } else if (llm__tpl_is(name, "revindex")) {
        return llm__tpl_int((int64_t)loop->n - loop->i);
    } else if (llm__tpl_is(name, "first")) {
        return llm__tpl_bool(loop->i == 0);
    } else if (llm__tpl_is(name, "last")) {
        return llm__tpl_bool(loop->i + 1 == loop->n);
    } else if (llm__tpl_is(name, "length")) {
        return llm__tpl_int(loop->n);
    } else if (llm__tpl_is(name, "previtem")) {
        if (loop->i) return loop->items[loop->i - 1];
        return llm__tpl_undefined("there is no previous item", 25, 0);
    } else if (llm__tpl_is(name, "nextitem")) {
        if (loop->i + 1 < loop->n) return loop->items[loop->i + 1];
        return llm__tpl_undefined("there is no next item", 21, 0);
    } else if (llm__tpl_is(name, "depth")) {
        return llm__tpl_int(1); /* of a recursive loop, which this one is not */
    } else if (llm__tpl_is(name, "depth0")) {
        return llm__tpl_int(0);
    } else if (llm__tpl_is(name, "changed")) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'loop.changed' is not supported");
    }
    return llm__tpl_undefined(name->u.s, name->n, LLM__T_LOOP);
}

/* The method `name` of `v`, or undefined. */
static llm__tval llm__tpl_method(llm__tpl *t, const llm__tval *v, const llm__tval *name) {
    char kind = "......sl....d.o...."[v->type]; /* by llm__tpl_type */
    uint32_t id = llm__tpl_native_find(kind, name->u.s, name->n);
    llm__tval r = llm__tpl_value(LLM__T_METHOD);
    (void)llm__tpl_charge(t, 16);
    r.u.v = id < LLM__N_COUNT ? LLM__CAST(llm__tval *, llm__tpl_alloc(t, 1, sizeof *v)) : NULL;
    if (!r.u.v) return llm__tpl_undefined(name->u.s, name->n, v->type);
    *r.u.v = *v;
    r.n = id;
    return r;
}

/* v.name: for a dict the method comes before the key, as in Python. */
static llm__tval llm__tpl_attr(llm__tpl *t, const llm__tval *v, const llm__tval *name,
                               bool key_first) {
    llm__tval *found = NULL, r;
    if (v->type == LLM__T_UNDEFINED) {
        llm__tpl_fail_undefined(t, v);
        return *v;
    }
    if (v->type == LLM__T_NAMESPACE) {
        found = llm__tpl_find(t, v->u.space->v, v->u.space->n, name, 0);
        return found ? *found : llm__tpl_undefined(name->u.s, name->n, v->type);
    }
    if (v->type == LLM__T_DICT && key_first) found = llm__tpl_find(t, v->u.v, v->n, name, 0);
    if (found) return *found;
    r = llm__tpl_method(t, v, name);
    if (r.type == LLM__T_UNDEFINED && v->type == LLM__T_LOOP) return llm__tpl_loop_attr(t, v, name);
    if (r.type == LLM__T_UNDEFINED && v->type == LLM__T_DICT && !key_first) {
        found = llm__tpl_find(t, v->u.v, v->n, name, 0);
    }
    return found ? *found : r;
}

/* v[index]; undefined when there is none. */
static llm__tval llm__tpl_item(llm__tpl *t, const llm__tval *v, const llm__tval *index) {
    llm__tval *found, missing;
    const char *name = llm__tpl_type_name(index->type);
    int64_t i = index->u.i, n;
    if (v->type == LLM__T_UNDEFINED) {
        llm__tpl_fail_undefined(t, v);
        return *v;
    }
    if (index->type == LLM__T_STRING) return llm__tpl_attr(t, v, index, true);
    if (v->type == LLM__T_DICT) {
        found = llm__tpl_find(t, v->u.v, v->n, index, 0);
        if (found) return *found;
    } else if (llm__tpl_is_integer(index) && (llm__tpl_is_seq(v) || v->type == LLM__T_STRING)) {
        n = v->type == LLM__T_STRING ? llm__tpl_chars(t, v) : v->n;
        if (i < 0) i += n;
        if (i >= 0 && i < n && v->type != LLM__T_STRING) return v->u.v[i];
        if (i >= 0 && i < n) {
            uint32_t at = llm__tpl_offset(t, v, (uint32_t)i), size;
            (void)llm__tpl_char(v->u.s + at, v->u.s + v->n, &size);
            return llm__tpl_sub(v, at, at + size);
        }
    }
    missing = llm__tpl_string(name, strlen(name), LLM__TRUSTED);
    if (index->type == LLM__T_NONE || llm__tpl_is_number(index)) missing = llm__tpl_str(t, index);
    return llm__tpl_undefined(missing.u.s, missing.n, v->type);
}

/* A bound of a slice, as slice.indices() makes it. */
static int64_t llm__tpl_bound(llm__tpl *t, const llm__tval *v, int64_t none, int64_t n,
                              int64_t step) {
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n, i = v->u.i;
    if (v->type == LLM__T_NONE) return none;
    if (!llm__tpl_is_integer(v))
        llm__tpl_fail_type(t, "cannot be a bound of a slice: expected an integer", v);
    if (i < 0) i = i < -n ? low : i + n;
    return i > high ? high : i;
}

static llm__tval llm__tpl_slice(llm__tpl *t, const llm__tval *v, const llm__tval *bounds) {
    int64_t n = v->n, step = 1, from, to, count, i;
    bool text = v->type == LLM__T_STRING;
    size_t mark = t->out.n;
    llm__tval r = *v, list;
    if (!text && !llm__tpl_is_seq(v)) {
        llm__tpl_fail_type(t, "cannot be sliced", v);
        return r;
    }
    if (text) n = llm__tpl_chars(t, v);
    if (bounds[2].type != LLM__T_NONE) {
        step = bounds[2].u.i;
        if (!llm__tpl_is_integer(&bounds[2]) || step == 0) {
            llm__tpl_fail_type(t, "cannot be the step of a slice: expected an integer other than 0",
                               &bounds[2]);
            return r;
        }
        if (step > LLM__TPL_MAX) step = LLM__TPL_MAX;
        if (step < -LLM__TPL_MAX) step = -LLM__TPL_MAX;
    }
    from = llm__tpl_bound(t, &bounds[0], step < 0 ? n - 1 : 0, n, step);
    to = llm__tpl_bound(t, &bounds[1], step < 0 ? -1 : n, n, step);
    count = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
    if (count <= 0 || t->result != LLM_OK) count = 0, from = to = 0;
    if (step == 1 && text) {
        uint32_t begin = llm__tpl_offset(t, v, (uint32_t)from);
        llm__tval rest = llm__tpl_sub(v, begin, v->n);
        return llm__tpl_sub(&rest, 0, llm__tpl_offset(t, &rest, (uint32_t)count));
    }
    if (step == 1) {
        if (count) r.u.v += from;
        r.n = (uint32_t)count;
        return r;
    }
    list = llm__tpl_items(t, v);
    r = llm__tpl_seq(t, text ? LLM__T_LIST : (llm__tpl_type)v->type, (size_t)count);
    for (i = 0; t->result == LLM_OK && i < count; i++) r.u.v[i] = list.u.v[from + i * step];
    if (!text) return r;
    for (i = 0; t->result == LLM_OK && i < count; i++) llm__tpl_put_string(t, &r.u.v[i]);
    return llm__tpl_cut(t, mark);
}

/* "a.b.0", as the `attribute` of map, sort, ... */
static llm__tval llm__tpl_path(llm__tpl *t, const llm__tval *v, const llm__tval *path) {
    llm__tval r = *v, part, index;
    uint32_t at = 0, end;
    if (path->type != LLM__T_STRING) return llm__tpl_item(t, v, path);
    while (at <= path->n && t->result == LLM_OK) {
        for (end = at; end < path->n && path->u.s[end] != '.';) end++;
        part = llm__tpl_sub(path, at, end);
        if (part.n && llm__tpl_number(t, part.u.s, part.n, &index, false) == part.n &&
            index.type == LLM__T_INT)
            part = index;
        r = llm__tpl_item(t, &r, &part);
        at = end + 1;
    }
    return r;
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static void llm__tpl_put_escaped(llm__tpl *t, const llm__tval *v) {
    uint32_t i;
    for (i = 0; i < v->n && llm__tpl_charge(t, 1); i++) {
        switch (v->u.s[i]) {
        case '&': llm__tpl_puts(t, "&amp;", LLM__UNTRUSTED); break;
        case '<': llm__tpl_puts(t, "&lt;", LLM__UNTRUSTED); break;
        case '>': llm__tpl_puts(t, "&gt;", LLM__UNTRUSTED); break;
        case '"': llm__tpl_puts(t, "&#34;", LLM__UNTRUSTED); break;
        case '\'': llm__tpl_puts(t, "&#39;", LLM__UNTRUSTED); break;
        default: llm__tpl_put_sub(t, v, i, 1);
        }
    }
}

/* a + b of two strings or two sequences. */
static llm__tval llm__tpl_concat(llm__tpl *t, const llm__tval *a, const llm__tval *b) {
    size_t mark = t->out.n;
    llm__tval r;
    if (a->type == LLM__T_STRING) {
        if (b->more && !a->more) llm__tpl_put_escaped(t, a);
        else llm__tpl_put_string(t, a);
        if (a->more && !b->more) llm__tpl_put_escaped(t, b);
        else llm__tpl_put_string(t, b);
        r = llm__tpl_cut(t, mark);
        r.more = a->more | b->more;
        return r;
    }
    r = llm__tpl_seq(t, (llm__tpl_type)a->type, (size_t)a->n + b->n);
    if (t->result != LLM_OK) return *a;
    if (a->n) memcpy(r.u.v, a->u.v, a->n * sizeof *a);
    if (b->n) memcpy(r.u.v + a->n, b->u.v, b->n * sizeof *b);
    return r;
}

static llm__tval llm__tpl_repeat(llm__tpl *t, const llm__tval *v, int64_t count) {
    size_t mark = t->out.n;
    int64_t i;
    llm__tval r;
    if (count < 0 || v->n == 0) count = 0;
    else if (count > LLM__TPL_MAX / v->n) count = LLM__TPL_MAX / v->n; /* beyond every bound */
    if (v->type == LLM__T_STRING) {
        for (i = 0; i < count && llm__tpl_charge(t, 1); i++) llm__tpl_put_string(t, v);
        r = llm__tpl_cut(t, mark);
        r.more = v->more;
        return r;
    }
    r = llm__tpl_seq(t, (llm__tpl_type)v->type, (size_t)count * v->n);
    for (i = 0; t->result == LLM_OK && i < count; i++) {
        memcpy(r.u.v + i * (int64_t)v->n, v->u.v, v->n * sizeof *v);
    }
    return r;
}

/* Integers: false when the result needs more than 64 bits. Division floors, as in Python. */
static bool llm__tpl_integer_op(int op, int64_t a, int64_t b, int64_t *r) {
    uint64_t ua = (uint64_t)a, ub = (uint64_t)b;
    int64_t q;
    switch (op) {
    case LLM__O_ADD:
        *r = (int64_t)(ua + ub);
        return b < 0 ? *r < a : *r >= a;
    case LLM__O_SUB:
        *r = (int64_t)(ua - ub);
        return b < 0 ? *r > a : *r <= a;
    case LLM__O_MUL:
        *r = (int64_t)(ua * ub);
        if (a == -1) return b != INT64_MIN;
        return a == 0 || *r / a == b;
    default: /* IDIV, MOD; b is not 0 */
        if (b == -1) {
            *r = op == LLM__O_MOD ? 0 : a == INT64_MIN ? 0 : -a;
            return op == LLM__O_MOD || a != INT64_MIN;
        }
        q = a / b;
        if (a % b && (a < 0) != (b < 0)) q--;
        *r = op == LLM__O_MOD ? a - q * b : q;
        return true;
    }
}

static bool llm__tpl_power(int64_t a, int64_t b, int64_t *r) {
    *r = 1;
    if (a == 1 || b == 0) return true;
    if (a == 0) return *r = 0, true;
    if (a == -1) return *r = b & 1 ? -1 : 1, true;
    for (; b > 0; b--) {
        if (!llm__tpl_integer_op(LLM__O_MUL, *r, a, r)) return false;
    }
    return true;
}

static LLM__UNUSED const char *llm__tpl_operator_name(int op) {
    static const char names[][3] = {"+", "-", "*", "/", "//", "%", "**"};
    return names[op - LLM__O_ADD];
}

static llm__tval llm__tpl_number_op(llm__tpl *t, int op, const llm__tval *a, const llm__tval *b) {
    bool whole = llm__tpl_is_integer(a) && llm__tpl_is_integer(b);
    int64_t r = 0;
    double x = llm__tpl_real(a), y = llm__tpl_real(b);
    if ((op == LLM__O_DIV || op == LLM__O_IDIV || op == LLM__O_MOD) && !llm__tpl_truth(b)) {
        llm__tpl_fail_type(t, "cannot be divided by zero", a);
        return *a;
    }
    if (op == LLM__O_DIV) return llm__tpl_float(x / y);
    if (whole && op == LLM__O_POW && b->u.i >= 0) {
        if (!llm__tpl_power(a->u.i, b->u.i, &r)) whole = false;
    } else if (whole && op != LLM__O_POW) {
        if (!llm__tpl_integer_op(op, a->u.i, b->u.i, &r)) whole = false;
    } else {
        if (op == LLM__O_ADD) return llm__tpl_float(x + y);
        if (op == LLM__O_SUB) return llm__tpl_float(x - y);
        if (op == LLM__O_MUL) return llm__tpl_float(x * y);
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "%s %s %s is not supported with these numbers",
                      llm__tpl_type_name(a->type), llm__tpl_operator_name(op),
                      llm__tpl_type_name(b->type));
        return *a;
    }
    if (!whole) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "%lld %s %lld needs more than 64 bits",
                      (long long)a->u.i, llm__tpl_operator_name(op), (long long)b->u.i);
    }
    return llm__tpl_int(r);
}

static llm__tval llm__tpl_arithmetic(llm__tpl *t, int op, const llm__tval *a, const llm__tval *b) {
    if (llm__tpl_is_number(a) && llm__tpl_is_number(b)) return llm__tpl_number_op(t, op, a, b);
    if (op == LLM__O_ADD && a->type == b->type &&
        (a->type == LLM__T_STRING || a->type == LLM__T_LIST || a->type == LLM__T_TUPLE)) {
        return llm__tpl_concat(t, a, b);
    }
    if (op == LLM__O_MUL && llm__tpl_is_integer(a)) {
        const llm__tval *swap = a;
        a = b;
        b = swap;
    }
    if (op == LLM__O_MUL && llm__tpl_is_integer(b) &&
        (a->type == LLM__T_STRING || a->type == LLM__T_LIST || a->type == LLM__T_TUPLE)) {
        return llm__tpl_repeat(t, a, b->u.i);
    }
    if (op == LLM__O_MOD && a->type == LLM__T_STRING) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'%%' after a str is not supported");
    } else if (a->type == LLM__T_UNDEFINED || b->type == LLM__T_UNDEFINED) {
        llm__tpl_fail_undefined(t, a->type == LLM__T_UNDEFINED ? a : b);
    } else {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "there is no %s %s %s", llm__tpl_type_name(a->type),
                      llm__tpl_operator_name(op), llm__tpl_type_name(b->type));
    }
    return *a;
}

static bool llm__tpl_compare(llm__tpl *t, int op, const llm__tval *a, const llm__tval *b) {
    switch (op) {
    case LLM__C_EQ: return llm__tpl_equal(t, a, b, 0);
    case LLM__C_NE: return !llm__tpl_equal(t, a, b, 0);
    case LLM__C_LT: return llm__tpl_order(t, a, b) < 0;
    case LLM__C_LE: return llm__tpl_order(t, a, b) <= 0;
    case LLM__C_GT: return llm__tpl_order(t, a, b) > 0;
    case LLM__C_GE: return llm__tpl_order(t, a, b) >= 0;
    case LLM__C_IN: return llm__tpl_contains(t, a, b);
    default: return !llm__tpl_contains(t, a, b);
    }
}

/* ---- calls of natives ------------------------------------------------------------------------ */

static llm__tval llm__tpl_native_call(llm__tpl *t, uint32_t id, const llm__tval *self,
                                      llm__tpl_args args);

/* The place of a name in a list "a,b,c". */
static uint32_t llm__tpl_place_of(const char *names, const llm__tval *name) {
    uint32_t k, n;
    for (k = 0; *names; k++) {
        for (n = 0; names[n] && names[n] != ',';) n++;
        if (n == name->n && memcmp(names, name->u.s, n) == 0) return k;
        names += n + (names[n] == ',');
    }
    return UINT32_MAX;
}

/* Sorts arguments into out[0..4) by the names in `parameters`; absent ones are MISSING. */
static void llm__tpl_bind(llm__tpl *t, const llm__tpl_native *native, llm__tpl_args args,
                          llm__tval *out) {
    const char *p;
    uint32_t i, k, n = *native->parameters != 0;
    for (p = native->parameters; *p; p++) n += *p == ',';
    if (args.plain > n) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%s' got %u arguments, expected at most %u",
                      native->name, (unsigned)args.plain, (unsigned)n);
        return;
    }
    for (k = 0; k < 4; k++) out[k] = k < args.plain ? args.v[k] : llm__tpl_value(LLM__T_MISSING);
    for (i = 0; i < args.named; i++) {
        const llm__tval *name = &args.v[args.plain + 2 * i];
        k = llm__tpl_place_of(native->parameters, name);
        if (k < n && out[k].type == LLM__T_MISSING) {
            out[k] = name[1];
            continue;
        }
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%s' got the argument '%.*s'%s", native->name,
                      llm__tpl_clip(name->n), name->u.s,
                      k < n ? " twice" : ", which it does not take");
    }
}

/* A required string argument. */
static bool llm__tpl_need_string(llm__tpl *t, const char *who, const llm__tval *v) {
    if (v->type == LLM__T_STRING) return true;
    if (v->type == LLM__T_UNDEFINED) llm__tpl_fail_undefined(t, v);
    llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%s' got %s, expected str", who,
                  llm__tpl_type_name(v->type));
    return false;
}

/* What orders or identifies an item: its attribute, lower case unless case matters. */
static llm__tval llm__tpl_key(llm__tpl *t, const llm__tval *v, const llm__tval *attribute,
                              const llm__tval *sensitive) {
    llm__tval key = attribute->type == LLM__T_MISSING || attribute->type == LLM__T_NONE
                        ? *v
                        : llm__tpl_path(t, v, attribute);
    if (key.type == LLM__T_STRING && !llm__tpl_truth(sensitive))
        return llm__tpl_case(t, &key, LLM__CASE_LOWER);
    return key;
}

static llm__tval llm__tpl_sort(llm__tpl *t, const llm__tval *list, const llm__tval *attribute,
                               const llm__tval *sensitive, bool reverse) {
    llm__tval keys = llm__tpl_seq(t, LLM__T_LIST, list->n);
    uint32_t i;
    for (i = 0; t->result == LLM_OK && i < list->n; i++) {
        keys.u.v[i] = llm__tpl_key(t, &list->u.v[i], attribute, sensitive);
    }
    if (t->result != LLM_OK) return *list;
    return llm__tpl_sorted(t, list, &keys, reverse);
}

static llm__tval llm__tpl_unique(llm__tpl *t, const llm__tval *list, const llm__tval *attribute,
                                 const llm__tval *sensitive) {
    llm__tval keys = llm__tpl_seq(t, LLM__T_LIST, list->n),
              r = llm__tpl_seq(t, LLM__T_GENERATOR, list->n), key;
    uint32_t i;
    r.n = keys.n = 0;
    for (i = 0; t->result == LLM_OK && i < list->n; i++) {
        key = llm__tpl_key(t, &list->u.v[i], attribute, sensitive);
        if (key.type == LLM__T_LIST || key.type == LLM__T_DICT)
            llm__tpl_fail_type(t, "cannot be compared by 'unique': expected what can be a key", &key);
        if (t->result != LLM_OK || llm__tpl_contains(t, &key, &keys)) continue;
        keys.u.v[keys.n++] = key;
        r.u.v[r.n++] = list->u.v[i];
    }
    return r;
}

/* min (sign -1) and max (sign 1): the first of the extreme items. */
static llm__tval llm__tpl_extreme(llm__tpl *t, const llm__tval *list, const llm__tval *a,
                                  int sign) {
    llm__tval best = llm__tpl_undefined("an item of an empty sequence", 28, 0), best_key = best,
              key;
    uint32_t i;
    for (i = 0; i < list->n && llm__tpl_charge(t, 1); i++) {
        key = llm__tpl_key(t, &list->u.v[i], &a[1], &a[0]);
        if (i && llm__tpl_order(t, &key, &best_key) * sign <= 0) continue;
        best = list->u.v[i];
        best_key = key;
    }
    return best;
}

static llm__tval llm__tpl_pairs(llm__tpl *t, const llm__tval *v, llm__tpl_type type) {
    llm__tval r = llm__tpl_seq(t, type, v->n);
    uint32_t i;
    for (i = 0; t->result == LLM_OK && i < v->n; i++) {
        r.u.v[i] = llm__tpl_value(LLM__T_TUPLE);
        r.u.v[i].u.v = v->u.v + 2 * i;
        r.u.v[i].n = 2;
    }
    return r;
}

static llm__tval llm__tpl_dictsort(llm__tpl *t, const llm__tval *v, const llm__tval *a) {
    llm__tval pairs = llm__tpl_pairs(t, v, LLM__T_LIST), keys = llm__tpl_seq(t, LLM__T_LIST, v->n);
    uint32_t i, which = llm__tpl_is(&a[1], "value");
    llm__tval missing = llm__tpl_value(LLM__T_MISSING);
    if (!which && a[1].type != LLM__T_MISSING && !llm__tpl_is(&a[1], "key")) {
        llm__tpl_fail_type(t, "cannot be what 'dictsort' goes by: expected 'key' or 'value'",
                           &a[1]);
    }
    for (i = 0; t->result == LLM_OK && i < v->n; i++) {
        keys.u.v[i] = llm__tpl_key(t, &v->u.v[2 * i + which], &missing, &a[0]);
    }
    if (t->result != LLM_OK) return pairs;
    return llm__tpl_sorted(t, &pairs, &keys, llm__tpl_truth(&a[2]));
}

/* select, reject, selectattr, rejectattr: arguments are [attribute,] [test, its arguments]. */
static llm__tval llm__tpl_select(llm__tpl *t, const llm__tval *list, llm__tpl_args args, bool attr,
                                 bool want) {
    llm__tval r = llm__tpl_seq(t, LLM__T_GENERATOR, list->n), v, yes;
    llm__tpl_args rest = args;
    uint32_t i, id = LLM__N_COUNT, used = attr;
    r.n = 0;
    if (args.plain < used)
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'selectattr' and 'rejectattr' need an attribute");
    if (args.plain > used && llm__tpl_need_string(t, "select", &args.v[used])) {
        id = llm__tpl_native_find('t', args.v[used].u.s, args.v[used].n);
        if (id == LLM__N_COUNT) {
            llm__tpl_fail_missing(t, "the test", &args.v[used]);
        }
        rest.v += used + 1;
        rest.plain -= used + 1;
    }
    for (i = 0; i < list->n && llm__tpl_charge(t, 1); i++) {
        v = attr ? llm__tpl_path(t, &list->u.v[i], &args.v[0]) : list->u.v[i];
        yes = id == LLM__N_COUNT ? v : llm__tpl_native_call(t, id, &v, rest);
        if (t->result == LLM_OK && llm__tpl_truth(&yes) == want) r.u.v[r.n++] = list->u.v[i];
    }
    return r;
}

/* map('filter', its arguments) or map(attribute=, default=). */
static llm__tval llm__tpl_map(llm__tpl *t, const llm__tval *list, llm__tpl_args args) {
    const llm__tpl_native by_name = {'f', "map", "attribute,default"};
    llm__tval r = llm__tpl_seq(t, LLM__T_GENERATOR, list->n), a[4];
    llm__tpl_args rest = args;
    uint32_t i, id = LLM__N_COUNT;
    r.n = 0;
    if (args.plain) {
        if (!llm__tpl_need_string(t, "map", &args.v[0])) return r;
        id = llm__tpl_native_find('f', args.v[0].u.s, args.v[0].n);
        rest.v++;
        rest.plain--;
        if (id == LLM__N_COUNT || llm__tpl_native_at(id).parameters[0] == '*') {
            llm__tpl_fail_missing(t, "in 'map' the filter", &args.v[0]);
        }
    } else {
        llm__tpl_bind(t, &by_name, args, a);
        if (a[0].type == LLM__T_MISSING)
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'map' needs a filter or 'attribute='");
    }
    for (i = 0; i < list->n && llm__tpl_charge(t, 1); i++) {
        if (args.plain) {
            r.u.v[i] = llm__tpl_native_call(t, id, &list->u.v[i], rest);
        } else {
            r.u.v[i] = llm__tpl_path(t, &list->u.v[i], &a[0]);
            if (r.u.v[i].type == LLM__T_UNDEFINED && a[1].type != LLM__T_MISSING) r.u.v[i] = a[1];
        }
        r.n = i + 1;
    }
    return r;
}

static llm__tval llm__tpl_tojson(llm__tpl *t, const llm__tval *v, const llm__tval *a) {
    llm__tpl_json json;
    size_t mark = t->out.n;
    memset(&json, 0, sizeof json);
    json.ascii = llm__tpl_truth(&a[0]);
    json.sort = llm__tpl_truth(&a[3]);
    json.pretty = a[1].type != LLM__T_MISSING && a[1].type != LLM__T_NONE;
    json.comma = llm__tpl_string(", ", json.pretty ? 1 : 2, LLM__UNTRUSTED);
    json.colon = llm__tpl_string(": ", 2, LLM__UNTRUSTED);
    if (json.pretty) json.indent = llm__tpl_spaces(t, &a[1], LLM__UNTRUSTED);
    if (llm__tpl_is_seq(&a[2]) && a[2].n == 2 &&
        llm__tpl_need_string(t, "separators", &a[2].u.v[0]) &&
        llm__tpl_need_string(t, "separators", &a[2].u.v[1])) {
        json.comma = a[2].u.v[0];
        json.colon = a[2].u.v[1];
    } else if (a[2].type != LLM__T_MISSING && a[2].type != LLM__T_NONE) {
        llm__tpl_fail_type(t, "cannot be the separators of JSON: expected two strings", &a[2]);
    }
    llm__tpl_write(t, v, &json, 0);
    return llm__tpl_cut(t, mark);
}

/* What Python reads as a number and this does not: "inf", "nan", "1_000". */
static bool llm__tpl_odd_number(const llm__tval *v) {
    static const char names[][9] = {"inf", "nan", "infinity"};
    size_t i, k;
    for (i = 0; i < 3; i++) {
        for (k = 0; k < v->n && (v->u.s[k] | 32) == names[i][k];) k++;
        if (k == v->n && !names[i][k]) return true;
    }
    return llm__tpl_digit(*v->u.s) && memchr(v->u.s, '_', v->n);
}

/* The filters int and float. */
static llm__tval llm__tpl_to_number(llm__tpl *t, const llm__tval *v, const llm__tval *otherwise,
                                    bool real) {
    llm__tval r = llm__tpl_int(0), text;
    uint32_t sign;
    bool negative;
    if (otherwise->type != LLM__T_MISSING) r = *otherwise;
    else if (real) r = llm__tpl_float(0);
    if (v->type == LLM__T_UNDEFINED) llm__tpl_fail_undefined(t, v);
    if (v->type == LLM__T_STRING) {
        llm__tval number;
        (void)llm__tpl_charge(t, v->n / 64);
        text = llm__tpl_strip(t, v, NULL, true, true);
        sign = text.n && (text.u.s[0] == '-' || text.u.s[0] == '+');
        negative = sign && text.u.s[0] == '-';
        text = llm__tpl_sub(&text, sign, text.n);
        if (text.n && llm__tpl_odd_number(&text)) {
            llm__tpl_fail_missing(t, "a number written as", &text);
        }
        if (!text.n || llm__tpl_number(t, text.u.s, text.n, &number, true) != text.n) return r;
        if (number.type == LLM__T_FLOAT && negative) number.u.f = -number.u.f;
        if (number.type == LLM__T_INT && negative) number.u.i = -number.u.i;
        r = number;
    } else if (llm__tpl_is_number(v)) {
        r = *v;
        r.type = (uint8_t)(v->type == LLM__T_FLOAT ? LLM__T_FLOAT : LLM__T_INT);
    } else {
        return r;
    }
    if (real) return llm__tpl_float(llm__tpl_real(&r));
    if (r.type == LLM__T_FLOAT) {
        if (r.u.f > -9e18 && r.u.f < 9e18) return llm__tpl_int((int64_t)r.u.f);
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'int' of a float beyond 64 bits");
    }
    return r;
}

static llm__tval llm__tpl_length(llm__tpl *t, const llm__tval *v) {
    if (v->type == LLM__T_STRING) return llm__tpl_int(llm__tpl_chars(t, v));
    if (llm__tpl_is_seq(v) || v->type == LLM__T_DICT || v->type == LLM__T_VIEW)
        return llm__tpl_int(v->n);
    if (v->type == LLM__T_LOOP) {
        llm__tval name = llm__tpl_string("length", 6, LLM__TRUSTED);
        return llm__tpl_loop_attr(t, v, &name);
    }
    if (v->type != LLM__T_UNDEFINED) llm__tpl_fail_type(t, "has no length", v);
    return llm__tpl_int(0);
}

/* Filters on lists and other values. */
static llm__tval llm__tpl_filter_items(llm__tpl *t, uint32_t id, const llm__tval *v,
                                       llm__tpl_args args, const llm__tval *a) {
    llm__tval list, r;
    uint32_t i;
    if (id == LLM__N_f_reverse) return llm__tpl_reversed(t, v);
    if (id == LLM__N_f_last && (v->type == LLM__T_GENERATOR)) {
        llm__tpl_fail_type(t, "has no last item: expected a list", v);
    }
    if (args.plain + args.named && !llm__tpl_truth(v) && id >= LLM__N_f_map &&
        id <= LLM__N_f_selectattr && llm__tpl_native_at(id).parameters[0] == '*') {
        return llm__tpl_seq(t, LLM__T_GENERATOR,
                            0); /* jinja2 does not even look whether it is iterable */
    }
    list = llm__tpl_items(t, v);
    switch (id) {
    case LLM__N_f_first:
        return list.n ? list.u.v[0]
                      : llm__tpl_undefined("the first item of an empty sequence", 35, 0);
    case LLM__N_f_last:
        return list.n ? list.u.v[list.n - 1]
                      : llm__tpl_undefined("the last item of an empty sequence", 34, 0);
    case LLM__N_f_list: return list;
    case LLM__N_f_map: return llm__tpl_map(t, &list, args);
    case LLM__N_f_select: return llm__tpl_select(t, &list, args, false, true);
    case LLM__N_f_reject: return llm__tpl_select(t, &list, args, false, false);
    case LLM__N_f_selectattr: return llm__tpl_select(t, &list, args, true, true);
    case LLM__N_f_rejectattr: return llm__tpl_select(t, &list, args, true, false);
    case LLM__N_f_sort: return llm__tpl_sort(t, &list, &a[2], &a[1], llm__tpl_truth(&a[0]));
    case LLM__N_f_unique: return llm__tpl_unique(t, &list, &a[1], &a[0]);
    case LLM__N_f_max: return llm__tpl_extreme(t, &list, a, 1);
    case LLM__N_f_min: return llm__tpl_extreme(t, &list, a, -1);
    case LLM__N_f_sum:
        r = a[1].type == LLM__T_MISSING ? llm__tpl_int(0) : a[1];
        if (r.type == LLM__T_STRING) llm__tpl_fail_type(t, "cannot be summed up: use 'join'", &r);
        for (i = 0; i < list.n && llm__tpl_charge(t, 1); i++) {
            llm__tval item =
                a[0].type == LLM__T_MISSING ? list.u.v[i] : llm__tpl_path(t, &list.u.v[i], &a[0]);
            r = llm__tpl_arithmetic(t, LLM__O_ADD, &r, &item);
        }
        return r;
    default: /* join */
        if (a[1].type != LLM__T_MISSING && a[1].type != LLM__T_NONE) {
            r = llm__tpl_seq(t, LLM__T_LIST, list.n);
            for (i = 0; t->result == LLM_OK && i < list.n; i++)
                r.u.v[i] = llm__tpl_path(t, &list.u.v[i], &a[1]);
            list = t->result == LLM_OK ? r : list;
        }
        r = a[0].type == LLM__T_MISSING ? llm__tpl_string("", 0, LLM__TRUSTED) : a[0];
        return llm__tpl_join(t, &list, &r);
    }
}

static llm__tval llm__tpl_filter_call(llm__tpl *t, uint32_t id, const llm__tval *v,
                                      llm__tpl_args args, const llm__tval *a) {
    llm__tval text, x, y;
    switch (id) {
    case LLM__N_f_length: case LLM__N_f_count: return llm__tpl_length(t, v);
    case LLM__N_f_tojson: return llm__tpl_tojson(t, v, a);
    case LLM__N_f_d: case LLM__N_f_default:
        if (v->type != LLM__T_UNDEFINED && (!llm__tpl_truth(&a[1]) || llm__tpl_truth(v))) return *v;
        return a[0].type == LLM__T_MISSING ? llm__tpl_string("", 0, LLM__TRUSTED) : a[0];
    case LLM__N_f_int:
        if (a[1].type != LLM__T_MISSING && !(a[1].type == LLM__T_INT && a[1].u.i == 10)) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                          "'int' with a base other than 10 is not supported");
        }
        return llm__tpl_to_number(t, v, &a[0], false);
    case LLM__N_f_float: return llm__tpl_to_number(t, v, &a[0], true);
    case LLM__N_f_abs:
        if (!llm__tpl_is_number(v)) llm__tpl_fail_type(t, "has no absolute value", v);
        x = llm__tpl_int(0);
        y = *v;
        if (y.type == LLM__T_BOOL) y.type = LLM__T_INT;
        return llm__tpl_real(v) < 0 ? llm__tpl_arithmetic(t, LLM__O_SUB, &x, v) : y;
    case LLM__N_f_items: case LLM__N_f_dictsort:
        if (v->type == LLM__T_UNDEFINED && id == LLM__N_f_items)
            return llm__tpl_seq(t, LLM__T_GENERATOR, 0);
        if (v->type != LLM__T_DICT) {
            llm__tpl_fail_type(t, "is not a mapping", v);
            return *v;
        }
        return id == LLM__N_f_items ? llm__tpl_pairs(t, v, LLM__T_GENERATOR)
                                    : llm__tpl_dictsort(t, v, a);
    case LLM__N_f_capitalize: case LLM__N_f_indent: case LLM__N_f_lower: case LLM__N_f_replace:
    case LLM__N_f_safe:
    case LLM__N_f_string:
    case LLM__N_f_title:
    case LLM__N_f_trim:
    case LLM__N_f_upper: break;
    default: return llm__tpl_filter_items(t, id, v, args, a);
    }
    text = llm__tpl_str(t, v);
    switch (id) {
    case LLM__N_f_capitalize: return llm__tpl_case(t, &text, LLM__CASE_CAPITAL);
    case LLM__N_f_lower: return llm__tpl_case(t, &text, LLM__CASE_LOWER);
    case LLM__N_f_upper: return llm__tpl_case(t, &text, LLM__CASE_UPPER);
    case LLM__N_f_title: return llm__tpl_case(t, &text, LLM__CASE_WORDS);
    case LLM__N_f_indent:
        return llm__tpl_indent(t, &text, &a[0], llm__tpl_truth(&a[1]), llm__tpl_truth(&a[2]));
    case LLM__N_f_safe: text.more = 1; return text;
    case LLM__N_f_trim:
        if (a[0].type == LLM__T_MISSING || a[0].type == LLM__T_NONE)
            return llm__tpl_strip(t, &text, NULL, true, true);
        if (!llm__tpl_need_string(t, "trim", &a[0])) return text;
        return llm__tpl_strip(t, &text, &a[0], true, true);
    case LLM__N_f_replace:
        if (a[1].type == LLM__T_MISSING)
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'replace' got fewer than 2 arguments");
        x = llm__tpl_str(t, &a[0]);
        y = llm__tpl_str(t, &a[1]);
        return llm__tpl_replace(t, &text, &x, &y, llm__tpl_is_integer(&a[2]) ? a[2].u.i : -1);
    default: return text;
    }
}

static bool llm__tpl_test_call(llm__tpl *t, uint32_t id, const llm__tval *v, const llm__tval *a) {
    llm__tval r;
    switch (id) {
    case LLM__N_t_defined: return v->type != LLM__T_UNDEFINED;
    case LLM__N_t_undefined: return v->type == LLM__T_UNDEFINED;
    case LLM__N_t_none: return v->type == LLM__T_NONE;
    case LLM__N_t_boolean: return v->type == LLM__T_BOOL;
    case LLM__N_t_true: return v->type == LLM__T_BOOL && v->u.i;
    case LLM__N_t_false: return v->type == LLM__T_BOOL && !v->u.i;
    case LLM__N_t_integer: return v->type == LLM__T_INT;
    case LLM__N_t_float: return v->type == LLM__T_FLOAT;
    case LLM__N_t_number: return llm__tpl_is_number(v);
    case LLM__N_t_string: return v->type == LLM__T_STRING;
    case LLM__N_t_mapping: return v->type == LLM__T_DICT;
    case LLM__N_t_callable:
        return v->type == LLM__T_MACRO || v->type == LLM__T_FUNCTION || v->type == LLM__T_METHOD ||
               v->type == LLM__T_UNDEFINED || v->type == LLM__T_LOOP;
    case LLM__N_t_iterable:
        return v->type == LLM__T_UNDEFINED ||
               (v->type >= LLM__T_STRING && v->type <= LLM__T_DICT) || v->type == LLM__T_LOOP;
    case LLM__N_t_sequence:
        return v->type == LLM__T_STRING || llm__tpl_is_seq(v) || v->type == LLM__T_DICT ||
               v->type == LLM__T_UNDEFINED;
    case LLM__N_t_sameas:
        return v->type == a[0].type && (v->type <= LLM__T_BOOL  ? llm__tpl_equal(t, v, &a[0], 0)
                                        : v->type == LLM__T_INT ? v->u.i == a[0].u.i
                                                                : v->u.v == a[0].u.v);
    case LLM__N_t_even: case LLM__N_t_odd: case LLM__N_t_divisibleby:
        r = llm__tpl_int(2);
        if (id == LLM__N_t_divisibleby) r = a[0];
        r = llm__tpl_arithmetic(t, LLM__O_MOD, v, &r);
        return llm__tpl_truth(&r) == (id == LLM__N_t_odd);
    case LLM__N_t_eq:
    case LLM__N_t_eq1:
    case LLM__N_t_eq2: return llm__tpl_compare(t, LLM__C_EQ, v, &a[0]);
    case LLM__N_t_ne: case LLM__N_t_ne1: return llm__tpl_compare(t, LLM__C_NE, v, &a[0]);
    case LLM__N_t_lt:
    case LLM__N_t_lt1:
    case LLM__N_t_lt2: return llm__tpl_compare(t, LLM__C_LT, v, &a[0]);
    case LLM__N_t_le: case LLM__N_t_le1: return llm__tpl_compare(t, LLM__C_LE, v, &a[0]);
    case LLM__N_t_gt:
    case LLM__N_t_gt1:
    case LLM__N_t_gt2: return llm__tpl_compare(t, LLM__C_GT, v, &a[0]);
    case LLM__N_t_ge: case LLM__N_t_ge1: return llm__tpl_compare(t, LLM__C_GE, v, &a[0]);
    default: return llm__tpl_contains(t, v, &a[0]); /* in */
    }
}

/* startswith, endswith: one string or a tuple of them. */
static bool llm__tpl_affix(llm__tpl *t, const llm__tval *v, const llm__tval *a, bool end) {
    const llm__tval *one = a;
    uint32_t i, n = 1;
    if (a->type == LLM__T_TUPLE) one = a->u.v, n = a->n;
    for (i = 0; i < n && llm__tpl_charge(t, 1); i++, one++) {
        if (!llm__tpl_need_string(t, end ? "endswith" : "startswith", one)) return false;
        if (one->n <= v->n && llm__tpl_charge(t, one->n / 64) && memcmp(v->u.s + (end ? v->n - one->n : 0), one->u.s, one->n) == 0)
            return true;
    }
    return false;
}

static llm__tval llm__tpl_string_call(llm__tpl *t, uint32_t id, const llm__tval *v,
                                      const llm__tval *a) {
    const llm__tval *chars = a[0].type == LLM__T_MISSING || a[0].type == LLM__T_NONE ? NULL : &a[0];
    int64_t most = llm__tpl_is_integer(&a[1]) ? a[1].u.i : -1, count = 0;
    const char *name = llm__tpl_native_at(id).name;
    uint32_t at, n;
    llm__tval r;
    switch (id) { /* without a string as the first argument */
    case LLM__N_s_capitalize: return llm__tpl_case(t, v, LLM__CASE_CAPITAL);
    case LLM__N_s_lower: return llm__tpl_case(t, v, LLM__CASE_LOWER);
    case LLM__N_s_upper: return llm__tpl_case(t, v, LLM__CASE_UPPER);
    case LLM__N_s_title: return llm__tpl_case(t, v, LLM__CASE_TITLE);
    case LLM__N_s_splitlines: return llm__tpl_lines(t, v);
    case LLM__N_s_startswith: return llm__tpl_bool(llm__tpl_affix(t, v, &a[0], false));
    case LLM__N_s_endswith: return llm__tpl_bool(llm__tpl_affix(t, v, &a[0], true));
    case LLM__N_s_join:
        r = llm__tpl_items(t, &a[0]);
        for (at = 0; at < r.n && llm__tpl_charge(t, 1); at++)
            (void)llm__tpl_need_string(t, "join", &r.u.v[at]);
        return llm__tpl_join(t, &r, v);
    case LLM__N_s_isdigit: case LLM__N_s_isspace:
        for (at = 0; at < v->n && llm__tpl_charge(t, 1); at += n) {
            uint32_t c = llm__tpl_char(v->u.s + at, v->u.s + v->n, &n);
            if (id == LLM__N_s_isspace ? !llm__tpl_space_char(c) : c < '0' || c > '9') break;
        }
        return llm__tpl_bool(v->n && at >= v->n);
    default: break;
    }
    if (chars && !llm__tpl_need_string(t, name, chars)) return *v;
    switch (id) {
    case LLM__N_s_strip: return llm__tpl_strip(t, v, chars, true, true);
    case LLM__N_s_lstrip: return llm__tpl_strip(t, v, chars, true, false);
    case LLM__N_s_rstrip: return llm__tpl_strip(t, v, chars, false, true);
    case LLM__N_s_split: case LLM__N_s_rsplit:
        if (chars) return llm__tpl_split(t, v, chars, most, id == LLM__N_s_rsplit);
        if (id == LLM__N_s_rsplit && most >= 0) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "'rsplit' by white space with a limit is not supported");
        }
        return llm__tpl_words(t, v, most);
    default: break;
    }
    if (!llm__tpl_need_string(t, name, &a[0])) return *v;
    switch (id) {
    case LLM__N_s_replace:
        if (!llm__tpl_need_string(t, name, &a[1])) return *v;
        return llm__tpl_replace(t, v, &a[0], &a[1], llm__tpl_is_integer(&a[2]) ? a[2].u.i : -1);
    case LLM__N_s_find:
        at = llm__tpl_search(t, v, 0, &a[0]);
        if (at == UINT32_MAX) return llm__tpl_int(-1);
        r = llm__tpl_sub(v, 0, at);
        return llm__tpl_int(llm__tpl_chars(t, &r));
    case LLM__N_s_count:
        if (a[0].n == 0) return llm__tpl_int((int64_t)llm__tpl_chars(t, v) + 1);
        for (at = 0; (at = llm__tpl_search(t, v, at, &a[0])) != UINT32_MAX; at += a[0].n) count++;
        return llm__tpl_int(count);
    case LLM__N_s_removeprefix:
        return llm__tpl_sub(v, llm__tpl_affix(t, v, &a[0], false) ? a[0].n : 0, v->n);
    default: /* removesuffix */
        return llm__tpl_sub(v, 0, llm__tpl_affix(t, v, &a[0], true) ? v->n - a[0].n : v->n);
    }
}

static llm__tval llm__tpl_object_call(llm__tpl *t, uint32_t id, const llm__tval *v,
                                      llm__tpl_args args, const llm__tval *a) {
    llm__tval r, *found;
    int64_t count = 0;
    uint32_t i;
    switch (id) {
    case LLM__N_d_get:
        found = llm__tpl_find(t, v->u.v, v->n, &a[0], 0);
        if (a[0].type == LLM__T_MISSING) llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'get' needs a key");
        return found ? *found : a[1].type == LLM__T_MISSING ? llm__tpl_value(LLM__T_NONE) : a[1];
    case LLM__N_d_items: return llm__tpl_pairs(t, v, LLM__T_VIEW);
    case LLM__N_d_keys: case LLM__N_d_values:
        r = llm__tpl_seq(t, LLM__T_VIEW, v->n);
        for (i = 0; t->result == LLM_OK && i < v->n; i++)
            r.u.v[i] = v->u.v[2 * i + (id == LLM__N_d_values)];
        return r;
    case LLM__N_l_count: case LLM__N_l_index:
        for (i = 0; i < v->n && llm__tpl_charge(t, 1); i++) {
            if (!llm__tpl_equal(t, &v->u.v[i], &a[0], 0)) continue;
            if (id == LLM__N_l_index) return llm__tpl_int(i);
            count++;
        }
        if (id == LLM__N_l_index) llm__tpl_fail_type(t, "is not in the list", &a[0]);
        return llm__tpl_int(count);
    case LLM__N_o_cycle: {
        llm__tval name = llm__tpl_string("index0", 6, LLM__TRUSTED);
        r = llm__tpl_loop_attr(t, v, &name);
        if (args.plain) return args.v[r.u.i % args.plain];
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'cycle' needs items");
        return r;
    }
    default:
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'%s' would change a %s, which templates may not",
                      llm__tpl_native_at(id).name, llm__tpl_type_name(v->type));
        return *v;
    }
}

static llm__tval llm__tpl_range(llm__tpl *t, llm__tpl_args args) {
    int64_t from = 0, to, step = 1, count, i;
    llm__tval r = llm__tpl_value(LLM__T_RANGE);
    uint32_t k;
    for (k = 0; k < args.plain; k++) {
        if (!llm__tpl_is_integer(&args.v[k]))
            llm__tpl_fail_type(t, "cannot be a bound of a range: expected an integer", &args.v[k]);
    }
    if (args.plain < 1 || args.plain > 3 || args.named || (args.plain == 3 && args.v[2].u.i == 0)) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "'range' got %u plain and %u named arguments, expected 1 to 3 integers, the "
                      "step not 0",
                      (unsigned)args.plain, (unsigned)args.named);
    }
    if (t->result != LLM_OK) return r;
    to = args.v[0].u.i;
    if (args.plain > 1) from = to, to = args.v[1].u.i;
    if (args.plain > 2) step = args.v[2].u.i;
    for (count = 0, i = from; (step > 0 ? i < to : i > to) && count <= LLM__TPL_RANGE; count++) {
        if (step > 0 ? i > INT64_MAX - step : i < INT64_MIN - step) {
            count++;
            break;
        }
        i += step;
    }
    if (count > LLM__TPL_RANGE) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "a range with more than %d items", (int)LLM__TPL_RANGE);
        return r;
    }
    r = llm__tpl_seq(t, LLM__T_RANGE, (size_t)count);
    for (i = 0; t->result == LLM_OK && i < count; i++) r.u.v[i] = llm__tpl_int(from + i * step);
    return r;
}

static llm__tval llm__tpl_global_call(llm__tpl *t, uint32_t id, llm__tpl_args args,
                                      const llm__tval *a) {
    llm__tpl_list pairs = llm__tpl_list_make();
    llm__tval r = llm__tpl_value(LLM__T_NAMESPACE);
    uint32_t i;
    if (id == LLM__N_g_range) return llm__tpl_range(t, args);
    if (id == LLM__N_g_strftime) {
        if (!llm__tpl_need_string(t, "strftime_now", &a[0])) return r;
        return llm__tpl_strftime(t, &a[0]);
    }
    if (id == LLM__N_g_raise) {
        r = llm__tpl_str(t, &a[0]);
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%.*s", (int)r.n, r.u.s);
        return r;
    }
    if (args.plain > 1 || (args.plain && args.v[0].type != LLM__T_DICT)) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                      "'%s' of anything but one dict and named values is not supported",
                      llm__tpl_native_at(id).name);
    }
    for (i = 0; t->result == LLM_OK && args.plain && i < args.v[0].n; i++) {
        llm__tpl_set_pair(t, &pairs, &args.v[0].u.v[2 * i], &args.v[0].u.v[2 * i + 1]);
    }
    for (i = 0; t->result == LLM_OK && i < args.named; i++) {
        llm__tpl_set_pair(t, &pairs, &args.v[args.plain + 2 * i], &args.v[args.plain + 2 * i + 1]);
    }
    if (id == LLM__N_g_dict) return llm__tpl_dict_of(&pairs);
    r.u.space = LLM__CAST(llm__tpl_space *, llm__tpl_alloc(t, 1, sizeof *r.u.space));
    if (!r.u.space) return llm__tpl_value(LLM__T_NONE);
    r.u.space->v = pairs.v.u.v;
    r.u.space->n = pairs.v.n / 2;
    r.u.space->capacity = pairs.capacity;
    return r;
}

static llm__tval llm__tpl_native_call(llm__tpl *t, uint32_t id, const llm__tval *self,
                                      llm__tpl_args args) {
    llm__tpl_native native = llm__tpl_native_at(id);
    llm__tval a[4];
    (void)llm__tpl_charge(t, 16);
    memset(a, 0, sizeof a);
    if (native.parameters[0] != '*') llm__tpl_bind(t, &native, args, a);
    if (t->result != LLM_OK) return llm__tpl_value(LLM__T_NONE);
    switch (native.kind) {
    case 'f': return llm__tpl_filter_call(t, id, self, args, a);
    case 't':
        if (*native.parameters && a[0].type == LLM__T_MISSING) {
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "the test '%s' needs an argument", native.name);
        }
        return llm__tpl_bool(llm__tpl_test_call(t, id, self, a));
    case 's':
        if (id == LLM__N_s_format) return llm__tpl_format(t, self, args);
        return llm__tpl_string_call(t, id, self, a);
    case 'g': return llm__tpl_global_call(t, id, args, a);
    default: return llm__tpl_object_call(t, id, self, args, a);
    }
}

/* ---- the machine ----------------------------------------------------------------------------- */

static void llm__tpl_push(llm__tpl *t, llm__tval v) {
    if (t->sp >= LLM__TPL_STACK) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "more than %d values at once", (int)LLM__TPL_STACK);
        return;
    }
    t->stack[t->sp++] = v;
}

static void llm__tpl_push_scope(llm__tpl *t, uint32_t parent) {
    llm__tpl_scope *scope;
    if (t->n_scopes >= LLM__TPL_SCOPES) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "more than %d scopes at once", (int)LLM__TPL_SCOPES);
        return;
    }
    scope = &t->scopes[t->n_scopes++];
    scope->base = (uint32_t)t->vars.n;
    scope->parent = parent;
    scope->serial = ++t->serial;
}

/* Closes scopes until `count` are left. */
static void llm__tpl_pop_scopes(llm__tpl *t, uint32_t count) {
    if (t->n_scopes <= count) return;
    t->vars.n = t->scopes[count].base;
    t->n_scopes = count;
}

static void llm__tpl_define(llm__tpl *t, uint32_t name, llm__tval v) {
    llm__tpl_var *var;
    if (!llm__tpl_reserve(t, &t->vars, 1, sizeof *var, false)) return;
    var = LLM__CAST(llm__tpl_var *, t->vars.data) + t->vars.n++;
    var->name = name;
    var->value = v;
}

/* The variable `name` of scope `s`, or NULL. */
static llm__tpl_var *llm__tpl_var_in(llm__tpl *t, uint32_t s, uint32_t name) {
    llm__tpl_var *vars = LLM__CAST(llm__tpl_var *, t->vars.data);
    size_t i = s + 1 < t->n_scopes ? t->scopes[s + 1].base : t->vars.n, base = t->scopes[s].base;
    if (!llm__tpl_charge(t, (i - base) / 8)) return NULL;
    while (i-- > base) {
        if (vars[i].name == name) return &vars[i];
    }
    return NULL;
}

static llm__tval llm__tpl_load(llm__tpl *t, uint32_t name) {
    const llm_text *text = LLM__CAST(const llm_text *, t->names.data) + name;
    uint32_t s = t->n_scopes - 1;
    llm__tpl_var *var;
    while (!(var = llm__tpl_var_in(t, s, name)) && s > 0 && t->result == LLM_OK)
        s = t->scopes[s].parent;
    if (var && var->value.type != LLM__T_MISSING) return var->value;
    return llm__tpl_undefined(text->data, text->size, 0);
}

static void llm__tpl_store(llm__tpl *t, uint32_t name, llm__tval v) {
    llm__tpl_var *var = llm__tpl_var_in(t, t->n_scopes - 1, name);
    if (var) var->value = v;
    else llm__tpl_define(t, name, v);
}

static void llm__tpl_store_attr(llm__tpl *t, const llm__tval *object, const llm__tval *name,
                                const llm__tval *v) {
    llm__tpl_space *space = object->u.space;
    llm__tpl_list pairs = llm__tpl_list_make();
    if (object->type != LLM__T_NAMESPACE) {
        llm__tpl_fail_type(t, "has no attributes to set: expected a namespace", object);
        return;
    }
    pairs.v.u.v = space->v;
    pairs.v.n = space->n * 2;
    pairs.capacity = space->capacity;
    llm__tpl_set_pair(t, &pairs, name, v);
    space->v = pairs.v.u.v;
    space->n = pairs.v.n / 2;
    space->capacity = pairs.capacity;
}

static void llm__tpl_unpack(llm__tpl *t, llm__tval v, uint32_t n) {
    llm__tval list = llm__tpl_items(t, &v);
    if (list.n != n) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "%u values for %u names, expected as many", (unsigned)list.n,
                      (unsigned)n);
        return;
    }
    while (n-- > 0 && t->result == LLM_OK) llm__tpl_push(t, list.u.v[n]);
}

/* A list, tuple or dict of the top `n` values (pairs). */
static void llm__tpl_collect(llm__tpl *t, llm__tpl_type type, uint32_t n) {
    llm__tpl_list pairs = llm__tpl_list_make();
    llm__tval v;
    uint32_t i;
    if (type == LLM__T_DICT) {
        t->sp -= 2 * n;
        for (i = 0; i < n && t->result == LLM_OK; i++) {
            const llm__tval *key = &t->stack[t->sp + 2 * i];
            if (key->type == LLM__T_LIST || key->type == LLM__T_DICT)
                llm__tpl_fail_type(t, "cannot be a key: expected a str, a number, a tuple or none", key);
            llm__tpl_set_pair(t, &pairs, key, key + 1);
        }
        v = llm__tpl_dict_of(&pairs);
    } else {
        v = llm__tpl_seq(t, type, n);
        t->sp -= n;
        if (t->result == LLM_OK && n) memcpy(v.u.v, &t->stack[t->sp], n * sizeof v);
    }
    llm__tpl_push(t, v);
}

/* Drops what `break` or `continue` left behind: inner scopes, and output being captured. */
static void llm__tpl_unwind(llm__tpl *t, const llm__tpl_loop *loop) {
    if (t->sp > loop->sp) t->out.n = (size_t)t->stack[loop->sp].u.i; /* what CAPTURE left */
    t->sp = loop->sp;
    llm__tpl_pop_scopes(t, loop->scopes);
}

static void llm__tpl_begin_item(llm__tpl *t, const llm__tpl_loop *loop) {
    llm__tval v = llm__tpl_value(LLM__T_LOOP);
    llm__tpl_push_scope(t, t->n_scopes - 1);
    v.n = t->n_loops - 1;
    v.u.i = (int64_t)loop->serial;
    if (!loop->filter) llm__tpl_define(t, t->name_loop, v);
    llm__tpl_push(t, loop->items[loop->i]);
}

/* Returns whether there is anything to walk over. */
static bool llm__tpl_begin_loop(llm__tpl *t, const llm__tval *v, bool filter) {
    llm__tval list = llm__tpl_items(t, v), kept = llm__tpl_seq(t, LLM__T_LIST, filter ? list.n : 0);
    llm__tpl_loop *loop;
    if (t->n_loops >= LLM__TPL_LOOPS) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "more than %d loops at once", (int)LLM__TPL_LOOPS);
    }
    if (t->result != LLM_OK) return false;
    loop = &t->loops[t->n_loops++];
    loop->items = list.u.v;
    loop->kept = kept.u.v;
    loop->n = list.n;
    loop->i = loop->n_kept = 0;
    loop->scopes = t->n_scopes;
    loop->sp = t->sp;
    loop->filter = filter;
    loop->walked = false;
    loop->serial = ++t->serial;
    if (list.n) llm__tpl_begin_item(t, loop);
    return list.n != 0;
}

/* Returns where to go on: the body of a macro, or the next operation. */
static uint32_t llm__tpl_call_value(llm__tpl *t, uint32_t pc, uint32_t plain, uint32_t named) {
    uint32_t at = t->sp - plain - 2 * named, i, k;
    llm__tval callee = t->stack[at - 1], r;
    llm__tpl_args args;
    const llm__tpl_macro *macro;
    args.v = &t->stack[at];
    args.plain = plain;
    args.named = named;
    if (callee.type == LLM__T_FUNCTION || callee.type == LLM__T_METHOD) {
        r = llm__tpl_native_call(t, callee.n, callee.u.v, args);
        t->sp = at - 1;
        llm__tpl_push(t, r);
        return pc + 1;
    }
    if (callee.type != LLM__T_MACRO) {
        if (callee.type == LLM__T_UNDEFINED && callee.more > LLM__T_NONE) {
            llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED, "the method '%.*s' of a %s is not supported",
                          llm__tpl_clip(callee.n), callee.u.s,
                          llm__tpl_type_name(callee.more));
        }
        llm__tpl_fail_type(t, "cannot be called", &callee);
        return pc;
    }
    macro = callee.u.closure->macro;
    i = callee.u.closure->scope;
    if (i >= t->n_scopes || t->scopes[i].serial != callee.u.closure->serial) {
        llm__tpl_fail(t, LLM_ERROR_UNSUPPORTED,
                      "the macro '%.*s' outside of the scope that defined it is not supported",
                      llm__tpl_clip(macro->name.size), macro->name.data);
    } else if (t->n_calls >= LLM__TPL_CALLS) {
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "more than %d calls at once", (int)LLM__TPL_CALLS);
    } else if (plain > macro->n_params) {
        llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "the macro '%.*s' got %u arguments, expected at most %u",
                      llm__tpl_clip(macro->name.size), macro->name.data, (unsigned)plain,
                      (unsigned)macro->n_params);
    }
    if (t->result != LLM_OK) return pc;
    t->calls[t->n_calls].back = pc + 1;
    t->calls[t->n_calls].scopes = t->n_scopes;
    t->calls[t->n_calls].loops = t->n_loops;
    t->calls[t->n_calls].sp = at - 1;
    t->calls[t->n_calls++].mark = t->out.n;
    llm__tpl_push_scope(t, i);
    for (i = 0; i < macro->n_params && t->result == LLM_OK; i++) {
        const llm_text *name = LLM__CAST(const llm_text *, t->names.data) + macro->params[i];
        r = i < plain ? args.v[i] : llm__tpl_value(LLM__T_MISSING);
        for (k = 0; k < named; k++) {
            const llm__tval *given = &args.v[plain + 2 * k];
            if (given->n != name->size || memcmp(given->u.s, name->data, given->n) != 0) continue;
            if (i < plain)
                llm__tpl_fail(t, LLM_ERROR_TEMPLATE,
                              "the macro '%.*s' got the argument '%.*s' twice",
                              llm__tpl_clip(macro->name.size), macro->name.data,
                              llm__tpl_clip(given->n), given->u.s);
            r = given[1];
        }
        llm__tpl_define(t, macro->params[i], r);
    }
    for (k = 0; k < named && t->result == LLM_OK; k++) {
        const llm__tval *given = &args.v[plain + 2 * k];
        uint32_t name = llm__tpl_intern(t, given->u.s, given->n);
        for (i = 0; i < macro->n_params && macro->params[i] != name;) i++;
        if (i == macro->n_params) {
            llm__tpl_fail(t, LLM_ERROR_TEMPLATE, "the macro '%.*s' has no parameter '%.*s'",
                          llm__tpl_clip(macro->name.size), macro->name.data,
                          llm__tpl_clip(given->n), given->u.s);
        }
    }
    t->sp = at - 1;
    return macro->entry;
}

/* The end of a macro: its output is the value of the call. */
static uint32_t llm__tpl_return(llm__tpl *t) {
    llm__tpl_call *call = &t->calls[--t->n_calls];
    llm__tpl_pop_scopes(t, call->scopes);
    t->n_loops = call->loops;
    t->sp = call->sp;
    llm__tpl_push(t, llm__tpl_cut(t, call->mark));
    return call->back;
}

static void llm__tpl_closure_of(llm__tpl *t, llm__tval *v) {
    llm__tpl_closure *closure =
        LLM__CAST(llm__tpl_closure *, llm__tpl_alloc(t, 1, sizeof *closure));
    if (!closure) return;
    closure->macro = LLM__CAST(const llm__tpl_macro *, LLM__CAST(const void *, v->u.v));
    closure->scope = t->n_scopes - 1;
    closure->serial = t->scopes[closure->scope].serial;
    v->u.closure = closure;
}

/* A filter or a test on the value below its arguments. */
static void llm__tpl_apply(llm__tpl *t, const llm__tpl_op *op) {
    uint32_t at = t->sp - op->a - 2u * op->b;
    llm__tpl_args args;
    llm__tval r;
    if (op->c < 0) {
        const llm__tval *name = LLM__CAST(const llm__tval *, t->consts.data) + (-1 - op->c);
        llm__tpl_fail_missing(t, op->code == LLM__O_FILTER ? "the filter" : "the test", name);
        return;
    }
    args.v = &t->stack[at];
    args.plain = op->a;
    args.named = op->b;
    r = llm__tpl_native_call(t, (uint32_t)op->c, &t->stack[at - 1], args);
    t->sp = at - 1;
    llm__tpl_push(t, r);
}

/* Operations that take the values on top and leave one in their place. */
static void llm__tpl_operate(llm__tpl *t, const llm__tpl_op *op) {
    llm__tval *top = &t->stack[t->sp - 1], zero = llm__tpl_int(0), r;
    size_t mark = t->out.n;
    switch (op->code) {
    case LLM__O_ATTR:
        *top = llm__tpl_attr(t, top, LLM__CAST(const llm__tval *, t->consts.data) + op->c, false);
        return;
    case LLM__O_NOT: *top = llm__tpl_bool(!llm__tpl_truth(top)); return;
    case LLM__O_NEG: case LLM__O_POS:
        if (!llm__tpl_is_number(top)) llm__tpl_fail_type(t, "has no sign", top);
        else if (op->code == LLM__O_NEG && top->type == LLM__T_FLOAT) top->u.f = -top->u.f;
        else
            *top = llm__tpl_arithmetic(t, op->code == LLM__O_NEG ? LLM__O_SUB : LLM__O_ADD, &zero,
                                       top);
        return;
    case LLM__O_SLICE:
        t->sp -= 3;
        top[-3] = llm__tpl_slice(t, &top[-3], &top[-2]);
        return;
    case LLM__O_ITEM: r = llm__tpl_item(t, &top[-1], top); break;
    case LLM__O_COMPARE: r = llm__tpl_bool(llm__tpl_compare(t, op->a, &top[-1], top)); break;
    case LLM__O_CONCAT:
        llm__tpl_put_value(t, &top[-1]);
        llm__tpl_put_value(t, top);
        r = llm__tpl_cut(t, mark);
        break;
    default: r = llm__tpl_arithmetic(t, op->code, &top[-1], top); break;
    }
    top[-1] = r;
    t->sp--;
}

/* The next item of the innermost loop, if there is one. */
static bool llm__tpl_again(llm__tpl *t) {
    llm__tpl_loop *loop = &t->loops[t->n_loops - 1];
    llm__tpl_unwind(t, loop);
    if (loop->i + 1 >= loop->n) return false;
    loop->i++;
    llm__tpl_begin_item(t, loop);
    return true;
}

/* Leaves the innermost loop; one that filters leaves what it kept. Returns whether to pass `else`. */
static bool llm__tpl_end_loop(llm__tpl *t) {
    llm__tpl_loop *loop = &t->loops[t->n_loops - 1];
    llm__tval v = llm__tpl_value(LLM__T_LIST);
    llm__tpl_unwind(t, loop);
    t->n_loops--;
    v.u.v = loop->kept;
    v.n = loop->n_kept;
    if (loop->filter) llm__tpl_push(t, v);
    return loop->walked;
}

/* One operation that steers or stores; returns the distance to the next one. */
static int32_t llm__tpl_steer(llm__tpl *t, const llm__tpl_op *op, uint32_t pc) {
    llm__tval *top = t->stack + t->sp, v; /* the value on top is top[-1] */
    llm__tpl_loop *loop;
    switch (op->code) {
    case LLM__O_JUMP: return op->c;
    case LLM__O_JUMP_FALSE: t->sp--; return llm__tpl_truth(top - 1) ? 1 : op->c;
    case LLM__O_AND: case LLM__O_OR:
        if (llm__tpl_truth(top - 1) == (op->code == LLM__O_OR)) return op->c;
        t->sp--;
        return 1;
    case LLM__O_CHAIN:
        if (llm__tpl_compare(t, op->a, &top[-2], &top[-1])) {
            top[-2] = top[-1];
            t->sp--;
            return 1;
        }
        top[-2] = llm__tpl_bool(false);
        t->sp--;
        return op->c;
    case LLM__O_FOR:
        v = t->stack[--t->sp];
        return llm__tpl_begin_loop(t, &v, op->a != 0) ? 1 : op->c;
    case LLM__O_KEEP:
        loop = &t->loops[t->n_loops - 1];
        if (llm__tpl_truth(top - 1)) loop->kept[loop->n_kept++] = loop->items[loop->i];
        t->sp--;
        return 1;
    case LLM__O_WALKED: t->loops[t->n_loops - 1].walked = true; return 1;
    case LLM__O_AGAIN: return llm__tpl_again(t) ? op->c : 1;
    case LLM__O_END_FOR: return llm__tpl_end_loop(t) ? op->c : 1;
    case LLM__O_MACRO: llm__tpl_closure_of(t, top - 1); return op->c;
    case LLM__O_IF_GIVEN: {
        llm__tpl_var *vars =
            LLM__CAST(llm__tpl_var *, t->vars.data) + t->scopes[t->n_scopes - 1].base;
        return vars[op->b].value.type != LLM__T_MISSING ? op->c : 1;
    }
    case LLM__O_CALL: return (int32_t)llm__tpl_call_value(t, pc, op->a, op->b) - (int32_t)pc;
    default: return (int32_t)llm__tpl_return(t) - (int32_t)pc; /* RETURN */
    }
}

static void llm__tpl_run(llm__tpl *t) {
    uint32_t pc = 0;
    const llm__tval *consts = LLM__CAST(const llm__tval *, t->consts.data);
    llm__tval v;
    while (llm__tpl_charge(t, 1)) {
        const llm__tpl_op *op = llm__tpl_code(t) + pc;
        t->where = op->where;
        if (op->code >= LLM__O_ATTR && op->code <= LLM__O_COMPARE && op->code != LLM__O_CALL) {
            if (op->code == LLM__O_FILTER || op->code == LLM__O_TEST) llm__tpl_apply(t, op);
            else llm__tpl_operate(t, op);
            pc++;
            continue;
        }
        switch (op->code) {
        case LLM__O_HALT: return;
        case LLM__O_TEXT: llm__tpl_put_string(t, &consts[op->c]); break;
        case LLM__O_PRINT: v = t->stack[--t->sp]; llm__tpl_put_value(t, &v); break;
        case LLM__O_CONST: llm__tpl_push(t, consts[op->c]); break;
        case LLM__O_LOAD: llm__tpl_push(t, llm__tpl_load(t, (uint32_t)op->c)); break;
        case LLM__O_STORE: v = t->stack[--t->sp]; llm__tpl_store(t, (uint32_t)op->c, v); break;
        case LLM__O_STORE_ATTR:
            t->sp -= 2;
            llm__tpl_store_attr(t, &t->stack[t->sp + 1], &consts[op->c], &t->stack[t->sp]);
            break;
        case LLM__O_UNPACK: v = t->stack[--t->sp]; llm__tpl_unpack(t, v, (uint32_t)op->c); break;
        case LLM__O_LIST: llm__tpl_collect(t, LLM__T_LIST, (uint32_t)op->c); break;
        case LLM__O_TUPLE: llm__tpl_collect(t, LLM__T_TUPLE, (uint32_t)op->c); break;
        case LLM__O_DICT: llm__tpl_collect(t, LLM__T_DICT, (uint32_t)op->c); break;
        case LLM__O_SCOPE: llm__tpl_push_scope(t, t->n_scopes - 1); break;
        case LLM__O_END_SCOPE: llm__tpl_pop_scopes(t, t->n_scopes - 1); break;
        case LLM__O_CAPTURE:
            v = llm__tpl_value(LLM__T_MARK);
            v.u.i = (int64_t)t->out.n;
            llm__tpl_push(t, v);
            break;
        case LLM__O_END_CAPTURE:
            t->stack[t->sp - 1] = llm__tpl_cut(t, (size_t)t->stack[t->sp - 1].u.i);
            break;
        case LLM__O_NOTHING: break;
        default: pc += (uint32_t)llm__tpl_steer(t, op, pc); continue;
        }
        pc++;
    }
}

/* ---- JSON, for tools and other values of the caller ------------------------------------------ */

typedef struct llm__tpl_reader {
    const char *begin, *s, *end;
    const char *what; /* which text, for messages */
    unsigned trust;
} llm__tpl_reader;

static void llm__tpl_bad_json(llm__tpl *t, const llm__tpl_reader *r, const char *expected) {
    const unsigned long at = (unsigned long)(r->s - r->begin);
    if (r->s >= r->end) {
        llm__tpl_fail(t, LLM_ERROR_FORMAT, "%s is not JSON: it ends after %lu bytes, expected %s",
                      r->what, at, expected);
    } else {
        llm__tpl_fail(t, LLM_ERROR_FORMAT, "%s is not JSON: byte %lu is 0x%02x, expected %s",
                      r->what, at, (unsigned)(unsigned char)*r->s, expected);
    }
}

static int llm__tpl_json_peek(llm__tpl_reader *r) {
    while (r->s < r->end && (*r->s == ' ' || *r->s == '\n' || *r->s == '\r' || *r->s == '\t'))
        r->s++;
    return r->s < r->end ? (unsigned char)*r->s : 0;
}

static llm__tval llm__tpl_json_string(llm__tpl *t, llm__tpl_reader *r) {
    static const char letters[] = "nrtbf/\\\"", values[] = "\n\r\t\b\f/\\\"";
    size_t mark = t->out.n;
    const char *from = ++r->s, *e;
    uint32_t c, low;
    char utf8[4];
    while (t->result == LLM_OK && r->s < r->end && *r->s != '"') {
        if ((unsigned char)*r->s < 0x20) break;
        if (*r->s != '\\') {
            r->s++;
            continue;
        }
        llm__tpl_put(t, from, (size_t)(r->s - from), r->trust, NULL);
        if (++r->s == r->end) break;
        e = *r->s ? strchr(letters, *r->s) : NULL;
        if (e) {
            llm__tpl_put(t, values + (e - letters), 1, r->trust, NULL);
        } else if (*r->s == 'u') {
            c = llm__tpl_hex(t, r->s + 1, r->end, 4);
            if (c >= 0xd800 && c < 0xdc00 && r->end - r->s > 10 && r->s[5] == '\\' &&
                r->s[6] == 'u') {
                low = llm__tpl_hex(t, r->s + 7, r->end, 4);
                if (low >= 0xdc00 && low < 0xe000)
                    c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00), r->s += 6;
            }
            if (c >= 0xd800 && c < 0xe000) llm__tpl_bad_json(t, r, "a pair of surrogates");
            llm__tpl_put(t, utf8, llm__tpl_encode(c, utf8), r->trust, NULL);
            if (t->result == LLM_OK) r->s += 4;
        } else {
            llm__tpl_bad_json(t, r, "an escape");
        }
        from = ++r->s;
    }
    if (t->result != LLM_OK || r->s >= r->end || *r->s != '"') {
        llm__tpl_bad_json(t, r, "'\"'");
        return llm__tpl_string("", 0, r->trust);
    }
    if (mark == t->out.n) { /* no escape: the text itself */
        llm__tval v = llm__tpl_string(from, (size_t)(r->s - from), r->trust);
        r->s++;
        return v;
    }
    llm__tpl_put(t, from, (size_t)(r->s - from), r->trust, NULL);
    r->s++;
    return llm__tpl_cut(t, mark);
}

static llm__tval llm__tpl_json_value(llm__tpl *t, llm__tpl_reader *r, int level);

static llm__tval llm__tpl_json_items(llm__tpl *t, llm__tpl_reader *r, int level) {
    llm__tpl_list list = llm__tpl_list_make();
    bool dict = *r->s++ == '{';
    int close = dict ? '}' : ']';
    llm__tval key, v;
    if (level > LLM__TPL_NEST)
        llm__tpl_fail(t, LLM_ERROR_LIMIT, "%s is nested more than %d deep", r->what,
                      (int)LLM__TPL_NEST);
    if (llm__tpl_json_peek(r) != close) {
        for (;;) {
            if (dict) {
                if (llm__tpl_json_peek(r) != '"') llm__tpl_bad_json(t, r, "'\"'");
                if (t->result != LLM_OK) break;
                key = llm__tpl_json_string(t, r);
                if (llm__tpl_json_peek(r) != ':') llm__tpl_bad_json(t, r, "':'");
                if (t->result != LLM_OK) break;
                r->s++;
            }
            v = llm__tpl_json_value(t, r, level + 1);
            if (dict) llm__tpl_set_pair(t, &list, &key, &v);
            else llm__tpl_push_item(t, &list, v);
            if (t->result != LLM_OK || llm__tpl_json_peek(r) != ',') break;
            r->s++;
        }
    }
    if (llm__tpl_json_peek(r) != close) llm__tpl_bad_json(t, r, dict ? "',' or '}'" : "',' or ']'");
    else r->s++;
    return dict ? llm__tpl_dict_of(&list) : list.v;
}

static llm__tval llm__tpl_json_value(llm__tpl *t, llm__tpl_reader *r, int level) {
    static const char words[3][6] = {"null", "true", "false"};
    int c = llm__tpl_json_peek(r), i;
    llm__tval v = llm__tpl_value(LLM__T_NONE);
    uint32_t n, sign = c == '-';
    size_t left = (size_t)(r->end - r->s);
    if (!llm__tpl_charge(t, 1)) return v;
    if (c == '"') return llm__tpl_json_string(t, r);
    if (c == '{' || c == '[') return llm__tpl_json_items(t, r, level);
    for (i = 0; i < 3; i++) {
        size_t size = strlen(words[i]);
        if (left < size || memcmp(r->s, words[i], size) != 0) continue;
        r->s += size;
        return i ? llm__tpl_bool(i == 1) : v;
    }
    n = llm__tpl_number(t, r->s + sign, (uint32_t)left - sign, &v, false);
    if (n == 0 || (r->s[sign] == '0' && n > 1 && llm__tpl_digit(r->s[sign + 1]))) {
        llm__tpl_bad_json(t, r, "a value");
        return v;
    }
    if (sign && v.type == LLM__T_INT) v.u.i = -v.u.i;
    if (sign && v.type == LLM__T_FLOAT) v.u.f = -v.u.f;
    r->s += n + sign;
    return v;
}

static llm__tval llm__tpl_parse_json(llm__tpl *t, llm_text text, unsigned trust, const char *what) {
    llm__tpl_reader r;
    llm__tval v;
    v = llm__tpl_text_value(t, text, trust);
    r.begin = r.s = v.u.s;
    r.end = r.s + v.n;
    r.what = what;
    r.trust = trust;
    v = llm__tpl_json_value(t, &r, 0);
    if (t->result == LLM_OK && (llm__tpl_json_peek(&r) || r.s != r.end))
        llm__tpl_bad_json(t, &r, "its end");
    return v;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Roles that templates may build control tokens from. */
static bool llm__tpl_known_role(llm_text role) {
    static const char names[][12] = {"system", "user", "assistant", "tool", "developer", "model",
                                        "function", "ipython", "observation"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (role.size == strlen(names[i]) && memcmp(role.data, names[i], role.size) == 0)
            return true;
    }
    return false;
}

static llm__tval llm__tpl_field(llm__tpl *t, const llm_template_field *field) {
    unsigned trust = field->trusted ? LLM__TRUSTED : LLM__UNTRUSTED;
    return field->json ? llm__tpl_parse_json(t, field->text, trust, "a field's value")
                       : llm__tpl_text_value(t, field->text, trust);
}

static llm__tval llm__tpl_message(llm__tpl *t, const llm_message *message) {
    llm__tpl_list pairs = llm__tpl_list_make();
    llm__tval key, v;
    size_t i;
    key = llm__tpl_string("role", 4, LLM__TRUSTED);
    v = llm__tpl_text_value(t, message->role,
                            llm__tpl_known_role(message->role) ? LLM__TRUSTED : LLM__UNTRUSTED);
    llm__tpl_set_pair(t, &pairs, &key, &v);
    key = llm__tpl_string("content", 7, LLM__TRUSTED);
    v = llm__tpl_value(LLM__T_NONE);
    if (message->content.data) v = llm__tpl_text_value(t, message->content, LLM__UNTRUSTED);
    llm__tpl_set_pair(t, &pairs, &key, &v);
    for (i = 0; i < message->n_fields && t->result == LLM_OK; i++) {
        key = llm__tpl_text_value(t, message->fields[i].name, LLM__UNTRUSTED);
        v = llm__tpl_field(t, &message->fields[i]);
        llm__tpl_set_pair(t, &pairs, &key, &v);
    }
    return llm__tpl_dict_of(&pairs);
}

static void llm__tpl_global(llm__tpl *t, const char *name, llm__tval v) {
    uint32_t id = llm__tpl_intern(t, name, strlen(name));
    if (t->result == LLM_OK) llm__tpl_store(t, id, v);
}

/* What the template finds defined, as under apply_chat_template. */
static void llm__tpl_globals(llm__tpl *t) {
    const llm_template_desc *d = t->desc;
    llm__tval messages = llm__tpl_seq(t, LLM__T_LIST, d->n_messages), v;
    uint32_t id;
    size_t i;
    for (i = 0; t->result == LLM_OK && i < d->n_messages; i++)
        messages.u.v[i] = llm__tpl_message(t, &d->messages[i]);
    for (id = LLM__N_g_dict; id <= LLM__N_g_strftime; id++) {
        v = llm__tpl_value(LLM__T_FUNCTION);
        v.n = id;
        if (id != LLM__N_g_strftime || d->date.year)
            llm__tpl_global(t, llm__tpl_native_at(id).name, v);
    }
    llm__tpl_global(t, "messages", messages);
    llm__tpl_global(t, "add_generation_prompt", llm__tpl_bool(d->add_generation_prompt));
    if (d->bos_token.data)
        llm__tpl_global(t, "bos_token", llm__tpl_text_value(t, d->bos_token, LLM__TRUSTED));
    if (d->eos_token.data)
        llm__tpl_global(t, "eos_token", llm__tpl_text_value(t, d->eos_token, LLM__TRUSTED));
    llm__tpl_global(t, "documents", llm__tpl_value(LLM__T_NONE));
    v = llm__tpl_value(LLM__T_NONE);
    if (d->tools.data)
        v = llm__tpl_parse_json(t, d->tools, LLM__UNTRUSTED, "the text of the tools");
    llm__tpl_global(t, "tools", v);
    for (i = 0; i < d->n_variables && t->result == LLM_OK; i++) {
        id = llm__tpl_intern(t, d->variables[i].name.data, d->variables[i].name.size);
        v = llm__tpl_field(t, &d->variables[i]);
        if (t->result == LLM_OK) llm__tpl_store(t, id, v);
    }
}

/* Line ends become "\n", and one at the end goes, as jinja2 does. */
static void llm__tpl_source(llm__tpl *t) {
    const char *s = t->desc->text.data;
    size_t n = t->desc->text.size, i, k = 0;
    if (n && memchr(s, '\r', n)) {
        char *copy = LLM__CAST(char *, llm__tpl_alloc(t, n, 1));
        if (!copy) return;
        for (i = 0; i < n; i++) {
            if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n') continue;
            copy[k++] = s[i] == '\r' ? '\n' : s[i];
        }
        s = copy;
        n = k;
    }
    if (n && s[n - 1] == '\n') n--;
    t->src = s ? s : "";
    t->n_src = (uint32_t)n;
}

/* A pointer that must not be NULL: `what`, of item `index` if that is not less than zero. */
static llm_result llm__tpl_check_pointer(const llm_template_desc *d, const void *data, size_t size,
                                         const char *what, long index) {
    if (data || !size) return LLM_OK;
    if (index < 0)
        return llm__fail(d->error, LLM_ERROR_ARGUMENT, "chat template: %s: NULL with a size of %lu",
                         what, (unsigned long)size);
    return llm__fail(d->error, LLM_ERROR_ARGUMENT, "chat template: %s %ld: NULL with a size of %lu",
                     what, index, (unsigned long)size);
}

static llm_result llm__tpl_check_fields(const llm_template_desc *d,
                                        const llm_template_field *field, size_t n) {
    size_t i;
    llm_result r = llm__tpl_check_pointer(d, field, n, "fields or variables", -1);
    for (i = 0; i < n && r == LLM_OK; i++) {
        r = llm__tpl_check_pointer(d, field[i].name.data, field[i].name.size,
                                   "name of field or variable", (long)i);
        if (r == LLM_OK)
            r = llm__tpl_check_pointer(d, field[i].text.data, field[i].text.size,
                                       "text of field or variable", (long)i);
    }
    return r;
}

static llm_result llm__tpl_check_date(const llm_template_desc *d) {
    static const struct {
        char name[8];
        int least, most;
    } parts[] = {{"year", 1, 9999}, {"month", 1, 12},  {"day", 1, 31},
                 {"hour", 0, 23},   {"minute", 0, 59}, {"second", 0, 61}};
    const int values[] = {d->date.year, d->date.month,  d->date.day,
                          d->date.hour, d->date.minute, d->date.second};
    size_t i;
    for (i = 0; i < 6 && d->date.year; i++) {
        if (values[i] >= parts[i].least && values[i] <= parts[i].most) continue;
        return llm__fail(d->error, LLM_ERROR_ARGUMENT,
                         "chat template: date.%s is %d, expected %d to %d", parts[i].name,
                         values[i], parts[i].least, parts[i].most);
    }
    return LLM_OK;
}

static llm_result llm__tpl_check(const llm_template_desc *d) {
    size_t i;
    llm_result r;
    if (d->text.size > LLM__TPL_SOURCE)
        return llm__fail(d->error, LLM_ERROR_LIMIT,
                         "chat template: it has %lu bytes, expected at most %d",
                         (unsigned long)d->text.size, (int)LLM__TPL_SOURCE);
    r = llm__tpl_check_pointer(d, d->text.data, d->text.size, "text", -1);
    if (r == LLM_OK) r = llm__tpl_check_pointer(d, d->messages, d->n_messages, "messages", -1);
    for (i = 0; i < d->n_messages && r == LLM_OK; i++) {
        const llm_message *m = &d->messages[i];
        r = llm__tpl_check_pointer(d, m->role.data, m->role.size, "role of message", (long)i);
        if (r == LLM_OK)
            r = llm__tpl_check_pointer(d, m->content.data, m->content.size, "content of message",
                                       (long)i);
        if (r == LLM_OK) r = llm__tpl_check_fields(d, m->fields, m->n_fields);
    }
    if (r == LLM_OK) r = llm__tpl_check_fields(d, d->variables, d->n_variables);
    if (r == LLM_OK) r = llm__tpl_check_date(d);
    return r;
}

/* Renders into t->out. The caller closes `t`, whatever the result. */
static llm_result llm__tpl_render(llm__tpl *t, const llm_template_desc *desc) {
    memset(t, 0, sizeof *t);
    t->desc = desc;
    t->steps = t->max_steps = desc->max_steps ? desc->max_steps : 20000000;
    t->max_output = desc->max_output ? desc->max_output : (size_t)16 << 20;
    t->memory = t->max_memory = desc->max_memory ? desc->max_memory : (size_t)128 << 20;
    t->src = "";
    t->result = llm__tpl_check(desc);
    if (t->result != LLM_OK) return t->result;
    llm__tpl_source(t);
    t->stack = LLM__CAST(llm__tval *, llm__tpl_alloc(t, LLM__TPL_STACK, sizeof *t->stack));
    t->scopes = LLM__CAST(llm__tpl_scope *, llm__tpl_alloc(t, LLM__TPL_SCOPES, sizeof *t->scopes));
    t->loops = LLM__CAST(llm__tpl_loop *, llm__tpl_alloc(t, LLM__TPL_LOOPS, sizeof *t->loops));
    t->calls = LLM__CAST(llm__tpl_call *, llm__tpl_alloc(t, LLM__TPL_CALLS, sizeof *t->calls));
    if (t->result == LLM_OK) llm__tpl_push_scope(t, 0);
    if (t->result == LLM_OK) llm__tpl_globals(t);
    if (t->result == LLM_OK) {
        llm__tpl_push_scope(t, 0);
        t->name_loop = llm__tpl_intern(t, "loop", 4);
        llm__tpl_body(t, NULL);
        llm__tpl_emit(t, LLM__O_HALT, 0);
    }
    if (t->result == LLM_OK) llm__tpl_run(t);
    return t->result;
}

LLM_API llm_result llm_template_runs(const llm_template_desc *desc, llm_template_write write,
                                     void *user) {
    llm__tpl t;
    llm_result result;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if (!write)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "chat template: write is NULL");
    result = llm__tpl_render(&t, desc);
    if (result == LLM_OK && t.out.n) {
        const char *s = LLM__CAST(const char *, t.out.data);
        const uint8_t *origin = LLM__CAST(const uint8_t *, t.out.data) + t.out.capacity;
        size_t from = 0, at;
        for (at = 1; at <= t.out.n && result == LLM_OK; at++) {
            if (at < t.out.n && origin[at] == origin[from]) continue;
            result = write(user, s + from, at - from, origin[from] == LLM__TRUSTED);
            from = at;
        }
    }
    llm__tpl_close(&t);
    return result;
}

LLM_API llm_result llm_template_render(const llm_template_desc *desc, char *out, size_t capacity,
                                       size_t *size) {
    llm__tpl t;
    llm_result result;
    if (size) *size = 0;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if (!size || (!out && capacity))
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "chat template: %s is NULL",
                         size ? "out" : "size");
    result = llm__tpl_render(&t, desc);
    if (result == LLM_OK) {
        *size = t.out.n;
        if (t.out.n > capacity) {
            result = llm__fail(desc->error, LLM_ERROR_ARGUMENT,
                               "chat template: the text has %lu bytes, the buffer %lu",
                               (unsigned long)t.out.n, (unsigned long)capacity);
        } else if (t.out.n) {
            memcpy(out, t.out.data, t.out.n);
        }
    }
    llm__tpl_close(&t);
    return result;
}

#endif /* LLM_NO_TEMPLATE */

/* ======================================================================== */
/* >>chat: a conversation on top of a session                                */
/* ========================================================================
   While an answer is made, `ids` is the timeline that the session must hold: the prompt and the
   answer so far. A step brings the session there (what both agree in stays), samples one more
   token and hands its bytes to the stream. So whatever goes wrong, nothing needs to be undone:
   the next call compares and goes on. */
LLM_API llm_text llm_string(const char *terminated) {
    llm_text text;
    text.data = terminated;
    text.size = terminated ? strlen(terminated) : 0;
    return text;
}

#ifndef LLM_NO_TEMPLATE

typedef struct llm__chat_block { /* the memory of a message */
    void *memory;
    size_t size;
} llm__chat_block;

struct llm_chat {
    llm_allocator allocator;
    size_t memory;
    llm_session *session;
    const llm_tokenizer *tokenizer;
    llm_sampler *sampler;
    llm_stream *stream;
    llm_template_desc form; /* everything but the messages */
    int32_t end_token;      /* of a form that the file does not know to be an end, or -1 */
    uint32_t max_tokens, least_room;
    llm_error error;
    /* the conversation; there is always room for one message more than it has */
    llm_message *message;   /* [capacity] */
    llm__chat_block *block; /* [capacity] */
    size_t count, capacity;
    /* the answer */
    int32_t *ids; /* [context] */
    uint32_t id_count, prompt_count, answer_count;
    bool answering, fed;
    llm_chat_ending ending, end; /* why no token follows; why the last answer ended */
    llm_text input;              /* bytes of the last token that the stream has not taken */
    char *answer;
    size_t answer_size, answer_capacity;
};

static const char llm__chat_chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static const char llm__chat_gemma[] =
    "{{ bos_token }}{% set first = '' %}{% set rest = messages %}"
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/* ---- creation ---- */

/* Finds the template: given, the model's, or a known form. */
static llm_result llm__chat_form(const llm_chat_desc *d, const llm_tokenizer *t, llm_text *form,
                                 int32_t *end_token) {
    *form = d->template_text.size ? d->template_text
                                  : llm_model_template(llm_session_model(d->session));
    *end_token = -1;
    if (form->size) return LLM_OK;
    *end_token = llm_token_find(t, llm_string("<|im_end|>"));
    *form = llm_string(llm__chat_chatml);
    if (*end_token >= 0 && llm_token_find(t, llm_string("<|im_start|>")) >= 0) return LLM_OK;
    *end_token = llm_token_find(t, llm_string("<end_of_turn>"));
    *form = llm_string(llm__chat_gemma);
    if (*end_token >= 0 && llm_token_find(t, llm_string("<start_of_turn>")) >= 0) return LLM_OK;
    return llm__fail(d->error, LLM_ERROR_UNSUPPORTED,
                     "chat: the model has no chat template, and its vocabulary has the marks of "
                     "neither ChatML nor Gemma; give one as template_text");
}

/* A copy in the arena; only the size is taken where it merely measures. */
static llm_text llm__chat_copy(llm__arena *arena, llm_text text) {
    char *to = LLM__TAKE(char, text.size);
    if (!to || !text.data) return text;
    if (text.size) memcpy(to, text.data, text.size);
    text.data = to;
    return text;
}

/* The object, first in the arena, and what its descriptor points to. */
static void llm__chat_lay_out(llm_chat *chat, const llm_chat_desc *d, llm_text form,
                              llm__arena *arena) {
    llm_template_field *variables;
    size_t i;
    (void)llm__take(arena, 1, sizeof *chat);
    memset(chat, 0, sizeof *chat);
    chat->ids = LLM__TAKE(int32_t, llm_session_context(d->session));
    variables = LLM__TAKE(llm_template_field, d->n_variables);
    chat->form.text = llm__chat_copy(arena, form);
    chat->form.tools = llm__chat_copy(arena, d->tools);
    chat->form.variables = variables;
    chat->form.n_variables = d->n_variables;
    for (i = 0; i < d->n_variables; i++) {
        llm_template_field field = d->variables[i];
        field.name = llm__chat_copy(arena, field.name);
        field.text = llm__chat_copy(arena, field.text);
        if (variables) variables[i] = field;
    }
}

static llm_result llm__chat_check(const llm_chat_desc *d) {
    if (!d->session) return llm__fail(d->error, LLM_ERROR_ARGUMENT, "chat: session is NULL");
    if (!d->session->own)
        return llm__fail(d->error, LLM_ERROR_ARGUMENT, "chat: the session is batch_only, expected one with an evaluator");
    if (d->n_variables && !d->variables)
        return llm__fail(d->error, LLM_ERROR_ARGUMENT,
                         "chat: n_variables is %lu with variables NULL, expected 0",
                         (unsigned long)d->n_variables);
    if (!llm_model_tokenizer(llm_session_model(d->session)))
        return llm__fail(d->error, LLM_ERROR_UNSUPPORTED,
                         "chat: the model's file has no tokenizer");
    return LLM_OK;
}

/* What the template may know about the model. */
static void llm__chat_set_form(llm_chat *chat, const llm_chat_desc *d) {
    llm_tokenizer_info info;
    llm_tokenizer_describe(chat->tokenizer, &info);
    if (info.bos >= 0) chat->form.bos_token = llm_token_bytes(chat->tokenizer, info.bos);
    if (info.eos >= 0) chat->form.eos_token = llm_token_bytes(chat->tokenizer, info.eos);
    chat->form.date = d->date;
    chat->form.add_generation_prompt = true;
    chat->form.allocator = chat->allocator;
    chat->form.error = &chat->error;
}

/* The parts that have their own memory. */
static llm_result llm__chat_fill(llm_chat *chat, const llm_chat_desc *d) {
    llm_model_info info;
    llm_stream_desc stream;
    llm_result r;
    stream.stops = d->stops;
    stream.stop_count = d->stop_count;
    llm_model_get_info(llm_session_model(d->session), &info);
    r = llm_sampler_create(&d->sampler, info.vocab, &chat->allocator, &chat->sampler, d->error);
    if (r == LLM_OK) r = llm_stream_create(&stream, &chat->allocator, &chat->stream, d->error);
    if (r == LLM_OK && d->system.size) {
        r = llm_chat_add(chat, llm_string("system"), d->system);
        if (r != LLM_OK && d->error) *d->error = chat->error;
    }
    return r;
}

LLM_API llm_result llm_chat_create(llm_chat **chat, const llm_chat_desc *desc) {
    llm__arena arena = {NULL, 0, false};
    llm_text form;
    llm_chat *c, measure;
    llm_result r;
    int32_t end_token;
    size_t size;
    if (!chat) return LLM_ERROR_ARGUMENT;
    *chat = NULL;
    if (!desc) return LLM_ERROR_ARGUMENT;
    if ((r = llm__chat_check(desc)) != LLM_OK) return r;
    r = llm__chat_form(desc, llm_model_tokenizer(llm_session_model(desc->session)), &form,
                       &end_token);
    if (r != LLM_OK) return r;
    llm__chat_lay_out(&measure, desc, form, &arena);
    size = arena.used;
    if (!arena.overflow) arena.base = LLM__CAST(uint8_t *, llm__allocate(&desc->allocator, size));
    if (!arena.base)
        return llm__fail(desc->error, LLM_ERROR_MEMORY, "chat: no memory for %lu bytes",
                         (unsigned long)size);
    arena.used = 0;
    c = (llm_chat *)(void *)arena.base;
    llm__chat_lay_out(c, desc, form, &arena);
    c->allocator = desc->allocator;
    c->memory = size;
    c->session = desc->session;
    c->tokenizer = llm_model_tokenizer(llm_session_model(desc->session));
    c->end_token = end_token;
    c->max_tokens = desc->max_tokens;
    c->least_room = desc->room ? desc->room : 1;
    llm__chat_set_form(c, desc);
    if ((r = llm__chat_fill(c, desc)) != LLM_OK) {
        llm_chat_destroy(c);
        return r;
    }
    *chat = c;
    return LLM_OK;
}

/* Drops messages from..to. */
static void llm__chat_drop(llm_chat *chat, size_t from, size_t to) {
    size_t i;
    for (i = from; i < to; i++)
        llm__release(&chat->allocator, chat->block[i].memory, chat->block[i].size);
    if (to < chat->count) {
        memmove(chat->message + from, chat->message + to,
                (chat->count - to) * sizeof *chat->message);
        memmove(chat->block + from, chat->block + to, (chat->count - to) * sizeof *chat->block);
    }
    chat->count -= to - from;
}

LLM_API void llm_chat_destroy(llm_chat *chat) {
    llm_allocator a;
    if (!chat) return;
    a = chat->allocator;
    llm__chat_drop(chat, 0, chat->count);
    llm__release(&a, chat->message, chat->capacity * sizeof *chat->message);
    llm__release(&a, chat->block, chat->capacity * sizeof *chat->block);
    llm__release(&a, chat->answer, chat->answer_capacity);
    llm_sampler_destroy(chat->sampler);
    llm_stream_destroy(chat->stream);
    llm__release(&a, chat, chat->memory);
}

/* ---- messages ---- */

static llm_result llm__chat_busy(llm_chat *chat, const char *who) {
    if (!chat->answering) return LLM_OK;
    return llm__fail(&chat->error, LLM_ERROR_BUSY,
                     "%s: an answer is being made; expected it finished or stopped", who);
}

static llm_result llm__chat_no_memory(llm_chat *chat, const char *what, size_t size) {
    return llm__fail(&chat->error, LLM_ERROR_MEMORY, "chat: no memory for %s of %lu bytes", what,
                     (unsigned long)size);
}

/* Room for the message that comes and for the answer after it. */
static llm_result llm__chat_room(llm_chat *chat) {
    const llm_allocator *a = &chat->allocator;
    size_t capacity = chat->capacity ? chat->capacity * 2 : 8;
    llm_message *message;
    llm__chat_block *block;
    if (chat->count + 2 <= chat->capacity) return LLM_OK;
    message = LLM__CAST(llm_message *, llm__allocate(a, capacity * sizeof *message));
    block = LLM__CAST(llm__chat_block *, llm__allocate(a, capacity * sizeof *block));
    if (!message || !block) {
        llm__release(a, message, capacity * sizeof *message);
        llm__release(a, block, capacity * sizeof *block);
        return llm__chat_no_memory(chat, "a list of messages", capacity * sizeof *message);
    }
    if (chat->count) {
        memcpy(message, chat->message, chat->count * sizeof *message);
        memcpy(block, chat->block, chat->count * sizeof *block);
    }
    llm__release(a, chat->message, chat->capacity * sizeof *message);
    llm__release(a, chat->block, chat->capacity * sizeof *block);
    chat->message = message;
    chat->block = block;
    chat->capacity = capacity;
    return LLM_OK;
}

static void llm__chat_append(llm_chat *chat, llm_text role, llm_text content, void *memory,
                             size_t size) {
    llm_message *m = chat->message + chat->count;
    memset(m, 0, sizeof *m);
    m->role = role;
    m->content = content;
    chat->block[chat->count].memory = memory;
    chat->block[chat->count].size = size;
    chat->count++;
}

LLM_API llm_result llm_chat_add(llm_chat *chat, llm_text role, llm_text content) {
    llm_result r;
    size_t size;
    char *memory;
    if (!chat) return LLM_ERROR_ARGUMENT;
    if (!role.data || !role.size)
        return llm__fail(&chat->error, LLM_ERROR_ARGUMENT,
                         "add: role has %lu bytes%s, expected 1 or more", (unsigned long)role.size,
                         role.data ? "" : " at NULL");
    if ((content.size && !content.data) || !llm__add(role.size, content.size, &size))
        return llm__fail(&chat->error, LLM_ERROR_ARGUMENT,
                         "add: content has %lu bytes%s, expected a text",
                         (unsigned long)content.size, content.data ? "" : " at NULL");
    if ((r = llm__chat_busy(chat, "add")) != LLM_OK) return r;
    if ((r = llm__chat_room(chat)) != LLM_OK) return r;
    memory = LLM__CAST(char *, llm__allocate(&chat->allocator, size));
    if (!memory) return llm__chat_no_memory(chat, "a message", size);
    memcpy(memory, role.data, role.size);
    if (content.size) memcpy(memory + role.size, content.data, content.size);
    role.data = memory;
    content.data = memory + role.size;
    llm__chat_append(chat, role, content, memory, size);
    return LLM_OK;
}

LLM_API const llm_message *llm_chat_messages(const llm_chat *chat, size_t *count) {
    if (count) *count = chat ? chat->count : 0;
    return chat ? chat->message : NULL;
}

/* 1 if the conversation begins with a system message. */
static size_t llm__chat_head(const llm_chat *chat) {
    return chat->count && chat->message[0].role.size == 6 &&
           !memcmp(chat->message[0].role.data, "system", 6);
}

LLM_API llm_result llm_chat_forget(llm_chat *chat, size_t n) {
    size_t head;
    llm_result r;
    if (!chat) return LLM_ERROR_ARGUMENT;
    if ((r = llm__chat_busy(chat, "forget")) != LLM_OK) return r;
    head = llm__chat_head(chat);
    if (n > chat->count - head)
        return llm__fail(&chat->error, LLM_ERROR_ARGUMENT, "forget: n is %lu, expected 0 to %lu",
                         (unsigned long)n, (unsigned long)(chat->count - head));
    llm__chat_drop(chat, head, head + n);
    return LLM_OK;
}

LLM_API llm_result llm_chat_rewind(llm_chat *chat, size_t n) {
    llm_result r;
    if (!chat) return LLM_ERROR_ARGUMENT;
    if ((r = llm__chat_busy(chat, "rewind")) != LLM_OK) return r;
    if (n > chat->count)
        return llm__fail(&chat->error, LLM_ERROR_ARGUMENT, "rewind: n is %lu, expected 0 to %lu",
                         (unsigned long)n, (unsigned long)chat->count);
    llm__chat_drop(chat, n, chat->count);
    return LLM_OK;
}

LLM_API llm_result llm_chat_reset(llm_chat *chat) {
    return chat ? llm_chat_rewind(chat, llm__chat_head(chat)) : LLM_ERROR_ARGUMENT;
}

/* ---- the prompt ---- */

/* Runs of text on their way to ids. Text between two control tokens is tokenized in one piece,
   whoever wrote it, so that the ids are those of the whole text. */
typedef struct llm__chat_prompt {
    llm_chat *chat;
    char *text; /* since the last control token */
    size_t size, capacity;
    size_t count; /* ids, also those that had no room */
    bool strip;   /* the last one takes the white space behind it */
} llm__chat_prompt;

static llm_result llm__chat_text(llm__chat_prompt *p, const char *data, size_t size) {
    const llm_allocator *a = &p->chat->allocator;
    const uint8_t *s = LLM__CAST(const uint8_t *, LLM__CAST(const void *, data));
    uint32_t scalar = 0;
    size_t from = 0, k;
    while (p->strip && from < size) {
        k = llm__tok_utf8(s + from, size - from, &scalar);
        if (!k || !llm__tok_is_space(scalar, false)) p->strip = false;
        else from += k;
    }
    data += from;
    size -= from;
    if (size > p->capacity - p->size) {
        size_t capacity;
        char *text = NULL;
        if (llm__add(p->size, size, &capacity) && llm__mul(capacity, 2, &capacity))
            text = LLM__CAST(char *, llm__allocate(a, capacity));
        if (!text) return llm__chat_no_memory(p->chat, "a prompt", p->size + size);
        if (p->size) memcpy(text, p->text, p->size);
        llm__release(a, p->text, p->capacity);
        p->text = text;
        p->capacity = capacity;
    }
    if (size) memcpy(p->text + p->size, data, size);
    p->size += size;
    return LLM_OK;
}

static void llm__chat_id(llm__chat_prompt *p, int32_t id) {
    if (p->count < llm_session_context(p->chat->session)) p->chat->ids[p->count] = id;
    p->count++;
}

/* Tokenizes what was gathered. */
static llm_result llm__chat_flush(llm__chat_prompt *p) {
    const size_t context = llm_session_context(p->chat->session);
    const size_t room = p->count < context ? context - p->count : 0;
    llm_tokenize_desc d;
    llm_result r;
    size_t count = 0;
    if (!p->size) return LLM_OK;
    memset(&d, 0, sizeof d);
    d.text = p->text;
    d.size = p->size;
    d.bos = d.eos = -1;
    d.allocator = p->chat->allocator;
    d.error = &p->chat->error;
    r = llm__tokenize(p->chat->tokenizer, &d, p->count == 0,
                      room ? p->chat->ids + p->count : NULL, room, &count);
    p->count += count;
    p->size = 0;
    return r == LLM_ERROR_LIMIT ? LLM_OK : r; /* the count goes on, for the message */
}

/* A control token that the template wrote, between the texts around it. */
static llm_result llm__chat_control(llm__chat_prompt *p, const llm__tok_added *a) {
    const uint8_t flags = p->chat->tokenizer->kinds[a->id];
    const uint8_t *s = LLM__CAST(const uint8_t *, LLM__CAST(const void *, p->text));
    uint32_t scalar = 0;
    llm_result r;
    while ((flags & LLM__TOK_LSTRIP) && p->size) {
        const size_t before = llm__tok_before(s, p->size, &scalar);
        if (!llm__tok_is_space(scalar, false)) break;
        p->size = before;
    }
    if ((r = llm__chat_flush(p)) != LLM_OK) return r;
    llm__chat_id(p, (int32_t)a->id);
    p->strip = (flags & LLM__TOK_RSTRIP) != 0;
    return LLM_OK;
}

/* Text that the template wrote: its control tokens, those looked for first in pass 0, then the
   others, and what lies between. User-defined ones are found when that is tokenized. */
typedef llm_result (*llm__chat_piece)(llm__chat_prompt *p, const char *data, size_t size);
static llm_result llm__chat_pass(llm__chat_prompt *p, unsigned pass, const char *data, size_t size,
                                 llm__chat_piece between) {
    const llm_tokenizer *t = p->chat->tokenizer;
    const uint8_t *s = LLM__CAST(const uint8_t *, LLM__CAST(const void *, data));
    const uint32_t flags = llm__tok_head(t)->flags;
    llm__tok_added a = LLM__ZERO;
    size_t from = 0;
    llm_result r;
    for (;;) {
        const bool prefix = pass && !p->size && (flags & LLM__TOK_SPACE_PREFIX) &&
                            !(flags & LLM__TOK_PREFIX_NEW);
        llm__tok_next_added(t, pass, s, size, true, prefix, from, &a);
        if (a.id != LLM__TOK_NONE && llm_token_kind_of(t, (int32_t)a.id) != LLM_TOKEN_CONTROL)
            continue;
        if (a.id == LLM__TOK_NONE) a.start = size;
        if (a.start > from) {
            if ((r = between(p, data + from, a.start - from)) != LLM_OK) return r;
        }
        if (a.id == LLM__TOK_NONE) return LLM_OK;
        if ((r = llm__chat_control(p, &a)) != LLM_OK) return r;
        from = a.end;
    }
}

static llm_result llm__chat_others(llm__chat_prompt *p, const char *data, size_t size) {
    return llm__chat_pass(p, 1, data, size, llm__chat_text);
}

/* llm_template_write: control tokens count where the template wrote all of them. */
static llm_result llm__chat_run(void *user, const char *data, size_t size, bool trusted) {
    llm__chat_prompt *p = LLM__CAST(llm__chat_prompt *, user);
    return trusted ? llm__chat_pass(p, 0, data, size, llm__chat_others)
                   : llm__chat_text(p, data, size);
}

/* The conversation as ids; `*count` may pass the context. */
static llm_result llm__chat_render(llm_chat *chat, size_t *count) {
    const uint32_t context = llm_session_context(chat->session);
    llm_tokenizer_info info;
    llm__chat_prompt p;
    llm_result r;
    memset(&p, 0, sizeof p);
    p.chat = chat;
    chat->form.messages = chat->message;
    chat->form.n_messages = chat->count;
    r = llm_template_runs(&chat->form, llm__chat_run, &p);
    if (r == LLM_OK) r = llm__chat_flush(&p);
    llm__release(&chat->allocator, p.text, p.capacity);
    if (r != LLM_OK) return r;
    llm_tokenizer_describe(chat->tokenizer, &info);
    if (info.add_bos && info.bos >= 0 && !(p.count && context && chat->ids[0] == info.bos)) {
        if (p.count < context) memmove(chat->ids + 1, chat->ids, p.count * sizeof *chat->ids);
        if (context) chat->ids[0] = info.bos;
        p.count++;
    }
    *count = p.count;
    return LLM_OK;
}

/* ---- the answer ---- */

/* Brings the session to `ids`, or lets it evaluate what is missing; the last one always, where its
   logits are gone. */
static llm_result llm__chat_feed(llm_chat *chat) {
    llm_session *s = chat->session;
    const int32_t *tokens = llm_session_tokens(s);
    uint32_t same = 0, position = llm_session_position(s);
    llm_result r;
    while (same < position && same < chat->id_count && tokens[same] == chat->ids[same]) same++;
    if (same == chat->id_count && (same < position || !llm_session_logits(s, 0))) same--;
    r = llm_session_rewind(s, same);
    if (r == LLM_OK && same < chat->id_count)
        r = llm_session_feed(s, chat->ids + same, chat->id_count - same);
    if (r != LLM_OK) {
        chat->error = *llm_session_error(s);
        return r;
    }
    chat->fed = true;
    return LLM_OK;
}

static llm_result llm__chat_reserve(llm_chat *chat, size_t more) {
    size_t capacity, wanted;
    char *answer;
    if (more <= chat->answer_capacity - chat->answer_size) return LLM_OK;
    if (!llm__add(chat->answer_size, more, &wanted) || !llm__mul(wanted, 2, &capacity))
        return llm__chat_no_memory(chat, "an answer", SIZE_MAX);
    if (!chat->answer_capacity) capacity = wanted;
    answer = LLM__CAST(char *, llm__allocate(&chat->allocator, capacity));
    if (!answer) return llm__chat_no_memory(chat, "an answer", capacity);
    if (chat->answer_size) memcpy(answer, chat->answer, chat->answer_size);
    llm__release(&chat->allocator, chat->answer, chat->answer_capacity);
    chat->answer = answer;
    chat->answer_capacity = capacity;
    return LLM_OK;
}

static llm_result llm__chat_begin(llm_chat *chat) {
    const uint32_t context = llm_session_context(chat->session);
    uint32_t room;
    size_t count = 0;
    llm_result r;
    if ((r = llm__chat_room(chat)) != LLM_OK) return r;
    if ((r = llm__chat_render(chat, &count)) != LLM_OK) return r;
    if (!count)
        return llm__fail(&chat->error, LLM_ERROR_ARGUMENT, "chat: the conversation gives no tokens, expected a message");
    if (count >= context || context - count < chat->least_room)
        return llm__fail(
            &chat->error, LLM_ERROR_CONTEXT_FULL,
            "chat: the conversation has %lu tokens, expected at most %u: an answer needs %u, and "
            "the context has %u",
            (unsigned long)count, (unsigned)(chat->least_room < context ? context - chat->least_room : 0),
            (unsigned)chat->least_room, (unsigned)context);
    room = context - (uint32_t)count;
    if (chat->max_tokens && chat->max_tokens < room) room = chat->max_tokens;
    chat->answer_size = 0;
    r = llm__chat_reserve(chat, (size_t)room * 8 + chat->stream->capacity);
    if (r != LLM_OK) return r;
    chat->id_count = chat->prompt_count = (uint32_t)count;
    if ((r = llm__chat_feed(chat)) != LLM_OK) return r;
    (void)llm_sampler_rewind(chat->sampler, count, NULL, 0, NULL);
    llm_stream_reset(chat->stream);
    memset(&chat->input, 0, sizeof chat->input);
    chat->answer_count = 0;
    chat->ending = chat->end = LLM_CHAT_NONE;
    chat->answering = true;
    return LLM_OK;
}

LLM_API llm_result llm_chat_answer(llm_chat *chat) {
    llm_result r;
    if (!chat) return LLM_ERROR_ARGUMENT;
    r = llm__chat_busy(chat, "answer");
    return r != LLM_OK ? r : llm__chat_begin(chat);
}

LLM_API llm_result llm_chat_say(llm_chat *chat, llm_text text) {
    llm_result r;
    if (!chat) return LLM_ERROR_ARGUMENT;
    if ((r = llm_chat_add(chat, llm_string("user"), text)) != LLM_OK) return r;
    if ((r = llm__chat_begin(chat)) != LLM_OK) llm__chat_drop(chat, chat->count - 1, chat->count);
    return r;
}

/* The answer becomes a message, which needs no memory any more. */
static void llm__chat_finish(llm_chat *chat, llm_chat_ending end) {
    llm_text content;
    content.data = chat->answer;
    content.size = chat->answer_size;
    llm__chat_append(chat, llm_string("assistant"), content, chat->answer, chat->answer_capacity);
    chat->answer = NULL;
    chat->answer_size = chat->answer_capacity = 0;
    chat->answering = chat->fed = false;
    chat->end = end;
}

/* A token was chosen: does the answer go on, and what does it say? */
static void llm__chat_take(llm_chat *chat, int32_t id) {
    llm_token_kind kind = llm_token_kind_of(chat->tokenizer, id);
    if (llm_token_is_end(chat->tokenizer, id) || id == chat->end_token) {
        chat->ending = LLM_CHAT_END_TOKEN;
        return;
    }
    chat->answer_count++;
    if (kind != LLM_TOKEN_CONTROL && kind != LLM_TOKEN_UNKNOWN)
        chat->input = llm_token_bytes(chat->tokenizer, id);
    if (chat->id_count < llm_session_context(chat->session))
        chat->ids[chat->id_count++] = id;
    else
        chat->ending = LLM_CHAT_CONTEXT_FULL;
    if (chat->max_tokens && chat->answer_count >= chat->max_tokens)
        chat->ending = LLM_CHAT_MAX_TOKENS;
}

/* Evaluates and samples one token. */
static llm_result llm__chat_token(llm_chat *chat, uint64_t budget_us) {
    llm_sample sample;
    llm_result r = LLM_OK;
    if (!chat->fed) r = llm__chat_feed(chat);
    if (r == LLM_ERROR_CONTEXT_FULL) { /* forks took the pages */
        chat->ending = LLM_CHAT_CONTEXT_FULL;
        return LLM_OK;
    }
    if (r != LLM_OK) return r;
    r = llm_step(chat->session, budget_us);
    if (r == LLM_PENDING) return r;
    chat->fed = false;
    if (r != LLM_OK) {
        chat->error = *llm_session_error(chat->session);
        return r;
    }
    r = llm_sampler_sample(chat->sampler, llm_session_logits(chat->session, 0), NULL, &sample,
                           &chat->error);
    if (r == LLM_OK) r = llm_sampler_accept(chat->sampler, sample.token, &chat->error);
    if (r == LLM_OK) llm__chat_take(chat, (int32_t)sample.token);
    return r;
}

LLM_API llm_result llm_chat_next(llm_chat *chat, uint64_t budget_us, llm_text *piece) {
    const uint64_t deadline = llm__deadline(budget_us);
    bool begun = false; /* however short the budget, something is done */
    llm_result r;
    if (!chat) return LLM_ERROR_ARGUMENT;
    if (!piece) return llm__fail(&chat->error, LLM_ERROR_ARGUMENT, "next: piece is NULL");
    memset(piece, 0, sizeof *piece);
    for (; chat->answering; begun = true) {
        const uint64_t now = deadline ? llm__now() : 0;
        if ((r = llm__chat_reserve(chat, chat->stream->capacity)) != LLM_OK) return r;
        if (llm_stream_next(chat->stream, &chat->input, piece) ||
            (chat->ending && llm_stream_next(chat->stream, NULL, piece))) {
            memcpy(chat->answer + chat->answer_size, piece->data, piece->size);
            chat->answer_size += piece->size;
            return LLM_OK;
        }
        if (llm_stream_stopped(chat->stream) >= 0)
            llm__chat_finish(chat, LLM_CHAT_STOP_STRING);
        else if (chat->ending)
            llm__chat_finish(chat, chat->ending);
        else if (begun && deadline && now >= deadline)
            return LLM_PENDING;
        else if ((r = llm__chat_token(chat, begun && deadline ? deadline - now : budget_us)) !=
                 LLM_OK)
            return r;
    }
    return LLM_OK;
}

LLM_API void llm_chat_stop(llm_chat *chat) {
    if (!chat || !chat->answering) return;
    (void)llm_session_rewind(chat->session, llm_session_position(chat->session));
    llm__chat_finish(chat, LLM_CHAT_STOPPED);
}

LLM_API llm_chat_ending llm_chat_end(const llm_chat *chat) {
    return chat ? chat->end : LLM_CHAT_NONE;
}
LLM_API uint32_t llm_chat_answer_tokens(const llm_chat *chat) {
    return chat ? chat->answer_count : 0;
}
LLM_API uint32_t llm_chat_prompt_tokens(const llm_chat *chat) {
    return chat ? chat->prompt_count : 0;
}
LLM_API llm_sampler *llm_chat_sampler(llm_chat *chat) { return chat ? chat->sampler : NULL; }
LLM_API const llm_error *llm_chat_error(const llm_chat *chat) {
    static const llm_error none = {LLM_ERROR_ARGUMENT, "chat is NULL"};
    return chat ? &chat->error : &none;
}

#endif /* LLM_NO_TEMPLATE */

LLM__SMALL_END

/* ---- >>pool-threads: the pool ---- */

#define LLM__MOST_LANES      256u
#define LLM__WORKER_STACK    ((size_t)1 << 18)
#define LLM__MOST_LOST_US    16000u
#define LLM__LEAST_REST_US   64000u
#define LLM__LONGEST_REST_US 256000u
#define LLM__OPEN            0x10000u /* of a gate's number; the lower half counts workers */

#if defined(LLM_OPENMP) && !defined(LLM_NO_THREADS)
#define LLM_NO_THREADS /* of our own */
#endif

#if defined(LLM_NO_THREADS)
#elif defined(_WIN32)
typedef HANDLE llm__thread;
typedef SRWLOCK llm__mutex;
typedef CONDITION_VARIABLE llm__condition;
#define llm__lock(m)        AcquireSRWLockExclusive(m)
#define llm__unlock(m)      ReleaseSRWLockExclusive(m)
#define llm__sleep_on(c, m) (void)SleepConditionVariableSRW(c, m, INFINITE, 0)
#define llm__wake_all(c)    WakeAllConditionVariable(c)
#else
typedef pthread_t llm__thread;
typedef pthread_mutex_t llm__mutex;
typedef pthread_cond_t llm__condition;
#define llm__lock(m)        (void)pthread_mutex_lock(m)
#define llm__unlock(m)      (void)pthread_mutex_unlock(m)
#define llm__sleep_on(c, m) (void)pthread_cond_wait(c, m)
#define llm__wake_all(c)    (void)pthread_cond_broadcast(c)
#endif

typedef struct llm__worker {
    llm_pool *pool;
    uint32_t lane;
    uint32_t lost_us; /* that others waited for it while it had no core; ages with time, */
    uint64_t lost_at; /* seen last at */
    bool rests;       /* it shall be out for a while */
    uint32_t rest_us; /* how long it was so last, */
    uint64_t rested;  /* until when */
#if !defined(LLM_NO_THREADS)
    llm__thread thread;
#endif
} llm__worker;

struct llm_pool {
    llm_allocator allocator;
    size_t memory;
    uint32_t threads, started;
    llm_parallel_for parallel_for;
    void *user;
    uint32_t taken; /* 1 while an evaluation uses the pool */
#if !defined(_WIN32)
    pid_t process; /* that its threads belong to */
#endif
    bool pin;
    /* Upper half: a number, odd while an evaluation runs, which workers may then enter; lower half:
       how many have. Who is not there does not keep an evaluation from ending. */
    uint32_t gate, sleepers, quit;
    llm__lane work;
    void *context;
#if !defined(LLM_NO_THREADS)
    llm__mutex mutex;
    llm__condition wake;
#endif
    llm__worker worker[1]; /* [threads]; the first is the caller */
};

#if !defined(LLM_NO_THREADS)
static void llm__sleep_ms(uint32_t ms) {
#if defined(_WIN32)
    Sleep(ms);
#else
    struct timeval t; /* nanosleep is not declared everywhere under -std=c99 */
    t.tv_sec = 0, t.tv_usec = (int)ms * 1000;
    (void)select(0, NULL, NULL, NULL, &t);
#endif
}

/* This thread to the core number `lane` of those that the process may use. */
static void llm__pin_thread(uint32_t lane) {
#if defined(__linux__)
    enum { CORES = 1024, BITS = 8 * sizeof(unsigned long) };
    unsigned long may[CORES / BITS], one[CORES / BITS];
    uint32_t core;
    memset(may, 0, sizeof may), memset(one, 0, sizeof one);
    if (llm__syscall(SYS_sched_getaffinity, 0, sizeof may, may) < 0) return;
    for (core = 0; core < CORES; core++) {
        if (!(may[core / BITS] >> core % BITS & 1) || lane--) continue;
        one[core / BITS] = 1ul << core % BITS;
        (void)llm__syscall(SYS_sched_setaffinity, 0, sizeof one, one);
        return;
    }
#else
    (void)lane;
#endif
}

static bool llm__may_enter(llm_pool *pool, uint32_t last) {
    const uint32_t number = llm__load32(&pool->gate) / LLM__OPEN;
    return (number % 2 && number != last) || llm__load32(&pool->quit);
}

/* Waits for an evaluation other than the last that this worker entered: spins, then sleeps. */
static void llm__await(llm_pool *pool, uint32_t last) {
    const uint64_t since = llm__now();
    uint32_t spins;
    for (spins = 1; !llm__may_enter(pool, last); spins++) {
        llm__relax();
        if (spins % 64 == 0 && llm__now() - since >= LLM__SPIN_US) break;
    }
    if (llm__may_enter(pool, last)) return;
    llm__lock(&pool->mutex);
    pool->sleepers++;
    while (!llm__may_enter(pool, last)) llm__sleep_on(&pool->wake, &pool->mutex);
    pool->sleepers--;
    llm__unlock(&pool->mutex);
}

/* Twice as long as the last time, if that is not long ago. */
static void llm__rest(llm__worker *w) {
    const uint64_t start = llm__now();
    const bool again = w->rest_us && start - w->rested < 4 * (uint64_t)w->rest_us;
    w->rest_us = again ? llm__least(2 * w->rest_us, LLM__LONGEST_REST_US) : LLM__LEAST_REST_US;
    while (llm__now() - start < w->rest_us && !llm__load32(&w->pool->quit)) llm__sleep_ms(2);
    w->rested = llm__now();
    w->rests = false;
}

static void llm__worker_loop(llm__worker *worker) {
    llm_pool *pool = worker->pool;
    uint32_t last = 0;
    if (pool->pin) llm__pin_thread(worker->lane);
    for (;;) {
        llm__await(pool, last);
        if (llm__load32(&pool->quit)) return;
        last = llm__fetch_add32(&pool->gate, 1) / LLM__OPEN;
        if (last % 2) pool->work(pool->context, worker->lane);
        llm__fetch_add32(&pool->gate, (uint32_t)-1);
        if (worker->rests) llm__rest(worker);
    }
}

/* Opens the gate and wakes who sleeps. */
static void llm__announce(llm_pool *pool) {
    bool asleep;
    llm__lock(&pool->mutex);
    llm__fetch_add32(&pool->gate, LLM__OPEN);
    asleep = pool->sleepers > 0;
    llm__unlock(&pool->mutex);
    if (asleep) llm__wake_all(&pool->wake);
}

#if defined(_WIN32)
static DWORD WINAPI llm__worker_start(void *worker) {
    llm__worker_loop((llm__worker *)worker);
    return 0;
}
static bool llm__start(llm__worker *w) {
    w->thread = CreateThread(NULL, LLM__WORKER_STACK, llm__worker_start, w, 0, NULL);
    return w->thread != NULL;
}
static void llm__join(llm__worker *w) {
    (void)WaitForSingleObject(w->thread, INFINITE);
    CloseHandle(w->thread);
}
#else
static void *llm__worker_start(void *worker) {
    llm__worker_loop(LLM__CAST(llm__worker *, worker));
    return NULL;
}
static bool llm__start(llm__worker *w) {
    pthread_attr_t small;
    int failed = EINVAL;
    if (pthread_attr_init(&small) == 0) {
        if (pthread_attr_setstacksize(&small, LLM__WORKER_STACK) == 0)
            failed = pthread_create(&w->thread, &small, llm__worker_start, w);
        (void)pthread_attr_destroy(&small);
    }
    if (failed == EINVAL) /* the host's thread-local variables need more */
        failed = pthread_create(&w->thread, NULL, llm__worker_start, w);
    return failed == 0;
}
static void llm__join(llm__worker *w) { (void)pthread_join(w->thread, NULL); }
#endif

static void llm__stop_workers(llm_pool *pool) {
    uint32_t i;
    llm__store32(&pool->quit, 1);
    llm__announce(pool);
    for (i = 1; i <= pool->started; i++) llm__join(&pool->worker[i]);
    pool->started = 0;
}

static bool llm__make_locks(llm_pool *pool) {
#if defined(_WIN32)
    InitializeSRWLock(&pool->mutex);
    InitializeConditionVariable(&pool->wake);
#else
    if (pthread_mutex_init(&pool->mutex, NULL)) return false;
    if (pthread_cond_init(&pool->wake, NULL)) {
        (void)pthread_mutex_destroy(&pool->mutex);
        return false;
    }
#endif
    return true;
}

static void llm__drop_locks(llm_pool *pool) {
#if defined(_WIN32)
    (void)pool;
#else
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->mutex);
#endif
}

static llm_result llm__start_workers(llm_pool *pool, llm_error *error) {
    uint32_t i;
    if (!llm__make_locks(pool))
        return llm__fail(error, LLM_ERROR_THREAD, "pool: no mutex to be had");
    for (i = 1; i < pool->threads; i++) {
        pool->worker[i].pool = pool;
        pool->worker[i].lane = i;
        if (!llm__start(&pool->worker[i])) {
            llm__stop_workers(pool);
            llm__drop_locks(pool);
            return llm__fail(error, LLM_ERROR_THREAD, "pool: thread %u of %u did not start",
                             (unsigned)i + 1, (unsigned)pool->threads);
        }
        pool->started++;
    }
    return LLM_OK;
}
#endif /* LLM_NO_THREADS */

static uint32_t llm__cores(void) {
#if defined(_WIN32)
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return llm__least(info.dwNumberOfProcessors, LLM__MOST_LANES);
#elif defined(_SC_NPROCESSORS_ONLN)
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > (long)LLM__MOST_LANES ? LLM__MOST_LANES : (uint32_t)n;
#else
    return 1;
#endif
}

LLM_API llm_result llm_pool_create(llm_pool **pool, const llm_pool_desc *desc) {
    llm_pool *p;
    uint32_t threads;
    size_t size;
    if (!pool) return LLM_ERROR_ARGUMENT;
    *pool = NULL;
    if (!desc) return LLM_ERROR_ARGUMENT;
    threads = desc->threads ? desc->threads : llm__cores();
    if (threads > LLM__MOST_LANES)
        return llm__fail(desc->error, LLM_ERROR_ARGUMENT, "pool: threads is %u, not in 0 .. %u",
                         (unsigned)threads, LLM__MOST_LANES);
#if defined(LLM_NO_THREADS) && !defined(LLM_OPENMP)
    if (!desc->parallel_for) threads = 1;
#endif
    size = sizeof *p + threads * sizeof(llm__worker);
    p = LLM__CAST(llm_pool *, llm__allocate(&desc->allocator, size));
    if (!p) return llm__fail(desc->error, LLM_ERROR_MEMORY, "pool: no memory for %zu bytes", size);
    memset(p, 0, size);
    p->allocator = desc->allocator, p->memory = size, p->threads = threads;
    p->parallel_for = desc->parallel_for, p->user = desc->user, p->pin = desc->pin;
#if !defined(_WIN32)
    p->process = getpid();
#endif
#if !defined(LLM_NO_THREADS)
    if (!p->parallel_for && threads > 1) {
        if (llm__start_workers(p, desc->error)) {
            llm__release(&desc->allocator, p, size);
            return LLM_ERROR_THREAD;
        }
    }
#endif
    *pool = p;
    return LLM_OK;
}

/* In a child of fork() the threads do not exist, and what they left of the locks is unknown. */
static bool llm__has_threads(const llm_pool *pool) {
#if defined(_WIN32)
    return !pool->parallel_for && pool->threads > 1;
#else
    return !pool->parallel_for && pool->threads > 1 && pool->process == getpid();
#endif
}

LLM_API void llm_pool_destroy(llm_pool *pool) {
    llm_allocator allocator;
    if (!pool) return;
#if !defined(LLM_NO_THREADS)
    if (llm__has_threads(pool)) {
        llm__stop_workers(pool);
        llm__drop_locks(pool);
    }
#endif
    allocator = pool->allocator;
    llm__release(&allocator, pool, pool->memory);
}

LLM_API uint32_t llm_pool_threads(const llm_pool *pool) { return pool ? pool->threads : 1; }

/* From within its work: others waited for a lane that had no core. True: for so much of
   the time, so that they do as well without it. */
static bool llm__pool_lost(llm_pool *pool, uint32_t lane, uint32_t us) {
#if !defined(LLM_NO_THREADS)
    const uint64_t now = llm__now();
    llm__worker *w;
    uint64_t aged;
    if (!pool || pool->parallel_for) return false;
    w = &pool->worker[lane];
    aged = (now - w->lost_at) * 3 / 8;
    w->lost_us = us + (w->lost_us > aged ? w->lost_us - (uint32_t)aged : 0);
    w->lost_at = now;
    if (w->lost_us <= LLM__MOST_LOST_US) return false;
    w->lost_us = 0;
    return true;
#else
    (void)pool, (void)lane, (void)us;
    return false;
#endif
}

/* From within its work: the lane is not called for a while. */
static void llm__pool_rest(llm_pool *pool, uint32_t lane) {
#if !defined(LLM_NO_THREADS)
    if (pool && !pool->parallel_for) pool->worker[lane].rests = true;
#else
    (void)pool, (void)lane;
#endif
}

/* Runs work(context, lane) on this thread as lane 0 and on what the pool can spare. */
static void llm__pool_run(llm_pool *pool, llm__lane work, void *context) {
    if (!pool || pool->threads < 2 || (!pool->parallel_for && !llm__has_threads(pool)) ||
        llm__exchange32(&pool->taken, 1)) {
        work(context, 0);
        return;
    }
    if (pool->parallel_for) {
        pool->parallel_for(pool->user, work, context, pool->threads);
    } else {
#if defined(LLM_OPENMP)
        const int lanes = (int)pool->threads;
        int i;
#pragma omp parallel for num_threads(lanes) schedule(static, 1)
        for (i = 0; i < lanes; i++) work(context, (uint32_t)i);
#elif !defined(LLM_NO_THREADS)
        uint32_t spins;
        pool->work = work;
        pool->context = context;
        llm__announce(pool);
        work(context, 0);
        llm__fetch_add32(&pool->gate, LLM__OPEN);
        for (spins = 1; llm__load32(&pool->gate) % LLM__OPEN; spins++) {
            if (spins % 2000 == 0) llm__yield(); /* somebody else has a worker's core */
            llm__relax();
        }
#endif
    }
    llm__store32(&pool->taken, 0);
}

/* ---- >>scalar: the specification ----------------------------------------- */

/* The fixed tree over 16 lanes. */
LLM__INLINE float llm__tree(float lane[16]) {
    int i, w;
    for (w = 8; w; w /= 2)
        for (i = 0; i < w; i++) lane[i] = llm__addf(lane[i], lane[i + w]);
    return lane[0];
}

static void llm__norm_scalar(float *y, const float *x, const float *gain, uint32_t n,
                             float inverse_n, float epsilon) {
    float lane[16] = {0}, r;
    uint32_t i;
    for (i = 0; i < n; i++) lane[i % 16] = llm__addf(lane[i % 16], llm__mulf(x[i], x[i]));
    r = llm__rsqrt(llm__addf(llm__mulf(llm__tree(lane), inverse_n), epsilon));
    for (i = 0; i < n; i++) y[i] = llm__mulf(llm__mulf(x[i], r), gain[i]);
}

static void llm__rotate_scalar(float *x, uint32_t n, uint32_t block) {
    const float scale = block == 64 ? 0.125f : block == 32 ? 0.17677669529f : 0.25f;
    uint32_t i, j, h;
    for (i = 0; i < n; i += block) {
        for (h = 1; h < block; h *= 2)
            for (j = 0; j < block; j++)
                if (!(j & h)) {
                    float a = x[i + j], b = x[i + j + h];
                    x[i + j] = llm__addf(a, b);
                    x[i + j + h] = llm__subf(a, b);
                }
        for (j = 0; j < block; j++) x[i + j] = llm__mulf(x[i + j], scale);
    }
}

/* The factor that brings |x| <= most to `limit`, and its inverse. Huge values, infinities and NaN
   become zeros with a scale of NaN, which the logits then show. */
LLM__INLINE float llm__scale_of(uint32_t most, float limit, float inverse_limit, float *scale) {
    if (most >= 0x7e000000u) {            /* 2^125: past it 1 / most is not normal */
        const uint32_t nan = 0x7fc00000u; /* by its bits: fast-math may assume that there is none */
        memcpy(scale, &nan, sizeof nan);
        return 0;
    }
    if (most < 0x0da24260u) { /* 1e-30 */
        *scale = 0;
        return 0;
    }
    *scale = llm__mulf(llm__float(most), inverse_limit);
    return llm__mulf(limit, llm__recip(llm__float(most)));
}
#define LLM__INVERSE_127   7.87401574803e-3f
#define LLM__INVERSE_16256 6.15157480315e-5f

static void llm__quantize_scalar(const float *x, uint32_t n, uint32_t s, int8_t *q, int16_t *wide,
                                 float *scale, int16_t *sums) {
    uint32_t i, j;
    for (i = 0; i < n; i += s) {
        uint32_t most = 0;
        float factor;
        for (j = i; j < i + s; j++) {
            uint32_t a = llm__bits(x[j]) & 0x7fffffffu;
            if (a > most) most = a;
        }
        factor = llm__scale_of(most, LLM__INT8_MOST, LLM__INVERSE_127, &scale[i / s]);
        for (j = i; j < i + s; j++) {
            int32_t v = factor == 0 ? 0 : llm__round(llm__mulf(x[j], factor));
            q[j] = (int8_t)v;
            wide[j] = (int16_t)v;
            if (j % 16 == 0) sums[j / 16] = 0;
            sums[j / 16] = (int16_t)(sums[j / 16] + v);
        }
    }
}

static float llm__quantize_head_scalar(const float *x, uint32_t n, float limit, int16_t *q) {
    uint32_t i, most = 0;
    float scale, factor;
    for (i = 0; i < n; i++) {
        uint32_t a = llm__bits(x[i]) & 0x7fffffffu;
        if (a > most) most = a;
    }
    factor =
        llm__scale_of(most, limit, limit > 128 ? LLM__INVERSE_16256 : LLM__INVERSE_127, &scale);
    for (i = 0; i < n; i++)
        q[i] = factor == 0 ? (int16_t)0 : (int16_t)llm__round(llm__mulf(x[i], factor));
    return scale;
}

static void llm__rope_scalar(float *x, const float *turn, uint32_t half) {
    uint32_t i;
    for (i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], c = turn[i], s = turn[i + half];
        x[i] = llm__subf(llm__mulf(a, c), llm__mulf(b, s));
        x[i + half] = llm__addf(llm__mulf(b, c), llm__mulf(a, s));
    }
}

static void llm__add_scalar(float *y, const float *x, float scale, uint32_t n) {
    uint32_t i;
    for (i = 0; i < n; i++) y[i] = llm__addf(y[i], llm__mulf(x[i], scale));
}

static void llm__blend_scalar(float *y, float a, const float *x, float b, uint32_t n) {
    uint32_t i;
    for (i = 0; i < n; i++) y[i] = llm__addf(llm__mulf(y[i], a), llm__mulf(x[i], b));
}

static float llm__activate(float x, uint32_t activation) {
    const uint32_t bits = llm__bits(x);
    float r = bits >= 0x80000000u && bits <= 0xff800000u ? 0.0f : x; /* a NaN stays */
    switch (activation) {
    case LLM__ACT_SILU: return llm__silu(x);
    case LLM__ACT_GELU_TANH: return llm__gelu_tanh(x);
    case LLM__ACT_RELU2: return llm__mulf(r, r);
    default: return r;
    }
}

static void llm__gate_scalar(float *y, const float *gate, const float *up, uint32_t n,
                             uint32_t activation) {
    uint32_t i;
    for (i = 0; i < n; i++) y[i] = llm__mulf(llm__activate(gate[i], activation), up[i]);
}

/* A line of each row, which no prefetcher foresees. */
#define LLM__ROWS_AHEAD 24u
#define LLM__PUT(isa, target)                                                                 \
    target static void llm__put_##isa(float *to, size_t stride, const float *from,            \
                                      uint32_t rows) {                                        \
        for (; rows; rows--, to += stride, from += 16) memcpy(to, from, 16 * sizeof *to);     \
    }                                                                                         \
    target static void llm__put_add_##isa(float *to, size_t stride, const float *from,        \
                                          uint32_t rows, float scale) {                       \
        for (; rows; rows--, to += stride, from += 16) {                                      \
            if (rows > LLM__ROWS_AHEAD) llm__prefetch(to + LLM__ROWS_AHEAD * stride);         \
            llm__add_##isa(to, from, scale, 16);                                              \
        }                                                                                     \
    }
LLM__PUT(scalar, )

static void llm__cap_scalar(float *x, uint32_t n, float scale, float cap) {
    const float inverse = cap > 0 ? llm__recip(cap) : 0;
    uint32_t i;
    for (i = 0; i < n; i++) {
        x[i] = llm__mulf(x[i], scale);
        if (cap > 0 && (llm__bits(x[i]) & 0x7fffffffu) <= 0x7f800000u)
            x[i] = llm__mulf(cap, llm__tanh(llm__mulf(x[i], inverse)));
    }
}

static float llm__softmax_scalar(float *s, float most) {
    float lane[16] = {0};
    uint32_t i;
    for (i = 0; i < 64; i++) {
        s[i] = llm__bits(s[i]) == llm__bits(LLM__MASKED) ? 0.0f : llm__exp(llm__subf(s[i], most));
        lane[i % 16] = llm__addf(lane[i % 16], s[i]);
    }
    return llm__tree(lane);
}

static bool llm__mask_scalar(float *s, const float *scale, float factor, uint32_t first,
                             uint32_t last, float *most) {
    bool finite = true;
    uint32_t i;
    *most = LLM__MASKED;
    for (i = 0; i < 64; i++) {
        float f = scale ? llm__mulf(factor, scale[i]) : factor;
        s[i] = i < first || i > last ? LLM__MASKED : llm__mulf(s[i], f);
        *most = *most > s[i] ? *most : s[i];
        finite = finite && llm__finite(s[i]);
    }
    return finite;
}

static float llm__weigh_scalar(int16_t *p, const float *e, const float *scale) {
    float y[64];
    uint32_t i;
    for (i = 0; i < 64; i++) y[i] = llm__bits(e[i]) == 0 ? 0.0f : llm__mulf(e[i], scale[i]);
    return llm__quantize_head_scalar(y, 64, LLM__INT16_MOST, p);
}

/* K of a page: [4 blocks of 16 positions][n / 4 lines]: byte 4 t + i of a line is position t,
   channel 4 g + i. As f16: [4][n][16 positions]. */
static void llm__scores_q8_scalar(float *dot, const int16_t *q, const int8_t *k, uint32_t n,
                                  uint32_t count, ptrdiff_t ahead) {
    uint32_t t, c;
    (void)ahead;
    for (; count; count--, q += n, dot += 64)
        for (t = 0; t < 64; t++) {
            int32_t sum = 0;
            for (c = 0; c < n; c++)
                sum += q[c] * k[(t / 16) * 16 * n + (c / 4) * 64 + 4 * (t % 16) + c % 4];
            dot[t] = (float)sum;
        }
}
static void llm__scores_f16_scalar(float *dot, const float *q, const uint16_t *k, uint32_t n,
                                   uint32_t count) {
    uint32_t t, c;
    for (; count; count--, q += n, dot += 64)
        for (t = 0; t < 64; t++) {
            float sum = 0;
            for (c = 0; c < n; c++)
                sum = llm__addf(
                    sum, llm__mulf(q[c], llm__half_to_float(k[(t / 16 * n + c) * 16 + t % 16])));
            dot[t] = sum;
        }
}

/* In 4 bits a line of K lies in the low or, if its number is odd, the high halves of 64 bytes; a
   line of V has channels 0 .. 7 of its 16 in the low and the others in the high halves of 32 bytes.
   Multipliers: [n / 32][64 positions], those of the first 16 channels in the low halves. */
LLM__INLINE int8_t llm__kv_value(uint8_t codes, const uint8_t *times, uint32_t t, uint32_t c,
                                 uint32_t high) {
    const int32_t m = ((times[c / 32 * 64 + t] >> 4 * (c / 16 % 2) & 15) ^ 8) - 8;
    return (int8_t)(m * llm__kv_book[codes >> 4 * high & 15]);
}
static void llm__unpack_keys_scalar(int8_t *k, const uint8_t *codes, const uint8_t *times,
                                    uint32_t n, ptrdiff_t ahead) {
    uint32_t block, c, i;
    (void)ahead;
    for (block = 0; block < 64; block += 16)
        for (c = 0; c < n; c += 8, codes += 64, k += 128)
            for (i = 0; i < 64; i++) {
                k[i] = llm__kv_value(codes[i], times, block + i / 4, c, 0);
                k[64 + i] = llm__kv_value(codes[i], times, block + i / 4, c, 1);
            }
}
static void llm__unpack_values_scalar(int8_t *v, const uint8_t *codes, const uint8_t *times,
                                      uint32_t n, ptrdiff_t ahead) {
    uint32_t t, c, i;
    (void)ahead;
    for (c = 0; c < n; c += 16)
        for (t = 0; t < 64; t += 4, codes += 32, v += 64)
            for (i = 0; i < 32; i++) {
                v[i] = llm__kv_value(codes[i], times, t + i % 4, c, 0);
                v[32 + i] = llm__kv_value(codes[i], times, t + i % 4, c, 1);
            }
}

/* V of a page: [n / 16 blocks of channels][16 lines]: byte 4 c + i of a line is channel c,
   position 4 g + i. As f16: [64 positions][n]. */
static void llm__values_q8_scalar(float *out, const float *keep, const float *take,
                                  const int16_t *p, const int8_t *v, uint32_t n, uint32_t count,
                                  ptrdiff_t ahead) {
    uint32_t i, t, c;
    (void)ahead;
    for (i = 0; i < count; i++, p += 64, out += n)
        for (c = 0; c < n; c++) {
            int32_t sum = 0;
            for (t = 0; t < 64; t++)
                sum += p[t] * v[c / 16 * 1024 + t / 4 * 64 + 4 * (c % 16) + t % 4];
            out[c] = llm__addf(llm__mulf(out[c], keep[i]), llm__mulf((float)sum, take[i]));
        }
}
static void llm__values_f16_scalar(float *out, const float *keep, const float *take, const float *p,
                                   const uint16_t *v, uint32_t n, uint32_t count, uint32_t first,
                                   uint32_t last) {
    uint32_t i, t, c;
    for (i = 0; i < count; i++, p += 64, out += n)
        for (c = 0; c < n; c++) {
            float sum = 0;
            for (t = first; t <= last; t++)
                sum = llm__addf(sum, llm__mulf(p[t], llm__half_to_float(v[t * n + c])));
            out[c] = llm__addf(llm__mulf(out[c], keep[i]), llm__mulf(sum, take[i]));
        }
}

/* f32 and bf16: a lane per row; products are added in the order of k over a super-block, and the
   sums of the super-blocks in order. */
LLM__INLINE void llm__panel_float_scalar(uint32_t type, float *out, const uint8_t *panel,
                                         uint32_t padded, const llm__input *in, uint32_t row,
                                         uint32_t rows) {
    uint32_t m, k, r, s = llm__float_block(padded);
    for (m = 0; m < rows; m++) {
        const float *x = in->x + (size_t)(row + m) * in->stride;
        for (r = 0; r < 16; r++) {
            float sum = 0, part = 0;
            for (k = 0; k < padded; k++) {
                size_t at = (size_t)k * 16 + r;
                float w = type == LLM_F32 ? llm__float(llm__u32(panel + at * 4))
                                          : llm__bf16(llm__u16(panel + at * 2));
                part = llm__addf(part, llm__mulf(w, x[k]));
                if ((k + 1) % s == 0) sum = llm__addf(sum, part), part = 0;
            }
            out[m * 16 + r] = sum;
        }
    }
}
static void llm__panel_f32_scalar(float *out, const uint8_t *panel, uint32_t padded,
                                  const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_scalar(LLM_F32, out, panel, padded, in, row, rows);
}
static void llm__panel_bf16_scalar(float *out, const uint8_t *panel, uint32_t padded,
                                   const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_scalar(LLM_BF16, out, panel, padded, in, row, rows);
}

/* acc = acc + float(dot) * (scale of the weights * scale of the input), by super-block */
LLM__INLINE void llm__panel_int_scalar(uint32_t type, float *out, const uint8_t *panel,
                                       uint32_t padded, const llm__input *in, uint32_t row,
                                       uint32_t rows) {
    uint32_t s = llm__super_block(padded), m, k, r, b;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++)
        for (r = 0; r < 16; r++) {
            int8_t value[256];
            float w = llm__bf16(llm__u16(panel + ((size_t)b * 16 + r) * 2));
            for (k = 0; k < s; k++)
                value[k] = (int8_t)llm__value(type, panel, padded, r, b * s + k);
            for (m = 0; m < rows; m++) {
                const int8_t *q = in->q + (size_t)(row + m) * in->stride + (size_t)b * s;
                float a = in->scale[(size_t)(row + m) * (in->stride / 64) + b];
                int32_t dot = 0;
                for (k = 0; k < s; k++) dot += value[k] * q[k];
                out[m * 16 + r] =
                    llm__addf(out[m * 16 + r], llm__mulf((float)dot, llm__mulf(w, a)));
            }
        }
}
#define LLM__PANEL_INT_SCALAR(name, type)                                                       \
    static void llm__panel_##name##_scalar(float *out, const uint8_t *panel, uint32_t padded,   \
                                           const llm__input *in, uint32_t row, uint32_t rows) { \
        llm__panel_int_scalar(type, out, panel, padded, in, row, rows);                         \
    }
LLM__PANEL_INT_SCALAR(q8, LLM_Q8)
LLM__PANEL_INT_SCALAR(q6, LLM_Q6)
LLM__PANEL_INT_SCALAR(q5, LLM_Q5)
LLM__PANEL_INT_SCALAR(q4, LLM_Q4)
LLM__PANEL_INT_SCALAR(q3, LLM_Q3)
LLM__PANEL_INT_SCALAR(q2, LLM_Q2)
#undef LLM__PANEL_INT_SCALAR

static void llm__kernels_scalar(llm__kernels *k) {
    k->name = "scalar";
    k->norm = llm__norm_scalar;
    k->rotate = llm__rotate_scalar;
    k->quantize = llm__quantize_scalar;
    k->quantize_head = llm__quantize_head_scalar;
    k->rope = llm__rope_scalar;
    k->add = llm__add_scalar;
    k->blend = llm__blend_scalar;
    k->put = llm__put_scalar;
    k->put_add = llm__put_add_scalar;
    k->gate = llm__gate_scalar;
    k->cap = llm__cap_scalar;
    k->softmax = llm__softmax_scalar;
    k->mask = llm__mask_scalar;
    k->weigh = llm__weigh_scalar;
    k->scores_q8 = llm__scores_q8_scalar;
    k->scores_f16 = llm__scores_f16_scalar;
    k->unpack_keys = llm__unpack_keys_scalar;
    k->unpack_values = llm__unpack_values_scalar;
    k->values_q8 = llm__values_q8_scalar;
    k->values_f16 = llm__values_f16_scalar;
    k->panel[LLM_F32] = llm__panel_f32_scalar;
    k->panel[LLM_BF16] = llm__panel_bf16_scalar;
    k->panel[LLM_Q8] = llm__panel_q8_scalar;
    k->panel[LLM_Q6] = llm__panel_q6_scalar;
    k->panel[LLM_Q5] = llm__panel_q5_scalar;
    k->panel[LLM_Q4] = llm__panel_q4_scalar;
    k->panel[LLM_Q3] = llm__panel_q3_scalar;
    k->panel[LLM_Q2] = llm__panel_q2_scalar;
}

/* ---- >>avx2 ---------------------------------------------------------------- */
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(LLM_NO_AVX2)
#define LLM__HAVE_AVX2 1
#include <immintrin.h>
#if !defined(_MSC_VER) || defined(__clang__)
#include <cpuid.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LLM__XSAVE       __attribute__((target("xsave")))
#define LLM__AVX2        __attribute__((target("avx2,f16c")))
#define LLM__AVX2_INLINE LLM__INLINE LLM__AVX2
#define LLM__PREFETCH(p) __builtin_prefetch(p, 0, 3)
#else
#define LLM__XSAVE
#define LLM__AVX2
#define LLM__AVX2_INLINE static __forceinline
#define LLM__PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#endif

/* Compilers that know AVX-VNNI and AMX. */
#if defined(__clang__)
#define LLM__COMPILER_OF_2021 (__clang_major__ >= 12)
#elif defined(__GNUC__)
#define LLM__COMPILER_OF_2021 (__GNUC__ >= 11)
#else
#define LLM__COMPILER_OF_2021 (_MSC_VER >= 1930)
#endif

/* Linux keeps the registers of AMX, eight tiles of 1 KB, for those who asked. */
#if defined(__linux__) && !defined(LLM_NO_AVX512) && !defined(LLM_NO_AMX) && LLM__COMPILER_OF_2021
#define LLM__HAVE_AMX 1
#define LLM__XCOMP_SUPPORTED 0x1021L
#define LLM__XCOMP_ASK       0x1023L
#define LLM__XCOMP_TILES     18L

static bool llm__amx_known(void) {
    uint64_t features = 0;
    return llm__syscall(SYS_arch_prctl, LLM__XCOMP_SUPPORTED, &features) == 0 &&
           (features >> LLM__XCOMP_TILES & 1);
}
static bool llm__amx_allowed(void) {
    return llm__syscall(SYS_arch_prctl, LLM__XCOMP_ASK, LLM__XCOMP_TILES) == 0;
}
#endif

enum { LLM__CPU_AVX2 = 1, LLM__CPU_AVX_VNNI = 2, LLM__CPU_AVX512 = 4, LLM__CPU_AMX = 8 };

LLM__INLINE void llm__cpuid(uint32_t leaf, uint32_t part, uint32_t out[4]) {
#if defined(_MSC_VER) && !defined(__clang__)
    int r[4];
    __cpuid(r, 0);
    memset(out, 0, 4 * sizeof *out);
    if ((uint32_t)r[0] < leaf) return;
    __cpuidex(r, (int)leaf, (int)part);
    memcpy(out, r, sizeof r);
#else
    if (!__get_cpuid_count(leaf, part, &out[0], &out[1], &out[2], &out[3]))
        memset(out, 0, 4 * sizeof *out);
#endif
}

/* What the processor has and the operating system saves: AVX2 with F16C; AVX-VNNI; AVX-512 F, DQ,
   BW and VL with VNNI; AMX with INT8. */
LLM__XSAVE static unsigned llm__cpu(void) {
    const uint32_t most = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    uint32_t one[4], seven[4], more[4] = {0}, xcr0;
    unsigned has = LLM__CPU_AVX2;
    llm__cpuid(1, 0, one);
    llm__cpuid(7, 0, seven);
    if (seven[0] >= 1) llm__cpuid(7, 1, more);
    if (!(one[2] >> 27 & 1)) return 0;
    xcr0 = (uint32_t)_xgetbv(0);
    if ((xcr0 & 6) != 6 || !(one[2] >> 29 & 1) || !(seven[1] >> 5 & 1)) return 0;
    if (more[0] >> 4 & 1) has |= LLM__CPU_AVX_VNNI;
    if ((xcr0 & 0xe6) != 0xe6 || (seven[1] & most) != most || !(seven[2] >> 11 & 1)) return has;
    has |= LLM__CPU_AVX512;
#ifdef LLM__HAVE_AMX
    if ((xcr0 >> 17 & 3) == 3 && (seven[3] >> 24 & 3) == 3 && llm__amx_known())
        has |= LLM__CPU_AMX;
#endif
    return has;
}

/* How far ahead to ask for lines of a panel, each once and in order, parameters and codes alike: a
   line asked for by no one costs a miss. Past the end of the map it is only a hint. AMD's processors
   want them in the first cache; Intel's, whose first cache waits for few lines at once, in the
   second. */
#define LLM__AHEAD         1280
#define LLM__AHEAD_DISTANT 8192

LLM__INLINE void llm__ask_for(const llm__input *in, const uint8_t *weights) {
    if (in->distant) llm__prefetch(weights + LLM__AHEAD_DISTANT);
    else LLM__PREFETCH(weights + LLM__AHEAD);
}

LLM__AVX2_INLINE __m256 llm__mul8(__m256 a, __m256 b) {
    __m256 p = _mm256_mul_ps(a, b);
    LLM__PIN(p);
    return p;
}
LLM__AVX2_INLINE __m256 llm__add8(__m256 a, __m256 b) {
    __m256 s = _mm256_add_ps(a, b);
    LLM__PIN(s);
    return s;
}
LLM__AVX2_INLINE __m256 llm__sub8(__m256 a, __m256 b) {
    __m256 s = _mm256_sub_ps(a, b);
    LLM__PIN(s);
    return s;
}
LLM__AVX2_INLINE __m256i llm__load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
LLM__AVX2_INLINE __m256i llm__both128(const void *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
LLM__AVX2_INLINE __m256i llm__four8(const void *p) { /* 4 bytes, eight times */
    return _mm256_set1_epi32((int32_t)llm__u32(p));
}
LLM__AVX2_INLINE __m256i llm__four16(const void *p) { /* 4 x 16 bits, four times */
    return _mm256_set1_epi64x((int64_t)llm__u64(p));
}

/* The fixed tree, from lanes 0 .. 7 in a and 8 .. 15 in b. */
LLM__AVX2_INLINE float llm__tree8(__m256 a, __m256 b) {
    __m128 x, y;
    a = llm__add8(a, b);
    x = _mm256_castps256_ps128(a);
    y = _mm256_extractf128_ps(a, 1);
    x = _mm_add_ps(x, y);
    LLM__PIN(x);
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    LLM__PIN(x);
    x = _mm_add_ss(x, _mm_shuffle_ps(x, x, 1));
    LLM__PIN(x);
    return _mm_cvtss_f32(x);
}

/* x = n ln 2 + r, and 2^n. */
LLM__AVX2_INLINE __m256 llm__reduce8(__m256 x, __m256 *power) {
    __m256 n, r;
    __m256i i;
    x = _mm256_max_ps(x, _mm256_set1_ps(LLM__EXP_LEAST));
    x = _mm256_min_ps(x, _mm256_set1_ps(LLM__EXP_MOST));
    i = _mm256_cvtps_epi32(llm__mul8(x, _mm256_set1_ps(LLM__LOG2E)));
    n = _mm256_cvtepi32_ps(i);
    r = llm__sub8(x, llm__mul8(n, _mm256_set1_ps(LLM__LN2_HI)));
    r = llm__sub8(r, llm__mul8(n, _mm256_set1_ps(LLM__LN2_LO)));
    i = _mm256_slli_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(127)), 23);
    *power = _mm256_castsi256_ps(i);
    return r;
}
LLM__AVX2_INLINE __m256 llm__exp8(__m256 x) {
    __m256 power, r = llm__reduce8(x, &power), p = _mm256_set1_ps(1.9875691500e-4f);
    p = llm__add8(llm__mul8(p, r), _mm256_set1_ps(1.3981999507e-3f));
    p = llm__add8(llm__mul8(p, r), _mm256_set1_ps(8.3334519073e-3f));
    p = llm__add8(llm__mul8(p, r), _mm256_set1_ps(4.1665795894e-2f));
    p = llm__add8(llm__mul8(p, r), _mm256_set1_ps(1.6666665459e-1f));
    p = llm__add8(llm__mul8(p, r), _mm256_set1_ps(5.0000001201e-1f));
    p = llm__add8(llm__mul8(llm__mul8(p, r), r), r);
    return llm__mul8(llm__add8(p, _mm256_set1_ps(1.0f)), power);
}
LLM__AVX2_INLINE __m256 llm__recip8(__m256 x) {
    const __m256 two = _mm256_set1_ps(2.0f);
    __m256 y = _mm256_castsi256_ps(
        _mm256_sub_epi32(_mm256_set1_epi32(0x7ef311c3), _mm256_castps_si256(x)));
    y = llm__mul8(y, llm__sub8(two, llm__mul8(x, y)));
    y = llm__mul8(y, llm__sub8(two, llm__mul8(x, y)));
    return llm__mul8(y, llm__sub8(two, llm__mul8(x, y)));
}
LLM__AVX2_INLINE __m256 llm__silu8(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 minus = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
    return llm__mul8(x, llm__recip8(llm__add8(one, llm__exp8(minus))));
}
LLM__AVX2_INLINE __m256 llm__tanh8(__m256 u) {
    const __m256 one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    __m256 e = llm__add8(llm__exp8(llm__mul8(two, u)), one);
    return llm__sub8(one, llm__mul8(two, llm__recip8(e)));
}
LLM__AVX2_INLINE __m256 llm__gelu_tanh8(__m256 x) {
    __m256 cube = llm__mul8(llm__mul8(x, x), x), u;
    u = llm__mul8(_mm256_set1_ps(0.7978845608f),
                  llm__add8(x, llm__mul8(_mm256_set1_ps(0.044715f), cube)));
    return llm__mul8(llm__mul8(_mm256_set1_ps(0.5f), x),
                     llm__add8(_mm256_set1_ps(1.0f), llm__tanh8(u)));
}

LLM__AVX2 static void llm__norm_avx2(float *y, const float *x, const float *gain, uint32_t n,
                                     float inverse_n, float epsilon) {
    __m256 a = _mm256_setzero_ps(), b = a, r;
    uint32_t i;
    for (i = 0; i < n; i += 16) {
        __m256 u = _mm256_loadu_ps(x + i), v = _mm256_loadu_ps(x + i + 8);
        a = llm__add8(a, llm__mul8(u, u));
        b = llm__add8(b, llm__mul8(v, v));
    }
    r = _mm256_set1_ps(
        llm__rsqrt(llm__addf(llm__mulf(llm__tree8(a, b), inverse_n), epsilon)));
    for (i = 0; i < n; i += 8)
        _mm256_storeu_ps(y + i, llm__mul8(llm__mul8(_mm256_loadu_ps(x + i), r),
                                          _mm256_loadu_ps(gain + i)));
}

/* One butterfly stage inside eight lanes: lanes with bit h get x[j ^ h] - x[j]. */
LLM__AVX2_INLINE __m256 llm__butterfly8(__m256 x, __m256 swapped, __m256 sign) {
    return llm__add8(swapped, _mm256_xor_ps(x, sign));
}

LLM__AVX2 static void llm__rotate_avx2(float *x, uint32_t n, uint32_t block) {
    const __m256 m0 = _mm256_setzero_ps(), m1 = _mm256_set1_ps(-0.0f);
    const __m256 s1 = _mm256_blend_ps(m0, m1, 0xaa), s2 = _mm256_blend_ps(m0, m1, 0xcc),
                 s4 = _mm256_blend_ps(m0, m1, 0xf0);
    const __m256 scale =
        _mm256_set1_ps(block == 64 ? 0.125f : block == 32 ? 0.17677669529f : 0.25f);
    uint32_t i, j, h, vectors = block / 8;
    for (i = 0; i < n; i += block) {
        __m256 v[8];
        for (j = 0; j < vectors; j++) {
            __m256 t = _mm256_loadu_ps(x + i + 8 * j);
            t = llm__butterfly8(t, _mm256_permute_ps(t, 0xb1), s1);
            t = llm__butterfly8(t, _mm256_permute_ps(t, 0x4e), s2);
            v[j] = llm__butterfly8(t, _mm256_permute2f128_ps(t, t, 1), s4);
        }
        for (h = 1; h < vectors; h *= 2)
            for (j = 0; j < vectors; j++)
                if (!(j & h)) {
                    __m256 a = v[j], b = v[j + h];
                    v[j] = llm__add8(a, b);
                    v[j + h] = llm__sub8(a, b);
                }
        for (j = 0; j < vectors; j++) _mm256_storeu_ps(x + i + 8 * j, llm__mul8(v[j], scale));
    }
}

/* Bits of the largest |x[i]|. */
LLM__AVX2_INLINE uint32_t llm__most_avx2(const float *x, uint32_t n) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    __m128i half;
    uint32_t i;
    for (i = 0; i < n; i += 8)
        most = _mm256_max_epi32(most, _mm256_and_si256(llm__load256(x + i), mask));
    half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(half);
}

/* 16 floats times factor, to 16-bit integers in order. */
LLM__AVX2_INLINE __m256i llm__round16(const float *x, __m256 factor) {
    __m256i a = _mm256_cvtps_epi32(llm__mul8(_mm256_loadu_ps(x), factor));
    __m256i b = _mm256_cvtps_epi32(llm__mul8(_mm256_loadu_ps(x + 8), factor));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
}

LLM__AVX2 static void llm__quantize_avx2(const float *x, uint32_t n, uint32_t s, int8_t *q,
                                         int16_t *wide, float *scale, int16_t *sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    uint32_t i, j;
    for (i = 0; i < n; i += s) {
        float factor = llm__scale_of(llm__most_avx2(x + i, s), LLM__INT8_MOST, LLM__INVERSE_127,
                                     &scale[i / s]);
        for (j = i; j < i + s; j += 16) {
            __m256i v = factor == 0 ? _mm256_setzero_si256()
                                    : llm__round16(x + j, _mm256_set1_ps(factor));
            __m256i sum = _mm256_madd_epi16(v, ones);
            __m128i t =
                _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
            t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
            t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
            sums[j / 16] = (int16_t)_mm_cvtsi128_si32(t);
            _mm256_storeu_si256((__m256i *)(void *)(wide + j), v);
            v = _mm256_permute4x64_epi64(_mm256_packs_epi16(v, v), 0xd8);
            _mm_storeu_si128((__m128i *)(void *)(q + j), _mm256_castsi256_si128(v));
        }
    }
}

LLM__AVX2 static float llm__quantize_head_avx2(const float *x, uint32_t n, float limit,
                                               int16_t *q) {
    float scale,
        factor = llm__scale_of(llm__most_avx2(x, n), limit,
                               limit > 128 ? LLM__INVERSE_16256 : LLM__INVERSE_127, &scale);
    uint32_t i;
    for (i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(q + i),
                            factor == 0 ? _mm256_setzero_si256()
                                        : llm__round16(x + i, _mm256_set1_ps(factor)));
    return scale;
}

LLM__AVX2 static void llm__rope_avx2(float *x, const float *turn, uint32_t half) {
    uint32_t i;
    for (i = 0; i + 8 <= half; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
        __m256 c = _mm256_loadu_ps(turn + i), s = _mm256_loadu_ps(turn + i + half);
        _mm256_storeu_ps(x + i, llm__sub8(llm__mul8(a, c), llm__mul8(b, s)));
        _mm256_storeu_ps(x + i + half, llm__add8(llm__mul8(b, c), llm__mul8(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half], c = turn[i], s = turn[i + half];
        x[i] = llm__subf(llm__mulf(a, c), llm__mulf(b, s));
        x[i + half] = llm__addf(llm__mulf(b, c), llm__mulf(a, s));
    }
}

LLM__AVX2 static void llm__add_avx2(float *y, const float *x, float scale, uint32_t n) {
    const __m256 f = _mm256_set1_ps(scale);
    uint32_t i;
    for (i = 0; i < n; i += 8)
        _mm256_storeu_ps(
            y + i, llm__add8(_mm256_loadu_ps(y + i), llm__mul8(_mm256_loadu_ps(x + i), f)));
}
LLM__PUT(avx2, LLM__AVX2)

LLM__AVX2 static void llm__blend_avx2(float *y, float a, const float *x, float b, uint32_t n) {
    const __m256 f = _mm256_set1_ps(a), g = _mm256_set1_ps(b);
    uint32_t i;
    for (i = 0; i < n; i += 8)
        _mm256_storeu_ps(y + i, llm__add8(llm__mul8(_mm256_loadu_ps(y + i), f),
                                          llm__mul8(_mm256_loadu_ps(x + i), g)));
}

LLM__AVX2 static void llm__gate_avx2(float *y, const float *gate, const float *up, uint32_t n,
                                     uint32_t activation) {
    uint32_t i;
    if (activation == LLM__ACT_SILU)
        for (i = 0; i < n; i += 8)
            _mm256_storeu_ps(
                y + i, llm__mul8(llm__silu8(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
    else if (activation == LLM__ACT_GELU_TANH)
        for (i = 0; i < n; i += 8)
            _mm256_storeu_ps(y + i, llm__mul8(llm__gelu_tanh8(_mm256_loadu_ps(gate + i)),
                                              _mm256_loadu_ps(up + i)));
    else
        llm__gate_scalar(y, gate, up, n, activation);
}

LLM__AVX2 static void llm__cap_avx2(float *x, uint32_t n, float scale, float cap) {
    const __m256 f = _mm256_set1_ps(scale), c = _mm256_set1_ps(cap);
    const __m256 inverse = _mm256_set1_ps(cap > 0 ? llm__recip(cap) : 0);
    uint32_t i;
    for (i = 0; i < n; i += 8) {
        __m256 y = llm__mul8(_mm256_loadu_ps(x + i), f);
        if (cap > 0) {
            const __m256i bits =
                _mm256_and_si256(_mm256_castps_si256(y), _mm256_set1_epi32(0x7fffffff));
            const __m256i nan = _mm256_cmpgt_epi32(bits, _mm256_set1_epi32(0x7f800000));
            y = _mm256_blendv_ps(llm__mul8(c, llm__tanh8(llm__mul8(y, inverse))), y,
                                 _mm256_castsi256_ps(nan));
        }
        _mm256_storeu_ps(x + i, y);
    }
}

/* llm__exp8 of eight registers side by side, so that their chains overlap. */
#define LLM__EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LLM__BEGIN(j)                                                               \
    __m256 p##j = _mm256_set1_ps(1.9875691500e-4f), power##j,                       \
           r##j = llm__reduce8(llm__sub8(_mm256_loadu_ps(s + 8 * j), m), &power##j);
#define LLM__STEP(j) p##j = llm__add8(llm__mul8(p##j, r##j), c);
#define LLM__END(j)                                                                                 \
    p##j = llm__add8(llm__mul8(llm__mul8(p##j, r##j), r##j), r##j);                                 \
    p##j = llm__mul8(llm__add8(p##j, _mm256_set1_ps(1.0f)), power##j);                              \
    out = _mm256_cmpeq_epi32(llm__load256(s + 8 * j), masked);                                      \
    p##j = _mm256_andnot_ps(_mm256_castsi256_ps(out), p##j);                                        \
    _mm256_storeu_ps(s + 8 * j, p##j);                                                              \
    if (j % 2) odd = llm__add8(odd, p##j);                                                          \
    else even = llm__add8(even, p##j);
LLM__AVX2 static float llm__softmax_avx2(float *s, float most) {
    const __m256i masked = _mm256_castps_si256(_mm256_set1_ps(LLM__MASKED));
    const __m256 m = _mm256_set1_ps(most);
    __m256 even = _mm256_setzero_ps(), odd = even, c;
    __m256i out;
    LLM__EIGHT(LLM__BEGIN)
    c = _mm256_set1_ps(1.3981999507e-3f);
    LLM__EIGHT(LLM__STEP)
    c = _mm256_set1_ps(8.3334519073e-3f);
    LLM__EIGHT(LLM__STEP)
    c = _mm256_set1_ps(4.1665795894e-2f);
    LLM__EIGHT(LLM__STEP)
    c = _mm256_set1_ps(1.6666665459e-1f);
    LLM__EIGHT(LLM__STEP)
    c = _mm256_set1_ps(5.0000001201e-1f);
    LLM__EIGHT(LLM__STEP)
    LLM__EIGHT(LLM__END)
    return llm__tree8(even, odd);
}
#undef LLM__EIGHT
#undef LLM__BEGIN
#undef LLM__STEP
#undef LLM__END

LLM__AVX2 static bool llm__mask_avx2(float *s, const float *scale, float factor, uint32_t first,
                                     uint32_t last, float *most_of) {
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    __m256i bad = _mm256_setzero_si256();
    const __m256 none = _mm256_set1_ps(LLM__MASKED);
    const __m256i low = _mm256_set1_epi32((int32_t)first), high = _mm256_set1_epi32((int32_t)last);
    __m256 most = none, f = _mm256_set1_ps(factor);
    __m256i at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m128 half;
    uint32_t i;
    for (i = 0; i < 64; i += 8) {
        __m256 g = scale ? llm__mul8(f, _mm256_loadu_ps(scale + i)) : f;
        __m256 x = llm__mul8(_mm256_loadu_ps(s + i), g);
        __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(low, at), _mm256_cmpgt_epi32(at, high));
        x = _mm256_blendv_ps(x, none, _mm256_castsi256_ps(out));
        _mm256_storeu_ps(s + i, x);
        most = _mm256_max_ps(most, x);
        out = _mm256_and_si256(_mm256_castps_si256(x), exponent);
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(out, exponent));
        at = _mm256_add_epi32(at, _mm256_set1_epi32(8));
    }
    half = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    *most_of = _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
    return _mm256_testz_si256(bad, bad) != 0;
}

LLM__AVX2 static float llm__weigh_avx2(int16_t *p, const float *e, const float *scale) {
    float y[64];
    uint32_t i;
    for (i = 0; i < 64; i += 8) {
        __m256 x = _mm256_loadu_ps(e + i);
        __m256i zero = _mm256_cmpeq_epi32(_mm256_castps_si256(x), _mm256_setzero_si256());
        x = llm__mul8(x, _mm256_loadu_ps(scale + i));
        _mm256_storeu_ps(y + i, _mm256_andnot_ps(_mm256_castsi256_ps(zero), x));
    }
    return llm__quantize_head_avx2(y, 64, LLM__INT16_MOST, p);
}

/* sums = the same * keep + x * take */
LLM__AVX2_INLINE void llm__keep8(float *sums, float keep, float take, __m256 x) {
    _mm256_storeu_ps(sums, llm__add8(llm__mul8(_mm256_loadu_ps(sums), _mm256_set1_ps(keep)),
                                     llm__mul8(x, _mm256_set1_ps(take))));
}

/* For `count` queries, a constant of 1 to 4. */
#define LLM__FOUR_QUERIES(X) \
    X(0)                     \
    if (count > 1) { X(1) }  \
    if (count > 2) { X(2) }  \
    if (count > 3) { X(3) }

/* Dots of rows x of 16-bit integers, `stride` apart, with eight rows of `lines` lines of int8: into
   rows of out, `width` apart; keep: added to what is there, as values are. */
#define LLM__DOT_DECLARE(t)                                 \
    const int16_t *x##t = x + (t < count ? t : 0) * stride; \
    __m256i a##t = _mm256_setzero_si256(), b##t = a##t;
#define LLM__DOT_LINE(t)                                     \
    y = llm__four16(x##t + 4 * g);                           \
    a##t = _mm256_add_epi32(a##t, _mm256_madd_epi16(y, w0)); \
    LLM__PIN(a##t); /* GCC would mix the queries, and spill */ \
    b##t = _mm256_add_epi32(b##t, _mm256_madd_epi16(y, w1)); \
    LLM__PIN(b##t);
#define LLM__DOT_END(t)                                                                            \
    dot = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(a##t, b##t), 0xd8));       \
    if (keep) llm__keep8(out + t * width, keep[t], take[t], dot);                                  \
    else _mm256_storeu_ps(out + t * width, dot);
LLM__AVX2_INLINE void llm__dots8(uint32_t count, float *out, uint32_t width, const float *keep,
                                 const float *take, const int8_t *w, const int16_t *x,
                                 uint32_t stride, uint32_t lines, ptrdiff_t ahead) {
    LLM__DOT_DECLARE(0) LLM__DOT_DECLARE(1) LLM__DOT_DECLARE(2) LLM__DOT_DECLARE(3)
    __m256i w0, w1, y;
    __m256 dot;
    uint32_t g;
    for (g = 0; g < lines; g++, w += 64) {
        llm__prefetch(w + ahead);
        w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)w));
        w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + 16)));
        LLM__FOUR_QUERIES(LLM__DOT_LINE)
    }
    LLM__FOUR_QUERIES(LLM__DOT_END)
}
#undef LLM__DOT_DECLARE
#undef LLM__DOT_LINE
#undef LLM__DOT_END

LLM__AVX2_INLINE void llm__scores4_avx2(uint32_t count, float *dot, const int16_t *q,
                                        const int8_t *k, uint32_t n, ptrdiff_t ahead) {
    uint32_t t;
    for (t = 0; t < 64; t += 8, k += t % 16 ? 32 : 16 * n - 32)
        llm__dots8(count, dot + t, 64, NULL, NULL, k, q, n, n / 4, t % 16 ? 0 : ahead);
}
LLM__AVX2_INLINE void llm__values4_avx2(uint32_t count, float *out, const float *keep,
                                        const float *take, const int16_t *p, const int8_t *v,
                                        uint32_t n, ptrdiff_t ahead) {
    uint32_t c;
    for (c = 0; c < n; c += 8, v += c % 16 ? 32 : 1024 - 32)
        llm__dots8(count, out + c, n, keep, take, v, p, 64, 16, c % 16 ? 0 : ahead);
}

/* call(4) as often as there are four, then call(1 .. 3). */
#define LLM__BY_FOUR(call, count)       \
    for (; count >= 4; count -= 4) {    \
        call(4)                         \
    }                                   \
    if (count == 3) { call(3) }         \
    else if (count == 2) { call(2) }    \
    else if (count == 1) { call(1) }

LLM__AVX2 static void llm__scores_q8_avx2(float *dot, const int16_t *q, const int8_t *k,
                                          uint32_t n, uint32_t count, ptrdiff_t ahead) {
#define LLM__CALL(some)                       \
    llm__scores4_avx2(some, dot, q, k, n, ahead);    \
    dot += 64 * some, q += n * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}
LLM__AVX2 static void llm__values_q8_avx2(float *out, const float *keep, const float *take,
                                          const int16_t *p, const int8_t *v, uint32_t n,
                                          uint32_t count, ptrdiff_t ahead) {
#define LLM__CALL(some)                                   \
    llm__values4_avx2(some, out, keep, take, p, v, n, ahead);    \
    out += n * some, keep += some, take += some, p += 64 * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}

/* Codes, one in the low half of each byte and anything in the high, times m [32]: 7 * 18 fits a
   byte, so the low bytes of 16-bit products will do. */
LLM__AVX2_INLINE void llm__unpack32_avx2(int8_t *to, __m256i codes, __m256i book, __m256i m) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i u = _mm256_shuffle_epi8(book, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
    const __m256i even = _mm256_and_si256(_mm256_mullo_epi16(u, m), low);
    const __m256i odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, u), _mm256_srli_epi16(m, 8));
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_or_si256(even, odd));
}
/* Multipliers in the low halves of bytes, with their sign. */
LLM__AVX2_INLINE __m256i llm__times_avx2(__m256i m) {
    const __m256i eight = _mm256_set1_epi8(8);
    m = _mm256_and_si256(m, _mm256_set1_epi8(15));
    return _mm256_sub_epi8(_mm256_xor_si256(m, eight), eight);
}
LLM__AVX2_INLINE __m256i llm__kv_book_avx2(void) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)llm__kv_book));
}

LLM__AVX2 static void llm__unpack_keys_avx2(int8_t *k, const uint8_t *codes, const uint8_t *times,
                                            uint32_t n, ptrdiff_t ahead) {
    const __m256i book = llm__kv_book_avx2(), four = _mm256_set1_epi8(4);
    const __m256i first = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4,
                                           4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const __m256i second = _mm256_add_epi8(first, _mm256_add_epi8(four, four));
    uint32_t block, c, i;
    for (block = 0; block < 64; block += 16)
        for (c = 0; c < n; c += 16) {
            __m256i m = _mm256_broadcastsi128_si256(_mm_loadu_si128(
                (const __m128i *)(const void *)(times + c / 32 * 64 + block)));
            __m256i m0, m1;
            m = llm__times_avx2(c % 32 ? _mm256_srli_epi16(m, 4) : m);
            m0 = _mm256_shuffle_epi8(m, first), m1 = _mm256_shuffle_epi8(m, second);
            for (i = 0; i < 2; i++, codes += 64, k += 128) {
                const __m256i x0 = llm__load256(codes), x1 = llm__load256(codes + 32);
                llm__prefetch(codes + ahead);
                llm__unpack32_avx2(k, x0, book, m0);
                llm__unpack32_avx2(k + 32, x1, book, m1);
                llm__unpack32_avx2(k + 64, _mm256_srli_epi16(x0, 4), book, m0);
                llm__unpack32_avx2(k + 96, _mm256_srli_epi16(x1, 4), book, m1);
            }
        }
}
LLM__AVX2 static void llm__unpack_values_avx2(int8_t *v, const uint8_t *codes, const uint8_t *times,
                                              uint32_t n, ptrdiff_t ahead) {
    const __m256i book = llm__kv_book_avx2();
    uint32_t t, c;
    for (c = 0; c < n; c += 16)
        for (t = 0; t < 64; t += 4, codes += 32, v += 64) {
            const uint32_t four = llm__u32(times + c / 32 * 64 + t);
            const __m256i x = llm__load256(codes);
            const __m256i m =
                llm__times_avx2(_mm256_set1_epi32((int32_t)(c % 32 ? four >> 4 : four)));
            if (t % 8 == 0) llm__prefetch(codes + ahead);
            llm__unpack32_avx2(v, x, book, m);
            llm__unpack32_avx2(v + 32, _mm256_srli_epi16(x, 4), book, m);
        }
}

LLM__AVX2_INLINE __m256 llm__half8(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
/* Eight positions of a page, a product after the other; then eight channels. */
LLM__AVX2_INLINE void llm__scores4_f16_avx2(uint32_t count, float *dot, const float *q,
                                            const uint16_t *k, uint32_t n) {
    uint32_t t, c;
    for (t = 0; t < 64; t += 8, k += t % 16 ? 8 : 16 * n - 8) {
        __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0, w;
        for (c = 0; c < n; c++) {
            w = llm__half8(k + 16 * c);
#define LLM__ADD_LINE(i) a##i = llm__add8(a##i, llm__mul8(_mm256_set1_ps(q[i * n + c]), w));
            LLM__FOUR_QUERIES(LLM__ADD_LINE)
#undef LLM__ADD_LINE
        }
#define LLM__END(i) _mm256_storeu_ps(dot + 64 * i + t, a##i);
        LLM__FOUR_QUERIES(LLM__END)
#undef LLM__END
    }
}
LLM__AVX2_INLINE void llm__values4_f16_avx2(uint32_t count, float *out, const float *keep,
                                            const float *take, const float *p, const uint16_t *v,
                                            uint32_t n, uint32_t first, uint32_t last) {
    uint32_t t, c;
    for (c = 0; c < n; c += 8) {
        __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0, w;
        for (t = first; t <= last; t++) {
            w = llm__half8(v + t * n + c);
#define LLM__ADD_LINE(i) a##i = llm__add8(a##i, llm__mul8(_mm256_set1_ps(p[64 * i + t]), w));
            LLM__FOUR_QUERIES(LLM__ADD_LINE)
#undef LLM__ADD_LINE
        }
#define LLM__END(i) llm__keep8(out + i * n + c, keep[i], take[i], a##i);
        LLM__FOUR_QUERIES(LLM__END)
#undef LLM__END
    }
}
LLM__AVX2 static void llm__scores_f16_avx2(float *dot, const float *q, const uint16_t *k,
                                           uint32_t n, uint32_t count) {
#define LLM__CALL(some)                           \
    llm__scores4_f16_avx2(some, dot, q, k, n);    \
    dot += 64 * some, q += n * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}
LLM__AVX2 static void llm__values_f16_avx2(float *out, const float *keep, const float *take,
                                           const float *p, const uint16_t *v, uint32_t n,
                                           uint32_t count, uint32_t first, uint32_t last) {
#define LLM__CALL(some)                                                    \
    llm__values4_f16_avx2(some, out, keep, take, p, v, n, first, last);    \
    out += n * some, keep += some, take += some, p += 64 * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}

/* ---- f32 and bf16 panels ---- */

LLM__AVX2_INLINE __m256 llm__weight8(uint32_t type, const uint8_t *p) {
    if (type == LLM_F32) return _mm256_castsi256_ps(llm__load256(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
LLM__AVX2_INLINE void llm__panel_float_avx2(uint32_t type, float *out, const uint8_t *panel,
                                            uint32_t padded, const llm__input *in, uint32_t row,
                                            uint32_t rows) {
    const uint32_t half = type == LLM_F32 ? 32 : 16, s = llm__float_block(padded);
    uint32_t m, k, end;
    for (m = 0; m < rows; m += 2) {
        const float *x = in->x + (size_t)(row + m) * in->stride;
        const float *y = m + 1 < rows ? x + in->stride : x;
        const uint8_t *w = panel;
        __m256 a0 = _mm256_setzero_ps(), a1 = a0, b0 = a0, b1 = a0;
        for (k = 0, end = s; end <= padded; end += s) {
            __m256 c0 = _mm256_setzero_ps(), c1 = c0, d0 = c0, d1 = c0;
            for (; k < end; k++, w += 2 * half) {
                __m256 w0 = llm__weight8(type, w), w1 = llm__weight8(type, w + half);
                __m256 u = _mm256_set1_ps(x[k]), v = _mm256_set1_ps(y[k]);
                if (m == 0) llm__ask_for(in, w);
                c0 = llm__add8(c0, llm__mul8(w0, u));
                c1 = llm__add8(c1, llm__mul8(w1, u));
                d0 = llm__add8(d0, llm__mul8(w0, v));
                d1 = llm__add8(d1, llm__mul8(w1, v));
            }
            a0 = llm__add8(a0, c0);
            a1 = llm__add8(a1, c1);
            b0 = llm__add8(b0, d0);
            b1 = llm__add8(b1, d1);
        }
        _mm256_storeu_ps(out + m * 16, a0);
        _mm256_storeu_ps(out + m * 16 + 8, a1);
        if (m + 1 < rows) {
            _mm256_storeu_ps(out + m * 16 + 16, b0);
            _mm256_storeu_ps(out + m * 16 + 24, b1);
        }
    }
}

/* ---- quantised panels: what a super-block ends with ---- */

/* out[8] += float(dot) * (w * a) */
LLM__AVX2_INLINE void llm__scaled_add8(float *out, __m256i dot, __m256 w, float a) {
    __m256 f = llm__mul8(w, _mm256_set1_ps(a));
    _mm256_storeu_ps(out, llm__add8(_mm256_loadu_ps(out), llm__mul8(_mm256_cvtepi32_ps(dot), f)));
}
LLM__AVX2_INLINE __m256 llm__scales8(const uint8_t *p) { return llm__weight8(LLM_BF16, p); }

/* ---- one row: straight from the packed codes ---- */

/* Codes of group i (0 .. 3) of block 2 pair + b of a record, of 8 rows at once, as U bytes. */
LLM__AVX2_INLINE __m256i llm__codes_avx2(uint32_t type, const uint8_t *record, uint32_t half,
                                         uint32_t pair, uint32_t b, uint32_t i, __m256i u) {
    const uint8_t *p = record + 32 * half;
    __m256i v, h;
    if (type == LLM_Q3 || type == LLM_Q2) {
        v = llm__load256(p + (llm__formats[type].bits - 2) * 128 + 64 * (2 * pair + b));
        v = _mm256_and_si256(_mm256_srli_epi16(v, (int)(2 * i)), _mm256_set1_epi8(3));
        if (type == LLM_Q2) return v;
        h = llm__load256(p + 64 * pair);
        h = _mm256_slli_epi16(_mm256_srli_epi16(h, (int)(4 * b + i)), 2);
        v = _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(4)));
        return _mm256_shuffle_epi8(u, v);
    }
    v = llm__load256(p + (llm__formats[type].bits - 4) * 128 + 64 * (4 * pair + 2 * b + i / 2));
    if (i % 2) v = _mm256_srli_epi16(v, 4);
    v = _mm256_and_si256(v, _mm256_set1_epi8(15));
    if (type == LLM_Q4) return _mm256_shuffle_epi8(u, v);
    if (type == LLM_Q5) {
        h = llm__load256(p + 64 * pair);
        h = b ? _mm256_srli_epi16(h, (int)i) : _mm256_slli_epi16(h, (int)(4 - i));
        return _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(16)));
    }
    h = llm__load256(p + 64 * (2 * pair + b));
    h = i == 3 ? _mm256_srli_epi16(h, 2) : _mm256_slli_epi16(h, (int)(4 - 2 * i));
    return _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(0x30)));
}

/* Bytes 0 .. 3 (low lane) and 4 .. 7 (high lane) of block 0 or 1 to (m, m) pairs of 16 bits; bytes
   of both blocks to (b0, b1) pairs. */
LLM__AVX2_INLINE __m256i llm__pairs_m(uint32_t block) {
    const char o = (char)(8 * block), z = (char)-128;
    return _mm256_setr_epi8(o, z, o, z, (char)(o + 1), z, (char)(o + 1), z, (char)(o + 2), z,
                            (char)(o + 2), z, (char)(o + 3), z, (char)(o + 3), z, (char)(o + 4), z,
                            (char)(o + 4), z, (char)(o + 5), z, (char)(o + 5), z, (char)(o + 6), z,
                            (char)(o + 6), z, (char)(o + 7), z, (char)(o + 7), z);
}
LLM__AVX2_INLINE __m256i llm__pairs_b(void) {
    const char z = (char)-128;
    return _mm256_setr_epi8(0, z, 8, z, 1, z, 9, z, 2, z, 10, z, 3, z, 11, z, 4, z, 12, z, 5, z, 13,
                            z, 6, z, 14, z, 7, z, 15, z);
}

/* acc += sum over 16 columns of m * (u . x), from the codes of four groups. */
LLM__AVX2_INLINE __m256i llm__block_avx2(uint32_t type, __m256i acc, __m256i c0, __m256i c1,
                                         __m256i c2, __m256i c3, const int8_t *x, __m256i m) {
    __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16(c0, llm__four8(x)),
                                 _mm256_maddubs_epi16(c1, llm__four8(x + 4)));
    __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16(c2, llm__four8(x + 8)),
                                 _mm256_maddubs_epi16(c3, llm__four8(x + 12)));
    if (type == LLM_Q6) /* eight products of 63 * 127 would pass 16 bits */
        return _mm256_add_epi32(
            acc, _mm256_add_epi32(_mm256_madd_epi16(s, m), _mm256_madd_epi16(t, m)));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(s, t), m));
}

/* One super-block of one panel against the rows t of EACH: dots in low##t and high##t. */
#define LLM__ROW_DECLARE(t)                                                                 \
    const int8_t *x##t = in->q + (size_t)(row + (t < rows ? t : 0)) * in->stride;            \
    const int16_t *s##t = in->sums + (size_t)(row + (t < rows ? t : 0)) * (in->stride / 16); \
    const float *a##t = in->scale + (size_t)(row + (t < rows ? t : 0)) * (in->stride / 64);  \
    __m256 out_low##t = _mm256_setzero_ps(), out_high##t = _mm256_setzero_ps();              \
    __m256i low##t, high##t;
#define LLM__ROW_NO_SUMS(t) (void)s##t;
#define LLM__ROW_CLEAR(t) low##t = high##t = _mm256_setzero_si256();
#define LLM__ROW_OFFSET(t)                                                             \
    low##t = _mm256_sub_epi32(low##t, _mm256_madd_epi16(llm__four8(s##t + at / 16), b0)); \
    high##t = _mm256_sub_epi32(high##t, _mm256_madd_epi16(llm__four8(s##t + at / 16), b1));
#define LLM__ROW_LOW(t) low##t = llm__block_avx2(type, low##t, c0, c1, c2, c3, x##t + at, m);
#define LLM__ROW_HIGH(t) high##t = llm__block_avx2(type, high##t, c0, c1, c2, c3, x##t + at, m);
#define LLM__ROW_SCALE(t)                                                                  \
    f = _mm256_set1_ps(a##t[b]);                                                            \
    out_low##t =                                                                            \
        llm__add8(out_low##t, llm__mul8(_mm256_cvtepi32_ps(low##t), llm__mul8(w0, f)));     \
    out_high##t =                                                                           \
        llm__add8(out_high##t, llm__mul8(_mm256_cvtepi32_ps(high##t), llm__mul8(w1, f)));
#define LLM__ROW_STORE(t)                                  \
    if (t < rows) {                                        \
        _mm256_storeu_ps(out + 16 * t, out_low##t);        \
        _mm256_storeu_ps(out + 16 * t + 8, out_high##t);   \
    }
#define LLM__ROWS_1(X) X(0)
#define LLM__ROWS_2(X) X(0) X(1)
#define LLM__ROWS_4(X) X(0) X(1) X(2) X(3)

#define LLM__CODES(half, blk)                                  \
    c0 = llm__codes_avx2(type, codes, half, pair, blk, 0, u);  \
    c1 = llm__codes_avx2(type, codes, half, pair, blk, 1, u);  \
    c2 = llm__codes_avx2(type, codes, half, pair, blk, 2, u);  \
    c3 = llm__codes_avx2(type, codes, half, pair, blk, 3, u);
#define LLM__NEXT_LINE llm__ask_for(in, ahead), ahead += 64;
#define LLM__BLOCK(EACH, LOW, HIGH, blk)                                  \
    LLM__NEXT_LINE                                                        \
    m = _mm256_shuffle_epi8(m0, blk ? pairs1 : pairs0);                   \
    LLM__CODES(0, blk)                                                    \
    EACH(LOW)                                                             \
    if (format->bits > 3 || (format->bits == 3 && blk)) LLM__NEXT_LINE    \
    m = _mm256_shuffle_epi8(m1, blk ? pairs1 : pairs0);                   \
    LLM__CODES(1, blk)                                                    \
    EACH(HIGH)                                                            \
    at += 16;
/* Two blocks: 16 parameter bytes, low nibbles for rows 0 .. 7, high for 8 .. 15. */
#define LLM__TWO_BLOCKS(EACH, LOW, HIGH)                                               \
    if (format->bits > 4) LLM__NEXT_LINE /* `bits` lines a pair */                      \
    if (format->bits > 5) LLM__NEXT_LINE                                               \
    p = llm__both128(parameters);                                                      \
    parameters += 16;                                                                  \
    q = _mm256_and_si256(_mm256_srli_epi16(p, 4), nibble);                             \
    p = _mm256_and_si256(p, nibble);                                                   \
    b0 = _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_b, p), pairs_b);                \
    b1 = _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_b, q), pairs_b);                \
    m0 = _mm256_shuffle_epi8(table_m, p);                                              \
    m1 = _mm256_shuffle_epi8(table_m, q);                                              \
    EACH(LLM__ROW_OFFSET)                                                              \
    LLM__BLOCK(EACH, LOW, HIGH, 0)                                                     \
    LLM__BLOCK(EACH, LOW, HIGH, 1)

/* LOW and HIGH: a block against a row, with its m from `pairs`. */
#define LLM__FEW_ROWS_AVX2(INLINE, name, EACH, LOW, HIGH, pairs)                                \
    INLINE void name(uint32_t type, float *out, const uint8_t *panel, uint32_t padded,          \
                     const llm__input *in, uint32_t row, uint32_t rows) {                       \
        const llm__format *format = &llm__formats[type];                                       \
        const __m256i nibble = _mm256_set1_epi8(15), u = llm__both128(format->u),               \
                      table_m = llm__both128(format->m), table_b = llm__both128(format->b),     \
                      pairs0 = pairs(0), pairs1 = pairs(1), pairs_b = llm__pairs_b();           \
        const uint32_t s = llm__super_block(padded);                                            \
        const uint8_t *scales = panel, *parameters = panel + (size_t)padded / s * 32;           \
        const uint8_t *codes = panel + llm__panel_header(type, padded);                         \
        const uint8_t *ahead = panel;                                                           \
        uint32_t b, r, at = 0, pair = 0;                                                        \
        __m256i p, q, b0, b1, m0, m1, m, c0, c1, c2, c3;                                        \
        __m256 w0, w1, f;                                                                       \
        EACH(LLM__ROW_DECLARE)                                                                  \
        for (b = 0; b < padded / s; b++, scales += 32) {                                        \
            for (r = 0; r < s / 2 + 32; r += 64) LLM__NEXT_LINE                                 \
            EACH(LLM__ROW_CLEAR)                                                                \
            for (r = 0; r < s; r += 32, pair ^= 1, codes += pair ? 0 : llm__record_size(type)) { \
                LLM__TWO_BLOCKS(EACH, LOW, HIGH)                                                \
            }                                                                                   \
            w0 = llm__scales8(scales);                                                          \
            w1 = llm__scales8(scales + 16);                                                     \
            EACH(LLM__ROW_SCALE)                                                                \
        }                                                                                       \
        EACH(LLM__ROW_STORE)                                                                    \
    }
LLM__FEW_ROWS_AVX2(LLM__AVX2_INLINE, llm__packed1_avx2, LLM__ROWS_1, LLM__ROW_LOW, LLM__ROW_HIGH,
                   llm__pairs_m)

/* 8 bits: |w| times x with the sign of w, two products to 16 bits, two of those to 32. psignb
   negates x, which is never -128. */
#define LLM__ROW_BYTES(t)                                                                     \
    low##t = llm__bytes_avx2(low##t, v0, _mm256_sign_epi8(llm__four8(x##t + at), c0));         \
    high##t = llm__bytes_avx2(high##t, v1, _mm256_sign_epi8(llm__four8(x##t + at), c1));
LLM__AVX2_INLINE __m256i llm__bytes_avx2(__m256i acc, __m256i v, __m256i x) {
    return _mm256_add_epi32(acc,
                            _mm256_madd_epi16(_mm256_maddubs_epi16(v, x), _mm256_set1_epi16(1)));
}
/* START: of the dots; POSITIVE: of eight rows' bytes. */
#define LLM__FEW_BYTES_AVX2(INLINE, name, EACH, START, POSITIVE, BYTES)                       \
    INLINE void name(uint32_t type, float *out, const uint8_t *panel, uint32_t padded,        \
                     const llm__input *in, uint32_t row, uint32_t rows) {                     \
        const uint32_t s = llm__super_block(padded);                                          \
        const uint8_t *scales = panel, *codes = panel + llm__panel_header(type, padded);      \
        uint32_t b, g, at = 0;                                                                \
        __m256i c0, c1, v0, v1;                                                               \
        __m256 w0, w1, f;                                                                     \
        EACH(LLM__ROW_DECLARE)                                                                \
        EACH(LLM__ROW_NO_SUMS)                                                                \
        for (b = 0; b < padded / s; b++, scales += 32) {                                      \
            EACH(START)                                                                       \
            for (g = 0; g < s / 4; g++, codes += 64, at += 4) {                               \
                llm__ask_for(in, codes);                                                      \
                c0 = llm__load256(codes);                                                     \
                c1 = llm__load256(codes + 32);                                                \
                v0 = POSITIVE(c0);                                                            \
                v1 = POSITIVE(c1);                                                            \
                EACH(BYTES)                                                                   \
            }                                                                                 \
            w0 = llm__scales8(scales);                                                        \
            w1 = llm__scales8(scales + 16);                                                   \
            EACH(LLM__ROW_SCALE)                                                              \
        }                                                                                     \
        EACH(LLM__ROW_STORE)                                                                  \
    }
LLM__FEW_BYTES_AVX2(LLM__AVX2_INLINE, llm__bytes1_avx2, LLM__ROWS_1, LLM__ROW_CLEAR,
                    _mm256_abs_epi8, LLM__ROW_BYTES)

/* ---- many rows: a super-block is unpacked once, then meets all of them ---- */

typedef struct llm__tile_avx2 { /* one super-block of one panel; 64-byte lines as in the file */
    union {
        uint8_t u[256 / 4][64];     /* 2 to 6 bits: U, … */
        int16_t value[256 / 4][64]; /* 8 bits: the values as 16 bits */
    } line;
    int16_t m[256 / 16][32]; /* … (m, m) of 16 rows, … */
    int16_t b[256 / 32][32]; /* … and (b, b') of two blocks */
} llm__tile_avx2;

LLM__AVX2_INLINE void llm__store256(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

/* Four lines (a block of 16 columns) of 2- to 6-bit codes. */
LLM__AVX2_INLINE void llm__unpack_block(uint32_t type, llm__tile_avx2 *tile, uint32_t line,
                                        const uint8_t *codes, uint32_t pair, uint32_t block,
                                        __m256i u) {
    uint32_t half;
    for (half = 0; half < 2; half++) {
        uint8_t *to = tile->line.u[line] + 32 * half;
        __m256i c0, c1, c2, c3;
        LLM__CODES(half, block)
        llm__store256(to, c0);
        llm__store256(to + 64, c1);
        llm__store256(to + 128, c2);
        llm__store256(to + 192, c3);
    }
}
LLM__AVX2_INLINE void llm__unpack_avx2(const llm__input *in, uint32_t type, llm__tile_avx2 *tile,
                                       uint32_t s, const uint8_t *parameters,
                                       const uint8_t *codes) {
    const llm__format *format = &llm__formats[type];
    const __m256i nibble = _mm256_set1_epi8(15), u = llm__both128(format->u),
                  table_m = llm__both128(format->m), table_b = llm__both128(format->b),
                  pairs0 = llm__pairs_m(0), pairs1 = llm__pairs_m(1), pairs_b = llm__pairs_b();
    uint32_t k;
    for (k = 0; k < s; k += 32, parameters += 16) {
        const uint8_t *record = codes + k / 64 * llm__record_size(type);
        const uint8_t *ahead = record + k / 32 % 2 * format->bits * 64;
        __m256i p = llm__both128(parameters), q = _mm256_and_si256(_mm256_srli_epi16(p, 4), nibble);
        __m256i m0, m1;
        uint32_t line;
        for (line = 0; line < format->bits; line++) LLM__NEXT_LINE
        p = _mm256_and_si256(p, nibble);
        m0 = _mm256_shuffle_epi8(table_m, p);
        m1 = _mm256_shuffle_epi8(table_m, q);
        llm__store256(tile->m[k / 16], _mm256_shuffle_epi8(m0, pairs0));
        llm__store256(tile->m[k / 16] + 16, _mm256_shuffle_epi8(m1, pairs0));
        llm__store256(tile->m[k / 16 + 1], _mm256_shuffle_epi8(m0, pairs1));
        llm__store256(tile->m[k / 16 + 1] + 16, _mm256_shuffle_epi8(m1, pairs1));
        llm__store256(tile->b[k / 32],
                      _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_b, p), pairs_b));
        llm__store256(tile->b[k / 32] + 16,
                      _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_b, q), pairs_b));
        llm__unpack_block(type, tile, k / 4, record, k / 32 % 2, 0, u);
        llm__unpack_block(type, tile, k / 4 + 4, record, k / 32 % 2, 1, u);
    }
}
LLM__AVX2_INLINE void llm__widen_avx2(const llm__input *in, llm__tile_avx2 *tile, uint32_t s,
                                      const uint8_t *codes) {
    uint32_t i, line;
    for (line = 0; line < s / 4; line++) {
        llm__ask_for(in, codes + 64 * line);
        for (i = 0; i < 64; i += 16)
            llm__store256(tile->line.value[line] + i,
                          _mm256_cvtepi8_epi16(_mm_loadu_si128(
                              (const __m128i *)(const void *)(codes + 64 * line + i))));
    }
}

/* Four rows of the input, and where their dots with one super-block of a panel are added. Where
   there are fewer, the first stands for the missing ones and `unused` takes their results. */
typedef struct llm__four_rows {
    const int8_t *q[4];
    const int16_t *wide[4], *sums[4];
    float a[4], *out[4], unused[16];
} llm__four_rows;

LLM__INLINE void llm__take_rows(llm__four_rows *four, float *out, const llm__input *in,
                                uint32_t row, uint32_t rows, uint32_t k, uint32_t block) {
    uint32_t t;
    for (t = 0; t < 4; t++) {
        const size_t at = (size_t)(row + (t < rows ? t : 0)) * in->stride + k;
        four->q[t] = in->q + at, four->wide[t] = in->wide + at, four->sums[t] = in->sums + at / 16;
        four->a[t] = in->scale[(at - k) / 64 + block];
        four->out[t] = t < rows ? out + 16 * t : four->unused;
    }
}

/* out[16] += float(dot) * (w * a) */
#define LLM__TILE_ADD(t, low, high)                             \
    llm__scaled_add8(four->out[t], low, w0, four->a[t]);         \
    llm__scaled_add8(four->out[t] + 8, high, w1, four->a[t]);

/* sum += u . x in pairs of 16 bits. One piece for the compilers: left to schedule the two by
   themselves, they spill the sums. */
LLM__AVX2_INLINE __m256i llm__add_pairs(__m256i sum, __m256i u, __m256i x) {
#if defined(__GNUC__) || defined(__clang__)
    __m256i t;
    __asm__ volatile("{vpmaddubsw %3, %2, %1|vpmaddubsw %1, %2, %3}\n\t"
                     "{vpaddw %1, %0, %0|vpaddw %0, %0, %1}"
                     : "+x"(sum), "=&x"(t)
                     : "x"(u), "x"(x));
    return sum;
#else
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, x));
#endif
}

#define LLM__TILE_DECLARE(t)                                                          \
    const int8_t *x##t = four->q[t];                                                  \
    __m256i low##t, high##t, sum_low##t = _mm256_setzero_si256(), sum_high##t = sum_low##t;
#define LLM__TILE_OFFSET(t)                                                           \
    x = llm__four8(four->sums[t] + k / 16);                                           \
    sum_low##t = _mm256_sub_epi32(sum_low##t, _mm256_madd_epi16(x, c0));              \
    sum_high##t = _mm256_sub_epi32(sum_high##t, _mm256_madd_epi16(x, c1));
#define LLM__TILE_FIRST(t)                                                            \
    x = llm__four8(x##t + k);                                                         \
    low##t = _mm256_maddubs_epi16(c0, x);                                             \
    high##t = _mm256_maddubs_epi16(c1, x);
#define LLM__TILE_NEXT(t)                                                             \
    x = llm__four8(x##t + k);                                                         \
    low##t = llm__add_pairs(low##t, c0, x);                                           \
    high##t = llm__add_pairs(high##t, c1, x);
#define LLM__TILE_SUM(t)                                                              \
    sum_low##t = _mm256_add_epi32(sum_low##t, _mm256_madd_epi16(low##t, m0));         \
    sum_high##t = _mm256_add_epi32(sum_high##t, _mm256_madd_epi16(high##t, m1));
#define LLM__TILE_LINE(EACH)                                                          \
    c0 = llm__load256(tile->line.u[k / 4]);                                           \
    c1 = llm__load256(tile->line.u[k / 4] + 32);                                      \
    EACH                                                                              \
    k += 4;
#define LLM__TILE_OUT(t) LLM__TILE_ADD(t, sum_low##t, sum_high##t)

/* U bytes: rows of the input against all 16 of the panel. 16-bit sums hold `lines` (4, or 2 for
   6 bits) times two products. */
#define LLM__TILE_BYTES_AVX2(name, EACH)                                                         \
    LLM__AVX2_INLINE void name(const llm__tile_avx2 *tile, uint32_t s, uint32_t lines,           \
                               const llm__four_rows *four, __m256 w0, __m256 w1) {               \
        __m256i c0, c1, m0, m1, x;                                                               \
        uint32_t k;                                                                              \
        EACH(LLM__TILE_DECLARE)                                                                  \
        for (k = 0; k < s; k += 32) {                                                            \
            c0 = llm__load256(tile->b[k / 32]);                                                  \
            c1 = llm__load256(tile->b[k / 32] + 16);                                             \
            EACH(LLM__TILE_OFFSET)                                                               \
        }                                                                                        \
        for (k = 0; k < s;) {                                                                    \
            m0 = llm__load256(tile->m[k / 16]);                                                  \
            m1 = llm__load256(tile->m[k / 16] + 16);                                             \
            LLM__TILE_LINE(EACH(LLM__TILE_FIRST))                                                \
            LLM__TILE_LINE(EACH(LLM__TILE_NEXT))                                                 \
            if (lines == 4) {                                                                    \
                LLM__TILE_LINE(EACH(LLM__TILE_NEXT))                                             \
                LLM__TILE_LINE(EACH(LLM__TILE_NEXT))                                             \
            }                                                                                    \
            EACH(LLM__TILE_SUM)                                                                  \
        }                                                                                        \
        EACH(LLM__TILE_OUT)                                                                      \
    }
LLM__TILE_BYTES_AVX2(llm__tile4_avx2, LLM__ROWS_4)
LLM__TILE_BYTES_AVX2(llm__tile2_avx2, LLM__ROWS_2)

/* 16-bit values: two rows of the input at a time. */
LLM__AVX2_INLINE void llm__tile_wide_avx2(const llm__tile_avx2 *tile, uint32_t s, uint32_t first,
                                          const llm__four_rows *four, __m256 w0, __m256 w1) {
    const __m256i zero = _mm256_setzero_si256();
    const int16_t *x = four->wide[first], *y = four->wide[first + 1];
    __m256i p0 = zero, p1 = zero, p2 = zero, p3 = zero, q0 = zero, q1 = zero, q2 = zero, q3 = zero;
    uint32_t g;
    for (g = 0; g < s / 4; g++) {
        const int16_t *v = tile->line.value[g];
        __m256i u = llm__four16(x + 4 * g), t = llm__four16(y + 4 * g), l;
        l = llm__load256(v);
        p0 = _mm256_add_epi32(p0, _mm256_madd_epi16(l, u));
        q0 = _mm256_add_epi32(q0, _mm256_madd_epi16(l, t));
        l = llm__load256(v + 16);
        p1 = _mm256_add_epi32(p1, _mm256_madd_epi16(l, u));
        q1 = _mm256_add_epi32(q1, _mm256_madd_epi16(l, t));
        l = llm__load256(v + 32);
        p2 = _mm256_add_epi32(p2, _mm256_madd_epi16(l, u));
        q2 = _mm256_add_epi32(q2, _mm256_madd_epi16(l, t));
        l = llm__load256(v + 48);
        p3 = _mm256_add_epi32(p3, _mm256_madd_epi16(l, u));
        q3 = _mm256_add_epi32(q3, _mm256_madd_epi16(l, t));
    }
#define LLM__ROWS_IN_ORDER(a, b) _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8)
    LLM__TILE_ADD(first, LLM__ROWS_IN_ORDER(p0, p1), LLM__ROWS_IN_ORDER(p2, p3))
    LLM__TILE_ADD(first + 1, LLM__ROWS_IN_ORDER(q0, q1), LLM__ROWS_IN_ORDER(q2, q3))
#undef LLM__ROWS_IN_ORDER
}

/* out f32 [rows][16] += the unpacked super-block number `block`, from column k on, times the rows;
   one function for all types. `lines` as above, 0 for 16-bit values. */
LLM__AVX2 LLM__NOINLINE static void llm__tiles_avx2(float *out, const llm__tile_avx2 *tile, uint32_t s,
                                      const llm__input *in, uint32_t row, uint32_t rows,
                                      uint32_t k, uint32_t block, const uint8_t *scales,
                                      uint32_t lines) {
    const __m256 w0 = llm__scales8(scales), w1 = llm__scales8(scales + 16);
    llm__four_rows four;
    uint32_t m;
    memset(four.unused, 0, sizeof four.unused);
    for (m = 0; m < rows; m += 4) {
        llm__take_rows(&four, out + 16 * m, in, row + m, rows - m, k, block);
        if (lines == 4) {
            if (m + 2 < rows) llm__tile4_avx2(tile, s, 4, &four, w0, w1);
            else llm__tile2_avx2(tile, s, 4, &four, w0, w1);
        } else if (lines == 2) {
            if (m + 2 < rows) llm__tile4_avx2(tile, s, 2, &four, w0, w1);
            else llm__tile2_avx2(tile, s, 2, &four, w0, w1);
        } else {
            llm__tile_wide_avx2(tile, s, 0, &four, w0, w1);
            if (m + 2 < rows) llm__tile_wide_avx2(tile, s, 2, &four, w0, w1);
        }
    }
}

LLM__AVX2_INLINE void llm__many_rows_avx2(uint32_t type, float *out, const uint8_t *panel,
                                          uint32_t padded, const llm__input *in, uint32_t row,
                                          uint32_t rows) {
    const uint32_t s = llm__super_block(padded);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded);
    uint8_t room[sizeof(llm__tile_avx2) + 63]; /* so that no load crosses a line of the cache */
    llm__tile_avx2 *tile = (llm__tile_avx2 *)(void *)(room + (0 - (uintptr_t)room) % 64);
    uint32_t b, k = 0;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++, k += s) {
        const uint8_t *block = codes + (size_t)k / 64 * llm__record_size(type);
        if (type == LLM_Q8) llm__widen_avx2(in, tile, s, block);
        else llm__unpack_avx2(in, type, tile, s, parameters + k / 2, block);
        llm__tiles_avx2(out, tile, s, in, row, rows, k, b, panel + b * 32,
                        type == LLM_Q8 ? 0 : type == LLM_Q6 ? 2 : 4);
    }
}

#define LLM__PANEL_AVX2(name, type, one)                                                       \
    LLM__AVX2 LLM__NOINLINE static void llm__many_##name##_avx2(                               \
        float *out, const uint8_t *panel, uint32_t padded, const llm__input *in, uint32_t row, \
        uint32_t rows) {                                                                       \
        llm__many_rows_avx2(type, out, panel, padded, in, row, rows);                          \
    }                                                                                          \
    LLM__AVX2 static void llm__panel_##name##_avx2(float *out, const uint8_t *panel,           \
                                                   uint32_t padded, const llm__input *in,      \
                                                   uint32_t row, uint32_t rows) {              \
        if (rows == 1)                                                                         \
            one(type, out, panel, padded, in, row, rows);                                      \
        else                                                                                   \
            llm__many_##name##_avx2(out, panel, padded, in, row, rows);                        \
    }
LLM__PANEL_AVX2(q8, LLM_Q8, llm__bytes1_avx2)
LLM__PANEL_AVX2(q6, LLM_Q6, llm__packed1_avx2)
LLM__PANEL_AVX2(q5, LLM_Q5, llm__packed1_avx2)
LLM__PANEL_AVX2(q4, LLM_Q4, llm__packed1_avx2)
LLM__PANEL_AVX2(q3, LLM_Q3, llm__packed1_avx2)
LLM__PANEL_AVX2(q2, LLM_Q2, llm__packed1_avx2)
LLM__AVX2 static void llm__panel_f32_avx2(float *out, const uint8_t *panel, uint32_t padded,
                                          const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_avx2(LLM_F32, out, panel, padded, in, row, rows);
}
LLM__AVX2 static void llm__panel_bf16_avx2(float *out, const uint8_t *panel, uint32_t padded,
                                           const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_avx2(LLM_BF16, out, panel, padded, in, row, rows);
}

static void llm__kernels_avx2(llm__kernels *k) {
    k->name = "avx2";
    k->norm = llm__norm_avx2;
    k->rotate = llm__rotate_avx2;
    k->quantize = llm__quantize_avx2;
    k->quantize_head = llm__quantize_head_avx2;
    k->rope = llm__rope_avx2;
    k->add = llm__add_avx2;
    k->blend = llm__blend_avx2;
    k->put = llm__put_avx2;
    k->put_add = llm__put_add_avx2;
    k->gate = llm__gate_avx2;
    k->cap = llm__cap_avx2;
    k->softmax = llm__softmax_avx2;
    k->mask = llm__mask_avx2;
    k->weigh = llm__weigh_avx2;
    k->scores_q8 = llm__scores_q8_avx2;
    k->scores_f16 = llm__scores_f16_avx2;
    k->unpack_keys = llm__unpack_keys_avx2;
    k->unpack_values = llm__unpack_values_avx2;
    k->values_q8 = llm__values_q8_avx2;
    k->values_f16 = llm__values_f16_avx2;
    k->panel[LLM_F32] = llm__panel_f32_avx2;
    k->panel[LLM_BF16] = llm__panel_bf16_avx2;
    k->panel[LLM_Q8] = llm__panel_q8_avx2;
    k->panel[LLM_Q6] = llm__panel_q6_avx2;
    k->panel[LLM_Q5] = llm__panel_q5_avx2;
    k->panel[LLM_Q4] = llm__panel_q4_avx2;
    k->panel[LLM_Q3] = llm__panel_q3_avx2;
    k->panel[LLM_Q2] = llm__panel_q2_avx2;
}
#endif /* AVX2 */

/* ---- >>avx-vnni: AVX2 with vpdpbusd ------------------------------------------ */
/* Four products of each row go to its 32-bit lane at once. The instruction wants one side unsigned,
   as AVX-512's does, see there. What is not here is AVX2's. */
#if defined(LLM__HAVE_AVX2) && !defined(LLM_NO_AVX_VNNI) && LLM__COMPILER_OF_2021
#define LLM__HAVE_AVX_VNNI 1
#if defined(__GNUC__) || defined(__clang__)
#if !defined(LLM__AVX_VNNI) /* else emulated: tests/emulate/x86.h */
#define LLM__AVX_VNNI __attribute__((target("avx2,f16c,avxvnni")))
#endif
#define LLM__AVX_VNNI_INLINE LLM__INLINE LLM__AVX_VNNI
#else
#define LLM__AVX_VNNI
#define LLM__AVX_VNNI_INLINE static __forceinline
#endif

/* Bytes o to o + 3 (low lane) and o + 4 to o + 7 (high lane), o = 8 * block, as 32-bit lanes; and
   each four times. */
LLM__AVX2_INLINE __m256i llm__lanes_m(uint32_t block) {
    const int32_t z = (int32_t)0x80808000u + (int32_t)(8 * block);
    return _mm256_setr_epi32(z, z + 1, z + 2, z + 3, z + 4, z + 5, z + 6, z + 7);
}
LLM__AVX2_INLINE __m256i llm__fours(uint32_t block) {
    const int32_t o = (int32_t)(0x08080808u * block), one = 0x01010101;
    return _mm256_setr_epi32(o, o + one, o + 2 * one, o + 3 * one, o + 4 * one, o + 5 * one,
                             o + 6 * one, o + 7 * one);
}

/* acc += m * sum over 16 columns of u . x, from the codes of four groups. */
LLM__AVX_VNNI_INLINE __m256i llm__block_vnni(__m256i acc, __m256i c0, __m256i c1, __m256i c2,
                                             __m256i c3, const int8_t *x, __m256i m) {
    __m256i dot = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), c0, llm__four8(x));
    dot = _mm256_dpbusd_avx_epi32(dot, c1, llm__four8(x + 4));
    dot = _mm256_dpbusd_avx_epi32(dot, c2, llm__four8(x + 8));
    dot = _mm256_dpbusd_avx_epi32(dot, c3, llm__four8(x + 12));
    return _mm256_add_epi32(acc, _mm256_mullo_epi32(dot, m));
}
#define LLM__ROW_LOW_VNNI(t)  low##t = llm__block_vnni(low##t, c0, c1, c2, c3, x##t + at, m);
#define LLM__ROW_HIGH_VNNI(t) high##t = llm__block_vnni(high##t, c0, c1, c2, c3, x##t + at, m);
LLM__FEW_ROWS_AVX2(LLM__AVX_VNNI_INLINE, llm__packed1_vnni, LLM__ROWS_1, LLM__ROW_LOW_VNNI,
                   LLM__ROW_HIGH_VNNI, llm__lanes_m)

/* 8 bits, values + 128: -128 times the sum of the input comes first. */
LLM__AVX2_INLINE __m256i llm__positive(__m256i values) {
    return _mm256_xor_si256(values, _mm256_set1_epi8((char)-128));
}
LLM__AVX2_INLINE __m256i llm__minus128(const llm__input *in, size_t row, uint32_t block) {
    return _mm256_set1_epi32(-128 * in->total[row * (in->stride / 64) + block]);
}
#define LLM__ROW_TOTAL_VNNI(t) low##t = high##t = llm__minus128(in, row + (t < rows ? t : 0), b);
#define LLM__ROW_BYTES_VNNI(t)                                           \
    low##t = _mm256_dpbusd_avx_epi32(low##t, v0, llm__four8(x##t + at)); \
    high##t = _mm256_dpbusd_avx_epi32(high##t, v1, llm__four8(x##t + at));
LLM__FEW_BYTES_AVX2(LLM__AVX_VNNI_INLINE, llm__bytes1_vnni, LLM__ROWS_1, LLM__ROW_TOTAL_VNNI,
                    llm__positive, LLM__ROW_BYTES_VNNI)

/* ---- many rows: a super-block is unpacked to value + 128 once, then meets all of them ---- */

/* m * u + o by bytes, m given by words: m * u stays below 256, so one product of words has both. */
LLM__AVX2_INLINE __m256i llm__value_vnni(__m256i u, __m256i m, __m256i o) {
    return _mm256_add_epi8(_mm256_mullo_epi16(u, m), o);
}
LLM__AVX2_INLINE void llm__unpack_vnni(const llm__input *in, uint32_t type, uint8_t (*tile)[64],
                                       uint32_t s, const uint8_t *parameters,
                                       const uint8_t *records) {
    const llm__format *format = &llm__formats[type];
    const __m256i nibble = _mm256_set1_epi8(15), u = llm__both128(format->u),
                  table_m = llm__both128(format->m),
                  table_o = _mm256_sub_epi8(_mm256_set1_epi8((char)-128), llm__both128(format->b));
    uint32_t k;
    for (k = 0; k < s; k += 16) {
        const uint8_t *codes = records + k / 64 * llm__record_size(type);
        const uint8_t *ahead = records + (size_t)k * format->bits * 2;
        const __m256i p = _mm256_set1_epi64x((int64_t)llm__u64(parameters + k / 2));
        const uint32_t pair = k / 32 % 2;
        uint32_t half;
        for (half = 0; half < format->bits && k % 32 == 0; half++) LLM__NEXT_LINE
        for (half = 0; half < 2; half++) {
            const __m256i at =
                _mm256_and_si256(_mm256_srli_epi16(p, half ? 4 : 0), nibble);
            const __m256i m = _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_m, at), llm__pairs_m(0));
            const __m256i o = _mm256_shuffle_epi8(_mm256_shuffle_epi8(table_o, at), llm__fours(0));
            uint8_t *to = tile[k / 4] + 32 * half;
            __m256i c0, c1, c2, c3;
            if (k / 16 % 2) {
                LLM__CODES(half, 1)
            } else {
                LLM__CODES(half, 0)
            }
            llm__store256(to, llm__value_vnni(c0, m, o));
            llm__store256(to + 64, llm__value_vnni(c1, m, o));
            llm__store256(to + 128, llm__value_vnni(c2, m, o));
            llm__store256(to + 192, llm__value_vnni(c3, m, o));
        }
    }
}

/* Four rows (of the last, only `count`) against a tile: out f32 [count][16] += float(dot) * (w a). */
#define LLM__TILE_VNNI_DECLARE(t)                                                             \
    const size_t row##t = row + (t < count ? t : 0);                                          \
    const int8_t *x##t = in->q + row##t * in->stride + (size_t)block * s;                     \
    __m256i low##t = llm__minus128(in, row##t, block), high##t = low##t;
#define LLM__TILE_VNNI_DOT(t)                                                    \
    low##t = _mm256_dpbusd_avx_epi32(low##t, c0, llm__four8(x##t + 4 * g));      \
    high##t = _mm256_dpbusd_avx_epi32(high##t, c1, llm__four8(x##t + 4 * g));
#define LLM__TILE_VNNI_ADD(t)                                                    \
    if (t < count) {                                                             \
        const float a = in->scale[row##t * (in->stride / 64) + block];           \
        llm__scaled_add8(out + 16 * t, low##t, w0, a);                           \
        llm__scaled_add8(out + 16 * t + 8, high##t, w1, a);                      \
    }
LLM__AVX_VNNI LLM__NOINLINE static void llm__tile_vnni(float *out, uint8_t (*tile)[64], uint32_t s,
                                                       const llm__input *in, size_t row,
                                                       uint32_t count, uint32_t block,
                                                       const uint8_t *scales) {
    const __m256 w0 = llm__scales8(scales), w1 = llm__scales8(scales + 16);
    uint32_t g;
    LLM__ROWS_4(LLM__TILE_VNNI_DECLARE)
    for (g = 0; g < s / 4; g++) {
        const __m256i c0 = llm__load256(tile[g]), c1 = llm__load256(tile[g] + 32);
        LLM__ROWS_4(LLM__TILE_VNNI_DOT)
    }
    LLM__ROWS_4(LLM__TILE_VNNI_ADD)
}

LLM__AVX_VNNI_INLINE void llm__many_rows_vnni(uint32_t type, float *out, const uint8_t *panel,
                                              uint32_t padded, const llm__input *in, uint32_t row,
                                              uint32_t rows) {
    const uint32_t s = llm__super_block(padded);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded);
    uint8_t tile[256 / 4][64];
    uint32_t b, g, m, k = 0;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++, k += s) {
        const uint8_t *block = codes + (size_t)k / 64 * llm__record_size(type);
        if (type == LLM_Q8)
            for (g = 0; g < s * 16; g += 32)
                llm__store256(tile[0] + g, llm__positive(llm__load256(block + g)));
        else
            llm__unpack_vnni(in, type, tile, s, parameters + k / 2, block);
        for (m = 0; m < rows; m += 4)
            llm__tile_vnni(out + 16 * m, tile, s, in, row + m, llm__least(rows - m, 4), b,
                           panel + b * 32);
    }
}

#define LLM__PANEL_AVX_VNNI(name, type, one)                                                   \
    LLM__AVX_VNNI static void llm__panel_##name##_vnni(float *out, const uint8_t *panel,        \
                                                       uint32_t padded, const llm__input *in,   \
                                                       uint32_t row, uint32_t rows) {           \
        if (rows == 1)                                                                          \
            one(type, out, panel, padded, in, row, rows);                                       \
        else                                                                                    \
            llm__many_rows_vnni(type, out, panel, padded, in, row, rows);                       \
    }
LLM__PANEL_AVX_VNNI(q8, LLM_Q8, llm__bytes1_vnni)
LLM__PANEL_AVX_VNNI(q6, LLM_Q6, llm__packed1_vnni)
LLM__PANEL_AVX_VNNI(q5, LLM_Q5, llm__packed1_vnni)
LLM__PANEL_AVX_VNNI(q4, LLM_Q4, llm__packed1_vnni)
LLM__PANEL_AVX_VNNI(q3, LLM_Q3, llm__packed1_vnni)
LLM__PANEL_AVX_VNNI(q2, LLM_Q2, llm__packed1_vnni)

static void llm__kernels_avx_vnni(llm__kernels *k) {
    llm__kernels_avx2(k);
    k->name = "avx-vnni";
    k->panel[LLM_Q8] = llm__panel_q8_vnni;
    k->panel[LLM_Q6] = llm__panel_q6_vnni;
    k->panel[LLM_Q5] = llm__panel_q5_vnni;
    k->panel[LLM_Q4] = llm__panel_q4_vnni;
    k->panel[LLM_Q3] = llm__panel_q3_vnni;
    k->panel[LLM_Q2] = llm__panel_q2_vnni;
}
#endif /* AVX-VNNI */

/* ---- >>avx512: with VNNI ---------------------------------------------------- */
/* One line of a panel is one register: 16 rows by 4 columns, and vpdpbusd adds the four products of
   each row to its 32-bit lane. It wants one side unsigned, so the weights are: U bytes where they
   come straight from the codes (one row), value + 128 where a super-block is unpacked first (many
   rows); -B and -128 then cost one multiplication with sums of the inputs. What is not here is
   AVX2's. */
#if defined(LLM__HAVE_AVX2) && !defined(LLM_NO_AVX512)
#define LLM__HAVE_AVX512 1
#if defined(__GNUC__) || defined(__clang__)
#if !defined(LLM__AVX512) /* else emulated: tests/emulate/x86.h */
#define LLM__AVX512 \
    __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define LLM__PIN512(x) __asm__("" : "+v"(x))
#endif
#define LLM__AVX512_INLINE LLM__INLINE LLM__AVX512
#if !defined(__clang__) /* GCC 12 warns of its own intrinsics' undefined values */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#else
#define LLM__AVX512_INLINE static __forceinline
#define LLM__AVX512
#define LLM__PIN512(x) ((void)0)
#endif

LLM__AVX512_INLINE __m512 llm__mul16(__m512 a, __m512 b) {
    __m512 p = _mm512_mul_ps(a, b);
    LLM__PIN512(p);
    return p;
}
LLM__AVX512_INLINE __m512 llm__add16(__m512 a, __m512 b) {
    __m512 s = _mm512_add_ps(a, b);
    LLM__PIN512(s);
    return s;
}
LLM__AVX512_INLINE __m512 llm__sub16(__m512 a, __m512 b) {
    __m512 s = _mm512_sub_ps(a, b);
    LLM__PIN512(s);
    return s;
}
LLM__AVX512_INLINE __m512i llm__load512(const void *p) { return _mm512_loadu_si512(p); }
LLM__AVX512_INLINE __m512i llm__four512(const void *p) { /* 4 bytes, sixteen times */
    return _mm512_set1_epi32((int32_t)llm__u32(p));
}

LLM__AVX512_INLINE float llm__tree16(__m512 a) {
    return llm__tree8(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

LLM__AVX512_INLINE __m512 llm__exp16(__m512 x) {
    __m512 n, r, p;
    __m512i i;
    x = _mm512_max_ps(x, _mm512_set1_ps(LLM__EXP_LEAST));
    x = _mm512_min_ps(x, _mm512_set1_ps(LLM__EXP_MOST));
    i = _mm512_cvtps_epi32(llm__mul16(x, _mm512_set1_ps(LLM__LOG2E)));
    n = _mm512_cvtepi32_ps(i);
    r = llm__sub16(x, llm__mul16(n, _mm512_set1_ps(LLM__LN2_HI)));
    r = llm__sub16(r, llm__mul16(n, _mm512_set1_ps(LLM__LN2_LO)));
    p = llm__add16(llm__mul16(_mm512_set1_ps(1.9875691500e-4f), r),
                   _mm512_set1_ps(1.3981999507e-3f));
    p = llm__add16(llm__mul16(p, r), _mm512_set1_ps(8.3334519073e-3f));
    p = llm__add16(llm__mul16(p, r), _mm512_set1_ps(4.1665795894e-2f));
    p = llm__add16(llm__mul16(p, r), _mm512_set1_ps(1.6666665459e-1f));
    p = llm__add16(llm__mul16(p, r), _mm512_set1_ps(5.0000001201e-1f));
    p = llm__add16(llm__mul16(llm__mul16(p, r), r), r);
    p = llm__add16(p, _mm512_set1_ps(1.0f));
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(i, 23))); /* p 2^i is normal */
}
LLM__AVX512_INLINE __m512 llm__recip16(__m512 x) {
    const __m512 two = _mm512_set1_ps(2.0f);
    __m512 y = _mm512_castsi512_ps(
        _mm512_sub_epi32(_mm512_set1_epi32(0x7ef311c3), _mm512_castps_si512(x)));
    y = llm__mul16(y, llm__sub16(two, llm__mul16(x, y)));
    y = llm__mul16(y, llm__sub16(two, llm__mul16(x, y)));
    return llm__mul16(y, llm__sub16(two, llm__mul16(x, y)));
}
LLM__AVX512_INLINE __m512 llm__silu16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 minus = _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
    return llm__mul16(x, llm__recip16(llm__add16(one, llm__exp16(minus))));
}
LLM__AVX512_INLINE __m512 llm__tanh16(__m512 u) {
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    __m512 e = llm__add16(llm__exp16(llm__mul16(two, u)), one);
    return llm__sub16(one, llm__mul16(two, llm__recip16(e)));
}
LLM__AVX512_INLINE __m512 llm__gelu_tanh16(__m512 x) {
    __m512 cube = llm__mul16(llm__mul16(x, x), x), u;
    u = llm__mul16(_mm512_set1_ps(0.7978845608f),
                   llm__add16(x, llm__mul16(_mm512_set1_ps(0.044715f), cube)));
    return llm__mul16(llm__mul16(_mm512_set1_ps(0.5f), x),
                      llm__add16(_mm512_set1_ps(1.0f), llm__tanh16(u)));
}

LLM__AVX512 static void llm__gate_avx512(float *y, const float *gate, const float *up, uint32_t n,
                                         uint32_t activation) {
    uint32_t i;
    if (activation == LLM__ACT_SILU)
        for (i = 0; i < n; i += 16)
            _mm512_storeu_ps(y + i, llm__mul16(llm__silu16(_mm512_loadu_ps(gate + i)),
                                               _mm512_loadu_ps(up + i)));
    else if (activation == LLM__ACT_GELU_TANH)
        for (i = 0; i < n; i += 16)
            _mm512_storeu_ps(y + i, llm__mul16(llm__gelu_tanh16(_mm512_loadu_ps(gate + i)),
                                               _mm512_loadu_ps(up + i)));
    else
        llm__gate_scalar(y, gate, up, n, activation);
}

LLM__AVX512 static void llm__cap_avx512(float *x, uint32_t n, float scale, float cap) {
    const __m512 f = _mm512_set1_ps(scale), c = _mm512_set1_ps(cap);
    const __m512 inverse = _mm512_set1_ps(cap > 0 ? llm__recip(cap) : 0);
    uint32_t i;
    for (i = 0; i < n; i += 16) {
        __m512 y = llm__mul16(_mm512_loadu_ps(x + i), f);
        if (cap > 0) {
            const __m512i bits =
                _mm512_and_si512(_mm512_castps_si512(y), _mm512_set1_epi32(0x7fffffff));
            y = _mm512_mask_mov_ps(llm__mul16(c, llm__tanh16(llm__mul16(y, inverse))),
                                   _mm512_cmpgt_epi32_mask(bits, _mm512_set1_epi32(0x7f800000)), y);
        }
        _mm512_storeu_ps(x + i, y);
    }
}

LLM__AVX512 static float llm__softmax_avx512(float *s, float most) {
    const __m512i masked = _mm512_castps_si512(_mm512_set1_ps(LLM__MASKED));
    const __m512 m = _mm512_set1_ps(most);
    __m512 lane = _mm512_setzero_ps();
    uint32_t i;
    for (i = 0; i < 64; i += 16) {
        __m512 x = _mm512_loadu_ps(s + i), e = llm__exp16(llm__sub16(x, m));
        e = _mm512_maskz_mov_ps(_mm512_cmpneq_epi32_mask(_mm512_castps_si512(x), masked), e);
        _mm512_storeu_ps(s + i, e);
        lane = llm__add16(lane, e);
    }
    return llm__tree16(lane);
}

LLM__AVX512 static void llm__norm_avx512(float *y, const float *x, const float *gain, uint32_t n,
                                         float inverse_n, float epsilon) {
    __m512 a = _mm512_setzero_ps(), r;
    uint32_t i;
    for (i = 0; i < n; i += 16) {
        __m512 u = _mm512_loadu_ps(x + i);
        a = llm__add16(a, llm__mul16(u, u));
    }
    r = _mm512_set1_ps(llm__rsqrt(llm__addf(llm__mulf(llm__tree16(a), inverse_n), epsilon)));
    for (i = 0; i < n; i += 16)
        _mm512_storeu_ps(y + i, llm__mul16(llm__mul16(_mm512_loadu_ps(x + i), r),
                                           _mm512_loadu_ps(gain + i)));
}

LLM__AVX512 static void llm__rotate_avx512(float *x, uint32_t n, uint32_t block) {
    const __m512 sign = _mm512_set1_ps(-0.0f);
    const __m512 scale =
        _mm512_set1_ps(block == 64 ? 0.125f : block == 32 ? 0.17677669529f : 0.25f);
    uint32_t i, j, h, vectors = block / 16;
    for (i = 0; i < n; i += block) {
        __m512 v[4];
        for (j = 0; j < vectors; j++) {
            __m512 t = _mm512_loadu_ps(x + i + 16 * j);
            t = llm__add16(_mm512_permute_ps(t, 0xb1), _mm512_mask_xor_ps(t, 0xaaaa, t, sign));
            t = llm__add16(_mm512_permute_ps(t, 0x4e), _mm512_mask_xor_ps(t, 0xcccc, t, sign));
            t = llm__add16(_mm512_shuffle_f32x4(t, t, 0xb1),
                           _mm512_mask_xor_ps(t, 0xf0f0, t, sign));
            v[j] = llm__add16(_mm512_shuffle_f32x4(t, t, 0x4e),
                              _mm512_mask_xor_ps(t, 0xff00, t, sign));
        }
        for (h = 1; h < vectors; h *= 2)
            for (j = 0; j < vectors; j++)
                if (!(j & h)) {
                    __m512 a = v[j], b = v[j + h];
                    v[j] = llm__add16(a, b);
                    v[j + h] = llm__sub16(a, b);
                }
        for (j = 0; j < vectors; j++) _mm512_storeu_ps(x + i + 16 * j, llm__mul16(v[j], scale));
    }
}

/* Bits of the largest |x[i]|. */
LLM__AVX512_INLINE uint32_t llm__most_avx512(const float *x, uint32_t n) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    uint32_t i;
    for (i = 0; i < n; i += 16)
        most = _mm512_max_epi32(most, _mm512_and_si512(llm__load512(x + i), mask));
    return (uint32_t)_mm512_reduce_max_epi32(most);
}
/* 16 floats times factor as integers; 0 if factor is. */
LLM__AVX512_INLINE __m512i llm__round512(const float *x, float factor) {
    const __m512 f = _mm512_set1_ps(factor);
    return factor == 0 ? _mm512_setzero_si512()
                       : _mm512_cvtps_epi32(llm__mul16(_mm512_loadu_ps(x), f));
}
LLM__AVX512 static void llm__quantize_avx512(const float *x, uint32_t n, uint32_t s, int8_t *q,
                                             int16_t *wide, float *scale, int16_t *sums) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i flip = _mm512_set1_epi8((char)-128), none = _mm512_setzero_si512();
    const __m128i even = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    uint32_t i, j;
    (void)wide;
    for (i = 0; i < n; i += s) {
        const float factor = llm__scale_of(llm__most_avx512(x + i, s), LLM__INT8_MOST,
                                           LLM__INVERSE_127, &scale[i / s]);
        for (j = i; j < i + s; j += 64) {
            const __m512i a = _mm512_packs_epi32(llm__round512(x + j, factor),
                                                 llm__round512(x + j + 16, factor));
            const __m512i b = _mm512_packs_epi32(llm__round512(x + j + 32, factor),
                                                 llm__round512(x + j + 48, factor));
            const __m512i v = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));
            __m512i sum = _mm512_sad_epu8(_mm512_xor_si512(v, flip), none); /* of 8 each */
            sum = _mm512_add_epi64(sum, _mm512_unpackhi_epi64(sum, sum)); /* every other one */
            sum = _mm512_sub_epi64(sum, _mm512_set1_epi64(16 * 128));
            _mm512_storeu_si512(q + j, v);
            _mm_storel_epi64((__m128i *)(void *)(sums + j / 16),
                             _mm_shuffle_epi8(_mm512_cvtepi64_epi16(sum), even));
        }
    }
}
LLM__AVX512 static float llm__quantize_head_avx512(const float *x, uint32_t n, float limit,
                                                   int16_t *q) {
    float scale,
        factor = llm__scale_of(llm__most_avx512(x, n), limit,
                               limit > 128 ? LLM__INVERSE_16256 : LLM__INVERSE_127, &scale);
    uint32_t i;
    for (i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(q + i),
                            _mm512_cvtepi32_epi16(llm__round512(x + i, factor)));
    return scale;
}

LLM__AVX512 static void llm__add_avx512(float *y, const float *x, float scale, uint32_t n) {
    const __m512 f = _mm512_set1_ps(scale);
    uint32_t i;
    for (i = 0; i < n; i += 16)
        _mm512_storeu_ps(
            y + i, llm__add16(_mm512_loadu_ps(y + i), llm__mul16(_mm512_loadu_ps(x + i), f)));
}
LLM__PUT(avx512, LLM__AVX512)
LLM__AVX512 static void llm__blend_avx512(float *y, float a, const float *x, float b, uint32_t n) {
    const __m512 f = _mm512_set1_ps(a), g = _mm512_set1_ps(b);
    uint32_t i;
    for (i = 0; i < n; i += 16)
        _mm512_storeu_ps(y + i, llm__add16(llm__mul16(_mm512_loadu_ps(y + i), f),
                                           llm__mul16(_mm512_loadu_ps(x + i), g)));
}

LLM__AVX512 static bool llm__mask_avx512(float *s, const float *scale, float factor,
                                         uint32_t first, uint32_t last, float *most_of) {
    const uint64_t inside = ~(uint64_t)0 >> (63 - last) & ~(uint64_t)0 << first;
    const __m512 none = _mm512_set1_ps(LLM__MASKED), f = _mm512_set1_ps(factor);
    __m512 most = none;
    __mmask16 bad = 0;
    uint32_t i;
    for (i = 0; i < 64; i += 16) {
        __m512 g = scale ? llm__mul16(f, _mm512_loadu_ps(scale + i)) : f;
        __m512 x = llm__mul16(_mm512_loadu_ps(s + i), g);
        x = _mm512_mask_mov_ps(none, (__mmask16)(inside >> i), x);
        _mm512_storeu_ps(s + i, x);
        most = _mm512_max_ps(most, x);
        bad |= _mm512_fpclass_ps_mask(x, 0x99); /* NaN, infinite */
    }
    *most_of = _mm512_reduce_max_ps(most);
    return !bad;
}
LLM__AVX512 static float llm__weigh_avx512(int16_t *p, const float *e, const float *scale) {
    float y[64];
    uint32_t i;
    for (i = 0; i < 64; i += 16) {
        __m512 x = _mm512_loadu_ps(e + i);
        __mmask16 some =
            _mm512_cmpneq_epi32_mask(_mm512_castps_si512(x), _mm512_setzero_si512());
        x = llm__mul16(x, _mm512_loadu_ps(scale + i));
        _mm512_storeu_ps(y + i, _mm512_maskz_mov_ps(some, x));
    }
    return llm__quantize_head_avx512(y, 64, LLM__INT16_MOST, p);
}

/* llm__scale_of for sixteen, with LLM__INT16_MOST. */
LLM__AVX512_INLINE void llm__scales_of16(__mmask16 which, __m512i most, float *scale,
                                         float *factor) {
    const __mmask16 large = _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(0x7e000000));
    const __mmask16 some = _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(0x0da24260));
    const __m512 x = _mm512_castsi512_ps(most);
    __m512 y = llm__mul16(x, _mm512_set1_ps(LLM__INVERSE_16256));
    y = _mm512_mask_mov_ps(y, large, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
    _mm512_mask_storeu_ps(scale, which, _mm512_maskz_mov_ps(some, y));
    y = llm__mul16(_mm512_set1_ps(LLM__INT16_MOST), llm__recip16(x));
    _mm512_storeu_ps(factor, _mm512_maskz_mov_ps(some & (__mmask16)~large, y));
}
/* softmax, times the values' scales: also the largest, by its bits. Only what is masked is 0. */
LLM__AVX512_INLINE float llm__soften_avx512(float *s, const float *scale, float most_of,
                                            int32_t *largest_of) {
    const __m512 none = _mm512_set1_ps(LLM__MASKED), most = _mm512_set1_ps(most_of);
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    uint32_t i;
    for (i = 0; i < 64; i += 16) {
        const __m512 x = _mm512_loadu_ps(s + i), e = llm__exp16(llm__sub16(x, most));
        const __mmask16 some = _mm512_cmpneq_epi32_mask(_mm512_castps_si512(x),
                                                        _mm512_castps_si512(none));
        const __m512 y = _mm512_maskz_mul_ps(some, e, _mm512_loadu_ps(scale + i));
        sum = _mm512_mask_add_ps(sum, some, sum, e);
        LLM__PIN512(sum);
        _mm512_storeu_ps(s + i, y);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(y), sign));
    }
    *largest_of = _mm512_reduce_max_epi32(largest);
    return llm__tree16(sum);
}
/* Steps of a query wait for each other, those of several do not: each is done for all. */
LLM__AVX512 static void llm__page_weights_avx512(llm__weights *w, uint32_t from, uint32_t end,
                                                 const float *k_scale, const float *v_scale) {
    int32_t largest[LLM__QUERIES];
    float factor[LLM__QUERIES];
    uint32_t i, t;
    memset(largest, 0, sizeof largest);
    for (i = from; i < end; i++)
        w->finite[i] = llm__mask_avx512(w->score[i], k_scale, w->factor[i], w->first[i],
                                        w->last[i], &w->most[i]);
    for (i = from; i < end; i++)
        if (w->finite[i])
            w->weight[i] =
                llm__soften_avx512(w->score[i], v_scale, w->most[i], &largest[i]);
        else
            llm__no_score(w, i);
    llm__scales_of16((__mmask16)((1u << end) - (1u << from)), llm__load512(largest), w->v_factor,
                     factor);
    for (i = from; i < end; i++)
        for (t = 0; t < 64; t += 16)
            _mm256_storeu_si256((__m256i *)(void *)(w->p[i] + t),
                                _mm512_cvtepi32_epi16(llm__round512(w->score[i] + t, factor[i])));
}

/* ---- the cache: 15-bit integers as two digits, q = 128 high + low ---- */

/* n (a multiple of 16) integers to digits, and 128 times their sum. */
LLM__AVX512 LLM__NOINLINE static int32_t llm__digits_avx512(const int16_t *q, uint32_t n,
                                                            int8_t *high, int8_t *low) {
    const __m256i half = _mm256_set1_epi16(64), ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    __m128i t;
    uint32_t i;
    for (i = 0; i < n; i += 16) {
        __m256i v = llm__load256(q + i), h = _mm256_srai_epi16(_mm256_add_epi16(v, half), 7);
        __m256i l = _mm256_sub_epi16(v, _mm256_slli_epi16(h, 7));
        _mm_storeu_si128((__m128i *)(void *)(high + i), _mm256_cvtepi16_epi8(h));
        _mm_storeu_si128((__m128i *)(void *)(low + i), _mm256_cvtepi16_epi8(l));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(v, ones));
    }
    t = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t) * 128;
}

/* Sixteen dots of 4 x `lines` integers, given as digits, against lines of int8, for `count` queries
   (a constant, 1 .. 4). 128 times the high digits' dot may pass 32 bits; the result does not, so
   wrapping is harmless. */
LLM__AVX512_INLINE void llm__dots16_avx512(uint32_t count, __m512 *dot, const int8_t *w,
                                           const int8_t *high, const int8_t *low, uint32_t stride,
                                           uint32_t lines, const int32_t *offset,
                                           ptrdiff_t ahead) {
    const __m512i flip = _mm512_set1_epi8((char)-128), zero = _mm512_setzero_si512();
    __m512i h0 = zero, h1 = zero, h2 = zero, h3 = zero, l0 = zero, l1 = zero, l2 = zero, l3 = zero;
    __m512i i0 = zero, i1 = zero, i2 = zero, i3 = zero, m0 = zero, m1 = zero, m2 = zero, m3 = zero;
    uint32_t g;
    for (g = 0; g < lines; g += 2, w += 128, high += 8, low += 8) {
        llm__prefetch(w + ahead);
        llm__prefetch(w + 64 + ahead);
        const __m512i u = _mm512_xor_si512(llm__load512(w), flip);
        const __m512i v = _mm512_xor_si512(llm__load512(w + 64), flip);
#define LLM__ADD_LINE(t)                                                             \
    h##t = _mm512_dpbusd_epi32(h##t, u, llm__four512(high + t * stride));        \
    l##t = _mm512_dpbusd_epi32(l##t, u, llm__four512(low + t * stride));         \
    i##t = _mm512_dpbusd_epi32(i##t, v, llm__four512(high + t * stride + 4));    \
    m##t = _mm512_dpbusd_epi32(m##t, v, llm__four512(low + t * stride + 4));
        LLM__FOUR_QUERIES(LLM__ADD_LINE)
#undef LLM__ADD_LINE
    }
#define LLM__END(t)                                                              \
    h##t = _mm512_slli_epi32(_mm512_add_epi32(h##t, i##t), 7);                   \
    l##t = _mm512_add_epi32(h##t, _mm512_add_epi32(l##t, m##t));                 \
    dot[t] = _mm512_cvtepi32_ps(_mm512_sub_epi32(l##t, _mm512_set1_epi32(offset[t])));
    LLM__FOUR_QUERIES(LLM__END)
#undef LLM__END
}

LLM__AVX512_INLINE void llm__scores4_avx512(uint32_t count, float *dot, const int16_t *q,
                                            const int8_t *k, uint32_t n, ptrdiff_t ahead) {
    int8_t high[4 * 512], low[4 * 512];
    int32_t offset[4];
    __m512 d[4];
    uint32_t t, i;
    for (i = 0; i < count; i++)
        offset[i] = llm__digits_avx512(q + i * n, n, high + i * n, low + i * n);
    for (t = 0; t < 64; t += 16, k += 16 * n) {
        llm__dots16_avx512(count, d, k, high, low, n, n / 4, offset, ahead);
        for (i = 0; i < count; i++) _mm512_storeu_ps(dot + 64 * i + t, d[i]);
    }
}
LLM__AVX512_INLINE void llm__values4_avx512(uint32_t count, float *out, const float *keep,
                                            const float *take, const int16_t *p, const int8_t *v,
                                            uint32_t n, ptrdiff_t ahead) {
    int8_t high[4 * 64], low[4 * 64];
    int32_t offset[4];
    __m512 d[4];
    uint32_t c, i;
    for (i = 0; i < count; i++)
        offset[i] = llm__digits_avx512(p + 64 * i, 64, high + 64 * i, low + 64 * i);
    for (c = 0; c < n; c += 16, v += 1024) {
        llm__dots16_avx512(count, d, v, high, low, 64, 16, offset, ahead);
        for (i = 0; i < count; i++) {
            float *to = out + i * n + c;
            _mm512_storeu_ps(to, llm__add16(llm__mul16(_mm512_loadu_ps(to), _mm512_set1_ps(keep[i])),
                                            llm__mul16(d[i], _mm512_set1_ps(take[i]))));
        }
    }
}
LLM__AVX512 static void llm__scores_q8_avx512(float *dot, const int16_t *q, const int8_t *k,
                                              uint32_t n, uint32_t count, ptrdiff_t ahead) {
#define LLM__CALL(some)                         \
    llm__scores4_avx512(some, dot, q, k, n, ahead);    \
    dot += 64 * some, q += n * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}
LLM__AVX512 static void llm__values_q8_avx512(float *out, const float *keep, const float *take,
                                              const int16_t *p, const int8_t *v, uint32_t n,
                                              uint32_t count, ptrdiff_t ahead) {
#define LLM__CALL(some)                                     \
    llm__values4_avx512(some, out, keep, take, p, v, n, ahead);    \
    out += n * some, keep += some, take += some, p += 64 * some;
    LLM__BY_FOUR(LLM__CALL, count)
#undef LLM__CALL
}

/* ---- one row: straight from the packed codes ---- */

/* Compilers do not agree whether a shift is signed. */
#if defined(__clang__)
#define LLM__SHIFT(n) ((unsigned)(n))
#else
#define LLM__SHIFT(n) ((int)(n))
#endif

/* Bits of `low` and of `high`, by bytes. */
LLM__AVX512_INLINE __m512i llm__join512(__m512i low, char some, __m512i high, char others) {
    return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(some)),
                           _mm512_and_si512(high, _mm512_set1_epi8(others)));
}
/* Codes of group i (0 .. 3) of block 2 pair + b of a record, 16 rows at once, as U bytes. */
LLM__AVX512_INLINE __m512i llm__codes_avx512(uint32_t type, const uint8_t *p, uint32_t pair,
                                             uint32_t b, uint32_t i, __m512i u) {
    __m512i v, h;
    if (type == LLM_Q3 || type == LLM_Q2) {
        v = llm__load512(p + (llm__formats[type].bits - 2) * 128 + 64 * (2 * pair + b));
        if (i) v = _mm512_srli_epi16(v, LLM__SHIFT(2 * i));
        if (type == LLM_Q2) return _mm512_and_si512(v, _mm512_set1_epi8(3));
        h = llm__load512(p + 64 * pair);
        h = 4 * b + i < 2 ? _mm512_slli_epi16(h, LLM__SHIFT((2 - i) & 15))
                          : _mm512_srli_epi16(h, LLM__SHIFT((4 * b + i - 2) & 15));
        return _mm512_shuffle_epi8(u, llm__join512(v, 3, h, 4));
    }
    v = llm__load512(p + (llm__formats[type].bits - 4) * 128 + 64 * (4 * pair + 2 * b + i / 2));
    if (i % 2) v = _mm512_srli_epi16(v, 4);
    if (type == LLM_Q4) return _mm512_shuffle_epi8(u, _mm512_and_si512(v, _mm512_set1_epi8(15)));
    if (type == LLM_Q5) {
        h = llm__load512(p + 64 * pair);
        h = b ? _mm512_srli_epi16(h, LLM__SHIFT(i)) : _mm512_slli_epi16(h, LLM__SHIFT(4 - i));
        return llm__join512(v, 15, h, 16);
    }
    h = llm__load512(p + 64 * (2 * pair + b));
    h = i == 3 ? _mm512_srli_epi16(h, 2) : _mm512_slli_epi16(h, LLM__SHIFT(4 - 2 * i));
    return llm__join512(v, 15, h, 0x30);
}

/* The parameter of row r of a block in lane r; only its lowest four bits mean something. */
LLM__AVX512_INLINE __m512i llm__parameters_avx512(const uint8_t *block) {
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4);
    __m128i p = _mm_set1_epi64x((int64_t)llm__u64(block));
    return _mm512_srlv_epi32(_mm512_cvtepu8_epi32(p), shift);
}
/* A table of 16 bytes as 16 lanes. */
LLM__AVX512_INLINE __m512i llm__lanes_avx512(const uint8_t *table) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)table));
}
LLM__AVX512_INLINE __m512 llm__scales16(const uint8_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(llm__load256(p)), 16));
}

/* acc += m * sum over 16 columns of u . x, from the codes of four groups. */
LLM__AVX512_INLINE __m512i llm__block_avx512(__m512i acc, __m512i c0, __m512i c1, __m512i c2,
                                             __m512i c3, const int8_t *x, __m512i m) {
    __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c0, llm__four512(x));
    dot = _mm512_dpbusd_epi32(dot, c1, llm__four512(x + 4));
    dot = _mm512_dpbusd_epi32(dot, c2, llm__four512(x + 8));
    dot = _mm512_dpbusd_epi32(dot, c3, llm__four512(x + 12));
    return _mm512_add_epi32(acc, _mm512_mullo_epi32(dot, m));
}

#define LLM__ROW512_DECLARE(t)                                                               \
    const int8_t *x##t = in->q + (size_t)(row + (t < rows ? t : 0)) * in->stride;             \
    const int16_t *s##t = in->sums + (size_t)(row + (t < rows ? t : 0)) * (in->stride / 16);  \
    const float *a##t = in->scale + (size_t)(row + (t < rows ? t : 0)) * (in->stride / 64);   \
    __m512 out##t = _mm512_setzero_ps();                                                      \
    __m512i acc##t;
#define LLM__ROW512_CLEAR(t) acc##t = _mm512_setzero_si512();
#define LLM__ROW512_OFFSET(t) \
    acc##t = _mm512_dpwssd_epi32(acc##t, llm__four512(s##t + at / 16), minus_b);
#define LLM__ROW512_BLOCK(t) acc##t = llm__block_avx512(acc##t, c0, c1, c2, c3, x##t + at, m);
#define LLM__ROW512_SCALE(t)                                               \
    out##t = llm__add16(out##t, llm__mul16(_mm512_cvtepi32_ps(acc##t),     \
                                           llm__mul16(w, _mm512_set1_ps(a##t[b]))));
#define LLM__ROW512_STORE(t) \
    if (t < rows) _mm512_storeu_ps(out + 16 * t, out##t);

#define LLM__CODES512(blk)                                    \
    c0 = llm__codes_avx512(type, codes, pair, blk, 0, u);     \
    c1 = llm__codes_avx512(type, codes, pair, blk, 1, u);     \
    c2 = llm__codes_avx512(type, codes, pair, blk, 2, u);     \
    c3 = llm__codes_avx512(type, codes, pair, blk, 3, u);
#define LLM__BLOCK512(EACH, blk, p)                \
    LLM__NEXT_LINE                                 \
    if (format->bits > 3 || (format->bits == 3 && blk)) LLM__NEXT_LINE \
    m = _mm512_permutexvar_epi32(p, table_m);      \
    LLM__CODES512(blk)                             \
    EACH(LLM__ROW512_BLOCK)                        \
    at += 16;

#define LLM__FEW_ROWS_AVX512(name, EACH)                                                         \
    LLM__AVX512_INLINE void name(uint32_t type, float *out, const uint8_t *panel,                \
                                 uint32_t padded, const llm__input *in, uint32_t row,            \
                                 uint32_t rows) {                                                \
        const llm__format *format = &llm__formats[type];                                         \
        const __m512i u =                                                                        \
            _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)format->u));   \
        const __m512i table_m = llm__lanes_avx512(format->m);                                    \
        const __m512i low_b = _mm512_and_si512(                                                  \
            _mm512_sub_epi32(_mm512_setzero_si512(), llm__lanes_avx512(format->b)),              \
            _mm512_set1_epi32(0xffff));                                                          \
        const __m512i high_b = _mm512_slli_epi32(low_b, 16);                                     \
        const uint32_t s = llm__super_block(padded);                                             \
        const uint8_t *scales = panel, *parameters = panel + (size_t)padded / s * 32;            \
        const uint8_t *codes = panel + llm__panel_header(type, padded);                          \
        const uint8_t *ahead = panel;                                                            \
        uint32_t b, r, at = 0, pair = 0;                                                         \
        __m512i p, q, m, minus_b, c0, c1, c2, c3;                                                \
        __m512 w;                                                                                \
        EACH(LLM__ROW512_DECLARE)                                                                \
        for (b = 0; b < padded / s; b++, scales += 32) {                                         \
            for (r = 0; r < s / 2 + 32; r += 64) LLM__NEXT_LINE                                  \
            EACH(LLM__ROW512_CLEAR)                                                              \
            for (r = 0; r < s; r += 32, pair ^= 1, codes += pair ? 0 : llm__record_size(type)) { \
                if (format->bits > 4) LLM__NEXT_LINE                                             \
                if (format->bits > 5) LLM__NEXT_LINE                                             \
                p = llm__parameters_avx512(parameters);                                          \
                q = llm__parameters_avx512(parameters + 8);                                      \
                parameters += 16;                                                                \
                minus_b = _mm512_or_si512(_mm512_permutexvar_epi32(p, low_b),                    \
                                          _mm512_permutexvar_epi32(q, high_b));                  \
                EACH(LLM__ROW512_OFFSET)                                                         \
                LLM__BLOCK512(EACH, 0, p)                                                        \
                LLM__BLOCK512(EACH, 1, q)                                                        \
            }                                                                                    \
            w = llm__scales16(scales);                                                           \
            EACH(LLM__ROW512_SCALE)                                                              \
        }                                                                                        \
        EACH(LLM__ROW512_STORE)                                                                  \
    }
LLM__FEW_ROWS_AVX512(llm__packed1_avx512, LLM__ROWS_1)

/* 8 bits, values + 128. */
#define LLM__ROW512_TOTAL(t) \
    acc##t = _mm512_set1_epi32(-128 * in->total[(size_t)(row + (t < rows ? t : 0)) * (in->stride / 64) + b]);
#define LLM__ROW512_BYTES(t) acc##t = _mm512_dpbusd_epi32(acc##t, c0, llm__four512(x##t + at));
#define LLM__FEW_BYTES_AVX512(name, EACH)                                                     \
    LLM__AVX512_INLINE void name(uint32_t type, float *out, const uint8_t *panel,             \
                                 uint32_t padded, const llm__input *in, uint32_t row,         \
                                 uint32_t rows) {                                             \
        const __m512i flip = _mm512_set1_epi8((char)-128);                                    \
        const uint32_t s = llm__super_block(padded);                                          \
        const uint8_t *scales = panel, *codes = panel + llm__panel_header(type, padded);      \
        uint32_t b, g, at = 0;                                                                \
        __m512i c0;                                                                           \
        __m512 w;                                                                             \
        EACH(LLM__ROW512_DECLARE)                                                             \
        EACH(LLM__ROW512_UNUSED)                                                              \
        for (b = 0; b < padded / s; b++, scales += 32) {                                      \
            EACH(LLM__ROW512_TOTAL)                                                           \
            for (g = 0; g < s / 4; g++, codes += 64, at += 4) {                               \
                llm__ask_for(in, codes);                                                      \
                c0 = _mm512_xor_si512(llm__load512(codes), flip);                             \
                EACH(LLM__ROW512_BYTES)                                                       \
            }                                                                                 \
            w = llm__scales16(scales);                                                        \
            EACH(LLM__ROW512_SCALE)                                                           \
        }                                                                                     \
        EACH(LLM__ROW512_STORE)                                                               \
    }
#define LLM__ROW512_UNUSED(t) (void)s##t;
LLM__FEW_BYTES_AVX512(llm__bytes1_avx512, LLM__ROWS_1)

/* ---- many rows: a super-block is unpacked to value + 128 once, then meets all of them ---- */

/* M U stays below 256, so a product of words is one of bytes. By hand: compilers leave such a loop one,
   and its shifts to registers. */
#define LLM__VALUE512(b, i)                                                                     \
    _mm512_storeu_si512(to + 64 * i, _mm512_add_epi8(_mm512_mullo_epi16(                        \
                            llm__codes_avx512(type, record, pair, b, i, u), m), o));
#define LLM__VALUES512(b) \
    LLM__VALUE512(b, 0) LLM__VALUE512(b, 1) LLM__VALUE512(b, 2) LLM__VALUE512(b, 3)
/* Columns `from` to `end` of a super-block as value + shift. */
LLM__AVX512_INLINE void llm__unpack_avx512(const llm__input *in, uint32_t type,
                                           uint8_t (*tile)[64], uint32_t from, uint32_t end,
                                           int32_t shift, const uint8_t *parameters,
                                           const uint8_t *codes) {
    const llm__format *format = &llm__formats[type];
    const __m512i u =
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)format->u));
    const __m512i even = _mm512_mullo_epi32(llm__lanes_avx512(format->m),
                                            _mm512_set1_epi32(0x00010001));
    const __m512i offset = _mm512_mullo_epi32(
        _mm512_and_si512(_mm512_sub_epi32(_mm512_set1_epi32(shift), llm__lanes_avx512(format->b)),
                         _mm512_set1_epi32(255)),
        _mm512_set1_epi32(0x01010101));
    uint32_t k, i;
    for (k = from; k < end; k += 16) {
        const uint8_t *record = codes + k / 64 * llm__record_size(type);
        const uint8_t *ahead = codes + (size_t)k * format->bits * 2;
        const uint32_t pair = k / 32 % 2;
        const __m512i p = llm__parameters_avx512(parameters + k / 2);
        const __m512i m = _mm512_permutexvar_epi32(p, even);
        const __m512i o = _mm512_permutexvar_epi32(p, offset);
        uint8_t *to = tile[k / 4];
        for (i = 0; i < format->bits && k % 32 == 0; i++) LLM__NEXT_LINE
        if (k / 16 % 2) {
            LLM__VALUES512(1)
        } else {
            LLM__VALUES512(0)
        }
    }
}

/* Sixteen rows against a tile: out f32 [16][16] += float(dot) * (w * a). */
#define LLM__TILE512_DECLARE(t) \
    __m512i acc##t = _mm512_set1_epi32(-128 * total[(size_t)(t) * (in->stride / 64)]);
#define LLM__TILE512_DOT(t) \
    acc##t = _mm512_dpbusd_epi32(acc##t, c, llm__four512(x[(t) / 4] + (t) % 4 * stride));
#define LLM__TILE512_ADD(t) \
    llm__scaled_add16(out + 16 * (t), acc##t, w, a[(size_t)(t) * (in->stride / 64)]);
/* out[16] += float(dot) * (w * a) */
LLM__AVX512_INLINE void llm__scaled_add16(float *out, __m512i dot, __m512 w, float a) {
    __m512 f = llm__mul16(w, _mm512_set1_ps(a));
    _mm512_storeu_ps(
        out, llm__add16(_mm512_loadu_ps(out), llm__mul16(_mm512_cvtepi32_ps(dot), f)));
}
#define LLM__ROWS_8(X)  LLM__ROWS_4(X) X(4) X(5) X(6) X(7)
#define LLM__ROWS_16(X) LLM__ROWS_8(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
LLM__AVX512 static void llm__tile16_avx512(float *out, uint8_t (*tile)[64], uint32_t s,
                                           const llm__input *in, uint32_t row, uint32_t block,
                                           uint32_t k, __m512 w) {
    const size_t stride = in->stride;
    const int32_t *total = in->total + (size_t)row * (stride / 64) + block;
    const float *a = in->scale + (size_t)row * (stride / 64) + block;
    const int8_t *x[4];
    uint32_t g;
    LLM__ROWS_16(LLM__TILE512_DECLARE)
    for (g = 0; g < 4; g++) x[g] = in->q + (row + 4 * g) * stride + k;
    for (g = 0; g < s / 4; g++) {
        const __m512i c = llm__load512(tile[g]);
        LLM__ROWS_16(LLM__TILE512_DOT)
        x[0] += 4, x[1] += 4, x[2] += 4, x[3] += 4;
    }
    LLM__ROWS_16(LLM__TILE512_ADD)
}

/* Up to 4 or 8 rows; the last stands in for those that are not there. */
#define LLM__SOME512_DECLARE(t)                                           \
    const size_t at##t = row + ((t) < rows ? (t) : rows - 1);             \
    const int8_t *x##t = in->q + at##t * stride + k;                      \
    __m512i acc##t = _mm512_set1_epi32(-128 * in->total[at##t * (stride / 64) + block]);
#define LLM__SOME512_DOT(t) acc##t = _mm512_dpbusd_epi32(acc##t, c, llm__four512(x##t + 4 * g));
#define LLM__SOME512_ADD(t) \
    if ((t) < rows)         \
        llm__scaled_add16(out + 16 * (t), acc##t, w, in->scale[at##t * (stride / 64) + block]);
#define LLM__SOME_AVX512(name, EACH)                                                             \
    LLM__AVX512 static void name(float *out, uint8_t (*tile)[64], uint32_t s,                    \
                                 const llm__input *in, uint32_t row, uint32_t rows,              \
                                 uint32_t block, uint32_t k, __m512 w) {                         \
        const size_t stride = in->stride;                                                        \
        uint32_t g;                                                                              \
        EACH(LLM__SOME512_DECLARE)                                                               \
        for (g = 0; g < s / 4; g++) {                                                            \
            const __m512i c = llm__load512(tile[g]);                                             \
            EACH(LLM__SOME512_DOT)                                                               \
        }                                                                                        \
        EACH(LLM__SOME512_ADD)                                                                   \
    }
LLM__SOME_AVX512(llm__tile4_avx512, LLM__ROWS_4)
LLM__SOME_AVX512(llm__tile8_avx512, LLM__ROWS_8)

LLM__AVX512 LLM__NOINLINE static void llm__tiles_avx512(float *out, uint8_t (*tile)[64], uint32_t s,
                                                        const llm__input *in, uint32_t row,
                                                        uint32_t rows, uint32_t block, uint32_t k,
                                                        const uint8_t *scales) {
    const __m512 w = llm__scales16(scales);
    for (; rows >= 16; rows -= 16, row += 16, out += 256)
        llm__tile16_avx512(out, tile, s, in, row, block, k, w);
    for (; rows > 4; rows -= llm__least(rows, 8), row += 8, out += 128)
        llm__tile8_avx512(out, tile, s, in, row, llm__least(rows, 8), block, k, w);
    if (rows) llm__tile4_avx512(out, tile, s, in, row, rows, block, k, w);
}

LLM__AVX512_INLINE void llm__many_rows_avx512(uint32_t type, float *out, const uint8_t *panel,
                                              uint32_t padded, const llm__input *in, uint32_t row,
                                              uint32_t rows) {
    const uint32_t s = llm__super_block(padded);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded);
    const __m512i flip = _mm512_set1_epi8((char)-128);
    uint8_t tile[256 / 4][64];
    uint32_t b, g, k = 0;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++, k += s) {
        const uint8_t *block = codes + (size_t)k / 64 * llm__record_size(type);
        if (type == LLM_Q8)
            for (g = 0; g < s / 4; g++)
                _mm512_storeu_si512(tile[g], _mm512_xor_si512(llm__load512(block + 64 * g), flip));
        else
            llm__unpack_avx512(in, type, tile, 0, s, 128, parameters + k / 2, block);
        llm__tiles_avx512(out, tile, s, in, row, rows, b, k, panel + b * 32);
    }
}

#define LLM__PANEL_AVX512(name, type, one)                                                      \
    LLM__AVX512 static void llm__panel_##name##_avx512(float *out, const uint8_t *panel,         \
                                                       uint32_t padded, const llm__input *in,    \
                                                       uint32_t row, uint32_t rows) {            \
        if (rows == 1)                                                                           \
            one(type, out, panel, padded, in, row, rows);                                        \
        else                                                                                     \
            llm__many_rows_avx512(type, out, panel, padded, in, row, rows);                      \
    }
LLM__PANEL_AVX512(q8, LLM_Q8, llm__bytes1_avx512)
LLM__PANEL_AVX512(q6, LLM_Q6, llm__packed1_avx512)
LLM__PANEL_AVX512(q5, LLM_Q5, llm__packed1_avx512)
LLM__PANEL_AVX512(q4, LLM_Q4, llm__packed1_avx512)
LLM__PANEL_AVX512(q3, LLM_Q3, llm__packed1_avx512)
LLM__PANEL_AVX512(q2, LLM_Q2, llm__packed1_avx512)

static void llm__kernels_avx512(llm__kernels *k) {
    llm__kernels_avx2(k);
    k->name = "avx512";
    k->norm = llm__norm_avx512;
    k->rotate = llm__rotate_avx512;
    k->quantize = llm__quantize_avx512;
    k->quantize_head = llm__quantize_head_avx512;
    k->add = llm__add_avx512;
    k->blend = llm__blend_avx512;
    k->put = llm__put_avx512;
    k->put_add = llm__put_add_avx512;
    k->gate = llm__gate_avx512;
    k->mask = llm__mask_avx512;
    k->weigh = llm__weigh_avx512;
    k->page_weights = llm__page_weights_avx512;
    k->cap = llm__cap_avx512;
    k->softmax = llm__softmax_avx512;
    k->scores_q8 = llm__scores_q8_avx512;
    k->values_q8 = llm__values_q8_avx512;
    k->panel[LLM_Q8] = llm__panel_q8_avx512;
    k->panel[LLM_Q6] = llm__panel_q6_avx512;
    k->panel[LLM_Q5] = llm__panel_q5_avx512;
    k->panel[LLM_Q4] = llm__panel_q4_avx512;
    k->panel[LLM_Q3] = llm__panel_q3_avx512;
    k->panel[LLM_Q2] = llm__panel_q2_avx512;
}
#endif /* AVX-512 */

/* ---- >>amx: many rows, and attention --------------------------------------------- */
/* A record of 64 columns by the panel's 16 rows is a tile as it lies; sixteen rows of the input are
   another, and their product is sixteen times sixteen dots. A job is a super-block of one or two
   panels against 32 rows: tiles 0 to 3 take the dots, 4 and 5 hold inputs, 6 and 7 weights. What it
   leaves is added to the output bit by bit between the products of the next job, as a processor looks
   no further ahead than some of these; a share of the next super-block is unpacked meanwhile.
   Attention does the same with queries and pages. Tiles are configured while a thread evaluates.
   What is not here is AVX-512's. */
#if defined(LLM__HAVE_AMX) && defined(LLM__HAVE_AVX512)
#if !defined(LLM__AMX) /* else emulated: tests/emulate/x86.h */
#define LLM__AMX                                                                            \
    __attribute__((target("amx-tile,amx-int8,avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl," \
                          "avx512vnni")))
#endif
#define LLM__AMX_INLINE LLM__INLINE LLM__AMX
#define LLM__BY_LINES   __attribute__((aligned(64))) /* a row of a tile is a line of the cache */
#define LLM__QUERIES_AMX 12u /* from which on it pays, asleep or not: see LLM__STAY_AWAKE */

/* GCC's intrinsics do not say what memory they read. */
#define LLM__MEMORY_IS_READ(p) __asm__ volatile("" : : "r"(p) : "memory")

/* All tiles: 16 rows of 64 bytes. */
LLM__AMX static void llm__enter_amx(void) {
    uint8_t config[64] = {0}; /* palette, first row, …, two bytes of width each, rows each */
    uint32_t i;
    config[0] = 1;
    for (i = 0; i < 8; i++) config[16 + 2 * i] = 64, config[48 + i] = 16;
    LLM__MEMORY_IS_READ(config);
    _tile_loadconfig(config);
}
LLM__AMX static void llm__leave_amx(void) {
    _tile_release();
}

/* Columns `from` to `end` of a super-block as values. */
LLM__AVX512 static void llm__unpack_amx(const llm__input *in, uint32_t type, uint8_t (*tile)[64],
                                        uint32_t from, uint32_t end, const uint8_t *parameters,
                                        const uint8_t *codes) {
#define LLM__UNPACK(t) \
    case t: llm__unpack_avx512(in, t, tile, from, end, 0, parameters, codes); break;
    switch (type) {
        LLM__UNPACK(LLM_Q6)
        LLM__UNPACK(LLM_Q5)
        LLM__UNPACK(LLM_Q4)
        LLM__UNPACK(LLM_Q3)
    default: llm__unpack_avx512(in, LLM_Q2, tile, from, end, 0, parameters, codes); break;
    }
#undef LLM__UNPACK
}

typedef struct llm__job_amx {
    const int8_t *q[2];       /* 16 rows of the input each, */
    const float *a[2];        /* their scales, `step` apart */
    const uint8_t *scales[2]; /* of each panel's weights */
    float *out[2];            /* f32 [rows][16], of each panel, from the first of the rows on */
    uint32_t at, first[2];    /* the other sixteen lie `at` rows on; those that none before has */
} llm__job_amx;

/* What the jobs of a call share. */
typedef struct llm__jobs_amx {
    const llm__input *in;
    const uint8_t *panel;
    float *out;
    size_t size, step; /* a panel's bytes; see above */
    uint32_t panels, s, row, rows;
} llm__jobs_amx;

/* Job `i` of a super-block. Sixteen rows end with the last, and so may begin in those before. */
LLM__AMX_INLINE void llm__set_job_amx(llm__job_amx *job, const llm__jobs_amx *of, uint32_t i,
                                      uint32_t block) {
    const llm__input *in = of->in;
    const uint32_t start = llm__least(32 * i, of->rows - 16);
    uint32_t h;
    for (h = 0; h < 2; h++) {
        const uint32_t from = 32 * i + 16 * h, at = llm__least(from, of->rows - 16);
        job->q[h] = in->q + (size_t)(of->row + at) * in->stride + (size_t)block * of->s;
        job->a[h] = in->scale + (size_t)(of->row + at) * of->step + block;
        job->scales[h] = of->panel + of->size * h + (size_t)block * 32;
        job->out[h] = of->out + 16 * ((size_t)of->rows * h + start);
        job->first[h] = llm__least(from - at, 16);
        job->at = at - start;
    }
}

/* A row of stored dots to the output. */
#define LLM__ROW_AMX(t) \
    llm__scaled_add16(to + 16 * (t), llm__load512(dots[t]), w, a[(t) * step]);
/* All dots of a job, [panel][32 rows], to the output. */
LLM__AMX_INLINE void llm__add_amx(const llm__job_amx *job, int32_t (*dot)[16], uint32_t panels,
                                  size_t step) {
    uint32_t p, h, t;
    for (p = 0; p < panels; p++)
        for (h = 0; h < 2; h++) {
            int32_t (*dots)[16] = dot + 32 * p + 16 * h;
            const __m512 w = llm__scales16(job->scales[p]);
            const float *a = job->a[h];
            float *to = job->out[p] + 16 * h * job->at;
            for (t = job->first[h]; t < 16; t++) LLM__ROW_AMX(t)
        }
}
/* A product, and meanwhile up to `some` fours of rows of the job before. */
#define LLM__PRODUCT_AMX(c, x, y)                                            \
    do {                                                                     \
        _tile_dpbssd(c, x, y);                                               \
        for (k = 0; k < some && left; k++, left--) {                         \
            LLM__ROW_AMX(0)                                                  \
            LLM__ROW_AMX(1)                                                  \
            LLM__ROW_AMX(2)                                                  \
            LLM__ROW_AMX(3)                                                  \
            dots += 4, to += 64, a += 4 * step;                              \
            if (left == 9) { /* the second panel begins */                   \
                w = llm__scales16(last->scales[1]);                          \
                to = last->out[1], a = last->a[0];                           \
            }                                                                \
        }                                                                    \
    } while (0)
/* A job to `dot`; `last`, the one before or NULL, from last_dot to the output. Values of a second
   panel lie `other` bytes behind the first's. */
LLM__AMX LLM__NOINLINE static void llm__multiply_amx(const llm__jobs_amx *of,
                                                     const llm__job_amx *job,
                                                     const uint8_t *value, size_t other,
                                                     int32_t (*dot)[16], const llm__job_amx *last,
                                                     int32_t (*last_dot)[16]) {
    const bool two = of->panels == 2, both = job->first[1] < 16;
    const bool meanwhile = both && last && !last->first[0] && !last->first[1];
    const uint32_t some = of->s > 192 ? 1 : of->s > 64 ? 2 : 4;
    const size_t stride = of->in->stride, step = of->step;
    const float *a = last ? last->a[0] : NULL;
    float *to = last ? last->out[0] : NULL;
    int32_t (*dots)[16] = last_dot;
    __m512 w = llm__scales16((last ? last : job)->scales[0]);
    const int8_t *q0 = job->q[0], *q1 = job->q[1];
    uint32_t left = meanwhile ? 8 * of->panels : 0, i, k;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (i = 0; i < of->s; i += 64, q0 += 64, q1 += 64, value += 1024) {
        _tile_loadd(6, value, 64); /* in turn: products for the same tile wait for each other */
        _tile_loadd(4, q0, stride);
        LLM__PRODUCT_AMX(0, 4, 6);
        if (both) _tile_loadd(5, q1, stride);
        if (both) LLM__PRODUCT_AMX(1, 5, 6);
        if (two) _tile_loadd(7, value + other, 64);
        if (two) LLM__PRODUCT_AMX(2, 4, 7);
        if (two && both) LLM__PRODUCT_AMX(3, 5, 7);
    }
    _tile_stored(0, dot, 64);
    if (both) _tile_stored(1, dot + 16, 64);
    if (two) _tile_stored(2, dot + 32, 64);
    if (two && both) _tile_stored(3, dot + 48, 64);
    if (last && !meanwhile) llm__add_amx(last, last_dot, of->panels, step);
}

/* One panel or two, `size` bytes apart, to [panels][rows][16]. */
LLM__AMX static void llm__many_rows_amx(uint32_t type, uint32_t panels, float *out,
                                        const uint8_t *panel, size_t size, uint32_t padded,
                                        const llm__input *in, uint32_t row, uint32_t rows) {
    const uint32_t s = llm__super_block(padded), count = (rows + 31) / 32;
    const uint32_t share = (s / 16 + count - 1) / count * 16; /* columns to unpack beside a job */
    const size_t block_size = (size_t)s / 64 * llm__record_size(type);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded), *value;
    LLM__BY_LINES uint8_t values[2][2][256 / 4][64]; /* this super-block and the next */
    LLM__BY_LINES int32_t dot[2][4 * 16][16];        /* of this job and the one before */
    llm__jobs_amx jobs;
    llm__job_amx job[2], *last = NULL;
    uint32_t b, i, p, now = 0;
    jobs.in = in, jobs.panel = panel, jobs.out = out, jobs.size = size, jobs.panels = panels;
    jobs.s = s, jobs.row = row, jobs.rows = rows, jobs.step = in->stride / 64;
    memset(out, 0, sizeof(float) * 16 * rows * panels);
    for (p = 0; p < panels && type != LLM_Q8; p++)
        llm__unpack_amx(in, type, values[0][p], 0, s, parameters + p * size, codes + p * size);
    for (b = 0; b < padded / s; b++) {
        const bool more = type != LLM_Q8 && b + 1 < padded / s;
        value = type == LLM_Q8 ? codes : values[b % 2][0][0];
        LLM__MEMORY_IS_READ(value);
        codes += block_size, parameters += s / 2;
        for (i = 0; i < count; i++) {
            llm__set_job_amx(&job[now], &jobs, i, b);
            llm__multiply_amx(&jobs, &job[now], value,
                              type == LLM_Q8 ? size : sizeof values[0][0], dot[now], last,
                              dot[!now]);
            for (p = 0; p < panels && more && i * share < s; p++)
                llm__unpack_amx(in, type, values[(b + 1) % 2][p], i * share,
                                llm__least((i + 1) * share, s), parameters + p * size,
                                codes + p * size);
            last = &job[now];
            now = !now;
        }
    }
    llm__add_amx(last, dot[!now], panels, jobs.step);
}

#define LLM__PANEL_AMX(name, type)                                                             \
    LLM__AVX512 static void llm__panel_##name##_amx(float *out, const uint8_t *panel,           \
                                                    uint32_t padded, const llm__input *in,      \
                                                    uint32_t row, uint32_t rows) {              \
        if (rows < LLM__TILE_ROWS)                                                              \
            llm__panel_##name##_avx512(out, panel, padded, in, row, rows);                      \
        else                                                                                    \
            llm__many_rows_amx(type, 1, out, panel, 0, padded, in, row, rows);                  \
    }                                                                                           \
    LLM__AVX512 static void llm__two_panels_##name##_amx(                                       \
        float *out, const uint8_t *panel, size_t size, uint32_t padded, const llm__input *in,   \
        uint32_t row, uint32_t rows) {                                                          \
        llm__many_rows_amx(type, 2, out, panel, size, padded, in, row, rows);                   \
    }
LLM__PANEL_AMX(q8, LLM_Q8)
LLM__PANEL_AMX(q6, LLM_Q6)
LLM__PANEL_AMX(q5, LLM_Q5)
LLM__PANEL_AMX(q4, LLM_Q4)
LLM__PANEL_AMX(q3, LLM_Q3)
LLM__PANEL_AMX(q2, LLM_Q2)

/* ---- the cache: digits of 16 queries are a tile, 16 lines of keys or values another ---- */

LLM__AVX512_INLINE __m512i llm__bytes_amx(__m512i a, __m512i b) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                    _mm512_packs_epi16(a, b));
}
/* As llm__digits_avx512, of `count` queries of n (a multiple of 64) integers. */
LLM__AVX512 static void llm__digits_amx(const int16_t *q, uint32_t n, uint32_t count, int8_t *high,
                                        int8_t *low) {
    const __m512i half = _mm512_set1_epi16(64);
    uint32_t i;
    for (i = 0; i < n * count; i += 64) {
        const __m512i u = llm__load512(q + i), v = llm__load512(q + i + 32);
        const __m512i g = _mm512_srai_epi16(_mm512_add_epi16(u, half), 7);
        const __m512i h = _mm512_srai_epi16(_mm512_add_epi16(v, half), 7);
        const __m512i k = _mm512_sub_epi16(u, _mm512_slli_epi16(g, 7));
        const __m512i l = _mm512_sub_epi16(v, _mm512_slli_epi16(h, 7));
        _mm512_storeu_si512(high + i, llm__bytes_amx(g, h));
        _mm512_storeu_si512(low + i, llm__bytes_amx(k, l));
    }
}
/* Dots of sixteen queries, n integers as digits, with sixteen columns of n / 4 lines: those of the
   high digits to tile c, of the low ones to tile d. */
#define LLM__DOTS_AMX(c, d, to)                   \
    do {                                          \
        uint32_t at;                              \
        _tile_zero(c);                            \
        _tile_zero(d);                            \
        for (at = 0; at < n; at += 64) {          \
            _tile_loadd(2, high + at, n);         \
            _tile_loadd(3, low + at, n);          \
            _tile_loadd(4, w + 16 * at, 64);      \
            _tile_dpbssd(c, 2, 4);                \
            _tile_dpbssd(d, 3, 4);                \
        }                                         \
        _tile_stored(c, to, 64);                  \
        _tile_stored(d, to + 16, 64);             \
    } while (0)
LLM__AMX_INLINE void llm__dots_amx(uint32_t number, int32_t (*dot)[32][16], const int8_t *high,
                                   const int8_t *low, uint32_t n, const int8_t *w) {
    if (number % 2)
        LLM__DOTS_AMX(5, 6, dot[1]);
    else
        LLM__DOTS_AMX(0, 1, dot[0]);
}
LLM__AVX512_INLINE __m512 llm__joined_amx(int32_t (*dot)[16], uint32_t i) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(llm__load512(dot[i]), 7),
                                               llm__load512(dot[16 + i])));
}

LLM__AMX static void llm__scores_q8_amx(float *out, const int16_t *q, const int8_t *k, uint32_t n,
                                        uint32_t count, ptrdiff_t ahead) {
    LLM__BY_LINES int8_t high[LLM__QUERIES * 512], low[LLM__QUERIES * 512];
    LLM__BY_LINES int32_t dot[2][32][16];
    uint32_t t, i, c;
    if (count < LLM__QUERIES_AMX || n % 64) {
        llm__scores_q8_avx512(out, q, k, n, count, ahead);
        return;
    }
    llm__digits_amx(q, n, count, high, low);
    LLM__MEMORY_IS_READ(high);
    LLM__MEMORY_IS_READ(low);
    for (t = 0; t <= 4; t++, k += 16 * n) {
        if (t < 4) llm__dots_amx(t, dot, high, low, n, k);
        if (t == 0) continue;
        for (i = 0; i < count; i++)
            _mm512_storeu_ps(out + 64 * i + 16 * (t - 1), llm__joined_amx(dot[(t - 1) % 2], i));
        for (c = 0; c < 16 * n; c += 64) llm__prefetch(k - 16 * n + c + ahead);
    }
}
LLM__AMX static void llm__values_q8_amx(float *out, const float *keep, const float *take,
                                        const int16_t *p, const int8_t *v, uint32_t n,
                                        uint32_t count, ptrdiff_t ahead) {
    LLM__BY_LINES int8_t high[LLM__QUERIES * 64], low[LLM__QUERIES * 64];
    LLM__BY_LINES int32_t dot[2][32][16];
    uint32_t t, i;
    if (count < LLM__QUERIES_AMX) {
        llm__values_q8_avx512(out, keep, take, p, v, n, count, ahead);
        return;
    }
    llm__digits_amx(p, 64, count, high, low);
    LLM__MEMORY_IS_READ(high);
    LLM__MEMORY_IS_READ(low);
    for (t = 0; t <= n / 16; t++, v += 1024) {
        if (t < n / 16) llm__dots_amx(t, dot, high, low, 64, v);
        if (t == 0) continue;
        for (i = 0; i < count; i++) {
            float *to = out + i * n + 16 * (t - 1);
            const __m512 d = llm__joined_amx(dot[(t - 1) % 2], i);
            _mm512_storeu_ps(to, llm__add16(llm__mul16(_mm512_loadu_ps(to), _mm512_set1_ps(keep[i])),
                                            llm__mul16(d, _mm512_set1_ps(take[i]))));
            llm__prefetch(v - 1024 + 64 * i + ahead);
        }
    }
}

/* ---- between products ---- */

/* The unit that multiplies tiles sleeps when it had nothing to do for half a microsecond, and takes
   a third of one to wake up: a product that nobody wants, now and then, keeps it awake. */
#define LLM__STAY_AWAKE _tile_dpbssd(7, 2, 3)

LLM__AMX static void llm__page_weights_amx(llm__weights *w, uint32_t from, uint32_t end,
                                           const float *k_scale, const float *v_scale) {
    for (; from < end; from += 8) {
        LLM__STAY_AWAKE;
        llm__page_weights_avx512(w, from, llm__least(end, from + 8), k_scale, v_scale);
    }
}
LLM__AMX static void llm__put_amx(float *to, size_t stride, const float *from, uint32_t rows) {
    for (; rows > 16; rows -= 16, to += 16 * stride, from += 256) {
        LLM__STAY_AWAKE;
        llm__put_avx512(to, stride, from, 16);
    }
    llm__put_avx512(to, stride, from, rows);
}

static void llm__kernels_amx(llm__kernels *k) {
    llm__kernels_avx512(k);
    k->name = "amx";
    k->allowed = llm__amx_allowed;
    k->enter = llm__enter_amx;
    k->leave = llm__leave_amx;
    k->page_weights = llm__page_weights_amx;
    k->put = llm__put_amx;
    k->scores_q8 = llm__scores_q8_amx;
    k->values_q8 = llm__values_q8_amx;
    k->panel[LLM_Q8] = llm__panel_q8_amx;
    k->two_panels[LLM_Q8] = llm__two_panels_q8_amx;
    k->panel[LLM_Q6] = llm__panel_q6_amx;
    k->two_panels[LLM_Q6] = llm__two_panels_q6_amx;
    k->panel[LLM_Q5] = llm__panel_q5_amx;
    k->two_panels[LLM_Q5] = llm__two_panels_q5_amx;
    k->panel[LLM_Q4] = llm__panel_q4_amx;
    k->two_panels[LLM_Q4] = llm__two_panels_q4_amx;
    k->panel[LLM_Q3] = llm__panel_q3_amx;
    k->two_panels[LLM_Q3] = llm__two_panels_q3_amx;
    k->panel[LLM_Q2] = llm__panel_q2_amx;
    k->two_panels[LLM_Q2] = llm__two_panels_q2_amx;
}
#endif /* AMX */

#if defined(LLM__HAVE_AVX512) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/* ---- >>simd128: NEON and WebAssembly ------------------------------------------ */
/* Registers of four floats or sixteen bytes: a line of a panel is four of them, four rows each. The
   few operations come first, once for each machine; everything built of them is written once. The
   sixteen virtual lanes are four registers. */
#if defined(__aarch64__) && !defined(LLM_NO_SIMD128)
#define LLM__HAVE_SIMD128 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

typedef float32x4_t llm__f4;
typedef int32x4_t llm__i4;
typedef uint8x16_t llm__b16;
typedef struct llm__acc4 { /* four dots */
    int32x4_t sum;
} llm__acc4;

LLM__INLINE llm__f4 llm__f4_load(const float *p) { return vld1q_f32(p); }
LLM__INLINE void llm__f4_store(float *p, llm__f4 x) { vst1q_f32(p, x); }
LLM__INLINE llm__f4 llm__f4_all(float x) { return vdupq_n_f32(x); }
LLM__INLINE llm__f4 llm__f4_mul(llm__f4 a, llm__f4 b) {
    llm__f4 p = vmulq_f32(a, b);
    LLM__PIN(p);
    return p;
}
LLM__INLINE llm__f4 llm__f4_add(llm__f4 a, llm__f4 b) {
    llm__f4 s = vaddq_f32(a, b);
    LLM__PIN(s);
    return s;
}
LLM__INLINE llm__f4 llm__f4_sub(llm__f4 a, llm__f4 b) {
    llm__f4 s = vsubq_f32(a, b);
    LLM__PIN(s);
    return s;
}
/* a where a > b, else b. */
LLM__INLINE llm__f4 llm__f4_larger(llm__f4 a, llm__f4 b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
LLM__INLINE llm__f4 llm__f4_smaller(llm__f4 a, llm__f4 b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
LLM__INLINE llm__f4 llm__f4_of(llm__i4 x) { return vcvtq_f32_s32(x); }
LLM__INLINE llm__f4 llm__f4_as(llm__i4 x) { return vreinterpretq_f32_s32(x); }
LLM__INLINE llm__i4 llm__i4_as(llm__f4 x) { return vreinterpretq_s32_f32(x); }
LLM__INLINE llm__i4 llm__i4_all(int32_t x) { return vdupq_n_s32(x); }
LLM__INLINE llm__i4 llm__i4_load(const void *p) {
    return vreinterpretq_s32_u8(vld1q_u8(LLM__CAST(const uint8_t *, p)));
}
LLM__INLINE void llm__i4_store(int32_t *p, llm__i4 x) { vst1q_s32(p, x); }
LLM__INLINE llm__i4 llm__i4_add(llm__i4 a, llm__i4 b) { return vaddq_s32(a, b); }
LLM__INLINE llm__i4 llm__i4_sub(llm__i4 a, llm__i4 b) { return vsubq_s32(a, b); }
LLM__INLINE llm__i4 llm__i4_max(llm__i4 a, llm__i4 b) { return vmaxq_s32(a, b); }
LLM__INLINE llm__i4 llm__i4_and(llm__i4 a, llm__i4 b) { return vandq_s32(a, b); }
LLM__INLINE llm__i4 llm__i4_xor(llm__i4 a, llm__i4 b) { return veorq_s32(a, b); }
/* Every bit set where a == b, a > b; a where the mask is set, else b. */
LLM__INLINE llm__i4 llm__i4_equal(llm__i4 a, llm__i4 b) {
    return vreinterpretq_s32_u32(vceqq_s32(a, b));
}
LLM__INLINE llm__i4 llm__i4_greater(llm__i4 a, llm__i4 b) {
    return vreinterpretq_s32_u32(vcgtq_s32(a, b));
}
LLM__INLINE llm__i4 llm__i4_select(llm__i4 mask, llm__i4 a, llm__i4 b) {
    return vbslq_s32(vreinterpretq_u32_s32(mask), a, b);
}
#define LLM__I4_LEFT(x, n) vshlq_n_s32(x, n)
/* Lanes 1 0 3 2; lanes 2 3 0 1. */
LLM__INLINE llm__f4 llm__f4_swap1(llm__f4 x) { return vrev64q_f32(x); }
LLM__INLINE llm__f4 llm__f4_swap2(llm__f4 x) { return vextq_f32(x, x, 2); }
LLM__INLINE llm__i4 llm__i4_widen(const uint16_t *p) { /* bf16 to the upper half */
    return vreinterpretq_s32_u32(vshll_n_u16(vld1_u16(p), 16));
}
LLM__INLINE llm__f4 llm__f4_halves(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
/* Four integers that fit 16 bits. */
LLM__INLINE void llm__i4_store16(int16_t *p, llm__i4 x) { vst1_s16(p, vmovn_s32(x)); }

LLM__INLINE llm__b16 llm__b16_load(const void *p) { return vld1q_u8(LLM__CAST(const uint8_t *, p)); }
LLM__INLINE void llm__b16_store(void *p, llm__b16 x) { vst1q_u8(LLM__CAST(uint8_t *, p), x); }
LLM__INLINE llm__b16 llm__b16_all(uint8_t x) { return vdupq_n_u8(x); }
LLM__INLINE llm__b16 llm__b16_four(const void *p) {
    return vreinterpretq_u8_u32(vdupq_n_u32(llm__u32(p)));
}
LLM__INLINE llm__b16 llm__b16_look(llm__b16 table, llm__b16 at) { return vqtbl1q_u8(table, at); }
LLM__INLINE llm__b16 llm__b16_and(llm__b16 a, llm__b16 b) { return vandq_u8(a, b); }
LLM__INLINE llm__b16 llm__b16_or(llm__b16 a, llm__b16 b) { return vorrq_u8(a, b); }
LLM__INLINE llm__b16 llm__b16_right(llm__b16 a, unsigned n) { /* bytes */
    return vshlq_u8(a, vdupq_n_s8((int8_t)-(int)n));
}
LLM__INLINE llm__b16 llm__b16_left(llm__b16 a, unsigned n) {
    return vshlq_u8(a, vdupq_n_s8((int8_t)n));
}
/* u * m - b by bytes; u * m is below 256. */
LLM__INLINE llm__b16 llm__b16_value(llm__b16 u, llm__b16 m, llm__b16 b) {
    return vsubq_u8(vmulq_u8(u, m), b);
}
/* Low bytes of the products of bytes. */
LLM__INLINE llm__b16 llm__b16_times(llm__b16 a, llm__b16 b) { return vmulq_u8(a, b); }
/* Eight bytes: low nibbles, then high nibbles. */
LLM__INLINE llm__b16 llm__b16_nibbles(const uint8_t *p) {
    uint8x8_t x = vld1_u8(p);
    return vcombine_u8(vand_u8(x, vdup_n_u8(15)), vshr_n_u8(x, 4));
}

#if defined(LLM__INLINE_ALWAYS) /* else functions without the target hold the instructions */
#define LLM__HAVE_NEON_DOT 1
#endif
#if defined(__clang__)
#define LLM__NEON_DOT __attribute__((target("dotprod")))
#else
#define LLM__NEON_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
LLM__INLINE llm__acc4 llm__acc4_zero(void) {
    llm__acc4 a;
    a.sum = vdupq_n_s32(0);
    return a;
}
/* a += w . x of four signed bytes each. Two products fit 16 bits: |w| and |x| are at most 127. */
LLM__INLINE void llm__acc4_dot(bool dot, llm__acc4 *a, llm__b16 w, llm__b16 x) {
    const int8x16_t v = vreinterpretq_s8_u8(w), y = vreinterpretq_s8_u8(x);
#ifdef LLM__HAVE_NEON_DOT
    if (dot) {
        __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(a->sum) : "w"(w), "w"(x));
        return;
    }
#endif
    (void)dot;
    a->sum = vpadalq_s16(a->sum, vpaddq_s16(vmull_s8(vget_low_s8(v), vget_low_s8(y)),
                                            vmull_high_s8(v, y)));
}
LLM__INLINE llm__i4 llm__acc4_sum(llm__acc4 a) { return a.sum; }

#elif defined(__wasm_simd128__) && !defined(LLM_NO_SIMD128)
#define LLM__HAVE_SIMD128 1
#include <wasm_simd128.h>

typedef v128_t llm__f4;
typedef v128_t llm__i4;
typedef v128_t llm__b16;
typedef struct llm__acc4 { /* pairs of rows 0 and 1, of rows 2 and 3 */
    v128_t low, high;
} llm__acc4;

LLM__INLINE llm__f4 llm__f4_load(const float *p) { return wasm_v128_load(p); }
LLM__INLINE void llm__f4_store(float *p, llm__f4 x) { wasm_v128_store(p, x); }
LLM__INLINE llm__f4 llm__f4_all(float x) { return wasm_f32x4_splat(x); }
LLM__INLINE llm__f4 llm__f4_mul(llm__f4 a, llm__f4 b) {
    llm__f4 p = wasm_f32x4_mul(a, b);
    LLM__PIN(p);
    return p;
}
LLM__INLINE llm__f4 llm__f4_add(llm__f4 a, llm__f4 b) {
    llm__f4 s = wasm_f32x4_add(a, b);
    LLM__PIN(s);
    return s;
}
LLM__INLINE llm__f4 llm__f4_sub(llm__f4 a, llm__f4 b) {
    llm__f4 s = wasm_f32x4_sub(a, b);
    LLM__PIN(s);
    return s;
}
/* a where a > b, else b. */
LLM__INLINE llm__f4 llm__f4_larger(llm__f4 a, llm__f4 b) {
    return wasm_v128_bitselect(a, b, wasm_f32x4_gt(a, b));
}
LLM__INLINE llm__f4 llm__f4_smaller(llm__f4 a, llm__f4 b) {
    return wasm_v128_bitselect(a, b, wasm_f32x4_lt(a, b));
}
LLM__INLINE llm__f4 llm__f4_of(llm__i4 x) { return wasm_f32x4_convert_i32x4(x); }
LLM__INLINE llm__f4 llm__f4_as(llm__i4 x) { return x; }
LLM__INLINE llm__i4 llm__i4_as(llm__f4 x) { return x; }
LLM__INLINE llm__i4 llm__i4_all(int32_t x) { return wasm_i32x4_splat(x); }
LLM__INLINE llm__i4 llm__i4_load(const void *p) { return wasm_v128_load(p); }
LLM__INLINE void llm__i4_store(int32_t *p, llm__i4 x) { wasm_v128_store(p, x); }
LLM__INLINE llm__i4 llm__i4_add(llm__i4 a, llm__i4 b) { return wasm_i32x4_add(a, b); }
LLM__INLINE llm__i4 llm__i4_sub(llm__i4 a, llm__i4 b) { return wasm_i32x4_sub(a, b); }
LLM__INLINE llm__i4 llm__i4_max(llm__i4 a, llm__i4 b) { return wasm_i32x4_max(a, b); }
LLM__INLINE llm__i4 llm__i4_and(llm__i4 a, llm__i4 b) { return wasm_v128_and(a, b); }
LLM__INLINE llm__i4 llm__i4_xor(llm__i4 a, llm__i4 b) { return wasm_v128_xor(a, b); }
/* Every bit set where a == b, a > b; a where the mask is set, else b. */
LLM__INLINE llm__i4 llm__i4_equal(llm__i4 a, llm__i4 b) { return wasm_i32x4_eq(a, b); }
LLM__INLINE llm__i4 llm__i4_greater(llm__i4 a, llm__i4 b) { return wasm_i32x4_gt(a, b); }
LLM__INLINE llm__i4 llm__i4_select(llm__i4 mask, llm__i4 a, llm__i4 b) {
    return wasm_v128_bitselect(a, b, mask);
}
#define LLM__I4_LEFT(x, n) wasm_i32x4_shl(x, n)
/* Lanes 1 0 3 2; lanes 2 3 0 1. */
LLM__INLINE llm__f4 llm__f4_swap1(llm__f4 x) { return wasm_i32x4_shuffle(x, x, 1, 0, 3, 2); }
LLM__INLINE llm__f4 llm__f4_swap2(llm__f4 x) { return wasm_i32x4_shuffle(x, x, 2, 3, 0, 1); }
LLM__INLINE llm__i4 llm__i4_widen(const uint16_t *p) { /* bf16 to the upper half */
    return wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16);
}
/* Subnormal halves are scaled by a multiplication, the others moved; neither rounds. */
LLM__INLINE llm__f4 llm__f4_halves(const uint16_t *p) {
    const v128_t h = wasm_u32x4_load16x4(p);
    const v128_t sign = wasm_i32x4_shl(wasm_v128_and(h, wasm_i32x4_splat(0x8000)), 16);
    const v128_t bits = wasm_v128_and(h, wasm_i32x4_splat(0x7fff));
    const v128_t small = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(bits),
                                        wasm_f32x4_splat(5.9604644775390625e-8f));
    v128_t x = wasm_i32x4_add(wasm_i32x4_shl(bits, 13), wasm_i32x4_splat(112 << 23));
    const v128_t special = wasm_i32x4_gt(bits, wasm_i32x4_splat(0x7bff));
    x = wasm_i32x4_add(x, wasm_v128_and(special, wasm_i32x4_splat(112 << 23)));
    x = wasm_v128_bitselect(small, x, wasm_i32x4_lt(bits, wasm_i32x4_splat(0x400)));
    return wasm_v128_or(x, sign);
}
/* Four integers that fit 16 bits. */
LLM__INLINE void llm__i4_store16(int16_t *p, llm__i4 x) {
    wasm_v128_store64_lane(p, wasm_i16x8_narrow_i32x4(x, x), 0);
}

LLM__INLINE llm__b16 llm__b16_load(const void *p) { return wasm_v128_load(p); }
LLM__INLINE void llm__b16_store(void *p, llm__b16 x) { wasm_v128_store(p, x); }
LLM__INLINE llm__b16 llm__b16_all(uint8_t x) { return wasm_u8x16_splat(x); }
LLM__INLINE llm__b16 llm__b16_four(const void *p) { return wasm_v128_load32_splat(p); }
LLM__INLINE llm__b16 llm__b16_look(llm__b16 table, llm__b16 at) {
    return wasm_i8x16_swizzle(table, at);
}
LLM__INLINE llm__b16 llm__b16_and(llm__b16 a, llm__b16 b) { return wasm_v128_and(a, b); }
LLM__INLINE llm__b16 llm__b16_or(llm__b16 a, llm__b16 b) { return wasm_v128_or(a, b); }
LLM__INLINE llm__b16 llm__b16_right(llm__b16 a, unsigned n) { return wasm_u8x16_shr(a, n); }
LLM__INLINE llm__b16 llm__b16_left(llm__b16 a, unsigned n) { return wasm_i8x16_shl(a, n); }
/* u * m - b by bytes; u * m is below 256. */
LLM__INLINE llm__b16 llm__b16_value(llm__b16 u, llm__b16 m, llm__b16 b) {
    v128_t product =
        wasm_u8x16_narrow_i16x8(wasm_u16x8_extmul_low_u8x16(u, m), wasm_u16x8_extmul_high_u8x16(u, m));
    return wasm_i8x16_sub(product, b);
}
/* Low bytes of the products of bytes. */
LLM__INLINE llm__b16 llm__b16_times(llm__b16 a, llm__b16 b) {
    v128_t even = wasm_v128_and(wasm_i16x8_mul(a, b), wasm_i16x8_splat(255));
    v128_t odd = wasm_i16x8_mul(wasm_u16x8_shr(a, 8), wasm_u16x8_shr(b, 8));
    return wasm_v128_or(even, wasm_i16x8_shl(odd, 8));
}
/* Eight bytes: low nibbles, then high nibbles. */
LLM__INLINE llm__b16 llm__b16_nibbles(const uint8_t *p) {
    v128_t x = wasm_v128_load64_zero(p), low = wasm_v128_and(x, wasm_u8x16_splat(15));
    return wasm_i64x2_shuffle(low, wasm_u8x16_shr(x, 4), 0, 2);
}

LLM__INLINE llm__acc4 llm__acc4_zero(void) {
    llm__acc4 a;
    a.low = a.high = wasm_i32x4_splat(0);
    return a;
}
/* a += w . x of four signed bytes each. */
LLM__INLINE void llm__acc4_dot(bool dot, llm__acc4 *a, llm__b16 w, llm__b16 x) {
    (void)dot;
    a->low = wasm_i32x4_add(a->low,
                            wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_low_i8x16(w, x)));
    a->high = wasm_i32x4_add(a->high,
                             wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_high_i8x16(w, x)));
}
LLM__INLINE llm__i4 llm__acc4_sum(llm__acc4 a) {
    return wasm_i32x4_add(wasm_i32x4_shuffle(a.low, a.high, 0, 2, 4, 6),
                          wasm_i32x4_shuffle(a.low, a.high, 1, 3, 5, 7));
}
#endif

#ifdef LLM__HAVE_SIMD128

/* The fixed tree, from the sixteen lanes. */
LLM__INLINE float llm__tree4(const llm__f4 lane[4]) {
    float x[4];
    llm__f4 a = llm__f4_add(llm__f4_add(lane[0], lane[2]), llm__f4_add(lane[1], lane[3]));
    a = llm__f4_add(a, llm__f4_swap2(a));
    llm__f4_store(x, llm__f4_add(a, llm__f4_swap1(a)));
    return x[0];
}
/* To the nearest integer, ties to even; |x| < 2^22. */
LLM__INLINE llm__i4 llm__i4_round(llm__f4 x) {
    const llm__f4 magic = llm__f4_all(12582912.0f);
    return llm__i4_sub(llm__i4_as(llm__f4_add(x, magic)), llm__i4_as(magic));
}

LLM__INLINE llm__f4 llm__exp4(llm__f4 x) {
    llm__f4 n, r, p;
    llm__i4 i;
    x = llm__f4_larger(x, llm__f4_all(LLM__EXP_LEAST));
    x = llm__f4_smaller(x, llm__f4_all(LLM__EXP_MOST));
    i = llm__i4_round(llm__f4_mul(x, llm__f4_all(LLM__LOG2E)));
    n = llm__f4_of(i);
    r = llm__f4_sub(x, llm__f4_mul(n, llm__f4_all(LLM__LN2_HI)));
    r = llm__f4_sub(r, llm__f4_mul(n, llm__f4_all(LLM__LN2_LO)));
    p = llm__f4_add(llm__f4_mul(llm__f4_all(1.9875691500e-4f), r), llm__f4_all(1.3981999507e-3f));
    p = llm__f4_add(llm__f4_mul(p, r), llm__f4_all(8.3334519073e-3f));
    p = llm__f4_add(llm__f4_mul(p, r), llm__f4_all(4.1665795894e-2f));
    p = llm__f4_add(llm__f4_mul(p, r), llm__f4_all(1.6666665459e-1f));
    p = llm__f4_add(llm__f4_mul(p, r), llm__f4_all(5.0000001201e-1f));
    p = llm__f4_add(llm__f4_mul(llm__f4_mul(p, r), r), r);
    p = llm__f4_add(p, llm__f4_all(1.0f));
    return llm__f4_mul(p, llm__f4_as(LLM__I4_LEFT(llm__i4_add(i, llm__i4_all(127)), 23)));
}
LLM__INLINE llm__f4 llm__recip4(llm__f4 x) {
    const llm__f4 two = llm__f4_all(2.0f);
    llm__f4 y = llm__f4_as(llm__i4_sub(llm__i4_all(0x7ef311c3), llm__i4_as(x)));
    y = llm__f4_mul(y, llm__f4_sub(two, llm__f4_mul(x, y)));
    y = llm__f4_mul(y, llm__f4_sub(two, llm__f4_mul(x, y)));
    return llm__f4_mul(y, llm__f4_sub(two, llm__f4_mul(x, y)));
}
LLM__INLINE llm__f4 llm__silu4(llm__f4 x) {
    llm__f4 minus = llm__f4_as(llm__i4_xor(llm__i4_as(x), llm__i4_as(llm__f4_all(-0.0f))));
    return llm__f4_mul(x, llm__recip4(llm__f4_add(llm__f4_all(1.0f), llm__exp4(minus))));
}
LLM__INLINE llm__f4 llm__tanh4(llm__f4 u) {
    const llm__f4 one = llm__f4_all(1.0f), two = llm__f4_all(2.0f);
    llm__f4 e = llm__f4_add(llm__exp4(llm__f4_mul(two, u)), one);
    return llm__f4_sub(one, llm__f4_mul(two, llm__recip4(e)));
}
LLM__INLINE llm__f4 llm__gelu_tanh4(llm__f4 x) {
    llm__f4 cube = llm__f4_mul(llm__f4_mul(x, x), x), u;
    u = llm__f4_mul(llm__f4_all(0.7978845608f),
                    llm__f4_add(x, llm__f4_mul(llm__f4_all(0.044715f), cube)));
    return llm__f4_mul(llm__f4_mul(llm__f4_all(0.5f), x),
                       llm__f4_add(llm__f4_all(1.0f), llm__tanh4(u)));
}

static void llm__norm_simd128(float *y, const float *x, const float *gain, uint32_t n,
                              float inverse_n, float epsilon) {
    llm__f4 lane[4], r;
    uint32_t i, j;
    for (j = 0; j < 4; j++) lane[j] = llm__f4_all(0);
    for (i = 0; i < n; i += 16)
        for (j = 0; j < 4; j++) {
            llm__f4 u = llm__f4_load(x + i + 4 * j);
            lane[j] = llm__f4_add(lane[j], llm__f4_mul(u, u));
        }
    r = llm__f4_all(llm__rsqrt(llm__addf(llm__mulf(llm__tree4(lane), inverse_n), epsilon)));
    for (i = 0; i < n; i += 4)
        llm__f4_store(y + i,
                      llm__f4_mul(llm__f4_mul(llm__f4_load(x + i), r), llm__f4_load(gain + i)));
}

static void llm__rotate_simd128(float *x, uint32_t n, uint32_t block) {
    static const int32_t odd[4] = {0, INT32_MIN, 0, INT32_MIN},
                         upper[4] = {0, 0, INT32_MIN, INT32_MIN};
    const llm__i4 s1 = llm__i4_load(odd), s2 = llm__i4_load(upper);
    const llm__f4 scale =
        llm__f4_all(block == 64 ? 0.125f : block == 32 ? 0.17677669529f : 0.25f);
    uint32_t i, j, h, vectors = block / 4;
    for (i = 0; i < n; i += block) {
        llm__f4 v[16];
        for (j = 0; j < vectors; j++) {
            llm__f4 t = llm__f4_load(x + i + 4 * j);
            t = llm__f4_add(llm__f4_swap1(t), llm__f4_as(llm__i4_xor(llm__i4_as(t), s1)));
            v[j] = llm__f4_add(llm__f4_swap2(t), llm__f4_as(llm__i4_xor(llm__i4_as(t), s2)));
        }
        for (h = 1; h < vectors; h *= 2)
            for (j = 0; j < vectors; j++)
                if (!(j & h)) {
                    llm__f4 a = v[j], b = v[j + h];
                    v[j] = llm__f4_add(a, b);
                    v[j + h] = llm__f4_sub(a, b);
                }
        for (j = 0; j < vectors; j++) llm__f4_store(x + i + 4 * j, llm__f4_mul(v[j], scale));
    }
}

/* Bits of the largest |x[i]|. */
LLM__INLINE uint32_t llm__most_simd128(const float *x, uint32_t n) {
    const llm__i4 mask = llm__i4_all(0x7fffffff);
    llm__i4 most = llm__i4_all(0);
    int32_t lane[4];
    uint32_t i;
    for (i = 0; i < n; i += 4)
        most = llm__i4_max(most, llm__i4_and(llm__i4_as(llm__f4_load(x + i)), mask));
    llm__i4_store(lane, most);
    for (i = 1; i < 4; i++) lane[0] = lane[0] > lane[i] ? lane[0] : lane[i];
    return (uint32_t)lane[0];
}

/* x[n] times factor, rounded; 0 if factor is. */
LLM__INLINE void llm__round_simd128(const float *x, uint32_t n, float factor, int16_t *q) {
    const llm__f4 f = llm__f4_all(factor);
    uint32_t i;
    for (i = 0; i < n; i += 4)
        llm__i4_store16(q + i, factor == 0 ? llm__i4_all(0)
                                           : llm__i4_round(llm__f4_mul(llm__f4_load(x + i), f)));
}

static void llm__quantize_simd128(const float *x, uint32_t n, uint32_t s, int8_t *q, int16_t *wide,
                                  float *scale, int16_t *sums) {
    uint32_t i, j, k;
    for (i = 0; i < n; i += s) {
        float factor = llm__scale_of(llm__most_simd128(x + i, s), LLM__INT8_MOST, LLM__INVERSE_127,
                                     &scale[i / s]);
        llm__round_simd128(x + i, s, factor, wide + i);
        for (j = i; j < i + s; j += 16) {
            int sum = 0;
            for (k = j; k < j + 16; k++) q[k] = (int8_t)wide[k], sum += wide[k];
            sums[j / 16] = (int16_t)sum;
        }
    }
}
static float llm__quantize_head_simd128(const float *x, uint32_t n, float limit, int16_t *q) {
    float scale, factor = llm__scale_of(llm__most_simd128(x, n), limit,
                                        limit > 128 ? LLM__INVERSE_16256 : LLM__INVERSE_127, &scale);
    llm__round_simd128(x, n, factor, q);
    return scale;
}

static void llm__rope_simd128(float *x, const float *turn, uint32_t half) {
    uint32_t i;
    for (i = 0; i + 4 <= half; i += 4) {
        llm__f4 a = llm__f4_load(x + i), b = llm__f4_load(x + i + half);
        llm__f4 c = llm__f4_load(turn + i), s = llm__f4_load(turn + i + half);
        llm__f4_store(x + i, llm__f4_sub(llm__f4_mul(a, c), llm__f4_mul(b, s)));
        llm__f4_store(x + i + half, llm__f4_add(llm__f4_mul(b, c), llm__f4_mul(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half], c = turn[i], s = turn[i + half];
        x[i] = llm__subf(llm__mulf(a, c), llm__mulf(b, s));
        x[i + half] = llm__addf(llm__mulf(b, c), llm__mulf(a, s));
    }
}

static void llm__add_simd128(float *y, const float *x, float scale, uint32_t n) {
    const llm__f4 f = llm__f4_all(scale);
    uint32_t i;
    for (i = 0; i < n; i += 4)
        llm__f4_store(y + i,
                      llm__f4_add(llm__f4_load(y + i), llm__f4_mul(llm__f4_load(x + i), f)));
}
LLM__PUT(simd128, )
static void llm__blend_simd128(float *y, float a, const float *x, float b, uint32_t n) {
    const llm__f4 f = llm__f4_all(a), g = llm__f4_all(b);
    uint32_t i;
    for (i = 0; i < n; i += 4)
        llm__f4_store(y + i, llm__f4_add(llm__f4_mul(llm__f4_load(y + i), f),
                                         llm__f4_mul(llm__f4_load(x + i), g)));
}

static void llm__gate_simd128(float *y, const float *gate, const float *up, uint32_t n,
                              uint32_t activation) {
    uint32_t i;
    if (activation == LLM__ACT_SILU)
        for (i = 0; i < n; i += 4)
            llm__f4_store(y + i,
                          llm__f4_mul(llm__silu4(llm__f4_load(gate + i)), llm__f4_load(up + i)));
    else if (activation == LLM__ACT_GELU_TANH)
        for (i = 0; i < n; i += 4)
            llm__f4_store(
                y + i, llm__f4_mul(llm__gelu_tanh4(llm__f4_load(gate + i)), llm__f4_load(up + i)));
    else
        llm__gate_scalar(y, gate, up, n, activation);
}

static void llm__cap_simd128(float *x, uint32_t n, float scale, float cap) {
    const llm__f4 f = llm__f4_all(scale), c = llm__f4_all(cap);
    const llm__f4 inverse = llm__f4_all(cap > 0 ? llm__recip(cap) : 0);
    uint32_t i;
    for (i = 0; i < n; i += 4) {
        llm__f4 y = llm__f4_mul(llm__f4_load(x + i), f);
        if (cap > 0) {
            const llm__i4 bits = llm__i4_and(llm__i4_as(y), llm__i4_all(0x7fffffff));
            const llm__f4 z = llm__f4_mul(c, llm__tanh4(llm__f4_mul(y, inverse)));
            y = llm__f4_as(llm__i4_select(llm__i4_greater(bits, llm__i4_all(0x7f800000)),
                                          llm__i4_as(y), llm__i4_as(z)));
        }
        llm__f4_store(x + i, y);
    }
}

static float llm__softmax_simd128(float *s, float most) {
    const llm__i4 masked = llm__i4_as(llm__f4_all(LLM__MASKED));
    const llm__f4 m = llm__f4_all(most);
    llm__f4 lane[4];
    uint32_t i;
    for (i = 0; i < 4; i++) lane[i] = llm__f4_all(0);
    for (i = 0; i < 16; i++) {
        llm__f4 x = llm__f4_load(s + 4 * i), e = llm__exp4(llm__f4_sub(x, m));
        llm__i4 out = llm__i4_equal(llm__i4_as(x), masked);
        e = llm__f4_as(llm__i4_select(out, llm__i4_all(0), llm__i4_as(e)));
        llm__f4_store(s + 4 * i, e);
        lane[i % 4] = llm__f4_add(lane[i % 4], e);
    }
    return llm__tree4(lane);
}

static bool llm__mask_simd128(float *s, const float *scale, float factor, uint32_t first,
                              uint32_t last, float *most_of) {
    static const int32_t count[4] = {0, 1, 2, 3};
    const llm__i4 exponent = llm__i4_all(0x7f800000);
    llm__i4 largest = llm__i4_all(0); /* exponent */
    int32_t exponents[4];
    const llm__f4 none = llm__f4_all(LLM__MASKED), f = llm__f4_all(factor);
    const llm__i4 low = llm__i4_all((int32_t)first), high = llm__i4_all((int32_t)last);
    llm__f4 most = none;
    llm__i4 at = llm__i4_load(count);
    float lane[4];
    uint32_t i;
    for (i = 0; i < 64; i += 4, at = llm__i4_add(at, llm__i4_all(4))) {
        llm__f4 g = scale ? llm__f4_mul(f, llm__f4_load(scale + i)) : f;
        llm__i4 x = llm__i4_as(llm__f4_mul(llm__f4_load(s + i), g));
        x = llm__i4_select(llm__i4_greater(low, at), llm__i4_as(none), x);
        x = llm__i4_select(llm__i4_greater(at, high), llm__i4_as(none), x);
        llm__f4_store(s + i, llm__f4_as(x));
        most = llm__f4_larger(most, llm__f4_as(x));
        largest = llm__i4_max(largest, llm__i4_and(x, exponent));
    }
    llm__f4_store(lane, most);
    memcpy(exponents, &largest, sizeof exponents);
    for (i = 1; i < 4; i++) {
        lane[0] = lane[0] > lane[i] ? lane[0] : lane[i];
        if (exponents[i] > exponents[0]) exponents[0] = exponents[i];
    }
    *most_of = lane[0];
    return exponents[0] != 0x7f800000;
}

static float llm__weigh_simd128(int16_t *p, const float *e, const float *scale) {
    const llm__i4 zero = llm__i4_all(0);
    float y[64];
    uint32_t i;
    for (i = 0; i < 64; i += 4) {
        llm__f4 x = llm__f4_load(e + i), w = llm__f4_mul(x, llm__f4_load(scale + i));
        llm__i4 out = llm__i4_equal(llm__i4_as(x), zero);
        llm__f4_store(y + i, llm__f4_as(llm__i4_select(out, zero, llm__i4_as(w))));
    }
    return llm__quantize_head_simd128(y, 64, LLM__INT16_MOST, p);
}

/* 15-bit integers as two digits, q = 128 high + low. */
LLM__INLINE void llm__digits_simd128(const int16_t *q, uint32_t n, int8_t *high, int8_t *low) {
    uint32_t i;
    for (i = 0; i < n; i++) {
        int h = (q[i] + 64) >> 7;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(q[i] - 128 * h);
    }
}
/* acc += the dots of `count` (1, 2 or 4) rows x, `stride` apart, with `lines` lines of int8. */
LLM__INLINE void llm__lines_simd128(bool dot, uint32_t count, llm__acc4 (*acc)[4],
                                    const int8_t *line, uint32_t lines, const int8_t *x,
                                    uint32_t stride) {
    uint32_t g, t, i;
    for (g = 0; g < lines; g++, line += 64, x += 4) {
        llm__b16 w[4];
        for (i = 0; i < 4; i++) w[i] = llm__b16_load(line + 16 * i);
        for (t = 0; t < count; t++) {
            const llm__b16 y = llm__b16_four(x + t * stride);
            for (i = 0; i < 4; i++) llm__acc4_dot(dot, &acc[t][i], w[i], y);
        }
    }
}
/* Sixteen dots of each of `count` (1 or 2) queries: rows of high digits and of low ones in turn. */
LLM__INLINE void llm__dots16_simd128(bool dot, uint32_t count, llm__f4 (*out)[4], const int8_t *w,
                                     const int8_t *digits, uint32_t stride, uint32_t lines) {
    llm__acc4 acc[4][4];
    uint32_t t, i;
    for (t = 0; t < 2 * count; t++)
        for (i = 0; i < 4; i++) acc[t][i] = llm__acc4_zero();
    llm__lines_simd128(dot, 2 * count, acc, w, lines, digits, stride);
    for (t = 0; t < count; t++)
        for (i = 0; i < 4; i++)
            out[t][i] = llm__f4_of(llm__i4_add(LLM__I4_LEFT(llm__acc4_sum(acc[2 * t][i]), 7),
                                               llm__acc4_sum(acc[2 * t + 1][i])));
}
LLM__INLINE void llm__scores2_simd128(bool dot, uint32_t count, float *out, const int16_t *q,
                                      const int8_t *k, uint32_t n) {
    int8_t digits[4 * 512];
    llm__f4 d[2][4];
    uint32_t t, i, j;
    for (i = 0; i < count; i++)
        llm__digits_simd128(q + i * n, n, digits + 2 * i * n, digits + (2 * i + 1) * n);
    for (t = 0; t < 64; t += 16, k += 16 * n) {
        llm__dots16_simd128(dot, count, d, k, digits, n, n / 4);
        for (i = 0; i < count; i++)
            for (j = 0; j < 4; j++) llm__f4_store(out + 64 * i + t + 4 * j, d[i][j]);
    }
}
/* sums = the same * keep + x * take */
LLM__INLINE void llm__keep_simd128(float *sums, float keep, float take, llm__f4 x) {
    llm__f4_store(sums, llm__f4_add(llm__f4_mul(llm__f4_load(sums), llm__f4_all(keep)),
                                    llm__f4_mul(x, llm__f4_all(take))));
}
LLM__INLINE void llm__values2_simd128(bool dot, uint32_t count, float *out, const float *keep,
                                      const float *take, const int16_t *p, const int8_t *v,
                                      uint32_t n) {
    int8_t digits[4 * 64];
    llm__f4 d[2][4];
    uint32_t c, i, j;
    for (i = 0; i < count; i++)
        llm__digits_simd128(p + 64 * i, 64, digits + 128 * i, digits + 128 * i + 64);
    for (c = 0; c < n; c += 16, v += 1024) {
        llm__dots16_simd128(dot, count, d, v, digits, 64, 16);
        for (i = 0; i < count; i++)
            for (j = 0; j < 4; j++)
                llm__keep_simd128(out + i * n + c + 4 * j, keep[i], take[i], d[i][j]);
    }
}
LLM__INLINE void llm__scores_simd128(bool dot, float *out, const int16_t *q, const int8_t *k,
                                     uint32_t n, uint32_t count) {
    for (; count >= 2; count -= 2, out += 2 * 64, q += 2 * n)
        llm__scores2_simd128(dot, 2, out, q, k, n);
    if (count) llm__scores2_simd128(dot, 1, out, q, k, n);
}
LLM__INLINE void llm__values_simd128(bool dot, float *out, const float *keep, const float *take,
                                     const int16_t *p, const int8_t *v, uint32_t n,
                                     uint32_t count) {
    for (; count >= 2; count -= 2, out += 2 * n, keep += 2, take += 2, p += 2 * 64)
        llm__values2_simd128(dot, 2, out, keep, take, p, v, n);
    if (count) llm__values2_simd128(dot, 1, out, keep, take, p, v, n);
}

/* Four positions of a page, a product after the other, for `count` (1 or 4) queries; then channels. */
LLM__INLINE void llm__scores4_f16_simd128(uint32_t count, float *out, const float *q,
                                          const uint16_t *k, uint32_t n) {
    uint32_t t, c, i;
    for (t = 0; t < 64; t += 4, k += t % 16 ? 4 : 16 * n - 12) {
        llm__f4 a[4];
        for (i = 0; i < count; i++) a[i] = llm__f4_all(0);
        for (c = 0; c < n; c++) {
            const llm__f4 w = llm__f4_halves(k + 16 * c);
            for (i = 0; i < count; i++)
                a[i] = llm__f4_add(a[i], llm__f4_mul(llm__f4_all(q[i * n + c]), w));
        }
        for (i = 0; i < count; i++) llm__f4_store(out + 64 * i + t, a[i]);
    }
}
LLM__INLINE void llm__values4_f16_simd128(uint32_t count, float *out, const float *keep,
                                          const float *take, const float *p, const uint16_t *v,
                                          uint32_t n, uint32_t first, uint32_t last) {
    uint32_t t, c, i;
    for (c = 0; c < n; c += 4) {
        llm__f4 a[4];
        for (i = 0; i < count; i++) a[i] = llm__f4_all(0);
        for (t = first; t <= last; t++) {
            const llm__f4 w = llm__f4_halves(v + t * n + c);
            for (i = 0; i < count; i++)
                a[i] = llm__f4_add(a[i], llm__f4_mul(llm__f4_all(p[64 * i + t]), w));
        }
        for (i = 0; i < count; i++) llm__keep_simd128(out + i * n + c, keep[i], take[i], a[i]);
    }
}
/* Two vectors of values of 4 bits, those of the low and of the high halves, times m. */
LLM__INLINE void llm__unpack_pair_simd128(int8_t *low, int8_t *high, const uint8_t *codes,
                                          llm__b16 m) {
    const llm__b16 book = llm__b16_load(llm__kv_book), x = llm__b16_load(codes);
    const llm__b16 u = llm__b16_look(book, llm__b16_and(x, llm__b16_all(15)));
    llm__b16_store(low, llm__b16_times(u, m));
    llm__b16_store(high, llm__b16_times(llm__b16_look(book, llm__b16_right(x, 4)), m));
}
/* Multipliers in the low or the high halves of bytes, with their sign. */
LLM__INLINE llm__b16 llm__times_simd128(llm__b16 m, uint32_t high) {
    static const int8_t signed4[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    m = high ? llm__b16_right(m, 4) : llm__b16_and(m, llm__b16_all(15));
    return llm__b16_look(llm__b16_load(signed4), m);
}
static void llm__unpack_keys_simd128(int8_t *k, const uint8_t *codes, const uint8_t *times,
                                     uint32_t n, ptrdiff_t ahead) {
    static const uint8_t each[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    uint32_t block, c, q;
    (void)ahead;
    for (block = 0; block < 64; block += 16)
        for (c = 0; c < n; c += 16, codes += 128, k += 256)
            for (q = 0; q < 4; q++) { /* four positions, of four lines */
                const uint8_t *at = times + c / 32 * 64 + block + 4 * q;
                const llm__b16 four = llm__times_simd128(llm__b16_four(at), c / 16 % 2);
                const llm__b16 m = llm__b16_look(four, llm__b16_load(each));
                llm__unpack_pair_simd128(k + 16 * q, k + 64 + 16 * q, codes + 16 * q, m);
                llm__unpack_pair_simd128(k + 128 + 16 * q, k + 192 + 16 * q, codes + 64 + 16 * q, m);
            }
}
static void llm__unpack_values_simd128(int8_t *v, const uint8_t *codes, const uint8_t *times,
                                       uint32_t n, ptrdiff_t ahead) {
    uint32_t t, c;
    (void)ahead;
    for (c = 0; c < n; c += 16)
        for (t = 0; t < 64; t += 4, codes += 32, v += 64) {
            const llm__b16 m =
                llm__times_simd128(llm__b16_four(times + c / 32 * 64 + t), c / 16 % 2);
            llm__unpack_pair_simd128(v, v + 32, codes, m);
            llm__unpack_pair_simd128(v + 16, v + 48, codes + 16, m);
        }
}

static void llm__scores_f16_simd128(float *out, const float *q, const uint16_t *k, uint32_t n,
                                    uint32_t count) {
    for (; count >= 4; count -= 4, out += 4 * 64, q += 4 * n)
        llm__scores4_f16_simd128(4, out, q, k, n);
    for (; count; count--, out += 64, q += n) llm__scores4_f16_simd128(1, out, q, k, n);
}
static void llm__values_f16_simd128(float *out, const float *keep, const float *take, const float *p,
                                    const uint16_t *v, uint32_t n, uint32_t count, uint32_t first,
                                    uint32_t last) {
    for (; count >= 4; count -= 4, out += 4 * n, keep += 4, take += 4, p += 4 * 64)
        llm__values4_f16_simd128(4, out, keep, take, p, v, n, first, last);
    for (; count; count--, out += n, keep++, take++, p += 64)
        llm__values4_f16_simd128(1, out, keep, take, p, v, n, first, last);
}

/* ---- panels ---- */

LLM__INLINE llm__f4 llm__weight4(uint32_t type, const uint8_t *p) {
    if (type == LLM_F32) return llm__f4_as(llm__i4_load(p));
    return llm__f4_as(llm__i4_widen((const uint16_t *)(const void *)p));
}
LLM__INLINE void llm__panel_float_simd128(uint32_t type, float *out, const uint8_t *panel,
                                          uint32_t padded, const llm__input *in, uint32_t row,
                                          uint32_t rows) {
    const uint32_t size = llm__formats[type].size, s = llm__float_block(padded);
    uint32_t m, k, i, end;
    for (m = 0; m < rows; m++) {
        const float *x = in->x + (size_t)(row + m) * in->stride;
        const uint8_t *w = panel;
        llm__f4 sum[4], part[4];
        for (i = 0; i < 4; i++) sum[i] = llm__f4_all(0);
        for (k = 0, end = s; end <= padded; end += s) {
            for (i = 0; i < 4; i++) part[i] = llm__f4_all(0);
            for (; k < end; k++, w += 16 * size) {
                const llm__f4 u = llm__f4_all(x[k]);
                for (i = 0; i < 4; i++)
                    part[i] = llm__f4_add(
                        part[i], llm__f4_mul(llm__weight4(type, w + 4 * i * size), u));
            }
            for (i = 0; i < 4; i++) sum[i] = llm__f4_add(sum[i], part[i]);
        }
        for (i = 0; i < 4; i++) llm__f4_store(out + m * 16 + 4 * i, sum[i]);
    }
}

/* Codes of group g (0 .. 3) of block b (0 .. 3) of a record, rows 4 q to 4 q + 3, as U bytes. */
LLM__INLINE llm__b16 llm__codes_simd128(uint32_t type, const uint8_t *record, uint32_t b,
                                        uint32_t g, uint32_t q, llm__b16 u) {
    const uint8_t *p = record + 16 * q;
    llm__b16 v, h;
    if (type == LLM_Q3 || type == LLM_Q2) {
        v = llm__b16_load(p + (llm__formats[type].bits - 2) * 128 + 64 * b);
        v = llm__b16_and(llm__b16_right(v, 2 * g), llm__b16_all(3));
        if (type == LLM_Q2) return v;
        h = llm__b16_right(llm__b16_load(p + 64 * (b / 2)), 4 * (b % 2) + g);
        h = llm__b16_left(llm__b16_and(h, llm__b16_all(1)), 2);
        return llm__b16_look(u, llm__b16_or(v, h));
    }
    v = llm__b16_load(p + (llm__formats[type].bits - 4) * 128 + 64 * (2 * b + g / 2));
    v = g % 2 ? llm__b16_right(v, 4) : llm__b16_and(v, llm__b16_all(15));
    if (type == LLM_Q4) return llm__b16_look(u, v);
    if (type == LLM_Q5) {
        h = llm__b16_right(llm__b16_load(p + 64 * (b / 2)), 4 * (b % 2) + g);
        return llm__b16_or(v, llm__b16_left(llm__b16_and(h, llm__b16_all(1)), 4));
    }
    h = llm__b16_right(llm__b16_load(p + 64 * b), 2 * g);
    return llm__b16_or(v, llm__b16_left(llm__b16_and(h, llm__b16_all(3)), 4));
}

/* Four lines of values: block b (0 .. 3) of a record. */
LLM__INLINE void llm__unpack_simd128(uint32_t type, int8_t (*line)[64], const uint8_t *record,
                                     const uint8_t *parameters, uint32_t b) {
    const llm__format *f = &llm__formats[type];
    const llm__b16 u = llm__b16_load(f->u), p = llm__b16_nibbles(parameters);
    const llm__b16 m16 = llm__b16_look(llm__b16_load(f->m), p);
    const llm__b16 b16 = llm__b16_look(llm__b16_load(f->b), p);
    static const uint8_t rows[4][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                        {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7},
                                        {8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11},
                                        {12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15}};
    uint32_t q, g;
    for (q = 0; q < 4; q++) {
        const llm__b16 at = llm__b16_load(rows[q]);
        const llm__b16 m = llm__b16_look(m16, at), o = llm__b16_look(b16, at);
        for (g = 0; g < 4; g++)
            llm__b16_store(line[g] + 16 * q,
                           llm__b16_value(llm__codes_simd128(type, record, b, g, q, u), m, o));
    }
}

LLM__INLINE void llm__scaled_add_simd128(float *out, llm__acc4 *acc, const uint8_t *scales,
                                         float a) {
    uint32_t i;
    for (i = 0; i < 4; i++) {
        llm__f4 w = llm__f4_mul(llm__weight4(LLM_BF16, scales + 8 * i), llm__f4_all(a));
        w = llm__f4_mul(llm__f4_of(llm__acc4_sum(acc[i])), w);
        llm__f4_store(out + 4 * i, llm__f4_add(llm__f4_load(out + 4 * i), w));
    }
}
LLM__INLINE void llm__rows_simd128(bool dot, uint32_t count, float *out, const int8_t *line,
                                   uint32_t s, const llm__input *in, uint32_t row, uint32_t b,
                                   const uint8_t *scales) {
    llm__acc4 acc[4][4];
    uint32_t t, i;
    for (t = 0; t < count; t++)
        for (i = 0; i < 4; i++) acc[t][i] = llm__acc4_zero();
    llm__lines_simd128(dot, count, acc, line, s / 4,
                       in->q + (size_t)row * in->stride + (size_t)b * s, in->stride);
    for (t = 0; t < count; t++)
        llm__scaled_add_simd128(out + 16 * t, acc[t], scales,
                                in->scale[(size_t)(row + t) * (in->stride / 64) + b]);
}

/* A super-block is unpacked to values, then meets all rows. */
LLM__INLINE void llm__panel_int_simd128(bool dot, uint32_t type, float *out, const uint8_t *panel,
                                        uint32_t padded, const llm__input *in, uint32_t row,
                                        uint32_t rows) {
    const uint32_t s = llm__super_block(padded);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded);
    int8_t tile[256 / 4][64];
    uint32_t b, k, m;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++, codes += s / 64 * llm__record_size(type)) {
        const int8_t *line = type == LLM_Q8 ? (const int8_t *)codes : tile[0];
        if (type != LLM_Q8)
            for (k = 0; k < s; k += 16, parameters += 8)
                llm__unpack_simd128(type, tile + k / 4, codes + k / 64 * llm__record_size(type),
                                    parameters, k / 16 % 4);
        for (m = 0; m + 4 <= rows; m += 4)
            llm__rows_simd128(dot, 4, out + 16 * m, line, s, in, row + m, b, panel + b * 32);
        for (; m < rows; m++)
            llm__rows_simd128(dot, 1, out + 16 * m, line, s, in, row + m, b, panel + b * 32);
    }
}

#define LLM__PANEL_SIMD128(isa, dot, target, name, type)                                      \
    target static void llm__panel_##name##_##isa(float *out, const uint8_t *panel,            \
                                                 uint32_t padded, const llm__input *in,       \
                                                 uint32_t row, uint32_t rows) {               \
        llm__panel_int_simd128(dot, type, out, panel, padded, in, row, rows);                 \
    }
#define LLM__INT_SIMD128(isa, dot, target)                                                    \
    LLM__PANEL_SIMD128(isa, dot, target, q8, LLM_Q8)                                          \
    LLM__PANEL_SIMD128(isa, dot, target, q6, LLM_Q6)                                          \
    LLM__PANEL_SIMD128(isa, dot, target, q5, LLM_Q5)                                          \
    LLM__PANEL_SIMD128(isa, dot, target, q4, LLM_Q4)                                          \
    LLM__PANEL_SIMD128(isa, dot, target, q3, LLM_Q3)                                          \
    LLM__PANEL_SIMD128(isa, dot, target, q2, LLM_Q2)                                          \
    target static void llm__scores_q8_##isa(float *out, const int16_t *q, const int8_t *k,    \
                                            uint32_t n, uint32_t count, ptrdiff_t ahead) {    \
        (void)ahead;                                                                          \
        llm__scores_simd128(dot, out, q, k, n, count);                                        \
    }                                                                                         \
    target static void llm__values_q8_##isa(float *out, const float *keep, const float *take, \
                                            const int16_t *p, const int8_t *v, uint32_t n,    \
                                            uint32_t count, ptrdiff_t ahead) {                \
        (void)ahead;                                                                          \
        llm__values_simd128(dot, out, keep, take, p, v, n, count);                            \
    }                                                                                         \
    static void llm__kernels_int_##isa(llm__kernels *k) {                                     \
        k->scores_q8 = llm__scores_q8_##isa;                                                  \
        k->values_q8 = llm__values_q8_##isa;                                                  \
        k->panel[LLM_Q8] = llm__panel_q8_##isa;                                               \
        k->panel[LLM_Q6] = llm__panel_q6_##isa;                                               \
        k->panel[LLM_Q5] = llm__panel_q5_##isa;                                               \
        k->panel[LLM_Q4] = llm__panel_q4_##isa;                                               \
        k->panel[LLM_Q3] = llm__panel_q3_##isa;                                               \
        k->panel[LLM_Q2] = llm__panel_q2_##isa;                                               \
    }
LLM__INT_SIMD128(simd128, false, LLM__UNUSED)
#ifdef LLM__HAVE_NEON_DOT
LLM__INT_SIMD128(neon_dot, true, LLM__NEON_DOT)

/* ---- i8mm: two rows of the panel by two of the input, eight columns at once ---- */

#if defined(__clang__)
#define LLM__NEON_I8MM __attribute__((target("i8mm")))
#else
#define LLM__NEON_I8MM __attribute__((target("arch=armv8.2-a+i8mm")))
#endif

/* Two lines, of four columns each, to eight times two rows of eight columns. */
LLM__INLINE void llm__pair_i8mm(int8_t *to, const int8_t *line) {
    uint32_t q;
    for (q = 0; q < 4; q++, line += 16, to += 32) {
        const uint32x4_t a = vreinterpretq_u32_s8(vld1q_s8(line));
        const uint32x4_t b = vreinterpretq_u32_s8(vld1q_s8(line + 64));
        vst1q_s8(to, vreinterpretq_s8_u32(vzip1q_u32(a, b)));
        vst1q_s8(to + 16, vreinterpretq_s8_u32(vzip2q_u32(a, b)));
    }
}
LLM__INLINE void llm__unpack_i8mm(uint32_t type, int8_t *tile, uint32_t s,
                                  const uint8_t *parameters, const uint8_t *codes) {
    int8_t line[4][64];
    uint32_t k;
    for (k = 0; k < s; k += 16, tile += 256) {
        const uint8_t *record = codes + k / 64 * llm__record_size(type);
        const int8_t *from = type == LLM_Q8 ? (const int8_t *)record + k % 64 * 16 : line[0];
        if (type != LLM_Q8)
            llm__unpack_simd128(type, line, record, parameters + k / 2, k / 16 % 4);
        llm__pair_i8mm(tile, from);
        llm__pair_i8mm(tile + 128, from + 128);
    }
}

/* `count` (1 .. 4) rows against a super-block. */
#define LLM__SMMLA(acc, x, w) \
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(x), "w"(w))
LLM__INLINE void llm__rows_i8mm(uint32_t count, float *out, const int8_t *tile, uint32_t s,
                                const llm__input *in, uint32_t row, uint32_t b,
                                const uint8_t *scales) {
    int32x4_t acc[2][8]; /* rows 2 i, 2 i + 1 of the input by 2 p, 2 p + 1 of the panel */
    const int8_t *x[4];
    uint32_t t, k, p;
    for (t = 0; t < 4; t++)
        x[t] = in->q + (size_t)(row + (t < count ? t : 0)) * in->stride + (size_t)b * s;
    for (p = 0; p < 8; p++) acc[0][p] = acc[1][p] = vdupq_n_s32(0);
    for (k = 0; k < s; k += 8, tile += 128) {
        const int8x16_t y = vcombine_s8(vld1_s8(x[0] + k), vld1_s8(x[1] + k));
        const int8x16_t z = vcombine_s8(vld1_s8(x[2] + k), vld1_s8(x[3] + k));
        for (p = 0; p < 8; p++) {
            const int8x16_t w = vld1q_s8(tile + 16 * p);
            LLM__SMMLA(acc[0][p], y, w);
            LLM__SMMLA(acc[1][p], z, w);
        }
    }
    for (t = 0; t < count; t++) {
        const int32x4_t *of = acc[t / 2];
        llm__acc4 dot[4];
        for (p = 0; p < 4; p++)
            dot[p].sum =
                t % 2 ? vcombine_s32(vget_high_s32(of[2 * p]), vget_high_s32(of[2 * p + 1]))
                      : vcombine_s32(vget_low_s32(of[2 * p]), vget_low_s32(of[2 * p + 1]));
        llm__scaled_add_simd128(out + 16 * t, dot, scales,
                                in->scale[(size_t)(row + t) * (in->stride / 64) + b]);
    }
}
LLM__INLINE void llm__many_rows_i8mm(uint32_t type, float *out, const uint8_t *panel,
                                     uint32_t padded, const llm__input *in, uint32_t row,
                                     uint32_t rows) {
    const uint32_t s = llm__super_block(padded);
    const uint8_t *parameters = panel + (size_t)padded / s * 32;
    const uint8_t *codes = panel + llm__panel_header(type, padded);
    int8_t tile[256 * 16];
    uint32_t b, m;
    memset(out, 0, sizeof(float) * 16 * rows);
    for (b = 0; b < padded / s; b++, parameters += s / 2) {
        llm__unpack_i8mm(type, tile, s, parameters, codes);
        codes += s / 64 * llm__record_size(type);
        for (m = 0; m < rows; m += 4)
            llm__rows_i8mm(llm__least(rows - m, 4), out + 16 * m, tile, s, in, row + m, b,
                           panel + b * 32);
    }
}

#define LLM__PANEL_I8MM(name, type)                                                              \
    LLM__NEON_I8MM static void llm__panel_##name##_i8mm(float *out, const uint8_t *panel,         \
                                                        uint32_t padded, const llm__input *in,    \
                                                        uint32_t row, uint32_t rows) {            \
        if (rows < 4)                                                                             \
            llm__panel_##name##_neon_dot(out, panel, padded, in, row, rows);                      \
        else                                                                                      \
            llm__many_rows_i8mm(type, out, panel, padded, in, row, rows);                         \
    }
LLM__PANEL_I8MM(q8, LLM_Q8)
LLM__PANEL_I8MM(q6, LLM_Q6)
LLM__PANEL_I8MM(q5, LLM_Q5)
LLM__PANEL_I8MM(q4, LLM_Q4)
LLM__PANEL_I8MM(q3, LLM_Q3)
LLM__PANEL_I8MM(q2, LLM_Q2)
#endif /* dot products */

static void llm__panel_f32_simd128(float *out, const uint8_t *panel, uint32_t padded,
                                   const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_simd128(LLM_F32, out, panel, padded, in, row, rows);
}
static void llm__panel_bf16_simd128(float *out, const uint8_t *panel, uint32_t padded,
                                    const llm__input *in, uint32_t row, uint32_t rows) {
    llm__panel_float_simd128(LLM_BF16, out, panel, padded, in, row, rows);
}

static void llm__kernels_simd128(llm__kernels *k) {
#if defined(__aarch64__)
    k->name = "neon";
#else
    k->name = "simd128";
#endif
    k->norm = llm__norm_simd128;
    k->rotate = llm__rotate_simd128;
    k->quantize = llm__quantize_simd128;
    k->quantize_head = llm__quantize_head_simd128;
    k->rope = llm__rope_simd128;
    k->add = llm__add_simd128;
    k->blend = llm__blend_simd128;
    k->put = llm__put_simd128;
    k->put_add = llm__put_add_simd128;
    k->gate = llm__gate_simd128;
    k->cap = llm__cap_simd128;
    k->softmax = llm__softmax_simd128;
    k->mask = llm__mask_simd128;
    k->weigh = llm__weigh_simd128;
    k->scores_f16 = llm__scores_f16_simd128;
    k->unpack_keys = llm__unpack_keys_simd128;
    k->unpack_values = llm__unpack_values_simd128;
    k->values_f16 = llm__values_f16_simd128;
    k->panel[LLM_F32] = llm__panel_f32_simd128;
    k->panel[LLM_BF16] = llm__panel_bf16_simd128;
    llm__kernels_int_simd128(k);
}

#ifdef LLM__HAVE_NEON_DOT
/* The dot product instructions of ARMv8.2. */
static bool llm__cpu_has_dot(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43) != 0; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#else
    return false;
#endif
}
static void llm__kernels_neon_dot(llm__kernels *k) {
    llm__kernels_simd128(k);
    llm__kernels_int_neon_dot(k);
    k->name = "neon-dot";
}

/* Its matrix products. */
static bool llm__cpu_has_i8mm(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return true;
#elif defined(__linux__)
    return llm__cpu_has_dot() && (getauxval(AT_HWCAP2) >> 13 & 1);
#else
    return false;
#endif
}
static void llm__kernels_neon_i8mm(llm__kernels *k) {
    llm__kernels_neon_dot(k);
    k->name = "neon-i8mm";
    k->panel[LLM_Q8] = llm__panel_q8_i8mm;
    k->panel[LLM_Q6] = llm__panel_q6_i8mm;
    k->panel[LLM_Q5] = llm__panel_q5_i8mm;
    k->panel[LLM_Q4] = llm__panel_q4_i8mm;
    k->panel[LLM_Q3] = llm__panel_q3_i8mm;
    k->panel[LLM_Q2] = llm__panel_q2_i8mm;
}
#endif
#endif /* SIMD128 */

/* ---- >>dispatch: kernels by name ------------------------------------------ */
LLM__SMALL

/* Fills in the table of instruction set `index`, best first; false past the end. A function, and
   not a table of tables, so that the library needs no relocations and keeps no data. */
static bool llm__kernels_at(uint32_t index, llm__kernels *kernels) {
#ifdef LLM__HAVE_AVX2
    const unsigned cpu = llm__cpu();
#endif
#define LLM__OFFER(has, fill)                          \
    if (has) {                                         \
        if (index == 0) return fill(kernels), true;    \
        index--;                                       \
    }
    kernels->allowed = NULL;
    kernels->enter = kernels->leave = NULL;
    kernels->page_weights = NULL;
    memset(kernels->two_panels, 0, sizeof kernels->two_panels);
#ifdef LLM__HAVE_AMX
    LLM__OFFER(cpu & LLM__CPU_AMX, llm__kernels_amx)
#endif
#ifdef LLM__HAVE_AVX512
    LLM__OFFER(cpu & LLM__CPU_AVX512, llm__kernels_avx512)
#endif
#ifdef LLM__HAVE_AVX_VNNI
    LLM__OFFER(cpu & LLM__CPU_AVX_VNNI, llm__kernels_avx_vnni)
#endif
#ifdef LLM__HAVE_AVX2
    LLM__OFFER(cpu & LLM__CPU_AVX2, llm__kernels_avx2)
#endif
#ifdef LLM__HAVE_NEON_DOT
    LLM__OFFER(llm__cpu_has_i8mm(), llm__kernels_neon_i8mm)
    LLM__OFFER(llm__cpu_has_dot(), llm__kernels_neon_dot)
#endif
#ifdef LLM__HAVE_SIMD128
    LLM__OFFER(true, llm__kernels_simd128)
#endif
    LLM__OFFER(true, llm__kernels_scalar)
#undef LLM__OFFER
    return false;
}

static bool llm__asks_from_afar(void) {
#ifdef LLM__HAVE_AVX2
    uint32_t r[4];
    llm__cpuid(0, 0, r);
    return r[1] == 0x756e6547u; /* GenuineIntel */
#else
    return false;
#endif
}

/* NULL name: the best that is allowed. False and an error: not on this machine. */
static bool llm__kernels_by_name(const char *name, llm__kernels *kernels, llm_error *error) {
    uint32_t i;
    for (i = 0; llm__kernels_at(i, kernels); i++) {
        if (name && strcmp(name, kernels->name)) continue;
        if (!kernels->allowed || kernels->allowed()) return true;
        if (!name) continue;
        llm__fail(error, LLM_ERROR_UNSUPPORTED, "isa: the system does not allow \"%s\"",
                  kernels->name);
        return false;
    }
    (void)llm__kernels_at(0, kernels);
    llm__fail(error, LLM_ERROR_UNSUPPORTED,
              "isa: \"%.32s\" is none of this machine's, of which %s is the best", name,
              kernels->name);
    return false;
}

LLM_API const char *llm_isa_name(uint32_t index) {
    llm__kernels kernels;
    return llm__kernels_at(index, &kernels) ? kernels.name : NULL;
}

LLM__SMALL_END
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#elif defined(_MSC_VER) && !defined(__clang__)
#pragma float_control(pop)
#endif

#endif /* LLM_IMPLEMENTATION */

/* This software is available under two licences; choose whichever you prefer.

   ALTERNATIVE A - MIT License

   Copyright (c) 2026 the llm.h authors

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
   associated documentation files (the "Software"), to deal in the Software without restriction,
   including without limitation the rights to use, copy, modify, merge, publish, distribute,
   sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
   furnished to do so, subject to the following conditions:

   The above copyright notice and this permission notice shall be included in all copies or
   substantial portions of the Software.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
   NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
   DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

   ALTERNATIVE B - Public Domain (www.unlicense.org)

   This is free and unencumbered software released into the public domain. Anyone is free to copy,
   modify, publish, use, compile, sell, or distribute this software, either in source code form or as
   a compiled binary, for any purpose, commercial or non-commercial, and by any means. In
   jurisdictions that recognize copyright laws, the author or authors of this software dedicate any
   and all copyright interest in the software to the public domain. We make this dedication for the
   benefit of the public at large and to the detriment of our heirs and successors. We intend this
   dedication to be an overt act of relinquishment in perpetuity of all present and future rights to
   this software under copyright law.

   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
   NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
   NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
   LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
   CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
