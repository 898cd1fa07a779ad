// Unigram: the segmentation with the highest sum of scores (Kudo 2018), by one pass over the text;
// and WordPiece, the greedy longest match of BERT.  Both look pieces up by narrowing a sorted list
// byte by byte.
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

#define UNK_PENALTY 10.0  // below the worst score, as in sentencepiece

typedef struct {
    double score;
    int32_t id;
    uint32_t from;  // where the piece that ends here starts
    bool reached;
} best_end;

// --- the sorted list ----------------------------------------------------------------------------
typedef struct {
    const mk_vocab *v;
} sort_arg;

static int by_text_then_id(const void *x, const void *y, void *arg) {
    const mk_vocab *v = ((const sort_arg *)arg)->v;
    int32_t i = *(const int32_t *)x, j = *(const int32_t *)y;
    const mk_vocab_entry *a = &v->e[i], *b = &v->e[j];
    size_t n = a->n_text < b->n_text ? a->n_text : b->n_text;
    int d = memcmp(v->bytes + a->text, v->bytes + b->text, n);
    if (d != 0) {
        return d;
    }
    return a->n_text != b->n_text ? (a->n_text < b->n_text ? -1 : 1) : (i > j) - (i < j);
}

mk_status mk_unigram_prepare(mk_tokenizer *t, mk_err *err) {
    const mk_vocab *v = &t->v;
    t->by_text = mk_try_alloc((size_t)v->n, sizeof *t->by_text);
    if (!t->by_text) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the index of %lld pieces", (long long)v->n);
    }
    double worst = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < v->n; i++) {
        const mk_vocab_entry *e = &v->e[i];
        bool text = e->type > 0 && (MK_TYPES_TEXT >> e->type) & 1;
        if (text && e->n_text > 0 && e->n_text <= MK_MAX_ADDED) {
            t->by_text[n++] = (int32_t)i;
        }
        worst = e->type > 0 && e->score < worst ? e->score : worst;
    }
    t->n_by_text = n;
    t->unk_score = worst - UNK_PENALTY;
    sort_arg arg = {v};
    qsort_r(t->by_text, (size_t)n, sizeof *t->by_text, by_text_then_id, &arg);
    int64_t at = 0;
    for (int b = 0; b <= 256; b++) {
        while (at < n && (unsigned char)v->bytes[v->e[t->by_text[at]].text] < b) {
            at++;
        }
        t->by_first[b] = b == 256 ? n : at;
    }
    return MK_OK;
}

// Narrows [*lo, *hi), whose texts share their first k bytes, to those with byte b next.
static void narrow(const mk_tokenizer *t, size_t k, unsigned char b, int64_t *lo, int64_t *hi) {
    const mk_vocab *v = &t->v;
    int64_t a = *lo, z = *hi;
    while (a < z) {  // first text whose byte k is >= b; shorter texts sort first
        int64_t mid = a + (z - a) / 2;
        const mk_vocab_entry *e = &v->e[t->by_text[mid]];
        bool less = e->n_text <= k || (unsigned char)v->bytes[e->text + k] < b;
        a = less ? mid + 1 : a;
        z = less ? z : mid;
    }
    *lo = a;
    z = *hi;
    while (a < z) {  // first text whose byte k is > b
        int64_t mid = a + (z - a) / 2;
        const mk_vocab_entry *e = &v->e[t->by_text[mid]];
        bool less = e->n_text <= k || (unsigned char)v->bytes[e->text + k] <= b;
        a = less ? mid + 1 : a;
        z = less ? z : mid;
    }
    *hi = a;
}

// Calls for every piece that starts p[0..n): the ids in order of length.
typedef struct {
    const mk_tokenizer *t;
    const char *p;
    size_t n, k;
    int64_t lo, hi;
} prefix_walk;

static prefix_walk walk_start(const mk_tokenizer *t, const char *p, size_t n) {
    unsigned char b = (unsigned char)*p;
    return (prefix_walk){t, p, n, 1, t->by_first[b], t->by_first[b + 1]};
}

// Next piece: its id and length; false at the end.
static bool walk_next(prefix_walk *w, int32_t *id, size_t *len) {
    while (w->lo < w->hi) {
        size_t k = w->k;
        int32_t first = w->t->by_text[w->lo];
        bool hit = w->t->v.e[first].n_text == k;
        for (int64_t i = w->lo; hit && i < w->hi && w->t->v.e[w->t->by_text[i]].n_text == k; i++) {
            first = w->t->by_text[i];  // of equal texts the last id
        }
        if (k < w->n) {
            narrow(w->t, k, (unsigned char)w->p[k], &w->lo, &w->hi);
            w->k++;
        } else {
            w->lo = w->hi;
        }
        if (hit) {
            *id = first;
            *len = k;
            return true;
        }
    }
    return false;
}

// --- unigram ------------------------------------------------------------------------------------
static void offer(best_end *e, double score, int32_t id, size_t from) {
    if (!e->reached || score > e->score) {
        *e = (best_end){score, id, (uint32_t)from, true};
    }
}

static void forward(const mk_tokenizer *t, const char *p, size_t n, best_end *best) {
    for (size_t i = 0, unit; i < n; i += unit) {
        uint32_t cp;
        unit = mk_uc_step(p + i, n - i, &cp);
        bool single = false;
        int32_t id;
        size_t len;
        prefix_walk w = walk_start(t, p + i, n - i);
        while (walk_next(&w, &id, &len)) {
            bool user = t->v.e[id].type == MK_TOKEN_USER_DEFINED;
            offer(&best[i + len], best[i].score + (user ? 0.0 : t->v.e[id].score), id, i);
            single = single || len == unit;
        }
        if (!single) {
            offer(&best[i + unit], best[i].score + t->unk_score, -1, i);
        }
    }
}

// Turns the chain of best ends around: best[i].from becomes the end of the piece that starts at i.
static void turn_around(best_end *best, size_t n) {
    size_t end = n;
    uint32_t after = 0;
    int32_t id_after = 0;
    while (true) {
        uint32_t from = best[end].from;
        int32_t id = best[end].id;
        best[end].from = after;
        best[end].id = id_after;
        if (end == 0) {
            return;
        }
        after = (uint32_t)end;
        id_after = id;
        end = from;
    }
}

mk_status mk_unigram_piece(mk_enc *c, const char *p, size_t n) {
    MK_TRY(mk_enc_grow(c, &c->viterbi, &c->cap_viterbi, n + 1, sizeof(best_end)));
    best_end *best = c->viterbi;
    memset(best, 0, (n + 1) * sizeof *best);
    best[0].reached = true;
    forward(c->t, p, n, best);
    turn_around(best, n);
    bool was_unk = false;
    for (size_t i = 0; i < n; i = best[i].from) {
        if (best[i].id >= 0) {
            was_unk = false;
            MK_TRY(mk_ids_push(c->ids, best[i].id, c->err));
        } else {
            MK_TRY(mk_fallback(c, p + i, best[i].from - i, &was_unk));
        }
    }
    return MK_OK;
}

// --- wordpiece ----------------------------------------------------------------------------------
// The vocabulary holds "▁word" for the start of a word and the bare rest for what HF writes as
// "##rest".
#define WORD_MAX_CHARS 100

static int32_t longest(const mk_tokenizer *t, const char *p, size_t n, size_t *len) {
    prefix_walk w = walk_start(t, p, n);
    int32_t best = -1, id;
    size_t k;
    while (walk_next(&w, &id, &k)) {
        best = id;
        *len = k;
    }
    return best;
}

mk_status mk_wordpiece_piece(mk_enc *c, const char *p, size_t n) {
    int64_t mark = c->ids->n;
    char word[3 + 4 * WORD_MAX_CHARS] = "\xE2\x96\x81";
    size_t n_char = 0;
    for (size_t i = 0; i < n && n_char <= WORD_MAX_CHARS; n_char++) {
        uint32_t cp;
        i += mk_uc_step(p + i, n - i, &cp);
    }
    bool ok = n_char <= WORD_MAX_CHARS && n + 3 <= sizeof word;
    if (ok) {
        memcpy(word + 3, p, n);
    }
    for (size_t i = 0, k = 0; ok && i < n + 3; i += k) {
        int32_t id = longest(c->t, word + i, n + 3 - i, &k);
        ok = id >= 0;
        if (ok) {
            MK_TRY(mk_ids_push(c->ids, id, c->err));
        }
    }
    if (ok) {
        return MK_OK;
    }
    c->ids->n = mark;
    return c->t->unk >= 0 ? mk_ids_push(c->ids, c->t->unk, c->err) : MK_OK;
}
