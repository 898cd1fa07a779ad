// Questions as people type them: other spellings of the puzzles, and what is no puzzle at all.
#include <ctype.h>
#include <string.h>

#include "puzzles.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

// --- another spelling ----------------------------------------------------------------------------

// Puts another text for every + - * of a question.  " -> " is no sign.
static void respell_signs(mk_buf *out, const char *s, size_t n, const char *const form[3]) {
    for (size_t i = 0; i < n; i++) {
        const char *sign = strchr("+-*", s[i]);
        if (!sign || (i + 1 < n && s[i + 1] == '>')) {
            mk_buf_putc(out, s[i]);
            continue;
        }
        mk_buf_puts(out, form[sign - "+-*"]);
    }
}

void pz_respell(pz_item *it, pz_rng *r) {
    static const char *const form[][3] = {
        {"+", "-", "x"},
        {"+", "-", "\xc3\x97"},
        {" plus ", " minus ", " times "},
        {" + ", " - ", " x "},
    };
    mk_buf old = it->prompt;
    mk_buf_init(&it->prompt, 1 << 16);
    int how = pz_below(r, 2 + COUNT(form));
    bool spaced = old.len > 2 &&
                  (strstr(old.data, " + ") || strstr(old.data, " - ") || strstr(old.data, " * "));
    if (how < COUNT(form) && !it->countdown && !spaced) {
        respell_signs(&it->prompt, old.data, old.len, form[how]);
    } else {
        mk_buf_puts(&it->prompt, old.data);
    }
    if (how >= COUNT(form) || pz_chance(r, 0.5)) {
        for (size_t i = 0; i < it->prompt.len; i++) {
            it->prompt.data[i] = (char)tolower((unsigned char)it->prompt.data[i]);
        }
    }
    mk_buf_free(&old);
}

// --- no puzzle -----------------------------------------------------------------------------------

static const char *const words[] = {
    "a cat",   "a dog",   "the sea", "France",   "Korea",   "London",   "music",     "history",
    "numbers", "water",   "time",    "a car",    "bread",   "the moon", "a poem",    "a story",
    "physics", "money",   "people",  "the sun",  "a tree",  "love",     "life",      "the world",
    "Python",  "code",    "a song",  "birds",    "a house", "the king", "Paris",     "my friend",
    "dinner",  "a whale", "the war", "summer",   "rain",    "a train",  "computers", "a horse",
    "school",  "the law", "science", "a letter", "coffee",  "an email", "a list",    "fish",
};

// Words nobody has seen, so that not these words alone are met with the right answer.
static void put_syllables(mk_buf *out, pz_rng *r) {
    static const char *const onset[] = {"b", "c", "d",  "f",  "g",  "h",  "k",  "l",
                                        "m", "n", "p",  "r",  "s",  "t",  "v",  "w",
                                        "y", "z", "st", "tr", "ch", "th", "pl", ""};
    static const char *const rime[] = {"a",    "e",  "i",  "o",   "u",   "an", "er",
                                       "in",   "on", "al", "ing", "ed",  "oo", "ee",
                                       "ight", "ow", "y",  "ack", "est", "ion"};
    for (int n = 1 + pz_below(r, 3), i = 0; i < n; i++) {
        mk_buf_puts(out, onset[pz_below(r, COUNT(onset))]);
        mk_buf_puts(out, rime[pz_below(r, COUNT(rime))]);
    }
}

static void put_word(mk_buf *out, pz_rng *r) {
    if (pz_chance(r, 0.5)) {
        mk_buf_puts(out, words[pz_below(r, COUNT(words))]);
    } else {
        put_syllables(out, r);
    }
}

void pz_other(pz_item *it, pz_rng *r) {
    // %: a word or two, #: a number
    static const char *const phrase[] = {
        "Hello",
        "Hello!",
        "Hi",
        "Hi there",
        "hey",
        "Good morning",
        "Hello, how are you?",
        "How are you?",
        "Who are you?",
        "What are you?",
        "What can you do?",
        "What is your name?",
        "Help",
        "Thanks",
        "Thank you!",
        "ok",
        "yes",
        "no",
        "test",
        "Why?",
        "Tell me a joke",
        "Tell me about %.",
        "Tell me %.",
        "Write %.",
        "Write % about %.",
        "Write # words about %.",
        "Write code for %",
        "What is %?",
        "What is the % of %?",
        "What is the meaning of %?",
        "What's %?",
        "What's the capital of %?",
        "What is #% of %?",
        "Who is %?",
        "Who was %?",
        "Why is % so %?",
        "Where is %?",
        "When was %?",
        "How do I % with %?",
        "How does % work?",
        "How much is %?",
        "How many % are in %?",
        "How old is %?",
        "Explain %",
        "Explain % to me.",
        "Translate % into %",
        "Summarize: % % % % %.",
        "Make %",
        "Make me % from %",
        "Make % with % and %",
        "Find %",
        "Find the % of %.",
        "Solve %",
        "Compute % of %.",
        "Calculate the % of %.",
        "Evaluate %.",
        "Work out %.",
        "Use % to get %",
        "Get % from %",
        "Can you %?",
        "Can you help me with %?",
        "Do you like %?",
        "Is % better than %?",
        "Please %.",
        "Please compute %.",
        "Give me # ideas for %",
        "Count to #",
        "List # %",
        "I have # % and % gave me # more.",
        "I like %",
        "I want %",
        "My name is %",
        "%",
        "% %",
        "% %?",
        "% % %",
        "% % % %.",
        "%, % and %",
        "%:",
    };
    it->countdown = false;
    it->other = it->right = true;
    it->course = PZ_DIRECT;
    for (const char *p = phrase[pz_below(r, COUNT(phrase))]; *p; p++) {
        if (*p == '%') {
            put_word(&it->prompt, r);
        } else if (*p == '#') {
            mk_buf_printf(&it->prompt, "%d", 1 + pz_below(r, 200));
        } else {
            mk_buf_putc(&it->prompt, *p);
        }
    }
    mk_buf_add(&it->text, it->prompt.data, it->prompt.len);
    mk_buf_puts(&it->answer, PZ_OTHER_ANSWER);
}
