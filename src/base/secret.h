// Bytes and texts that nobody can guess: keys, ids that open something.
//
// They come from the system's generator and from nowhere else: where it has none to give, that is
// an error and not a weaker number.  mk_rng_u64 (mathx.h) is for what must be the same again; who
// has seen a few of its numbers knows all of them.  Any thread.
#ifndef MK_BASE_SECRET_H
#define MK_BASE_SECRET_H

#include <stddef.h>

#include "base/status.h"

// Errors: MK_EIO; then the bytes are zero.
mk_status mk_secret_bytes(void *p, size_t n, mk_err *err) MK_WARN_UNUSED;
// n of the 62 digits and letters of ASCII, each equally likely, and a NUL behind them.  Errors:
// MK_EIO; then the text is empty.
mk_status mk_secret_text(char *out, size_t n, mk_err *err) MK_WARN_UNUSED;

#endif
