// MXFP4 from a folder's two tensors.  Truth: transformers' own unpacking, stored by
// tests/golden/gen_mxfp4.py.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/dtype.h"
#include "format/mxfp4.h"

enum { N = 64 };

static void test_values(void **state) {
    (void)state;
    char *data = NULL;
    size_t n = 0;
    mk_err err = {0};
    assert_int_equal(mk_file_read("tests/golden/format/mxfp4.bin", 1 << 20, &data, &n, &err),
                     MK_OK);
    assert_int_equal(n, N * 16 + N + N * 32 * 4);
    const uint8_t *blocks = (const uint8_t *)data, *scales = blocks + N * 16;
    uint8_t packed[N * 17];
    float got[N * 32];
    mk_mxfp4_from_pair(blocks, scales, N, packed);
    mk_dtype_to_f32(MK_DTYPE_MXFP4, packed, N * 32, got);
    for (int i = 0; i < N * 32; i++) {  // by value: integers have no -0
        float want;
        memcpy(&want, scales + N + 4 * i, sizeof want);
        assert_true(got[i] == want);
    }
    mk_free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
