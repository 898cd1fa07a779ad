// Character classes for splitting text: one 16-bit mask per code point, looked up in two steps.
//
// The general categories come from utf8proc (Unicode 15), White_Space and the script Han from
// tables in uclass.c.  A byte that is not valid UTF-8 is one unit of length 1 with the class of
// U+FFFD (a symbol), so every function here accepts any bytes.  Character boundaries do not depend
// on what stands before: a lead byte never occurs inside a character.
#ifndef MK_TEXT_UCLASS_H
#define MK_TEXT_UCLASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/utf8.h"

enum {
    MK_C_UP = 1 << 0,       // Lu Lt
    MK_C_LOW = 1 << 1,      // Ll
    MK_C_OTHER = 1 << 2,    // Lm Lo
    MK_C_MARK = 1 << 3,     // M
    MK_C_NUM = 1 << 4,      // N
    MK_C_PUNCT = 1 << 5,    // P
    MK_C_SYM = 1 << 6,      // S
    MK_C_WS = 1 << 7,       // White_Space
    MK_C_NL = 1 << 8,       // \r \n
    MK_C_HAN = 1 << 9,      // script Han
    MK_C_SP = 1 << 10,      // U+0020
    MK_C_AZ = 1 << 11,      // A-Z a-z
    MK_C_APUNCT = 1 << 12,  // ASCII punctuation and symbols
    MK_C_CJK3 = 1 << 13,    // U+4E00-9FA5, kana: the second rule of deepseek-v3
    MK_C_CTRL = 1 << 14,    // C except unassigned
    MK_C_ANY = 1 << 15,     // every character
    MK_C_LETTER = MK_C_UP | MK_C_LOW | MK_C_OTHER
};

#define MK_UC_N_PAGE 0x1100

typedef struct {
    uint16_t ascii[128];
    uint16_t page[MK_UC_N_PAGE];  // code point >> 8 -> index of a block of 256 masks
    uint16_t *block;              // owned
    size_t n_block;
} mk_uclass;

// Fills *u (about 2 ms).  false when memory is gone.
MK_WARN_UNUSED bool mk_uclass_init(mk_uclass *u);
void mk_uclass_free(mk_uclass *u);

MK_INLINE uint16_t mk_uclass_of(const mk_uclass *u, uint32_t cp) {
    return u->block[(size_t)u->page[cp >> 8] * 256 + (cp & 255)];
}

// Length (1..4) of the unit at p[0..n), n > 0, with its code point (U+FFFD for a bad byte).
MK_INLINE size_t mk_uc_step(const char *p, size_t n, uint32_t *cp) {
    unsigned char b = (unsigned char)*p;
    if (MK_LIKELY(b < 0x80)) {
        *cp = b;
        return 1;
    }
    int k = mk_utf8_decode(p, n, cp);
    return k > 0 ? (size_t)k : 1;
}

// The same with the class mask instead of the code point.
MK_INLINE size_t mk_uc_next(const mk_uclass *u, const char *p, size_t n, uint16_t *cls) {
    unsigned char b = (unsigned char)*p;
    if (MK_LIKELY(b < 0x80)) {
        *cls = u->ascii[b];
        return 1;
    }
    uint32_t cp;
    int k = mk_utf8_decode(p, n, &cp);
    *cls = mk_uclass_of(u, cp);
    return k > 0 ? (size_t)k : 1;
}

// Length of the unit that ends at p + at (at > 0).
size_t mk_uc_back(const char *p, size_t at);

bool mk_uc_is_white_space(uint32_t cp);
bool mk_uc_is_bert_cjk(uint32_t cp);  // the CJK blocks that BERT puts spaces around

#endif
