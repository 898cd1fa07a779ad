// Linear layers: activations are prepared once per kind, then all weights run in one parallel
// region over row tiles; with many tokens over groups of tokens first, and where there are more
// tokens than weights over tokens alone.
#include "ops/tape_int.h"

// --- the work ------------------------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    const mk_linear_item *item;
    int64_t n;
} linear_work;

// Items whose tiles' units of cost lie in [lo, hi).
static void run_units(void *arg, int ith, int64_t lo, int64_t hi) {
    const linear_work *w = arg;
    int64_t at = 0;
    (void)ith;
    for (int64_t i = 0; i < w->n && at < hi; i++) {
        // tiles of this item whose first unit of cost lies in [lo, hi)
        const mk_linear_item *it = &w->item[i];
        int64_t first = lo > at ? (lo - at + it->cost - 1) / it->cost : 0;
        int64_t last = (hi - at + it->cost - 1) / it->cost;
        last = last < it->tiles ? last : it->tiles;
        if (first < last) {
            w->k->linear[it->job.w->kind](&it->job, first, last);
        }
        at += it->tiles * it->cost;
    }
}

void mk_ops_run_linears(mk_ops *ops, bool parallel, const mk_linear_item *item, int64_t n) {
    linear_work w = {ops->k, item, n};
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        total += item[i].tiles * item[i].cost;
    }
    mk_ops_run(ops, parallel, total, 1, run_units, &w);
}

// --- preparing the activations -------------------------------------------------------------------
typedef struct {
    const mk_kernels *k;
    mk_prep_job job[MK_X_N];
    mk_x_form form[MK_X_N];
    int64_t n;
    float *r;  // with a norm: of every row
    float eps;
} prep_work;

// Many rows: whole blocks of 8 rows are shared: the sum of squares of a row is then still in the
// cache when the row is normed and rounded.  Few rows: chunks of columns, r being ready.
static void run_prep_blocks(void *arg, int ith, int64_t lo, int64_t hi) {
    const prep_work *w = arg;
    const mk_prep_job *job = &w->job[0];
    int64_t chunks = (job->n_in + MK_X_CHUNK - 1) / MK_X_CHUNK;
    (void)ith;
    for (int64_t b = lo; b < hi; b++) {
        int64_t end = (b + 1) * MK_X_BLOCK < job->n_tok ? (b + 1) * MK_X_BLOCK : job->n_tok;
        for (int64_t t = b * MK_X_BLOCK; job->norm != NULL && t < end; t++) {
            w->r[t] = w->k->rms(job->x + t * job->stride, job->n_in, w->eps);
        }
        for (int64_t i = 0; i < w->n; i++) {
            w->k->prep[w->form[i]](&w->job[i], b * chunks, (b + 1) * chunks);
        }
    }
}

static void run_prep_chunks(void *arg, int ith, int64_t lo, int64_t hi) {
    const prep_work *w = arg;
    (void)ith;
    for (int64_t i = 0; i < w->n; i++) {
        w->k->prep[w->form[i]](&w->job[i], lo, hi);
    }
}

static void run_prep(mk_ops *ops, prep_work *w) {
    const mk_prep_job *job = &w->job[0];
    bool parallel = w->n * job->n_tok * job->n_in >= 16384;  // a few microseconds
    if (job->n_tok >= 2 * MK_X_BLOCK * ops->n_thread) {
        mk_ops_run(ops, parallel, (job->n_tok + MK_X_BLOCK - 1) / MK_X_BLOCK, 1, run_prep_blocks,
                   w);
        return;
    }
    for (int64_t t = 0; job->norm != NULL && t < job->n_tok; t++) {
        w->r[t] = w->k->rms(job->x + t * job->stride, job->n_in, w->eps);
    }
    mk_ops_run(ops, parallel, mk_x_units(job->n_tok, job->n_in), MK_OPS_PREP_GRAIN, run_prep_chunks,
               w);
}

// --- groups of tokens ----------------------------------------------------------------------------
// Many tokens are cut into groups, and a thread takes its group through all weights, because it is
// the thread that prepared these tokens and that will read what comes out: between cores without a
// common cache it takes as long to write a line that the other has read as to round 64 columns.
// Weights are then read once per group, which GROUP_TOKENS bounds.
#define MAX_LINEARS  8
#define MAX_GROUPS   16
#define GROUP_TOKENS 64

static int n_groups(const mk_ops *ops, int64_t n_tok) {
    int64_t n = n_tok / GROUP_TOKENS;
    n = n < ops->n_thread ? n : ops->n_thread;
    return n < 1 ? 1 : n < MAX_GROUPS ? (int)n : MAX_GROUPS;
}

// The tokens of group g: whole blocks, as near to the threads' parts in run_prep as can be.
static mk_linear_item item_of_group(const mk_linear_item *all, int g, int n_group) {
    const mk_weight *w = all->job.w;
    int64_t lo, hi;
    mk_pool_split(all->job.n_tok, MK_X_BLOCK, g, n_group, &lo, &hi);
    mk_linear_item it = *all;
    it.job.x += (size_t)lo * mk_x_row_bytes(mk_weight_form(w), w->n_in);
    it.job.y += lo * it.job.y_stride;
    it.job.n_tok = hi - lo;
    it.cost = (hi - lo + MK_X_BLOCK - 1) / MK_X_BLOCK;
    return it;
}

static void run_grouped(mk_ops *ops, bool parallel, const mk_linear_item *item, int n) {
    mk_linear_item part[MAX_LINEARS * MAX_GROUPS];
    int n_group = n_groups(ops, item->job.n_tok);
    for (int g = 0; g < n_group; g++) {
        for (int i = 0; i < n; i++) {
            part[g * n + i] = item_of_group(&item[i], g, n_group);
        }
    }
    mk_ops_run_linears(ops, parallel, part, n * n_group);
}

// --- by tokens -----------------------------------------------------------------------------------
// In a group of thousands of tokens the activations of every tile would come from memory.  Where
// they are more than the weights (training), threads divide tokens alone, and prepare as many as
// are walked at once just before: the products of narrow matrices go from 77 to 91 % of the peak.
#define TOKEN_UNIT 64
#define TOKEN_RUN  128  // walked at once (ops/cpu/tile.h)

static bool divide_tokens(const mk_ops *ops, const mk_linear_item *item, int64_t n, int64_t n_tok) {
    size_t weights = 0;
    for (int64_t i = 0; i < n; i++) {
        weights += item[i].job.w->mat_bytes;
    }
    size_t tokens = mk_x_row_bytes(MK_X_F32, item->job.w->n_in) * (size_t)n_tok;
    return n_tok >= 2 * TOKEN_RUN * ops->n_thread && tokens >= weights;
}

typedef struct {
    const prep_work *prep;
    const linear_work *linear;
} token_work;

// Tokens [t, t + n); prepared into this thread's part of the room for all.
static void run_token_run(const token_work *w, int ith, int64_t t, int64_t n) {
    const uint8_t *x[MK_X_N] = {NULL};
    for (int64_t i = 0; i < w->prep->n; i++) {
        mk_x_form form = w->prep->form[i];
        prep_work one = {.k = w->prep->k, .n = 1, .form = {form}, .eps = w->prep->eps};
        mk_prep_job *job = &one.job[0];
        *job = w->prep->job[i];
        job->n_tok = n;
        job->x += t * job->stride;
        job->up = job->up != NULL ? job->up + t * job->up_stride : NULL;
        job->r = one.r = job->r != NULL ? w->prep->r + t : NULL;
        job->dst += (size_t)ith * mk_x_bytes(form, TOKEN_RUN, job->n_in);
        run_prep_blocks(&one, ith, 0, (n + MK_X_BLOCK - 1) / MK_X_BLOCK);
        x[form] = job->dst;
    }
    for (int64_t i = 0; i < w->linear->n; i++) {
        mk_linear_job job = w->linear->item[i].job;
        job.x = x[mk_weight_form(job.w)];
        job.n_tok = n;
        job.y += t * job.y_stride;
        w->linear->k->linear[job.w->kind](&job, 0, w->linear->item[i].tiles);
    }
}

static void run_tokens(void *arg, int ith, int64_t lo, int64_t hi) {
    const token_work *w = arg;
    int64_t n_tok = w->prep->job[0].n_tok;
    int64_t end = hi * TOKEN_UNIT < n_tok ? hi * TOKEN_UNIT : n_tok;
    for (int64_t t = lo * TOKEN_UNIT, n; t < end; t += n) {
        n = end - t < TOKEN_RUN ? end - t : TOKEN_RUN;
        run_token_run(w, ith, t, n);
    }
}

// --- operators -----------------------------------------------------------------------------------
// `in` says what is read (x, up, norm); the operators below fill it.
static void linears(mk_ops *ops, const mk_prep_job *in, float eps, const mk_linear *list, int n) {
    mk_ops_op_begin(ops);
    MK_ASSERT(n >= 0 && n <= MAX_LINEARS);
    size_t mark = mk_op_mark(ops);
    uint8_t *prepared[MK_X_N] = {NULL};
    mk_linear_item item[MAX_LINEARS];
    int64_t macs = 0;
    prep_work pw = {.k = ops->k, .eps = eps};
    if (in->norm != NULL) {
        pw.r = mk_ops_take(ops, (size_t)in->n_tok * sizeof *pw.r);
    }
    for (int i = 0; i < n; i++) {
        const mk_weight *w = list[i].w;
        MK_ASSERT(w->n_mat == 1 && w->n_in == in->n_in && w->n_out == list[i].y.n_col &&
                  list[i].y.n_row == in->n_tok);
        mk_x_form form = mk_weight_form(w);
        if (prepared[form] == NULL) {
            prepared[form] = mk_ops_take(ops, mk_x_bytes(form, in->n_tok, in->n_in));
            pw.job[pw.n] = *in;
            pw.job[pw.n].r = pw.r;
            pw.job[pw.n].dst = prepared[form];
            pw.form[pw.n++] = form;
        }
        mk_linear_job job = {w,           w->data,          prepared[form], in->n_tok,
                             list[i].y.p, list[i].y.stride, list[i].bias};
        item[i] = (mk_linear_item){job, mk_weight_tiles(w), 1};
        macs += in->n_tok * in->n_in * w->n_out;
        mk_ops_count_linear(ops, MK_OP_LINEAR, w, in->n_tok, 1);
    }
    if (!ops->dry && in->n_tok > 0 && n > 0) {
        if (divide_tokens(ops, item, n, in->n_tok)) {
            linear_work lw = {ops->k, item, n};
            mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, (in->n_tok + TOKEN_UNIT - 1) / TOKEN_UNIT,
                       1, run_tokens, &(token_work){&pw, &lw});
        } else {
            run_prep(ops, &pw);
            run_grouped(ops, macs >= MK_OPS_PARALLEL_MACS, item, n);
        }
    }
    mk_ops_drop(ops, mark);
    mk_ops_op_end(ops, MK_OP_LINEAR);
}

static mk_prep_job input_of(mk_mat x) {
    return (mk_prep_job){
        .x = x.p, .stride = x.stride, .row_div = 1, .n_tok = x.n_row, .n_in = x.n_col};
}

static bool has_adapter(const mk_linear *list, int n) {
    bool found = false;
    for (int i = 0; i < n; i++) {
        found = found || list[i].w->adapter != NULL;
    }
    return found;
}

static bool has_magnitude(const mk_weight *w) {
    return w->adapter != NULL && w->adapter->magnitude != NULL;
}

// The base products, all together.
static void record_linears(mk_ops *ops, mk_mat x, const mk_linear *list, int n) {
    mk_prep_job in = input_of(x);
    linears(ops, &in, 0, list, n);
    for (int i = 0; ops->recording && i < n; i++) {
        mk_rec r = {.kind = MK_REC_LINEAR, .u.linear = {list[i].y, x, list[i].w, list[i].bias}};
        mk_tape_add(ops, &r);
    }
}

void mk_ops_linear(mk_ops *ops, mk_mat y, mk_mat x, const mk_weight *w, const float *bias) {
    mk_prep_job in = input_of(x);
    linears(ops, &in, 0, &(mk_linear){w, bias, y}, 1);
}

// With magnitudes the sum is scaled before the bias is added.
static void adapted_linears(mk_ops *ops, mk_mat x, const mk_linear *list, int n) {
    size_t mark = mk_op_mark(ops);
    mk_linear sum[MAX_LINEARS] = {{0}};
    MK_ASSERT(n <= MAX_LINEARS);
    for (int i = 0; i < n; i++) {
        sum[i] = list[i];
        if (has_magnitude(list[i].w)) {
            MK_ASSERT(!list[i].w->adapter->of_columns);  // heads only
            sum[i].y = mk_op_new(ops, x.n_row, list[i].y.n_col);
            sum[i].bias = NULL;
        }
    }
    record_linears(ops, x, sum, n);
    for (int i = 0; i < n; i++) {
        if (list[i].w->adapter != NULL) {
            mk_ops_adapt(ops, &(mk_heads){.w = list[i].w, .y = sum[i].y, .x = x, .n_head = 1});
        }
        if (has_magnitude(list[i].w)) {
            mk_ops_magnitude(ops, &(mk_scaled){.ad = list[i].w->adapter,
                                               .y = list[i].y,
                                               .x = sum[i].y,
                                               .bias = list[i].bias,
                                               .n = list[i].y.n_col,
                                               .n_head = 1});
        }
    }
    if (!ops->recording) {
        mk_ops_drop(ops, mark);
    }
}

void mk_op_linears(mk_ops *ops, mk_mat x, const mk_linear *list, int n) {
    (has_adapter(list, n) ? adapted_linears : record_linears)(ops, x, list, n);
}

void mk_op_linear(mk_ops *ops, mk_mat y, mk_mat x, const mk_weight *w, const float *bias) {
    mk_op_linears(ops, x, &(mk_linear){w, bias, y}, 1);
}

// A tape sees the parts: what lies between them is needed on the way back.  Adapters read it too.
void mk_op_normed_linears(mk_ops *ops, mk_normed x, const mk_linear *list, int n) {
    if (ops->recording || has_adapter(list, n)) {
        size_t mark = mk_op_mark(ops);
        mk_mat y = x.x;
        if (x.norm != NULL) {
            y = mk_op_new(ops, x.x.n_row, x.x.n_col);
            mk_op_rmsnorm(ops, y, x.x, x.norm, x.eps);
        }
        mk_op_linears(ops, y, list, n);
        if (!ops->recording) {
            mk_ops_drop(ops, mark);
        }
        return;
    }
    mk_prep_job in = input_of(x.x);
    in.norm = x.norm;
    linears(ops, &in, x.eps, list, n);
}

void mk_op_swiglu_linear(mk_ops *ops, mk_mat y, mk_mat g, mk_mat u, const mk_weight *w) {
    MK_ASSERT(g.n_row == u.n_row && g.n_col == u.n_col);
    if (ops->recording || w->adapter != NULL) {
        size_t mark = mk_op_mark(ops);
        mk_mat h = mk_op_new(ops, g.n_row, g.n_col);
        mk_op_swiglu(ops, h, g, u);
        mk_op_linear(ops, y, h, w, NULL);
        if (!ops->recording) {
            mk_ops_drop(ops, mark);
        }
        return;
    }
    mk_prep_job in = input_of(g);
    in.up = u.p;
    in.up_stride = u.stride;
    linears(ops, &in, 0, &(mk_linear){w, NULL, y}, 1);
}

// The same for a stack of matrices, one per head.
typedef struct {
    const mk_kernels *k;
    const mk_heads *h;
    uint8_t *prepared;
    size_t head_bytes;
} heads_work;

static void prep_heads(void *arg, int ith, int64_t lo, int64_t hi) {
    const heads_work *w = arg;
    const mk_heads *in = w->h;
    int64_t units = mk_x_units(in->x.n_row, in->w->n_in);
    (void)ith;
    for (int64_t u = lo; u < hi;) {
        int64_t h = u / units, end = (h + 1) * units < hi ? (h + 1) * units : hi;
        mk_prep_job job = {.x = in->x.p + h * in->x_head_stride,
                           .stride = in->x.stride,
                           .row_div = 1,
                           .n_tok = in->x.n_row,
                           .n_in = in->w->n_in,
                           .dst = w->prepared + (size_t)h * w->head_bytes};
        w->k->prep[mk_weight_form(in->w)](&job, u - h * units, end - h * units);
        u = end;
    }
}

static void linear_heads(void *arg, int ith, int64_t lo, int64_t hi) {
    const heads_work *w = arg;
    const mk_heads *in = w->h;
    int64_t tiles = mk_weight_tiles(in->w);
    (void)ith;
    for (int64_t u = lo; u < hi;) {
        int64_t h = u / tiles, end = (h + 1) * tiles < hi ? (h + 1) * tiles : hi;
        mk_linear_job job = {in->w,
                             in->w->data + (size_t)(in->mat + h) * in->w->mat_bytes,
                             w->prepared + (size_t)h * w->head_bytes,
                             in->x.n_row,
                             in->y.p + h * in->y_head_stride,
                             in->y.stride,
                             NULL};
        w->k->linear[in->w->kind](&job, u - h * tiles, end - h * tiles);
        u = end;
    }
}

void mk_heads_run(mk_ops *ops, const mk_heads *h) {
    const mk_weight *w = h->w;
    int64_t n_tok = h->x.n_row;
    MK_ASSERT(n_tok == h->y.n_row && h->x.n_col >= (h->n_head - 1) * h->x_head_stride + w->n_in &&
              h->y.n_col >= (h->n_head - 1) * h->y_head_stride + w->n_out);
    size_t mark = mk_op_mark(ops);
    heads_work work = {ops->k, h, NULL, mk_x_bytes(mk_weight_form(w), n_tok, w->n_in)};
    work.prepared = mk_ops_take(ops, work.head_bytes * (size_t)h->n_head);
    if (!ops->dry && n_tok > 0) {
        mk_ops_run(ops, n_tok * w->n_in * h->n_head >= 16384,
                   mk_x_units(n_tok, w->n_in) * h->n_head, MK_OPS_PREP_GRAIN, prep_heads, &work);
        int64_t macs = n_tok * w->n_in * w->n_out * h->n_head;
        mk_ops_run(ops, macs >= MK_OPS_PARALLEL_MACS, mk_weight_tiles(w) * h->n_head, 4,
                   linear_heads, &work);
    }
    mk_ops_drop(ops, mark);
}

static void record_heads(mk_ops *ops, const mk_heads *h) {
    mk_ops_op_begin(ops);
    mk_heads_run(ops, h);
    if (ops->recording) {
        mk_rec r = {.kind = MK_REC_HEADS, .u.heads = *h};
        mk_tape_add(ops, &r);
    }
    mk_ops_count_linear(ops, MK_OP_LINEAR_HEADS, h->w, h->x.n_row * h->n_head, h->n_head);
    mk_ops_op_end(ops, MK_OP_LINEAR_HEADS);
}

// Magnitudes of columns scale x, those of rows the sum.
static void adapted_heads(mk_ops *ops, const mk_heads *h) {
    const mk_adapter *ad = h->w->adapter;
    size_t mark = mk_op_mark(ops);
    mk_heads sum = *h;
    if (ad->magnitude != NULL) {
        int64_t n = ad->of_columns ? h->w->n_in : h->w->n_out, stride = (n + 15) / 16 * 16;
        mk_mat part = mk_op_new(ops, h->x.n_row, h->n_head * stride);
        mk_scaled s = {.ad = ad, .n = n, .n_head = h->n_head};
        if (ad->of_columns) {
            sum.x = s.y = part;
            sum.x_head_stride = s.y_head_stride = stride;
            s.x = h->x;
            s.x_head_stride = h->x_head_stride;
            mk_ops_magnitude(ops, &s);
        } else {
            sum.y = part;
            sum.y_head_stride = stride;
        }
    }
    record_heads(ops, &sum);
    mk_ops_adapt(ops, &sum);
    if (ad->magnitude != NULL && !ad->of_columns) {
        mk_ops_magnitude(ops, &(mk_scaled){.ad = ad,
                                           .y = h->y,
                                           .x = sum.y,
                                           .y_head_stride = h->y_head_stride,
                                           .x_head_stride = sum.y_head_stride,
                                           .n = h->w->n_out,
                                           .n_head = h->n_head});
    }
    if (!ops->recording) {
        mk_ops_drop(ops, mark);
    }
}

void mk_op_linear_heads(mk_ops *ops, mk_mat y, int64_t y_head_stride, mk_mat x,
                        int64_t x_head_stride, const mk_weight *w) {
    MK_ASSERT(x_head_stride >= w->n_in && y_head_stride >= w->n_out);
    mk_heads h = {w, y, x, y_head_stride, x_head_stride, w->n_mat, 0};
    (w->adapter != NULL ? adapted_heads : record_heads)(ops, &h);
}
