"""make install, and programs that use nothing but what was installed."""
import json
import math
import os
import re
import subprocess

import pytest

from conftest import MINKE, ROOT

ASK = "What is (37+58)*6-129?"

def call(*args, **kw):
    p = subprocess.run(list(map(str, args)), capture_output=True, text=True, check=False, timeout=300,
                       stdin=None if "input" in kw else subprocess.DEVNULL, **kw)
    assert p.returncode == 0, (args, p.stdout, p.stderr)
    return p


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An installation under a folder of its own, made the way packagers do: DESTDIR and a prefix."""
    dest = tmp_path_factory.mktemp("dest")
    call("cmake", "--install", MINKE.parent, "--prefix", "/opt/minke", env={**os.environ, "DESTDIR": str(dest)})
    return dest / "opt/minke"


@pytest.fixture(scope="module")
def build(installed, tmp_path_factory):
    """build(name) -> an example compiled against the installed header and library alone."""
    def make(name):
        out = tmp_path_factory.mktemp("bin") / name
        pc = {**os.environ, "PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")}
        flags = call("pkg-config", "--cflags", "--libs", "minke", env=pc).stdout.split()
        call("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", ROOT / "examples" / f"{name}.c", "-o", out, *flags,
             f"-Wl,-rpath,{installed / 'lib'}")
        return out
    return make


def test_what_is_installed(installed):
    for f in ("bin/minke", "include/minke.h", "lib/pkgconfig/minke.pc", "lib/libminke.so",
              "share/minke/models/thimble/thimble.gguf", "share/minke/models/thimble/CARD.md"):
        assert (installed / f).exists(), f
    assert [p.name for p in (installed / "include").iterdir()] == ["minke.h"]


def test_the_library_shows_only_its_header(installed):
    out = call("nm", "-D", "--defined-only", installed / "lib/libminke.so").stdout
    names = {line.split()[-1] for line in out.splitlines()}
    header = set(re.findall(r"\b(minke_\w+)\(", (installed / "include/minke.h").read_text()))
    assert names == header


def test_the_installed_program_finds_its_model(installed, tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
    p = call(installed / "bin/minke", "run", ASK, cwd=tmp_path, env=env)
    assert p.stdout.strip()


def test_generate(build, minke):
    text = f"<|user|>{ASK}<|assistant|>"
    p = call(build("generate"), "models/thimble", text, "30", cwd=ROOT)
    assert p.stdout == json.loads(minke("run", "--json", "--raw", "-n", "30", text).stdout)["text"] + "\n"
    assert p.stderr.startswith("30 tokens")


def test_chat_stream(build, minke):
    talk = "What is 12*13?\nWhat is 12*14?\n"
    p = call(build("chat_stream"), "models/thimble", cwd=ROOT, input=talk)
    assert p.stdout == minke("chat", stdin=talk).stdout
    assert "(0 of 11 prompt tokens were in the cache)" in p.stderr
    assert "(8 of 11 prompt tokens were in the cache)" in p.stderr  # up to the first digit that differs
    assert json.loads(minke("run", "--json", "What is 12*14?").stdout)["reasoning"] in p.stderr


def test_logprobs(build, minke):
    p = call(build("logprobs"), "models/thimble", "12*13=156", cwd=ROOT)
    rows = [line.split(None, 2) for line in p.stdout.splitlines()[:-1]]
    assert [int(r[1]) for r in rows] == list(b"12*13=156")
    mean = -sum(float(r[0]) for r in rows) / (len(rows) - 1)
    m = re.match(r"mean (\d+\.\d+) nats over 8", p.stdout.splitlines()[-1])
    assert m and math.isclose(float(m[1]), mean, abs_tol=2e-4)


def test_errors_reach_the_caller(build, tmp_path):
    for name in ("generate", "chat_stream", "logprobs"):
        p = subprocess.run([build(name), str(tmp_path / "nothing")], capture_output=True, text=True, check=False,
                           stdin=subprocess.DEVNULL)
        assert p.returncode == 1 and "no such file or folder" in p.stderr
