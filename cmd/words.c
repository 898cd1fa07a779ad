// The words of a model as files of a Hugging Face folder: those of a GGUF file, and the template
// that was given with --template.
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cmd.h"

#define CONFIG_MAX ((size_t)64 << 20)

static mk_status write_file(const char *dir, const char *name, const char *text, size_t n,
                            mk_err *err) {
    char *path = mk_path_join(dir, name);
    mk_writer *w = NULL;
    mk_status st = mk_writer_open(path, &w, err);
    mk_free(path);
    MK_TRY(st);
    st = mk_writer_write(w, text, n, err);
    if (st != MK_OK) {
        mk_writer_abort(w);
        return st;
    }
    return mk_writer_commit(w, err);
}

// Takes o over.
static mk_status write_json(const char *dir, const char *name, json_t *o, mk_err *err) {
    mk_buf b;
    mk_buf_init(&b, (size_t)64 << 20);
    mk_json_add(&b, o);
    mk_buf_putc(&b, '\n');
    mk_status st = o && !b.failed ? write_file(dir, name, b.data, b.len, err)
                                  : MK_FAIL(err, MK_ENOMEM, "no memory for %s/%s", dir, name);
    mk_buf_free(&b);
    json_decref(o);
    return st;
}

static void put_token(json_t *o, const char *key, const mk_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *p = id >= 0 ? mk_tokenizer_piece(t, id, &n) : NULL;
    if (p) {
        json_object_set_new(o, key, mk_json_text(p, n));
    }
}

static json_t *tokenizer_config(const mk_tokenizer *t) {
    json_t *o =
        json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_bos_token",
                  mk_tokenizer_add_bos(t), "clean_up_tokenization_spaces", 0);
    put_token(o, "bos_token", t, mk_tokenizer_bos(t));
    put_token(o, "eos_token", t, mk_tokenizer_eos(t));
    return o;
}

// 0.7f as 0.7 and not as what the float is in full.
static json_t *short_real(float x) {
    return json_real(round((double)x * 1e6) / 1e6);
}

static json_t *generation_config(const mk_llm *llm) {
    const mk_tokenizer *t = mk_llm_tokenizer(llm);
    mk_sample_params p = mk_llm_sampling(llm);
    json_t *ends = json_array();
    for (int64_t i = 0; i < mk_tokenizer_n_vocab(t); i++) {
        if (mk_tokenizer_is_eog(t, (int32_t)i)) {
            json_array_append_new(ends, json_integer((json_int_t)i));
        }
    }
    return json_pack("{s:o, s:b, s:o, s:I, s:o, s:o, s:o}", "eos_token_id", ends, "do_sample",
                     p.temperature > 0, "temperature",
                     short_real(p.temperature > 0 ? p.temperature : 1), "top_k",
                     (json_int_t)p.top_k, "top_p", short_real(p.top_p), "min_p",
                     short_real(p.min_p), "repetition_penalty", short_real(p.repetition_penalty));
}

static mk_status save_tokenizer(const mk_llm *llm, const char *dir, mk_err *err) {
    size_t n = 0;
    const mk_tokenizer *t = mk_llm_tokenizer(llm);
    const char *json = mk_tokenizer_json(t, &n);
    if (!json) {
        mk_log_msg(MK_LOG_WARN,
                   "%s has no tokenizer.json: this GGUF file's tokenizer is not written", dir);
        return MK_OK;
    }
    MK_TRY(write_file(dir, "tokenizer.json", json, n, err));
    MK_TRY(write_json(dir, "tokenizer_config.json", tokenizer_config(t), err));
    return write_json(dir, "generation_config.json", generation_config(llm), err);
}

// Some readers look into tokenizer_config.json before chat_template.jinja: what it says of a
// template is another one now.
static mk_status drop_old_template(const char *dir, mk_err *err) {
    static const char name[] = "tokenizer_config.json";
    char *path = mk_path_join(dir, name);
    json_t *o = NULL;
    mk_status st = mk_path_is_file(path) ? mk_json_file(path, CONFIG_MAX, &o, err) : MK_OK;
    mk_free(path);
    if (st == MK_OK && json_object_del(o, "chat_template") == 0) {
        return write_json(dir, name, o, err);
    }
    json_decref(o);
    return st;
}

mk_status cmd_save_template(const char *text, const char *dir, mk_err *err) {
    MK_TRY(write_file(dir, "chat_template.jinja", text, strlen(text), err));
    return drop_old_template(dir, err);
}

mk_status cmd_save_words(const mk_llm *llm, const char *dir, mk_err *err) {
    const mk_chat_template *t = mk_llm_template(llm);
    bool gguf = mk_source_is_gguf(mk_llm_model(llm)->src);
    MK_TRY(gguf ? save_tokenizer(llm, dir, err) : MK_OK);
    return t && (gguf || mk_chat_template_is_override(t))
               ? cmd_save_template(mk_chat_template_text(t), dir, err)
               : MK_OK;
}
