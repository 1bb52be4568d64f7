"""The gate, against simulated endpoints in virtual time: hours of traffic, no sleeping, the same each run."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import selectors
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
            except Exception as error:
                ends.append(error)
                if not isinstance(error, NoAnswer):
                    return

    await asyncio.gather(*(worker() for _ in range(workers)))
    return ends
