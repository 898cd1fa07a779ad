#!/usr/bin/env python3
"""Measures `minke serve` from outside, in turn with llama.cpp's server: many clients, latency, what the prefix cache saves.

    bench/serve.py --model FILE [--minke build/minke] [--peer .../llama-server] [--repeat 3]

Load: 1, 2, 4, 8, 16 clients at once, each with a prompt of its own; tokens of all together per second.
Forms: eight clients at once, greedy, drawn (temperature 0.6, top-p 0.95) and with a JSON schema, in turn.
Latency: time between the tokens of a few clients, alone and while long prompts arrive from another.
Prefix: time to the first token of a long prompt that is new, that was just asked, and that was asked before a restart.
Drafts: one client of minke with drafts from the text itself and without, in turn; the answers must be the same, text by text.

Prompts are token ids made from numbers, different in every measurement; answers are greedy and have a fixed length.  minke
drafts nothing otherwise (--draft 0): models with random weights repeat themselves, and would make drafts look good.  Each server
runs alone; the servers take turns in every repetition.  Writes OUT/DATE-CPU-THREADSt-serve.md and .json anew after every
repetition.  Let nothing else run meanwhile.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import compare

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_S = 600  # the longest a model may load
SHORT = 16     # tokens of a prompt that costs nothing


# --- servers ---------------------------------------------------------------------------------------------------------


class Server:
    """A running server of either kind; its prefix cache, if it has one on disk, is in `home`."""

    def __init__(self, args, name, home, drafts=False):
        self.name, self.port = name, free_port()
        most, window = max(args.clients + [args.streams + 1, args.forms_clients]), args.ctx
        if name == "minke":
            cmd = [args.minke, "serve", args.model, "--port", self.port, "--parallel", most, "--ctx", window, "-t", args.threads,
                   *([] if drafts else ["--draft", 0]), "--max-waiting", 1024, "--prefix-dir", home, "--no-packed", "-q",
                   *args.minke_arg]
        else:
            cmd = [args.peer, "-m", args.model, "--host", "127.0.0.1", "--port", self.port, "-np", most, "-c", window * most,
                   "-t", args.threads, *args.peer_arg]
        self.command = [str(c) for c in cmd]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.wait_until_ready()

    def wait_until_ready(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as r:
                    if r.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        code = self.stop(signal.SIGKILL)
        self.log.seek(0)
        raise RuntimeError(f"{self.name} did not come up (exit code {code}): {self.log.read()[-500:].decode(errors='replace')}")

    def post(self, path, body):
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})
        with urllib.request.urlopen(r, timeout=START_S) as answer:
            return json.loads(answer.read())

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- one request -----------------------------------------------------------------------------------------------------


class Answer:
    """When the pieces of a streamed answer came, by the monotonic clock, and how many tokens it had."""

    def __init__(self):
        self.sent, self.came, self.tokens, self.cached = 0.0, [], 0, 0

    def gaps(self, begin=0.0, end=float("inf")):
        """Times between tokens that lie within [begin, end]; the first token is not one of them."""
        return [b - a for a, b in zip(self.came, self.came[1:]) if a >= begin and b <= end]


async def chunks(reader):
    """The body of an answer with chunked encoding, piece by piece."""
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


async def ask(port, prompt, n_tokens, **more):
    body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                       "stream_options": {"include_usage": True}} | more).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    a = Answer()
    a.sent = time.monotonic()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(f"{head.decode(errors='replace')}{(await reader.read(1000)).decode(errors='replace')}")
    rest = b""
    async for piece in chunks(reader):
        now = time.monotonic()
        *events, rest = (rest + piece).split(b"\n\n")
        for e in events:
            take(a, e, now)
    writer.close()
    return a


def take(a, event, now):
    if not event.startswith(b"data: {"):
        return
    v = json.loads(event[6:])
    if "error" in v:
        raise RuntimeError(f"error in a stream: {v['error']}")
    if v.get("choices") and not v["choices"][0].get("finish_reason") and (not a.came or a.came[-1] < now):
        a.came.append(now)  # what came in one piece came at once
    if v.get("usage"):
        a.tokens = v["usage"]["completion_tokens"]
        a.cached = (v["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0


class Prompts:
    """Token ids of numbers, never twice the same beginning."""

    def __init__(self, server, seed):
        self.random, self.server = random.Random(seed), server

    def make(self, n):
        text = " ".join(str(self.random.randrange(10 ** 6)) for _ in range(n))
        return self.server.post("/tokenize", {"content": text})["tokens"][:n]


# --- measurements ----------------------------------------------------------------------------------------------------


async def together(port, prompts, n_tokens, **more):
    start = time.monotonic()
    answers = await asyncio.gather(*(ask(port, p, n_tokens, **more) for p in prompts))
    return time.monotonic() - start, answers


def measure_load(args, server, prompts):
    out = {}
    for n in args.clients:
        seconds, answers = asyncio.run(together(server.port, [prompts.make(SHORT) for _ in range(n)], args.tokens))
        out[n] = sum(a.tokens for a in answers) / seconds
    return {"tokens_per_second": out}


# A list that is longer than any answer here, of what programs ask for: words, numbers, one of a few, a flag.
SCHEMA = {"type": "array", "minItems": 1000, "items": {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "kind", "active"],
    "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                   "kind": {"enum": ["person", "company", "place"]}, "active": {"type": "boolean"}}}}
FORMS = {"greedy": {}, "drawn": {"temperature": 0.6, "top_p": 0.95, "top_k": 0, "min_p": 0, "seed": 1}}
SCHEMA_FIELDS = {"minke": {"response_format": {"type": "json_schema", "json_schema": {"name": "list", "schema": SCHEMA}}},
                 "llama.cpp": {"json_schema": SCHEMA}}


def measure_forms(args, name, server, prompts):
    """Tokens per second of each form; the first round, in which grammars and masks are made, counts for nothing."""
    forms, took = FORMS | {"schema": SCHEMA_FIELDS[name]}, {}
    for i in range(1 + args.forms_rounds):
        for form, more in forms.items():
            ids = [prompts.make(SHORT) for _ in range(args.forms_clients)]
            seconds, answers = asyncio.run(together(server.port, ids, args.tokens, **more))
            if i > 0:
                took.setdefault(form, []).append(sum(a.tokens for a in answers) / seconds)
    return {"forms": {form: statistics.median(v) for form, v in took.items()}}


async def streams_and_prompts(args, server, short, long):
    """`short` are answered while `long` arrive one after the other; gaps of the first in that time."""
    running = [asyncio.create_task(ask(server.port, p, args.latency_tokens)) for p in short]
    await asyncio.sleep(args.settle)
    begin = time.monotonic()
    for p in long:
        await ask(server.port, p, 1)
    end = time.monotonic() if long else float("inf")
    answers = await asyncio.gather(*running)
    return [g for a in answers for g in a.gaps(begin, end)]


def quantile(values, q):
    v = sorted(values)
    return v[min(len(v) - 1, int(q * len(v)))]


def measure_latency(args, server, prompts):
    out = {}
    for name, n_long in (("quiet", 0), ("prompts", args.long_prompts)):
        short = [prompts.make(SHORT) for _ in range(args.streams)]
        long = [prompts.make(args.long) for _ in range(n_long)]
        gaps = asyncio.run(streams_and_prompts(args, server, short, long))
        if len(gaps) < 10:
            raise RuntimeError(f"{len(gaps)} tokens came in the time of measurement ({name}); more --latency-tokens are needed")
        out[name] = {"p50_s": quantile(gaps, 0.5), "p99_s": quantile(gaps, 0.99), "max_s": max(gaps), "n": len(gaps)}
    return {"latency": out}


def first_token(server, prompt):
    a = asyncio.run(ask(server.port, prompt, 2))
    return {"seconds": a.came[0] - a.sent, "cached": a.cached, "prompt": len(prompt)}


# Random weights repeat themselves; of two candidates the text goes on as before or not; of four ids in random order every three
# have occurred before, so that something is drafted all the time, and hardly anything of it is right.
def draft_bodies(prompts):
    ids = prompts.make(SHORT)
    four = ids[:4]
    return {"greedy": {"prompt": ids, "temperature": 0},
            "drawn of two": {"prompt": ids, "temperature": 1, "top_k": 2, "top_p": 1, "min_p": 0, "seed": 1},
            "drafts wrong": {"prompt": [prompts.random.choice(four) for _ in range(16 * SHORT)], "temperature": 1, "top_k": 0,
                             "top_p": 1, "min_p": 0, "seed": 1, "logit_bias": {str(i): 30 for i in four}}}


def measure_drafts(args, seed, home):
    """Tokens per second of one client, without drafts and with them."""
    out, said = {}, []
    for drafts in (False, True):
        server = Server(args, "minke", os.path.join(home, f"drafts-{drafts}"), drafts)  # neither finds the other's prompts
        try:
            took, texts = {}, {}
            for name, body in draft_bodies(Prompts(server, seed)).items():
                begin = time.monotonic()
                a = server.post("/v1/completions", body | {"max_tokens": args.draft_tokens, "ignore_eos": True})
                took[name], texts[name] = a["usage"]["completion_tokens"] / (time.monotonic() - begin), a["choices"][0]["text"]
            out["with" if drafts else "without"] = took
            said.append(texts)
        finally:
            server.stop()
    if said[0] != said[1]:
        raise RuntimeError("drafts changed an answer")
    return {"drafts": out}


def measure(args, name, seed, home):
    """All measurements of one server in one repetition."""
    server = Server(args, name, home)
    try:
        prompts = Prompts(server, seed)
        asyncio.run(ask(server.port, prompts.make(SHORT), 8))  # pages of the model
        out = {"command": compare.words(server.command)}
        if "load" in args.parts:
            out |= measure_load(args, server, prompts)
        if "forms" in args.parts:
            out |= measure_forms(args, name, server, prompts)
        if "latency" in args.parts:
            out |= measure_latency(args, server, prompts)
        if "prefix" in args.parts:
            p = prompts.make(args.long)
            out["first_token"] = {"cold": first_token(server, p), "warm": first_token(server, p)}
            server.stop()
            prompts.server = server = Server(args, name, home)
            asyncio.run(ask(server.port, prompts.make(SHORT), 8))
            out["first_token"]["restart"] = first_token(server, p)
        if "drafts" in args.parts and name == "minke":
            server.stop()
            out |= measure_drafts(args, seed, home)
        return out
    finally:
        server.stop()


# --- report ----------------------------------------------------------------------------------------------------------


def median(runs, *keys):
    values = []
    for v in runs:
        for k in keys:
            v = v[k]
        values.append(v)
    return statistics.median(values)


def load_lines(args, runs):
    yield "| clients | " + " | ".join(f"{n} tok/s | x 1 client" for n in runs) + (" | ratio |" if len(runs) > 1 else " |")
    yield "|---|" + "---|---|" * len(runs) + ("---|" if len(runs) > 1 else "")
    for c in args.clients:
        got = {n: median(r, "tokens_per_second", c) for n, r in runs.items()}
        base = {n: median(r, "tokens_per_second", args.clients[0]) for n, r in runs.items()}
        cells = " | ".join(f"{got[n]:.1f} | {got[n] / base[n]:.2f}" for n in runs)
        yield f"| {c} | {cells} |" + (f" {got['minke'] / got['llama.cpp']:.2f} |" if len(runs) > 1 else "")


def forms_lines(runs):
    yield "| server | greedy tok/s | drawn | with a schema |"
    yield "|---|---|---|---|"
    for n, r in runs.items():
        free, drawn, schema = (median(r, "forms", k) for k in ("greedy", "drawn", "schema"))
        yield f"| {n} | {free:.1f} | {drawn:.1f} ({drawn / free:.3f}) | {schema:.1f} ({schema / free:.3f}) |"


def latency_lines(runs):
    yield "| server | quiet p50 | p99 | while prompts arrive p50 | p99 | longest | p99 over quiet p50 |"
    yield "|---|---|---|---|---|---|---|"
    for n, r in runs.items():
        q50, q99, b50, b99, most = (1e3 * median(r, "latency", *k) for k in (
            ("quiet", "p50_s"), ("quiet", "p99_s"), ("prompts", "p50_s"), ("prompts", "p99_s"), ("prompts", "max_s")))
        yield f"| {n} | {q50:.1f} ms | {q99:.1f} ms | {b50:.1f} ms | {b99:.1f} ms | {most:.1f} ms | {b99 / q50:.2f} |"


def prefix_lines(runs):
    yield "| server | new | again | after a restart | tokens found again, after a restart |"
    yield "|---|---|---|---|---|"
    for n, r in runs.items():
        t = [f"{1e3 * median(r, 'first_token', k, 'seconds'):.1f} ms" for k in ("cold", "warm", "restart")]
        found = [f"{median(r, 'first_token', k, 'cached'):.0f}" for k in ("warm", "restart")]
        yield f"| {n} | {' | '.join(t)} | {', '.join(found)} |"


def draft_lines(runs):
    yield "| answers | without drafts tok/s | with | ratio |"
    yield "|---|---|---|---|"
    for name in runs[0]["drafts"]["with"]:
        a, b = (median(runs, "drafts", k, name) for k in ("without", "with"))
        yield f"| {name} | {a:.1f} | {b:.1f} | {b / a:.2f} |"


def report(args, what, runs):
    s = what["settings"]
    out = [f"# Serving, {what['date']}", "",
           f"{what['cpu']}, {what['cpus']} CPUs; minke {what['commit']}; {what['model']} ({what['model_bytes'] / 1e6:.0f} MB), "
           f"{what['threads']} threads; medians of {len(runs['minke'])}, the servers in turn."]
    if "load" in args.parts:
        out += ["", f"Clients at once, {SHORT} tokens of prompt and {s['tokens']} of answer each; tokens of all per second:", "",
                *load_lines(args, runs)]
    if "forms" in args.parts:
        out += ["", f"{s['forms_clients']} clients at once, the same, by how the tokens are chosen (and as a part of greedy):", "",
                *forms_lines(runs)]
    if "latency" in args.parts:
        out += ["", f"Time between tokens of {s['streams']} clients, alone and while prompts of {s['long']} tokens arrive one after "
                "the other:", "", *latency_lines(runs)]
    if "prefix" in args.parts:
        out += ["", f"Time to the first token of a prompt of {s['long']} tokens:", "", *prefix_lines(runs)]
    if "drafts" in args.parts:
        out += ["", f"One client of minke, {s['draft_tokens']} tokens, with drafts from the text itself; the answers were the same:", "",
                *draft_lines(runs["minke"])]
    out += ["", "Commands:", ""] + [f"    {r[-1]['command']}" for r in runs.values()]
    return without_paths(args, "\n".join(out) + "\n")


def without_paths(args, text):
    for path, name in ((args.peer, "llama-server"), (args.minke, "minke"), (args.model, args.model.name)):
        text = text.replace(str(path), name) if path else text
    return re.sub(r"--prefix-dir \S+", "--prefix-dir DIR", text)


def save(args, what, runs):
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", what["cpu"]).lower()).strip("-")
    base = args.out / f"{what['date']}-{slug}-{args.threads}t-serve{args.suffix and '-' + args.suffix}"
    args.out.mkdir(parents=True, exist_ok=True)
    text = without_paths(args, json.dumps(what | {"runs": runs}, indent=1))
    base.with_name(base.name + ".json").write_text(text + "\n", encoding="utf-8")
    table = report(args, what, runs)
    base.with_name(base.name + ".md").write_text(table, encoding="utf-8")
    return table


def facts(args):
    dirty = compare.one_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return {"date": time.strftime("%Y-%m-%d"), "cpu": compare.cpu_name(), "cpus": os.cpu_count(),
            "commit": compare.one_line(["git", "rev-parse", "--short=12", "HEAD"]) + (" with changes" if dirty else ""),
            "model": args.model.name, "model_bytes": args.model.stat().st_size, "threads": args.threads,
            "settings": {k: getattr(args, k) for k in ("clients", "tokens", "forms_clients", "forms_rounds", "streams", "latency_tokens",
                                                       "long", "long_prompts", "ctx", "draft_tokens", "repeat", "parts")}}


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--model", required=True, type=pathlib.Path, help="GGUF file that both servers read")
    a.add_argument("--minke", default=ROOT / "build" / "minke", type=pathlib.Path)
    a.add_argument("--peer", type=pathlib.Path, help="llama-server of llama.cpp")
    a.add_argument("--minke-arg", action="append", default=[], metavar="ARG", help="one more argument of minke serve")
    a.add_argument("--peer-arg", action="append", default=[], metavar="ARG", help="one more argument of the peer")
    a.add_argument("--parts", default="load,forms,latency,prefix,drafts", type=lambda s: s.split(","), help="what to measure")
    a.add_argument("--clients", default="1,2,4,8,16", type=lambda s: [int(x) for x in s.split(",")])
    a.add_argument("--tokens", default=128, type=int, help="length of an answer under load")
    a.add_argument("--forms-clients", default=8, type=int, help="clients of the forms")
    a.add_argument("--forms-rounds", default=3, type=int, help="rounds of all forms that count, behind one that does not")
    a.add_argument("--streams", default=4, type=int, help="clients whose latency is measured")
    a.add_argument("--latency-tokens", default=1024, type=int, help="length of their answers; must last as long as the prompts")
    a.add_argument("--settle", default=1.0, type=float, help="seconds before their latency counts")
    a.add_argument("--long", default=4096, type=int, help="tokens of a long prompt")
    a.add_argument("--long-prompts", default=2, type=int, help="how many arrive")
    a.add_argument("--draft-tokens", default=256, type=int, help="length of the answers with and without drafts")
    a.add_argument("--ctx", default=8192, type=int, help="window of one client")
    a.add_argument("--threads", default=os.cpu_count(), type=int)
    a.add_argument("--repeat", default=3, type=int)
    a.add_argument("--out", default=ROOT / "bench" / "results", type=pathlib.Path)
    a.add_argument("--suffix", default="", help="of the name of the result")
    args = a.parse_args()
    for path in (args.model, args.minke, args.peer):
        if path and not path.is_file():
            a.error(f"{path} is not there")
    if set(args.parts) - {"load", "forms", "latency", "prefix", "drafts"}:
        a.error(f"--parts knows load, forms, latency, prefix, drafts, not {','.join(args.parts)}")
    return args


def main():
    args = arguments()
    what, table = facts(args), ""
    runs = {"minke": []} | ({"llama.cpp": []} if args.peer else {})
    for i in range(args.repeat):
        for name in runs:
            print(f"  {name}, {i + 1} of {args.repeat}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as home:
                runs[name].append(measure(args, name, 1000 * i, home))
        table = save(args, what, runs)
    print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as e:
        sys.exit(f"bench/serve.py: {e}")
