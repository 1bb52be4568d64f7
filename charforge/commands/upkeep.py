"""`charforge check`, `schema` and `gc`: what surrounds a build."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from charforge.errors import CharForgeError, FileProblems, Problem
from charforge.workspace import PACKAGE, Target, target, targets

if TYPE_CHECKING:
    from charforge.sections import CharacterSpec


def run_check(args: argparse.Namespace) -> int:
    """Verify characters' files. Reads text, runs nothing, needs no network and no key."""
    from charforge import check

    problems: list[Problem] = []
    for each in targets(args.specs):
        try:
            found = check.check(
                each.spec, each.workspace, preset=args.preset, overrides=args.overrides, strict=args.strict
            )
            facts = [*found.facts, f"cost from nothing: {_cost(each, found.spec)}"]
        except FileProblems as error:
            problems += error.problems
        except CharForgeError as error:
            problems.append(Problem(each.label, None, None, error.message, None, error.hint))
        else:
            print("\n  ".join([f"{each.id}: ok", *facts]))
            for kind, several in (("unfinished", found.unfinished), ("note", found.notes)):
                for problem in several:
                    print(indent(problem.render().replace("error: ", f"{kind}: ", 1), "  "))
    if problems:
        raise FileProblems(problems)
    return 0


def _cost(each: Target, spec: CharacterSpec) -> str:
    """Return what `charforge plan` reckons where nothing is recorded. The store here is not looked at: it may be a stranger's.

    Neither are base weights and released data, which cost nothing and can be gigabytes: others stand in for them.
    """
    from charforge import pipeline
    from charforge.commands import plan
    from charforge.commands.loading import Loaded, NothingNew
    from charforge.engine.graph import Graph
    from charforge.engine.receipt import Stamps
    from charforge.sections import Prompted

    data = spec.train.data if isinstance(spec.train.data, str) else Prompted(prompted="any/data:any.jsonl")
    light = replace(spec, train=replace(spec.train, base_model="any/base", data=data, mix=None))
    stamps = Stamps()
    character = pipeline.character(light, each.workspace, NothingNew(), stamps)
    return plan.said_cost(plan.from_nothing([Loaded(each, character, stamps)], Graph(character.stages)))


def run_schema(_args: argparse.Namespace) -> int:
    """Print the JSON Schema, for editors."""
    print((PACKAGE / "spec.schema.json").read_text(encoding="utf-8"), end="")
    return 0


def run_gc(args: argparse.Namespace) -> int:
    """Remove what neither a current spec nor a lock file reaches."""
    from charforge.commands.loading import load
    from charforge.engine import gc, lock
    from charforge.engine.stale import UP_TO_DATE, plan
    from charforge.engine.store import Store
    from charforge.workshop import LocalWorkshop

    folder = Path.cwd()
    if not (folder / ".charforge").is_dir():
        raise CharForgeError("no store here: .charforge/", "run gc in the folder above characters/")
    with Store(folder / ".charforge") as store:
        specs, locks = (sorted((folder / "characters").glob(f"*{end}")) for end in (".yaml", ".lock"))
        # A spec may also lie beside the store. Which of the files there are specs, the store knows.
        for character in sorted({stage.split("/", 1)[0] for stage in store.stages()}):
            specs += [path for path in [folder / f"{character}.yaml"] if path.is_file()]
            locks += [path for path in [folder / f"{character}.lock"] if path.is_file()]
        if not specs and not locks:
            raise CharForgeError(
                "no spec and no lock file here: everything would go", "remove .charforge/ if you mean that"
            )
        roots = {action for path in locks for action in lock.actions(path)}
        # A spec that cannot be read keeps nothing alive, and nobody should lose paid replies to a typing error.
        _, graph = load([target(str(path)) for path in specs], LocalWorkshop())
        names = {stage.name for stage in graph}
        planned = plan(store, graph, names)
        roots.update(item.action for item in planned.values() if item.action is not None)
        # What a current spec was last built from stays too: it is what the next build replays calls from.
        roots.update(action for stage, action in store.stages().items() if stage in names)
        unfinished = {name for name, item in planned.items() if item.status != UP_TO_DATE}
        swept = gc.collect(store, roots, unfinished=unfinished, dry_run=args.dry_run)
    if not swept.actions and not swept.blobs:
        print("nothing to remove")
    else:
        verb = "would remove" if args.dry_run else "removed"
        print(f"{verb} {swept.actions} actions and {swept.blobs} blobs, {_size(swept.bytes)}")
    return 0


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
