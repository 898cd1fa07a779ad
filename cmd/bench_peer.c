// A peer's benchmark as a child process.
//
//   command line  --split-->  words with {names}  --fill-->  argv  --spawn-->  output  --parse-->  samples
//
//  1. No shell: words are split here and handed to the program as they are.  Who needs a shell
//     writes `sh -c '...'`.
//  2. The child has its own process group, so that a timeout ends whatever it started.
//  3. Of its output MAX_OUTPUT bytes are read, of its messages the last TAIL are kept.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "bench.h"
#include "cmd.h"

#define MAX_WORDS  256
#define MAX_LINE   ((size_t)64 << 10)
#define MAX_OUTPUT ((size_t)16 << 20)
#define TAIL       ((size_t)300)
#define POLL_MS    200  // how often Ctrl-C and the clock are looked at

extern char **environ;

// Length of the name in front of a command, 0 without one: NAME=... before any space or path.
static size_t name_length(const char *cmd) {
    size_t n = strspn(cmd, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n < BENCH_NAME_MAX && cmd[n] == '=' ? n : 0;
}

void bench_peer_name(const char *cmd, int i, char out[BENCH_NAME_MAX]) {
    size_t n = name_length(cmd);
    if (n > 0) {
        memcpy(out, cmd, n);
        out[n] = 0;
    } else {
        snprintf(out, BENCH_NAME_MAX, "peer %d", i + 1);
    }
}

const char *bench_peer_command(const char *cmd) {
    size_t n = name_length(cmd);
    return n > 0 ? cmd + n + 1 : cmd;
}

// --- words ---------------------------------------------------------------------------------------

typedef struct {
    char *text;  // all words, one after the other
    char *word[MAX_WORDS + 1];
    int n;
} words;

static void words_free(words *w) {
    mk_free(w->text);
    for (int i = 0; i < w->n; i++) {
        mk_free(w->word[i]);
    }
}

// One word from *s on, without its quotes; *s is behind it.  false: a quote is not closed.
static bool take_word(const char **s, mk_buf *out) {
    char quote = 0;
    const char *p = *s;
    for (; *p && (quote || !strchr(" \t\n", *p)); p++) {
        if (quote ? *p == quote : *p == '\'' || *p == '"') {
            quote = quote ? 0 : *p;
        } else if (*p == '\\' && p[1] && (!quote || (quote == '"' && strchr("\"\\", p[1])))) {
            mk_buf_putc(out, *++p);
        } else {
            mk_buf_putc(out, *p);
        }
    }
    *s = p;
    return quote == 0;
}

static mk_status split(const char *cmd, words *w, mk_err *err) {
    cmd = bench_peer_command(cmd);
    for (const char *s = cmd + strspn(cmd, " \t\n"); *s; s += strspn(s, " \t\n")) {
        mk_buf b;
        mk_buf_init(&b, MAX_LINE);
        bool closed = take_word(&s, &b);
        char *word = b.len > 0 ? mk_buf_detach(&b) : mk_strdup("");
        mk_buf_free(&b);
        if (!closed || !word || w->n == MAX_WORDS) {
            mk_free(word);
            return MK_FAIL(err, MK_EUSAGE, "--compare: %s in: %.200s",
                           closed ? "more than 256 words, or a word of more than 64 kB"
                                  : "a quote that is not closed",
                           cmd);
        }
        w->word[w->n++] = word;
    }
    w->word[w->n] = NULL;
    return w->n > 0 ? MK_OK : MK_FAIL(err, MK_EUSAGE, "--compare: expected a command, got nothing");
}

// --- {names} -------------------------------------------------------------------------------------

// What {name} stands for at a point; prompt and draft are n_prompt, generation is n_gen.
static bool value_of(const char *name, size_t n, const bench_plan *plan, const bench_point *p,
                     char out[24], const char **text) {
    bool gen = p->kind == BENCH_GENERATION;
    const struct {
        const char *name;
        int64_t value;
    } number[] = {
        {"p", gen ? 0 : p->n}, {"n", gen ? p->n : 0}, {"d", p->depth}, {"t", p->n_thread}};
    *text = NULL;
    if (n == 5 && memcmp(name, "model", 5) == 0) {
        *text = plan->model_path;
    }
    for (size_t i = 0; i < sizeof number / sizeof number[0] && !*text; i++) {
        if (n == 1 && name[0] == number[i].name[0]) {
            snprintf(out, 24, "%lld", (long long)number[i].value);
            *text = out;
        }
    }
    return *text != NULL;
}

// Length of the letters of a {name} that begins at s, 0 if none does.
static size_t name_at(const char *s) {
    size_t n = *s == '{' ? strspn(s + 1, "abcdefghijklmnopqrstuvwxyz") : 0;
    return n > 0 && s[1 + n] == '}' ? n : 0;
}

static mk_status fill(words *w, const bench_plan *plan, const bench_point *p, mk_err *err) {
    for (int i = 0; i < w->n; i++) {
        mk_buf b;
        mk_buf_init(&b, MAX_LINE);
        for (const char *s = w->word[i]; *s; s++) {
            char number[24];
            const char *text;
            size_t n = name_at(s);
            if (n > 0 && !value_of(s + 1, n, plan, p, number, &text)) {
                mk_buf_free(&b);
                return MK_FAIL(err, MK_EUSAGE,
                               "--compare: expected {model}, {p}, {n}, {d} or {t}, got {%.*s}",
                               (int)n, s + 1);
            } else if (n > 0) {
                mk_buf_puts(&b, text);
                s += n + 1;
            } else {
                mk_buf_putc(&b, *s);
            }
        }
        mk_free(w->word[i]);
        w->word[i] = b.len > 0 && !b.failed ? mk_buf_detach(&b) : mk_strdup("");
        mk_buf_free(&b);
    }
    return MK_OK;
}

static mk_status make_words(const char *cmd, const bench_plan *plan, const bench_point *p, words *w,
                            mk_err *err) {
    MK_TRY(split(cmd, w, err));
    return fill(w, plan, p, err);
}

mk_status bench_peer_check(const char *cmd, mk_err *err) {
    words w = {.n = 0};
    bench_plan plan = {.model_path = "model"};
    bench_point p = {.kind = BENCH_PROMPT};
    mk_status st = make_words(cmd, &plan, &p, &w, err);
    words_free(&w);
    return st;
}

bool bench_peer_applies(const char *cmd, const bench_point *p) {
    bool names_p = strstr(cmd, "{p}"), names_n = strstr(cmd, "{n}"), names_d = strstr(cmd, "{d}");
    if (p->kind == BENCH_SEQUENCES) {
        return false;  // llama-bench has no such test
    }
    if (!names_p && !names_n && !names_d) {
        return true;
    }
    return (p->kind == BENCH_GENERATION ? names_n : names_p) && (names_d || p->depth == 0);
}

// --- the child -----------------------------------------------------------------------------------

typedef struct {
    const char *program;
    pid_t pid;
    int fd[2];  // its output, its messages; -1 when at an end
    mk_buf out;
    char tail[TAIL + 1];
    size_t n_tail;
    uint64_t deadline_ns;
    double limit_s;
} child;

static mk_status spawn(char *const *argv, const int to[2], child *c, mk_err *err) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, to[0], 1);
    posix_spawn_file_actions_adddup2(&files, to[1], 2);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    int e = posix_spawnp(&c->pid, argv[0], &files, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return e == 0 ? MK_OK
                  : MK_FAIL(err, MK_ENOTFOUND, "--compare: '%s' cannot be started: %s", argv[0],
                            strerror(e));
}

static mk_status start(char *const *argv, child *c, mk_err *err) {
    int out[2] = {-1, -1}, msg[2] = {-1, -1};
    mk_status st = pipe2(out, O_CLOEXEC) == 0 && pipe2(msg, O_CLOEXEC) == 0
                       ? spawn(argv, (int[2]){out[1], msg[1]}, c, err)
                       : MK_FAIL(err, MK_EIO, "--compare: no pipe: %s", strerror(errno));
    close(out[1]);
    close(msg[1]);
    c->fd[0] = out[0];
    c->fd[1] = msg[0];
    return st;
}

// Keeps the last TAIL bytes.
static void keep_tail(child *c, const char *p, size_t n) {
    for (size_t i = n > TAIL ? n - TAIL : 0; i < n; i++) {
        if (c->n_tail == TAIL) {
            memmove(c->tail, c->tail + 1, --c->n_tail);
        }
        c->tail[c->n_tail++] = p[i];
    }
    c->tail[c->n_tail] = 0;
}

static mk_status read_some(child *c, int i, mk_err *err) {
    char buf[16384];
    ssize_t n = read(c->fd[i], buf, sizeof buf);
    if (n < 0 && errno == EINTR) {
        return MK_OK;
    }
    if (n <= 0) {
        close(c->fd[i]);
        c->fd[i] = -1;
        return MK_OK;
    }
    if (i == 1) {
        keep_tail(c, buf, (size_t)n);
        return MK_OK;
    }
    mk_buf_add(&c->out, buf, (size_t)n);
    return c->out.failed ? MK_FAIL(err, MK_ELIMIT, "--compare: '%s' printed more than %zu MB",
                                   c->program, MAX_OUTPUT >> 20)
                         : MK_OK;
}

static mk_status check_time(const child *c, mk_err *err) {
    if (cmd_interrupted()) {
        return MK_EINTR;
    }
    return mk_now_ns() <= c->deadline_ns
               ? MK_OK
               : MK_FAIL(err, MK_ELIMIT,
                         "--compare: '%s' took longer than %g seconds (--compare-timeout)",
                         c->program, c->limit_s);
}

// Until both ends are closed, or the time is over.
static mk_status read_all(child *c, mk_err *err) {
    while (c->fd[0] >= 0 || c->fd[1] >= 0) {
        struct pollfd p[2] = {{.fd = c->fd[0], .events = POLLIN},
                              {.fd = c->fd[1], .events = POLLIN}};
        MK_TRY(check_time(c, err));
        (void)poll(p, 2, POLL_MS);
        for (int i = 0; i < 2; i++) {
            if (c->fd[i] >= 0 && p[i].revents) {
                MK_TRY(read_some(c, i, err));
            }
        }
    }
    return MK_OK;
}

// The last line of what it said that is not empty.
static const char *last_line(child *c) {
    while (c->n_tail > 0 && strchr(" \r\n", c->tail[c->n_tail - 1])) {
        c->tail[--c->n_tail] = 0;
    }
    const char *nl = strrchr(c->tail, '\n');
    return nl ? nl + 1 : c->tail;
}

// Its end, within the time it has left: closed pipes do not mean that it is gone.
static mk_status reap(child *c, int *status, mk_err *err) {
    pid_t got;
    while ((got = waitpid(c->pid, status, WNOHANG)) == 0 || (got < 0 && errno == EINTR)) {
        MK_TRY(check_time(c, err));
        (void)poll(NULL, 0, 5);
    }
    return MK_OK;
}

static mk_status finish(child *c, mk_status st, mk_err *err) {
    int status = 0;
    st = st == MK_OK ? reap(c, &status, err) : st;
    if (st != MK_OK) {
        kill(-c->pid, SIGKILL);
        while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {
        }
        return st;
    }
    if (WIFSIGNALED(status)) {
        return MK_FAIL(err, MK_EIO, "--compare: '%s' was ended by signal %d: %s", c->program,
                       WTERMSIG(status), last_line(c));
    }
    if (WEXITSTATUS(status) != 0) {
        return MK_FAIL(err, MK_EIO, "--compare: '%s' ended with exit code %d: %s", c->program,
                       WEXITSTATUS(status), last_line(c));
    }
    return MK_OK;
}

// --- rows ----------------------------------------------------------------------------------------

typedef struct {
    bench_row_id want;
    bench_samples *out;
    int n_found, n_row;
    char seen[160];  // rows that are there, for the message
} matching;

static void on_row(void *arg, bench_row_id id, double speed) {
    matching *m = arg;
    m->n_row++;
    if (id.n_prompt == m->want.n_prompt && id.n_gen == m->want.n_gen && id.depth == m->want.depth) {
        m->n_found++;
        bench_add(m->out, speed);
        return;
    }
    size_t used = strlen(m->seen);
    snprintf(m->seen + used, sizeof m->seen - used, "%s(%lld, %lld, %lld)", used ? ", " : "",
             (long long)id.n_prompt, (long long)id.n_gen, (long long)id.depth);
}

static mk_status parse(child *c, const bench_point *p, bench_samples *out, mk_err *err) {
    bool gen = p->kind == BENCH_GENERATION;
    matching m = {.want = {gen ? 0 : p->n, gen ? p->n : 0, p->depth}, .out = out};
    mk_status st = bench_parse(c->out.data, c->out.len, on_row, &m, err);
    if (st != MK_OK) {
        return mk_err_prefix(err, "--compare: output of '%s'", c->program);
    }
    return m.n_found > 0 ? MK_OK
                         : MK_FAIL(err, MK_ECORRUPT,
                                   "--compare: '%s' measured no (prompt, generation, depth) = "
                                   "(%lld, %lld, %lld); it has: %s",
                                   c->program, (long long)m.want.n_prompt, (long long)m.want.n_gen,
                                   (long long)m.want.depth, m.n_row > 0 ? m.seen : "no rows");
}

static mk_status run_child(char *const *argv, const bench_point *p, double limit_s,
                           bench_samples *out, mk_err *err) {
    child c = {.program = mk_path_base(argv[0]), .limit_s = limit_s, .fd = {-1, -1}};
    c.deadline_ns = mk_now_ns() + (uint64_t)(limit_s * 1e9);
    mk_buf_init(&c.out, MAX_OUTPUT);
    mk_status st = start(argv, &c, err);
    if (st == MK_OK) {
        st = finish(&c, read_all(&c, err), err);
    }
    st = st == MK_OK ? parse(&c, p, out, err) : st;
    for (int i = 0; i < 2; i++) {
        if (c.fd[i] >= 0) {
            close(c.fd[i]);
        }
    }
    mk_buf_free(&c.out);
    return st;
}

mk_status bench_peer_run(const bench_plan *plan, int peer, const bench_point *p, bench_samples *out,
                         mk_err *err) {
    words w = {.n = 0};
    mk_status st = make_words(plan->peers[peer], plan, p, &w, err);
    st = st == MK_OK ? run_child(w.word, p, plan->peer_timeout_s, out, err) : st;
    words_free(&w);
    return st;
}
