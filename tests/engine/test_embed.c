// Embeddings against transformers' hidden states (tests/golden/gen_embeddings.py), and the same
// bits however a text is cut.
#include "cmocka_all.h"

#include "engine/embed.h"
#include "engine/golden_model.h"

enum { MAX_D = 256, MAX_IDS = 256 };
// Both sides have numbers of length 1; float32 carries to 1e-6 of the golden's logits
// (tests/golden/README.md), and a wrong norm, pooling or token is off by more than 1e-2.
#define TOLERANCE 1e-5

static void expect(const rig *r, const json_t *text, const char *name, mk_pooling how) {
    const json_t *ids = json_object_get(text, "ids"), *want = json_object_get(text, name);
    int64_t d = r->model->hp.d_model;
    int32_t id[MAX_IDS];
    float got[MAX_D];
    size_t n = json_array_size(ids);
    mk_err err = {0};
    assert_true(n > 0 && n <= MAX_IDS && d <= MAX_D && (int64_t)json_array_size(want) == d);
    for (size_t i = 0; i < n; i++) {
        id[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    }
    assert_int_equal(mk_engine_embed(r->engine, id, (int64_t)n, how, got, &err), MK_OK);
    double worst = 0, length = 0;
    for (int64_t i = 0; i < d; i++) {
        double x = json_real_value(json_array_get(want, (size_t)i));
        worst = fmax(worst, fabs(x - (double)got[i]));
        length += (double)got[i] * (double)got[i];
    }
    if (worst > TOLERANCE || fabs(length - 1) > TOLERANCE) {
        fail_msg("%s of %zu tokens is off by %g, its length squared is %g", name, n, worst, length);
    }
}

static void test_golden(void **state) {
    (void)state;
    json_t *all = NULL, *text;
    mk_err err = {0};
    char path[200], open[200] = "";
    rig r = {0};
    size_t i;
    assert_int_equal(mk_json_file(GOLDEN_DIR "embeddings.json", 1 << 20, &all, &err), MK_OK);
    assert_int_equal(json_array_size(json_object_get(all, "texts")), 15);
    json_array_foreach(json_object_get(all, "texts"), i, text) {
        snprintf(path, sizeof path, GOLDEN_DIR "models/%s",
                 json_string_value(json_object_get(text, "model")));
        if (strcmp(path, open) != 0) {
            if (open[0]) {
                rig_close(&r);
            }
            r = rig_open(path, (rig_opts){.n_ctx = MAX_IDS, .n_seq = 1, .n_chunk = 128});
            snprintf(open, sizeof open, "%s", path);
        }
        expect(&r, text, "mean", MK_POOLING_MEAN);
        expect(&r, text, "last", MK_POOLING_LAST);
    }
    rig_close(&r);
    json_decref(all);
}

static void test_cuts_change_nothing(void **state) {
    (void)state;
    int32_t ids[150];
    float want[2][MAX_D], got[MAX_D];
    mk_err err = {0};
    for (int i = 0; i < 150; i++) {
        ids[i] = i * 7 % 320;
    }
    static const int64_t chunk[] = {512, 1, 64, 7};
    for (int k = 0; k < 4; k++) {
        rig r = rig_open(GOLDEN_DIR "models/llama",
                         (rig_opts){.n_ctx = 150, .n_seq = 1, .n_chunk = chunk[k]});
        size_t size = (size_t)r.model->hp.d_model * sizeof(float);
        for (int how = 0; how < 2; how++) {
            float *to = k == 0 ? want[how] : got;
            assert_int_equal(mk_engine_embed(r.engine, ids, 150, (mk_pooling)how, to, &err), MK_OK);
            assert_memory_equal(to, want[how], size);
        }
        rig_close(&r);
    }
}

static void test_refusals(void **state) {
    (void)state;
    int32_t ids[33] = {0};
    float got[MAX_D];
    mk_err err = {0};
    rig r = rig_open(GOLDEN_DIR "models/llama", (rig_opts){.n_ctx = 32, .n_seq = 1});
    assert_int_equal(mk_engine_embed(r.engine, ids, 0, MK_POOLING_MEAN, got, &err), MK_EUSAGE);
    assert_int_equal(mk_engine_embed(r.engine, ids, 33, MK_POOLING_MEAN, got, &err), MK_ECONTEXT);
    assert_non_null(strstr(err.msg, "33"));
    ids[3] = 320;
    assert_int_equal(mk_engine_embed(r.engine, ids, 8, MK_POOLING_LAST, got, &err), MK_EUSAGE);
    ids[3] = 0;
    // each gave its sequence back: there is one only
    assert_int_equal(mk_engine_embed(r.engine, ids, 32, MK_POOLING_LAST, got, &err), MK_OK);
    int seq = 0;
    assert_int_equal(mk_engine_seq_open(r.engine, &seq, &err), MK_OK);
    assert_int_equal(mk_engine_embed(r.engine, ids, 8, MK_POOLING_LAST, got, &err), MK_ELIMIT);
    mk_engine_seq_close(r.engine, seq);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
                                       cmocka_unit_test(test_cuts_change_nothing),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
