// NumPy's .npy files, version 1.0, float32 matrices in row-major order, written row by row and
// atomically.  Source: the format description in NumPy's documentation (numpy.lib.format).
#ifndef MK_CMD_NPY_H
#define MK_CMD_NPY_H

#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

typedef struct {
    mk_writer *w;
    int64_t n_col;
} mk_npy;

mk_status mk_npy_open(const char *path, int64_t n_row, int64_t n_col, mk_npy *out,
                      mk_err *err) MK_WARN_UNUSED;
mk_status mk_npy_row(mk_npy *f, const float *row, mk_err *err) MK_WARN_UNUSED;
mk_status mk_npy_commit(mk_npy *f, mk_err *err) MK_WARN_UNUSED;  // closes whatever happens
void mk_npy_abort(mk_npy *f);

#endif
