// The adapters that options ask for.
#include "lora.h"

mk_status cmd_lora_open(const cmd_lora_args *a, mk_model *m, mk_pool *pool, uint64_t seed,
                        mk_adapters **out, mk_err *err) {
    if (a->from && a->rank > 0) {
        return MK_FAIL(err, MK_EUSAGE,
                       "--adapter %s has its own rank; expected it or --lora, not both", a->from);
    }
    if (a->from) {
        MK_TRY(mk_adapters_read(m, a->from, 1, pool, out, err));
        mk_params_refresh(mk_adapters_params(*out), pool);
        return MK_OK;
    }
    mk_adapter_spec spec = {.rank = a->rank,
                            .alpha = a->alpha,
                            .rslora = a->rslora,
                            .dora = a->dora,
                            .targets = a->targets,
                            .seed = seed};
    return mk_adapters_create(m, &spec, pool, out, err);
}
