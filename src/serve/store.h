// What a service remembers beyond its own life: one SQLite database in the state directory.
//
// Keys, the ledger, kept answers and remembered reasoning are tables of it; the modules of those
// names own their queries, this one owns the file.  One connection with its own lock: a query holds
// the lock from mk_query_begin to mk_query_end, a transaction until it is committed, both may nest
// on one thread.
//
// 1. What was committed survives the end of the process, however it ends (WAL, synchronous NORMAL);
//    a power cut may take the last commits, never the file.
// 2. Several processes may share a directory: `minke keys` and `minke usage` beside a server, and
//    servers beside each other.  Each holds a shared lock on the file "lock" while it has the store
//    open.
// 3. A damaged database is set aside under another name, with a warning, and a new one begun; only
//    by a process that is alone, so that nobody writes into a file that has been moved.
// 4. Nothing but a checkpoint waits for the disk, and a checkpoint has a connection of its own:
//    whoever answers requests is not held up by it.
//
//     mk_query q;
//     mk_query_begin(&q, store, "SELECT name FROM keys WHERE id = ?1");
//     mk_query_text(&q, id);
//     while (mk_query_row(&q)) { use(mk_query_get_text(&q, 0)); }
//     MK_TRY(mk_query_end(&q, err));
#ifndef MK_SERVE_STORE_H
#define MK_SERVE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct mk_store mk_store;

enum { MK_STORE_BUSY_MS = 5000 };  // how long a write waits for another process

// dir: made if it is not there; NULL: in memory, gone with the process.  make = false: only a
// database that is there and whole.  Errors: MK_EIO, MK_ENOTFOUND (not there), MK_ECORRUPT (damaged
// and not to be set aside), MK_EUNSUPPORTED (written by a newer minke).
mk_status mk_store_open(const char *dir, bool make, mk_store **out, mk_err *err) MK_WARN_UNUSED;
void mk_store_close(mk_store *s);
// Where the damaged database went that was found when opening; NULL: there was none.
const char *mk_store_set_aside(const mk_store *s);
// Changes when another process has committed something.
int64_t mk_store_version(mk_store *s);
// Moves what was written from the log to the database.  Not from a thread that must not wait.
void mk_store_checkpoint(mk_store *s);

// --- queries -------------------------------------------------------------------------------------
// Parameters are bound in order; columns count from 0.  The first error sticks: the rest does
// nothing, and mk_query_end returns it.
typedef struct {
    mk_store *s;
    void *stmt;
    int rc, n_bound;
} mk_query;

// sql: of static storage; it is compiled once.
void mk_query_begin(mk_query *q, mk_store *s, const char *sql);
void mk_query_int(mk_query *q, int64_t v);
void mk_query_real(mk_query *q, double v);
void mk_query_text(mk_query *q, const char *v);  // NULL: null; valid until the query ends
void mk_query_blob(mk_query *q, const void *p, size_t n);
bool mk_query_row(mk_query *q);  // the next row, if there is one
int64_t mk_query_get_int(const mk_query *q, int column);
double mk_query_get_real(const mk_query *q, int column);
const char *mk_query_get_text(const mk_query *q, int column);  // "" for null; until the next row
const void *mk_query_get_blob(const mk_query *q, int column, size_t *n);
// Errors: MK_EIO (disk full, unreadable, locked by another process), MK_ECORRUPT, MK_ENOMEM.
mk_status mk_query_end(mk_query *q, mk_err *err) MK_WARN_UNUSED;
int64_t mk_store_changes(mk_store *s);  // rows that the last query changed

// All queries of this thread up to the end happen or do not.  mk_store_finish in every case after
// an mk_store_start that succeeded; st: of what was done between; returns it, or why it could not
// be committed.
mk_status mk_store_start(mk_store *s, mk_err *err) MK_WARN_UNUSED;
mk_status mk_store_finish(mk_store *s, mk_status st, mk_err *err) MK_WARN_UNUSED;

#endif
