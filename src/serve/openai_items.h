// Items of the Responses API from the messages of a kept conversation: GET
// /v1/responses/ID/input_items.
#ifndef MK_SERVE_OPENAI_ITEMS_H
#define MK_SERVE_OPENAI_ITEMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { MK_ITEMS_LIMIT = 20, MK_ITEMS_MAX_LIMIT = 100 };

typedef struct {
    const char *after;  // id of the item in front of the page; NULL: from the beginning
    int64_t limit;      // items at most
    bool ascending;     // else the last comes first
} mk_items_page;

// {"object": "list", "data": [...], ...} (json_decref) of what a response answered: all of
// `messages` (kept.h) but the last, which is the answer.  One message of the assistant may be
// several items: its reasoning, its text, its calls.  Ids follow from that of the response and the
// place, so that they are the same every time.  Errors: MK_EUSAGE (there is no such item),
// MK_ENOMEM.
mk_status mk_openai_items(const json_t *messages, const char *response_id,
                          const mk_items_page *page, json_t **out, mk_err *err) MK_WARN_UNUSED;

#endif
