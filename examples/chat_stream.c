/* A conversation: every line of standard input is a message.  Usage: chat_stream MODEL [SYSTEM] */
#define _POSIX_C_SOURCE 200809L
#include <minke.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reasoning goes to standard error, the answer to standard output, both as they are made. */
static int print_part(void *arg, const minke_event *ev) {
    (void)arg;
    if (ev->kind != MINKE_TOKEN) {
        FILE *to = ev->kind == MINKE_TEXT ? stdout : stderr;
        fwrite(ev->text, 1, ev->n, to);
        fflush(to);
    }
    return 0;
}

static int talk(minke_chat *chat, minke_error *err) {
    char *line = NULL;
    size_t size = 0;
    int ok = 1;
    while (ok && getline(&line, &size, stdin) > 0) {
        minke_answer *a = NULL;
        line[strcspn(line, "\n")] = 0;
        ok = minke_chat_add(chat, "user", line, err) == MINKE_OK &&
             minke_chat_answer(chat, NULL, print_part, NULL, &a, err) == MINKE_OK;
        if (ok) {
            printf("\n");
            fprintf(stderr, "\n(%lld of %lld prompt tokens were in the cache)\n",
                    (long long)a->n_cached, (long long)a->n_prompt);
        }
        minke_answer_free(a);
    }
    free(line);
    return ok;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: chat_stream MODEL [SYSTEM]\n");
        return 1;
    }
    minke_error err;
    minke_model *m = NULL;
    minke_chat *chat = NULL;
    int ok = minke_open(argv[1], NULL, &m, &err) == MINKE_OK &&
             minke_chat_new(m, argc > 2 ? argv[2] : NULL, &chat, &err) == MINKE_OK;
    if (ok) {
        ok = talk(chat, &err);
    }
    if (!ok) {
        fprintf(stderr, "%s\n", err.text);
    }
    minke_chat_free(chat);
    minke_close(m);
    return ok ? 0 : 1;
}
