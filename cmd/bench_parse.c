// The output of llama-bench, in any of the forms it and its forks print.
//
//   JSON        [{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 1.5, "samples_ts": [1.5], ...}, ...]
//   JSON lines  one such object a line
//   CSV         a line of names, then quoted values; n_prompt, n_gen, n_depth, avg_ts, test
//   Markdown    | ... | test | t/s |  with tests pp512, tg128, pp512 @ d4096
//
// A fork writes generation behind a prompt as "tg32@pp4096" (field test) with n_prompt 4096: where
// there is a label, it decides, because the numbers beside it say two different things.
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/opt.h"
#include "bench.h"

#define MAX_TOKENS ((int64_t)1 << 30)
#define MAX_CELL   ((size_t)4 << 10)

// --- labels --------------------------------------------------------------------------------------

// A number at *s, moved behind it; false if there is none or it is out of range.
static bool take_number(const char **s, int64_t *out) {
    int64_t v = 0;
    const char *p = *s;
    for (; *p >= '0' && *p <= '9' && v <= MAX_TOKENS; p++) {
        v = 10 * v + (*p - '0');
    }
    bool ok = p > *s && v <= MAX_TOKENS;
    *s = p;
    *out = v;
    return ok;
}

static bool take_text(const char **s, const char *text) {
    size_t n = strlen(text);
    bool here = strncmp(*s, text, n) == 0;
    *s += here ? n : 0;
    return here;
}

// pp512, tg128, pp512+tg128, each perhaps followed by " @ d4096"; tg32@pp4096.
static bool parse_label(const char *s, bench_row_id *id) {
    *id = (bench_row_id){0, 0, 0};
    bool ok = false;
    if (take_text(&s, "pp")) {
        ok = take_number(&s, &id->n_prompt);
        if (ok && take_text(&s, "+tg")) {
            ok = take_number(&s, &id->n_gen);
        }
    } else if (take_text(&s, "tg")) {
        ok = take_number(&s, &id->n_gen);
    }
    if (ok && (take_text(&s, " @ d") || take_text(&s, "@pp"))) {
        ok = take_number(&s, &id->depth);
    }
    return ok && *s == 0;
}

static bool is_speed(double v) {
    return isfinite(v) && v > 0;
}

// --- JSON ----------------------------------------------------------------------------------------

static mk_status json_samples(const json_t *row, bench_row_id id, bench_row_fn fn, void *arg,
                              mk_err *err) {
    const json_t *list = json_object_get(row, "samples_ts");
    double avg = 0;
    if (!json_is_array(list) || json_array_size(list) == 0) {
        MK_TRY(mk_json_get_f64(row, "avg_ts", &avg, err));
        if (!is_speed(avg)) {
            return MK_FAIL(err, MK_ECORRUPT, "expected samples_ts or avg_ts in tokens per second");
        }
        fn(arg, id, avg);
        return MK_OK;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        double v = json_number_value(json_array_get(list, i));
        if (!is_speed(v)) {
            return MK_FAIL(err, MK_ECORRUPT, "samples_ts[%zu] is no speed", i);
        }
        fn(arg, id, v);
    }
    return MK_OK;
}

static mk_status json_row(const json_t *row, bench_row_fn fn, void *arg, mk_err *err) {
    bench_row_id id = {-1, -1, 0};
    const char *label = NULL;
    if (!json_is_object(row)) {
        return MK_FAIL(err, MK_ECORRUPT, "expected an object for each test, got %s",
                       mk_json_type_name(row));
    }
    MK_TRY(mk_json_get_i64(row, "n_prompt", 0, MAX_TOKENS, &id.n_prompt, err));
    MK_TRY(mk_json_get_i64(row, "n_gen", 0, MAX_TOKENS, &id.n_gen, err));
    MK_TRY(mk_json_get_i64(row, "n_depth", 0, MAX_TOKENS, &id.depth, err));
    MK_TRY(mk_json_get_str(row, "test", &label, err));
    if (label && !parse_label(label, &id)) {
        return MK_FAIL(err, MK_ECORRUPT, "a test of unknown name '%.40s'", label);
    }
    if (id.n_prompt < 0 || id.n_gen < 0) {
        return MK_FAIL(err, MK_ECORRUPT, "expected n_prompt and n_gen in each test");
    }
    return json_samples(row, id, fn, arg, err);
}

static mk_status parse_json(const char *text, size_t n, bench_row_fn fn, void *arg, mk_err *err) {
    json_t *v = NULL;
    MK_TRY(mk_json_parse(text, n, "JSON", &v, err));
    mk_status st = MK_OK;
    if (json_is_array(v)) {
        for (size_t i = 0; st == MK_OK && i < json_array_size(v); i++) {
            st = json_row(json_array_get(v, i), fn, arg, err);
        }
    } else {
        st = json_row(v, fn, arg, err);
    }
    json_decref(v);
    return st;
}

// --- lines of cells ------------------------------------------------------------------------------

// Which column holds what; -1: none.
enum { COL_PROMPT, COL_GEN, COL_DEPTH, COL_SPEED, COL_TEST, N_COL };
typedef struct {
    int col[N_COL];
    bool known;
} columns;

static const char *const col_names[N_COL] = {"n_prompt", "n_gen", "n_depth", "avg_ts", "test"};

static void learn_column(columns *c, int i, const char *name) {
    for (int k = 0; k < N_COL; k++) {
        c->col[k] = strcmp(name, col_names[k]) == 0 ? i : c->col[k];
    }
    c->col[COL_SPEED] = strcmp(name, "t/s") == 0 ? i : c->col[COL_SPEED];
}

// Cell `want` of a line; false if there is none.  CSV: "a","b""c"; Markdown: | a | b |.
static bool cell(const char *s, const char *end, bool csv, int want, char *out) {
    for (int i = 0; s < end; i++) {
        size_t n = 0;
        bool quoted = csv && *s == '"';
        s += quoted;
        for (; s < end && (quoted || *s != (csv ? ',' : '|')); s++) {
            if (quoted && *s == '"' && !(s + 1 < end && s[1] == '"' && s++)) {
                quoted = false;
                continue;
            }
            out[n] = *s;
            n += n + 1 < MAX_CELL;
        }
        s++;
        while (n > 0 && (out[n - 1] == ' ' || out[n - 1] == '\r')) {
            n--;
        }
        out[n] = 0;
        size_t skip = strspn(out, " ");
        memmove(out, out + skip, n - skip + 1);
        if (i == want) {
            return true;
        }
    }
    return false;
}

static bool number_cell(const char *s, const char *end, bool csv, int want, int64_t *out) {
    char text[MAX_CELL];
    return want < 0 || (cell(s, end, csv, want, text) && mk_parse_i64(text, out) && *out >= 0 &&
                        *out <= MAX_TOKENS);
}

// "218.35 ± 3.20" or "218.35".
static bool speed_cell(const char *s, const char *end, bool csv, int want, double *out) {
    char text[MAX_CELL];
    if (!cell(s, end, csv, want, text)) {
        return false;
    }
    text[strcspn(text, " ")] = 0;
    return mk_parse_f64(text, out) && is_speed(*out);
}

static mk_status read_line(const char *s, const char *end, bool csv, const columns *c,
                           bench_row_fn fn, void *arg, mk_err *err) {
    bench_row_id id = {0, 0, 0};
    char label[MAX_CELL];
    double speed = 0;
    bool ok = number_cell(s, end, csv, c->col[COL_PROMPT], &id.n_prompt) &&
              number_cell(s, end, csv, c->col[COL_GEN], &id.n_gen) &&
              number_cell(s, end, csv, c->col[COL_DEPTH], &id.depth) &&
              speed_cell(s, end, csv, c->col[COL_SPEED], &speed);
    if (ok && c->col[COL_TEST] >= 0) {
        ok = cell(s, end, csv, c->col[COL_TEST], label) && parse_label(label, &id);
    }
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT, "a line that is no test: %.*s",
                       (int)(end - s < 80 ? end - s : 80), s);
    }
    fn(arg, id, speed);
    return MK_OK;
}

static void learn(const char *s, const char *end, bool csv, columns *c) {
    char name[MAX_CELL];
    for (int i = 0; cell(s, end, csv, i, name); i++) {
        learn_column(c, i, name);
    }
    c->known = c->col[COL_SPEED] >= 0 &&
               (c->col[COL_TEST] >= 0 || (c->col[COL_PROMPT] >= 0 && c->col[COL_GEN] >= 0));
}

// Lines before the one with the names are messages; in Markdown only those with bars count.
static mk_status parse_lines(const char *text, size_t n, bool csv, bench_row_fn fn, void *arg,
                             mk_err *err) {
    columns c = {.col = {-1, -1, -1, -1, -1}};
    for (const char *s = text, *all = text + n, *end; s < all; s = end + 1) {
        end = memchr(s, '\n', (size_t)(all - s));
        end = end ? end : all;
        bool rule = !csv && end - s > 2 && strchr(":-", s[2]);  // |---|
        if (end == s || (!csv && *s != '|') || rule) {
            continue;
        }
        if (!c.known) {
            learn(s, end, csv, &c);
        } else {
            MK_TRY(read_line(s, end, csv, &c, fn, arg, err));
        }
    }
    return c.known ? MK_OK
                   : MK_FAIL(err, MK_ECORRUPT,
                             "expected what llama-bench prints: JSON, CSV or Markdown (-o json)");
}

static mk_status parse_json_lines(const char *text, size_t n, bench_row_fn fn, void *arg,
                                  mk_err *err) {
    for (const char *s = text, *all = text + n, *end; s < all; s = end + 1) {
        end = memchr(s, '\n', (size_t)(all - s));
        end = end ? end : all;
        if (*s == '{') {
            MK_TRY(parse_json(s, (size_t)(end - s), fn, arg, err));
        }
    }
    return MK_OK;
}

// The first line that begins like one of the forms decides.
mk_status bench_parse(const char *text, size_t n, bench_row_fn fn, void *arg, mk_err *err) {
    for (const char *s = text, *all = text + n, *end; n > 0 && s < all; s = end + 1) {
        end = memchr(s, '\n', (size_t)(all - s));
        end = end ? end : all;
        if (*s == '[') {
            return parse_json(s, (size_t)(all - s), fn, arg, err);
        }
        if (*s == '{') {
            return parse_json_lines(s, (size_t)(all - s), fn, arg, err);
        }
        if (*s == '|') {
            return parse_lines(s, (size_t)(all - s), false, fn, arg, err);
        }
    }
    return parse_lines(text ? text : "", n, true, fn, arg, err);
}
