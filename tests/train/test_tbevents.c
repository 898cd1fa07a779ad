// TensorBoard event files: the bytes that TensorBoard's own package writes.
#include "cmocka_all.h"

#include <math.h>
#include <unistd.h>

#include "torture.h"
#include "train/tbevents.h"

static char path[] = "/tmp/minke-test-XXXXXX";

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

// Checksums of RFC 3720, B.4, and the usual check value.
static void checksums_are_those_of_the_standard(void **state) {
    (void)state;
    uint8_t b[32] = {0};
    assert_int_equal(mk_crc32c("", 0), 0);
    assert_int_equal(mk_crc32c("123456789", 9), 0xE3069283);
    assert_int_equal(mk_crc32c(b, 32), 0x8A9136AA);
    memset(b, 0xFF, 32);
    assert_int_equal(mk_crc32c(b, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++) {
        b[i] = (uint8_t)i;
    }
    assert_int_equal(mk_crc32c(b, 32), 0x46DD794E);
}

// The events of tests/golden/gen_tbevents.py; inf there, too large for a float here.
static mk_status write_events(mk_tb *t, mk_err *err) {
    char tag[201];
    memset(tag, 'x', 200);
    tag[200] = 0;
    const mk_tb_scalar two[] = {{"loss", -1.5}, {"reward/</script>\xC3\xA4", 3.14159}},
                       large[] = {{tag, 3e38}, {"loss", 1e60}};
    MK_TRY(mk_tb_add(t, 0, 0, &(mk_tb_scalar){"loss", 0.0}, 1, err));
    MK_TRY(mk_tb_add(t, 1, 1, two, 2, err));
    MK_TRY(mk_tb_add(t, 127, 127, &(mk_tb_scalar){"lr", 1e-40}, 1, err));
    MK_TRY(mk_tb_add(t, 128, 128, large, 2, err));
    MK_TRY(mk_tb_add(t, 300, 300, &(mk_tb_scalar){"loss", 1.0 / 3}, 1, err));
    return mk_tb_add(t, (int64_t)1 << 53, 0x1p53, &(mk_tb_scalar){"", -2.0}, 1, err);
}

static mk_status write_file(void *arg, mk_err *err) {
    (void)arg;
    mk_tb *t = NULL;
    MK_TRY(mk_tb_open(path, &t, err));
    mk_status st = write_events(t, err);
    if (st != MK_OK) {
        mk_tb_abort(t);
        return st;
    }
    return mk_tb_commit(t, err);
}

static void bytes_are_those_of_tensorboard(void **state) {
    (void)state;
    mk_map want = {0}, got = {0};
    mk_err err = {0};
    if (write_file(NULL, &err) != MK_OK ||
        mk_map_open("tests/golden/tbevents.bin", &want, &err) != MK_OK ||
        mk_map_open(path, &got, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(got.n_bytes, want.n_bytes);
    assert_memory_equal(got.data, want.data, want.n_bytes);
    mk_map_close(&want);
    mk_map_close(&got);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    assert_true(mk_torture(write_file, NULL) > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_those_of_the_standard),
        cmocka_unit_test(bytes_are_those_of_tensorboard),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
