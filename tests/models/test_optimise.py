"""Small updates are not rounded away, a step is AdamW's, and an optimiser taken up again goes on to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from charforge.models.optimise import Optimiser, gradient_norm, rate  # noqa: E402

SETTINGS: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1, "max_grad_norm": 1.0}


def parameters(dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in ((8, 4), (8,), (3, 5))
    ]


def set_gradients(parameters: list[Any], step: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = (torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype)


def test_a_float32_step_is_adamw_with_clipped_gradients() -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    optimiser = Optimiser(ours, **SETTINGS)
    groups = [
        {"params": [theirs[0], theirs[2]], "weight_decay": 0.1},
        {"params": [theirs[1]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for step, size in enumerate([1.0, 0.01, 3.0]):
        set_gradients(ours, step, size)
        set_gradients(theirs, step, size)
        norm = optimiser.step(0.01)
        assert float(norm) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, 1.0)))
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert not any(parameter.grad.any() for parameter in ours)


def test_bfloat16_weights_follow_float32_masters() -> None:
    ours = parameters(torch.bfloat16)
    first = Optimiser(ours, **SETTINGS)
    theirs = [torch.nn.Parameter(master.clone()) for master in first.masters]
    optimisers = [first, Optimiser(theirs, **SETTINGS)]
    for step in range(5):
        set_gradients(ours, step)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = a.grad.float()
        for optimiser in optimisers:
            optimiser.step(1e-5)
    for master, weight, exact in zip(optimisers[0].masters, ours, theirs, strict=True):
        assert torch.equal(master, exact)
        assert torch.equal(weight, exact.to(torch.bfloat16))
    # What bfloat16 alone would have forgotten is there.
    assert not torch.equal(optimisers[0].masters[0], parameters(torch.bfloat16)[0].float())


def test_a_norm_that_is_no_number_moves_nothing() -> None:
    ours = parameters(torch.bfloat16)
    optimiser = Optimiser(ours, **SETTINGS)
    set_gradients(ours, 0)
    optimiser.step(0.01)
    before = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    set_gradients(ours, 1)
    ours[1].grad[0] = math.nan
    assert math.isnan(float(optimiser.step(0.01)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimiser.state().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taken_up_again_it_ends_with_the_same_bits(dtype: Any) -> None:
    unbroken = parameters(dtype)
    optimiser = Optimiser(unbroken, **SETTINGS)
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in optimiser.state().items()}
        set_gradients(unbroken, step)
        optimiser.step(0.01)
    resumed = [torch.nn.Parameter(torch.zeros_like(parameter)) for parameter in unbroken]
    second = Optimiser(resumed, **SETTINGS)
    second.load(saved)
    for step in range(3, 6):
        set_gradients(resumed, step)
        second.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(resumed, unbroken, strict=True))
    first, again = optimiser.state(), second.state()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_state_before_the_first_step_can_be_taken_up() -> None:
    ours = parameters(torch.bfloat16)
    optimiser = Optimiser(ours, **SETTINGS)
    start = {name: tensor.clone() for name, tensor in optimiser.state().items()}
    set_gradients(ours, 0)
    optimiser.step(0.01)
    optimiser.load(start)
    assert all(torch.equal(a, b) for a, b in zip(ours, parameters(torch.bfloat16), strict=True))
    assert optimiser.state().keys() == start.keys()


def test_a_parameter_without_gradient_stays() -> None:
    ours = parameters(torch.bfloat16)
    optimiser = Optimiser(ours, **SETTINGS)
    set_gradients(ours, 0)
    ours[0].grad = None
    optimiser.step(0.01)
    assert torch.equal(ours[0], parameters(torch.bfloat16)[0])


def test_the_norm_is_added_up_in_float32() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1 << 16, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    assert float(gradient_norm([parameter])) == 256.0


def schedule(name: str, steps: int = 20, warmup: float = 0.1) -> list[float]:
    settings = {"learning_rate": 1.0, "warmup_ratio": warmup, "schedule": name}
    return [rate(step, steps, settings) for step in range(1, steps + 1)]


def test_every_schedule_warms_up_to_the_peak() -> None:
    for name in ("constant", "linear", "cosine", "inverse_sqrt", "warmup_stable_decay"):
        rates = schedule(name)
        assert rates[:2] == [0.5, 1.0]
        assert max(rates) == 1.0
        assert rates[2:] == sorted(rates[2:], reverse=True)
        assert rates[-1] > 0


def test_the_schedules_shapes() -> None:
    assert set(schedule("constant", warmup=0)) == {1.0}
    assert schedule("linear", 4, 0) == [1.0, 0.75, 0.5, 0.25]
    assert schedule("cosine", 4, 0)[2] == pytest.approx(0.5)
    assert schedule("inverse_sqrt", 16, 0.25)[7] == pytest.approx(math.sqrt(4 / 8))
    assert schedule("warmup_stable_decay", 20, 0)[16:] == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="unknown schedule 'x'"):
        schedule("x")


def test_masters_of_bfloat16_weights_round_to_them():
    torch.manual_seed(0)
    weights = torch.cat(
        [torch.randn(5000), torch.zeros(50), -torch.zeros(50), torch.tensor([1.0, -2.0, 1e-38])]
    )
    parameter = torch.nn.Parameter(weights.bfloat16())
    before = parameter.detach().clone()
    optimiser = Optimiser([parameter], betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
    assert torch.equal(optimiser.masters[0].bfloat16().view(torch.int16), before.view(torch.int16))
    assert (optimiser.masters[0] != before.float()).float().mean() > 0.9


def test_an_update_far_below_the_last_digit_moves_the_mean_as_much_as_it_should():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.ones(40_000, dtype=torch.bfloat16))
    optimiser = Optimiser([parameter], betas=(0.9, 0.95), weight_decay=0.0, max_grad_norm=1.0)
    parameter.grad.fill_(1e-3)
    optimiser.step(1e-4)
    # AdamW's first step is the rate; the last digit below 1.0 is 0.0039.
    assert 1 - float(parameter.detach().float().mean()) == pytest.approx(1e-4, rel=0.25)
    assert set(parameter.tolist()) <= {1.0, 1.0 - 2**-8}
