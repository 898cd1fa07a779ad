// Grammars from hostile text, run over hostile text.  Input: a byte that says which form (schema,
// regex, GBNF, choice), the grammar, a NUL byte, a text.  Any status is fine; crashes, hangs, and
// answers that depend on how the text was cut are not.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "chat/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static mk_grammar *compile(int form, const char *text, size_t n) {
    static const mk_grammar_limits limits = {.max_bytes = 4 << 20, .max_ms = 10000};
    mk_grammar *g = NULL;
    mk_err err = {0};
    json_t *v = NULL;
    mk_status st = MK_EUSAGE;
    if (form == 1) {
        st = mk_grammar_from_regex(text, n, &limits, &g, &err);
    } else if (form == 2) {
        st = mk_grammar_from_gbnf(text, n, &limits, &g, &err);
    } else if (mk_json_parse(text, n, "fuzz", &v, &err) == MK_OK) {
        st = form == 0 ? mk_grammar_from_schema(v, &limits, &g, &err)
                       : mk_grammar_from_choice(v, &limits, &g, &err);
        json_decref(v);
    }
    if ((st == MK_OK) != (g != NULL) || (st != MK_OK && err.msg[0] == '\0')) {
        abort();
    }
    return g;
}

static void run(mk_grammar *g, const char *text, size_t n) {
    mk_grammar_state *s = NULL;
    mk_err err = {0};
    char forced[16];
    if (mk_grammar_start(g, NULL, &s, &err) != MK_OK) {
        abort();
    }
    size_t i = 0;
    for (; i < n && i < 4096 && mk_grammar_feed(s, text + i, 1, &err) == MK_OK; i++) {
        size_t k = mk_grammar_forced(s, forced, sizeof(forced));
        if (i + 1 < n && k > 0 && forced[0] != text[i + 1]) {
            if (mk_grammar_feed(s, text + i + 1, 1, &err) == MK_OK) {
                abort();
            }
        }
    }
    bool end = mk_grammar_can_end(s);
    mk_grammar_rewind(s, 0);
    if (mk_grammar_feed(s, text, i, &err) != MK_OK || mk_grammar_can_end(s) != end) {
        abort();
    }
    mk_grammar_state_destroy(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) {
        return 0;
    }
    const char *text = (const char *)data + 1, *sep = memchr(text, 0, n - 1);
    size_t n_text = sep != NULL ? (size_t)(sep - text) : n - 1;
    mk_grammar *g = compile(data[0] & 3, text, n_text);
    if (g != NULL) {
        const char *run_text = sep != NULL ? sep + 1 : text;
        run(g, run_text, sep != NULL ? n - 2 - n_text : n_text);
    }
    mk_grammar_unref(g);
    return 0;
}
