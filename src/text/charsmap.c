// The replacement table of SentencePiece ("precompiled charsmap"): a double-array trie over UTF-8
// keys and a list of NUL-terminated replacements.
//
// Blob: u32 bytes of the array, the array (u32 units), the replacements.  Unit: bits 0-7 label, bit
// 8 "a key ends here", bit 9 scale of the offset, bits 10-30 offset, bit 31 set on value units
// (bits 0-30 = place of the replacement). Source: darts-clone's unit layout.  Every index is
// checked, so a hostile blob can only give wrong text.
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

mk_status mk_charsmap_init(mk_charsmap *c, const char *blob, size_t n, mk_err *err) {
    uint32_t n_array = 0;
    if (n >= 4) {
        memcpy(&n_array, blob, 4);
    }
    if (n < 8 || n_array < 4 || n_array % 4 != 0 || n_array > n - 4) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "precompiled charsmap of %zu bytes names a trie of %u bytes", n, n_array);
    }
    c->blob = mk_try_alloc(n + 1, 1);  // the NUL behind ends the last replacement
    if (!c->blob) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a charsmap of %zu bytes", n);
    }
    memcpy(c->blob, blob, n);
    c->n_blob = n;
    c->n_unit = n_array / 4;
    c->at_text = 4 + (size_t)n_array;
    return MK_OK;
}

static uint32_t unit_at(const mk_charsmap *c, uint32_t i) {
    uint32_t u = 0;
    if (i < c->n_unit) {
        memcpy(&u, c->blob + 4 + 4 * (size_t)i, 4);
    }
    return u;
}

static uint32_t offset_of(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

size_t mk_charsmap_find(const mk_charsmap *c, const char *p, size_t n, bool shortest,
                        const char **to, size_t *n_to) {
    size_t best = 0, at = 0;
    uint32_t node = offset_of(unit_at(c, 0));
    for (size_t i = 0; i < n && p[i] != 0 && !(shortest && best > 0); i++) {
        uint32_t b = (unsigned char)p[i];
        node ^= b;
        uint32_t unit = unit_at(c, node);
        if ((unit & 0x800000FFu) != b) {
            break;
        }
        node ^= offset_of(unit);
        if (unit & (1u << 8)) {
            at = unit_at(c, node) & 0x7FFFFFFFu;
            best = i + 1;
        }
    }
    if (best == 0 || at >= c->n_blob - c->at_text) {
        return 0;
    }
    *to = c->blob + c->at_text + at;
    *n_to = strlen(*to);
    return best;
}
