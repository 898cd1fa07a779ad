// Packed copies of models (pack_cache.h): names, checks, making.
#include "model/pack_cache.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "model/fingerprint.h"
#include "model/load.h"

// --- names ---------------------------------------------------------------------------------------

// NAME-FINGERPRINT.mkpack; NAME is there for people, who may look into the folder.
static char *path_of(const mk_model *m, const char *dir, uint64_t print) {
    const char *source = mk_source_path(m->src), *base = mk_path_base(source);
    char name[64 + 1 + 16 + sizeof MK_PACK_CACHE_END];
    size_t n = 0, len = strlen(base);
    len -= len > 5 && strcmp(base + len - 5, ".gguf") == 0 ? 5 : 0;
    for (; n < len && n < 64; n++) {
        char c = base[n];
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                     c == '-' || c == '_' || (c == '.' && n > 0);
        name[n] = plain ? c : '_';
    }
    snprintf(name + n, sizeof name - n, "-%016llx" MK_PACK_CACHE_END, (unsigned long long)print);
    return mk_path_join(dir, name);
}

char *mk_pack_cache_path(const mk_model *m, const char *dir) {
    return path_of(m, dir, mk_model_fingerprint(m));
}

// --- the files it was made from ------------------------------------------------------------------

// Files that hold tensors, each once, in the order of the tensors (which come file by file).
static mk_status source_maps(const mk_model *m, const mk_map ***out, int64_t *n, mk_err *err) {
    int64_t n_tensor = mk_source_n_tensor(m->src);
    *n = 0;
    *out = mk_try_alloc((size_t)n_tensor, sizeof **out);
    if (!*out) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for a list of files");
    }
    for (int64_t i = 0; i < n_tensor; i++) {
        const mk_map *map = mk_source_tensor(m->src, i)->map;
        if (map && (*n == 0 || (*out)[*n - 1] != map)) {
            (*out)[(*n)++] = map;
        }
    }
    return MK_OK;
}

static mk_status same_file(const mk_packfile_source *s, const char *now_path, uint64_t n_bytes,
                           int64_t mtime_ns, mk_err *err) {
    if (s->n_bytes != n_bytes || s->mtime_ns != mtime_ns) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s is not the file it was made from: expected %llu bytes of time "
                       "%lld.%09lld, found %llu of %lld.%09lld; `minke cache add` makes it anew",
                       now_path, (unsigned long long)s->n_bytes,
                       (long long)(s->mtime_ns / 1000000000), (long long)(s->mtime_ns % 1000000000),
                       (unsigned long long)n_bytes, (long long)(mtime_ns / 1000000000),
                       (long long)(mtime_ns % 1000000000));
    }
    return MK_OK;
}

static mk_status check_sources(const mk_model *m, const mk_packfile_head *head, mk_err *err) {
    const mk_map **map = NULL;
    int64_t n = 0;
    mk_status st = source_maps(m, &map, &n, err);
    if (st == MK_OK && n != head->n_source) {
        st = MK_FAIL(err, MK_ECORRUPT, "made from %lld files, the model has %lld",
                     (long long)head->n_source, (long long)n);
    }
    for (int64_t i = 0; i < n && st == MK_OK; i++) {
        st = same_file(&head->source[i], map[i]->path, map[i]->n_bytes, map[i]->mtime_ns, err);
    }
    mk_free(map);
    return st;
}

mk_status mk_pack_cache_check_files(const mk_packfile_head *head, mk_err *err) {
    for (int64_t i = 0; i < head->n_source; i++) {
        const mk_packfile_source *s = &head->source[i];
        struct stat st;
        if (stat(s->path, &st) != 0 || !S_ISREG(st.st_mode)) {
            return MK_FAIL(err, MK_ENOTFOUND, "%s is gone", s->path);
        }
        int64_t mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        MK_TRY(same_file(s, s->path, (uint64_t)st.st_size, mtime_ns, err));
    }
    return MK_OK;
}

// --- one weight, in the file and in the model ----------------------------------------------------

static mk_packfile_entry entry_of(const mk_weight *w, int layer, int row) {
    mk_packfile_entry e = {.layer = layer,
                           .row = row,
                           .dtype = (uint32_t)w->dtype,
                           .kind = (uint32_t)w->kind,
                           .scales = (uint32_t)w->scales,
                           .group = (uint32_t)w->group,
                           .has_shift = w->has_shift,
                           .has_table = w->has_table,
                           .code_offset = w->offset,
                           .n_mat = w->n_mat,
                           .n_out = w->n_out,
                           .n_in = w->n_in,
                           .mat_bytes = w->mat_bytes};
    memcpy(e.table, w->table, sizeof e.table);
    return e;
}

// The walk over the weights beside the walk over the entries.
typedef struct {
    const mk_packfile *file;
    int64_t i;
} walk;

static mk_status check_weight(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    walk *at = arg;
    mk_packfile_entry want = entry_of(w, layer, row);
    if (at->i >= mk_packfile_n_entry(at->file)) {
        return MK_FAIL(err, MK_ECORRUPT, "%lld weights, the model has more", (long long)at->i);
    }
    mk_packfile_entry e = *mk_packfile_get_entry(at->file, at->i++);
    e.offset = e.hash = 0;
    if (memcmp(&e, &want, sizeof e) != 0) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "weight %lld is %lld x %lld x %lld of kind %u (layer %d, row %d), expected "
                       "%lld x %lld x %lld of kind %u (layer %d, row %d) in the same layout",
                       (long long)at->i - 1, (long long)e.n_mat, (long long)e.n_out,
                       (long long)e.n_in, e.kind, e.layer, e.row, (long long)w->n_mat,
                       (long long)w->n_out, (long long)w->n_in, (unsigned)w->kind, layer, row);
    }
    return MK_OK;
}

static mk_status check_file(mk_model *m, const mk_packfile *f, uint64_t print, mk_err *err) {
    const mk_packfile_head *head = mk_packfile_get_head(f);
    if (head->layout != MK_PACK_LAYOUT) {
        return MK_FAIL(err, MK_EUNSUPPORTED,
                       "packed in version %u of the layouts, expected %u; `minke cache add` makes "
                       "it anew",
                       head->layout, (unsigned)MK_PACK_LAYOUT);
    }
    if (head->fingerprint != print) {
        return MK_FAIL(err, MK_ECORRUPT, "made for fingerprint %016llx, the model has %016llx",
                       (unsigned long long)head->fingerprint, (unsigned long long)print);
    }
    MK_TRY(check_sources(m, head, err));
    walk at = {f, 0};
    MK_TRY(mk_load_each(m, check_weight, &at, err));
    return at.i == mk_packfile_n_entry(f)
               ? MK_OK
               : MK_FAIL(err, MK_ECORRUPT, "%lld weights, the model has %lld",
                         (long long)mk_packfile_n_entry(f), (long long)at.i);
}

mk_status mk_pack_cache_attach(mk_model *m, const char *dir, mk_err *err) {
    MK_ASSERT(!m->loaded && !m->packed && !m->mtp);
    if (!mk_path_is_dir(dir)) {
        return MK_FAIL(err, MK_ENOTFOUND, "%s: no such folder", dir);  // and no page was touched
    }
    uint64_t print = mk_model_fingerprint(m);
    char *path = path_of(m, dir, print);
    mk_packfile *f = NULL;
    mk_status st = mk_packfile_open(path, &f, err);
    if (st == MK_OK) {
        st = check_file(m, f, print, err);
        if (st != MK_OK) {
            (void)mk_err_prefix(err, "%s", path);
            mk_packfile_close(f);
        } else {
            m->packed = f;
        }
    }
    mk_free(path);
    return st;
}

static mk_status map_weight(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    walk *at = arg;
    (void)layer, (void)row, (void)err;
    w->data = (uint8_t *)(uintptr_t)mk_packfile_data(at->file, at->i++);
    w->borrowed = true;
    return MK_OK;
}

void mk_pack_cache_map(mk_model *m) {
    walk at = {m->packed, 0};
    mk_status st = mk_load_each(m, map_weight, &at, NULL);
    MK_ASSERT(st == MK_OK && at.i == mk_packfile_n_entry(m->packed));
}

// --- making --------------------------------------------------------------------------------------

typedef struct {
    mk_packfile_out *out;
    mk_packfile_step step;
    void *arg;
    uint64_t done, total;
} maker;

static mk_status write_weight(void *arg, mk_weight *w, int layer, int row, mk_err *err) {
    maker *k = arg;
    mk_packfile_entry e = entry_of(w, layer, row);
    MK_TRY(mk_packfile_add(k->out, &e, w->data, err));
    k->done += w->mat_bytes * (size_t)w->n_mat;
    mk_status st = k->step ? k->step(k->arg, k->done, k->total) : MK_OK;
    return st == MK_OK ? MK_OK : MK_FAIL(err, st, "stopped; nothing was kept");
}

static const char *absolute(const char *path, char out[PATH_MAX]) {
    return realpath(path, out) ? out : path;
}

// Index and name.  `out` is given up in every case.
static mk_status commit(const mk_model *m, mk_packfile_out *out, uint64_t print, mk_err *err) {
    char abs[PATH_MAX];
    const mk_map **map = NULL;
    mk_packfile_source *source = NULL;
    int64_t n = 0;
    mk_status st = source_maps(m, &map, &n, err);
    if (st == MK_OK && !(source = mk_try_alloc((size_t)n, sizeof *source))) {
        st = MK_FAIL(err, MK_ENOMEM, "no memory for %lld names", (long long)n);
    }
    for (int64_t i = 0; i < n && st == MK_OK; i++) {
        source[i] = (mk_packfile_source){mk_strdup(absolute(map[i]->path, abs)), map[i]->n_bytes,
                                         map[i]->mtime_ns};
    }
    if (st == MK_OK) {
        mk_packfile_head head = {MK_PACK_LAYOUT, print, absolute(mk_source_path(m->src), abs),
                                 source, n};
        st = mk_packfile_commit(out, &head, err);
    } else {
        mk_packfile_abort(out);
    }
    for (int64_t i = 0; i < n && source; i++) {
        mk_free((char *)(uintptr_t)source[i].path);
    }
    mk_free(source);
    mk_free(map);
    return st;
}

mk_status mk_pack_cache_make(mk_model *m, const char *dir, mk_pool *pool, mk_packfile_step step,
                             void *arg, mk_err *err) {
    uint64_t print = mk_model_fingerprint(m);
    char *path = path_of(m, dir, print);
    maker k = {.step = step, .arg = arg, .total = mk_load_bytes(m, NULL)};
    mk_status st = mk_packfile_create(path, &k.out, err);
    mk_free(path);
    MK_TRY(st);
    st = mk_load_stream(m, pool, write_weight, &k, err);
    if (st != MK_OK) {
        mk_packfile_abort(k.out);
        return st;
    }
    return commit(m, k.out, print, err);
}
