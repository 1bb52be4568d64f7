"""A scripted stand-in for models and training, for tests and benchmarks: quick, deterministic, and it remembers.

What it says is grounded nonsense that passes the checks; what it "trains" is a digest. It makes every stage run as with real
models, and counts what was asked. No command of CharForge uses it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charforge.engine.digest import canonical, jsonl
from charforge.llm.local import WeightsRef
from charforge.llm.request import Reply, Request

MODEL = "openai/scripted"
"""A capable generator's name: stages ask it for whole scenes and dialogues."""

_FRAMES = (
    "I keep {0} close to me, and nobody shall take {1} from me again.",
    "You speak of {0} as if it were small, yet {1} cost me many nights.",
    "When I think of {0}, my hands remember {1} before my head does.",
    "There was {0}, and there was {1}, and I stood between them like a boy.",
    "Leave {0} to those who like it; I would rather have {1} and quiet.",
    "My answer is {0}, as it was yesterday, with {1} for its reason.",
    "Nobody gave me {0} for nothing: I paid with {1} and did not haggle.",
    "Some days {0} is all my joy, on others even {1} tastes of dust.",
    "If {0} could talk, it would scold me on account of {1} until supper.",
    "They laughed at {0} once, then {1} came, and the laughing stopped.",
)

_QUESTIONS = (
    "What is {} to you, then?",
    "Does {} please you at all?",
    "And who, pray, brought {} into this house?",
    "I cannot let it rest: {}, once more, if you are not tired!",
)


class ScriptedWorkshop:
    """A workshop (see pipeline.Workshop) that follows a script.

    `requests` holds every request answered, `jobs` the name of every job done, in order.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.jobs: list[str] = []

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
        properties = (request.schema or {}).get("properties", {})
        if "score" in properties:
            return json.dumps({"reason": "As scripted.", "score": chance.randint(1, 7)})
        if "background" in properties:
            source = _between(asked, "The source for this scene:\n", "\n\n")
            words = _words(source)
            return json.dumps(
                {
                    "location": f"A room near {chance.choice(words)}, towards evening",
                    "background": " ".join(_sentences(chance, words, 3)),
                }
            )
        name = re.search(r"^(\w[\w .'-]*) \(thinking\): what ", asked, re.MULTILINE)
        if name is not None:
            source = _between(asked, "The source:\n", "\n\n") or _between(asked, "at that time:\n", "\n\n")
            return _dialogue(
                chance, name[1], _words(source), _between(asked, "What the other tries: ", "\n\n")
            )
        if "question" in asked.lower() and "interview" in asked.lower():
            return f"What do you make of {chance.choice(_words(asked))}?"
        return _sentences(chance, _words(asked), 1)[0]

    async def export_base(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write a folder that is named after the base model."""
        del on_progress
        self.jobs.append("base")
        _write_weights(Path(job["out"]), canonical(job["base"]))
        return {}

    async def train(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write weights that are the digest of base, samples and settings, and the logs of a training."""
        del on_progress
        self.jobs.append("model")
        _train(job)
        return {}

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


def _between(text: str, start: str, end: str) -> str:
    _, found, rest = text.partition(start)
    return rest.partition(end)[0] if found else ""


def _words(text: str) -> list[str]:
    words = sorted(set(re.findall(r"[a-z]{5,}", text)))
    return words or ["something"]


def _sentences(chance: random.Random, words: list[str], count: int) -> list[str]:
    """Return sentences that share no frame, so that the rules against repetition have nothing to find."""
    return [
        frame.format(f"the {chance.choice(words)}", f"the {chance.choice(words)}")
        for frame in chance.sample(_FRAMES, count)
    ]


def _dialogue(chance: random.Random, name: str, words: list[str], provocation: str) -> str:
    lines = []
    if provocation:
        lines += [
            f"Location: A room near the {chance.choice(words)}",
            f"Status: A visitor wants to talk to {name}.",
        ]
    tried = [word for word in _words(provocation) if word not in {"again", "about", "visitor"}]
    own = _sentences(chance, words, 9)
    for turn, question in enumerate(_QUESTIONS):
        about = tried[turn % len(tried)] if provocation else chance.choice(words)
        lines.append(f"Visitor (speaking): {question.format(f'the {about}')}")
        if turn == 1:
            lines.append(f"{name} (thinking): {own[8]}")
        lines.append(f"{name} (speaking): {own[2 * turn]} {own[2 * turn + 1]}")
    return "\n\n".join(lines)
