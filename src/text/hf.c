// tokenizer.json: finds the members, streams vocabulary and merges, hands the small members to
// hf_parts.c.
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/hf_int.h"

#define SMALL_MAX ((size_t)16 << 20)  // bytes of a member that becomes a tree of values
#define ID_SLACK  (1 << 17)           // holes between ids a file may have beyond twice its entries

enum { M_ADDED, M_NORM, M_PRE, M_POST, M_DECODER, M_MODEL, N_MEMBER };
static const char *const member_names[N_MEMBER] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                                   "post_processor", "decoder",    "model"};

typedef struct {
    size_t at;  // in texts
    uint32_t n;
    int32_t id;
    double score;
} hf_entry;

typedef struct {
    const char *text;
    size_t n;
    mk_err *err;
    mk_tokenizer *t;
    mk_jrange member[N_MEMBER], vocab, merges;
    json_t *model;  // its small members
    json_t *part[N_MEMBER];
    mk_buf texts, scratch, pair;
    hf_entry *e;
    size_t n_e, cap_e;
    const char *type, *unk_token;
    bool byte_fallback, byte_level, meta;
    int32_t last_made;  // id that the merge before made
} hf;

static mk_jscan scan_at(hf *h, mk_jrange r) {
    return (mk_jscan){h->text, r.at + r.n, r.at, MK_OK, h->err};
}

static bool is(const char *s, size_t n, const char *name) {
    return strlen(name) == n && memcmp(s, name, n) == 0;
}

// --- finding the members ------------------------------------------------------------------------
static mk_status find_members(hf *h) {
    mk_jscan j = {h->text, h->n, 0, MK_OK, h->err};
    if (h->n >= 3 && memcmp(h->text, "\xEF\xBB\xBF", 3) == 0) {
        j.at = 3;
    }
    bool first = true;
    if (!mk_jscan_take(&j, '{')) {
        return j.st;
    }
    while (mk_jscan_next(&j, '}', &first)) {
        const char *key;
        size_t n;
        if (!mk_jscan_string(&j, &h->scratch, &key, &n) || !mk_jscan_take(&j, ':')) {
            break;
        }
        int m = 0;
        while (m < N_MEMBER && !is(key, n, member_names[m])) {
            m++;
        }
        mk_jrange r = mk_jscan_skip(&j);
        if (m < N_MEMBER) {
            h->member[m] = r;
        }
    }
    if (j.st == MK_OK && mk_jscan_peek(&j) != 0) {
        return mk_jscan_fail(&j, "the end of the text");
    }
    return j.st;
}

static mk_status small(hf *h, mk_jrange r, const char *name, json_t **out) {
    if (r.n > SMALL_MAX) {
        return MK_FAIL(h->err, MK_EUNSUPPORTED,
                       "tokenizer.json: \"%s\" has %zu bytes, at most %zu are taken", name, r.n,
                       SMALL_MAX);
    }
    return mk_json_parse(h->text + r.at, r.n, name, out, h->err);
}

// Splits "model" into vocab, merges and the rest.
static mk_status find_model(hf *h) {
    mk_jrange m = h->member[M_MODEL];
    if (m.n == 0 || !(h->model = json_object())) {
        return MK_FAIL(h->err, MK_ECORRUPT, "tokenizer.json: \"model\" is missing");
    }
    mk_jscan j = scan_at(h, m);
    bool first = true;
    if (!mk_jscan_take(&j, '{')) {
        return j.st;
    }
    while (mk_jscan_next(&j, '}', &first)) {
        const char *key;
        size_t n;
        if (!mk_jscan_string(&j, &h->scratch, &key, &n) || !mk_jscan_take(&j, ':')) {
            break;
        }
        bool vocab = is(key, n, "vocab"), merges = is(key, n, "merges");
        char name[64] = {0};
        memcpy(name, key, n < sizeof name ? n : sizeof name - 1);
        mk_jrange r = mk_jscan_skip(&j);
        if (j.st != MK_OK) {
            break;
        }
        if (vocab || merges) {
            *(vocab ? &h->vocab : &h->merges) = r;
            continue;
        }
        json_t *v;
        MK_TRY(small(h, r, name, &v));
        if (json_object_set_new(h->model, name, v) != 0) {
            return MK_FAIL(h->err, MK_ECORRUPT,
                           "tokenizer.json: member \"%s\" of model cannot be kept", name);
        }
    }
    return j.st;
}

static mk_status model_settings(hf *h) {
    MK_TRY(mk_json_get_str(h->model, "type", &h->type, h->err));
    h->type = h->type ? h->type : h->merges.n > 0 ? "BPE" : "(none)";
    MK_TRY(mk_json_get_str(h->model, "unk_token", &h->unk_token, h->err));
    MK_TRY(mk_json_get_bool(h->model, "byte_fallback", &h->byte_fallback, h->err));
    MK_TRY(mk_json_get_bool(h->model, "ignore_merges", &h->t->ignore_merges, h->err));
    MK_TRY(mk_json_get_bool(h->model, "fuse_unk", &h->t->fuse_unk, h->err));
    h->t->byte_fallback = h->byte_fallback;
    static const struct {
        const char *type;
        mk_tokenizer_kind kind;
    } kinds[] = {{"BPE", MK_TOKENIZER_BPE},
                 {"Unigram", MK_TOKENIZER_UNIGRAM},
                 {"WordPiece", MK_TOKENIZER_WORDPIECE}};
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(h->type, kinds[i].type) == 0) {
            h->t->kind = kinds[i].kind;
            const char *prefix = NULL, *suffix = NULL;
            MK_TRY(mk_json_get_str(h->model, "continuing_subword_prefix", &prefix, h->err));
            MK_TRY(mk_json_get_str(h->model, "end_of_word_suffix", &suffix, h->err));
            bool plain = i == 2 ? !prefix || strcmp(prefix, "##") == 0 : !prefix || !*prefix;
            if (plain && (!suffix || !*suffix)) {
                return MK_OK;
            }
            return MK_FAIL(h->err, MK_EUNSUPPORTED,
                           "tokenizer.json: %s with a subword prefix or suffix is not supported",
                           h->type);
        }
    }
    return MK_FAIL(h->err, MK_EUNSUPPORTED,
                   "tokenizer.json: model type \"%.40s\", expected BPE, Unigram or WordPiece",
                   h->type);
}

// --- vocabulary ---------------------------------------------------------------------------------
static mk_status add_entry(hf *h, const char *s, size_t n, int64_t id, double score) {
    if (id < 0 || id >= MK_MAX_VOCAB || n > UINT32_MAX / 4) {
        return MK_FAIL(h->err, MK_ECORRUPT, "tokenizer.json: token id %lld, expected 0 to %d",
                       (long long)id, MK_MAX_VOCAB - 1);
    }
    if (h->n_e == h->cap_e) {
        size_t cap = h->cap_e * 2 + 1024;
        hf_entry *e = mk_try_realloc(h->e, cap, sizeof *e);
        if (!e) {
            return MK_FAIL(h->err, MK_ENOMEM, "no memory for a vocabulary of %zu tokens", cap);
        }
        h->e = e;
        h->cap_e = cap;
    }
    h->e[h->n_e++] = (hf_entry){h->texts.len, (uint32_t)n, (int32_t)id, score};
    mk_buf_add(&h->texts, s, n);
    return h->texts.failed ? MK_FAIL(h->err, MK_ENOMEM, "no memory for the vocabulary") : MK_OK;
}

// {"text": id, ...}
static mk_status read_vocab_object(hf *h, mk_jscan *j) {
    bool first = true;
    mk_jscan_take(j, '{');
    while (mk_jscan_next(j, '}', &first)) {
        const char *s;
        size_t n;
        int64_t id;
        if (!mk_jscan_string(j, &h->scratch, &s, &n) || !mk_jscan_take(j, ':') ||
            !mk_jscan_int(j, &id)) {
            break;
        }
        MK_TRY(add_entry(h, s, n, id, 0));
    }
    return j->st;
}

// [["text", score], ...]
static mk_status read_vocab_list(hf *h, mk_jscan *j) {
    bool first = true;
    mk_jscan_take(j, '[');
    while (mk_jscan_next(j, ']', &first)) {
        const char *s;
        size_t n;
        double score;
        if (!mk_jscan_take(j, '[') || !mk_jscan_string(j, &h->scratch, &s, &n) ||
            !mk_jscan_take(j, ',') || !mk_jscan_number(j, &score) || !mk_jscan_take(j, ']')) {
            break;
        }
        MK_TRY(add_entry(h, s, n, (int64_t)h->n_e, score));
    }
    return j->st;
}

static mk_status added_id(hf *h, const json_t *a, int64_t *id, const char **text, size_t *n) {
    const json_t *content = json_object_get(a, "content");
    *text = json_string_value(content);
    *n = content ? json_string_length(content) : 0;
    *id = -1;
    MK_TRY(mk_json_get_i64(a, "id", 0, MK_MAX_VOCAB - 1, id, h->err));
    if (!*text || *n == 0 || *id < 0) {
        return MK_FAIL(h->err, MK_ECORRUPT,
                       "tokenizer.json: an added token lacks \"id\" or \"content\"");
    }
    return MK_OK;
}

static mk_status count_ids(hf *h, int64_t *n_vocab) {
    int64_t top = -1;
    for (size_t i = 0; i < h->n_e; i++) {
        top = h->e[i].id > top ? h->e[i].id : top;
    }
    size_t n_added = json_array_size(h->part[M_ADDED]);
    for (size_t i = 0; i < n_added; i++) {
        int64_t id;
        const char *text;
        size_t n;
        MK_TRY(added_id(h, json_array_get(h->part[M_ADDED], i), &id, &text, &n));
        top = id > top ? id : top;
    }
    int64_t most = 2 * (int64_t)(h->n_e + n_added) + ID_SLACK;
    if (top < 0 || top >= most) {
        return MK_FAIL(h->err, MK_ECORRUPT,
                       "tokenizer.json: highest id %lld with %zu tokens, expected below %lld",
                       (long long)top, h->n_e + n_added, (long long)most);
    }
    *n_vocab = top + 1;
    return MK_OK;
}

static bool looks_like_byte(const char *s, size_t n) {
    return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

// WordPiece entries in the form of GGUF: "▁word" for a start, the bare rest for "##rest".
static mk_status set_entry(hf *h, const hf_entry *e) {
    const char *s = h->texts.data + e->at;
    size_t n = e->n;
    mk_token_type type = MK_TOKEN_NORMAL;
    if (h->byte_fallback && looks_like_byte(s, n)) {
        type = MK_TOKEN_BYTE;
    } else if (h->unk_token && is(s, n, h->unk_token)) {
        type = MK_TOKEN_UNKNOWN;
        h->t->unk = e->id;
    }
    if (h->t->kind == MK_TOKENIZER_WORDPIECE && type == MK_TOKEN_NORMAL) {
        mk_buf_clear(&h->scratch);
        bool rest = n > 2 && memcmp(s, "##", 2) == 0;
        mk_buf_puts(&h->scratch, rest ? "" : "\xE2\x96\x81");
        mk_buf_add(&h->scratch, s + (rest ? 2 : 0), n - (rest ? 2 : 0));
        if (h->scratch.failed) {
            return MK_FAIL(h->err, MK_ENOMEM, "no memory for the vocabulary");
        }
        s = h->scratch.data;
        n = h->scratch.len;
    }
    return mk_vocab_set(&h->t->v, e->id, s, n, type, e->score, h->err);
}

static bool has_flag(const json_t *a, const char *key) {
    return json_is_true(json_object_get(a, key));
}

// Entries and matching of the added tokens.
static mk_status set_added(hf *h) {
    size_t n = json_array_size(h->part[M_ADDED]);
    mk_added *a = mk_try_alloc(n ? n : 1, sizeof *a);
    if (!a) {
        return MK_FAIL(h->err, MK_ENOMEM, "no memory for %zu added tokens", n);
    }
    h->t->added.a = a;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(h->part[M_ADDED], i);
        int64_t id;
        const char *text;
        size_t len;
        MK_TRY(added_id(h, v, &id, &text, &len));
        bool special = has_flag(v, "special") || mk_tokenizer_eog_name(text, len);
        MK_TRY(mk_vocab_set(&h->t->v, (int32_t)id, text, len,
                            special ? MK_TOKEN_CONTROL : MK_TOKEN_USER_DEFINED, h->t->v.e[id].score,
                            h->err));
        a[i] = (mk_added){.n = len,
                          .id = (int32_t)id,
                          .special = special,
                          .lstrip = has_flag(v, "lstrip"),
                          .rstrip = has_flag(v, "rstrip"),
                          .single_word = has_flag(v, "single_word"),
                          .normalized = has_flag(v, "normalized")};
        a[i].text = mk_try_alloc(len + 1, 1);
        if (!a[i].text) {
            return MK_FAIL(h->err, MK_ENOMEM, "no memory for added tokens");
        }
        memcpy(a[i].text, text, len);
        h->t->added.n = (int64_t)i + 1;
    }
    return MK_OK;
}

// Texts that are looked for behind the normaliser are normalised themselves.  Without a normaliser
// the two kinds are one.
static mk_status normalize_added(hf *h) {
    mk_added_set *s = &h->t->added;
    mk_ids ids = {0};
    mk_enc c = {.t = h->t, .ids = &ids, .err = h->err};
    mk_buf_init(&c.norm[0], 1 << 20);
    mk_buf_init(&c.norm[1], 1 << 20);
    mk_status st = MK_OK;
    for (int64_t i = 0; i < s->n && st == MK_OK; i++) {
        mk_added *a = &s->a[i];
        a->normalized = a->normalized && h->t->n_norm > 0;
        const char *p = a->text;
        size_t n = a->n;
        st = a->normalized ? mk_norm_run(&c, p, n, &p, &n) : MK_OK;
        if (st != MK_OK || p == a->text || n == 0) {
            continue;
        }
        char *q = mk_try_alloc(n + 1, 1);
        if (!q) {
            st = MK_FAIL(h->err, MK_ENOMEM, "no memory for added tokens");
            continue;
        }
        memcpy(q, p, n);
        mk_free(a->text);
        a->text = q;
        a->n = n;
    }
    mk_buf_free(&c.norm[0]);
    mk_buf_free(&c.norm[1]);
    mk_match_destroy(c.match);
    return st == MK_OK ? mk_added_build(s, s->a, s->n, h->err) : st;
}

static mk_status read_vocab(hf *h) {
    if (h->vocab.n == 0) {
        return MK_FAIL(h->err, MK_ECORRUPT, "tokenizer.json: \"model\" has no \"vocab\"");
    }
    mk_jscan j = scan_at(h, h->vocab);
    if (h->t->kind == MK_TOKENIZER_UNIGRAM) {
        MK_TRY(read_vocab_list(h, &j));
    } else {
        MK_TRY(read_vocab_object(h, &j));
    }
    int64_t n_vocab = 0;
    MK_TRY(count_ids(h, &n_vocab));
    MK_TRY(mk_vocab_init(&h->t->v, n_vocab, h->texts.len * 2, h->err));
    for (size_t i = 0; i < h->n_e; i++) {
        MK_TRY(set_entry(h, &h->e[i]));
    }
    if (h->t->kind == MK_TOKENIZER_UNIGRAM) {
        int64_t unk = -1;
        MK_TRY(mk_json_get_i64(h->model, "unk_id", 0, n_vocab - 1, &unk, h->err));
        h->t->unk = (int32_t)unk;
        h->t->fuse_unk = true;
        if (unk >= 0) {
            h->t->v.e[unk].type = MK_TOKEN_UNKNOWN;
        }
    }
    return set_added(h);
}

// --- merges -------------------------------------------------------------------------------------
// A text of the vocabulary as key: bytes for byte-level ones.  Appends to h->pair.
static void add_key(hf *h, const char *s, size_t n) {
    size_t at = h->pair.len, k;
    mk_buf_add(&h->pair, s, n);
    if (h->byte_level && !h->pair.failed && mk_bytes_of_text(s, n, h->pair.data + at, &k)) {
        h->pair.len = at + k;
    }
}

static mk_status add_merge(hf *h, const char *a, size_t n_a, const char *b, size_t n_b,
                           int64_t rank) {
    mk_buf_clear(&h->pair);
    add_key(h, a, n_a);
    size_t cut = h->pair.len;
    add_key(h, b, n_b);
    if (h->pair.failed) {
        return MK_FAIL(h->err, MK_ENOMEM, "no memory for the merges");
    }
    const mk_vocab *v = &h->t->v;
    const char *p = h->pair.data ? h->pair.data : "";
    int32_t left = mk_vocab_find(v, p, cut, MK_TYPES_TEXT),
            right = mk_vocab_find(v, p + cut, h->pair.len - cut, MK_TYPES_TEXT);
    int32_t id = mk_vocab_find_near(v, p, h->pair.len, h->last_made + 1);
    h->last_made = id;
    if (left >= 0 && right >= 0 && id >= 0) {
        mk_merges_add(&h->t->merges, left, right, (int32_t)rank, id, false);
        return MK_OK;
    }
    // a merge into or from a control token is left out: text must not become one
    if (mk_vocab_find(v, p, cut, MK_TYPES_ALL) < 0 ||
        mk_vocab_find(v, p + cut, h->pair.len - cut, MK_TYPES_ALL) < 0 ||
        mk_vocab_find(v, p, h->pair.len, MK_TYPES_ALL) < 0) {
        return MK_FAIL(
            h->err, MK_ECORRUPT,
            "tokenizer.json: merge %lld joins or makes a token that is not in the vocabulary",
            (long long)rank);
    }
    return MK_OK;
}

// "a b" or ["a", "b"].
static mk_status read_merge(hf *h, mk_jscan *j, mk_buf *left, int64_t rank) {
    const char *s, *b;
    size_t n, n_b;
    if (mk_jscan_peek(j) == '"') {
        if (!mk_jscan_string(j, &h->scratch, &s, &n)) {
            return j->st;
        }
        const char *sp = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        if (!sp) {
            return mk_jscan_fail(j, "two tokens with a space between in the merge before");
        }
        return add_merge(h, s, (size_t)(sp - s), sp + 1, n - (size_t)(sp + 1 - s), rank);
    }
    if (!mk_jscan_take(j, '[') || !mk_jscan_string(j, left, &s, &n) || !mk_jscan_take(j, ',') ||
        !mk_jscan_string(j, &h->scratch, &b, &n_b) || !mk_jscan_take(j, ']')) {
        return j->st;
    }
    return add_merge(h, s, n, b, n_b, rank);
}

static mk_status read_merges(hf *h) {
    if (h->t->kind != MK_TOKENIZER_BPE) {
        return MK_OK;
    }
    if (h->merges.n == 0) {
        return MK_FAIL(h->err, MK_ECORRUPT, "tokenizer.json: BPE without \"merges\"");
    }
    mk_jscan count = scan_at(h, h->merges);
    bool first = true;
    int64_t n = 0;
    mk_jscan_take(&count, '[');
    while (mk_jscan_next(&count, ']', &first)) {
        mk_jscan_skip(&count);
        n++;
    }
    MK_TRY(count.st);
    MK_TRY(mk_merges_init(&h->t->merges, n, h->err));
    mk_buf left;
    mk_buf_init(&left, h->n);
    mk_jscan j = scan_at(h, h->merges);
    mk_status st = MK_OK;
    first = true;
    mk_jscan_take(&j, '[');
    for (int64_t rank = 0; st == MK_OK && mk_jscan_next(&j, ']', &first); rank++) {
        st = read_merge(h, &j, &left, rank);
    }
    mk_buf_free(&left);
    return st == MK_OK ? j.st : st;
}

// --- all together -------------------------------------------------------------------------------
// The pre-tokenizer's name in GGUF, if its defaults say all that this tokenizer does.
static void name_pre(mk_tokenizer *t) {
    int n = t->n_pass;
    for (int i = 0; i < mk_pre_n && t->v.mode == MK_PIECE_BYTE_LEVEL && t->kind == MK_TOKENIZER_BPE;
         i++) {
        const mk_pre *pre = &mk_pre_table[i];
        bool same = pre->ignore_merges == t->ignore_merges && n > 0 && n <= MK_PRE_MAX_RULE &&
                    t->n_norm == (pre->nfc ? 1 : 0) &&
                    (!pre->nfc || t->norm[0].kind == MK_NORM_NFC);
        for (int k = 0; same && k < MK_PRE_MAX_RULE; k++) {
            same = k < n ? t->pass[k].kind == MK_PASS_SPLIT && t->pass[k].rule == pre->rule[k] &&
                               t->pass[k].behavior == MK_SPLIT_ISOLATED && !t->pass[k].invert
                         : pre->rule[k] == NULL;
        }
        if (same) {
            t->pre_name = pre->name;
            return;
        }
    }
}

// Can the keys of GGUF carry this tokenizer?  If not, the text itself is kept for them.
static bool fits_gguf(const mk_tokenizer *t) {
    bool plain = strcmp(t->pre_name, "custom") != 0 && t->unk < 0;
    plain = plain && t->n_prefix <= 1 && t->n_suffix == 0;
    for (int64_t i = 0; i < t->added.n && plain; i++) {
        const mk_added *a = &t->added.a[i];
        plain = !a->lstrip && !a->rstrip && !a->single_word && !a->normalized;
    }
    return plain;
}

static mk_status parse_parts(hf *h) {
    for (int m = 0; m < M_MODEL; m++) {
        if (h->member[m].n > 0) {
            MK_TRY(small(h, h->member[m], member_names[m], &h->part[m]));
        }
    }
    if (h->part[M_ADDED] && !json_is_array(h->part[M_ADDED]) && !json_is_null(h->part[M_ADDED])) {
        return MK_FAIL(h->err, MK_ECORRUPT,
                       "tokenizer.json: \"added_tokens\" is %s, expected a list",
                       mk_json_type_name(h->part[M_ADDED]));
    }
    return MK_OK;
}

static mk_status read_all(hf *h) {
    MK_TRY(find_members(h));
    MK_TRY(find_model(h));
    MK_TRY(parse_parts(h));
    MK_TRY(model_settings(h));
    mk_hf_decoder_facts facts = {0};
    MK_TRY(mk_hf_normalizer(h->t, h->part[M_NORM], h->err));
    MK_TRY(mk_hf_pre_tokenizer(h->t, h->part[M_PRE], &h->byte_level, h->err));
    MK_TRY(mk_hf_decoder(h->t, h->part[M_DECODER], &facts, h->err));
    h->byte_level = (h->byte_level || facts.byte_level) && h->t->kind != MK_TOKENIZER_WORDPIECE;
    h->meta = facts.meta || h->t->kind == MK_TOKENIZER_WORDPIECE;
    h->t->strip_first_space = h->t->strip_first_space || h->t->kind == MK_TOKENIZER_WORDPIECE;
    MK_TRY(read_vocab(h));
    mk_piece_mode mode = h->byte_level ? MK_PIECE_BYTE_LEVEL
                         : h->meta     ? MK_PIECE_META
                                       : MK_PIECE_RAW;
    MK_TRY(mk_vocab_finish(&h->t->v, mode, h->err));
    mk_tokenizer_seal(h->t);
    MK_TRY(normalize_added(h));
    MK_TRY(read_merges(h));
    if (h->t->kind == MK_TOKENIZER_UNIGRAM || h->t->kind == MK_TOKENIZER_WORDPIECE) {
        MK_TRY(mk_unigram_prepare(h->t, h->err));
    }
    MK_TRY(mk_hf_post_processor(h->t, h->part[M_POST], h->err));
    name_pre(h->t);
    if (!fits_gguf(h->t)) {
        h->t->json = mk_try_alloc(h->n + 1, 1);
        if (!h->t->json) {
            return MK_FAIL(h->err, MK_ENOMEM, "no memory to keep the text of tokenizer.json");
        }
        memcpy(h->t->json, h->text, h->n);
        h->t->n_json = h->n;
    }
    return MK_OK;
}

mk_status mk_tokenizer_from_json(const char *text, size_t n, mk_tokenizer **out, mk_err *err) {
    *out = NULL;
    hf h = {.text = text, .n = n, .err = err};
    mk_buf_init(&h.texts, n + 1);
    mk_buf_init(&h.scratch, n + 16);
    mk_buf_init(&h.pair, n + 16);
    mk_status st = mk_tokenizer_new(&h.t, err);
    if (st == MK_OK) {
        st = read_all(&h);
    }
    mk_buf_free(&h.texts);
    mk_buf_free(&h.scratch);
    mk_buf_free(&h.pair);
    mk_free(h.e);
    json_decref(h.model);
    for (int m = 0; m < N_MEMBER; m++) {
        json_decref(h.part[m]);
    }
    if (st != MK_OK) {
        mk_tokenizer_destroy(h.t);
        return st;
    }
    *out = h.t;
    return MK_OK;
}
