"""The lane to other people's models, through the real litellm, against a local stand-in for a provider."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from charforge.errors import CharForgeError
from charforge.llm import remote
from charforge.llm.client import Client
from charforge.llm.request import Reply, Request

KEY = "sk-planted0123456789abcdef"
REQUEST = Request(
    model="openai/some-model", messages=(("user", "Who are you?"),), max_tokens=9, temperature=0.5
)


class Provider(ThreadingHTTPServer):
    """Answers with what `script` says, the last entry again and again; remembers what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = []
        self.asked = []

    def answers(self, *script):
        self.script = list(script)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, data = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        payload = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def provider(monkeypatch):
    server = Provider()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(remote, "_pause", pause)
    server.pauses = pauses
    yield server
    server.shutdown()
    server.server_close()


def chat(text, finish="stop"):
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def error(status, message):
    return status, {"error": {"message": message, "type": "error", "code": None, "param": None}}


def ask(request=REQUEST):
    return asyncio.run(remote.complete(request))


def test_a_reply_comes_back_with_its_counts(provider):
    provider.answers(chat("I am Ludwig."))
    assert ask() == Reply(text="I am Ludwig.", finish_reason="stop", prompt_tokens=7, completion_tokens=3)
    _path, authorization, body = provider.asked[0]
    assert authorization == f"Bearer {KEY}"
    assert body["messages"] == [{"role": "user", "content": "Who are you?"}]
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)


def test_unset_fields_are_not_sent(provider):
    provider.answers(chat("Yes."))
    ask()
    assert not {"top_p", "stop", "seed", "response_format"} & set(provider.asked[0][2])


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "length"), ("content_filter", "filtered"), ("stop", "stop")]
)
def test_finish_reasons_are_told_apart(provider, finish, reason):
    provider.answers(chat("I", finish))
    assert ask().finish_reason == reason


def test_an_overloaded_provider_is_asked_again(provider):
    provider.answers(error(429, "slow down"), error(503, "busy"), chat("At last."))
    assert ask().text == "At last."
    assert len(provider.pauses) == 2


def test_a_provider_that_stays_overloaded_ends_the_call(provider):
    provider.answers(error(503, "busy"))
    with pytest.raises(CharForgeError) as caught:
        ask()
    assert caught.value.message.startswith("openai/some-model: no answer after 4 tries: ")
    assert len(provider.asked) == 4


def test_a_wrong_key_is_said_at_once_and_never_shown(provider):
    provider.answers(error(401, f"Incorrect API key provided: {KEY}."))
    with pytest.raises(CharForgeError) as caught:
        ask()
    assert caught.value.message.startswith(
        "openai/some-model: the provider refused the key, or there is none: "
    )
    assert caught.value.hint == "set OPENAI_API_KEY in the environment"
    assert KEY not in caught.value.render()
    assert len(provider.asked) == 1


def test_an_unknown_model_is_not_asked_for_again(provider):
    provider.answers(error(404, "The model `some-model` does not exist"))
    with pytest.raises(CharForgeError) as caught:
        ask()
    assert caught.value.message.startswith("openai/some-model: the provider knows no such model: ")
    assert len(provider.asked) == 1


def test_a_bad_request_is_not_sent_again(provider):
    provider.answers(error(400, "max_tokens is too large"))
    with pytest.raises(CharForgeError) as caught:
        ask()
    assert caught.value.message.startswith("openai/some-model: the provider refused the request: ")
    assert len(provider.asked) == 1


def test_a_model_without_a_provider_says_how_models_are_named():
    with pytest.raises(CharForgeError) as caught:
        ask(Request(model="nonesuch/model", messages=(("user", "x"),), max_tokens=1, temperature=0.0))
    assert caught.value.render() == (
        "error: nonesuch/model: no such model, and no provider in its name\n"
        "hint: models are named provider/model, such as openai/gpt-4o-mini or embedded/smollm2-135m-instruct"
    )


def test_no_network_is_one_clear_error(monkeypatch, provider):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(CharForgeError) as caught:
        ask()
    assert caught.value.message.startswith("openai/some-model: no answer after 4 tries: ")
    assert caught.value.hint == "check the network and the endpoint, then rerun; finished work is kept"


def test_offline_refuses_before_anything_is_sent(provider):
    with pytest.raises(CharForgeError) as caught:
        asyncio.run(Client(offline=True).complete(REQUEST, None))
    assert caught.value.render() == (
        "error: openai/some-model is served over the network, and this build is --offline\n"
        "hint: drop --offline, or name a local model such as embedded/smollm2-135m-instruct"
    )
    assert provider.asked == []
