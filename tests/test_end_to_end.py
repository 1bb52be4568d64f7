"""One real build: the shipped Beethoven at smoke size, with the embedded model, as a newcomer runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def charforge(workspace, *arguments):
    """Run the real command with no network, no key, and nothing of the user's around it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(workspace / "home"),
        # Whatever tries to leave the machine fails at once.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "charforge", *arguments]
    return subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT / "characters", workspace / "characters", ignore=shutil.ignore_patterns("*.lock"))
    done = charforge(
        workspace, "build", "characters/beethoven.yaml", "--preset", "smoke", "--offline", "-j", "64"
    )
    assert done.returncode == 0, done.stderr
    return workspace, done


@pytest.mark.slow
def test_it_ends_with_where_the_report_is(built):
    workspace, done = built
    built_in, report, *used = done.stdout.splitlines()
    assert built_in.startswith("beethoven: built, 13 of 13 stages ran in ")
    assert report == "  build/beethoven/report.html"
    assert all(line.endswith("$0.00") for line in used)  # everything ran here
    assert used[-1].split()[0] == "all"
    assert (
        (workspace / "build/beethoven/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    )


@pytest.mark.slow
def test_the_weights_load_and_know_the_end_of_a_turn(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = built[0] / "build/beethoven/model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("<|eot|>").input_ids) == 1
    assert model.get_output_embeddings().weight.shape[0] >= len(tokenizer)


@pytest.mark.slow
def test_training_lowered_the_held_out_loss_of_the_characters_turns(built):
    summary = json.loads((built[0] / "build/beethoven/train_summary.json").read_bytes())
    chosen = next(epoch for epoch in summary["epochs"] if epoch["epoch"] == summary["chosen_epoch"])
    assert chosen["held_out_loss"] < summary["base_loss"]


@pytest.mark.slow
def test_the_tokens_under_the_loss_are_the_characters_own(built):
    shown = charforge(built[0], "show", "beethoven", "dataset", "--mask", "--preset", "smoke")
    assert shown.returncode == 0, shown.stderr
    head, figures, text = shown.stdout.split("\n", 2)
    assert head.startswith("── ")
    assert "(train.loss: character)" in figures
    turns = [line for line in text.splitlines() if line.endswith(("<|eot|>", "<|eot|>⟧"))]
    assert turns
    for line in turns:
        name, _, rest = line.partition(" (")
        assert rest.startswith("⟦") == rest.endswith("⟧") == (name == "Beethoven")
        assert rest.count("⟦") <= 1
    asked = charforge(built[0], "show", "beethoven", "scenes", "--mask", "--preset", "smoke")
    assert asked.returncode == 2
    assert "--mask is for samples" in asked.stderr


@pytest.mark.slow
def test_every_artifact_is_there_and_every_answer_too(built):
    view = built[0] / "build/beethoven"
    answers = [
        json.loads(line) for line in (view / "interviews/single.jsonl").read_text("utf-8").splitlines()
    ]
    assert sorted({answer["contestant"] for answer in answers}) == ["base", "trained"]
    assert len(answers) == 8
    for name in (
        "profile.json",
        "scenes.jsonl",
        "dialogues.jsonl",
        "protective.jsonl",
        "sft.jsonl",
        "scores.jsonl",
    ):
        assert (view / name).is_file()
    for stage in ("scenes", "dialogues", "protective"):
        account = json.loads((view / f"yield/{stage}.json").read_bytes())
        assert account["accepted"] <= account["asked"]


@pytest.mark.slow
def test_a_second_build_does_nothing(built):
    workspace, _ = built
    again = charforge(
        workspace, "build", "characters/beethoven.yaml", "--preset", "smoke", "--offline", "-j", "64"
    )
    assert again.returncode == 0
    assert again.stdout == "beethoven: up to date, 13 stages\n  build/beethoven/report.html\n"
    assert again.stderr == ""


@pytest.mark.slow
def test_a_deleted_view_comes_back_without_running_anything(built):
    workspace, _ = built
    shutil.rmtree(workspace / "build")
    again = charforge(workspace, "build", "characters/beethoven.yaml", "--preset", "smoke", "--offline")
    assert again.stdout.splitlines()[0] == "beethoven: up to date, 13 stages"
    assert (workspace / "build/beethoven/model/model.safetensors").is_file()
