from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from charforge.dialogue import Turn, render_output, render_prompt
from charforge.errors import CharForgeError
from charforge.models import train as module
from charforge.models.load import load_folder
from charforge.models.train import (
    Sample,
    backward,
    encode,
    gradient_norm,
    held_out_sources,
    learning_rate,
    measure,
    shuffled,
    train,
)
from charforge.models.vocabulary import add_end_of_turn

SETTINGS = {
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 2,
    "gradient_accumulation": 1,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "context_length": 256,
    "loss": "character",
    "held_out": 0.2,
    "keep": "best",
    "max_samples": None,
    "seed": 0,
}


def record(name: str, *, part: int = 1, answer: str = "I do not play for officers.") -> dict:
    turns = [
        Turn("Man", "speaking", "Will you play for us tonight?"),
        Turn("Beethoven", "thinking", "The prince wants a clown."),
        Turn("Beethoven", "speaking", answer),
        Turn("Man", "speaking", "Good evening, sir."),
    ]
    return {
        "prompt": render_prompt("I want you to act like Beethoven.", "Vienna", "a salon"),
        "output": render_output(turns),
        "kind": "dialogue",
        "source": {"id": name, "origin": "written", "part": part, "paragraphs": ["p1"]},
    }


@pytest.fixture
def go(tiny, tmp_path, monkeypatch):
    """Train on the tiny model; returns the run's folder, what it returned and the progress it made."""
    monkeypatch.setattr(module, "available_cpus", lambda: 1)
    monkeypatch.setattr(module, "compute_dtype", lambda: torch.float32)
    torch.use_deterministic_algorithms(False)

    def run(name: str = "run", records: list[dict] | None = None, **changes):
        folder = tmp_path / name
        folder.mkdir()
        sft = folder / "sft.jsonl"
        records = [record(f"d/{n}") for n in range(6)] if records is None else records
        sft.write_text("".join(json.dumps(line) + "\n" for line in records))
        job = {"base": str(tiny), "sft": str(sft), "out": str(folder / "out"), "character": "Beethoven"}
        heard: list[dict] = []
        result = train(job | {"train": SETTINGS | changes}, heard.append)
        return folder, result, heard

    yield run
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def ready(tiny):
    """The tiny model and tokenizer with the end of turn."""
    model, tokenizer = load_folder(tiny, torch.float32)
    add_end_of_turn(model, tokenizer)
    return model, tokenizer


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "train_summary.json").read_text())


# -- the mask


def learned(tokenizer, loss: str) -> list[str]:
    sample = encode(tokenizer, record("d/1"), "Beethoven", loss, 512)
    return tokenizer.convert_ids_to_tokens([sample.ids[target] for target in sample.targets])


def test_the_characters_turns_are_learned_token_for_token(ready):
    _, tokenizer = ready
    turns = [
        "thinking): The prince wants a clown.<|eot|>",
        "speaking): I do not play for officers.<|eot|>",
    ]
    expected = [token for turn in turns for token in tokenizer.tokenize(turn)]
    assert learned(tokenizer, "character") == expected
    assert expected.count("<|eot|>") == 2


def test_only_what_is_said_is_learned_where_asked(ready):
    _, tokenizer = ready
    assert learned(tokenizer, "character_speech") == tokenizer.tokenize(" I do not play for officers.<|eot|>")


def test_the_papers_loss_falls_on_the_whole_output(ready):
    _, tokenizer = ready
    assert learned(tokenizer, "completion") == tokenizer.tokenize(record("d/1")["output"])


def test_text_of_many_bytes_a_letter_is_learned_whole(ready):
    _, tokenizer = ready
    sample = encode(
        tokenizer, record("d/1", answer="Größe: «ein Ton» – 音楽 🎹!"), "Beethoven", "character_speech", 512
    )
    text = tokenizer.decode([sample.ids[target] for target in sample.targets])
    assert text == " Größe: «ein Ton» – 音楽 🎹!<|eot|>"


def test_a_mask_that_is_not_exact_stops_the_training(ready, monkeypatch):
    _, tokenizer = ready
    monkeypatch.setattr(module, "trained_spans", lambda *_: [(3, 40)])
    with pytest.raises(CharForgeError) as caught:
        encode(tokenizer, record("d/1"), "Beethoven", "character", 512)
    assert caught.value.message.startswith("the sample d/1 part 1: ")


def test_a_sample_longer_than_the_context_is_named(go):
    records = [record(f"d/{n}") for n in range(5)] + [record("d/long", part=2, answer="play " * 300)]
    with pytest.raises(CharForgeError) as caught:
        go(records=records)
    assert caught.value.message.startswith("the sample d/long part 2 has ")
    assert caught.value.message.endswith(" tokens, more than the context of 256")
    assert caught.value.hint == "lower dataset.max_words, or raise train.context_length"


# -- the split and the order


def test_all_parts_of_a_source_are_on_one_side(go):
    records = [record(f"d/{n}", part=part) for n in range(10) for part in (1, 2)]
    folder, _, _ = go(records=records, epochs=1)
    summary = summary_of(folder)
    assert len(summary["held_out"]) == 2
    assert summary["samples"] == 20
    assert summary["training_samples"] == 16


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(4, 0.5, 0), (5, 0.01, 1), (20, 0.1, 2), (9, 0, 0), (5, 1, 4)]
)
def test_as_many_sources_are_held_out_as_asked_for(count, share, expected):
    sources = [f"d/{n % count}" for n in range(3 * count)]
    assert len(held_out_sources(sources, share, 0)) == expected


def test_the_split_depends_on_ids_and_seed_only():
    sources = [f"d/{n}" for n in range(30)]
    chosen = held_out_sources(sources, 0.2, 1)
    assert held_out_sources(sources[::-1] * 2, 0.2, 1) == chosen
    assert held_out_sources(sources, 0.2, 2) != chosen
    assert len(held_out_sources([*sources, "d/new"], 0.2, 1) & chosen) >= len(chosen) - 1


def test_epochs_differ_in_order_and_runs_do_not():
    samples = [Sample(str(n), 1, (n,), ()) for n in range(20)]
    assert shuffled(samples, 1) == shuffled(samples, 1)
    assert shuffled(samples, 1) != shuffled(samples, 2)
    assert sorted(shuffled(samples, 1), key=lambda s: s.ids) == samples


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_comes_down(schedule, expected):
    settings = {"learning_rate": 1.0, "warmup_ratio": 0.3, "schedule": schedule}
    assert [learning_rate(step, 6, settings) for step in range(1, 7)] == pytest.approx(expected, abs=1e-6)


# -- the arithmetic


@pytest.mark.parametrize("whole", [0, 1000])
def test_gradients_are_those_of_the_plain_loss(ready, monkeypatch, whole):
    monkeypatch.setattr(module, "_LOGITS", 7)
    monkeypatch.setattr(module, "_WHOLE", whole)
    model, tokenizer = ready
    model.train()
    samples = [
        encode(tokenizer, record(f"d/{n}", answer="play " * n), "Beethoven", "character", 512) for n in (1, 5)
    ]
    count = sum(len(sample.targets) for sample in samples)
    loss = sum(backward(model, sample, count) for sample in samples)
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for sample in samples:
        labels = torch.full((len(sample.ids),), -100)
        labels[list(sample.targets)] = torch.tensor([sample.ids[target] for target in sample.targets])
        logits = model(input_ids=torch.tensor([sample.ids])).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum") / count
    total.backward()
    assert loss == pytest.approx(total.item())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    model.zero_grad()
    for sample in samples:
        backward(model, sample, count)
    assert gradient_norm(list(model.parameters())) == pytest.approx(float(norm), rel=1e-4)
    assert measure(model, samples) == pytest.approx(loss)


def test_the_end_of_turn_begins_as_the_end_of_a_chat_turn(tiny):
    model, tokenizer = load_folder(tiny, torch.float32)
    add_end_of_turn(model, tokenizer)
    weight = model.get_input_embeddings().weight
    token = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert tokenizer("a<|eot|>\n")["input_ids"].count(token) == 1
    assert torch.equal(weight[token], weight[tokenizer.eos_token_id])
    assert weight.shape[0] % 64 == 0
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, token]
    size = len(tokenizer)
    add_end_of_turn(model, tokenizer)
    assert len(tokenizer) == size


# -- the whole run


def test_training_twice_gives_the_same_bytes(go):
    first, _, _ = go("first")
    second, _, _ = go("second")
    assert files(first) == files(second)
    assert {"out/model.safetensors", "out/config.json", "train_log.jsonl", "train_summary.json"} <= set(
        files(first)
    )


def test_training_learns(go):
    folder, _, _ = go(epochs=8)
    summary = summary_of(folder)
    losses = [epoch["held_out_loss"] for epoch in summary["epochs"]]
    assert min(losses) < 0.5 * summary["base_loss"]
    assert losses[summary["chosen_epoch"] - 1] == min(losses)


def test_the_result_loads_as_any_model_does(go):
    folder, _, _ = go()
    model = AutoModelForCausalLM.from_pretrained(folder / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    token = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [2, token]
    out = model.generate(
        torch.tensor([[5]]), max_new_tokens=1
    )  # a reader may rebuild the generation configuration here
    assert out.shape == (1, 2)
    assert model.generation_config.eos_token_id == [2, token]
    assert tokenizer.decode(tokenizer("Good evening.<|eot|>\n")["input_ids"]) == "Good evening.<|eot|>\n"
    assert tokenizer.chat_template


def test_the_best_epoch_is_kept_or_the_last_as_asked(go, monkeypatch):
    def scripted():
        measured = iter([2.0, 1.0, 1.5])
        monkeypatch.setattr(module, "measure", lambda *_: next(measured))

    scripted()
    best, _, _ = go("best", keep="best")
    scripted()
    last, _, _ = go("last", keep="last")
    assert summary_of(best)["chosen_epoch"] == 1
    assert summary_of(last)["chosen_epoch"] == 2
    assert files(best)["out/model.safetensors"] != files(last)["out/model.safetensors"]


def test_without_a_held_out_split_the_last_epoch_is_kept(go):
    folder, _, _ = go(held_out=0)
    summary = summary_of(folder)
    assert summary["base_loss"] is None
    assert [epoch["held_out_loss"] for epoch in summary["epochs"]] == [None, None]
    assert summary["chosen_epoch"] == 2


def test_the_log_tells_every_step_and_no_time(go):
    folder, result, heard = go()
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert all(line.keys() == {"step", "epoch", "loss", "learning_rate", "tokens"} for line in lines)
    summary = summary_of(folder)
    assert sum(line["tokens"] for line in lines) == summary["tokens"] * 2
    assert [message["step"] for message in heard if "tokens_per_second" in message] == [1, 2, 3, 4, 5, 6]
    assert result["tokens_per_second"] > 0


def test_a_sample_without_the_character_is_counted_and_left_out(go):
    silent = record("d/silent")
    silent["output"] = render_output([Turn("Man", "speaking", "Nobody is here.")])
    folder, _, _ = go(records=[*(record(f"d/{n}") for n in range(4)), silent], held_out=0)
    summary = summary_of(folder)
    assert (summary["samples"], summary["training_samples"], summary["samples_without_loss"]) == (5, 4, 1)


def test_nothing_to_train_on_is_an_error(go):
    silent = record("d/silent")
    silent["output"] = render_output([Turn("Man", "speaking", "Nobody is here.")])
    with pytest.raises(CharForgeError) as caught:
        go(records=[silent])
    assert caught.value.message == "no sample has a turn of 'Beethoven' to train on"


def test_a_loss_that_is_no_number_stops_with_the_step(go, monkeypatch):
    monkeypatch.setattr(module, "gradient_norm", lambda _: float("nan"))
    with pytest.raises(CharForgeError) as caught:
        go()
    assert caught.value.message.startswith("training left the numbers at step 1 of 6: loss ")
    assert caught.value.hint == "lower train.learning_rate"


def test_a_model_that_alters_its_logits_is_refused(go, monkeypatch):
    real = load_folder

    def scaled(*args):
        model, tokenizer = real(*args)
        forward = model.forward

        def doubled(*inner, **named):
            output = forward(*inner, **named)
            output.logits = output.logits * 2
            return output

        model.forward = doubled
        return model, tokenizer

    monkeypatch.setattr(module, "load_folder", scaled)
    with pytest.raises(CharForgeError) as caught:
        go()
    assert caught.value.message == "models of type llama are not trained here: their logits are altered"
