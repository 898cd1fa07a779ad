// See samples.h.
#include "train/samples.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mathx.h"

static mk_status make_arrays(mk_samples *s, mk_err *err) {
    size_t n = (size_t)s->o.n_prompt * (size_t)s->o.group, tok = 0;
    size_t n_reward = (size_t)mk_rewards_count(s->o.rewards);
    bool fits = mk_mul_size(n, (size_t)s->o.max_tok, &tok);
    s->item = mk_try_alloc(n, sizeof *s->item);
    s->part = mk_try_alloc(n, sizeof *s->part);
    s->reward = mk_try_alloc(n, sizeof *s->reward);
    s->each = mk_try_alloc(n * (n_reward + 1), sizeof *s->each);
    s->text = mk_try_alloc(n, sizeof *s->text);
    s->n_text = mk_try_alloc(n, sizeof *s->n_text);
    s->ids = fits ? mk_try_alloc(tok, sizeof *s->ids) : NULL;
    s->logp = fits ? mk_try_alloc(tok, sizeof *s->logp) : NULL;
    if (!s->item || !s->part || !s->reward || !s->each || !s->text || !s->n_text || !s->ids ||
        !s->logp) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for %zu completions of %lld tokens", n,
                       (long long)s->o.max_tok);
    }
    for (size_t i = 0; i < n; i++) {
        s->item[i].ids = s->ids + i * (size_t)s->o.max_tok;
        s->item[i].logp = s->logp + i * (size_t)s->o.max_tok;
    }
    return MK_OK;
}

mk_status mk_samples_create(const mk_samples_opts *o, mk_samples **out, mk_err *err) {
    mk_samples *s = mk_zalloc(sizeof *s);
    s->o = *o;
    mk_status st = make_arrays(s, err);
    st = st == MK_OK ? mk_tokenizer_eog_ids(o->tokenizer, &s->end_ids, err) : st;
    if (st != MK_OK) {
        mk_samples_destroy(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

static void forget_texts(mk_samples *s) {
    for (int64_t i = 0; s->text && i < s->n; i++) {
        mk_free(s->text[i]);
        s->text[i] = NULL;
    }
    s->n = 0;
}

void mk_samples_destroy(mk_samples *s) {
    if (s) {
        forget_texts(s);
        void *blocks[] = {s->item, s->part,   s->reward, s->each,
                          s->text, s->n_text, s->ids,    s->logp};
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
            mk_free(blocks[i]);
        }
        mk_ids_free(&s->end_ids);
        mk_free(s);
    }
}

// --- rewards -------------------------------------------------------------------------------------

static bool ends_in_tag(const char *text, size_t n) {
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ')) {
        n--;
    }
    return n >= 7 && memcmp(text + n - 7, "<think>", 7) == 0;
}

static mk_status score_one(mk_samples *s, int64_t i, mk_reward_input *in, mk_err *err) {
    const mk_rollout_item *item = &s->item[i];
    int64_t n = item->finished ? item->n - 1 : item->n;
    MK_TRY(mk_tokenizer_decode(s->o.tokenizer, item->ids, n, (mk_decode_opts){false}, &s->text[i],
                               &s->n_text[i], err));
    in->completion = s->text[i];
    in->n_completion = s->n_text[i];
    in->finished = item->finished;
    in->n_tok = item->n;
    in->max_tok = s->o.max_tok;
    return mk_rewards_score(s->o.rewards, in, s->each + i * mk_rewards_count(s->o.rewards),
                            &s->reward[i], err);
}

// The completions of one prompt.
static mk_status score_group(mk_samples *s, int64_t p, const mk_data_sample *line, mk_err *err) {
    char *prompt = NULL;
    size_t n_prompt = 0;
    json_t *json = json_loadb(line->json, line->n_json, JSON_ALLOW_NUL, NULL);
    mk_status st = mk_tokenizer_decode(s->o.tokenizer, line->seq[0].ids, line->seq[0].n,
                                       (mk_decode_opts){false}, &prompt, &n_prompt, err);
    mk_reward_input in = {.prompt = prompt,
                          .n_prompt = n_prompt,
                          .thinking = st == MK_OK && ends_in_tag(prompt, n_prompt),
                          .line = json};
    for (int64_t i = p * s->o.group; st == MK_OK && i < (p + 1) * s->o.group; i++) {
        st = score_one(s, i, &in, err);
    }
    mk_free(prompt);
    json_decref(json);
    if (st != MK_OK) {
        (void)mk_err_prefix(err, "%s:%lld", line->file, (long long)line->line);
    }
    return st;
}

// Fills the groups place[0..n_prompt), of which nothing is held; NULL: the first ones.
static mk_status fill(mk_samples *s, const mk_data *data, const int64_t *which,
                      const int64_t *place, int64_t n_prompt, uint64_t seed, mk_err *err) {
    int64_t group = s->o.group, n = n_prompt * group;
    for (int64_t i = 0; i < n; i++) {
        int64_t sample = which[i / group], k = i / group;
        mk_rollout_item *item = &s->item[(place ? place[k] : k) * group + i % group];
        mk_data_sample line = mk_data_get(data, sample);
        item->prompt = line.seq[0].ids;
        item->n_prompt = line.seq[0].n;
        item->seed = mk_rng_u64(mk_rng_u64(seed, (uint64_t)sample), (uint64_t)(i % group));
        s->part[i] = *item;
    }
    mk_rollout_opts ro = {.engine = s->o.engine,
                          .n_seq = s->o.n_seq,
                          .temperature = s->o.temperature,
                          .forbid_ids = s->o.forbid_ids,
                          .n_forbid = s->o.n_forbid,
                          .max_tok = s->o.max_tok,
                          .n_token = mk_tokenizer_n_vocab(s->o.tokenizer),
                          .end_ids = s->end_ids.data,
                          .n_end = s->end_ids.n,
                          .progress = s->o.progress,
                          .progress_arg = s->o.progress_arg};
    int64_t n_vocab = mk_engine_model(s->o.engine)->hp.n_vocab;
    ro.n_token = ro.n_token < n_vocab ? ro.n_token : n_vocab;
    MK_TRY(mk_rollout(&ro, s->part, n, err));
    for (int64_t k = 0; k < n_prompt; k++) {
        int64_t p = place ? place[k] : k;
        memcpy(s->item + p * group, s->part + k * group, (size_t)group * sizeof *s->item);
        mk_data_sample line = mk_data_get(data, which[k]);
        MK_TRY(score_group(s, p, &line, err));
    }
    return MK_OK;
}

mk_status mk_samples_draw(mk_samples *s, const mk_data *data, const int64_t *which,
                          int64_t n_prompt, uint64_t seed, mk_err *err) {
    MK_ASSERT(n_prompt <= s->o.n_prompt);
    forget_texts(s);
    s->n = n_prompt * s->o.group;
    return fill(s, data, which, NULL, n_prompt, seed, err);
}

mk_status mk_samples_redraw(mk_samples *s, const mk_data *data, const int64_t *which,
                            const int64_t *place, int64_t n_prompt, uint64_t seed, mk_err *err) {
    for (int64_t i = 0; i < n_prompt * s->o.group; i++) {
        int64_t at = place[i / s->o.group] * s->o.group + i % s->o.group;
        MK_ASSERT(at < s->n);
        mk_free(s->text[at]);
        s->text[at] = NULL;
    }
    return fill(s, data, which, place, n_prompt, seed, err);
}

#define AT_ONCE 256

mk_status mk_samples_mean(mk_samples *s, const mk_data *data, int64_t n, uint64_t seed,
                          double *mean, mk_err *err) {
    int64_t all = mk_data_n_sample(data), which[AT_ONCE],
            most = s->o.n_prompt < AT_ONCE ? s->o.n_prompt : AT_ONCE;
    double sum = 0;
    n = n > 0 && n < all ? n : all;
    for (int64_t at = 0; at < n; at += most) {
        int64_t part = n - at < most ? n - at : most;
        for (int64_t i = 0; i < part; i++) {
            which[i] = at + i;
        }
        MK_TRY(mk_samples_draw(s, data, which, part, seed, err));
        for (int64_t i = 0; i < s->n; i++) {
            sum += s->reward[i];
        }
    }
    *mean = n > 0 ? sum / (double)(n * s->o.group) : 0;
    return MK_OK;
}
