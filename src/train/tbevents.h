// Event files that TensorBoard reads: scalars over steps.
//
// A file is a list of records (TFRecord): length, its checksum, bytes, their checksum; all little
// endian, checksums are CRC-32C (RFC 3720), rotated and shifted.  A record is one Event in the
// encoding of Protocol Buffers, written here by hand:
//
//   Event    1 wall_time double   2 step int64   3 file_version string   5 summary Summary
//   Summary  1 value Value, repeated
//   Value    1 tag string         2 simple_value float
//
// The first event says "brain.Event:2".  A name of a file must contain "tfevents".
#ifndef MK_TRAIN_TBEVENTS_H
#define MK_TRAIN_TBEVENTS_H

#include "base/file.h"
#include "train/runlog.h"

// One number of an event.
typedef struct {
    const char *tag;  // UTF-8
    double value;     // rounded to float
} mk_tb_scalar;

typedef struct mk_tb mk_tb;
// Begins the file; it is whole or not there (mk_writer).  Errors: MK_EIO, MK_ENOTFOUND.
mk_status mk_tb_open(const char *path, mk_tb **out, mk_err *err) MK_WARN_UNUSED;
// One event; wall_time in seconds since 1970.  Errors: MK_EIO, MK_ENOMEM.
mk_status mk_tb_add(mk_tb *t, int64_t step, double wall_time, const mk_tb_scalar *s, int64_t n,
                    mk_err *err) MK_WARN_UNUSED;
mk_status mk_tb_commit(mk_tb *t, mk_err *err) MK_WARN_UNUSED;  // frees t whatever happens
void mk_tb_abort(mk_tb *t);                                    // frees t; NULL is fine

// All curves of a run, an event for each step; *n_event: how many.  A log knows how long a step
// took but not when it was: wall times count from 0 the "seconds" of the log, without these the
// steps.
mk_status mk_tb_write_run(const mk_runlog *r, const char *path, int64_t *n_event,
                          mk_err *err) MK_WARN_UNUSED;

// CRC-32C of n bytes.
uint32_t mk_crc32c(const void *p, size_t n);

#endif
