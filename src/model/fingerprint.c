// Fingerprints of models.
#include "model/fingerprint.h"

#include <string.h>

#include "base/mathx.h"
#include "model/adapter_int.h"

// Bytes looked at for the fingerprint: two places in each of so many tensors.  Models have a few
// hundred; folders with one tensor per expert have tens of thousands, of which every k-th is taken.
enum { SAMPLE_BYTES = 64, SAMPLE_TENSORS = 2048 };

static void mix(uint64_t *h, const void *p, size_t n) {
    *h = mk_hash64(p, n, *h);
}

static void mix_sample(uint64_t *h, const mk_tensor_view *v, size_t at) {
    size_t n = v->n_bytes - at < SAMPLE_BYTES ? v->n_bytes - at : SAMPLE_BYTES;
    mix(h, v->data + at, n);
    if (v->map && v->map->data) {  // the kernel maps neighbours of a page that is touched
        size_t from = (size_t)(v->data - v->map->data) + at, around = (size_t)1 << 17;
        from = from > around ? from - around : 0;
        size_t left = v->map->n_bytes - from;
        mk_map_forget(v->map, from, left < 2 * around ? left : 2 * around);
    }
}

uint64_t mk_model_fingerprint(const mk_model *m) {
    const uint32_t version = MK_PACK_LAYOUT;
    const uint8_t gguf = mk_source_is_gguf(m->src);
    // the one number that decides how rows are ordered and is not seen in a layout
    uint64_t h = (uint64_t)m->hp.d_head;
    mix(&h, &version, sizeof version);
    mix(&h, &gguf, sizeof gguf);
    mix(&h, m->arch->name, strlen(m->arch->name));
    int64_t n = mk_source_n_tensor(m->src), every = 1 + n / SAMPLE_TENSORS;
    for (int64_t i = 0; i < n; i++) {
        const mk_tensor_view *v = mk_source_tensor(m->src, i);
        const uint32_t type = (uint32_t)v->dtype;
        mix(&h, v->name, strlen(v->name) + 1);
        mix(&h, &type, sizeof type);
        mix(&h, v->shape, sizeof v->shape);
        if (i % every == 0 && v->n_bytes > 0) {
            mix_sample(&h, v, v->n_bytes / 3);
            mix_sample(&h, v, v->n_bytes / 3 * 2);
        }
    }
    return h;
}

// --- state ---------------------------------------------------------------------------------------

static void mix_files(uint64_t *h, const mk_model *m) {
    const mk_map *before = NULL;
    for (int64_t i = 0; i < mk_source_n_tensor(m->src); i++) {  // they come file by file
        const mk_map *map = mk_source_tensor(m->src, i)->map;
        if (map && map != before) {
            const uint64_t facts[] = {map->n_bytes, (uint64_t)map->mtime_ns};
            mix(h, facts, sizeof facts);
            before = map;
        }
    }
}

static void mix_config(uint64_t *h, const mk_model *m) {
    for (int i = 0; i < m->arch->n_config; i++) {
        const mk_cfg_row *r = &m->arch->config[i];
        const char *field = (const char *)&m->hp + r->field;
        if (r->type == MK_CFG_STR) {
            mix(h, field, strlen(field) + 1);
        } else {
            mix(h, field, sizeof(int64_t));  // a double is as long
        }
    }
    mix(h, m->inv_freq, (size_t)(m->arch->rope_dims(&m->hp) / 2) * sizeof *m->inv_freq);
    mix(h, &m->rope_cs_factor, sizeof m->rope_cs_factor);
}

static void mix_adapters(uint64_t *h, const mk_adapters *s) {
    const mk_params *params = mk_adapters_params(s);
    mix(h, &s->strength, sizeof s->strength);
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t facts[] = {s->list[i].rank, s->rslora, s->dora};
        mix(h, facts, sizeof facts);
        mix(h, &s->list[i].alpha, sizeof s->list[i].alpha);
    }
    for (int64_t i = 0; i < params->n; i++) {
        const mk_param *p = &params->list[i];
        mix(h, p->name, strlen(p->name) + 1);
        if (p->p) {
            mix(h, p->p, (size_t)p->n_float * sizeof *p->p);
        }
    }
}

uint64_t mk_model_state_key(const mk_model *m) {
    uint64_t h = mk_model_fingerprint(m);
    const uint8_t how[] = {m->f32, m->bf16, m->mtp, m->adapters != NULL};
    mix(&h, how, sizeof how);
    mix_files(&h, m);
    mix_config(&h, m);
    if (m->adapters) {
        mix_adapters(&h, m->adapters);
    }
    return h;
}
