// Fields that OpenAI's three request forms share, with those that llama.cpp, vLLM and DeepSeek
// added.  A switch that would change the answer and that minke has not is refused unless it is off
// (`min` is its neutral value); settings of such a switch are skipped.
#include "serve/openai_int.h"

#include <string.h>

#include "base/alloc.h"

static mk_status read_stream_options(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const mk_field rows[] = {
        {"include_usage", MK_F_BOOL, .at = offsetof(mk_ask, include_usage)},
        MK_SKIP("include_obfuscation"),
    };
    mk_ask *a = ask;
    return mk_fields_read(v, at, &MK_FIELDS(rows), a, &a->unknown, err);
}

static mk_status read_reasoning_field(const mk_at *at, const json_t *v, void *ask, mk_err *err) {
    static const char *const names[] = {"reasoning_content", "reasoning", "both"};
    mk_ask *a = ask;
    for (size_t i = 0; json_is_string(v) && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(json_string_value(v), names[i]) == 0) {
            mk_free(a->reasoning_field);
            a->reasoning_field = mk_strdup(names[i]);
            return MK_OK;
        }
    }
    return mk_at_expected(at, err, v, "\"reasoning_content\", \"reasoning\" or \"both\"");
}

static const mk_field rows[] = {
    {"model", MK_F_TEXT, 0, 4096, .at = offsetof(mk_ask, model)},
    {"stream", MK_F_BOOL, .at = offsetof(mk_ask, stream)},
    {"stream_options", MK_F_READ, .read = read_stream_options},
    {"user", MK_F_TEXT, 0, 4096, .at = offsetof(mk_ask, tenant)},
    {"user_id", MK_F_TEXT, 0, 4096, .at = offsetof(mk_ask, tenant)},
    // sampling
    {"temperature", MK_F_F32, 0, 2, .at = offsetof(mk_ask, sample.temperature),
     .has = offsetof(mk_ask, has_temperature)},
    {"top_p", MK_F_F32, 0, 1, .at = offsetof(mk_ask, sample.top_p),
     .has = offsetof(mk_ask, has_top_p)},
    {"min_p", MK_F_F32, 0, 1, .at = offsetof(mk_ask, sample.min_p),
     .has = offsetof(mk_ask, has_min_p)},
    {"top_k", MK_F_READ, .read = mk_read_top_k},
    {"repetition_penalty", MK_F_F32, 0.001, 1000, .at = offsetof(mk_ask, sample.repetition_penalty),
     .has = offsetof(mk_ask, has_repetition)},
    {"repeat_penalty", MK_F_F32, 0.001, 1000, .at = offsetof(mk_ask, sample.repetition_penalty),
     .has = offsetof(mk_ask, has_repetition)},
    {"repeat_last_n", MK_F_INT, -1, INT32_MAX, .at = offsetof(mk_ask, sample.repetition_last_n)},
    {"presence_penalty", MK_F_F32, -2, 2, .at = offsetof(mk_ask, sample.presence_penalty)},
    {"frequency_penalty", MK_F_F32, -2, 2, .at = offsetof(mk_ask, sample.frequency_penalty)},
    {"seed", MK_F_READ, .read = mk_read_seed},
    {"logit_bias", MK_F_READ, .read = mk_read_logit_bias},
    {"stop", MK_F_READ, .read = mk_read_stop},
    {"ignore_eos", MK_F_BOOL, .at = offsetof(mk_ask, ignore_eos)},
    {"return_tokens", MK_F_BOOL, .at = offsetof(mk_ask, want_token_ids)},
    {"return_token_ids", MK_F_BOOL, .at = offsetof(mk_ask, want_token_ids)},
    // reasoning
    {"chat_template_kwargs", MK_F_READ, .read = mk_read_template_kwargs},
    {"thinking", MK_F_READ, .read = mk_read_thinking},
    {"think", MK_F_READ, .read = mk_read_think},
    {"reasoning_effort", MK_F_READ, .read = mk_read_effort},
    {"thinking_budget", MK_F_READ, .read = mk_read_think_budget},
    {"thinking_token_budget", MK_F_READ, .read = mk_read_think_budget},
    {"thinking_budget_tokens", MK_F_READ, .read = mk_read_think_budget},
    {"reasoning_budget", MK_F_READ, .read = mk_read_think_budget},
    {"reasoning_field", MK_F_READ, .read = read_reasoning_field},
    // formats
    {"structured_outputs", MK_F_READ, .read = mk_read_structured},
    {"guided_json", MK_F_READ, .read = mk_read_schema},
    {"guided_regex", MK_F_READ, .read = mk_read_regex},
    {"guided_choice", MK_F_READ, .read = mk_read_choice},
    {"guided_grammar", MK_F_READ, .read = mk_read_gbnf},
    {"json_schema", MK_F_READ, .read = mk_read_schema},
    {"grammar", MK_F_READ, .read = mk_read_gbnf},
    // without an effect on the answer here
    MK_SKIP("cache_prompt"),
    MK_SKIP("id_slot"),
    MK_SKIP("n_cache_reuse"),
    MK_SKIP("backend_sampling"),
    MK_SKIP("prompt_cache_key"),
    MK_SKIP("prompt_cache_retention"),
    MK_SKIP("safety_identifier"),
    MK_SKIP("service_tier"),
    MK_SKIP("client_metadata"),
    MK_SKIP("dry_base"),
    MK_SKIP("dry_allowed_length"),
    MK_SKIP("dry_penalty_last_n"),
    MK_SKIP("dry_sequence_breakers"),
    MK_SKIP("xtc_threshold"),
    MK_SKIP("mirostat_tau"),
    MK_SKIP("mirostat_eta"),
    MK_SKIP("dynatemp_exponent"),
    // not there
    {"dry_multiplier", MK_F_REFUSE, 0, .why = "there is no DRY sampling"},
    {"xtc_probability", MK_F_REFUSE, 0, .why = "there is no XTC sampling"},
    {"mirostat", MK_F_REFUSE, 0, .why = "there is no mirostat sampling"},
    {"dynatemp_range", MK_F_REFUSE, 0, .why = "there is no dynamic temperature"},
    {"typ_p", MK_F_REFUSE, 1, .why = "there is no typical sampling"},
    {"typical_p", MK_F_REFUSE, 1, .why = "there is no typical sampling"},
    {"min_tokens", MK_F_REFUSE, 0, .why = "an answer has no shortest length"},
    {"stop_token_ids", MK_F_REFUSE, 0, .why = "answers stop at texts (\"stop\")"},
    {"use_beam_search", MK_F_REFUSE, 0, .why = "answers are sampled"},
    {"truncate_prompt_tokens", MK_F_REFUSE, -1, .why = "prompts are never cut"},
    {"prompt_logprobs", MK_F_REFUSE, -1, .why = "only answers have log-probabilities"},
    {"prompt_embeds", MK_F_REFUSE, 0, .why = "prompts are texts or token ids"},
};

const mk_field_table mk_openai_fields = {rows, sizeof rows / sizeof rows[0], NULL};
