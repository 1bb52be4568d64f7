"""The report's section on training: records of the trainer in, its words, table and curve out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from charforge.report import charts, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Record = Mapping[str, Any]


def section(summary: Record, log: Sequence[Record], spec: Record) -> dict[str, Any]:
    """Return what the page shows of training; `report` in it is the part for report.json.

    `summary` is train_summary.json, `log` the records of train_log.jsonl; either may be empty.
    """
    counted = counts(spec)
    epochs = list(summary.get("epochs") or [])
    chosen = summary.get("chosen_epoch")
    before = words.finite(summary.get("base_loss"))
    after = next((words.finite(one["held_out_loss"]) for one in epochs if one["epoch"] == chosen), None)
    held_out = list(summary.get("held_out") or [])
    facts = {
        "held_out_before": before,
        "held_out_after": after,
        "chosen_epoch": chosen,
        "epochs": len(epochs),
        "samples": summary.get("training_samples"),
        "held_out": len(held_out),
        "trained_tokens": summary.get("trained_tokens"),
        "parameters": summary.get("all_parameters", summary.get("parameters")),
        "trained_parameters": summary.get("trained_parameters"),
        "split": summary.get("split"),
        "left_out": len(summary.get("left_out") or []),
    }
    rows = [
        {
            "name": "before",
            "train": "–",
            "held_out": _loss(before),
            "perplexity": _perplexity(before),
            "kept": chosen == 0,
        }
    ]
    rows += [
        {
            "name": one["epoch"],
            "train": _loss(words.finite(one.get("train_loss"))),
            "held_out": _loss(words.finite(one.get("held_out_loss"))),
            "perplexity": _perplexity(words.finite(one.get("held_out_loss"))),
            "kept": one["epoch"] == chosen,
        }
        for one in epochs
    ]
    known = [
        f"{words.count(value)} {what}"
        for key, what in (
            ("training_samples", "samples"),
            ("trained_tokens", "tokens under the loss"),
            ("steps", "steps"),
            ("trained_parameters", "trained parameters"),
            ("all_parameters", "parameters in all"),
        )
        if isinstance(value := summary.get(key), int)
    ]
    return {
        "report": facts,
        "verdict": _training_verdict(before, after, chosen, len(epochs), counted),
        "plot": _loss_plot(log, epochs, before, chosen),
        "held_out": f"{len(held_out)} {'dialogue' if len(held_out) == 1 else 'dialogues'}",
        "chosen": chosen,
        "epochs": rows if epochs else [],
        "counted": counted,
        "facts": " ".join(
            filter(None, [f"Trained with {', '.join(known)}." if known else "", _split(summary)])
        ),
    }


def _split(summary: Record) -> str:
    """Return what did not fit the context as it was, in words; nothing is cut silently."""
    split, left_out = summary.get("split"), len(summary.get("left_out") or [])
    parts = []
    if split:
        parts.append(
            f"{words.count(split)} {'dialogue was' if split == 1 else 'dialogues were'} longer than the context and split between turns"
        )
    if left_out:
        parts.append(
            f"{words.count(left_out)} {'turn' if left_out == 1 else 'turns'} did not fit even alone and {'was' if left_out == 1 else 'were'} left out"
        )
    return f"{'; '.join(parts)}.".capitalize() if parts else ""


def counts(spec: Record) -> str:
    """Return what the loss falls on, in words."""
    short_name = spec["short_name"]
    return {
        "character": f"{short_name}’s own turns",
        "character_speech": f"what {short_name} says aloud",
    }.get(spec["train"].get("loss", "character"), "whole dialogues")


def _training_verdict(
    before: float | None, after: float | None, chosen: int | None, epochs: int, counted: str
) -> str:
    if before is None or after is None:
        return "That cannot be said here: no dialogue was held out to measure it by."
    change = f"from {before:.2f} to {after:.2f}, a perplexity of {_perplexity(before)} before and {_perplexity(after)} after"
    if after < before:
        words = f"Yes. On dialogues it never saw, the loss of {counted} fell {change}."
    else:
        words = f"No. On dialogues it never saw, the loss of {counted} went {change}."
    if chosen and epochs > 1:
        words += f" Epoch {chosen} of {epochs} was kept."
    return words


def _loss_plot(
    log: Sequence[Record], epochs: Sequence[Record], before: float | None, chosen: int | None
) -> Any:
    steps = [(float(one["step"]), loss) for one in log if (loss := words.finite(one.get("loss"))) is not None]
    last = max((step for step, _ in steps), default=float(len(epochs)))
    ends = {one["epoch"]: float(one["step"]) for one in log}
    held: list[tuple[float, float]] = [] if before is None else [(0.0, before)]
    ring = None
    for number, one in enumerate(epochs, 1):
        loss = words.finite(one.get("held_out_loss"))
        if loss is None:
            continue
        if one["epoch"] == chosen:
            ring = len(held)
        held.append((ends.get(one["epoch"], last * number / len(epochs)), loss))
    return charts.loss_curve(steps, held, ring)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _perplexity(value: float | None) -> str:
    return "–" if value is None else f"{math.exp(min(value, 50.0)):.2f}"
