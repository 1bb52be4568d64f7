"""`python -m charforge.models.train`: fine-tuning of a causal language model on a character's dialogues.

Reads in the order it runs. The job:

    {"base": folder, "base_name": what the spec calls it, "sft": JSONL path, "out": folder, "kept": folder for checkpoints or absent,
     "keep_checkpoints": how many, "character": short name, "train": the spec's section, "world": processes, see launch.py, or null}

`out` gets the model (loads with AutoModelForCausalLM.from_pretrained) or the adapter; beside that folder stand `train_log.jsonl` and
`train_summary.json`. Nothing in them tells the time, a path or how many processes there were, so the same machine and inputs give the
same bytes, also where the run was killed and went on from a checkpoint; speed and memory are in the job's result.

Where the work is done: samples.py (tokens and the loss mask), rows.py (packing), passes.py (forward and backward of a row),
optimise.py (AdamW on float32 masters), checkpoint.py, fit.py (the plan), adapter.py (LoRA), world.py (several processes).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from charforge.errors import CharForgeError
from charforge.models import checkpoint, fit, optimise, passes
from charforge.models.checkpoint import UNWRITTEN
from charforge.models.export import save_folder
from charforge.models.load import compute_dtype, load_folder
from charforge.models.process import available_cpus, serve_job
from charforge.models.rows import Row, pack
from charforge.models.samples import (
    GENERAL,
    Sample,
    Samples,
    check_mask,
    held_out_sources,
    read,
    shuffled,
    some,
)
from charforge.models.vocabulary import add_end_of_turn
from charforge.models.world import World, serve_member
from charforge.weights import sha256

Progress = Callable[[dict[str, Any]], None]


def train(job: dict[str, Any], progress: Progress, world: World | None = None) -> dict[str, Any]:
    """Do the job of the module's docstring; one CharForgeError for everything that a user can mend."""
    try:
        return _train(job, progress, world or World.alone())
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and "allocate" not in text
        ):
            raise
        settings = job["train"]
        raise CharForgeError(
            "training ran out of memory" + (f": {text.splitlines()[0][:200]}" if text else ""),
            fit.what_to_change(
                method=settings["method"], recompute=settings["gradient_checkpointing"] is True
            ),
        ) from error


def _train(job: dict[str, Any], progress: Progress, world: World) -> dict[str, Any]:
    began = time.perf_counter()
    settings, out = job["train"], Path(job["out"])
    seed, epochs = settings["seed"], settings["epochs"]

    def tell(line: str) -> None:
        progress({"told": line})

    # 1. The same numbers each time.
    torch.set_num_threads(available_cpus() // world.local_size or 1)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings["tf32"]
    torch.manual_seed(seed)

    # 2. The model, with the end of turn in its vocabulary.
    progress({"phase": "loading"})
    dtype = _dtype(settings["precision"], world.device)
    model, tokenizer = _load(job, dtype, world)

    # 3. The samples, which of their tokens are learned, and which samples are only measured on.
    limit = _context(model, settings["context_length"])
    data = _read(job, tokenizer, limit, world)
    held_out_ids = held_out_sources(
        [sample.source for sample in data.samples if sample.kind != GENERAL], settings["held_out"], seed
    )
    held_out = [sample for sample in data.samples if sample.source in held_out_ids and sample.targets]
    training = [sample for sample in data.samples if sample.source not in held_out_ids and sample.targets]
    if all(sample.kind == GENERAL for sample in training):
        raise CharForgeError(f"no sample has a turn of {job['character']!r} to train on", "look at sft.jsonl")

    # 4. The mask is a contract: nobody else's words, and every turn ends. Of all samples, not of some.
    mask = check_mask(tokenizer, data.samples, job["character"], settings["loss"]) if world.main else {}

    # 5. What will happen, and whether it can.
    size = settings["batch_size"] * settings["gradient_accumulation"]
    per_epoch = math.ceil(len(training) / size)
    steps = per_epoch * epochs
    summary = _summary(data, training, held_out_ids, model, settings) | {"mask": mask, "steps": steps}

    def rows_of(samples: Sequence[Sample]) -> list[Row]:
        return pack(samples, limit, packing=settings["packing"])

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[Sample]:
        return shuffled(training, seed + epoch)

    def batch_of(step: int) -> list[Sample]:
        """The samples of a step depend on the spec and its seed alone."""
        epoch, at = divmod(step - 1, per_epoch)
        return order(epoch + 1)[at * size : (at + 1) * size]

    first_epoch = [rows_of(batch_of(step)) for step in range(1, per_epoch + 1)]
    summary["rows"] = sum(len(rows) for rows in first_epoch)
    longest = max(len(row.ids) for rows in [*first_epoch, rows_of(held_out)] for row in rows)
    free = fit.free_memory(world.device, world.local_size)
    plan = fit.memory(
        model,
        longest,
        settings["gradient_checkpointing"],
        free=free,
        processes=world.size,
        held=world.held_gradients(model),
    )
    tell(_told(summary, plan, settings["method"]))
    where = (
        f"the memory of {torch.cuda.get_device_name(world.device)}"
        if world.device.type == "cuda"
        else "main memory"
    )
    fit.check(plan, where, method=settings["method"])

    # 6. The model where it is trained, and the optimiser's float32 masters.
    passes.prepare(model)
    if world.size == 1 and settings["method"] != "qlora":  # which is loaded to where it stays
        model = model.to(world.device)
    if world.main:
        passes.check_head(model, first_epoch[0][0])
    model = world.shard(model, dtype)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimiser = optimise.Optimiser(
        parameters.values(),
        betas=tuple(settings["betas"]),
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
    )

    def measured(samples: Sequence[Sample]) -> float | None:
        """The mean loss in nats over the samples' targets; None without samples."""
        if not samples:
            return None
        model.eval()
        rows, count = world.rows(samples, rows_of)
        sums = passes.measure(model, rows)[: sum(len(row.lengths) for row in rows[:count])]
        total = world.sum(torch.tensor(math.fsum(sums), dtype=torch.float64))
        return float(total) / sum(len(sample.targets) for sample in samples)

    # 7. Where a run that was killed had come to, else the beginning.
    kept = Path(job["kept"]) if job.get("kept") else None
    identity = _identity(job, dtype, world) if kept else ""
    facts: dict[str, Any] = {"log": [], "epochs": [], "lowest": None, "chosen_epoch": None}
    best: Path | dict[str, torch.Tensor] | None = None
    resumed = 0
    if kept and (found := _agreed(kept, identity, tell, world)):
        optimiser.load(found.state())
        facts, best, resumed = found.facts, found.best, found.step
        tell(f"going on from the checkpoint of step {resumed} of {steps}")
    else:
        if kept and world.other_checkpoints(kept):
            tell(
                f"the checkpoints there are another number of processes' ({world.size} now): training begins anew"
            )
        facts["base_loss"] = measured(held_out)
    summary["base_loss"] = facts["base_loss"]
    progress(
        {"step": resumed, "steps": steps, "epoch": resumed // per_epoch, "held_out_loss": facts["base_loss"]}
    )

    def save(step: int) -> None:
        """A checkpoint, where one is wanted; where it cannot be written, training goes on from what is in memory."""
        nonlocal best
        if kept is None:
            return
        tick = time.perf_counter()
        try:
            made = checkpoint.save(
                kept,
                identity,
                step,
                optimiser.state(),
                facts,
                best=best,
                keep=max(job.get("keep_checkpoints", 2), min(world.size, 2)),
            )
            best = made.best
        except UNWRITTEN as error:
            tell(
                f"the checkpoint of step {step} could not be written ({error}): training goes on, the one before stays"
            )
        timer.saved(time.perf_counter() - tick)

    # 8. Train. A step's numbers are read when the next one has been handed to the device, which so never waits for us.
    timer = checkpoint.Timer(job.get("checkpoint_every_steps"))
    pending: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []
    trained, seconds, tick = 0, 0.0, time.perf_counter()

    def settle() -> None:
        step, rate, loss_tensor, norm_tensor = pending.pop(0)
        nonlocal trained, seconds, tick
        loss, norm = float(world.sum(loss_tensor)), float(norm_tensor)
        batch = batch_of(step)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise CharForgeError(
                f"training left the numbers at step {step} of {steps}: loss {loss}, gradient norm {norm}; "
                f"the step's samples: {_names(batch)}",
                "lower train.learning_rate, or look at these samples; checkpoints from before are kept",
            )
        tokens = sum(len(sample.ids) for sample in batch)
        trained, now = trained + tokens, time.perf_counter()
        seconds, tick = seconds + now - tick, now
        epoch = (step - 1) // per_epoch + 1
        facts["log"].append(
            {"step": step, "epoch": epoch, "loss": loss, "learning_rate": rate, "tokens": tokens}
        )
        progress(
            {
                "step": step,
                "steps": steps,
                "epoch": epoch,
                "loss": loss,
                "held_out_loss": None,
                "tokens_per_second": trained / seconds,
                "seconds_left": seconds / (step - resumed) * (steps - step),
                "memory_bytes": _memory(world.device, peak=False),
            }
        )

    for step in range(resumed + 1, steps + 1):
        # Dropout depends on the step, and not on what was drawn before it: a run that goes on draws the same.
        torch.manual_seed((seed * 1_000_003 + step) * world.size + world.rank)
        model.train()
        batch = batch_of(step)
        targets = sum(len(sample.targets) for sample in batch)
        loss = torch.zeros((), device=world.device)
        rows, count = world.rows(batch, rows_of)
        for i, row in enumerate(rows):
            world.exchange(model, last=i == len(rows) - 1)
            # Divided by infinity a row counts for nothing, and its gradients are zeros.
            loss += passes.backward(model, row, targets if i < count else math.inf, recompute=plan.recompute)
        rate = optimise.rate(step, steps, settings)
        pending.append((step, rate, loss, optimiser.step(rate)))
        end_of_epoch = step % per_epoch == 0
        due = world.agree(timer.due(step))
        while len(pending) > (0 if end_of_epoch or due or world.device.type == "cpu" else 1):
            settle()
        if not end_of_epoch:
            if due:
                save(step)
                tick = time.perf_counter()
            continue

        # 9. Measure after each epoch, and remember the best weights.
        epoch = step // per_epoch
        loss_now = measured(held_out)
        lowest = facts["lowest"]
        better = loss_now is None or settings["keep"] == "last" or lowest is None or loss_now < lowest
        train_loss = _mean_loss(facts["log"][-per_epoch:], batch_of)
        facts["epochs"].append(
            {"epoch": epoch, "step": step, "train_loss": train_loss, "held_out_loss": loss_now}
        )
        if better:
            facts["lowest"], facts["chosen_epoch"] = loss_now, epoch
            best = None
            if settings["keep"] == "best" and loss_now is not None and epoch < epochs:
                best = {
                    name: optimise.local(parameter).detach().cpu().clone()
                    for name, parameter in parameters.items()
                }
        progress(
            {"step": step, "steps": steps, "epoch": epoch, "loss": train_loss, "held_out_loss": loss_now}
        )
        save(step)
        tick = time.perf_counter()

    # 10. The chosen epoch's weights, and what happened, without the time.
    if facts["chosen_epoch"] != epochs:
        assert best is not None
        _put_back(parameters, best)
    peak = _memory(world.device, peak=True)
    progress({"phase": "saving"})
    try:
        _save(model, tokenizer, job, dtype, world)
        summary |= {"epochs": facts["epochs"], "chosen_epoch": facts["chosen_epoch"]}
        if world.main:
            log = "".join(json.dumps(line, sort_keys=True) + "\n" for line in facts["log"])
            (out.parent / "train_log.jsonl").write_text(log, encoding="utf-8")
            text = json.dumps(summary, sort_keys=True, indent=2) + "\n"
            (out.parent / "train_summary.json").write_text(text, encoding="utf-8")
    except UNWRITTEN as error:
        raise CharForgeError(
            f"the trained model could not be written: {error}",
            "make room and build again"
            + (f": training goes on from its last checkpoint, up to step {steps}" if kept else ""),
        ) from error
    return {
        "seconds": time.perf_counter() - began,
        "tokens_per_second": trained / seconds if seconds else None,
        "peak_memory_bytes": peak,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "resumed_at_step": resumed,
        "plan": {
            "memory_bytes": plan.total,
            "free_bytes": plan.free,
            "recompute": plan.recompute,
            "longest_row": longest,
        },
    }


# -- before


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return compute_dtype()


def _load(job: dict[str, Any], dtype: torch.dtype, world: World) -> tuple[Any, Any]:
    """Return model and tokenizer with the end of turn, and with an adapter where the method says so.

    Only the first process reads files; the others' models have no numbers yet.
    """
    settings, base = job["train"], Path(job["base"])
    quantised = settings["method"] == "qlora"
    if quantised and world.size > 1:
        raise CharForgeError(
            "train.method: qlora trains in one process: weights in 4 bits are not cut into parts here",
            "use lora, or --processes 1",
        )
    model, tokenizer = None, None
    if world.main and quantised:
        from charforge.models import adapter

        model, tokenizer = adapter.load_in_four_bits(base)
    elif world.main:
        model, tokenizer = load_folder(base, dtype)
    if world.main:
        add_end_of_turn(model, tokenizer)
    model, tokenizer = world.same(model, tokenizer, dtype)
    if settings["method"] == "full":
        return model, tokenizer
    from charforge.models import adapter

    torch.manual_seed(settings["seed"])
    return adapter.wrap(model, tokenizer, settings["lora"], quantised=quantised), tokenizer


def _read(job: dict[str, Any], tokenizer: Any, limit: int, world: World) -> Samples:
    """Return the samples of the job's records, read by the first process for all."""
    data = Samples()
    settings = job["train"]
    if world.main:
        lines = Path(job["sft"]).read_text(encoding="utf-8").splitlines()
        records = some(
            [json.loads(line) for line in lines if line], settings["max_samples"], settings["seed"]
        )
        data = read(tokenizer, records, job["character"], settings["loss"], limit)
    if world.size > 1:
        samples = [Sample(**told) for told in world.agree([asdict(sample) for sample in data.samples])]
        data.samples = [replace(each, ids=tuple(each.ids), targets=tuple(each.targets)) for each in samples]
    return data


def _context(model: Any, wanted: int) -> int:
    own = getattr(passes.causal(model).config.get_text_config(), "max_position_embeddings", None)
    if own is not None and wanted > own:
        raise CharForgeError(
            f"train.context_length is {wanted}, and the base model's own context is {own} tokens",
            f"set train.context_length: {own}, or choose another base model; longer dialogues are split between turns",
        )
    return wanted


def _summary(
    data: Samples, training: Sequence[Sample], held_out: set[str], model: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    seen = {id(parameter): parameter for parameter in model.parameters()}.values()
    everything = sum(parameter.numel() for parameter in seen)
    return {
        "method": settings["method"],
        "seed": settings["seed"],
        "keep": settings["keep"],
        "samples": len(data.samples),
        "training_samples": len(training),
        "general_samples": sum(sample.kind == GENERAL for sample in training),
        "samples_without_loss": sum(not sample.targets for sample in data.samples),
        "split": data.split,
        "left_out": data.left_out,
        "held_out": sorted(held_out),
        "tokens": sum(len(sample.ids) for sample in training),
        "trained_tokens": sum(len(sample.targets) for sample in training),
        "longest": max(len(sample.ids) for sample in data.samples),
        "parameters": everything,
        "all_parameters": everything,
        "trained_parameters": sum(parameter.numel() for parameter in seen if parameter.requires_grad),
    }


def _told(summary: dict[str, Any], plan: fit.Memory, method: str) -> str:
    more = f"; {summary['split']} dialogues split between turns" if summary["split"] else ""
    if summary["left_out"]:
        more += f"; {len(summary['left_out'])} turns longer than the context left out"
    free = "" if plan.free is None else f", {fit.size(plan.free)} free"
    return (
        f"plan: {method}, {summary['trained_parameters']:,} of {summary['all_parameters']:,} parameters; "
        f"{summary['training_samples']:,} samples in {summary['rows']:,} rows an epoch, {summary['tokens']:,} tokens, "
        f"{summary['trained_tokens']:,} trained; {summary['steps']:,} steps; about {fit.size(plan.total)} of memory "
        f"({fit.size(plan.weights)} weights, {fit.size(plan.gradients)} gradients, {fit.size(plan.optimiser)} optimiser, "
        f"{fit.size(plan.activations)} activations{' computed again' if plan.recompute else ''}), "
        f"and up to a third more for libraries and between allocations{free}{more}"
    )


# -- going on


def _identity(job: dict[str, Any], dtype: torch.dtype, world: World) -> str:
    """Return the digest of all that a checkpoint depends on: what is trained, from what, on which kind of machine."""
    if not world.main:
        return str(world.agree(None))
    files = {
        path.relative_to(job["base"]).as_posix(): sha256(path)
        for path in sorted(Path(job["base"]).rglob("*"))
        if path.is_file()
    }
    facts = {
        "train": job["train"],
        "character": job["character"],
        "base": files,
        "sft": sha256(Path(job["sft"])),
        "dtype": str(dtype),
        "device": world.device.type,
        "processes": world.size,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return str(world.agree(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()))


def _agreed(
    kept: Path, identity: str, tell: Callable[[str], None], world: World
) -> checkpoint.Checkpoint | None:
    """Return the newest checkpoint that every process has a part of, intact."""
    below: int | None = None
    while True:
        mine = checkpoint.latest(kept, identity, tell, below=below)
        theirs = world.gather(mine.step if mine else 0)
        if min(theirs) == max(theirs):
            return mine
        below = min(theirs)


def _put_back(parameters: dict[str, torch.Tensor], best: Path | dict[str, torch.Tensor]) -> None:
    if isinstance(best, Path):
        from safetensors.torch import load_file

        tensors = load_file(best)
    else:
        tensors = best
    with torch.no_grad():
        for name, parameter in parameters.items():
            optimise.local(parameter).copy_(tensors[name])


# -- on the way


def _mean_loss(log: Sequence[dict[str, Any]], batch_of: Callable[[int], list[Sample]]) -> float:
    """Return the mean loss over all targets of the log's steps."""
    counts = [sum(len(sample.targets) for sample in batch_of(line["step"])) for line in log]
    total: float = sum(line["loss"] * count for line, count in zip(log, counts, strict=True))
    return total / sum(counts)


def _names(batch: Sequence[Sample]) -> str:
    shown = [sample.name for sample in batch[:16]]
    return ", ".join(shown) + (f" and {len(batch) - 16} more" if len(batch) > 16 else "")


def _memory(device: torch.device, *, peak: bool) -> int | None:
    """Return the bytes this process takes on its device, now or at the most."""
    if device.type == "cuda":
        return int((torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)(device))
    try:
        import resource

        if peak:
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (ImportError, OSError):  # Windows; not Linux
        return None


# -- afterwards


def _save(model: Any, tokenizer: Any, job: dict[str, Any], dtype: torch.dtype, world: World) -> None:
    """Write the model, or the adapter, into the job's folder; only the first process writes."""
    settings, out = job["train"], Path(job["out"])
    whole = model if world.size == 1 else model.gathered()
    if not world.main:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if settings["method"] == "full":
        save_folder(whole, tokenizer, out)
        return
    from charforge.models import adapter

    base_name = job.get("base_name") or Path(job["base"]).name
    if not settings["lora"]["merge"]:
        adapter.save_adapter(whole, tokenizer, out, base_name)
        return
    if settings["method"] == "qlora":
        # The base in four bits has lost what it was rounded to: the adapter goes into the base as it is.
        beside = out.parent / f".{out.name}-adapter"
        adapter.save_adapter(whole, tokenizer, beside, base_name)
        whole, _ = adapter.load_adapter(Path(job["base"]), beside, dtype)
        for path in beside.iterdir():
            path.unlink()
        beside.rmdir()
    save_folder(adapter.merge(whole), tokenizer, out)


if __name__ == "__main__":
    # cuBLAS repeats its results only with a workspace of a fixed size, and reads this once, when it is loaded.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "--member" in sys.argv:
        serve_member(train)
    else:
        serve_job(train)
