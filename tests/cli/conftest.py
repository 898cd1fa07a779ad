"""What the end-to-end tests share: they start build/minke as a person would and look at what comes out."""
import hashlib
import json
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MINKE = pathlib.Path(os.environ.get("MINKE_BIN", ROOT / "build" / "minke"))
MAKE_MODEL = MINKE.parent / "make_model"
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared" / "data"
TIMEOUT_S = 120


def pytest_sessionstart(session):
    if not MINKE.exists():
        pytest.exit(f"{MINKE} is not there: run `make build` first", returncode=3)


def pytest_collection_modifyitems(config, items):
    """A class whose tests come from a library leaves out those that do not apply, with `left_out`: a pattern of names."""
    out = [i for i in items if i.cls and re.search(getattr(i.cls, "left_out", None) or "^$", i.name)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [i for i in items if i not in out]


@pytest.fixture
def minke(tmp_path):
    """minke(*args, stdin=None, env=None) -> CompletedProcess with text output; never reads the terminal.

    The environment has no MINKE_* variable of the person who runs the tests, and HOME is an empty folder.
    """

    def run(*args, stdin=None, env=None, timeout=TIMEOUT_S, text=True):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
        clean |= {"HOME": str(tmp_path), "LC_ALL": "C.UTF-8"} | (env or {})
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([MINKE, *map(str, args)], capture_output=True, text=text, env=clean, cwd=ROOT,
                              timeout=timeout, check=False, **given)

    return run


@pytest.fixture(scope="session")
def golden():
    return GOLDEN


@pytest.fixture(scope="session")
def thimble():
    """What transformers says about the built-in model (gen_thimble.py), which must be the committed one."""
    ref = json.loads((GOLDEN / "thimble.json").read_text())
    have = hashlib.sha256((ROOT / "models/thimble/thimble.gguf").read_bytes()).hexdigest()
    assert have == ref["sha256"], "models/thimble/thimble.gguf is not the file that gen_thimble.py measured: run it again"
    return ref


@pytest.fixture(scope="session")
def thimble_f32(tmp_path_factory):
    """The committed file's weights in F32: the very values that transformers computed with."""
    out = tmp_path_factory.mktemp("thimble") / "f32.gguf"
    subprocess.run([MINKE, "convert", ROOT / "models/thimble/thimble.gguf", "--type", "f32", "-q", "-o", out], check=True)
    return out


@pytest.fixture(scope="session")
def shared():
    """The folder of shared data; a test that needs it is skipped, visibly, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """One `minke serve` of the built-in model for all tests of client libraries."""
    from serving import Server
    server = Server(tmp_path_factory.mktemp("served"), "--parallel", 8)
    yield server
    assert server.stop() == 0, server.errors


# What the model of `agent` learned, and all it knows.
TOOL_QUESTION, TOOL_RESULT, TOOL_ANSWER = "How warm is it in Oslo?", "7 degrees", "7 degrees in Oslo."


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    """`minke serve` of a model that calls tools of its own accord: it learned one conversation by heart."""
    from serving import Server
    home = tmp_path_factory.mktemp("agent")
    template = ROOT / "tests/cli/tools.jinja"
    shape = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 48, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24, "max_position_embeddings": 1024,
             "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "initializer_range": 0.02, "tie_word_embeddings": True, "vocab_size": 304,
             "eos_token_id": 298, "dtype": "float32"}
    call = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    talk = {"tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}],
            "messages": [{"role": "user", "content": TOOL_QUESTION}, {"role": "assistant", "content": "", "tool_calls": [call]},
                         {"role": "tool", "tool_call_id": "call_0", "content": TOOL_RESULT}, {"role": "assistant", "content": TOOL_ANSWER}]}
    (home / "config.json").write_text(json.dumps(shape))
    (home / "talk.jsonl").write_text(json.dumps(talk) + "\n")
    subprocess.run([MINKE, "train", "pretrain", "--config", home / "config.json", "--tokenizer", ROOT / "models/thimble/tokenizer",
                    "--template", template, "-o", home / "run", "--steps", "100", "--batch-tokens", "256", "--lr", "1e-2", "--warmup", "5",
                    "-q", home / "talk.jsonl"], check=True)
    with Server(home, "--template", template, model=str(home / "run/model")) as server:
        yield server
