"""A scripted stand-in for models and training, for tests and benchmarks: quick, deterministic, and it remembers.

What it says is grounded nonsense that passes the checks; what it "trains" is a digest. It makes every stage run as with real
models, and counts what was asked. No command of CharForge uses it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from charforge.engine.digest import canonical, jsonl
from charforge.llm.local import WeightsRef
from charforge.llm.request import Reply, Request
from charforge.testing import texts

MODEL = "openai/scripted"
"""A capable generator's name: stages ask it for whole scenes and dialogues."""


class ScriptedWorkshop:
    """A workshop (see pipeline.Workshop) that follows a script.

    `requests` holds every request answered, `jobs` the name of every job done, in order.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.jobs: list[str] = []

    def lane(self, model: str) -> str:
        """One endpoint a provider."""
        return model.split("/", 1)[0]

    def lost(self) -> float:
        """Lose nothing."""
        return 0.0

    def tell(self, listener: Callable[[str], None]) -> None:
        """Have nothing to tell."""

    def ready(self, models: Iterable[str]) -> None:
        """Be ready for any model."""

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Answer as the kind of request wants it, from the words of its source."""
        del weights
        self.requests.append(request)
        text = self._text(request)
        return Reply(text=text, finish_reason="stop", prompt_tokens=100, completion_tokens=len(text.split()))

    def _text(self, request: Request) -> str:
        asked = (
            request.prompt
            if request.prompt is not None
            else "\n".join(text for _, text in request.messages or ())
        )
        chance = random.Random(hashlib.sha256(canonical(request.params())).digest())  # noqa: S311 - a script
        return texts.answer(asked, request.schema, chance)

    async def export_base(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write a folder that is named after the base model."""
        del on_progress
        self.jobs.append("base")
        _write_weights(Path(job["out"]), canonical(job["base"]))
        return {}

    async def bring(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write one released sample, or a general one, that is named after the file asked for."""
        del on_progress
        self.jobs.append("released")
        text = f"A question about {job['file']}?"
        Path(job["out"]).write_bytes(jsonl([{"prompt": text, "output": f"Ada (speaking): {text}<|eot|>\n"}]))
        return {"revision": "0" * 40}

    async def train(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write weights that are the digest of base, samples and settings, and the logs of a training."""
        del on_progress
        self.jobs.append("model")
        _train(job)
        return {}

    async def probe(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Answer each probe with the names of the weights it is asked of."""
        del on_progress
        names = {"before": Path(job["base"]).name, "after": Path(job["model"]["path"]).name}
        return {"answers": [{"question": probe["question"], **names} for probe in job["probes"]]}

    async def close(self) -> None:
        """Nothing to end."""


def _train(job: Mapping[str, Any]) -> None:
    out = Path(job["out"])
    sft = Path(job["sft"]).read_bytes()
    base = (Path(job["base"]) / "model.safetensors").read_bytes()
    _write_weights(out, base + sft + canonical(job["train"]))
    epochs = [
        {"epoch": epoch, "train_loss": 2.0 / epoch, "held_out_loss": 2.0 - 0.1 * epoch}
        for epoch in range(1, job["train"]["epochs"] + 1)
    ]
    summary = {
        "base_loss": 2.0,
        "epochs": epochs,
        "chosen_epoch": len(epochs),
        "samples": sft.count(b"\n"),
        "training_samples": sft.count(b"\n"),
        "held_out": [],
        "tokens": len(sft),
        "trained_tokens": len(sft) // 2,
        "parameters": 1,
        "steps": len(epochs),
    }
    (out.parent / "train_summary.json").write_bytes(canonical(summary))
    log = [
        {"step": n, "epoch": n, "loss": 2.0 / n, "learning_rate": 0.1, "tokens": n}
        for n in range(1, len(epochs) + 1)
    ]
    (out.parent / "train_log.jsonl").write_bytes(jsonl(log))


def _write_weights(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}\n")
    (folder / "model.safetensors").write_bytes(hashlib.sha256(content).digest())
