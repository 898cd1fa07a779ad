// How much memory this process may still take: what the kernel calls available, within the limits
// of its cgroup.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "chat/llm.h"

// Value behind "NAME:" in /proc/meminfo, in bytes; SIZE_MAX if it is not there.
static size_t meminfo(const char *name) {
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    size_t n = strlen(name), out = SIZE_MAX;
    unsigned long long kb = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, name, n) == 0 && sscanf(line + n, ": %llu", &kb) == 1) {
            out = (size_t)kb * 1024;
        }
    }
    if (f) {
        fclose(f);
    }
    return out;
}

// A number in a one-line file; SIZE_MAX if there is none ("max" in a cgroup without a limit).
static size_t number_in(const char *path) {
    FILE *f = fopen(path, "r");
    unsigned long long v = 0;
    size_t out = f && fscanf(f, "%llu", &v) == 1 ? (size_t)v : SIZE_MAX;
    if (f) {
        fclose(f);
    }
    return out;
}

size_t mk_memory_available(void) {
    size_t free_now = meminfo("MemAvailable");
    size_t limit = number_in("/sys/fs/cgroup/memory.max"),
           used = number_in("/sys/fs/cgroup/memory.current");
    size_t in_group = limit == SIZE_MAX || used == SIZE_MAX ? SIZE_MAX
                      : limit > used                        ? limit - used
                                                            : 0;
    return free_now < in_group ? free_now : in_group;
}
