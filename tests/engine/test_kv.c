// The block cache alone: holders, sharing, copies before writing, a pool that is too small.
#include "engine/prefix_util.h"

static mk_kv *kv_of(const rig *r) {
    return mk_engine_kv(r->engine);
}

static void test_holders(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 3, .n_block = 4});
    mk_kv *kv = kv_of(&r);
    mk_err err = {0};
    int a = open_seq(&r), b = open_seq(&r);
    assert_int_equal(mk_kv_blocks_total(kv), 4);
    assert_int_equal(mk_kv_extend(kv, a, 100, &err), MK_OK);
    assert_int_equal(mk_kv_blocks_used(kv), 2);
    int32_t first = mk_kv_table(kv, a)[0], mine = -1;
    mk_kv_append(kv, b, first);
    assert_int_equal(mk_kv_holders(kv, first), 2);
    assert_int_equal(mk_kv_length(kv, b), 64);
    mk_kv_hold(kv, first);
    mk_kv_close(kv, a);
    mk_kv_close(kv, b);
    assert_int_equal(mk_kv_holders(kv, first), 1);
    assert_int_equal(mk_kv_blocks_used(kv), 1);
    assert_true(mk_kv_take(kv, &mine) && mine != first);
    mk_kv_drop(kv, mine);
    mk_kv_drop(kv, first);
    assert_int_equal(mk_kv_blocks_used(kv), 0);
    rig_close(&r);
}

static void test_pool_of_any_size(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 2, .n_block = 3});
    mk_kv *kv = kv_of(&r);
    mk_err err = {0};
    int a = open_seq(&r), b = open_seq(&r);
    int32_t ids[512] = {0};
    assert_int_equal(mk_engine_feed(r.engine, a, ids, 100, MK_LOGITS_LAST, &err), MK_OK);
    // refused before any of it is computed
    assert_int_equal(mk_engine_feed(r.engine, b, ids, 65, MK_LOGITS_LAST, &err), MK_ELIMIT);
    assert_non_null(strstr(err.msg, "2 blocks"));
    assert_int_equal(mk_engine_seq_length(r.engine, b), 0);
    assert_int_equal(mk_kv_blocks_used(kv), 2);
    // two steps of which only one fits: none is done
    mk_step steps[] = {{a, ids, 28, MK_LOGITS_LAST, NULL}, {b, ids, 65, MK_LOGITS_LAST, NULL}};
    assert_int_equal(mk_engine_forward(r.engine, steps, 2, &err), MK_ELIMIT);
    assert_int_equal(mk_engine_seq_length(r.engine, a), 100);
    steps[1].n = 64;
    assert_int_equal(mk_engine_forward(r.engine, steps, 2, &err), MK_OK);
    assert_int_equal(mk_engine_feed(r.engine, a, ids, 1, MK_LOGITS_LAST, &err), MK_ELIMIT);
    mk_engine_seq_truncate(r.engine, b, 0);
    assert_int_equal(mk_engine_feed(r.engine, a, ids, 1, MK_LOGITS_LAST, &err), MK_OK);
    assert_int_equal(mk_engine_feed(r.engine, a, ids, 400, MK_LOGITS_LAST, &err), MK_ECONTEXT);
    rig_close(&r);
}

// A plan counts the pool, not the windows.
static void test_plan(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 2});
    mk_engine_opts o = {.n_ctx = 256, .n_seq = 2, .pool = r.pool};
    mk_memory_plan whole, small;
    mk_err err = {0};
    assert_int_equal(mk_kernels_find("auto", &o.kernels, &err), MK_OK);
    assert_int_equal(mk_engine_plan(r.model, &o, &whole, &err), MK_OK);
    o.n_block = 2;
    assert_int_equal(mk_engine_plan(r.model, &o, &small, &err), MK_OK);
    assert_int_equal(whole.kv, 4 * small.kv);
    rig_close(&r);
}

// A sequence that is cut back into a shared block goes on in a copy: the other sees nothing of it.
static void test_copy_before_writing(void **state) {
    (void)state;
    static const mk_kv_type types[] = {MK_KV_F32, MK_KV_F16, MK_KV_Q8};
    static const char *const paths[] = {LLAMA, V3};
    int32_t ids[200], other[200];
    fill_ids(ids, 200, 1);
    for (int k = 0; k < 6; k++) {
        rig r =
            rig_open(paths[k / 3],
                     (rig_opts){.n_ctx = 256, .n_seq = 3, .n_block = 9, .kv_type = types[k % 3]});
        mk_kv *kv = kv_of(&r);
        mk_err err = {0};
        memcpy(other, ids, sizeof other);
        fill_ids(other + 100, 100, 2);
        uint64_t want = answer(&r, NULL, 0, ids, 200, NULL),
                 want_other = answer(&r, NULL, 0, other, 200, NULL);
        int a = open_seq(&r), b = open_seq(&r);
        assert_int_equal(mk_engine_feed(r.engine, a, ids, 128, MK_LOGITS_NONE, &err), MK_OK);
        mk_kv_append(kv, b, mk_kv_table(kv, a)[0]);
        mk_kv_append(kv, b, mk_kv_table(kv, a)[1]);
        mk_engine_seq_truncate(r.engine, b, 100);
        assert_int_equal(mk_kv_blocks_used(kv), 2);
        assert_int_equal(mk_engine_feed(r.engine, b, other + 100, 100, MK_LOGITS_LAST, &err),
                         MK_OK);
        assert_true(hash_logits(&r) == want_other);
        assert_int_equal(mk_kv_blocks_used(kv), 2 + 3);
        assert_int_equal(mk_engine_feed(r.engine, a, ids + 128, 72, MK_LOGITS_LAST, &err), MK_OK);
        assert_true(hash_logits(&r) == want);
        rig_close(&r);
    }
}

// The copy is a block that the pool must have.
static void test_no_room_for_the_copy(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 2, .n_block = 2});
    mk_kv *kv = kv_of(&r);
    mk_err err = {0};
    int a = open_seq(&r), b = open_seq(&r);
    assert_int_equal(mk_kv_extend(kv, a, 128, &err), MK_OK);
    mk_kv_append(kv, b, mk_kv_table(kv, a)[0]);
    mk_kv_truncate(kv, b, 63);
    assert_int_equal(mk_kv_extend(kv, b, 0, &err), MK_OK);
    assert_int_equal(mk_kv_extend(kv, b, 1, &err), MK_ELIMIT);
    assert_int_equal(mk_kv_length(kv, b), 63);
    assert_int_equal(mk_kv_table(kv, b)[0], mk_kv_table(kv, a)[0]);
    mk_kv_truncate(kv, a, 64);
    assert_int_equal(mk_kv_extend(kv, b, 1, &err), MK_OK);
    assert_true(mk_kv_table(kv, b)[0] != mk_kv_table(kv, a)[0]);
    rig_close(&r);
}

static void test_bytes_of_a_block(void **state) {
    (void)state;
    static const mk_kv_type types[] = {MK_KV_F32, MK_KV_F16, MK_KV_Q8};
    static const char *const paths[] = {LLAMA, V3};
    int32_t ids[130];
    fill_ids(ids, 130, 3);
    for (int k = 0; k < 6; k++) {
        rig r =
            rig_open(paths[k / 3], (rig_opts){.n_ctx = 256, .n_seq = 2, .kv_type = types[k % 3]});
        mk_kv *kv = kv_of(&r);
        uint8_t *bytes = mk_alloc(2 * mk_kv_block_bytes(kv));
        mk_err err = {0};
        int a = open_seq(&r), b = open_seq(&r);
        uint64_t want = read_prompt(&r, NULL, a, 0, ids, 130, NULL);
        for (int i = 0; i < 2; i++) {
            mk_kv_block_read(kv, mk_kv_table(kv, a)[i], bytes + (size_t)i * mk_kv_block_bytes(kv));
        }
        mk_engine_seq_truncate(r.engine, a, 0);
        for (int i = 1; i >= 0; i--) {  // in other places than before
            int32_t block = -1;
            assert_true(mk_kv_take(kv, &block));
            mk_kv_block_write(kv, block, bytes + (size_t)(1 - i) * mk_kv_block_bytes(kv));
            mk_kv_append(kv, b, block);
            mk_kv_drop(kv, block);
        }
        assert_int_equal(mk_engine_feed(r.engine, b, ids + 128, 2, MK_LOGITS_LAST, &err), MK_OK);
        assert_true(hash_logits(&r) == want);
        mk_free(bytes);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_holders),
                                       cmocka_unit_test(test_pool_of_any_size),
                                       cmocka_unit_test(test_plan),
                                       cmocka_unit_test(test_copy_before_writing),
                                       cmocka_unit_test(test_no_room_for_the_copy),
                                       cmocka_unit_test(test_bytes_of_a_block)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
