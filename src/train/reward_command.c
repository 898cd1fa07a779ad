// The reward `command`: a program is given the line and the completion as JSON and prints a number.
//
// It reads one object: the fields of the line, "completion" and its two parts "reasoning" and
// "response", "finished", and "prompt" (that of the line, or else the text that the model saw).
//
// A program that fails for one completion gives it 0 and a warning: hostile completions must not
// stop a run.  A program that fails many times in a row is broken, and an error.
#include "base/alloc.h"
#include "base/log.h"
#include "base/utf8.h"
#include "train/reward_int.h"

enum { INPUT_MAX = 256 << 20, PATIENCE = 32 };

// Text of a model may be any bytes; JSON is Unicode.  Bad bytes become U+FFFD.
static json_t *json_text(const char *s, size_t n) {
    if (mk_utf8_valid(s, n)) {
        return json_stringn(s, n);
    }
    mk_buf b;
    mk_buf_init(&b, INPUT_MAX);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = mk_utf8_decode(s + i, n - i, &cp);
        mk_buf_utf8(&b, cp);
        i += len > 0 ? (size_t)len : 1;
    }
    json_t *v = b.failed ? NULL : json_stringn(b.data, b.len);
    mk_buf_free(&b);
    return v;
}

static int add_piece(const char *s, size_t n, void *arg) {
    mk_buf_add(arg, s, n);
    return 0;
}

// The fields of the line, and what the model made of it.
static void write_input(const mk_reward_text *t, mk_buf *out) {
    const mk_reward_input *in = t->in;
    json_t *o = in->line ? json_copy((json_t *)(uintptr_t)in->line) : json_object();
    bool bad =
        json_object_set_new(o, "completion", json_text(in->completion, in->n_completion)) ||
        json_object_set_new(o, "reasoning", json_text(t->reasoning, t->n_reasoning)) ||
        json_object_set_new(o, "response", json_text(t->answer, t->has_answer ? t->n_answer : 0)) ||
        json_object_set_new(o, "finished", json_boolean(in->finished));
    if (in->prompt && !json_object_get(o, "prompt")) {
        bad = json_object_set_new(o, "prompt", json_text(in->prompt, in->n_prompt)) || bad;
    }
    bad = bad || json_dump_callback(o, add_piece, out, JSON_COMPACT) != 0;
    out->failed = out->failed || bad;
    json_decref(o);
}

mk_status mk_reward_command_prepare(mk_reward *r, mk_err *err) {
    r->command.text = r->run;
    if (r->command.shell && r->command.processes == 1) {
        enum { SHELL_PROCESSES = 32 };
        r->command.processes = SHELL_PROCESSES;
    }
    r->failures = mk_zalloc(sizeof *r->failures);
    mk_status st = mk_command_create(&r->command, &r->program, err);
    return st == MK_OK ? MK_OK : mk_err_prefix(err, "reward command");
}

mk_status mk_reward_score_command(const mk_reward *r, const mk_reward_text *t, double *v,
                                  mk_err *err) {
    mk_command_result result;
    mk_buf input;
    mk_buf_init(&input, INPUT_MAX);
    write_input(t, &input);
    *v = 0;
    mk_status st = input.failed ? MK_FAIL(err, MK_ENOMEM, "no memory for the input of a command")
                                : mk_command_run(r->program, input.data, input.len, &result, err);
    mk_buf_free(&input);
    MK_TRY(st);
    if (result.end == MK_COMMAND_OK) {
        atomic_store(r->failures, 0);
        *v = result.value;
        return MK_OK;
    }
    int n = atomic_fetch_add(r->failures, 1) + 1;
    if (n >= PATIENCE) {
        return MK_FAIL(err, MK_EIO, "'%s' failed %d times in a row; the last time: %s", r->run, n,
                       result.why);
    }
    mk_log_msg(MK_LOG_WARN, "reward %s: %s; this completion gets 0", r->name, result.why);
    return MK_OK;
}
