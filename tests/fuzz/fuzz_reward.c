// A hostile completion against every reward that reads it, and the same bytes as an expression.
// Scoring never fails for what a model wrote; an expression that has a value has as many numbers as
// its operators ask for.
// libfuzzer: -max_len=4096
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "train/expr.h"
#include "train/reward.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *const spec[] = {
    "exact", "numeric",        "regex:pattern=-?\\d+( eggs)?", "expression",
    "math",  "format:lines=2", "length:max=100,soft=20",       "math:name=tag,tag=answer",
};
enum { N_SPEC = sizeof spec / sizeof spec[0] };

static mk_rewards *rewards;
static json_t *line;

static void start(void) {
    static const char text[] = "{\"answer\":\"24\",\"numbers\":[4,5,7,9],\"target\":24}";
    if (mk_rewards_create(spec, N_SPEC, NULL, &rewards, NULL) != MK_OK ||
        mk_json_parse(text, sizeof text - 1, "line", &line, NULL) != MK_OK) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    double each[N_SPEC], total;
    mk_expr e;
    if (!rewards) {
        start();
    }
    mk_reward_input in = {.completion = (const char *)data,
                          .n_completion = n,
                          .thinking = n > 0 && data[0] == 't',
                          .finished = true,
                          .n_tok = (int64_t)n,
                          .line = line};
    if (mk_rewards_score(rewards, &in, each, &total, NULL) != MK_OK) {
        abort();
    }
    for (int i = 0; i < N_SPEC; i++) {
        if (!(each[i] >= -1 && each[i] <= 1)) {
            abort();
        }
    }
    if (mk_expr_eval((const char *)data, n, &e, NULL) == MK_OK && e.n_number != e.n_op + 1) {
        abort();
    }
    return 0;
}
