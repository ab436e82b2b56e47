/* chat: talk to a model. */
#include "options.h"
#include <signal.h>
#include <time.h>

static const char *model_path = "models/smollm2-135m-instruct.llm", *system_text, *template_path,
                  *isa, *kv = "q8";
static bool stats, failed;
static uint32_t threads, context, most;
static uint64_t seed = UINT64_MAX;
static llm_sampler_desc sampling;
static adapters lora;

static const option options[] = {
    {"MODEL.llm", OPTION_TEXT, &model_path, NULL, "by default models/smollm2-135m-instruct.llm",
     false},
    {"--system", OPTION_TEXT, &system_text, "TEXT",
     "what the model is told before the conversation", false},
    {"--template", OPTION_TEXT, &template_path, "FILE",
     "a chat template (Jinja) in place of the model's own", false},
    {"--lora", OPTION_ADAPTERS, &lora, "FILE[=W]",
     "use this adapter, W times (default 1); several may be given", false},
    {"--temp", OPTION_FLOAT, &sampling.temperature, "F",
     "temperature (default 0.4); 0 always takes the likeliest token", false},
    {"--top-k", OPTION_COUNT, &sampling.top_k, "N", "only among the N likeliest; 0 (default): all",
     false},
    {"--top-p", OPTION_FLOAT, &sampling.top_p, "F",
     "only among the likeliest that make up F (default 0.9)", false},
    {"--min-p", OPTION_FLOAT, &sampling.min_p, "F",
     "only those at least F times as likely as the likeliest", false},
    {"--repeat", OPTION_FLOAT, &sampling.repetition_penalty, "F",
     "repetition penalty (default 1.1; 1: none)", false},
    {"--seed", OPTION_SEED, &seed, "N", "for the same answers again; by default from the clock",
     false},
    {"-n", OPTION_COUNT, &most, "N",
     "most tokens in an answer; 0 (default): what the context holds", false},
    {"--ctx", OPTION_COUNT, &context, "N", "positions; by default the model's own, at most 4096",
     false},
    {"--kv", OPTION_TEXT, &kv, "TYPE", "keys and values as q8 (default), f16 or q4", false},
    {"--threads", OPTION_COUNT, &threads, "N", "by default one per core", false},
    {"--isa", OPTION_TEXT, &isa, "NAME", "instruction set: avx2, scalar; by default the best",
     false},
    {"--stats", OPTION_FLAG, &stats, NULL, "speed after every answer, on standard error", false},
    {NULL, OPTION_FLAG, NULL, NULL, NULL, false}};
static const char commands[] =
    "  /system TEXT  a new conversation, with these words before it\n"
    "  /reset        a new conversation\n"
    "  /retry        another answer to the last message\n"
    "  /help         this list\n"
    "  /quit         the end, as Ctrl-D (on Windows Ctrl-Z)\n"
    "Ctrl-C stops the answer.";
static const program self = {
    "chat", "Talk to a model. One line is one message; also from a pipe.",
    "In the conversation:\n"
    "  /system TEXT, /reset, /retry, /help, /quit; Ctrl-C stops the answer.",
    options};

/* ---- Ctrl-C is a flag that is looked at between steps ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    interrupted = 1;
#if defined(_WIN32)
    (void)signal(number, on_interrupt);
#else
    (void)number;
#endif
}

static void catch_interrupts(void) {
#if defined(_WIN32)
    (void)signal(SIGINT, on_interrupt);
#else
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* without SA_RESTART, so that waiting for a line ends too */
    (void)sigaction(SIGINT, &action, NULL);
#endif
}

/* A line without its end; NULL at the end of the input. */
static char *read_line(bool prompt) {
    static char *line;
    static size_t capacity;
    size_t size = 0;
    for (;;) {
        int c;
        if (prompt && !size) (void)fputs("\n\x1b[1m> \x1b[0m", stdout), (void)fflush(stdout);
        while ((c = getchar()) != EOF && c != '\n') {
            if (size + 2 > capacity)
                line = (char *)realloc(line, capacity = capacity ? capacity * 2 : 256);
            if (!line) fail(EXIT_FAILED, "%s: no memory for a line", self.name);
            line[size++] = (char)c;
        }
        if (c == EOF && interrupted) { /* Ctrl-C while nothing is said */
            interrupted = 0, size = 0;
            clearerr(stdin);
            (void)fputs("\n(Ctrl-D or /quit ends)", stdout);
            continue;
        }
        if (c == EOF && !size) return NULL;
        while (size && line[size - 1] == '\r') size--;
        if (!size) continue;
        line[size] = 0;
        return line;
    }
}

/* ---- the conversation ---- */

/* Shows the answer as it comes; it has begun. */
static void show_answer(llm_chat *chat) {
    llm_text piece;
    double start = seconds(), first = 0, end;
    for (interrupted = 0; !interrupted;) {
        llm_result r = llm_chat_next(chat, 50000, &piece);
        if (r == LLM_PENDING) continue;
        if (r != LLM_OK) {
            llm_chat_stop(chat);
            fail(EXIT_FAILED, "\n%s: %s", self.name, llm_chat_error(chat)->text);
        }
        if (first == 0) first = seconds();
        if (!piece.size) break;
        (void)fwrite(piece.data, 1, piece.size, stdout);
        (void)fflush(stdout);
    }
    llm_chat_stop(chat);
    (void)putchar('\n');
    (void)fflush(stdout);
    end = seconds();
    if (llm_chat_end(chat) == LLM_CHAT_STOPPED) (void)fputs("(stopped)\n", stderr);
    if (llm_chat_end(chat) == LLM_CHAT_CONTEXT_FULL) (void)fputs("(the context is full)\n", stderr);
    interrupted = 0;
    if (stats && first > 0)
        (void)fprintf(stderr,
                      "[first word after %.2f s; %u tokens, %.1f tok/s; conversation %u tokens]\n",
                      first - start, (unsigned)llm_chat_answer_tokens(chat),
                      (double)llm_chat_answer_tokens(chat) / (end - first),
                      (unsigned)(llm_chat_prompt_tokens(chat) + llm_chat_answer_tokens(chat)));
}

/* Begins an answer to `text`, or to what was said last (NULL); forgets the oldest turns until there
   is room. */
static bool begin(llm_chat *chat, const char *text) {
    size_t forgotten = 0, count;
    llm_result r;
    for (;; forgotten += 2) {
        r = text ? llm_chat_say(chat, llm_string(text)) : llm_chat_answer(chat);
        if (r != LLM_ERROR_CONTEXT_FULL) break;
        (void)llm_chat_messages(chat, &count);
        if (count < 3 || llm_chat_forget(chat, 2) != LLM_OK) break;
    }
    if (forgotten)
        (void)fprintf(stderr, "(the context is full: the oldest %lu messages are forgotten)\n",
                      (unsigned long)forgotten);
    if (r == LLM_OK) return true;
    (void)fprintf(stderr, "%s: %s\n", self.name, llm_chat_error(chat)->text);
    failed = true;
    return false;
}

static bool retry(llm_chat *chat) {
    llm_sampler *sampler = llm_chat_sampler(chat);
    size_t count;
    const llm_message *m = llm_chat_messages(chat, &count);
    if (count < 2 || m[count - 1].role.size != 9) {
        (void)fputs("(there is no answer yet)\n", stderr);
        return false;
    }
    (void)llm_chat_rewind(chat, count - 1);
    llm_sampler_reseed(sampler, llm_sampler_seed(sampler) + 1, 0);
    return begin(chat, NULL);
}

/* A line that begins with '/'. */
static bool command(llm_chat *chat, const char *line) {
    if (!strcmp(line, "/retry")) {
        if (retry(chat)) show_answer(chat);
    } else if (!strcmp(line, "/reset")) {
        (void)llm_chat_reset(chat);
        (void)puts("(a new conversation)");
    } else if (!strncmp(line, "/system ", 8)) {
        (void)llm_chat_rewind(chat, 0);
        CHECKED(llm_chat_add(chat, llm_string("system"), llm_string(line + 8)),
                llm_chat_error(chat));
        (void)puts("(a new conversation)");
    } else if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) {
        return false;
    } else {
        (void)puts(commands);
    }
    return true;
}

static llm_chat *make_chat(llm_session *session) {
    llm_error error;
    llm_chat *chat;
    llm_chat_desc d;
    char *data = NULL;
    memset(&d, 0, sizeof d);
    d.session = session, d.sampler = sampling, d.system = llm_string(system_text);
    d.max_tokens = most, d.room = llm_session_context(session) / 4, d.error = &error;
    if (template_path) d.template_text.data = data = read_all(template_path, &d.template_text.size);
    CHECKED(llm_chat_create(&chat, &d), &error);
    free(data);
    if (!template_path && !llm_model_template(llm_session_model(session)).size)
        (void)fprintf(
            stderr,
            "%s: the model has no chat template, so it may not be made for conversations; "
            "going by the marks\nin its vocabulary. `generate` continues a text with it.\n",
            self.name);
    return chat;
}

static llm_session *make_session(const llm_model *model, llm_pool *pool) {
    llm_error error;
    llm_session *session;
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.model = model, d.pool = pool, d.context = context, d.isa = isa, d.error = &error;
    d.kv = parse_kv(&self, kv), d.adapter_rank = lora.rank;
    CHECKED(llm_session_create(&session, &d), &error);
    use_adapters(&lora, session);
    return session;
}

static void defaults(void) {
    sampling.temperature = 0.4f;
    sampling.top_p = 0.9f;
    sampling.repetition_penalty = 1.1f;
}

int main(int argc, char **argv) {
    bool person;
    llm_model *model;
    llm_pool *pool;
    llm_session *session;
    llm_chat *chat;
    char *line;
    defaults();
    parse_options(&self, argc, argv);
    sampling.seed = seed != UINT64_MAX ? seed : (uint64_t)time(NULL);
    person = isatty(fileno(stdin)) && isatty(fileno(stdout));
    model = open_model(model_path);
    open_adapters(&lora, model);
    pool = make_pool(threads);
    session = make_session(model, pool);
    chat = make_chat(session);
    if (person) (void)printf("%s. /help lists what else there is, Ctrl-D ends.\n", model_path);
    catch_interrupts();
    while ((person || !failed) && (line = read_line(person)) != NULL) {
        if (line[0] == '/') {
            if (!command(chat, line)) break;
        } else if (begin(chat, line)) {
            show_answer(chat);
        }
    }
    if (person) (void)putchar('\n');
    llm_chat_destroy(chat);
    llm_session_destroy(session);
    llm_pool_destroy(pool);
    close_adapters(&lora);
    llm_model_close(model);
    return failed && !person ? EXIT_FAILED : finish(&self);
}
