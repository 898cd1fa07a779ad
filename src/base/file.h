// Files: read-only maps, bounded reads, atomic writes, paths.
//
// A mk_map is an immutable view of a whole file; the pages belong to the page cache.  A file that
// shrinks while it is mapped raises SIGBUS: minke reports that and exits (base/file.c installs the
// handler once).
#ifndef MK_BASE_FILE_H
#define MK_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef struct {
    const uint8_t *data;  // NULL for an empty file
    size_t n_bytes;
    int64_t mtime_ns;  // last change of the file, when it was mapped
    char *path;        // owned
} mk_map;

// Maps a regular file.  Errors: MK_ENOTFOUND, MK_EIO (not a regular file, mmap failed).
mk_status mk_map_open(const char *path, mk_map *map, mk_err *err) MK_WARN_UNUSED;
void mk_map_close(mk_map *map);
// Asks for large pages, for files that are read over and over: a wish, which the system need not
// grant.
void mk_map_huge(const mk_map *map);
// Tells the kernel that a range was read for the last time (weights that were repacked).  Whole
// pages inside only.
void mk_map_forget(const mk_map *map, size_t offset, size_t n_bytes);

// Reads a whole file of at most max_bytes; *data (mk_free) has a NUL behind the last byte.  Works
// on pipes.
mk_status mk_file_read(const char *path, size_t max_bytes, char **data, size_t *n_bytes,
                       mk_err *err) MK_WARN_UNUSED;
mk_status mk_stream_read(FILE *f, size_t max_bytes, char **data, size_t *n_bytes,
                         mk_err *err) MK_WARN_UNUSED;

bool mk_path_is_file(const char *path);
bool mk_path_is_dir(const char *path);
// Makes one folder; it may be there.  Errors: MK_ENOTFOUND (its parent is not there), MK_EIO.
mk_status mk_folder_make(const char *dir, mk_err *err) MK_WARN_UNUSED;
// Makes a folder for the owner alone, and those above it.  Errors: MK_EIO.
mk_status mk_folder_make_private(const char *dir, mk_err *err) MK_WARN_UNUSED;
char *mk_path_join(const char *dir, const char *name);  // mk_free
// part behind the last '/'; points into path
const char *mk_path_base(const char *path);

// Atomic output: bytes go to PATH.tmp-PID; commit fsyncs and renames.  After any error or abort the
// old file is intact.
typedef struct mk_writer mk_writer;
mk_status mk_writer_open(const char *path, mk_writer **w, mk_err *err) MK_WARN_UNUSED;
// The same; a file that was not there will be its owner's alone (mode 0600).
mk_status mk_writer_open_private(const char *path, mk_writer **w, mk_err *err) MK_WARN_UNUSED;
mk_status mk_writer_write(mk_writer *w, const void *p, size_t n, mk_err *err) MK_WARN_UNUSED;
uint64_t mk_writer_offset(const mk_writer *w);
mk_status mk_writer_commit(mk_writer *w, mk_err *err) MK_WARN_UNUSED;  // frees w whatever happens
void mk_writer_abort(mk_writer *w);                                    // frees w; NULL is fine

#endif
