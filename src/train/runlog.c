// See runlog.h.
#include "train/runlog.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "train/ckpt.h"

#define LINE_MAX_BYTES ((size_t)4 << 20)

// --- lines ---------------------------------------------------------------------------------------

// Calls `fn` for every whole line that is an object with a step; the rest is counted.
typedef struct {
    const char *at, *end;  // of what is left
    const char *line;      // the one read last
    size_t n_line;
    int64_t step;  // of it
    int64_t n_bad;
    bool half;
} line_reader;

static bool is_step(const json_t *v) {
    json_int_t i = json_integer_value(v);
    return json_is_integer(v) && i >= 0 && i <= MK_RUNLOG_MAX_STEP;
}

// The next good line as JSON; NULL at the end.
static json_t *next_line(line_reader *r) {
    while (r->at < r->end) {
        const char *nl = memchr(r->at, '\n', (size_t)(r->end - r->at));
        size_t n = (size_t)((nl ? nl : r->end) - r->at);
        r->line = r->at;
        r->n_line = n;
        r->at = nl ? nl + 1 : r->end;
        r->half = !nl && n > 0;
        if (n == 0) {
            continue;
        }
        json_t *v = NULL;
        if (n <= LINE_MAX_BYTES && mk_json_parse(r->line, n, "line", &v, NULL) == MK_OK &&
            json_is_object(v) && is_step(json_object_get(v, "step"))) {
            r->step = json_integer_value(json_object_get(v, "step"));
            r->half = false;  // whole, only its newline is missing
            return v;
        }
        json_decref(v);
        r->n_bad += !r->half;
    }
    return NULL;
}

// --- curves --------------------------------------------------------------------------------------

const mk_curve *mk_runlog_find(const mk_runlog *r, const char *name) {
    for (int64_t i = 0; i < r->n_curve; i++) {
        if (strcmp(r->curve[i].name, name) == 0) {
            return &r->curve[i];
        }
    }
    return NULL;
}

// NULL: there are too many.
static mk_curve *find_or_add(mk_runlog *r, const char *name) {
    mk_curve *c = (mk_curve *)(uintptr_t)mk_runlog_find(r, name);
    if (!c && r->n_curve < MK_RUNLOG_MAX_CURVE) {
        c = &r->curve[r->n_curve++];
        c->name = mk_strdup(name);
    }
    return c;
}

// Points at or behind `step` go: what comes now replaces them.
static void rewind_to(mk_curve *c, int64_t step) {
    while (c->n > 0 && c->step[c->n - 1] >= step) {
        c->n--;
    }
}

static mk_status add_point(mk_curve *c, int64_t step, double value, mk_err *err) {
    if (c->n == c->cap) {
        int64_t cap = c->cap ? 2 * c->cap : 256;
        int64_t *s = mk_try_realloc(c->step, (size_t)cap, sizeof *s);
        c->step = s ? s : c->step;
        double *v = s ? mk_try_realloc(c->value, (size_t)cap, sizeof *v) : NULL;
        if (!v) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for %lld points of a curve", (long long)cap);
        }
        c->value = v;
        c->cap = cap;
    }
    c->step[c->n] = step;
    c->value[c->n++] = value;
    return MK_OK;
}

static mk_status add_line(mk_runlog *r, int64_t step, json_t *line, mk_err *err) {
    const char *key;
    json_t *v;
    if (r->n_line > 0 && step <= r->last_step) {
        for (int64_t i = 0; i < r->n_curve; i++) {
            rewind_to(&r->curve[i], step);
        }
        r->first_step = step < r->first_step ? step : r->first_step;
    }
    json_object_foreach(line, key, v) {
        double x = json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v);
        if (strcmp(key, "step") == 0 || !(json_is_number(v) || json_is_boolean(v)) ||
            !(fabs(x) <= MK_RUNLOG_MAX_VALUE)) {
            continue;
        }
        mk_curve *c = find_or_add(r, key);
        if (!c) {
            r->n_lost++;
            continue;
        }
        MK_TRY(add_point(c, step, x, err));
    }
    r->first_step = r->n_line == 0 ? step : r->first_step;
    r->last_step = step;
    r->n_line++;
    return MK_OK;
}

static mk_status read_log(mk_runlog *r, mk_err *err) {
    char *path = mk_path_join(r->dir, "log.jsonl");
    mk_map map = {0};
    mk_status st = mk_map_open(path, &map, err);
    line_reader in = {.at = (const char *)map.data};
    in.end = in.at + map.n_bytes;
    json_t *line;
    while (st == MK_OK && (line = next_line(&in))) {
        st = add_line(r, in.step, line, err);
        json_decref(line);
    }
    r->n_bad = in.n_bad;
    r->half_line = in.half;
    if (st == MK_OK && r->n_line == 0) {
        st = MK_FAIL(err, MK_ECORRUPT,
                     "%s: expected objects with a \"step\", one in each line; "
                     "none of its %lld lines is one",
                     path, (long long)(in.n_bad + in.half));
    }
    mk_map_close(&map);
    mk_free(path);
    return st;
}

// --- samples -------------------------------------------------------------------------------------

// Where a sample stands in its file.
typedef struct {
    int64_t step;
    double reward;  // -HUGE_VAL: none
    const char *line;
    size_t n;
} place;

typedef struct {
    place *at;
    int64_t n, cap;
} place_list;

static mk_status add_place(place_list *l, const place *p, mk_err *err) {
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 256;
        place *at = mk_try_realloc(l->at, (size_t)cap, sizeof *at);
        if (!at) {
            return MK_FAIL(err, MK_ENOMEM, "no memory for %lld samples", (long long)cap);
        }
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = *p;
    return MK_OK;
}

// By step, then the best reward first, then as they stand in the file.
static int compare_places(const void *a, const void *b) {
    const place *p = a, *q = b;
    if (p->step != q->step) {
        return p->step < q->step ? -1 : 1;
    }
    if (p->reward != q->reward) {
        return p->reward > q->reward ? -1 : 1;
    }
    return p->line < q->line ? -1 : p->line > q->line;
}

// [*from, *to): the places of the step that is nearest to `step` (the earlier of two).
static void nearest_step(const place_list *l, int64_t step, int64_t *from, int64_t *to) {
    int64_t best = 0;
    for (int64_t i = 1; i < l->n; i++) {
        if (llabs(l->at[i].step - step) < llabs(l->at[best].step - step)) {
            best = i;
        }
    }
    *from = best;
    for (*to = best; *to < l->n && l->at[*to].step == l->at[best].step;) {
        ++*to;
    }
}

// Of the first, a middle and the last step some samples, from the best to the worst.
static void choose(mk_runlog *r, const place_list *l) {
    int64_t first = l->at[0].step, last = l->at[l->n - 1].step, done = -1;
    r->sample = mk_zalloc(MK_RUNLOG_SAMPLED_STEPS * MK_RUNLOG_SAMPLES * sizeof *r->sample);
    for (int k = 0; k < MK_RUNLOG_SAMPLED_STEPS; k++) {
        int64_t from, to;
        nearest_step(l, first + (last - first) / (MK_RUNLOG_SAMPLED_STEPS - 1) * k, &from, &to);
        if (k == MK_RUNLOG_SAMPLED_STEPS - 1) {
            nearest_step(l, last, &from, &to);
        }
        if (l->at[from].step == done) {
            continue;
        }
        done = l->at[from].step;
        int64_t n = to - from < MK_RUNLOG_SAMPLES ? to - from : MK_RUNLOG_SAMPLES;
        for (int64_t i = 0; i < n; i++) {
            const place *p = &l->at[from + (n > 1 ? i * (to - from - 1) / (n - 1) : 0)];
            json_t *v = NULL;
            if (mk_json_parse(p->line, p->n, "sample", &v, NULL) == MK_OK) {
                r->sample[r->n_sample++] = (mk_sample){p->step, v};
            }
        }
    }
}

static mk_status read_samples(mk_runlog *r, mk_err *err) {
    char *path = mk_path_join(r->dir, "samples.jsonl");
    mk_map map = {0};
    place_list list = {0};
    mk_status st = mk_path_is_file(path) ? mk_map_open(path, &map, err) : MK_OK;
    mk_free(path);
    line_reader in = {.at = (const char *)map.data};
    in.end = in.at + map.n_bytes;
    json_t *v;
    while (st == MK_OK && (v = next_line(&in))) {
        const json_t *reward = json_object_get(v, "reward");
        place p = {in.step, json_is_number(reward) ? json_number_value(reward) : -HUGE_VAL, in.line,
                   in.n_line};
        st = json_is_string(json_object_get(v, "completion")) ? add_place(&list, &p, err) : MK_OK;
        json_decref(v);
    }
    if (st == MK_OK && list.n > 0) {
        qsort(list.at, (size_t)list.n, sizeof *list.at, compare_places);
        choose(r, &list);
    }
    mk_free(list.at);
    mk_map_close(&map);
    return st;
}

// --- the whole folder ----------------------------------------------------------------------------

// A run without a checkpoint has no recipe yet; a damaged one is a reason to warn, not to fail.
static void read_recipe(mk_runlog *r) {
    mk_ckpt *c = NULL;
    mk_err err = {0};
    mk_status st = mk_ckpt_latest(r->dir, &c, &err);
    if (st == MK_OK) {
        mk_ckpt_head head = mk_ckpt_get_head(c);
        r->run = json_deep_copy(head.run);
        r->ckpt_step = head.step;
        mk_ckpt_close(c);
    } else if (st != MK_ENOTFOUND) {
        mk_log_msg(MK_LOG_WARN, "%s; the report has no recipe", err.msg);
    }
}

// Last part of a path, without the slashes behind it.
static const char *base_name(char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        dir[--n] = 0;
    }
    return mk_path_base(dir);
}

mk_status mk_runlog_open(const char *dir, mk_runlog **out, mk_err *err) {
    if (!mk_path_is_dir(dir)) {
        return MK_FAIL(err, MK_ENOTFOUND, "%s: expected the folder of a run, with a log.jsonl",
                       dir);
    }
    mk_runlog *r = mk_zalloc(sizeof *r);
    r->dir = mk_strdup(dir);
    r->name = base_name(r->dir);
    r->curve = mk_zalloc(MK_RUNLOG_MAX_CURVE * sizeof *r->curve);
    mk_status st = read_log(r, err);
    st = st == MK_OK ? read_samples(r, err) : st;
    if (st != MK_OK) {
        mk_runlog_close(r);
        return st;
    }
    read_recipe(r);
    *out = r;
    return MK_OK;
}

void mk_runlog_close(mk_runlog *r) {
    if (!r) {
        return;
    }
    for (int64_t i = 0; i < r->n_curve; i++) {
        mk_free(r->curve[i].name);
        mk_free(r->curve[i].step);
        mk_free(r->curve[i].value);
    }
    for (int64_t i = 0; i < r->n_sample; i++) {
        json_decref(r->sample[i].json);
    }
    json_decref(r->run);
    mk_free(r->sample);
    mk_free(r->curve);
    mk_free(r->dir);
    mk_free(r);
}
