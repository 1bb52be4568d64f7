"""Keys and values of earlier prompts, for prompts that begin as they did: the next turn of a conversation computes what is new.

Knows no model: a tensor a layer, and the token ids that it is of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

_KEPT_BYTES = 1 << 29
"""Keys and values of prompts and their replies, kept for the prompts that go on from them: 23,000 tokens of the 135M model, which is
40 conversations of five turns."""
_KEPT_TOKENS = 64
"""Prompt tokens that a kept prompt must save. In bfloat16 what is computed in two parts may differ in its last bits, so not for little."""


class Kept:
    """The last prompts, up to _KEPT_BYTES. Of each, keys and values of its own tokens, after the prefix that it shared with others."""

    def __init__(self, bytes_per_token: int) -> None:
        self.bytes_per_token = bytes_per_token
        self.entries: OrderedDict[tuple[int, ...], tuple[int, list[torch.Tensor]]] = OrderedDict()
        self.tokens = 0

    def find(self, ids: tuple[int, ...], start: int) -> list[torch.Tensor] | None:
        """Return keys and values, a tensor a layer, of as many tokens of `ids` from `start` on as an earlier prompt has."""
        head = start + _KEPT_TOKENS
        best, best_ids = head - 1, None
        for kept, (begins, _) in self.entries.items():
            if begins <= start and kept[:head] == ids[:head]:
                same = common(kept, ids)
                if same > best:
                    best, best_ids = same, kept
        if best_ids is None:
            return None
        self.entries.move_to_end(best_ids)
        begins, layers = self.entries[best_ids]
        # One token is left to compute: its logits are needed.
        end = min(best, len(ids) - 1)
        return [layer[:, :, start - begins : end - begins] for layer in layers] if end >= head else None

    def add(self, ids: tuple[int, ...], start: int, layers: list[torch.Tensor]) -> None:
        """Keep a prompt; what it goes on from is in it."""
        for known in [
            old for old, (begins, _) in self.entries.items() if begins >= start and ids[: len(old)] == old
        ]:
            self._drop(known)
        self.entries[ids] = start, layers
        self.tokens += len(ids) - start
        while self.tokens * self.bytes_per_token > _KEPT_BYTES:
            self._drop(next(iter(self.entries)))

    def _drop(self, ids: tuple[int, ...]) -> None:
        self.tokens -= len(ids) - self.entries.pop(ids)[0]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
