"""Places for calls in flight, shared fairly: a free place goes to whoever holds least.

Parties are stages, named `<group>/<stage>`: first the groups (characters) get equal shares, then the stages of each. So a stage
that asked for a thousand calls at once holds up nobody who comes after it; but a stage whose records another one waits for goes
before the others of its group, since what it makes is only the beginning of a longer way.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection


class Places:
    """At most `width` holders at once. Of each group, the parties in `first` are served first."""

    def __init__(self, width: int, first: Collection[str] = ()) -> None:
        self._free = width
        self._first = first
        self._held: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._turn = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, party: str) -> None:
        """Wait for a place. Whoever has one gives it back with `give`."""
        if self._free and not self._waiting:
            self._grant(party)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give(party)  # granted and cancelled in the same turn of the loop
            raise

    def give(self, party: str) -> None:
        """Give a place back, to whoever waits and holds least."""
        self._free += 1
        self._held[party] -= 1
        self._held[_group(party)] -= 1
        while self._free and self._waiting:
            neediest = min(self._waiting, key=self._need)
            queue = self._waiting[neediest]
            place = queue.popleft()
            if not queue:
                del self._waiting[neediest]
            if not place.done():  # else its caller gave up
                self._grant(neediest)
                place.set_result(None)

    def _grant(self, party: str) -> None:
        self._free -= 1
        self._turn += 1
        for name in (party, _group(party)):
            self._held[name] += 1
            self._served[name] = self._turn

    def _need(self, party: str) -> tuple[int, int, bool, int, int]:
        group = _group(party)
        return (
            self._held[group],
            self._served[group],
            party not in self._first,
            self._held[party],
            self._served[party],
        )


def _group(party: str) -> str:
    """Return the group's key: the part up to the last `/`, which no party's own name ends in."""
    return party[: party.rfind("/") + 1]
