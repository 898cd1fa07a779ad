// Routes to what is stored: the ledger's sums, and kept answers.
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/opt.h"
#include "serve/openai_items.h"
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

typedef struct {
    char text[96];
} response_id;

// What stands behind /responses/; one that is too long is cut and found nowhere.
static response_id id_of(mk_http_exchange *x) {
    response_id id;
    const char *at = strstr(mk_http_path(x), "/responses/");
    at = at ? at + strlen("/responses/") : "";
    snprintf(id.text, sizeof id.text, "%.*s", (int)strcspn(at, "/"), at);
    return id;
}

static void reply_kept(mk_service *s, mk_http_exchange *x, const caller *c) {
    mk_err err = {0};
    mk_buf b;
    mk_buf_init(&b, (size_t)1 << 28);
    if (mk_kept_get(s->store, c->key_id, id_of(x).text, &b, &err) == MK_OK) {
        mk_service_reply_buf(s, x, (mk_service_head){0}, &b);
    } else {
        fail(s, x, &err);
        mk_buf_free(&b);
    }
}

HANDLER(response_get) {
    (void)r;
    reply_kept(s, x, c);
}

// What is kept has ended: it stays as it is.
HANDLER(response_cancel) {
    (void)r;
    reply_kept(s, x, c);
}

static mk_status read_page(mk_http_exchange *x, mk_items_page *p, mk_err *err) {
    const char *limit = mk_http_query(x, "limit"), *order = mk_http_query(x, "order");
    *p = (mk_items_page){.after = mk_http_query(x, "after"), .limit = MK_ITEMS_LIMIT};
    if (limit &&
        (!mk_parse_i64(limit, &p->limit) || p->limit < 1 || p->limit > MK_ITEMS_MAX_LIMIT)) {
        return MK_FAIL(err, MK_EUSAGE, "limit: expected 1 to %d, got '%.40s'", MK_ITEMS_MAX_LIMIT,
                       limit);
    }
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0) {
        return MK_FAIL(err, MK_EUSAGE, "order: expected asc or desc, got '%.40s'", order);
    }
    if (mk_http_query(x, "before")) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "before: is not supported; \"after\" and \"order\"");
    }
    p->ascending = order && strcmp(order, "asc") == 0;
    return MK_OK;
}

HANDLER(response_items) {
    (void)r;
    mk_err err = {0};
    mk_items_page page;
    response_id id = id_of(x);
    json_t *messages = NULL, *list = NULL;
    mk_status st = read_page(x, &page, &err);
    st = st == MK_OK ? mk_kept_messages(s->store, c->key_id, id.text, &messages, &err) : st;
    st = st == MK_OK ? mk_openai_items(messages, id.text, &page, &list, &err) : st;
    if (st == MK_OK) {
        mk_service_json(s, x, 200, list);
    } else {
        fail(s, x, &err);
    }
    json_decref(messages);
}

HANDLER(response_delete) {
    (void)r;
    mk_err err = {0};
    response_id id = id_of(x);
    if (mk_kept_delete(s->store, c->key_id, id.text, &err) == MK_OK) {
        mk_service_json(s, x, 200,
                        json_pack("{s:o, s:s, s:b}", "id", mk_json_text(id.text, strlen(id.text)),
                                  "object", "response", "deleted", 1));
    } else {
        fail(s, x, &err);
    }
}
