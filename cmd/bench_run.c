// Measuring a plan: groups of points, rounds of limits, ours and theirs.
//
// A group has its own engine over the model that is already loaded.  Its cache is filled to the
// group's depth by really computing that many tokens, once; every repetition starts there and is
// truncated back.
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "bench.h"
#include "cmd.h"

// --- samples -------------------------------------------------------------------------------------

void bench_add(bench_samples *s, double v) {
    if (s->n == s->cap) {
        int64_t cap = s->cap > 0 ? 2 * s->cap : 16;
        double *p = s->n < BENCH_MAX_SAMPLES ? mk_try_realloc(s->v, (size_t)cap, sizeof *p) : NULL;
        if (!p) {
            return;
        }
        s->v = p;
        s->cap = cap;
    }
    s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const bench_samples *s) {
    if (s->n == 0) {
        return 0;
    }
    double *v = mk_alloc((size_t)s->n * sizeof *v);
    memcpy(v, s->v, (size_t)s->n * sizeof *v);
    qsort(v, (size_t)s->n, sizeof *v, by_value);
    double m = s->n % 2 ? v[s->n / 2] : (v[s->n / 2 - 1] + v[s->n / 2]) / 2;
    mk_free(v);
    return m;
}

double bench_min(const bench_samples *s) {
    double m = s->n > 0 ? s->v[0] : 0;
    for (int64_t i = 1; i < s->n; i++) {
        m = s->v[i] < m ? s->v[i] : m;
    }
    return m;
}

double bench_max(const bench_samples *s) {
    double m = s->n > 0 ? s->v[0] : 0;
    for (int64_t i = 1; i < s->n; i++) {
        m = s->v[i] > m ? s->v[i] : m;
    }
    return m;
}

void bench_samples_free(bench_samples *s) {
    mk_free(s->v);
    *s = (bench_samples){.v = NULL};
}

// --- one repetition ------------------------------------------------------------------------------

typedef struct {
    bench_plan *plan;
    bench_point *point;  // of this group
    int64_t n_point;
    bench_limits *limits;
    mk_llm *llm;
    mk_pool *pool;
    mk_engine *engine;
    mk_limits_probe *probe;
    int32_t *ids;
    int64_t n_id;
    int *seq;  // n_seq of them
    int n_seq;
    mk_progress bar;
    uint64_t n_done;
} group;

// The first n_tok tokens behind the depth, in a pass of one or of many sequences.
static mk_status one_pass(group *g, const bench_point *p, mk_err *err) {
    mk_step step[BENCH_MAX_BATCH];
    if (p->kind == BENCH_DRAFT) {
        step[0] = (mk_step){g->seq[0], g->ids + p->depth, p->n, MK_LOGITS_LAST, NULL};
        return mk_engine_forward(g->engine, step, 1, err);
    }
    for (int64_t i = 0; i < p->n; i++) {
        step[i] = (mk_step){g->seq[i], g->ids + p->depth + i, 1, MK_LOGITS_LAST, NULL};
    }
    return mk_engine_forward(g->engine, step, (int)p->n, err);
}

static mk_status batch(group *g, const bench_point *p, mk_err *err) {
    for (int k = 0; k < BENCH_STEPS; k++) {
        if (cmd_interrupted()) {
            return MK_EINTR;
        }
        MK_TRY(one_pass(g, p, err));
        for (int i = 0; i < g->n_seq && i < (p->kind == BENCH_DRAFT ? 1 : p->n); i++) {
            mk_engine_seq_truncate(g->engine, g->seq[i], p->depth);
        }
    }
    return MK_OK;
}

static mk_status generate(group *g, const bench_point *p, mk_err *err) {
    for (int64_t i = 0; i < p->n; i++) {
        if (cmd_interrupted()) {
            return MK_EINTR;
        }
        mk_step step = {g->seq[0], &g->ids[p->depth + i], 1, MK_LOGITS_LAST, NULL};
        MK_TRY(mk_engine_forward(g->engine, &step, 1, err));
    }
    return MK_OK;
}

// Chunk by chunk, as mk_engine_feed does, to hear Ctrl-C in between.
static mk_status feed(group *g, int seq, int64_t from, int64_t n, mk_err *err) {
    int64_t chunk = mk_engine_n_chunk(g->engine);
    for (int64_t i = 0; i < n; i += chunk) {
        if (cmd_interrupted()) {
            return MK_EINTR;
        }
        bool last = n - i <= chunk;
        mk_step step = {seq, g->ids + from + i, last ? n - i : chunk,
                        last ? MK_LOGITS_LAST : MK_LOGITS_NONE, NULL};
        MK_TRY(mk_engine_forward(g->engine, &step, 1, err));
    }
    return MK_OK;
}

// From the group's depth and back to it.  *seconds without the way back, but for batches, where it
// is a pass's own business and takes next to nothing.
static mk_status repeat(group *g, const bench_point *p, double *seconds, mk_err *err) {
    uint64_t t = mk_now_ns();
    mk_status st = p->kind == BENCH_PROMPT       ? feed(g, g->seq[0], p->depth, p->n, err)
                   : p->kind == BENCH_GENERATION ? generate(g, p, err)
                                                 : batch(g, p, err);
    *seconds = (double)(mk_now_ns() - t) / 1e9;
    mk_engine_seq_truncate(g->engine, g->seq[0], p->depth);
    return st;
}

// --- a group -------------------------------------------------------------------------------------

static void burst(group *g) {
    mk_limits l = mk_limits_burst(g->probe);
    bench_add(&g->limits->read, l.read_bytes_per_second);
    bench_add(&g->limits->model, l.model_bytes_per_second);
    for (int k = 0; k < MK_ARITH_N; k++) {
        bench_add(&g->limits->ops[k], l.ops_per_second[k]);
    }
    bench_add(&g->limits->kernel, l.kernel_ops_per_second);
    bench_add(&g->limits->handover, l.handover_seconds);
    g->point->limits.kernel_arith = l.kernel_arith;
}

// Everything is touched once that will be measured: pages of the scratch, sleeping threads.
static mk_status warm_up(group *g, mk_err *err) {
    for (int64_t i = 0; i < g->n_point; i++) {
        double skip;
        bench_point p = g->point[i];
        int64_t most = p.kind == BENCH_PROMPT ? mk_engine_n_chunk(g->engine) : 2;
        p.n = p.kind <= BENCH_GENERATION && p.n > most ? most : p.n;
        MK_TRY(repeat(g, &p, &skip, err));
    }
    return MK_OK;
}

static mk_status one_round(group *g, mk_err *err) {
    burst(g);
    for (int64_t i = 0; i < g->n_point; i++) {
        bench_point *p = &g->point[i];
        double seconds;
        MK_TRY(repeat(g, p, &seconds, err));
        bench_add(&p->speed, p->work.n_tok / seconds);
        for (int k = 0; k < g->plan->n_peer; k++) {
            if (bench_peer_applies(g->plan->peers[k], p)) {
                MK_TRY(bench_peer_run(g->plan, k, p, &p->peer[k], err));
            }
        }
        mk_progress_update(&g->bar, ++g->n_done);
    }
    return MK_OK;
}

static mk_status profile(group *g, mk_err *err) {
    mk_ops *ops = mk_engine_ops(g->engine);
    for (int64_t i = 0; g->plan->profile && i < g->n_point; i++) {
        bench_point *p = &g->point[i];
        mk_ops_profile(ops, true);
        mk_status st = repeat(g, p, &p->profile_s, err);
        p->n_op = mk_ops_times(ops, p->op, BENCH_MAX_OPS);
        mk_ops_profile(ops, false);
        MK_TRY(st);
    }
    return MK_OK;
}

static void take_limits(group *g) {
    mk_limits l = {.read_bytes_per_second = bench_median(&g->limits->read),
                   .model_bytes_per_second = bench_median(&g->limits->model),
                   .kernel_ops_per_second = bench_median(&g->limits->kernel),
                   .kernel_arith = g->point->limits.kernel_arith};
    for (int k = 0; k < MK_ARITH_N; k++) {
        l.ops_per_second[k] = bench_median(&g->limits->ops[k]);
    }
    for (int64_t i = 0; i < g->n_point; i++) {
        g->point[i].limits = l;
    }
}

static mk_status rounds(group *g, mk_err *err) {
    for (int i = 0; i < g->n_seq; i++) {
        MK_TRY(mk_engine_seq_open(g->engine, &g->seq[i], err));
        MK_TRY(feed(g, g->seq[i], 0, g->point->depth, err));
    }
    MK_TRY(warm_up(g, err));
    mk_progress_start(&g->bar, "bench", "runs", (uint64_t)(g->plan->n_rep * g->n_point));
    for (int64_t r = 0; r < g->plan->n_rep; r++) {
        MK_TRY(one_round(g, err));
    }
    burst(g);
    mk_progress_end(&g->bar, g->n_done);
    take_limits(g);
    return profile(g, err);
}

// --- setting up ----------------------------------------------------------------------------------

// Any ids will do: time does not depend on them, but for experts, so they are spread over the
// vocabulary.
static mk_status fill_ids(group *g, int64_t n, mk_err *err) {
    g->n_id = n;
    g->ids = mk_try_alloc((size_t)n, sizeof *g->ids);
    if (!g->ids) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld token ids", (long long)n);
    }
    int64_t n_vocab = mk_llm_model(g->llm)->hp.n_vocab;
    for (int64_t i = 0; i < n; i++) {
        g->ids[i] = (int32_t)((i * 7919 + 13) % n_vocab);
    }
    return MK_OK;
}

// Positions that the longest point needs, and sequences that the widest one does.
static void needs(const group *g, int64_t *n_pos, int *n_seq) {
    *n_pos = *n_seq = 1;
    for (int64_t i = 0; i < g->n_point; i++) {
        const bench_point *p = &g->point[i];
        bool wide = p->kind == BENCH_SEQUENCES;
        // the ids of a wide batch come from the same list
        *n_pos = p->depth + p->n > *n_pos ? p->depth + p->n : *n_pos;
        *n_seq = wide && p->n > *n_seq ? (int)p->n : *n_seq;
    }
}

// The cache takes memory as it fills: one sequence to the end, the others to the depth.
static mk_status check_room(const group *g, int64_t n_pos, mk_err *err) {
    int64_t block = (int64_t)mk_model_kv_bytes_per_block(mk_llm_model(g->llm),
                                                         mk_llm_engine_opts(g->llm)->kv_type);
    int64_t blocks = n_pos / MK_KV_BLOCK + 1 + (g->n_seq - 1) * (g->point->depth / MK_KV_BLOCK + 1);
    double need = (double)blocks * (double)block, have = (double)mk_memory_available();
    return need <= have ? MK_OK
                        : MK_FAIL(err, MK_ENOMEM,
                                  "a cache of %.1f GB does not fit into the free %.1f GB; measure "
                                  "at a smaller depth or with fewer sequences",
                                  need / 1e9, have / 1e9);
}

static mk_status open_engine(group *g, mk_err *err) {
    int64_t n_pos;
    needs(g, &n_pos, &g->n_seq);
    MK_TRY(fill_ids(g, n_pos, err));
    MK_TRY(check_room(g, n_pos, err));
    mk_engine_opts o = *mk_llm_engine_opts(g->llm);
    if (g->plan->n_ctx > 0 && g->plan->n_ctx < n_pos) {
        return MK_FAIL(err, MK_ECONTEXT, "this needs a window of %lld tokens, --ctx allows %lld",
                       (long long)n_pos, (long long)g->plan->n_ctx);
    }
    o.n_ctx = g->plan->n_ctx > 0 ? g->plan->n_ctx : n_pos;
    o.n_seq = o.n_out = g->n_seq;
    o.n_chunk = g->plan->n_chunk;
    o.pool = g->pool;
    g->seq = mk_alloc((size_t)g->n_seq * sizeof *g->seq);
    MK_TRY(mk_engine_create(mk_llm_model(g->llm), &o, &g->engine, err));
    const mk_model *m = mk_llm_model(g->llm);
    for (int64_t i = 0; i < g->n_point; i++) {
        g->point[i].work = bench_work_of(m, o.kv_type, &g->point[i], mk_engine_n_chunk(g->engine));
    }
    mk_limits_of what = {mk_llm_kernels(g->llm), bench_main_dtype(m), mk_model_bytes_per_token(m)};
    return mk_limits_open(g->pool, what, &g->probe, err);
}

static mk_status measure_group(group *g, mk_err *err) {
    bool own = g->limits->n_thread != mk_llm_n_thread(g->llm);
    g->pool = own ? mk_pool_create(g->limits->n_thread) : mk_llm_pool(g->llm);
    mk_status st = open_engine(g, err);
    st = st == MK_OK ? rounds(g, err) : st;
    mk_limits_close(g->probe);
    mk_engine_destroy(g->engine);
    if (own) {
        mk_pool_destroy(g->pool);
    }
    mk_free(g->seq);
    mk_free(g->ids);
    return st;
}

mk_status bench_measure(mk_llm *llm, bench_plan *plan, mk_err *err) {
    plan->n_group = 0;
    for (int64_t i = 0, end; i < plan->n_point; i = end) {
        bench_point *p = &plan->point[i];
        for (end = i; end < plan->n_point && plan->point[end].n_thread == p->n_thread &&
                      plan->point[end].depth == p->depth;) {
            end++;
        }
        bench_limits *l = &plan->limits[plan->n_group++];
        *l = (bench_limits){.n_thread = p->n_thread, .depth = p->depth};
        group g = {.plan = plan, .point = p, .n_point = end - i, .limits = l, .llm = llm};
        MK_TRY(measure_group(&g, err));
    }
    return MK_OK;
}
