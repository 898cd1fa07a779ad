"""A server with minke's page and answers that a test has written down."""
import http.server
import json
import threading
import time
import urllib.error
import urllib.request

GATE_S = 10  # nothing waits longer
MODEL = {"id": "script", "object": "model", "context_length": 1000,
         "sampling": {"temperature": 0.6, "top_p": 0.949999988, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.0}}


# --- steps of an answer -------------------------------------------------------------------------------------------------


def think(text):
    return {"delta": {"reasoning_content": text}}


def say(text):
    return {"delta": {"content": text}}


def token(text, logprob, others):
    top = [{"token": t, "logprob": p} for t, p in others]
    return {"delta": {"content": text}, "logprobs": {"content": [{"token": text, "logprob": logprob, "top_logprobs": top}]}}


class Gate:
    """The answer goes on when the test opens it."""

    def __init__(self):
        self.open = threading.Event()


class Cut:
    """The connection ends here."""


class Failure:
    """The server reports in the stream that it cannot go on."""

    def __init__(self, message):
        self.line = "data: " + json.dumps({"error": {"message": message, "type": "server_error", "code": None}}) + "\n\n"


class Refuse:
    def __init__(self, status, message, code=None, headers=()):
        self.status, self.headers = status, dict(headers)
        self.body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}


class Scripted:
    """`scripts`: what is answered, one after the other; the last is given again.  `asked`: bodies of chat requests."""

    def __init__(self, upstream):
        self.upstream, self.asked, self.headers = upstream, [], []
        self.left = threading.Event()  # a reader went before its answer was complete
        self.health = (200, {"status": "ok"})
        self.key = None
        self.gone = False  # connections are closed without an answer
        self.models = [MODEL]
        self.scripts = [(say("hello"),)]

    def __enter__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self.answer(outer.get)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(lambda h: outer.post(h, body))

            def answer(self, how):
                if outer.gone:
                    self.close_connection = True
                else:
                    how(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()

    # --- requests ---

    def reply(self, h, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        h.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | dict(headers)).items():
            h.send_header(name, value)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data)

    def get(self, h):
        if h.path == "/health":
            self.reply(h, *self.health)
        elif h.path == "/v1/models" and self.may(h):
            self.reply(h, 200, {"object": "list", "data": self.models})
        elif h.path != "/v1/models":
            self.pass_on(h)

    def pass_on(self, h):
        request = urllib.request.Request(self.upstream + h.path, headers={"Accept": h.headers["Accept"]})
        try:
            r = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as e:
            r = e
        with r:
            kept = {k: v for k, v in r.headers.items() if k.lower() not in ("content-length", "connection", "date", "etag")}
            self.reply(h, r.status, r.read(), kept)

    def may(self, h):
        if self.key and h.headers["Authorization"] != "Bearer " + self.key:
            self.reply(h, 401, {"error": {"message": "no key given"}})
            return False
        return True

    def post(self, h, body):
        if not self.may(h):
            return
        if h.path.endswith("/count_tokens"):  # a token is a word
            self.reply(h, 200, {"input_tokens": len(body["messages"][0]["content"].split())})
            return
        self.asked.append(body)
        self.headers.append(dict(h.headers))
        steps = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if steps and isinstance(steps[0], Refuse):
            self.reply(h, steps[0].status, steps[0].body, steps[0].headers)
            return
        h.send_response(200)
        h.send_header("Content-Type", "text/event-stream")
        h.send_header("Connection", "close")
        h.close_connection = True
        h.end_headers()
        try:
            self.answer(h, steps)
        except OSError:
            self.left.set()

    def answer(self, h, steps):
        def send(data):
            h.wfile.write(data.encode())
            h.wfile.flush()

        def chunk(choice, **more):
            choices = [{"index": 0, "delta": {}, "finish_reason": None} | choice] if choice is not None else []
            send("data: " + json.dumps({"id": "x", "choices": choices, **more}) + "\n\n")

        chunk({"delta": {"role": "assistant", "content": ""}})
        n = 0
        finish = "stop"
        for step in steps:
            if isinstance(step, Gate):
                until = time.monotonic() + GATE_S
                while not step.open.wait(0.05) and time.monotonic() < until:
                    send(": ping\n\n")  # notices who has left
            elif isinstance(step, Cut):
                return
            elif isinstance(step, Failure):
                send(step.line)
                return
            elif isinstance(step, str):
                finish = step
            else:
                chunk(step)
                n += 1
        chunk({"finish_reason": finish})
        usage = {"prompt_tokens": 100, "completion_tokens": n, "total_tokens": 100 + n, "prompt_tokens_details": {"cached_tokens": 64}}
        chunk(None, usage=usage, timings={"queue_ms": 0.5, "prompt_ms": 200, "predicted_per_second": 123.4})
        send("data: [DONE]\n\n")
