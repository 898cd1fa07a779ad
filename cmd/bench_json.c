// One object with everything, for programs: speeds in tokens per second, limits and bytes without
// prefixes, every sample in the order in which it was taken.
#include <string.h>

#include "base/json.h"
#include "base/alloc.h"
#include "bench.h"
#include "cmd.h"

const char *bench_kv_name(const bench_plan *plan) {
    static const char *const name[] = {[MK_KV_F32] = "f32", [MK_KV_F16] = "f16", [MK_KV_Q8] = "q8"};
    return name[mk_llm_engine_opts(plan->llm)->kv_type];
}

static json_t *samples(const bench_samples *s) {
    json_t *list = json_array();
    for (int64_t i = 0; i < s->n; i++) {
        json_array_append_new(list, json_real(s->v[i]));
    }
    return json_pack("{s:f, s:f, s:f, s:o}", "median", bench_median(s), "min", bench_min(s), "max",
                     bench_max(s), "samples", list);
}

static json_t *by_kind(const double v[MK_ARITH_N]) {
    json_t *o = json_object();
    for (int k = 0; k < MK_ARITH_N; k++) {
        json_object_set_new(o, bench_arith_name((mk_arith)k), json_real(v[k]));
    }
    return o;
}

// Only those that measured this point.
static json_t *peers(const bench_plan *plan, const bench_point *p) {
    json_t *list = json_array();
    double ours = bench_median(&p->speed);
    for (int k = 0; k < plan->n_peer; k++) {
        const bench_samples *s = &p->peer[k];
        if (s->n > 0) {
            char name[BENCH_NAME_MAX];
            bench_peer_name(plan->peers[k], k, name);
            json_array_append_new(list, json_pack("{s:s, s:o, s:f, s:f}", "peer", name,
                                                  "tokens_per_second", samples(s), "ratio",
                                                  ours / bench_median(s), "ratio_to_best",
                                                  ours / bench_max(s)));
        }
    }
    return list;
}

// What was counted while it ran, as counts of its own: `operations` of a test are what it needs.
static json_t *profile(const bench_point *p) {
    json_t *list = json_array();
    for (int i = 0; i < p->n_op; i++) {
        const mk_op_time *t = &p->op[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:I, s:o, s:f, s:f}", "operator", t->name, "ms",
                                        (double)t->ns / 1e6, "calls", (json_int_t)t->n_call,
                                        "operations", by_kind(t->n_op), "bytes", t->n_bytes,
                                        "fraction_of_limit", bench_op_fraction(p, t)));
    }
    return json_pack("{s:f, s:f, s:o}", "ms", p->profile_s * 1e3, "rest_ms",
                     bench_rest_seconds(p) * 1e3, "operators", list);
}

static json_t *point(const bench_plan *plan, const bench_point *p) {
    bench_bound b = bench_bound_of(p);
    const bench_point *single = bench_single(plan, p);
    json_t *o = json_pack("{s:s, s:I, s:I, s:i, s:o, s:f, s:s}", "test", bench_kind_name(p->kind),
                          "tokens", (json_int_t)p->n, "depth", (json_int_t)p->depth, "threads",
                          p->n_thread, "tokens_per_second", samples(&p->speed),
                          "limit_tokens_per_second", b.speed, "bound", b.bound);
    json_object_set_new(o, "fraction",
                        json_pack("{s:f, s:f, s:f, s:f}", "compute", b.compute, "kernel", b.kernel,
                                  "read", b.read, "read_with_cache", b.read_with_cache));
    json_object_set_new(o, "operations", by_kind(p->work.n_op));
    json_object_set_new(o, "bytes",
                        json_pack("{s:f, s:f, s:f}", "weights", p->work.weight_bytes, "packed",
                                  p->work.packed_bytes, "cache", p->work.cache_bytes));
    if (single) {
        double ratio = bench_median(&p->speed) / bench_median(&single->speed);
        json_object_set_new(o, "ratio_to_one_token", json_real(ratio));
    }
    json_object_set_new(o, "peers", peers(plan, p));
    if (plan->profile) {
        json_object_set_new(o, "profile", profile(p));
    }
    return o;
}

// One group's bursts: one more than repetitions.
static json_t *limits(const bench_plan *plan, const bench_limits *l) {
    json_t *o = json_pack("{s:i, s:I, s:o, s:o, s:s, s:o, s:o}", "threads", l->n_thread, "depth",
                          (json_int_t)l->depth, "read_bytes_per_second", samples(&l->read),
                          "model_bytes_per_second", samples(&l->model), "kernel_type",
                          bench_main_type(plan), "kernel_ops_per_second", samples(&l->kernel),
                          "handover_seconds", samples(&l->handover));
    for (int k = 0; k < MK_ARITH_N; k++) {
        char key[32];
        snprintf(key, sizeof key, "%s_ops_per_second", bench_arith_name((mk_arith)k));
        json_object_set_new(o, key, samples(&l->ops[k]));
    }
    return o;
}

json_t *bench_object(const bench_plan *plan) {
    json_t *tests = json_array(), *all = json_array(), *cmds = json_array();
    for (int64_t i = 0; i < plan->n_point; i++) {
        json_array_append_new(tests, point(plan, &plan->point[i]));
    }
    for (int64_t i = 0; i < plan->n_group; i++) {
        json_array_append_new(all, limits(plan, &plan->limits[i]));
    }
    for (int k = 0; k < plan->n_peer; k++) {
        char name[BENCH_NAME_MAX];
        bench_peer_name(plan->peers[k], k, name);
        const char *cmd = bench_peer_command(plan->peers[k]);
        json_array_append_new(
            cmds, json_pack("{s:s, s:o}", "peer", name, "command", mk_json_text(cmd, strlen(cmd))));
    }
    const mk_model *m = mk_llm_model(plan->llm);
    const char *name = mk_path_base(plan->model_path);
    return json_pack("{s:o, s:s, s:s, s:I, s:I, s:o, s:o, s:o}", "model",
                     mk_json_text(name, strlen(name)), "isa",
                     mk_kernels_name(mk_llm_kernels(plan->llm)), "cache_type", bench_kv_name(plan),
                     "repetitions", (json_int_t)plan->n_rep, "parameters",
                     (json_int_t)mk_model_n_param(m), "tests", tests, "limits", all, "peers", cmds);
}
