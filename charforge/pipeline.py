"""The whole product on one page: from a character's spec to the graph of stages that makes it.

The only place where the engine and the stages meet. Each stage sees its own part of the spec, so that what it
does not see cannot make it stale.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from charforge import questions, templates
from charforge.asking import Answering, asking
from charforge.checks import Rules
from charforge.engine.build import Context
from charforge.engine.digest import canonical, jsonl, of_bytes
from charforge.engine.graph import Output, Source, Stage
from charforge.engine.receipt import Stamps
from charforge.errors import CharForgeError
from charforge.files import decode
from charforge.llm.client import weights_digest
from charforge.llm.local import WeightsRef
from charforge.llm.request import Ask
from charforge.probes import ANSWER_TOKENS, probes
from charforge.sections import CharacterSpec, Generated, Prompted
from charforge.sources import Sources, as_source, check_unchanged
from charforge.spec import MAX_DATA_BYTES, is_local
from charforge.stages import (
    dataset,
    dialogues,
    interviews,
    profile,
    protective,
    report,
    scenes,
    scores,
    written,
)
from charforge.stages.released import File
from charforge.stages.slots import Drawn, TooFew, Writer
from charforge.stages.slots import Generated as Made

STAGES = (
    "profile",
    "written",
    "scenes",
    "dialogues",
    "protective",
    "dataset",
    "base",
    "model",
    "interviews",
    "scores",
    "report",
)

RELEASED = "released"
"""The stage of characters that train on files of the hub; others have none."""

RELEASED_VERSION = 1
BASE_VERSION = 2
MODEL_VERSION = 2
SEED = 0
"""Of all sampling. Draws and repeats differ by their draw index, so nobody needs to choose another."""

Outputs = Mapping[str, bytes | Path]
Progress = Callable[[int, int, str], None]


class Workshop(Answering, Protocol):
    """Where the work is done. Tests bring their own."""

    async def bring(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Write a file of a data set on the hub to `job["out"]`; return facts for the record."""

    async def export_base(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Write base weights into `job["out"]`; return facts for the record."""

    async def train(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Fine-tune as `job` says into `job["out"]`; return facts for the record."""

    async def probe(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Return `{"answers"}` of the models before and after training to the probe questions in `job`."""


@dataclass(slots=True)
class Character:
    """One character's part of the build: its stages, and how its outputs are shown."""

    spec: CharacterSpec
    stages: list[Stage] = field(default_factory=list)
    view: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name in `build/<id>/` → (stage, output)."""

    def models(self) -> dict[str, list[str]]:
        """Return the models that each stage asks, by name, but for weights that the build itself makes."""
        spec = self.spec
        generator = [spec.generator.model]
        asked = [
            spec.interview.interviewer.model,
            *(name for name in spec.interview.baselines if name != "base"),
        ]
        return {
            "scenes": generator if spec.scenes.count else [],
            "dialogues": generator if spec.scenes.count else [],
            "protective": generator if spec.protective.count != 0 else [],
            "interviews": asked,
            "scores": [spec.judge.model],
        }

    def stage(self, name: str) -> str:
        """Return a stage's name in the graph. Raises CharForgeError where this character has no such stage."""
        if name not in self.names:
            raise CharForgeError(f"{self.spec.id} has no stage {name}: it trains on nothing from the hub")
        return f"{self.spec.id}/{name}"

    @property
    def names(self) -> list[str]:
        """The names of its stages, without the character's id."""
        return [stage.name.split("/", 1)[1] for stage in self.stages]


def character(spec: CharacterSpec, workspace: Path, workshop: Workshop, stamps: Stamps) -> Character:
    """Return the stages that make a character. Its files are read now, and once: the build sees this snapshot.

    `stamps` notes what was read. Raises FileProblems.
    """
    data = spec.train.data
    if not isinstance(data, str):  # somebody else's, so nothing is generated
        spec = replace(
            spec, scenes=replace(spec.scenes, count=0), protective=replace(spec.protective, count=0)
        )
    made = Character(spec)
    sources = Sources(workspace, stamps)
    generator = {
        "model": spec.generator.model,
        "weights": weights_digest(spec.generator.model),
        "temperature": spec.generator.temperature,
        "top_p": spec.generator.top_p,
        "max_tokens": spec.generator.max_tokens,
        "seed": SEED,
    }
    person = {"name": spec.name, "short_name": spec.short_name}
    boundary = {"knows_until": spec.knows.until, "never": list(spec.knows.never)}
    id_ = spec.id

    def add(
        name: str,
        version: int,
        run: Callable[[Context], Awaitable[Outputs]],
        *,
        params: Mapping[str, Any],
        inputs: Mapping[str, Source | Output],
        view: Mapping[str, str],
        ahead: Callable[[Context], Awaitable[None]] | None = None,
        follows: str | None = None,
    ) -> None:
        before = None if follows is None else f"{id_}/{follows}"
        made.stages.append(Stage(f"{id_}/{name}", name, version, params, inputs, run, ahead, before))
        made.view |= {shown: (name, output) for output, shown in view.items()}

    def out(stage: str, name: str) -> Output:
        return Output(f"{id_}/{stage}", name)

    # -- experience reconstruction -------------------------------------------------------------------------------

    profile_source = sources.file(spec.profile.file)

    async def run_profile(ctx: Context) -> Outputs:
        text = decode(ctx.read("profile"), spec.profile.file)
        return {"profile.json": canonical(profile.read(text, file=spec.profile.file))}

    add(
        "profile",
        profile.VERSION,
        run_profile,
        params={},
        inputs={"profile": profile_source},
        view={"profile.json": "profile.json"},
    )
    read_profile = {"profile": out("profile", "profile.json")}

    async def run_written(ctx: Context) -> Outputs:
        records: tuple[list[Any], list[Any]] = ([], [])
        if spec.written is not None:
            records = written.read(
                decode(ctx.read("written"), spec.written),
                file=spec.written,
                short_name=ctx.params["short_name"],
                paragraph_ids=[paragraph["id"] for paragraph in _json(ctx, "profile")["paragraphs"]],
            )
        return {"dialogues.jsonl": _sorted(records[0]), "protective.jsonl": _sorted(records[1])}

    add(
        "written",
        written.VERSION,
        run_written,
        params={"short_name": spec.short_name},
        inputs=read_profile
        if spec.written is None
        else {**read_profile, "written": sources.file(spec.written)},
        view={"dialogues.jsonl": "written/dialogues.jsonl", "protective.jsonl": "written/protective.jsonl"},
    )

    generated = {
        "rejected.jsonl": "rejected/{}.jsonl",
        "yield.json": "yield/{}.json",
        "calls.jsonl": "calls/{}.jsonl",
    }

    checked = spec.checks.rules()

    def generating(
        name: str,
        module: Any,
        *,
        section: Mapping[str, Any],
        follows: str | None = None,
        followed: bool = False,
    ) -> None:
        """Add a generating stage. One that `follows` another draws for each of its records as soon as it is there."""
        more = {} if follows is None else {follows: out(follows, f"{follows}.jsonl")}
        used = {key: sources.prompt_at(path) for key, path in module.templates(spec.generator.model).items()}

        judged: dict[tuple[str, int, str], Drawn] = {}  # by a head start, for the stage itself
        desk = asyncio.Lock()

        def given(ctx: Context, ask: Ask) -> dict[str, Any]:
            return {
                "profile": _json(ctx, "profile"),
                **ctx.params["person"],
                **ctx.params["boundary"],
                **ctx.params[name],
                "rules": Rules(ctx.params["checks"]),
                "writer": Writer(
                    **ctx.params["generator"],
                    prompts={key: ctx.read(f"prompt:{key}").decode() for key in used},
                    ask=ask,
                    judged=judged,
                    desk=desk,
                ),
                "on_progress": ctx.progress,
            }

        def outputs(made_here: Made) -> dict[str, bytes]:
            return {
                f"{name}.jsonl": _sorted(made_here.records),
                "rejected.jsonl": _sorted(made_here.rejected),
                "calls.jsonl": _sorted(made_here.calls),
                "yield.json": canonical(made_here.yield_),
            }

        async def run(ctx: Context) -> Outputs:
            streams = {"on_passed": ctx.publish} if followed else {}
            with asking(ctx, workshop, {}) as ask:
                read = {key: _jsonl(ctx, key) for key in more}
                try:
                    return outputs(await module.generate(**given(ctx, ask), **read, **streams))
                except TooFew as error:
                    ctx.leave(outputs(error.made))
                    raise
                finally:
                    judged.clear()

        async def ahead(ctx: Context) -> None:
            with asking(ctx, workshop, {}) as ask:
                await module.ahead(**given(ctx, ask), **{str(follows): ctx.published()})

        add(
            name,
            module.VERSION,
            run,
            params={
                "generator": generator,
                "person": person,
                "boundary": boundary,
                "checks": {rule: checked[rule] for rule in module.applied(spec.generator.model)},
                name: dict(section),
            },
            inputs={**read_profile, **more, **{f"prompt:{key}": value for key, value in used.items()}},
            view={
                f"{name}.jsonl": f"{name}.jsonl",
                **{key: value.format(name) for key, value in generated.items()},
            },
            ahead=ahead if follows else None,
            follows=follows,
        )

    generating("scenes", scenes, section=_part(spec.scenes), followed=True)
    generating("dialogues", dialogues, section=_part(spec.dialogues), follows="scenes")
    generating("protective", protective, section=_part(spec.protective))

    # -- the training set, and experience upload -----------------------------------------------------------------

    meta_source = sources.prompt("meta", None)

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
        key: sources.data(name.removeprefix("./")) if is_local(name) else out(RELEASED, key)
        for key, name in outside.items()
        if name is not None
    }
    on_the_hub = {key: name for key, name in outside.items() if name is not None and not is_local(name)}

    async def run_released(ctx: Context) -> Outputs:
        for key, name in ctx.params["files"].items():
            ctx.record[key] = await workshop.bring(
                {"file": name, "out": str(ctx.scratch / key), "limit": MAX_DATA_BYTES}, ctx.progress
            )
        return {key: ctx.scratch / key for key in ctx.params["files"]}

    if on_the_hub:
        add(RELEASED, RELEASED_VERSION, run_released, params={"files": on_the_hub}, inputs={}, view={})

    async def run_dataset(ctx: Context) -> Outputs:
        person = ctx.params["person"]
        given: dict[str, Any] = {
            "profile": _json(ctx, "profile"),
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
                dialogues=_jsonl(ctx, "dialogues"),
                protective=_jsonl(ctx, "protective"),
                written=_jsonl(ctx, "written"),
                written_protective=_jsonl(ctx, "written_protective"),
                near_duplicate=ctx.params["near_duplicate"] or None,
                **given,
            )
        sft, stats, rejected = made_here
        return {"sft.jsonl": jsonl(sft), "stats.json": canonical(stats), "rejected.jsonl": _sorted(rejected)}

    built_here: dict[str, Source | Output] = {
        "dialogues": out("dialogues", "dialogues.jsonl"),
        "protective": out("protective", "protective.jsonl"),
        "written": out("written", "dialogues.jsonl"),
        "written_protective": out("written", "protective.jsonl"),
    }
    chosen: dict[str, Any] = (
        {"near_duplicate": checked["near-duplicate"]}
        if isinstance(data, str)
        else {"form": "prompted" if isinstance(data, Prompted) else "generated"}
    )
    if spec.train.mix is not None:
        chosen["mix"] = {"ratio": spec.train.mix.ratio, "seed": spec.train.seed}
    add(
        "dataset",
        dataset.VERSION,
        run_dataset,
        params={"person": person, "dataset": _part(spec.dataset), **chosen},
        inputs={
            **read_profile,
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

    base = sources.base(spec.train.base_model)

    async def run_base(ctx: Context) -> Outputs:
        folder = ctx.scratch / "weights"
        ctx.record |= await workshop.export_base({"base": base.job, "out": str(folder)}, ctx.progress)
        await asyncio.to_thread(check_unchanged, base)
        return {"weights/": folder}

    # Not in the view: it is the model before training, gigabytes for a large one, and has its own name elsewhere.
    add("base", BASE_VERSION, run_base, params={"base": base.params}, inputs={}, view={})

    adapter = spec.train.method != "full" and not spec.train.lora.merge
    recipe = _part(spec.train, without=("base_model", "data", "mix", "keep_checkpoints"))
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
        ctx.record |= await workshop.train(job, ctx.progress)
        made = (
            WeightsRef("adapter", str(folder), base=before) if adapter else WeightsRef("folder", str(folder))
        )
        answers = await workshop.probe(
            {
                "base": before,
                "model": made.message(),
                "probes": probes(_jsonl(ctx, "sft"), ctx.params["short_name"]),
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

    add(
        "model",
        MODEL_VERSION,
        run_model,
        params={
            "short_name": spec.short_name,
            "train": recipe,
            # An adapter says what it goes onto.
            "base_name": base.name if adapter else None,
        },
        inputs={"base": out("base", "weights/"), "sft": out("dataset", "sft.jsonl")},
        view={
            "weights/": "model/",
            "train_log.jsonl": "train_log.jsonl",
            "train_summary.json": "train_summary.json",
            "probes.jsonl": "probes.jsonl",
        },
    )

    # -- interviews and scores -----------------------------------------------------------------------------------

    asked = questions.read(sources.text(spec.interview.questions), file=spec.interview.questions)
    # The questions as data: a comment in their file is no reason to interview anybody again.
    single = as_source(spec.interview.questions, asked.single_records(spec.interview.limit_single))
    multi = as_source(spec.interview.questions, asked.multi_records(spec.interview.limit_multi))
    interviewer = {
        "model": spec.interview.interviewer.model,
        "weights": weights_digest(spec.interview.interviewer.model),
        "temperature": spec.interview.interviewer.temperature,
        "max_tokens": spec.interview.interviewer.max_tokens,
    }
    interview_prompts = {
        "meta": meta_source,
        "interview_chat": sources.prompt("interview_chat", None),
        "interviewer": sources.prompt("interviewer", spec.interview.interviewer.model),
    }
    asks_base = "base" in spec.interview.baselines

    async def run_interviews(ctx: Context) -> Outputs:
        folder, weights = str(await ctx.folder("model")), ctx.digest("model")
        made = WeightsRef("folder", folder)
        if adapter:
            made = WeightsRef("adapter", folder, base=str(await ctx.folder("base")))
            weights = of_bytes(canonical([ctx.digest("base"), weights]))
        folders = {weights: made}
        contestants: list[interviews.Contestant] = [
            {"name": "trained", "model": f"local/{id_}", "weights": weights, "style": "character"}
        ]
        if "base" in ctx.params["baselines"]:
            folders[ctx.digest("base")] = WeightsRef("folder", str(await ctx.folder("base")))
        for name in ctx.params["baselines"]:
            if name == "base":
                contestants.append(
                    {"name": "base", "model": "local/base", "weights": ctx.digest("base"), "style": "chat"}
                )
            else:
                contestants.append(
                    {"name": name, "model": name, "weights": weights_digest(name), "style": "chat"}
                )
        sources = {key: ctx.read(f"prompt:{key}").decode() for key in interview_prompts}
        with asking(ctx, workshop, folders) as ask:
            results = await interviews.interview(
                contestants=contestants,
                single=_json(ctx, "single"),
                multi=_json(ctx, "multi"),
                meta=templates.render(sources["meta"], meta_source.label, **ctx.params["person"]),
                interviewer=ctx.params["interviewer"],
                seed=ctx.params["seed"],
                prompts=sources,
                profile=_json(ctx, "profile"),
                ask=ask,
                on_progress=ctx.progress,
                **ctx.params["person"],
                **ctx.params["interview"],
            )
        return {
            "single.jsonl": _sorted(results.single),
            "turns.jsonl": _sorted(results.turns),
            "calls.jsonl": _sorted(results.calls),
        }

    add(
        "interviews",
        interviews.VERSION,
        run_interviews,
        params={
            "person": person,
            "interviewer": interviewer,
            "seed": SEED,
            "baselines": list(spec.interview.baselines),
            "interview": _part(
                spec.interview,
                without=("questions", "interviewer", "baselines", "limit_single", "limit_multi"),
            ),
        },
        inputs={
            **read_profile,
            "model": out("model", "weights/"),
            **({"base": out("base", "weights/")} if asks_base or adapter else {}),
            "single": single,
            "multi": multi,
            **{f"prompt:{key}": value for key, value in interview_prompts.items()},
        },
        view={
            "single.jsonl": "interviews/single.jsonl",
            "turns.jsonl": "interviews/turns.jsonl",
            "calls.jsonl": "calls/interviews.jsonl",
        },
    )

    judge = {**_part(spec.judge, without=("dimensions",)), "weights": weights_digest(spec.judge.model)}
    judge_prompt = sources.prompt("judge", spec.judge.model)

    async def run_scores(ctx: Context) -> Outputs:
        with asking(ctx, workshop, {}) as ask:
            results = await scores.score(
                single=_jsonl(ctx, "single"),
                turns=_jsonl(ctx, "turns"),
                profile=_json(ctx, "profile"),
                dimensions=ctx.params["dimensions"],
                judge=ctx.params["judge"],
                seed=ctx.params["seed"],
                prompts={"judge": ctx.read("prompt:judge").decode()},
                ask=ask,
                on_progress=ctx.progress,
                **ctx.params["person"],
                **ctx.params["boundary"],
            )
        return {
            "scores.jsonl": _sorted(results.scores),
            "metrics.json": canonical(results.metrics),
            "calls.jsonl": _sorted(results.calls),
        }

    add(
        "scores",
        scores.VERSION,
        run_scores,
        params={
            "person": person,
            "boundary": boundary,
            "judge": judge,
            "dimensions": list(spec.judge.dimensions),
            "seed": SEED,
        },
        inputs={
            **read_profile,
            "single": out("interviews", "single.jsonl"),
            "turns": out("interviews", "turns.jsonl"),
            "prompt:judge": judge_prompt,
        },
        view={
            "scores.jsonl": "scores.jsonl",
            "metrics.json": "metrics.json",
            "calls.jsonl": "calls/scores.jsonl",
        },
    )

    # -- the report ----------------------------------------------------------------------------------------------

    generating_stages = ("scenes", "dialogues", "protective")

    async def run_report(ctx: Context) -> Outputs:
        html, data = report.build(
            spec=ctx.params["spec"],
            profile=_json(ctx, "profile"),
            dataset_stats=_json(ctx, "stats"),
            yields={name: _json(ctx, f"{name}:yield") for name in generating_stages},
            rejected=[record for name in generating_stages for record in _jsonl(ctx, f"{name}:rejected")],
            samples=_samples(*(_jsonl(ctx, kind) for kind in ("dialogues", "protective", "written"))),
            train_log=_jsonl(ctx, "train_log"),
            train_summary=_json(ctx, "train_summary"),
            probes=_jsonl(ctx, "probes"),
            single=_jsonl(ctx, "single"),
            turns=_jsonl(ctx, "turns"),
            scores=_jsonl(ctx, "scores"),
            metrics=_json(ctx, "metrics"),
            provenance={ref.label: ctx.digest(key) for key, ref in ctx.stage.inputs.items()},
        )
        return {
            "report.html": html.encode(),
            "report.json": canonical(data),
            "spec.json": canonical(ctx.params["spec"]),
        }

    add(
        "report",
        report.VERSION,
        run_report,
        params={"spec": spec.resolved()},
        inputs={
            **read_profile,
            "stats": out("dataset", "stats.json"),
            **{f"{name}:yield": out(name, "yield.json") for name in generating_stages},
            **{f"{name}:rejected": out(name, "rejected.jsonl") for name in generating_stages},
            "dialogues": out("dialogues", "dialogues.jsonl"),
            "protective": out("protective", "protective.jsonl"),
            "written": out("written", "dialogues.jsonl"),
            "train_log": out("model", "train_log.jsonl"),
            "train_summary": out("model", "train_summary.json"),
            "probes": out("model", "probes.jsonl"),
            "weights": out("model", "weights/"),
            "single": out("interviews", "single.jsonl"),
            "turns": out("interviews", "turns.jsonl"),
            "scores": out("scores", "scores.jsonl"),
            "metrics": out("scores", "metrics.json"),
        },
        view={"report.html": "report.html", "report.json": "report.json", "spec.json": "spec.json"},
    )
    return made


def _samples(*kinds: list[Any]) -> list[Any]:
    """Return the training dialogues a report shows: the first generated one, protective one and written one there are."""
    return [records[0] for records in kinds if records]


# -- records ---------------------------------------------------------------------------------------------------------


def _json(ctx: Context, name: str) -> Any:
    return json.loads(ctx.read(name))


def _jsonl(ctx: Context, name: str) -> list[Any]:
    return [json.loads(line) for line in ctx.read(name).splitlines()]


def _sorted(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as JSON lines in the order of their ids, whatever order they came in."""
    return jsonl(sorted(records, key=lambda record: str(record["id"])))


def _part(section: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a section of the spec as plain data."""
    data = json.loads(canonical(asdict(section)))
    return {key: value for key, value in data.items() if key not in without}
