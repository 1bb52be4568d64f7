"""The gate in front of a remote endpoint: how many calls at once, how many a minute, what to try again, when to give up.

A lane knows how to send one request; the gate knows when, and how often. Two kinds of "too much" are told apart:

- *too many at once* (a 429 or 503 that says nothing more, a stall): the number of calls in flight is cut, and grows again;
- *too many a minute* (a 429 with Retry-After or with limit headers): the endpoint is left alone until then, and calls
  are spaced out from then on, at the configured rate, the one its headers name, or one learned from what it let through.

Everything here is arithmetic on counters: no task per call, no lock, no scan over those that wait; with no trouble a call
costs some microseconds. Knows no transport, no provider, no key and no money. A gate belongs to one event loop at a time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from charforge.errors import CharForgeError
from charforge.llm.errors import BadRequest, EndpointDown, EndpointError, NoAnswer, RefusesAll
from charforge.llm.rate import MINUTE, Rate, Window
from charforge.llm.request import Reply
from charforge.llm.width import Width

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FailureKind = Literal["overload", "server", "network", "timeout", "malformed"]

# -- calls a minute
_UNDER_TOLD = 0.99
"""Of a rate that we were told: clocks differ, and calls overtake one another on the way."""
_CATCH_UP = 0.5
"""Seconds of rate made up after a pause of a second or more: Retry-After is whole seconds, rounded up."""
_SLACK_S = 0.05
"""A timer may be late by this much without the rate suffering."""
_SELDOM = 200
"""Answers to one 429 from which on a 429 is no mere noise."""
_LONGEST_PAUSE_S = 600.0
"""A call that was never sent waits this long for an endpoint that asked for a pause; its deadline has not begun."""

_BARE, _BARE_S, _FEW = 12, 2.0, 4
"""Refusals that say nothing more, in a row and for so many seconds, with so few calls in flight: it is the rate after all."""
_BARE_PAUSE_MAX_S = 2.0
"""Between two looks whether such an endpoint takes calls again."""

# -- one call
_BACKOFF_S, _BACKOFF_MAX_S = 0.5, 30.0
_MALFORMED_TRIES = 3

# -- the endpoint
_DOWN_AFTER = 10
"""Failures in a row, of all calls together, after which the endpoint counts as down."""
_PROBE_S, _PROBE_MAX_S = 1.0, 20.0
_ALL_BAD = 16
"""Bad requests, and never an answer, after which a setting is to blame."""

_TELL_AGAIN_S = 30.0
"""Between two notes of the same kind."""
_LONG_PAUSE_S = 10.0
"""A pause worth a note."""

_RERUN = "rerun when it works again; finished work is kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an endpoint's headers say of its limits. Unknown: None. `…_left` until the minute is over, `…_reset_s` seconds."""

    requests_per_minute: float | None = None
    requests_left: float | None = None
    requests_reset_s: float | None = None
    tokens_per_minute: float | None = None
    tokens_left: float | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and what the endpoint said of its limits on the way."""

    reply: Reply
    limits: Limits | None = None


class Failure(Exception):
    """One attempt failed in a way that is worth another.

    `text` is short and free of keys. `retry_after` is in seconds from now. `billed`: the attempt had been sent and may have
    to be paid for.
    """

    def __init__(
        self,
        kind: FailureKind,
        text: str,
        *,
        retry_after: float | None = None,
        limits: Limits | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.retry_after = retry_after
        self.limits = limits
        self.billed = billed


class _Ticket:
    """The right to send once. `serial` counts what the gate sent; `spent` is the token window's slot."""

    __slots__ = ("at", "limited", "probe", "serial", "spent", "tokens")

    def __init__(self, serial: int, at: float, tokens: float) -> None:
        self.serial = serial
        self.at = at
        self.tokens = tokens
        self.probe = False
        self.limited = False  # by a rate: what its failure said
        self.spent: list[float] | None = None


class Gate:
    """Lets calls through to one endpoint.

    `name`: the endpoint's, for messages. `concurrency`: calls in flight at most; None: found by trying. `…_per_minute`: never
    exceeded in any 60 s; None: found by trying. `deadline`: seconds for one call, from its first send. `patience`: seconds
    that the endpoint may be down. `tell` hears, in words for the user, why nothing moves for a while. `clock` runs with the
    event loop's time; `sleep` and `rng` are for tests.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        deadline: float = 900.0,
        patience: float = 120.0,
        tell: Callable[[str], None] = lambda _note: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._deadline = deadline
        self._patience = patience
        self._tell = tell
        self._told_at: dict[str, float] = {}  # kind of note → when
        self._clock = clock
        self._sleep = sleep
        self._rng = random.Random() if rng is None else rng  # noqa: S311 - jitter, no secret

        # Who waits. Calls that failed before go first: their deadline runs. A future's result is a ticket, or None: look why.
        self._again: deque[tuple[asyncio.Future[_Ticket | None], float]] = deque()
        self._fresh: deque[tuple[asyncio.Future[_Ticket | None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._loop: asyncio.AbstractEventLoop | None = None

        self._in_flight = 0
        self._concurrency = concurrency
        self._width = Width(concurrency)
        self._refusals = 0  # bare ones since the last answer
        self._refusing_since = 0.0
        self._bare_is_rate = False

        # Calls and tokens a minute.
        self._requests = None if requests_per_minute is None else Window(max(1.0, requests_per_minute))
        self._tokens = None if tokens_per_minute is None else Window(max(1.0, tokens_per_minute))
        self._own_rpm = math.inf if requests_per_minute is None else requests_per_minute
        self._own_tpm = math.inf if tokens_per_minute is None else tokens_per_minute
        # Calls and tokens a second, of the user's figure or the headers', the smaller.
        self._told = _UNDER_TOLD * self._own_rpm / MINUTE
        self._told_tokens = _UNDER_TOLD * self._own_tpm / MINUTE
        self._limits: Limits | None = None
        self._learned = Rate()
        self._next = self._next_tokens = -math.inf  # when the pace allows the next call
        self._catch_up, self._credit, self._caught_up = _CATCH_UP, 0.0, -math.inf
        self._release = -math.inf  # nothing is sent before

        # The last 429 that speaks of a rate and came alone or first, and what is known of it until its pause is over.
        self._event_at = -math.inf
        self._event: int | None = None  # the serial of the call that got it
        self._beside = 0  # calls in flight then
        self._shower = self._shower_after = (
            0  # 429s with it, itself among them; of those, to calls sent after it
        )
        self._unclear = 0  # such events in a row that may have been noise
        self._in_vain = 0  # such events in a row without an answer between them
        self._answers_then = 0
        self._since_pause = 0  # answers between the last event and the one before

        # The endpoint.
        self._ended: EndpointError | None = None  # why nothing will be sent any more
        self._fruitless_since: float | None = None  # the first failure, of any kind, after the last answer
        self._failing = 0  # failures in a row that say it is down
        self._failing_since = 0.0
        self._down = False
        self._probing = False
        self._probes = 0
        self._probe_at = 0.0
        self._last_failure = ""
        self._bad = 0
        self._first_bad: BadRequest | None = None

        self._sent = self._answers = self._turned_away = 0
        self._counts = dict.fromkeys(("overload", "server", "network", "timeout", "malformed", "final"), 0)
        self._pauses = 0
        self._most_in_flight = 0

    async def run(
        self, attempt: Callable[[int], Awaitable[Answer]], *, tokens: int, on_lost: Callable[[], None]
    ) -> Answer:
        """Return the answer of `attempt`, tried as often as it helps; `attempt(n)` sends once, n counts from 1.

        `tokens`: estimate of prompt and completion, set right by the reply's own counts. `on_lost` is called for each attempt
        without an answer that may have to be paid for, one cut short by the deadline or by cancellation among them.
        Raises the CharForgeErrors of `attempt`, EndpointError where the endpoint is of no use, NoAnswer at the deadline.
        """
        ticket = await self._enter(tokens, self._fresh)
        began = ticket.at
        failure: Failure | None = None
        tries = malformed = 0
        try:
            async with asyncio.timeout(None if self._deadline == math.inf else self._deadline) as scope:
                while True:
                    tries += 1
                    try:
                        return await self._once(ticket, attempt, tries, on_lost)
                    except Failure as error:
                        failure = error
                    if failure.kind == "malformed":
                        malformed += 1
                        if malformed == _MALFORMED_TRIES:
                            reply = Reply(
                                text=failure.text, finish_reason="malformed", facts={"attempts": tries}
                            )
                            return Answer(reply, failure.limits)
                    await self._back_off(ticket, tries, began, failure)
                    ticket = await self._enter(tokens, self._again)
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._no_answer(tries, began, failure) from failure

    def stats(self) -> dict[str, float | int | None]:
        """Return counters: attempts, answers, failures by kind, and where limit and rate (a minute) stand."""
        rate = self._pace()
        return {
            "attempts": self._sent,
            "answers": self._answers,
            **self._counts,
            "pauses": self._pauses,
            "in_flight": self._in_flight,
            "waiting": len(self._again) + len(self._fresh),
            "concurrency": self._width.limit,
            "concurrency_max": self._most_in_flight,
            "rate": None if rate == math.inf else round(rate * MINUTE, 1),
        }

    # -- one call

    async def _once(
        self,
        ticket: _Ticket,
        attempt: Callable[[int], Awaitable[Answer]],
        tries: int,
        on_lost: Callable[[], None],
    ) -> Answer:
        try:
            answer = await attempt(tries)
        except Failure as failure:
            self._failed(ticket, failure)
            if failure.billed:
                on_lost()
            raise
        except CharForgeError as error:
            self._final(error)
            if isinstance(error, BadRequest) and isinstance(self._ended, RefusesAll):
                raise _copy(self._ended) from error
            raise
        except asyncio.CancelledError:
            on_lost()
            raise
        else:
            self._answered(ticket, answer)
            return answer
        finally:
            self._leave(ticket)

    async def _back_off(self, ticket: _Ticket, tries: int, began: float, failure: Failure) -> None:
        """Wait as long as this call has to; raise NoAnswer where its deadline comes before the end of that."""
        now = self._clock()
        left = began + self._deadline - now
        if ticket.limited:
            # The gate itself waits, and lets this one in first.
            if self._release - now >= left:
                raise self._no_answer(tries, began, failure, wait=self._release - now)
            return
        pause = min(_BACKOFF_S * 2.0 ** min(tries - 1, 10), _BACKOFF_MAX_S) * self._rng.uniform(0.5, 1.0)
        pause = max(pause, failure.retry_after or 0.0)
        if tries >= 3 and not self._down:
            self._note(
                "retry", f"no answer to a call after {tries} tries ({failure.text}); trying again", now
            )
        if pause >= left:
            raise self._no_answer(tries, began, failure, wait=pause)
        await self._sleep(pause)

    def _no_answer(self, tries: int, began: float, failure: Failure | None, wait: float = 0.0) -> NoAnswer:
        spent = self._clock() - began
        text = f"{self.name}: no answer after {_many(tries, 'try', 'tries')} in {_span(spent)}"
        if failure is not None and failure.retry_after and wait:
            text += f"; it asks to wait {_span(wait)}, beyond the deadline of {_span(self._deadline)}"
        elif spent < self._deadline:
            text += f", and the next would be beyond the deadline of {_span(self._deadline)}"
        if failure is not None:
            text += f"; the last failure: {failure.text}"
        elif tries:
            text += ", which is the deadline of a call"
        return NoAnswer(text, f"{_RERUN}; a longer `deadline` for {self.name} in endpoints.toml may help")

    # -- who may send, and when

    async def _enter(
        self, tokens: float, queue: deque[tuple[asyncio.Future[_Ticket | None], float]]
    ) -> _Ticket:
        """Wait for a place; return the ticket, which must be given to `_leave`. Raises where waiting is of no use."""
        now = self._clock()
        self._refuse(now)
        if (
            not self._again
            and (queue is self._again or not self._fresh)
            and self._ready_at(tokens, now) <= now
        ):
            return self._grant(tokens, now)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a timer of a loop that ended never fires
            self._loop, self._timer, self._timer_at = loop, None, math.inf
        future: asyncio.Future[_Ticket | None] = loop.create_future()
        queue.append((future, tokens))
        self._pump()
        try:
            ticket = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                given = future.result()
                if given is not None:
                    self._unsend(given)
            raise
        if self._ended is not None and ticket is not None:
            self._unsend(ticket)
            ticket = None
        if ticket is None:
            self._refuse(self._clock())
            raise AssertionError("let go without a reason")
        return ticket

    def _refuse(self, now: float) -> None:
        """Raise where nothing will be sent in time."""
        if self._ended is not None:
            raise _copy(self._ended)
        if self._pauses_too_long(now):
            raise NoAnswer(
                f"{self.name}: the endpoint asks to wait {_span(self._release - now)} before the next call: "
                f"{self._last_failure}",
                f"a quota may be used up; {_RERUN}",
            )

    def _pauses_too_long(self, now: float) -> bool:
        return self._release - now > max(self._deadline, _LONGEST_PAUSE_S)

    def _ready_at(self, tokens: float, now: float) -> float:
        """Return when the next call may go, for all that is known now; inf: when another one lands."""
        if self._in_flight >= self._width.limit:
            return math.inf
        if now < self._release:
            return self._release
        if self._down:
            return math.inf if self._probing else self._probe_at
        at = max(self._next, self._next_tokens)
        if at > now:
            return at
        if self._requests is not None:
            at = max(at, self._requests.room_at(1, now))
        if self._tokens is not None:
            at = max(at, self._tokens.room_at(tokens, now))
        return at

    def _grant(self, tokens: float, now: float) -> _Ticket:
        if self._event is not None:
            self._learn()
        if self._in_flight == 0 and now - self._next > 1.0:
            self._learned.start(now, self._sent - self._turned_away)
        self._sent += 1
        self._in_flight += 1
        if self._in_flight > self._width.peak:
            self._width.peak = self._in_flight
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        ticket = _Ticket(self._sent, now, tokens)
        if self._down:
            self._probing = ticket.probe = True
        rate = self._pace()
        earliest = now - _SLACK_S
        if rate == math.inf:
            self._next = now
        else:
            interval = 1 / rate
            if self._next > earliest:
                self._learned.paced(interval)
            if self._credit > 0:
                interval /= 2
                self._credit -= interval
            self._next = max(self._next, earliest) + interval
        if self._told_tokens != math.inf:
            # A second of slack: answers give back what their estimates took too much.
            self._next_tokens = max(self._next_tokens, now - 1.0) + tokens / self._told_tokens
        if self._requests is not None:
            self._requests.spend(1, now)
        if self._tokens is not None:
            ticket.spent = self._tokens.spend(tokens, now)
        return ticket

    def _pace(self) -> float:
        return min(self._told, self._learned.now())

    def _leave(self, ticket: _Ticket) -> None:
        self._in_flight -= 1
        if ticket.probe:
            self._probing = False
        if self._again or self._fresh:
            self._pump()

    def _unsend(self, ticket: _Ticket) -> None:
        """Give back a ticket that was not used."""
        self._spent(ticket, 0)
        self._leave(ticket)

    def _pump(self) -> None:
        """Let in whoever may go now; set the timer for the next."""
        now = self._clock()
        while True:
            queue = self._again or self._fresh
            if not queue:
                return
            future, tokens = queue[0]
            if future.done():  # cancelled while it waited
                queue.popleft()
                continue
            at = self._ready_at(tokens, now)
            if at > now:
                break
            queue.popleft()
            future.set_result(self._grant(tokens, now))
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            assert self._loop is not None
            self._timer_at = at
            self._timer = self._loop.call_later(max(at - now, 1e-4), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._pump()

    def _let_go(self) -> None:
        """Wake all who wait, to be told why they wait in vain."""
        for queue in (self._again, self._fresh):
            for future, _ in queue:
                if not future.done():
                    future.set_result(None)
            queue.clear()

    # -- what came of it

    def _answered(self, ticket: _Ticket, answer: Answer) -> None:
        self._answers += 1
        self._failing = self._in_vain = self._refusals = 0
        self._fruitless_since = None
        if self._down:
            self._up()
        if answer.limits is not None and answer.limits != self._limits:
            self._heed(answer.limits)
        reply = answer.reply
        if reply.prompt_tokens is not None and reply.completion_tokens is not None:
            self._spent(ticket, reply.prompt_tokens + reply.completion_tokens)
        self._width.answered(ticket.at, self._in_flight, self._clock)

    def _failed(self, ticket: _Ticket, failure: Failure) -> None:
        now = self._clock()
        self._counts[failure.kind] += 1
        self._last_failure = failure.text
        if failure.limits is not None:
            self._heed(failure.limits)
        ticket.limited = _speaks_of_rate(failure, ticket.tokens) or self._rate_after_all(failure, now)
        if failure.kind == "overload":
            self._turned_away += 1
        if not failure.billed:
            self._spent(ticket, 0)
        if failure.kind == "malformed":
            self._failing = 0
            if self._down:
                self._up()
        elif ticket.limited:
            self._pause(ticket, failure, now)
        elif failure.kind in ("overload", "timeout"):
            self._width.crowded(ticket.at, self._in_flight, now)
        if failure.kind in ("server", "network", "timeout"):
            if self._failing == 0:
                self._failing_since = now
            self._failing += 1
        self._check_down(ticket, failure, now)
        self._check_fruitless(failure, now)

    def _final(self, error: CharForgeError) -> None:
        self._counts["final"] += 1
        if isinstance(error, BadRequest):
            self._failing = 0
            if self._down:
                self._up()
            self._bad += 1
            if self._first_bad is None:
                self._first_bad = error
            if self._bad >= _ALL_BAD and not self._answers:
                self._end(
                    RefusesAll(
                        f"{self.name}: the endpoint called all of the first {self._bad} requests bad; "
                        f"the first: {self._first_bad.message}",
                        self._first_bad.hint or f"check the model's name and the settings; {_RERUN}",
                    )
                )
        elif isinstance(error, EndpointError):
            self._end(error)

    def _end(self, error: EndpointError) -> None:
        if self._ended is None:
            self._ended = error
        self._let_go()

    # -- calls a minute

    def _pause(self, ticket: _Ticket, failure: Failure, now: float) -> None:
        """Leave the endpoint alone, for as long as it asks. A shower of 429s to calls sent together is one event."""
        pause = failure.retry_after
        if pause is None:
            # A reset may be that of the next call or that of the whole bucket: believe it step by step.
            resets = failure.limits and (failure.limits.requests_reset_s or failure.limits.tokens_reset_s)
            pause = min(resets or 1.0, 2.0 ** min(self._in_vain, 6))
        most = _BARE_PAUSE_MAX_S if self._bare_is_rate and failure.retry_after is None else 60.0
        if ticket.at >= self._event_at and now >= self._release:
            if self._in_vain:
                pause = max(pause, min(2.0 ** (self._in_vain - 1), most) * self._rng.uniform(0.5, 1.0))
            self._event_at, self._event = now, ticket.serial
            self._shower, self._shower_after, self._beside = 1, 0, self._in_flight
            self._since_pause = self._answers - self._answers_then
            self._answers_then = self._answers
            self._in_vain += 1
            self._pauses += 1
        elif self._event is not None:
            self._shower += 1
            self._shower_after += ticket.serial > self._event
        self._release = max(self._release, now + pause)
        if pause >= _LONG_PAUSE_S:
            self._note("pause", f"asks to wait {_span(pause)} ({failure.text})", now)
        if self._pauses_too_long(now):
            self._let_go()

    def _rate_after_all(self, failure: Failure, now: float) -> bool:
        """Say whether a refusal that says nothing more speaks of a rate: where few calls at once are refused like many."""
        if failure.kind != "overload":
            return False
        if not self._refusals:
            self._refusing_since = now
        self._refusals += 1
        if (
            not self._bare_is_rate
            and self._refusals >= _BARE
            and now - self._refusing_since >= _BARE_S
            and self._width.limit <= _FEW
        ):
            self._bare_is_rate = True
            self._width = Width(self._concurrency)  # its cuts were for nothing
        return self._bare_is_rate

    def _learn(self) -> None:
        """Take in the last event, now that its pause is over and what was refused with it has come back."""
        assert self._event is not None
        after = self._sent - self._event
        lone = 2 * self._shower_after < after
        if self._shower >= max(3, self._beside / 4):
            lone = False
        elif after < 3 and self._learned.known == math.inf:
            # Too few went with it to tell. It is the limit if it comes to that again and again.
            self._unclear += 1
            lone = lone or (self._unclear < 3 and self._since_pause < _SELDOM)
        else:
            self._unclear = 0
        self._learned.learn(
            self._release,
            self._release - self._event_at,
            self._sent - self._turned_away,
            lone=lone,
            told=self._told / _UNDER_TOLD,
        )
        self._event = None
        # A bucket too small to save up while we paused answers the catching up with another 429.
        if self._event_at < self._caught_up + 2.0:
            self._catch_up /= 2
        # A few calls at most: what a bucket is sure to hold.
        self._credit = min(self._catch_up * min(1.0, self._release - self._event_at), 5 / self._pace())
        self._caught_up = self._release
        self._next = max(self._next, self._release)

    def _heed(self, limits: Limits) -> None:
        self._limits = limits
        if limits.requests_per_minute:
            self._told = _UNDER_TOLD * min(self._own_rpm, limits.requests_per_minute) / MINUTE
        if limits.tokens_per_minute:
            self._told_tokens = _UNDER_TOLD * min(self._own_tpm, limits.tokens_per_minute) / MINUTE

    def _spent(self, ticket: _Ticket, tokens: float) -> None:
        """Set a ticket's estimate right."""
        more = tokens - ticket.tokens
        ticket.tokens = tokens
        if self._told_tokens != math.inf:
            self._next_tokens += more / self._told_tokens
        if ticket.spent is not None and self._tokens is not None:
            self._tokens.correct(ticket.spent, more)

    # -- down and up

    def _check_fruitless(self, failure: Failure, now: float) -> None:
        """End it all where nobody had an answer for as long as one call may take: those that wait would wait for hours."""
        if self._fruitless_since is None:
            self._fruitless_since = now
        elif now - self._fruitless_since >= self._deadline and self._ended is None:
            self._end(
                EndpointDown(
                    f"{self.name}: the endpoint gives no answer, only refusals, for {_span(now - self._fruitless_since)}; "
                    f"the last: {failure.text}",
                    f"check the account's limits and the endpoint; {_RERUN}",
                )
            )

    def _check_down(self, ticket: _Ticket, failure: Failure, now: float) -> None:
        if not self._down:
            if self._failing < _DOWN_AFTER:
                return
            self._down = True
            self._probes = 0
            self._note(
                "down",
                f"no answer to anybody ({failure.text}); trying again, for {_span(self._patience)} at most",
                now,
            )
        elif not ticket.probe:
            return
        elif failure.kind != "overload" and now - self._failing_since >= self._patience:
            for_s = now - self._failing_since
            self._end(
                EndpointDown(
                    f"{self.name}: the endpoint is down: no answer for {_span(for_s)}, since {_time_of_day(for_s)}; "
                    f"the last of {_many(self._failing, 'failure', 'failures')}: {failure.text}",
                    f"check the network and the endpoint; {_RERUN}",
                )
            )
            return
        pause = min(_PROBE_S * 2.0 ** min(self._probes, 10), _PROBE_MAX_S) * self._rng.uniform(0.75, 1.0)
        self._probes += 1
        self._probe_at = now + pause
        # The last probe comes when patience ends, not after.
        ends = self._failing_since + self._patience
        if now < ends:
            self._probe_at = min(self._probe_at, ends)

    def _note(self, kind: str, text: str, now: float) -> None:
        if now - self._told_at.get(kind, -math.inf) >= _TELL_AGAIN_S:
            self._told_at[kind] = now
            self._tell(f"{self.name}: {text}")

    def _up(self) -> None:
        self._tell(f"{self.name}: answers again")
        self._told_at.clear()
        self._down = False
        self._failing = 0
        self._width.begin_again()


def _speaks_of_rate(failure: Failure, tokens: float) -> bool:
    """Say whether it was too much a minute, and not too many at once: headers that leave room for a call deny it."""
    if failure.kind != "overload":
        return False
    if failure.retry_after is not None:
        return True
    limits = failure.limits
    if limits is None or (limits.requests_left is None and limits.tokens_left is None):
        return limits is not None
    return (limits.requests_left is not None and limits.requests_left < 1) or (
        limits.tokens_left is not None and limits.tokens_left < max(tokens, 1)
    )


def _copy(error: EndpointError) -> EndpointError:
    """Return the same error anew: one that is raised in many calls would gather all their tracebacks."""
    return type(error)(error.message, error.hint)


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _span(seconds: float) -> str:
    """Return a span of time as `0.4 s`, `58 s`, `15 min`, `2 min 5 s`, `1 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    big, small = divmod(whole, 60)
    units = ("min", "s")
    if big >= 60:
        (big, small), units = divmod(big, 60), ("h", "min")
    return f"{big} {units[0]}" + (f" {small} {units[1]}" if small else "")


def _time_of_day(seconds_ago: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() - seconds_ago))
