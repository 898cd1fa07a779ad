// A line -> samples: which text or template, end of sequence, windows, length limits.
#include <string.h>

#include "base/alloc.h"
#include "train/data_store.h"

// --- ids with a mask -----------------------------------------------------------------------------

void mk_seq_free(mk_seq_ids *s) {
    mk_ids_free(&s->ids);
    mk_free(s->mask);
    *s = (mk_seq_ids){0};
}

void mk_seq_clear(mk_seq_ids *s) {
    s->ids.n = s->n_mask = 0;
}

mk_status mk_seq_mark(mk_seq_ids *s, uint8_t m, mk_err *err) {
    if (s->ids.n > s->cap_mask) {
        uint8_t *p = mk_try_realloc(s->mask, (size_t)s->ids.cap, 1);
        if (!p) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for the mask of %lld tokens",
                           (long long)s->ids.cap);
        }
        s->mask = p;
        s->cap_mask = s->ids.cap;
    }
    for (; s->n_mask < s->ids.n; s->n_mask++) {
        s->mask[s->n_mask] = m;
    }
    return MK_OK;
}

mk_status mk_seq_end(const mk_tokenizer *t, mk_seq_ids *s, mk_err *err) {
    int32_t eos = mk_tokenizer_eos(t);
    if (eos < 0 || (s->ids.n > 0 && s->ids.data[s->ids.n - 1] == eos)) {
        return MK_OK;
    }
    return mk_ids_push(&s->ids, eos, err);
}

// --- one sequence --------------------------------------------------------------------------------

// Cuts or drops; *keep false: nothing is left to learn.
static void limit(mk_data *d, const uint8_t *mask, int64_t *n, bool *keep) {
    int64_t max = d->o.max_len;
    *keep = true;
    if (max > 0 && *n > max && d->o.longer == MK_LONG_DROP) {
        d->count.n_dropped++;
        d->count.n_tok_dropped += *n;
        *keep = false;
        return;
    }
    if (max > 0 && *n > max) {
        d->count.n_cut++;
        d->count.n_tok_cut += *n - max;
        *n = max;
    }
    while (*n > 1 && !mask[*n - 1]) {  // nothing is learned from what stands behind the last target
        (*n)--;
    }
    if (*n < 2) {
        d->count.n_no_target++;
        *keep = false;
    }
}

static int64_t count_targets(const uint8_t *mask, int64_t n, int64_t *first) {
    int64_t k = 0;
    *first = n;
    for (int64_t i = n - 1; i > 0; i--) {
        k += mask[i];
        *first = mask[i] ? i : *first;
    }
    return k;
}

mk_status mk_store_chat(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                        double weight, mk_err *err) {
    bool keep;
    limit(d, mask, &n, &keep);
    if (!keep) {
        return MK_OK;
    }
    mk_record r = {.at = d->n_id, .n = {n}, .weight = (float)weight, .n_seq = 1};
    r.n_target[0] = count_targets(mask, n, &r.n_prompt);
    MK_TRY(mk_store_seq(d, ids, mask, n, err));
    return mk_store_record(d, r, err);
}

// Windows overlap by one token, the last one of a window being the first of the next: there it is
// given and no target, so that every token but the document's first is a target exactly once.
static mk_status store_windows(mk_data *d, const mk_seq_ids *s, double weight, mk_err *err) {
    int64_t n = s->ids.n, max = d->o.max_len > 0 ? d->o.max_len : n;
    if (n < 2) {
        d->count.n_no_target++;
    }
    for (int64_t at = 0; at + 1 < n; at += max - 1) {
        int64_t len = n - at < max ? n - at : max;
        mk_record r = {.at = d->n_id, .n = {len}, .weight = (float)weight, .n_seq = 1};
        r.n_target[0] = count_targets(s->mask + at, len, &r.n_prompt);
        MK_TRY(mk_store_seq(d, s->ids.data + at, s->mask + at, len, err));
        MK_TRY(mk_store_record(d, r, err));
    }
    return MK_OK;
}

static mk_status store(mk_data *d, const mk_seq_ids *s, double weight, mk_err *err) {
    return d->o.kind == MK_DATA_TEXT
               ? store_windows(d, s, weight, err)
               : mk_store_chat(d, s->ids.data, s->mask, s->ids.n, weight, err);
}

mk_status mk_text_samples(mk_data *d, const char *text, size_t n, double weight, mk_err *err) {
    mk_seq_ids s = {0};
    mk_encode_opts how = {.add_special = true, .parse_special = d->o.raw};
    mk_status st = mk_tokenizer_encode(d->o.tokenizer, text, n, how, &s.ids, err);
    st = st == MK_OK ? mk_seq_end(d->o.tokenizer, &s, err) : st;
    st = st == MK_OK ? mk_seq_mark(&s, 1, err) : st;
    st = st == MK_OK ? store(d, &s, weight, err) : st;
    mk_seq_free(&s);
    return st;
}

// --- plain prompt and completion -----------------------------------------------------------------

static mk_status add_text(const mk_data *d, const mk_side *side, mk_seq_ids *s, mk_err *err) {
    bool first = s->ids.n == 0;
    mk_encode_opts how = {.add_special = first, .continues = !first, .parse_special = d->o.raw};
    return mk_tokenizer_encode(d->o.tokenizer, side->text, side->n_text, how, &s->ids, err);
}

static mk_status plain_ids(const mk_data *d, const mk_side *prompt, const mk_side *answer,
                           mk_seq_ids *s, mk_err *err) {
    MK_TRY(add_text(d, prompt, s, err));
    bool all = d->o.learn == MK_LEARN_ALL && d->o.kind != MK_DATA_LABEL;
    MK_TRY(mk_seq_mark(s, all, err));
    if (answer) {
        MK_TRY(add_text(d, answer, s, err));
        MK_TRY(mk_seq_end(d->o.tokenizer, s, err));
        MK_TRY(mk_seq_mark(s, 1, err));
    }
    return MK_OK;
}

// --- conversations -------------------------------------------------------------------------------

static mk_status extend(json_t *list, const mk_side *side, const char *role, mk_err *err) {
    int bad = 0;
    if (side->text) {
        bad = json_array_append_new(list,
                                    json_pack("{s:s, s:O}", "role", role, "content", side->owner));
    } else if (side->owner) {
        bad = json_array_extend(list, side->owner);
    }
    return bad ? MK_FAIL(err, MK_ENOMEM, "no memory for the messages of a line") : MK_OK;
}

// All messages of a line in one list (json_decref); *first: where the answer starts.
static mk_status conversation(const mk_line *l, const mk_side *answer, json_t **out, size_t *first,
                              mk_err *err) {
    json_t *list = json_array();
    mk_status st = list ? MK_OK : MK_FAIL(err, MK_ENOMEM, "no memory for the messages of a line");
    if (st == MK_OK && l->system) {
        mk_side system = {.text = "", .owner = (json_t *)(uintptr_t)l->system};
        st = extend(list, &system, "system", err);
    }
    st = st == MK_OK ? extend(list, &l->prompt, "user", err) : st;
    *first = json_array_size(list);
    st = st == MK_OK && answer ? extend(list, answer, "assistant", err) : st;
    if (st != MK_OK) {
        json_decref(list);
        list = NULL;
    }
    *out = list;
    return st;
}

// The answer to the last user message, in a conversation that is one list.
static size_t behind_last_user(const json_t *messages) {
    size_t n = json_array_size(messages);
    while (n > 0) {
        const json_t *role = json_object_get(json_array_get(messages, n - 1), "role");
        if (strcmp(json_string_value(role), "user") == 0) {
            return n;
        }
        n--;
    }
    return 0;
}

static bool is_plain(const mk_data *d, const mk_line *l) {
    bool texts = (!l->prompt.owner || l->prompt.text) && (!l->answer.owner || l->answer.text) &&
                 (!l->rejected.owner || l->rejected.text) && l->form != MK_FORM_MESSAGES &&
                 l->form != MK_FORM_SHAREGPT && !l->system;
    return texts && (d->o.raw || !d->o.template);
}

static mk_status need_template(const mk_data *d, mk_err *err) {
    if (d->o.raw) {
        return MK_FAIL(err, MK_EUSAGE,
                       "messages and system texts need the chat template; expected plain strings "
                       "(prompt, completion, text) with --raw");
    }
    return d->o.template ? MK_OK
                         : MK_FAIL(err, MK_EUSAGE,
                                   "messages need a chat template and the model has none; give one "
                                   "with --template FILE, or plain strings (prompt, completion)");
}

typedef struct {
    mk_data *d;
    double weight;
    mk_seq_ids *one;  // pair: the sequence is copied here
    int n_seq;
} sink;

static mk_status take_chat(void *arg, mk_seq_ids *s, mk_err *err) {
    sink *k = arg;
    k->n_seq++;
    return store(k->d, s, k->weight, err);
}

static mk_status take_one(void *arg, mk_seq_ids *s, mk_err *err) {
    sink *k = arg;
    if (k->n_seq++ > 0) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "expected an answer that is one sample, got several: the template rewrites "
                       "earlier answers of it; give one assistant message");
    }
    mk_seq_ids swap = *k->one;
    *k->one = *s;
    *s = swap;
    return MK_OK;
}

static mk_status chat_samples(mk_data *d, const mk_line *l, mk_err *err) {
    json_t *messages = NULL;
    size_t first = 0;
    mk_turn_counts counts = {0};
    sink k = {.d = d, .weight = l->weight};
    MK_TRY(need_template(d, err));
    MK_TRY(conversation(l, &l->answer, &messages, &first, err));
    bool split = l->form == MK_FORM_COMPLETION || l->form == MK_FORM_ALPACA;
    mk_talk t = {.o = &d->o,
                 .messages = messages,
                 .tools = l->tools,
                 .learn = d->o.kind == MK_DATA_TEXT ? MK_LEARN_ALL : d->o.learn,
                 .counts = &counts,
                 .eog = d->eog.data,
                 .n_eog = (size_t)d->eog.n,
                 .fn = take_chat,
                 .arg = &k};
    if (t.learn == MK_LEARN_COMPLETION) {
        t.first = split ? first : behind_last_user(messages);
    }
    mk_status st = mk_talk_samples(&t, err);
    json_decref(messages);
    if (st == MK_OK && k.n_seq == 0) {
        d->count.n_no_target++;
    }
    mk_count_turns(&d->count, &counts);
    return st;
}

static mk_status plain_sample(mk_data *d, const mk_line *l, mk_err *err) {
    mk_seq_ids s = {0};
    mk_status st = plain_ids(d, &l->prompt, &l->answer, &s, err);
    st = st == MK_OK ? store(d, &s, l->weight, err) : st;
    mk_seq_free(&s);
    return st;
}

void mk_count_turns(mk_data_stats *s, const mk_turn_counts *c) {
    s->n_split += c->n_split;
    s->n_rejoined += c->n_rejoined;
    s->n_open_end += c->n_open_end;
    s->n_no_reasoning += c->n_no_reasoning;
}

// --- pairs ---------------------------------------------------------------------------------------

// The one sequence of a prompt and this answer.
static mk_status pair_ids(mk_data *d, const mk_line *l, const mk_side *answer, mk_seq_ids *s,
                          mk_err *err) {
    if (is_plain(d, l)) {
        return plain_ids(d, &l->prompt, answer, s, err);
    }
    json_t *messages = NULL;
    mk_turn_counts counts = {0};
    sink k = {.d = d, .one = s};
    mk_talk t = {.o = &d->o,
                 .tools = l->tools,
                 .counts = &counts,
                 .eog = d->eog.data,
                 .n_eog = (size_t)d->eog.n,
                 .fn = take_one,
                 .arg = &k};
    MK_TRY(need_template(d, err));
    MK_TRY(conversation(l, answer, &messages, &t.first, err));
    t.messages = messages;
    t.learn = d->o.learn == MK_LEARN_LAST ? MK_LEARN_LAST : MK_LEARN_COMPLETION;
    mk_status st = mk_talk_samples(&t, err);
    json_decref(messages);
    mk_count_turns(&d->count, &counts);
    return st;
}

static mk_status store_pair(mk_data *d, const mk_seq_ids s[2], double weight, mk_err *err) {
    mk_record r = {.at = d->n_id, .weight = (float)weight, .n_seq = 2};
    int64_t first[2] = {0, 0}, same = 0;
    for (int k = 0; k < 2; k++) {
        bool keep;
        r.n[k] = s[k].ids.n;
        limit(d, s[k].mask, &r.n[k], &keep);
        if (!keep) {
            return MK_OK;
        }
        r.n_target[k] = count_targets(s[k].mask, r.n[k], &first[k]);
    }
    r.n_prompt = first[0] < first[1] ? first[0] : first[1];
    while (same < r.n_prompt && s[0].ids.data[same] == s[1].ids.data[same]) {
        same++;
    }
    r.n_prompt = same;
    for (int k = 0; k < 2; k++) {
        MK_TRY(mk_store_seq(d, s[k].ids.data, s[k].mask, r.n[k], err));
    }
    return mk_store_record(d, r, err);
}

static mk_status pair_sample(mk_data *d, const mk_line *l, mk_err *err) {
    mk_seq_ids s[2] = {{{0}, NULL, 0, 0}, {{0}, NULL, 0, 0}};
    mk_status st = pair_ids(d, l, &l->answer, &s[0], err);
    if (st != MK_OK) {
        mk_err_prefix(err, "\"chosen\"");
    } else {
        st = pair_ids(d, l, &l->rejected, &s[1], err);
        if (st != MK_OK) {
            mk_err_prefix(err, "\"rejected\"");
        }
    }
    if (st == MK_OK && s[0].ids.n == s[1].ids.n &&
        memcmp(s[0].ids.data, s[1].ids.data, (size_t)s[0].ids.n * sizeof(int32_t)) == 0) {
        st = MK_FAIL(err, MK_ECORRUPT,
                     "\"rejected\": expected another answer than in \"chosen\", got the same");
    }
    st = st == MK_OK ? store_pair(d, s, l->weight, err) : st;
    mk_seq_free(&s[0]);
    mk_seq_free(&s[1]);
    return st;
}

// --- labels --------------------------------------------------------------------------------------

static mk_status label_sample(mk_data *d, const mk_line *l, mk_err *err) {
    mk_seq_ids s = {0};
    mk_status st = pair_ids(d, l, &l->answer, &s, err);
    int64_t n = d->n_rec;
    if (st != MK_OK) {
        mk_err_prefix(err, "\"completion\"");
    } else {
        st = mk_store_chat(d, s.ids.data, s.mask, s.ids.n, l->weight, err);
    }
    if (st == MK_OK && d->n_rec > n) {
        d->rec[n].label = l->label;
    }
    mk_seq_free(&s);
    return st;
}

// --- rl ------------------------------------------------------------------------------------------

static mk_status prompt_ids(mk_data *d, const mk_line *l, mk_seq_ids *s, mk_err *err) {
    if (is_plain(d, l)) {
        return plain_ids(d, &l->prompt, NULL, s, err);
    }
    json_t *messages = NULL;
    mk_turn_counts counts = {0};
    mk_talk t = {.o = &d->o, .tools = l->tools, .counts = &counts};
    MK_TRY(need_template(d, err));
    MK_TRY(conversation(l, NULL, &messages, &t.first, err));
    t.messages = messages;
    mk_status st = mk_talk_prompt(&t, s, err);
    json_decref(messages);
    return st;
}

static int to_buf(const char *p, size_t n, void *arg) {
    mk_buf_add(arg, p, n);
    return 0;
}

static mk_status keep_json(mk_data *d, const json_t *object, mk_record *r, mk_err *err) {
    r->json_at = d->json.len;
    int bad = json_dump_callback(object, to_buf, &d->json, JSON_COMPACT);
    r->n_json = d->json.len - r->json_at;
    mk_buf_putc(&d->json, '\0');
    return !bad && !d->json.failed
               ? MK_OK
               : MK_FAIL(err, MK_ENOMEM, "no memory to keep the line for the checker");
}

static mk_status rl_sample(mk_data *d, const mk_line *l, mk_err *err) {
    mk_seq_ids s = {0};
    mk_status st = prompt_ids(d, l, &s, err);
    int64_t n = s.ids.n;
    if (st == MK_OK && n == 0) {
        st = MK_FAIL(err, MK_ECORRUPT, "\"prompt\": expected at least one token, got none");
    } else if (st == MK_OK && d->o.max_len > 0 && n > d->o.max_len) {
        d->count.n_dropped++;
        d->count.n_tok_dropped += n;
    } else if (st == MK_OK) {
        mk_record r = {
            .at = d->n_id, .n = {n}, .n_prompt = n, .weight = (float)l->weight, .n_seq = 1};
        st = keep_json(d, l->object, &r, err);
        st = st == MK_OK ? mk_store_seq(d, s.ids.data, NULL, n, err) : st;
        st = st == MK_OK ? mk_store_record(d, r, err) : st;
    }
    mk_seq_free(&s);
    return st;
}

mk_status mk_line_samples(mk_data *d, const mk_line *l, mk_err *err) {
    switch (l->form) {
    case MK_FORM_PAIR:
        return pair_sample(d, l, err);
    case MK_FORM_RL:
        return rl_sample(d, l, err);
    case MK_FORM_LABEL:
        return label_sample(d, l, err);
    case MK_FORM_TEXT:
        return mk_text_samples(d, l->answer.text, l->answer.n_text, l->weight, err);
    default:
        return is_plain(d, l) ? plain_sample(d, l, err) : chat_samples(d, l, err);
    }
}
