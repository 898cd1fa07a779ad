// Kahneman-Tversky optimisation (Ethayarajh et al. 2024): answers that are good or bad by
// themselves (preference.h).
//
// What an answer's reward is measured against is how far the model has moved from the reference
// altogether, z0 = KL(model || reference), which the paper (section 4.1) estimates from answers
// that belong to other prompts:
//
//     z0 = max(0, mean over the samples i of an update of log p(y' | x_i) - log p_ref(y' | x_i))
//
// y' is the answer of i's partner, the next sample in the data that has another prompt.  Partners
// are the same in every epoch, as in TRL, so that the reference of the mixtures can be computed
// once as well.  z0 is a number: no gradient goes through it.  It is of a whole update, whatever
// batches that is computed in, so before the gradients there is a pass without over its mixtures.
//
// A mixture is laid out here, in passes of its own: the tokens in front of i's first target, and
// those of the partner from its first target on; what does not fit into the window is cut off.
#include <string.h>

#include "base/alloc.h"
#include "train/preference_int.h"

// --- partners ------------------------------------------------------------------------------------

static bool same_prompt(const mk_data *d, int64_t i, int64_t j) {
    mk_data_sample a = mk_data_get(d, i), b = mk_data_get(d, j);
    return a.n_prompt == b.n_prompt &&
           memcmp(a.seq[0].ids, b.seq[0].ids, (size_t)a.n_prompt * sizeof *a.seq[0].ids) == 0;
}

// Twice round, backwards: a sample with the prompt of the next one has the next one's partner.
// Where all prompts are equal it is the next one.
static void find_partners(mk_preference_set *x) {
    int64_t n = x->n;
    for (int64_t i = 0; i < n; i++) {
        x->partner[i] = -1;
    }
    for (int64_t k = 2 * n - 1; k >= 0; k--) {
        int64_t i = k % n, next = (i + 1) % n;
        if (x->partner[i] < 0) {
            x->partner[i] = same_prompt(x->data, i, next) ? x->partner[next] : next;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        x->partner[i] = x->partner[i] < 0 ? (i + 1) % n : x->partner[i];
    }
}

mk_status mk_kto_open(mk_preference *p, mk_preference_set *x, mk_err *err) {
    if (x->n < 2) {
        return MK_FAIL(err, MK_EUSAGE,
                       "kto compares with answers to other prompts: expected two or more samples, "
                       "got %lld",
                       (long long)x->n);
    }
    x->partner = mk_try_alloc((size_t)x->n, sizeof *x->partner);
    if (!p->list) {
        p->list = mk_try_alloc((size_t)p->o.n_seq, sizeof *p->list);
        p->mixed = mk_try_alloc((size_t)p->o.n_seq, sizeof *p->mixed);
        p->ids = mk_try_alloc((size_t)p->o.n_row, sizeof *p->ids);
        p->mask = mk_try_alloc((size_t)p->o.n_row, sizeof *p->mask);
    }
    if (!x->partner || !p->list || !p->mixed || !p->ids || !p->mask) {
        return MK_FAIL(err, MK_ENOMEM, "no memory to mix %lld samples", (long long)x->n);
    }
    find_partners(x);
    return MK_OK;
}

// --- mixtures ------------------------------------------------------------------------------------

// Tokens of the mixture of a sample: there is room for the prompt and a token, because there is for
// the sample itself.
static int64_t mixed_len(const mk_preference *p, const mk_preference_set *x, int64_t sample) {
    mk_data_sample a = mk_data_get(x->data, sample), b = mk_data_get(x->data, x->partner[sample]);
    int64_t n = a.n_prompt + b.seq[0].n - b.n_prompt,
            n_ctx = mk_engine_n_ctx(mk_trainer_engine(p->o.trainer));
    n = n < n_ctx ? n : n_ctx;
    return n < p->o.n_row ? n : p->o.n_row;
}

static mk_data_seq lay_out(mk_preference *p, const mk_preference_set *x, int64_t sample,
                           int64_t row) {
    mk_data_sample a = mk_data_get(x->data, sample), b = mk_data_get(x->data, x->partner[sample]);
    int64_t n = mixed_len(p, x, sample), n_rest = n - a.n_prompt;
    int32_t *ids = p->ids + row;
    uint8_t *mask = p->mask + row;
    memcpy(ids, a.seq[0].ids, (size_t)a.n_prompt * sizeof *ids);
    memset(mask, 0, (size_t)a.n_prompt);
    memcpy(ids + a.n_prompt, b.seq[0].ids + b.n_prompt, (size_t)n_rest * sizeof *ids);
    memcpy(mask + a.n_prompt, b.seq[0].mask + b.n_prompt, (size_t)n_rest);
    mk_data_seq s = {ids, mask, n, 0};
    for (int64_t i = 0; i < n; i++) {
        s.n_target += mask[i];
    }
    return s;
}

// Log-probabilities of the mixtures of p->list[0..n), into p->mixed.
static mk_status mixtures(mk_preference *p, const mk_preference_set *x, int64_t n, mk_err *err) {
    for (int64_t at = 0; at < n;) {
        int64_t row = 0, n_seq = 0, first = 0;
        while (at + n_seq < n && row + mixed_len(p, x, p->list[at + n_seq]) <= p->o.n_row) {
            p->seq[n_seq] = lay_out(p, x, p->list[at + n_seq], row);
            row += p->seq[n_seq++].n;
        }
        mk_train_pass pass = {.seq = p->seq, .n_seq = n_seq, .logp = p->logp};
        MK_TRY(mk_trainer_pass(p->o.trainer, &pass, err));
        for (int64_t i = 0; i < n_seq; i++) {
            p->mixed[at + i] = mk_preference_add_up(p->logp + first, p->seq[i].n_target);
            first += p->seq[i].n_target;
        }
        at += n_seq;
    }
    return MK_OK;
}

mk_status mk_kto_reference(mk_preference *p, mk_preference_set *x, mk_err *err) {
    for (int64_t at = 0; at < x->n;) {
        int64_t n = x->n - at < p->o.n_seq ? x->n - at : p->o.n_seq;
        for (int64_t i = 0; i < n; i++) {
            p->list[i] = at + i;
        }
        MK_TRY(mixtures(p, x, n, err));
        for (int64_t i = 0; i < n; i++) {
            x->ref[2 * (at + i) + 1] = p->mixed[i];
        }
        at += n;
        if (!mk_preference_tick(p, x->n + at, 2 * x->n)) {
            return MK_FAIL(err, MK_EINTR, "stopped before the first step");
        }
    }
    return MK_OK;
}

mk_status mk_kto_estimate(mk_preference *p, const mk_preference_set *x, int64_t n_batch,
                          mk_err *err) {
    mk_data_batch b = {0};
    int64_t epoch, index, n = 0;
    double sum = 0;
    mk_batcher_tell(x->batcher, &epoch, &index);
    for (int64_t i = 0; n_batch < 0 ? !b.last : i < n_batch; i++) {
        mk_batcher_next(x->batcher, &b);
        for (int64_t k = 0; k < b.n_seq; k++) {
            p->list[k] = b.seq[k].sample;
        }
        MK_TRY(mixtures(p, x, b.n_seq, err));
        for (int64_t k = 0; k < b.n_seq; k++) {
            sum += p->mixed[k] - x->ref[2 * p->list[k] + 1];
        }
        n += b.n_seq;
    }
    p->kl = sum > 0 ? sum / (double)n : 0;
    return mk_batcher_seek(x->batcher, epoch, index, err);
}

// --- weights -------------------------------------------------------------------------------------

void mk_kto_weigh(mk_preference *p, const float *logp, float *weight, int64_t n) {
    const mk_data_batch *b = p->batch;
    int64_t at = 0;
    for (int64_t i = 0; i < b->n_seq; i++) {
        const mk_data_batch_seq *s = &b->seq[i];
        mk_preference_answer a = {.logp = mk_preference_add_up(logp + at, s->seq.n_target),
                                  .ref = p->set->ref[2 * s->sample],
                                  .n = s->seq.n_target,
                                  .good = mk_data_get(p->set->data, s->sample).label};
        mk_preference_answer_value v = mk_preference_answer_loss(&p->o.rule, &a, p->kl);
        int side = a.good ? 0 : 1;
        double w = (double)s->weight * p->o.label_weight[side],
               over = v.reward - p->o.rule.beta * p->kl;
        p->sum.loss += w * v.loss;
        p->sum.weight += (double)s->weight;  // as in TRL a side's weight is not divided by
        p->sum.right += a.good ? over > 0 : over < 0;
        p->sum.reward[side] += v.reward;
        p->sum.logp[side] += a.logp / (double)(a.n > 0 ? a.n : 1);
        p->sum.n[side]++;
        for (int64_t j = 0; weight && j < a.n; j++) {
            weight[at + j] = (float)(-v.slope * w);
        }
        at += a.n;
    }
    MK_ASSERT(at == n);
}
