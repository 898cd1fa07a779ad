// minke perplexity: mean of -log p over a text, in nats per token, and its exponential.
//
// The text is cut into windows of W tokens from its start, without overlap; in each the tokens 2..W
// are predicted from those before them in the window.  What is left at the end, less than W tokens,
// is not used (unless it is all there is).  No begin-of-text token is put in front.
// tests/golden/gen_thimble.py does the same for the reference number.
#include "cmd.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"

#define ROWS_AT_ONCE 64
#define WINDOW_MAX   2048

typedef struct {
    cmd_model_args model;
    const char *file;
    int64_t window;
    bool json;
} ppl_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(ppl_args, model),
    CMD_OPT_RUNTIME(ppl_args, model),
    CMD_OPT_PACKED(ppl_args, model),
    CMD_OPT_ADAPTER(ppl_args, model),
    {.name = "file",
     .short_name = "f",
     .type = MK_OPT_STR,
     .offset = offsetof(ppl_args, file),
     .arg = "FILE",
     .help = "the text; - is standard input",
     .group = "Text"},
    {.name = "window",
     .type = MK_OPT_I64,
     .offset = offsetof(ppl_args, window),
     .min = 2,
     .max = 1 << 24,
     .arg = "N",
     .help = "tokens per window; without it the model's window, at most 2048"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(ppl_args, json),
     .help = "one object: loss, perplexity, standard_error, tokens, windows, window"},
};

const mk_opt_spec cmd_perplexity_spec = {
    .program = "minke perplexity",
    .usage = "[-m MODEL] -f FILE [--window N]",
    .about = "Mean negative log-likelihood (nats per token) and perplexity over windows of a text. "
             "Lower is better; "
             "numbers of models with different tokenizers cannot be compared.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

typedef struct {
    const int32_t *ids;  // the window
    int64_t n, n_vocab;
    double sum, sum2;  // of -log p and its square
    int64_t count;
} tally;

static mk_status on_row(void *arg, int64_t i, const float *logits, mk_err *err) {
    (void)err;
    tally *t = arg;
    if (i + 1 < t->n) {
        double nll = -(double)mk_logprob_of(logits, t->n_vocab, t->ids[i + 1]);
        t->sum += nll;
        t->sum2 += nll * nll;
        t->count++;
    }
    return cmd_interrupted() ? MK_EINTR : MK_OK;
}

static mk_status measure(mk_llm *llm, const mk_ids *ids, int64_t window, tally *t, mk_err *err) {
    mk_engine *e = mk_llm_engine(llm);
    int64_t n_window = ids->n / window;
    mk_progress bar;
    int seq = 0;
    mk_progress_start(&bar, "perplexity", "tok", (uint64_t)(n_window * window));
    MK_TRY(mk_engine_seq_open(e, &seq, err));
    mk_status st = MK_OK;
    for (int64_t w = 0; w < n_window && st == MK_OK; w++) {
        t->ids = ids->data + w * window;
        t->n = window;
        mk_engine_seq_truncate(e, seq, 0);
        st = mk_engine_feed_rows(e, seq, t->ids, window, on_row, t, err);
        mk_progress_update(&bar, (uint64_t)((w + 1) * window));
    }
    mk_engine_seq_close(e, seq);
    mk_progress_end(&bar, (uint64_t)(n_window * window));
    return st;
}

static mk_status print_result(const ppl_args *a, const tally *t, int64_t n_window, int64_t window,
                              mk_err *err) {
    double n = (double)t->count, loss = t->sum / n;
    double var = n > 1 ? (t->sum2 - n * loss * loss) / (n - 1) : 0;
    double se = sqrt((var > 0 ? var : 0) / n);
    if (a->json) {
        json_t *o = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I}", "loss", loss, "perplexity",
                              exp(loss), "standard_error", se, "tokens", (json_int_t)t->count,
                              "windows", (json_int_t)n_window, "window", (json_int_t)window);
        return cmd_print_json(o, false, err);
    }
    printf("loss %.6f nats per token (standard error %.6f), perplexity %.4f\n%lld tokens predicted "
           "in %lld windows of "
           "%lld\n",
           loss, se, exp(loss), (long long)t->count, (long long)n_window, (long long)window);
    return MK_OK;
}

// The text as ids, and the window that will be used.
static mk_status prepare(const ppl_args *a, const mk_llm *llm, mk_ids *ids, int64_t *window,
                         mk_err *err) {
    char *text = NULL;
    size_t n = 0;
    MK_TRY(cmd_read_input(a->file, &text, &n, err));
    mk_status st =
        mk_tokenizer_encode(mk_llm_tokenizer(llm), text, n, (mk_encode_opts){0}, ids, err);
    mk_free(text);
    MK_TRY(st);
    int64_t trained = mk_llm_model(llm)->hp.n_ctx_train;
    *window = a->window ? a->window : trained < WINDOW_MAX ? trained : WINDOW_MAX;
    *window = *window > ids->n ? ids->n : *window;
    return ids->n >= 2 ? MK_OK
                       : MK_FAIL(err, MK_EUSAGE, "%s: %lld tokens, expected at least 2", a->file,
                                 (long long)ids->n);
}

static mk_status run(const ppl_args *a, mk_err *err) {
    if (!a->file) {
        return MK_FAIL(err, MK_EUSAGE, "expected a text: -f FILE, or -f - for standard input");
    }
    mk_llm *facts = NULL, *llm = NULL;
    mk_ids ids = {0};
    int64_t window = 0;
    mk_status st = cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &facts, err);
    if (st == MK_OK) {
        st = prepare(a, facts, &ids, &window, err);
    }
    mk_llm_close(facts);
    if (st == MK_OK) {
        st = cmd_open(&a->model,
                      &(cmd_open_opts){.n_out = ROWS_AT_ONCE, .n_seq = 2, .n_ctx = window}, &llm,
                      err);
    }
    if (st == MK_OK) {
        tally t = {.n_vocab = mk_llm_model(llm)->hp.n_vocab};
        cmd_catch_interrupt();
        st = measure(llm, &ids, window, &t, err);
        st = st == MK_OK ? print_result(a, &t, ids.n / window, window, err) : st;
    }
    mk_ids_free(&ids);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_perplexity(int argc, char *const *argv, mk_err *err) {
    ppl_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_perplexity_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_perplexity_spec, &a, &r);
    return st;
}
