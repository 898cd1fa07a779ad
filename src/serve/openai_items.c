#include "serve/openai_items.h"

#include <string.h>

typedef struct {
    json_t *items;
    const char *id;  // of the response, without its prefix
    bool failed;
} list;

// Takes `rest`, which has no id yet.
static void add(list *l, const char *prefix, const char *type, json_t *rest) {
    json_t *item = json_object();
    bool ok =
        json_object_set_new(
            item, "id", json_sprintf("%s_%si%02zu", prefix, l->id, json_array_size(l->items))) == 0;
    ok = ok && json_object_set_new(item, "type", json_string(type)) == 0;
    ok = ok && rest && json_object_update(item, rest) == 0;
    json_decref(rest);
    l->failed = json_array_append_new(l->items, item) != 0 || !ok || l->failed;
}

static void add_message(list *l, const char *role, json_t *text) {
    bool own = strcmp(role, "assistant") == 0;
    json_t *part = own ? json_pack("{s:s, s:O, s:[], s:[]}", "type", "output_text", "text", text,
                                   "annotations", "logprobs")
                       : json_pack("{s:s, s:O}", "type", "input_text", "text", text);
    add(l, "msg", "message",
        json_pack("{s:s, s:s, s:[o]}", "status", "completed", "role", role, "content", part));
}

static void add_calls(list *l, const json_t *calls) {
    size_t i;
    json_t *call;
    json_array_foreach((json_t *)(uintptr_t)calls, i, call) {
        json_t *f = json_object_get(call, "function");
        add(l, "fc", "function_call",
            json_pack("{s:s, s:O, s:O, s:O}", "status", "completed", "arguments",
                      json_object_get(f, "arguments"), "call_id", json_object_get(call, "id"),
                      "name", json_object_get(f, "name")));
    }
}

static void add_assistant(list *l, const json_t *m) {
    json_t *thought = json_object_get(m, "reasoning_content"),
           *text = json_object_get(m, "content");
    const json_t *calls = json_object_get(m, "tool_calls");
    if (json_string_length(thought) > 0) {
        add(l, "rs", "reasoning",
            json_pack("{s:s, s:[], s:[{s:s, s:O}]}", "status", "completed", "summary", "content",
                      "type", "reasoning_text", "text", thought));
    }
    if (json_string_length(text) > 0 || (json_is_string(text) && !thought && !calls)) {
        add_message(l, "assistant", text);
    }
    add_calls(l, calls);
}

static void add_items(list *l, const json_t *m) {
    const char *role = json_string_value(json_object_get(m, "role"));
    if (strcmp(role, "assistant") == 0) {
        add_assistant(l, m);
    } else if (strcmp(role, "tool") == 0) {
        add(l, "fco", "function_call_output",
            json_pack("{s:s, s:O, s:O}", "status", "completed", "call_id",
                      json_object_get(m, "tool_call_id"), "output", json_object_get(m, "content")));
    } else {
        add_message(l, role, json_object_get(m, "content"));
    }
}

static const char *id_of(const json_t *items, size_t i) {
    return json_string_value(json_object_get(json_array_get(items, i), "id"));
}

// How many items stand in front of the page, in its order.
static mk_status find_begin(const json_t *items, const mk_items_page *p, size_t *begin,
                            mk_err *err) {
    size_t n = json_array_size(items);
    *begin = 0;
    if (!p->after) {
        return MK_OK;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(id_of(items, i), p->after) == 0) {
            *begin = p->ascending ? i + 1 : n - i;
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE, "after: this response has no item with the id '%.80s'",
                   p->after);
}

static mk_status make_page(const json_t *items, const mk_items_page *p, json_t **out, mk_err *err) {
    size_t n = json_array_size(items), begin, most = (size_t)p->limit;
    MK_TRY(find_begin(items, p, &begin, err));
    size_t k = n - begin < most ? n - begin : most;
    json_t *data = json_array();
    bool ok = data != NULL;
    for (size_t i = begin; i < begin + k; i++) {
        json_t *item = json_array_get(items, p->ascending ? i : n - 1 - i);
        ok = ok && json_array_append(data, item) == 0;
    }
    *out = !ok ? NULL
               : json_pack("{s:s, s:O, s:s?, s:s?, s:b}", "object", "list", "data", data,
                           "first_id", k > 0 ? id_of(data, 0) : NULL, "last_id",
                           k > 0 ? id_of(data, k - 1) : NULL, "has_more", (int)(begin + k < n));
    json_decref(data);
    return *out ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for a list of %zu items", k);
}

mk_status mk_openai_items(const json_t *messages, const char *response_id,
                          const mk_items_page *page, json_t **out, mk_err *err) {
    static const char prefix[] = "resp_";
    bool has = strncmp(response_id, prefix, sizeof prefix - 1) == 0;
    list l = {.items = json_array(), .id = response_id + (has ? sizeof prefix - 1 : 0)};
    *out = NULL;
    for (size_t i = 0; i + 1 < json_array_size(messages); i++) {
        add_items(&l, json_array_get(messages, i));
    }
    mk_status st = l.failed || !l.items
                       ? MK_FAIL(err, MK_ENOMEM, "no memory for the items of a conversation")
                       : make_page(l.items, page, out, err);
    json_decref(l.items);
    return st;
}
