// The web page: its files, as they were when the program was built, by the path they are asked for.
//
// web/chat and Debian's copies of marked, KaTeX and highlight.js; CMakeLists.txt lists them and
// generates the table.  Everything that the page needs comes from here: its policy lets the browser
// ask nobody else, run no script and no style of an answer, and make no HTML of a text.
#ifndef MK_SERVE_PAGE_H
#define MK_SERVE_PAGE_H

typedef struct {
    const char *path;  // "/web/app.js"; "/" is the page itself
    const unsigned char *data;
    const unsigned long *n;
} mk_page_file;

extern const mk_page_file mk_page_files[];  // the last one's path is NULL

#endif
