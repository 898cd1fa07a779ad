// Recorded passes, gradients, updates.
//
// Invariants
//  1. gradients of all trained parameters lie in one block, zero after create and after an update;
//  2. what the model holds twice has two gradients: a tied token table one of its rows and one of
//     the output matrix in the kernels' layout, an adapter's matrix one of its transposed copy; and
//     what the prediction layer uses as well, the global parameters, has those of its uses behind
//     them; they become one before an update;
//  3. between calls every sequence of the engine is closed.
#include "train/trainer.h"

#include <string.h>

#include "base/alloc.h"

enum { PART_MTP = 1 };  // of the tape: what the prediction layer does

// How often the experts of one layer were chosen since the last update.
typedef struct {
    const mk_param *bias;
    int64_t *count;  // [n_expert]
} balance;

// The gradient of some uses of a parameter, to be added to that of the others.
typedef struct {
    float *to, *from;
    size_t n;
} shared_grad;
#define MAX_SHARED 8  // more than there are global parameters

// A parameter that the model holds twice: the gradient of the second place is added to the first's.
typedef struct {
    const mk_param *p;
    float *to, *from;
} twice;

struct mk_trainer {
    mk_trainer_opts o;
    mk_tape *tape;
    mk_engine *engine;
    mk_params *own;           // of the model; NULL with adapters
    const mk_params *params;  // own, or the adapters'
    mk_optim *optim;
    mk_optim_param *trained;  // [n_trained]
    int64_t n_trained;
    float *grads;  // of all of them, one after the other
    size_t grads_bytes;
    twice *twice;  // [n_twice]
    int64_t n_twice;
    shared_grad shared[MAX_SHARED];
    int n_shared;
    mk_mtp *mtp;       // or NULL
    balance *balance;  // [n_balance]
    int64_t n_balance;
    double imbalance;
    mk_ckpt_section *state;
    char **state_name;  // those that are ours
    int64_t n_state, n_own;
    // one pass
    int32_t *target;               // [n_row]
    uint8_t *want;                 // [n_row]
    float *logp, *weight;          // [n_row]
    mk_step *step;                 // [n_seq]
    int *seq;                      // [n_seq]
    const mk_train_pass *passing;  // in the engine's callback
    int64_t n_target;
};

static mk_trainer_opts checked(const mk_trainer_opts *o) {
    MK_ASSERT(o->n_ctx > 0 && o->n_row >= o->n_ctx && o->n_seq > 0 && o->model && o->pool);
    return *o;
}

// --- what is trained -----------------------------------------------------------------------------

static bool is_trained(const mk_trainer *tr, const mk_param *p) {
    bool used = p->layer < tr->o.model->hp.n_layer || tr->o.mtp_weight > 0;
    return p->p != NULL && !p->is_select_bias && used;
}

static size_t grad_floats(const mk_param *p) {
    return ((size_t)p->n_float + 15) / 16 * 16;
}

static bool is_shared(const mk_trainer *tr, const mk_param *p) {
    return tr->o.mtp_weight > 0 && p->layer < 0;
}

// Where a parameter's values are a second time, or NULL.
static const mk_weight *second(const mk_param *p) {
    return p->tied ? p->w : p->copy;
}

static size_t second_floats(const mk_param *p) {
    return second(p) ? (mk_grad_floats(second(p)) + 15) / 16 * 16 : 0;
}

// All gradients of one parameter: the second place's behind the first's, then once more those of
// the prediction layer's uses.
static size_t all_grad_floats(const mk_trainer *tr, const mk_param *p) {
    size_t n = grad_floats(p) + second_floats(p);
    return !is_trained(tr, p) ? 0 : is_shared(tr, p) ? 2 * n : n;
}

static size_t sum_of_grad_floats(const mk_trainer *tr) {
    size_t n = 0;
    for (int64_t i = 0; i < tr->params->n; i++) {
        n += all_grad_floats(tr, &tr->params->list[i]);
    }
    return n;
}

static mk_optim_param optim_param(const mk_param *p, float *g) {
    bool matrix = p->kind == MK_PARAM_MATRIX;
    return (mk_optim_param){.name = p->name,
                            .p = p->p,
                            .g = g,
                            .n = p->n_float,
                            .decay = !p->is_norm_or_bias,
                            .keep_f32 = p->kind == MK_PARAM_EMBED,
                            .lr_factor = 1,
                            .n_mat = matrix && !p->is_router ? p->n_mat : 0,
                            .n_out = p->n_out,
                            .n_in = p->n_in};
}

// Tells the tape where the gradients of uses in `part` go: values at g, the second place behind
// them.
static void want_grad(mk_trainer *tr, int part, const mk_param *p, float *g) {
    const void *values = p->kind == MK_PARAM_MATRIX ? (const void *)p->w->data : p->p;
    mk_tape_want_in(tr->tape, part, values, g);
    if (second(p)) {
        mk_tape_want_in(tr->tape, part, second(p)->data, g + grad_floats(p));
    }
}

static void place_grad(mk_trainer *tr, const mk_param *p, float *g) {
    want_grad(tr, 0, p, g);
    tr->trained[tr->n_trained++] = optim_param(p, g);
    if (second(p)) {
        tr->twice[tr->n_twice++] = (twice){p, g, g + grad_floats(p)};
    }
    if (is_shared(tr, p)) {
        size_t n = all_grad_floats(tr, p) / 2;
        MK_ASSERT(tr->n_shared < MAX_SHARED);
        want_grad(tr, PART_MTP, p, g + n);
        tr->shared[tr->n_shared++] = (shared_grad){g, g + n, n};
    }
}

static mk_status make_gradients(mk_trainer *tr, mk_err *err) {
    size_t floats = sum_of_grad_floats(tr);
    if (!mk_mul_size(floats, sizeof *tr->grads, &tr->grads_bytes) ||
        !(tr->grads = mk_big_alloc(tr->grads_bytes))) {
        tr->grads_bytes = 0;
        return MK_FAIL(err, MK_ENOMEM, "no memory for the gradients of %zu parameters", floats);
    }
    tr->trained = mk_try_alloc((size_t)tr->params->n, sizeof *tr->trained);
    tr->twice = mk_try_alloc((size_t)tr->params->n, sizeof *tr->twice);
    if (!tr->trained || !tr->twice) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld parameters", (long long)tr->params->n);
    }
    float *g = tr->grads;
    for (int64_t i = 0; i < tr->params->n; i++) {
        const mk_param *p = &tr->params->list[i];
        if (is_trained(tr, p)) {
            place_grad(tr, p, g);
            g += all_grad_floats(tr, p);
        }
    }
    return MK_OK;
}

// --- balancing -----------------------------------------------------------------------------------

static void count_route(void *arg, const mk_route *r, const int32_t *sel, int64_t n_tok) {
    mk_trainer *tr = arg;
    for (int64_t b = 0; b < tr->n_balance; b++) {
        if (tr->balance[b].bias->p == r->bias) {
            for (int64_t i = 0; i < n_tok * r->n_used; i++) {
                tr->balance[b].count[sel[i]]++;
            }
            return;
        }
    }
}

static mk_status make_balance(mk_trainer *tr, mk_err *err) {
    if (tr->o.adapters) {
        return MK_OK;
    }
    tr->balance = mk_try_alloc((size_t)tr->params->n, sizeof *tr->balance);
    if (!tr->balance) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %lld layers", (long long)tr->params->n);
    }
    for (int64_t i = 0; i < tr->params->n; i++) {
        const mk_param *p = &tr->params->list[i];
        if (p->is_select_bias && p->p) {
            int64_t *count = mk_try_alloc((size_t)p->n_in, sizeof *count);
            if (!count) {
                return MK_FAIL(err, MK_ENOMEM, "no memory for %lld experts", (long long)p->n_in);
            }
            tr->balance[tr->n_balance++] = (balance){p, count};
        }
    }
    mk_tape_on_route(tr->tape, count_route, tr);
    return MK_OK;
}

// Moves one layer's bias; returns the largest load over the mean.
static double balance_layer(const balance *b, double rate) {
    int64_t n = b->bias->n_in, total = 0, most = 0;
    for (int64_t e = 0; e < n; e++) {
        total += b->count[e];
        most = b->count[e] > most ? b->count[e] : most;
    }
    for (int64_t e = 0; e < n; e++) {
        int64_t over = b->count[e] * n - total;
        b->bias->p[e] += over < 0 ? (float)rate : over > 0 ? -(float)rate : 0;
        b->count[e] = 0;
    }
    return total > 0 ? (double)most * (double)n / (double)total : 0;
}

double mk_trainer_imbalance(const mk_trainer *tr) {
    return tr->imbalance;
}

// --- making --------------------------------------------------------------------------------------

static mk_engine_opts engine_opts(const mk_trainer_opts *o, mk_tape *tape) {
    return (mk_engine_opts){.kernels = o->kernels,
                            .pool = o->pool,
                            .kv_type = o->kv_type,
                            .n_ctx = o->n_ctx,
                            .n_seq = o->n_seq,
                            .n_chunk = o->n_row,
                            .n_out = o->n_row,
                            .tape = tape};
}

static mk_status make_buffers(mk_trainer *tr, mk_err *err) {
    size_t rows = (size_t)tr->o.n_row, seqs = (size_t)tr->o.n_seq;
    tr->target = mk_try_alloc(rows, sizeof *tr->target);
    tr->want = mk_try_alloc(rows, sizeof *tr->want);
    tr->logp = mk_try_alloc(rows, sizeof *tr->logp);
    tr->weight = mk_try_alloc(rows, sizeof *tr->weight);
    tr->step = mk_try_alloc(seqs, sizeof *tr->step);
    tr->seq = mk_try_alloc(seqs, sizeof *tr->seq);
    if (!tr->target || !tr->want || !tr->logp || !tr->weight || !tr->step || !tr->seq) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for batches of %lld tokens",
                       (long long)tr->o.n_row);
    }
    return MK_OK;
}

// Ours: the values of all parameters; then the optimiser's.
static mk_status make_state(mk_trainer *tr, mk_err *err) {
    int64_t n_optim = 0, n = tr->params->n;
    const mk_ckpt_section *optim = mk_optim_states(tr->optim, &n_optim);
    tr->state = mk_try_alloc((size_t)(n + n_optim), sizeof *tr->state);
    tr->state_name = mk_try_alloc((size_t)n, sizeof *tr->state_name);
    if (!tr->state || !tr->state_name) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the list of %lld tensors", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        const mk_param *p = &tr->params->list[i];
        if (p->p) {
            size_t len = strlen(p->name) + sizeof "param/";
            char *name = mk_alloc(len);
            memcpy(name, "param/", 6);
            memcpy(name + 6, p->name, len - 6);
            tr->state_name[tr->n_own++] = name;
            tr->state[tr->n_state++] = (mk_ckpt_section){.name = name,
                                                         .dtype = MK_DTYPE_F32,
                                                         .n_dim = 1,
                                                         .shape = {p->n_float},
                                                         .data = p->p};
        }
    }
    memcpy(tr->state + tr->n_state, optim, (size_t)n_optim * sizeof *optim);
    tr->n_state += n_optim;
    return MK_OK;
}

static mk_status make_mtp(mk_trainer *tr, mk_err *err) {
    double weight = tr->o.mtp_weight;
    if (!(weight >= 0 && weight <= 1e6) || (weight > 0 && !tr->o.model->mtp)) {
        return MK_FAIL(err, MK_EUSAGE, "weight of multi-token prediction: %g; expected 0%s", weight,
                       tr->o.model->mtp ? " or a positive number"
                                        : ", because no prediction layer is loaded");
    }
    return weight > 0 ? mk_mtp_create(tr->o.n_row, &tr->mtp, err) : MK_OK;
}

static mk_status find_params(mk_trainer *tr, mk_err *err) {
    if (tr->o.adapters) {
        tr->params = mk_adapters_params(tr->o.adapters);
        return MK_OK;
    }
    MK_TRY(mk_params_create(tr->o.model, &tr->own, err));
    tr->params = tr->own;
    return MK_OK;
}

static mk_status set_up(mk_trainer *tr, mk_err *err) {
    MK_TRY(make_mtp(tr, err));
    mk_tape_checkpoint(tr->tape, tr->o.checkpoint);
    mk_engine_opts eo = engine_opts(&tr->o, tr->tape);
    if (tr->o.adapters) {
        mk_adapters_attach(tr->o.adapters);
    }
    MK_TRY(find_params(tr, err));
    MK_TRY(mk_engine_create(tr->o.model, &eo, &tr->engine, err));
    MK_TRY(make_gradients(tr, err));
    MK_TRY(make_balance(tr, err));
    MK_TRY(make_buffers(tr, err));
    mk_optim_opts oo = tr->o.optim;
    oo.zero_g = true;
    MK_TRY(mk_optim_create(mk_engine_ops(tr->engine), &oo, tr->trained, tr->n_trained, &tr->optim,
                           err));
    return make_state(tr, err);
}

mk_status mk_trainer_create(const mk_trainer_opts *opts, mk_trainer **out, mk_err *err) {
    mk_trainer *tr = mk_zalloc(sizeof *tr);
    tr->o = checked(opts);
    tr->tape = mk_tape_create();
    mk_status st = set_up(tr, err);
    if (st != MK_OK) {
        mk_trainer_destroy(tr);
        return st;
    }
    *out = tr;
    return MK_OK;
}

void mk_trainer_destroy(mk_trainer *tr) {
    if (!tr) {
        return;
    }
    for (int64_t i = 0; i < tr->n_own; i++) {
        mk_free(tr->state_name[i]);
    }
    for (int64_t i = 0; i < tr->n_balance; i++) {
        mk_free(tr->balance[i].count);
    }
    void *blocks[] = {tr->state, tr->state_name, tr->balance, tr->trained, tr->target, tr->want,
                      tr->logp,  tr->weight,     tr->step,    tr->seq,     tr->twice};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        mk_free(blocks[i]);
    }
    mk_mtp_destroy(tr->mtp);
    mk_optim_destroy(tr->optim);
    mk_big_free(tr->grads, tr->grads_bytes);
    mk_engine_destroy(tr->engine);
    mk_params_destroy(tr->own);
    mk_tape_destroy(tr->tape);
    mk_free(tr);
}

mk_engine *mk_trainer_engine(mk_trainer *tr) {
    return tr->engine;
}

const mk_params *mk_trainer_params(const mk_trainer *tr) {
    return tr->params;
}

// --- a pass --------------------------------------------------------------------------------------

// Lays the sequences out: what is fed, which rows are wanted, and what they predict.
static int lay_out(mk_trainer *tr, const mk_train_pass *pass) {
    int n_step = 0;
    int64_t row = 0;
    tr->n_target = 0;
    for (int64_t s = 0; s < pass->n_seq; s++) {
        const mk_data_seq *seq = &pass->seq[s];
        if (seq->n < 2) {
            continue;
        }
        MK_ASSERT(n_step < tr->o.n_seq && row + seq->n - 1 <= tr->o.n_row);
        for (int64_t i = 1; i < seq->n; i++) {
            tr->want[row + i - 1] = seq->mask[i];
            if (seq->mask[i]) {
                tr->target[tr->n_target++] = seq->ids[i];
            }
        }
        tr->step[n_step++] = (mk_step){0, seq->ids, seq->n - 1, MK_LOGITS_SOME, tr->want + row};
        row += seq->n - 1;
    }
    if (tr->mtp) {
        mk_mtp_lay_out(tr->mtp, pass->seq, pass->n_seq);
    }
    return n_step;
}

// The last token of a sequence is not fed, so the engine does not see it.
static mk_status check_last_ids(const mk_trainer *tr, const mk_train_pass *pass, mk_err *err) {
    int64_t n_vocab = tr->o.model->hp.n_vocab;
    for (int64_t s = 0; s < pass->n_seq; s++) {
        const mk_data_seq *seq = &pass->seq[s];
        int32_t id = seq->n > 1 ? seq->ids[seq->n - 1] : 0;
        if (id < 0 || id >= n_vocab) {
            return MK_FAIL(err, MK_EUSAGE,
                           "token id %d at the end of sequence %lld is outside the vocabulary (0 "
                           "to %lld)",
                           id, (long long)s, (long long)n_vocab - 1);
        }
    }
    return MK_OK;
}

static float temperature_of(const mk_train_pass *p) {
    return p->temperature > 0 ? p->temperature : 1;
}

static void read_logits(mk_trainer *tr, mk_ops *ops, mk_mat logits) {
    const mk_train_pass *p = tr->passing;
    MK_ASSERT(logits.n_row == tr->n_target);
    mk_op_logprob(ops, tr->logp, NULL, logits, tr->target, temperature_of(p));
    if (p->logp) {
        memcpy(p->logp, tr->logp, (size_t)tr->n_target * sizeof *p->logp);
    }
    if (p->entropy) {
        mk_op_entropy(ops, p->entropy, logits, temperature_of(p));
    }
}

static mk_status learn(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    mk_trainer *tr = arg;
    const mk_train_pass *p = tr->passing;
    mk_mat further = {0};
    (void)err;
    read_logits(tr, ops, logits);
    p->weigh(p->arg, tr->logp, tr->weight, tr->n_target);
    if (tr->mtp) {
        mk_tape_part(tr->tape, PART_MTP);
        further = mk_mtp_predict(tr->mtp, tr->engine, temperature_of(p));
        mk_mtp_weigh(tr->mtp, tr->weight, p->mtp);
    }
    if (further.n_row > 0) {
        mk_mtp_back(tr->mtp, ops, mk_tape_grad(tr->tape, further), further, temperature_of(p),
                    tr->o.mtp_weight);
    }
    mk_back_logprob(ops, mk_tape_grad(tr->tape, logits), logits, tr->target, tr->weight,
                    temperature_of(p));
    mk_tape_backward(tr->tape);
    return MK_OK;
}

static mk_status look(void *arg, mk_ops *ops, mk_mat logits, mk_err *err) {
    mk_trainer *tr = arg;
    const mk_train_pass *p = tr->passing;
    (void)err;
    read_logits(tr, ops, logits);
    if (tr->mtp && p->mtp) {
        (void)mk_mtp_predict(tr->mtp, tr->engine, temperature_of(p));
        mk_mtp_weigh(tr->mtp, NULL, p->mtp);
    }
    return MK_OK;
}

mk_status mk_trainer_pass(mk_trainer *tr, const mk_train_pass *pass, mk_err *err) {
    int n_step = lay_out(tr, pass), n_open = 0;
    mk_status st = check_last_ids(tr, pass, err);
    while (st == MK_OK && n_open < n_step) {
        st = mk_engine_seq_open(tr->engine, &tr->seq[n_open], err);
        if (st == MK_OK) {
            tr->step[n_open].seq = tr->seq[n_open];
            n_open++;
        }
    }
    tr->passing = pass;
    if (st == MK_OK && n_step > 0) {
        st = mk_engine_forward_with(tr->engine, tr->step, n_step, pass->weigh != NULL,
                                    pass->weigh ? learn : look, tr, err);
    }
    tr->passing = NULL;
    for (int i = 0; i < n_open; i++) {
        mk_engine_seq_close(tr->engine, tr->seq[i]);
    }
    return st;
}

// --- an update -----------------------------------------------------------------------------------

// The gradient of an output matrix, in tiles of 16 rows, joins the table's.
static void join_tied(const twice *w) {
    const mk_param *p = w->p;
    for (int64_t o = 0; o < p->n_out; o++) {
        float *row = w->to + o * p->n_in;
        const float *tile = w->from + o / 16 * 16 * p->n_in + o % 16;
        for (int64_t i = 0; i < p->n_in; i++) {
            row[i] += tile[16 * i];
        }
    }
}

// That of a transposed copy, both in tiles of 16 rows.
static void join_copy(const twice *w) {
    const mk_param *p = w->p;
    for (int64_t o = 0; o < p->n_out; o++) {
        for (int64_t i = 0; i < p->n_in; i++) {
            w->to[(o / 16 * p->n_in + i) * 16 + o % 16] +=
                w->from[(i / 16 * p->n_out + o) * 16 + i % 16];
        }
    }
}

// The prediction layer's gradients join the model's.
static void join_shared(mk_trainer *tr) {
    for (int i = 0; i < tr->n_shared; i++) {
        const shared_grad *s = &tr->shared[i];
        for (size_t k = 0; k < s->n; k++) {
            s->to[k] += s->from[k];
        }
        memset(s->from, 0, s->n * sizeof *s->from);
    }
}

static void join_gradients(mk_trainer *tr) {
    join_shared(tr);
    for (int64_t i = 0; i < tr->n_twice; i++) {
        const twice *w = &tr->twice[i];
        (w->p->tied ? join_tied : join_copy)(w);
        memset(w->from, 0, second_floats(w->p) * sizeof *w->from);
    }
}

mk_status mk_trainer_update(mk_trainer *tr, const mk_optim_at *at, mk_optim_report *report,
                            mk_err *err) {
    join_gradients(tr);
    MK_TRY(mk_optim_step(tr->optim, at, report, err));
    tr->imbalance = 0;
    for (int64_t b = 0; b < tr->n_balance; b++) {
        double most = balance_layer(&tr->balance[b], tr->o.balance_rate);
        tr->imbalance = most > tr->imbalance ? most : tr->imbalance;
    }
    mk_params_refresh(tr->params, tr->o.pool);
    return MK_OK;
}

float *mk_trainer_gradient(mk_trainer *tr, const mk_param *p) {
    join_gradients(tr);
    for (int64_t i = 0; i < tr->n_trained; i++) {
        if (tr->trained[i].p == p->p) {
            return tr->trained[i].g;
        }
    }
    return NULL;
}

void mk_trainer_drop_gradients(mk_trainer *tr) {
    memset(tr->grads, 0, tr->grads_bytes);
    for (int64_t b = 0; b < tr->n_balance; b++) {
        memset(tr->balance[b].count, 0,
               (size_t)tr->balance[b].bias->n_in * sizeof *tr->balance[b].count);
    }
}

const mk_ckpt_section *mk_trainer_state(mk_trainer *tr, int64_t *n) {
    *n = tr->n_state;
    return tr->state;
}

void mk_trainer_restored(mk_trainer *tr) {
    mk_trainer_drop_gradients(tr);
    mk_params_refresh(tr->params, tr->o.pool);
}

// --- plans ---------------------------------------------------------------------------------------

static mk_status plan(mk_trainer *tr, mk_train_memory *out, mk_err *err) {
    mk_engine_opts eo = engine_opts(&tr->o, tr->tape);
    mk_memory_plan p = {0};
    MK_TRY(find_params(tr, err));
    MK_TRY(mk_engine_plan(tr->o.model, &eo, &p, err));
    tr->trained = mk_try_alloc((size_t)tr->params->n, sizeof *tr->trained);
    if (!tr->trained) {
        return MK_FAIL(err, MK_ENOMEM, "no memory to plan");
    }
    *out = (mk_train_memory){0};
    for (int64_t i = 0; i < tr->params->n; i++) {
        const mk_param *param = &tr->params->list[i];
        if (is_trained(tr, param)) {
            tr->trained[tr->n_trained++] = optim_param(param, NULL);
            out->n_trained += param->n_value;
        }
    }
    out->weights = p.weights;
    out->gradients = sum_of_grad_floats(tr) * sizeof(float);
    out->moments = mk_optim_bytes(&tr->o.optim, tr->trained, tr->n_trained);
    out->activations = p.scratch;
    out->kv = p.kv;
    out->total = out->weights + out->gradients + out->moments + out->activations + out->kv;
    return MK_OK;
}

mk_status mk_trainer_plan(const mk_trainer_opts *opts, mk_train_memory *out, mk_err *err) {
    mk_trainer tr = {.o = checked(opts), .tape = mk_tape_create()};
    bool attach = opts->adapters && !mk_adapters_is_attached(opts->adapters);
    if (attach) {
        mk_adapters_attach(opts->adapters);
    }
    mk_tape_checkpoint(tr.tape, opts->checkpoint);
    mk_status st = plan(&tr, out, err);
    if (attach) {
        mk_adapters_detach(opts->adapters);
    }
    mk_free(tr.trained);
    mk_params_destroy(tr.own);
    mk_tape_destroy(tr.tape);
    return st;
}
