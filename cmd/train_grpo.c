// minke train grpo: reinforcement by rules; minke train score: how often a model is right.
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "train/grpo.h"
#include "train_setup.h"

// --- grpo ----------------------------------------------------------------------------------------

typedef struct {
    cmd_train_args t;
    mk_opt_list reward;
    const char *variant;
    int64_t prompts, group, max_tok, inner, retry, n_eval, samples;
    double temperature, clip_low, clip_high;
    bool keep_truncated;
} grpo_args;

static const mk_opt grpo_opts[] = {
    CMD_OPT_TRAIN(grpo_args, t),
    CMD_OPT_REWARD(grpo_args, reward),
    {.name = "variant",
     .type = MK_OPT_STR,
     .offset = offsetof(grpo_args, variant),
     .dflt = "dapo",
     .choices = "grpo|dr-grpo|dapo|gspo",
     .arg = "NAME",
     .help = "how advantages are scaled, averaged and clipped",
     .group = "Method"},
    {.name = "prompts",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, prompts),
     .dflt = "16",
     .min = 1,
     .max = 1 << 20,
     .arg = "N",
     .help = "prompts of a step"},
    {.name = "group",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, group),
     .dflt = "16",
     .min = 2,
     .max = 1 << 16,
     .arg = "N",
     .help = "completions of a prompt"},
    CMD_OPT_MAX_TOKENS(grpo_args, max_tok),
    {.name = "temp",
     .type = MK_OPT_F64,
     .offset = offsetof(grpo_args, temperature),
     .dflt = "1",
     .min = 0.01,
     .max = 100,
     .arg = "T",
     .help = "temperature of sampling, and of the probabilities that are learned"},
    {.name = "inner",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, inner),
     .dflt = "1",
     .min = 1,
     .max = 1 << 20,
     .arg = "N",
     .help = "updates that share one sampling, each with its part of the prompts"},
    {.name = "retry",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, retry),
     .dflt = "-1",
     .min = -1,
     .max = 1 << 10,
     .arg = "N",
     .help =
         "groups whose rewards are all equal are replaced by those of further prompts, of up to "
         "N times --prompts; below 0: the variant's own (dapo 3, others 0)"},
    {.name = "clip-low",
     .type = MK_OPT_F64,
     .offset = offsetof(grpo_args, clip_low),
     .dflt = "-1",
     .min = -1,
     .max = 1,
     .arg = "X",
     .help = "lowest ratio is 1 - X; below 0: the variant's own"},
    {.name = "clip-high",
     .type = MK_OPT_F64,
     .offset = offsetof(grpo_args, clip_high),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "X",
     .help = "highest ratio is 1 + X; below 0: the variant's own"},
    {.name = "keep-truncated",
     .type = MK_OPT_FLAG,
     .offset = offsetof(grpo_args, keep_truncated),
     .help = "learn from completions that --max-tokens cut, too"},
    {.name = "eval-prompts",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, n_eval),
     .dflt = "0",
     .min = 0,
     .max = 1 << 30,
     .arg = "N",
     .help = "held-out prompts per evaluation; 0: all"},
    {.name = "samples",
     .type = MK_OPT_I64,
     .offset = offsetof(grpo_args, samples),
     .dflt = "2",
     .min = 0,
     .max = 1 << 16,
     .arg = "N",
     .help = "completions of every step that are kept in DIR/samples.jsonl"},
};

const mk_opt_spec cmd_train_grpo_spec = {
    .program = "minke train grpo",
    .usage = "-m MODEL -o DIR --reward KIND [--reward KIND...] FILE...",
    .about = "Teaches a model by trying: completions of every prompt are rewarded by rules and "
             "learned relative to each other. Sampler and trainer agree to the last bit: "
             "max_dlogp, shown at every step, is 0.",
    .opts = grpo_opts,
    .n_opts = MK_OPT_COUNT(grpo_opts),
    .max_args = -1,
};

static bool not_interrupted(void *arg, int64_t n_done, int64_t n) {
    (void)arg, (void)n_done, (void)n;
    return !cmd_interrupted();
}

// Rewards are part of what a run is made of.
static json_t *grpo_recipe(const grpo_args *a, const mk_grpo *g) {
    json_t *list = json_array();
    for (size_t i = 0; i < a->reward.n; i++) {
        json_array_append_new(list, json_string(a->reward.items[i]));
    }
    json_t *o = json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:f}", "reward", list, "variant",
                          a->variant, "prompts", (json_int_t)a->prompts, "group",
                          (json_int_t)a->group, "max_tokens", (json_int_t)a->max_tok, "inner",
                          (json_int_t)a->inner, "temperature", a->temperature);
    // these alone where they do something: runs that are older than the fields go on
    if (mk_grpo_n_retry(g) > 0) {
        json_object_set_new(o, "retry", json_integer(mk_grpo_n_retry(g)));
    }
    if (a->clip_low >= 0) {
        json_object_set_new(o, "clip_low", json_real(a->clip_low));
    }
    if (a->clip_high >= 0) {
        json_object_set_new(o, "clip_high", json_real(a->clip_high));
    }
    if (a->keep_truncated) {
        json_object_set_new(o, "keep_truncated", json_true());
    }
    return o;
}

static mk_status run_grpo(cmd_training *t, const grpo_args *a, const mk_rewards *rewards,
                          mk_err *err) {
    char *samples = a->t.out && a->samples > 0 ? mk_path_join(a->t.out, "samples.jsonl") : NULL;
    mk_grpo *g = NULL;
    mk_grpo_opts o = {.trainer = t->trainer,
                      .data = t->data,
                      .eval = t->eval,
                      .tokenizer = mk_llm_tokenizer(t->llm),
                      .rewards = rewards,
                      .variant = a->variant,
                      .n_row = t->trainer_opts.n_row,
                      .n_seq = t->trainer_opts.n_seq,
                      .n_prompt = a->prompts,
                      .group = a->group,
                      .max_tok = a->max_tok,
                      .n_inner = a->inner,
                      .temperature = (float)a->temperature,
                      .clip_low = a->clip_low,
                      .clip_high = a->clip_high,
                      .n_retry = a->retry,
                      .keep_truncated = a->keep_truncated,
                      .seed = (uint64_t)a->t.seed,
                      .n_eval = a->n_eval,
                      .samples = samples,
                      .n_sample = a->samples};
    static const char *const extra[] = {"reward",  "length",    "truncated",
                                        "entropy", "max_dlogp", "zero_variance",
                                        "redrawn", "accuracy",  NULL};
    mk_status st = mk_grpo_create(&o, &g, err);
    if (st == MK_OK) {
        json_t *recipe = grpo_recipe(a, g);
        st = cmd_training_run(t, &mk_method_grpo, g, recipe, extra, err);
        json_decref(recipe);
    }
    mk_grpo_destroy(g);
    mk_free(samples);
    return st;
}

static mk_status grpo(grpo_args *a, const mk_opt_result *r, mk_err *err) {
    cmd_training t = {0};
    mk_rewards *rewards = NULL;
    bool stop = false;
    int64_t at_once = a->prompts * a->group, limit = a->t.batch_tokens;
    if (a->t.steps == 0) {
        return MK_FAIL(err, MK_EUSAGE, "expected the number of updates: --steps N");
    }
    cmd_training_needs needs = {.kind = MK_DATA_RL,
                                .eval_kind = MK_DATA_RL,
                                .n_seq = at_once < limit ? at_once : limit,
                                .more = a->max_tok};
    mk_status st = cmd_make_rewards(&a->reward, &rewards, err);
    st = st == MK_OK ? cmd_training_open(&t, &a->t, &needs, r->args, r->n_args, err) : st;
    st = st == MK_OK ? cmd_training_plan(&t, "grpo", &stop, err) : st;
    st = st == MK_OK && !stop ? run_grpo(&t, a, rewards, err) : st;
    cmd_training_close(&t);
    mk_rewards_destroy(rewards);
    return st;
}

mk_status cmd_train_grpo(int argc, char *const *argv, mk_err *err) {
    grpo_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_train_grpo_spec, argc, argv, &a, &r, err);
    st = st == MK_OK && !r.help ? grpo(&a, &r, err) : st;
    mk_opt_free(&cmd_train_grpo_spec, &a, &r);
    return st;
}

// --- score ---------------------------------------------------------------------------------------

typedef struct {
    cmd_model_args model;
    cmd_data_args data;
    mk_opt_list reward, forbid;
    int64_t n, group, max_tok, seed, show, n_seq;
    double temperature;
    bool json;
} score_args;

static const mk_opt score_opts[] = {
    CMD_OPT_MODEL(score_args, model),
    CMD_OPT_RUNTIME(score_args, model),
    CMD_OPT_ADAPTER(score_args, model),
    CMD_OPT_TEMPLATE(score_args, model),
    CMD_OPT_REWARD(score_args, reward),
    CMD_OPT_PROMPTS(score_args, n),
    {.name = "group",
     .type = MK_OPT_I64,
     .offset = offsetof(score_args, group),
     .dflt = "1",
     .min = 1,
     .max = 1 << 16,
     .arg = "K",
     .help = "completions of a prompt; pass@K counts the prompts with a right one"},
    {.name = "temp",
     .type = MK_OPT_F64,
     .offset = offsetof(score_args, temperature),
     .dflt = "0",
     .min = 0,
     .max = 100,
     .arg = "T",
     .help = "0: greedy"},
    CMD_OPT_MAX_TOKENS(score_args, max_tok),
    {.name = "seed",
     .type = MK_OPT_I64,
     .offset = offsetof(score_args, seed),
     .dflt = "0",
     .min = 0,
     .max = 999999999999999.0,
     .arg = "N",
     .help = "of sampling"},
    {.name = "forbid",
     .type = MK_OPT_LIST,
     .offset = offsetof(score_args, forbid),
     .arg = "TOKEN",
     .help = "text of a token that must not be chosen; may be repeated"},
    CMD_OPT_PARALLEL(score_args, n_seq),
    {.name = "show",
     .type = MK_OPT_I64,
     .offset = offsetof(score_args, show),
     .dflt = "0",
     .min = 0,
     .max = 1 << 30,
     .arg = "N",
     .help = "print the first N completions",
     .group = "Output"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(score_args, json),
     .help = "one object with all figures"},
};

const mk_opt_spec cmd_train_score_spec = {
    .program = "minke train score",
    .usage = "-m MODEL [--reward KIND...] FILE...",
    .about = "Lets a model answer the prompts of reinforcement data and scores the answers: mean "
             "of the first reward (pass@1), prompts with a right answer among K (pass@K), shares "
             "of finished answers, lengths.",
    .opts = score_opts,
    .n_opts = MK_OPT_COUNT(score_opts),
    .max_args = -1,
};

#define SCORE_PROMPTS 64  // at a time

typedef struct {
    double each[MK_REWARDS_MAX], right, any, n_tok, finished;
    int64_t n, n_prompt;
} tally;

static void count_group(tally *c, const mk_samples *s, int64_t p, int n_reward) {
    bool any = false;
    for (int64_t i = p * s->o.group; i < (p + 1) * s->o.group; i++) {
        for (int r = 0; r < n_reward; r++) {
            c->each[r] += s->each[i * n_reward + r];
        }
        any = any || s->each[i * n_reward] >= 1;
        c->right += s->each[i * n_reward] >= 1;
        c->n_tok += (double)s->item[i].n;
        c->finished += s->item[i].finished;
        c->n++;
    }
    c->any += any;
    c->n_prompt++;
}

static void show_group(const mk_samples *s, const mk_data *d, int64_t sample, int64_t p,
                       int n_reward) {
    mk_data_sample line = mk_data_get(d, sample);
    printf("%.*s\n", (int)line.n_json, line.json);
    for (int64_t i = p * s->o.group; i < (p + 1) * s->o.group; i++) {
        printf("[%g] ", s->each[i * n_reward]);
        cmd_write_text(stdout, s->text[i], s->n_text[i]);
        printf("\n");
    }
}

static mk_status print_tally(const score_args *a, const tally *c, const mk_rewards *rewards,
                             mk_err *err) {
    double n = c->n > 0 ? (double)c->n : 1, np = c->n_prompt > 0 ? (double)c->n_prompt : 1;
    double p = c->right / n, error = sqrt(p * (1 - p) / np);
    if (!a->json) {
        printf("prompts    %lld, %lld completions each\n", (long long)c->n_prompt,
               (long long)a->group);
        printf("pass@1     %.2f %% (standard error %.2f)\n", 100 * p, 100 * error);
        if (a->group > 1) {
            printf("pass@%-5lld %.2f %%\n", (long long)a->group, 100 * c->any / np);
        }
        for (int r = 0; r < mk_rewards_count(rewards); r++) {
            printf("%-10s %.4f\n", mk_rewards_name(rewards, r), c->each[r] / n);
        }
        printf("finished   %.2f %%\nlength     %.1f tokens\n", 100 * c->finished / n, c->n_tok / n);
        return cmd_check_stdout(err);
    }
    json_t *o =
        json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "prompts", (json_int_t)c->n_prompt,
                  "group", (json_int_t)a->group, "pass_1", p, "standard_error", error, "pass_k",
                  c->any / np, "finished", c->finished / n, "length", c->n_tok / n);
    json_t *each = json_object();
    for (int r = 0; r < mk_rewards_count(rewards); r++) {
        json_object_set_new(each, mk_rewards_name(rewards, r), json_real(c->each[r] / n));
    }
    json_object_set_new(o, "rewards", each);
    return cmd_print_json(o, false, err);
}

static mk_status score_all(const score_args *a, mk_samples *s, const mk_data *d, tally *c,
                           mk_err *err) {
    int64_t n = mk_data_n_sample(d), which[SCORE_PROMPTS], shown = 0;
    int n_reward = mk_rewards_count(s->o.rewards);
    mk_progress bar;
    n = a->n > 0 && a->n < n ? a->n : n;
    mk_progress_start(&bar, "score", "prompts", (uint64_t)n);
    for (int64_t at = 0; at < n; at += SCORE_PROMPTS) {
        int64_t part = n - at < SCORE_PROMPTS ? n - at : SCORE_PROMPTS;
        for (int64_t i = 0; i < part; i++) {
            which[i] = at + i;
        }
        MK_TRY(mk_samples_draw(s, d, which, part, (uint64_t)a->seed, err));
        for (int64_t p = 0; p < part; p++) {
            count_group(c, s, p, n_reward);
            if (shown < a->show) {
                show_group(s, d, which[p], p, n_reward);
                shown += a->group;
            }
        }
        mk_progress_update(&bar, (uint64_t)(at + part));
    }
    mk_progress_end(&bar, (uint64_t)n);
    return MK_OK;
}

static mk_status forbidden_ids(const score_args *a, const mk_llm *llm, mk_ids *ids, mk_err *err) {
    for (size_t i = 0; i < a->forbid.n; i++) {
        const char *text = a->forbid.items[i];
        int32_t id = mk_tokenizer_find(mk_llm_tokenizer(llm), text, strlen(text));
        if (id < 0) {
            return MK_FAIL(err, MK_EUSAGE, "--forbid: '%s' is no token of this model", text);
        }
        MK_TRY(mk_ids_push(ids, id, err));
    }
    return MK_OK;
}

static mk_status score(score_args *a, const mk_opt_result *r, mk_err *err) {
    mk_rewards *rewards = NULL;
    mk_ids forbid = {0};
    mk_llm *llm = NULL;
    mk_data *data = NULL;
    mk_samples *s = NULL;
    tally c = {0};
    cmd_catch_interrupt();
    cmd_open_opts how = {.n_seq = a->n_seq, .n_out = a->n_seq};
    mk_status st = cmd_make_rewards(&a->reward, &rewards, err);
    st = st == MK_OK ? cmd_open(&a->model, &how, &llm, err) : st;
    st =
        st == MK_OK ? cmd_read_data(&a->data, llm, MK_DATA_RL, r->args, r->n_args, &data, err) : st;
    st = st == MK_OK ? forbidden_ids(a, llm, &forbid, err) : st;
    if (st == MK_OK) {
        mk_samples_opts so = {.engine = mk_llm_engine(llm),
                              .tokenizer = mk_llm_tokenizer(llm),
                              .rewards = rewards,
                              .forbid_ids = forbid.data,
                              .n_forbid = forbid.n,
                              .n_seq = a->n_seq - 1,  // one is mk_llm's own
                              .n_prompt = SCORE_PROMPTS,
                              .group = a->group,
                              .max_tok = a->max_tok,
                              .temperature = (float)a->temperature,
                              .progress = not_interrupted};
        so.n_seq = so.n_seq > 0 ? so.n_seq : 1;
        st = mk_samples_create(&so, &s, err);
    }
    st = st == MK_OK ? score_all(a, s, data, &c, err) : st;
    st = st == MK_OK ? print_tally(a, &c, rewards, err) : st;
    mk_samples_destroy(s);
    mk_ids_free(&forbid);
    mk_data_destroy(data);
    mk_llm_close(llm);
    mk_rewards_destroy(rewards);
    return st;
}

mk_status cmd_train_score(int argc, char *const *argv, mk_err *err) {
    score_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_train_score_spec, argc, argv, &a, &r, err);
    st = st == MK_OK && !r.help ? score(&a, &r, err) : st;
    mk_opt_free(&cmd_train_score_spec, &a, &r);
    return st;
}
