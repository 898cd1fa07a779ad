// The tree of known blocks (prefix.h).
//
// Invariants
//  1. a node is a physical block of the pool: its number is the block's, and the tree is one of the
//     block's holders.  So there are never more nodes than blocks, and all memory is reserved at
//     the start;
//  2. a node's parent is a node, or it is the first block of its prompt (parent -1); n_child counts
//     the nodes whose parent it is;
//  3. a sequence that holds a node's block holds those of all its parents: attaching hands out whole
//     ways from the root, and inserting gives the sequence the tree's blocks in place of its own
//     copies.  So a block that nobody uses has no child that somebody uses;
//  4. no node was used later than its parent;
//  5. map leads from the key of every node to it, and from nothing else.
#include "engine/prefix.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/prefix_disk.h"
#include "engine/prefix_map.h"
#include "engine/prefix_reader.h"
#include "model/fingerprint.h"

typedef struct {
    bool used;
    bool saved;      // on disk, or on its way, when last asked
    int32_t parent;  // or -1
    int32_t depth;   // blocks before it
    int32_t n_child;
    uint64_t tenant, stamp;
    mk_u128 key;
} node;

typedef struct {  // what eviction sorts
    uint64_t stamp;
    int32_t depth, block;
} candidate;

struct mk_prefix {
    mk_kv *kv;
    mk_prefix_kind kind;
    char *model_key;
    int64_t n_block, max_depth;  // of the pool; of a prompt
    node *node;                  // [n_block]
    int32_t *ids;                // [n_block, MK_KV_BLOCK]
    candidate *candidate;        // [n_block]
    mk_prefix_map map;
    uint64_t clock;
    mk_u128 *keys;  // [max_depth], of the prompt at hand
    // the way to a node that is saved: blocks, ids, keys
    int32_t *way;          // [max_depth]
    int32_t *way_ids;      // [max_depth, MK_KV_BLOCK]
    mk_u128 *way_keys;     // [max_depth]
    bool unsaved;          // there may be nodes that were not put on disk yet
    mk_prefix_disk *disk;  // or NULL, and the reader as well
    mk_prefix_reader *reader;
    _Atomic int64_t n_node, lookups, hit_tokens, disk_hit_tokens, miss_tokens, evicted;
};

static const int32_t *ids_of(const mk_prefix *p, int32_t block) {
    return p->ids + (int64_t)block * MK_KV_BLOCK;
}

// --- nodes ---------------------------------------------------------------------------------------

// The node with these ids behind `parent`, or -1.
static int32_t find_child(const mk_prefix *p, uint64_t tenant, int32_t parent, mk_u128 key,
                          const int32_t *ids) {
    const mk_prefix_slot *s = mk_prefix_map_get(&p->map, key);
    if (!s) {
        return -1;
    }
    int32_t block = (int32_t)s->i;
    const node *x = &p->node[block];
    bool same = x->parent == parent && x->tenant == tenant &&
                memcmp(ids_of(p, block), ids, MK_KV_BLOCK * sizeof *ids) == 0;
    return same ? block : -1;
}

// Block, which the caller holds, becomes a node and the tree a holder of it.  False: its key is
// taken by another node, or it is one already.
static bool add_node(mk_prefix *p, int32_t block, const node *what, const int32_t *ids) {
    if (p->node[block].used || mk_prefix_map_get(&p->map, what->key)) {
        return false;
    }
    mk_kv_hold(p->kv, block);
    mk_prefix_map_put(&p->map, what->key, NULL, block);
    p->node[block] = *what;
    p->node[block].used = true;
    p->unsaved = p->unsaved || !what->saved;
    memcpy(p->ids + (int64_t)block * MK_KV_BLOCK, ids, MK_KV_BLOCK * sizeof *ids);
    if (what->parent >= 0) {
        p->node[what->parent].n_child++;
    }
    p->n_node++;
    return true;
}

static void remove_node(mk_prefix *p, int32_t block) {
    node *x = &p->node[block];
    mk_prefix_map_remove(&p->map, x->key);
    if (x->parent >= 0) {
        p->node[x->parent].n_child--;
    }
    *x = (node){0};
    p->n_node--;
    mk_kv_drop(p->kv, block);
}

static bool is_free_to_go(const mk_prefix *p, int32_t block) {
    return p->node[block].used && mk_kv_holders(p->kv, block) == 1;
}

// --- saving --------------------------------------------------------------------------------------

typedef struct {
    const mk_kv *kv;
    const int32_t *blocks;
} source;

static void fill_from_cache(void *arg, int64_t i, uint8_t *out) {
    const source *s = arg;
    mk_kv_block_read(s->kv, s->blocks[i], out);
}

static bool is_saved(mk_prefix *p, int32_t block) {
    node *x = &p->node[block];
    x->saved = x->saved || mk_prefix_disk_has(p->disk, x->key);
    return x->saved;
}

// Puts what is not on disk of the way to a node, beginnings first.  False: not all was taken.
static bool save_way(mk_prefix *p, int32_t block, bool wait) {
    int64_t n = p->node[block].depth + 1, most = mk_prefix_disk_run(p->disk);
    for (int64_t i = n - 1; i >= 0; i--, block = p->node[block].parent) {
        p->way[i] = block;
        p->way_keys[i] = p->node[block].key;
        memcpy(p->way_ids + i * MK_KV_BLOCK, ids_of(p, block), MK_KV_BLOCK * sizeof *p->ids);
    }
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && end - i < most && !is_saved(p, p->way[end]);) {
            end++;
        }
        if (end == i) {
            end++;
            continue;
        }
        mk_prefix_run run = {.tenant = p->node[p->way[i]].tenant,
                             .first = i,
                             .n = end - i,
                             .ids = p->way_ids,
                             .keys = p->way_keys + i};
        source from = {p->kv, p->way + i};
        if (!mk_prefix_disk_put(p->disk, &run, wait, fill_from_cache, &from)) {
            return false;
        }
        for (int64_t j = i; j < end; j++) {
            p->node[p->way[j]].saved = true;
        }
    }
    return true;
}

// Everything that was not put yet, until something is not taken.  First what has no children: the
// ways there are the longest runs.
static void save_rest(mk_prefix *p, bool wait) {
    if (!p->unsaved) {
        return;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t b = 0; b < p->n_block; b++) {
            const node *x = &p->node[b];
            if (x->used && !x->saved && (pass == 1 || x->n_child == 0) && !save_way(p, b, wait)) {
                return;
            }
        }
    }
    p->unsaved = false;
}

// --- making room ---------------------------------------------------------------------------------

static void evict(mk_prefix *p, int32_t block) {
    node *x = &p->node[block];
    if (p->disk) {  // its file may have been removed since it was written
        x->saved = mk_prefix_disk_has(p->disk, x->key);
        if (!x->saved) {
            (void)save_way(p, block, false);  // not taken: lost
        }
    }
    MK_ASSERT(x->n_child == 0);
    remove_node(p, block);
    p->evicted++;
}

// Oldest first; of the same age, which are on one way, the last block first.
static int by_age(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->stamp != y->stamp) {
        return x->stamp < y->stamp ? -1 : 1;
    }
    return (x->depth < y->depth) - (x->depth > y->depth);
}

static int64_t n_free(const mk_prefix *p) {
    return p->n_block - mk_kv_blocks_used(p->kv);
}

int64_t mk_prefix_make_room(mk_prefix *p, int64_t n) {
    size_t n_candidate = 0;
    if (n_free(p) >= n) {
        return n_free(p);
    }
    for (int32_t b = 0; b < p->n_block; b++) {
        if (is_free_to_go(p, b)) {
            p->candidate[n_candidate++] = (candidate){p->node[b].stamp, p->node[b].depth, b};
        }
    }
    if (n_candidate > 0) {
        qsort(p->candidate, n_candidate, sizeof *p->candidate, by_age);
    }
    for (size_t i = 0; i < n_candidate && n_free(p) < n; i++) {
        evict(p, p->candidate[i].block);
    }
    return n_free(p);
}

int64_t mk_prefix_available(const mk_prefix *p) {
    int64_t n = n_free(p);
    for (int32_t b = 0; b < p->n_block; b++) {
        n += is_free_to_go(p, b);
    }
    return n;
}

// --- attaching -----------------------------------------------------------------------------------

// A prompt whose beginning is looked for; `got` blocks of it were found, the last is `at` (or -1).
typedef struct {
    int seq;
    uint64_t tenant;
    const int32_t *ids;
    int64_t most, got;
    int32_t at;
} lookup;

static void found(mk_prefix *p, lookup *l, int32_t block) {
    p->node[block].stamp = p->clock;
    mk_kv_append(p->kv, l->seq, block);
    l->at = block;
    l->got++;
}

static void find_in_memory(mk_prefix *p, lookup *l) {
    while (l->got < l->most) {
        int32_t block =
            find_child(p, l->tenant, l->at, p->keys[l->got], l->ids + l->got * MK_KV_BLOCK);
        if (block < 0) {
            return;
        }
        found(p, l, block);
    }
}

// The next block of the prompt from the bytes of a file.  False: no room in memory.
static bool restore(mk_prefix *p, lookup *l, const uint8_t *bytes) {
    int32_t block = -1;
    node x = {.saved = true,
              .parent = l->at,
              .depth = (int32_t)l->got,
              .tenant = l->tenant,
              .key = p->keys[l->got]};
    if (!mk_kv_take(p->kv, &block)) {
        return false;
    }
    mk_kv_block_write(p->kv, block, bytes);
    bool added = add_node(p, block, &x, l->ids + l->got * MK_KV_BLOCK);
    if (added) {
        found(p, l, block);
    }
    mk_kv_drop(p->kv, block);
    return added;
}

// How many of a file's blocks, from the one asked for on, the prompt has.
static int64_t common_blocks(const lookup *l, const mk_prefix_found *f) {
    int64_t n = 0, skip = f->run.first + f->at;
    if (skip != l->got ||
        memcmp(f->run.ids, l->ids, (size_t)skip * MK_KV_BLOCK * sizeof *l->ids) != 0) {
        return 0;
    }
    while (f->at + n < f->run.n && l->got + n < l->most &&
           memcmp(f->run.ids + (skip + n) * MK_KV_BLOCK, l->ids + (skip + n) * MK_KV_BLOCK,
                  MK_KV_BLOCK * sizeof *l->ids) == 0) {
        n++;
    }
    return n;
}

// The file with the block behind what was found.
static mk_prefix_state next_file(mk_prefix *p, const lookup *l, bool wait, mk_prefix_found *f) {
    mk_u128 key = p->keys[l->got];
    if (!wait) {
        return mk_prefix_reader_get(p->reader, l->seq, l->tenant, key, f);
    }
    return mk_prefix_disk_get(p->disk, l->tenant, key, f) ? MK_PREFIX_FOUND : MK_PREFIX_MISS;
}

// True: a file is being read, come back for it.
static bool find_on_disk(mk_prefix *p, lookup *l, bool wait) {
    mk_prefix_found f;
    mk_prefix_state state = MK_PREFIX_FOUND;
    for (bool go = true; go && l->got < l->most;) {
        state = next_file(p, l, wait, &f);
        if (state != MK_PREFIX_FOUND) {
            break;
        }
        int64_t n = common_blocks(l, &f);
        go = n > 0 && mk_prefix_make_room(p, n) > 0;
        for (int64_t i = 0; i < n && go; i++) {
            go = restore(p, l, f.run.data + (size_t)(f.at + i) * p->kind.block_bytes);
        }
        mk_free(f.bytes);
    }
    return state == MK_PREFIX_LATER;
}

// What an attach before this one has given the sequence.  False: the tree does not know it any
// more.
static bool go_on(mk_prefix *p, lookup *l, int64_t n_block) {
    const int32_t *table = mk_kv_table(p->kv, l->seq);
    for (int32_t parent = -1; l->got < n_block; parent = l->at) {
        l->at = table[l->got];
        if (find_child(p, l->tenant, parent, p->keys[l->got], l->ids + l->got * MK_KV_BLOCK) !=
            l->at) {
            return false;
        }
        p->node[l->at].stamp = p->clock;
        l->got++;
    }
    return true;
}

int64_t mk_prefix_attach(mk_prefix *p, int seq, uint64_t tenant, const int32_t *ids, int64_t n,
                         bool *more) {
    bool later = false;
    more = more ? more : &later;
    *more = false;
    int64_t before = mk_kv_length(p->kv, seq);
    MK_ASSERT(n >= 1 && before % MK_KV_BLOCK == 0 && before < n);
    int64_t most = (n - 1) / MK_KV_BLOCK, window = mk_kv_n_ctx(p->kv) / MK_KV_BLOCK;
    lookup l = {seq, tenant, ids, most < window ? most : window, 0, -1};
    mk_u128 key = mk_prefix_root(&p->kind, tenant);
    for (int64_t i = 0; i < l.most; i++) {
        p->keys[i] = key = mk_prefix_next(&p->kind, key, ids + i * MK_KV_BLOCK);
    }
    p->clock++;
    if (!go_on(p, &l, before / MK_KV_BLOCK)) {
        return before;
    }
    find_in_memory(p, &l);
    int64_t in_memory = l.got;
    if (p->disk) {
        *more = find_on_disk(p, &l, more == &later);
        mk_prefix_disk_touch(p->disk, p->keys, l.got);
        save_rest(p, false);
    }
    p->lookups += !*more;
    p->hit_tokens += l.got * MK_KV_BLOCK - before;
    p->disk_hit_tokens += (l.got - in_memory) * MK_KV_BLOCK;
    p->miss_tokens += *more ? 0 : n - l.got * MK_KV_BLOCK;
    return l.got * MK_KV_BLOCK;
}

void mk_prefix_let_go(mk_prefix *p, int seq) {
    if (p->disk) {
        mk_prefix_reader_let_go(p->reader, seq);
    }
}

void mk_prefix_wait(mk_prefix *p, int ms) {
    if (p->disk) {
        mk_prefix_reader_wait(p->reader, ms);
    }
}

// --- inserting and forgetting --------------------------------------------------------------------

void mk_prefix_insert(mk_prefix *p, int seq, uint64_t tenant, const int32_t *ids, int64_t n) {
    MK_ASSERT(n >= 0 && n <= mk_kv_length(p->kv, seq));
    mk_u128 key = mk_prefix_root(&p->kind, tenant);
    int32_t at = -1;
    p->clock++;
    for (int64_t i = 0; i < n / MK_KV_BLOCK; i++, ids += MK_KV_BLOCK) {
        key = mk_prefix_next(&p->kind, key, ids);
        int32_t block = find_child(p, tenant, at, key, ids), own = mk_kv_table(p->kv, seq)[i];
        if (block < 0) {
            node x = {.saved = p->disk && mk_prefix_disk_has(p->disk, key),
                      .parent = at,
                      .depth = (int32_t)i,
                      .tenant = tenant,
                      .key = key};
            if (!add_node(p, own, &x, ids)) {
                break;
            }
            block = own;
        } else if (block != own) {
            mk_kv_exchange(p->kv, seq, i, block);  // the same bits: docs/numerics.md
        }
        p->node[block].stamp = p->clock;
        at = block;
    }
    if (p->disk && p->unsaved && at >= 0 && save_way(p, at, false)) {
        save_rest(p, false);
    }
}

void mk_prefix_forget(mk_prefix *p, uint64_t tenant) {
    for (int32_t b = 0; b < p->n_block; b++) {
        node *x = &p->node[b];
        if (x->used && (tenant == UINT64_MAX || x->tenant == tenant)) {
            x->parent = -1;  // goes as well
            remove_node(p, b);
        }
    }
    if (p->disk) {
        mk_prefix_reader_let_go(p->reader, -1);
        mk_prefix_disk_forget(p->disk, tenant);
    }
}

void mk_prefix_flush(mk_prefix *p) {
    if (!p->disk) {
        return;
    }
    for (int32_t b = 0; b < p->n_block; b++) {
        node *x = &p->node[b];
        x->saved = x->used && mk_prefix_disk_has(p->disk, x->key);
        p->unsaved = p->unsaved || (x->used && !x->saved);
    }
    save_rest(p, true);
    mk_prefix_disk_flush(p->disk);
}

// --- beginning and end ---------------------------------------------------------------------------

static mk_status alloc_parts(mk_prefix *p, mk_err *err) {
    size_t n = (size_t)p->n_block, depth = (size_t)p->max_depth;
    p->node = mk_try_alloc(n, sizeof *p->node);
    p->ids = mk_try_alloc(n, MK_KV_BLOCK * sizeof *p->ids);
    p->candidate = mk_try_alloc(n, sizeof *p->candidate);
    p->keys = mk_try_alloc(depth, sizeof *p->keys);
    p->way = mk_try_alloc(depth, sizeof *p->way);
    p->way_ids = mk_try_alloc(depth, MK_KV_BLOCK * sizeof *p->way_ids);
    p->way_keys = mk_try_alloc(depth, sizeof *p->way_keys);
    bool ok = p->node && p->ids && p->candidate && p->keys && p->way && p->way_ids && p->way_keys &&
              mk_prefix_map_reserve(&p->map, n);
    return ok ? MK_OK
              : MK_FAIL(err, MK_ENOMEM, "no memory for a tree over %lld blocks of the cache",
                        (long long)p->n_block);
}

static char *key_of_model(const mk_model *m, const char *more) {
    char text[64];
    more = more ? more : "";
    snprintf(text, sizeof text, "%.16s-%016llx-%016llx", m->arch->name,
             (unsigned long long)mk_model_state_key(m),
             (unsigned long long)mk_hash64(more, strlen(more), 0));
    return mk_strdup(text);
}

mk_status mk_prefix_create(const mk_prefix_opts *o, mk_prefix **out, mk_err *err) {
    mk_prefix *p = mk_zalloc(sizeof *p);
    p->kv = mk_engine_kv(o->engine);
    p->n_block = mk_kv_blocks_total(p->kv);
    p->max_depth = mk_kv_n_ctx(p->kv) / MK_KV_BLOCK + 1;
    p->model_key = key_of_model(mk_engine_model(o->engine), o->model_key);
    p->kind = (mk_prefix_kind){.model_key = p->model_key,
                               .kv_type = (uint32_t)mk_kv_get_type(p->kv),
                               .block_bytes = mk_kv_block_bytes(p->kv),
                               .key_bits = o->key_bits};
    mk_status st = alloc_parts(p, err);
    if (st == MK_OK && o->dir) {
        mk_prefix_disk_opts d = {o->dir, o->max_disk, p->kind};
        st = mk_prefix_disk_open(&d, &p->disk, err);
        st = st == MK_OK ? mk_prefix_reader_start(p->disk, &p->reader, err) : st;
    }
    if (st != MK_OK) {
        mk_prefix_destroy(p);
        return st;
    }
    *out = p;
    return MK_OK;
}

void mk_prefix_destroy(mk_prefix *p) {
    if (!p) {
        return;
    }
    mk_prefix_flush(p);
    mk_prefix_reader_stop(p->reader);
    mk_prefix_disk_close(p->disk);
    for (int32_t b = 0; p->node && b < p->n_block; b++) {
        if (p->node[b].used) {
            mk_kv_drop(p->kv, b);
        }
    }
    mk_prefix_map_free(&p->map);
    mk_free(p->node);
    mk_free(p->ids);
    mk_free(p->candidate);
    mk_free(p->keys);
    mk_free(p->way);
    mk_free(p->way_ids);
    mk_free(p->way_keys);
    mk_free(p->model_key);
    mk_free(p);
}

void mk_prefix_read(const mk_prefix *p, mk_prefix_figures *out) {
    mk_prefix_disk_figures d = {0};
    if (p->disk) {
        mk_prefix_disk_read(p->disk, &d);
    }
    *out = (mk_prefix_figures){.memory_blocks = p->n_node,
                               .disk_blocks = d.blocks,
                               .disk_bytes = d.bytes,
                               .lookups = p->lookups,
                               .hit_tokens = p->hit_tokens,
                               .disk_hit_tokens = p->disk_hit_tokens,
                               .miss_tokens = p->miss_tokens,
                               .evicted = p->evicted,
                               .damaged = d.damaged};
}
