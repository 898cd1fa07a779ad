// Sampling without surprises: see sample.h for what is promised.
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/ops.h"

enum {
    BLOCK = 32,       // logits that are compared at once; gcc makes no vectors of 16
    STRETCH = 512,    // weights that are computed at once
    N_TIER = 3,       // ranges of logits that are looked at one after the other
    TIER = 8,         // the first candidates have e^-8 of the best one's weight or more
    FEW = 4096,       // candidates of a tier that are sorted at once
    N_BUCKET = 1024,  // parts of a tier with more
    // further ones for what is not in the tier, so that additions do not wait for each other
    N_OTHER = 16,
    SHORT = 32  // candidates that are sorted by insertion
};

// What is known of some candidates before they are sorted.
typedef struct {
    double sum;   // of their weights, added by ascending id
    float low;    // the smallest logit
    float least;  // the smallest weight
    int32_t n;
} bucket;

struct mk_sampler {
    mk_sample_params p;
    int64_t n_vocab, n_ctx, n_history;
    int32_t *history;  // prompt and generated ids, oldest first
    int32_t *n_seen;   // [n_vocab] how often each id was generated
    int32_t *mark;     // [n_vocab] stamp of the last penalty pass that touched the id
    int32_t stamp;
    float *work;  // [n_vocab] adjusted logits
    float max;    // the largest of them
    // Candidates with logits in [group_from, group_below), sorted, as keys (key_of).
    uint64_t *group, *spare;  // [n_vocab + 1]: a place to write what is not kept
    int64_t n_group;
    float group_from, group_below;
    bucket bucket[N_BUCKET + N_OTHER];  // of the logits in [split_from, split_below), and others
    float split_from, split_below;
};

// --- parameters ----------------------------------------------------------------------------------

static mk_status bad_value(const char *name, double value, const char *range, mk_err *err) {
    return MK_FAIL(err, MK_EUSAGE, "%s is %g, expected %s", name, value, range);
}

mk_status mk_sample_check(const mk_sample_params *p, int64_t n_vocab, mk_err *err) {
    const struct {
        const char *name;
        double value, min, max;
        const char *range;
    } rows[] = {
        {"temperature", (double)p->temperature, 0, 100, "0 to 100"},
        {"top_k", p->top_k, 0, INT32_MAX, "0 (off) or more"},
        {"top_p", (double)p->top_p, 0, 1, "0 to 1"},
        {"min_p", (double)p->min_p, 0, 1, "0 to 1"},
        {"repetition_penalty", (double)p->repetition_penalty, 1e-3, 1e3, "0.001 to 1000"},
        {"repetition_last_n", p->repetition_last_n, -1, INT32_MAX, "-1 (all) or more"},
        {"presence_penalty", (double)p->presence_penalty, -100, 100, "-100 to 100"},
        {"frequency_penalty", (double)p->frequency_penalty, -100, 100, "-100 to 100"},
        {"n_token", (double)p->n_token, 0, (double)n_vocab, "at most the size of the output"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!(rows[i].value >= rows[i].min && rows[i].value <= rows[i].max)) {
            return bad_value(rows[i].name, rows[i].value, rows[i].range, err);
        }
    }
    for (int32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || p->bias[i].id >= n_vocab) {
            return MK_FAIL(err, MK_EUSAGE, "logit_bias names token %d, expected 0 to %lld",
                           p->bias[i].id, (long long)(n_vocab - 1));
        }
        if (isnan(p->bias[i].bias)) {
            return MK_FAIL(err, MK_EUSAGE, "logit_bias of token %d is not a number", p->bias[i].id);
        }
    }
    return MK_OK;
}

mk_status mk_sampler_create(const mk_sample_params *p, int64_t n_vocab, int64_t n_ctx,
                            mk_sampler **out, mk_err *err) {
    MK_TRY(mk_sample_check(p, n_vocab, err));
    mk_sampler *s = mk_zalloc(sizeof *s);
    *s = (mk_sampler){.p = *p, .n_vocab = n_vocab, .n_ctx = n_ctx};
    s->p.n_token = p->n_token ? p->n_token : n_vocab;
    s->history = mk_try_alloc((size_t)n_ctx, sizeof *s->history);
    s->n_seen = mk_try_alloc((size_t)n_vocab, sizeof *s->n_seen);
    s->mark = mk_try_alloc((size_t)n_vocab, sizeof *s->mark);
    s->work = mk_try_alloc((size_t)n_vocab, sizeof *s->work);
    s->group = mk_try_alloc((size_t)n_vocab + 1, sizeof *s->group);
    s->spare = mk_try_alloc((size_t)n_vocab + 1, sizeof *s->spare);
    if (!s->history || !s->n_seen || !s->mark || !s->work || !s->group || !s->spare) {
        mk_sampler_destroy(s);
        return MK_FAIL(err, MK_ENOMEM, "no memory to sample from %lld tokens", (long long)n_vocab);
    }
    *out = s;
    return MK_OK;
}

void mk_sampler_destroy(mk_sampler *s) {
    if (!s) {
        return;
    }
    mk_free(s->history);
    mk_free(s->n_seen);
    mk_free(s->mark);
    mk_free(s->work);
    mk_free(s->group);
    mk_free(s->spare);
    mk_free(s);
}

void mk_sampler_accept(mk_sampler *s, int32_t id, bool generated) {
    MK_ASSERT(s->n_history < s->n_ctx);
    s->history[s->n_history++] = id;
    if (generated && id >= 0 && id < s->n_vocab) {
        s->n_seen[id]++;
    }
}

void mk_sampler_reset(mk_sampler *s) {
    s->n_history = 0;
    memset(s->n_seen, 0, (size_t)s->n_vocab * sizeof *s->n_seen);
}

// --- sums ----------------------------------------------------------------------------------------

// Sum of e^((logit - max) / t), by ascending id.
static double sum_weights(const float *logits, int64_t n, float max, float t) {
    _Alignas(64) float e[STRETCH];
    double sum = 0;
    for (int64_t i = 0; i < n; i += STRETCH) {
        int64_t left = n - i < STRETCH ? n - i : STRETCH;
        mk_row_exp(e, logits + i, left, max, t);
        for (int64_t k = 0; k < left; k++) {
            sum += (double)e[k];
        }
    }
    return sum;
}

// --- adjusting logits ----------------------------------------------------------------------------

static void copy_masked(mk_sampler *s, const float *logits) {
    for (int64_t i = 0; i < s->p.n_token; i++) {
        s->work[i] = isnan(logits[i]) ? -INFINITY : logits[i];
    }
    for (int64_t i = s->p.n_token; i < s->n_vocab; i++) {
        s->work[i] = -INFINITY;
    }
    for (int32_t i = 0; i < s->p.n_bias; i++) {
        float *l = &s->work[s->p.bias[i].id];
        *l += s->p.bias[i].bias;
        *l = isnan(*l) ? -INFINITY : *l;  // a forbidden token stays forbidden
    }
}

// Each token of the window is penalised once, however often it occurs.
static void penalise_repetition(mk_sampler *s) {
    if (s->p.repetition_penalty == 1.0f) {
        return;
    }
    int64_t n = s->p.repetition_last_n < 0 || s->p.repetition_last_n > s->n_history
                    ? s->n_history
                    : s->p.repetition_last_n;
    s->stamp++;
    for (int64_t i = s->n_history - n; i < s->n_history; i++) {
        int32_t id = s->history[i];
        if (id < 0 || id >= s->n_vocab || s->mark[id] == s->stamp) {
            continue;
        }
        s->mark[id] = s->stamp;
        float l = s->work[id];
        s->work[id] = l > 0 ? l / s->p.repetition_penalty : l * s->p.repetition_penalty;
    }
}

static void penalise_use(mk_sampler *s) {
    if (s->p.presence_penalty == 0 && s->p.frequency_penalty == 0) {
        return;
    }
    for (int64_t i = 0; i < s->n_vocab; i++) {
        if (s->n_seen[i] > 0) {
            s->work[i] -= s->p.presence_penalty + (float)s->n_seen[i] * s->p.frequency_penalty;
        }
    }
}

static bool adjusts(const mk_sample_params *p) {
    return p->n_bias > 0 || p->repetition_penalty != 1.0f || p->presence_penalty != 0 ||
           p->frequency_penalty != 0;
}

// The lowest id among the largest logits; 0 if all are NaN.
static int32_t best(const float *logits, int64_t n) {
    float max = mk_row_max(logits, n);
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        int any = 0;
        for (int k = 0; k < BLOCK; k++) {
            any |= logits[i + k] == max;
        }
        if (any) {
            break;
        }
    }
    while (i < n && logits[i] != max) {
        i++;
    }
    return i < n ? (int32_t)i : 0;
}

// --- the candidates, ordered by (logit descending, id ascending) ---------------------------------
//
// A walk takes them in this order and adds up their weights.  Few are ever looked at one by one:
//
// 1. Those near the best one are gathered and sorted first, others, tier after tier, when the walk
//    gets there.
// 2. A tier with many candidates (flat logits) is split into buckets by logit, and a bucket in
//    which the walk cannot end is taken as a whole: where no sum rounds, order does not matter.
// 3. No sum rounds while it is below 2^53 units of the last place of the smallest weight in it: all
//    weights are multiples of that unit then, and so is every partial sum.  That holds for all
//    weights of e^-8 or more if there are fewer than 180,000 of them.

#define EXACT 0x1p29  // 2^53 units of the last place of w are more than 2^29 w

// From a float's bits to a number that ascends when the float descends, and back.  No branch: signs
// are random.
static uint32_t turn(uint32_t u) {
    return u ^ (0x7fffffffU & ((u >> 31) - 1));
}

// Keys ascend in the order of candidates.
static uint64_t key_of(float logit, int64_t id) {
    uint32_t u = mk_f32_bits(logit + 0.0f);  // -0 is as good as 0
    return (uint64_t)turn(u) << 32 | (uint64_t)id;
}

static float logit_of(uint64_t key) {
    uint32_t u = (uint32_t)(key >> 32);
    return mk_f32_from_bits(turn(u));
}

static void sort_few(uint64_t *a, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        uint64_t key = a[i];
        int64_t k = i;
        for (; k > 0 && a[k - 1] > key; k--) {
            a[k] = a[k - 1];
        }
        a[k] = key;
    }
}

// Radix sort by the logits' bytes; it is stable, and the ids ascend already.
static void sort_group(mk_sampler *s) {
    if (s->n_group <= SHORT) {
        sort_few(s->group, s->n_group);
        return;
    }
    int64_t n = s->n_group, at[4][256] = {0};
    for (int64_t i = 0; i < n; i++) {
        for (int b = 0; b < 4; b++) {
            at[b][s->group[i] >> (32 + 8 * b) & 255]++;
        }
    }
    for (int b = 0; b < 4; b++) {
        int shift = 32 + 8 * b;
        if (at[b][s->group[0] >> shift & 255] == n) {
            continue;  // all alike
        }
        for (int64_t k = 0, sum = 0; k < 256; k++) {
            int64_t here = at[b][k];
            at[b][k] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++) {
            s->spare[at[b][s->group[i] >> shift & 255]++] = s->group[i];
        }
        uint64_t *sorted = s->spare;
        s->spare = s->group;
        s->group = sorted;
    }
}

// The ids [i, end) with logits in [from, below) join the group.
static void gather_ids(mk_sampler *s, int64_t i, int64_t end, float from, float below) {
    uint64_t *to = s->group;
    int64_t n = s->n_group;
    for (; i < end; i++) {
        float l = s->work[i];
        to[n] = key_of(l, i);
        n += (l >= from) & (l < below);
    }
    s->n_group = n;
}

// Makes the group the candidates with logits in [from, below).  Returns false if they are more than
// `most`.
static bool gather(mk_sampler *s, float from, float below, int64_t most) {
    if (s->group_from == from && s->group_below == below) {
        return true;
    }
    const float *l = s->work;
    int64_t i = 0;
    s->n_group = 0;
    s->group_from = s->group_below = NAN;
    for (; i + BLOCK <= s->n_vocab && s->n_group <= most; i += BLOCK) {
        int any = 0;
        for (int k = 0; k < BLOCK; k++) {
            any |= (l[i + k] >= from) & (l[i + k] < below);
        }
        if (any) {
            gather_ids(s, i, i + BLOCK, from, below);
        }
    }
    if (s->n_group > most) {
        return false;
    }
    gather_ids(s, i, s->n_vocab, from, below);
    sort_group(s);
    s->group_from = from;
    s->group_below = below;
    return true;
}

// Splits the logits in [from, below) into buckets of 1 / scale each, the last one without an end.
// A smaller logit never gets into an earlier bucket: every operation keeps the order.
static void split(mk_sampler *s, float from, float below, float scale) {
    _Alignas(64) float e[STRETCH];
    int32_t at[STRETCH];
    if (s->split_from == from && s->split_below == below) {
        return;
    }
    for (int k = 0; k < N_BUCKET + N_OTHER; k++) {
        s->bucket[k] = (bucket){.low = INFINITY, .least = INFINITY};
    }
    const float top = below < INFINITY ? below : s->max, last = N_BUCKET - 1;
    for (int64_t i = 0; i < s->n_vocab; i += STRETCH) {
        const float *l = s->work + i;
        int64_t left = s->n_vocab - i < STRETCH ? s->n_vocab - i : STRETCH;
        mk_row_exp(e, l, left, s->max, s->p.temperature);
        for (int64_t k = 0; k < left; k++) {
            float v = (top - l[k]) * scale;
            v = v < last ? v : last;  // NaN too: 0 times infinity
            v = v > 0 ? v : 0;
            at[k] = (l[k] >= from) & (l[k] < below) ? (int32_t)v : N_BUCKET + (int32_t)k % N_OTHER;
        }
        for (int64_t k = 0; k < left; k++) {
            bucket *b = &s->bucket[at[k]];
            b->sum += (double)e[k];
            b->low = l[k] < b->low ? l[k] : b->low;
            b->least = e[k] < b->least ? e[k] : b->least;
            b->n++;
        }
    }
    s->split_from = from;
    s->split_below = below;
}

// --- walks ---------------------------------------------------------------------------------------

typedef struct {
    // ends behind `limit` candidates, behind the one with which their weights reach `enough`, or
    // before the first whose weight is below min_p
    int64_t limit;
    double enough, min_p;
    int64_t n;  // candidates taken
    double sum;
    float least;  // weight of those that were taken
    int32_t id;   // the last of them
    bool over;
} walk;

// Takes the group's candidates one by one.
static void walk_group(const mk_sampler *s, walk *w) {
    _Alignas(64) float e[STRETCH], l[STRETCH];
    for (int64_t i = 0; i < s->n_group && !w->over; i += STRETCH) {
        int64_t left = s->n_group - i < STRETCH ? s->n_group - i : STRETCH;
        for (int64_t k = 0; k < left; k++) {
            l[k] = logit_of(s->group[i + k]);
        }
        mk_row_exp(e, l, left, s->max, s->p.temperature);
        for (int64_t k = 0; k < left && !w->over; k++) {
            if (w->n > 0 && (double)e[k] < w->min_p) {  // the best one has weight 1
                w->over = true;
                break;
            }
            w->sum += (double)e[k];
            w->n++;
            w->id = (int32_t)(uint32_t)s->group[i + k];
            w->least = e[k] < w->least ? e[k] : w->least;
            w->over = w->n == w->limit || w->sum >= w->enough;
        }
    }
}

static void walk_buckets(mk_sampler *s, walk *w, float from, float below) {
    for (const bucket *b = s->bucket; b < s->bucket + N_BUCKET && !w->over; b++) {
        if (b->n == 0) {
            continue;
        }
        double sum = w->sum + b->sum;
        float least = w->least < b->least ? w->least : b->least;
        if (!(sum < EXACT * (double)least)) {  // from here on in order
            (void)gather(s, from, below, s->n_vocab);
            walk_group(s, w);
            return;
        }
        if (w->n + b->n < w->limit && sum < w->enough && (double)b->least >= w->min_p) {
            w->n += b->n;
            w->sum = sum;
            w->least = least;
        } else {
            (void)gather(s, b->low, below, s->n_vocab);
            walk_group(s, w);
        }
        below = b->low;
    }
}

// At least one candidate is finite, none is more.  The last candidate is always taken by itself, so
// that its id is known: no bucket is taken that reaches the limit.
static void walk_all(mk_sampler *s, walk *w) {
    float below = INFINITY, width = TIER * s->p.temperature;
    for (int i = 0; i < N_TIER && !w->over; i++, width *= 2) {
        float from = (i == 0 ? s->max : below) - width;
        // the last tier is all that is left
        from = i < N_TIER - 1 && from > -FLT_MAX ? from : -FLT_MAX;
        if (gather(s, from, below, FEW)) {
            walk_group(s, w);
        } else {
            split(s, from, below, N_BUCKET / width);
            walk_buckets(s, w, from, below);
        }
        below = from;
    }
}

static int64_t count_candidates(const mk_sampler *s) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_vocab; i++) {
        n += s->work[i] > -INFINITY;
    }
    return n;
}

// Draws among the candidates that pass top-k, top-p and min-p.
static int32_t draw(mk_sampler *s, int64_t pos) {
    int64_t n_all = count_candidates(s);
    s->max = mk_row_max(s->work, s->n_vocab);
    if (n_all == 0 || s->max == INFINITY) {  // +inf leaves no choice
        return best(s->work, s->n_vocab);
    }
    s->group_from = s->group_below = s->split_from = s->split_below = NAN;  // of other logits
    double total = sum_weights(s->work, s->n_vocab, s->max, s->p.temperature);
    int64_t limit = s->p.top_k > 0 && s->p.top_k < n_all ? s->p.top_k : n_all;
    walk kept = {.limit = limit,
                 .enough = (double)s->p.top_p * total,
                 .min_p = (double)s->p.min_p,
                 .least = INFINITY};
    if (limit < n_all || s->p.top_p < 1 || s->p.min_p > 0) {
        walk_all(s, &kept);
    } else {
        kept.n = n_all;
        kept.sum = total;
    }
    double target = mk_rng_unit(s->p.seed, (uint64_t)pos) * kept.sum;
    // the first candidate with which the sum is above the target (nextafter is exact)
    walk w = {.limit = kept.n, .enough = nextafter(target, INFINITY), .least = INFINITY};
    walk_all(s, &w);
    return w.id;
}

int32_t mk_sampler_choose(mk_sampler *s, const float *logits, int64_t pos) {
    if (s->p.temperature == 0 && !adjusts(&s->p)) {
        return best(logits, s->p.n_token);
    }
    copy_masked(s, logits);
    penalise_repetition(s);
    penalise_use(s);
    return s->p.temperature == 0 ? best(s->work, s->n_vocab) : draw(s, pos);
}

// --- log-probabilities ---------------------------------------------------------------------------

static double log_sum(const float *logits, int64_t n, float *max) {
    *max = mk_row_max(logits, n);
    return mk_log(sum_weights(logits, n, *max, 1));
}

float mk_logprob_of(const float *logits, int64_t n_vocab, int32_t id) {
    float max;
    double lse = log_sum(logits, n_vocab, &max);
    return (float)((double)(logits[id] - max) - lse);
}

int mk_logprob_top(const float *logits, int64_t n_vocab, int n, mk_logprob *out) {
    float max;
    double lse = log_sum(logits, n_vocab, &max);
    int have = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (have == n && logits[i] <= logits[out[n - 1].id]) {
            continue;  // most, and without the subtraction
        }
        float lp = (float)((double)(logits[i] - max) - lse);
        if (have == n && !(lp > out[n - 1].logprob)) {
            continue;
        }
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && out[at - 1].logprob < lp; at--) {
            out[at] = out[at - 1];
        }
        out[at] = (mk_logprob){(int32_t)i, lp};
    }
    return have;
}
