// minke train export: the model of a checkpoint as a folder.
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/folder.h"
#include "train_setup.h"

typedef struct {
    cmd_model_args model;
    const char *out, *type;
    int64_t step;
    bool best;
} export_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(export_args, model),
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(export_args, out),
     .arg = "FOLDER",
     .help = "where to write; without it DIR/model"},
    {.name = "step",
     .type = MK_OPT_I64,
     .offset = offsetof(export_args, step),
     .min = 1,
     .max = 1 << 30,
     .arg = "N",
     .help = "the checkpoint of this step; without it the newest"},
    {.name = "best",
     .type = MK_OPT_FLAG,
     .offset = offsetof(export_args, best),
     .help = "the checkpoint with the best evaluation"},
    {.name = "type",
     .type = MK_OPT_STR,
     .offset = offsetof(export_args, type),
     .dflt = "f32",
     .choices = "f32|bf16",
     .arg = "TYPE",
     .help = "of the weights"},
};

const mk_opt_spec cmd_train_export_spec = {
    .program = "minke train export",
    .usage = "DIR [-m MODEL] [--best | --step N] [-o FOLDER]",
    .about =
        "Writes the model of a checkpoint of the run in DIR as a Hugging Face folder. MODEL is "
        "what the run began from; without it DIR/start.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .min_args = 1,
    .max_args = 1,
};

// By number, by score, or the newest that is whole.
static mk_status open_ckpt(const export_args *a, const char *run, mk_ckpt **c, mk_err *err) {
    if (a->step > 0) {
        char *path = mk_ckpt_name(run, a->step);
        mk_status st = mk_ckpt_open(path, c, err);
        mk_free(path);
        return st;
    }
    return a->best ? mk_ckpt_best(run, c, err) : mk_ckpt_latest(run, c, err);
}

// Parameters lie in checkpoints as they lie in memory; moments stay behind.
static mk_status take_params(const mk_params *ps, const mk_ckpt *c, mk_err *err) {
    for (int64_t i = 0; i < ps->n; i++) {
        const mk_param *p = &ps->list[i];
        size_t len = strlen(p->name) + sizeof "param/";
        char *name = mk_alloc(len);
        (void)snprintf(name, len, "param/%s", p->name);
        const mk_ckpt_section *s = mk_ckpt_find(c, name);
        mk_free(name);
        if (!s || s->dtype != MK_DTYPE_F32 || s->n_dim != 1 || s->shape[0] != p->n_float) {
            return MK_FAIL(err, MK_EUSAGE,
                           "%s has no %s of %lld values; expected the model that the run began "
                           "from: -m MODEL",
                           mk_ckpt_path(c), p->name, (long long)p->n_float);
        }
        memcpy(p->p, s->data, (size_t)p->n_float * sizeof *p->p);
    }
    return MK_OK;
}

static mk_status add_gguf_words(const export_args *a, const char *dir, mk_err *err) {
    mk_llm *llm = NULL;
    MK_TRY(cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &llm, err));
    mk_status st = cmd_save_words(llm, dir, err);
    mk_llm_close(llm);
    return st;
}

typedef struct {
    const export_args *a;
    const mk_model *m;
    const mk_ckpt *c;
} word_sources;

// The template is the one that the run was given, if it was.
static mk_status add_words(void *arg, const char *dir, mk_err *err) {
    const word_sources *w = arg;
    const json_t *notes = json_object_get(mk_ckpt_get_head(w->c).run, "notes");
    const char *template = json_string_value(json_object_get(notes, "template"));
    MK_TRY(mk_source_is_gguf(w->m->src) ? add_gguf_words(w->a, dir, err) : MK_OK);
    return template ? cmd_save_template(template, dir, err) : MK_OK;
}

// What the run began from says what else belongs to the model.
static mk_status write_model(const export_args *a, mk_model *m, mk_pool *pool, const mk_ckpt *c,
                             const char *out, mk_err *err) {
    mk_params *ps = NULL;
    const json_t *recipe = json_object_get(mk_ckpt_get_head(c).run, "recipe");
    bool mtp = json_number_value(json_object_get(recipe, "mtp")) > 0;
    MK_TRY(mtp ? mk_model_use_mtp(m, err) : MK_OK);
    MK_TRY(mk_model_load_f32(m, pool, NULL, NULL, err));
    MK_TRY(mk_params_create(m, &ps, err));
    mk_status st = take_params(ps, c, err);
    mk_params_destroy(ps);
    word_sources words = {a, m, c};
    mk_save_opts o = {.type = strcmp(a->type, "bf16") == 0 ? MK_DTYPE_BF16 : MK_DTYPE_F32,
                      .pool = pool,
                      .files = add_words,
                      .arg = &words};
    return st == MK_OK ? mk_model_save_folder(m, out, &o, err) : st;
}

// Everything is opened before anything is written.
static mk_status run(const export_args *a, const char *dir, mk_err *err) {
    char *start = NULL, *out = a->out ? mk_strdup(a->out) : mk_path_join(dir, "model");
    mk_ckpt *c = NULL;
    mk_model *m = NULL;
    mk_pool *pool = mk_pool_create(1);
    mk_status st = MK_OK;
    if (a->model.model) {
        st = cmd_find_model(a->model.model, &start, err);
    } else {
        start = mk_path_join(dir, "start");
    }
    st = st == MK_OK ? open_ckpt(a, dir, &c, err) : st;
    st = st == MK_OK ? mk_model_open(start, &m, err) : st;
    st = st == MK_OK ? write_model(a, m, pool, c, out, err) : st;
    if (st == MK_OK) {
        fprintf(stderr, "step %lld saved in %s\n", (long long)mk_ckpt_get_head(c).step, out);
    }
    mk_model_close(m);
    mk_ckpt_close(c);
    mk_pool_destroy(pool);
    mk_free(start);
    mk_free(out);
    return st;
}

mk_status cmd_train_export(int argc, char *const *argv, mk_err *err) {
    export_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_train_export_spec, argc, argv, &a, &r, err);
    st = st == MK_OK && !r.help ? run(&a, r.args[0], err) : st;
    mk_opt_free(&cmd_train_export_spec, &a, &r);
    return st;
}
