// One hash over the logits of the golden models, for one instruction set: engine_hash_logits [ISA].
//
// test_hash.c shows that batch, threads and chunks change nothing on this machine; this program
// carries the comparison to another processor (`make neon`).
#include "base/mathx.h"
#include "engine/golden_model.h"

enum { N_IDS = 131, CHUNK = 64 };  // two full blocks of the cache and a bit

static const char *const paths[] = {
    GOLDEN_DIR "models/llama",
    GOLDEN_DIR "models/llama-bf16",
    GOLDEN_DIR "gguf/llama-q8_0.gguf",
    GOLDEN_DIR "gguf/llama_k256-q4_k.gguf",
    GOLDEN_DIR "models/deepseek_v3",
    GOLDEN_DIR "models/deepseek_v3-bf16",
    GOLDEN_DIR "gguf/deepseek_v3-c-q8_0.gguf",
    GOLDEN_DIR "gguf/deepseek_v3_k256-c-q4_k_m.gguf",
};

static uint64_t hash_model(const char *path, const char *isa, uint64_t hash) {
    rig r = rig_open(
        path,
        (rig_opts){
            .isa = isa, .n_thread = 2, .n_ctx = 256, .n_seq = 1, .n_chunk = CHUNK, .n_out = CHUNK});
    int64_t n_vocab = r.model->hp.n_vocab;
    int32_t ids[N_IDS];
    for (int64_t i = 0; i < N_IDS; i++) {
        ids[i] = (int32_t)(mk_rng_u64(77, (uint64_t)i) % (uint64_t)n_vocab);
    }
    mk_err err = {0};
    int seq = 0;
    MK_ASSERT(mk_engine_seq_open(r.engine, &seq, &err) == MK_OK);
    for (int64_t at = 0; at < N_IDS; at += CHUNK) {
        int64_t n = N_IDS - at < CHUNK ? N_IDS - at : CHUNK;
        mk_step step = {seq, ids + at, n, MK_LOGITS_ALL, NULL};
        MK_ASSERT(mk_engine_forward(r.engine, &step, 1, &err) == MK_OK);
        for (int64_t i = 0; i < n; i++) {
            hash = mk_hash64(mk_engine_logits(r.engine, i), (size_t)n_vocab * sizeof(float), hash);
        }
    }
    rig_close(&r);
    return hash;
}

int main(int argc, char **argv) {
    const char *isa = argc > 1 ? argv[1] : "auto";
    uint64_t all = 0;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        uint64_t h = hash_model(paths[i], isa, 0);
        fprintf(stderr, "%-60s %016llx\n", paths[i], (unsigned long long)h);
        all = mk_hash64(&h, sizeof h, all);
    }
    printf("%016llx\n", (unsigned long long)all);
    return 0;
}
