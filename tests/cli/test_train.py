"""Training from the command line: new models, killed runs, reinforcement, and what goes wrong.

Truth: a run that was killed must end in the bytes of one that was not; sampler and trainer must give the same
log-probabilities; numbers inside are tested in tests/train.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import MINKE, ROOT
from ggufread import read_gguf

PUZZLES = MINKE.parent / "thimble_puzzles"
TOKENIZER = ROOT / "models" / "thimble" / "tokenizer"
BASE = {
    "attention_bias": False, "bos_token_id": None, "eos_token_id": 298, "dtype": "float32", "hidden_act": "silu",
    "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 320,
    "num_attention_heads": 2, "num_hidden_layers": 3, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "vocab_size": 304,
}
CONFIGS = {
    "llama": BASE | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 1,
                     "head_dim": 24, "tie_word_embeddings": True},
    "deepseek": BASE | {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "first_k_dense_replace": 1,
        "kv_lora_rank": 16, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "n_routed_experts": 4,
        "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 2, "num_key_value_heads": 2,
        "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "rope_interleave": True,
        "routed_scaling_factor": 1.0, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    d = tmp_path_factory.mktemp("data")
    for name, cfg in CONFIGS.items():
        (d / f"{name}.json").write_text(json.dumps(cfg))
    files = {"sft.jsonl": ["--n", "600"], "rest.jsonl": ["--n", "30", "--seed", "9"],
             "rl.jsonl": ["--n", "40", "--format", "rl"]}
    for out, args in files.items():
        subprocess.run([PUZZLES, *args, "--out", d / out], check=True)
    return d


def pretrain(data, out, name="deepseek", steps=12, extra=()):
    return ["train", "pretrain", "--config", data / f"{name}.json", "--tokenizer", TOKENIZER, "-o", out, "--steps",
            steps, "--batch-tokens", 512, "--lr", "3e-3", "--warmup", 2, "--save-every", 2, *extra, data / "sft.jsonl"]


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_model_learns_and_speaks(minke, data, tmp_path, name):
    r = minke(*pretrain(data, tmp_path / "run", name, 40, ["-t", 2]))
    assert r.returncode == 0, r.stderr
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < lines[0]["loss"] - 1.5
    r = minke("run", "-m", tmp_path / "run" / "model", "-n", 8, "--", "What is 2+3?")
    assert r.returncode == 0, r.stderr


def test_evaluations_measure_loss_and_answers(minke, data, tmp_path):
    extra = ["--eval", data / "rest.jsonl", "--check", data / "rl.jsonl", "--check-prompts", 8, "--reward",
             "length:max=64,soft=60", "--max-tokens", 64, "--eval-every", 5]
    r = minke(*pretrain(data, tmp_path / "run", steps=12, extra=extra))
    assert r.returncode == 0, r.stderr
    found = {x["step"]: (x["eval_loss"], x["accuracy"]) for x in log(tmp_path / "run") if "eval_loss" in x}
    assert list(found) == [5, 10, 12]
    assert found[12][0] < found[5][0] and all(-1 <= a <= 0 for _, a in found.values())
    # the last checkpoint is the model of the run, the best may be another
    for extra in ([], ["--best"], ["--step", 12]):
        r = minke("train", "export", tmp_path / "run", "-o", tmp_path / "out", *extra)
        assert r.returncode == 0, r.stderr
        same = (tmp_path / "out" / "model.safetensors").read_bytes() == weights(tmp_path / "run")
        assert same or extra == ["--best"]
    r = minke("train", "export", tmp_path / "run", "--step", 1)
    assert r.returncode == 2 and "ckpt-00000001.mkt" in r.stderr


def test_threads_change_nothing(minke, data, tmp_path):
    for n in (1, 3):
        assert minke(*pretrain(data, tmp_path / str(n), extra=["-t", n])).returncode == 0
    assert weights(tmp_path / "1") == weights(tmp_path / "3")


def start(args):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
    return subprocess.Popen([MINKE, *map(str, args)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def wait_for_lines(p, run, n):
    """Until the run has logged n steps, or has ended."""
    path, deadline = run / "log.jsonl", time.monotonic() + 60
    while p.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.001)


def test_killed_runs_end_in_the_same_bytes(minke, data, tmp_path):
    steps, rng = 40, random.Random(5)
    assert minke(*pretrain(data, tmp_path / "whole", steps=steps)).returncode == 0
    args = pretrain(data, tmp_path / "killed", steps=steps)
    for n in (3, 9, 16, 22, 30):  # and then left alone
        p = start(args)
        wait_for_lines(p, tmp_path / "killed", n)
        time.sleep(rng.uniform(0, 0.05))
        assert p.poll() is None, "nothing was killed: it was too fast"
        p.send_signal(signal.SIGKILL)
        p.communicate()
    assert minke(*args).returncode == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
    assert [x["step"] for x in log(tmp_path / "killed")] == list(range(1, steps + 1))


def test_interrupt_saves_and_goes_on(minke, data, tmp_path):
    p = start(pretrain(data, tmp_path / "run", steps=4000, extra=["--save-every", 0]))
    wait_for_lines(p, tmp_path / "run", 2)
    p.send_signal(signal.SIGINT)
    _, stderr = p.communicate(timeout=60)
    assert p.returncode == 130 and "goes on from there" in stderr
    assert list((tmp_path / "run").glob("ckpt-*.mkt"))


def test_a_loss_that_is_no_number_stops_the_run(minke, data, tmp_path):
    assert minke(*pretrain(data, tmp_path / "run", extra=["--dry-run", "--json"])).returncode == 0
    file = tmp_path / "run" / "start" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\xc0\x7f")
    r = minke(*pretrain(data, tmp_path / "run"))
    assert r.returncode == 1 and "step 1" in r.stderr and "not" in r.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_another_recipe_is_refused(minke, data, tmp_path):
    assert minke(*pretrain(data, tmp_path / "run", steps=2)).returncode == 0
    r = minke(*pretrain(data, tmp_path / "run", steps=4))
    assert r.returncode == 1 and "steps = 2, now it is 4" in r.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_products_of_bf16(minke, data, tmp_path, name):
    """It learns as in float32, threads change nothing, and the sampler computes with the same rounded weights."""
    bf16 = ["--precision", "bf16"]
    for n in (1, 3):
        r = minke(*pretrain(data, tmp_path / str(n), name, 30, [*bf16, "-t", n]))
        assert r.returncode == 0, r.stderr
    assert weights(tmp_path / "1") == weights(tmp_path / "3")
    assert minke(*pretrain(data, tmp_path / "f32", name, 30)).returncode == 0
    assert weights(tmp_path / "1") != weights(tmp_path / "f32")
    assert abs(log(tmp_path / "1")[-1]["loss"] - log(tmp_path / "f32")[-1]["loss"]) < 0.05
    for extra, other, was, now in ([], "1", '"bf16"', "nothing"), (bf16, "f32", "nothing", '"bf16"'):
        r = minke(*pretrain(data, tmp_path / other, name, 30, extra))
        assert r.returncode == 1 and f"precision = {was}, now it is {now}" in r.stderr
    r = minke("train", "grpo", "-m", tmp_path / "1" / "model", "-o", tmp_path / "rl", *bf16, "--steps", 3, "--prompts",
              4, "--group", 4, "--max-tokens", 24, "--batch-tokens", 512, "--lr", "1e-3", "--reward",
              "length:max=24,soft=2", "--keep-truncated", data / "rl.jsonl")
    assert r.returncode == 0, r.stderr
    lines = log(tmp_path / "rl")
    assert [x["max_dlogp"] for x in lines] == [0, 0, 0]
    assert any(x["tokens"] > 0 and x["grad_norm"] > 0 for x in lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_sampler_and_trainer_agree_to_the_last_bit(minke, data, tmp_path, name):
    assert minke(*pretrain(data, tmp_path / "base", name, 30)).returncode == 0
    for variant, group in (("dapo", 4), ("grpo", 3), ("dr-grpo", 4), ("gspo", 4)):
        run = tmp_path / variant
        r = minke("train", "grpo", "-m", tmp_path / "base" / "model", "-o", run, "--variant", variant, "--steps", 3,
                  "--prompts", 4, "--group", group, "--max-tokens", 24, "--batch-tokens", 512, "--lr", "1e-3",
                  "--reward", "length:max=24,soft=2", "--reward", "checker", "--keep-truncated", data / "rl.jsonl")
        assert r.returncode == 0, r.stderr
        lines = log(run)
        assert [x["max_dlogp"] for x in lines] == [0, 0, 0]
        assert any(x["tokens"] > 0 and x["grad_norm"] > 0 for x in lines)
        assert (run / "samples.jsonl").read_text().count("\n") == 6


def test_adapters_are_trained_over_a_quantised_base(minke, data, tmp_path):
    """Only the adapter is trained and saved; the answer changes with it; sampler and trainer agree over Q8_0 as well."""
    assert minke(*pretrain(data, tmp_path / "base", "deepseek", 30)).returncode == 0
    base = tmp_path / "base.gguf"
    assert minke("convert", tmp_path / "base" / "model", "-o", base, "--type", "q8_0").returncode == 0
    common = ["--batch-tokens", 512, "--lr", "1e-2", "--lora", 4, "-m", base]
    r = minke("train", "sft", *common, "-o", tmp_path / "sft", "--steps", 20, data / "sft.jsonl")
    assert r.returncode == 0, r.stderr
    assert (tmp_path / "sft" / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "sft" / "model").exists()
    lines = log(tmp_path / "sft")
    assert sum(x["loss"] for x in lines[-5:]) < sum(x["loss"] for x in lines[:5])
    ask = ["perplexity", "-f", data / "rest.jsonl", "-m", base, "--window", 64, "--json"]
    plain, tuned = minke(*ask), minke(*ask, "--adapter", tmp_path / "sft" / "adapter")
    assert json.loads(plain.stdout)["loss"] != json.loads(tuned.stdout)["loss"]
    r = minke("train", "grpo", *common, "-o", tmp_path / "rl", "--steps", 2, "--prompts", 4, "--group", 4,
              "--max-tokens", 24, "--reward", "length:max=24,soft=12", "--keep-truncated", data / "rl.jsonl")
    assert r.returncode == 0, r.stderr
    assert [x["max_dlogp"] for x in log(tmp_path / "rl")] == [0, 0]


def test_words_of_a_gguf_file_come_along(minke, golden, tmp_path):
    """Where it carries a tokenizer.json, into the result and into what is exported from a checkpoint."""
    base, data, run = tmp_path / "base.gguf", tmp_path / "x.jsonl", tmp_path / "run"
    data.write_text('{"prompt": "Hi", "completion": "Hello."}\n')
    assert minke("convert", golden / "models" / "deepseek_v3", "-o", base).returncode == 0
    r = minke("train", "sft", "-m", base, "-o", run, "--steps", 1, "--batch-tokens", 128, "--max-len", 64, data)
    assert r.returncode == 0, r.stderr
    r = minke("train", "export", run, "-m", base, "-o", tmp_path / "out")
    assert r.returncode == 0, r.stderr
    for folder in (run / "model", tmp_path / "out"):
        assert (folder / "tokenizer.json").read_bytes() == (golden / "models/deepseek_v3/tokenizer.json").read_bytes()
        r = minke("run", "-m", folder, "-n", 4, "--", "Hi")
        assert r.returncode == 0, r.stderr


def test_a_template_that_was_given_comes_along(minke, golden, tmp_path):
    """The result, what is exported from a checkpoint and the GGUF file made of it have the template of --template FILE."""
    base, data, run, given = tmp_path / "base", tmp_path / "x.jsonl", tmp_path / "run", tmp_path / "given.jinja"
    shutil.copytree(golden / "models" / "llama", base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "{{ messages }}"}))
    given.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}\n[assistant]\u00e9")
    data.write_text('{"prompt": "Hi", "completion": "Hello."}\n')
    sft = ("train", "sft", "--steps", 1, "--batch-tokens", 128, "--max-len", 64)
    for args in ((*sft, "-m", base, "--template", given, "-o", run, data), (*sft, "-m", base, "-o", tmp_path / "own", data),
                 ("train", "export", run, "-m", base, "-o", tmp_path / "out"),
                 ("convert", run / "model", "-o", tmp_path / "m.gguf")):
        r = minke(*args)
        assert r.returncode == 0, r.stderr
    for folder in (run / "model", tmp_path / "out"):
        assert (folder / "chat_template.jinja").read_text() == given.read_text()
        assert json.loads((folder / "tokenizer_config.json").read_text()) == config  # no other one beside it
    assert read_gguf(tmp_path / "m.gguf")[0]["tokenizer.chat_template"] == given.read_text()
    own = tmp_path / "own" / "model"
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (own / name).read_bytes() == (base / name).read_bytes()


def test_updates_that_share_a_sampling_leave_the_policy(minke, data, tmp_path):
    """The difference of log-probabilities is 0 on the first update of a sampling and not on the second."""
    assert minke(*pretrain(data, tmp_path / "base", "deepseek", 30)).returncode == 0
    r = minke("train", "grpo", "-m", tmp_path / "base" / "model", "-o", tmp_path / "run", "--steps", 4, "--inner", 2,
              "--prompts", 4, "--group", 4, "--max-tokens", 24, "--batch-tokens", 512, "--lr", "1e-2", "--reward",
              "length:max=24,soft=12", "--keep-truncated", data / "rl.jsonl")
    assert r.returncode == 0, r.stderr
    lines = log(tmp_path / "run")
    assert [x.get("max_dlogp") for x in lines] == [0, None, 0, None]
    assert any(x.get("max_dlogp_stale", 0) > 0 for x in lines)


def test_score_counts(minke, data, tmp_path):
    assert minke(*pretrain(data, tmp_path / "base", "llama", 2)).returncode == 0
    out = []
    for parallel in (2, 16):
        r = minke("train", "score", "-m", tmp_path / "base" / "model", "--json", "--group", 2, "--temp", 1,
                  "--max-tokens", 12, "--parallel", parallel, "--reward", "format", data / "rl.jsonl")
        assert r.returncode == 0, r.stderr
        out.append(json.loads(r.stdout))
    assert out[0] == out[1]
    assert out[0]["prompts"] == 40 and out[0]["length"] <= 12


def test_a_plan_is_shown_and_nothing_is_done(minke, data, tmp_path):
    r = minke(*pretrain(data, tmp_path / "run", extra=["--dry-run", "--json"]))
    assert r.returncode == 0, r.stderr
    plan, took = map(json.loads, r.stdout.splitlines())
    assert took["steps"] == 12 and took["seconds_per_step"] > 0
    assert plan["method"] == "pretrain" and plan["trained"] > 10000
    m = plan["memory"]
    assert m["together"] == sum(v for k, v in m.items() if k not in ("together", "free"))
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize("args, code, words", [
    (["train", "sft", "-m", "thimble"], 1, "expected a folder for the run"),
    (["train", "sft", "-m", "thimble", "-o", "{out}"], 1, "expected files with training data"),
    (["train", "pretrain", "-m", "thimble", "--config", "x", "-o", "{out}"], 1, "expected one of them"),
    (["train", "grpo", "-m", "thimble", "-o", "{out}", "{rl}"], 1, "--steps N"),
    (["train", "grpo", "-m", "thimble", "-o", "{out}", "--steps", "1", "--reward", "nonsense", "{rl}"], 1,
     "nonsense"),
    (["train", "sft", "-m", "thimble", "-o", "{out}", "--batch-tokens", "64", "{sft}"], 1, "--batch-tokens"),
    (["train", "dance"], 1, "unknown method"),
])
def test_wrong_use_is_explained(minke, data, tmp_path, args, code, words):
    names = {"{out}": tmp_path / "out", "{rl}": data / "rl.jsonl", "{sft}": data / "sft.jsonl"}
    r = minke(*[names.get(a, a) for a in args])
    assert r.returncode == code and words in r.stderr, r.stderr
