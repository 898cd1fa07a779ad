// See preference.h.
//
// The loss of a step is the mean over its pairs, each with its weight.  trainer.h's loss is
// sum(weight * -log p), so a token's weight is less the slope of its pair's loss along the
// log-probability of its answer: the same for all tokens of an answer.
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "train/preference_int.h"

// --- passes --------------------------------------------------------------------------------------

double mk_preference_add_up(const float *logp, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)logp[i];
    }
    return sum;
}

static mk_status pass(mk_preference *p, const mk_data_batch *b, mk_weigh_fn weigh, mk_err *err) {
    for (int64_t i = 0; i < b->n_seq; i++) {
        p->seq[i] = b->seq[i].seq;
    }
    mk_train_pass tp = {
        .seq = p->seq, .n_seq = b->n_seq, .weigh = weigh, .arg = p, .logp = p->logp};
    p->batch = b;
    return mk_trainer_pass(p->o.trainer, &tp, err);
}

static void count(mk_preference_sums *s, const mk_preference_pair *pair,
                  const mk_preference_value *v, double weight) {
    s->loss += weight * v->loss;
    s->weight += weight;
    s->right += v->reward[0] > v->reward[1];
    for (int k = 0; k < 2; k++) {
        s->reward[k] += v->reward[k];
        s->logp[k] += pair->logp[k] / (double)(pair->n[k] > 0 ? pair->n[k] : 1);
        s->n[k]++;
    }
}

// Both answers of a pair are neighbours in its batch.  weight NULL: losses only.
static void weigh_pairs(mk_preference *p, const float *logp, float *weight, int64_t n) {
    const mk_data_batch *b = p->batch;
    int64_t at = 0;
    for (int64_t i = 0; i < b->n_seq; i += 2) {
        const mk_data_batch_seq *s = &b->seq[i];
        MK_ASSERT(s[0].which == 0 && s[1].which == 1 && s[0].sample == s[1].sample);
        mk_preference_pair pair = {.n = {s[0].seq.n_target, s[1].seq.n_target}};
        pair.logp[0] = mk_preference_add_up(logp + at, pair.n[0]);
        pair.logp[1] = mk_preference_add_up(logp + at + pair.n[0], pair.n[1]);
        for (int k = 0; p->set->ref && k < 2; k++) {
            pair.ref[k] = p->set->ref[2 * s->sample + k];
        }
        mk_preference_value v = mk_preference_loss(&p->o.rule, &pair);
        count(&p->sum, &pair, &v, (double)s->weight);
        for (int k = 0; k < 2; k++) {
            for (int64_t j = 0; weight && j < pair.n[k]; j++) {
                weight[at + j] = (float)(-v.slope[k] * (double)s->weight);
            }
            at += pair.n[k];
        }
    }
    MK_ASSERT(at == n);
}

static void weigh(void *arg, const float *logp, float *weight, int64_t n) {
    mk_preference *p = arg;
    (p->labels ? mk_kto_weigh : weigh_pairs)(p, logp, weight, n);
}

// --- the reference -------------------------------------------------------------------------------

bool mk_preference_tick(const mk_preference *p, int64_t n_done, int64_t n) {
    return !p->o.progress || p->o.progress(p->o.progress_arg, n_done, n);
}

static int64_t n_item(const mk_preference *p) {
    return p->labels ? p->o.n_seq : p->o.n_seq / 2;
}

static mk_status make_reference(mk_preference *p, mk_preference_set *x, mk_err *err) {
    mk_data_batch b = {0};
    mk_batcher *plain = NULL;
    mk_batcher_opts bo = {.data = x->data, .n_row = p->o.n_row, .n_item = n_item(p)};
    x->ref = mk_try_alloc((size_t)x->n, 2 * sizeof *x->ref);
    if (!x->ref) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the reference of %lld samples",
                       (long long)x->n);
    }
    MK_TRY(mk_batcher_create(&bo, &plain, err));
    mk_status st = MK_OK;
    for (int64_t n = 0; st == MK_OK && !b.last;) {
        mk_batcher_next(plain, &b);
        st = pass(p, &b, NULL, err);
        for (int64_t i = 0, at = 0; st == MK_OK && i < b.n_seq; i++) {
            const mk_data_batch_seq *s = &b.seq[i];
            x->ref[2 * s->sample + s->which] = mk_preference_add_up(p->logp + at, s->seq.n_target);
            at += s->seq.n_target;
        }
        n += b.n_item;
        if (st == MK_OK && !mk_preference_tick(p, n, p->labels ? 2 * x->n : x->n)) {
            st = MK_FAIL(err, MK_EINTR, "stopped before the first step");
        }
    }
    mk_batcher_destroy(plain);
    return st == MK_OK && p->labels ? mk_kto_reference(p, x, err) : st;
}

static mk_status open_set(mk_preference *p, const mk_data *data, bool shuffle, mk_preference_set *x,
                          mk_err *err) {
    mk_batcher_opts bo = {.data = data,
                          .n_row = p->o.n_row,
                          .n_item = n_item(p),
                          .shuffle = shuffle,
                          .seed = p->o.seed};
    mk_data_kind kind = p->labels ? MK_DATA_LABEL : MK_DATA_PAIR;
    x->data = data;
    x->n = mk_data_n_sample(data);
    if (x->n > 0 && mk_data_get_kind(data) != kind) {
        return MK_FAIL(err, MK_EUSAGE, "data of kind %s, expected %s",
                       mk_data_kind_name(mk_data_get_kind(data)),
                       p->labels ? "label, answers that are good or bad" : "pairs of answers");
    }
    MK_TRY(mk_batcher_create(&bo, &x->batcher, err));
    MK_TRY(p->labels ? mk_kto_open(p, x, err) : MK_OK);
    return mk_preference_has_reference(&p->o.rule) ? make_reference(p, x, err) : MK_OK;
}

// --- making --------------------------------------------------------------------------------------

static mk_status check_label_weights(mk_preference *p, mk_err *err) {
    for (int k = 0; k < 2; k++) {
        double *w = &p->o.label_weight[k];
        if (!p->labels && *w > 0) {
            return MK_FAIL(err, MK_EUSAGE, "the loss %s has no weights of labels; kto has",
                           p->o.rule.loss);
        }
        if (p->labels && *w == 0) {
            return MK_FAIL(err, MK_EUSAGE,
                           "the weight of %s answers is 0, expected more; leave such lines out of "
                           "the data instead",
                           k ? "undesirable" : "desirable");
        }
        *w = *w > 0 ? *w : 1;
    }
    return MK_OK;
}

static mk_status set_up(mk_preference *p, mk_err *err) {
    MK_TRY(mk_preference_check(&p->o.rule, err));
    p->labels = mk_preference_has_labels(&p->o.rule);
    MK_TRY(check_label_weights(p, err));
    if (p->o.n_seq < 2) {
        return MK_FAIL(err, MK_EUSAGE, "%lld sequences in a pass, expected 2 or more for a pair",
                       (long long)p->o.n_seq);
    }
    p->seq = mk_try_alloc((size_t)p->o.n_seq, sizeof *p->seq);
    p->logp = mk_try_alloc((size_t)p->o.n_row, sizeof *p->logp);
    if (!p->seq || !p->logp) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for batches of %lld tokens",
                       (long long)p->o.n_row);
    }
    MK_TRY(open_set(p, p->o.data, p->o.shuffle, &p->train, err));
    return p->o.eval ? open_set(p, p->o.eval, false, &p->eval, err) : MK_OK;
}

mk_status mk_preference_create(const mk_preference_opts *o, mk_preference **out, mk_err *err) {
    mk_preference *p = mk_zalloc(sizeof *p);
    p->o = *o;
    mk_status st = set_up(p, err);
    if (st != MK_OK) {
        mk_preference_destroy(p);
        return st;
    }
    *out = p;
    return MK_OK;
}

void mk_preference_destroy(mk_preference *p) {
    if (p) {
        mk_batcher_destroy(p->train.batcher);
        mk_batcher_destroy(p->eval.batcher);
        void *blocks[] = {p->train.ref, p->train.partner, p->eval.ref, p->eval.partner, p->seq,
                          p->logp,      p->list,          p->mixed,    p->ids,          p->mask};
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
            mk_free(blocks[i]);
        }
        mk_free(p);
    }
}

int64_t mk_preference_n_batch(const mk_preference *p) {
    return mk_batcher_n_batch(p->train.batcher);
}

const mk_preference_rule *mk_preference_get_rule(const mk_preference *p) {
    return &p->o.rule;
}

const double *mk_preference_label_weight(const mk_preference *p) {
    return p->o.label_weight;
}

uint64_t mk_preference_reference_hash(const mk_preference *p) {
    const mk_preference_set *x = &p->train;
    return x->ref ? mk_hash64(x->ref, (size_t)x->n * 2 * sizeof *x->ref, 0) : 0;
}

// --- a step --------------------------------------------------------------------------------------

static double mean_of(double sum, int64_t n) {
    return n > 0 ? sum / (double)n : 0;
}

static double mean_loss(const mk_preference_sums *s) {
    return s->weight > 0 ? s->loss / s->weight : 0;
}

static void log_share(const mk_preference *p, const char *prefix, json_t *log) {
    const mk_preference_sums *s = &p->sum;
    char name[32];
    int64_t n = p->labels ? s->n[0] + s->n[1] : s->n[0];
    (void)snprintf(name, sizeof name, "%saccuracy", prefix);
    json_object_set_new(log, name, json_real(mean_of(s->right, n)));
    if (s->n[0] > 0 && s->n[1] > 0) {
        (void)snprintf(name, sizeof name, "%smargin", prefix);
        double margin = p->labels ? mean_of(s->reward[0], s->n[0]) - mean_of(s->reward[1], s->n[1])
                                  : mean_of(s->reward[0] - s->reward[1], n);
        json_object_set_new(log, name, json_real(margin));
    }
    if (p->labels) {
        (void)snprintf(name, sizeof name, "%skl", prefix);
        json_object_set_new(log, name, json_real(p->kl));
    }
}

static void log_sums(const mk_preference *p, json_t *log) {
    static const char *const names[][2] = {{"reward_chosen", "logp_chosen"},
                                           {"reward_rejected", "logp_rejected"}};
    const mk_preference_sums *s = &p->sum;
    json_object_set_new(log, "loss", json_real(mean_loss(s)));
    log_share(p, "", log);
    for (int k = 0; k < 2; k++) {
        if (s->n[k] > 0) {
            json_object_set_new(log, names[k][0], json_real(mean_of(s->reward[k], s->n[k])));
            json_object_set_new(log, names[k][1], json_real(mean_of(s->logp[k], s->n[k])));
        }
    }
    json_object_set_new(log, p->labels ? "samples" : "pairs",
                        json_integer(p->labels ? s->n[0] + s->n[1] : s->n[0]));
    json_object_set_new(log, "tokens", json_integer(s->n_tok));
}

static mk_status step(void *m, int64_t number, double *g_scale, json_t *log, mk_err *err) {
    mk_preference *p = m;
    mk_data_batch b = {0};
    p->sum = (mk_preference_sums){0};
    p->set = &p->train;
    MK_TRY(p->labels ? mk_kto_estimate(p, &p->train, p->o.n_accum, err) : MK_OK);
    for (int64_t i = 0; i < p->o.n_accum; i++) {
        mk_batcher_next(p->train.batcher, &b);
        MK_TRY(pass(p, &b, weigh, err));
        p->sum.n_tok += b.n_tok;
    }
    if (!isfinite(p->sum.loss)) {
        return MK_FAIL(err, MK_ELIMIT,
                       "the loss of step %lld is not a number; the last checkpoint is as it was. A "
                       "lower learning rate or a longer warm-up may help",
                       (long long)number + 1);
    }
    *g_scale = p->sum.weight > 0 ? 1 / p->sum.weight : 1;
    log_sums(p, log);
    json_object_set_new(log, "epoch", json_integer(b.epoch));
    return MK_OK;
}

static mk_status evaluate(void *m, int64_t number, double *score, json_t *log, mk_err *err) {
    mk_preference *p = m;
    (void)number;
    if (!p->o.eval) {
        *score = json_number_value(json_object_get(log, "loss"));
        return MK_OK;
    }
    mk_data_batch b = {0};
    p->sum = (mk_preference_sums){0};
    p->set = &p->eval;
    MK_TRY(mk_batcher_seek(p->eval.batcher, 0, 0, err));
    MK_TRY(p->labels ? mk_kto_estimate(p, &p->eval, -1, err) : MK_OK);
    while (!b.last) {
        mk_batcher_next(p->eval.batcher, &b);
        MK_TRY(pass(p, &b, NULL, err));
        int64_t n = 0;
        for (int64_t i = 0; i < b.n_seq; i++) {
            n += b.seq[i].seq.n_target;
        }
        weigh(p, p->logp, NULL, n);
    }
    *score = mean_loss(&p->sum);
    json_object_set_new(log, "eval_loss", json_real(*score));
    log_share(p, "eval_", log);
    return MK_OK;
}

static json_t *tell(void *m) {
    const mk_preference *p = m;
    int64_t epoch, index;
    mk_batcher_tell(p->train.batcher, &epoch, &index);
    return json_pack("{s:I, s:I}", "epoch", (json_int_t)epoch, "index", (json_int_t)index);
}

static mk_status seek(void *m, const json_t *at, mk_err *err) {
    mk_preference *p = m;
    return mk_batcher_seek(p->train.batcher, json_integer_value(json_object_get(at, "epoch")),
                           json_integer_value(json_object_get(at, "index")), err);
}

const mk_method mk_method_dpo = {"dpo", step, evaluate, tell, seek, NULL, NULL};
