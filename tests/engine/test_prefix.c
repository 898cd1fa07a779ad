// The prefix cache in memory: the same bits as without it, tenants, eviction, sharing.
#include "engine/prefix_util.h"
#include "torture.h"

static const struct {
    const char *path;
    mk_kv_type type;
} kinds[] = {{LLAMA, MK_KV_F32}, {LLAMA, MK_KV_F16}, {LLAMA, MK_KV_Q8},
             {V3, MK_KV_F32},    {V3, MK_KV_F16},    {V3, MK_KV_Q8}};
enum { N_KIND = sizeof kinds / sizeof kinds[0] };

static void test_same_bits(void **state) {
    (void)state;
    for (int k = 0; k < N_KIND; k++) {
        rig r =
            rig_open(kinds[k].path, (rig_opts){.n_ctx = 512, .n_seq = 2, .kv_type = kinds[k].type});
        mk_prefix *p = new_prefix(&r, NULL, 0);
        int32_t ids[300];
        int64_t cached = -1;
        fill_ids(ids, 300, 7);
        // lengths around the ends of blocks; the last token is always computed
        static const struct {
            int64_t n, cached;
        } rows[] = {{200, 0}, {200, 192}, {192, 128}, {193, 192}, {64, 0},
                    {65, 64}, {1, 0},     {300, 192}, {300, 256}};
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            uint64_t want = answer(&r, NULL, 1, ids, rows[i].n, NULL);
            assert_true(answer(&r, p, 1, ids, rows[i].n, &cached) == want);
            assert_int_equal(cached, rows[i].cached);
        }
        ids[70] ^= 1;  // only the first block is the same
        uint64_t want = answer(&r, NULL, 1, ids, 300, NULL);
        assert_true(answer(&r, p, 1, ids, 300, &cached) == want);
        assert_int_equal(cached, 64);
        mk_prefix_destroy(p);
        assert_int_equal(mk_kv_blocks_used(mk_engine_kv(r.engine)), 0);
        rig_close(&r);
    }
}

// Decoding behind a shared prefix leaves it as it was, and two that read the same prompt at once
// end with one copy of it.
static void test_sharing(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 512, .n_seq = 3});
    mk_kv *kv = mk_engine_kv(r.engine);
    mk_prefix *p = new_prefix(&r, NULL, 0);
    mk_err err = {0};
    int32_t ids[200];
    fill_ids(ids, 200, 8);
    uint64_t want = answer(&r, NULL, 1, ids, 200, NULL);
    int a = open_seq(&r), b = open_seq(&r);
    assert_int_equal(mk_prefix_attach(p, a, 1, ids, 200, NULL), 0);
    assert_int_equal(mk_prefix_attach(p, b, 1, ids, 200, NULL), 0);
    assert_int_equal(mk_engine_feed(r.engine, a, ids, 150, MK_LOGITS_LAST, &err), MK_OK);
    assert_int_equal(mk_engine_feed(r.engine, b, ids, 150, MK_LOGITS_LAST, &err), MK_OK);
    assert_int_equal(mk_kv_blocks_used(kv), 6);
    mk_prefix_insert(p, a, 1, ids, 150);
    mk_prefix_insert(p, b, 1, ids, 150);
    assert_int_equal(mk_kv_blocks_used(kv), 4);
    assert_int_equal(mk_kv_holders(kv, mk_kv_table(kv, a)[1]), 3);
    assert_int_equal(mk_engine_feed(r.engine, a, ids + 150, 50, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    mk_engine_seq_close(r.engine, a);
    // cut into the shared part and written on with something else
    mk_engine_seq_truncate(r.engine, b, 90);
    int32_t other[64];
    fill_ids(other, 64, 9);
    assert_int_equal(mk_engine_feed(r.engine, b, other, 64, MK_LOGITS_LAST, &err), MK_OK);
    mk_engine_seq_truncate(r.engine, b, 90);
    assert_int_equal(mk_engine_feed(r.engine, b, ids + 90, 110, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    int64_t cached = 0;
    assert_true(answer(&r, p, 1, ids, 200, &cached) == want);
    assert_int_equal(cached, 128);
    mk_prefix_destroy(p);
    // a sequence keeps what it holds
    mk_engine_seq_truncate(r.engine, b, 199);
    assert_int_equal(mk_engine_feed(r.engine, b, ids + 199, 1, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    rig_close(&r);
}

static void test_tenants(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 2});
    mk_prefix *p = new_prefix(&r, NULL, 0);
    int32_t ids[150];
    fill_ids(ids, 150, 10);
    int64_t cached = -1;
    uint64_t want = answer(&r, p, 1, ids, 150, &cached);
    assert_int_equal(cached_of(&r, p, 2, ids, 150), 0);
    assert_true(answer(&r, p, 2, ids, 150, &cached) == want);
    assert_int_equal(cached, 0);
    assert_int_equal(figures_of(p).memory_blocks, 4);
    mk_prefix_forget(p, 1);
    assert_int_equal(cached_of(&r, p, 1, ids, 150), 0);
    assert_int_equal(cached_of(&r, p, 2, ids, 150), 128);
    assert_int_equal(figures_of(p).memory_blocks, 2);
    // forgotten while in use: the sequence goes on with its blocks
    int seq = open_seq(&r);
    assert_int_equal(mk_prefix_attach(p, seq, 2, ids, 150, NULL), 128);
    mk_prefix_forget(p, UINT64_MAX);
    mk_err err = {0};
    assert_int_equal(figures_of(p).memory_blocks, 0);
    assert_int_equal(mk_engine_feed(r.engine, seq, ids + 128, 22, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    mk_prefix_insert(p, seq, 2, ids, 150);
    mk_engine_seq_close(r.engine, seq);
    assert_int_equal(cached_of(&r, p, 2, ids, 150), 128);
    mk_prefix_destroy(p);
    rig_close(&r);
}

static void test_eviction_order(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 2, .n_block = 9});
    mk_kv *kv = mk_engine_kv(r.engine);
    mk_prefix *p = new_prefix(&r, NULL, 0);
    int32_t a[260], b[260], c[260];
    fill_ids(a, 260, 20);
    memcpy(b, a, sizeof b);  // b: the first two blocks of a, then its own
    fill_ids(b + 128, 132, 21);
    fill_ids(c, 260, 22);
    (void)answer(&r, p, 1, a, 257, NULL);  // 4 blocks
    (void)answer(&r, p, 1, b, 257, NULL);  // 2 more
    (void)answer(&r, p, 1, c, 130, NULL);  // 2 more
    assert_int_equal(mk_kv_blocks_used(kv), 8);
    assert_int_equal(mk_prefix_available(p), 9);
    assert_int_equal(cached_of(&r, p, 1, a, 257), 256);  // so b is oldest now, then c
    assert_int_equal(mk_prefix_make_room(p, 1), 1);      // there is one
    assert_int_equal(figures_of(p).evicted, 0);
    static const struct {
        int64_t a, b, c;
    } left[] = {{256, 192, 128}, {256, 128, 128}, {256, 128, 64}, {256, 128, 0},
                {192, 128, 0},   {128, 128, 0},   {64, 64, 0},    {0, 0, 0}};
    // Looking changes ages: so every row begins anew.
    for (int64_t k = 0; k < 8; k++) {
        mk_prefix_forget(p, 1);
        (void)answer(&r, p, 1, a, 257, NULL);
        (void)answer(&r, p, 1, b, 257, NULL);
        (void)answer(&r, p, 1, c, 130, NULL);
        (void)cached_of(&r, p, 1, a, 257);
        assert_int_equal(mk_prefix_make_room(p, 2 + k), 2 + k);
        assert_int_equal(cached_of(&r, p, 1, a, 257), left[k].a);
        assert_int_equal(cached_of(&r, p, 1, b, 257), left[k].b);
        assert_int_equal(cached_of(&r, p, 1, c, 130), left[k].c);
    }
    // what a sequence holds stays
    (void)answer(&r, p, 1, a, 257, NULL);
    (void)answer(&r, p, 1, c, 130, NULL);
    int seq = open_seq(&r);
    assert_int_equal(mk_prefix_attach(p, seq, 1, a, 140, NULL), 128);
    assert_int_equal(mk_prefix_available(p), 7);
    assert_int_equal(mk_prefix_make_room(p, 100), 7);
    assert_int_equal(mk_prefix_make_room(p, 100), 7);
    assert_int_equal(cached_of(&r, p, 1, a, 257), 128);
    mk_engine_seq_close(r.engine, seq);
    assert_int_equal(mk_prefix_available(p), 9);
    mk_prefix_destroy(p);
    assert_int_equal(mk_kv_blocks_used(kv), 0);
    rig_close(&r);
}

static void test_figures(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 2});
    mk_prefix *p = new_prefix(&r, NULL, 0);
    int32_t ids[150];
    fill_ids(ids, 150, 30);
    (void)answer(&r, p, 1, ids, 150, NULL);
    (void)answer(&r, p, 1, ids, 150, NULL);
    mk_prefix_flush(p);  // no folder: nothing to do
    mk_prefix_figures f = figures_of(p);
    assert_int_equal(f.lookups, 2);
    assert_int_equal(f.hit_tokens, 128);
    assert_int_equal(f.miss_tokens, 150 + 22);
    assert_int_equal(f.memory_blocks, 2);
    assert_true(f.disk_blocks == 0 && f.disk_bytes == 0 && f.disk_hit_tokens == 0);
    mk_prefix_destroy(p);
    rig_close(&r);
}

// --- many prompts, few blocks, few keys ----------------------------------------------------------

enum { N_PROMPT = 12, N_ROUND = 150 };

typedef struct {
    int32_t ids[MAX_PROMPT];
    int64_t n;
    uint64_t hash;
} prompt;

// Prompts that begin like others of them.
static prompt *make_prompts(const rig *r) {
    prompt *all = mk_zalloc(N_PROMPT * sizeof *all);
    for (uint64_t i = 0; i < N_PROMPT; i++) {
        prompt *x = &all[i];
        x->n = 1 + (int64_t)(mk_rng_u64(40, i) % 330);
        int64_t same = 0;
        if (i > 0) {
            const prompt *like = &all[mk_rng_u64(41, i) % i];
            same = (int64_t)(mk_rng_u64(42, i) % (uint64_t)like->n);
            same = same < x->n ? same : x->n;
            memcpy(x->ids, like->ids, (size_t)same * sizeof *x->ids);
        }
        fill_ids(x->ids + same, x->n - same, 100 + i);
        x->hash = answer(r, NULL, 0, x->ids, x->n, NULL);
    }
    return all;
}

// Two sequences are open all the time; each round one of them takes up another prompt.
static int64_t hammer(const rig *r, mk_prefix *p, const prompt *all) {
    int seq[2] = {open_seq(r), open_seq(r)};
    int64_t hits = 0, cached = 0;
    for (uint64_t k = 0; k < N_ROUND; k++) {
        uint64_t x = mk_rng_u64(43, k);
        const prompt *at = &all[x % N_PROMPT];
        int s = seq[x >> 32 & 1];
        mk_engine_seq_truncate(r->engine, s, 0);
        if (read_prompt(r, p, s, x >> 40 & 1, at->ids, at->n, &cached) != at->hash) {
            fail_msg("round %d: %lld tokens of %lld from the cache, another answer", (int)k,
                     (long long)cached, (long long)at->n);
        }
        hits += cached > 0;
        int64_t total = mk_kv_blocks_total(mk_engine_kv(r->engine));
        assert_true(mk_prefix_available(p) >= total - 12);
    }
    mk_engine_seq_close(r->engine, seq[0]);
    mk_engine_seq_close(r->engine, seq[1]);
    return hits;
}

static void test_hammer(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 3, .n_block = 14});
    prompt *all = make_prompts(&r);
    for (int bits = 0; bits < 8; bits += 3) {
        mk_prefix *p = NULL;
        mk_err err = {0};
        mk_prefix_opts o = {.engine = r.engine, .model_key = "m", .key_bits = bits};
        assert_int_equal(mk_prefix_create(&o, &p, &err), MK_OK);
        int64_t hits = hammer(&r, p, all);
        printf("keys of %3d bits: %lld hits, %lld evicted\n", bits ? bits : 128, (long long)hits,
               (long long)figures_of(p).evicted);
        assert_true(hits > 10);
        mk_prefix_destroy(p);
        assert_int_equal(mk_kv_blocks_used(mk_engine_kv(r.engine)), 0);
    }
    mk_free(all);
    rig_close(&r);
}

// The same block behind another beginning is another block, whatever the keys.
static void test_same_block_elsewhere(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 1, .n_block = 12});
    mk_prefix *p = NULL;
    mk_err err = {0};
    mk_prefix_opts o = {.engine = r.engine, .key_bits = 3};
    int32_t a[129], b[129];
    int64_t n_known = 0;
    assert_int_equal(mk_prefix_create(&o, &p, &err), MK_OK);
    for (uint64_t i = 0; i < 20; i++) {
        mk_prefix_forget(p, 1);
        fill_ids(a, 129, 200 + i);
        (void)answer(&r, p, 1, a, 129, NULL);
        memcpy(b + 64, a + 64, 65 * sizeof *b);
        for (uint64_t k = 0; k < 8; k++) {
            fill_ids(b, 64, 300 + k);
            (void)answer(&r, p, 1, b, 65, NULL);
            int64_t cached = cached_of(&r, p, 1, b, 129);
            assert_in_range(cached, 0, 64);
            n_known += cached == 64;
        }
    }
    assert_true(n_known > 40);
    mk_prefix_destroy(p);
    rig_close(&r);
}

static mk_status create_and_answer(void *arg, mk_err *err) {
    const rig *r = arg;
    mk_prefix *p = NULL;
    mk_prefix_opts o = {.engine = r->engine, .model_key = "m"};
    int32_t ids[150];
    fill_ids(ids, 150, 50);
    MK_TRY(mk_prefix_create(&o, &p, err));
    uint64_t cold = answer(r, p, 1, ids, 150, NULL);
    assert_true(answer(r, p, 1, ids, 150, NULL) == cold);
    mk_prefix_destroy(p);
    return MK_OK;
}

static void test_torture(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 1});
    assert_true(mk_torture(create_and_answer, &r) >= 8);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_sharing),
                                       cmocka_unit_test(test_tenants),
                                       cmocka_unit_test(test_eviction_order),
                                       cmocka_unit_test(test_figures),
                                       cmocka_unit_test(test_hammer),
                                       cmocka_unit_test(test_same_block_elsewhere),
                                       cmocka_unit_test(test_torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
