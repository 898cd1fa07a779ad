// The list of rewards: reading its texts, taking a completion apart, summing up.
#include "train/reward.h"

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/opt.h"
#include "chat/parse.h"
#include "train/reward_int.h"

enum { SPLIT_MAX = 64 << 20 };

struct mk_rewards {
    char *open, *close;
    int n;
    mk_reward item[MK_REWARDS_MAX];
    mk_reward by_line[MK_REWARDS_MAX];  // for `checker`: each kind that a line may name
};

// --- the text of a reward ------------------------------------------------------------------------

typedef enum { TYPE_F64, TYPE_I64, TYPE_BOOL, TYPE_STR, TYPE_REST, TYPE_SANDBOX } key_type;

typedef struct {
    const char *name;
    unsigned keys;  // of the kinds that have it
    key_type type;
    size_t offset;
    double min, max;
} key;

#define FIELD(f_) offsetof(mk_reward, f_)
// clang-format off
static const key keys[] = {
    {"weight",    MK_KEY_ANY,     TYPE_F64,     FIELD(weight),             -1e6, 1e6},
    {"name",      MK_KEY_ANY,     TYPE_STR,     FIELD(name),               0, 0},
    {"tag",       MK_KEY_ANY,     TYPE_STR,     FIELD(tag),                0, 0},
    {"tolerance", MK_KEY_NUMBER,  TYPE_F64,     FIELD(tolerance),          0, 1e6},
    {"find",      MK_KEY_REGEX,   TYPE_BOOL,    FIELD(find),               0, 0},
    {"pattern",   MK_KEY_REGEX,   TYPE_REST,    FIELD(pattern),            0, 0},
    {"lines",     MK_KEY_FORMAT,  TYPE_I64,     FIELD(lines),              0, 1e6},
    {"max",       MK_KEY_LENGTH,  TYPE_I64,     FIELD(max),                1, 1e9},
    {"soft",      MK_KEY_LENGTH,  TYPE_I64,     FIELD(soft),               1, 1e9},
    {"seconds",   MK_KEY_COMMAND, TYPE_F64,     FIELD(command.seconds),    0.01, 86400},
    {"memory",    MK_KEY_COMMAND, TYPE_I64,     FIELD(command.memory_mib), 0, 1 << 30},
    {"file",      MK_KEY_COMMAND, TYPE_I64,     FIELD(command.file_mib),   0, 1 << 30},
    {"processes", MK_KEY_COMMAND, TYPE_I64,     FIELD(command.processes),  1, 4096},
    {"scratch",   MK_KEY_COMMAND, TYPE_STR,     FIELD(command.scratch),    0, 0},
    {"sandbox",   MK_KEY_COMMAND, TYPE_SANDBOX, FIELD(command.sandbox),    0, 0},
    {"run",       MK_KEY_COMMAND, TYPE_REST,    FIELD(run),                0, 0},
    {"shell",     MK_KEY_COMMAND, TYPE_REST,    FIELD(run),                0, 0},
};
// clang-format on
#define N_KEY (sizeof keys / sizeof keys[0])

static mk_status bad_value(const mk_reward *r, const key *k, const char *text, mk_err *err) {
    switch (k->type) {
    case TYPE_BOOL:
        return MK_FAIL(err, MK_EUSAGE, "reward %s: %s: expected on or off, got '%s'", r->kind->name,
                       k->name, text);
    case TYPE_SANDBOX:
        return MK_FAIL(err, MK_EUSAGE, "reward %s: %s: expected try, require or off, got '%s'",
                       r->kind->name, k->name, text);
    case TYPE_STR:
    case TYPE_REST:
        return MK_FAIL(err, MK_EUSAGE, "reward %s: %s: expected a text, got none", r->kind->name,
                       k->name);
    default:
        return MK_FAIL(err, MK_EUSAGE, "reward %s: %s: expected a%s number %g to %g, got '%s'",
                       r->kind->name, k->name, k->type == TYPE_I64 ? " whole" : "", k->min, k->max,
                       text);
    }
}

static int word_index(const char *text, const char *const *words, int n) {
    for (int i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool set_value(mk_reward *r, const key *k, char *text) {
    static const char *const on_off[] = {"off", "on"};
    static const char *const how[] = {"try", "require", "off"};
    void *at = (char *)r + k->offset;
    double d = 0;
    int64_t v = 0;
    int i;
    switch (k->type) {
    case TYPE_F64:
        if (!mk_parse_f64(text, &d) || d < k->min || d > k->max) {
            return false;
        }
        *(double *)at = d;
        return true;
    case TYPE_I64:
        if (!mk_parse_i64(text, &v) || (double)v < k->min || (double)v > k->max) {
            return false;
        }
        *(int64_t *)at = v;
        return true;
    case TYPE_BOOL:
        i = word_index(text, on_off, 2);
        *(bool *)at = i == 1;
        return i >= 0;
    case TYPE_SANDBOX:
        i = word_index(text, how, 3);
        *(mk_sandbox *)at = (mk_sandbox)i;
        return i >= 0;
    default:
        if (!*text) {
            return false;
        }
        mk_free(*(char **)at);
        *(char **)at = mk_strdup(text);
        return true;
    }
}

// One KEY=VALUE at *text (changed); *text moves behind it.
static mk_status read_key(mk_reward *r, char **text, mk_err *err) {
    const char *names[N_KEY];
    size_t n_name = 0;
    char *name = *text, *value = strchr(name, '=');
    if (!value) {
        return MK_FAIL(err, MK_EUSAGE, "reward %s: expected KEY=VALUE, got '%s'", r->kind->name,
                       name);
    }
    *value++ = 0;
    for (size_t i = 0; i < N_KEY; i++) {
        const key *k = &keys[i];
        if (!(k->keys & r->kind->keys)) {
            continue;
        }
        names[n_name++] = k->name;
        if (strcmp(k->name, name) != 0) {
            continue;
        }
        char *end = k->type == TYPE_REST ? NULL : strchr(value, ',');
        *text = end ? end + 1 : value + strlen(value);
        if (end) {
            *end = 0;
        }
        r->command.shell = r->command.shell || strcmp(name, "shell") == 0;
        return set_value(r, k, value) ? MK_OK : bad_value(r, k, value, err);
    }
    const char *near = mk_opt_suggest(name, names, n_name);
    return near ? MK_FAIL(err, MK_EUSAGE, "reward %s: no key '%s'; did you mean '%s'?",
                          r->kind->name, name, near)
                : MK_FAIL(err, MK_EUSAGE, "reward %s: no key '%s'", r->kind->name, name);
}

static mk_status find_kind(mk_reward *r, const char *name, mk_err *err) {
    const char *names[MK_REWARDS_MAX];
    for (int i = 0; i < mk_reward_n_kind; i++) {
        names[i] = mk_reward_kinds[i].name;
        if (strcmp(name, names[i]) == 0) {
            r->kind = &mk_reward_kinds[i];
            return MK_OK;
        }
    }
    const char *near = mk_opt_suggest(name, names, (size_t)mk_reward_n_kind);
    return near ? MK_FAIL(err, MK_EUSAGE, "unknown reward '%s'; did you mean '%s'?", name, near)
                : MK_FAIL(err, MK_EUSAGE,
                          "unknown reward '%s'; expected exact, numeric, regex, expression, math, "
                          "format, length, command or checker",
                          name);
}

static void set_defaults(mk_reward *r) {
    *r = (mk_reward){.weight = 1, .tolerance = 1e-9, .command = MK_COMMAND_DEFAULTS};
}

static mk_status read_reward(mk_reward *r, const char *spec, mk_err *err) {
    char *copy = mk_strdup(spec), *rest = strchr(copy, ':');
    if (rest) {
        *rest++ = 0;
    }
    set_defaults(r);
    mk_status st = find_kind(r, copy, err);
    while (st == MK_OK && rest && *rest) {
        st = read_key(r, &rest, err);
    }
    if (st == MK_OK && !r->name) {
        r->name = mk_strdup(r->kind->name);
    }
    if (st == MK_OK && r->kind->prepare) {
        st = r->kind->prepare(r, err);
    }
    mk_free(copy);
    return st;
}

static void free_reward(mk_reward *r) {
    mk_free(r->name);
    mk_free(r->tag);
    mk_free(r->pattern);
    mk_free(r->run);
    mk_free((char *)r->command.scratch);
    mk_reward_regex_free(r);
    mk_command_destroy(r->program);
    mk_free(r->failures);
}

// --- the list ------------------------------------------------------------------------------------

static mk_status check_names(const mk_rewards *r, mk_err *err) {
    for (int i = 0; i < r->n; i++) {
        for (int k = 0; k < i; k++) {
            if (strcmp(r->item[i].name, r->item[k].name) == 0) {
                return MK_FAIL(
                    err, MK_EUSAGE,
                    "two rewards have the name '%s'; give one another with name=", r->item[i].name);
            }
        }
    }
    return MK_OK;
}

mk_status mk_rewards_create(const char *const *spec, size_t n, const mk_rewards_opts *opts,
                            mk_rewards **out, mk_err *err) {
    *out = NULL;
    if (n == 0 || n > MK_REWARDS_MAX) {
        return MK_FAIL(err, MK_EUSAGE, "expected 1 to %d rewards, got %zu", MK_REWARDS_MAX, n);
    }
    mk_rewards *r = mk_zalloc(sizeof *r);
    r->open = mk_strdup(opts && opts->open ? opts->open : "<think>");
    r->close = mk_strdup(opts && opts->close ? opts->close : "</think>");
    mk_status st = MK_OK;
    for (size_t i = 0; st == MK_OK && i < n; i++) {
        st = read_reward(&r->item[r->n++], spec[i], err);
    }
    for (int i = 0; i < mk_reward_n_kind; i++) {
        set_defaults(&r->by_line[i]);
        r->by_line[i].kind = &mk_reward_kinds[i];
    }
    st = st == MK_OK ? check_names(r, err) : st;
    if (st != MK_OK) {
        mk_rewards_destroy(r);
        return st;
    }
    *out = r;
    return MK_OK;
}

void mk_rewards_destroy(mk_rewards *r) {
    if (!r) {
        return;
    }
    for (int i = 0; i < r->n; i++) {
        free_reward(&r->item[i]);
    }
    mk_free(r->open);
    mk_free(r->close);
    mk_free(r);
}

int mk_rewards_count(const mk_rewards *r) {
    return r->n;
}

const char *mk_rewards_name(const mk_rewards *r, int i) {
    return r->item[i].name;
}

double mk_rewards_weight(const mk_rewards *r, int i) {
    return r->item[i].weight;
}

// --- a completion --------------------------------------------------------------------------------

typedef struct {
    mk_buf reasoning, answer;
} halves;

static void take_piece(void *arg, const mk_answer_event *ev) {
    halves *h = arg;
    mk_buf_add(ev->kind == MK_AE_REASONING ? &h->reasoning : &h->answer, ev->text, ev->n);
}

static bool contains(const char *text, size_t n, const char *what) {
    return memmem(text, n, what, strlen(what)) != NULL;
}

static mk_status split(const mk_rewards *r, const mk_reward_input *in, halves *h, mk_reward_text *t,
                       mk_err *err) {
    mk_parser *p;
    MK_TRY(mk_parser_create(&(mk_parse_opts){.think_open = r->open,
                                             .think_close = r->close,
                                             .starts_inside = in->thinking},
                            take_piece, h, &p, err));
    mk_status st = mk_parser_push(p, in->completion, in->n_completion, err);
    bool open = mk_parser_place(p) == MK_PLACE_REASONING;
    st = st == MK_OK ? mk_parser_finish(p, err) : st;
    mk_parser_destroy(p);
    if (st == MK_OK && (h->reasoning.failed || h->answer.failed)) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for a completion of %zu bytes", in->n_completion);
    }
    *t = (mk_reward_text){.in = in,
                          .reasoning = h->reasoning.data ? h->reasoning.data : "",
                          .n_reasoning = h->reasoning.len,
                          .answer = h->answer.data ? h->answer.data : "",
                          .n_answer = h->answer.len,
                          .open = r->open,
                          .close = r->close};
    t->has_answer = !open && !contains(t->answer, t->n_answer, r->open) &&
                    !contains(t->answer, t->n_answer, r->close);
    return st;
}

// What stands between the only <tag> and the only </tag>; no answer if it is otherwise.
static mk_reward_text inside_tag(const mk_reward_text *t, const char *tag) {
    mk_reward_text in = *t;
    mk_buf mark;
    mk_buf_init(&mark, 4096);
    mk_buf_printf(&mark, "<%s>", tag);
    const char *from = memmem(t->answer, t->n_answer, mark.data, mark.len);
    in.has_answer = false;
    if (from) {
        from += mark.len;
        size_t left = t->n_answer - (size_t)(from - t->answer);
        bool again = contains(from, left, mark.data);
        mk_buf_clear(&mark);
        mk_buf_printf(&mark, "</%s>", tag);
        const char *to = memmem(from, left, mark.data, mark.len);
        if (to && !again) {
            size_t behind = left - (size_t)(to - from) - mark.len;
            in.answer = from;
            in.n_answer = (size_t)(to - from);
            in.has_answer = t->has_answer && !contains(to + mark.len, behind, mark.data);
        }
    }
    mk_buf_free(&mark);
    return in;
}

static mk_status kind_of_line(const mk_rewards *r, const mk_reward_input *in, const mk_reward **out,
                              mk_err *err) {
    const char *name = NULL;
    MK_TRY(mk_json_get_str(in->line, "checker", &name, err));
    for (int i = 0; name && i < mk_reward_n_kind; i++) {
        if (r->by_line[i].kind->by_line && strcmp(r->by_line[i].kind->name, name) == 0) {
            *out = &r->by_line[i];
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_ECORRUPT,
                   "checker: expected exact, numeric, regex, expression or math, got '%s'",
                   name ? name : "nothing");
}

static mk_status score_one(const mk_rewards *r, const mk_reward *item, const mk_reward_text *t,
                           double *value, mk_err *err) {
    const mk_reward *by = item;
    if (!item->kind->score) {
        MK_TRY(kind_of_line(r, t->in, &by, err));
    }
    mk_reward_text inner = item->tag ? inside_tag(t, item->tag) : *t;
    return by->kind->score(by, &inner, value, err);
}

mk_status mk_rewards_score(const mk_rewards *r, const mk_reward_input *in, double *each,
                           double *total, mk_err *err) {
    halves h;
    mk_reward_text t;
    mk_buf_init(&h.reasoning, SPLIT_MAX);
    mk_buf_init(&h.answer, SPLIT_MAX);
    mk_status st = split(r, in, &h, &t, err);
    *total = 0;
    for (int i = 0; st == MK_OK && i < r->n; i++) {
        double value = 0;
        st = score_one(r, &r->item[i], &t, &value, err);
        if (st != MK_OK) {
            st = mk_err_prefix(err, "reward %s", r->item[i].name);
        }
        *total += r->item[i].weight * value;
        if (each) {
            each[i] = value;
        }
    }
    mk_buf_free(&h.reasoning);
    mk_buf_free(&h.answer);
    return st;
}
