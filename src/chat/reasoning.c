// The splitter works on one pending text: what was held back plus the new piece. Each state takes
// what it can decide about from its front; the rest is held for the next call.
#include "chat/reasoning.h"

#include <string.h>

#define MAX_TAG  64
#define MAX_HELD ((size_t)64 << 20)

typedef struct {
    mk_reasoning_fn fn;
    void *arg;
} sink;

static bool is_space(char ch) {
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

static size_t count_space(const char *p, size_t n) {
    size_t k = 0;
    while (k < n && is_space(p[k])) {
        k++;
    }
    return k;
}

static void give(const sink *s, bool reasoning, const char *p, size_t n) {
    if (n > 0 && s->fn != NULL) {
        s->fn(s->arg, reasoning, p, n);
    }
}

// Is p[0..n) the beginning of the tag (shorter than it)?
static bool could_be(const char *p, size_t n, const char *tag) {
    return n < strlen(tag) && memcmp(p, tag, n) == 0;
}

static bool starts_with(const char *p, size_t n, const char *tag) {
    size_t k = strlen(tag);
    return n >= k && memcmp(p, tag, k) == 0;
}

mk_status mk_reasoning_init(mk_reasoning *r, const mk_reasoning_opts *opts, mk_err *err) {
    *r = (mk_reasoning){.opts = *opts};
    mk_buf_init(&r->held, MAX_HELD);
    if (r->opts.open == NULL) {
        r->opts.open = "<think>";
    }
    if (r->opts.close == NULL) {
        r->opts.close = "</think>";
    }
    const char *tags[] = {r->opts.open, r->opts.close};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(tags[i]);
        if (n == 0 || n > MAX_TAG || is_space(tags[i][0])) {
            return MK_FAIL(
                err, MK_EUSAGE,
                "reasoning tag \"%.80s\": expected 1 to %d bytes that start with no blank", tags[i],
                MAX_TAG);
        }
    }
    r->state = opts->disabled        ? MK_REASONING_CONTENT
               : opts->starts_inside ? MK_REASONING_THINK
                                     : MK_REASONING_START;
    return MK_OK;
}

void mk_reasoning_free(mk_reasoning *r) {
    if (r != NULL) {
        mk_buf_free(&r->held);
    }
}

bool mk_reasoning_inside(const mk_reasoning *r) {
    return r->state == MK_REASONING_THINK;
}

// --- states: each returns how many bytes of p are settled ----------------------------------------
static size_t at_start(mk_reasoning *r, const char *p, size_t n, const sink *s) {
    size_t k = count_space(p, n);
    if (starts_with(p + k, n - k, r->opts.open)) {
        r->state = MK_REASONING_THINK;
        return k + strlen(r->opts.open);
    }
    if (k == n || could_be(p + k, n - k, r->opts.open)) {
        return 0;
    }
    r->state = MK_REASONING_CONTENT;
    give(s, false, p, k);
    return k;
}

// White space is held until something follows it that is not the closing tag.
static size_t in_think(mk_reasoning *r, const char *p, size_t n, const sink *s) {
    if (!r->started) {
        size_t k = count_space(p, n);
        if (k > 0 || n == 0) {
            return k;
        }
        r->started = true;
    }
    size_t given = 0;  // up to here the text is certain
    for (size_t i = 0; i < n;) {
        size_t k = i + count_space(p + i, n - i);
        if (starts_with(p + k, n - k, r->opts.close)) {
            give(s, true, p, given);
            r->state = MK_REASONING_AFTER;
            return k + strlen(r->opts.close);
        }
        if (k == n || could_be(p + k, n - k, r->opts.close)) {
            break;
        }
        given = i = k + 1;
    }
    give(s, true, p, given);
    return given;
}

static size_t in_after(mk_reasoning *r, const char *p, size_t n, const sink *s) {
    (void)s;
    size_t k = count_space(p, n);
    if (k < n) {
        r->state = MK_REASONING_CONTENT;
    }
    return k;
}

static size_t in_content(mk_reasoning *r, const char *p, size_t n, const sink *s) {
    (void)r;
    give(s, false, p, n);
    return n;
}

static size_t (*const step[])(mk_reasoning *r, const char *p, size_t n, const sink *s) = {
    [MK_REASONING_START] = at_start,
    [MK_REASONING_THINK] = in_think,
    [MK_REASONING_AFTER] = in_after,
    [MK_REASONING_CONTENT] = in_content,
};

mk_status mk_reasoning_push(mk_reasoning *r, const char *text, size_t n, mk_reasoning_fn fn,
                            void *arg, mk_err *err) {
    sink s = {fn, arg};
    size_t at = 0;
    bool joined = r->held.len > 0;
    if (joined) {
        mk_buf_add(&r->held, text, n);
        if (r->held.failed) {
            return MK_FAIL(err, MK_ENOMEM, "reasoning: cannot hold back %zu bytes", n);
        }
        text = r->held.data;
        n = r->held.len;
    }
    for (;;) {
        mk_reasoning_state before = r->state;
        bool started = r->started;
        size_t k = step[r->state](r, text + at, n - at, &s);
        at += k;
        if (at >= n || (k == 0 && r->state == before && r->started == started)) {
            break;
        }
    }
    if (joined) {
        // what is left stays at the front of the buffer
        memmove(r->held.data, r->held.data + at, n - at);
        r->held.len = n - at;
        r->held.data[r->held.len] = 0;
    } else if (at < n) {
        mk_buf_add(&r->held, text + at, n - at);
    }
    return r->held.failed ? MK_FAIL(err, MK_ENOMEM, "reasoning: cannot hold back %zu bytes", n - at)
                          : MK_OK;
}

void mk_reasoning_finish(mk_reasoning *r, mk_reasoning_fn fn, void *arg) {
    sink s = {fn, arg};
    size_t n = r->held.len;
    if (r->state == MK_REASONING_THINK) {
        while (n > 0 && is_space(r->held.data[n - 1])) {
            n--;
        }
    }
    if (r->state != MK_REASONING_AFTER) {
        give(&s, r->state == MK_REASONING_THINK, r->held.data, n);
    }
    mk_buf_clear(&r->held);
}

bool mk_reasoning_prompt_open(const char *prompt, size_t n, const char *open) {
    size_t k = strlen(open);
    while (n > 0 && is_space(prompt[n - 1])) {
        n--;
    }
    return k > 0 && n >= k && memcmp(prompt + n - k, open, k) == 0;
}
