// Batches: samples shuffled once per epoch and packed so that a batch has nearly n_row tokens.
//
// A batch is a list of sequences.  There is no padding and no concatenation: every sequence has its
// own positions from 0 and attends to itself alone (the trainer gives each its own cache sequence),
// so a packed batch computes what its sequences would compute alone.
//
// The plan of an epoch is a pure function of (data, options, epoch): a seeded permutation, then
// first fit into at most 64 open batches.  Hence (epoch, index) is the whole position, and a run
// that is resumed there sees the same batches.  A sample is in exactly one batch of every epoch.
//
//     MK_TRY(mk_batcher_create(&(mk_batcher_opts){.data = d, .n_row = 4096, .shuffle = true, .seed = 1}, &b, err));
//     mk_batcher_next(b, &batch);        // for ever: epoch follows epoch
//     mk_batcher_tell(b, &epoch, &index);  ...  MK_TRY(mk_batcher_seek(b, epoch, index, err));
#ifndef MK_TRAIN_BATCHER_H
#define MK_TRAIN_BATCHER_H

#include "train/data.h"

typedef struct mk_batcher mk_batcher;

typedef struct {
    const mk_data *data;  // outlives the batcher, gets no more files
    int64_t first, n;     // samples [first, first + n); n = 0: all from `first` on
    int64_t n_row;        // tokens in a batch at most; 0 = any number
    int64_t n_item;       // samples in a batch at most; 0 = any number
    bool shuffle;         // false: in the order of the files
    uint64_t seed;
} mk_batcher_opts;

typedef struct {
    mk_data_seq seq;  // borrowed from the data
    float weight;
    int64_t sample;  // number in the data
    int which;       // pair: 0 chosen, 1 rejected (its neighbour in the batch)
} mk_data_batch_seq;

typedef struct {
    const mk_data_batch_seq *seq;  // [n_seq], valid until the next call
    int64_t n_seq, n_item;         // n_item: samples; a pair is one of two sequences
    int64_t n_tok, n_target;
    double weight;         // sum over the sequences of weight * n_target, in their order
    int64_t epoch, index;  // where this batch stands
    bool last;             // of its epoch
} mk_data_batch;

// Errors: MK_EUSAGE (no samples; one that is longer than n_row, with its file and line), MK_ENOMEM.
mk_status mk_batcher_create(const mk_batcher_opts *o, mk_batcher **out, mk_err *err) MK_WARN_UNUSED;
void mk_batcher_destroy(mk_batcher *b);

// Cannot fail: all memory is there.
void mk_batcher_next(mk_batcher *b, mk_data_batch *batch);

// Position of the batch that mk_batcher_next gives next.
void mk_batcher_tell(const mk_batcher *b, int64_t *epoch, int64_t *index);
// Errors: MK_EUSAGE (no such place: other data or options).
mk_status mk_batcher_seek(mk_batcher *b, int64_t epoch, int64_t index, mk_err *err) MK_WARN_UNUSED;
int64_t mk_batcher_n_batch(const mk_batcher *b);  // in the epoch of the next batch

#endif
