// One round of the scheduler: rows for a forward, the forward, tokens out of its logits.
//
// How many rows a round has decides about speed alone.  Answers come first.  While someone is being
// answered, prompts get so many rows that the round takes about 1.5 times as long as without them,
// but at least two; otherwise all there are.
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "engine/sched_int.h"

// Linear layers take rows by eights, so a round of 9 costs nearly what one of 16 does.  FEW_MORE:
// less than this in the last tile is not worth a round.  READ_MS: how long the thread waits for the
// disk when there is nothing else to do, until it looks for new jobs.
enum { ROW_TILE = 8, FEW_MORE = 4, MIN_PROMPT_ROWS = 2, READ_MS = 5 };
#define SMOOTH     0.2  // weight of a new measurement
#define STALL_PART 0.5  // prompts may make a round longer by this part of itself
// a row of a few costs so much more than one of a full round, until measured
#define FEW_ROWS 2.0

// --- rows ----------------------------------------------------------------------------------------

// What a round feeds: steps, and the rows of logits that they give.
typedef struct {
    int64_t n_step, n_out;
} feed;

// Rows of logits come in the order of the steps, which is not the order of the jobs.
static void add_step(mk_sched *s, feed *f, mk_job *j, const int32_t *ids, mk_logits_mode logits) {
    s->step[f->n_step++] = (mk_step){j->seq, ids, j->n_row, logits, NULL};
    j->first_out = f->n_out;
    f->n_out += logits == MK_LOGITS_ALL ? j->n_row : logits == MK_LOGITS_LAST;
}

// The tokens an answering job feeds: its last one, and drafts of those that come next.
static void answer_rows(mk_sched *s, mk_job *j) {
    j->row[0] = j->ids[j->n_ids - 1];
    int64_t room = j->n_max - j->n_ids - 1;  // the last token needs no row
    int n = s->o.n_draft < room ? s->o.n_draft : (int)(room > 0 ? room : 0);
    j->n_draft =
        n > 0 && j->drafts ? mk_draft_propose(&j->draft, j->ids, j->n_ids, n, j->row + 1) : 0;
    j->n_row = 1 + j->n_draft;
}

static int64_t rows_for_answers(mk_sched *s, feed *f) {
    int64_t rows = 0, n_answer = 0;
    for (mk_job *j = s->running; j; j = j->next) {
        n_answer += j->state == JOB_ANSWER;
    }
    for (mk_job *j = s->running; j; j = j->next) {
        j->n_row = 0;
        if (j->state != JOB_ANSWER) {
            continue;
        }
        answer_rows(s, j);
        // every answer has its row; drafts only where they leave room
        n_answer--;
        if (rows + j->n_row + n_answer > s->n_chunk) {
            j->n_row = 1;
            j->n_draft = 0;
        }
        add_step(s, f, j, j->row, MK_LOGITS_ALL);
        rows += j->n_row;
    }
    return rows;
}

// Rows of prompts that fill the last tile behind the answers' rows, and more tiles while the round
// stays short enough.  Where a tile is too dear, because attention to thousands of keys costs more
// than the tile, fewer: rows are hardly cheaper in company there.
static int64_t prompt_budget(const mk_sched *s, int64_t answer_rows) {
    int64_t most = s->n_chunk - answer_rows;
    if (answer_rows == 0) {
        return most;
    }
    int64_t n = ROW_TILE - answer_rows % ROW_TILE;
    n += n < FEW_MORE ? ROW_TILE : 0;
    if (s->answer_ms > 0 && s->row_ms > 0) {
        int64_t fit = (int64_t)(STALL_PART * s->answer_ms / s->row_ms);
        n = fit >= n ? n + (fit - n) / ROW_TILE * ROW_TILE : fit;
        n = n > MIN_PROMPT_ROWS ? n : MIN_PROMPT_ROWS;
    }
    return n < most ? n : most;
}

// The oldest prompt and the one with least left take turns in being first: short ones do not wait
// for long ones, and nobody starves.
static mk_job *next_prompt(const mk_sched *s, bool oldest) {
    mk_job *best = NULL;
    for (mk_job *j = s->running; j; j = j->next) {
        if (j->state != JOB_PROMPT || j->reading || j->n_row > 0) {
            continue;
        }
        if (!best || (oldest ? j->t_submit < best->t_submit
                             : j->n_ids - j->n_in < best->n_ids - best->n_in)) {
            best = j;
        }
    }
    return best;
}

// A prompt whose every token is given out with its logits.
static bool scored(const mk_job *j) {
    return j->o.hooks.prompt != NULL;
}

// A prompt begins with what is known of it by now: one that runs beside it may have computed it.
// What is on disk is read beside the rounds of others.
static void begin_prompt(mk_sched *s, mk_job *j) {
    if ((j->n_in == 0 || j->reading) && s->o.prefix && !scored(j)) {
        int64_t n =
            mk_prefix_attach(s->o.prefix, j->seq, j->o.tenant, j->ids, j->n_ids, &j->reading);
        j->n_in = j->n_cached = j->n_known = n;
    }
    j->t_prompt = j->t_prompt ? j->t_prompt : mk_now_ns();
}

// Rows of logits for a prompt that is scored: all but one for every other prompt, which may end in
// this round.
static int64_t room_for_scores(const mk_sched *s, const feed *f) {
    int64_t room = s->n_out - f->n_out + 1;
    for (const mk_job *j = s->running; j; j = j->next) {
        room -= j->state == JOB_PROMPT && j->n_row == 0;
    }
    return room > 1 ? room : 1;
}

static void prompt_rows(mk_sched *s, feed *f, mk_job *j, int64_t budget) {
    int64_t left = j->n_ids - j->n_in, most = scored(j) ? room_for_scores(s, f) : left;
    most = most < budget ? most : budget;
    j->n_row = left < most ? left : most;
    mk_logits_mode end = j->n_row == left ? MK_LOGITS_LAST : MK_LOGITS_NONE;
    add_step(s, f, j, j->ids + j->n_in, scored(j) ? MK_LOGITS_ALL : end);
}

static int64_t rows_for_prompts(mk_sched *s, int64_t budget, feed *f) {
    int64_t rows = 0;
    bool oldest = s->odd = !s->odd;
    for (mk_job *j = s->running; j; j = j->next) {
        if (j->reading) {
            begin_prompt(s, j);
        }
    }
    for (mk_job *j; rows < budget && f->n_out < s->n_out && (j = next_prompt(s, oldest)) != NULL;
         oldest = false) {
        begin_prompt(s, j);
        if (j->reading) {
            continue;
        }
        prompt_rows(s, f, j, budget - rows);
        rows += j->n_row;
    }
    return rows;
}

// --- tokens --------------------------------------------------------------------------------------

static bool ends(const mk_job *j, int32_t id) {
    for (int i = 0; i < j->o.n_end; i++) {
        if (j->o.end_ids[i] == id) {
            return true;
        }
    }
    return false;
}

// to[i] = allowed ? from[i] : -inf.  A word of 64 bits at a time: most are all the same, in the
// others the few are mended behind the many.
static void apply_mask(float *to, const float *from, const uint64_t *allowed, int64_t n) {
    for (int64_t i = 0; i < n; i += 64, to += 64, from += 64) {
        int64_t n_here = n - i < 64 ? n - i : 64;
        uint64_t all = n_here < 64 ? (UINT64_C(1) << n_here) - 1 : UINT64_MAX,
                 yes = allowed[i / 64] & all, no = ~yes & all;
        bool mostly = __builtin_popcountll(yes) > n_here / 2;
        if (mostly) {
            memcpy(to, from, (size_t)n_here * sizeof *to);
        } else {
            for (int64_t k = 0; k < n_here; k++) {
                to[k] = -INFINITY;
            }
        }
        for (uint64_t few = mostly ? no : yes; few != 0; few &= few - 1) {
            int k = __builtin_ctzll(few);
            to[k] = mostly ? -INFINITY : from[k];
        }
    }
}

static int32_t choose(mk_sched *s, mk_job *j, const float *logits) {
    const mk_job_hooks *h = &j->o.hooks;
    int32_t force = -1;
    if (h->allow) {
        size_t words = (size_t)(s->n_vocab + 63) / 64;
        memset(s->allowed, 0xff, words * sizeof *s->allowed);
        if (h->allow(j->o.arg, s->allowed, &force) && force < 0) {
            apply_mask(s->masked, logits, s->allowed, s->n_vocab);
            logits = s->masked;
        }
    }
    return force >= 0 ? force : mk_sampler_choose(j->sampler, logits, j->n_ids);
}

// Chooses the next token of a job from a row of logits.  Returns false when the answer has ended.
static bool take_token(mk_sched *s, mk_job *j, const float *logits, int32_t *id, mk_job_end *end) {
    *id = choose(s, j, logits);
    mk_job_token t = {*id, j->n_ids, logits};
    if (ends(j, *id)) {
        *end = MK_JOB_ENDED;
        if (j->o.hooks.end) {
            j->o.hooks.end(j->o.arg, &t);
        }
        return false;
    }
    mk_sampler_accept(j->sampler, *id, true);
    j->ids[j->n_ids++] = *id;
    j->n_generated++;
    *end = MK_JOB_STOPPED;
    if (j->o.hooks.token && j->o.hooks.token(j->o.arg, &t) == MK_JOB_STOP) {
        return false;
    }
    *end = MK_JOB_FULL;
    return j->n_ids < j->n_max;
}

// The rows of an answering job: its token, and as many drafts as are what would have been chosen.
static bool take_answer(mk_sched *s, mk_job *j, mk_job_end *end) {
    int good = 0;
    bool go = true;
    for (;; good++) {
        int32_t id;
        go = take_token(s, j, mk_engine_logits(s->o.engine, j->first_out + good), &id, end);
        if (!go || good == j->n_draft || id != j->row[1 + good]) {
            break;
        }
    }
    // Rows behind the last right one are of other tokens.
    int64_t keep = j->n_in + 1 + good;
    if (good < j->n_draft) {
        mk_engine_seq_truncate(s->o.engine, j->seq, keep);
    }
    j->n_in = keep;
    if (j->n_draft > 0) {
        mk_draft_result(&j->draft, j->n_draft, good);
        j->n_drafted += j->n_draft;
        j->n_accepted += good;
    }
    return go;
}

static void tell_prefix(mk_sched *s, mk_job *j) {
    if (s->o.prefix && j->n_in / MK_KV_BLOCK > j->n_known / MK_KV_BLOCK) {
        mk_prefix_insert(s->o.prefix, j->seq, j->o.tenant, j->ids, j->n_in);
        j->n_known = j->n_in;
    }
}

// The row of a token says what the one behind it would have been chosen from.
static void tell_scores(mk_sched *s, const mk_job *j) {
    const mk_job_hooks *h = &j->o.hooks;
    if (j->n_in == 0) {
        h->prompt(j->o.arg, &(mk_job_token){j->ids[0], 0, NULL});
    }
    for (int64_t i = 0; i < j->n_row && j->n_in + i + 1 < j->n_ids; i++) {
        int64_t pos = j->n_in + i + 1;
        const float *logits = mk_engine_logits(s->o.engine, j->first_out + i);
        h->prompt(j->o.arg, &(mk_job_token){j->ids[pos], pos, logits});
    }
}

static bool take_prompt(mk_sched *s, mk_job *j, mk_job_end *end) {
    if (scored(j)) {
        tell_scores(s, j);
    }
    j->n_in += j->n_row;
    tell_prefix(s, j);
    if (j->n_in < j->n_ids) {
        return true;
    }
    j->state = JOB_ANSWER;
    j->t_answer = mk_now_ns();
    for (int64_t i = 0; i < j->n_ids; i++) {
        mk_sampler_accept(j->sampler, j->ids[i], false);
    }
    if (j->o.hooks.begin) {
        mk_job_start st = {j->n_ids, j->n_cached, (double)(j->t_prompt - j->t_submit) / 1e6,
                           (double)(j->t_answer - j->t_prompt) / 1e6};
        j->o.hooks.begin(j->o.arg, &st);
    }
    *end = MK_JOB_FULL;
    int32_t id;
    int64_t last = j->first_out + (scored(j) ? j->n_row - 1 : 0);
    return j->n_ids < j->n_max && take_token(s, j, mk_engine_logits(s->o.engine, last), &id, end);
}

// --- the round -----------------------------------------------------------------------------------

static void smooth(double *to, double value) {
    *to = *to <= 0 ? value : *to + SMOOTH * (value - *to);
}

static void learn_times(mk_sched *s, double ms, int64_t answers, int64_t prompts) {
    if (prompts == 0) {
        smooth(&s->answer_ms, ms);
    } else if (answers == 0 && s->row_ms <= 0) {
        s->row_ms = FEW_ROWS * ms / (double)prompts;
    } else if (answers > 0 && ms > s->answer_ms) {
        // a round that took far too long was the machine's fault, not its rows'
        double row = (ms - s->answer_ms) / (double)prompts;
        smooth(&s->row_ms, s->row_ms <= 0 || row < 2 * s->row_ms ? row : 2 * s->row_ms);
    }
}

static void fail_all(mk_sched *s, const mk_err *err) {
    while (s->running) {
        mk_job *j = s->running;
        s->running = j->next;
        mk_sched_finish(s, j, MK_JOB_FAILED, err);
    }
}

// Whatever had rows takes its tokens; who has ended leaves.
static void take_all(mk_sched *s) {
    for (mk_job **at = &s->running; *at;) {
        mk_job *j = *at;
        mk_job_end end = MK_JOB_FULL;
        bool go = true;
        if (j->n_row > 0) {
            go = j->state == JOB_ANSWER ? take_answer(s, j, &end) : take_prompt(s, j, &end);
        }
        if (go) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        mk_sched_finish(s, j, end, NULL);
    }
}

// Before the tokens go out: whoever has an answer finds its rounds in the figures.
static void count_round(mk_sched *s, double ms, int64_t answers, int64_t prompts) {
    pthread_mutex_lock(&s->lock);
    s->figures.rounds++;
    s->figures.rows += answers + prompts;
    s->figures.prompt_tokens += prompts;
    s->figures.busy_s += ms / 1e3;
    pthread_mutex_unlock(&s->lock);
}

void mk_sched_round(mk_sched *s) {
    for (mk_job **at = &s->running; *at;) {
        mk_job *j = *at;
        if (!atomic_load(&j->cancelled)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        mk_sched_finish(s, j, MK_JOB_CANCELLED, NULL);
    }
    feed f = {0};
    int64_t answers = rows_for_answers(s, &f);
    int64_t prompts = rows_for_prompts(s, prompt_budget(s, answers), &f);
    if (f.n_step == 0) {
        if (s->running) {  // all of them read
            mk_prefix_wait(s->o.prefix, READ_MS);
        }
        return;
    }
    if (s->o.prefix) {
        (void)mk_prefix_make_room(s->o.prefix, (answers + prompts) / MK_KV_BLOCK + f.n_step);
    }
    mk_err err = {0};
    uint64_t t0 = mk_now_ns();
    if (mk_engine_forward(s->o.engine, s->step, (int)f.n_step, &err) != MK_OK) {
        fail_all(s, &err);
        return;
    }
    double ms = (double)(mk_now_ns() - t0) / 1e6;
    learn_times(s, ms, answers, prompts);
    count_round(s, ms, answers, prompts);
    take_all(s);
    pthread_mutex_lock(&s->lock);
    s->figures.kv_blocks_used = mk_kv_blocks_used(mk_engine_kv(s->o.engine));
    s->figures.kv_blocks_total = mk_kv_blocks_total(mk_engine_kv(s->o.engine));
    pthread_mutex_unlock(&s->lock);
}
