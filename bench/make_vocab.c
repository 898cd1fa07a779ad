// Text token `id` stands for a byte, or for 2 or 3 of the 64 letters in `alphabet`:
//     id < 256                    the byte id
//     id - 256 = k < 4096         letters k / 64 and k % 64
//     id - 4352 = k               the pair of id 256 + k / 64, then letter k % 64
// so every string is unique, every token of more than one byte is one merge of two earlier ones,
// and what a model with random weights says is text that any program can print.
#include "make_vocab.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { N_BYTE = 256, N_LETTER = 64, N_PAIR = N_LETTER * N_LETTER, SLOT = 48 };

// With what JSON is made of, so that a grammar has tokens that cross its borders.
static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789 \"{}[]:,.-_/'()!?+*=<>;#%&@$";

// Values of tokenizer.ggml.token_type.
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_UNUSED = 5 };

const mk_vocab_kind mk_vocab_llama = {
    .pre = "llama-bpe",
    .special = (const char *const[]){"<|begin_of_text|>", "<|end_of_text|>",
                                     "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
                                     "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
                                     "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
                                     "<|eot_id|>", NULL},
    .bos = 0,
    .eos = 9,
    .add_bos = true,
    .chat_template = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
                     "<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
                     "{% if add_generation_prompt %}<|start_header_id|>assistant"
                     "<|end_header_id|>\n\n{% endif %}",
};

const mk_vocab_kind mk_vocab_qwen2 = {
    .pre = "qwen2",
    .special = (const char *const[]){"<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL},
    .bos = 0,
    .eos = 2,
    .chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
                     "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
                     "{% endif %}",
};

// The bars and the line are full-width characters here.
const mk_vocab_kind mk_vocab_deepseek = {
    .pre = "deepseek-llm",
    .special = (const char *const[]){"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", NULL},
    .bos = 0,
    .eos = 1,
    .add_bos = true,
    .chat_template = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
                     "Assistant: {{ m['content'] }}{{ eos_token }}{% else %}User: "
                     "{{ m['content'] }}\n\n{% endif %}{% endfor %}"
                     "{% if add_generation_prompt %}Assistant:{% endif %}",
};

// The byte-level alphabet: printable Latin-1 stands for itself, the others for U+0100 and up in
// order.
static uint32_t letter(uint32_t byte) {
    uint32_t next = 256;
    for (uint32_t b = 0; b <= byte; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) {
            return itself ? b : next;
        }
        next += !itself;
    }
    return 0;
}

typedef struct {
    uint32_t letters[N_BYTE];
    char (*slots)[SLOT];
    mk_gguf_str *strs;  // point into the slots
} texts;

static void put_char(mk_gguf_str *s, char *slot, uint32_t c) {
    if (c < 0x80) {
        slot[s->n++] = (char)c;
    } else {  // all letters are below U+0800
        slot[s->n++] = (char)(0xC0 | c >> 6);
        slot[s->n++] = (char)(0x80 | (c & 0x3F));
    }
}

static void put_letter(const texts *t, mk_gguf_str *s, char *slot, int64_t i) {
    put_char(s, slot, t->letters[(unsigned char)alphabet[i]]);
}

// The two parts of a token of more than one byte, `between` them.
static void put_parts(const texts *t, mk_gguf_str *s, char *slot, int64_t id, const char *between) {
    int64_t k = id - N_BYTE;
    bool three = k >= N_PAIR;
    k -= three ? N_PAIR : 0;
    if (three) {
        put_letter(t, s, slot, k / N_PAIR);
    }
    put_letter(t, s, slot, k / N_LETTER % N_LETTER);
    for (; *between; between++) {
        slot[s->n++] = *between;
    }
    put_letter(t, s, slot, k % N_LETTER);
}

static void put_token(const texts *t, mk_gguf_str *s, char *slot, int64_t id) {
    if (id < N_BYTE) {
        put_char(s, slot, t->letters[id]);
    } else {
        put_parts(t, s, slot, id, "");
    }
}

static void put_special(const char *name, int64_t i, mk_gguf_str *s, char *slot) {
    int n = name ? snprintf(slot, SLOT, "%s", name)
                 : snprintf(slot, SLOT, "<|unused_%lld|>", (long long)i);
    MK_ASSERT(n > 0 && n < SLOT);
    s->n = (size_t)n;
}

static void write_tokens(texts *t, const mk_vocab_kind *kind, int64_t n_vocab, int64_t n_text,
                         mk_gguf_out *o) {
    int32_t *types = mk_alloc((size_t)n_vocab * sizeof *types);
    const char *const *name = kind->special;
    for (int64_t i = 0; i < n_vocab; i++) {
        t->strs[i] = (mk_gguf_str){t->slots[i], 0};
        if (i < n_text) {
            put_token(t, &t->strs[i], t->slots[i], i);
            types[i] = TYPE_NORMAL;
            continue;
        }
        put_special(*name, i - n_text, &t->strs[i], t->slots[i]);
        types[i] = *name ? TYPE_CONTROL : TYPE_UNUSED;
        name += *name != NULL;
    }
    MK_ASSERT(*name == NULL);
    mk_gguf_out_arr_str(o, "tokenizer.ggml.tokens", t->strs, n_vocab);
    mk_gguf_out_arr_i32(o, "tokenizer.ggml.token_type", types, n_vocab);
    mk_free(types);
}

static void write_merges(texts *t, int64_t n_text, mk_gguf_out *o) {
    for (int64_t i = N_BYTE; i < n_text; i++) {
        t->strs[i] = (mk_gguf_str){t->slots[i], 0};
        put_parts(t, &t->strs[i], t->slots[i], i, " ");
    }
    mk_gguf_out_arr_str(o, "tokenizer.ggml.merges", t->strs + N_BYTE, n_text - N_BYTE);
}

void mk_make_vocab(const mk_vocab_kind *kind, int64_t n_vocab, int64_t n_text, mk_gguf_out *o) {
    MK_ASSERT(n_text > N_BYTE && n_text <= N_BYTE + N_PAIR * (1 + N_LETTER) && n_text <= n_vocab);
    texts t = {.slots = mk_alloc((size_t)n_vocab * sizeof *t.slots),
               .strs = mk_alloc((size_t)n_vocab * sizeof *t.strs)};
    for (uint32_t b = 0; b < N_BYTE; b++) {
        t.letters[b] = letter(b);
    }
    mk_gguf_out_str(o, "tokenizer.ggml.model", "gpt2", 4);
    mk_gguf_out_str(o, "tokenizer.ggml.pre", kind->pre, strlen(kind->pre));
    write_tokens(&t, kind, n_vocab, n_text, o);
    write_merges(&t, n_text, o);
    mk_gguf_out_u32(o, "tokenizer.ggml.bos_token_id", (uint32_t)(n_text + kind->bos));
    mk_gguf_out_u32(o, "tokenizer.ggml.eos_token_id", (uint32_t)(n_text + kind->eos));
    mk_gguf_out_i64(o, "tokenizer.ggml.add_bos_token", MK_GGUF_BOOL, kind->add_bos);
    mk_gguf_out_str(o, "tokenizer.chat_template", kind->chat_template, strlen(kind->chat_template));
    mk_free(t.slots);
    mk_free(t.strs);
}
