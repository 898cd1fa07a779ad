// One sequence and its ids.
#include "engine/session.h"

#include <string.h>

#include "base/alloc.h"

struct mk_session {
    mk_engine *engine;
    int seq;
    int64_t n, n_ctx;
    int32_t *ids;  // [n_ctx], the first n are in the cache
};

mk_status mk_session_create(mk_engine *e, mk_session **out, mk_err *err) {
    mk_session *s = mk_zalloc(sizeof *s);
    s->engine = e;
    s->n_ctx = mk_engine_n_ctx(e);
    s->ids = mk_try_alloc((size_t)s->n_ctx, sizeof *s->ids);
    mk_status st =
        s->ids ? mk_engine_seq_open(e, &s->seq, err)
               : MK_FAIL(err, MK_ENOMEM, "no memory for %lld token ids", (long long)s->n_ctx);
    if (st != MK_OK) {
        mk_free(s->ids);
        mk_free(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_session_destroy(mk_session *s) {
    if (!s) {
        return;
    }
    mk_engine_seq_close(s->engine, s->seq);
    mk_free(s->ids);
    mk_free(s);
}

mk_status mk_session_sync(mk_session *s, const int32_t *ids, int64_t n, int64_t *n_cached,
                          mk_err *err) {
    MK_ASSERT(n >= 1);
    if (n > s->n_ctx) {
        return MK_FAIL(
            err, MK_ECONTEXT,
            "prompt is %lld tokens, window is %lld; nothing was cut. Ask for a larger window "
            "with --ctx",
            (long long)n, (long long)s->n_ctx);
    }
    int64_t same = 0;
    while (same < n - 1 && same < s->n && s->ids[same] == ids[same]) {
        same++;
    }
    mk_session_truncate(s, same);
    if (n_cached) {
        *n_cached = same;
    }
    mk_status st = mk_engine_feed(s->engine, s->seq, ids + same, n - same, MK_LOGITS_LAST, err);
    s->n = mk_engine_seq_length(s->engine, s->seq);  // after an error: as far as it came
    memcpy(s->ids + same, ids + same, (size_t)(s->n - same) * sizeof *ids);
    return st;
}

mk_status mk_session_push(mk_session *s, int32_t id, mk_err *err) {
    mk_step step = {s->seq, &id, 1, MK_LOGITS_LAST, NULL};
    MK_TRY(mk_engine_forward(s->engine, &step, 1, err));
    s->ids[s->n++] = id;
    return MK_OK;
}

void mk_session_truncate(mk_session *s, int64_t n) {
    MK_ASSERT(n >= 0 && n <= s->n);
    mk_engine_seq_truncate(s->engine, s->seq, n);
    s->n = n;
}

const float *mk_session_logits(const mk_session *s) {
    return mk_engine_logits(s->engine, 0);
}

const int32_t *mk_session_ids(const mk_session *s) {
    return s->ids;
}

int64_t mk_session_length(const mk_session *s) {
    return s->n;
}

int64_t mk_session_n_ctx(const mk_session *s) {
    return s->n_ctx;
}
