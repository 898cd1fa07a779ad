// minke convert: a model folder or GGUF file to one GGUF file, or to a folder.
#include "cmd.h"

#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "model/export.h"
#include "model/folder.h"

typedef struct {
    cmd_model_args model;
    const char *out, *type;
} convert_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(convert_args, model),
    {.name = "out",
     .short_name = "o",
     .type = MK_OPT_STR,
     .offset = offsetof(convert_args, out),
     .arg = "FILE.gguf|FOLDER/",
     .help = "where to write; a folder, if it is one or ends with /"},
    {.name = "type",
     .type = MK_OPT_STR,
     .offset = offsetof(convert_args, type),
     .dflt = "keep",
     .choices = CMD_TYPE_CHOICES,
     .arg = "TYPE",
     .help = "type of the matrices; keep turns FP8 into bf16, and for a folder all but bf16 into "
             "f32. Norms and routers stay f32"},
    CMD_OPT_TEMPLATE(convert_args, model),
    {.name = "adapter",
     .type = MK_OPT_STR,
     .offset = offsetof(convert_args, model.adapter),
     .arg = "PATH",
     .help = "write this LoRA adapter of MODEL instead: to a .gguf file, or to a PEFT folder"},
    {.name = "quiet",
     .short_name = "q",
     .type = MK_OPT_FLAG,
     .offset = offsetof(convert_args, model.quiet),
     .help = "nothing on standard error but errors"},
};

const mk_opt_spec cmd_convert_spec = {
    .program = "minke convert",
    .usage = "MODEL -o FILE.gguf|FOLDER/ [--type TYPE] [--adapter PATH]",
    .about = "Writes a GGUF file from a Hugging Face folder or another GGUF file, with tokenizer, "
             "chat template and sampling defaults; or a Hugging Face folder (from a GGUF file: "
             "with its tokenizer only if that carries a tokenizer.json).",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = 1,
};

typedef struct {
    const mk_llm *llm;
    mk_progress bar;
} state;

// What a folder says in files of its own, as GGUF keys.
static void add_metadata(void *arg, mk_gguf_out *o) {
    const mk_llm *llm = ((state *)arg)->llm;
    mk_sample_params p = mk_llm_sampling(llm);
    mk_tokenizer_to_gguf(mk_llm_tokenizer(llm), mk_llm_model(llm)->hp.n_vocab, o);
    const mk_chat_template *t = mk_llm_template(llm);
    if (t) {
        const char *text = mk_chat_template_text(t);
        mk_gguf_out_str(o, "tokenizer.chat_template", text, strlen(text));
    }
    mk_gguf_out_i64(o, "general.sampling.top_k", MK_GGUF_I32, p.top_k);
    mk_gguf_out_f32(o, "general.sampling.top_p", p.top_p);
    mk_gguf_out_f32(o, "general.sampling.min_p", p.min_p);
    mk_gguf_out_f32(o, "general.sampling.temp", p.temperature);
    mk_gguf_out_f32(o, "general.sampling.penalty_repeat", p.repetition_penalty);
}

static mk_status on_step(void *arg, uint64_t done, uint64_t total) {
    state *s = arg;
    s->bar.total = total;
    mk_progress_update(&s->bar, done);
    return cmd_interrupted() ? MK_EINTR : MK_OK;
}

static mk_dtype parse_type(const char *name) {
    static const struct {
        const char *name;
        mk_dtype type;
    } types[] = {{"f32", MK_DTYPE_F32},
                 {"f16", MK_DTYPE_F16},
                 {"bf16", MK_DTYPE_BF16},
                 {"q8_0", MK_DTYPE_Q8_0}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, name) == 0) {
            return types[i].type;
        }
    }
    return MK_DTYPE_N;
}

static bool is_folder(const char *path) {
    size_t n = strlen(path);
    return (n > 0 && path[n - 1] == '/') || mk_path_is_dir(path);
}

// What config.json and safetensors can say: F32 or BF16.
static mk_status folder_type(const mk_model *m, mk_dtype asked, mk_dtype *out, mk_err *err) {
    bool bf16 = m->globals.embed->dtype == MK_DTYPE_BF16;
    *out = asked != MK_DTYPE_N ? asked : bf16 ? MK_DTYPE_BF16 : MK_DTYPE_F32;
    if (*out != MK_DTYPE_F32 && *out != MK_DTYPE_BF16) {
        return MK_FAIL(err, MK_EUSAGE, "--type: a folder is written as f32 or bf16");
    }
    return MK_OK;
}

static mk_status add_words(void *arg, const char *dir, mk_err *err) {
    return cmd_save_words(((state *)arg)->llm, dir, err);
}

static mk_status write_folder(const mk_model *m, const char *out, const char *type, state *s,
                              mk_err *err) {
    mk_save_opts o = {.files = add_words, .step = on_step, .arg = s};
    MK_TRY(folder_type(m, parse_type(type), &o.type, err));
    return mk_model_save_folder(m, out, &o, err);
}

static mk_status write_gguf(const mk_model *m, const char *out, const char *type, state *s,
                            mk_err *err) {
    mk_export_opts o = {.type = parse_type(type),
                        .name = mk_path_base(mk_source_path(m->src)),
                        .metadata = add_metadata,
                        .step = on_step,
                        .arg = s};
    return mk_export_gguf(m, &o, out, err);
}

mk_status cmd_write_model(mk_llm *llm, const char *out, const char *type, const char *what,
                          mk_err *err) {
    const mk_model *m = mk_llm_model(llm);
    state s = {.llm = llm};
    cmd_catch_interrupt();
    mk_progress_start(&s.bar, what, "B", mk_model_file_bytes(m));
    MK_TRY((is_folder(out) ? write_folder : write_gguf)(m, out, type, &s, err));
    mk_progress_end(&s.bar, s.bar.total);
    return MK_OK;
}

// One adapter in the other's clothes; the base says its names and shapes.
static mk_status write_adapter(mk_llm *llm, const convert_args *a, mk_err *err) {
    mk_pool *pool = mk_pool_create(1);
    mk_adapters *set = NULL;
    size_t n = strlen(a->out);
    bool gguf = n > 5 && strcmp(a->out + n - 5, ".gguf") == 0;
    mk_model *m = (mk_model *)(uintptr_t)mk_llm_model(llm);
    mk_status st = mk_adapters_read(m, a->model.adapter, 1, pool, &set, err);
    if (st == MK_OK) {
        st = (gguf ? mk_adapters_write_gguf : mk_adapters_write_folder)(set, a->out, err);
    }
    mk_adapters_destroy(set);
    mk_pool_destroy(pool);
    return st;
}

static mk_status run(const convert_args *a, mk_err *err) {
    if (!a->out) {
        return MK_FAIL(err, MK_EUSAGE, "expected an output file: -o FILE.gguf or -o FOLDER/");
    }
    mk_llm *llm = NULL;
    MK_TRY(cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &llm, err));
    mk_status st = a->model.adapter ? write_adapter(llm, a, err)
                                    : cmd_write_model(llm, a->out, a->type, "convert", err);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_convert(int argc, char *const *argv, mk_err *err) {
    convert_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_convert_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        a.model.model = r.n_args > 0 ? r.args[0] : a.model.model;
        st = run(&a, err);
    }
    mk_opt_free(&cmd_convert_spec, &a, &r);
    return st;
}
