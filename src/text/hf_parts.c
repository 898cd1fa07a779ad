// Normaliser, pre-tokenizer, post-processor and decoder of tokenizer.json.  Each is a tagged
// object, or a Sequence of such; a table per member maps the tag to a reader, and a tag that is not
// in it is refused by name.
#include <string.h>

#include "base/alloc.h"
#include "text/hf_int.h"

#define MAX_NEST 4

typedef struct part_reader part_reader;
typedef struct {
    mk_tokenizer *t;
    bool byte_level;
    mk_hf_decoder_facts *decoder;
    mk_err *err;
    const char *member;  // "normalizer"
    const char *list;    // member of a Sequence that holds the parts
    const part_reader *table;
    size_t n_table;
} reader;
struct part_reader {
    const char *type;
    mk_status (*read)(reader *r, const json_t *v);
};

static mk_status read_part(reader *r, const json_t *v, int depth) {
    if (!v || json_is_null(v)) {
        return MK_OK;
    }
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) {
        return MK_FAIL(r->err, MK_ECORRUPT,
                       "tokenizer.json: %s without \"type\", expected an object that has one",
                       r->member);
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(v, r->list);
        if (!json_is_array(list) || depth == MAX_NEST) {
            return MK_FAIL(
                r->err, MK_ECORRUPT,
                "tokenizer.json: Sequence in %s: expected a list \"%s\", nested at most %d times",
                r->member, r->list, MAX_NEST);
        }
        for (size_t i = 0; i < json_array_size(list); i++) {
            MK_TRY(read_part(r, json_array_get(list, i), depth + 1));
        }
        return MK_OK;
    }
    for (size_t i = 0; i < r->n_table; i++) {
        if (strcmp(r->table[i].type, type) == 0) {
            return r->table[i].read(r, v);
        }
    }
    return MK_FAIL(r->err, MK_EUNSUPPORTED, "tokenizer.json: %s \"%.60s\" is not supported",
                   r->member, type);
}

static bool flag(const json_t *v, const char *key, bool otherwise) {
    const json_t *f = json_object_get(v, key);
    return json_is_boolean(f) ? json_is_true(f) : otherwise;
}

static const char *str_of(const json_t *v, const char *key, size_t *n) {
    const json_t *s = json_object_get(v, key);
    *n = s ? json_string_length(s) : 0;
    return json_string_value(s);
}

static mk_status missing(reader *r, const char *what) {
    return MK_FAIL(r->err, MK_ECORRUPT, "tokenizer.json: %s lacks %s", r->member, what);
}

// --- normaliser ---------------------------------------------------------------------------------
static const struct {
    const char *type;
    mk_norm_kind kind;
} simple_norms[] = {
    {"NFC", MK_NORM_NFC},   {"NFD", MK_NORM_NFD},         {"NFKC", MK_NORM_NFKC},
    {"NFKD", MK_NORM_NFKD}, {"Lowercase", MK_NORM_LOWER}, {"StripAccents", MK_NORM_STRIP_ACCENTS},
    {"Nmt", MK_NORM_NMT},
};

static mk_status add(reader *r, mk_norm_kind kind) {
    return mk_tokenizer_add_norm(r->t, (mk_norm_step){.kind = kind}, r->err);
}

static mk_status norm_simple(reader *r, const json_t *v) {
    const char *type = json_string_value(json_object_get(v, "type"));
    for (size_t i = 0; i < sizeof simple_norms / sizeof simple_norms[0]; i++) {
        if (strcmp(type, simple_norms[i].type) == 0) {
            return add(r, simple_norms[i].kind);
        }
    }
    return MK_FAIL(r->err, MK_EUNSUPPORTED, "tokenizer.json: normalizer \"%.60s\" is not supported",
                   type);
}

// Copies for a step; NULL out of memory.
static char *dup_bytes(const char *p, size_t n) {
    char *q = mk_try_alloc(n + 1, 1);
    if (q && n > 0) {
        memcpy(q, p, n);
    }
    return q;
}

static mk_status add_strings(reader *r, mk_norm_kind kind, const char *a, size_t n_a, const char *b,
                             size_t n_b) {
    mk_norm_step s = {
        .kind = kind, .a = dup_bytes(a, n_a), .b = dup_bytes(b, n_b), .n_a = n_a, .n_b = n_b};
    if (!s.a || !s.b) {
        mk_free(s.a);
        mk_free(s.b);
        return MK_FAIL(r->err, MK_ENOMEM, "no memory for a normalizer");
    }
    return mk_tokenizer_add_norm(r->t, s, r->err);
}

static mk_status norm_prepend(reader *r, const json_t *v) {
    size_t n;
    const char *s = str_of(v, "prepend", &n);
    return s ? add_strings(r, MK_NORM_PREPEND, "", 0, s, n) : missing(r, "\"prepend\"");
}

static mk_status norm_replace(reader *r, const json_t *v) {
    size_t n_to, n_from, n_re;
    const char *to = str_of(v, "content", &n_to);
    const json_t *pattern = json_object_get(v, "pattern");
    const char *from = str_of(pattern, "String", &n_from), *re = str_of(pattern, "Regex", &n_re);
    if (!to || (!from && !re)) {
        return missing(r, "\"content\" or \"pattern\" of a Replace");
    }
    if (from) {
        return add_strings(r, MK_NORM_REPLACE, from, n_from, to, n_to);
    }
    mk_norm_step s = {.kind = MK_NORM_REPLACE_REGEX, .b = dup_bytes(to, n_to), .n_b = n_to};
    mk_status st = s.b ? mk_regex_compile(re, n_re, &s.re, r->err)
                       : MK_FAIL(r->err, MK_ENOMEM, "no memory for a normalizer");
    if (st != MK_OK) {
        mk_free(s.b);
        return st;
    }
    return mk_tokenizer_add_norm(r->t, s, r->err);
}

static mk_status norm_strip(reader *r, const json_t *v) {
    mk_norm_step s = {.kind = MK_NORM_STRIP,
                      .left = flag(v, "strip_left", true),
                      .right = flag(v, "strip_right", true)};
    return mk_tokenizer_add_norm(r->t, s, r->err);
}

static mk_status norm_bert(reader *r, const json_t *v) {
    bool lower = flag(v, "lowercase", true);
    if (flag(v, "clean_text", true)) {
        MK_TRY(add(r, MK_NORM_BERT_CLEAN));
    }
    if (flag(v, "handle_chinese_chars", true)) {
        MK_TRY(add(r, MK_NORM_BERT_CJK));
    }
    if (flag(v, "strip_accents", lower)) {
        MK_TRY(add(r, MK_NORM_NFD));
        MK_TRY(add(r, MK_NORM_STRIP_ACCENTS));
    }
    return lower ? add(r, MK_NORM_LOWER) : MK_OK;
}

static int base64_value(char c) {
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

// Decodes in place of out (room for n); returns the number of bytes, or SIZE_MAX for a character
// that does not belong.
static size_t base64(const char *p, size_t n, char *out) {
    uint32_t acc = 0;
    int bits = 0;
    size_t k = 0;
    while (n > 0 && p[n - 1] == '=') {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        int v = base64_value(p[i]);
        if (v < 0) {
            return SIZE_MAX;
        }
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[k++] = (char)(acc >> bits & 255);
        }
    }
    return k;
}

static mk_status norm_precompiled(reader *r, const json_t *v) {
    size_t n;
    const char *text = str_of(v, "precompiled_charsmap", &n);
    if (!text || r->t->charsmap.blob) {
        return missing(r, "\"precompiled_charsmap\", or has two");
    }
    char *blob = mk_try_alloc(n + 1, 1);
    if (!blob) {
        return MK_FAIL(r->err, MK_ENOMEM, "no memory for a charsmap of %zu bytes", n);
    }
    size_t k = base64(text, n, blob);
    mk_status st = k == SIZE_MAX ? MK_FAIL(r->err, MK_ECORRUPT,
                                           "tokenizer.json: precompiled_charsmap is not base64")
                                 : mk_charsmap_init(&r->t->charsmap, blob, k, r->err);
    mk_free(blob);
    return st == MK_OK ? add(r, MK_NORM_CHARSMAP_HF) : st;
}

mk_status mk_hf_normalizer(mk_tokenizer *t, const json_t *v, mk_err *err) {
    static const part_reader table[] = {
        {"NFC", norm_simple},  {"NFD", norm_simple},          {"NFKC", norm_simple},
        {"NFKD", norm_simple}, {"Lowercase", norm_simple},    {"StripAccents", norm_simple},
        {"Nmt", norm_simple},  {"Prepend", norm_prepend},     {"Replace", norm_replace},
        {"Strip", norm_strip}, {"BertNormalizer", norm_bert}, {"Precompiled", norm_precompiled},
    };
    reader r = {
        t, false, NULL, err, "normalizer", "normalizers", table, sizeof table / sizeof table[0]};
    return read_part(&r, v, 0);
}

// --- pre-tokenizer ------------------------------------------------------------------------------
static mk_status split(reader *r, const mk_split_rule *rule, mk_split_behavior b) {
    return mk_tokenizer_add_pass(
        r->t, (mk_pass){.kind = MK_PASS_SPLIT, .rule = rule, .behavior = b}, r->err);
}

static mk_status behavior_of(reader *r, const json_t *v, mk_split_behavior *b) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *s = json_string_value(json_object_get(v, "behavior"));
    for (int i = 0; i < 5; i++) {
        if (s && strcmp(s, names[i]) == 0) {
            *b = (mk_split_behavior)i;
            return MK_OK;
        }
    }
    return MK_FAIL(r->err, MK_ECORRUPT,
                   "tokenizer.json: split behavior \"%.40s\", expected Isolated, Removed, "
                   "MergedWithPrevious, MergedWithNext or Contiguous",
                   s ? s : "(none)");
}

static bool cuts_lines(const mk_tokenizer *t) {
    for (int i = 0; i < t->n_pass; i++) {
        if (t->pass[i].rule == &mk_rule_newline && t->pass[i].behavior == MK_SPLIT_ISOLATED) {
            return true;
        }
    }
    return false;
}

static mk_status add_regex(reader *r, const char *re, size_t n, mk_split_behavior b, bool invert) {
    mk_pass p = {.kind = MK_PASS_REGEX, .behavior = b, .invert = invert};
    p.rule = mk_split_by_regex(re, n);
    if (p.rule == &mk_rule_space_end && !cuts_lines(r->t)) {
        p.rule = NULL;
    }
    if (p.rule) {
        p.kind = MK_PASS_SPLIT;
        if (p.rule->total && b == MK_SPLIT_REMOVED &&
            invert) {  // "keep the matches" of a rule that matches all
            p.behavior = MK_SPLIT_ISOLATED;
            p.invert = false;
        }
        return mk_tokenizer_add_pass(r->t, p, r->err);
    }
    MK_TRY(mk_regex_compile(re, n, &p.re, r->err));
    return mk_tokenizer_add_pass(r->t, p, r->err);
}

// Puts a backslash before every byte of a literal that could mean something in a regex.
static mk_status add_literal(reader *r, const char *s, size_t n, mk_split_behavior b, bool invert) {
    mk_buf re;
    mk_buf_init(&re, 1 << 16);
    for (size_t i = 0; i < n; i++) {
        bool word = (unsigned char)s[i] >= 0x80 || s[i] == '_' || (s[i] >= '0' && s[i] <= '9') ||
                    (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= 'a' && s[i] <= 'z') ||
                    (s[i] == ' ' && n == 1);
        if (!word) {
            mk_buf_putc(&re, '\\');
        }
        mk_buf_putc(&re, s[i]);
    }
    mk_status st = re.failed ? MK_FAIL(r->err, MK_EUNSUPPORTED,
                                       "tokenizer.json: split text of %zu bytes is too long", n)
                             : add_regex(r, re.data ? re.data : "", re.len, b, invert);
    mk_buf_free(&re);
    return st;
}

static mk_status pre_split(reader *r, const json_t *v) {
    mk_split_behavior b = MK_SPLIT_ISOLATED;
    MK_TRY(behavior_of(r, v, &b));
    bool invert = flag(v, "invert", false);
    size_t n;
    const json_t *pattern = json_object_get(v, "pattern");
    const char *s = str_of(pattern, "Regex", &n);
    if (s) {
        return add_regex(r, s, n, b, invert);
    }
    s = str_of(pattern, "String", &n);
    return s ? add_literal(r, s, n, b, invert) : missing(r, "the \"pattern\" of a Split");
}

static mk_status pre_byte_level(reader *r, const json_t *v) {
    r->byte_level = true;
    if (flag(v, "add_prefix_space", true)) {
        r->t->add_space_prefix = true;
        MK_TRY(mk_tokenizer_add_pass(r->t, (mk_pass){.kind = MK_PASS_PREFIX_SPACE}, r->err));
    }
    return flag(v, "use_regex", true) ? split(r, &mk_rule_gpt2, MK_SPLIT_ISOLATED) : MK_OK;
}

static mk_status pre_digits(reader *r, const json_t *v) {
    return split(r, flag(v, "individual_digits", false) ? &mk_rule_digit : &mk_rule_digits,
                 MK_SPLIT_ISOLATED);
}

static mk_status pre_punctuation(reader *r, const json_t *v) {
    mk_split_behavior b = MK_SPLIT_ISOLATED;
    if (json_object_get(v, "behavior")) {
        MK_TRY(behavior_of(r, v, &b));
    }
    return split(r, &mk_rule_punct, b);
}

static mk_status pre_whitespace(reader *r, const json_t *v) {
    (void)v;
    static const char re[] =
        "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]+|[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\s]+";
    return add_regex(r, re, sizeof re - 1, MK_SPLIT_REMOVED, true);
}

static mk_status pre_whitespace_split(reader *r, const json_t *v) {
    (void)v;
    return split(r, &mk_rule_spaces, MK_SPLIT_REMOVED);
}

static mk_status pre_bert(reader *r, const json_t *v) {
    MK_TRY(pre_whitespace_split(r, v));
    return split(r, &mk_rule_punct, MK_SPLIT_ISOLATED);
}

// "prepend_scheme", or "add_prefix_space" in older files.
static mk_prepend prepend_of(const json_t *v) {
    const char *s = json_string_value(json_object_get(v, "prepend_scheme"));
    if (s) {
        return strcmp(s, "first") == 0   ? MK_PREPEND_FIRST
               : strcmp(s, "never") == 0 ? MK_PREPEND_NEVER
                                         : MK_PREPEND_ALWAYS;
    }
    return flag(v, "add_prefix_space", true) ? MK_PREPEND_ALWAYS : MK_PREPEND_NEVER;
}

static mk_status pre_metaspace(reader *r, const json_t *v) {
    mk_pass p = {.kind = MK_PASS_META, .prepend = prepend_of(v), .split = flag(v, "split", true)};
    size_t n;
    const char *s = str_of(v, "replacement", &n);
    if (!s || n == 0 || n > 4) {
        return missing(r, "a \"replacement\" of one character");
    }
    memcpy(p.meta, s, n);
    p.n_meta = n;
    return mk_tokenizer_add_pass(r->t, p, r->err);
}

mk_status mk_hf_pre_tokenizer(mk_tokenizer *t, const json_t *v, bool *byte_level, mk_err *err) {
    static const part_reader table[] = {
        {"Split", pre_split},           {"ByteLevel", pre_byte_level},
        {"Digits", pre_digits},         {"Punctuation", pre_punctuation},
        {"Whitespace", pre_whitespace}, {"WhitespaceSplit", pre_whitespace_split},
        {"Metaspace", pre_metaspace},   {"BertPreTokenizer", pre_bert},
    };
    reader r = {t,
                false,
                NULL,
                err,
                "pre_tokenizer",
                "pretokenizers",
                table,
                sizeof table / sizeof table[0]};
    MK_TRY(read_part(&r, v, 0));
    *byte_level = *byte_level || r.byte_level;
    return MK_OK;
}

// --- post-processor: what stands around a single text -------------------------------------------
static mk_status put_around(reader *r, bool before, int64_t id) {
    mk_tokenizer *t = r->t;
    int *n = before ? &t->n_prefix : &t->n_suffix;
    if (id < 0 || id >= t->v.n || *n == MK_MAX_STEP) {
        return MK_FAIL(r->err, MK_ECORRUPT,
                       "tokenizer.json: post_processor names token %lld, the vocabulary has %lld",
                       (long long)id, (long long)t->v.n);
    }
    (before ? t->prefix : t->suffix)[(*n)++] = (int32_t)id;
    return MK_OK;
}

// {"SpecialToken": {"id": "<s>"}} -> the ids that "special_tokens" lists for "<s>".
static mk_status put_special(reader *r, const json_t *v, const json_t *item, bool before) {
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *known = name ? json_object_get(json_object_get(v, "special_tokens"), name) : NULL;
    const json_t *ids = json_object_get(known, "ids");
    if (!json_is_array(ids)) {
        return missing(r, "the ids of one of its special tokens");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        MK_TRY(put_around(r, before, json_integer_value(json_array_get(ids, i))));
    }
    return MK_OK;
}

static mk_status post_template(reader *r, const json_t *v) {
    const json_t *single = json_object_get(v, "single");
    if (!json_is_array(single)) {
        return missing(r, "the list \"single\"");
    }
    r->t->n_prefix = r->t->n_suffix = 0;
    bool before = true;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i),
                     *special = json_object_get(item, "SpecialToken");
        if (special) {
            MK_TRY(put_special(r, v, special, before));
        } else {
            before = false;
        }
    }
    return MK_OK;
}

// Bert and Roberta: "cls": ["[CLS]", 101], "sep": ["[SEP]", 102].
static mk_status post_cls_sep(reader *r, const json_t *v) {
    const json_t *cls = json_object_get(v, "cls"), *sep = json_object_get(v, "sep");
    if (!json_is_integer(json_array_get(cls, 1)) || !json_is_integer(json_array_get(sep, 1))) {
        return missing(r, "\"cls\" or \"sep\"");
    }
    r->t->n_prefix = r->t->n_suffix = 0;
    MK_TRY(put_around(r, true, json_integer_value(json_array_get(cls, 1))));
    return put_around(r, false, json_integer_value(json_array_get(sep, 1)));
}

static mk_status nothing(reader *r, const json_t *v) {
    (void)r;
    (void)v;
    return MK_OK;
}

mk_status mk_hf_post_processor(mk_tokenizer *t, const json_t *v, mk_err *err) {
    static const part_reader table[] = {
        {"TemplateProcessing", post_template},
        {"BertProcessing", post_cls_sep},
        {"RobertaProcessing", post_cls_sep},
        {"ByteLevel", nothing},
    };
    reader r = {
        t, false, NULL, err, "post_processor", "processors", table, sizeof table / sizeof table[0]};
    return read_part(&r, v, 0);
}

// --- decoder ------------------------------------------------------------------------------------
static mk_status dec_byte_level(reader *r, const json_t *v) {
    (void)v;
    r->decoder->byte_level = true;
    return MK_OK;
}

static mk_status dec_metaspace(reader *r, const json_t *v) {
    r->decoder->meta = true;
    r->t->strip_first_space = prepend_of(v) != MK_PREPEND_NEVER;
    return MK_OK;
}

static mk_status dec_replace(reader *r, const json_t *v) {
    const char *from = json_string_value(json_object_get(json_object_get(v, "pattern"), "String"));
    const char *to = json_string_value(json_object_get(v, "content"));
    if (!from || !to || strcmp(from, "\xE2\x96\x81") != 0 || strcmp(to, " ") != 0) {
        return MK_FAIL(
            r->err, MK_EUNSUPPORTED,
            "tokenizer.json: decoder Replace other than U+2581 by a space is not supported");
    }
    r->decoder->meta = true;
    return MK_OK;
}

static mk_status dec_strip(reader *r, const json_t *v) {
    const char *what = json_string_value(json_object_get(v, "content"));
    int64_t start = json_integer_value(json_object_get(v, "start")),
            stop = json_integer_value(json_object_get(v, "stop"));
    if (!what || strcmp(what, " ") != 0 || start > 1 || start < 0 || stop != 0) {
        return MK_FAIL(
            r->err, MK_EUNSUPPORTED,
            "tokenizer.json: decoder Strip other than one leading space is not supported");
    }
    r->t->strip_first_space = start == 1;
    return MK_OK;
}

mk_status mk_hf_decoder(mk_tokenizer *t, const json_t *v, mk_hf_decoder_facts *f, mk_err *err) {
    static const part_reader table[] = {
        {"ByteLevel", dec_byte_level}, {"Metaspace", dec_metaspace}, {"Replace", dec_replace},
        {"Strip", dec_strip},          {"ByteFallback", nothing},    {"Fuse", nothing},
        {"WordPiece", nothing},
    };
    reader r = {t, false, f, err, "decoder", "decoders", table, sizeof table / sizeof table[0]};
    return read_part(&r, v, 0);
}
