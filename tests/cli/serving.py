"""A running `minke serve` for tests, and requests without a client library."""
import http.client
import json
import os
import signal
import subprocess
import threading
import time

from conftest import MINKE, ROOT


def wait_until(true, timeout=60):
    """Polls a condition; the time is for a machine that is busy with something else."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def cancels(server, hang_up, n):
    """Are the n long answers, which hang_up() asks for without waiting for their end, given up before it?

    A server that notices late may have finished them, so it has five attempts; one that never notices has them in vain.
    """
    def count(*names):
        return sum(server.metric(f"requests_{name}_total") for name in names)

    before = count("cancelled")
    for _ in range(5):
        ended = count("done", "cancelled")
        hang_up()
        wait_until(lambda ended=ended: count("done", "cancelled") == ended + n)
        if count("cancelled") > before:
            return True
    return False


class Server:
    """`minke serve MODEL --port 0 ...`; its folders are in `home`."""

    def __init__(self, home, *args, model="thimble", env=None):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")}
        clean |= {"HOME": str(home), "LC_ALL": "C.UTF-8"} | (env or {})
        models = [model] if isinstance(model, str) else list(model)
        self.process = subprocess.Popen([MINKE, "serve", *models, "--port", "0", "--json", *map(str, args)], cwd=ROOT,
                                        env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            self.reader.join(5)
            raise RuntimeError(f"no server: {self.process.returncode} {''.join(self.errors)}")
        self.info = json.loads(line)
        self.port, self.url = self.info["port"], self.info["url"]

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, bytes)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        c.request(method, path, data, {"Content-Type": "application/json"} | (headers or {}))
        r = c.getresponse()
        out = r.status, dict(r.getheaders()), r.read()
        c.close()
        return out

    def post(self, path, body, **how):
        status, _, data = self.request("POST", path, body, **how)
        assert status == 200, (status, data)
        return json.loads(data)

    def get(self, path, **how):
        status, _, data = self.request("GET", path, **how)
        assert status == 200, (status, data)
        return json.loads(data)

    def chat(self, text, **fields):
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]} | fields)

    def metric(self, name):
        _, _, data = self.request("GET", "/metrics")
        for line in data.decode().splitlines():
            if line.startswith(f"minke_{name}{{") or line.startswith(f"minke_{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def stop(self, how=signal.SIGTERM, timeout=40):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout)
        self.reader.join(5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        code = self.stop()
        assert kind or code == 0, self.errors
