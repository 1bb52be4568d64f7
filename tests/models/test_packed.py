"""Our attention is torch's, sequence by sequence, and nearer to the exact one in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from charforge.models.packed import PackedAttention  # noqa: E402

LENGTHS = (130, 1, 300, 17)


def tensors(kv_heads: int, dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, sum(LENGTHS), 16), *[(kv_heads, sum(LENGTHS), 16)] * 2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def results(function: Any, inputs: list[Any], dtype: Any) -> list[Any]:
    """What comes out, and the three gradients."""
    inputs = [each.to(dtype).requires_grad_() for each in inputs]
    out = function(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
    out.backward(weights)
    return [out.detach(), *[each.grad for each in inputs]]


def ours(query: Any, key: Any, value: Any) -> Any:
    return PackedAttention.apply(query, key, value, LENGTHS, 0.3)


def torchs(query: Any, key: Any, value: Any) -> Any:
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=0.3, enable_gqa=True
        )[0]
        for q, k, v in zip(*[each.split(LENGTHS, 1) for each in (query, key, value)], strict=True)
    ]
    return torch.cat(parts, 1).transpose(0, 1)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_in_float32_it_is_torchs(kv_heads: int) -> None:
    inputs = tensors(kv_heads, torch.float32)
    for a, b in zip(
        results(ours, inputs, torch.float32), results(torchs, inputs, torch.float32), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_its_gradients_are_as_near_to_exact_ones_as_torchs() -> None:
    inputs = tensors(2, torch.bfloat16)
    exact = results(torchs, inputs, torch.float64)
    distances = [
        [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
        for found in (results(ours, inputs, torch.bfloat16), results(torchs, inputs, torch.bfloat16))
    ]
    for ours_, torchs_ in zip(*distances, strict=True):
        assert ours_ < 1.6 * torchs_ + 1e-3
