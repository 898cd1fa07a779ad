// Requests are read by tables: every row refuses what is not of its type and out of its range, with
// the place of the field in front.  The values are made from the table itself.
#include "cmocka_all.h"

#include <math.h>

#include "base/alloc.h"
#include "base/json.h"
#include "serve/openai_int.h"

static mk_status read_one(const mk_field *f, json_t *value, mk_ask *a, mk_err *err) {
    mk_field_table t = {f, 1, NULL};
    json_t *o = json_object();
    assert_int_equal(json_object_set_new(o, f->name, value), 0);
    mk_ask_init(a);
    mk_status st = mk_fields_read(o, NULL, &t, a, &a->unknown, err);
    json_decref(o);
    return st;
}

static void refused(const mk_field *f, json_t *value) {
    mk_ask a;
    mk_err err = {0};
    if (read_one(f, value, &a, &err) != MK_EUSAGE) {
        fail_msg("%s: a wrong value was taken", f->name);
    }
    size_t n = strlen(f->name);
    assert_true(err.msg[0] == '/' && strncmp(err.msg + 1, f->name, n) == 0);
    assert_int_equal(strncmp(err.msg + 1 + n, ": expected ", 11), 0);
    mk_ask_free(&a);
}

static void taken(const mk_field *f, json_t *value) {
    mk_ask a;
    mk_err err = {0};
    if (read_one(f, value, &a, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    assert_null(a.unknown);
    mk_ask_free(&a);
}

static void check_number(const mk_field *f) {
    double eps = fmax(1e-9, fabs(f->max) * 1e-9);
    bool integer = f->type != MK_F_F32;
    taken(f, integer ? json_integer((json_int_t)f->min) : json_real(f->min));
    taken(f, integer ? json_integer((json_int_t)f->max) : json_real(f->max));
    taken(f, json_real(f->max));
    refused(f, integer ? json_integer((json_int_t)f->min - 1) : json_real(f->min - eps));
    refused(f, integer ? json_integer((json_int_t)f->max + 1) : json_real(f->max + eps));
    refused(f, json_integer(INT64_MIN));
    refused(f, json_integer(INT64_MAX));
    refused(f, json_real(1e300));
    refused(f, json_real(-1e300));
    refused(f, json_string("1"));
    refused(f, json_true());
    refused(f, json_array());
    refused(f, json_object());
    if (integer) {
        refused(f, json_real(f->min + 0.5));
    }
}

static void check_text(const mk_field *f) {
    taken(f, json_string("x"));
    refused(f, json_integer(1));
    refused(f, json_array());
    char *long_text = mk_alloc((size_t)f->max + 2);
    memset(long_text, 'x', (size_t)f->max + 1);
    long_text[(size_t)f->max + 1] = '\0';
    refused(f, json_string(long_text));
    mk_free(long_text);
}

static void test_rows(void **state) {
    (void)state;
    int n_checked = 0;
    for (size_t i = 0; i < mk_openai_fields.n; i++) {
        const mk_field *f = &mk_openai_fields.rows[i];
        taken(f, json_null());
        n_checked += f->type != MK_F_READ && f->type != MK_F_IGNORE;
        switch (f->type) {
        case MK_F_INT:
        case MK_F_I64:
        case MK_F_F32:
            check_number(f);
            break;
        case MK_F_TEXT:
            check_text(f);
            break;
        case MK_F_BOOL:
            taken(f, json_true());
            taken(f, json_false());
            refused(f, json_integer(1));
            refused(f, json_string("true"));
            break;
        case MK_F_READ:
            refused(f, json_real(0.25));
            break;
        case MK_F_REFUSE: {
            mk_ask a;
            mk_err err = {0};
            taken(f, json_real(f->min));
            taken(f, json_false());
            assert_int_equal(read_one(f, json_integer(7), &a, &err), MK_EUNSUPPORTED);
            mk_ask_free(&a);
            break;
        }
        default:
            break;
        }
    }
    assert_true(n_checked > 20);
}

static void test_names_are_unique(void **state) {
    (void)state;
    const mk_field_table *t = &mk_openai_fields;
    for (size_t i = 0; i < t->n; i++) {
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(t->rows[i].name, t->rows[k].name);
        }
    }
}

// However many names there are, only some are kept.
static void test_many_unknown(void **state) {
    (void)state;
    json_t *o = json_object(), *unknown = NULL;
    for (int i = 0; i < 1000; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "x%d", i);
        (void)json_object_set_new(o, name, json_true());
    }
    mk_field_table none = {NULL, 0, NULL};
    assert_int_equal(mk_fields_read(o, NULL, &none, NULL, &unknown, NULL), MK_OK);
    assert_int_equal(json_array_size(unknown), 64);
    assert_string_equal(json_string_value(json_array_get(unknown, 63)), "x63");
    json_decref(unknown);
    json_decref(o);
}

static void test_http_status(void **state) {
    (void)state;
    static const struct {
        mk_status st;
        int http;
    } rows[] = {{MK_OK, 200},           {MK_EUSAGE, 400},   {MK_ENOTFOUND, 404}, {MK_ECORRUPT, 400},
                {MK_EUNSUPPORTED, 400}, {MK_ECONTEXT, 400}, {MK_ELIMIT, 429},    {MK_ENOMEM, 503},
                {MK_EIO, 500},          {MK_EINTR, 503},    {MK_ETEMPLATE, 400}, {MK_ENET, 502}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(mk_error_http_status(rows[i].st), rows[i].http);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_names_are_unique),
        cmocka_unit_test(test_many_unknown),
        cmocka_unit_test(test_http_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
