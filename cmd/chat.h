// Private to the chat verb: the conversation (chat.c), its slash commands (chat_cmds.c), its line
// editor (chat_edit.c).
#ifndef MK_CMD_CHAT_H
#define MK_CMD_CHAT_H

#include "cmd.h"

// --- the line editor -----------------------------------------------------------------------------
// On a terminal libedit with history; a paste is taken as one message, however long.  Otherwise
// plain lines.
typedef struct chat_edit chat_edit;

typedef enum { CHAT_LINE, CHAT_INTERRUPT, CHAT_EOF } chat_read;

chat_edit *chat_edit_open(bool tty);
void chat_edit_close(chat_edit *e);  // saves the history
// One message without its newline, valid until the next call.
chat_read chat_edit_read(chat_edit *e, const char **text);
// The next read starts with this text in the editor (copied).
void chat_edit_prefill(chat_edit *e, const char *text);

// --- the conversation ----------------------------------------------------------------------------
typedef struct {
    cmd_model_args model;
    cmd_sample_args sample;
    const char *think, *system;
} chat_args;

// Invariant: messages are an optional system message, then user and assistant in turn, beginning
// with user; while no answer is running the last one is an assistant's, or there is none.
typedef struct {
    mk_llm *llm;
    chat_args *args;
    chat_edit *edit;
    json_t *messages;
    bool tty, color, fold, leave;
    int64_t retries;  // of the last message: added to the seed, so that another answer comes
    // statistics
    int64_t n_answer, n_generated, n_prompt, n_cached;
    double prompt_ms, generation_ms;
    mk_answer last;
} chat;

// Answers the conversation as it stands and appends the answer.  Without an answer (error, nothing
// generated) the last user message is taken back.
mk_status chat_answer(chat *c, mk_err *err) MK_WARN_UNUSED;
void chat_add(chat *c, const char *role, const char *text, size_t n);
void chat_drop_last(chat *c);
// Role of the last message, "" if there is none; text of the last one of a role, NULL if there is
// none.
const char *chat_last_role(const chat *c);
const char *chat_last_text(const chat *c, const char *role);

// "/name arguments".
mk_status chat_command(chat *c, const char *line, mk_err *err) MK_WARN_UNUSED;

#endif
