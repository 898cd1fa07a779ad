// Strings and numbers of a JSON schema.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "chat/grammar_int.h"

// Formats are as strict as the standards they name, or stricter; lengths are in characters.
#define YEAR_MONTH_DAY                                                                             \
    "(([0-9]{4}-(01|03|05|07|08|10|12)-(0[1-9]|[12][0-9]|3[01]))|([0-9]{4}-(04|06|09|11)-(0[1-9]"  \
    "|[12][0-9]|30))|([0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8]))|([0-9]{2}(0[48]|[2468][048]|[13579]"     \
    "[26])-02-29))"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define BYTE   "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define LABEL  "[A-Za-z0-9]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?"
#define URI_CH "[A-Za-z0-9._~!$&'()*+,;=:@/-]"
#define HEX4   "[0-9a-fA-F]{1,4}"

static const mk_gformat formats[] = {
    {"date", YEAR_MONTH_DAY, 10, 10},
    {"time", TIME, 9, 21},
    {"date-time", YEAR_MONTH_DAY "T" TIME, 20, 32},
    {"duration",
     "P([0-9]{1,4}W|([0-9]{1,4}Y([0-9]{1,4}M([0-9]{1,4}D)?)?|[0-9]{1,4}M([0-9]{1,4}D)?|[0-9]{1,4}D)"
     "(T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S))?|"
     "T([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S))",
     3, 32},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", 36, 36},
    {"email",
     "[A-Za-z0-9_%+-]([A-Za-z0-9._%+-]{0,38}[A-Za-z0-9_%+-])?@(" LABEL "\\.){1,3}[A-Za-z]{2,10}", 6,
     174},
    {"hostname", "(" LABEL "\\.){0,3}" LABEL, 1, 163},
    {"ipv4", BYTE "\\." BYTE "\\." BYTE "\\." BYTE, 7, 15},
    {"ipv6", "(" HEX4 ":){7}" HEX4 "|(" HEX4 ":){1,6}:" HEX4 "|::(" HEX4 ":){0,5}" HEX4 "|::", 2,
     39},
    {"uri",
     "[A-Za-z][A-Za-z0-9+.-]{0,10}://" LABEL "(\\." LABEL "){0,4}(:[0-9]{1,5})?(/" URI_CH
     "{0,1000})?(\\?" URI_CH "{0,400})?(#" URI_CH "{0,200})?",
     5, 2000},
};

const mk_gformat *mk_gformat_find(const char *name) {
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return &formats[i];
        }
    }
    return NULL;
}

// --- strings -------------------------------------------------------------------------------------
static mk_gn quoted(mk_gschema *c, mk_gn inside) {
    if (c->part == MK_GS_TEXTS) {
        return inside;
    }
    mk_gn quote = mk_gb_json_quote(c->b);
    uint32_t rule = mk_gb_rule(c->b, c->path.data != NULL ? c->path.data : "/");
    mk_gb_rule_set(c->b, rule, mk_gb_seq3(c->b, quote, inside, quote));
    if (c->b->status == MK_OK) {
        c->b->rule[rule].keep = true;  // masks are kept per rule
    }
    return mk_gb_call(c->b, rule);
}

// Strings of the same bounds share a rule, and with it their masks.
static mk_gn bounded(mk_gschema *c, uint32_t min, uint32_t max) {
    if (c->part == MK_GS_TEXTS) {
        return mk_gb_repeat(c->b, mk_gb_bare_char(c->b), min, max);
    }
    for (size_t i = 0; i < c->n_bounded; i++) {
        if (c->bounded[i].min == min && c->bounded[i].max == max) {
            return mk_gb_call(c->b, c->bounded[i].rule);
        }
    }
    mk_gn call = quoted(c, mk_gb_repeat(c->b, mk_gb_json_char(c->b), min, max));
    if (c->b->status == MK_OK && c->n_bounded < sizeof(c->bounded) / sizeof(c->bounded[0])) {
        c->bounded[c->n_bounded].min = min;
        c->bounded[c->n_bounded].max = max;
        c->bounded[c->n_bounded++].rule = c->b->node[call].first;
    }
    return call;
}

// How a pattern's characters are written.
static mk_re_opts in_string(const mk_gschema *c, mk_re_match match, const char *what) {
    bool bare = c->part == MK_GS_TEXTS || c->b->how.notation == MK_VALUES_MARKED;
    return (mk_re_opts){.match = match, .json = !bare, .but = c->b->how.avoid[0], .what = what};
}

static mk_gn by_format(mk_gschema *c, const char *name, uint32_t min, uint32_t max) {
    const mk_gformat *f = mk_gformat_find(name);
    if (f == NULL) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "format", "\"%.60s\" is not supported", name);
        return MK_GN_EMPTY;
    }
    if (min > f->min || max < f->max) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, min > f->min ? "minLength" : "maxLength",
                   "together with format; its texts have %u to %u characters", f->min, f->max);
        return MK_GN_EMPTY;
    }
    mk_re_opts o = in_string(c, MK_RE_FULL, "format");
    return quoted(c, mk_gb_regex(c->b, f->pattern, strlen(f->pattern), &o));
}

static mk_gn by_pattern(mk_gschema *c, const json_t *pattern, uint32_t min, uint32_t max) {
    size_t before = mk_gschema_enter(c, "pattern");
    mk_re_simple simple = {0};
    mk_re_opts o = in_string(c, MK_RE_SEARCH, c->path.data);
    o.simple = &simple;
    mk_gn x = mk_gb_regex(c->b, json_string_value(pattern), json_string_length(pattern), &o);
    mk_gschema_leave(c, before);
    if (min == 0 && max == MK_G_INF) {
        return quoted(c, x);
    }
    if (!simple.yes) {
        MK_GS_FAIL(
            c, MK_EUNSUPPORTED, min > 0 ? "minLength" : "maxLength",
            "together with a pattern that is more than ^[...]{m,n}$; put the length into it");
        return MK_GN_EMPTY;
    }
    min = simple.min > min ? simple.min : min;
    max = simple.max < max ? simple.max : max;
    if (min > max) {
        return MK_GN_NONE;
    }
    return quoted(c, mk_gb_repeat(c->b, simple.chars, min, max));
}

static bool is_bound(const mk_gschema *c) {
    return (c->bound.bit[0] | c->bound.bit[1]) != 0;
}

// Any text without quotes.  Beside values that have to follow more than their type it begins with
// nothing that they begin with: a reader would take it for one of them.
static mk_gn bare_text(mk_gschema *c) {
    mk_byteset plain = mk_g_text_bytes(), first = plain;
    first.bit[0] &= ~(UINT64_C(1) << ' ' | UINT64_C(1) << '\n' | UINT64_C(1) << '\t' |
                      UINT64_C(1) << '\r' | c->bound.bit[0]);
    first.bit[1] &= ~c->bound.bit[1];
    mk_guntil o = {.mark = c->b->how.avoid,
                   .plain = &plain,
                   .first = is_bound(c) ? &first : NULL,
                   .escape = MK_GN_NONE,
                   .then = MK_GN_NONE};
    return mk_gb_until(c->b, &o);
}

mk_gn mk_gschema_string(mk_gschema *c, const json_t *schema) {
    const json_t *format = json_object_get(schema, "format");
    const json_t *pattern = json_object_get(schema, "pattern");
    uint32_t min, max;
    if (!mk_gschema_count(c, schema, "minLength", 0, &min) ||
        !mk_gschema_count(c, schema, "maxLength", MK_G_INF, &max)) {
        return MK_GN_EMPTY;
    }
    if ((format != NULL && !json_is_string(format)) ||
        (pattern != NULL && !json_is_string(pattern))) {
        MK_GS_FAIL(c, MK_EUSAGE, format != NULL ? "format" : "pattern", "expected a string");
        return MK_GN_EMPTY;
    }
    if (format != NULL && pattern != NULL) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "pattern", "together with format");
        return MK_GN_EMPTY;
    }
    if (min > max) {
        return MK_GN_NONE;
    }
    if (c->part == MK_GS_TEXTS) {
        bool any = format == NULL && pattern == NULL && min == 0 && max == MK_G_INF;
        if (any) {
            return bare_text(c);
        }
        if (is_bound(c)) {
            MK_GS_FAIL(c, MK_EUNSUPPORTED, NULL,
                       "a text with a form of its own beside values that it cannot be told from, "
                       "since this model writes no quotes");
            return MK_GN_EMPTY;
        }
    }
    if (format != NULL) {
        return by_format(c, json_string_value(format), min, max);
    }
    if (pattern != NULL) {
        return by_pattern(c, pattern, min, max);
    }
    return min == 0 && max == MK_G_INF ? mk_gb_json_string(c->b) : bounded(c, min, max);
}

// --- numbers -------------------------------------------------------------------------------------
enum { MAX_DECIMAL = 64 };

// A bound as decimal text without an exponent.
static bool decimal(mk_gschema *c, const char *key, const json_t *v, char out[MAX_DECIMAL]) {
    if (!json_is_number(v)) {
        MK_GS_FAIL(c, MK_EUSAGE, key, "expected a number, found %s", mk_json_type_name(v));
        return false;
    }
    if (json_is_integer(v)) {
        snprintf(out, MAX_DECIMAL, "%lld", (long long)json_integer_value(v));
        return true;
    }
    double x = json_real_value(v);
    if (fabs(x) < 1e-15 && x != 0) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, key, "a bound this close to zero");
        return false;
    }
    if (fabs(x) >= 1e19) {
        x = x < 0 ? -1e19 : 1e19;  // beyond what is written anyway
    }
    // The shortest decimal that is read back as x.
    for (int n = 1; n <= 17; n++) {
        char text[40];
        snprintf(text, sizeof(text), "%.*e", n - 1, x);
        if (strtod(text, NULL) == x) {
            int places = n - 1 - (int)strtol(strchr(text, 'e') + 1, NULL, 10);
            snprintf(out, MAX_DECIMAL, "%.*f", places > 0 ? places : 0, x);
            return true;
        }
    }
    return false;
}

typedef struct {
    char min[MAX_DECIMAL], max[MAX_DECIMAL];
} bound_texts;

// The stricter of the plain and the exclusive bound.
static bool lower(mk_gschema *c, const json_t *schema, mk_gbounds *o, bound_texts *t) {
    const json_t *min = json_object_get(schema, "minimum");
    const json_t *over = json_object_get(schema, "exclusiveMinimum");
    if (min == NULL && over == NULL) {
        return true;
    }
    o->open_min =
        min == NULL || (over != NULL && json_number_value(over) >= json_number_value(min));
    o->min = t->min;
    return decimal(c, o->open_min ? "exclusiveMinimum" : "minimum", o->open_min ? over : min,
                   t->min);
}

static bool upper(mk_gschema *c, const json_t *schema, mk_gbounds *o, bound_texts *t) {
    const json_t *max = json_object_get(schema, "maximum");
    const json_t *below = json_object_get(schema, "exclusiveMaximum");
    if (max == NULL && below == NULL) {
        return true;
    }
    o->open_max =
        max == NULL || (below != NULL && json_number_value(below) <= json_number_value(max));
    o->max = t->max;
    return decimal(c, o->open_max ? "exclusiveMaximum" : "maximum", o->open_max ? below : max,
                   t->max);
}

// OpenAPI's formats of numbers; false after a failure.
static bool number_format(mk_gschema *c, const json_t *schema, mk_gbounds *o, bool integer) {
    const json_t *format = json_object_get(schema, "format");
    const char *name = json_string_value(format);
    if (format == NULL) {
        return true;
    }
    if (name != NULL && strcmp(name, "int32") == 0) {
        o->min = o->min != NULL ? o->min : "-2147483648";
        o->max = o->max != NULL ? o->max : "2147483647";
        return true;
    }
    bool known =
        name != NULL && (strcmp(name, "int64") == 0 ||
                         (!integer && (strcmp(name, "float") == 0 || strcmp(name, "double") == 0)));
    // a string's format beside a number in a list of types says nothing of the number
    if (!known && (name == NULL || mk_gformat_find(name) == NULL)) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "format", "\"%.60s\" is not supported",
                   name != NULL ? name : "");
        return false;
    }
    return true;
}

mk_gn mk_gschema_number(mk_gschema *c, const json_t *schema, bool integer) {
    mk_gbounds o = {.where = c->path.len > 0 ? c->path.data : "/"};
    bound_texts t;
    const json_t *step = json_object_get(schema, "multipleOf");
    if (step != NULL && json_number_value(step) != 1.0) {
        MK_GS_FAIL(c, MK_EUNSUPPORTED, "multipleOf", "supported for 1 only");
        return MK_GN_EMPTY;
    }
    o.integer = integer || step != NULL;
    if (!lower(c, schema, &o, &t) || !upper(c, schema, &o, &t) ||
        !number_format(c, schema, &o, integer)) {
        return MK_GN_EMPTY;
    }
    if (o.min == NULL && o.max == NULL) {
        return o.integer ? mk_gb_json_integer(c->b) : mk_gb_json_number(c->b);
    }
    return mk_gb_number(c->b, &o);
}
