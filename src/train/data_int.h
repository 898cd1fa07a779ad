// Private to data*.c: one line as it was read, one conversation as ids, and the store of samples.
//
//     bytes -> mk_line (data_parse.c: fields, types, roles)
//           -> mk_seq_ids (data_render.c, data_turns.c: template, ids, mask)
//           -> mk_data_keep (data.c: length limits, the store)
#ifndef MK_TRAIN_DATA_INT_H
#define MK_TRAIN_DATA_INT_H

#include <jansson.h>

#include "base/buf.h"
#include "train/data.h"

// --- a line --------------------------------------------------------------------------------------

typedef enum {
    MK_FORM_TEXT,
    MK_FORM_MESSAGES,
    MK_FORM_COMPLETION,
    MK_FORM_SHAREGPT,
    MK_FORM_ALPACA,
    MK_FORM_PAIR,
    MK_FORM_RL,
    MK_FORM_LABEL
} mk_form;

// One side of an example: plain text, or a list of messages.
typedef struct {
    const char *text;  // [n_text], borrowed from `owner`; NULL: messages
    size_t n_text;
    json_t *owner;  // the string or the list, a reference of its own; NULL: not there
} mk_side;

typedef struct {
    mk_form form;
    mk_data_kind kind;
    json_t *object;  // the line itself
    // text: answer alone.  messages, sharegpt: answer alone, the whole conversation.  completion,
    // alpaca, label: prompt and answer.  pair: prompt, answer (chosen), rejected.  rl: prompt
    // alone.
    mk_side prompt, answer, rejected;
    const json_t *system;  // string; NULL
    const json_t *tools;   // array; NULL
    double weight;
    bool label;
} mk_line;

// Reads one line; *out is freed with mk_line_free in every case.  Errors name the field.
mk_status mk_line_parse(const mk_data_opts *o, const char *text, size_t n, mk_line *out,
                        mk_err *err) MK_WARN_UNUSED;
void mk_line_free(mk_line *l);

// Lists of messages and of tools; `what` is the field that holds them.
mk_status mk_messages_check(const mk_data_opts *o, const json_t *list, const char *what,
                            mk_err *err) MK_WARN_UNUSED;
mk_status mk_tools_check(const json_t *tools, mk_err *err) MK_WARN_UNUSED;
bool mk_message_is(const json_t *m, const char *role);
size_t mk_messages_count(const json_t *list, const char *role);
// No text, no parts, or white space alone.
bool mk_json_is_blank(const json_t *v);
bool mk_is_one_of(const char *s, const char *const *list, size_t n);

// --- ids -----------------------------------------------------------------------------------------

// What is made from a line before it is kept.
typedef struct {
    mk_ids ids;
    uint8_t *mask;  // [cap_mask], n_mask of them are set
    int64_t cap_mask, n_mask;
} mk_seq_ids;
void mk_seq_free(mk_seq_ids *s);
void mk_seq_clear(mk_seq_ids *s);
// After ids were appended: gives those without a mask the value m.
mk_status mk_seq_mark(mk_seq_ids *s, uint8_t m, mk_err *err) MK_WARN_UNUSED;

// Appends the token that ends a sequence, unless it is there or the vocabulary has none.
mk_status mk_seq_end(const mk_tokenizer *t, mk_seq_ids *s, mk_err *err) MK_WARN_UNUSED;

// Takes a finished sequence; called once per sample a conversation gives.
typedef mk_status (*mk_seq_fn)(void *arg, mk_seq_ids *s, mk_err *err);

typedef struct {
    int64_t n_split, n_rejoined, n_open_end, n_no_reasoning;
} mk_turn_counts;
void mk_count_turns(mk_data_stats *s, const mk_turn_counts *c);

// A conversation by the template.  messages[first..) may be learned, those before are given.
typedef struct {
    const mk_data_opts *o;
    const json_t *messages, *tools;
    size_t first;
    mk_data_learn learn;
    mk_turn_counts *counts;
    mk_seq_fn fn;
    void *arg;
    const int32_t *eog;  // [n_eog] tokens that end an answer
    size_t n_eog;
} mk_talk;
mk_status mk_talk_samples(const mk_talk *t, mk_err *err) MK_WARN_UNUSED;
// The prompt of a conversation that waits for an answer.
mk_status mk_talk_prompt(const mk_talk *t, mk_seq_ids *out, mk_err *err) MK_WARN_UNUSED;

#endif
