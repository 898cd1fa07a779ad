// Any bytes as a checkpoint: opening must refuse them or give sections that can be read to the last
// byte.
//
// The input is a whole file.  If its first byte is odd, magic, size and hashes of header and table
// are made right, so that the checks behind them are reached.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "train/ckpt.h"

enum { HEADER = 64, AT_TABLE_BYTES = 16, AT_FILE_BYTES = 24, AT_TABLE_HASH = 48, AT_HASH = 56 };

static volatile uint8_t sink;

static void touch(const void *p, size_t n) {
    const uint8_t *b = p;
    uint8_t x = 0;
    for (size_t i = 0; i < n; i++) {
        x ^= b[i];
    }
    sink = x;
}

static void put(uint8_t *p, uint64_t v) {
    memcpy(p, &v, sizeof v);
}

static void sign(uint8_t *file, size_t n) {
    uint64_t table;
    memcpy(file, "minkecp\n", 8);
    put(file + AT_FILE_BYTES, n);
    memcpy(&table, file + AT_TABLE_BYTES, sizeof table);
    table = table % (n - HEADER + 1);
    put(file + AT_TABLE_BYTES, table);
    put(file + AT_TABLE_HASH, mk_hash64(file + HEADER, table, 0));
    put(file + AT_HASH, mk_hash64(file, AT_HASH, 0));
}

static void read_all(const mk_ckpt *c) {
    int64_t n;
    const mk_ckpt_section *s = mk_ckpt_sections(c, &n);
    for (int64_t i = 0; i < n; i++) {
        size_t rows = 1, bytes = 0;
        for (int d = 0; d + 1 < s[i].n_dim; d++) {
            rows *= (size_t)s[i].shape[d];
        }
        bool ok = mk_dtype_row_bytes(s[i].dtype, s[i].shape[s[i].n_dim - 1], &bytes);
        MK_ASSERT(ok && mk_ckpt_find(c, s[i].name) == &s[i]);
        touch(s[i].data, rows * bytes);
    }
    MK_ASSERT(json_is_object(mk_ckpt_get_head(c).run));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int64_t live = mk_alloc_live();
    uint8_t *file = mk_alloc(n > 0 ? n : 1);
    memcpy(file, data, n);
    if (n >= HEADER && (data[0] & 1)) {
        sign(file, n);
    }
    mk_ckpt *c = NULL;
    mk_err err = {0};
    if (mk_ckpt_open_memory(file, n, "input", &c, &err) == MK_OK) {
        read_all(c);
        mk_ckpt_close(c);
    } else {
        MK_ASSERT(c == NULL && err.msg[0] != '\0');
    }
    mk_free(file);
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
