"""Attention for rows of different lengths packed in one sequence, each over its own past; and where that past is kept.

A row's past is a prefix, which rows may share and which is held once, and its own tokens. The model sees one sequence of
batch size 1 without padding; `attend`, registered with transformers as an attention implementation, gives each row what
is its own. Knows nothing of requests, sampling or which rows there are: that is `generate`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 -- everybody's name for it
from transformers import AttentionInterface

from charforge.errors import CharForgeError

NAME = "charforge_rows"


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a beginning that rows share: a [2, kv_heads, tokens, head_dim] float32 tensor a layer."""

    ids: tuple[int, ...]
    layers: list[torch.Tensor]


class Pass(Protocol):
    """What one forward pass knows of its rows."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """[heads, tokens, head_dim] and two of [kv_heads, tokens, head_dim] in, [1, tokens, heads, head_dim] out."""
        ...


def install(model: Any) -> None:
    """Make the model attend by rows; from now on its forward wants `rows=` a `Pass`."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: object,
    scaling: float,
    rows: Pass,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """The interface transformers calls: [1, heads, tokens, head_dim] in, [1, tokens, heads, head_dim] out."""
    for name in ("sliding_window", "softcap", "s_aux"):
        if others.get(name) is not None:
            raise CharForgeError(f"models with {name} in their attention are not run here")
    return rows.attend(module.layer_idx, query[0], key[0], value[0], scaling), None


class Newcomer(NamedTuple):
    """A row of `new` tokens after a prefix and after own tokens whose keys and values are `known`, as in Prefill's caches."""

    new: int
    prefix: Prefix | None
    known: list[torch.Tensor] | None = None

    @property
    def before(self) -> int:
        """Tokens before the new ones."""
        return (len(self.prefix.ids) if self.prefix else 0) + (self.known[0].shape[2] if self.known else 0)


class Prefill:
    """Rows of several new tokens each: causal attention row by row, each over its past and itself.

    Afterwards `caches[row][layer]` holds the row's own keys and values, [2, kv_heads, tokens, head_dim] in float32.
    """

    def __init__(self, rows: Sequence[Newcomer], layers: int) -> None:
        self.rows = rows
        self.caches: list[list[torch.Tensor]] = [[torch.empty(0)] * layers for _ in rows]
        self.masks = [
            torch.ones(row.new, row.before + row.new, dtype=torch.bool).tril(row.before)
            if row.before
            else None
            for row in rows
        ]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        out = []
        at = 0
        for (n, prefix, known), mask, cache in zip(self.rows, self.masks, self.caches, strict=True):
            own = torch.stack([k[:, at : at + n], v[:, at : at + n]])
            if known:
                own = torch.cat([known[layer].to(own.dtype), own], 2)
            cache[layer] = own.float()
            if prefix:
                own = torch.cat([prefix.layers[layer].to(own.dtype), own], 2)
            attended = F.scaled_dot_product_attention(
                q[None, :, at : at + n],
                own[0][None],
                own[1][None],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=True,
            )
            out.append(attended[0].transpose(0, 1))
            at += n
        return torch.cat(out)[None]


class OwnCache:
    """Keys and values of each row's own tokens: a [2, rows, kv_heads, room, head_dim] tensor a layer.

    In float32: a batched product of bfloat16 matrices this small is no faster (2.6 ms against 4.1 ms for 64 rows of 400
    tokens), and so the scores are exact.
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        self.layers = [torch.zeros(2, 0, kv_heads, 0, head_dim) for _ in range(layers)]

    @property
    def room(self) -> int:
        return int(self.layers[0].shape[3])

    def reserve(self, room: int) -> None:
        """Make room for `room` tokens a row, in steps of 64 so that it is copied rarely."""
        if room > self.room:
            more = -(-room // 64) * 64 - self.room
            for i, layer in enumerate(self.layers):
                self.layers[i] = F.pad(layer, (0, 0, 0, more))

    def rebuild(self, rows: Sequence[int | list[torch.Tensor]], room: int) -> None:
        """Make these the rows, in this order: an index of a present row, or a newcomer as `Prefill.caches` holds it."""
        room = -(-room // 64) * 64
        for i, old in enumerate(self.layers):
            new = old.new_zeros(2, len(rows), old.shape[2], room, old.shape[4])
            for at, row in enumerate(rows):
                tokens = old[:, row, :, :room] if isinstance(row, int) else row[i]
                new[:, at, :, : tokens.shape[2]] = tokens
            self.layers[i] = new


class Decode:
    """One new token a row. Queries of the heads that share keys count as so many queries, and rows that share a prefix too.

    `groups` are the stretches of rows with one prefix, (start, stop, prefix); `lengths` the rows' own tokens, the new one
    included.
    """

    def __init__(
        self, own: OwnCache, groups: Sequence[tuple[int, int, Prefix | None]], lengths: list[int]
    ) -> None:
        self.own, self.groups = own, groups
        self.end = torch.tensor(lengths) - 1
        self.room = max(lengths)
        self.index = torch.arange(len(lengths))
        ended = torch.arange(self.room) >= torch.tensor(lengths)[:, None]
        self.mask = torch.zeros(len(lengths), 1, 1, self.room).masked_fill_(ended[:, None, None], -torch.inf)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        heads, n, dim = q.shape
        kv = k.shape[0]
        cache = self.own.layers[layer]
        cache[0, self.index, :, self.end] = k.transpose(0, 1).float()
        cache[1, self.index, :, self.end] = v.transpose(0, 1).float()
        keys, values = cache[0, :, :, : self.room], cache[1, :, :, : self.room]
        queries = q.transpose(0, 1).reshape(n, kv, heads // kv, dim).float() * scaling
        scores = queries @ keys.transpose(-1, -2) + self.mask
        out = torch.empty_like(queries)
        for a, b, prefix in self.groups:
            if prefix is None:
                out[a:b] = scores[a:b].softmax(-1) @ values[a:b]
                continue
            shared_keys, shared_values = prefix.layers[layer]
            length = shared_keys.shape[1]
            block = queries[a:b].transpose(0, 1).reshape(kv, -1, dim)
            shared = (block @ shared_keys.transpose(-1, -2)).view(kv, b - a, -1, length).transpose(0, 1)
            weights = torch.cat([shared, scores[a:b]], -1).softmax(-1)
            block = weights[..., :length].transpose(0, 1).reshape(kv, -1, length)
            from_shared = (block @ shared_values).view(kv, b - a, -1, dim).transpose(0, 1)
            out[a:b] = from_shared + weights[..., length:] @ values[a:b]
        return out.reshape(1, n, heads, dim).to(q.dtype)
