"""The lane to providers with protocols of their own, through the real litellm, against a local stand-in."""

import asyncio

import pytest

from charforge.errors import CharForgeError
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import BadRequest, EndpointError, WrongKey
from charforge.llm.flow import Answer, Failure
from charforge.llm.litellm_lane import LitellmLane
from charforge.llm.request import Reply, Request

REQUEST = Request(
    model="openai/some-model", messages=(("user", "Who are you?"),), max_tokens=9, temperature=0.5
)


def ask(request=REQUEST, *, times=1, **settings):
    """Return the last of `times` answers, each to one attempt."""

    async def go():
        lane = LitellmLane(Endpoint(name="openai", provider="openai", lane="litellm", **settings))
        try:
            for _ in range(times):
                answer = await lane.send(request, lane.body(request))
        finally:
            await lane.close()
        return answer

    return asyncio.run(go())


def failure(**settings):
    with pytest.raises(Failure) as caught:
        ask(**settings)
    return caught.value


def test_a_reply_comes_back_with_its_counts(provider):
    provider.answers(provider.chat("I am Ludwig."))
    assert ask() == Answer(
        Reply(text="I am Ludwig.", finish_reason="stop", prompt_tokens=7, completion_tokens=3), None
    )
    asked = provider.asked[0]
    assert asked.headers["authorization"] == f"Bearer {provider.key}"
    assert asked.body["messages"] == [{"role": "user", "content": "Who are you?"}]
    assert (asked.body["max_tokens"], asked.body["temperature"]) == (9, 0.5)
    assert not {"top_p", "stop", "seed", "response_format"} & set(asked.body)


def test_url_and_key_of_the_endpoint_come_before_the_environments(provider, monkeypatch):
    provider.answers(provider.chat("Yes."))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OTHER", "another-planted-key")
    ask(api_base=provider.url, key="OTHER")
    assert provider.asked[0].headers["authorization"] == "Bearer another-planted-key"


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "length"), ("content_filter", "filtered"), ("stop", "stop")]
)
def test_finish_reasons_are_told_apart(provider, finish, reason):
    provider.answers(provider.chat("I", finish))
    assert ask().reply.finish_reason == reason


def test_a_request_that_a_filter_refuses_is_a_reply(provider):
    provider.answers(provider.error(400, "Blocked.", "content_policy_violation"))
    reply = ask().reply
    assert (reply.finish_reason, reply.facts) == ("filtered", {"refused": "request"})
    assert "Blocked." in reply.text


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "overload"), (503, "overload"), (500, "server"), (502, "server")]
)
def test_what_may_pass_is_a_failure(provider, status, kind):
    provider.answers(provider.error(status, "later", headers={"Retry-After": "3"}))
    found = failure()
    assert (found.kind, found.billed) == (kind, False)
    assert found.retry_after == 3
    assert len(provider.asked) == 1


def test_no_key_is_a_wrong_key():
    with pytest.raises(WrongKey) as caught:
        ask(api_base="http://127.0.0.1:9/v1")
    assert caught.value.hint == "set OPENAI_API_KEY in the environment"


def test_no_server_is_a_network_failure_that_nobody_pays_for(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-Zq9")
    found = failure(api_base="http://127.0.0.1:9/v1")
    assert (found.kind, found.billed) == ("network", False)


def test_a_stall_is_a_timeout_that_may_be_billed(provider):
    provider.answers(provider.said(stall=1.0, body={}))
    found = failure(timeout=0.1)
    assert (found.kind, found.billed) == ("timeout", True)


def test_a_wrong_key_is_said_and_never_shown(provider):
    provider.answers(provider.error(401, f"Incorrect API key provided: {provider.key}."))
    with pytest.raises(WrongKey) as caught:
        ask()
    assert caught.value.message.startswith(
        "openai/some-model: the provider refused the key, or there is none: "
    )
    assert caught.value.hint == "set OPENAI_API_KEY in the environment"
    assert provider.key not in caught.value.render()


def test_an_empty_account_is_no_overload(provider):
    provider.answers(provider.error(429, "Your credit balance is too low.", "insufficient_quota"))
    with pytest.raises(EndpointError) as caught:
        ask()
    assert caught.value.message.startswith("openai: the account has no credit left: ")


def test_an_unknown_model_is_a_bad_request(provider):
    provider.answers(provider.error(404, "The model `some-model` does not exist"))
    with pytest.raises(BadRequest) as caught:
        ask()
    assert caught.value.message.startswith("openai/some-model: the provider refused the request (404): ")
    assert caught.value.message.endswith("it was: max_tokens 9, temperature 0.5, “Who are you?”")
    assert caught.value.hint == "check the model's name"


def test_a_model_without_a_provider_says_how_models_are_named():
    with pytest.raises(CharForgeError) as caught:
        ask(Request(model="nonesuch/model", messages=(("user", "x"),), max_tokens=1, temperature=0.0))
    assert caught.value.render() == (
        "error: nonesuch/model: no such model, and no provider in its name\n"
        "hint: models are named provider/model, such as openai/gpt-4o-mini or embedded/smollm2-135m-instruct"
    )


def test_a_model_that_takes_no_schema_is_asked_without_one_from_then_on(provider):
    schema = {"type": "object", "properties": {}}
    request = Request(
        model="openai/some-model", messages=(("user", "x"),), schema=schema, max_tokens=1, temperature=0.0
    )
    provider.answers(provider.error(400, "response_format json_schema is not supported"), provider.chat("{}"))
    assert ask(request, times=2).reply.facts == {"schema": "asked"}
    assert ["response_format" in asked.body for asked in provider.asked] == [True, False, False]
