// Matching stop texts in a stream.
#include "chat/stops.h"

#include <stdint.h>
#include <string.h>

#define HELD_MAX_BYTES ((size_t)64 << 20)

void mk_stops_init(mk_stops *s, const char *const *stop, int n_stop) {
    *s = (mk_stops){.stop = stop, .n_stop = n_stop};
    mk_buf_init(&s->held, HELD_MAX_BYTES);
}

void mk_stops_free(mk_stops *s) {
    mk_buf_free(&s->held);
}

// Place of the first complete stop text in p[0..n), or n.
static size_t find_first(mk_stops *s, const char *p, size_t n) {
    size_t at = n;
    for (int i = 0; i < s->n_stop; i++) {
        const char *hit = memmem(p, n, s->stop[i], strlen(s->stop[i]));
        if (hit && (size_t)(hit - p) < at) {
            at = (size_t)(hit - p);
            s->which = i;
        }
    }
    return at;
}

// Length of the longest end of p[0..n) that begins a stop text.
static size_t open_end(const mk_stops *s, const char *p, size_t n) {
    size_t longest = 0;
    for (int i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]);
        size_t k = len - 1 < n ? len - 1 : n;
        for (; k > longest; k--) {
            if (memcmp(p + n - k, s->stop[i], k) == 0) {
                longest = k;
            }
        }
    }
    return longest;
}

bool mk_stops_push(mk_stops *s, const char *text, size_t n, mk_buf *out) {
    if (s->hit || n == 0) {
        return s->hit;
    }
    mk_buf_add(&s->held, text, n);
    if (s->held.failed) {
        return false;  // sticky; the owner looks at it once at the end
    }
    size_t at = find_first(s, s->held.data, s->held.len);
    s->hit = at < s->held.len;
    size_t certain = s->hit ? at : s->held.len - open_end(s, s->held.data, s->held.len);
    mk_buf_add(out, s->held.data, certain);
    memmove(s->held.data, s->held.data + certain, s->held.len - certain + 1);
    s->held.len -= certain;
    return s->hit;
}

void mk_stops_finish(mk_stops *s, mk_buf *out) {
    if (!s->hit && s->held.len > 0) {
        mk_buf_add(out, s->held.data, s->held.len);
    }
    mk_buf_clear(&s->held);
}
