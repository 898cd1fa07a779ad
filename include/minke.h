/* minke: run open-weight reasoning models.  The whole public interface of libminke.
 *
 * Two nouns
 *   minke_model   a loaded model: weights, tokenizer, chat template, room for one conversation
 *   minke_chat    the messages of one conversation with a model
 *
 * Ownership
 *   Whatever a function hands out through a pointer to a pointer belongs to the caller: a model goes
 *   back with minke_close, a chat with minke_chat_free, an answer with minke_answer_free, lists and
 *   texts with minke_free.  All of these accept NULL.  A chat must go before its model.  Texts and
 *   lists given to a function are not kept.
 *
 * Errors
 *   Every function that can fail returns a minke_status and fills *err, if err is not NULL: a code
 *   and one line that says what is wrong, what was expected, and what to do.  Nothing is printed and
 *   the program is never ended, but for bugs of the library itself (assertions).
 *
 * Threads
 *   A model, with its chats, belongs to one thread at a time; different models are independent.  The
 *   library makes its own worker threads.
 *
 * Numbers
 *   The same model, text, parameters and seed give the same answer on every machine, for any number
 *   of threads.
 *
 *     minke_error err;
 *     minke_model *m = NULL;
 *     minke_chat *c = NULL;
 *     minke_answer *a = NULL;
 *     if (minke_open("models/thimble", NULL, &m, &err) == MINKE_OK &&
 *         minke_chat_new(m, NULL, &c, &err) == MINKE_OK &&
 *         minke_chat_add(c, "user", "What is 7*8-9?", &err) == MINKE_OK &&
 *         minke_chat_answer(c, NULL, NULL, NULL, &a, &err) == MINKE_OK) {
 *         printf("%s\n%s\n", a->reasoning, a->text);
 *     } else {
 *         puts(err.text);
 *     }
 *     minke_answer_free(a);
 *     minke_chat_free(c);
 *     minke_close(m);
 */
#ifndef MINKE_H
#define MINKE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MINKE_VERSION "0.1.0"

typedef enum {
    MINKE_OK,
    MINKE_USAGE,     /* an argument is wrong */
    MINKE_NOT_FOUND, /* no such model or file */
    MINKE_NO_MEMORY, /* does not fit */
    MINKE_NETWORK,
    MINKE_CORRUPT,     /* a file breaks its own format */
    MINKE_UNSUPPORTED, /* a valid file that minke cannot run */
    MINKE_CONTEXT,     /* the window is too small; nothing was cut */
    MINKE_IO,
    MINKE_LIMIT,    /* a bound on size, steps or time was reached */
    MINKE_TEMPLATE, /* the chat template refused the messages */
    MINKE_INTERRUPTED
} minke_status;

typedef struct {
    minke_status code;
    char text[768]; /* one line */
} minke_error;

typedef struct minke_model minke_model;
typedef struct minke_chat minke_chat;

/* Version of the library that is linked, "0.1.0". */
const char *minke_version(void);
/* Short name of a status, "does not fit"; static storage. */
const char *minke_status_name(minke_status code);
void minke_free(void *p);

/* --- models ----------------------------------------------------------------------------------- */

/* Zero is the default everywhere. */
typedef struct {
    int n_thread;    /* 0 = every processor this process may use */
    int64_t n_ctx;   /* window in tokens; 0 = the model's, or what fits into memory */
    const char *isa; /* instruction set, NULL = the best there is; results do not depend on it */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes loaded; may be NULL */
    void *progress_arg;
    const char *adapter; /* a LoRA adapter to compute with: a PEFT folder or a GGUF file; NULL */
} minke_options;

/* Loads a .gguf file, a folder that holds one, or a Hugging Face folder.  options may be NULL. */
minke_status minke_open(const char *path, const minke_options *options, minke_model **out,
                        minke_error *err);
void minke_close(minke_model *m);

int64_t minke_n_vocab(const minke_model *m);
int64_t minke_n_ctx(const minke_model *m);
int minke_has_chat_template(const minke_model *m);

/* --- tokens ----------------------------------------------------------------------------------- */

/* Ids of text[0..n).  with_bos: put the begin-of-text token in front where the model wants one.
 * Control tokens are never recognised in the text.  *ids: minke_free. */
minke_status minke_tokenize(const minke_model *m, const char *text, size_t n, int with_bos,
                            int32_t **ids, int64_t *n_ids, minke_error *err);
/* Text of ids, control tokens left out, with a NUL behind it.  *text: minke_free. */
minke_status minke_detokenize(const minke_model *m, const int32_t *ids, int64_t n_ids, char **text,
                              size_t *n_text, minke_error *err);

/* --- answers ---------------------------------------------------------------------------------- */

typedef enum { MINKE_THINK_DEFAULT, MINKE_THINK_OFF, MINKE_THINK_ON } minke_think;

/* How to choose tokens.  Begin with minke_sampling_of(model). */
typedef struct {
    double temperature;        /* 0 = the most probable token every time */
    int top_k;                 /* 0 = off */
    double top_p;              /* 1 = off */
    double min_p;              /* 0 = off */
    double repetition_penalty; /* 1 = off */
    double presence_penalty, frequency_penalty;
    uint64_t seed;
    int64_t max_tokens;      /* < 0 = until the window is full */
    const char *const *stop; /* n_stop texts that end the answer */
    int n_stop;
    minke_think think; /* for models that can choose */
} minke_sampling;
/* What the model's makers recommend; no limit on tokens, seed 0. */
minke_sampling minke_sampling_of(const minke_model *m);

typedef enum { MINKE_TEXT, MINKE_REASONING, MINKE_TOKEN } minke_event_kind;
typedef struct {
    minke_event_kind kind;
    const char *text; /* TEXT, REASONING: whole characters, not NUL-terminated */
    size_t n;
    int32_t id;     /* TOKEN: one for every token, before the text it completes */
    double logprob; /* TOKEN: of this token, before temperature and penalties */
} minke_event;
/* Called on the caller's thread.  A return value other than 0 stops the answer; what was
 * generated is kept. */
typedef int (*minke_event_fn)(void *arg, const minke_event *ev);

typedef enum { MINKE_STOP, MINKE_LENGTH, MINKE_CANCELLED } minke_finish;
typedef struct {
    const char *text, *reasoning; /* NUL-terminated; bytes before it are in n_text, n_reasoning */
    size_t n_text, n_reasoning;
    const int32_t *ids; /* n_ids generated tokens */
    int64_t n_ids;
    minke_finish finish;
    int64_t n_prompt, n_cached; /* tokens of the prompt; how many needed no computing */
    double prompt_ms, generation_ms;
} minke_answer;
void minke_answer_free(minke_answer *a);

/* Continues a text as it is, without chat template: control tokens in it are recognised, and
 * reasoning is not told from the answer.  sampling, fn may be NULL. */
minke_status minke_generate(minke_model *m, const char *prompt, const minke_sampling *sampling,
                            minke_event_fn fn, void *arg, minke_answer **out, minke_error *err);

/* --- conversations ---------------------------------------------------------------------------- */

/* system may be NULL.  MINKE_TEMPLATE when the model has no chat template. */
minke_status minke_chat_new(minke_model *m, const char *system, minke_chat **out, minke_error *err);
void minke_chat_free(minke_chat *c);
/* role: "user", "assistant", "system". */
minke_status minke_chat_add(minke_chat *c, const char *role, const char *text, minke_error *err);
/* Answers the messages so far and adds the answer to them.  Only what is new is computed. */
minke_status minke_chat_answer(minke_chat *c, const minke_sampling *sampling, minke_event_fn fn,
                               void *arg, minke_answer **out, minke_error *err);
/* Forgets all messages but the system's. */
void minke_chat_reset(minke_chat *c);

/* --- probabilities ---------------------------------------------------------------------------- */

/* Logits behind every prefix of ids: row(arg, i, logits, n_vocab) is called with those that predict
 * what follows ids[0..i].  A return value other than 0 stops with MINKE_INTERRUPTED. */
typedef int (*minke_row_fn)(void *arg, int64_t i, const float *logits, int64_t n_vocab);
minke_status minke_logits(minke_model *m, const int32_t *ids, int64_t n_ids, minke_row_fn row,
                          void *arg, minke_error *err);
/* logprob[i] = log p(ids[i] | ids[0..i)), natural logarithm; logprob[0] = 0. */
minke_status minke_logprobs(minke_model *m, const int32_t *ids, int64_t n_ids, double *logprob,
                            minke_error *err);

#ifdef __cplusplus
}
#endif

#endif
