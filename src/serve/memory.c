#include "serve/memory.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { KEY = 16, SHORT_TEXT = 64, MAX_CALLS = 32, USED_S = 3600 };

typedef struct {
    unsigned char b[KEY];
} key;

// --- what a turn is found by ---------------------------------------------------------------------

static key hash_key(const char *kind, uint64_t owner, const mk_buf *what) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    char head[64];
    mk_buf b;
    key k = {{0}};
    mk_buf_init(&b, SIZE_MAX - 1);
    int n = snprintf(head, sizeof head, "%s %016llx ", kind, (unsigned long long)owner);
    mk_buf_add(&b, head, (size_t)n);
    mk_buf_add(&b, what->data ? what->data : "", what->len);
    if (!b.failed) {
        (void)SHA256((const unsigned char *)b.data, b.len, hash);
        memcpy(k.b, hash, sizeof k.b);
    }
    mk_buf_free(&b);
    return k;
}

static key call_key(uint64_t owner, const char *id) {
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_buf_puts(&b, id);
    key k = hash_key("call", owner, &b);
    mk_buf_free(&b);
    return k;
}

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// A text without the white space at its ends, which clients cut off.
static void add_trimmed(mk_buf *b, const json_t *text) {
    const char *p = json_is_string(text) ? json_string_value(text) : "";
    size_t n = json_is_string(text) ? json_string_length(text) : 0;
    while (n > 0 && is_space(p[0])) {
        p++;
        n--;
    }
    while (n > 0 && is_space(p[n - 1])) {
        n--;
    }
    mk_buf_add(b, p, n);
    mk_buf_putc(b, 0);
}

static int add_piece(const char *p, size_t n, void *b) {
    mk_buf_add(b, p, n);
    return 0;
}

// Arguments as they mean: clients write them anew.
static void add_arguments(mk_buf *b, const json_t *arguments) {
    const char *p = json_is_string(arguments) ? json_string_value(arguments) : "";
    json_t *v = NULL;
    size_t flags = JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY;
    if (mk_json_parse(p, strlen(p), "arguments", &v, NULL) == MK_OK) {
        (void)json_dump_callback(v, add_piece, b, flags);
    } else {
        mk_buf_puts(b, p);
    }
    mk_buf_putc(b, 0);
    json_decref(v);
}

static key turn_key(uint64_t owner, const json_t *before, const json_t *turn) {
    mk_buf b;
    size_t i;
    json_t *call;
    mk_buf_init(&b, SIZE_MAX - 1);
    add_trimmed(&b, json_object_get(turn, "content"));
    bool is_short = b.len <= SHORT_TEXT;
    json_array_foreach(json_object_get(turn, "tool_calls"), i, call) {
        const json_t *f = json_object_get(call, "function");
        add_trimmed(&b, json_object_get(f, "name"));
        add_arguments(&b, json_object_get(f, "arguments"));
    }
    if (is_short && before) {
        add_trimmed(&b, json_object_get(before, "content"));
    }
    key k = hash_key("turn", owner, &b);
    mk_buf_free(&b);
    return k;
}

// Keys of a turn, at most 1 + MAX_CALLS; the most certain first.
static int keys_of(uint64_t owner, const json_t *before, const json_t *turn, key *out) {
    int n = 0;
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(turn, "tool_calls"), i, call) {
        const char *id = json_string_value(json_object_get(call, "id"));
        if (id && id[0] && n < MAX_CALLS) {
            out[n++] = call_key(owner, id);
        }
    }
    out[n++] = turn_key(owner, before, turn);
    return n;
}

// --- learning ------------------------------------------------------------------------------------

static mk_status make_room(mk_store *s, int64_t size, int64_t max_bytes, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "SELECT bytes FROM total WHERE name = 'thought'");
    int64_t total = mk_query_row(&q) ? mk_query_get_int(&q, 0) : 0;
    MK_TRY(mk_query_end(&q, err));
    while (total + size > max_bytes) {
        int64_t gone = 0;
        mk_query_begin(&q, s,
                       "DELETE FROM thought WHERE id = (SELECT id FROM thought ORDER BY used, id"
                       " LIMIT 1) RETURNING size");
        while (mk_query_row(&q)) {
            gone = mk_query_get_int(&q, 0);
        }
        MK_TRY(mk_query_end(&q, err));
        if (gone == 0) {
            break;
        }
        total -= gone;
    }
    return MK_OK;
}

static mk_status insert(mk_store *s, const char *text, int64_t size, int64_t now, int64_t *id,
                        mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s, "INSERT INTO thought(used, size, text) VALUES(?1, ?2, ?3) RETURNING id");
    mk_query_int(&q, now);
    mk_query_int(&q, size);
    mk_query_text(&q, text);
    while (mk_query_row(&q)) {
        *id = mk_query_get_int(&q, 0);
    }
    return mk_query_end(&q, err);
}

// The same answer given again: the newer reasoning counts.
static mk_status insert_key(mk_store *s, const key *k, int64_t id, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s,
                   "INSERT INTO thought_key VALUES(?1, ?2)"
                   " ON CONFLICT(key) DO UPDATE SET thought = excluded.thought");
    mk_query_blob(&q, k->b, sizeof k->b);
    mk_query_int(&q, id);
    return mk_query_end(&q, err);
}

mk_status mk_memory_learn(mk_store *s, uint64_t owner, const json_t *before, const json_t *answer,
                          int64_t now, int64_t max_bytes, mk_err *err) {
    const json_t *thought = json_object_get(answer, "reasoning_content");
    const char *text = json_string_value(thought);
    size_t n_before = json_array_size(before);
    int64_t size = (int64_t)json_string_length(thought), id = 0;
    if (size == 0 || size > max_bytes || strlen(text) != (size_t)size) {
        return MK_OK;
    }
    key keys[MAX_CALLS + 1];
    int n = keys_of(owner, n_before ? json_array_get(before, n_before - 1) : NULL, answer, keys);
    MK_TRY(mk_store_start(s, err));
    mk_status st = make_room(s, size, max_bytes, err);
    st = st == MK_OK ? insert(s, text, size, now, &id, err) : st;
    for (int i = 0; i < n && st == MK_OK; i++) {
        st = insert_key(s, &keys[i], id, err);
    }
    return mk_store_finish(s, st, err);
}

// --- recalling -----------------------------------------------------------------------------------

static mk_status find(mk_store *s, const key *k, json_t **text, int64_t *id, int64_t *used,
                      mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s,
                   "SELECT t.text, t.id, t.used FROM thought_key k JOIN thought t"
                   " ON t.id = k.thought WHERE k.key = ?1");
    mk_query_blob(&q, k->b, sizeof k->b);
    if (mk_query_row(&q)) {
        *text = json_string(mk_query_get_text(&q, 0));
        *id = mk_query_get_int(&q, 1);
        *used = mk_query_get_int(&q, 2);
    }
    return mk_query_end(&q, err);
}

// Not at each use: most requests shall not write.
static mk_status note_use(mk_store *s, int64_t id, int64_t used, int64_t now, mk_err *err) {
    if (now - used < USED_S) {
        return MK_OK;
    }
    mk_query q;
    mk_query_begin(&q, s, "UPDATE thought SET used = ?1 WHERE id = ?2");
    mk_query_int(&q, now);
    mk_query_int(&q, id);
    return mk_query_end(&q, err);
}

static bool lacks_reasoning(const json_t *m) {
    const char *role = json_string_value(json_object_get(m, "role"));
    return role && strcmp(role, "assistant") == 0 &&
           json_string_length(json_object_get(m, "reasoning_content")) == 0;
}

mk_status mk_memory_recall(mk_store *s, uint64_t owner, json_t *messages, size_t n, int64_t now,
                           int *n_found, mk_err *err) {
    int found = 0;
    mk_status st = MK_OK;
    for (size_t i = 0; i < n && i < json_array_size(messages) && st == MK_OK; i++) {
        json_t *m = json_array_get(messages, i), *text = NULL;
        key keys[MAX_CALLS + 1];
        int64_t id = 0, used = 0;
        int n_key = lacks_reasoning(m)
                        ? keys_of(owner, i ? json_array_get(messages, i - 1) : NULL, m, keys)
                        : 0;
        for (int k = 0; k < n_key && !text && st == MK_OK; k++) {
            st = find(s, &keys[k], &text, &id, &used, err);
        }
        if (text) {
            (void)json_object_set_new(m, "reasoning_content", text);
            st = st == MK_OK ? note_use(s, id, used, now, err) : st;
            found++;
        }
    }
    if (n_found) {
        *n_found = found;
    }
    return st;
}
