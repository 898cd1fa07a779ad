// thimble_puzzles: writes training, reinforcement and held-out lines of the built-in model's
// puzzles.
#include "puzzles.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/mathx.h"
#include "base/opt.h"

enum { MAX_TRIES = 200000, TEXT_MAX = 1 << 16, N_TAG_PIECES = 6, MAX_REPEATS = 2000 };

typedef struct {
    const char *kind, *split, *quality, *format, *out, *verify;
    int64_t n, seed, min_ops, max_ops, min_numbers, max_numbers, max_pieces;
    double share, other, respell, impossible, noticed, unnoticed, direct, brief, check, shuffle;
    bool stats;
} args;

#define STR(field_, dflt_, choices_, arg_, help_)                                                  \
    {                                                                                              \
        .name = #field_, .type = MK_OPT_STR, .offset = offsetof(args, field_), .dflt = dflt_,      \
        .choices = choices_, .arg = arg_, .help = help_                                            \
    }
#define INT(name_, field_, dflt_, min_, max_, help_)                                               \
    {                                                                                              \
        .name = name_, .type = MK_OPT_I64, .offset = offsetof(args, field_), .dflt = dflt_,        \
        .min = min_, .max = max_, .arg = "N", .help = help_                                        \
    }
#define PART(field_, dflt_, help_)                                                                 \
    {                                                                                              \
        .name = #field_, .type = MK_OPT_F64, .offset = offsetof(args, field_), .dflt = dflt_,      \
        .min = 0, .max = 1, .arg = "P", .help = help_                                              \
    }

static const mk_opt opts[] = {
    STR(kind, "both", "expression|countdown|both", NULL, "which puzzles"),
    INT("n", n, "1000", 1, 1e9, "number of lines"),
    INT("seed", seed, "1", 0, 1e15, "the same seed gives the same bytes"),
    STR(split, "train", "train|test", NULL, "the side; a hash of the puzzle decides"),
    STR(format, "sft", "sft|text|rl", NULL,
        "prompt and completion, one text, or prompt and checker"),
    STR(quality, "mixed", "mixed|clean", NULL, "with slips and other styles, or none"),
    STR(out, NULL, NULL, "FILE", "instead of standard output"),
    INT("min-ops", min_ops, "0", 0, PZ_MAX_OPS, "operators; 0 = 1 for training, 2 for test"),
    INT("max-ops", max_ops, "4", 1, PZ_MAX_OPS, "operators"),
    INT("min-numbers", min_numbers, "0", 0, PZ_MAX_NUMBERS,
        "numbers of Countdown; 0 = 2 for training, 3 for test"),
    INT("max-numbers", max_numbers, "0", 0, PZ_MAX_NUMBERS, "0 = 4 for training, 3 for test"),
    INT("max-pieces", max_pieces, "240", 40, 1e6, "longest line with reasoning, in pieces"),
    PART(share, "0.4", "share of Countdown among both"),
    PART(other, "0", "share of questions that are no puzzle, as training lines of both"),
    PART(respell, "0", "share of questions in lower case, or with other signs"),
    PART(impossible, "0", "share of Countdown without a solution, for training"),
    PART(noticed, "0.3", "mixed: share with a slip that is noticed and mended"),
    PART(unnoticed, "0.12", "mixed: share with a slip that goes into the answer"),
    PART(direct, "0.15", "mixed: share without reasoning"),
    PART(brief, "0.15", "mixed: share in the short style"),
    PART(check, "0.15", "chance that a right step of an expression is checked"),
    PART(shuffle, "0.2", "mixed: share of Countdown searched in another order of the numbers"),
    {.name = "stats",
     .type = MK_OPT_FLAG,
     .offset = offsetof(args, stats),
     .help = "lengths and shares, on standard error"},
    STR(verify, NULL, NULL, "FILE", "checks every number in a file of --format sft or text"),
};

static const mk_opt_spec spec = {
    .program = "thimble_puzzles",
    .about = "Arithmetic and Countdown puzzles with written-out reasoning, as JSON lines.",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
};

// --- random numbers, items -----------------------------------------------------------------------

pz_rng pz_rng_item(uint64_t seed, uint64_t item) {
    return (pz_rng){.seed = mk_rng_u64(seed, item)};
}

int pz_below(pz_rng *r, int n) {
    return (int)((mk_rng_u64(r->seed, r->counter++) >> 32) * (uint64_t)n >> 32);
}

bool pz_chance(pz_rng *r, double p) {
    return mk_rng_unit(r->seed, r->counter++) < p;
}

void pz_item_init(pz_item *it) {
    memset(it, 0, sizeof *it);
    mk_buf *all[] = {&it->text, &it->prompt, &it->think, &it->answer};
    for (int i = 0; i < 4; i++) {
        mk_buf_init(all[i], TEXT_MAX);
    }
}

void pz_item_clear(pz_item *it) {
    mk_buf_clear(&it->text);
    mk_buf_clear(&it->prompt);
    mk_buf_clear(&it->think);
    mk_buf_clear(&it->answer);
}

void pz_item_free(pz_item *it) {
    mk_buf_free(&it->text);
    mk_buf_free(&it->prompt);
    mk_buf_free(&it->think);
    mk_buf_free(&it->answer);
}

bool pz_is_test(const char *kind, const char *text, size_t n) {
    uint64_t of = kind[0] == 'c' ? PZ_TEST_OF_COUNTDOWN : PZ_TEST_OF_EXPRESSIONS;
    return mk_hash64(text, n, (uint64_t)kind[0]) % of == 0;
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int pz_pieces(const char *s, size_t n) {
    int pieces = 0;
    for (size_t i = 0; i < n; pieces++) {
        i += s[i] == ' ' && i + 1 < n && is_letter(s[i + 1]);
        if (!is_letter(s[i])) {
            i++;
            continue;
        }
        while (i < n && is_letter(s[i])) {
            i++;
        }
    }
    return pieces;
}

// --- drawing -------------------------------------------------------------------------------------

typedef struct {
    int64_t lines, tries, wrong, course[PZ_DIRECT + 1];
    int64_t chars, pieces, max_chars, max_pieces, over;
} stats;

static pz_course draw_course(pz_rng *r, const args *a) {
    double u = mk_rng_unit(r->seed, r->counter++);
    if (strcmp(a->quality, "clean") == 0) {
        return PZ_PLAIN;
    }
    return u < a->noticed                              ? PZ_NOTICED
           : u < a->noticed + a->unnoticed             ? PZ_UNNOTICED
           : u < a->noticed + a->unnoticed + a->direct ? PZ_DIRECT
                                                       : PZ_PLAIN;
}

// Three numbers mostly; two and four sometimes.
static int draw_numbers(pz_rng *r, const args *a, bool three) {
    int k = pz_below(r, 100), n = k < 80 || three ? 3 : k < 87 ? 2 : 4;
    n = n < a->min_numbers ? (int)a->min_numbers : n;
    return n > a->max_numbers ? (int)a->max_numbers : n;
}

static int item_pieces(const pz_item *it) {
    return pz_pieces(it->prompt.data, it->prompt.len) + N_TAG_PIECES +
           (it->think.len ? pz_pieces(it->think.data, it->think.len) : 0) +
           pz_pieces(it->answer.data ? it->answer.data : "", it->answer.len);
}

static mk_status draw_item(pz_item *it, const args *a, uint64_t index, stats *st, mk_err *err) {
    pz_rng r = pz_rng_item((uint64_t)a->seed, index);
    bool mixed = strcmp(a->quality, "mixed") == 0, rl = strcmp(a->format, "rl") == 0;
    bool both = strcmp(a->kind, "both") == 0;
    it->want_test = strcmp(a->split, "test") == 0;
    it->other = false;
    if (both && !rl && !it->want_test && pz_chance(&r, a->other)) {
        pz_item_clear(it);
        pz_other(it, &r);
        return MK_OK;
    }
    bool countdown = both ? pz_chance(&r, a->share) : strcmp(a->kind, "countdown") == 0;
    pz_quality q = {.check = a->check, .shuffle = mixed ? a->shuffle : 0};
    it->impossible = countdown && !it->want_test && pz_chance(&r, a->impossible);
    it->course = rl || it->impossible ? PZ_PLAIN : draw_course(&r, a);
    if (countdown && a->max_numbers == 2 && it->course != PZ_DIRECT) {
        it->course = PZ_PLAIN;  // nothing to mistake in one line
    }
    int n_op = (int)a->min_ops + pz_below(&r, (int)(a->max_ops - a->min_ops + 1));
    for (int i = 0; i < MAX_TRIES; i++) {
        st->tries++;
        pz_item_clear(it);
        it->brief = mixed && !it->impossible && pz_chance(&r, a->brief);
        bool ok = countdown
                      ? pz_countdown(it, &r, draw_numbers(&r, a, it->impossible && rl), &q, rl)
                      : pz_expression(it, &r, n_op, &q, rl);
        if (ok && pz_chance(&r, a->respell)) {
            pz_respell(it, &r);
        }
        if (ok && item_pieces(it) > a->max_pieces) {
            st->over++;
            ok = false;
        }
        if (ok) {
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_ELIMIT, "no puzzle of these sizes in %d draws", MAX_TRIES);
}

// --- lines ---------------------------------------------------------------------------------------

static void write_string(mk_buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            mk_buf_puts(out, "\\n");
        } else {
            MK_ASSERT((s[i] & 0x80 || s[i] >= ' ') && s[i] != 127 && s[i] != '"' && s[i] != '\\');
            mk_buf_putc(out, s[i]);
        }
    }
}

static void write_completion(mk_buf *out, const pz_item *it) {
    if (it->think.len) {
        mk_buf_puts(out, "<think>\\n");
        write_string(out, it->think.data, it->think.len);
        mk_buf_puts(out, "</think>\\n");
    }
    write_string(out, it->answer.data, it->answer.len);
}

static void write_checker(mk_buf *out, const pz_item *it) {
    if (it->impossible) {
        mk_buf_puts(out, "\"answer\":\"" PZ_NO_SOLUTION "\",\"checker\":\"exact\"");
        return;
    }
    if (!it->countdown) {
        mk_buf_printf(out, "\"answer\":\"%lld\",\"checker\":\"exact\"", (long long)it->value);
        return;
    }
    mk_buf_printf(out, "\"answer\":\"%d\",\"checker\":\"expression\",\"target\":%d,\"numbers\":[",
                  it->target, it->target);
    for (int i = 0; i < it->n_number; i++) {
        mk_buf_printf(out, "%s%d", i ? "," : "", it->number[i]);
    }
    mk_buf_putc(out, ']');
}

static void write_line(mk_buf *out, const pz_item *it, const char *format) {
    mk_buf_printf(out, "{\"%s\":\"", strcmp(format, "text") == 0 ? "text" : "prompt");
    write_string(out, it->prompt.data, it->prompt.len);
    if (strcmp(format, "rl") == 0) {
        mk_buf_puts(out, "\",");
        write_checker(out, it);
    } else {
        mk_buf_puts(out, strcmp(format, "text") == 0 ? "\\n" : "\",\"completion\":\"");
        write_completion(out, it);
        mk_buf_putc(out, '"');
    }
    const char *kind = it->other        ? "other"
                       : it->impossible ? "impossible"
                       : it->countdown  ? "countdown"
                                        : "expression";
    mk_buf_printf(out, ",\"id\":\"%s ", kind);
    write_string(out, it->text.data, it->text.len);
    mk_buf_puts(out, "\"}\n");
}

static void count(stats *st, const pz_item *it) {
    int pieces = item_pieces(it);
    int64_t chars = (int64_t)(it->prompt.len + it->think.len + it->answer.len);
    st->lines++;
    st->course[it->course]++;
    st->wrong += !it->right;
    st->chars += chars;
    st->pieces += pieces;
    st->max_chars = chars > st->max_chars ? chars : st->max_chars;
    st->max_pieces = pieces > st->max_pieces ? pieces : st->max_pieces;
}

static void print_stats(const stats *s) {
    double n = (double)s->lines;
    fprintf(stderr, "lines %" PRId64 ", draws per line %.2f, of them too long %.4f\n", s->lines,
            (double)s->tries / n, (double)s->over / n);
    fprintf(stderr, "characters mean %.1f max %" PRId64 ", pieces mean %.1f max %" PRId64 "\n",
            (double)s->chars / n, s->max_chars, (double)s->pieces / n, s->max_pieces);
    fprintf(stderr, "plain %.3f noticed %.3f unnoticed %.3f direct %.3f, wrong answers %.3f\n",
            (double)s->course[PZ_PLAIN] / n, (double)s->course[PZ_NOTICED] / n,
            (double)s->course[PZ_UNNOTICED] / n, (double)s->course[PZ_DIRECT] / n,
            (double)s->wrong / n);
}

// --- the file ------------------------------------------------------------------------------------

// Items of the test side are all different: a table of their hashes, at most half full.
typedef struct {
    uint64_t *slot, mask;
} seen_set;

static mk_status seen_init(seen_set *s, int64_t n, mk_err *err) {
    s->mask = 1;
    while (s->mask < 2 * (uint64_t)n) {
        s->mask *= 2;
    }
    s->slot = mk_try_alloc((size_t)s->mask, sizeof *s->slot);
    if (!s->slot) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %" PRId64 " test items", n);
    }
    s->mask--;
    return MK_OK;
}

static bool seen_add(seen_set *s, const pz_item *it) {
    uint64_t h = mk_hash64(it->text.data, it->text.len, it->countdown) | 1, i = h & s->mask;
    for (; s->slot[i]; i = (i + 1) & s->mask) {
        if (s->slot[i] == h) {
            return false;
        }
    }
    s->slot[i] = h;
    return true;
}

static mk_status emit(mk_writer *w, const mk_buf *line, mk_err *err) {
    if (line->failed) {
        return MK_FAIL(err, MK_ENOMEM, "a line does not fit into memory");
    }
    if (w) {
        return mk_writer_write(w, line->data, line->len, err);
    }
    return fwrite(line->data, 1, line->len, stdout) == line->len
               ? MK_OK
               : MK_FAIL(err, MK_EIO, "writing to standard output failed");
}

static mk_status write_lines(const args *a, mk_writer *w, stats *st, mk_err *err) {
    pz_item it;
    mk_buf line;
    seen_set seen = {0};
    bool test = strcmp(a->split, "test") == 0;
    mk_status s = test ? seen_init(&seen, a->n, err) : MK_OK;
    pz_item_init(&it);
    mk_buf_init(&line, 4 * TEXT_MAX);
    int64_t repeats = 0;
    for (uint64_t i = 0; s == MK_OK && st->lines < a->n; i++) {
        s = draw_item(&it, a, i, st, err);
        if (s != MK_OK) {
            break;
        }
        if (test && !seen_add(&seen, &it)) {
            if (++repeats > MAX_REPEATS) {
                s = MK_FAIL(err, MK_ELIMIT, "the test side has fewer than %" PRId64 " such puzzles",
                            a->n);
            }
            continue;
        }
        repeats = 0;
        mk_buf_clear(&line);
        write_line(&line, &it, a->format);
        count(st, &it);
        s = emit(w, &line, err);
    }
    mk_buf_free(&line);
    pz_item_free(&it);
    mk_free(seen.slot);
    return s;
}

static mk_status generate(const args *a, mk_err *err) {
    mk_writer *w = NULL;
    stats st = {0};
    if (a->out) {
        MK_TRY(mk_writer_open(a->out, &w, err));
    }
    mk_status s = write_lines(a, w, &st, err);
    if (w && s == MK_OK) {
        s = mk_writer_commit(w, err);
    } else {
        mk_writer_abort(w);
    }
    if (s == MK_OK && !a->out && fflush(stdout) != 0) {
        s = MK_FAIL(err, MK_EIO, "writing to standard output failed");
    }
    if (s == MK_OK && a->stats) {
        print_stats(&st);
    }
    return s;
}

static mk_status finish_args(args *a, mk_err *err) {
    bool test = strcmp(a->split, "test") == 0;
    a->min_ops = a->min_ops ? a->min_ops : test ? 2 : 1;
    a->min_numbers = a->min_numbers ? a->min_numbers : test ? 3 : 2;
    a->max_numbers = a->max_numbers ? a->max_numbers : test ? 3 : 4;
    if (a->min_ops > a->max_ops || a->min_numbers > a->max_numbers || a->min_numbers < 2) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "expected at least 2 numbers and smallest sizes up to the largest, got %" PRId64
            " to %" PRId64 " operators, %" PRId64 " to %" PRId64 " numbers",
            a->min_ops, a->max_ops, a->min_numbers, a->max_numbers);
    }
    return a->noticed + a->unnoticed + a->direct <= 1
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE, "--noticed, --unnoticed and --direct sum to more than 1");
}

int main(int argc, char **argv) {
    args a = {0};
    mk_opt_result r = {0};
    mk_err err = {0};
    bool clean = true;
    mk_status st = mk_opt_parse(&spec, argc, argv, &a, &r, &err);
    if (st == MK_OK && r.help) {
        mk_buf b;
        mk_buf_init(&b, 1 << 20);
        mk_opt_help(&spec, &b);
        printf("%s", b.data);
        mk_buf_free(&b);
    } else if (st == MK_OK && a.verify) {
        st = pz_verify(a.verify, stdout, &clean, &err);
    } else if (st == MK_OK) {
        st = finish_args(&a, &err);
        st = st == MK_OK ? generate(&a, &err) : st;
    }
    if (st != MK_OK) {
        fprintf(stderr, "thimble_puzzles: %s\n", err.msg);
    }
    mk_opt_free(&spec, &a, &r);
    return st != MK_OK ? mk_status_exit_code(st) : clean ? 0 : 1;
}
