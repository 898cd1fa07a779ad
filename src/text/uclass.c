// Building the table of character classes.  See uclass.h.
#include "text/uclass.h"

#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"

typedef struct {
    uint32_t lo, hi;
} cp_range;

// Unicode property White_Space.
static const cp_range white_space[] = {
    {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
};

// Unicode 15 script Han (Scripts.txt); utf8proc does not know scripts.
static const cp_range han[] = {
    {0x2E80, 0x2E99},   {0x2E9B, 0x2EF3},   {0x2F00, 0x2FD5},   {0x3005, 0x3005},
    {0x3007, 0x3007},   {0x3021, 0x3029},   {0x3038, 0x303B},   {0x3400, 0x4DBF},
    {0x4E00, 0x9FFF},   {0xF900, 0xFA6D},   {0xFA70, 0xFAD9},   {0x16FE2, 0x16FE3},
    {0x16FF0, 0x16FF1}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B739}, {0x2B740, 0x2B81D},
    {0x2B820, 0x2CEA1}, {0x2CEB0, 0x2EBE0}, {0x2F800, 0x2FA1D}, {0x30000, 0x3134A},
    {0x31350, 0x323AF},
};

// Blocks the original BERT code calls "Chinese"; 2B920 (not 2B820) is what the tokenizers package
// has.
static const cp_range bert_cjk[] = {
    {0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
    {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F},
};

#define IN(table, cp) in_ranges(table, sizeof(table) / sizeof((table)[0]), cp)

static bool in_ranges(const cp_range *r, size_t n, uint32_t cp) {
    for (size_t i = 0; i < n; i++) {
        if (cp >= r[i].lo && cp <= r[i].hi) {
            return true;
        }
    }
    return false;
}

bool mk_uc_is_white_space(uint32_t cp) {
    return IN(white_space, cp);
}

bool mk_uc_is_bert_cjk(uint32_t cp) {
    return cp >= 0x3400 && IN(bert_cjk, cp);
}

// utf8proc's general categories in the order of its enum (0 = unassigned).
static const uint16_t class_of_category[] = {
    [UTF8PROC_CATEGORY_LU] = MK_C_UP,    [UTF8PROC_CATEGORY_LL] = MK_C_LOW,
    [UTF8PROC_CATEGORY_LT] = MK_C_UP,    [UTF8PROC_CATEGORY_LM] = MK_C_OTHER,
    [UTF8PROC_CATEGORY_LO] = MK_C_OTHER, [UTF8PROC_CATEGORY_MN] = MK_C_MARK,
    [UTF8PROC_CATEGORY_MC] = MK_C_MARK,  [UTF8PROC_CATEGORY_ME] = MK_C_MARK,
    [UTF8PROC_CATEGORY_ND] = MK_C_NUM,   [UTF8PROC_CATEGORY_NL] = MK_C_NUM,
    [UTF8PROC_CATEGORY_NO] = MK_C_NUM,   [UTF8PROC_CATEGORY_PC] = MK_C_PUNCT,
    [UTF8PROC_CATEGORY_PD] = MK_C_PUNCT, [UTF8PROC_CATEGORY_PS] = MK_C_PUNCT,
    [UTF8PROC_CATEGORY_PE] = MK_C_PUNCT, [UTF8PROC_CATEGORY_PI] = MK_C_PUNCT,
    [UTF8PROC_CATEGORY_PF] = MK_C_PUNCT, [UTF8PROC_CATEGORY_PO] = MK_C_PUNCT,
    [UTF8PROC_CATEGORY_SM] = MK_C_SYM,   [UTF8PROC_CATEGORY_SC] = MK_C_SYM,
    [UTF8PROC_CATEGORY_SK] = MK_C_SYM,   [UTF8PROC_CATEGORY_SO] = MK_C_SYM,
    [UTF8PROC_CATEGORY_CC] = MK_C_CTRL,  [UTF8PROC_CATEGORY_CF] = MK_C_CTRL,
    [UTF8PROC_CATEGORY_CS] = MK_C_CTRL,  [UTF8PROC_CATEGORY_CO] = MK_C_CTRL,
};

static uint16_t class_by_category(uint32_t cp) {
    size_t cat = (size_t)utf8proc_category((utf8proc_int32_t)cp);
    size_t n = sizeof class_of_category / sizeof class_of_category[0];
    return (uint16_t)(MK_C_ANY | (cat < n ? class_of_category[cat] : 0));
}

static void add_range(uint16_t *flat, uint32_t lo, uint32_t hi, uint32_t base, unsigned bit) {
    for (uint32_t cp = lo; cp <= hi; cp++) {
        if (cp >= base && cp < base + 256) {
            flat[cp - base] = (uint16_t)(flat[cp - base] | bit);
        }
    }
}

static void add_table(uint16_t *m, const cp_range *r, size_t n, uint32_t base, unsigned bit) {
    for (size_t i = 0; i < n; i++) {
        uint32_t lo = r[i].lo > base ? r[i].lo : base;
        uint32_t hi = r[i].hi < base + 255 ? r[i].hi : base + 255;
        if (lo <= hi) {
            add_range(m, lo, hi, base, bit);
        }
    }
}

static void fill_ascii_extras(uint16_t *m) {
    for (uint32_t c = 0; c < 128; c++) {
        bool az = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool punct = (m[c] & (MK_C_PUNCT | MK_C_SYM)) != 0;
        m[c] = (uint16_t)(m[c] | (az ? MK_C_AZ : 0) | (punct ? MK_C_APUNCT : 0));
    }
    m['\r'] |= MK_C_NL;
    m['\n'] |= MK_C_NL;
    m[' '] |= MK_C_SP;
}

static void fill_block(uint16_t *m, uint32_t base) {
    static const cp_range cjk3[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
    for (uint32_t i = 0; i < 256; i++) {
        m[i] = class_by_category(base + i);
    }
    add_table(m, white_space, sizeof white_space / sizeof white_space[0], base, MK_C_WS);
    add_table(m, han, sizeof han / sizeof han[0], base, MK_C_HAN);
    add_table(m, cjk3, 2, base, MK_C_CJK3);
    if (base == 0) {
        fill_ascii_extras(m);
    }
}

// Planes 4 to 13 are unassigned and 15, 16 private use: one block each stands for all of them.
static uint32_t representative(uint32_t page) {
    uint32_t plane = page >> 8;
    if (plane >= 4 && plane <= 13) {
        return 0x40000;
    }
    return plane >= 15 && (page & 255) != 255 ? 0xF0000 : page << 8;
}

bool mk_uclass_init(mk_uclass *u) {
    memset(u, 0, sizeof *u);
    size_t cap = 512;
    u->block = mk_try_alloc(cap * 256, sizeof *u->block);
    if (!u->block) {
        return false;
    }
    uint32_t last_base = UINT32_MAX;
    for (uint32_t page = 0; page < MK_UC_N_PAGE; page++) {
        uint32_t base = representative(page);
        if (base == last_base) {
            u->page[page] = u->page[page - 1];
            continue;
        }
        last_base = base;
        uint16_t *m = u->block + u->n_block * 256;
        fill_block(m, base);
        size_t at = u->n_block;  // most repeated blocks follow each other (CJK, Hangul, empty)
        if (at > 0 && memcmp(m - 256, m, 256 * sizeof *m) == 0) {
            at--;
        }
        u->page[page] = (uint16_t)at;
        u->n_block = at + 1 > u->n_block ? at + 1 : u->n_block;
        if (u->n_block == cap) {  // cannot happen with Unicode 15 (about 320 blocks)
            mk_uclass_free(u);
            return false;
        }
    }
    memcpy(u->ascii, u->block, sizeof u->ascii);
    return true;
}

void mk_uclass_free(mk_uclass *u) {
    mk_free(u->block);
    u->block = NULL;
}

size_t mk_uc_back(const char *p, size_t at) {
    if (((unsigned char)p[at - 1] & 0xC0) != 0x80) {
        return 1;  // ASCII, or a lead byte without its tail
    }
    for (size_t k = 2; k <= 4 && k <= at; k++) {
        uint32_t cp;
        if (mk_utf8_decode(p + at - k, k, &cp) == (int)k) {
            return k;
        }
    }
    return 1;
}
