"""The build loop: what is stale runs, as soon as its inputs are there; what ran is kept, whatever happens next.

Two grains. A *stage* is a node of the graph. The *calls* inside it are actions too, each durable before it counts as
done, so that a stage run again replays every unchanged call for nothing.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical
from charforge.engine.disk import FAILING, NO_ROOM, failing, no_room
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import Reason
from charforge.engine.fair import Places
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.stale import UP_TO_DATE, action_of, why_stale
from charforge.engine.store import Store, Trace
from charforge.engine.writer import Write

RAN = "ran"
FAILED = "failed"
BLOCKED = "blocked"  # something it needs failed or was stopped
STOPPED = "stopped"  # another failure ended the build before this could finish

Perform = Callable[[], Awaitable[tuple[bytes, dict[str, Any]]]]
"""Makes a call: gives the reply's bytes and a side record (times, usage) that is no part of it."""


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
    record: Mapping[str, Any] = field(default_factory=dict)
    """What lies beside the trace: what the stage noted of itself, times, environment."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call's reply, the record beside it, and whether it was made now."""

    reply: bytes
    record: Mapping[str, Any]
    made: bool


class Listener:
    """Hears what a build does. Every method may be overridden; none may fail."""

    def stage_started(self, stage: str, why: list[Reason]) -> None:
        """A stage was found stale, and begins."""

    def stage_ahead(self, stage: str, follows: str) -> None:
        """A stage begins with what the stage it follows has published, before that one has finished."""

    def stage_progress(self, stage: str, done: int, total: int, note: str) -> None:
        """A stage got on: `done` of `total` units, and a few words where it has any."""

    def stage_finished(self, outcome: Outcome) -> None:
        """A stage came to its end, in whatever way."""

    def call_made(self, stage: str, call: str, record: Mapping[str, Any]) -> None:
        """A call was made, and is durable."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class _Stream:
    """What a running stage publishes, for the stages that follow it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.closed = False
        self._more = asyncio.Event()

    def publish(self, item: Any) -> None:
        self.items.append(item)
        self._more.set()

    def close(self) -> None:
        self.closed = True
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield all items from the first on, until the stream is closed."""
        given = 0
        while True:
            # Nothing awaits between the look and the clear, so no item is missed.
            while given < len(self.items):
                given += 1
                yield self.items[given - 1]
            if self.closed:
                return
            self._more.clear()
            await self._more.wait()


class _StopError(BaseException):
    """Raised inside a running stage once it, or the build, is ending: no new call begins.

    No Exception, so that a stage that forgives a failing call cannot take this for one and finish without it.
    """


@dataclass(slots=True)
class Context:
    """What a running stage sees of the engine."""

    stage: Stage
    params: Mapping[str, Any]
    scratch: Path
    record: dict[str, Any]
    _build: Build
    _inputs: Mapping[str, str]
    kept: Path = field(default_factory=Path)
    """A folder that a run may make, and that outlives it if it fails or is killed: the same action's next run finds it.

    Gone once the stage is done. For what saves time, such as checkpoints: it is no output, and nobody else reads it.
    """
    left: dict[str, bytes] = field(default_factory=dict)
    _calls: list[str] = field(default_factory=list)
    _made: list[str] = field(default_factory=list)
    _in_flight: set[asyncio.Future[None]] = field(default_factory=set)
    _ended: bool = False
    _refused: bool = False

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

    def leave(self, outputs: Mapping[str, bytes]) -> None:
        """Keep what was made so far, should the stage fail now: `left_by` finds it. It is no output."""
        self.left = dict(outputs)

    def publish(self, item: Any) -> None:
        """Hand something to the stages that follow this one. They take it as likely, not as decided."""
        self._build.stream(self.stage.name).publish(item)

    def published(self) -> AsyncIterator[Any]:
        """What the stage that this one follows publishes, until that one ends. For `ahead` only."""
        assert self.stage.follows is not None
        return aiter(self._build.stream(self.stage.follows))

    async def call(self, action: Action, perform: Perform, *, lane: str = "") -> Called:
        """Return the reply of a call: the recorded one if there is one, else `perform()`'s, once it is durable.

        Calls of one lane (an endpoint) share the places that `jobs` gives.
        """
        if self._ended:
            self.refuse()
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight.add(landed)
        try:
            called = await self._build.call(self, action, perform, lane)
        finally:
            self._in_flight.discard(landed)
            landed.set_result(None)
        self._calls.append(action.digest)
        if called.made:
            self._made.append(action.digest)
        return called

    def recorded_calls(self) -> Iterator[Mapping[str, Any]]:
        """Yield the bodies of the calls that the store knows, those recorded last first."""
        return self._build.store.call_bodies()

    def go_on(self) -> None:
        """Raise `_StopError` if no new call may begin."""
        if self._ended or self._build.stopping:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raise `_StopError`, and remember that it was: a stage that swallowed it has not done its work."""
        self._refused = True
        raise _StopError

    async def end(self) -> None:
        """Begin no new call, and wait for those in flight: they may be paid for."""
        self._ended = True
        while self._in_flight:
            await asyncio.wait(self._in_flight)


@dataclass(slots=True)
class _HeadStart:
    """A stage's run ahead of the one it follows. `context` is None until there was something to run on."""

    task: asyncio.Task[None] | None = None
    context: Context | None = None
    over: bool = False

    async def end(self) -> list[str]:
        """Begin no new call, wait for those in flight, and return the calls that were made."""
        self.over = True
        if self.context is None:
            return []
        await self.context.end()
        return self.context._made  # noqa: SLF001


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
        self._jobs = jobs
        self._known: set[bytes] | None = None
        self._lanes: dict[str, Places] = {}
        self._followed = {stage.follows for stage in graph if stage.follows is not None}
        self._flights: dict[str, asyncio.Future[Called]] = {}
        self._streams: dict[str, _Stream] = {}
        self._hits: list[Action] = []
        self._checkouts: dict[str, asyncio.Task[Path]] = {}
        self.stopping = False
        """Something failed, and no new work begins."""

    async def run(self, targets: Iterable[str]) -> dict[str, Outcome]:
        """Bring the targets up to date and return what became of each stage needed, in graph order.

        A blob found damaged on the way is named, set aside, and made again by a further round.
        """
        for text in self.store.notes:
            self.listener.note(text)
        self.store.notes.clear()
        with _seldom_collecting():
            needed = self.graph.needed(targets)
            outcomes = await self._rounds(needed)
            sources = [ref for stage in needed for ref in stage.inputs.values() if isinstance(ref, Source)]
            hit = {digest for action in self._hits for digest in action.inputs.values()}
            restored = self.store.restore(
                self._hits, {ref.digest: ref.data for ref in sources if ref.digest in hit}
            )
            if restored is not None:
                await _durable(restored)
            return outcomes

    async def _rounds(self, needed: list[Stage]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        repaired: set[str] = set()
        while True:
            earlier, outcomes = outcomes, await self._round(needed)
            for name, before in earlier.items():
                # What an earlier round ran is up to date in this one, and was not before the build.
                now = outcomes[name]
                if before.status == RAN and now.status == UP_TO_DATE and before.action == now.action:
                    outcomes[name] = before
            damage = [outcome.error for outcome in outcomes.values() if isinstance(outcome.error, Damaged)]
            if repaired.issuperset(error.digest for error in damage):
                return outcomes
            for error in damage:
                repaired.add(error.digest)
                self.listener.note(f"{error.message}; rebuilding what made it")

    async def _round(self, needed: list[Stage]) -> dict[str, Outcome]:
        self.stopping = False
        self._streams.clear()
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

    def stream(self, stage: str) -> _Stream:
        """Return what a stage publishes in this round."""
        return self._streams.setdefault(stage, _Stream())

    async def _bring_up_to_date(self, stage: Stage, upstream: Mapping[str, asyncio.Task[Outcome]]) -> Outcome:
        head = _HeadStart()
        if stage.ahead is not None:
            head.task = asyncio.create_task(self._go_ahead(stage, upstream, head))
        try:
            outcome = await self._when_ready(stage, upstream, head)
            await head.end()
            return outcome
        finally:
            self.stream(stage.name).close()
            if head.task is not None:
                head.task.cancel()
                await asyncio.gather(head.task, return_exceptions=True)

    async def _go_ahead(
        self, stage: Stage, upstream: Mapping[str, asyncio.Task[Outcome]], head: _HeadStart
    ) -> None:
        """Run a stage's `ahead` on what the stage it follows publishes. Whatever it ends in, `run` will find out."""
        assert stage.ahead is not None
        assert stage.follows is not None
        made = {name: await asyncio.shield(task) for name, task in upstream.items() if name != stage.follows}
        async for _ in self.stream(stage.follows):
            break
        else:
            return  # it had nothing to run for
        if head.over or self.stopping or any(result.outputs is None for result in made.values()):
            return
        inputs = {
            name: ref.digest if isinstance(ref, Source) else (made[ref.stage].outputs or {})[ref.name]
            for name, ref in stage.inputs.items()
            if not (isinstance(ref, Output) and ref.stage == stage.follows)
        }
        head.context = Context(stage, stage.params, Path(), {}, self, inputs)
        self.listener.stage_ahead(stage.name, stage.follows)
        with suppress(Exception, _StopError):
            await stage.ahead(head.context)

    async def _when_ready(
        self, stage: Stage, upstream: Mapping[str, asyncio.Task[Outcome]], head: _HeadStart
    ) -> Outcome:
        made: dict[str, Outcome] = {}
        for name, task in upstream.items():
            made[name] = await asyncio.shield(task)
        for name, result in made.items():
            if result.outputs is None:
                outcome = Outcome(stage.name, BLOCKED, blocked_by=name)
                outcome.calls_made = len(await head.end())
                return self._finished(outcome)
        try:
            action = action_of(stage, {name: result.outputs or {} for name, result in made.items()})
        except EngineError as error:
            return self._failed(Outcome(stage.name, FAILED), error)
        trace = self.store.find(action.digest)
        if trace is not None:
            return await self._hit(stage, action, trace)
        outcome = Outcome(stage.name, STOPPED, action.digest, reasons=why_stale(self.store, stage, action))

        def waiting(polls: int) -> None:
            if self.stopping:
                raise _StopError
            if polls == 0:
                self.listener.note(f"{stage.name}: another build is making it; waiting for that one")

        with suppress(_StopError):
            if self.stopping:
                raise _StopError
            async with self.claims.hold(action.digest, waiting):
                # Looked up again: another process may have finished it before the claim was ours.
                trace = self.store.find(action.digest)
                if trace is not None:
                    return await self._hit(stage, action, trace)
                if self.stopping:
                    raise _StopError
                return await self._execute(stage, action, outcome, head)
        outcome.calls_made = len(await head.end())
        return self._finished(outcome)

    async def _hit(self, stage: Stage, action: Action, trace: Trace) -> Outcome:
        self._hits.append(action)
        if self.store.last_action(stage.name) != trace.action:
            await _durable(self.store.set_last(stage.name, trace.action, []))
        return self._finished(
            Outcome(stage.name, UP_TO_DATE, trace.action, trace.outputs, record=trace.record)
        )

    async def _execute(self, stage: Stage, action: Action, outcome: Outcome, head: _HeadStart) -> Outcome:
        last = self.store.last(stage.name)
        self.listener.stage_started(stage.name, outcome.reasons)
        began, clock = time.time(), time.perf_counter()
        kept = self.store.kept(action.digest)
        context = Context(stage, action.params, Path(), {}, self, action.inputs, kept)
        try:
            with self.store.scratch() as scratch:
                context.scratch = scratch
                outputs = await self._run(stage, context, outcome, head)
                packed = await asyncio.to_thread(self.store.pack, outputs)
            sources = {name: ref.data for name, ref in stage.inputs.items() if isinstance(ref, Source)}
            # What was read travels with the trace: an audit can replay the stage without the checkout.
            packed.inline |= (await asyncio.to_thread(self.store.pack, sources)).inline
            lists = {"calls": context._calls, "made": context._made}  # noqa: SLF001
            noted = self.store.pack({name: canonical(sorted(set(calls))) for name, calls in lists.items()})
            packed.inline |= noted.inline
            outcome.seconds = time.perf_counter() - clock
            record = {
                **context.record,
                "started": began,
                "seconds": outcome.seconds,
                **noted.outputs,
                "previous": None if last is None else last[0],
                "calls_made": outcome.calls_made,
                "calls_replayed": outcome.calls_replayed,
                "environment": self._environment,
            }
            # Queued together, so that one commit can take both.
            written = self.store.record(action, packed, record)
            latest = self.store.set_last(stage.name, action.digest, list(outcome.reasons))
            await _durable(written)
            await _durable(latest)
            await asyncio.to_thread(shutil.rmtree, kept, ignore_errors=True)
            outcome.status, outcome.outputs, outcome.record = RAN, packed.outputs, record
        except Exception as error:  # noqa: BLE001 - one stage's failure is an outcome; the caller tells bugs apart
            outcome.seconds = time.perf_counter() - clock
            if context.left:
                # For whoever looks into it; a store that cannot take it has an error of its own to tell.
                with suppress(EngineError):
                    packed = self.store.pack(context.left)
                    await _durable(self.store.record(_failure(action.digest), packed, {"stage": stage.name}))
            return self._failed(outcome, error)
        return self._finished(outcome)

    async def _run(
        self, stage: Stage, context: Context, outcome: Outcome, head: _HeadStart
    ) -> Mapping[str, bytes | Path]:
        """Run a stage to its end, and its calls in flight to theirs, however it ends; a cancelled build drops both."""
        ended = asyncio.ensure_future(head.end())
        outputs: Mapping[str, bytes | Path] = {}
        failure: BaseException | None = None
        try:
            outputs = await stage.run(context)
            if context._refused:  # noqa: SLF001 - the two classes are one thing
                failure = _StopError()
        except asyncio.CancelledError:
            if _being_cancelled():
                raise
            failure = RuntimeError(f"stage {stage.name} ended in a cancellation that nobody asked for")
        except (Exception, _StopError) as error:  # noqa: BLE001 - raised below
            failure = error
        if isinstance(failure, Exception) and not self._keep_going:
            self.stopping = True
        await context.end()
        early = await ended
        context._made += set(early).intersection(context._calls)  # noqa: SLF001
        outcome.calls_replayed = len(context._calls) - len(context._made)  # noqa: SLF001
        outcome.calls_made = len({*context._made, *early})  # noqa: SLF001
        if failure is not None:
            raise failure
        return outputs

    def _failed(self, outcome: Outcome, error: Exception) -> Outcome:
        if isinstance(error, OSError):  # a stage's own files, in its scratch folder
            if error.errno in NO_ROOM:
                error = no_room(self.store.root)
            elif error.errno in FAILING and str(error.filename or self.store.root).startswith(
                str(self.store.root)
            ):  # a write names no file
                error = failing(self.store.root, error.strerror or str(error))
        outcome.status, outcome.error = FAILED, error
        if not self._keep_going:
            self.stopping = True
        return self._finished(outcome)

    def _finished(self, outcome: Outcome) -> Outcome:
        self.listener.stage_finished(outcome)
        return outcome

    async def call(self, context: Context, action: Action, perform: Perform, lane: str) -> Called:
        """Return a call's reply. The same call asked for twice is made once."""
        digest = action.digest
        while (flight := self._flights.get(digest)) is not None:
            try:
                return replace(await asyncio.shield(flight), made=False)
            except asyncio.CancelledError:
                if _being_cancelled() or not flight.cancelled():
                    raise
                # Whoever was making it gave up, which is no reason to do so here.
        # Most calls of a first build are new: that is known without asking the store for each.
        if self._known is None:
            self._known = self.store.known()
        if bytes.fromhex(digest) in self._known and (recorded := self._replay(digest)) is not None:
            return recorded
        flight = self._flights[digest] = asyncio.get_running_loop().create_future()
        try:
            called = await self._make(context, action, perform, lane)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # retrieved, should nobody else wait for it
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(called)
        finally:
            del self._flights[digest]
        return called

    async def _make(self, context: Context, action: Action, perform: Perform, lane: str) -> Called:
        places = self._lanes.get(lane)
        if places is None:
            places = self._lanes[lane] = Places(self._jobs, self._followed)
        party, digest = context.stage.name, action.digest
        await places.take(party)
        holding = True
        try:
            context.go_on()
            async with self.claims.hold(digest, lambda _polls: context.go_on()):
                # Looked up again: another process may have made it meanwhile.
                before = self.store.newest(digest)
                if before is not None and (recorded := self._replay(digest)) is not None:
                    if (restored := self.store.restore([action], {})) is not None:
                        await _durable(restored)
                    return recorded
                context.go_on()
                if before is not None:
                    text = f"the recorded reply of call {digest[:12]} is gone from the store, or damaged"
                    self.listener.note(f"{party}: {text}; asking again")
                clock = time.perf_counter()
                reply, record = await perform()
                # The endpoint is done with it: the next call need not wait until this one is on the disk.
                holding = False
                places.give(party)
                record = {**record, "seconds": time.perf_counter() - clock, "stage": party}
                packed = self.store.pack({"reply": reply})
                await _durable(self.store.record(action, packed, record, first=before is None))
        finally:
            if holding:
                places.give(party)
        assert self._known is not None
        self._known.add(bytes.fromhex(digest))
        self.listener.call_made(party, digest, record)
        return Called(reply, record, made=True)

    def _replay(self, call: str) -> Called | None:
        trace = self.store.find(call)
        if trace is None:
            return None
        try:
            return Called(self.store.read(trace.outputs["reply"]), trace.record, made=False)
        except Damaged:
            return None

    async def checkout(self, tree: str) -> Path:
        """Return a tree as a folder; several stages that ask at once share the work."""
        task = self._checkouts.get(tree)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(asyncio.to_thread(self.store.checkout, tree))
            self._checkouts[tree] = task
        return await asyncio.shield(task)


def left_by(store: Store, action: str) -> Mapping[str, str] | None:
    """Return what a stage's action left when it failed last, None if it never did or left nothing."""
    failures = store.observations(_failure(action).digest)
    return failures[-1].outputs if failures else None


def _failure(action: str) -> Action:
    return Action("failure", 1, {"action": action}, {})


async def _durable(write: Write) -> None:
    """Wait for a write to the store.

    Also through a cancellation (it is the milliseconds of a commit), so that no claim ends before what it was for is
    there for others to find.
    """
    try:
        await write.landed()
    except asyncio.CancelledError:
        with suppress(Exception):
            await write.landed()
        raise


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Let Python look for garbage less often.

    With hundreds of calls in flight a full collection stops them all for tens of milliseconds, several times a second, to
    find next to nothing: it cost a tenth of what an endpoint of 200 ms could give.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _being_cancelled() -> bool:
    """Say whether the running task was asked to end, rather than awaiting something that was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
