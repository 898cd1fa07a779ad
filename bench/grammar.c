// What constrained decoding costs: `bench_grammar MODEL.gguf` prints, for a few schemas, the time
// of compiling, and of a mask per token while answers of allowed tokens are made: the first answer
// (nothing is known yet) and the fiftieth (as in a server that gets one schema again and again).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/json.h"
#include "chat/grammar.h"
#include "format/gguf.h"

static const char *const schemas[] = {
    "{\"type\":\"object\"}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":"
    "\"integer\",\"minimum\":0},\"email\":{\"type\":\"string\"},\"city\":{\"type\":\"string\"},"
    "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},\"required\":[\"name\",\"age\","
    "\"email\",\"city\",\"tags\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\",\"maxLength\":100},"
    "\"text\":{\"type\":\"string\",\"minLength\":20,\"maxLength\":2000}},\"required\":[\"title\","
    "\"text\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"slug\":{\"type\":\"string\",\"pattern\":"
    "\"^[a-z0-9]+(-[a-z0-9]+)*$\"},\"when\":{\"type\":\"string\",\"format\":\"date-time\"},"
    "\"score\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1}},\"required\":[\"slug\",\"when\","
    "\"score\"],\"additionalProperties\":false}",
};

typedef struct {
    uint64_t *mask, rng;
    int64_t n_vocab;
    double total_ms, worst_ms;
    int n;
} figures;

// Time of this thread on a processor: what other programs do does not count.
static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int32_t choose(figures *f) {
    for (int i = 0; i < 4000; i++) {  // some allowed token
        f->rng = f->rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
        int32_t id = (int32_t)((f->rng >> 33) % (uint64_t)f->n_vocab);
        if ((f->mask[id / 64] >> (id % 64) & 1) != 0) {
            return id;
        }
    }
    for (int32_t id = 0; id < f->n_vocab; id++) {
        if ((f->mask[id / 64] >> (id % 64) & 1) != 0) {
            return id;
        }
    }
    return -1;
}

static void answer(mk_grammar *g, mk_token_trie *trie, figures *f) {
    mk_grammar_state *s = NULL;
    mk_err err = {0};
    if (mk_grammar_start(g, trie, &s, &err) != MK_OK) {
        return;
    }
    for (int i = 0; i < 200 && !mk_grammar_must_end(s); i++) {
        memset(f->mask, 0xff, ((size_t)f->n_vocab + 63) / 64 * 8);
        double t = now_ms();
        if (mk_grammar_mask(s, f->mask, f->n_vocab, &err) != MK_OK) {
            fprintf(stderr, "%s\n", err.msg);
            break;
        }
        double ms = now_ms() - t;
        int32_t id = choose(f);
        t = now_ms();
        if (id < 0 || mk_grammar_accept(s, id, &err) != MK_OK) {
            break;
        }
        ms += now_ms() - t;
        f->total_ms += ms;
        f->worst_ms = ms > f->worst_ms ? ms : f->worst_ms;
        f->n++;
    }
    mk_grammar_state_destroy(s);
}

static void measure(const char *schema, mk_token_trie *trie, figures *f) {
    json_t *v = NULL;
    mk_grammar *g = NULL;
    mk_err err = {0};
    double t = now_ms();
    if (mk_json_parse(schema, strlen(schema), "schema", &v, &err) != MK_OK ||
        mk_grammar_from_schema(v, NULL, &g, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    printf("%.60s...\n  compiled in %.2f ms\n", schema, now_ms() - t);
    for (int k = 0; k < 50; k++) {
        f->total_ms = f->worst_ms = 0;
        f->n = 0;
        answer(g, trie, f);
        if (k == 0 || k == 1 || k == 49) {
            printf("  answer %2d: %3d tokens, %.3f ms per token, worst %.2f ms, tables %.1f MiB\n",
                   k + 1, f->n, f->total_ms / (f->n > 0 ? f->n : 1), f->worst_ms,
                   (double)mk_grammar_bytes(g) / 1048576);
        }
    }
    mk_grammar_unref(g);
    json_decref(v);
}

int main(int argc, char **argv) {
    mk_gguf *file = NULL;
    mk_tokenizer *tok = NULL;
    mk_token_trie *trie = NULL;
    mk_err err = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: bench_grammar MODEL.gguf\n");
        return 1;
    }
    if (mk_gguf_open(argv[1], &file, &err) != MK_OK ||
        mk_tokenizer_from_gguf(file, &tok, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    double t = now_ms();
    if (mk_token_trie_create(tok, &trie, &err) != MK_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    figures f = {.n_vocab = mk_tokenizer_n_vocab(tok), .rng = 1};
    printf("%lld tokens, trie built in %.1f ms\n", (long long)f.n_vocab, now_ms() - t);
    f.mask = mk_alloc(((size_t)f.n_vocab + 63) / 64 * 8);
    for (size_t i = 0; i < sizeof(schemas) / sizeof(schemas[0]); i++) {
        measure(schemas[i], trie, &f);
    }
    mk_free(f.mask);
    mk_token_trie_unref(trie);
    mk_tokenizer_destroy(tok);
    mk_gguf_close(file);
    return 0;
}
