// The head of the page: what came out of each run, and what it was made of.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/report_int.h"

#define MAX_VALUE  2000                 // bytes of one value of a recipe
#define MAX_RECIPE ((size_t)300 << 10)  // of all of it

// --- facts ---------------------------------------------------------------------------------------

typedef struct {
    char value[64], about[96];
    bool there, good;
} fact;

static void say(fact *f, const char *value, const char *about) {
    f->there = true;
    (void)snprintf(f->value, sizeof f->value, "%s", value);
    (void)snprintf(f->about, sizeof f->about, "%s", about);
}

static const mk_curve *curve_of(const mk_runlog *r, const char *name) {
    const mk_curve *c = mk_runlog_find(r, name);
    return c && c->n > 0 ? c : NULL;
}

static const char *method_of(const mk_runlog *r) {
    const char *m = json_string_value(json_object_get(r->run, "method"));
    return m ? m : "";
}

// Where a curve ended, and from where it came.
static void fact_end(const mk_rep_canvas *d, const mk_runlog *r, const char *name, fact *f) {
    const mk_curve *c = curve_of(r, name);
    char now[MK_REP_NUMBER], then[MK_REP_NUMBER], about[96];
    if (c) {
        mk_rep_ends ends = {c, c->value[0], c->value[c->n - 1]};
        for (int64_t i = 0; i < d->n_ends; i++) {
            ends = d->ends[i].curve == c ? d->ends[i] : ends;
        }
        (void)snprintf(about, sizeof about, "from %s",
                       mk_rep_number(ends.begin, MK_REP_PLAIN, then));
        say(f, mk_rep_number(ends.end, MK_REP_PLAIN, now), c->n > 1 ? about : "");
    }
}

static void fact_loss(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    fact_end(d, r, "loss", f);
}

static void fact_reward(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    fact_end(d, r, "reward", f);
}

// The best evaluation; sign -1: the greatest is best.
static void fact_best(const mk_runlog *r, const char *name, double sign, fact *f) {
    const mk_curve *c = curve_of(r, name);
    char text[MK_REP_NUMBER], about[96];
    int64_t best = 0;
    for (int64_t i = 1; c && i < c->n; i++) {
        best = sign * c->value[i] < sign * c->value[best] ? i : best;
    }
    if (c) {
        (void)snprintf(about, sizeof about, "best, at step %lld", (long long)c->step[best]);
        say(f, mk_rep_number(c->value[best], MK_REP_PLAIN, text), about);
    }
}

static void fact_held_out(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    fact_best(r, "eval_loss", 1, f);
}

static void fact_accuracy(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    fact_best(r, "accuracy", -1, f);
}

// The promise: the sampler and the trainer agree.  One number over all steps.
static void fact_exact(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    const mk_curve *c = curve_of(r, "max_dlogp");
    char text[MK_REP_NUMBER], about[96];
    int64_t worst = 0;
    for (int64_t i = 1; c && i < c->n; i++) {
        worst = fabs(c->value[i]) > fabs(c->value[worst]) ? i : worst;
    }
    if (!c) {
        return;
    }
    f->good = c->value[worst] == 0;
    if (f->good) {
        (void)snprintf(about, sizeof about, "sampler = trainer in all %lld steps", (long long)c->n);
    } else {
        (void)snprintf(about, sizeof about, "largest at step %lld", (long long)c->step[worst]);
    }
    say(f, mk_rep_number(c->value[worst], MK_REP_PLAIN, text), about);
}

static double sum_of(const mk_curve *c) {
    double sum = 0;
    for (int64_t i = 0; c && i < c->n; i++) {
        sum += c->value[i];
    }
    return sum;
}

static void fact_tokens(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    const mk_curve *c = curve_of(r, "tokens");
    char text[MK_REP_NUMBER];
    if (c) {
        say(f, mk_rep_number(sum_of(c), MK_REP_COUNT, text), "over all steps");
    }
}

static void fact_time(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    const mk_curve *seconds = curve_of(r, "seconds"), *tokens = curve_of(r, "tokens");
    char text[MK_REP_NUMBER], number[MK_REP_NUMBER], about[96] = "";
    double time = sum_of(seconds);
    if (!(time > 0)) {
        return;
    }
    if (tokens) {
        (void)snprintf(about, sizeof about, "%s tokens/s",
                       mk_rep_number(sum_of(tokens) / time, MK_REP_COUNT, number));
    }
    say(f, mk_rep_time(time, text), about);
}

static void fact_method(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    const char *method = method_of(r);
    if (d->n_run > 1 && method[0]) {  // one run has it in its heading
        say(f, method, "");
    }
}

static void fact_steps(const mk_rep_canvas *d, const mk_runlog *r, fact *f) {
    (void)d;
    char text[MK_REP_NUMBER], about[96] = "";
    if (r->run) {
        (void)snprintf(about, sizeof about, "checkpoint of step %lld", (long long)r->ckpt_step);
    }
    say(f, mk_rep_number((double)r->last_step, MK_REP_COUNT, text), about);
}

typedef struct {
    const char *title;
    void (*get)(const mk_rep_canvas *d, const mk_runlog *r, fact *f);
} fact_row;
static const fact_row facts[] = {
    {"Method", fact_method},
    {"Steps", fact_steps},
    {"Reward", fact_reward},
    {"Loss", fact_loss},
    {"Held-out loss", fact_held_out},
    {"Accuracy", fact_accuracy},
    {"Tokens", fact_tokens},
    {"Time", fact_time},
    {"max |\xCE\x94 log p|", fact_exact},
};
#define N_FACT (sizeof facts / sizeof facts[0])

// --- summary -------------------------------------------------------------------------------------

static void write_troubles(mk_buf *b, const mk_runlog *r, bool name) {
    if (r->n_bad == 0 && r->n_lost == 0 && !r->half_line) {
        return;
    }
    mk_buf_puts(b, "<p class=\"trouble\">");
    if (name) {
        mk_buf_puts(b, "<bdi>");
        mk_rep_name(b, r->name);
        mk_buf_puts(b, "</bdi>: ");
    }
    if (r->n_bad > 0) {
        mk_buf_printf(b, "%lld %s of the log could not be read and %s left out. ",
                      (long long)r->n_bad, r->n_bad == 1 ? "line" : "lines",
                      r->n_bad == 1 ? "is" : "are");
    }
    if (r->half_line) {
        mk_buf_puts(b,
                    "The last line of the log is half written: the run goes on, or was killed. ");
    }
    if (r->n_lost > 0) {
        mk_buf_printf(b, "Of more than %d fields the rest is left out.", MK_RUNLOG_MAX_CURVE);
    }
    mk_buf_puts(b, "</p>\n");
}

static void write_tiles(mk_buf *b, const mk_rep_canvas *d, const mk_runlog *r) {
    mk_buf_puts(b, "<dl class=\"tiles\">\n");
    for (size_t i = 0; i < N_FACT; i++) {
        fact f = {0};
        facts[i].get(d, r, &f);
        if (f.there) {
            mk_buf_printf(b, "<div%s><dt>%s</dt><dd>%s</dd><dd class=\"about\">%s</dd></div>\n",
                          f.good ? " class=\"good\"" : "", facts[i].title, f.value, f.about);
        }
    }
    mk_buf_puts(b, "</dl>\n");
}

static void write_row(mk_buf *b, const mk_rep_canvas *d, const mk_runlog *r, int i,
                      const bool *shown) {
    mk_buf_printf(b, "<tr><th scope=\"row\"><i class=\"h%d%s\"></i><bdi>", i % 8,
                  i >= 8 ? " dash" : "");
    mk_rep_name(b, r->name);
    mk_buf_puts(b, "</bdi></th>");
    for (size_t k = 0; k < N_FACT; k++) {
        if (shown[k]) {
            fact f = {0};
            facts[k].get(d, r, &f);
            mk_buf_printf(b, "<td%s>%s<small>%s</small></td>", f.good ? " class=\"good\"" : "",
                          f.value, f.about);
        }
    }
    mk_buf_puts(b, "</tr>\n");
}

static void write_table(mk_buf *b, const mk_rep_canvas *d, const mk_runlog *const *run) {
    bool shown[N_FACT] = {false};
    mk_buf_puts(b, "<div class=\"scroll\"><table class=\"runs\"><thead><tr><th>Run</th>"
                   "");
    for (size_t k = 0; k < N_FACT; k++) {
        for (int r = 0; r < d->n_run; r++) {
            fact f = {0};
            facts[k].get(d, run[r], &f);
            shown[k] = shown[k] || f.there;
        }
        if (shown[k]) {
            mk_buf_printf(b, "<th>%s</th>", facts[k].title);
        }
    }
    mk_buf_puts(b, "</tr></thead><tbody>\n");
    for (int r = 0; r < d->n_run; r++) {
        write_row(b, d, run[r], r, shown);
    }
    mk_buf_puts(b, "</tbody></table></div>\n");
}

void mk_rep_summary(mk_buf *b, const mk_rep_canvas *d, const mk_runlog *const *run) {
    int n_run = d->n_run;
    mk_buf_puts(b, "<header><p class=\"mark\">minke <span>training report</span></p>\n<h1>");
    if (n_run == 1) {
        mk_buf_puts(b, "<bdi>");
        mk_rep_name(b, run[0]->name);
        mk_buf_puts(b, "</bdi>");
        if (method_of(run[0])[0]) {
            mk_buf_puts(b, " <span class=\"badge\">");
            mk_rep_name(b, method_of(run[0]));
            mk_buf_puts(b, "</span>");
        }
    } else {
        mk_buf_printf(b, "%d runs", n_run);
    }
    mk_buf_puts(b, "</h1>\n");
    if (n_run == 1) {
        write_tiles(b, d, run[0]);
    } else {
        write_table(b, d, run);
    }
    for (int r = 0; r < n_run; r++) {
        write_troubles(b, run[r], n_run > 1);
    }
    mk_buf_puts(b, "</header>\n");
}

// --- recipe --------------------------------------------------------------------------------------

static const json_t *recipe_of(const mk_runlog *r) {
    const json_t *v = json_object_get(r->run, "recipe");
    return json_is_object(v) ? v : NULL;
}

static int collect(const char *p, size_t n, void *arg) {
    mk_buf_add(arg, p, n);
    return 0;
}

static void write_value(mk_buf *b, const json_t *v) {
    if (json_is_string(v)) {
        mk_rep_text(b, json_string_value(v), json_string_length(v), MAX_VALUE);
    } else if (v) {
        mk_buf text;
        mk_buf_init(&text, 1 << 20);
        (void)json_dump_callback(v, collect, &text, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        mk_rep_text(b, text.data ? text.data : "", text.len, MAX_VALUE);
        mk_buf_free(&text);
    }
}

// True if the runs that have a recipe do not all have the same value.
static bool differs(const mk_runlog *const *run, int n_run, const char *key) {
    const json_t *first = NULL;
    bool any = false;
    for (int r = 0; r < n_run; r++) {
        const json_t *v = json_object_get(recipe_of(run[r]), key);
        if (any && recipe_of(run[r]) && v != first && !(v && first && json_equal(v, first))) {
            return true;
        }
        first = !any && recipe_of(run[r]) ? v : first;
        any = any || recipe_of(run[r]);
    }
    return false;
}

static void write_recipe_row(mk_buf *b, const mk_runlog *const *run, int n_run, const char *key,
                             const json_t *value) {
    bool other = differs(run, n_run, key);
    mk_buf_puts(b, other ? "<tr class=\"differs\"><th scope=\"row\"><bdi>"
                         : "<tr><th scope=\"row\"><bdi>");
    mk_rep_name(b, key);
    mk_buf_puts(b, "</bdi></th>");
    if (other) {
        for (int r = 0; r < n_run; r++) {
            mk_buf_puts(b, "<td><bdi>");
            write_value(b, json_object_get(recipe_of(run[r]), key));
            mk_buf_puts(b, "</bdi></td>");
        }
    } else {  // what is the same everywhere is said once
        mk_buf_printf(b, n_run > 1 ? "<td colspan=\"%d\"><bdi>" : "<td><bdi>", n_run);
        write_value(b, value);
        mk_buf_puts(b, "</bdi></td>");
    }
    mk_buf_puts(b, "</tr>\n");
}

// The rows that differ, or those that do not; a key belongs to the first run that has it.
static void write_rows(mk_buf *b, const mk_runlog *const *run, int n_run, bool differing) {
    size_t start = b->len;
    for (int r = 0; r < n_run; r++) {
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)(uintptr_t)recipe_of(run[r]), key, v) {
            bool earlier = false;
            for (int q = 0; q < r; q++) {
                earlier = earlier || json_object_get(recipe_of(run[q]), key);
            }
            if (!earlier && differs(run, n_run, key) == differing && b->len - start < MAX_RECIPE) {
                write_recipe_row(b, run, n_run, key, v);
            }
        }
    }
}

void mk_rep_recipe(mk_buf *b, const mk_runlog *const *run, int n_run) {
    bool any = false;
    for (int r = 0; r < n_run; r++) {
        any = any || recipe_of(run[r]);
    }
    if (!any) {
        return;
    }
    mk_buf_printf(b,
                  "<details class=\"recipe\"%s><summary>Recipe%s</summary>\n"
                  "<div class=\"scroll\"><table class=\"%s\">",
                  n_run > 1 ? " open" : "",
                  n_run > 1 ? " <small>what differs comes first</small>" : "",
                  n_run > 1 ? "compare" : "one");
    if (n_run > 1) {
        mk_buf_puts(b, "<thead><tr><td></td>");
        for (int r = 0; r < n_run; r++) {
            mk_buf_printf(b, "<th scope=\"col\"><i class=\"h%d\"></i><bdi>", r % 8);
            mk_rep_name(b, run[r]->name);
            mk_buf_puts(b, "</bdi></th>");
        }
        mk_buf_puts(b, "</tr></thead>");
    }
    mk_buf_puts(b, "<tbody>\n");
    if (n_run > 1) {
        write_rows(b, run, n_run, true);
    }
    write_rows(b, run, n_run, false);
    mk_buf_puts(b, "</tbody></table></div></details>\n");
}
