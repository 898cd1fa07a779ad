#include "serve/kept.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/ask_read.h"
#include "serve/dialect.h"

#define ROW_MAX ((size_t)1 << 28)

// --- size ----------------------------------------------------------------------------------------

static mk_status total_bytes(mk_store *s, int64_t *total, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "SELECT bytes FROM total WHERE name = 'kept'");
    *total = mk_query_row(&q) ? mk_query_get_int(&q, 0) : 0;
    return mk_query_end(&q, err);
}

static mk_status drop_older(mk_store *s, int64_t created, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "DELETE FROM kept WHERE created < ?1");
    mk_query_int(&q, created);
    return mk_query_end(&q, err);
}

// Drops the oldest until `size` more bytes fit.
static mk_status make_room(mk_store *s, int64_t size, int64_t max_bytes, mk_err *err) {
    int64_t total = 0;
    MK_TRY(total_bytes(s, &total, err));
    while (total + size > max_bytes) {
        mk_query q;
        int64_t gone = 0;
        mk_query_begin(&q, s,
                       "DELETE FROM kept WHERE id = (SELECT id FROM kept ORDER BY created, rowid"
                       " LIMIT 1) RETURNING size");
        while (mk_query_row(&q)) {
            gone = mk_query_get_int(&q, 0);
        }
        MK_TRY(mk_query_end(&q, err));
        if (gone == 0) {
            break;  // another process has emptied the table
        }
        total -= gone;
    }
    return MK_OK;
}

// --- rows ----------------------------------------------------------------------------------------

static mk_status insert(mk_store *s, const mk_kept_row *r, const char *messages, int64_t size,
                        mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "INSERT INTO kept VALUES(?1,?2,?3,?4,?5,?6)");
    mk_query_text(&q, r->id);
    mk_query_text(&q, r->owner);
    mk_query_int(&q, r->created);
    mk_query_int(&q, size);
    mk_query_text(&q, r->response);
    mk_query_text(&q, messages);
    return mk_query_end(&q, err);
}

mk_status mk_kept_put(mk_store *s, const mk_kept_row *r, int64_t max_bytes, mk_err *err) {
    mk_buf m;
    mk_buf_init(&m, ROW_MAX);
    mk_json_add(&m, r->messages);
    int64_t size = (int64_t)(m.len + strlen(r->response));
    mk_status st = MK_OK;
    if (m.failed || m.len == 0) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory to keep this answer; \"store\": false");
    } else if (size > max_bytes) {
        st = MK_FAIL(err, MK_ELIMIT,
                     "this conversation has %lld bytes, more than the %lld that are kept; "
                     "\"store\": false",
                     (long long)size, (long long)max_bytes);
    }
    bool began = st == MK_OK;
    st = began ? mk_store_start(s, err) : st;
    if (began && st == MK_OK) {
        st = drop_older(s, r->created - MK_KEPT_SECONDS, err);
        st = st == MK_OK ? make_room(s, size, max_bytes, err) : st;
        st = st == MK_OK ? insert(s, r, m.data, size, err) : st;
        st = mk_store_finish(s, st, err);
    }
    mk_buf_free(&m);
    return st;
}

static mk_status missing(const char *id, mk_err *err) {
    return MK_FAIL(err, MK_ENOTFOUND,
                   "no answer is kept under the id '%.80s'; answers are kept for 30 days, unless "
                   "\"store\" is false",
                   id);
}

mk_status mk_kept_get(mk_store *s, const char *owner, const char *id, mk_buf *response,
                      mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "SELECT response FROM kept WHERE id = ?1 AND owner = ?2");
    mk_query_text(&q, id);
    mk_query_text(&q, owner);
    bool found = mk_query_row(&q);
    if (found) {
        mk_buf_puts(response, mk_query_get_text(&q, 0));
    }
    MK_TRY(mk_query_end(&q, err));
    if (response->failed) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the kept answer");
    }
    return found ? MK_OK : missing(id, err);
}

mk_status mk_kept_delete(mk_store *s, const char *owner, const char *id, mk_err *err) {
    mk_query q;
    bool found = false;
    mk_query_begin(&q, s, "DELETE FROM kept WHERE id = ?1 AND owner = ?2 RETURNING id");
    mk_query_text(&q, id);
    mk_query_text(&q, owner);
    while (mk_query_row(&q)) {
        found = true;
    }
    MK_TRY(mk_query_end(&q, err));
    return found ? MK_OK : missing(id, err);
}

mk_status mk_kept_messages(mk_store *s, const char *owner, const char *id, json_t **out,
                           mk_err *err) {
    mk_query q;
    mk_buf text;
    mk_buf_init(&text, ROW_MAX);
    mk_query_begin(&q, s, "SELECT messages FROM kept WHERE id = ?1 AND owner = ?2");
    mk_query_text(&q, id);
    mk_query_text(&q, owner);
    bool found = mk_query_row(&q);
    if (found) {
        mk_buf_puts(&text, mk_query_get_text(&q, 0));
    }
    mk_status st = mk_query_end(&q, err);
    if (st == MK_OK && !found) {
        st = missing(id, err);
    }
    if (st == MK_OK) {
        st = text.failed ? MK_FAIL(err, MK_ENOMEM, "no memory for the kept conversation")
                         : mk_json_parse(text.data, text.len, "a kept conversation", out, err);
    }
    mk_buf_free(&text);
    return st;
}

// --- going on ------------------------------------------------------------------------------------

mk_status mk_kept_continue(mk_store *s, const char *owner, mk_ask *ask, mk_err *err) {
    if (!ask->previous) {
        return MK_OK;
    }
    json_t *before = NULL;
    mk_status st = mk_kept_messages(s, owner, ask->previous, &before, err);
    if (st == MK_ENOTFOUND) {
        return MK_FAIL(err, MK_EUSAGE,
                       MK_NOT_KEPT " is kept under the id '%.80s'; send the "
                                   "whole conversation as \"input\"",
                       ask->previous);
    }
    MK_TRY(st);
    // settling changes messages; what is kept stays as it is
    json_t *all = ask->instructions ? json_deep_copy(ask->instructions) : json_array();
    bool good = !ask->input || json_array_extend(before, ask->input) == 0;
    json_t *copy = good ? json_deep_copy(before) : NULL;
    good = copy && all && json_array_extend(all, copy) == 0;
    json_decref(copy);
    if (!good) {  // a conversation with holes would be answered as if it were another
        json_decref(all);
        json_decref(before);
        return MK_FAIL(err, MK_ENOMEM, "no memory for the kept conversation");
    }
    json_decref(ask->input);
    ask->input = before;
    json_decref(ask->messages);
    ask->messages = all;
    return mk_ask_settle_messages(ask, err);
}
