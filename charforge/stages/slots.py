"""How the generating stages draw: slots in a fixed order, draws until a rule set is satisfied, and an account of all of it.

A *slot* is a place for one record, such as (paragraph, n). Its draws are made one after another until one passes every rule;
the slots of a *wave* are filled side by side. What is accepted depends on the replies only, never on the order in which
they arrive. This module knows no prompt, no rule and no model; it asks nobody itself except through `Writer`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from charforge import checks
from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.templates import literals, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from charforge.checks import Broken
    from charforge.llm.request import Answered, Ask

LIMIT = 2
"""Slots that may be opened for each record wanted."""

DRAWS_PER_SLOT = 1000
"""Draw d of slot n asks with draw index n * 1000 + d, so that raising `attempts` or `count` changes no earlier request."""

SMALL_PREFIXES = ("embedded/", "local/")


def small(model: str) -> bool:
    """Say whether a model is asked by the prompts of prompts/embedded/: one small thing a call, in raw text to go on from."""
    return model.startswith(SMALL_PREFIXES)


# --- Asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The model that writes, how it samples, and the sources of the prompts of the stage, by key."""

    model: str
    weights: str | None
    temperature: float
    top_p: float | None
    max_tokens: int
    seed: int | None
    prompts: Mapping[str, str]
    ask: Ask

    def own_words(self, key: str) -> str:
        """Return what the template itself says, which no reply may repeat."""
        return literals(self.prompts[key], key)

    async def write(
        self,
        key: str,
        values: Mapping[str, Any],
        *,
        draw: int,
        max_tokens: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Answered:
        """Ask with the template `key`, given `values`. A small model goes on with the raw text up to a line end; another gets a message.

        `max_tokens` lowers the generator's own limit. Raises CharForgeError where no reply could be had.
        """
        prompt = render(self.prompts[key], f"{key}.j2", **values)
        raw = small(self.model)
        return await self.ask(
            Request(
                model=self.model,
                weights=self.weights,
                # A space before what is to be written would be the wrong token for a model that goes on with raw text.
                prompt=prompt.rstrip() if raw else None,
                messages=None if raw else (("user", prompt.strip()),),
                schema=schema,
                max_tokens=min(self.max_tokens, max_tokens or self.max_tokens),
                temperature=self.temperature,
                top_p=self.top_p,
                stop=("\n",) if raw and schema is None else (),
                seed=self.seed,
                draw=draw,
            )
        )


def ended(answered: Answered) -> Broken | None:
    """Return what is wrong with how a reply ended. A cut-off reply is never taken as text."""
    reason = answered.reply.finish_reason
    if reason == "stop":
        return None
    return checks.Broken("cut-off" if reason == "length" else "refused", f"finish reason {reason}")


# --- Accounts --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Account:
    """What became of every call of one draw, or of a stage."""

    asked: int = 0
    calls: list[str] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, identity: str, broken: Broken, answered: Answered) -> None:
        """Note a rejected reply under its id, `<record id>/<draw>` or, for one of several pieces, `…/<draw>/<piece>`."""
        self.rejected.append(
            {
                "id": identity,
                "rule": broken.rule,
                "detail": broken.detail,
                "text": answered.reply.text,
                "call": answered.call,
            }
        )


@dataclass(slots=True)
class Drawn:
    """What one draw gave: a record that passed all rules but near-duplicate (else None), and its account.

    `account.calls` are those that the record is made of. `answered` is the reply to show if the whole record is rejected.
    """

    record: dict[str, Any] | None
    account: Account
    answered: Answered | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What a generating stage makes: its artifacts by name. `yield_` is yield.json, `calls` is calls.jsonl."""

    records: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    yield_: dict[str, Any]


# --- Slots -----------------------------------------------------------------------------------------------------------

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Slot:
    """The n-th record that stands on one paragraph (a record of profile.json)."""

    paragraph: Mapping[str, Any]
    n: int

    @property
    def name(self) -> str:
        """Return the part of record ids that says which slot it is."""
        return f"{self.paragraph['id']}/{self.n}"

    def draw(self, d: int) -> int:
        """Return the draw index of this slot's d-th draw."""
        return self.n * DRAWS_PER_SLOT + d

    def choose(self, options: Sequence[str], salt: str) -> str:
        """Return one of the options: another for each n, and where to begin depends on the paragraph's text alone."""
        digest = hashlib.sha256(f"{salt}\n{self.paragraph['text']}".encode()).digest()
        return options[(int.from_bytes(digest[:8]) + self.n) % len(options)]


def paragraph_slots(paragraphs: Sequence[Mapping[str, Any]], count: int) -> list[Slot]:
    """Return the slots that may be opened for `count` records, in order: n = 0 of every paragraph, then n = 1, …

    Within one n, paragraphs come in bit-reversed order, so that few records are spread over the whole profile.
    """
    order = spread(len(paragraphs))
    return [Slot(paragraphs[order[i % len(order)]], i // len(order)) for i in range(LIMIT * count)]


def spread(count: int) -> list[int]:
    """Return 0..count-1 in the order of van der Corput's sequence (base 2): 0, the middle, the quarters, …"""
    bits = max(count - 1, 0).bit_length()
    reverse = (int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(1 << bits))
    return [position for position in reverse if position < count]


class _Fill(Generic[S]):
    """The state of one `fill`."""

    def __init__(
        self, draw: Callable[[S, int], Awaitable[Drawn]], attempts: int, ready: Callable[[], None]
    ) -> None:
        self.draw = draw
        self.attempts = attempts
        self.ready = ready
        self.failed = False

    async def slot(self, slot: S) -> list[Drawn]:
        """Draw until a record comes. One failed call stops all slots before their next draw: calls may cost money."""
        drawn: list[Drawn] = []
        for d in range(self.attempts):
            if self.failed:
                break
            try:
                drawn.append(await self.draw(slot, d))
            except BaseException:
                self.failed = True
                raise
            if drawn[-1].record is not None:
                break
        self.ready()
        return drawn


async def fill(
    slots: Sequence[S],
    *,
    what: str,
    count: int,
    attempts: int,
    min_yield: float,
    draw: Callable[[S, int], Awaitable[Drawn]],
    text: Callable[[dict[str, Any]], str],
    on_progress: Callable[[int, int], None],
) -> Generated:
    """Fill slots until `count` records are accepted or there are no more slots; records come sorted by id.

    `draw(slot, d)` makes the d-th draw of a slot; `text` is what near-duplicates are told by, in slot order. The first
    `count` slots are the first wave; each further wave opens as many as are missing. `on_progress(done, total)` counts
    slots. Raises CharForgeError if fewer than `min_yield` of `count` are accepted, with the reasons counted, and whatever
    a call raises, once the calls in flight have ended: the engine keeps those.
    """
    account = Account()
    accepted: dict[str, dict[str, Any]] = {}
    texts = checks.Accepted()
    calls: list[dict[str, Any]] = []
    opened = done = 0

    def ready() -> None:
        nonlocal done
        done += 1
        on_progress(done, max(opened, count))

    filling = _Fill(draw, attempts, ready)
    while len(accepted) < count and opened < len(slots):
        wave = slots[opened : opened + count - len(accepted)]
        opened += len(wave)
        results = await asyncio.gather(*(filling.slot(slot) for slot in wave), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            for drawn in result:
                account.asked += drawn.account.asked
                account.rejected += drawn.account.rejected
                record = drawn.record
                if record is None:
                    continue
                duplicate = texts.near_duplicate(text(record))
                if duplicate:
                    assert drawn.answered is not None
                    broken = checks.Broken("near-duplicate", duplicate)
                    account.reject(f"{record['id']}/{record['draw']}", broken, drawn.answered)
                    continue
                accepted[record["id"]] = record
                texts.add(record["id"], text(record))
                calls += [{"id": record["id"], "call": call} for call in drawn.account.calls]
    reasons = Counter(rejection["rule"] for rejection in account.rejected)
    if len(accepted) < math.ceil(min_yield * count):
        raise _too_few(what, len(accepted), count, min_yield, reasons)
    return Generated(
        records=by_id(accepted.values()),
        rejected=by_id(account.rejected),
        calls=by_id(calls),
        yield_={
            "asked": account.asked,
            "accepted": len(accepted),
            "rejected": dict(sorted(reasons.items())),
            "wanted": count,
        },
    )


def by_id(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records sorted by id; those of one id keep their order."""
    return sorted(records, key=lambda record: str(record["id"]))


def _too_few(what: str, accepted: int, count: int, min_yield: float, reasons: Counter[str]) -> CharForgeError:
    counted = ", ".join(
        f"{rule} {number}" for rule, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    return CharForgeError(
        f"{what}: {accepted} of {count} were accepted, expected at least {math.ceil(min_yield * count)}"
        f" ({what}.min_yield {min_yield:g}); rejected: {counted or 'nothing'}",
        f"raise {what}.attempts, name a more capable generator.model, or lower {what}.min_yield; finished calls are kept",
    )
