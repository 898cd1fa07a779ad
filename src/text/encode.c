// Text to ids: cutting out added tokens and running the rest through normaliser, passes and model.
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

#define MAX_TEXT   ((size_t)1 << 30)
#define CACHE_FROM 4096  // texts from this length on repeat words enough to pay for the cache

void mk_ids_free(mk_ids *ids) {
    mk_free(ids->data);
    *ids = (mk_ids){0};
}

mk_status mk_ids_push(mk_ids *ids, int32_t id, mk_err *err) {
    if (ids->n == ids->cap) {
        int64_t cap = ids->cap < 32 ? 64 : ids->cap * 2;
        int32_t *p = mk_try_realloc(ids->data, (size_t)cap, sizeof *p);
        if (!p) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for %lld token ids", (long long)cap);
        }
        ids->data = p;
        ids->cap = cap;
    }
    ids->data[ids->n++] = id;
    return MK_OK;
}

typedef mk_status (*gap_fn)(mk_enc *c, const char *p, size_t n, bool at_start);

// Cuts the added tokens of one kind out of what the query describes and gives the gaps to fn.
static mk_status cut_added(mk_enc *c, mk_added_query q, bool at_start, gap_fn fn) {
    const char *p = q.p;
    size_t n = q.n;
    q.parse_special = c->parse_special;
    q.runs = c->runs;
    q.n_runs = c->n_runs;
    while (q.from < n) {
        size_t start, end;
        int64_t i = mk_added_find(&c->t->added, &c->t->uc, &q, &start, &end);
        start = i >= 0 ? start : n;
        if (start > q.from) {
            MK_TRY(fn(c, p + q.from, start - q.from, at_start && q.from == 0));
        }
        if (i < 0) {
            break;
        }
        if (!c->take) {
            MK_TRY(mk_ids_push(c->ids, c->t->added.a[i].id, c->err));
        }
        q.from = end;
    }
    return MK_OK;
}

static mk_status plain_gap(mk_enc *c, const char *p, size_t n, bool at_start) {
    c->at_start = at_start;
    return mk_pretok_run(c, p, n);
}

static mk_status raw_gap(mk_enc *c, const char *p, size_t n, bool at_start) {
    size_t base = (size_t)(p - c->text), n_raw = n;
    const char *raw = p;
    c->at_start = at_start;
    MK_TRY(mk_norm_run(c, p, n, &p, &n));
    if (!c->t->added.any_normalized) {
        return plain_gap(c, p, n, at_start);
    }
    // where the normaliser moved bytes, one user byte makes the whole gap the user's
    bool moved = n != n_raw || memcmp(p, raw, n) != 0;
    bool all_user = moved && c->runs && mk_runs_touch_user(c->runs, c->n_runs, base, base + n_raw);
    mk_added_query q = {
        .p = p, .n = n, .normalized = true, .base = moved ? 0 : base, .all_user = all_user};
    if (moved && !all_user) {
        const mk_text_run *runs = c->runs;
        c->runs = NULL;  // no byte of this gap is the user's
        mk_status st = cut_added(c, q, at_start, plain_gap);
        c->runs = runs;
        return st;
    }
    return cut_added(c, q, at_start, plain_gap);
}

static void enc_init(mk_enc *c, const mk_tokenizer *t, size_t n) {
    // room for the widest normalisation (18 characters from one) and for long replacements
    size_t max = n * 64 + (1 << 20);
    mk_buf_init(&c->norm[0], max);
    mk_buf_init(&c->norm[1], max);
    bool caches = t->kind == MK_TOKENIZER_BPE || t->kind == MK_TOKENIZER_SPM;
    if (caches && n >= CACHE_FROM && !c->take) {
        c->cache = mk_try_alloc(1, mk_enc_cache_bytes());  // works without it, only slower
    }
}

static void enc_free(mk_enc *c) {
    mk_buf_free(&c->norm[0]);
    mk_buf_free(&c->norm[1]);
    mk_free(c->sym);
    mk_free(c->heap);
    mk_free(c->cache);
    mk_free(c->viterbi);
    mk_match_destroy(c->match);
}

static mk_status push_all(mk_ids *ids, const int32_t *v, int n, mk_err *err) {
    for (int i = 0; i < n; i++) {
        MK_TRY(mk_ids_push(ids, v[i], err));
    }
    return MK_OK;
}

static mk_status encode(mk_enc *c, const char *text, size_t n, bool add_special) {
    const mk_tokenizer *t = c->t;
    if (add_special) {
        MK_TRY(push_all(c->ids, t->prefix, t->n_prefix, c->err));
    }
    MK_TRY(cut_added(c, (mk_added_query){.p = text, .n = n}, true, raw_gap));
    return add_special ? push_all(c->ids, t->suffix, t->n_suffix, c->err) : MK_OK;
}

static mk_status check_length(size_t n, mk_err *err) {
    return n <= MAX_TEXT
               ? MK_OK
               : MK_FAIL(err, MK_ELIMIT, "text has %zu bytes, at most %zu can be encoded at once",
                         n, MAX_TEXT);
}

mk_status mk_tokenizer_split(const mk_tokenizer *t, const char *text, size_t n, mk_word_fn fn,
                             void *arg, mk_err *err) {
    MK_TRY(check_length(n, err));
    mk_enc c = {
        .t = t, .err = err, .parse_special = true, .text = text, .take = fn, .take_arg = arg};
    enc_init(&c, t, n);
    mk_status st = encode(&c, text, n, false);
    enc_free(&c);
    return st;
}

mk_status mk_tokenizer_encode(const mk_tokenizer *t, const char *text, size_t n,
                              mk_encode_opts opts, mk_ids *ids, mk_err *err) {
    MK_TRY(check_length(n, err));
    int64_t mark = ids->n;
    mk_enc c = {.t = t,
                .ids = ids,
                .err = err,
                .parse_special = opts.parse_special,
                .continues = opts.continues,
                .text = text,
                .runs = opts.runs,
                .n_runs = opts.n_runs};
    enc_init(&c, t, n);
    mk_status st = encode(&c, text, n, opts.add_special);
    enc_free(&c);
    if (st != MK_OK) {
        ids->n = mark;  // all or nothing
    }
    return st;
}
