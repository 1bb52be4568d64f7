"""`charforge attest`: written from a lock and a checkout, the same anywhere, and held against what is here."""

from __future__ import annotations

import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from charforge import attestation, attested, signing, skeleton
from charforge.audit.finding import Finding, Level, Result
from charforge.cli import main
from charforge.commands.attest import material
from charforge.engine.digest import of_bytes
from charforge.testing import ScriptedWorkshop
from charforge.workspace import target


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace with a built character and its recording. Not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    spec = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
    text = re.sub(
        r"(?m)^preset: laptop.*$",
        "preset: laptop\ngenerator: {model: openai/scripted}",
        spec.read_text(encoding="utf-8"),
    )
    spec.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
        assert main(["build", str(spec)]) == 0
    assert main(["record", "export", str(spec)]) == 0
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A copy to work in, which is the working folder."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def written(folder):
    return {path.name: path.read_bytes() for path in (folder / "audit" / "eliza").iterdir()}


def test_both_files_are_written_and_sound(run, here):
    folder = here / "audit" / "eliza"
    expected = f"{folder}/provenance.intoto.json\n{folder}/bom.cdx.json\n"
    assert run("attest", "eliza") == (0, expected, "")
    bill = (folder / "bom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    said = attested.read(folder / "provenance.intoto.json")
    names = dict(said.subjects)
    assert {"model/weights/", "report/report.html", "dataset/sft.jsonl"} <= set(names)
    assert names["dataset/sft.jsonl"] == of_bytes((here / "build" / "eliza" / "sft.jsonl").read_bytes())
    others = dict(said.others)
    for path in (
        "characters/eliza.yaml",
        "characters/profiles/eliza.md",
        "characters/questions/eliza.yaml",
        "characters/recordings/eliza.jsonl.zst",
        "characters/eliza.lock",
    ):
        assert others[path] == of_bytes((here / path).read_bytes())
    assert {"prompts/meta.j2", "scenes/replies", "charforge", "model/train_summary.json"} <= set(others)


def test_the_resolved_spec_is_the_external_parameters(run, here):
    run("attest", "eliza")
    spec = json.loads(written(here)["provenance.intoto.json"])["predicate"]["buildDefinition"][
        "externalParameters"
    ]
    assert (spec["path"], spec["spec"]["name"]) == ("characters/eliza.yaml", "Eliza Doolittle")
    assert spec["spec"]["generator"]["model"] == "openai/scripted"


def test_elsewhere_the_same_bytes_come_out(run, here, tmp_path, monkeypatch):
    run("attest", "eliza")
    first = written(here)
    assert not any(str(here).encode() in data for data in first.values())
    shutil.rmtree(here / "audit")
    shutil.copytree(here, tmp_path / "other" / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "other" / "place")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert run("attest", "eliza")[0] == 0
    assert written(tmp_path / "other" / "place") == first


def test_from_a_fresh_clone_with_a_recording_only_the_times_are_missing(run, here):
    run("attest", "eliza")
    first = written(here)
    shutil.rmtree(here / ".charforge")
    shutil.rmtree(here / "build")
    assert run("attest", "eliza")[0] == 0
    without = json.loads(first["provenance.intoto.json"])
    assert sorted(without["predicate"]["runDetails"].pop("metadata")) == ["finishedOn", "startedOn"]
    base = next(
        each
        for each in without["predicate"]["buildDefinition"]["resolvedDependencies"]
        if each["name"] == "base/weights/"
    )
    del base["annotations"]  # its manifest is in the store alone
    again = json.loads(written(here)["provenance.intoto.json"])
    again["predicate"]["runDetails"].pop("metadata", None)
    assert again == without


def test_with_nothing_but_the_committed_files_the_weights_are_one_subject(run, here):
    shutil.rmtree(here / ".charforge")
    (here / "characters" / "recordings" / "eliza.jsonl.zst").unlink()
    assert run("attest", "eliza")[0] == 0
    said = attested.read(here / "audit" / "eliza" / "provenance.intoto.json")
    assert [name for name, _ in said.subjects if name.startswith("model/weights")] == ["model/weights/"]


def test_a_lock_that_the_checkout_does_not_derive_is_not_attested(run, here, edit):
    edit(here / "characters" / "eliza.yaml", "model: openai/scripted", "model: openai/other")
    status, out, err = run("attest", "eliza")
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "error: characters/eliza.lock is not what this checkout derives, so nobody can say here what it was made from",
        "hint: charforge lock --check characters/eliza.yaml says where",
    ]
    assert not (here / "audit").exists()


def test_nor_one_that_contradicts_itself(run, here):
    path = here / "characters" / "eliza.lock"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["stages"]["scenes"]["counts"] = {"others.jsonl": 1}
    path.write_text(json.dumps(data), encoding="utf-8")
    assert run("attest", "eliza")[0] == 1


def test_without_a_lock_there_is_one_error(run, here):
    (here / "characters" / "eliza.lock").unlink()
    assert run("attest", "eliza") == (
        1,
        "",
        "error: characters/eliza.lock: no such file\nhint: a finished build writes it\n",
    )


def test_an_audit_leaves_its_finding_beside_them(here):
    finding = Finding(
        "eliza",
        of_bytes((here / "characters" / "eliza.lock").read_bytes()),
        [Level("derivation", [Result("scenes", "bit-identical", 1)])],
        {},
    )
    paths = attestation.write(here / "out", material(target("eliza"), None), finding.as_json())
    assert [path.name for path in paths] == ["provenance.intoto.json", "bom.cdx.json", "finding.intoto.json"]
    said = attested.read(paths[-1])
    assert said.data["predicate"]["passedTests"] == ["derivation/scenes"]


@pytest.mark.parametrize(
    "summary",
    [
        '{"base_loss": NaN}',
        '{"seed": 1e999}',
        '{"seed": 99999999999999999999999}',
        '{"name": "\\ud800"}',
        "[]",
        "no JSON",
        '{"a":' * 60 + "1" + "}" * 60,
    ],
)
def test_a_summary_that_is_a_strangers_is_left_out_and_nothing_breaks(here, summary):
    data = summary.encode()
    pieces = SimpleNamespace(tree=lambda _digest: None, blob=lambda _digest: data, trace=lambda *_: None)
    made = material(target("eliza"), pieces)
    assert (made.summary, made.profile) == (None, None)
    attestation.write(here / "out", made)


@pytest.mark.parametrize(
    ("begin", "took"), [(1e300, 1), (-5, 1), (1, -5), (float("nan"), 1), ("soon", 1), (1, 1e12)]
)
def test_times_that_cannot_be_are_left_out(here, begin, took):
    trace = SimpleNamespace(record={"started": begin, "seconds": took})
    pieces = SimpleNamespace(tree=lambda _digest: None, blob=lambda _digest: None, trace=lambda *_: trace)
    made = material(target("eliza"), pieces)
    assert (made.started, made.finished) == (None, None)


def test_a_lock_without_end_is_not_read_to_it(run, here):
    with (here / "characters" / "eliza.lock").open("wb") as file:
        file.truncate((2 << 20) + 1)
    assert (
        run("attest", "eliza")[2]
        == "error: characters/eliza.lock: not a lock file (more than 2,097,152 bytes)\n"
    )


def test_json_names_what_was_written_by_digest(run, here):
    status, out, _err = run("attest", "eliza", "--json", "--out", "there")
    assert status == 0
    assert json.loads(out) == {
        f"there/{name}": of_bytes((here / "there" / name).read_bytes())
        for name in ("provenance.intoto.json", "bom.cdx.json")
    }


# -- checking --------------------------------------------------------------------------------------------------------


@pytest.fixture
def attested_here(run, here):
    run("attest", "eliza")
    return "audit/eliza/provenance.intoto.json"


def test_check_says_what_each_file_is(run, here, attested_here):
    status, out, err = run(
        "attest",
        "--check",
        attested_here,
        "build/eliza/sft.jsonl",
        "characters/eliza.lock",
        "characters/eliza.yaml",
    )
    assert (status, err) == (0, "")
    assert out.splitlines()[1:] == [
        "build/eliza/sft.jsonl is dataset/sft.jsonl",
        "characters/eliza.yaml is characters/eliza.yaml",
    ]
    assert re.fullmatch(
        rf"{attested_here}: https://slsa.dev/provenance/v1, \d+ subjects; not signed", out.splitlines()[0]
    )


def test_check_holds_a_whole_folder(run, here, attested_here):
    assert run("attest", "--check", attested_here, "build/eliza")[0] == 0
    (here / "build" / "eliza" / "report.html").unlink()
    (here / "build" / "eliza" / "report.html").write_text("<p>other", encoding="utf-8")
    status, out, _err = run("attest", "--check", attested_here, "build/eliza")
    assert status == 1
    assert "build/eliza/report.html differs from report/report.html" in out.splitlines()


def test_check_fails_for_a_file_that_nothing_names(run, here, attested_here):
    (here / "else\x1b[2J.txt").write_text("?", encoding="utf-8")
    status, out, _err = run("attest", "--check", attested_here, "else\x1b[2J.txt")
    assert (status, out.splitlines()[1:]) == (1, [r"else\x1b[2J.txt is nothing named"])


def test_check_fails_for_a_lock_that_says_otherwise(run, here, attested_here):
    path = here / "characters" / "eliza.lock"
    data = json.loads(path.read_text(encoding="utf-8"))
    was = data["stages"]["dataset"]["outputs"]["sft.jsonl"]
    data["stages"]["dataset"]["outputs"]["sft.jsonl"] = "0" * 64
    path.write_text(json.dumps(data), encoding="utf-8")
    status, out, _err = run("attest", "--check", attested_here, "characters/eliza.lock")
    assert status == 1
    assert out.splitlines()[-1] == (
        f"characters/eliza.lock: dataset/sft.jsonl is 000000000000… here, {was[:12]}… in the statement"
    )


def test_check_as_json(run, here, attested_here):
    status, out, _err = run("attest", "--check", attested_here, "build/eliza/sft.jsonl", "--json")
    assert status == 0
    said = json.loads(out)
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert said["files"] == [{"path": "build/eliza/sft.jsonl", "verdict": "is", "name": "dataset/sft.jsonl"}]
    assert (said["signed"], said["lock"]) == (False, [])


def test_a_bill_of_materials_is_no_statement(run, here, attested_here):
    status, _out, err = run("attest", "--check", "audit/eliza/bom.cdx.json")
    assert status == 1
    assert err.startswith("error: audit/eliza/bom.cdx.json: not an attestation (")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eliza", "build/eliza"), "attest: one argument too many: 'build/eliza'"),
        (("--check", "x.json", "--sign"), "attest: --check writes nothing"),
        (("--check", "x.json", "--out", "there"), "attest: --check writes nothing"),
        (("x.json",), "attest: x.json is no spec"),
    ],
)
def test_what_makes_no_sense_is_said(run, here, words, said):
    status, _out, err = run("attest", *words)
    assert (status, err.splitlines()[0]) == (2, f"error: {said}")


# -- signing: tests/test_signing.py has the rest ---------------------------------------------------------------------


def test_sign_signs_statements_and_no_bill(run, here, monkeypatch):
    asked = []
    monkeypatch.setattr(signing, "package", lambda: asked.append("package"))
    monkeypatch.setattr(signing, "sign", lambda files: [asked.append(path.name) or path for path in files])
    assert run("attest", "eliza", "--sign")[0] == 0
    assert asked == ["package", "provenance.intoto.json"]
    assert run("attest", "--sign", "audit/eliza/provenance.intoto.json")[0] == 0
    assert asked[2:] == ["package", "provenance.intoto.json"]
    assert run("attest", "--sign", "audit/eliza/bom.cdx.json")[0] == 1


def test_without_the_package_nothing_is_written(run, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "sigstore", None)
    monkeypatch.setitem(sys.modules, "sigstore.oidc", None)
    status, _out, err = run("attest", "eliza", "--sign")
    assert status == 1
    assert err.startswith("error: signing needs the package sigstore (")
    assert err.endswith("hint: pip install 'charforge[sign]', then sign again\n")
    assert not (here / "audit").exists()


def test_nothing_is_imported_for_signing_unless_asked_for(run, here, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sigstore")]:
        monkeypatch.delitem(sys.modules, name)
    assert run("attest", "eliza")[0] == 0
    assert not [name for name in sys.modules if name.startswith("sigstore")]
