// Block cache of keys and values.
#include "engine/kv.h"

#include <string.h>

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
    int32_t *holders;    // [n_block]
    sequence *seq;
    mk_kv_layer *layer;
};

static int64_t blocks_for(int64_t n_token) {
    return (n_token + MK_KV_BLOCK - 1) / MK_KV_BLOCK;
}

int64_t mk_kv_opts_blocks(const mk_kv_opts *o) {
    int64_t n = o->n_block;
    return n > 0 || mk_mul_i64(blocks_for(o->n_ctx), o->n_seq, &n) ? n : INT64_MAX;
}

static mk_status too_large(const mk_kv *kv, mk_err *err) {
    return MK_FAIL(err, MK_ENOMEM,
                   "a window of %lld tokens for %lld sequences is too large to address",
                   (long long)kv->n_ctx, (long long)kv->n_seq);
}

static mk_status alloc_parts(mk_kv *kv, mk_err *err) {
    size_t total = 0, n_block = (size_t)kv->n_block;
    if (kv->n_block > INT32_MAX || !mk_mul_size(n_block, kv->block_bytes, &total)) {
        return too_large(kv, err);
    }
    kv->data = mk_big_alloc(total);
    kv->free_list = mk_try_alloc(n_block, sizeof *kv->free_list);
    kv->holders = mk_try_alloc(n_block, sizeof *kv->holders);
    kv->seq = mk_try_alloc((size_t)kv->n_seq, sizeof *kv->seq);
    kv->layer = mk_try_alloc((size_t)kv->n_layer, sizeof *kv->layer);
    if (!kv->data || !kv->free_list || !kv->holders || !kv->seq || !kv->layer) {
        return MK_FAIL(err, MK_ENOMEM,
                       "the cache for %lld tokens needs %.1f MB; ask for a smaller window (--ctx)",
                       (long long)kv->n_block * MK_KV_BLOCK, (double)total / 1e6);
    }
    for (int64_t s = 0; s < kv->n_seq; s++) {
        kv->seq[s].table = mk_try_alloc((size_t)kv->blocks_per_seq, sizeof(int32_t));
        if (!kv->seq[s].table) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the block table of sequence %lld",
                           (long long)s);
        }
    }
    return MK_OK;
}

// Layer by layer: what a step of attention reads lies close together.
static void lay_out(mk_kv *kv, const mk_model *m) {
    size_t at = 0;
    for (int l = 0; l < kv->n_layer; l++) {
        mk_attn a = mk_model_attn(m, l, kv->type);
        kv->layer[l] = (mk_kv_layer){kv->data + at, mk_attn_block_bytes(&a)};
        at += (size_t)kv->n_block * kv->layer[l].block_stride;
    }
    for (int64_t i = 0; i < kv->n_block; i++) {  // block 0 is handed out first
        kv->free_list[i] = (int32_t)(kv->n_block - 1 - i);
    }
    kv->n_free = kv->n_block;
}

mk_status mk_kv_create(const mk_model *m, const mk_kv_opts *o, mk_kv **out, mk_err *err) {
    MK_ASSERT(o->n_ctx > 0 && o->n_seq > 0 && o->n_block >= 0);
    mk_kv *kv = mk_zalloc(sizeof *kv);
    *kv = (mk_kv){.type = o->type,
                  .n_ctx = o->n_ctx,
                  .n_seq = o->n_seq,
                  .n_layer = mk_model_n_layer(m),
                  .blocks_per_seq = blocks_for(o->n_ctx),
                  .n_block = mk_kv_opts_blocks(o),
                  .block_bytes = mk_model_kv_bytes_per_block(m, o->type)};
    mk_status st = alloc_parts(kv, err);
    if (st != MK_OK) {
        mk_kv_destroy(kv);
        return st;
    }
    lay_out(kv, m);
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
    mk_free(kv->holders);
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

// --- growing and cutting -------------------------------------------------------------------------

// A new holder of a free block.
static int32_t pop_free(mk_kv *kv) {
    MK_ASSERT(kv->n_free > 0);
    int32_t block = kv->free_list[--kv->n_free];
    kv->holders[block] = 1;
    return block;
}

// Whether the next row would be written into a block that others hold.
static bool ends_in_shared(const mk_kv *kv, const sequence *s) {
    return s->length % MK_KV_BLOCK != 0 && kv->holders[s->table[s->length / MK_KV_BLOCK]] > 1;
}

mk_status mk_kv_check(const mk_kv *kv, int seq, int64_t n, mk_err *err) {
    const sequence *s = seq_at(kv, seq);
    MK_ASSERT(n >= 0);
    if (n > kv->n_ctx - s->length) {
        return MK_FAIL(
            err, MK_ECONTEXT,
            "%lld tokens do not fit: the window is %lld tokens and %lld are used; nothing was "
            "cut. Ask for a larger window with --ctx",
            (long long)n, (long long)kv->n_ctx, (long long)s->length);
    }
    int64_t need = blocks_for(s->length + n) - blocks_for(s->length);
    need += n > 0 && ends_in_shared(kv, s);
    if (need > kv->n_free) {
        return MK_FAIL(err, MK_ELIMIT,
                       "%lld tokens need %lld blocks of the cache, %lld of its %lld are free; end "
                       "or cut other sequences first",
                       (long long)n, (long long)need, (long long)kv->n_free,
                       (long long)kv->n_block);
    }
    return MK_OK;
}

// The last block, not full, becomes the sequence's own.
static void own_last(mk_kv *kv, sequence *s) {
    int32_t *last = &s->table[s->length / MK_KV_BLOCK], mine = pop_free(kv);
    for (int64_t l = 0; l < kv->n_layer; l++) {
        size_t n = kv->layer[l].block_stride;
        memcpy(kv->layer[l].base + (size_t)mine * n, kv->layer[l].base + (size_t)*last * n, n);
    }
    mk_kv_drop(kv, *last);
    *last = mine;
}

mk_status mk_kv_extend(mk_kv *kv, int seq, int64_t n, mk_err *err) {
    MK_TRY(mk_kv_check(kv, seq, n, err));
    sequence *s = seq_at(kv, seq);
    if (n > 0 && ends_in_shared(kv, s)) {
        own_last(kv, s);
    }
    for (int64_t i = blocks_for(s->length); i < blocks_for(s->length + n); i++) {
        s->table[i] = pop_free(kv);
    }
    s->length += n;
    return MK_OK;
}

void mk_kv_truncate(mk_kv *kv, int seq, int64_t n) {
    sequence *s = seq_at(kv, seq);
    MK_ASSERT(n >= 0 && n <= s->length);
    for (int64_t i = blocks_for(s->length) - 1; i >= blocks_for(n); i--) {
        mk_kv_drop(kv, s->table[i]);
    }
    s->length = n;
}

// --- sharing -------------------------------------------------------------------------------------

bool mk_kv_take(mk_kv *kv, int32_t *block) {
    if (kv->n_free == 0) {
        return false;
    }
    *block = pop_free(kv);
    return true;
}

int32_t mk_kv_holders(const mk_kv *kv, int32_t block) {
    MK_ASSERT(block >= 0 && block < kv->n_block);
    return kv->holders[block];
}

void mk_kv_hold(mk_kv *kv, int32_t block) {
    MK_ASSERT(mk_kv_holders(kv, block) > 0);
    kv->holders[block]++;
}

void mk_kv_drop(mk_kv *kv, int32_t block) {
    MK_ASSERT(mk_kv_holders(kv, block) > 0);
    if (--kv->holders[block] == 0) {
        kv->free_list[kv->n_free++] = block;
    }
}

void mk_kv_append(mk_kv *kv, int seq, int32_t block) {
    sequence *s = seq_at(kv, seq);
    MK_ASSERT(s->length % MK_KV_BLOCK == 0 && kv->n_ctx - s->length >= MK_KV_BLOCK);
    mk_kv_hold(kv, block);
    s->table[s->length / MK_KV_BLOCK] = block;
    s->length += MK_KV_BLOCK;
}

void mk_kv_exchange(mk_kv *kv, int seq, int64_t i, int32_t block) {
    sequence *s = seq_at(kv, seq);
    MK_ASSERT(i >= 0 && i < s->length / MK_KV_BLOCK);
    mk_kv_hold(kv, block);
    mk_kv_drop(kv, s->table[i]);
    s->table[i] = block;
}

size_t mk_kv_block_bytes(const mk_kv *kv) {
    return kv->block_bytes;
}

void mk_kv_block_read(const mk_kv *kv, int32_t block, void *out) {
    uint8_t *to = out;
    MK_ASSERT(block >= 0 && block < kv->n_block);
    for (int64_t l = 0; l < kv->n_layer; l++) {
        size_t n = kv->layer[l].block_stride;
        memcpy(to, kv->layer[l].base + (size_t)block * n, n);
        to += n;
    }
}

void mk_kv_block_write(mk_kv *kv, int32_t block, const void *in) {
    const uint8_t *from = in;
    MK_ASSERT(mk_kv_holders(kv, block) == 1);
    for (int64_t l = 0; l < kv->n_layer; l++) {
        size_t n = kv->layer[l].block_stride;
        memcpy(kv->layer[l].base + (size_t)block * n, from, n);
        from += n;
    }
}

// --- facts ---------------------------------------------------------------------------------------

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
