// Sampling without surprises: see sample.h for what is promised.
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "ops/ops.h"

enum {
    BLOCK = 16,     // logits that are compared at once
    STRETCH = 512,  // weights that are computed at once
    TIER = 8        // the first candidates have e^-8 of the best one's weight or more
};

typedef struct {
    float logit;
    int32_t id;
} candidate;

struct mk_sampler {
    mk_sample_params p;
    int64_t n_vocab, n_ctx, n_history;
    int32_t *history;  // prompt and generated ids, oldest first
    int32_t *n_seen;   // [n_vocab] how often each id was generated
    int32_t *mark;     // [n_vocab] stamp of the last penalty pass that touched the id
    int32_t stamp;
    float *work;      // [n_vocab] adjusted logits
    candidate *heap;  // [n_vocab] the heap in front, taken candidates at the back
    int64_t n_heap, n_taken;
    float floor, step;  // what is below floor is not in the heap yet
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
    s->heap = mk_try_alloc((size_t)n_vocab, sizeof *s->heap);
    if (!s->history || !s->n_seen || !s->mark || !s->work || !s->heap) {
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
    mk_free(s->heap);
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
// Few of them are ever looked at: those near the best one go into a heap first, others, tier after
// tier, when it is empty.

static bool before(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *h, int64_t n, int64_t i) {
    candidate c = h[i];
    for (int64_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && before(h[child + 1], h[child])) {
            child++;
        }
        if (!before(h[child], c)) {
            break;
        }
        h[i] = h[child];
        i = child;
    }
    h[i] = c;
}

// The ids [i, end) with logits in [from, below) join the heap's array.
static void gather_ids(mk_sampler *s, int64_t i, int64_t end, float from, float below) {
    for (; i < end; i++) {
        if (s->work[i] >= from && s->work[i] < below) {
            s->heap[s->n_heap++] = (candidate){s->work[i], (int32_t)i};
        }
    }
}

static void gather(mk_sampler *s, float from, float below) {
    const float *l = s->work;
    int64_t i = 0;
    for (; i + BLOCK <= s->n_vocab; i += BLOCK) {
        int any = 0;
        for (int k = 0; k < BLOCK; k++) {
            any |= (l[i + k] >= from) & (l[i + k] < below);
        }
        if (any) {
            gather_ids(s, i, i + BLOCK, from, below);
        }
    }
    gather_ids(s, i, s->n_vocab, from, below);
    for (i = s->n_heap / 2 - 1; i >= 0; i--) {
        sift_down(s->heap, s->n_heap, i);
    }
}

// Whether a candidate is left; heap[0] is the best one then.
static bool fill(mk_sampler *s) {
    while (s->n_heap == 0 && s->floor > -INFINITY) {
        float below = s->floor;
        // the last tier is all that is left, down to the largest negative number
        s->floor = s->step > 2 * TIER * s->p.temperature ? -INFINITY : s->floor - s->step;
        s->step *= 2;
        gather(s, s->floor > -INFINITY ? s->floor : -FLT_MAX, below);
    }
    return s->n_heap > 0;
}

// Begins with candidates that are at most `max`, which is finite.
static void first_candidates(mk_sampler *s, float max) {
    s->n_heap = s->n_taken = 0;
    s->step = TIER * s->p.temperature;
    s->floor = max - s->step;
    gather(s, s->floor, INFINITY);
}

// Takes heap[0].
static candidate pop(mk_sampler *s) {
    candidate top = s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    sift_down(s->heap, s->n_heap, 0);
    s->heap[s->n_vocab - ++s->n_taken] = top;
    return top;
}

static candidate taken(const mk_sampler *s, int64_t k) {
    return s->heap[s->n_vocab - 1 - k];
}

static double weight(const mk_sampler *s, float logit, float max) {
    return (double)mk_expf((logit - max) / s->p.temperature);
}

// Takes the candidates that pass top-k, top-p and min-p; returns their weight.
static double filter(mk_sampler *s, int64_t limit, float max, double total) {
    double kept = 0;
    while (s->n_taken < limit && fill(s)) {
        double w = weight(s, s->heap[0].logit, max);
        if (s->n_taken > 0 && w < (double)s->p.min_p) {  // the best one has weight 1
            break;
        }
        kept += w;
        pop(s);
        if (kept >= (double)s->p.top_p * total) {
            break;
        }
    }
    return kept;
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
    float max = mk_row_max(s->work, s->n_vocab);
    if (n_all == 0 || max == INFINITY) {  // +inf leaves no choice
        return best(s->work, s->n_vocab);
    }
    first_candidates(s, max);
    double total = sum_weights(s->work, s->n_vocab, max, s->p.temperature);
    int64_t limit = s->p.top_k > 0 && s->p.top_k < n_all ? s->p.top_k : n_all;
    bool filtered = limit < n_all || s->p.top_p < 1 || s->p.min_p > 0;
    double sum = 0, u = mk_rng_unit(s->p.seed, (uint64_t)pos),
           target = u * (filtered ? filter(s, limit, max, total) : total);
    int32_t id = 0;
    for (int64_t k = 0, n = filtered ? s->n_taken : n_all; k < n && (k < s->n_taken || fill(s));
         k++) {
        candidate c = k < s->n_taken ? taken(s, k) : pop(s);
        sum += weight(s, c.logit, max);
        id = c.id;
        if (sum > target) {
            break;
        }
    }
    return id;
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
