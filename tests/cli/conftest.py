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
