// minke serve: models behind HTTP, until Ctrl-C.
//
// Signals are taken by the main thread alone, which has nothing else to do once the models are
// there: the first SIGINT or SIGTERM lets running answers end, the second cancels them.
#include "cmd.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/log.h"
#include "minke.h"
#include "net/loopback.h"
#include "serve/duration.h"
#include "serve/keys.h"
#include "serve/service.h"

// MIN_OUT: rows of logits in a pass at least, for prompts that are scored
enum { DEFAULT_PORT = 8484, DRAIN_S = 30, MIN_OUT = 32 };

typedef struct {
    cmd_model_args model;
    const char *host, *unix_path, *key, *reasoning_field;
    const char *prefix_dir, *state_dir, *load, *keep_alive;
    int64_t port, n_parallel, n_draft, max_waiting, max_loaded, drain;
    double prefix_gb;
    mk_opt_list hosts, origins;
    bool no_key, prefix, page, json, state;
} serve_args;

static const mk_opt opts[] = {
    {.name = "host",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, host),
     .dflt = "127.0.0.1",
     .arg = "ADDRESS",
     .env = "MINKE_HOST",
     .help = "address to listen on; another than loopback needs a key, which is made if none is "
             "given",
     .group = "Address"},
    {.name = "port",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, port),
     .dflt = "8484",
     .min = 0,
     .max = 65535,
     .arg = "N",
     .env = "MINKE_PORT",
     .help = "0: any that is free"},
    {.name = "unix",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, unix_path),
     .arg = "PATH",
     .help = "listen on a socket file instead"},
    {.name = "key",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, key),
     .arg = "KEY",
     .env = "MINKE_KEY",
     .help = "requests must carry it (Authorization: Bearer KEY, or x-api-key)"},
    {.name = "no-key",
     .type = MK_OPT_FLAG,
     .offset = offsetof(serve_args, no_key),
     .help =
         "let everyone in, on an address that others can reach too; then only calls by address, by "
         "this machine's name or by one of --allow-host are answered"},
    {.name = "allow-host",
     .type = MK_OPT_LIST,
     .offset = offsetof(serve_args, hosts),
     .arg = "NAME",
     .help =
         "name by which requests may call this server, beside localhost; *: any; may be repeated"},
    {.name = "allow-origin",
     .type = MK_OPT_LIST,
     .offset = offsetof(serve_args, origins),
     .arg = "ORIGIN",
     .help = "page that may call from a browser (https://example.com), or *; may be repeated"},
    {.name = "load",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, load),
     .dflt = "first",
     .choices = "first|all|none",
     .arg = "WHICH",
     .help = "models that are in memory from the start; the others are loaded when they are first "
             "asked for",
     .group = "Models"},
    {.name = "keep-alive",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, keep_alive),
     .arg = "DURATION",
     .env = "MINKE_KEEP_ALIVE",
     .help = "a model is unloaded after so long without a request: 30m, 1h30m, 90 (seconds), 0 (at "
             "once), forever; without it 30m, and forever for what is loaded at the start"},
    {.name = "max-loaded",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, max_loaded),
     .dflt = "0",
     .min = 0,
     .max = 64,
     .arg = "N",
     .help = "models in memory at once: the one used longest ago makes way; 0: as many as fit"},
    {.name = "parallel",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, n_parallel),
     .dflt = "8",
     .min = 1,
     .max = 256,
     .arg = "N",
     .help = "answers at once of a model; an answer does not depend on its neighbours",
     .group = "Work"},
    {.name = "max-waiting",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, max_waiting),
     .dflt = "256",
     .min = 0,
     .max = 65536,
     .arg = "N",
     .help = "requests that wait for their turn; more are refused with 429"},
    {.name = "draft",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, n_draft),
     .dflt = "4",
     .min = 0,
     .max = 16,
     .arg = "N",
     .help = "tokens guessed from the text so far and checked together; the answer is the same"},
    {.name = "prefix-cache",
     .type = MK_OPT_FLAG,
     .offset = offsetof(serve_args, prefix),
     .dflt = "on",
     .help = "keep what was computed for prompts that begin alike"},
    {.name = "prefix-disk",
     .type = MK_OPT_F64,
     .offset = offsetof(serve_args, prefix_gb),
     .dflt = "-1",
     .min = -1,
     .max = 1e6,
     .arg = "GB",
     .help = "of it on disk, found again after a restart; 0: none; below 0: a tenth of the free "
             "space, at most 20"},
    {.name = "prefix-dir",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, prefix_dir),
     .arg = "DIR",
     .help = "where; without it ~/.cache/minke/prefix"},
    CMD_OPT_STATE_DIR(serve_args, state_dir),
    {.name = "state",
     .type = MK_OPT_FLAG,
     .offset = offsetof(serve_args, state),
     .dflt = "on",
     .help =
         "keep keys, ledger, answers and reasoning there; --no-state: in memory, until the end"},
    {.name = "reasoning-field",
     .type = MK_OPT_STR,
     .offset = offsetof(serve_args, reasoning_field),
     .dflt = "reasoning_content",
     .choices = "reasoning_content|reasoning|both",
     .arg = "NAME",
     .help = "where OpenAI answers carry the reasoning"},
    {.name = "page",
     .type = MK_OPT_FLAG,
     .offset = offsetof(serve_args, page),
     .dflt = "on",
     .help = "the web page at /, for browsers"},
    {.name = "drain",
     .type = MK_OPT_I64,
     .offset = offsetof(serve_args, drain),
     .dflt = "30",
     .min = 0,
     .max = 86400,
     .arg = "SECONDS",
     .help = "how long running answers may take to end after the first Ctrl-C"},
    {.name = "json",
     .type = MK_OPT_FLAG,
     .offset = offsetof(serve_args, json),
     .help = "one object on standard output when the server answers: url, port, models, key"},
    CMD_OPT_RUNTIME(serve_args, model),
    CMD_OPT_PACKED(serve_args, model),
    CMD_OPT_ADAPTER(serve_args, model),
    CMD_OPT_TEMPLATE(serve_args, model),
};

const mk_opt_spec cmd_serve_spec = {
    .program = "minke serve",
    .usage = "[MODEL...] [--port N]",
    .about =
        "Serves models to programs: OpenAI (chat, completions, responses), Anthropic (messages) "
        "and Ollama APIs on one port, until Ctrl-C.  All models are listed; one that is not in "
        "memory is loaded when it is asked for.",
    .more = "Examples:\n"
            "  minke serve\n"
            "  minke serve qwen3-8b.gguf --parallel 16 --port 9000\n"
            "  minke serve small.gguf large.gguf --max-loaded 1 --keep-alive 10m\n"
            "  curl localhost:8484/v1/chat/completions -d "
            "'{\"messages\": [{\"role\": \"user\", \"content\": \"2+3\"}]}'\n",
    .opts = opts,
    .n_opts = MK_OPT_COUNT(opts),
    .max_args = 64,
};

// --- models --------------------------------------------------------------------------------------

// "models/qwen.gguf" and the folder "models/qwen/" are called qwen.
static char *name_of(const char *path) {
    size_t n = strlen(path), from;
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    for (from = n; from > 0 && path[from - 1] != '/'; from--) {
    }
    if (n - from > 5 && strncmp(path + n - 5, ".gguf", 5) == 0) {
        n -= 5;
    }
    return mk_strndup(path + from, n - from);
}

// Drawn while the models of the start are loaded; nobody looks on when others are, later.
typedef struct {
    atomic_bool over;
    mk_progress bar;
    char name[64];
} load_bar;

// Signals wait for the main thread, which waits for these models: a first Ctrl-C ends their
// loading.
static bool is_interrupted(void) {
    sigset_t set;
    return sigpending(&set) == 0 && (sigismember(&set, SIGINT) || sigismember(&set, SIGTERM));
}

static bool draw_load(void *arg, const char *name, uint64_t done, uint64_t total) {
    load_bar *b = arg;
    if (atomic_load(&b->over)) {
        return true;
    }
    if (strncmp(b->name, name, sizeof b->name - 1) != 0) {
        snprintf(b->name, sizeof b->name, "%s", name);
        mk_progress_start(&b->bar, "load", "B", total);
    }
    mk_progress_update(&b->bar, done);
    return !is_interrupted();
}

static void end_bar(load_bar *b) {
    atomic_store(&b->over, true);
    if (b->bar.on && b->bar.last_ns) {
        fprintf(stderr, "\r\033[K");
    }
}

// Folder of the prefix cache (mk_free), made if it is not there; NULL: none is wanted or can be
// had.
static char *prefix_folder(const serve_args *a, uint64_t *bytes) {
    *bytes = 0;
    if (!a->prefix || a->prefix_gb == 0) {
        return NULL;
    }
    char *home = a->prefix_dir ? NULL : cmd_cache_dir(a->model.cache_dir);
    char *dir = a->prefix_dir ? mk_strdup(a->prefix_dir)
                : home        ? mk_path_join(home, "prefix")
                              : NULL;
    mk_free(home);
    mk_err err;
    struct statvfs fs;
    if (dir && (mk_folder_make_private(dir, &err) != MK_OK || statvfs(dir, &fs) != 0)) {
        mk_log_msg(MK_LOG_WARN, "no prefix cache on disk: %s cannot be made", dir);
        mk_free(dir);
        return NULL;
    }
    if (dir) {
        double tenth = (double)fs.f_bavail * (double)fs.f_frsize / 10;
        double most = a->prefix_gb > 0 ? a->prefix_gb * 1e9 : tenth < 20e9 ? tenth : 20e9;
        *bytes = (uint64_t)most;
    }
    return dir;
}

// How long a model stays without requests.
static mk_status keep_alive_of(const serve_args *a, bool at_start, double *seconds, mk_err *err) {
    static const double usual_s = 30 * 60;
    *seconds = at_start ? -1 : usual_s;
    if (!a->keep_alive) {
        return MK_OK;
    }
    if (strcmp(a->keep_alive, "forever") == 0) {
        *seconds = -1;
        return MK_OK;
    }
    return mk_duration_parse(a->keep_alive, seconds)
               ? MK_OK
               : MK_FAIL(err, MK_EUSAGE,
                         "--keep-alive: expected a duration such as 30m, 1h30m or 90 (seconds), or "
                         "forever, got '%s'",
                         a->keep_alive);
}

// Its files are looked at, so that what is broken is an error now; its weights wait.
static mk_status add_model(mk_service *s, serve_args *a, const char *given, bool at_start,
                           mk_err *err) {
    a->model.model = given;
    mk_llm *llm = NULL;
    char *path = NULL;
    double keep_alive_s = 0;
    MK_TRY(keep_alive_of(a, at_start, &keep_alive_s, err));
    MK_TRY(cmd_find_model(given, &path, err));
    char *name = name_of(path);
    mk_free(path);
    cmd_open_opts how = {.serve = true,
                         .later = true,
                         .n_seq = a->n_parallel + 1,  // one for embeddings
                         .n_out = a->n_parallel * (1 + a->n_draft)};
    how.n_out = how.n_out > MIN_OUT ? how.n_out : MIN_OUT;
    mk_status st = cmd_open(&a->model, &how, &llm, err);
    uint64_t prefix_bytes = 0;
    char *dir = prefix_folder(a, &prefix_bytes);
    mk_service_model m = {.name = name,
                          .llm = llm,
                          .n_parallel = a->n_parallel,
                          .n_draft = (int)a->n_draft,
                          .prefix = a->prefix,
                          .prefix_dir = dir,
                          .prefix_bytes = prefix_bytes,
                          .keep_alive_s = keep_alive_s};
    st = st == MK_OK ? mk_service_add(s, &m, err) : st;
    if (st != MK_OK) {
        mk_llm_close(llm);
    }
    mk_free(dir);
    mk_free(name);
    return st;
}

static mk_status add_models(mk_service *s, serve_args *a, const mk_opt_result *r, mk_err *err) {
    int n = r->n_args > 0 ? r->n_args : 1;
    int n_start = strcmp(a->load, "all") == 0 ? n : strcmp(a->load, "first") == 0 ? 1 : 0;
    for (int i = 0; i < n; i++) {
        const char *given = r->n_args > 0 ? r->args[i] : CMD_DEFAULT_MODEL;
        MK_TRY(add_model(s, a, given, i < n_start, err));
    }
    for (int i = 0; i < n_start; i++) {
        MK_TRY(mk_service_load(s, i, err));
    }
    return MK_OK;
}

// --- running -------------------------------------------------------------------------------------

static bool open_to_others(const serve_args *a) {
    return !a->unix_path && !mk_is_loopback(a->host, strlen(a->host));
}

// Without any key so far the first one is made: in the state directory, so that it stays valid, or
// for this process alone.
static mk_status make_key(const char *state_dir, char out[MK_KEY_TEXT], mk_err *err) {
    mk_store *s = NULL;
    mk_key k = {.name = "first", .scopes = MK_SCOPE_INFER | MK_SCOPE_ADMIN}, *list = NULL;
    size_t n = 0;
    if (!state_dir) {
        return mk_key_make(out, err);
    }
    MK_TRY(mk_store_open(state_dir, true, &s, err));
    mk_status st = mk_key_list(s, &list, &n, err);
    if (st == MK_OK && n == 0) {
        st = mk_key_new(s, &k, (int64_t)time(NULL), out, err);
    }
    mk_free(list);
    mk_store_close(s);
    return st;
}

static mk_status announce(const serve_args *a, const mk_service *s, const char *made_key,
                          mk_err *err) {
    char url[256];
    const char *host = open_to_others(a) ? "localhost" : a->host;
    bool v6 = strchr(host, ':') && host[0] != '[';
    snprintf(url, sizeof url, v6 ? "http://[%s]:%d" : "http://%s:%d", host, mk_service_port(s));
    if (a->json) {
        json_t *models = json_array();
        for (int i = 0; i < mk_service_n_model(s); i++) {
            json_array_append_new(models, json_string(mk_service_model_name(s, i)));
        }
        json_t *v =
            json_pack("{s:s, s:i, s:o}", "url", url, "port", mk_service_port(s), "models", models);
        if (made_key) {
            json_object_set_new(v, "key", json_string(made_key));
        }
        MK_TRY(cmd_print_json(v, false, err));
        (void)fflush(stdout);
        return MK_OK;
    }
    if (a->model.quiet) {
        return MK_OK;
    }
    if (made_key) {
        fprintf(stderr, "Listening on %s. Key created: %s\n", a->host, made_key);
    }
    if (a->unix_path) {
        fprintf(stderr, "minke answers on the socket %s\n", a->unix_path);
        return MK_OK;
    }
    fprintf(stderr,
            "minke answers on %s   (Ctrl-C ends)\n"
            "  OpenAI     %s/v1\n"
            "  Anthropic  %s\n"
            "  Ollama     %s\n",
            url, url, url, url);
    if (a->page) {
        fprintf(stderr, "  Web page   %s/\n", url);
    }
    return MK_OK;
}

static void wait_for_signal(const sigset_t *set) {
    int sig = 0;
    while (sigwait(set, &sig) != 0) {
    }
}

// The second signal does not wait.
static void *drain(void *arg) {
    void **a = arg;
    mk_service_drain(a[0], (int)*(int64_t *)a[1]);
    kill(getpid(), SIGTERM);
    return NULL;
}

static void run_until_signal(mk_service *s, const serve_args *a, const sigset_t *set) {
    wait_for_signal(set);
    if (!a->model.quiet) {
        fprintf(stderr, "ending; running answers have %lld s, Ctrl-C again cancels them\n",
                (long long)a->drain);
    }
    pthread_t t;
    int64_t seconds = a->drain;
    void *arg[2] = {s, &seconds};
    if (pthread_create(&t, NULL, drain, arg) == 0) {
        wait_for_signal(set);
        mk_service_cancel(s);  // drained already, or asked for by the second signal
        pthread_join(t, NULL);
    }
}

static mk_status serve_from(serve_args *a, const char *state_dir, const mk_opt_result *r,
                            const sigset_t *set, mk_err *err) {
    char made[MK_KEY_TEXT] = "";
    if (open_to_others(a) && !a->key && !a->no_key) {
        MK_TRY(make_key(state_dir, made, err));
    }
    load_bar bar = {.over = false};
    mk_service_opts so = {.host = a->host,
                          .port = (int)a->port,
                          .unix_path = a->unix_path,
                          .state_dir = state_dir,
                          .key = made[0] && !state_dir ? made : a->key,
                          .no_key = a->no_key,
                          .hosts = a->hosts.items,
                          .n_hosts = (int)a->hosts.n,
                          .origins = a->origins.items,
                          .n_origins = (int)a->origins.n,
                          .reasoning_field = a->reasoning_field,
                          .page = a->page,
                          .max_waiting = a->max_waiting,
                          .max_loaded = (int)a->max_loaded,
                          .loading = draw_load,
                          .loading_arg = &bar};
    mk_service *s = NULL;
    MK_TRY(mk_service_start(&so, &s, err));
    mk_status st = add_models(s, a, r, err);
    end_bar(&bar);
    if (st == MK_OK) {
        mk_service_ready(s);
        st = announce(a, s, made[0] ? made : NULL, err);
    }
    if (st == MK_OK) {
        run_until_signal(s, a, set);
    }
    mk_service_stop(s);
    return st;
}

static mk_status serve(serve_args *a, const mk_opt_result *r, const sigset_t *set, mk_err *err) {
    char *dir = a->state ? cmd_state_dir(a->state_dir) : NULL;
    if (a->state && !dir && !a->model.quiet) {
        fprintf(stderr, "no folder for keys, ledger and kept answers (HOME is not set): they end "
                        "with this process; --state-dir DIR\n");
    }
    mk_status st = serve_from(a, dir, r, set, err);
    mk_free(dir);
    return st;
}

mk_status cmd_serve(int argc, char *const *argv, mk_err *err) {
    serve_args a = {0};
    mk_opt_result r;
    mk_status st = cmd_parse(&cmd_serve_spec, argc, argv, &a, &r, err);
    if (st == MK_OK && !r.help) {
        // before the first thread: all of them inherit it
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        signal(SIGPIPE, SIG_IGN);
        st = serve(&a, &r, &set, err);
    }
    mk_opt_free(&cmd_serve_spec, &a, &r);
    return st;
}
