"""Derivation: do spec, prompts and code in this checkout derive every action that the lock names? Needs no store.

What a stage reads from another is taken from the lock's own line, so that a difference shows at its own stage only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE, Difference, Level, Result
from charforge.engine import lock
from charforge.engine.errors import EngineError
from charforge.engine.explain import Reason, sentence
from charforge.engine.graph import Graph, Output, Stage
from charforge.engine.lock import Lock
from charforge.engine.stale import action_of

NAME = "derivation"


def derivation(said: Lock, character: str, graph: Graph, targets: Iterable[str]) -> Level:
    """Hold a lock against itself and against the stages that the checkout makes of `character`."""
    differences: dict[str, list[Difference]] = {}
    if said.character != character:
        what = f"it is the lock of {said.character}"
        differences["lock"] = [Difference("character", what, said.character, character)]
        said = replace(said, character=character)
    targets = list(targets)
    stages = {stage.name.rpartition("/")[2]: stage for stage in graph.needed(targets)}
    made = {f"{character}/{kind}": each.outputs for kind, each in said.stages.items()}
    contradicted = lock.self_check(said)
    for kind, reasons in lock.underived(said, graph, targets).items():
        if kind in contradicted and all(one.get("field") == "action" for one in reasons):
            continue  # the line's own contradiction, told below
        differences[kind] = [_difference(one, said, kind, stages.get(kind), made) for one in reasons]
    for kind, problems in contradicted.items():
        found = [Difference("line", f"the line contradicts itself: {each}") for each in problems]
        differences[kind] = [*differences.get(kind, []), *found]
    kinds = [kind for kind in ["lock", *stages, *said.stages] if kind in differences or kind != "lock"]
    results = [
        Result(kind, DIVERGENT if kind in differences else BIT_IDENTICAL, 1, differences.get(kind, []))
        for kind in dict.fromkeys(kinds)
    ]
    return Level(NAME, results, {"stages": len(said.stages)})


def underivable(said: Lock, why: str, *, wrong: bool) -> Level:
    """Return the level where the checkout makes no stages at all: its files are `wrong`, or something is not installed."""
    if wrong:
        return Level(
            NAME, [Result("lock", DIVERGENT, 0, [Difference("spec", why)])], {"stages": len(said.stages)}
        )
    return Level(
        NAME, [Result(kind, NOT_CHECKABLE, why=why) for kind in said.stages], {"stages": len(said.stages)}
    )


def _difference(
    reason: Reason, said: Lock, kind: str, stage: Stage | None, made: Mapping[str, Mapping[str, str]]
) -> Difference:
    match reason["kind"]:
        case "never":
            return Difference("stage", "the lock has no such stage", None, kind)
        case "gone":
            return Difference("stage", "this checkout makes no such stage", kind, None)
        case "version":
            return Difference("field version", sentence(reason), str(reason["was"]), str(reason["now"]))
        case "input":
            return _input(reason, said, kind, stage, made)
        case _:
            field = reason["field"] if reason["field"] in {"kind", "action"} else f"params.{reason['field']}"
            return Difference(f"field {field}", sentence(reason), _side(reason, "was"), _side(reason, "now"))


def _input(
    reason: Reason, said: Lock, kind: str, stage: Stage | None, made: Mapping[str, Mapping[str, str]]
) -> Difference:
    label, words = reason["label"], sentence(reason)
    what = f"input {label}"
    if stage is None or kind not in said.stages:
        return Difference(what, words)
    # An input that the checkout does not have is known by its own name.
    name = next((each for each, ref in stage.inputs.items() if ref.label == label), label)
    expected = said.stages[kind].inputs.get(name)
    try:
        found = action_of(stage, made).inputs.get(name)
    except EngineError:  # another input is missing
        found = None
    if isinstance(stage.inputs.get(name), Output) and expected and found:
        words = f"{label}: read as {expected[:12]}…, and made as {found[:12]}… by the lock's own line for it"
    return Difference(what, words, expected, found)


def _side(reason: Mapping[str, Any], side: str) -> str | None:
    return json.dumps(reason[side], ensure_ascii=False, sort_keys=True) if side in reason else None
