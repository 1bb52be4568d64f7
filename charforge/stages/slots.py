"""How the generating stages draw: slots in a fixed order, draws until a rule set is satisfied, and an account of all of it.

A *slot* is a place for a record, such as (paragraph, n). Its draws are made one after another until one passes every rule;
slots are filled side by side. What is accepted depends on the replies only, never on the order in which
they arrive. This module knows no prompt, no rule and no model; it asks nobody itself except through `Writer`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from charforge import checks
from charforge.errors import CharForgeError
from charforge.llm.errors import NotRecorded
from charforge.llm.request import Request
from charforge.templates import literals, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from charforge.checks import Broken
    from charforge.llm.request import Answered, Ask

LIMIT = 2
"""Slots that may be opened for each record wanted."""

WINDOW = 1024
"""Slots drawn for at once: more than any endpoint takes, and few enough that a hundred thousand need no more memory."""

DRAWS_PER_SLOT = 1000
"""Draw d of slot n asks with draw index n * 1000 + d, so that raising `attempts` or `count` changes no earlier request."""

MORE_ROOM = 2
"""How much more a capable model may write when its reply was cut off. A small one just rambles on."""

SMALL_PREFIXES = ("embedded/", "local/")


def small(model: str) -> bool:
    """Say whether a model is asked by the prompts of prompts/embedded/: one small thing a call, in raw text to go on from."""
    return model.startswith(SMALL_PREFIXES)


# --- Asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The model that writes, how it samples, and the sources of the prompts of the stage, by key.

    `judged` holds whole records that were judged before, by slot, draw and call: what a head start did, its stage need not
    do again.
    """

    model: str
    weights: str | None
    temperature: float
    top_p: float | None
    max_tokens: int
    seed: int | None
    prompts: Mapping[str, str]
    ask: Ask
    judged: dict[tuple[str, int, str], Drawn] = field(default_factory=dict)
    desk: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a long reply is judged: between two of them others are read, and calls sent."""

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

        `max_tokens` lowers the generator's own limit. A whole text that was cut off is asked for once more, with room for
        MORE_ROOM times as much; the reply then holds the first one as `cut`. Raises CharForgeError where no reply could be had.
        """
        prompt = render(self.prompts[key], f"{key}.j2", **values)
        raw = small(self.model)
        request = Request(
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
        answered = await self.ask(request)
        if raw or answered.reply.finish_reason != "length":
            return answered
        again = await self.ask(replace(request, max_tokens=MORE_ROOM * request.max_tokens))
        return replace(again, cut=answered)


def ended(answered: Answered) -> Broken | None:
    """Return what is wrong with how a reply ended. A cut-off reply is never taken as text, an empty one never in silence."""
    reply = answered.reply
    if reply.finish_reason == "stop":
        return None if reply.text.strip() else _EMPTY
    if reply.finish_reason == "length":
        return _CUT_OFF
    rule = "malformed" if reply.finish_reason == "malformed" else "refused"
    return checks.Broken(rule, reply.text[:80] or f"finish reason {reply.finish_reason}")


_CUT_OFF = checks.Broken("cut-off", "finish reason length")
_EMPTY = checks.Broken("empty", "no text")


# --- Accounts --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Account:
    """What became of every call of one draw, or of a stage."""

    asked: int = 0
    calls: list[str] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, identity: str, answered: Answered) -> Account:
        """Begin the account of a draw of one question; a cut-off reply before this one is rejected as `<identity>/cut`."""
        account = cls(asked=1)
        if answered.cut is not None:
            account.asked += 1
            account.reject(f"{identity}/cut", _CUT_OFF, answered.cut)
        return account

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
    """What one draw gave: the records that passed all rules but near-duplicate, and its account.

    `account.calls` are those that the records are made of. `answered` is the reply to show if a whole record is rejected.
    """

    records: list[dict[str, Any]]
    account: Account
    answered: Answered | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """What a generating stage makes: its artifacts by name. `yield_` is yield.json, `calls` is calls.jsonl."""

    records: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    yield_: dict[str, Any]


class TooFew(CharForgeError):
    """A stage accepted fewer records than its minimum yield. `made` is what it would have been, to be looked at."""

    def __init__(self, message: str, hint: str, made: Generated) -> None:
        super().__init__(message, hint)
        self.made = made


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
    """The state of one `fill`.

    Slots are *opened* in order, drawn side by side, and *settled* in order: near-duplicates are told from the records of
    earlier slots. One more slot is opened only when all that are open cannot give enough, whatever their draws
    still bring; that can only be seen sooner or later, never otherwise, so how many are opened is no matter of timing.
    """

    def __init__(
        self,
        slots: Sequence[S],
        *,
        count: int,
        attempts: int,
        per_slot: int,
        draw: Callable[[S, int], Awaitable[Drawn]],
        text: Callable[[dict[str, Any]], str],
        near_duplicate: float | None,
        on_passed: Callable[[dict[str, Any]], None] | None,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.slots = slots
        self.count = count
        self.attempts = attempts
        self.per_slot = per_slot
        self.draw = draw
        self.text = text
        self.on_passed = on_passed
        self.on_progress = on_progress
        self.account = Account()
        self.accepted: dict[str, dict[str, Any]] = {}
        self.texts = None if near_duplicate is None else checks.Accepted(near_duplicate)
        self.calls: list[dict[str, Any]] = []
        self.errors: dict[int, BaseException] = {}
        self.stopped = False
        self.begun = 0
        self.drawn: dict[int, list[Drawn]] = {}
        self.next_draw: dict[int, int] = {}  # of each slot in `drawn`
        self.settled = 0
        self.coming = 0  # records that slots begun and not settled may still bring
        self.running: set[asyncio.Task[None]] = set()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Fill; return when nothing runs any more."""
        self._open()
        try:
            await self.over
        finally:
            for task in self.running:
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)

    def _open(self) -> None:
        while (
            not self.stopped
            and len(self.running) < WINDOW
            and self.begun < len(self.slots)
            and len(self.accepted) + self.coming < self.count
        ):
            self.coming += self.per_slot
            self._begin(self.begun, 0)
            self.begun += 1
        if not self.running and not self.over.done():
            self.over.set_result(None)

    def _begin(self, position: int, d: int) -> None:
        task = asyncio.ensure_future(self._slot(position, d))
        self.running.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.stopped = True
            self.errors.setdefault(-1, bug)
        self._open()

    async def _slot(self, position: int, first: int) -> None:
        """Draw until a record comes. A call that failed stops all slots before their next draw: calls may cost money."""
        drawn: list[Drawn] = []
        try:
            for d in range(first, self.attempts):
                if self.stopped:
                    return
                drawn.append(await self.draw(self.slots[position], d))
                if drawn[-1].records:
                    break
        except NotRecorded as error:
            # Nothing can be asked, so going on costs nothing, and tells of all that is missing. The slot stays open.
            self.errors[position] = error
            return
        except BaseException as error:
            self.stopped = True
            self.errors[position] = error
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self.coming -= self.per_slot - sum(len(each.records) for each in drawn)
        self.drawn[position] = drawn
        self.next_draw[position] = first + len(drawn)
        for record in (record for each in drawn for record in each.records):
            # Many slots may be settled at once, after a slow one; nothing else runs in that time.
            if self.texts is not None:
                self.texts.prepare(self.text(record))
            if self.on_passed is None:
                continue
            if self.texts is None or not self.texts.near_duplicate(self.text(record)):
                self.on_passed(record)
        self._settle()
        self.on_progress(self.settled + len(self.drawn), max(self.begun, -(-self.count // self.per_slot)))

    def _settle(self) -> None:
        while (drawn := self.drawn.pop(self.settled, None)) is not None:
            kept: list[dict[str, Any]] = []
            for each in drawn:
                self.account.asked += each.account.asked
                self.account.rejected += each.account.rejected
                kept += (here := [record for record in each.records if self._accept(record, each)])
                self.calls += [
                    {"id": record["id"], "call": call} for record in here for call in each.account.calls
                ]
            again = self.next_draw.pop(self.settled)
            if self._deserves_another(drawn, kept, again):
                # What comes of it is settled before anything later is.
                self._begin(self.settled, again)
                return
            self.coming -= sum(len(each.records) for each in drawn)
            self.settled += 1

    def _deserves_another(self, drawn: list[Drawn], kept: list[dict[str, Any]], again: int) -> bool:
        """Say whether a slot whose record fell as a near-duplicate is drawn for once more.

        Not one of many records: how many more it might bring would then depend on when that was seen. Nor one whose
        draws ask nothing any more, and so give the same again.
        """
        fell = self.per_slot == 1 and not kept and bool(drawn) and bool(drawn[-1].records)
        return (
            fell
            and len(self.accepted) < self.count
            and again < self.attempts
            and drawn[-1].account.asked > 0
            and not self.stopped
        )

    def _accept(self, record: dict[str, Any], drawn: Drawn) -> bool:
        text = self.text(record)
        broken = None
        if len(self.accepted) >= self.count:
            broken = checks.Broken("surplus", f"{self.count} were wanted")
        elif self.texts is not None and (like := self.texts.near_duplicate(text)):
            broken = checks.Broken("near-duplicate", like)
        if broken is not None:
            answered = drawn.answered
            assert answered is not None
            if self.per_slot > 1:  # of a reply with many records, this one's text
                answered = replace(answered, reply=replace(answered.reply, text=text))
            self.account.reject(f"{record['id']}/{record['draw']}", broken, answered)
            return False
        self.accepted[record["id"]] = record
        if self.texts is not None:
            self.texts.add(record["id"], text)
        return True


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
    per_slot: int = 1,
    near_duplicate: float | None = 0.5,
    on_passed: Callable[[dict[str, Any]], None] | None = None,
) -> Generated:
    """Fill slots until `count` records are accepted or there are no more slots; records come sorted by id.

    `draw(slot, d)` makes the d-th draw of a slot, which gives up to `per_slot` records; `text` is what near-duplicates
    are told by, in slot order, at the likeness `near_duplicate` (None: not at all). `on_progress(done, total)` counts slots.
    `on_passed` hears of each record as soon as it passed its own rules: almost all of these are accepted later.
    Raises TooFew if fewer than `min_yield` of `count` are accepted, with the reasons counted, and whatever
    a call raises, once the calls in flight have ended: the engine keeps those.
    """
    filling = _Fill(
        slots,
        count=count,
        attempts=attempts,
        per_slot=per_slot,
        draw=draw,
        text=text,
        near_duplicate=near_duplicate,
        on_passed=on_passed,
        on_progress=on_progress,
    )
    await filling.run()
    if filling.errors:
        # An error before a missing reply: it says why the rest is missing.
        raise min(filling.errors.items(), key=lambda item: (isinstance(item[1], NotRecorded), item[0]))[1]
    reasons = Counter(rejection["rule"] for rejection in filling.account.rejected)
    made = Generated(
        records=by_id(filling.accepted.values()),
        rejected=by_id(filling.account.rejected),
        calls=by_id(filling.calls),
        yield_={
            "asked": filling.account.asked,
            "accepted": len(filling.accepted),
            "rejected": dict(sorted(reasons.items())),
            "wanted": count,
        },
    )
    if len(filling.accepted) < math.ceil(min_yield * count):
        raise _too_few(what, count, min_yield, made)
    return made


async def ahead(
    slots: AsyncIterator[S],
    *,
    attempts: int,
    draw: Callable[[S, int], Awaitable[Drawn]],
    on_progress: Callable[[int, int], None],
) -> None:
    """Draw for slots as they come, and drop what is drawn: its calls are recorded, and `fill` will find them so.

    Raises what a call raises, but for NotRecorded.
    """
    running: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []
    come = done = 0

    async def one(slot: S) -> None:
        nonlocal done
        try:
            # Nothing can be asked for this one; the others may have their replies.
            with suppress(NotRecorded):
                for d in range(attempts):
                    if failures or (await draw(slot, d)).records:
                        break
        except BaseException as error:
            failures.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        done += 1
        on_progress(done, come)

    try:
        async for slot in slots:
            if failures:
                break
            come += 1
            task = asyncio.ensure_future(one(slot))
            running.add(task)
            task.add_done_callback(running.discard)
        while running:  # also after a failure: the others' calls are paid for
            await asyncio.wait(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if failures:
        raise failures[0]


async def all_of(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return all results in order. One failure does not stop the others: their calls are kept, then it is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def by_id(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records sorted by id; those of one id keep their order."""
    return sorted(records, key=lambda record: str(record["id"]))


def _too_few(what: str, count: int, min_yield: float, made: Generated) -> TooFew:
    reasons = made.yield_["rejected"]
    counted = ", ".join(
        f"{rule} {number}" for rule, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    return TooFew(
        f"{what}: {len(made.records)} of {count} were accepted, expected at least {math.ceil(min_yield * count)}"
        f" ({what}.min_yield {min_yield:g}); rejected: {counted or 'nothing'}",
        f"read them with 'show … {what} --rejected'; raise {what}.attempts, name a more capable generator.model,"
        f" or lower {what}.min_yield; finished calls are kept",
        made,
    )
