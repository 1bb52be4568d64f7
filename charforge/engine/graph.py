"""The build graph as plain data: stages, and where each gets its inputs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charforge.engine.build import Context


@dataclass(frozen=True, slots=True)
class Source:
    """An input from outside the graph, as the snapshot taken before the build. `label` is how a person knows it."""

    label: str
    digest: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Output:
    """An input that another stage makes."""

    stage: str
    name: str

    @property
    def label(self) -> str:
        """How a person knows it: the stage and its output."""
        return f"{self.stage}/{self.name}"


Run = Callable[["Context"], Awaitable[Mapping[str, bytes | Path]]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A node of the graph.

    `kind`, `version`, `params` and the digests of `inputs` are its action. `run` does the work and returns the outputs:
    bytes, or a path (a folder's name ends in `/`) inside the context's scratch folder.

    `ahead` may begin the work while the stage named `follows` still runs: it sees what that one publishes, in place of
    its outputs, and makes the calls that `run` will want. It is a head start only: `run` decides, and replays them.
    """

    name: str
    kind: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, Source | Output]
    run: Run
    ahead: Callable[[Context], Awaitable[None]] | None = None
    follows: str | None = None

    def upstream(self) -> list[str]:
        """The names of the stages this one reads from, each once, in order."""
        return list(dict.fromkeys(ref.stage for ref in self.inputs.values() if isinstance(ref, Output)))


class Graph:
    """Stages by name. Each stage may read only from stages added before it, so there is no cycle to look for."""

    def __init__(self, stages: Iterable[Stage] = ()) -> None:
        self._stages: dict[str, Stage] = {}
        for stage in stages:
            self.add(stage)

    def add(self, stage: Stage) -> None:
        """Add a stage. Raises ValueError for a name taken or an input not there yet."""
        if stage.name in self._stages:
            raise ValueError(f"stage {stage.name!r} is in the graph already")
        for upstream in stage.upstream():
            if upstream not in self._stages:
                raise ValueError(
                    f"stage {stage.name!r} reads from {upstream!r}, which is not in the graph before it"
                )
        self._stages[stage.name] = stage

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages.values())

    def __getitem__(self, name: str) -> Stage:
        return self._stages[name]

    def __contains__(self, name: str) -> bool:
        return name in self._stages

    def needed(self, targets: Iterable[str]) -> list[Stage]:
        """Return the targets and everything upstream of them, each after what it reads from."""
        wanted = set(targets)
        for stage in reversed(self._stages.values()):
            if stage.name in wanted:
                wanted.update(stage.upstream())
        return [stage for stage in self._stages.values() if stage.name in wanted]
