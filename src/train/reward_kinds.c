// The kinds of rewards that look at the answer alone: exact, numeric, expression, format, length.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/opt.h"
#include "train/expr.h"
#include "train/reward_int.h"

enum { MAX_DIGITS = 64, MAX_BEHIND = 32 };

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

void mk_reward_trim(const char **s, size_t *n) {
    for (; *n > 0 && is_space(**s); ++*s, --*n) {
    }
    for (; *n > 0 && is_space((*s)[*n - 1]); --*n) {
    }
}

mk_status mk_reward_field(const mk_reward_text *t, const char *key, char room[32],
                          const char **text, size_t *n, mk_err *err) {
    const json_t *v = t->in->line ? json_object_get(t->in->line, key) : NULL;
    if (json_is_string(v)) {
        *text = json_string_value(v);
        *n = json_string_length(v);
        return MK_OK;
    }
    if (json_is_integer(v)) {
        *n = (size_t)snprintf(room, 32, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        *n = (size_t)snprintf(room, 32, "%.17g", json_real_value(v));
    } else {
        return MK_FAIL(err, MK_ECORRUPT,
                       "field '%s' of the line: expected text or a number, got %s", key,
                       mk_json_type_name(v));
    }
    *text = room;
    return MK_OK;
}

// --- exact ---------------------------------------------------------------------------------------

// The next byte of a trimmed text, every run of white space one space; -1 at the end.
static int next_byte(const char *s, size_t n, size_t *at) {
    if (*at >= n) {
        return -1;
    }
    if (!is_space(s[*at])) {
        return (unsigned char)s[(*at)++];
    }
    while (*at < n && is_space(s[*at])) {
        ++*at;
    }
    return ' ';
}

static bool same_text(const char *a, size_t na, const char *b, size_t nb) {
    mk_reward_trim(&a, &na);
    mk_reward_trim(&b, &nb);
    for (size_t i = 0, k = 0;;) {
        int x = next_byte(a, na, &i), y = next_byte(b, nb, &k);
        if (x != y) {
            return false;
        }
        if (x < 0) {
            return true;
        }
    }
}

static mk_status score_exact(const mk_reward *r, const mk_reward_text *t, double *v, mk_err *err) {
    char room[32];
    const char *want;
    size_t n;
    (void)r;
    MK_TRY(mk_reward_field(t, "answer", room, &want, &n, err));
    *v = t->has_answer && same_text(t->answer, t->n_answer, want, n);
    return MK_OK;
}

// --- numbers -------------------------------------------------------------------------------------

// Copies digits, their separators dropped: 1,234,567 only in groups of three behind at most three.
static size_t copy_digits(const char *s, size_t n, size_t *at, char *out, size_t room) {
    size_t k = 0, first = *at, i = *at;
    while (i < n && is_digit(s[i])) {
        i++;
    }
    bool groups = i - first >= 1 && i - first <= 3;
    for (; groups && i + 3 < n && s[i] == ',' && is_digit(s[i + 1]) && is_digit(s[i + 2]) &&
           is_digit(s[i + 3]) && (i + 4 >= n || !is_digit(s[i + 4]));
         i += 4) {
    }
    for (; first < i; first++) {
        if (s[first] != ',' && k < room) {
            out[k++] = s[first];
        }
    }
    *at = i;
    return k;
}

static bool minus_before(const char *s, size_t at, size_t *start) {
    size_t n = at >= 1 && s[at - 1] == '-'                             ? 1
               : at >= 3 && memcmp(s + at - 3, "\xE2\x88\x92", 3) == 0 ? 3
                                                                       : 0;
    if (n == 0) {
        return false;
    }
    *start = at - n;
    // between two values it is an operator, inside a word a hyphen
    char c = *start > 0 ? s[*start - 1] : ' ';
    return !is_digit(c) && !is_letter(c) && c != ')' && c != '.';
}

static bool to_number(const char *digits, size_t n, mk_reward_number *v) {
    char text[MAX_DIGITS + 1];
    if (n == 0 || n >= MAX_DIGITS) {
        return false;
    }
    memcpy(text, digits, n);
    text[n] = 0;
    v->is_int = mk_parse_i64(text, &v->integer);
    return mk_parse_f64(text, &v->value);
}

// "/7" behind a whole number: a fraction
static void read_denominator(const char *s, size_t n, size_t *at, mk_reward_number *v) {
    char text[MAX_DIGITS];
    mk_reward_number d;
    size_t i = *at + 1;
    if (!v->is_int || *at >= n || s[*at] != '/' || i >= n || !is_digit(s[i])) {
        return;
    }
    size_t k = copy_digits(s, n, &i, text, sizeof text);
    if (!to_number(text, k, &d) || !d.is_int || d.integer == 0) {
        return;
    }
    bool whole = v->integer % d.integer == 0;
    v->value /= d.value;
    v->integer = whole ? v->integer / d.integer : 0;
    v->is_int = whole;
    *at = i;
}

bool mk_reward_read_number(const char *s, size_t n, size_t *at, mk_reward_number *v) {
    char text[MAX_DIGITS + 2];
    size_t k = 0, start, i = *at, room = MAX_DIGITS;
    *v = (mk_reward_number){0};
    if (minus_before(s, i, &start)) {
        text[k++] = '-';
    }
    k += copy_digits(s, n, &i, text + k, room - k);
    if (i + 1 < n && s[i] == '.' && is_digit(s[i + 1])) {
        for (text[k < room ? k++ : k] = '.', i++; i < n && is_digit(s[i]); i++) {
            text[k < room ? k++ : k] = s[i];
        }
    }
    size_t e = i + (i + 1 < n && (s[i + 1] == '-' || s[i + 1] == '+') ? 2 : 1);
    if (i < n && (s[i] == 'e' || s[i] == 'E') && e < n && is_digit(s[e])) {
        for (; i < e; i++) {
            text[k < room ? k++ : k] = s[i];
        }
        for (; i < n && is_digit(s[i]); i++) {
            text[k < room ? k++ : k] = s[i];
        }
    }
    *at = i;
    if (!to_number(text, k, v)) {
        return false;
    }
    read_denominator(s, n, at, v);
    v->is_percent =
        *at < n && (s[*at] == '%' || (s[*at] == '\\' && *at + 1 < n && s[*at + 1] == '%'));
    *at += v->is_percent ? (s[*at] == '%' ? 1 : 2) : 0;
    return true;
}

bool mk_reward_last_number(const char *s, size_t n, mk_reward_number *v, size_t *end) {
    bool found = false;
    for (size_t i = 0; i < n;) {
        if (!is_digit(s[i]) && !(s[i] == '.' && i + 1 < n && is_digit(s[i + 1]))) {
            i++;
            continue;
        }
        mk_reward_number one;
        if (mk_reward_read_number(s, n, &i, &one)) {
            *v = one;
        } else {
            *v = (mk_reward_number){.value = NAN};  // too long for a number is still the last one
        }
        *end = i;
        found = true;
    }
    return found;
}

static bool near(double a, double b, double tolerance) {
    double size = fabs(b) > 1 ? fabs(b) : 1;
    return fabs(a - b) <= tolerance * size;
}

bool mk_reward_same_number(const mk_reward_number *a, const mk_reward_number *b, double tolerance) {
    if (a->is_int && b->is_int && !(a->is_percent != b->is_percent)) {
        return a->integer == b->integer ||
               (tolerance > 1e-9 && near(a->value, b->value, tolerance));
    }
    if (near(a->value, b->value, tolerance)) {  // 45% may also answer for 45
        return true;
    }
    if (a->is_percent == b->is_percent) {
        return false;
    }
    return near(a->is_percent ? a->value / 100 : a->value,
                b->is_percent ? b->value / 100 : b->value, tolerance);
}

static mk_status score_numeric(const mk_reward *r, const mk_reward_text *t, double *v,
                               mk_err *err) {
    char room[32];
    const char *text = t->answer, *want_text;
    size_t n_want, end = 0, n = t->n_answer;
    mk_reward_number want, got;
    MK_TRY(mk_reward_field(t, "answer", room, &want_text, &n_want, err));
    if (!mk_reward_last_number(want_text, n_want, &want, &end) || isnan(want.value)) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "field 'answer' of the line: expected a number, got '%.*s'",
                       (int)(n_want < 60 ? n_want : 60), want_text);
    }
    *v = 0;
    mk_reward_trim(&text, &n);
    if (!t->has_answer || !mk_reward_last_number(text, n, &got, &end)) {
        return MK_OK;
    }
    bool hidden = n - end > MAX_BEHIND || memchr(text + end, '\n', n - end);
    *v = !hidden && mk_reward_same_number(&got, &want, r->tolerance);
    return MK_OK;
}

// --- expression ----------------------------------------------------------------------------------

static bool uses(const json_t *numbers, const mk_expr *e) {
    bool used[MK_EXPR_MAX_NUMBERS] = {false};
    if (json_array_size(numbers) != (size_t)e->n_number || e->n_minus > 0) {
        return false;
    }
    for (int i = 0; i < e->n_number; i++) {
        int k = 0;
        while (k < e->n_number && (used[k] || json_integer_value(json_array_get(
                                                  numbers, (size_t)k)) != e->number[i])) {
            k++;
        }
        if (k == e->n_number) {
            return false;
        }
        used[k] = true;
    }
    return true;
}

static mk_status check_numbers(const json_t *numbers, mk_err *err) {
    if (!numbers) {
        return MK_OK;
    }
    size_t n = json_array_size(numbers);
    for (size_t i = 0; i < n; i++) {
        if (!json_is_integer(json_array_get(numbers, i))) {
            n = 0;
        }
    }
    return n > 0 && n <= MK_EXPR_MAX_NUMBERS
               ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT,
                         "field 'numbers' of the line: expected a list of 1 to %d whole numbers",
                         MK_EXPR_MAX_NUMBERS);
}

static mk_status wanted_value(const mk_reward_text *t, int64_t *want, mk_err *err) {
    char room[32];
    const char *text;
    size_t n;
    mk_expr e;
    const char *key = json_object_get(t->in->line, "target") ? "target" : "answer";
    MK_TRY(mk_reward_field(t, key, room, &text, &n, err));
    if (mk_expr_eval(text, n, &e, err) != MK_OK) {
        return mk_err_prefix(err, "field '%s' of the line", key);
    }
    *want = e.value;
    return MK_OK;
}

// "(9-5)*7-4", or "(9-5)*7-4 = 24"
static mk_status score_expression(const mk_reward *r, const mk_reward_text *t, double *v,
                                  mk_err *err) {
    const json_t *numbers = t->in->line ? json_object_get(t->in->line, "numbers") : NULL;
    int64_t want = 0;
    mk_expr e, right;
    (void)r;
    MK_TRY(check_numbers(numbers, err));
    MK_TRY(wanted_value(t, &want, err));
    *v = 0;
    if (!t->has_answer) {
        return MK_OK;
    }
    const char *equals = memchr(t->answer, '=', t->n_answer);
    size_t n = equals ? (size_t)(equals - t->answer) : t->n_answer;
    bool right_side =
        !equals || (mk_expr_eval(equals + 1, t->n_answer - n - 1, &right, NULL) == MK_OK &&
                    right.n_op == 0 && right.value == want);
    *v = right_side && mk_expr_eval(t->answer, n, &e, NULL) == MK_OK && e.value == want &&
         (!numbers || uses(numbers, &e));
    return MK_OK;
}

// --- format, length ------------------------------------------------------------------------------

static int count_of(const char *s, size_t n, const char *what) {
    int k = 0;
    for (const char *at = s; (at = memmem(at, n - (size_t)(at - s), what, strlen(what))) != NULL;
         at += strlen(what)) {
        k++;
    }
    return k;
}

static mk_status score_format(const mk_reward *r, const mk_reward_text *t, double *v, mk_err *err) {
    const mk_reward_input *in = t->in;
    const char *answer = t->answer;
    size_t n = t->n_answer;
    (void)err;
    mk_reward_trim(&answer, &n);
    int64_t lines = 1 + count_of(answer, n, "\n");
    *v = in->finished && t->has_answer && n > 0 && t->n_reasoning > 0 &&
         count_of(in->completion, in->n_completion, t->open) == (in->thinking ? 0 : 1) &&
         count_of(in->completion, in->n_completion, t->close) == 1 &&
         (r->lines == 0 || lines <= r->lines);
    return MK_OK;
}

static mk_status prepare_length(mk_reward *r, mk_err *err) {
    return r->max == 0 || r->soft <= r->max
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "reward length: soft=%lld is more than max=%lld",
                         (long long)r->soft, (long long)r->max);
}

// DAPO (2503.14476), equation 13.
static mk_status score_length(const mk_reward *r, const mk_reward_text *t, double *v, mk_err *err) {
    int64_t max = r->max ? r->max : t->in->max_tok;
    int64_t soft = r->soft ? r->soft : max / 5;
    if (max <= 0) {
        return MK_FAIL(err, MK_EUSAGE, "no limit on tokens is known; give one with max=");
    }
    soft = soft < 1 ? 1 : soft > max ? max : soft;
    int64_t over = t->in->n_tok - (max - soft);
    *v = over <= 0 ? 0 : over >= soft ? -1 : -(double)over / (double)soft;
    return MK_OK;
}

// --- the table -----------------------------------------------------------------------------------

const mk_reward_kind mk_reward_kinds[] = {
    {"exact", MK_KEY_ANY, true, NULL, score_exact},
    {"numeric", MK_KEY_ANY | MK_KEY_NUMBER, true, NULL, score_numeric},
    {"regex", MK_KEY_ANY | MK_KEY_REGEX, true, mk_reward_regex_prepare, mk_reward_score_regex},
    {"expression", MK_KEY_ANY, true, NULL, score_expression},
    {"math", MK_KEY_ANY | MK_KEY_NUMBER, true, NULL, mk_reward_score_math},
    {"format", MK_KEY_ANY | MK_KEY_FORMAT, false, NULL, score_format},
    {"length", MK_KEY_ANY | MK_KEY_LENGTH, false, prepare_length, score_length},
    {"command", MK_KEY_ANY | MK_KEY_COMMAND, false, mk_reward_command_prepare,
     mk_reward_score_command},
    {"checker", MK_KEY_ANY, false, NULL, NULL},
};
const int mk_reward_n_kind = (int)(sizeof mk_reward_kinds / sizeof mk_reward_kinds[0]);
