#include "serve/ask.h"

#include <string.h>

#include "base/alloc.h"

void mk_ask_init(mk_ask *a) {
    *a = (mk_ask){
        .think_budget = -1, .n_predict = -1, .n = 1, .n_logprob = -1, .parallel_tools = true};
}

void mk_ask_free(mk_ask *a) {
    char *const texts[] = {a->model,  a->tenant,  a->suffix,   a->tool_name,
                           a->effort, a->pattern, a->previous, a->reasoning_field};
    json_t *const values[] = {a->messages, a->tools,   a->template_kwargs, a->schema,
                              a->given,    a->unknown, a->instructions,    a->input};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        mk_free(texts[i]);
    }
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        json_decref(values[i]);
    }
    for (int i = 0; i < a->n_stop; i++) {
        mk_free(a->stop[i]);
    }
    for (int i = 0; i < a->n_prompt; i++) {
        mk_free(a->prompt[i].text);
        mk_free(a->prompt[i].ids);
    }
    mk_free(a->bias);
    mk_ask_init(a);
}

int mk_ask_choices(const mk_ask *a) {
    return a->n * (a->n_prompt > 1 ? a->n_prompt : 1);
}

bool mk_ask_scores(const mk_ask *a) {
    return a->echo && a->n_logprob >= 0;
}
