// Keys: made, stored as hashes, and counted against their limits.
#include "serve/keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/secret.h"

enum { ID_CHARS = 8, KEY_CHARS = 40, DAY_S = 86400, HASH = SHA256_DIGEST_LENGTH };
#define PREFIX "sk-mk-"

typedef struct {
    mk_key key;
    unsigned char hash[HASH];
    double bucket;       // requests that may come now
    uint64_t filled_ns;  // when that was so
    int64_t n_running;
    int64_t day, used;  // tokens used on that day
} entry;

struct mk_keys {
    mk_store *store;
    pthread_mutex_t lock;  // never held while the store is asked
    entry *list;
    size_t n;
    int64_t version;  // of the store when it was read
};

mk_moment mk_moment_now(void) {
    return (mk_moment){.ns = mk_now_ns(), .unix_s = (int64_t)time(NULL)};
}

static void hash_text(const char *text, unsigned char out[HASH]) {
    (void)SHA256((const unsigned char *)text, strlen(text), out);
}

// --- making --------------------------------------------------------------------------------------

mk_status mk_key_make(char text[MK_KEY_TEXT], mk_err *err) {
    memcpy(text, PREFIX, strlen(PREFIX));
    return mk_secret_text(text + strlen(PREFIX), KEY_CHARS, err);
}

static mk_status check_name(const char *name, mk_err *err) {
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            return MK_FAIL(err, MK_EUSAGE, "a name of a key has no control characters");
        }
    }
    return MK_OK;
}

mk_status mk_key_new(mk_store *s, mk_key *k, int64_t now, char text[MK_KEY_TEXT], mk_err *err) {
    unsigned char hash[HASH];
    MK_TRY(check_name(k->name, err));
    MK_TRY(mk_key_make(text, err));
    hash_text(text, hash);
    snprintf(k->id, sizeof k->id, "%.*s", ID_CHARS, text + strlen(PREFIX));
    k->created = now;
    k->revoked = 0;
    mk_query q;
    mk_query_begin(&q, s, "INSERT INTO keys VALUES(?1,?2,?3,?4,?5,?6,?7,?8,0)");
    mk_query_text(&q, k->id);
    mk_query_text(&q, k->name);
    mk_query_blob(&q, hash, sizeof hash);
    mk_query_int(&q, k->scopes);
    mk_query_int(&q, k->per_minute);
    mk_query_int(&q, k->tokens_per_day);
    mk_query_int(&q, k->at_once);
    mk_query_int(&q, k->created);
    return mk_query_end(&q, err);
}

// --- the list ------------------------------------------------------------------------------------

static void read_row(const mk_query *q, entry *e) {
    size_t n = 0;
    *e = (entry){.key = {.scopes = (unsigned)mk_query_get_int(q, 3),
                         .per_minute = mk_query_get_int(q, 4),
                         .tokens_per_day = mk_query_get_int(q, 5),
                         .at_once = mk_query_get_int(q, 6),
                         .created = mk_query_get_int(q, 7),
                         .revoked = mk_query_get_int(q, 8)}};
    snprintf(e->key.id, sizeof e->key.id, "%s", mk_query_get_text(q, 0));
    snprintf(e->key.name, sizeof e->key.name, "%s", mk_query_get_text(q, 1));
    const void *hash = mk_query_get_blob(q, 2, &n);
    if (n == HASH) {
        memcpy(e->hash, hash, HASH);
    } else {
        e->key.revoked = 1;  // no key has this hash
    }
}

static mk_status read_all(mk_store *s, entry **list, size_t *n, mk_err *err) {
    mk_query q;
    entry *all = NULL;
    size_t count = 0, cap = 0;
    bool full = false;
    mk_query_begin(&q, s,
                   "SELECT id, name, hash, scopes, per_minute, tokens_per_day, at_once, created,"
                   " revoked FROM keys ORDER BY created, id");
    while (!full && mk_query_row(&q)) {
        if (count == cap) {
            entry *more = mk_try_realloc(all, cap ? 2 * cap : 16, sizeof *all);
            full = !more;
            all = more ? more : all;
            cap = more ? (cap ? 2 * cap : 16) : cap;
        }
        if (!full) {
            read_row(&q, &all[count++]);
        }
    }
    mk_status st = mk_query_end(&q, err);
    st = st == MK_OK && full ? MK_FAIL(err, MK_ENOMEM, "no memory for the keys") : st;
    if (st != MK_OK) {
        mk_free(all);
        return st;
    }
    *list = all;
    *n = count;
    return MK_OK;
}

mk_status mk_key_list(mk_store *s, mk_key **list, size_t *n, mk_err *err) {
    entry *all = NULL;
    size_t count = 0;
    MK_TRY(read_all(s, &all, &count, err));
    mk_key *keys = mk_try_alloc(count ? count : 1, sizeof *keys);
    for (size_t i = 0; keys && i < count; i++) {
        keys[i] = all[i].key;
    }
    mk_free(all);
    *list = keys;
    *n = keys ? count : 0;
    return keys ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for %zu keys", count);
}

// By id, else by name; the number of valid keys that have the name.
static const mk_key *pick(const mk_key *list, size_t n, const char *which, int *n_named) {
    const mk_key *named = NULL;
    *n_named = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].id, which) == 0) {
            *n_named = 1;
            return &list[i];
        }
        if (!list[i].revoked && list[i].name[0] && strcmp(list[i].name, which) == 0) {
            named = &list[i];
            ++*n_named;
        }
    }
    return named;
}

static mk_status find_one(mk_store *s, const char *which, mk_key *k, mk_err *err) {
    mk_key *list = NULL;
    size_t n = 0;
    int n_named;
    MK_TRY(mk_key_list(s, &list, &n, err));
    const mk_key *found = pick(list, n, which, &n_named);
    mk_status st = MK_OK;
    if (!found) {
        st = MK_FAIL(err, MK_ENOTFOUND, "no key has the id or name '%.60s'; `minke keys list`",
                     which);
    } else if (n_named > 1) {
        st = MK_FAIL(err, MK_EUSAGE, "%d keys have the name '%.60s'; give the id", n_named, which);
    } else {
        *k = *found;
    }
    mk_free(list);
    return st;
}

mk_status mk_key_revoke(mk_store *s, const char *which, int64_t now, mk_key *k, mk_err *err) {
    // who has only the key itself may give that: its id is in it
    char id[MK_KEY_ID];
    if (strncmp(which, PREFIX, strlen(PREFIX)) == 0) {
        snprintf(id, sizeof id, "%.*s", ID_CHARS, which + strlen(PREFIX));
        which = id;
    }
    MK_TRY(find_one(s, which, k, err));
    if (k->revoked) {
        return MK_OK;
    }
    mk_query q;
    mk_query_begin(&q, s, "UPDATE keys SET revoked = ?1 WHERE id = ?2");
    mk_query_int(&q, now);
    mk_query_text(&q, k->id);
    k->revoked = now;
    return mk_query_end(&q, err);
}

// --- scopes --------------------------------------------------------------------------------------

mk_status mk_scopes_parse(const char *text, unsigned *scopes, mk_err *err) {
    *scopes = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ",");
        if (n == 5 && strncmp(p, "infer", n) == 0) {
            *scopes |= MK_SCOPE_INFER;
        } else if (n == 5 && strncmp(p, "admin", n) == 0) {
            *scopes |= MK_SCOPE_ADMIN;
        } else {
            return MK_FAIL(err, MK_EUSAGE, "a scope is infer or admin, not '%.*s'",
                           (int)(n > 40 ? 40 : n), p);
        }
        p += n + (p[n] == ',');
    }
    return *scopes ? MK_OK : MK_FAIL(err, MK_EUSAGE, "no scope; there are infer and admin");
}

const char *mk_scopes_text(unsigned scopes) {
    return scopes == (MK_SCOPE_INFER | MK_SCOPE_ADMIN) ? "infer,admin"
           : scopes & MK_SCOPE_ADMIN                   ? "admin"
                                                       : "infer";
}

// --- in a service --------------------------------------------------------------------------------

static entry *entry_of(mk_keys *k, const char *id) {
    for (size_t i = 0; i < k->n; i++) {
        if (strcmp(k->list[i].key.id, id) == 0) {
            return &k->list[i];
        }
    }
    return NULL;
}

// What each key has used today, by the ledger.
static mk_status read_used(mk_store *s, int64_t day, entry *list, size_t n, mk_err *err) {
    mk_query q;
    mk_query_begin(&q, s,
                   "SELECT key, SUM(prompt + output) FROM ledger WHERE time >= ?1 GROUP BY key");
    mk_query_int(&q, day * DAY_S);
    while (mk_query_row(&q)) {
        for (size_t i = 0; i < n; i++) {
            if (strcmp(list[i].key.id, mk_query_get_text(&q, 0)) == 0) {
                list[i].used = mk_query_get_int(&q, 1);
            }
        }
    }
    return mk_query_end(&q, err);
}

// What is known of a key stays, whatever was read again.
static void carry_over(mk_keys *k, entry *e, mk_moment now) {
    const entry *old = entry_of(k, e->key.id);
    e->filled_ns = now.ns;
    e->bucket = (double)e->key.per_minute;
    if (old) {
        e->n_running = old->n_running;
        e->bucket = old->bucket;
        e->filled_ns = old->filled_ns;
        // an answer may have been counted since the ledger was read
        e->used = old->day == e->day && old->used > e->used ? old->used : e->used;
    }
}

static mk_status read_keys(mk_keys *k, int64_t version, mk_moment now, mk_err *err) {
    entry *list = NULL;
    size_t n = 0;
    int64_t day = now.unix_s / DAY_S;
    MK_TRY(read_all(k->store, &list, &n, err));
    mk_status st = read_used(k->store, day, list, n, err);
    if (st != MK_OK) {
        mk_free(list);
        return st;
    }
    pthread_mutex_lock(&k->lock);
    for (size_t i = 0; i < n; i++) {
        list[i].day = day;
        carry_over(k, &list[i], now);
    }
    entry *old = k->list;
    k->list = list;
    k->n = n;
    k->version = version;
    pthread_mutex_unlock(&k->lock);
    mk_free(old);
    return MK_OK;
}

mk_status mk_keys_open(mk_store *s, mk_moment now, mk_keys **out, mk_err *err) {
    mk_keys *k = mk_zalloc(sizeof *k);
    k->store = s;
    pthread_mutex_init(&k->lock, NULL);
    mk_status st = read_keys(k, mk_store_version(s), now, err);
    if (st != MK_OK) {
        mk_keys_close(k);
        return st;
    }
    *out = k;
    return MK_OK;
}

void mk_keys_close(mk_keys *k) {
    if (k) {
        pthread_mutex_destroy(&k->lock);
        mk_free(k->list);
        mk_free(k);
    }
}

mk_status mk_keys_refresh(mk_keys *k, mk_moment now, mk_err *err) {
    int64_t version = mk_store_version(k->store);
    pthread_mutex_lock(&k->lock);
    bool same = version == k->version;
    pthread_mutex_unlock(&k->lock);
    return same ? MK_OK : read_keys(k, version, now, err);
}

bool mk_keys_any(mk_keys *k) {
    pthread_mutex_lock(&k->lock);
    bool any = k->n > 0;
    pthread_mutex_unlock(&k->lock);
    return any;
}

bool mk_keys_find(mk_keys *k, const char *given, mk_key *out) {
    unsigned char hash[HASH];
    hash_text(given, hash);
    bool found = false;
    pthread_mutex_lock(&k->lock);
    for (size_t i = 0; i < k->n; i++) {  // all of them, however early one fits
        bool same = CRYPTO_memcmp(hash, k->list[i].hash, HASH) == 0;
        if (same && k->list[i].key.revoked == 0) {
            *out = k->list[i].key;
            found = true;
        }
    }
    pthread_mutex_unlock(&k->lock);
    return found;
}

// --- limits --------------------------------------------------------------------------------------

static void fill_bucket(entry *e, uint64_t now_ns) {
    double per_s = (double)e->key.per_minute / 60;
    if (now_ns > e->filled_ns) {
        e->bucket += (double)(now_ns - e->filled_ns) / 1e9 * per_s;
        e->filled_ns = now_ns;
    }
    if (e->bucket > (double)e->key.per_minute) {
        e->bucket = (double)e->key.per_minute;
    }
}

static void turn_day(entry *e, int64_t unix_s) {
    int64_t day = unix_s / DAY_S;
    if (day > e->day) {
        e->day = day;
        e->used = 0;
    }
}

static mk_status admit(entry *e, mk_moment now, int64_t *retry_s, mk_err *err) {
    turn_day(e, now.unix_s);
    const mk_key *k = &e->key;
    if (k->tokens_per_day > 0 && e->used >= k->tokens_per_day) {
        *retry_s = DAY_S - now.unix_s % DAY_S;
        return MK_FAIL(err, MK_ELIMIT,
                       "this key has used %lld of its %lld tokens of today; the day ends at 0:00 "
                       "UTC, in %lld s",
                       (long long)e->used, (long long)k->tokens_per_day, (long long)*retry_s);
    }
    if (k->per_minute > 0) {
        fill_bucket(e, now.ns);
        if (e->bucket < 1 - 1e-6) {  // it fills by a sum that is rounded
            double wait = (1 - e->bucket) * 60 / (double)k->per_minute;
            *retry_s = (int64_t)wait + ((double)(int64_t)wait < wait);
            return MK_FAIL(err, MK_ELIMIT,
                           "this key may make %lld requests a minute; try again in %lld s",
                           (long long)k->per_minute, (long long)*retry_s);
        }
        e->bucket -= 1;
    }
    return MK_OK;
}

mk_status mk_keys_admit(mk_keys *k, const char *id, mk_moment now, int64_t *retry_s, mk_err *err) {
    *retry_s = 0;
    pthread_mutex_lock(&k->lock);
    entry *e = entry_of(k, id);
    mk_status st = e ? admit(e, now, retry_s, err) : MK_OK;
    pthread_mutex_unlock(&k->lock);
    return st;
}

mk_status mk_keys_begin(mk_keys *k, const char *id, int64_t *retry_s, mk_err *err) {
    mk_status st = MK_OK;
    *retry_s = 0;
    pthread_mutex_lock(&k->lock);
    entry *e = entry_of(k, id);
    if (e && e->key.at_once > 0 && e->n_running >= e->key.at_once) {
        *retry_s = 1;
        st = MK_FAIL(err, MK_ELIMIT,
                     "this key may have %lld answers at once, and so many are running",
                     (long long)e->key.at_once);
    } else if (e) {
        e->n_running++;
    }
    pthread_mutex_unlock(&k->lock);
    return st;
}

static void spend(mk_keys *k, const char *id, int64_t n_token, mk_moment now, int n_ended) {
    pthread_mutex_lock(&k->lock);
    entry *e = entry_of(k, id);
    if (e) {
        turn_day(e, now.unix_s);
        e->used += n_token;
        e->n_running -= e->n_running > 0 ? n_ended : 0;
    }
    pthread_mutex_unlock(&k->lock);
}

void mk_keys_spend(mk_keys *k, const char *id, int64_t n_token, mk_moment now) {
    spend(k, id, n_token, now, 0);
}

void mk_keys_end(mk_keys *k, const char *id, int64_t n_token, mk_moment now) {
    spend(k, id, n_token, now, 1);
}

// --- tenants -------------------------------------------------------------------------------------

uint64_t mk_tenant(const char *key_id, const char *user) {
    unsigned char hash[HASH], both[2 * HASH];
    uint64_t tenant = 0;
    if (key_id[0] == 0 && !user) {
        return 0;
    }
    hash_text(key_id, both);
    hash_text(user ? user : "", both + HASH);
    both[0] ^= user ? 1 : 0;  // a user without a name is not none
    (void)SHA256(both, sizeof both, hash);
    memcpy(&tenant, hash, sizeof tenant);
    return tenant;
}
