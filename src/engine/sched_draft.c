// Drafts from the job's own text: what followed the last three tokens the last time they came.
#include <string.h>

#include "base/alloc.h"
#include "engine/sched_int.h"

static uint32_t gram_hash(const int32_t *p) {
    uint64_t h = 0;
    for (int i = 0; i < MK_DRAFT_GRAM; i++) {
        h = (h ^ (uint32_t)p[i]) * 0x9E3779B97F4A7C15u;
    }
    return (uint32_t)(h >> 32);
}

mk_status mk_draft_init(mk_draft *d, int64_t n_ctx, mk_err *err) {
    uint32_t n = 1024;
    while ((int64_t)n < n_ctx && n < (1u << 20)) {
        n *= 2;
    }
    *d = (mk_draft){.mask = n - 1, .pause = 1};
    d->slot = mk_try_alloc(n, sizeof *d->slot);
    if (!d->slot) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for drafts");
    }
    memset(d->slot, 0, n * sizeof *d->slot);
    return MK_OK;
}

void mk_draft_free(mk_draft *d) {
    mk_free(d->slot);
    *d = (mk_draft){0};
}

// The last place wins: a slot is simply overwritten.
static void learn(mk_draft *d, const int32_t *ids, int64_t len) {
    int64_t from = d->n_done < MK_DRAFT_GRAM ? MK_DRAFT_GRAM : d->n_done;
    for (int64_t i = from; i < len; i++) {
        d->slot[gram_hash(ids + i - MK_DRAFT_GRAM) & d->mask] = (int32_t)i;
    }
    d->n_done = len;
}

int mk_draft_propose(mk_draft *d, const int32_t *ids, int64_t len, int n, int32_t *out) {
    learn(d, ids, len);
    if (d->wait > 0 || len < MK_DRAFT_GRAM) {
        d->wait -= d->wait > 0;
        return 0;
    }
    const int32_t *last = ids + len - MK_DRAFT_GRAM;
    int64_t at = d->slot[gram_hash(last) & d->mask];
    if (at < MK_DRAFT_GRAM || memcmp(ids + at - MK_DRAFT_GRAM, last, MK_DRAFT_GRAM * 4) != 0) {
        return 0;
    }
    int k = 0;
    for (; k < n && at + k < len; k++) {
        out[k] = ids[at + k];
    }
    return k;
}

void mk_draft_result(mk_draft *d, int n, int n_accepted) {
    if (2 * n_accepted >= n) {
        d->pause = 1;
        return;
    }
    d->wait = d->pause;
    d->pause = d->pause * 2 > MK_DRAFT_MAX_PAUSE ? MK_DRAFT_MAX_PAUSE : d->pause * 2;
}
