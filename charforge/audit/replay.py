"""Replay: every pure stage is run again by the real engine from recorded replies, and held against its line of the lock.

Each stage by itself, on the inputs that the lock names: so a lie shows where it is, and not in all that stands on it. The work is
done by child processes (`replayer`) that have no network, no keys and only copies, under circumstances that must make no
difference (`variations`). Nothing of the workspace or its store is written. Stages whose outputs are observed
(`pipeline.OBSERVED`) are not run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from charforge import pipeline
from charforge.audit import variations
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE, Difference, Level, Result
from charforge.audit.pieces import Pieces
from charforge.audit.replayer import in_a_line
from charforge.audit.scratch import BASE, Known, Scratch, Told
from charforge.differences import differ
from charforge.engine.errors import EngineError
from charforge.engine.explain import reasons, sentence
from charforge.engine.graph import Output, Stage
from charforge.engine.lock import Line, Lock, facts_changed
from charforge.errors import CharForgeError
from charforge.files import visible
from charforge.workspace import Target

NAME = "replay"

LIMIT = 600.0
"""Seconds that a child may take, unless the user allows more."""


def replay(
    lock: Lock,
    target: Target,
    pieces: Pieces,
    *,
    variation: Collection[str] = variations.ALL,
    limit: float = LIMIT,
    weights: bool = True,
    told: Callable[[str], None] = lambda _text: None,
) -> Level:
    """Replay a character's pure stages and compare what they make with its lock.

    `limit`: seconds that a child may take. Without `weights` the base weights are not written again. `told` hears what is
    going on. Never raises for what is wrong with the lock, the pieces or the character's files.
    """
    facts = {"variation": [name for name in variations.ALL if name in variation]}
    try:
        with Scratch(target, limit) as scratch:
            return _replay(lock, scratch, pieces, variation, facts, weights=weights, told=told)
    except (CharForgeError, EngineError) as error:
        why = in_a_line(error)
    except OSError as error:
        why = f"no room for a scratch copy: {error.strerror}"
    return Level(NAME, [Result(kind, NOT_CHECKABLE, why=visible(why)) for kind in _pure(lock)], facts)


def _pure(lock: Lock) -> list[str]:
    return [kind for kind in lock.stages if kind not in pipeline.OBSERVED]


def _replay(
    lock: Lock,
    scratch: Scratch,
    pieces: Pieces,
    variation: Collection[str],
    facts: dict[str, Any],
    *,
    weights: bool,
    told: Callable[[str], None],
) -> Level:
    stages = {stage.kind: stage for stage in scratch.graph if stage.kind in _pure(lock)}
    cannot = {kind: "this checkout makes no such stage" for kind in _pure(lock) if kind not in stages}
    if BASE in stages and (why := _no_base(stages[BASE], weights=weights)) is not None:
        cannot[BASE] = why
    run = [kind for kind in stages if kind not in cannot]
    known = scratch.fill(lock, [stages[kind] for kind in run], pieces)
    facts["replies"] = len(known.replies)
    # Weights keep one processor busy while the others replay the rest.
    parts = [part for part in ([BASE], [kind for kind in run if kind != BASE]) if set(part) <= set(run)]
    telling = {
        kind: each
        for part, each in zip(parts, scratch.run([(part, variation) for part in parts], lock), strict=True)
        for kind in part
    }
    found = {kind: each.stages[kind] for kind, each in telling.items() if kind in each.stages}
    judge = Judge(lock, stages, pieces, scratch, known, found)
    results = {kind: Result(kind, NOT_CHECKABLE, why=visible(why)) for kind, why in cannot.items()}
    for kind in run:
        ended = visible(telling[kind].ended or "the replay ended before it")
        results[kind] = judge.result(kind) if kind in found else Result(kind, NOT_CHECKABLE, why=ended)
    odd = [
        kind for kind in run if results[kind].verdict == DIVERGENT and not _same(telling[kind], kind, lock)
    ]
    if odd and variation:
        told(f"replay: {', '.join(odd)} came out otherwise; looking for what causes it")
        for kind, cause in _causes(lock, scratch, odd, variation).items():
            results[kind].differences.append(Difference("variation", cause))
    return Level(NAME, [results[kind] for kind in _pure(lock)], facts)


def _no_base(stage: Stage, *, weights: bool) -> str | None:
    """Say why base weights cannot be written again here, None where they can."""
    if not weights:
        return "not asked for"

    def kinds(base: Mapping[str, Any]) -> Iterator[str]:
        if base["kind"] == "delta":
            yield from kinds(base["delta"])
            yield from kinds(base["onto"])
        else:
            yield base["kind"]

    found = set(kinds(stage.params["base"]))
    return "it needs weights of the hub, and a replay has no network" if "hub" in found else None


# -- one stage's verdict ---------------------------------------------------------------------------------------------


class Judge:
    """Holds what children told against the lock, stage by stage. `found` is what they told, by kind."""

    def __init__(
        self,
        lock: Lock,
        stages: Mapping[str, Stage],
        pieces: Pieces,
        scratch: Scratch,
        known: Known,
        found: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._lock = lock
        self._stages = stages
        self._pieces = pieces
        self._scratch = scratch
        self._known = known
        self._found = found
        self._made = {kind: Line(**each["made"]) for kind, each in found.items() if "made" in each}

    def result(self, kind: str) -> Result:
        """Return the verdict on a stage that a child told of."""
        was, told = self._lock.stages[kind], self._found[kind]
        events = sorted(set(told.get("refused", [])))
        found = [Difference("network", f"it reached for the network: {event}") for event in events]
        found += self._inputs(kind)
        why = None
        if "lacks" in told:
            unnamed = [name for name in told["lacks"] if name not in was.inputs]
            found += [Difference(f"input {name}", "the lock's line has no such input") for name in unnamed]
            labels = [self._stages[kind].inputs[name].label for name in told["lacks"]]
            more = f" and {len(labels) - 2} more" if len(labels) > 2 else ""
            why = f"neither store nor recording has what it reads: {', '.join(labels[:2])}{more}"
        elif "unanswered" in told:
            why = f"{told['unanswered']:,} of its requests to {visible(told['to'])} have no recorded reply"
            if (instead := self._known.wrong(kind, was)) is not None:
                found.append(Difference("observations", f"{why}: {instead}", was.observations.get("root")))
        elif "stopped" in told:
            why = visible(told["stopped"])
        elif "failed" in told:
            found.append(Difference("stage", f"it fails: {visible(told['failed'])}"))
        else:
            found += self._changed(kind)
        if found:
            return Result(kind, DIVERGENT, _held(was), found)
        return (
            Result(kind, BIT_IDENTICAL, _held(was)) if why is None else Result(kind, NOT_CHECKABLE, why=why)
        )

    def _inputs(self, kind: str) -> Iterator[Difference]:
        """Yield each input that is neither what the lock says the stage before made, nor what that came to here."""
        for name, ref in self._stages[kind].inputs.items():
            if not isinstance(ref, Output):
                continue
            maker = ref.stage.rpartition("/")[2]
            before = self._lock.stages.get(maker)
            named = self._lock.stages[kind].inputs.get(name)
            if before is None or named is None:
                continue
            made = self._made.get(maker, before).outputs.get(ref.name)
            if named not in {before.outputs.get(ref.name), made}:
                yield Difference(f"input {name}", f"not what {ref.label} is", named, made)

    def _changed(self, kind: str) -> Iterator[Difference]:
        """Yield where the line of what was made here is not the lock's."""
        was, now = self._lock.stages[kind], self._made[kind]
        body, made = was.body(kind), now.body(kind)
        if not now.action == was.action == body.digest:
            why = [sentence(each) for each in reasons(body.plain(), made.plain(), {})]
            said = (
                f"this checkout makes it by another action: {'; '.join(why[:3]) or 'the digest is another'}"
            )
            yield Difference("action", visible(said), was.action, now.action)
        for fact, (before, after) in facts_changed(was, now).items():
            group, _, name = fact.partition(".")
            what = group if group == "observations" else f"{group.removesuffix('s')} {name}"
            expected, found = _shown(before), _shown(after)
            record, said = None, f"{_short(expected)} in the lock, {_short(found)} in the replay"
            if group == "outputs" and before is not None and after is not None:
                record, said = self._first(name, str(before), str(after))
            elif group == "observations":
                said = f"the {name} of its recorded replies, {said}"
            yield Difference(what, visible(f"{what}: {said}"), expected, found, record)

    def _first(self, name: str, was: str, now: str) -> tuple[Mapping[str, Any] | None, str]:
        """Return the first difference between two outputs, as data and in words."""
        before, after = self._pieces.blob(was), self._scratch.made(now)
        if before is None or after is None:
            return None, "other bytes; those that the lock names are not here to compare with"
        first = next(iter(differ(name, before, after, limit=1)), None)
        return (None, "other bytes") if first is None else (first.data(), first.said())


def _held(line: Line) -> int:
    """Return how many things of a line are held against what was made: its action and each fact."""
    return 1 + sum(len(each) for each in line.facts().values())


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= 40 else f"{text[:12]}…"


# -- what causes a difference ----------------------------------------------------------------------------------------


def _causes(lock: Lock, scratch: Scratch, kinds: list[str], variation: Collection[str]) -> dict[str, str]:
    """Say of each stage that came out otherwise under which circumstances it does: plain first, then each alone."""
    scratch.keep(lock, kinds)
    plain = scratch.run([(kinds, ())], lock)[0]
    causes: dict[str, str] = {}
    open_ = []
    for kind in kinds:
        if _same(plain, kind, lock):
            open_.append(kind)
        else:
            causes[kind] = "so it is in every environment, this one unvaried among them"
    if not open_:
        return causes
    each = [name for name in variations.ALL if name in variation]
    tellings = scratch.run([(open_, (name,)) for name in each], lock)
    for kind in open_:
        by = [name for name, told in zip(each, tellings, strict=True) if not _same(told, kind, lock)]
        causes[kind] = (
            f"another {' or '.join(by)} causes it" if by else "only several variations together cause it"
        )
    return causes


def _same(told: Told, kind: str, lock: Lock) -> bool:
    made = told.stages.get(kind, {}).get("made")
    return made is not None and not facts_changed(lock.stages[kind], Line(**made))
