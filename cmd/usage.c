// minke usage: sums of the ledger, and what hosted services would have charged for the same.
#include "cmd.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/usage.h"

enum { MAX_COLUMNS = 12 + MK_PRICES_MAX, CELL = 24 };

typedef struct {
    const char *state_dir, *since, *key, *model, *by, *prices;
    bool json;
} usage_args;

static const mk_opt opts[] = {
    CMD_OPT_STATE_DIR(usage_args, state_dir),
    {.name = "since",
     .type = MK_OPT_STR,
     .offset = offsetof(usage_args, since),
     .dflt = "30d",
     .arg = "DAY",
     .help = "a day (2026-11-22), a number of days (7d, today is the last of them), today, or all; "
             "days are UTC's",
     .group = "Which"},
    {.name = "key",
     .type = MK_OPT_STR,
     .offset = offsetof(usage_args, key),
     .arg = "ID",
     .help = "of one key only (minke keys list)"},
    {.name = "model",
     .type = MK_OPT_STR,
     .offset = offsetof(usage_args, model),
     .arg = "NAME",
     .help = "of one model only"},
    {.name = "by",
     .type = MK_OPT_STR,
     .offset = offsetof(usage_args, by),
     .dflt = "day,key,model",
     .arg = "LIST",
     .help = "what a line stands for: day, key, model, or several",
     .group = "Output"},
    {.name = "prices",
     .type = MK_OPT_STR,
     .offset = offsetof(usage_args, prices),
     .arg = "FILE",
     .help = "price list to use instead of the one that comes with minke (prices.json)"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(usage_args, json),
     .help = "one object: lines and total"},
};

const mk_opt_spec cmd_usage_spec = {
    .program = "minke usage",
    .usage = "[--since DAY] [--by day,key,model]",
    .about = "What minke serve has answered: requests and tokens, and what hosted services would "
             "have charged for them. The ledger has one row for each answered request and never "
             "what was said.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = 0,
};

// --- the table -----------------------------------------------------------------------------------

typedef struct {
    const char *title, *field;
    bool text;
} column;

static const column columns[] = {
    {"day", "day", true},
    {"key", "key", true},
    {"model", "model", true},
    {"requests", "requests", false},
    {"failed", "failed", false},
    {"prompt", "prompt_tokens", false},
    {"cached", "cached_tokens", false},
    {"output", "output_tokens", false},
    {"reasoning", "reasoning_tokens", false},
    {"seconds", "generation_seconds", false},
};
enum { N_COLUMN = sizeof columns / sizeof columns[0] };

static void number_text(const json_t *v, int decimals, char out[CELL]) {
    if (json_is_real(v)) {
        snprintf(out, CELL, "%.*f", decimals, json_real_value(v));
    } else {
        snprintf(out, CELL, "%lld", (long long)json_integer_value(v));
    }
}

// Control characters of a name would drive the terminal.
static void text_cell(const json_t *v, char out[CELL]) {
    const char *s = json_string_value(v);
    snprintf(out, CELL, "%s", !s ? "" : s[0] ? s : "-");
    for (char *p = out; *p; p++) {
        *p = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
    }
}

// Cells of a line; returns how many.
static int cells_of(const json_t *line, const mk_prices *p, char cell[MAX_COLUMNS][CELL]) {
    int n = 0;
    for (size_t i = 0; i < N_COLUMN; i++) {
        const json_t *v = json_object_get(line, columns[i].field);
        if (columns[i].text) {
            text_cell(v, cell[n++]);
        } else {
            number_text(v, 1, cell[n++]);
        }
    }
    for (int i = 0; p && i < p->n; i++) {
        const json_t *costs = json_object_get(line, "would_cost");
        number_text(json_object_get(costs, p->price[i].name), 4, cell[n++]);
    }
    return n;
}

static int titles(const mk_prices *p, char cell[MAX_COLUMNS][CELL]) {
    int n = 0;
    for (size_t i = 0; i < N_COLUMN; i++) {
        snprintf(cell[n++], CELL, "%s", columns[i].title);
    }
    for (int i = 0; p && i < p->n; i++) {
        snprintf(cell[n++], CELL, "%s", p->price[i].name);
    }
    return n;
}

static void print_row(char cell[MAX_COLUMNS][CELL], int n, const int *width, const bool *shown) {
    for (int i = 0; i < n; i++) {
        bool left = i < (int)N_COLUMN && columns[i].text;
        if (shown[i]) {
            printf(left ? "%-*s" : "%*s", width[i], cell[i]);
            printf("%s", i + 1 < n ? "  " : "\n");
        }
    }
}

static void print_table(const json_t *v, const mk_usage_query *by, const mk_prices *p) {
    const json_t *lines = json_object_get(v, "lines"), *line;
    char cell[MAX_COLUMNS][CELL];
    int width[MAX_COLUMNS] = {0};
    bool shown[MAX_COLUMNS];
    size_t i;
    for (int k = 0; k < MAX_COLUMNS; k++) {
        shown[k] = k > 2 || (k == 0 ? by->by_day : k == 1 ? by->by_key : by->by_model);
    }
    int n = titles(p, cell);
    for (int pass = 0; pass < 2; pass++) {
        size_t n_line = json_array_size(lines);
        for (i = 0; i < n_line + 2; i++) {
            line = i == n_line + 1 ? json_object_get(v, "total") : json_array_get(lines, i - 1);
            n = i == 0 ? titles(p, cell) : cells_of(line, p, cell);
            if (i == n_line + 1) {
                snprintf(cell[by->by_day ? 0 : by->by_key ? 1 : 2], CELL, "total");
            }
            for (int k = 0; k < n && pass == 0; k++) {
                int len = (int)strlen(cell[k]);
                width[k] = len > width[k] ? len : width[k];
            }
            if (pass == 1) {
                print_row(cell, n, width, shown);
            }
        }
    }
    if (p) {
        printf("Prices of hosted services in %s, by their list (--prices).\n", p->currency);
    }
}

// --- the verb ------------------------------------------------------------------------------------

// The list given, or the one that came with the program; without that, no prices.
static mk_status find_prices(const usage_args *a, mk_prices *p, bool *found, mk_err *err) {
    char *path = a->prices ? mk_strdup(a->prices) : cmd_find_data("prices.json");
    *found = path != NULL;
    mk_status st = path ? mk_prices_read(path, p, err) : MK_OK;
    mk_free(path);
    return st;
}

static mk_status read_ledger(const usage_args *a, const mk_usage_query *q, json_t **v,
                             mk_err *err) {
    char *dir = cmd_state_dir(a->state_dir);
    mk_store *s = NULL;
    if (!dir) {
        return MK_FAIL(err, MK_EUSAGE, "no folder of a ledger: HOME is not set; --state-dir DIR");
    }
    mk_status st = mk_store_open(dir, false, &s, err);
    if (st == MK_ENOTFOUND && !a->state_dir) {
        st = mk_store_open(NULL, true, &s, err);  // nothing has been served yet
    }
    st = st == MK_OK ? mk_usage_report(s, q, v, err) : st;
    mk_store_close(s);
    mk_free(dir);
    return st;
}

static mk_status run(const usage_args *a, mk_err *err) {
    int64_t now = (int64_t)time(NULL);
    mk_usage_query q = {.filter = {.until = now + 1, .key = a->key, .model = a->model}};
    mk_prices prices;
    bool found = false;
    json_t *v = NULL;
    MK_TRY(mk_usage_parse_by(a->by, &q, err));
    if (mk_usage_parse_since(a->since, now, &q.filter.since, err) != MK_OK) {
        return mk_err_prefix(err, "--since");
    }
    MK_TRY(find_prices(a, &prices, &found, err));
    q.prices = found ? &prices : NULL;
    MK_TRY(read_ledger(a, &q, &v, err));
    if (a->json) {
        return cmd_print_json(v, false, err);
    }
    print_table(v, &q, q.prices);
    json_decref(v);
    return MK_OK;
}

mk_status cmd_usage(int argc, char *const *argv, mk_err *err) {
    usage_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_usage_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_usage_spec, &a, &r);
    return st;
}
