// Training data: files of examples -> samples of token ids with a mask of what is learned.
//
// A mk_data is made for one tokenizer and one chat template, takes files one after the other, and
// keeps the ids of all samples in one buffer.  The n-th sample of the same files with the same
// options is the same on every machine.  It is read-only once the files are in: mk_batcher
// (batcher.h) shuffles and packs without changing it.  Views are borrowed and valid until the next
// file is added.  Threads: one at a time while files are added; any number may read.
//
//     mk_data_opts o = MK_DATA_DEFAULTS;  o.tokenizer = mk_llm_tokenizer(llm);  o.template = mk_llm_template(llm);
//     MK_TRY(mk_data_create(&o, &data, err));
//     MK_TRY(mk_data_add_file(data, "train.jsonl", err));
//     for (int64_t i = 0; i < mk_data_n_sample(data); i++) { mk_data_sample s = mk_data_get(data, i); ... }
//
// A line is a JSON object in one of these forms; the first line of all decides which kind of data
// it is, later ones may have any form of that kind:
//
//     kind  form
//     text  {"text"}, and a file whose name ends in .txt
//     chat  {"messages", "tools"?}, {"prompt", "completion", "tools"?}, {"conversations", "system"?, "tools"?},
//           {"instruction", "input"?, "output", "system"?}, {"text"}
//     pair  {"prompt", "chosen", "rejected", "tools"?}; without "prompt" where the other two are whole conversations
//     label {"prompt", "completion", "label", "tools"?}: whether the completion is a good one, true or false
//     rl    {"prompt", "answer", "checker"?, "tools"?} and any other field for the checker
//
// prompt, completion, chosen and rejected are strings or lists of messages.  "id" and, but for rl,
// "weight" (of the sample in the loss) may be in every line; "weight" 0 or 1 in an assistant
// message leaves it out of the loss or not.  A field that is not known is an error, because a
// misspelt one would be lost in silence.
//
// Templates: an assistant message is learned as it would be generated: behind the text that the
// template gives for the messages before it with its generation prompt, encoded apart from it, up
// to and including the token that ends the turn.  Where the template writes a past answer in
// another way than it was generated (without its reasoning, mostly), that answer becomes a sample
// of its own.
#ifndef MK_TRAIN_DATA_H
#define MK_TRAIN_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "chat/template.h"
#include "text/tokenizer.h"

#define MK_DATA_MAX_LINE ((size_t)16 << 20)

typedef struct mk_data mk_data;

typedef enum {
    MK_DATA_AUTO,  // whatever the first line is
    MK_DATA_TEXT,  // documents: every token is a target; cut into windows of max_len
    MK_DATA_CHAT,
    MK_DATA_PAIR,
    MK_DATA_RL,
    MK_DATA_LABEL  // single answers that are good or bad
} mk_data_kind;
const char *mk_data_kind_name(mk_data_kind k);  // "text", "chat", "pair", "rl", "label"; "auto"

typedef enum {
    MK_LEARN_ASSISTANT,   // every assistant message
    MK_LEARN_LAST,        // the last assistant message
    MK_LEARN_COMPLETION,  // assistant messages of the completion; of messages: behind the last user
    MK_LEARN_ALL          // every token
} mk_data_learn;

typedef enum { MK_LONG_CUT, MK_LONG_DROP } mk_data_long;

typedef struct {
    const mk_tokenizer *tokenizer;     // outlives the data
    const mk_chat_template *template;  // outlives the data; NULL: the model has none
    mk_data_kind kind;
    mk_data_learn learn;
    // No template: prompts, completions and texts are taken as they are, and the texts of control
    // tokens in them are control tokens (as minke run --raw does).
    bool raw;
    // Longest sample in tokens, 0 = any.  Text is cut into windows of this length; a longer
    // conversation is cut at its end or dropped; a longer prompt of rl is dropped.
    int64_t max_len;
    mk_data_long longer;
    bool skip_bad;          // bad lines are counted instead of being errors
    bool allow_unknown;     // fields that are not known are ignored
    int enable_thinking;    // as in mk_chat_render_opts
    int64_t now;            // the date for templates that print one; 0 = a fixed day
    const char *separator;  // of the documents in a .txt file; NULL: a file is one document
} mk_data_opts;
#define MK_DATA_DEFAULTS ((mk_data_opts){.enable_thinking = -1})

mk_status mk_data_create(const mk_data_opts *o, mk_data **out, mk_err *err) MK_WARN_UNUSED;
void mk_data_destroy(mk_data *d);

// Adds the samples of a file.  After an error those of the lines before stay.
// Errors: MK_ENOTFOUND, MK_EIO; MK_ECORRUPT (file, line, field, expected and actual), MK_ETEMPLATE,
// MK_EUSAGE (the kind asked for is not the one in the file; no template), MK_ENOMEM.
mk_status mk_data_add_file(mk_data *d, const char *path, mk_err *err) MK_WARN_UNUSED;
// The same from memory; `name` stands for the path in messages and decides about .txt.
mk_status mk_data_add_memory(mk_data *d, const char *name, const char *text, size_t n,
                             mk_err *err) MK_WARN_UNUSED;
// One sample of ids that somebody else made (kind chat).  mask[0] counts as 0.  Length limits hold.
mk_status mk_data_add_ids(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                          mk_err *err) MK_WARN_UNUSED;

// --- samples -------------------------------------------------------------------------------------

// ids[i] is learned where mask[i] is 1: predicted from position i - 1, so mask[0] is always 0.
typedef struct {
    const int32_t *ids;   // [n]
    const uint8_t *mask;  // [n]
    int64_t n, n_target;  // n_target: ones in mask
} mk_data_seq;

typedef struct {
    mk_data_seq seq[2];  // pair: chosen, rejected; rl: the prompt, nothing is learned
    int n_seq;
    // Tokens in front of the first target; pair: equal in both sequences; rl: all.
    int64_t n_prompt;
    float weight;
    bool label;        // label: the answer is a good one
    const char *json;  // rl: the line, one compact object, NUL-terminated; else NULL
    size_t n_json;
    const char *file;  // where it came from
    int64_t line;      // from 1; 0 for a .txt file
} mk_data_sample;

mk_data_kind mk_data_get_kind(const mk_data *d);  // MK_DATA_AUTO before the first line
int64_t mk_data_n_sample(const mk_data *d);
mk_data_sample mk_data_get(const mk_data *d, int64_t i);
// Of all ids, masks, weights and lines: a run may be resumed on data with the same hash only.
uint64_t mk_data_hash(const mk_data *d);

typedef struct {
    int64_t n_line;    // not counting empty ones; .txt: documents
    int64_t n_bad;     // skipped
    int64_t n_sample;  // = kept
    int64_t n_tok, n_target;
    int64_t len_min, len_median, len_p95, len_max;  // of the sequences, in tokens
    int64_t n_cut, n_tok_cut;          // samples that lost their end, and how many tokens that was
    int64_t n_dropped, n_tok_dropped;  // samples that were too long
    int64_t n_no_target;               // samples with nothing to learn (left), not kept
    // What templates did: answers that became samples of their own; that do not continue their
    // generation prompt, and were put behind it; that no control token ends; whose reasoning the
    // template leaves out.
    int64_t n_split, n_rejoined, n_open_end, n_no_reasoning;
    char first_bad[MK_ERR_MSG_MAX];  // message of the first line that was skipped
} mk_data_stats;
// Sorts lengths: O(n log n) time, n * 8 bytes.  Errors: MK_ENOMEM.
mk_status mk_data_get_stats(const mk_data *d, mk_data_stats *s, mk_err *err) MK_WARN_UNUSED;

#endif
