// minke show: what a model is, without loading its weights.
//
// The facts are collected once as JSON; the text form prints from the same object, so that both say
// the same.
#include "cmd.h"

#include <string.h>

#include "base/json.h"
#include "base/alloc.h"
#include "format/packfile.h"

typedef struct {
    cmd_model_args model;
    bool json, tensors;
} show_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(show_args, model),
    {.name = "ctx",
     .type = MK_OPT_I64,
     .offset = offsetof(show_args, model.n_ctx),
     .min = 1,
     .max = 1 << 30,
     .word = "max",
     .word_value = CMD_CTX_MAX,
     .arg = "N",
     .env = "MINKE_CTX",
     .group = "What to show",
     .help = "window to plan memory for; without it the model's window"},
    {.name = "kv-type",
     .type = MK_OPT_STR,
     .offset = offsetof(show_args, model.kv_type),
     .dflt = "auto",
     .choices = "auto|f32|f16|q8",
     .arg = "TYPE",
     .help = "numbers in the cache; q8: int8, half of f16 and the fastest, a little rounded"},
    {.name = "chunk",
     .type = MK_OPT_I64,
     .offset = offsetof(show_args, model.n_chunk),
     .min = 1,
     .max = 65536,
     .arg = "N",
     .help = "tokens of a prompt computed together"},
    CMD_OPT_PACKED(show_args, model),
    CMD_OPT_TEMPLATE(show_args, model),
    {.name = "tensors",
     .type = MK_OPT_FLAG,
     .offset = offsetof(show_args, tensors),
     .help = "list every tensor"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(show_args, json),
     .help = "one object"},
};

const mk_opt_spec cmd_show_spec = {
    .program = "minke show",
    .usage = "[MODEL] [--ctx N]",
    .about = "Shows architecture, parameters, memory, tokenizer, chat template and tensor types of "
             "a model.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = 1,
};

// --- facts ---------------------------------------------------------------------------------------

// The numbers of the architecture that are worth a name; only those that are not zero are shown.
static const struct {
    const char *name;
    size_t field;
} numbers[] = {
#define N(name, field)                                                                             \
    { name, offsetof(mk_hparams, field) }
    N("layers", n_layer),
    N("width", d_model),
    N("heads", n_head),
    N("kv_heads", n_kv_head),
    N("head_width", d_head),
    N("feed_forward", d_ff),
    N("vocabulary", n_vocab),
    N("window", n_ctx_train),
    N("q_latent", q_lora),
    N("kv_latent", kv_lora),
    N("qk_nope_width", d_nope),
    N("rope_width", d_rope),
    N("value_width", d_v),
    N("experts", n_expert),
    N("experts_used", n_expert_used),
    N("experts_shared", n_expert_shared),
    N("expert_groups", n_group),
    N("expert_groups_used", n_group_used),
    N("expert_feed_forward", d_ff_expert),
    N("dense_layers_first", n_dense_lead),
    N("prediction_layers_skipped", n_nextn),
#undef N
};

static json_t *architecture(const mk_model *m) {
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        int64_t v;
        memcpy(&v, (const char *)&m->hp + numbers[i].field, sizeof v);
        if (v > 0) {
            json_object_set_new(o, numbers[i].name, json_integer(v));
        }
    }
    json_object_set_new(o, "rms_epsilon", json_real(m->hp.rms_eps));
    json_object_set_new(o, "rope_theta", json_real(m->hp.rope_theta));
    if (m->hp.rope_scale != MK_ROPE_SCALE_NONE) {
        json_object_set_new(o, "rope_scaling", json_string(m->hp.rope_type));
        json_object_set_new(o, "rope_factor", json_real(m->hp.rope_factor));
    }
    return o;
}

static mk_status memory(const mk_llm *llm, int64_t n_ctx, json_t **out, mk_err *err) {
    mk_memory_plan p;
    const mk_model *m = mk_llm_model(llm);
    n_ctx = n_ctx == CMD_CTX_MAX ? m->hp.n_ctx_train : n_ctx;
    MK_TRY(mk_llm_plan(llm, n_ctx, &p, err));
    int64_t window = n_ctx > 0 ? n_ctx : mk_llm_engine_opts(llm)->n_ctx;
    *out = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "context", (json_int_t)window, "weights",
                     (json_int_t)p.weights, "cache", (json_int_t)p.kv, "scratch",
                     (json_int_t)p.scratch, "total", (json_int_t)p.total, "available",
                     (json_int_t)mk_memory_available());
    return MK_OK;
}

static json_t *special_id(const mk_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *p = id >= 0 ? mk_tokenizer_piece(t, id, &n) : NULL;
    return id < 0 ? json_null()
                  : json_pack("{s:i, s:o}", "id", (int)id, "token",
                              mk_json_text(p ? p : "", p ? n : 0));
}

static json_t *tokenizer(const mk_tokenizer *t) {
    static const char *const kind[] = {"BPE", "SentencePiece BPE", "Unigram", "WordPiece"};
    json_t *ends = json_array();
    for (int32_t id = 0; id < mk_tokenizer_n_vocab(t); id++) {
        if (mk_tokenizer_is_eog(t, id)) {
            json_array_append_new(ends, special_id(t, id));
        }
    }
    return json_pack("{s:s, s:s, s:I, s:o, s:o, s:b, s:o}", "kind", kind[mk_tokenizer_get_kind(t)],
                     "pre_tokenizer", mk_tokenizer_pre_name(t), "tokens",
                     (json_int_t)mk_tokenizer_n_vocab(t), "bos", special_id(t, mk_tokenizer_bos(t)),
                     "eos", special_id(t, mk_tokenizer_eos(t)), "add_bos",
                     (int)mk_tokenizer_add_bos(t), "ends_answer", ends);
}

static json_t *chat_template(const mk_llm *llm) {
    const mk_chat_template *t = mk_llm_template(llm);
    return t ? json_pack("{s:s, s:b, s:b, s:b}", "origin", mk_chat_template_origin(t), "thinks",
                         (int)mk_chat_template_thinks(t), "can_switch_thinking",
                         (int)mk_chat_template_can_switch_thinking(t), "tools",
                         (int)mk_chat_template_has_tools(t))
             : json_null();
}

static json_t *sampling(const mk_llm *llm) {
    mk_sample_params p = mk_llm_sampling(llm);
    return json_pack("{s:f, s:i, s:f, s:f, s:f}", "temperature", (double)p.temperature, "top_k",
                     (int)p.top_k, "top_p", (double)p.top_p, "min_p", (double)p.min_p,
                     "repeat_penalty", (double)p.repetition_penalty);
}

// Tensors and bytes by element type, in the order of the ids.
static json_t *types(const mk_source *src) {
    size_t bytes[MK_DTYPE_N] = {0};
    int64_t count[MK_DTYPE_N] = {0};
    for (int64_t i = 0; i < mk_source_n_tensor(src); i++) {
        const mk_tensor_view *v = mk_source_tensor(src, i);
        bytes[v->dtype] += v->n_bytes;
        count[v->dtype]++;
    }
    json_t *list = json_array();
    for (int t = 0; t < MK_DTYPE_N; t++) {
        if (count[t] > 0) {
            json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "type", mk_dtype_get(t)->name,
                                                  "tensors", (json_int_t)count[t], "bytes",
                                                  (json_int_t)bytes[t]));
        }
    }
    return list;
}

// The packed copy that run and chat would use, or null.
static json_t *packed(const mk_packfile *f) {
    return f ? json_pack("{s:o, s:I}", "path",
                         mk_json_text(mk_packfile_path(f), strlen(mk_packfile_path(f))), "bytes",
                         (json_int_t)mk_packfile_bytes(f))
             : json_null();
}

static json_t *all_tensors(const mk_source *src) {
    json_t *list = json_array();
    for (int64_t i = 0; i < mk_source_n_tensor(src); i++) {
        const mk_tensor_view *v = mk_source_tensor(src, i);
        json_t *shape = json_array();
        for (int d = 0; d < v->n_dim; d++) {
            json_array_append_new(shape, json_integer(v->shape[d]));
        }
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I}", "name",
                                              mk_json_text(v->name, strlen(v->name)), "type",
                                              mk_dtype_get(v->dtype)->name, "shape", shape, "bytes",
                                              (json_int_t)v->n_bytes));
    }
    return list;
}

static mk_status collect(const show_args *a, const mk_llm *llm, json_t **out, mk_err *err) {
    const mk_model *m = mk_llm_model(llm);
    json_t *mem = NULL;
    MK_TRY(memory(llm, a->model.n_ctx, &mem, err));
    const char *path = mk_source_path(m->src);
    json_t *o = json_pack(
        "{s:o, s:s, s:I, s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "path",
        mk_json_text(path, strlen(path)), "format",
        mk_source_is_gguf(m->src) ? "GGUF" : "Hugging Face folder", "file_bytes",
        (json_int_t)mk_model_file_bytes(m), "family", m->arch->name, "class",
        mk_source_arch(m->src), "parameters", (json_int_t)mk_model_n_param(m), "bytes_per_token",
        (json_int_t)mk_model_bytes_per_token(m), "architecture", architecture(m), "memory", mem,
        "tokenizer", tokenizer(mk_llm_tokenizer(llm)), "template", chat_template(llm), "sampling",
        sampling(llm), "types", types(m->src), "packed", packed(m->packed));
    if (a->tensors) {
        json_object_set_new(o, "tensors", all_tensors(m->src));
    }
    *out = o;
    return MK_OK;
}

// --- text ----------------------------------------------------------------------------------------

static int64_t num(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

static const char *str(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_scalars(const json_t *o) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o, key, v) {
        if (json_is_string(v)) {
            printf("  %-26s %s\n", key, json_string_value(v));
        } else if (json_is_integer(v)) {
            printf("  %-26s %lld\n", key, (long long)json_integer_value(v));
        } else if (json_is_real(v)) {
            printf("  %-26s %g\n", key, json_real_value(v));
        }
    }
}

static void print_special(const char *name, const json_t *v) {
    if (json_is_null(v)) {
        printf("  %-26s none\n", name);
    } else {
        const char *token = str(v, "token");
        printf("  %-26s %lld ", name, (long long)num(v, "id"));
        cmd_write_text(stdout, token, strlen(token));
        printf("\n");
    }
}

static void print_memory(const json_t *m) {
    static const char *const part[] = {"weights", "cache", "scratch", "total", "available"};
    char b[32];
    printf("\nmemory for %lld tokens\n", (long long)num(m, "context"));
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        printf("  %-26s %s\n", part[i], cmd_bytes_text((double)num(m, part[i]), b));
    }
}

static void print_tokenizer(const json_t *t) {
    printf("\ntokenizer\n");
    print_scalars(t);
    print_special("bos", json_object_get(t, "bos"));
    print_special("eos", json_object_get(t, "eos"));
    printf("  %-26s %s\n", "begins with bos",
           json_is_true(json_object_get(t, "add_bos")) ? "yes" : "no");
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(t, "ends_answer"), i, v) {
        print_special("ends an answer", v);
    }
}

static const char *yes_no(const json_t *o, const char *key) {
    return json_is_true(json_object_get(o, key)) ? "yes" : "no";
}

static void print_template(const json_t *t) {
    printf("\nchat template\n");
    if (json_is_null(t)) {
        printf("  none: text is continued as it is\n");
        return;
    }
    print_scalars(t);
    printf("  %-26s %s\n", "knows of thinking", yes_no(t, "thinks"));
    printf("  %-26s %s\n", "thinking can be switched", yes_no(t, "can_switch_thinking"));
    printf("  %-26s %s\n", "tools", yes_no(t, "tools"));
}

static void print_types(const json_t *list, int64_t total) {
    size_t i;
    json_t *v;
    char b[32];
    printf("\ntypes\n");
    json_array_foreach((json_t *)list, i, v) {
        printf("  %-10s %6lld tensors %10s %5.1f %%\n", str(v, "type"),
               (long long)num(v, "tensors"), cmd_bytes_text((double)num(v, "bytes"), b),
               total > 0 ? 100.0 * (double)num(v, "bytes") / (double)total : 0);
    }
}

static void print_tensors(const json_t *list) {
    size_t i;
    json_t *v;
    printf("\ntensors\n");
    json_array_foreach((json_t *)list, i, v) {
        char shape[128] = "";
        size_t n = 0, d;
        json_t *dim;
        json_array_foreach(json_object_get(v, "shape"), d, dim) {
            n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", d ? ", " : "",
                                  (long long)json_integer_value(dim));
        }
        printf("  %-8s [%s] ", str(v, "type"), shape);
        cmd_write_text(stdout, str(v, "name"), strlen(str(v, "name")));
        printf("\n");
    }
}

static void print_packed(const json_t *p) {
    char b[32];
    if (json_is_null(p)) {
        printf("  %-26s none (`minke cache add` makes one)\n", "packed copy");
        return;
    }
    printf("  %-26s in use, %s: ", "packed copy", cmd_bytes_text((double)num(p, "bytes"), b));
    cmd_write_text(stdout, str(p, "path"), strlen(str(p, "path")));
    printf("\n");
}

static void print_text(const json_t *o) {
    char b[32], w[32];
    double n = (double)num(o, "parameters");
    printf("model\n");
    printf("  %-26s ", "path");
    cmd_write_text(stdout, str(o, "path"), strlen(str(o, "path")));
    printf("\n  %-26s %s, %s\n", "format", str(o, "format"),
           cmd_bytes_text((double)num(o, "file_bytes"), b));
    printf("  %-26s %s (%s)\n", "architecture", str(o, "family"), str(o, "class"));
    printf("  %-26s %.*f %s\n", "parameters", n >= 1e6 ? 2 : 0,
           n >= 1e9   ? n / 1e9
           : n >= 1e6 ? n / 1e6
                      : n,
           n >= 1e9   ? "billion"
           : n >= 1e6 ? "million"
                      : "");
    printf("  %-26s %s of packed weights\n", "read per token",
           cmd_bytes_text((double)num(o, "bytes_per_token"), w));
    print_packed(json_object_get(o, "packed"));
    printf("\narchitecture\n");
    print_scalars(json_object_get(o, "architecture"));
    print_memory(json_object_get(o, "memory"));
    print_tokenizer(json_object_get(o, "tokenizer"));
    print_template(json_object_get(o, "template"));
    printf("\nsampling recommended\n");
    print_scalars(json_object_get(o, "sampling"));
    int64_t total = 0;
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(o, "types"), i, v) {
        total += num(v, "bytes");
    }
    print_types(json_object_get(o, "types"), total);
    if (json_object_get(o, "tensors")) {
        print_tensors(json_object_get(o, "tensors"));
    }
}

// --- the verb ------------------------------------------------------------------------------------

static mk_status run(const show_args *a, mk_err *err) {
    mk_llm *llm = NULL;
    json_t *facts = NULL;
    mk_status st = cmd_open(&a->model, &(cmd_open_opts){.describe_only = true}, &llm, err);
    if (st == MK_OK) {
        st = collect(a, llm, &facts, err);
    }
    if (st == MK_OK && a->json) {
        st = cmd_print_json(json_incref(facts), true, err);
    } else if (st == MK_OK) {
        print_text(facts);
    }
    json_decref(facts);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_show(int argc, char *const *argv, mk_err *err) {
    show_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_show_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        a.model.model = r.n_args > 0 ? r.args[0] : a.model.model;
        st = run(&a, err);
    }
    mk_opt_free(&cmd_show_spec, &a, &r);
    return st;
}
