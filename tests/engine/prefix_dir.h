// A folder of its own for a test of the prefix cache on disk; who makes it removes it.
#ifndef TESTS_ENGINE_PREFIX_DIR_H
#define TESTS_ENGINE_PREFIX_DIR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define BIG ((uint64_t)1 << 40)  // bytes that it may have

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    mk_log_set_level(MK_LOG_QUIET);
    snprintf(dir, sizeof dir, "/tmp/minke-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

#endif
