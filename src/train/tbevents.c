// See tbevents.h.  Sources: tensorflow/core/lib/io/record_writer.h for the frame, event.proto and
// summary.proto of TensorBoard for the fields; tests/golden/tbevents.bin is written by its package.
#include "train/tbevents.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/mathx.h"

#define MAX_EVENT ((size_t)64 << 20)

struct mk_tb {
    mk_writer *w;
    mk_buf event, summary, value;  // built inside out, reused
};

// --- checksum ------------------------------------------------------------------------------------

// Reflected polynomial of Castagnoli; four bits at a time need a table of 16.
uint32_t mk_crc32c(const void *p, size_t n) {
    static const uint32_t part[16] = {0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1,
                                      0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
                                      0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
                                      0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75};
    const uint8_t *u = p;
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < n; i++) {
        crc ^= u[i];
        crc = crc >> 4 ^ part[crc & 15];
        crc = crc >> 4 ^ part[crc & 15];
    }
    return ~crc;
}

// A checksum of bytes that contain checksums would be weak: it is stored rotated and shifted.
static uint32_t masked(const void *p, size_t n) {
    uint32_t crc = mk_crc32c(p, n);
    return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

// --- encoding ------------------------------------------------------------------------------------

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };  // wire types

static void put_varint(mk_buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) {
        mk_buf_putc(b, (char)(uint8_t)(v | 0x80));
    }
    mk_buf_putc(b, (char)v);
}

static void put_key(mk_buf *b, unsigned field, unsigned wire) {
    put_varint(b, field << 3 | wire);
}

// An empty text is the default as well; a summary is never empty.
static void put_bytes(mk_buf *b, unsigned field, const void *p, size_t n) {
    if (n == 0) {
        return;
    }
    put_key(b, field, BYTES);
    put_varint(b, n);
    mk_buf_add(b, p, n);
}

// Little endian, whatever the machine is.
static void store(uint8_t *to, uint64_t v, int n_bytes) {
    for (int i = 0; i < n_bytes; i++) {
        to[i] = (uint8_t)(v >> 8 * i);
    }
}

static void put_double(mk_buf *b, unsigned field, double v) {
    uint8_t bytes[8];
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    store(bytes, u, sizeof bytes);
    put_key(b, field, FIXED64);
    mk_buf_add(b, bytes, sizeof bytes);
}

// A value that no float can hold becomes infinite.
static void put_float(mk_buf *b, unsigned field, double v) {
    uint8_t bytes[4];
    store(bytes,
          mk_f32_bits(v > FLT_MAX    ? HUGE_VALF
                      : v < -FLT_MAX ? -HUGE_VALF
                                     : (float)v),
          sizeof bytes);
    put_key(b, field, FIXED32);
    mk_buf_add(b, bytes, sizeof bytes);
}

// --- records -------------------------------------------------------------------------------------

static mk_status write_record(mk_tb *t, mk_err *err) {
    uint8_t head[12], tail[4];
    if (t->event.failed || t->summary.failed || t->value.failed) {
        return MK_FAIL(err, MK_ENOMEM, "no memory for an event, or it is larger than %zu bytes",
                       MAX_EVENT);
    }
    store(head, t->event.len, 8);
    store(head + 8, masked(head, 8), 4);
    store(tail, masked(t->event.data, t->event.len), 4);
    MK_TRY(mk_writer_write(t->w, head, sizeof head, err));
    MK_TRY(mk_writer_write(t->w, t->event.data, t->event.len, err));
    return mk_writer_write(t->w, tail, sizeof tail, err);
}

// Fields of every event; what is 0 is not written, it is the default.
static void begin_event(mk_tb *t, int64_t step, double wall_time) {
    mk_buf_clear(&t->event);
    if (wall_time != 0) {
        put_double(&t->event, 1, wall_time);
    }
    if (step != 0) {
        put_key(&t->event, 2, VARINT);
        put_varint(&t->event, (uint64_t)step);
    }
}

mk_status mk_tb_open(const char *path, mk_tb **out, mk_err *err) {
    static const char version[] = "brain.Event:2";
    mk_tb *t = mk_zalloc(sizeof *t);
    mk_buf_init(&t->event, MAX_EVENT);
    mk_buf_init(&t->summary, MAX_EVENT);
    mk_buf_init(&t->value, MAX_EVENT);
    mk_status st = mk_writer_open(path, &t->w, err);
    if (st == MK_OK) {
        begin_event(t, 0, 0);
        put_bytes(&t->event, 3, version, sizeof version - 1);
        st = write_record(t, err);
    }
    if (st != MK_OK) {
        mk_tb_abort(t);
        return st;
    }
    *out = t;
    return MK_OK;
}

mk_status mk_tb_add(mk_tb *t, int64_t step, double wall_time, const mk_tb_scalar *s, int64_t n,
                    mk_err *err) {
    mk_buf_clear(&t->summary);
    for (int64_t i = 0; i < n; i++) {
        mk_buf_clear(&t->value);
        put_bytes(&t->value, 1, s[i].tag, strlen(s[i].tag));
        put_float(&t->value, 2, s[i].value);
        put_bytes(&t->summary, 1, t->value.data, t->value.len);
    }
    begin_event(t, step, wall_time);
    put_bytes(&t->event, 5, t->summary.data, t->summary.len);
    return write_record(t, err);
}

static void release(mk_tb *t) {
    mk_buf_free(&t->event);
    mk_buf_free(&t->summary);
    mk_buf_free(&t->value);
    mk_free(t);
}

mk_status mk_tb_commit(mk_tb *t, mk_err *err) {
    mk_status st = mk_writer_commit(t->w, err);
    release(t);
    return st;
}

void mk_tb_abort(mk_tb *t) {
    if (t) {
        if (t->w) {
            mk_writer_abort(t->w);
        }
        release(t);
    }
}

// --- a run ---------------------------------------------------------------------------------------

// The values of the least step that is not written yet; returns how many, 0: none is left.
static int64_t next_step(const mk_runlog *r, int64_t *at, int64_t *step, mk_tb_scalar *s) {
    int64_t n = 0;
    *step = INT64_MAX;
    for (int64_t i = 0; i < r->n_curve; i++) {
        const mk_curve *c = &r->curve[i];
        if (at[i] < c->n && c->step[at[i]] < *step) {
            *step = c->step[at[i]];
        }
    }
    for (int64_t i = 0; i < r->n_curve; i++) {
        const mk_curve *c = &r->curve[i];
        if (at[i] < c->n && c->step[at[i]] == *step) {
            s[n++] = (mk_tb_scalar){c->name, c->value[at[i]++]};
        }
    }
    return n;
}

// Moves the clock to a step.
static double wall_time(const mk_curve *seconds, int64_t *at, int64_t step, double now) {
    if (!seconds) {
        return (double)step;
    }
    for (; *at < seconds->n && seconds->step[*at] <= step; ++*at) {
        now += seconds->value[*at];
    }
    return now;
}

mk_status mk_tb_write_run(const mk_runlog *r, const char *path, int64_t *n_event, mk_err *err) {
    int64_t at[MK_RUNLOG_MAX_CURVE] = {0}, step, n;
    mk_tb_scalar s[MK_RUNLOG_MAX_CURVE];
    const mk_curve *seconds = mk_runlog_find(r, "seconds");
    int64_t clock_at = 0;
    double now = 0;
    mk_tb *t = NULL;
    *n_event = 0;
    mk_status st = mk_tb_open(path, &t, err);
    while (st == MK_OK && (n = next_step(r, at, &step, s)) > 0) {
        now = wall_time(seconds, &clock_at, step, now);
        st = mk_tb_add(t, step, now, s, n, err);
        ++*n_event;
    }
    if (st == MK_OK) {
        return mk_tb_commit(t, err);
    }
    mk_tb_abort(t);
    return st;
}
