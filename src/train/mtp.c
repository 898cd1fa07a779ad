// See mtp.h.
#include "train/mtp.h"

#include "base/alloc.h"

struct mk_mtp {
    int64_t most, n_target;
    int32_t *next;  // [rows] the token that follows
    uint8_t *want;  // [rows] whether the one after it is a target
    // of every target: its id, its place among the model's own targets, and its part of the loss
    int32_t *target, *place;
    float *logp, *weight;
};

mk_status mk_mtp_create(int64_t n_row, mk_mtp **out, mk_err *err) {
    mk_mtp *p = mk_zalloc(sizeof *p);
    size_t n = (size_t)n_row;
    *p = (mk_mtp){.most = n_row,
                  .next = mk_try_alloc(n, sizeof *p->next),
                  .want = mk_try_alloc(n, sizeof *p->want),
                  .target = mk_try_alloc(n, sizeof *p->target),
                  .place = mk_try_alloc(n, sizeof *p->place),
                  .logp = mk_try_alloc(n, sizeof *p->logp),
                  .weight = mk_try_alloc(n, sizeof *p->weight)};
    if (!p->next || !p->want || !p->target || !p->place || !p->logp || !p->weight) {
        mk_mtp_destroy(p);
        return MK_FAIL(err, MK_ENOMEM, "no memory to predict further for %lld tokens",
                       (long long)n_row);
    }
    *out = p;
    return MK_OK;
}

void mk_mtp_destroy(mk_mtp *p) {
    if (p) {
        mk_free(p->next);
        mk_free(p->want);
        mk_free(p->target);
        mk_free(p->place);
        mk_free(p->logp);
        mk_free(p->weight);
        mk_free(p);
    }
}

void mk_mtp_lay_out(mk_mtp *p, const mk_data_seq *seq, int64_t n_seq) {
    int64_t row = 0, place = 0;
    p->n_target = 0;
    for (int64_t s = 0; s < n_seq; s++) {
        MK_ASSERT(seq[s].n < 2 || row + seq[s].n - 1 <= p->most);
        for (int64_t i = 1; i < seq[s].n; i++, row++) {  // the row of token i - 1
            bool last = i + 1 == seq[s].n;
            p->next[row] = seq[s].ids[i];
            p->want[row] = !last && seq[s].mask[i + 1];
            place += seq[s].mask[i] != 0;
            if (p->want[row]) {
                p->target[p->n_target] = seq[s].ids[i + 1];
                p->place[p->n_target++] = (int32_t)place;
            }
        }
    }
}

mk_mat mk_mtp_predict(mk_mtp *p, mk_engine *e, float temperature) {
    if (p->n_target == 0) {
        return (mk_mat){0};
    }
    mk_mat z = mk_engine_mtp(e, p->next, p->want);
    MK_ASSERT(z.n_row == p->n_target);
    mk_op_logprob(mk_engine_ops(e), p->logp, NULL, z, p->target, temperature);
    return z;
}

void mk_mtp_weigh(mk_mtp *p, const float *weight, mk_mtp_sums *sums) {
    for (int64_t i = 0; i < p->n_target; i++) {
        float own = weight ? weight[p->place[i]] : 1.0f;
        p->weight[i] = own > 0 ? own : 0;
        if (sums) {
            sums->loss -= (double)p->weight[i] * (double)p->logp[i];
            sums->weight += (double)p->weight[i];
        }
    }
}

void mk_mtp_back(mk_mtp *p, mk_ops *ops, mk_mat dz, mk_mat z, float temperature, double factor) {
    for (int64_t i = 0; i < p->n_target; i++) {
        p->weight[i] *= (float)factor;
    }
    if (p->n_target > 0) {
        mk_back_logprob(ops, dz, z, p->target, p->weight, temperature);
    }
}
