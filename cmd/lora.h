// Options of adapters that are trained, and the adapters they ask for.
#ifndef MK_CMD_LORA_H
#define MK_CMD_LORA_H

#include "cmd.h"

typedef struct {
    int64_t rank;      // 0: no adapter, the whole model is trained
    const char *from;  // go on with this adapter; rank and the like are the file's
    const char *targets;
    double alpha;
    bool rslora, dora;
} cmd_lora_args;

static inline bool cmd_lora_wanted(const cmd_lora_args *a) {
    return a->rank > 0 || a->from;
}

#define CMD_OPT_LORA(T, field)                                                                     \
    {.name = "lora",                                                                               \
     .type = MK_OPT_I64,                                                                           \
     .offset = offsetof(T, field.rank),                                                            \
     .min = 1,                                                                                     \
     .max = MK_ADAPTER_MAX_RANK,                                                                   \
     .arg = "RANK",                                                                                \
     .help = "train a LoRA adapter of this rank; the model, of any type, stays as it is",          \
     .group = "Adapter"},                                                                          \
        {.name = "lora-alpha",                                                                     \
         .type = MK_OPT_F64,                                                                       \
         .offset = offsetof(T, field.alpha),                                                       \
         .min = 0,                                                                                 \
         .max = 1e6,                                                                               \
         .arg = "ALPHA",                                                                           \
         .help = "scale of the adapter times its rank; without it twice the rank"},                \
        {.name = "lora-targets",                                                                   \
         .type = MK_OPT_STR,                                                                       \
         .offset = offsetof(T, field.targets),                                                     \
         .arg = "LIST",                                                                            \
         .help = "linear layers by words of their names, as q_proj,mlp,experts; without it all"},  \
        {.name = "rslora",                                                                         \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.rslora),                                                      \
         .help = "scale alpha / sqrt(rank) instead of alpha / rank"},                              \
        {.name = "dora",                                                                           \
         .type = MK_OPT_FLAG,                                                                      \
         .offset = offsetof(T, field.dora),                                                        \
         .help = "train the lengths of the rows as well (DoRA)"},                                  \
    {                                                                                              \
        .name = "adapter", .type = MK_OPT_STR, .offset = offsetof(T, field.from), .arg = "PATH",   \
        .help = "go on with this adapter: a PEFT folder or a GGUF file"                            \
    }

// The adapters of a loaded model, new or read, not attached.  Errors: those of mk_adapters_create
// and mk_adapters_read, MK_EUSAGE (both a rank and a file).
mk_status cmd_lora_open(const cmd_lora_args *a, mk_model *m, mk_pool *pool, uint64_t seed,
                        mk_adapters **out, mk_err *err) MK_WARN_UNUSED;

#endif
