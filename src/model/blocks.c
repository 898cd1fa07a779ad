// Shared parts of forward passes.
#include "model/blocks.h"

#include "base/pool.h"
#include "base/status.h"
#include "ops/tape.h"

mk_mat mk_block_embed(const mk_model *m, mk_ops *ops, const mk_batch *b) {
    const mk_tensor_view *e = m->globals.embed;
    mk_mat x = mk_op_new(ops, b->rows.n_tok, m->hp.d_model);
    mk_op_embed(ops, x, e->data, e->dtype, e->n_bytes / (size_t)e->shape[0],
                b->ids);  // [n_tok, d_model]
    mk_op_tap(ops, "embed", -1, x);
    return x;
}

mk_mat mk_block_angles(const mk_model *m, mk_ops *ops, const mk_batch *b) {
    int64_t n_dim = m->arch->rope_dims(&m->hp);
    mk_mat cs = mk_op_new(ops, b->rows.n_tok, n_dim);
    mk_op_rope_angles(ops, cs, b->rows.pos, m->inv_freq, n_dim / 2,
                      m->rope_cs_factor);  // [n_tok, n_dim]
    return cs;
}

mk_mat mk_block_attention(const mk_model *m, mk_ops *ops, int layer, mk_mat x, mk_mat cs,
                          const mk_batch *b) {
    const mk_hparams *hp = &m->hp;
    const mk_layer *w = &m->layer[layer];
    mk_attn attn = mk_model_attn(m, layer, b->kv_type);
    mk_mat out = mk_op_new(ops, x.n_row, hp->d_model);
    size_t mark = mk_op_mark(ops);
    mk_mat q = mk_op_new(ops, x.n_row, hp->n_q), k = mk_op_new(ops, x.n_row, hp->n_kv);
    mk_mat v = mk_op_new(ops, x.n_row, hp->n_kv), y = mk_op_new(ops, x.n_row, hp->n_q);

    mk_linear qkv[] = {{&w->wq, w->bq, q}, {&w->wk, w->bk, k}, {&w->wv, w->bv, v}};
    mk_normed in = {x, w->attn_norm, (float)hp->rms_eps};
    mk_op_normed_linears(ops, in, qkv, 3);  // [n_tok, n_q], [n_tok, n_kv] x 2
    mk_rope rope = {hp->n_head, hp->d_head, 0, cs.n_col / 2, MK_ROPE_HALF};
    mk_op_rope(ops, q, &rope, cs);  // [n_tok, n_q]
    rope.n_head = hp->n_kv_head;
    mk_op_rope(ops, k, &rope, cs);  // [n_tok, n_kv]
    mk_op_tap(ops, "q", layer, q);
    mk_op_tap(ops, "k", layer, k);
    mk_op_kv_store(ops, &attn, b->kv[layer], &b->rows, k, v);
    mk_op_attention(ops, y, q, &attn, b->kv[layer], &b->rows);  // [n_tok, n_q]
    mk_op_tap(ops, "attn", layer, y);
    mk_op_linear(ops, out, y, &w->wo, w->bo);  // [n_tok, d_model]

    mk_op_release(ops, mark);
    return out;
}

// Rows of a thread at a time: as many as a linear layer takes per pass over its weights, so that
// cutting a long batch reads nothing twice, and what lies between the layers stays in the caches.
#define SLICE 128

mk_mat mk_block_swiglu(mk_ops *ops, mk_normed x, const mk_weight *gate, const mk_weight *up,
                       const mk_weight *down) {
    int64_t n_tok = x.x.n_row, slice = SLICE * (int64_t)mk_pool_n_thread(mk_ops_pool(ops));
    int64_t most = n_tok < slice || mk_ops_is_recording(ops) ? n_tok : slice;
    mk_mat out = mk_op_new(ops, n_tok, down->n_out);
    size_t mark = mk_op_mark(ops);
    mk_mat g = mk_op_new(ops, most, gate->n_out), u = mk_op_new(ops, most, up->n_out);
    for (int64_t t = 0; t < n_tok; t += most) {
        int64_t n = n_tok - t < most ? n_tok - t : most;
        mk_mat gn = mk_mat_rows(g, 0, n), un = mk_mat_rows(u, 0, n);
        mk_linear both[] = {{gate, NULL, gn}, {up, NULL, un}};
        mk_normed in = {mk_mat_rows(x.x, t, n), x.norm, x.eps};
        mk_op_normed_linears(ops, in, both, 2);                          // [n, d_ff] x 2
        mk_op_swiglu_linear(ops, mk_mat_rows(out, t, n), gn, un, down);  // [n, d_model]
    }
    mk_op_release(ops, mark);
    return out;
}

mk_mat mk_block_logits(const mk_model *m, mk_ops *ops, mk_mat x, const float *norm,
                       const mk_batch *b) {
    if (b->hidden) {
        *b->hidden = x;
    }
    mk_mat last = mk_op_new(ops, b->n_out, m->hp.d_model);
    for (int64_t i = 0, n; i < b->n_out; i += n) {  // rows that follow each other at once
        for (n = 1; i + n < b->n_out && b->out_rows[i + n] == b->out_rows[i] + n; n++) {
        }
        mk_op_copy(ops, mk_mat_rows(last, i, n), mk_mat_rows(x, b->out_rows[i], n));
    }
    mk_op_rmsnorm(ops, last, last, norm, (float)m->hp.rms_eps);  // [n_out, d_model]
    mk_op_tap(ops, "final_norm", -1, last);
    mk_mat logits = mk_op_new(ops, b->n_out, m->hp.n_vocab);
    mk_op_linear(ops, logits, last, &m->globals.output, NULL);  // [n_out, n_vocab]
    mk_op_tap(ops, "logits", -1, logits);
    return logits;
}
