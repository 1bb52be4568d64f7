"""Where the work is done on this machine: models answer through the client, weights are made in child processes."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import __version__
from charforge.llm.client import Client
from charforge.llm.local import WeightsRef
from charforge.llm.request import Reply, Request
from charforge.models.process import run_job

if TYPE_CHECKING:
    from charforge.llm.money import Ledger, Price

_LIBRARIES = ("torch", "transformers", "peft", "litellm", "aiohttp", "llguidance", "jinja2", "rfc8785")

Progress = Callable[[int, int, str], None]


class LocalWorkshop:
    """Does a build's work here. Close it when the build ends.

    `max_cost`: USD that remote models may cost at most; None: no limit. `world`: the processes that a model is trained
    by, as charforge.models.world takes it; None: one for each GPU, or one.
    """

    def __init__(
        self,
        *,
        offline: bool = False,
        max_cost: float | None = None,
        world: Mapping[str, Any] | None = None,
    ) -> None:
        ledger = None
        if max_cost is not None:
            from charforge.llm.money import Ledger

            ledger = Ledger(max_cost)
        self._client = Client(offline=offline, ledger=ledger)
        self._offline = offline
        self._world = world
        self._told: Callable[[str], None] = lambda _text: None
        # Training takes all the memory and all the cores it can get: one at a time, whatever -j says.
        self._machine = asyncio.Lock()

    def lost(self) -> float:
        """Return what attempts may have cost, in USD, that brought no answer, those of calls that failed among them."""
        return sum(account.lost for account in self._client.ledger.accounts.values())

    def tell(self, listener: Callable[[str], None]) -> None:
        """Let somebody hear, in words for the user, why nothing moves for a while, and what training is about to do."""
        self._client.tell = self._told = listener

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Answer a request."""
        return await self._client.complete(request, weights)

    def lane(self, model: str) -> str:
        """Return the name of what serves a model: "local", or an endpoint's. Calls share its places fairly. Never raises."""
        return self._client.lane(model)

    def ready(self, models: Iterable[str]) -> None:
        """Raise CharForgeError, before anything is sent, where it is plain that one of these models cannot be used."""
        self._client.ready(models)

    def price(self, model: str) -> Price | None:
        """Return what a model costs, None where nobody knows. Raises CharForgeError where its endpoint is unknown."""
        return self._client.price(model)

    @property
    def ledger(self) -> Ledger:
        """What remote models came to, by model."""
        return self._client.ledger

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return the counters of each endpoint: attempts, failures by kind, how many at once."""
        return self._client.stats()

    async def export_base(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Write base weights into `job["out"]`."""
        return await self._run("charforge.models.base", {**job, "offline": self._offline}, on_progress)

    async def bring(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Write a file of a data set on the hub to `job["out"]`."""
        return await self._run("charforge.models.hub_file", {**job, "offline": self._offline}, on_progress)

    async def train(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Fine-tune as `job` says."""
        async with self._machine:
            await self._client.release()
            module = "charforge.models.train" if self._world is None else "charforge.models.launch"
            return await self._run(module, {**job, "world": self._world}, on_progress)

    async def probe(self, job: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Ask the base model and the trained one the same."""
        async with self._machine:
            return await self._run("charforge.models.probes", dict(job), on_progress)

    async def _run(self, module: str, job: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        def heard(message: dict[str, Any]) -> None:
            if "told" in message:
                self._told(str(message["told"]))
                return
            on_progress(int(message.get("step", 0)), int(message.get("steps", 0)), progress_note(message))

        return await run_job(module, job, heard)

    async def close(self) -> None:
        """End every worker."""
        await self._client.close()


def _memory(size: float) -> str:
    return f"{size / 1e9:.1f}"


_FIGURES: tuple[tuple[str, str, Callable[[Any], str], str], ...] = (
    ("phase", "", str, ""),
    ("epoch", "epoch ", str, ""),
    ("loss", "loss ", "{:.3f}".format, ""),
    ("held_out_loss", "held-out loss ", "{:.3f}".format, ""),
    ("tokens_per_second", "", "{:,.0f}".format, " tokens/s"),
    ("memory_bytes", "", _memory, " GB"),
)
"""What a child tells of its work, in the order a user reads it. The time left is told with the steps."""


def progress_note(message: Mapping[str, Any]) -> str:
    """Return in words what a child tells of its progress."""
    return ", ".join(
        f"{word}{show(value)}{unit}"
        for key, word, show, unit in _FIGURES
        if (value := message.get(key)) is not None
    )


def _processor() -> str:
    """Return the processor's model: its kind decides the last bits of what is trained."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Return what a build ran on: recorded with every trace, compared by an audit, part of no digest."""
    versions = {
        "charforge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
    }
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
