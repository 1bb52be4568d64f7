from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from charforge.dialogue import Turn, render_output, render_prompt
from charforge.errors import CharForgeError
from charforge.models import train as module
from charforge.models.load import load_folder
from charforge.models.process import run_job
from charforge.models.samples import held_out_sources
from charforge.models.train import train
from charforge.models.vocabulary import add_end_of_turn

SETTINGS = {
    "epochs": 2,
    "method": "full",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "target_modules": "all-linear", "merge": False},
    "learning_rate": 1e-2,
    "batch_size": 2,
    "gradient_accumulation": 1,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "betas": [0.9, 0.95],
    "precision": "fp32",
    "tf32": False,
    "gradient_checkpointing": "auto",
    "packing": True,
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
    torch.use_deterministic_algorithms(False)

    def run(
        name: str = "run",
        records: list[dict] | None = None,
        job: dict | None = None,
        hear: Callable[[dict], None] = lambda _: None,
        **changes,
    ):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sft = folder / "sft.jsonl"
        records = [record(f"d/{n}") for n in range(6)] if records is None else records
        sft.write_text("".join(json.dumps(line) + "\n" for line in records))
        whole = {"base": str(tiny), "sft": str(sft), "out": str(folder / "out"), "character": "Beethoven"}
        heard: list[dict] = []

        def listen(message: dict) -> None:
            heard.append(message)
            hear(message)

        result = train(whole | {"train": SETTINGS | changes} | (job or {}), listen)
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


# -- the end of turn


def test_the_end_of_turn_begins_as_the_end_of_a_chat_turn(tiny):
    model, tokenizer = load_folder(tiny, torch.float32)
    add_end_of_turn(model, tokenizer)
    weight = model.get_input_embeddings().weight
    token = tokenizer.convert_tokens_to_ids("<|eot|>")
    assert tokenizer("a<|eot|>\n")["input_ids"].count(token) == 1
    assert torch.equal(weight[token], weight[tokenizer.eos_token_id])
    assert weight.shape[0] == len(tokenizer)  # no place more, which nobody could write
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
        monkeypatch.setattr(
            module.passes,
            "measure",
            lambda _, rows: [next(measured) * sum(len(row.targets) for row in rows)],
        )

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


def test_a_loss_that_is_no_number_stops_with_the_step_and_its_samples(go, monkeypatch, tmp_path):
    real = module.optimise.gradient_norm
    norms = iter([False, False, True])
    monkeypatch.setattr(
        module.optimise, "gradient_norm", lambda found: real(found) * (math.nan if next(norms) else 1.0)
    )
    kept = tmp_path / "kept"
    with pytest.raises(CharForgeError) as caught:
        go(job={"kept": str(kept), "checkpoint_every_steps": 1})
    message = caught.value.message
    assert message.startswith("training left the numbers at step 3 of 6: loss ")
    assert re.search(r", gradient norm nan; the step's samples: d/\d part 1$", message)
    assert caught.value.hint == (
        "lower train.learning_rate, or look at these samples; checkpoints from before are kept"
    )
    assert sorted(path.name for path in kept.iterdir()) == ["step-00000001", "step-00000002"]


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
    assert (
        caught.value.message
        == "models of type llama are not trained here: their logits are altered, or sequences in a row are not apart"
    )


def test_it_runs_as_a_job_of_its_own_and_says_errors_in_one_line(go, tiny, tmp_path):
    folder, _, _ = go()
    job = {"base": str(tiny), "sft": str(folder / "sft.jsonl"), "character": "Beethoven", "train": SETTINGS}
    out = tmp_path / "child/out"
    result = asyncio.run(run_job("charforge.models.train", job | {"out": str(out)}, lambda _: None))
    assert result["deterministic"]
    assert (result["processes"], result["device"], result["dtype"]) == (1, "cpu", "float32")
    assert (out.parent / "train_summary.json").read_bytes() == (folder / "train_summary.json").read_bytes()
    with pytest.raises(CharForgeError, match="no sample has a turn of 'Nobody' to train on"):
        asyncio.run(
            run_job("charforge.models.train", job | {"out": str(out), "character": "Nobody"}, lambda _: None)
        )


# -- what is refused before the first step


def refused(go, **changes) -> CharForgeError:
    with pytest.raises(CharForgeError) as caught:
        go(**changes)
    return caught.value


def test_a_context_longer_than_the_models_own_names_both(go):
    error = refused(go, context_length=513)
    assert error.message == "train.context_length is 513, and the base model's own context is 512 tokens"
    assert error.hint.startswith("set train.context_length: 512, ")


def test_a_tokenizer_without_an_end_is_refused(go, tiny, tmp_path):
    base = tmp_path / "endless"
    shutil.copytree(tiny, base)
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    error = refused(go, job={"base": str(base)})
    assert error.message == (
        "the tokenizer of the base model has no end token, which <|eot|> begins as a copy of"
    )


def test_a_wrong_mask_stops_before_training(go, monkeypatch):
    real = module.read

    def planted(*args):
        data = real(*args)
        first = data.samples[0]
        data.samples[0] = dataclasses.replace(first, targets=(first.targets[0] - 3, *first.targets))
        return data

    monkeypatch.setattr(module, "read", planted)
    error = refused(go)
    assert error.message.startswith("the loss mask of the sample d/0 part 1 is wrong: ")


def test_what_cannot_fit_is_refused_before_the_first_step(go, monkeypatch):
    monkeypatch.setattr(module.fit, "free_memory", lambda *_: 1000)
    error = refused(go)
    assert error.message.startswith("training does not fit into main memory: it takes about ")
    assert error.hint == (
        "lower train.context_length, use train.method: lora, or take a smaller base model "
        "(train.batch_size changes no memory)"
    )


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_running_out_of_memory_says_what_to_change(go, monkeypatch, raised):
    def full(*_, **__):
        raise raised

    monkeypatch.setattr(module.passes, "backward", full)
    error = refused(go)
    assert error.message.startswith("training ran out of memory")
    assert error.hint.startswith("set train.gradient_checkpointing: true, lower train.context_length, use ")


def test_a_long_dialogue_is_split_and_counted(go):
    records = [record(f"d/{n}") for n in range(4)]
    turns = [Turn(role, "speaking", "play for us " * 8) for role in ("Man", "Beethoven")] * 6
    records += [record("d/long") | {"output": render_output(turns)}, record("d/one", answer="play " * 300)]
    folder, _, heard = go(records=records, held_out=0)
    summary = summary_of(folder)
    assert summary["split"] == 2  # the second lost a turn, and what is left of it is in two parts
    assert [(turn["source"], turn["part"]) for turn in summary["left_out"]] == [("d/one", 1)]
    (plan,) = [message["told"] for message in heard if "told" in message]
    assert plan.endswith("; 2 dialogues split between turns; 1 turns longer than the context left out")


# -- methods


def test_an_adapter_trains_a_few_weights_and_gives_the_same_bytes_twice(go):
    first, _, _ = go("first", method="lora")
    second, _, _ = go("second", method="lora")
    assert files(first) == files(second)
    assert "out/adapter_model.safetensors" in files(first)
    summary = summary_of(first)
    assert summary["trained_parameters"] < summary["all_parameters"] / 2
    assert summary["epochs"][-1]["train_loss"] < summary["epochs"][0]["train_loss"]


def test_a_merged_adapter_is_a_model(go):
    folder, _, _ = go(method="lora", lora=SETTINGS["lora"] | {"merge": True})
    AutoModelForCausalLM.from_pretrained(folder / "out")
    assert not (folder / "out/adapter_config.json").exists()


def test_packing_changes_rounding_and_nothing_else(go):
    packed, _, _ = go("packed")
    alone, _, _ = go("alone", packing=False)
    assert summary_of(packed)["rows"] < summary_of(alone)["rows"]
    losses = [
        [json.loads(line)["loss"] for line in (folder / "train_log.jsonl").read_text().splitlines()]
        for folder in (packed, alone)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# -- killed and gone on

LORA = {"method": "lora"}
KEEPING = {"checkpoint_every_steps": 1, "keep_checkpoints": 2}


def in_child(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run work in a forked process, killed after so many seconds; returns how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying_at(count: int, monkeypatch) -> None:
    """Kill this process at its count-th progress message, synced file or renamed folder."""
    left = [count]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, name in ((os, "fsync"), (Path, "rename"), (module.checkpoint, "save_file")):
        real = getattr(owner, name)

        def counted(*args, real=real):
            tick()
            return real(*args)

        monkeypatch.setattr(owner, name, counted)
    monkeypatch.setattr(module.time, "perf_counter", lambda real=time.perf_counter: (tick(), real())[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("changes", [{"keep": "best"}, LORA], ids=["full", "lora with dropout"])
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(go, tmp_path, monkeypatch, changes):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    unbroken, _, _ = go("unbroken", **changes)
    expected = files(unbroken)

    def work(count: int | None = None) -> None:
        if count is not None:
            dying_at(count, monkeypatch)
        go("broken", job=KEEPING | {"kept": str(tmp_path / "kept")}, **changes)

    chance = random.Random(3)
    for count in sorted(chance.sample(range(2, 55), 7)):
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        assert in_child(lambda count=count: work(count)) == -signal.SIGKILL
        # And once more on its way from there.
        in_child(lambda count=count: work(count // 3 + 2))
        assert in_child(work) == 0
        assert files(tmp_path / "broken") == expected, count


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_by_the_clock_it_ends_the_same(go, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    unbroken, _, _ = go("unbroken", epochs=6)

    def work() -> None:
        go("broken", epochs=6, job=KEEPING | {"kept": str(tmp_path / "kept")})

    chance = random.Random(time.time_ns())
    for _ in range(3):
        in_child(work, chance.uniform(0.1, 1.0))
    assert in_child(work) == 0
    assert files(tmp_path / "broken") == files(unbroken)


def test_the_best_weights_outlive_a_killed_run(go, tmp_path, monkeypatch):
    """The best epoch is over when the run is broken off, and no later one is better."""

    def scripted(*losses: float):
        left = iter(losses)
        monkeypatch.setattr(
            module.passes,
            "measure",
            lambda _, rows: [next(left) * sum(len(row.targets) for row in rows)],
        )

    scripted(2.0, 1.0, 1.5, 1.7)
    unbroken, _, _ = go("unbroken", epochs=3)
    for step in (4, 5, 8, 9):
        job = KEEPING | {"kept": str(tmp_path / f"kept{step}")}
        scripted(2.0, 1.0, 1.5, 1.7)
        with pytest.raises(KeyboardInterrupt):
            go("broken", epochs=3, job=job, hear=stop_at(step))
        scripted(*([1.5] if step < 7 else []), 1.7)
        broken, result, _ = go("broken", epochs=3, job=job)
        assert result["resumed_at_step"] == step - 1
        assert files(broken) == files(unbroken)
    assert summary_of(unbroken)["chosen_epoch"] == 1


def test_how_memory_is_saved_changes_no_bit(go):
    whole, _, _ = go("whole", gradient_checkpointing=False, method="lora")
    again, _, _ = go("again", gradient_checkpointing=True, method="lora")
    assert files(whole) == files(again)


def test_a_step_sees_batch_times_accumulation_samples(go):
    together, _, _ = go("together", batch_size=4, gradient_accumulation=1)
    apart, _, _ = go("apart", batch_size=1, gradient_accumulation=4)
    assert files(together) == files(apart)


def stop_at(step: int) -> Callable[[dict], None]:
    def hear(message: dict) -> None:
        if message.get("step") == step and "tokens_per_second" in message:
            raise KeyboardInterrupt

    return hear


def told(heard: list[dict]) -> list[str]:
    return [message["told"] for message in heard if "told" in message][1:]


def broken_off(go, tmp_path, step: int = 5) -> dict:
    job = KEEPING | {"kept": str(tmp_path / "kept")}
    with pytest.raises(KeyboardInterrupt):
        go("broken", job=job, hear=stop_at(step))
    return job


def test_it_says_where_it_goes_on(go, tmp_path):
    job = broken_off(go, tmp_path)
    _, result, heard = go("broken", job=job)
    assert told(heard) == ["going on from the checkpoint of step 4 of 6"]
    assert result["resumed_at_step"] == 4
    assert [message["step"] for message in heard if "tokens_per_second" in message] == [5, 6]


def test_a_finished_run_only_writes_again(go, tmp_path):
    job = KEEPING | {"kept": str(tmp_path / "kept")}
    first, _, _ = go("first", job=job)
    second, result, _ = go("second", job=job)
    assert result["resumed_at_step"] == 6
    assert files(first) == files(second)


def test_a_corrupt_checkpoint_is_told_and_the_one_before_serves(go, tmp_path):
    unbroken, _, _ = go("unbroken")
    job = broken_off(go, tmp_path)
    state = tmp_path / "kept/step-00000004/state.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 4
    state.unlink()  # the best weights may be linked, the state never is
    state.write_bytes(data)
    folder, result, heard = go("broken", job=job)
    assert told(heard) == [
        (
            "the checkpoint of step 4 is corrupt (state.safetensors is not what was written): "
            "falling back to the one before"
        ),
        "going on from the checkpoint of step 3 of 6",
    ]
    assert files(folder) == files(unbroken)
    assert result["resumed_at_step"] == 3


def test_without_an_intact_checkpoint_it_begins_anew(go, tmp_path):
    unbroken, _, _ = go("unbroken")
    job = broken_off(go, tmp_path)
    for path in (tmp_path / "kept").glob("*/manifest.json"):
        path.write_text("{")
    folder, result, heard = go("broken", job=job)
    assert len(told(heard)) == 2
    assert result["resumed_at_step"] == 0
    assert files(folder) == files(unbroken)


@pytest.mark.parametrize("change", [{"learning_rate": 2e-2}, {"loss": "completion"}, {"seed": 1}])
def test_a_checkpoint_of_another_job_is_not_taken(go, tmp_path, change):
    job = broken_off(go, tmp_path)
    _, result, _ = go("broken", job=job, **change)
    assert result["resumed_at_step"] == 0


def with_little_disk(limit: int, work: Callable[[], None]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_no_training(go, tmp_path):
    """A limit between the model's size and a checkpoint's."""
    unbroken, _, _ = go("unbroken", keep="last")
    heard: list[dict] = []
    kept = tmp_path / "kept"
    with_little_disk(
        300_000, lambda: heard.extend(go("full", job=KEEPING | {"kept": str(kept)}, keep="last")[2])
    )
    lines = told(heard)
    assert len(lines) == 6
    assert lines[0].startswith("the checkpoint of step 1 could not be written (")
    assert lines[0].endswith("): training goes on, the one before stays")
    assert files(tmp_path / "full") == files(unbroken)
    assert list(kept.iterdir()) == []


def test_a_full_disk_at_the_end_keeps_the_checkpoint(go, tmp_path, monkeypatch):
    real = module.save_folder
    monkeypatch.setattr(module, "save_folder", lambda *args: with_little_disk(1000, lambda: real(*args)))
    job = KEEPING | {"kept": str(tmp_path / "kept")}
    with pytest.raises(CharForgeError) as caught:
        go("run", job=job)
    assert caught.value.message.startswith("the trained model could not be written: ")
    assert caught.value.hint == (
        "make room and build again: training goes on from its last checkpoint, up to step 6"
    )
    monkeypatch.setattr(module, "save_folder", real)
    assert go("run", job=job)[1]["resumed_at_step"] == 6
