// Dynamic sampling: which groups take the place of those that teach nothing, what is counted, where
// the run stands in its data afterwards.  Truth: the same completions, drawn one round at a time
// with mk_samples alone.  (The gradient, and that sampler and trainer agree, is
// tests/cli/test_train.py's.)
#include "train/grpo.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mathx.h"
#include "cmocka_all.h"

enum { N_PROMPT = 4, GROUP = 6, MAX_TOK = 4, N_LINE = 11 };
#define SEED 7

typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_tokenizer *tok;
    mk_data *data;
    mk_rewards *rewards;
    mk_trainer *tr;
    mk_grpo *g;
    mk_grpo_opts o;
    mk_err err;
} rig;

static char dir[] = "/tmp/minke-grpo-XXXXXX";
static char *samples_path;

static int make_dir(void **state) {
    (void)state;
    samples_path = mkdtemp(dir) ? mk_path_join(dir, "samples.jsonl") : NULL;
    return samples_path ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    (void)unlink(samples_path);
    mk_free(samples_path);
    return rmdir(dir);
}

static void must(rig *r, mk_status st) {
    if (st != MK_OK) {
        fail_msg("%s", r->err.msg);
    }
}

// Lines that are not `lively` can only be wrong; the others are right for about half of what a
// model of random weights says.
static void add_lines(rig *r, const char *lively) {
    for (int i = 0; i < N_LINE; i++) {
        char line[200];
        (void)snprintf(line, sizeof line,
                       "{\"prompt\":\"Say %d:\",\"answer\":\"%s\",\"checker\":\"regex\"}", i,
                       lively[i] == '1' ? "(?s)[^a-n]*" : "never");
        must(r, mk_data_add_memory(r->data, "x.jsonl", line, strlen(line), &r->err));
    }
    assert_int_equal(mk_data_n_sample(r->data), N_LINE);
}

static rig open_rig(int n_thread, const char *lively, int64_t n_retry) {
    rig r = {0};
    const char *model = "tests/golden/models/llama", *reward = "checker";
    r.pool = mk_pool_create(n_thread);
    must(&r, mk_model_open(model, &r.model, &r.err));
    must(&r, mk_model_load_f32(r.model, r.pool, NULL, NULL, &r.err));
    must(&r, mk_tokenizer_from_folder(model, &r.tok, &r.err));
    mk_data_opts d = MK_DATA_DEFAULTS;
    d.tokenizer = r.tok;
    d.raw = true;
    must(&r, mk_data_create(&d, &r.data, &r.err));
    add_lines(&r, lively);
    must(&r, mk_rewards_create(&reward, 1, &(mk_rewards_opts){0}, &r.rewards, &r.err));
    mk_trainer_opts t = {.model = r.model,
                         .pool = r.pool,
                         .kv_type = MK_KV_F32,
                         .n_ctx = 32,
                         .n_row = 256,
                         .n_seq = N_PROMPT * GROUP,
                         .optim = mk_optim_defaults()};
    must(&r, mk_kernels_find("auto", &t.kernels, &r.err));
    must(&r, mk_trainer_create(&t, &r.tr, &r.err));
    r.o = (mk_grpo_opts){.trainer = r.tr,
                         .data = r.data,
                         .tokenizer = r.tok,
                         .rewards = r.rewards,
                         .variant = "dapo",
                         .n_row = 256,
                         .n_seq = N_PROMPT * GROUP,
                         .n_prompt = N_PROMPT,
                         .group = GROUP,
                         .max_tok = MAX_TOK,
                         .n_inner = 1,
                         .temperature = 1,
                         .clip_low = -1,
                         .clip_high = -1,
                         .n_retry = n_retry,
                         .keep_truncated = true,
                         .seed = SEED,
                         .samples = samples_path,
                         .n_sample = N_PROMPT * GROUP};
    must(&r, mk_grpo_create(&r.o, &r.g, &r.err));
    return r;
}

static void close_rig(rig *r) {
    mk_grpo_destroy(r->g);
    mk_trainer_destroy(r->tr);
    mk_rewards_destroy(r->rewards);
    mk_data_destroy(r->data);
    mk_tokenizer_destroy(r->tok);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

// Of one step, without an update: the weights stay.
static json_t *one_step(rig *r, int64_t step) {
    json_t *log = json_object();
    double g_scale = 0;
    must(r, mk_method_grpo.step(r->g, step, &g_scale, log, &r->err));
    mk_trainer_drop_gradients(r->tr);
    return log;
}

// --- what is expected ----------------------------------------------------------------------------

typedef struct {
    char *completion[N_PROMPT * GROUP];
    int64_t n_drawn, n_equal, n_redrawn, n_tok;
    double reward;  // mean
} expected;

static bool is_equal(const mk_samples *s) {
    for (int64_t i = 1; i < s->n; i++) {
        if (s->reward[i] != s->reward[0]) {
            return false;
        }
    }
    return true;
}

// Round after round, each prompt drawn by itself.  The batcher is the run's own order of prompts.
static void simulate(rig *r, mk_batcher *b, int64_t step, int64_t n_retry, expected *e) {
    mk_samples_opts so = {.engine = mk_trainer_engine(r->tr),
                          .tokenizer = r->tok,
                          .rewards = r->rewards,
                          .n_seq = 3,
                          .n_prompt = 1,
                          .group = GROUP,
                          .max_tok = MAX_TOK,
                          .temperature = 1};
    mk_samples *s = NULL;
    bool open[N_PROMPT] = {true, true, true, true};
    int64_t n_open = N_PROMPT, left = N_PROMPT * n_retry;
    uint64_t seed = mk_rng_u64(SEED, (uint64_t)step * 64);
    must(r, mk_samples_create(&so, &s, &r->err));
    *e = (expected){0};
    for (uint64_t round = 0; n_open > 0; round++) {
        for (int p = 0; p < N_PROMPT; p++) {
            if (!open[p] || (round > 0 && left == 0)) {
                continue;
            }
            mk_data_batch batch;
            mk_batcher_next(b, &batch);
            left -= round > 0;
            e->n_redrawn += round > 0;
            must(r, mk_samples_draw(s, r->data, &batch.seq[0].sample, 1,
                                    round > 0 ? mk_rng_u64(seed, round) : seed, &r->err));
            e->n_drawn++;
            for (int i = 0; i < GROUP; i++) {
                mk_free(e->completion[p * GROUP + i]);
                e->completion[p * GROUP + i] = mk_strdup(s->text[i]);
                e->reward += s->reward[i];
                e->n_tok += s->item[i].n;
            }
            open[p] = is_equal(s);
            e->n_equal += open[p];
            n_open -= !open[p];
        }
        if (left == 0) {
            break;
        }
    }
    e->reward /= (double)(e->n_drawn * GROUP);
    mk_samples_destroy(s);
}

static void assert_is(const json_t *log, const expected *e, int64_t n_retry) {
    double n = (double)e->n_drawn;
    assert_true(fabs(number(log, "reward") - e->reward) < 1e-12);
    assert_true(fabs(number(log, "reward/checker") - e->reward) < 1e-12);
    // right or wrong: the deviation follows from the mean
    assert_true(fabs(number(log, "reward_std") - sqrt(e->reward * (1 - e->reward))) < 1e-9);
    assert_true(number(log, "zero_variance") == (double)e->n_equal / n);
    assert_true(fabs(number(log, "length") - (double)e->n_tok / (n * GROUP)) < 1e-12);
    if (n_retry > 0) {
        assert_true(number(log, "redrawn") == n - N_PROMPT);
    } else {
        assert_null(json_object_get(log, "redrawn"));
    }
}

// Lines of samples.jsonl from `at` on.
static void assert_samples(int64_t at, int64_t step, const expected *e) {
    char *text = NULL, *line;
    size_t n = 0;
    mk_err err = {0};
    assert_int_equal(mk_file_read(samples_path, 1 << 20, &text, &n, &err), MK_OK);
    line = text;
    for (int64_t i = 0; i < at; i++) {
        line = strchr(line, '\n') + 1;
    }
    for (int i = 0; i < N_PROMPT * GROUP; i++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        json_t *o = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_int_equal(json_integer_value(json_object_get(o, "step")), step + 1);
        const char *c = json_string_value(json_object_get(o, "completion"));
        json_t *want = mk_json_text(e->completion[i], strlen(e->completion[i]));
        assert_string_equal(c, json_string_value(want));
        json_decref(want);
        json_decref(o);
        line = end + 1;
    }
    assert_int_equal(*line, 0);
    mk_free(text);
}

static void forget(expected *e) {
    for (int i = 0; i < N_PROMPT * GROUP; i++) {
        mk_free(e->completion[i]);
    }
}

// --- tests ---------------------------------------------------------------------------------------

// Two of three prompts teach nothing.  Three steps, over the end of an epoch.
static void groups_without_spread_are_replaced(void **state) {
    (void)state;
    static const int64_t retries[] = {0, 1, 3, 20};
    for (int k = 0; k < 4; k++) {
        int64_t n_redrawn = 0, n_full = 0;
        rig r = open_rig(1, "01001000101", retries[k]);
        mk_batcher *b = NULL;
        mk_batcher_opts bo = {.data = r.data, .n_item = 1, .shuffle = true, .seed = SEED};
        must(&r, mk_batcher_create(&bo, &b, &r.err));
        (void)unlink(samples_path);
        must(&r, mk_method_grpo.begin(r.g, 0, &r.err));
        for (int64_t step = 0; step < 3; step++) {
            expected e;
            json_t *log = one_step(&r, step), *at = mk_method_grpo.tell(r.g);
            simulate(&r, b, step, retries[k], &e);
            assert_is(log, &e, retries[k]);
            assert_samples(step * N_PROMPT * GROUP, step, &e);
            n_redrawn += e.n_redrawn;
            n_full += e.n_equal == e.n_redrawn;
            int64_t epoch, index;
            mk_batcher_tell(b, &epoch, &index);
            assert_int_equal(json_integer_value(json_object_get(at, "epoch")), epoch);
            assert_int_equal(json_integer_value(json_object_get(at, "index")), index);
            forget(&e);
            json_decref(at);
            json_decref(log);
        }
        // the bound bites where it is small, and does not where it is large
        assert_true(k == 0 ? n_redrawn == 0 : n_redrawn > 0);
        assert_true(k < 2 ? n_full < 3 : k < 3 || n_full == 3);
        mk_batcher_destroy(b);
        close_rig(&r);
    }
}

static void retries_are_bounded(void **state) {
    (void)state;
    rig r = open_rig(1, "00000000000", -1);
    assert_int_equal(mk_grpo_n_retry(r.g), 3);  // dapo's own
    json_t *log = one_step(&r, 0), *at = mk_method_grpo.tell(r.g);
    assert_true(number(log, "redrawn") == 3 * N_PROMPT);
    assert_true(number(log, "redrawn_tokens") > 0);
    assert_true(number(log, "zero_variance") == 1 && number(log, "reward") == 0);
    assert_true(number(log, "tokens") == 0);
    assert_int_equal(json_integer_value(json_object_get(at, "epoch")), 1);
    assert_int_equal(json_integer_value(json_object_get(at, "index")), 4 * N_PROMPT - N_LINE);
    json_decref(log);
    json_decref(at);
    close_rig(&r);
}

// A run that goes on behind its first step, with other threads: the second one is the same, and
// samples.jsonl has it once.
static void a_resumed_run_draws_the_same(void **state) {
    (void)state;
    char *text[2];
    json_t *log[2], *at = NULL;
    (void)unlink(samples_path);
    for (int k = 0; k < 2; k++) {
        rig r = open_rig(1 + 2 * k, "01001000101", 2);
        if (k == 1) {
            must(&r, mk_method_grpo.seek(r.g, at, &r.err));
        }
        must(&r, mk_method_grpo.begin(r.g, k, &r.err));
        if (k == 0) {
            json_decref(one_step(&r, 0));
            at = mk_method_grpo.tell(r.g);
        }
        log[k] = one_step(&r, 1);
        size_t n;
        must(&r, mk_file_read(samples_path, 1 << 20, &text[k], &n, &r.err));
        close_rig(&r);
    }
    assert_true(json_equal(log[0], log[1]));
    assert_true(number(log[0], "redrawn") > 0 && number(log[0], "tokens") > 0);
    assert_string_equal(text[0], text[1]);
    for (int k = 0; k < 2; k++) {
        json_decref(log[k]);
        mk_free(text[k]);
    }
    json_decref(at);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_without_spread_are_replaced),
        cmocka_unit_test(retries_are_bounded),
        cmocka_unit_test(a_resumed_run_draws_the_same),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
