// The slash commands of a chat, one row each.
#include "chat.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

#define LOAD_MAX_BYTES ((size_t)256 << 20)

typedef struct {
    const char *name, *args, *about;
    mk_status (*run)(chat *c, const char *args, mk_err *err);
} command;

static void list_commands(void);

// --- settings ------------------------------------------------------------------------------------

static const mk_opt set_opts[] = {
    {.name = "n",
     .type = MK_OPT_I64,
     .offset = offsetof(cmd_sample_args, n_predict),
     .min = -1,
     .max = 1 << 30},
    {.name = "temp",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, temp),
     .min = 0,
     .max = 100},
    {.name = "top-k",
     .type = MK_OPT_I64,
     .offset = offsetof(cmd_sample_args, top_k),
     .min = 0,
     .max = 1 << 30},
    {.name = "top-p",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, top_p),
     .min = 0,
     .max = 1},
    {.name = "min-p",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, min_p),
     .min = 0,
     .max = 1},
    {.name = "repeat-penalty",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, repeat),
     .min = 0.01,
     .max = 100},
    {.name = "presence-penalty",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, presence),
     .min = -100,
     .max = 100},
    {.name = "frequency-penalty",
     .type = MK_OPT_F64,
     .offset = offsetof(cmd_sample_args, frequency),
     .min = -100,
     .max = 100},
    {.name = "seed",
     .type = MK_OPT_I64,
     .offset = offsetof(cmd_sample_args, seed),
     .min = 0,
     .max = 999999999999999.0,
     .word = "random",
     .word_value = CMD_SEED_RANDOM},
};

static const mk_opt_spec set_spec = {
    .program = "/set", .opts = set_opts, .n_opts = MK_OPT_COUNT(set_opts)};

static void print_settings(const chat *c) {
    mk_sample_params p;
    mk_logit_bias *bias = NULL;
    mk_err err;
    if (cmd_sample_params(&c->args->sample, c->llm, &p, &bias, &err) != MK_OK) {
        printf("%s\n", err.msg);
        return;
    }
    printf("n %lld, temp %g, top-k %d, top-p %g, min-p %g, repeat-penalty %g, presence-penalty %g, "
           "frequency-penalty %g, "
           "seed %lld\n",
           (long long)c->args->sample.n_predict, (double)p.temperature, p.top_k, (double)p.top_p,
           (double)p.min_p, (double)p.repetition_penalty, (double)p.presence_penalty,
           (double)p.frequency_penalty, (long long)c->args->sample.seed);
    mk_free(bias);
}

// "/set temp 0.7" is parsed as the flag --temp=0.7 of `minke run`.
static mk_status do_set(chat *c, const char *args, mk_err *err) {
    size_t n = strcspn(args, " =");
    const char *value = args + n + strspn(args + n, " =");
    if (n == 0) {
        print_settings(c);
        return MK_OK;
    }
    char flag[256], name[] = "/set";
    int len = snprintf(flag, sizeof flag, "--%.*s=%s", (int)n, args, value);
    if (len < 0 || (size_t)len >= sizeof flag) {
        return MK_FAIL(err, MK_EUSAGE, "/set: expected KEY VALUE, got %zu characters",
                       strlen(args));
    }
    char *argv[] = {name, flag, NULL};
    mk_opt_result r = {0};
    cmd_sample_args changed = c->args->sample;
    mk_status st = mk_opt_parse(&set_spec, 2, argv, &changed, &r, err);
    if (st == MK_OK) {
        c->args->sample = changed;
        print_settings(c);
    }
    mk_opt_free(&set_spec, &changed, &r);
    return st;
}

static mk_status do_think(chat *c, const char *args, mk_err *err) {
    static const char *const how[] = {"off", "on", "low", "medium", "high", "max"};
    if (strcmp(args, "fold") == 0 || strcmp(args, "show") == 0) {
        c->fold = args[0] == 'f' && c->tty;
        return MK_OK;
    }
    for (size_t i = 0; i < sizeof how / sizeof how[0]; i++) {
        if (strcmp(args, how[i]) == 0) {
            c->args->think = how[i];
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE,
                   "/think: expected off, on, low, medium, high, max, fold or show, got '%s'",
                   args);
}

static bool has_system(const chat *c) {
    const json_t *m = json_array_get(c->messages, 0);
    const char *role = json_string_value(json_object_get(m, "role"));
    return role && strcmp(role, "system") == 0;
}

static mk_status do_system(chat *c, const char *args, mk_err *err) {
    (void)err;
    if (!*args) {
        const char *now = chat_last_text(c, "system");
        printf("%s\n", now ? now : "(no system message)");
        return MK_OK;
    }
    if (has_system(c)) {
        json_array_remove(c->messages, 0);
    }
    json_array_insert_new(
        c->messages, 0,
        json_pack("{s:s, s:o}", "role", "system", "content", mk_json_text(args, strlen(args))));
    return MK_OK;
}

// --- turns ---------------------------------------------------------------------------------------

static mk_status do_retry(chat *c, const char *args, mk_err *err) {
    (void)args;
    if (strcmp(chat_last_role(c), "assistant") != 0) {
        return MK_FAIL(err, MK_EUSAGE, "/retry: there is no answer yet");
    }
    chat_drop_last(c);
    c->retries++;
    return chat_answer(c, err);
}

// Takes the last turn back; its text is sent again changed, or comes into the editor.
static mk_status do_edit(chat *c, const char *args, mk_err *err) {
    const char *text = chat_last_text(c, "user");
    if (!text) {
        return MK_FAIL(err, MK_EUSAGE, "/edit: there is no message yet");
    }
    if (!*args) {
        chat_edit_prefill(c->edit, text);
    }
    while (strcmp(chat_last_role(c), "assistant") == 0) {
        chat_drop_last(c);
    }
    chat_drop_last(c);
    if (!*args) {
        return MK_OK;
    }
    chat_add(c, "user", args, strlen(args));
    return chat_answer(c, err);
}

static mk_status do_reset(chat *c, const char *args, mk_err *err) {
    (void)args;
    (void)err;
    while (json_array_size(c->messages) > (has_system(c) ? 1u : 0u)) {
        chat_drop_last(c);
    }
    c->retries = 0;
    return MK_OK;
}

// --- files ---------------------------------------------------------------------------------------

static mk_status do_save(chat *c, const char *args, mk_err *err) {
    if (!*args) {
        return MK_FAIL(err, MK_EUSAGE, "/save: expected a file");
    }
    mk_writer *w = NULL;
    size_t n = json_dumpb(c->messages, NULL, 0, JSON_INDENT(2));
    char *text = mk_try_alloc(n + 1, 1);
    mk_status st =
        text ? mk_writer_open(args, &w, err) : MK_FAIL(err, MK_ENOMEM, "/save: no memory");
    if (st == MK_OK) {
        (void)json_dumpb(c->messages, text, n, JSON_INDENT(2));
        text[n] = '\n';
        st = mk_writer_write(w, text, n + 1, err);
        st = st == MK_OK ? mk_writer_commit(w, err) : (mk_writer_abort(w), st);
    }
    mk_free(text);
    if (st == MK_OK) {
        printf("%zu messages saved\n", json_array_size(c->messages));
    }
    return st;
}

// The invariant of chat.h, for messages from a file.
static mk_status check_messages(const json_t *list, const char *path, mk_err *err) {
    size_t i;
    json_t *m;
    if (!json_is_array(list)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: expected an array of messages, got %s", path,
                       mk_json_type_name(list));
    }
    const char *want = "user";
    json_array_foreach((json_t *)list, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        bool system = i == 0 && role && strcmp(role, "system") == 0;
        if (!role || !json_is_string(json_object_get(m, "content")) ||
            (!system && strcmp(role, want) != 0)) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s: message %zu: expected role \"%s\" with a content, got role %s",
                           path, i, want,
                           role ? role : mk_json_type_name(json_object_get(m, "role")));
        }
        want = system ? "user" : strcmp(want, "user") == 0 ? "assistant" : "user";
    }
    return strcmp(want, "user") == 0
               ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT, "%s: the last message is not an answer", path);
}

static mk_status do_load(chat *c, const char *args, mk_err *err) {
    json_t *list = NULL;
    if (!*args) {
        return MK_FAIL(err, MK_EUSAGE, "/load: expected a file");
    }
    MK_TRY(mk_json_file(args, LOAD_MAX_BYTES, &list, err));
    mk_status st = check_messages(list, args, err);
    if (st != MK_OK) {
        json_decref(list);
        return st;
    }
    json_decref(c->messages);
    c->messages = list;
    c->retries = 0;
    printf("%zu messages loaded\n", json_array_size(list));
    return MK_OK;
}

// --- the rest ------------------------------------------------------------------------------------

static double per_second(int64_t n, double ms) {
    return ms > 0 ? 1000.0 * (double)n / ms : 0;
}

static mk_status do_stats(chat *c, const char *args, mk_err *err) {
    (void)args;
    (void)err;
    const mk_answer *a = &c->last;
    long long window = (long long)mk_engine_n_ctx(mk_llm_engine(c->llm));
    printf("last answer: %lld tokens at %.1f/s, prompt %lld tokens (%lld from the cache)\n",
           (long long)a->n_generated, per_second(a->n_generated, a->generation_ms),
           (long long)a->n_prompt, (long long)a->n_cached);
    printf("all %lld answers: %lld tokens at %.1f/s, prompts %lld tokens (%lld from the cache)\n",
           (long long)c->n_answer, (long long)c->n_generated,
           per_second(c->n_generated, c->generation_ms), (long long)c->n_prompt,
           (long long)c->n_cached);
    printf("window: %lld of %lld tokens\n", (long long)(a->n_prompt + a->n_generated), window);
    return MK_OK;
}

static mk_status do_help(chat *c, const char *args, mk_err *err) {
    (void)c;
    (void)args;
    (void)err;
    list_commands();
    return MK_OK;
}

static mk_status do_quit(chat *c, const char *args, mk_err *err) {
    (void)args;
    (void)err;
    c->leave = true;
    return MK_OK;
}

static const command commands[] = {
    {"help", "", "this list", do_help},
    {"think", "HOW", "off, on, low, medium, high, max; fold or show what is thought", do_think},
    {"system", "[TEXT]", "set or show the system message", do_system},
    {"retry", "", "another answer to the last message", do_retry},
    {"edit", "[TEXT]", "change the last message and ask again", do_edit},
    {"save", "FILE", "write the conversation as JSON", do_save},
    {"load", "FILE", "read a conversation", do_load},
    {"stats", "", "tokens, speed, use of the window", do_stats},
    {"reset", "", "forget the conversation, keep the system message", do_reset},
    {"set", "[KEY VALUE]", "temp, top-k, top-p, min-p, n, seed, penalties; alone: show them",
     do_set},
    {"quit", "", "leave", do_quit},
    {0},
};

static void list_commands(void) {
    for (const command *k = commands; k->name; k++) {
        printf("  /%-8s %-14s %s\n", k->name, k->args, k->about);
    }
}

mk_status chat_command(chat *c, const char *line, mk_err *err) {
    const char *names[MK_OPT_COUNT(commands)];
    char word[32] = {0};
    size_t n = strcspn(++line, " \t\n"), n_name = 0;
    memcpy(word, line, n < sizeof word ? n : sizeof word - 1);
    const char *args = line + n + strspn(line + n, " \t\n");
    for (const command *k = commands; k->name; k++) {
        if (strcmp(word, k->name) == 0) {
            return k->run(c, args, err);
        }
        names[n_name++] = k->name;
    }
    const char *near = mk_opt_suggest(word, names, n_name);
    return near ? MK_FAIL(err, MK_EUSAGE, "unknown command /%s; did you mean /%s?", word, near)
                : MK_FAIL(err, MK_EUSAGE, "unknown command /%s; /help lists them", word);
}
