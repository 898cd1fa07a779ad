// What Ollama's clients ask before they chat: GET /api/tags, /api/ps, /api/version, POST /api/show.
//
// The caller knows the models and gives facts; these functions write the JSON.  Names get the tag
// that Ollama puts behind every name without one (":latest").
#ifndef MK_SERVE_OLLAMA_INFO_H
#define MK_SERVE_OLLAMA_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

// The release of Ollama whose API is spoken.  Clients compare it with the least one that they work
// with (GitHub Copilot: 0.6.4), so minke's own version would not do.
#define MK_OLLAMA_VERSION "0.13.0"

typedef struct {
    const char *name;
    const char *format;         // "gguf", "safetensors"
    const char *family;         // architecture: "qwen3"
    const char *quantization;   // "Q8_0", "BF16", "F32"
    const char *digest;         // 64 hexadecimal digits
    const char *template_text;  // chat template; NULL: none
    const char *license;        // NULL: not known
    const char *system;         // NULL
    int64_t n_bytes;            // of its files
    int64_t n_param;
    int64_t n_ctx;     // the window it is served with
    int64_t d_model;   // length of an embedding; 0: not told
    int64_t n_layer;   // 0: not told
    int64_t modified;  // of its files; seconds since 1970
    // capabilities beside completion
    bool tools, thinking, insert, embedding;
    // sampling that is recommended for it, as lines "temperature 0.6"; NULL
    const char *parameters;
    // for /api/ps
    int64_t n_bytes_memory;  // what it takes while loaded
    int64_t n_bytes_device;  // of these, memory of an accelerator
    int64_t expires;         // when it is unloaded; seconds since 1970, 0: never
} mk_ollama_model;

void mk_ollama_version(mk_buf *out);
void mk_ollama_tags(const mk_ollama_model *models, size_t n, mk_buf *out);
void mk_ollama_show(const mk_ollama_model *m, mk_buf *out);
void mk_ollama_ps(const mk_ollama_model *models, size_t n, mk_buf *out);  // those that are loaded

#endif
