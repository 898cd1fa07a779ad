// Compiler attributes in one place, so that gnu extensions stay out of the rest of the code.
#ifndef MK_BASE_COMPILER_H
#define MK_BASE_COMPILER_H

#if defined(__GNUC__) || defined(__clang__)
#define MK_PRINTF(fmt_at, arg_at) __attribute__((format(printf, fmt_at, arg_at)))
#define MK_WARN_UNUSED            __attribute__((warn_unused_result))
#define MK_NORETURN               __attribute__((noreturn))
#define MK_INLINE                 static inline __attribute__((always_inline))
#define MK_LIKELY(x)              __builtin_expect(!!(x), 1)
#define MK_UNLIKELY(x)            __builtin_expect(!!(x), 0)
#define MK_UNUSED                 __attribute__((unused))
#else
#error "minke needs gcc or clang"
#endif

// The compiler must compute x, although nothing is done with it.
#define MK_KEEP(x) __asm__ volatile("" : : "r"(x))

#endif
