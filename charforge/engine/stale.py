"""What is stale, and why: the action that each stage needs now, held against what the store has.

Runs and writes nothing. The build loop asks it stage by stage; `plan` asks for a whole graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from charforge.engine.digest import Action
from charforge.engine.errors import EngineError
from charforge.engine.explain import Reason, reasons
from charforge.engine.graph import Graph, Output, Stage
from charforge.engine.store import Store

UP_TO_DATE = "up to date"
STALE = "stale"  # it would run
UNKNOWN = "unknown"  # it depends on what a stale stage will make


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
        why = why_stale(store, stage, action)
        planned[stage.name] = Planned(stage.name, STALE, action.digest, None, why)
    return planned


def why_stale(store: Store, stage: Stage, action: Action) -> list[Reason]:
    """Return why a stage has to run, given that the store has no whole trace of its action."""
    if store.lost(action.digest):
        return [{"kind": "lost"}]
    last = store.last(stage.name)
    was = None if last is None else store.action_body(last[0])
    # The canonical form on both sides: there 1.0 is 1 and a tuple a list.
    now = json.loads(action.canonical)
    return reasons(was, now, {name: ref.label for name, ref in stage.inputs.items()})


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
