// minke train preview: samples with what is learned of them in colour, and what was counted.
#include "train.h"

#include <string.h>

#include "base/json.h"
#include "base/alloc.h"
#include "base/utf8.h"

typedef struct {
    cmd_model_args model;
    cmd_data_args data;
    int64_t n, first;
    const char *kind;
    bool json;
} preview_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(preview_args, model),
    CMD_OPT_TEMPLATE(preview_args, model),
    CMD_OPT_DATA(preview_args, data),
    {.name = "kind",
     .type = MK_OPT_STR,
     .offset = offsetof(preview_args, kind),
     .dflt = "auto",
     .choices = "auto|text|chat|pair|label|rl",
     .arg = "KIND",
     .help =
         "what the files must be: for pretrain, sft, dpo or grpo; auto: what the first line is"},
    {.name = "n",
     .short_name = "n",
     .type = MK_OPT_I64,
     .offset = offsetof(preview_args, n),
     .dflt = "3",
     .min = 0,
     .max = 1 << 30,
     .arg = "N",
     .group = "Output",
     .help = "samples to show"},
    {.name = "first",
     .type = MK_OPT_I64,
     .offset = offsetof(preview_args, first),
     .dflt = "1",
     .min = 1,
     .max = 1 << 30,
     .arg = "I",
     .help = "number of the first one to show"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(preview_args, json),
     .help = "one object: the counts, and the samples with ids, tokens and mask"},
};

const mk_opt_spec cmd_train_preview_spec = {
    .program = "minke train preview",
    .usage = "[-m MODEL] FILE...",
    .about = "Shows what a model would learn from training data: samples with their learned "
             "tokens in colour (between [[ and ]] where there is none), lengths and counts. The "
             "files are JSONL, or .txt for pretraining.",
    .more = "A line is one of\n"
            "  {\"messages\": [...]}  {\"prompt\", \"completion\"}  {\"conversations\": [...]}\n"
            "  {\"instruction\", \"input\", \"output\"}  {\"text\"}\n"
            "  {\"prompt\", \"chosen\", \"rejected\"}  {\"prompt\", \"completion\", \"label\"}\n"
            "  {\"prompt\", \"answer\", ...}\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .min_args = 0,
    .max_args = -1,
};

// --- for a person --------------------------------------------------------------------------------

static void switch_to(bool color, bool learned) {
    if (color) {
        printf("%s", learned ? "\033[32m" : "\033[0m");
    } else {
        printf("%s", learned ? "[[" : "]]");
    }
}

// The tokens as text; a character of several tokens is shown where its last one stands.
static mk_status print_seq(const mk_tokenizer *t, const mk_data_seq *s, mk_err *err) {
    bool color = cmd_color(stdout), learned = false;
    const char *p;
    size_t n;
    mk_detok *d = mk_detok_create(t, false);
    if (!d) {
        return MK_FAIL(err, MK_ENOMEM, "no memory to decode a sample");
    }
    for (int64_t i = 0; i < s->n; i++) {
        if (learned != (s->mask[i] != 0)) {
            learned = !learned;
            switch_to(color, learned);
        }
        mk_detok_push(d, s->ids[i], &p, &n);
        cmd_write_text(stdout, p, n);
    }
    mk_detok_finish(d, &p, &n);
    cmd_write_text(stdout, p, n);
    if (learned) {
        switch_to(color, false);
    }
    mk_detok_destroy(d);
    printf("\n");
    return MK_OK;
}

static mk_status print_sample(const mk_tokenizer *t, const mk_data *d, int64_t i, mk_err *err) {
    mk_data_sample s = mk_data_get(d, i);
    static const char *const which[] = {", chosen", ", rejected"};
    for (int k = 0; k < s.n_seq; k++) {
        printf("--- sample %lld of %lld%s: ", (long long)i + 1, (long long)mk_data_n_sample(d),
               s.n_seq > 1 ? which[k] : "");
        cmd_write_text(stdout, s.file, strlen(s.file));
        if (s.line > 0) {
            printf(" line %lld", (long long)s.line);
        }
        printf(", %lld tokens, %lld learned", (long long)s.seq[k].n, (long long)s.seq[k].n_target);
        if (mk_data_get_kind(d) == MK_DATA_LABEL) {
            printf(", %s", s.label ? "good" : "bad");
        }
        if (s.weight != 1.0f) {
            printf(", weight %g", (double)s.weight);
        }
        printf("\n");
        MK_TRY(print_seq(t, &s.seq[k], err));
    }
    if (s.json) {
        printf("--- for the checker: ");
        cmd_write_text(stdout, s.json, s.n_json);
        printf("\n");
    }
    return MK_OK;
}

// --- for a program -------------------------------------------------------------------------------

static json_t *seq_json(const mk_tokenizer *t, const mk_data_seq *s) {
    json_t *ids = json_array(), *tokens = json_array(), *mask = json_array();
    for (int64_t i = 0; i < s->n; i++) {
        size_t n = 0;
        const char *p = mk_tokenizer_piece(t, s->ids[i], &n);
        json_array_append_new(ids, json_integer(s->ids[i]));
        json_array_append_new(tokens, mk_json_text(p ? p : "", p ? n : 0));
        json_array_append_new(mask, json_integer(s->mask[i]));
    }
    return json_pack("{s:o, s:o, s:o}", "ids", ids, "tokens", tokens, "mask", mask);
}

static json_t *sample_json(const mk_tokenizer *t, const mk_data *d, int64_t i) {
    mk_data_sample s = mk_data_get(d, i);
    json_t *o = json_pack("{s:o, s:I, s:f, s:I}", "file", mk_json_text(s.file, strlen(s.file)),
                          "line", (json_int_t)s.line, "weight", (double)s.weight, "n_prompt",
                          (json_int_t)s.n_prompt);
    static const char *const pair[] = {"chosen", "rejected"};
    for (int k = 0; k < s.n_seq; k++) {
        json_object_set_new(o,
                            s.n_seq > 1 ? pair[k]
                            : s.json    ? "prompt"
                                        : "sample",
                            seq_json(t, &s.seq[k]));
    }
    if (mk_data_get_kind(d) == MK_DATA_LABEL) {
        json_object_set_new(o, "label", json_boolean(s.label));
    }
    if (s.json) {
        json_object_set_new(o, "data", json_loadb(s.json, s.n_json, JSON_ALLOW_NUL, NULL));
    }
    return o;
}

// --- the method ----------------------------------------------------------------------------------

static mk_status show(const preview_args *a, const mk_tokenizer *t, const mk_data *d, mk_err *err) {
    mk_data_stats s;
    MK_TRY(mk_data_get_stats(d, &s, err));
    int64_t first = a->first - 1, n = mk_data_n_sample(d) - first;
    n = n < 0 ? 0 : n < a->n ? n : a->n;
    if (a->json) {
        json_t *list = json_array();
        for (int64_t i = first; i < first + n; i++) {
            json_array_append_new(list, sample_json(t, d, i));
        }
        return cmd_print_json(
            json_pack("{s:o, s:o}", "data", cmd_data_stats_json(d, &s), "samples", list), false,
            err);
    }
    for (int64_t i = first; i < first + n; i++) {
        MK_TRY(print_sample(t, d, i, err));
    }
    printf("%s", n > 0 ? "\n" : "");
    cmd_print_data_stats(stdout, d, &s);
    return MK_OK;
}

static mk_data_kind kind_of(const char *name) {
    int k = MK_DATA_AUTO;
    while (k < MK_DATA_LABEL && strcmp(mk_data_kind_name((mk_data_kind)k), name) != 0) {
        k++;
    }
    return (mk_data_kind)k;
}

static mk_status run(const preview_args *a, const mk_opt_result *r, mk_err *err) {
    mk_llm *llm = NULL;
    mk_data *d = NULL;
    if (r->n_args == 0) {
        return MK_FAIL(err, MK_EUSAGE, "train preview: expected at least one FILE");
    }
    mk_status st = cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &llm, err);
    if (st == MK_OK) {
        st = cmd_read_data(&a->data, llm, kind_of(a->kind), r->args, r->n_args, &d, err);
    }
    if (st == MK_OK) {
        st = show(a, mk_llm_tokenizer(llm), d, err);
    }
    mk_data_destroy(d);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_train_preview(int argc, char *const *argv, mk_err *err) {
    preview_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_train_preview_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, &r, err);
    }
    mk_opt_free(&cmd_train_preview_spec, &a, &r);
    return st;
}
