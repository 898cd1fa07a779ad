// The database file: opening, checking, setting aside; and queries on it.
#include "serve/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"

enum { MAX_STATEMENTS = 64, SCHEMA_VERSION = 1 };
// pages of the log after which a writer moves them itself, if nobody calls mk_store_checkpoint
#define LOG_PAGES "16384"
// a larger database is not read whole when it is opened
#define CHECK_MAX ((int64_t)1 << 30)

static const char schema[] =
    "CREATE TABLE keys(id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,"
    " scopes INTEGER NOT NULL, per_minute INTEGER NOT NULL, tokens_per_day INTEGER NOT NULL,"
    " at_once INTEGER NOT NULL, created INTEGER NOT NULL, revoked INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE ledger(id INTEGER PRIMARY KEY, time INTEGER NOT NULL, key TEXT NOT NULL,"
    " model TEXT NOT NULL, dialect TEXT NOT NULL, prompt INTEGER NOT NULL,"
    " cached INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,"
    " queue_ms REAL NOT NULL, prompt_ms REAL NOT NULL, generation_ms REAL NOT NULL,"
    " status INTEGER NOT NULL, stop TEXT NOT NULL);"
    "CREATE INDEX ledger_time ON ledger(time);"
    "CREATE TABLE kept(id TEXT PRIMARY KEY, owner TEXT NOT NULL, created INTEGER NOT NULL,"
    " size INTEGER NOT NULL, response TEXT NOT NULL, messages TEXT NOT NULL);"
    "CREATE INDEX kept_age ON kept(created);"
    "CREATE TABLE thought(id INTEGER PRIMARY KEY, used INTEGER NOT NULL, size INTEGER NOT NULL,"
    " text TEXT NOT NULL);"
    "CREATE INDEX thought_age ON thought(used);"
    "CREATE TABLE thought_key(key BLOB PRIMARY KEY, thought INTEGER NOT NULL"
    " REFERENCES thought(id) ON DELETE CASCADE) WITHOUT ROWID;"
    "CREATE INDEX thought_key_of ON thought_key(thought);"
    // bytes of a table together, so that a limit costs no scan
    "CREATE TABLE total(name TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO total VALUES('kept', 0), ('thought', 0);"
    "CREATE TRIGGER kept_more AFTER INSERT ON kept BEGIN"
    " UPDATE total SET bytes = bytes + new.size WHERE name = 'kept'; END;"
    "CREATE TRIGGER kept_less AFTER DELETE ON kept BEGIN"
    " UPDATE total SET bytes = bytes - old.size WHERE name = 'kept'; END;"
    "CREATE TRIGGER thought_more AFTER INSERT ON thought BEGIN"
    " UPDATE total SET bytes = bytes + new.size WHERE name = 'thought'; END;"
    "CREATE TRIGGER thought_less AFTER DELETE ON thought BEGIN"
    " UPDATE total SET bytes = bytes - old.size WHERE name = 'thought'; END;";

struct mk_store {
    sqlite3 *db, *mover;   // mover: for checkpoints alone; NULL in memory
    pthread_mutex_t lock;  // recursive
    int lock_fd;
    bool alone;  // nobody else had it open when it was opened
    char *path, *set_aside;
    struct {
        const char *sql;
        sqlite3_stmt *stmt;
    } made[MAX_STATEMENTS];
    int n_made;
};

// --- errors --------------------------------------------------------------------------------------

static mk_status status_of(int rc) {
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return MK_OK;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return MK_ECORRUPT;
    case SQLITE_NOMEM:
        return MK_ENOMEM;
    default:
        return MK_EIO;
    }
}

static mk_status fail(const mk_store *s, int rc, mk_err *err) {
    const char *why = (rc & 0xff) == SQLITE_BUSY ? "another process is writing to it"
                      : s->db                    ? sqlite3_errmsg(s->db)
                                                 : sqlite3_errstr(rc);
    return MK_FAIL(err, status_of(rc), "%s: %s", s->path, why);
}

// --- one connection ------------------------------------------------------------------------------

static int run(sqlite3 *db, const char *sql) {
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

// First column of the first row, as a number or as a text.
static int read_number(sqlite3 *db, const char *sql, int64_t *out) {
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(st) : rc;
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    int end = sqlite3_finalize(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? end : rc;
}

static int check_whole(sqlite3 *db) {
    int64_t pages = 0, page = 0;
    sqlite3_stmt *st = NULL;
    int rc = read_number(db, "PRAGMA page_count", &pages);
    rc = rc == SQLITE_OK ? read_number(db, "PRAGMA page_size", &page) : rc;
    if (rc != SQLITE_OK || pages > CHECK_MAX / (page > 0 ? page : 1)) {
        return rc;
    }
    rc = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL);
    rc = rc == SQLITE_OK ? sqlite3_step(st) : rc;
    if (rc == SQLITE_ROW) {
        const char *said = (const char *)sqlite3_column_text(st, 0);
        rc = said && strcmp(said, "ok") == 0 ? SQLITE_OK : SQLITE_CORRUPT;
    }
    (void)sqlite3_finalize(st);
    return rc;
}

static int set_up(sqlite3 *db) {
    // a damaged file must be found out, not worked with; nothing in a file may run code
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_busy_timeout(db, MK_STORE_BUSY_MS);
    return run(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA trusted_schema=0;"
                   "PRAGMA cell_size_check=1; PRAGMA foreign_keys=1; PRAGMA cache_size=-8192;"
                   "PRAGMA wal_autocheckpoint=" LOG_PAGES);
}

static int connect(const char *path, sqlite3 **db) {
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int rc = sqlite3_open_v2(path, db, flags, NULL);
    return rc == SQLITE_OK ? set_up(*db) : rc;
}

static void disconnect(mk_store *s) {
    for (int i = 0; i < s->n_made; i++) {
        (void)sqlite3_finalize(s->made[i].stmt);
    }
    s->n_made = 0;
    (void)sqlite3_close(s->mover);
    (void)sqlite3_close(s->db);
    s->mover = s->db = NULL;
}

// Several processes may come here at once: the first makes the tables.
static mk_status make_tables(mk_store *s, mk_err *err) {
    int64_t version = 0;
    int rc = run(s->db, "BEGIN IMMEDIATE");
    rc = rc == SQLITE_OK ? read_number(s->db, "PRAGMA user_version", &version) : rc;
    if (rc == SQLITE_OK && version == 0) {
        rc = run(s->db, schema);
        rc = rc == SQLITE_OK ? run(s->db, "PRAGMA user_version=1") : rc;
    }
    rc = rc == SQLITE_OK ? run(s->db, "COMMIT") : rc;
    if (rc != SQLITE_OK) {
        mk_status st = fail(s, rc, err);
        (void)run(s->db, "ROLLBACK");
        return st;
    }
    return version <= SCHEMA_VERSION
               ? MK_OK
               : MK_FAIL(err, MK_EUNSUPPORTED,
                         "%s was written by a newer minke (version %lld of its tables, this one "
                         "knows %d); use another --state-dir",
                         s->path, (long long)version, SCHEMA_VERSION);
}

static mk_status open_database(mk_store *s, mk_err *err) {
    int rc = connect(s->path, &s->db);
    if (rc == SQLITE_OK && s->alone) {
        rc = check_whole(s->db);
    }
    if (rc != SQLITE_OK) {
        return status_of(rc) == MK_ECORRUPT ? MK_FAIL(err, MK_ECORRUPT, "%s is damaged", s->path)
                                            : fail(s, rc, err);
    }
    return make_tables(s, err);
}

// --- the directory -------------------------------------------------------------------------------

// A file for its owner alone; SQLite gives its log the same rights.
static int make_file(const char *path) {
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static mk_status take_lock(mk_store *s, const char *dir, mk_err *err) {
    char *path = mk_path_join(dir, "lock");
    s->lock_fd = make_file(path);
    int rc = s->lock_fd < 0 ? -1 : flock(s->lock_fd, LOCK_EX | LOCK_NB);
    s->alone = rc == 0;
    while (s->lock_fd >= 0 && rc != 0 && (errno == EWOULDBLOCK || errno == EINTR)) {
        rc = flock(s->lock_fd, LOCK_SH);  // whoever is alone is so for the moment of opening only
    }
    mk_status st = rc == 0 ? MK_OK : MK_FAIL(err, MK_EIO, "%s: %s", path, strerror(errno));
    mk_free(path);
    return st;
}

static void set_aside(mk_store *s) {
    static const char *const ends[] = {"", "-wal", "-shm"};
    char to[64];
    snprintf(to, sizeof to, ".damaged-%lld", (long long)time(NULL));
    for (size_t i = 0; i < 3; i++) {
        mk_buf from, dest;
        mk_buf_init(&from, 1 << 16);
        mk_buf_init(&dest, 1 << 16);
        mk_buf_printf(&from, "%s%s", s->path, ends[i]);
        mk_buf_printf(&dest, "%s%s%s", s->path, to, ends[i]);
        if (!from.failed && !dest.failed && rename(from.data, dest.data) == 0 && i == 0) {
            s->set_aside = mk_strdup(dest.data);
        }
        mk_buf_free(&from);
        mk_buf_free(&dest);
    }
}

static mk_status open_on_disk(mk_store *s, const char *dir, bool make, mk_err *err) {
    if (!make && !mk_path_is_file(s->path)) {
        return MK_FAIL(err, MK_ENOTFOUND, "%s is not there: nothing has been kept in this folder",
                       s->path);
    }
    MK_TRY(mk_folder_make_private(dir, err));
    MK_TRY(take_lock(s, dir, err));
    int fd = make_file(s->path);
    if (fd < 0) {
        return MK_FAIL(err, MK_EIO, "%s: %s", s->path, strerror(errno));
    }
    close(fd);
    mk_status st = open_database(s, err);
    if (st == MK_ECORRUPT && !s->alone) {
        return mk_err_prefix(err, "end the other processes that use it, then start again");
    }
    if (st == MK_ECORRUPT && make) {
        disconnect(s);
        set_aside(s);
        st = open_database(s, err);
        mk_log_msg(MK_LOG_WARN, "%s was damaged; it is now %s, and a new one begins", s->path,
                   s->set_aside ? s->set_aside : "gone");
    }
    if (st == MK_OK && connect(s->path, &s->mover) != SQLITE_OK) {
        (void)sqlite3_close(s->mover);  // then writers move the log themselves
        s->mover = NULL;
    }
    (void)flock(s->lock_fd, LOCK_SH);
    return st;
}

// --- life ----------------------------------------------------------------------------------------

mk_status mk_store_open(const char *dir, bool make, mk_store **out, mk_err *err) {
    mk_store *s = mk_zalloc(sizeof *s);
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&s->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    s->lock_fd = -1;
    s->path = dir ? mk_path_join(dir, "state.db") : mk_strdup(":memory:");
    mk_status st = dir ? open_on_disk(s, dir, make, err) : open_database(s, err);
    if (st != MK_OK) {
        mk_store_close(s);
        return st;
    }
    *out = s;
    return MK_OK;
}

void mk_store_close(mk_store *s) {
    if (!s) {
        return;
    }
    disconnect(s);
    if (s->lock_fd >= 0) {
        close(s->lock_fd);
    }
    pthread_mutex_destroy(&s->lock);
    mk_free(s->path);
    mk_free(s->set_aside);
    mk_free(s);
}

const char *mk_store_set_aside(const mk_store *s) {
    return s->set_aside;
}

int64_t mk_store_version(mk_store *s) {
    int64_t v = 0;
    mk_query q;
    mk_err err;
    mk_query_begin(&q, s, "PRAGMA data_version");
    if (mk_query_row(&q)) {
        v = mk_query_get_int(&q, 0);
    }
    return mk_query_end(&q, &err) == MK_OK ? v : -1;
}

void mk_store_checkpoint(mk_store *s) {
    if (s->mover) {
        (void)sqlite3_wal_checkpoint_v2(s->mover, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    }
}

// --- queries -------------------------------------------------------------------------------------

static sqlite3_stmt *statement(mk_store *s, const char *sql, int *rc) {
    for (int i = 0; i < s->n_made; i++) {
        if (s->made[i].sql == sql) {
            return s->made[i].stmt;
        }
    }
    MK_ASSERT(s->n_made < MAX_STATEMENTS);
    sqlite3_stmt *stmt = NULL;
    *rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (*rc == SQLITE_OK) {
        s->made[s->n_made].sql = sql;
        s->made[s->n_made++].stmt = stmt;
    }
    return stmt;
}

void mk_query_begin(mk_query *q, mk_store *s, const char *sql) {
    pthread_mutex_lock(&s->lock);
    *q = (mk_query){.s = s};
    q->stmt = statement(s, sql, &q->rc);
}

void mk_query_int(mk_query *q, int64_t v) {
    q->rc = q->rc == SQLITE_OK ? sqlite3_bind_int64(q->stmt, ++q->n_bound, v) : q->rc;
}

void mk_query_real(mk_query *q, double v) {
    q->rc = q->rc == SQLITE_OK ? sqlite3_bind_double(q->stmt, ++q->n_bound, v) : q->rc;
}

void mk_query_text(mk_query *q, const char *v) {
    q->rc =
        q->rc == SQLITE_OK ? sqlite3_bind_text(q->stmt, ++q->n_bound, v, -1, SQLITE_STATIC) : q->rc;
}

void mk_query_blob(mk_query *q, const void *p, size_t n) {
    q->rc = q->rc == SQLITE_OK ? sqlite3_bind_blob64(q->stmt, ++q->n_bound, p, n, SQLITE_STATIC)
                               : q->rc;
}

bool mk_query_row(mk_query *q) {
    if (q->rc != SQLITE_OK && q->rc != SQLITE_ROW) {
        return false;
    }
    q->rc = sqlite3_step(q->stmt);
    return q->rc == SQLITE_ROW;
}

int64_t mk_query_get_int(const mk_query *q, int column) {
    return sqlite3_column_int64(q->stmt, column);
}

double mk_query_get_real(const mk_query *q, int column) {
    return sqlite3_column_double(q->stmt, column);
}

const char *mk_query_get_text(const mk_query *q, int column) {
    const char *p = (const char *)sqlite3_column_text(q->stmt, column);
    return p ? p : "";
}

const void *mk_query_get_blob(const mk_query *q, int column, size_t *n) {
    const void *p = sqlite3_column_blob(q->stmt, column);
    *n = p ? (size_t)sqlite3_column_bytes(q->stmt, column) : 0;
    return p;
}

mk_status mk_query_end(mk_query *q, mk_err *err) {
    if (q->rc == SQLITE_OK) {  // nobody asked for rows
        (void)mk_query_row(q);
    }
    bool good = q->rc == SQLITE_OK || q->rc == SQLITE_ROW || q->rc == SQLITE_DONE;
    mk_status st = good ? MK_OK : fail(q->s, q->rc, err);
    if (q->stmt) {
        // a column that could not be had is known only now
        int rc = sqlite3_reset(q->stmt);
        st = st == MK_OK && rc != SQLITE_OK ? fail(q->s, rc, err) : st;
        (void)sqlite3_clear_bindings(q->stmt);
    }
    pthread_mutex_unlock(&q->s->lock);
    return st;
}

int64_t mk_store_changes(mk_store *s) {
    return sqlite3_changes64(s->db);
}

mk_status mk_store_start(mk_store *s, mk_err *err) {
    pthread_mutex_lock(&s->lock);
    mk_query q;
    mk_query_begin(&q, s, "BEGIN IMMEDIATE");
    mk_status st = mk_query_end(&q, err);
    if (st != MK_OK) {
        pthread_mutex_unlock(&s->lock);
    }
    return st;
}

mk_status mk_store_finish(mk_store *s, mk_status st, mk_err *err) {
    if (st == MK_OK) {
        mk_query q;
        mk_query_begin(&q, s, "COMMIT");
        st = mk_query_end(&q, err);
    }
    // a statement that failed badly has rolled back by itself
    if (st != MK_OK && !sqlite3_get_autocommit(s->db)) {
        (void)run(s->db, "ROLLBACK");
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}
