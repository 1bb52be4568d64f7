"""Retraining: the same bits, or the same quality within epsilon, or another; and what it takes is said before."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from charforge import skeleton
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, METRIC_EQUIVALENT, NOT_CHECKABLE
from charforge.audit.pieces import Pieces
from charforge.audit.retrain import Job, retrain
from charforge.cli import main
from charforge.commands.loading import load
from charforge.engine import lock
from charforge.engine.digest import canonical
from charforge.engine.reader import Reader
from charforge.errors import CharForgeError
from charforge.llm.errors import NotRecorded
from charforge.testing import ScriptedWorkshop
from charforge.workshop import LocalWorkshop, environment
from charforge.workspace import target

OTHER = "0" * 64


class OtherMachine(ScriptedWorkshop):
    """Trains to other bits, and a held-out loss that is `off` by so much."""

    def __init__(self, off):
        super().__init__()
        self._off = off

    async def train(self, job, on_progress):
        facts = await super().train(job, on_progress)
        out = Path(job["out"])
        (out / "model.safetensors").write_bytes(b"other bits")
        summary = json.loads((out.parent / "train_summary.json").read_bytes())
        for epoch in summary["epochs"]:
            epoch["held_out_loss"] += self._off
        (out.parent / "train_summary.json").write_bytes(canonical(summary))
        return facts


@pytest.fixture
def again(eliza):
    """Train again; return the result, the level, what was told, and the workshop."""

    def train(workshop=None, *, store=True, recorded=False, epsilon=0.02):
        workshop = workshop or ScriptedWorkshop()
        _, graph = load([eliza.target], workshop)
        told = []
        with eliza.pieces(store=store, recorded=recorded) as pieces:
            level = retrain(Job(eliza.lock, graph, workshop, pieces, environment(), epsilon), told.append)
        (result,) = level.results
        return result, level, told, workshop

    return train


def test_the_same_training_gives_the_same_bits(again, eliza):
    result, level, told, workshop = again()
    assert (result.verdict, result.checked, result.differences) == (BIT_IDENTICAL, 4, [])
    assert level.facts == {"epsilon": 0.02}
    assert workshop.jobs == ["model"]  # base weights and samples are the store's
    assert workshop.requests == []
    assert told[0].startswith("retrain: when it was recorded it took ")
    assert "of disk in" in told[1]
    assert told[2] == "retrain: this machine is of the same kind, so the same bits are expected"


def test_other_bits_of_the_same_quality_are_equivalent(again):
    result, level, _, _ = again(OtherMachine(0.0125))
    assert result.verdict == METRIC_EQUIVALENT
    assert level.facts["held_out_loss"] == pytest.approx({"lock": 1.8, "here": 1.8125}, abs=0.11)
    assert [each.what for each in result.differences] == [
        "held-out loss",
        "output train_summary.json",
        "output weights/",
    ]
    assert result.differences[2].said.endswith(" (model.safetensors)")


def test_epsilon_decides(again):
    assert again(OtherMachine(0.0125), epsilon=0.01)[0].verdict == DIVERGENT
    assert again(OtherMachine(-0.5))[0].verdict == DIVERGENT


def test_a_loss_that_is_no_number_is_equivalent_to_nothing(again):
    class Diverging(OtherMachine):
        async def train(self, job, on_progress):
            facts = await super().train(job, on_progress)
            path = Path(job["out"]).parent / "train_summary.json"
            path.write_text('{"chosen_epoch":1,"epochs":[{"epoch":1,"held_out_loss":NaN}]}')
            return facts

    result, *_ = again(Diverging(0))
    assert result.verdict == DIVERGENT
    assert result.differences[0].said.endswith("in the lock, none here, epsilon 0.02")


def test_from_a_recording_alone_everything_before_is_made_again(again, eliza):
    shutil.rmtree(eliza.store)
    (eliza.store).mkdir()
    result, _, _, workshop = again(store=False, recorded=True)
    assert result.verdict == BIT_IDENTICAL
    assert workshop.jobs == ["base", "model"]
    assert workshop.requests == []


def test_without_replies_there_is_nothing_to_train_on(again):
    class Silent(ScriptedWorkshop):
        async def complete(self, request, weights):
            raise NotRecorded(request, "no reply to this request is recorded")

    result, *_ = again(Silent(), store=False)
    assert result.verdict == NOT_CHECKABLE
    assert result.why.startswith("eliza/dataset/sft.jsonl is not here, and cannot be made again: ")


def test_a_lock_that_names_another_training_set_is_not_trained_for(again, eliza):
    eliza.lie("model", inputs=lambda was: {**was, "sft": OTHER})
    result, _, _, workshop = again()
    assert result.verdict == NOT_CHECKABLE
    assert "in another way than the lock says" in result.why
    assert workshop.jobs == []


def test_another_machine_is_said_to_be_another(again, eliza):
    text = eliza.target.lock.read_text(encoding="utf-8")
    said = json.loads(text)
    for each in said["environments"].values():
        each["processor"], each["torch"] = "Abacus 3000", "0.1"
    eliza.target.lock.write_text(json.dumps(said), encoding="utf-8")
    told = again()[2]
    assert "processor Abacus 3000 →" in told[2]
    assert "torch 0.1 →" in told[2]
    assert told[2].endswith("Other bits are possible, and what counts is the held-out loss")


def test_damaged_base_weights_are_not_trained_on(again, eliza):
    path = eliza.object("base", "weights/", "model.safetensors")
    path.chmod(0o644)
    path.write_bytes(b"poison")
    result, _, _, workshop = again()
    assert result.verdict == BIT_IDENTICAL
    assert workshop.jobs == ["base", "model"]  # made again, since the stored ones are others
    assert path.read_bytes() == b"poison"


def test_a_failing_training_proves_nothing(again):
    class Broken(ScriptedWorkshop):
        async def train(self, job, on_progress):
            raise CharForgeError("no memory left")

    result, *_ = again(Broken())
    assert (result.verdict, result.why) == (NOT_CHECKABLE, "the training failed here: no memory left")


def test_a_character_that_trains_nothing_has_nothing_to_retrain(eliza):
    said = eliza.lock
    said = replace(said, stages={kind: line for kind, line in said.stages.items() if kind != "model"})
    graph, _ = eliza.derived()
    job = Job(said, graph, ScriptedWorkshop(), Pieces(), environment())
    (result,) = retrain(job, print).results
    assert (result.verdict, result.why) == (NOT_CHECKABLE, "the lock tells of no training")


class Trains(ScriptedWorkshop):
    """Does all by the script, but really trains."""

    async def export_base(self, job, on_progress):
        shutil.copytree(job["base"]["path"], job["out"])
        return {}

    async def train(self, job, on_progress):
        return await LocalWorkshop(offline=True).train(job, on_progress)


@pytest.mark.slow
def test_a_real_training_gives_the_same_bits_again(tmp_path, monkeypatch):
    """A model of two layers, trained twice in processes of their own."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    made = importlib.util.spec_from_file_location("tiny_models", path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    spec = skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]
    text = re.sub(
        r"(?m)^preset: laptop.*$",
        "preset: smoke\ngenerator: {model: openai/scripted}\ntrain: {base_model: ./tiny}",
        spec.read_text(encoding="utf-8"),
    )
    spec.write_text(text, encoding="utf-8")
    module.build(tmp_path / "characters" / "tiny")
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: Trains())
    assert main(["build", str(spec)]) == 0
    workshop, found = Trains(), target(str(spec))
    _, graph = load([found], workshop)
    told = []
    with Reader(tmp_path / ".charforge") as reader:
        job = Job(lock.read(found.lock), graph, workshop, Pieces(reader), environment())
        (result,) = retrain(job, told.append).results
    assert (result.verdict, result.differences, result.why) == (BIT_IDENTICAL, [], None)
    assert any("100 %" in each for each in told)
