"""A file of the hub comes with its commit, from the cache on the disk or over the wire; else it is said why not."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from charforge.errors import CharForgeError
from charforge.models.process import run_job

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA = b'{"prompt": "a", "output": "b<|eot|>"}\n'


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The hub's cache as huggingface_hub lays it out, with one file of one commit."""
    repo = tmp_path / "hf" / "hub" / "datasets--someone--data"
    for path, data in {
        "refs/main": COMMIT.encode(),
        "refs/v1": COMMIT.encode(),
        f"snapshots/{COMMIT}/prompted/x.jsonl": DATA,
    }.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_bytes(data)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return repo


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as one file needs; `answers` maps a path to a status, an error code, and a body or its length."""

    answers: dict[str, tuple[int, str, bytes | int]]

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        status, code, body = self.answers.get(self.path, (404, "RepoNotFound", b""))
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(body if isinstance(body, int) else len(body)))
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.end_headers()
        if not head and isinstance(body, bytes):
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the loopback, an empty cache, and no files yet."""

    class Own(Hub):
        answers = {}  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield Own.answers
    server.shutdown()
    server.server_close()


def bring(tmp_path, file="someone/data:prompted/x.jsonl", limit=1000):
    said = []
    job = {"file": file, "out": str(tmp_path / "out.jsonl"), "limit": limit}
    result = asyncio.run(run_job("charforge.models.hub_file", job, said.append))
    return result, (tmp_path / "out.jsonl").read_bytes(), [message["phase"] for message in said]


def refused(tmp_path, *args, **options):
    with pytest.raises(CharForgeError) as caught:
        bring(tmp_path, *args, **options)
    assert not (tmp_path / "out.jsonl").exists()
    return caught.value.render()


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_without_a_network_the_cache_is_enough(cached, tmp_path, revision):
    name = f"someone/data{revision}:prompted/x.jsonl"
    assert bring(tmp_path, name) == (
        {
            "repo": "someone/data",
            "revision": COMMIT,
            "path": "prompted/x.jsonl",
            "bytes": len(DATA),
            "sha256": hashlib.sha256(DATA).hexdigest(),
        },
        DATA,
        [f"looking up {name}"],
    )


@pytest.mark.parametrize(
    "name", ["someone/data@v2:prompted/x.jsonl", "someone/data:y.jsonl", "no/one:x.jsonl"]
)
def test_without_a_network_what_is_not_in_the_cache_cannot_be_had(cached, tmp_path, name):
    assert refused(tmp_path, name) == (
        f"error: {name} could not be downloaded from the Hugging Face hub and is not in its local cache\n"
        "hint: check the network, or save the file in the workspace and name it as ./file.jsonl"
    )


def test_a_file_above_the_limit_is_refused(cached, tmp_path):
    assert refused(tmp_path, limit=20) == (
        f"error: someone/data:prompted/x.jsonl is too large: {len(DATA)} bytes, the limit is 20\n"
        "hint: make a file of the part that is wanted, and name that"
    )


def test_a_file_is_downloaded_once(hub, tmp_path):
    for revision in ("v1", COMMIT):
        hub[f"/datasets/someone/data/resolve/{revision}/prompted/x.jsonl"] = (200, "", DATA)
    name = "someone/data@v1:prompted/x.jsonl"
    result, data, said = bring(tmp_path, name)
    assert (result["revision"], data) == (COMMIT, DATA)
    assert said == [f"looking up {name}", f"downloading {name}"]
    assert bring(tmp_path, name) == (result, DATA, said[:1])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            (404, "RepoNotFound", b""),
            (
                "error: there is no data set someone/data on the Hugging Face hub\n"
                "hint: a private one needs HF_TOKEN; a file of the workspace begins with ./"
            ),
        ),
        (
            (403, "GatedRepo", b""),
            "error: the data set someone/data is gated\nhint: accept its terms on its page and set HF_TOKEN",
        ),
        (
            (404, "RevisionNotFound", b""),
            "error: the data set someone/data has no revision 'v1' on the Hugging Face hub",
        ),
        (
            (404, "EntryNotFound", b""),
            "error: the data set someone/data@v1 has no file 'x.jsonl' on the Hugging Face hub",
        ),
        (
            (200, "", 3 << 30),
            (
                "error: someone/data@v1:x.jsonl is too large: 3,221,225,472 bytes, the limit is 1,000\n"
                "hint: make a file of the part that is wanted, and name that"
            ),
        ),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, tmp_path, answer, error):
    hub["/datasets/someone/data/resolve/v1/x.jsonl"] = answer
    assert refused(tmp_path, "someone/data@v1:x.jsonl") == error
