// What the verbs share: arguments, opening with progress, input and output, Ctrl-C.
#include "cmd.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/utf8.h"

// --- arguments -----------------------------------------------------------------------------------

mk_status cmd_parse(const mk_opt_spec *spec, int argc, char *const *argv, void *values,
                    mk_opt_result *r, mk_err *err) {
    MK_TRY(mk_opt_parse(spec, argc, argv, values, r, err));
    if (r->help) {
        mk_buf b;
        mk_buf_init(&b, 1 << 20);
        mk_opt_help(spec, &b);
        printf("%s", b.data ? b.data : "");
        mk_buf_free(&b);
    }
    return MK_OK;
}

// "ID=V", V a number or -inf.
static mk_status parse_bias(const char *s, int64_t n_vocab, mk_logit_bias *out, mk_err *err) {
    const char *eq = strchr(s, '=');
    char id_text[32] = {0};
    int64_t id = -1;
    double v = 0;
    if (eq && (size_t)(eq - s) < sizeof id_text) {
        memcpy(id_text, s, (size_t)(eq - s));
    }
    bool forbid = eq && strcmp(eq + 1, "-inf") == 0;
    if (!eq || !mk_parse_i64(id_text, &id) || !(forbid || mk_parse_f64(eq + 1, &v))) {
        return MK_FAIL(err, MK_EUSAGE, "--logit-bias: expected ID=NUMBER or ID=-inf, got '%s'", s);
    }
    if (id < 0 || id >= n_vocab) {
        return MK_FAIL(err, MK_EUSAGE,
                       "--logit-bias: token %lld is outside the vocabulary (0 to %lld)",
                       (long long)id, (long long)(n_vocab - 1));
    }
    *out = (mk_logit_bias){(int32_t)id, forbid ? -INFINITY : (float)v};
    return MK_OK;
}

static mk_status set_bias(const cmd_sample_args *a, int64_t n_vocab, mk_sample_params *p,
                          mk_logit_bias **bias, mk_err *err) {
    if (a->bias.n == 0) {
        return MK_OK;
    }
    *bias = mk_alloc(a->bias.n * sizeof **bias);
    for (size_t i = 0; i < a->bias.n; i++) {
        MK_TRY(parse_bias(a->bias.items[i], n_vocab, &(*bias)[i], err));
    }
    p->bias = *bias;
    p->n_bias = (int32_t)a->bias.n;
    return MK_OK;
}

static void take(float *field, double given) {
    *field = isnan(given) ? *field : (float)given;
}

mk_status cmd_sample_params(const cmd_sample_args *a, const mk_llm *llm, mk_sample_params *p,
                            mk_logit_bias **bias, mk_err *err) {
    *bias = NULL;
    *p = mk_llm_sampling(llm);
    take(&p->temperature, a->temp);
    take(&p->top_p, a->top_p);
    take(&p->min_p, a->min_p);
    take(&p->repetition_penalty, a->repeat);
    take(&p->presence_penalty, a->presence);
    take(&p->frequency_penalty, a->frequency);
    p->top_k = a->top_k >= 0 ? (int32_t)a->top_k : p->top_k;
    p->seed = a->seed == CMD_SEED_RANDOM ? (uint64_t)time(NULL) ^ mk_now_ns() : (uint64_t)a->seed;
    int64_t n_vocab = mk_llm_model(llm)->hp.n_vocab;
    MK_TRY(set_bias(a, n_vocab, p, bias, err));
    return mk_sample_check(p, n_vocab, err);
}

void cmd_set_think(mk_request *r, const char *think) {
    r->think = MK_THINK_DEFAULT;
    r->effort = NULL;
    if (think && strcmp(think, "off") == 0) {
        r->think = MK_THINK_OFF;
    } else if (think) {
        r->think = MK_THINK_ON;
        r->effort = strcmp(think, "on") == 0 ? NULL : think;
    }
}

void cmd_warn_unanswered(const mk_answer *a) {
    if (a->finish == MK_FINISH_LENGTH && a->n_reasoning > 0 && a->n_text == 0) {
        mk_log_msg(MK_LOG_WARN,
                   "no answer: the thinking was cut after %lld tokens, by -n or the end of the "
                   "window",
                   (long long)a->n_generated);
    }
}

// --- opening -------------------------------------------------------------------------------------

typedef struct {
    mk_progress bar;
    const cmd_open_opts *how;
} loading;

static bool show_loading(void *arg, uint64_t done, uint64_t total) {
    loading *l = arg;
    l->bar.total = total;
    mk_progress_update(&l->bar, done);
    return !l->how->loading || l->how->loading(l->how->loading_arg, done, total);
}

// The model's whole window, for --ctx max.
static mk_status whole_window(mk_llm_opts o, int64_t *n_ctx, mk_err *err) {
    mk_llm *llm = NULL;
    o.describe_only = true;
    o.cache_dir = NULL;
    o.n_ctx = 0;
    MK_TRY(mk_llm_open(&o, &llm, err));
    *n_ctx = mk_llm_model(llm)->hp.n_ctx_train;
    mk_llm_close(llm);
    return MK_OK;
}

static mk_status open_with(const cmd_model_args *a, const cmd_open_opts *how, mk_llm_opts o,
                           mk_llm **out, mk_err *err) {
    if (a->n_ctx == CMD_CTX_MAX && !how->describe_only) {
        MK_TRY(whole_window(o, &o.n_ctx, err));
    }
    loading l = {.how = how};
    mk_progress_start(&l.bar, "load", "B", 0);
    o.progress = show_loading;
    o.progress_arg = &l;
    mk_status st = mk_llm_open(&o, out, err);
    if (l.bar.on && l.bar.last_ns) {
        fprintf(stderr, "\r\033[K");  // the line was for waiting only
    }
    return st;
}

void cmd_split_adapter(const char *arg, char **path, double *scale) {
    const char *eq = strrchr(arg, '=');
    *scale = 1;
    bool scaled = eq && eq > arg && mk_parse_f64(eq + 1, scale);
    *path = mk_strndup(arg, scaled ? (size_t)(eq - arg) : strlen(arg));
}

mk_status cmd_open(const cmd_model_args *a, const cmd_open_opts *how, mk_llm **out, mk_err *err) {
    char *path = NULL, *template_text = NULL, *adapter = NULL;
    char *cache_dir = a->packed ? cmd_cache_dir(a->cache_dir) : NULL;
    size_t n = 0;
    mk_log_set_level(a->quiet ? MK_LOG_QUIET : a->verbose ? MK_LOG_INFO : MK_LOG_WARN);
    mk_llm_opts o = MK_LLM_DEFAULTS;
    mk_status st = cmd_find_model(a->model, &path, err);
    if (st == MK_OK && a->template_path) {
        st = mk_file_read(a->template_path, 4 << 20, &template_text, &n, err);
    }
    if (st == MK_OK) {
        o.model = path;
        o.isa = a->isa ? a->isa : o.isa;
        o.kv_type = a->kv_type ? a->kv_type : o.kv_type;
        o.n_thread = (int)a->n_thread;
        o.n_ctx = a->n_ctx > 0 ? a->n_ctx : how->n_ctx;
        o.n_chunk = a->n_chunk;
        o.n_out = how->n_out;
        o.n_seq = how->n_seq;
        o.template_text = template_text;
        o.cache_dir = cache_dir;
        if (a->adapter) {
            cmd_split_adapter(a->adapter, &adapter, &o.adapter_strength);
            o.adapter = adapter;
        }
        o.describe_only = how->describe_only;
        o.later = how->later;
        o.serve = how->serve;
        st = open_with(a, how, o, out, err);
    }
    mk_free(path);
    mk_free(template_text);
    mk_free(cache_dir);
    mk_free(adapter);
    return st;
}

// --- input, output -------------------------------------------------------------------------------

mk_status cmd_read_input(const char *path, char **data, size_t *n, mk_err *err) {
    return strcmp(path, "-") == 0 ? mk_stream_read(stdin, CMD_INPUT_MAX, data, n, err)
                                  : mk_file_read(path, CMD_INPUT_MAX, data, n, err);
}

// Bytes up to the next newline or tab go through the filter, these two as they are.
static void write_filtered(FILE *f, const char *text, size_t n) {
    char part[512];
    while (n > 0) {
        size_t m = 0;
        while (m < n && m < sizeof part && text[m] != '\n' && text[m] != '\t') {
            m++;
        }
        if (m > 0) {
            // do not cut a character at the end of `part`
            m -= m < n ? mk_utf8_incomplete_tail(text, m) : 0;
            m = m ? m : 1;
            memcpy(part, text, m);
            mk_utf8_make_printable(part, m);
            fwrite(part, 1, m, f);
        } else {
            m = 1;
            fputc(text[0], f);
        }
        text += m;
        n -= m;
    }
}

bool cmd_write_text(FILE *f, const char *text, size_t n) {
    if (isatty(fileno(f))) {
        write_filtered(f, text, n);
    } else {
        fwrite(text, 1, n, f);
    }
    return fflush(f) == 0 && !ferror(f);
}

bool cmd_color(FILE *f) {
    return isatty(fileno(f)) && !mk_env("NO_COLOR");
}

mk_status cmd_print_json(json_t *v, bool pretty, mk_err *err) {
    bool ok =
        v && (json_dumpf(v, stdout,
                         JSON_REAL_PRECISION(12) | (pretty ? JSON_INDENT(2) : JSON_COMPACT)) == 0 ||
              ferror(stdout));
    json_decref(v);
    if (!ok) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the JSON output");
    }
    printf("\n");
    return MK_OK;
}

// A pipe without a reader; what was not read is nobody's loss.
static bool is_closed_pipe(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

mk_status cmd_check_stdout(mk_err *err) {
    errno = 0;
    bool ok = fflush(stdout) == 0 && !ferror(stdout);
    return ok || is_closed_pipe(STDOUT_FILENO)
               ? MK_OK
               : MK_FAIL(err, MK_EIO, "standard output could not be written: %s",
                         errno ? strerror(errno) : "device full?");
}

const char *cmd_bytes_text(double n, char out[32]) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int i = 0;
    for (; n >= 999.5 && i < 4; i++) {
        n /= 1000;
    }
    snprintf(out, 32,
             i == 0      ? "%.0f %s"
             : n < 9.995 ? "%.2f %s"
             : n < 99.95 ? "%.1f %s"
                         : "%.0f %s",
             n, unit[i]);
    return out;
}

// --- Ctrl-C --------------------------------------------------------------------------------------

static volatile sig_atomic_t interrupted, on_terminal;

// The second Ctrl-C ends the program whatever it is doing, and gives the terminal its colours back.
static void on_interrupt(int sig) {
    (void)sig;
    if (interrupted) {
        static const char reset[] = "\033[0m\n";
        if (on_terminal && write(STDOUT_FILENO, reset, sizeof reset - 1) < 0) {
            on_terminal = 0;  // nothing more can be done for it
        }
        _exit(130);
    }
    interrupted = 1;
}

void cmd_catch_interrupt(void) {
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_interrupt;
    on_terminal = isatty(STDOUT_FILENO);
    sigaction(SIGINT, &sa, NULL);
}

bool cmd_interrupted(void) {
    return interrupted != 0;
}

void cmd_clear_interrupt(void) {
    interrupted = 0;
}
