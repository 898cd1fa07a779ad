// Short forms for the rows of a family's tensor table, so that a table reads as one line a tensor.
//
// Names are given without "model.layers.{L}." (folder), "blk.{L}." (GGUF) and ".weight"; fields are
// those of mk_layer; shapes are fields of mk_hparams; `when` is a predicate or NULL.
#ifndef MK_MODEL_TABLE_H
#define MK_MODEL_TABLE_H

#include <stddef.h>

#include "model/config.h"
#include "model/model.h"

#define MK_LAYER_NAMES(hf, gguf, end) "model.layers.{L}." hf end, "blk.{L}." gguf end
#define MK_LAYER_FIELD(field)         offsetof(mk_layer, field)
#define MK_GLOBAL_FIELD(field)        offsetof(mk_globals, field)

// clang-format off
// float32 vector [n]
#define MK_VECTOR(hf, gguf, field, n, when) \
    {MK_LAYER_NAMES(hf, gguf, ".weight"), MK_LAYER_FIELD(field), MK_T_VECTOR, 0, {MK_HP(n)}, 1, when}
// bias [n], with flags
#define MK_BIAS(hf, gguf, field, n, flags) \
    {MK_LAYER_NAMES(hf, gguf, ".bias"), MK_LAYER_FIELD(field), MK_T_VECTOR, flags, {MK_HP(n)}, 1, NULL}
// linear layer [n_out, n_in], a target for adapters
#define MK_LINEAR(hf, gguf, field, n_out, n_in, flags, when) \
    {MK_LAYER_NAMES(hf, gguf, ".weight"), MK_LAYER_FIELD(field), MK_T_LINEAR, MK_T_LORA | (flags), \
     {MK_HP(n_out), MK_HP(n_in)}, 2, when}
// routed experts, each [n_out, n_in]: hf is the projection's name
#define MK_EXPERTS(hf, gguf, field, n_out, n_in, when) \
    {MK_LAYER_NAMES("mlp.experts.{E}." hf, gguf, ".weight"), MK_LAYER_FIELD(field), MK_T_EXPERTS, MK_T_LORA, \
     {MK_HP(n_out), MK_HP(n_in)}, 2, when}
// token table, final norm, output matrix
#define MK_GLOBAL_ROWS \
    {"model.embed_tokens.weight", "token_embd.weight", MK_GLOBAL_FIELD(embed), MK_T_EMBED, MK_T_GLOBAL, \
     {MK_HP(n_vocab), MK_HP(d_model)}, 2, NULL}, \
    {"model.norm.weight", "output_norm.weight", MK_GLOBAL_FIELD(out_norm), MK_T_VECTOR, MK_T_GLOBAL, \
     {MK_HP(d_model)}, 1, NULL}, \
    {"lm_head.weight", "output.weight", MK_GLOBAL_FIELD(output), MK_T_LINEAR, MK_T_GLOBAL | MK_T_TIED, \
     {MK_HP(n_vocab), MK_HP(d_model)}, 2, NULL}
// clang-format on

#endif
