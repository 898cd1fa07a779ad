#include "npy.h"

#include <stdio.h>
#include <string.h>

#define MAGIC_BYTES  10  // magic, version, header length
#define HEADER_BYTES 128

mk_status mk_npy_open(const char *path, int64_t n_row, int64_t n_col, mk_npy *out, mk_err *err) {
    // magic, version 1.0, u16 length, then a Python dictionary padded with spaces so that data
    // start at a multiple of 64
    char head[HEADER_BYTES];
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\x01\x00", 8);
    head[8] = HEADER_BYTES - MAGIC_BYTES;
    head[9] = 0;
    int n = snprintf(head + MAGIC_BYTES, sizeof head - MAGIC_BYTES,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
                     (long long)n_row, (long long)n_col);
    head[MAGIC_BYTES + n] = ' ';  // snprintf's NUL
    head[HEADER_BYTES - 1] = '\n';
    *out = (mk_npy){.n_col = n_col};
    MK_TRY(mk_writer_open(path, &out->w, err));
    mk_status st = mk_writer_write(out->w, head, sizeof head, err);
    if (st != MK_OK) {
        mk_npy_abort(out);
    }
    return st;
}

mk_status mk_npy_row(mk_npy *f, const float *row, mk_err *err) {
    return mk_writer_write(f->w, row, (size_t)f->n_col * sizeof *row, err);
}

mk_status mk_npy_commit(mk_npy *f, mk_err *err) {
    mk_writer *w = f->w;
    f->w = NULL;
    return mk_writer_commit(w, err);
}

void mk_npy_abort(mk_npy *f) {
    mk_writer_abort(f->w);
    f->w = NULL;
}
