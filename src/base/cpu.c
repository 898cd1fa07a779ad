// How many processors this process may really use: the affinity mask, cut by the CPU quota of its
// control group.
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

static int affinity_count(void) {
    // The kernel refuses a mask smaller than its own; grow until it fits.
    for (int n = 1024; n <= 1 << 20; n *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        size_t size = CPU_ALLOC_SIZE((size_t)n);
        if (!set) {
            return 1;
        }
        int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0) {
            return count;
        }
    }
    return 1;
}

static bool read_line(const char *path, char *line, size_t size) {
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(line, (int)size, f);
    if (f) {
        fclose(f);
    }
    return ok;
}

// Processors granted by one quota, rounded up; 0 = no limit.
static int quota_count(long long quota, long long period) {
    return quota > 0 && period > 0 && quota / period < 1 << 20
               ? (int)((quota + period - 1) / period)
               : 0;
}

// Control groups v2: cpu.max ("QUOTA PERIOD" or "max PERIOD") of the own group and of all above it.
static int cgroup2_count(void) {
    char line[512], path[1024];
    if (!read_line("/proc/self/cgroup", line, sizeof line) || strncmp(line, "0::", 3) != 0) {
        return 0;
    }
    char *group = line + 3;
    group[strcspn(group, "\n")] = '\0';
    int best = 0;
    for (;;) {
        char text[64];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        long long quota, period;
        if (read_line(path, text, sizeof text) && sscanf(text, "%lld %lld", &quota, &period) == 2) {
            int n = quota_count(quota, period);
            best = n && (!best || n < best) ? n : best;
        }
        char *slash = strrchr(group, '/');
        if (!slash) {
            return best;
        }
        *slash = '\0';
    }
}

static int cgroup1_count(void) {
    char quota[64], period[64];
    if (!read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota, sizeof quota) ||
        !read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period, sizeof period)) {
        return 0;
    }
    return quota_count(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

int mk_cpu_count(void) {
    int n = affinity_count(), v2 = cgroup2_count(), v1 = cgroup1_count();
    n = v2 && v2 < n ? v2 : n;
    return v1 && v1 < n ? v1 : n;
}
