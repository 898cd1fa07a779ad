// Recording, and walking back; invariants in tape.h.
//
// Without checkpoints there is one segment: the whole step.  With them a segment ends where the
// model says that a layer is done (mk_op_segment):
//
//   forward    segment 0 | segment 1 | ... | last      at every bar: save [0, keep), release to keep
//   backward   last; then for each one before: restore what its predecessor saved, run its records
//              again, clear the shadow above keep, walk back
#include "ops/tape.h"

#include <string.h>

#include "base/alloc.h"
#include "ops/tape_int.h"

typedef struct {
    const void *values;
    int part;
    float *grad;
} want;

struct mk_tape {
    mk_ops *ops;  // of the step being recorded
    mk_rec *rec;
    size_t n_rec, cap_rec;
    want *want;  // ascending by address, then part
    size_t n_want, cap_want;
    int part;               // of what is being recorded, then of what is walked back over
    bool checkpoint, open;  // open: the shadow is clean and may be written
    size_t extent;          // of the scratch, in this step
    uint8_t *shadow, *saved;
    size_t shadow_cap, saved_cap, saved_used;
    mk_tape_route_fn on_route;
    void *on_route_arg;
};

#define FAKE_SHADOW ((uintptr_t)1 << 41)  // in dry steps, as MK_FAKE_SCRATCH

mk_tape *mk_tape_create(void) {
    return mk_zalloc(sizeof(mk_tape));
}

void mk_tape_destroy(mk_tape *t) {
    if (t != NULL) {
        mk_big_free(t->shadow, t->shadow_cap);
        mk_big_free(t->saved, t->saved_cap);
        mk_free(t->rec);
        mk_free(t->want);
        mk_free(t);
    }
}

void mk_ops_set_tape(mk_ops *ops, mk_tape *t) {
    MK_ASSERT(!ops->in_step);
    ops->tape = t;
}

bool mk_ops_is_recording(const mk_ops *ops) {
    return ops->recording;
}

void mk_tape_checkpoint(mk_tape *t, bool on) {
    t->checkpoint = on;
}

size_t mk_tape_need(const mk_tape *t) {
    return t->extent + t->saved_used;
}

mk_tape *mk_ops_tape(const mk_ops *ops) {
    return ops->tape;
}

// Room for one more in a list of our own making: a few thousand records at most.
static void *grown(void *p, size_t n, size_t *cap, size_t elem) {
    if (n < *cap) {
        return p;
    }
    *cap = *cap > 0 ? 2 * *cap : 64;
    p = mk_try_realloc(p, *cap, elem);
    MK_ASSERT(p != NULL);
    return p;
}

// --- what is wanted ------------------------------------------------------------------------------

static size_t want_place(const mk_tape *t, const void *values, int part) {
    size_t lo = 0, hi = t->n_want;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const want *w = &t->want[mid];
        bool same = w->values == values;
        if (same ? w->part < part : (uintptr_t)w->values < (uintptr_t)values) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static bool is_want(const mk_tape *t, size_t at, const void *values, int part) {
    return at < t->n_want && t->want[at].values == values && t->want[at].part == part;
}

void mk_tape_want_in(mk_tape *t, int part, const void *values, float *grad) {
    size_t at = want_place(t, values, part);
    if (!is_want(t, at, values, part)) {
        t->want = grown(t->want, t->n_want, &t->cap_want, sizeof *t->want);
        memmove(t->want + at + 1, t->want + at, (t->n_want - at) * sizeof *t->want);
        t->n_want++;
    }
    t->want[at] = (want){values, part, grad};
}

void mk_tape_want(mk_tape *t, const void *values, float *grad) {
    mk_tape_want_in(t, 0, values, grad);
}

// In a dry step everything is: plans are made before gradients have their places.
static float *wanted(const mk_tape *t, const void *values) {
    if (t->ops->dry && values != NULL) {
        return (float *)FAKE_SHADOW;
    }
    int part = t->part;
    size_t at = want_place(t, values, part);
    if (!is_want(t, at, values, part)) {
        part = 0;
        at = want_place(t, values, part);
    }
    return values != NULL && is_want(t, at, values, part) ? t->want[at].grad : NULL;
}

// --- recording -----------------------------------------------------------------------------------

void mk_tape_begin(mk_tape *t, mk_ops *ops) {
    t->ops = ops;
    t->n_rec = 0;
    t->part = 0;
    t->saved_used = t->extent = 0;
    t->open = false;
}

void mk_tape_add(mk_ops *ops, const mk_rec *r) {
    mk_tape *t = ops->tape;
    t->rec = grown(t->rec, t->n_rec, &t->cap_rec, sizeof *t->rec);
    t->rec[t->n_rec] = *r;
    t->rec[t->n_rec++].part = t->part;
    t->extent = ops->used > t->extent ? ops->used : t->extent;
}

void mk_tape_part(mk_tape *t, int part) {
    MK_ASSERT(t->ops != NULL && t->ops->in_step);
    t->part = part;
}

void mk_op_segment(mk_ops *ops, size_t mark) {
    mk_tape *t = ops->tape;
    if (!ops->recording) {
        mk_op_release(ops, mark);
        return;
    }
    if (!t->checkpoint) {
        return;
    }
    mk_rec r = {.kind = MK_REC_SEGMENT, .u.segment = {ops->used, mark, t->saved_used}};
    mk_tape_add(ops, &r);
    if (!ops->dry) {
        MK_ASSERT(t->saved_used + mark <= t->saved_cap);
        memcpy(t->saved + t->saved_used, ops->base, mark);
    }
    t->saved_used += mark;
    ops->used = mark;
}

mk_status mk_tape_reserve(mk_tape *t, mk_err *err) {
    MK_ASSERT(t->ops != NULL && !t->ops->in_step);
    if (t->extent > t->shadow_cap) {
        mk_big_free(t->shadow, t->shadow_cap);
        t->shadow = mk_big_alloc(t->extent);
        t->shadow_cap = t->shadow != NULL ? t->extent : 0;
    }
    if (t->saved_used > t->saved_cap) {
        mk_big_free(t->saved, t->saved_cap);
        t->saved = mk_big_alloc(t->saved_used);
        t->saved_cap = t->saved != NULL ? t->saved_used : 0;
    }
    if (t->extent > t->shadow_cap || t->saved_used > t->saved_cap) {
        return MK_FAIL(err, MK_ENOMEM,
                       "no memory for the gradients of %zu bytes of activations; train with fewer "
                       "tokens at once or with checkpoints",
                       t->extent);
    }
    return MK_OK;
}

// --- gradients of activations --------------------------------------------------------------------

typedef struct {
    uint8_t *p;
} clear_work;

#define CLEAR_PIECE ((size_t)1 << 16)

static void run_clear(void *arg, int ith, int64_t lo, int64_t hi) {
    const clear_work *w = arg;
    (void)ith;
    memset(w->p + (size_t)lo * CLEAR_PIECE, 0, (size_t)(hi - lo) * CLEAR_PIECE);
}

static void clear_shadow(mk_tape *t, size_t from, size_t to) {
    if (t->ops->dry || to <= from) {
        return;
    }
    MK_ASSERT(to <= t->shadow_cap);
    size_t pieces = (to - from) / CLEAR_PIECE;
    clear_work w = {t->shadow + from};
    mk_ops_run(t->ops, pieces > 16, (int64_t)pieces, 1, run_clear, &w);
    memset(t->shadow + from + pieces * CLEAR_PIECE, 0, (to - from) % CLEAR_PIECE);
}

static void open_shadow(mk_tape *t) {
    if (!t->open) {
        clear_shadow(t, 0, t->ops->used);
        t->open = true;
    }
}

static mk_mat grad(const mk_tape *t, mk_mat m) {
    if (m.p == NULL) {
        return m;
    }
    uintptr_t base = t->ops->dry ? MK_FAKE_SCRATCH : (uintptr_t)t->ops->base;
    uintptr_t shadow = t->ops->dry ? FAKE_SHADOW : (uintptr_t)t->shadow;
    uintptr_t at = (uintptr_t)m.p - base;
    MK_ASSERT((uintptr_t)m.p >= base && at < t->extent);
    return (mk_mat){(float *)(shadow + at), m.n_row, m.n_col, m.stride};
}

mk_mat mk_tape_grad(mk_tape *t, mk_mat m) {
    MK_ASSERT(t->ops->in_step);
    t->ops->recording = false;
    t->extent = t->ops->used > t->extent ? t->ops->used : t->extent;
    open_shadow(t);
    return grad(t, m);
}

// --- one record forward again, and backward ------------------------------------------------------

static void again_embed(mk_tape *t, const mk_rec *r) {
    mk_op_embed(t->ops, r->u.embed.y, r->u.embed.table, r->u.embed.dtype, r->u.embed.row_bytes,
                r->u.embed.ids);
}

static void back_embed(mk_tape *t, const mk_rec *r) {
    float *g = wanted(t, r->u.embed.table);
    if (g != NULL) {
        mk_back_embed(t->ops, g, grad(t, r->u.embed.y), r->u.embed.ids);
    }
}

static void again_rmsnorm(mk_tape *t, const mk_rec *r) {
    mk_op_copy(t->ops, r->u.rmsnorm.kept, r->u.rmsnorm.x);
    mk_op_rmsnorm(t->ops, r->u.rmsnorm.y, r->u.rmsnorm.x, r->u.rmsnorm.w, r->u.rmsnorm.eps);
}

static void back_rmsnorm(mk_tape *t, const mk_rec *r) {
    mk_ops *ops = t->ops;
    mk_mat dy = grad(t, r->u.rmsnorm.y), dx = grad(t, r->u.rmsnorm.x);
    size_t mark = mk_op_mark(ops);
    if (r->u.rmsnorm.y.p == r->u.rmsnorm.x.p) {  // in place: what follows no longer counts for x
        mk_mat moved = mk_op_new(ops, dy.n_row, dy.n_col);
        mk_op_copy(ops, moved, dy);
        for (int64_t i = 0; !ops->dry && i < dy.n_row; i++) {
            memset(dy.p + i * dy.stride, 0, (size_t)dy.n_col * sizeof *dy.p);
        }
        dy = moved;
    }
    mk_back_rmsnorm(ops, dx, wanted(t, r->u.rmsnorm.w), dy, r->u.rmsnorm.kept, r->u.rmsnorm.w,
                    r->u.rmsnorm.eps);
    mk_ops_drop(ops, mark);
}

static void again_linear(mk_tape *t, const mk_rec *r) {
    mk_ops_linear(t->ops, r->u.linear.y, r->u.linear.x, r->u.linear.w, r->u.linear.bias);
}

static void back_linear(mk_tape *t, const mk_rec *r) {
    mk_mat dy = grad(t, r->u.linear.y);
    float *g = wanted(t, r->u.linear.w->data), *bias = wanted(t, r->u.linear.bias);
    mk_back_linear both = {grad(t, r->u.linear.x), dy, r->u.linear.x, r->u.linear.w, 0, g};
    mk_back_linears(t->ops, &both, 1);
    if (bias != NULL) {
        mk_back_bias(t->ops, bias, dy);
    }
}

static void again_heads(mk_tape *t, const mk_rec *r) {
    mk_heads_run(t->ops, &r->u.heads);
}

static void back_heads(mk_tape *t, const mk_rec *r) {
    const mk_heads *h = &r->u.heads;
    mk_back_heads(t->ops, h, grad(t, h->x), grad(t, h->y), wanted(t, h->w->data));
}

static void again_adapter(mk_tape *t, const mk_rec *r) {
    mk_adapter_run(t->ops, &r->u.adapter);
}

static void back_adapter(mk_tape *t, const mk_rec *r) {
    const mk_adapted *k = &r->u.adapter;
    const mk_adapter *ad = k->h.w->adapter;
    mk_back_adapter(t->ops, k, grad(t, k->h.x), grad(t, k->h.y), wanted(t, ad->a.data),
                    wanted(t, ad->b.data));
}

static void again_magnitude(mk_tape *t, const mk_rec *r) {
    mk_magnitude_run(t->ops, &r->u.magnitude);
}

static void back_magnitude(mk_tape *t, const mk_rec *r) {
    const mk_scaled *s = &r->u.magnitude;
    mk_mat dy = grad(t, s->y);
    float *bias = wanted(t, s->bias);
    if (bias != NULL) {
        mk_back_bias(t->ops, bias, dy);
    }
    mk_back_magnitude(t->ops, s, grad(t, s->x), dy, wanted(t, s->ad->magnitude));
}

static void again_add(mk_tape *t, const mk_rec *r) {
    mk_op_add(t->ops, r->u.add.x, r->u.add.y);
}

static void back_add(mk_tape *t, const mk_rec *r) {
    mk_op_add(t->ops, grad(t, r->u.add.y), grad(t, r->u.add.x));
}

static void again_copy(mk_tape *t, const mk_rec *r) {
    mk_op_copy(t->ops, r->u.copy.y, r->u.copy.x);
}

static void back_copy(mk_tape *t, const mk_rec *r) {
    mk_op_add(t->ops, grad(t, r->u.copy.x), grad(t, r->u.copy.y));
}

static void again_swiglu(mk_tape *t, const mk_rec *r) {
    mk_op_swiglu(t->ops, r->u.swiglu.y, r->u.swiglu.g, r->u.swiglu.u);
}

static void back_swiglu(mk_tape *t, const mk_rec *r) {
    mk_back_swiglu(t->ops, grad(t, r->u.swiglu.g), grad(t, r->u.swiglu.u), grad(t, r->u.swiglu.y),
                   r->u.swiglu.g, r->u.swiglu.u);
}

static void again_angles(mk_tape *t, const mk_rec *r) {
    mk_op_rope_angles(t->ops, r->u.angles.cs, r->u.angles.pos, r->u.angles.inv_freq,
                      r->u.angles.n_pair, r->u.angles.factor);
}

static void back_angles(mk_tape *t, const mk_rec *r) {
    (void)t, (void)r;  // positions have no gradient
}

static void again_rope(mk_tape *t, const mk_rec *r) {
    mk_op_rope(t->ops, r->u.rope.x, &r->u.rope.r, r->u.rope.cs);
}

static void back_rope(mk_tape *t, const mk_rec *r) {
    mk_back_rope(t->ops, grad(t, r->u.rope.x), &r->u.rope.r, r->u.rope.cs);
}

static void again_kv_store(mk_tape *t, const mk_rec *r) {
    mk_op_kv_store(t->ops, &r->u.kv_store.a, r->u.kv_store.kv, &r->u.kv_store.rows, r->u.kv_store.k,
                   r->u.kv_store.v);
}

static void back_kv_store(mk_tape *t, const mk_rec *r) {
    (void)t, (void)r;  // back_attention puts the gradients of keys and values where they came from
}

static void again_attention(mk_tape *t, const mk_rec *r) {
    mk_op_attention(t->ops, r->u.attention.y, r->u.attention.q, &r->u.attention.a,
                    r->u.attention.kv, &r->u.attention.rows);
}

// Rounding of the cache counts as the identity: keys and values are those that were stored.
static void back_attention(mk_tape *t, const mk_rec *r) {
    const mk_rec *s = r;
    while (s->kind != MK_REC_KV_STORE || s->u.kv_store.kv.base != r->u.attention.kv.base) {
        MK_ASSERT(s > t->rec);  // an attention over a cache that this step did not fill
        s--;
    }
    mk_mat k = s->u.kv_store.k, v = s->u.kv_store.v;
    mk_back_attention(t->ops, grad(t, r->u.attention.q), grad(t, k), grad(t, v),
                      grad(t, r->u.attention.y), r->u.attention.q, k, v, &r->u.attention.a,
                      &r->u.attention.rows);
}

static void again_route(mk_tape *t, const mk_rec *r) {
    mk_op_route(t->ops, &r->u.route.r, r->u.route.logits, r->u.route.sel, r->u.route.w);
}

static void back_route(mk_tape *t, const mk_rec *r) {
    mk_back_route(t->ops, grad(t, r->u.route.logits), grad(t, r->u.route.w), &r->u.route.r,
                  r->u.route.logits, r->u.route.sel);
    if (t->on_route != NULL && !t->ops->dry) {
        t->on_route(t->on_route_arg, &r->u.route.r, r->u.route.sel, r->u.route.logits.n_row);
    }
}

static void again_moe(mk_tape *t, const mk_rec *r) {
    mk_moe_run(t->ops, &r->u.moe);
}

static mk_weight_grads grads_of(const mk_tape *t, const mk_weight *w) {
    const mk_adapter *ad = w->adapter;
    mk_weight_grads g = {.w = wanted(t, w->data)};
    if (ad != NULL) {
        g.a = wanted(t, ad->a.data);
        g.b = wanted(t, ad->b.data);
        g.m = wanted(t, ad->magnitude);
    }
    return g;
}

static void back_moe(mk_tape *t, const mk_rec *r) {
    const mk_moe *m = &r->u.moe.m;
    mk_moe_grads g = {grad(t, r->u.moe.x),  grad(t, r->u.moe.y), grad(t, m->w),
                      grads_of(t, m->gate), grads_of(t, m->up),  grads_of(t, m->down)};
    mk_back_moe(t->ops, &r->u.moe, &g);
}

typedef void (*rec_fn)(mk_tape *t, const mk_rec *r);
static const struct {
    rec_fn again, back;
} rec_ops[MK_REC_N] = {
#define X(id, name) [MK_REC_##id] = {again_##name, back_##name},
    MK_REC_MAP(X)
#undef X
};

// --- walking back --------------------------------------------------------------------------------

// Records [first, end) are one segment; `prev` is the record that ended the one before, or NULL.
static void enter_segment(mk_tape *t, size_t first, size_t end, const mk_rec *prev) {
    mk_ops *ops = t->ops;
    const mk_rec *last = &t->rec[end];  // ends this one
    ops->used = last->u.segment.top;
    if (prev != NULL && !ops->dry) {
        memcpy(ops->base, t->saved + prev->u.segment.saved_at, prev->u.segment.keep);
    }
    for (size_t i = first; i < end; i++) {
        rec_ops[t->rec[i].kind].again(t, &t->rec[i]);
    }
    clear_shadow(t, last->u.segment.keep, last->u.segment.top);
}

void mk_tape_backward(mk_tape *t) {
    mk_ops *ops = t->ops;
    MK_ASSERT(ops->in_step && ops->tape == t);
    ops->recording = false;
    t->extent = ops->used > t->extent ? ops->used : t->extent;
    open_shadow(t);
    size_t end = t->n_rec;
    for (;;) {
        size_t first = end;
        while (first > 0 && t->rec[first - 1].kind != MK_REC_SEGMENT) {
            first--;
        }
        if (end < t->n_rec) {
            enter_segment(t, first, end, first > 0 ? &t->rec[first - 1] : NULL);
        }
        for (size_t i = end; i > first; i--) {
            size_t mark = mk_op_mark(ops);
            t->part = t->rec[i - 1].part;
            rec_ops[t->rec[i - 1].kind].back(t, &t->rec[i - 1]);
            mk_ops_drop(ops, mark);
        }
        if (first == 0) {
            return;
        }
        end = first - 1;
    }
}

void mk_tape_on_route(mk_tape *t, mk_tape_route_fn fn, void *arg) {
    t->on_route = fn;
    t->on_route_arg = arg;
}
