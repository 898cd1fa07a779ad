// Forward passes over ragged batches.
#include "engine/engine.h"

#include <string.h>

#include "base/alloc.h"
#include "model/adapter.h"

#define DEFAULT_CHUNK 512

struct mk_engine {
    const mk_model *model;
    mk_ops *ops;
    mk_kv *kv;
    int64_t n_chunk, n_out;
    mk_tape *tape;  // or NULL
    mk_mat logits;  // of the last forward; in the step scratch
    // the batch, row by row
    int32_t *ids, *pos, *out_rows;
    const int32_t **table;
    // for the prediction layer: rows wanted of it, and the pass it belongs to
    int32_t *mtp_rows;
    const mk_batch *batch;  // while fn runs
    mk_mat hidden;
};

static mk_engine_opts with_defaults(const mk_engine_opts *opts) {
    mk_engine_opts o = *opts;
    o.n_seq = o.n_seq > 0 ? o.n_seq : 1;
    o.n_chunk = o.n_chunk > 0 ? o.n_chunk : DEFAULT_CHUNK;
    o.n_chunk = o.n_chunk < o.n_seq ? o.n_seq : o.n_chunk;
    o.n_out = o.n_out > 0 ? o.n_out : o.n_seq;
    return o;
}

static mk_status alloc_rows(mk_engine *e, mk_err *err) {
    size_t n = (size_t)e->n_chunk;
    e->ids = mk_try_alloc(n, sizeof *e->ids);
    e->pos = mk_try_alloc(n, sizeof *e->pos);
    e->table = mk_try_alloc(n, sizeof *e->table);
    e->out_rows = mk_try_alloc((size_t)e->n_out, sizeof *e->out_rows);
    e->mtp_rows = mk_try_alloc((size_t)e->n_out, sizeof *e->mtp_rows);
    if (!e->ids || !e->pos || !e->table || !e->out_rows || !e->mtp_rows) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for batches of %lld rows", (long long)e->n_chunk);
    }
    return MK_OK;
}

// A pass in which operators only count.
static size_t dry_pass(const mk_engine *e, const mk_kv_layer *kv, mk_kv_type type) {
    mk_mat hidden = {0};
    mk_batch b = {.ids = e->ids,
                  .rows = {e->n_chunk, e->pos, e->table},
                  .kv = kv,
                  .kv_type = type,
                  .out_rows = e->out_rows,
                  .n_out = e->n_out < e->n_chunk ? e->n_out : e->n_chunk,
                  .hidden = &hidden};
    const mk_arch *arch = e->model->arch;
    bool back = mk_ops_tape(e->ops) != NULL;
    mk_ops_begin(e->ops, true);
    mk_mat logits = arch->forward(e->model, e->ops, &b);
    if (e->model->mtp) {
        b.hidden = NULL;
        (void)arch->mtp(e->model, e->ops, &b, hidden);
    }
    if (back) {
        (void)mk_tape_grad(e->tape, logits);
        mk_tape_backward(e->tape);
    }
    mk_ops_end(e->ops);
    return mk_ops_high_water(e->ops);
}

// Scratch of the largest batch.  Recorded, its rows are as few sequences as can be: scores of long
// ones take more memory than those of short ones.
static size_t measure_scratch(mk_engine *e, const mk_kv_layer *kv, mk_kv_type type, int64_t n_ctx) {
    size_t run = dry_pass(e, kv, type), train = 0;
    if (e->tape != NULL) {
        for (int64_t i = 0; i < e->n_chunk; i++) {
            e->pos[i] = (int32_t)(i % n_ctx);
            e->table[i] = e->pos + i / n_ctx;  // only compared
        }
        mk_ops_set_tape(e->ops, e->tape);
        train = dry_pass(e, kv, type);
        mk_ops_set_tape(e->ops, NULL);
    }
    return run > train ? run : train;
}

static mk_kv_opts kv_opts(const mk_engine_opts *o) {
    return (mk_kv_opts){o->kv_type, o->n_ctx, o->n_seq, o->n_block};
}

static mk_status set_up(mk_engine *e, const mk_engine_opts *o, mk_err *err) {
    mk_kv_opts kv = kv_opts(o);
    MK_TRY(alloc_rows(e, err));
    MK_TRY(mk_kv_create(e->model, &kv, &e->kv, err));
    size_t scratch = measure_scratch(e, mk_kv_layers(e->kv), o->kv_type, o->n_ctx);
    MK_TRY(e->tape != NULL ? mk_tape_reserve(e->tape, err) : MK_OK);
    return mk_ops_reserve(e->ops, scratch, err);
}

static mk_engine *new_engine(const mk_model *m, const mk_engine_opts *o) {
    mk_engine *e = mk_zalloc(sizeof *e);
    *e = (mk_engine){.model = m,
                     .n_chunk = o->n_chunk,
                     .n_out = o->n_out,
                     .tape = o->tape,
                     .ops = mk_ops_create(o->kernels, o->pool)};
    return e;
}

mk_status mk_engine_create(const mk_model *m, const mk_engine_opts *opts, mk_engine **out,
                           mk_err *err) {
    MK_ASSERT(m->loaded && opts->kernels && opts->pool);
    mk_engine_opts o = with_defaults(opts);
    mk_engine *e = new_engine(m, &o);
    mk_status st = set_up(e, &o, err);
    if (st != MK_OK) {
        mk_engine_destroy(e);
        return st;
    }
    *out = e;
    return MK_OK;
}

void mk_engine_destroy(mk_engine *e) {
    if (!e) {
        return;
    }
    mk_kv_destroy(e->kv);
    mk_ops_destroy(e->ops);
    mk_free(e->ids);
    mk_free(e->pos);
    mk_free(e->table);
    mk_free(e->out_rows);
    mk_free(e->mtp_rows);
    mk_free(e);
}

mk_status mk_engine_seq_open(mk_engine *e, int *seq, mk_err *err) {
    return mk_kv_open(e->kv, seq, err);
}

void mk_engine_seq_close(mk_engine *e, int seq) {
    mk_kv_close(e->kv, seq);
}

int64_t mk_engine_seq_length(const mk_engine *e, int seq) {
    return mk_kv_length(e->kv, seq);
}

void mk_engine_seq_truncate(mk_engine *e, int seq, int64_t n) {
    mk_kv_truncate(e->kv, seq, n);
}

// --- one forward ---------------------------------------------------------------------------------

static mk_status check_ids(const mk_engine *e, const mk_step *s, mk_err *err) {
    for (int64_t i = 0; i < s->n; i++) {
        if (s->ids[i] < 0 || s->ids[i] >= e->model->hp.n_vocab) {
            return MK_FAIL(err, MK_EUSAGE,
                           "token id %d at place %lld is outside the vocabulary (0 to %lld)",
                           s->ids[i], (long long)i, (long long)(e->model->hp.n_vocab - 1));
        }
    }
    return MK_OK;
}

// Extends every sequence, or none.
static mk_status extend_all(mk_engine *e, const mk_step *steps, int n_step, mk_err *err) {
    for (int i = 0; i < n_step; i++) {
        mk_status st = check_ids(e, &steps[i], err);
        if (st == MK_OK) {
            st = mk_kv_extend(e->kv, steps[i].seq, steps[i].n, err);
        }
        if (st != MK_OK) {
            while (--i >= 0) {
                mk_kv_truncate(e->kv, steps[i].seq, mk_kv_length(e->kv, steps[i].seq) - steps[i].n);
            }
            return st;
        }
    }
    return MK_OK;
}

static bool wants_logits(const mk_step *s, int64_t j) {
    switch (s->logits) {
    case MK_LOGITS_NONE:
        return false;
    case MK_LOGITS_LAST:
        return j == s->n - 1;
    case MK_LOGITS_ALL:
        return true;
    case MK_LOGITS_SOME:
        return s->want[j] != 0;
    }
    return false;
}

// Lays the steps out as rows; returns the number of rows, *n_out the number of logits rows.
static int64_t fill_rows(mk_engine *e, const mk_step *steps, int n_step, int64_t *n_out) {
    int64_t row = 0, out = 0;
    for (int i = 0; i < n_step; i++) {
        const mk_step *s = &steps[i];
        int64_t first = mk_kv_length(e->kv, s->seq) - s->n;
        MK_ASSERT(row + s->n <= e->n_chunk);
        for (int64_t j = 0; j < s->n; j++, row++) {
            e->ids[row] = s->ids[j];
            e->pos[row] = (int32_t)(first + j);
            e->table[row] = mk_kv_table(e->kv, s->seq);
            if (wants_logits(s, j)) {
                MK_ASSERT(out < e->n_out);
                e->out_rows[out++] = (int32_t)row;
            }
        }
    }
    *n_out = out;
    return row;
}

static mk_status make_batch(mk_engine *e, const mk_step *steps, int n_step, mk_batch *b,
                            mk_err *err) {
    MK_TRY(extend_all(e, steps, n_step, err));
    int64_t n_out = 0, n_tok = fill_rows(e, steps, n_step, &n_out);
    *b = (mk_batch){.ids = e->ids,
                    .rows = {n_tok, e->pos, e->table},
                    .kv = mk_kv_layers(e->kv),
                    .kv_type = mk_kv_get_type(e->kv),
                    .out_rows = e->out_rows,
                    .n_out = n_out};
    return MK_OK;
}

mk_status mk_engine_forward_with(mk_engine *e, const mk_step *steps, int n_step, bool record,
                                 mk_engine_fn fn, void *arg, mk_err *err) {
    mk_batch b;
    MK_ASSERT(!record || e->tape != NULL);
    for (int i = 0; record && i < n_step; i++) {
        MK_ASSERT(mk_kv_length(e->kv, steps[i].seq) == 0);
    }
    MK_TRY(make_batch(e, steps, n_step, &b, err));
    b.hidden = &e->hidden;
    mk_ops_set_tape(e->ops, record ? e->tape : NULL);
    mk_ops_begin(e->ops, false);
    e->logits = mk_model_forward(e->model, e->ops, &b);
    e->batch = &b;
    mk_status st = fn(arg, e->ops, e->logits, err);
    e->batch = NULL;
    mk_ops_end(e->ops);
    mk_ops_set_tape(e->ops, NULL);
    return st;
}

mk_mat mk_engine_hidden(const mk_engine *e) {
    MK_ASSERT(e->batch);
    return e->hidden;
}

mk_mat mk_engine_mtp(mk_engine *e, const int32_t *next, const uint8_t *want) {
    MK_ASSERT(e->batch && e->model->mtp);
    mk_batch b = *e->batch;
    b.ids = next;
    b.out_rows = e->mtp_rows;
    b.n_out = 0;
    b.hidden = NULL;
    for (int64_t i = 0; i < b.rows.n_tok; i++) {
        MK_ASSERT(next[i] >= 0 && next[i] < e->model->hp.n_vocab);
        if (want[i]) {
            MK_ASSERT(b.n_out < e->n_out);
            e->mtp_rows[b.n_out++] = (int32_t)i;
        }
    }
    return mk_model_mtp(e->model, e->ops, &b, e->hidden);
}

mk_status mk_engine_forward(mk_engine *e, const mk_step *steps, int n_step, mk_err *err) {
    mk_batch b;
    MK_TRY(make_batch(e, steps, n_step, &b, err));
    mk_ops_begin(e->ops, false);
    e->logits = mk_model_forward(e->model, e->ops, &b);
    mk_ops_end(e->ops);
    return MK_OK;
}

const float *mk_engine_logits(const mk_engine *e, int64_t i) {
    MK_ASSERT(i >= 0 && i < e->logits.n_row);
    return e->logits.p + i * e->logits.stride;
}

// --- feeding -------------------------------------------------------------------------------------

// A prompt that cannot fit is refused before any of it is computed.
static mk_status check_room(const mk_engine *e, int seq, int64_t n, mk_err *err) {
    int64_t used = mk_kv_length(e->kv, seq), n_ctx = mk_kv_n_ctx(e->kv);
    if (n > n_ctx - used) {
        return MK_FAIL(
            err, MK_ECONTEXT,
            "prompt is %lld tokens, window is %lld (%lld used); nothing was cut. Ask for a "
            "larger window with --ctx %lld",
            (long long)n, (long long)n_ctx, (long long)used,
            (long long)(used + n + 512) / 1024 * 1024 + 1024);
    }
    return mk_kv_check(e->kv, seq, n, err);
}

mk_status mk_engine_feed(mk_engine *e, int seq, const int32_t *ids, int64_t n, mk_logits_mode mode,
                         mk_err *err) {
    MK_ASSERT(mode != MK_LOGITS_ALL);
    MK_TRY(check_room(e, seq, n, err));
    for (int64_t at = 0; at < n;) {
        int64_t part = n - at < e->n_chunk ? n - at : e->n_chunk;
        bool last = at + part == n;
        mk_step s = {seq, ids + at, part, last ? mode : MK_LOGITS_NONE, NULL};
        MK_TRY(mk_engine_forward(e, &s, 1, err));
        at += part;
    }
    return MK_OK;
}

mk_status mk_engine_feed_rows(mk_engine *e, int seq, const int32_t *ids, int64_t n, mk_row_fn row,
                              void *arg, mk_err *err) {
    MK_TRY(check_room(e, seq, n, err));
    int64_t most = e->n_chunk < e->n_out ? e->n_chunk : e->n_out;
    for (int64_t at = 0; at < n;) {
        int64_t part = n - at < most ? n - at : most;
        mk_step s = {seq, ids + at, part, MK_LOGITS_ALL, NULL};
        MK_TRY(mk_engine_forward(e, &s, 1, err));
        for (int64_t i = 0; i < part; i++) {
            MK_TRY(row(arg, at + i, mk_engine_logits(e, i), err));
        }
        at += part;
    }
    return MK_OK;
}

const mk_model *mk_engine_model(const mk_engine *e) {
    return e->model;
}

mk_ops *mk_engine_ops(mk_engine *e) {
    return e->ops;
}

mk_kv *mk_engine_kv(mk_engine *e) {
    return e->kv;
}

int64_t mk_engine_n_ctx(const mk_engine *e) {
    return mk_kv_n_ctx(e->kv);
}

int64_t mk_engine_n_chunk(const mk_engine *e) {
    return e->n_chunk;
}

int64_t mk_engine_n_out(const mk_engine *e) {
    return e->n_out;
}

// --- planning ------------------------------------------------------------------------------------

mk_status mk_engine_plan(const mk_model *m, const mk_engine_opts *opts, mk_memory_plan *out,
                         mk_err *err) {
    mk_engine_opts o = with_defaults(opts);
    mk_engine *e = new_engine(m, &o);
    mk_kv_layer *none = mk_try_alloc((size_t)mk_model_n_layer(m), sizeof *none);
    mk_status st = none ? alloc_rows(e, err) : MK_FAIL(err, MK_ENOMEM, "no memory to plan");
    mk_kv_opts kv = kv_opts(&o);
    size_t blocks = (size_t)mk_kv_opts_blocks(&kv);
    if (st == MK_OK) {
        size_t adapters = m->adapters ? mk_adapters_bytes(m->adapters) : 0;
        *out = (mk_memory_plan){.weights = mk_model_weight_bytes(m) + adapters,
                                .kv = blocks * mk_model_kv_bytes_per_block(m, o.kv_type),
                                .scratch = measure_scratch(e, none, o.kv_type, o.n_ctx)};
        // the shadow of the activations, and what checkpoints keep
        out->scratch += o.tape != NULL ? mk_tape_need(o.tape) : 0;
        out->total = out->weights + out->kv + out->scratch;
    }
    mk_free(none);
    mk_engine_destroy(e);
    return st;
}
