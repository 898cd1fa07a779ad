// Checkpoints: round trip, every damage found, no failure that loses an old file, run folders.
#include "cmocka_all.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/mathx.h"
#include "torture.h"
#include "train/ckpt.h"

static char dir[] = "/tmp/minke-test-XXXXXX";

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

// Files in the folder; all of them go.
static int clear_dir(void) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *p = mk_path_join(dir, e->d_name);
        n += unlink(p) == 0;
        mk_free(p);
    }
    closedir(d);
    return n;
}

static int remove_dir(void **state) {
    (void)state;
    clear_dir();
    return rmdir(dir);
}

static bool exists(const char *name) {
    char *p = mk_path_join(dir, name);
    bool yes = mk_path_is_file(p);
    mk_free(p);
    return yes;
}

// --- a small state -------------------------------------------------------------------------------
// Sections of several types, one of them empty, none a multiple of 64 bytes.
typedef struct {
    float w[2][3], m[5];
    uint8_t code[7];
    int64_t position[1];
    mk_ckpt_section list[5];
} run_state;

enum { N_LIST = 5 };

static void describe_state(run_state *s) {
    s->list[0] = (mk_ckpt_section){"w", MK_DTYPE_F32, 2, {2, 3}, s->w};
    s->list[1] = (mk_ckpt_section){"adam.m:w", MK_DTYPE_F32, 1, {5}, s->m};
    s->list[2] = (mk_ckpt_section){"code", MK_DTYPE_U8, 1, {7}, s->code};
    s->list[3] = (mk_ckpt_section){"empty", MK_DTYPE_F32, 2, {0, 4}, s->m};
    s->list[4] = (mk_ckpt_section){"position", MK_DTYPE_I64, 1, {1}, s->position};
}

static void fill_state(run_state *s, uint64_t seed) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 6; i++) {
        s->w[i / 3][i % 3] = (float)mk_rng_unit(seed, (uint64_t)i);
    }
    for (int i = 0; i < 5; i++) {
        s->m[i] = (float)mk_rng_unit(seed, 100 + (uint64_t)i);
    }
    for (int i = 0; i < 7; i++) {
        s->code[i] = (uint8_t)mk_rng_u64(seed, 200 + (uint64_t)i);
    }
    s->position[0] = (int64_t)mk_rng_u64(seed, 300);
    describe_state(s);
}

static mk_status write_state(const char *path, int64_t step, double score, mk_err *err) {
    run_state s;
    fill_state(&s, (uint64_t)step);
    json_t *run = json_pack("{s:s, s:f, s:I}", "schedule", "cosine", "best", 0.1, "tokens",
                            (json_int_t)1 << 60);
    mk_ckpt_head h = {.step = step, .score = score, .run = run};
    mk_status st = mk_ckpt_write(path, &h, s.list, N_LIST, err);
    json_decref(run);
    return st;
}

static void put_step(int64_t step, double score) {
    mk_err err = {0};
    char *path = mk_ckpt_name(dir, step);
    if (write_state(path, step, score, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    mk_free(path);
}

static char *slurp(const char *path, size_t *n) {
    char *data = NULL;
    mk_err err = {0};
    if (mk_file_read(path, 1 << 20, &data, n, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return data;
}

static void spit(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

// --- one file ------------------------------------------------------------------------------------
static void what_was_written_is_read(void **state) {
    (void)state;
    mk_err err = {0};
    mk_ckpt *c = NULL;
    put_step(7, 1.5);
    char *path = mk_ckpt_name(dir, 7);
    assert_non_null(strstr(path, "/ckpt-00000007.mkt"));
    assert_int_equal(mk_ckpt_open(path, &c, &err), MK_OK);
    mk_ckpt_head h = mk_ckpt_get_head(c);
    assert_int_equal(h.step, 7);
    assert_true(h.score == 1.5);
    assert_string_equal(json_string_value(json_object_get(h.run, "schedule")), "cosine");
    assert_true(json_real_value(json_object_get(h.run, "best")) == 0.1);
    assert_true(json_integer_value(json_object_get(h.run, "tokens")) == (json_int_t)1 << 60);
    assert_string_equal(mk_ckpt_path(c), path);
    int64_t n;
    assert_string_equal(mk_ckpt_sections(c, &n)[1].name, "adam.m:w");
    assert_int_equal(n, N_LIST);
    assert_null(mk_ckpt_find(c, "run.json"));
    assert_null(mk_ckpt_find(c, "v"));
    assert_int_equal(mk_ckpt_find(c, "w")->shape[1], 3);
    assert_int_equal((uintptr_t)mk_ckpt_find(c, "code")->data % 64, 0);
    run_state want, got;
    fill_state(&want, 7);
    memset(&got, 0, sizeof got);
    describe_state(&got);
    assert_int_equal(mk_ckpt_load(c, got.list, N_LIST, &err), MK_OK);
    assert_memory_equal(&got, &want, offsetof(run_state, list));
    mk_ckpt_close(c);
    mk_ckpt_close(NULL);
    mk_free(path);
    clear_dir();
}

static void equal_states_are_equal_bytes(void **state) {
    (void)state;
    char *a = mk_path_join(dir, "a"), *b = mk_path_join(dir, "b");
    float x[3] = {1, 2, 3};
    mk_ckpt_section s = {"x", MK_DTYPE_F32, 1, {3}, x};
    json_t *one = json_pack("{s:i, s:i}", "first", 1, "second", 2);
    json_t *two = json_pack("{s:i, s:i}", "second", 2, "first", 1);
    double other_nan = -NAN;
    assert_int_equal(mk_ckpt_write(a, &(mk_ckpt_head){3, NAN, one}, &s, 1, NULL), MK_OK);
    assert_int_equal(mk_ckpt_write(b, &(mk_ckpt_head){3, other_nan, two}, &s, 1, NULL), MK_OK);
    size_t n, m;
    char *p = slurp(a, &n), *q = slurp(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(p, q, n);
    json_decref(one);
    json_decref(two);
    mk_free(p);
    mk_free(q);
    mk_free(a);
    mk_free(b);
    clear_dir();
}

// Opening must fail with MK_ECORRUPT and say something about this file.
static void assert_refused(const char *data, size_t n, const char *how, size_t where) {
    mk_ckpt *c = NULL;
    mk_err err = {0};
    // a copy of exactly n bytes, so that a sanitizer sees every read beyond them
    char *copy = mk_alloc(n > 0 ? n : 1);
    memcpy(copy, data, n);
    mk_status st = mk_ckpt_open_memory(copy, n, "the file", &c, &err);
    if (st != MK_ECORRUPT || c != NULL || strstr(err.msg, "the file: ") != err.msg) {
        fail_msg("%s at %zu: expected corrupt, got %s: %s", how, where, mk_status_name(st),
                 err.msg);
    }
    mk_free(copy);
}

static void every_truncation_is_found(void **state) {
    (void)state;
    put_step(1, NAN);
    char *path = mk_ckpt_name(dir, 1);
    size_t n;
    char *data = slurp(path, &n);
    assert_true(n < 4096);
    for (size_t i = 0; i < n; i++) {
        assert_refused(data, i, "cut", i);
    }
    char *longer = mk_zalloc(n + 64);
    memcpy(longer, data, n);
    assert_refused(longer, n + 1, "extended", n);
    assert_refused(longer, n + 64, "extended", n);
    mk_free(longer);
    mk_free(data);
    mk_free(path);
    clear_dir();
}

static void every_flipped_bit_is_found(void **state) {
    (void)state;
    put_step(1, NAN);
    char *path = mk_ckpt_name(dir, 1);
    size_t n;
    char *data = slurp(path, &n);
    for (size_t i = 0; i < 8 * n; i++) {
        data[i / 8] = (char)(data[i / 8] ^ 1 << i % 8);
        assert_refused(data, n, "flipped", i);
        data[i / 8] = (char)(data[i / 8] ^ 1 << i % 8);
    }
    mk_ckpt *c = NULL;
    assert_int_equal(mk_ckpt_open_memory(data, n, "whole", &c, NULL), MK_OK);
    mk_ckpt_close(c);
    mk_free(data);
    mk_free(path);
    clear_dir();
}

// Damage behind right hashes: what a program with other ideas could have written.
enum { AT_VERSION = 8, AT_N_SECTION = 12, AT_TABLE_BYTES = 16, AT_STEP = 32, AT_TABLE_HASH = 48 };
enum { TABLE = 64, RECORD = 72, R_DTYPE = 0, R_DIM = 4, R_SHAPE = 8, R_OFFSET = 40, R_BYTES = 48 };
enum { R_HASH = 56, R_NAME = 64, R_NAME_BYTES = 68 };

typedef struct {
    size_t at;
    int n_bytes;
    uint64_t value;
} patch;

static void sign(char *data) {
    uint64_t table_bytes, h;
    memcpy(&table_bytes, data + AT_TABLE_BYTES, 8);
    if (table_bytes < 4096) {
        h = mk_hash64(data + TABLE, (size_t)table_bytes, 0);
        memcpy(data + AT_TABLE_HASH, &h, 8);
    }
    h = mk_hash64(data, 56, 0);
    memcpy(data + 56, &h, 8);
}

static void signed_nonsense_is_found(void **state) {
    (void)state;
    enum { SECOND = TABLE + RECORD };
    static const patch patches[] = {
        {AT_N_SECTION, 4, 0},
        {AT_N_SECTION, 4, UINT32_MAX},
        {AT_N_SECTION, 4, 5},
        {AT_TABLE_BYTES, 8, UINT64_MAX},
        {AT_TABLE_BYTES, 8, 6 * RECORD},
        {AT_STEP, 8, UINT64_MAX},
        {SECOND + R_DTYPE, 4, 5},
        {SECOND + R_DTYPE, 4, UINT32_MAX},
        {SECOND + R_DIM, 4, 0},
        {SECOND + R_DIM, 4, 5},
        {SECOND + R_DIM, 4, 1},
        {SECOND + R_SHAPE, 8, 3},
        {SECOND + R_SHAPE, 8, UINT64_MAX},
        {SECOND + R_SHAPE, 8, (uint64_t)1 << 62},
        {SECOND + R_SHAPE + 16, 8, 1},
        {SECOND + R_OFFSET, 8, 0},
        {SECOND + R_OFFSET, 8, UINT64_MAX - 63},
        {SECOND + R_BYTES, 8, UINT64_MAX},
        {SECOND + R_HASH, 8, 0},
        {SECOND + R_NAME, 4, 0},
        {SECOND + R_NAME_BYTES, 4, UINT32_MAX},
        {SECOND + R_NAME_BYTES, 4, 0},
        {TABLE + 6 * RECORD, 1, 'x'},       // "xun.json"
        {TABLE + 6 * RECORD + 3, 1, '\0'},  // a name with a NUL inside
    };
    put_step(1, NAN);
    char *path = mk_ckpt_name(dir, 1);
    size_t n;
    char *data = slurp(path, &n), *copy = mk_alloc(n);
    for (size_t i = 0; i < sizeof patches / sizeof patches[0]; i++) {
        memcpy(copy, data, n);
        memcpy(copy + patches[i].at, &patches[i].value, (size_t)patches[i].n_bytes);
        sign(copy);
        assert_refused(copy, n, "patch", i);
    }
    mk_err err = {0};
    mk_ckpt *c = NULL;
    memcpy(copy, data, n);
    uint32_t version = 2;
    memcpy(copy + AT_VERSION, &version, 4);
    sign(copy);
    assert_int_equal(mk_ckpt_open_memory(copy, n, "f", &c, &err), MK_EUNSUPPORTED);
    mk_free(copy);
    mk_free(data);
    mk_free(path);
    clear_dir();
}

static void equal_names_are_refused(void **state) {
    (void)state;
    float x = 1;
    mk_ckpt_section s[2] = {{"x", MK_DTYPE_F32, 1, {1}, &x}, {"x", MK_DTYPE_F32, 1, {1}, &x}};
    json_t *run = json_object();
    char *path = mk_path_join(dir, "twice");
    mk_ckpt *c = NULL;
    mk_err err = {0};
    assert_int_equal(mk_ckpt_write(path, &(mk_ckpt_head){1, 0, run}, s, 2, &err), MK_OK);
    assert_int_equal(mk_ckpt_open(path, &c, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "two sections are called x"));
    json_decref(run);
    mk_free(path);
    clear_dir();
}

static void other_settings_are_refused(void **state) {
    (void)state;
    put_step(1, NAN);
    char *path = mk_ckpt_name(dir, 1);
    mk_err err = {0};
    mk_ckpt *c = NULL;
    assert_int_equal(mk_ckpt_open(path, &c, &err), MK_OK);
    run_state s, was;
    fill_state(&s, 99);
    was = s;
    s.list[1].name = "adam.m8:w";
    assert_int_equal(mk_ckpt_load(c, s.list, N_LIST, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "adam.m8:w"));
    describe_state(&s);
    s.list[0].shape[0] = 3;
    assert_int_equal(mk_ckpt_load(c, s.list, N_LIST, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "w is F32 [2, 3], expected F32 [3, 3]"));
    describe_state(&s);
    s.list[2].dtype = MK_DTYPE_I8;
    assert_int_equal(mk_ckpt_load(c, s.list, N_LIST, &err), MK_EUSAGE);
    describe_state(&s);
    assert_int_equal(mk_ckpt_load(c, s.list, N_LIST - 1, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "the run has no position"));
    assert_memory_equal(&s, &was, offsetof(run_state, list));  // nothing was written
    mk_ckpt_close(c);
    assert_int_equal(mk_ckpt_open("/tmp/minke/not/there", &c, &err), MK_ENOTFOUND);
    mk_free(path);
    clear_dir();
}

// --- failures ------------------------------------------------------------------------------------
// The device refuses bytes after `limit` of them: the old file stays, no other is left.
static void full_device_loses_nothing(void **state) {
    (void)state;
    static float big[100000];
    char *path = mk_ckpt_name(dir, 1);
    put_step(1, NAN);
    size_t n;
    char *old = slurp(path, &n);
    mk_ckpt_section s = {"big", MK_DTYPE_F32, 1, {100000}, big};
    json_t *run = json_object();
    struct rlimit before, low;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 400000; limit = limit * 3 + 1000) {
        mk_err err = {0};
        low = (struct rlimit){limit, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        mk_status st = mk_ckpt_write(path, &(mk_ckpt_head){2, 0, run}, &s, 1, &err);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(st, MK_EIO);
        assert_non_null(strstr(err.msg, "too large"));
        size_t m;
        char *now = slurp(path, &m);
        assert_int_equal(m, n);
        assert_memory_equal(now, old, n);
        mk_free(now);
    }
    mk_err err = {0};
    assert_int_equal(mk_ckpt_write("/tmp/minke/not/there", &(mk_ckpt_head){2, 0, run}, &s, 1, &err),
                     MK_ENOTFOUND);
    json_decref(run);
    mk_free(old);
    mk_free(path);
    assert_int_equal(clear_dir(), 1);
}

static mk_status write_and_read(void *arg, mk_err *err) {
    mk_ckpt *c = NULL;
    MK_TRY(write_state(arg, 4, 0, err));
    MK_TRY(mk_ckpt_open(arg, &c, err));
    mk_ckpt_close(c);
    MK_TRY(mk_ckpt_latest(dir, &c, err));
    mk_ckpt_close(c);
    return mk_ckpt_prune(dir, 1, 1, err);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    char *path = mk_ckpt_name(dir, 4);
    put_step(4, 0);
    assert_true(mk_torture(write_and_read, path) >= 8);
    mk_free(path);
    clear_dir();
}

// A process that writes one checkpoint after the other is killed: whenever that happens, what
// mk_ckpt_latest finds is whole, and is at least the last one it reported as written.
static void killed_writers_lose_nothing(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        put_step(1, NAN);
        pid_t pid = fork();
        if (pid == 0) {
            for (int64_t step = 2;; step++) {
                char *path = mk_ckpt_name(dir, step);
                bool ok = write_state(path, step, -(double)step, NULL) == MK_OK &&
                          mk_ckpt_prune(dir, 2, 1, NULL) == MK_OK &&
                          write(fds[1], &step, sizeof step) == (ssize_t)sizeof step;
                mk_free(path);
                if (!ok) {
                    _exit(1);
                }
            }
        }
        close(fds[1]);
        int64_t step, last = 1;
        for (int k = 0; k < 3; k++) {
            assert_int_equal(read(fds[0], &step, sizeof step), sizeof step);
        }
        usleep((useconds_t)i * 173);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(fds[0], &step, sizeof step) == (ssize_t)sizeof step) {
            last = step;
        }
        close(fds[0]);
        mk_ckpt *c = NULL;
        mk_err err = {0};
        if (mk_ckpt_latest(dir, &c, &err) != MK_OK) {
            fail_msg("%s", err.msg);
        }
        assert_true(mk_ckpt_get_head(c).step >= last);
        mk_ckpt_close(c);
        assert_int_equal(mk_ckpt_prune(dir, 1, 0, &err), MK_OK);
        assert_int_equal(clear_dir(), 1);
    }
}

// --- run folders ---------------------------------------------------------------------------------
static int64_t latest_step(mk_status want) {
    mk_ckpt *c = NULL;
    mk_err err = {0};
    mk_status st = mk_ckpt_latest(dir, &c, &err);
    if (st != want) {
        fail_msg("expected %s, got %s: %s", mk_status_name(want), mk_status_name(st), err.msg);
    }
    int64_t step = c != NULL ? mk_ckpt_get_head(c).step : -1;
    mk_ckpt_close(c);
    return step;
}

static void damaged_files_are_passed_over(void **state) {
    (void)state;
    latest_step(MK_ENOTFOUND);
    put_step(9, NAN);
    put_step(100000000, NAN);
    put_step(10, NAN);
    char *newest = mk_ckpt_name(dir, 100000000), *middle = mk_ckpt_name(dir, 10);
    char *other = mk_path_join(dir, "ckpt-9.mkt"), *renamed = mk_ckpt_name(dir, 200000000);
    spit(other, "x", 1);  // not a name of ours
    assert_int_equal(latest_step(MK_OK), 100000000);
    size_t n;
    char *data = slurp(newest, &n);
    spit(newest, data, n - 1);
    spit(renamed, data, n);  // says another step than its name
    assert_int_equal(latest_step(MK_OK), 10);
    spit(middle, "", 0);
    assert_int_equal(latest_step(MK_OK), 9);
    char *oldest = mk_ckpt_name(dir, 9);
    data[n - 1] = (char)(data[n - 1] ^ 1);
    spit(oldest, data, n);
    latest_step(MK_ECORRUPT);
    mk_free(data);
    mk_free(oldest);
    mk_free(newest);
    mk_free(middle);
    mk_free(other);
    mk_free(renamed);
    clear_dir();
    mk_ckpt *c;
    assert_int_equal(mk_ckpt_latest("/tmp/minke/not/there", &c, NULL), MK_ENOTFOUND);
}

static void last_and_best_are_kept(void **state) {
    (void)state;
    static const double scores[] = {3, 1, NAN, 1, 2, 5, 4};
    mk_err err = {0};
    for (int i = 0; i < 7; i++) {
        put_step(i, scores[i]);
    }
    char *tmp = mk_path_join(dir, "ckpt-00000003.mkt.tmp-123-4"), *mine = mk_path_join(dir, "log");
    spit(tmp, "x", 1);
    spit(mine, "x", 1);
    mk_ckpt_head h;
    char *fourth = mk_ckpt_name(dir, 4);
    assert_int_equal(mk_ckpt_peek(fourth, &h, &err), MK_OK);
    assert_true(h.step == 4 && h.score == 2 && h.run == NULL);
    assert_int_equal(mk_ckpt_peek(mine, &h, &err), MK_ECORRUPT);
    assert_int_equal(mk_ckpt_prune(dir, 2, 2, &err), MK_OK);
    assert_true(exists("ckpt-00000006.mkt") && exists("ckpt-00000005.mkt"));
    assert_true(exists("ckpt-00000003.mkt") && exists("ckpt-00000001.mkt") && exists("log"));
    assert_int_equal(mk_ckpt_prune(dir, 1, 1, &err), MK_OK);
    assert_true(exists("ckpt-00000006.mkt") && exists("ckpt-00000003.mkt") && exists("log"));
    assert_int_equal(clear_dir(), 3);
    mk_free(fourth);
    mk_free(tmp);
    mk_free(mine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(equal_states_are_equal_bytes),
        cmocka_unit_test(every_truncation_is_found),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(signed_nonsense_is_found),
        cmocka_unit_test(equal_names_are_refused),
        cmocka_unit_test(other_settings_are_refused),
        cmocka_unit_test(full_device_loses_nothing),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(killed_writers_lose_nothing),
        cmocka_unit_test(damaged_files_are_passed_over),
        cmocka_unit_test(last_and_best_are_kept),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
