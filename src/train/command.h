// A foreign program that is given a text and must print one number, kept in a box.
//
// The program is started without a shell (unless asked), with an environment of PATH, LANG and
// TMPDIR alone, no open files but its three streams, in a process group of its own that is killed
// when it ends or its time is up.  Around it:
//
//     time, processor time, memory and file size   rlimits and a clock
//     number of processes                          1: seccomp forbids new ones (threads may be);
//                                                  more: counted, all killed above it; rlimit
//     leaving the group, network, ptrace, mounts   seccomp (x86-64, ARM64)
//     writing files                                Landlock: nowhere, or below `scratch`
//     signals to others, TCP                       Landlock where the kernel has it
//     privileges                                   no_new_privs, no capabilities; root's programs
//                                                  run as a user that nobody is
//
// Reading files is allowed: the program, its libraries and its data lie anywhere.  What a kernel
// does not have is left out (sandbox = MK_SANDBOX_TRY, with one message) or refused
// (MK_SANDBOX_REQUIRE).
//
// A mk_command is made once and run any number of times, by any number of threads.
#ifndef MK_TRAIN_COMMAND_H
#define MK_TRAIN_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum { MK_SANDBOX_TRY, MK_SANDBOX_REQUIRE, MK_SANDBOX_OFF } mk_sandbox;

typedef struct {
    const char *text;     // words separated by spaces, "..." and '...' keep them together
    bool shell;           // text is a line for /bin/sh -c; more than one process is then normal
    const char *scratch;  // directory the program may write to; NULL = nowhere
    double seconds;       // of wall clock
    int64_t memory_mib;   // address space of each process; 0 = no limit
    int64_t file_mib;     // size of each file it writes
    int64_t processes;
    mk_sandbox sandbox;
} mk_command_opts;

#define MK_COMMAND_DEFAULTS                                                                        \
    ((mk_command_opts){.seconds = 10, .memory_mib = 1024, .file_mib = 16, .processes = 1})

typedef enum {
    MK_COMMAND_OK,
    MK_COMMAND_TIMEOUT,
    MK_COMMAND_FLOOD,      // more than 64 KiB of output
    MK_COMMAND_PROCESSES,  // more processes than allowed
    MK_COMMAND_FAILED,     // exit status, signal; why says which
    MK_COMMAND_OUTPUT      // not one number
} mk_command_end;

typedef struct {
    mk_command_end end;
    double value;   // MK_COMMAND_OK
    char why[256];  // else: one line, with the end of what it wrote to standard error
} mk_command_result;

typedef struct mk_command mk_command;

// Errors: MK_EUSAGE (text), MK_ENOTFOUND (no such program), MK_EUNSUPPORTED (MK_SANDBOX_REQUIRE).
mk_status mk_command_create(const mk_command_opts *opts, mk_command **out,
                            mk_err *err) MK_WARN_UNUSED;
void mk_command_destroy(mk_command *c);

// Runs the program with `text` as its standard input.  Errors: MK_EIO (no process, pipe or memory
// file could be made); what the program does is in *r.
mk_status mk_command_run(const mk_command *c, const char *text, size_t n, mk_command_result *r,
                         mk_err *err) MK_WARN_UNUSED;

#endif
