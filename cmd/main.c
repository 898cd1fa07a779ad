// minke VERB: finds the verb, prints its error, returns its exit code.
#include "cmd.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"
#include "minke.h"

typedef struct {
    const char *name, *about;
    const mk_opt_spec *spec;
    mk_status (*run)(int argc, char *const *argv, mk_err *err);
} verb;

static const verb verbs[] = {
#define X(name, about) {#name, about, &cmd_##name##_spec, cmd_##name},
    CMD_VERBS(X)
#undef X
};
#define N_VERB (sizeof verbs / sizeof verbs[0])

static const verb *find_verb(const char *name) {
    for (size_t i = 0; i < N_VERB; i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

static mk_status unknown_verb(const char *name, mk_err *err) {
    const char *names[N_VERB + 1];
    for (size_t i = 0; i < N_VERB; i++) {
        names[i] = verbs[i].name;
    }
    names[N_VERB] = "help";
    const char *near = mk_opt_suggest(name, names, N_VERB + 1);
    return near ? MK_FAIL(err, MK_EUSAGE, "unknown verb '%s'; did you mean '%s'?", name, near)
                : MK_FAIL(err, MK_EUSAGE, "unknown verb '%s'; `minke help` lists them", name);
}

static void print_overview(void) {
    printf("minke %s: runs open-weight reasoning models\n\nUsage: minke VERB [options]\n\n",
           minke_version());
    for (size_t i = 0; i < N_VERB; i++) {
        printf("  %-12s %s\n", verbs[i].name, verbs[i].about);
    }
    printf("  %-12s %s\n", "help VERB", "the options of a verb (also: minke VERB --help)");
    printf(
        "\n`minke` alone starts a chat with the built-in model.\n"
        "A MODEL is a .gguf file, a Hugging Face folder, or a name in models/.\n" CMD_DEFAULT_ABOUT
        ".\n\n"
        "Exit codes: 0 ok, 1 usage, 2 model missing, 3 does not fit, 4 network, 5 corrupt file,\n"
        "6 context overflow, 130 interrupted.\n");
}

static mk_status print_help(const char *name, mk_err *err) {
    if (!name) {
        print_overview();
        return MK_OK;
    }
    const verb *v = find_verb(name);
    if (!v) {
        return unknown_verb(name, err);
    }
    mk_buf b;
    mk_buf_init(&b, 1 << 20);
    mk_opt_help(v->spec, &b);
    printf("%s", b.data ? b.data : "");
    mk_buf_free(&b);
    return MK_OK;
}

// Without a verb: a chat for a person, the overview for a program.
static mk_status no_verb(char *const *argv, mk_err *err) {
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        print_overview();
        return MK_OK;
    }
    return cmd_chat(1, argv, err);
}

static bool is_any(const char *word, const char *a, const char *b, const char *c) {
    return !strcmp(word, a) || !strcmp(word, b) || !strcmp(word, c);
}

static mk_status dispatch(int argc, char *const *argv, mk_err *err) {
    if (argc < 2) {
        return no_verb(argv, err);
    }
    if (is_any(argv[1], "help", "--help", "-h")) {
        return print_help(argc > 2 ? argv[2] : NULL, err);
    }
    if (is_any(argv[1], "version", "--version", "-V")) {
        printf("minke %s\n", minke_version());
        return MK_OK;
    }
    if (argv[1][0] == '-') {
        return MK_FAIL(err, MK_EUSAGE,
                       "expected a verb, got the option '%s'; `minke help` lists the verbs",
                       argv[1]);
    }
    const verb *v = find_verb(argv[1]);
    return v ? v->run(argc - 1, argv + 1, err) : unknown_verb(argv[1], err);
}

int main(int argc, char **argv) {
    // a reader that left is a write error, seen and handled where it happens
    (void)signal(SIGPIPE, SIG_IGN);
    mk_json_use_alloc();
    mk_err err = {0};
    mk_status st = dispatch(argc, argv, &err);
    if (st == MK_OK) {
        st = cmd_check_stdout(&err);
    }
    if (st != MK_OK && err.msg[0]) {
        fprintf(stderr, "minke: %s\n", err.msg);
    }
    return mk_status_exit_code(st);
}
