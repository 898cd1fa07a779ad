// Any bytes as a safetensors file: opening must refuse or give views that can be read to the last
// byte.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "format/safetensors.h"

static volatile uint8_t sink;

static void touch(const void *p, size_t n) {
    const uint8_t *b = p;
    uint8_t x = 0;
    for (size_t i = 0; i < n; i++) {
        x ^= b[i];
    }
    sink = x;
}

static void read_tensor(const mk_tensor_view *t, size_t n_file) {
    float out[16];
    MK_ASSERT(t->n_dim >= 0 && t->n_dim <= MK_MAX_DIMS && t->n_bytes <= n_file);
    touch(t->data, t->n_bytes);
    int64_t n = (int64_t)t->n_bytes / mk_dtype_get((int64_t)t->dtype)->block_bytes;
    if (mk_dtype_is_float(t->dtype)) {
        n = n < 16 ? n : 16;
        mk_dtype_to_f32(t->dtype, t->data, n, out);
        touch(out, (size_t)n * sizeof(float));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    mk_safetensors *s = NULL;
    mk_err err = {0};
    int64_t live = mk_alloc_live();
    if (mk_safetensors_open_memory(data, n, "input", &s, &err) == MK_OK) {
        size_t sum = 0;
        for (int64_t i = 0; i < mk_safetensors_n_tensor(s); i++) {
            const mk_tensor_view *t = mk_safetensors_tensor(s, i);
            MK_ASSERT(mk_safetensors_find(s, t->name) == t);
            read_tensor(t, n);
            sum += t->n_bytes;
        }
        MK_ASSERT(sum < n);  // no byte is served twice
        mk_safetensors_close(s);
    } else {
        MK_ASSERT(s == NULL && err.msg[0] != '\0');
    }
    MK_ASSERT(mk_alloc_live() == live);
    return 0;
}
