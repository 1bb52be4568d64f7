"""`python -m charforge.models.probes`: the same prompts, answered by the base model and by what was trained from it.

The job: `{"base": folder, "model": weights as models.load takes them, "probes": [{"question", "prompt"}], "max_tokens"}`.
The result: `{"answers": [{"question", "before", "after"}]}`, each the likeliest continuation up to the end of the turn, so the
same weights give the same answers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from charforge.dialogue import EOT, one_line
from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.models.generate import Generator
from charforge.models.load import load
from charforge.models.process import available_cpus, serve_job

_PENALTY = 1.15
"""Without one a small model's likeliest continuation goes round in circles."""


def answer(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do the job of the module's docstring. A prompt that leaves no room for an answer is answered by nothing."""
    torch.set_num_threads(available_cpus())
    progress({"phase": "asking the model before and after"})
    base = {"kind": "folder", "path": job["base"]}
    before = _answers(base, job["probes"], job["max_tokens"])
    after = _answers(job["model"], job["probes"], job["max_tokens"])
    return {
        "answers": [
            {"question": probe["question"], "before": was, "after": now}
            for probe, was, now in zip(job["probes"], before, after, strict=True)
        ]
    }


def _answers(weights: dict[str, str], probes: list[dict[str, str]], max_tokens: int) -> list[str]:
    generator = Generator(*load(weights))
    replies = generator.generate(
        [
            # A base model that never saw the end mark writes it out, or goes on in the next line.
            Request(
                model="local/probe",
                prompt=probe["prompt"],
                max_tokens=max_tokens,
                temperature=0.0,
                repetition_penalty=_PENALTY,
                stop=(EOT, "\n"),
            )
            for probe in probes
        ]
    )
    del generator
    gc.collect()
    return ["" if isinstance(reply, CharForgeError) else one_line(reply.text) for reply in replies]


if __name__ == "__main__":
    serve_job(answer)
