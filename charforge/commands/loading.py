"""What most commands begin with: specs to characters, characters to one graph."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from charforge import pipeline, spec
from charforge.engine.graph import Graph
from charforge.engine.receipt import Stamps
from charforge.engine.rehearse import NotRehearsed
from charforge.engine.stale import UP_TO_DATE, Planned
from charforge.engine.store import Store, Trace
from charforge.errors import CharForgeError, FileProblems, UsageError
from charforge.llm.errors import NotRecorded
from charforge.llm.local import WeightsRef
from charforge.llm.request import Reply, Request
from charforge.pipeline import Character, Progress, Workshop
from charforge.workspace import Target


@dataclass(frozen=True, slots=True)
class Loaded:
    """A character ready to be built, and the status of every file read for it."""

    target: Target
    character: Character
    stamps: Stamps


def load(
    targets: Sequence[Target], workshop: Workshop, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> tuple[list[Loaded], Graph]:
    """Return the characters and the graph they make. Raises FileProblems with what is wrong with any of them."""
    loaded: list[Loaded] = []
    problems = []
    for target in targets:
        stamps = Stamps()
        now = time.time_ns()
        status = target.spec.stat() if target.spec.is_file() else None
        try:
            character_spec = spec.load(target.spec, target.workspace, preset=preset, overrides=overrides)
            if status is not None:
                stamps.add_input(target.spec, status, now)
            character = pipeline.character(character_spec, target.workspace, workshop, stamps)
            loaded.append(Loaded(target, character, stamps))
        except FileProblems as error:
            problems += error.problems
    if problems:
        raise FileProblems(problems)
    return loaded, Graph(stage for each in loaded for stage in each.character.stages)


def known_stage(name: str, option: str) -> str:
    """Return a stage's name as given if there is such a stage, else raise UsageError with the nearest."""
    if name not in {*pipeline.STAGES, pipeline.RELEASED}:
        near = get_close_matches(name, pipeline.STAGES, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"stages are {', '.join(pipeline.STAGES)}"
        raise UsageError(f"{option}: no stage is called {name!r}", hint)
    return name


def load_for(
    args: argparse.Namespace, targets: Sequence[Target], workshop: Workshop
) -> tuple[list[Loaded], Graph]:
    """Do `load` with a command's own `--preset` and `--set`."""
    return load(targets, workshop, preset=args.preset, overrides=args.overrides)


class NeverBuiltError(CharForgeError):
    """A stage has nothing to show."""


def last_made(store: Store, planned: Planned, target: Target, name: str) -> Trace:
    """Return the trace of a stage called `name`: the current one, or that of its last run where it is not up to date, with a note."""
    if planned.status == UP_TO_DATE and planned.action is not None:
        trace = store.find(planned.action)
        if trace is not None:
            return trace
    last = store.last(planned.stage)
    trace = None if last is None else store.find(last[0])
    if trace is None:
        raise NeverBuiltError(
            f"{target.id}: {name} was never built", f"charforge build {target.label} --to {name}"
        )
    print(f"note: {target.id}: {name} is not up to date; this is what its last run made", file=sys.stderr)
    return trace


class NothingNew:
    """A workshop that makes nothing, for commands that only say what a build would do."""

    def lane(self, model: str) -> str:
        """Return the model's own name: nothing is sent anywhere."""
        return model

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Refuse: the engine had no reply to this request."""
        del weights
        raise NotRecorded(request, f"{request.model}: no reply to this request is recorded")

    async def bring(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Refuse."""
        del job, on_progress
        raise NotRehearsed

    async def export_base(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Refuse."""
        del job, on_progress
        raise NotRehearsed

    async def train(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Refuse."""
        del job, on_progress
        raise NotRehearsed

    async def probe(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Refuse."""
        del job, on_progress
        raise NotRehearsed
