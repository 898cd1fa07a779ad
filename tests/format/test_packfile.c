// Packed files: what is written comes back; every damage is refused before anything is used.
#include "format/golden.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/packfile.h"

// LLVMFuzzerTestOneInput, and the places of the trailer's fields
#include "fuzz/fuzz_packfile.c"

// --- a file in memory ----------------------------------------------------------------------------

static char dir[] = "/tmp/minke-test-XXXXXX";

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return rmdir(dir);
}

static const mk_packfile_source sources[] = {{"/a/model-1.gguf", 1000, 5},
                                             {"/a/model-2.gguf", 2000, -7000000001}};

static uint8_t *weight_bytes(size_t n, uint8_t seed) {
    uint8_t *p = mk_alloc(n);
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)(i * 31 + seed);
    }
    return p;
}

static mk_packfile_entry entry(int row, int64_t n_mat, uint64_t mat_bytes) {
    return (mk_packfile_entry){.layer = 1,
                               .row = row,
                               .kind = 4,
                               .group = 32,
                               .table = {-8, 7},
                               .n_mat = n_mat,
                               .n_out = 16,
                               .n_in = 64,
                               .mat_bytes = mat_bytes};
}

// Two weights: 5000 bytes (two pages) and 3 * 100.
static mk_status write_file(const char *path, mk_err *err) {
    mk_packfile_out *o = NULL;
    uint8_t *a = weight_bytes(5000, 1), *b = weight_bytes(300, 2);
    mk_packfile_entry ea = entry(7, 1, 5000), eb = entry(-1, 3, 100);
    mk_packfile_head head = {9, 0x1234, "/a/model.gguf", sources, 2};
    mk_status st = mk_packfile_create(path, &o, err);
    st = st == MK_OK ? mk_packfile_add(o, &ea, a, err) : st;
    st = st == MK_OK ? mk_packfile_add(o, &eb, b, err) : st;
    if (st == MK_OK) {
        st = mk_packfile_commit(o, &head, err);
    } else {
        mk_packfile_abort(o);
    }
    mk_free(a);
    mk_free(b);
    return st;
}

static uint8_t *good_file(size_t *n) {
    char *path = mk_path_join(dir, "good");
    mk_err err = {0};
    if (write_file(path, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    uint8_t *data = (uint8_t *)golden_read(path, n);
    assert_int_equal(unlink(path), 0);
    mk_free(path);
    return data;
}

static mk_status try_bytes(const uint8_t *data, size_t n, mk_err *err) {
    mk_packfile *f = NULL;
    int64_t live = mk_alloc_live();
    *err = (mk_err){0};
    mk_status st = mk_packfile_open_memory(data, n, "broken", &f, err);
    assert_true((st == MK_OK) == (f != NULL));
    if (f) {
        read_all(f);
    }
    mk_packfile_close(f);
    assert_int_equal(mk_alloc_live(), live);
    return st;
}

// --- good files ----------------------------------------------------------------------------------

static void test_round_trip(void **state) {
    (void)state;
    char *path = mk_path_join(dir, "good");
    mk_err err = {0};
    mk_packfile *f = NULL;
    assert_int_equal(write_file(path, &err), MK_OK);
    if (mk_packfile_open(path, &f, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    const mk_packfile_head *h = mk_packfile_get_head(f);
    assert_true(h->layout == 9 && h->fingerprint == 0x1234 && h->n_source == 2);
    assert_string_equal(h->model, "/a/model.gguf");
    for (int i = 0; i < 2; i++) {
        assert_string_equal(h->source[i].path, sources[i].path);
        assert_true(h->source[i].n_bytes == sources[i].n_bytes &&
                    h->source[i].mtime_ns == sources[i].mtime_ns);
    }
    assert_int_equal(mk_packfile_n_entry(f), 2);
    const mk_packfile_entry *a = mk_packfile_get_entry(f, 0), *b = mk_packfile_get_entry(f, 1);
    assert_true(a->row == 7 && a->layer == 1 && a->table[0] == -8 && a->offset == 4096);
    assert_true(b->row == -1 && b->n_mat == 3 && b->mat_bytes == 100 && b->offset == 3 * 4096);
    uint8_t *wa = weight_bytes(5000, 1), *wb = weight_bytes(300, 2);
    assert_memory_equal(mk_packfile_data(f, 0), wa, 5000);
    assert_memory_equal(mk_packfile_data(f, 1), wb, 300);
    assert_int_equal((uintptr_t)mk_packfile_data(f, 1) % 4096, 0);
    assert_int_equal(mk_packfile_verify(f, NULL, NULL, &err), MK_OK);
    mk_free(wa);
    mk_free(wb);
    mk_packfile_close(f);
    assert_int_equal(unlink(path), 0);
    mk_free(path);
}

static void test_abort_leaves_nothing(void **state) {
    (void)state;
    char *path = mk_path_join(dir, "none");
    mk_packfile_out *o = NULL;
    mk_err err = {0};
    assert_int_equal(mk_packfile_create(path, &o, &err), MK_OK);
    mk_packfile_entry e = entry(0, 1, 300);
    uint8_t *w = weight_bytes(300, 0);
    assert_int_equal(mk_packfile_add(o, &e, w, &err), MK_OK);
    mk_packfile_abort(o);
    mk_free(w);
    mk_free(path);  // remove_dir fails if a file is left
    assert_int_equal(mk_packfile_create("/no/such/folder/x", &o, &err), MK_ENOTFOUND);
}

static void test_full_device(void **state) {
    (void)state;
    mk_err err = {0};
    assert_int_equal(write_file("/dev/full", &err), MK_EIO);
    assert_non_null(strstr(err.msg, "No space left"));
}

// --- damage --------------------------------------------------------------------------------------

// Every bit that has a meaning, and every length.
static void test_flips_and_cuts(void **state) {
    (void)state;
    size_t n = 0;
    uint8_t *data = good_file(&n);
    mk_err err;
    assert_int_equal(try_bytes(data, n, &err), MK_OK);
    size_t index = 4 * 4096;
    for (size_t i = index; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            data[i] ^= (uint8_t)(1 << bit);
            assert_int_equal(try_bytes(data, n, &err), MK_ECORRUPT);
            data[i] ^= (uint8_t)(1 << bit);
        }
    }
    for (size_t i = 0; i < 8; i++) {
        data[i] ^= 1;
        assert_int_equal(try_bytes(data, n, &err), MK_ECORRUPT);
        data[i] ^= 1;
    }
    for (size_t i = 0; i < n; i++) {
        uint8_t *cut = mk_alloc(i);  // of just this size, so that a sanitizer sees the end
        memcpy(cut, data, i);
        assert_int_equal(try_bytes(cut, i, &err), MK_ECORRUPT);
        mk_free(cut);
    }
    mk_free(data);
}

static void test_verify_finds_damage(void **state) {
    (void)state;
    size_t n = 0;
    uint8_t *data = good_file(&n);
    static const struct {
        size_t at;
        const char *says;  // NULL: a byte between the weights
    } rows[] = {{4096, "weight 0"},     {4096 + 4999, "weight 0"},    {4096 + 5000, NULL},
                {3 * 4096, "weight 1"}, {3 * 4096 + 299, "weight 1"}, {3 * 4096 + 300, NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mk_packfile *f = NULL;
        mk_err err = {0};
        data[rows[i].at] ^= 0x10;
        assert_int_equal(mk_packfile_open_memory(data, n, "broken", &f, &err), MK_OK);
        mk_status st = mk_packfile_verify(f, NULL, NULL, &err);
        assert_int_equal(st, rows[i].says ? MK_ECORRUPT : MK_OK);
        assert_true(!rows[i].says || strstr(err.msg, rows[i].says));
        mk_packfile_close(f);
        data[rows[i].at] ^= 0x10;
    }
    mk_free(data);
}

static mk_status stop_at_once(void *arg, uint64_t done, uint64_t total) {
    assert_true(done <= total);
    ++*(int *)arg;
    return MK_EINTR;
}

static void test_verify_can_be_stopped(void **state) {
    (void)state;
    size_t n = 0;
    uint8_t *data = good_file(&n);
    mk_packfile *f = NULL;
    int calls = 0;
    assert_int_equal(mk_packfile_open_memory(data, n, "good", &f, NULL), MK_OK);
    assert_int_equal(mk_packfile_verify(f, stop_at_once, &calls, NULL), MK_EINTR);
    assert_int_equal(calls, 1);
    mk_packfile_close(f);
    mk_free(data);
}

// Lies with right hashes.  Fields of the trailer are counted from its start, those of the index
// from the index's.
enum { AT_VERSION = 8, AT_N_SOURCE = 48, AT_N_ENTRY = 56, AT_NAMES_BYTES = 64 };
enum { SOURCE_PATH = 16, ENTRY_0 = 64, ENTRY_1 = ENTRY_0 + 104, NAMES = ENTRY_1 + 104 };
enum { N_MAT = 56, N_OUT = 64, N_IN = 72, MAT_BYTES = 80, OFFSET = 88 };

static const struct {
    bool trailer;
    int at, width;
    uint64_t value;
    mk_status want;
    const char *says;
} lies[] = {
    {true, AT_VERSION, 4, 2, MK_EUNSUPPORTED, "version 2"},
    {true, AT_FILE_BYTES, 8, 4096, MK_ECORRUPT, "does not fit"},
    {true, AT_INDEX, 8, 0, MK_ECORRUPT, "does not fit"},
    {true, AT_INDEX, 8, UINT64_MAX - 100, MK_ECORRUPT, "does not fit"},
    {true, AT_INDEX_BYTES, 8, UINT64_MAX, MK_ECORRUPT, "does not fit"},
    {true, AT_N_SOURCE, 8, 0, MK_ECORRUPT, "does not fit"},
    {true, AT_N_SOURCE, 8, UINT64_MAX / 32 + 3, MK_ECORRUPT, "does not fit"},
    {true, AT_N_ENTRY, 8, 3, MK_ECORRUPT, "does not fit"},
    {true, AT_N_ENTRY, 8, (uint64_t)1 << 62, MK_ECORRUPT, "does not fit"},
    {true, AT_NAMES_BYTES, 8, 0, MK_ECORRUPT, "does not fit"},
    {true, AT_NAMES_BYTES, 8, UINT64_MAX, MK_ECORRUPT, "does not fit"},
    {false, SOURCE_PATH, 8, 46, MK_ECORRUPT, "name of source file 0"},
    {false, SOURCE_PATH, 8, UINT64_MAX, MK_ECORRUPT, "name of source file 0"},
    {false, NAMES + 45, 1, 'x', MK_ECORRUPT, "no end"},
    {false, ENTRY_0 + OFFSET, 8, 0, MK_ECORRUPT, "weight 0"},
    {false, ENTRY_0 + OFFSET, 8, 4097, MK_ECORRUPT, "weight 0"},
    {false, ENTRY_1 + OFFSET, 8, 8192, MK_ECORRUPT, "weight 1"},  // inside the first
    {false, ENTRY_1 + OFFSET, 8, 4 * 4096, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + OFFSET, 8, UINT64_MAX - 4095, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + MAT_BYTES, 8, 4096, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + MAT_BYTES, 8, 0, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + MAT_BYTES, 8, UINT64_MAX / 3 + 1, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + N_MAT, 8, 0, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + N_MAT, 8, UINT64_MAX, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + N_MAT, 8, 42, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + N_OUT, 8, 0, MK_ECORRUPT, "weight 1"},
    {false, ENTRY_1 + N_IN, 8, UINT64_MAX, MK_ECORRUPT, "weight 1"},
};

static void test_lies(void **state) {
    (void)state;
    size_t n = 0, index = 4 * 4096;
    uint8_t *good = good_file(&n), *data = mk_alloc(n);
    assert_int_equal(n - index - TRAILER, NAMES + 46);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(data, good, n);
        uint8_t *t = data + n - TRAILER;
        memcpy((lies[i].trailer ? t : data + index) + lies[i].at, &lies[i].value,
               (size_t)lies[i].width);
        put(t + AT_INDEX_HASH, mk_hash64(data + index, n - TRAILER - index, 0));
        put(t + AT_HASH, mk_hash64(t, AT_HASH, 0));
        mk_err err;
        mk_status st = try_bytes(data, n, &err);
        if (st != lies[i].want || !strstr(err.msg, lies[i].says)) {
            fail_msg("row %zu: got %s \"%s\", expected %s and \"%s\"", i, mk_status_name(st),
                     err.msg, mk_status_name(lies[i].want), lies[i].says);
        }
        LLVMFuzzerTestOneInput(data + n - TRAILER, TRAILER);
    }
    mk_free(good);
    mk_free(data);
}

static void test_failing_memory(void **state) {
    (void)state;
    size_t n = 0;
    uint8_t *data = good_file(&n);
    int64_t at = 1;
    for (;; at++) {
        mk_err err;
        mk_alloc_fail_at(at);
        mk_status st = try_bytes(data, n, &err);
        bool failed = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        if (!failed) {
            assert_int_equal(st, MK_OK);
            break;
        }
        assert_int_equal(st, MK_ENOMEM);
    }
    assert_true(at > 3);
    mk_free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_abort_leaves_nothing),
                                       cmocka_unit_test(test_full_device),
                                       cmocka_unit_test(test_flips_and_cuts),
                                       cmocka_unit_test(test_verify_finds_damage),
                                       cmocka_unit_test(test_verify_can_be_stopped),
                                       cmocka_unit_test(test_lies),
                                       cmocka_unit_test(test_failing_memory)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
