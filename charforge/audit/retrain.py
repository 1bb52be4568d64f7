"""Retrain: train again what the lock says was trained, in a scratch folder, and compare.

The same kind of machine gives the same bits. Where it does not, what counts is the held-out loss of the epoch that was chosen,
within epsilon nats a token. The training set and the base weights are taken from the pieces, else made again from the
recorded replies; either way they are the ones that the lock names, or nothing is trained.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge.audit.finding import (
    BIT_IDENTICAL,
    DIVERGENT,
    METRIC_EQUIVALENT,
    NOT_CHECKABLE,
    Difference,
    Level,
    Result,
)
from charforge.audit.pieces import Pieces, manifest
from charforge.audit.words import size
from charforge.engine.build import Build, Listener, Outcome
from charforge.engine.claims import Claims
from charforge.engine.digest import Action
from charforge.engine.errors import EngineError
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.lock import Line, Lock
from charforge.engine.store import Store
from charforge.errors import CharForgeError

if TYPE_CHECKING:
    from charforge.workshop import LocalWorkshop

NAME = "retrain"
EPSILON = 0.02
"""Nats a token, of held-out loss: what two machines may be apart and be called equivalent."""

_MODEL = "model"
_SUMMARY = "train_summary.json"


class _Impossible(Exception):
    """It cannot be trained here. The text says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training to repeat: the lock, the checkout's graph (whose stages work in `workshop`), and the pieces at hand."""

    lock: Lock
    graph: Graph
    workshop: LocalWorkshop
    pieces: Pieces
    environment: Mapping[str, Any]
    epsilon: float = EPSILON

    @property
    def line(self) -> Line:
        """What the lock says of the training."""
        return self.lock.stages[_MODEL]

    @property
    def stage(self) -> Stage:
        """The training as this checkout has it."""
        return self.graph[f"{self.lock.character}/{_MODEL}"]


def retrain(job: Job, tell: Callable[[str], None]) -> Level:
    """Train again and compare. `tell` hears first what it needs, then how far it is."""
    facts: dict[str, Any] = {"epsilon": job.epsilon}
    try:
        _check(job)
        with tempfile.TemporaryDirectory(prefix="charforge-retrain-") as folder:
            for text in needs(job, Path(folder)):
                tell(text)
            result = asyncio.run(_again(job, Path(folder), tell, facts))
    except _Impossible as error:
        result = Result(_MODEL, NOT_CHECKABLE, why=str(error))
    return Level(NAME, [result], facts)


def _check(job: Job) -> None:
    if _MODEL not in job.lock.stages:
        raise _Impossible("the lock tells of no training")
    name = f"{job.lock.character}/{_MODEL}"
    if name not in job.graph:
        raise _Impossible("this checkout trains nothing")
    stage, line = job.stage, job.line
    if Action(stage.kind, stage.version, stage.params, line.inputs).digest != line.action:
        raise _Impossible(
            "this checkout trains in another way than the lock says (the derivation says where)"
        )


# -- what it needs ---------------------------------------------------------------------------------------------------


def needs(job: Job, folder: Path) -> Iterator[str]:
    """Yield in words what the training takes, as recorded, and what of that is here. Raises _Impossible where there is no room."""
    record = _record(job)
    weights = sum(each["size"] for each in (job.pieces.tree(job.line.outputs["weights/"]) or {}).values())
    # The base, the weights as written and as stored, and a checkpoint of weights and both moments.
    room, free = 6 * weights, shutil.disk_usage(folder).free
    took = [
        *([f"{_duration(record['seconds'])}"] if "seconds" in record else []),
        *([f"{size(record['peak_memory_bytes'])} of memory"] if record.get("peak_memory_bytes") else []),
        *([f"{record['threads']} threads"] if record.get("threads") else []),
        *([f"{record['processes']} processes"] if record.get("processes", 1) > 1 else []),
        *([str(record["device"])] if record.get("device") else []),
    ]
    yield "retrain: when it was recorded it took " + (", ".join(took) or "what nobody noted")
    yield f"retrain: it needs up to {size(room)} of disk in {folder.parent}, where {size(free)} are free"
    other = _other(job)
    if not other:
        yield "retrain: this machine is of the same kind, so the same bits are expected"
    else:
        yield f"retrain: other than then: {'; '.join(other)}. Other bits are possible, and what counts is the held-out loss"
    if free < room:
        raise _Impossible(
            f"it needs {size(room)} of disk in {folder.parent} (TMPDIR), and {size(free)} are free"
        )


def _record(job: Job) -> Mapping[str, Any]:
    trace = job.pieces.trace(job.line.action, job.line.outputs)
    if trace is not None:
        return trace.record
    observed = job.pieces.observed.get(job.line.action)
    return {} if observed is None else observed.facts


def _other(job: Job) -> list[str]:
    """Return in words what decides the last bits and is not as it was."""
    was: Mapping[str, Any] = job.lock.environments.get(job.line.environment, {})
    return [
        f"{key} {was.get(key, 'not known')} → {job.environment.get(key, 'none')}"
        for key in ("processor", "torch", "transformers", "peft")
        if was.get(key) != job.environment.get(key)
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# -- doing it --------------------------------------------------------------------------------------------------------


class _Telling(Listener):
    """Tells of the training alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._said = ""

    def stage_progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Tell of each tenth once."""
        share = f"{10 * done // total * 10} %" if total else ""
        if stage.endswith(f"/{_MODEL}") and share and share != self._said:
            self._said = share
            self._tell(f"retrain: {share} {note}")


class _Training(Build):
    """A build that finds its input folders where it is told."""

    folders: Mapping[str, Path]

    async def checkout(self, tree: str) -> Path:
        return self.folders[tree]


async def _again(job: Job, folder: Path, tell: Callable[[str], None], facts: dict[str, Any]) -> Result:
    try:
        with Store(folder / "store") as store, closing(Claims(store.root / "claims")) as claims:
            files, folders = await _inputs(job, store, claims, folder)
            inputs: dict[str, Source | Output] = {
                name: Source(ref.label, digest, files.get(digest, b""))
                for name, ref in job.stage.inputs.items()
                for digest in [job.line.inputs[name]]
            }
            graph = Graph([replace(job.stage, inputs=inputs)])
            build = _Training(store, claims, graph, listener=_Telling(tell))
            build.folders = folders
            (outcome,) = (await build.run([job.stage.name])).values()
            return _compare(job, store, outcome, facts)
    finally:
        await job.workshop.close()


async def _inputs(
    job: Job, store: Store, claims: Claims, folder: Path
) -> tuple[dict[str, bytes], dict[str, Path]]:
    """Return the training's inputs by digest, exactly the lock's: files, and folders. Raises _Impossible."""
    files: dict[str, bytes] = {}
    folders: dict[str, Path] = {}
    make: dict[str, Output] = {}
    for name, ref in job.stage.inputs.items():
        digest = job.line.inputs[name]
        assert isinstance(ref, Output)
        if ref.name.endswith("/"):
            if _linked(job.pieces, digest, folder / digest):
                folders[digest] = folder / digest
                continue
        elif (data := job.pieces.blob(digest)) is not None:
            files[digest] = data
            continue
        make[digest] = ref
    if make:
        await _made_again(job, store, claims, make)
        for digest, ref in make.items():
            if ref.name.endswith("/"):
                folders[digest] = store.checkout(digest)
            else:
                files[digest] = store.read(digest)
    return files, folders


def _linked(pieces: Pieces, tree: str, folder: Path) -> bool:
    """Show a folder of the store under its names, by links: no byte is copied, and nothing in the store touched."""
    for path, entry in (pieces.tree(tree) or {"": {"digest": ""}}).items():
        source = pieces.path(entry["digest"])
        if source is None:
            return False
        with source.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["digest"]:
                return False
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(source.resolve())
    return True


async def _made_again(job: Job, store: Store, claims: Claims, wanted: Mapping[str, Output]) -> None:
    """Make inputs from the recorded replies by the checkout's own stages. Raises _Impossible where they do not come out."""
    written = None
    for action, reply, facts in job.pieces.replies(None):
        written = store.record(action, store.pack({"reply": reply}), dict(facts))
    if written is not None:
        await written.landed()
    build = Build(store, claims, job.graph, keep_going=True)
    outcomes = await build.run([ref.stage for ref in wanted.values()])
    for digest, ref in wanted.items():
        outcome = outcomes[ref.stage]
        if outcome.outputs is None:
            failed = next((each for each in outcomes.values() if each.error is not None), outcome)
            raise _Impossible(f"{ref.label} is not here, and cannot be made again: {_said(failed.error)}")
        if outcome.outputs.get(ref.name) != digest:
            raise _Impossible(
                f"{ref.label} is not here, and made again it is another (the replay says where it differs)"
            )


def _said(error: BaseException | None) -> str:
    return error.message if isinstance(error, CharForgeError | EngineError) else str(error)


# -- comparing -------------------------------------------------------------------------------------------------------


def _compare(job: Job, store: Store, outcome: Outcome, facts: dict[str, Any]) -> Result:
    if outcome.outputs is None:
        raise _Impossible(f"the training failed here: {_said(outcome.error)}")
    differences = []
    for name in sorted({*job.line.outputs, *outcome.outputs}):
        expected, found = job.line.outputs.get(name), outcome.outputs.get(name)
        if expected != found:
            words = f"output {name}: the lock names {_short(expected)}, trained again it is {_short(found)}"
            differences.append(
                Difference(f"output {name}", words + _files(job, store, name, found), expected, found)
            )
    checked = len(job.line.outputs)
    if not differences:
        return Result(_MODEL, BIT_IDENTICAL, checked)
    was = job.pieces.blob(job.line.outputs.get(_SUMMARY, ""))
    if was is None:
        why = f"the weights are others, and the lock's {_SUMMARY} is not here to compare held-out losses"
        return Result(_MODEL, NOT_CHECKABLE, checked, differences, why)
    before, after = _loss(was), _loss(store.read(outcome.outputs[_SUMMARY]))
    facts["held_out_loss"] = {"lock": before, "here": after}
    if before is None:
        why = "the weights are others, and the lock's training held nothing out to compare a loss on"
        return Result(_MODEL, NOT_CHECKABLE, checked, differences, why)
    here = "none" if after is None else f"{after:.4f}"
    words = (
        f"held-out loss of the chosen epoch: {before:.4f} in the lock, {here} here, epsilon {job.epsilon:g}"
    )
    near = after is not None and abs(before - after) <= job.epsilon
    differences.insert(
        0, Difference("held-out loss", words, str(before), None if after is None else str(after))
    )
    return Result(_MODEL, METRIC_EQUIVALENT if near else DIVERGENT, checked, differences)


def _files(job: Job, store: Store, name: str, found: str | None) -> str:
    """Return which files of a folder are others, where both sides are known."""
    before = job.pieces.tree(job.line.outputs.get(name, "")) if name.endswith("/") else None
    if before is None or found is None:
        return ""
    after = manifest(store.read(found)) or {}
    others = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    return f" ({', '.join(others)})"


def _loss(summary: bytes) -> float | None:
    """Return the held-out loss of the epoch that a training chose, in nats a token; None where it has none."""
    try:
        data = json.loads(summary)
        loss = next(each["held_out_loss"] for each in data["epochs"] if each["epoch"] == data["chosen_epoch"])
    except (ValueError, KeyError, TypeError, StopIteration):
        return None
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:12]}…"
