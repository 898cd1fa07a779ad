// The prefix cache on disk: restarts, damage of every kind, the limit, kills, full disks.
#include "engine/prefix_util.h"

// behind it: `dir` is a parameter there
#include "engine/prefix_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/prefix_disk.h"
#include "torture.h"

// --- a folder ------------------------------------------------------------------------------------

// Calls fn with the path of every file in the folder, sorted by nothing; returns how many.
static int each_path(void (*fn)(const char *path, void *arg), void *arg) {
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.') {
            char *path = mk_path_join(dir, e->d_name);
            n++;
            if (fn) {
                fn(path, arg);
            }
            mk_free(path);
        }
    }
    closedir(d);
    return n;
}

static void remove_path(const char *path, void *arg) {
    (void)arg;
    assert_int_equal(unlink(path), 0);
}

static void add_size(const char *path, void *arg) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);  // prompts are in it
    *(uint64_t *)arg += (uint64_t)st.st_size;
}

static void copy_path(const char *path, void *arg) {
    snprintf(arg, 256, "%s", path);
}

static int remove_dir(void **state) {
    (void)state;
    each_path(remove_path, NULL);
    return rmdir(dir);
}

static uint8_t *read_bytes(const char *path, size_t *n) {
    char *data = NULL;
    mk_err err = {0};
    assert_int_equal(mk_file_read(path, 1 << 28, &data, n, &err), MK_OK);
    return (uint8_t *)data;
}

static void write_bytes(const char *path, const uint8_t *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
}

// --- restarts ------------------------------------------------------------------------------------

static void test_restart(void **state) {
    (void)state;
    static const struct {
        const char *path;
        mk_kv_type type;
    } kinds[] = {{LLAMA, MK_KV_F32}, {LLAMA, MK_KV_F16}, {LLAMA, MK_KV_Q8},
                 {V3, MK_KV_F32},    {V3, MK_KV_F16},    {V3, MK_KV_Q8}};
    int32_t ids[MAX_PROMPT];
    fill_ids(ids, MAX_PROMPT, 60);
    for (int k = 0; k < 6; k++) {
        uint64_t want[2];
        int64_t cached = 0;
        for (int pass = 0; pass < 2; pass++) {
            rig r = rig_open(kinds[k].path,
                             (rig_opts){.n_ctx = 1024, .n_seq = 2, .kv_type = kinds[k].type});
            mk_prefix *p = new_prefix(&r, dir, BIG);
            if (pass == 0) {
                (void)answer(&r, p, 1, ids, 300, NULL);  // in two turns: two files at least
                want[0] = answer(&r, p, 1, ids, MAX_PROMPT, &cached);
                assert_int_equal(cached, 256);
                want[1] = answer(&r, p, 1, ids, 700, NULL);
            } else {
                assert_true(answer(&r, p, 1, ids, 700, &cached) == want[1]);
                assert_int_equal(cached, 640);
                assert_true(answer(&r, p, 1, ids, MAX_PROMPT, &cached) == want[0]);
                assert_int_equal(cached, 960);
                assert_int_equal(figures_of(p).disk_hit_tokens, 960);
                assert_int_equal(cached_of(&r, p, 2, ids, 300), 0);
            }
            assert_int_equal(figures_of(p).damaged, 0);
            mk_prefix_destroy(p);
            rig_close(&r);
        }
    }
    // six kinds in one folder, none of them took another's files for its own
    assert_true(each_path(NULL, NULL) >= 12);
}

// As whoever does not wait for the disk gets it: file by file.
static int64_t attach_on(const rig *r, mk_prefix *p, int seq, uint64_t tenant, const int32_t *ids,
                         int64_t n, int64_t *most) {
    int64_t got = 0;
    *most = 0;
    for (bool more = true; more;) {
        mk_prefix_wait(p, 10000);
        int64_t before = got;
        got = mk_prefix_attach(p, seq, tenant, ids, n, &more);
        assert_int_equal(mk_engine_seq_length(r->engine, seq), got);
        *most = got - before > *most ? got - before : *most;
    }
    return got;
}

static void test_in_parts(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 1024, .n_seq = 2, .kv_type = MK_KV_Q8});
    mk_prefix *p = new_prefix(&r, dir, BIG);
    mk_err err = {0};
    int32_t ids[700];
    int64_t most = 0;
    bool more = false;
    fill_ids(ids, 700, 68);
    for (int64_t n = 150; n < 700; n += 150) {  // runs of 2, 2, 3 and 2 blocks
        (void)answer(&r, p, 1, ids, n, NULL);
    }
    uint64_t want = answer(&r, p, 1, ids, 650, NULL);  // and 1
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, BIG);
    int seq = open_seq(&r), other = open_seq(&r);
    assert_int_equal(mk_prefix_attach(p, seq, 1, ids, 650, &more), 0);
    assert_true(more);  // nothing is in memory, and nobody waited
    assert_int_equal(mk_prefix_attach(p, other, 2, ids, 650, &more), 0);
    assert_false(more);  // another tenant's need not wait
    assert_int_equal(attach_on(&r, p, seq, 1, ids, 650, &most), 640);
    assert_int_equal(most, 3 * MK_KV_BLOCK);
    assert_int_equal(mk_engine_feed(r.engine, seq, ids + 640, 10, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    mk_prefix_figures f = figures_of(p);
    assert_true(f.lookups == 2 && f.hit_tokens == 640 && f.disk_hit_tokens == 640);
    assert_int_equal(f.miss_tokens, 10 + 650);
    // what was asked for and is not wanted any more
    mk_engine_seq_close(r.engine, seq);
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, BIG);
    seq = open_seq(&r);
    assert_int_equal(mk_prefix_attach(p, seq, 1, ids, 650, &more), 0);
    assert_true(more);
    mk_prefix_let_go(p, seq);
    assert_int_equal(attach_on(&r, p, other, 1, ids, 200, &most), 192);
    // forgotten in between: nothing more, and what is there stays
    mk_prefix_forget(p, 2);
    assert_int_equal(mk_prefix_attach(p, other, 1, ids, 650, &more), 192);
    assert_true(more);
    mk_prefix_forget(p, 1);
    assert_int_equal(attach_on(&r, p, other, 1, ids, 650, &most), 192);
    assert_int_equal(mk_engine_feed(r.engine, other, ids + 192, 458, MK_LOGITS_LAST, &err), MK_OK);
    assert_true(hash_logits(&r) == want);
    mk_engine_seq_close(r.engine, other);
    mk_engine_seq_close(r.engine, seq);
    mk_prefix_destroy(p);
    rig_close(&r);
}

// Blocks that were taken back come from disk, whatever is still in memory.
static void test_small_memory(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 512, .n_seq = 2, .n_block = 9});
    mk_prefix *p = new_prefix(&r, dir, BIG);
    int32_t a[400], b[400];
    int64_t cached = 0;
    fill_ids(a, 400, 61);
    fill_ids(b, 400, 62);
    uint64_t want_a = answer(&r, p, 1, a, 400, NULL), want_b = answer(&r, p, 1, b, 400, NULL);
    mk_prefix_flush(p);
    for (int i = 0; i < 3; i++) {
        assert_true(answer(&r, p, 1, a, 400, &cached) == want_a);
        assert_int_equal(cached, 384);
        assert_true(answer(&r, p, 1, b, 400, &cached) == want_b);
        assert_int_equal(cached, 384);
        mk_prefix_make_room(p, 6 + i);
    }
    assert_true(figures_of(p).disk_hit_tokens > 384);
    // no room but for two blocks: a shorter hit, the same answer
    int seq = open_seq(&r);
    mk_err err = {0};
    mk_prefix_make_room(p, 9);
    assert_int_equal(mk_engine_feed(r.engine, seq, b, 400, MK_LOGITS_LAST, &err), MK_OK);
    assert_int_equal(cached_of(&r, p, 1, a, 400), 128);
    mk_engine_seq_close(r.engine, seq);
    mk_prefix_destroy(p);
    rig_close(&r);
}

// Keys of few bits: many prompts have the same, on disk and in memory; none gets another's blocks.
static void test_colliding_keys(void **state) {
    (void)state;
    enum { N = 24 };
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_seq = 1, .n_block = 6, .kv_type = MK_KV_Q8});
    int32_t ids[N][200];
    uint64_t want[N];
    int64_t hits = 0, cached = 0;
    for (uint64_t i = 0; i < N; i++) {
        fill_ids(ids[i], 200, 300 + i);
        if (i % 3) {
            memcpy(ids[i], ids[i - 1], 100 * sizeof **ids);
        } else {
            fill_ids(ids[i] + 64, 64, 299);  // the same block behind another beginning
        }
        want[i] = answer(&r, NULL, 1, ids[i], 200, NULL);
    }
    for (int pass = 0; pass < 8; pass++) {
        mk_prefix *p = NULL;
        mk_err err = {0};
        mk_prefix_opts o = {
            .engine = r.engine, .dir = dir, .max_disk = BIG, .key_bits = pass < 4 ? 4 : 6};
        assert_int_equal(mk_prefix_create(&o, &p, &err), MK_OK);
        for (uint64_t i = 0; i < N; i++) {
            uint64_t k = mk_rng_u64((uint64_t)pass, i) % N;
            assert_true(answer(&r, p, k & 1, ids[k], 200, &cached) == want[k]);
            hits += cached > 0;
            mk_prefix_flush(p);
        }
        assert_int_equal(figures_of(p).damaged, 0);
        mk_prefix_destroy(p);
    }
    assert_true(hits > 8);
    rig_close(&r);
}

// --- damage --------------------------------------------------------------------------------------

static int32_t small_ids[65];

// A folder with one file of one block.
static uint8_t *small_file(const rig *r, char path[256], size_t *n, uint64_t *want) {
    fill_ids(small_ids, 65, 63);
    mk_prefix *p = new_prefix(r, dir, BIG);
    *want = answer(r, p, 1, small_ids, 65, NULL);
    mk_prefix_destroy(p);
    assert_int_equal(each_path(copy_path, path), 1);
    return read_bytes(path, n);
}

// What a server would do with these bytes in its folder; the answer is right in any case.
static void serve_small(const rig *r, const char *path, uint64_t want, bool good) {
    int64_t cached = -1;
    mk_prefix *p = new_prefix(r, dir, BIG);
    assert_true(answer(r, p, 1, small_ids, 65, &cached) == want);
    assert_int_equal(cached, good ? 64 : 0);
    assert_int_equal(figures_of(p).damaged, good ? 0 : 1);
    mk_prefix_destroy(p);
    assert_int_equal(access(path, F_OK), 0);  // written anew
}

// Of the files of a cache over r; the model's key is what this one says it is.
static mk_prefix_kind kind_of(const rig *r, const uint8_t *file) {
    static char key[128];
    uint64_t n = 0;
    memcpy(&n, file + 56, sizeof n);
    assert_in_range(n, 1, sizeof key - 1);
    memcpy(key, file + 128, n);
    key[n] = 0;
    return (mk_prefix_kind){.model_key = key,
                            .kv_type = (uint32_t)mk_kv_get_type(mk_engine_kv(r->engine)),
                            .block_bytes = mk_kv_block_bytes(mk_engine_kv(r->engine))};
}

static void test_every_byte(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 128, .n_seq = 1, .kv_type = MK_KV_Q8});
    char path[256];
    size_t n = 0;
    uint64_t want = 0;
    uint8_t *good = small_file(&r, path, &n, &want), *data = mk_try_alloc(n, 1);
    mk_prefix_kind kind = kind_of(&r, good);
    mk_prefix_run run;
    mk_err err = {0};
    memcpy(data, good, n);
    assert_int_equal(mk_prefix_file_parse(&kind, data, n, &run, &err), MK_OK);
    printf("a file of %zu bytes\n", n);
    for (size_t i = 0; i < n; i++) {
        data[i] ^= (uint8_t)(1 << i % 8);
        assert_true(mk_prefix_file_parse(&kind, data, n, &run, &err) != MK_OK);
        if (i < 700 ? i % 7 == 0 : i % 499 == 0 || i + 1 == n) {
            write_bytes(path, data, n);
            serve_small(&r, path, want, false);
        }
        data[i] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t cut = 0; cut < n; cut += cut < 1000 ? 1 : 61) {
        // of just this size, so that a sanitizer sees the end
        uint8_t *part = mk_try_alloc(cut, 1);
        memcpy(part, good, cut);
        assert_true(mk_prefix_file_parse(&kind, part, cut, &run, &err) != MK_OK);
        mk_free(part);
        if (cut % 1024 == 0) {
            write_bytes(path, good, cut);
            serve_small(&r, path, want, false);
        }
    }
    data = mk_try_realloc(data, n + 16, 1);
    memset(data + n, 0, 16);
    write_bytes(path, data, n + 16);
    serve_small(&r, path, want, false);
    serve_small(&r, path, want, true);
    mk_free(good);
    mk_free(data);
    rig_close(&r);
}

// Changed after the start, when its head is known already.
static void test_damage_while_open(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 128, .n_seq = 1, .kv_type = MK_KV_Q8});
    char path[256];
    size_t n = 0;
    uint64_t want = 0;
    int64_t cached = -1;
    uint8_t *good = small_file(&r, path, &n, &want);
    for (int how = 0; how < 4; how++) {
        write_bytes(path, good, n);
        mk_prefix *p = new_prefix(&r, dir, BIG);
        good[n / 2] ^= 4;
        if (how == 0) {
            write_bytes(path, good, n);
        } else if (how == 1) {
            assert_int_equal(truncate(path, (off_t)n - 1), 0);
        } else {
            assert_int_equal(unlink(path), 0);
        }
        good[n / 2] ^= 4;
        if (how == 3) {
            assert_int_equal(mkdir(path, 0700), 0);
        }
        assert_true(answer(&r, p, 1, small_ids, 65, &cached) == want);
        assert_int_equal(cached, 0);
        assert_int_equal(figures_of(p).damaged, how == 2 ? 0 : 1);
        (void)rmdir(path);
        mk_prefix_destroy(p);
    }
    mk_free(good);
    rig_close(&r);
}

// Files whose hashes are right, but which are not what their names and keys say.
static void test_lies(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 128, .n_seq = 1, .kv_type = MK_KV_Q8});
    char path[256];
    size_t n = 0;
    uint64_t want = 0;
    uint8_t *good = small_file(&r, path, &n, &want);
    mk_prefix_kind kind = kind_of(&r, good), other = kind;
    mk_prefix_run run, lie;
    mk_err err = {0};
    assert_int_equal(mk_prefix_file_parse(&kind, good, n, &run, &err), MK_OK);
    uint8_t *file = mk_try_alloc(n + 1024, 1), *data = mk_try_alloc(kind.block_bytes, 1);
    int32_t ids[64];
    char other_key[128];
    snprintf(other_key, sizeof other_key, "%s", kind.model_key);
    fill_ids(ids, 64, 99);
    for (int k = 0; k < 5; k++) {
        lie = run;
        other = kind;
        if (k == 0) {
            lie.ids = ids;  // the data are those of other ids
        } else if (k == 1) {
            lie.tenant = 2;
        } else if (k == 2) {
            other_key[0] ^= 1;
            other.model_key = other_key;
        } else if (k == 3) {
            other.kv_type = MK_KV_F16;
        } else {
            other.model_key = "a model with a longer name";
        }
        size_t size = mk_prefix_file_bytes(&other, 0, 1);
        memset(file, 0, n + 1024);
        memset(mk_prefix_file_lay(&other, &lie, file), 0x11, kind.block_bytes);
        mk_prefix_file_seal(file, size);
        assert_true(mk_prefix_file_parse(&kind, file, size, &lie, &err) != MK_OK);
        write_bytes(path, file, size);
        serve_small(&r, path, want, false);
    }
    mk_free(good);
    mk_free(file);
    mk_free(data);
    rig_close(&r);
}

// Only files with names of the cache are touched.
static void test_strangers(void **state) {
    (void)state;
    static const char *const names[] = {"notes.txt", "0123456789abcdef.mkkv",
                                        "0123456789ABCDEF-0123456789abcdef0123456789abcdef.mkkv",
                                        "0123456789abcdef-0123456789abcdef0123456789abcdef.mkkv2",
                                        // of another model: only removed when there is no room
                                        "0123456789abcdef-0123456789abcdef0123456789abcdef.mkkv",
                                        // somebody is writing: this process, just now
                                        NULL};
    rig r = rig_open(V3, (rig_opts){.n_ctx = 128, .n_seq = 1, .kv_type = MK_KV_Q8});
    char busy[128], dead[128];
    snprintf(busy, sizeof busy, "0123456789abcdef-0123456789abcdef0123456789abcdef.mkkv.tmp-%ld",
             (long)getpid());
    snprintf(dead, sizeof dead, "0123456789abcdef-0123456789abcdef0123456789abcdef.mkkv.tmp-%ld",
             4194304L);
    for (int i = 0; i < 7; i++) {
        char *path = mk_path_join(dir, i < 5 ? names[i] : i == 5 ? busy : dead);
        write_bytes(path, (const uint8_t *)"x", 1);
        mk_free(path);
    }
    mk_prefix_destroy(new_prefix(&r, dir, BIG));
    assert_int_equal(each_path(NULL, NULL), 6);
    char *path = mk_path_join(dir, busy);
    struct timespec old[2] = {{time(NULL) - 100, 0}, {time(NULL) - 100, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    mk_free(path);
    mk_prefix_destroy(new_prefix(&r, dir, BIG));
    assert_int_equal(each_path(NULL, NULL), 5);
    rig_close(&r);
}

// --- tenants, the limit --------------------------------------------------------------------------

static void test_forget(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 512, .n_seq = 1});
    mk_prefix *p = new_prefix(&r, dir, BIG);
    int32_t ids[200];
    fill_ids(ids, 200, 64);
    (void)answer(&r, p, 1, ids, 200, NULL);
    (void)answer(&r, p, 2, ids, 200, NULL);
    mk_prefix_forget(p, 1);  // perhaps before it is written
    mk_prefix_flush(p);
    assert_int_equal(figures_of(p).disk_blocks, 3);
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, BIG);
    assert_int_equal(cached_of(&r, p, 1, ids, 200), 0);
    assert_int_equal(cached_of(&r, p, 2, ids, 200), 192);
    mk_prefix_forget(p, UINT64_MAX);
    assert_int_equal(cached_of(&r, p, 2, ids, 200), 0);
    assert_int_equal(each_path(NULL, NULL), 0);
    mk_prefix_destroy(p);
    rig_close(&r);
}

static void test_limit(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_seq = 1, .kv_type = MK_KV_Q8});
    size_t one = mk_prefix_file_bytes(
        &(mk_prefix_kind){"tiny model", MK_KV_Q8, mk_kv_block_bytes(mk_engine_kv(r.engine)), 0}, 0,
        2);
    uint64_t most = 6 * one;
    int32_t ids[9][129], longer[200];
    mk_prefix *p = new_prefix(&r, dir, most);
    for (int i = 0; i < 9; i++) {
        fill_ids(ids[i], 129, 70 + (uint64_t)i);
        (void)answer(&r, p, 1, ids[i], 129, NULL);
        mk_prefix_flush(p);
        uint64_t total = 0;
        each_path(add_size, &total);
        assert_true(total <= most);
        if (i >= 1) {  // the first goes on: its beginning is used, and must outlive its end
            memcpy(longer, ids[0], sizeof ids[0]);
            fill_ids(longer + 129, 71, 90 + (uint64_t)i);
            if (i == 4 || i == 7) {
                (void)answer(&r, p, 1, longer, 200, NULL);
                mk_prefix_flush(p);
            }
        }
    }
    mk_prefix_destroy(p);
    p = new_prefix(&r, dir, most);
    assert_int_equal(cached_of(&r, p, 1, ids[0], 129), 128);
    assert_int_equal(cached_of(&r, p, 1, longer, 200), 128);  // its end was another
    assert_int_equal(cached_of(&r, p, 1, ids[8], 129), 128);
    assert_int_equal(cached_of(&r, p, 1, ids[1], 129), 0);
    assert_int_equal(cached_of(&r, p, 1, ids[2], 129), 0);
    assert_int_equal(cached_of(&r, p, 1, ids[3], 129), 0);
    mk_prefix_destroy(p);
    // a lower limit holds from the start
    p = new_prefix(&r, dir, 2 * one);
    uint64_t total = 0;
    each_path(add_size, &total);
    assert_true(total <= 2 * one && total == figures_of(p).disk_bytes);
    mk_prefix_destroy(p);
    rig_close(&r);
}

// --- kills and full disks ------------------------------------------------------------------------

// Answers forever, another prompt each time; says when the first one is on disk.
static void work(int say, uint64_t seed) {
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_seq = 1, .n_block = 6, .kv_type = MK_KV_Q8});
    mk_prefix *p = new_prefix(&r, dir, BIG);
    for (uint64_t i = 0;; i++) {
        int32_t ids[200];
        fill_ids(ids, 200, seed + i % 8);
        (void)answer(&r, p, 1, ids, 200, NULL);
        if (i == 0) {
            mk_prefix_flush(p);
            ssize_t n = write(say, "x", 1);
            (void)n;
        }
        fill_ids(ids + 100, 100, seed + i);
        (void)answer(&r, p, 1, ids, 200, NULL);
    }
}

static void test_kill(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_seq = 1, .kv_type = MK_KV_Q8});
    int64_t hits = 0;
    for (uint64_t k = 0; k < 10; k++) {
        int32_t ids[8][200];
        uint64_t want[8];
        for (uint64_t i = 0; i < 8; i++) {
            fill_ids(ids[i], 200, 1000 + 8 * k + i);
            want[i] = answer(&r, NULL, 1, ids[i], 200, NULL);
        }
        int pipe_fd[2];
        char c = 0;
        assert_int_equal(pipe(pipe_fd), 0);
        pid_t child = fork();
        if (child == 0) {
            work(pipe_fd[1], 1000 + 8 * k);
        }
        close(pipe_fd[1]);
        assert_int_equal(read(pipe_fd[0], &c, 1), 1);
        close(pipe_fd[0]);
        nanosleep(&(struct timespec){0, (long)(mk_rng_u64(80, k) % 30000000)}, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        mk_prefix *p = new_prefix(&r, dir, BIG);
        for (uint64_t i = 0; i < 8; i++) {
            int64_t cached = 0;
            assert_true(answer(&r, p, 1, ids[i], 200, &cached) == want[i]);
            assert_true(i > 0 || cached == 192);
            hits += cached > 0;
        }
        // a file is there whole or not at all, but for pages that were lost with the machine
        assert_int_equal(figures_of(p).damaged, 0);
        mk_prefix_destroy(p);
    }
    printf("%lld of 80 prompts came from files of killed processes\n", (long long)hits);
    rig_close(&r);
}

static int count_lines(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)) != NULL; p++) {
        n++;
    }
    return n;
}

// In a process of its own, whose files may not grow beyond 1000 bytes.
static int with_full_disk(void) {
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 1, .n_block = 30});
    mk_prefix *p = new_prefix(&r, dir, BIG);
    int32_t ids[200];
    int64_t cached = 0;
    fill_ids(ids, 200, 65);
    signal(SIGXFSZ, SIG_IGN);
    mk_log_set_level(MK_LOG_WARN);
    if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, RLIM_INFINITY}) != 0) {
        return 2;
    }
    uint64_t want = answer(&r, p, 1, ids, 200, NULL);
    mk_prefix_flush(p);
    for (uint64_t i = 0; i < 5; i++) {
        int32_t more[130];
        fill_ids(more, 130, 66 + i);
        (void)answer(&r, p, 1, more, 130, NULL);
        mk_prefix_flush(p);
    }
    bool right = answer(&r, p, 1, ids, 200, &cached) == want && cached > 0;
    right = right && figures_of(p).disk_blocks == 0 && figures_of(p).damaged == 0;
    mk_prefix_destroy(p);
    rig_close(&r);
    return right ? 0 : 1;
}

static void test_full_disk(void **state) {
    (void)state;
    int said[2], status = 0;
    char text[4096] = {0};
    size_t n = 0;
    assert_int_equal(pipe(said), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(said[1], STDERR_FILENO);
        _exit(with_full_disk());
    }
    close(said[1]);
    for (ssize_t k; (k = read(said[0], text + n, sizeof text - 1 - n)) > 0;) {
        n += (size_t)k;
    }
    close(said[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (status != 0 || count_lines(text, "\n") != 1 || count_lines(text, "not written") != 1) {
        fail_msg("status %d, and it said: %s", status, text);
    }
    assert_int_equal(each_path(NULL, NULL), 0);
}

static void test_no_folder(void **state) {
    (void)state;
    rig r = rig_open(LLAMA, (rig_opts){.n_ctx = 256, .n_seq = 1});
    mk_prefix *p = NULL;
    mk_err err = {0};
    mk_prefix_opts o = {
        .engine = r.engine, .dir = "/dev/null/x", .max_disk = BIG, .model_key = "m"};
    assert_int_equal(mk_prefix_create(&o, &p, &err), MK_EIO);
    assert_non_null(strstr(err.msg, "/dev/null/x"));
    rig_close(&r);
}

// --- allocations that fail -----------------------------------------------------------------------

typedef struct {
    const rig *r;
    uint64_t want;
    const int32_t *ids;
} scene;

static mk_status restart(void *arg, mk_err *err) {
    const scene *s = arg;
    for (int pass = 0; pass < 2; pass++) {
        mk_prefix *p = NULL;
        mk_prefix_opts o = {.engine = s->r->engine, .dir = dir, .max_disk = BIG, .model_key = "m"};
        MK_TRY(mk_prefix_create(&o, &p, err));
        int64_t most;
        int seq = open_seq(s->r);  // by the reader, then by oneself
        (void)attach_on(s->r, p, seq, 1, s->ids, 200, &most);
        mk_engine_seq_close(s->r->engine, seq);
        assert_true(answer(s->r, p, 1, s->ids, 200, NULL) == s->want);
        mk_prefix_flush(p);
        mk_prefix_destroy(p);
    }
    each_path(remove_path, NULL);
    return MK_OK;
}

static void test_torture(void **state) {
    (void)state;
    rig r = rig_open(V3, (rig_opts){.n_ctx = 256, .n_seq = 1, .kv_type = MK_KV_Q8});
    int32_t ids[200];
    fill_ids(ids, 200, 67);
    scene s = {&r, answer(&r, NULL, 1, ids, 200, NULL), ids};
    int64_t n = mk_torture(restart, &s);
    printf("%lld allocations failed one by one\n", (long long)n);
    assert_true(n > 20);
    rig_close(&r);
}

#define IN_DIR(fn) cmocka_unit_test_setup_teardown(fn, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_DIR(test_restart),        IN_DIR(test_in_parts),   IN_DIR(test_small_memory),
        IN_DIR(test_colliding_keys), IN_DIR(test_every_byte), IN_DIR(test_damage_while_open),
        IN_DIR(test_lies),           IN_DIR(test_strangers),  IN_DIR(test_forget),
        IN_DIR(test_limit),          IN_DIR(test_kill),       IN_DIR(test_full_disk),
        IN_DIR(test_no_folder),      IN_DIR(test_torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
