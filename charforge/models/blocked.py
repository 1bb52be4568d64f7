"""Linear layers whose weights lie in the order in which the processor's matrix product reads them.

PyTorch's bfloat16 product on a processor (oneDNN's) wants the weights in blocks, and puts a plain matrix into blocks anew at every call.
In a step that writes one token for each of ten rows this takes longer than the product: 29.6 ms against 14.6 ms for all matrices of a
model of 135M parameters (two Zen 4 cores; 64 rows: 60.6 against 49.0). The numbers are the same. Knows no model's type.
"""

# ruff: noqa: SLF001  # what PyTorch's own compiler calls; nothing else takes weights in blocks

from __future__ import annotations

from typing import Any

import torch


class Blocked(torch.nn.Module):  # type: ignore[misc]  # torch.nn is Any to the type checker
    """Stands for a `torch.nn.Linear` that is only ever asked forward. Its `weight` can be multiplied with, and not read."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Neither parameter nor buffer: whatever copies or saves those cannot do it with this one.
        self.weight: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias: Any = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any number of dimensions, features last, as `torch.nn.Linear` has it."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


def block(model: torch.nn.Module) -> None:
    """Put the weights of the model's bfloat16 linear layers into blocks, where this PyTorch can; afterwards it cannot be saved or trained.

    A layer that is no plain Linear (quantised, subclassed) stays as it is. A matrix shared with the embeddings is kept there too.
    """
    ops = torch.ops.mkldnn
    if not (hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")):
        return  # PyTorch's own compiler uses these; a build of it without oneDNN has none
    if not ops._is_mkldnn_bf16_supported():
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if (
                type(layer) is torch.nn.Linear
                and layer.weight.dtype == torch.bfloat16
                and layer.weight.is_cpu
            ):
                setattr(parent, name, Blocked(layer))
