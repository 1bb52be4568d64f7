"""What makes a call the same call."""

from dataclasses import fields, replace

import pytest

from charforge.engine.digest import Action
from charforge.llm.request import Request

# Every field of a request changes the reply, so every field is in the digest. What is transport (key, URL, retries,
# concurrency, timeouts, where weights lie) is no field. A new field goes here, with another value to tell it by.
CONTENT = {
    "model": "openai/other",
    "weights": "0" * 64,
    "messages": (("user", "Who are you?"),),
    "prompt": None,
    "schema": {"type": "object"},
    "max_tokens": 65,
    "temperature": 0.8,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "stop": ("\n",),
    "seed": 1,
    "draw": 1,
}

REQUEST = Request(model="openai/model", messages=(("user", "Hello"),), max_tokens=64, temperature=0.7)


def digest(request):
    return Action("call", 1, request.params(), {}).digest


def test_every_field_is_listed_as_content():
    assert {field.name for field in fields(Request)} == set(CONTENT)


def test_params_hold_every_field_with_explicit_nulls():
    assert set(REQUEST.params()) == set(CONTENT)
    assert REQUEST.params()["top_p"] is None


@pytest.mark.parametrize("name", sorted(set(CONTENT) - {"prompt"}))
def test_every_field_participates_in_the_digest(name):
    assert digest(replace(REQUEST, **{name: CONTENT[name]})) != digest(REQUEST)


def test_the_prompt_participates_in_the_digest():
    one = replace(REQUEST, messages=None, prompt="Once")
    assert digest(one) != digest(replace(one, prompt="Twice"))


def test_the_digest_of_a_call_is_fixed():
    assert digest(REQUEST) == "5aa9d12213140a55f445f3c195ea1f52f37c12fc1d8571cda3f1e32ab77a81f9"


def test_a_request_has_messages_or_a_prompt():
    with pytest.raises(ValueError, match="a request has either messages or a prompt"):
        Request(model="m", max_tokens=1, temperature=0.0)
    with pytest.raises(ValueError, match="a request has either messages or a prompt"):
        replace(REQUEST, prompt="both")
