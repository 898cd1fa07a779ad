// What Ollama's clients ask before they chat, from the facts of the models.
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mathx.h"
#include "chat/template.h"
#include "format/dtype.h"
#include "serve/ollama_info.h"
#include "serve/service_int.h"

typedef struct {
    mk_ollama_model m;
    char digest[65];
} facts;

// Not a hash of the contents, which would take long for a large model: of what tells it from
// others.
static void make_digest(const char *path, int64_t n_bytes, char out[65]) {
    for (int i = 0; i < 4; i++) {
        uint64_t h = mk_hash64(path, strlen(path), (uint64_t)n_bytes * 4 + (uint64_t)i);
        snprintf(out + 16 * i, 17, "%016llx", (unsigned long long)h);
    }
}

// The type that most of the weights have.
static const char *main_type(const mk_source *src) {
    size_t bytes[MK_DTYPE_N] = {0};
    int best = 0;
    for (int64_t i = 0; i < mk_source_n_tensor(src); i++) {
        const mk_tensor_view *t = mk_source_tensor(src, i);
        bytes[t->dtype] += t->n_bytes;
        best = bytes[t->dtype] > bytes[best] ? (int)t->dtype : best;
    }
    return mk_dtype_get((mk_dtype)best)->name;
}

static void collect(const served_model *s, facts *f) {
    const mk_model *model = mk_llm_model(s->llm);
    const mk_chat_template *t = mk_llm_template(s->llm);
    const char *path = mk_source_path(model->src);
    struct stat st = {0};
    (void)stat(path, &st);
    f->m = (mk_ollama_model){
        .name = s->name,
        .format = mk_source_is_gguf(model->src) ? "gguf" : "safetensors",
        .family = model->arch->name,
        .quantization = main_type(model->src),
        .digest = f->digest,
        .template_text = t ? mk_chat_template_text(t) : NULL,
        .n_bytes = (int64_t)mk_source_file_bytes(model->src),
        .n_param = mk_model_n_param(model),
        .n_ctx = atomic_load(&s->n_ctx),
        .d_model = model->hp.d_model,
        .n_layer = model->hp.n_layer,
        .modified = st.st_mtime,
        .tools = t && mk_chat_template_has_tools(t),
        .thinking = t && mk_chat_template_thinks(t),
        .n_bytes_memory = atomic_load(&s->n_bytes),
    };
    make_digest(path, f->m.n_bytes, f->digest);
}

HANDLER(ollama_version) {
    (void)r, (void)c;
    mk_buf b;
    mk_buf_init(&b, 4096);
    mk_ollama_version(&b);
    mk_service_reply_buf(s, x, (mk_service_head){0}, &b);
}

// Seconds since 1970; 0: never.
static int64_t wall_time(uint64_t at_ns, uint64_t now_ns) {
    return at_ns == MK_KEEP_FOREVER ? 0 : time(NULL) + (int64_t)((at_ns - now_ns) / 1000000000);
}

static void list(mk_service *s, mk_http_exchange *x, bool loaded,
                 void (*write)(const mk_ollama_model *, size_t, mk_buf *)) {
    int n_model = atomic_load(&s->n_model);
    size_t n = 0;
    facts *f = mk_zalloc((size_t)(n_model + 1) * sizeof *f);
    mk_ollama_model *m = mk_zalloc((size_t)(n_model + 1) * sizeof *m);
    for (int i = 0; i < n_model; i++) {
        uint64_t now = mk_now_ns();
        mk_residence_info r = mk_loader_read(s->loader, i);
        if (loaded && r.state != MK_MODEL_LOADED) {
            continue;
        }
        collect(&s->model[i], &f[i]);
        m[n] = f[i].m;
        m[n++].expires = wall_time(r.expires_ns > now ? r.expires_ns : now, now);
    }
    mk_buf b;
    mk_buf_init(&b, 1 << 24);
    write(m, n, &b);
    mk_service_reply_buf(s, x, (mk_service_head){0}, &b);
    mk_free(m);
    mk_free(f);
}

HANDLER(ollama_tags) {
    (void)r, (void)c;
    list(s, x, false, mk_ollama_tags);
}

HANDLER(ollama_ps) {
    (void)r, (void)c;
    list(s, x, true, mk_ollama_ps);
}

HANDLER(ollama_show) {
    (void)c;
    size_t n = 0;
    const char *body = mk_http_body(x, &n), *name = NULL;
    json_t *o = NULL;
    mk_err err = {0};
    mk_status st = mk_json_parse(body, n, "the body", &o, &err);
    st = st == MK_OK ? mk_json_get_str(o, "model", &name, &err) : st;
    st = st == MK_OK && !name ? mk_json_get_str(o, "name", &name, &err) : st;
    served_model *m = st == MK_OK ? mk_service_find(s, name, &err) : NULL;
    if (m) {
        facts f;
        mk_buf b;
        mk_buf_init(&b, 1 << 24);
        collect(m, &f);
        mk_ollama_show(&f.m, &b);
        mk_service_reply_buf(s, x, (mk_service_head){0}, &b);
    } else {
        mk_service_fail(s, x, r->dialect, mk_error_http_status(err.code), &err);
    }
    json_decref(o);
}
