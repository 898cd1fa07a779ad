// Limits, capabilities, Landlock and seccomp by plain system calls: the C library of older systems
// knows neither of the last two.
//
// Sources: linux/landlock.h and linux/seccomp.h of Linux 6.x; Documentation/userspace-api/landlock.
#include "train/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// --- Landlock ------------------------------------------------------------------------------------

// Numbers of the calls are the same on every processor.
enum { LL_CREATE = 444, LL_ADD = 445, LL_RESTRICT = 446 };
enum { LL_VERSION = 1, LL_PATH = 1 };

typedef struct {
    uint64_t fs, net, scoped;
} ll_ruleset;

// The kernel's struct is packed: 12 bytes.
typedef struct {
    uint64_t access;
    int32_t fd;
} __attribute__((packed)) ll_path;

enum {
    LL_WRITE = 1 << 1,
    // remove and make of every kind; rename and link elsewhere; truncate
    LL_MAKE = 0x1FF0,
    LL_REFER = 1 << 13,
    LL_TRUNCATE = 1 << 14,
    LL_NET = 3,    // bind, connect
    LL_SCOPE = 3,  // abstract sockets, signals
    ABI_REFER = 2,
    ABI_TRUNCATE = 3,
    ABI_NET = 4,
    ABI_SCOPE = 6
};

static bool allow_path(int ruleset, const char *path, uint64_t access) {
    ll_path rule = {access, open(path, O_PATH | O_CLOEXEC)};
    if (rule.fd < 0) {
        return false;
    }
    bool ok = syscall(LL_ADD, ruleset, LL_PATH, &rule, 0) == 0;
    (void)close(rule.fd);
    return ok;
}

static void init_landlock(mk_sandbox_box *box) {
    long abi = syscall(LL_CREATE, NULL, 0, LL_VERSION);
    box->ruleset = -1;
    if (abi < 1) {
        return;
    }
    uint64_t fs = LL_WRITE | LL_MAKE | (abi >= ABI_REFER ? LL_REFER : 0) |
                  (abi >= ABI_TRUNCATE ? LL_TRUNCATE : 0);
    ll_ruleset rules = {fs, abi >= ABI_NET ? LL_NET : 0, abi >= ABI_SCOPE ? LL_SCOPE : 0};
    size_t size = abi >= ABI_SCOPE ? sizeof rules : abi >= ABI_NET ? 16 : 8;
    int fd = (int)syscall(LL_CREATE, &rules, size, 0);
    if (fd < 0) {
        return;
    }
    bool ok = fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 &&
              allow_path(fd, "/dev/null", LL_WRITE | (fs & LL_TRUNCATE)) &&
              (!box->opts.scratch || allow_path(fd, box->opts.scratch, fs));
    if (!ok) {
        (void)close(fd);
        return;
    }
    box->ruleset = fd;
    box->scopes_signals = abi >= ABI_SCOPE;
}

// --- seccomp -------------------------------------------------------------------------------------

#if defined(__x86_64__)
#define ARCH        AUDIT_ARCH_X86_64
#define FOREIGN_ABI 0x40000000u  // x32 calls have this bit
#elif defined(__aarch64__)
#define ARCH        AUDIT_ARCH_AARCH64
#define FOREIGN_ABI 0u
#endif

#ifdef ARCH
// Refused always: the network, the memory and signals of others by file descriptor, leaving the
// process group, mounts and namespaces, memory outside of any limit, the kernel itself.
static const int refused[] = {
    SYS_socket,
    SYS_io_uring_setup,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_setsid,
    SYS_setpgid,
    SYS_unshare,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_memfd_create,
    SYS_shmget,
    SYS_msgget,
    SYS_semget,
    SYS_mq_open,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_open_by_handle_at,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_quotactl,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_tkill,
    424 /* pidfd_send_signal */,
    438 /* pidfd_getfd */,
    428 /* open_tree */,
    429 /* move_mount */,
    430 /* fsopen */,
    442 /* mount_setattr */,
};

enum {
    NEW_NAMESPACE = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                    CLONE_NEWPID | CLONE_NEWNET
};
enum { CALL_CLONE3 = 435 };

static void add(mk_sandbox_box *b, mk_bpf ins) {
    MK_ASSERT(b->n_filter < MK_SANDBOX_MAX_FILTER);
    b->filter[b->n_filter++] = ins;
}

static void load(mk_sandbox_box *b, size_t offset) {
    add(b, (mk_bpf){BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset});
}

static void answer(mk_sandbox_box *b, int error) {
    uint32_t what = error ? SECCOMP_RET_ERRNO | (uint32_t)error : SECCOMP_RET_ALLOW;
    add(b, (mk_bpf){BPF_RET | BPF_K, 0, 0, what});
}

// if (accumulator == k) return error
static void refuse_if(mk_sandbox_box *b, uint32_t k, int error) {
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 0, 1, k});
    answer(b, error);
}

// New processes and namespaces; clone3 hides its flags behind a pointer, so the C library must go
// back to clone.
static void refuse_clones(mk_sandbox_box *b) {
    refuse_if(b, CALL_CLONE3, ENOSYS);
#ifdef SYS_fork
    if (b->opts.one_process) {
        refuse_if(b, SYS_fork, EPERM);
        refuse_if(b, SYS_vfork, EPERM);
    }
#endif
    // clone: 4 or 6 instructions behind the jump
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 0, b->opts.one_process ? 6 : 4, SYS_clone});
    load(b, offsetof(struct seccomp_data, args[0]));
    add(b, (mk_bpf){BPF_JMP | BPF_JSET | BPF_K, 0, 1, NEW_NAMESPACE});
    answer(b, EPERM);
    if (b->opts.one_process) {
        add(b, (mk_bpf){BPF_JMP | BPF_JSET | BPF_K, 1, 0, CLONE_THREAD});
        answer(b, EPERM);
    }
    answer(b, 0);
}

// Signals by kill are for processes of one's own.  Where Landlock does not see to that, kill is
// refused, and tgkill (abort, raise) must name a process other than `parent`.
static void refuse_signals(mk_sandbox_box *b) {
    if (b->scopes_signals) {
        return;
    }
    refuse_if(b, SYS_kill, EPERM);
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_tgkill});
    load(b, offsetof(struct seccomp_data, args[0]));
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (uint32_t)getpid()});
    answer(b, EPERM);
    answer(b, 0);
}

// prlimit64 of another process
static void refuse_limits_of_others(mk_sandbox_box *b) {
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_prlimit64});
    load(b, offsetof(struct seccomp_data, args[0]));
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0});
    answer(b, EPERM);
    answer(b, 0);
}

static void init_seccomp(mk_sandbox_box *b) {
    _Static_assert(sizeof(mk_bpf) == sizeof(struct sock_filter), "as the kernel has it");
    load(b, offsetof(struct seccomp_data, arch));
    add(b, (mk_bpf){BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCH});
    add(b, (mk_bpf){BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS});
    load(b, offsetof(struct seccomp_data, nr));
    if (FOREIGN_ABI) {
        add(b, (mk_bpf){BPF_JMP | BPF_JSET | BPF_K, 0, 1, FOREIGN_ABI});
        answer(b, ENOSYS);
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        refuse_if(b, (uint32_t)refused[i], EPERM);
    }
    refuse_clones(b);
    refuse_signals(b);
    refuse_limits_of_others(b);
    answer(b, 0);
}

static bool has_seccomp(void) {
    return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
}
#else
static void init_seccomp(mk_sandbox_box *b) {
    (void)b;
}

static bool has_seccomp(void) {
    return false;
}
#endif

// --- the box -------------------------------------------------------------------------------------

mk_status mk_sandbox_init(mk_sandbox_box *box, const mk_sandbox_opts *opts, mk_err *err) {
    struct stat st;
    memset(box, 0, sizeof *box);
    box->opts = *opts;
    box->ruleset = -1;
    if (opts->scratch && (stat(opts->scratch, &st) != 0 || !S_ISDIR(st.st_mode))) {
        return MK_FAIL(err, MK_ENOTFOUND, "scratch: expected a directory, got '%s'", opts->scratch);
    }
    init_landlock(box);
    if (has_seccomp()) {
        init_seccomp(box);
    }
    box->missing = box->ruleset >= 0 && box->n_filter > 0 ? NULL
                   : box->n_filter > 0                    ? "Landlock (programs can write files)"
                   : box->ruleset >= 0 ? "seccomp (programs can use the network and fork)"
                                       : "Landlock and seccomp (programs can write files, use the "
                                         "network and fork)";
    return MK_OK;
}

void mk_sandbox_free(mk_sandbox_box *box) {
    if (box->ruleset >= 0) {
        (void)close(box->ruleset);
    }
    box->ruleset = -1;
}

static bool limit(int what, int64_t value) {
    struct rlimit r = {(rlim_t)value, (rlim_t)value}, old;
    // never more than what the parent has itself
    if (getrlimit((__rlimit_resource_t)what, &old) == 0 && old.rlim_max < r.rlim_max) {
        r.rlim_max = r.rlim_cur = old.rlim_max;
    }
    return setrlimit((__rlimit_resource_t)what, &r) == 0;
}

static bool set_capabilities(uint32_t keep) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct set[2] = {{keep, keep, keep}, {0, 0, 0}};
    return syscall(SYS_capset, &head, set) == 0;
}

// The kernel exempts root from the limit on processes, and exec gives root its powers back.  So a
// child of root becomes one of N_USER users that nobody is, a different one each time; what it
// keeps is that it may open the files that root may (Landlock still says where it may write).
// Plain system calls: those of the C library want every thread to follow.
static bool leave_root(const mk_sandbox_box *box) {
    enum { FIRST_USER = 60000, N_USER = 1000, NOROOT = 1, NOROOT_LOCKED = 2 };
    uint32_t keep = 1u << CAP_DAC_READ_SEARCH | (box->ruleset >= 0 ? 1u << CAP_DAC_OVERRIDE : 0);
    long user = FIRST_USER + getpid() % N_USER;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || syscall(SYS_setresuid, user, user, user) != 0) {
        // a container that has no other users
        return (prctl(PR_SET_SECUREBITS, NOROOT | NOROOT_LOCKED, 0, 0, 0) == 0 || errno == EPERM) &&
               set_capabilities(0);
    }
    for (int cap = 0; set_capabilities(keep) && cap < 32; cap++) {
        if (keep >> cap & 1) {
            (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
        }
    }
    return true;
}

bool mk_sandbox_limit(const mk_sandbox_box *box, int64_t tasks) {
    enum { N_FILES = 64 };
    const mk_sandbox_opts *o = &box->opts;
    return (o->cpu_seconds == 0 || limit(RLIMIT_CPU, o->cpu_seconds)) &&
           (o->memory_bytes == 0 || limit(RLIMIT_AS, o->memory_bytes)) &&
           (o->file_bytes == 0 || limit(RLIMIT_FSIZE, o->file_bytes)) && limit(RLIMIT_CORE, 0) &&
           limit(RLIMIT_NOFILE, N_FILES) && limit(RLIMIT_NPROC, tasks) &&
           prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           (geteuid() == 0 ? leave_root(box) : set_capabilities(0));
}

bool mk_sandbox_enter(const mk_sandbox_box *box, int64_t tasks) {
    if (!mk_sandbox_limit(box, tasks)) {
        return false;
    }
    if (box->ruleset >= 0 && syscall(LL_RESTRICT, box->ruleset, 0) != 0) {
        return false;
    }
    struct sock_fprog program = {(unsigned short)box->n_filter,
                                 (struct sock_filter *)(uintptr_t)box->filter};
    return box->n_filter == 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}
