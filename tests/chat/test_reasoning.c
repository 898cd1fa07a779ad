// Splitting reasoning from the answer: the same events for every way to cut the text.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "chat/reasoning.h"

typedef struct {
    char part[2][4096];  // content, reasoning
    size_t n[2];
    bool content_began, bad_order;
} events;

static void collect(void *arg, bool reasoning, const char *text, size_t n) {
    events *e = arg;
    assert_true(n > 0);
    memcpy(e->part[reasoning] + e->n[reasoning], text, n);
    e->n[reasoning] += n;
    e->bad_order = e->bad_order || (reasoning && e->content_began);
    e->content_began = e->content_began || !reasoning;
}

// Feeds text cut at a and b (a <= b); step = 1 instead feeds byte by byte.
static events run(const mk_reasoning_opts *o, const char *text, size_t a, size_t b, bool bytes) {
    events e = {0};
    mk_err err = {0};
    mk_reasoning r;
    size_t n = strlen(text), cut[4] = {0, a, b, n};
    assert_int_equal(mk_reasoning_init(&r, o, &err), MK_OK);
    for (size_t i = 0; bytes && i < n; i++) {
        assert_int_equal(mk_reasoning_push(&r, text + i, 1, collect, &e, &err), MK_OK);
    }
    for (int i = 0; !bytes && i < 3; i++) {
        assert_int_equal(
            mk_reasoning_push(&r, text + cut[i], cut[i + 1] - cut[i], collect, &e, &err), MK_OK);
    }
    mk_reasoning_finish(&r, collect, &e);
    mk_reasoning_free(&r);
    return e;
}

static void assert_events(const events *e, const char *text, const char *reasoning,
                          const char *content) {
    if (e->n[1] != strlen(reasoning) || memcmp(e->part[1], reasoning, e->n[1]) != 0 ||
        e->n[0] != strlen(content) || memcmp(e->part[0], content, e->n[0]) != 0 || e->bad_order) {
        fail_msg("%s\n  want [%s] [%s]\n  got  [%.*s] [%.*s]", text, reasoning, content,
                 (int)e->n[1], e->part[1], (int)e->n[0], e->part[0]);
    }
}

// The shapes models produce (tags alone on a line, beside text, twice, missing, cut off), and what
// must come of them.
static const struct {
    mk_reasoning_opts opts;
    const char *text, *reasoning, *content;
} rows[] = {
    {{0}, "<think>\nTwo and two.\n</think>\n\nIt is 4.", "Two and two.", "It is 4."},
    {{0}, "<think>a</think>b", "a", "b"},
    {{0}, "\n <think>\n\n</think>\n\nempty thought", "", "empty thought"},
    {{0}, "no thought at all", "", "no thought at all"},
    {{0}, "  leading blanks stay", "", "  leading blanks stay"},
    {{0}, "I write <think> here</think>.", "", "I write <think> here</think>."},
    {{0}, "<thin ice", "", "<thin ice"},
    {{0}, "<think", "", "<think"},
    {{0}, "<", "", "<"},
    {{0}, "", "", ""},
    {{0}, "   ", "", "   "},
    {{0}, "<think>", "", ""},
    {{0}, "<think>cut off in the mid", "cut off in the mid", ""},
    {{0}, "<think>cut off </thi", "cut off </thi", ""},
    {{0}, "<think>trailing blanks \n", "trailing blanks", ""},
    {{0}, "<think>a < b </ c </think </think>d", "a < b </ c </think", "d"},
    {{0},
     "<think> in  between \n\n kept </think> x </think> y",
     "in  between \n\n kept",
     "x </think> y"},
    {{0}, "<think>x</think>y<think>z</think>", "x", "y<think>z</think>"},
    {{0}, "<think><think>x</think>y", "<think>x", "y"},
    {{0}, "<think>é🙂</think>\n日本 ", "é🙂", "日本 "},
    {{0}, "<think><</</t</think>!", "<</</t", "!"},
    {{0}, "answer</think>after", "", "answer</think>after"},
    {{.starts_inside = true}, "\nthought\n</think>\n\nanswer", "thought", "answer"},
    {{.starts_inside = true}, "thought only", "thought only", ""},
    {{.starts_inside = true}, "</think>answer", "", "answer"},
    {{.starts_inside = true}, "", "", ""},
    {{.disabled = true}, "<think>a</think>b", "", "<think>a</think>b"},
    {{.open = "[THINK]", .close = "[/THINK]"}, "[THINK]a[/THINK]b", "a", "b"},
    {{.open = "[THINK]", .close = "[/THINK]"}, "[THINK]a[/TH[/THINK]b", "a[/TH", "b"},
    {{.open = "◁think▷", .close = "◁/think▷"}, "◁think▷a◁b◁/think▷c", "a◁b", "c"},
    {{.open = "aab", .close = "aaab"}, "aabxaaaaabz", "xaa", "z"},
};

static void every_split(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *t = rows[i].text;
        size_t n = strlen(t);
        for (size_t a = 0; a <= n; a++) {
            for (size_t b = a; b <= n; b++) {
                events e = run(&rows[i].opts, t, a, b, false);
                assert_events(&e, t, rows[i].reasoning, rows[i].content);
            }
        }
        events e = run(&rows[i].opts, t, 0, 0, true);
        assert_events(&e, t, rows[i].reasoning, rows[i].content);
    }
}

// Nothing that is certain waits: after each byte only white space or the beginning of a tag is
// held.
static void nothing_is_held_without_need(void **state) {
    (void)state;
    mk_err err = {0};
    mk_reasoning r;
    events e = {0};
    mk_reasoning_opts o = {0};
    assert_int_equal(mk_reasoning_init(&r, &o, &err), MK_OK);
    assert_int_equal(mk_reasoning_push(&r, "<think>abc", 10, collect, &e, &err), MK_OK);
    assert_int_equal(e.n[1], 3);
    assert_true(mk_reasoning_inside(&r));
    assert_int_equal(mk_reasoning_push(&r, "</thi", 5, collect, &e, &err), MK_OK);
    assert_int_equal(e.n[1], 3);
    assert_int_equal(mk_reasoning_push(&r, "x", 1, collect, &e, &err), MK_OK);
    assert_int_equal(e.n[1], 9);
    assert_int_equal(mk_reasoning_push(&r, "</think>y", 9, collect, &e, &err), MK_OK);
    assert_false(mk_reasoning_inside(&r));
    assert_int_equal(e.n[0], 1);
    mk_reasoning_free(&r);
}

static void bad_tags(void **state) {
    (void)state;
    mk_err err = {0};
    mk_reasoning r;
    char big[80];
    memset(big, 'x', sizeof big);
    big[79] = 0;
    const mk_reasoning_opts bad[] = {{.open = ""}, {.close = ""}, {.open = big}, {.close = " x"}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(mk_reasoning_init(&r, &bad[i], &err), MK_EUSAGE);
        mk_reasoning_free(&r);
    }
}

static void prompt_end(void **state) {
    (void)state;
    assert_true(mk_reasoning_prompt_open("x<think>", 8, "<think>"));
    assert_true(mk_reasoning_prompt_open("x<think>\n\n", 10, "<think>"));
    assert_false(mk_reasoning_prompt_open("x<think>a", 9, "<think>"));
    assert_false(mk_reasoning_prompt_open("<think>\n</think>", 16, "<think>"));
    assert_false(mk_reasoning_prompt_open("", 0, "<think>"));
}

static void out_of_memory(void **state) {
    (void)state;
    int64_t live = mk_alloc_live();
    bool done = false;
    for (int n = 1; !done && n < 100; n++) {
        mk_err err = {0};
        mk_reasoning r;
        mk_reasoning_opts o = {0};
        assert_int_equal(mk_reasoning_init(&r, &o, &err), MK_OK);
        mk_alloc_fail_at(n);
        mk_status st = mk_reasoning_push(&r, "<thi", 4, NULL, NULL, &err);
        for (int i = 0; st == MK_OK && i < 300; i++) {
            st =
                mk_reasoning_push(&r, i == 0 ? "nk>" : "       ", i == 0 ? 3 : 7, NULL, NULL, &err);
        }
        mk_alloc_fail_at(0);
        assert_true(st == MK_OK || st == MK_ENOMEM);
        done = st == MK_OK;
        mk_reasoning_finish(&r, NULL, NULL);
        mk_reasoning_free(&r);
        assert_int_equal(mk_alloc_live(), live);
    }
    assert_true(done);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_split),   cmocka_unit_test(nothing_is_held_without_need),
        cmocka_unit_test(bad_tags),      cmocka_unit_test(prompt_end),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
