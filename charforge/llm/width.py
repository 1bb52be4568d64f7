"""Calls at once: how many an endpoint takes, found by additive increase and multiplicative decrease.

Arithmetic on counts; knows no event loop and no endpoint. The gate (charforge.llm.flow) uses it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_LIMIT = 16
_ROUND = 16
"""Answers that a share of trouble is measured over, at least; more where more are in flight: about one round trip."""
_HEAVY = 0.2
"""Share of trouble in a round above which the limit is halved at once."""
_LIGHT = 0.02
"""Share above which the limit is cut a little, to see whether that helps."""
_CUT = 0.85


class Width:
    """A limit on calls in flight. A number that was told is believed from the start; without one it doubles per round trip at first.

    Trouble is an answer that says "too many at once", or none. Whoever owns it keeps `peak`, the most calls in flight in this round.
    """

    def __init__(self, told: int | None) -> None:
        self._most = math.inf if told is None else float(max(1, told))
        self._limit = float(FIRST_LIMIT) if told is None else self._most
        self._ceiling = math.inf  # where there was trouble last; inf: never, slow start
        self._ceiling_before = math.inf
        self._cut_at = -math.inf
        self._cut_from = 0.0  # the limit before a small cut whose effect is not known yet
        self._tolerated = _LIGHT
        self._well = self._crowded = 0  # answers and trouble in this round
        self.peak = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return int(self._limit)

    def answered(self, sent_at: float, in_flight: int, clock: Callable[[], float]) -> None:
        """Take in an answer to a call sent then, while so many were in flight."""
        if sent_at < self._cut_at:
            return
        self._well += 1
        if in_flight >= self.limit and self._limit < self._most:
            self._grow()
        if self._well + self._crowded >= max(_ROUND, self._limit):
            self._end_round(in_flight, clock())

    def crowded(self, sent_at: float, in_flight: int, now: float) -> None:
        """Take in trouble with a call sent then."""
        if sent_at < self._cut_at:
            return
        self._crowded += 1
        if self._crowded > _HEAVY * max(_ROUND, self._limit):
            self._cut(max(0.5, 1 - self._crowded / (self._well + self._crowded)), in_flight, now)
            self._cut_from = 0.0
        elif self._well + self._crowded >= max(_ROUND, self._limit):
            self._end_round(in_flight, now)

    def begin_again(self) -> None:
        """Start small after the endpoint was down."""
        self._ceiling = self._limit
        self._limit = min(self._limit, float(FIRST_LIMIT))

    def _grow(self) -> None:
        """One more answer while all places are taken."""
        limit, ceiling = self._limit, self._ceiling
        if ceiling == math.inf:
            step = 1.0  # doubles in a round trip
        elif 0.9 * ceiling <= limit <= 1.1 * ceiling:
            step = 0.5 / limit  # one more in two
        else:
            step = 0.25
        if ceiling != math.inf and limit < _ROUND:
            step *= limit / _ROUND  # no faster than it can be told whether that was too much
        self._limit = min(limit + step, self._most)

    def _end_round(self, in_flight: int, now: float) -> None:
        share = self._crowded / (self._well + self._crowded)
        if self._cut_from and share > 0:
            # It does not depend on how many we are, so it is not ours to mend: take the cut back, and bear with it.
            self._limit = min(self._cut_from, self._most)
            self._ceiling = self._ceiling_before
            self._tolerated = min(_HEAVY, 2 * share)
            self._cut_from = 0.0
        elif share > self._tolerated:
            before = self._limit
            self._cut(_CUT * (1 - share / 2), in_flight, now)
            self._cut_from = before
        else:
            self._cut_from = 0.0
            self._tolerated = max(_LIGHT, 0.95 * self._tolerated)
        self._well = self._crowded = 0
        self.peak = in_flight

    def _cut(self, factor: float, in_flight: int, now: float) -> None:
        """Fewer from now on; what comes of calls sent before says nothing of the new limit."""
        # Calls that back off leave places empty: it is those in flight that were too many.
        used = min(self._limit, float(self.peak))
        self._ceiling_before, self._ceiling = self._ceiling, used
        self._limit = max(1.0, float(round(used * factor)))
        self._cut_at = now
        self._well = self._crowded = 0
        self.peak = in_flight
