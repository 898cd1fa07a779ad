// Configuration tables and rotary frequencies.
#include "model/config.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/mathx.h"

static mk_status out_of_range(const mk_source *src, const mk_cfg_row *r, double v, mk_err *err) {
    return MK_FAIL(err, MK_ECORRUPT, "%s: %s is %.15g, expected %.15g to %.15g",
                   mk_source_path(src), mk_source_key_name(src, r->hf, r->gguf), v, r->min, r->max);
}

static mk_status read_i64(const mk_cfg_row *r, const mk_source *src, int64_t *out, bool *found,
                          mk_err *err) {
    int64_t v = 0;
    MK_TRY(mk_source_i64(src, r->hf, r->gguf, &v, found, err));
    if (*found && ((double)v < r->min || (double)v > r->max)) {
        return out_of_range(src, r, (double)v, err);
    }
    *out = *found ? v : (int64_t)r->def;
    return MK_OK;
}

static mk_status read_f64(const mk_cfg_row *r, const mk_source *src, double *out, bool *found,
                          mk_err *err) {
    double v = 0;
    MK_TRY(mk_source_f64(src, r->hf, r->gguf, &v, found, err));
    if (*found && !(v >= r->min && v <= r->max)) {  // also catches NaN
        return out_of_range(src, r, v, err);
    }
    *out = *found ? v : r->def;
    return MK_OK;
}

static mk_status read_bool(const mk_cfg_row *r, const mk_source *src, int64_t *out, bool *found,
                           mk_err *err) {
    bool v = false;
    MK_TRY(mk_source_bool(src, r->hf, r->gguf, &v, found, err));
    *out = *found ? v : (int64_t)r->def;
    return MK_OK;
}

static mk_status read_row(const mk_cfg_row *r, const mk_source *src, mk_hparams *hp, mk_err *err) {
    void *field = (char *)hp + r->field;
    bool found = false;
    switch (r->type) {
    case MK_CFG_I64:
        MK_TRY(read_i64(r, src, field, &found, err));
        break;
    case MK_CFG_F64:
        MK_TRY(read_f64(r, src, field, &found, err));
        break;
    case MK_CFG_BOOL:
        MK_TRY(read_bool(r, src, field, &found, err));
        break;
    case MK_CFG_STR:  // every string field of mk_hparams has 32 bytes
        MK_TRY(mk_source_str(src, r->hf, r->gguf, field, sizeof hp->rope_type, &found, err));
        break;
    }
    if (!found && (r->flags & MK_CFG_REQUIRED)) {
        return MK_FAIL(err, MK_ECORRUPT, "%s: configuration key %s is missing", mk_source_path(src),
                       mk_source_key_name(src, r->hf, r->gguf));
    }
    return MK_OK;
}

mk_status mk_config_read(const mk_cfg_row *rows, int n_row, const mk_source *src, mk_hparams *hp,
                         mk_err *err) {
    for (int i = 0; i < n_row; i++) {
        MK_TRY(read_row(&rows[i], src, hp, err));
    }
    hp->one = 1;
    return MK_OK;
}

// --- rotary embedding ----------------------------------------------------------------------------

static const struct {
    const char *name;
    mk_rope_scale scale;
} rope_types[] = {
    {"", MK_ROPE_SCALE_NONE},         {"default", MK_ROPE_SCALE_NONE},
    {"none", MK_ROPE_SCALE_NONE},     {"linear", MK_ROPE_SCALE_LINEAR},
    {"llama3", MK_ROPE_SCALE_LLAMA3}, {"yarn", MK_ROPE_SCALE_YARN},
};

mk_status mk_config_rope(mk_hparams *hp, const mk_source *src, mk_err *err) {
    for (size_t i = 0; i < sizeof rope_types / sizeof rope_types[0]; i++) {
        if (strcmp(hp->rope_type, rope_types[i].name) == 0) {
            hp->rope_scale = rope_types[i].scale;
            if (hp->rope_orig_ctx == 0) {
                hp->rope_orig_ctx = hp->n_ctx_train;
            }
            return MK_OK;
        }
    }
    return MK_FAIL(err, MK_EUNSUPPORTED,
                   "%s: rope scaling \"%s\" is not supported (known: linear, llama3, yarn)",
                   mk_source_path(src), hp->rope_type);
}

double mk_yarn_mscale(double factor, double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * mk_log(factor) + 1.0;
}

// 2 pi / frequency against the two bounds: long waves are stretched, short ones kept, between them
// interpolated.
static double llama3_freq(const mk_hparams *hp, double f) {
    const double two_pi = 6.283185307179586;
    double wave = two_pi / f, orig = (double)hp->rope_orig_ctx;
    if (wave < orig / hp->rope_high_freq) {
        return f;
    }
    if (wave > orig / hp->rope_low_freq) {
        return f / hp->rope_factor;
    }
    double t = (orig / wave - hp->rope_low_freq) / (hp->rope_high_freq - hp->rope_low_freq);
    return (1 - t) * f / hp->rope_factor + t * f;
}

// Dimension at which a wave turns n times over the original context.
static double yarn_dim(const mk_hparams *hp, int64_t n_dim, double n) {
    const double two_pi = 6.283185307179586;
    return (double)n_dim * mk_log((double)hp->rope_orig_ctx / (n * two_pi)) /
           (2 * mk_log(hp->rope_theta));
}

static double yarn_freq(const mk_hparams *hp, int64_t n_dim, int64_t i, double f) {
    double low = floor(yarn_dim(hp, n_dim, hp->rope_beta_fast));
    double high = ceil(yarn_dim(hp, n_dim, hp->rope_beta_slow));
    low = low < 0 ? 0 : low;
    high = high > (double)(n_dim - 1) ? (double)(n_dim - 1) : high;
    high = low == high ? high + 0.001 : high;
    double ramp = ((double)i - low) / (high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f / hp->rope_factor * ramp + f * (1 - ramp);
}

void mk_rope_inv_freq(const mk_hparams *hp, int64_t n_dim, const float *divisor, float *inv_freq) {
    for (int64_t i = 0; i < n_dim / 2; i++) {
        // the reference works in float32: exponent, power and reciprocal are each rounded
        float exponent = (float)(2 * i) / (float)n_dim;
        float f = 1.0f / (float)mk_pow(hp->rope_theta, (double)exponent);
        switch (hp->rope_scale) {
        case MK_ROPE_SCALE_NONE:
            break;
        case MK_ROPE_SCALE_LINEAR:
            f = f / (float)hp->rope_factor;
            break;
        case MK_ROPE_SCALE_LLAMA3:
            f = (float)llama3_freq(hp, (double)f);
            break;
        case MK_ROPE_SCALE_YARN:
            f = (float)yarn_freq(hp, n_dim, i, (double)f);
            break;
        }
        inv_freq[i] = divisor ? f / divisor[i] : f;
    }
}
