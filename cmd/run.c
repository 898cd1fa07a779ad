// minke run: one answer.
//
// Terminal: the answer is streamed, thinking dimmed before it, speed on standard error.  Pipe: the
// answer alone.  --json: nothing is streamed, one object at the end.
#include "cmd.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/alloc.h"
#include "base/log.h"

typedef struct {
    cmd_model_args model;
    cmd_sample_args sample;
    bool raw, json, show_thinking;
    const char *think, *system;
    int64_t n_logprob;
} run_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(run_args, model),
    CMD_OPT_RUNTIME(run_args, model),
    CMD_OPT_PACKED(run_args, model),
    CMD_OPT_ADAPTER(run_args, model),
    CMD_OPT_TEMPLATE(run_args, model),
    {.name = "raw",
     .type = MK_OPT_FLAG,
     .offset = offsetof(run_args, raw),
     .group = "Prompt and answer",
     .help = "continue the text as it is, without the chat template"},
    {.name = "system",
     .type = MK_OPT_STR,
     .offset = offsetof(run_args, system),
     .arg = "TEXT",
     .help = "system message in front of the prompt"},
    {.name = "think",
     .type = MK_OPT_STR,
     .offset = offsetof(run_args, think),
     .choices = CMD_THINK_CHOICES,
     .arg = "HOW",
     .help = "reasoning of models that can choose; without it the model's default"},
    {.name = "show-thinking",
     .type = MK_OPT_FLAG,
     .offset = offsetof(run_args, show_thinking),
     .help = "print the reasoning too; on in a terminal"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(run_args, json),
     .help = "one object: text, reasoning, ids, finish_reason, usage, timings"},
    {.name = "logprobs",
     .type = MK_OPT_I64,
     .offset = offsetof(run_args, n_logprob),
     .dflt = "-1",
     .min = -1,
     .max = 20,
     .arg = "N",
     .help = "with --json: log-probability of every token and of the N best; -1 is off"},
    CMD_OPT_SAMPLE(run_args, sample),
};

const mk_opt_spec cmd_run_spec = {
    .program = "minke run",
    .usage = "[-m MODEL] [PROMPT...]",
    .about = "Prints the model's answer to the prompt. Standard input is read when it is not a "
             "terminal, and put "
             "behind the prompt.",
    .more = "Examples:\n"
            "  minke run \"Why is the sky blue?\"\n"
            "  minke run -m qwen.gguf --temp 0 \"Summarise this:\" < notes.txt\n"
            "  minke run --raw --json -n 100 \"Once upon a time\"\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = -1,
};

// --- prompt --------------------------------------------------------------------------------------

// Arguments joined by spaces, then standard input behind a newline.  Empty standard input counts as
// none.
static mk_status read_prompt(const mk_opt_result *r, mk_buf *b, mk_err *err) {
    for (int i = 0; i < r->n_args; i++) {
        mk_buf_printf(b, "%s%s", i ? " " : "", r->args[i]);
    }
    bool have_stdin = false;
    if (!isatty(STDIN_FILENO)) {
        char *data = NULL;
        size_t n = 0;
        MK_TRY(mk_stream_read(stdin, CMD_INPUT_MAX, &data, &n, err));
        have_stdin = n > 0;
        if (have_stdin && r->n_args > 0) {
            mk_buf_putc(b, '\n');
        }
        mk_buf_add(b, data, n);
        mk_free(data);
    }
    if (r->n_args == 0 && !have_stdin) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "no prompt: expected one as argument or on standard input; `minke chat` for a "
            "conversation");
    }
    return b->failed ? MK_FAIL(err, MK_ELIMIT, "the prompt is over 1 GiB") : MK_OK;
}

// --- streaming -----------------------------------------------------------------------------------

typedef struct {
    const mk_llm *llm;
    bool stream, show_thinking, color;
    bool in_thought, gone;  // gone: nobody reads standard output any more
    char last;              // last byte printed
    json_t *logprobs;
    int64_t n_cached;
    uint64_t prompt_done_ns;
} printer;

static json_t *token_object(const mk_llm *llm, int32_t id, float logprob) {
    size_t n = 0;
    const char *piece = mk_tokenizer_piece(mk_llm_tokenizer(llm), id, &n);
    return json_pack("{s:i, s:o, s:f}", "id", (int)id, "token", mk_json_text(piece ? piece : "", n),
                     "logprob", (double)logprob);
}

static void add_logprob(printer *p, const mk_event *ev) {
    json_t *token = token_object(p->llm, ev->id, ev->logprob), *top = json_array();
    for (int i = 0; i < ev->n_top; i++) {
        json_array_append_new(top, token_object(p->llm, ev->top[i].id, ev->top[i].logprob));
    }
    json_object_set_new(token, "top", top);
    json_array_append_new(p->logprobs, token);
}

static void print_part(printer *p, bool thought, const char *text, size_t n) {
    if (thought != p->in_thought) {
        p->in_thought = thought;
        fputs(thought ? (p->color ? "\033[2m" : "") : p->color ? "\033[0m" : "", stdout);
        if (!thought) {
            fputs(p->last == '\n' ? "\n" : "\n\n", stdout);
        }
    }
    if (n > 0) {
        p->gone = !cmd_write_text(stdout, text, n) || p->gone;
        p->last = text[n - 1];
    }
}

static bool on_event(void *arg, const mk_event *ev) {
    printer *p = arg;
    if (ev->kind == MK_EVENT_TOKEN && p->logprobs) {
        add_logprob(p, ev);
    }
    bool text = ev->kind == MK_EVENT_TEXT || (ev->kind == MK_EVENT_REASONING && p->show_thinking);
    if (text && p->stream) {
        print_part(p, ev->kind == MK_EVENT_REASONING, ev->text, ev->n);
    }
    return !p->gone && !cmd_interrupted();
}

static void end_stream(printer *p) {
    if (p->in_thought) {
        fputs(p->color ? "\033[0m" : "", stdout);
    }
    if (p->last != '\n' && !p->gone) {
        fputs("\n", stdout);
    }
    (void)fflush(stdout);
}

static double per_second(int64_t n, double ms) {
    return ms > 0 ? 1000.0 * (double)n / ms : 0;
}

static void print_speed(const mk_answer *a) {
    fprintf(stderr, "%s%lld tokens, %.1f tok/s; prompt %lld tokens in %.2f s%s\n",
            cmd_color(stderr) ? "\033[2m" : "", (long long)a->n_generated,
            per_second(a->n_generated, a->generation_ms), (long long)a->n_prompt,
            a->prompt_ms / 1000, cmd_color(stderr) ? "\033[0m" : "");
}

static json_t *answer_object(const mk_answer *a, json_t *logprobs) {
    json_t *ids = json_array();
    for (int64_t i = 0; i < a->ids.n; i++) {
        json_array_append_new(ids, json_integer(a->ids.data[i]));
    }
    json_int_t prompt = a->n_prompt, made = a->n_generated;
    json_t *usage =
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "prompt_tokens", prompt, "completion_tokens", made,
                  "total_tokens", prompt + made, "cached_tokens", (json_int_t)a->n_cached,
                  "reasoning_tokens", (json_int_t)a->n_reasoning_tokens);
    json_t *timings = json_pack("{s:f, s:f, s:f, s:f}", "prompt_ms", a->prompt_ms, "generation_ms",
                                a->generation_ms, "prompt_tokens_per_second",
                                per_second(a->n_prompt - a->n_cached, a->prompt_ms),
                                "generation_tokens_per_second", per_second(made, a->generation_ms));
    json_t *o = json_pack(
        "{s:o, s:o, s:o, s:s, s:o, s:o}", "text", mk_json_text(a->text ? a->text : "", a->n_text),
        "reasoning", mk_json_text(a->reasoning ? a->reasoning : "", a->n_reasoning), "ids", ids,
        "finish_reason", mk_finish_name(a->finish), "usage", usage, "timings", timings);
    if (logprobs) {
        json_object_set(o, "logprobs", logprobs);
    }
    return o;
}

// --- the verb ------------------------------------------------------------------------------------

// A model without template (or one that adds nothing) continues the prompt: on a terminal the
// prompt is shown in front.
static void show_prompt(mk_llm *llm, const mk_request *r, printer *p) {
    mk_ids plain = {0}, asked = {0};
    mk_err err;
    mk_encode_opts how = {.add_special = true};
    bool same = mk_llm_prompt_ids(llm, r, &asked, &err) == MK_OK &&
                mk_tokenizer_encode(mk_llm_tokenizer(llm), r->prompt, strlen(r->prompt), how,
                                    &plain, &err) == MK_OK &&
                plain.n == asked.n &&
                memcmp(plain.data, asked.data, (size_t)plain.n * sizeof *plain.data) == 0;
    if (same && p->stream && isatty(STDOUT_FILENO)) {
        fputs(p->color ? "\033[2m" : "", stdout);
        p->gone = !cmd_write_text(stdout, r->prompt, strlen(r->prompt));
        fputs(p->color ? "\033[0m" : "", stdout);
    }
    mk_ids_free(&plain);
    mk_ids_free(&asked);
}

static mk_status answer(mk_llm *llm, const run_args *a, mk_request *r, printer *p, mk_err *err) {
    mk_answer ans = {0};
    show_prompt(llm, r, p);
    mk_status st = mk_llm_generate(llm, r, on_event, p, &ans, err);
    if (p->stream && (st == MK_OK || ans.n_generated > 0)) {
        end_stream(p);
    }
    if (st == MK_OK && a->json) {
        st = cmd_print_json(answer_object(&ans, p->logprobs), false, err);
    }
    if (st == MK_OK) {
        cmd_warn_unanswered(&ans);
    }
    if (st == MK_OK && !a->json && !a->model.quiet &&
        (a->model.verbose || (isatty(2) && isatty(1)))) {
        print_speed(&ans);
    }
    mk_answer_free(&ans);
    return st == MK_OK && cmd_interrupted() ? MK_EINTR : st;
}

static mk_status fill_request(const run_args *a, mk_llm *llm, const char *prompt,
                              mk_logit_bias **bias, mk_request *r, mk_err *err) {
    *r = (mk_request){.prompt = prompt,
                      .raw = a->raw,
                      .system = a->system,
                      .n_predict = a->sample.n_predict,
                      .stop = a->sample.stop.items,
                      .n_stop = (int)a->sample.stop.n,
                      .n_logprob = (int)a->n_logprob};
    if (!a->raw && !mk_llm_template(llm)) {
        mk_log_msg(MK_LOG_INFO,
                   "this model has no chat template: the prompt is continued as plain text");
        r->raw = true;
    }
    if (r->raw && a->system) {
        return MK_FAIL(err, MK_EUSAGE, "--system needs a chat template, but %s",
                       a->raw ? "--raw was given"
                              : "this model has none; --template FILE gives it one");
    }
    cmd_set_think(r, a->think);
    return cmd_sample_params(&a->sample, llm, &r->sample, bias, err);
}

static mk_status run(const run_args *a, const mk_opt_result *res, mk_err *err) {
    mk_buf prompt;
    mk_buf_init(&prompt, CMD_INPUT_MAX);
    mk_llm *llm = NULL;
    mk_logit_bias *bias = NULL;
    mk_request r;
    if (a->n_logprob >= 0 && !a->json) {
        return MK_FAIL(err, MK_EUSAGE, "--logprobs needs --json");
    }
    mk_status st = read_prompt(res, &prompt, err);
    const char *text = prompt.data ? prompt.data : "";
    if (st == MK_OK && strlen(text) != prompt.len) {
        st = MK_FAIL(err, MK_EUSAGE, "the prompt holds a NUL byte at %zu; expected text",
                     strlen(text));
    }
    if (st == MK_OK) {
        st = cmd_open(&a->model, &(cmd_open_opts){0}, &llm, err);
    }
    if (st == MK_OK) {
        st = fill_request(a, llm, text, &bias, &r, err);
    }
    if (st == MK_OK) {
        bool tty = isatty(STDOUT_FILENO) != 0;
        printer p = {.llm = llm,
                     .stream = !a->json,
                     .color = cmd_color(stdout),
                     .show_thinking =
                         mk_opt_given(&cmd_run_spec, res, "show-thinking") ? a->show_thinking : tty,
                     .logprobs = a->n_logprob >= 0 ? json_array() : NULL};
        cmd_catch_interrupt();
        st = answer(llm, a, &r, &p, err);
        json_decref(p.logprobs);
    }
    mk_free(bias);
    mk_llm_close(llm);
    mk_buf_free(&prompt);
    return st;
}

mk_status cmd_run(int argc, char *const *argv, mk_err *err) {
    run_args a = {.sample = CMD_SAMPLE_ARGS};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_run_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, &r, err);
    }
    mk_opt_free(&cmd_run_spec, &a, &r);
    return st;
}
