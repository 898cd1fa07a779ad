// JSON checked byte by byte (RFC 8259), for text that comes in pieces.
//
// Feeds on one value and copies it out.  One liberty: control characters inside strings, which
// models write now and then, come out escaped.  A mk_json_unescape stands in front of it where a
// whole value is written as a JSON string.  Plain data, no allocation.
#ifndef MK_CHAT_JSON_FEED_H
#define MK_CHAT_JSON_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { MK_JSON_FEED_DEPTH = 128 };

typedef struct {
    uint8_t state;
    bool is_key;
    const char *word;  // what is left of a literal
    int n_hex;
    int depth;
    char open[MK_JSON_FEED_DEPTH];  // '{' or '['
} mk_json_feed;

typedef enum { MK_FEED_GO, MK_FEED_DONE, MK_FEED_BAD } mk_feed_result;

void mk_json_feed_init(mk_json_feed *f);
// Takes one byte; appends it to out unless BAD.  DONE: it closed the value (objects, arrays and
// strings; numbers and words only show by their end, mk_json_feed_whole).
mk_feed_result mk_json_feed_byte(mk_json_feed *f, char ch, mk_buf *out);
bool mk_json_feed_whole(const mk_json_feed *f);  // what was fed is one value
// Is p[0..n) one JSON value, white space around it aside?  Appends it to out (may be NULL).
bool mk_json_is_value(const char *p, size_t n, mk_buf *out);

// The inside of a JSON string, byte by byte.
typedef struct {
    bool escape;
    int n_hex;
    uint32_t code, high;
} mk_json_unescape;

// Appends what the byte completes (up to four bytes) to out; n_out is set.  DONE: the closing
// quote.
mk_feed_result mk_json_unescape_byte(mk_json_unescape *u, char ch, char out[8], size_t *n_out);

#endif
