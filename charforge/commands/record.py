"""`charforge record export` and `import`: replies that were paid for, taken elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from charforge import recording
from charforge.commands.loading import NothingNew, load_for
from charforge.engine import lock
from charforge.engine.claims import Claims
from charforge.engine.errors import Damaged
from charforge.engine.reader import look
from charforge.engine.rehearse import rehearse
from charforge.engine.store import Store
from charforge.errors import CharForgeError
from charforge.workspace import Target, target


def run_export(args: argparse.Namespace) -> int:
    """Write every reply that the lock or the current build reaches."""
    found = target(args.spec)
    root = found.workspace / ".charforge"

    def export(store: Store) -> tuple[int, str, int, int]:
        calls, gone = _reached(store, found, args)
        missing = 0

        def observations() -> Iterator[recording.Observation]:
            nonlocal missing
            for call in sorted(calls):
                observation = None
                with suppress(Damaged):
                    observation = recording.observe(store, call)
                if observation is None:
                    missing += 1
                else:
                    yield observation

        count, digest = recording.write(Path(args.file), found.id, observations())
        return count, digest, gone, missing

    count, digest, gone, missing = look(root, export)
    if gone:
        print(f"note: {gone} stages that the lock names are not in this store", file=sys.stderr)
    if missing:
        print(f"note: {missing} replies are gone from the store, or damaged", file=sys.stderr)
    if not count:
        print(f"note: nothing is recorded for {found.id}", file=sys.stderr)
    print(f"{args.file}: {count} replies, {_size(Path(args.file).stat().st_size)}, root {digest}")
    return 0


def _reached(store: Store, found: Target, args: argparse.Namespace) -> tuple[set[str], int]:
    """Return the calls of the lock's stages and of the current build, and how many of the lock's stages are not here."""
    loaded, graph = load_for(args, [found], NothingNew())
    rehearsed = asyncio.run(rehearse(store, graph, [loaded[0].character.stage("report")]))
    calls = {call for stage in rehearsed.values() for call in stage.recorded}
    gone = 0
    path = found.spec.with_suffix(".lock")
    for action in lock.actions(path) if path.is_file() else []:
        trace = store.find(action)
        if trace is None:
            gone += 1
        else:
            calls.update(store.calls_in(trace))
    return calls, gone


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
