// The reward `regex`: PCRE2 with limits on steps, depth and memory.  A text that needs more than
// they allow does not match.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "train/reward_int.h"

enum { MAX_PATTERN = 16384, MATCH_LIMIT = 200000, DEPTH_LIMIT = 10000, HEAP_KIB = 20000 };

// `whole`: the pattern must take the text from its first byte to its last.
static mk_status compile(const char *pattern, size_t n, bool whole, pcre2_code **out, mk_err *err) {
    int code = 0;
    PCRE2_SIZE at = 0;
    if (n > MAX_PATTERN) {
        return MK_FAIL(err, MK_EUSAGE, "pattern: expected at most %d bytes, got %zu", MAX_PATTERN,
                       n);
    }
    uint32_t options = PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C |
                       (whole ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0);
    *out = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, NULL);
    if (*out) {
        return MK_OK;
    }
    PCRE2_UCHAR says[128] = {0};
    (void)pcre2_get_error_message(code, says, sizeof says);
    return MK_FAIL(err, MK_EUSAGE, "pattern: position %zu: %s", (size_t)at + 1, (const char *)says);
}

static bool matches(const pcre2_code *code, const char *text, size_t n) {
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *ctx = pcre2_match_context_create(NULL);
    int rc = PCRE2_ERROR_NOMEMORY;
    if (data && ctx) {
        pcre2_set_match_limit(ctx, MATCH_LIMIT);
        pcre2_set_depth_limit(ctx, DEPTH_LIMIT);
        pcre2_set_heap_limit(ctx, HEAP_KIB);
        rc = pcre2_match(code, (PCRE2_SPTR)text, n, 0, 0, data, ctx);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(ctx);
    return rc >= 0;
}

mk_status mk_reward_regex_prepare(mk_reward *r, mk_err *err) {
    pcre2_code *code = NULL;
    if (!r->pattern) {
        return MK_OK;
    }
    mk_status st = compile(r->pattern, strlen(r->pattern), !r->find, &code, err);
    r->regex = code;
    return st == MK_OK ? MK_OK : mk_err_prefix(err, "reward regex");
}

void mk_reward_regex_free(mk_reward *r) {
    pcre2_code_free(r->regex);
}

mk_status mk_reward_score_regex(const mk_reward *r, const mk_reward_text *t, double *v,
                                mk_err *err) {
    const char *text = t->answer;
    size_t n = t->n_answer;
    mk_reward_trim(&text, &n);
    if (r->regex) {
        *v = t->has_answer && matches(r->regex, text, n);
        return MK_OK;
    }
    char room[32];
    const char *pattern;
    size_t n_pattern;
    pcre2_code *code;
    MK_TRY(mk_reward_field(t, "answer", room, &pattern, &n_pattern, err));
    if (compile(pattern, n_pattern, !r->find, &code, err) != MK_OK) {
        return mk_err_prefix(err, "field 'answer' of the line");
    }
    *v = t->has_answer && matches(code, text, n);
    pcre2_code_free(code);
    return MK_OK;
}
