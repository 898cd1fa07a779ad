// Opening a ready model: files, tokenizer, template, memory plan, weights, engine.
#include "chat/llm.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "chat/llm_int.h"
#include "model/pack_cache.h"

#define SMALLEST_WINDOW  512
#define CONFIG_MAX_BYTES ((size_t)1 << 20)

// --- recommended sampling ------------------------------------------------------------------------

static mk_status sampling_from_json(const json_t *g, mk_sample_params *p, mk_err *err) {
    double temp = (double)p->temperature, top_p = (double)p->top_p, min_p = (double)p->min_p;
    double rep = (double)p->repetition_penalty;
    int64_t top_k = p->top_k;
    bool do_sample = true;
    MK_TRY(mk_json_get_f64(g, "temperature", &temp, err));
    MK_TRY(mk_json_get_f64(g, "top_p", &top_p, err));
    MK_TRY(mk_json_get_f64(g, "min_p", &min_p, err));
    MK_TRY(mk_json_get_f64(g, "repetition_penalty", &rep, err));
    MK_TRY(mk_json_get_i64(g, "top_k", 0, INT32_MAX, &top_k, err));
    MK_TRY(mk_json_get_bool(g, "do_sample", &do_sample, err));
    p->temperature = do_sample ? (float)temp : 0;
    p->top_p = (float)top_p;
    p->min_p = (float)min_p;
    p->repetition_penalty = (float)rep;
    p->top_k = (int32_t)top_k;
    return MK_OK;
}

// The keys that GGUF files carry for the same.
static mk_status sampling_from_gguf(const mk_gguf *g, mk_sample_params *p, mk_err *err) {
    double temp = (double)p->temperature, top_p = (double)p->top_p, min_p = (double)p->min_p;
    double rep = (double)p->repetition_penalty;
    int64_t top_k = p->top_k;
    MK_TRY(mk_gguf_get_f64(g, "general.sampling.temp", &temp, err));
    MK_TRY(mk_gguf_get_f64(g, "general.sampling.top_p", &top_p, err));
    MK_TRY(mk_gguf_get_f64(g, "general.sampling.min_p", &min_p, err));
    MK_TRY(mk_gguf_get_f64(g, "general.sampling.penalty_repeat", &rep, err));
    MK_TRY(mk_gguf_get_i64(g, "general.sampling.top_k", 0, INT32_MAX, &top_k, err));
    p->temperature = (float)temp;
    p->top_p = (float)top_p;
    p->min_p = (float)min_p;
    p->repetition_penalty = (float)rep;
    p->top_k = (int32_t)top_k;
    return MK_OK;
}

// Ids that may be chosen: rows of the output matrix beyond the tokenizer are padding, and so are
// the unused tokens that converters put at the end of a GGUF file's list.  0 = all.
static int64_t real_tokens(const mk_llm *llm) {
    int64_t n = mk_tokenizer_n_vocab(llm->tokenizer);
    while (n > 0 && mk_tokenizer_type(llm->tokenizer, (int32_t)(n - 1)) == MK_TOKEN_UNUSED) {
        n--;
    }
    return n < llm->model->hp.n_vocab ? n : 0;
}

// generation_config.json of a folder, or keys of a GGUF file, are the maker's recommendation;
// without them minke's defaults stand.
static mk_status load_sampling(mk_llm *llm, mk_err *err) {
    llm->sampling = MK_SAMPLE_DEFAULTS;
    const mk_source *src = llm->model->src;
    if (!mk_source_is_gguf(src)) {
        char *path = mk_path_join(mk_source_path(src), "generation_config.json");
        json_t *g = NULL;
        mk_status st = MK_OK;
        if (mk_path_is_file(path)) {
            st = mk_json_file(path, CONFIG_MAX_BYTES, &g, err);
            st = st == MK_OK ? sampling_from_json(g, &llm->sampling, err) : st;
        }
        json_decref(g);
        mk_free(path);
        MK_TRY(st);
    } else {
        MK_TRY(sampling_from_gguf(mk_source_gguf(src), &llm->sampling, err));
    }
    llm->sampling.n_token = real_tokens(llm);
    return mk_sample_check(&llm->sampling, llm->model->hp.n_vocab, err);
}

// --- memory --------------------------------------------------------------------------------------

static mk_status choose_kv_type(mk_llm *llm, mk_err *err) {
    static const struct {
        const char *name;
        mk_kv_type type;
    } types[] = {{"f32", MK_KV_F32}, {"f16", MK_KV_F16}, {"q8", MK_KV_Q8}};
    const char *name = llm->opts.kv_type ? llm->opts.kv_type : "auto";
    if (strcmp(name, "auto") == 0) {
        bool f32 = llm->model->globals.embed->dtype == MK_DTYPE_F32;
        llm->engine_opts.kv_type = f32 ? MK_KV_F32 : MK_KV_F16;
        return MK_OK;
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(name, types[i].name) == 0) {
            llm->engine_opts.kv_type = types[i].type;
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUSAGE, "--kv-type: expected auto, f32, f16 or q8, got '%s'", name);
}

mk_status mk_llm_plan(const mk_llm *llm, int64_t n_ctx, mk_memory_plan *plan, mk_err *err) {
    mk_engine_opts o = llm->engine_opts;
    o.n_ctx = n_ctx > 0 ? n_ctx : o.n_ctx;
    return mk_engine_plan(llm->model, &o, plan, err);
}

static int64_t blocks_of_window(int64_t n_ctx) {
    return (n_ctx + MK_KV_BLOCK - 1) / MK_KV_BLOCK;
}

// The least that a window of n_ctx takes, before window and pool are chosen: for serving, where
// sequences share a pool, that is one window and not one for each sequence.
static mk_status plan_least(const mk_llm *llm, int64_t n_ctx, mk_memory_plan *plan, mk_err *err) {
    mk_engine_opts o = llm->engine_opts;
    o.n_ctx = n_ctx;
    o.n_block = llm->opts.serve ? blocks_of_window(n_ctx) : 0;
    return mk_engine_plan(llm->model, &o, plan, err);
}

static mk_status does_not_fit(const mk_llm *llm, const mk_memory_plan *p, int64_t n_ctx,
                              size_t room, mk_err *err) {
    return MK_FAIL(
        err, MK_ENOMEM,
        "%s needs %.2f GB (weights %.2f, cache %.2f for a window of %lld tokens, scratch %.2f), "
        "%.2f GB are available%s",
        mk_source_path(llm->model->src), (double)p->total / 1e9, (double)p->weights / 1e9,
        (double)p->kv / 1e9, (long long)n_ctx, (double)p->scratch / 1e9, (double)room / 1e9,
        n_ctx > SMALLEST_WINDOW ? "; a smaller window (--ctx) may fit" : "");
}

// Nine tenths of what is free, without what other models of this process will still take.
static size_t room_for(const mk_llm *llm) {
    size_t room = mk_memory_available(), promised = llm->how.promised;
    room = room > promised ? room - promised : 0;
    return room - room / 10;
}

// For serving, sequences share a pool of blocks: as many as all of them could need, or as fit into
// the room that is left; one whole window in any case, which choose_window has made sure of.
static mk_status choose_pool(mk_llm *llm, mk_err *err) {
    mk_engine_opts *o = &llm->engine_opts;
    int64_t window = blocks_of_window(o->n_ctx);
    int64_t most = window * (o->n_seq > 0 ? o->n_seq : 1);
    mk_memory_plan p;
    MK_TRY(plan_least(llm, o->n_ctx, &p, err));
    size_t room = room_for(llm), fixed = p.weights + p.scratch;
    size_t per_block = mk_model_kv_bytes_per_block(llm->model, o->kv_type);
    int64_t fit = room > fixed ? (int64_t)((room - fixed) / per_block) : 0;
    fit /= llm->how.n_share > 0 ? llm->how.n_share : 1;
    o->n_block = fit < window ? window : fit < most ? fit : most;
    return MK_OK;
}

// The model's own window if it fits into nine tenths of the free memory, else the largest that
// does.
static mk_status choose_window(mk_llm *llm, mk_err *err) {
    size_t room = room_for(llm);
    int64_t want = llm->n_ctx_wanted;
    bool whole = llm->opts.n_ctx > 0 || llm->how.whole_window;
    mk_memory_plan p;
    llm->engine_opts.n_ctx = want;
    MK_TRY(plan_least(llm, want, &p, err));
    if (p.total <= room || llm->opts.describe_only) {
        return MK_OK;
    }
    int64_t smallest = want < SMALLEST_WINDOW ? want : SMALLEST_WINDOW;
    size_t fixed = p.weights + p.scratch,
           per_block = mk_model_kv_bytes_per_block(llm->model, llm->engine_opts.kv_type);
    int64_t blocks = room > fixed ? (int64_t)((room - fixed) / per_block) : 0;
    if (whole || blocks * MK_KV_BLOCK < smallest) {
        int64_t shown = whole ? want : smallest;
        MK_TRY(plan_least(llm, shown, &p, err));
        return does_not_fit(llm, &p, shown, room, err);
    }
    llm->engine_opts.n_ctx = blocks * MK_KV_BLOCK;
    return MK_OK;
}

// --- opening -------------------------------------------------------------------------------------

// A copy that cannot be used costs time, not the answer.
static void attach_packed(mk_llm *llm) {
    mk_err why = {0};
    mk_status st = mk_pack_cache_attach(llm->model, llm->opts.cache_dir, &why);
    if (st != MK_OK && st != MK_ENOTFOUND) {
        mk_log_msg(MK_LOG_WARN, "the packed copy is not used: %s", why.msg);
    }
}

static mk_status describe(mk_llm *llm, mk_err *err) {
    MK_TRY(mk_kernels_find(llm->opts.isa ? llm->opts.isa : "auto", &llm->kernels, err));
    MK_TRY(mk_model_open(llm->opts.model, &llm->model, err));
    if (llm->opts.cache_dir) {
        attach_packed(llm);
    }
    const mk_source *src = llm->model->src;
    MK_TRY(mk_source_is_gguf(src)
               ? mk_tokenizer_from_gguf(mk_source_gguf(src), &llm->tokenizer, err)
               : mk_tokenizer_from_folder(mk_source_path(src), &llm->tokenizer, err));
    if (mk_tokenizer_n_vocab(llm->tokenizer) > llm->model->hp.n_vocab) {
        return MK_FAIL(err, MK_ECORRUPT,
                       "%s: the tokenizer has %lld tokens, the token table only %lld rows",
                       mk_source_path(src), (long long)mk_tokenizer_n_vocab(llm->tokenizer),
                       (long long)llm->model->hp.n_vocab);
    }
    MK_TRY(mk_llm_load_template(llm, err));
    MK_TRY(load_sampling(llm, err));
    return choose_kv_type(llm, err);
}

// Before the plan, which counts it.  They stay when the weights go.
static mk_status read_adapter(mk_llm *llm, mk_err *err) {
    char what[128];
    mk_pool *pool = mk_pool_create(1);
    mk_status st = mk_adapters_read(llm->model, llm->opts.adapter, llm->opts.adapter_strength, pool,
                                    &llm->adapters, err);
    mk_pool_destroy(pool);
    MK_TRY(st);
    mk_adapters_attach(llm->adapters);
    mk_adapters_describe(llm->adapters, what, sizeof what);
    mk_log_msg(MK_LOG_INFO, "%s: %s", llm->opts.adapter, what);
    return MK_OK;
}

static mk_status start(mk_llm *llm, mk_err *err) {
    MK_TRY(mk_model_load(llm->model, llm->pool, llm->how.progress, llm->how.progress_arg, err));
    if (llm->adapters) {
        mk_params_refresh(mk_adapters_params(llm->adapters), llm->pool);
    }
    MK_TRY(mk_engine_create(llm->model, &llm->engine_opts, &llm->engine, err));
    return llm->opts.serve ? MK_OK : mk_session_create(llm->engine, &llm->session, err);
}

// What an engine of it will have; nothing of it is made but the threads.
static mk_status plan(mk_llm *llm, mk_err *err) {
    // made before planning: scratch grows with the number of threads
    int n_thread = llm->opts.n_thread > 0 ? llm->opts.n_thread : mk_cpu_count();
    llm->pool = mk_pool_create_in(llm->how.crowd, n_thread);
    llm->engine_opts.pool = llm->pool;
    llm->engine_opts.kernels = llm->kernels;
    llm->engine_opts.n_seq = llm->opts.n_seq;
    llm->engine_opts.n_chunk = llm->opts.n_chunk;
    llm->engine_opts.n_out = llm->opts.n_out;
    MK_TRY(choose_window(llm, err));
    return llm->opts.serve ? choose_pool(llm, err) : MK_OK;
}

mk_status mk_llm_load(mk_llm *llm, const mk_llm_load_opts *o, mk_err *err) {
    MK_ASSERT(!llm->engine && !llm->pool);
    llm->how = *o;
    mk_status st = plan(llm, err);
    st = st == MK_OK ? start(llm, err) : st;
    llm->how = (mk_llm_load_opts){0};
    if (st != MK_OK) {
        mk_llm_unload(llm);
    }
    return st;
}

void mk_llm_unload(mk_llm *llm) {
    mk_session_destroy(llm->session);
    mk_engine_destroy(llm->engine);
    mk_pool_destroy(llm->pool);
    llm->session = NULL;
    llm->engine = NULL;
    llm->pool = llm->engine_opts.pool = NULL;
    if (llm->model) {
        mk_model_unload(llm->model);
    }
}

static mk_status open_llm(mk_llm *llm, mk_err *err) {
    MK_TRY(describe(llm, err));
    llm->n_ctx_wanted = llm->opts.n_ctx > 0 ? llm->opts.n_ctx : llm->model->hp.n_ctx_train;
    llm->engine_opts.n_ctx = llm->n_ctx_wanted;
    if (llm->opts.describe_only) {
        return plan(llm, err);
    }
    MK_TRY(llm->opts.adapter ? read_adapter(llm, err) : MK_OK);
    mk_llm_load_opts how = {.progress = llm->opts.progress, .progress_arg = llm->opts.progress_arg};
    return llm->opts.later ? MK_OK : mk_llm_load(llm, &how, err);
}

mk_status mk_llm_open(const mk_llm_opts *opts, mk_llm **out, mk_err *err) {
    mk_llm *llm = mk_zalloc(sizeof *llm);
    llm->opts = *opts;
    mk_status st = open_llm(llm, err);
    if (st != MK_OK) {
        mk_llm_close(llm);
        return st;
    }
    mk_llm_opts *left = &llm->opts;  // texts and callback were the caller's, for opening only
    left->model = left->isa = left->kv_type = left->template_text = NULL;
    left->cache_dir = left->adapter = NULL;
    left->progress = NULL;
    left->progress_arg = NULL;
    *out = llm;
    return MK_OK;
}

void mk_llm_close(mk_llm *llm) {
    if (!llm) {
        return;
    }
    mk_session_destroy(llm->session);
    mk_engine_destroy(llm->engine);
    mk_pool_destroy(llm->pool);
    mk_chat_template_destroy(llm->template);
    mk_tokenizer_destroy(llm->tokenizer);
    mk_adapters_destroy(llm->adapters);
    mk_model_close(llm->model);
    mk_free(llm);
}

const mk_model *mk_llm_model(const mk_llm *llm) {
    return llm->model;
}

const mk_tokenizer *mk_llm_tokenizer(const mk_llm *llm) {
    return llm->tokenizer;
}

const mk_chat_template *mk_llm_template(const mk_llm *llm) {
    return llm->template;
}

mk_adapters *mk_llm_adapters(mk_llm *llm) {
    return llm->adapters;
}

mk_engine *mk_llm_engine(mk_llm *llm) {
    return llm->engine;
}

const mk_engine_opts *mk_llm_engine_opts(const mk_llm *llm) {
    return &llm->engine_opts;
}

int mk_llm_n_thread(const mk_llm *llm) {
    return llm->pool ? mk_pool_n_thread(llm->pool) : 0;
}

mk_pool *mk_llm_pool(mk_llm *llm) {
    return llm->pool;
}

const mk_kernels *mk_llm_kernels(const mk_llm *llm) {
    return llm->kernels;
}

mk_sample_params mk_llm_sampling(const mk_llm *llm) {
    return llm->sampling;
}
