// Reading a JSON object by a table: one row per field says its name, type, range and where it goes.
//
// Every dialect reads its requests with these tables, so that each number is checked against its
// range, each text against its type, and nothing is dropped in silence: names without a row are
// collected.  null is the same as a missing field.  An error names the place as a JSON pointer,
// what was expected and what was found: "/temperature: expected a number from 0 to 2, got \"hot\"".
//
//     static const mk_field rows[] = {
//         {"temperature", MK_F_F32, 0, 2, .at = offsetof(mk_ask, sample.temperature),
//          .has = offsetof(mk_ask, has_temperature)},
//         {"stop", MK_F_READ, .read = mk_read_stop},
//         {"audio", MK_F_REFUSE, .why = "minke answers with text"},
//     };
//     MK_TRY(mk_fields_read(body, NULL, &MK_FIELDS(rows), ask, &ask->unknown, err));
#ifndef MK_SERVE_FIELDS_H
#define MK_SERVE_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

// Where in the body a value stands; lives on the stack of whoever walks there.  NULL is the body.
typedef struct mk_at {
    const struct mk_at *up;
    const char *key;  // NULL: an element of an array
    size_t index;
} mk_at;
#define MK_AT(up, key) (&(mk_at){(up), (key), 0})
#define MK_NTH(up, i)  (&(mk_at){(up), NULL, (i)})

// "/messages/0/role: " and the text.
mk_status mk_at_fail(const mk_at *at, mk_err *err, mk_status code, const char *fmt, ...)
    MK_PRINTF(4, 5);
// "/messages/0/role: expected " what ", got " the value, shortened.  MK_EUSAGE.
mk_status mk_at_expected(const mk_at *at, mk_err *err, const json_t *v, const char *what);

// Reads a value into what the table is read into.
typedef mk_status (*mk_field_reader)(const mk_at *at, const json_t *v, void *to, mk_err *err);

typedef enum {
    MK_F_BOOL,      // bool
    MK_F_LAX_BOOL,  // bool; "true" and "false" as texts, too
    MK_F_INT,       // int or int32_t
    MK_F_I64,       // int64_t
    MK_F_F32,       // float
    MK_F_TEXT,      // char *, an mk_strdup; min..max bytes if max > 0
    MK_F_OBJECT,    // json_t *, a reference
    MK_F_ARRAY,     // json_t *, a reference
    MK_F_READ,      // `read`
    MK_F_IGNORE,    // understood, and without an effect here: any value
    // MK_EUNSUPPORTED with `why`, unless it asks for nothing: false, "", [], {}, min
    MK_F_REFUSE
} mk_field_type;

typedef struct {
    const char *name;
    mk_field_type type;
    double min, max;  // numbers; integral values below 2^53 for integers
    size_t at;        // offset of where it goes
    size_t has;       // offset of a bool that is set when it was there; 0: none
    mk_field_reader read;
    const char *why;
} mk_field;

typedef struct mk_field_table {
    const mk_field *rows;
    size_t n;
    const struct mk_field_table *also;  // more rows, read after these; NULL
} mk_field_table;
#define MK_SKIP(field_name)                                                                        \
    { .name = (field_name), .type = MK_F_IGNORE }
#define MK_FIELDS(rows) MK_FIELDS_AND(rows, NULL)
#define MK_FIELDS_AND(rows, others)                                                                \
    ((mk_field_table){(rows), sizeof(rows) / sizeof(rows)[0], (others)})

// Reads obj in the order of the rows.  unknown: array of the names without a row, made when needed;
// nested ones as "outer.inner"; NULL: they do not matter.  Errors: MK_EUSAGE, MK_EUNSUPPORTED, and
// what readers return.
mk_status mk_fields_read(const json_t *obj, const mk_at *at, const mk_field_table *t, void *to,
                         json_t **unknown, mk_err *err) MK_WARN_UNUSED;

// A value that is a text without NUL (borrowed).
mk_status mk_at_text(const mk_at *at, const json_t *v, const char **out,
                     mk_err *err) MK_WARN_UNUSED;
// An integer of a range; 3.0 is one.
mk_status mk_at_int(const mk_at *at, const json_t *v, int64_t min, int64_t max, int64_t *out,
                    mk_err *err) MK_WARN_UNUSED;

#endif
