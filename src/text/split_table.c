// The well-known pre-tokenizers as tables.  Each rule carries the regex it stands for;
// tests/text/test_split.c runs that regex with PCRE2 over all of Unicode and compares.
//
// Spellings differ between files ("(?i:'s|...)" or "'[sS]", possessive or not): `aliases` lists the
// other texts that mean the same rule.
#include "text/split.h"

#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

// clang-format off
// Items: class, then how many.
#define ONE(any)       {(any), 0, 1, 1, NULL, 0}
#define OPT(any)       {(any), 0, 0, 1, NULL, 0}
#define STAR(any)      {(any), 0, 0, 0, NULL, 0}
#define PLUS(any)      {(any), 0, 1, 0, NULL, 0}
#define UP_TO(any, n)  {(any), 0, 1, (n), NULL, 0}
#define STAR_BUT(any, none) {(any), (none), 0, 0, NULL, 0}
#define PLUS_BUT(any, none) {(any), (none), 1, 0, NULL, 0}
#define OPT_NOT(none)  {MK_C_ANY, (none), 0, 1, NULL, 0}
#define PLUS_NOT(none) {MK_C_ANY, (none), 1, 0, NULL, 0}
#define PLUS_SET(s)    {0, 0, 1, 0, (s), COUNT(s)}
#define L    MK_C_LETTER
#define N    MK_C_NUM
#define M    MK_C_MARK
#define P    MK_C_PUNCT
#define S    MK_C_SYM
#define WS   MK_C_WS
#define NL   MK_C_NL
#define SP   MK_C_SP
#define HEAD (MK_C_UP | MK_C_OTHER | MK_C_MARK)   // Lu Lt Lm Lo M
#define REST (MK_C_LOW | MK_C_OTHER | MK_C_MARK)  // Ll Lm Lo M
#define HAN  MK_C_HAN

// Alternatives that many rules share.
#define ALT_CONTRACT    {0, MK_ALT_CONTRACT, {{0}}}
#define ALT_CONTRACT_CI {0, MK_ALT_CONTRACT_CI, {{0}}}
#define ALT_WORD        {2, 0, {OPT_NOT(NL | L | N), PLUS(L)}}              // [^\r\n\p{L}\p{N}]?\p{L}+
#define ALT_SYMBOLS     {3, 0, {OPT(SP), PLUS_NOT(WS | L | N), STAR(NL)}}   //  ?[^\s\p{L}\p{N}]+[\r\n]*
#define ALT_NEWLINES    {2, 0, {STAR(WS), PLUS(NL)}}                        // \s*[\r\n]+
#define ALT_SPACES_1    {1, MK_ALT_NOT_BEFORE_NS, {PLUS(WS)}}               // \s+(?!\S)
#define ALT_SPACES      {1, 0, {PLUS(WS)}}                                  // \s+
#define ALT_TAIL        ALT_NEWLINES, ALT_SPACES_1, ALT_SPACES

#define RULE(name, regex, alts, total) \
    const mk_split_rule name = {regex, alts, COUNT(alts), total}

// --- GPT-2 and its relatives --------------------------------------------------------------------
static const mk_split_alt gpt2[] = {
    ALT_CONTRACT, {2, 0, {OPT(SP), PLUS(L)}}, {2, 0, {OPT(SP), PLUS(N)}}, {2, 0, {OPT(SP), PLUS_NOT(WS | L | N)}},
    ALT_SPACES_1, ALT_SPACES};
RULE(mk_rule_gpt2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", gpt2, true);

static const mk_split_alt digit[] = {{1, 0, {ONE(N)}}};
RULE(mk_rule_digit, "\\p{N}", digit, false);
static const mk_split_alt digits[] = {{1, 0, {PLUS(N)}}};
RULE(mk_rule_digits, "\\p{N}+", digits, false);
static const mk_split_alt punct[] = {{1, 0, {ONE(P | MK_C_APUNCT)}}};
RULE(mk_rule_punct, "[\\p{P}$+<=>^`|~]", punct, false);
static const mk_split_alt space[] = {{1, 0, {ONE(SP)}}};
RULE(mk_rule_space, " ", space, false);
static const mk_split_alt spaces[] = {{1, 0, {PLUS(WS)}}};
RULE(mk_rule_spaces, "\\s+", spaces, false);

static const mk_split_alt falcon[] = {{1, 0, {PLUS(P | MK_C_APUNCT)}}};
static RULE(rule_falcon, "[\\p{P}\\$\\+<=>\\^~\\|`]+", falcon, false);
static const mk_split_range ascii_digit[] = {{'0', '9'}};
#define D3 {0, 0, 1, 1, ascii_digit, 1}
static const mk_split_alt three[] = {{3, 0, {D3, D3, D3}}};
static RULE(rule_three, "[0-9][0-9][0-9]", three, false);

// --- cl100k and its relatives -------------------------------------------------------------------
static const mk_split_alt llama3[] = {
    ALT_CONTRACT_CI, ALT_WORD, {1, 0, {UP_TO(N, 3)}}, ALT_SYMBOLS, ALT_TAIL};
static RULE(rule_llama3,
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", llama3, true);
static const mk_split_alt qwen2[] = {
    ALT_CONTRACT_CI, ALT_WORD, {1, 0, {ONE(N)}}, ALT_SYMBOLS, ALT_TAIL};
static RULE(rule_qwen2,
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", qwen2, true);
static const mk_split_alt qwen35[] = {
    ALT_CONTRACT_CI, {2, 0, {OPT_NOT(NL | L | N), PLUS(L | M)}}, {1, 0, {ONE(N)}},
    {3, 0, {OPT(SP), PLUS_NOT(WS | L | M | N), STAR(NL)}}, ALT_TAIL};
static RULE(rule_qwen35,
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", qwen35, true);
static const mk_split_alt bailing[] = {
    ALT_CONTRACT_CI, ALT_WORD, {1, 0, {ONE(N)}}, ALT_SYMBOLS, {2, 0, {STAR(WS), ONE(NL)}}, ALT_SPACES_1, ALT_SPACES};
static RULE(rule_bailing,
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
    "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+", bailing, true);
static const mk_split_alt seed[] = {
    ALT_CONTRACT_CI, ALT_WORD, {1, 0, {ONE(N)}}, {2, 0, {OPT(SP), PLUS_NOT(WS | L | N)}}, ALT_TAIL};
static RULE(rule_seed,
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", seed, true);

// --- o200k and its relatives: words are cut before a capital ------------------------------------
#define ALT_CASED(but, flag) \
    {3, flag, {OPT_NOT(NL | L | N), STAR_BUT(HEAD, but), PLUS_BUT(REST, but)}}, \
    {3, flag, {OPT_NOT(NL | L | N), PLUS_BUT(HEAD, but), STAR_BUT(REST, but)}}
#define RE_CASED(c) \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" c \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" c
#define RE_CI "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
static const mk_split_range nl_slash[] = {{'\n', '\n'}, {'\r', '\r'}, {'/', '/'}};
#define ALT_SYMBOLS_SLASH {3, 0, {OPT(SP), PLUS_NOT(WS | L | N), {0, 0, 0, 0, nl_slash, 3}}}
static const mk_split_alt gpt4o[] = {
    ALT_CASED(0, MK_ALT_TAIL_CI), {1, 0, {UP_TO(N, 3)}}, ALT_SYMBOLS_SLASH, ALT_TAIL};
static RULE(rule_gpt4o,
    RE_CASED(RE_CI) "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", gpt4o, true);
static const mk_split_alt tekken[] = {
    ALT_CASED(0, 0), {1, 0, {ONE(N)}}, ALT_SYMBOLS_SLASH, ALT_TAIL};
static RULE(rule_tekken,
    RE_CASED("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", tekken, true);
// Kimi writes the exclusion of Han as a set subtraction, which PCRE2 lacks; the lookaheads here
// mean the same.
#define RE_HEAD_NOT_HAN "(?:(?!\\p{Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])"
#define RE_REST_NOT_HAN "(?:(?!\\p{Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])"
static const mk_split_alt kimi[] = {
    {1, 0, {PLUS(HAN)}}, ALT_CASED(HAN, MK_ALT_TAIL_CI), {1, 0, {UP_TO(N, 3)}}, ALT_SYMBOLS, ALT_TAIL};
static RULE(rule_kimi,
    "\\p{Han}+|[^\\r\\n\\p{L}\\p{N}]?" RE_HEAD_NOT_HAN "*" RE_REST_NOT_HAN "+" RE_CI
    "|[^\\r\\n\\p{L}\\p{N}]?" RE_HEAD_NOT_HAN "+" RE_REST_NOT_HAN "*" RE_CI
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", kimi, true);

// --- DeepSeek -----------------------------------------------------------------------------------
static const mk_split_alt digits3[] = {{1, 0, {UP_TO(N, 3)}}};
static RULE(rule_digits3, "\\p{N}{1,3}", digits3, false);
static const mk_split_alt cjk3[] = {{1, 0, {PLUS(MK_C_CJK3)}}};
static RULE(rule_cjk3, "[一-龥぀-ゟ゠-ヿ]+", cjk3, false);
static const mk_split_alt deepseek3[] = {
    {2, 0, {ONE(MK_C_APUNCT), PLUS(MK_C_AZ)}}, {2, 0, {OPT_NOT(NL | L | P | S), PLUS(L | M)}},
    {3, 0, {OPT(SP), PLUS(P | S), STAR(NL)}}, ALT_TAIL};
static RULE(rule_deepseek3,
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+", deepseek3, false);

static const mk_split_alt newline[] = {{1, 0, {ONE(NL)}}};
RULE(mk_rule_newline, "[\r\n]", newline, false);
// Cased letters of an older Unicode, as the file lists them.
static const mk_split_range cased[] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA},
    {0x1BC, 0x1BF}, {0x1C4, 0x293}, {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377},
    {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A}, {0x38C, 0x38C},
    {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556},
    {0x10A0, 0x10C5}, {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF},
    {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77}, {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D},
    {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57}, {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B},
    {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC}, {0x1FBE, 0x1FBE},
    {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113},
    {0x2115, 0x2115}, {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128},
    {0x212A, 0x212D}, {0x212F, 0x2134}, {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149},
    {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B}, {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE},
    {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F}, {0xA771, 0xA787},
    {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};
static const mk_split_alt ds_word[] = {{2, 0, {OPT(WS), PLUS_SET(cased)}}};
static RULE(rule_ds_word,
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷ"
    "ᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄ"
    "Ⰰ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+", ds_word, false);
static const mk_split_range ds_punct_set[] = {
    {0x21, 0x2F}, {0x3A, 0x7E}, {0x2018, 0x201F}, {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
static const mk_split_alt ds_punct[] = {{2, 0, {OPT(WS), PLUS_SET(ds_punct_set)}}};
static RULE(rule_ds_punct, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", ds_punct, false);
static const mk_split_alt space_end[] = {{1, MK_ALT_AT_END, {PLUS(WS)}}};
RULE(mk_rule_space_end, "\\s+$", space_end, false);
static const mk_split_range ds_cjk_set[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const mk_split_alt ds_cjk[] = {{1, 0, {PLUS_SET(ds_cjk_set)}}};
static RULE(rule_ds_cjk, "[一-龥ࠀ-一가-\xED\x9F\xBF]+", ds_cjk, false);
static const mk_split_alt coder_word[] = {{2, 0, {OPT(WS), PLUS(L)}}};
static RULE(rule_coder_word, "\\s?\\p{L}+", coder_word, false);
static const mk_split_alt coder_punct[] = {{2, 0, {OPT(WS), PLUS(P)}}};
static RULE(rule_coder_punct, "\\s?\\p{P}+", coder_punct, false);

// What llama.cpp does for a byte-level BPE without a name (this rule also takes the backtick, which
// that one leaves out).
static const mk_split_alt deflt[] = {{1, 0, {PLUS(P | MK_C_APUNCT)}}};
static RULE(rule_default, "[\\p{P}$+<=>^~|`]+", deflt, false);

// --- lists --------------------------------------------------------------------------------------
const mk_split_rule *const mk_split_all[] = {
    &mk_rule_gpt2, &mk_rule_digit, &mk_rule_digits, &mk_rule_punct, &mk_rule_space, &mk_rule_spaces, &rule_falcon,
    &rule_three, &rule_llama3, &rule_qwen2, &rule_qwen35, &rule_bailing, &rule_seed, &rule_gpt4o, &rule_tekken,
    &rule_kimi, &rule_digits3, &rule_cjk3, &rule_deepseek3, &mk_rule_newline, &rule_ds_word, &rule_ds_punct,
    &mk_rule_space_end, &rule_ds_cjk, &rule_coder_word, &rule_coder_punct};
const int mk_split_n_all = (int)COUNT(mk_split_all);

static const struct {
    const char *regex;
    const mk_split_rule *rule;
} aliases[] = {
    {"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", &rule_llama3},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
     "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", &rule_llama3},
    {"[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
     "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
     "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", &rule_kimi},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
     "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", &rule_deepseek3},
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)", &mk_rule_gpt2},
    {"[\\r\\n]", &mk_rule_newline},
};

const mk_split_rule *mk_split_by_regex(const char *regex, size_t n) {
    for (size_t i = 0; i < COUNT(mk_split_all); i++) {
        const char *s = mk_split_all[i]->regex;
        if (strlen(s) == n && memcmp(s, regex, n) == 0) {
            return mk_split_all[i];
        }
    }
    for (size_t i = 0; i < COUNT(aliases); i++) {
        if (strlen(aliases[i].regex) == n && memcmp(aliases[i].regex, regex, n) == 0) {
            return aliases[i].rule;
        }
    }
    return NULL;
}

#define CL100K {&rule_llama3}
#define GPT2   {&mk_rule_gpt2}
#define STARCODER {&mk_rule_digit, &mk_rule_gpt2}
#define DEEPSEEK3 {&rule_digits3, &rule_cjk3, &rule_deepseek3}
#define BLOOM  {" ?[^(\\s|.,!?…。，、।۔،)]+", NULL}
// name, rules, regexes, ignore_merges, nfc, add_bos (the defaults when a file says nothing).  Where
// several names share a row's content the first is the one that is written.
const mk_pre mk_pre_table[] = {
    {"llama-bpe", CL100K, {0}, true, false, true},
    {"llama3", CL100K, {0}, true, false, true},
    {"llama-v3", CL100K, {0}, true, false, true},
    {"falcon3", CL100K, {0}, true, false, true},
    {"falcon-h1", CL100K, {0}, true, false, true},
    {"pixtral", CL100K, {0}, true, false, true},
    {"lfm2", CL100K, {0}, true, false, true},
    {"dbrx", CL100K, {0}, false, false, false},
    {"smaug-bpe", CL100K, {0}, false, false, false},
    {"glm4", CL100K, {0}, false, false, false},
    {"chatglm-bpe", CL100K, {0}, false, false, false},
    {"qwen2", {&rule_qwen2}, {0}, false, true, false},
    {"deepseek-r1-qwen", {&rule_qwen2}, {0}, false, false, false},
    {"hunyuan", {&rule_qwen2}, {0}, false, false, false},
    {"stablelm2", {&rule_qwen2}, {0}, false, false, false},
    {"megrez", {&rule_qwen2}, {0}, false, false, false},
    {"solar-open", {&rule_qwen2}, {0}, false, false, false},
    {"grok-2", {&rule_qwen2}, {0}, false, false, false},
    {"qwen35", {&rule_qwen35}, {0}, false, true, false},
    {"deepseek-llm",
     {&mk_rule_newline, &rule_ds_word, &rule_ds_punct, &mk_rule_space_end, &rule_ds_cjk, &mk_rule_digit}, {0},
     false, false, false},
    {"deepseek-coder",
     {&mk_rule_newline, &rule_coder_word, &rule_coder_punct, &rule_ds_cjk, &mk_rule_digit}, {0}, false, false, false},
    {"deepseek-v3", DEEPSEEK3, {0}, false, false, false},
    {"hunyuan-dense", DEEPSEEK3, {0}, false, false, false},
    {"joyai-llm", DEEPSEEK3, {0}, false, false, false},
    {"falcon", {&rule_falcon, &mk_rule_gpt2, &rule_three}, {0}, false, false, false},
    {"starcoder", STARCODER, {0}, false, false, false},
    {"refact", STARCODER, {0}, false, false, false},
    {"command-r", STARCODER, {0}, false, false, false},
    {"smollm", STARCODER, {0}, false, false, false},
    {"codeshell", STARCODER, {0}, false, false, false},
    {"exaone", STARCODER, {0}, false, false, false},
    {"minerva-7b", STARCODER, {0}, false, false, false},
    {"gpt-2", GPT2, {0}, false, false, false},
    {"phi-2", GPT2, {0}, false, false, false},
    {"mpt", GPT2, {0}, false, true, false},
    {"olmo", GPT2, {0}, false, true, false},
    {"jais", GPT2, {0}, false, false, false},
    {"trillion", GPT2, {0}, false, false, false},
    {"roberta-bpe", GPT2, {0}, false, false, false},
    {"gigachat", GPT2, {0}, false, false, false},
    {"exaone4", GPT2, {0}, false, false, false},
    {"granite-docling", GPT2, {0}, false, false, false},
    {"gpt-4o", {&rule_gpt4o}, {0}, false, false, false},
    {"llama4", {&rule_gpt4o}, {0}, false, false, false},
    {"minimax-m2", {&rule_gpt4o}, {0}, false, false, false},
    {"tekken", {&rule_tekken}, {0}, true, false, true},
    {"kimi-k2", {&rule_kimi}, {0}, false, false, false},
    {"bailingmoe", {&rule_bailing}, {0}, false, false, false},
    {"bailingmoe2", {&rule_bailing}, {0}, false, false, false},
    {"seed-coder", {&rule_seed}, {0}, false, false, false},
    {"poro-chat", {0}, BLOOM, false, false, false},
    {"bloom", {0}, BLOOM, false, false, false},
    {"gpt3-finnish", {0}, BLOOM, false, false, false},
    {"viking", {0}, {" ?[^(\\s|.,!?…。，、।۔،)]+", "\\p{N}"}, false, false, false},
    {"default", {&rule_default, &mk_rule_gpt2, &mk_rule_digits, &rule_three}, {0}, false, false, false},
};
// clang-format on
const int mk_pre_n = (int)COUNT(mk_pre_table);

const mk_pre *mk_pre_find(const char *name, size_t n) {
    for (size_t i = 0; i < COUNT(mk_pre_table); i++) {
        if (strlen(mk_pre_table[i].name) == n && memcmp(mk_pre_table[i].name, name, n) == 0) {
            return &mk_pre_table[i];
        }
    }
    return NULL;
}
