// The store of samples: files to lines, lines to samples, length limits, views, the hash.
//
// Invariants:
//  1. Samples lie one behind the other in ids[] and mask[]; records hold offsets, never pointers.
//  2. A line adds all of its samples or none: an error takes the store back to where it was.
//  3. mask[0] of every sequence is 0, and a kept sample has a target (but for rl).
#include "train/data.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/mathx.h"
#include "base/utf8.h"
#include "train/data_store.h"

const char *mk_data_kind_name(mk_data_kind k) {
    static const char *const names[] = {"auto", "text", "chat", "pair", "rl", "label"};
    return names[k];
}

// --- the store -----------------------------------------------------------------------------------

// Room for n more elements in an array that doubles.
static mk_status grow(void *array, int64_t *cap, int64_t have, int64_t n, size_t elem,
                      mk_err *err) {
    void **a = array;
    if (n <= *cap - have) {
        return MK_OK;
    }
    int64_t want = n > INT64_MAX / 4 - have ? INT64_MAX / 2 : (have + n) + (have + n) / 2 + 1024;
    void *p = mk_try_realloc(*a, (size_t)want, elem);
    if (!p) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for training data: %lld elements of %zu bytes",
                       (long long)want, elem);
    }
    *a = p;
    *cap = want;
    return MK_OK;
}

mk_status mk_store_seq(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                       mk_err *err) {
    int64_t cap = d->cap_id;
    MK_TRY(grow(&d->ids, &cap, d->n_id, n, sizeof *d->ids, err));
    MK_TRY(grow(&d->mask, &d->cap_id, d->n_id, n, sizeof *d->mask, err));
    if (n > 0) {
        memcpy(d->ids + d->n_id, ids, (size_t)n * sizeof *ids);
        if (mask) {
            memcpy(d->mask + d->n_id, mask, (size_t)n);
        } else {
            memset(d->mask + d->n_id, 0, (size_t)n);
        }
        d->mask[d->n_id] = 0;
        d->n_id += n;
    }
    return MK_OK;
}

mk_status mk_store_record(mk_data *d, mk_record r, mk_err *err) {
    MK_TRY(grow(&d->rec, &d->cap_rec, d->n_rec, 1, sizeof *d->rec, err));
    r.file = d->n_file - 1;
    r.line = d->line;
    d->rec[d->n_rec++] = r;
    return MK_OK;
}

static mk_mark mark(const mk_data *d) {
    return (mk_mark){d->n_id, d->n_rec, d->json.len, d->count};
}

static void back_to(mk_data *d, const mk_mark *m) {
    d->n_id = m->n_id;
    d->n_rec = m->n_rec;
    d->json.len = m->n_json;
    d->json.failed = false;
    d->count = m->count;
}

// --- life ----------------------------------------------------------------------------------------

static mk_status find_eog(mk_data *d, mk_err *err) {
    MK_TRY(mk_tokenizer_eog_ids(d->o.tokenizer, &d->eog, err));
    return d->eog.n <= MK_MAX_EOG
               ? MK_OK
               : MK_FAIL(err, MK_EUNSUPPORTED,
                         "the vocabulary has %lld tokens that end an answer, %d are supported",
                         (long long)d->eog.n, MK_MAX_EOG);
}

mk_status mk_data_create(const mk_data_opts *o, mk_data **out, mk_err *err) {
    MK_ASSERT(o->tokenizer && o->max_len >= 0);
    mk_data *d = mk_try_alloc(1, sizeof *d);
    if (!d) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for training data");
    }
    d->o = *o;
    mk_buf_init(&d->json, SIZE_MAX / 4);
    mk_status st = find_eog(d, err);
    if (st == MK_OK && o->max_len == 1) {
        st = MK_FAIL(err, MK_EUSAGE,
                     "maximum length of a sample: expected at least 2 tokens, got 1");
    }
    if (st != MK_OK) {
        mk_data_destroy(d);
        return st;
    }
    *out = d;
    return MK_OK;
}

void mk_data_destroy(mk_data *d) {
    if (d) {
        for (int64_t i = 0; i < d->n_file; i++) {
            mk_free(d->file[i]);
        }
        mk_free(d->file);
        mk_free(d->ids);
        mk_free(d->mask);
        mk_free(d->rec);
        mk_buf_free(&d->json);
        mk_ids_free(&d->eog);
        mk_free(d);
    }
}

// --- files ---------------------------------------------------------------------------------------

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

static bool is_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r') {
            return false;
        }
    }
    return true;
}

// The first line decides the kind; the others must be of it.
static mk_status settle_kind(mk_data *d, mk_data_kind kind, mk_err *err) {
    mk_data_kind want = d->o.kind;
    if (want == MK_DATA_AUTO) {
        d->o.kind = kind;
        return MK_OK;
    }
    // a document is also something to be learned whole among conversations, and a conversation may
    // be a document
    bool both = (want == MK_DATA_TEXT || want == MK_DATA_CHAT) &&
                (kind == MK_DATA_TEXT || kind == MK_DATA_CHAT);
    if (want != kind && !both) {
        return MK_FAIL(err, MK_ECORRUPT, "expected data of kind %s%s, got kind %s",
                       mk_data_kind_name(want), d->n_rec > 0 ? " as the lines before" : "",
                       mk_data_kind_name(kind));
    }
    return MK_OK;
}

static mk_status add_line(mk_data *d, const char *p, size_t n, mk_err *err) {
    mk_line line;
    if (n > MK_DATA_MAX_LINE) {
        return MK_FAIL(err, MK_ECORRUPT, "expected at most %zu bytes, got %zu", MK_DATA_MAX_LINE,
                       n);
    }
    mk_status st = mk_line_parse(&d->o, p, n, &line, err);
    st = st == MK_OK ? settle_kind(d, line.kind, err) : st;
    st = st == MK_OK ? mk_line_samples(d, &line, err) : st;
    mk_line_free(&line);
    return st;
}

// What a line does when it is bad: all is as before, and either it is counted or it ends the file.
static mk_status end_line(mk_data *d, mk_status st, const mk_mark *m, mk_err *local, mk_err *err) {
    if (st == MK_OK) {
        d->count.n_line++;
        return MK_OK;
    }
    back_to(d, m);
    mk_err_prefix(local, "%s line %lld", d->file[d->n_file - 1], (long long)d->line);
    if (d->o.skip_bad && st != MK_ENOMEM) {
        if (d->count.n_bad++ == 0) {
            memcpy(d->first_bad, local->msg, sizeof d->first_bad);
        }
        d->count.n_line++;
        return MK_OK;
    }
    if (err) {
        *err = *local;
    }
    return st;
}

static mk_status add_lines(mk_data *d, const char *p, size_t n, mk_err *err) {
    size_t at = 0;
    for (d->line = 1; at < n; d->line++) {
        const char *end = memchr(p + at, '\n', n - at);
        size_t len = (end ? (size_t)(end - p) : n) - at;
        if (!is_blank(p + at, len)) {
            mk_err local = {0};
            mk_mark m = mark(d);
            mk_data_kind kind = d->o.kind;
            mk_status st = add_line(d, p + at, len, &local);
            if (st != MK_OK) {
                d->o.kind = kind;  // a bad line decides nothing
            }
            MK_TRY(end_line(d, st, &m, &local, err));
        }
        at += len + 1;
    }
    return MK_OK;
}

static size_t line_of(const char *p, size_t at) {
    size_t line = 1;
    for (size_t i = 0; i < at; i++) {
        line += p[i] == '\n';
    }
    return line;
}

static mk_status add_document(mk_data *d, const char *p, size_t n, mk_err *err) {
    if (n == 0) {
        return MK_OK;
    }
    mk_mark m = mark(d);
    mk_status st = mk_text_samples(d, p, n, 1, err);
    if (st != MK_OK) {
        back_to(d, &m);
        return st;
    }
    d->count.n_line++;
    return MK_OK;
}

static mk_status add_text(mk_data *d, const char *name, const char *p, size_t n, mk_err *err) {
    size_t bad = mk_utf8_first_invalid(p, n), n_sep = d->o.separator ? strlen(d->o.separator) : 0;
    d->line = 0;
    if (d->o.kind != MK_DATA_AUTO && d->o.kind != MK_DATA_TEXT) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "%s: a .txt file is data of kind text (for pretrain), expected JSONL of kind "
            "%s",
            name, mk_data_kind_name(d->o.kind));
    }
    if (bad < n) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s line %zu: expected UTF-8 text, got the byte 0x%02x at offset %zu", name,
                       line_of(p, bad), (unsigned)(unsigned char)p[bad], bad);
    }
    mk_status st = settle_kind(d, MK_DATA_TEXT, err);
    for (size_t at = 0; st == MK_OK && at < n;) {
        const char *sep = n_sep > 0 ? memmem(p + at, n - at, d->o.separator, n_sep) : NULL;
        size_t end = sep ? (size_t)(sep - p) : n;
        st = add_document(d, p + at, end - at, err);
        at = sep ? end + n_sep : n;
    }
    return st == MK_OK ? MK_OK : mk_err_prefix(err, "%s", name);
}

static mk_status add_name(mk_data *d, const char *name, mk_err *err) {
    MK_TRY(grow(&d->file, &d->cap_file, d->n_file, 1, sizeof *d->file, err));
    d->file[d->n_file] = mk_strdup(name);
    d->n_file++;
    return MK_OK;
}

mk_status mk_data_add_memory(mk_data *d, const char *name, const char *text, size_t n,
                             mk_err *err) {
    MK_TRY(add_name(d, name, err));
    return ends_with(name, ".txt") ? add_text(d, name, text, n, err) : add_lines(d, text, n, err);
}

mk_status mk_data_add_file(mk_data *d, const char *path, mk_err *err) {
    mk_map map;
    MK_TRY(mk_map_open(path, &map, err));
    mk_status st =
        mk_data_add_memory(d, path, map.data ? (const char *)map.data : "", map.n_bytes, err);
    mk_map_close(&map);
    return st;
}

mk_status mk_data_add_ids(mk_data *d, const int32_t *ids, const uint8_t *mask, int64_t n,
                          mk_err *err) {
    if (d->n_file == 0) {
        MK_TRY(add_name(d, "(memory)", err));
    }
    MK_TRY(settle_kind(d, MK_DATA_CHAT, err));
    d->line = 0;
    mk_mark m = mark(d);
    mk_status st = mk_store_chat(d, ids, mask, n, 1, err);
    if (st != MK_OK) {
        back_to(d, &m);
    }
    return st;
}

// --- views ---------------------------------------------------------------------------------------

mk_data_kind mk_data_get_kind(const mk_data *d) {
    return d->o.kind;
}

int64_t mk_data_n_sample(const mk_data *d) {
    return d->n_rec;
}

mk_data_sample mk_data_get(const mk_data *d, int64_t i) {
    MK_ASSERT(i >= 0 && i < d->n_rec);
    const mk_record *r = &d->rec[i];
    mk_data_sample s = {.n_seq = r->n_seq,
                        .n_prompt = r->n_prompt,
                        .weight = r->weight,
                        .label = r->label,
                        .file = d->file[r->file],
                        .line = r->line};
    int64_t at = r->at;
    for (int k = 0; k < r->n_seq; k++) {
        s.seq[k] = (mk_data_seq){d->ids + at, d->mask + at, r->n[k], r->n_target[k]};
        at += r->n[k];
    }
    if (r->n_json > 0) {
        s.json = d->json.data + r->json_at;
        s.n_json = r->n_json;
    }
    return s;
}

uint64_t mk_data_hash(const mk_data *d) {
    uint64_t h = mk_hash64(d->ids, (size_t)d->n_id * sizeof *d->ids, (uint64_t)d->o.kind);
    h = mk_hash64(d->mask, (size_t)d->n_id, h);
    h = mk_hash64(d->json.data, d->json.len, h);
    for (int64_t i = 0; i < d->n_rec; i++) {
        const mk_record *r = &d->rec[i];
        const int64_t v[] = {r->n[0], r->n[1], r->n_prompt, (int64_t)mk_f32_bits(r->weight)};
        h = mk_hash64(v, sizeof v, h);
        h = r->label ? mk_hash64("label", 5, h) : h;
    }
    return h;
}

// --- statistics ----------------------------------------------------------------------------------

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

mk_status mk_data_get_stats(const mk_data *d, mk_data_stats *s, mk_err *err) {
    *s = d->count;
    memcpy(s->first_bad, d->first_bad, sizeof s->first_bad);
    s->n_sample = d->n_rec;
    int64_t n = 0, *len = mk_try_alloc((size_t)d->n_rec + 1, 2 * sizeof *len);
    if (!len) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the lengths of %lld samples",
                       (long long)d->n_rec);
    }
    for (int64_t i = 0; i < d->n_rec; i++) {
        for (int k = 0; k < d->rec[i].n_seq; k++) {
            len[n++] = d->rec[i].n[k];
            s->n_tok += d->rec[i].n[k];
            s->n_target += d->rec[i].n_target[k];
        }
    }
    if (n > 0) {
        qsort(len, (size_t)n, sizeof *len, by_value);
        s->len_min = len[0];
        s->len_median = len[(n - 1) / 2];
        s->len_p95 = len[(n - 1) * 95 / 100];
        s->len_max = len[n - 1];
    }
    mk_free(len);
    return MK_OK;
}
