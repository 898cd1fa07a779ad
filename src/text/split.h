// Splitting text into the words that merges cannot cross: a small matcher over character classes,
// and the tables of the well-known pre-tokenizers written for it.
//
// A rule is a list of alternatives tried in order at each position, like the regexes it stands for.
// An alternative is a sequence of up to four items (class test, minimum, maximum; greedy, giving
// back like a regex) with an optional condition behind it.  A pre-tokenizer is a sequence of rules:
// each rule splits every piece the one before left. Sources: the `pre_tokenizer` of the makers'
// tokenizer.json files; the regex text of each rule stands in split_table.c, and the tests compare
// every rule with that regex run by PCRE2.
#ifndef MK_TEXT_SPLIT_H
#define MK_TEXT_SPLIT_H

#include "text/uclass.h"

typedef struct {
    uint32_t lo, hi;
} mk_split_range;

typedef struct {
    uint16_t any, none;         // matches when (class & any) and not (class & none) ...
    uint8_t min, max;           // max 0 = no limit
    const mk_split_range *set;  // ... or, if not NULL, when in one of n_set sorted ranges
    uint16_t n_set;
} mk_split_item;

#define MK_SPLIT_MAX_ITEM 4

enum {                         // mk_split_alt.flags
    MK_ALT_CONTRACT = 1,       // the whole alternative: 's 't 're 've 'm 'll 'd
    MK_ALT_CONTRACT_CI = 2,    // the same in any case
    MK_ALT_TAIL_CI = 4,        // optional contraction behind the items, any case
    MK_ALT_NOT_BEFORE_NS = 8,  // (?!\S)
    MK_ALT_AT_END = 16         // $
};

typedef struct {
    uint8_t n_item, flags;
    mk_split_item item[MK_SPLIT_MAX_ITEM];
} mk_split_alt;

typedef struct mk_split_rule {
    const char *regex;  // what this rule does, in the spelling of tokenizer.json
    const mk_split_alt *alt;
    uint8_t n_alt;
    bool total;  // every character is part of a match
} mk_split_rule;

// First match at or after `from` in text[0..n): sets [*start, *end), *end > *start.  false if there
// is none.
bool mk_split_find(const mk_split_rule *r, const mk_uclass *u, const char *text, size_t n,
                   size_t from, size_t *start, size_t *end);

// The rule whose regex has exactly this text (under any of its known spellings), or NULL.
const mk_split_rule *mk_split_by_regex(const char *regex, size_t n);

// Pre-tokenizers by their GGUF names.
#define MK_PRE_MAX_RULE 6
typedef struct {
    const char *name;
    const mk_split_rule *rule[MK_PRE_MAX_RULE];  // NULL behind the last
    const char *regex[2];  // instead of rules, for rare ones: run by PCRE2 in this order
    bool ignore_merges, nfc, add_bos;
} mk_pre;
extern const mk_pre mk_pre_table[];
extern const int mk_pre_n;
const mk_pre *mk_pre_find(const char *name, size_t n);

// All rules, for tests; and those that pre-tokenizers of tokenizer.json name by themselves.
extern const mk_split_rule *const mk_split_all[];
extern const int mk_split_n_all;
extern const mk_split_rule mk_rule_gpt2, mk_rule_digit, mk_rule_digits, mk_rule_punct,
    mk_rule_space, mk_rule_spaces;

// "\s+$" as a rule of its own means the end of the text; it stands for the regex, whose $ also
// stops at line ends, only behind mk_rule_newline.
extern const mk_split_rule mk_rule_space_end, mk_rule_newline;

#endif
