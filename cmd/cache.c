// minke cache: packed copies of models on disk, made, listed, checked and removed on request only.
//
// The folder belongs to this verb: it looks at files that end in .mkpack, and at what a killed
// `add` left behind (.mkpack.tmp-PID), which the next `add` or `remove` clears away.
#include "cmd.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/json.h"
#include "base/alloc.h"
#include "base/log.h"
#include "model/pack_cache.h"

typedef struct {
    cmd_model_args model;
    bool json, all;
} cache_args;

static const mk_opt opts[] = {
    CMD_OPT_CACHE_DIR(cache_args, model),
    {.name = "threads",
     .short_name = "t",
     .type = MK_OPT_I64,
     .offset = offsetof(cache_args, model.n_thread),
     .min = 1,
     .max = 1024,
     .arg = "N",
     .env = "MINKE_THREADS",
     .help = "threads that pack; without it every processor that is free to use"},
    {.name = "all",
     .type = MK_OPT_FLAG,
     .offset = offsetof(cache_args, all),
     .help = "remove: every copy there is"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(cache_args, json),
     .help = "list, verify: one array"},
    {.name = "quiet",
     .short_name = "q",
     .type = MK_OPT_FLAG,
     .offset = offsetof(cache_args, model.quiet),
     .help = "nothing on standard error but errors"},
};

const mk_opt_spec cmd_cache_spec = {
    .program = "minke cache",
    .usage = "add|list|verify|remove [MODEL]",
    .about = "Keeps weights on disk the way the kernels read them, so that a start maps them "
             "instead of packing them again. A copy is as large as the model in memory and is "
             "made only by `add`; run, chat and the others use it when it is there.",
    .more = "  add MODEL          makes a copy, unless there is one that fits\n"
            "  list               what is there\n"
            "  verify [MODEL]     reads every byte and compares the hashes\n"
            "  remove MODEL       or --all\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = 2,
};

// --- the folder ----------------------------------------------------------------------------------

char *cmd_cache_dir(const char *given) {
    const char *cache = mk_env("XDG_CACHE_HOME"), *home = mk_env("HOME");
    if (given) {
        return mk_strdup(given);
    }
    if (cache && cache[0] == '/') {  // the standard says to ignore relative ones
        return mk_path_join(cache, "minke");
    }
    return home ? mk_path_join(home, ".cache/minke") : NULL;
}

typedef struct {
    const char *dir;
    char **name;
    size_t n;
} folder;

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// Names that hold `part`; sorted.
static void list_names(const char *dir, const char *part, folder *out) {
    *out = (folder){.dir = dir};
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        const char *at = strstr(e->d_name, MK_PACK_CACHE_END);
        if (at && strcmp(part, MK_PACK_CACHE_END) == 0 ? strcmp(at, part) == 0
                                                       : strstr(e->d_name, part) != NULL) {
            char **more = mk_try_realloc(out->name, out->n + 1, sizeof *more);
            if (!more) {
                break;
            }
            out->name = more;
            out->name[out->n++] = mk_strdup(e->d_name);
        }
    }
    if (d) {
        closedir(d);
    }
    if (out->n) {
        qsort(out->name, out->n, sizeof *out->name, by_name);
    }
}

static void free_names(folder *f) {
    for (size_t i = 0; i < f->n; i++) {
        mk_free(f->name[i]);
    }
    mk_free(f->name);
}

static void clear_leftovers(const char *dir) {
    const char *mark = MK_PACK_CACHE_END ".tmp-";
    folder f;
    list_names(dir, mark, &f);
    for (size_t i = 0; i < f.n; i++) {
        long pid = strtol(strstr(f.name[i], mark) + strlen(mark), NULL, 10);
        if (pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH) {
            char *path = mk_path_join(dir, f.name[i]);
            (void)unlink(path);
            mk_free(path);
        }
    }
    free_names(&f);
}

// --- facts about one copy ------------------------------------------------------------------------

// What a copy is worth: "valid", or why it is not used.
static const char *state_of(mk_status open, const mk_packfile *f) {
    if (!f) {
        return open == MK_EUNSUPPORTED ? "other version" : "damaged";
    }
    const mk_packfile_head *h = mk_packfile_get_head(f);
    if (h->layout != MK_PACK_LAYOUT) {
        return "other version";
    }
    mk_status st = mk_pack_cache_check_files(h, NULL);
    return st == MK_OK ? "valid" : st == MK_ENOTFOUND ? "model not there" : "model changed";
}

static json_t *facts(const char *dir, const char *name) {
    char *path = mk_path_join(dir, name);
    mk_packfile *f = NULL;
    struct stat s = {0};
    mk_status st = mk_packfile_open(path, &f, NULL);
    const char *model = f ? mk_packfile_get_head(f)->model : "";
    (void)stat(path, &s);
    json_t *o = json_pack("{s:o, s:o, s:I, s:s}", "file", mk_json_text(path, strlen(path)), "model",
                          f ? mk_json_text(model, strlen(model)) : json_null(), "bytes",
                          (json_int_t)s.st_size, "state", state_of(st, f));
    mk_packfile_close(f);
    mk_free(path);
    return o;
}

static void print_copy(const json_t *o) {
    char b[32];
    const char *model = json_string_value(json_object_get(o, "model"));
    const char *file = json_string_value(json_object_get(o, "file"));
    printf("%10s  %-15s ",
           cmd_bytes_text((double)json_integer_value(json_object_get(o, "bytes")), b),
           json_string_value(json_object_get(o, "state")));
    model = model ? model : file ? file : "";
    cmd_write_text(stdout, model, strlen(model));
    printf("\n");
}

static mk_status print_copies(const cache_args *a, json_t *list, mk_err *err) {
    size_t i;
    json_t *v;
    if (a->json) {
        return cmd_print_json(list, true, err);
    }
    json_array_foreach(list, i, v) {
        print_copy(v);
    }
    if (json_array_size(list) == 0 && !a->model.quiet) {
        fprintf(stderr, "no packed copies; `minke cache add MODEL` makes one\n");
    }
    json_decref(list);
    return MK_OK;
}

// Does the user's word mean this copy: its file, or the model it was made from?
static bool is_meant(const char *word, const char *dir, const char *name) {
    char real[PATH_MAX], *path = mk_path_join(dir, name), *model = NULL;
    size_t n = strlen(word), len = strlen(name) - strlen(MK_PACK_CACHE_END);
    bool same = strcmp(word, name) == 0 || strcmp(word, path) == 0 ||
                (n == len && strncmp(word, name, n) == 0);
    mk_packfile *f = NULL;
    if (!same && mk_packfile_open(path, &f, NULL) == MK_OK) {
        const char *of = mk_packfile_get_head(f)->model;
        same = strcmp(of, word) == 0 || (cmd_find_model(word, &model, NULL) == MK_OK &&
                                         realpath(model, real) && strcmp(of, real) == 0);
    }
    mk_packfile_close(f);
    mk_free(model);
    mk_free(path);
    return same;
}

// --- list, verify, remove ------------------------------------------------------------------------

static mk_status list(const cache_args *a, const char *dir, mk_err *err) {
    folder f;
    json_t *all = json_array();
    list_names(dir, MK_PACK_CACHE_END, &f);
    for (size_t i = 0; i < f.n; i++) {
        json_array_append_new(all, facts(dir, f.name[i]));
    }
    free_names(&f);
    return print_copies(a, all, err);
}

static mk_status on_step(void *arg, uint64_t done, uint64_t total) {
    mk_progress *bar = arg;
    bar->total = total;
    mk_progress_update(bar, done);
    return cmd_interrupted() ? MK_EINTR : MK_OK;
}

static mk_status verify_one(const char *path, mk_err *err) {
    mk_packfile *f = NULL;
    mk_progress bar;
    MK_TRY(mk_packfile_open(path, &f, err));
    mk_progress_start(&bar, "verify", "B", mk_packfile_bytes(f));
    mk_status st = mk_packfile_verify(f, on_step, &bar, err);
    if (st == MK_OK) {
        mk_progress_end(&bar, bar.total);
    }
    mk_packfile_close(f);
    return st;
}

static mk_status none_meant(const char *word, mk_err *err) {
    return MK_FAIL(err, MK_ENOTFOUND,
                   "no packed copy of '%s'; `minke cache list` shows what is there", word);
}

// Every copy that is meant; the first damage is the error, after all were looked at.
static mk_status verify(const cache_args *a, const char *dir, const char *word, mk_err *err) {
    folder f;
    json_t *all = json_array();
    mk_status result = MK_OK;
    list_names(dir, MK_PACK_CACHE_END, &f);
    for (size_t i = 0; i < f.n && result != MK_EINTR; i++) {
        if (word && !is_meant(word, dir, f.name[i])) {
            continue;
        }
        mk_err why = {0};
        char *path = mk_path_join(dir, f.name[i]);
        mk_status st = verify_one(path, &why);
        json_t *o = facts(dir, f.name[i]);
        json_object_set_new(o, "verified", json_boolean(st == MK_OK));
        if (st != MK_OK) {
            json_object_set_new(o, "state", json_string("damaged"));
        }
        json_array_append_new(all, o);
        if (result == MK_OK && st != MK_OK) {
            result = st;
            *err = why;
        }
        mk_free(path);
    }
    free_names(&f);
    if (word && json_array_size(all) == 0) {
        json_decref(all);
        return none_meant(word, err);
    }
    mk_status st = print_copies(a, all, err);
    return result != MK_OK ? result : st;
}

static mk_status remove_copy(const cache_args *a, const char *dir, const char *name, mk_err *err) {
    char *path = mk_path_join(dir, name);
    mk_status st = MK_OK;
    if (unlink(path) != 0 && errno != ENOENT) {
        st = MK_FAIL(err, MK_EIO, "%s: cannot remove it: %s", path, strerror(errno));
    } else if (!a->model.quiet) {
        fprintf(stderr, "removed %s\n", path);
    }
    mk_free(path);
    return st;
}

static mk_status remove_copies(const cache_args *a, const char *dir, const char *word,
                               mk_err *err) {
    if (!word == !a->all) {
        return MK_FAIL(err, MK_EUSAGE, "remove: expected a MODEL, or --all for every copy in %s",
                       dir);
    }
    folder f;
    size_t n = 0;
    mk_status st = MK_OK;
    list_names(dir, MK_PACK_CACHE_END, &f);
    for (size_t i = 0; i < f.n && st == MK_OK; i++) {
        if (!word || is_meant(word, dir, f.name[i])) {
            st = remove_copy(a, dir, f.name[i], err);
            n++;
        }
    }
    free_names(&f);
    clear_leftovers(dir);
    return st == MK_OK && word && n == 0 ? none_meant(word, err) : st;
}

// --- add -----------------------------------------------------------------------------------------

static mk_status check_room(const mk_model *m, const char *dir, mk_err *err) {
    struct statvfs fs;
    size_t need = mk_model_weight_bytes(m);
    if (statvfs(dir, &fs) == 0 && (double)fs.f_bavail * (double)fs.f_frsize < (double)need) {
        char a[32], b[32];
        return MK_FAIL(err, MK_EIO, "%s: the packed copy takes %s, free are %s", dir,
                       cmd_bytes_text((double)need, a),
                       cmd_bytes_text((double)fs.f_bavail * (double)fs.f_frsize, b));
    }
    return MK_OK;
}

// Copies of the same path that cannot be used any more.
static mk_status remove_old(const cache_args *a, const mk_model *m, const char *dir, mk_err *err) {
    folder f;
    mk_status st = MK_OK;
    list_names(dir, MK_PACK_CACHE_END, &f);
    for (size_t i = 0; i < f.n && st == MK_OK; i++) {
        if (is_meant(mk_source_path(m->src), dir, f.name[i])) {
            st = remove_copy(a, dir, f.name[i], err);
        }
    }
    free_names(&f);
    return st;
}

static mk_status make(const cache_args *a, mk_model *m, const char *dir, mk_err *err) {
    mk_progress bar;
    MK_TRY(remove_old(a, m, dir, err));
    MK_TRY(check_room(m, dir, err));
    mk_pool *pool = mk_pool_create(a->model.n_thread > 0 ? (int)a->model.n_thread : mk_cpu_count());
    cmd_catch_interrupt();
    mk_progress_start(&bar, "pack", "B", mk_model_weight_bytes(m));
    mk_status st = mk_pack_cache_make(m, dir, pool, on_step, &bar, err);
    if (st == MK_OK) {
        mk_progress_end(&bar, bar.total);
    }
    mk_pool_destroy(pool);
    return st;
}

static mk_status add_model(const cache_args *a, mk_model *m, const char *dir, mk_err *err) {
    mk_err why = {0};
    bool there = mk_pack_cache_attach(m, dir, &why) == MK_OK;
    if (!there) {
        MK_TRY(make(a, m, dir, err));
        MK_TRY(mk_pack_cache_attach(m, dir, err));
    }
    if (!a->model.quiet) {
        char b[32];
        fprintf(stderr, "%s %s (%s)\n", there ? "already there:" : "made",
                mk_packfile_path(m->packed),
                cmd_bytes_text((double)mk_packfile_bytes(m->packed), b));
    }
    return MK_OK;
}

static mk_status add(const cache_args *a, const char *dir, const char *word, mk_err *err) {
    if (!word) {
        return MK_FAIL(err, MK_EUSAGE, "add: expected a MODEL");
    }
    char *path = NULL;
    mk_model *m = NULL;
    mk_status st = cmd_find_model(word, &path, err);
    st = st == MK_OK ? mk_model_open(path, &m, err) : st;
    st = st == MK_OK ? mk_folder_make_private(dir, err) : st;
    if (st == MK_OK) {
        clear_leftovers(dir);
        st = add_model(a, m, dir, err);
    }
    mk_model_close(m);
    mk_free(path);
    return st;
}

// --- the verb ------------------------------------------------------------------------------------

static mk_status run(const cache_args *a, const char *action, const char *word, mk_err *err) {
    char *dir = cmd_cache_dir(a->model.cache_dir);
    mk_status st;
    mk_log_set_level(a->model.quiet ? MK_LOG_QUIET : MK_LOG_WARN);
    if (!dir) {
        return MK_FAIL(err, MK_EUSAGE,
                       "no folder for packed copies: HOME is not set; --cache-dir DIR");
    }
    if (action && strcmp(action, "add") == 0) {
        st = add(a, dir, word, err);
    } else if (action && strcmp(action, "list") == 0 && !word) {
        st = list(a, dir, err);
    } else if (action && strcmp(action, "verify") == 0) {
        st = verify(a, dir, word, err);
    } else if (action && strcmp(action, "remove") == 0) {
        st = remove_copies(a, dir, word, err);
    } else {
        st = MK_FAIL(err, MK_EUSAGE,
                     "expected add MODEL, list, verify [MODEL] or remove MODEL, got '%s%s%s'",
                     action ? action : "", word ? " " : "", word ? word : "");
    }
    mk_free(dir);
    return st;
}

mk_status cmd_cache(int argc, char *const *argv, mk_err *err) {
    cache_args a = {0};
    mk_opt_result r = {0};
    mk_status st = cmd_parse(&cmd_cache_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        st = run(&a, r.n_args > 0 ? r.args[0] : NULL, r.n_args > 1 ? r.args[1] : NULL, err);
    }
    mk_opt_free(&cmd_cache_spec, &a, &r);
    return st;
}
