// minke keys: API keys of the service, made, listed and revoked.
//
// A running server takes changes over within a second.
#include "cmd.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/keys.h"

typedef struct {
    const char *state_dir, *scopes;
    int64_t per_minute, tokens_per_day, at_once;
    bool json;
} keys_args;

static const mk_opt opts[] = {
    CMD_OPT_STATE_DIR(keys_args, state_dir),
    {.name = "scopes",
     .type = MK_OPT_STR,
     .offset = offsetof(keys_args, scopes),
     .dflt = "infer",
     .arg = "LIST",
     .help = "infer: answers and embeddings; admin: everybody's usage; infer,admin: both",
     .group = "A new key"},
    {.name = "per-minute",
     .type = MK_OPT_I64,
     .offset = offsetof(keys_args, per_minute),
     .dflt = "0",
     .min = 0,
     .max = 1e6,
     .arg = "N",
     .help = "requests a minute; so many may come at once; 0: any number"},
    {.name = "tokens-per-day",
     .type = MK_OPT_I64,
     .offset = offsetof(keys_args, tokens_per_day),
     .dflt = "0",
     .min = 0,
     .max = 1e15,
     .arg = "N",
     .help = "tokens of prompts and answers from 0:00 to 24:00 UTC; 0: any number"},
    {.name = "at-once",
     .type = MK_OPT_I64,
     .offset = offsetof(keys_args, at_once),
     .dflt = "0",
     .min = 0,
     .max = 1e6,
     .arg = "N",
     .help = "answers that may run at the same time; 0: any number"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(keys_args, json),
     .help = "one object, for list one array",
     .group = "Output"},
};

const mk_opt_spec cmd_keys_spec = {
    .program = "minke keys",
    .usage = "new|list|revoke [NAME|ID]",
    .about = "Makes and revokes keys for minke serve. Once a key has been made here, the server "
             "lets nobody in without one (--no-key does). Only a hash of it is stored: the key "
             "itself is shown once.",
    .more = "  new [NAME]         makes a key and prints it\n"
            "  list               all keys, with their limits\n"
            "  revoke ID|NAME     from now on it is not let in\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .min_args = 1,
    .max_args = 2,
};

// --- output --------------------------------------------------------------------------------------

static json_t *key_json(const mk_key *k) {
    json_t *v = json_pack("{s:s, s:o, s:s, s:I, s:I, s:I, s:I}", "id", k->id, "name",
                          mk_json_text(k->name, strlen(k->name)), "scopes",
                          mk_scopes_text(k->scopes), "per_minute", (json_int_t)k->per_minute,
                          "tokens_per_day", (json_int_t)k->tokens_per_day, "at_once",
                          (json_int_t)k->at_once, "created", (json_int_t)k->created);
    json_object_set_new(v, "revoked", k->revoked ? json_integer(k->revoked) : json_null());
    return v;
}

static void print_limit(const char *what, int64_t n) {
    if (n > 0) {
        printf("  %lld %s", (long long)n, what);
    }
}

static void print_key(const mk_key *k) {
    char day[16] = "?";
    struct tm tm;
    time_t t = (time_t)k->created;
    if (gmtime_r(&t, &tm)) {
        strftime(day, sizeof day, "%Y-%m-%d", &tm);
    }
    printf("%-10s %s  %-11s", k->id, day, mk_scopes_text(k->scopes));
    if (k->name[0]) {
        printf("  ");
        cmd_write_text(stdout, k->name, strlen(k->name));
    }
    print_limit("a minute", k->per_minute);
    print_limit("tokens a day", k->tokens_per_day);
    print_limit("at once", k->at_once);
    printf("%s\n", k->revoked ? "  revoked" : "");
}

// --- actions -------------------------------------------------------------------------------------

static mk_status new_key(const keys_args *a, mk_store *s, const char *name, mk_err *err) {
    mk_key k = {
        .per_minute = a->per_minute, .tokens_per_day = a->tokens_per_day, .at_once = a->at_once};
    char text[MK_KEY_TEXT];
    if (name && strlen(name) >= sizeof k.name) {
        return MK_FAIL(err, MK_EUSAGE, "a name has at most %zu bytes, this one has %zu",
                       sizeof k.name - 1, strlen(name));
    }
    snprintf(k.name, sizeof k.name, "%s", name ? name : "");
    MK_TRY(mk_scopes_parse(a->scopes, &k.scopes, err));
    MK_TRY(mk_key_new(s, &k, (int64_t)time(NULL), text, err));
    if (a->json) {
        json_t *v = key_json(&k);
        json_object_set_new(v, "key", json_string(text));
        return cmd_print_json(v, false, err);
    }
    printf("%s\n", text);
    fprintf(stderr, "This is the only time that the key is shown. Its id is %s.\n", k.id);
    return MK_OK;
}

static mk_status list_keys(const keys_args *a, mk_store *s, mk_err *err) {
    mk_key *list = NULL;
    size_t n = 0;
    if (s) {
        MK_TRY(mk_key_list(s, &list, &n, err));
    }
    json_t *all = a->json ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        if (all) {
            json_array_append_new(all, key_json(&list[i]));
        } else {
            print_key(&list[i]);
        }
    }
    if (!all && n == 0) {
        fprintf(stderr, "no keys; `minke keys new` makes one\n");
    }
    mk_free(list);
    return all ? cmd_print_json(all, false, err) : MK_OK;
}

static mk_status revoke_key(const keys_args *a, mk_store *s, const char *which, mk_err *err) {
    mk_key k;
    if (!which) {
        return MK_FAIL(err, MK_EUSAGE, "revoke: expected the id or the name of a key");
    }
    MK_TRY(mk_key_revoke(s, which, (int64_t)time(NULL), &k, err));
    if (a->json) {
        return cmd_print_json(key_json(&k), false, err);
    }
    print_key(&k);
    return MK_OK;
}

// --- the verb ------------------------------------------------------------------------------------

static mk_status run(const keys_args *a, const char *action, const char *word, mk_err *err) {
    bool list = strcmp(action, "list") == 0, revoke = strcmp(action, "revoke") == 0;
    mk_store *s = NULL;
    if (!(list && !word) && !revoke && strcmp(action, "new") != 0) {
        return MK_FAIL(err, MK_EUSAGE, "expected new [NAME], list or revoke ID, got '%.60s%s%.60s'",
                       action, word ? " " : "", word ? word : "");
    }
    char *dir = cmd_state_dir(a->state_dir);
    if (!dir) {
        return MK_FAIL(err, MK_EUSAGE, "no folder for keys: HOME is not set; --state-dir DIR");
    }
    mk_status st = mk_store_open(dir, !list, &s, err);
    if (st == MK_ENOTFOUND && list) {
        st = MK_OK;  // no server and no key yet: an empty list
    }
    mk_free(dir);
    if (st == MK_OK) {
        st = list     ? list_keys(a, s, err)
             : revoke ? revoke_key(a, s, word, err)
                      : new_key(a, s, word, err);
    }
    mk_store_close(s);
    return st;
}

mk_status cmd_keys(int argc, char *const *argv, mk_err *err) {
    keys_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_keys_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, r.args[0], r.n_args > 1 ? r.args[1] : NULL, err);
    }
    mk_opt_free(&cmd_keys_spec, &a, &r);
    return st;
}
