"""What providers write: the ends of answers, counts, limits and errors, in their many dialects, put into our words.

Shared by both lanes. Pure functions: knows no client, sends nothing. All words that come from a provider leave here short, on one
line and without keys.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn

from charforge.files import visible
from charforge.llm import secrets
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import BadRequest, EndpointError, WrongKey
from charforge.llm.flow import Answer, Failure, FailureKind, Limits
from charforge.llm.request import Reply, Request

_TOO_MANY_TOKENS = 10**9

FINISH = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "filtered",
    "safety": "filtered",
    "refusal": "filtered",
    "recitation": "filtered",
    "sensitive": "filtered",
}
"""What providers say of an answer's end → our word. What is not here is no end that we know: never taken for a stop."""

_FILTER = re.compile(
    r"content_filter|content_policy_violation|responsibleaipolicyviolation|data_inspection_failed|moderation"
    r"|content management policy|content policy|flagged|safety system|usage polic"
)
_NO_CREDIT = re.compile(
    r"insufficient_quota|insufficient[ _]balance|insufficient[ _]credit|credit balance|billing_hard_limit|billing_not_active"
    r"|not enough credits|out of credit|payment required"  # not "exceeded your … quota": with Gemini that is a minute's
)
BAD_KEY = re.compile(
    r"invalid_api_key|api key not valid|(?:invalid|incorrect|expired) api key"
    r"|missing credentials|missing [a-z ]{0,20}api key|api_key client option must be set"
)
_KEY_WORDS = re.compile(
    r"api[ _-]?key|authenti|authoriz|credential|(?:access|invalid|expired) token|permission|forbidden|access denied"
)
_SCHEMA_WORDS = re.compile(r"response[_ ]format|json[_ ]schema|structured output|guided|grammar")
_BUSY = re.compile(
    r"overload|server is busy|server busy|at capacity|too many requests|rate limit|try again later"
)


# --- Answers ---


def answer_of(
    request: Request,
    *,
    content: Any,
    refusal: Any,
    ended: Any,
    usage: Any,
    limits: Limits | None,
    with_schema: bool,
    keys: secrets.Striker,
) -> Answer:
    """Return the answer that these parts of a chat completion make. Raises Failure where they make none.

    `ended`: its finish_reason. `keys`: what may not stand in the text, whoever put it there.
    """
    text = text_of(content)
    if text is None:
        malformed("the answer's message is not text", limits)
    finish = FINISH.get(ended.lower()) if isinstance(ended, str) else None
    if not text and isinstance(refusal, str) and refusal:
        text, finish = refusal, "filtered"
    if finish is None:
        said = f"ends with {short(ended, 40)!r}" if isinstance(ended, str) else "does not say how it ended"
        malformed(f"the answer {said}", limits)
    try:
        text.encode()
    except UnicodeEncodeError:
        malformed("the answer's text has half characters in it (surrogates)", limits)
    facts: dict[str, Any] = {}
    struck = keys.strike(text)
    if struck is not text and struck != text:
        text, facts["struck"] = struck, True
    if request.schema is not None:
        facts["schema"] = "enforced" if with_schema else "asked"
    prompt_tokens, completion_tokens = usage_of(usage)
    reply = Reply(
        text=text,
        finish_reason=finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        facts=facts,
    )
    return Answer(reply, limits)


def filtered(words: str, limits: Limits | None) -> Answer:
    """Return the answer that a content filter's refusal of a request is. It costs nothing."""
    return Answer(Reply(text=words, finish_reason="filtered", facts={"refused": "request"}), limits)


def malformed(text: str, limits: Limits | None = None) -> NoReturn:
    """Raise the Failure of an answer that is none."""
    raise Failure("malformed", text, limits=limits, billed=True) from None


def text_of(content: Any) -> str | None:
    """Return a message's text: a string, nothing (empty), or a list of parts, as some providers have it; None: neither."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            return None
        elif part.get("type", "text") in {"text", "output_text"}:
            if not isinstance(part.get("text"), str):
                return None
            texts.append(part["text"])
        # other parts are thoughts and pictures
    return "".join(texts)


def usage_of(usage: Any) -> tuple[int | None, int | None]:
    """Return prompt and completion tokens, each None where it is missing or absurd."""
    if not isinstance(usage, dict):
        return None, None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    total = _count(usage.get("total_tokens"))
    if prompt is not None and completion is not None and total is not None:
        # Some leave hidden thoughts out of the completion, and charge for them.
        completion = max(completion, total - prompt)
    return prompt, completion


def _count(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_MANY_TOKENS:
        return value
    return None


# --- Errors ---


class Said(NamedTuple):
    """What an error's body says: in words, short and without keys; its codes; and all of it in lower case, to be searched."""

    words: str
    code: str
    all: str


def said_in(data: bytes) -> Said:
    """Return what the body of an error says, whichever of the usual shapes it has."""
    # At once, and not at the end only: whatever is taken out of the middle of a key leaves the rest of it unknown.
    text = secrets.striker().strike(data.decode("utf-8", "replace"))
    codes: list[str] = []
    with contextlib.suppress(ValueError, RecursionError):
        error = json.loads(text)
        if isinstance(error, list) and error:
            error = error[0]
        if isinstance(error, dict):
            error = error.get("error") or error
        if isinstance(error, dict):
            inner = error.get("innererror")
            found = [
                error.get("code"),
                error.get("type"),
                inner.get("code") if isinstance(inner, dict) else None,
            ]
            if isinstance(found[0], int):  # a status; the type may say more, but is no code then
                found = found[:1]
            codes = [str(each) for each in found if isinstance(each, str | int)]
            said = error.get("message") or error.get("detail") or error.get("msg") or error
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        elif isinstance(error, str):
            text = error
    if text.lstrip()[:1] == "<":  # a proxy's page
        text = re.sub(r"(?s)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", text)
    code = " ".join(codes)
    return Said(short(text) or "no reason given", code, f"{code} {text[:4000]}".lower())


def short(text: str, most: int = 300) -> str:
    """Return a text on one line, without keys and control codes, cut."""
    text = secrets.scrub(" ".join(text.split()))
    return visible(text if len(text) <= most else text[: most - 1] + "…")


def wrong_key(model: str, endpoint: Endpoint, words: str) -> WrongKey:
    """Return the error for a refused key."""
    if endpoint.key is None and endpoint.lane == "direct":
        hint = f'name the variable that holds its key in endpoints.toml: ["{endpoint.name}"] key = "…"'
    else:
        variable = endpoint.key or f"{(endpoint.provider or model).upper().replace('-', '_')}_API_KEY"
        hint = f"set {variable} in the environment"
    return WrongKey(f"{model}: the provider refused the key, or there is none: {words}", hint)


def no_credit(endpoint: Endpoint, words: str) -> EndpointError:
    """Return the error for an account that has nothing left to spend."""
    return EndpointError(
        f"{endpoint.name}: the account has no credit left: {words}",
        "add credit with the provider, then rerun; finished work is kept",
    )


def bad_request(request: Request, words: str, status: int | None, hint: str | None) -> BadRequest:
    """Return the error for a request that will not be taken, with the request's gist."""
    code = f" ({status})" if status is not None else ""
    gist = [f"max_tokens {request.max_tokens}", f"temperature {request.temperature:g}"]
    if request.top_p is not None:
        gist.append(f"top_p {request.top_p:g}")
    if request.schema is not None:
        gist.append("a JSON schema")
    last = request.messages[-1][1] if request.messages else ""
    return BadRequest(
        f"{request.model}: the provider refused the request{code}: {words}; it was: {', '.join(gist)}, "
        f"“{short(last, 200)}”",
        hint,
    )


def is_filter(said: str) -> bool:
    """Whether a refusal, in lower case, is a content filter's."""
    return _FILTER.search(said) is not None


def is_no_credit(said: str) -> bool:
    """Whether a refusal, in lower case, speaks of an empty account."""
    return _NO_CREDIT.search(said) is not None


def speaks_of_keys(said: str) -> bool:
    """Whether a refusal, in lower case, speaks of who asks, and not of what may be asked for with this key."""
    return _KEY_WORDS.search(said) is not None and "model" not in said


def is_busy(said: str) -> bool:
    """Whether a failure, in lower case, speaks of too much work."""
    return _BUSY.search(said) is not None


def names_schema(said: str) -> bool:
    """Whether a refusal, in lower case, is one of the reply's format."""
    return _SCHEMA_WORDS.search(said) is not None


def failure_of(
    status: int, said: Said, headers: Mapping[str, str], provider: str, *, billed: bool
) -> Failure:
    """Return the Failure that a status means."""
    kind: FailureKind
    if status in {429, 503, 529} or (status >= 500 and is_busy(said.all)):
        kind = "overload"
    elif status == 408:
        kind = "timeout"
    else:
        kind = "server"
    limits = limits_of(headers, provider) if kind == "overload" else None
    return Failure(
        kind, f"{status}: {said.words}", retry_after=retry_after(headers), limits=limits, billed=billed
    )


# --- Limits ---


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks us to wait. Names of headers are in lower case, or looked up in any."""
    with contextlib.suppress(ValueError):
        milliseconds = headers.get("retry-after-ms")
        if milliseconds is not None:
            return _seconds_or_raise(float(milliseconds) / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return _seconds_or_raise(float(value))
    return _until(value)


def _seconds_or_raise(value: float) -> float:
    if not 0 <= value < 10**7:  # not NaN either
        raise ValueError
    return value


def _until(value: str) -> float | None:
    """Return the seconds until a moment, given as HTTP date or as ISO 8601; None where it is neither."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(value)
        except (ValueError, TypeError, OverflowError):
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    return None


_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")


def span(value: str) -> float | None:
    """Return seconds for `6m0s`, `20ms`, `1h2m3.5s`, `7.66`, a date, or a moment in seconds or milliseconds since 1970."""
    value = value.strip()
    try:
        number = float(value)
    except ValueError:
        found = _SPAN.fullmatch(value) if value else None
        if found is None or not any(found.groups()):
            return _until(value)
        try:
            days, hours, minutes, seconds, milliseconds = (float(each or 0) for each in found.groups())
        except ValueError:
            return None
        return days * 86400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    if not 0 <= number < 10**14:
        return None
    if number > 10**11:
        return max(0.0, number / 1000 - time.time())
    return max(0.0, number - time.time()) if number > 10**9 else number


_LIMIT_HEADERS = (
    # limit, remaining and reset, of requests and of tokens
    ("x-ratelimit-limit-{}", "x-ratelimit-remaining-{}", "x-ratelimit-reset-{}"),
    ("anthropic-ratelimit-{}-limit", "anthropic-ratelimit-{}-remaining", "anthropic-ratelimit-{}-reset"),
)
_LIMIT_NAMES = tuple(
    tuple(tuple(name.format(what) for name in names) for what in ("requests", "tokens"))
    for names in _LIMIT_HEADERS
)


def limits_of(headers: Mapping[str, str], provider: str = "") -> Limits | None:
    """Return what an answer's headers say of limits, None where they say nothing."""
    for (limit, left, reset), tokens in _LIMIT_NAMES:
        if left in headers or limit in headers or tokens[0] in headers or tokens[1] in headers:
            requests = _limit(headers, limit, left, reset)
            spent = _limit(headers, *tokens)
            # Groq counts requests a day under this name.
            per_minute = None if provider == "groq" else requests[0]
            return Limits(
                requests_per_minute=per_minute,
                requests_left=requests[1],
                requests_reset_s=requests[2],
                tokens_per_minute=spent[0],
                tokens_left=spent[1],
                tokens_reset_s=spent[2],
            )
    if "x-ratelimit-remaining" in headers:  # of what window, it does not say
        _, remaining, reset_s = _limit(headers, "", "x-ratelimit-remaining", "x-ratelimit-reset")
        if remaining is not None or reset_s is not None:
            return Limits(requests_left=remaining, requests_reset_s=reset_s)
    return None


def _limit(
    headers: Mapping[str, str], limit: str, left: str, reset: str
) -> tuple[float | None, float | None, float | None]:
    """Return (a minute, left, seconds until reset). A limit whose window is clearly no minute is left out."""
    most, remaining = _amount(headers.get(limit)), _amount(headers.get(left))
    text = headers.get(reset)
    reset_s = None if text is None else span(text)
    if reset_s is not None and reset_s > 61:
        most = None
    return most, remaining, reset_s


def _amount(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        amount = float(value)
    except ValueError:
        return None
    return amount if 0 <= amount < 10**12 else None
