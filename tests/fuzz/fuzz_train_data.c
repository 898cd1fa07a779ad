// Any bytes as a file of training data.  Input: a byte that chooses model and options, then the
// file.
//
// Invariants: whatever is read, samples hold ids of the vocabulary, nothing predicts the first
// token of one, counts agree with masks, and a batcher gives every sample once.  Runs in the
// repository root, where the tokenizers lie.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "train/batcher.h"
#include "train/data.h"

enum { N_MODEL = 4 };
static mk_tokenizer *tok[N_MODEL];
static mk_chat_template *template[N_MODEL];

static void load(void) {
    static const char *const names[N_MODEL] = {"chatml", "r1", "think", "llama2"};
    for (int i = 0; i < N_MODEL; i++) {
        char path[128], *jinja, *config;
        size_t n;
        mk_err err = {0};
        snprintf(path, sizeof path, "tests/golden/train/%s", names[i]);
        MK_ASSERT(mk_tokenizer_from_folder(path, &tok[i], &err) == MK_OK);
        snprintf(path, sizeof path, "tests/golden/train/%s/chat_template.jinja", names[i]);
        MK_ASSERT(mk_file_read(path, 1 << 20, &jinja, &n, &err) == MK_OK);
        snprintf(path, sizeof path, "tests/golden/train/%s/tokenizer_config.json", names[i]);
        MK_ASSERT(mk_file_read(path, 1 << 20, &config, &n, &err) == MK_OK);
        mk_chat_sources src = {.file = jinja, .tokenizer_config = config};
        MK_ASSERT(mk_chat_template_create(&src, &template[i], &err) == MK_OK);
        mk_free(jinja);
        mk_free(config);
    }
}

static void check_seq(const mk_tokenizer *t, const mk_data_seq *s) {
    int64_t n = 0;
    MK_ASSERT(s->n > 0 && s->mask[0] == 0);
    for (int64_t i = 0; i < s->n; i++) {
        MK_ASSERT(s->ids[i] >= 0 && s->ids[i] < mk_tokenizer_n_vocab(t) && s->mask[i] <= 1);
        n += s->mask[i];
    }
    MK_ASSERT(n == s->n_target);
}

static void check(const mk_tokenizer *t, const mk_data *d) {
    mk_data_stats s;
    mk_batcher *b = NULL;
    mk_data_batch batch;
    int64_t n_seen = 0;
    MK_ASSERT(mk_data_get_stats(d, &s, NULL) == MK_OK && s.n_sample == mk_data_n_sample(d));
    (void)mk_data_hash(d);
    for (int64_t i = 0; i < mk_data_n_sample(d); i++) {
        mk_data_sample x = mk_data_get(d, i);
        for (int k = 0; k < x.n_seq; k++) {
            check_seq(t, &x.seq[k]);
            MK_ASSERT(x.seq[k].n >= x.n_prompt && (x.json || x.seq[k].n_target > 0));
        }
    }
    mk_batcher_opts o = {.data = d, .n_row = 2 * s.len_max, .shuffle = true};
    if (mk_batcher_create(&o, &b, NULL) == MK_OK) {
        do {
            mk_batcher_next(b, &batch);
            n_seen += batch.n_item;
        } while (!batch.last);
        MK_ASSERT(n_seen == s.n_sample);
    }
    mk_batcher_destroy(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!tok[0]) {
        load();
    }
    if (size == 0) {
        return 0;
    }
    int how = data[0];
    mk_data_opts o = MK_DATA_DEFAULTS;
    mk_data *d = NULL;
    mk_err err = {0};
    o.tokenizer = tok[how & 3];
    o.learn = (mk_data_learn)(how >> 2 & 3);
    o.max_len = how & 16 ? 12 : 0;
    o.longer = how & 32 ? MK_LONG_DROP : MK_LONG_CUT;
    o.raw = (how & 0xC0) == 0xC0;
    o.template = how & 64 ? NULL : template[how & 3];
    o.allow_unknown = (how & 128) != 0;
    o.skip_bad = size % 2 == 0;
    o.separator = "\n";
    MK_ASSERT(mk_data_create(&o, &d, &err) == MK_OK);
    const char *name = (how & 0x90) == 0x90 ? "x.txt" : "x.jsonl";
    mk_status st = mk_data_add_memory(d, name, (const char *)data + 1, size - 1, &err);
    MK_ASSERT((st == MK_OK) == (err.msg[0] == 0));
    check(tok[how & 3], d);
    mk_data_destroy(d);
    return 0;
}
