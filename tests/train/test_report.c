// The report's parts: what is drawn of a curve, axes, numbers as text.  The page as a whole is
// tested by tests/cli/test_train_report.py.
#include "cmocka_all.h"

#include <math.h>

#include "base/alloc.h"
#include "base/html.h"
#include "base/mathx.h"
#include "train/report_int.h"

// --- numbers -------------------------------------------------------------------------------------

static void numbers_are_short(void **state) {
    (void)state;
    static const struct {
        double v;
        mk_rep_unit u;
        const char *text;
    } row[] = {
        {0, MK_REP_PLAIN, "0"},
        {1.83456, MK_REP_PLAIN, "1.835"},
        {-0.25, MK_REP_PLAIN,
         "\xE2\x88\x92"
         "0.25"},
        {0.0003, MK_REP_PLAIN, "3e-4"},
        {1.2345e-7, MK_REP_PLAIN, "1.23e-7"},
        {999.96, MK_REP_PLAIN, "1,000"},
        {4096, MK_REP_COUNT, "4,096"},
        {999999.4, MK_REP_COUNT, "999,999"},
        {999999.6, MK_REP_COUNT, "1\xE2\x80\xAFM"},
        {3412345, MK_REP_COUNT, "3.412\xE2\x80\xAFM"},
        {2.5e9, MK_REP_COUNT, "2.5\xE2\x80\xAFG"},
        {1e20, MK_REP_COUNT, "1e20"},
        {-1e100, MK_REP_PLAIN,
         "\xE2\x88\x92"
         "1e100"},
        {0.125, MK_REP_SHARE, "12.5\xE2\x80\xAF%"},
        {1, MK_REP_SHARE, "100\xE2\x80\xAF%"},
        {0.0123, MK_REP_SHARE, "1.2\xE2\x80\xAF%"},
        {1e-9, MK_REP_SHARE, "1e-7\xE2\x80\xAF%"},
        {1e100, MK_REP_SHARE, "1e102\xE2\x80\xAF%"},
    };
    char text[MK_REP_NUMBER];
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        assert_string_equal(mk_rep_number(row[i].v, row[i].u, text), row[i].text);
    }
    assert_string_equal(mk_rep_time(0.25, text), "0.2\xE2\x80\xAFs");
    assert_string_equal(mk_rep_time(45.2, text), "45\xE2\x80\xAFs");
    assert_string_equal(mk_rep_time(600, text), "10\xE2\x80\xAFmin");
    assert_string_equal(mk_rep_time(3599, text), "1\xE2\x80\xAFh 00\xE2\x80\xAFmin");
    assert_string_equal(mk_rep_time(1e100, text), "1e100");
    assert_string_equal(mk_rep_tick(20000, 50000, MK_REP_COUNT, text), "20k");
    assert_string_equal(mk_rep_tick(0.75, 1, MK_REP_SHARE, text), "75%");
    assert_string_equal(mk_rep_tick(0.002, 0.002, MK_REP_PLAIN, text), "2e-3");
    assert_string_equal(mk_rep_tick(0.002, 0.01, MK_REP_PLAIN, text), "0.002");
    assert_string_equal(mk_rep_tick(0, 0.002, MK_REP_PLAIN, text), "0");
}

static void text_is_escaped(void **state) {
    (void)state;
    mk_buf b;
    mk_buf_init(&b, 1000);
    static const char hostile[] = "</script>\"'&\x01\n\xFF\xE2\x80\xAE\xEF\xBF\xBE\0z";
    mk_html_text(&b, hostile, sizeof hostile - 1);
    assert_string_equal(b.data, "&#60;/script&#62;&#34;&#39;&#38;\xEF\xBF\xBD\n\xEF\xBF\xBD"
                                "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
    mk_buf_clear(&b);
    mk_rep_text(&b, "a\xC3\xA4", 3, 2);  // not in the middle of a character
    assert_string_equal(b.data, "a\xE2\x80\xA6");
    mk_buf_free(&b);
}

// --- axes ----------------------------------------------------------------------------------------

static mk_rep_scale scale_of(const double *v, int64_t n) {
    double *copy = mk_alloc((size_t)n * sizeof *copy);
    memcpy(copy, v, (size_t)n * sizeof *copy);
    mk_rep_scale s = mk_rep_make_scale(copy, n);
    mk_free(copy);
    return s;
}

static void axes_end_at_round_numbers(void **state) {
    (void)state;
    mk_rep_scale s = scale_of((double[]){0.1, 0.97}, 2);
    assert_true(s.lo == 0 && fabs(s.hi - 1) < 1e-12 && fabs(s.step - 0.2) < 1e-12 && !s.log);
    s = scale_of((double[]){-3, 17}, 2);
    assert_true(s.lo == -5 && s.hi == 20 && s.step == 5);
    s = scale_of((double[]){1e10, 1e10 + 1e-6}, 2);
    assert_true(s.lo < 1e10 && s.hi > 1e10);
}

// Whatever the values are, each is in a finite place.
static void no_values_break_an_axis(void **state) {
    (void)state;
    static const double hostile[] = {0,      -0.0, 1e100, -1e100,      1e-300, 5e-324,
                                     1e-310, 1e16, 1,     1 + 0x1p-52, -5,     123456789};
    enum { N = sizeof hostile / sizeof hostile[0] };
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            mk_rep_scale s = scale_of((double[]){hostile[i], hostile[k]}, 2);
            double a = mk_rep_place(&s, hostile[i]), b = mk_rep_place(&s, hostile[k]);
            assert_true(s.hi > s.lo && s.step > 0);
            assert_true(a >= -0.01 && a <= 1.01 && b >= -0.01 && b <= 1.01);
        }
    }
}

static void spikes_do_not_press_the_rest(void **state) {
    (void)state;
    double v[100];
    for (int i = 0; i < 100; i++) {
        v[i] = 1 + 0.01 * (i % 10);
    }
    v[40] = 80;
    mk_rep_scale s = scale_of(v, 100);
    assert_true(s.hi < 1.3 && s.n_outside == 1 && s.outside == 80);
    assert_true(mk_rep_place(&s, 80) > 1);
    v[0] = 1;
    for (int i = 1; i < 100; i++) {
        v[i] = v[i - 1] * 0.9;  // down to 3e-5
    }
    s = scale_of(v, 100);
    assert_true(s.log && fabs(s.lo - 1e-5) < 1e-12 && s.hi == 1);
    assert_true(fabs(mk_rep_place(&s, 0.01) - 0.6) < 1e-6);
}

// --- what is drawn -------------------------------------------------------------------------------

enum { N_LONG = 100000, N_COLUMN = 300 };

static mk_curve long_curve(void) {
    mk_curve c = {.n = N_LONG};
    c.step = mk_alloc(N_LONG * sizeof *c.step);
    c.value = mk_alloc(N_LONG * sizeof *c.value);
    for (int64_t i = 0; i < N_LONG; i++) {
        c.step[i] = 7 + 3 * i;
        c.value[i] = 2 + mk_rng_unit(1, (uint64_t)i);
    }
    c.value[31234] = 50;
    c.value[77777] = -50;
    return c;
}

static void thinning_keeps_points_and_spikes(void **state) {
    (void)state;
    mk_curve c = long_curve();
    mk_rep_thin *t = mk_alloc(sizeof *t);
    mk_rep_thin_curve(&c, c.step[0], c.step[N_LONG - 1], N_COLUMN, t);
    bool high = false, low = false;
    assert_true(t->n > N_COLUMN && t->n <= 2 * N_COLUMN);
    for (int64_t i = 0; i < t->n; i++) {
        int64_t at = (t->step[i] - 7) / 3;
        assert_true(c.step[at] == t->step[i] && c.value[at] == t->value[i]);
        assert_true(i == 0 || t->step[i] > t->step[i - 1]);
        high = high || t->value[i] == 50;
        low = low || t->value[i] == -50;
    }
    assert_true(high && low);
    mk_rep_scale s = scale_of(t->value, t->n);
    assert_true(s.hi < 4 && s.lo >= 0);
    mk_rep_smooth(t, &s);
    assert_true(t->smooth);
    for (int64_t i = 0; i < t->n; i++) {
        assert_true(fabs(t->mean[i] - 2.5) < 0.05);  // no hill where a spike was
    }
    mk_free(t);
    mk_free(c.step);
    mk_free(c.value);
}

static void short_curves_are_drawn_as_they_are(void **state) {
    (void)state;
    int64_t step[60];
    double value[60];
    for (int i = 0; i < 60; i++) {
        step[i] = 10 * i;
        value[i] = i < 8 ? 10 - i : 2 + (i % 2);
    }
    mk_curve c = {.n = 60, .step = step, .value = value};
    mk_rep_thin *t = mk_alloc(sizeof *t);
    mk_rep_thin_curve(&c, 0, 100000, 100, t);
    assert_int_equal(t->n, 60);
    assert_memory_equal(t->value, value, sizeof value);
    mk_rep_scale s = scale_of(value, 60);
    mk_rep_smooth(t, &s);
    assert_true(t->mean[0] == 10);  // a steep start begins where it began
    assert_true(t->mean[59] > 2 && t->mean[59] < 3);
    c.n = 10;
    mk_rep_thin_curve(&c, 0, 1000, 100, t);
    mk_rep_smooth(t, &s);
    assert_false(t->smooth);
    assert_true(t->mean[9] == value[9]);
    mk_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(axes_end_at_round_numbers),
        cmocka_unit_test(no_values_break_an_axis),
        cmocka_unit_test(spikes_do_not_press_the_rest),
        cmocka_unit_test(thinning_keeps_points_and_spikes),
        cmocka_unit_test(short_curves_are_drawn_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
