"""A mock of an OpenAI-compatible endpoint, with faults, latency, limits and counters, all from one seed.

    python -m charforge.testing.endpoint --port 0 --latency 0.5 --tail 0.6 --faults 429=5,500=3,disconnect=2

prints `{"url": "http://127.0.0.1:<port>/v1"}` and serves `POST /v1/chat/completions`, `GET /v1/models` and `GET /stats`. In a test:

    with Endpoint(Settings(faults={"500": 100})) as endpoint: ...  # endpoint.url, endpoint.stats()

What becomes of a request (its fate) follows from the seed, from its content and from how often that content was asked before: the order
in which requests arrive, and who sends them, changes nothing. Without `digests` (bounded memory) it follows from its number.

It shares the machine with the client that it measures, so it is one `asyncio.Protocol` and no web framework; it talks just
enough HTTP/1.1 (keep-alive, Content-Length) for clients that behave, and misbehaves as it is told. Not for use as a server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from statistics import NormalDist
from typing import Any, NamedTuple, Self, TypeVar, cast

from charforge.testing import texts

MALFORMED = {
    "not-json": b"I am sorry, but here is no JSON.",
    "not-utf8": b'{"choices": [{"message": {"content": "\xff\xfe\xfa"}, "finish_reason": "stop"}]}',
    "no-choices": b'{"id": "mock", "object": "chat.completion", "choices": []}',
    "wrong-types": b'{"choices": {"message": 7}, "usage": "many"}',
    "null-content": b'{"choices": [{"index": 0, "message": null, "finish_reason": null}]}',
    "truncated": b'{"id": "mock", "choices": [{"index": 0, "message": {"role": "assistant", "content": "And th',
    "html": b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>",
    "no-body": b"",
    "error-200": b'{"error": {"message": "The model is busy.", "type": "server_error"}}',
}
"""Bodies that come with status 200 and are no answer."""

_ERRORS = {
    "400": (400, "Invalid value for 'messages'.", "invalid_request_error", "invalid_value"),
    "401": (401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    "403": (403, "You may not use this model.", "permission_error", "forbidden"),
    "404": (404, "The model does not exist.", "invalid_request_error", "model_not_found"),
    "413": (413, "Too many tokens.", "invalid_request_error", "context_length_exceeded"),
    "filter-400": (400, "The request was filtered.", "invalid_request_error", "content_filter"),
    "429": (429, "Rate limit reached.", "requests", "rate_limit_exceeded"),
    "429-after": (429, "Rate limit reached.", "requests", "rate_limit_exceeded"),
    "429-headers": (429, "Rate limit reached.", "requests", "rate_limit_exceeded"),
    "429-quota": (429, "You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
    "500": (500, "The server had an error.", "server_error", None),
    "502": (502, "Bad gateway.", "server_error", None),
    "503": (503, "The engine is overloaded.", "server_error", None),
    "529": (529, "Overloaded.", "overloaded_error", None),
}

FAULTS = (
    *_ERRORS,
    "disconnect",  # the connection ends before the first byte of the answer
    "disconnect-midway",  # in the middle of the body
    "stall",  # never answers
    "stall-midway",  # stops in the middle of the body
    "drip",  # a byte now and then, for ever
    "cut-off",  # half the text, finish_reason length
    "filter",  # finish_reason content_filter
    "empty",  # no text, finish_reason stop
    "malformed",  # one of MALFORMED, each by its share
    *MALFORMED,
    "huge",  # a JSON body of 100 MB
    "endless",  # a body that never ends, as fast as it is taken
)
"""What `Settings.faults` can name."""

HUGE = 100_000_000
_CHUNK = 1 << 16
_DRIP_SECONDS = 0.25
_MINUTE = 60.0
T = TypeVar("T")

_CODES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the endpoint does. Shares are percentages of requests; times are seconds."""

    seed: int = 0
    latency: float = 0.0
    """Median time to an answer."""
    spread: float = 0.0
    """Uniform: the latency varies by this share of it to either side."""
    tail: float = 0.0
    """Heavy tail: the latency is lognormal with this sigma (0.6: one in a hundred takes four times the median)."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Shares of FAULTS. A name with `!` after it depends on the content alone: asking again meets it again."""
    retry_after: float = 1.0
    """What `429-after` and `429-headers` ask for."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Tokens of prompts as they come and of replies as they are given."""
    window: str = "sliding"
    """`sliding`: so many within any 60 s. `bucket`: refilled steadily, up to `burst`."""
    burst: float | None = None
    """What the bucket holds; None: a minute's worth."""
    says: str = "both"
    """What a 429 for a rate tells: `retry-after`, `headers` (x-ratelimit-*, on every answer), `both` or `nothing`."""
    concurrency: int | None = None
    """Requests at once; more get a 429 that tells nothing."""
    key: str | None = None
    schema: bool = True
    """Whether `response_format: json_schema` is known; else such a request is a bad one."""
    mode: str = "echo"
    """`echo`: a tiny text. `scripted`: what charforge.testing.texts makes of the prompt."""
    bad: Mapping[str, float] = field(default_factory=dict)
    """Shares of texts.BAD among scripted answers, by content and asking as with faults."""
    reply_words: int = 0
    """Words of an echo, for clients that read real sizes."""
    digests: bool = True
    """Remember how often each content was asked for and answered. Off: bounded memory."""

    def __post_init__(self) -> None:
        for name in self.faults:
            if name.removesuffix("!") not in FAULTS:
                raise ValueError(f"no such fault: {name}; there are {', '.join(FAULTS)}")
        for name in self.bad:
            if name not in texts.BAD:
                raise ValueError(f"no such badness: {name}; there are {', '.join(texts.BAD)}")
        for value, known in (
            (self.window, ("sliding", "bucket")),
            (self.mode, ("echo", "scripted")),
            (self.says, ("retry-after", "headers", "both", "nothing")),
        ):
            if value not in known:
                raise ValueError(f"{value!r}: expected one of {', '.join(known)}")


def identity(model: str, messages: Sequence[tuple[str, str]]) -> bytes:
    """Return the 16 bytes that stand for a request's content: model, roles and texts, no sampling fields."""
    said = "\0".join([model, *(part for message in messages for part in message)])
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Fate(NamedTuple):
    """What becomes of a request. `chance` seeds everything else that differs."""

    fault: str | None
    latency: float
    chance: int


class Fates:
    """Tells the fate of requests. One function of seed, content and occurrence, which a benchmark can ask as well."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seed = settings.seed.to_bytes(8, "big", signed=True)
        self._faults = _table({k: v for k, v in settings.faults.items() if not k.endswith("!")})
        self._sticky = _table({k[:-1]: v for k, v in settings.faults.items() if k.endswith("!")})
        self._normal = NormalDist()

    def of(self, key: bytes, occurrence: int) -> Fate:
        """Return the fate of the `occurrence`-th asking (from 0) for a content."""
        raw = hashlib.blake2b(key + occurrence.to_bytes(8, "big"), digest_size=24, key=self._seed).digest()
        fault = _pick(self._faults, raw[:8]) if self._faults else None
        if self._sticky:
            always = hashlib.blake2b(key, digest_size=8, key=self._seed).digest()
            fault = _pick(self._sticky, always) or fault
        return Fate(fault, self._latency(raw[8:16]), int.from_bytes(raw[16:]))

    def _latency(self, raw: bytes) -> float:
        settings = self._settings
        if not (settings.spread or settings.tail):
            return settings.latency
        share = (int.from_bytes(raw) + 0.5) / 2**64
        if settings.tail:
            share = min(max(share, 1e-9), 1 - 1e-9)
            return settings.latency * math.exp(settings.tail * self._normal.inv_cdf(share))
        return settings.latency * (1 + settings.spread * (2 * share - 1))


Shares = list[tuple[float, str]]


def _table(shares: Mapping[str, float]) -> Shares:
    """Return (upper end, name) of each share, in order of names, as parts of 1."""
    names = sorted(shares)
    ends = list(accumulate(shares[name] / 100 for name in names))
    if ends and ends[-1] > 1 + 1e-9:
        raise ValueError("the shares are more than 100 % together")
    return list(zip(ends, names, strict=True))


def _pick(table: Shares, raw: bytes) -> str | None:
    share = int.from_bytes(raw) / 2**64
    return next((name for end, name in table if share < end), None)


# --- Limits ----------------------------------------------------------------------------------------------------------


class Limit:
    """So much a minute. `take` gives what is over the limit a refusal, which costs nothing."""

    def __init__(self, per_minute: float, window: str, burst: float | None) -> None:
        self.per_minute = per_minute
        self._sliding = window == "sliding"
        self._size = per_minute if burst is None or self._sliding else burst
        self._used: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self._level, self._at = self._size, 0.0

    def left(self, now: float) -> float:
        """Return how much may be taken now."""
        if self._sliding:
            while self._used and self._used[0][0] <= now - _MINUTE:
                self._sum -= self._used.popleft()[1]
            return self._size - self._sum
        if self._at:
            self._level = min(self._size, self._level + (now - self._at) * self.per_minute / _MINUTE)
        self._at = now
        return self._level

    def spend(self, now: float, amount: float) -> None:
        """Take an amount whether it is there or not."""
        if self._sliding:
            self._used.append((now, amount))
            self._sum += amount
        else:
            self.left(now)
            self._level -= amount

    def wait(self, now: float, amount: float) -> float:
        """Return the seconds until an amount will be there; 0 if it is."""
        missing = min(amount, self._size) - self.left(now)
        if missing <= 1e-9:
            return 0.0
        if not self._sliding:
            return missing * _MINUTE / self.per_minute
        for when, spent in self._used:
            missing -= spent
            if missing <= 1e-9:
                return when + _MINUTE - now
        return _MINUTE


# --- The server ------------------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A request that was understood."""

    key: bytes
    model: str
    text: str
    schema: Mapping[str, Any] | None
    max_tokens: int | None
    prompt_tokens: int


class Mock:
    """The endpoint's state: settings, limits and counters. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fates = Fates(settings)
        self.clock = time.monotonic
        self._limits: dict[str, Limit] = {}
        for name, rate in (
            ("requests", settings.requests_per_minute),
            ("tokens", settings.tokens_per_minute),
        ):
            if rate is not None:
                self._limits[name] = Limit(
                    rate, settings.window, settings.burst if name == "requests" else None
                )
        self._bad = _table(settings.bad)
        self.began: float | None = None
        self.requests = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.abandoned = 0
        self.connections = 0
        self.open: set[_Connection] = set()
        self.answered: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.spoilt: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.minutes: dict[int, Counter[str]] = {}
        self.latency = 0.0
        self.good = 0
        self.asked: dict[bytes, int] = {}
        self.paid: dict[bytes, int] = {}

    def stats(self, *, digests: bool = False) -> dict[str, Any]:
        """Return the counters as plain JSON.

        `good` counts whole, well-formed answers, finished with `stop`, that went out; `good_again` those of them for a content
        that had one before. `minutes` counts from the first request. With `digests`: {identity in hex: [asked, good]}.
        """
        found: dict[str, Any] = {
            "requests": self.requests,
            "answered": {str(status): count for status, count in sorted(self.answered.items())},
            "good": self.good,
            "good_again": sum(count - 1 for count in self.paid.values()),
            "distinct": len(self.asked),
            "faults": dict(sorted(self.faults.items())),
            "spoilt": dict(sorted(self.spoilt.items())),
            "limited": dict(sorted(self.limited.items())),
            "tokens": dict(sorted(self.tokens.items())),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "abandoned": self.abandoned,
            "connections": self.connections,
            "latency_seconds": self.latency,
            "minutes": {
                str(minute): dict(sorted(counts.items())) for minute, counts in sorted(self.minutes.items())
            },
        }
        if digests:
            found["digests"] = {
                key.hex(): [count, self.paid.get(key, 0)] for key, count in self.asked.items()
            }
        return found

    def noted(self, status: int, now: float) -> None:
        """Count an answer's status, in all and in its minute."""
        self.answered[status] += 1
        if self.began is None:
            self.began = now
        minute = int((now - self.began) / _MINUTE)
        counts = self.minutes.get(minute)
        if counts is None:
            counts = self.minutes[minute] = Counter()
            self.minutes.pop(minute - 1440, None)
        counts[str(status)] += 1

    def begin(self, body: bytes, head: bytes) -> tuple[_Asked, Fate, bytes | None]:
        """Take a request in: what it is, its fate, and the refusal it gets at once, if any."""
        now = self.clock()
        if self.began is None:
            self.began = now
        number = self.requests
        self.requests += 1
        settings = self.settings
        nothing = _Asked(b"", "", "", None, None, 0)
        if settings.key is not None and _authorization(head) != settings.key:
            return nothing, _NO_FATE, self.refuse("401", now)
        asked = _read(body)
        if asked is None or (asked.schema is not None and not settings.schema):
            return nothing, _NO_FATE, self.refuse("400", now)
        if settings.concurrency is not None and self.in_flight >= settings.concurrency:
            self.limited["concurrency"] += 1
            return asked, _NO_FATE, self.refuse("429", now)
        for name, limit in self._limits.items():
            wait = limit.wait(now, asked.prompt_tokens if name == "tokens" else 1)
            if wait:
                self.limited[name] += 1
                return asked, _NO_FATE, self.refuse("429", now, wait)
        if settings.digests:
            number = self.asked.get(asked.key, 0)
            self.asked[asked.key] = number + 1
        else:
            asked = asked._replace(key=number.to_bytes(8, "big"))
        for name, limit in self._limits.items():
            limit.spend(now, asked.prompt_tokens if name == "tokens" else 1)
        fate = self.fates.of(asked.key, number)
        if fate.fault is not None:
            self.faults[fate.fault] += 1
            if fate.fault in _ERRORS and fate.fault[0] == "4":
                return asked, fate, self.refuse(fate.fault, now)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.latency += fate.latency
        return asked, fate, None

    def refuse(self, name: str, now: float, wait: float | None = None) -> bytes:
        """Return an error answer. `wait` is set where a limit of requests or tokens speaks."""
        status, message, kind, code = _ERRORS[name]
        self.noted(status, now)
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        headers = b""
        says = self.settings.says
        if wait is not None and says in {"retry-after", "both"}:
            headers = b"Retry-After: %d\r\n" % -int(-wait // 1)
        elif name == "429-after":
            headers = b"Retry-After: %g\r\n" % self.settings.retry_after
        elif name == "429-headers":
            headers = (
                b"x-ratelimit-limit-requests: 600\r\nx-ratelimit-remaining-requests: 0\r\n"
                b"x-ratelimit-reset-requests: %s\r\n" % _duration(self.settings.retry_after)
            )
        return _response(status, body, headers + self._limit_headers(now))

    def _limit_headers(self, now: float) -> bytes:
        if not self._limits or self.settings.says not in {"headers", "both"}:
            return b""
        lines = []
        for name, limit in self._limits.items():
            left = limit.left(now)
            lines += [
                b"x-ratelimit-limit-%s: %d\r\n" % (name.encode(), limit.per_minute),
                b"x-ratelimit-remaining-%s: %d\r\n" % (name.encode(), max(0, left)),
                b"x-ratelimit-reset-%s: %s\r\n"
                % (name.encode(), _duration(limit.wait(now, limit.per_minute))),
            ]
        return b"".join(lines)

    def write(self, asked: _Asked, fate: Fate) -> tuple[bytes, bool]:
        """Return the whole answer to a request, as bytes of HTTP, and whether it is a good one."""
        now = self.clock()
        fault = fate.fault
        if fault in _ERRORS:
            return self.refuse(fault, now), False
        if fault == "malformed" or fault in MALFORMED:
            name = fault if fault in MALFORMED else sorted(MALFORMED)[fate.chance % len(MALFORMED)]
            self.noted(200, now)
            return _response(200, MALFORMED[name], self._limit_headers(now)), False
        text, finish = ("", "stop") if fault == "empty" else (self._text(asked, fate), "stop")
        tokens = -(-len(text) // 4)
        if asked.max_tokens is not None and tokens > asked.max_tokens:
            text, tokens, finish = text[: 4 * asked.max_tokens], asked.max_tokens, "length"
        if fault == "cut-off":
            text, tokens, finish = text[: len(text) // 2], tokens // 2, "length"
        elif fault == "filter":
            text, tokens, finish = "", 0, "content_filter"
        self.tokens["prompt"] += asked.prompt_tokens
        self.tokens["completion"] += tokens
        if "tokens" in self._limits:
            self._limits["tokens"].spend(now, tokens)
        total = asked.prompt_tokens + tokens
        # Written by hand: json.dumps of the whole takes three times as long.
        body = (
            f'{{"id":"mock","object":"chat.completion","created":0,"model":{json.dumps(asked.model)},"choices":[{{"index":0,'
            f'"message":{{"role":"assistant","content":{json.dumps(text)}}},"finish_reason":"{finish}"}}],"usage":'
            f'{{"prompt_tokens":{asked.prompt_tokens},"completion_tokens":{tokens},"total_tokens":{total}}}}}'
        ).encode()
        if fault not in {"disconnect-midway", "stall-midway", "drip"}:
            self.noted(200, now)
        return _response(200, body, self._limit_headers(now)), fault is None and finish == "stop"

    def _text(self, asked: _Asked, fate: Fate) -> str:
        if self.settings.mode == "echo":
            if self.settings.reply_words:
                return f"{fate.chance:016x}" + " word" * (self.settings.reply_words - 1)
            return f"{fate.chance:016x}"
        bad = (
            _pick(self._bad, hashlib.blake2b(fate.chance.to_bytes(8), digest_size=8).digest())
            if self._bad
            else None
        )
        chance = random.Random(fate.chance)  # noqa: S311 - a script
        if bad is None:
            return texts.answer(asked.text, asked.schema, chance)
        self.spoilt[bad] += 1
        return texts.spoil(bad, asked.text, asked.schema, chance)

    def was_good(self, asked: _Asked) -> None:
        """Count a good answer that went out."""
        self.good += 1
        if self.settings.digests:
            self.paid[asked.key] = self.paid.get(asked.key, 0) + 1


_NO_FATE = Fate(None, 0.0, 0)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_BEARER = re.compile(rb"\r\n(?:authorization:[ \t]*bearer|api-key:|x-api-key:)[ \t]*(\S+)", re.IGNORECASE)


def _authorization(head: bytes) -> str | None:
    found = _BEARER.search(head)
    return found[1].decode("latin-1") if found else None


def _read(body: bytes) -> _Asked | None:
    """Return what a request asks for; None if it is no chat request."""
    try:
        data = json.loads(body)
        model = data["model"]
        said = [model]
        for message in data["messages"]:
            content = message["content"]
            if not isinstance(content, str):
                content = "".join(part["text"] for part in content)
            said += (message["role"], content)
        text = "\0".join(said)
        max_tokens = data.get("max_tokens") or data.get("max_completion_tokens")
        form = data.get("response_format")
        schema = form["json_schema"]["schema"] if form and form.get("type") == "json_schema" else None
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        asked = "\n".join(said[2::2])
        return _Asked(key, model, asked, schema, max_tokens, -(-len(asked) // 4))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _duration(seconds: float) -> bytes:
    """Return a time as OpenAI's headers write it: 1m2.5s, 340ms."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    return (b"%dm" % minutes if minutes else b"") + b"%gs" % (rest / 1000)


def _response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (
        status,
        _CODES.get(status, "Error").encode(),
        headers,
        len(body),
        body,
    )


class _Connection(asyncio.Protocol):
    """One client's connection: requests one after another."""

    __slots__ = (
        "_asked",
        "_buffer",
        "_fate",
        "_loop",
        "_mock",
        "_need",
        "_paused",
        "_pump",
        "_timer",
        "_transport",
    )

    def __init__(self, mock: Mock, loop: asyncio.AbstractEventLoop) -> None:
        self._mock = mock
        self._loop = loop
        self._buffer = b""
        self._need = 0
        self._asked: _Asked | None = None  # set while a request waits for its answer
        self._fate = _NO_FATE
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._pump: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._mock.connections += 1
        self._mock.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._mock.open.discard(self)
        self._pump = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asked is not None:
            self._asked = None
            self._mock.in_flight -= 1
            self._mock.abandoned += 1

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data if len(self._buffer) + len(data) >= self._need else self._keep(data)
        if data:
            self._take(data)

    def _keep(self, data: bytes) -> bytes:
        self._buffer += data
        return b""

    def _take(self, data: bytes) -> None:
        """Serve the requests that are whole, and keep the rest."""
        self._buffer = b""
        while data and self._asked is None and not self._transport.is_closing():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._need = 0
                break
            length = _LENGTH.search(data, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(data) < whole:
                self._need = whole
                break
            self._serve(data[:end], data[end + 4 : whole])
            data = data[whole:]
        self._buffer = data

    def _serve(self, head: bytes, body: bytes) -> None:
        line = head.split(b"\r\n", 1)[0].split(b" ")
        path, _, query = line[1].partition(b"?") if len(line) == 3 else (b"", b"", b"")
        if line[0] == b"POST" and path.endswith(b"/chat/completions"):
            asked, fate, refusal = self._mock.begin(body, head)
            if refusal is not None:
                self._transport.write(refusal)
                return
            self._asked, self._fate = asked, fate
            if fate.fault == "stall":
                return
            if fate.latency > 0:
                self._timer = self._loop.call_later(fate.latency, self._answer)
            else:
                self._answer()
            return
        if path.endswith(b"/models"):
            found: Any = {
                "object": "list",
                "data": [{"id": "scripted", "object": "model", "owned_by": "mock"}],
            }
        elif path == b"/stats":
            found = self._mock.stats(digests=b"digests" in query)
        else:
            self._transport.write(self._mock.refuse("404", self._mock.clock()))
            return
        self._transport.write(_response(200, json.dumps(found).encode()))

    def _answer(self) -> None:
        asked, fate, mock = self._asked, self._fate, self._mock
        if asked is None:
            return
        self._timer = None
        fault = fate.fault
        if fault == "disconnect":
            self._done()
            self._transport.close()
            return
        if fault in {"huge", "endless"}:
            self._flood(HUGE if fault == "huge" else None)
            return
        data, good = mock.write(asked, fate)
        if fault in {"disconnect-midway", "stall-midway", "drip"}:
            half = data.index(b"\r\n\r\n") + 4 + (len(data) - data.index(b"\r\n\r\n")) // 2
            self._transport.write(data[:half])
            if fault == "disconnect-midway":
                self._done()
                self._transport.close()
            elif fault == "drip":
                self._drip()
            return
        self._transport.write(data)
        if good:
            mock.was_good(asked)
        self._done()
        if self._buffer:
            self._take(self._buffer)

    def _done(self) -> None:
        self._asked = None
        self._mock.in_flight -= 1

    def _drip(self) -> None:
        # Never the whole body: the promised length is far off by the time anybody's patience ends.
        self._transport.write(b" ")
        self._timer = self._loop.call_later(_DRIP_SECONDS, self._drip)

    def _flood(self, size: int | None) -> None:
        """Send a body of `size` bytes, or without an end, as fast as it is taken and without holding it."""
        start = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"'
        end = b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
        filler = b"blah " * (_CHUNK // 5)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        self._mock.noted(200, self._mock.clock())
        if size is None:
            head += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(start), start)
            filler = b"%x\r\n%s\r\n" % (len(filler), filler)
        else:
            head += b"Content-Length: %d\r\n\r\n%s" % (size, start)
        self._transport.write(head)
        left = None if size is None else size - len(start) - len(end)

        def pump() -> None:
            nonlocal left
            if self._pump is None or self._paused:
                return
            if left is not None and left <= len(filler):
                self._transport.write(b"x" * left + end)
                self._pump = None
                self._done()
                return
            self._transport.write(filler)
            if left is not None:
                left -= len(filler)
            self._loop.call_soon(pump)

        self._pump = pump
        pump()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pump is not None:
            self._loop.call_soon(self._pump)


async def _serve(mock: Mock, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(mock, loop), "127.0.0.1", port, backlog=1024)


def _url(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


class Endpoint:
    """The mock in a thread of its own: `with Endpoint(Settings(…)) as endpoint`.

    `url` is the API's base, as `api_base` wants it.
    """

    def __init__(self, settings: Settings | None = None, *, port: int = 0) -> None:
        self.mock = Mock(settings or Settings())
        self.url = ""
        self._port = port
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="mock endpoint", daemon=True)
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if not self.url:
            raise OSError(f"the mock endpoint could not listen on port {self._port}")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def stats(self, *, digests: bool = False) -> dict[str, Any]:
        """Return the counters; see Mock.stats."""
        return self._call(lambda: self.mock.stats(digests=digests))

    def change(self, **changes: Any) -> None:
        """Change settings from now on, such as `change(faults={})`: the endpoint comes back up. Limits stay as they were."""

        def apply() -> None:
            self.mock.settings = replace(self.mock.settings, **changes)
            self.mock.fates = Fates(self.mock.settings)

        self._call(apply)

    def _call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._ready.set()
            self._loop.close()

    async def _main(self) -> None:
        self._end = asyncio.Event()
        try:
            server = await _serve(self.mock, self._port)
        except OSError:
            return
        self.url = _url(server)
        self._ready.set()
        await self._end.wait()
        server.close()
        for connection in list(self.mock.open):
            connection.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the aborted connections' last callbacks


def _shares(text: str) -> dict[str, float]:
    """Read `429=5,500=3`."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.partition("=")
        found[name.strip()] = float(share)
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line: one option for each of Settings."""
    made = argparse.ArgumentParser(
        prog="python -m charforge.testing.endpoint", description=(__doc__ or "").splitlines()[0]
    )
    made.add_argument("--port", type=int, default=0, help="0: any free one")
    made.add_argument("--until-eof", action="store_true", help="end when standard input does")
    for each in fields(Settings):
        option = "--" + each.name.replace("_", "-")
        if each.name in {"faults", "bad"}:
            made.add_argument(option, type=_shares, default={}, metavar="NAME=PERCENT,…")
        elif isinstance(each.default, bool):
            made.add_argument(option, action=argparse.BooleanOptionalAction, default=each.default)
        else:
            kind = {"seed": int, "concurrency": int, "reply_words": int, "key": str}.get(each.name)
            kind = kind or (str if isinstance(each.default, str) else float)
            made.add_argument(option, type=kind, default=each.default)
    return made


def arguments(settings: Settings) -> list[str]:
    """Return the command line that gives these settings."""
    given: list[str] = []
    default = asdict(Settings())
    for name, value in asdict(settings).items():
        option = name.replace("_", "-")
        if value == default[name]:
            continue
        if isinstance(value, bool):
            given.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, dict):
            given.append(f"--{option}={','.join(f'{key}={share}' for key, share in value.items())}")
        else:
            given.append(f"--{option}={value}")
    return given


async def _forever(settings: Settings, port: int, *, until_eof: bool) -> None:
    server = await _serve(Mock(settings), port)
    sys.stdout.write(json.dumps({"url": _url(server)}) + "\n")
    sys.stdout.flush()
    if not until_eof:
        await server.serve_forever()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read() -> None:
        while sys.stdin.buffer.read(1024):
            pass
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    options = vars(parser().parse_args(argv))
    port, until_eof = options.pop("port"), options.pop("until_eof")
    with suppress(KeyboardInterrupt):
        asyncio.run(_forever(Settings(**options), port, until_eof=until_eof))


if __name__ == "__main__":
    main()
