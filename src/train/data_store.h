// Private to data*.c: the store of samples, and how a line becomes samples in it.
#ifndef MK_TRAIN_DATA_STORE_H
#define MK_TRAIN_DATA_STORE_H

#include "train/data_int.h"

typedef struct {
    int64_t at;  // of the first sequence in ids[] and mask[]; the second one is behind it
    int64_t n[2], n_target[2];
    int64_t n_prompt, line, file;
    size_t json_at, n_json;
    float weight;
    int n_seq;
    bool label;
} mk_record;

enum { MK_MAX_EOG = 64 };

struct mk_data {
    mk_data_opts o;  // kind: settled by the first line
    mk_ids eog;      // tokens that end an answer
    char **file;     // [n_file] names
    int64_t n_file, cap_file;
    int64_t line;  // where the reader stands in the last file
    int32_t *ids;  // [n_id], cap_id
    uint8_t *mask;
    int64_t n_id, cap_id;
    mk_record *rec;
    int64_t n_rec, cap_rec;
    mk_buf json;          // lines of rl, each with a NUL behind it
    mk_data_stats count;  // what is counted while lines are read
    char first_bad[MK_ERR_MSG_MAX];
};

// A place to go back to.
typedef struct {
    int64_t n_id, n_rec;
    size_t n_json;
    mk_data_stats count;
} mk_mark;

// Appends tokens (mask NULL: nothing is learned) and a record; file and line are filled in.
mk_status mk_store_seq(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                       mk_err *err) MK_WARN_UNUSED;
mk_status mk_store_record(mk_data *d, mk_record r, mk_err *err) MK_WARN_UNUSED;

// Samples of one sequence, with the length limits (data_samples.c).
mk_status mk_store_chat(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                        double weight, mk_err *err) MK_WARN_UNUSED;
mk_status mk_text_samples(mk_data *d, const char *text, size_t n, double weight,
                          mk_err *err) MK_WARN_UNUSED;
mk_status mk_line_samples(mk_data *d, const mk_line *l, mk_err *err) MK_WARN_UNUSED;

#endif
