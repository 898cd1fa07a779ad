// Template text and its data, both hostile. Input: template, a NUL byte, JSON (optional; a built-in
// conversation if it does not parse). Any status is fine; crashes, leaks, hangs and texts whose
// runs do not cover them are not.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "chat/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char fallback[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a <b> "
    "'\\\"\\u00e9\\ud83d\\ude42\"},{\"role\":\"assistant\",\"content\":null,"
    "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5,\"y\":[true,null,-7]}}}"
    "]}],"
    "\"add_generation_prompt\":true,\"tools\":null,\"s\":\"Hello "
    "World\",\"n\":42,\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":\"z\"}}";

static void check(const mk_jinja_text *t) {
    size_t at = 0;
    for (size_t i = 0; i < t->n_runs; i++) {
        if (t->runs[i].end <= at || (i > 0 && t->runs[i].user == t->runs[i - 1].user)) {
            abort();
        }
        at = t->runs[i].end;
    }
    if (at != t->text.len) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const roles[] = {"user", "assistant", NULL};
    const char *text = (const char *)data, *sep = n > 0 ? memchr(data, 0, n) : NULL;
    size_t n_text = sep != NULL ? (size_t)(sep - text) : n;
    mk_err err = {0};
    json_t *vars = NULL;
    mk_jinja *j = NULL;
    if (mk_jinja_compile(n > 0 ? text : "", n_text, &j, &err) != MK_OK) {
        return 0;
    }
    if (sep == NULL || mk_json_parse(sep + 1, n - n_text - 1, "fuzz", &vars, &err) != MK_OK) {
        if (mk_json_parse(fallback, sizeof fallback - 1, "fuzz", &vars, &err) != MK_OK) {
            abort();
        }
    }
    mk_jinja_limits lim = {.max_steps = 50000, .max_output_bytes = 1 << 20, .max_time_ms = 2000};
    mk_jinja_text out;
    if (mk_jinja_render_text(j, &(mk_jinja_vars){.user = vars, .plain_roles = roles}, &lim, &out,
                             &err) == MK_OK) {
        check(&out);
        mk_jinja_text_free(&out);
    }
    mk_jinja_destroy(j);
    json_decref(vars);
    return 0;
}
