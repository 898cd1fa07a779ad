// minke logits: what the model computes, position by position, for comparison with any other
// implementation.
#include "cmd.h"

#include <string.h>

#include "base/alloc.h"
#include "npy.h"

#define ROWS_AT_ONCE 64

typedef struct {
    cmd_model_args model;
    const char *ids, *text, *ids_file, *out;
} logits_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(logits_args, model),
    CMD_OPT_RUNTIME(logits_args, model),
    CMD_OPT_PACKED(logits_args, model),
    CMD_OPT_ADAPTER(logits_args, model),
    {.name = "ids",
     .type = MK_OPT_STR,
     .offset = offsetof(logits_args, ids),
     .arg = "IDS",
     .group = "Input and output",
     .help = "token ids like 1,2,3, taken as they are"},
    {.name = "text",
     .type = MK_OPT_STR,
     .offset = offsetof(logits_args, text),
     .arg = "TEXT",
     .help = "text, encoded with a begin-of-text token where the model wants one"},
    {.name = "ids-file",
     .type = MK_OPT_STR,
     .offset = offsetof(logits_args, ids_file),
     .arg = "FILE",
     .help = "a file of int32 ids, little endian"},
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(logits_args, out),
     .arg = "FILE.npy",
     .help = "where to write"},
};

const mk_opt_spec cmd_logits_spec = {
    .program = "minke logits",
    .usage = "[-m MODEL] (--ids IDS | --text TEXT) -o FILE.npy",
    .about =
        "Writes the logits of every position as float32 [tokens, vocabulary] in NumPy's format.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

static mk_status read_ids_file(const char *path, mk_ids *ids, mk_err *err) {
    char *data = NULL;
    size_t n = 0;
    MK_TRY(mk_file_read(path, CMD_INPUT_MAX, &data, &n, err));
    mk_status st = n > 0 && n % 4 == 0
                       ? MK_OK
                       : MK_FAIL(err, MK_EUSAGE,
                                 "%s: %zu bytes, expected int32 ids, a multiple of 4", path, n);
    for (size_t i = 0; i < n && st == MK_OK; i += 4) {
        int32_t id;
        memcpy(&id, data + i, sizeof id);
        st = mk_ids_push(ids, id, err);
    }
    mk_free(data);
    return st;
}

static mk_status get_ids(const logits_args *a, const mk_llm *llm, mk_ids *ids, mk_err *err) {
    if (a->ids) {
        return cmd_parse_ids(a->ids, "--ids", ids, err);
    }
    if (a->ids_file) {
        return read_ids_file(a->ids_file, ids, err);
    }
    mk_encode_opts how = {.add_special = true};
    MK_TRY(mk_tokenizer_encode(mk_llm_tokenizer(llm), a->text, strlen(a->text), how, ids, err));
    return ids->n > 0
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "--text: no tokens; expected a text that is not empty");
}

static mk_status on_row(void *arg, int64_t i, const float *logits, mk_err *err) {
    (void)i;
    return cmd_interrupted() ? MK_EINTR : mk_npy_row(arg, logits, err);
}

static mk_status write_logits(const logits_args *a, mk_llm *llm, const mk_ids *ids, mk_err *err) {
    mk_engine *e = mk_llm_engine(llm);
    mk_npy npy = {0};
    int seq = 0;
    MK_TRY(mk_npy_open(a->out, ids->n, mk_llm_model(llm)->hp.n_vocab, &npy, err));
    mk_status st = mk_engine_seq_open(e, &seq, err);
    if (st == MK_OK) {
        st = mk_engine_feed_rows(e, seq, ids->data, ids->n, on_row, &npy, err);
        mk_engine_seq_close(e, seq);
    }
    if (st != MK_OK) {
        mk_npy_abort(&npy);
        return st;
    }
    return mk_npy_commit(&npy, err);
}

static mk_status run(const logits_args *a, mk_err *err) {
    int n_input = (a->ids != NULL) + (a->text != NULL) + (a->ids_file != NULL);
    if (n_input != 1 || !a->out) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "expected exactly one of --ids, --text and --ids-file, and -o FILE.npy; got %d and %s",
            n_input, a->out ? a->out : "no -o");
    }
    mk_llm *facts = NULL, *llm = NULL;
    mk_ids ids = {0};
    mk_status st = cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &facts, err);
    if (st == MK_OK) {
        st = get_ids(a, facts, &ids, err);
    }
    mk_llm_close(facts);
    if (st == MK_OK) {
        st =
            cmd_open(&a->model, &(cmd_open_opts){.n_out = ROWS_AT_ONCE, .n_seq = 2, .n_ctx = ids.n},
                     &llm, err);
    }
    if (st == MK_OK) {
        cmd_catch_interrupt();
        st = write_logits(a, llm, &ids, err);
    }
    mk_ids_free(&ids);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_logits(int argc, char *const *argv, mk_err *err) {
    logits_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_logits_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_logits_spec, &a, &r);
    return st;
}
