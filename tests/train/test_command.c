// Foreign programs in their box.  The program is this test itself, started with a word that says
// how to misbehave; the shell's part is played by /bin/sh.
#include "cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "train/command.h"
#include "train/reward.h"
#include "train/sandbox.h"

static char self[4096];

// --- what the child does -------------------------------------------------------------------------

static int said(bool yes) {
    (void)printf("%d\n", yes);
    return 0;
}

static int try_fork(void) {
    pid_t p = fork();
    if (p == 0) {
        (void)sleep(100);
    }
    return said(p < 0 && errno == EPERM);
}

static void *thread_main(void *arg) {
    *(int *)arg = 1;
    return NULL;
}

static int try_thread(void) {
    int ran = 0;
    pthread_t t;
    bool ok = pthread_create(&t, NULL, thread_main, &ran) == 0 && pthread_join(t, NULL) == 0;
    return said(ok && ran);
}

static int try_network(void) {
    bool v4 = socket(AF_INET, SOCK_STREAM, 0) < 0, v6 = socket(AF_INET6, SOCK_DGRAM, 0) < 0;
    return said(v4 && v6 && socket(AF_UNIX, SOCK_STREAM, 0) < 0);
}

static int try_memory(void) {
    size_t total = 0;
    for (; total < (size_t)4 << 30; total += 1 << 20) {
        char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            break;
        }
        *p = 1;
    }
    return said(total < (size_t)128 << 20);
}

static int try_write(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    return said(fd >= 0);
}

static int try_big_file(const char *path) {
    (void)signal(SIGXFSZ, SIG_IGN);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    static char room[1 << 16];
    int64_t total = 0;
    ssize_t n;
    while (fd >= 0 && total < 8 << 20 && (n = write(fd, room, sizeof room)) > 0) {
        total += n;
    }
    (void)printf("%lld\n", (long long)total);
    return 0;
}

static int try_signals(const char *pid) {
    long p = strtol(pid, NULL, 10);
    return said(kill((pid_t)p, 0) != 0 && kill((pid_t)p, SIGTERM) != 0);
}

// Processes that live until they are killed, as many as the kernel allows, at most 60.
static int count_forks(void) {
    int n = 0;
    for (pid_t p; n < 60 && (p = fork()) >= 0; n++) {
        if (p == 0) {
            (void)sleep(100);
            _exit(0);
        }
    }
    return n;
}

static int try_user(void) {
    return said(geteuid() != 0 && getuid() != 0 && setuid(0) != 0);
}

static int try_leaving(void) {
    return said(setsid() < 0 && setpgid(0, 0) < 0);
}

static int try_environment(void) {
    int n = 0;
    extern char **environ;
    for (char **e = environ; *e; e++) {
        n++;
        if (strncmp(*e, "PATH=", 5) != 0 && strncmp(*e, "LANG=", 5) != 0) {
            n = 100;
        }
    }
    return said(n == 2);
}

static int try_files(void) {
    int open_fds = 0;
    for (int fd = 3; fd < 1024; fd++) {
        open_fds += fcntl(fd, F_GETFD) >= 0;
    }
    return said(open_fds == 0);
}

static int flood(void) {
    while (puts("1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1") >= 0) {
    }
    return 0;
}

static int echo_length(void) {
    int64_t n = 0;
    while (getchar() != EOF) {
        n++;
    }
    (void)printf("%lld\n", (long long)n);
    return 0;
}

static int child(const char *what, const char *arg) {
    static const struct {
        const char *name;
        int (*run)(void);
    } tries[] = {
        {"fork", try_fork},
        {"thread", try_thread},
        {"network", try_network},
        {"memory", try_memory},
        {"leave", try_leaving},
        {"flood", flood},
        {"environment", try_environment},
        {"files", try_files},
        {"length", echo_length},

        {"user", try_user},
    };
    static const struct {
        const char *name;
        int (*run)(const char *);
    } tries_with[] = {{"write", try_write}, {"big-file", try_big_file}, {"signal", try_signals}};
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        if (strcmp(tries[i].name, what) == 0) {
            return tries[i].run();
        }
    }
    for (size_t i = 0; i < sizeof tries_with / sizeof tries_with[0]; i++) {
        if (strcmp(tries_with[i].name, what) == 0) {
            return tries_with[i].run(arg);
        }
    }
    return 99;
}

// --- running it ----------------------------------------------------------------------------------

static mk_command_opts defaults(void) {
    mk_command_opts o = MK_COMMAND_DEFAULTS;
#ifdef MK_SANITIZED
    o.memory_mib = 0;  // the sanitizer maps terabytes
#endif
    return o;
}

static mk_command_result run_opts(const mk_command_opts *opts, const char *input, size_t n) {
    mk_command *c;
    mk_command_result r;
    mk_err err = {0};
    if (mk_command_create(opts, &c, &err) != MK_OK ||
        mk_command_run(c, input, n, &r, &err) != MK_OK) {
        fail_msg("%s: %s", opts->text, err.msg);
    }
    mk_command_destroy(c);
    return r;
}

static mk_command_result run_self(mk_command_opts opts, const char *words) {
    char text[8192];
    (void)snprintf(text, sizeof text, "'%s' --child %s", self, words);
    opts.text = text;
    return run_opts(&opts, "{}", 2);
}

static mk_command_result run_shell(mk_command_opts opts, const char *line) {
    opts.text = line;
    opts.shell = true;
    if (opts.processes == 1) {
        opts.processes = 32;
    }
    return run_opts(&opts, "{\"answer\":\"441\"}", 16);
}

static void expect(mk_command_result r, mk_command_end end, double value, const char *why) {
    if (r.end != end || (end == MK_COMMAND_OK && r.value != value) || !strstr(r.why, why)) {
        fail_msg("expected end %d, value %g, '%s'; got %d, %g, '%s'", (int)end, value, why,
                 (int)r.end, r.value, r.why);
    }
}

static bool boxed(void) {
    mk_sandbox_box box;
    mk_sandbox_opts o = {.one_process = true};
    assert_int_equal(mk_sandbox_init(&box, &o, NULL), MK_OK);
    bool all = box.missing == NULL;
    mk_sandbox_free(&box);
    return all;
}

static bool filters(void) {
    mk_sandbox_box box;
    mk_sandbox_opts o = {.one_process = true};
    assert_int_equal(mk_sandbox_init(&box, &o, NULL), MK_OK);
    bool yes = box.n_filter > 0;
    mk_sandbox_free(&box);
    return yes;
}

static void test_output(void **state) {
    (void)state;
    expect(run_shell(defaults(), "echo 0.25"), MK_COMMAND_OK, 0.25, "");
    expect(run_shell(defaults(), "echo; echo ' -3 '"), MK_COMMAND_OK, -3, "");
    expect(run_shell(defaults(), "cat | tr -dc 0-9"), MK_COMMAND_OK, 441, "");
    expect(run_shell(defaults(), "echo 1 2"), MK_COMMAND_OUTPUT, 0,
           "expected one number, got '1 2'");
    expect(run_shell(defaults(), "echo nan"), MK_COMMAND_OUTPUT, 0, "got 'nan'");
    expect(run_shell(defaults(), "true"), MK_COMMAND_OUTPUT, 0, "got ''");
    expect(run_shell(defaults(), "printf '1\\000'"), MK_COMMAND_OUTPUT, 0, "expected one number");
    expect(run_shell(defaults(), "echo 1; exit 3"), MK_COMMAND_FAILED, 0, "ended with status 3");
    expect(run_shell(defaults(), "echo 1; echo bad; echo 'no data' >&2; exit 3"), MK_COMMAND_FAILED,
           0, "ended with status 3: no data");
    expect(run_shell(defaults(), "kill -SEGV $$; kill -KILL $$; exit 1"), MK_COMMAND_FAILED, 0,
           "ended ");
}

static void test_words(void **state) {
    (void)state;
    mk_command_opts o = defaults();
    o.text = "printf \"%s\" '1 ' ";
    expect(run_opts(&o, "", 0), MK_COMMAND_OK, 1, "");
    o.text = "printf %s $HOME;echo";
    expect(run_opts(&o, "", 0), MK_COMMAND_OUTPUT, 0, "got '$HOME;echo'");
}

// More than a pipe holds, to a program that reads it all and to one that reads nothing.
static void test_long_input(void **state) {
    (void)state;
    size_t n = 3000000;
    char *text = mk_zalloc(n), words[8192];
    mk_command_opts o = defaults();
    (void)snprintf(words, sizeof words, "'%s' --child length", self);
    o.text = words;
    expect(run_opts(&o, text, n), MK_COMMAND_OK, (double)n, "");
    o.text = "echo 7";
    expect(run_opts(&o, text, n), MK_COMMAND_OK, 7, "");
    mk_free(text);
}

static void test_time(void **state) {
    (void)state;
    mk_command_opts o = defaults();
    o.seconds = 0.3;
    uint64_t start = mk_now_ns();
    expect(run_shell(o, "sleep 100"), MK_COMMAND_TIMEOUT, 0, "killed after 0.3 seconds");
    expect(run_shell(o, "echo 1; exec >&-; exec 2>&-; sleep 100"), MK_COMMAND_TIMEOUT, 0, "killed");
    expect(run_shell(o, "trap '' TERM INT HUP; while :; do :; done"), MK_COMMAND_TIMEOUT, 0, "");
    assert_true(mk_now_ns() - start < 5000000000u);
}

// What the program leaves behind neither delays the answer nor lives on.
static void test_left_behind(void **state) {
    (void)state;
    mk_command_opts o = defaults();
    uint64_t start = mk_now_ns();
    expect(run_shell(o, "sleep 77.125 & sleep 77.125 & echo 5"), MK_COMMAND_OK, 5, "");
    assert_true(mk_now_ns() - start < 5000000000u);
    expect(run_shell(o, "ps -e -o args 2>/dev/null | grep -c '^sleep 77.12[5]'; true"),
           MK_COMMAND_OK, 0, "");
}

static void test_flood(void **state) {
    (void)state;
    expect(run_self(defaults(), "flood"), MK_COMMAND_FLOOD, 0, "killed after 65536 bytes");
    expect(run_shell(defaults(), "yes >&2"), MK_COMMAND_FLOOD, 0, "killed after 65536 bytes");
}

static void test_processes(void **state) {
    (void)state;
    mk_command_opts o = defaults();
    if (filters()) {
        expect(run_self(o, "fork"), MK_COMMAND_OK, 1, "");
    }
    expect(run_self(o, "thread"), MK_COMMAND_OK, 1, "");
    o.processes = 8;
    expect(run_shell(o, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 50 & done; wait; echo 1"),
           MK_COMMAND_PROCESSES, 0, "killed with more than 8 processes");
    o.seconds = 5;
    uint64_t start = mk_now_ns();
    // many at once: the count sees them, or the limit of the kernel came first
    mk_command_result r =
        run_shell(o, "for i in 1 2 3 4 5 6 7 8; do for k in 1 2 3 4 5 6 7 8 9 10; do "
                     "(sleep 50; sleep 50) & done; done; wait");
    assert_true(r.end == MK_COMMAND_PROCESSES ||
                (r.end == MK_COMMAND_FAILED && strstr(r.why, "fork")));
    assert_true(mk_now_ns() - start < 3000000000u);
}

// The limit of the kernel, which stands behind the count: here without it.
static void test_many_processes(void **state) {
    (void)state;
    mk_sandbox_box box;
    mk_sandbox_opts o = {0};
    int status;
    assert_int_equal(mk_sandbox_init(&box, &o, NULL), MK_OK);
    pid_t p = fork();
    if (p == 0) {
        (void)setpgid(0, 0);
        _exit(mk_sandbox_enter(&box, 20) ? count_forks() : 99);
    }
    assert_int_equal(waitpid(p, &status, 0), p);
    (void)kill(-p, SIGKILL);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 20);
    mk_sandbox_free(&box);
}

static void test_memory(void **state) {
    (void)state;
#ifndef MK_SANITIZED
    mk_command_opts o = defaults();
    o.memory_mib = 128;
    expect(run_self(o, "memory"), MK_COMMAND_OK, 1, "");
#endif
}

static void test_box(void **state) {
    (void)state;
    char words[64];
    expect(run_self(defaults(), "environment"), MK_COMMAND_OK, 1, "");
    expect(run_self(defaults(), "user"), MK_COMMAND_OK, 1, "");
    int extra = open("/dev/null", O_RDONLY);  // not close-on-exec
    expect(run_self(defaults(), "files"), MK_COMMAND_OK, 1, "");
    (void)close(extra);
    if (!filters()) {
        return;
    }
    expect(run_self(defaults(), "network"), MK_COMMAND_OK, 1, "");
    expect(run_self(defaults(), "leave"), MK_COMMAND_OK, 1, "");
    (void)snprintf(words, sizeof words, "signal %d", (int)getpid());
    expect(run_self(defaults(), words), MK_COMMAND_OK, 1, "");
}

static void test_files(void **state) {
    (void)state;
    char dir[] = "/tmp/mk_test_command_XXXXXX", words[128], path[64];
    assert_non_null(mkdtemp(dir));
    mk_command_opts o = defaults();
    (void)snprintf(path, sizeof path, "%s/x", dir);
    (void)snprintf(words, sizeof words, "write %s", path);
    if (boxed()) {
        expect(run_self(o, words), MK_COMMAND_OK, 0, "");
        assert_int_equal(access(path, F_OK), -1);
        expect(run_self(o, "write /dev/null"), MK_COMMAND_OK, 1, "");
    }
    o.scratch = dir;
    expect(run_self(o, words), MK_COMMAND_OK, 1, "");
    expect(run_shell(o, "test $TMPDIR = $(dirname $TMPDIR/x) && echo 1"), MK_COMMAND_OK, 1, "");
    o.file_mib = 1;
    (void)snprintf(words, sizeof words, "big-file %s", path);
    expect(run_self(o, words), MK_COMMAND_OK, 1 << 20, "");
    (void)unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void test_require(void **state) {
    (void)state;
    mk_command_opts o = defaults();
    mk_command *c = NULL;
    o.text = "true";
    o.sandbox = MK_SANDBOX_REQUIRE;
    assert_int_equal(mk_command_create(&o, &c, NULL), boxed() ? MK_OK : MK_EUNSUPPORTED);
    mk_command_destroy(c);
}

// --- as a reward ---------------------------------------------------------------------------------

static mk_rewards *make_reward(const char *spec) {
    mk_rewards *r;
    mk_err err = {0};
    if (mk_rewards_create(&spec, 1, NULL, &r, &err) != MK_OK) {
        fail_msg("%s: %s", spec, err.msg);
    }
    return r;
}

#ifdef MK_SANITIZED
#define SHELL "command:memory=0,seconds=20,shell="
#else
#define SHELL "command:seconds=20,shell="
#endif

static void test_reward_input(void **state) {
    (void)state;
    static const char completion[] = "<think>hm \xFF</think>44\0001";
    static const char want[] =
        "{\"answer\": \"441\", \"id\": \"a b\", \"completion\": \"<think>hm "
        "\xEF\xBF\xBD</think>44\\\\u00001\", "
        "\"reasoning\": \"hm \xEF\xBF\xBD\", \"response\": \"44\\\\u00001\", \"finished\": true, "
        "\"prompt\": \"What?\"}";
    char spec[1024];
    (void)snprintf(
        spec, sizeof spec,
        SHELL "test \"$(cat | sed 's/\":/\": /g; s/,\"/, \"/g')\" = \"$(printf '%%b' '%s')\" && "
              "echo 1 || echo 0",
        want);
    mk_rewards *r = make_reward(spec);
    json_t *line = json_pack("{s:s,s:s}", "answer", "441", "id", "a b");
    mk_reward_input in = {.prompt = "What?",
                          .n_prompt = 5,
                          .completion = completion,
                          .n_completion = sizeof completion - 1,
                          .finished = true,
                          .line = line};
    double total;
    mk_err err = {0};
    assert_int_equal(mk_rewards_score(r, &in, NULL, &total, &err), MK_OK);
    assert_true(total == 1);
    json_decref(line);
    mk_rewards_destroy(r);
}

// One failure is worth 0; a program that always fails is an error, and says how.
static void test_reward_failures(void **state) {
    (void)state;
    mk_log_set_level(MK_LOG_QUIET);
    mk_rewards *r = make_reward(SHELL "echo 'no rules' >&2; exit 1");
    mk_reward_input in = {.completion = "a", .n_completion = 1};
    double total = 1;
    mk_err err = {0};
    int n = 0;
    while (n < 100 && mk_rewards_score(r, &in, NULL, &total, &err) == MK_OK) {
        assert_true(total == 0);
        n++;
    }
    assert_int_equal(n, 31);
    assert_int_equal(err.code, MK_EIO);
    assert_non_null(
        strstr(err.msg, "failed 32 times in a row; the last time: ended with status 1: no rules"));
    mk_rewards_destroy(r);
}

static void *score_many(void *arg) {
    double total;
    mk_reward_input in = {.completion = "a", .n_completion = 1};
    for (int i = 0; i < 10; i++) {
        if (mk_rewards_score(arg, &in, NULL, &total, NULL) != MK_OK || total != 2.5) {
            return arg;
        }
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    mk_rewards *r = make_reward(SHELL "echo 2.5");
    pthread_t t[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&t[i], NULL, score_many, r), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *bad;
        assert_int_equal(pthread_join(t[i], &bad), 0);
        assert_null(bad);
    }
    mk_rewards_destroy(r);
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "--child") == 0) {
        int status = child(argv[2], argc > 3 ? argv[3] : "");
        (void)fflush(NULL);
        _exit(status);  // the leak checker of a sanitizer could not run in the box
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),       cmocka_unit_test(test_words),
        cmocka_unit_test(test_long_input),   cmocka_unit_test(test_time),
        cmocka_unit_test(test_left_behind),  cmocka_unit_test(test_flood),
        cmocka_unit_test(test_processes),    cmocka_unit_test(test_many_processes),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_box),
        cmocka_unit_test(test_files),        cmocka_unit_test(test_require),
        cmocka_unit_test(test_reward_input), cmocka_unit_test(test_reward_failures),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
