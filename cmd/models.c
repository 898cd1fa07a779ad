// Finding a model by name: ./models, then beside the program (build/../models), then where it was
// installed (PREFIX/bin/../share/minke/models).
#include "cmd.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/source.h"

#define MAX_LISTED 64

// Folder of the running program, or ".".
static char *program_dir(void) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) {
        return mk_strdup(".");
    }
    path[n] = 0;
    char *slash = strrchr(path, '/');
    return slash ? mk_strndup(path, (size_t)(slash - path)) : mk_strdup(".");
}

static void search_dirs(char *dirs[3]) {
    char *home = program_dir();
    dirs[0] = mk_strdup("models");
    dirs[1] = mk_path_join(home, "../models");
    dirs[2] = mk_path_join(home, "../share/minke/models");
    mk_free(home);
}

char *cmd_state_dir(const char *given) {
    const char *state = mk_env("XDG_STATE_HOME"), *home = mk_env("HOME");
    if (given) {
        return mk_strdup(given);
    }
    if (state && state[0] == '/') {  // the standard says to ignore relative ones
        return mk_path_join(state, "minke");
    }
    return home ? mk_path_join(home, ".local/state/minke") : NULL;
}

char *cmd_find_data(const char *name) {
    static const char *const dirs[] = {"../data", "../share/minke"};
    char *home = program_dir(), *found = NULL;
    for (size_t i = 0; i < 2 && !found; i++) {
        char *dir = mk_path_join(home, dirs[i]);
        char *path = mk_path_join(dir, name);
        if (mk_path_is_file(path)) {
            found = path;
        } else {
            mk_free(path);
        }
        mk_free(dir);
    }
    mk_free(home);
    return found;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

// A folder with a config.json, or with GGUF files.
static bool is_model_folder(const char *path) {
    char *config = mk_path_join(path, "config.json"), *gguf = NULL;
    bool ok = mk_path_is_file(config) || mk_source_gguf_in(path, &gguf, NULL) != MK_OK || gguf;
    mk_free(config);
    mk_free(gguf);
    return ok;
}

static bool is_model(const char *path) {
    return mk_path_is_file(path) ? ends_with(path, ".gguf") : is_model_folder(path);
}

// DIR/NAME or DIR/NAME.gguf; NULL if neither is a model.
static char *model_in(const char *dir, const char *name) {
    char *path = mk_path_join(dir, name);
    if (is_model(path)) {
        return path;
    }
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    mk_buf_printf(&b, "%s.gguf", path);
    mk_free(path);
    if (!b.failed && is_model(b.data)) {
        return mk_buf_detach(&b);
    }
    mk_buf_free(&b);
    return NULL;
}

typedef struct {
    char *name[MAX_LISTED];
    size_t n;
} name_list;

static void list_dir(const char *dir, name_list *out) {
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)) && out->n < MAX_LISTED) {
        char *path = mk_path_join(dir, e->d_name);
        bool known = e->d_name[0] == '.' || !is_model(path);
        size_t n = strlen(e->d_name) - (ends_with(e->d_name, ".gguf") ? 5 : 0);
        for (size_t i = 0; i < out->n && !known; i++) {
            known = strlen(out->name[i]) == n && strncmp(out->name[i], e->d_name, n) == 0;
        }
        if (!known) {
            out->name[out->n++] = mk_strndup(e->d_name, n);
        }
        mk_free(path);
    }
    if (d) {
        closedir(d);
    }
}

static mk_status not_found(const char *name, char *const dirs[3], mk_err *err) {
    name_list list = {.n = 0};
    mk_buf b;
    mk_buf_init(&b, 4096);
    for (int i = 0; i < 3; i++) {
        list_dir(dirs[i], &list);
    }
    for (size_t i = 0; i < list.n; i++) {
        mk_buf_printf(&b, "%s%s", i ? ", " : "", list.name[i]);
    }
    const char *near = mk_opt_suggest(name, (const char *const *)list.name, list.n);
    const char *there = list.n ? b.data : "none";
    mk_status st = near ? MK_FAIL(err, MK_ENOTFOUND,
                                  "model '%s' not found; did you mean '%s'? (models here: %s)",
                                  name, near, there)
                        : MK_FAIL(err, MK_ENOTFOUND,
                                  "model '%s' not found: no such file or folder, and not in "
                                  "models/ (models here: %s)",
                                  name, there);
    mk_buf_free(&b);
    for (size_t i = 0; i < list.n; i++) {
        mk_free(list.name[i]);
    }
    return st;
}

static mk_status find(const char *name, char **path, mk_err *err) {
    if (mk_path_is_file(name) || (mk_path_is_dir(name) && is_model(name))) {
        *path = mk_strdup(name);
        return MK_OK;
    }
    char *dirs[3];
    search_dirs(dirs);
    *path = NULL;
    for (int i = 0; i < 3 && !*path && !strchr(name, '/'); i++) {
        *path = model_in(dirs[i], name);
    }
    mk_status st = MK_OK;
    if (!*path && mk_path_is_dir(name)) {
        *path = mk_strdup(name);  // opening it says what a model folder holds
    } else if (!*path) {
        st = not_found(name, dirs, err);
    }
    for (int i = 0; i < 3; i++) {
        mk_free(dirs[i]);
    }
    return st;
}

mk_status cmd_find_model(const char *name, char **path, mk_err *err) {
    char *file = NULL;
    MK_TRY(find(name ? name : CMD_DEFAULT_MODEL, path, err));
    mk_status st = mk_path_is_dir(*path) ? mk_source_gguf_in(*path, &file, err) : MK_OK;
    if (st != MK_OK || file) {
        mk_free(*path);
        *path = file;
    }
    return st;
}
