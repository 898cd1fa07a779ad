// The losses of preference.h and their slopes, one pair at a time, in double.
#include <math.h>
#include <string.h>

#include "base/mathx.h"
#include "train/preference.h"

typedef mk_preference_value (*loss_fn)(const mk_preference_rule *rule, const mk_preference_pair *p);

// log(1 + x) for 0 <= x <= 1, whose digits 1 + x would lose for a small x (Kahan's correction).
static double log_1p(double x) {
    double u = 1 + x;
    return u > 1 ? mk_log(u) * x / (u - 1) : x;
}

// log(1 + e^x) = -log sigmoid(-x), without overflow.
static double softplus(double x) {
    double a = fabs(x) < 700 ? fabs(x) : 700;
    return (x > 0 ? x : 0) + log_1p(mk_exp(-a));
}

static double sigmoid(double x) {
    double e = mk_exp(-(fabs(x) < 700 ? fabs(x) : 700));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

// The log-probability of a token, on average.
static double mean(const mk_preference_pair *p, int k) {
    return p->logp[k] / (double)(p->n[k] > 0 ? p->n[k] : 1);
}

static double over_reference(const mk_preference_pair *p, int k) {
    return p->logp[k] - p->ref[k];
}

// Cross-entropy of "the chosen one is better" for the logit h, s being the share of wrong labels.
static double logistic(double h, double s, double *slope) {
    *slope = s * sigmoid(h) - (1 - s) * sigmoid(-h);
    return (1 - s) * softplus(-h) + s * softplus(h);
}

static mk_preference_value dpo(const mk_preference_rule *rule, const mk_preference_pair *p) {
    mk_preference_value v;
    double slope, h = rule->beta * (over_reference(p, 0) - over_reference(p, 1));
    v.loss = logistic(h, rule->smoothing, &slope);
    for (int k = 0; k < 2; k++) {
        v.slope[k] = (k ? -1 : 1) * rule->beta * slope;
        v.reward[k] = rule->beta * over_reference(p, k);
    }
    return v;
}

static mk_preference_value ipo(const mk_preference_rule *rule, const mk_preference_pair *p) {
    mk_preference_value v;
    double d = over_reference(p, 0) - over_reference(p, 1) - 1 / (2 * rule->beta);
    v.loss = d * d;
    for (int k = 0; k < 2; k++) {
        v.slope[k] = (k ? -2 : 2) * d;
        v.reward[k] = rule->beta * over_reference(p, k);
    }
    return v;
}

static mk_preference_value apo_zero(const mk_preference_rule *rule, const mk_preference_pair *p) {
    mk_preference_value v = {0};
    for (int k = 0; k < 2; k++) {
        v.reward[k] = rule->beta * over_reference(p, k);
        double wrong = sigmoid(k ? v.reward[k] : -v.reward[k]);
        v.loss += wrong;
        v.slope[k] = (k ? 1 : -1) * rule->beta * wrong * (1 - wrong);
    }
    return v;
}

static mk_preference_value simpo(const mk_preference_rule *rule, const mk_preference_pair *p) {
    mk_preference_value v;
    double slope, h = rule->beta * (mean(p, 0) - mean(p, 1)) - rule->margin;
    v.loss = logistic(h, rule->smoothing, &slope);
    for (int k = 0; k < 2; k++) {
        v.slope[k] = (k ? -1 : 1) * rule->beta * slope / (double)(p->n[k] > 0 ? p->n[k] : 1);
        v.reward[k] = rule->beta * mean(p, k);
    }
    return v;
}

// 1 - e^x for x < 0; near 0, where the difference would have no digits left, by its series.
static double one_minus_exp(double x) {
    return x > -1e-4 ? -x * (1 + x / 2 + x * x / 6) : 1 - mk_exp(x > -700 ? x : -700);
}

// An answer that is certain has infinite odds: float32 does not tell probabilities above this one
// from 1.
#define LOGP_MAX (-1e-7)

static mk_preference_value orpo(const mk_preference_rule *rule, const mk_preference_pair *p) {
    mk_preference_value v;
    double slope, odds[2], rest[2];
    for (int k = 0; k < 2; k++) {
        double x = mean(p, k) < LOGP_MAX ? mean(p, k) : LOGP_MAX;
        rest[k] = one_minus_exp(x);
        odds[k] = x - mk_log(rest[k]);
        v.reward[k] = rule->beta * mean(p, k);
    }
    v.loss = rule->beta * logistic(odds[0] - odds[1], 0, &slope);
    for (int k = 0; k < 2; k++) {
        double n = (double)(p->n[k] > 0 ? p->n[k] : 1);
        v.slope[k] = (k ? -1 : 1) * rule->beta * slope / rest[k] / n;
    }
    return v;
}

typedef struct {
    const char *name;
    loss_fn fn;  // NULL: of labels
    bool has_reference, has_smoothing;
    double beta, margin, sft;  // margin < 0: the loss has none
} loss;

static const loss losses[] = {
    {"dpo", dpo, true, true, 0.1, -1, 0},
    {"ipo", ipo, true, false, 0.1, -1, 0},
    {"apo-zero", apo_zero, true, false, 0.1, -1, 0},
    {"simpo", simpo, false, true, 2, 1, 0},
    {"orpo", orpo, false, false, 0.1, -1, 1},
    {"kto", NULL, true, false, 0.1, -1, 0},
};
#define N_LOSS (sizeof losses / sizeof losses[0])

static const loss *find(const char *name) {
    for (size_t i = 0; i < N_LOSS; i++) {
        if (strcmp(losses[i].name, name) == 0) {
            return &losses[i];
        }
    }
    return NULL;
}

mk_status mk_preference_check(mk_preference_rule *rule, mk_err *err) {
    const loss *l = find(rule->loss);
    if (!l) {
        return MK_FAIL(err, MK_EUSAGE,
                       "unknown loss '%s', expected dpo, ipo, apo-zero, simpo, orpo or kto",
                       rule->loss);
    }
    if (rule->margin >= 0 && l->margin < 0) {
        return MK_FAIL(err, MK_EUSAGE, "the loss %s has no margin; simpo has", l->name);
    }
    if (rule->smoothing != 0 && !l->has_smoothing) {
        return MK_FAIL(err, MK_EUSAGE, "the loss %s has no label smoothing; dpo and simpo have",
                       l->name);
    }
    if (!(rule->smoothing >= 0 && rule->smoothing < 0.5)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "label smoothing is %g, expected 0 or more and less than 0.5: the share of "
                       "pairs that are the wrong way round",
                       rule->smoothing);
    }
    if (rule->beta == 0) {
        return MK_FAIL(err, MK_EUSAGE, "beta is 0, expected more: nothing would be preferred");
    }
    rule->beta = rule->beta > 0 ? rule->beta : l->beta;
    rule->margin = rule->margin >= 0 ? rule->margin : l->margin;
    rule->sft = rule->sft >= 0 ? rule->sft : l->sft;
    return MK_OK;
}

bool mk_preference_has_reference(const mk_preference_rule *rule) {
    return find(rule->loss)->has_reference;
}

bool mk_preference_has_labels(const mk_preference_rule *rule) {
    return find(rule->loss)->fn == NULL;
}

mk_preference_value mk_preference_loss(const mk_preference_rule *rule,
                                       const mk_preference_pair *p) {
    loss_fn fn = find(rule->loss)->fn;
    MK_ASSERT(fn);
    mk_preference_value v = fn(rule, p);
    v.loss -= rule->sft * mean(p, 0);
    v.slope[0] -= rule->sft / (double)(p->n[0] > 0 ? p->n[0] : 1);
    return v;
}

mk_preference_answer_value mk_preference_answer_loss(const mk_preference_rule *rule,
                                                     const mk_preference_answer *a, double kl) {
    double sign = a->good ? 1 : -1, n = (double)(a->n > 0 ? a->n : 1);
    mk_preference_answer_value v = {.reward = rule->beta * (a->logp - a->ref)};
    double h = sign * (v.reward - rule->beta * kl);
    v.loss = sigmoid(-h);
    v.slope = -sign * rule->beta * sigmoid(-h) * sigmoid(h);
    if (a->good) {
        v.loss -= rule->sft * a->logp / n;
        v.slope -= rule->sft / n;
    }
    return v;
}
