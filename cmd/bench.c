// minke bench: speed of prompt and generation, and how much of the machine that is.
//
// Model of the limit: producing a token reads the packed weights once and does two operations per
// weight.  A step of n tokens cannot be faster than max(bytes / bandwidth, operations / peak).
// Generation is a step of one token, the prompt steps of a chunk.  Attention and everything small
// is left out, so the limit is a little above what can be reached.  Bandwidth is that of an array
// as large as the weights: a small model lives in the caches.
#include "cmd.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "limits.h"

#define MAX_REPS  101
#define MAX_TIMES 64

typedef struct {
    cmd_model_args model;
    int64_t n_prompt, n_generate, n_rep;
    bool json, profile;
} bench_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(bench_args, model),
    CMD_OPT_RUNTIME(bench_args, model),
    {.name = "prompt",
     .short_name = "p",
     .type = MK_OPT_I64,
     .offset = offsetof(bench_args, n_prompt),
     .dflt = "256",
     .min = 1,
     .max = 1 << 24,
     .arg = "N",
     .help = "tokens of the prompt",
     .group = "Measurement"},
    {.name = "generate",
     .short_name = "n",
     .type = MK_OPT_I64,
     .offset = offsetof(bench_args, n_generate),
     .dflt = "64",
     .min = 1,
     .max = 1 << 24,
     .arg = "N",
     .help = "tokens to generate behind it"},
    {.name = "repeat",
     .short_name = "r",
     .type = MK_OPT_I64,
     .offset = offsetof(bench_args, n_rep),
     .dflt = "3",
     .min = 1,
     .max = MAX_REPS,
     .arg = "N",
     .help = "repetitions; the median counts"},
    {.name = "profile",
     .type = MK_OPT_FLAG,
     .offset = offsetof(bench_args, profile),
     .help = "time per operator, from one more run"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(bench_args, json),
     .help = "one object"},
};

const mk_opt_spec cmd_bench_spec = {
    .program = "minke bench",
    .usage = "[-m MODEL] [-p N] [-n N] [-r N]",
    .about = "Measures tokens per second for a prompt and for generation, and, in the same run, "
             "the memory bandwidth and "
             "the arithmetic peak of this machine: the fraction reached is speed divided by what "
             "these limits allow.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

// --- what a token costs --------------------------------------------------------------------------

// Kinds of arithmetic: what the packed type of a weight is multiplied by.
enum { OPS_F32, OPS_BF16, OPS_INT8, N_OPS };

typedef struct {
    double layers[N_OPS];  // operations per token, without the output matrix
    double output[N_OPS];  // the output matrix: the last token of a prompt, and every generated one
    double bytes;          // packed weights read for one generated token
} cost;

static int kind_of(const mk_tensor_view *v, mk_tensor_class cls) {
    if (cls == MK_T_LINEAR_F32) {
        return OPS_F32;
    }
    return mk_dtype_get(v->dtype)->group > 0 ? OPS_INT8
           : v->dtype == MK_DTYPE_BF16       ? OPS_BF16
                                             : OPS_F32;
}

// Two operations per element of a linear layer; of experts the share that a token uses.
static void add_row(const mk_model *m, int layer, int i, cost *c) {
    const mk_tensor_row *row = &m->arch->tensors[i];
    const mk_binding *b = mk_model_binding(m, layer, i);
    bool linear = row->cls == MK_T_LINEAR || row->cls == MK_T_LINEAR_F32 ||
                  row->cls == MK_T_EXPERTS || row->cls == MK_T_CUSTOM;
    if (b->n_view == 0 || !linear) {
        return;
    }
    double n = 2.0 * (double)b->n_view;
    for (int d = 0; d < b->view[0]->n_dim; d++) {
        n *= (double)b->view[0]->shape[d];
    }
    n *= row->cls == MK_T_EXPERTS ? (double)m->hp.n_expert_used / (double)m->hp.n_expert : 1;
    double *ops = layer < 0 ? c->output : c->layers;
    ops[kind_of(b->view[0], row->cls)] += n;
}

static cost token_cost(const mk_model *m) {
    cost c = {.bytes = (double)mk_model_bytes_per_token(m)};
    for (int layer = -1; layer < m->hp.n_layer; layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            add_row(m, layer, i, &c);
        }
    }
    return c;
}

// Seconds of arithmetic for n tokens, of which n_out need logits.
static double compute_time(const cost *c, const mk_limits *l, double n, double n_out) {
    const double rate[N_OPS] = {l->f32_ops_per_second, l->bf16_ops_per_second,
                                l->int8_ops_per_second};
    double t = 0;
    for (int k = 0; k < N_OPS; k++) {
        t += (n * c->layers[k] + n_out * c->output[k]) / rate[k];
    }
    return t;
}

// Tokens per second that the limits allow.
static double prompt_limit(const cost *c, const mk_limits *l, int64_t n_prompt, int64_t n_chunk) {
    double n = (double)n_prompt, steps = (double)((n_prompt + n_chunk - 1) / n_chunk);
    double compute = compute_time(c, l, n, 1), read = steps * c->bytes / l->model_bytes_per_second;
    return n / (compute > read ? compute : read);
}

static double generation_limit(const cost *c, const mk_limits *l) {
    double compute = compute_time(c, l, 1, 1), read = c->bytes / l->model_bytes_per_second;
    return 1 / (compute > read ? compute : read);
}

// --- measurement ---------------------------------------------------------------------------------

typedef struct {
    double prompt, generation;  // tokens per second, median
    mk_limits limits;
    cost cost;
    double prompt_limit, generation_limit;
    mk_op_time times[MAX_TIMES];
    int n_times;
} result;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int64_t n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Any ids will do: time does not depend on them, but for experts, so they are spread over the
// vocabulary.
static void fill_ids(int32_t *ids, int64_t n, int64_t n_vocab) {
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((i * 7919 + 13) % n_vocab);
    }
}

static mk_status one_run(mk_engine *e, int seq, const int32_t *ids, const bench_args *a,
                         double *prompt, double *gen, mk_err *err) {
    mk_engine_seq_truncate(e, seq, 0);
    uint64_t t0 = mk_now_ns();
    MK_TRY(mk_engine_feed(e, seq, ids, a->n_prompt, MK_LOGITS_LAST, err));
    uint64_t t1 = mk_now_ns();
    for (int64_t i = 0; i < a->n_generate; i++) {
        if (cmd_interrupted()) {
            return MK_EINTR;
        }
        mk_step step = {seq, &ids[a->n_prompt + i], 1, MK_LOGITS_LAST};
        MK_TRY(mk_engine_forward(e, &step, 1, err));
    }
    uint64_t t2 = mk_now_ns();
    *prompt = (double)a->n_prompt / ((double)(t1 - t0) / 1e9);
    *gen = (double)a->n_generate / ((double)(t2 - t1) / 1e9);
    return MK_OK;
}

static mk_status all_runs(mk_engine *e, int seq, const int32_t *ids, const bench_args *a, result *r,
                          mk_err *err) {
    double prompt[MAX_REPS] = {0}, gen[MAX_REPS] = {0}, skip;
    for (int64_t i = 0; i < a->n_rep; i++) {
        MK_TRY(one_run(e, seq, ids, a, &prompt[i], &gen[i], err));
    }
    r->prompt = median(prompt, a->n_rep);
    r->generation = median(gen, a->n_rep);
    if (a->profile) {
        mk_ops_profile(mk_engine_ops(e), true);
        MK_TRY(one_run(e, seq, ids, a, &skip, &skip, err));
        r->n_times = mk_ops_times(mk_engine_ops(e), r->times, MAX_TIMES);
        mk_ops_profile(mk_engine_ops(e), false);
    }
    return MK_OK;
}

static mk_status measure(mk_llm *llm, const bench_args *a, result *r, mk_err *err) {
    mk_engine *e = mk_llm_engine(llm);
    int64_t n = a->n_prompt + a->n_generate;
    int32_t *ids = mk_try_alloc((size_t)n, sizeof *ids);
    int seq = 0;
    if (!ids) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld token ids", (long long)n);
    }
    fill_ids(ids, n, mk_llm_model(llm)->hp.n_vocab);
    mk_status st = mk_engine_seq_open(e, &seq, err);
    if (st == MK_OK) {
        st = all_runs(e, seq, ids, a, r, err);
        mk_engine_seq_close(e, seq);
    }
    mk_free(ids);
    MK_TRY(st);
    const char *isa = mk_kernels_name(mk_llm_kernels(llm));
    size_t n_bytes = mk_model_weight_bytes(mk_llm_model(llm));
    MK_TRY(mk_limits_measure(mk_llm_pool(llm), isa, n_bytes, &r->limits, err));
    r->cost = token_cost(mk_llm_model(llm));
    r->prompt_limit = prompt_limit(&r->cost, &r->limits, a->n_prompt, mk_engine_n_chunk(e));
    r->generation_limit = generation_limit(&r->cost, &r->limits);
    return MK_OK;
}

// --- output --------------------------------------------------------------------------------------

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const mk_op_time *)a)->ns, y = ((const mk_op_time *)b)->ns;
    return (x < y) - (x > y);
}

static json_t *profile_object(const result *r) {
    json_t *list = json_array();
    for (int i = 0; i < r->n_times; i++) {
        json_array_append_new(list, json_pack("{s:s, s:I, s:f}", "operator", r->times[i].name,
                                              "calls", (json_int_t)r->times[i].n_call, "ms",
                                              (double)r->times[i].ns / 1e6));
    }
    return list;
}

static mk_status print_object(const mk_llm *llm, const bench_args *a, const result *r,
                              mk_err *err) {
    json_t *o = json_pack(
        "{s:s, s:s, s:i, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:f}",
        "model", mk_path_base(mk_source_path(mk_llm_model(llm)->src)), "isa",
        mk_kernels_name(mk_llm_kernels(llm)), "threads", mk_llm_n_thread(llm), "prompt_tokens",
        (json_int_t)a->n_prompt, "generated_tokens", (json_int_t)a->n_generate, "repetitions",
        (json_int_t)a->n_rep, "prompt_tokens_per_second", r->prompt, "generation_tokens_per_second",
        r->generation, "prompt_limit_tokens_per_second", r->prompt_limit,
        "generation_limit_tokens_per_second", r->generation_limit, "prompt_fraction_of_limit",
        r->prompt / r->prompt_limit, "generation_fraction_of_limit",
        r->generation / r->generation_limit, "bytes_per_token", r->cost.bytes,
        "read_bytes_per_second", r->limits.read_bytes_per_second, "f32_ops_per_second",
        r->limits.f32_ops_per_second, "int8_ops_per_second", r->limits.int8_ops_per_second,
        "bf16_ops_per_second", r->limits.bf16_ops_per_second, "model_bytes_per_second",
        r->limits.model_bytes_per_second);
    if (a->profile) {
        json_object_set_new(o, "profile", profile_object(r));
    }
    return cmd_print_json(o, false, err);
}

static void print_text(const mk_llm *llm, const bench_args *a, const result *r) {
    char b[32];
    printf("%s, %s, %d threads; median of %lld\n",
           mk_path_base(mk_source_path(mk_llm_model(llm)->src)),
           mk_kernels_name(mk_llm_kernels(llm)), mk_llm_n_thread(llm), (long long)a->n_rep);
    printf("  prompt      %6lld tokens %10.1f tok/s  %5.1f %% of the limit %.0f\n",
           (long long)a->n_prompt, r->prompt, 100 * r->prompt / r->prompt_limit, r->prompt_limit);
    printf("  generation  %6lld tokens %10.1f tok/s  %5.1f %% of the limit %.0f\n",
           (long long)a->n_generate, r->generation, 100 * r->generation / r->generation_limit,
           r->generation_limit);
    printf("  weights read per token     %s\n", cmd_bytes_text(r->cost.bytes, b));
    printf("  memory bandwidth           %s/s\n",
           cmd_bytes_text(r->limits.read_bytes_per_second, b));
    printf("  at the size of the model   %s/s\n",
           cmd_bytes_text(r->limits.model_bytes_per_second, b));
    printf("  float32 peak               %.1f Gop/s\n", r->limits.f32_ops_per_second / 1e9);
    printf("  bf16 peak                  %.1f Gop/s\n", r->limits.bf16_ops_per_second / 1e9);
    printf("  int8 peak                  %.1f Gop/s\n", r->limits.int8_ops_per_second / 1e9);
    for (int i = 0; i < r->n_times; i++) {
        printf("  %-20s %8llu calls %10.2f ms\n", r->times[i].name,
               (unsigned long long)r->times[i].n_call, (double)r->times[i].ns / 1e6);
    }
}

static mk_status run(const bench_args *a, mk_err *err) {
    mk_llm *llm = NULL;
    result r = {0};
    MK_TRY(cmd_open(&a->model, &(cmd_open_opts){.n_seq = 2, .n_ctx = a->n_prompt + a->n_generate},
                    &llm, err));
    cmd_catch_interrupt();
    mk_status st = measure(llm, a, &r, err);
    qsort(r.times, (size_t)r.n_times, sizeof r.times[0], by_time);
    if (st == MK_OK && a->json) {
        st = print_object(llm, a, &r, err);
    } else if (st == MK_OK) {
        print_text(llm, a, &r);
    }
    mk_llm_close(llm);
    return st;
}

mk_status cmd_bench(int argc, char *const *argv, mk_err *err) {
    bench_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_bench_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_bench_spec, &a, &r);
    return st;
}
