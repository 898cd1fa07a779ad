// Source: api/types.go of Ollama and docs/api.md; ollama 0.6 for Python (_types.py).
#include "serve/ollama_info.h"

#include <math.h>
#include <string.h>

#include "serve/ollama_int.h"
#include "serve/wire.h"

// ,"key":
static void add_key(mk_buf *out, const char *key) {
    mk_buf_printf(out, ",\"%s\":", key);
}

static void add_text(mk_buf *out, const char *key, const char *text) {
    add_key(out, key);
    mk_wire_text(out, text ? text : "");
}

static void add_int(mk_buf *out, const char *key, int64_t v) {
    add_key(out, key);
    mk_buf_printf(out, "%lld", (long long)v);
}

static void add_time(mk_buf *out, const char *key, int64_t seconds) {
    add_key(out, key);
    mk_buf_putc(out, '"');
    mk_ollama_time(out, seconds);
    mk_buf_putc(out, '"');
}

// "name:tag"; a colon before the last slash belongs to a host's port.
static void add_name(mk_buf *out, const char *key, const char *name) {
    const char *slash = strrchr(name, '/');
    bool tagged = strchr(slash ? slash : name, ':') != NULL;
    mk_buf_printf(out, "\"%s\":\"", key);
    mk_wire_escaped(out, name, strlen(name));
    mk_buf_puts(out, tagged ? "\"" : ":latest\"");
}

// 494030000 is "494.03M", 8000000000 is "8B".
static void add_parameter_size(mk_buf *out, int64_t n) {
    static const struct {
        double unit;
        const char *letter;
        int digits;
    } units[] = {{1e9, "B", 1}, {1e6, "M", 2}, {1e3, "K", 0}, {1, "", 0}};
    size_t i = 0;
    while (i < 3 && (double)n < units[i].unit) {
        i++;
    }
    double v = (double)n / units[i].unit;
    mk_buf_printf(out, ",\"parameter_size\":\"%.*f%s\"", floor(v) == v ? 0 : units[i].digits, v,
                  units[i].letter);
}

static void add_details(mk_buf *out, const mk_ollama_model *m) {
    mk_buf_puts(out, ",\"details\":{\"parent_model\":\"\"");
    add_text(out, "format", m->format);
    add_text(out, "family", m->family);
    mk_buf_puts(out, ",\"families\":[");
    mk_wire_text(out, m->family ? m->family : "");
    mk_buf_putc(out, ']');
    add_parameter_size(out, m->n_param);
    add_text(out, "quantization_level", m->quantization);
    mk_buf_putc(out, '}');
}

static void add_names(mk_buf *out, const mk_ollama_model *m) {
    mk_buf_putc(out, '{');
    add_name(out, "name", m->name);
    mk_buf_putc(out, ',');
    add_name(out, "model", m->name);
}

void mk_ollama_version(mk_buf *out) {
    mk_buf_puts(out, "{\"version\":\"" MK_OLLAMA_VERSION "\"}");
}

void mk_ollama_tags(const mk_ollama_model *models, size_t n, mk_buf *out) {
    mk_buf_puts(out, "{\"models\":[");
    for (size_t i = 0; i < n; i++) {
        const mk_ollama_model *m = &models[i];
        mk_buf_puts(out, i > 0 ? "," : "");
        add_names(out, m);
        add_time(out, "modified_at", m->modified);
        add_int(out, "size", m->n_bytes);
        add_text(out, "digest", m->digest);
        add_details(out, m);
        mk_buf_putc(out, '}');
    }
    mk_buf_puts(out, "]}");
}

void mk_ollama_ps(const mk_ollama_model *models, size_t n, mk_buf *out) {
    mk_buf_puts(out, "{\"models\":[");
    for (size_t i = 0; i < n; i++) {
        const mk_ollama_model *m = &models[i];
        mk_buf_puts(out, i > 0 ? "," : "");
        add_names(out, m);
        add_int(out, "size", m->n_bytes_memory);
        add_text(out, "digest", m->digest);
        add_details(out, m);
        if (m->expires > 0) {
            add_time(out, "expires_at", m->expires);
        } else {
            mk_buf_puts(out, ",\"expires_at\":\"9999-12-31T23:59:59Z\"");
        }
        add_int(out, "size_vram", m->n_bytes_device);
        add_int(out, "context_length", m->n_ctx);
        mk_buf_putc(out, '}');
    }
    mk_buf_puts(out, "]}");
}

// ,"qwen3.context_length":4096
static void add_info(mk_buf *out, const char *family, const char *key, int64_t v) {
    if (v > 0) {
        mk_buf_puts(out, ",\"");
        mk_wire_escaped(out, family, strlen(family));
        mk_buf_printf(out, ".%s\":%lld", key, (long long)v);
    }
}

// context_length is the window that a client can use here: it sizes its prompts by it, and what
// does not fit is refused.
static void add_model_info(mk_buf *out, const mk_ollama_model *m) {
    const char *family = m->family ? m->family : "";
    mk_buf_puts(out, ",\"model_info\":{\"general.architecture\":");
    mk_wire_text(out, family);
    add_int(out, "general.parameter_count", m->n_param);
    add_info(out, family, "context_length", m->n_ctx);
    add_info(out, family, "embedding_length", m->d_model);
    add_info(out, family, "block_count", m->n_layer);
    mk_buf_putc(out, '}');
}

static void add_capabilities(mk_buf *out, const mk_ollama_model *m) {
    const struct {
        const char *name;
        bool can;
    } rows[] = {{"tools", m->tools},
                {"thinking", m->thinking},
                {"insert", m->insert},
                {"embedding", m->embedding}};
    mk_buf_puts(out, ",\"capabilities\":[\"completion\"");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].can) {
            mk_buf_printf(out, ",\"%s\"", rows[i].name);
        }
    }
    mk_buf_putc(out, ']');
}

// There is no Modelfile: FROM is what a client needs to make another one of it.
void mk_ollama_show(const mk_ollama_model *m, mk_buf *out) {
    mk_buf_puts(out, "{\"modelfile\":\"FROM ");
    mk_wire_escaped(out, m->name, strlen(m->name));
    mk_buf_puts(out, "\\n\"");
    if (m->license) {
        add_text(out, "license", m->license);
    }
    add_text(out, "parameters", m->parameters);
    add_text(out, "template", m->template_text);
    if (m->system) {
        add_text(out, "system", m->system);
    }
    add_details(out, m);
    add_model_info(out, m);
    add_capabilities(out, m);
    add_time(out, "modified_at", m->modified);
    mk_buf_putc(out, '}');
}
