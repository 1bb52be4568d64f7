"""What providers write, in their dialects."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge.llm import wire
from charforge.llm.flow import Limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400),
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("1m20ms", 60.02),
        ("12", 12),
        ("0", 0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("1.2.3s", None),
    ],
)
def test_spans_are_read(text, seconds):
    assert wire.span(text) == (None if seconds is None else pytest.approx(seconds))


def test_moments_are_read_as_spans(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    assert wire.span("1800000030") == 30
    assert wire.span("1800000030000") == 30
    assert wire.span("1700000000") == 0
    assert wire.span("2027-01-15T08:00:20Z") == 20


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "whenever"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
    ],
)
def test_waits_are_read(headers, seconds):
    assert wire.retry_after(headers) == seconds


def test_anthropics_limits_are_read(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:02Z",
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-tokens-remaining": "39000",
        "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:01Z",
    }
    assert wire.limits_of(headers) == Limits(
        requests_per_minute=50,
        requests_left=49,
        requests_reset_s=2,
        tokens_per_minute=40000,
        tokens_left=39000,
        tokens_reset_s=1,
    )


def test_a_limit_a_day_is_no_limit_a_minute():
    daily = {
        "x-ratelimit-limit-requests": "200",
        "x-ratelimit-remaining-requests": "199",
        "x-ratelimit-reset-requests": "7m12s",
    }
    assert wire.limits_of(daily) == Limits(requests_left=199, requests_reset_s=432)
    groq = {"x-ratelimit-limit-requests": "14400", "x-ratelimit-reset-requests": "6s"}
    assert wire.limits_of(groq, "groq") == Limits(requests_reset_s=6)


def test_limits_of_an_unnamed_window_are_read_as_far_as_they_go():
    headers = {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "3", "x-ratelimit-reset": "5"}
    assert wire.limits_of(headers) == Limits(requests_left=3, requests_reset_s=5)


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json"}, {"x-ratelimit-remaining": "many"}]
)
def test_no_limits_are_none(headers):
    assert wire.limits_of(headers) is None


@given(st.text(max_size=30))
def test_no_header_breaks_the_reading(value):
    wire.span(value)
    wire.retry_after({"retry-after": value, "retry-after-ms": value})
    names = [name for kind in wire._LIMIT_NAMES for names in kind for name in names]
    wire.limits_of(dict.fromkeys(names, value))


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reading_of_errors(data):
    said = wire.said_in(data)
    assert said.words
    assert said.words.isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "message", "code", "type", "innererror", "detail"]), inner
            )
        ),
        max_leaves=10,
    )
)
def test_no_shape_breaks_the_reading_of_errors(value):
    import json

    assert wire.said_in(json.dumps(value).encode()).words
