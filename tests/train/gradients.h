// Gradients of a trainer, all of them or one against finite differences: the slope of a loss along
// a random direction of one parameter.
#ifndef MK_TESTS_TRAIN_GRADIENTS_H
#define MK_TESTS_TRAIN_GRADIENTS_H

#include "cmocka_all.h"

#include <math.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "model/params.h"
#include "train/trainer.h"

// One after the other, zeros where there is none; mk_free.
static inline float *all_gradients(mk_trainer *tr, size_t *n) {
    const mk_params *ps = mk_trainer_params(tr);
    *n = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        *n += (size_t)ps->list[i].n_float;
    }
    float *all = mk_zalloc(*n * sizeof *all);
    size_t at = 0;
    for (int64_t i = 0; i < ps->n; i++) {
        const float *g = mk_trainer_gradient(tr, &ps->list[i]);
        if (g) {
            memcpy(all + at, g, (size_t)ps->list[i].n_float * sizeof *g);
        }
        at += (size_t)ps->list[i].n_float;
    }
    return all;
}

typedef struct {
    double (*loss)(void *arg);
    void (*moved)(void *arg, const mk_param *p);  // values of p are others now
    void *arg;
} measure;

// Padding has no gradient and is not moved.
static inline double direction(const mk_param *p, int64_t i) {
    if (p->kind == MK_PARAM_MATRIX) {
        int64_t at = i % (p->n_float / p->n_mat);
        if (at / (16 * p->n_in) * 16 + at % 16 >= p->n_out) {
            return 0;
        }
    }
    return 2 * mk_rng_unit(3, (uint64_t)i) - 1;
}

static inline double along(const float *g, const mk_param *p) {
    double sum = 0;
    for (int64_t i = 0; i < p->n_float; i++) {
        sum += (double)g[i] * direction(p, i);
    }
    return sum;
}

static inline double length(const float *g, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)g[i] * (double)g[i];
    }
    return sqrt(sum);
}

static inline double slope(const measure *m, const mk_param *p, double eps) {
    size_t n_bytes = (size_t)p->n_float * sizeof(float);
    float *keep = mk_alloc(n_bytes);
    memcpy(keep, p->p, n_bytes);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < p->n_float; i++) {
            p->p[i] = keep[i] + (float)((side ? -eps : eps) * direction(p, i));
        }
        m->moved(m->arg, p);
        loss[side] = m->loss(m->arg);
    }
    memcpy(p->p, keep, n_bytes);
    m->moved(m->arg, p);
    mk_free(keep);
    return (loss[0] - loss[1]) / (2 * eps);
}

// Whether g, times `scale`, is the gradient; *want is the last slope that was tried.  The forward
// is float32: 1 % and a little of the gradient's length, for directions that lie across it.  The
// first step, eps, moves the loss enough to be measured; where it bends on the way, or jumps
// because a router chooses another expert, a smaller one must agree.
static inline bool agrees(const measure *m, const mk_param *p, const float *g, double scale,
                          double eps, double *want) {
    double len = scale * length(g, p->n_float), got = scale * along(g, p);
    for (int i = 0; i < 4; i++, eps /= 5) {
        *want = slope(m, p, eps);
        if (fabs(got - *want) <= 0.01 * fabs(*want) + 0.02 * len + 1e-4) {
            return true;
        }
    }
    return false;
}

#endif
