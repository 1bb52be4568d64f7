"""AdamW on float32 master weights, the gradient's norm, and the learning rate of each step.

A bfloat16 weight of 1.0 would not notice an update below 0.004, so updates are added to a float32 copy and the weight is that
copy, rounded. A float32 weight is its own master. Knows nothing of models, samples or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_DECAY = 0.1
"""The part of the steps in which warmup_stable_decay goes down."""


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over `parameters`, with the gradient's norm clipped to `max_grad_norm`.

    Matrices are decayed; norms and biases are not. `masters` are float32, in the parameters' order. Memory: 12 bytes a bfloat16
    parameter beside its weight and gradient, 8 a float32 one; each parameter has an optimiser of its own, so that only one
    gradient is float32 at a time.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.masters = [
            parameter if parameter.dtype == torch.float32 else within_rounding(parameter.detach())
            for parameter in self.parameters
        ]
        self._optimisers = [
            torch.optim.AdamW(
                [master], betas=betas, weight_decay=weight_decay if master.ndim >= 2 else 0.0, fused=True
            )
            for master in self.masters
        ]
        # All that lives as long as training is made before anything that comes and goes. Made in between, it lies where activations
        # lay, and the next ones find no hole that they fit: at 135M parameters that took 0.3 GB more.
        for optimiser, master in zip(self._optimisers, self.masters, strict=True):
            optimiser.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=local(master).device),
                "exp_avg": torch.zeros_like(master, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(master, requires_grad=False),
            }
        # FSDP makes the gradients of its parts itself.
        self._gradients = [
            torch.zeros_like(parameter, requires_grad=False) if local(parameter) is parameter else None
            for parameter in self.parameters
        ]
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def step(self, rate: float) -> torch.Tensor:
        """Move the weights by one step at this learning rate and make the gradients zero; returns the gradient's norm, a scalar.

        Nothing is moved where the norm is not a finite number. Does not wait for an accelerator: `float(norm)` does.
        """
        norm = gradient_norm(self.parameters)
        # What AdamW divides gradients by. A norm that is no number makes `broken` 1, and it moves nothing.
        scale = (norm / self.max_grad_norm).clamp(min=1.0)
        broken = (~norm.isfinite()).float()
        with torch.no_grad():
            for parameter, gradient, master, optimiser in zip(
                self.parameters, self._gradients, self.masters, self._optimisers, strict=True
            ):
                if parameter.grad is None:
                    continue
                if master is not parameter:
                    master.grad = parameter.grad.float()
                optimiser.param_groups[0]["lr"] = rate
                optimiser.grad_scale, optimiser.found_inf = scale, broken
                optimiser.step()
                if master is not parameter:
                    master.grad = None
                    parameter.copy_(master)
                parameter.grad = None if gradient is None else gradient.zero_()
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that `load` needs to go on as if nothing had happened; the tensors are the living ones, this process's parts."""
        tensors = {f"master.{i}": local(master.detach()) for i, master in enumerate(self.masters)}
        for i, optimiser in enumerate(self._optimisers):
            for name, tensor in optimiser.state[self.masters[i]].items():
                tensors[f"{name}.{i}"] = local(tensor)
        return tensors

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take up the state of an optimiser of the same parameters; the parameters become what they were then."""
        with torch.no_grad():
            for i, (parameter, master) in enumerate(zip(self.parameters, self.masters, strict=True)):
                local(master).copy_(state[f"master.{i}"])
                if master is not parameter:
                    parameter.copy_(master)
                if f"step.{i}" not in state:
                    self._optimisers[i].state.pop(master, None)
                    continue
                own: dict[str, torch.Tensor] = {"step": state[f"step.{i}"].to(master.device, copy=True)}
                for name in ("exp_avg", "exp_avg_sq"):
                    own[name] = torch.empty_like(master)
                    local(own[name]).copy_(state[f"{name}.{i}"])
                self._optimisers[i].state[master] = own


def within_rounding(weights: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers drawn from those that round to these weights; they are bfloat16 (any other type is only converted).

    Weights in bfloat16 were rounded, and where in its interval a number was is lost. Were it the middle each time, no
    weight would move before updates had added up to half an interval, 0.2% of it: at small rates hundreds of steps in which
    little is learned. Drawn, as many weights move in each step as should, and their mean moves as the masters' does.
    """
    masters = weights.float()
    if weights.dtype == torch.bfloat16:
        bits = masters.view(torch.int32)
        # The lower half of a float32 is what bfloat16 lacks. Zero has no neighbours that are so near.
        drawn = torch.randint(-0x7FFF, 0x8000, bits.shape, dtype=torch.int32, device=bits.device)
        bits += drawn.mul_(weights != 0)
    return masters


def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the length of all gradients as one vector, added up in float32 whatever type they have; a scalar."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(local(gradient), dtype=torch.float32) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if any(local(gradient) is not gradient for gradient in gradients):
        # One exchange for all: with one each, all processes would wait for each other as often as there are parameters.
        squares = norm.square()
        torch.distributed.all_reduce(squares)
        norm = squares.sqrt()
    return norm


def rate(step: int, steps: int, settings: dict[str, Any]) -> float:
    """Return the learning rate of step 1 … steps: linear warm-up to the peak, then as `settings["schedule"]` says.

    constant; linear and cosine down to zero; inverse_sqrt: peak · √(w / step), w the warm-up's steps, at least 1;
    warmup_stable_decay: constant, then down a line to zero in the last tenth of the steps.
    """
    peak: float = settings["learning_rate"]
    warmup: int = round(settings["warmup_ratio"] * steps)
    if step <= warmup:
        return peak * step / warmup
    gone = (step - warmup - 1) / max(1, steps - warmup)
    match settings["schedule"]:
        case "constant":
            return peak
        case "linear":
            return peak * (1.0 - gone)
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * gone))
        case "inverse_sqrt":
            return peak * math.sqrt(max(1, warmup) / step)
        case "warmup_stable_decay":
            return peak * min(1.0, (steps - step + 1) / (max(1, round(_DECAY * steps)) + 1))
    raise ValueError(f"unknown schedule {settings['schedule']!r}")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor that is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
