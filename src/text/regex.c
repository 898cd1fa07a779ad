// PCRE2 behind regex.h.
//
// Oniguruma and PCRE2 read most patterns alike.  Three spellings are translated: \p{Han} and other
// names of scripts mean the script itself (PCRE2 would take the script extensions), \s and \S mean
// White_Space (PCRE2 would add U+180E), and "$" and "^" stop at every line (the multi-line flag).
// Set subtraction "&&" inside brackets, which PCRE2 would take as two characters, is refused.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"

#define MAX_PATTERN 16384
#define MATCH_LIMIT 200000
#define DEPTH_LIMIT 10000
#define HEAP_KIB    20000

struct mk_regex {
    pcre2_code *code;
    bool jit;
};

struct mk_match {
    pcre2_match_data *data;
    pcre2_match_context *ctx;
};

// "{Han}" at p: the length of the name, or 0 if it is no script that tokenizers use.
static size_t script_name(const char *p, size_t n) {
    static const char *const names[] = {"Han",   "Hiragana",   "Katakana", "Hangul",
                                        "Latin", "Cyrillic",   "Arabic",   "Hebrew",
                                        "Greek", "Devanagari", "Thai",     "Bopomofo"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t k = strlen(names[i]);
        if (n >= k + 2 && p[0] == '{' && p[k + 1] == '}' && memcmp(p + 1, names[i], k) == 0) {
            return k;
        }
    }
    return 0;
}

// Copies the pattern with \s, \S translated; *bad is set at "&&" inside brackets.
static void translate(const char *p, size_t n, mk_buf *out, bool *bad) {
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\\' && i + 1 < n) {
            i++;
            size_t script = p[i] == 'p' || p[i] == 'P' ? script_name(p + i + 1, n - i - 1) : 0;
            if (script > 0) {
                mk_buf_printf(out, "\\%c{sc:", p[i]);
                mk_buf_add(out, p + i + 2, script);
                i += 1 + script;
            } else if (p[i] == 's' || p[i] == 'S') {
                mk_buf_puts(out, p[i] == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
            } else {
                mk_buf_add(out, p + i - 1, 2);
            }
            continue;
        }
        depth += p[i] == '[' ? 1 : 0;
        depth -= p[i] == ']' && depth > 0 ? 1 : 0;
        *bad = *bad || (depth > 0 && p[i] == '&' && i + 1 < n && p[i + 1] == '&');
        mk_buf_putc(out, p[i]);
    }
}

static pcre2_code *compile(const char *p, size_t n, int *code) {
    uint32_t options =
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    if (!ctx) {
        *code = PCRE2_ERROR_NOMEMORY;
        return NULL;
    }
    pcre2_set_parens_nest_limit(ctx, 100);
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)p, n, options, code, &at, ctx);
    pcre2_compile_context_free(ctx);
    return re;
}

mk_status mk_regex_compile(const char *pattern, size_t n, mk_regex **out, mk_err *err) {
    *out = NULL;
    if (n > MAX_PATTERN) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "regex of the tokenizer has %zu bytes, at most %d are taken", n,
                       MAX_PATTERN);
    }
    mk_buf b;
    mk_buf_init(&b, 16 * MAX_PATTERN);
    bool bad = false;
    translate(pattern, n, &b, &bad);
    int code = 0;
    pcre2_code *re = bad || b.failed ? NULL : compile(b.data ? b.data : "", b.len, &code);
    bool no_memory = b.failed || code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAP_FAILED;
    mk_buf_free(&b);
    mk_regex *r = re ? mk_try_alloc(1, sizeof *r) : NULL;
    if (r) {
        r->code = re;
        r->jit = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
        *out = r;
        return MK_OK;
    }
    if (re || no_memory) {
        pcre2_code_free(re);
        return MK_FAIL(err, MK_ENOMEM, "no memory for a regex of the tokenizer");
    }
    char why[128] = "set subtraction (&&)";
    if (!bad) {
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    }
    return MK_FAIL(err, MK_EUNSUPPORTED, "regex of the tokenizer not supported: %s, in \"%.200s\"",
                   why, pattern);
}

void mk_regex_destroy(mk_regex *r) {
    if (r) {
        pcre2_code_free(r->code);
        mk_free(r);
    }
}

mk_match *mk_match_create(void) {
    mk_match *m = mk_try_alloc(1, sizeof *m);
    if (!m) {
        return NULL;
    }
    m->data = pcre2_match_data_create(1, NULL);
    m->ctx = pcre2_match_context_create(NULL);
    if (!m->data || !m->ctx) {
        mk_match_destroy(m);
        return NULL;
    }
    pcre2_set_match_limit(m->ctx, MATCH_LIMIT);
    pcre2_set_depth_limit(m->ctx, DEPTH_LIMIT);
    pcre2_set_heap_limit(m->ctx, HEAP_KIB);
    return m;
}

void mk_match_destroy(mk_match *m) {
    if (m) {
        pcre2_match_data_free(m->data);
        pcre2_match_context_free(m->ctx);
        mk_free(m);
    }
}

mk_status mk_regex_find(const mk_regex *r, mk_match *m, const char *text, size_t n, size_t from,
                        bool *found, size_t *start, size_t *end, mk_err *err) {
    *found = false;
    while (from < n) {
        // NOTEMPTY: an empty match would cut nothing
        int rc = pcre2_match(r->code, (PCRE2_SPTR)text, n, from, PCRE2_NOTEMPTY, m->data, m->ctx);
        if (rc == PCRE2_ERROR_NOMATCH) {
            return MK_OK;
        }
        if (rc < 0) {
            return MK_FAIL(
                err, MK_ELIMIT,
                "the regex of the tokenizer needs too many steps for this text (PCRE2 code %d)",
                rc);
        }
        PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->data);
        if (v[1] > v[0] && v[0] >= from && v[1] <= n) {
            *start = v[0];
            *end = v[1];
            *found = true;
            return MK_OK;
        }
        from++;  // \K can end before it starts; step on
    }
    return MK_OK;
}
