"""A sample as the trainer sees it, token by token."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from charforge.errors import CharForgeError
from charforge.models.mask import mask
from charforge.models.process import run_job
from tests.models.test_samples import TURNS, record


@pytest.fixture
def job(tiny: Path, tmp_path: Path) -> dict:
    sft = tmp_path / "sft.jsonl"
    sft.write_text("".join(json.dumps(record(TURNS, f"d/{n}")) + "\n" for n in range(3)))
    return {
        "base": str(tiny),
        "sft": str(sft),
        "character": "Beethoven",
        "loss": "character_speech",
        "context_length": 400,
        "sample": None,
    }


def shown(job: dict) -> dict:
    return mask(job, lambda _: None)


def test_every_token_is_shown_and_the_trained_ones_are_marked(job):
    result = shown(job)
    assert "".join(token["text"] for token in result["tokens"]) == record()["prompt"] + record()["output"]
    trained = "".join(token["text"] for token in result["tokens"] if token["trained"])
    assert trained == " I do not play for officers. Größe 音楽 🎹!<|eot|> Good.<|eot|>"
    assert result["sample"]["tokens"] == len(result["tokens"])
    assert result["sample"]["trained_tokens"] == sum(token["trained"] for token in result["tokens"])


@pytest.mark.parametrize("wanted", [2, "2", "d/2", "d/2/1"])
def test_a_sample_is_found_by_number_or_id(job, wanted):
    assert shown(job | {"sample": wanted})["sample"]["source"]["id"] == "d/2"


def test_an_unknown_sample_is_named(job):
    with pytest.raises(CharForgeError) as caught:
        shown(job | {"sample": "d/9"})
    assert caught.value.message == "the dataset has no sample 'd/9'"
    assert caught.value.hint == "give a number below 3, or an id such as 'd/0'"


def test_a_split_sample_is_shown_in_its_parts(job):
    result = shown(job | {"context_length": 100})
    assert result["sample"]["pieces"] > 1
    text = "".join(token["text"] for token in result["tokens"])
    assert text.count("I want you to act like Beethoven.") == result["sample"]["pieces"]


def test_it_runs_as_a_job_of_its_own(job):
    result = asyncio.run(run_job("charforge.models.mask", job, lambda _: None))
    assert result == shown(job)
