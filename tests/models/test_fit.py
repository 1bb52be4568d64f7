"""The plan before training: bytes counted from the model, held against what is free."""

from __future__ import annotations

import pytest
import torch

from charforge.errors import CharForgeError
from charforge.models import fit
from charforge.models.load import load_folder


def model(tiny, dtype=torch.bfloat16):
    return load_folder(tiny, dtype)[0]


def count(found) -> int:
    return sum(parameter.numel() for parameter in {id(p): p for p in found.parameters()}.values())


@pytest.mark.parametrize(("dtype", "weights", "optimiser"), [(torch.bfloat16, 2, 12), (torch.float32, 4, 8)])
def test_bytes_are_counted_a_parameter(tiny, dtype, weights, optimiser):
    found = model(tiny, dtype)
    plan = fit.memory(found, 100, False, free=10**12)
    parameters = count(found)
    assert (plan.weights, plan.gradients, plan.optimiser) == (
        weights * parameters,
        weights * parameters,
        optimiser * parameters,
    )
    assert plan.total == plan.weights + plan.needed


def test_what_is_frozen_has_no_gradient_and_no_optimiser(tiny):
    found = model(tiny)
    found.requires_grad_(False)
    plan = fit.memory(found, 100, False, free=None)
    assert (plan.gradients, plan.optimiser) == (0, 0)


def test_parts_are_shared_and_activations_are_not(tiny):
    found = model(tiny)
    one, two = (fit.memory(found, 100, False, free=None, processes=n) for n in (1, 2))
    assert two.optimiser == one.optimiser // 2
    assert two.activations == one.activations


def test_layers_are_computed_again_only_where_memory_is_short(tiny):
    found = model(tiny)
    whole = fit.memory(found, 100_000, "auto", free=10**12)
    assert not whole.recompute
    short = fit.memory(found, 100_000, "auto", free=whole.needed)
    assert short.recompute
    assert short.activations < whole.activations
    assert not fit.memory(found, 100_000, "auto", free=None).recompute
    assert fit.memory(found, 100_000, True, free=10**12).recompute


def test_what_does_not_fit_says_by_how_much_and_what_to_change():
    plan = fit.Memory(2 * 10**9, 10**9, 6 * 10**9, 3 * 10**9, 10**10, 4 * 10**9, recompute=False)
    with pytest.raises(CharForgeError) as caught:
        fit.check(plan, "main memory", method="full")
    assert caught.value.message == (
        "training does not fit into main memory: it takes about 10.0 GB more than what is loaded "
        "(1.0 GB gradients, 6.0 GB optimiser, 3.0 GB activations), 4.0 GB are free: 6.0 GB too little"
    )
    assert caught.value.hint == (
        "set train.gradient_checkpointing: true, lower train.context_length, use train.method: lora, "
        "or take a smaller base model (train.batch_size changes no memory)"
    )


@pytest.mark.parametrize("free", [None, 10**10])
def test_what_fits_or_cannot_be_known_is_let_through(free):
    fit.check(fit.Memory(0, 0, 0, 0, 10**10, free, recompute=False), "main memory", method="full")


def test_a_control_groups_limit_counts(tmp_path):
    """Version 2, nested: the tightest of the groups above counts, and files it holds in memory are as good as free."""
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    root = tmp_path / "fs"
    (root / "a/b").mkdir(parents=True)
    (root / "a/memory.max").write_text("1000\n")
    (root / "a/memory.current").write_text("700\n")
    (root / "a/memory.stat").write_text("anon 600\ninactive_file 50\n")
    (root / "a/b/memory.max").write_text("max\n")
    assert fit._control_groups(root, own) == [350]


def test_version_one_of_control_groups_counts_too(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/x\n")
    folder = tmp_path / "fs/memory/x"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000")
    (folder / "memory.usage_in_bytes").write_text("100")
    (tmp_path / "fs/memory/memory.limit_in_bytes").write_text(str((1 << 63) - 4096))
    assert fit._control_groups(tmp_path / "fs", own) == [900]


def test_free_memory_is_shared_by_the_processes_of_a_machine():
    one = fit.free_memory(torch.device("cpu"))
    assert one is not None
    assert one > 0
    half = fit.free_memory(torch.device("cpu"), 2)
    assert half is not None
    assert half < 0.75 * one


def test_sizes_are_said_as_people_say_them():
    assert [fit.size(count) for count in (1_500_000, 250_000_000, 81_000_000_000)] == [
        "1.5 MB",
        "0.2 GB",
        "81.0 GB",
    ]
