// The text of --help (base/opt.h).
//
//   Usage: minke run [-m MODEL] [PROMPT]
//
//   About, wrapped.
//
//   Group:
//     -m, --model MODEL      help, wrapped at 80 columns
//         --top-p P          help (0 to 1; default 1)
#include "base/opt.h"

#include <string.h>

enum { WIDTH = 80, HELP_COLUMN = 28, FLAGS_INDENT = 2 };

// Number of columns of s, taking every code point as one.
static size_t columns(const char *s, size_t n) {
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        w += ((unsigned char)s[i] & 0xC0) != 0x80;
    }
    return w;
}

static void pad(mk_buf *out, size_t n) {
    while (n-- > 0) {
        mk_buf_putc(out, ' ');
    }
}

// Writes words of text, the cursor being at column `at`; following lines start at column `indent`.
// Ends the line.
static void wrap(mk_buf *out, const char *text, size_t at, size_t indent) {
    bool first = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        size_t w = columns(text, n);
        if (!first && at + 1 + w > WIDTH) {
            mk_buf_putc(out, '\n');
            pad(out, indent);
            at = indent;
        } else if (!first) {
            mk_buf_putc(out, ' ');
            at++;
        }
        mk_buf_add(out, text, n);
        at += w;
        first = false;
        text += n + strspn(text + n, " ");
    }
    mk_buf_putc(out, '\n');
}

// "(0 to 1; default 1; MINKE_TOP_P)" - what the row knows besides its sentence.
static void add_facts(mk_buf *b, const mk_opt *o) {
    const char *sep = " (";
    if (o->min < 0 || o->min > 0 || o->max < 0 || o->max > 0) {
        mk_buf_printf(b, "%s%.15g to %.15g", sep, o->min, o->max);
        sep = "; ";
    }
    if (o->word) {
        mk_buf_printf(b, "%sor %s", sep[0] == ' ' ? sep : " ", o->word);
        sep = "; ";
    }
    if (o->choices) {
        mk_buf_printf(b, "%s%s", sep, o->choices);
        sep = "; ";
    }
    if (o->dflt && o->type != MK_OPT_FLAG && o->dflt[0]) {
        mk_buf_printf(b, "%sdefault %s", sep, o->dflt);
        sep = "; ";
    }
    if (o->dflt && o->type == MK_OPT_FLAG && strcmp(o->dflt, "on") == 0) {
        mk_buf_printf(b, "%sdefault on, --no-%s turns it off", sep, o->name);
        sep = "; ";
    }
    if (o->env) {
        mk_buf_printf(b, "%s%s", sep, o->env);
        sep = "; ";
    }
    if (sep[0] != ' ') {
        mk_buf_putc(b, ')');
    }
}

static void add_row(mk_buf *out, const mk_opt *o) {
    size_t start = out->len;
    pad(out, FLAGS_INDENT);
    if (o->short_name) {
        mk_buf_printf(out, "-%s, ", o->short_name);
    } else {
        pad(out, 4);
    }
    mk_buf_printf(out, "--%s", o->name);
    if (o->type != MK_OPT_FLAG) {
        mk_buf_printf(out, " %s", o->arg ? o->arg : "VALUE");
    }
    if (out->failed) {
        return;
    }
    size_t at = columns(out->data + start, out->len - start);
    if (at + 2 > HELP_COLUMN) {
        mk_buf_putc(out, '\n');
        at = 0;
    }
    pad(out, HELP_COLUMN - at);
    mk_buf text;
    mk_buf_init(&text, 4096);
    mk_buf_puts(&text, o->help ? o->help : "");
    add_facts(&text, o);
    if (!text.failed) {
        wrap(out, text.data, HELP_COLUMN, HELP_COLUMN);
    }
    mk_buf_free(&text);
}

void mk_opt_help(const mk_opt_spec *spec, mk_buf *out) {
    mk_buf_printf(out, "Usage: %s %s\n", spec->program, spec->usage ? spec->usage : "[options]");
    if (spec->about) {
        mk_buf_putc(out, '\n');
        wrap(out, spec->about, 0, 0);
    }
    static const mk_opt help_row = {.name = "help", .short_name = "h", .help = "print this text"};
    const char *group = "Options";
    for (size_t i = 0; i < spec->n_opts; i++) {
        group = spec->opts[i].group ? spec->opts[i].group : group;
        if (i == 0 || spec->opts[i].group) {
            mk_buf_printf(out, "\n%s:\n", group);
        }
        add_row(out, &spec->opts[i]);
    }
    if (spec->n_opts == 0) {
        mk_buf_printf(out, "\n%s:\n", group);
    }
    add_row(out, &help_row);
    if (spec->more) {
        mk_buf_printf(out, "\n%s", spec->more);
        mk_buf_puts(out, spec->more[0] && spec->more[strlen(spec->more) - 1] == '\n' ? "" : "\n");
    }
}
