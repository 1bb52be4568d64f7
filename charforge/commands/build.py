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
    from charforge.engine.stale import Planned
    from charforge.engine.store import Store
    from charforge.progress import Progress
    from charforge.workshop import LocalWorkshop


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
    from contextlib import closing

    from charforge.commands import machines
    from charforge.commands.loading import known_stage, load_for
    from charforge.engine.build import Build
    from charforge.engine.claims import Claims
    from charforge.engine.errors import Damaged
    from charforge.engine.stale import plan
    from charforge.engine.store import Store
    from charforge.progress import plan_lines, print_lines
    from charforge.spending import Spending, spending_lines
    from charforge.workshop import LocalWorkshop, environment

    last = "report" if args.to is None else known_stage(args.to, "--to")
    world = machines.of_build(args)
    workshop = LocalWorkshop(offline=args.offline, max_cost=args.max_cost, world=world)
    loaded, graph = load_for(args, wanted, workshop)
    goals = [each.character.stage(last) for each in loaded]
    began = time.perf_counter()
    with Store(wanted[0].workspace / ".charforge") as store:
        if args.dry_run:
            print_lines(plan_lines(plan(store, graph, goals)))
            return 0
        with closing(Claims(store.root / "claims")) as claims, Spending() as progress:
            workshop.tell(progress.note)
            if not args.offline:
                _warn(plan(store, graph, goals), loaded, workshop, progress)

            async def make() -> tuple[dict[str, Outcome], list[list[Path]]]:
                build = Build(
                    store,
                    claims,
                    graph,
                    jobs=args.jobs,
                    # Offline nothing is spent by going on, and all that is missing is told at once.
                    keep_going=args.keep_going or args.offline,
                    environment=environment(),
                    listener=progress,
                )
                outcomes = await build.run(goals)
                return outcomes, [_show(store, each, outcomes) for each in loaded]

            async def go() -> tuple[dict[str, Outcome], list[list[Path]]]:
                try:
                    return await make()
                except Damaged as error:
                    # An output that nothing in the graph reads: found bad while it was copied into the view.
                    progress.note(f"{error.message}; rebuilding what made it")
                    return await make()
                finally:
                    await workshop.close()

            outcomes, shown = asyncio.run(go())
        seconds = time.perf_counter() - began
        done = [
            _conclude(store, each, outcomes, paths, key, args, seconds)
            for each, paths in zip(loaded, shown, strict=True)
        ]
    for line in spending_lines(progress.spent, lost=workshop.lost()):
        print(line)
    _say_failures(outcomes)
    return 0 if all(done) else 1


def _warn(
    planned: Mapping[str, Planned], loaded: list[Loaded], workshop: LocalWorkshop, progress: Progress
) -> None:
    """Say now which models cannot be used as things are, before hours are spent on what comes before them.

    Not an error: it may be that all their replies are recorded.
    """
    from charforge.engine.stale import UP_TO_DATE
    from charforge.errors import CharForgeError, FileProblems

    said: set[str] = set()
    for each in loaded:
        for stage, models in each.character.models().items():
            state = planned.get(each.character.stage(stage))
            if state is None or state.status == UP_TO_DATE:
                continue
            for model in models:
                if model in said:
                    continue
                said.add(model)
                try:
                    workshop.ready([model])
                except FileProblems:
                    raise  # of endpoints.toml: no endpoint can be trusted now
                except CharForgeError as error:
                    hint = f" ({error.hint})" if error.hint else ""
                    progress.note(
                        f"{each.target.id}/{stage} can use recorded replies only: {error.message}{hint}"
                    )


def _mine(each: Loaded, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Return a character's outcomes by the stages' short names."""
    names = {name: f"{each.target.id}/{name}" for name in each.character.names}
    return {name: outcomes[full] for name, full in names.items() if full in outcomes}


def _show(store: Store, each: Loaded, outcomes: Mapping[str, Outcome]) -> list[Path]:
    """Bring a character's view up to date with what there is, and return its files. Raises Damaged."""
    from charforge.engine import view

    mine = _mine(each, outcomes)
    files = {
        shown: outputs[output]
        for shown, (stage, output) in each.character.view.items()
        if stage in mine and (outputs := mine[stage].outputs) is not None
    }
    return view.sync(store, each.target.view, files)


def _conclude(
    store: Store,
    each: Loaded,
    outcomes: Mapping[str, Outcome],
    shown: list[Path],
    key: str,
    args: argparse.Namespace,
    seconds: float,
) -> bool:
    """Where a character's build is whole, leave the receipt and the lock, and say so. Returns whether it is."""
    from charforge.engine.build import RAN
    from charforge.engine.stale import UP_TO_DATE

    target, mine = each.target, _mine(each, outcomes)
    if any(outcome.status not in {UP_TO_DATE, RAN} for outcome in mine.values()):
        return False
    each.stamps.add_kept(shown)
    each.stamps.add_kept(store.files(digest for outcome in mine.values() for digest in _digests(outcome)))
    # The lock speaks for the spec as it is committed, so only a build of just that may write it. Before the receipt, which
    # vouches for it too: killed in between, the next build would have nothing to do, and no lock.
    locks = args.to is None and args.preset is None and not args.overrides
    locked = locks and _lock(store, target, mine)
    each.stamps.add_kept([target.lock] if locked else [])
    if locked or not locks:
        receipt.write(target.receipt(key), key, each.stamps, {"stages": len(mine)})
    ran = sum(outcome.status == RAN for outcome in mine.values())
    if ran:
        _say_built(target, list(mine.values()), ran, seconds, args.to)
    else:
        _say_up_to_date(target, len(mine), args.to)
    return True


def _lock(store: Store, target: Target, outcomes: Mapping[str, Outcome]) -> bool:
    """Write the character's lock, and return whether it is there."""
    from charforge.engine import lock
    from charforge.engine.errors import Damaged
    from charforge.engine.store import Trace

    traces = {
        name: Trace(outcome.action or "", 0, outcome.outputs or {}, outcome.record)
        for name, outcome in outcomes.items()
    }
    try:
        lock.write(target.lock, lock.collect(store, target.id, traces))
    except Damaged as error:
        print(f"note: {target.id}: no lock was written: {error.message}", file=sys.stderr)
        return False
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
    further = 0
    for outcome in outcomes.values():
        character, stage = outcome.stage.split("/", 1)
        error = outcome.error
        if outcome.status in {BLOCKED, STOPPED}:
            cause = outcomes.get(outcome.blocked_by or "")
            if cause is not None and cause.status == FAILED:
                held_up.append(
                    f"error: {character}: {stage} needs {cause.stage.split('/', 1)[1]}, which failed"
                )
            else:
                further += 1
        elif isinstance(error, FileProblems):
            texts.append(error.render())
        elif isinstance(error, CharForgeError | EngineError):
            message = error.message.removeprefix(f"{stage}: ")
            texts.append(CharForgeError(f"{character}: {stage}: {message}", error.hint).render())
        elif error is not None:
            bug = error
    if further:
        held_up.append(f"{further} {'stage' if further == 1 else 'stages'} after that did not run")
    if held_up:
        texts.append("\n".join(held_up) + "\nhint: fix the cause above, then rerun; finished work is kept")
    for text in texts:
        print(text, file=sys.stderr)
    if bug is not None:
        raise bug
