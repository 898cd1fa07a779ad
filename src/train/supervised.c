// See supervised.h.
#include "train/supervised.h"

#include <math.h>

#include "base/alloc.h"
#include "base/log.h"

struct mk_supervised {
    mk_supervised_opts o;
    mk_batcher *batcher, *eval;
    mk_data_seq *seq;     // [n_seq] of the batch
    float *seq_weight;    // [n_seq]
    float *logp;          // [n_row]
    double loss, weight;  // sums of a step
    mk_mtp_sums mtp;
};

static mk_status make_batcher(const mk_supervised_opts *o, const mk_data *data, bool shuffle,
                              mk_batcher **out, mk_err *err) {
    mk_batcher_opts bo = {
        .data = data, .n_row = o->n_row, .n_item = o->n_seq, .shuffle = shuffle, .seed = o->seed};
    mk_data_kind kind = mk_data_get_kind(data);
    if (mk_data_n_sample(data) > 0 && kind != MK_DATA_TEXT && kind != MK_DATA_CHAT) {
        return MK_FAIL(err, MK_EUSAGE, "data of kind %s, expected texts or conversations",
                       mk_data_kind_name(kind));
    }
    return mk_batcher_create(&bo, out, err);
}

mk_status mk_supervised_create(const mk_supervised_opts *o, mk_supervised **out, mk_err *err) {
    mk_supervised *s = mk_zalloc(sizeof *s);
    s->o = *o;
    s->seq = mk_try_alloc((size_t)o->n_seq, sizeof *s->seq);
    s->seq_weight = mk_try_alloc((size_t)o->n_seq, sizeof *s->seq_weight);
    s->logp = mk_try_alloc((size_t)o->n_row, sizeof *s->logp);
    mk_status st =
        s->seq && s->seq_weight && s->logp
            ? MK_OK
            : MK_FAIL(err, MK_ENOMEM, "no memory for batches of %lld tokens", (long long)o->n_row);
    st = st == MK_OK ? make_batcher(o, o->data, o->shuffle, &s->batcher, err) : st;
    st = st == MK_OK && o->eval ? make_batcher(o, o->eval, false, &s->eval, err) : st;
    if (st != MK_OK) {
        mk_supervised_destroy(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_supervised_destroy(mk_supervised *s) {
    if (s) {
        mk_batcher_destroy(s->batcher);
        mk_batcher_destroy(s->eval);
        mk_free(s->seq);
        mk_free(s->seq_weight);
        mk_free(s->logp);
        mk_free(s);
    }
}

int64_t mk_supervised_n_batch(const mk_supervised *s) {
    return mk_batcher_n_batch(s->batcher);
}

// --- a step --------------------------------------------------------------------------------------

// The weight of a target is its sequence's; targets come in the order of the sequences.
static void weigh(void *arg, const float *logp, float *weight, int64_t n) {
    mk_supervised *s = arg;
    int64_t at = 0;
    for (int64_t i = 0; at < n; i++) {
        for (int64_t j = 0; j < s->seq[i].n_target; j++, at++) {
            weight[at] = s->seq_weight[i];
            s->loss -= (double)s->seq_weight[i] * (double)logp[at];
            s->weight += (double)s->seq_weight[i];
        }
    }
}

// Sequences of one token have nothing that could be predicted, and no target.
static int64_t take_batch(mk_supervised *s, const mk_data_batch *b) {
    for (int64_t i = 0; i < b->n_seq; i++) {
        s->seq[i] = b->seq[i].seq;
        s->seq_weight[i] = b->seq[i].weight;
    }
    return b->n_seq;
}

// Of multi-token prediction, if it is trained.
static void log_mtp(const mk_supervised *s, const char *name, json_t *log) {
    if (s->mtp.weight > 0) {
        json_object_set_new(log, name, json_real(s->mtp.loss / s->mtp.weight));
    }
}

static mk_status step(void *m, int64_t number, double *g_scale, json_t *log, mk_err *err) {
    mk_supervised *s = m;
    int64_t n_tok = 0, n_target = 0;
    mk_data_batch b = {0};
    s->loss = s->weight = 0;
    s->mtp = (mk_mtp_sums){0, 0};
    for (int64_t i = 0; i < s->o.n_accum; i++) {
        mk_batcher_next(s->batcher, &b);
        mk_train_pass p = {
            .seq = s->seq, .n_seq = take_batch(s, &b), .weigh = weigh, .arg = s, .mtp = &s->mtp};
        MK_TRY(mk_trainer_pass(s->o.trainer, &p, err));
        n_tok += b.n_tok;
        n_target += b.n_target;
    }
    double loss = s->weight > 0 ? s->loss / s->weight : 0;
    if (!isfinite(loss)) {
        return MK_FAIL(err, MK_ELIMIT,
                       "the loss of step %lld is not a number; the last checkpoint is as it was. A "
                       "lower learning rate or a longer warm-up may help",
                       (long long)number + 1);
    }
    *g_scale = s->weight > 0 ? 1 / s->weight : 1;
    json_object_set_new(log, "loss", json_real(loss));
    log_mtp(s, "mtp_loss", log);
    json_object_set_new(log, "tokens", json_integer(n_tok));
    json_object_set_new(log, "targets", json_integer(n_target));
    json_object_set_new(log, "epoch", json_integer(b.epoch));
    return MK_OK;
}

// The second of two passes: the first one touches memory for the first time.
mk_status mk_supervised_measure(mk_supervised *s, double *seconds, mk_err *err) {
    json_t *log = json_object();
    mk_status st = MK_OK;
    int64_t n_accum = s->o.n_accum;
    double g_scale;
    s->o.n_accum = 1;
    for (int i = 0; i < 2 && st == MK_OK; i++) {
        uint64_t begin = mk_now_ns();
        st = mk_batcher_seek(s->batcher, 0, 0, err);
        st = st == MK_OK ? step(s, 0, &g_scale, log, err) : st;
        *seconds = (double)(mk_now_ns() - begin) / 1e9 * (double)n_accum;
    }
    s->o.n_accum = n_accum;
    json_decref(log);
    mk_trainer_drop_gradients(s->o.trainer);
    return st == MK_OK ? mk_batcher_seek(s->batcher, 0, 0, err) : st;
}

static mk_status held_out_loss(mk_supervised *s, double *score, json_t *log, mk_err *err) {
    double sum = 0, weight = 0;
    MK_TRY(mk_batcher_seek(s->eval, 0, 0, err));
    mk_data_batch b = {0};
    do {
        mk_batcher_next(s->eval, &b);
        mk_train_pass p = {.seq = s->seq, .n_seq = take_batch(s, &b), .logp = s->logp};
        MK_TRY(mk_trainer_pass(s->o.trainer, &p, err));
        int64_t at = 0;
        for (int64_t i = 0; i < b.n_seq; i++) {
            for (int64_t j = 0; j < b.seq[i].seq.n_target; j++) {
                sum -= (double)b.seq[i].weight * (double)s->logp[at++];
                weight += (double)b.seq[i].weight;
            }
        }
    } while (!b.last);
    *score = weight > 0 ? sum / weight : 0;
    json_object_set_new(log, "eval_loss", json_real(*score));
    return MK_OK;
}

static mk_status evaluate(void *m, int64_t number, double *score, json_t *log, mk_err *err) {
    mk_supervised *s = m;
    (void)number;
    *score = json_number_value(json_object_get(log, "loss"));
    if (s->eval) {
        MK_TRY(held_out_loss(s, score, log, err));
    }
    if (s->o.check) {
        double mean = 0;
        MK_TRY(mk_samples_mean(s->o.answers, s->o.check, s->o.n_check, 0, &mean, err));
        json_object_set_new(log, "accuracy", json_real(mean));
        *score = -mean;
    }
    return MK_OK;
}

static json_t *tell(void *m) {
    const mk_supervised *s = m;
    int64_t epoch, index;
    mk_batcher_tell(s->batcher, &epoch, &index);
    return json_pack("{s:I, s:I}", "epoch", (json_int_t)epoch, "index", (json_int_t)index);
}

static mk_status seek(void *m, const json_t *at, mk_err *err) {
    mk_supervised *s = m;
    return mk_batcher_seek(s->batcher, json_integer_value(json_object_get(at, "epoch")),
                           json_integer_value(json_object_get(at, "index")), err);
}

const mk_method mk_method_sft = {"sft", step, evaluate, tell, seek, NULL, NULL};
const mk_method mk_method_pretrain = {"pretrain", step, evaluate, tell, seek, NULL, NULL};
