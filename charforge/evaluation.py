"""What is asked of a character and of those it is compared with, how that is measured and judged, and the report.

The second half of `pipeline`. A character that is not trained here (`interview.trained: false`) consists of these stages
and its profile: prompted models and imported transcripts are contestants like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from charforge import intervals, metrics, templates, transcripts
from charforge import questions as question_file
from charforge.asking import asking
from charforge.assembly import (
    GENERATED,
    SEED,
    Assembly,
    Outputs,
    by_id,
    judges,
    part,
    read_json,
    read_jsonl,
    usage_of,
)
from charforge.checks import Rules
from charforge.engine.build import Context
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.graph import Output, Source
from charforge.llm.client import weights_digest
from charforge.llm.local import WeightsRef
from charforge.sections import CharacterSpec
from charforge.sources import as_source
from charforge.stages import interviews, questions, report, scores
from charforge.stages.slots import TooFew, Writer

GENERATING = ("scenes", "dialogues", "protective")


def is_adapter(spec: CharacterSpec) -> bool:
    """Say whether training leaves an adapter, which answers on top of its base."""
    return spec.train.method != "full" and not spec.train.lora.merge


def add(into: Assembly) -> None:
    """Add the stages from the questions to the report."""
    add_questions(into)
    add_interviews(into)
    add_metrics(into)
    add_scores(into)
    add_report(into)


# -- questions -------------------------------------------------------------------------------------------------------


def add_questions(into: Assembly) -> None:
    """Add the questions: of the spec's file, or generated; in either case none that the training data asks."""
    spec, wanted = into.spec.interview, into.spec.interview.generate
    file = spec.questions
    if not (spec.trained or spec.baselines):  # nobody answers but those who were asked long ago
        wanted = replace(wanted, single=0, multi=0)
    inputs: dict[str, Source | Output] = {"sft": into.out("dataset", "sft.jsonl")} if spec.trained else {}
    params: dict[str, Any] = {"limits": {"single": spec.limit_single, "multi": spec.limit_multi}}
    view = {"questions.json": "questions.json", "set_aside.jsonl": "set_aside.jsonl"}
    used: dict[str, Source] = {}
    if file is not None:
        asked = question_file.read(into.sources.text(file), file=file)
        # As data: a comment in their file is no reason to interview anybody again.
        whole = {"single": asked.single_records(), "multi": asked.multi_records()}
        inputs["questions"] = as_source(file, whole)
    else:
        checked = into.spec.checks.rules()
        used = {key: into.sources.prompt_at(path) for key, path in questions.templates(wanted.model).items()}
        inputs |= {**into.profile, **{f"prompt:{key}": value for key, value in used.items()}}
        params |= {
            "person": into.person,
            "boundary": into.boundary,
            "checks": {rule: checked[rule] for rule in questions.applied(wanted.model)},
            "generate": {**part(wanted), "weights": weights_digest(wanted.model), "seed": SEED},
        }
        view |= {key: value.format("questions") for key, value in GENERATED.items()}

    async def generate(ctx: Context, samples: list[Any]) -> questions.Made:
        wanted = dict(ctx.params["generate"])
        counts = {key: wanted.pop(key) for key in ("single", "multi", "attempts")}
        with asking(ctx, into.workshop, {}) as ask:
            return await questions.generate(
                profile=read_json(ctx, "profile"),
                samples=samples,
                rules=Rules(ctx.params["checks"]),
                writer=Writer(
                    **wanted,
                    top_p=None,
                    prompts={key: ctx.read(f"prompt:{key}").decode() for key in used},
                    ask=ask,
                ),
                on_progress=ctx.progress,
                **counts,
                **ctx.params["person"],
                **ctx.params["boundary"],
            )

    async def run(ctx: Context) -> Outputs:
        samples = read_jsonl(ctx, "sft") if "sft" in ctx.stage.inputs else []
        outputs: dict[str, bytes] = {}
        if file is not None:
            found = read_json(ctx, "questions")
        else:
            try:
                made = await generate(ctx, samples)
            except TooFew as error:
                left = error.made
                ctx.leave({"rejected.jsonl": by_id(left.rejected), "yield.json": canonical(left.yield_)})
                raise
            found = {"single": made.single, "multi": made.multi}
            outputs = {
                "rejected.jsonl": by_id(made.rejected),
                "calls.jsonl": by_id(made.calls),
                "yield.json": canonical(made.yield_),
                "usage.json": usage_of(ctx),
            }
        arranged = questions.arrange(found["single"], found["multi"], samples)
        limits = ctx.params["limits"]
        chosen = {
            "single": question_file.spread(arranged.single, limits["single"]),
            "multi": question_file.spread(arranged.multi, limits["multi"]),
        }
        return {
            "questions.json": canonical(chosen),
            "set_aside.jsonl": by_id(arranged.set_aside),
            **outputs,
        }

    into.add("questions", questions.VERSION, run, params=params, inputs=inputs, view=view)


# -- interviews ------------------------------------------------------------------------------------------------------


def add_interviews(into: Assembly) -> None:
    """Add the interviews of everybody who is a contestant."""
    spec = into.spec
    id_, adapter = spec.id, is_adapter(spec)
    asks_base = "base" in spec.interview.baselines
    asks = spec.interview.trained or bool(spec.interview.baselines)
    meta_source = into.sources.prompt("meta", None)
    prompts = {
        "meta": meta_source,
        "interview_chat": into.sources.prompt("interview_chat", None),
        "interviewer": into.sources.prompt("interviewer", spec.interview.interviewer.model),
    }
    files = {
        f"transcript:{each.name}:{place}": into.sources.data(file)
        for each in spec.interview.transcripts
        for place, file in enumerate(each.files)
    }

    async def contestants(
        ctx: Context,
    ) -> tuple[list[interviews.Contestant], dict[str, WeightsRef]]:
        found: list[interviews.Contestant] = []
        folders: dict[str, WeightsRef] = {}
        if ctx.params["trained"]:
            folder, weights = str(await ctx.folder("model")), ctx.digest("model")
            made = WeightsRef("folder", folder)
            if adapter:
                made = WeightsRef("adapter", folder, base=str(await ctx.folder("base")))
                weights = of_bytes(canonical([ctx.digest("base"), weights]))
            folders[weights] = made
            found.append(
                {
                    "name": "trained",
                    "kind": "trained",
                    "model": f"local/{id_}",
                    "weights": weights,
                    "style": "character",
                }
            )
        for name in ctx.params["baselines"]:
            if name == "base":
                weights = ctx.digest("base")
                folders[weights] = WeightsRef("folder", str(await ctx.folder("base")))
                found.append(
                    {
                        "name": "base",
                        "kind": "base",
                        "model": "local/base",
                        "weights": weights,
                        "style": "chat",
                    }
                )
            else:
                found.append(
                    {
                        "name": name,
                        "kind": "prompted",
                        "model": name,
                        "weights": weights_digest(name),
                        "style": "chat",
                    }
                )
        return found, folders

    def imported(ctx: Context, asked: Mapping[str, Any]) -> tuple[list[interviews.Imported], list[Any]]:
        found, oddities = [], []
        for each in ctx.params["transcripts"]:
            read = transcripts.read(
                [
                    (file, ctx.read(f"transcript:{each['name']}:{place}"))
                    for place, file in enumerate(each["files"])
                ],
                contestant=each["name"],
                asked=asked,
                **ctx.params["person"],
            )
            found.append(interviews.Imported(each["name"], read.single, read.turns))
            oddities += [{"contestant": each["name"], **odd} for odd in read.oddities]
        return found, oddities

    async def run(ctx: Context) -> Outputs:
        asked = read_json(ctx, "questions")
        present, folders = await contestants(ctx)
        read, oddities = imported(ctx, asked)
        sources = {
            key: ctx.read(f"prompt:{key}").decode() for key in prompts if f"prompt:{key}" in ctx.stage.inputs
        }
        with asking(ctx, into.workshop, folders) as ask:
            results = await interviews.interview(
                contestants=present,
                imported=read,
                single=asked["single"] if present else [],
                multi=asked["multi"] if present else [],
                meta=templates.render(sources["meta"], meta_source.label, **ctx.params["person"])
                if present
                else "",
                interviewer=ctx.params["interviewer"],
                seed=ctx.params["seed"],
                prompts=sources,
                profile=read_json(ctx, "profile"),
                ask=ask,
                on_progress=ctx.progress,
                **ctx.params["person"],
                **ctx.params["interview"],
            )
        return {
            "contestants.json": canonical(results.contestants),
            "single.jsonl": by_id(results.single),
            "turns.jsonl": by_id(results.turns),
            "calls.jsonl": by_id(results.calls),
            "oddities.json": canonical(oddities),
            "usage.json": usage_of(ctx),
        }

    interviewer = spec.interview.interviewer
    into.add(
        "interviews",
        interviews.VERSION,
        run,
        params={
            "person": into.person,
            "interviewer": {**part(interviewer), "weights": weights_digest(interviewer.model)},
            "seed": SEED,
            "trained": spec.interview.trained,
            "baselines": list(spec.interview.baselines),
            "transcripts": [part(each) for each in spec.interview.transcripts],
            "interview": part(
                spec.interview,
                without=(
                    "trained",
                    "questions",
                    "generate",
                    "interviewer",
                    "baselines",
                    "transcripts",
                    "limit_single",
                    "limit_multi",
                ),
            ),
        },
        inputs={
            **into.profile,
            "questions": into.out("questions", "questions.json"),
            **({"model": into.out("model", "weights/")} if spec.interview.trained else {}),
            **(
                {"base": into.out("base", "weights/")}
                if asks_base or (adapter and spec.interview.trained)
                else {}
            ),
            **({f"prompt:{key}": value for key, value in prompts.items()} if asks else {}),
            **files,
        },
        view={
            "contestants.json": "interviews/contestants.json",
            "single.jsonl": "interviews/single.jsonl",
            "turns.jsonl": "interviews/turns.jsonl",
            "oddities.json": "interviews/oddities.json",
            "calls.jsonl": "calls/interviews.jsonl",
            "usage.json": "usage/interviews.json",
        },
    )


# -- measured, judged, reported --------------------------------------------------------------------------------------


def add_metrics(into: Assembly) -> None:
    """Add what is measured without a judge."""
    spec = into.spec

    async def run(ctx: Context) -> Outputs:
        measures, measured = metrics.measure(
            read_jsonl(ctx, "single"),
            read_jsonl(ctx, "turns"),
            contestants=read_json(ctx, "contestants"),
            profile=read_json(ctx, "profile"),
            losses=metrics.losses(read_json(ctx, "train_summary"))
            if "train_summary" in ctx.stage.inputs
            else {},
            **ctx.params["person"],
            **ctx.params["boundary"],
        )
        return {"measures.jsonl": by_id(measures), "metrics.json": canonical(measured)}

    into.add(
        "metrics",
        metrics.VERSION,
        run,
        params={"person": into.person, "boundary": into.boundary},
        inputs={
            **into.profile,
            **_interviewed(into),
            **({"train_summary": into.out("model", "train_summary.json")} if spec.interview.trained else {}),
        },
        view={"measures.jsonl": "measures.jsonl", "metrics.json": "metrics.json"},
    )


def _interviewed(into: Assembly) -> dict[str, Source | Output]:
    return {
        "contestants": into.out("interviews", "contestants.json"),
        "single": into.out("interviews", "single.jsonl"),
        "turns": into.out("interviews", "turns.jsonl"),
    }


def add_scores(into: Assembly) -> None:
    """Add what the judges say, and what follows from that and from the measures."""
    judge = into.spec.judge
    models = [judge.model, *judge.panel] if judges(into.spec) else []
    prompts = {
        name: into.sources.prompt_at(name) for name in scores.templates(models, pairwise=judge.pairwise)
    }

    async def run(ctx: Context) -> Outputs:
        contestants = read_json(ctx, "contestants")
        with asking(ctx, into.workshop, {}) as ask:
            results = await scores.score(
                contestants=contestants,
                single=read_jsonl(ctx, "single"),
                turns=read_jsonl(ctx, "turns"),
                profile=read_json(ctx, "profile"),
                judges=ctx.params["judges"],
                seed=ctx.params["seed"],
                prompts={name: ctx.read(f"prompt:{name}").decode() for name in prompts},
                ask=ask,
                on_progress=ctx.progress,
                **ctx.params["judging"],
                **ctx.params["person"],
                **ctx.params["boundary"],
            )
        statistics = intervals.summarise(
            contestants=contestants,
            measures=read_jsonl(ctx, "measures"),
            metrics_units=metrics.METRICS,
            scores=results.scores,
            pairs=results.pairs,
            exam=results.exam_summary,
            dimensions=ctx.params["judging"]["dimensions"],
        )
        return {
            "exam.jsonl": by_id(results.exam),
            "exam.json": canonical(results.exam_summary),
            "scores.jsonl": by_id(results.scores),
            "pairs.jsonl": by_id(results.pairs),
            "statistics.json": canonical(statistics),
            "calls.jsonl": by_id(results.calls),
            "usage.json": usage_of(ctx),
        }

    into.add(
        "scores",
        scores.VERSION,
        run,
        params={
            "person": into.person,
            "boundary": into.boundary,
            "judges": [
                {
                    "model": model,
                    "weights": weights_digest(model),
                    "temperature": judge.temperature,
                    "max_tokens": judge.max_tokens or scores.room_for(model),
                }
                for model in models
            ],
            "judging": part(judge, without=("model", "panel", "temperature", "max_tokens")),
            "seed": SEED,
        },
        inputs={
            **into.profile,
            **_interviewed(into),
            "measures": into.out("metrics", "measures.jsonl"),
            **{f"prompt:{name}": source for name, source in prompts.items()},
        },
        view={
            "exam.jsonl": "exam.jsonl",
            "exam.json": "exam.json",
            "scores.jsonl": "scores.jsonl",
            "pairs.jsonl": "pairs.jsonl",
            "statistics.json": "statistics.json",
            "calls.jsonl": "calls/scores.jsonl",
            "usage.json": "usage/scores.json",
        },
    )


def add_report(into: Assembly) -> None:
    """Add the report."""
    spec = into.spec
    asking_stages = [*(GENERATING if spec.interview.trained else ()), "interviews", "scores"]
    if spec.interview.questions is None:
        asking_stages.insert(-2, "questions")

    async def run(ctx: Context) -> Outputs:
        def records(name: str) -> list[Any]:
            return read_jsonl(ctx, name) if name in ctx.stage.inputs else []

        def data(name: str) -> Any:
            return read_json(ctx, name) if name in ctx.stage.inputs else {}

        generated = [name for name in asking_stages if f"{name}:yield" in ctx.stage.inputs]
        kinds = ("dialogues", "protective", "written", "written_protective")
        html, summary = report.build(
            spec=ctx.params["spec"],
            profile=data("profile"),
            dataset_stats=data("stats"),
            yields={name: data(f"{name}:yield") for name in generated},
            usage={name: data(f"{name}:usage") for name in asking_stages},
            rejected=[record for name in generated for record in records(f"{name}:rejected")],
            samples=_samples(*(records(kind) for kind in kinds[:3])),
            dialogues=[record for kind in kinds for record in records(kind)],
            scenes=records("scenes"),
            sft=records("sft"),
            train_log=records("train_log"),
            train_summary=data("train_summary"),
            probes=records("probes"),
            contestants=data("contestants"),
            set_aside=records("set_aside"),
            single=records("single"),
            turns=records("turns"),
            metrics=data("metrics"),
            measures=records("measures"),
            exam=data("exam"),
            scores=records("scores"),
            pairs=records("pairs"),
            statistics=data("statistics"),
            provenance={ref.label: ctx.digest(key) for key, ref in ctx.stage.inputs.items()},
        )
        return {
            "report.html": html.encode(),
            "report.json": canonical(summary),
            "spec.json": canonical(ctx.params["spec"]),
        }

    trained: dict[str, Source | Output] = {}
    if spec.interview.trained:
        trained = {
            "stats": into.out("dataset", "stats.json"),
            "sft": into.out("dataset", "sft.jsonl"),
            "scenes": into.out("scenes", "scenes.jsonl"),
            "dialogues": into.out("dialogues", "dialogues.jsonl"),
            "protective": into.out("protective", "protective.jsonl"),
            "written": into.out("written", "dialogues.jsonl"),
            "written_protective": into.out("written", "protective.jsonl"),
            "train_log": into.out("model", "train_log.jsonl"),
            "train_summary": into.out("model", "train_summary.json"),
            "probes": into.out("model", "probes.jsonl"),
            "weights": into.out("model", "weights/"),
        }
    made = [name for name in asking_stages if name not in {"interviews", "scores"}]
    into.add(
        "report",
        report.VERSION,
        run,
        params={"spec": spec.resolved()},
        inputs={
            **into.profile,
            **trained,
            **{f"{name}:yield": into.out(name, "yield.json") for name in made},
            **{f"{name}:rejected": into.out(name, "rejected.jsonl") for name in made},
            **{f"{name}:usage": into.out(name, "usage.json") for name in asking_stages},
            "set_aside": into.out("questions", "set_aside.jsonl"),
            **_interviewed(into),
            "measures": into.out("metrics", "measures.jsonl"),
            "metrics": into.out("metrics", "metrics.json"),
            "exam": into.out("scores", "exam.json"),
            "scores": into.out("scores", "scores.jsonl"),
            "pairs": into.out("scores", "pairs.jsonl"),
            "statistics": into.out("scores", "statistics.json"),
        },
        view={"report.html": "report.html", "report.json": "report.json", "spec.json": "spec.json"},
    )


def _samples(*kinds: list[Any]) -> list[Any]:
    """Return the training dialogues a report shows: the first generated one, protective one and written one there are."""
    return [records[0] for records in kinds if records]
