"""Attestations of a stranger: read strictly, refused in one line, and held against files and locks."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import attestation, attested
from charforge.attestation import Code, Given, Material
from charforge.engine import lock
from charforge.engine.digest import of_bytes
from charforge.errors import CharForgeError


def sha(text):
    return of_bytes(text.encode())


def line(kind, outputs, **facts):
    made = {"version": 1, "params": {}, "inputs": {}, "environment": "e", **facts}
    return lock.Line(
        action=lock.Line(action="", outputs={}, **made).body(kind).digest, outputs=outputs, **made
    )


def locked(**outputs):
    stages = {
        "dataset": line("dataset", {"sft.jsonl": sha("sft")} | outputs),
        "model": line("model", {"weights/": sha("tree")}),
    }
    return lock.Lock("eliza", stages, {"e": {"charforge": "0.1.0"}})


def some(said=None):
    said = said or locked()
    return Material(
        label="characters/eliza.lock",
        data=lock.text(said).encode(),
        lock=said,
        spec={"name": "Eliza"},
        spec_label="characters/eliza.yaml",
        files=(Given("characters/eliza.yaml", sha("spec"), sha("spec"), ()),),
        code=Code("0.1.0", sha("code")),
        trees={sha("tree"): {"model.safetensors": {"digest": sha("weights"), "size": 7}}},
    )


FINDING = {
    "charforge_audit": 1,
    "lock": some().sha256,
    "verdict": "bit-identical",
    "levels": {
        "integrity": {"verdict": "bit-identical", "stages": {"dataset": {"verdict": "bit-identical"}}}
    },
    "environment": {},
}


def written(data=None, **changes):
    said = attestation.provenance(some()) if data is None else data
    return attestation.text(said | changes).encode()


def enveloped(said, **changes):
    envelope = {
        "payload": base64.b64encode(said).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "AA=="}],
    }
    return {**envelope, **changes}


# -- reading ---------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path):
    for path in attestation.write(tmp_path, some(), FINDING):
        if path.name != "bom.cdx.json":
            assert attested.read(path).signed is False
    assert attested.read(tmp_path / "provenance.intoto.json").kind == attestation.PROVENANCE_TYPE
    assert attested.read(tmp_path / "finding.intoto.json").kind == attestation.TEST_RESULT_TYPE


def test_a_signed_one_is_read_from_its_envelope_and_from_its_bundle():
    alone = json.dumps(enveloped(written())).encode()
    bundle = json.dumps(
        {"mediaType": "x", "verificationMaterial": {}, "dsseEnvelope": enveloped(written())}
    ).encode()
    for data in (alone, bundle):
        said = attested.parse(data, "x")
        assert said.signed
        assert said.subjects == attested.parse(written(), "x").subjects


def without(*path):
    data = json.loads(written())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(data).encode()


PREDICATE = json.loads(written())["predicate"]

WRONG = {
    "nothing": (b"", "Expecting value in column 1"),
    "no object": (b"[]", "no object"),
    "a word": (b'"x"', "no object"),
    "a number without end": (b'{"_type": 1e999}', "Out of range float values are not JSON compliant"),
    "NaN": (b'{"_type": NaN}', "NaN is no JSON"),
    "a key twice": (b'{"_type": 1, "_type": 2}', "a key comes twice"),
    "half a character": (b'{"_type": "\\ud800"}', "surrogates not allowed"),
    "too deep": (b"[" * 100_000, "nested too deeply"),
    "another type": (written(_type="https://in-toto.io/Statement/v0.1"), "Wrong statement type"),
    "no subject": (written(subject=[]), "At least one subject required"),
    "no digest": (written(subject=[{"name": "x"}]), "At least one digest required"),
    "no predicate": (without("predicate"), "Predicate object required"),
    "no predicate's type": (without("predicateType"), "Predicate type required"),
    "an unknown field": (written(more=1), 'no field named "more"'),
    "an unknown field inside": (written(predicate=PREDICATE | {"more": 1}), 'no field named "more"'),
    "a list for an object": (written(predicate=[]), "must be in a dict"),
    "no builder": (without("predicate", "runDetails", "builder", "id"), "without buildType"),
    "no parameters": (without("predicate", "buildDefinition", "externalParameters"), "without buildType"),
    "a time that is none": (
        written(predicate=PREDICATE | {"runDetails": {"metadata": {"startedOn": "yesterday"}}}),
        "startedOn",
    ),
    "no result": (
        written(attestation.audited(some(), FINDING) | {"predicate": {"configuration": [{"uri": "x"}]}}),
        "without a result",
    ),
    "another envelope": (
        json.dumps(enveloped(b"{}", payloadType="text/plain")).encode(),
        "no in-toto Statement",
    ),
    "no base64": (json.dumps(enveloped(b"{}", payload="%")).encode(), "no base64"),
    "an envelope of nothing": (json.dumps(enveloped(b"")).encode(), "Expecting value"),
}


@pytest.mark.parametrize(("data", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_attestation_is_refused_in_one_line(data, why):
    with pytest.raises(CharForgeError) as caught:
        attested.parse(data, "x.json")
    assert caught.value.message.startswith("x.json: not an attestation (")
    assert why in caught.value.message
    assert "\n" not in caught.value.message


def test_a_huge_file_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(attested.MAX_BYTES + 1)
    with pytest.raises(CharForgeError, match="more than 67,108,864 bytes"):
        attested.read(tmp_path / "x")
    with pytest.raises(CharForgeError, match="cannot be read: No such file"):
        attested.read(tmp_path / "y")


WHOLE = written()


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_one_is_read_or_refused_and_nothing_else(at, byte, cut):
    data = WHOLE[:at] if cut else WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        said = attested.parse(data, "x")
    except CharForgeError:
        return
    assert list(said.subjects)
    assert isinstance(said.others, list)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "digest",
                    "sha256",
                    "name",
                    "uri",
                    "subject",
                    "predicate",
                    "buildDefinition",
                    "resolvedDependencies",
                    "configuration",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(["subject", "predicate", "predicateType", "_type"]), value=json_values)
def test_anything_in_a_field_is_read_or_refused_and_nothing_else(key, value):
    try:
        said = attested.parse(json.dumps(json.loads(WHOLE) | {key: value}).encode(), "x")
    except CharForgeError:
        return
    assert isinstance(said.subjects, list)
    assert isinstance(said.others, list)


# -- holding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    for path, text in {
        "sft.jsonl": "sft",
        "model/model.safetensors": "weights",
        "my.yaml": "spec",
        "else.txt": "?",
    }.items():
        (tmp_path / path).write_text(text)
    return tmp_path


def test_files_are_known_by_their_bytes_whatever_they_are_called(folder):
    (folder / "link").symlink_to("/etc/passwd")
    held = attested.hold(attested.parse(written(), "x"), [folder])
    assert [(each.path.removeprefix(f"{folder}/"), each.verdict, each.name) for each in held] == [
        ("else.txt", "is nothing named", None),
        ("my.yaml", "is", "characters/eliza.yaml"),
        ("sft.jsonl", "is", "dataset/sft.jsonl"),
        ("model/model.safetensors", "is", "model/weights/model.safetensors"),
    ]


def test_another_content_under_a_subjects_name_differs_from_it(folder):
    (folder / "model" / "model.safetensors").write_text("other weights")
    (held,) = attested.hold(attested.parse(written(), "x"), [folder / "model"])
    assert (held.verdict, held.name) == ("differs from", "model/weights/model.safetensors")


def test_another_file_of_the_same_name_is_no_contradiction_where_the_subject_is_there(folder):
    (folder / "rejected").mkdir()
    (folder / "rejected" / "sft.jsonl").write_text("")
    held = attested.hold(attested.parse(written(), "x"), [folder])
    assert [each.verdict for each in held if each.path.endswith("sft.jsonl")] == ["is", "is nothing named"]


def test_a_finding_is_known_however_its_json_is_laid_out(folder):
    said = attested.parse(written(attestation.audited(some(), FINDING)), "x")
    (folder / "finding.json").write_text(json.dumps(FINDING, indent=3))
    (held,) = attested.hold(said, [folder / "finding.json"])
    assert (held.verdict, held.name) == ("is", "finding")


def test_a_file_that_is_not_there_is_one_error(folder):
    with pytest.raises(CharForgeError, match="no such file"):
        attested.hold(attested.parse(written(), "x"), [folder / "none"])


@pytest.mark.parametrize("said", [attestation.provenance(some()), attestation.audited(some(), FINDING)])
def test_the_lock_that_it_was_written_from_agrees(said):
    made = some()
    assert attested.against_lock(attested.parse(written(said), "x"), made.lock, made.data, "eliza.lock") == []


def test_another_lock_contradicts_by_output():
    other = some(locked(**{"sft.jsonl": sha("other"), "new": sha("new")}))
    said = attested.parse(written(), "x")
    assert attested.against_lock(said, other.lock, other.data, "eliza.lock") == [
        f"eliza.lock: the statement is of another lock: SHA-256 {other.sha256} is not in it",
        "eliza.lock: dataset/new is not among the subjects",
        f"eliza.lock: dataset/sft.jsonl is {sha('other')[:12]}… here, {sha('sft')[:12]}… in the statement",
    ]


def test_a_subject_that_no_stage_made_contradicts_the_lock():
    said = json.loads(written())
    said["subject"].append({"name": "evil.bin", "digest": {"sha256": sha("evil")}})
    made = some()
    assert attested.against_lock(attested.parse(written(said), "x"), made.lock, made.data, "eliza.lock") == [
        "eliza.lock: names no evil.bin, which is a subject"
    ]
