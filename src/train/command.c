// Runs one bounded child: fork, the box, exec, then a clock beside its output.
//
// The child's standard input is a file in memory, so nobody waits for a program that does not read.
// Its output is read through pipes until the program has ended; then its group is killed, before it
// is reaped (until then the number of the group belongs to nobody else), and what is left in the
// pipes is read.
#include "train/command.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/opt.h"
#include "train/sandbox.h"

enum {
    MAX_WORDS = 64,
    MAX_TEXT = 16384,
    OUTPUT_MAX = 65536,
    ERROR_KEPT = 160,
    TICK_MS = 10,
    CANNOT_BOX = 125,
    CANNOT_EXEC = 126
};

static const char search_path[] = "/usr/local/bin:/usr/bin:/bin";

struct mk_command {
    mk_command_opts opts;
    mk_sandbox_box box;
    char *text;                 // the words, cut by NULs
    char *argv[MAX_WORDS + 1];  // argv[0] may be short
    char *path;                 // of the program
    char tmpdir[4096 + 16];
    char *envp[4];
};

// --- the words -----------------------------------------------------------------------------------

// Cuts the text in place.  false: a quote is not closed, or too many words.
static bool cut_words(mk_command *c) {
    char *to = c->text, *from = c->text;
    int n = 0;
    for (;;) {
        from += strspn(from, " \t\n");
        if (!*from) {
            break;
        }
        if (n == MAX_WORDS) {
            return false;
        }
        c->argv[n++] = to;
        char quote = 0;
        for (; *from && (quote || !strchr(" \t\n", *from)); from++) {
            if (*from == quote) {
                quote = 0;
            } else if (!quote && (*from == '"' || *from == '\'')) {
                quote = *from;
            } else {
                *to++ = *from;
            }
        }
        if (quote) {
            return false;
        }
        from += *from != 0;
        *to++ = 0;
    }
    return n > 0;
}

static bool is_program(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static mk_status find_program(mk_command *c, mk_err *err) {
    const char *name = c->argv[0];
    char path[4096];
    if (strchr(name, '/')) {
        c->path = is_program(name) ? mk_strdup(name) : NULL;
    }
    for (const char *p = search_path; !c->path && !strchr(name, '/') && *p;) {
        size_t n = strcspn(p, ":");
        (void)snprintf(path, sizeof path, "%.*s/%s", (int)n, p, name);
        c->path = is_program(path) ? mk_strdup(path) : NULL;
        p += n + (p[n] != 0);
    }
    return c->path ? MK_OK
                   : MK_FAIL(err, MK_ENOTFOUND,
                             "expected a program that can be run, got '%s' (looked for in %s)",
                             name, strchr(name, '/') ? "its place" : search_path);
}

static mk_status make_words(mk_command *c, mk_err *err) {
    if (!c->opts.text || !*c->opts.text || strlen(c->opts.text) > MAX_TEXT) {
        return MK_FAIL(err, MK_EUSAGE, "expected a program in run= or a line in shell=, got %s",
                       c->opts.text && *c->opts.text ? "too long a text" : "none");
    }
    c->text = mk_strdup(c->opts.text);
    if (c->opts.shell) {
        static char sh[] = "/bin/sh", dash_c[] = "-c";
        c->argv[0] = sh;
        c->argv[1] = dash_c;
        c->argv[2] = c->text;
    } else if (!cut_words(c)) {
        return MK_FAIL(err, MK_EUSAGE,
                       "expected at most %d words with every quote closed, got '%s'", MAX_WORDS,
                       c->opts.text);
    }
    return find_program(c, err);
}

static void make_environment(mk_command *c) {
    static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin", lang[] = "LANG=C.UTF-8";
    c->envp[0] = path;
    c->envp[1] = lang;
    if (c->opts.scratch) {
        (void)snprintf(c->tmpdir, sizeof c->tmpdir, "TMPDIR=%s", c->opts.scratch);
        c->envp[2] = c->tmpdir;
    }
}

static mk_status make_box(mk_command *c, mk_err *err) {
    const mk_command_opts *o = &c->opts;
    mk_sandbox_opts limits = {.cpu_seconds = (int64_t)ceil(o->seconds) + 1,
                              .memory_bytes = o->memory_mib << 20,
                              .file_bytes = o->file_mib << 20,
                              .one_process = o->processes <= 1,
                              .scratch = o->scratch};
    MK_TRY(mk_sandbox_init(&c->box, &limits, err));
    if (!c->box.missing || o->sandbox == MK_SANDBOX_OFF) {
        return MK_OK;
    }
    if (o->sandbox == MK_SANDBOX_REQUIRE) {
        return MK_FAIL(err, MK_EUNSUPPORTED, "sandbox=require, but this kernel has no %s",
                       c->box.missing);
    }
    mk_log_msg(MK_LOG_WARN, "this kernel has no %s; sandbox=require would refuse to run them",
               c->box.missing);
    return MK_OK;
}

mk_status mk_command_create(const mk_command_opts *opts, mk_command **out, mk_err *err) {
    mk_command *c = mk_zalloc(sizeof *c);
    *out = NULL;
    c->opts = *opts;
    c->box.ruleset = -1;
    mk_status st = make_words(c, err);
    st = st == MK_OK ? make_box(c, err) : st;
    if (st != MK_OK) {
        mk_command_destroy(c);
        return st;
    }
    make_environment(c);
    *out = c;
    return MK_OK;
}

void mk_command_destroy(mk_command *c) {
    if (c) {
        mk_sandbox_free(&c->box);
        mk_free(c->path);
        mk_free(c->text);
        mk_free(c);
    }
}

// --- one run -------------------------------------------------------------------------------------

typedef struct {
    const mk_command *c;
    pid_t pid;
    int in, out[2], errors[2];  // in: the file in memory; [0] is ours
    mk_buf output, said;
    mk_command_result *result;
    uint64_t until;  // mk_now_ns
    int64_t tasks;   // limit on processes and threads of the child's user
} run;

static void close_fd(int *fd) {
    if (*fd >= 0) {
        (void)close(*fd);
        *fd = -1;
    }
}

static mk_status no_resource(const char *what, mk_err *err) {
    return MK_FAIL(err, MK_EIO, "no %s for a command: %s", what, strerror(errno));
}

static mk_status make_input(run *r, const char *text, size_t n, mk_err *err) {
    r->in = memfd_create("minke", MFD_CLOEXEC);
    if (r->in < 0) {
        return no_resource("memory file", err);
    }
    for (size_t done = 0; done < n;) {
        ssize_t k = write(r->in, text + done, n - done);
        if (k < 0 && errno != EINTR) {
            return no_resource("memory file", err);
        }
        done += k > 0 ? (size_t)k : 0;
    }
    return lseek(r->in, 0, SEEK_SET) == 0 ? MK_OK : no_resource("memory file", err);
}

static mk_status make_pipes(run *r, mk_err *err) {
    if (pipe2(r->out, O_CLOEXEC) != 0 || pipe2(r->errors, O_CLOEXEC) != 0 ||
        fcntl(r->out[0], F_SETFL, O_NONBLOCK) != 0 ||
        fcntl(r->errors[0], F_SETFL, O_NONBLOCK) != 0) {
        return no_resource("pipe", err);
    }
    return MK_OK;
}

// Between fork and exec: system calls alone.  Every other descriptor is closed on exec; those that
// a library opened otherwise, too.
static MK_NORETURN void child(const run *r) {
    const mk_command *c = r->c;
    enum { CALL_CLOSE_RANGE = 436, CLOEXEC = 4, N_SIGNAL = 65 };
    (void)setpgid(0, 0);
    for (int s = 1; s < N_SIGNAL; s++) {
        (void)signal(s, SIG_DFL);
    }
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    bool ok = dup2(r->in, 0) == 0 && dup2(r->out[1], 1) == 1 && dup2(r->errors[1], 2) == 2;
    (void)syscall(CALL_CLOSE_RANGE, 3u, ~0u, CLOEXEC);
    ok = ok && (c->opts.sandbox == MK_SANDBOX_OFF ? mk_sandbox_limit(&c->box, r->tasks)
                                                  : mk_sandbox_enter(&c->box, r->tasks));
    if (ok) {
        (void)execve(c->path, c->argv, c->envp);
    }
    _exit(ok ? CANNOT_EXEC : CANNOT_BOX);
}

// Calls fn for each process there is and returns the sum.
static int64_t sum_processes(int64_t (*fn)(const char *pid, int64_t arg), int64_t arg) {
    DIR *d = opendir("/proc");
    int64_t n = 0;
    const struct dirent *e;
    while (d && (e = readdir(d)) != NULL) {
        n += e->d_name[0] >= '1' && e->d_name[0] <= '9' ? fn(e->d_name, arg) : 0;
    }
    if (d) {
        (void)closedir(d);
    }
    return n;
}

static int64_t in_group(const char *name, int64_t group) {
    int64_t pid;
    return mk_parse_i64(name, &pid) && getpgid((pid_t)pid) == group;
}

// Threads of a process of this user: its task directory has one link for each, and two of its own.
static int64_t tasks_of(const char *pid, int64_t user) {
    char path[64];
    struct stat st;
    (void)snprintf(path, sizeof path, "/proc/%.20s/task", pid);
    return stat(path, &st) == 0 && st.st_uid == (uid_t)user && st.st_nlink > 2
               ? (int64_t)st.st_nlink - 2
               : 0;
}

// The limit of the kernel counts everything that the user runs, so it is what runs now and some
// more.  The exact number is for `watch`; this one stops what multiplies faster than anybody
// watches.
static int64_t allowed_tasks(int64_t processes) {
    enum { SOME_MORE = 64 };
    return processes + SOME_MORE + (geteuid() == 0 ? 0 : sum_processes(tasks_of, geteuid()));
}

static mk_status start(run *r, mk_err *err) {
    r->tasks = allowed_tasks(r->c->opts.processes);
    r->pid = fork();
    if (r->pid < 0) {
        return no_resource("process", err);
    }
    if (r->pid == 0) {
        child(r);
    }
    (void)setpgid(r->pid, r->pid);  // whoever comes first
    close_fd(&r->out[1]);
    close_fd(&r->errors[1]);
    close_fd(&r->in);
    return MK_OK;
}

// Reads what there is.  Output beyond its limit is an end; of errors the first bytes are kept.
static void drain(int *fd, mk_buf *to, size_t most, bool *flood) {
    char room[4096];
    while (*fd >= 0) {
        ssize_t n = read(*fd, room, sizeof room);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                close_fd(fd);
            }
            return;
        }
        if (n == 0) {
            close_fd(fd);
            return;
        }
        size_t left = most - to->len, k = (size_t)n;
        mk_buf_add(to, room, k < left ? k : left);
        if (k > left && flood) {
            *flood = true;
            return;
        }
    }
}

static bool has_ended(pid_t pid) {
    siginfo_t info = {0};
    int rc = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
    return rc != 0 || info.si_pid == pid;  // rc: somebody else reaped it
}

// Until the program ends, or one of its limits does it.
static mk_command_end watch(run *r) {
    for (;;) {
        bool flood = false;
        struct pollfd p[2] = {{r->out[0], POLLIN, 0}, {r->errors[0], POLLIN, 0}};
        int wait = r->out[0] < 0 && r->errors[0] < 0 ? 1 : TICK_MS;
        (void)poll(p, 2, wait);  // a closed one is -1: ignored
        drain(&r->out[0], &r->output, OUTPUT_MAX, &flood);
        drain(&r->errors[0], &r->said, OUTPUT_MAX, &flood);
        if (flood) {
            return MK_COMMAND_FLOOD;
        }
        if (has_ended(r->pid)) {
            return MK_COMMAND_OK;
        }
        if (mk_now_ns() >= r->until) {
            return MK_COMMAND_TIMEOUT;
        }
        if (r->c->opts.processes > 1 && sum_processes(in_group, r->pid) > r->c->opts.processes) {
            return MK_COMMAND_PROCESSES;
        }
    }
}

// The last line that the program wrote to standard error, made printable by mk_err and friends.
static void add_complaint(run *r, char *why, size_t room) {
    size_t n = r->said.len, used = strlen(why);
    const char *s = r->said.data ? r->said.data : "";
    while (n > 0 && strchr(" \r\n", s[n - 1]) && s[n - 1]) {
        n--;
    }
    size_t from = n;
    while (from > 0 && s[from - 1] != '\n' && n - from < ERROR_KEPT) {
        from--;
    }
    if (n > from) {
        (void)snprintf(why + used, room - used, ": %.*s", (int)(n - from), s + from);
        for (char *c = why; *c; c++) {
            *c = *c >= ' ' && *c < 127 ? *c : '?';
        }
    }
}

static void judge_exit(run *r, int status) {
    mk_command_result *res = r->result;
    size_t room = sizeof res->why;
    if (WIFSIGNALED(status)) {
        res->end = MK_COMMAND_FAILED;
        (void)snprintf(res->why, room, "ended by signal %d (%s)", WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) == CANNOT_BOX || WEXITSTATUS(status) == CANNOT_EXEC) {
        res->end = MK_COMMAND_FAILED;
        (void)snprintf(res->why, room, "%s",
                       WEXITSTATUS(status) == CANNOT_BOX ? "its limits could not be set"
                                                         : "it could not be run");
    } else if (WEXITSTATUS(status) != 0) {
        res->end = MK_COMMAND_FAILED;
        (void)snprintf(res->why, room, "ended with status %d", WEXITSTATUS(status));
    }
}

// One number and white space.
static void judge_output(run *r) {
    mk_command_result *res = r->result;
    char text[64];
    const char *s = r->output.data ? r->output.data : "";
    size_t n = r->output.len, from = 0;
    while (from < n && strchr(" \t\r\n", s[from]) && s[from]) {
        from++;
    }
    while (n > from && strchr(" \t\r\n", s[n - 1]) && s[n - 1]) {
        n--;
    }
    n -= from;
    (void)snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1),
                   s + from);
    if (n == 0 || n >= sizeof text || strlen(text) != n || !mk_parse_f64(text, &res->value)) {
        res->end = MK_COMMAND_OUTPUT;
        (void)snprintf(res->why, sizeof res->why, "expected one number, got '%s'", text);
    }
}

static void judge(run *r, mk_command_end end) {
    mk_command_result *res = r->result;
    int status = 0;
    bool stray = false;
    (void)kill(-r->pid, SIGKILL);
    drain(&r->out[0], &r->output, OUTPUT_MAX, &stray);
    drain(&r->errors[0], &r->said, OUTPUT_MAX, &stray);
    while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR) {
    }
    res->end = stray && end == MK_COMMAND_OK ? MK_COMMAND_FLOOD : end;
    if (res->end == MK_COMMAND_OK) {
        judge_exit(r, status);
    } else if (res->end == MK_COMMAND_TIMEOUT) {
        (void)snprintf(res->why, sizeof res->why, "killed after %g seconds", r->c->opts.seconds);
    } else if (res->end == MK_COMMAND_FLOOD) {
        (void)snprintf(res->why, sizeof res->why, "killed after %d bytes of output", OUTPUT_MAX);
    } else {
        (void)snprintf(res->why, sizeof res->why, "killed with more than %d processes",
                       (int)r->c->opts.processes);
    }
    if (res->end == MK_COMMAND_OK) {
        judge_output(r);
    }
    if (res->end != MK_COMMAND_OK) {
        add_complaint(r, res->why, sizeof res->why);
    }
}

mk_status mk_command_run(const mk_command *c, const char *text, size_t n, mk_command_result *result,
                         mk_err *err) {
    run r = {.c = c, .in = -1, .out = {-1, -1}, .errors = {-1, -1}, .result = result};
    memset(result, 0, sizeof *result);
    mk_buf_init(&r.output, OUTPUT_MAX + 1);
    mk_buf_init(&r.said, OUTPUT_MAX + 1);
    mk_status st = make_input(&r, text, n, err);
    st = st == MK_OK ? make_pipes(&r, err) : st;
    r.until = mk_now_ns() + (uint64_t)(c->opts.seconds * 1e9);
    st = st == MK_OK ? start(&r, err) : st;
    if (st == MK_OK) {
        judge(&r, watch(&r));
    }
    for (int i = 0; i < 2; i++) {
        close_fd(&r.out[i]);
        close_fd(&r.errors[i]);
    }
    close_fd(&r.in);
    mk_buf_free(&r.output);
    mk_buf_free(&r.said);
    return st;
}
