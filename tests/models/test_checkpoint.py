"""Checkpoints are whole or not there; the newest intact one of the same job is found."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from charforge.models import checkpoint
from charforge.models.checkpoint import BEST, FACTS, MANIFEST, STATE, UNWRITTEN, latest, save


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"master.0": torch.full((64, 8), float(step)), "step.0": torch.tensor(float(step))}


def saved(folder: Path, *steps: int, job: str = "job", **more) -> None:
    for step in steps:
        save(folder, job, step, tensors(step), {"log": [step]}, **more)


def found(folder: Path, job: str = "job", **more):
    heard: list[str] = []
    return latest(folder, job, heard.append, **more), heard


def test_what_is_saved_is_found(tmp_path):
    saved(tmp_path, 3, 12)
    newest, heard = found(tmp_path)
    assert (newest.step, newest.facts, newest.best, heard) == (12, {"log": [12]}, None, [])
    assert {name: tensor.tolist() for name, tensor in newest.state().items()} == {
        name: tensor.tolist() for name, tensor in tensors(12).items()
    }


def test_nothing_is_found_where_nothing_was_saved(tmp_path):
    assert found(tmp_path / "none") == (None, [])


def test_only_the_newest_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_another_jobs_checkpoint_is_passed_over(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 2, job="other")
    newest, heard = found(tmp_path)
    assert (newest.step, heard) == (1, [])


def test_the_newest_below_a_step_is_found(tmp_path):
    saved(tmp_path, 1, 2)
    assert found(tmp_path, below=1)[0].step == 1


@pytest.mark.parametrize("name", [STATE, FACTS, BEST, MANIFEST])
@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing"])
def test_a_corrupt_one_is_told_and_the_one_before_is_taken(tmp_path, name, fault):
    saved(tmp_path, 1, 2, best={"w": torch.ones(100)})
    path = tmp_path / "step-00000002" / name
    data = path.read_bytes()
    path.unlink()
    if fault == "truncated":
        path.write_bytes(data[:-1])
    elif fault == "flipped":
        path.write_bytes(
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        )
    newest, heard = found(tmp_path)
    assert newest.step == 1
    if name != MANIFEST or fault != "flipped":  # a flipped bit may have made it another job's
        assert len(heard) == 1
        assert heard[0].startswith("the checkpoint of step 2 is corrupt (")
        assert heard[0].endswith("): falling back to the one before")


def test_where_none_is_intact_there_is_none(tmp_path):
    saved(tmp_path, 1, 2)
    for path in tmp_path.glob("*/state.safetensors"):
        path.write_bytes(b"")
    newest, heard = found(tmp_path)
    assert newest is None
    assert len(heard) == 2


def test_a_corrupt_one_is_replaced(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "step-00000001" / STATE).write_bytes(b"")
    saved(tmp_path, 1)
    assert found(tmp_path)[0].step == 1


def test_a_later_corrupt_one_does_not_push_out_intact_ones(tmp_path):
    saved(tmp_path, 4, 8, 9, keep=3)
    for step in (8, 9):
        (tmp_path / f"step-{step:08}" / STATE).write_bytes(b"")
    saved(tmp_path, 5, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    assert found(tmp_path)[0].step == 5


def test_the_best_weights_go_on_from_checkpoint_to_checkpoint(tmp_path):
    saved(tmp_path, 1, best={"w": torch.ones(100)})
    first = found(tmp_path)[0].best
    saved(tmp_path, 2, 3, best=first, keep=2)
    assert not first.exists()
    assert found(tmp_path)[0].best.stat().st_size > 400


def test_a_killed_save_leaves_nothing_that_is_found(tmp_path):
    saved(tmp_path, 1)
    left = tmp_path / ".saving-2"
    left.mkdir()
    (left / STATE).write_bytes(b"half")
    assert found(tmp_path)[0].step == 1
    saved(tmp_path, 3)
    assert not left.exists()


@pytest.mark.parametrize("limit", [100, 2000])
def test_a_full_disk_leaves_the_previous_one(tmp_path, limit):
    """A limit on a file's size is the full disk that a test can have; writes fail with EFBIG."""
    saved(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UNWRITTEN):
            saved(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert found(tmp_path)[0].step == 1


def test_saving_takes_a_small_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    timer = checkpoint.Timer()
    now[0] = 59
    assert not timer.due(1)
    now[0] = 60
    assert timer.due(2)
    timer.saved(6.0)
    now[0] += 199
    assert not timer.due(3)
    now[0] += 2
    assert timer.due(4)
    assert [step for step in range(1, 7) if checkpoint.Timer(3).due(step)] == [3, 6]
