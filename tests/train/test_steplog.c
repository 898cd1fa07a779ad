// Logs by step: they are cut back to what is done, and a line that cannot be written is an error.
#include "train/steplog.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "cmocka_all.h"
#include "torture.h"

static char dir[] = "/tmp/minke-steplog-XXXXXX";
static char *path;

static int make_dir(void **state) {
    (void)state;
    path = mkdtemp(dir) ? mk_path_join(dir, "log.jsonl") : NULL;
    return path ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    (void)unlink(path);
    mk_free(path);
    return rmdir(dir);
}

static void put(const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void assert_holds(const char *text) {
    char *now = NULL;
    size_t n = 0;
    mk_err err = {0};
    assert_int_equal(mk_file_read(path, 1 << 20, &now, &n, &err), MK_OK);
    assert_string_equal(now, text);
    mk_free(now);
}

static mk_status add(mk_steplog *l, int64_t step, mk_err *err) {
    json_t *o = json_pack("{s:I}", "step", (json_int_t)step);
    mk_status st = mk_steplog_write(l, o, err);
    json_decref(o);
    return st;
}

#define L(n) "{\"step\":" #n "}\n"

static void opening_cuts_to_what_is_done(void **state) {
    (void)state;
    static const struct {
        const char *was;
        int64_t done;
        const char *is;
    } rows[] = {
        {"", 0, ""},
        {"", 5, ""},
        {L(1) L(2) L(3), 3, L(1) L(2) L(3)},
        {L(1) L(2) L(3), 9, L(1) L(2) L(3)},
        {L(1) L(2) L(3), 2, L(1) L(2)},
        {L(1) L(2) L(3), 0, ""},
        {L(1) L(1) L(2) L(2), 1, L(1) L(1)},      // some lines for every step
        {L(1) L(2) "{\"step\":2", 2, L(1) L(2)},  // the process was killed while it wrote
        {L(1) L(2) "{\"step\":2}", 2, L(1) L(2)},
        {"{\"st", 4, ""},
        {L(1) "{\"step\":\"x\"}\n", 4, L(1)},
        {L(1) "\n\n", 4, L(1)},
        {L(1) "{\"step\":2,\"text\":\"a\\u0000b\"}\n", 2,
         L(1) "{\"step\":2,\"text\":\"a\\u0000b\"}\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_steplog *l = NULL;
        mk_err err = {0};
        put(rows[i].was);
        assert_int_equal(mk_steplog_open(path, rows[i].done, &l, &err), MK_OK);
        assert_holds(rows[i].is);
        assert_int_equal(add(l, 10, &err), MK_OK);
        char more[256];
        (void)snprintf(more, sizeof more, "%s" L(10), rows[i].is);
        assert_holds(more);  // before it is closed
        assert_int_equal(mk_steplog_close(l, &err), MK_OK);
    }
}

static void a_log_that_is_not_there_is_made(void **state) {
    (void)state;
    mk_steplog *l = NULL;
    mk_err err = {0};
    (void)unlink(path);
    assert_int_equal(mk_steplog_open(path, 3, &l, &err), MK_OK);
    assert_int_equal(mk_steplog_close(l, &err), MK_OK);
    assert_holds("");
    assert_int_equal(mk_steplog_close(NULL, &err), MK_OK);
    assert_int_equal(mk_steplog_open("/tmp/minke/not/there", 3, &l, &err), MK_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/tmp/minke/not/there"));
    assert_int_equal(mk_steplog_open(dir, 3, &l, &err), MK_EIO);  // a folder
}

// The device takes some bytes of a line and no more; when there is room again nothing is missing.
static void a_full_device_is_an_error(void **state) {
    (void)state;
    struct rlimit before, low;
    mk_steplog *l = NULL;
    mk_err err = {0};
    put(L(1));
    assert_int_equal(mk_steplog_open(path, 1, &l, &err), MK_OK);
    getrlimit(RLIMIT_FSIZE, &before);
    (void)signal(SIGXFSZ, SIG_IGN);
    low = (struct rlimit){sizeof(L(1) L(2)) + 3, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    mk_status fits = add(l, 2, &err), full = add(l, 3, &err);
    (void)mk_steplog_close(l, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(fits, MK_OK);
    assert_int_equal(full, MK_EIO);
    assert_non_null(strstr(err.msg, "log.jsonl"));
    assert_non_null(strstr(err.msg, "too large"));
    assert_int_equal(mk_steplog_open(path, 2, &l, &err), MK_OK);
    assert_holds(L(1) L(2));
    assert_int_equal(add(l, 3, &err), MK_OK);
    assert_int_equal(mk_steplog_close(l, &err), MK_OK);
    assert_holds(L(1) L(2) L(3));
}

static mk_status scenario(void *arg, mk_err *err) {
    mk_steplog *l = NULL;
    (void)arg;
    MK_TRY(mk_steplog_open(path, 1, &l, err));
    mk_status st = add(l, 2, err), closed = mk_steplog_close(l, st == MK_OK ? err : NULL);
    return st == MK_OK ? closed : st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    put(L(1));
    assert_true(mk_torture(scenario, NULL) >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_cuts_to_what_is_done),
        cmocka_unit_test(a_log_that_is_not_there_is_made),
        cmocka_unit_test(a_full_device_is_an_error),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
