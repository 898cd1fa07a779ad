// Training data of the methods: from options to samples, and what was read in words and as JSON.
#include "train.h"

#include <string.h>

#include "base/json.h"
#include "base/log.h"

static mk_data_learn learn_of(const char *s) {
    static const char *const names[] = {"assistant", "last", "completion", "all"};
    int i = 0;
    while (s && i < 3 && strcmp(names[i], s) != 0) {
        i++;
    }
    return s ? (mk_data_learn)i : MK_LEARN_ASSISTANT;
}

mk_status cmd_read_data(const cmd_data_args *a, const mk_llm *llm, mk_data_kind kind,
                        const char *const *files, int n_file, mk_data **out, mk_err *err) {
    mk_data_opts o = MK_DATA_DEFAULTS;
    o.tokenizer = mk_llm_tokenizer(llm);
    o.template = mk_llm_template(llm);
    o.kind = kind;
    o.learn = learn_of(a->learn);
    o.raw = a->raw;
    o.max_len = a->max_len > 0 ? a->max_len : mk_llm_model(llm)->hp.n_ctx_train;
    o.longer = a->longer && strcmp(a->longer, "drop") == 0 ? MK_LONG_DROP : MK_LONG_CUT;
    o.skip_bad = a->skip_bad;
    o.allow_unknown = a->allow_unknown;
    o.enable_thinking = a->think ? strcmp(a->think, "on") == 0 : -1;
    o.separator = a->separator;
    MK_TRY(mk_data_create(&o, out, err));
    mk_status st = MK_OK;
    for (int i = 0; i < n_file && st == MK_OK; i++) {
        st = mk_data_add_file(*out, files[i], err);
    }
    if (st != MK_OK) {
        mk_data_destroy(*out);
        *out = NULL;
    }
    return st;
}

// --- in words ------------------------------------------------------------------------------------

// 1234567 -> "1,234,567"
static const char *grouped(int64_t n, char out[32]) {
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)n), k = 0;
    for (int i = 0; i < len; i++) {
        out[k++] = digits[i];
        if ((len - i) % 3 == 1 && i + 1 < len && digits[i] != '-') {
            out[k++] = ',';
        }
    }
    out[k] = 0;
    return out;
}

static void print_count(FILE *f, const char *name, int64_t n, const char *what) {
    char a[32];
    if (n > 0) {
        fprintf(f, "%-10s %s %s\n", name, grouped(n, a), what);
    }
}

static void print_lengths(FILE *f, const mk_data_stats *s) {
    char a[4][32];
    if (s->n_sample > 0) {
        fprintf(f, "length     shortest %s, median %s, 95 %% up to %s, longest %s\n",
                grouped(s->len_min, a[0]), grouped(s->len_median, a[1]), grouped(s->len_p95, a[2]),
                grouped(s->len_max, a[3]));
    }
    if (s->n_cut > 0) {
        fprintf(f, "cut        %s samples lost %s tokens at their end\n", grouped(s->n_cut, a[0]),
                grouped(s->n_tok_cut, a[1]));
    }
    if (s->n_dropped > 0) {
        fprintf(f, "dropped    %s samples with %s tokens are too long\n",
                grouped(s->n_dropped, a[0]), grouped(s->n_tok_dropped, a[1]));
    }
}

void cmd_print_data_stats(FILE *f, const mk_data *d, const mk_data_stats *s) {
    char a[3][32];
    fprintf(f, "data       %s line%s of kind %s, %s sample%s\n", grouped(s->n_line, a[0]),
            s->n_line == 1 ? "" : "s", mk_data_kind_name(mk_data_get_kind(d)),
            grouped(s->n_sample, a[1]), s->n_sample == 1 ? "" : "s");
    fprintf(f, "tokens     %s, of which %s are learned (%.1f %%)\n", grouped(s->n_tok, a[0]),
            grouped(s->n_target, a[1]),
            s->n_tok > 0 ? 100.0 * (double)s->n_target / (double)s->n_tok : 0.0);
    print_lengths(f, s);
    print_count(f, "empty", s->n_no_target, "samples have nothing to learn and are left out");
    print_count(f, "split", s->n_split,
                "earlier answers are samples of their own: the template rewrites past ones");
    print_count(f, "rejoined", s->n_rejoined,
                "answers were put behind their generation prompt: the template writes past ones "
                "otherwise");
    print_count(f, "open", s->n_open_end, "answers are ended by no control token of the template");
    print_count(f, "warning", s->n_no_reasoning,
                "answers lose their reasoning: the template does not write it (--think on?)");
    if (s->n_bad > 0) {
        fprintf(f, "skipped    %s bad lines; the first: ", grouped(s->n_bad, a[0]));
        cmd_write_text(f, s->first_bad, strlen(s->first_bad));
        fprintf(f, "\n");
    }
}

json_t *cmd_data_stats_json(const mk_data *d, const mk_data_stats *s) {
    const struct {
        const char *name;
        int64_t n;
    } rows[] = {
        {"lines", s->n_line},
        {"samples", s->n_sample},
        {"tokens", s->n_tok},
        {"learned", s->n_target},
        {"length_min", s->len_min},
        {"length_median", s->len_median},
        {"length_p95", s->len_p95},
        {"length_max", s->len_max},
        {"cut", s->n_cut},
        {"tokens_cut", s->n_tok_cut},
        {"dropped", s->n_dropped},
        {"tokens_dropped", s->n_tok_dropped},
        {"empty", s->n_no_target},
        {"split", s->n_split},
        {"rejoined", s->n_rejoined},
        {"open_end", s->n_open_end},
        {"no_reasoning", s->n_no_reasoning},
        {"bad", s->n_bad},
    };
    char hash[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)mk_data_hash(d));
    json_t *o =
        json_pack("{s:s, s:s}", "kind", mk_data_kind_name(mk_data_get_kind(d)), "hash", hash);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_object_set_new(o, rows[i].name, json_integer(rows[i].n));
    }
    json_object_set_new(o, "first_bad",
                        s->n_bad ? mk_json_text(s->first_bad, strlen(s->first_bad)) : json_null());
    return o;
}
