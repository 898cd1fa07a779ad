// What the files of `minke bench` share.
//
//   bench.c          options, the list of points, the order of work
//   bench_cost.c     operations and bytes of a point, and what the limits make of them
//   bench_run.c      measuring: rounds of limits, our points and the peers' in turn
//   bench_peer.c     a peer's benchmark as a child process
//   bench_parse.c    what such a benchmark prints
//   bench_text.c     tables for people        bench_json.c   one object for programs
//   bench_chart.c    pictures: speeds         bench_roof.c   pictures: the roofline
//
// A *point* is one thing that is measured (prompt 512 at depth 0 with 2 threads).  Points with the
// same threads and depth form a *group*: they share one engine and one filled cache.  A *round* is
// a burst of the limits, then every point of the group once, each followed by its peers; a last
// burst ends the group.  So whatever slows the machine down slows all three.
#ifndef MK_CMD_BENCH_H
#define MK_CMD_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "chat/llm.h"
#include "limits.h"

#define BENCH_MAX_REPS  101
#define BENCH_MAX_LIST  32
#define BENCH_MAX_PEERS 8
#define BENCH_MAX_OPS   64
#define BENCH_STEPS     8  // forward passes of one repetition of a batch
#define BENCH_MAX_BATCH 512

// kind, name, and what its n counts
#define BENCH_KINDS(X)                                                                             \
    X(PROMPT, "prompt", "tokens of the prompt")                                                    \
    X(GENERATION, "generation", "generated tokens")                                                \
    X(DRAFT, "draft", "tokens of one sequence at once")                                            \
    X(SEQUENCES, "sequences", "sequences with one token each")
typedef enum {
#define X(id, name, about) BENCH_##id,
    BENCH_KINDS(X)
#undef X
        BENCH_N_KIND
} bench_kind;
const char *bench_kind_name(bench_kind k);
const char *bench_kind_about(bench_kind k);

// --- samples -------------------------------------------------------------------------------------
// Grows up to BENCH_MAX_SAMPLES; what comes after that is dropped.
#define BENCH_MAX_SAMPLES 4096
typedef struct {
    double *v;
    int64_t n, cap;
} bench_samples;
void bench_add(bench_samples *s, double v);
double bench_median(const bench_samples *s);  // 0 without samples, as the two below
double bench_min(const bench_samples *s);
double bench_max(const bench_samples *s);
void bench_samples_free(bench_samples *s);

// --- work and limits -----------------------------------------------------------------------------
// What one repetition of a point must do, whatever the engine makes of it.
typedef struct {
    double n_tok;             // tokens that the speed counts
    double n_op[MK_ARITH_N];  // of linear layers; a prompt without the output matrix
    double weight_bytes;      // tensors of the file that must be read, once per forward pass
    double packed_bytes;      // the same in the engine's packed form
    double cache_bytes;       // keys and values, once per sequence and forward pass
} bench_work;

// A point's speed against the limits of its group.  Fractions are time allowed / time taken.
typedef struct {
    double compute;          // by operations and the peak of their kinds
    double kernel;           // the same, the kernel's rate in place of the peak of its kind
    double read;             // by weight_bytes and bandwidth
    double read_with_cache;  // by weight_bytes + cache_bytes
    double speed;            // tokens per second that the slower of the two allows
    const char *bound;       // that one: "bandwidth", "int8", "bf16", "f32"
} bench_bound;

// --- points --------------------------------------------------------------------------------------
typedef struct {
    bench_kind kind;
    int64_t n, depth;
    int n_thread;
    bench_samples speed;                  // tokens per second, one per repetition
    bench_samples peer[BENCH_MAX_PEERS];  // the same of the peers, empty where they do not apply
    bench_work work;
    mk_limits limits;  // median of the group's bursts
    // --profile: one more repetition
    mk_op_time op[BENCH_MAX_OPS];
    int n_op;
    double profile_s;
} bench_point;

// The limits of one group, burst by burst.
typedef struct {
    int n_thread;
    int64_t depth;
    bench_samples read, model, ops[MK_ARITH_N], kernel, handover;
} bench_limits;

typedef struct {
    // what is asked for
    const mk_llm *llm;
    const char *model_path;
    int64_t n_rep, n_ctx;  // n_ctx: 0 = as large as needed
    int64_t n_chunk;       // 0 = the engine's own
    bool profile;
    const char *const *peers;  // command lines
    int n_peer;
    double peer_timeout_s;
    // what comes out; points lie sorted by group
    bench_point *point;
    int64_t n_point;
    bench_limits *limits;  // one per group, in the order of the points
    int64_t n_group;
} bench_plan;

// Fills the samples, work and limits of every point.  Errors: those of the engine and of the peers,
// MK_EINTR.
mk_status bench_measure(mk_llm *llm, bench_plan *plan, mk_err *err) MK_WARN_UNUSED;

// --- costs ---------------------------------------------------------------------------------------
// n_chunk: rows of one forward pass at most.
bench_work bench_work_of(const mk_model *m, mk_kv_type kv, const bench_point *p, int64_t n_chunk);
bench_bound bench_bound_of(const bench_point *p);
// The type of weights in which a token has most operations: that of the kernel that is a limit.
mk_dtype bench_main_dtype(const mk_model *m);
// Seconds that a number of operations of each kind take at least.
double bench_compute_time(const double n_op[MK_ARITH_N], const mk_limits *l);
const char *bench_arith_name(mk_arith k);  // "f32", "bf16", "int8"

// --- peers ---------------------------------------------------------------------------------------
// The command line of a peer, perhaps with a name for it in front (NAME=CMD), split as a shell
// splits words (quotes, backslashes; no expansion).  Errors: MK_EUSAGE (unbalanced quotes, an
// unknown {name}, nothing in it).
mk_status bench_peer_check(const char *cmd, mk_err *err) MK_WARN_UNUSED;
// Its name, or "peer 1" for the first.
#define BENCH_NAME_MAX 32
void bench_peer_name(const char *cmd, int i, char out[BENCH_NAME_MAX]);
const char *bench_peer_command(const char *cmd);  // what follows the name
// true if the command can measure this point: it names what the point needs, or names nothing.
bool bench_peer_applies(const char *cmd, const bench_point *p);
// Runs the command for a point and adds what it measured to *out.  Errors: MK_ENOTFOUND (no such
// program), MK_EIO (it failed; with the end of its error output), MK_ELIMIT (time, output),
// MK_ECORRUPT (output not understood, or without a row for this point), MK_EINTR.
mk_status bench_peer_run(const bench_plan *plan, int peer, const bench_point *p, bench_samples *out,
                         mk_err *err) MK_WARN_UNUSED;

// One row of a peer's benchmark: speed of n_prompt tokens or of n_gen tokens at a depth.
typedef struct {
    int64_t n_prompt, n_gen, depth;
} bench_row_id;
typedef void (*bench_row_fn)(void *arg, bench_row_id id, double tokens_per_second);
// Calls fn for every sample in the output of llama-bench (JSON, JSON lines, CSV or Markdown).
// Errors: MK_ECORRUPT.
mk_status bench_parse(const char *text, size_t n, bench_row_fn fn, void *arg,
                      mk_err *err) MK_WARN_UNUSED;

// --- facts for the output ------------------------------------------------------------------------
// The point of one token that a batch is held against; NULL if none was measured in its group.
const bench_point *bench_single(const bench_plan *plan, const bench_point *p);
const char *bench_main_type(const bench_plan *plan);  // name of bench_main_dtype: "Q4_K"
const char *bench_kv_name(const bench_plan *plan);    // "f32", "f16", "q8"
// An operator of a profile: all its operations; the time that its limits allow over the time taken.
double bench_op_sum(const mk_op_time *t);
double bench_op_fraction(const bench_point *p, const mk_op_time *t);
// Time of the profiled repetition outside of all operators.
double bench_rest_seconds(const bench_point *p);

// --- output --------------------------------------------------------------------------------------
void bench_print(const bench_plan *plan);
json_t *bench_object(const bench_plan *plan);
// NULL is fine.  Errors: MK_EUSAGE unless the name ends in .svg or .html.
mk_status bench_check_picture(const char *path, mk_err *err) MK_WARN_UNUSED;
// Self-contained: .svg, or .html with the same picture and a table.  Errors: MK_EIO.
mk_status bench_write_chart(const bench_plan *plan, const char *path, mk_err *err) MK_WARN_UNUSED;
mk_status bench_write_roofline(const bench_plan *plan, const char *path,
                               mk_err *err) MK_WARN_UNUSED;

#endif
