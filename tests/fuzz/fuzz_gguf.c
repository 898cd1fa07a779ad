// Any bytes as a GGUF file: opening must refuse or give views that can be read to the last byte.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "format/gguf.h"

enum { MAX_SUM = 1 << 20 };

static volatile uint8_t sink;

static void touch(const void *p, size_t n) {
    const uint8_t *b = p;
    uint8_t x = 0;
    for (size_t i = 0; i < n; i++) {
        x ^= b[i];
    }
    sink = x;
}

static void read_array(const mk_gguf *g, const char *key) {
    mk_gguf_str *strs = NULL;
    int64_t n = 0, v = 0;
    double d = 0;
    if (mk_gguf_arr_strs(g, key, &strs, &n, NULL) == MK_OK) {
        for (int64_t i = 0; i < n; i++) {
            touch(strs[i].p, strs[i].n);
        }
        mk_free(strs);
    }
    n = mk_gguf_arr_len(g, key);
    for (int64_t i = -1; i <= n; i += n > 64 ? n / 64 : 1) {
        mk_status st = mk_gguf_arr_i64(g, key, i, &v, NULL);
        st = mk_gguf_arr_f64(g, key, i, &d, NULL);
        (void)st;
    }
}

static void read_value(const mk_gguf *g, int64_t i) {
    const char *key = mk_gguf_key(g, i);
    mk_err err = {0};
    int64_t v = 0;
    double d = 0;
    bool b = false;
    mk_gguf_str s = {0};
    MK_ASSERT(mk_gguf_find(g, key) == i);
    MK_ASSERT(mk_gguf_get_i64(g, key, -5, 100, &v, &err) == MK_OK || err.msg[0] != '\0');
    MK_ASSERT(mk_gguf_get_f64(g, key, &d, &err) == MK_OK || err.msg[0] != '\0');
    MK_ASSERT(mk_gguf_get_bool(g, key, &b, &err) == MK_OK || err.msg[0] != '\0');
    if (mk_gguf_get_str(g, key, &s, &err) == MK_OK) {
        touch(s.p, s.n);
    }
    read_array(g, key);
}

// All bytes, and the first rows as float32.
static void read_tensor(const mk_tensor_view *t) {
    float out[256];
    touch(t->data, t->n_bytes < MAX_SUM ? t->n_bytes : MAX_SUM);
    touch(t->data + t->n_bytes - 1, 1);
    const mk_dtype_info *info = mk_dtype_get((int64_t)t->dtype);
    if (mk_dtype_is_float(t->dtype)) {
        mk_dtype_to_f32(t->dtype, t->data, info->block, out);
        touch(out, (size_t)info->block * sizeof(float));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    mk_gguf *g = NULL;
    mk_err err = {0};
    int64_t live = mk_alloc_live();
    if (mk_gguf_open_memory(data, n, "input", &g, &err) == MK_OK) {
        for (int64_t i = 0; i < mk_gguf_n_kv(g); i++) {
            read_value(g, i);
        }
        for (int64_t i = 0; i < mk_gguf_n_tensor(g); i++) {
            const mk_tensor_view *t = mk_gguf_tensor(g, i);
            MK_ASSERT(mk_gguf_find_tensor(g, t->name) == t);
            read_tensor(t);
        }
        mk_gguf_close(g);
    } else {
        MK_ASSERT(g == NULL && err.msg[0] != '\0');
    }
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
