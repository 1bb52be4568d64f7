"""The bill of materials: held against the schema that CycloneDX publishes, and what it says of whom."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from charforge import attestation, bom
from charforge.attestation import Given, Material
from charforge.engine import lock
from charforge.engine.digest import of_bytes

HOSTILE = "\x1b]0;owned\x07\u202e../../etc/passwd\r\n" + "x" * 5000


@pytest.fixture(scope="module")
def validator():
    return JsonStrictValidator(SchemaVersion.V1_6)


def sha(text):
    return of_bytes(text.encode())


def line(kind, outputs, **facts):
    made = {"version": 1, "params": {}, "inputs": {}, "environment": "e", **facts}
    return lock.Line(
        action=lock.Line(action="", outputs={}, **made).body(kind).digest, outputs=outputs, **made
    )


EMBEDDED = {"kind": "embedded", "name": "smollm2-135m-instruct", "weights": sha("gguf")}


def some(base=EMBEDDED, **changes):
    stages = {
        "dataset": line(
            "dataset", {"sft.jsonl": sha("sft"), "stats.json": sha("stats")}, counts={"sft.jsonl": 87}
        ),
        "base": line("base", {"weights/": sha("base")}, params={"base": base}),
        "model": line("model", {"weights/": sha("tree")}),
    }
    said = lock.Lock(
        "eliza",
        stages,
        {"e": {"charforge": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7", "processor": "x"}},
    )
    known = {
        "label": "characters/eliza.lock",
        "data": lock.text(said).encode(),
        "lock": said,
        "spec": {"name": "Eliza Doolittle", "notice": "She is invented.", "knows": {"until": "1914-04-11"}},
        "files": (
            Given("characters/eliza.yaml", sha("spec"), sha("spec"), ()),
            Given("characters/profiles/eliza.md", sha("p"), sha("p"), ("profile/profile",)),
        ),
        "code": attestation.Code("0.1.0", sha("code")),
        "trees": {sha("tree"): {"model.safetensors": {"digest": sha("w"), "size": 1}}},
        "summary": {
            "base_loss": 3.5,
            "chosen_epoch": 2,
            "epochs": [{"epoch": 1}, {"epoch": 2, "held_out_loss": 3.25}],
        },
        "profile": {"licence": "cc-by-sa-4.0", "name": "Eliza"},
    }
    return Material(**known | changes)


BASES = [
    EMBEDDED,
    {"kind": "embedded", "name": "unheard-of", "weights": sha("w")},
    {"kind": "hub", "repo": "a/b c", "revision": "r1"},
    {"kind": "folder", "digest": sha("f")},
    {"kind": "delta", "delta": {"kind": "hub", "repo": "a/d", "revision": None}, "onto": EMBEDDED},
    {"kind": "delta"},
    None,
]


@pytest.mark.parametrize("base", BASES)
def test_a_bill_is_valid_whatever_the_base(validator, base):
    assert validator.validate_str(attestation.text(bom.bill(some(base)))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"trees": {}, "summary": None, "profile": None, "code": None, "files": ()},
        {"summary": {"epochs": "many", "base_loss": [], "chosen_epoch": {}}},
        {"summary": {"epochs": [1, {"epoch": None}], "base_loss": True}},
        {
            "profile": {"licence": HOSTILE},
            "spec": {"name": HOSTILE, "notice": HOSTILE, "knows": {"until": HOSTILE}},
        },
        {"label": HOSTILE, "files": (Given(HOSTILE, sha("h"), sha("h"), (HOSTILE,)),)},
    ],
)
def test_a_bill_is_valid_whatever_is_known_and_whatever_names_are(validator, changes):
    text = attestation.text(bom.bill(some(**changes)))
    assert validator.validate_str(text) is None
    assert text.replace("\n", "").isprintable()
    assert text.isascii()


def test_a_bill_of_answers_that_others_gave_has_no_model(validator):
    made = some()
    bare = replace(
        made,
        lock=lock.Lock(
            "released", {"interviews": line("interviews", {"single.jsonl": sha("s")})}, made.lock.environments
        ),
    )
    said = bom.bill(bare)
    assert validator.validate_str(attestation.text(said)) is None
    assert said["metadata"]["component"]["type"] == "data"
    assert "modelCard" not in said["metadata"]["component"]


def test_the_model_has_its_card_its_files_and_its_ancestor():
    model = bom.bill(some())["metadata"]["component"]
    assert (model["type"], model["name"], model["description"]) == (
        "machine-learning-model",
        "Eliza Doolittle",
        "She is invented.",
    )
    assert [(each["name"], each["hashes"][0]["content"]) for each in model["components"]] == [
        ("model/weights/model.safetensors", sha("w"))
    ]
    (ancestor,) = model["pedigree"]["ancestors"]
    assert ancestor["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": sha("gguf")}]
    assert (
        ancestor["pedigree"]["ancestors"][0]["purl"] == "pkg:huggingface/HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "dataset/sft.jsonl"}]
    assert [
        (each["slice"], each["value"])
        for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    ] == [
        ("before training", "3.5"),
        ("after training", "3.25"),
    ]


def test_the_profile_has_its_licence_and_the_libraries_their_versions():
    found = {each["bom-ref"]: each for each in bom.bill(some())["components"]}
    assert found["characters/profiles/eliza.md"]["licenses"] == [{"license": {"id": "CC-BY-SA-4.0"}}]
    assert "licenses" not in found["characters/eliza.yaml"]
    assert found["library/torch@2.13.0+cpu"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert not {"library/python@3.11.7", "library/processor@x", "library/charforge@0.1.0"} & set(found)


def test_a_licence_that_is_not_known_here_is_a_name():
    assert bom.licence("own work, all rights reserved") == {
        "license": {"name": "own work, all rights reserved"}
    }


def test_the_licences_known_here_are_those_of_the_published_list():
    from importlib.resources import files

    listed = json.loads(
        (files("cyclonedx.schema") / "_res" / "spdx.SNAPSHOT.schema.json").read_text(encoding="utf-8")
    )
    assert set(bom._SPDX.values()) <= set(listed["enum"])


def test_the_same_lock_has_the_same_bill_and_another_lock_another_number():
    assert attestation.text(bom.bill(some())) == attestation.text(bom.bill(some()))
    assert bom.bill(some())["serialNumber"] != bom.bill(some(data=b"{}"))["serialNumber"]


def test_every_reference_is_to_something_and_unique():
    said = bom.bill(some())
    model = said["metadata"]["component"]
    whole = [model, *model["components"], *model["pedigree"]["ancestors"], *said["components"]]
    refs = [each["bom-ref"] for each in whole]
    assert len(refs) == len(set(refs))
    assert {each["ref"] for each in said["dependencies"]} <= set(refs)
    assert {ref for each in said["dependencies"] for ref in each.get("dependsOn", [])} <= set(refs)
