#include "serve/jout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/wire.h"

enum { ARGS_MAX_BYTES = 1 << 26 };

// --- arguments of tool calls ---------------------------------------------------------------------

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// Without memory to tell, b fails.
static bool is_object(mk_buf *b, const char *p, size_t n) {
    json_t *v = NULL;
    mk_err err = {0};
    mk_status st = n <= ARGS_MAX_BYTES ? mk_json_parse(p, n, "arguments", &v, &err) : MK_ELIMIT;
    bool ok = st == MK_OK && json_is_object(v);
    b->failed = b->failed || st == MK_ENOMEM;
    json_decref(v);
    return ok;
}

void mk_jout_args(mk_buf *b, const char *p, size_t n) {
    while (n > 0 && is_blank(p[0])) {
        p++;
        n--;
    }
    if (n == 0) {
        mk_buf_puts(b, "{}");
        return;
    }
    if (p[0] != '{' || !is_object(b, p, n)) {
        mk_buf_puts(b, "{\"INVALID_JSON\":");
        mk_wire_string(b, p, n);
        mk_buf_putc(b, '}');
        return;
    }
    bool inside = false;  // a string
    for (size_t i = 0; i < n; i++) {
        if (inside && p[i] == '\\') {
            mk_buf_add(b, p + i, 2);
            i++;
        } else if (inside || !is_blank(p[i])) {
            inside = (p[i] == '"') != inside;
            mk_buf_putc(b, p[i]);
        }
    }
}

// --- values --------------------------------------------------------------------------------------

// 15 digits are enough for what was written with up to 15, 17 for every double.
static void add_real(mk_buf *b, double v) {
    char s[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        if (strtod(s, NULL) == v) {
            break;
        }
    }
    mk_buf_puts(b, s);
    if (!strpbrk(s, ".e")) {
        mk_buf_puts(b, ".0");
    }
}

static void add_object(mk_buf *b, const json_t *obj) {
    const char *key;
    json_t *v;
    const char *between = "";
    mk_buf_putc(b, '{');
    json_object_foreach((json_t *)obj, key, v) {
        mk_buf_puts(b, between);
        mk_wire_text(b, key);
        mk_buf_putc(b, ':');
        mk_jout_value(b, v);
        between = ",";
    }
    mk_buf_putc(b, '}');
}

static void add_array(mk_buf *b, const json_t *arr) {
    size_t i;
    json_t *v;
    mk_buf_putc(b, '[');
    json_array_foreach(arr, i, v) {
        mk_buf_puts(b, i > 0 ? "," : "");
        mk_jout_value(b, v);
    }
    mk_buf_putc(b, ']');
}

// As deep as the value is: what came through mk_json_parse has at most MK_JSON_MAX_DEPTH levels.
void mk_jout_value(mk_buf *b, const json_t *v) {
    if (!v) {
        b->failed = true;
        return;
    }
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        add_object(b, v);
        break;
    case JSON_ARRAY:
        add_array(b, v);
        break;
    case JSON_STRING:
        mk_wire_string(b, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        mk_buf_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        break;
    case JSON_REAL:
        add_real(b, json_real_value(v));
        break;
    case JSON_TRUE:
        mk_buf_puts(b, "true");
        break;
    case JSON_FALSE:
        mk_buf_puts(b, "false");
        break;
    case JSON_NULL:
        mk_buf_puts(b, "null");
        break;
    }
}
