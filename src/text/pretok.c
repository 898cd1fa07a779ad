// The passes between normaliser and model.  Each pass cuts a piece and hands the parts to the next
// pass; the last one hands them to the model.  No list of parts is kept, so depth (at most
// MK_MAX_STEP) is all it costs.
#include <string.h>

#include "base/alloc.h"
#include "text/tok_int.h"

static mk_status run_from(mk_enc *c, int i_pass, const char *p, size_t n);

static mk_status model(mk_enc *c, const char *p, size_t n) {
    static mk_status (*const piece[])(mk_enc *, const char *, size_t) = {
        [MK_TOKENIZER_BPE] = mk_bpe_piece,
        [MK_TOKENIZER_SPM] = mk_spm_piece,
        [MK_TOKENIZER_UNIGRAM] = mk_unigram_piece,
        [MK_TOKENIZER_WORDPIECE] = mk_wordpiece_piece,
    };
    if (c->take) {
        return c->take(c->take_arg, p, n, c->err);
    }
    const mk_tokenizer *t = c->t;
    bool merges = t->kind == MK_TOKENIZER_BPE || t->kind == MK_TOKENIZER_SPM;
    size_t start = 0;
    // ignore_merges asks for the piece as a whole, so there it stays whole
    for (size_t i = 1; merges && t->cuts_meta && !t->ignore_merges && i + 3 <= n; i++) {
        if (p[i] == '\xE2' && p[i + 1] == '\x96' && p[i + 2] == '\x81' &&
            !t->meta_after[(unsigned char)p[i - 1]]) {
            MK_TRY(piece[t->kind](c, p + start, i - start));
            start = i;
        }
    }
    return piece[t->kind](c, p + start, n - start);
}

// --- cutting -------------------------------------------------------------------------------------
// The part that is waiting for its neighbour to be known.
typedef struct {
    mk_enc *c;
    const mk_pass *pass;
    const char *p;
    int i_pass;
    size_t start, end;  // end > start: something waits
    bool was_match;     // the last part seen was a match
    bool first;         // the whole piece starts where the text starts
} cutter;

static mk_status flush(cutter *k) {
    if (k->end <= k->start) {
        return MK_OK;
    }
    k->c->at_start = k->first && k->start == 0;
    size_t start = k->start, n = k->end - k->start;
    k->start = k->end;
    return run_from(k->c, k->i_pass + 1, k->p + start, n);
}

// Does part [start, ..) join the one that waits?
static bool joins(const cutter *k, bool match) {
    bool waiting = k->end > k->start;
    switch (k->pass->behavior) {
    case MK_SPLIT_WITH_PREVIOUS:
        return waiting && match && !k->was_match;
    case MK_SPLIT_WITH_NEXT:
        return waiting && !match && k->was_match;
    case MK_SPLIT_CONTIGUOUS:
        return waiting && match == k->was_match;
    case MK_SPLIT_ISOLATED:
    case MK_SPLIT_REMOVED:
        break;
    }
    return false;
}

static mk_status part(cutter *k, size_t start, size_t end, bool match) {
    if (end <= start) {
        return MK_OK;
    }
    match = match != k->pass->invert;
    if (joins(k, match)) {
        k->end = end;
    } else {
        MK_TRY(flush(k));
        bool drop = match && k->pass->behavior == MK_SPLIT_REMOVED;
        k->start = drop ? end : start;
        k->end = end;
    }
    k->was_match = match;
    return MK_OK;
}

static mk_status find(cutter *k, size_t n, size_t from, bool *found, size_t *start, size_t *end) {
    mk_enc *c = k->c;
    if (k->pass->kind == MK_PASS_SPLIT) {
        *found = mk_split_find(k->pass->rule, &c->t->uc, k->p, n, from, start, end);
        return MK_OK;
    }
    if (!c->match && !(c->match = mk_match_create())) {
        return MK_FAIL(c->err, MK_ENOMEM, "no memory for matching");
    }
    return mk_regex_find(k->pass->re, c->match, k->p, n, from, found, start, end, c->err);
}

static mk_status cut(mk_enc *c, int i_pass, const char *p, size_t n) {
    cutter k = {
        .c = c, .pass = &c->t->pass[i_pass], .p = p, .i_pass = i_pass, .first = c->at_start};
    size_t at = 0;
    while (at < n) {
        bool found;
        size_t start, end;
        MK_TRY(find(&k, n, at, &found, &start, &end));
        if (!found) {
            break;
        }
        MK_TRY(part(&k, at, start, false));
        MK_TRY(part(&k, start, end, true));
        at = end;
    }
    MK_TRY(part(&k, at, n, false));
    return flush(&k);
}

// --- rewriting -----------------------------------------------------------------------------------
// Spaces become the replacement, one goes in front where the scheme says so, and the text is cut
// before each.
static void write_meta(const mk_pass *m, bool first, bool joined, const char *p, size_t n,
                       mk_buf *b) {
    bool starts =
        joined ||
        (n > 0 && (p[0] == ' ' || (n >= m->n_meta && memcmp(p, m->meta, m->n_meta) == 0)));
    if (!starts && (m->prepend == MK_PREPEND_ALWAYS || (m->prepend == MK_PREPEND_FIRST && first))) {
        mk_buf_add(b, m->meta, m->n_meta);
    }
    for (size_t i = 0; i < n; i++) {
        if (p[i] == ' ') {
            mk_buf_add(b, m->meta, m->n_meta);
        } else {
            mk_buf_putc(b, p[i]);
        }
    }
}

// A replacement joins the gap behind it only: "▁▁a" is "▁", "▁a".
static mk_status cut_meta(mk_enc *c, int i_pass, const mk_pass *m, const mk_buf *b, bool first) {
    size_t start = 0;
    for (size_t i = m->split ? 1 : b->len; i < b->len; i++) {
        if (b->len - i >= m->n_meta && memcmp(b->data + i, m->meta, m->n_meta) == 0) {
            c->at_start = first && start == 0;
            MK_TRY(run_from(c, i_pass + 1, b->data + start, i - start));
            start = i;
            i += m->n_meta - 1;
        }
    }
    c->at_start = first && start == 0;
    return b->len > start ? run_from(c, i_pass + 1, b->data + start, b->len - start) : MK_OK;
}

static mk_status rewrite(mk_enc *c, int i_pass, const char *p, size_t n) {
    const mk_pass *m = &c->t->pass[i_pass];
    bool first = c->at_start, joined = first && c->continues;
    if (m->kind == MK_PASS_PREFIX_SPACE && n > 0 && (p[0] == ' ' || joined)) {
        return run_from(c, i_pass + 1, p, n);
    }
    mk_buf b;
    mk_buf_init(&b, n * 8 + 64);
    if (m->kind == MK_PASS_META) {
        write_meta(m, first, joined, p, n, &b);
    } else {
        mk_buf_putc(&b, ' ');
        mk_buf_add(&b, p, n);
    }
    mk_status st = b.failed
                       ? MK_FAIL(c->err, MK_ENOMEM, "no memory to encode a piece of %zu bytes", n)
                       : MK_OK;
    if (st == MK_OK) {
        st = m->kind == MK_PASS_META ? cut_meta(c, i_pass, m, &b, first)
                                     : run_from(c, i_pass + 1, b.data, b.len);
    }
    mk_buf_free(&b);
    return st;
}

static mk_status run_from(mk_enc *c, int i_pass, const char *p, size_t n) {
    if (i_pass == c->t->n_pass) {
        return model(c, p, n);
    }
    bool cuts =
        c->t->pass[i_pass].kind == MK_PASS_SPLIT || c->t->pass[i_pass].kind == MK_PASS_REGEX;
    return cuts ? cut(c, i_pass, p, n) : rewrite(c, i_pass, p, n);
}

mk_status mk_pretok_run(mk_enc *c, const char *p, size_t n) {
    return n > 0 ? run_from(c, 0, p, n) : MK_OK;
}
