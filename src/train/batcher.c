// See batcher.h.  The plan of an epoch is two arrays: items in the order of the batches, and where
// each batch starts.
#include "train/batcher.h"

#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"

// Batches that still take samples.  64 fill batches to 97 % and more, and keep a sample near its
// place in the permutation, which packing the whole epoch at once would not.
enum { MAX_OPEN = 64 };

typedef struct {
    int64_t batch, n_tok, n_item;
} open_batch;

struct mk_batcher {
    mk_batcher_opts o;
    int64_t n;       // samples
    int64_t *order;  // [n] permutation, then the batch of each item
    int64_t *item;   // [n] samples in the order of the batches
    int64_t *start;  // [n + 1] first item of each batch
    int64_t n_batch;
    mk_data_batch_seq *seq;  // room for the largest batch
    int64_t epoch, index;
};

// --- the plan ------------------------------------------------------------------------------------

static int64_t item_tokens(const mk_batcher *b, int64_t sample) {
    mk_data_sample s = mk_data_get(b->o.data, sample);
    return s.seq[0].n + (s.n_seq > 1 ? s.seq[1].n : 0);
}

// A number below n.  The modulus favours small ones by n / 2^64, which nothing can notice.
static int64_t below(uint64_t key, uint64_t counter, int64_t n) {
    return (int64_t)(mk_rng_u64(key, counter) % (uint64_t)n);
}

// Fisher-Yates (Durstenfeld 1964) with a key for each epoch.
static void permute(mk_batcher *b) {
    for (int64_t i = 0; i < b->n; i++) {
        b->item[i] = b->o.first + i;
    }
    uint64_t key = mk_rng_u64(b->o.seed, (uint64_t)b->epoch);
    for (int64_t i = b->n - 1; b->o.shuffle && i > 0; i--) {
        int64_t j = below(key, (uint64_t)i, i + 1);
        int64_t t = b->item[i];
        b->item[i] = b->item[j];
        b->item[j] = t;
    }
}

static bool has_room(const mk_batcher *b, const open_batch *x, int64_t n_tok) {
    return (b->o.n_row == 0 || n_tok <= b->o.n_row - x->n_tok) &&
           (b->o.n_item == 0 || x->n_item < b->o.n_item);
}

// Index of the first open batch with room; where there is none a new one, for which the oldest has
// to close when there are too many.
static int find_room(mk_batcher *b, open_batch *open, int *n_open, int64_t n_tok) {
    for (int i = 0; i < *n_open; i++) {
        if (has_room(b, &open[i], n_tok)) {
            return i;
        }
    }
    if (*n_open == MAX_OPEN) {
        memmove(open, open + 1, (MAX_OPEN - 1) * sizeof *open);
        (*n_open)--;
    }
    open[*n_open] = (open_batch){.batch = b->n_batch++};
    return (*n_open)++;
}

// Without shuffling the order of the files is kept: only the newest batch is open.
static void first_fit(mk_batcher *b) {
    open_batch open[MAX_OPEN];
    int n_open = 0;
    b->n_batch = 0;
    for (int64_t i = 0; i < b->n; i++) {
        int64_t n_tok = item_tokens(b, b->item[i]);
        if (!b->o.shuffle && n_open == 1 && !has_room(b, &open[0], n_tok)) {
            n_open = 0;
        }
        open_batch *x = &open[find_room(b, open, &n_open, n_tok)];
        x->n_tok += n_tok;
        x->n_item++;
        b->order[i] = x->batch;
        if (b->o.n_item > 0 && x->n_item == b->o.n_item) {  // full: looked at no more
            memmove(x, x + 1, (size_t)(open + n_open - x - 1) * sizeof *x);
            n_open--;
        }
    }
}

// Counting sort of the items by batch; stable, so that the permutation's order holds inside one.
// item[] is the input and the output: the samples pass through `sorted`.
static void sort_by_batch(mk_batcher *b, int64_t *sorted) {
    memset(b->start, 0, (size_t)(b->n + 1) * sizeof *b->start);
    for (int64_t i = 0; i < b->n; i++) {
        b->start[b->order[i] + 1]++;
    }
    for (int64_t k = 0; k < b->n_batch; k++) {
        b->start[k + 1] += b->start[k];
    }
    for (int64_t i = 0; i < b->n; i++) {
        sorted[b->start[b->order[i]]++] = b->item[i];
    }
    // every start now stands at its end, which is the next one's start
    memmove(b->start + 1, b->start, (size_t)b->n_batch * sizeof *b->start);
    b->start[0] = 0;
}

static void plan(mk_batcher *b) {
    permute(b);
    first_fit(b);
    int64_t *sorted = b->order + b->n;
    sort_by_batch(b, sorted);
    memcpy(b->item, sorted, (size_t)b->n * sizeof *sorted);
}

// --- life ----------------------------------------------------------------------------------------

static mk_status check(const mk_batcher *b, mk_err *err) {
    const mk_batcher_opts *o = &b->o;
    MK_ASSERT(o->first >= 0 && o->n >= 0 && o->n_row >= 0 && o->n_item >= 0);
    if (b->n <= 0) {
        return MK_FAIL(err, MK_EUSAGE, "no samples: expected at least one, the data has %lld",
                       (long long)mk_data_n_sample(o->data));
    }
    for (int64_t i = o->first; o->n_row > 0 && i < o->first + b->n; i++) {
        int64_t n_tok = item_tokens(b, i);
        if (n_tok > o->n_row) {
            mk_data_sample s = mk_data_get(o->data, i);
            return MK_FAIL(err, MK_EUSAGE,
                           "%s line %lld: a sample of %lld tokens does not fit into a batch of "
                           "%lld; use larger batches or a smaller maximum length",
                           s.file, (long long)s.line, (long long)n_tok, (long long)o->n_row);
        }
    }
    return MK_OK;
}

static mk_status allocate(mk_batcher *b, mk_err *err) {
    size_t n = (size_t)b->n, per = b->o.n_item > 0 && b->o.n_item < b->n ? (size_t)b->o.n_item : n;
    if (b->o.n_row > 0 && (size_t)b->o.n_row < per) {
        per = (size_t)b->o.n_row;  // every sample has a token
    }
    b->order = mk_try_alloc(n, 2 * sizeof *b->order);
    b->item = mk_try_alloc(n, sizeof *b->item);
    b->start = mk_try_alloc(n + 1, sizeof *b->start);
    b->seq = mk_try_alloc(per, 2 * sizeof *b->seq);
    if (!b->order || !b->item || !b->start || !b->seq) {
        return MK_FAIL(err, MK_ENOMEM, "no memory to plan the batches of %lld samples",
                       (long long)b->n);
    }
    return MK_OK;
}

mk_status mk_batcher_create(const mk_batcher_opts *o, mk_batcher **out, mk_err *err) {
    mk_batcher *b = mk_try_alloc(1, sizeof *b);
    if (!b) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a batcher");
    }
    b->o = *o;
    int64_t left = mk_data_n_sample(o->data) - o->first;
    b->n = o->n > 0 && o->n < left ? o->n : left;
    mk_status st = check(b, err);
    st = st == MK_OK ? allocate(b, err) : st;
    if (st != MK_OK) {
        mk_batcher_destroy(b);
        return st;
    }
    plan(b);
    *out = b;
    return MK_OK;
}

void mk_batcher_destroy(mk_batcher *b) {
    if (b) {
        mk_free(b->order);
        mk_free(b->item);
        mk_free(b->start);
        mk_free(b->seq);
        mk_free(b);
    }
}

// --- use -----------------------------------------------------------------------------------------

static void add_item(mk_batcher *b, mk_data_batch *batch, int64_t sample) {
    mk_data_sample s = mk_data_get(b->o.data, sample);
    for (int k = 0; k < s.n_seq; k++) {
        b->seq[batch->n_seq++] =
            (mk_data_batch_seq){.seq = s.seq[k], .weight = s.weight, .sample = sample, .which = k};
        batch->n_tok += s.seq[k].n;
        batch->n_target += s.seq[k].n_target;
        batch->weight += (double)s.weight * (double)s.seq[k].n_target;
    }
    batch->n_item++;
}

void mk_batcher_next(mk_batcher *b, mk_data_batch *batch) {
    *batch = (mk_data_batch){.seq = b->seq, .epoch = b->epoch, .index = b->index};
    for (int64_t i = b->start[b->index]; i < b->start[b->index + 1]; i++) {
        add_item(b, batch, b->item[i]);
    }
    batch->last = b->index + 1 == b->n_batch;
    b->index++;
    if (batch->last) {
        b->epoch++;
        b->index = 0;
        plan(b);
    }
}

void mk_batcher_tell(const mk_batcher *b, int64_t *epoch, int64_t *index) {
    *epoch = b->epoch;
    *index = b->index;
}

mk_status mk_batcher_seek(mk_batcher *b, int64_t epoch, int64_t index, mk_err *err) {
    int64_t old = b->epoch;
    if (epoch >= 0 && epoch != b->epoch) {
        b->epoch = epoch;
        plan(b);
    }
    if (epoch < 0 || index < 0 || index >= b->n_batch) {
        mk_status st = MK_FAIL(
            err, MK_EUSAGE,
            "position in the data: expected epoch 0 or more and batch 0 to %lld, got epoch %lld "
            "batch %lld; the data or the batch size is another one",
            (long long)b->n_batch - 1, (long long)epoch, (long long)index);
        if (b->epoch != old) {
            b->epoch = old;
            plan(b);
        }
        return st;
    }
    b->index = index;
    return MK_OK;
}

int64_t mk_batcher_n_batch(const mk_batcher *b) {
    return b->n_batch;
}
