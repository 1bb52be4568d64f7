"""A CycloneDX 1.6 bill of materials of a character: the model with its card, what it was made from, and the libraries that ran.

Plain JSON: the maintained library's classes have no model card, so its copy of the published schema holds this to account in the
tests. Knows nothing but a `Material`; the same material gives the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from charforge.attestation import BROUGHT, Given, Material, embedded, hub_uri

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "pkg:pypi/charforge#attestations/bom/v1")
_MODEL = "model"
_NO_LIBRARIES = {"charforge", "platform", "processor", "python"}

_SPDX = {
    each.lower(): each
    for each in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "0BSD", "CC0-1.0", "PDDL-1.0", "CC-BY-3.0",
        "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0",
        "ODbL-1.0", "GFDL-1.3-only", "GFDL-1.3-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "MPL-2.0",
    )
}  # fmt: skip
"""Identifiers that profiles and models are likely to have; any other licence is written as the name that it was given."""

Component = dict[str, Any]


def bill(material: Material) -> dict[str, Any]:
    """Return the bill of materials of what a lock names. `material.spec` is not None."""
    bases, data = list(_bases(material)), _data(material)
    libraries = list(_libraries(material))
    subject = _subject(material, bases, data)
    within = [*bases, *data, *libraries]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The lock's own: the same lock has the same bill, another lock another one.
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, material.sha256)}",
        "version": 1,
        "metadata": {
            "component": subject,
            "properties": [
                {"name": "charforge:lock", "value": material.label},
                {"name": "charforge:lock:sha256", "value": material.sha256},
                *_machines(material),
            ],
            **({"tools": {"components": [_tool(material.code.version)]}} if material.code else {}),
        },
        "components": within,
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [each["bom-ref"] for each in within]},
            *({"ref": each["bom-ref"]} for each in within),
        ],
    }


def _subject(material: Material, bases: Sequence[Component], data: Sequence[Component]) -> Component:
    """Return what the bill is of: the trained model; where none was trained, the answers of others that were measured."""
    spec = material.spec or {}
    line = material.lock.stages.get("model")
    made: Component = {
        "type": "data" if line is None else "machine-learning-model",
        "bom-ref": _MODEL,
        "name": str(spec.get("name") or material.lock.character),
    }
    if notice := spec.get("notice"):
        made["description"] = str(notice)
    if line is None:
        return made
    # A run of a stage has no version of its own; its action is what it was made from.
    made["version"] = line.action[:12]
    digest = line.outputs.get("weights/", "")
    made["properties"] = [{"name": "charforge:tree:sha256", "value": digest}]
    files = material.trees.get(digest, {})
    made["components"] = [
        _file("file", f"model/weights/{path}", str(entry["digest"])) for path, entry in sorted(files.items())
    ]
    made["pedigree"] = {
        "ancestors": [dict(each, **{"bom-ref": f"ancestor:{each['bom-ref']}"}) for each in bases]
    }
    made["modelCard"] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "datasets": [{"ref": each["bom-ref"]} for each in data if each["bom-ref"].startswith("dataset/")],
        },
        "considerations": {
            "useCases": [f"answering as {made['name']} would, in a conversation"],
            "technicalLimitations": list(_limits(spec)),
        },
        **_measured(material.summary),
    }
    return made


def _limits(spec: Mapping[str, Any]) -> Iterator[str]:
    yield "What it says is invented in the person's manner; it is no record of what the person said."
    if until := (spec.get("knows") or {}).get("until"):
        yield f"It is meant to know of nothing after {until}."


def _measured(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what training measured on dialogues held out, in nats a token. A summary may be anybody's: nothing is taken for granted."""
    said = summary or {}
    epochs = said.get("epochs")
    chosen = next(
        (
            each
            for each in (epochs if isinstance(epochs, list) else [])
            if isinstance(each, dict) and each.get("epoch") == said.get("chosen_epoch")
        ),
        {},
    )
    losses = (("before training", said.get("base_loss")), ("after training", chosen.get("held_out_loss")))
    metrics = [
        {"type": "held-out loss, nats per token", "slice": when, "value": repr(float(loss))}
        for when, loss in losses
        if isinstance(loss, int | float)
    ]
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


# -- what it was made from -------------------------------------------------------------------------------------------


def _bases(material: Material) -> Iterator[Component]:
    """Yield the models that training started from; a weight difference and what it is added to are two."""
    line = material.lock.stages.get("base")
    if line is not None:
        found = list(_origins(line.params.get("base")))
        for number, each in enumerate(found):
            yield each | {"bom-ref": f"base/{number}", "type": "machine-learning-model"}


def _origins(base: Any) -> Iterator[Component]:
    if not isinstance(base, Mapping):
        return
    kind = base.get("kind")
    if kind == "delta":
        yield from _origins(base.get("delta"))
        yield from _origins(base.get("onto"))
    elif kind == "embedded":
        known = embedded(str(base.get("name")))
        yield {
            "name": f"embedded/{base.get('name')}",
            "hashes": _hashes(str(base.get("weights"))),
            **({} if known is None else {"licenses": [licence(known["licence"])]}),
            **({} if known is None else {"pedigree": {"ancestors": [_hub(known["hub"], None)]}}),
        }
    elif kind == "hub":
        yield _hub(str(base.get("repo")), base.get("revision"))
    else:
        yield {
            "name": "a folder of the author's",
            "properties": [{"name": "charforge:folder", "value": str(base.get("digest"))}],
        }


def _hub(repo: str, revision: object) -> Component:
    return {
        "type": "machine-learning-model",
        "name": repo,
        "purl": hub_uri(repo, revision),
        **({"version": str(revision)} if revision else {}),
    }


def _data(material: Material) -> list[Component]:
    """Return the data: the training set, the files that it was made from, and what others released."""
    found = [_file("data", each.path, each.sha256) | _licences(material, each) for each in material.files]
    for kind in ("dataset", *sorted(BROUGHT - {"base"})):
        line = material.lock.stages.get(kind)
        for name, digest in sorted(line.outputs.items() if line else ()):
            if name == "sft.jsonl" or kind != "dataset":
                records = {} if line is None else line.counts
                about = {"type": "dataset", "name": name}
                if name in records:
                    about["description"] = f"{records[name]} records"
                found.append(_file("data", f"{kind}/{name}", digest) | {"data": [about]})
    return found


def _licences(material: Material, given: Given) -> Component:
    """Return the profile's licence, for the file that is the profile."""
    text = (material.profile or {}).get("licence")
    return {"licenses": [licence(str(text))]} if text and "profile/profile" in given.inputs else {}


def licence(text: str) -> dict[str, Any]:
    """Return a licence as CycloneDX has it: by its SPDX identifier where it is one of those known here, else by name."""
    known = _SPDX.get(text.strip().lower())
    return {"license": {"name": text} if known is None else {"id": known}}


def _file(kind: str, name: str, digest: str) -> Component:
    return {"type": kind, "bom-ref": name, "name": name, "hashes": _hashes(digest)}


def _hashes(digest: str) -> list[dict[str, str]]:
    sound = len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    return [{"alg": "SHA-256", "content": digest}] if sound else []


# -- what ran --------------------------------------------------------------------------------------------------------


def _libraries(material: Material) -> Iterator[Component]:
    versions = {
        (str(name), str(version))
        for each in material.lock.environments.values()
        for name, version in each.items()
        if name not in _NO_LIBRARIES
    }
    for name, version in sorted(versions):
        yield {
            "type": "library",
            "bom-ref": f"library/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='')}@{quote(version, safe='')}",
        }


def _machines(material: Material) -> Iterator[dict[str, str]]:
    found = {
        (name, str(each[name]))
        for each in material.lock.environments.values()
        for name in ("platform", "processor", "python")
        if name in each
    }
    for name, value in sorted(found):
        yield {"name": f"charforge:{name}", "value": value}


def _tool(version: str) -> Component:
    return {"type": "application", "name": "charforge", "version": version}
