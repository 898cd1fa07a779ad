/* How surprised a model is by every token of a text.  Usage: logprobs MODEL [TEXT] */
#include <minke.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static minke_status print_all(minke_model *m, const int32_t *ids, int64_t n, minke_error *err) {
    double *logprob = malloc((size_t)n * sizeof *logprob), sum = 0;
    minke_status st = minke_logprobs(m, ids, n, logprob, err);
    for (int64_t i = 0; i < n && st == MINKE_OK; i++) {
        char *text;
        size_t n_text;
        st = minke_detokenize(m, &ids[i], 1, &text, &n_text, err);
        if (st == MINKE_OK) {
            printf("%8.4f  %6d  %s\n", logprob[i], (int)ids[i], text);
            sum += logprob[i];
        }
        minke_free(text);
    }
    if (st == MINKE_OK && n > 1) {
        printf("mean %.4f nats over %lld predicted tokens\n", -sum / (double)(n - 1),
               (long long)(n - 1));
    }
    free(logprob);
    return st;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: logprobs MODEL [TEXT]\n");
        return 1;
    }
    const char *text = argc > 2 ? argv[2] : "7*8=56";
    minke_error err;
    minke_model *m = NULL;
    int32_t *ids = NULL;
    int64_t n = 0;
    minke_status st = minke_open(argv[1], NULL, &m, &err);
    if (st == MINKE_OK) {
        st = minke_tokenize(m, text, strlen(text), 1, &ids, &n, &err);
    }
    if (st == MINKE_OK) {
        st = print_all(m, ids, n, &err);
    }
    if (st != MINKE_OK) {
        fprintf(stderr, "%s\n", err.text);
    }
    minke_free(ids);
    minke_close(m);
    return st == MINKE_OK ? 0 : 1;
}
