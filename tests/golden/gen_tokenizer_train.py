"""What the BpeTrainer of the `tokenizers` package learns from two small files, and the ids it then gives to texts.

Writes tests/golden/tokenizer_train/: corpus.txt (one text), corpus.jsonl (every form of training data, one text per string)
and golden.json: a list of {file, split, digits, vocab, min_count, merges, texts: [[text, ids], ...]}.  Both special tokens
have the last ids.

Run:  python tests/golden/gen_tokenizer_train.py   (needs `tokenizers`)
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gen_tokenizers import DS3, GPT4O, LLAMA3, PHRASES, QWEN2, corpus

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer_train")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS = {"llama3": [LLAMA3], "qwen2": [QWEN2], "gpt2": [GPT2], "gpt4o": [GPT4O], "deepseek3": DS3}
SPECIAL = ["<|end|>", "<|user|>"]
#        file, split, digits, vocab, min_count
CASES = [("corpus.txt", "llama3", False, 800, 2), ("corpus.jsonl", "llama3", True, 600, 2),
         ("corpus.txt", "qwen2", False, 500, 2), ("corpus.txt", "gpt2", False, 500, 2),
         ("corpus.jsonl", "gpt4o", False, 500, 2), ("corpus.txt", "deepseek3", False, 500, 2),
         ("corpus.txt", "llama3", False, 100000, 40), ("corpus.jsonl", "gpt2", True, 3000, 1)]


def lines(texts):
    """The texts as JSON lines of all forms; the strings that count, in the order in which the forms list them."""
    it = iter(texts)
    forms = [lambda a, b: {"text": a + b},
             lambda a, b: {"prompt": a, "completion": b, "id": "not a text", "weight": 1},
             lambda a, b: {"prompt": [{"role": "user", "content": a}], "chosen": b, "rejected": b},
             lambda a, b: {"messages": [{"role": "user", "content": [{"type": "text", "text": a}]},
                                        {"role": "assistant", "reasoning_content": b, "content": a}]},
             lambda a, b: {"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}], "system": b},
             lambda a, b: {"instruction": a, "input": b, "output": b, "system": a},
             lambda a, b: {"prompt": a, "answer": "not a text either", "checker": "exact"}]
    return [forms[i % len(forms)](a, b) for i, (a, b) in enumerate(zip(it, it))]


def strings(v):
    """All strings that are text."""
    if isinstance(v, str):
        return [v]
    if isinstance(v, list):
        return [s for x in v for s in strings(x)]
    skip = {"role", "from", "type", "id", "answer", "checker", "weight"}
    return [s for k, x in v.items() if k not in skip for s in strings(x)]


def train(texts, split, digits, vocab, min_count):
    t = Tokenizer(models.BPE(ignore_merges=split == "llama3"))
    regexes = (["\\p{N}"] if digits else []) + SPLITS[split]
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r), "isolated") for r in regexes] +
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL), min_frequency=min_count, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return t


def main():
    rng = random.Random(11)
    texts = corpus(rng)
    rng.shuffle(texts)
    os.makedirs(OUT, exist_ok=True)
    whole = "\n".join(texts)
    rows = lines(texts)
    with open(os.path.join(OUT, "corpus.txt"), "w", encoding="utf-8", newline="") as f:
        f.write(whole)
    with open(os.path.join(OUT, "corpus.jsonl"), "w", encoding="utf-8", newline="") as f:
        f.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    tests = PHRASES + ["".join(rng.sample("".join(PHRASES), 12)) for _ in range(30)] + ["2+2=4<|end|><|user|>What is 123?"]
    golden = []
    for file, split, digits, vocab, min_count in CASES:
        t = train([whole] if file == "corpus.txt" else strings(rows), split, digits, vocab, min_count)
        merges = json.loads(t.to_str())["model"]["merges"]
        print(file, split, digits, len(merges), "merges", t.get_vocab_size(), "tokens")
        golden.append(dict(file=file, split=split, digits=digits, vocab=vocab, min_count=min_count, merges=merges,
                           texts=[[x, t.encode(x).ids] for x in tests]))
    with open(os.path.join(OUT, "golden.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(g, ensure_ascii=False, separators=(",", ":")) for g in golden) + "\n]\n")


main()
