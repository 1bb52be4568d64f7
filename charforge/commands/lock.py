"""`charforge lock`: write locks from the store, or hold them against what this checkout derives."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from charforge.commands.loading import Loaded, NothingNew, load
from charforge.engine import lock
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import sentence
from charforge.engine.graph import Graph
from charforge.engine.reader import look
from charforge.engine.stale import UP_TO_DATE, plan
from charforge.engine.store import Store, Trace
from charforge.errors import CharForgeError
from charforge.files import visible
from charforge.workspace import Target, targets


def run(args: argparse.Namespace) -> int:
    """Write the locks of finished builds from the store, or check them. Makes nothing, asks nobody."""
    wanted = targets(args.specs)
    if args.check and not args.specs:
        wanted = [each for each in wanted if each.lock.is_file()]
        if not wanted:
            raise CharForgeError("no locks here: characters/*.lock", "a finished build writes one")
    loaded, graph = load(wanted, NothingNew())
    if args.check:
        return 1 if sum([_check(each, graph) for each in loaded]) else 0
    for each in loaded:
        found = look(each.target.workspace / ".charforge", partial(_collected, each=each, graph=graph))
        written = lock.write(each.target.lock, found)
        said = "written" if written else "as it was"
        print(f"{lock_label(each.target)}: {said}, {len(found.stages)} stages")
    return 0


def lock_label(target: Target) -> str:
    """Return a lock's path as a user knows it."""
    return target.label.rpartition(".")[0] + ".lock"


def _collected(store: Store, *, each: Loaded, graph: Graph) -> lock.Lock:
    goal = each.character.stage("report")
    traces: dict[str, Trace] = {}
    for name, state in plan(store, graph, [goal]).items():
        kind = name.rpartition("/")[2]
        trace = None if state.action is None else store.find(state.action)
        if state.status != UP_TO_DATE or trace is None:
            why = "; ".join(map(sentence, state.reasons)) or "what it stands on is yet to be made"
            raise CharForgeError(
                f"{each.target.id}: {kind} is not up to date ({why}), and a lock speaks for a finished build",
                f"charforge build {each.target.label} writes the lock too",
            )
        traces[kind] = trace
    return lock.collect(store, each.target.id, traces)


def _check(each: Loaded, graph: Graph) -> bool:
    """Say what of a lock is not so, on stderr. Returns whether there was anything."""
    label = lock_label(each.target)
    try:
        found = lock.read(each.target.lock)
    except EngineError as error:
        raise CharForgeError(error.message, error.hint) from error
    said: list[str] = []
    if found.character != each.target.id:
        said.append(f"character: it is the lock of {visible(found.character)}")
        found = lock.Lock(each.target.id, found.stages, found.environments)
    for kind, problems in lock.self_check(found).items():
        said += [f"{kind}: {problem}" for problem in problems]
    underived = lock.underived(found, graph, [each.character.stage("report")])
    for kind, why in underived.items():
        said += [
            f"{kind}: {'the lock has no such stage' if one['kind'] == 'never' else sentence(one)}"
            for one in why
        ]
    root = each.target.workspace / ".charforge"
    compared = 0
    if root.is_dir():
        disagreements, compared = look(root, lambda store: _against(store, found))
        said += disagreements
    if said:
        print(
            "\n  ".join([f"error: {label} is not what this checkout derives", *map(visible, said)]),
            file=sys.stderr,
        )
        command = "build" if underived else "lock"
        print(f"hint: charforge {command} {each.target.label} writes it anew", file=sys.stderr)
        return True
    made = f"; what the store has of {compared} stages agrees" if compared else ""
    print(f"{label}: derived by this checkout, {len(found.stages)} stages{made}")
    return False


def _against(store: Store, found: lock.Lock) -> tuple[list[str], int]:
    """Return where the store's own traces contradict a lock, and how many of its stages the store has."""
    said, compared = [], 0
    for kind, each in found.stages.items():
        traces = store.observations(each.action)
        if not traces:
            continue
        compared += 1
        # Several observations of one action may differ; the lock names the one in use.
        trace = next((one for one in traces if dict(one.outputs) == dict(each.outputs)), traces[0])
        try:
            now, _ = lock.line(store, trace)
        except Damaged:
            compared -= 1
            continue
        said += [
            f"{kind}: {name} is {_shown(was)} in the lock and {_shown(is_)} in the store"
            for name, (was, is_) in lock.facts_changed(each, now).items()
        ]
    return said, compared


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
