// Which instruction sets this build has and this processor can run.
#include <stdio.h>
#include <string.h>

#include "ops/kernels.h"

extern const mk_kernels mk_kernels_scalar;

typedef struct {
    const mk_kernels *kernels;
    bool (*runs)(void);
} isa_row;

static bool always(void) {
    return true;
}

#if defined(__x86_64__) && !defined(MK_ONLY_SCALAR)
extern const mk_kernels mk_kernels_avx2, mk_kernels_avx512, mk_kernels_avx512bf16;

// These also ask the operating system (XGETBV) whether it saves the registers.
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
static bool has_avx512bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#elif defined(__aarch64__) && !defined(MK_ONLY_SCALAR)
#include <sys/auxv.h>
extern const mk_kernels mk_kernels_neon;
static bool has_dotprod(void) {
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
}
#endif

// From simple to fast; "auto" takes the last that runs.
static const isa_row isa_rows[] = {
    {&mk_kernels_scalar, always},
#if defined(__x86_64__) && !defined(MK_ONLY_SCALAR)
    {&mk_kernels_avx2, has_avx2},
    {&mk_kernels_avx512, has_avx512},
    {&mk_kernels_avx512bf16, has_avx512bf16},
#elif defined(__aarch64__) && !defined(MK_ONLY_SCALAR)
    {&mk_kernels_neon, has_dotprod},
#endif
};
#define N_ISA ((int)(sizeof isa_rows / sizeof isa_rows[0]))

static const char *const known_names[] = {"scalar", "avx2", "avx512", "avx512bf16", "neon"};

const mk_kernels *mk_kernels_at(int i) {
    for (int k = 0; k < N_ISA; k++) {
        if (isa_rows[k].runs() && i-- == 0) {
            return isa_rows[k].kernels;
        }
    }
    return NULL;
}

const char *mk_kernels_name(const mk_kernels *k) {
    return k->name;
}

// "scalar, avx2, ..." of what runs here.
static void list_here(char *buf, size_t n) {
    size_t len = 0;
    buf[0] = 0;
    for (int i = 0; mk_kernels_at(i) != NULL && len < n; i++) {
        len +=
            (size_t)snprintf(buf + len, n - len, "%s%s", i > 0 ? ", " : "", mk_kernels_at(i)->name);
    }
}

mk_status mk_kernels_find(const char *name, const mk_kernels **out, mk_err *err) {
    const mk_kernels *best = NULL;
    for (int i = 0; mk_kernels_at(i) != NULL; i++) {
        const mk_kernels *k = mk_kernels_at(i);
        if (strcmp(name, k->name) == 0) {
            *out = k;
            return MK_OK;
        }
        best = k;
    }
    if (strcmp(name, "auto") == 0) {
        *out = best;
        return MK_OK;
    }
    char here[128];
    list_here(here, sizeof here);
    for (size_t i = 0; i < sizeof known_names / sizeof known_names[0]; i++) {
        if (strcmp(name, known_names[i]) == 0) {
            return MK_FAIL(
                err, MK_EUSAGE,
                "instruction set %s: this processor or build does not have it; here: auto, %s",
                name, here);
        }
    }
    return MK_FAIL(
        err, MK_EUSAGE,
        "unknown instruction set \"%.40s\"; known: auto, scalar, avx2, avx512, avx512bf16, "
        "neon; here: %s",
        name, here);
}
