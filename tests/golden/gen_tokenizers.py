"""Small tokenizers trained with the `tokenizers` package, and what that package makes of a few hundred texts.

Writes tests/golden/tokenizers/NAME.json (the tokenizer), texts.bin and NAME.bin (the expectations):
  texts.bin   u32 count, then per text u32 length and the UTF-8 bytes
  NAME.bin    per text: three lists (encode without special tokens around, encode with, decode of the first), each
              u32 length and i32 ids; the decoded text is u32 length and bytes.  Little endian.
The package recognises special tokens in texts always; the tests therefore encode with parse_special.

Run:  python tests/golden/gen_tokenizers.py   (needs `tokenizers`)
"""
import json
import os
import random
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" \
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = CASED + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DS3 = ["\\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
       "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
       "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]

PHRASES = [
    "Hello, world! How are you today?", "I've been told they'RE here; we'Ve gone, it'S fine, y'all'd've known 'tis",
    "The quick brown fox jumps over the lazy dog.", "Der Käse schmeckt süß. Ein Fluß, größer als Straße.",
    "Ça va très bien, merci ! Où êtes-vous né ?", "Привет, мир! Как дела сегодня?", "Καλημέρα κόσμε, τι κάνεις;",
    "我想在apple工作1314151天～", "今天天气很好，我们去公园吧。", "こんにちは世界。カタカナとひらがな、漢字", "안녕하세요 세계! 한국어 테스트",
    "مرحبا بالعالم كيف حالك", "שלום עולם", "नमस्ते दुनिया, आप कैसे हैं?", "สวัสดีชาวโลก", "កាន់តែពិសេសអាច", "Xin chào thế giới, Việt Nam",
    "🚀 (normal) 😶‍🌫️ (multiple) ✅ 👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽", "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))",
    "int main(void) {\n\tprintf(\"%d\\n\", 42);\r\n\treturn 0;\r\n}", "<div class=\"a\">&nbsp;</div>", "a_b-c.d/e\\f:g;h",
    "3 33 333 3333 33333 333333 3333333 1,234,567.89 1e-10 0xFF", "½ ¼ ² ³ Ⅷ ⅻ ٣٤٥ ๑๒๓ 一二三", "e\u0301 o\u0308 A\u030a n\u0303 \u1100\u1161\u11a8",
    "\ufb01ne \uff21\uff22\uff23 \u00c5ngstr\u00f6m \u212b \u2126", "tab\tand\u00a0nbsp\u2003em\u3000ideographic\u200bzero\u2028line",
    "   leading and trailing   ", "\n\n\n", " \n \n\t\n  x", "\r\n\r\n", "a  b   c    d", "\u0000\u0001\u001f\u007f\u0085", "!!!??...---===",
    "(((a))) [[b]] {{c}} ``d'' \"e\"", "#hashtag @user $100 50% 5€ £9", "CamelCaseWord XMLHttpRequest iPhone15Pro", "ſ 'ſt K 's",
    "<|special|>text<|special|>", "<s>hello</s>", "x<|extra|> y <|extra|>", "中文<|special|>中文", "ÀÉÎÕÜàéîõü", "ǅ ǈ ʰ ª º ˈ",
    "\u0301leading mark", "a\u200db\u200cc", "\U00020000\U0002A6DF", "𝒜𝓫𝔠 𝟘𝟙𝟚", "▁▁lower▁line", "ĠĊ byte alphabet",
]


def corpus(rng):
    words = " ".join(PHRASES[:24]).split(" ")
    return PHRASES * 6 + [" ".join(rng.choice(words) for _ in range(12)) for _ in range(300)]


def texts():
    rng = random.Random(7)
    out = ["", " ", "  ", "a", "\n"] + list(PHRASES)
    pool = [c for p in PHRASES for c in p] + list(" '\n\t019aZ")
    for i in range(170):
        out.append("".join(rng.choice(pool) for _ in range(rng.randrange(1, 24))))
    for i in range(60):
        out.append(rng.choice(["", " ", "\n"]).join(rng.choice(PHRASES) for _ in range(3)))
    out.append("ab" * 300 + " " * 100 + "x" * 200)
    return out


def byte_level(pre, vocab=1000, **kw):
    t = Tokenizer(models.BPE(**kw))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    tr = trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<s>", "</s>", "<|special|>"],
                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    return t, tr


def splits(*regexes):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r), "isolated") for r in regexes] +
                                   [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def around(t, single="<s> $A"):
    ids = {s: t.token_to_id(s) for s in ("<s>", "</s>")}
    t.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(ids.items()))


def build(rng):
    data = corpus(rng)
    made = {}
    for name, pre, kw in [("llama3", splits(LLAMA3), {"ignore_merges": True}), ("qwen2", splits(QWEN2), {}),
                          ("deepseek3", splits(*DS3), {}), ("gpt4o", splits(GPT4O), {}),
                          ("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=True), {})]:
        t, tr = byte_level(pre, **kw)
        if name == "qwen2":
            t.normalizer = normalizers.NFC()
        t.train_from_iterator(data, tr)
        around(t, "<s> $A </s>" if name == "gpt4o" else "<s> $A")
        t.add_tokens([AddedToken("<|extra|>", lstrip=name == "gpt2", rstrip=name == "gpt4o", normalized=False)])
        made[name] = t

    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.train_from_iterator([p for x in data for p in x.split(" ")], trainers.BpeTrainer(
        vocab_size=1200, limit_alphabet=120, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + ["<|special|>"]))
    # the trainer makes every one of these special; as in the makers' files only the names stay added
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    t = Tokenizer.from_str(json.dumps(j))
    around(t)
    made["llama2"] = t

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    t.train_from_iterator(data, trainers.BpeTrainer(vocab_size=700, limit_alphabet=100, show_progress=False,
                                                    special_tokens=["<unk>", "<s>", "</s>", "<|special|>"]))
    around(t)
    made["metaspace"] = t

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(data, trainers.UnigramTrainer(vocab_size=900, show_progress=False, unk_token="<unk>",
                                                        special_tokens=["<unk>", "<s>", "</s>", "<|special|>"]))
    around(t, "$A </s>")
    made["unigram"] = t
    return made


def put(ids):
    return struct.pack("<I", len(ids)) + struct.pack("<%di" % len(ids), *ids)


def main():
    os.makedirs(OUT, exist_ok=True)
    tx = texts()
    with open(os.path.join(OUT, "texts.bin"), "wb") as f:
        f.write(struct.pack("<I", len(tx)))
        for x in tx:
            b = x.encode()
            f.write(struct.pack("<I", len(b)) + b)
    for name, t in build(random.Random(3)).items():
        with open(os.path.join(OUT, name + ".json"), "w") as f:
            f.write(t.to_str())
        with open(os.path.join(OUT, name + ".bin"), "wb") as f:
            for x in tx:
                ids = t.encode(x, add_special_tokens=False).ids
                f.write(put(ids) + put(t.encode(x).ids))
                b = t.decode(ids, skip_special_tokens=True).encode()
                f.write(struct.pack("<I", len(b)) + b)
        print(name, t.get_vocab_size())


if __name__ == "__main__":
    main()
