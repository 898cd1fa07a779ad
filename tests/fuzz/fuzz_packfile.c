// Any index and trailer in a packed file: opening must refuse or give weights that can be read to
// the last byte.
//
// The input is a trailer (128 bytes) and an index.  They are put behind three pages and signed, so
// that the checks behind the hashes are reached; if the trailer's first byte is odd, the sizes in
// it are made right as well.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mathx.h"
#include "format/packfile.h"

enum { PAGES = 3 * MK_PACKFILE_ALIGN, TRAILER = 128 };
enum { AT_FILE_BYTES = 24, AT_INDEX = 32, AT_INDEX_BYTES = 40, AT_INDEX_HASH = 72, AT_HASH = 120 };

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

// Hashes of index and trailer, and the magic, made right.
static void sign(uint8_t *file, size_t n_index) {
    uint8_t *t = file + PAGES + n_index;
    memcpy(file, "minkepk\n", 8);
    memcpy(t, "minkepk\n", 8);
    put(t + AT_INDEX_HASH, mk_hash64(file + PAGES, n_index, 0));
    put(t + AT_HASH, mk_hash64(t, AT_HASH, 0));
}

static void read_all(const mk_packfile *f) {
    const mk_packfile_head *h = mk_packfile_get_head(f);
    touch(h->model, strlen(h->model));
    for (int64_t i = 0; i < h->n_source; i++) {
        touch(h->source[i].path, strlen(h->source[i].path));
    }
    for (int64_t i = 0; i < mk_packfile_n_entry(f); i++) {
        const mk_packfile_entry *e = mk_packfile_get_entry(f, i);
        touch(mk_packfile_data(f, i), (size_t)e->n_mat * e->mat_bytes);
    }
    mk_status st = mk_packfile_verify(f, NULL, NULL, NULL);
    MK_ASSERT(st == MK_OK || st == MK_ECORRUPT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < TRAILER) {
        return 0;
    }
    int64_t live = mk_alloc_live();
    size_t n_index = n - TRAILER, n_file = PAGES + n;
    uint8_t *file = mk_zalloc(n_file), *t = file + PAGES + n_index;
    memcpy(t, data, TRAILER);
    memcpy(file + PAGES, data + TRAILER, n_index);
    if (data[0] & 1) {
        put(t + AT_FILE_BYTES, n_file);
        put(t + AT_INDEX, PAGES);
        put(t + AT_INDEX_BYTES, n_index);
    }
    sign(file, n_index);
    mk_packfile *f = NULL;
    mk_err err = {0};
    if (mk_packfile_open_memory(file, n_file, "input", &f, &err) == MK_OK) {
        read_all(f);
        mk_packfile_close(f);
    } else {
        MK_ASSERT(f == NULL && err.msg[0] != '\0');
    }
    mk_free(file);
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
