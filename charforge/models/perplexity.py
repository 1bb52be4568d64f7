"""How well weights foresee dialogues that they were not trained on, and how much of that a quantised file loses.

The files' weights are dequantised and run here, in float32, so that only the weights differ: what llama.cpp adds by rounding activations
to 8 bits on the way is not in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from charforge.errors import CharForgeError
from charforge.models import gguf_file, samples
from charforge.models.load import load_folder
from charforge.models.passes import measure, prepare
from charforge.models.rows import pack


def perplexities(
    folder: Path, files: Sequence[Path], records: list[dict[str, Any]], settings: dict[str, Any]
) -> list[float]:
    """Return the perplexity of the model in `folder`, then of each GGUF file made of it, on SFT records.

    It is e to the mean loss of the tokens that loss falls on; `settings` has `character`, `loss` and `context` (tokens).
    """
    model, tokenizer = load_folder(folder, torch.float32)
    prepare(model)
    found = samples.read(tokenizer, records, settings["character"], settings["loss"], settings["context"])
    asked = [sample for sample in found.samples if sample.targets]
    if not asked:
        raise CharForgeError(f"none of the held-out dialogues has a turn of {settings['character']!r}")
    rows = pack(asked, settings["context"], packing=False)
    count = sum(len(sample.targets) for sample in asked)

    def perplexity() -> float:
        with torch.inference_mode():
            return math.exp(sum(measure(model, rows)) / count)

    results = [perplexity()]
    parameters = dict(model.named_parameters())
    for file in files:
        with torch.no_grad():
            for name, weight in gguf_file.read(file, folder):
                # Rows of no token stay as they are: they take part in no sample, and in the file they are not.
                parameters[name][: weight.shape[0]] = torch.from_numpy(weight)
        results.append(perplexity())
    return results
