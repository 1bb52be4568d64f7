"""`charforge record export` and `import`: replies that were paid for, taken elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from charforge import recorded, recording
from charforge.commands.loading import NothingNew, load_for
from charforge.engine import lock
from charforge.engine.claims import Claims
from charforge.engine.errors import Damaged
from charforge.engine.reader import look
from charforge.engine.rehearse import rehearse
from charforge.engine.store import Store, Trace
from charforge.errors import CharForgeError
from charforge.pipeline import OBSERVED
from charforge.recorded import Observation
from charforge.workspace import Target, target


def run_export(args: argparse.Namespace) -> int:
    """Write every reply that the lock or the current build reaches, and what was trained or downloaded."""
    found = target(args.spec)
    root = found.workspace / ".charforge"
    path = found.recording if args.file is None else Path(args.file)
    if args.file is None:
        path.parent.mkdir(exist_ok=True)

    def export(store: Store) -> tuple[int, str, int, int]:
        calls, stages, gone = _reached(store, found, args)
        missing = 0

        def observations() -> Iterator[Observation]:
            nonlocal missing
            for call in sorted(calls):
                observation = None
                with suppress(Damaged):
                    observation = recorded.observe(store, call)
                if observation is None:
                    missing += 1
                else:
                    yield observation

        count, digest = recording.write(path, found.id, observations(), stages)
        return count, digest, gone, missing

    count, digest, gone, missing = look(root, export)
    if gone:
        print(f"note: {gone} stages that the lock names are not in this store", file=sys.stderr)
    if missing:
        print(f"note: {missing} replies are gone from the store, or damaged", file=sys.stderr)
    if not count:
        print(f"note: nothing is recorded for {found.id}", file=sys.stderr)
    print(f"{os.path.relpath(path)}: {count} replies, {_size(path.stat().st_size)}, root {digest}")
    return 0


def _reached(
    store: Store, found: Target, args: argparse.Namespace
) -> tuple[set[str], list[recorded.Observed], int]:
    """Return the calls and the observed stages of the lock and of the current build, and how many of the lock's stages are not here."""
    loaded, graph = load_for(args, [found], NothingNew())
    rehearsed = asyncio.run(rehearse(store, graph, [loaded[0].character.stage("report")]))
    calls = {call for stage in rehearsed.values() for call in stage.recorded}
    traces: dict[str, Trace] = {}
    gone = 0
    current = [each.action for each in rehearsed.values() if each.action is not None]
    locked = lock.actions(found.lock) if found.lock.is_file() else []
    for action in dict.fromkeys([*locked, *current]):
        # Weights that were cleared away do not make untrue what was observed of them.
        trace = store.find(action) or next(iter(store.observations(action)), None)
        if trace is not None:
            traces[action] = trace
        elif action in locked:
            gone += 1
    stages = []
    for action, trace in sorted(traces.items()):
        if action in locked:
            with suppress(Damaged):
                calls.update(store.calls_in(trace))
        body = store.action_body(action)
        if body is not None and body["kind"] in OBSERVED:
            with suppress(Damaged):
                if (stage := recorded.observe_stage(store, trace)) is not None:
                    stages.append(stage)
    return calls, stages, gone


def run_import(args: argparse.Namespace) -> int:
    """Verify a recording and add its replies to the store here."""
    folder = Path.cwd()
    if not ((folder / ".charforge").is_dir() or (folder / "characters").is_dir()):
        raise CharForgeError(
            "no workspace here: neither .charforge/ nor characters/", "import in the folder above characters/"
        )
    with recording.verified(Path(args.file), max_mib=args.max_size) as found:
        with Store(folder / ".charforge") as store:
            claims = Claims(store.root / "claims")
            try:
                added = asyncio.run(recording.add(store, claims, found))
            finally:
                claims.close()
        print(f"{args.file}: {found.count} replies of {found.character}, {added.added} added", end="")
    print(f", {added.known} known" if added.known else "", end="")
    print(f", {added.differs} differ from what is recorded here, which stays in use" if added.differs else "")
    return 0


def _size(count: int) -> str:
    return f"{count / 1000:.1f} KB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"
