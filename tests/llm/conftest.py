"""A provider of one's own: an HTTP server on this machine that follows a script and remembers what it was asked."""

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "planted-key-Zq9-WvXu7tSr"


@dataclass
class Said:
    """An answer. `body` is JSON data or bytes; `cut` sends only so many bytes of it, `stall` waits before it.

    `endless`: the body again and again, with a `pause` between. `raw`: not even HTTP.
    """

    status: int = 200
    body: object = None
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0.0
    endless: bool = False
    pause: float = 0.0
    hang_up: bool = False
    raw: bytes | None = None


def chat(text="I am Ludwig.", finish="stop", *, usage=(7, 3), headers=None, **message):
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
            }
        ],
    }
    if usage is not None:
        body["usage"] = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": usage[0] + usage[1],
        }
    return Said(body=body, headers=headers or {})


def error(status, message, code=None, *, headers=None, **more):
    body = {"error": {"message": message, "type": "error", "code": code, "param": None, **more}}
    return Said(status, body, headers or {})


def zipped(said):
    payload = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
    return Said(said.status, gzip.compress(payload), {"Content-Encoding": "gzip", **said.headers})


@dataclass
class Asked:
    path: str
    headers: dict
    body: dict


class Provider(ThreadingHTTPServer):
    """Answers with what `answers` was given, the last entry again and again. An entry may be a function of what was asked."""

    daemon_threads = True
    key = KEY
    # Test modules cannot import one another (importmode importlib): the words of a script come with the fixture.
    said, chat, error, zipped = Said, staticmethod(chat), staticmethod(error), staticmethod(zipped)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = []
        self.asked = []
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answers(self, *script):
        self.script = list(script)

    def next(self, asked):
        with self.lock:
            self.asked.append(asked)
            entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return entry(asked) if callable(entry) else entry

    def handle_error(self, request, address):
        """Clients that hang up are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        said = self.server.next(
            Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(data))
        )
        if said.hang_up:
            self.close_connection = True
            return
        if said.stall:
            time.sleep(said.stall)
        if said.raw is not None:
            self.wfile.write(said.raw)
            self.close_connection = True
            return
        payload = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        self.send_response(said.status)
        for name, value in {"Content-Type": "application/json", **said.headers}.items():
            self.send_header(name, value)
        if said.endless:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:  # until the client has enough
                self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))
                time.sleep(said.pause)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload[: said.cut])
        if said.cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def provider(monkeypatch):
    """A provider that answers for `openai/…`, with a key."""
    server = Provider()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    yield server
    server.shutdown()
    server.server_close()
