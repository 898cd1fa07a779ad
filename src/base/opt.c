#include "base/opt.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { WORD_MAX = 64 };  // longer words are not compared for suggestions

const char *mk_env(const char *name) {
    const char *v = getenv(name);
    return v && v[0] ? v : NULL;
}

// --- numbers -------------------------------------------------------------------------------------

bool mk_parse_i64(const char *s, int64_t *out) {
    const char *digits = s + (*s == '-' || *s == '+');
    if (!*digits || strspn(digits, "0123456789") != strlen(digits)) {
        return false;
    }
    errno = 0;
    long long v = strtoll(s, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *out = v;
    return true;
}

bool mk_parse_f64(const char *s, double *out) {
    // Only the characters of a decimal number, so that strtod's hexadecimal, inf and nan cannot
    // pass.
    if (!*s || strspn(s, "0123456789+-.eE") != strlen(s)) {
        return false;
    }
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) {
        return false;
    }
    char *end;
    double v = strtod_l(s, &end, c_locale);
    freelocale(c_locale);
    if (*end || end == s || !isfinite(v)) {
        return false;
    }
    *out = v;
    return true;
}

// --- suggestions ---------------------------------------------------------------------------------

// Edit distance with transpositions (optimal string alignment); both shorter than WORD_MAX.
static int distance(const char *a, const char *b) {
    int rows[3][WORD_MAX + 1];
    int na = (int)strlen(a), nb = (int)strlen(b);
    for (int j = 0; j <= nb; j++) {
        rows[0][j] = j;
    }
    for (int i = 1; i <= na; i++) {
        int *cur = rows[i % 3], *prev = rows[(i + 2) % 3], *prev2 = rows[(i + 1) % 3];
        cur[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = prev[j - 1] + (a[i - 1] != b[j - 1]);
            best = prev[j] + 1 < best ? prev[j] + 1 : best;
            best = cur[j - 1] + 1 < best ? cur[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                prev2[j - 2] + 1 < best) {
                best = prev2[j - 2] + 1;
            }
            cur[j] = best;
        }
    }
    return rows[na % 3][nb];
}

const char *mk_opt_suggest(const char *word, const char *const *candidates, size_t n) {
    size_t len = strlen(word);
    if (len >= WORD_MAX) {
        return NULL;
    }
    // One slip in a short word, two in a longer one; and never more than a third of the word.
    int limit = len < 3 ? 0 : len < 6 ? 1 : 2;
    const char *best = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!candidates[i] || strlen(candidates[i]) >= WORD_MAX) {
            continue;
        }
        bool prefix = len >= 3 && strncmp(candidates[i], word, len) == 0;
        int d = prefix ? 1 : distance(word, candidates[i]);
        if (d <= limit) {
            limit = d - 1;
            best = candidates[i];
        }
    }
    return best;
}

// --- storing one value ---------------------------------------------------------------------------

static void *field_of(const mk_opt *o, void *values) {
    return (char *)values + o->offset;
}

static bool has_range(const mk_opt *o) {
    return o->min < 0 || o->min > 0 || o->max < 0 || o->max > 0;
}

static const char *kind_name(const mk_opt *o) {
    return o->type == MK_OPT_I64 ? "a whole number" : "a number";
}

static mk_status bad_number(const mk_opt *o, const char *flag, const char *text, mk_err *err) {
    char range[96] = "";
    if (has_range(o)) {
        snprintf(range, sizeof range, " between %.15g and %.15g", o->min, o->max);
    }
    return MK_FAIL(err, MK_EUSAGE, "%s: expected %s%s%s%s%s, got '%s'", flag, kind_name(o), range,
                   o->word ? " or '" : "", o->word ? o->word : "", o->word ? "'" : "", text);
}

// The number that text stands for, as both types; false if it is neither in range nor the row's
// word.
static bool read_number(const mk_opt *o, const char *text, int64_t *i, double *d) {
    if (o->word && strcmp(text, o->word) == 0) {
        *i = o->type == MK_OPT_I64 ? (int64_t)o->word_value : 0;
        *d = o->word_value;
        return true;
    }
    if (o->type == MK_OPT_I64 ? !mk_parse_i64(text, i) : !mk_parse_f64(text, d)) {
        return false;
    }
    double v = o->type == MK_OPT_I64 ? (double)*i : *d;
    return !has_range(o) || (v >= o->min && v <= o->max);
}

static mk_status store_number(const mk_opt *o, const char *flag, const char *text, void *field,
                              mk_err *err) {
    int64_t i = 0;
    double d = 0;
    if (!read_number(o, text, &i, &d)) {
        return bad_number(o, flag, text, err);
    }
    if (o->type == MK_OPT_I64) {
        memcpy(field, &i, sizeof i);
    } else {
        memcpy(field, &d, sizeof d);
    }
    return MK_OK;
}

static mk_status store_flag(const char *flag, const char *text, void *field, mk_err *err) {
    static const char *const on[] = {"on", "true", "yes", "1"};
    static const char *const off[] = {"off", "false", "no", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, on[i]) == 0 || strcmp(text, off[i]) == 0) {
            *(bool *)field = strcmp(text, on[i]) == 0;
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE, "%s: expected on or off, got '%s'", flag, text);
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *c = choices; c;) {
        size_t len = strcspn(c, "|");
        if (len == n && memcmp(c, text, n) == 0) {
            return true;
        }
        c = c[len] ? c + len + 1 : NULL;
    }
    return false;
}

static mk_status add_to_list(const char *flag, const char *text, mk_opt_list *list, mk_err *err) {
    const char **items = mk_try_realloc(list->items, list->n + 1, sizeof *items);
    if (!items) {
        return MK_FAIL(err, MK_ENOMEM, "%s: not enough memory for %zu values", flag, list->n + 1);
    }
    items[list->n] = text;
    list->items = items;
    list->n++;
    return MK_OK;
}

static mk_status store(const mk_opt *o, const char *flag, const char *text, void *values,
                       mk_err *err) {
    void *field = field_of(o, values);
    if (o->type == MK_OPT_FLAG) {
        return store_flag(flag, text, field, err);
    }
    if (o->type == MK_OPT_I64 || o->type == MK_OPT_F64) {
        return store_number(o, flag, text, field, err);
    }
    if (o->choices && !is_choice(o->choices, text)) {
        return MK_FAIL(err, MK_EUSAGE, "%s: expected one of %s, got '%s'", flag, o->choices, text);
    }
    if (o->type == MK_OPT_LIST) {
        return add_to_list(flag, text, field, err);
    }
    memcpy(field, &text, sizeof text);
    return MK_OK;
}

// --- the command line ----------------------------------------------------------------------------

// One flag as typed, taken apart: "--top-p=0.5" -> name "top-p", value "0.5".
typedef struct {
    char name[WORD_MAX];
    const char *value;  // behind '=', or NULL
    bool is_long;
    char shown[WORD_MAX + 4];  // for messages: "--top-p"
} typed_flag;

static bool take_apart(const char *arg, typed_flag *f) {
    f->is_long = arg[1] == '-';
    const char *name = arg + 1 + f->is_long;
    size_t n = strcspn(name, "=");
    if (n == 0 || n >= sizeof f->name) {
        return false;
    }
    memcpy(f->name, name, n);
    f->name[n] = '\0';
    f->value = name[n] ? name + n + 1 : NULL;
    snprintf(f->shown, sizeof f->shown, "%s%s", f->is_long ? "--" : "-", f->name);
    return true;
}

static const mk_opt *find_opt(const mk_opt_spec *spec, const char *name, bool is_long) {
    for (size_t i = 0; i < spec->n_opts; i++) {
        const char *own = is_long ? spec->opts[i].name : spec->opts[i].short_name;
        if (own && strcmp(own, name) == 0) {
            return &spec->opts[i];
        }
    }
    return NULL;
}

// --no-x for a flag x
static const mk_opt *find_negated(const mk_opt_spec *spec, const typed_flag *f) {
    const mk_opt *o = NULL;
    if (f->is_long && !f->value && strncmp(f->name, "no-", 3) == 0) {
        o = find_opt(spec, f->name + 3, true);
    }
    return o && o->type == MK_OPT_FLAG ? o : NULL;
}

static mk_status unknown_flag(const mk_opt_spec *spec, const typed_flag *f, mk_err *err) {
    const char *names[MK_OPT_MAX_ROWS + 1];
    for (size_t i = 0; i < spec->n_opts; i++) {
        names[i] = spec->opts[i].name;
    }
    names[spec->n_opts] = "help";
    const char *near = mk_opt_suggest(f->name, names, spec->n_opts + 1);
    if (!near && find_opt(spec, f->name, !f->is_long)) {
        near = find_opt(spec, f->name, !f->is_long)->name;  // -seed for --seed, --m for -m
    }
    if (near) {
        return MK_FAIL(err, MK_EUSAGE, "unknown option %s; did you mean --%s?", f->shown, near);
    }
    return MK_FAIL(err, MK_EUSAGE, "unknown option %s; '%s --help' lists them", f->shown,
                   spec->program);
}

// true if arg is a known option: then it is not the value of the one before it.
static bool is_known_flag(const mk_opt_spec *spec, const char *arg) {
    typed_flag f;
    return arg[0] == '-' && arg[1] && take_apart(arg, &f) &&
           (find_opt(spec, f.name, f.is_long) || find_negated(spec, &f));
}

typedef struct {
    const mk_opt_spec *spec;
    int argc, at;
    char *const *argv;
    void *values;
    mk_opt_result *r;
} parser;

static mk_status option_value(parser *ps, const mk_opt *o, const typed_flag *f, const char **value,
                              mk_err *err) {
    *value = f->value;
    if (f->value) {
        return MK_OK;
    }
    const char *next = ps->at + 1 < ps->argc ? ps->argv[ps->at + 1] : NULL;
    if (!next) {
        return MK_FAIL(err, MK_EUSAGE, "%s: expected %s behind it, got the end of the line",
                       f->shown, o->arg ? o->arg : "a value");
    }
    if (is_known_flag(ps->spec, next)) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "%s: expected %s behind it, got the option '%s' (if that is the value: %s=%s)",
            f->shown, o->arg ? o->arg : "a value", next, f->shown, next);
    }
    ps->at++;
    *value = next;
    return MK_OK;
}

// Defaults and the environment may have filled a list; the command line replaces it as a whole.
static void first_of_list(const mk_opt *o, bool given, void *values) {
    if (o->type == MK_OPT_LIST && !given) {
        mk_opt_list *list = field_of(o, values);
        mk_free(list->items);
        *list = (mk_opt_list){0};
    }
}

static mk_status parse_option(parser *ps, bool *on_line, mk_err *err) {
    const char *arg = ps->argv[ps->at];
    typed_flag f;
    if (!take_apart(arg, &f)) {
        return MK_FAIL(err, MK_EUSAGE, "'%.80s' is not an option; '%s --help' lists them", arg,
                       ps->spec->program);
    }
    const mk_opt *negated = find_negated(ps->spec, &f);
    const mk_opt *o = negated ? negated : find_opt(ps->spec, f.name, f.is_long);
    if (!o) {
        return unknown_flag(ps->spec, &f, err);
    }
    size_t row = (size_t)(o - ps->spec->opts);
    const char *value = f.value;
    if (o->type == MK_OPT_FLAG) {
        value = negated ? "off" : value ? value : "on";
    } else {
        MK_TRY(option_value(ps, o, &f, &value, err));
    }
    first_of_list(o, on_line[row], ps->values);
    on_line[row] = true;
    ps->r->given[row] = true;
    return store(o, f.shown, value, ps->values, err);
}

static bool asks_for_help(int argc, char *const *argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

static mk_status apply_defaults(const mk_opt_spec *spec, void *values, mk_opt_result *r,
                                mk_err *err) {
    for (size_t i = 0; i < spec->n_opts; i++) {
        const mk_opt *o = &spec->opts[i];
        if (o->dflt) {
            // A default that breaks its own row is our bug, not the user's.
            mk_status st = store(o, o->name, o->dflt, values, NULL);
            MK_ASSERT(st == MK_OK);
        }
        MK_ASSERT(!o->env || strncmp(o->env, "MINKE_", 6) == 0);
        const char *text = o->env ? mk_env(o->env) : NULL;
        if (text) {
            first_of_list(o, false, values);
            MK_TRY(store(o, o->env, text, values, err));
            r->given[i] = true;
        }
    }
    return MK_OK;
}

static mk_status check_arg_count(const mk_opt_spec *spec, const mk_opt_result *r, mk_err *err) {
    if (r->n_args < spec->min_args) {
        return MK_FAIL(err, MK_EUSAGE, "expected %s%d argument%s, got %d; usage: %s %s",
                       spec->max_args == spec->min_args ? "" : "at least ", spec->min_args,
                       spec->min_args == 1 ? "" : "s", r->n_args, spec->program,
                       spec->usage ? spec->usage : "");
    }
    if (spec->max_args >= 0 && r->n_args > spec->max_args) {
        return MK_FAIL(err, MK_EUSAGE, "unexpected argument '%s'; usage: %s %s",
                       r->args[spec->max_args], spec->program, spec->usage ? spec->usage : "");
    }
    return MK_OK;
}

static mk_status parse_line(parser *ps, mk_err *err) {
    bool on_line[MK_OPT_MAX_ROWS] = {false};
    bool options_ended = false;
    for (ps->at = 1; ps->at < ps->argc; ps->at++) {
        const char *arg = ps->argv[ps->at];
        if (options_ended || arg[0] != '-' || !arg[1]) {
            ps->r->args[ps->r->n_args++] = arg;
        } else if (strcmp(arg, "--") == 0) {
            options_ended = true;
        } else {
            MK_TRY(parse_option(ps, on_line, err));
        }
    }
    return check_arg_count(ps->spec, ps->r, err);
}

mk_status mk_opt_parse(const mk_opt_spec *spec, int argc, char *const *argv, void *values,
                       mk_opt_result *r, mk_err *err) {
    MK_ASSERT(spec->n_opts <= MK_OPT_MAX_ROWS);
    *r = (mk_opt_result){0};
    r->args = mk_zalloc((size_t)(argc + 1) * sizeof *r->args);
    if (asks_for_help(argc, argv)) {
        r->help = true;
        return MK_OK;
    }
    MK_TRY(apply_defaults(spec, values, r, err));
    parser ps = {.spec = spec, .argc = argc, .argv = argv, .values = values, .r = r};
    return parse_line(&ps, err);
}

void mk_opt_free(const mk_opt_spec *spec, void *values, mk_opt_result *r) {
    for (size_t i = 0; i < spec->n_opts; i++) {
        first_of_list(&spec->opts[i], false, values);
    }
    mk_free(r->args);
    r->args = NULL;
    r->n_args = 0;
}

bool mk_opt_given(const mk_opt_spec *spec, const mk_opt_result *r, const char *name) {
    const mk_opt *o = find_opt(spec, name, true);
    MK_ASSERT(o != NULL);
    return r->given[o - spec->opts];
}
