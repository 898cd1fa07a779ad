#include "serve/books.h"

#include <time.h>

#include "base/alloc.h"
#include "base/log.h"

// The ledger is no reason to refuse answers: a full disk is said once, and counted.
static void complain(mk_service *s, const mk_err *err) {
    if (atomic_fetch_add(&s->n_unwritten, 1) == 0) {
        mk_log_msg(MK_LOG_WARN, "what was answered cannot be written down: %s", err->msg);
    }
}

mk_status mk_books_begin(mk_books *b, mk_service *s, const caller *c, int64_t *retry_s,
                         mk_err *err) {
    *b = (mk_books){.s = s, .c = *c, .stop = MK_STOP_END};
    MK_TRY(mk_keys_begin(s->keys, c->key_id, retry_s, err));
    b->slot = true;
    return MK_OK;
}

static void end_slot(mk_books *b, int64_t n_token) {
    if (b->slot) {
        mk_keys_end(b->s->keys, b->c.key_id, n_token, mk_moment_now());
        b->slot = false;
    }
}

void mk_books_free(mk_books *b) {
    end_slot(b, 0);
    for (int i = 0; i < b->n; i++) {
        mk_heard_free(&b->heard[i]);
    }
    mk_free(b->heard);
    b->heard = NULL;
    b->n = 0;
}

mk_status mk_books_recall(mk_service *s, const caller *c, mk_llm *llm, mk_ask *ask,
                          uint64_t *tenant, mk_err *err) {
    const mk_chat_template *t = mk_llm_template(llm);
    *tenant = mk_tenant(c->key_id, ask->tenant);
    MK_TRY(mk_kept_continue(s->store, c->key_id, ask, err));
    size_t n = json_array_size(ask->messages);
    n -= ask->continue_last && n > 0;  // that one is not a past turn
    mk_err why;
    if (n > 0 && t && mk_chat_template_thinks(t) &&
        mk_memory_recall(s->store, *tenant, ask->messages, n, (int64_t)time(NULL), NULL, &why) !=
            MK_OK) {
        complain(s, &why);  // without it the answer is no wrong one
    }
    return MK_OK;
}

// --- hearing -------------------------------------------------------------------------------------

void mk_books_expect(mk_books *b, const mk_ask *ask) {
    int n = mk_ask_choices(ask);
    b->ask = ask;
    b->heard = mk_zalloc((size_t)n * sizeof *b->heard);
    for (; b->n < n; b->n++) {
        mk_heard_init(&b->heard[b->n]);
    }
}

void mk_books_hear(mk_books *b, int choice, const mk_answer_event *ev) {
    b->started = b->started || ev->kind != MK_AE_ERROR;
    if (choice < b->n) {
        mk_heard_event(&b->heard[choice], ev);
    }
    if (ev->kind == MK_AE_DONE) {
        mk_tally_add(&b->total, b->ask, choice, &ev->usage);
        b->stop = choice == 0 || ev->stop == MK_STOP_CANCELLED ? ev->stop : b->stop;
    }
}

// --- writing -------------------------------------------------------------------------------------

static mk_status keep(mk_books *b, const mk_books_answer *a, const json_t *message, mk_err *err) {
    const mk_ask *ask = a->info->ask;
    mk_buf response, id;
    mk_buf_init(&response, (size_t)1 << 28);
    mk_buf_init(&id, 128);
    a->dialect->kept(a->writer, &response);
    mk_buf_printf(&id, "%s%s", a->dialect->kept_prefix, a->info->id);
    json_t *messages = ask->input ? json_copy(ask->input) : json_array();
    (void)json_array_append(messages, (json_t *)(uintptr_t)message);
    mk_kept_row row = {.id = id.data,
                       .owner = b->c.key_id,
                       .created = a->info->created,
                       .response = response.data,
                       .messages = messages};
    mk_status st = response.failed || id.failed
                       ? MK_FAIL(err, MK_ENOMEM, "no memory to keep this answer")
                       : mk_kept_put(b->s->store, &row, MK_KEPT_BYTES, err);
    json_decref(messages);
    mk_buf_free(&response);
    mk_buf_free(&id);
    return st;
}

mk_status mk_books_keep(mk_books *b, const mk_books_answer *a, mk_err *err) {
    const mk_ask *ask = a->info->ask;
    mk_status st = MK_OK;
    for (int i = 0; i < b->n && ask->messages && !a->lost; i++) {
        uint64_t refused = mk_alloc_refused_thread();
        json_t *message = mk_heard_message(&b->heard[i]);
        mk_err why;
        if (mk_alloc_refused_thread() != refused) {  // it is not what was said
            json_decref(message);
            return ask->keep ? MK_FAIL(err, MK_ENOMEM, "no memory to keep this answer") : MK_OK;
        }
        if ((b->heard[i].text.len || b->heard[i].calls) &&
            mk_memory_learn(b->s->store, b->tenant, ask->messages, message, (int64_t)time(NULL),
                            MK_MEMORY_BYTES, &why) != MK_OK) {
            complain(b->s, &why);
        }
        if (ask->keep && a->dialect->kept && st == MK_OK) {
            st = keep(b, a, message, err);
        }
        json_decref(message);
    }
    return st;
}

static void add_row(mk_service *s, const mk_ledger_row *row) {
    mk_err err;
    if (mk_ledger_add(s->store, row, &err) != MK_OK) {
        complain(s, &err);
    }
}

void mk_books_close(mk_books *b, const mk_books_answer *a, int status) {
    if (b->started) {
        mk_ledger_row row = {.time = (int64_t)time(NULL),
                             .key = b->c.key_id,
                             .model = a->info->model,
                             .dialect = a->dialect->name,
                             .usage = b->total.sum,
                             .status = a->lost ? 499 : status,
                             .stop = status >= 400 ? "error" : mk_stop_reason_name(b->stop)};
        add_row(b->s, &row);
    }
    end_slot(b, b->total.sum.n_prompt + b->total.sum.n_generated);
}

void mk_books_note(mk_service *s, const caller *c, const char *model, const char *what,
                   int64_t n_prompt, double ms) {
    mk_ledger_row row = {.time = (int64_t)time(NULL),
                         .key = c->key_id,
                         .model = model,
                         .dialect = what,
                         .usage = {.n_prompt = n_prompt, .prompt_ms = ms},
                         .status = 200,
                         .stop = "end"};
    add_row(s, &row);
    mk_keys_spend(s->keys, c->key_id, n_prompt, mk_moment_now());
}
