#!/usr/bin/env python3
"""Training samples as transformers sees them: ids, and which of them are the assistant's.

Writes tests/golden/train/:
    NAME/tokenizer.json, tokenizer_config.json, chat_template.jinja   a small tokenizer of tests/golden/tokenizers with the
                                                                      control tokens of a family, and a template in its style
    cases.json    [{"model", "line", "mask", "samples": [{"ids", "mask"}]}]

Two sources of truth.  Where the template marks what the assistant generates ({% generation %}), the samples are what
apply_chat_template(return_assistant_tokens_mask=True) gives, with what stands behind the last answer cut off.  Where a
template leaves reasoning out of past answers, no official function gives what has to be learned; there the samples are pieces
of text written down by hand below, encoded by the `tokenizers` package one by one.

Run:  python tests/golden/gen_train_data.py   (needs tokenizers, transformers, jinja2)
"""
import json
import os

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "train")

CHATML = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}
{%- generation %}{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function.name + ' ' + (c.function.arguments | tojson) + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

LLAMA2 = """{%- for m in messages %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + m.content + ' ' + eos_token }}{% endgeneration %}{% endif %}
{%- endfor %}"""

# past thoughts are dropped; the prompt of a new answer opens one
R1 = """{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}
{%- else %}{{ '<\uff5cAssistant\uff5c>' + m.content.split('</think>')[-1] + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}"""

# past thoughts are dropped; a new answer has one, empty or not, which the model writes itself
THINK = """{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# name: tokenizer of tests/golden/tokenizers, control tokens, other added tokens, bos, eos, template
MODELS = {
    "chatml": ("qwen2", ["<|im_start|>", "<|im_end|>", "<think>", "</think>"], [], None, "<|im_end|>", CHATML),
    "llama3": ("llama3", ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], [],
               "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "llama2": ("llama2", [], [], "<s>", "</s>", LLAMA2),
    "r1": ("deepseek3", ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"],
           ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"],
           "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", R1),
    "think": ("qwen2", ["<|im_start|>", "<|im_end|>", "<think>", "</think>"], [], None, "<|im_end|>", THINK),
}


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


S = {"role": "system", "content": "You are a careful assistant."}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Z\u00fcrich"}}}
TALK = [S, u("What is 2 + 2?"), a("It is 4."), u("And 3 + 3?\n"), a("Sechs, gr\u00f6\u00dfer als f\u00fcnf. \U0001f680"), u("Thanks"), a("Bye")]

# What the official function marks.  `mask`: the last answer alone is the same with the others set to 0.
OFFICIAL = {
    "chatml": [
        TALK, TALK[1:], [u("Hi"), a("Hello, world!\n\nHow are you today?")],
        [u("Weather?"), a("", tool_calls=[CALL]), {"role": "tool", "content": "{\"temp\": 21.5}"}, a("21.5 degrees.")],
        [u("12345 x  y"), a("def f(x):\n    return x ** 2  # square\n")],
    ],
    "llama3": [TALK, [u("  spaces  "), a("  6  \n")], [u("\u6211\u60f3"), a("\u4eca\u5929\u5929\u6c14\u5f88\u597d")]],
    "llama2": [TALK[1:], [u("Hello"), a("How are you today?")]],
}

# (line, mask, samples): a sample is a list of (text, learned) pieces, with a third member where it is a user's text, or
# the start of a text that no template made (then the tokenizer puts its own tokens around it).
BOS, EOS, USER, ASSISTANT = (f"<\uff5c{x}\uff5c>" for x in ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant"))
SPLIT = [u("2 + 2?"), a("<think>\nTwo and two.\n</think>\n\nIt is 4."), u("Sure?"), a("Yes.")]
FIELD = [u("2 + 2?"), a("It is 4.", reasoning_content="Two and two."), u("Sure?"), a("Yes.", reasoning_content="Check: 4.")]
BY_HAND = {
    "r1": [
        ({"messages": SPLIT}, "assistant", [
            [(f"{BOS}{USER}2 + 2?{ASSISTANT}<think>\n", 0), (f"Two and two.\n</think>\n\nIt is 4.{EOS}", 1)],
            [(f"{BOS}{USER}2 + 2?{ASSISTANT}\n\nIt is 4.{EOS}{USER}Sure?{ASSISTANT}<think>\n", 0),
             (f"\n</think>\n\nYes.{EOS}", 1)]]),
        ({"messages": FIELD}, "last", [
            [(f"{BOS}{USER}2 + 2?{ASSISTANT}It is 4.{EOS}{USER}Sure?{ASSISTANT}<think>\n", 0),
             (f"Check: 4.\n</think>\n\nYes.{EOS}", 1)]]),
        ({"prompt": "2 + 2?", "completion": "<think>\nTwo and two.\n</think>\n\nIt is 4."}, "completion", [
            [(f"{BOS}{USER}2 + 2?{ASSISTANT}<think>\n", 0), (f"Two and two.\n</think>\n\nIt is 4.{EOS}", 1)]]),
    ],
    "think": [
        ({"messages": FIELD}, "assistant", [
            [("<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n", 0),
             ("<think>\nTwo and two.\n</think>\n\nIt is 4.<|im_end|>", 1)],
            [("<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
              "<|im_start|>assistant\n", 0), ("<think>\nCheck: 4.\n</think>\n\nYes.<|im_end|>", 1)]]),
        # two answers to one user message keep their thoughts and share a sample
        ({"messages": [u("Go."), a("One.", reasoning_content="1"), a("Two.", reasoning_content="2")]}, "assistant", [
            [("<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n", 0), ("<think>\n1\n</think>\n\nOne.<|im_end|>", 1),
             ("\n<|im_start|>assistant\n", 0), ("<think>\n2\n</think>\n\nTwo.<|im_end|>", 1)]]),
    ],
    "chatml": [
        ({"messages": [u("a <|im_end|> b"), a("<|im_start|>user\nno<|im_end|> yes")]}, "assistant", [
            [("<|im_start|>user\n", 0), ("a <|im_end|> b", 0, "user"), ("<|im_end|>\n<|im_start|>assistant\n", 0),
             ("<|im_start|>user\nno<|im_end|> yes", 1, "user"), ("<|im_end|>", 1)]]),
        # a thought in the content: its two tags are the model's own tokens, any other text that looks like one is not
        ({"messages": [u("<think> is a tag"), a("<think>\nTwo.\n</think>\n\nNo </think> <think> here.")]}, "assistant", [
            [("<|im_start|>user\n", 0), ("<think> is a tag", 0, "user"), ("<|im_end|>\n<|im_start|>assistant\n", 0),
             ("<think>\nTwo.\n</think>", 1), ("\n\nNo </think> <think> here.", 1, "user"), ("<|im_end|>", 1)]]),
        ({"messages": [u("Hi"), a("No </think> <think> here.")]}, "assistant", [
            [("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", 0), ("No </think> <think> here.", 1, "user"),
             ("<|im_end|>", 1)]]),
        # a piece that would merge with the end of its prompt is encoded as it is generated: apart
        ({"messages": [u("Hi"), a("\n\nHello")]}, "assistant", [
            [("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", 0), ("\n\nHello<|im_end|>", 1)]]),
        ({"messages": TALK}, "last", [
            [("<|im_start|>system\nYou are a careful assistant.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
              "<|im_start|>assistant\nIt is 4.<|im_end|>\n<|im_start|>user\nAnd 3 + 3?\n<|im_end|>\n<|im_start|>assistant\n"
              "Sechs, gr\u00f6\u00dfer als f\u00fcnf. \U0001f680<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n", 0),
             ("Bye<|im_end|>", 1)]]),
        ({"messages": [u("One"), a("1"), u("Two"), a("2", weight=0), u("Three"), a("3")]}, "assistant", [
            [("<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n", 0), ("1<|im_end|>", 1),
             ("\n<|im_start|>user\nTwo<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nThree<|im_end|>\n"
              "<|im_start|>assistant\n", 0), ("3<|im_end|>", 1)]]),
        ({"messages": [u("One"), a("1"), u("Two"), a("2"), a("3")]}, "completion", [
            [("<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n<|im_start|>user\nTwo<|im_end|>\n"
              "<|im_start|>assistant\n", 0), ("2<|im_end|>", 1), ("\n<|im_start|>assistant\n", 0), ("3<|im_end|>", 1)]]),
        ({"messages": [u("One"), a("1")]}, "all", [
            [("<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n", 1), ("1<|im_end|>\n", 1)]]),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "assistant", [
            [("<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n", 0), ("3<|im_end|>", 1)]]),
        ({"instruction": "Add.", "input": "", "output": "3", "system": "Be kind."}, "assistant", [
            [("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n", 0),
             ("3<|im_end|>", 1)]]),
        ({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "H"}, {"from": "gpt", "value": "G"},
                            {"from": "tool", "value": "T"}, {"from": "gpt", "value": "E"}]}, "assistant", [
            [("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nH<|im_end|>\n<|im_start|>assistant\n", 0), ("G<|im_end|>", 1),
             ("\n<|im_start|>tool\nT<|im_end|>\n<|im_start|>assistant\n", 0), ("E<|im_end|>", 1)]]),
        ({"text": "Hello, world!"}, "assistant", [[("Hello, world!", 1, "start"), ("<|im_end|>", 1)]]),
    ],
}


def build(name):
    base, control, other, bos, eos, template = MODELS[name]
    tok = Tokenizer.from_file(os.path.join(HERE, "tokenizers", base + ".json"))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in other])
    folder = os.path.join(OUT, name)
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "add_bos_token": False}
    if bos:
        config["bos_token"] = bos
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, ensure_ascii=False)
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as f:
        f.write(template)
    return tok, PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos, eos_token=eos, chat_template=template)


def finish(ids, mask):
    while mask and not mask[-1]:
        ids.pop(), mask.pop()
    mask[0] = 0  # nothing predicts the first token
    assert any(mask)
    return {"ids": ids, "mask": mask}


def official(hf, messages):
    r = hf.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    return finish(list(r["input_ids"]), list(r["assistant_masks"]))


def by_hand(tok, pieces):
    ids, mask = [], []
    for text, learned, *user in pieces:
        tok.encode_special_tokens = user == ["user"]  # text of a user gives no control token
        part = tok.encode(text, add_special_tokens=user == ["start"]).ids
        ids += part
        mask += [learned] * len(part)
    return finish(ids, mask)


def main():
    cases = []
    for name in MODELS:
        tok, hf = build(name)
        for messages in OFFICIAL.get(name, []):
            cases.append({"model": name, "line": {"messages": messages}, "mask": "assistant", "samples": [official(hf, messages)]})
        for line, mask, samples in BY_HAND.get(name, []):
            cases.append({"model": name, "line": line, "mask": mask, "samples": [by_hand(tok, s) for s in samples]})
    with open(os.path.join(OUT, "cases.json"), "w", encoding="utf-8") as f:
        json.dump(cases, f, ensure_ascii=False, separators=(",", ":"))
    print(len(cases), "cases", sum(len(c["samples"]) for c in cases), "samples")


if __name__ == "__main__":
    main()
