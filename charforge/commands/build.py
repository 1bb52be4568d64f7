"""`charforge build`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from charforge.engine import receipt
from charforge.workspace import Target, build_key, targets

if TYPE_CHECKING:
    from charforge.commands.loading import Loaded
    from charforge.engine.build import Outcome
    from charforge.engine.store import Store


def run(args: argparse.Namespace) -> int:
    """Bring the specs up to date, or say what would be done. Returns the exit status."""
    wanted = targets(args.specs)
    key = build_key(to=args.to, preset=args.preset, overrides=args.overrides)
    if not args.dry_run:
        said = [receipt.read(target.receipt(key), key) for target in wanted]
        if None not in said:
            for target, says in zip(wanted, said, strict=True):
                _say_up_to_date(target, int((says or {}).get("stages", 0)), args.to)
            return 0
    return _full(args, wanted, key)


def _full(args: argparse.Namespace, wanted: list[Target], key: str) -> int:
    """Load the specs and build. Everything from here on may take its time to import."""
    import asyncio

    from charforge.commands.loading import known_stage, load_for
    from charforge.engine.build import Build, plan
    from charforge.engine.claims import Claims
    from charforge.engine.store import Store
    from charforge.progress import Progress, plan_lines, print_lines
    from charforge.workshop import LocalWorkshop, environment

    last = "report" if args.to is None else known_stage(args.to, "--to")
    workshop = LocalWorkshop(offline=args.offline)
    loaded, graph = load_for(args, wanted, workshop)
    goals = [each.character.stage(last) for each in loaded]
    began = time.perf_counter()
    with Store(wanted[0].workspace / ".charforge") as store:
        if args.dry_run:
            print_lines(plan_lines(plan(store, graph, goals)))
            return 0
        claims = Claims(store.root / "claims")
        with Progress() as progress:
            build = Build(
                store,
                claims,
                graph,
                jobs=args.jobs,
                keep_going=args.keep_going,
                environment=environment(),
                listener=progress,
            )

            async def go() -> dict[str, Outcome]:
                try:
                    return await build.run(goals)
                finally:
                    await workshop.close()

            outcomes = asyncio.run(go())
        done = True
        for each in loaded:
            done &= _conclude(store, each, outcomes, key, args, time.perf_counter() - began)
        claims.close()
    _say_failures(outcomes)
    return 0 if done else 1


def _conclude(
    store: Store,
    each: Loaded,
    outcomes: Mapping[str, Outcome],
    key: str,
    args: argparse.Namespace,
    seconds: float,
) -> bool:
    """Show what a character's build made, and where it is whole leave the receipt and the lock. Says whether it is."""
    from charforge.engine import lock, view
    from charforge.engine.build import RAN, UP_TO_DATE

    target, character = each.target, each.character
    mine = {
        name: outcomes[f"{target.id}/{name}"] for name in character.names if f"{target.id}/{name}" in outcomes
    }
    files = {
        shown: outputs[output]
        for shown, (stage, output) in character.view.items()
        if stage in mine and (outputs := mine[stage].outputs) is not None
    }
    shown = view.sync(store, target.view, files)
    if any(outcome.status not in {UP_TO_DATE, RAN} for outcome in mine.values()):
        return False
    each.stamps.add_kept(shown)
    each.stamps.add_kept(store.files(digest for outcome in mine.values() for digest in _digests(outcome)))
    receipt.write(target.receipt(key), key, each.stamps, {"stages": len(mine)})
    if args.to is None and args.preset is None and not args.overrides:
        # The lock speaks for the spec as it is committed, so only a build of just that may write it.
        lock.write(target.spec.with_suffix(".lock"), target.id, mine, {})
    ran = sum(outcome.status == RAN for outcome in mine.values())
    if ran:
        _say_built(target, list(mine.values()), ran, seconds, args.to)
    else:
        _say_up_to_date(target, len(mine), args.to)
    return True


def _digests(outcome: Outcome) -> list[tuple[str, str]]:
    return list((outcome.outputs or {}).items())


def _say_up_to_date(target: Target, stages: int, to: str | None) -> None:
    print(f"{target.id}: up to date, {stages} stage{'s' * (stages != 1)}{_where(target, to)}")


def _say_built(target: Target, outcomes: list[Outcome], ran: int, seconds: float, to: str | None) -> None:
    made = sum(outcome.calls_made for outcome in outcomes)
    replayed = sum(outcome.calls_replayed for outcome in outcomes)
    minutes = f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
    calls = f"; {made} calls made, {replayed} replayed" if made or replayed else ""
    print(f"{target.id}: built, {ran} of {len(outcomes)} stages ran in {minutes}{calls}{_where(target, to)}")


def _where(target: Target, to: str | None) -> str:
    return f"\n  {_short(target.view / 'report.html')}" if to in {None, "report"} else ""


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _say_failures(outcomes: Mapping[str, Outcome]) -> None:
    """Print each failure and what it holds up. A failure that is nobody's mistake but ours is raised, last."""
    from charforge.engine.build import BLOCKED, FAILED, STOPPED
    from charforge.engine.errors import EngineError
    from charforge.errors import CharForgeError, FileProblems

    bug: BaseException | None = None
    texts: list[str] = []
    held_up: list[str] = []
    for outcome in outcomes.values():
        character, stage = outcome.stage.split("/", 1)
        error = outcome.error
        if outcome.status == BLOCKED:
            upstream = (outcome.blocked_by or "").split("/", 1)[1]
            state = "failed" if outcomes[outcome.blocked_by or ""].status == FAILED else "did not finish"
            held_up.append(f"error: {character}: {stage} needs {upstream}, which {state}")
        elif outcome.status == STOPPED:
            held_up.append(f"error: {character}: {stage} was stopped before it finished")
        elif isinstance(error, FileProblems):
            texts.append(error.render())
        elif isinstance(error, CharForgeError | EngineError):
            message = error.message.removeprefix(f"{stage}: ")
            texts.append(CharForgeError(f"{character}: {stage}: {message}", error.hint).render())
        elif error is not None:
            bug = error
    if held_up:
        texts.append("\n".join(held_up) + "\nhint: fix the cause above, then rerun; finished work is kept")
    for text in texts:
        print(text, file=sys.stderr)
    if bug is not None:
        raise bug
