"""`charforge audit`: what of a lock the pieces at hand prove, what not, and where the first difference lies."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from charforge import attestation, pipeline, recording
from charforge.audit import derivation, integrity, retrain, words
from charforge.audit.finding import DIVERGENT, NOT_CHECKABLE, Finding, Level
from charforge.audit.pieces import Pieces
from charforge.audit.replay import replay
from charforge.commands.attest import material
from charforge.commands.loading import NothingNew, load
from charforge.engine import lock
from charforge.engine.errors import EngineError
from charforge.engine.graph import Graph, Source
from charforge.engine.lock import Lock
from charforge.engine.reader import Reader, look
from charforge.errors import CharForgeError, FileProblems
from charforge.files import visible
from charforge.recording import Recording
from charforge.workshop import LocalWorkshop, environment
from charforge.workspace import Target, target

LEVELS = ("integrity", "derivation", "replay", "retrain")
DEFAULT = LEVELS[:3]


@dataclass(frozen=True, slots=True)
class _Checkout:
    """What the checkout makes of a spec; `graph` is None where it makes nothing, and then `why` says why not."""

    graph: Graph | None
    goal: str
    why: str = ""
    wrong: bool = False

    @property
    def sources(self) -> list[Source]:
        refs = (ref for stage in self.graph or () for ref in stage.inputs.values())
        return [ref for ref in refs if isinstance(ref, Source)]


def run(args: argparse.Namespace) -> int:
    """Audit a character. Nothing is built, nobody is asked, and nothing but the folder of the finding is written."""
    found = target(args.spec)
    levels = [name for name in LEVELS if name in (args.level or DEFAULT)]
    text, said = _lock(found)
    checkout = _checkout(found)
    root = found.workspace / ".charforge"
    with ExitStack() as stack:
        recorded = None
        file = found.recording if args.recording is None else Path(args.recording)
        if args.recording is not None or file.is_file():
            recorded = stack.enter_context(recording.verified(file))
        if not args.json:
            for line in _head(found, said, text, file if recorded else None, recorded, store=root.is_dir()):
                print(visible(line))

        def audit(reader: Reader | None) -> Finding:
            pieces = Pieces(reader, recorded)
            made = []
            for name in levels:
                made.append(_level(name, said, found, checkout, pieces, args))
                if not args.json:
                    print(words.level_line(made[-1]), flush=True)
            finding = Finding(found.id, hashlib.sha256(text).hexdigest(), made, environment())
            _keep(finding, found, pieces, args)
            return finding

        finding = look(root, audit) if root.is_dir() else audit(None)
    if args.json:
        print(_text(finding), end="")
    else:
        for line in words.report(finding):
            print(line)
    bad = {DIVERGENT, NOT_CHECKABLE} if args.strict else {DIVERGENT}
    return (
        1
        if bad & {verdict for level in finding.levels for verdict in [level.verdict, *level.counts()]}
        else 0
    )


def _head(
    found: Target, said: Lock, text: bytes, file: Path | None, recorded: Recording | None, *, store: bool
) -> list[str]:
    """Return what is audited, and by what."""
    pieces = ["this checkout"]
    if store:
        pieces.append("the store .charforge")
    if recorded is not None:
        shown = file.relative_to(found.workspace) if file and file.is_relative_to(found.workspace) else file
        pieces.append(f"the recording {shown} ({recorded.count:,} replies)")
    lacks = [name for name, there in (("store", store), ("recording", recorded)) if not there]
    return [
        f"{found.id}: audit of {found.lock.name}, {len(said.stages)} stages, SHA-256 {hashlib.sha256(text).hexdigest()}",
        f"by {', '.join(pieces)}" + (f"; no {', no '.join(lacks)}" if lacks else ""),
        "",
    ]


def _keep(finding: Finding, found: Target, pieces: Pieces, args: argparse.Namespace) -> None:
    """Leave the finding and its attestations as files. A file system that takes none is no fault, unless a folder was asked for."""
    folder = found.workspace / "audit" / found.id if args.out is None else Path(args.out)
    attested = material(found, pieces)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "finding.json").write_text(_text(finding), encoding="utf-8")
        attestation.write(folder, attested, finding.as_json())
    except OSError as error:
        if args.out is not None:
            raise CharForgeError(
                f"{folder}: cannot be written: {error.strerror}", "--out names a folder"
            ) from error
        _tell(f"note: nothing was written to {folder}: {error.strerror}")


def _text(finding: Finding) -> str:
    return json.dumps(finding.as_json(), indent=2, ensure_ascii=False) + "\n"


def _lock(found: Target) -> tuple[bytes, Lock]:
    """Return a lock's bytes and what it says, its stages in the order in which they are built."""
    try:
        said = lock.read(found.lock)
        text = found.lock.read_bytes()
    except EngineError as error:
        raise CharForgeError(error.message, error.hint) from error
    order = {kind: number for number, kind in enumerate((pipeline.RELEASED, *pipeline.STAGES))}
    kinds = sorted(said.stages, key=lambda kind: (order.get(kind, len(order)), kind))
    return text, replace(said, stages={kind: said.stages[kind] for kind in kinds})


def _checkout(found: Target) -> _Checkout:
    try:
        loaded, graph = load([found], NothingNew())
        return _Checkout(graph, loaded[0].character.stage("report"))
    except FileProblems as error:
        if not found.spec.is_file():
            raise
        return _Checkout(None, "", error.render(), wrong=True)
    except CharForgeError as error:
        return _Checkout(None, "", error.message)


def _level(
    name: str, said: Lock, found: Target, checkout: _Checkout, pieces: Pieces, args: argparse.Namespace
) -> Level:
    if name == "integrity":
        return integrity.integrity(said, pieces, checkout.sources)
    if checkout.graph is None:
        level = derivation.underivable(said, checkout.why, wrong=checkout.wrong and name == "derivation")
        return replace(level, name=name)
    if name == "derivation":
        return derivation.derivation(said, found.id, checkout.graph, [checkout.goal])
    if name == "replay":
        return replay(said, found, pieces, limit=args.limit, told=_tell)
    workshop = LocalWorkshop(offline=True)
    _, graph = load([found], workshop)
    job = retrain.Job(said, graph, workshop, pieces, environment(), args.epsilon)
    return retrain.retrain(job, _tell)


def _tell(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)
