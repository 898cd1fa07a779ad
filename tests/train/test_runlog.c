// Reading run folders: what is kept of good, half and hostile logs, and which samples are chosen.
#include "cmocka_all.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mathx.h"
#include "torture.h"
#include "train/ckpt.h"
#include "train/report.h"

static char dir[] = "/tmp/minke-test-XXXXXX";
static char *log_path, *samples_path, *ckpt_path;

static int make_dir(void **state) {
    (void)state;
    if (!mkdtemp(dir)) {
        return -1;
    }
    log_path = mk_path_join(dir, "log.jsonl");
    samples_path = mk_path_join(dir, "samples.jsonl");
    ckpt_path = mk_ckpt_name(dir, 7);
    return 0;
}

static int clear(void **state) {
    (void)state;
    unlink(log_path);
    unlink(samples_path);
    unlink(ckpt_path);
    return 0;
}

static int remove_dir(void **state) {
    clear(state);
    mk_free(log_path);
    mk_free(samples_path);
    mk_free(ckpt_path);
    return rmdir(dir);
}

static void put(const char *path, const void *text, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static mk_runlog *open_log(const char *text) {
    mk_runlog *r = NULL;
    mk_err err = {0};
    put(log_path, text, strlen(text));
    if (mk_runlog_open(dir, &r, &err) != MK_OK) {
        fail_msg("%s", err.msg);
    }
    return r;
}

static void assert_curve(const mk_runlog *r, const char *name, int64_t n, const int64_t *step,
                         const double *value) {
    const mk_curve *c = mk_runlog_find(r, name);
    assert_non_null(c);
    assert_int_equal(c->n, n);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(c->step[i], step[i]);
        assert_true(c->value[i] == value[i]);
    }
}

static void lines_become_curves(void **state) {
    (void)state;
    mk_runlog *r = open_log("{\"step\":1,\"loss\":2.5,\"new\":true}\n"
                            "\n"
                            "{\"step\":2,\"loss\":null,\"text\":\"x\",\"list\":[1]}\n"
                            "{\"step\":4,\"loss\":1,\"eval_loss\":3}");
    assert_int_equal(r->n_line, 3);
    assert_int_equal(r->n_bad, 0);
    assert_false(r->half_line);  // whole, without its newline
    assert_int_equal(r->first_step, 1);
    assert_int_equal(r->last_step, 4);
    assert_int_equal(r->n_curve, 3);
    assert_curve(r, "loss", 2, (int64_t[]){1, 4}, (double[]){2.5, 1});
    assert_curve(r, "new", 1, (int64_t[]){1}, (double[]){1});
    assert_curve(r, "eval_loss", 1, (int64_t[]){4}, (double[]){3});
    assert_null(mk_runlog_find(r, "step"));
    assert_null(r->run);
    mk_runlog_close(r);
}

static void damaged_lines_are_counted(void **state) {
    (void)state;
    mk_runlog *r = open_log("{\"step\":1,\"loss\":1}\n"
                            "{\"step\":2,\"loss\":NaN}\n"
                            "{\"step\":-1,\"loss\":1}\n"
                            "{\"step\":3.5,\"loss\":1}\n"
                            "{\"loss\":1}\n"
                            "[1]\n"
                            "{\"step\":5,\"loss\":1e200}\n"
                            "{\"step\":6,\"loss\":9e15,\"loss\":1}\n"
                            "{\"step\":7,\"lo");
    assert_int_equal(r->n_line, 2);
    assert_int_equal(r->n_bad, 6);
    assert_true(r->half_line);
    assert_int_equal(r->last_step, 5);
    assert_curve(r, "loss", 1, (int64_t[]){1}, (double[]){1});  // 1e200 cannot be drawn
    mk_runlog_close(r);
}

static void steps_that_come_again_replace(void **state) {
    (void)state;
    mk_runlog *r = open_log(
        "{\"step\":5,\"a\":1,\"b\":1}\n{\"step\":6,\"a\":2}\n{\"step\":7,\"a\":3,\"b\":3}\n"
        "{\"step\":6,\"a\":4}\n{\"step\":3,\"c\":1}\n{\"step\":8,\"a\":5}\n");
    assert_curve(r, "a", 1, (int64_t[]){8}, (double[]){5});
    assert_curve(r, "b", 0, NULL, NULL);
    assert_curve(r, "c", 1, (int64_t[]){3}, (double[]){1});
    assert_int_equal(r->first_step, 3);
    mk_runlog_close(r);
}

static void too_many_fields_are_counted(void **state) {
    (void)state;
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    mk_buf_puts(&b, "{\"step\":1");
    for (int i = 0; i < MK_RUNLOG_MAX_CURVE + 5; i++) {
        mk_buf_printf(&b, ",\"f%d\":%d", i, i);
    }
    mk_buf_puts(&b, "}\n");
    mk_runlog *r = open_log(b.data);
    assert_int_equal(r->n_curve, MK_RUNLOG_MAX_CURVE);
    assert_int_equal(r->n_lost, 5);
    mk_runlog_close(r);
    mk_buf_free(&b);
}

static void folders_without_a_log_are_refused(void **state) {
    (void)state;
    mk_runlog *r = NULL;
    mk_err err = {0};
    assert_int_equal(mk_runlog_open("/nowhere", &r, &err), MK_ENOTFOUND);
    assert_int_equal(mk_runlog_open(dir, &r, &err), MK_ENOTFOUND);
    put(log_path, "", 0);
    assert_int_equal(mk_runlog_open(dir, &r, &err), MK_ECORRUPT);
    put(log_path, "no\nlog\n{", 8);
    assert_int_equal(mk_runlog_open(dir, &r, &err), MK_ECORRUPT);
    assert_non_null(strstr(err.msg, "none of its 3 lines"));
    assert_null(r);
}

// Six samples of each of the steps 10, 20 ... 50, their rewards not in order.
static void write_samples(void) {
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    for (int step = 10; step <= 50; step += 10) {
        for (int k = 0; k < 6; k++) {
            mk_buf_printf(&b, "{\"step\":%d,\"prompt\":\"p\",\"completion\":\"c\",\"reward\":%d}\n",
                          step, step + (k * 5 + 2) % 6);
        }
    }
    mk_buf_puts(&b,
                "{\"step\":60,\"reward\":1}\n{\"step\":60,\"completion\":1}\nnonsense\n{\"step");
    put(samples_path, b.data, b.len);
    mk_buf_free(&b);
}

static void first_middle_and_last_samples_are_chosen(void **state) {
    (void)state;
    write_samples();
    mk_runlog *r = open_log("{\"step\":1}\n");
    assert_int_equal(r->n_sample, 12);
    static const int step[] = {10, 30, 50}, reward[] = {5, 4, 2, 0};
    for (int i = 0; i < 12; i++) {
        assert_int_equal(r->sample[i].step, step[i / 4]);
        assert_int_equal(json_integer_value(json_object_get(r->sample[i].json, "reward")),
                         step[i / 4] + reward[i % 4]);
    }
    mk_runlog_close(r);
    static const char one[] = "{\"step\":3,\"completion\":\"only\"}\n";
    put(samples_path, one, sizeof one - 1);
    r = open_log("{\"step\":1}\n");
    assert_int_equal(r->n_sample, 1);
    mk_runlog_close(r);
}

static void write_checkpoint(void) {
    float w = 1;
    mk_ckpt_section s = {"w", MK_DTYPE_F32, 1, {1}, &w};
    json_t *run =
        json_pack("{s:s, s:{s:f, s:s}}", "method", "grpo", "recipe", "lr", 0.25, "note", "<b>&");
    mk_ckpt_head head = {7, 0, run};
    mk_err err = {0};
    assert_int_equal(mk_ckpt_write(ckpt_path, &head, &s, 1, &err), MK_OK);
    json_decref(run);
}

static void recipe_comes_from_the_checkpoint(void **state) {
    (void)state;
    write_checkpoint();
    mk_runlog *r = open_log("{\"step\":9}\n");
    assert_int_equal(r->ckpt_step, 7);
    assert_string_equal(json_string_value(json_object_get(r->run, "method")), "grpo");
    mk_buf b;
    mk_buf_init(&b, MK_REPORT_MAX_BYTES);
    mk_err err = {0};
    assert_int_equal(mk_report_html((const mk_runlog *const *)&r, 1, &b, NULL, &err), MK_OK);
    assert_non_null(strstr(b.data, "<bdi>&#60;b&#62;&#38;</bdi>"));
    assert_non_null(strstr(b.data, "<span class=\"badge\">grpo</span>"));
    mk_buf_free(&b);
    mk_runlog_close(r);
    put(ckpt_path, "damaged", 7);  // a report without a recipe is better than none
    r = open_log("{\"step\":9}\n");
    assert_null(r->run);
    mk_runlog_close(r);
}

// --- no bytes may do harm ------------------------------------------------------------------------

static mk_status report(void *arg, mk_err *err) {
    (void)arg;
    mk_runlog *r = NULL;
    mk_buf b;
    mk_buf_init(&b, MK_REPORT_MAX_BYTES);
    MK_TRY(mk_runlog_open(dir, &r, err));
    mk_status st = mk_report_html((const mk_runlog *const *)&r, 1, &b, NULL, err);
    mk_runlog_close(r);
    mk_buf_free(&b);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    write_samples();
    write_checkpoint();
    static const char text[] =
        "{\"step\":1,\"loss\":2,\"lr\":1}\n{\"step\":2,\"loss\":1,\"lr\":1}\n";
    put(log_path, text, sizeof text - 1);
    assert_true(mk_torture(report, NULL) > 10);
}

static void random_damage_is_survived(void **state) {
    (void)state;
    static const char line[] =
        "{\"step\":%d,\"loss\":%d.5,\"reward/a\":-1e%d,\"x\":[{}],\"t\":\"\\u00e4\"}\n";
    mk_buf b;
    mk_buf_init(&b, 1 << 16);
    for (int i = 1; i <= 60; i++) {
        mk_buf_printf(&b, line, i, 60 - i, i);
    }
    mk_err err = {0};
    int n_ok = 0;
    for (uint64_t round = 0; round < 150; round++) {
        char *copy = mk_strndup(b.data, b.len);
        for (uint64_t k = 0; k < 1 + round / 10; k++) {
            copy[mk_rng_u64(round, k) % b.len] = (char)(mk_rng_u64(round, 1000 + k) & 0x7F);
        }
        put(log_path, copy, b.len);
        mk_status st = report(NULL, &err);
        n_ok += st == MK_OK;
        assert_true(st == MK_OK || st == MK_ECORRUPT);
        mk_free(copy);
    }
    assert_true(n_ok > 100);
    mk_buf_free(&b);
}

int main(void) {
#define TEST(f) cmocka_unit_test_teardown(f, clear)
    const struct CMUnitTest tests[] = {
        TEST(lines_become_curves),
        TEST(damaged_lines_are_counted),
        TEST(steps_that_come_again_replace),
        TEST(too_many_fields_are_counted),
        TEST(folders_without_a_log_are_refused),
        TEST(first_middle_and_last_samples_are_chosen),
        TEST(recipe_comes_from_the_checkpoint),
        TEST(every_allocation_may_fail),
        TEST(random_damage_is_survived),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
