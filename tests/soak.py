#!/usr/bin/env python3
"""A long day for `minke serve`: many clients in three dialects, some of whom hang up, for minutes.

    tests/soak.py [--minutes 30] [--clients 100] [--cancels 0.1] [--model thimble]      (make soak)

Every question is asked alone first; whoever asks it later, among all the others, must get that very answer: a token in the
wrong stream shows.  Memory and descriptors of the server must not grow after the first quarter, and when everybody has gone
nothing may be left running or open.  Exit status 1 and the reasons if not.
"""
import argparse
import asyncio
import collections
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "cli"))

from serving import Server  # noqa: E402

GROWTH = 0.03          # of resident memory, after the first quarter
GROWTH_BYTES = 4 << 20  # and never less than this: pages come and go
SPARE_FD = 8           # descriptors that may be open for other reasons (files of the prefix cache)


# --- questions -------------------------------------------------------------------------------------------------------


class Question:
    """A question, how it is sampled, and what it was answered when it was asked alone."""

    def __init__(self, rng, number):
        a, b, c, d = (rng.randrange(2, 100) for _ in range(4))
        self.text = f"What is ({a}+{b})*{c}-{d}?" if number % 3 else f"Make {a} from {b} {c} {d}"
        self.seed = number
        self.temperature = 0.8 if number % 2 else 0.0
        self.answer = None

    def sampling(self):
        return {"temperature": self.temperature, "seed": self.seed}


def chat_body(q, stream):
    return {"messages": [{"role": "user", "content": q.text}], "stream": stream, **q.sampling()}


def messages_body(q, stream):  # this dialect has no seed: greedy questions only
    return {"model": "m", "max_tokens": 4096, "messages": [{"role": "user", "content": q.text}], "stream": stream,
            "temperature": q.temperature}


def ollama_body(q, stream):
    return {"model": "thimble", "messages": [{"role": "user", "content": q.text}], "stream": stream, "options": q.sampling()}


def chat_pieces(v):
    for c in v.get("choices", []):
        m = c.get("delta") or c.get("message") or {}
        yield m.get("reasoning_content") or "", m.get("content") or ""


def messages_pieces(v):
    for b in v.get("content", []):
        yield b.get("thinking", ""), b.get("text", "")
    delta = v.get("delta", {})
    yield delta.get("thinking", ""), delta.get("text", "")


def ollama_pieces(v):
    m = v.get("message", {})
    yield m.get("thinking") or "", m.get("content") or ""


DIALECTS = {
    "openai": ("/v1/chat/completions", chat_body, chat_pieces),
    "anthropic": ("/v1/messages", messages_body, messages_pieces),
    "ollama": ("/api/chat", ollama_body, ollama_pieces),
}


# --- one client ------------------------------------------------------------------------------------------------------


class Gone(Exception):
    """This client hung up on purpose."""


async def body_pieces(reader):
    """The body of an answer as it comes, of either encoding."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head:
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield status, await reader.readexactly(size)
            await reader.readexactly(2)
        return
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    yield status, await reader.readexactly(length)


async def ask(port, dialect, q, stream, patience=None):
    """(reasoning, text) of the answer.  With `patience` the client hangs up after as many pieces, raising Gone; -1: before
    all of the request is sent."""
    path, body, pieces = DIALECTS[dialect]
    data = json.dumps(body(q, stream)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                     b"Content-Length: %d\r\n\r\n" % (path.encode(), len(data)) + (data[:len(data) // 2] if patience == -1 else data))
        await writer.drain()
        if patience is not None and patience <= 0:
            raise Gone
        whole, n = b"", 0
        async for status, piece in body_pieces(reader):
            if status != 200:
                raise RuntimeError(f"{status} {piece[:300]}")
            whole, n = whole + piece, n + 1
            if patience is not None and n >= patience:
                raise Gone
    finally:
        writer.close()
    reasoning, text = "", ""
    for line in whole.split(b"\n") if stream else [whole]:
        line = line.removeprefix(b"data: ")
        if line.startswith(b"{"):
            for r, t in pieces(json.loads(line)):
                reasoning, text = reasoning + r, text + t
    return reasoning, text


class Soak:
    def __init__(self, args, port, rng):
        self.args, self.port, self.rng = args, port, rng
        self.questions = [Question(rng, i) for i in range(args.questions)]
        self.count = collections.Counter()
        self.wrong = []
        self.end = 0.0

    async def learn(self):
        for q in self.questions:
            q.answer = await ask(self.port, "openai", q, False)

    async def client(self):
        while time.monotonic() < self.end and len(self.wrong) < 20:
            q = self.rng.choice(self.questions)
            dialect = self.rng.choice(["openai", "ollama"] if q.temperature else list(DIALECTS))
            patience = self.rng.choice([-1, 0, 1, 2, 5, 20]) if self.rng.random() < self.args.cancels else None
            try:
                got = await ask(self.port, dialect, q, self.rng.random() < 0.7, patience)
            except Gone:
                self.count["cancelled"] += 1
                continue
            except (OSError, RuntimeError, asyncio.IncompleteReadError, ValueError) as e:
                self.wrong.append(f"{dialect}, {q.text}: {type(e).__name__} {e}")
                continue
            self.count["answered"] += 1
            if got != q.answer:
                self.wrong.append(f"{dialect}, {q.text}: {got} instead of {q.answer}")


# --- the server's state ----------------------------------------------------------------------------------------------


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(text.split("VmRSS:")[1].split()[0])


def descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


async def watch(soak, pid, samples, every):
    shown = time.monotonic()
    while time.monotonic() < soak.end:
        samples.append((resident(pid), descriptors(pid)))
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"  {soak.end - shown:5.0f} s to go: {soak.count['answered']} answers, {soak.count['cancelled']} cancelled, "
                  f"{samples[-1][0] / 1e6:.1f} MB, {samples[-1][1]} descriptors, {len(soak.wrong)} wrong", flush=True)
        await asyncio.sleep(every)


def judge(samples, clients):
    """What grew: the second quarter of the time against the last."""
    n = len(samples)
    early, late = samples[n // 4:n // 2], samples[3 * n // 4:]
    if not early or not late:
        return ["too short to see whether memory grows"]
    problems = []
    before, after = (statistics.median(s[0] for s in part) for part in (early, late))
    print(f"memory: {before / 1e6:.1f} MB in the second quarter, {after / 1e6:.1f} MB in the last, "
          f"at most {max(s[0] for s in samples) / 1e6:.1f} MB")
    if after > before + max(GROWTH * before, GROWTH_BYTES):
        problems.append(f"memory grew from {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    most = max(s[1] for s in late)
    if most > max(s[1] for s in early) + clients // 4 + SPARE_FD:
        problems.append(f"descriptors grew from {max(s[1] for s in early)} to {most}")
    return problems


def wait_until_idle(server, fd_before):
    """Nothing is left when all have gone."""
    for _ in range(200):
        if server.metric("requests_running") == 0 and server.metric("requests_waiting") == 0 \
                and descriptors(server.process.pid) <= fd_before + SPARE_FD:
            return []
        time.sleep(0.1)
    return [f"left behind: {server.metric('requests_running'):.0f} running, {server.metric('requests_waiting'):.0f} waiting, "
            f"{descriptors(server.process.pid)} descriptors ({fd_before} before)"]


async def run(args, server, samples):
    soak = Soak(args, server.port, random.Random(args.seed))
    await soak.learn()
    seconds = 60 * args.minutes
    soak.end = time.monotonic() + seconds
    watching = asyncio.create_task(watch(soak, server.process.pid, samples, max(0.1, seconds / 1000)))
    await asyncio.gather(*(soak.client() for _ in range(args.clients)))
    soak.end = 0.0
    await watching
    return soak


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--minutes", default=30, type=float)
    a.add_argument("--clients", default=100, type=int)
    a.add_argument("--cancels", default=0.1, type=float, help="part of the requests whose client hangs up")
    a.add_argument("--questions", default=60, type=int, help="how many different ones there are")
    a.add_argument("--parallel", default=16, type=int, help="answers at once")
    a.add_argument("--model", default="thimble")
    a.add_argument("--seed", default=1, type=int)
    args = a.parse_args()
    samples = []
    with tempfile.TemporaryDirectory() as home, \
            Server(home, "--parallel", args.parallel, "--max-waiting", 4 * args.clients, model=args.model) as server:
        server.get("/health")
        fd_before = descriptors(server.process.pid)
        soak = asyncio.run(run(args, server, samples))
        problems = soak.wrong + judge(samples, args.clients) + wait_until_idle(server, fd_before)
    print(f"{soak.count['answered']} answers, {soak.count['cancelled']} cancelled, {args.clients} clients, {args.minutes:g} minutes")
    for p in problems:
        print("wrong:", p)
    if not soak.count["answered"] or (args.cancels > 0 and not soak.count["cancelled"]):
        print("wrong: nothing was done")
        return 1
    print("soak:", f"{len(problems)} problems" if problems else "passed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
