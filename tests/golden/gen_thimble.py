"""What transformers says about the built-in model: thimble.json.

    python3 tests/golden/gen_thimble.py FOLDER [models/thimble/thimble.gguf]

FOLDER is what the recipe of models/thimble ends with: a Hugging Face folder in F32.  The committed file is that model in
Q8_0, so its weights are other ones.  Therefore the GGUF file's weights are dequantised by the gguf package, written to a
temporary folder, and transformers computes with these, in float32: what minke makes of the file must agree up to its own
rounding of activations, and `minke convert --type f32` of the file up to float32.  The answers from FOLDER stand beside.

Three measurements, all from lines that build/thimble_puzzles writes (same options, same bytes; `sha256` holds it to that):

* greedy: fixed questions with ids, text and whether the answer is right.  min_logit_margin is the smallest distance
  between the best two logits on the way: the tests compare ids of the F32 conversion from EXACT on, and those of the
  committed file, whose kernels round activations (near a tie they moved the distance by 0.17 at most), from STEADY on.
* held_out: mean of -log p over all tokens of the completions (with the token that ends a turn), each line a conversation.
* perplexity: the first TEXT_LINES of them as plain text, one window after the other, as cmd/perplexity.c describes it.
"""
import ast
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from gen_gguf import from_gguf
from goldlib import HERE, rel

ROOT = HERE.parents[1]
OUT = HERE / "thimble.json"
PUZZLES = ["--split", "test", "--quality", "clean", "--seed", "7", "--n", "200"]
EXACT, STEADY = 0.002, 0.3
WINDOW, TEXT_LINES = 256, 80
QUESTIONS = [
    "What is (37+58)*6-129?", "Make 38 from 3 5 7", "Make 24 from 3 5 7 9", "Compute 12*13", "What is 85-(29+47)?",
    "Calculate (64-17)*(9+4).", "Use 4, 6 and 11 to make 50.", "What is 45*67-1024?", "what is 30 plus 40 minus 5?",
    "Make 20 from 2 4 6", "What is 5*5+5?", "Hello",
]


def load(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {k: v for k, v in info.items() if v and k != "unexpected_keys"}  # a layer of multi-token prediction may be there
    assert not wrong and all(re.match(r"model\.layers\.\d+\.", k) for k in info.get("unexpected_keys", ())), info
    return model.eval()


def dequantise(gguf, folder, to):
    """`folder` with the weights of the file in place of its own; they must be its own, rounded."""
    cfg = json.loads((folder / "config.json").read_text()) | {"num_nextn_predict_layers": 0}
    own, weights = load_file(folder / "model.safetensors"), from_gguf([gguf], cfg)
    for name, w in weights.items():
        same = w.shape == own[name].shape and (np.array_equal(w, own[name]) or rel(w, own[name]) < 0.01)
        assert same, f"{name} is not what {folder} holds"
    left = {n for n in own if n not in weights}
    assert all(n.startswith(f"model.layers.{cfg['num_hidden_layers']}.") for n in left), left
    save_file({n: np.ascontiguousarray(w, np.float32) for n, w in weights.items()}, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps(cfg))
    return to


def tokens(tok, messages, prompt):
    text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return tok(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def answer(model, tok, question):
    """Greedy, to the end of the turn or of the window: ids, and the smallest margin of a choice."""
    ids, margin, past = tokens(tok, [{"role": "user", "content": question}], True), float("inf"), None
    n_prompt, feed = len(ids), ids
    while len(ids) < model.config.max_position_embeddings:
        out = model(torch.tensor([feed]), past_key_values=past, use_cache=True)
        past, row = out.past_key_values, out.logits[0, -1]
        best = row.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        feed = [int(best.indices[0])]
        if feed[0] == tok.eos_token_id:
            return {"prompt_ids": ids[:n_prompt], "ids": ids[n_prompt:], "ended": True, "min_logit_margin": round(margin, 4)}
        ids = ids + feed
    return {"prompt_ids": ids[:n_prompt], "ids": ids[n_prompt:], "ended": False, "min_logit_margin": round(margin, 4)}


def value(text):
    """Value of sums of integers with + - * and parentheses, and the numbers in it; None if it is something else."""
    def walk(e):
        if isinstance(e, ast.Constant) and isinstance(e.value, int):
            return e.value, [e.value]
        if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
            v, n = walk(e.operand)
            return -v, n
        (a, m), (b, n) = walk(e.left), walk(e.right)
        return {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}[type(e.op)], m + n
    try:
        return walk(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, AttributeError, KeyError):
        return None


def is_right(question, text):
    """By Python's own arithmetic; None for a question that is no puzzle."""
    got, n = value(text), [int(x) for x in re.findall(r"\d+", question)]
    if re.match(r"make|use|reach", question, re.I):
        target, numbers = (n[-1], n[:-1]) if question.startswith("Use") else (n[0], n[1:])
        return got is not None and got[0] == target and all(got[1].count(x) <= numbers.count(x) for x in got[1])
    signs = question.replace(" plus ", "+").replace(" minus ", "-").replace(" times ", "*")
    want = value("".join(re.findall(r"[-+*()\d]", signs)))
    return None if want is None else got is not None and got[0] == want[0]


def split(text):
    """(thinking, answer), as src/chat/reasoning.h separates them."""
    m = re.match(r"\s*<think>(.*?)(</think>\s*(.*))?\Z", text, re.S)
    return (m[1].strip(), m[3] or "") if m else ("", text)


def greedy(model, tok, plain_model):
    said = []
    for q in QUESTIONS:
        a = answer(model, tok, q)
        thinking, text = split(tok.decode(a["ids"]))
        _, plain = split(tok.decode(answer(plain_model, tok, q)["ids"]))
        said.append({"question": q, "thinking": thinking, "answer": text, "right": is_right(q, text), **a,
                     "answer_of_f32": plain, "f32_right": is_right(q, plain)})
    for name, margin, least in (("exact", EXACT, 9), ("steady", STEADY, 3)):
        n = sum(q["min_logit_margin"] >= margin for q in said)
        assert n >= least, f"only {n} questions without a choice closer than {margin} ({name}): put others into QUESTIONS"
    return {"exact": EXACT, "steady": STEADY, "questions": said}


@torch.no_grad()
def losses(model, ids):
    """-log p of ids[1:]"""
    logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -logp[range(len(ids) - 1), ids[1:]].numpy()


def held_out(model, tok, rows):
    """The completion's tokens are those behind the ids of the prompt."""
    total, n, cut = 0.0, 0, model.config.max_position_embeddings
    for r in rows:
        talk = [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]
        first, ids = len(tokens(tok, talk[:1], True)), tokens(tok, talk, False)
        assert len(ids) <= cut and ids[:first] == tokens(tok, talk[:1], True), (len(ids), r)
        part = losses(model, ids)[first - 1:]
        total, n = total + float(part.sum()), n + len(part)
    return {"loss": round(total / n, 9), "tokens": n}


def perplexity(model, tok, rows):
    text = "".join(f"{r['prompt']}\n{r['completion']}\n" for r in rows)
    ids = tok(text, add_special_tokens=False)["input_ids"]
    parts = [ids[i:i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    all_losses = np.concatenate([losses(model, p) for p in parts])
    return {"window": WINDOW, "windows": len(parts), "tokens": len(all_losses), "loss": round(float(all_losses.mean()), 9)}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    gguf = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "models/thimble/thimble.gguf"
    torch.set_num_threads(1)
    lines = subprocess.run([ROOT / "build/thimble_puzzles", *PUZZLES], capture_output=True, check=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    # words and template of the repository, so that an older FOLDER measures what is committed
    tok = transformers.AutoTokenizer.from_pretrained(ROOT / "models/thimble/tokenizer")
    with tempfile.TemporaryDirectory() as d:
        model, plain = load(dequantise(gguf, folder, pathlib.Path(d))), load(folder)
        n_param = sum(w.size for w in load_file(pathlib.Path(d) / "model.safetensors").values())
    said, c = greedy(model, tok, plain), model.config
    out = {
        "config": {"layers": c.num_hidden_layers, "width": c.hidden_size, "experts": c.n_routed_experts,
                   "experts_used": c.num_experts_per_tok, "window": c.max_position_embeddings, "parameters": n_param},
        "sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "puzzles": PUZZLES,
        "puzzles_sha256": hashlib.sha256(lines).hexdigest(),
        "held_out": held_out(model, tok, rows) | {"loss_of_f32": held_out(plain, tok, rows)["loss"]},
        "perplexity": {"lines": TEXT_LINES} | perplexity(model, tok, rows[:TEXT_LINES]),
        "greedy": said,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    text = json.dumps(out, indent=1, ensure_ascii=False)
    OUT.write_text(re.sub(r"\[\s+(-?\d[^\]]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n")
    for q in said["questions"]:
        print(f"{q['question']:32} {q['answer']:16} right: {q['right']}  margin {q['min_logit_margin']}  f32: {q['answer_of_f32']}")
    print("held out:", out["held_out"], "perplexity:", out["perplexity"])


if __name__ == "__main__":
    main()
