// Which charts a page has: known fields in the order of a table, each with a title and a sentence
// that says how to read it; functions of the reward; then what nobody knows.
//
// One run: colours tell the lines of a chart apart.  Several: colours tell runs apart.
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "train/report_int.h"

typedef struct {
    const char *field, *title, *note;
    mk_rep_group in;
    mk_rep_unit u;
    mk_rep_kind kind;
    const char *label;  // where another field stands in the same chart
    const char *with;   // field that is drawn in this one's chart
} known;

// What is not said is a noisy number of the first group.
// clang-format off
static const known table[] = {
    {.field = "reward", .title = "Reward", .note = "mean over the samples of a step"},
    {.field = "reward/", .title = "Reward by function", .note = "before weights"},
    {.field = "loss", .title = "Loss", .note = "nats per trained token", .label = "training",
     .with = "eval_loss"},
    {.field = "eval_loss", .title = "Loss, held out",
     .note = "nats per token of data that is not trained on", .kind = MK_REP_DOTS,
     .label = "held out"},
    {.field = "accuracy", .title = "Accuracy",
     .note = "mean score of greedy answers to held-out tasks", .kind = MK_REP_DOTS},
    {.field = "reward_std", .title = "Spread of the reward",
     .note = "standard deviation over the samples of a step", .in = MK_REP_SAMPLING},
    {.field = "zero_variance", .title = "Groups without spread",
     .note = "all samples of a prompt got the same reward: nothing to learn", .in = MK_REP_SAMPLING,
     .u = MK_REP_SHARE},
    {.field = "redrawn", .title = "Groups drawn again",
     .note = "thrown away because all samples of a prompt got the same reward",
     .in = MK_REP_SAMPLING, .u = MK_REP_COUNT},
    {.field = "length", .title = "Length", .note = "tokens of a completion, mean",
     .in = MK_REP_SAMPLING, .u = MK_REP_COUNT},
    {.field = "truncated", .title = "Truncated", .note = "completions cut off before they ended",
     .in = MK_REP_SAMPLING, .u = MK_REP_SHARE},
    {.field = "entropy", .title = "Entropy",
     .note = "nats per token; towards 0 the model stops exploring", .in = MK_REP_SAMPLING},
    {.field = "clip_fraction", .title = "Clipped",
     .note = "tokens whose ratio left the trust region", .in = MK_REP_SAMPLING, .u = MK_REP_SHARE},
    {.field = "max_dlogp", .title = "Sampler \xE2\x88\x92 trainer",
     .note = "max |\xCE\x94 log p| of a token; 0: they agree to the last bit",
     .in = MK_REP_SAMPLING},
    {.field = "max_dlogp_stale", .title = "Drift",
     .note = "max |\xCE\x94 log p| of a token when samples are used again", .in = MK_REP_SAMPLING},
    {.field = "lr", .title = "Learning rate", .in = MK_REP_OPTIMISER, .kind = MK_REP_EXACT},
    {.field = "grad_norm", .title = "Gradient norm", .note = "before clipping",
     .in = MK_REP_OPTIMISER},
    {.field = "imbalance", .title = "Expert imbalance",
     .note = "most loaded expert against an even load", .in = MK_REP_OPTIMISER},
    {.field = "tokens", .title = "Tokens per step", .in = MK_REP_OPTIMISER, .u = MK_REP_COUNT},
    {.field = "targets", .title = "Trained tokens per step", .note = "those that count in the loss",
     .in = MK_REP_OPTIMISER, .u = MK_REP_COUNT},
    {.field = "seconds", .title = "Seconds per step", .in = MK_REP_OPTIMISER},
    {.field = "epoch", .title = "Epoch", .note = "passes over the data", .in = MK_REP_OPTIMISER,
     .kind = MK_REP_EXACT},
};
// clang-format on
#define N_KNOWN (sizeof table / sizeof table[0])

#define FUNCTION      "reward/"
#define FUNCTION_LEN  (sizeof FUNCTION - 1)
#define N_HUE         16  // eight colours, then the same dashed
#define MAX_FUNCTIONS 8   // lines in one chart that can still be told apart

static bool is_function(const char *field) {
    return strncmp(field, FUNCTION, FUNCTION_LEN) == 0;
}

static const known *find_known(const char *field) {
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (strcmp(table[i].field, field) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

typedef struct {
    const mk_runlog *const *run;
    int n_run;
    mk_rep_chart *list;
    int64_t n;
} lister;

// --- series --------------------------------------------------------------------------------------

static void add_series(const lister *l, mk_rep_chart *ch, int run, const mk_curve *c,
                       const known *k) {
    if (c && c->n > 0 && ch->n < MK_REP_MAX_SERIES) {
        ch->s[ch->n] = (mk_rep_series){.curve = c,
                                       .who = l->run[run]->name,
                                       .label = k ? k->label : NULL,
                                       .run = run,
                                       .hue = (l->n_run > 1 ? run : ch->n) % N_HUE,
                                       .kind = k ? k->kind : MK_REP_NOISY};
        ch->n++;
    }
}

// The field of every run, and the one that belongs to it.
static void add_field(lister *l, const char *field, const known *k, const mk_rep_chart *like) {
    mk_rep_chart *ch = &l->list[l->n];
    *ch = *like;
    for (int r = 0; r < l->n_run; r++) {
        add_series(l, ch, r, mk_runlog_find(l->run[r], field), k);
        if (k && k->with) {
            add_series(l, ch, r, mk_runlog_find(l->run[r], k->with), find_known(k->with));
        }
    }
    l->n += ch->n > 0;
}

// --- kinds of charts -----------------------------------------------------------------------------

static bool has(const lister *l, const char *field) {
    for (int r = 0; r < l->n_run; r++) {
        const mk_curve *c = mk_runlog_find(l->run[r], field);
        if (c && c->n > 0) {
            return true;
        }
    }
    return false;
}

// True if an earlier curve of this run or of a run before it has the name.
static bool seen(const lister *l, int run, int64_t curve) {
    const char *name = l->run[run]->curve[curve].name;
    for (int r = 0; r <= run; r++) {
        const mk_curve *c = mk_runlog_find(l->run[r], name);
        if (c && c != &l->run[run]->curve[curve]) {
            return true;
        }
    }
    return false;
}

// All functions of a single run in one chart, if they can be told apart.
static bool one_chart_of_functions(lister *l, const mk_rep_chart *like) {
    const mk_runlog *r = l->run[0];
    mk_rep_chart *ch = &l->list[l->n];
    *ch = *like;
    for (int64_t i = 0; i < r->n_curve && l->n_run == 1; i++) {
        if (is_function(r->curve[i].name)) {
            add_series(l, ch, 0, &r->curve[i], &(known){.label = r->curve[i].name + FUNCTION_LEN});
        }
    }
    bool fits = ch->n > 0 && ch->n <= MAX_FUNCTIONS;
    l->n += fits;
    return fits;
}

// Curves that `want` says yes to, a chart for each name.
static void chart_each(lister *l, bool functions, const mk_rep_chart *like) {
    for (int r = 0; r < l->n_run; r++) {
        for (int64_t i = 0; i < l->run[r]->n_curve; i++) {
            const char *name = l->run[r]->curve[i].name;
            if (seen(l, r, i) || is_function(name) != functions ||
                (!functions && find_known(name))) {
                continue;
            }
            mk_rep_chart one = *like;
            one.title = functions ? name + FUNCTION_LEN : name;
            add_field(l, name, NULL, &one);
        }
    }
}

static bool drawn_with_another(const lister *l, const known *k) {
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (table[i].with && strcmp(table[i].with, k->field) == 0 && has(l, table[i].field)) {
            return true;
        }
    }
    return false;
}

int64_t mk_rep_list(const mk_runlog *const *run, int n_run, mk_rep_chart *list) {
    lister l = {run, n_run, list, 0};
    for (size_t i = 0; i < N_KNOWN; i++) {
        const known *k = &table[i];
        mk_rep_chart like = {.title = k->title, .note = k->note, .in = k->in, .u = k->u};
        // what a run is about: its reward, without one its loss
        like.wide = strcmp(k->field, "reward") == 0 ||
                    (strcmp(k->field, "loss") == 0 && !has(&l, "reward"));
        if (is_function(k->field)) {
            like.note = n_run > 1 ? "a function of the reward, before its weight" : k->note;
            if (!one_chart_of_functions(&l, &like)) {
                chart_each(&l, true, &like);
            }
        } else if (!drawn_with_another(&l, k)) {
            add_field(&l, k->field, k, &like);
        }
    }
    chart_each(&l, false, &(mk_rep_chart){.in = MK_REP_OTHER});
    return l.n;
}

bool mk_rep_constant(const mk_rep_chart *ch) {
    double v = ch->s[0].curve->value[0];
    for (int i = 0; i < ch->n; i++) {
        for (int64_t k = 0; k < ch->s[i].curve->n; k++) {
            if (ch->s[i].curve->value[k] != v) {
                return false;
            }
        }
    }
    return true;
}
