// Makes every allocation of a scenario fail once, and checks that nothing leaks and nothing else
// happens.
//
//     static mk_status scenario(void *arg, mk_err *err) { ... return status of the code under test ... }
//     mk_torture(scenario, &arg);
//
// The scenario runs with the n-th mk_try_* failing, for n = 1, 2, ... until a run ends without
// reaching the n-th.  A scenario that met the failure must return MK_ENOMEM or survive it (MK_OK);
// both times mk_alloc_live must be back where it was, so the scenario frees what it made.  Include
// after cmocka.h.
#ifndef MK_TESTS_TORTURE_H
#define MK_TESTS_TORTURE_H

#include "base/alloc.h"
#include "base/status.h"

enum { MK_TORTURE_MAX = 100000 };

// Returns the number of allocations that were made to fail.
static inline int64_t mk_torture(mk_status (*scenario)(void *arg, mk_err *err), void *arg) {
    for (int64_t n = 1; n < MK_TORTURE_MAX; n++) {
        mk_err err = {0};
        int64_t live = mk_alloc_live();
        mk_alloc_fail_at(n);
        mk_status st = scenario(arg, &err);
        bool failed = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        if (mk_alloc_live() != live) {
            fail_msg("%lld blocks leaked when allocation %lld failed",
                     (long long)(mk_alloc_live() - live), (long long)n);
        }
        if (!failed) {
            if (st != MK_OK) {
                fail_msg("the scenario itself fails: %s", err.msg);
            }
            return n - 1;
        }
        if (st != MK_OK && st != MK_ENOMEM) {
            fail_msg("allocation %lld failed: expected MK_ENOMEM, got %s: %s", (long long)n,
                     mk_status_name(st), err.msg);
        }
    }
    fail_msg("no end after %d allocations", MK_TORTURE_MAX);
    return -1;
}

#endif
