#include "base/secret.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { MOST_AT_ONCE = 256, N_DIGIT = 62 };  // getentropy gives no more in one call

mk_status mk_secret_bytes(void *p, size_t n, mk_err *err) {
    unsigned char *to = p;
    for (size_t i = 0; i < n; i += MOST_AT_ONCE) {
        if (getentropy(to + i, n - i < MOST_AT_ONCE ? n - i : MOST_AT_ONCE) != 0) {
            mk_status st = MK_FAIL(err, MK_EIO,
                                   "no random numbers from the system (%s): nothing secret can be "
                                   "made",
                                   strerror(errno));
            memset(p, 0, n);
            return st;
        }
    }
    return MK_OK;
}

mk_status mk_secret_text(char *out, size_t n, mk_err *err) {
    static const char digit[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    size_t at = 0;
    while (at < n) {
        unsigned char random[64];
        mk_status st = mk_secret_bytes(random, sizeof random, err);
        if (st != MK_OK) {
            memset(out, 0, n + 1);
            return st;
        }
        for (size_t i = 0; i < sizeof random && at < n; i++) {
            if (random[i] < 256 / N_DIGIT * N_DIGIT) {  // the rest would make some digits likelier
                out[at++] = digit[random[i] % N_DIGIT];
            }
        }
    }
    out[n] = 0;
    return MK_OK;
}
