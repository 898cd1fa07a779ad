"""minke train report: the page is whole, harmless and says what the log says; event files are what TensorBoard reads.

The run in report-run/ has hostile names and texts, lines that are no JSON, and ends in half a line.
"""
import html.parser
import itertools
import json
import math
import os
import re
import shutil
import struct

import pytest

from conftest import ROOT
from test_usage import one_line_error

RUN = ROOT / "tests" / "cli" / "report-run"
HOSTILE = "</script><script>alert(1)</script>"
VOID = {"meta", "input", "br"}
TAGS = set("""html head meta title style body main header p span h1 h2 h3 h4 dl div dt dd bdi b i details summary small table
thead tbody tr th td label input section figure figcaption svg path article script""".split())
ATTRIBUTES = set("""lang charset http-equiv content name class id type checked style tabindex role aria-label aria-hidden viewbox
preserveaspectratio d open scope colspan""".split())


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and known; collects the text of elements and the paths of the charts."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.scripts, self.charts, self.text = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag in TAGS, tag
        assert set(attrs) <= ATTRIBUTES, (tag, attrs)
        assert "url" not in attrs.get("style", "")
        if tag not in VOID:
            self.stack.append((tag, attrs.get("class", "")))
        if tag == "script":
            self.scripts.append("")
        elif tag == "figure":
            self.charts.append([])
        elif tag == "path":
            self.charts[-1].append((attrs["class"], attrs["d"]))

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop()[0] == tag, tag

    def handle_data(self, data):
        if self.stack and self.stack[-1][0] == "script":
            self.scripts[-1] += data
        for tag, name in self.stack:
            for key in {tag, *name.split()}:
                self.text.setdefault(key, "")
                self.text[key] += data


@pytest.fixture
def report(minke, tmp_path):
    """report(*dirs) -> the parsed page; .text is what was written"""

    def run(*dirs):
        out = tmp_path / "page.html"
        p = minke("train", "report", *dirs, "-o", out)
        assert p.returncode == 0, p.stderr
        assert p.stdout.startswith(f"{out}: {len(dirs)} run")
        report.text = out.read_text(encoding="utf-8")
        return Page(report.text)

    report = run
    return run


def log_of(run):
    good = []
    for line in (run / "log.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            good.append(row)
    return good


def points(d):
    """The corners of a path of the report: M x y l dx dy ..."""
    assert re.fullmatch(r"M-?\d+ -?\d+l(-?[\d ]*)*", d), d
    x, y, *moves = map(int, re.findall(r"-?\d+", d))
    out = [(x, y)]
    for dx, dy in zip(moves[::2], moves[1::2]):
        x, y = x + dx, y + dy
        out.append((x, y))
    return out


def test_page_is_harmless(report):
    page = report(RUN)
    assert len(page.scripts) == 2, "the data and the read-out, nothing from the log"
    assert HOSTILE in page.text["figure"] and HOSTILE in page.text["scores"]
    assert '"><img src=x onerror=alert(2)>' in page.text["h3"]
    assert "</div></script><img src=x onerror=alert(3)>" in page.text["think"]
    assert "\u202e" not in report.text and "\ufffdreversed\ufffd" in page.text["prompt"]
    assert "default-src 'none'" in report.text
    for word in ("http:", "https:", "//www", "src=\"", "href", "url(", "@import"):
        assert word not in report.text, word


def test_page_says_what_the_log_says(report):
    page = report(RUN)
    rows = log_of(RUN)
    x0, x1, n_run, charts = json.loads(page.scripts[0])
    assert (x0, x1, n_run) == (1, 12, 1) and len(charts) == len(page.charts)
    unit, log, lo, hi, (steps, values, means) = charts[0]
    assert steps == [1] * 12 and means == []  # differences; too few for a smooth line
    assert values == [r["reward"] for r in rows] and not log and unit == 0
    name, path = page.charts[0][1]
    assert name == "line h0 r0"
    corners = points(path)[:12]
    for (x, y), row in zip(corners, rows):
        assert abs(x - 4000 * (row["step"] - 1) / 11) <= 1
        assert abs(hi - y / 1000 * (hi - lo) - row["reward"]) <= (hi - lo) / 1000
    for field in ("Reward by function", "Accuracy", "Length", "Groups without spread", "Entropy", "Clipped", "Learning rate",
                  "Gradient norm", "Tokens per step"):
        assert field in page.text["h3"], field
    assert "Spread of the reward 0.4" in page.text["constants"] and "Truncated 0" in page.text["constants"]
    assert "2 lines of the log could not be read" in page.text["trouble"] and "half written" in page.text["trouble"]
    speed = f"{sum(r['tokens'] for r in rows) / sum(r['seconds'] for r in rows):.4g}"
    assert f"Time27\u202fs{speed} tokens/s" in page.text["tiles"].replace("\n", "")
    assert "max |\u0394 log p|" in page.text["good"] and "all 12 steps" in page.text["good"]


def test_samples(report):
    page = report(RUN)
    assert [s for s in re.findall(r"Step (\d+)", page.text["step"])] == ["1", "5", "12"]
    assert page.text["prompt"].index("\ufffdreversed") > page.text["prompt"].index("What is 5+0?"), "best of the last step"
    assert "thinking aloud" in page.text["think"] and "again, cut off" in page.text["think"]
    assert "answer" in page.text["said"] and "thinking" not in page.text["said"] and "<think>" not in report.text


def test_equal_logs_are_equal_bytes(report):
    report(RUN)
    first = report.text
    report(RUN)
    assert report.text == first


def test_several_runs(report, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "log.jsonl").write_text("".join(
        json.dumps({"step": i, "loss": 5 / i, "lr": 0.5}) + "\n" for i in range(1, 30)))
    (tmp_path / "b" / "log.jsonl").write_text("".join(
        json.dumps({"step": i, "loss": 4 / i, "eval_loss": 4.5 / i, "lr": 0.5}) + "\n" for i in range(1, 20)))
    page = report(tmp_path / "a", f"{tmp_path}/b/")
    x0, x1, n_run, charts = json.loads(page.scripts[0])
    assert (x0, x1, n_run) == (1, 29, 2)
    assert [c for c, _ in page.charts[0]] == ["grid", "line h0 r0", "line h1 r1", "thin h1 r1", "dots h1 r1"]
    assert len(page.charts) == 1 and "Learning rate 0.5" in page.text["constants"]
    assert ":root:has(#run1:not(:checked)) .r1{display:none}" in report.text
    assert re.findall(r"\w+", page.text["bar"]) == ["a", "b", "Smooth", "lines"]


def test_long_runs_make_small_pages(report, tmp_path):
    with open(tmp_path / "log.jsonl", "w", encoding="utf-8") as f:
        for i in range(1, 20001):
            row = {"step": i, "loss": 2 + math.sin(i) + (40 if i == 12345 else 0)}
            row |= {f"f{k}": math.cos(i * k) for k in range(20)}
            f.write(json.dumps(row) + "\n")
    page = report(tmp_path)
    assert 200_000 < len(report.text) < 2 << 20
    charts = json.loads(page.scripts[0])[3]
    assert len(charts) == 20 and "f0 1" in page.text["constants"]
    _, _, lo, hi, (steps, values, means) = charts[0]
    assert len(steps) == len(values) == len(means) < 1300
    at = [i for i, v in enumerate(values) if v > 30]
    assert len(at) == 1 and sum(steps[:at[0] + 1]) == 12345 and 3 <= hi < 5, "a spike is a point, and beyond the frame"
    assert all(abs(m - 2) < 0.3 for m in means)
    assert "1 beyond the frame, as far as 4" in page.text["note"]


# --- TensorBoard ---------------------------------------------------------------------------------------------------


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    while data:
        n, crc = struct.unpack_from("<QI", data)
        assert crc == masked(data[:8])
        body, (crc,) = data[12:12 + n], struct.unpack_from("<I", data, 12 + n)
        assert crc == masked(body)
        yield body
        data = data[16 + n:]


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            n, at = varint(data, at)
            value, at = data[at:at + n], at + n
        else:
            n = {1: 8, 5: 4}[key & 7]
            value, at = struct.unpack("<d" if n == 8 else "<f", data[at:at + n])[0], at + n
        yield key >> 3, value


def events(path):
    first, *rest = [dict(fields(r)) for r in records(path.read_bytes())]
    assert first == {3: b"brain.Event:2"}
    for event in rest:
        scalars = [dict(fields(v)) for k, v in fields(event[5]) if k == 1]
        yield event.get(2, 0), event.get(1, 0), {s.get(1, b"").decode(): s[2] for s in scalars}


def test_event_files(minke, tmp_path):
    same = tmp_path / "other" / "report-run"
    shutil.copytree(RUN, same)
    out = tmp_path / "events"
    p = minke("train", "report", RUN, same, "--tensorboard", out)
    assert p.returncode == 0, p.stderr
    assert sorted(os.listdir(out)) == ["report-run", "report-run-2"] and p.stdout.count(": 12 events\n") == 2
    (path,) = (out / "report-run").iterdir()
    assert "tfevents" in path.name
    rows = log_of(RUN)
    clock = list(itertools.accumulate(r["seconds"] for r in rows))
    want = [(r["step"], t, {k: struct.unpack("f", struct.pack("f", v))[0] for k, v in r.items() if k != "step"})
            for r, t in zip(rows, clock)]
    assert list(events(path)) == want
    assert not (RUN / "report.html").exists(), "a page only when it is asked for"


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args, status, word", [
    ([], 1, "expected the folders of 1 to 16 runs, got 0"),
    ([RUN] * 17, 1, "got 17"),
    (["/nowhere"], 2, "/nowhere: expected the folder of a run"),
    ([ROOT / "docs"], 2, "log.jsonl"),
    ([RUN, "-o", "/nowhere/page.html"], 2, "/nowhere/page.html"),
    ([RUN, "--tensorboard", "/nowhere/deep"], 2, "/nowhere/deep"),
    ([RUN, "--tensorbord", "x"], 1, "did you mean"),
])
def test_mistakes(minke, args, status, word):
    one_line_error(minke("train", "report", *args), status, word)
