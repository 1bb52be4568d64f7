"""The plan before training: what is trained on what, how much memory it takes, and whether there is that much.

The estimate leaves out what cannot be known: memory that the allocator cannot give back between rows of different lengths, a
library's workspaces. At 135M parameters and rows of 2,048 tokens on a processor the peak was 14% (whole) to 27% (computed again) above it. So
training is refused only where it plainly cannot fit, and "auto" leaves a fifth of the memory alone. Knows the model's shape and the machine, and nothing of samples but their lengths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from charforge.errors import CharForgeError
from charforge.models import passes

_SPARE = 0.8
"""Of the memory that is free, what a plan that keeps all activations may take: beyond it layers are computed again."""
_MASTER, _MOMENTS = 4, 8
"""Bytes a trained parameter: its float32 copy, which a float32 parameter does not need, and AdamW's two moments."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: `needed` at the peak of a step beside what is loaded already; `free` now; `recompute` whether layers are computed again."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    needed: int
    free: int | None
    recompute: bool

    @property
    def total(self) -> int:
        """Return what the step's peak is expected to be, without what Python and its libraries take."""
        return self.weights + self.gradients + self.optimiser + self.activations


def memory(
    model: Any,
    longest_row: int,
    checkpointing: str | bool,
    *,
    free: int | None,
    processes: int = 1,
    held: int = 0,
) -> Memory:
    """Estimate a process's memory; `longest_row` in tokens. "auto" computes layers again only where memory would be short.

    That changes no bit of the result: what is computed again is what was computed before. Weights, gradients and
    optimiser states are cut into `processes` parts; activations are each process's own, and so are `held` bytes of gradients.
    """
    seen = {id(parameter): parameter for parameter in model.parameters()}.values()
    trained = [parameter for parameter in seen if parameter.requires_grad]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in seen)
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    optimiser = sum(
        parameter.numel() * (_MOMENTS + (_MASTER if parameter.dtype != torch.float32 else 0))
        for parameter in trained
    )
    weights, gradients, optimiser = (part // processes for part in (weights, gradients, optimiser))
    gradients += held
    whole, again = (
        passes.activation_bytes(model, longest_row, recompute=recompute) for recompute in (False, True)
    )
    # The output matrix's gradient is added up in parts, and the optimiser sees one parameter's gradient in float32 at a time.
    largest = max((parameter.numel() * (4 + parameter.element_size()) for parameter in trained), default=0)
    whole, again = whole + largest, again + largest
    if checkpointing == "auto":
        recompute = free is not None and gradients + optimiser + whole > _SPARE * free
    else:
        recompute = bool(checkpointing)
    activations = again if recompute else whole
    needed = gradients + optimiser + activations
    return Memory(weights, gradients, optimiser, activations, needed, free, recompute)


def check(plan: Memory, where: str, *, method: str) -> None:
    """Raise CharForgeError where the plan needs more memory than is free."""
    if plan.free is None or plan.needed <= plan.free:
        return
    raise CharForgeError(
        f"training does not fit into {where}: it takes about {size(plan.needed)} more than what is loaded "
        f"({size(plan.gradients)} gradients, {size(plan.optimiser)} optimiser, {size(plan.activations)} activations), "
        f"{size(plan.free)} are free: {size(plan.needed - plan.free)} too little",
        what_to_change(method=method, recompute=plan.recompute),
    )


def what_to_change(*, method: str, recompute: bool) -> str:
    """Return the hint for too little memory. Not the batch size: rows are computed one after the other."""
    changes = ["lower train.context_length"]
    if not recompute:
        changes.insert(0, "set train.gradient_checkpointing: true")
    if method == "full":
        changes.append("use train.method: lora")
    if method == "lora" and torch.cuda.is_available():
        changes.append("use train.method: qlora")
    return ", ".join(changes) + ", or take a smaller base model (train.batch_size changes no memory)"


def free_memory(device: torch.device, processes: int = 1) -> int | None:
    """Return the bytes this process may still take on its device; None where that cannot be found out.

    In main memory: what the system has available, or its control group still allows, shared by `processes` on this machine.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    found = [value for value in (_available(), *_control_groups()) if value is not None]
    return max(0, min(found)) // processes if found else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return what this process's control group and all above it still allow (version 2, else version 1's memory controller)."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    allowed = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root if controllers == "" else root / "memory"
        names = (
            ("memory.max", "memory.current")
            if controllers == ""
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        folder = base / path.lstrip("/")
        # In a container the path is the host's and the group is the root of what can be seen.
        for group in {base, folder, *(parent for parent in folder.parents if parent.is_relative_to(base))}:
            limit, used = (_number(group / name) for name in names)
            if limit is not None and limit < 1 << 60:
                allowed.append(limit - (used or 0) + (_cache(group / "memory.stat") or 0))
    return allowed


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max" is no number
        return None


def _cache(path: Path) -> int | None:
    """Return the bytes of files that the group holds in memory and would give up."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), None)


def size(count: int) -> str:
    """Return bytes as people say them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
