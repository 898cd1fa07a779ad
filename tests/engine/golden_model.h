// Golden checkpoints for tests: ids, stored rows and official logits beside each tiny model
// (tests/golden/README.md).
#ifndef TESTS_ENGINE_GOLDEN_MODEL_H
#define TESTS_ENGINE_GOLDEN_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/engine.h"

#define GOLDEN_DIR "tests/golden/"

typedef struct {
    int32_t *ids, *rows;
    float *logits;
    int64_t n_ids, n_rows, n_vocab;
    json_t *json;
} golden;

static inline void *golden_blob(const char *prefix, const char *name, size_t want) {
    char path[1024];
    snprintf(path, sizeof path, "%s.%s", prefix, name);
    char *data = NULL;
    size_t n = 0;
    mk_err err = {0};
    if (mk_file_read(path, (size_t)64 << 20, &data, &n, &err) != MK_OK || n != want) {
        fprintf(stderr, "%s: %zu bytes, expected %zu (%s)\n", path, n, want, err.msg);
        abort();
    }
    return data;
}

// prefix: "<folder>/golden" or "<folder>/<file without .gguf>"
static inline golden golden_read(const char *prefix) {
    golden g = {0};
    char path[1024];
    snprintf(path, sizeof path, "%s.json", prefix);
    mk_err err = {0};
    if (mk_json_file(path, 1 << 20, &g.json, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    g.n_ids = json_integer_value(json_object_get(g.json, "n_ids"));
    g.n_rows = json_integer_value(json_object_get(g.json, "n_rows"));
    g.n_vocab = json_integer_value(json_object_get(g.json, "n_vocab"));
    g.ids = golden_blob(prefix, "ids.i32", (size_t)g.n_ids * 4);
    g.rows = golden_blob(prefix, "rows.i32", (size_t)g.n_rows * 4);
    g.logits = golden_blob(prefix, "logits.f32", (size_t)(g.n_rows * g.n_vocab) * 4);
    return g;
}

static inline void golden_free(golden *g) {
    mk_free(g->ids);
    mk_free(g->rows);
    mk_free(g->logits);
    json_decref(g->json);
}

// A loaded model with its engine.
typedef struct {
    mk_model *model;
    mk_pool *pool;
    mk_engine *engine;
} rig;

typedef struct {
    const char *isa;
    int n_thread;
    mk_kv_type kv_type;
    int64_t n_ctx, n_seq, n_block, n_chunk, n_out;
    bool f32;  // load for training
} rig_opts;

static inline rig rig_open(const char *path, rig_opts o) {
    rig r = {0};
    mk_err err = {0};
    const mk_kernels *k = NULL;
    r.pool = mk_pool_create(o.n_thread ? o.n_thread : 1);
    mk_engine_opts eo = {.pool = r.pool,
                         .kv_type = o.kv_type,
                         .n_ctx = o.n_ctx ? o.n_ctx : 512,
                         .n_seq = o.n_seq,
                         .n_block = o.n_block,
                         .n_chunk = o.n_chunk,
                         .n_out = o.n_out};
    mk_status st = mk_kernels_find(o.isa ? o.isa : "auto", &k, &err);
    eo.kernels = k;
    st = st == MK_OK ? mk_model_open(path, &r.model, &err) : st;
    if (st == MK_OK) {
        st = o.f32 ? mk_model_load_f32(r.model, r.pool, NULL, NULL, &err)
                   : mk_model_load(r.model, r.pool, NULL, NULL, &err);
    }
    st = st == MK_OK ? mk_engine_create(r.model, &eo, &r.engine, &err) : st;
    if (st != MK_OK) {
        fprintf(stderr, "%s: %s (%s:%d)\n", path, err.msg, err.file, err.line);
        abort();
    }
    return r;
}

static inline void rig_close(rig *r) {
    mk_engine_destroy(r->engine);
    mk_model_close(r->model);
    mk_pool_destroy(r->pool);
}

#endif
