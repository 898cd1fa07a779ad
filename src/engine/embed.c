// See embed.h.  The last norm is computed here, by its definition, because models apply it to the
// rows alone whose logits are wanted.
#include "engine/embed.h"

#include <math.h>

#include "base/alloc.h"

typedef struct {
    const mk_model *model;
    mk_engine *e;
    mk_pooling how;
    bool last;    // of the text is among these rows
    double *sum;  // [d_model]
} pooling;

static void add_row(const pooling *p, const float *x) {
    int64_t d = p->model->hp.d_model;
    const float *w = p->model->globals.out_norm;
    double squares = 0;
    for (int64_t i = 0; i < d; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    double scale = 1 / sqrt(squares / (double)d + p->model->hp.rms_eps);
    for (int64_t i = 0; i < d; i++) {
        p->sum[i] += (double)x[i] * scale * (double)w[i];
    }
}

static mk_status take_rows(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    const pooling *p = arg;
    (void)ops, (void)logits, (void)err;
    mk_mat h = mk_engine_hidden(p->e);
    for (int64_t i = p->how == MK_POOLING_LAST ? h.n_row - 1 : 0; i < h.n_row; i++) {
        if (p->how == MK_POOLING_MEAN || p->last) {
            add_row(p, h.p + i * h.stride);
        }
    }
    return MK_OK;
}

static mk_status feed(pooling *p, int seq, const int32_t *ids, int64_t n, mk_err *err) {
    int64_t most = mk_engine_n_chunk(p->e);
    for (int64_t at = 0; at < n; at += most) {
        int64_t part = n - at < most ? n - at : most;
        p->last = at + part == n;
        mk_step s = {seq, ids + at, part, MK_LOGITS_LAST, NULL};
        MK_TRY(mk_engine_forward_with(p->e, &s, 1, false, take_rows, p, err));
    }
    return MK_OK;
}

static void normalize(const double *sum, int64_t d, float *out) {
    double squares = 0;
    for (int64_t i = 0; i < d; i++) {
        squares += sum[i] * sum[i];
    }
    double scale = squares > 0 ? 1 / sqrt(squares) : 0;
    for (int64_t i = 0; i < d; i++) {
        out[i] = (float)(sum[i] * scale);
    }
}

mk_status mk_engine_embed(mk_engine *e, const int32_t *ids, int64_t n, mk_pooling how, float *out,
                          mk_err *err) {
    pooling p = {.model = mk_engine_model(e), .e = e, .how = how};
    if (n < 1) {
        return MK_FAIL(err, MK_EUSAGE, "the text is empty; expected at least one token");
    }
    if (n > mk_engine_n_ctx(e)) {
        return MK_FAIL(err, MK_ECONTEXT,
                       "the text has %lld tokens, the window %lld; nothing was cut", (long long)n,
                       (long long)mk_engine_n_ctx(e));
    }
    size_t d = (size_t)p.model->hp.d_model;
    int seq = 0;
    MK_TRY(mk_engine_seq_open(e, &seq, err));
    p.sum = mk_zalloc(d * sizeof *p.sum);
    mk_status st = feed(&p, seq, ids, n, err);
    mk_engine_seq_close(e, seq);
    normalize(p.sum, (int64_t)d, out);
    mk_free(p.sum);
    return st;
}
