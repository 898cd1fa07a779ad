// From options to a trained model: opening, planning, the loop with its progress, the result.
#include "train_setup.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "model/folder.h"

// --- folders -------------------------------------------------------------------------------------

static mk_status write_file(const char *path, const char *text, size_t n, mk_err *err) {
    mk_writer *w = NULL;
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = mk_writer_write(w, text, n, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

static const char *const word_files[] = {"tokenizer.json", "tokenizer_config.json",
                                         "chat_template.jinja", "generation_config.json"};

static mk_status copy_words(const char *from, const char *to, mk_err *err) {
    mk_status st = MK_OK;
    for (size_t i = 0; i < sizeof word_files / sizeof word_files[0] && st == MK_OK; i++) {
        char *a = mk_path_join(from, word_files[i]), *b = mk_path_join(to, word_files[i]),
             *text = NULL;
        size_t n = 0;
        if (access(a, F_OK) == 0) {
            st = mk_file_read(a, (size_t)256 << 20, &text, &n, err);
            st = st == MK_OK ? write_file(b, text, n, err) : st;
        } else if (i == 0) {
            st = MK_FAIL(err, MK_ENOTFOUND, "%s is not there: --tokenizer wants a folder with one",
                         a);
        }
        mk_free(text);
        mk_free(a);
        mk_free(b);
    }
    return st;
}

// A new model in DIR/start, from a configuration and a tokenizer; one that is there stays.
static mk_status make_start(const cmd_train_args *a, char **dir, mk_err *err) {
    *dir = mk_path_join(a->out, "start");
    char *weights = mk_path_join(*dir, "model.safetensors");
    bool there = access(weights, F_OK) == 0;
    mk_free(weights);
    if (there) {
        return MK_OK;
    }
    if (!a->tokenizer) {
        return MK_FAIL(err, MK_EUSAGE,
                       "--config needs --tokenizer DIR, the words of the new model");
    }
    MK_TRY(mk_folder_make(*dir, err));
    MK_TRY(copy_words(a->tokenizer, *dir, err));
    return mk_model_init_folder(a->config, *dir, (uint64_t)a->seed, err);
}

static mk_status find_start(cmd_training *t, mk_err *err) {
    const cmd_train_args *a = t->a;
    if (a->config && a->model.model) {
        return MK_FAIL(err, MK_EUSAGE,
                       "--config makes a new model and --model goes on from one; "
                       "expected one of them");
    }
    if (!a->out && !(a->dry_run && !a->config)) {
        return MK_FAIL(err, MK_EUSAGE, "expected a folder for the run: -o DIR");
    }
    if (a->out) {
        MK_TRY(mk_folder_make(a->out, err));
    }
    return a->config ? make_start(a, &t->dir, err) : cmd_find_model(a->model.model, &t->dir, err);
}

// --- opening -------------------------------------------------------------------------------------

static mk_status load_trained(cmd_training *t, mk_err *err) {
    bool bf16 = strcmp(t->a->precision, "bf16") == 0;
    size_t need = bf16 ? mk_model_bf16_bytes(t->model) : mk_model_f32_bytes(t->model);
    size_t have = mk_memory_available();
    if (need > have) {
        return MK_FAIL(err, MK_ENOMEM,
                       "the weights alone take %.2f GB as float32%s, %.2f GB are free",
                       (double)need / 1e9, bf16 ? " and bf16" : "", (double)have / 1e9);
    }
    return (bf16 ? mk_model_load_bf16 : mk_model_load_f32)(t->model, t->pool, NULL, NULL, err);
}

// The base of adapters stays in its own type, quantised or not.
static mk_status load_frozen(cmd_training *t, mk_err *err) {
    size_t need = mk_model_weight_bytes(t->model), have = mk_memory_available();
    if (need > have) {
        return MK_FAIL(err, MK_ENOMEM, "the weights take %.2f GB, %.2f GB are free",
                       (double)need / 1e9, (double)have / 1e9);
    }
    MK_TRY(mk_model_load(t->model, t->pool, NULL, NULL, err));
    return cmd_lora_open(&t->a->lora, t->model, t->pool, (uint64_t)t->a->seed, &t->adapters, err);
}

static mk_status open_model(cmd_training *t, mk_err *err) {
    MK_TRY(find_start(t, err));
    cmd_model_args args = t->a->model;
    args.model = t->dir;
    MK_TRY(cmd_open(&args, &(cmd_open_opts){.describe_only = true}, &t->llm, err));
    t->pool = mk_pool_create(mk_llm_n_thread(t->llm));
    MK_TRY(mk_kernels_find(args.isa ? args.isa : "auto", &t->kernels, err));
    MK_TRY(mk_model_open(t->dir, &t->model, err));
    MK_TRY(t->a->mtp > 0 ? mk_model_use_mtp(t->model, err) : MK_OK);
    return cmd_lora_wanted(&t->a->lora) ? load_frozen(t, err) : load_trained(t, err);
}
static mk_status read_data(cmd_training *t, const cmd_training_needs *needs,
                           const char *const *files, int n_file, mk_err *err) {
    if (n_file == 0) {
        return MK_FAIL(err, MK_EUSAGE, "expected files with training data");
    }
    MK_TRY(cmd_read_data(&t->a->data, t->llm, needs->kind, files, n_file, &t->data, err));
    if (t->a->eval.n > 0) {
        MK_TRY(cmd_read_data(&t->a->data, t->llm, needs->eval_kind, t->a->eval.items,
                             (int)t->a->eval.n, &t->eval, err));
    }
    return MK_OK;
}

static mk_status longest_of(const mk_data *d, int64_t *most, mk_err *err) {
    mk_data_stats s;
    if (d) {
        MK_TRY(mk_data_get_stats(d, &s, err));
        *most = s.len_max > *most ? s.len_max : *most;
    }
    return MK_OK;
}

static mk_status choose_sizes(cmd_training *t, const cmd_training_needs *needs, mk_err *err) {
    const cmd_train_args *a = t->a;
    int64_t longest = 0, n_seq = needs->n_seq;
    MK_TRY(longest_of(t->data, &longest, err));
    MK_TRY(longest_of(t->eval, &longest, err));
    longest += needs->more;
    longest = longest > needs->at_least ? longest : needs->at_least;
    longest = longest > 2 ? longest : 2;
    if (n_seq == 0) {
        n_seq = a->batch_tokens / 16;
        n_seq = n_seq < 2 ? 2 : n_seq > 1024 ? 1024 : n_seq;
    }
    if (longest > a->batch_tokens) {
        return MK_FAIL(err, MK_EUSAGE,
                       "the longest sequence may have %lld tokens, a batch %lld; expected "
                       "--batch-tokens %lld or more, or shorter ones",
                       (long long)longest, (long long)a->batch_tokens, (long long)longest);
    }
    t->trainer_opts = (mk_trainer_opts){.model = t->model,
                                        .kernels = t->kernels,
                                        .pool = t->pool,
                                        .kv_type = MK_KV_F32,
                                        .n_ctx = longest,
                                        .n_row = a->batch_tokens,
                                        .n_seq = n_seq,
                                        .checkpoint = a->checkpointing,
                                        .optim = mk_optim_defaults(),
                                        .adapters = t->adapters,
                                        .balance_rate = a->balance,
                                        .mtp_weight = a->mtp};
    mk_optim_opts *o = &t->trainer_opts.optim;
    o->beta1 = a->beta1;
    o->beta2 = a->beta2;
    o->weight_decay = a->weight_decay;
    o->clip = a->clip;
    o->eight_bit = strcmp(a->optimizer, "adamw8") == 0;
    o->muon = strcmp(a->optimizer, "muon") == 0;
    return MK_OK;
}

mk_status cmd_training_open(cmd_training *t, const cmd_train_args *a,
                            const cmd_training_needs *needs, const char *const *files, int n_file,
                            mk_err *err) {
    *t = (cmd_training){.a = a};
    MK_TRY(open_model(t, err));
    MK_TRY(read_data(t, needs, files, n_file, err));
    return choose_sizes(t, needs, err);
}

void cmd_training_close(cmd_training *t) {
    mk_trainer_destroy(t->trainer);
    mk_adapters_destroy(t->adapters);
    mk_data_destroy(t->data);
    mk_data_destroy(t->eval);
    mk_model_close(t->model);
    mk_pool_destroy(t->pool);
    mk_llm_close(t->llm);
    mk_free(t->dir);
}

// --- rewards -------------------------------------------------------------------------------------

mk_status cmd_make_rewards(const mk_opt_list *list, mk_rewards **out, mk_err *err) {
    static const char *const dflt[] = {"checker"};
    mk_rewards_opts o = {0};
    return list->n > 0 ? mk_rewards_create(list->items, list->n, &o, out, err)
                       : mk_rewards_create(dflt, 1, &o, out, err);
}

// --- the plan ------------------------------------------------------------------------------------

static void print_memory(const char *name, size_t bytes) {
    char text[32];
    fprintf(stderr, "  %-12s %s\n", name, cmd_bytes_text((double)bytes, text));
}

static void print_plan(const cmd_training *t, const char *method, const mk_train_memory *m,
                       const mk_data_stats *s) {
    char have[32];
    fprintf(stderr, "%s %s, %.3f million parameters trained\n", method, t->dir,
            (double)m->n_trained / 1e6);
    cmd_print_data_stats(stderr, t->data, s);
    fprintf(stderr, "memory (%s free)\n", cmd_bytes_text((double)mk_memory_available(), have));
    print_memory("weights", m->weights);
    print_memory("gradients", m->gradients);
    print_memory("moments", m->moments);
    print_memory("activations", m->activations);
    print_memory("cache", m->kv);
    print_memory("together", m->total);
}

static mk_status plan_json(const cmd_training *t, const char *method, const mk_train_memory *m,
                           const mk_data_stats *s, mk_err *err) {
    json_t *o = json_pack(
        "{s:s, s:s, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:o}", "method", method, "model",
        t->dir, "trained", (json_int_t)m->n_trained, "memory", "weights", (json_int_t)m->weights,
        "gradients", (json_int_t)m->gradients, "moments", (json_int_t)m->moments, "activations",
        (json_int_t)m->activations, "cache", (json_int_t)m->kv, "together", (json_int_t)m->total,
        "free", (json_int_t)mk_memory_available(), "data", cmd_data_stats_json(t->data, s));
    return cmd_print_json(o, false, err);
}

mk_status cmd_training_plan(cmd_training *t, const char *method, bool *stop, mk_err *err) {
    mk_train_memory m = {0};
    mk_data_stats s;
    *stop = t->a->dry_run;
    MK_TRY(mk_data_get_stats(t->data, &s, err));
    MK_TRY(mk_trainer_plan(&t->trainer_opts, &m, err));
    if (t->a->json) {
        MK_TRY(plan_json(t, method, &m, &s, err));
    } else if (!t->a->model.quiet) {
        print_plan(t, method, &m, &s);
    }
    size_t have = mk_memory_available(), rest = m.total - m.weights;  // these are loaded
    if (rest > have) {
        return MK_FAIL(err, MK_ENOMEM,
                       "training takes %.2f GB more, %.2f GB are free; --checkpointing, a smaller "
                       "--batch-tokens or --optimizer adamw8 take less",
                       (double)rest / 1e9, (double)have / 1e9);
    }
    return mk_trainer_create(&t->trainer_opts, &t->trainer, err);
}

// --- the loop ------------------------------------------------------------------------------------

typedef struct {
    const cmd_training *t;
    const char *const *extra;
    uint64_t start_ns, last_ns;
    int64_t first_step, n_tok;
    bool terminal;
} show;

const char *cmd_time_text(double s, char out[32]) {
    long n = (long)s;
    if (n >= 3600) {
        (void)snprintf(out, 32, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
    } else {
        (void)snprintf(out, 32, "%ld:%02ld", n / 60, n % 60);
    }
    return out;
}

static void print_numbers(const show *s, const mk_run_progress *p) {
    static const char *const always[] = {"loss", "eval_loss", "lr", NULL};
    const char *const *lists[] = {always, s->extra};
    for (int l = 0; l < 2; l++) {
        for (const char *const *name = lists[l]; name && *name; name++) {
            const json_t *v = json_object_get(p->log, *name);
            if (v) {
                fprintf(stderr, "  %s %.4g", *name, json_number_value(v));
            }
        }
    }
}

static void print_step(show *s, const mk_run_progress *p) {
    char left[32];
    uint64_t now = mk_now_ns();
    bool last = p->step == p->n_step;
    if (!last && !p->evaluated && s->last_ns && now - s->last_ns < 200000000) {
        return;
    }
    s->last_ns = now;
    double seconds = (double)(now - s->start_ns) / 1e9;
    double per_step = seconds / (double)(p->step - s->first_step);
    cmd_time_text(per_step * (double)(p->n_step - p->step), left);
    fprintf(stderr, "\r\033[Kstep %lld/%lld", (long long)p->step, (long long)p->n_step);
    print_numbers(s, p);
    fprintf(stderr, "  %.0f tok/s  %s left", (double)s->n_tok / seconds, left);
    if (p->evaluated || last) {
        fprintf(stderr, "\n");
    }
}

static bool on_progress(void *arg, const mk_run_progress *p) {
    show *s = arg;
    s->n_tok += json_integer_value(json_object_get(p->log, "tokens"));
    if (s->t->a->json) {
        mk_buf b;
        mk_buf_init(&b, 1 << 20);
        mk_json_add(&b, p->log);
        printf("%s\n", b.data ? b.data : "{}");
        fflush(stdout);
        mk_buf_free(&b);
    }
    if (s->terminal && !s->t->a->model.quiet) {
        s->first_step = s->first_step < 0 ? p->step - 1 : s->first_step;
        print_step(s, p);
    }
    return !cmd_interrupted();
}

static mk_status add_words(void *arg, const char *dir, mk_err *err) {
    return cmd_save_words(arg, dir, err);
}

// DIR/model, or DIR/adapter in PEFT's layout.
static mk_status save_result(const cmd_training *t, mk_err *err) {
    char *dir = mk_path_join(t->a->out, t->adapters ? "adapter" : "model");
    mk_save_opts o = {.type = strcmp(t->a->type, "bf16") == 0 ? MK_DTYPE_BF16 : MK_DTYPE_F32,
                      .pool = t->pool,
                      .files = add_words,
                      .arg = t->llm};
    mk_status st = t->adapters ? mk_adapters_write_folder(t->adapters, dir, err)
                               : mk_model_save_folder(t->model, dir, &o, err);
    if (st == MK_OK && !t->a->model.quiet) {
        fprintf(stderr, "saved in %s\n", dir);
    }
    mk_free(dir);
    return st;
}

// What a run that goes on must have in common with the one that began.
static void add_common(const cmd_training *t, json_t *recipe) {
    const cmd_train_args *a = t->a;
    char hash[24];
    (void)snprintf(hash, sizeof hash, "%016llx", (unsigned long long)mk_data_hash(t->data));
    json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:I, s:s, s:f, s:f, s:f, s:f, "
                          "s:f, s:b}",
                          "data", hash, "steps", (json_int_t)a->steps, "batch_tokens",
                          (json_int_t)a->batch_tokens, "accum", (json_int_t)a->accum, "schedule",
                          a->schedule, "lr", a->lr, "min_lr", a->min_lr, "decay", a->decay,
                          "warmup", (json_int_t)a->warmup, "optimizer", a->optimizer,
                          "weight_decay", a->weight_decay, "beta1", a->beta1, "beta2", a->beta2,
                          "clip", a->clip, "balance", a->balance, "shuffle", a->shuffle);
    json_object_set_new(o, "seed", json_integer(a->seed));
    if (cmd_lora_wanted(&a->lora)) {
        const cmd_lora_args *l = &a->lora;
        json_object_set_new(o, "lora",
                            json_pack("{s:I, s:f, s:b, s:b, s:s, s:s}", "rank", (json_int_t)l->rank,
                                      "alpha", l->alpha, "rslora", l->rslora, "dora", l->dora,
                                      "targets", l->targets ? l->targets : "", "from",
                                      l->from ? l->from : ""));
    }
    if (a->mtp > 0) {
        json_object_set_new(o, "mtp", json_real(a->mtp));
    }
    if (strcmp(a->precision, "f32") != 0) {  // runs that are older than the choice go on
        json_object_set_new(o, "precision", json_string(a->precision));
    }
    json_object_update_missing(recipe, o);
    json_decref(o);
}

// For minke train export, which has no --template.  Not in the recipe: the data's hash tells
// another template.
static json_t *notes_of(const cmd_training *t) {
    const mk_chat_template *own = mk_llm_template(t->llm);
    if (!own || !mk_chat_template_is_override(own)) {
        return NULL;
    }
    const char *text = mk_chat_template_text(own);
    return json_pack("{s:o}", "template", mk_json_text(text, strlen(text)));
}

mk_status cmd_training_run(cmd_training *t, const mk_method *method, void *method_arg,
                           json_t *recipe, const char *const *extra, mk_err *err) {
    const cmd_train_args *a = t->a;
    show s = {.t = t, .extra = extra, .start_ns = mk_now_ns(), .first_step = -1};
    s.terminal = isatty(fileno(stderr));
    mk_run run = {.dir = a->out,
                  .trainer = t->trainer,
                  .method = method,
                  .method_arg = method_arg,
                  .schedule = {.lr = a->lr,
                               .min_ratio = a->min_lr,
                               .n_step = a->steps,
                               .n_warmup = a->warmup < a->steps ? a->warmup : a->steps,
                               .decay = a->decay},
                  .eval_every = a->eval_every,
                  .save_every = a->save_every,
                  .keep_last = a->keep,
                  .keep_best = 1,
                  .patience = a->patience,
                  .recipe = recipe,
                  .progress = on_progress,
                  .progress_arg = &s};
    add_common(t, recipe);
    cmd_catch_interrupt();
    MK_TRY(mk_schedule_parse(a->schedule, &run.schedule.kind, err));
    json_t *notes = notes_of(t);
    run.notes = notes;
    mk_status st = mk_run_train(&run, err);
    json_decref(notes);
    return st == MK_OK ? save_result(t, err) : st;
}
