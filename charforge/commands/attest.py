"""`charforge attest`: write what a lock names as attestations and a bill of materials, or hold such files against what is here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charforge import __version__, attestation, attested, recording, revisions, weights
from charforge.attestation import Code, Given, Manifest, Material
from charforge.audit.pieces import Pieces
from charforge.commands.loading import Loaded, NothingNew, load
from charforge.commands.lock import lock_label
from charforge.engine import lock
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.errors import EngineError
from charforge.engine.graph import Graph, Source
from charforge.engine.lock import Lock
from charforge.engine.reader import look
from charforge.errors import CharForgeError, UsageError
from charforge.files import visible
from charforge.workspace import PACKAGE, Target, packaged_prompts, target

_MANY = 256 << 20
"""Bytes of files that git is asked about; of larger ones their digests have to do."""
_SHOWN = 20
_DEPTH = 8
"""Levels of a summary or a profile; ours have three, and protobuf ends at a hundred."""
_LAST = 253_402_300_800
"""The year 10000 in seconds since 1970: no timestamp goes further."""


def run(args: argparse.Namespace) -> int:
    """Write a character's attestations from its lock and this checkout, or check one. Nothing is built, nobody is asked."""
    if args.check:
        return _check(args)
    if args.files:
        raise UsageError(f"attest: one argument too many: {args.files[0]!r}", "files are for --check")
    if args.sign:
        from charforge import signing

        signing.package()  # before anything is written
    if args.spec.endswith(".json"):
        if not args.sign:
            raise UsageError(f"attest: {args.spec} is no spec", "--sign signs a statement, --check checks it")
        # One that is there already, such as an audit's.
        paths = [Path(args.spec)]
        attested.read(paths[0])
    else:
        found = target(args.spec)
        folder = found.workspace / "audit" / found.id if args.out is None else Path(args.out)
        made = _with_pieces(found, lambda pieces: material(found, pieces))
        if made.spec is None:
            raise CharForgeError(
                f"{lock_label(found)} is not what this checkout derives, so nobody can say here what it was made from",
                f"charforge lock --check {found.label} says where",
            )
        paths = attestation.write(folder, made)
    if args.sign:
        # A bill of materials is no statement; the provenance names the same lock.
        paths += signing.sign([path for path in paths if path.name != attestation.BOM])
    if args.json:
        print(json.dumps({str(path): weights.sha256(path) for path in paths}, indent=2))
    else:
        print("\n".join(visible(str(path)) for path in paths))
    return 0


def _check(args: argparse.Namespace) -> int:
    """Hold a statement against files and locks. Exit status 1 where one is not what it says."""
    if args.sign or args.out is not None:
        raise UsageError("attest: --check writes nothing", "leave out --sign and --out")
    said = attested.read(Path(args.spec))
    given = [Path(each) for each in args.files]
    held = attested.hold(said, [path for path in given if path.suffix != ".lock"])
    wrong = [each for each in held if each.verdict == attested.DIFFERS]
    # In a folder there may be anything else besides; a file that was named is meant.
    wrong += [each for each in held if each.verdict == attested.UNKNOWN and Path(each.path) in given]
    against: list[str] = []
    for path in given:
        if path.suffix == ".lock":
            data = _read(path, str(path))
            against += attested.against_lock(said, lock.parse(data, str(path)), data, str(path))
    if args.json:
        facts = {
            "predicateType": said.kind,
            "signed": said.signed,
            "subjects": len(said.subjects),
            "files": [asdict(each) for each in held],
            "lock": against,
        }
        print(json.dumps(facts, indent=2))
    else:
        _tell(args.spec, said, held, against)
    nothing = bool(held) and not any(each.verdict == attested.IS for each in held)
    return 1 if wrong or against or nothing else 0


def _tell(name: str, said: attested.Attested, held: Sequence[attested.Held], against: Sequence[str]) -> None:
    signed = (
        "; signed by somebody: sigstore verify identity --bundle says whom" if said.signed else "; not signed"
    )
    lines = [f"{name}: {said.kind}, {len(said.subjects)} subjects{signed}"]
    lines += [
        f"{each.path} {each.verdict}" + (f" {each.name}" if each.name else "")
        for each in held
        if each.verdict != attested.UNKNOWN
    ]
    unknown = [each.path for each in held if each.verdict == attested.UNKNOWN]
    lines += [f"{path} {attested.UNKNOWN}" for path in unknown[:_SHOWN]]
    if len(unknown) > _SHOWN:
        lines.append(f"… and {len(unknown) - _SHOWN:,} more that are nothing named")
    print("\n".join(map(visible, [*lines, *against])))


def material(found: Target, pieces: Pieces | None) -> Material:
    """Return what can be attested of a character's lock here. While the store of `pieces` is open: manifests are read from it.

    Without `spec`, where the checkout does not derive the lock, for whatever reason. Raises CharForgeError where there is no lock.
    """
    try:
        data = _read(found.lock, lock_label(found))
        said = lock.parse(data, lock_label(found))
    except EngineError as error:
        raise CharForgeError(error.message, error.hint) from error
    derived = _derived(found, said)
    trees, summary, profile = _at_hand(said, pieces)
    started, finished = _times(said, pieces)
    files = () if derived is None else tuple(_files(found, derived[1]))
    return Material(
        label=lock_label(found),
        data=data,
        lock=said,
        spec=None if derived is None else derived[0].character.spec.resolved(),
        spec_label=found.label,
        files=files,
        code=_code(),
        commit=_commit(found, files),
        trees=trees,
        summary=summary,
        profile=profile,
        recording=_recording(found),
        started=started,
        finished=finished,
    )


def _read(path: Path, label: str) -> bytes:
    """Return a lock's bytes. Raises CharForgeError where there are none, or more than a lock has."""
    try:
        with path.open("rb") as file:
            data = file.read(lock.MAX_BYTES + 1)
    except FileNotFoundError:
        raise CharForgeError(f"{label}: no such file", "a finished build writes it") from None
    except OSError as error:
        raise CharForgeError(f"{label}: cannot be read: {error.strerror}") from error
    if len(data) > lock.MAX_BYTES:
        raise CharForgeError(f"{label}: not a lock file (more than {lock.MAX_BYTES:,} bytes)")
    return data


def _with_pieces(found: Target, work: Any) -> Any:
    """Return what `work` makes of the store, if there is one, and the character's recording, if there is one."""
    root = found.workspace / ".charforge"
    if not found.recording.is_file():
        return look(root, lambda store: work(Pieces(store))) if root.is_dir() else work(None)
    with recording.verified(found.recording) as replies:
        if root.is_dir():
            return look(root, lambda store: work(Pieces(store, replies)))
        return work(Pieces(None, replies))


def _derived(found: Target, said: Lock) -> tuple[Loaded, Graph] | None:
    """Return the character and its graph where they derive all that the lock says, None where not."""
    if said.character != found.id or lock.self_check(said):
        return None
    try:
        (each,), graph = load([found], NothingNew())
    except CharForgeError:
        return None
    return None if lock.underived(said, graph, [each.character.stage("report")]) else (each, graph)


def _at_hand(
    said: Lock, pieces: Pieces | None
) -> tuple[dict[str, Manifest], Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return what is known here of a lock's outputs: folders' manifests by digest, and what training and profile say."""
    if pieces is None:
        return {}, None, None
    trees: dict[str, Manifest] = {}
    for each in said.stages.values():
        for name, digest in each.outputs.items():
            manifest = pieces.tree(digest) if name.endswith("/") else None
            if manifest is not None:
                trees[digest] = manifest
    return (
        trees,
        _object(pieces, said, "model", "train_summary.json"),
        _object(pieces, said, "profile", "profile.json"),
    )


def _object(pieces: Pieces, said: Lock, kind: str, name: str) -> Mapping[str, Any] | None:
    line = said.stages.get(kind)
    digest = None if line is None else line.outputs.get(name)
    data = None if digest is None else pieces.blob(digest)
    with suppress(ValueError, RecursionError):
        value = json.loads(data or b"null")
        # It may be anybody's: what the canonical form cannot say, no other format can.
        if isinstance(value, dict) and canonical(value) and not _deeper(value, _DEPTH):
            return value
    return None


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inner)


def _times(said: Lock, pieces: Pieces | None) -> tuple[float | None, float | None]:
    """Return when the first stage began and the last ended, where the store here knows every one of them."""
    started, finished = [], []
    for each in said.stages.values():
        trace = None if pieces is None else pieces.trace(each.action, each.outputs)
        record = {} if trace is None else trace.record
        begin, took = record.get("started"), record.get("seconds")
        if not isinstance(begin, int | float) or not isinstance(took, int | float):
            return None, None
        if not 0 <= begin <= begin + took < _LAST:
            return None, None
        started.append(begin)
        finished.append(begin + took)
    return (min(started), max(finished)) if started else (None, None)


def _files(found: Target, graph: Graph) -> Iterator[Given]:
    """Yield the spec and every file that a stage reads, by name."""
    spec = of_bytes(found.spec.read_bytes())
    yield Given(found.label, spec, spec, ())
    sources: dict[tuple[str, str], list[str]] = {}
    for stage in graph:
        for name, ref in stage.inputs.items():
            if isinstance(ref, Source):
                sources.setdefault((ref.label, ref.digest), []).append(f"{stage.kind}/{name}")
    for (label, digest), inputs in sorted(sources.items()):
        path = _path(found, label)
        yield Given(label, digest if path is None else weights.sha256(path), digest, tuple(sorted(inputs)))


def _path(found: Target, label: str) -> Path | None:
    """Return the file that an input is known by: the workspace's own, or a template that CharForge brings."""
    own, brought = found.workspace / label, packaged_prompts() / label.removeprefix("prompts/")
    return next((path for path in (own, brought) if path.is_file()), None)


def _code() -> Code:
    files = dict(_source())
    sums = ((path, of_bytes(data)) for path, data in files.items())
    outside = packaged_prompts().parent == PACKAGE.parent
    here = {
        path.replace("charforge/prompts/", "prompts/") if outside else path: data
        for path, data in files.items()
    }
    return Code(__version__, attestation.dir_hash(sums), revisions.commit_of(PACKAGE.parent, here))


def _source() -> Iterator[tuple[str, bytes]]:
    """Yield the program's files as a wheel lays them out: the package, its templates inside."""
    for folder, prefix in ((PACKAGE, "charforge"), (packaged_prompts(), "charforge/prompts")):
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in parts):
                yield "/".join((prefix, *parts)), path.read_bytes()


def _commit(found: Target, files: Iterable[Given]) -> str | None:
    """Return the commit that spec and files are, where they are all one's."""
    paths = {given.path: found.workspace / given.path for given in files}
    own = {label: path for label, path in paths.items() if path.is_file()}
    if sum(path.stat().st_size for path in own.values()) > _MANY:
        return None
    return revisions.commit_of(found.workspace, {label: path.read_bytes() for label, path in own.items()})


def _recording(found: Target) -> tuple[str, str] | None:
    path = found.recording
    if not path.is_file():
        return None
    return path.relative_to(found.workspace).as_posix(), weights.sha256(path)
