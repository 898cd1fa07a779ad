// Parts that architectures share.  Shapes at the end of each line; decode is n_tok = 1.
#ifndef MK_MODEL_BLOCKS_H
#define MK_MODEL_BLOCKS_H

#include "model/model.h"

// x[n_tok, d_model]: token embeddings of the batch.
mk_mat mk_block_embed(const mk_model *m, mk_ops *ops, const mk_batch *b);

// cos and sin of every row: [n_tok, rope_dims].
mk_mat mk_block_angles(const mk_model *m, mk_ops *ops, const mk_batch *b);

// Grouped-query attention over x through the layer's attn_norm: y[n_tok, d_model].  Half-split
// rotation.
mk_mat mk_block_attention(const mk_model *m, mk_ops *ops, int layer, mk_mat x, mk_mat cs,
                          const mk_batch *b);

// down(silu(gate x) * up x): y[n_tok, d_model].
mk_mat mk_block_swiglu(mk_ops *ops, mk_normed x, const mk_weight *gate, const mk_weight *up,
                       const mk_weight *down);

// Final norm and output matrix for the wanted rows only: logits[n_out, n_vocab].  Gives the caller
// of the pass x, if that is wanted.
mk_mat mk_block_logits(const mk_model *m, mk_ops *ops, mk_mat x, const float *norm,
                       const mk_batch *b);

#endif
