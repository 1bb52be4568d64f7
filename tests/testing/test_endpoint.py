"""The mock endpoint does what it is told, over real sockets; tests of the client rely on it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

from charforge.testing.endpoint import (
    HUGE,
    MALFORMED,
    Endpoint,
    Fates,
    Limit,
    Mock,
    Settings,
    arguments,
    identity,
    parser,
)


def body(text="Hello.", **more):
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **more}


class Caller:
    """One keep-alive connection."""

    def __init__(self, endpoint):
        where = urlsplit(endpoint.url)
        self.connection = http.client.HTTPConnection(where.hostname, where.port, timeout=5)

    def raw(self, data, headers=None):
        self.connection.request("POST", "/v1/chat/completions", data, headers or {})
        response = self.connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()

    def ask(self, text="Hello.", headers=None, **more):
        status, _, data = self.raw(json.dumps(body(text, **more)), headers)
        return status, json.loads(data)

    def text(self, text="Hello.", **more):
        choice = self.ask(text, **more)[1]["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]


@pytest.fixture
def serve():
    open_ = []

    def start(**settings):
        endpoint = Endpoint(Settings(**settings))
        endpoint.__enter__()
        caller = Caller(endpoint)
        open_.append((endpoint, caller))
        return endpoint, caller

    yield start
    for endpoint, caller in open_:
        caller.connection.close()
        endpoint.__exit__()


def test_an_answer_has_text_usage_and_is_counted(serve):
    endpoint, caller = serve()
    status, answer = caller.ask("Hello.", max_tokens=50)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    stats = endpoint.stats(digests=True)
    assert (stats["requests"], stats["answered"], stats["good"]) == (1, {"200": 1}, 1)
    assert stats["tokens"] == {"completion": 4, "prompt": 2}
    assert stats["minutes"] == {"0": {"200": 1}}
    assert stats["digests"] == {identity("scripted", [("user", "Hello.")]).hex(): [1, 1]}


def test_one_connection_serves_many_requests_and_counts_content_answered_twice(serve):
    endpoint, caller = serve()
    for text in ("a", "b", "a"):
        assert caller.ask(text)[0] == 200
    stats = endpoint.stats()
    assert (stats["requests"], stats["distinct"], stats["good_again"], stats["connections"]) == (3, 2, 1, 1)


def test_requests_sent_in_pieces_or_together_are_all_answered(serve):
    endpoint, _ = serve()
    data = json.dumps(body()).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
    with socket.create_connection(urlsplit(endpoint.url).netloc.split(":")) as client:
        for start in range(0, len(request), 40):
            client.sendall(request[start : start + 40])
            time.sleep(0.001)
        client.sendall(request + request)
        got = b""
        while got.count(b"chat.completion") < 3:
            got += client.recv(65536)
    assert endpoint.stats()["good"] == 3


def test_stats_models_and_unknown_paths_over_http(serve):
    _, caller = serve()
    caller.ask()
    caller.connection.request("GET", "/stats?digests=1")
    stats = json.loads(caller.connection.getresponse().read())
    assert stats["requests"] == 1
    assert len(stats["digests"]) == 1
    caller.connection.request("GET", "/v1/models")
    assert json.loads(caller.connection.getresponse().read())["data"][0]["id"] == "scripted"
    caller.connection.request("GET", "/v1/nothing")
    assert caller.connection.getresponse().status == 404


def test_without_digests_nothing_is_remembered_of_contents(serve):
    endpoint, caller = serve(digests=False)
    caller.ask("a")
    caller.ask("a")
    stats = endpoint.stats(digests=True)
    assert (stats["good"], stats["distinct"], stats["digests"]) == (2, 0, {})


# --- Fates -----------------------------------------------------------------------------------------------------------


def test_the_same_content_meets_the_same_fate_in_any_order(serve):
    faults = {"500": 30, "cut-off": 20}

    def fates(texts):
        _, caller = serve(faults=faults, seed=3)
        return {text: (caller.ask(text)[0], caller.ask(text)[0]) for text in texts}

    texts = [f"text {n}" for n in range(40)]
    assert fates(texts) == fates(texts[::-1])


def test_another_seed_gives_other_fates():
    keys = [identity("m", [("user", str(n))]) for n in range(50)]
    one, other = (Fates(Settings(seed=seed, faults={"500": 50})) for seed in (1, 2))
    assert [one.of(key, 0).fault for key in keys] != [other.of(key, 0).fault for key in keys]


def test_shares_are_kept_and_asking_again_may_help_unless_marked():
    keys = [identity("m", [("user", str(n))]) for n in range(2000)]
    fates = Fates(Settings(faults={"500": 5, "filter!": 10}))
    first, second = ([fates.of(key, n).fault for key in keys] for n in (0, 1))
    assert 60 <= first.count("500") <= 140
    assert 140 <= first.count("filter") <= 260
    assert [fault == "filter" for fault in first] == [fault == "filter" for fault in second]
    assert first != second


def test_latencies_are_fixed_spread_or_heavy_tailed():
    keys = [identity("m", [("user", str(n))]) for n in range(2000)]

    def latencies(**settings):
        fates = Fates(Settings(latency=0.5, **settings))
        return sorted(fates.of(key, 0).latency for key in keys)

    assert set(latencies()) == {0.5}
    spread = latencies(spread=0.2)
    assert 0.4 <= spread[0] < 0.42
    assert 0.58 < spread[-1] <= 0.6
    tail = latencies(tail=0.6)
    assert 0.47 < tail[1000] < 0.53
    assert 1.6 < tail[1980] < 2.5


def test_an_answer_comes_after_its_latency(serve):
    endpoint, caller = serve(latency=0.05)
    began = time.monotonic()
    assert caller.ask()[0] == 200
    assert time.monotonic() - began >= 0.05
    assert endpoint.stats()["latency_seconds"] == 0.05


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("400", 400, "invalid_value"),
        ("filter-400", 400, "content_filter"),
        ("401", 401, "invalid_api_key"),
        ("404", 404, "model_not_found"),
        ("429", 429, "rate_limit_exceeded"),
        ("429-quota", 429, "insufficient_quota"),
        ("500", 500, None),
        ("503", 503, None),
        ("529", 529, None),
    ],
)
def test_error_answers(serve, fault, status, code):
    endpoint, caller = serve(faults={fault: 100})
    got, answer = caller.ask()
    assert (got, answer["error"]["code"]) == (status, code)
    assert endpoint.stats()["faults"] == {fault: 1}
    assert endpoint.stats()["answered"] == {str(status): 1}


def test_what_a_429_tells(serve):
    def headers(fault):
        _, caller = serve(faults={fault: 100}, retry_after=2.5)
        found = caller.raw(json.dumps(body()))[1]
        return {name: value for name, value in found.items() if name.startswith(("Retry", "x-"))}

    assert headers("429") == {}
    assert headers("429-after") == {"Retry-After": "2.5"}
    assert headers("429-headers") == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2.5s",
    }


def test_a_disconnect_comes_before_or_within_the_body(serve):
    _, caller = serve(faults={"disconnect": 100})
    with pytest.raises(http.client.RemoteDisconnected):
        caller.ask()
    _, caller = serve(faults={"disconnect-midway": 100})
    with pytest.raises(http.client.IncompleteRead):
        caller.ask()


@pytest.mark.parametrize("fault", ["stall", "stall-midway"])
def test_a_stall_never_ends_and_a_client_that_leaves_is_counted(serve, fault):
    endpoint, caller = serve(faults={fault: 100})
    caller.connection.timeout = 0.1
    with pytest.raises(TimeoutError):
        caller.ask()
    assert endpoint.stats()["in_flight"] == 1
    caller.connection.close()
    while endpoint.stats()["in_flight"]:
        time.sleep(0.01)
    assert endpoint.stats()["abandoned"] == 1


def test_a_drip_outlives_every_read_timeout(serve):
    endpoint, _ = serve(faults={"drip": 100})
    data = json.dumps(body()).encode()
    with socket.create_connection(urlsplit(endpoint.url).netloc.split(":"), timeout=2) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
        )
        pieces = [client.recv(65536) for _ in range(3)]
    assert pieces[-1] == b" "


def test_cut_off_empty_and_filtered_answers(serve):
    assert serve(faults={"cut-off": 100})[1].text()[1] == "length"
    assert serve(faults={"empty": 100})[1].text() == ("", "stop")
    assert serve(faults={"filter": 100})[1].text() == ("", "content_filter")
    endpoint, caller = serve()
    assert caller.text(max_tokens=1)[1] == "length"
    assert endpoint.stats()["good"] == 0


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_malformed_bodies(serve, name):
    endpoint, caller = serve(faults={name: 100})
    status, _, data = caller.raw(json.dumps(body()))
    assert (status, data) == (200, MALFORMED[name])
    assert endpoint.stats()["good"] == 0


def test_malformed_is_each_of_them(serve):
    _, caller = serve(faults={"malformed": 100})
    seen = {caller.raw(json.dumps(body(str(n))))[2] for n in range(100)}
    assert seen == set(MALFORMED.values())


def test_a_huge_body_is_sent_to_its_end(serve):
    _, caller = serve(faults={"huge": 100})
    caller.connection.request("POST", "/v1/chat/completions", json.dumps(body()))
    response = caller.connection.getresponse()
    size, last = 0, b""
    while piece := response.read(1 << 20):
        size, last = size + len(piece), piece
    assert size == HUGE
    assert last.endswith(b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')


def test_an_endless_body_goes_on_until_the_client_leaves(serve):
    endpoint, caller = serve(faults={"endless": 100})
    caller.connection.request("POST", "/v1/chat/completions", json.dumps(body()))
    response = caller.connection.getresponse()
    assert sum(len(response.read(1 << 16)) for _ in range(100)) == 100 << 16
    response.close()
    caller.connection.close()
    while endpoint.stats()["in_flight"]:
        time.sleep(0.01)


# --- Requests --------------------------------------------------------------------------------------------------------


def test_only_the_configured_key_opens(serve):
    _, caller = serve(key="sk-right")
    assert caller.ask()[0] == 401
    assert caller.ask(headers={"Authorization": "Bearer sk-wrong"})[0] == 401
    assert caller.ask(headers={"Authorization": "Bearer sk-right"})[0] == 200


def test_what_is_no_chat_request_is_a_bad_one(serve):
    _, caller = serve()
    for data in (b"{", b"[]", b'{"model": "m"}', b'{"model": "m", "messages": [{"role": "user"}]}'):
        assert caller.raw(data)[0] == 400


def test_an_endpoint_without_schemas_refuses_them(serve):
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object"}}}
    assert serve(schema=False)[1].ask(response_format=form)[0] == 400
    assert serve()[1].ask(response_format=form)[0] == 200


def test_settings_can_change_while_it_runs(serve):
    endpoint, caller = serve(faults={"500": 100})
    assert caller.ask()[0] == 500
    endpoint.change(faults={})
    assert caller.ask()[0] == 200


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_too_many_requests_at_once_get_a_429_that_tells_nothing(serve):
    endpoint, caller = serve(concurrency=1, latency=0.2)
    caller.connection.request("POST", "/v1/chat/completions", json.dumps(body()))
    while not endpoint.stats()["in_flight"]:
        time.sleep(0.01)
    other = Caller(endpoint)
    status, headers, _ = other.raw(json.dumps(body()))
    other.connection.close()
    assert (status, "Retry-After" in headers) == (429, False)
    assert caller.connection.getresponse().status == 200
    assert endpoint.stats()["limited"] == {"concurrency": 1}
    assert endpoint.stats()["max_in_flight"] == 1


@pytest.mark.parametrize("says", ["retry-after", "headers", "both", "nothing"])
def test_a_rate_limit_says_what_it_is_told_to(serve, says):
    endpoint, caller = serve(requests_per_minute=2, says=says)
    answers = [caller.raw(json.dumps(body(str(n)))) for n in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    headers = answers[-1][1]
    assert headers.get("Retry-After") == ("60" if says in {"retry-after", "both"} else None)
    told = {name: value for name, value in headers.items() if name.startswith("x-")}
    if says in {"headers", "both"}:
        assert told["x-ratelimit-limit-requests"] == "2"
        assert told["x-ratelimit-remaining-requests"] == "0"
        assert told["x-ratelimit-reset-requests"].startswith(("1m", "59."))
    else:
        assert told == {}
    assert endpoint.stats()["limited"] == {"requests": 1}


def test_a_token_limit_counts_prompts_and_replies(serve):
    endpoint, caller = serve(tokens_per_minute=7)
    assert caller.ask("Hello.")[0] == 200  # 2 and 4 tokens
    assert caller.ask("Hello.")[0] == 429
    assert endpoint.stats()["limited"] == {"tokens": 1}


def test_a_sliding_window_counts_the_last_minute():
    limit = Limit(2, "sliding", None)
    limit.spend(0, 1)
    limit.spend(10, 1)
    assert limit.wait(20, 1) == 40
    assert limit.wait(60, 1) == 0
    assert limit.left(60) == 1
    assert limit.left(70) == 2


def test_a_bucket_fills_steadily_up_to_its_burst():
    limit = Limit(60, "bucket", 5)
    assert limit.left(100) == 5
    for _ in range(5):
        limit.spend(100, 1)
    assert limit.wait(100, 1) == 1
    assert limit.wait(100.25, 1) == 0.75
    assert limit.left(200) == 5


# --- What it says ----------------------------------------------------------------------------------------------------


def test_scripted_answers_follow_the_prompt_and_some_are_bad(serve):
    endpoint, caller = serve(mode="scripted", bad={"form": 50})
    prompt = (
        "Write one.\n\nThe source:\nAnna kept a lantern and a harbour.\n\n"
        "Visitor (speaking): what this person says\nAnna (thinking): what Anna thinks\n\nWrite 4 to 9 turns, at least 40 words in all."
    )
    texts = [caller.text(f"{prompt} {n}")[0] for n in range(20)]
    bad = [text for text in texts if "Anna (speaking):" not in text]
    assert 0 < len(bad) < 20
    assert endpoint.stats()["spoilt"] == {"form": len(bad)}


# --- The command -----------------------------------------------------------------------------------------------------


def test_settings_survive_the_command_line():
    settings = Settings(
        seed=4,
        latency=0.5,
        faults={"429": 5, "cut-off!": 1.5},
        requests_per_minute=600,
        window="bucket",
        key="sk-1",
        digests=False,
        mode="scripted",
        bad={"short": 2},
        concurrency=8,
    )
    options = vars(parser().parse_args(arguments(settings)))
    del options["port"], options["until_eof"]
    assert Settings(**options) == settings


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"faults": {"404!": 1, "bad luck": 2}}, "no such fault: bad luck"),
        ({"bad": {"ugly": 2}}, "no such badness: ugly"),
        ({"window": "round"}, "'round': expected one of sliding, bucket"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        Settings(**settings)


def test_more_than_everything_cannot_go_wrong():
    with pytest.raises(ValueError, match="more than 100 %"):
        Mock(Settings(faults={"500": 60, "503": 50}))


def test_the_command_serves_until_its_input_ends():
    command = [sys.executable, "-m", "charforge.testing.endpoint", "--port", "0", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        url = json.loads(process.stdout.readline())["url"]
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname, where.port)
        connection.request("POST", "/v1/chat/completions", json.dumps(body()))
        assert connection.getresponse().status == 200
        connection.close()
        process.stdin.close()
        assert process.wait(10) == 0
