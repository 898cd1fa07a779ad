// Transcripts: what the model wrote at the first, a middle and the last step that was kept.
//
// What stands between <think> and </think> is set apart.  A completion may begin inside (its prompt
// ended with <think>) and may end inside (it was cut off).
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "train/report_int.h"

#define MAX_TEXT   6000                 // bytes of a prompt or a completion
#define MAX_ALL    ((size_t)160 << 10)  // of all texts of the page
#define MAX_SCORES 8                    // functions of the reward at one sample

static const char open_tag[] = "<think>", close_tag[] = "</think>";
#define OPEN_LEN  (sizeof open_tag - 1)
#define CLOSE_LEN (sizeof close_tag - 1)

typedef struct {
    mk_buf *b;
    size_t max_text;
} writer;

// The first `tag` in [p, end), or NULL.
static const char *find(const char *p, const char *end, const char *tag, size_t n) {
    for (; (size_t)(end - p) >= n; p++) {
        if (memcmp(p, tag, n) == 0) {
            return p;
        }
    }
    return NULL;
}

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// One part, without the empty lines around it; nothing for an empty one.
static void write_part(writer *w, const char *kind, const char *p, const char *end) {
    while (p < end && is_space(*p)) {
        p++;
    }
    while (p < end && is_space(end[-1])) {
        end--;
    }
    if (p < end) {
        mk_buf_printf(w->b, "<div class=\"%s\">", kind);
        mk_rep_text(w->b, p, (size_t)(end - p), w->max_text);
        mk_buf_puts(w->b, "</div>\n");
    }
}

static void write_completion(writer *w, const char *p, size_t n) {
    const char *end = p + n, *open = find(p, end, open_tag, OPEN_LEN),
               *close = find(p, end, close_tag, CLOSE_LEN);
    bool thinking = close && (!open || close < open);  // it began inside
    while (p < end) {
        const char *next =
            thinking ? find(p, end, close_tag, CLOSE_LEN) : find(p, end, open_tag, OPEN_LEN);
        write_part(w, thinking ? "think" : "said", p, next ? next : end);
        p = next ? next + (thinking ? CLOSE_LEN : OPEN_LEN) : end;
        thinking = next ? !thinking : thinking;
    }
}

static void write_score(mk_buf *b, const char *name, double v) {
    char text[MK_REP_NUMBER];
    mk_buf_puts(b, "<span><bdi>");
    mk_rep_name(b, name);
    mk_buf_printf(b, "</bdi> <b>%s</b></span>", mk_rep_number(v, MK_REP_PLAIN, text));
}

static void write_scores(mk_buf *b, json_t *sample) {
    const json_t *reward = json_object_get(sample, "reward");
    const char *key;
    json_t *v;
    int n = 0;
    mk_buf_puts(b, "<p class=\"scores\">");
    if (json_is_number(reward)) {
        write_score(b, "reward", json_number_value(reward));
    }
    json_object_foreach(sample, key, v) {
        if (strncmp(key, "reward/", 7) == 0 && json_is_number(v) && n++ < MAX_SCORES) {
            write_score(b, key + 7, json_number_value(v));
        }
    }
    mk_buf_puts(b, "</p>");
}

static void write_sample(writer *w, const mk_sample *s) {
    const json_t *prompt = json_object_get(s->json, "prompt"),
                 *text = json_object_get(s->json, "completion");
    mk_buf_puts(w->b, "<article class=\"sample\">\n");
    if (json_is_string(prompt)) {
        const char *p = json_string_value(prompt);
        write_part(w, "prompt", p, p + json_string_length(prompt));
    }
    write_completion(w, json_string_value(text), json_string_length(text));
    write_scores(w->b, s->json);
    mk_buf_puts(w->b, "</article>\n");
}

static int64_t write_run(writer *w, const mk_runlog *r, bool name) {
    char text[MK_REP_NUMBER];
    if (name) {
        mk_buf_puts(w->b, "<h3><bdi>");
        mk_rep_name(w->b, r->name);
        mk_buf_puts(w->b, "</bdi></h3>\n");
    }
    mk_buf_puts(w->b, "<div class=\"steps\">\n");
    for (int64_t i = 0; i < r->n_sample; i++) {
        bool first = i == 0 || r->sample[i - 1].step != r->sample[i].step;
        bool last = i + 1 == r->n_sample || r->sample[i + 1].step != r->sample[i].step;
        if (first) {
            mk_buf_printf(w->b, "<div class=\"step\"><h4>Step %s</h4>\n",
                          mk_rep_number((double)r->sample[i].step, MK_REP_COUNT, text));
        }
        write_sample(w, &r->sample[i]);
        mk_buf_puts(w->b, last ? "</div>\n" : "");
    }
    mk_buf_puts(w->b, "</div>\n");
    return r->n_sample;
}

int64_t mk_rep_samples(mk_buf *b, const mk_runlog *const *run, int n_run) {
    int64_t n = 0;
    for (int r = 0; r < n_run; r++) {
        n += run[r]->n_sample;
    }
    if (n == 0) {
        return 0;
    }
    // two texts each
    writer w = {b, MAX_ALL / 2 / (size_t)n < MAX_TEXT ? MAX_ALL / 2 / (size_t)n : MAX_TEXT};
    mk_buf_puts(b, "<section id=\"samples\"><h2>Samples</h2><p class=\"note\">of each step from "
                   "the best reward to the worst</p>\n");
    for (int r = 0; r < n_run; r++) {
        if (run[r]->n_sample > 0) {
            (void)write_run(&w, run[r], n_run > 1);
        }
    }
    mk_buf_puts(b, "</section>\n");
    return n;
}
