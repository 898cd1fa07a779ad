// Batches: every sample once per epoch, never over the limits, well filled, the same after a
// resume.
#include "cmocka_all.h"

#include "base/alloc.h"
#include "base/mathx.h"
#include "text/tokenizer.h"
#include "torture.h"
#include "train/batcher.h"

static mk_tokenizer *tok;

static int open_tokenizer(void **state) {
    (void)state;
    mk_err err = {0};
    return mk_tokenizer_from_folder("models/thimble/tokenizer", &tok, &err) == MK_OK ? 0 : -1;
}

static int close_tokenizer(void **state) {
    (void)state;
    mk_tokenizer_destroy(tok);
    return 0;
}

// n samples of 2 to `longest` tokens; ids are the sample's number, the mask is all but the first.
static mk_data *make_data(int64_t n, int64_t longest, uint64_t seed) {
    mk_data_opts o = MK_DATA_DEFAULTS;
    mk_data *d = NULL;
    mk_err err = {0};
    int32_t ids[512];
    uint8_t mask[512];
    o.tokenizer = tok;
    assert_int_equal(mk_data_create(&o, &d, &err), MK_OK);
    memset(mask, 1, sizeof mask);
    for (int64_t i = 0; i < n; i++) {
        int64_t len = 2 + (int64_t)(mk_rng_u64(seed, (uint64_t)i) % (uint64_t)(longest - 1));
        for (int64_t k = 0; k < len; k++) {
            ids[k] = (int32_t)i;
        }
        assert_int_equal(mk_data_add_ids(d, ids, mask, len, &err), MK_OK);
    }
    assert_int_equal(mk_data_n_sample(d), n);
    return d;
}

static mk_batcher *make_batcher(const mk_batcher_opts *o) {
    mk_batcher *b = NULL;
    mk_err err = {0};
    if (mk_batcher_create(o, &b, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return b;
}

static uint64_t hash_batch(const mk_data_batch *x, uint64_t h) {
    for (int64_t i = 0; i < x->n_seq; i++) {
        h = mk_hash64(&x->seq[i].sample, sizeof x->seq[i].sample, h);
    }
    return h;
}

// One epoch: returns the number of tokens, checks the sums and that each sample comes once.
static int64_t walk_epoch(mk_batcher *b, const mk_batcher_opts *o, int64_t first, int64_t n,
                          uint64_t *hash) {
    int *seen = calloc((size_t)(first + n), sizeof *seen);
    int64_t n_batch = mk_batcher_n_batch(b), total = 0;
    mk_data_batch x;
    for (int64_t k = 0; k < n_batch; k++) {
        int64_t n_tok = 0, n_target = 0;
        mk_batcher_next(b, &x);
        assert_int_equal(x.index, k);
        assert_int_equal(x.last, k + 1 == n_batch);
        assert_true(x.n_seq > 0 && (o->n_item == 0 || x.n_item <= o->n_item));
        for (int64_t i = 0; i < x.n_seq; i++) {
            const mk_data_batch_seq *s = &x.seq[i];
            assert_true(s->sample >= first && s->sample < first + n);
            seen[s->sample]++;
            assert_int_equal(s->seq.ids[0], s->sample);
            assert_int_equal(s->seq.mask[0], 0);
            n_tok += s->seq.n;
            n_target += s->seq.n - 1;
        }
        assert_int_equal(x.n_tok, n_tok);
        assert_int_equal(x.n_target, n_target);
        assert_true(x.weight == (double)n_target);
        assert_true(o->n_row == 0 || n_tok <= o->n_row);
        total += n_tok;
        *hash = hash_batch(&x, *hash);
    }
    for (int64_t i = first; i < first + n; i++) {
        assert_int_equal(seen[i], 1);
    }
    free(seen);
    return total;
}

static void test_epochs(void **state) {
    (void)state;
    static const struct {
        int64_t n, longest, n_row, n_item, first, count;
    } cases[] = {{1000, 100, 512, 0, 0, 0},    {1000, 100, 100, 0, 0, 0}, {50, 20, 0, 8, 0, 0},
                 {1000, 100, 512, 4, 0, 0},    {17, 30, 1000, 0, 0, 0},   {1, 5, 0, 0, 0, 0},
                 {1000, 100, 300, 0, 100, 50}, {40, 10, 0, 0, 30, 0}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        for (int shuffle = 0; shuffle < 2; shuffle++) {
            mk_data *d = make_data(cases[c].n, cases[c].longest, 7);
            mk_batcher_opts o = {.data = d,
                                 .first = cases[c].first,
                                 .n = cases[c].count,
                                 .n_row = cases[c].n_row,
                                 .n_item = cases[c].n_item,
                                 .shuffle = shuffle != 0,
                                 .seed = 3};
            mk_batcher *b = make_batcher(&o);
            int64_t n = o.n ? o.n : cases[c].n - o.first;
            uint64_t h[3] = {0, 0, 0};
            for (int epoch = 0; epoch < 3; epoch++) {
                walk_epoch(b, &o, o.first, n, &h[epoch]);
            }
            assert_true((h[0] == h[1]) == (!shuffle || n == 1));
            assert_true((h[1] == h[2]) == (!shuffle || n == 1));
            mk_batcher_destroy(b);
            mk_data_destroy(d);
        }
    }
}

// Packing leaves little room: 97 % with samples up to a fifth of a batch.
static void test_fill(void **state) {
    (void)state;
    mk_data *d = make_data(5000, 100, 11);
    mk_batcher_opts o = {.data = d, .n_row = 512, .shuffle = true, .seed = 5};
    mk_batcher *b = make_batcher(&o);
    uint64_t h = 0;
    int64_t n_batch = mk_batcher_n_batch(b), n_tok = walk_epoch(b, &o, 0, 5000, &h);
    assert_true((double)n_tok > 0.97 * 512 * (double)n_batch);
    mk_batcher_destroy(b);
    mk_data_destroy(d);
}

static void test_order_of_files(void **state) {
    (void)state;
    mk_data *d = make_data(200, 50, 1);
    mk_batcher_opts o = {.data = d, .n_row = 128};
    mk_batcher *b = make_batcher(&o);
    mk_data_batch x;
    int64_t next = 0;
    do {
        mk_batcher_next(b, &x);
        for (int64_t i = 0; i < x.n_seq; i++) {
            assert_int_equal(x.seq[i].sample, next++);
        }
    } while (!x.last);
    assert_int_equal(next, 200);
    mk_batcher_destroy(b);
    mk_data_destroy(d);
}

// From every position told, a new batcher goes on exactly as the first one did.
static void test_resume(void **state) {
    (void)state;
    mk_data *d = make_data(300, 60, 2);
    mk_batcher_opts o = {.data = d, .n_row = 256, .shuffle = true, .seed = 9};
    mk_batcher *a = make_batcher(&o);
    mk_err err = {0};
    mk_data_batch x, y;
    for (int i = 0; i < 100; i++) {
        int64_t epoch, index;
        mk_batcher_tell(a, &epoch, &index);
        mk_batcher *b = make_batcher(&o);
        assert_int_equal(mk_batcher_seek(b, epoch, index, &err), MK_OK);
        mk_batcher_next(a, &x);
        mk_batcher_next(b, &y);
        assert_true(x.epoch == epoch && x.index == index && y.epoch == epoch && y.index == index);
        assert_int_equal(hash_batch(&x, 0), hash_batch(&y, 0));
        mk_batcher_destroy(b);
    }
    assert_true(x.epoch > 1);
    assert_int_equal(mk_batcher_seek(a, 3, 100000, &err), MK_EUSAGE);
    assert_non_null(strstr(err.msg, "epoch 3 batch 100000"));
    assert_int_equal(mk_batcher_seek(a, -1, 0, &err), MK_EUSAGE);
    // a refused place changes nothing
    int64_t epoch, index;
    mk_batcher_tell(a, &epoch, &index);
    mk_batcher *b = make_batcher(&o);
    assert_int_equal(mk_batcher_seek(b, epoch, index, &err), MK_OK);
    mk_batcher_next(a, &x);
    mk_batcher_next(b, &y);
    assert_int_equal(hash_batch(&x, 0), hash_batch(&y, 0));
    mk_batcher_destroy(a);
    mk_batcher_destroy(b);
    mk_data_destroy(d);
}

// The order is part of what a run is.  Expected: Fisher-Yates over the counter-based generator of
// base/mathx.h, computed by a few lines of Python.
static void test_fixed_order(void **state) {
    (void)state;
    static const int64_t want[] = {7,  1, 2, 0, 10, 8, 4, 9,  6, 5, 3, 11,
                                   10, 6, 7, 4, 3,  8, 1, 11, 5, 9, 2, 0};
    mk_data *d = make_data(12, 4, 1);
    mk_batcher_opts o = {.data = d, .n_item = 1, .shuffle = true, .seed = 42};
    mk_batcher *b = make_batcher(&o);
    mk_data_batch x;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        mk_batcher_next(b, &x);
        assert_int_equal(x.seq[0].sample, want[i]);
    }
    mk_batcher_destroy(b);
    mk_data_destroy(d);
}

static void test_too_long(void **state) {
    (void)state;
    mk_data *d = make_data(100, 50, 1);
    mk_batcher *b = NULL;
    mk_err err = {0};
    assert_int_equal(mk_batcher_create(&(mk_batcher_opts){.data = d, .n_row = 20}, &b, &err),
                     MK_EUSAGE);
    assert_non_null(strstr(err.msg, "does not fit into a batch of 20"));
    assert_int_equal(mk_batcher_create(&(mk_batcher_opts){.data = d, .first = 100}, &b, &err),
                     MK_EUSAGE);
    mk_data_destroy(d);
}

static mk_status scenario(void *arg, mk_err *err) {
    mk_batcher *b = NULL;
    mk_data_batch x;
    mk_status st =
        mk_batcher_create(&(mk_batcher_opts){.data = arg, .n_row = 100, .shuffle = true}, &b, err);
    if (st == MK_OK) {
        mk_batcher_next(b, &x);
    }
    mk_batcher_destroy(b);
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    mk_data *d = make_data(30, 50, 1);
    assert_true(mk_torture(scenario, d) >= 4);
    mk_data_destroy(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),         cmocka_unit_test(test_fill),
        cmocka_unit_test(test_order_of_files), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_fixed_order),    cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
