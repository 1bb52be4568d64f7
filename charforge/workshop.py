"""Where the work is done on this machine: models answer through the client, weights are made in child processes."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from charforge import __version__
from charforge.llm.client import Client, is_local
from charforge.llm.local import WeightsRef
from charforge.llm.request import Reply, Request
from charforge.models.process import run_job

_LIBRARIES = ("torch", "transformers", "litellm", "llguidance", "jinja2", "rfc8785")

Progress = Callable[[int, int, str], None]


class LocalWorkshop:
    """Does a build's work here. Close it when the build ends."""

    def __init__(self, *, offline: bool = False, max_cost: float | None = None) -> None:
        del max_cost  # the ledger's, which comes with the lanes
        self._client = Client(offline=offline)
        self._offline = offline
        # Training takes all the memory and all the cores it can get: one at a time, whatever -j says.
        self._machine = asyncio.Lock()

    def lane(self, model: str) -> str:
        """Name the endpoint that serves a model: its calls share places."""
        return "local" if is_local(model) else model.split("/", 1)[0]

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Answer a request."""
        return await self._client.complete(request, weights)

    async def export_base(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Write base weights into `job["out"]`."""
        return await self._run("charforge.models.base", {**job, "offline": self._offline}, on_progress)

    async def train(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Fine-tune as `job` says."""
        async with self._machine:
            await self._client.release()
            return await self._run("charforge.models.train", dict(job), on_progress)

    async def _run(self, module: str, job: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        def heard(message: dict[str, Any]) -> None:
            notes = [
                f"{key.replace('_', ' ')} {_figure(value)}"
                for key in _TOLD
                if (value := message.get(key)) is not None
            ]
            on_progress(int(message.get("step", 0)), int(message.get("steps", 0)), ", ".join(notes))

        return await run_job(module, job, heard)

    async def close(self) -> None:
        """End every worker."""
        await self._client.close()


_TOLD = ("phase", "epoch", "loss", "held_out_loss", "tokens_per_second")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3f}"
    return str(value)


def environment() -> dict[str, str]:
    """Return what a build ran on: recorded with every trace, compared by an audit, part of no digest."""
    versions = {
        "charforge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
