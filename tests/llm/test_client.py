"""The one way to any model: endpoint, gate, lane and ledger put together."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from charforge.errors import CharForgeError, FileProblems
from charforge.llm.client import Client
from charforge.llm.endpoints import Endpoints
from charforge.llm.errors import BudgetReached, NoAnswer, NotRecorded, RefusesAll, WrongKey
from charforge.llm.litellm_lane import LitellmLane
from charforge.llm.money import Account, Ledger, Price
from charforge.llm.request import Reply, Request
from charforge.workshop import LocalWorkshop


def request(**changed):
    fields = {
        "model": "openai/some-model",
        "messages": (("user", "Who are you?"),),
        "max_tokens": 9,
        "temperature": 0.5,
    }
    return Request(**{**fields, **changed})


def ask(*requests, tables=None, limit=None, client=None, at_once=False):
    """Return what each request came to, a reply or an error, and the client."""
    client = client or Client(endpoints=Endpoints(tables), ledger=Ledger(limit))

    async def one(each):
        try:
            return await client.complete(each, None)
        except CharForgeError as error:
            return error

    async def go():
        try:
            if at_once:
                return await asyncio.gather(*(one(each) for each in requests))
            return [await one(each) for each in requests]
        finally:
            await client.close()

    return asyncio.run(go()), client


PRICED = {"openai": {"price": Price(1.0, 10.0), "deadline": 20.0}}


# --- Replies and what goes with them ---------------------------------------------------------------------------------------


def test_a_reply_comes_with_its_cost_and_endpoint(provider):
    provider.answers(provider.chat("I am Ludwig."))
    replies, client = ask(request(), tables=PRICED)
    assert replies == [
        Reply(
            text="I am Ludwig.",
            finish_reason="stop",
            prompt_tokens=7,
            completion_tokens=3,
            facts={"endpoint": "openai", "cost": 0.000037},
        )
    ]
    assert client.ledger.accounts == {
        "openai/some-model": Account(calls=1, prompt_tokens=7, completion_tokens=3, cost=0.000037)
    }
    assert client.stats()["openai"]["answers"] == 1


def test_a_cost_that_nobody_knows_is_unknown(provider):
    provider.answers(provider.chat())
    assert ask(request())[0][0].facts == {"endpoint": "openai", "cost": None}


def test_failed_attempts_are_counted_and_what_they_lost(provider):
    provider.answers(provider.error(503, "busy"), provider.said(hang_up=True), provider.chat(usage=(10, 2)))
    (reply,), client = ask(request(), tables=PRICED)
    body = len(provider.asked[0].body["messages"][0]["content"])
    assert reply.facts["attempts"] == 3
    # At worst: each byte sent a token, and all of max_tokens.
    assert 1e-6 * body + 10e-6 * 9 < reply.facts["lost"] < 0.001
    assert client.ledger.accounts["openai/some-model"].lost == reply.facts["lost"]
    assert client.ledger.spent == pytest.approx(reply.facts["lost"] + reply.facts["cost"])


def test_answers_that_are_none_again_and_again_are_a_reply_that_says_so(provider):
    provider.answers(provider.said(body=b"I am sorry."))
    (reply,), client = ask(request(), tables=PRICED)
    assert (reply.text, reply.finish_reason) == ("the answer is not JSON: I am sorry.", "malformed")
    assert reply.facts["attempts"] == len(provider.asked) == 3
    assert reply.facts["cost"] == 0
    assert client.ledger.spent == pytest.approx(reply.facts["lost"])
    assert client.ledger.spent > 0


def test_a_filtered_request_costs_nothing(provider):
    provider.answers(provider.error(400, "Filtered.", "content_filter"))
    (reply,), client = ask(request(), tables=PRICED)
    assert reply == Reply(
        text="Filtered.",
        finish_reason="filtered",
        facts={"endpoint": "openai", "cost": 0.0, "refused": "request"},
    )
    assert client.ledger.spent == 0


def test_the_schema_that_was_asked_for_is_named(provider):
    provider.answers(provider.chat("{}"))
    (reply,), _ = ask(request(schema={"type": "object"}))
    assert reply.facts["schema"] == "enforced"


# --- Errors -----------------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_ends_all_calls_to_that_endpoint(provider):
    provider.answers(provider.error(401, "no"))
    errors, _ = ask(*(request(draw=n) for n in range(50)), at_once=True)
    assert {type(error) for error in errors} == {WrongKey}
    assert len(provider.asked) <= 16


def test_requests_that_are_all_bad_end_the_endpoint(provider):
    provider.answers(provider.error(400, "max_tokens is too large"))
    errors, _ = ask(*(request(draw=n) for n in range(20)))
    assert type(errors[-1]) is RefusesAll
    assert len(provider.asked) == 16


def test_a_call_ends_at_its_deadline(provider):
    provider.answers(provider.error(500, "oops"))
    (error,), client = ask(request(), tables={"openai": {"deadline": 0.2}})
    assert type(error) is NoAnswer
    assert client.ledger.spent == 0


def test_a_key_that_is_missing_is_said_before_anything_is_sent(provider, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_BASE")
    with pytest.raises(WrongKey) as caught:
        Client(endpoints=Endpoints()).ready(["embedded/smollm2-135m-instruct", "openai/some-model"])
    assert caught.value.message == "openai: no key: OPENAI_API_KEY is not set"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"messages": None, "prompt": "Once"},
            "openai/some-model: a remote model takes messages, not raw text",
        ),
        ({"repetition_penalty": 1.1}, "openai/some-model: remote models take no repetition penalty"),
    ],
)
def test_what_only_local_models_can_do_is_refused(changed, message):
    (error,), _ = ask(request(**changed))
    assert error.message == message


def test_offline_refuses_before_anything_is_looked_at(provider, monkeypatch):
    Path("broken.toml").write_text("[")
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", "broken.toml")
    client = Client(offline=True)
    client.ready(["openai/some-model"])
    assert client.lane("openai/some-model") == "openai"
    (error,), _ = ask(request(), client=client)
    assert type(error) is NotRecorded
    assert error.request == request()
    assert error.render() == (
        "error: openai/some-model is served over the network, and this build is --offline\n"
        "hint: drop --offline, or name a local model such as embedded/smollm2-135m-instruct"
    )
    assert provider.asked == []


# --- The limit ---------------------------------------------------------------------------------------------------------------------


def test_a_build_stops_before_the_call_that_could_exceed_its_limit(provider):
    provider.answers(provider.chat(usage=(100, 9)))
    results, client = ask(*(request(draw=n) for n in range(200)), tables=PRICED, limit=0.005, at_once=True)
    replies = [each for each in results if isinstance(each, Reply)]
    stopped = [each for each in results if isinstance(each, BudgetReached)]
    assert len(replies) + len(stopped) == 200
    assert len(replies) == len(provider.asked)
    assert client.ledger.spent == pytest.approx(0.00019 * len(replies))
    # It stopped for want of a worst case, no earlier.
    worst = 1e-6 * 400 + 10e-6 * 9
    assert 0.005 - worst <= client.ledger.spent <= 0.005


def test_a_limit_without_a_price_is_refused_before_anything_is_sent(provider):
    (error,), _ = ask(request(), limit=5.0)
    assert error.message == "openai/some-model: nobody knows its price, so --max-cost cannot be kept"
    assert provider.asked == []


# --- Endpoints ---------------------------------------------------------------------------------------------------------------------


def test_models_of_one_endpoint_share_a_gate(provider):
    provider.answers(provider.chat())
    tables = {"openai/b": {"price": Price(1, 1)}, "openai/c": {"concurrency": 2}}
    _, client = ask(*(request(model=f"openai/{name}") for name in "abc"), tables=tables)
    assert {name: stats["answers"] for name, stats in client.stats().items()} == {"openai": 2, "openai/c": 1}
    assert [client.lane(f"openai/{name}") for name in "abc"] == ["openai", "openai", "openai/c"]


def test_local_models_have_a_lane_of_their_own():
    client = Client()
    assert client.lane("embedded/smollm2-135m-instruct") == client.lane("local/trained") == "local"


def test_a_lane_has_a_name_even_where_no_call_can_succeed(monkeypatch):
    monkeypatch.delenv("HOSTED_VLLM_API_BASE", raising=False)
    assert Client(endpoints=Endpoints()).lane("hosted_vllm/x") == "hosted_vllm"
    Path("broken.toml").write_text("[")
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", "broken.toml")
    assert Client().lane("openai/x") == "openai"
    with pytest.raises(FileProblems):
        Client().ready(["openai/x"])


def test_prices_are_told():
    client = Client(endpoints=Endpoints({"openai/x": {"price": Price(1, 2)}}))
    assert client.price("openai/x") == Price(1, 2)
    assert client.price("openai/y") is None
    assert client.price("local/trained") == Price(0, 0)


def test_other_providers_go_through_litellm(provider, monkeypatch):
    sent = []

    async def send(self, request, body):
        from charforge.llm.flow import Answer

        sent.append(request.model)
        return Answer(Reply(text="Yes.", finish_reason="stop"))

    monkeypatch.setattr(LitellmLane, "send", send)
    replies, _ = ask(request(model="anthropic/claude"), request(), tables={"openai": {"lane": "litellm"}})
    assert sent == ["anthropic/claude", "openai/some-model"]
    assert [reply.facts["endpoint"] for reply in replies] == ["anthropic", "openai"]
    assert provider.asked == []


def test_the_workshop_passes_all_of_it_on(provider):
    provider.answers(provider.chat())

    async def go():
        workshop = LocalWorkshop(max_cost=1.0)
        try:
            with pytest.raises(CharForgeError):
                workshop.ready(["openai/some-model"])
            assert workshop.lane("openai/some-model") == "openai"
            assert workshop.ledger.limit == 1.0
            assert workshop.price("openai/some-model") is None
        finally:
            await workshop.close()
        assert LocalWorkshop().ledger.limit is None

    asyncio.run(go())


def test_nothing_of_it_is_loaded_before_it_is_needed():
    code = (
        "import sys\nfrom charforge.workshop import LocalWorkshop\nworkshop = LocalWorkshop()\n"
        "assert workshop.lane('local/x') == 'local'\n"
        "print(sorted({'aiohttp', 'litellm', 'tomllib', 'platformdirs', 'yarl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_direct_lane_never_loads_litellm(provider):
    provider.answers(provider.chat())
    code = (
        "import asyncio, sys\nfrom charforge.llm.client import Client\nfrom charforge.llm.request import Request\n"
        "async def go():\n"
        "    client = Client()\n"
        "    request = Request(model='openai/gpt-4o-mini', messages=(('user', 'x'),), max_tokens=1, temperature=0.0)\n"
        "    print((await client.complete(request, None)).text)\n"
        "    await client.close()\n"
        "asyncio.run(go())\nprint('litellm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("I am Ludwig.\nFalse\n", "")
