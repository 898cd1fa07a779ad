// API keys: who may call a service, for what, and how much.
//
// A key is "sk-mk-" and 40 letters and digits, of which the first 8 are its id: what lists, the
// ledger and `minke keys revoke` call it by.  Only the SHA-256 of a key is stored, so that the
// database gives no key away; the key itself is shown once, when it is made.
//
// mk_keys is what a running service has of them: all keys in memory, with what each has used of its
// limits.  It follows the store, in which other processes make and revoke keys: mk_keys_refresh.
// Threads: any.
//
// Limits.  per_minute: a bucket that holds so many requests and fills evenly, so that a burst is
// let through and the rate is kept.  at_once: answers that run.  Both count this process alone.
// tokens_per_day: prompt (cached or not) and output, by the ledger, so of all processes; the day is
// UTC's.  A request is let in while the day's tokens are not used up: the last one may go over.
#ifndef MK_SERVE_KEYS_H
#define MK_SERVE_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/store.h"

enum { MK_KEY_TEXT = 48, MK_KEY_ID = 12, MK_KEY_NAME = 64 };  // with the NUL
enum { MK_SCOPE_INFER = 1, MK_SCOPE_ADMIN = 2 };

typedef struct {
    char id[MK_KEY_ID];
    char name[MK_KEY_NAME];                       // "" or what its owner calls it
    unsigned scopes;                              // of MK_SCOPE_*
    int64_t per_minute, tokens_per_day, at_once;  // 0: no limit
    int64_t created, revoked;                     // seconds since 1970; revoked 0: valid
} mk_key;

// --- the list ------------------------------------------------------------------------------------
// Makes a key with the name, scopes and limits of *k, fills in the rest, and writes the key itself
// to text.  Errors: MK_EUSAGE (name), those of the store.
mk_status mk_key_new(mk_store *s, mk_key *k, int64_t now, char text[MK_KEY_TEXT],
                     mk_err *err) MK_WARN_UNUSED;
// All keys, the oldest first; *list is freed with mk_free.
mk_status mk_key_list(mk_store *s, mk_key **list, size_t *n, mk_err *err) MK_WARN_UNUSED;
// The key with this id or, if only one valid key has it, this name.  Errors: MK_ENOTFOUND,
// MK_EUSAGE.
mk_status mk_key_revoke(mk_store *s, const char *which, int64_t now, mk_key *k,
                        mk_err *err) MK_WARN_UNUSED;
// "infer", "admin", "infer,admin".  Errors: MK_EUSAGE.
mk_status mk_scopes_parse(const char *text, unsigned *scopes, mk_err *err) MK_WARN_UNUSED;
const char *mk_scopes_text(unsigned scopes);
// A new key without a place in the store.
mk_status mk_key_make(char text[MK_KEY_TEXT], mk_err *err) MK_WARN_UNUSED;

// --- in a service --------------------------------------------------------------------------------
typedef struct mk_keys mk_keys;

// A moment on both clocks.
typedef struct {
    uint64_t ns;  // monotonic
    int64_t unix_s;
} mk_moment;
mk_moment mk_moment_now(void);

mk_status mk_keys_open(mk_store *s, mk_moment now, mk_keys **out, mk_err *err) MK_WARN_UNUSED;
void mk_keys_close(mk_keys *k);
// Reads the store again if another process has changed it.  Not on a thread that must not wait.
mk_status mk_keys_refresh(mk_keys *k, mk_moment now, mk_err *err) MK_WARN_UNUSED;
// Has a key ever been made?  Then nobody comes in without one, even if all were revoked.
bool mk_keys_any(mk_keys *k);
// The valid key that was given; false: there is none.  The time it takes does not depend on how
// much of a key is right.
bool mk_keys_find(mk_keys *k, const char *given, mk_key *out);

// A request of this key comes in: counts it, or refuses it with MK_ELIMIT; then *retry_s is when to
// come again.  A key that is not there (any more) has no limits here.
mk_status mk_keys_admit(mk_keys *k, const char *id, mk_moment now, int64_t *retry_s,
                        mk_err *err) MK_WARN_UNUSED;
// An answer begins, or is refused as above.  Each that began ends once.
mk_status mk_keys_begin(mk_keys *k, const char *id, int64_t *retry_s, mk_err *err) MK_WARN_UNUSED;
void mk_keys_spend(mk_keys *k, const char *id, int64_t n_token, mk_moment now);
void mk_keys_end(mk_keys *k, const char *id, int64_t n_token, mk_moment now);

// --- tenants -------------------------------------------------------------------------------------
// Whose cache it is: of a key and, below it, of a user that the client names (NULL: none).  0 for
// neither.  Not to be steered by choosing a user's name.
uint64_t mk_tenant(const char *key_id, const char *user);

#endif
