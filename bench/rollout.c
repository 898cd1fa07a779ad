// Speed of sampling many completions at once beside that of training on them, same model and run.
//
// Usage: bench_rollout MODEL [sequences [prompt [new [rows [threads [repetitions [f32|bf16]]]]]]].
// MODEL: a folder, a GGUF file, or a config.json (a model of random weights is made of it).  So
// many sequences are sampled together, each `new` tokens behind a prompt of `prompt` ones; nothing
// ends a completion before.  A training pass is a forward, a backward and an update (AdamW) over
// `rows` tokens of such sequences.
//
// Efficiency is operations of the matrix products (2 per weight and token, attention not counted)
// per second over the arithmetic peak, which is measured before and after each repetition: of
// sampling over all of its time, of training over the time of its forward products alone.  Medians;
// then the profile of both in the last repetition.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mathx.h"
#include "limits.h"
#include "model/folder.h"
#include "train/rollout.h"
#include "train/trainer.h"

enum { MAX_OPS = 48, MAX_REP = 101 };

typedef struct {
    int64_t n_seq, n_prompt, n_new, n_row, n_rep;
    int n_thread;
    bool bf16;
} sizes;

typedef struct {
    sizes s;
    mk_model *model;
    mk_pool *pool;
    const mk_kernels *kernels;
    mk_trainer *tr;
    mk_limits_probe *probe;
    mk_rollout_item *item;  // [n_seq]
    int32_t *ids;           // [n_seq][n_prompt + n_new]: prompts, completions behind them
    uint8_t *mask;          // [n_prompt + n_new]
    mk_data_seq *seq;       // [n_seq]
    int64_t n_train;        // sequences of a pass
    double peak[MAX_REP + 1], kernel[MAX_REP + 1], roll_s[MAX_REP], pass_s[MAX_REP],
        update_s[MAX_REP];
    double sampling[MAX_REP], forward[MAX_REP], backward[MAX_REP], ratio[MAX_REP];  // efficiencies
} bench;

static void check(mk_status st, const mk_err *err) {
    if (st != MK_OK) {
        fprintf(stderr, "rollout: %s\n", err->msg);
        exit(1);
    }
}

// --- setting up ----------------------------------------------------------------------------------

// A file that is in use may be deleted: its pages stay.
static void drop_folder(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char *path = mk_path_join(dir, e->d_name);
        (void)unlink(path);
        mk_free(path);
    }
    (void)(d && closedir(d));
    (void)rmdir(dir);
}

static mk_model *open_model(const char *path, bool bf16, mk_pool *pool) {
    mk_err err = {0};
    mk_model *m = NULL;
    char dir[] = "/tmp/bench-rollout-XXXXXX";
    size_t n = strlen(path);
    bool made = n > 5 && strcmp(path + n - 5, ".json") == 0;
    if (made) {
        if (!mkdtemp(dir)) {
            perror(dir);
            exit(1);
        }
        check(mk_model_init_folder(path, dir, 1, &err), &err);
    }
    mk_status st = mk_model_open(made ? dir : path, &m, &err);
    if (made) {
        drop_folder(dir);
    }
    check(st, &err);
    check((bf16 ? mk_model_load_bf16 : mk_model_load_f32)(m, pool, NULL, NULL, &err), &err);
    return m;
}

// Prompts of random ids.
static void make_items(bench *b) {
    int64_t n = b->s.n_prompt + b->s.n_new;
    b->item = mk_zalloc((size_t)b->s.n_seq * sizeof *b->item);
    b->ids = mk_zalloc((size_t)(b->s.n_seq * n) * sizeof *b->ids);
    b->mask = mk_zalloc((size_t)n);
    b->seq = mk_zalloc((size_t)b->s.n_seq * sizeof *b->seq);
    memset(b->mask + b->s.n_prompt, 1, (size_t)b->s.n_new);
    uint64_t n_vocab = (uint64_t)b->model->hp.n_vocab;
    for (int64_t i = 0; i < b->s.n_seq; i++) {
        int32_t *ids = b->ids + i * n;
        for (int64_t k = 0; k < b->s.n_prompt; k++) {
            ids[k] = (int32_t)(mk_rng_u64((uint64_t)i, (uint64_t)k) % n_vocab);
        }
        b->item[i] = (mk_rollout_item){.prompt = ids,
                                       .n_prompt = b->s.n_prompt,
                                       .seed = (uint64_t)i,
                                       .ids = ids + b->s.n_prompt};
        b->seq[i] = (mk_data_seq){ids, b->mask, n, b->s.n_new};
    }
    b->n_train = b->s.n_row / (n - 1) < b->s.n_seq ? b->s.n_row / (n - 1) : b->s.n_seq;
}

static void set_up(bench *b, const char *path) {
    mk_err err = {0};
    b->pool = mk_pool_create(b->s.n_thread);
    check(mk_kernels_find("auto", &b->kernels, &err), &err);
    b->model = open_model(path, b->s.bf16, b->pool);
    mk_trainer_opts o = {.model = b->model,
                         .kernels = b->kernels,
                         .pool = b->pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = b->s.n_prompt + b->s.n_new,
                         .n_row = b->s.n_row,
                         .n_seq = b->s.n_seq,
                         .optim = mk_optim_defaults()};
    check(mk_trainer_create(&o, &b->tr, &err), &err);
    mk_limits_of what = {b->kernels, b->s.bf16 ? MK_DTYPE_BF16 : MK_DTYPE_F32, (size_t)64 << 20};
    check(mk_limits_open(b->pool, what, &b->probe, &err), &err);
    make_items(b);
}

// --- the two -------------------------------------------------------------------------------------

static double seconds_since(uint64_t t) {
    return (double)(mk_now_ns() - t) / 1e9;
}

static double roll(bench *b) {
    mk_err err = {0};
    mk_rollout_opts o = {.engine = mk_trainer_engine(b->tr),
                         .n_seq = b->s.n_seq,
                         .temperature = 1,
                         .max_tok = b->s.n_new,
                         .n_token = b->model->hp.n_vocab};
    uint64_t t = mk_now_ns();
    check(mk_rollout(&o, b->item, b->s.n_seq, &err), &err);
    return seconds_since(t);
}

static void weigh(void *arg, const float *logp, float *weight, int64_t n) {
    (void)arg, (void)logp;
    for (int64_t i = 0; i < n; i++) {
        weight[i] = 1;
    }
}

static double pass(bench *b) {
    mk_err err = {0};
    mk_train_pass p = {.seq = b->seq, .n_seq = b->n_train, .weigh = weigh};
    uint64_t t = mk_now_ns();
    check(mk_trainer_pass(b->tr, &p, &err), &err);
    return seconds_since(t);
}

// A rate of next to nothing: the model stays as it is.
static double update(bench *b, int64_t step) {
    mk_err err = {0};
    mk_optim_at at = {.step = step, .lr = 1e-9, .g_scale = 1 / (double)b->s.n_row};
    uint64_t t = mk_now_ns();
    check(mk_trainer_update(b->tr, &at, NULL, &err), &err);
    return seconds_since(t);
}

static void limits(bench *b, int64_t i) {
    mk_limits l = mk_limits_burst(b->probe);
    b->peak[i] = l.ops_per_second[b->s.bf16 ? MK_ARITH_BF16 : MK_ARITH_F32];
    b->kernel[i] = l.kernel_ops_per_second;
}

// --- reporting -----------------------------------------------------------------------------------

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int64_t n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

// Operators of one step, and what of them are products of the forward, of the backward.
typedef struct {
    mk_op_time op[MAX_OPS];
    int n;
    double seconds, forward_op, forward_s, back_op, back_s;
} profile;

static double all_ops(const mk_op_time *t) {
    return t->n_op[MK_ARITH_F32] + t->n_op[MK_ARITH_BF16] + t->n_op[MK_ARITH_INT8];
}

static bool is_one_of(const char *name, const char *const *list) {
    while (*list && strcmp(name, *list) != 0) {
        list++;
    }
    return *list != NULL;
}

static void sum_up(profile *p, mk_ops *ops) {
    static const char *const products[] = {"linear", "linear_heads", "moe", NULL};
    p->forward_op = p->forward_s = p->back_op = p->back_s = 0;
    p->n = mk_ops_times(ops, p->op, MAX_OPS);
    for (int i = 0; i < p->n; i++) {
        double s = (double)p->op[i].ns / 1e9, n = all_ops(&p->op[i]);
        if (is_one_of(p->op[i].name, products)) {
            p->forward_op += n;
            p->forward_s += s;
        } else if (strcmp(p->op[i].name, "back_linear") == 0) {
            p->back_op += n;
            p->back_s += s;
        }
    }
}

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const mk_op_time *)a)->ns, y = ((const mk_op_time *)b)->ns;
    return (x < y) - (x > y);
}

static void print_profile(const char *what, profile *p) {
    double rest = p->seconds;
    qsort(p->op, (size_t)p->n, sizeof *p->op, by_time);
    printf("\n%s: %.1f ms\n  operator              ms   share    calls    Gop/s     GB/s\n", what,
           p->seconds * 1e3);
    for (int i = 0; i < p->n; i++) {
        double ns = (double)p->op[i].ns;
        rest -= ns / 1e9;
        printf("  %-14s %9.3f %5.1f %% %8llu %8.1f %8.1f\n", p->op[i].name, ns / 1e6,
               ns / p->seconds / 1e7, (unsigned long long)p->op[i].n_call, all_ops(&p->op[i]) / ns,
               p->op[i].n_bytes / ns);
    }
    printf("  %-14s %9.3f %5.1f %%\n", "(rest)", rest * 1e3, 100 * rest / p->seconds);
}

// The i-th repetition, which lies between two measurements of the peak.
static void add_repetition(bench *b, int64_t i, const profile *r, const profile *t) {
    double top = (b->peak[i] + b->peak[i + 1]) / 2;
    b->roll_s[i] = r->seconds;
    b->sampling[i] = r->forward_op / r->seconds / top;
    b->forward[i] = t->forward_op / t->forward_s / top;
    b->backward[i] = t->back_op > 0 ? t->back_op / t->back_s / top : 0;
    b->ratio[i] = b->sampling[i] / b->forward[i];
}

static void report(bench *b, profile *r, profile *t) {
    const sizes *s = &b->s;
    int64_t n = s->n_rep;
    double top = median(b->peak, n + 1), roll_s = median(b->roll_s, n),
           pass_s = median(b->pass_s, n), update_s = median(b->update_s, n);
    double tokens = (double)(s->n_seq * s->n_new),
           rows = (double)(b->n_train * (s->n_prompt + s->n_new - 1));
    printf("%s, %d threads, %s products; peak %.0f Gop/s, forward kernel in the cache %.0f %% of "
           "it; median of %lld\n",
           mk_kernels_name(b->kernels), s->n_thread, s->bf16 ? "bf16" : "float32", top / 1e9,
           100 * median(b->kernel, n + 1) / top, (long long)n);
    printf("sampling  %lld x (%lld + %lld): %.3f s, %.0f tok/s, %.1f %% of the peak\n",
           (long long)s->n_seq, (long long)s->n_prompt, (long long)s->n_new, roll_s,
           tokens / roll_s, 100 * median(b->sampling, n));
    printf("training  %.0f rows: pass %.3f s, update %.3f s, %.0f tok/s; forward products %.1f %% "
           "of the peak, backward %.1f %%\n",
           rows, pass_s, update_s, rows / (pass_s + update_s), 100 * median(b->forward, n),
           100 * median(b->backward, n));
    double ratio = median(b->ratio, n);  // sorted by now
    printf("sampling has %.0f %% of the efficiency of training's forward products (%.0f to %.0f)\n",
           100 * ratio, 100 * b->ratio[0], 100 * b->ratio[n - 1]);
    print_profile("sampling", r);
    print_profile("training", t);
}

// --- the run -------------------------------------------------------------------------------------

static void run(bench *b) {
    mk_ops *ops = mk_engine_ops(mk_trainer_engine(b->tr));
    profile r = {.n = 0}, t = {.n = 0};
    (void)roll(b);  // pages are touched
    (void)pass(b);
    (void)update(b, 1);
    limits(b, 0);
    for (int64_t i = 0; i < b->s.n_rep; i++) {
        mk_ops_profile(ops, true);
        r.seconds = roll(b);
        sum_up(&r, ops);
        mk_ops_profile(ops, true);
        b->pass_s[i] = pass(b);
        b->update_s[i] = update(b, i + 2);
        t.seconds = b->pass_s[i] + b->update_s[i];
        sum_up(&t, ops);
        limits(b, i + 1);
        add_repetition(b, i, &r, &t);
    }
    report(b, &r, &t);
}

static int64_t number(int argc, char **argv, int i, int64_t dflt, int64_t max) {
    int64_t v = i < argc ? atoll(argv[i]) : dflt;
    return v < 1 ? 1 : v > max ? max : v;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "Usage: bench_rollout MODEL [sequences [prompt [new [rows [threads "
                        "[repetitions [f32|bf16]]]]]]]\n");
        return 2;
    }
    bench *b = mk_zalloc(sizeof *b);
    b->s = (sizes){.n_seq = number(argc, argv, 2, 256, 1 << 16),
                   .n_prompt = number(argc, argv, 3, 24, 1 << 20),
                   .n_new = number(argc, argv, 4, 128, 1 << 20),
                   .n_row = number(argc, argv, 5, 4096, 1 << 20),
                   .n_thread = (int)number(argc, argv, 6, 2, 1024),
                   .n_rep = number(argc, argv, 7, 3, MAX_REP),
                   .bf16 = argc > 8 && strcmp(argv[8], "bf16") == 0};
    int64_t n_ctx = b->s.n_prompt + b->s.n_new;
    b->s.n_row = b->s.n_row > n_ctx ? b->s.n_row : n_ctx;
    b->s.n_row = b->s.n_row > b->s.n_seq ? b->s.n_row : b->s.n_seq;
    set_up(b, argv[1]);
    run(b);
    return 0;
}
