"""What of a spec's training is content, and what is transport: the fields that make an artifact stale, and the one that does not."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from charforge import pipeline, skeleton, spec
from charforge.engine.graph import Source
from charforge.engine.receipt import Stamps
from charforge.sections import Lora, Train
from charforge.testing import ScriptedWorkshop

CONTENT = {
    "base_model": "a/b@c",
    "data": "{prompted: ./x.jsonl}",
    "mix": "{data: 'a/b:c.jsonl', ratio: 1}",
    "method": "lora",
    "epochs": "9",
    "learning_rate": "0.5",
    "batch_size": "7",
    "gradient_accumulation": "7",
    "schedule": "inverse_sqrt",
    "warmup_ratio": "0.5",
    "weight_decay": "0.5",
    "betas": "[0.5, 0.5]",
    "max_grad_norm": "0.5",
    "context_length": "64",
    "precision": "fp32",
    "tf32": "false",
    "gradient_checkpointing": "true",
    "packing": "false",
    "loss": "completion",
    "max_samples": "5",
    "held_out": "0.5",
    "keep": "last",
    "seed": "5",
}
"""Another value for each field that an output can depend on."""
LORA = {"rank": "4", "alpha": "4", "dropout": "0.5", "target_modules": "[q_proj]", "merge": "true"}
TRANSPORT = {"keep_checkpoints": "9"}
"""Another value for each field that no output depends on."""


@pytest.fixture
def eliza(tmp_path):
    path = skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]
    (path.parent / "x.jsonl").write_text('{"prompt": "a", "output": "b<|eot|>"}\n')
    return path


def seen(path, *overrides):
    """Return all that the stages of a character are told, but for the report, which prints the whole spec."""
    workspace = path.parents[1]
    found = spec.load(path, workspace, overrides=overrides)
    made = pipeline.character(found, workspace, ScriptedWorkshop(), Stamps())
    return json.dumps(
        {
            stage.name: [
                stage.version,
                stage.params,
                {
                    key: given.digest if isinstance(given, Source) else [given.stage, given.name]
                    for key, given in stage.inputs.items()
                },
            ]
            for stage in made.stages
            if stage.name != "eliza/report"
        },
        sort_keys=True,
        default=str,
    )


def test_every_field_of_training_is_in_one_of_the_lists():
    assert {field.name for field in fields(Train)} == set(CONTENT) | set(TRANSPORT) | {"lora"}
    assert {field.name for field in fields(Lora)} == set(LORA)


@pytest.mark.parametrize(("field", "value"), CONTENT.items(), ids=CONTENT)
def test_a_field_that_outputs_depend_on_makes_something_stale(eliza, field, value):
    assert seen(eliza, f"train.{field}={value}") != seen(eliza)


@pytest.mark.parametrize(("field", "value"), LORA.items(), ids=LORA)
def test_the_adapters_form_matters_to_adapters_only(eliza, field, value):
    changed = f"train.lora.{field}={value}"
    assert seen(eliza, "train.method=lora", changed) != seen(eliza, "train.method=lora")
    assert seen(eliza, changed) == seen(eliza)


@pytest.mark.parametrize(("field", "value"), TRANSPORT.items(), ids=TRANSPORT)
def test_a_field_that_no_output_depends_on_makes_nothing_stale(eliza, field, value):
    assert seen(eliza, f"train.{field}={value}") == seen(eliza)


def test_where_a_data_file_lies_makes_nothing_stale(eliza):
    before = seen(eliza, "train.data={prompted: ./x.jsonl}")
    (eliza.parent / "x.jsonl").rename(eliza.parents[1] / "y.jsonl")
    assert seen(eliza, "train.data={prompted: ../y.jsonl}") == before
