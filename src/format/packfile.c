// Reading and writing packed files (packfile.h).
//
// Invariants after opening:
//  1. the trailer's and the index's hashes are right, and both were copied before they were checked, so that a file
//     changed under the map cannot change them afterwards;
//  2. 0 < n_mat * mat_bytes and the range of every entry lies between page 0 and the index, aligned and in ascending
//     order without overlap;
//  3. every path ends with a NUL inside the names.
#include "format/packfile.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/mathx.h"

#define VERSION 1

enum { INDEX_MAX = 256 << 20, HASH_STEP = 8 << 20 };

static const uint8_t magic[8] = {'m', 'i', 'n', 'k', 'e', 'p', 'k', '\n'};

typedef struct {
    uint8_t magic[8];
    uint32_t version, layout;
    uint64_t fingerprint, file_bytes;
    uint64_t index_at, index_bytes;
    uint64_t n_source, n_entry, names_bytes;
    uint64_t index_hash;
    uint64_t zero[5];
    uint64_t hash;  // of the bytes before it
} trailer;

typedef struct {
    uint64_t n_bytes;
    int64_t mtime_ns;
    uint64_t path_at, zero;  // from the start of the names
} source_record;

_Static_assert(sizeof(trailer) == 128, "the trailer is 128 bytes without holes");
_Static_assert(sizeof(source_record) == 32, "a source record is 32 bytes without holes");
_Static_assert(sizeof(mk_packfile_entry) == 104, "an entry is 104 bytes without holes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are stored as they lie");

struct mk_packfile {
    mk_map map;  // path NULL: memory of the caller
    const char *what;
    const uint8_t *data;
    size_t n_bytes;
    mk_packfile_head head;
    mk_packfile_source *source;
    mk_packfile_entry *entry;
    int64_t n_entry;
    char *names;
};

// --- checks --------------------------------------------------------------------------------------

static mk_status check_trailer(const mk_packfile *f, const trailer *t, mk_err *err) {
    if (memcmp(t->magic, magic, sizeof magic) != 0 ||
        t->hash != mk_hash64(t, sizeof *t - sizeof t->hash, 0)) {
        return MK_FAIL(
            err, MK_ECORRUPT,
            "%s: expected a packed file's trailer in the last %zu bytes; it is cut short "
            "or damaged",
            f->what, sizeof *t);
    }
    if (t->version != VERSION) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "%s: version %u of packed files, expected %u", f->what,
                       t->version, (unsigned)VERSION);
    }
    size_t end = f->n_bytes - sizeof *t, sources = 0, entries = 0, want = 0;
    bool ok = t->file_bytes == f->n_bytes && t->index_at >= MK_PACKFILE_ALIGN &&
              t->index_at <= end && t->index_bytes == end - t->index_at &&
              t->index_bytes <= INDEX_MAX && t->names_bytes > 0 &&
              mk_mul_size(t->n_source, sizeof(source_record), &sources) &&
              mk_mul_size(t->n_entry, sizeof(mk_packfile_entry), &entries) &&
              mk_add_size(sources, entries, &want) && mk_add_size(want, t->names_bytes, &want) &&
              want == t->index_bytes;
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the trailer tells of %llu bytes with an index of %llu at %llu (%llu "
                       "files, %llu weights), which does not fit a file of %zu bytes",
                       f->what, (unsigned long long)t->file_bytes,
                       (unsigned long long)t->index_bytes, (unsigned long long)t->index_at,
                       (unsigned long long)t->n_source, (unsigned long long)t->n_entry, f->n_bytes);
    }
    return MK_OK;
}

// *at: end of the entry before.
static mk_status check_entry(const mk_packfile *f, const mk_packfile_entry *e, int64_t i,
                             uint64_t index_at, uint64_t *at, mk_err *err) {
    size_t n = 0;
    bool ok = e->n_mat > 0 && e->n_out > 0 && e->n_in > 0 && e->mat_bytes > 0 &&
              mk_mul_size((size_t)e->n_mat, e->mat_bytes, &n) &&
              e->offset % MK_PACKFILE_ALIGN == 0 && e->offset >= *at && e->offset <= index_at &&
              n <= index_at - e->offset;
    if (!ok) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: weight %lld: %lld x %llu bytes at %llu; expected whole pages between "
                       "%llu and %llu",
                       f->what, (long long)i, (long long)e->n_mat, (unsigned long long)e->mat_bytes,
                       (unsigned long long)e->offset, (unsigned long long)*at,
                       (unsigned long long)index_at);
    }
    *at = e->offset + n;
    return MK_OK;
}

// --- reading -------------------------------------------------------------------------------------

static mk_status read_sources(mk_packfile *f, const trailer *t, const uint8_t *index, mk_err *err) {
    if (f->names[t->names_bytes - 1] != '\0') {
        return MK_FAIL(err, MK_ECORRUPT, "%s: the names in the index have no end", f->what);
    }
    for (uint64_t i = 0; i < t->n_source; i++) {
        source_record r;
        memcpy(&r, index + i * sizeof r, sizeof r);
        if (r.path_at >= t->names_bytes) {
            return MK_FAIL(err, MK_ECORRUPT, "%s: name of source file %llu at %llu of %llu bytes",
                           f->what, (unsigned long long)i, (unsigned long long)r.path_at,
                           (unsigned long long)t->names_bytes);
        }
        f->source[i] = (mk_packfile_source){f->names + r.path_at, r.n_bytes, r.mtime_ns};
    }
    f->head =
        (mk_packfile_head){t->layout, t->fingerprint, f->names, f->source, (int64_t)t->n_source};
    return MK_OK;
}

static mk_status read_entries(mk_packfile *f, const trailer *t, const uint8_t *at, mk_err *err) {
    uint64_t end = MK_PACKFILE_ALIGN;
    f->n_entry = (int64_t)t->n_entry;
    memcpy(f->entry, at, t->n_entry * sizeof *f->entry);
    for (int64_t i = 0; i < f->n_entry; i++) {
        MK_TRY(check_entry(f, &f->entry[i], i, t->index_at, &end, err));
    }
    return MK_OK;
}

// `index`: a copy of the whole index.
static mk_status read_index(mk_packfile *f, const trailer *t, const uint8_t *index, mk_err *err) {
    if (mk_hash64(index, t->index_bytes, 0) != t->index_hash) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: the index is damaged: its hash is not %016llx",
                       f->what, (unsigned long long)t->index_hash);
    }
    f->source = mk_try_alloc(t->n_source, sizeof *f->source);
    f->entry = mk_try_alloc(t->n_entry, sizeof *f->entry);
    f->names = mk_try_alloc(t->names_bytes, 1);
    if (!f->source || !f->entry || !f->names) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for an index of %llu bytes", f->what,
                       (unsigned long long)t->index_bytes);
    }
    const uint8_t *entries = index + t->n_source * sizeof(source_record);
    memcpy(f->names, entries + t->n_entry * sizeof *f->entry, t->names_bytes);
    MK_TRY(read_sources(f, t, index, err));
    return read_entries(f, t, entries, err);
}

static mk_status parse(mk_packfile *f, mk_err *err) {
    trailer t;
    if (f->n_bytes < MK_PACKFILE_ALIGN + sizeof t || memcmp(f->data, magic, sizeof magic) != 0) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: %zu bytes, not a packed file of minke", f->what,
                       f->n_bytes);
    }
    memcpy(&t, f->data + f->n_bytes - sizeof t, sizeof t);
    MK_TRY(check_trailer(f, &t, err));
    uint8_t *index = mk_try_alloc(t.index_bytes, 1);
    if (!index) {
        return MK_FAIL(err, MK_ENOMEM, "%s: no memory for an index of %llu bytes", f->what,
                       (unsigned long long)t.index_bytes);
    }
    memcpy(index, f->data + t.index_at, t.index_bytes);
    mk_status st = read_index(f, &t, index, err);
    mk_free(index);
    return st;
}

static mk_status parse_or_close(mk_packfile *f, mk_packfile **out, mk_err *err) {
    mk_status st = parse(f, err);
    if (st != MK_OK) {
        mk_packfile_close(f);
        return st;
    }
    *out = f;
    return MK_OK;
}

mk_status mk_packfile_open(const char *path, mk_packfile **out, mk_err *err) {
    mk_packfile *f = mk_zalloc(sizeof *f);
    mk_status st = mk_map_open(path, &f->map, err);
    if (st != MK_OK) {
        mk_free(f);
        return st;
    }
    mk_map_huge(&f->map);
    f->what = f->map.path;
    f->data = f->map.data;
    f->n_bytes = f->map.n_bytes;
    return parse_or_close(f, out, err);
}

mk_status mk_packfile_open_memory(const void *data, size_t n_bytes, const char *what,
                                  mk_packfile **out, mk_err *err) {
    mk_packfile *f = mk_zalloc(sizeof *f);
    f->what = what;
    f->data = data;
    f->n_bytes = n_bytes;
    return parse_or_close(f, out, err);
}

void mk_packfile_close(mk_packfile *f) {
    if (!f) {
        return;
    }
    mk_free(f->source);
    mk_free(f->entry);
    mk_free(f->names);
    mk_map_close(&f->map);
    mk_free(f);
}

void mk_packfile_forget(const mk_packfile *f) {
    if (f->map.path) {
        mk_map_forget(&f->map, 0, f->map.n_bytes);
    }
}

const char *mk_packfile_path(const mk_packfile *f) {
    return f->what;
}

size_t mk_packfile_bytes(const mk_packfile *f) {
    return f->n_bytes;
}

const mk_packfile_head *mk_packfile_get_head(const mk_packfile *f) {
    return &f->head;
}

int64_t mk_packfile_n_entry(const mk_packfile *f) {
    return f->n_entry;
}

const mk_packfile_entry *mk_packfile_get_entry(const mk_packfile *f, int64_t i) {
    MK_ASSERT(i >= 0 && i < f->n_entry);
    return &f->entry[i];
}

const uint8_t *mk_packfile_data(const mk_packfile *f, int64_t i) {
    return f->data + mk_packfile_get_entry(f, i)->offset;
}

// --- hashes of the data --------------------------------------------------------------------------

// Chained over pieces, so that a long weight can be hashed with progress and its pages be given
// back.
static uint64_t hash_piece(const uint8_t *p, size_t n, uint64_t before) {
    return mk_hash64(p, n, before);
}

static uint64_t hash_data(const uint8_t *p, size_t n) {
    uint64_t h = 0;
    for (size_t at = 0; at < n; at += HASH_STEP) {
        h = hash_piece(p + at, n - at < HASH_STEP ? n - at : HASH_STEP, h);
    }
    return h;
}

static mk_status verify_entry(const mk_packfile *f, int64_t i, mk_packfile_step step, void *arg,
                              mk_err *err) {
    const mk_packfile_entry *e = &f->entry[i];
    size_t n = (size_t)e->n_mat * e->mat_bytes;
    uint64_t h = 0;
    for (size_t at = 0; at < n; at += HASH_STEP) {
        size_t k = n - at < HASH_STEP ? n - at : HASH_STEP;
        h = hash_piece(f->data + e->offset + at, k, h);
        mk_map_forget(&f->map, e->offset + at, k);
        if (step) {
            MK_TRY(step(arg, e->offset + at + k, f->n_bytes));
        }
    }
    if (h != e->hash) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: weight %lld at byte %llu is damaged: its hash is %016llx, expected "
                       "%016llx",
                       f->what, (long long)i, (unsigned long long)e->offset, (unsigned long long)h,
                       (unsigned long long)e->hash);
    }
    return MK_OK;
}

mk_status mk_packfile_verify(const mk_packfile *f, mk_packfile_step step, void *arg, mk_err *err) {
    for (int64_t i = 0; i < f->n_entry; i++) {
        MK_TRY(verify_entry(f, i, step, arg, err));
    }
    return MK_OK;
}

// --- writing -------------------------------------------------------------------------------------

struct mk_packfile_out {
    mk_writer *w;
    mk_buf entries;  // mk_packfile_entry after mk_packfile_entry
    uint64_t n_entry;
};

static mk_status pad(mk_writer *w, mk_err *err) {
    static const uint8_t zeros[MK_PACKFILE_ALIGN];
    size_t over = (size_t)(mk_writer_offset(w) % MK_PACKFILE_ALIGN);
    return over ? mk_writer_write(w, zeros, MK_PACKFILE_ALIGN - over, err) : MK_OK;
}

mk_status mk_packfile_create(const char *path, mk_packfile_out **out, mk_err *err) {
    mk_packfile_out *o = mk_zalloc(sizeof *o);
    mk_buf_init(&o->entries, INDEX_MAX);
    uint32_t version = VERSION;
    mk_status st = mk_writer_open(path, &o->w, err);
    st = st == MK_OK ? mk_writer_write(o->w, magic, sizeof magic, err) : st;
    st = st == MK_OK ? mk_writer_write(o->w, &version, sizeof version, err) : st;
    st = st == MK_OK ? pad(o->w, err) : st;
    if (st != MK_OK) {
        mk_packfile_abort(o);
        return st;
    }
    *out = o;
    return MK_OK;
}

mk_status mk_packfile_add(mk_packfile_out *o, const mk_packfile_entry *e, const uint8_t *data,
                          mk_err *err) {
    mk_packfile_entry r = *e;
    size_t n = (size_t)e->n_mat * e->mat_bytes;
    r.zero = 0;
    r.offset = mk_writer_offset(o->w);
    r.hash = hash_data(data, n);
    mk_buf_add(&o->entries, &r, sizeof r);
    o->n_entry++;
    MK_TRY(mk_writer_write(o->w, data, n, err));
    return pad(o->w, err);
}

// Names: the model's path, then those of the sources.
static void add_sources(mk_buf *index, mk_buf *names, const mk_packfile_head *head) {
    mk_buf_add(names, head->model, strlen(head->model) + 1);
    for (int64_t i = 0; i < head->n_source; i++) {
        const mk_packfile_source *s = &head->source[i];
        source_record r = {s->n_bytes, s->mtime_ns, names->len, 0};
        mk_buf_add(index, &r, sizeof r);
        mk_buf_add(names, s->path, strlen(s->path) + 1);
    }
}

static mk_status write_index(mk_packfile_out *o, const mk_packfile_head *head, mk_buf *index,
                             mk_buf *names, mk_err *err) {
    add_sources(index, names, head);
    if (o->entries.len) {
        mk_buf_add(index, o->entries.data, o->entries.len);
    }
    mk_buf_add(index, names->data, names->len);
    if (index->failed || names->failed || o->entries.failed) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for the index of %llu packed weights",
                       (unsigned long long)o->n_entry);
    }
    trailer t = {.version = VERSION,
                 .layout = head->layout,
                 .fingerprint = head->fingerprint,
                 .file_bytes = mk_writer_offset(o->w) + index->len + sizeof t,
                 .index_at = mk_writer_offset(o->w),
                 .index_bytes = index->len,
                 .n_source = (uint64_t)head->n_source,
                 .n_entry = o->n_entry,
                 .names_bytes = names->len,
                 .index_hash = mk_hash64(index->data, index->len, 0)};
    memcpy(t.magic, magic, sizeof magic);
    t.hash = mk_hash64(&t, sizeof t - sizeof t.hash, 0);
    MK_TRY(mk_writer_write(o->w, index->data, index->len, err));
    return mk_writer_write(o->w, &t, sizeof t, err);
}

mk_status mk_packfile_commit(mk_packfile_out *o, const mk_packfile_head *head, mk_err *err) {
    mk_buf index, names;
    mk_buf_init(&index, INDEX_MAX);
    mk_buf_init(&names, INDEX_MAX);
    mk_status st = write_index(o, head, &index, &names, err);
    if (st == MK_OK) {
        st = mk_writer_commit(o->w, err);
        o->w = NULL;
    }
    mk_buf_free(&index);
    mk_buf_free(&names);
    mk_packfile_abort(o);
    return st;
}

void mk_packfile_abort(mk_packfile_out *o) {
    if (!o) {
        return;
    }
    mk_writer_abort(o->w);
    mk_buf_free(&o->entries);
    mk_free(o);
}
