// A turn's life: made, listed, told of events and hang-ups, kept alive, ended.
#include "base/alloc.h"
#include "base/log.h"
#include "serve/turn_int.h"

#define ANSWER_MAX ((size_t)1 << 28)
enum { HEARTBEAT_NS = 2000000000 };

turn *mk_service_turn_create(mk_service *s, mk_http_exchange *x, const route *r) {
    turn *t = mk_zalloc(sizeof *t);
    t->s = s;
    t->x = x;
    t->dialect = r->dialect;
    t->asked_ns = mk_now_ns();
    pthread_mutex_init(&t->lock, NULL);
    mk_buf_init(&t->out, ANSWER_MAX);
    mk_ask_init(&t->ask);
    mk_http_keep(x);
    return t;
}

void mk_service_turn_free(turn *t) {
    if (t->writer) {
        t->dialect->close(t->writer);
    }
    mk_service_turn_forget(t);
    mk_books_free(&t->books);
    mk_ask_free(&t->ask);
    mk_buf_free(&t->out);
    mk_http_drop(t->x);
    pthread_mutex_destroy(&t->lock);
    mk_free(t);
}

// --- the list ------------------------------------------------------------------------------------

void mk_service_turn_cancel(turn *t) {
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < t->n_begun; i++) {
        if (t->choice[i].speech) {
            mk_speech_cancel(t->choice[i].speech);
        }
    }
    pthread_mutex_unlock(&t->lock);
}

static void on_gone(void *arg) {
    turn *t = arg;
    pthread_mutex_lock(&t->lock);
    t->lost = true;
    bool begun = t->begun;
    pthread_mutex_unlock(&t->lock);
    // the turn cannot end before this returns: mk_service_turn_end takes the callback back first
    mk_loader_cancel(t->s->loader, &t->lease);
    if (begun) {
        mk_service_turn_cancel(t);
    }
}

void mk_service_turn_list(turn *t) {
    mk_service *s = t->s;
    pthread_mutex_lock(&s->lock);
    t->next = s->turns;
    t->at = &s->turns;
    if (t->next) {
        t->next->at = &t->next;
    }
    s->turns = t;
    s->n_turn++;
    pthread_mutex_unlock(&s->lock);
    mk_http_on_gone(t->x, on_gone, t);
}

static void unlist_turn(turn *t) {
    mk_service *s = t->s;
    pthread_mutex_lock(&s->lock);
    *t->at = t->next;
    if (t->next) {
        t->next->at = t->at;
    }
    pthread_mutex_unlock(&s->lock);
}

// The turn has given its last byte and is gone: who waits for all of them may close things now.
static void count_down(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    if (--s->n_turn == 0) {
        pthread_cond_broadcast(&s->idle);
    }
    pthread_mutex_unlock(&s->lock);
}

// --- the end -------------------------------------------------------------------------------------

// Whoever waits for the answer must not take a part for all of it: what the writer has written
// since `at` is taken back if memory was refused meanwhile, and an error stands instead.
static void check_memory(turn *t, size_t at, uint64_t refused) {
    if (mk_alloc_refused_thread() == refused && !t->out.failed) {
        return;
    }
    t->out.failed = false;
    t->out.len = t->out.len < at ? t->out.len : at;
    t->starved = true;
    if (t->error.code == MK_OK) {
        (void)MK_FAIL(&t->error, MK_ENOMEM, "no memory for the answer; try again later");
    }
    mk_service_turn_tell_error(t);
}

void mk_service_turn_write(turn *t, int choice, const mk_answer_event *ev, uint64_t refused) {
    size_t at = t->out.len;
    if (!t->starved && (ev->kind != MK_AE_ERROR || t->streaming)) {
        t->dialect->event(t->writer, choice, ev, &t->out);
        check_memory(t, at, refused);
    }
}

static void write_finish(turn *t) {
    size_t at = t->out.len;
    uint64_t refused = mk_alloc_refused_thread();
    t->dialect->finish(t->writer, &t->out);
    check_memory(t, at, refused);
}

static int http_status(const turn *t) {
    return t->status ? t->status : mk_error_http_status(t->error.code);
}

// Everything that stays of the answer is written before its last byte goes out.
static void write_down(turn *t) {
    mk_books_answer a = {t->dialect, t->writer, &t->info, t->lost};
    if (t->error.code == MK_OK && mk_books_keep(&t->books, &a, &t->error) != MK_OK) {
        mk_service_turn_tell_error(t);
    }
    if (t->error.code == MK_OK) {
        write_finish(t);
    }
    mk_books_close(&t->books, &a, http_status(t));
}

// Before the last byte goes out: who has the answer finds the model as it asked for.
static void return_model(turn *t) {
    if (t->leased) {
        uint64_t keep = mk_service_keep_ns(t->ask.keep_alive_s);
        mk_loader_return(t->s->loader, t->model->slot, t->ask.has_keep_alive ? &keep : NULL);
    }
}

// No speech is left.  Nobody holds the turn's lock any more once it is off the list.
void mk_service_turn_end(turn *t) {
    mk_http_on_gone(t->x, NULL, NULL);
    unlist_turn(t);
    write_down(t);
    return_model(t);
    if (t->streaming) {
        mk_service_turn_send(t);
        if (t->out.failed || t->lost) {
            mk_http_abort(t->x);
        } else {
            mk_http_end(t->x);
        }
    } else if (t->error.code != MK_OK) {
        mk_service_fail(t->s, t->x, t->dialect, http_status(t), &t->error);
    } else {
        mk_service_turn_reply(t);
    }
    mk_service *s = t->s;
    atomic_fetch_add(&s->n_errors, t->error.code != MK_OK && !t->lost);
    atomic_fetch_add(&s->n_gone, t->lost);
    mk_service_turn_free(t);
    count_down(s);
}

void mk_service_turn_tell_error(turn *t) {
    if (t->streaming) {
        size_t at = t->out.len;
        mk_answer_event ev = {.kind = MK_AE_ERROR, .error = &t->error};
        t->dialect->event(t->writer, 0, &ev, &t->out);
        // whole, or the stream is cut off; a writer that was done already writes nothing
        t->out.failed = t->out.failed || t->out.len == at;
        t->out.len = t->out.failed ? at : t->out.len;
    }
}

void mk_service_turn_fail(turn *t, const mk_err *err, int status) {
    pthread_mutex_lock(&t->lock);
    t->error = *err;
    t->status = status;
    t->n_left = 0;
    mk_service_turn_tell_error(t);
    pthread_mutex_unlock(&t->lock);
    mk_service_turn_end(t);
}

// --- while it lives ------------------------------------------------------------------------------

void mk_service_turn_event(void *arg, const mk_answer_event *ev) {
    struct turn_choice *c = arg;
    turn *t = c->t;
    bool last = ev->kind == MK_AE_DONE || ev->kind == MK_AE_ERROR;
    mk_answer_event with_wait = *ev;
    if (ev->kind == MK_AE_DONE) {
        with_wait.usage.queue_ms += t->wait_ms;
        ev = &with_wait;
    }
    pthread_mutex_lock(&t->lock);
    if (ev->kind == MK_AE_ERROR && t->error.code == MK_OK) {
        t->error = *ev->error;
    }
    uint64_t refused = mk_alloc_refused_thread();
    mk_books_hear(&t->books, c->index, ev);
    mk_service_turn_write(t, c->index, ev, refused);
    if (t->streaming) {
        mk_service_turn_send(t);
    }
    mk_speech *over = last ? c->speech : NULL;
    if (last) {
        c->speech = NULL;
        t->n_left--;
        mk_service_turn_begin(t, 1);
    }
    // while this speech is at work nobody else can end the turn
    bool give_up = (t->lost || t->starved || t->broken) && !t->given_up && t->begun && !last;
    t->given_up |= give_up;
    bool end = t->n_left == 0;
    pthread_mutex_unlock(&t->lock);
    mk_speech_drop(over);
    if (end) {
        mk_service_turn_end(t);
    } else if (give_up) {
        mk_service_turn_cancel(t);
    }
}

// Once headers are out an error can only be told in the stream: while a model is loaded they wait
// as long as a client will bear silence.
static void keep_alive(turn *t) {
    uint64_t now = mk_now_ns();  // under the lock: not before what it is compared with
    if (t->waits && t->ask.stream && !t->streaming && !t->lost &&
        now - t->asked_ns >= HEARTBEAT_NS) {
        mk_service_turn_stream(t);
        t->last_ns = now - HEARTBEAT_NS;
    }
    if (t->streaming && !t->lost && !t->starved && t->n_left > 0 &&
        now - t->last_ns >= HEARTBEAT_NS) {
        t->dialect->heartbeat(t->writer, &t->out);
        mk_service_turn_send(t);
    }
}

void mk_service_tick(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    for (turn *t = s->turns; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        keep_alive(t);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

// A turn leaves the list before it is freed, so that it is there while the lock is held.
void mk_service_cancel_all(mk_service *s) {
    pthread_mutex_lock(&s->lock);
    for (turn *t = s->turns; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        bool begun = t->begun;
        t->lost = true;
        pthread_mutex_unlock(&t->lock);
        mk_loader_cancel(s->loader, &t->lease);
        if (begun) {
            mk_service_turn_cancel(t);
        }
    }
    pthread_mutex_unlock(&s->lock);
}
