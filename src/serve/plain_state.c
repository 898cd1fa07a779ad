// Routes to what is stored: the ledger's sums, and kept answers.
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "serve/service_int.h"
#include "serve/usage.h"

static void fail(mk_service *s, mk_http_exchange *x, const mk_err *err) {
    mk_service_fail(s, x, NULL, mk_error_http_status(err->code), err);
}

// --- the ledger ----------------------------------------------------------------------------------

static mk_status read_query(mk_http_exchange *x, const caller *c, mk_usage_query *q, mk_err *err) {
    const char *by = mk_http_query(x, "by"), *since = mk_http_query(x, "since");
    *q = (mk_usage_query){.by_day = true, .by_key = true, .by_model = true};
    q->filter.key = mk_http_query(x, "key");
    q->filter.model = mk_http_query(x, "model");
    q->filter.until = (int64_t)time(NULL) + 1;
    if (by && mk_usage_parse_by(by, q, err) != MK_OK) {
        return mk_err_prefix(err, "by");
    }
    if (since && mk_usage_parse_since(since, (int64_t)time(NULL), &q->filter.since, err) != MK_OK) {
        return mk_err_prefix(err, "since");
    }
    if (c->scopes & MK_SCOPE_ADMIN) {
        return MK_OK;
    }
    if (q->filter.key && strcmp(q->filter.key, c->key_id) != 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "this key may see its own usage only; others need the scope "
                       "admin");
    }
    q->filter.key = c->key_id;
    return MK_OK;
}

HANDLER(usage) {
    (void)r;
    mk_err err = {0};
    mk_usage_query q;
    json_t *v = NULL;
    if (read_query(x, c, &q, &err) == MK_OK && mk_usage_report(s->store, &q, &v, &err) == MK_OK) {
        mk_service_json(s, x, 200, v);
    } else {
        fail(s, x, &err);
    }
}

// --- kept answers --------------------------------------------------------------------------------

static const char *response_id(mk_http_exchange *x) {
    const char *at = strstr(mk_http_path(x), "/responses/");
    return at ? at + strlen("/responses/") : "";
}

HANDLER(response_get) {
    (void)r;
    mk_err err = {0};
    mk_buf b;
    mk_buf_init(&b, (size_t)1 << 28);
    if (mk_kept_get(s->store, c->key_id, response_id(x), &b, &err) == MK_OK) {
        mk_service_reply_buf(s, x, (mk_service_head){0}, &b);
    } else {
        fail(s, x, &err);
        mk_buf_free(&b);
    }
}

HANDLER(response_delete) {
    (void)r;
    mk_err err = {0};
    const char *id = response_id(x);
    if (mk_kept_delete(s->store, c->key_id, id, &err) == MK_OK) {
        mk_service_json(s, x, 200,
                        json_pack("{s:o, s:s, s:b}", "id", mk_json_text(id, strlen(id)), "object",
                                  "response", "deleted", 1));
    } else {
        fail(s, x, &err);
    }
}
