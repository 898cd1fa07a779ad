"""minke chat, in a pipe and on a terminal."""
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import time

import pytest

from conftest import MINKE, ROOT


ASK = "What is (37+58)*6-129?"


def ok(p):
    assert p.returncode == 0, (p.returncode, p.stderr)
    return p.stdout


# --- a pipe: every line is a message ---------------------------------------------------------------------------------


def test_pipe(minke):
    a, b = (ok(minke("run", q)) for q in (ASK, "What is 12*13?"))
    assert a != b and ok(minke("chat", stdin=ASK + "\n")) == a
    # the built-in model's template shows it the last question alone
    assert ok(minke("chat", stdin=f"{ASK}\nWhat is 12*13?\n/quit\nnever read\n")) == a + b


def test_what_was_said_goes_on(minke):
    """A template that passes texts through: the second answer continues the whole conversation."""
    args = ["-n", "20", *(w for i in range(294, 299) for w in ("--logit-bias", f"{i}=-inf"))]  # words and bytes alone
    through = ["--template", ROOT / "tests/cli/passes.jinja"]
    first = json.loads(ok(minke("run", "--raw", "--json", *args, "37+58")))["text"]
    rest = json.loads(ok(minke("run", "--raw", "--json", *args, "37+58" + first + "12*13")))["text"]
    assert ok(minke("chat", *args, *through, stdin="37+58\n12*13\n")) == \
        "".join(t if t.endswith("\n") else t + "\n" for t in (first, rest))


def test_a_small_window_may_be_filled_by_one_answer(minke):
    """Half of it would cut the thinking of long puzzles; a window over 1,024 tokens is divided."""
    endless = ["-q", "--logit-bias", "298=-inf"]
    n = len(json.loads(ok(minke("run", "--json", *endless, "--ctx", "200", ASK)))["ids"])
    for ctx, least, most in ((200, n, n), (2048, 900, 1024)):
        p = minke("chat", *endless, "--ctx", ctx, stdin=f"{ASK}\n/stats\n")
        got = int(re.search(r"last answer: (\d+) tokens", ok(p) + p.stderr)[1])
        assert least <= got <= most, (ctx, got)


def test_commands_in_a_pipe(minke, tmp_path):
    f = tmp_path / "c.json"
    ok(minke("chat", "-n", "10", stdin=f"/system Be brief.\n{ASK}\n/save {f}\n"))
    saved = json.loads(f.read_text())
    assert [m["role"] for m in saved] == ["system", "user", "assistant"]
    assert saved[1]["content"] == ASK and saved[2]["reasoning_content"]
    g = tmp_path / "d.json"
    ok(minke("chat", "-n", "10", "--temp", "9", "--top-k", "0", "--top-p", "1", "--min-p", "0", stdin=f"/load {f}\n/retry\n/save {g}\n"))
    again = json.loads(g.read_text())
    assert again[:2] == saved[:2] and again[2] != saved[2]
    ok(minke("chat", "-n", "10", stdin=f"/load {f}\n/edit What is 12*13?\n/save {g}\n"))
    assert json.loads(g.read_text())[1]["content"] == "What is 12*13?"
    ok(minke("chat", "-n", "10", stdin=f"/load {f}\n/reset\n/save {g}\n"))
    assert json.loads(g.read_text()) == saved[:1]


def test_wrong_commands_say_so(minke, tmp_path):
    p = minke("chat", stdin="/hlp\n/set temp hot\n/think maybe\n/load /no/such\n/retry\n")
    assert p.returncode == 1
    lines = p.stderr.splitlines()
    assert len(lines) == 5 and all(line.startswith("minke: ") for line in lines)
    for line, word in zip(lines, ("/help", "hot", "maybe", "/no/such", "no answer yet")):
        assert word in line
    (tmp_path / "bad.json").write_text('[{"role": "assistant", "content": "first"}]')
    p = minke("chat", stdin=f"/load {tmp_path / 'bad.json'}\n")
    assert p.returncode == 5 and "message 0" in p.stderr


def test_window_that_is_full_loses_nothing(minke, tmp_path):
    f = tmp_path / "c.json"
    p = minke("chat", "--ctx", "64", "-n", "10", stdin=f"{ASK}\n{'word ' * 30}\n/save {f}\n")
    assert "window" in p.stderr and "/reset" in p.stderr
    assert [m["role"] for m in json.loads(f.read_text())] == ["user", "assistant"]


# --- a terminal ------------------------------------------------------------------------------------------------------


class Terminal:
    def __init__(self, home, *args):
        self.master, slave = pty.openpty()
        env = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_") and k != "NO_COLOR"}
        env |= {"HOME": str(home), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        env.pop("XDG_STATE_HOME", None)
        self.p = subprocess.Popen([MINKE, *map(str, args)], cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave,
                                  start_new_session=True, preexec_fn=lambda: self.own(slave))
        os.close(slave)
        self.seen = b""

    @staticmethod
    def own(slave):
        import fcntl
        import termios
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    def send(self, text):
        os.write(self.master, text.encode())

    def read(self, seconds=0.05):
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return False
        return True

    def wait_for(self, pattern, seconds=30):
        """Waits until the pattern appears in what was not consumed yet, and consumes up to its end."""
        end = time.time() + seconds
        while time.time() < end:
            m = re.search(pattern.encode(), self.seen, re.S)
            if m:
                out, self.seen = self.seen[:m.end()], self.seen[m.end():]
                return out.decode(errors="replace")
            if not self.read():
                break
        raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def exit_code(self, seconds=30):
        end = time.time() + seconds
        while time.time() < end and self.p.poll() is None:
            self.read()
        assert self.p.poll() is not None, self.seen
        return self.p.returncode

    def close(self):
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(*args):
        opened.append(Terminal(tmp_path, *args))
        return opened[-1]

    yield start
    for t in opened:
        t.close()


PROMPT = r"\x1b\[\?2004h.*?> "
ENDLESS = ["--ctx", "100000", "-n", "90000", "--logit-bias", "3=-inf", "--logit-bias", "1=-inf"]


def test_alone_on_a_terminal_is_a_chat(terminal, minke, tmp_path):
    o = json.loads(ok(minke("run", "--json", ASK)))
    t = terminal()
    t.wait_for(r"thimble, window \d+ tokens")
    t.wait_for(PROMPT)
    t.send(ASK + "\r")
    out = t.wait_for(PROMPT)
    # it thinks aloud, dimmed, and then answers
    assert "\x1b[2m" + o["reasoning"].replace("\n", "\r\n") + "\x1b[0m\r\n\r\n" + o["text"] + "\r\n" in out
    t.send("/stats\r")
    t.wait_for(f"last answer: {len(o['ids'])} tokens")
    t.wait_for(PROMPT)
    t.send("/quit\r")
    assert t.exit_code() == 0
    history = tmp_path / ".local/state/minke/history"
    # as libedit writes it, blanks in octal
    assert ASK.replace(" ", "\\040") in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_stops_and_keeps_and_twice_leaves(terminal, golden, tmp_path):
    t = terminal("chat", "-m", golden / "models/deepseek_v3", *ENDLESS)
    t.wait_for(PROMPT)
    t.send("hello\r")
    t.wait_for(".{300}")
    t.send("\x03")
    t.wait_for(r"\[stopped\]")
    t.wait_for(PROMPT)
    f = tmp_path / "kept.json"
    t.send(f"/save {f}\r")
    t.wait_for("2 messages saved")
    assert len(json.loads(f.read_text())[1]["content"]) > 20
    t.wait_for(PROMPT)
    t.send("\x03")
    t.wait_for("Ctrl-C again")
    t.wait_for(PROMPT)
    t.send("\x03")
    assert t.exit_code() == 0


def test_two_interrupts_in_an_answer_end_the_program(terminal, golden):
    # -q: no progress of the start, whose letters are not the answer's
    t = terminal("run", "-q", "--raw", "-m", golden / "models/deepseek_v3", *ENDLESS, "a")
    # the program reads standard input only when it is no terminal
    t.wait_for(".{50}")
    t.p.send_signal(signal.SIGINT)
    assert t.exit_code() == 130


def test_paste_is_one_message(terminal, tmp_path):
    t = terminal("chat", "-n", "5")
    t.wait_for(PROMPT)
    lines = "\r".join(f"line {i} \u00e9" for i in range(300))
    t.send("\x1b[200~" + lines + "\x1b[201~")
    t.wait_for(r"\[paste 1: 300 lines\]")
    t.send("\x15" + "\x1b[200~caf\u00e9\x1b[201~ x\r")  # thrown away; a short one is typed into the line
    t.wait_for(PROMPT)
    f = tmp_path / "c.json"
    t.send(f"/save {f}\r")
    t.wait_for("saved")
    assert json.loads(f.read_text())[0]["content"] == "caf\u00e9 x"
    t.wait_for(PROMPT)
    t.send("/set n 0\r")
    t.wait_for(PROMPT)
    t.send("A" + "\x1b[200~one\rtwo\x1b[201~" + "B\r")
    t.wait_for(PROMPT)
    t.send(f"/save {f}\r")
    t.wait_for("saved")
    assert json.loads(f.read_text())[2]["content"] == "Aone\ntwoB"


def test_thinking_is_dimmed_and_folds(terminal, golden, tmp_path):
    """A template that opens a thought, and a greedy model whose words never close it: all is thought."""
    t = terminal("chat", "-m", golden / "models/deepseek_v3", "-n", "30", "--template", ROOT / "tests/cli/thinks.jinja",
                 "--logit-bias", "3=-inf", "--logit-bias", "1=-inf")
    t.wait_for(PROMPT)
    t.send("hello\r")
    assert "\x1b[2m" in t.wait_for(PROMPT)
    t.send("/think fold\r")
    t.wait_for(PROMPT)
    t.send("hello\r")
    out = t.wait_for(PROMPT)
    assert re.search(r"\[thought \d+ tokens, \d+\.\d s\]", out)


def test_speed_is_shown_on_a_terminal(terminal):
    t = terminal("run", "-n", "5", "--no-show-thinking", ASK)
    t.exit_code()
    t.read()
    assert b"tok/s" in t.seen


def test_one_answer_on_a_terminal_shows_the_thinking(terminal, minke):
    o = json.loads(ok(minke("run", "--json", ASK)))
    t = terminal("run", ASK)
    t.exit_code()
    t.read()
    want = "\x1b[2m" + o["reasoning"].replace("\n", "\r\n") + "\x1b[0m\r\n\r\n" + o["text"] + "\r\n"
    assert want.encode() in t.seen
