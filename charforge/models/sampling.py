"""Scores → tokens: what a model said about the next token of each row, and what is taken.

Rows are sampled together but do not touch each other: what is drawn for one depends on its own scores, settings and random numbers.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from charforge.errors import CharForgeError
from charforge.llm.request import Request


class Seen:
    """The different tokens of a row, in an array that grows by one a step: to make it anew each time took 0.06 ms a row."""

    def __init__(self, ids: Sequence[int], more: int) -> None:
        self._known = set(ids)
        self._room = np.empty(len(self._known) + more, dtype=np.int64)
        self._room[: len(self._known)] = list(self._known)

    def add(self, token: int) -> None:
        if token not in self._known:
            self._room[len(self._known)] = token
            self._known.add(token)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def tokens(self) -> np.ndarray[Any, Any]:
        return self._room[: len(self._known)]


class Sampled(Protocol):
    """What is known here of a row. `matcher` says which tokens may come next, where a reply is constrained."""

    @property
    def request(self) -> Request: ...

    @property
    def seen(self) -> Seen: ...

    @property
    def random(self) -> random.Random: ...

    @property
    def matcher(self) -> Any: ...


def sample(rows: Sequence[Sampled], logits: torch.Tensor) -> list[int | CharForgeError]:
    """Return the next token of each row, from its logits [rows, vocabulary] in float32, which are overwritten.

    An error stands for the token of a row whose scores are no numbers.
    """
    _penalise(rows, logits)
    for row, scores in zip(rows, logits, strict=True):
        if row.matcher is not None:
            mask = np.frombuffer(row.matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.unpackbits(mask, bitorder="little")[: len(scores)].astype(bool)
            scores[torch.from_numpy(~allowed)] = -torch.inf
    greedy = {i: int(logits[i].argmax()) for i, row in enumerate(rows) if row.request.temperature == 0}
    # All rows in one go, so that all cores take part, and in place.
    temperatures = torch.tensor([[row.request.temperature or 1.0] for row in rows])
    chances = torch.softmax(logits.div_(temperatures), 1).numpy()
    tokens: list[int | CharForgeError] = []
    for i, row in enumerate(rows):
        if np.isnan(chances[i, 0]):
            tokens.append(CharForgeError("the model's scores are no numbers: its weights are broken"))
        elif i in greedy:
            tokens.append(greedy[i])
        else:
            top_p = 1.0 if row.request.top_p is None else row.request.top_p
            tokens.append(pick(chances[i], top_p, row.random.random()))
    return tokens


def _penalise(rows: Sequence[Sampled], logits: torch.Tensor) -> None:
    """Lower the scores of what stands in a row's prompt or reply already (Keskar et al. 2019, section 4.1)."""
    found = [
        (i, row.seen, row.request.repetition_penalty)
        for i, row in enumerate(rows)
        if row.request.repetition_penalty not in (None, 1.0)
    ]
    if not found:
        return
    counts = torch.tensor([len(seen) for _, seen, _ in found])
    at = torch.tensor([i for i, _, _ in found]).repeat_interleave(counts)
    penalty = torch.tensor([penalty for _, _, penalty in found]).repeat_interleave(counts)
    tokens = torch.from_numpy(np.concatenate([seen.tokens for _, seen, _ in found]))
    values = logits[at, tokens]
    logits[at, tokens] = torch.where(values > 0, values / penalty, values * penalty)


def numbers(request: Request, ids: Iterable[int]) -> random.Random:
    """Return the row's own random numbers. Without a seed they are fresh each time: then a redraw is a new observation."""
    if request.seed is None:
        return random.Random(secrets.randbits(256))  # noqa: S311
    # The prompt is part of it: else all rows of one seed would make the same lucky and unlucky choices.
    text = f"{request.seed}/{request.draw}/{','.join(map(str, ids))}"
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()))  # noqa: S311


def pick(probabilities: np.ndarray[Any, Any], top_p: float, uniform: float) -> int:
    """Return the token that `uniform` in [0, 1) picks from the smallest set of likeliest tokens with mass >= top_p.

    Sorting 49,152 numbers takes 4 ms, so the tail below 1/10,000 of the likeliest token is left out first; where what
    remains lacks the mass, all of it is sorted.
    """
    if top_p >= 1:
        sums = np.cumsum(probabilities, dtype=np.float64)
        return int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    likely = np.flatnonzero(probabilities > probabilities.max() * 1e-4)
    if probabilities[likely].sum(dtype=np.float64) < top_p:
        likely = np.flatnonzero(probabilities > 0)
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    sums = np.cumsum(probabilities[order], dtype=np.float64)
    size = min(int(np.searchsorted(sums, top_p)) + 1, len(sums))
    return int(
        order[min(int(np.searchsorted(sums[:size], uniform * sums[size - 1], side="right")), size - 1)]
    )
