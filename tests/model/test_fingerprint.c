// What tells models apart: every change of what a model computes changes its key, moving it does
// not.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/file.h"
#include "model/adapter.h"
#include "model/fingerprint.h"

#define LLAMA "tests/golden/models/llama/"

static char dir[] = "/tmp/minke-test-XXXXXX";
static mk_pool *pool;
static const char *const names[] = {"config.json", "model.safetensors"};

static int setup(void **state) {
    (void)state;
    pool = mk_pool_create(1);
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    mk_pool_destroy(pool);
    for (int i = 0; i < 2; i++) {
        char *path = mk_path_join(dir, names[i]);
        assert_int_equal(unlink(path), 0);
        mk_free(path);
    }
    return rmdir(dir);
}

static char *content(const char *folder, int i, size_t *n) {
    char *path = mk_path_join(folder, names[i]), *data = NULL;
    mk_err err = {0};
    assert_int_equal(mk_file_read(path, 1 << 24, &data, n, &err), MK_OK);
    mk_free(path);
    return data;
}

// Time 0: a change of the bytes must not need one of the time to be seen.
static void put(int i, const char *data, size_t n) {
    char *path = mk_path_join(dir, names[i]);
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
    assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[2]){{0}}, 0), 0);
    mk_free(path);
}

typedef struct {
    uint64_t print, state;
} keys;

typedef mk_status (*load_fn)(mk_model *m, mk_pool *p, mk_load_progress progress, void *arg,
                             mk_err *err);

static keys keys_of(const char *folder, load_fn load) {
    mk_model *m = NULL;
    mk_err err = {0};
    if (mk_model_open(folder, &m, &err) != MK_OK || load(m, pool, NULL, NULL, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    keys k = {mk_model_fingerprint(m), mk_model_state_key(m)};
    mk_model_close(m);
    return k;
}

static void test_files(void **state) {
    (void)state;
    size_t n_config = 0, n = 0;
    char *config = content(LLAMA, 0, &n_config), *data = content(LLAMA, 1, &n);
    put(0, config, n_config);
    put(1, data, n);
    keys first = keys_of(dir, mk_model_load), k = keys_of(LLAMA, mk_model_load);
    assert_true(k.print == first.print && k.state != first.state);  // its time is another
    k = keys_of(dir, mk_model_load);
    assert_true(k.state == first.state);
    assert_true(keys_of(dir, mk_model_load_f32).state != first.state);
    // a number of the configuration that is in no tensor
    char *at = strstr(config, "\"rope_theta\": 10000");
    assert_non_null(at);
    at[strlen("\"rope_theta\": ")] = '2';
    put(0, config, n_config);
    k = keys_of(dir, mk_model_load);
    assert_true(k.print == first.print && k.state != first.state);
    at[strlen("\"rope_theta\": ")] = '1';
    put(0, config, n_config);
    assert_true(keys_of(dir, mk_model_load).state == first.state);
    // all weights, as after more training
    size_t head = 0;
    memcpy(&head, data, 8);
    for (size_t i = 8 + head; i < n; i++) {
        data[i] ^= 1;
    }
    put(1, data, n);
    k = keys_of(dir, mk_model_load);
    assert_true(k.print != first.print && k.state != first.state);
    mk_free(config);
    mk_free(data);
}

static void test_adapters(void **state) {
    (void)state;
    mk_model *m = NULL;
    mk_adapters *s = NULL;
    mk_err err = {0};
    mk_adapter_spec spec = {.rank = 2};
    assert_int_equal(mk_model_open(LLAMA, &m, &err), MK_OK);
    assert_int_equal(mk_model_load(m, pool, NULL, NULL, &err), MK_OK);
    uint64_t bare = mk_model_state_key(m);
    assert_int_equal(mk_adapters_create(m, &spec, pool, &s, &err), MK_OK);
    assert_true(mk_model_state_key(m) == bare);
    mk_adapters_attach(s);
    uint64_t with = mk_model_state_key(m);
    assert_true(with != bare);
    const mk_params *p = mk_adapters_params(s);
    p->list[p->n - 1].p[0] += 1;
    assert_true(mk_model_state_key(m) != with);
    p->list[p->n - 1].p[0] -= 1;
    assert_true(mk_model_state_key(m) == with);
    mk_adapters_detach(s);
    assert_true(mk_model_state_key(m) == bare);
    mk_adapters_destroy(s);
    mk_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_adapters)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
