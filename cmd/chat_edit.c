// Reading messages.  On a terminal libedit does the editing; two keys are ours:
//   paste   terminals mark a paste by ESC[200~ ... ESC[201~.  A short one-line paste is typed into
//           the line; a longer one is kept aside and shown as a mark, which is replaced by the text
//           when the line is sent.  So a paste is one message, whatever newlines it holds.
//   Ctrl-C  ends the reading with CHAT_INTERRUPT; the terminal's own signal is off meanwhile.
#include "chat.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/utf8.h"

#define HISTORY_LINES 1000
#define PASTE_INLINE  400  // bytes of a paste that is shown as it is
#define MAX_PASTES    32   // kept for one session; older ones can no longer be sent again

static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l";

struct chat_edit {
    EditLine *el;  // NULL without a terminal
    History *history;
    char *history_path, *prefill;
    bool interrupted;
    mk_buf text, paste[MAX_PASTES];
    char mark[MAX_PASTES][48];
    int n_paste;
};

static chat_edit *self(EditLine *el) {
    void *p = NULL;
    el_get(el, EL_CLIENTDATA, &p);
    return p;
}

static char *prompt(EditLine *el) {
    (void)el;
    static char text[] = "> ";
    return text;
}

static unsigned char on_ctrl_c(EditLine *el, int ch) {
    (void)ch;
    self(el)->interrupted = true;
    return CC_NEWLINE;
}

// One character of the terminal.  libedit prints the prompt before it switches the terminal's
// signals off: a Ctrl-C in between comes as SIGINT, and is handed on here as the key it was.
static int get_char(EditLine *el, wchar_t *wc) {
    char bytes[4];
    (void)el;
    for (size_t n = 0; n < sizeof bytes;) {
        if (cmd_interrupted()) {
            cmd_clear_interrupt();
            *wc = L'\x03';
            return 1;
        }
        ssize_t got = read(STDIN_FILENO, bytes + n, 1);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return (int)got;
        }
        uint32_t cp = 0;
        n++;
        if (mk_utf8_decode(bytes, n, &cp) > 0 || mk_utf8_incomplete_tail(bytes, n) == 0) {
            *wc = (wchar_t)cp;  // U+FFFD for bytes that are no character
            return 1;
        }
    }
    *wc = 0xFFFD;
    return 1;
}

static unsigned char on_prefill(EditLine *el, int ch) {
    (void)ch;
    chat_edit *e = self(el);
    if (e->prefill) {
        el_insertstr(el, e->prefill);
    }
    return CC_REFRESH;
}

// --- paste ---------------------------------------------------------------------------------------

// Characters up to ESC[201~, carriage returns as newlines.
static void read_paste(EditLine *el, mk_buf *b) {
    static const char end[] = "\033[201~";
    wchar_t wc;
    while (!b->failed && el_wgetc(el, &wc) == 1) {
        mk_buf_utf8(b, wc == L'\r' ? '\n' : (uint32_t)wc);
        size_t n = sizeof end - 1;
        if (b->len >= n && memcmp(b->data + b->len - n, end, n) == 0) {
            b->len -= n;
            b->data[b->len] = 0;
            return;
        }
    }
}

static unsigned char on_paste(EditLine *el, int ch) {
    (void)ch;
    chat_edit *e = self(el);
    int slot = e->n_paste % MAX_PASTES;
    mk_buf *b = &e->paste[slot];
    mk_buf_free(b);
    mk_buf_init(b, CMD_INPUT_MAX);
    read_paste(el, b);
    const char *text = b->data ? b->data : "";
    if (b->len <= PASTE_INLINE && !strchr(text, '\n')) {
        el_insertstr(el, text);
        return CC_REFRESH;
    }
    size_t lines = 1;
    for (size_t i = 0; i < b->len; i++) {
        lines += text[i] == '\n';
    }
    e->n_paste++;
    snprintf(e->mark[slot], sizeof e->mark[slot], "[paste %d: %zu lines]", e->n_paste, lines);
    el_insertstr(el, e->mark[slot]);
    return CC_REFRESH;
}

// Appends the line with every mark replaced by its text.
static void expand(const chat_edit *e, const char *line, size_t n, mk_buf *out) {
    const char *end = line + n;
    while (line < end) {
        int at = -1;
        for (int i = 0; i < MAX_PASTES && *line == '['; i++) {
            size_t m = strlen(e->mark[i]);
            at = m > 0 && (size_t)(end - line) >= m && memcmp(line, e->mark[i], m) == 0 ? i : at;
        }
        if (at >= 0) {
            mk_buf_add(out, e->paste[at].data, e->paste[at].len);
            line += strlen(e->mark[at]);
        } else {
            mk_buf_putc(out, *line++);
        }
    }
}

// --- history -------------------------------------------------------------------------------------

// Path of the history file (mk_free), or NULL.
static char *history_path(void) {
    char *folder = cmd_state_dir(NULL);
    if (!folder) {
        return NULL;
    }
    char *path = mk_path_join(folder, "history");
    mk_err err;
    (void)!mk_folder_make_private(folder, &err);  // without it there is no history, that is all
    mk_free(folder);
    return path;
}

static void save_history(chat_edit *e) {
    HistEvent ev;
    mode_t old = umask(077);
    if (e->history_path && e->history) {
        history(e->history, &ev, H_SAVE, e->history_path);
    }
    umask(old);
}

// --- the editor ----------------------------------------------------------------------------------

// libedit decodes the terminal's bytes by the locale; without one we say UTF-8.
static void set_locale(void) {
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) {
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    }
}

static void bind_keys(EditLine *el) {
    el_set(el, EL_ADDFN, "mk-interrupt", "leave the line", on_ctrl_c);
    el_set(el, EL_ADDFN, "mk-paste", "take a paste", on_paste);
    el_set(el, EL_ADDFN, "mk-prefill", "start with a text", on_prefill);
    el_set(el, EL_BIND, "^C", "mk-interrupt", NULL);
    el_set(el, EL_BIND, "\033[200~", "mk-paste", NULL);
    el_set(el, EL_BIND, "\033[990~", "mk-prefill", NULL);
    el_set(el, EL_SETTY, "-d", "-isig", NULL);
}

chat_edit *chat_edit_open(bool tty) {
    chat_edit *e = mk_zalloc(sizeof *e);
    mk_buf_init(&e->text, CMD_INPUT_MAX);
    if (!tty) {
        return e;
    }
    set_locale();
    e->el = el_init("minke", stdin, stdout, stderr);
    if (!e->el) {
        return e;
    }
    HistEvent ev;
    e->history = history_init();
    e->history_path = history_path();
    history(e->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(e->history, &ev, H_SETUNIQUE, 1);
    if (e->history_path && mk_path_is_file(e->history_path)) {
        history(e->history, &ev, H_LOAD, e->history_path);
    }
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_PROMPT, prompt);
    el_set(e->el, EL_GETCFN, get_char);
    el_set(e->el, EL_HIST, history, e->history);
    el_source(e->el, NULL);  // the user's own keys
    bind_keys(e->el);
    return e;
}

void chat_edit_close(chat_edit *e) {
    if (!e) {
        return;
    }
    if (e->el) {
        save_history(e);
        el_end(e->el);
        history_end(e->history);
    }
    for (int i = 0; i < MAX_PASTES; i++) {
        mk_buf_free(&e->paste[i]);
    }
    mk_buf_free(&e->text);
    mk_free(e->history_path);
    mk_free(e->prefill);
    mk_free(e);
}

void chat_edit_prefill(chat_edit *e, const char *text) {
    mk_free(e->prefill);
    e->prefill = mk_strdup(text);
}

static chat_read read_terminal(chat_edit *e, const char **text) {
    int n = 0;
    e->interrupted = false;
    fputs(paste_on, stdout);
    (void)fflush(stdout);
    if (e->prefill) {
        el_push(e->el, "\033[990~");
    }
    const char *line = el_gets(e->el, &n);
    fputs(paste_off, stdout);
    (void)fflush(stdout);
    mk_free(e->prefill);
    e->prefill = NULL;
    if (e->interrupted) {
        return CHAT_INTERRUPT;
    }
    if (!line || n <= 0) {
        return CHAT_EOF;
    }
    size_t len = (size_t)n - (line[n - 1] == '\n');
    HistEvent ev;
    if (len > 0) {
        history(e->history, &ev, H_ENTER, line);
    }
    expand(e, line, len, &e->text);
    *text = e->text.data ? e->text.data : "";
    return CHAT_LINE;
}

static chat_read read_plain(chat_edit *e, const char **text) {
    int ch;
    while ((ch = getc(stdin)) != EOF && ch != '\n') {
        mk_buf_putc(&e->text, (char)ch);
    }
    *text = e->text.data ? e->text.data : "";
    return ch == EOF && e->text.len == 0 ? CHAT_EOF : CHAT_LINE;
}

chat_read chat_edit_read(chat_edit *e, const char **text) {
    mk_buf_clear(&e->text);
    return e->el ? read_terminal(e, text) : read_plain(e, text);
}
