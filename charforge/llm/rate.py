"""Calls a minute: a window that is never exceeded, and a rate learned from what an endpoint let through.

Arithmetic on times and counts; knows no event loop and no endpoint. The gate (charforge.llm.flow) uses both.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

MINUTE = 60.0

_AFTER, _PLATEAU = 0.97, 0.99
"""Of a learned rate: for a few seconds after a 429, and from then on."""
_RECOVERY_S = 5.0
_PLATEAU_S = 120.0
"""Paced sending before a learned rate is tried for more."""
_CLIMB = 0.05
"""Growth a second while a rate is searched for; half of it after each try."""
_DOUBT = 0.06
"""Share of time lost to rounded-up pauses above which a measured rate may be too small."""
_EVIDENCE_S = 30.0
"""Of refusals that it takes to doubt a rate that was measured well."""
_LONG_AGO_S = 180.0
"""Of the past that a rate is learned from."""


class Window:
    """What was spent in the last 60 s, in slots of 0.1 s, so that its size does not depend on the rate.

    Strict: a slot counts until its latest moment is 60 s old.
    """

    _SLOT_S = 0.1

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._used = 0.0
        # [latest moment, spent]; the moment is -inf once it is forgotten.
        self._slots: deque[list[float]] = deque()

    def room_at(self, amount: float, now: float) -> float:
        """Return when to look again whether `amount` fits; -inf where it does now."""
        slots = self._slots
        while slots and slots[0][0] + MINUTE <= now:
            slot = slots.popleft()
            self._used -= slot[1]
            slot[0] = -math.inf
        if not slots:
            self._used = 0.0
        # An amount beyond the limit goes alone, or it never could.
        if not slots or self._used + amount <= self.limit + 1e-9:
            return -math.inf
        return slots[0][0] + MINUTE

    def spend(self, amount: float, now: float) -> list[float]:
        """Count `amount`; return the slot, for `correct`."""
        if not self._slots or self._slots[-1][0] < now:
            self._slots.append([now + self._SLOT_S, 0.0])
        slot = self._slots[-1]
        slot[1] += amount
        self._used += amount
        return slot

    def correct(self, slot: list[float], more: float) -> None:
        """Change what was spent then by `more`."""
        if slot[0] != -math.inf:
            slot[1] += more
            self._used += more


class _Measure(NamedTuple):
    """`n` calls let through in `span` seconds, of which `lost` were kept free without need."""

    span: float
    n: int
    lost: float
    rate: float

    def is_good(self, pace: float) -> bool:
        """Say whether this is the limit: long enough, without much loss, and we sent at that pace when refused."""
        return (
            self.n >= 30
            and self.span >= 10.0
            and self.lost <= _DOUBT * self.span
            and (pace == math.inf or pace < (1 + _DOUBT) * self.rate)
        )


class Rate:
    """How many calls a second the endpoint lets through, as learned from its 429s.

    From one release (the end of a pause it asked for) to the next a limiter lets through what it allows in that time: a
    token bucket is empty at both, a sliding window full at both, a fixed window new at both. So accepted calls / time
    between releases is the rate, whichever it is, with two exceptions. The first stretch holds the burst that a bucket began
    with. And a small bucket runs over while Retry-After, rounded up to a second, keeps us away. So a measure that is short,
    or has many pauses in it, is doubted, and the rate searched for upwards; a better one is believed, and left only rarely.
    """

    def __init__(self) -> None:
        self.known = math.inf  # calls a second; inf: nothing learned
        self.trusted = False
        # Of each: its time, and what was let through and how many seconds were lost until then.
        self._releases: deque[tuple[float, int, float]] = deque(maxlen=16)
        self._lost = 0.0
        self._from_start = True  # the oldest of them is the first send, no release
        self._paced_s = 0.0  # sending at the allowed pace since the last release
        self._search = 1.0
        self._climb = _CLIMB
        self._learned_at = -1  # calls let through when it was learned last
        self._snapshot: tuple[Any, ...] | None = None  # what was known before that

    def start(self, now: float, accepted: int) -> None:
        """Begin, or begin again after idling: the endpoint may have saved up a burst."""
        self._releases.clear()
        self._releases.append((now, accepted, self._lost))
        self._from_start = True

    def now(self) -> float:
        """Return the calls a second to send."""
        if self.known == math.inf:
            return math.inf
        if not self.trusted:
            return self.known * _AFTER * self._search
        if self._paced_s < _RECOVERY_S:
            return self.known * _AFTER
        if self._paced_s < _PLATEAU_S:
            return self.known * _PLATEAU
        # Little beyond at first, then ever more: limits are raised, and wrong guesses want to be left.
        minutes = (self._paced_s - _PLATEAU_S) / MINUTE
        return self.known * (_PLATEAU + 0.02 * minutes + 0.02 * minutes**3)

    def paced(self, interval: float) -> None:
        """Say that a call was held back for `interval` seconds by this rate, and by nothing else."""
        self._paced_s += interval
        if not self.trusted:
            self._search *= 1 + min(0.03, self._climb * interval)

    def learn(self, release: float, pause: float, accepted: int, *, lone: bool, told: float) -> None:
        """Take in a 429 at the end of its pause of `pause` seconds. `accepted`: calls let through, ever.

        `lone`: most calls sent after the refused one were let through. `told`: the rate by configuration or headers.
        """
        if accepted == self._learned_at and self._snapshot is not None:
            # Not one call let through since: it is the same refusal still, and its pause was longer.
            releases, lost, self._from_start, self.known, self.trusted, self._climb = self._snapshot
            self._releases = deque(releases, maxlen=16)
            self._lost = lost
        self._learned_at = accepted
        self._snapshot = (
            tuple(self._releases),
            self._lost,
            self._from_start,
            self.known,
            self.trusted,
            self._climb,
        )
        if (lone and self.known == math.inf) or not accepted:
            return  # a limit that is reached refuses more than one call, and lets some through before
        before = min(self.now(), told)
        first = self._from_start and len(self._releases) == 1
        releases = self._releases
        while len(releases) > 1 and (self._from_start or release - releases[0][0] > _LONG_AGO_S):
            releases.popleft()
            self._from_start = False
        self._lost += min(pause, 1.0)
        here = (release, accepted, self._lost)
        self._paced_s, self._search = 0.0, 1.0
        # Of what is believed, only something long can say otherwise: a sliding window lets through by fits and starts.
        needed = _EVIDENCE_S if self.trusted else 0.0
        since = next((each for each in reversed(releases) if release - each[0] >= needed), None)
        if since is None:
            releases.append(here)
            return
        recent, whole = self._measure(since, here), self._measure(releases[0], here)
        if recent.n >= 10 and not 0.8 < recent.rate / whole.rate < 1.25:
            while releases[0] is not since:  # it is another rate now
                releases.popleft()
            whole = recent
        releases.append(here)
        good = next((each for each in (whole, recent) if each.is_good(before)), None)
        rate = (good or whole).rate
        trusted = good is not None or (self.trusted and abs(rate / self.known - 1) < 0.05)
        if lone and self.known != math.inf and (recent.n < 10 or (self.trusted and rate < 0.7 * self.known)):
            return
        if not trusted and before != math.inf:
            # Too little, if a small bucket ran over; the pace was too much, if by how much is not known.
            rate = math.sqrt(rate * max(rate, min(before, 4 * rate)))
            if recent.n < 10:
                rate = max(rate, 0.8 * before)  # few calls say little
        rate = max(min(rate, before), 1 / 600)
        # A rate that we were told is believed at first, unless what came is very different.
        if told < math.inf and ((trusted and rate > 0.95 * told) or (first and rate > 0.5 * told)):
            self.known, self.trusted = math.inf, False
            return
        self._climb = _CLIMB if trusted or before == math.inf else max(self._climb / 2, _CLIMB / 32)
        self.known, self.trusted = rate, trusted

    @staticmethod
    def _measure(since: tuple[float, int, float], here: tuple[float, int, float]) -> _Measure:
        span, n, lost = here[0] - since[0], here[1] - since[1], here[2] - since[2]
        return _Measure(span, n, lost, max(n, 1) / max(span, 1e-3))
