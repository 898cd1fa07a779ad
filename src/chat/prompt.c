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
        mk_llm_probe_calls(llm);
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

// A message with calls as the template takes it; NULL: it is so.
static json_t *message_with_calls(const mk_llm *llm, const json_t *m) {
    const json_t *calls = json_object_get(m, "tool_calls"), *call;
    const json_t *content = json_object_get(m, "content");
    bool empty = !content || json_is_null(content) ||
                 (json_is_string(content) && json_string_length(content) == 0);
    if (!json_is_array(calls) || json_array_size(calls) == 0) {
        return NULL;
    }
    json_t *out = json_copy((json_t *)(uintptr_t)m);
    if (empty) {
        json_object_set_new(out, "content", llm->calls_want_null ? json_null() : json_string(""));
    }
    if (llm->calls_as_text) {
        return out;
    }
    json_t *list = json_copy((json_t *)(uintptr_t)calls);
    size_t k;
    json_array_foreach((json_t *)(uintptr_t)calls, k, call) {
        json_t *c = call_with_object(call);
        if (c) {
            json_array_set_new(list, k, c);
        }
    }
    json_object_set_new(out, "tool_calls", list);
    return out;
}

// The messages with their calls as the template takes them; NULL: there is nothing to change.
static json_t *messages_with_calls(const mk_llm *llm, const json_t *messages) {
    json_t *out = NULL;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = message_with_calls(llm, json_array_get(messages, i));
        if (m) {
            out = out ? out : json_copy((json_t *)(uintptr_t)messages);
            json_array_set_new(out, i, m);
        }
    }
    return out;
}

static mk_status render_text(const mk_llm *llm, const mk_request *r, const json_t *messages,
                             const mk_chat_render_opts *o, mk_jinja_text *text, mk_err *err) {
    json_t *changed = messages_with_calls(llm, messages);
    mk_status st = MK_ETEMPLATE;
    if (changed) {
        st = mk_chat_template_render(llm->template, changed, r->tools, o, text, err);
        json_decref(changed);
    }
    // refused in this form: perhaps as it came
    return st == MK_ETEMPLATE
               ? mk_chat_template_render(llm->template, messages, r->tools, o, text, err)
               : st;
}

// Does the template write a call that it gets in this form, with its arguments as JSON?  Some leave
// calls out in silence if there is "" beside them, some stop at null, some print values the way
// Python does.
static bool writes_calls(const mk_chat_template *t, bool as_text, bool null_content) {
    json_t *messages = json_pack(
        "[{s:s, s:s}, {s:s, s:o, s:[{s:s, s:s, s:{s:s, s:o}}]}]", "role", "user", "content", "?",
        "role", "assistant", "content", null_content ? json_null() : json_string(""), "tool_calls",
        "id", "abcdefgh0", "type", "function", "function", "name", "f", "arguments",
        as_text ? json_string("{\"probe_key\": \"probe_value\"}")
                : json_pack("{s:s}", "probe_key", "probe_value"));
    json_t *tools =
        json_pack("[{s:s, s:{s:s, s:s, s:{s:s, s:{}}}}]", "type", "function", "function", "name",
                  "f", "description", "d", "parameters", "type", "object", "properties");
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    mk_jinja_text text = {0};
    mk_err ignored;
    bool ok = messages && tools &&
              mk_chat_template_render(t, messages, tools, &o, &text, &ignored) == MK_OK &&
              text.text.data && strstr(text.text.data, "probe_value") &&
              !strstr(text.text.data, "'probe_key'") && !strstr(text.text.data, "\\\"probe_key");
    mk_jinja_text_free(&text);
    json_decref(messages);
    json_decref(tools);
    return ok;
}

void mk_llm_probe_calls(mk_llm *llm) {
    llm->calls_as_text = llm->calls_want_null = false;
    for (unsigned i = 0; llm->template && i < 4; i++) {
        if (writes_calls(llm->template, i & 2, i & 1)) {
            llm->calls_as_text = i & 2;
            llm->calls_want_null = i & 1;
            return;
        }
    }
}

static mk_status render(const mk_llm *llm, const mk_request *r, const json_t *messages,
                        mk_prompt *p, mk_err *err) {
    mk_chat_render_opts o = MK_CHAT_RENDER_DEFAULTS;
    o.add_generation_prompt = !r->open_end;
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
