"""minke run: the same text from every form of the same weights, JSON, standard input, signals."""
import json
import os
import signal
import subprocess
import time

import pytest

from conftest import MINKE, ROOT

ASK = "What is (37+58)*6-129?"
RAW = f"<|user|>{ASK}<|assistant|>"  # the same as a text to go on with
# far from greedy, and without an end
RANDOM = ["--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--logit-bias", "298=-inf"]
PAIRS = [  # a folder and a GGUF file with the same weights, bit for bit
    ("llama", "llama-f32.gguf"), ("llama3", "llama3-f32.gguf"), ("yi", "yi-f32-00001-of-00002.gguf"),
    ("qwen2", "qwen2-f32.gguf"), ("deepseek_v2lite", "deepseek_v2lite-a-f32.gguf"),
    ("deepseek_v2", "deepseek_v2-b-f32.gguf"), ("deepseek_v3", "deepseek_v3-c-f32.gguf"),
    ("llama-bf16", "llama-bf16.gguf"), ("deepseek_v3-bf16", "deepseek_v3-a-bf16.gguf"),
]


def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


def run_json(minke, *args, **kw):
    return json.loads(ok(minke("run", "--json", *args, **kw)))


@pytest.mark.parametrize("folder,gguf", PAIRS)
def test_folder_and_gguf_say_the_same(minke, golden, folder, gguf):
    args = ["--raw", "--temp", "0.9", "--top-k", "50", "--top-p", "0.9", "--min-p", "0", "--seed", "11", "-n", "60"]
    a, b = (run_json(minke, "-m", m, *args, "The quick brown fox")
            for m in (golden / "models" / folder, golden / "gguf" / gguf))
    assert a["ids"] == b["ids"] and len(a["ids"]) > 0
    assert a["text"] == b["text"]


def test_the_answer_does_not_depend_on_how_it_is_computed(minke):
    args = ["-n", "80", "--seed", "3", *RANDOM, ASK]
    want = run_json(minke, *args)["ids"]
    ran = 0
    for how in (["-t", "1"], ["-t", "3"], ["--chunk", "1"], ["--isa", "scalar"], ["--isa", "avx2"], ["--isa", "avx512"],
                 ["--isa", "neon"]):
        p = minke("run", "--json", *how, *args)
        if how[0] == "--isa" and p.returncode == 1:
            assert "--isa" in p.stderr or how[1] in p.stderr
            continue  # not on this processor
        assert json.loads(ok(p))["ids"] == want, how
        ran += 1
    assert ran >= 4


def test_json(minke):
    o = run_json(minke, "-n", "20", "--logprobs", "2", ASK)
    assert set(o) == {"text", "reasoning", "ids", "finish_reason", "usage", "timings", "logprobs"}
    assert o["finish_reason"] == "length" and len(o["ids"]) == 20
    assert o["text"] == "" and "".join(t["token"] for t in o["logprobs"]).strip() == "<think>\n" + o["reasoning"]
    # <|user|>, two words, a space, the bytes of (37+58)*6-129?, <|assistant|>
    assert o["usage"] == {"prompt_tokens": 19, "completion_tokens": 20, "total_tokens": 39, "cached_tokens": 0,
                          "reasoning_tokens": 19}
    assert set(o["timings"]) == {"prompt_ms", "generation_ms", "prompt_tokens_per_second",
                                 "generation_tokens_per_second"}
    assert [t["id"] for t in o["logprobs"]] == o["ids"]
    for t in o["logprobs"]:
        best, second = t["top"]
        assert best["id"] == t["id"] and best["logprob"] == t["logprob"] >= second["logprob"]
        assert t["logprob"] <= 0


def test_text_is_what_json_says(minke):
    o = run_json(minke, ASK)
    assert o["text"] and o["reasoning"] and o["finish_reason"] == "stop"
    assert ok(minke("run", ASK)) == o["text"] + "\n"
    assert ok(minke("run", "--show-thinking", ASK)) == f"{o['reasoning']}\n\n{o['text']}\n"


def test_thinking_that_is_cut_is_said(minke):
    p = minke("run", "-n", "10", ASK)
    assert ok(p) == "\n" and "no answer: the thinking was cut after 10 tokens" in p.stderr
    assert minke("run", "-q", "-n", "10", ASK).stderr == ""
    assert minke("run", ASK).stderr == ""


def test_seed(minke):
    a, b, c, d, e = (run_json(minke, "-n", "60", *RANDOM, *s, ASK)["ids"]
                     for s in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], ["--seed", "0"], []))
    assert a == b != c and d == e


def test_greedy_text_of_the_built_in_model(minke, thimble, thimble_f32):
    """What transformers says with the file's weights in float32.  The F32 conversion holds the same numbers, so that it
    must say the same unless a choice is closer than float32 is exact; the committed file, whose kernels round
    activations to 8 bits, unless one is closer than that (gen_thimble.py)."""
    ref = thimble["greedy"]
    for model, margin in ((thimble_f32, ref["exact"]), ("thimble", ref["steady"])):
        said = [(q, run_json(minke, "-m", model, q["question"])) for q in ref["questions"]]
        steady = [(q, o) for q, o in said if q["min_logit_margin"] >= margin]
        for q, o in steady:
            assert o["ids"] == q["ids"], (q["question"], o["reasoning"], o["text"])
            assert (o["reasoning"], o["text"]) == (q["thinking"], q["answer"])
            assert o["finish_reason"] == ("stop" if q["ended"] else "length")
            assert o["usage"]["prompt_tokens"] == len(q["prompt_ids"])
        # another way of writing a thought down seldom is another answer
        assert len(steady) >= 3 and sum(q["answer"] == o["text"] for q, o in said) >= 0.75 * len(said)


def test_standard_input(minke):
    def count(*args, stdin):
        return run_json(minke, "-n", "1", "--raw", *args, stdin=stdin)["usage"]["prompt_tokens"]

    assert count(stdin="12*13=") == 6
    assert count("ab", "cd", stdin="12*13=") == len("ab cd\n12*13=")
    assert count("ab", stdin="") == 2
    assert minke("run", stdin="").returncode == 1


def test_system_message_needs_a_template(minke):
    p = minke("run", "--raw", "--system", "Be brief.", "x")
    assert p.returncode == 1 and "--system" in p.stderr
    with_it = run_json(minke, "-n", "1", "--system", "Be brief.", "x")["usage"]["prompt_tokens"]
    assert with_it == len("Be brief.") + len("x") + 2  # the text, <|user|>, the prompt, <|assistant|>


def test_stop_and_bias(minke):
    full = run_json(minke, "--raw", RAW)["text"]
    word = full.split()[2]
    cut = run_json(minke, "--raw", "--stop", "never there", "--stop", word, RAW)
    assert cut["finish_reason"] == "stop" and cut["text"] == full[:full.index(word)]
    assert ord("=") in run_json(minke, "-n", "40", ASK)["ids"]
    assert ord("=") not in run_json(minke, "-n", "40", "--logit-bias", "61=-inf", ASK)["ids"]


def test_whole_window(minke, thimble):
    n = thimble["config"]["window"]
    assert run_json(minke, "--raw", "--ctx", "max", "-n", "1", "x" * (n - 1))["usage"]["total_tokens"] == n
    o = run_json(minke, "--ctx", "48", ASK)
    assert o["finish_reason"] == "length" and o["usage"]["total_tokens"] in (48, 49)


def test_prompt_of_bytes_that_are_no_text(minke):
    p = minke("run", "-n", "4", "--json", stdin=b"\xff\xfe caf\xc3", text=False)
    assert p.returncode == 1 and b"UTF-8" in p.stderr
    p = minke("run", "-n", "4", "--json", "--raw", stdin=b"\xff\xfe caf\xc3", text=False)
    assert p.returncode == 0 and json.loads(p.stdout)["usage"]["prompt_tokens"] == 7


def start(*args, **kw):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
    return subprocess.Popen([MINKE, *map(str, args)], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)


def test_interrupt_keeps_what_was_printed(golden):
    p = start("run", "--raw", "-m", golden / "models/deepseek_v3", "--ctx", "100000", "-n", "90000", "--temp", "1",
              "--top-k", "0", "--logit-bias", "3=-inf", "a")
    first = p.stdout.read(5)
    p.send_signal(signal.SIGINT)
    rest, err = p.communicate(timeout=60)
    assert p.returncode == 130, (p.returncode, err)
    assert len(first) == 5 and err == b""
    assert rest.endswith(b"\n")


def test_a_reader_that_leaves(golden):
    p = start("run", "--raw", "-m", golden / "models/deepseek_v3", "--ctx", "100000", "-n", "90000", "--temp", "1",
              "--top-k", "0", "--logit-bias", "3=-inf", "a")
    p.stdout.read(1)
    p.stdout.close()
    begin = time.time()
    assert p.wait(timeout=30) == 0 and time.time() - begin < 20
    assert p.stderr.read() == b""
    p.stderr.close()


def test_full_disk(minke):
    with open("/dev/full", "wb") as full:
        p = subprocess.run([MINKE, "run", ASK], cwd=ROOT, stdin=subprocess.DEVNULL,
                           stdout=full, stderr=subprocess.PIPE, check=False)
    assert p.returncode == 5 and b"standard output" in p.stderr
