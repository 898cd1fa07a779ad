// The engine's promises besides values: windows, sequences, memory, allocation-free decoding; and
// the sampler.
#include "base/mathx.h"
#include "cmocka_all.h"
#include "engine/golden_model.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "torture.h"

#define LLAMA GOLDEN_DIR "models/llama"
#define V3    GOLDEN_DIR "models/deepseek_v3"

static void test_overflow(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 100, .n_chunk = 16});
    int32_t ids[200] = {0};
    int seq = 0;
    mk_err err = {0};
    assert_int_equal(mk_engine_seq_open(r.engine, &seq, &err), MK_OK);
    assert_int_equal(mk_engine_feed(r.engine, seq, ids, 101, MK_LOGITS_LAST, &err), MK_ECONTEXT);
    assert_non_null(strstr(err.msg, "101"));
    assert_non_null(strstr(err.msg, "100"));
    assert_int_equal(mk_engine_seq_length(r.engine, seq), 0);
    assert_int_equal(mk_engine_feed(r.engine, seq, ids, 100, MK_LOGITS_LAST, &err), MK_OK);
    mk_step one = {seq, ids, 1, MK_LOGITS_LAST, NULL};
    assert_int_equal(mk_engine_forward(r.engine, &one, 1, &err), MK_ECONTEXT);
    assert_int_equal(mk_engine_seq_length(r.engine, seq), 100);
    int more = 0;
    assert_int_equal(mk_engine_seq_open(r.engine, &more, &err), MK_ELIMIT);
    rig_close(&r);
}

// A bad id in the second of two sequences leaves both as they were.
static void test_all_or_nothing(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 100, .n_seq = 2});
    int32_t good[3] = {1, 2, 3}, bad[3] = {1, 999999, 3};
    int a = 0, b = 0;
    mk_err err = {0};
    assert_int_equal(mk_engine_seq_open(r.engine, &a, &err), MK_OK);
    assert_int_equal(mk_engine_seq_open(r.engine, &b, &err), MK_OK);
    mk_step steps[] = {{a, good, 3, MK_LOGITS_LAST, NULL}, {b, bad, 3, MK_LOGITS_LAST, NULL}};
    assert_int_equal(mk_engine_forward(r.engine, steps, 2, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "999999"));
    assert_int_equal(mk_engine_seq_length(r.engine, a), 0);
    assert_int_equal(mk_engine_seq_length(r.engine, b), 0);
    rig_close(&r);
}

static void test_no_allocation(void **state) {
    (void)state;
    static const char *const paths[] = {LLAMA, V3};
    for (size_t i = 0; i < 2; i++) {
        rig r = rig_open(paths[i], (rig_opts){.n_ctx = 256, .n_thread = 2});
        mk_session *s = NULL;
        mk_sampler *sampler = NULL;
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.repetition_penalty = 1.1f;
        mk_err err = {0};
        int32_t prompt[5] = {5, 6, 7, 8, 9};
        assert_int_equal(mk_session_create(r.engine, &s, &err), MK_OK);
        assert_int_equal(mk_sampler_create(&p, r.model->hp.n_vocab, 256, &sampler, &err), MK_OK);
        assert_int_equal(mk_session_sync(s, prompt, 5, NULL, &err), MK_OK);
        uint64_t before = mk_alloc_count_thread();
        for (int k = 0; k < 100; k++) {
            int32_t id = mk_sampler_choose(sampler, mk_session_logits(s), mk_session_length(s));
            mk_sampler_accept(sampler, id, true);
            assert_int_equal(mk_session_push(s, id, &err), MK_OK);
        }
        assert_true(mk_alloc_count_thread() == before);
        mk_sampler_destroy(sampler);
        mk_session_destroy(s);
        rig_close(&r);
    }
}

static void test_nothing_leaks(void **state) {
    (void)state;
    int64_t before = mk_alloc_live();
    rig r = rig_open(V3, (rig_opts){.n_ctx = 64});
    rig_close(&r);
    assert_int_equal(mk_alloc_live(), before);
}

// Every allocation that depends on the file or on options fails once; each time a clean error and
// nothing left behind.
static mk_status load_and_run(void *arg, mk_err *err) {
    mk_model *m = NULL;
    mk_engine *e = NULL;
    mk_session *s = NULL;
    mk_engine_opts o = {.pool = arg, .n_ctx = 64};
    const int32_t ids[3] = {1, 2, 3};
    mk_status st = mk_kernels_find("auto", &o.kernels, err);
    st = st == MK_OK ? mk_model_open(V3, &m, err) : st;
    st = st == MK_OK ? mk_model_load(m, o.pool, NULL, NULL, err) : st;
    st = st == MK_OK ? mk_engine_create(m, &o, &e, err) : st;
    st = st == MK_OK ? mk_session_create(e, &s, err) : st;
    st = st == MK_OK ? mk_session_sync(s, ids, 3, NULL, err) : st;
    mk_session_destroy(s);
    mk_engine_destroy(e);
    mk_model_close(m);
    return st;
}

// Every allocation that depends on the file or on options fails once: a clean error, and nothing
// left behind.
static void test_torture(void **state) {
    (void)state;
    mk_pool *pool = mk_pool_create(1);
    int64_t n = mk_torture(load_and_run, pool);
    printf("%lld allocations failed one by one\n", (long long)n);
    assert_true(n > 100);
    mk_pool_destroy(pool);
}

static void test_session_reuse(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_chunk = 32});
    mk_session *s = NULL;
    mk_err err = {0};
    int32_t ids[120];
    for (int i = 0; i < 120; i++) {
        ids[i] = (i * 37 + 11) % 320;
    }
    int64_t cached = -1;
    size_t n_bytes = (size_t)r.model->hp.n_vocab * sizeof(float);
    assert_int_equal(mk_session_create(r.engine, &s, &err), MK_OK);
    assert_int_equal(mk_session_sync(s, ids, 120, &cached, &err), MK_OK);
    assert_int_equal(cached, 0);
    uint64_t whole = mk_hash64(mk_session_logits(s), n_bytes, 0);
    assert_int_equal(mk_session_sync(s, ids, 120, &cached, &err), MK_OK);
    assert_int_equal(cached, 119);
    assert_true(whole == mk_hash64(mk_session_logits(s), n_bytes, 0));
    ids[70] = 3;
    assert_int_equal(mk_session_sync(s, ids, 120, &cached, &err), MK_OK);
    assert_int_equal(cached, 70);
    ids[70] = (70 * 37 + 11) % 320;
    assert_int_equal(mk_session_sync(s, ids, 120, &cached, &err), MK_OK);
    assert_true(whole == mk_hash64(mk_session_logits(s), n_bytes, 0));
    mk_session_destroy(s);
    rig_close(&r);
}

static void test_plan(void **state) {
    (void)state;
    mk_err err = {0};
    mk_model *m = NULL;
    mk_memory_plan p;
    mk_engine_opts o = {.n_ctx = 1000, .n_chunk = 64};
    o.pool = mk_pool_create(1);
    assert_int_equal(mk_kernels_find("auto", &o.kernels, &err), MK_OK);
    assert_int_equal(mk_model_open(V3, &m, &err), MK_OK);
    assert_int_equal(mk_engine_plan(m, &o, &p, &err), MK_OK);  // before loading
    assert_int_equal(p.kv, 16 * mk_model_kv_bytes_per_block(m, MK_KV_F32));
    assert_int_equal(mk_model_kv_bytes_per_block(m, MK_KV_F32),
                     5 * 64 * (32 + 16) * 4);  // the latent and the rope part only
    assert_int_equal(p.total, p.weights + p.kv + p.scratch);
    assert_true(p.scratch > 0);
    mk_model_close(m);
    mk_pool_destroy(o.pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overflow),      cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_no_allocation), cmocka_unit_test(test_nothing_leaks),
        cmocka_unit_test(test_torture),       cmocka_unit_test(test_session_reuse),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
