// The box around a child process, put up by the child itself between fork and exec: limits, no new
// privileges, Landlock for files, TCP and signals, seccomp for system calls.  A child of root
// becomes another user.
//
// Everything that allocates or opens happens in mk_sandbox_init, in the parent, once; the child
// calls only mk_sandbox_enter, which makes system calls and nothing else (other threads of the
// parent may have held locks at the fork).  Linux alone; what a kernel does not have is named.
#ifndef MK_TRAIN_SANDBOX_H
#define MK_TRAIN_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    int64_t cpu_seconds, memory_bytes, file_bytes;  // 0 = no limit
    bool one_process;                               // no new processes; threads may be
    const char *scratch;                            // may be written below; NULL = nowhere
} mk_sandbox_opts;

enum { MK_SANDBOX_MAX_FILTER = 256 };

// One instruction of classic BPF, as the kernel has it.
typedef struct {
    uint16_t code;
    uint8_t jt, jf;
    uint32_t k;
} mk_bpf;

typedef struct {
    mk_sandbox_opts opts;
    int ruleset;  // Landlock, or -1
    bool scopes_signals;
    int n_filter;  // 0 = no seccomp on this machine
    mk_bpf filter[MK_SANDBOX_MAX_FILTER];
    const char *missing;  // what this kernel cannot do, for a message; NULL = nothing
} mk_sandbox_box;

// Errors: MK_ENOTFOUND (scratch is no directory).
mk_status mk_sandbox_init(mk_sandbox_box *box, const mk_sandbox_opts *opts,
                          mk_err *err) MK_WARN_UNUSED;
void mk_sandbox_free(mk_sandbox_box *box);

// In the child.  `tasks`: how many processes and threads its user may have, all in all.  false: the
// child must exit.
bool mk_sandbox_enter(const mk_sandbox_box *box, int64_t tasks);
// The limits and the dropped privileges alone.
bool mk_sandbox_limit(const mk_sandbox_box *box, int64_t tasks);

#endif
