"""The build loop: what is stale runs, as soon as its inputs are there; what ran is kept, whatever happens next.

Two grains. A *stage* is a node of the graph. The *calls* inside it are actions too, each durable before it counts as
done, so that a stage run again replays every unchanged call for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import Reason, reasons
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.store import Store, Trace

UP_TO_DATE = "up to date"
RAN = "ran"
FAILED = "failed"
BLOCKED = "blocked"  # something it needs failed or was stopped
STOPPED = "stopped"  # another failure ended the build before this could finish
STALE = "stale"  # plan only: it would run
UNKNOWN = "unknown"  # plan only: it depends on what a stale stage will make

_REPAIRS = 3


@dataclass(slots=True)
class Outcome:
    """What became of a stage. `outputs` is None unless it is up to date or ran."""

    stage: str
    status: str
    action: str | None = None
    outputs: Mapping[str, str] | None = None
    reasons: list[Reason] = field(default_factory=list)
    error: BaseException | None = None
    blocked_by: str | None = None
    seconds: float = 0.0
    calls_made: int = 0
    calls_replayed: int = 0


class Listener:
    """Hears what a build does. Every method may be overridden; none may fail."""

    def stage_started(self, stage: str, why: list[Reason]) -> None:
        """A stage was found stale, and begins."""

    def stage_progress(self, stage: str, done: int, total: int, note: str) -> None:
        """A stage got on: `done` of `total` units, and a few words where it has any."""

    def stage_finished(self, outcome: Outcome) -> None:
        """A stage came to its end, in whatever way."""

    def call_made(self, stage: str, call: str, record: Mapping[str, Any]) -> None:
        """A call was made, and is durable."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class _StopError(Exception):
    """Raised inside a running stage once the build is stopping: no new call begins."""


@dataclass(slots=True)
class Context:
    """What a running stage sees of the engine."""

    stage: Stage
    params: Mapping[str, Any]
    scratch: Path
    record: dict[str, Any]
    _build: Build
    _inputs: Mapping[str, str]
    _calls: list[str] = field(default_factory=list)
    _made: int = 0

    def digest(self, name: str) -> str:
        """Return the digest of an input."""
        return self._inputs[name]

    def read(self, name: str) -> bytes:
        """Return an input's bytes, checked. Raises Damaged."""
        ref = self.stage.inputs[name]
        return ref.data if isinstance(ref, Source) else self._build.store.read(self._inputs[name])

    async def folder(self, name: str) -> Path:
        """Return an input tree as a folder that must not be written to. Raises Damaged."""
        return await self._build.checkout(self._inputs[name])

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Tell the user how far the stage is."""
        self._build.listener.stage_progress(self.stage.name, done, total, note)

    async def call(
        self, action: Action, perform: Callable[[], Awaitable[tuple[bytes, dict[str, Any]]]]
    ) -> bytes:
        """Return the reply of a call: the recorded one if there is one, else `perform()`'s, once it is durable.

        `perform` returns (reply bytes, side record).
        """
        self._calls.append(action.digest)
        data, made = await self._build.call(self.stage.name, action, perform)
        self._made += made
        return data


class Build:
    """One run over a graph. Use `run()` once."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        graph: Graph,
        *,
        jobs: int = 64,
        keep_going: bool = False,
        environment: Mapping[str, Any] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.store = store
        self.claims = claims
        self.graph = graph
        self.listener = listener or Listener()
        self._environment = dict(environment or {})
        self._keep_going = keep_going
        self._slots = asyncio.Semaphore(jobs)
        self._flights: dict[str, asyncio.Future[bytes]] = {}
        self._checkouts: dict[str, asyncio.Task[Path]] = {}
        self._stopping = False

    async def run(self, targets: Iterable[str]) -> dict[str, Outcome]:
        """Bring the targets up to date and return what became of each stage needed, in graph order.

        A blob found damaged on the way is named, set aside, and made again by a further round.
        """
        needed = self.graph.needed(targets)
        for _ in range(_REPAIRS):
            outcomes = await self._round(needed)
            damage = [outcome.error for outcome in outcomes.values() if isinstance(outcome.error, Damaged)]
            if not damage:
                break
            for error in damage:
                self.listener.note(f"{error.message}; rebuilding what made it")
        return outcomes

    async def _round(self, needed: list[Stage]) -> dict[str, Outcome]:
        self._stopping = False
        tasks: dict[str, asyncio.Task[Outcome]] = {}
        for stage in needed:
            upstream = {name: tasks[name] for name in stage.upstream()}
            tasks[stage.name] = asyncio.create_task(self._bring_up_to_date(stage, upstream), name=stage.name)
        try:
            await asyncio.gather(*tasks.values())
        finally:
            # Reached early by Ctrl-C or a bug: drop what is in flight; what is durable stays.
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {name: task.result() for name, task in tasks.items()}

    async def _bring_up_to_date(self, stage: Stage, upstream: Mapping[str, asyncio.Task[Outcome]]) -> Outcome:
        made: dict[str, Outcome] = {}
        for name, task in upstream.items():
            made[name] = await asyncio.shield(task)
        for name, result in made.items():
            if result.outputs is None:
                return self._finished(Outcome(stage.name, BLOCKED, blocked_by=name))
        action = action_of(stage, {name: result.outputs or {} for name, result in made.items()})
        trace = self.store.find(action.digest)
        if trace is not None:
            return await self._hit(stage, trace)
        if self._stopping:
            return self._finished(Outcome(stage.name, STOPPED))
        why = self._why(stage, action)
        async with self.claims.hold(action.digest):
            # Looked up again: another process may have finished it before the claim was ours.
            trace = self.store.find(action.digest)
            if trace is not None:
                return await self._hit(stage, trace)
            return await self._execute(stage, action, why)

    async def _hit(self, stage: Stage, trace: Trace) -> Outcome:
        last = self.store.last(stage.name)
        if last is None or last[0] != trace.action:
            await asyncio.wrap_future(self.store.set_last(stage.name, trace.action, []))
        return self._finished(Outcome(stage.name, UP_TO_DATE, trace.action, trace.outputs))

    def _why(self, stage: Stage, action: Action) -> list[Reason]:
        last = self.store.last(stage.name)
        was = None if last is None else self.store.action_body(last[0])
        return reasons(was, action.body(), {name: ref.label for name, ref in stage.inputs.items()})

    async def _execute(self, stage: Stage, action: Action, why: list[Reason]) -> Outcome:
        outcome = Outcome(stage.name, RAN, action.digest, reasons=why)
        self.listener.stage_started(stage.name, why)
        began, clock = time.time(), time.perf_counter()
        try:
            with self.store.scratch() as scratch:
                context = Context(stage, action.params, scratch, {}, self, action.inputs)
                outputs = await stage.run(context)
                packed = await asyncio.to_thread(self.store.pack, outputs)
            sources = {name: ref.data for name, ref in stage.inputs.items() if isinstance(ref, Source)}
            # What was read travels with the trace: an audit can replay the stage without the checkout.
            packed.inline |= (await asyncio.to_thread(self.store.pack, sources)).inline
            calls = canonical(sorted(set(context._calls)))  # noqa: SLF001 - the two are one thing
            kept = self.store.pack({"calls": calls})
            packed.inline |= kept.inline
            outcome.calls_made = context._made  # noqa: SLF001
            outcome.calls_replayed = len(context._calls) - context._made  # noqa: SLF001
            outcome.seconds = time.perf_counter() - clock
            record = {
                **context.record,
                "started": began,
                "seconds": outcome.seconds,
                "calls": kept.outputs["calls"],
                "calls_made": outcome.calls_made,
                "calls_replayed": outcome.calls_replayed,
                "environment": self._environment,
            }
            await asyncio.wrap_future(self.store.record(action, packed, record))
            await asyncio.wrap_future(self.store.set_last(stage.name, action.digest, list(why)))
            outcome.outputs = packed.outputs
        except _StopError:
            outcome.status = STOPPED
        except Exception as error:  # noqa: BLE001 - one stage's failure is an outcome; the caller tells bugs apart
            outcome.status, outcome.error = FAILED, error
            if not self._keep_going:
                self._stopping = True
        return self._finished(outcome)

    def _finished(self, outcome: Outcome) -> Outcome:
        self.listener.stage_finished(outcome)
        return outcome

    async def call(
        self, stage: str, action: Action, perform: Callable[[], Awaitable[tuple[bytes, dict[str, Any]]]]
    ) -> tuple[bytes, bool]:
        """Return a call's reply, and whether it was made now. The same call asked for twice is made once."""
        digest = action.digest
        flight = self._flights.get(digest)
        if flight is not None:
            return await asyncio.shield(flight), False
        reply = self._replay(digest)
        if reply is not None:
            return reply, False
        flight = asyncio.get_running_loop().create_future()
        self._flights[digest] = flight
        try:
            reply, made = await self._make(stage, action, perform)
            flight.set_result(reply)
        except BaseException as error:
            if isinstance(error, Exception):
                flight.set_exception(error)
                with suppress(Exception):
                    flight.exception()  # retrieved, should nobody else wait for it
            else:
                flight.cancel()
            raise
        finally:
            del self._flights[digest]
        return reply, made

    async def _make(
        self, stage: str, action: Action, perform: Callable[[], Awaitable[tuple[bytes, dict[str, Any]]]]
    ) -> tuple[bytes, bool]:
        async with self._slots:
            if self._stopping:
                raise _StopError
            async with self.claims.hold(action.digest):
                reply = self._replay(action.digest)  # again: another process may have made it meanwhile
                if reply is not None:
                    return reply, False
                clock = time.perf_counter()
                reply, record = await perform()
                record = {**record, "seconds": time.perf_counter() - clock, "stage": stage}
                packed = self.store.pack({"reply": reply})
                await asyncio.wrap_future(self.store.record(action, packed, record))
        self.listener.call_made(stage, action.digest, record)
        return reply, True

    def _replay(self, call: str) -> bytes | None:
        trace = self.store.find(call)
        if trace is None:
            return None
        try:
            return self.store.read(trace.outputs["reply"])
        except Damaged as error:
            self.listener.note(f"{error.message}: a recorded reply is lost, and is asked for again")
            return None

    async def checkout(self, tree: str) -> Path:
        """Return a tree as a folder; several stages that ask at once share the work."""
        task = self._checkouts.get(tree)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(asyncio.to_thread(self.store.checkout, tree))
            self._checkouts[tree] = task
        return await asyncio.shield(task)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a build would do with a stage, as far as that can be known before it runs."""

    stage: str
    status: str
    action: str | None
    outputs: Mapping[str, str] | None
    reasons: list[Reason]
    waits_for: tuple[str, ...] = ()


def plan(store: Store, graph: Graph, targets: Iterable[str]) -> dict[str, Planned]:
    """Say of each stage needed whether it is up to date, stale (and why) or not yet known. Runs and writes nothing."""
    planned: dict[str, Planned] = {}
    for stage in graph.needed(targets):
        waits = tuple(name for name in stage.upstream() if planned[name].outputs is None)
        if waits:
            planned[stage.name] = Planned(stage.name, UNKNOWN, None, None, [], waits)
            continue
        action = action_of(stage, {name: planned[name].outputs or {} for name in stage.upstream()})
        trace = store.find(action.digest)
        if trace is not None:
            planned[stage.name] = Planned(stage.name, UP_TO_DATE, action.digest, trace.outputs, [])
            continue
        last = store.last(stage.name)
        was = None if last is None else store.action_body(last[0])
        why = reasons(was, action.body(), {name: ref.label for name, ref in stage.inputs.items()})
        planned[stage.name] = Planned(stage.name, STALE, action.digest, None, why)
    return planned


def action_of(stage: Stage, made: Mapping[str, Mapping[str, str]]) -> Action:
    """Return a stage's action, given what the stages upstream made. Raises EngineError for an output nobody made."""
    inputs: dict[str, str] = {}
    for name, ref in stage.inputs.items():
        if isinstance(ref, Output):
            try:
                inputs[name] = made[ref.stage][ref.name]
            except KeyError:
                raise EngineError(
                    f"stage {ref.stage} made no output {ref.name!r}, which {stage.name} reads"
                ) from None
        else:
            inputs[name] = ref.digest
    return Action(stage.kind, stage.version, stage.params, inputs)
