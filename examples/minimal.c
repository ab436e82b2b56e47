/* A chat in ten lines: ask a model something and print its answer as it comes.
   cc minimal.c -o minimal -lm -lpthread && ./minimal MODEL.llm "Why is the sky blue?" */
#define LLM_IMPLEMENTATION
#include "../llm.h"

int main(int argc, char **argv) {
    llm_error error;
    llm_model *model;
    llm_session *session;
    llm_chat *chat;
    llm_text piece;
    llm_result result;
    if (argc != 3) return 2;
    if (llm_model_open(&model, &(llm_model_desc){.path = argv[1], .error = &error}) ||
        llm_session_create(&session, &(llm_session_desc){.model = model, .error = &error}) ||
        llm_chat_create(&chat, &(llm_chat_desc){.session = session, .error = &error}))
        return fprintf(stderr, "%s\n", error.text), 1;
    result = llm_chat_say(chat, llm_string(argv[2]));
    while (!result && !(result = llm_chat_next(chat, 0, &piece)) && piece.size)
        fwrite(piece.data, 1, piece.size, stdout);
    if (result) fprintf(stderr, "%s\n", llm_chat_error(chat)->text);
    if (fflush(stdout)) result = LLM_ERROR_IO, perror("standard output");
    llm_chat_destroy(chat);
    llm_session_destroy(session);
    llm_model_close(model);
    return result != LLM_OK;
}
