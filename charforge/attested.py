"""Attestations as an auditor meets them: read one, of whomever, see that it is what it says, and hold files and a lock against it.

Nothing in a statement is trusted: it is read within limits, nothing that it names is fetched or opened, and whoever signed it is for
`sigstore verify` to say. Prints nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge import weights
from charforge.attestation import PROVENANCE_TYPE, TEST_RESULT_TYPE, Material, subjects
from charforge.engine import strict
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.lock import Lock
from charforge.errors import CharForgeError
from charforge.files import visible

MAX_BYTES = 64 << 20
_MAX_JSON = 32 << 20
_MAX_DEPTH = 64

IS, DIFFERS, UNKNOWN = "is", "differs from", "is nothing named"
PAYLOAD = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class Attested:
    """A statement as read. `kind` is its predicate's type, `signed` says that it came in a DSSE envelope, verified by nobody here."""

    data: Mapping[str, Any]
    signed: bool

    @property
    def kind(self) -> str:
        """The predicate's type."""
        return str(self.data["predicateType"])

    @property
    def subjects(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of what the statement is about, as far as it names any."""
        return list(_digests(self.data["subject"]))

    @property
    def others(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of what else it names: what went in, byproducts, an audit's lock and finding."""
        if self.kind not in {PROVENANCE_TYPE, TEST_RESULT_TYPE}:
            return []
        predicate = self.data["predicate"]
        build, ran = predicate.get("buildDefinition", {}), predicate.get("runDetails", {})
        return [
            *_digests(build.get("resolvedDependencies", [])),
            *_digests(ran.get("byproducts", [])),
            *_digests(predicate.get("configuration", [])),
        ]


@dataclass(frozen=True, slots=True)
class Held:
    """What a file is to a statement: the thing called `name` (IS), one of another content under that name, or nothing that it names."""

    path: str
    verdict: str
    name: str | None = None


def read(path: Path) -> Attested:
    """Return a statement from its file, or from the Sigstore bundle or DSSE envelope that it was signed in.

    Raises CharForgeError where it is none, or has another shape than its published type.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CharForgeError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _wrong(str(path), f"more than {MAX_BYTES:,} bytes")
    return parse(data, str(path))


def parse(data: bytes, label: str) -> Attested:
    """Return a statement from bytes, as `read` does. `label` is what errors call it."""
    value = _json(data, label)
    envelope = value.get("dsseEnvelope", value) if isinstance(value, dict) else value
    signed = isinstance(envelope, dict) and "payload" in envelope and "payloadType" in envelope
    if signed:
        if envelope["payloadType"] != PAYLOAD:
            raise _wrong(label, "what was signed is no in-toto Statement")
        try:
            value = _json(base64.b64decode(str(envelope["payload"]), validate=True), label)
        except binascii.Error:
            raise _wrong(label, "its payload is no base64") from None
    return Attested(_shaped(value, label), signed)


def _json(data: bytes, label: str) -> Any:
    try:
        value = strict.parsed(data, depth=_MAX_DEPTH)
        # 1e999, and texts that are no Unicode
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise _wrong(label, visible(str(error))[:120]) from None
    return value


def _shaped(value: Any, label: str) -> dict[str, Any]:
    """Return a value as the published types have it. A field that they do not have is wrong: nobody would look at it."""
    from google.protobuf.json_format import (  # type: ignore[import-untyped]
        Error,
        MessageToDict,
        ParseDict,
    )
    from in_toto_attestation.predicates.provenance.v1 import (  # type: ignore[import-untyped]
        provenance_pb2,
    )
    from in_toto_attestation.predicates.test_result.v0 import (  # type: ignore[import-untyped]
        test_result_pb2,
    )
    from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]
    from in_toto_attestation.v1.statement_pb2 import Statement as Message  # type: ignore[import-untyped]

    if not isinstance(value, dict):
        raise _wrong(label, "no object")
    try:
        whole = ParseDict(value, Message())
        Statement.copy_from_pb(whole).validate()
        shaped: dict[str, Any] = MessageToDict(whole)
        shapes = {PROVENANCE_TYPE: provenance_pb2.Provenance, TEST_RESULT_TYPE: test_result_pb2.TestResult}
        if whole.predicate_type in shapes:
            shaped["predicate"] = MessageToDict(
                ParseDict(shaped["predicate"], shapes[whole.predicate_type]())
            )
    except (Error, ValueError, OverflowError, RecursionError) as error:
        raise _wrong(label, visible(str(error).partition("\n")[0])[:160]) from None
    predicate = shaped["predicate"]
    if whole.predicate_type == PROVENANCE_TYPE and not _is_provenance(predicate):
        raise _wrong(label, "a provenance without buildType, externalParameters or builder.id")
    if whole.predicate_type == TEST_RESULT_TYPE and (
        predicate.get("result") not in {"PASSED", "WARNED", "FAILED"} or not predicate.get("configuration")
    ):
        raise _wrong(label, "a test result without a result or a configuration")
    return shaped


def _is_provenance(predicate: Mapping[str, Any]) -> bool:
    build, ran = predicate.get("buildDefinition", {}), predicate.get("runDetails", {})
    return bool(build.get("buildType") and "externalParameters" in build and ran.get("builder", {}).get("id"))


def _wrong(label: str, why: str) -> CharForgeError:
    return CharForgeError(f"{label}: not an attestation ({why})", "charforge attest SPEC writes one")


def _digests(descriptors: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in descriptors or []:
        digest = (each.get("digest") or {}).get("sha256")
        if digest:
            yield str(each.get("name") or each.get("uri") or "_"), str(digest).lower()


# -- held against what is here ---------------------------------------------------------------------------------------


def hold(attested: Attested, paths: Iterable[Path]) -> list[Held]:
    """Return what each file is to a statement; of a folder, each file in it. Links are not followed. Raises CharForgeError.

    A file of another content is taken for the subject of its name only where no other file is that one: folders are laid out
    in many ways, and `dialogues.jsonl` is the name of more than one thing.
    """
    named = {digest: name for name, digest in [*reversed(attested.others), *reversed(attested.subjects)]}
    found: list[tuple[Path, str | None]] = []
    for file in (file for path in paths for file in _files(path)):
        try:
            known = next((named[digest] for digest in _digests_of(file) if digest in named), None)
        except OSError as error:
            raise CharForgeError(f"{file}: cannot be read: {error.strerror}") from error
        found.append((file, known))
    there = {name for _, name in found}
    missing: dict[str, str] = {}
    for name, digest in attested.subjects:
        if named[digest] not in there:
            missing.setdefault(name.rstrip("/").rpartition("/")[2], name)
    return [
        Held(str(file), IS, known)
        if known is not None
        else Held(str(file), DIFFERS if file.name in missing else UNKNOWN, missing.get(file.name))
        for file, known in found
    ]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise CharForgeError(f"{path}: no such file", "name files, folders or a lock to hold it against")
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _digests_of(file: Path) -> Iterator[str]:
    """Yield the digests by which a statement may name a file: of its bytes, and, of JSON, of its canonical form."""
    yield weights.sha256(file)
    if file.suffix == ".json" and file.stat().st_size <= _MAX_JSON:
        try:
            yield of_bytes(canonical(json.loads(file.read_bytes())))
        except (ValueError, RecursionError):
            return


def against_lock(attested: Attested, lock: Lock, data: bytes, label: str) -> list[str]:
    """Return where a statement and a lock contradict each other, in words. Empty: they do not."""
    said = []
    if of_bytes(data) not in {digest for _, digest in [*attested.subjects, *attested.others]}:
        said.append(f"{label}: the statement is of another lock: SHA-256 {of_bytes(data)} is not in it")
    made = {each["name"]: each["digest"]["sha256"] for each in subjects(Material(label, data, lock))}
    about = dict(attested.subjects)
    for name in sorted(made):
        if name not in about:
            said.append(f"{label}: {name} is not among the subjects")
        elif about[name] != made[name]:
            said.append(f"{label}: {name} is {made[name][:12]}… here, {about[name][:12]}… in the statement")
    trees = tuple(name for name in made if name.endswith("/"))
    said += [
        f"{label}: names no {name}, which is a subject"
        for name, digest in about.items()
        if name not in made and digest != of_bytes(data) and not name.startswith(trees)
    ]
    return said
