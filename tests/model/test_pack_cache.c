// Packed copies of models: mapped weights are the packed ones byte for byte, and a copy that does
// not belong to the model files is refused.
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/mathx.h"
#include "model/load.h"
#include "model/model.h"
#include "model/pack_cache.h"

#define FOLDERS "tests/golden/models/"
#define FILES   "tests/golden/gguf/"

// Every family, format, way of storing latent attention, and packed kind.
static const char *const models[] = {
    FOLDERS "llama",
    FOLDERS "llama-bf16",
    FOLDERS "yi",
    FOLDERS "qwen2_tied",
    FOLDERS "deepseek_v2lite",
    FOLDERS "deepseek_v3-fp8",
    FOLDERS "deepseek_v3_mtp",
    FILES "yi-f32-00001-of-00002.gguf",
    FILES "llama-q8_0.gguf",
    FILES "llama_k256-q4_k.gguf",
    FILES "qwen2-q4_0.gguf",
    FILES "deepseek_v2lite-a-q4_0.gguf",
    FILES "deepseek_v2-b-q8_0.gguf",
    FILES "deepseek_v3_k256-c-q4_k_m.gguf",
};

static char dir[] = "/tmp/minke-test-XXXXXX";
static mk_pool *pool;

static void empty_dir(void) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        char *path = mk_path_join(dir, e->d_name);
        if (e->d_name[0] != '.') {
            assert_int_equal(unlink(path), 0);
        }
        mk_free(path);
    }
    closedir(d);
}

static int setup(void **state) {
    (void)state;
    pool = mk_pool_create(2);
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    empty_dir();
    mk_pool_destroy(pool);
    return rmdir(dir);
}

static mk_model *open_model(const char *path) {
    mk_model *m = NULL;
    mk_err err = {0};
    if (mk_model_open(path, &m, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return m;
}

static void make(const char *path) {
    mk_model *m = open_model(path);
    mk_err err = {0};
    if (mk_pack_cache_make(m, dir, pool, NULL, NULL, &err) != MK_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
    mk_model_close(m);
}

static mk_status attach(const char *path, mk_err *err) {
    mk_model *m = open_model(path);
    *err = (mk_err){0};
    mk_status st = mk_pack_cache_attach(m, dir, err);
    assert_true((st == MK_OK) == (m->packed != NULL));
    mk_model_close(m);
    return st;
}

// --- mapped weights are packed weights -----------------------------------------------------------

typedef struct {
    const mk_weight *w[4096];
    size_t n;
} weight_list;

static mk_status collect(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    weight_list *list = arg;
    (void)layer, (void)row, (void)err;
    assert_true(list->n < sizeof list->w / sizeof list->w[0]);
    list->w[list->n++] = w;
    return MK_OK;
}

static void compare_vectors(const mk_model *a, const mk_model *b) {
    size_t n = (size_t)a->hp.d_model * sizeof(float);
    assert_memory_equal(a->globals.out_norm, b->globals.out_norm, n);
    for (int l = 0; l < a->hp.n_layer; l++) {
        assert_memory_equal(a->layer[l].attn_norm, b->layer[l].attn_norm, n);
        assert_memory_equal(a->layer[l].ffn_norm, b->layer[l].ffn_norm, n);
        assert_int_equal(!a->layer[l].bq, !b->layer[l].bq);
    }
}

static void test_mapped_is_packed(void **state) {
    (void)state;
    static weight_list a, b;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        mk_model *packed = open_model(models[i]), *mapped = open_model(models[i]);
        mk_err err = {0};
        make(models[i]);
        assert_int_equal(mk_pack_cache_attach(mapped, dir, &err), MK_OK);
        assert_int_equal(mk_packfile_verify(mapped->packed, NULL, NULL, &err), MK_OK);
        assert_int_equal(mk_model_load(packed, pool, NULL, NULL, &err), MK_OK);
        assert_int_equal(mk_model_load(mapped, pool, NULL, NULL, &err), MK_OK);
        a.n = b.n = 0;
        assert_int_equal(mk_load_each(packed, collect, &a, NULL), MK_OK);
        assert_int_equal(mk_load_each(mapped, collect, &b, NULL), MK_OK);
        assert_true(a.n == b.n && a.n > 10);
        for (size_t k = 0; k < a.n; k++) {
            const mk_weight *x = a.w[k], *y = b.w[k];
            assert_true(y->borrowed && x->kind == y->kind && x->dtype == y->dtype &&
                        x->scales == y->scales && x->n_mat == y->n_mat && x->n_out == y->n_out &&
                        x->n_in == y->n_in && x->mat_bytes == y->mat_bytes);
            assert_memory_equal(x->data, y->data, x->mat_bytes * (size_t)x->n_mat);
        }
        compare_vectors(packed, mapped);
        mk_model_close(packed);
        mk_model_close(mapped);
        empty_dir();
    }
}

// --- whose copy it is ----------------------------------------------------------------------------

static void copy_file(const char *from, const char *to) {
    char *data = NULL;
    size_t n = 0;
    mk_writer *w = NULL;
    assert_int_equal(mk_file_read(from, 64 << 20, &data, &n, NULL), MK_OK);
    assert_int_equal(mk_writer_open(to, &w, NULL), MK_OK);
    assert_int_equal(mk_writer_write(w, data, n, NULL), MK_OK);
    assert_int_equal(mk_writer_commit(w, NULL), MK_OK);
    mk_free(data);
}

static void set_time(const char *path, long seconds) {
    struct timespec t[2] = {{seconds, 5}, {seconds, 5}};
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static void test_whose_copy(void **state) {
    (void)state;
    char *a = mk_path_join(dir, "a.gguf"), *b = mk_path_join(dir, "b.gguf");
    char *moved = mk_path_join(dir, "c");
    mk_err err = {0};
    copy_file(FILES "llama-q8_0.gguf", a);
    set_time(a, 1000);
    assert_int_equal(attach(a, &err), MK_ENOTFOUND);
    make(a);
    assert_int_equal(attach(a, &err), MK_OK);

    // elsewhere under the same name, with its time: the same files
    assert_int_equal(mkdir(moved, 0700), 0);
    char *c = mk_path_join(moved, "a.gguf");
    assert_int_equal(rename(a, c), 0);
    assert_int_equal(attach(c, &err), MK_OK);

    // written again: perhaps not the same
    set_time(c, 1001);
    assert_int_equal(attach(c, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "1000.000000005"));
    assert_non_null(strstr(err.msg, "1001.000000005"));
    assert_non_null(strstr(err.msg, "minke cache add"));
    make(c);  // replaces it
    assert_int_equal(attach(c, &err), MK_OK);

    // other weights of the same shapes and time
    copy_file(FILES "llama-q8_0.gguf", b);
    int fd = open(b, O_RDWR);
    assert_true(fd >= 0);
    for (off_t at = 1 << 14; at < 1 << 16; at++) {
        assert_int_equal(pwrite(fd, "x", 1, at), 1);
    }
    close(fd);
    assert_int_equal(rename(b, c), 0);
    set_time(c, 1001);
    assert_int_equal(attach(c, &err), MK_ENOTFOUND);
    assert_int_equal(unlink(c), 0);
    assert_int_equal(rmdir(moved), 0);
    empty_dir();
    mk_free(a);
    mk_free(b);
    mk_free(c);
    mk_free(moved);
}

static void test_check_files(void **state) {
    (void)state;
    char *a = mk_path_join(dir, "a.gguf");
    mk_err err = {0};
    mk_model *m;
    copy_file(FILES "llama-q8_0.gguf", a);
    make(a);
    m = open_model(a);
    assert_int_equal(mk_pack_cache_attach(m, dir, &err), MK_OK);
    const mk_packfile_head *h = mk_packfile_get_head(m->packed);
    assert_true(h->n_source == 1 && h->layout == MK_PACK_LAYOUT);
    char real[4096];
    assert_non_null(realpath(a, real));
    assert_string_equal(h->model, real);
    assert_string_equal(h->source[0].path, real);
    assert_int_equal(mk_pack_cache_check_files(h, &err), MK_OK);
    set_time(a, 77);
    assert_int_equal(mk_pack_cache_check_files(h, &err), MK_ECORRUPT);
    assert_int_equal(unlink(a), 0);
    assert_int_equal(mk_pack_cache_check_files(h, &err), MK_ENOTFOUND);
    mk_model_close(m);
    empty_dir();
    mk_free(a);
}

// --- copies that are wrong -----------------------------------------------------------------------

enum {
    PAGE = 4096,
    TRAILER = 128,
    AT_LAYOUT = 12,
    AT_PRINT = 16,
    AT_INDEX = 32,
    AT_INDEX_HASH = 72
};

static void put(uint8_t *p, uint64_t v) {
    memcpy(p, &v, sizeof v);
}

static uint64_t get(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

// Changes of a good file, hashes made right again: a byte of the trailer or of the index.  Index:
// one source (32 bytes), then entries of 104.
static const struct {
    bool trailer;
    int at;
    uint8_t flip;
    mk_status want;
    const char *says;
} changes[] = {
    {true, AT_LAYOUT, 64, MK_EUNSUPPORTED, "version 6"},
    {true, AT_PRINT, 1, MK_ECORRUPT, "fingerprint"},
    {false, 0, 1, MK_ECORRUPT, "is not the file it was made from"},
    {false, 8, 1, MK_ECORRUPT, "is not the file it was made from"},
    {false, 32 + 0, 1, MK_ECORRUPT, "weight 0"},         // layer
    {false, 32 + 104 + 4, 1, MK_ECORRUPT, "weight 1"},   // row
    {false, 32 + 104 + 8, 1, MK_ECORRUPT, "weight 1"},   // type
    {false, 32 + 104 + 12, 1, MK_ECORRUPT, "weight 1"},  // kind
    {false, 32 + 104 + 16, 1, MK_ECORRUPT, "weight 1"},  // scales
    {false, 32 + 104 + 20, 1, MK_ECORRUPT, "weight 1"},  // group
    {false, 32 + 104 + 24, 1, MK_ECORRUPT, "weight 1"},  // shift
    {false, 32 + 104 + 40, 1, MK_ECORRUPT, "weight 1"},  // table
    {false, 32 + 104 + 64, 1, MK_ECORRUPT, "weight 1"},  // n_out
    {false, 32 + 104 + 72, 1, MK_ECORRUPT, "weight 1"},  // n_in
    {false, 32 + 104 + 80, 1, MK_ECORRUPT, "weight 1"},  // mat_bytes
};

static void write_bytes(const char *path, const uint8_t *data, size_t n) {
    mk_writer *w = NULL;
    assert_int_equal(mk_writer_open(path, &w, NULL), MK_OK);
    assert_int_equal(mk_writer_write(w, data, n, NULL), MK_OK);
    assert_int_equal(mk_writer_commit(w, NULL), MK_OK);
}

static void test_wrong_copies(void **state) {
    (void)state;
    const char *model = FILES "llama-q8_0.gguf";
    mk_model *m = open_model(model);
    char *path = mk_pack_cache_path(m, dir), *text = NULL;
    mk_model_close(m);
    make(model);
    size_t n = 0;
    assert_int_equal(mk_file_read(path, 64 << 20, &text, &n, NULL), MK_OK);
    uint8_t *data = (uint8_t *)text, *t = data + n - TRAILER, *index = data + get(t + AT_INDEX);
    mk_err err = {0};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        uint8_t *p = (changes[i].trailer ? t : index) + changes[i].at;
        *p ^= changes[i].flip;
        put(t + AT_INDEX_HASH, mk_hash64(index, (size_t)(t - index), 0));
        put(t + TRAILER - 8, mk_hash64(t, TRAILER - 8, 0));
        write_bytes(path, data, n);
        mk_status st = attach(model, &err);
        if (st != changes[i].want || !strstr(err.msg, changes[i].says)) {
            fail_msg("row %zu: got %s \"%s\", expected %s and \"%s\"", i, mk_status_name(st),
                     err.msg, mk_status_name(changes[i].want), changes[i].says);
        }
        *p ^= changes[i].flip;
    }
    write_bytes(path, data, n - 1);
    assert_int_equal(attach(model, &err), MK_ECORRUPT);
    write_bytes(path, data, 0);
    assert_int_equal(attach(model, &err), MK_ECORRUPT);
    mk_free(text);
    mk_free(path);
    empty_dir();
}

// --- making --------------------------------------------------------------------------------------

static mk_status stop_after_three(void *arg, uint64_t done, uint64_t total) {
    assert_true(done <= total);
    return ++*(int *)arg == 3 ? MK_EINTR : MK_OK;
}

static void assert_empty(void) {
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
}

static void test_stopped_leaves_nothing(void **state) {
    (void)state;
    mk_model *m = open_model(FOLDERS "deepseek_v3");
    mk_err err = {0};
    int n = 0;
    assert_int_equal(mk_pack_cache_make(m, dir, pool, stop_after_three, &n, &err), MK_EINTR);
    assert_int_equal(n, 3);
    assert_empty();
    mk_model_close(m);
}

static void test_failing_memory(void **state) {
    (void)state;
    const char *model = FILES "llama-q8_0.gguf";
    int64_t live = mk_alloc_live();
    mk_err err = {0};
    mk_status st = MK_ENOMEM;
    for (int64_t at = 1; st != MK_OK; at++) {
        mk_model *m = open_model(model);
        mk_alloc_fail_at(at);
        st = mk_pack_cache_make(m, dir, pool, NULL, NULL, &err);
        mk_alloc_fail_at(0);
        mk_model_close(m);
        assert_true(st == MK_OK || st == MK_ENOMEM);
        assert_int_equal(mk_alloc_live(), live);
        if (st != MK_OK) {
            assert_empty();
        }
    }
    st = MK_ENOMEM;
    for (int64_t at = 1; st != MK_OK; at++) {
        mk_model *m = open_model(model);
        mk_alloc_fail_at(at);
        st = mk_pack_cache_attach(m, dir, &err);
        mk_alloc_fail_at(0);
        mk_model_close(m);
        assert_true(st == MK_OK || st == MK_ENOMEM);
        assert_int_equal(mk_alloc_live(), live);
    }
    empty_dir();
}

// --- the bytes of each version -------------------------------------------------------------------

// Random rows of every type that can be packed: if their packed bytes change, MK_PACK_LAYOUT has to
// be raised, or packed files made before would be used with wrong results.
static uint64_t layout_hash(void) {
    enum { ROWS = 20, COLS = 512 };
    static uint8_t bytes[ROWS * COLS * 8];
    uint64_t h = 0;
    for (size_t i = 0; i < sizeof bytes; i += 8) {
        put(bytes + i, mk_rng_u64(1, i));
    }
    for (int t = 0; t < MK_DTYPE_N; t++) {
        mk_weight w;
        mk_weight_src src = {
            .dtype = (mk_dtype)t, .data = bytes, .n_mat = 1, .n_out = ROWS, .n_in = COLS};
        if (!mk_dtype_is_float((mk_dtype)t) || mk_weight_packed_bytes(&src) == 0) {
            continue;
        }
        assert_true(mk_dtype_row_bytes((mk_dtype)t, COLS, &src.row_bytes));
        assert_int_equal(mk_weight_pack(&src, pool, &w, NULL), MK_OK);
        h = mk_hash64(w.data, w.mat_bytes, h + (uint64_t)t);
        mk_weight_free(&w);
    }
    return h;
}

static const uint64_t layout_hashes[] = {
    0,
    UINT64_C(0x15c50bab73ae3dc4),
    0,  // lived for an hour
    UINT64_C(0x41d7e8579be477d4),
};

static void test_layout_version(void **state) {
    (void)state;
    assert_int_equal(MK_PACK_LAYOUT, sizeof layout_hashes / sizeof layout_hashes[0] - 1);
    uint64_t h = layout_hash();
    if (h != layout_hashes[MK_PACK_LAYOUT]) {
        fail_msg("packed bytes have the hash %016llx, version %d of the layouts has %016llx: raise "
                 "MK_PACK_LAYOUT (src/ops/ops.h) and put the new hash into this table",
                 (unsigned long long)h, MK_PACK_LAYOUT,
                 (unsigned long long)layout_hashes[MK_PACK_LAYOUT]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mapped_is_packed),
                                       cmocka_unit_test(test_whose_copy),
                                       cmocka_unit_test(test_check_files),
                                       cmocka_unit_test(test_wrong_copies),
                                       cmocka_unit_test(test_stopped_leaves_nothing),
                                       cmocka_unit_test(test_failing_memory),
                                       cmocka_unit_test(test_layout_version)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
