// The product of an adapter's matrices, added to a tile of 16 rows of a weight.
//
//     acc = fma(B[o,k], A[k,i], acc) from 0, k ascending;   W[o,i] = fma(scale, acc, W[o,i])
//
// Only merging and the lengths of DoRA's rows come here; a forward never forms B A.  Lanes are
// output rows.  A tile of A is [n_in][16]: the values of 16 k lie side by side.
#include "ops/cpu/cpu.h"

void MK_FN(low_rank)(const mk_adapter *ad, const float *b, const float *a, int64_t col, int64_t n,
                     float *out) {
    const int64_t rank = ad->a.n_out, n_in = ad->a.n_in;
    const v16f scale = vf_set1(ad->scale);
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {  // four columns share a load of b and hide the FMAs' latency
        v16f acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        for (int64_t k = 0; k < rank; k++) {
            const float *ak = a + (k / 16 * n_in + col + i) * 16 + k % 16;
            v16f bk = vf_load(b + 16 * k);
            MK_UNROLL for (int c = 0; c < 4; c++) {
                acc[c] = vf_fma(bk, vf_set1(ak[16 * c]), acc[c]);
            }
        }
        MK_UNROLL for (int c = 0; c < 4; c++) {
            vf_store(out + 16 * (i + c), vf_fma(scale, acc[c], vf_load(out + 16 * (i + c))));
        }
    }
    for (; i < n; i++) {
        v16f acc = vf_zero();
        for (int64_t k = 0; k < rank; k++) {
            acc = vf_fma(vf_load(b + 16 * k), vf_set1(a[(k / 16 * n_in + col + i) * 16 + k % 16]),
                         acc);
        }
        vf_store(out + 16 * i, vf_fma(scale, acc, vf_load(out + 16 * i)));
    }
}
