// See rollout.h.
#include "train/rollout.h"

#include <math.h>

#include "base/alloc.h"
#include "base/mathx.h"

// STRETCH: probabilities that are computed at once.  SERIAL_FLOATS: fewer logits are not worth
// waking a thread.
enum { STRETCH = 512, SERIAL_FLOATS = 4096 };

typedef struct {
    mk_rollout_item *item;  // NULL: free
    int seq;
    bool fresh;  // the prompt has not been read
    int32_t last;
} slot;

typedef struct {
    const mk_rollout_opts *o;
    slot *slot;       // [n_seq]
    mk_step *step;    // [n_seq]
    int64_t *of;      // [n_seq] slot of a step
    int32_t *chosen;  // [n_seq]
    float *lse, *logp;
    int64_t n_step, n_done, n;
    mk_pool *pool;  // while tokens are chosen
    mk_mat logits;
} rollout;

// --- choosing ------------------------------------------------------------------------------------

static int32_t best(const float *z, int64_t n) {
    int64_t at = 0;
    for (int64_t i = 1; i < n; i++) {
        at = z[i] > z[at] ? i : at;
    }
    return (int32_t)at;
}

// The first id whose cumulated probability passes u; ids ascending, sums in double.
static int32_t draw(const float *z, int64_t n, float inverse, float lse, double u) {
    _Alignas(64) float p[STRETCH];
    double sum = 0;
    int32_t last = 0;
    for (int64_t i = 0; i < n; i += STRETCH) {
        int64_t left = n - i < STRETCH ? n - i : STRETCH;
        for (int64_t k = 0; k < left; k++) {
            p[k] = z[i + k] * inverse;
        }
        mk_row_exp(p, p, left, lse, 1);
        for (int64_t k = 0; k < left; k++) {
            if (p[k] > 0) {
                last = (int32_t)(i + k);
                sum += (double)p[k];
                if (sum > u) {
                    return last;
                }
            }
        }
    }
    return last;  // u lies in what rounding took from the sum
}

static void forbid(const mk_rollout_opts *o, mk_mat logits) {
    for (int64_t i = 0; i < logits.n_row; i++) {
        for (int64_t k = 0; k < o->n_forbid; k++) {
            logits.p[i * logits.stride + o->forbid_ids[k]] = -INFINITY;
        }
    }
}

static int32_t choose_one(const rollout *r, int64_t i) {
    const mk_rollout_item *item = r->slot[r->of[i]].item;
    const float *z = r->logits.p + i * r->logits.stride;
    float t = r->o->temperature;
    return t > 0 ? draw(z, r->o->n_token, 1 / t, r->lse[i],
                        mk_rng_unit(item->seed, (uint64_t)item->n))
                 : best(z, r->o->n_token);
}

static void choose_some(void *arg, int ith, int n_thread) {
    rollout *r = arg;
    int64_t lo, hi;
    (void)n_thread;
    while (mk_pool_take(r->pool, ith, &lo, &hi)) {
        for (int64_t i = lo; i < hi; i++) {
            r->chosen[i] = choose_one(r, i);
        }
    }
}

static void choose_all(rollout *r, mk_ops *ops, mk_mat logits) {
    r->pool = mk_ops_pool(ops);
    r->logits = logits;
    if (r->n_step * r->o->n_token < SERIAL_FLOATS) {
        for (int64_t i = 0; i < r->n_step; i++) {
            r->chosen[i] = choose_one(r, i);
        }
        return;
    }
    mk_pool_share(r->pool, r->n_step, 1 + SERIAL_FLOATS / (4 * r->o->n_token));
    mk_pool_run(r->pool, choose_some, r);
}

static mk_status choose(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    rollout *r = arg;
    forbid(r->o, logits);
    float t = r->o->temperature > 0 ? r->o->temperature : 1;
    (void)err;
    for (int64_t i = 0; i < r->n_step; i++) {
        r->chosen[i] = 0;
    }
    mk_op_logprob(ops, r->logp, r->lse, logits, r->chosen, t);
    choose_all(r, ops, logits);
    mk_op_logprob(ops, r->logp, NULL, logits, r->chosen, t);
    return MK_OK;
}

// --- slots ---------------------------------------------------------------------------------------

static bool ends(const mk_rollout_opts *o, int32_t id) {
    for (int64_t i = 0; i < o->n_end; i++) {
        if (o->end_ids[i] == id) {
            return true;
        }
    }
    return false;
}

static void accept(rollout *r, slot *s, int32_t id, float logp) {
    mk_rollout_item *item = s->item;
    s->fresh = false;
    s->last = id;
    item->ids[item->n] = id;
    if (item->logp) {
        item->logp[item->n] = logp;
    }
    item->n++;
    item->finished = ends(r->o, id);
    if (item->finished || item->n >= r->o->max_tok ||
        item->n_prompt + item->n >= mk_engine_n_ctx(r->o->engine)) {
        mk_engine_seq_close(r->o->engine, s->seq);
        s->item = NULL;
        r->n_done++;
    }
}

static mk_status fill(rollout *r, slot *s, mk_rollout_item *item, mk_err *err) {
    if (item->n_prompt < 1 || item->n_prompt >= mk_engine_n_ctx(r->o->engine)) {
        return MK_FAIL(err, MK_ECONTEXT,
                       "a prompt of %lld tokens leaves no room for an answer in a window of %lld",
                       (long long)item->n_prompt, (long long)mk_engine_n_ctx(r->o->engine));
    }
    MK_TRY(mk_engine_seq_open(r->o->engine, &s->seq, err));
    item->n = 0;
    item->finished = false;
    s->item = item;
    s->fresh = true;
    return MK_OK;
}

// Steps of all sequences that fit into one pass: those that run first.
static void make_steps(rollout *r) {
    int64_t rows = mk_engine_n_chunk(r->o->engine);
    r->n_step = 0;
    for (int fresh = 0; fresh < 2; fresh++) {
        for (int64_t i = 0; i < r->o->n_seq; i++) {
            slot *s = &r->slot[i];
            int64_t n = s->item && s->fresh ? s->item->n_prompt : 1;
            if (s->item && s->fresh == (fresh == 1) && n <= rows) {
                const int32_t *ids = s->fresh ? s->item->prompt : &s->last;
                r->of[r->n_step] = i;
                r->step[r->n_step++] = (mk_step){s->seq, ids, n, MK_LOGITS_LAST, NULL};
                rows -= n;
            }
        }
    }
}

static mk_status run(rollout *r, mk_rollout_item *item, mk_err *err) {
    int64_t next = 0;
    while (r->n_done < r->n) {
        for (int64_t i = 0; i < r->o->n_seq && next < r->n; i++) {
            if (!r->slot[i].item) {
                MK_TRY(fill(r, &r->slot[i], &item[next], err));
                next++;
            }
        }
        make_steps(r);
        MK_ASSERT(r->n_step > 0);  // a prompt fits: n_chunk >= n_ctx is the trainer's
        MK_TRY(
            mk_engine_forward_with(r->o->engine, r->step, (int)r->n_step, false, choose, r, err));
        for (int64_t i = 0; i < r->n_step; i++) {
            accept(r, &r->slot[r->of[i]], r->chosen[i], r->logp[i]);
        }
        if (r->o->progress && !r->o->progress(r->o->progress_arg, r->n_done, r->n)) {
            return MK_FAIL(err, MK_EINTR, "stopped after %lld of %lld completions",
                           (long long)r->n_done, (long long)r->n);
        }
    }
    return MK_OK;
}

mk_status mk_rollout(const mk_rollout_opts *o, mk_rollout_item *item, int64_t n, mk_err *err) {
    size_t k = (size_t)o->n_seq;
    rollout r = {.o = o, .n = n};
    r.slot = mk_try_alloc(k, sizeof *r.slot);
    r.step = mk_try_alloc(k, sizeof *r.step);
    r.of = mk_try_alloc(k, sizeof *r.of);
    r.chosen = mk_try_alloc(k, sizeof *r.chosen);
    r.lse = mk_try_alloc(k, sizeof *r.lse);
    r.logp = mk_try_alloc(k, sizeof *r.logp);
    mk_status st = r.slot && r.step && r.of && r.chosen && r.lse && r.logp
                       ? run(&r, item, err)
                       : MK_FAIL(err, MK_ENOMEM, "no memory for %zu sequences", k);
    for (size_t i = 0; r.slot && i < k; i++) {
        if (r.slot[i].item) {
            mk_engine_seq_close(o->engine, r.slot[i].seq);
        }
    }
    mk_free(r.slot);
    mk_free(r.step);
    mk_free(r.of);
    mk_free(r.chosen);
    mk_free(r.lse);
    mk_free(r.logp);
    return st;
}
