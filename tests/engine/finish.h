// A job's end, for which a test waits: what was written before finish_set is seen after
// finish_wait.
#ifndef MK_TESTS_ENGINE_FINISH_H
#define MK_TESTS_ENGINE_FINISH_H

#include <pthread.h>
#include <stdbool.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool set;
} finish;

static void finish_init(finish *f) {
    f->set = false;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->cond, NULL);
}

static void finish_set(finish *f) {
    pthread_mutex_lock(&f->lock);
    f->set = true;
    pthread_cond_signal(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

static void finish_wait(finish *f) {
    pthread_mutex_lock(&f->lock);
    while (!f->set) {
        pthread_cond_wait(&f->cond, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

#endif
