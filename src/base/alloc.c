// All memory of the program passes through here, so that it can be counted, bounded and made to
// fail.
//
// Counters are the only state: `live` (blocks not yet freed), `fail_left` (test hook) and two
// counters per thread.
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/status.h"

static atomic_int_least64_t live;
static atomic_int_least64_t fail_left;
static _Thread_local uint64_t thread_count, thread_refused;

bool mk_mul_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

bool mk_add_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

bool mk_mul_i64(int64_t a, int64_t b, int64_t *out) {
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

// --- counting and failing ------------------------------------------------------------------------

void mk_alloc_fail_at(int64_t n) {
    atomic_store(&fail_left, n);
}

int64_t mk_alloc_fail_left(void) {
    return atomic_load(&fail_left);
}

int64_t mk_alloc_live(void) {
    return atomic_load(&live);
}

uint64_t mk_alloc_count_thread(void) {
    return thread_count;
}

uint64_t mk_alloc_refused_thread(void) {
    return thread_refused;
}

static void *refuse(void) {
    thread_refused++;
    return NULL;
}

// true exactly once, when the countdown reaches its end.
static bool must_fail(void) {
    int64_t left = atomic_load_explicit(&fail_left, memory_order_relaxed);
    while (MK_UNLIKELY(left > 0)) {
        if (atomic_compare_exchange_weak(&fail_left, &left, left - 1)) {
            return left == 1;
        }
    }
    return false;
}

static void *counted(void *p) {
    if (p) {
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
        thread_count++;
    }
    return p;
}

static void *or_die(void *p, size_t n_bytes) {
    if (!p) {
        fprintf(stderr, "minke: out of memory (%zu bytes)\n", n_bytes);
        abort();
    }
    return counted(p);
}

// --- blocks --------------------------------------------------------------------------------------

// malloc(0) may return NULL; ours never does on success.
static size_t at_least_one(size_t n) {
    return n ? n : 1;
}

void *mk_alloc(size_t n_bytes) {
    return or_die(malloc(at_least_one(n_bytes)), n_bytes);
}

void *mk_zalloc(size_t n_bytes) {
    return or_die(calloc(1, at_least_one(n_bytes)), n_bytes);
}

void *mk_try_alloc(size_t count, size_t elem_bytes) {
    size_t n;
    if (must_fail() || !mk_mul_size(count, elem_bytes, &n) || n > PTRDIFF_MAX) {
        return refuse();
    }
    void *p = counted(calloc(1, at_least_one(n)));
    return p ? p : refuse();
}

void *mk_try_realloc(void *p, size_t count, size_t elem_bytes) {
    size_t n;
    if (must_fail() || !mk_mul_size(count, elem_bytes, &n) || n > PTRDIFF_MAX) {
        return refuse();
    }
    void *q = realloc(p, at_least_one(n));
    if (q && !p) {
        return counted(q);
    }
    thread_count += q != NULL;
    return q ? q : refuse();
}

void mk_free(void *p) {
    if (p) {
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
        free(p);
    }
}

char *mk_strndup(const char *s, size_t n) {
    char *d = mk_alloc(n + 1);
    memcpy(d, s, n);
    d[n] = '\0';
    return d;
}

char *mk_strdup(const char *s) {
    return mk_strndup(s, strlen(s));
}

// --- pages ---------------------------------------------------------------------------------------

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

void *mk_big_alloc(size_t n_bytes) {
    if (must_fail() || n_bytes > PTRDIFF_MAX) {
        return refuse();
    }
    n_bytes = at_least_one(n_bytes);
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return refuse();
    }
    if (n_bytes >= HUGE_PAGE_BYTES) {
        madvise(p, n_bytes, MADV_HUGEPAGE);  // a wish: fewer TLB misses on weights; refusal is fine
    }
    return counted(p);
}

void mk_big_free(void *p, size_t n_bytes) {
    if (p) {
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
        munmap(p, at_least_one(n_bytes));
    }
}

// --- arena ---------------------------------------------------------------------------------------
//
//   arena -> chunk (newest) -> chunk -> ... -> NULL      each: [header, padded to 64][contents ... used | free ... cap]
//
// Only the newest chunk is filled.  Invariants: used <= cap in every chunk; a->used is the sum of
// all used, padding included, and never exceeds max_bytes (if that is not 0).

enum { ARENA_ALIGN = 64, ARENA_SMALL_ALIGN = 16 };

typedef struct chunk {
    struct chunk *next;
    size_t cap, used;
} chunk;

struct mk_arena {
    chunk *top;
    size_t chunk_bytes, max_bytes, used;
};

_Static_assert(sizeof(chunk) <= ARENA_ALIGN, "the chunk header fits in front of the contents");

mk_arena *mk_arena_create(size_t chunk_bytes, size_t max_bytes) {
    mk_arena *a = mk_zalloc(sizeof *a);
    a->chunk_bytes = chunk_bytes;
    a->max_bytes = max_bytes;
    return a;
}

static void free_chunks(chunk *c) {
    while (c) {
        chunk *next = c->next;
        mk_free(c);
        c = next;
    }
}

void mk_arena_destroy(mk_arena *a) {
    if (a) {
        free_chunks(a->top);
        mk_free(a);
    }
}

static bool push_chunk(mk_arena *a, size_t need) {
    size_t cap = need > a->chunk_bytes ? need : a->chunk_bytes;
    size_t total;
    if (!mk_add_size(cap, 2 * ARENA_ALIGN - 1, &total)) {
        return false;
    }
    total &= ~(size_t)(ARENA_ALIGN - 1);  // aligned_alloc wants a multiple of the alignment
    chunk *c = total > PTRDIFF_MAX ? NULL : counted(aligned_alloc(ARENA_ALIGN, total));
    if (!c) {
        return false;
    }
    *c = (chunk){.next = a->top, .cap = total - ARENA_ALIGN, .used = 0};
    a->top = c;
    return true;
}

static size_t padding(const chunk *c, size_t align) {
    return (align - c->used % align) % align;
}

void *mk_arena_try(mk_arena *a, size_t count, size_t elem_bytes) {
    size_t n;
    if (must_fail() || !mk_mul_size(count, elem_bytes, &n)) {
        return refuse();
    }
    n = at_least_one(n);
    size_t align = n >= ARENA_ALIGN ? ARENA_ALIGN : ARENA_SMALL_ALIGN;
    size_t pad = a->top ? padding(a->top, align) : 0;
    bool fits =
        a->top && pad <= a->top->cap - a->top->used && n <= a->top->cap - a->top->used - pad;
    pad = fits ? pad : 0;
    size_t total;
    if (!mk_add_size(a->used, pad, &total) || !mk_add_size(total, n, &total) ||
        (a->max_bytes && total > a->max_bytes)) {
        return NULL;
    }
    if (!fits && !push_chunk(a, n)) {
        return refuse();
    }
    chunk *c = a->top;
    char *p = (char *)c + ARENA_ALIGN + c->used + pad;
    c->used += pad + n;
    a->used = total;
    return memset(p, 0, n);
}

char *mk_arena_strndup(mk_arena *a, const char *s, size_t n) {
    char *d = n < SIZE_MAX ? mk_arena_try(a, n + 1, 1) : NULL;
    if (d) {
        memcpy(d, s, n);
        d[n] = '\0';
    }
    return d;
}

void mk_arena_reset(mk_arena *a) {
    chunk *keep = a->top;
    for (chunk *c = a->top; c; c = c->next) {
        keep = c->cap > keep->cap ? c : keep;
    }
    for (chunk *c = a->top; c;) {
        chunk *next = c->next;
        if (c != keep) {
            mk_free(c);
        }
        c = next;
    }
    if (keep) {
        keep->next = NULL;
        keep->used = 0;
    }
    a->top = keep;
    a->used = 0;
}

size_t mk_arena_used(const mk_arena *a) {
    return a->used;
}
