"""Garbage collection: what no root reaches goes. Roots are action digests; the caller says which count."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from charforge.engine import disk
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.store import Store


@dataclass(frozen=True, slots=True)
class Swept:
    """What was (or, in a dry run, would be) removed."""

    actions: int
    blobs: int
    bytes: int


def collect(store: Store, roots: Iterable[str], *, unfinished: Collection[str] = (), dry_run: bool) -> Swept:
    """Remove every action, and every blob, that no root reaches.

    A root reaches its trace's outputs, its inputs, its calls and their replies. A stage that has yet to finish has no trace
    to reach its calls by: all calls that a stage named in `unfinished` ever made are kept, since its next run
    replays them. What a run left to go on from is kept while its action is a root. Raises EngineError while another process has the store open: it may be about to use what nothing
    reaches yet.
    """
    try:
        disk.lock(store.users, fcntl.LOCK_EX | fcntl.LOCK_NB, store.root)
    except BlockingIOError:
        fcntl.flock(store.users, fcntl.LOCK_SH)
        raise EngineError("another process is using the store", "run gc again when it has finished") from None
    try:
        roots = list(roots)
        reached = _reach(store, [*roots, *store.calls_of(unfinished)])
        if reached is None:
            # Which replies were its, a damaged trace or list cannot say any more; they are paid for, so all stay.
            reached = _reach(store, [*roots, *store.all_calls()], blind=True)
            assert reached is not None
        actions, blobs = reached
        swept = _sweep(store, actions, blobs, set(roots), dry_run=dry_run)
    finally:
        fcntl.flock(store.users, fcntl.LOCK_SH)
    return swept


def _reach(store: Store, roots: Iterable[str], *, blind: bool = False) -> tuple[set[str], set[str]] | None:
    """Return the actions and blobs that roots reach; None where damage hides some of them, unless `blind`."""
    actions: set[str] = set()
    blobs: set[str] = set()
    waiting = list(roots)
    while waiting:
        action = waiting.pop()
        if action in actions:
            continue
        actions.add(action)
        body = store.action_body(action)
        if body is not None:
            # Trees that are inputs are outputs of some stage; a source is always a plain blob.
            blobs.update(body["inputs"].values())
        traces = store.observations(action)
        if not blind and not traces and store.lost(action) and not _is_call(body):
            return None
        for trace in traces:
            for name, digest in trace.outputs.items():
                blobs.add(digest)
                if name.endswith("/"):
                    try:
                        blobs.update(entry["digest"] for entry in store.manifest(digest).values())
                    except Damaged:
                        continue
            blobs.update(trace.record[key] for key in ("calls", "made") if key in trace.record)
            if (calls := trace.record.get("calls")) is not None:
                try:
                    waiting.extend(json.loads(store.read(calls)))
                except Damaged:
                    if not blind:
                        return None
    return actions, blobs


def _is_call(body: Mapping[str, Any] | None) -> bool:
    return body is not None and body["kind"] == "call"


def _sweep(store: Store, actions: set[str], blobs: set[str], roots: set[str], *, dry_run: bool) -> Swept:
    lost_actions = [digest for digest in store.all_actions() if digest not in actions]
    inline = {digest: size for digest, size in store.inline_blobs() if digest not in blobs}
    objects = {path: path.stat().st_size for digest, path in store.objects() if digest not in blobs}
    kept = [folder for folder in store.all_kept() if folder.name not in roots]
    size = sum(inline.values()) + sum(objects.values())
    size += sum(file.stat().st_size for folder in kept for file in folder.rglob("*") if file.is_file())
    swept = Swept(len(lost_actions), len(inline) + len(objects) + len(kept), size)
    if dry_run:
        return swept
    store.forget(lost_actions, list(inline))
    for path in objects:
        path.unlink(missing_ok=True)
    for folder in (store.root / "trees").iterdir():
        if folder.name not in blobs:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)
    # We are alone, so whatever is here was left by a process that died.
    for folder in (store.root / "tmp").iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(store.root / "receipts", ignore_errors=True)
    return swept
