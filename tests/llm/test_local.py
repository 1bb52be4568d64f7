"""The parent's side alone: the worker here is a script without a model, so that dying and cancelling are quick to try."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from charforge.errors import CharForgeError
from charforge.llm import local
from charforge.llm.local import LocalLane, WeightsRef
from charforge.llm.request import Reply, Request

FAKE = """
import json, os, sys, time
from pathlib import Path
log = Path(os.environ["FAKE_LOG"])
def note(text):
    with log.open("a") as file:
        file.write(text + "\\n")
note("started")
for line in sys.stdin:
    message = json.loads(line)
    if "cancel" in message:
        note("cancel")
        continue
    prompt = message["request"]["prompt"]
    note(prompt)
    if prompt == "die" or prompt == "die once" and log.read_text().count("die once") == 1:
        print("something broke", file=sys.stderr, flush=True)
        os._exit(7)
    if prompt == "never":
        continue
    if prompt == "later":
        time.sleep(0.2)
    answer = {"error": "too long", "hint": "shorten it"} if prompt == "bad" else {
        "reply": {"text": prompt.upper() + json.dumps(message["weights"]), "finish_reason": "stop"}}
    print(json.dumps({"id": message["id"]} | answer), flush=True)
note("ended")
"""

WEIGHTS = WeightsRef("folder", "/w")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fake_worker.py").write_text(FAKE)
    path = tmp_path / "log"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE_LOG", str(path))
    monkeypatch.setattr(local, "_MODULE", "fake_worker")
    return path


def ask(prompt: str) -> Request:
    return Request(model="local/x", prompt=prompt, max_tokens=1, temperature=0)


def play(scene) -> None:
    async def main() -> None:
        lane = LocalLane()
        try:
            await asyncio.wait_for(scene(lane), 30)
        finally:
            await lane.close()

    asyncio.run(main())


async def noted(log: Path, text: str) -> None:
    def lines() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    while text not in lines():
        await asyncio.sleep(0.01)


def test_replies_reach_their_callers_and_one_worker_serves_all(log):
    async def scene(lane: LocalLane) -> None:
        replies = await asyncio.gather(*(lane.complete(ask(f"p{n}"), WEIGHTS) for n in range(5)))
        assert replies[3] == Reply(text='P3{"kind": "folder", "path": "/w"}', finish_reason="stop")
        reply = await lane.complete(ask("q"), WeightsRef("embedded", "name"))
        assert reply.text == 'Q{"kind": "embedded", "name": "name"}'

    play(scene)
    assert log.read_text().count("started") == 1


def test_no_worker_starts_before_it_is_needed(log):
    async def scene(lane: LocalLane) -> None:
        await lane.release()

    play(scene)
    assert not log.exists()


def test_a_failed_request_fails_its_caller_only(log):
    async def scene(lane: LocalLane) -> None:
        bad, good = await asyncio.gather(
            lane.complete(ask("bad"), WEIGHTS), lane.complete(ask("good"), WEIGHTS), return_exceptions=True
        )
        assert isinstance(bad, CharForgeError)
        assert bad.render() == "error: too long\nhint: shorten it"
        assert good.text.startswith("GOOD")

    play(scene)


def test_a_worker_that_dies_is_started_again_and_asked_again(log):
    async def scene(lane: LocalLane) -> None:
        reply = await lane.complete(ask("die once"), WEIGHTS)
        assert reply.text.startswith("DIE ONCE")

    play(scene)
    assert log.read_text().count("started") == 2


def test_companions_of_a_request_that_kills_the_worker_are_answered(log):
    async def scene(lane: LocalLane) -> None:
        replies = await asyncio.gather(
            *(lane.complete(ask(p), WEIGHTS) for p in ("later", "die once", "later too"))
        )
        assert [reply.text[:5] for reply in replies] == ["LATER", "DIE O", "LATER"]

    play(scene)


def test_two_deaths_are_an_error_that_shows_why(log):
    async def scene(lane: LocalLane) -> None:
        with pytest.raises(CharForgeError) as caught:
            await lane.complete(ask("die"), WEIGHTS)
        assert (
            caught.value.message
            == "the process that runs local models exited with status 7:\nsomething broke"
        )
        assert (await lane.complete(ask("next"), WEIGHTS)).text.startswith("NEXT")

    play(scene)


def test_a_cancelled_caller_takes_its_request_back(log):
    async def scene(lane: LocalLane) -> None:
        task = asyncio.create_task(lane.complete(ask("never"), WEIGHTS))
        await noted(log, "never")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await noted(log, "cancel")
        assert (await lane.complete(ask("next"), WEIGHTS)).text.startswith("NEXT")

    play(scene)
    assert log.read_text().count("started") == 1


def test_release_waits_for_replies_and_the_next_request_starts_anew(log):
    async def scene(lane: LocalLane) -> None:
        task = asyncio.create_task(lane.complete(ask("later"), WEIGHTS))
        await noted(log, "later")
        await lane.release()
        assert task.done()
        await lane.release()
        assert (await lane.complete(ask("next"), WEIGHTS)).text.startswith("NEXT")

    play(scene)
    assert log.read_text().count("started") == 2


def test_closing_fails_what_is_under_way(log):
    async def scene(lane: LocalLane) -> None:
        task = asyncio.create_task(lane.complete(ask("never"), WEIGHTS))
        await noted(log, "never")
        await lane.close()
        with pytest.raises(CharForgeError) as caught:
            await task
        assert caught.value.message == "local models were stopped"

    play(scene)
    assert log.read_text().count("started") == 1


def test_the_parent_imports_nothing_heavy():
    code = "import sys, charforge.llm.local; print({'torch', 'transformers', 'numpy', 'litellm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WeightsRef("embedded", "m"), {"kind": "embedded", "name": "m"}),
        (WeightsRef("folder", "/w"), {"kind": "folder", "path": "/w"}),
        (WeightsRef("adapter", "/a", base="/w"), {"kind": "adapter", "path": "/a", "base": "/w"}),
    ],
)
def test_a_worker_is_told_where_weights_lie(log, weights, message):
    async def scene(lane):
        reply = await lane.complete(ask("a"), weights)
        assert json.loads(reply.text.removeprefix("A")) == message

    play(scene)
