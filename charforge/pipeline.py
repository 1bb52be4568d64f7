"""The whole product: from a character's spec to the graph of stages that makes it.

The only place, with `evaluation`, where the engine and the stages meet. Each stage sees its own part of the spec, so that
what it does not see cannot make it stale.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from charforge import evaluation, templates
from charforge.assembly import (
    Assembly,
    Character,
    Outputs,
    Progress,
    Workshop,
    by_id,
    generating,
    part,
    read_json,
    read_jsonl,
)
from charforge.engine.build import Context
from charforge.engine.digest import canonical, jsonl
from charforge.engine.graph import Output, Source
from charforge.engine.receipt import Stamps
from charforge.files import decode
from charforge.llm.local import WeightsRef
from charforge.probes import ANSWER_TOKENS, probes
from charforge.sections import CharacterSpec, Generated, Prompted
from charforge.sources import Base, check_unchanged
from charforge.spec import MAX_DATA_BYTES, is_local
from charforge.stages import dataset, dialogues, profile, protective, scenes, written
from charforge.stages.released import File

__all__ = ["OBSERVED", "RELEASED", "STAGES", "Character", "Progress", "Workshop", "character"]

STAGES = (
    "profile",
    "written",
    "scenes",
    "dialogues",
    "protective",
    "dataset",
    "base",
    "model",
    "questions",
    "interviews",
    "metrics",
    "scores",
    "report",
)
"""In the order of a character that is trained."""

RELEASED = "released"
"""The stage of characters that train on files of the hub; others have none."""

OBSERVED = frozenset({"model", RELEASED})
"""Stages whose outputs are observed: a training, a download. All others give the same bytes again from recorded replies."""

RELEASED_VERSION = 1
BASE_VERSION = 2
MODEL_VERSION = 2


def character(spec: CharacterSpec, workspace: Path, workshop: Workshop, stamps: Stamps) -> Character:
    """Return the stages that make a character. Its files are read now, and once: the build sees this snapshot.

    `stamps` notes what was read. Raises FileProblems.
    """
    if not isinstance(spec.train.data, str):  # somebody else's, so nothing is generated
        spec = replace(
            spec, scenes=replace(spec.scenes, count=0), protective=replace(spec.protective, count=0)
        )
    into = Assembly.of(spec, workspace, workshop, stamps)
    add_profile(into)
    if spec.interview.trained:
        add_experience(into)
        add_dataset(into)
    if spec.interview.trained or "base" in spec.interview.baselines:
        base = add_base(into)
        if spec.interview.trained:
            add_model(into, base)
    evaluation.add(into)
    return into.made


# -- experience reconstruction ---------------------------------------------------------------------------------------


def add_profile(into: Assembly) -> None:
    """Add the profile."""
    spec = into.spec
    profile_source = into.sources.file(spec.profile.file)

    async def run_profile(ctx: Context) -> Outputs:
        text = decode(ctx.read("profile"), spec.profile.file)
        return {"profile.json": canonical(profile.read(text, file=spec.profile.file))}

    into.add(
        "profile",
        profile.VERSION,
        run_profile,
        params={},
        inputs={"profile": profile_source},
        view={"profile.json": "profile.json"},
    )


def add_experience(into: Assembly) -> None:
    """Add what the character is made of: written, generated and protective dialogues."""
    spec = into.spec

    async def run_written(ctx: Context) -> Outputs:
        records: tuple[list[Any], list[Any]] = ([], [])
        if spec.written is not None:
            records = written.read(
                decode(ctx.read("written"), spec.written),
                file=spec.written,
                short_name=ctx.params["short_name"],
                paragraph_ids=[paragraph["id"] for paragraph in read_json(ctx, "profile")["paragraphs"]],
            )
        return {"dialogues.jsonl": by_id(records[0]), "protective.jsonl": by_id(records[1])}

    into.add(
        "written",
        written.VERSION,
        run_written,
        params={"short_name": spec.short_name},
        inputs=into.profile
        if spec.written is None
        else {**into.profile, "written": into.sources.file(spec.written)},
        view={"dialogues.jsonl": "written/dialogues.jsonl", "protective.jsonl": "written/protective.jsonl"},
    )

    generating(into, "scenes", scenes, section=part(spec.scenes), followed=True)
    generating(into, "dialogues", dialogues, section=part(spec.dialogues), follows="scenes")
    generating(into, "protective", protective, section=part(spec.protective))


# -- the training set, and experience upload ------------------------------------------------------------------------


def add_dataset(into: Assembly) -> None:
    """Add the training set, of what was made here or of what others released."""
    spec = into.spec
    data = spec.train.data
    meta_source = into.sources.prompt("meta", None)

    # Files of others: released data in place of what is built here, and general samples beside either.
    outside = {
        "data": data.prompted
        if isinstance(data, Prompted)
        else data.generated
        if isinstance(data, Generated)
        else None,
        "general": None if spec.train.mix is None else spec.train.mix.data,
    }
    files: dict[str, Source | Output] = {
        key: into.sources.data(name.removeprefix("./")) if is_local(name) else into.out(RELEASED, key)
        for key, name in outside.items()
        if name is not None
    }
    on_the_hub = {key: name for key, name in outside.items() if name is not None and not is_local(name)}

    async def run_released(ctx: Context) -> Outputs:
        for key, name in ctx.params["files"].items():
            ctx.record[key] = await into.workshop.bring(
                {"file": name, "out": str(ctx.scratch / key), "limit": MAX_DATA_BYTES}, ctx.progress
            )
        return {key: ctx.scratch / key for key in ctx.params["files"]}

    if on_the_hub:
        into.add(RELEASED, RELEASED_VERSION, run_released, params={"files": on_the_hub}, inputs={}, view={})

    async def run_dataset(ctx: Context) -> Outputs:
        person = ctx.params["person"]
        given: dict[str, Any] = {
            "profile": read_json(ctx, "profile"),
            "meta": templates.render(ctx.read("prompt:meta").decode(), meta_source.label, **person),
            "short_name": person["short_name"],
            **ctx.params["dataset"],
        }
        if mix := ctx.params.get("mix"):
            given["mix"] = dataset.Mix(File(ctx.read("general"), str(outside["general"])), **mix)
        if form := ctx.params.get("form"):
            made_here = dataset.build_released(
                form=form, file=File(ctx.read("data"), str(outside["data"])), name=person["name"], **given
            )
        else:
            made_here = dataset.build(
                dialogues=read_jsonl(ctx, "dialogues"),
                protective=read_jsonl(ctx, "protective"),
                written=read_jsonl(ctx, "written"),
                written_protective=read_jsonl(ctx, "written_protective"),
                near_duplicate=ctx.params["near_duplicate"] or None,
                **given,
            )
        sft, stats, rejected = made_here
        return {"sft.jsonl": jsonl(sft), "stats.json": canonical(stats), "rejected.jsonl": by_id(rejected)}

    built_here: dict[str, Source | Output] = {
        "dialogues": into.out("dialogues", "dialogues.jsonl"),
        "protective": into.out("protective", "protective.jsonl"),
        "written": into.out("written", "dialogues.jsonl"),
        "written_protective": into.out("written", "protective.jsonl"),
    }
    chosen: dict[str, Any] = (
        {"near_duplicate": spec.checks.rules()["near-duplicate"]}
        if isinstance(data, str)
        else {"form": "prompted" if isinstance(data, Prompted) else "generated"}
    )
    if spec.train.mix is not None:
        chosen["mix"] = {"ratio": spec.train.mix.ratio, "seed": spec.train.seed}
    into.add(
        "dataset",
        dataset.VERSION,
        run_dataset,
        params={"person": into.person, "dataset": part(spec.dataset), **chosen},
        inputs={
            **into.profile,
            **(built_here if isinstance(data, str) else {}),
            **files,
            "prompt:meta": meta_source,
        },
        view={
            "sft.jsonl": "sft.jsonl",
            "stats.json": "stats.json",
            "rejected.jsonl": "rejected/dataset.jsonl",
        },
    )


def add_base(into: Assembly) -> Base:
    """Add the base weights, and return what they are taken from."""
    base = into.sources.base(into.spec.train.base_model)

    async def run_base(ctx: Context) -> Outputs:
        folder = ctx.scratch / "weights"
        ctx.record |= await into.workshop.export_base({"base": base.job, "out": str(folder)}, ctx.progress)
        await asyncio.to_thread(check_unchanged, base)
        return {"weights/": folder}

    # Not in the view: it is the model before training, gigabytes for a large one, and has its own name elsewhere.
    into.add("base", BASE_VERSION, run_base, params={"base": base.params}, inputs={}, view={})
    return base


def add_model(into: Assembly, base: Base) -> None:
    """Add the training."""
    spec = into.spec
    adapter = evaluation.is_adapter(spec)
    recipe = part(spec.train, without=("base_model", "data", "mix", "keep_checkpoints"))
    if spec.train.method == "full":
        recipe["lora"] = None

    async def run_model(ctx: Context) -> Outputs:
        sft = ctx.scratch / "sft.jsonl"
        sft.write_bytes(ctx.read("sft"))
        folder, before = ctx.scratch / "out", str(await ctx.folder("base"))
        job = {
            "base": before,
            "base_name": ctx.params["base_name"],
            "sft": str(sft),
            "out": str(folder),
            "kept": str(ctx.kept),
            "keep_checkpoints": spec.train.keep_checkpoints,
            "character": ctx.params["short_name"],
            "train": ctx.params["train"],
        }
        ctx.record |= await into.workshop.train(job, ctx.progress)
        made = (
            WeightsRef("adapter", str(folder), base=before) if adapter else WeightsRef("folder", str(folder))
        )
        answers = await into.workshop.probe(
            {
                "base": before,
                "model": made.message(),
                "probes": probes(read_jsonl(ctx, "sft"), ctx.params["short_name"]),
                "max_tokens": ANSWER_TOKENS,
            },
            ctx.progress,
        )
        return {
            "weights/": folder,
            "train_log.jsonl": (ctx.scratch / "train_log.jsonl").read_bytes(),
            "train_summary.json": (ctx.scratch / "train_summary.json").read_bytes(),
            "probes.jsonl": jsonl(answers["answers"]),
        }

    into.add(
        "model",
        MODEL_VERSION,
        run_model,
        params={
            "short_name": spec.short_name,
            "train": recipe,
            # An adapter says what it goes onto.
            "base_name": base.name if adapter else None,
        },
        inputs={"base": into.out("base", "weights/"), "sft": into.out("dataset", "sft.jsonl")},
        view={
            "weights/": "model/",
            "train_log.jsonl": "train_log.jsonl",
            "train_summary.json": "train_summary.json",
            "probes.jsonl": "probes.jsonl",
        },
    )
