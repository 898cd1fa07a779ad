#!/usr/bin/env python3
"""Fills the table of speeds against the machine's limits and against other programs, in one go.

    bench/compare.py --models DIR [--minke build/minke] [--ik .../llama-bench] [--llama-cpp .../llama-bench]

DIR holds the models by the names in MODELS below (bench/README.md says how to make them); one that is missing is named in
the report and skipped, and so is a peer that is not given. Everything is measured in turn by `minke bench --compare`:
limits, ours, theirs, and again. Writes OUT/DATE-CPU-THREADSt.md and .json, anew after every measurement, so that an
interrupted run leaves what it has. Let nothing else run meanwhile.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# model: what is measured of it
MODELS = {
    "llama-1b-q4_k_m": "speed batch depth long long-q8 depth-q8 load",
    "qwen-0.5b-q8_0": "speed batch",
    "llama-1b-q8_0": "speed",
    "qwen-0.5b-q4_k_m": "speed",
    "v2-lite-q4_k_m": "speed load",
    "llama-1b-bf16": "speed",
    "qwen-0.5b-bf16": "speed",
    "llama-1b-f32": "speed",
    "qwen-0.5b-f32": "speed",
}
MLA = ("v2-lite",)  # models for which one peer has options of its own

# measurement: (arguments of minke bench, peers that take part)
ROWS = {
    "speed": (["-p", "512", "-n", "128"], ("ik", "llama.cpp")),
    "prompt": (["-p", "512", "-n", "0"], ()),
    "batch": (["-p", "0", "-n", "0", "-b", "1,2,4,8,16"], ("ik", "llama.cpp")),
    "long": (["-p", "512,4096", "-n", "0"], ("ik",)),
    "depth": (["-p", "0", "-n", "32", "-d", "0,4096"], ("ik",)),
    "long-q8": (["-p", "512,4096", "-n", "0", "--kv-type", "q8"], ()),
    "depth-q8": (["-p", "0", "-n", "32", "-d", "0,4096,16384", "--kv-type", "q8"], ()),
}


def peer_command(args, name, model, row):
    """Command line for --compare: the peer's best general options."""
    if name == "ik":
        flags = ["-fa", "1"] + (["-mla", "3", "-fmoe", "1", "-rtr", "1"] if model.startswith(MLA) else [])
        what = ["-p", "0", "-n", "0", "-gp", "{d},{n}"] if row == "depth" else ["-p", "{p}", "-n", "{n}"]
        return [args.ik, "-m", "{model}", *what, "-t", "{t}", *flags, "-r", "1", "-o", "json"]
    return [args.llama_cpp, "-m", "{model}", "-p", "{p}", "-n", "{n}", "-d", "{d}", "-t", "{t}", "-r", "1", "-o", "json"]


def file_of(args, model):
    """The big model may carry the name of its family in front."""
    path = args.models / f"{model}.gguf"
    return path if path.is_file() else args.models / f"deepseek-{model}.gguf"


def words(cmd):
    """One line that splits into these words again; quotes only where they are needed."""
    return " ".join(w if re.fullmatch(r"[\w{}.,/+:=@-]+", w) else shlex.quote(w) for w in map(str, cmd))


def run(cmd):
    print("  " + " ".join(map(str, cmd))[:150], file=sys.stderr, flush=True)
    return subprocess.run([str(c) for c in cmd], capture_output=True, text=True, check=False)


def bench(args, model, row):
    what, peers = ROWS[row]
    cmd = [args.minke, "bench", "-m", file_of(args, model), *what, "-t", args.threads, "-r", args.repeat, "--json",
           *(["--isa", args.isa] if args.isa else []),
           *(["--cache-dir", args.cache_dir] if args.cache_dir else ["--no-packed"]), "--compare-timeout", "3600"]
    for name in peers:
        if args.peers[name]:
            cmd += ["--compare", f"{name}={words(peer_command(args, name, model, row))}"]
    done = run(cmd)
    entry = {"model": model, "row": row, "command": cmd_text(args, cmd)}
    if done.returncode == 0:
        return entry | {"result": json.loads(done.stdout)}
    return entry | {"error": done.stderr.strip()[-300:]}


# --- load and memory -------------------------------------------------------------------------------------------------


def wall_and_peak(cmd):
    """Seconds from start to end, and the peak of resident memory in bytes."""
    start = time.monotonic()
    child = subprocess.Popen([str(c) for c in cmd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    return seconds, usage.ru_maxrss * 1024, child.returncode


def load_commands(args, model, cache):
    """What starts, answers with one token and ends; ours from the file and from a packed copy."""
    path = file_of(args, model)
    ours = [args.minke, "run", "-m", path, "-t", args.threads, "--ctx", "512", "--raw", "-n", "1", "a"]
    out = {"minke": [*ours, "--no-packed"]}
    if run([args.minke, "cache", "add", path, "--cache-dir", cache, "-q"]).returncode == 0:
        out["minke, packed copy"] = [*ours, "--cache-dir", cache]
    for name, flag in (("ik", ["-w", "0"]), ("llama.cpp", ["--no-warmup"])):
        if args.peers[name]:
            flags = peer_command(args, name, model, "speed")
            out[name] = [*(path if f == "{model}" else {"{p}": "1", "{n}": "0", "{d}": "0", "{t}": args.threads}.get(f, f)
                           for f in flags), *flag]
    return out


def load(args, model):
    path = file_of(args, model)
    shown = json.loads(run([args.minke, "show", path, "--ctx", "512", "--json"]).stdout)
    entry = {"model": model, "row": "load", "file_bytes": path.stat().st_size, "cache_bytes": shown["memory"]["cache"],
             "programs": []}
    with tempfile.TemporaryDirectory(dir=args.scratch) as cache:
        programs = load_commands(args, model, cache)
        samples = {name: [] for name in programs}
        for i in range(args.repeat + 1):
            for name, cmd in programs.items():
                seconds, peak, code = wall_and_peak(cmd)
                if code != 0:
                    return entry | {"error": f"{name} ended with exit code {code}"}
                if i > 0:  # the first round warms the page cache
                    samples[name].append([seconds, peak])
    for name, s in samples.items():
        entry["programs"].append({"name": name, "command": cmd_text(args, programs[name]), "samples": s,
                                  "seconds": statistics.median(x[0] for x in s), "peak_bytes": max(x[1] for x in s)})
    return entry


# --- report ----------------------------------------------------------------------------------------------------------


def cmd_text(args, cmd):
    """A command as it may be shown: without the paths of the machine that it ran on."""
    text = words(cmd)
    for path, name in ((args.ik, "ik/llama-bench"), (args.llama_cpp, "llama.cpp/llama-bench"), (args.minke, "minke"),
                       (args.models, "MODELS")):
        text = text.replace(str(path), name) if path else text
    return re.sub(r"--cache-dir \S+", "--cache-dir DIR", text)


def one_line(cmd):
    done = subprocess.run(cmd, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_name():
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        get = {k: re.search(rf"^{k}\s*:\s*(.*)$", text, re.M) for k in ("model name", "cpu family", "model")}
        return f"{get['model name'][1]} (family {get['cpu family'][1]}, model {get['model'][1]})"
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def peer_version(args, name, model):
    """Commit of a llama-bench, from what it says beside a measurement; one built outside of its repository does not know it."""
    done = subprocess.run([args.peers[name], "-m", model, "-p", "1", "-n", "0", "-r", "1", "-o", "json"], capture_output=True,
                          text=True, check=False)
    found = re.search(r'"build_commit": "(\w+)"', done.stdout)
    return found[1] if found and found[1] != "unknown" else args.versions.get(name, "of unknown version")


def facts(args, model):
    dirty = one_line(["git", "status", "--porcelain", "--untracked-files=no"])
    with open("/proc/meminfo", encoding="utf-8") as f:
        memory_kb = int(f.readline().split()[1])
    return {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "cpus": os.cpu_count(), "memory_bytes": memory_kb * 1024,
            "commit": one_line(["git", "rev-parse", "--short=12", "HEAD"]) + (" with changes" if dirty else ""),
            "threads": int(args.threads), "isa": args.isa or "auto", "repetitions": args.repeat,
            "peers": {n: peer_version(args, n, file_of(args, model)) for n, p in args.peers.items() if p and model}}


def peer_cells(test, name):
    for p in test["peers"]:
        if p["peer"] == name:
            s = p["tokens_per_second"]
            return f"{s['median']:.1f} ({s['max']:.1f}) | {p['ratio']:.2f} ({p['ratio_to_best']:.2f})"
    return "- | -"


def reference(test, tests):
    """The measurement that this one is held against, and its name: one token, prompt 512, depth 0."""
    if "ratio_to_one_token" in test:
        return f"{test['ratio_to_one_token']:.2f} x one token"
    for name, key in (("depth 0", "depth"), ("prompt 512", "tokens")):
        base = [t for t in tests if t["test"] == test["test"] and t[key] == {"depth": 0, "tokens": 512}[key]
                and all(t[k] == test[k] for k in ("depth", "tokens", "threads") if k != key)]
        if base and base[0] is not test:
            return f"{100 * test['tokens_per_second']['median'] / base[0]['tokens_per_second']['median']:.0f} % of {name}"
    return ""


def speed_lines(entry):
    tests = entry["result"]["tests"]
    for t in tests:
        s, f = t["tokens_per_second"], t["fraction"]
        memory = t["bound"] == "bandwidth"
        share = f"{100 * (f['read'] if memory else f['compute']):.1f} % of {t['bound']}"
        if memory and f["read_with_cache"] > 1.005 * f["read"]:
            share += f" ({100 * f['read_with_cache']:.1f} % with the cache)"
        if not memory and "kernel" in f:
            share += f" ({100 * f['kernel']:.1f} % of the kernel)"
        yield (f"| {entry['model']} | {t['test']} {t['tokens']}" + (f" @ {t['depth']}" if t["depth"] else "") +
               f" | {s['median']:.1f} ({s['min']:.1f}..{s['max']:.1f}) | {share} | {reference(t, tests)} | "
               f"{peer_cells(t, 'ik')} | {peer_cells(t, 'llama.cpp')} |")


def load_lines(entry):
    base = entry["file_bytes"] + entry["cache_bytes"]
    for p in entry["programs"]:
        over = p["peak_bytes"] - base
        yield (f"| {entry['model']} | {p['name']} | {p['seconds']:.2f} s | {p['peak_bytes'] / 1e6:.0f} MB | "
               f"{over / 1e6:+.0f} MB ({100 * over / base:+.1f} %) |")


def limit_lines(entries):
    for e in entries:
        for g in e.get("result", {}).get("limits", []):
            cells = [f"{g[k]['median'] / 1e9:.1f}" for k in ("read_bytes_per_second", "f32_ops_per_second", "bf16_ops_per_second",
                                                            "int8_ops_per_second")]
            cells.append(f"{g['kernel_type']} {g['kernel_ops_per_second']['median'] / 1e9:.1f}" if "kernel_type" in g else "-")
            cells.append(f"{g['handover_seconds']['median'] * 1e9:.0f}" if "handover_seconds" in g else "-")
            yield f"| {e['model']} | {e['row']} | {g['depth']} | " + " | ".join(cells) + " |"


def report(what, entries, missing):
    out = [f"# Speeds of {what['date']}", "",
           f"{what['cpu']}, {what['cpus']} CPUs, {what['memory_bytes'] / 1e9:.0f} GB; minke {what['commit']}, {what['threads']} threads"
           f"{'' if what['isa'] == 'auto' else ', ' + what['isa'] + ' only'}; "
           f"medians of {what['repetitions']} (smallest..largest), measured in turn with the peers and the limits. "
           + ("Peers: " + ", ".join(f"{n} {v}" for n, v in what["peers"].items()) if what["peers"] else "No peers") + "."]
    out += [f"Missing, not measured: {', '.join(missing)}."] if missing else []
    out += ["", "Peers: median (best); the ratio is our median to their median (to their best).", "",
            "| model | measured | tok/s | reached | against | ik_llama.cpp | ratio | llama.cpp | ratio |",
            "|---|---|---|---|---|---|---|---|---|"]
    out += [line for e in entries if "result" in e for line in speed_lines(e)]
    if any("programs" in e and "error" not in e for e in entries):
        out += ["", "Start to first token with a warm page cache, and the most memory, over file size and cache:", "",
                "| model | program | wall | peak | over |", "|---|---|---|---|---|"]
        out += [line for e in entries if e["row"] == "load" and "error" not in e for line in load_lines(e)]
    out += ["", "Limits in the same minutes (medians):", "",
            "| model | measured | depth | read GB/s | f32 Gop/s | bf16 Gop/s | int8 Gop/s | kernel Gop/s | handover ns |",
            "|---|---|---|---|---|---|---|---|---|"]
    out += list(limit_lines(entries))
    failed = [e for e in entries if "error" in e]
    out += ["", "Failed:", ""] * bool(failed) + [f"* {e['model']}, {e['row']}: {e['error']}" for e in failed]
    out += ["", "Commands:", ""]
    for e in entries:
        out += [f"    {e['command']}"] if "command" in e else [f"    {p['command']}" for p in e.get("programs", [])]
    return "\n".join(out) + "\n"


def base_of(args, what):
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", what["cpu"]).lower()).strip("-")
    return args.out / f"{what['date']}-{slug}-{what['threads']}t{args.suffix and '-' + args.suffix}"


def kept(args, what, todo):
    """What an earlier run of the same commit measured and this one does not."""
    path = pathlib.Path(f"{base_of(args, what)}.json")
    if not args.add or not path.is_file():
        return []
    old = json.loads(path.read_text(encoding="utf-8"))
    if old["commit"] != what["commit"]:
        return []
    what["peers"] = old["peers"] | what["peers"]
    return [e for e in old["measurements"] if (e["model"], e["row"]) not in todo]


def save(args, what, entries, missing):
    base = base_of(args, what)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(what | {"missing": missing, "measurements": entries}, indent=1)
    for path, name in ((args.ik, "ik/llama-bench"), (args.llama_cpp, "llama.cpp/llama-bench")):
        text = text.replace(str(path), name) if path else text
    pathlib.Path(f"{base}.json").write_text(text + "\n", encoding="utf-8")
    pathlib.Path(f"{base}.md").write_text(report(what, entries, missing), encoding="utf-8")
    return f"{base}.md"


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--models", required=True, type=pathlib.Path, help="folder of the models")
    a.add_argument("--minke", default=ROOT / "build" / "minke", type=pathlib.Path)
    a.add_argument("--ik", help="llama-bench of ik_llama.cpp")
    a.add_argument("--llama-cpp", help="llama-bench of llama.cpp")
    a.add_argument("--peer-version", action="append", default=[], metavar="NAME=TEXT",
                   help="version of ik or llama.cpp, for one that was built outside of its repository and says \"unknown\"")
    a.add_argument("--isa", help="instruction set of ours, as --isa of minke bench; the peers are then given built for the same")
    a.add_argument("--suffix", default="", help="end of the name of the files")
    a.add_argument("--threads", default="2")
    a.add_argument("--repeat", default=5, type=int)
    a.add_argument("--out", default=ROOT / "bench" / "results", type=pathlib.Path)
    a.add_argument("--only", default="", help="models, with commas between them")
    a.add_argument("--rows", default="speed,batch,long,depth,long-q8,depth-q8,load", help="what is measured, of what a model is listed with")
    a.add_argument("--all", action="store_true", help="every row of every model")
    a.add_argument("--cache-dir", type=pathlib.Path, help="folder of packed copies to start from, where memory does not hold the "
                   "packed weights beside the file that the peers read")
    a.add_argument("--add", action="store_true", help="keep what today's table of this commit has of other models and rows")
    a.add_argument("--scratch", type=pathlib.Path, help="folder for packed copies while they are measured")
    args = a.parse_args()
    args.peers = {"ik": args.ik, "llama.cpp": args.llama_cpp}
    args.versions = dict(v.partition("=")[::2] for v in args.peer_version)
    for name in args.versions.keys() - args.peers.keys():
        a.error(f"--peer-version: no peer has the name {name!r} (ik, llama.cpp)")
    for path in (args.minke, args.ik, args.llama_cpp):
        if path and not os.access(path, os.X_OK):
            a.error(f"{path} is no program")
    return args


def work(args):
    """(model, row) of everything that is to be measured, and the models that are missing."""
    todo, missing = [], []
    wanted = args.only.split(",") if args.only else MODELS
    for model in wanted:
        rows = " ".join([*ROWS, "load"]) if args.all else MODELS.get(model, "speed") + " prompt"
        if not file_of(args, model).is_file():
            missing.append(model)
            continue
        for row in rows.split():
            if row in args.rows.split(","):
                todo.append((model, row))
    return todo, missing


def main():
    args = arguments()
    todo, missing = work(args)
    for model in missing:
        print(f"missing, skipped: {args.models / model}.gguf", file=sys.stderr)
    what, path = facts(args, todo[0][0] if todo else None), None
    entries = kept(args, what, todo)
    for model, row in todo:
        print(f"{model}: {row}", file=sys.stderr)
        entries.append(load(args, model) if row == "load" else bench(args, model, row))
        if "error" in entries[-1]:
            print(f"  failed: {entries[-1]['error']}", file=sys.stderr)
        path = save(args, what, entries, missing)
    print(path or "nothing to measure")
    return 0 if entries and not any("error" in e for e in entries) else 1


if __name__ == "__main__":
    sys.exit(main())
