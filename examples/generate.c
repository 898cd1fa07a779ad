/* Continues a text, without the model's chat template.  Usage: generate MODEL [TEXT [TOKENS]] */
#include <minke.h>
#include <stdio.h>
#include <stdlib.h>

static int print_text(void *arg, const minke_event *ev) {
    (void)arg;
    if (ev->kind == MINKE_TEXT) {
        fwrite(ev->text, 1, ev->n, stdout);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: generate MODEL [TEXT [TOKENS]]\n");
        return 1;
    }
    minke_error err;
    minke_model *m;
    if (minke_open(argv[1], NULL, &m, &err) != MINKE_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    minke_sampling how = minke_sampling_of(m);
    how.max_tokens = argc > 3 ? strtol(argv[3], NULL, 10) : 100;

    minke_answer *a;
    const char *text = argc > 2 ? argv[2] : "<|user|>What is 7*8-9?<|assistant|>";
    minke_status st = minke_generate(m, text, &how, print_text, NULL, &a, &err);
    if (st == MINKE_OK) {
        printf("\n");
        fprintf(stderr, "%lld tokens in %.0f ms\n", (long long)a->n_ids, a->generation_ms);
    } else {
        fprintf(stderr, "%s\n", err.text);
    }
    minke_answer_free(a);
    minke_close(m);
    return st == MINKE_OK ? 0 : 1;
}
