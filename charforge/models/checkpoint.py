"""Checkpoints: what training needs to go on after it was killed, bit for bit. Scratch, not an artifact.

A checkpoint is a folder `step-00000042` of safetensors and `facts.json`, with `manifest.json` that names each file's size and
SHA-256. It is made under another name, every file and the folder are synced, then it is renamed: one that has its name is whole, and what a
disk did to it later the digests tell. Knows nothing of models, optimisers or samples.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from charforge.weights import sha256

STATE, BEST, FACTS, MANIFEST = "state.safetensors", "best.safetensors", "facts.json", "manifest.json"
UNWRITTEN = (OSError, SafetensorError)
"""What writing raises where the disk is full: safetensors has an error of its own."""
_FIRST = 60.0
"""Seconds of training that may be lost at the start."""
_SHARE = 0.03
"""Of the time, at most this goes into saving, beside the saves at each epoch's end."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An intact one. `facts` are as they were given to `save`."""

    folder: Path
    step: int
    facts: dict[str, Any]

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors, in main memory."""
        tensors: dict[str, torch.Tensor] = load_file(self.folder / STATE)
        return tensors

    @property
    def best(self) -> Path | None:
        """Return the file of the best weights so far, where there are any."""
        path = self.folder / BEST
        return path if path.exists() else None


def save(
    folder: Path,
    job: str,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    *,
    best: Path | Mapping[str, torch.Tensor] | None = None,
    keep: int = 2,
) -> Checkpoint:
    """Write the checkpoint of `step` and remove all but the newest `keep`; durable when this returns.

    `job` says what is trained: `latest` finds checkpoints of the same job only. `best` is linked where it is a file. Raises one of
    `UNWRITTEN` where it cannot be written; every older checkpoint is still there then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".saving-*"):
        shutil.rmtree(left, ignore_errors=True)
    target = _place(folder, step)
    temporary = folder / f".saving-{step}"
    try:
        temporary.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / STATE)
        if isinstance(best, Path):
            _link(best, temporary / BEST)
        elif best is not None:
            save_file({name: tensor.contiguous() for name, tensor in best.items()}, temporary / BEST)
        (temporary / FACTS).write_text(json.dumps(dict(facts)), encoding="utf-8")
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(temporary.iterdir())
        }
        text = json.dumps({"job": job, "step": step, "files": files})
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        if target.exists():  # one that was found corrupt, or of another job
            shutil.rmtree(target)
        temporary.rename(target)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # A later one is corrupt or another job's, else this would have gone on from it.
    later = [path for path in _all(folder) if _step(path) > step]
    for old in [*later, *_all(folder)[len(later) + max(1, keep) :]]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(target, step, dict(facts))


def latest(
    folder: Path, job: str, told: Callable[[str], None], *, below: int | None = None
) -> Checkpoint | None:
    """Return the newest intact checkpoint of this job (of at most step `below`), or None.

    Corrupt ones are told, each with what is wrong with it; those of other jobs are passed over.
    """
    for path in _all(folder):
        if below is not None and _step(path) > below:
            continue
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if manifest["job"] != job:
                continue
            for name, known in manifest["files"].items():
                _compare(path / name, known)
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            return Checkpoint(path, manifest["step"], facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = (
                f"{Path(error.filename).name} is missing" if isinstance(error, FileNotFoundError) else error
            )
            told(f"the checkpoint of step {_step(path)} is corrupt ({what}): falling back to the one before")
    return None


class Timer:
    """Says when to save between epochs: after about a minute, then so seldom that saving takes 3% of the time at most."""

    def __init__(self, every_steps: int | None = None) -> None:
        self.every_steps = every_steps
        self.last = time.monotonic()
        self.wait = _FIRST

    def due(self, step: int) -> bool:
        """Say whether to save after this step."""
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return time.monotonic() - self.last >= self.wait

    def saved(self, seconds: float) -> None:
        """Note that something was saved, or tried, and how long it took."""
        self.last = time.monotonic()
        self.wait = max(_FIRST, seconds / _SHARE)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, the newest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=_step, reverse=True)


def _compare(path: Path, known: dict[str, Any]) -> None:
    if path.stat().st_size != known["size"] or sha256(path) != known["sha256"]:
        raise ValueError(f"{path.name} is not what was written")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
