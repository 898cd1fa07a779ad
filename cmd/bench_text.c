// Tables for people.
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "bench.h"
#include "cmd.h"

// The point of one token in the same group that a batch is held against; NULL if none was measured.
const bench_point *bench_single(const bench_plan *plan, const bench_point *p) {
    for (int64_t i = 0; i < plan->n_point && p->kind >= BENCH_DRAFT && p->n > 1; i++) {
        const bench_point *q = &plan->point[i];
        if (q->n_thread == p->n_thread && q->depth == p->depth &&
            (q->kind == BENCH_GENERATION || (q->kind == BENCH_DRAFT && q->n == 1))) {
            return q;
        }
    }
    return NULL;
}

// Tokens of one row are few digits, tiny models make thousands a second.
static const char *speed_text(double v, char out[16]) {
    snprintf(out, 16, v < 99.95 ? "%.2f" : v < 9999.5 ? "%.1f" : "%.0f", v);
    return out;
}

// The fraction of the limit that binds; against bandwidth also with keys and values, where they
// show; against arithmetic also that of the kernel.
static void print_row(const bench_plan *plan, const bench_point *p) {
    char test[32], mid[16], lo[16], hi[16];
    bench_bound b = bench_bound_of(p);
    bool memory = strcmp(b.bound, "bandwidth") == 0;
    const bench_point *single = bench_single(plan, p);
    snprintf(test, sizeof test, "%s %lld", bench_kind_name(p->kind), (long long)p->n);
    printf("  %-18s %6lld %7d %10s %10s .. %-9s %5.1f %% of %s", test, (long long)p->depth,
           p->n_thread, speed_text(bench_median(&p->speed), mid),
           speed_text(bench_min(&p->speed), lo), speed_text(bench_max(&p->speed), hi),
           100 * (memory ? b.read : b.compute), b.bound);
    if (memory && b.read_with_cache > 1.005 * b.read) {
        printf(" (with the cache %.1f %%)", 100 * b.read_with_cache);
    } else if (!memory) {
        printf(" (of the kernel %.1f %%)", 100 * b.kernel);
    }
    if (single) {
        printf(", %.2f x one token", bench_median(&p->speed) / bench_median(&single->speed));
    }
    printf("\n");
}

static void print_peers(const bench_plan *plan, const bench_point *p) {
    double ours = bench_median(&p->speed);
    for (int k = 0; k < plan->n_peer; k++) {
        char mid[16], lo[16], hi[16];
        const bench_samples *s = &p->peer[k];
        if (s->n > 0) {
            char name[BENCH_NAME_MAX];
            bench_peer_name(plan->peers[k], k, name);
            printf("    %-31s %10s %10s .. %-9s we are %.2f x it, %.2f x its best\n", name,
                   speed_text(bench_median(s), mid), speed_text(bench_min(s), lo),
                   speed_text(bench_max(s), hi), ours / bench_median(s), ours / bench_max(s));
        }
    }
}

// Medians of the bursts, a line for each group.
static void print_limits(const bench_plan *plan) {
    printf("\nlimits, measured in between\n"
           "   depth threads     memory  model size        f32       bf16       int8 %9s kernel  "
           "handover\n",
           bench_main_type(plan));
    for (int64_t i = 0; i < plan->n_group; i++) {
        const bench_limits *l = &plan->limits[i];
        char read[32], model[32];
        printf("  %6lld %7d %8s/s %9s/s", (long long)l->depth, l->n_thread,
               cmd_bytes_text(bench_median(&l->read), read),
               cmd_bytes_text(bench_median(&l->model), model));
        for (int k = 0; k < MK_ARITH_N; k++) {
            printf(" %5.0f Gop/s", bench_median(&l->ops[k]) / 1e9);
        }
        printf(" %10.0f Gop/s", bench_median(&l->kernel) / 1e9);
        double handover = bench_median(&l->handover);
        printf(handover > 0 ? " %6.0f ns\n" : "         -\n", handover * 1e9);
    }
}

// --- profile -------------------------------------------------------------------------------------

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const mk_op_time *)a)->ns, y = ((const mk_op_time *)b)->ns;
    return (x < y) - (x > y);
}

double bench_op_fraction(const bench_point *p, const mk_op_time *t) {
    double compute = bench_compute_time(t->n_op, &p->limits);
    double read = t->n_bytes / p->limits.model_bytes_per_second;
    return (compute > read ? compute : read) / ((double)t->ns / 1e9);
}

double bench_op_sum(const mk_op_time *t) {
    double n = 0;
    for (int k = 0; k < MK_ARITH_N; k++) {
        n += t->n_op[k];
    }
    return n;
}

double bench_rest_seconds(const bench_point *p) {
    double s = p->profile_s;
    for (int i = 0; i < p->n_op; i++) {
        s -= (double)p->op[i].ns / 1e9;
    }
    return s;
}

// Operators by time.  Gop/s counts all kinds of arithmetic; the limit takes each at its own peak.
static void print_profile(const bench_point *p) {
    mk_op_time op[BENCH_MAX_OPS];
    memcpy(op, p->op, (size_t)p->n_op * sizeof *op);
    qsort(op, (size_t)p->n_op, sizeof *op, by_time);
    printf("\nprofile of %s %lld at depth %lld, %d thread%s: %.2f ms\n", bench_kind_name(p->kind),
           (long long)p->n, (long long)p->depth, p->n_thread, p->n_thread == 1 ? "" : "s",
           p->profile_s * 1e3);
    printf("  operator              ms   share    calls    Gop/s     GB/s  of its limit\n");
    for (int i = 0; i < p->n_op; i++) {
        double ns = (double)op[i].ns;
        printf("  %-14s %9.3f %5.1f %% %8llu %8.1f %8.1f %10.1f %%\n", op[i].name, ns / 1e6,
               ns / p->profile_s / 1e7, (unsigned long long)op[i].n_call, bench_op_sum(&op[i]) / ns,
               op[i].n_bytes / ns, 100 * bench_op_fraction(p, &op[i]));
    }
    double rest = bench_rest_seconds(p);
    printf("  %-14s %9.3f %5.1f %%\n", "(rest)", rest * 1e3, 100 * rest / p->profile_s);
}

// --- everything ----------------------------------------------------------------------------------

// What a token reads is said without a depth: the weights alone.
void bench_print(const bench_plan *plan) {
    const mk_model *m = mk_llm_model(plan->llm);
    char file[32], packed[32];
    bench_point one = {.kind = BENCH_GENERATION, .n = 1};
    bench_work w = bench_work_of(m, mk_llm_engine_opts(plan->llm)->kv_type, &one, 1);
    printf("%s, %s, cache in %s; median of %lld\n", mk_path_base(plan->model_path),
           mk_kernels_name(mk_llm_kernels(plan->llm)), bench_kv_name(plan), (long long)plan->n_rep);
    printf("one token reads %s of the file (%s as packed)\n\n",
           cmd_bytes_text(w.weight_bytes, file), cmd_bytes_text(w.packed_bytes, packed));
    printf("  %-18s %6s %7s %10s %10s .. %-9s %s\n", "measured", "depth", "threads", "tok/s", "min",
           "max", "of the limit");
    for (int64_t i = 0; i < plan->n_point; i++) {
        print_row(plan, &plan->point[i]);
        print_peers(plan, &plan->point[i]);
    }
    print_limits(plan);
    for (int k = 0; k < plan->n_peer; k++) {
        char name[BENCH_NAME_MAX];
        bench_peer_name(plan->peers[k], k, name);
        printf("%s: %s\n", name, bench_peer_command(plan->peers[k]));
    }
    for (int64_t i = 0; i < plan->n_point && plan->profile; i++) {
        print_profile(&plan->point[i]);
    }
}
