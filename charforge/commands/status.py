"""`charforge status` and `charforge explain`: what is stale, and why. Neither runs nor changes anything."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from charforge.commands.loading import known_stage, load_for
from charforge.engine import explain
from charforge.engine.stale import UP_TO_DATE, plan
from charforge.engine.store import Store
from charforge.progress import clean, plan_data, plan_lines, print_lines
from charforge.workshop import LocalWorkshop
from charforge.workspace import targets

_FIELDS_SHOWN = 6


def run_status(args: argparse.Namespace) -> int:
    """Print each stage's state."""
    wanted = targets(args.specs)
    loaded, graph = load_for(args, wanted, LocalWorkshop())
    goals = [each.character.stage("report") for each in loaded]
    with Store(wanted[0].workspace / ".charforge") as store:
        planned = plan(store, graph, goals)
    if args.json:
        print(json.dumps(plan_data(planned), indent=2, ensure_ascii=False))
    else:
        print_lines(plan_lines(planned))
    return 0


def run_explain(args: argparse.Namespace) -> int:
    """Print why stages are stale; of those that are not, why they last ran."""
    stage = None if args.stage is None else known_stage(args.stage, "explain")
    wanted = targets(args.specs)
    loaded, graph = load_for(args, wanted, LocalWorkshop())
    character = loaded[0].character
    with Store(wanted[0].workspace / ".charforge") as store:
        planned = plan(store, graph, [character.stage("report")])
        lines = plan_lines(planned)
        if stage is not None:
            lines = {name: line for name, line in lines.items() if name == character.stage(stage)}
        for name in lines:
            last = store.last(name)
            if planned[name].status == UP_TO_DATE and last is not None and last[1]:
                lines[name] += f"; last ran because: {clean(explain.sentences(last[1]))}"
            if args.calls:
                lines[name] += "".join(f"\n  {clean(line)}" for line in _calls(store, name))
        print_lines(lines)
    return 0


def _calls(store: Store, stage: str) -> Iterator[str]:
    """Say of each call that the stage's last run made how it differs from the earlier call it replaces."""
    last = store.last(stage)
    trace = None if last is None else store.find(last[0])
    if trace is None or "made" not in trace.record:
        return
    made = _list(store, trace.record["made"])
    kept = set(_list(store, trace.record["calls"]))
    previous = trace.record.get("previous")
    before = None if previous is None else store.find(previous)
    earlier = (
        [] if before is None else [call for call in _list(store, before.record["calls"]) if call not in kept]
    )
    bodies = [body for call in earlier if (body := store.action_body(call)) is not None]
    if not kept:
        return
    yield f"{len(made)} calls made, {len(kept) - len(made)} replayed"
    for call in made:
        body = store.action_body(call)
        nearest = None if body is None else explain.nearest_call(body, bodies)
        if body is None or nearest is None:
            yield f"{call[:12]}  new: no earlier call was like it"
        else:
            yield f"{call[:12]}  {explain.sentences(explain.reasons(nearest, body, {}), limit=_FIELDS_SHOWN)}"


def _list(store: Store, digest: str) -> list[str]:
    data: list[Any] = json.loads(store.read(digest))
    return [str(item) for item in data]
