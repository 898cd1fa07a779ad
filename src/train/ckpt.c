// Reading and writing checkpoints (ckpt.h).
//
// Invariants after opening:
//  1. header and table were copied before their hashes were checked, so that a file changed under
//     the map cannot change them afterwards;
//  2. sections and names lie one after the other exactly as the writer puts them, without overlap
//     or unexplained bytes; every byte of the file is covered by a hash or known to be zero;
//  3. no two sections have the same name; section 0 is the run's JSON.
#include "train/ckpt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mathx.h"

#define VERSION 1
#define RUN     "run.json"

enum { ALIGN = 64, JSON_MAX = 64 << 20 };

static const uint8_t magic[8] = {'m', 'i', 'n', 'k', 'e', 'c', 'p', '\n'};

typedef struct {
    uint8_t magic[8];
    uint32_t version, n_section;
    uint64_t table_bytes, file_bytes;
    int64_t step;
    double score;
    uint64_t table_hash, hash;  // hash: of the bytes before it
} header;

typedef struct {
    uint32_t dtype, n_dim;
    int64_t shape[MK_CKPT_DIM];  // zero from n_dim on
    uint64_t offset, n_bytes, hash;
    uint32_t name_at, name_bytes;  // from the start of the names; a NUL behind it
} record;

_Static_assert(sizeof(header) == 64, "the header is 64 bytes without holes");
_Static_assert(sizeof(record) == 72, "a record is 72 bytes without holes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are stored as they lie");

struct mk_ckpt {
    mk_map map;  // path NULL: memory of the caller
    const char *what;
    const uint8_t *data;
    size_t n_bytes;
    header head;
    uint8_t *table;             // copy of the whole table
    mk_ckpt_section *section;   // n_section; [0] is the run's JSON
    mk_ckpt_section **by_name;  // sorted
    json_t *run;
};

static const record *record_at(const uint8_t *table, int64_t i) {
    return (const record *)(const void *)table + i;
}

// Bytes of a section; false for a shape or type that cannot be.
static bool section_bytes(const mk_ckpt_section *s, size_t *out) {
    if (s->n_dim < 1 || s->n_dim > MK_CKPT_DIM) {
        return false;
    }
    int64_t rows = 1;
    for (int i = 0; i < s->n_dim; i++) {
        if (s->shape[i] < 0 || (i + 1 < s->n_dim && !mk_mul_i64(rows, s->shape[i], &rows))) {
            return false;
        }
    }
    size_t row = 0;
    return mk_dtype_row_bytes(s->dtype, s->shape[s->n_dim - 1], &row) &&
           mk_mul_size((size_t)rows, row, out);
}

// --- writing -------------------------------------------------------------------------------------
static int add_json(const char *p, size_t n, void *arg) {
    mk_buf_add(arg, p, n);
    return 0;
}

typedef struct {
    mk_buf json, table, names;
    mk_ckpt_section run;
} parts;

static void free_parts(parts *p) {
    mk_buf_free(&p->json);
    mk_buf_free(&p->table);
    mk_buf_free(&p->names);
}

static mk_status dump_run(parts *p, const char *path, const json_t *run, mk_err *err) {
    MK_ASSERT(json_is_object(run));
    // sorted and with all digits, so that equal values are equal bytes and come back as they were
    int rc = json_dump_callback(run, add_json, &p->json,
                                JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (rc != 0 || p->json.failed) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for the state of the run (at most %d bytes)",
                       path, JSON_MAX);
    }
    p->run = (mk_ckpt_section){.name = RUN,
                               .dtype = MK_DTYPE_U8,
                               .n_dim = 1,
                               .shape = {(int64_t)p->json.len},
                               .data = p->json.data};
    return MK_OK;
}

static uint64_t align(uint64_t at) {
    return (at + ALIGN - 1) / ALIGN * ALIGN;
}

// *at: end of the section before, counted from the first section.
static void add_record(parts *p, const mk_ckpt_section *s, uint64_t *at) {
    size_t n = 0, n_name = strlen(s->name);
    bool ok = section_bytes(s, &n);
    MK_ASSERT(ok && p->names.len <= UINT32_MAX / 2 && n_name <= UINT32_MAX / 2);
    record r = {.dtype = (uint32_t)s->dtype,
                .n_dim = (uint32_t)s->n_dim,
                .offset = align(*at),
                .n_bytes = n,
                .hash = mk_hash64(s->data, n, 0),
                .name_at = (uint32_t)p->names.len,
                .name_bytes = (uint32_t)n_name};
    memcpy(r.shape, s->shape, (size_t)s->n_dim * sizeof *r.shape);
    mk_buf_add(&p->table, &r, sizeof r);
    mk_buf_add(&p->names, s->name, n_name + 1);
    *at = r.offset + n;
}

// Records, then names; offsets become those of the file.
static mk_status make_table(parts *p, const char *path, const mk_ckpt_section *list, int64_t n,
                            header *h, mk_err *err) {
    uint64_t end = 0;
    add_record(p, &p->run, &end);
    for (int64_t i = 0; i < n; i++) {
        add_record(p, &list[i], &end);
    }
    if (p->table.failed || p->names.failed) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for a table of %lld sections", path,
                       (long long)n + 1);
    }
    uint64_t first = align(sizeof *h + p->table.len + p->names.len);
    for (int64_t i = 0; i <= n; i++) {
        ((record *)(void *)p->table.data)[i].offset += first;
    }
    mk_buf_add(&p->table, p->names.data, p->names.len);
    if (p->table.failed) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for a table of %lld sections", path,
                       (long long)n + 1);
    }
    h->n_section = (uint32_t)(n + 1);
    h->table_bytes = p->table.len;
    h->file_bytes = first + end;
    h->table_hash = mk_hash64(p->table.data, p->table.len, 0);
    h->hash = mk_hash64(h, sizeof *h - sizeof h->hash, 0);
    return MK_OK;
}

static mk_status write_section(mk_writer *w, const void *data, size_t n, mk_err *err) {
    static const uint8_t zeros[ALIGN];
    uint64_t at = mk_writer_offset(w);
    MK_TRY(mk_writer_write(w, zeros, (size_t)(align(at) - at), err));
    return mk_writer_write(w, data, n, err);
}

static mk_status write_all(mk_writer *w, const parts *p, const header *h,
                           const mk_ckpt_section *list, int64_t n, mk_err *err) {
    MK_TRY(mk_writer_write(w, h, sizeof *h, err));
    MK_TRY(mk_writer_write(w, p->table.data, p->table.len, err));
    MK_TRY(write_section(w, p->json.data, p->json.len, err));
    for (int64_t i = 0; i < n; i++) {
        size_t bytes = 0;
        bool ok = section_bytes(&list[i], &bytes);
        MK_ASSERT(ok);
        MK_TRY(write_section(w, list[i].data, bytes, err));
    }
    MK_ASSERT(mk_writer_offset(w) == h->file_bytes);
    return MK_OK;
}

static mk_status write_file(const char *path, const parts *p, const header *h,
                            const mk_ckpt_section *list, int64_t n, mk_err *err) {
    mk_writer *w = NULL;
    MK_TRY(mk_writer_open(path, &w, err));
    mk_status st = write_all(w, p, h, list, n, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

mk_status mk_ckpt_write(const char *path, const mk_ckpt_head *head, const mk_ckpt_section *list,
                        int64_t n, mk_err *err) {
    MK_ASSERT(n >= 0 && n < INT32_MAX);
    header h = {.version = VERSION, .step = head->step, .score = head->score};
    memcpy(h.magic, magic, sizeof magic);
    if (h.score != h.score) {
        h.score = (double)mk_f32_from_bits(0x7FC00000);  // one NaN for all
    }
    parts p = {.run = {0}};
    mk_buf_init(&p.json, JSON_MAX);
    mk_buf_init(&p.table, SIZE_MAX - 1);
    mk_buf_init(&p.names, SIZE_MAX - 1);
    mk_status st = dump_run(&p, path, head->run, err);
    if (st == MK_OK) {
        st = make_table(&p, path, list, n, &h, err);
    }
    if (st == MK_OK) {
        st = write_file(path, &p, &h, list, n, err);
    }
    free_parts(&p);
    return st;
}

// --- checks --------------------------------------------------------------------------------------
// n_bytes: what there is of the header.
static mk_status check_header(const header *h, size_t n_bytes, const char *what, mk_err *err) {
    if (n_bytes < sizeof *h || memcmp(h->magic, magic, sizeof magic) != 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: not a checkpoint of minke: expected its header in "
                       "the first %zu bytes",
                       what, sizeof *h);
    }
    if (h->hash != mk_hash64(h, sizeof *h - sizeof h->hash, 0)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: the header is damaged: its hash is not %016llx", what,
                       (unsigned long long)h->hash);
    }
    if (h->version != VERSION) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: version %u of checkpoints, expected %u", what,
                       h->version, (unsigned)VERSION);
    }
    return MK_OK;
}

static mk_status check_sizes(const mk_ckpt *c, mk_err *err) {
    const header *h = &c->head;
    if (h->file_bytes != c->n_bytes) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: %zu bytes, expected %llu: the file was cut short or "
                       "extended",
                       c->what, c->n_bytes, (unsigned long long)h->file_bytes);
    }
    size_t records = 0;
    bool ok = h->n_section > 0 && h->step >= 0 && h->table_bytes <= c->n_bytes - sizeof *h &&
              mk_mul_size(h->n_section, sizeof(record), &records) && records < h->table_bytes;
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the header tells of %u sections in a table of %llu bytes at step %lld, "
                       "which does not fit a file of %zu bytes",
                       c->what, h->n_section, (unsigned long long)h->table_bytes,
                       (long long)h->step, c->n_bytes);
    }
    return MK_OK;
}

// The name of section i; *at: end of the name before, with its NUL.
static mk_status read_name(mk_ckpt *c, int64_t i, uint64_t *at, mk_err *err) {
    size_t records = c->head.n_section * sizeof(record), room = c->head.table_bytes - records;
    const record *r = record_at(c->table, i);
    const char *names = (const char *)c->table + records;
    bool ok = r->name_at == *at && *at < room && r->name_bytes < room - *at &&
              names[*at + r->name_bytes] == '\0' && strlen(names + *at) == r->name_bytes;
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: section %lld: its name is not where it should be",
                       c->what, (long long)i);
    }
    c->section[i].name = names + *at;
    *at += r->name_bytes + 1;
    return MK_OK;
}

static bool all_zero(const uint8_t *p, uint64_t n) {
    uint8_t x = 0;
    for (uint64_t i = 0; i < n; i++) {
        x |= p[i];
    }
    return x == 0;
}

// *at: end of the section before.
static mk_status read_section(mk_ckpt *c, int64_t i, uint64_t *at, mk_err *err) {
    const record *r = record_at(c->table, i);
    mk_ckpt_section *s = &c->section[i];
    size_t n = 0;
    // the bound of n_dim comes first: section_bytes reads as many sizes
    s->dtype = (mk_dtype)r->dtype;
    s->n_dim = r->n_dim <= MK_CKPT_DIM ? (int32_t)r->n_dim : 0;
    memcpy(s->shape, r->shape, sizeof s->shape);
    bool ok = r->dtype < MK_DTYPE_N && section_bytes(s, &n) && n == r->n_bytes;
    for (int d = s->n_dim; d < MK_CKPT_DIM; d++) {
        ok = ok && s->shape[d] == 0;
    }
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: section %s: %llu bytes do not fit type %u and %u dimensions", c->what,
                       s->name, (unsigned long long)r->n_bytes, r->dtype, r->n_dim);
    }
    if (r->offset != align(*at) || r->offset > c->n_bytes || n > c->n_bytes - r->offset ||
        !all_zero(c->data + *at, r->offset - *at)) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: section %s: %zu bytes at %llu; expected them at %llu with zeros before "
                       "them, in a file of %zu bytes",
                       c->what, s->name, n, (unsigned long long)r->offset,
                       (unsigned long long)align(*at), c->n_bytes);
    }
    s->data = (void *)(uintptr_t)(c->data + r->offset);
    *at = r->offset + n;
    return MK_OK;
}

static mk_status verify(const mk_ckpt *c, mk_err *err) {
    for (int64_t i = 0; i < c->head.n_section; i++) {
        const record *r = record_at(c->table, i);
        uint64_t h = mk_hash64(c->section[i].data, r->n_bytes, 0);
        if (h != r->hash) {
            return MK_FAIL(err, MK_ECORRUPT,
                           "%s: section %s is damaged: its hash is %016llx, expected %016llx",
                           c->what, c->section[i].name, (unsigned long long)h,
                           (unsigned long long)r->hash);
        }
    }
    return MK_OK;
}

// --- reading -------------------------------------------------------------------------------------
static int by_name(const void *a, const void *b) {
    const mk_ckpt_section *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static mk_status sort_names(mk_ckpt *c, mk_err *err) {
    for (int64_t i = 0; i < c->head.n_section; i++) {
        c->by_name[i] = &c->section[i];
    }
    qsort(c->by_name, c->head.n_section, sizeof *c->by_name, by_name);
    for (int64_t i = 1; i < c->head.n_section; i++) {
        if (strcmp(c->by_name[i - 1]->name, c->by_name[i]->name) == 0) {
            return MK_FAIL(err, MK_ECORRUPT, "%s: two sections are called %s", c->what,
                           c->by_name[i]->name);
        }
    }
    return MK_OK;
}

static mk_status read_table(mk_ckpt *c, mk_err *err) {
    const header *h = &c->head;
    c->table = mk_try_alloc(h->table_bytes, 1);
    c->section = mk_try_alloc(h->n_section, sizeof *c->section);
    c->by_name = mk_try_alloc(h->n_section, sizeof *c->by_name);
    if (!c->table || !c->section || !c->by_name) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for a table of %llu bytes", c->what,
                       (unsigned long long)h->table_bytes);
    }
    memcpy(c->table, c->data + sizeof *h, h->table_bytes);
    if (mk_hash64(c->table, h->table_bytes, 0) != h->table_hash) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: the table is damaged: its hash is not %016llx",
                       c->what, (unsigned long long)h->table_hash);
    }
    uint64_t name_end = 0, end = sizeof *h + h->table_bytes;
    for (int64_t i = 0; i < h->n_section; i++) {
        MK_TRY(read_name(c, i, &name_end, err));
        MK_TRY(read_section(c, i, &end, err));
    }
    if (end != c->n_bytes || name_end != h->table_bytes - h->n_section * sizeof(record)) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the sections end at %llu and their names at %llu; "
                       "expected the ends of file and table",
                       c->what, (unsigned long long)end, (unsigned long long)name_end);
    }
    return sort_names(c, err);
}

static mk_status read_run(mk_ckpt *c, mk_err *err) {
    const mk_ckpt_section *s = &c->section[0];
    if (strcmp(s->name, RUN) != 0 || s->dtype != MK_DTYPE_U8 || s->n_dim != 1) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: expected " RUN " as the first section, found %s",
                       c->what, s->name);
    }
    mk_status st = mk_json_parse(s->data, (size_t)s->shape[0], RUN, &c->run, err);
    if (st != MK_OK) {
        return mk_err_prefix(err, "%s", c->what);
    }
    return json_is_object(c->run)
               ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT, "%s: " RUN ": expected object, got %s", c->what,
                         mk_json_type_name(c->run));
}

static mk_status parse(mk_ckpt *c, mk_err *err) {
    size_t n = c->n_bytes < sizeof c->head ? c->n_bytes : sizeof c->head;
    if (n > 0) {
        memcpy(&c->head, c->data, n);
    }
    MK_TRY(check_header(&c->head, n, c->what, err));
    MK_TRY(check_sizes(c, err));
    MK_TRY(read_table(c, err));
    MK_TRY(verify(c, err));
    return read_run(c, err);
}

static mk_status parse_or_close(mk_ckpt *c, mk_ckpt **out, mk_err *err) {
    mk_status st = parse(c, err);
    if (st != MK_OK) {
        mk_ckpt_close(c);
        return st;
    }
    *out = c;
    return MK_OK;
}

mk_status mk_ckpt_open(const char *path, mk_ckpt **out, mk_err *err) {
    *out = NULL;
    mk_ckpt *c = mk_zalloc(sizeof *c);
    mk_status st = mk_map_open(path, &c->map, err);
    if (st != MK_OK) {
        mk_free(c);
        return st;
    }
    c->what = c->map.path;
    c->data = c->map.data;
    c->n_bytes = c->map.n_bytes;
    return parse_or_close(c, out, err);
}

mk_status mk_ckpt_open_memory(const void *data, size_t n_bytes, const char *what, mk_ckpt **out,
                              mk_err *err) {
    *out = NULL;
    mk_ckpt *c = mk_zalloc(sizeof *c);
    c->what = what;
    c->data = data;
    c->n_bytes = n_bytes;
    return parse_or_close(c, out, err);
}

void mk_ckpt_close(mk_ckpt *c) {
    if (c == NULL) {
        return;
    }
    json_decref(c->run);
    mk_free(c->table);
    mk_free(c->section);
    mk_free(c->by_name);
    mk_map_close(&c->map);
    mk_free(c);
}

mk_status mk_ckpt_peek(const char *path, mk_ckpt_head *head, mk_err *err) {
    FILE *f = fopen(path, "rbe");
    if (f == NULL) {
        int e = errno;
        return MK_FAIL(err, e == ENOENT ? MK_ENOTFOUND : MK_EIO, "%s: cannot open it: %s", path,
                       strerror(e));
    }
    header h = {.n_section = 0};
    size_t n = fread(&h, 1, sizeof h, f);
    fclose(f);
    MK_TRY(check_header(&h, n, path, err));
    *head = (mk_ckpt_head){.step = h.step, .score = h.score};
    return MK_OK;
}

// --- what is in it -------------------------------------------------------------------------------
mk_ckpt_head mk_ckpt_get_head(const mk_ckpt *c) {
    return (mk_ckpt_head){.step = c->head.step, .score = c->head.score, .run = c->run};
}

const char *mk_ckpt_path(const mk_ckpt *c) {
    return c->what;
}

const mk_ckpt_section *mk_ckpt_sections(const mk_ckpt *c, int64_t *n) {
    *n = (int64_t)c->head.n_section - 1;
    return c->section + 1;
}

const mk_ckpt_section *mk_ckpt_find(const mk_ckpt *c, const char *name) {
    const mk_ckpt_section key = {.name = name}, *p = &key;
    mk_ckpt_section **found =
        bsearch(&p, c->by_name, c->head.n_section, sizeof *c->by_name, by_name);
    return found != NULL && *found != c->section ? *found : NULL;
}

// "F32 [2, 3]"
static const char *describe(const mk_ckpt_section *s, char *text, size_t size) {
    int n = snprintf(text, size, "%s [", mk_dtype_get(s->dtype)->name);
    for (int i = 0; i < s->n_dim && n > 0 && (size_t)n < size; i++) {
        n +=
            snprintf(text + n, size - (size_t)n, i > 0 ? ", %lld" : "%lld", (long long)s->shape[i]);
    }
    if (n > 0 && (size_t)n + 1 < size) {
        memcpy(text + n, "]", 2);
    }
    return text;
}

static mk_status check_same(const mk_ckpt *c, const mk_ckpt_section *want, mk_err *err) {
    const mk_ckpt_section *got = mk_ckpt_find(c, want->name);
    if (got == NULL) {
        return MK_FAIL(err, MK_EUSAGE,
                       "%s: it has no %s, which this run needs; was it made with "
                       "other settings?",
                       c->what, want->name);
    }
    if (got->dtype != want->dtype || got->n_dim != want->n_dim ||
        memcmp(got->shape, want->shape, (size_t)want->n_dim * sizeof *want->shape) != 0) {
        char a[128], b[128];
        return MK_FAIL(err, MK_EUSAGE, "%s: %s is %s, expected %s", c->what, want->name,
                       describe(got, a, sizeof a), describe(want, b, sizeof b));
    }
    return MK_OK;
}

// Names a section of the file that the list has not; there is one.
static mk_status fail_surplus(const mk_ckpt *c, const mk_ckpt_section *list, int64_t n,
                              mk_err *err) {
    const char *name = "";
    for (int64_t i = 1; i < c->head.n_section && *name == '\0'; i++) {
        int64_t k = 0;
        while (k < n && strcmp(list[k].name, c->section[i].name) != 0) {
            k++;
        }
        name = k == n ? c->section[i].name : "";
    }
    return MK_FAIL(err, MK_EUSAGE,
                   "%s: it has %lld sections, this run %lld; the run has no %s; was "
                   "it made with other settings?",
                   c->what, (long long)c->head.n_section - 1, (long long)n, name);
}

mk_status mk_ckpt_load(const mk_ckpt *c, const mk_ckpt_section *list, int64_t n, mk_err *err) {
    for (int64_t i = 0; i < n; i++) {
        MK_TRY(check_same(c, &list[i], err));
    }
    if (n != (int64_t)c->head.n_section - 1) {
        return fail_surplus(c, list, n, err);
    }
    for (int64_t i = 0; i < n; i++) {
        const mk_ckpt_section *from = mk_ckpt_find(c, list[i].name);
        size_t bytes = 0;
        bool ok = section_bytes(from, &bytes);
        MK_ASSERT(ok);
        if (bytes > 0) {
            memcpy(list[i].data, from->data, bytes);
        }
    }
    return MK_OK;
}
