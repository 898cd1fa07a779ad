#include "serve/memory.h"

#include <openssl/sha.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { KEY = 16, SHORT_TEXT = 64, MAX_CALLS = 32, USED_S = 3600 };

typedef struct {
    unsigned char b[KEY];
} key;

// --- what a turn is found by ---------------------------------------------------------------------

// False: no memory.  A key that is not made of all of it would be everybody's.
static bool hash_key(const char *kind, uint64_t owner, const mk_buf *what, key *k) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_buf_printf(&b, "%s %016llx ", kind, (unsigned long long)owner);
    mk_buf_add(&b, what->data ? what->data : "", what->len);
    bool good = !what->failed && !b.failed;
    if (good) {
        (void)SHA256((const unsigned char *)b.data, b.len, hash);
        memcpy(k->b, hash, sizeof k->b);
    }
    mk_buf_free(&b);
    return good;
}

static bool call_key(uint64_t owner, const char *id, key *k) {
    mk_buf b;
    mk_buf_init(&b, SIZE_MAX - 1);
    mk_buf_puts(&b, id);
    bool good = hash_key("call", owner, &b, k);
    mk_buf_free(&b);
    return good;
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
        b->failed = json_dump_callback(v, add_piece, b, flags) != 0 || b->failed;
    } else {
        mk_buf_puts(b, p);
    }
    mk_buf_putc(b, 0);
    json_decref(v);
}

static bool turn_key(uint64_t owner, const json_t *before, const json_t *turn, key *k) {
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
    bool good = hash_key("turn", owner, &b, k);
    mk_buf_free(&b);
    return good;
}

// Keys of a turn, at most 1 + MAX_CALLS; the most certain first.
static mk_status keys_of(uint64_t owner, const json_t *before, const json_t *turn, key *out,
                         int *n_key, mk_err *err) {
    int n = 0;
    size_t i;
    json_t *call;
    bool good = true;
    json_array_foreach(json_object_get(turn, "tool_calls"), i, call) {
        const char *id = json_string_value(json_object_get(call, "id"));
        if (id && id[0] && n < MAX_CALLS) {
            good = good && call_key(owner, id, &out[n++]);
        }
    }
    good = good && turn_key(owner, before, turn, &out[n++]);
    *n_key = good ? n : 0;
    return good ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory to find remembered reasoning");
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
    int n = 0;
    const json_t *last = n_before ? json_array_get(before, n_before - 1) : NULL;
    MK_TRY(keys_of(owner, last, answer, keys, &n, err));
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
    bool there = mk_query_row(&q);
    if (there) {
        *text = json_string(mk_query_get_text(&q, 0));
        *id = mk_query_get_int(&q, 1);
        *used = mk_query_get_int(&q, 2);
    }
    MK_TRY(mk_query_end(&q, err));
    return there && !*text ? MK_FAIL(err, MK_ENOMEM, "no memory for remembered reasoning") : MK_OK;
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

static mk_status recall_one(mk_store *s, uint64_t owner, const json_t *before, json_t *m,
                            int64_t now, int *n_found, mk_err *err) {
    key keys[MAX_CALLS + 1];
    int64_t id = 0, used = 0;
    int n = 0;
    json_t *text = NULL;
    MK_TRY(keys_of(owner, before, m, keys, &n, err));
    mk_status st = MK_OK;
    for (int k = 0; k < n && !text && st == MK_OK; k++) {
        st = find(s, &keys[k], &text, &id, &used, err);
    }
    if (st != MK_OK || !text) {
        json_decref(text);
        return st;
    }
    if (json_object_set_new(m, "reasoning_content", text) != 0) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for remembered reasoning");
    }
    ++*n_found;
    return note_use(s, id, used, now, err);
}

mk_status mk_memory_recall(mk_store *s, uint64_t owner, json_t *messages, size_t n, int64_t now,
                           int *n_found, mk_err *err) {
    int found = 0;
    mk_status st = MK_OK;
    for (size_t i = 0; i < n && i < json_array_size(messages) && st == MK_OK; i++) {
        json_t *m = json_array_get(messages, i);
        if (lacks_reasoning(m)) {
            const json_t *before = i ? json_array_get(messages, i - 1) : NULL;
            st = recall_one(s, owner, before, m, now, &found, err);
        }
    }
    if (n_found) {
        *n_found = found;
    }
    return st;
}
