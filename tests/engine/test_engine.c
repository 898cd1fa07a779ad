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

// --- sampler -------------------------------------------------------------------------------------

// Independent definition: sort everything, cut by rule, walk the sum.
typedef struct {
    double p;
    int32_t id;
} plain_row;

static int by_p(const void *a, const void *b) {
    const plain_row *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static int32_t plain_choice(const mk_sample_params *p, const float *logits, int n, int64_t pos) {
    plain_row rows[64];
    double max = -1e30, total = 0;
    for (int i = 0; i < n; i++) {
        max = (double)logits[i] > max ? (double)logits[i] : max;
    }
    for (int i = 0; i < n; i++) {
        rows[i] = (plain_row){exp(((double)logits[i] - max) / (double)p->temperature), i};
        total += rows[i].p;
    }
    qsort(rows, (size_t)n, sizeof *rows, by_p);
    int keep = 0, limit = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double kept = 0;
    while (keep < limit) {
        if (keep > 0 && rows[keep].p < (double)p->min_p * rows[0].p) {
            break;
        }
        kept += rows[keep++].p;
        if (kept >= (double)p->top_p * total) {
            break;
        }
    }
    double target = mk_rng_unit(p->seed, (uint64_t)pos) * kept, sum = 0;
    for (int i = 0; i < keep; i++) {
        sum += rows[i].p;
        if (sum > target) {
            return rows[i].id;
        }
    }
    return rows[keep - 1].id;
}

static void test_sampler_definition(void **state) {
    (void)state;
    int n_diff = 0;
    for (int trial = 0; trial < 20000; trial++) {
        float logits[50];
        uint64_t t = (uint64_t)trial;
        for (int i = 0; i < 50; i++) {
            logits[i] = (float)(8 * mk_rng_unit(1000 + t, (uint64_t)i)) - 4;
        }
        mk_sample_params p = MK_SAMPLE_DEFAULTS;
        p.temperature = 0.3f + (float)mk_rng_unit(1, t);
        p.top_k = (int32_t)(mk_rng_u64(2, t) % 60);
        p.top_p = trial % 3 == 0 ? 1.0f : 0.5f + 0.5f * (float)mk_rng_unit(3, t);
        p.min_p = trial % 4 == 0 ? 0.0f : 0.2f * (float)mk_rng_unit(4, t);
        p.seed = t;
        mk_sampler *s = NULL;
        mk_err err = {0};
        assert_int_equal(mk_sampler_create(&p, 50, 4, &s, &err), MK_OK);
        n_diff += mk_sampler_choose(s, logits, trial) != plain_choice(&p, logits, 50, trial);
        mk_sampler_destroy(s);
    }
    assert_in_range(n_diff, 0, 2);  // libm's exp may fall on the other side of a cut
}

static void test_sampler_frequencies(void **state) {
    (void)state;
    const float logits[4] = {0, 1, 2, 3};
    int count[4] = {0};
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    p.seed = 5;
    mk_sampler *s = NULL;
    mk_err err = {0};
    assert_int_equal(mk_sampler_create(&p, 4, 4, &s, &err), MK_OK);
    for (int i = 0; i < 100000; i++) {
        count[mk_sampler_choose(s, logits, i)]++;
    }
    mk_sampler_destroy(s);
    const double want[4] = {0.0320586, 0.0871443, 0.2368828, 0.6439143};
    for (int i = 0; i < 4; i++) {  // five standard deviations
        double sd = sqrt(want[i] * (1 - want[i]) / 100000);
        assert_true(fabs(count[i] / 100000.0 - want[i]) < 5 * sd);
    }
}

static void test_sampler_edges(void **state) {
    (void)state;
    mk_sampler *s = NULL;
    mk_err err = {0};
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.n_token = 3;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    const float padded[5] = {0, 1, 2, 100, 100}, nan_row[5] = {NAN, NAN, NAN, 1, 1},
                inf_row[5] = {0, INFINITY, 0, 0, 0};
    for (int i = 0; i < 100; i++) {
        assert_in_range(mk_sampler_choose(s, padded, i), 0, 2);
    }
    assert_int_equal(mk_sampler_choose(s, nan_row, 0), 0);
    assert_int_equal(mk_sampler_choose(s, inf_row, 0), 1);
    mk_sampler_destroy(s);
    p.temperature = 0;
    p.n_token = 0;
    const float tie[5] = {1, 3, 3, 0, 3};
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    assert_int_equal(mk_sampler_choose(s, tie, 0), 1);  // ties: lowest id
    mk_sampler_destroy(s);
    p.repetition_penalty = 2;
    p.presence_penalty = 0.5f;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_OK);
    mk_sampler_accept(s, 1, false);
    mk_sampler_accept(s, 2, true);
    mk_sampler_accept(s, 2, true);
    assert_int_equal(mk_sampler_choose(s, tie, 0), 4);  // 1.5, 1.5 - 0.5, and 3 untouched
    mk_sampler_destroy(s);
    p.top_p = 1.5f;
    assert_int_equal(mk_sampler_create(&p, 5, 8, &s, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "top_p"));
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
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_nothing_leaks),
        cmocka_unit_test(test_torture),
        cmocka_unit_test(test_session_reuse),
        cmocka_unit_test(test_sampler_definition),
        cmocka_unit_test(test_sampler_frequencies),
        cmocka_unit_test(test_sampler_edges),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
