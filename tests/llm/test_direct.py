"""The direct lane, against a real server on this machine that answers well and badly."""

import asyncio
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from email.utils import formatdate

import pytest

from charforge.errors import CharForgeError
from charforge.llm import direct
from charforge.llm.direct import DirectLane
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import BadRequest, EndpointError, WrongKey
from charforge.llm.flow import Answer, Failure, Limits
from charforge.llm.request import Reply, Request

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}}


def request(**changed):
    fields = {
        "model": "openai/some-model",
        "messages": (("system", "Be brief."), ("user", "Who are you?")),
        "max_tokens": 9,
        "temperature": 0.5,
    }
    return Request(**{**fields, **changed})


def lane_to(url, **settings):
    fields = {
        "name": "openai",
        "provider": "openai",
        "lane": "direct",
        "api_base": url,
        "key": "OPENAI_API_KEY",
        "timeout": 5.0,
    }
    return DirectLane(Endpoint(**{**fields, **settings}))


def ask(provider, *requests, **settings):
    """Return the answers to requests that are sent one after another through one lane."""

    async def go():
        lane = lane_to(getattr(provider, "url", provider), **settings)
        try:
            return [await lane.send(each, lane.body(each)) for each in requests or (request(),)]
        finally:
            await lane.close()

    return asyncio.run(go())


def failure(provider, **settings):
    with pytest.raises(Failure) as caught:
        ask(provider, **settings)
    return caught.value


def final(provider, kind, **settings):
    with pytest.raises(kind) as caught:
        ask(provider, **settings)
    assert type(caught.value) is kind
    return caught.value


# --- What is sent -------------------------------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_is_and_its_reply_comes_back(provider):
    provider.answers(provider.chat("I am Ludwig."))
    assert ask(provider) == [
        Answer(Reply(text="I am Ludwig.", finish_reason="stop", prompt_tokens=7, completion_tokens=3))
    ]
    (asked,) = provider.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {provider.key}"
    assert asked.body == {
        "model": "some-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who are you?"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
    }


def test_what_is_set_is_sent_too(provider):
    provider.answers(provider.chat("7"))
    ask(provider, request(top_p=0.9, stop=("\n",), seed=3, schema=SCHEMA))
    body = provider.asked[0].body
    assert (body["top_p"], body["stop"], body["seed"]) == (0.9, ["\n"], 3)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }


def test_text_of_any_script_arrives_as_it_was(provider):
    provider.answers(lambda asked: provider.chat(asked.body["messages"][0]["content"]))
    text = 'Größe "μ" 🎹\n\u2028\\'
    assert ask(provider, request(messages=(("user", text),)))[0].reply.text == text


@pytest.mark.parametrize(
    ("provider_name", "model", "sent"),
    [
        ("openrouter", "openrouter/openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("hosted_vllm", "hosted_vllm/meta-llama/Llama-3", "meta-llama/Llama-3"),
        ("fireworks_ai", "fireworks_ai/llama-v3", "accounts/fireworks/models/llama-v3"),
        ("fireworks_ai", "fireworks_ai/accounts/me/models/x", "accounts/me/models/x"),
    ],
)
def test_models_go_by_the_names_their_providers_know(provider_name, model, sent):
    lane = lane_to("http://127.0.0.1:9/v1", provider=provider_name)
    assert json.loads(lane.body(request(model=model)))["model"] == sent


def test_mistral_has_another_word_for_seed():
    body = json.loads(
        lane_to("http://127.0.0.1:9/v1", provider="mistral").body(request(model="mistral/x", seed=1))
    )
    assert body["random_seed"] == 1
    assert "seed" not in body


def test_without_a_key_none_is_sent(provider):
    provider.answers(provider.chat())
    ask(provider, key=None)
    assert "authorization" not in provider.asked[0].headers


def test_a_key_that_is_needed_is_missed_before_anything_is_sent(provider, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(WrongKey) as caught:
        lane_to(provider.url, key_needed=True).ready()
    assert caught.value.render() == (
        "error: openai: no key: OPENAI_API_KEY is not set\n"
        "hint: set OPENAI_API_KEY in the environment; finished work is kept"
    )


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(provider, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "planted\nkey-Zq9-WvXu")
    error = final(provider, WrongKey)
    assert error.render() == (
        "error: openai: the value of OPENAI_API_KEY holds characters that no key has\n"
        "hint: set OPENAI_API_KEY again, on one line"
    )


def test_connections_are_used_again(provider):
    ports = set()
    provider.answers(provider.chat())
    real = provider.process_request

    def process(sock, address):
        ports.add(address)
        real(sock, address)

    provider.process_request = process
    ask(provider, *[request()] * 5)
    assert len(ports) == 1


def test_a_redirect_is_not_followed_with_the_key(provider):
    provider.answers(provider.said(307, {}, {"Location": f"{provider.url}/elsewhere"}))
    error = final(provider, BadRequest)
    assert len(provider.asked) == 1
    assert (
        f"the provider refused the request (307): it answers 307 and points to {provider.url}/elsewhere"
        in (error.message)
    )
    assert (
        error.hint == "api_base has to be the URL that is meant in the end: no key is sent after a redirect"
    )


# --- What is said in another way ------------------------------------------------------------------------------------------


def test_a_model_that_wants_max_completion_tokens_gets_them_from_then_on(provider):
    def answer(asked):
        if "max_tokens" in asked.body:
            return provider.error(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "unsupported_parameter",
            )
        return provider.chat()

    provider.answers(answer)
    answers = ask(provider, request(), request())
    assert [each.reply.text for each in answers] == ["I am Ludwig."] * 2
    assert [asked.body.get("max_completion_tokens") for asked in provider.asked] == [None, 9, 9]


def test_a_model_that_takes_no_schema_is_asked_without_one_from_then_on(provider):
    provider.answers(
        provider.error(400, "This response_format type is unavailable now"), provider.chat('{"score": 1}')
    )
    answers = ask(provider, *[request(schema=SCHEMA)] * 2, request())
    assert [each.reply.facts for each in answers] == [{"schema": "asked"}, {"schema": "asked"}, {}]
    assert ["response_format" in asked.body for asked in provider.asked] == [True, False, False, False]


def test_a_schema_that_was_sent_is_enforced(provider):
    provider.answers(provider.chat('{"score": 1}'))
    assert ask(provider, request(schema=SCHEMA))[0].reply.facts == {"schema": "enforced"}


def test_endpoints_that_take_no_schema_can_be_told_so(provider):
    provider.answers(provider.chat('{"score": 1}'))
    assert ask(provider, request(schema=SCHEMA), schema=False)[0].reply.facts == {"schema": "asked"}
    assert "response_format" not in provider.asked[0].body


def test_a_schema_that_must_be_sent_is_never_left_out(provider):
    provider.answers(provider.error(400, "response_format is not supported"))
    with pytest.raises(BadRequest):
        ask(provider, request(schema=SCHEMA), schema=True)
    assert len(provider.asked) == 1


# --- How answers end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("content_filter", "filtered"),
    ],
)
def test_ends_are_told_apart(provider, finish, reason):
    provider.answers(provider.chat("I", finish))
    assert ask(provider)[0].reply.finish_reason == reason


@pytest.mark.parametrize(
    ("finish", "text"),
    [
        ("tool_calls", "the answer ends with 'tool_calls'"),
        ("banana", "the answer ends with 'banana'"),
        (None, "the answer does not say how it ended"),
        (7, "the answer does not say how it ended"),
    ],
)
def test_what_is_no_known_end_is_no_answer(provider, finish, text):
    provider.answers(provider.chat("I am", finish))
    found = failure(provider)
    assert (found.kind, found.text, found.billed) == ("malformed", text, True)


def test_a_refusal_by_the_model_is_filtered_and_says_what_it_said(provider):
    provider.answers(provider.chat(None, refusal="I cannot help with that."))
    reply = ask(provider)[0].reply
    assert (reply.text, reply.finish_reason) == ("I cannot help with that.", "filtered")


def test_no_text_is_an_empty_reply(provider):
    provider.answers(provider.chat(None))
    assert ask(provider)[0].reply.text == ""


def test_text_in_parts_is_put_together_without_the_thoughts(provider):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "I am "},
        {"type": "text", "text": "Ludwig."},
    ]
    provider.answers(provider.chat(parts))
    assert ask(provider)[0].reply.text == "I am Ludwig."


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None)),
        ("many", (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, (None, 3)),
        ({"prompt_tokens": True, "completion_tokens": 3.5}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": 3}, (None, 3)),
        # Thoughts that were charged for and left out of the completion.
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 110}, (7, 103)),
    ],
)
def test_counts_are_believed_where_they_are_counts(provider, usage, counts):
    said = provider.chat()
    said.body["usage"] = usage
    provider.answers(said)
    reply = ask(provider)[0].reply
    assert (reply.prompt_tokens, reply.completion_tokens) == counts


# --- What is no answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the answer is not JSON: "),
        (b"I am sorry.", "the answer is not JSON: I am sorry."),
        (b'{"choices": [{"message": {"content": "\xff\xfe"}}]}', "the answer is not UTF-8"),
        (b"[]", "the answer is not an object"),
        (b'{"choices": []}', "the answer has no choices in it"),
        (b'{"choices": {"0": 1}}', "the answer has no choices in it"),
        (b'{"choices": [7]}', "the answer has no choices in it"),
        (b'{"choices": [{"message": null}]}', "the answer has no message in it"),
        (b'{"choices": [{"message": {"content": 7}}]}', "the answer's message is not text"),
        (b'{"choices": [{"message": {"content": [7]}}]}', "the answer's message is not text"),
        (
            b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
            "the answer's text has half characters in it (surrogates)",
        ),
        (b"[" * 200_000, "the answer is JSON of absurd depth"),
        (b"1" * 5000, "the answer is not JSON: " + "1" * 79 + "…"),
        (b"x" * 2_000_000, "the answer is longer than 1,049,152 bytes"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_no_answer_is_said_shortly(provider, body, text):
    provider.answers(provider.said(body=body))
    found = failure(provider)
    assert (found.kind, found.text, found.billed) == ("malformed", text, True)


def test_a_byte_order_mark_is_no_json(provider):
    provider.answers(provider.said(body=b"\xef\xbb\xbf{}"))
    assert failure(provider).kind == "malformed"


def test_an_endless_answer_is_left_after_a_megabyte(provider):
    provider.answers(provider.said(body=b"x" * 10_000, endless=True))
    began = time.monotonic()
    tracemalloc.start()
    found = failure(provider)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.text == "the answer is longer than 1,049,152 bytes"
    assert peak < 8_000_000
    assert time.monotonic() - began < 5


def test_a_hundred_megabytes_are_refused_at_their_announcement(provider):
    provider.answers(provider.said(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000))
    assert failure(provider).text == "the answer is longer than 1,049,152 bytes"


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_what_comes_packed_is_unpacked(provider, packing):
    pack = gzip.compress if packing == "gzip" else zlib.compress
    provider.answers(
        provider.said(
            body=pack(json.dumps(provider.chat().body).encode()), headers={"Content-Encoding": packing}
        )
    )
    assert ask(provider)[0].reply.text == "I am Ludwig."


def test_a_packed_bomb_does_not_go_off(provider):
    bomb = gzip.compress(b"x" * 300_000_000, 1)
    provider.answers(provider.said(body=bomb, headers={"Content-Encoding": "gzip"}))
    del bomb
    tracemalloc.start()
    found = failure(provider)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.text == "the answer is longer than 1,049,152 bytes"
    assert peak < 16_000_000


@pytest.mark.parametrize(
    ("packing", "text"),
    [
        ("gzip", "the answer's compression is broken"),
        ("br", "the answer is packed with br, which was not asked for"),
    ],
)
def test_what_cannot_be_unpacked_is_no_answer(provider, packing, text):
    provider.answers(provider.said(body=b"nonsense", headers={"Content-Encoding": packing}))
    assert failure(provider).text == text


def test_what_is_no_http_is_no_answer(provider):
    provider.answers(provider.said(raw=b"SSH-2.0-OpenSSH_9.6\r\n"))
    found = failure(provider)
    assert (found.kind, found.billed) == ("malformed", True)
    assert found.text.startswith("no HTTP: ")


# --- The connection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"hang_up": True}, {"body": {"a": "b" * 1000}, "cut": 10}])
def test_a_connection_that_breaks_may_be_billed(provider, how):
    provider.answers(provider.said(**how))
    found = failure(provider)
    assert (found.kind, found.billed) == ("network", True)
    assert found.text.startswith("the connection broke: ")


def test_no_server_is_not_billed(provider):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = failure(url)
    assert (found.kind, found.billed) == ("network", False)
    assert found.text.startswith("no connection: ")


def test_a_stall_is_a_timeout_that_may_be_billed(provider):
    provider.answers(provider.said(stall=1.0, body={}))
    found = failure(provider, timeout=0.1)
    assert (found.kind, found.text, found.billed) == ("timeout", "no answer within 0.1 s", True)


def test_a_drip_is_a_timeout_too(provider):
    provider.answers(provider.said(body=b" ", endless=True, pause=0.05))
    assert failure(provider, timeout=0.3).text == "no answer within 0.3 s"


def test_closing_leaves_nothing_open(provider):
    async def go():
        lane = lane_to(provider.url)
        await lane.send(request(), lane.body(request()))
        await lane.close()
        await lane.close()

    provider.answers(provider.chat())
    asyncio.run(go())  # a warning would be an error here


def test_a_lane_can_be_used_in_another_event_loop(provider):
    provider.answers(provider.chat())
    lane = lane_to(provider.url)

    async def go():
        answer = await lane.send(request(), lane.body(request()))
        await lane.close()
        return answer.reply.text

    assert [asyncio.run(go()) for _ in range(2)] == ["I am Ludwig."] * 2


# --- Errors ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "kind", "billed"),
    [
        (429, "slow down", "overload", False),
        (503, "busy", "overload", False),
        (529, "overloaded", "overload", False),
        (500, "the server is busy", "overload", False),
        (500, "oops", "server", False),
        (502, "bad gateway", "server", False),
        (504, "gateway timeout", "server", True),
        (520, "unknown", "server", False),
        (524, "a timeout occurred", "server", True),
        (408, "request timeout", "timeout", False),
        (409, "conflict", "server", False),
    ],
)
def test_what_may_pass_is_worth_another_attempt(provider, status, message, kind, billed):
    provider.answers(provider.error(status, message))
    found = failure(provider)
    assert (found.kind, found.text, found.billed) == (kind, f"{status}: {message}", billed)


def test_the_wait_and_the_limits_come_with_an_overload(provider):
    headers = {
        "Retry-After": "7",
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6ms",
    }
    provider.answers(provider.error(429, "slow down", headers=headers))
    found = failure(provider)
    assert found.retry_after == 7
    assert found.limits == Limits(
        requests_per_minute=600,
        requests_left=0,
        requests_reset_s=60,
        tokens_per_minute=150000,
        tokens_left=149984,
        tokens_reset_s=0.006,
    )


def test_limits_come_with_answers_too(provider):
    provider.answers(provider.chat(headers={"x-ratelimit-remaining-requests": "5"}))
    assert ask(provider)[0].limits == Limits(requests_left=5)


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "Incorrect API key provided: {key}", "invalid_api_key"),
        (403, "Permission denied for {key}", None),
        (400, "API key not valid. Please pass a valid API key. {key}", 400),
    ],
)
def test_a_wrong_key_names_the_variable_and_never_the_key(provider, status, message, code):
    provider.answers(provider.error(status, message.format(key=provider.key), code))
    error = final(provider, WrongKey)
    assert error.message == (
        "openai/some-model: the provider refused the key, or there is none: " + message.format(key="[key]")
    )
    assert error.hint == "set OPENAI_API_KEY in the environment"


def test_a_key_that_may_not_use_a_model_is_no_wrong_key(provider):
    provider.answers(provider.error(403, "Project does not have access to model `x`", "model_not_found"))
    assert final(provider, BadRequest).hint == "the key may not be allowed to use this model"


def test_where_no_key_is_known_the_file_is_the_place_to_name_one(provider):
    provider.answers(provider.error(401, "No key"))
    error = final(provider, WrongKey, name="lab", key=None)
    assert error.hint == 'name the variable that holds its key in endpoints.toml: ["lab"] key = "…"'


@pytest.mark.parametrize(
    ("status", "code"), [(429, "insufficient_quota"), (402, None), (400, "billing_hard_limit_reached")]
)
def test_an_empty_account_ends_the_endpoint(provider, status, code):
    provider.answers(provider.error(status, "You exceeded your quota.", code))
    error = final(provider, EndpointError)
    assert error.render() == (
        "error: openai: the account has no credit left: You exceeded your quota.\n"
        "hint: add credit with the provider, then rerun; finished work is kept"
    )


def test_a_quota_that_is_a_minutes_is_an_overload(provider):
    provider.answers(
        provider.error(429, "You exceeded your current quota, please retry in 12 s.", "RESOURCE_EXHAUSTED")
    )
    assert failure(provider).kind == "overload"


def test_a_bad_request_shows_itself(provider):
    provider.answers(provider.error(400, "max_tokens is too large"))
    with pytest.raises(BadRequest) as caught:
        ask(provider, request(top_p=0.9, messages=(("user", "word " * 100),)))
    assert caught.value.message == (
        "openai/some-model: the provider refused the request (400): max_tokens is too large; it was: max_tokens 9, "
        "temperature 0.5, top_p 0.9, “" + ("word " * 40)[:199] + "…”"
    )


def test_an_unknown_model_says_what_to_check(provider):
    provider.answers(provider.error(404, "The model does not exist"))
    error = final(provider, BadRequest)
    assert error.hint == f"check the model's name, and the endpoint's URL: {provider.url}"


@pytest.mark.parametrize(
    "answer",
    [
        (400, "The response was filtered.", "content_filter", {}),
        (400, "Your request was rejected as a result of our safety system.", None, {}),
        (400, "No.", None, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}),
        (403, "Input was flagged.", 403, {}),
    ],
)
def test_a_request_that_a_filter_refuses_is_a_reply(provider, answer):
    status, message, code, more = answer
    provider.answers(provider.error(status, message, code, **more))
    assert ask(provider)[0].reply == Reply(
        text=message, finish_reason="filtered", facts={"refused": "request"}
    )


def test_an_error_that_comes_with_status_200_is_an_error(provider):
    provider.answers(provider.said(body={"error": {"message": "Provider returned error", "code": 502}}))
    assert failure(provider).text == "502: Provider returned error"
    provider.answers(provider.said(body={"error": {"message": "The model is busy."}}))
    assert failure(provider).text == "500: The model is busy."
    provider.answers(provider.said(body={"error": {"message": "No such model", "code": 404}}))
    assert final(provider, BadRequest).message.startswith(
        "openai/some-model: the provider refused the request (404): No such model"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><style>x{}</style><h1>502 Bad\nGateway</h1></html>", "502 Bad Gateway"),
        (b"", "no reason given"),
        (b"\x00\x1b[31mred\xff", "\\x00\\x1b[31mred\ufffd"),
        (b'{"detail": [{"loc": ["body"], "msg": "wrong"}]}', '[{"loc": ["body"], "msg": "wrong"}]'),
        (b'{"message": "plain"}', "plain"),
        (b'{"error": "plain"}', "plain"),
        (b'[{"error": {"message": "in a list"}}]', "in a list"),
        (b"w " * 200_000, ("w " * 150)[:299] + "…"),
    ],
)
def test_the_words_of_an_error_are_found_and_made_harmless(provider, body, words):
    provider.answers(provider.said(502, body))
    assert failure(provider).text == f"502: {words}"


def test_a_key_that_is_cut_in_two_does_not_slip_through(provider):
    for cut in range(1, len(provider.key)):
        body = b" " * (64 * 1024 - cut) + provider.key.encode() + b" " * 100_000
        provider.answers(provider.said(500, body))
        assert failure(provider).text == "500: no reason given"


def test_a_key_in_an_answer_is_struck_out(provider):
    provider.answers(provider.chat(f"Your key is {provider.key}, is it not?"))
    reply = ask(provider)[0].reply
    assert (reply.text, reply.facts) == ("Your key is [key], is it not?", {"struck": True})


# --- The proxy -------------------------------------------------------------------------------------------------------------


def test_a_proxy_that_the_environment_names_is_used_with_its_password(provider, monkeypatch):
    provider.answers(provider.chat())
    monkeypatch.setenv("http_proxy", f"http://me:planted%21pass@127.0.0.1:{provider.server_port}")
    assert ask("http://models.example/v1")[0].reply.text == "I am Ludwig."
    assert provider.asked[0].path == "http://models.example/v1/chat/completions"
    assert provider.asked[0].headers["proxy-authorization"] == "Basic bWU6cGxhbnRlZCFwYXNz"


def test_this_machine_is_reached_without_the_proxy(provider, monkeypatch):
    provider.answers(provider.chat())
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(provider)[0].reply.text == "I am Ludwig."


def test_a_proxy_that_speaks_no_http_is_said(monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(CharForgeError) as caught:
        ask("https://models.example/v1")
    assert caught.value.message == "the proxy in https_proxy is none that speaks HTTP"


def test_a_connection_is_given_up_long_before_an_answer_would_be():
    assert Endpoint(name="x", provider="x", lane="direct").timeout > direct._CONNECT_S


def test_retry_after_may_be_a_date(provider):
    provider.answers(
        provider.error(429, "later", headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    )
    assert 25 < failure(provider).retry_after <= 31
