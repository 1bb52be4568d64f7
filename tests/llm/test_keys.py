"""A key is planted, an endpoint repeats it wherever it can, and nothing that a build writes or prints has it in it."""

import html
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

from charforge import skeleton
from charforge.cli import main
from charforge.llm import secrets
from charforge.llm.direct import DirectLane
from charforge.testing import texts

KEYS = ["planted-key-Zq9-WvXu7tSr", 'pl"anted\\key/Zq9+&7<tSr>']
"""One without any known shape, and one that JSON, URLs and HTML each write in their own way."""

ENDPOINTS = """
[openai]
key = "MY_OWN_VARIABLE"
concurrency = 4
timeout = 0.5
deadline = 1.0
patience = 0.2
price = {input = 1, output = 1}
"""


@pytest.fixture(params=KEYS, ids=["odd", "escaped"])
def key(request, monkeypatch, provider, tmp_path):
    monkeypatch.setenv("MY_OWN_VARIABLE", request.param)
    monkeypatch.delenv("OPENAI_API_KEY")
    Path("endpoints.toml").write_text(ENDPOINTS)
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", "endpoints.toml")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(secrets, "_registered", set())
    skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")
    return request.param


COMMAND = ("build", "eliza", "-k", "--to", "dataset", "--set", "generator.model=openai/some-model")


def build(capfd):
    status = main(COMMAND)
    return status, *capfd.readouterr()


def leaks(key, folder, *printed):
    """Return where a part of the key is, in any spelling and case, in all files below a folder and in what was printed."""
    spellings = {key, json.dumps(key)[1:-1], json.dumps(json.dumps(key))[3:-3], repr(key)[1:-1], quote(key)}
    spellings |= {quote(key, safe=""), html.escape(key), repr(json.dumps(key))[2:-2], repr(repr(key))[2:-2]}
    parts = {each[at : at + 8].lower().encode() for each in spellings for at in range(len(each) - 7)}
    texts = {f"printed {number}": text.encode() for number, text in enumerate(printed)}
    texts |= {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    }
    return [
        f"{part} in {name}: {data[max(0, at - 60) : at + 60]}"
        for name, data in texts.items()
        for part in parts
        if (at := data.lower().find(part)) >= 0
    ]


def good(asked):
    """Return what a good model says to a request."""
    prompt = "\n".join(message["content"] for message in asked.body["messages"])
    schema = asked.body.get("response_format", {}).get("json_schema", {}).get("schema")
    return texts.answer(prompt, schema, random.Random(prompt))


def headers(asked):
    return {"X-Echo": asked.headers["authorization"], "Retry-After": "0"}


def words(asked):
    """The key as it is, and the whole header in JSON in JSON."""
    sent = asked.headers["authorization"]
    return f"You sent {sent}: {json.dumps({'headers': asked.headers})}"


FAILURES = {
    "401": lambda p, a: p.error(401, words(a), headers=headers(a)),
    "403": lambda p, a: p.error(403, words(a), words(a), headers=headers(a)),
    "400": lambda p, a: p.error(400, words(a), headers=headers(a)),
    "404": lambda p, a: p.error(404, words(a)),
    "422": lambda p, a: p.said(422, {"detail": [{"msg": words(a)}]}),
    "402": lambda p, a: p.error(402, words(a)),
    "429": lambda p, a: p.error(429, words(a), headers=headers(a)),
    "quota": lambda p, a: p.error(429, words(a), "insufficient_quota"),
    "500": lambda p, a: p.error(500, words(a)),
    "html": lambda p, a: p.said(502, f"<html><h1>{words(a)}</h1></html>".encode()),
    "plain": lambda p, a: p.said(503, words(a).encode()),
    "redirect": lambda p, a: p.said(302, {}, {"Location": f"http://x/?{a.headers['authorization']}"}),
    "filter": lambda p, a: p.error(400, words(a), "content_filter"),
    "not-json": lambda p, a: p.said(body=words(a).encode()),
    "no-choices": lambda p, a: p.said(body={"headers": a.headers}),
    "error-200": lambda p, a: p.said(body={"error": {"message": words(a)}}),
    "ends": lambda p, a: p.chat("x", words(a)),
    "refusal": lambda p, a: p.chat(None, refusal=words(a)),
    "packed": lambda p, a: p.said(body=b"x", headers={"Content-Encoding": a.headers["authorization"]}),
    "no-http": lambda p, a: p.said(raw=f"HTTP/1.1 200 OK\r\n{words(a)}\r\n\r\n".encode()),
    "no-status": lambda p, a: p.said(raw=f"{a.headers['authorization']}\r\n\r\n".encode()),
    "reply": lambda p, a: p.chat(f"{good(a)}\n\n{words(a)}"),
    "whole-reply": lambda p, a: p.chat(words(a)),
}


@pytest.mark.parametrize("how", FAILURES)
def test_no_key_is_written_or_printed(provider, key, tmp_path, capfd, how):
    # Some calls of each kind, then an end of it: what may pass would be tried again and again.
    provider.answers(*[lambda asked: FAILURES[how](provider, asked)] * 8, provider.error(401, "Enough."))
    status, out, err = build(capfd)
    assert provider.asked[0].headers["authorization"] == f"Bearer {key}"
    assert leaks(key, tmp_path, out, err) == []
    assert status == 1
    assert "[key]" in err or "Enough." in err


def test_a_build_that_works_has_no_key_in_it(provider, key, tmp_path, capfd):
    def answer(asked):
        said = provider.chat(good(asked), headers=headers(asked))
        said.body["echo"] = words(asked)
        return said

    provider.answers(answer)
    main(COMMAND)
    for command in (("show", "eliza", "scenes"), ("status", "eliza"), ("explain", "eliza", "--calls")):
        main([*command, "--set", "generator.model=openai/some-model"])
    assert leaks(key, tmp_path, *capfd.readouterr()) == []
    assert (tmp_path / "build/eliza/scenes.jsonl").exists()


def test_a_key_that_a_model_repeats_is_struck_out_of_what_is_kept(provider, key, tmp_path, capfd):
    """In a scene's JSON, where the key would pass every check."""

    def answer(asked):
        text = good(asked)
        try:
            scene = json.loads(text)
        except ValueError:
            return provider.chat(text)
        for each in scene.get("scenes", [scene]):
            each["location"] = f"A room with {key} on the door"
        return provider.chat(json.dumps(scene))

    provider.answers(answer)
    main(COMMAND)
    assert leaks(key, tmp_path, *capfd.readouterr()) == []
    assert "A room with [key] on the door" in (tmp_path / "build/eliza/scenes.jsonl").read_text()


def test_a_bug_report_has_no_key_in_it(provider, key, tmp_path, capfd, monkeypatch):
    async def send(self, request, body):
        raise RuntimeError(f"headers: {dict(self._headers)} {key}")

    monkeypatch.setattr(DirectLane, "send", send)
    status, out, err = build(capfd)
    assert status == 3
    assert "[key]" in err
    (log,) = (tmp_path / "tmp").glob("charforge-bug-*.log")
    assert "[key]" in log.read_text()
    assert leaks(key, tmp_path, out, err) == []


def test_nor_has_what_another_process_prints(provider, key, tmp_path):
    provider.answers(lambda asked: provider.error(401, words(asked)))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "charforge", *COMMAND],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "set MY_OWN_VARIABLE in the environment" in done.stderr
    assert leaks(key, tmp_path, done.stdout, done.stderr) == []


@pytest.mark.slow
def test_nor_has_what_goes_through_litellm(provider, key, tmp_path):
    Path("endpoints.toml").write_text(
        f'[openai]\nlane = "litellm"\nkey = "MY_OWN_VARIABLE"\napi_base = "{provider.url}"\n'
    )
    provider.answers(lambda asked: provider.error(400, words(asked), headers=headers(asked)))
    done = subprocess.run(
        [sys.executable, "-m", "charforge", *COMMAND], capture_output=True, text=True, check=False
    )
    assert provider.asked[0].headers["authorization"] == f"Bearer {key}"
    assert done.returncode == 1
    assert leaks(key, tmp_path, done.stdout, done.stderr) == []


def test_the_search_itself_finds_keys(key, tmp_path):
    """Else all of the above would pass for nothing."""
    (tmp_path / "leak").write_text(json.dumps({"key": key}))
    assert leaks(key, tmp_path, f"Bearer {key}")
