// What a point costs, counted from the model's own tables, and how near its speed comes to what the
// machine allows.
//
// The yardstick does not know how the engine stores or computes anything: operations are those of
// the linear layers, bytes are the tensors of the *file*.  A packed form larger than the file shows
// as a loss against bandwidth, a smaller one as a gain.  Operations of attention are left out
// (at small depth they are few), so at depth the limit is above what can be reached.
#include <string.h>

#include "bench.h"

const char *bench_arith_name(mk_arith k) {
    static const char *const name[MK_ARITH_N] = {"f32", "bf16", "int8"};
    return name[k];
}

// --- one pass ------------------------------------------------------------------------------------

typedef struct {
    double layers[MK_ARITH_N], output[MK_ARITH_N];  // operations of one token
    double by_dtype[MK_DTYPE_N];                    // those of the layers
    double dense_bytes, expert_bytes;               // tensors: read always; all experts together
} model_cost;

static mk_arith arith_of(const mk_tensor_view *v, mk_tensor_class cls) {
    if (cls == MK_T_LINEAR_F32) {
        return MK_ARITH_F32;
    }
    return mk_dtype_get(v->dtype)->group > 0 ? MK_ARITH_INT8
           : v->dtype == MK_DTYPE_BF16       ? MK_ARITH_BF16
                                             : MK_ARITH_F32;
}

static bool is_linear(mk_tensor_class cls) {
    return cls == MK_T_LINEAR || cls == MK_T_LINEAR_F32 || cls == MK_T_EXPERTS ||
           cls == MK_T_CUSTOM;
}

static void add_row(const mk_model *m, int layer, int i, model_cost *c) {
    const mk_tensor_row *row = &m->arch->tensors[i];
    const mk_binding *b = mk_model_binding(m, layer, i);
    if (b->n_view == 0 || row->cls == MK_T_EMBED) {  // of the token table one row is read
        return;
    }
    bool experts = row->cls == MK_T_EXPERTS;
    double n_op = 2.0 * (double)b->n_view;
    for (int d = 0; d < b->view[0]->n_dim; d++) {
        n_op *= (double)b->view[0]->shape[d];
    }
    n_op *= experts ? (double)m->hp.n_expert_used / (double)m->hp.n_expert : 1;
    if (is_linear(row->cls)) {
        (layer < 0 ? c->output : c->layers)[arith_of(b->view[0], row->cls)] += n_op;
        c->by_dtype[b->view[0]->dtype] += layer < 0 ? 0 : n_op;
    }
    for (int64_t v = 0; v < b->n_view; v++) {
        *(experts ? &c->expert_bytes : &c->dense_bytes) += (double)b->view[v]->n_bytes;
    }
}

static model_cost cost_of(const mk_model *m) {
    model_cost c = {.dense_bytes = 0};
    for (int layer = -1; layer < m->hp.n_layer; layer++) {
        for (int i = 0; i < m->arch->n_tensors; i++) {
            add_row(m, layer, i, &c);
        }
    }
    return c;
}

mk_dtype bench_main_dtype(const mk_model *m) {
    model_cost c = cost_of(m);
    int best = 0;
    for (int i = 1; i < MK_DTYPE_N; i++) {
        best = c.by_dtype[i] > c.by_dtype[best] ? i : best;
    }
    return (mk_dtype)best;
}

const char *bench_main_type(const bench_plan *plan) {
    return mk_dtype_get(bench_main_dtype(mk_llm_model(plan->llm)))->name;
}

// Bytes of weights that a pass of n tokens reads.  If every token chooses its experts at random and
// by itself, a given expert is left out by all of them with probability (1 - used/all)^n.
static double pass_bytes(const mk_model *m, const model_cost *c, int64_t n) {
    double left_out = 1;
    for (int64_t i = 0; m->hp.n_expert > 0 && i < n && left_out > 1e-6; i++) {
        left_out *= 1 - (double)m->hp.n_expert_used / (double)m->hp.n_expert;
    }
    return c->dense_bytes + c->expert_bytes * (1 - left_out);
}

// --- a point -------------------------------------------------------------------------------------

// Passes of one repetition: n_pass of them, each n_tok tokens with n_out rows of logits.
typedef struct {
    int64_t n_pass, n_tok, n_out;
} passes;

static void add_passes(const mk_model *m, const model_cost *c, passes s, bench_work *w) {
    for (int k = 0; k < MK_ARITH_N; k++) {
        w->n_op[k] +=
            (double)s.n_pass * ((double)s.n_tok * c->layers[k] + (double)s.n_out * c->output[k]);
    }
    w->weight_bytes += (double)s.n_pass * pass_bytes(m, c, s.n_tok);
    w->n_tok += (double)(s.n_pass * s.n_tok);
}

// Cached tokens read by all passes together.
static double cached_tokens(const bench_point *p, int64_t n_chunk) {
    double sum = 0, d = (double)p->depth, n = (double)p->n;
    switch (p->kind) {
    case BENCH_PROMPT:
        for (int64_t end = n_chunk; end - n_chunk < p->n; end += n_chunk) {
            sum += d + (double)(end < p->n ? end : p->n);
        }
        return sum;
    case BENCH_GENERATION:
        return n * d + n * (n + 1) / 2;
    case BENCH_DRAFT:
        return BENCH_STEPS * (d + n);
    default:
        return BENCH_STEPS * n * (d + 1);
    }
}

bench_work bench_work_of(const mk_model *m, mk_kv_type kv, const bench_point *p, int64_t n_chunk) {
    model_cost c = cost_of(m);
    bench_work w = {.n_tok = 0};
    switch (p->kind) {
    case BENCH_PROMPT:
        add_passes(m, &c, (passes){p->n / n_chunk, n_chunk, 0}, &w);
        add_passes(m, &c, (passes){p->n % n_chunk > 0, p->n % n_chunk, 0}, &w);
        break;
    case BENCH_GENERATION:
        add_passes(m, &c, (passes){p->n, 1, 1}, &w);
        break;
    case BENCH_DRAFT:
        add_passes(m, &c, (passes){BENCH_STEPS, p->n, 1}, &w);
        break;
    default:
        add_passes(m, &c, (passes){BENCH_STEPS, p->n, p->n}, &w);
    }
    double packed = (double)mk_model_bytes_per_token(m);
    w.packed_bytes = w.weight_bytes * packed / pass_bytes(m, &c, 1);
    w.cache_bytes =
        cached_tokens(p, n_chunk) * (double)mk_model_kv_bytes_per_block(m, kv) / MK_KV_BLOCK;
    return w;
}

double bench_compute_time(const double n_op[MK_ARITH_N], const mk_limits *l) {
    double t = 0;
    for (int k = 0; k < MK_ARITH_N; k++) {
        t += n_op[k] / l->ops_per_second[k];
    }
    return t;
}

// The kind that most of the arithmetic's time goes into.
static const char *main_kind(const double n_op[MK_ARITH_N], const mk_limits *l) {
    int best = 0;
    for (int k = 1; k < MK_ARITH_N; k++) {
        if (n_op[k] / l->ops_per_second[k] > n_op[best] / l->ops_per_second[best]) {
            best = k;
        }
    }
    return bench_arith_name((mk_arith)best);
}

bench_bound bench_bound_of(const bench_point *p) {
    const bench_work *w = &p->work;
    double seconds = w->n_tok / bench_median(&p->speed);
    double compute = bench_compute_time(w->n_op, &p->limits);
    double read = w->weight_bytes / p->limits.model_bytes_per_second;
    double cache = w->cache_bytes / p->limits.model_bytes_per_second;
    bool memory = read + cache > compute;
    mk_limits kernel = p->limits;
    kernel.ops_per_second[kernel.kernel_arith] = kernel.kernel_ops_per_second;
    return (bench_bound){.compute = compute / seconds,
                         .kernel = bench_compute_time(w->n_op, &kernel) / seconds,
                         .read = read / seconds,
                         .read_with_cache = (read + cache) / seconds,
                         .speed = w->n_tok / (memory ? read + cache : compute),
                         .bound = memory ? "bandwidth" : main_kind(w->n_op, &p->limits)};
}
