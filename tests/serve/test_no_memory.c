// A request's whole way with every allocation failing once: the body, the prompt, the grammar, the
// scheduler, the events, the answer.  Whoever asked is told, in the dialect it speaks: with the
// same answer as ever, with an error of the server's own (never one of the request's), with an
// error event in a stream that had begun, or by a stream that visibly breaks off.  Nothing leaks,
// and the next request is answered as if nothing had been.
//
// jansson gets its memory from base/alloc.h here, as in test_torture.c, which has the store.
#include "cmocka_all.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "serve/service.h"

enum {
    WAIT_MS = 10000,
    MAX_ANSWER = 1 << 20,
    MAX_REQUEST = 8192,
    MAX_FAILURES = 20000,
    ID_CHARS = 24,
    TOOL_STEP = 7,  // a grammar of calls takes more than a thousand
    WARM_UP = 20,   // more than grammars are kept
    LOOKS = 10
};

static mk_service *service;

// --- a client that needs no memory ---------------------------------------------------------------

typedef struct {
    int status;             // 0: no answer came
    bool whole;             // as long as announced, or with the last chunk
    char text[MAX_ANSWER];  // of the body
} reply;

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)mk_service_port(service))};
    struct timeval t = {.tv_sec = WAIT_MS / 1000};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void send_request(int fd, const char *path, const char *body) {
    char text[MAX_REQUEST];
    int n = snprintf(text, sizeof text,
                     "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     path, strlen(body), body);
    assert_true(n > 0 && n < MAX_REQUEST);
    assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
}

// Of a body in chunks: what is in them, in place.
static bool join_chunks(char *body, size_t n) {
    char *to = body, *p = body, *end = body + n;
    while (p < end) {
        char *data;
        size_t k = strtoul(p, &data, 16);
        if (data == p || end - data < 2 || (size_t)(end - data) < k + 4) {
            break;
        }
        memmove(to, data + 2, k);
        to += k;
        p = data + 2 + k + 2;
        if (k == 0) {
            *to = 0;
            return true;
        }
    }
    *to = 0;
    return false;
}

static void ask(const char *path, const char *body, reply *r) {
    static char raw[MAX_ANSWER];
    size_t n = 0;
    ssize_t k;
    int fd = dial();
    send_request(fd, path, body);
    while ((k = recv(fd, raw + n, sizeof raw - 1 - n, 0)) > 0) {
        n += (size_t)k;
    }
    assert_true(k == 0);  // not the time that ran out
    close(fd);
    raw[n] = 0;
    *r = (reply){.status = 0};
    char *end = strstr(raw, "\r\n\r\n");
    if (!end || sscanf(raw, "HTTP/1.1 %d", &r->status) != 1) {
        return;
    }
    size_t n_body = n - (size_t)(end + 4 - raw);
    memcpy(r->text, end + 4, n_body + 1);
    const char *length = strcasestr(raw, "\r\nContent-Length: ");
    r->whole = length && length < end ? strtoul(length + 18, NULL, 10) == n_body
                                      : join_chunks(r->text, n_body);
}

// --- what is the same of two answers -------------------------------------------------------------

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// In place: numbers become # (times; that tokens are the same is told by their texts), and so does
// what is too long for a word, which is an identifier that was drawn.
static void normalise(char *text) {
    char *to = text;
    for (char *p = text; *p;) {
        size_t n = 0, digits = 0;
        while (is_digit(p[n]) || is_letter(p[n])) {
            n++;
        }
        while (is_digit(p[digits]) || (digits > 0 && p[digits] == '.')) {
            digits++;
        }
        if (n >= ID_CHARS || digits > 0) {
            *to++ = '#';
            p += n >= ID_CHARS ? n : digits;
        } else {
            *to++ = *p++;
            while (is_letter(p[0]) && n-- > 1) {
                *to++ = *p++;
            }
        }
    }
    *to = 0;
}

// --- the service ---------------------------------------------------------------------------------

static void must(mk_status st, const mk_err *err) {
    if (st != MK_OK) {
        fail_msg("%s: %s", mk_status_name(st), err->msg);
    }
}

static int start(void **state) {
    (void)state;
    mk_err err = {0};
    char *template = NULL;
    size_t n = 0;
    mk_log_set_level(MK_LOG_QUIET);
    mk_json_use_alloc();
    must(mk_file_read("tests/cli/tools.jinja", 1 << 16, &template, &n, &err), &err);
    mk_llm_opts lo = MK_LLM_DEFAULTS;
    lo.model = "models/thimble";
    lo.template_text = template;
    lo.n_ctx = 256;
    lo.n_thread = 1;
    lo.n_seq = 3;
    lo.n_out = 2;
    lo.serve = lo.later = true;
    mk_service_model m = {.name = "thimble", .n_parallel = 2, .prefix = true, .keep_alive_s = -1};
    must(mk_llm_open(&lo, &m.llm, &err), &err);
    mk_service_opts o = {.max_waiting = 4};
    must(mk_service_start(&o, &service, &err), &err);
    must(mk_service_add(service, &m, &err), &err);
    must(mk_service_load(service, 0, &err), &err);
    mk_service_ready(service);
    mk_free(template);
    return 0;
}

static int stop(void **state) {
    (void)state;
    mk_service_stop(service);
    return 0;
}

// What is live when nothing is asked: the least that was seen.  A thread may still be giving back
// what a request took when its answer has been read.
static int64_t least_live;

static void look_at_live(void) {
    int64_t live = mk_alloc_live();
    least_live = live < least_live ? live : least_live;
}

// Until all that the request took is given back.
static bool settles(void) {
    for (int i = 0; i < WAIT_MS && mk_alloc_live() > least_live; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    look_at_live();
    return mk_alloc_live() <= least_live;
}

// --- scenarios -----------------------------------------------------------------------------------

typedef struct {
    const char *path;
    const char *body;   // %d: another number each time, so that nothing is found in a cache
    const char *error;  // what an error event has in it; NULL: not a stream
} scenario;

static void ask_nth(const scenario *s, int nth, reply *r) {
    char body[MAX_REQUEST / 2];
    const char *at = strstr(s->body, "%d");
    if (at) {
        snprintf(body, sizeof body, "%.*s%d%s", (int)(at - s->body), s->body, 1000 + nth, at + 2);
    } else {
        snprintf(body, sizeof body, "%s", s->body);
    }
    ask(s->path, body, r);
    normalise(r->text);
}

// An error that says it is the server's.
static void check_error(const scenario *s, const reply *r, int64_t n) {
    bool own = r->status == 500 || r->status == 503;
    if (!own || !r->whole || !strstr(r->text, "memory")) {
        fail_msg("%s: allocation %lld failed: %d %s", s->path, (long long)n, r->status, r->text);
    }
}

static void check(const scenario *s, const reply *r, const reply *good, int64_t n) {
    if (r->status == 200 && r->whole && strcmp(r->text, good->text) == 0) {
        return;
    }
    if (r->status != 200 || !s->error) {
        check_error(s, r, n);
    } else if (r->whole && !strstr(r->text, s->error)) {
        fail_msg("%s: allocation %lld failed, and nobody was told:\n%s\ninstead of\n%s", s->path,
                 (long long)n, r->text, good->text);
    }
}

// Fills the caches; then least_live is what is live with full ones.
static void warm_up(const scenario *s, reply *good) {
    for (int i = 0; i < WARM_UP; i++) {
        ask_nth(s, i, good);
    }
    least_live = INT64_MAX;
    for (int i = 0; i < LOOKS; i++) {
        ask_nth(s, WARM_UP - 1 - i % 2, good);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        look_at_live();
    }
    if (good->status != 200 || !good->whole) {
        fail_msg("%s: %d %s", s->path, good->status, good->text);
    }
}

// Where something is kept of every request, what is live depends on how far the last ones came:
// then it is compared in the end.
static void torture(const scenario *s) {
    static reply good, r;
    bool keeps = strstr(s->body, "%d");
    int step = strstr(s->body, "\"tools\"") ? TOOL_STEP : 1;
    warm_up(s, &good);
    int64_t n = 1, live = least_live;
    for (bool met = true; met && n < MAX_FAILURES; n += step) {
        mk_alloc_fail_at(n);
        ask_nth(s, WARM_UP + (int)n, &r);
        bool settled = keeps || settles();
        met = mk_alloc_fail_left() == 0;
        mk_alloc_fail_at(0);
        check(s, &r, &good, n);
        if (!settled) {
            fail_msg("%s: %lld blocks leaked when allocation %lld failed", s->path,
                     (long long)(mk_alloc_live() - least_live), (long long)n);
        }
    }
    warm_up(s, &r);
    assert_string_equal(r.text, good.text);
    for (int i = 0; i < WAIT_MS && mk_alloc_live() > live; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_true(mk_alloc_live() <= live);
    printf("%s: %lld allocations, of which each failed once, or one in %d\n", s->path,
           (long long)(n - step - 1), step);
    assert_true(n > 50 && n < MAX_FAILURES);
}

#define ASK "\"messages\": [{\"role\": \"user\", \"content\": \"What is 2+3?\"}]"

static void test_openai_whole(void **state) {
    (void)state;
    torture(&(scenario){"/v1/chat/completions",
                        "{" ASK ", \"max_tokens\": 3, \"n\": 2, \"stop\": [\"zebra\"],"
                        " \"logprobs\": true, \"top_logprobs\": 2, \"temperature\": 0}",
                        NULL});
}

static void test_openai_prompts(void **state) {
    (void)state;
    torture(&(scenario){"/v1/completions",
                        "{\"prompt\": [\"2+3\", [50, 60]], \"max_tokens\": 3, \"n\": 2,"
                        " \"echo\": true, \"temperature\": 0}",
                        NULL});
}

// More prompts than are at work at once, with their log-probabilities.
static void test_openai_scores(void **state) {
    (void)state;
    torture(&(scenario){
        "/v1/completions",
        "{\"prompt\": [\"2+3\", [50, 60], [51], [52], [53], [54], [55], [56], [57], [58],"
        " [59], [60], [61], [62], [63], [64], [65], \"4\"], \"max_tokens\": 1,"
        " \"echo\": true, \"logprobs\": 1, \"temperature\": 0}",
        NULL});
}

static void test_openai_stream(void **state) {
    (void)state;
    torture(&(scenario){
        "/v1/chat/completions",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"Be\"},"
        " {\"role\": \"developer\", \"content\": \"quick. \"},"
        " {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"2+3\"}]}],"
        " \"max_tokens\": 3, \"stream\": true, \"unheard_of\": 1,"
        " \"stream_options\": {\"include_usage\": true}}",
        "\"error\":"});
}

static void test_openai_schema(void **state) {
    (void)state;
    torture(&(scenario){
        "/v1/chat/completions",
        "{" ASK
        ", \"max_tokens\": 40, \"response_format\": {\"type\": \"json_schema\", \"json_schema\":"
        " {\"name\": \"a\", \"strict\": true, \"schema\": {\"title\": \"%d\", \"type\": \"object\","
        " \"properties\": {\"b\": {\"$ref\": \"#/$defs/c\"}}, \"required\": [\"b\"],"
        " \"additionalProperties\": false, \"$defs\": {\"c\": {\"enum\": [\"x\", 2]}}}}}}",
        NULL});
}

#define TOOL "\"name\": \"add\", \"description\": \"Adds %d\""
#define PARAMETERS                                                                                 \
    "{\"type\": \"object\", \"properties\": {\"b\": {\"type\": \"boolean\"}}, \"required\": "      \
    "[\"b\"],"                                                                                     \
    " \"additionalProperties\": false}"

static void test_openai_tools(void **state) {
    (void)state;
    torture(&(scenario){"/v1/chat/completions",
                        "{" ASK
                        ", \"max_tokens\": 60, \"stream\": true, \"tool_choice\": \"required\","
                        " \"tools\": [{\"type\": \"function\", \"function\": {" TOOL
                        ", \"parameters\": " PARAMETERS "}}]}",
                        "\"error\":"});
}

static void test_anthropic_tools(void **state) {
    (void)state;
    torture(&(scenario){"/v1/messages",
                        "{" ASK ", \"max_tokens\": 60, \"tool_choice\": {\"type\": \"any\"},"
                        " \"tools\": [{" TOOL ", \"input_schema\": " PARAMETERS "}]}",
                        NULL});
}

static void test_anthropic_stream(void **state) {
    (void)state;
    torture(&(scenario){
        "/v1/messages",
        "{\"system\": \"Be quick.\", \"messages\": [{\"role\": \"user\", \"content\": \"2+3\"},"
        " {\"role\": \"assistant\", \"content\": [{\"type\": \"tool_use\", \"id\": \"c1\","
        " \"name\": \"f\", \"input\": {\"a\": 1}}]}, {\"role\": \"user\", \"content\":"
        " [{\"type\": \"tool_result\", \"tool_use_id\": \"c1\", \"content\": \"5\"}]}],"
        " \"max_tokens\": 3, \"stream\": true, \"metadata\": {\"user_id\": \"u\"}}",
        "event: error"});
}

static void test_responses(void **state) {
    (void)state;
    torture(&(scenario){"/v1/responses",
                        "{\"input\": \"What is 2+3?\", \"instructions\": \"Be quick.\","
                        " \"max_output_tokens\": 16, \"metadata\": {\"a\": \"b\"}}",
                        NULL});
}

static void test_responses_stream(void **state) {
    (void)state;
    torture(
        &(scenario){"/v1/responses",
                    "{\"input\": [{\"role\": \"user\", \"content\": \"2+3\"}], \"stream\": true,"
                    " \"max_output_tokens\": 16, \"store\": false}",
                    "response.failed"});
}

static void test_ollama(void **state) {
    (void)state;
    torture(&(scenario){"/api/chat",
                        "{\"model\": \"thimble\", " ASK ", \"options\": {\"num_predict\": 3}}",
                        "\"error\":"});
    torture(
        &(scenario){"/api/generate",
                    "{\"model\": \"thimble\", \"prompt\": \"2+3\", \"stream\": false,"
                    " \"options\": {\"num_predict\": 3, \"num_ctx\": 128}, \"keep_alive\": \"5m\"}",
                    NULL});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openai_whole),    cmocka_unit_test(test_openai_prompts),
        cmocka_unit_test(test_openai_scores),   cmocka_unit_test(test_openai_stream),
        cmocka_unit_test(test_openai_schema),   cmocka_unit_test(test_openai_tools),
        cmocka_unit_test(test_anthropic_tools), cmocka_unit_test(test_anthropic_stream),
        cmocka_unit_test(test_responses),       cmocka_unit_test(test_responses_stream),
        cmocka_unit_test(test_ollama),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
