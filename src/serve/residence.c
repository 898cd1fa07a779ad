// The rules of residence.h.  A slot's waiters stand in line in the order they came.
#include "serve/residence.h"

#include <stddef.h>

#include "base/alloc.h"

enum { MAX_SLOTS = 64 };

typedef struct {
    mk_waiter *first, **end;
} line;

typedef struct {
    mk_model_state state;
    int n_use, n_look;
    bool door_closed;
    bool needs_room;  // it did not fit beside the others
    uint64_t keep_default_ns, keep_ns;
    uint64_t idle_since_ns, asked_ns;
    line waiting;
    int64_t n_waiting;
    int64_t n_load, n_failed, n_unload;
} slot_state;

struct mk_residence {
    mk_residence_opts o;
    slot_state slot[MAX_SLOTS];
    int n_slot;
    int64_t n_waiting;
    line over;  // their wait has ended
    bool closed;
};

const char *mk_model_state_name(mk_model_state s) {
    static const char *const name[] = {"unloaded", "loading", "loaded", "unloading"};
    return name[s];
}

// --- lines ---------------------------------------------------------------------------------------

static void line_init(line *l) {
    *l = (line){NULL, NULL};
    l->end = &l->first;
}

static void line_push(line *l, mk_waiter *w) {
    w->next = NULL;
    *l->end = w;
    l->end = &w->next;
}

static mk_waiter *line_pop(line *l) {
    mk_waiter *w = l->first;
    if (w) {
        l->first = w->next;
        l->end = l->first ? l->end : &l->first;
        w->next = NULL;
    }
    return w;
}

static void line_remove(line *l, mk_waiter *w) {
    mk_waiter **at = &l->first;
    while (*at != w) {
        at = &(*at)->next;
    }
    *at = w->next;
    l->end = l->end == &w->next ? at : l->end;
    w->next = NULL;
}

// --- life ----------------------------------------------------------------------------------------

mk_residence *mk_residence_create(const mk_residence_opts *o) {
    mk_residence *r = mk_zalloc(sizeof *r);
    r->o = *o;
    line_init(&r->over);
    return r;
}

void mk_residence_destroy(mk_residence *r) {
    if (!r) {
        return;
    }
    MK_ASSERT(r->n_waiting == 0 && !r->over.first);
    mk_free(r);
}

int mk_residence_add(mk_residence *r, uint64_t keep_ns) {
    MK_ASSERT(r->n_slot < MAX_SLOTS);
    slot_state *s = &r->slot[r->n_slot];
    s->keep_default_ns = s->keep_ns = keep_ns;
    line_init(&s->waiting);
    return r->n_slot++;
}

int mk_residence_n_slot(const mk_residence *r) {
    return r->n_slot;
}

static slot_state *slot_at(mk_residence *r, int slot) {
    MK_ASSERT(slot >= 0 && slot < r->n_slot);
    return &r->slot[slot];
}

// --- asking --------------------------------------------------------------------------------------

// The wait of the first in line ends.
static void end_wait(mk_residence *r, slot_state *s, const mk_err *why) {
    mk_waiter *w = line_pop(&s->waiting);
    s->n_waiting--;
    r->n_waiting--;
    w->waits = false;
    w->end = why ? *why : (mk_err){0};
    s->n_use += w->end.code == MK_OK;
    line_push(&r->over, w);
}

static void end_all_waits(mk_residence *r, slot_state *s, const mk_err *why) {
    while (s->waiting.first) {
        end_wait(r, s, why);
    }
}

static mk_status not_wanted(mk_err *err) {
    return MK_FAIL(err, MK_EINTR, "nobody waits for the model any more");
}

static mk_status is_closed(mk_err *err) {
    return MK_FAIL(err, MK_EINTR, "the server is shutting down");
}

mk_status mk_residence_ask(mk_residence *r, int slot, mk_waiter *w, uint64_t now_ns, bool *granted,
                           mk_err *err) {
    slot_state *s = slot_at(r, slot);
    *granted = false;
    if (r->closed) {
        return is_closed(err);
    }
    if (w->cancelled) {
        return not_wanted(err);
    }
    s->asked_ns = now_ns;
    if (s->state == MK_MODEL_LOADED && !s->door_closed) {
        s->n_use++;
        *granted = true;
        return MK_OK;
    }
    if (r->n_waiting >= r->o.max_waiting) {
        return MK_FAIL(err, MK_ELIMIT,
                       "%lld requests wait for models to be loaded already, expected at most %lld; "
                       "try again later",
                       (long long)r->n_waiting, (long long)r->o.max_waiting);
    }
    w->slot = slot;
    w->since_ns = now_ns;
    w->waits = true;
    line_push(&s->waiting, w);
    s->n_waiting++;
    r->n_waiting++;
    return MK_OK;
}

void mk_residence_cancel(mk_residence *r, mk_waiter *w) {
    w->cancelled = true;
    if (!w->waits) {
        return;
    }
    slot_state *s = slot_at(r, w->slot);
    line_remove(&s->waiting, w);
    s->n_waiting--;
    r->n_waiting--;
    w->waits = false;
    (void)not_wanted(&w->end);
    line_push(&r->over, w);
}

void mk_residence_leave(mk_residence *r, int slot, const uint64_t *keep_ns, uint64_t now_ns) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->state == MK_MODEL_LOADED && s->n_use > 0);
    s->n_use--;
    s->idle_since_ns = now_ns;
    s->keep_ns = keep_ns ? *keep_ns : s->keep_ns;
}

bool mk_residence_peek(mk_residence *r, int slot) {
    slot_state *s = slot_at(r, slot);
    bool there = s->state == MK_MODEL_LOADED;
    s->n_look += there;
    return there;
}

void mk_residence_peeked(mk_residence *r, int slot) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->n_look > 0);
    s->n_look--;
}

void mk_residence_dismiss(mk_residence *r, int slot) {
    slot_state *s = slot_at(r, slot);
    if (s->state == MK_MODEL_LOADED || s->state == MK_MODEL_LOADING) {
        s->keep_ns = 0;
    }
}

void mk_residence_close(mk_residence *r) {
    mk_err why = {0};
    (void)is_closed(&why);
    r->closed = true;
    for (int i = 0; i < r->n_slot; i++) {
        end_all_waits(r, &r->slot[i], &why);
    }
}

mk_waiter *mk_residence_take(mk_residence *r) {
    return line_pop(&r->over);
}

// --- what to do ----------------------------------------------------------------------------------

static bool is_idle(const slot_state *s) {
    return s->state == MK_MODEL_LOADED && s->n_use == 0 && s->n_look == 0;
}

static uint64_t expiry(uint64_t since_ns, uint64_t keep_ns) {
    return keep_ns < MK_KEEP_FOREVER - since_ns ? since_ns + keep_ns : MK_KEEP_FOREVER;
}

static int count(const mk_residence *r, mk_model_state state) {
    int n = 0;
    for (int i = 0; i < r->n_slot; i++) {
        n += r->slot[i].state == state;
    }
    return n;
}

// The slot to be loaded next: the one that is waited for longest; -1: none.
static int find_wanted(const mk_residence *r) {
    int best = -1;
    for (int i = 0; i < r->n_slot; i++) {
        const mk_waiter *w = r->slot[i].waiting.first;
        if (r->slot[i].state == MK_MODEL_UNLOADED && w &&
            (best < 0 || w->since_ns < r->slot[best].waiting.first->since_ns)) {
            best = i;
        }
    }
    return best;
}

// Of the idle slots the one that was used longest ago; -1: none.
static int find_idle(const mk_residence *r) {
    int best = -1;
    for (int i = 0; i < r->n_slot; i++) {
        if (is_idle(&r->slot[i]) &&
            (best < 0 || r->slot[i].idle_since_ns < r->slot[best].idle_since_ns)) {
            best = i;
        }
    }
    return best;
}

static int find_expired(const mk_residence *r, uint64_t now_ns) {
    for (int i = 0; i < r->n_slot; i++) {
        const slot_state *s = &r->slot[i];
        if (is_idle(s) && !s->waiting.first && expiry(s->idle_since_ns, s->keep_ns) <= now_ns) {
            return i;
        }
    }
    return -1;
}

static void open_doors(mk_residence *r) {
    for (int i = 0; i < r->n_slot; i++) {
        if (r->slot[i].door_closed) {
            r->slot[i].door_closed = false;
            end_all_waits(r, &r->slot[i], NULL);
        }
    }
}

// One door is closed at a time: of the slot that was asked for longest ago.
static void close_a_door(mk_residence *r) {
    slot_state *best = NULL;
    for (int i = 0; i < r->n_slot; i++) {
        slot_state *s = &r->slot[i];
        if (s->state == MK_MODEL_LOADED && s->door_closed) {
            return;
        }
        if (s->state == MK_MODEL_LOADED && (!best || s->asked_ns < best->asked_ns)) {
            best = s;
        }
    }
    if (best) {
        best->door_closed = true;
    }
}

static mk_residence_step unload(mk_residence *r, int slot) {
    slot_state *s = &r->slot[slot];
    s->state = MK_MODEL_UNLOADING;
    s->door_closed = false;
    return (mk_residence_step){.kind = MK_STEP_UNLOAD, .slot = slot};
}

static mk_residence_step load(mk_residence *r, int slot) {
    slot_state *s = &r->slot[slot];
    s->state = MK_MODEL_LOADING;
    s->needs_room = false;
    s->keep_ns = s->keep_default_ns;
    return (mk_residence_step){
        .kind = MK_STEP_LOAD, .slot = slot, .alone = count(r, MK_MODEL_LOADED) == 0};
}

static mk_residence_step nothing_before(uint64_t at_ns) {
    return (mk_residence_step){.kind = MK_STEP_NONE, .slot = -1, .at_ns = at_ns};
}

static mk_residence_step make_room(mk_residence *r, int wanted, uint64_t now_ns) {
    int idle = find_idle(r);
    if (idle >= 0) {
        return unload(r, idle);
    }
    uint64_t at = expiry(r->slot[wanted].waiting.first->since_ns, r->o.patience_ns);
    if (now_ns < at) {
        return nothing_before(at);
    }
    close_a_door(r);
    return nothing_before(MK_KEEP_FOREVER);
}

static uint64_t next_expiry(const mk_residence *r) {
    uint64_t at = MK_KEEP_FOREVER;
    for (int i = 0; i < r->n_slot; i++) {
        const slot_state *s = &r->slot[i];
        uint64_t e = is_idle(s) ? expiry(s->idle_since_ns, s->keep_ns) : MK_KEEP_FOREVER;
        at = e < at ? e : at;
    }
    return at;
}

mk_residence_step mk_residence_next(mk_residence *r, uint64_t now_ns) {
    MK_ASSERT(count(r, MK_MODEL_LOADING) + count(r, MK_MODEL_UNLOADING) == 0);
    if (r->closed) {
        return nothing_before(MK_KEEP_FOREVER);
    }
    int expired = find_expired(r, now_ns);
    if (expired >= 0) {
        return unload(r, expired);
    }
    int wanted = find_wanted(r), n_loaded = count(r, MK_MODEL_LOADED);
    if (wanted < 0) {
        open_doors(r);  // who wanted the room has left
        return nothing_before(next_expiry(r));
    }
    bool full = (r->o.max_loaded > 0 && n_loaded >= r->o.max_loaded) ||
                (r->slot[wanted].needs_room && n_loaded > 0);
    if (!full) {
        return load(r, wanted);
    }
    mk_residence_step step = make_room(r, wanted, now_ns);
    uint64_t at = next_expiry(r);
    step.at_ns = step.at_ns < at ? step.at_ns : at;
    return step;
}

void mk_residence_loaded(mk_residence *r, int slot, uint64_t now_ns) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->state == MK_MODEL_LOADING);
    s->state = MK_MODEL_LOADED;
    s->n_load++;
    s->idle_since_ns = now_ns;
    end_all_waits(r, s, NULL);
}

void mk_residence_failed(mk_residence *r, int slot, const mk_err *why) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->state == MK_MODEL_LOADING && why->code != MK_OK);
    s->state = MK_MODEL_UNLOADED;
    if (why->code == MK_ENOMEM && count(r, MK_MODEL_LOADED) > 0) {
        s->needs_room = true;
        return;
    }
    s->n_failed++;
    end_all_waits(r, s, why);
}

bool mk_residence_wanted(const mk_residence *r, int slot) {
    const slot_state *s = slot_at((mk_residence *)(uintptr_t)r, slot);
    return s->state != MK_MODEL_LOADING || s->waiting.first;
}

void mk_residence_gave_up(mk_residence *r, int slot) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->state == MK_MODEL_LOADING);
    s->state = MK_MODEL_UNLOADED;
}

void mk_residence_unloaded(mk_residence *r, int slot) {
    slot_state *s = slot_at(r, slot);
    MK_ASSERT(s->state == MK_MODEL_UNLOADING && s->n_use == 0);
    s->state = MK_MODEL_UNLOADED;
    s->n_unload++;
    for (int i = 0; i < r->n_slot; i++) {
        r->slot[i].needs_room = false;  // it may fit now
    }
}

mk_residence_info mk_residence_read(const mk_residence *r, int slot, uint64_t now_ns) {
    const slot_state *s = slot_at((mk_residence *)(uintptr_t)r, slot);
    uint64_t since = s->n_use > 0 ? now_ns : s->idle_since_ns;
    return (mk_residence_info){.state = s->state,
                               .n_use = s->n_use,
                               .n_waiting = s->n_waiting,
                               .expires_ns = s->state == MK_MODEL_LOADED ? expiry(since, s->keep_ns)
                                                                         : MK_KEEP_FOREVER,
                               .n_load = s->n_load,
                               .n_failed = s->n_failed,
                               .n_unload = s->n_unload};
}
