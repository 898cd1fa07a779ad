// A prompt that comes back from disk does not hold up who is being answered, and is answered as if
// it had been read.
#include "engine/prefix_util.h"

// behind it: `dir` is a parameter there
#include "engine/prefix_dir.h"

#include <pthread.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/sched.h"

// Every file has one block.
enum { N_CTX = 1024, N_FILE = 14, N_PROMPT = N_FILE * MK_KV_BLOCK + 5, N_NEW = 20 };
static int remove_dir(void **state) {
    (void)state;
    mk_prefix *p = NULL;
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 1});
    p = new_prefix(&r, dir, BIG);
    mk_prefix_forget(p, UINT64_MAX);
    mk_prefix_destroy(p);
    rig_close(&r);
    return rmdir(dir);
}

// --- jobs ----------------------------------------------------------------------------------------

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;

typedef struct client client;
struct client {
    const client *beside;
    int64_t n, n_cached, beside_at_begin;  // tokens; those of the other when this one begins
    int32_t ids[N_CTX];
    bool done;
    mk_job_end end;
};

static void on_begin(void *arg, const mk_job_start *s) {
    client *c = arg;
    pthread_mutex_lock(&lock);
    c->n_cached = s->n_cached;
    c->beside_at_begin = c->beside ? c->beside->n : 0;
    pthread_mutex_unlock(&lock);
}

static mk_job_verdict on_token(void *arg, const mk_job_token *t) {
    client *c = arg;
    pthread_mutex_lock(&lock);
    c->ids[c->n++] = t->id;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
    return MK_JOB_GO;
}

static void on_done(void *arg, const mk_job_result *r) {
    client *c = arg;
    pthread_mutex_lock(&lock);
    c->done = true;
    c->end = r->end;
    pthread_cond_broadcast(&change);
    pthread_mutex_unlock(&lock);
}

static mk_job *submit(mk_sched *s, client *c, const int32_t *ids, int64_t n, int64_t n_predict) {
    mk_job *j = NULL;
    mk_err err = {0};
    mk_sample_params sample = MK_SAMPLE_DEFAULTS;
    sample.seed = 7;
    mk_job_opts o = {.ids = ids,
                     .n = n,
                     .n_predict = n_predict,
                     .sample = sample,
                     .tenant = 1,
                     .hooks = {.begin = on_begin, .token = on_token, .done = on_done},
                     .arg = c};
    assert_int_equal(mk_sched_submit(s, &o, &j, &err), MK_OK);
    return j;
}

static int64_t wait_for(const client *c, int64_t n, bool done) {
    pthread_mutex_lock(&lock);
    while (c->n < n || (done && !c->done)) {
        pthread_cond_wait(&change, &lock);
    }
    int64_t now = c->n;
    pthread_mutex_unlock(&lock);
    return now;
}

static mk_sched *start(const rig *r, mk_prefix *p) {
    mk_sched *s = NULL;
    mk_err err = {0};
    mk_sched_opts o = {.engine = r->engine, .prefix = p, .n_seq = 3, .max_waiting = 4};
    assert_int_equal(mk_sched_start(&o, &s, &err), MK_OK);
    return s;
}

// --- tests ---------------------------------------------------------------------------------------

static void test_others_go_on(void **state) {
    (void)state;
    static int32_t ids[N_CTX];
    static client cold, a, b, gone;
    int32_t few[3] = {1, 2, 3};
    fill_ids(ids, N_CTX, 91);
    rig r = rig_open(V3, (rig_opts){.n_ctx = N_CTX, .n_seq = 3});
    mk_sched *s = start(&r, NULL);
    cold = (client){0};
    (void)submit(s, &cold, ids, N_PROMPT, N_NEW);
    wait_for(&cold, N_NEW, true);
    mk_sched_stop(s);
    mk_prefix *p = new_prefix(&r, dir, BIG);
    for (int64_t n = MK_KV_BLOCK; n < N_PROMPT; n += MK_KV_BLOCK) {  // a file each
        (void)answer(&r, p, 1, ids, n + 1, NULL);
        mk_prefix_flush(p);
    }
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, BIG);
    s = start(&r, p);
    b = (client){0};
    a = (client){.beside = &b};
    (void)submit(s, &b, few, 3, -1);  // as long as the window is
    int64_t before = wait_for(&b, 2, false);
    (void)submit(s, &a, ids, N_PROMPT, N_NEW);
    pthread_mutex_lock(&lock);  // so that it cannot be over before
    mk_sched_cancel(s, submit(s, &gone, ids, N_PROMPT, N_NEW));
    pthread_mutex_unlock(&lock);
    wait_for(&a, N_NEW, true);
    wait_for(&gone, 0, true);
    assert_int_equal(gone.end, MK_JOB_CANCELLED);
    assert_int_equal(a.n_cached, N_FILE * MK_KV_BLOCK);
    assert_memory_equal(a.ids, cold.ids, N_NEW * sizeof *a.ids);
    // no round had more than one file of it: the other had a token in each
    assert_true(a.beside_at_begin - before >= N_FILE - 1);
    mk_sched_stop(s);
    mk_prefix_destroy(p);
    // alone, and stopped in the middle
    p = new_prefix(&r, dir, BIG);
    s = start(&r, p);
    a = (client){0};
    (void)submit(s, &a, ids, N_PROMPT, N_NEW);
    wait_for(&a, N_NEW, true);
    assert_int_equal(a.n_cached, N_FILE * MK_KV_BLOCK);
    assert_memory_equal(a.ids, cold.ids, N_NEW * sizeof *a.ids);
    mk_sched_stop(s);
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, BIG);
    s = start(&r, p);
    a = (client){0};
    (void)submit(s, &a, ids, N_PROMPT, N_NEW);
    mk_sched_stop(s);
    assert_true(a.done);
    mk_prefix_destroy(p);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_others_go_on, make_dir, remove_dir)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
