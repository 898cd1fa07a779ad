// Keys: made, found, revoked, limited; what another process does with them.
#include "serve/scratch.h"

#include "base/alloc.h"
#include "base/file.h"
#include "serve/keys.h"
#include "serve/ledger.h"

static const mk_moment noon = {.ns = 1000000000, .unix_s = 1700049600};  // 12:00 UTC

static mk_moment later(double s) {
    return (mk_moment){.ns = noon.ns + (uint64_t)(s * 1e9), .unix_s = noon.unix_s + (int64_t)s};
}

static mk_key new_key(mk_store *s, mk_key k, char text[MK_KEY_TEXT]) {
    k.scopes = k.scopes ? k.scopes : MK_SCOPE_INFER;
    must(mk_key_new(s, &k, noon.unix_s, text, err));
    return k;
}

static mk_keys *open_keys(mk_store *s) {
    mk_keys *k = NULL;
    must(mk_keys_open(s, noon, &k, err));
    return k;
}

static void test_a_key_and_its_hash(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state);
    char text[MK_KEY_TEXT], other[MK_KEY_TEXT];
    mk_key k = new_key(s, (mk_key){.name = "team", .at_once = 3}, text);
    (void)new_key(s, (mk_key){.name = ""}, other);
    assert_int_equal(strlen(text), 46);
    assert_memory_equal(text, "sk-mk-", 6);
    assert_int_equal(strspn(text + 6, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "abcdefghijklmnopqrstuvwxyz"),
                     40);
    assert_memory_equal(text + 6, k.id, 8);
    assert_string_not_equal(text, other);
    mk_key *list;
    size_t n;
    must(mk_key_list(s, &list, &n, err));
    assert_int_equal(n, 2);
    mk_free(list);
    mk_store_close(s);
    // the key itself is nowhere in the file
    char *data;
    size_t size;
    must(mk_file_read(t.db, 1 << 24, &data, &size, err));
    assert_non_null(memmem(data, size, k.id, 8));
    assert_null(memmem(data, size, text + 14, 8));
    mk_free(data);
    scratch_remove(&t);
}

static void test_find(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char text[3][MK_KEY_TEXT];
    mk_key k[3], found;
    mk_keys *none = open_keys(s);
    assert_false(mk_keys_any(none));
    mk_keys_close(none);
    for (int i = 0; i < 3; i++) {
        k[i] = new_key(s, (mk_key){.scopes = (unsigned)i + 1}, text[i]);
    }
    mk_keys *keys = open_keys(s);
    assert_true(mk_keys_any(keys));
    for (int i = 0; i < 3; i++) {
        assert_true(mk_keys_find(keys, text[i], &found));
        assert_string_equal(found.id, k[i].id);
        assert_int_equal(found.scopes, i + 1);
        text[i][40] ^= 1;
        assert_false(mk_keys_find(keys, text[i], &found));
        text[i][40] ^= 1;
    }
    assert_false(mk_keys_find(keys, "", &found));
    assert_false(mk_keys_find(keys, k[0].id, &found));
    mk_keys_close(keys);
    mk_store_close(s);
}

static void test_revoke(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state), *other = open_store(t.state);
    char a[MK_KEY_TEXT], b[MK_KEY_TEXT], c[MK_KEY_TEXT];
    mk_key found, k = new_key(s, (mk_key){.name = "one"}, a);
    (void)new_key(s, (mk_key){.name = "two"}, b);
    mk_keys *keys = open_keys(s);
    must_fail(mk_key_revoke(other, "three", 5, &found, err), MK_ENOTFOUND, "three");
    must(mk_key_revoke(other, "one", 5, &found, err));
    assert_string_equal(found.id, k.id);
    assert_int_equal(found.revoked, 5);
    assert_true(mk_keys_find(keys, a, &found));  // not seen yet
    must(mk_keys_refresh(keys, noon, err));
    assert_false(mk_keys_find(keys, a, &found));
    assert_true(mk_keys_find(keys, b, &found));
    // by the key itself, and one that was made elsewhere
    (void)new_key(other, (mk_key){.name = "two"}, c);
    must_fail(mk_key_revoke(other, "two", 6, &found, err), MK_EUSAGE, "2 keys have the name");
    must(mk_key_revoke(other, b, 7, &found, err));
    must(mk_keys_refresh(keys, noon, err));
    assert_false(mk_keys_find(keys, b, &found));
    assert_true(mk_keys_find(keys, c, &found));
    // a revoked key stays revoked since then, and the door stays closed
    must(mk_key_revoke(other, b, 99, &found, err));
    assert_int_equal(found.revoked, 7);
    must(mk_key_revoke(other, c, 8, &found, err));
    must(mk_keys_refresh(keys, noon, err));
    assert_true(mk_keys_any(keys));
    mk_keys_close(keys);
    mk_store_close(other);
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_per_minute(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char text[MK_KEY_TEXT];
    mk_key k = new_key(s, (mk_key){.per_minute = 3}, text);
    mk_keys *keys = open_keys(s);
    int64_t retry;
    for (int i = 0; i < 3; i++) {
        must(mk_keys_admit(keys, k.id, noon, &retry, err));
    }
    must_fail(mk_keys_admit(keys, k.id, noon, &retry, err), MK_ELIMIT, "3 requests a minute");
    assert_int_equal(retry, 20);  // one every 20 s
    must_fail(mk_keys_admit(keys, k.id, later(18.5), &retry, err), MK_ELIMIT, "again in 2 s");
    must(mk_keys_admit(keys, k.id, later(20), &retry, err));
    must_fail(mk_keys_admit(keys, k.id, later(21), &retry, err), MK_ELIMIT, "minute");
    for (int i = 0; i < 3; i++) {  // it holds a minute's worth, not an hour's
        must(mk_keys_admit(keys, k.id, later(3600), &retry, err));
    }
    must_fail(mk_keys_admit(keys, k.id, later(3600), &retry, err), MK_ELIMIT, "minute");
    must(mk_keys_admit(keys, "command line", noon, &retry, err));  // without limits
    mk_keys_close(keys);
    mk_store_close(s);
}

static void test_at_once(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char text[MK_KEY_TEXT];
    mk_key k = new_key(s, (mk_key){.at_once = 2}, text);
    mk_keys *keys = open_keys(s);
    int64_t retry;
    must(mk_keys_begin(keys, k.id, &retry, err));
    must(mk_keys_begin(keys, k.id, &retry, err));
    must_fail(mk_keys_begin(keys, k.id, &retry, err), MK_ELIMIT, "2 answers at once");
    assert_int_equal(retry, 1);
    mk_keys_spend(keys, k.id, 10, noon);  // ends nothing
    must_fail(mk_keys_begin(keys, k.id, &retry, err), MK_ELIMIT, "2 answers at once");
    mk_keys_end(keys, k.id, 5, noon);
    must(mk_keys_begin(keys, k.id, &retry, err));
    must_fail(mk_keys_begin(keys, k.id, &retry, err), MK_ELIMIT, "2 answers at once");
    mk_keys_close(keys);
    mk_store_close(s);
}

static void add_row(mk_store *s, const char *key, int64_t time, int64_t n) {
    mk_ledger_row r = {.time = time,
                       .key = key,
                       .model = "m",
                       .dialect = "d",
                       .usage = {.n_prompt = n - 1, .n_generated = 1},
                       .status = 200,
                       .stop = "end"};
    must(mk_ledger_add(s, &r, err));
}

static void test_tokens_per_day(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state), *other = open_store(t.state);
    char text[MK_KEY_TEXT];
    mk_key k = new_key(s, (mk_key){.tokens_per_day = 100}, text);
    add_row(s, k.id, noon.unix_s - 86400, 5000);  // yesterday
    add_row(s, k.id, noon.unix_s - 3600, 60);
    add_row(s, "else", noon.unix_s, 5000);
    mk_keys *keys = open_keys(s);
    int64_t retry;
    must(mk_keys_admit(keys, k.id, noon, &retry, err));
    must(mk_keys_begin(keys, k.id, &retry, err));
    mk_keys_end(keys, k.id, 39, noon);
    must(mk_keys_admit(keys, k.id, noon, &retry, err));  // 99
    add_row(other, k.id, noon.unix_s, 50);               // another server has answered
    must(mk_keys_refresh(keys, noon, err));
    must_fail(mk_keys_admit(keys, k.id, noon, &retry, err), MK_ELIMIT,
              "110 of its 100 tokens of today");
    assert_int_equal(retry, 43200);
    must(mk_keys_admit(keys, k.id, later(43200), &retry, err));
    mk_keys_close(keys);
    mk_store_close(other);
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_refresh_forgets_nothing(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state), *other = open_store(t.state);
    char text[MK_KEY_TEXT], more[MK_KEY_TEXT];
    mk_key k = new_key(s, (mk_key){.per_minute = 2, .at_once = 1, .tokens_per_day = 50}, text);
    mk_keys *keys = open_keys(s);
    int64_t retry;
    must(mk_keys_admit(keys, k.id, noon, &retry, err));
    must(mk_keys_begin(keys, k.id, &retry, err));
    mk_keys_spend(keys, k.id, 49, noon);
    (void)new_key(other, (mk_key){.name = "x"}, more);
    must(mk_keys_refresh(keys, noon, err));
    must_fail(mk_keys_begin(keys, k.id, &retry, err), MK_ELIMIT, "at once");
    must(mk_keys_admit(keys, k.id, noon, &retry, err));
    must_fail(mk_keys_admit(keys, k.id, noon, &retry, err), MK_ELIMIT, "minute");
    mk_keys_end(keys, k.id, 1, noon);
    must_fail(mk_keys_admit(keys, k.id, noon, &retry, err), MK_ELIMIT, "50 of its 50");
    mk_keys_close(keys);
    mk_store_close(other);
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_scopes(void **state) {
    (void)state;
    unsigned v;
    must(mk_scopes_parse("infer", &v, err));
    assert_int_equal(v, MK_SCOPE_INFER);
    must(mk_scopes_parse("admin,infer", &v, err));
    assert_int_equal(v, MK_SCOPE_INFER | MK_SCOPE_ADMIN);
    assert_string_equal(mk_scopes_text(v), "infer,admin");
    must_fail(mk_scopes_parse("", &v, err), MK_EUSAGE, "infer and admin");
    must_fail(mk_scopes_parse("infer,root", &v, err), MK_EUSAGE, "'root'");
    must_fail(mk_scopes_parse(",", &v, err), MK_EUSAGE, "''");
}

static void test_tenants(void **state) {
    (void)state;
    assert_int_equal(mk_tenant("", NULL), 0);
    const uint64_t all[] = {mk_tenant("", ""),   mk_tenant("", "a"),  mk_tenant("a", NULL),
                            mk_tenant("a", ""),  mk_tenant("a", "a"), mk_tenant("a", "b"),
                            mk_tenant("b", "a"), mk_tenant("ab", ""), 0};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (size_t j = 0; j < i; j++) {
            assert_true(all[i] != all[j]);
        }
    }
    assert_true(mk_tenant("a", "b") == mk_tenant("a", "b"));
}

static void test_names(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    char text[MK_KEY_TEXT];
    mk_key k = {.name = "a\033[31m", .scopes = 1};
    must_fail(mk_key_new(s, &k, 1, text, err), MK_EUSAGE, "control");
    mk_store_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_and_its_hash),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_revoke),
        cmocka_unit_test(test_per_minute),
        cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_tokens_per_day),
        cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_refresh_forgets_nothing),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
