#include "cmocka_all.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "torture.h"

static char dir[] = "/tmp/minke-test-XXXXXX";

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *p = mk_path_join(dir, e->d_name);
        unlink(p);
        mk_free(p);
    }
    closedir(d);
    return rmdir(dir);
}

static char *in_dir(const char *name) {
    return mk_path_join(dir, name);
}

static void put(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(text, 1, strlen(text), f);
    fclose(f);
}

static void assert_content(const char *path, const char *text) {
    char *data;
    size_t n;
    mk_err err;
    assert_int_equal(mk_file_read(path, 1 << 20, &data, &n, &err), MK_OK);
    assert_string_equal(data, text);
    assert_int_equal(n, strlen(text));
    mk_free(data);
}

static int n_files(void) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));) {
        n += e->d_name[0] != '.';
    }
    closedir(d);
    return n;
}

static void test_map(void **state) {
    (void)state;
    char *p = in_dir("map");
    char text[10000];
    memset(text, 'm', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    put(p, text);
    mk_map m;
    mk_err err = {0};
    assert_int_equal(mk_map_open(p, &m, &err), MK_OK);
    assert_int_equal(m.n_bytes, sizeof text - 1);
    assert_string_equal(m.path, p);
    mk_map_forget(&m, 0, m.n_bytes);
    mk_map_forget(&m, 1, 4096);
    mk_map_forget(&m, SIZE_MAX, 1);
    mk_map_forget(&m, 1, SIZE_MAX);
    assert_memory_equal(m.data, text, m.n_bytes);  // forgotten pages are read again
    mk_map_close(&m);
    mk_map_close(&m);
    put(p, "");
    assert_int_equal(mk_map_open(p, &m, &err), MK_OK);
    assert_null(m.data);
    assert_int_equal(m.n_bytes, 0);
    mk_map_forget(&m, 0, 0);
    mk_map_close(&m);
    unlink(p);
    assert_int_equal(mk_map_open(p, &m, &err), MK_ENOTFOUND);
    assert_non_null(strstr(err.msg, p));
    assert_int_equal(mk_map_open(dir, &m, &err), MK_EIO);
    assert_non_null(strstr(err.msg, "directory"));
    assert_int_equal(mkfifo(p, 0600), 0);
    assert_int_equal(mk_map_open(p, &m, &err), MK_EIO);  // and does not wait for a writer
    unlink(p);
    mk_free(p);
}

// Run in a process of its own (cmocka catches SIGBUS itself): maps a file and cuts it short.
static int touch_lost_page(const char *path) {
    mk_map m;
    if (mk_map_open(path, &m, NULL) != MK_OK || truncate(path, 0) != 0) {
        return 1;
    }
    volatile uint8_t byte = m.data[0];
    (void)byte;
    return 0;
}

// A file cut short under a map ends the process with a message and exit code 5, not with a crash.
static void test_sigbus(void **state) {
    (void)state;
    char *p = in_dir("short");
    put(p, "content");
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDERR_FILENO);
        execl("/proc/self/exe", "test_file", "touch-lost-page", p, (char *)NULL);
        _exit(1);
    }
    close(out[1]);
    int status = 0;
    waitpid(pid, &status, 0);
    char text[200] = "";
    ssize_t n = read(out[0], text, sizeof text - 1);
    close(out[0]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 5);
    assert_true(n > 10 && strncmp(text, "minke: ", 7) == 0 && text[n - 1] == '\n');
    unlink(p);
    mk_free(p);
}

static void test_read_limits(void **state) {
    (void)state;
    char *p = in_dir("read"), *data = NULL;
    size_t n = 0;
    mk_err err = {0};
    char text[40001];
    memset(text, 'r', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    put(p, text);
    assert_int_equal(mk_file_read(p, 40000, &data, &n, &err), MK_OK);
    assert_int_equal(n, 40000);
    assert_int_equal(data[n], 0);
    mk_free(data);
    data = NULL;
    assert_int_equal(mk_file_read(p, 39999, &data, &n, &err), MK_ELIMIT);
    assert_non_null(strstr(err.msg, "39999"));
    assert_null(data);
    assert_int_equal(mk_file_read(p, 0, &data, &n, &err), MK_ELIMIT);
    put(p, "");
    assert_int_equal(mk_file_read(p, 0, &data, &n, &err), MK_OK);
    assert_string_equal(data, "");
    mk_free(data);
    assert_int_equal(mk_file_read(dir, 100, &data, &n, &err), MK_EIO);
    assert_int_equal(mk_file_read("/tmp/minke/not/there", 100, &data, &n, &err), MK_ENOTFOUND);
    assert_int_equal(mk_file_read("/dev/zero", 100000, &data, &n, &err), MK_ELIMIT);
    assert_int_equal(mk_file_read("/proc/self/stat", 100000, &data, &n, &err),
                     MK_OK);  // size 0 by stat
    assert_true(n > 10);
    mk_free(data);
    unlink(p);
    mk_free(p);
}

static mk_status read_file(void *arg, mk_err *err) {
    char *data;
    size_t n;
    MK_TRY(mk_file_read(arg, 1 << 20, &data, &n, err));
    mk_free(data);
    return MK_OK;
}

static void test_read_torture(void **state) {
    (void)state;
    char *p = in_dir("torture");
    char text[40001];
    memset(text, 'r', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    put(p, text);
    assert_true(mk_torture(read_file, p) >= 1);
    unlink(p);
    mk_free(p);
}

static void test_pipe(void **state) {
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    if (fork() == 0) {
        for (int i = 0; i < 1000; i++) {
            ssize_t k = write(fds[1], "0123456789", 10);
            (void)k;
        }
        _exit(0);
    }
    close(fds[1]);
    FILE *f = fdopen(fds[0], "rb");
    char *data;
    size_t n;
    assert_int_equal(mk_stream_read(f, 1 << 20, &data, &n, NULL), MK_OK);
    assert_int_equal(n, 10000);
    assert_memory_equal(data + 9990, "0123456789", 11);
    mk_free(data);
    fclose(f);
    wait(NULL);
}

static void test_paths(void **state) {
    (void)state;
    static const char *const rows[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "", "a/"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *p = mk_path_join(rows[i][0], rows[i][1]);
        assert_string_equal(p, rows[i][2]);
        mk_free(p);
    }
    assert_string_equal(mk_path_base("/x/y.z"), "y.z");
    assert_string_equal(mk_path_base("y"), "y");
    assert_string_equal(mk_path_base("x/"), "");
    assert_true(mk_path_is_dir(dir));
    assert_false(mk_path_is_file(dir));
    assert_true(mk_path_is_file("/proc/self/stat"));
    assert_false(mk_path_is_file("/tmp/minke/not/there"));
}

static void test_writer(void **state) {
    (void)state;
    char *p = in_dir("out");
    mk_writer *w;
    mk_err err = {0};
    put(p, "old");
    chmod(p, 0640);
    assert_int_equal(mk_writer_open(p, &w, &err), MK_OK);
    assert_int_equal(mk_writer_write(w, "new", 3, &err), MK_OK);
    assert_content(p, "old");
    assert_int_equal(mk_writer_offset(w), 3);
    assert_int_equal(mk_writer_write(w, " text", 5, &err), MK_OK);
    assert_int_equal(mk_writer_commit(w, &err), MK_OK);
    assert_content(p, "new text");
    struct stat st;
    stat(p, &st);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(mk_writer_open(p, &w, &err), MK_OK);
    assert_int_equal(mk_writer_write(w, "never", 5, &err), MK_OK);
    mk_writer_abort(w);
    mk_writer_abort(NULL);
    assert_content(p, "new text");
    assert_int_equal(n_files(), 1);  // no temporary file stays
    assert_int_equal(mk_writer_open("/tmp/minke/not/there", &w, &err), MK_ENOTFOUND);
    assert_int_equal(mk_writer_open(dir, &w, &err), MK_EIO);
    assert_null(w);
    unlink(p);
    mk_free(p);
}

static void test_two_writers_and_links(void **state) {
    (void)state;
    char *p = in_dir("out"), *link = in_dir("link");
    mk_writer *a, *b;
    assert_int_equal(mk_writer_open(p, &a, NULL), MK_OK);
    assert_int_equal(mk_writer_open(p, &b, NULL), MK_OK);
    assert_int_equal(mk_writer_write(a, "a", 1, NULL), MK_OK);
    assert_int_equal(mk_writer_write(b, "b", 1, NULL), MK_OK);
    assert_int_equal(mk_writer_commit(b, NULL), MK_OK);
    assert_content(p, "b");
    assert_int_equal(mk_writer_commit(a, NULL), MK_OK);
    assert_content(p, "a");
    assert_int_equal(symlink(p, link), 0);
    assert_int_equal(mk_writer_open(link, &a, NULL), MK_OK);
    assert_int_equal(mk_writer_write(a, "through", 7, NULL), MK_OK);
    assert_int_equal(mk_writer_commit(a, NULL), MK_OK);
    assert_content(p, "through");
    struct stat st;
    lstat(link, &st);
    assert_true(S_ISLNK(st.st_mode));
    unlink(link);
    unlink(p);
    assert_int_equal(n_files(), 0);
    mk_free(link);
    mk_free(p);
}

static void test_large_writes(void **state) {
    (void)state;
    char *p = in_dir("large"), *block = mk_alloc(700000), *data;
    for (int i = 0; i < 700000; i++) {
        block[i] = (char)(i * 31 >> 3);
    }
    mk_writer *w;
    assert_int_equal(mk_writer_open(p, &w, NULL), MK_OK);
    size_t at = 0;
    for (size_t n = 1; at < 700000; n = n * 3 + 1) {
        n = at + n > 700000 ? 700000 - at : n;
        assert_int_equal(mk_writer_write(w, block + at, n, NULL), MK_OK);
        at += n;
    }
    assert_int_equal(mk_writer_commit(w, NULL), MK_OK);
    assert_int_equal(mk_file_read(p, 1 << 20, &data, &at, NULL), MK_OK);
    assert_int_equal(at, 700000);
    assert_memory_equal(data, block, 700000);
    mk_free(data);
    mk_free(block);
    unlink(p);
    mk_free(p);
}

// The device refuses bytes in the middle: the old file stays, nothing is left over, the message
// says why.
static void test_full_device(void **state) {
    (void)state;
    char *p = in_dir("limited"), block[4096] = {0};
    put(p, "old");
    struct rlimit old, low = {.rlim_cur = 1 << 20};
    getrlimit(RLIMIT_FSIZE, &old);
    low.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    mk_writer *w;
    mk_err err = {0};
    assert_int_equal(mk_writer_open(p, &w, &err), MK_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    mk_status st = MK_OK;
    for (int i = 0; i < 1000 && st == MK_OK; i++) {
        st = mk_writer_write(w, block, sizeof block, &err);
    }
    assert_int_equal(st, MK_EIO);
    assert_non_null(strstr(err.msg, "too large"));
    assert_int_equal(mk_writer_write(w, block, 1, &err), MK_EIO);  // and stays failed
    assert_int_equal(mk_writer_commit(w, &err), MK_EIO);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_content(p, "old");
    assert_int_equal(n_files(), 1);
    unlink(p);
    mk_free(p);
    // small enough for the buffer: only the commit meets the device
    assert_int_equal(mk_writer_open("/dev/full", &w, &err), MK_OK);
    assert_int_equal(mk_writer_write(w, "x", 1, &err), MK_OK);
    assert_int_equal(mk_writer_commit(w, &err), MK_EIO);
    assert_non_null(strstr(err.msg, "No space left"));
}

static void test_device_is_not_replaced(void **state) {
    (void)state;
    mk_writer *w;
    assert_int_equal(mk_writer_open("/dev/null", &w, NULL), MK_OK);
    assert_int_equal(mk_writer_write(w, "x", 1, NULL), MK_OK);
    assert_int_equal(mk_writer_commit(w, NULL), MK_OK);
    struct stat st;
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "touch-lost-page") == 0) {
        return touch_lost_page(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_sigbus),
        cmocka_unit_test(test_read_limits),
        cmocka_unit_test(test_read_torture),
        cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_two_writers_and_links),
        cmocka_unit_test(test_large_writes),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_device_is_not_replaced),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
