// Any bytes as a tokenizer.json: refused, or a tokenizer that encodes and decodes without harm and
// can be written as GGUF metadata.
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "text/tokenizer.h"

static const char text[] = "Hello w\xC3\xB6rld 123 \xE4\xBD\xA0\xE5\xA5\xBD <s>ab</s>\n\t  don't "
                           "\xF0\x9F\x98\x80 \xCC\x81\xFF\xE2\x96 e\xCC\x81 \xE2\x96\x81x";

static void check_ids(const mk_tokenizer *t, const mk_ids *ids) {
    for (int64_t i = 0; i < ids->n; i++) {
        MK_ASSERT(ids->data[i] >= 0 && ids->data[i] < mk_tokenizer_n_vocab(t));
    }
}

static void use(const mk_tokenizer *t) {
    mk_ids ids = {0};
    char *out;
    size_t n;
    for (int k = 0; k < 4; k++) {
        mk_encode_opts opts = {.add_special = (k & 1) != 0, .parse_special = (k & 2) != 0};
        ids.n = 0;
        if (mk_tokenizer_encode(t, text, sizeof text - 1, opts, &ids, NULL) != MK_OK) {
            continue;
        }
        check_ids(t, &ids);
        if (mk_tokenizer_decode(t, ids.data, ids.n, (mk_decode_opts){.skip_special = k == 0}, &out,
                                &n, NULL) == MK_OK) {
            mk_free(out);
        }
    }
    mk_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mk_tokenizer *t = NULL;
    mk_err err = {0};
    if (mk_tokenizer_from_json((const char *)data, size, &t, &err) != MK_OK) {
        MK_ASSERT(err.msg[0] != 0);
        return 0;
    }
    use(t);
    mk_gguf_out *o = mk_gguf_out_create();
    mk_tokenizer_to_gguf(t, 0, o);
    mk_gguf_out_destroy(o);
    mk_tokenizer_destroy(t);
    return 0;
}
