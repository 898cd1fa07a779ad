// Memory: checked sizes, aborting and trying allocators, arenas.
//
// mk_alloc is for bookkeeping whose size we choose: it aborts when memory is gone.  Anything whose
// size comes from a file, a flag or a request uses mk_try_alloc, which returns NULL.  All blocks
// are released with mk_free.  An arena owns many small blocks with one lifetime (process, model,
// session, step) and frees them together.  Threads: allocators are thread-safe; one arena belongs
// to one thread at a time.
#ifndef MK_BASE_ALLOC_H
#define MK_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

// true on success; false and *out untouched when a*b or a+b does not fit.
MK_WARN_UNUSED bool mk_mul_size(size_t a, size_t b, size_t *out);
MK_WARN_UNUSED bool mk_add_size(size_t a, size_t b, size_t *out);
MK_WARN_UNUSED bool mk_mul_i64(int64_t a, int64_t b, int64_t *out);

void *mk_alloc(size_t n_bytes);                       // aborts on failure; contents undefined
void *mk_zalloc(size_t n_bytes);                      // aborts on failure; zeroed
void *mk_try_alloc(size_t count, size_t elem_bytes);  // NULL on failure or overflow; zeroed
// NULL on failure, p stays valid; tail undefined
void *mk_try_realloc(void *p, size_t count, size_t elem_bytes);
void mk_free(void *p);                      // NULL is fine
char *mk_strdup(const char *s);             // aborts on failure
char *mk_strndup(const char *s, size_t n);  // aborts on failure; always NUL-terminated

// Page-aligned, zero-filled memory for weights and caches; NULL on failure.  Released with
// mk_big_free(p, n_bytes).
void *mk_big_alloc(size_t n_bytes);
void mk_big_free(void *p, size_t n_bytes);

// Test hook: the n-th mk_try_*, mk_big_alloc or mk_arena_try from now on fails, once (n = 1 is the
// next); 0 switches it off.
void mk_alloc_fail_at(int64_t n);
// What is left of that countdown: 0 when the failure has happened (or was never asked for).
int64_t mk_alloc_fail_left(void);
// Number of blocks handed out by this header and not yet freed (arena blocks count as one per
// chunk).
int64_t mk_alloc_live(void);
// Allocations made by this thread since it started; the engine checks that decoding makes none.
uint64_t mk_alloc_count_thread(void);
// Allocations that this thread was refused since it started, for want of memory and not of a cap:
// who builds freely, in jansson's values above all, compares it at the end of a piece of work.
uint64_t mk_alloc_refused_thread(void);

// --- arena ---------------------------------------------------------------------------------------
typedef struct mk_arena mk_arena;

// max_bytes: hard cap on the total, 0 = none
mk_arena *mk_arena_create(size_t chunk_bytes, size_t max_bytes);
void mk_arena_destroy(mk_arena *a);
// zeroed, 64-byte aligned if >= 64 bytes; NULL on cap
void *mk_arena_try(mk_arena *a, size_t count, size_t elem_bytes);
char *mk_arena_strndup(mk_arena *a, const char *s, size_t n);  // NULL on cap
// frees the contents, keeps the largest chunk
void mk_arena_reset(mk_arena *a);
size_t mk_arena_used(const mk_arena *a);

#endif
