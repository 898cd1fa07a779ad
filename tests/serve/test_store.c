// The database of the service: kept over ends of every kind, shared, set aside when damaged.
#include "serve/scratch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "serve/ledger.h"

static mk_ledger_row row_at(int64_t time) {
    return (mk_ledger_row){.time = time,
                           .key = "",
                           .model = "m",
                           .dialect = "d",
                           .usage = {.n_prompt = 3, .n_generated = 2},
                           .status = 200,
                           .stop = "end"};
}

static void add_rows(mk_store *s, int n) {
    for (int i = 0; i < n; i++) {
        mk_ledger_row r = row_at(1000 + i);
        must(mk_ledger_add(s, &r, err));
    }
}

static const char n_ledger[] = "SELECT COUNT(*) FROM ledger";

static void test_rows_stay(void **state) {
    (void)state;
    scratch t = scratch_make();
    must_fail(mk_store_open(t.state, false, &(mk_store *){NULL}, err), MK_ENOTFOUND, "not there");
    assert_int_equal(access(t.state, F_OK), -1);  // reading makes nothing
    mk_store *s = open_store(t.state);
    add_rows(s, 3);
    mk_store_close(s);
    s = open_store(t.state);
    assert_int_equal(count_rows(s, n_ledger), 3);
    assert_null(mk_store_set_aside(s));
    mk_store_close(s);
    struct stat st;
    assert_int_equal(stat(t.state, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(t.db, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    scratch_remove(&t);
}

static void test_in_memory(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    add_rows(s, 2);
    assert_int_equal(count_rows(s, n_ledger), 2);
    mk_store_checkpoint(s);  // nothing to do
    mk_store_close(s);
    mk_store_close(NULL);
}

static void test_transactions(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state);
    must(mk_store_start(s, err));
    add_rows(s, 2);
    mk_err why;
    mk_status st = MK_FAIL(&why, MK_ELIMIT, "changed my mind");
    assert_int_equal(mk_store_finish(s, st, &why), MK_ELIMIT);
    assert_int_equal(count_rows(s, n_ledger), 0);
    must(mk_store_start(s, err));
    add_rows(s, 2);
    must(mk_store_finish(s, MK_OK, err));
    assert_int_equal(count_rows(s, n_ledger), 2);
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_a_wrong_query_is_an_error(void **state) {
    (void)state;
    mk_store *s = open_store(NULL);
    mk_query q;
    mk_query_begin(&q, s, "SELECT * FROM nowhere");
    mk_query_int(&q, 1);
    assert_false(mk_query_row(&q));
    must_fail(mk_query_end(&q, err), MK_EIO, "nowhere");
    mk_query_begin(&q, s, "SELECT 1 WHERE ?1 = 5");
    mk_query_int(&q, 5);
    mk_query_int(&q, 5);  // one too many
    must_fail(mk_query_end(&q, err), MK_EIO, "range");
    mk_store_close(s);
}

static void test_two_at_once(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *a = open_store(t.state), *b = open_store(t.state);
    int64_t before = mk_store_version(b);
    assert_int_equal(mk_store_version(b), before);
    add_rows(b, 1);
    assert_int_equal(mk_store_version(b), before);  // its own
    add_rows(a, 2);
    assert_int_not_equal(mk_store_version(b), before);
    assert_int_equal(count_rows(b, n_ledger), 3);
    mk_store_checkpoint(a);
    mk_store_close(a);
    assert_int_equal(count_rows(b, n_ledger), 3);
    mk_store_close(b);
    scratch_remove(&t);
}

// --- damage --------------------------------------------------------------------------------------

static void write_at(const char *path, off_t at, const void *p, size_t n) {
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, n, at), n);
    close(fd);
}

static void expect_set_aside(const scratch *t) {
    must_fail(mk_store_open(t->state, false, &(mk_store *){NULL}, err), MK_ECORRUPT, "damaged");
    mk_store *s = open_store(t->state);
    const char *to = mk_store_set_aside(s);
    assert_non_null(to);
    assert_int_equal(access(to, F_OK), 0);
    assert_non_null(strstr(to, "state.db.damaged-"));
    assert_int_equal(count_rows(s, n_ledger), 0);
    add_rows(s, 1);
    mk_store_close(s);
    s = open_store(t->state);
    assert_null(mk_store_set_aside(s));
    assert_int_equal(count_rows(s, n_ledger), 1);
    mk_store_close(s);
}

static void test_damage(void **state) {
    (void)state;
    char junk[4096];
    memset(junk, 0xa5, sizeof junk);
    const struct {
        off_t at;
        size_t n;
    } cut[] = {{0, 16}, {0, 4096}, {4096, 4096}, {16384, 4096}};
    for (size_t i = 0; i < sizeof cut / sizeof cut[0]; i++) {
        scratch t = scratch_make();
        mk_store *s = open_store(t.state);
        add_rows(s, 200);
        mk_store_close(s);
        write_at(t.db, cut[i].at, junk, cut[i].n);
        expect_set_aside(&t);
        scratch_remove(&t);
    }
}

// Nobody moves a file that others have open.
static void test_damage_in_use(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state), *other = NULL;
    add_rows(s, 1);
    mk_store_checkpoint(s);
    char junk[100];
    memset(junk, 0x5a, sizeof junk);
    write_at(t.db, 0, junk, sizeof junk);
    must_fail(mk_store_open(t.state, true, &other, err), MK_ECORRUPT, "end the other processes");
    mk_store_close(s);
    scratch_remove(&t);
}

static void test_a_newer_version(void **state) {
    (void)state;
    scratch t = scratch_make();
    mk_store *s = open_store(t.state);
    mk_query q;
    mk_query_begin(&q, s, "PRAGMA user_version=99");
    must(mk_query_end(&q, err));
    mk_store_close(s);
    must_fail(mk_store_open(t.state, true, &s, err), MK_EUNSUPPORTED, "newer minke");
    assert_int_equal(access(t.db, F_OK), 0);  // it stays where it is
    scratch_remove(&t);
}

static void test_no_folder(void **state) {
    (void)state;
    mk_store *s = NULL;
    must_fail(mk_store_open("/proc/none/state", true, &s, err), MK_EIO, "/proc/none");
}

// --- kill -9 -------------------------------------------------------------------------------------

// Writes rows and says after each that it is written.
static void write_for_ever(const char *dir, int fd) {
    mk_store *s = NULL;
    mk_err err;
    if (mk_store_open(dir, true, &s, &err) != MK_OK) {
        _exit(1);
    }
    for (int64_t i = 0;; i++) {
        mk_ledger_row r = row_at(i);
        if (mk_ledger_add(s, &r, &err) != MK_OK || write(fd, &i, sizeof i) != sizeof i) {
            _exit(2);
        }
        if (i % 40 == 39) {
            mk_store_checkpoint(s);
        }
    }
}

static int64_t kill_after(const char *dir, unsigned us) {
    int p[2];
    int64_t last = -1, i;
    assert_int_equal(pipe(p), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(p[0]);
        write_for_ever(dir, p[1]);
    }
    close(p[1]);
    usleep(us);
    kill(child, SIGKILL);
    while (read(p[0], &i, sizeof i) == sizeof i) {
        last = i;
    }
    close(p[0]);
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
    return last + 1;
}

static void test_kill(void **state) {
    (void)state;
    scratch t = scratch_make();
    int64_t before = 0, most = 0;
    for (unsigned i = 0; i < 20; i++) {
        int64_t said = kill_after(t.state, 2000 + 1931 * i);
        mk_store *s = open_store(t.state);
        int64_t n = count_rows(s, n_ledger);
        assert_null(mk_store_set_aside(s));
        mk_store_close(s);
        // what was said to be written is there, and at most the row that was being written
        assert_in_range(n - before, said, said + 1);
        most = said > most ? said : most;
        before = n;
    }
    assert_true(most > 10);
    scratch_remove(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_stay),     cmocka_unit_test(test_in_memory),
        cmocka_unit_test(test_transactions),  cmocka_unit_test(test_a_wrong_query_is_an_error),
        cmocka_unit_test(test_two_at_once),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damage_in_use), cmocka_unit_test(test_a_newer_version),
        cmocka_unit_test(test_no_folder),     cmocka_unit_test(test_kill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
