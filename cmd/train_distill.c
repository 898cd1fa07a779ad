// minke train distill: a model's right answers become training data for another one.
//
// A run has three files.  FILE.part grows while the teacher answers; FILE.progress, which is always
// whole, says how many prompts are done and how many bytes of the part belong to them; at the end
// the part is renamed to FILE.  A run that was killed cuts the part to these bytes and goes on.  A
// run that stands at its end goes on when more prompts are asked for.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mathx.h"
#include "train/samples.h"
#include "train_setup.h"

typedef struct {
    cmd_model_args model;
    cmd_data_args data;
    mk_opt_list reward;
    const char *out, *pick;
    int64_t n, group, keep, max_tok, seed, n_seq;
    double temperature, threshold;
    bool json;
} args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(args, model),
    CMD_OPT_RUNTIME(args, model),
    CMD_OPT_TEMPLATE(args, model),
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(args, out),
     .arg = "FILE",
     .help = "where the answers go (JSONL: prompt, completion, id); the same command goes on with "
             "a file that is not finished, or that has fewer prompts",
     .group = "Output"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(args, json),
     .help = "the summary as one object"},
    CMD_OPT_REWARD(args, reward),
    {.name = "threshold",
     .type = MK_OPT_F64,
     .offset = offsetof(args, threshold),
     .dflt = "1",
     .min = -1e9,
     .max = 1e9,
     .arg = "X",
     .help = "an answer is right when its rewards together reach this"},
    CMD_OPT_PROMPTS(args, n),
    {.name = "group",
     .type = MK_OPT_I64,
     .offset = offsetof(args, group),
     .dflt = "8",
     .min = 1,
     .max = 4096,
     .arg = "K",
     .help = "completions of a prompt"},
    {.name = "temp",
     .type = MK_OPT_F64,
     .offset = offsetof(args, temperature),
     .dflt = "1",
     .min = 0,
     .max = 100,
     .arg = "T",
     .help = "temperature; 0: greedy"},
    CMD_OPT_MAX_TOKENS(args, max_tok),
    {.name = "seed",
     .type = MK_OPT_I64,
     .offset = offsetof(args, seed),
     .dflt = "1",
     .min = 0,
     .max = 999999999999999.0,
     .arg = "N",
     .help = "of sampling, and of --pick random"},
    CMD_OPT_PARALLEL(args, n_seq),
    {.name = "keep",
     .type = MK_OPT_I64,
     .offset = offsetof(args, keep),
     .dflt = "4",
     .min = 1,
     .max = 4096,
     .arg = "N",
     .help = "right answers that are kept of a prompt at most",
     .group = "Choice"},
    {.name = "pick",
     .type = MK_OPT_STR,
     .offset = offsetof(args, pick),
     .dflt = "first",
     .choices = "first|shortest|random",
     .arg = "WHICH",
     .help = "which of more right answers"},
    CMD_OPT_DATA(args, data),
};

const mk_opt_spec cmd_train_distill_spec = {
    .program = "minke train distill",
    .usage = "-m TEACHER -o FILE [--reward KIND...] DATA...",
    .about = "Lets a model answer the prompts of reinforcement data, and writes the right answers "
             "as conversations that `minke train sft` teaches to another model (rejection "
             "sampling). Equal answers to a prompt are kept once, unfinished ones never.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = -1,
};

// --- counts --------------------------------------------------------------------------------------

// name in FILE.progress and --json
#define COUNTS(X)                                                                                  \
    X(prompts)                                                                                     \
    X(completions)                                                                                 \
    X(finished)                                                                                    \
    X(right)                                                                                       \
    X(prompts_right)                                                                               \
    X(equal)                                                                                       \
    X(kept)                                                                                        \
    X(kept_tokens)

typedef struct {
#define X(name) int64_t name;
    COUNTS(X)
#undef X
} counts;

static void add_counts(json_t *o, const counts *c) {
#define X(name) json_object_set_new(o, #name, json_integer(c->name));
    COUNTS(X)
#undef X
}

static mk_status read_counts(const json_t *o, counts *c, mk_err *err) {
#define X(name) MK_TRY(mk_json_get_i64(o, #name, 0, INT64_MAX, &c->name, err));
    COUNTS(X)
#undef X
    return MK_OK;
}

// --- the files -----------------------------------------------------------------------------------

typedef struct {
    const args *a;
    mk_llm *llm;
    mk_rewards *rewards;
    mk_data *data;
    mk_samples *samples;
    int64_t n_prompt;  // of the run
    counts c;
    json_t *recipe;
    char *part, *progress;
    FILE *f;  // the part
    int64_t n_byte;
} run;

static char *with_suffix(const char *path, const char *suffix) {
    size_t n = strlen(path) + strlen(suffix) + 1;
    char *s = mk_alloc(n);
    (void)snprintf(s, n, "%s%s", path, suffix);
    return s;
}

static mk_status disk_failed(const run *r, mk_err *err) {
    return MK_FAIL(err, MK_EIO, "%s cannot be written (disk full?); the same command goes on",
                   r->part);
}

static json_t *make_recipe(const run *r, const char *model) {
    const args *a = r->a;
    char hash[24];
    (void)snprintf(hash, sizeof hash, "%016llx", (unsigned long long)mk_data_hash(r->data));
    json_t *list = json_array();
    for (size_t i = 0; i < a->reward.n; i++) {
        json_array_append_new(list, json_string(a->reward.items[i]));
    }
    return json_pack("{s:s, s:s, s:s, s:o, s:f, s:I, s:f, s:I, s:I, s:I, s:s}", "model", model,
                     "kv_type", a->model.kv_type ? a->model.kv_type : "auto", "data", hash,
                     "reward", list, "threshold", a->threshold, "group", (json_int_t)a->group,
                     "temperature", a->temperature, "max_tokens", (json_int_t)a->max_tok, "seed",
                     (json_int_t)a->seed, "keep", (json_int_t)a->keep, "pick", a->pick);
}

static mk_status check_recipe(const run *r, const json_t *was, mk_err *err) {
    const char *key;
    const json_t *value;
    json_object_foreach(r->recipe, key, value) {
        if (!json_equal(value, json_object_get(was, key))) {
            mk_buf now, then;
            mk_buf_init(&now, 256);
            mk_buf_init(&then, 256);
            mk_json_add(&now, value);
            mk_json_add(&then, json_object_get(was, key));
            mk_status st = MK_FAIL(err, MK_EUSAGE,
                                   "%s was begun with %s = %s, now it is %s; give the same options "
                                   "to go on, or another file to begin anew",
                                   r->a->out, key, then.data ? then.data : "nothing",
                                   now.data ? now.data : "?");
            mk_buf_free(&now);
            mk_buf_free(&then);
            return st;
        }
    }
    return MK_OK;
}

static mk_status save_progress(const run *r, mk_err *err) {
    mk_buf b;
    mk_writer *w = NULL;
    json_t *o = json_object();
    json_object_set(o, "recipe", r->recipe);
    json_object_set_new(o, "bytes", json_integer(r->n_byte));
    add_counts(o, &r->c);
    mk_buf_init(&b, 1 << 20);
    mk_json_add(&b, o);
    mk_buf_putc(&b, '\n');
    json_decref(o);
    mk_status st = b.failed ? MK_FAIL(err, MK_ELIMIT, "%s: too large", r->progress)
                            : mk_writer_open(r->progress, &w, err);
    st = st == MK_OK ? mk_writer_write(w, b.data, b.len, err) : st;
    if (st == MK_OK) {
        st = mk_writer_commit(w, err);
    } else {
        mk_writer_abort(w);
    }
    mk_buf_free(&b);
    return st;
}

// The part, with the bytes that FILE.progress speaks of and no more.
static mk_status cut_part(run *r, mk_err *err) {
    const char *from = mk_path_is_file(r->part) ? r->part : r->a->out;
    struct stat s;
    if (stat(from, &s) != 0 || s.st_size < r->n_byte) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s should have %lld bytes, and has fewer or is not there; delete %s to "
                       "begin anew",
                       from, (long long)r->n_byte, r->progress);
    }
    if (from == r->a->out && r->c.prompts >= r->n_prompt) {
        return MK_OK;  // finished
    }
    if ((from != r->part && rename(from, r->part) != 0) ||
        truncate(r->part, (off_t)r->n_byte) != 0) {
        return disk_failed(r, err);
    }
    return MK_OK;
}

static mk_status go_on(run *r, mk_err *err) {
    json_t *o = NULL;
    MK_TRY(mk_json_file(r->progress, 1 << 20, &o, err));
    mk_status st = check_recipe(r, json_object_get(o, "recipe"), err);
    st = st == MK_OK ? read_counts(o, &r->c, err) : st;
    st = st == MK_OK ? mk_json_get_i64(o, "bytes", 0, INT64_MAX, &r->n_byte, err) : st;
    json_decref(o);
    return st == MK_OK ? cut_part(r, err) : st;
}

static mk_status begin(run *r, mk_err *err) {
    if (mk_path_is_file(r->a->out)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "%s is there, and no %s that tells how it was made; expected a new file",
                       r->a->out, r->progress);
    }
    FILE *f = fopen(r->part, "w");  // what an earlier run left before its first prompts were done
    if (!f || fclose(f) != 0) {
        return MK_FAIL(err, MK_EIO, "%s: cannot be opened for writing", r->part);
    }
    return save_progress(r, err);
}

static mk_status open_files(run *r, mk_err *err) {
    MK_TRY(mk_path_is_file(r->progress) ? go_on(r, err) : begin(r, err));
    if (r->c.prompts < r->n_prompt && !(r->f = fopen(r->part, "a"))) {
        return MK_FAIL(err, MK_EIO, "%s: cannot be opened for writing", r->part);
    }
    return MK_OK;
}

// Lines first, then the progress that counts them.
static mk_status append(run *r, const mk_buf *lines, mk_err *err) {
    if (lines->failed) {
        return MK_FAIL(err, MK_ELIMIT, "more than %zu MB of answers at a time; a smaller --keep",
                       lines->len >> 20);
    }
    if ((lines->len > 0 && fwrite(lines->data, 1, lines->len, r->f) != lines->len) ||
        fflush(r->f) != 0 || fsync(fileno(r->f)) != 0) {
        return disk_failed(r, err);
    }
    r->n_byte += (int64_t)lines->len;
    return save_progress(r, err);
}

static mk_status finish(run *r, mk_err *err) {
    bool ok = !r->f || fclose(r->f) == 0;
    r->f = NULL;
    if (!ok || (mk_path_is_file(r->part) && rename(r->part, r->a->out) != 0)) {
        return disk_failed(r, err);
    }
    return MK_OK;
}

// --- choice --------------------------------------------------------------------------------------

static bool is_right(const run *r, int64_t i) {
    const mk_samples *s = r->samples;
    return s->item[i].finished && s->reward[i] >= r->a->threshold;
}

static bool is_equal(const mk_samples *s, int64_t i, int64_t j) {
    return s->n_text[i] == s->n_text[j] && memcmp(s->text[i], s->text[j], s->n_text[i]) == 0;
}

// What is kept first has the smallest key; equal keys in the order of the completions.
static uint64_t key_of(const run *r, int64_t i) {
    if (strcmp(r->a->pick, "shortest") == 0) {
        return (uint64_t)r->samples->item[i].n;
    }
    return strcmp(r->a->pick, "random") == 0 ? mk_rng_u64(r->samples->item[i].seed, 1) : 0;
}

// Right answers of the group [first, first + group) without equal ones, in the order in which they
// are kept.  Returns how many.
static int64_t choose(run *r, int64_t first, int64_t *out) {
    const mk_samples *s = r->samples;
    int64_t n = 0;
    for (int64_t i = first; i < first + r->a->group; i++) {
        r->c.completions++;
        r->c.finished += s->item[i].finished;
        if (!is_right(r, i)) {
            continue;
        }
        r->c.right++;
        bool equal = false;
        for (int64_t j = 0; j < n && !equal; j++) {
            equal = is_equal(s, i, out[j]);
        }
        if (equal) {
            r->c.equal++;
            continue;
        }
        int64_t at = n++;
        for (; at > 0 && key_of(r, out[at - 1]) > key_of(r, i); at--) {
            out[at] = out[at - 1];
        }
        out[at] = i;
    }
    return n;
}

// Where the prompt has opened the reasoning already, the answer gets the tag in front of it: that
// is how a conversation has it, and how the data reader puts it behind the same prompt.
static json_t *completion_text(const mk_samples *s, int64_t i, bool opened) {
    static const char tag[] = "<think>\n";
    mk_buf b;
    mk_buf_init(&b, s->n_text[i] + sizeof tag);
    mk_buf_puts(&b, opened ? tag : "");
    mk_buf_add(&b, s->text[i], s->n_text[i]);
    json_t *v = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);  // NULL: not UTF-8
    mk_buf_free(&b);
    return v;
}

static bool opens_reasoning(const run *r, const mk_data_sample *line, mk_err *err) {
    char *text = NULL;
    size_t n = 0;
    if (mk_tokenizer_decode(mk_llm_tokenizer(r->llm), line->seq[0].ids, line->seq[0].n,
                            (mk_decode_opts){false}, &text, &n, err) != MK_OK) {
        return false;
    }
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ')) {
        n--;
    }
    bool opened = n >= 7 && memcmp(text + n - 7, "<think>", 7) == 0;
    mk_free(text);
    return opened;
}

// Lines of the answers to one prompt.  What is no text (half characters) cannot be written as JSON
// and is not kept.
static void keep_group(run *r, int64_t p, int64_t sample, int64_t *chosen, mk_buf *lines) {
    static const char *const copied[] = {"id", "prompt", "tools"};
    mk_err none = {0};
    int64_t right = r->c.right, n = choose(r, p * r->a->group, chosen), kept = 0;
    mk_data_sample line = mk_data_get(r->data, sample);
    bool opened = opens_reasoning(r, &line, &none);
    json_t *in = json_loadb(line.json, line.n_json, JSON_ALLOW_NUL, NULL);
    for (int64_t k = 0; k < n && kept < r->a->keep; k++) {
        json_t *text = completion_text(r->samples, chosen[k], opened), *out = json_object();
        for (size_t i = 0; text && i < sizeof copied / sizeof copied[0]; i++) {
            json_object_set(out, copied[i], json_object_get(in, copied[i]));
        }
        if (text) {
            json_object_set_new(out, "completion", text);
            mk_json_add(lines, out);
            mk_buf_putc(lines, '\n');
            r->c.kept_tokens += r->samples->item[chosen[k]].n;
            kept++;
        }
        json_decref(out);
    }
    json_decref(in);
    r->c.kept += kept;
    r->c.prompts_right += r->c.right > right;
    r->c.prompts++;
}

// --- the run -------------------------------------------------------------------------------------

#define MAX_PROMPTS 64  // at a time
#define MAX_LINES   ((size_t)1 << 30)

static bool not_interrupted(void *arg, int64_t n_done, int64_t n) {
    (void)arg, (void)n_done, (void)n;
    return !cmd_interrupted();
}

// Enough prompts to keep the sequences busy, and no more: what is not written is lost when killed.
static int64_t prompts_at_once(const args *a) {
    int64_t n = 2 * a->n_seq / a->group;
    return n < 1 ? 1 : n > MAX_PROMPTS ? MAX_PROMPTS : n;
}

static mk_status answer(run *r, int64_t *chosen, mk_err *err) {
    int64_t which[MAX_PROMPTS], at_once = prompts_at_once(r->a);
    mk_buf lines;
    mk_buf_init(&lines, MAX_LINES);
    int64_t at = r->c.prompts, n = r->n_prompt - at < at_once ? r->n_prompt - at : at_once;
    for (int64_t i = 0; i < n; i++) {
        which[i] = at + i;
    }
    mk_status st = mk_samples_draw(r->samples, r->data, which, n, (uint64_t)r->a->seed, err);
    for (int64_t p = 0; st == MK_OK && p < n; p++) {
        keep_group(r, p, which[p], chosen, &lines);
    }
    st = st == MK_OK ? append(r, &lines, err) : st;
    mk_buf_free(&lines);
    return st;
}

static mk_status answer_all(run *r, mk_err *err) {
    mk_progress bar;
    int64_t *chosen = mk_alloc((size_t)r->a->group * sizeof *chosen);
    mk_status st = MK_OK;
    mk_progress_start(&bar, "distill", "prompts", (uint64_t)r->n_prompt);
    while (st == MK_OK && r->c.prompts < r->n_prompt) {
        mk_progress_update(&bar, (uint64_t)r->c.prompts);
        st = answer(r, chosen, err);
    }
    mk_progress_end(&bar, (uint64_t)r->c.prompts);
    mk_free(chosen);
    if (st == MK_EINTR) {
        return MK_FAIL(err, MK_EINTR,
                       "stopped after %lld of %lld prompts; the same command goes on from there",
                       (long long)r->c.prompts, (long long)r->n_prompt);
    }
    return st;
}

static double share(int64_t n, int64_t of) {
    return of > 0 ? (double)n / (double)of : 0;
}

static mk_status print_summary(const run *r, mk_err *err) {
    const counts *c = &r->c;
    if (r->a->json) {
        json_t *o = json_object();
        json_object_set_new(o, "group", json_integer(r->a->group));
        add_counts(o, c);
        json_object_set_new(o, "pass_1", json_real(share(c->right, c->completions)));
        json_object_set_new(o, "pass_k", json_real(share(c->prompts_right, c->prompts)));
        return cmd_print_json(o, false, err);
    }
    printf("prompts    %lld, %lld completions each\n", (long long)c->prompts,
           (long long)r->a->group);
    printf("right      %.2f %% of the completions, for %.2f %% of the prompts at least one\n",
           100 * share(c->right, c->completions), 100 * share(c->prompts_right, c->prompts));
    printf("finished   %.2f %%\n", 100 * share(c->finished, c->completions));
    printf("kept       %lld answers (%.2f %%), %.1f tokens each; %lld equal ones were left out\n",
           (long long)c->kept, 100 * share(c->kept, c->completions), share(c->kept_tokens, c->kept),
           (long long)c->equal);
    return cmd_check_stdout(err);
}

static mk_status open_run(run *r, const mk_opt_result *res, mk_err *err) {
    const args *a = r->a;
    if (!a->out) {
        return MK_FAIL(err, MK_EUSAGE, "expected a file for the answers: -o FILE");
    }
    if (res->n_args == 0) {
        return MK_FAIL(err, MK_EUSAGE, "expected files with prompts");
    }
    r->part = with_suffix(a->out, ".part");
    r->progress = with_suffix(a->out, ".progress");
    MK_TRY(cmd_make_rewards(&a->reward, &r->rewards, err));
    cmd_open_opts how = {.n_seq = a->n_seq + 1, .n_out = a->n_seq};  // one is mk_llm's own
    MK_TRY(cmd_open(&a->model, &how, &r->llm, err));
    MK_TRY(cmd_read_data(&a->data, r->llm, MK_DATA_RL, res->args, res->n_args, &r->data, err));
    r->n_prompt = mk_data_n_sample(r->data);
    r->n_prompt = a->n > 0 && a->n < r->n_prompt ? a->n : r->n_prompt;
    r->recipe = make_recipe(r, a->model.model ? a->model.model : "");
    mk_samples_opts so = {.engine = mk_llm_engine(r->llm),
                          .tokenizer = mk_llm_tokenizer(r->llm),
                          .rewards = r->rewards,
                          .n_seq = a->n_seq,
                          .n_prompt = prompts_at_once(a),
                          .group = a->group,
                          .max_tok = a->max_tok,
                          .temperature = (float)a->temperature,
                          .progress = not_interrupted};
    return mk_samples_create(&so, &r->samples, err);
}

static void close_run(run *r) {
    if (r->f) {
        (void)fclose(r->f);  // what counts was flushed and checked
    }
    mk_samples_destroy(r->samples);
    mk_data_destroy(r->data);
    mk_llm_close(r->llm);
    mk_rewards_destroy(r->rewards);
    json_decref(r->recipe);
    mk_free(r->part);
    mk_free(r->progress);
}

mk_status cmd_train_distill(int argc, char *const *argv, mk_err *err) {
    args a = {0};
    mk_opt_result res = {0};
    mk_status st = cmd_parse(&cmd_train_distill_spec, argc, argv, &a, &res, err);
    if (st == MK_OK && !res.help) {
        run r = {.a = &a};
        cmd_catch_interrupt();
        st = open_run(&r, &res, err);
        st = st == MK_OK ? open_files(&r, err) : st;
        st = st == MK_OK ? answer_all(&r, err) : st;
        st = st == MK_OK ? finish(&r, err) : st;
        st = st == MK_OK ? print_summary(&r, err) : st;
        close_run(&r);
    }
    mk_opt_free(&cmd_train_distill_spec, &a, &res);
    return st;
}
