"""What a build says while it runs: live bars in a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from charforge.engine.build import FAILED, RAN, Listener, Outcome
from charforge.engine.explain import Reason, sentences
from charforge.engine.stale import STALE, UNKNOWN, Planned

if TYPE_CHECKING:
    from rich.progress import TaskID

_PLAIN_SECONDS = 10.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Progress(Listener):
    """Prints what the engine tells."""

    def __init__(self) -> None:
        self._live = Bars() if sys.stderr.isatty() else None
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def stage_started(self, stage: str, why: list[Reason]) -> None:
        """Say that a stage runs, and why."""
        self._since[stage] = self._said[stage] = time.monotonic()
        self._print(f"{stage}: started ({sentences(why)})")
        if self._live is not None:
            self._live.add(stage)

    def stage_ahead(self, stage: str, follows: str) -> None:
        """Say that a stage begins before the one that it follows has ended."""
        self._since[stage] = self._said[stage] = time.monotonic()
        self._print(f"{stage}: begins with what {follows.split('/', 1)[1]} has made so far")
        if self._live is not None:
            self._live.add(stage)

    def stage_progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Say how far a stage is: always in a terminal, every ten seconds elsewhere."""
        if self._live is not None:
            self._live.update(stage, done, total, clean(note))
            return
        now = time.monotonic()
        if now - self._said.get(stage, now) < _PLAIN_SECONDS or not total:
            return
        self._said[stage] = now
        seconds = now - self._since.get(stage, now)
        rate = done / seconds if seconds else 0.0
        left = f", {_time((total - done) / rate)} left" if rate and done < total else ""
        more = f", {clean(note)}" if note else ""
        pace = f"{rate:.1f}/s" if rate >= 1 or not rate else f"{_time(1 / rate)} each"
        self._print(f"{stage}: {done}/{total}, {pace}{left}{more}")

    def stage_finished(self, outcome: Outcome) -> None:
        """Say what became of a stage that ran."""
        if self._live is not None:
            self._live.remove(outcome.stage)
        if outcome.status == RAN:
            calls = ""
            if outcome.calls_made or outcome.calls_replayed:
                calls = f", {outcome.calls_made} calls made, {outcome.calls_replayed} replayed"
            self._print(f"{outcome.stage}: done in {_time(outcome.seconds)}{calls}")
        elif outcome.status == FAILED:
            self._print(f"{outcome.stage}: failed")

    def note(self, text: str) -> None:
        """Say something the user should know."""
        self._print(f"note: {clean(text)}")

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.print(line)
        else:
            print(line, file=sys.stderr, flush=True)


class Bars:
    """One bar a running stage. rich is imported here, when somebody looks."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, markup=False, highlight=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def add(self, stage: str) -> None:
        self.remove(stage)
        self._tasks[stage] = self._progress.add_task(stage, total=None, note="")

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        if stage in self._tasks:
            self._progress.update(self._tasks[stage], completed=done, total=total or None, note=note)

    def remove(self, stage: str) -> None:
        if stage in self._tasks:
            self._progress.remove_task(self._tasks.pop(stage))

    def print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def plan_lines(planned: Mapping[str, Planned]) -> dict[str, str]:
    """Return what a build would do with each stage, in words. Every stage comes after those it needs."""
    # Of all that a stage waits for, the stale ones are to run first, and say enough.
    first: dict[str, list[str]] = {}
    lines = {}
    for name, stage in planned.items():
        if stage.status == UNKNOWN:
            first[name] = list(dict.fromkeys(root for waits in stage.waits_for for root in first[waits]))
            *most, last = [root.split("/", 1)[1] for root in first[name]]
            lines[name] = (
                f"unknown until {', '.join(most)} and {last} have run"
                if most
                else f"unknown until {last} has run"
            )
        else:
            first[name] = [name]
            lines[name] = (
                f"stale: {clean(sentences(stage.reasons))}" if stage.status == STALE else stage.status
            )
    return lines


def print_lines(lines: Mapping[str, str]) -> None:
    """Print a line a stage on stdout, their texts below each other."""
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")


def plan_data(planned: Mapping[str, Planned]) -> list[dict[str, Any]]:
    """Return a plan as JSON data."""
    return [
        {
            "stage": name,
            "status": stage.status,
            "action": stage.action,
            "outputs": None if stage.outputs is None else dict(stage.outputs),
            "reasons": stage.reasons,
            "waits_for": list(stage.waits_for),
        }
        for name, stage in planned.items()
    ]


def clean(text: str) -> str:
    """Return text without control characters: what a model or a stranger wrote must not steer a terminal."""
    return _CONTROL.sub("�", text)


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s"
