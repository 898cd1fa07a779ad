// Block cache of keys and values.
#include "engine/kv.h"

#include <stdbool.h>

#include "base/alloc.h"

typedef struct {
    bool open;
    int64_t length;
    int32_t *table;  // [blocks_per_seq]
} sequence;

struct mk_kv {
    mk_kv_type type;
    int64_t n_ctx, n_seq, n_layer, blocks_per_seq, n_block, n_free;
    size_t block_bytes;
    uint8_t *data;       // n_block * block_bytes
    int32_t *free_list;  // stack of n_free physical blocks
    sequence *seq;
    mk_kv_layer *layer;
};

static int64_t blocks_for(int64_t n_token) {
    return (n_token + MK_KV_BLOCK - 1) / MK_KV_BLOCK;
}

static mk_status alloc_parts(mk_kv *kv, const mk_model *m, mk_err *err) {
    size_t total = 0;
    int64_t n_block = 0;
    if (!mk_mul_i64(kv->blocks_per_seq, kv->n_seq, &n_block) || n_block > INT32_MAX ||
        !mk_mul_size((size_t)n_block, kv->block_bytes, &total)) {
        return MK_FAIL(err, MK_ENOMEM,
                       "a window of %lld tokens for %lld sequences is too large to address",
                       (long long)kv->n_ctx, (long long)kv->n_seq);
    }
    kv->n_block = n_block;
    kv->data = mk_big_alloc(total);
    kv->free_list = mk_try_alloc((size_t)n_block, sizeof *kv->free_list);
    kv->seq = mk_try_alloc((size_t)kv->n_seq, sizeof *kv->seq);
    kv->layer = mk_try_alloc((size_t)kv->n_layer, sizeof *kv->layer);
    if (!kv->data || !kv->free_list || !kv->seq || !kv->layer) {
        return MK_FAIL(
            err, MK_ENOMEM,
            "the cache for a window of %lld tokens needs %.1f MB; ask for a smaller one (--ctx)",
            (long long)kv->n_ctx * kv->n_seq, (double)total / 1e6);
    }
    for (int64_t s = 0; s < kv->n_seq; s++) {
        kv->seq[s].table = mk_try_alloc((size_t)kv->blocks_per_seq, sizeof(int32_t));
        if (!kv->seq[s].table) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the block table of sequence %lld",
                           (long long)s);
        }
    }
    // layer by layer: what a step of attention reads lies close together
    size_t at = 0;
    for (int l = 0; l < kv->n_layer; l++) {
        mk_attn a = mk_model_attn(m, l, kv->type);
        kv->layer[l] = (mk_kv_layer){kv->data + at, mk_attn_block_bytes(&a)};
        at += (size_t)n_block * kv->layer[l].block_stride;
    }
    return MK_OK;
}

mk_status mk_kv_create(const mk_model *m, mk_kv_type type, int64_t n_ctx, int64_t n_seq,
                       mk_kv **out, mk_err *err) {
    MK_ASSERT(n_ctx > 0 && n_seq > 0);
    mk_kv *kv = mk_zalloc(sizeof *kv);
    *kv = (mk_kv){.type = type,
                  .n_ctx = n_ctx,
                  .n_seq = n_seq,
                  .n_layer = mk_model_n_layer(m),
                  .blocks_per_seq = blocks_for(n_ctx),
                  .block_bytes = mk_model_kv_bytes_per_block(m, type)};
    mk_status st = alloc_parts(kv, m, err);
    if (st != MK_OK) {
        mk_kv_destroy(kv);
        return st;
    }
    for (int64_t i = 0; i < kv->n_block; i++) {  // block 0 is handed out first
        kv->free_list[i] = (int32_t)(kv->n_block - 1 - i);
    }
    kv->n_free = kv->n_block;
    *out = kv;
    return MK_OK;
}

void mk_kv_destroy(mk_kv *kv) {
    if (!kv) {
        return;
    }
    for (int64_t s = 0; kv->seq && s < kv->n_seq; s++) {
        mk_free(kv->seq[s].table);
    }
    mk_big_free(kv->data, (size_t)kv->n_block * kv->block_bytes);
    mk_free(kv->free_list);
    mk_free(kv->seq);
    mk_free(kv->layer);
    mk_free(kv);
}

static sequence *seq_at(const mk_kv *kv, int seq) {
    MK_ASSERT(seq >= 0 && seq < kv->n_seq && kv->seq[seq].open);
    return &kv->seq[seq];
}

mk_status mk_kv_open(mk_kv *kv, int *seq, mk_err *err) {
    for (int64_t s = 0; s < kv->n_seq; s++) {
        if (!kv->seq[s].open) {
            kv->seq[s].open = true;
            kv->seq[s].length = 0;
            *seq = (int)s;
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_ELIMIT, "all %lld sequences are in use", (long long)kv->n_seq);
}

void mk_kv_close(mk_kv *kv, int seq) {
    mk_kv_truncate(kv, seq, 0);
    seq_at(kv, seq)->open = false;
}

int64_t mk_kv_length(const mk_kv *kv, int seq) {
    return seq_at(kv, seq)->length;
}

mk_status mk_kv_extend(mk_kv *kv, int seq, int64_t n, mk_err *err) {
    sequence *s = seq_at(kv, seq);
    if (n > kv->n_ctx - s->length) {
        return MK_FAIL(
            err, MK_ECONTEXT,
            "%lld tokens do not fit: the window is %lld tokens and %lld are used; nothing was "
            "cut. Ask for a larger window with --ctx",
            (long long)n, (long long)kv->n_ctx, (long long)s->length);
    }
    int64_t have = blocks_for(s->length), need = blocks_for(s->length + n);
    MK_ASSERT(need - have <= kv->n_free);  // every sequence has its full share
    for (int64_t i = have; i < need; i++) {
        s->table[i] = kv->free_list[--kv->n_free];
    }
    s->length += n;
    return MK_OK;
}

void mk_kv_truncate(mk_kv *kv, int seq, int64_t n) {
    sequence *s = seq_at(kv, seq);
    MK_ASSERT(n >= 0 && n <= s->length);
    for (int64_t i = blocks_for(s->length) - 1; i >= blocks_for(n); i--) {
        kv->free_list[kv->n_free++] = s->table[i];
    }
    s->length = n;
}

const int32_t *mk_kv_table(const mk_kv *kv, int seq) {
    return seq_at(kv, seq)->table;
}

const mk_kv_layer *mk_kv_layers(const mk_kv *kv) {
    return kv->layer;
}

mk_kv_type mk_kv_get_type(const mk_kv *kv) {
    return kv->type;
}

int64_t mk_kv_n_ctx(const mk_kv *kv) {
    return kv->n_ctx;
}

int64_t mk_kv_blocks_used(const mk_kv *kv) {
    return kv->n_block - kv->n_free;
}

int64_t mk_kv_blocks_total(const mk_kv *kv) {
    return kv->n_block;
}
