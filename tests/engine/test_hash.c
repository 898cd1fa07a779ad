// One hash: the bits of the logits do not depend on batch, threads, prefill chunk or instruction
// set.
//
// A probe sequence runs alone or beside 1, 6 or 15 others of other lengths, on 1, 2 or 3 threads,
// fed in chunks of 1, 64 or 512 tokens, with every instruction set this machine has.  All logits of
// the probe, in order of position, go into one hash per model; every combination must give the hash
// of the first one.  Of the plain C kernels, thirty times slower than the others, only so many
// combinations run that every two values of two axes meet.  Truth is agreement itself: the values
// are checked against the official implementation in test_golden.c.
#include "base/mathx.h"
#include "cmocka_all.h"
#include "engine/golden_model.h"

#define PROBE_LEN 131  // two full blocks of the cache and a bit
#define MAX_BATCH 16

static const char *const models[] = {
    "models/llama",
    "models/llama-bf16",
    "gguf/llama-q8_0.gguf",
    "gguf/llama_k256-q4_k.gguf",
    "models/deepseek_v3",
    "models/deepseek_v3-bf16",
    "gguf/deepseek_v3-c-q8_0.gguf",
    "gguf/deepseek_v3_k256-c-q4_k_m.gguf",
};
#ifndef MK_TEST_SHORT
static const int batches[] = {1, 2, 7, 16};
static const int threads[] = {1, 2, 3};
static const int64_t chunks[] = {1, 64, 512};
enum { CHEAP = 5, PLAIN = 3, NEIGHBOUR = 20, SPREAD = 37 };
#else  // under sanitizers: every path once, not every combination, and short sequences beside
static const int batches[] = {7};
static const int threads[] = {2};
static const int64_t chunks[] = {1, 64};
enum { CHEAP = 1, PLAIN = 1, NEIGHBOUR = 9, SPREAD = 5 };
#endif

#define N(a) (sizeof(a) / sizeof(a)[0])

typedef struct {
    int batch, n_thread;
    int64_t chunk;
    const mk_kernels *isa;
    mk_kv_type kv;
} combo;

// Ids of sequence s: different for every sequence, the same in every combination.
static int32_t id_at(int s, int64_t i, int64_t n_vocab) {
    return (int32_t)(mk_rng_u64((uint64_t)s + 77, (uint64_t)i) % (uint64_t)n_vocab);
}

static int64_t length_of(int s) {
    return s == 0 ? PROBE_LEN : NEIGHBOUR + SPREAD * s % 150;
}

// Feeds all sequences side by side, `chunk` tokens each per forward.
static uint64_t run(const char *path, combo c) {
    mk_kernels const *k = c.isa;
    rig r = rig_open(path, (rig_opts){.isa = mk_kernels_name(k),
                                      .n_thread = c.n_thread,
                                      .kv_type = c.kv,
                                      .n_ctx = 256,
                                      .n_seq = c.batch,
                                      .n_chunk = c.batch * (c.chunk < 170 ? c.chunk : 170),
                                      .n_out = PROBE_LEN});
    int64_t n_vocab = r.model->hp.n_vocab, at[MAX_BATCH] = {0};
    int32_t ids[MAX_BATCH][256];
    int seq[MAX_BATCH];
    mk_err err = {0};
    for (int s = 0; s < c.batch; s++) {
        assert_int_equal(mk_engine_seq_open(r.engine, &seq[s], &err), MK_OK);
        for (int64_t i = 0; i < length_of(s); i++) {
            ids[s][i] = id_at(s, i, n_vocab);
        }
    }
    uint64_t hash = 1;
    while (at[0] < PROBE_LEN) {
        mk_step steps[MAX_BATCH];
        int n_step = 0;
        // the probe is not the first row of the batch
        for (int s = c.batch - 1; s >= 0; s--) {
            int64_t left = length_of(s) - at[s], n = left < c.chunk ? left : c.chunk;
            if (n > 0) {
                steps[n_step++] = (mk_step){seq[s], &ids[s][at[s]], n,
                                            s == 0 ? MK_LOGITS_ALL : MK_LOGITS_NONE, NULL};
                at[s] += n;
            }
        }
        int64_t n_probe = steps[n_step - 1].n;
        assert_int_equal(mk_engine_forward(r.engine, steps, n_step, &err), MK_OK);
        for (int64_t i = 0; i < n_probe; i++) {
            hash = mk_hash64(mk_engine_logits(r.engine, i), (size_t)n_vocab * sizeof(float), hash);
        }
    }
    rig_close(&r);
    return hash;
}

// Numbers of an instruction set and of values on the axes.  With one sum in three, every number of
// threads meets every batch in one size of chunks, and so on around.
static bool runs(int isa, size_t b, size_t t, size_t c) {
    bool plain = strcmp(mk_kernels_name(mk_kernels_at(isa)), "scalar") == 0;
    return !plain || (b + t + c) % PLAIN == 0;
}

// Of the combinations every stride-th; 5 has no factor in common with the length of any axis.
static void check_model(const char *name, mk_kv_type kv, int stride) {
    char path[512];
    snprintf(path, sizeof path, GOLDEN_DIR "%s", name);
    uint64_t want = 0;
    int n = 0, n_bad = 0, at = 0;
    for (int i = 0; mk_kernels_at(i); i++) {
        for (size_t b = 0; b < N(batches); b++) {
            for (size_t t = 0; t < N(threads); t++) {
                for (size_t c = 0; c < N(chunks); c++) {
                    if (!runs(i, b, t, c) || at++ % stride != 0) {
                        continue;
                    }
                    combo x = {batches[b], threads[t], chunks[c], mk_kernels_at(i), kv};
                    uint64_t hash = run(path, x);
                    want = n++ == 0 ? hash : want;
                    if (hash != want) {
                        printf("%s: %s batch %d threads %d chunk %lld: %016llx, expected %016llx\n",
                               name, mk_kernels_name(x.isa), x.batch, x.n_thread,
                               (long long)x.chunk, (unsigned long long)hash,
                               (unsigned long long)want);
                        n_bad++;
                    }
                }
            }
        }
    }
    static const char *const type[] = {[MK_KV_F32] = "f32", [MK_KV_F16] = "f16", [MK_KV_Q8] = "q8"};
    printf("%-32s %s cache: hash %016llx over %d combinations\n", name, type[kv],
           (unsigned long long)want, n);
    assert_int_equal(n_bad, 0);
}

static void test_one_hash(void **state) {
    (void)state;
    for (size_t i = 0; i < N(models); i++) {
        check_model(models[i], i % 2 == 0 ? MK_KV_F32 : MK_KV_F16, 1);
    }
}

static void test_one_hash_int8_cache(void **state) {
    (void)state;
    check_model("gguf/llama-q8_0.gguf", MK_KV_Q8, CHEAP);
    check_model("gguf/deepseek_v3-c-q8_0.gguf", MK_KV_Q8, CHEAP);
}

// A cache hit is the same as computing again: the logits behind a truncated and continued sequence.
static void test_cache_hit(void **state) {
    (void)state;
    for (size_t m = 0; m < N(models); m += 4) {
        char path[512];
        snprintf(path, sizeof path, GOLDEN_DIR "%s", models[m]);
        rig r = rig_open(path, (rig_opts){.n_thread = 2, .n_ctx = 256, .n_seq = 2});
        int32_t ids[PROBE_LEN];
        for (int64_t i = 0; i < PROBE_LEN; i++) {
            ids[i] = id_at(0, i, r.model->hp.n_vocab);
        }
        size_t n_bytes = (size_t)r.model->hp.n_vocab * sizeof(float);
        mk_err err = {0};
        int a = 0, b = 0;
        assert_int_equal(mk_engine_seq_open(r.engine, &a, &err), MK_OK);
        assert_int_equal(mk_engine_seq_open(r.engine, &b, &err), MK_OK);
        assert_int_equal(mk_engine_feed(r.engine, a, ids, PROBE_LEN, MK_LOGITS_LAST, &err), MK_OK);
        uint64_t whole = mk_hash64(mk_engine_logits(r.engine, 0), n_bytes, 0);
        assert_int_equal(mk_engine_feed(r.engine, b, ids, 100, MK_LOGITS_NONE, &err), MK_OK);
        assert_int_equal(mk_engine_feed(r.engine, b, ids, 50, MK_LOGITS_NONE, &err),
                         MK_OK);  // to be taken back
        mk_engine_seq_truncate(r.engine, b, 90);
        assert_int_equal(
            mk_engine_feed(r.engine, b, ids + 90, PROBE_LEN - 90, MK_LOGITS_LAST, &err), MK_OK);
        assert_true(whole == mk_hash64(mk_engine_logits(r.engine, 0), n_bytes, 0));
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_hash),
                                       cmocka_unit_test(test_one_hash_int8_cache),
                                       cmocka_unit_test(test_cache_hit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
