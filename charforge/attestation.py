"""What a lock names, said in the formats that other people's tools read: in-toto Statements, of SLSA provenance and of an audit.

Written from a `Material`, which holds everything by digest: no store, no spec file and no clock is looked at here, so the same
material gives the same bytes. docs/attestations.md (contract) says what each field means and holds the types' definitions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, METRIC_EQUIVALENT
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.lock import Line, Lock
from charforge.errors import CharForgeError

PROVENANCE = "provenance.intoto.json"
FINDING = "finding.intoto.json"
BOM = "bom.cdx.json"

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"

# Package URLs: the project has no domain of its own, and whoever has the package has the page that defines them.
BUILD_TYPE = "pkg:pypi/charforge#attestations/build/v1"
BUILDER = "pkg:pypi/charforge#attestations/builder/v1"
AUDIT = "pkg:pypi/charforge#attestations/audit/v1"

# What a SHA-256 is of where it is of no file: bytes that docs/attestations.md says how to write. Digests of other names would be
# truer to in-toto, but signers and verifiers take few names, and refuse the whole statement for one that they do not know.
TREE = "application/vnd.charforge.tree+json"
REPLIES = "application/vnd.charforge.observations"
FOLDER = "application/vnd.charforge.folder+json"
SUMS = "application/vnd.charforge.sha256sums"
FOUND = "application/vnd.charforge.finding+json"

BROUGHT = frozenset({"base", "released"})
"""Stages that fetch what others made: what a character is built from, not what was built."""

_EMPTY = of_bytes(b"")

Manifest = Mapping[str, Mapping[str, Any]]
Statement = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """A file that a build read. `sha256` is of the file's bytes, `content` of what was made of them before a stage saw it.

    `inputs` are `stage/input`.
    """

    path: str
    sha256: str
    content: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """The program that derives a lock: `dir_hash` is of its source, `commit` the git commit that it is, where it is one's exactly."""

    version: str
    dir_hash: str
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """What statements are made from.

    `label` is the lock's path as users know it and `data` its bytes. `spec` is the resolved spec: None where this checkout
    does not derive the lock, so that nobody can say what it was made from. `trees` are the folders' manifests at hand, by digest.
    `started` and `finished` are seconds since 1970, None where nobody knows.
    """

    label: str
    data: bytes
    lock: Lock
    spec: Mapping[str, Any] | None = None
    spec_label: str = ""
    files: Sequence[Given] = ()
    code: Code | None = None
    commit: str | None = None
    trees: Mapping[str, Manifest] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None
    recording: tuple[str, str] | None = None
    started: float | None = None
    finished: float | None = None

    @property
    def sha256(self) -> str:
        """The digest of the lock file's bytes."""
        return of_bytes(self.data)


def write(folder: Path, material: Material, finding: Mapping[str, Any] | None = None) -> list[Path]:
    """Write what can be said into `folder`, which is made where it is missing; return the files.

    Provenance and bill of materials where this checkout derives the lock; the audit's own statement where there is a `finding`
    (its JSON). Raises CharForgeError where a file cannot be written.
    """
    from charforge import bom

    made: dict[str, Mapping[str, Any]] = {}
    if material.spec is not None:
        made |= {PROVENANCE: provenance(material), BOM: bom.bill(material)}
    if finding is not None:
        made[FINDING] = audited(material, finding)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in {PROVENANCE, BOM} - set(made):
            # Of an earlier lock: beside a newer finding it would be taken for this one's.
            (folder / name).unlink(missing_ok=True)
        return [_put(folder / name, text(data)) for name, data in made.items()]
    except OSError as error:
        raise CharForgeError(
            f"{folder}: cannot be written: {error.strerror}", "--out names a folder that can"
        ) from error


def _put(path: Path, said: str) -> Path:
    # Whole or not at all, and never through a link that lies there.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.unlink()
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(said)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def text(data: Mapping[str, Any]) -> str:
    """Return JSON data as it is written: keys sorted, and ASCII only, so that no name in it can steer a terminal."""
    return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"


# -- provenance ------------------------------------------------------------------------------------------------------


def provenance(material: Material) -> Statement:
    """Return the Statement, with SLSA provenance v1, of how what the lock names was made. `material.spec` is not None."""
    from in_toto_attestation.predicates.provenance.v1 import (  # type: ignore[import-untyped]
        provenance_pb2,
    )

    lock = material.lock
    versions = sorted({str(each.get("charforge")) for each in lock.environments.values()})
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"path": material.spec_label, "spec": dict(material.spec or {})},
            "internalParameters": {
                "environments": {key: dict(each) for key, each in lock.environments.items()},
                "stages": {
                    kind: {"action": each.action, "environment": each.environment, "version": each.version}
                    for kind, each in lock.stages.items()
                },
            },
            "resolvedDependencies": dependencies(material),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"charforge": ", ".join(versions)}},
            "metadata": {
                key: _time(seconds)
                for key, seconds in (("startedOn", material.started), ("finishedOn", material.finished))
                if seconds is not None
            },
            "byproducts": byproducts(material),
        },
    }
    return _statement(subjects(material), PROVENANCE_TYPE, predicate, provenance_pb2.Provenance())


def subjects(material: Material) -> list[dict[str, Any]]:
    """Return what the lock says was made, as `stage/output`, sorted.

    Only SHA-256, and all of them named: signers refuse subjects with any other digest. A folder is its manifest, whose bytes
    that digest is of, and, where the manifest is at hand, each of its files. Empty files are left out: every empty file is the same.
    """
    found = []
    for kind, each in sorted(material.lock.stages.items()):
        if kind in BROUGHT:
            continue
        for name, digest in sorted(each.outputs.items()):
            if digest == _EMPTY:
                continue
            found.append(_output(f"{kind}/{name}", digest, material.trees.get(digest)))
            if name.endswith("/"):
                found += [
                    {"name": f"{kind}/{name}{path}", "digest": {"sha256": str(entry["digest"])}}
                    for path, entry in sorted(material.trees.get(digest, {}).items())
                    if entry["digest"] != _EMPTY
                ]
    return found


def _output(name: str, digest: str, manifest: Manifest | None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "digest": {"sha256": digest}}
    if name.endswith("/"):
        made["mediaType"] = TREE
        if manifest is not None:
            sums = ((path, str(entry["digest"])) for path, entry in manifest.items())
            made["annotations"] = {"dirHash": dir_hash(sums)}
    return made


def dir_hash(files: Iterable[tuple[str, str]]) -> str:
    """Return in-toto's dirHash of (path, SHA-256) pairs: what `sha256sum` prints of the files, sorted by path, hashed again."""
    lines = sorted((path.encode(), f"{digest}  ".encode() + path.encode()) for path, digest in files)
    return hashlib.sha256(b"".join(line + b"\n" for _, line in lines)).hexdigest()


def dependencies(material: Material) -> list[dict[str, Any]]:
    """Return what went into a build: files, weights, others' data, the replies of the models asked, and the code."""
    found = [_file(each) for each in material.files]
    found += _weights(material)
    for kind, each in sorted(material.lock.stages.items()):
        if kind in BROUGHT:
            found += [
                _output(f"{kind}/{name}", digest, material.trees.get(digest))
                for name, digest in sorted(each.outputs.items())
            ]
        if each.observations:
            found.append(_replies(kind, each))
    if material.recording is not None:
        name, digest = material.recording
        found.append({"name": name, "digest": {"sha256": digest}, "mediaType": "application/zstd"})
    if material.commit is not None:
        found.append({"name": "repository of the spec", "digest": {"gitCommit": material.commit}})
    if material.code is not None:
        uri = f"pkg:pypi/charforge@{quote(material.code.version, safe='')}"
        found.append(
            {"name": "charforge", "uri": uri, "digest": {"sha256": material.code.dir_hash}, "mediaType": SUMS}
        )
        if material.code.commit is not None:
            found.append({"name": "repository of charforge", "digest": {"gitCommit": material.code.commit}})
    return found


def _file(given: Given) -> dict[str, Any]:
    about: dict[str, Any] = {"inputs": list(given.inputs)} if given.inputs else {}
    if given.content != given.sha256:
        # A stage saw the same data written another way.
        about["canonicalJsonSha256"] = given.content
    return {
        "name": given.path,
        "digest": {"sha256": given.sha256},
        **({"annotations": about} if about else {}),
    }


def _replies(kind: str, line: Line) -> dict[str, Any]:
    return {
        "name": f"{kind}/replies",
        "digest": {"sha256": str(line.observations["root"])},
        "mediaType": REPLIES,
        "annotations": {"count": line.observations["count"], "models": dict(line.models)},
    }


def _weights(material: Material) -> list[dict[str, Any]]:
    """Return the weights that a build started from, as others can get them, and those of local models that it asked."""
    line = material.lock.stages.get("base")
    found = list(_origins((line.params if line else {}).get("base")))
    trained = {
        digest
        for kind, each in material.lock.stages.items()
        if kind == "model"
        for digest in each.outputs.values()
    }
    named = {descriptor["name"] for descriptor in found} | {"local/base"}
    for name, digest in sorted(
        {pair for each in material.lock.stages.values() for pair in each.models.items() if pair[1]}
    ):
        if name not in named and digest not in trained:
            found += _origins({"kind": "embedded", "name": name.removeprefix("embedded/"), "weights": digest})
    return found


def _origins(base: Any) -> list[dict[str, Any]]:
    """Return where base weights come from, as a lock's `base` stage names them. A lock may be anybody's: nothing is taken for granted."""
    if not isinstance(base, Mapping):
        return []
    if base.get("kind") == "delta":
        return [*_origins(base.get("delta")), *_origins(base.get("onto"))]
    if base.get("kind") == "embedded":
        found: dict[str, Any] = {
            "name": f"embedded/{base.get('name')}",
            "digest": {"sha256": str(base.get("weights"))},
        }
        if known := embedded(str(base.get("name"))):
            found["annotations"] = {"licence": known["licence"], "quantisedFrom": hub_uri(known["hub"], None)}
        return [found]
    if base.get("kind") == "hub":
        revision = base.get("revision")
        return [{"name": str(base.get("repo")), "uri": hub_uri(str(base.get("repo")), revision)}]
    digest = {"sha256": str(base.get("digest"))}
    return [{"name": "base model's folder", "digest": digest, "mediaType": FOLDER}]


def embedded(name: str) -> dict[str, str] | None:
    """Return licence and origin of a model that comes with the install, None where there is none of that name."""
    from charforge.models.embedded import EMBEDDED

    known = EMBEDDED.get(name)
    return None if known is None else {"licence": known.licence, "hub": known.hub}


def hub_uri(repo: str, revision: object) -> str:
    """Return the package URL of a model on the Hugging Face hub."""
    at = f"@{quote(str(revision), safe='')}" if revision else ""
    return f"pkg:huggingface/{quote(repo)}{at}"


def byproducts(material: Material) -> list[dict[str, Any]]:
    """Return the lock, annotated with what the build used and cost, and what training said of itself."""
    used: dict[str, dict[str, Any]] = {}
    for each in material.lock.stages.values():
        for model, usage in each.usage.items():
            into = used.setdefault(model, {})
            for key, value in usage.items():
                into[key] = round(into.get(key, 0) + value, 6)
    cost = round(sum(usage.get("cost", 0) for usage in used.values()), 6)
    found: list[dict[str, Any]] = [
        {
            "name": material.label,
            "digest": {"sha256": material.sha256},
            "mediaType": "application/json",
            "annotations": {"costUSD": cost, "usage": used},
        }
    ]
    line = material.lock.stages.get("model")
    digest = None if line is None else line.outputs.get("train_summary.json")
    if digest is not None:
        found.append(
            {
                "name": "model/train_summary.json",
                "digest": {"sha256": digest},
                "mediaType": "application/json",
                **({} if material.summary is None else {"annotations": {"summary": dict(material.summary)}}),
            }
        )
    return found


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- an audit's finding ----------------------------------------------------------------------------------------------


def audited(material: Material, finding: Mapping[str, Any]) -> Statement:
    """Return the Statement of an audit's finding, given as its JSON, as in-toto's test result.

    A test is `level/stage`. What could not be checked is in none of the lists: it was not run. The result is PASSED only where all
    was bit-identical, and FAILED where anything diverges or nothing at all could be checked.
    """
    from in_toto_attestation.predicates.test_result.v0 import (  # type: ignore[import-untyped]
        test_result_pb2,
    )

    tests: dict[str, list[str]] = {}
    for name, level in sorted(finding["levels"].items()):
        for stage, result in sorted(level["stages"].items()):
            tests.setdefault(result["verdict"], []).append(f"{name}/{stage}")
    passed, warned = tests.pop(BIT_IDENTICAL, []), tests.pop(METRIC_EQUIVALENT, [])
    failed = tests.pop(DIVERGENT, [])
    unchecked = sorted(test for others in tests.values() for test in others)
    if failed or finding["verdict"] == DIVERGENT or not (passed or warned):
        result = "FAILED"
    else:
        result = "WARNED" if warned or unchecked or finding["verdict"] != BIT_IDENTICAL else "PASSED"
    predicate = {
        "result": result,
        "configuration": [
            {"name": material.label, "digest": {"sha256": str(finding["lock"])}},
            {
                "name": "finding",
                "uri": AUDIT,
                "digest": {"sha256": of_bytes(canonical(dict(finding)))},
                "mediaType": FOUND,
                "annotations": {
                    "environment": dict(finding.get("environment") or {}),
                    "levels": {name: level["verdict"] for name, level in finding["levels"].items()},
                    "notCheckable": unchecked,
                    "verdict": finding["verdict"],
                },
            },
        ],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }
    about = [{"name": material.label, "digest": {"sha256": str(finding["lock"])}}, *subjects(material)]
    return _statement(about, TEST_RESULT_TYPE, predicate, test_result_pb2.TestResult())


# -- the published types ---------------------------------------------------------------------------------------------


def _statement(subject: list[dict[str, Any]], kind: str, predicate: dict[str, Any], shape: Any) -> Statement:
    """Return a Statement as JSON data, written by the published types: a field that they do not have raises."""
    from google.protobuf.json_format import (  # type: ignore[import-untyped]
        MessageToDict,
        ParseDict,
    )
    from in_toto_attestation.v1.resource_descriptor_pb2 import (  # type: ignore[import-untyped]
        ResourceDescriptor,
    )
    from in_toto_attestation.v1.statement import Statement as Whole  # type: ignore[import-untyped]

    try:
        whole = Whole([ParseDict(each, ResourceDescriptor()) for each in subject], kind, {})
        ParseDict(MessageToDict(ParseDict(predicate, shape)), whole.pb.predicate)
        whole.validate()
    except ValueError as error:
        raise CharForgeError(
            f"nothing to attest: {error}", "a finished build's lock names what it made"
        ) from error
    data: Statement = _whole(MessageToDict(whole.pb))
    return data


def _whole(value: Any) -> Any:
    """Return JSON data with 42 for 42.0: protobuf holds every number as a double."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
