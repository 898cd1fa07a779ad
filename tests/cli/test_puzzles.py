"""models/thimble/puzzles: the traces are true by Python's own arithmetic, and no test item is seen in training."""
import json
import re
import subprocess

import pytest

from conftest import MINKE

PUZZLES = MINKE.parent / "thimble_puzzles"


def puzzles(*args, ok=True):
    p = subprocess.run([PUZZLES, *map(str, args)], capture_output=True, text=True, timeout=100, check=False)
    assert (p.returncode == 0) == ok, (p.returncode, p.stdout[-500:], p.stderr)
    return p.stdout if ok else p


def rows(*args):
    found = [json.loads(line) for line in puzzles(*args).splitlines()]
    for row in found:
        row["kind"], row["item"] = row["id"].split(" ", 1)
    return found


def value(text):
    assert re.fullmatch(r"[-+*()\d ]+", text), text
    return eval(re.sub(r"\b0+(\d)", r"\1", text))  # digits, signs and parentheses alone


def split(completion):
    think, answer = re.fullmatch(r"(?:<think>\n(.*)</think>\n)?([-+*()\d]+)", completion, re.S).groups()
    return (think or "").splitlines(), answer


def right(row, answer):
    if row["kind"] == "expression":
        return re.fullmatch(r"-?\d+", answer) and int(answer) == value(row["item"])
    target, *numbers = map(int, row["item"].split())
    return value(answer) == target and sorted(map(int, re.findall(r"\d+", answer))) == numbers


def canonical(numbers, target):
    return f"{target} {' '.join(map(str, sorted(numbers)))}"


def inner_items(row):
    """The puzzles that a trace states on its way, in canonical form."""
    for line in split(row["completion"])[0]:
        if row["kind"] == "countdown" and (m := re.fullmatch(r"\d+:.*=(\d+) from (\d+) (\d+) (\d+)", line)):
            yield canonical(map(int, m.groups()[1:]), int(m[1]))
        elif row["kind"] == "expression" and re.fullmatch(r"[-+*()\d]+", line):
            yield line


@pytest.mark.parametrize("kind", ["expression", "countdown"])
def test_clean_traces_are_true(kind):
    for row in rows("--kind", kind, "--quality", "clean", "--n", 1500, "--check", 0.3):
        lines, answer = split(row["completion"])
        assert right(row, answer), row
        assert lines, row
        for line in lines:
            assert "wait" not in line
            if re.fullmatch(r"[-+*()\d]+", line):
                assert value(line) == value(row["item"]), (line, row)
            elif kind == "expression" and not line.startswith("check"):
                left, last = re.split(r"[=:]", line)[0], line.rsplit("=", 1)[1]
                assert value(left) == int(last), (line, row)
            elif kind == "countdown":
                for a, op, b, c in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", line):
                    assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b),
                            "/": int(a) / int(b)}[op] == int(c), (line, row)


def test_wordings_mean_the_item():
    for row in rows("--n", 1500, "--quality", "clean"):
        numbers = re.findall(r"\d+", row["prompt"])
        if row["kind"] == "expression":
            assert row["item"] in row["prompt"].replace(" ", ""), row
        else:
            assert sorted(numbers) == sorted(row["item"].split()), row


def test_mixed_shares():
    got = rows("--n", 6000)
    wrong = sum(not right(r, split(r["completion"])[1]) for r in got) / len(got)
    waits = sum("wait\n" in r["completion"] for r in got) / len(got)
    direct = sum("<think>" not in r["completion"] for r in got) / len(got)
    countdown = sum(r["kind"] == "countdown" for r in got) / len(got)
    assert abs(wrong - 0.12) < 0.02 and abs(waits - 0.30) < 0.03 and abs(direct - 0.15) < 0.02
    assert abs(countdown - 0.4) < 0.03
    assert all(right(r, split(r["completion"])[1]) for r in got if "wait\n" in r["completion"])


def test_no_overlap_of_train_and_test():
    test = set()
    for kind in ("expression", "countdown"):
        held = rows("--split", "test", "--format", "rl", "--kind", kind, "--n", 1000)
        items = {r["item"] for r in held}
        assert len(items) == 1000
        test |= items
    for seed in (1, 2):
        for row in rows("--n", 8000, "--seed", seed):
            assert row["item"] not in test
            assert not test & set(inner_items(row)), row


def test_rl_lines():
    for row in rows("--format", "rl", "--n", 400, "--split", "test"):
        assert set(row) >= {"prompt", "answer", "checker"}
        if row["kind"] == "expression":
            assert row["checker"] == "exact" and int(row["answer"]) == value(row["item"])
            assert 2 <= len(re.findall(r"[-+*]", row["item"])) <= 4
        else:
            assert row["checker"] == "expression" and row["item"] == canonical(row["numbers"], row["target"])
            assert len(row["numbers"]) == 3


def test_every_test_puzzle_has_a_solution():
    for row in rows("--kind", "countdown", "--split", "test", "--quality", "clean", "--n", 500):
        assert right(row, split(row["completion"])[1]), row


def test_same_seed_same_bytes():
    assert puzzles("--n", 300, "--seed", 5) == puzzles("--n", 300, "--seed", 5)
    assert puzzles("--n", 300, "--seed", 5) != puzzles("--n", 300, "--seed", 6)
    assert puzzles("--n", 300, "--seed", 5) == puzzles("--n", 200, "--seed", 5) + "".join(
        puzzles("--n", 300, "--seed", 5).splitlines(True)[200:])


def test_lengths_stay_below_the_limit():
    def pieces(text):
        return len(re.findall(r"</?think>| ?[A-Za-z]+|.|\n", text, re.S))

    for row in rows("--n", 3000, "--max-pieces", 200):
        assert pieces(row["prompt"] + row["completion"]) <= 200, row


def test_verifier_accepts_clean_and_finds_every_wrong_digit(tmp_path):
    path = tmp_path / "clean.jsonl"
    for kind in ("expression", "countdown"):
        puzzles("--kind", kind, "--quality", "clean", "--n", 3000, "--check", 0.3, "--out", path)
        assert "true 3000," in puzzles("--verify", path)
    lines = puzzles("--quality", "clean", "--n", 60, "--check", 0.3).splitlines()
    for i, line in enumerate(lines):
        row = json.loads(line)
        digits = [m.start() for m in re.finditer(r"\d", row["completion"])]
        at = digits[i * 7 % len(digits)]
        other = str((int(row["completion"][at]) + 1 + i % 8) % 10)
        row["completion"] = row["completion"][:at] + other + row["completion"][at + 1:]
        path.write_text(json.dumps(row) + "\n")
        p = puzzles("--verify", path, ok=False)
        assert p.returncode == 1, (line, row["completion"])


def test_verifier_counts_mixed(tmp_path):
    path = tmp_path / "mixed.jsonl"
    puzzles("--n", 2000, "--out", path)
    p = puzzles("--verify", path, ok=False)
    assert p.returncode == 1
    n = {k: int(v) for k, v in re.findall(r"(true|reasoning|mended|answer|steps) (\d+)", p.stdout.splitlines()[-1])}
    assert n["true"] + n["reasoning"] + n["mended"] + n["answer"] + n["steps"] == 2000
    assert n["steps"] < 10


@pytest.mark.parametrize("args, says", [
    (["--min-ops", "5"], "expected at least 2 numbers and smallest sizes up to the largest"),
    (["--noticed", "0.9", "--direct", "0.2"], "sum to more than 1"),
    (["--kind", "sudoku"], "expression"),
    (["--kind", "countdown", "--split", "test", "--min-numbers", "2", "--max-numbers", "2", "--format", "rl", "--n",
      "3000"],
     "fewer than 3000"),
    (["--out", "/nonexistent/x.jsonl"], "/nonexistent"),
])
def test_wrong_arguments(args, says):
    p = puzzles(*args, ok=False)
    assert says in p.stderr


def reachable(numbers):
    """Every value that some expression of all these numbers has; no division."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, k in ((i, k) for i in range(len(numbers)) for k in range(len(numbers)) if i != k):
        rest = [n for j, n in enumerate(numbers) if j not in (i, k)]
        for joined in {numbers[i] + numbers[k], numbers[i] * numbers[k], numbers[i] - numbers[k]}:
            found |= reachable([*rest, joined])
    return found


def test_what_is_called_impossible_is():
    kinds = set()
    for row in rows("--kind", "countdown", "--n", 600, "--impossible", 0.5, "--quality", "clean", "--max-pieces", 340):
        target, *numbers = map(int, row["item"].split())
        assert (target in reachable(numbers)) == (row["kind"] == "countdown"), row
        kinds.add(row["kind"])
        if row["kind"] == "impossible":
            answer = row["completion"].rsplit("\n", 1)[1]
            assert answer == ("I found no solution." if len(numbers) == 4 else "There is no solution."), row
            assert " ok" not in row["completion"] or len(numbers) == 4
    assert kinds == {"countdown", "impossible"}


def test_what_is_no_puzzle_gets_one_answer():
    found = [row for row in rows("--n", 2000, "--other", 0.2) if row["kind"] == "other"]
    assert 300 < len(found) < 500
    assert {row["completion"] for row in found} == {
        "I only know sums like (37+58)*6-129 and puzzles like: Make 24 from 3 5 7 9."}
    assert len({row["prompt"] for row in found}) > 200


def test_other_spellings_mean_the_same():
    forms = {"x": "*", "×": "*", "plus": "+", "minus": "-", "times": "*"}
    seen = set()
    for row in rows("--kind", "expression", "--n", 800, "--respell", 1, "--quality", "clean"):
        text = row["prompt"].lower().replace("evaluate", "").replace("expression", "")
        for form, sign in forms.items():
            if f" {form} " in text or form in "x×" and re.search(rf"[\d)]{form}[\d(-]", text):
                seen.add(form)
            text = text.replace(f" {form} ", sign) if len(form) > 1 else re.sub(rf"(?<=[\d) ]){form}(?=[\d( -])", sign, text)
        assert row["item"] in text.replace(" ", ""), row
    assert seen == set(forms)
