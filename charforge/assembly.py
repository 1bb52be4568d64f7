"""What a character's stages are put together with: what every page of the pipeline needs, and nothing about any one stage.

`pipeline` has the pages up to the model, `evaluation` those after it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from charforge.asking import Answering, asking
from charforge.checks import Rules
from charforge.engine.build import Context
from charforge.engine.digest import canonical, jsonl
from charforge.engine.graph import Output, Source, Stage
from charforge.engine.receipt import Stamps
from charforge.errors import CharForgeError
from charforge.llm.client import weights_digest
from charforge.llm.request import Ask
from charforge.sections import CharacterSpec
from charforge.sources import Sources
from charforge.stages.slots import Drawn, TooFew, Writer
from charforge.stages.slots import Generated as Made

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
        models = {
            "scenes": generator if spec.scenes.count else [],
            "dialogues": generator if spec.scenes.count else [],
            "protective": generator if spec.protective.count != 0 else [],
            "questions": [] if spec.interview.questions else [spec.interview.generate.model],
            "interviews": asked if spec.interview.trained or spec.interview.baselines else [],
            "scores": [spec.judge.model, *spec.judge.panel] if judges(spec) else [],
        }
        return {stage: models[stage] for stage in self.names if stage in models}

    def stage(self, name: str) -> str:
        """Return a stage's name in the graph. Raises CharForgeError where this character has no such stage."""
        if name not in self.names:
            raise CharForgeError(
                f"{self.spec.id} has no stage {name}", f"its stages are {', '.join(self.names)}"
            )
        return f"{self.spec.id}/{name}"

    @property
    def names(self) -> list[str]:
        """The names of its stages, without the character's id."""
        return [stage.name.split("/", 1)[1] for stage in self.stages]


def judges(spec: CharacterSpec) -> bool:
    """Say whether anything is judged."""
    return spec.judge.limit != 0 or spec.judge.pairwise != 0


@dataclass(frozen=True, slots=True)
class Assembly:
    """A character in the making: `add` stages, name their outputs by `out`."""

    made: Character
    sources: Sources
    workshop: Workshop

    @classmethod
    def of(cls, spec: CharacterSpec, workspace: Path, workshop: Workshop, stamps: Stamps) -> Assembly:
        """Begin with a character that has no stages. `stamps` notes what is read."""
        return cls(Character(spec), Sources(workspace, stamps), workshop)

    @property
    def spec(self) -> CharacterSpec:
        """What to make."""
        return self.made.spec

    @property
    def person(self) -> dict[str, str]:
        """Who it is."""
        return {"name": self.spec.name, "short_name": self.spec.short_name}

    @property
    def boundary(self) -> dict[str, Any]:
        """What the person cannot know."""
        return {"knows_until": self.spec.knows.until, "never": list(self.spec.knows.never)}

    def add(
        self,
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
        """Add a stage. `view` maps outputs to their names in `build/<id>/`."""
        id_ = self.spec.id
        before = None if follows is None else f"{id_}/{follows}"
        self.made.stages.append(Stage(f"{id_}/{name}", name, version, params, inputs, run, ahead, before))
        self.made.view |= {shown: (name, output) for output, shown in view.items()}

    def out(self, stage: str, name: str) -> Output:
        """Name an output of a stage."""
        return Output(f"{self.spec.id}/{stage}", name)

    @property
    def profile(self) -> dict[str, Source | Output]:
        """The input that nearly every stage has."""
        return {"profile": self.out("profile", "profile.json")}


GENERATED = {
    "rejected.jsonl": "rejected/{}.jsonl",
    "yield.json": "yield/{}.json",
    "calls.jsonl": "calls/{}.jsonl",
    "usage.json": "usage/{}.json",
}
"""What a generating stage leaves beside its records, and where it is shown."""


def generating(
    into: Assembly,
    name: str,
    module: Any,
    *,
    section: Mapping[str, Any],
    follows: str | None = None,
    followed: bool = False,
) -> None:
    """Add a generating stage. One that `follows` another draws for each of its records as soon as it is there."""
    spec = into.spec
    checked = spec.checks.rules()
    more = {} if follows is None else {follows: into.out(follows, f"{follows}.jsonl")}
    used = {key: into.sources.prompt_at(path) for key, path in module.templates(spec.generator.model).items()}

    judged: dict[tuple[str, int, str], Drawn] = {}  # by a head start, for the stage itself
    desk = asyncio.Lock()

    def given(ctx: Context, ask: Ask) -> dict[str, Any]:
        return {
            "profile": read_json(ctx, "profile"),
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

    def outputs(ctx: Context, made_here: Made) -> dict[str, bytes]:
        return {
            f"{name}.jsonl": by_id(made_here.records),
            "rejected.jsonl": by_id(made_here.rejected),
            "calls.jsonl": by_id(made_here.calls),
            "yield.json": canonical(made_here.yield_),
            "usage.json": usage_of(ctx),
        }

    async def run(ctx: Context) -> Outputs:
        streams = {"on_passed": ctx.publish} if followed else {}
        with asking(ctx, into.workshop, {}) as ask:
            read = {key: read_jsonl(ctx, key) for key in more}
            try:
                return outputs(ctx, await module.generate(**given(ctx, ask), **read, **streams))
            except TooFew as error:
                ctx.leave(outputs(ctx, error.made))
                raise
            finally:
                judged.clear()

    async def ahead(ctx: Context) -> None:
        with asking(ctx, into.workshop, {}) as ask:
            await module.ahead(**given(ctx, ask), **{str(follows): ctx.published()})

    generator = {
        "model": spec.generator.model,
        "weights": weights_digest(spec.generator.model),
        "temperature": spec.generator.temperature,
        "top_p": spec.generator.top_p,
        "max_tokens": spec.generator.max_tokens,
        "seed": SEED,
    }
    into.add(
        name,
        module.VERSION,
        run,
        params={
            "generator": generator,
            "person": into.person,
            "boundary": into.boundary,
            "checks": {rule: checked[rule] for rule in module.applied(spec.generator.model)},
            name: dict(section),
        },
        inputs={**into.profile, **more, **{f"prompt:{key}": value for key, value in used.items()}},
        view={
            f"{name}.jsonl": f"{name}.jsonl",
            **{key: value.format(name) for key, value in GENERATED.items()},
        },
        ahead=ahead if follows else None,
        follows=follows,
    )


# -- records ---------------------------------------------------------------------------------------------------------


def read_json(ctx: Context, name: str) -> Any:
    """Return an input that is JSON."""
    return json.loads(ctx.read(name))


def read_jsonl(ctx: Context, name: str) -> list[Any]:
    """Return the records of an input that is JSON lines."""
    return [json.loads(line) for line in ctx.read(name).splitlines()]


def by_id(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as JSON lines in the order of their ids, whatever order they came in."""
    return jsonl(sorted(records, key=lambda record: str(record["id"])))


def part(section: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a section of the spec as plain data."""
    data = json.loads(canonical(asdict(section)))
    return {key: value for key, value in data.items() if key not in without}


_USED = ("calls", "prompt_tokens", "completion_tokens", "unpriced")


def usage_of(ctx: Context) -> bytes:
    """Return what a stage's calls used, by model, as usage.json. Cost is in USD, rounded to a hundredth of a cent.

    Of the recorded replies themselves, each once, so that it is the same whenever they are replayed; what failed attempts
    may have cost is the business of the build that made them.
    """
    usage: Mapping[str, Mapping[str, Any]] = ctx.record.get("usage", {})
    return canonical(
        {
            model: {**{key: used[key] for key in _USED}, "cost": round(used["cost"], 4)}
            for model, used in usage.items()
        }
    )
