// Optimisers (optim.h).
//
// Invariants
//  1. All states lie in one region, each at a multiple of 64 bytes, in the order of the parameters;
//     it is zero at first, which is the state before the first step of every kind.
//  2. sections[] describes exactly the states, so a checkpoint of them is complete.
//  3. A step writes nothing before every gradient was found finite.
#include "train/optim.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/optim.h"

typedef enum { KIND_F32, KIND_8BIT, KIND_MUON } state_kind;

// One state: "adam.m:NAME" and so on.
typedef struct {
    const char *prefix;
    mk_dtype dtype;
    bool per_block;  // one float per MK_CODE8_BLOCK parameters
} state_row;

enum { MAX_STATES = 4 };

static const state_row state_rows[][MAX_STATES] = {
    [KIND_F32] = {{"adam.m:", MK_DTYPE_F32, false}, {"adam.v:", MK_DTYPE_F32, false}},
    [KIND_8BIT] = {{"adam.m8:", MK_DTYPE_U8, false},
                   {"adam.v8:", MK_DTYPE_U8, false},
                   {"adam.m_max:", MK_DTYPE_F32, true},
                   {"adam.v_max:", MK_DTYPE_F32, true}},
    [KIND_MUON] = {{"muon.m:", MK_DTYPE_F32, false}},
};

struct mk_optim {
    mk_ops *ops;
    mk_optim_opts opts;
    mk_optim_param *param;
    int64_t n;
    uint8_t *region;
    size_t region_bytes;
    mk_ckpt_section *section;
    int64_t n_section;
    // filled in by every step
    mk_flat *grad;
    double *sum;
    mk_adamw_tensor *adamw;
    mk_muon_tensor *muon;
    int64_t n_adamw, n_muon;
    int64_t *adamw_param, *muon_param;  // whose they are
    mk_code8 m_code, v_code;
    mk_arena *arena;
};

mk_optim_opts mk_optim_defaults(void) {
    return (mk_optim_opts){.beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .clip = 1,
                           .momentum = 0.95,
                           .zero_g = true};
}

static state_kind kind_of(const mk_optim_opts *o, const mk_optim_param *p) {
    if (o->muon && p->n_mat > 0) {
        return KIND_MUON;
    }
    return o->eight_bit && !p->keep_f32 && p->n >= MK_OPTIM_MIN_8BIT ? KIND_8BIT : KIND_F32;
}

static int64_t state_n(const state_row *s, const mk_optim_param *p) {
    return s->per_block ? (p->n + MK_CODE8_BLOCK - 1) / MK_CODE8_BLOCK : p->n;
}

// Bytes, rounded up to 64; false if they do not fit a size.
static bool state_bytes(const state_row *s, const mk_optim_param *p, size_t *out) {
    size_t n = 0;
    bool ok = mk_mul_size((size_t)state_n(s, p), s->dtype == MK_DTYPE_F32 ? 4 : 1, &n) &&
              mk_add_size(n, 63, &n);
    *out = n / 64 * 64;
    return ok;
}

size_t mk_optim_bytes(const mk_optim_opts *opts, const mk_optim_param *params, int64_t n) {
    size_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        const state_row *row = state_rows[kind_of(opts, &params[i])];
        for (int s = 0; s < MAX_STATES && row[s].prefix != NULL; s++) {
            size_t bytes = 0;
            if (!state_bytes(&row[s], &params[i], &bytes) || !mk_add_size(total, bytes, &total)) {
                return SIZE_MAX;
            }
        }
    }
    return total;
}

// --- creation ------------------------------------------------------------------------------------
// min <= x < max; NaN is not.
static mk_status check_range(const char *what, double x, double min, double max, mk_err *err) {
    if (x >= min && x < max) {
        return MK_OK;
    }
    return MK_FAIL(err, MK_EUSAGE, "%s: expected at least %g and less than %g, got %g", what, min,
                   max, x);
}

static mk_status check_opts(const mk_optim_opts *o, mk_err *err) {
    MK_TRY(check_range("beta1", o->beta1, 0, 1, err));
    MK_TRY(check_range("beta2", o->beta2, 0, 1, err));
    MK_TRY(check_range("momentum", o->momentum, 0, 1, err));
    // not 0: where there is no gradient 0 / eps must be 0
    MK_TRY(check_range("eps", o->eps, 1e-30, 1, err));
    MK_TRY(check_range("weight decay", o->weight_decay, 0, 1e6, err));
    return check_range("clip", o->clip, 0, 1e30, err);
}

// Parameters are described by our own code.
static void check_param(const mk_optim_param *p) {
    MK_ASSERT(p->name != NULL && p->p != NULL && p->g != NULL && p->n >= 0 && p->lr_factor > 0);
    MK_ASSERT(p->n_mat == 0 || p->n == p->n_mat * ((p->n_out + 15) / 16 * 16) * p->n_in);
}

// Places the states of a parameter at *at and describes them.
static mk_status add_states(mk_optim *o, const mk_optim_param *p, size_t *at, mk_err *err) {
    const state_row *row = state_rows[kind_of(&o->opts, p)];
    for (int s = 0; s < MAX_STATES && row[s].prefix != NULL; s++) {
        size_t n_name = strlen(row[s].prefix) + strlen(p->name) + 1, bytes = 0;
        char *name = mk_arena_try(o->arena, n_name, 1);
        if (name == NULL || !state_bytes(&row[s], p, &bytes)) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the state of %s", p->name);
        }
        memcpy(name, row[s].prefix, strlen(row[s].prefix));
        memcpy(name + strlen(row[s].prefix), p->name, strlen(p->name) + 1);
        o->section[o->n_section++] = (mk_ckpt_section){.name = name,
                                                       .dtype = row[s].dtype,
                                                       .n_dim = 1,
                                                       .shape = {state_n(&row[s], p)},
                                                       .data = o->region + *at};
        *at += bytes;
    }
    return MK_OK;
}

static void add_work(mk_optim *o, int64_t i, const mk_ckpt_section *s) {
    const mk_optim_param *p = &o->param[i];
    state_kind kind = kind_of(&o->opts, p);
    o->grad[i] = (mk_flat){p->g, p->n};
    if (kind == KIND_MUON) {
        o->muon_param[o->n_muon] = i;
        o->muon[o->n_muon++] = (mk_muon_tensor){.p = p->p,
                                                .g = p->g,
                                                .momentum = s[0].data,
                                                .n_mat = p->n_mat,
                                                .n_out = p->n_out,
                                                .n_in = p->n_in,
                                                .zero_g = o->opts.zero_g};
        return;
    }
    o->adamw_param[o->n_adamw] = i;
    mk_adamw_tensor *t = &o->adamw[o->n_adamw++];
    *t = (mk_adamw_tensor){.p = p->p, .g = p->g, .n = p->n};
    if (kind == KIND_F32) {
        t->m = s[0].data;
        t->v = s[1].data;
    } else {
        t->m8 = s[0].data;
        t->v8 = s[1].data;
        t->m_max = s[2].data;
        t->v_max = s[3].data;
    }
}

static mk_status allocate(mk_optim *o, int64_t n, mk_err *err) {
    o->arena = mk_arena_create((size_t)1 << 16, 0);
    size_t count = n > 0 ? (size_t)n : 1;
    o->param = mk_arena_try(o->arena, count, sizeof *o->param);
    o->section = mk_arena_try(o->arena, count, MAX_STATES * sizeof *o->section);
    o->grad = mk_arena_try(o->arena, count, sizeof *o->grad);
    o->sum = mk_arena_try(o->arena, count, sizeof *o->sum);
    o->adamw = mk_arena_try(o->arena, count, sizeof *o->adamw);
    o->muon = mk_arena_try(o->arena, count, sizeof *o->muon);
    o->adamw_param = mk_arena_try(o->arena, count, sizeof *o->adamw_param);
    o->muon_param = mk_arena_try(o->arena, count, sizeof *o->muon_param);
    o->region = o->region_bytes == SIZE_MAX ? NULL : mk_big_alloc(o->region_bytes + 64);
    if (!o->param || !o->section || !o->grad || !o->sum || !o->adamw || !o->muon ||
        !o->adamw_param || !o->muon_param || !o->region) {
        return MK_FAIL(err, MK_ENOMEM,
                       "no memory for %zu bytes of optimiser states; 8-bit states or fewer trained "
                       "parameters need less",
                       o->region_bytes);
    }
    return MK_OK;
}

static void run_step(mk_optim *o, const mk_adamw *a) {
    mk_op_adamw(o->ops, a, o->adamw, o->n_adamw);
    for (int64_t i = 0; i < o->n_muon; i++) {
        mk_op_muon(o->ops, &o->muon[i]);
    }
}

// Sizes the scratch by a dry step.
static mk_status reserve(mk_optim *o, mk_err *err) {
    mk_ops_begin(o->ops, true);
    mk_op_sum_squares(o->ops, o->sum, o->grad, o->n);
    run_step(o, &(mk_adamw){.m_code = &o->m_code, .v_code = &o->v_code});
    mk_ops_end(o->ops);
    return mk_ops_reserve(o->ops, mk_ops_high_water(o->ops), err);
}

static mk_status fill(mk_optim *o, const mk_optim_param *params, int64_t n, mk_err *err) {
    MK_TRY(allocate(o, n, err));
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        check_param(&params[i]);
        o->param[i] = params[i];
        o->param[i].name = mk_arena_strndup(o->arena, params[i].name, strlen(params[i].name));
        if (o->param[i].name == NULL) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the state of %s", params[i].name);
        }
        int64_t first = o->n_section;
        MK_TRY(add_states(o, &o->param[i], &at, err));
        o->n = i + 1;
        add_work(o, i, &o->section[first]);
    }
    MK_ASSERT(at == o->region_bytes);
    mk_code8_init(&o->m_code, true);
    mk_code8_init(&o->v_code, false);
    return reserve(o, err);
}

mk_status mk_optim_create(mk_ops *ops, const mk_optim_opts *opts, const mk_optim_param *params,
                          int64_t n, mk_optim **out, mk_err *err) {
    *out = NULL;
    MK_TRY(check_opts(opts, err));
    mk_optim *o = mk_zalloc(sizeof *o);
    o->ops = ops;
    o->opts = *opts;
    o->region_bytes = mk_optim_bytes(opts, params, n);
    mk_status st = fill(o, params, n, err);
    if (st != MK_OK) {
        mk_optim_destroy(o);
        return st;
    }
    *out = o;
    return MK_OK;
}

void mk_optim_destroy(mk_optim *o) {
    if (o == NULL) {
        return;
    }
    if (o->region != NULL) {
        mk_big_free(o->region, o->region_bytes + 64);
    }
    mk_arena_destroy(o->arena);
    mk_free(o);
}

const mk_ckpt_section *mk_optim_states(const mk_optim *o, int64_t *n) {
    *n = o->n_section;
    return o->section;
}

// --- a step --------------------------------------------------------------------------------------
// x^n by squaring; exact products only would be more than is needed.
static double power(double x, int64_t n) {
    double y = 1;
    for (; n > 0; n /= 2, x *= x) {
        y *= n % 2 == 1 ? x : 1;
    }
    return y;
}

// Whose squares have no finite sum.
static mk_status fail_gradient(const mk_optim_param *p, int64_t step, mk_err *err) {
    int64_t i = 0;
    while (i < p->n && isfinite(p->g[i])) {
        i++;
    }
    if (i == p->n) {
        return MK_FAIL(err, MK_ELIMIT,
                       "step %lld: the gradient of %s is too large for float32; expected a finite "
                       "sum of squares.  Lower the learning rate or look at the data of this step",
                       (long long)step, p->name);
    }
    return MK_FAIL(err, MK_ELIMIT,
                   "step %lld: the gradient of %s holds %g at element %lld of %lld; expected "
                   "finite numbers.  Lower the learning rate or look at the data of this step",
                   (long long)step, p->name, (double)p->g[i], (long long)i, (long long)p->n);
}

static mk_status measure(mk_optim *o, const mk_optim_at *at, double *norm, mk_err *err) {
    mk_op_sum_squares(o->ops, o->sum, o->grad, o->n);
    double sum = 0;
    for (int64_t i = 0; i < o->n; i++) {
        if (!isfinite(o->sum[i])) {
            return fail_gradient(&o->param[i], at->step, err);
        }
        sum += o->sum[i];
    }
    *norm = sqrt(sum) * at->g_scale;
    return MK_OK;
}

// The constants of a step for every tensor.
static void prepare(mk_optim *o, const mk_optim_at *at, float g_scale) {
    const mk_optim_opts *opts = &o->opts;
    double correction = 1 - power(opts->beta1, at->step);
    for (int64_t i = 0; i < o->n_adamw; i++) {
        const mk_optim_param *p = &o->param[o->adamw_param[i]];
        double lr = at->lr * p->lr_factor;
        o->adamw[i].keep = (float)(1 - lr * (p->decay ? opts->weight_decay : 0));
        o->adamw[i].step = (float)(lr / correction);
    }
    for (int64_t i = 0; i < o->n_muon; i++) {
        const mk_optim_param *p = &o->param[o->muon_param[i]];
        double lr = at->lr * p->lr_factor,
               longer = (double)(p->n_out > p->n_in ? p->n_out : p->n_in);
        mk_muon_tensor *t = &o->muon[i];
        t->g_scale = g_scale;
        t->beta = (float)opts->momentum;
        t->not_beta = (float)(1 - opts->momentum);
        t->keep = (float)(1 - lr * (p->decay ? opts->weight_decay : 0));
        // the RMS of an update is then that of AdamW, so that both share rate and decay (Liu et
        // al. 2025, Moonlight, §2.2)
        t->step = (float)(lr * 0.2 * sqrt(longer));
    }
}

mk_status mk_optim_step(mk_optim *o, const mk_optim_at *at, mk_optim_report *report, mk_err *err) {
    MK_ASSERT(at->step >= 1 && at->lr >= 0 && at->g_scale > 0);
    const mk_optim_opts *opts = &o->opts;
    double norm = 0;
    mk_ops_begin(o->ops, false);
    mk_status st = measure(o, at, &norm, err);
    bool clipped = opts->clip > 0 && norm > opts->clip;
    if (st == MK_OK) {
        double factor = at->g_scale * (clipped ? opts->clip / norm : 1);
        prepare(o, at, (float)factor);
        mk_adamw a = {.g_scale = (float)factor,
                      .beta1 = (float)opts->beta1,
                      .beta2 = (float)opts->beta2,
                      .not_beta1 = (float)(1 - opts->beta1),
                      .not_beta2 = (float)(1 - opts->beta2),
                      .v_scale = (float)(1 / sqrt(1 - power(opts->beta2, at->step))),
                      .eps = (float)opts->eps,
                      .zero_g = opts->zero_g,
                      .m_code = &o->m_code,
                      .v_code = &o->v_code};
        run_step(o, &a);
    }
    mk_ops_end(o->ops);
    if (report != NULL && st == MK_OK) {
        *report = (mk_optim_report){norm, clipped};
    }
    return st;
}
