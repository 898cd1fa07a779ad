// The scheduler: what a job says does not depend on its neighbours, on drafts or on the cache; and
// jobs end in every way they can.  Truth: the same model by session and sampler, one token at a
// time.
#include <pthread.h>
#include <unistd.h>

#include "cmocka_all.h"
#include "engine/finish.h"
#include "engine/golden_model.h"
#include "engine/sched.h"
#include "engine/session.h"
#include "torture.h"

#define V3 GOLDEN_DIR "models/deepseek_v3"
enum { N_CTX = 256, N_JOB = 16, N_NEW = 40 };

typedef struct {
    mk_sched *s;
    mk_job *job;
    finish end;
    int32_t ids[N_CTX];
    int64_t n, n_begin, stop_after;
    mk_job_start start;
    mk_job_result result;
    mk_status why;  // it failed
    bool odd_only;
} client;

static void on_begin(void *arg, const mk_job_start *s) {
    client *c = arg;
    c->n_begin++;
    c->start = *s;
}

static mk_job_verdict on_token(void *arg, const mk_job_token *t) {
    client *c = arg;
    c->ids[c->n++] = t->id;
    return c->stop_after > 0 && c->n >= c->stop_after ? MK_JOB_STOP : MK_JOB_GO;
}

static bool on_allow(void *arg, uint64_t *allowed, int32_t *force) {
    client *c = arg;
    (void)force;
    allowed[0] &= UINT64_C(0xAAAAAAAAAAAAAAAA);
    for (int i = 1; c->odd_only && i < 4; i++) {
        allowed[i] &= UINT64_C(0xAAAAAAAAAAAAAAAA);
    }
    return c->odd_only;
}

static void on_done(void *arg, const mk_job_result *r) {
    client *c = arg;
    c->result = *r;
    c->why = r->error ? r->error->code : MK_OK;
    finish_set(&c->end);
}

static void client_init(client *c, mk_sched *s) {
    *c = (client){.s = s};
    finish_init(&c->end);
}

// Prompt k: some tokens, of another length each.
static int64_t make_prompt(int k, int32_t *ids) {
    int64_t n = 3 + 11 * k % 150;
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((i < 70 ? i * 7 : i * 7 + k) % 200);
    }
    return n;
}

// A third of the jobs speaks three words only: it repeats itself, so that drafts come true.
static const mk_logit_bias few[] = {{5, 100}, {6, 100}, {7, 100}};

static mk_sample_params params_of(int k) {
    mk_sample_params p = MK_SAMPLE_DEFAULTS;
    p.temperature = k % 3 == 0 ? 0 : 0.9f;
    p.repetition_penalty = k % 4 == 1 ? 1.2f : 1;
    p.seed = (uint64_t)k;
    p.bias = k % 3 == 0 ? few : NULL;
    p.n_bias = k % 3 == 0 ? 3 : 0;
    return p;
}

static mk_job_opts job_of(int k, int32_t *ids, client *c) {
    return (mk_job_opts){
        .ids = ids,
        .n = make_prompt(k, ids),
        .sample = params_of(k),
        .n_predict = N_NEW,
        .hooks = {.begin = on_begin, .token = on_token, .done = on_done},
        .arg = c,
    };
}

static void expected(rig *r, int k, int32_t *out) {
    mk_session *s = NULL;
    mk_sampler *sampler = NULL;
    mk_err err = {0};
    int32_t ids[N_CTX];
    int64_t n = make_prompt(k, ids);
    mk_sample_params p = params_of(k);
    assert_int_equal(mk_session_create(r->engine, &s, &err), MK_OK);
    assert_int_equal(mk_sampler_create(&p, r->model->hp.n_vocab, N_CTX, &sampler, &err), MK_OK);
    assert_int_equal(mk_session_sync(s, ids, n, NULL, &err), MK_OK);
    for (int64_t i = 0; i < n; i++) {
        mk_sampler_accept(sampler, ids[i], false);
    }
    for (int i = 0; i < N_NEW; i++) {
        out[i] = mk_sampler_choose(sampler, mk_session_logits(s), mk_session_length(s));
        mk_sampler_accept(sampler, out[i], true);
        assert_int_equal(mk_session_push(s, out[i], &err), MK_OK);
    }
    mk_sampler_destroy(sampler);
    mk_session_destroy(s);
}

static mk_sched *start(rig *r, int64_t n_seq, int n_draft, int64_t max_waiting) {
    mk_sched *s = NULL;
    mk_err err = {0};
    mk_sched_opts o = {
        .engine = r->engine, .n_seq = n_seq, .max_waiting = max_waiting, .n_draft = n_draft};
    assert_int_equal(mk_sched_start(&o, &s, &err), MK_OK);
    return s;
}

static void together(int n_seq, int n_draft, int n_chunk, int32_t want[N_JOB][N_NEW]) {
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX,
                                    .n_seq = n_seq,
                                    .n_chunk = n_chunk,
                                    .n_out = n_seq * (1 + n_draft)});
    mk_sched *s = start(&r, n_seq, n_draft, N_JOB);
    static client c[N_JOB];
    int32_t ids[N_CTX];
    mk_err err = {0};
    for (int k = 0; k < N_JOB; k++) {
        client_init(&c[k], s);
        mk_job_opts o = job_of(k, ids, &c[k]);
        assert_int_equal(mk_sched_submit(s, &o, &c[k].job, &err), MK_OK);
    }
    for (int k = 0; k < N_JOB; k++) {
        finish_wait(&c[k].end);
        assert_int_equal(c[k].result.end, MK_JOB_FULL);
        assert_int_equal(c[k].n_begin, 1);
        assert_int_equal(c[k].n, N_NEW);
        assert_memory_equal(c[k].ids, want[k], sizeof want[k]);
    }
    mk_sched_figures f;
    mk_sched_read(s, &f);
    assert_int_equal(f.n_done, N_JOB);
    assert_int_equal(f.generated_tokens, N_JOB * N_NEW);
    // every token of a prompt has a row, every token of an answer but the last, and wrong drafts
    int64_t n_prompt = 0;
    for (int k = 0; k < N_JOB; k++) {
        n_prompt += make_prompt(k, ids);
    }
    assert_int_equal(f.prompt_tokens, n_prompt);
    assert_int_equal(f.rows, n_prompt + N_JOB * (N_NEW - 1) + f.drafted_tokens - f.accepted_tokens);
    assert_true(f.rounds >= (n_draft ? 1 : N_NEW) && f.rounds <= f.rows);
    if (n_draft > 0) {
        printf("drafted %lld, accepted %lld\n", (long long)f.drafted_tokens,
               (long long)f.accepted_tokens);
        assert_true(f.drafted_tokens > 0 && f.accepted_tokens > 0);
    }
    mk_sched_stop(s);
    rig_close(&r);
}

static void test_load_changes_nothing(void **state) {
    (void)state;
    static int32_t want[N_JOB][N_NEW];
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX});
    for (int k = 0; k < N_JOB; k++) {
        expected(&r, k, want[k]);
    }
    rig_close(&r);
    together(1, 0, 64, want);
    together(4, 0, 512, want);
    together(16, 0, 16, want);
    together(16, 0, 512, want);
    together(1, 8, 64, want);
    together(16, 4, 96, want);
}

static void test_mask(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 2});
    mk_sched *s = start(&r, 2, 0, 4);
    client c;
    int32_t ids[N_CTX];
    mk_err err = {0};
    client_init(&c, s);
    c.odd_only = true;
    mk_job_opts o = job_of(2, ids, &c);
    o.hooks.allow = on_allow;
    assert_int_equal(mk_sched_submit(s, &o, &c.job, &err), MK_OK);
    finish_wait(&c.end);
    for (int64_t i = 0; i < c.n; i++) {
        assert_true(c.ids[i] % 2 == 1 || c.ids[i] >= 256);
    }
    mk_sched_stop(s);
    rig_close(&r);
}

static void test_ends(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 2});
    int32_t want[N_NEW], ids[N_CTX];
    mk_err err = {0};
    expected(&r, 3, want);
    mk_sched *s = start(&r, 2, 0, 1);
    client c;
    // a hook that stops
    client_init(&c, s);
    c.stop_after = 5;
    mk_job_opts o = job_of(3, ids, &c);
    assert_int_equal(mk_sched_submit(s, &o, &c.job, &err), MK_OK);
    finish_wait(&c.end);
    assert_int_equal(c.result.end, MK_JOB_STOPPED);
    assert_int_equal(c.n, 5);
    // a token that ends: it is not given out
    client_init(&c, s);
    o = job_of(3, ids, &c);
    o.end_ids = &want[7];
    o.n_end = 1;
    assert_int_equal(mk_sched_submit(s, &o, &c.job, &err), MK_OK);
    finish_wait(&c.end);
    assert_int_equal(c.result.end, MK_JOB_ENDED);
    assert_true(c.n <= 7);
    // the window
    client_init(&c, s);
    o = job_of(3, ids, &c);
    o.n_predict = -1;
    assert_int_equal(mk_sched_submit(s, &o, &c.job, &err), MK_OK);
    finish_wait(&c.end);
    assert_int_equal(c.result.end, MK_JOB_FULL);
    assert_int_equal(c.n + o.n, N_CTX);
    // nothing asked for
    client_init(&c, s);
    o = job_of(3, ids, &c);
    o.n_predict = 0;
    assert_int_equal(mk_sched_submit(s, &o, &c.job, &err), MK_OK);
    finish_wait(&c.end);
    assert_int_equal(c.n, 0);
    assert_int_equal(c.n_begin, 1);
    mk_sched_stop(s);
    rig_close(&r);
}

static void test_refusals(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1});
    mk_sched *s = start(&r, 1, 0, 2);
    static client c[8];
    int32_t ids[N_CTX] = {0};
    mk_err err = {0};
    mk_job_opts o = {
        .ids = ids, .n = N_CTX, .n_predict = 1, .sample = params_of(1), .hooks = {.done = on_done}};
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_ECONTEXT);
    assert_non_null(strstr(err.msg, "256"));
    o.n = 0;
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_EUSAGE);
    o.n = 2;
    ids[1] = 1 << 30;
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_EUSAGE);
    o.sample.temperature = -1;
    ids[1] = 1;
    assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_EUSAGE);
    // more than may wait
    int refused = 0, taken = 0;
    for (int k = 0; k < 8; k++) {
        client_init(&c[k], s);
        mk_job_opts q = job_of(k, ids, &c[k]);
        q.n_predict = -1;
        mk_status st = mk_sched_submit(s, &q, &c[k].job, &err);
        refused += st == MK_ELIMIT;
        taken += st == MK_OK;
        c[k].end.set = st != MK_OK;
    }
    assert_true(refused >= 4 && taken >= 2);
    mk_sched_stop(s);  // ends what runs and what waits
    for (int k = 0; k < 8; k++) {
        assert_true(c[k].end.set);
    }
    rig_close(&r);
}

static void test_cancel(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1, .n_chunk = 8});
    mk_sched *s = start(&r, 1, 0, 8);
    static client c[4];
    int32_t ids[N_CTX];
    mk_err err = {0};
    for (int k = 0; k < 4; k++) {
        client_init(&c[k], s);
        mk_job_opts o = job_of(12 + k, ids, &c[k]);
        o.n_predict = -1;
        assert_int_equal(mk_sched_submit(s, &o, &c[k].job, &err), MK_OK);
    }
    for (int k = 3; k > 0; k--) {  // those that wait, last first
        mk_sched_cancel(s, c[k].job);
        finish_wait(&c[k].end);
        assert_int_equal(c[k].result.end, MK_JOB_CANCELLED);
        assert_int_equal(c[k].n, 0);
    }
    mk_sched_cancel(s, c[0].job);  // in its prompt or its answer
    finish_wait(&c[0].end);
    assert_int_equal(c[0].result.end, MK_JOB_CANCELLED);
    // the sequence is free again
    client_init(&c[0], s);
    mk_job_opts o = job_of(1, ids, &c[0]);
    assert_int_equal(mk_sched_submit(s, &o, &c[0].job, &err), MK_OK);
    finish_wait(&c[0].end);
    assert_int_equal(c[0].result.end, MK_JOB_FULL);
    mk_sched_stop(s);
    rig_close(&r);
}

// With one place, tenants take turns: the tenth job of one does not hold up the first of another.
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;
static int order[16], n_order;

static void note_order(void *arg, const mk_job_result *r) {
    (void)r;
    pthread_mutex_lock(&order_lock);
    order[n_order++] = *(int *)arg;
    pthread_mutex_unlock(&order_lock);
}

static void block(void *arg) {
    while (!__atomic_load_n((int *)arg, __ATOMIC_ACQUIRE)) {
        usleep(1000);
    }
}

static void *call_block(void *arg) {
    void **a = arg;
    mk_err err;
    return (void *)(intptr_t)mk_sched_call(a[0], block, a[1], &err);
}

static void test_fair(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1});
    mk_sched *s = start(&r, 1, 0, 16);
    int32_t ids[3] = {1, 2, 3};
    int go = 0, who[6] = {1, 1, 1, 1, 2, 2};
    void *arg[2] = {s, &go};
    pthread_t t;
    pthread_create(&t, NULL, call_block, arg);
    mk_err err = {0};
    for (int i = 0; i < 6; i++) {
        mk_job_opts o = {.ids = ids,
                         .n = 3,
                         .n_predict = 2,
                         .sample = params_of(1),
                         .tenant = (uint64_t)who[i],
                         .hooks = {.done = note_order},
                         .arg = &who[i]};
        assert_int_equal(mk_sched_submit(s, &o, NULL, &err), MK_OK);
    }
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    void *st = NULL;
    pthread_join(t, &st);
    assert_int_equal((intptr_t)st, MK_OK);
    for (int n = 0; n < 6;) {
        usleep(1000);
        pthread_mutex_lock(&order_lock);
        n = n_order;
        pthread_mutex_unlock(&order_lock);
    }
    // 1 and 2 alternate while both wait (the first may have been taken before the others came)
    int first_two = 0;
    for (int i = 0; i < 4; i++) {
        first_two += order[i] == 2;
    }
    assert_int_equal(first_two, 2);
    mk_sched_stop(s);
    rig_close(&r);
}

// --- allocations that fail -----------------------------------------------------------------------

// A job in the queue and one at work, drafts, a mask: each is answered whole or fails, and says so
// once.
static mk_status two_jobs(void *arg, mk_err *err) {
    static client c[2];
    mk_sched *s = NULL;
    mk_sched_opts so = {.engine = arg, .n_seq = 1, .max_waiting = 2, .n_draft = 2};
    MK_TRY(mk_sched_start(&so, &s, err));
    int32_t ids[N_CTX];
    mk_status st = MK_OK;
    for (int k = 0; k < 2; k++) {
        client_init(&c[k], s);
        mk_job_opts o = job_of(3 * k, ids, &c[k]);  // with a bias
        o.n_predict = 3;
        o.end_ids = &(int32_t){319};
        o.n_end = 1;
        mk_status one = mk_sched_submit(s, &o, &c[k].job, err);
        c[k].end.set = one != MK_OK;
        st = st == MK_OK ? one : st;
    }
    for (int k = 0; k < 2; k++) {
        finish_wait(&c[k].end);
        assert_true(c[k].job == NULL || c[k].result.end == MK_JOB_FAILED || c[k].n == 3);
        st = st == MK_OK && c[k].job ? c[k].why : st;
    }
    mk_sched_stop(s);
    return st;
}

static void test_torture(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1, .n_out = 3});
    int64_t n = mk_torture(two_jobs, r.engine);
    printf("%lld allocations failed one by one\n", (long long)n);
    assert_true(n > 10);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_changes_nothing),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_fair),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
