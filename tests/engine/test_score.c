// Log-probabilities of prompts: what the official implementation says, and bit for bit what was
// said when the same tokens were generated, however the prompt is cut, whoever runs beside it, and
// whatever the prefix cache knows.
#include "base/mathx.h"
#include "cmocka_all.h"
#include "engine/finish.h"
#include "engine/golden_model.h"
#include "engine/sched.h"

#define V3     GOLDEN_DIR "models/deepseek_v3"
#define LLAMA3 GOLDEN_DIR "models/llama3"
enum { N_CTX = 512, N_PROMPT = 41, N_NEW = 40, MAX_JOB = 8, N_TOP = 3 };

typedef struct {
    int64_t n_vocab;
    finish end;
    int32_t ids[N_CTX];  // prompt, if it is scored, and answer
    float logp[N_CTX];
    mk_logprob top[N_CTX][N_TOP];
    int64_t n, n_generated, n_end, n_begin;
    mk_job_start start;
    mk_job_result result;
    // another job that is submitted when this one is done
    mk_sched *s;
    mk_job_opts *next;
    mk_status next_status;
} client;

static void note(client *c, const mk_job_token *t) {
    assert_true(c->n < N_CTX);
    c->ids[c->n] = t->id;
    if (t->logits) {
        c->logp[c->n] = mk_logprob_of(t->logits, c->n_vocab, t->id);
        assert_int_equal(mk_logprob_top(t->logits, c->n_vocab, N_TOP, c->top[c->n]), N_TOP);
    }
    c->n++;
}

static void on_prompt(void *arg, const mk_job_token *t) {
    client *c = arg;
    assert_int_equal(t->pos, c->n);
    assert_true((t->logits == NULL) == (t->pos == 0));
    assert_int_equal(c->n_begin, 0);
    note(c, t);
}

static void on_begin(void *arg, const mk_job_start *s) {
    client *c = arg;
    c->n_begin++;
    c->start = *s;
}

static mk_job_verdict on_token(void *arg, const mk_job_token *t) {
    client *c = arg;
    note(c, t);
    c->n_generated++;
    return MK_JOB_GO;
}

static void on_end(void *arg, const mk_job_token *t) {
    client *c = arg;
    note(c, t);
    c->n_end++;
}

static void on_done(void *arg, const mk_job_result *r) {
    client *c = arg;
    mk_err err;
    if (c->next) {
        c->next_status = mk_sched_submit(c->s, c->next, NULL, &err);
    }
    c->result = *r;
    finish_set(&c->end);
}

static void client_init(client *c, const rig *r) {
    *c = (client){.n_vocab = r->model->hp.n_vocab};
    finish_init(&c->end);
}

static mk_sched *start(const rig *r, mk_prefix *prefix, int64_t n_seq, int n_draft,
                       int64_t max_waiting) {
    mk_sched *s = NULL;
    mk_err err = {0};
    mk_sched_opts o = {.engine = r->engine,
                       .prefix = prefix,
                       .n_seq = n_seq,
                       .max_waiting = max_waiting,
                       .n_draft = n_draft};
    assert_int_equal(mk_sched_start(&o, &s, &err), MK_OK);
    return s;
}

static mk_job_opts scoring(const int32_t *ids, int64_t n, client *c) {
    return (mk_job_opts){
        .ids = ids,
        .n = n,
        .sample = {.top_p = 1, .repetition_penalty = 1},  // greedy
        .hooks = {.prompt = on_prompt,
                  .begin = on_begin,
                  .token = on_token,
                  .end = on_end,
                  .done = on_done},
        .arg = c,
    };
}

static void submit(mk_sched *s, const mk_job_opts *o) {
    mk_err err = {0};
    assert_int_equal(mk_sched_submit(s, o, NULL, &err), MK_OK);
}

// --- the official implementation -----------------------------------------------------------------

// transformers' log-softmax of its own logits at position pos for the token behind it.
static double golden_logp(const golden *g, int64_t row, int32_t id) {
    const float *z = g->logits + row * g->n_vocab;
    double max = -INFINITY, sum = 0;
    for (int64_t v = 0; v < g->n_vocab; v++) {
        max = fmax(max, (double)z[v]);
    }
    for (int64_t v = 0; v < g->n_vocab; v++) {
        sum += exp((double)z[v] - max);
    }
    return (double)z[id] - max - log(sum);
}

// Two float32 computations with other orders of summation: logits agree to 1e-5 of their length,
// which is 1e-4 of one of them here.
static void check_golden(const char *folder) {
    char prefix[256];
    (void)snprintf(prefix, sizeof prefix, "%s/golden", folder);
    golden g = golden_read(prefix);
    rig r =
        rig_open(folder, (rig_opts){.kv_type = MK_KV_F32, .n_seq = 1, .n_chunk = 50, .n_out = 33});
    mk_sched *s = start(&r, NULL, 1, 0, 1);
    static client c;
    client_init(&c, &r);
    mk_job_opts o = scoring(g.ids, g.n_ids, &c);
    submit(s, &o);
    finish_wait(&c.end);
    assert_int_equal(c.result.end, MK_JOB_FULL);
    assert_int_equal(c.n, g.n_ids);
    assert_memory_equal(c.ids, g.ids, (size_t)g.n_ids * sizeof *g.ids);
    int64_t n = 0;
    for (int64_t i = 0; i < g.n_rows; i++) {
        int64_t pos = g.rows[i] + 1;
        if (pos < g.n_ids) {
            double want = golden_logp(&g, i, g.ids[pos]), got = (double)c.logp[pos];
            if (!(fabs(got - want) < 1e-4)) {
                fail_msg("%s: token %lld: %.7f, transformers: %.7f", folder, (long long)pos, got,
                         want);
            }
            n++;
        }
    }
    assert_true(n > 40);
    mk_sched_stop(s);
    rig_close(&r);
    golden_free(&g);
}

static void test_golden(void **state) {
    (void)state;
    check_golden(LLAMA3);
    check_golden(V3);
}

// --- the same bits -------------------------------------------------------------------------------

static int64_t make_prompt(int k, int32_t *ids) {
    for (int64_t i = 0; i < N_PROMPT; i++) {
        ids[i] = (int32_t)((i * 7 + 3 * k) % 200);
    }
    return N_PROMPT;
}

// Answers to MAX_JOB prompts, one after the other, token by token.
static void generate(const rig *r, client *out) {
    mk_sched *s = start(r, NULL, 1, 0, 1);
    for (int k = 0; k < MAX_JOB; k++) {
        int32_t ids[N_PROMPT];
        client_init(&out[k], r);
        mk_job_opts o = scoring(ids, make_prompt(k, ids), &out[k]);
        o.hooks.prompt = NULL;
        o.n_predict = N_NEW;
        o.sample.temperature = 0.9f;
        o.sample.seed = (uint64_t)k;
        submit(s, &o);
        finish_wait(&out[k].end);
        assert_int_equal(out[k].n, N_NEW);
    }
    mk_sched_stop(s);
}

// Of a scored prompt: the tokens that were generated have the numbers they had.
static void check_same(const client *made, const client *c) {
    assert_int_equal(c->n, N_PROMPT + N_NEW);
    assert_int_equal(c->n_generated, 0);
    assert_int_equal(c->n_begin, 1);
    assert_int_equal(c->start.n_cached, 0);
    assert_memory_equal(c->ids + N_PROMPT, made->ids, N_NEW * sizeof *made->ids);
    assert_memory_equal(c->logp + N_PROMPT, made->logp, N_NEW * sizeof *made->logp);
    assert_memory_equal(c->top + N_PROMPT, made->top, N_NEW * sizeof *made->top);
}

typedef struct {
    int n_seq, n_draft, n_chunk, n_out;
    bool prefix, others;  // jobs that generate beside those that are scored
} setting;

static void score_all(setting x, const client *made) {
    rig r = rig_open(
        V3, (rig_opts){.n_ctx = N_CTX, .n_seq = x.n_seq, .n_chunk = x.n_chunk, .n_out = x.n_out});
    mk_prefix *prefix = NULL;
    mk_err err = {0};
    mk_prefix_opts po = {.engine = r.engine};
    assert_int_equal(x.prefix ? mk_prefix_create(&po, &prefix, &err) : MK_OK, MK_OK);
    mk_sched *s = start(&r, prefix, x.n_seq, x.n_draft, 2 * MAX_JOB);
    static client c[MAX_JOB], beside[MAX_JOB];
    int32_t ids[N_PROMPT + N_NEW];
    for (int round = 0; round < 1 + x.prefix; round++) {  // the second finds all of it known
        for (int k = 0; k < MAX_JOB; k++) {
            int64_t n = make_prompt(k, ids);
            memcpy(ids + n, made[k].ids, N_NEW * sizeof *ids);
            client_init(&c[k], &r);
            mk_job_opts o = scoring(ids, n + N_NEW, &c[k]);
            submit(s, &o);
            client_init(&beside[k], &r);
            o = scoring(ids, n, &beside[k]);
            o.hooks.prompt = NULL;
            o.n_predict = x.others ? 5 : 0;
            submit(s, &o);
        }
        for (int k = 0; k < MAX_JOB; k++) {
            finish_wait(&c[k].end);
            finish_wait(&beside[k].end);
            check_same(&made[k], &c[k]);
            assert_int_equal(beside[k].n, x.others ? 5 : 0);
        }
    }
    mk_prefix_figures known = {0};
    if (prefix) {
        mk_prefix_read(prefix, &known);
    }
    assert_true(known.memory_blocks >= (x.prefix ? MAX_JOB : 0));
    mk_sched_stop(s);
    mk_prefix_destroy(prefix);
    rig_close(&r);
}

static void test_same_as_generated(void **state) {
    (void)state;
    static client made[MAX_JOB];
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX});
    generate(&r, made);
    rig_close(&r);
    score_all((setting){.n_seq = 1, .n_chunk = 512, .n_out = 256}, made);
    score_all((setting){.n_seq = 1, .n_chunk = 8, .n_out = 1}, made);
    score_all((setting){.n_seq = 4, .n_chunk = 64, .n_out = 7, .others = true}, made);
    score_all((setting){.n_seq = 8, .n_chunk = 16, .n_out = 8, .others = true}, made);
    score_all((setting){.n_seq = 4, .n_draft = 4, .n_chunk = 96, .n_out = 20, .others = true},
              made);
    score_all((setting){.n_seq = 2, .n_chunk = 64, .n_out = 32, .prefix = true, .others = true},
              made);
}

// --- ends ----------------------------------------------------------------------------------------

static void test_ends(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 64, .n_seq = 1, .n_out = 16});
    mk_sched *s = start(&r, NULL, 1, 0, 1);
    static client c, again;
    int32_t ids[65] = {0};
    mk_err err = {0};
    make_prompt(0, ids);
    // a prompt that fills the window, and one token more
    client_init(&c, &r);
    mk_job_opts o = scoring(ids, 64, &c);
    submit(s, &o);
    finish_wait(&c.end);
    assert_int_equal(c.result.end, MK_JOB_FULL);
    assert_int_equal(c.n, 64);
    o.n = 65;
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_ECONTEXT);
    assert_string_equal(err.msg, "the prompt has 65 tokens, the window 64; nothing was cut");
    o.n = 64;
    o.n_predict = 1;
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_ECONTEXT);
    assert_non_null(strstr(err.msg, "an answer needs at least one"));
    // one token, and its prompt; then that token is what ends
    client_init(&c, &r);
    o = scoring(ids, 1, &c);
    o.n_predict = 1;
    submit(s, &o);
    finish_wait(&c.end);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.n_generated, 1);
    client_init(&again, &r);
    o.end_ids = &c.ids[1];
    o.n_end = 1;
    o.arg = &again;
    submit(s, &o);
    finish_wait(&again.end);
    assert_int_equal(again.result.end, MK_JOB_ENDED);
    assert_int_equal(again.n_generated, 0);
    assert_int_equal(again.n_end, 1);
    assert_int_equal(again.n, 2);
    assert_memory_equal(&again.logp[1], &c.logp[1], sizeof c.logp[1]);
    mk_sched_stop(s);
    rig_close(&r);
}

// --- one place after the other -------------------------------------------------------------------

// What takes the place of a job that has ended is let into a full queue; what does not is refused.
static void test_instead(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1, .n_out = 16});
    mk_sched *s = start(&r, NULL, 1, 0, 0);  // nobody may wait
    static client c[3];
    int32_t ids[N_PROMPT];
    mk_err err = {0};
    int64_t n = make_prompt(1, ids);
    mk_job_opts o[3];
    for (int i = 0; i < 3; i++) {
        client_init(&c[i], &r);
        o[i] = scoring(ids, n, &c[i]);
        o[i].instead = i < 2;
    }
    c[0].s = c[1].s = s;
    c[0].next = &o[1];  // is done: the next is taken
    c[1].next = &o[2];  // but not one that comes by itself
    assert_int_equal(mk_sched_submit(s, &o[2], NULL, &err), MK_ELIMIT);
    submit(s, &o[0]);
    finish_wait(&c[0].end);
    finish_wait(&c[1].end);
    assert_int_equal(c[0].next_status, MK_OK);
    assert_int_equal(c[1].next_status, MK_ELIMIT);
    assert_int_equal(c[1].n, n);
    assert_false(c[2].end.set);
    mk_sched_stop(s);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_same_as_generated),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_instead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
