// minke chat: a conversation.
//
// A loop of reading a message and answering it.  Messages are kept as JSON, the form templates
// take; the session below keeps what was computed, so that a turn costs only what is new.  See
// chat.h for the invariant.
#include "chat.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/alloc.h"
#include "base/log.h"

static const mk_opt opts[] = {
    CMD_OPT_MODEL(chat_args, model),
    CMD_OPT_RUNTIME(chat_args, model),
    CMD_OPT_PACKED(chat_args, model),
    CMD_OPT_ADAPTER(chat_args, model),
    CMD_OPT_TEMPLATE(chat_args, model),
    {.name = "system",
     .type = MK_OPT_STR,
     .offset = offsetof(chat_args, system),
     .arg = "TEXT",
     .group = "Conversation",
     .help = "system message"},
    {.name = "think",
     .type = MK_OPT_STR,
     .offset = offsetof(chat_args, think),
     .choices = CMD_THINK_CHOICES,
     .arg = "HOW",
     .help = "reasoning of models that can choose; without it the model's default"},
    CMD_OPT_SAMPLE(chat_args, sample),
};

const mk_opt_spec cmd_chat_spec = {
    .program = "minke chat",
    .usage = "[-m MODEL]",
    .about = "A conversation in the terminal. Ctrl-C stops an answer and keeps it, twice leaves. "
             "/help lists the "
             "commands. Without a terminal every line of standard input is a message.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

// --- messages ------------------------------------------------------------------------------------

void chat_add(chat *c, const char *role, const char *text, size_t n) {
    json_array_append_new(c->messages,
                          json_pack("{s:s, s:o}", "role", role, "content", mk_json_text(text, n)));
}

void chat_drop_last(chat *c) {
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

static const char *field(const json_t *m, const char *key) {
    const char *s = json_string_value(json_object_get(m, key));
    return s ? s : "";
}

const char *chat_last_role(const chat *c) {
    size_t n = json_array_size(c->messages);
    return n ? field(json_array_get(c->messages, n - 1), "role") : "";
}

const char *chat_last_text(const chat *c, const char *role) {
    for (size_t i = json_array_size(c->messages); i-- > 0;) {
        const json_t *m = json_array_get(c->messages, i);
        if (strcmp(field(m, "role"), role) == 0) {
            return field(m, "content");
        }
    }
    return NULL;
}

// --- one answer ----------------------------------------------------------------------------------

typedef struct {
    chat *c;
    bool thinking, any_text;
    int64_t n_thought;
    uint64_t start_ns;
    char last;
} screen;

static void style(const screen *s, const char *code) {
    if (s->c->color) {
        fputs(code, stdout);
    }
}

static void end_thinking(screen *s) {
    double seconds = (double)(mk_now_ns() - s->start_ns) / 1e9;
    s->thinking = false;
    if (s->c->fold) {
        printf("\r\033[K[thought %lld tokens, %.1f s]", (long long)s->n_thought, seconds);
    }
    style(s, "\033[0m");
    printf(s->last == '\n' && !s->c->fold ? "\n" : "\n\n");
}

static void on_reasoning(screen *s, const mk_event *ev) {
    if (!s->thinking) {
        s->thinking = true;
        style(s, "\033[2m");
    }
    if (!s->c->fold) {
        cmd_write_text(stdout, ev->text, ev->n);
        s->last = ev->n ? ev->text[ev->n - 1] : s->last;
    }
}

static bool on_event(void *arg, const mk_event *ev) {
    screen *s = arg;
    bool show = s->c->tty;
    switch (ev->kind) {
    case MK_EVENT_PROMPT:
        s->start_ns = mk_now_ns();
        break;
    case MK_EVENT_TOKEN:
        if (s->thinking || !s->any_text) {
            s->n_thought++;
        }
        if (s->thinking && s->c->fold) {
            printf("\r\033[K[thinking, %lld tokens]", (long long)s->n_thought);
            (void)fflush(stdout);
        }
        break;
    case MK_EVENT_REASONING:
        if (show) {
            on_reasoning(s, ev);
        }
        break;
    case MK_EVENT_TEXT:
        if (s->thinking) {
            end_thinking(s);
        }
        s->any_text = true;
        cmd_write_text(stdout, ev->text, ev->n);
        s->last = ev->n ? ev->text[ev->n - 1] : s->last;
        break;
    }
    return !cmd_interrupted();
}

// A model without a template continues the conversation as one text.
static char *as_text(const chat *c) {
    mk_buf b;
    mk_buf_init(&b, CMD_INPUT_MAX);
    size_t i;
    json_t *m;
    json_array_foreach(c->messages, i, m) {
        const json_t *text = json_object_get(m, "content");
        mk_buf_add(&b, json_string_value(text), json_string_length(text));
    }
    char *out = mk_buf_detach(&b);
    return out ? out : mk_strdup("");
}

// A window with room for several answers; in a smaller one an answer may take all of it.
#define LONG_WINDOW 1024

// Without -n an answer may take half of the window that is left, so that a model that never stops
// leaves room.
static mk_status limit_answer(chat *c, mk_request *r, mk_err *err) {
    if (c->args->sample.n_predict >= 0) {
        return MK_OK;
    }
    mk_ids ids = {0};
    MK_TRY(mk_llm_prompt_ids(c->llm, r, &ids, err));
    int64_t left = mk_engine_n_ctx(mk_llm_engine(c->llm)) - ids.n;
    r->n_predict = left > LONG_WINDOW ? left / 2 : -1;
    mk_ids_free(&ids);
    return MK_OK;
}

static void count(chat *c) {
    c->n_answer++;
    c->n_generated += c->last.n_generated;
    c->n_prompt += c->last.n_prompt;
    c->n_cached += c->last.n_cached;
    c->prompt_ms += c->last.prompt_ms;
    c->generation_ms += c->last.generation_ms;
}

static mk_status generate(chat *c, mk_request *r, screen *s, mk_err *err) {
    mk_logit_bias *bias = NULL;
    mk_status st = cmd_sample_params(&c->args->sample, c->llm, &r->sample, &bias, err);
    r->sample.seed += (uint64_t)c->retries;
    if (st == MK_OK) {
        st = limit_answer(c, r, err);
    }
    mk_answer_free(&c->last);
    c->last = (mk_answer){0};
    if (st == MK_OK) {
        st = mk_llm_generate(c->llm, r, on_event, s, &c->last, err);
    }
    mk_free(bias);
    return st;
}

// Keeps what was said; a stopped answer too.
static void keep_answer(chat *c) {
    chat_add(c, "assistant", c->last.text ? c->last.text : "", c->last.n_text);
    if (c->last.n_reasoning > 0) {
        json_t *m = json_array_get(c->messages, json_array_size(c->messages) - 1);
        json_object_set_new(m, "reasoning_content",
                            mk_json_text(c->last.reasoning, c->last.n_reasoning));
    }
    count(c);
}

mk_status chat_answer(chat *c, mk_err *err) {
    const cmd_sample_args *a = &c->args->sample;
    char *text = mk_llm_template(c->llm) ? NULL : as_text(c);
    mk_request r = {.messages = text ? NULL : c->messages,
                    .prompt = text,
                    .raw = text != NULL,
                    .n_predict = a->n_predict,
                    .stop = a->stop.items,
                    .n_stop = (int)a->stop.n,
                    .n_logprob = -1};
    screen s = {.c = c, .start_ns = mk_now_ns()};
    cmd_set_think(&r, c->args->think);
    mk_status st = generate(c, &r, &s, err);
    if (s.thinking) {
        end_thinking(&s);
    }
    if (s.any_text && s.last != '\n') {
        printf("\n");
    }
    if (st == MK_OK && c->last.finish == MK_FINISH_CANCELLED && c->tty) {
        printf("%s[stopped]%s\n", c->color ? "\033[2m" : "", c->color ? "\033[0m" : "");
    }
    (void)fflush(stdout);
    cmd_warn_unanswered(&c->last);
    mk_free(text);
    if (st == MK_OK || c->last.n_generated > 0) {
        keep_answer(c);
    } else {
        chat_drop_last(c);
    }
    return st;
}

// --- the loop ------------------------------------------------------------------------------------

static void print_error(const mk_err *err) {
    (void)fflush(stdout);
    fprintf(stderr, "minke: %s\n", err->msg);
    if (err->code == MK_ECONTEXT) {
        fprintf(stderr,
                "minke: /reset starts over; nothing was cut and the conversation is as before\n");
    }
}

static mk_status one_message(chat *c, const char *text, mk_err *err) {
    if (text[0] == '/') {
        return chat_command(c, text, err);
    }
    c->retries = 0;
    chat_add(c, "user", text, strlen(text));
    return chat_answer(c, err);
}

// Returns the status of the last message, which is the program's when it is not a conversation with
// a person.
static mk_status loop(chat *c, mk_err *err) {
    int n_interrupt = 0;
    mk_status last = MK_OK;
    while (!c->leave && n_interrupt < 2) {
        const char *text = "";
        chat_read got = chat_edit_read(c->edit, &text);
        if (got == CHAT_EOF) {
            break;
        }
        if (got == CHAT_INTERRUPT) {
            if (++n_interrupt == 1) {
                printf("\n[Ctrl-C again or /quit leaves]\n");
            }
            continue;
        }
        n_interrupt = 0;
        if (text[strspn(text, " \t\n")] == 0) {
            continue;
        }
        cmd_clear_interrupt();
        last = one_message(c, text, err);
        n_interrupt = cmd_interrupted() ? 1 : 0;
        cmd_clear_interrupt();  // taken: the editor looks at it, too
        if (last != MK_OK) {
            print_error(err);
        }
        *err = (mk_err){0};  // it has been said
    }
    return c->tty ? MK_OK : last;
}

static void greet(const chat *c) {
    const char *name = mk_path_base(mk_source_path(mk_llm_model(c->llm)->src));
    const char *end = strstr(name, ".gguf");
    printf("%.*s, window %lld tokens. /help lists the commands.\n",
           end ? (int)(end - name) : (int)strlen(name), name,
           (long long)mk_engine_n_ctx(mk_llm_engine(c->llm)));
    if (!c->args->model.model) {
        printf("%s%s.%s\n", c->color ? "\033[2m" : "", CMD_DEFAULT_ABOUT,
               c->color ? "\033[0m" : "");
    }
}

static mk_status converse(chat_args *a, mk_err *err) {
    chat c = {.args = a,
              .messages = json_array(),
              .tty = isatty(0) && isatty(1),
              .color = cmd_color(stdout)};
    mk_status st = cmd_open(&a->model, &(cmd_open_opts){0}, &c.llm, err);
    if (st == MK_OK) {
        if (a->system) {
            chat_add(&c, "system", a->system, strlen(a->system));
        }
        if (c.tty && !a->model.quiet) {
            greet(&c);
        }
        c.edit = chat_edit_open(c.tty);
        cmd_catch_interrupt();
        st = loop(&c, err);
    }
    chat_edit_close(c.edit);
    mk_answer_free(&c.last);
    json_decref(c.messages);
    mk_llm_close(c.llm);
    return st;
}

mk_status cmd_chat(int argc, char *const *argv, mk_err *err) {
    chat_args a = {.sample = CMD_SAMPLE_ARGS};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_chat_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = converse(&a, err);
    }
    mk_opt_free(&cmd_chat_spec, &a, &r);
    return st;
}
