// Sampling without surprises: see sample.h for what is promised.
#include "engine/sample.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"

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
    candidate *heap;  // [n_vocab]
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

// --- adjusting logits ----------------------------------------------------------------------------

static void copy_masked(mk_sampler *s, const float *logits) {
    for (int64_t i = 0; i < s->n_vocab; i++) {
        s->work[i] = i < s->p.n_token && !isnan(logits[i]) ? logits[i] : -INFINITY;
    }
    for (int32_t i = 0; i < s->p.n_bias; i++) {
        s->work[s->p.bias[i].id] += s->p.bias[i].bias;
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

static int32_t best(const float *logits, int64_t n) {
    int64_t at = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[at]) {
            at = i;
        }
    }
    return (int32_t)at;
}

// --- the candidates: a heap ordered by (logit descending, id ascending) --------------------------

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

static int64_t make_heap(mk_sampler *s) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_vocab; i++) {
        if (s->work[i] > -INFINITY) {
            s->heap[n++] = (candidate){s->work[i], (int32_t)i};
        }
    }
    for (int64_t i = n / 2 - 1; i >= 0; i--) {
        sift_down(s->heap, n, i);
    }
    return n;
}

// Takes the best candidate; it moves to the end of the shrinking heap, so that the taken ones lie
// sorted behind it.
static candidate pop(mk_sampler *s, int64_t *n) {
    candidate top = s->heap[0];
    s->heap[0] = s->heap[--*n];
    s->heap[*n] = top;
    if (*n > 0) {
        sift_down(s->heap, *n, 0);
    }
    return top;
}

static double weight(const mk_sampler *s, float logit, float max) {
    return (double)mk_expf((logit - max) / s->p.temperature);
}

// Draws among the candidates that pass top-k, top-p and min-p.
static int32_t draw(mk_sampler *s, int64_t pos) {
    int64_t n = make_heap(s), n_all = n;
    if (n == 0) {
        return 0;
    }
    float max = s->heap[0].logit;
    if (max == INFINITY) {
        return s->heap[0].id;  // +inf leaves no choice
    }
    double total = 0, kept = 0;
    for (int64_t i = 0; i < s->n_vocab; i++) {  // ascending id: a fixed order
        total += s->work[i] > -INFINITY ? weight(s, s->work[i], max) : 0;
    }
    int64_t limit = s->p.top_k > 0 && s->p.top_k < n_all ? s->p.top_k : n_all;
    bool filtered = limit < n_all || s->p.top_p < 1 || s->p.min_p > 0;
    double u = mk_rng_unit(s->p.seed, (uint64_t)pos);
    while (filtered && n_all - n < limit) {
        double w = weight(s, s->heap[0].logit, max);
        if (n < n_all && w < (double)s->p.min_p) {  // the best one has weight 1
            break;
        }
        kept += w;
        pop(s, &n);
        if (kept >= (double)s->p.top_p * total || n == 0) {
            break;
        }
    }
    double target = u * (filtered ? kept : total), sum = 0;
    int32_t id = s->heap[filtered ? n_all - 1 : 0].id;
    for (int64_t i = n_all - 1; i >= 0;
         i--) {  // taken candidates lie from the back to the front, best first
        candidate c = i >= n ? s->heap[i] : pop(s, &n);
        sum += weight(s, c.logit, max);
        id = c.id;
        if (sum > target || (filtered && i == n)) {
            break;
        }
    }
    return id;
}

int32_t mk_sampler_choose(mk_sampler *s, const float *logits, int64_t pos) {
    copy_masked(s, logits);
    penalise_repetition(s);
    penalise_use(s);
    return s->p.temperature == 0 ? best(s->work, s->n_vocab) : draw(s, pos);
}

// --- log-probabilities ---------------------------------------------------------------------------

static double log_sum(const float *logits, int64_t n, float *max) {
    *max = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        *max = logits[i] > *max ? logits[i] : *max;
    }
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)mk_expf(logits[i] - *max);
    }
    return mk_log(sum);
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
