"""`python -m charforge.models.train`: full fine-tuning of a causal language model on a character's dialogues.

Reads in the order it runs. The job:

    {"base": folder, "sft": JSONL path, "out": folder, "character": short name, "train": {epochs, learning_rate, batch_size,
     gradient_accumulation, schedule, warmup_ratio, weight_decay, max_grad_norm, context_length, loss, held_out, keep, seed}}

`out` gets the model (loads with AutoModelForCausalLM.from_pretrained); beside that folder stand `train_log.jsonl` and
`train_summary.json`. Nothing in them tells the time, so the same machine and inputs give the same bytes; speed and memory are
in the job's result.

How it is made fast on a processor: one sample a forward pass, so no padding; logits at trained positions only, a few hundred
at a time; weights and activations in bfloat16 where the processor multiplies it (`compute_dtype`). AdamW steps on a float32
master copy: a bfloat16 weight of 1.0 would not notice an update below 0.004. Memory is 16 bytes a parameter (2 weight, 2 gradient,
4 master, 8 AdamW) and what backward needs of one sample: 0.75 MB a token at 135M parameters, see `_WHOLE`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- everybody's name for it

from charforge.dialogue import EOT, trained_spans
from charforge.errors import CharForgeError
from charforge.models.export import save_folder
from charforge.models.load import compute_dtype, load_folder
from charforge.models.process import available_cpus, serve_job
from charforge.models.vocabulary import add_end_of_turn

Progress = Callable[[dict[str, Any]], None]

_LOGITS = 128
"""Trained positions whose logits exist at once: 49,152 numbers a position would otherwise be most of the memory."""
_LENGTHS = 32
"""Lengths are filled up to multiples of this, so that few shapes occur: memory was seen to grow by some 10 MB with each new length."""
_NO_LABEL = -100
_WHOLE = 512
"""Samples with more tokens keep the layers' inputs only and compute the rest again in backward: 27% slower, and the
peak is 0.7 GB lower at 900 tokens (1.46 GB against 2.15 GB for weights, gradients and one sample)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`ids` of prompt and output; `targets` are the places in `ids` that loss falls on, in order."""

    source: str
    part: int
    ids: tuple[int, ...]
    targets: tuple[int, ...]


def train(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Do the job of the module's docstring. CharForgeError where a sample does not fit or the loss leaves the numbers."""
    began = time.perf_counter()
    settings, out = job["train"], Path(job["out"])
    seed, epochs = settings["seed"], settings["epochs"]
    torch.set_num_threads(available_cpus())
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)

    # 1. The model, with the end of turn in its vocabulary.
    progress({"phase": "loading"})
    model, tokenizer = load_folder(Path(job["base"]), compute_dtype())
    add_end_of_turn(model, tokenizer)

    # 2. The samples, and which of their tokens are learned.
    lines = Path(job["sft"]).read_text(encoding="utf-8").splitlines()
    records = some([json.loads(line) for line in lines if line], settings["max_samples"], seed)
    limit = min(settings["context_length"], model.config.get_text_config().max_position_embeddings)
    samples = [encode(tokenizer, record, job["character"], settings["loss"], limit) for record in records]
    held_out_ids = held_out_sources([sample.source for sample in samples], settings["held_out"], seed)
    held_out = [sample for sample in samples if sample.source in held_out_ids and sample.targets]
    training = [sample for sample in samples if sample.source not in held_out_ids and sample.targets]
    if not training:
        raise CharForgeError(f"no sample has a turn of {job['character']!r} to train on", "look at sft.jsonl")

    # 3. Master weights, each with an optimiser of its own: so only one parameter's gradient is float32 at a time.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = [parameter.detach().to(torch.float32, copy=True) for parameter in parameters]
    optimizers = [
        torch.optim.AdamW(
            [master],
            betas=(0.9, 0.95),
            # Norms and biases are not decayed.
            weight_decay=settings["weight_decay"] if master.ndim >= 2 else 0.0,
            fused=True,
        )
        for master in masters
    ]
    size = settings["batch_size"] * settings["gradient_accumulation"]
    steps = math.ceil(len(training) / size) * epochs

    # 4. Train, measure after each epoch, keep the best.
    summary: dict[str, Any] = {
        "base_loss": measure(model, held_out),
        "epochs": [],
        "chosen_epoch": None,
        "samples": len(samples),
        "training_samples": len(training),
        "samples_without_loss": sum(not sample.targets for sample in samples),
        "held_out": sorted(held_out_ids),
        "tokens": sum(len(sample.ids) for sample in training),
        "trained_tokens": sum(len(sample.targets) for sample in training),
        "longest": max(len(sample.ids) for sample in samples),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "steps": steps,
    }
    check_head(model, training[0])
    progress({"step": 0, "steps": steps, "epoch": 0, "held_out_loss": summary["base_loss"]})
    log: list[dict[str, Any]] = []
    best = math.inf
    trained = 0
    training_seconds = 0.0
    for epoch in range(1, epochs + 1):
        total, count = 0.0, 0
        order = shuffled(training, seed + epoch)
        model.train()
        for start in range(0, len(order), size):
            tick = time.perf_counter()
            batch = order[start : start + size]
            targets = sum(len(sample.targets) for sample in batch)
            loss = sum(backward(model, sample, targets) for sample in batch)
            step = len(log) + 1
            norm = gradient_norm(parameters)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise CharForgeError(
                    f"training left the numbers at step {step} of {steps}: loss {loss}, gradient norm {norm}",
                    "lower train.learning_rate",
                )
            scale = min(1.0, settings["max_grad_norm"] / (norm + 1e-6))
            rate = learning_rate(step, steps, settings)
            with torch.no_grad():
                for parameter, master, optimizer in zip(parameters, masters, optimizers, strict=True):
                    master.grad = parameter.grad.float() * scale
                    parameter.grad = None
                    optimizer.param_groups[0]["lr"] = rate
                    optimizer.step()
                    master.grad = None
                    parameter.copy_(master)
            tokens = sum(len(sample.ids) for sample in batch)
            trained += tokens
            training_seconds += time.perf_counter() - tick
            total, count = total + loss * targets, count + targets
            log.append({"step": step, "epoch": epoch, "loss": loss, "learning_rate": rate, "tokens": tokens})
            progress(
                {
                    "step": step,
                    "steps": steps,
                    "epoch": epoch,
                    "loss": loss,
                    "tokens_per_second": trained / training_seconds,
                    "held_out_loss": None,
                }
            )
        measured = measure(model.eval(), held_out)
        summary["epochs"].append({"epoch": epoch, "train_loss": total / count, "held_out_loss": measured})
        progress(
            {
                "step": len(log),
                "steps": steps,
                "epoch": epoch,
                "loss": total / count,
                "held_out_loss": measured,
            }
        )
        better = measured is None or settings["keep"] == "last" or measured < best
        if better:
            best = math.inf if measured is None else measured
            summary["chosen_epoch"] = epoch
            save_folder(model, tokenizer, out)

    # 5. What happened, without the time.
    _write(out.parent / "train_log.jsonl", "".join(json.dumps(line, sort_keys=True) + "\n" for line in log))
    _write(out.parent / "train_summary.json", json.dumps(summary, sort_keys=True, indent=2) + "\n")
    return {
        "seconds": time.perf_counter() - began,
        "tokens_per_second": trained / training_seconds,
        "peak_memory_bytes": _peak_memory(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def encode(tokenizer: Any, record: dict[str, Any], character: str, loss: str, limit: int) -> Sample:
    """Return the sample of an SFT record; checks that exactly the trained characters are trained tokens.

    Raises CharForgeError naming the sample where it is longer than `limit` tokens or the mask is not exact.
    """
    source, part = record["source"]["id"], record["source"].get("part", 1)
    name = f"{source} part {part}"
    prompt, output = record["prompt"], record["output"]
    encoding = tokenizer(prompt + output, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    if len(ids) > limit:
        raise CharForgeError(
            f"the sample {name} has {len(ids)} tokens, more than the context of {limit}",
            "lower dataset.max_words, or raise train.context_length",
        )
    targets: list[int] = []
    at = 0
    for start, end in trained_spans(output, character, loss):
        first, last = start + len(prompt), end + len(prompt)
        while at < len(ids) and offsets[at][0] < first:
            at += 1
        begin = at
        while at < len(ids) and offsets[at][1] <= last and offsets[at][0] < offsets[at][1]:
            at += 1
        # The mask is the contract, so it is checked for every turn and not believed: the words, all of them, and no other's.
        decoded = tokenizer.decode(
            ids[begin:at], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        expected = output[start:end]
        if decoded.strip() != expected.strip():
            raise CharForgeError(
                f"the sample {name}: the loss mask covers {decoded!r}, expected {expected!r}",
                "the base model's tokenizer has tokens that cross the turn's borders: choose another base model",
            )
        if loss != "completion" and not decoded.endswith(EOT):
            raise CharForgeError(f"the sample {name}: a trained turn does not end in {EOT}: {decoded!r}")
        targets += range(begin, at)
    # A first token has nothing before it to be predicted from.
    return Sample(source, part, tuple(ids), tuple(target for target in targets if target > 0))


def some(records: list[dict[str, Any]], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """Return `limit` of the records, chosen by digest so that they spread over all of them; all where it is None."""
    if limit is None:
        return records
    names = [f"{seed}:{record['source']['id']}:{record['source']['part']}" for record in records]
    ranked = sorted(range(len(records)), key=lambda i: hashlib.sha256(names[i].encode()).hexdigest())
    return [records[i] for i in sorted(ranked[:limit])]


def held_out_sources(sources: Sequence[str], share: float, seed: int) -> set[str]:
    """Return the sources that are measured on and not trained on: the lowest share by SHA-256 of `seed:id`.

    At least one where share > 0 and there are five sources; none where there are fewer. Adding a source moves few others.
    """
    distinct = sorted(set(sources))
    if share <= 0 or len(distinct) < 5:
        return set()
    ranked = sorted(distinct, key=lambda source: hashlib.sha256(f"{seed}:{source}".encode()).digest())
    return set(ranked[: max(1, min(round(share * len(ranked)), len(ranked) - 1))])


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return the samples in an order that depends on the seed only."""
    order = list(samples)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


def learning_rate(step: int, steps: int, settings: dict[str, Any]) -> float:
    """Return the rate of step 1 … steps: linear warm-up, then constant, or down to zero along a line or half a cosine."""
    peak: float = settings["learning_rate"]
    warmup: int = round(settings["warmup_ratio"] * steps)
    if step <= warmup:
        return peak * step / warmup
    gone = (step - warmup - 1) / max(1, steps - warmup)
    match settings["schedule"]:
        case "constant":
            return peak
        case "linear":
            return peak * (1.0 - gone)
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * gone))
    raise ValueError(f"unknown schedule {settings['schedule']!r}")


def hidden_states(model: Any, sample: Sample) -> torch.Tensor:
    """Return what predicts the targets: [targets, hidden size], each from the place before its target.

    The sample is filled up at its end, which causal attention never looks at, to one of few lengths: see `_LENGTHS`.
    """
    ids = [*sample.ids, *[sample.ids[-1]] * (-len(sample.ids) % _LENGTHS)]
    output = model.base_model(input_ids=torch.tensor([ids]), use_cache=False)
    states: torch.Tensor = output.last_hidden_state[0, torch.tensor(sample.targets) - 1]
    return states


def check_head(model: Any, sample: Sample) -> None:
    """Raise CharForgeError where the model does more to its hidden states than its output matrix does (scaling, capping)."""
    with torch.inference_mode():
        places = torch.tensor(sample.targets[:8]) - 1
        whole = model(input_ids=torch.tensor([sample.ids]), use_cache=False, logits_to_keep=places).logits[0]
        ours = model.get_output_embeddings()(hidden_states(model, sample)[:8])
    if not torch.allclose(whole.float(), ours.float(), rtol=1e-2, atol=1e-2):
        raise CharForgeError(
            f"models of type {model.config.model_type} are not trained here: their logits are altered"
        )


def recompute_layers(model: Any, *, yes: bool) -> None:
    """Choose whether backward computes each layer again from its input, or forward keeps everything."""
    # transformers 5 renames these on the way; both names mean the same.
    new = hasattr(model, "activation_checkpointing_enable")
    if yes:
        options = {"use_reentrant": False, "preserve_rng_state": False}
        (model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable)(options)
    else:
        (model.activation_checkpointing_disable if new else model.gradient_checkpointing_disable)()


def backward(model: Any, sample: Sample, targets: int) -> float:
    """Add the gradients of the sample's share of the step's mean loss over `targets` tokens; returns that share."""
    recompute_layers(model, yes=len(sample.ids) > _WHOLE)
    states = hidden_states(model, sample)
    more = -len(sample.targets) % _LENGTHS
    leaf = F.pad(states.detach(), (0, 0, 0, more)).requires_grad_()
    labels = torch.tensor([sample.ids[target] for target in sample.targets] + [_NO_LABEL] * more)
    head = model.get_output_embeddings()
    total = 0.0
    for start in range(0, len(labels), _LOGITS):
        logits = head(leaf[start : start + _LOGITS]).float()
        part = labels[start : start + _LOGITS]
        loss = F.cross_entropy(logits, part, reduction="sum", ignore_index=_NO_LABEL) / targets
        loss.backward()
        total += float(loss.detach())
    states.backward(leaf.grad[: len(states)])
    return total


def gradient_norm(parameters: Sequence[torch.Tensor]) -> float:
    """Return the length of all gradients as one vector, added up in float32 whatever type they have."""
    norms = [torch.linalg.vector_norm(parameter.grad, dtype=torch.float32) for parameter in parameters]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def measure(model: Any, samples: Sequence[Sample]) -> float | None:
    """Return the mean loss in nats over the samples' targets; None without samples."""
    if not samples:
        return None
    head = model.get_output_embeddings()
    total, count = 0.0, 0
    with torch.inference_mode():
        for sample in samples:
            states = hidden_states(model, sample)
            labels = torch.tensor([sample.ids[target] for target in sample.targets])
            for start in range(0, len(labels), _LOGITS):
                logits = head(states[start : start + _LOGITS]).float()
                total += float(F.cross_entropy(logits, labels[start : start + _LOGITS], reduction="sum"))
            count += len(labels)
    return total / count


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    serve_job(train)
