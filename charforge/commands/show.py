"""`charforge show` and `charforge stats`: read what was built. What a model wrote is printed as data, never obeyed."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from charforge.commands.loading import NeverBuiltError, known_stage, last_made, load_for
from charforge.engine.build import left_by
from charforge.engine.stale import UP_TO_DATE, plan
from charforge.engine.store import Store
from charforge.errors import CharForgeError, UsageError
from charforge.progress import clean
from charforge.workshop import LocalWorkshop
from charforge.workspace import Target, targets

# What a stage has to show, in reading order.
_RECORDS: dict[str, tuple[str, ...]] = {
    "profile": ("profile.json",),
    "written": ("dialogues.jsonl", "protective.jsonl"),
    "scenes": ("scenes.jsonl",),
    "dialogues": ("dialogues.jsonl",),
    "protective": ("protective.jsonl",),
    "dataset": ("sft.jsonl",),
    "model": ("train_summary.json", "train_log.jsonl"),
    "questions": ("questions.json", "set_aside.jsonl"),
    "interviews": ("single.jsonl", "turns.jsonl"),
    "metrics": ("metrics.json", "measures.jsonl"),
    "scores": ("exam.json", "statistics.json", "scores.jsonl", "pairs.jsonl"),
    "report": ("report.json",),
}


def run_show(args: argparse.Namespace) -> int:
    """Print a stage's records."""
    stage = known_stage(args.stage, "show")
    if stage not in _RECORDS:
        raise UsageError(
            f"show: {stage} makes weights, and nothing to read", f"charforge show {args.specs[0]} model"
        )
    target = targets(args.specs)[0]
    if args.mask:
        return _show_mask(args, target, stage)
    if args.yaml:
        return _show_yaml(args, target, stage)
    with Store(target.workspace / ".charforge") as store:
        outputs = _outputs(store, target, stage, args, failed=args.rejected)
        names = ("rejected.jsonl",) if args.rejected else _RECORDS[stage]
        records = [
            record
            for name in names
            if name in outputs
            for record in _records(store.read(outputs[name]), name)
        ]
    if args.record is not None:
        records = [record for record in records if _id(record).startswith(args.record)]
        if not records:
            raise CharForgeError(
                f"{target.id}: {stage} has no record {args.record!r}", "show it without an ID for a list"
            )
    shown = records[: args.limit]
    for record in shown:
        if args.json:
            print(json.dumps(record, ensure_ascii=False, sort_keys=True))
        else:
            print("\n".join(render(record)), end="\n\n")
    if not args.json and len(records) > len(shown):
        print(f"{len(records) - len(shown)} more; --limit shows them")
    if not records and not args.json:
        print(f"{target.id}: {stage} {'rejected nothing' if args.rejected else 'has no records'}")
    return 0


def _show_yaml(args: argparse.Namespace, target: Target, stage: str) -> int:
    """Print the questions as a file that a spec can name: generated ones, frozen for good."""
    from charforge import questions

    if stage != "questions" or args.rejected:
        raise UsageError("show: --yaml is for questions", f"charforge show {args.specs[0]} questions --yaml")
    with Store(target.workspace / ".charforge") as store:
        found = json.loads(store.read(_outputs(store, target, stage, args)["questions.json"]))
        name = json.loads(store.read(_outputs(store, target, "profile", args)["profile.json"]))["name"]
    print(questions.as_yaml(found["single"], found["multi"], name), end="")
    return 0


def _show_mask(args: argparse.Namespace, target: Target, stage: str) -> int:
    """Print a sample as the trainer reads it, token by token, with those marked that loss falls on."""
    import asyncio

    from charforge.models.process import run_job

    if stage != "dataset" or args.rejected:
        raise UsageError("show: --mask is for samples", f"charforge show {args.specs[0]} dataset --mask")
    loaded, graph = load_for(args, [target], LocalWorkshop())
    character = loaded[0].character
    spec = character.spec
    with Store(target.workspace / ".charforge") as store:
        planned = plan(store, graph, [character.stage("dataset"), character.stage("base")])
        samples, base = (
            last_made(store, planned[character.stage(name)], target, name).outputs[output]
            for name, output in (("dataset", "sft.jsonl"), ("base", "weights/"))
        )
        with store.scratch() as scratch:
            sft = scratch / "sft.jsonl"
            sft.write_bytes(store.read(samples))
            job = {
                "base": str(store.checkout(base)),
                "sft": str(sft),
                "character": spec.short_name,
                "loss": spec.train.loss,
                "context_length": spec.train.context_length,
                "sample": args.record,
            }
            found = asyncio.run(run_job("charforge.models.mask", job, lambda _progress: None))
    if args.json:
        print(json.dumps(found, ensure_ascii=False, sort_keys=True))
        return 0
    tokens = found["tokens"]
    trained = sum(token["trained"] for token in tokens)
    print(clean(f"── {_id(found['sample'])} ──"))
    print(f"{len(tokens)} tokens; loss falls on the {trained} in ⟦⟧ (train.loss: {spec.train.loss})\n")
    print("\n".join(clean(line) for line in _marked(tokens).split("\n")))
    return 0


def _marked(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Return the tokens' text with every run of trained ones in ⟦⟧."""
    runs = itertools.groupby(tokens, key=lambda token: bool(token["trained"]))
    texts = ((trained, "".join(token["text"] for token in run)) for trained, run in runs)
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in texts)


def run_stats(args: argparse.Namespace) -> int:
    """Print the paper's table of training data: scenes, words, mean turns."""
    rows: dict[str, Mapping[str, Any]] = {}
    missing: list[CharForgeError] = []
    wanted = targets(args.specs)
    with Store(wanted[0].workspace / ".charforge") as store:
        for target in wanted:
            try:
                outputs = _outputs(store, target, "dataset", args)
            except NeverBuiltError as error:
                missing.append(error)
            else:
                rows[target.id] = json.loads(store.read(outputs["stats.json"]))
    if args.json:
        print(json.dumps(rows, indent=2, sort_keys=True))
    elif rows:
        columns = ("scenes", "words", "mean_turns")
        print(f"{'character':24} {'kind':24} {'scenes':>8} {'words':>10} {'turns':>7}")
        for name, stats in rows.items():
            for kind, figures in _kinds(stats):
                scenes, words, turns = (_number(figures.get(column)) for column in columns)
                print(f"{name:24} {kind:24} {scenes:>8} {words:>10} {turns:>7}")
    for never in missing:
        print(never.render(), file=sys.stderr)
    return 1 if missing else 0


def _kinds(stats: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from sorted(stats.get("by_kind", {}).items())
    yield "all", stats["all"]


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _outputs(
    store: Store, target: Target, stage: str, args: argparse.Namespace, *, failed: bool = False
) -> Mapping[str, str]:
    """Return a stage's current outputs; those of its last run where it is stale, and say so.

    `failed`: before those, what the stage left when it failed.
    """
    loaded, graph = load_for(args, [target], LocalWorkshop())
    name = loaded[0].character.stage(stage)
    planned = plan(store, graph, [name])[name]
    if failed and planned.status != UP_TO_DATE and planned.action is not None:
        left = left_by(store, planned.action)
        if left is not None:
            print(f"note: {target.id}: {stage} failed; this is what it rejected until then", file=sys.stderr)
            return left
    return last_made(store, planned, target, stage).outputs


def _records(data: bytes, name: str) -> Iterator[dict[str, Any]]:
    if name.endswith(".jsonl"):
        for line in data.splitlines():
            yield json.loads(line)
        return
    whole = json.loads(data)
    if "paragraphs" in whole:
        yield from whole["paragraphs"]
    elif name == "questions.json":
        yield from (*whole["single"], *whole["multi"])
    else:
        yield whole


def render(record: Mapping[str, Any]) -> list[str]:
    """Return any record as lines for a person: the heading, its turns or texts, the rest as fields."""
    lines: list[str] = []
    if head := _id(record):
        lines.append(clean(f"── {head} ──"))
    for key, value in record.items():
        if key in {"id", "turns"} or value in (None, [], ""):
            continue
        lines.extend(_field(key, value))
    for turn in record.get("turns", ()):
        lines.append("")
        lines.extend(_wrap(f"{turn['role']} ({turn['action']}): {turn['content']}"))
    return lines


def _id(record: Mapping[str, Any]) -> str:
    """Return a record's id; a training sample is a part of its source."""
    if "id" not in record and "part" in (source := record.get("source") or {}):
        return f"{source['id']} part {source['part']}"
    return str(record.get("id", ""))


def _field(key: str, value: Any, indent: str = "") -> Iterator[str]:
    """Yield a field as `key: value`, wrapped; texts of several lines and mappings go below their key."""
    if isinstance(value, str) and "\n" in value:
        yield clean(f"{indent}{key}:")
        yield from (clean(f"{indent}  {line}").rstrip() for line in value.splitlines())
    elif isinstance(value, dict) and value:
        yield clean(f"{indent}{key}:")
        for name, inner in value.items():
            yield from _field(name, inner, indent + "  ")
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield from _wrap(f"{key}: {', '.join(value)}", indent)
    elif isinstance(value, str):
        yield from _wrap(f"{key}: {value}", indent)
    else:
        yield from _wrap(f"{key}: {json.dumps(value, ensure_ascii=False)}", indent)


def _wrap(text: str, indent: str = "") -> list[str]:
    found = textwrap.wrap(clean(text), width=100, initial_indent=indent, subsequent_indent=indent + "  ")
    return found or [""]
