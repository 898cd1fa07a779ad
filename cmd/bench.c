// minke bench: speed of prompt, generation and batches, and how much of the machine that is.
//
// Model of the limit: a forward pass reads the weights of the file once and does two operations per
// weight and token.  It cannot be faster than max(bytes / bandwidth, operations / peak), both
// measured in the same run.  bench.h says how the files of this verb share the work.
#include "bench.h"

#include <string.h>

#include "base/alloc.h"
#include "cmd.h"

#define MAX_TOKENS ((int64_t)1 << 24)
#define MAX_POINTS 1024

typedef struct {
    cmd_model_args model;
    const char *prompt, *generate, *depth, *batch, *threads, *chart, *roofline;
    int64_t n_rep;
    mk_opt_list compare;
    double compare_timeout;
    bool json, profile;
} bench_args;

static const mk_opt opts[] = {
    CMD_OPT_MODEL(bench_args, model),
    {.name = "threads",
     .short_name = "t",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, threads),
     .arg = "LIST",
     .env = "MINKE_THREADS",
     .help = "threads; without it every processor that is free to use"},
    CMD_OPT_RUNTIME_REST(bench_args, model),
    CMD_OPT_PACKED(bench_args, model),
    {.name = "prompt",
     .short_name = "p",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, prompt),
     .dflt = "256",
     .arg = "LIST",
     .help = "tokens of the prompt; 0 measures none",
     .group = "Measurement (a LIST is one number or several: 128,512,2048)"},
    {.name = "generate",
     .short_name = "n",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, generate),
     .dflt = "64",
     .arg = "LIST",
     .help = "tokens to generate, one at a time, without choosing among them; 0 measures none"},
    {.name = "batch",
     .short_name = "b",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, batch),
     .dflt = "0",
     .arg = "LIST",
     .help =
         "tokens at once: of one sequence with one row of logits (draft), and one of each of so "
         "many sequences with a row each (sequences)"},
    {.name = "depth",
     .short_name = "d",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, depth),
     .dflt = "0",
     .arg = "LIST",
     .help = "tokens that are in the cache before each of these"},
    {.name = "repeat",
     .short_name = "r",
     .type = MK_OPT_I64,
     .offset = offsetof(bench_args, n_rep),
     .dflt = "3",
     .min = 1,
     .max = BENCH_MAX_REPS,
     .arg = "N",
     .help = "repetitions; the median counts"},
    {.name = "profile",
     .type = MK_OPT_FLAG,
     .offset = offsetof(bench_args, profile),
     .help = "time, operations and bytes per operator, from one more repetition"},
    {.name = "compare",
     .type = MK_OPT_LIST,
     .offset = offsetof(bench_args, compare),
     .arg = "CMD",
     .help = "another program's benchmark, run after each repetition of ours; may be repeated",
     .group = "Comparison"},
    {.name = "compare-timeout",
     .type = MK_OPT_F64,
     .offset = offsetof(bench_args, compare_timeout),
     .dflt = "600",
     .min = 0.1,
     .max = 86400,
     .arg = "S",
     .help = "seconds that one run of it may take"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(bench_args, json),
     .help = "one object with everything, each sample too",
     .group = "Output"},
    {.name = "chart",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, chart),
     .arg = "FILE",
     .help = "a picture of the speeds and the roofline, .svg or .html"},
    {.name = "roofline",
     .type = MK_OPT_STR,
     .offset = offsetof(bench_args, roofline),
     .arg = "FILE",
     .help = "the roofline alone"},
};

const mk_opt_spec cmd_bench_spec = {
    .program = "minke bench",
    .usage = "[-m MODEL] [-p LIST] [-n LIST] [-b LIST] [-d LIST] [-t LIST]",
    .about = "Measures tokens per second of a prompt, of generation and of several tokens at once, "
             "each at every depth and with every number of threads that is given; and in the same "
             "run, between the repetitions, the memory bandwidth and the arithmetic peak of this "
             "machine: the fraction reached is speed divided by what these limits allow.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .more = "In the command of --compare {model}, {p}, {n}, {d} and {t} stand for the file\n"
            "and the numbers of a measurement (p is 0 for generation, n for a prompt).  It is\n"
            "run for what it names: without {n} not for generation, without {d} not at\n"
            "depth.  Its output is that of llama-bench: JSON, CSV or Markdown.  There is no\n"
            "shell; quotes are understood.\n"
            "\n"
            "  minke bench -m a.gguf -p 512,4096 -n 128 -r 5 --chart speed.html \\\n"
            "    --compare 'llama-bench -m {model} -p {p} -n {n} -d {d} -t {t} -r 1 -o json'\n",
};

// --- lists ---------------------------------------------------------------------------------------

// The numbers of one flag, in the order in which they were given.
typedef struct {
    int64_t v[BENCH_MAX_LIST];
    int n;
} list;

static mk_status parse_list(const char *text, const char *flag, int64_t min, int64_t max, list *l,
                            mk_err *err) {
    const char *s = text;
    for (l->n = 0; l->n < BENCH_MAX_LIST; s++) {
        char number[24] = {0};
        size_t n = strcspn(s, ",");
        memcpy(number, s, n < sizeof number ? n : 0);
        int64_t *v = &l->v[l->n++];
        if (!mk_parse_i64(number, v) || *v < min || *v > max) {
            return MK_FAIL(err, MK_EUSAGE,
                           "%s: expected numbers from %lld to %lld with commas between them, got "
                           "'%.100s'",
                           flag, (long long)min, (long long)max, text);
        }
        s += n;
        if (!*s) {
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE, "%s: at most %d numbers", flag, BENCH_MAX_LIST);
}

typedef struct {
    list prompt, generate, batch, depth, threads;
} lists;

// A batch goes through the engine in one pass, so it must fit into a chunk.
static mk_status parse_lists(const bench_args *a, lists *l, mk_err *err) {
    int64_t chunk = a->model.n_chunk > 0 ? a->model.n_chunk : BENCH_MAX_BATCH;
    chunk = chunk < BENCH_MAX_BATCH ? chunk : BENCH_MAX_BATCH;
    MK_TRY(parse_list(a->prompt, "--prompt", 0, MAX_TOKENS, &l->prompt, err));
    MK_TRY(parse_list(a->generate, "--generate", 0, MAX_TOKENS, &l->generate, err));
    MK_TRY(parse_list(a->batch, "--batch", 0, chunk, &l->batch, err));
    MK_TRY(parse_list(a->depth, "--depth", 0, MAX_TOKENS, &l->depth, err));
    l->threads.n = 0;
    return a->threads ? parse_list(a->threads, "--threads", 1, 1024, &l->threads, err) : MK_OK;
}

// --- points --------------------------------------------------------------------------------------

const char *bench_kind_name(bench_kind k) {
    static const char *const name[BENCH_N_KIND] = {
#define X(id, name, about) name,
        BENCH_KINDS(X)
#undef X
    };
    return name[k];
}

const char *bench_kind_about(bench_kind k) {
    static const char *const about[BENCH_N_KIND] = {
#define X(id, name, what) what,
        BENCH_KINDS(X)
#undef X
    };
    return about[k];
}

// 0 means none; one sequence with one token is a draft of one token.
static void add_point(bench_plan *plan, bench_kind kind, int64_t n, int64_t depth, int n_thread) {
    bool same_as_draft = kind == BENCH_SEQUENCES && n == 1;
    if (n > 0 && !same_as_draft) {
        plan->point[plan->n_point++] =
            (bench_point){.kind = kind, .n = n, .depth = depth, .n_thread = n_thread};
    }
}

static void add_group(bench_plan *plan, const lists *l, int64_t depth, int n_thread) {
    const list *of[BENCH_N_KIND] = {&l->prompt, &l->generate, &l->batch, &l->batch};
    for (int k = 0; k < BENCH_N_KIND; k++) {
        for (int i = 0; i < of[k]->n; i++) {
            add_point(plan, (bench_kind)k, of[k]->v[i], depth, n_thread);
        }
    }
}

// Sorted by threads, then depth, so that groups lie together.
static mk_status make_points(bench_plan *plan, const lists *l, int n_thread, mk_err *err) {
    int n_group = l->depth.n * (l->threads.n > 0 ? l->threads.n : 1);
    int most = n_group * (l->prompt.n + l->generate.n + 2 * l->batch.n);
    if (most > MAX_POINTS) {
        return MK_FAIL(err, MK_EUSAGE, "%d measurements; at most %d", most, MAX_POINTS);
    }
    plan->point = mk_alloc((size_t)most * sizeof *plan->point);
    plan->limits = mk_alloc((size_t)n_group * sizeof *plan->limits);
    for (int t = 0; t < (l->threads.n > 0 ? l->threads.n : 1); t++) {
        for (int d = 0; d < l->depth.n; d++) {
            add_group(plan, l, l->depth.v[d], l->threads.n > 0 ? (int)l->threads.v[t] : n_thread);
        }
    }
    return plan->n_point > 0 ? MK_OK
                             : MK_FAIL(err, MK_EUSAGE,
                                       "nothing to measure: --prompt, --generate and --batch are "
                                       "all 0");
}

static void free_plan(bench_plan *plan) {
    for (int64_t i = 0; i < plan->n_point; i++) {
        bench_samples_free(&plan->point[i].speed);
        for (int k = 0; k < plan->n_peer; k++) {
            bench_samples_free(&plan->point[i].peer[k]);
        }
    }
    for (int64_t i = 0; i < plan->n_group; i++) {
        bench_samples_free(&plan->limits[i].read);
        bench_samples_free(&plan->limits[i].model);
        bench_samples_free(&plan->limits[i].kernel);
        for (int k = 0; k < MK_ARITH_N; k++) {
            bench_samples_free(&plan->limits[i].ops[k]);
        }
    }
    mk_free(plan->point);
    mk_free(plan->limits);
}

// --- the verb ------------------------------------------------------------------------------------

// What can be seen to be wrong before anything is measured.
static mk_status check(const bench_args *a, lists *l, mk_err *err) {
    MK_TRY(parse_lists(a, l, err));
    if (a->compare.n > BENCH_MAX_PEERS) {
        return MK_FAIL(err, MK_EUSAGE, "--compare: at most %d times", BENCH_MAX_PEERS);
    }
    for (size_t i = 0; i < a->compare.n; i++) {
        MK_TRY(bench_peer_check(a->compare.items[i], err));
    }
    MK_TRY(bench_check_picture(a->chart, err));
    return bench_check_picture(a->roofline, err);
}

static mk_status output(const bench_args *a, const bench_plan *plan, mk_err *err) {
    if (a->json) {
        MK_TRY(cmd_print_json(bench_object(plan), false, err));
    } else {
        bench_print(plan);
    }
    MK_TRY(a->chart ? bench_write_chart(plan, a->chart, err) : MK_OK);
    return a->roofline ? bench_write_roofline(plan, a->roofline, err) : MK_OK;
}

static mk_status measure(const bench_args *a, const lists *l, mk_llm *llm, bench_plan *plan,
                         mk_err *err) {
    int64_t train = mk_llm_model(llm)->hp.n_ctx_train;
    plan->llm = llm;
    plan->model_path = mk_source_path(mk_llm_model(llm)->src);
    plan->n_ctx = a->model.n_ctx == CMD_CTX_MAX ? train : a->model.n_ctx;
    cmd_catch_interrupt();
    MK_TRY(make_points(plan, l, mk_llm_n_thread(llm), err));
    MK_TRY(bench_measure(llm, plan, err));
    return output(a, plan, err);
}

static mk_status run(const bench_args *a, mk_err *err) {
    lists l;
    MK_TRY(check(a, &l, err));
    mk_llm *llm = NULL;
    // An engine for nothing: each group makes its own over the same weights.
    cmd_model_args model = a->model;
    model.n_ctx = MK_KV_BLOCK;
    for (int i = 0; i < l.threads.n; i++) {
        model.n_thread = l.threads.v[i] > model.n_thread ? l.threads.v[i] : model.n_thread;
    }
    MK_TRY(cmd_open(&model, &(cmd_open_opts){.n_seq = 1}, &llm, err));
    bench_plan plan = {.n_rep = a->n_rep,
                       .n_chunk = a->model.n_chunk,
                       .profile = a->profile,
                       .peers = a->compare.items,
                       .n_peer = (int)a->compare.n,
                       .peer_timeout_s = a->compare_timeout};
    mk_status st = measure(a, &l, llm, &plan, err);
    free_plan(&plan);
    mk_llm_close(llm);
    return st;
}

mk_status cmd_bench(int argc, char *const *argv, mk_err *err) {
    bench_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_bench_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, err);
    }
    mk_opt_free(&cmd_bench_spec, &a, &r);
    return st;
}
