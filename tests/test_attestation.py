"""What a lock names, as in-toto Statements: held against the published types, the same bytes each time, whatever the names are."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace

import pytest
from google.protobuf.json_format import MessageToDict, Parse, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as Result
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from charforge import attestation
from charforge.attestation import Code, Given, Material
from charforge.engine import lock
from charforge.engine.digest import canonical
from charforge.errors import CharForgeError

EMPTY = hashlib.sha256(b"").hexdigest()
HOSTILE = "\x1b]0;owned\x07\u202e../../etc/passwd\r\n" + "x" * 5000


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


TREE = {
    "model.safetensors": {"digest": sha("weights"), "size": 7},
    "config.json": {"digest": sha("config"), "size": 6},
    "empty.txt": {"digest": EMPTY, "size": 0},
}


def line(kind, outputs, **facts):
    made = {"version": 1, "params": {}, "inputs": {}, "environment": "e", **facts}
    action = lock.Line(action="", outputs={}, **made).body(kind).digest
    return lock.Line(action=action, outputs=outputs, **made)


def some(**changes):
    """A lock of a few stages, and what a checkout knows of it."""
    stages = {
        "scenes": line(
            "scenes",
            {"scenes.jsonl": sha("scenes"), "rejected.jsonl": EMPTY},
            models={"openai/gpt": None},
            observations={"count": 2, "root": sha("root")},
            usage={
                "openai/gpt": {
                    "calls": 2,
                    "prompt_tokens": 9,
                    "completion_tokens": 3,
                    "cost": 0.25,
                    "unpriced": 0,
                }
            },
        ),
        "dataset": line("dataset", {"sft.jsonl": sha("sft")}, counts={"sft.jsonl": 87}),
        "base": line(
            "base",
            {"weights/": sha("base")},
            params={"base": {"kind": "hub", "repo": "a/b c", "revision": "r1"}},
        ),
        "model": line("model", {"weights/": sha("tree"), "train_summary.json": sha("summary")}),
        **changes.pop("stages", {}),
    }
    said = lock.Lock(
        "eliza", stages, {"e": {"charforge": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"}}
    )
    known = {
        "label": "characters/eliza.lock",
        "data": lock.text(said).encode(),
        "lock": said,
        "spec": {
            "name": "Eliza",
            "train": {"epochs": 2, "learning_rate": 1e-4},
            "written": None,
            "knows": {"never": []},
        },
        "spec_label": "characters/eliza.yaml",
        "files": (
            Given("characters/eliza.yaml", sha("spec"), sha("spec"), ()),
            Given("characters/questions/eliza.yaml", sha("file"), sha("data"), ("questions/questions",)),
        ),
        "code": Code("0.1.0", sha("code"), "c" * 40),
        "commit": "d" * 40,
        "trees": {sha("tree"): TREE},
        "summary": {"base_loss": 3.5, "chosen_epoch": 1, "epochs": [{"epoch": 1, "held_out_loss": 3.25}]},
    }
    return Material(**known | changes)


def finding(**levels):
    stages = {"scenes": "bit-identical", "dataset": "bit-identical"}
    found = {
        name: {
            "verdict": "bit-identical",
            "counts": {},
            "facts": {},
            "stages": {
                k: {"verdict": v, "checked": 1, "why": None, "differences": []} for k, v in verdicts.items()
            },
        }
        for name, verdicts in (levels or {"integrity": stages}).items()
    }
    worst = ["divergent", "not checkable", "metric-equivalent", "bit-identical"]
    for level in found.values():
        verdicts = {each["verdict"] for each in level["stages"].values()}
        level["verdict"] = next((each for each in worst if each in verdicts), "not checkable")
    verdicts = {level["verdict"] for level in found.values()}
    return {
        "charforge_audit": 1,
        "character": "eliza",
        "lock": some().sha256,
        "verdict": next((each for each in worst if each in verdicts), "not checkable"),
        "levels": found,
        "environment": {"python": "3.11.7"},
    }


def parsed(said, shape):
    """Read a statement back by the published types, which refuse a field that they do not have; return its message and predicate."""
    whole = Parse(attestation.text(said), Message())
    Statement.copy_from_pb(whole).validate()
    return whole, ParseDict(said["predicate"], shape())


# -- the published types ---------------------------------------------------------------------------------------------


def test_provenance_has_the_published_types_and_comes_back_as_it_went():
    said = attestation.provenance(some())
    whole, predicate = parsed(said, Provenance)
    assert whole.predicate_type == "https://slsa.dev/provenance/v1"
    assert MessageToDict(whole) == said
    assert predicate.build_definition.build_type == attestation.BUILD_TYPE
    assert predicate.run_details.builder.id == attestation.BUILDER
    assert said["predicate"]["buildDefinition"]["externalParameters"] == {
        "path": "characters/eliza.yaml",
        "spec": some().spec,
    }
    # Whole numbers are whole: protobuf holds every number as a double.
    assert '"epochs": 2,' in attestation.text(said)


def test_a_finding_has_the_published_types_and_comes_back_as_it_went():
    said = attestation.audited(some(), finding())
    whole, predicate = parsed(said, Result)
    assert whole.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    assert MessageToDict(whole) == said
    assert predicate.result == "PASSED"
    assert list(predicate.passed_tests) == ["integrity/dataset", "integrity/scenes"]


@pytest.mark.parametrize("said", [attestation.provenance(some()), attestation.audited(some(), finding())])
def test_subjects_are_what_signers_take_a_name_and_digests_by_sha256_alone(said):
    assert all(each["name"] and set(each["digest"]) == {"sha256"} for each in said["subject"])


def test_dependencies_are_what_verifiers_take():
    said = attestation.provenance(some())["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert all(set(each.get("digest", {})) <= {"sha256", "gitCommit"} for each in said)
    assert all("uri" in each or each.get("digest") for each in said)


# -- what they say ---------------------------------------------------------------------------------------------------


def test_subjects_are_the_outputs_with_each_file_of_the_weights_but_no_empty_file_and_nothing_fetched():
    assert [(each["name"], each["digest"]["sha256"]) for each in attestation.subjects(some())] == [
        ("dataset/sft.jsonl", sha("sft")),
        ("model/train_summary.json", sha("summary")),
        ("model/weights/", sha("tree")),
        ("model/weights/config.json", sha("config")),
        ("model/weights/model.safetensors", sha("weights")),
        ("scenes/scenes.jsonl", sha("scenes")),
    ]


def test_without_a_manifest_the_weights_are_one_subject():
    names = [each["name"] for each in attestation.subjects(some(trees={}))]
    assert [name for name in names if name.startswith("model/weights")] == ["model/weights/"]


def test_what_went_in_is_named_with_where_it_comes_from():
    said = attestation.provenance(some(recording=("characters/recordings/eliza.jsonl.zst", sha("zst"))))
    found = {each["name"]: each for each in said["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert sorted(found) == [
        "a/b c",
        "base/weights/",
        "characters/eliza.yaml",
        "characters/questions/eliza.yaml",
        "characters/recordings/eliza.jsonl.zst",
        "charforge",
        "repository of charforge",
        "repository of the spec",
        "scenes/replies",
    ]
    assert found["a/b c"]["uri"] == "pkg:huggingface/a/b%20c@r1"
    assert found["scenes/replies"]["digest"] == {"sha256": sha("root")}
    assert found["scenes/replies"]["annotations"] == {"count": 2, "models": {"openai/gpt": None}}
    assert found["characters/questions/eliza.yaml"]["digest"] == {"sha256": sha("file")}
    assert found["characters/questions/eliza.yaml"]["annotations"]["canonicalJsonSha256"] == sha("data")
    assert found["repository of charforge"]["digest"] == {"gitCommit": "c" * 40}


@pytest.mark.parametrize(
    ("base", "names"),
    [
        (
            {"kind": "embedded", "name": "smollm2-135m-instruct", "weights": sha("w")},
            ["embedded/smollm2-135m-instruct"],
        ),
        ({"kind": "embedded", "name": "unheard-of", "weights": sha("w")}, ["embedded/unheard-of"]),
        ({"kind": "folder", "digest": sha("f")}, ["base model's folder"]),
        ({"kind": "hub", "repo": "a/b", "revision": None}, ["a/b"]),
        (
            {
                "kind": "delta",
                "delta": {"kind": "hub", "repo": "a/d", "revision": None},
                "onto": {"kind": "folder", "digest": sha("f")},
            },
            ["a/d", "base model's folder"],
        ),
        (None, []),
    ],
)
def test_every_kind_of_base_weights_is_a_dependency(base, names):
    made = some(stages={"base": line("base", {"weights/": sha("base")}, params={"base": base})})
    said = attestation.provenance(made)["predicate"]["buildDefinition"]["resolvedDependencies"]
    before = [each["name"] for each in said].index("base/weights/")
    assert [each["name"] for each in said][2:before] == names


def test_a_local_model_that_was_asked_is_a_dependency_and_the_trained_one_is_not():
    asked = {
        "embedded/other": sha("o"),
        "local/base": sha("base"),
        "local/eliza": sha("tree"),
        "openai/gpt": None,
    }
    made = some(stages={"interviews": line("interviews", {"turns.jsonl": sha("t")}, models=asked)})
    names = [each["name"] for each in attestation.dependencies(made)]
    assert "embedded/other" in names
    assert not {"local/base", "local/eliza", "embedded/local/eliza"} & set(names)


def test_cost_and_the_training_are_byproducts():
    first, second = attestation.provenance(some())["predicate"]["runDetails"]["byproducts"]
    assert first["digest"]["sha256"] == some().sha256
    assert first["annotations"]["costUSD"] == 0.25
    assert first["annotations"]["usage"]["openai/gpt"]["prompt_tokens"] == 9
    assert (second["name"], second["annotations"]["summary"]["base_loss"]) == (
        "model/train_summary.json",
        3.5,
    )


def test_dir_hash_is_what_sha256sum_says(tmp_path):
    for path, text in {"b/x": "1", "a": "2", "b.y": "3", "ö": "4"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    command = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    files = [("b/x", sha("1")), ("a", sha("2")), ("b.y", sha("3")), ("ö", sha("4"))]
    assert attestation.dir_hash(files) == done.stdout.strip()


# -- times and sameness ----------------------------------------------------------------------------------------------


def test_the_same_material_gives_the_same_bytes_and_times_are_what_was_given():
    made = some(started=1_790_000_000.9, finished=1_790_000_328.0)
    assert attestation.text(attestation.provenance(made)) == attestation.text(
        attestation.provenance(some(started=made.started, finished=made.finished))
    )
    assert attestation.provenance(made)["predicate"]["runDetails"]["metadata"] == {
        "startedOn": "2026-09-21T14:13:20Z",
        "finishedOn": "2026-09-21T14:18:48Z",
    }
    assert attestation.provenance(some())["predicate"]["runDetails"].get("metadata", {}) == {}


def test_stages_in_another_order_give_the_same_bytes():
    made = some()
    backwards = replace(made, lock=replace(made.lock, stages=dict(reversed(made.lock.stages.items()))))
    assert attestation.text(attestation.provenance(made)) == attestation.text(
        attestation.provenance(backwards)
    )


# -- a finding -------------------------------------------------------------------------------------------------------


def result(**levels):
    return attestation.audited(some(), finding(**levels))["predicate"]


def test_what_could_not_be_checked_has_neither_passed_nor_failed():
    said = result(integrity={"scenes": "bit-identical", "model": "not checkable"})
    assert said["result"] == "WARNED"
    assert said["passedTests"] == ["integrity/scenes"]
    assert "warnedTests" not in said
    assert "failedTests" not in said
    assert said["configuration"][1]["annotations"]["notCheckable"] == ["integrity/model"]


def test_one_divergent_stage_fails_the_whole():
    said = result(
        integrity={"scenes": "bit-identical"}, replay={"scenes": "divergent", "dataset": "bit-identical"}
    )
    assert said["result"] == "FAILED"
    assert said["failedTests"] == ["replay/scenes"]
    assert said["passedTests"] == ["integrity/scenes", "replay/dataset"]


def test_metric_equivalent_passes_with_a_warning():
    said = result(retrain={"model": "metric-equivalent"})
    assert (said["result"], said["warnedTests"]) == ("WARNED", ["retrain/model"])


@pytest.mark.parametrize("levels", [{"integrity": {"model": "not checkable"}}, {"integrity": {}}])
def test_an_audit_that_could_check_nothing_has_not_passed(levels):
    assert result(**levels)["result"] == "FAILED"


def test_a_finding_is_about_the_lock_and_what_it_names():
    said = attestation.audited(some(), finding())
    assert said["subject"][0] == {"name": "characters/eliza.lock", "digest": {"sha256": some().sha256}}
    assert [each["name"] for each in said["subject"][1:]] == [
        each["name"] for each in attestation.subjects(some())
    ]
    assert (
        said["predicate"]["configuration"][1]["digest"]["sha256"]
        == hashlib.sha256(canonical(finding())).hexdigest()
    )


# -- names of a stranger's choosing ----------------------------------------------------------------------------------


def test_hostile_names_stay_names():
    made = some(
        stages={
            HOSTILE: line(
                HOSTILE,
                {HOSTILE: sha("h")},
                models={HOSTILE: sha("m")},
                observations={"count": 1, "root": sha("r")},
            )
        },
        trees={sha("tree"): {f"../{HOSTILE}": {"digest": sha("w"), "size": 1}}},
        label=HOSTILE,
        spec={"name": HOSTILE, HOSTILE: [HOSTILE, None, True, 1.5]},
    )
    said = attestation.provenance(made)
    text = attestation.text(said)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    parsed(said, Provenance)
    assert f"{HOSTILE}/{HOSTILE}" in {each["name"] for each in json.loads(text)["subject"]}
    assert said["predicate"]["buildDefinition"]["externalParameters"]["spec"] == made.spec
    parsed(attestation.audited(made, finding(**{HOSTILE: {HOSTILE: "bit-identical"}})), Result)


def test_as_deep_as_a_lock_may_be():
    made = some()
    environments = {"e": {"charforge": "0.1.0", "deep": json.loads('{"a":' * 28 + "1" + "}" * 28)}}
    parsed(
        attestation.provenance(replace(made, lock=replace(made.lock, environments=environments))), Provenance
    )


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(spec=st.dictionaries(names, values, max_size=4), outputs=st.sets(names, min_size=1, max_size=4))
def test_any_spec_and_any_names_come_back_as_they_went(spec, outputs):
    made = some(spec=spec, stages={"extra": line("extra", {name: sha(name) for name in outputs})})
    said = attestation.provenance(made)
    whole, _ = parsed(said, Provenance)
    assert MessageToDict(whole) == json.loads(attestation.text(said)) == said
    back = said["predicate"]["buildDefinition"]["externalParameters"].get("spec", {})
    assert back == spec
    assert {f"extra/{name}" for name in outputs} <= {each["name"] for each in said["subject"]}


# -- the files -------------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = attestation.write(folder, some(), finding())
    assert [path.name for path in paths] == ["provenance.intoto.json", "bom.cdx.json", "finding.intoto.json"]
    assert sorted(folder.iterdir()) == sorted(paths)
    before = {path: path.read_bytes() for path in paths}
    attestation.write(folder, some(), finding())
    assert {path: path.read_bytes() for path in paths} == before


def test_of_a_lock_that_the_checkout_does_not_derive_there_is_the_finding_alone(tmp_path):
    attestation.write(tmp_path, some())
    assert [path.name for path in attestation.write(tmp_path, some(spec=None), finding())] == [
        "finding.intoto.json"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["finding.intoto.json"]


def test_a_link_in_the_folder_is_replaced_and_what_it_leads_to_left_alone(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "provenance.intoto.json").symlink_to(target)
    attestation.write(folder, some())
    assert target.read_text() == "mine"
    assert not (folder / "provenance.intoto.json").is_symlink()


def test_a_folder_that_cannot_be_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CharForgeError) as caught:
        attestation.write(tmp_path / "file", some())
    assert caught.value.message == f"{tmp_path / 'file'}: cannot be written: File exists"


def test_a_lock_that_names_nothing_is_one_error():
    empty = Material("x.lock", b"{}", lock.Lock("eliza", {}, {}), spec={})
    with pytest.raises(CharForgeError, match="nothing to attest"):
        attestation.provenance(empty)
