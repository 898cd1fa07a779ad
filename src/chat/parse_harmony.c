// gpt-oss's harmony: an answer is messages, each a header and a body.
//
//     <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant to=functions.f<|channel|>
//     commentary json<|message|>{"a":1}<|call|>
//
// The recipient makes a message a call, not the channel (large models call from `analysis`, too);
// it may stand before or behind the channel.  Without a recipient analysis is reasoning, and
// commentary and final are text.  Bodies are given out as they are, white space included.
#include <string.h>

#include "chat/parse_int.h"

static const mk_call_syntax syntax = {.body = MK_BODY_JSON};

static const char start_mark[] = "<|start|>", channel_mark[] = "<|channel|>";
static const char message_mark[] = "<|message|>";
static const char *const ends[] = {"<|end|>", "<|call|>", "<|return|>"};

bool mk_parse_harmony_marker(const char *piece, size_t n) {
    static const char *const all[] = {start_mark, channel_mark, message_mark,   "<|end|>",
                                      "<|call|>", "<|return|>", "<|constrain|>"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (strlen(all[i]) == n && memcmp(all[i], piece, n) == 0) {
            return true;
        }
    }
    return false;
}

typedef struct {
    size_t n;  // length of the header
    mk_channel channel;
    const char *to;
    size_t n_to;
} header;

static mk_match begins_header(mk_view v) {
    static const char *const begins[] = {start_mark, channel_mark, message_mark, "to="};
    size_t k = mk_count_space(v.p, v.n);
    mk_match best = k == v.n && !v.last ? MK_MORE : MK_NO;
    for (size_t i = 0; i < 4; i++) {
        mk_match m = mk_match_text((mk_view){v.p + k, v.n - k, v.last}, begins[i]);
        best = m > best ? m : best;
    }
    return best;
}

static size_t word_length(const char *p, size_t n) {
    size_t k = 0;
    while (k < n && !mk_is_space(p[k]) && p[k] != '<') {
        k++;
    }
    return k;
}

// Where the marker stands in p[0..n); n if it does not.
static size_t find(const char *p, size_t n, const char *marker) {
    for (size_t i = 0; i < n; i++) {
        if (mk_match_text((mk_view){p + i, n - i, true}, marker) == MK_YES) {
            return i;
        }
    }
    return n;
}

static void read_header(const char *p, size_t n, header *h) {
    size_t c = find(p, n, channel_mark), to = find(p, n, "to=");
    *h = (header){.n = n + sizeof message_mark - 1, .channel = MK_CHANNEL_FINAL};
    if (c < n) {
        c += sizeof channel_mark - 1;
        size_t k = word_length(p + c, n - c);
        h->channel = k == 8 && memcmp(p + c, "analysis", 8) == 0       ? MK_CHANNEL_ANALYSIS
                     : k == 10 && memcmp(p + c, "commentary", 10) == 0 ? MK_CHANNEL_COMMENTARY
                                                                       : MK_CHANNEL_FINAL;
    }
    if (to < n) {
        h->to = p + to + 3;
        h->n_to = word_length(h->to, n - to - 3);
    }
}

static mk_match match_header(mk_view v, header *h) {
    mk_match m = begins_header(v);
    if (m != MK_YES) {
        return m;
    }
    size_t body = find(v.p, v.n, message_mark);
    if (body == v.n) {
        return v.last ? MK_NO : MK_MORE;
    }
    read_header(v.p, body, h);
    return MK_YES;
}

// A call, if a JSON object follows the header.
static mk_match match_call(mk_view v, const header *h, mk_head *call) {
    bool us = (h->n_to == 9 && memcmp(h->to, "assistant", 9) == 0) || h->n_to == 0;
    *call = (mk_head){.name = h->to, .n_name = h->n_to, .form = MK_ARGS_OBJECT};
    if (us || !mk_good_call_name(h->to, h->n_to)) {
        return MK_NO;
    }
    size_t k = h->n + mk_count_space(v.p + h->n, v.n - h->n);
    call->n = k;
    if (k < v.n && v.p[k] == '{') {
        return MK_YES;
    }
    call->form = MK_ARGS_NONE;
    mk_match m = k == v.n && !v.last ? MK_MORE : MK_NO;
    for (size_t i = 0; i < 3 && k < v.n; i++) {
        mk_match e = mk_match_text((mk_view){v.p + k, v.n - k, v.last}, ends[i]);
        m = e > m ? e : m;
    }
    return m;
}

static void strip_namespace(mk_head *call) {
    static const char space[] = "functions.";
    size_t k = sizeof space - 1;
    if (call->n_name > k && memcmp(call->name, space, k) == 0) {
        call->name += k;
        call->n_name -= k;
    }
}

size_t mk_parse_header(mk_parser *p, mk_view full) {
    bool cut = full.n >= MK_PARSE_MAX_HEAD;
    mk_view v = {full.p, cut ? MK_PARSE_MAX_HEAD : full.n, full.last || cut};
    header h = {0};
    mk_head call = {0};
    if (v.n == 0) {
        return 0;
    }
    mk_match m = match_header(v, &h);
    if (m == MK_MORE) {
        return 0;
    }
    mk_match c = m == MK_YES && p->names ? match_call(v, &h, &call) : MK_NO;
    if (c == MK_MORE) {
        return 0;
    }
    if (c == MK_YES) {
        strip_namespace(&call);
        mk_parse_begin_call(p, &syntax, &call);
        return call.n;
    }
    // a header that says more than the channel, and no header at all, are text
    bool taken = m == MK_YES && !(p->names && h.n_to > 0);
    p->channel = m == MK_YES ? h.channel : MK_CHANNEL_FINAL;
    p->started = taken;
    mk_parse_go(p, MK_PS_BODY);
    return taken ? h.n : 0;
}

// Does a message end here?  *n: length of what ends it; the beginning of the next one stays.
static mk_match match_end(mk_view v, size_t *n) {
    mk_match most = MK_NO;
    for (size_t k = 0; k < 5; k++) {
        const char *mark = k < 3 ? ends[k] : k == 3 ? start_mark : channel_mark;
        mk_match m = mk_match_text(v, mark);
        if (m == MK_YES) {
            *n = k < 3 ? strlen(mark) : 0;
            return MK_YES;
        }
        most = m > most ? m : most;
    }
    return most;
}

size_t mk_parse_body(mk_parser *p, mk_view v) {
    mk_ae_kind kind = p->channel == MK_CHANNEL_ANALYSIS ? MK_AE_REASONING : MK_AE_TEXT;
    size_t i = 0, n;
    for (; i < v.n; i++) {
        // a header that was none must not end the body that it has become
        bool may_end = v.p[i] == '<' && (i > 0 || p->started);
        mk_match m = may_end ? match_end((mk_view){v.p + i, v.n - i, v.last}, &n) : MK_NO;
        if (m == MK_YES) {
            mk_parse_give(p, kind, v.p, i);
            mk_parse_go(p, MK_PS_HEADER);
            return i + n;
        }
        if (m == MK_MORE) {
            break;
        }
    }
    p->started = p->started || i > 0;
    mk_parse_give(p, kind, v.p, i);
    return i;
}

size_t mk_parse_body_end(mk_parser *p, mk_view v) {
    size_t k = mk_count_space(v.p, v.n);
    if (k < v.n) {
        p->started = true;
        mk_parse_go(p, MK_PS_BODY);
    }
    return k;
}
