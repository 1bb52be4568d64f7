"""Whatever a model is exported as, it answers the same: adapter, merged weights, GGUF; and the cards' code runs as it stands.

Logits are compared in float32. What parts the adapter from the merged weights is that merging rounds each weight once to
bfloat16 (a relative 2⁻⁹); merged weights and the f16 file are the same numbers.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil

import pytest
import torch

from charforge import exports
from charforge.errors import CharForgeError
from charforge.models import gguf_file
from charforge.models.adapter import load_adapter, save_adapter, wrap
from charforge.models.export import save_folder
from charforge.models.exporting import export
from charforge.models.load import load_folder
from charforge.models.perplexity import perplexities
from charforge.models.process import run_job
from charforge.models.vocabulary import add_end_of_turn

PROMPT = "Location: Vienna, autumn 1806\n\nMan (speaking): Will you play for us tonight?<|eot|>\nBeethoven ("
BASE = {"name": "./base", "hub": None, "revision": None, "licence": None, "note": None, "job": None}


def silent(_progress):
    """Hear nothing."""


@pytest.fixture(scope="module")
def full(tiny, tmp_path_factory):
    """The tiny model with the end of turn in its vocabulary, as training in full leaves it."""
    model, tokenizer = load_folder(tiny, torch.float32)
    add_end_of_turn(model, tokenizer)
    folder = tmp_path_factory.mktemp("full")
    save_folder(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """An adapter of the tiny model whose matrices are far from zero, so that it matters."""
    model, tokenizer = load_folder(tiny, torch.bfloat16)
    add_end_of_turn(model, tokenizer)
    torch.manual_seed(1)
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
    wrapped = wrap(model, tokenizer, lora)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(wrapped, tokenizer, folder, "./base")
    return folder


def job(kind, model, base, out, **more):
    return {"kind": kind, "model": str(model), "base": str(base), "out": str(out), "name": "Tiny", **more}


def gguf_job(model, base, out, *types, measure=None):
    return job(
        "gguf",
        model,
        base,
        out,
        id="tiny",
        types=list(types),
        chat_template="{{ messages }}",
        measure=measure,
    )


def logits(model, tokenizer):
    with torch.inference_mode():
        ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
        return model(input_ids=ids).logits[0, :, : len(tokenizer)].float()


def from_gguf(file, folder):
    """Return the model of a folder with the weights that a GGUF file of it holds."""
    model, tokenizer = load_folder(folder, torch.float32)
    parameters = dict(model.named_parameters())
    read = dict(gguf_file.read(file, folder))
    assert read.keys() == parameters.keys()
    with torch.no_grad():
        for name, weight in read.items():
            parameters[name][: weight.shape[0]] = torch.from_numpy(weight)
    return logits(model, tokenizer)


def test_adapter_merged_and_gguf_answer_the_same(tiny, adapter, tmp_path):
    assert export(job("merged", adapter, tiny, tmp_path / "merged"), silent) == {"merged": True, "files": {}}
    made = export(gguf_job(adapter, tiny, tmp_path / "gguf", "f16"), silent)
    assert made["merged"]
    assert made["files"]["tiny-f16.gguf"]["rounded"] <= 2.0**-25
    apart = logits(*load_adapter(tiny, adapter, torch.float32))
    merged = logits(*load_folder(tmp_path / "merged", torch.float32))
    file = from_gguf(tmp_path / "gguf" / "tiny-f16.gguf", tmp_path / "merged")
    base = logits(*load_folder(tiny, torch.float32))
    width = base.shape[-1]
    assert (apart[-1, :width] - base[-1, :width]).abs().max() > 0.5  # the adapter matters
    torch.testing.assert_close(merged, apart, rtol=0, atol=0.1)  # seen: 0.053, of logits between -6 and 6
    torch.testing.assert_close(file, merged, rtol=0, atol=1e-4)
    assert merged[-1].argmax() == apart[-1].argmax() == file[-1].argmax()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gguf", "merged"]  # no scratch is left


def test_the_same_adapter_gives_the_same_bytes(tiny, adapter, tmp_path):
    for name in ("one", "two"):
        export(gguf_job(adapter, tiny, tmp_path / name, "q4_0"), silent)
        export(job("merged", adapter, tiny, tmp_path / name / "merged"), silent)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_perplexity_is_e_to_the_loss_and_f16_has_the_same(full, tmp_path):
    made = export(gguf_job(full, full, tmp_path, "f16", "q8_0", "q4_0"), silent)
    records = [
        {
            "prompt": "Location: Vienna\n\n",
            "output": "Man (speaking): Will you play?<|eot|>\nBeethoven (speaking): I do not play.<|eot|>\n",
            "kind": "dialogue",
            "source": {"id": "a", "part": 1},
        }
    ]
    settings = {"character": "Beethoven", "loss": "completion", "context": 512}
    found = perplexities(full, [tmp_path / name for name in made["files"]], records, settings)
    model, tokenizer = load_folder(full, torch.float32)
    prompt = len(tokenizer(records[0]["prompt"])["input_ids"])
    ids = torch.tensor(tokenizer(records[0]["prompt"] + records[0]["output"])["input_ids"])
    with torch.inference_mode():
        scores = model(ids[None]).logits[0, prompt - 1 : -1]
    loss = torch.nn.functional.cross_entropy(scores, ids[prompt:])
    assert found[0] == pytest.approx(math.exp(loss), rel=1e-4)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert abs(found[2] / found[0] - 1) < 0.05
    assert found[3] != found[0]
    with pytest.raises(CharForgeError, match="none of the held-out dialogues has a turn of 'Nobody'"):
        perplexities(full, [], records, {**settings, "loss": "character", "character": "Nobody"})


def facts(kind, **more):
    return {
        "charforge": "1.2.3",
        "kind": kind,
        "id": "tiny",
        "preset": None,
        "overrides": [],
        "method": "lora" if kind == "lora" else "full",
        "character": {
            "name": "Beethoven",
            "short_name": "Beethoven",
            "knows_until": "1827",
            "never": [],
            "portrays": None,
            "notice": None,
        },
        "profile": {"licence": "CC0-1.0", "source": "A test.", "paragraphs": 1},
        "base": {**BASE, "exact": False},
        "generator": "none",
        "judge": "none",
        "data": {},
        "train": {"loss": "character", "context_length": 512},
        "summary": {},
        "stages": {},
        "sampling": {"temperature": 0.7, "top_p": 0.95, "repetition_penalty": None, "max_tokens": 4},
        "meta": "I want you to act like Beethoven.",
        "files": {},
        **more,
    }


def run_card(folder, made, capsys, monkeypatch):
    """Run the Python of a folder's card as it stands, in that folder; return what it printed."""
    for name, text in exports.texts(made, list(made["files"])).items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"(?s)```python\n(.*?)\n```", (folder / "README.md").read_text())
    capsys.readouterr()
    names = {}
    exec(code, names)
    return capsys.readouterr().out, names


def test_the_cards_code_runs_for_a_model_folder(full, tmp_path, capsys, monkeypatch):
    shutil.copytree(full, tmp_path / "out")
    printed, names = run_card(tmp_path / "out", facts("hf"), capsys, monkeypatch)
    assert printed.endswith("\n")
    assert names["prompt"] == exports.prompt(facts("hf"))
    assert names["reply"].shape[1] <= names["ids"]["input_ids"].shape[1] + 4


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft 0.21 asks
def test_the_cards_code_runs_for_an_adapter(tiny, adapter, tmp_path, capsys, monkeypatch):
    shutil.copytree(adapter, tmp_path / "out")
    shutil.copytree(tiny, tmp_path / "out" / "base")
    _, names = run_card(tmp_path / "out", facts("lora"), capsys, monkeypatch)
    ours = logits(*load_adapter(tiny, adapter, torch.float32))
    theirs = logits(names["model"].float(), names["tokenizer"])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)


def test_the_cards_code_runs_for_a_gguf_file(full, tmp_path, capsys, monkeypatch):
    made = facts("gguf")
    template = exports.chat_template(made)
    files = export({**gguf_job(full, full, tmp_path, "f16"), "chat_template": template}, silent)["files"]
    _, names = run_card(tmp_path, {**made, "files": files}, capsys, monkeypatch)
    # The file's own template wrote the very text that training knows.
    asked = exports.prompt(made) + "speaking):"
    _, tokenizer = load_folder(full, torch.float32)
    assert names["answer"]["usage"]["prompt_tokens"] == len(tokenizer(asked)["input_ids"])


def test_the_cards_code_runs_for_a_weight_difference(tiny, full, tmp_path, capsys, monkeypatch):
    export(job("delta", full, tiny, tmp_path / "out"), silent)
    shutil.copytree(tiny, tmp_path / "out" / "base")
    _, names = run_card(tmp_path / "out", facts("delta"), capsys, monkeypatch)
    ours = logits(*load_folder(full, torch.float32))
    theirs = logits(names["model"].float(), names["tokenizer"])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.05)


def test_the_job_runs_as_a_child(full, tmp_path):
    heard = []
    made = asyncio.run(
        run_job("charforge.models.exporting", gguf_job(full, full, tmp_path / "out", "q8_0"), heard.append)
    )
    assert heard == [{"phase": "writing tiny-q8_0.gguf"}]
    assert made["files"]["tiny-q8_0.gguf"]["bytes"] == os.path.getsize(tmp_path / "out" / "tiny-q8_0.gguf")
    assert not made["merged"]


@pytest.mark.slow
def test_an_embedded_file_comes_back_as_a_file_that_answers_the_same(tmp_path):
    """GGUF → our folder → GGUF: llama.cpp continues a text greedily with the same words from both.

    For a while: with 4-bit weights llama.cpp rounds activations to 8 bits, which it does not with float16, and after some twenty tokens of
    this text that decides between two that are nearly as likely.
    """
    import urllib.request

    import xllamacpp

    from charforge.models import embedded
    from charforge.models.load import load_embedded

    name = "smollm2-135m-instruct"
    model, tokenizer = load_embedded(name, torch.bfloat16)
    save_folder(model, tokenizer, tmp_path / "folder")
    gguf_file.write(tmp_path / "folder", tmp_path / "f16.gguf", "f16", name="SmolLM2")

    def greedy(file):
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx = 512
        params.n_parallel = 1
        params.verbosity = -1
        server = xllamacpp.Server(params)
        asked = {"prompt": "The capital of Austria is", "n_predict": 16, "temperature": 0}
        request = urllib.request.Request(
            server.listening_address + "/completion",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["content"]

    assert greedy(tmp_path / "f16.gguf") == greedy(embedded.locate(name)) != ""
