// minke merge: a model with an adapter as one model, tensor by tensor: no more than one is in
// memory.
#include "cmd.h"

#include <string.h>

#include "base/alloc.h"
#include "base/log.h"

typedef struct {
    cmd_model_args model;
    const char *out, *type;
} merge_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(merge_args, model),
    CMD_OPT_ADAPTER(merge_args, model),
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(merge_args, out),
     .arg = "FILE.gguf|FOLDER/",
     .help = "where to write; a folder, if it is one or ends with /"},
    {.name = "type",
     .type = MK_OPT_STR,
     .offset = offsetof(merge_args, type),
     .dflt = "keep",
     .choices = CMD_TYPE_CHOICES,
     .arg = "TYPE",
     .help =
         "type of the matrices; keep: the base's, but q8_0 for matrices that the adapter changes "
         "and whose type minke cannot write"},
    CMD_OPT_TEMPLATE(merge_args, model),
    {.name = "quiet",
     .short_name = "q",
     .type = MK_OPT_FLAG,
     .offset = offsetof(merge_args, model.quiet),
     .help = "nothing on standard error but errors"},
};

const mk_opt_spec cmd_merge_spec = {
    .program = "minke merge",
    .usage = "-m BASE --adapter PATH -o FILE.gguf|FOLDER/ [--type TYPE]",
    .about =
        "Writes the model that BASE with a LoRA, rsLoRA or DoRA adapter is, as one model without "
        "an adapter. The base is not changed.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

static mk_status merge(mk_llm *llm, const merge_args *a, mk_err *err) {
    char *path = NULL;
    double scale = 1;
    mk_adapters *set = NULL;
    mk_model *m = (mk_model *)(uintptr_t)mk_llm_model(llm);
    mk_pool *pool = mk_pool_create(mk_cpu_count());
    cmd_split_adapter(a->model.adapter, &path, &scale);
    mk_status st = mk_adapters_read(m, path, scale, pool, &set, err);
    if (st == MK_OK) {
        mk_adapters_merge_into_files(m, set);
        st = cmd_write_model(llm, a->out, a->type, "merge", err);
        mk_adapters_merge_into_files(m, NULL);
    }
    mk_adapters_destroy(set);
    mk_pool_destroy(pool);
    mk_free(path);
    return st;
}

static mk_status run(const merge_args *a, mk_err *err) {
    if (!a->model.adapter || !a->out) {
        return MK_FAIL(err, MK_EUSAGE, "expected %s",
                       a->out ? "an adapter: --adapter PATH"
                              : "an output file: -o FILE.gguf or -o FOLDER/");
    }
    cmd_model_args base = a->model;
    base.adapter = NULL;
    mk_llm *llm = NULL;
    MK_TRY(cmd_open(&base, &(cmd_open_opts){.describe_only = true}, &llm, err));
    mk_status st = merge(llm, a, err);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_merge(int argc, char *const *argv, mk_err *err) {
    merge_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_merge_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_merge_spec, &a, &r);
    return st;
}
