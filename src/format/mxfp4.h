// MXFP4 as Hugging Face folders store it (gpt-oss): nibbles and scales in two tensors.
//
// Source: OCP Microscaling Formats v1.0; layout of gpt-oss' checkpoints (gpt_oss/torch/weights.py).
#ifndef MK_FORMAT_MXFP4_H
#define MK_FORMAT_MXFP4_H

#include <stdint.h>

// Re-packs n_block blocks of 32 values into MK_DTYPE_MXFP4 rows, without loss.
// blocks u8 [n_block, 16]: byte j holds element 2j (low nibble) and 2j+1 (high);
// scales u8 [n_block]: E8M0, 2^(b-127);
// dst: n_block * 17 bytes, as GGUF has them (byte j holds elements j and j+16).  dst must not
// overlap the sources.
void mk_mxfp4_from_pair(const uint8_t *blocks, const uint8_t *scales, int64_t n_block,
                        uint8_t *dst);

#endif
