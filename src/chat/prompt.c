// From a request to token ids: finding the model's template, rendering, encoding.
//
// Control tokens are recognised in template text only.  A raw prompt is the caller's own text, so
// there they are recognised too; a plain prompt of a model without template is not template text,
// so there they are not.
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "chat/encode.h"
#include "chat/llm_int.h"

#define TEMPLATE_MAX_BYTES ((size_t)4 << 20)

// --- the model's template ------------------------------------------------------------------------

// Text of a file of the folder, or NULL if it is not there.
static mk_status optional_file(const char *dir, const char *name, char **text, mk_err *err) {
    char *path = mk_path_join(dir, name);
    mk_status st = MK_OK;
    if (mk_path_is_file(path)) {
        size_t n = 0;
        st = mk_file_read(path, TEMPLATE_MAX_BYTES, text, &n, err);
    }
    mk_free(path);
    return st;
}

static mk_status optional_key(const mk_gguf *g, const char *key, char **text, mk_err *err) {
    mk_gguf_str s = {NULL, 0};
    MK_TRY(mk_gguf_get_str(g, key, &s, err));
    if (s.p && s.n > TEMPLATE_MAX_BYTES) {
        return MK_FAIL(err, MK_ELIMIT, "%s has %zu bytes, expected at most %zu", key, s.n,
                       TEMPLATE_MAX_BYTES);
    }
    *text = s.p ? mk_strndup(s.p, s.n) : NULL;
    return MK_OK;
}

typedef struct {
    char *file, *file_tool_use, *config, *gguf, *gguf_tool_use, *bos, *eos;
} template_texts;

static mk_status read_texts(const mk_source *src, template_texts *t, mk_err *err) {
    if (mk_source_is_gguf(src)) {
        MK_TRY(optional_key(mk_source_gguf(src), "tokenizer.chat_template", &t->gguf, err));
        return optional_key(mk_source_gguf(src), "tokenizer.chat_template.tool_use",
                            &t->gguf_tool_use, err);
    }
    const char *dir = mk_source_path(src);
    MK_TRY(optional_file(dir, "chat_template.jinja", &t->file, err));
    MK_TRY(optional_file(dir, "additional_chat_templates/tool_use.jinja", &t->file_tool_use, err));
    return optional_file(dir, "tokenizer_config.json", &t->config, err);
}

static void free_texts(template_texts *t) {
    mk_free(t->file);
    mk_free(t->file_tool_use);
    mk_free(t->config);
    mk_free(t->gguf);
    mk_free(t->gguf_tool_use);
    mk_free(t->bos);
    mk_free(t->eos);
}

static bool has_control_token(const void *arg, const char *text) {
    const mk_tokenizer *t = arg;
    int32_t id = mk_tokenizer_find(t, text, strlen(text));
    return id >= 0 && (mk_tokenizer_type(t, id) == MK_TOKEN_CONTROL ||
                       mk_tokenizer_type(t, id) == MK_TOKEN_USER_DEFINED);
}

static char *piece_text(const mk_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *p = id >= 0 ? mk_tokenizer_piece(t, id, &n) : NULL;
    return p ? mk_strndup(p, n) : NULL;
}

mk_status mk_llm_load_template(mk_llm *llm, mk_err *err) {
    template_texts t = {0};
    mk_status st = read_texts(llm->model->src, &t, err);
    if (st == MK_OK) {
        t.bos = piece_text(llm->tokenizer, mk_tokenizer_bos(llm->tokenizer));
        t.eos = piece_text(llm->tokenizer, mk_tokenizer_eos(llm->tokenizer));
        mk_chat_special specials[2];
        size_t n = 0;
        if (t.bos) {
            specials[n++] = (mk_chat_special){"bos_token", t.bos};
        }
        if (t.eos) {
            specials[n++] = (mk_chat_special){"eos_token", t.eos};
        }
        mk_chat_sources src = {.override_text = llm->opts.template_text,
                               .file = t.file,
                               .file_tool_use = t.file_tool_use,
                               .tokenizer_config = t.config,
                               .gguf = t.gguf,
                               .gguf_tool_use = t.gguf_tool_use,
                               .specials = specials,
                               .n_specials = n,
                               .has_token = has_control_token,
                               .has_token_arg = llm->tokenizer};
        st = mk_chat_template_create(&src, &llm->template, &llm->template_err);
        // the user's own file must be right; the model's may not be needed
        bool own = llm->opts.template_text != NULL;
        if (st != MK_OK && own && err) {
            *err = llm->template_err;
        }
        st = own ? st : MK_OK;
    }
    free_texts(&t);
    return st;
}

// --- encoding ------------------------------------------------------------------------------------

// A call of an assistant with its arguments as a value instead of a text; NULL: it has them so, or
// they are no JSON object.
static json_t *call_with_object(const json_t *call) {
    const json_t *fn = json_object_get(call, "function");
    const json_t *text = json_object_get(fn, "arguments");
    json_t *args = NULL;
    mk_err err;
    if (!json_is_string(text) || mk_json_parse(json_string_value(text), json_string_length(text),
                                               "arguments", &args, &err) != MK_OK) {
        return NULL;
    }
    if (!json_is_object(args)) {
        json_decref(args);
        return NULL;
    }
    json_t *new_call = json_copy((json_t *)call), *new_fn = json_copy((json_t *)fn);
    json_object_set_new(new_fn, "arguments", args);
    json_object_set_new(new_call, "function", new_fn);
    return new_call;
}

// Most templates want the arguments of past calls as a value; requests carry them as a text.  NULL:
// there is nothing to change.
static json_t *messages_with_objects(const json_t *messages) {
    json_t *out = NULL, *m, *call;
    size_t i, k;
    json_array_foreach((json_t *)messages, i, m) {
        const json_t *calls = json_object_get(m, "tool_calls");
        json_t *new_calls = NULL;
        json_array_foreach((json_t *)calls, k, call) {
            json_t *c = call_with_object(call);
            if (c) {
                new_calls = new_calls ? new_calls : json_copy((json_t *)calls);
                json_array_set_new(new_calls, k, c);
            }
        }
        if (new_calls) {
            json_t *new_m = json_copy(m);
            json_object_set_new(new_m, "tool_calls", new_calls);
            out = out ? out : json_copy((json_t *)messages);
            json_array_set_new(out, i, new_m);
        }
    }
    return out;
}

static mk_status render_text(const mk_llm *llm, const mk_request *r, const json_t *messages,
                             const mk_chat_render_opts *o, mk_jinja_text *text, mk_err *err) {
    json_t *changed = messages_with_objects(messages);
    mk_status st = MK_ETEMPLATE;
    if (changed) {
        st = mk_chat_template_render(llm->template, changed, r->tools, o, text, err);
        json_decref(changed);
    }
    // a few templates put them together as texts
    return st == MK_ETEMPLATE
               ? mk_chat_template_render(llm->template, messages, r->tools, o, text, err)
               : st;
}

static mk_status render(const mk_llm *llm, const mk_request *r, const json_t *messages,
                        mk_prompt *p, mk_err *err) {
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    o.enable_thinking = r->think == MK_THINK_DEFAULT ? -1 : r->think == MK_THINK_ON;
    o.reasoning_effort = r->effort;
    o.extra = r->template_kwargs;
    o.limits.now = (int64_t)time(NULL);  // some templates tell the model the date
    mk_jinja_text text = {0};
    MK_TRY(render_text(llm, r, messages, &o, &text, err));
    mk_parse_detect(mk_chat_template_text_for(llm->template, r->tools), &p->parse);
    p->parse.tools = r->tools;
    p->parse.no_reasoning = false;
    p->parse.starts_inside = text.text.len > 0 && p->parse.think_open &&
                             mk_parse_ends_in(text.text.data, text.text.len, p->parse.think_open);
    mk_status st = mk_chat_encode(llm->tokenizer, &text, 0, text.text.len, &p->ids, err);
    mk_jinja_text_free(&text);
    return st;
}

// The conversation without its last message, and then the text of that as if the model had begun
// with it.
static mk_status render_continued(const mk_llm *llm, const mk_request *r, mk_prompt *p,
                                  mk_err *err) {
    size_t n = json_array_size(r->messages);
    const json_t *last = json_array_get(r->messages, n - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    const char *text = json_string_value(json_object_get(last, "content"));
    if (n < 2 || !role || strcmp(role, "assistant") != 0 || !text) {
        return MK_FAIL(err, MK_EUSAGE,
                       "only a last message of the assistant, with text, can be continued");
    }
    json_t *before = json_copy((json_t *)r->messages);
    mk_status st = before && json_array_remove(before, n - 1) == 0
                       ? render(llm, r, before, p, err)
                       : MK_FAIL(err, MK_ENOMEM, "no memory for %zu messages", n);
    json_decref(before);
    MK_TRY(st);
    p->parse.no_reasoning = true;  // the answer has begun
    p->parse.starts_inside = false;
    mk_encode_opts o = {.continues = true};
    return mk_tokenizer_encode(llm->tokenizer, text, strlen(text), o, &p->ids, err);
}

static json_t *one_message(const mk_request *r) {
    json_t *list = json_array();
    if (r->system) {
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "role", "system", "content", r->system));
    }
    json_array_append_new(list, json_pack("{s:s, s:s}", "role", "user", "content", r->prompt));
    return list;
}

static mk_status render_prompt(const mk_llm *llm, const mk_request *r, mk_prompt *p, mk_err *err) {
    json_t *list = one_message(r);
    size_t want = r->system ? 2 : 1;
    mk_status st = json_array_size(list) == want
                       ? render(llm, r, list, p, err)
                       : MK_FAIL(err, MK_EUSAGE,
                                 "the prompt is not valid UTF-8; use --raw for arbitrary bytes");
    json_decref(list);
    return st;
}

static mk_status need_template(const mk_llm *llm, mk_err *err) {
    if (llm->template_err.code == MK_ENOTFOUND || llm->template_err.code == MK_OK) {
        return MK_FAIL(
            err, MK_EUSAGE,
            "%s has no chat template; use --raw for plain continuation, or --template FILE",
            mk_source_path(llm->model->src));
    }
    if (err) {
        *err = llm->template_err;
    }
    return llm->template_err.code;
}

static mk_status copy_ids(const mk_request *r, mk_ids *ids, mk_err *err) {
    for (int64_t i = 0; i < r->n_ids; i++) {
        MK_TRY(mk_ids_push(ids, r->ids[i], err));
    }
    return MK_OK;
}

mk_status mk_llm_make_prompt(const mk_llm *llm, const mk_request *r, mk_prompt *p, mk_err *err) {
    MK_ASSERT((r->messages != NULL) + (r->prompt != NULL) + (r->ids != NULL) == 1);
    p->parse = (mk_parse_opts){.no_reasoning = true};
    if (r->ids) {
        return copy_ids(r, &p->ids, err);
    }
    if (r->messages) {
        return !llm->template     ? need_template(llm, err)
               : r->continue_last ? render_continued(llm, r, p, err)
                                  : render(llm, r, r->messages, p, err);
    }
    if (llm->template && !r->raw) {
        return render_prompt(llm, r, p, err);
    }
    if (!r->raw && llm->template_err.code != MK_ENOTFOUND) {
        return need_template(llm, err);
    }
    mk_encode_opts o = {.add_special = true, .parse_special = r->raw};
    return mk_tokenizer_encode(llm->tokenizer, r->prompt, strlen(r->prompt), o, &p->ids, err);
}

mk_status mk_llm_prompt_ids(mk_llm *llm, const mk_request *r, mk_ids *ids, mk_err *err) {
    mk_prompt p = {0};
    mk_status st = mk_llm_make_prompt(llm, r, &p, err);
    for (int64_t i = 0; i < p.ids.n && st == MK_OK; i++) {
        st = mk_ids_push(ids, p.ids.data[i], err);
    }
    mk_ids_free(&p.ids);
    return st;
}
