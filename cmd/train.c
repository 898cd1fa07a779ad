// minke train METHOD: finds the method and runs it.
#include "train.h"

#include <string.h>

typedef struct {
    const char *name;
    const mk_opt_spec *spec;
    mk_status (*run)(int argc, char *const *argv, mk_err *err);
} method;

static const method methods[] = {
#define X(name, about) {#name, &cmd_train_##name##_spec, cmd_train_##name},
    CMD_TRAIN_METHODS(X)
#undef X
};
#define N_METHOD (sizeof methods / sizeof methods[0])

#define LINE(name, about) "  " #name ": " about "\n"

const mk_opt_spec cmd_train_spec = {
    .program = "minke train",
    .usage = "METHOD [options]",
    .about = "Trains a model. `minke train METHOD --help` shows the options of a method.",
    .more = "Methods:\n" CMD_TRAIN_METHODS(LINE),
    .max_args = -1,
};

static mk_status unknown_method(const char *name, mk_err *err) {
    const char *names[N_METHOD];
    for (size_t i = 0; i < N_METHOD; i++) {
        names[i] = methods[i].name;
    }
    const char *near = mk_opt_suggest(name, names, N_METHOD);
    return near ? MK_FAIL(err, MK_EUSAGE, "train: unknown method '%s'; did you mean '%s'?", name,
                          near)
                : MK_FAIL(err, MK_EUSAGE,
                          "train: unknown method '%s'; `minke train --help` lists them", name);
}

mk_status cmd_train(int argc, char *const *argv, mk_err *err) {
    // without a method: --help, or an option that this table does not have
    if (argc < 2 || argv[1][0] == '-') {
        mk_opt_result r = {0};
        mk_status st = cmd_parse(&cmd_train_spec, argc, argv, NULL, &r, err);
        bool help = r.help;
        mk_opt_free(&cmd_train_spec, NULL, &r);
        return st != MK_OK || help
                   ? st
                   : MK_FAIL(err, MK_EUSAGE,
                             "train: expected a method; `minke train --help` lists them");
    }
    for (size_t i = 0; i < N_METHOD; i++) {
        if (strcmp(methods[i].name, argv[1]) == 0) {
            return methods[i].run(argc - 1, argv + 1, err);
        }
    }
    return unknown_method(argv[1], err);
}
