// See grpo.h.
//
// A sampling serves n_inner updates, each on its share of the groups:
//
//   draw    completions, rewards; groups that teach nothing are replaced, in rounds; advantages.
//           Tokens of the sampling policy's log p are kept
//   step    weight of a token = [not clipped] * ratio * advantage * norm      (trainer.h's loss
//           is sum(weight * -log p), so this is the gradient of the clipped objective)
//
// A checkpoint is made only where a sampling begins (`whole`), and its position in the data counts
// every prompt that was drawn, replaced or not, so a run that is resumed draws the same completions
// of the same prompts from the same weights.
#include "train/grpo.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"
#include "train/steplog.h"

typedef enum { NORM_SEQUENCE, NORM_LIMIT, NORM_TOKENS } norm_kind;

typedef struct {
    const char *name;
    bool by_std;       // advantages divided by the standard deviation of the group
    bool by_sequence;  // one ratio per completion
    norm_kind norm;    // 1 / (sequences * length), 1 / (sequences * max_tok), 1 / tokens
    double clip_low, clip_high;
    int64_t n_retry;
} variant;

static const variant variants[] = {
    {"grpo", true, false, NORM_SEQUENCE, 0.2, 0.2, 0},
    {"dr-grpo", false, false, NORM_LIMIT, 0.2, 0.2, 0},
    {"dapo", true, false, NORM_TOKENS, 0.2, 0.28, 3},
    {"gspo", true, true, NORM_SEQUENCE, 3e-4, 4e-4, 0},
};
#define N_VARIANT (sizeof variants / sizeof variants[0])

struct mk_grpo {
    mk_grpo_opts o;
    const variant *v;
    double clip_low, clip_high;
    int64_t n_retry;
    mk_batcher *batcher;
    mk_samples *samples, *greedy;
    int64_t *which;       // [n_prompt] samples of the data that are drawn next
    int64_t *place;       // [n_prompt] groups that they replace
    double *advantage;    // [n_prompt * group]
    int64_t inner;        // updates made of this sampling
    int64_t *use, n_use;  // completions that are learned from, in order
    // one pass
    mk_data_seq *seq;  // [n_seq]
    int64_t *of;       // [n_seq] completion of a sequence
    int64_t n_in;
    int32_t *ids;   // [n_row] prompts and completions
    uint8_t *mask;  // [n_row]
    float *entropy, *logp;
    // sums of a step
    double norm, entropy_sum, max_dlogp;
    int64_t n_tok, n_clipped;
    mk_steplog *log;
};

// --- making --------------------------------------------------------------------------------------

static const variant *find_variant(const char *name) {
    for (size_t i = 0; i < N_VARIANT; i++) {
        if (strcmp(variants[i].name, name) == 0) {
            return &variants[i];
        }
    }
    return NULL;
}

static mk_status check(const mk_grpo_opts *o, mk_err *err) {
    if (!find_variant(o->variant)) {
        return MK_FAIL(err, MK_EUSAGE, "unknown variant '%s', expected grpo, dr-grpo, dapo or gspo",
                       o->variant);
    }
    if (o->group < 2) {
        return MK_FAIL(err, MK_EUSAGE, "a group of %lld has nothing to compare, expected 2 or more",
                       (long long)o->group);
    }
    if (o->n_inner < 1 || o->n_prompt % o->n_inner != 0) {
        return MK_FAIL(err, MK_EUSAGE, "%lld prompts cannot be divided into %lld updates",
                       (long long)o->n_prompt, (long long)o->n_inner);
    }
    if (!(o->temperature > 0)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "temperature is %g, expected more than 0: all of a group "
                       "would be equal",
                       (double)o->temperature);
    }
    return MK_OK;
}

static mk_status make_arrays(mk_grpo *g, mk_err *err) {
    size_t n = (size_t)g->o.n_prompt * (size_t)g->o.group, seqs = (size_t)g->o.n_seq,
           rows = (size_t)g->o.n_row + seqs;
    g->which = mk_try_alloc((size_t)g->o.n_prompt, sizeof *g->which);
    g->place = mk_try_alloc((size_t)g->o.n_prompt, sizeof *g->place);
    g->advantage = mk_try_alloc(n, sizeof *g->advantage);
    g->use = mk_try_alloc(n, sizeof *g->use);
    g->seq = mk_try_alloc(seqs, sizeof *g->seq);
    g->of = mk_try_alloc(seqs, sizeof *g->of);
    g->ids = mk_try_alloc(rows, sizeof *g->ids);
    g->mask = mk_try_alloc(rows, sizeof *g->mask);
    g->entropy = mk_try_alloc(rows, sizeof *g->entropy);
    if (!g->which || !g->place || !g->advantage || !g->use || !g->seq || !g->of || !g->ids ||
        !g->mask || !g->entropy) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu completions", n);
    }
    return MK_OK;
}

static mk_samples_opts samples_opts(const mk_grpo_opts *o, int64_t n_prompt, int64_t group,
                                    float temperature) {
    return (mk_samples_opts){.engine = mk_trainer_engine(o->trainer),
                             .tokenizer = o->tokenizer,
                             .rewards = o->rewards,
                             .n_seq = o->n_seq,
                             .n_prompt = n_prompt,
                             .group = group,
                             .max_tok = o->max_tok,
                             .temperature = temperature,
                             .progress = o->progress,
                             .progress_arg = o->progress_arg};
}

#define EVAL_PROMPTS 64  // at a time

static mk_status set_up(mk_grpo *g, mk_err *err) {
    mk_batcher_opts bo = {.data = g->o.data, .n_item = 1, .shuffle = true, .seed = g->o.seed};
    mk_samples_opts so = samples_opts(&g->o, g->o.n_prompt, g->o.group, g->o.temperature);
    mk_samples_opts eo = samples_opts(&g->o, EVAL_PROMPTS, 1, 0);
    MK_TRY(make_arrays(g, err));
    MK_TRY(mk_batcher_create(&bo, &g->batcher, err));
    MK_TRY(mk_samples_create(&so, &g->samples, err));
    return g->o.eval ? mk_samples_create(&eo, &g->greedy, err) : MK_OK;
}

mk_status mk_grpo_create(const mk_grpo_opts *o, mk_grpo **out, mk_err *err) {
    MK_TRY(check(o, err));
    mk_grpo *g = mk_zalloc(sizeof *g);
    g->o = *o;
    g->v = find_variant(o->variant);
    g->clip_low = o->clip_low >= 0 ? o->clip_low : g->v->clip_low;
    g->clip_high = o->clip_high >= 0 ? o->clip_high : g->v->clip_high;
    g->n_retry = o->n_retry >= 0 ? o->n_retry : g->v->n_retry;
    mk_status st = set_up(g, err);
    if (st != MK_OK) {
        mk_grpo_destroy(g);
        return st;
    }
    *out = g;
    return MK_OK;
}

void mk_grpo_destroy(mk_grpo *g) {
    if (g) {
        void *blocks[] = {g->which, g->place, g->advantage, g->use,    g->seq,
                          g->of,    g->ids,   g->mask,      g->entropy};
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
            mk_free(blocks[i]);
        }
        mk_batcher_destroy(g->batcher);
        mk_samples_destroy(g->samples);
        mk_samples_destroy(g->greedy);
        (void)mk_steplog_close(g->log, NULL);  // every line has been checked when it was written
        mk_free(g);
    }
}

int64_t mk_grpo_n_retry(const mk_grpo *g) {
    return g->n_retry;
}

// --- sampling and advantages ---------------------------------------------------------------------

// Mean and (population) standard deviation of a group's rewards.
static void moments(const double *r, int64_t n, double *mean, double *std) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += r[i];
    }
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        square += (r[i] - *mean) * (r[i] - *mean);
    }
    *std = sqrt(square / (double)n);
}

#define STD_EPS 1e-4
#define NO_STD  1e-9  // below it rewards are equal

static void advantages(mk_grpo *g) {
    int64_t n = g->o.group;
    for (int64_t p = 0; p < g->o.n_prompt; p++) {
        double mean, std;
        moments(g->samples->reward + p * n, n, &mean, &std);
        for (int64_t i = p * n; i < (p + 1) * n; i++) {
            double a = g->samples->reward[i] - mean;
            g->advantage[i] = std < NO_STD ? 0 : g->v->by_std ? a / (std + STD_EPS) : a;
        }
    }
}

// Groups that teach nothing, into place[]; how many there are.
static int64_t find_equal(mk_grpo *g) {
    int64_t n = 0;
    for (int64_t p = 0; p < g->o.n_prompt; p++) {
        double mean, std;
        moments(g->samples->reward + p * g->o.group, g->o.group, &mean, &std);
        if (std < NO_STD) {
            g->place[n++] = p;
        }
    }
    return n;
}

// Of all completions that a step has sampled.
typedef struct {
    int64_t n, n_tok, n_cut, n_group, n_equal, n_redrawn, n_redrawn_tok;
    double mean, square;  // of the rewards: mean, sum of squared differences from it
    double each[MK_REWARDS_MAX];
} tally;

static void count_group(const mk_grpo *g, int64_t p, tally *t) {
    const mk_samples *s = g->samples;
    int n_reward = mk_rewards_count(g->o.rewards);
    for (int64_t i = p * g->o.group; i < (p + 1) * g->o.group; i++) {
        double d = s->reward[i] - t->mean;  // Welford 1962
        t->n++;
        t->mean += d / (double)t->n;
        t->square += d * (s->reward[i] - t->mean);
        t->n_tok += s->item[i].n;
        t->n_cut += !s->item[i].finished;
        for (int r = 0; r < n_reward; r++) {
            t->each[r] += s->each[i * n_reward + r];
        }
    }
    t->n_group++;
}

static void log_tally(const mk_grpo *g, const tally *t, json_t *log) {
    double n = (double)t->n;
    json_object_set_new(log, "reward", json_real(t->mean));
    json_object_set_new(log, "reward_std", json_real(sqrt(t->square / n)));
    json_object_set_new(log, "length", json_real((double)t->n_tok / n));
    json_object_set_new(log, "truncated", json_real((double)t->n_cut / n));
    json_object_set_new(log, "zero_variance", json_real((double)t->n_equal / (double)t->n_group));
    for (int r = 0; r < mk_rewards_count(g->o.rewards); r++) {
        char name[128];
        (void)snprintf(name, sizeof name, "reward/%s", mk_rewards_name(g->o.rewards, r));
        json_object_set_new(log, name, json_real(t->each[r] / n));
    }
    if (g->n_retry > 0) {
        json_object_set_new(log, "redrawn", json_integer(t->n_redrawn));
        json_object_set_new(log, "redrawn_tokens", json_integer(t->n_redrawn_tok));
    }
}

static void next_prompts(mk_grpo *g, int64_t n) {
    mk_data_batch b;
    for (int64_t p = 0; p < n; p++) {
        mk_batcher_next(g->batcher, &b);
        g->which[p] = b.seq[0].sample;
    }
}

// Groups that teach nothing are counted and replaced, as long as prompts are left to be drawn: in
// every round the first ones, by the next prompts.  The seed of a round is its own, because in few
// data a prompt comes a second time.
static mk_status refill(mk_grpo *g, uint64_t seed, tally *t, mk_err *err) {
    int64_t left = g->n_retry * g->o.n_prompt;
    for (uint64_t round = 1;; round++) {
        int64_t n_equal = find_equal(g), n = n_equal < left ? n_equal : left;
        if (n == 0) {
            t->n_equal += n_equal;
            return MK_OK;
        }
        int64_t before = t->n_tok;
        for (int64_t i = 0; i < n; i++) {
            count_group(g, g->place[i], t);
        }
        t->n_redrawn_tok += t->n_tok - before;
        t->n_redrawn += n;
        t->n_equal += n;
        next_prompts(g, n);
        MK_TRY(mk_samples_redraw(g->samples, g->o.data, g->which, g->place, n,
                                 mk_rng_u64(seed, round), err));
        left -= n;
    }
}

static json_t *sample_line(const mk_grpo *g, int64_t i, int64_t step, const char *prompt,
                           size_t n) {
    const mk_samples *s = g->samples;
    int n_reward = mk_rewards_count(g->o.rewards);
    json_t *o = json_object();
    json_object_set_new(o, "step", json_integer(step + 1));
    json_object_set_new(o, "prompt", mk_json_text(prompt, n));
    json_object_set_new(o, "completion", mk_json_text(s->text[i], s->n_text[i]));
    json_object_set_new(o, "reward", json_real(s->reward[i]));
    for (int r = 0; r < n_reward; r++) {
        char name[128];
        (void)snprintf(name, sizeof name, "reward/%s", mk_rewards_name(g->o.rewards, r));
        json_object_set_new(o, name, json_real(s->each[i * n_reward + r]));
    }
    return o;
}

static mk_status log_samples(mk_grpo *g, int64_t step, mk_err *err) {
    const mk_samples *s = g->samples;
    mk_status st = MK_OK;
    for (int64_t k = 0; st == MK_OK && g->log && k < g->o.n_sample && k < s->n; k++) {
        int64_t i = k * (s->n / g->o.n_sample > 0 ? s->n / g->o.n_sample : 1);
        char *prompt = NULL;
        size_t n = 0;
        MK_TRY(mk_tokenizer_decode(g->o.tokenizer, s->item[i].prompt, s->item[i].n_prompt,
                                   (mk_decode_opts){false}, &prompt, &n, err));
        json_t *o = sample_line(g, i, step, prompt, n);
        st = mk_steplog_write(g->log, o, err);
        json_decref(o);
        mk_free(prompt);
    }
    return st;
}

static mk_status draw(mk_grpo *g, int64_t step, json_t *log, mk_err *err) {
    uint64_t seed = mk_rng_u64(g->o.seed, (uint64_t)step * 64);
    tally t = {0};
    next_prompts(g, g->o.n_prompt);
    MK_TRY(mk_samples_draw(g->samples, g->o.data, g->which, g->o.n_prompt, seed, err));
    MK_TRY(refill(g, seed, &t, err));
    for (int64_t p = 0; p < g->o.n_prompt; p++) {
        count_group(g, p, &t);
    }
    advantages(g);
    log_tally(g, &t, log);
    return log_samples(g, step, err);
}

// --- learning ------------------------------------------------------------------------------------

// Completions of this update that have something to teach.
static void choose_used(mk_grpo *g) {
    int64_t per = g->o.n_prompt / g->o.n_inner * g->o.group;
    g->n_use = 0;
    for (int64_t i = g->inner * per; i < (g->inner + 1) * per; i++) {
        const mk_rollout_item *item = &g->samples->item[i];
        if (g->advantage[i] != 0 && item->n > 0 && (item->finished || g->o.keep_truncated)) {
            g->use[g->n_use++] = i;
        }
    }
}

// What a token's weight is divided by, but for the length of its completion.
static double norm_of(const mk_grpo *g) {
    int64_t n_tok = 0;
    for (int64_t i = 0; i < g->n_use; i++) {
        n_tok += g->samples->item[g->use[i]].n;
    }
    double per = (double)(g->o.n_prompt / g->o.n_inner * g->o.group);
    switch (g->v->norm) {
    case NORM_SEQUENCE:
        return per;
    case NORM_LIMIT:
        return per * (double)g->o.max_tok;
    case NORM_TOKENS:
        break;
    }
    return n_tok > 0 ? (double)n_tok : 1;
}

static bool is_clipped(const mk_grpo *g, double ratio, double advantage) {
    return advantage > 0 ? ratio > 1 + g->clip_high : ratio < 1 - g->clip_low;
}

// Ratio of a whole completion: the exponential of its mean difference (GSPO, eq. 7).
static double sequence_ratio(const float *now, const float *then, int64_t n) {
    double sum = 0;
    for (int64_t t = 0; t < n; t++) {
        sum += (double)now[t] - (double)then[t];
    }
    return (double)mk_expf((float)(sum / (double)n));
}

static void weigh(void *arg, const float *logp, float *weight, int64_t n) {
    mk_grpo *g = arg;
    int64_t at = 0;
    for (int64_t s = 0; s < g->n_in; s++) {
        const mk_rollout_item *item = &g->samples->item[g->of[s]];
        double a = g->advantage[g->of[s]];
        double scale = a / g->norm / (g->v->norm == NORM_SEQUENCE ? (double)item->n : 1);
        double whole = g->v->by_sequence ? sequence_ratio(logp + at, item->logp, item->n) : 0;
        for (int64_t t = 0; t < item->n; t++, at++) {
            double d = (double)logp[at] - (double)item->logp[t];
            double ratio = g->v->by_sequence ? whole : (double)mk_expf((float)d);
            bool clipped = is_clipped(g, ratio, a);
            weight[at] = clipped ? 0 : (float)(ratio * scale);
            g->n_clipped += clipped;
            g->max_dlogp = fabs(d) > g->max_dlogp ? fabs(d) : g->max_dlogp;
        }
    }
    MK_ASSERT(at == n);
}

// Lays out sequences from use[at] on, as many as fit; returns where the next pass begins.
static int64_t lay_out(mk_grpo *g, int64_t at) {
    int64_t row = 0;
    for (g->n_in = 0; at < g->n_use && g->n_in < g->o.n_seq; at++, g->n_in++) {
        const mk_rollout_item *item = &g->samples->item[g->use[at]];
        int64_t n = item->n_prompt + item->n;
        if (row + n > g->o.n_row) {
            break;
        }
        memcpy(g->ids + row, item->prompt, (size_t)item->n_prompt * sizeof *g->ids);
        memcpy(g->ids + row + item->n_prompt, item->ids, (size_t)item->n * sizeof *g->ids);
        memset(g->mask + row, 0, (size_t)item->n_prompt);
        memset(g->mask + row + item->n_prompt, 1, (size_t)item->n);
        g->seq[g->n_in] = (mk_data_seq){g->ids + row, g->mask + row, n, item->n};
        g->of[g->n_in] = g->use[at];
        row += n;
    }
    return at;
}

static mk_status learn(mk_grpo *g, mk_err *err) {
    for (int64_t at = 0; at < g->n_use;) {
        int64_t next = lay_out(g, at), n = 0;
        MK_ASSERT(next > at);  // the window is no longer than a pass
        mk_train_pass p = {.seq = g->seq,
                           .n_seq = g->n_in,
                           .temperature = g->o.temperature,
                           .weigh = weigh,
                           .arg = g,
                           .entropy = g->entropy};
        MK_TRY(mk_trainer_pass(g->o.trainer, &p, err));
        for (int64_t s = 0; s < g->n_in; s++) {
            n += g->seq[s].n_target;
        }
        for (int64_t i = 0; i < n; i++) {
            g->entropy_sum += (double)g->entropy[i];
        }
        g->n_tok += n;
        at = next;
    }
    return MK_OK;
}

static mk_status step(void *m, int64_t number, double *g_scale, json_t *log, mk_err *err) {
    mk_grpo *g = m;
    *g_scale = 1;
    if (g->inner == 0) {
        MK_TRY(draw(g, number, log, err));
    }
    choose_used(g);
    g->norm = norm_of(g);
    g->entropy_sum = g->max_dlogp = 0;
    g->n_tok = g->n_clipped = 0;
    MK_TRY(learn(g, err));
    double n = g->n_tok > 0 ? (double)g->n_tok : 1;
    json_object_set_new(log, "tokens", json_integer(g->n_tok));
    json_object_set_new(log, "entropy", json_real(g->entropy_sum / n));
    json_object_set_new(log, "clip_fraction", json_real((double)g->n_clipped / n));
    json_object_set_new(log, g->inner == 0 ? "max_dlogp" : "max_dlogp_stale",
                        json_real(g->max_dlogp));
    g->inner = (g->inner + 1) % g->o.n_inner;
    return MK_OK;
}

// --- the rest of the method ----------------------------------------------------------------------

static mk_status evaluate(void *m, int64_t number, double *score, json_t *log, mk_err *err) {
    mk_grpo *g = m;
    (void)number;
    if (!g->o.eval) {
        *score = -json_number_value(json_object_get(log, "reward"));
        return MK_OK;
    }
    double mean = 0;
    MK_TRY(mk_samples_mean(g->greedy, g->o.eval, g->o.n_eval, 0, &mean, err));
    *score = -mean;
    json_object_set_new(log, "accuracy", json_real(-*score));
    return MK_OK;
}

static json_t *tell(void *m) {
    const mk_grpo *g = m;
    int64_t epoch, index;
    mk_batcher_tell(g->batcher, &epoch, &index);
    return json_pack("{s:I, s:I}", "epoch", (json_int_t)epoch, "index", (json_int_t)index);
}

static mk_status seek(void *m, const json_t *at, mk_err *err) {
    mk_grpo *g = m;
    g->inner = 0;
    return mk_batcher_seek(g->batcher, json_integer_value(json_object_get(at, "epoch")),
                           json_integer_value(json_object_get(at, "index")), err);
}

static bool whole(void *m) {
    return ((const mk_grpo *)m)->inner == 0;
}

static mk_status begin(void *m, int64_t done, mk_err *err) {
    mk_grpo *g = m;
    return g->o.samples && !g->log ? mk_steplog_open(g->o.samples, done, &g->log, err) : MK_OK;
}

const mk_method mk_method_grpo = {"grpo", step, evaluate, tell, seek, whole, begin};
