"""The gate, against simulated endpoints in virtual time: hours of traffic, no sleeping, the same each run."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import selectors
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge.errors import CharForgeError
from charforge.llm import flow
from charforge.llm.errors import BadRequest, EndpointDown, NoAnswer, RefusesAll, WrongKey
from charforge.llm.flow import Answer, Failure, Gate, Limits
from charforge.llm.request import Reply

# -- virtual time


class _Jump(selectors.BaseSelector):
    """Waits by moving the clock on."""

    def __init__(self):
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def register(self, fileobj, events, data=None):
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj):
        return self._real.unregister(fileobj)

    def get_map(self):
        return self._real.get_map()

    def close(self):
        self._real.close()

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self):
        return self._jump.now


def virtually(main):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def clock():
    return asyncio.get_running_loop().time()


def gate(**settings):
    return Gate("mock", clock=clock, rng=random.Random(7), **settings)


# -- servers: called with the time, each says None (let through) or a Failure


class Sliding:
    """At most `limit` calls in any `window` seconds."""

    def __init__(self, limit=600, window=60.0):
        self.limit, self.window, self.seen = limit, window, deque()

    def refuse(self, now):
        while self.seen and self.seen[0] <= now - self.window:
            self.seen.popleft()
        if len(self.seen) < self.limit:
            self.seen.append(now)
            return None
        return self.seen[0] + self.window - now


class Bucket:
    """A token bucket."""

    def __init__(self, limit=600, burst=600):
        self.rate, self.burst, self.level, self.at = limit / 60, burst, float(burst), 0.0

    def refuse(self, now):
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return None
        return (1 - self.level) / self.rate


class Fixed:
    """A counter that begins anew each minute."""

    def __init__(self, limit=600, offset=17.0):
        self.limit, self.offset, self.minute, self.count = limit, offset, None, 0

    def refuse(self, now):
        minute, within = divmod(now + self.offset, 60.0)
        if minute != self.minute:
            self.minute, self.count = minute, 0
        if self.count < self.limit:
            self.count += 1
            return None
        return 60.0 - within


class Endpoint:
    """A simulated endpoint: `limiter`, latency, and a log of (arrival, let through)."""

    def __init__(self, limiter, *, latency=0.2, jitter=0.2, headers=False, retry_after=True, seed=1):
        self.limiter, self.latency, self.jitter, self.headers = limiter, latency, jitter, headers
        self.retry_after = retry_after
        self.random = random.Random(seed)
        self.log = []

    async def __call__(self, n):
        pause = self.latency * self.random.uniform(1 - self.jitter, 1 + self.jitter)
        await asyncio.sleep(0.05 * pause / self.latency)
        now = clock()
        wait = self.limiter.refuse(now)
        self.log.append((now, wait is None))
        limits = Limits(requests_per_minute=600) if self.headers else None
        if wait is not None:
            await asyncio.sleep(0.05)
            raise Failure(
                "overload",
                "429 Too Many Requests",
                retry_after=math.ceil(wait) if self.retry_after else None,
                limits=limits,
            )
        await asyncio.sleep(pause)
        return Answer(Reply(text="ok", finish_reason="stop"), limits)

    def let_through(self, start, end):
        return sum(ok for at, ok in self.log if start <= at < end)

    def refused(self, start, end):
        return sum(not ok for at, ok in self.log if start <= at < end)


async def traffic(the_gate, attempt, *, seconds, workers=64, tokens=1000):
    """Keep `workers` calls going for so long; return what each ended with."""
    ends = []

    async def worker():
        while clock() < seconds:
            try:
                await the_gate.run(attempt, tokens=tokens, on_lost=lambda: None)
                ends.append(None)
            except (CharForgeError, Failure) as error:
                ends.append(error)
                if not isinstance(error, NoAnswer):
                    return

    await asyncio.gather(*(worker() for _ in range(workers)))
    return ends


class Script:
    """An attempt that does what a list says, one entry a call, the last one for ever; `sent` holds (time, n)."""

    def __init__(self, *steps, latency=0.2):
        self.steps, self.latency, self.sent = list(steps), latency, []

    async def __call__(self, n):
        self.sent.append((clock(), n))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        await asyncio.sleep(self.latency)
        if isinstance(step, Exception):
            raise step
        return step


OK = Answer(Reply(text="ok", finish_reason="stop"))


def nothing():
    pass


async def ends(*coroutines):
    """Return what each ended with: its result, or its exception."""
    return await asyncio.gather(*coroutines, return_exceptions=True)


# -- a rate, told or learned

SERVERS = {
    "sliding": Sliding,
    "bucket of 600": Bucket,
    "bucket of 10": lambda: Bucket(burst=10),
    "fixed": Fixed,
}


@pytest.mark.parametrize("rpm", [None, 600], ids=["unset", "rpm=600"])
@pytest.mark.parametrize("headers", [False, True], ids=["bare", "headers"])
@pytest.mark.parametrize("server", SERVERS)
def test_600_a_minute_are_used_and_not_overrun(server, headers, rpm):
    endpoint = Endpoint(SERVERS[server](), headers=headers)
    done = virtually(traffic(gate(requests_per_minute=rpm), endpoint, seconds=480))
    ok, refused = endpoint.let_through(60, 480), endpoint.refused(60, 480)
    assert set(done) == {None}
    assert ok >= 0.95 * 7 * 600
    assert refused < 0.01 * (ok + refused)
    if rpm:
        assert endpoint.refused(0, 480) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_rate_is_learned_from_refusals_that_say_nothing_more(seed):
    endpoint = Endpoint(Sliding(), retry_after=False, seed=seed)
    virtually(traffic(gate(), endpoint, seconds=300))
    ok, refused = endpoint.let_through(60, 300), endpoint.refused(60, 300)
    assert ok >= 0.95 * 4 * 600
    assert refused < 0.01 * (ok + refused)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("server", ["sliding", "bucket of 10", "fixed"])
def test_a_rate_is_learned_where_calls_take_long(server, seed):
    endpoint = Endpoint(SERVERS[server](), latency=5.0, seed=seed)
    virtually(traffic(gate(), endpoint, seconds=480))
    ok, refused = endpoint.let_through(60, 480), endpoint.refused(60, 480)
    assert ok >= 0.95 * 7 * 600
    assert refused < 0.01 * (ok + refused)


@pytest.mark.parametrize("make", [lambda: Sliding(300), lambda: Bucket(300, 10), lambda: Bucket(300, 300)])
@pytest.mark.parametrize(("headers", "rpm"), [(False, 600), (True, None)])
def test_a_limit_below_the_one_told_is_learned(make, headers, rpm):
    endpoint = Endpoint(make(), headers=headers)
    virtually(traffic(gate(requests_per_minute=rpm), endpoint, seconds=360))
    ok, refused = endpoint.let_through(60, 360), endpoint.refused(60, 360)
    assert ok >= 0.95 * 5 * 300
    assert refused < 0.01 * (ok + refused)


def test_a_limit_that_is_raised_is_found():
    bucket = Bucket(300, 300)
    endpoint = Endpoint(bucket)

    async def main():
        asyncio.get_running_loop().call_later(200, setattr, bucket, "rate", 20.0)
        await traffic(gate(), endpoint, seconds=900)

    virtually(main())
    assert endpoint.let_through(120, 180) == pytest.approx(300, rel=0.1)
    assert endpoint.let_through(840, 900) >= 0.9 * 1200


def test_a_lone_429_teaches_no_rate():
    calls = iter(range(10**6))

    async def attempt(n):
        await asyncio.sleep(0.2)
        if next(calls) % 100 == 50:
            raise Failure("overload", "429", retry_after=1)
        return OK

    async def main():
        it = gate(concurrency=32)
        await traffic(it, attempt, seconds=60, workers=32)
        return it.stats()

    stats = virtually(main())
    assert stats["rate"] is None
    assert stats["answers"] > 60 * 32 / 1.3  # a pause of 1 s for each 100 calls, and no more than that


def test_a_shower_of_429s_is_one_event():
    endpoint = Endpoint(Sliding(100))

    async def main():
        it = gate(concurrency=64)
        await traffic(it, endpoint, seconds=30)
        return it.stats()

    stats = virtually(main())
    assert stats["overload"] > 10
    assert stats["pauses"] == 1


def test_nothing_is_sent_while_the_endpoint_asks_to_wait():
    attempt = Script(Failure("overload", "429", retry_after=7), OK)

    async def main():
        it = gate()
        first = asyncio.create_task(it.run(attempt, tokens=1, on_lost=nothing))
        await asyncio.sleep(1)
        await asyncio.gather(first, *(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(5)))

    virtually(main())
    assert attempt.sent[0] == (0.0, 1)
    assert attempt.sent[1][1] == 2  # the call that failed goes first
    assert all(at >= 7.2 - 1e-6 for at, _ in attempt.sent[1:])


def test_429s_without_end_are_met_with_ever_longer_pauses():
    attempt = Script(Failure("overload", "429", retry_after=0))
    virtually(ends(gate(deadline=300).run(attempt, tokens=1, on_lost=nothing)))
    assert len(attempt.sent) < 15


# -- budgets


def most_in_a_minute(spent):
    """Return the largest sum of amounts in any 60 s of (time, amount)."""
    window, used, most = deque(), 0, 0
    for at, amount in sorted(spent):
        while window and window[0][0] <= at - 60:
            used -= window.popleft()[1]
        window.append((at, amount))
        used += amount
        most = max(most, used)
    return most


@settings(max_examples=20, deadline=None)
@given(
    rpm=st.integers(1, 400),
    waves=st.lists(st.tuples(st.floats(0, 200), st.integers(1, 100)), min_size=1, max_size=5),
)
def test_requests_per_minute_are_never_exceeded(rpm, waves):
    attempt = Script(OK, Failure("server", "500"), OK)

    async def wave(it, start, calls):
        await asyncio.sleep(start)
        await asyncio.gather(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(calls)))

    async def main():
        it = gate(requests_per_minute=rpm)
        await asyncio.gather(*(wave(it, start, calls) for start, calls in waves))

    virtually(main())
    assert len(attempt.sent) == sum(calls for _, calls in waves) + 1 * (sum(c for _, c in waves) > 1)
    assert most_in_a_minute([(at, 1) for at, _ in attempt.sent]) <= rpm


def test_tokens_per_minute_are_kept_with_estimates_set_right():
    spent = []
    answer = Answer(Reply(text="ok", finish_reason="stop", prompt_tokens=100, completion_tokens=300))

    async def attempt(n):
        spent.append((clock(), 400))
        await asyncio.sleep(2)
        return answer

    virtually(traffic(gate(tokens_per_minute=40_000), attempt, seconds=480, tokens=1000))
    assert most_in_a_minute(spent) <= 40_000
    # 100 calls a minute of 400 tokens, less what those in flight may still need; by the estimates of 1,000 it would be 40.
    assert sum(60 <= at < 480 for at, _ in spent) >= 0.9 * 7 * 100


def test_an_estimate_beyond_the_whole_budget_goes_alone():
    attempt = Script(OK)

    async def main():
        it = gate(tokens_per_minute=1000)
        await asyncio.gather(*(it.run(attempt, tokens=5000, on_lost=nothing) for _ in range(2)))

    virtually(main())
    assert len(attempt.sent) == 2
    assert attempt.sent[1][0] >= 60


def test_what_headers_say_of_tokens_is_heeded():
    answer = Answer(
        Reply(text="ok", finish_reason="stop", prompt_tokens=500, completion_tokens=500),
        Limits(tokens_per_minute=60_000),
    )
    attempt = Script(answer)
    virtually(traffic(gate(), attempt, seconds=300, tokens=1000))
    assert 57 * 4 <= sum(60 <= at < 300 for at, _ in attempt.sent) <= 60 * 4


# -- calls at once


class Capacity:
    """Answers `places` calls at once and refuses the others, with a bare 429; some by chance."""

    def __init__(self, places=math.inf, *, chance=0.0, kind="overload"):
        self.places, self.chance, self.kind = places, chance, kind
        self.busy = self.ok = self.bad = 0
        self.random = random.Random(3)

    async def __call__(self, n):
        await asyncio.sleep(0.02)
        if self.busy >= self.places or self.random.random() < self.chance:
            self.bad += 1
            await asyncio.sleep(0.02)
            raise Failure(self.kind, "busy")
        self.busy += 1
        try:
            await asyncio.sleep(0.2 * self.random.uniform(0.8, 1.2))
        finally:
            self.busy -= 1
        self.ok += 1
        return OK


def test_a_refusal_whose_headers_leave_room_speaks_of_places():
    full = Failure(
        "overload", "503", limits=Limits(requests_per_minute=600, requests_left=500, tokens_left=10**6)
    )
    short = Failure(
        "overload", "429", limits=Limits(requests_per_minute=600, requests_left=500, tokens_left=900)
    )

    async def main(failure):
        it = gate()
        await it.run(Script(failure, OK), tokens=1000, on_lost=nothing)
        return it.stats()["pauses"]

    assert virtually(main(full)) == 0
    assert virtually(main(short)) == 1


@pytest.mark.parametrize("places", [3, 32, 200])
def test_the_number_of_places_is_found(places):
    endpoint = Capacity(places)
    virtually(traffic(gate(), endpoint, seconds=60, workers=256))
    assert endpoint.ok > 0.9 * 60 * places / 0.22
    assert endpoint.bad < (0.1 if places < 16 else 0.02) * endpoint.ok


@pytest.mark.parametrize("kind", ["overload", "timeout"])
def test_chance_failures_do_not_choke(kind):
    endpoint = Capacity(chance=0.05, kind=kind)
    virtually(traffic(gate(), endpoint, seconds=120, workers=64))
    assert endpoint.ok > 0.8 * 120 * 64 / 0.25


def test_concurrency_doubles_in_a_round_trip_until_there_is_trouble():
    starts = []

    async def attempt(n):
        starts.append(clock())
        await asyncio.sleep(1)
        return OK

    virtually(traffic(gate(), attempt, seconds=3.5, workers=256))
    assert [sum(at == second for at in starts) for second in range(4)] == [16, 32, 64, 128]


def test_configured_concurrency_is_used_at_once_and_never_exceeded():
    endpoint = Script(OK)

    async def main():
        it = gate(concurrency=50)
        await traffic(it, endpoint, seconds=10, workers=200)
        return it.stats()

    assert virtually(main())["concurrency_max"] == 50
    assert sum(at == 0 for at, _ in endpoint.sent) == 50


# -- one call


def test_tries_are_numbered_and_backed_off():
    attempt = Script(Failure("server", "502"), Failure("network", "reset"), Failure("timeout", "300 s"), OK)
    assert virtually(gate().run(attempt, tokens=1, on_lost=nothing)) is OK
    assert [n for _, n in attempt.sent] == [1, 2, 3, 4]
    pauses = [b - a - 0.2 for (a, _), (b, _) in pairwise(attempt.sent)]
    assert all(low / 2 <= pause <= low for pause, low in zip(pauses, (0.5, 1, 2), strict=True))


def test_what_may_have_been_paid_for_is_reported():
    lost = []
    attempt = Script(
        Failure("timeout", "stalled", billed=True),
        Failure("network", "refused"),
        Failure("malformed", "not JSON", billed=True),
        OK,
    )
    virtually(gate().run(attempt, tokens=1, on_lost=lambda: lost.append(clock())))
    assert len(lost) == 2


def test_malformed_thrice_is_a_reply():
    attempt = Script(Failure("malformed", "the body is not UTF-8", billed=True))
    answer = virtually(gate().run(attempt, tokens=1, on_lost=nothing))
    assert answer.reply == Reply(
        text="the body is not UTF-8", finish_reason="malformed", facts={"attempts": 3}
    )
    assert len(attempt.sent) == 3


def test_the_deadline_names_tries_and_the_last_failure():
    attempt = Script(Failure("overload", "503 model is loading"))
    (end,) = virtually(ends(gate(deadline=100).run(attempt, tokens=1, on_lost=nothing)))
    assert isinstance(end, NoAnswer)
    spent = flow._span(attempt.sent[-1][0] + 0.2)
    assert end.message == (
        f"mock: no answer after {len(attempt.sent)} tries in {spent}, and the next would be beyond the deadline of "
        "1 min 40 s; the last failure: 503 model is loading"
    )
    assert end.hint == (
        "rerun when it works again; finished work is kept; a longer `deadline` for mock in endpoints.toml may help"
    )


def test_the_deadline_cuts_an_attempt_short():
    lost = []

    async def attempt(n):
        await asyncio.sleep(10**6)

    async def main():
        it = gate(deadline=50)
        (end,) = await ends(it.run(attempt, tokens=1, on_lost=lambda: lost.append(1)))
        return end, clock(), it.stats()["in_flight"]

    end, at, in_flight = virtually(main())
    assert isinstance(end, NoAnswer)
    assert end.message == "mock: no answer after 1 try in 50 s, which is the deadline of a call"
    assert (at, in_flight, lost) == (50.0, 0, [1])


def test_the_deadline_counts_from_the_first_send():
    attempt = Script(OK, latency=30)

    async def main():
        it = gate(concurrency=1, deadline=40)
        return await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(5)))

    assert virtually(main()) == [OK] * 5


def test_a_pause_beyond_the_deadline_ends_the_call_at_once():
    attempt = Script(Failure("overload", "429 Too Many Requests", retry_after=200))

    async def main():
        (end,) = await ends(gate(deadline=100).run(attempt, tokens=1, on_lost=nothing))
        return end, clock()

    end, at = virtually(main())
    assert at == pytest.approx(0.2)
    assert isinstance(end, NoAnswer)
    assert end.message == (
        "mock: no answer after 1 try in 0.2 s; it asks to wait 3 min 20 s, beyond the deadline of 1 min 40 s; "
        "the last failure: 429 Too Many Requests"
    )


def test_nobody_waits_out_a_quota_of_a_day():
    attempt = Script(Failure("overload", "429 daily quota", retry_after=7200))

    async def main():
        it = gate(concurrency=4)
        first = await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(64)))
        return first, await ends(it.run(attempt, tokens=1, on_lost=nothing)), clock()

    first, then, at = virtually(main())
    assert at < 1
    assert len(attempt.sent) == 4
    assert {type(end) for end in first + then} == {NoAnswer}
    assert then[0].message == "mock: the endpoint asks to wait 2 h before the next call: 429 daily quota"


def test_a_lanes_own_timeout_error_is_not_taken_for_the_deadline():
    (end,) = virtually(ends(gate().run(Script(TimeoutError("a bug")), tokens=1, on_lost=nothing)))
    assert (type(end), str(end)) == (TimeoutError, "a bug")


# -- the endpoint


def test_a_wrong_key_ends_all_who_wait_and_none_is_sent():
    attempt = Script(WrongKey("mock: refused the key", "set MOCK_KEY"))

    async def main():
        it = gate(concurrency=1)
        all_ends = await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(64)))
        return all_ends + await ends(it.run(attempt, tokens=1, on_lost=nothing)), clock()

    all_ends, at = virtually(main())
    assert at == pytest.approx(0.2)
    assert len(attempt.sent) == 1
    assert {(type(end), end.message, end.hint) for end in all_ends} == {
        (WrongKey, "mock: refused the key", "set MOCK_KEY")
    }
    assert len({id(end) for end in all_ends}) == 65  # one object in 65 tasks would gather 65 tracebacks


def test_a_place_given_in_the_moment_of_the_end_is_not_used():
    """The key is found wrong between the moment a waiting call gets its place and the moment it wakes."""
    attempt = Script(OK, WrongKey("mock: refused the key"))

    async def main():
        it = gate(concurrency=2)
        result = await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(10)))
        return result, it.stats()

    result, stats = virtually(main())
    assert sum(end is OK for end in result) == 1
    assert len(attempt.sent) == 2
    assert stats["in_flight"] == stats["waiting"] == 0


def test_calls_in_flight_land_when_the_endpoint_ends():
    async def slow(n):
        await asyncio.sleep(60)
        return OK

    async def main():
        it = gate()
        landing = asyncio.create_task(it.run(slow, tokens=1, on_lost=nothing))
        await ends(it.run(Script(WrongKey("no")), tokens=1, on_lost=nothing))
        return await landing

    assert virtually(main()) is OK


def test_bad_requests_are_not_tried_again_and_sixteen_of_nothing_else_end_the_endpoint():
    attempt = Script(
        BadRequest("mock: no such model 'gpt-5o'", "check its name"), BadRequest("mock: the same again")
    )

    async def main():
        it = gate(concurrency=1)
        return await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(30)))

    all_ends = virtually(main())
    assert len(attempt.sent) == 16
    assert [type(end) for end in all_ends] == [BadRequest] * 15 + [RefusesAll] * 15
    assert all_ends[-1].message == (
        "mock: the endpoint called all of the first 16 requests bad; the first: mock: no such model 'gpt-5o'"
    )
    assert all_ends[-1].hint == "check its name"


def test_bad_requests_after_an_answer_are_their_own_affair():
    attempt = Script(OK, BadRequest("bad"))

    async def main():
        it = gate(concurrency=1)
        return await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(40)))

    assert [type(end) for end in virtually(main())] == [Answer] + [BadRequest] * 39


class Outage:
    """Down from `start` to `end`."""

    def __init__(self, start, end, *, kind="network", latency=0.2):
        self.start, self.end, self.kind, self.latency = start, end, kind, latency
        self.tries = []

    async def __call__(self, n):
        await asyncio.sleep(self.latency)
        if self.start <= clock() < self.end:
            self.tries.append(clock())
            raise Failure(self.kind, "connection refused")
        return OK


def test_an_outage_is_sat_out_with_single_probes():
    endpoint = Outage(30, 90)
    done = virtually(traffic(gate(patience=120), endpoint, seconds=150))
    assert set(done) == {None}
    assert len(endpoint.tries) <= 64 + 10
    probes = [at for at in endpoint.tries if at > 31]
    assert all(b - a > 0.5 for a, b in pairwise(probes))


def test_an_endpoint_that_stays_down_ends_everyone_after_its_patience(monkeypatch):
    monkeypatch.setattr(flow, "_time_of_day", lambda ago: "14:03:22")
    endpoint = Outage(30, math.inf)

    async def main():
        done = await traffic(gate(patience=120), endpoint, seconds=10_000)
        return done, clock()

    done, at = virtually(main())
    down = [end for end in done if end is not None]
    assert at == pytest.approx(150, abs=2)
    assert len(down) == 64
    assert {type(end) for end in down} == {EndpointDown}
    assert down[0].message.startswith(
        "mock: the endpoint is down: no answer for 2 min, since 14:03:22; the last of "
    )
    assert down[0].message.endswith("failures: connection refused")
    assert (
        down[0].hint == "check the network and the endpoint; rerun when it works again; finished work is kept"
    )


def test_an_endpoint_that_was_never_up_ends_the_only_call():
    (end,) = virtually(
        ends(gate(patience=20).run(Outage(0, math.inf, kind="server"), tokens=1, on_lost=nothing))
    )
    assert isinstance(end, EndpointDown)


def test_flapping_is_no_outage():
    dice = random.Random(5)

    async def attempt(n):
        await asyncio.sleep(0.2)
        if dice.random() < 0.5:
            raise Failure("server", "500")
        return OK

    done = virtually(traffic(gate(), attempt, seconds=120))
    assert set(done) == {None}
    assert len(done) > 1000


def test_a_probe_that_is_cancelled_lets_the_next_one_probe():
    endpoint = Outage(0, 60, latency=5)

    async def main():
        it = gate(patience=600)
        calls = [asyncio.create_task(it.run(endpoint, tokens=1, on_lost=nothing)) for _ in range(20)]
        await asyncio.sleep(12)
        for call in calls[:15]:
            call.cancel()
        return await ends(*calls)

    assert [type(end) for end in virtually(main())][15:] == [Answer] * 5


# -- places


def test_a_cancelled_call_frees_its_place_and_one_that_waits_leaves_the_queue():
    lost = []

    async def main():
        it = gate(concurrency=1)
        attempt = Script(OK, latency=10)
        calls = [
            asyncio.create_task(it.run(attempt, tokens=1, on_lost=lambda: lost.append(1))) for _ in range(4)
        ]
        await asyncio.sleep(1)
        calls[0].cancel()
        calls[2].cancel()
        result = await ends(*calls)
        return [type(end) for end in result], clock(), it.stats()

    result, at, stats = virtually(main())
    assert result == [asyncio.CancelledError, Answer, asyncio.CancelledError, Answer]
    assert at == 21
    assert (stats["in_flight"], stats["waiting"], lost) == (0, 0, [1])


def test_a_call_cancelled_in_the_moment_of_its_turn_passes_it_on():
    async def main():
        it = gate(concurrency=1)
        attempt = Script(OK, latency=1)
        calls = [asyncio.create_task(it.run(attempt, tokens=1, on_lost=nothing)) for _ in range(3)]
        asyncio.get_running_loop().call_at(1.0, lambda: None)
        await calls[0]
        calls[1].cancel()  # it has its ticket, and has not woken yet
        return await ends(*calls), it.stats()["in_flight"]

    result, in_flight = virtually(main())
    assert [type(end) for end in result] == [Answer, asyncio.CancelledError, Answer]
    assert in_flight == 0


def test_first_come_first_served():
    order = []

    async def main():
        it = gate(concurrency=2)

        async def call(k):
            async def attempt(n):
                order.append(k)
                await asyncio.sleep(1)
                return OK

            await it.run(attempt, tokens=1, on_lost=nothing)

        await asyncio.gather(*(call(k) for k in range(20)))

    virtually(main())
    assert order == list(range(20))


STEPS = st.sampled_from(
    [
        OK,
        Failure("overload", "busy"),
        Failure("overload", "429", retry_after=2),
        Failure(
            "overload", "429", limits=Limits(requests_per_minute=100, requests_left=0, requests_reset_s=3)
        ),
        Failure("server", "500"),
        Failure("network", "reset", billed=True),
        Failure("timeout", "stalled", billed=True),
        Failure("malformed", "not JSON", billed=True),
        BadRequest("bad"),
        WrongKey("no"),
        ValueError("a bug in a lane"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(STEPS, st.floats(0, 5)), min_size=1, max_size=60),
    calls=st.integers(1, 40),
    concurrency=st.one_of(st.none(), st.integers(1, 20)),
    rpm=st.one_of(st.none(), st.integers(20, 1000)),
    cancelled=st.lists(st.tuples(st.integers(0, 39), st.floats(0, 20)), max_size=5),
)
def test_each_call_ends_once_and_no_place_is_lost(steps, calls, concurrency, rpm, cancelled):
    script = iter(steps)
    flying = []

    async def main():
        it = gate(concurrency=concurrency, requests_per_minute=rpm, deadline=60, patience=30)
        running = 0

        async def attempt(n):
            nonlocal running
            running += 1
            flying.append((running, it.stats()["in_flight"]))
            try:
                step, latency = next(script, (OK, 0.1))
                await asyncio.sleep(latency)
                if isinstance(step, Exception):
                    raise step
                return step
            finally:
                running -= 1

        tasks = [asyncio.create_task(it.run(attempt, tokens=10, on_lost=nothing)) for _ in range(calls)]
        for which, at in cancelled:
            if which < calls:
                asyncio.get_running_loop().call_later(at, tasks[which].cancel)
        await ends(*tasks)
        assert all(task.done() for task in tasks)
        assert (it.stats()["in_flight"], it.stats()["waiting"]) == (0, 0)
        # The gate works on, if the endpoint was not given up.
        (end,) = await ends(it.run(Script(OK), tokens=10, on_lost=nothing))
        assert end is OK or isinstance(end, WrongKey | EndpointDown | RefusesAll)

    virtually(main())
    assert all(own <= counted for own, counted in flying)
    if concurrency is not None:
        assert all(counted <= concurrency for _, counted in flying)


def test_a_gate_keeps_nothing_of_the_calls_that_went_through():
    async def attempt(n):
        await asyncio.sleep(0.001)
        return OK

    async def main():
        it = gate(requests_per_minute=10**7, tokens_per_minute=10**9)

        async def some(calls):
            for _ in range(calls // 50):
                await asyncio.gather(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(50)))
            gc.collect()
            return len(gc.get_objects())

        await some(1000)
        return await some(1000), await some(10_000)

    before, after = virtually(main())
    assert after - before < 700  # a slot for each tenth of a second, of the last minute at most


def test_a_gate_outlives_its_event_loop():
    it = Gate("mock", requests_per_minute=6000, rng=random.Random(1))

    async def attempt(n):
        return OK

    async def main():
        tasks = [asyncio.create_task(it.run(attempt, tokens=1, on_lost=nothing)) for _ in range(3)]
        await tasks[0]
        for task in tasks:
            task.cancel()
        await ends(*tasks)

    for _ in range(2):
        asyncio.run(main())
    assert it.stats()["in_flight"] == 0


# -- what a user hears


def test_a_user_hears_when_an_endpoint_is_down_and_when_it_answers_again():
    heard = []
    virtually(traffic(gate(patience=120, tell=heard.append), Outage(30, 60), seconds=100))
    assert heard == [
        "mock: no answer to anybody (connection refused); trying again, for 2 min at most",
        "mock: answers again",
    ]


def test_a_user_hears_of_a_long_pause_once():
    heard = []
    attempt = Script(*[Failure("overload", "429 Too Many Requests", retry_after=42)] * 2, OK)
    virtually(ends(*(gate(tell=heard.append).run(attempt, tokens=1, on_lost=nothing) for _ in range(1))))
    assert heard[0] == "mock: asks to wait 42 s (429 Too Many Requests)"
    assert len(heard) <= 2


def test_a_user_hears_of_a_call_that_is_tried_again_and_again():
    heard = []
    attempt = Script(*[Failure("server", "500 oops")] * 4, OK)
    virtually(ends(gate(tell=heard.append).run(attempt, tokens=1, on_lost=nothing)))
    assert heard == ["mock: no answer to a call after 3 tries (500 oops); trying again"]


@pytest.mark.parametrize("retry_after", [None, 1, 30])
def test_an_endpoint_that_refuses_everybody_for_ever_ends_them_all_in_the_time_of_one_call(retry_after):
    async def attempt(n):
        await asyncio.sleep(0.2)
        raise Failure("overload", "429 Too Many Requests", retry_after=retry_after)

    async def main():
        it = gate(deadline=900)
        done = await ends(*(it.run(attempt, tokens=1, on_lost=nothing) for _ in range(64)))
        return done, clock()

    done, at = virtually(main())
    assert at < 900 + 120  # without an end to it: thirteen hours
    assert {type(end) for end in done} == {EndpointDown, NoAnswer}
    down = next(end for end in done if isinstance(end, EndpointDown))
    assert down.message.startswith("mock: the endpoint gives no answer, only refusals, for 1")
