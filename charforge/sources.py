"""What a build takes from outside, by the names a spec gives: files, templates, models. Read once, when the stages are made.

The build sees that snapshot: what is edited while it runs is the next build's.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge import weights
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.graph import Source
from charforge.engine.receipt import Stamps
from charforge.errors import CharForgeError, FileProblems, Problem
from charforge.files import decode, read_bytes
from charforge.llm.client import EMBEDDED_PREFIX, weights_digest
from charforge.sections import Delta
from charforge.spec import MAX_DATA_BYTES, MAX_TEXT_BYTES, is_local, relative_file
from charforge.workspace import packaged_prompts


@dataclass(frozen=True, slots=True)
class Base:
    """A model to train: `params` for the action, in which nothing depends on this disk, `job` for who fetches it."""

    params: dict[str, Any]
    job: dict[str, Any]
    name: str


class Sources:
    """Reads files of a workspace and notes in `stamps` what was read."""

    def __init__(self, workspace: Path, stamps: Stamps) -> None:
        self._workspace = workspace
        self._root = Path(os.path.realpath(workspace))
        self._stamps = stamps

    def file(self, path: str) -> Source:
        """Return a text file that a spec names, as an input. Raises FileProblems."""
        data = self._read(path, MAX_TEXT_BYTES)
        return Source(path, of_bytes(data), data)

    def data(self, path: str) -> Source:
        """Return a file of dialogues or samples, which may be large, as an input. Raises FileProblems."""
        data = self._read(path, MAX_DATA_BYTES)
        return Source(path, of_bytes(data), data)

    def text(self, path: str) -> str:
        """Return a file's text. Raises FileProblems."""
        return decode(self._read(path, MAX_TEXT_BYTES), path)

    def prompt(self, name: str, model: str | None) -> Source:
        """Return the template for a kind of request; a 135M model has its own, shorter ones."""
        small = model is not None and model.startswith(EMBEDDED_PREFIX)
        return self.prompt_at(f"embedded/{name}.j2" if small else f"{name}.j2")

    def prompt_at(self, relative: str) -> Source:
        """Return the template at a path under `prompts/`: the workspace's own before the one CharForge brings."""
        own = self._workspace / "prompts" / relative
        if own.is_file():
            return self.file(f"prompts/{relative}")
        self._stamps.add_missing(own)
        data = (packaged_prompts() / relative).read_bytes()
        return Source(f"prompts/{relative}", of_bytes(data), data)

    def base(self, model: str | Delta, *, pickled: bool = False) -> Base:
        """Return the model to train: an embedded one and a folder by digest, one of the hub by name and revision.

        `pickled` tensors count for a weight difference and what it is added to. Raises CharForgeError where a folder is no model.
        """
        if isinstance(model, Delta):
            delta, onto = self.base(model.delta, pickled=True), self.base(model.onto, pickled=True)
            return Base(
                {"kind": "delta", "delta": delta.params, "onto": onto.params},
                {"kind": "delta", "delta": delta.job, "onto": onto.job},
                f"{delta.name} added to {onto.name}",
            )
        if is_local(model):
            path = model.removeprefix("./")
            return Base(
                {"kind": "folder", "digest": self._folder_digest(path, pickled=pickled)},
                {"kind": "folder", "path": str(self._workspace / path)},
                path,
            )
        if model.startswith(EMBEDDED_PREFIX):
            base = {"kind": "embedded", "name": model.removeprefix(EMBEDDED_PREFIX)}
            return Base({**base, "weights": weights_digest(model)}, base, model)
        repo, _, revision = model.partition("@")
        hub = {"kind": "hub", "repo": repo, "revision": revision or None}
        return Base(hub, hub, model)

    def _folder_digest(self, path: str, *, pickled: bool) -> str:
        folder = self._workspace / path
        now = time.time_ns()
        for file in weights.files(folder, pickled=pickled):
            self._stamps.add_input(file, file.stat(), now)
        return weights.digest(folder, pickled=pickled)

    def _read(self, path: str, limit: int) -> bytes:
        # A spec's own paths were looked at when it was read; the workspace's prompts are named by none.
        try:
            relative_file(path, "", self._root)
        except ValueError as error:
            raise FileProblems(
                [Problem(path, None, None, str(error), None, "a build reads inside the workspace only")]
            ) from None
        full = self._workspace / path
        now = time.time_ns()
        try:
            status = full.stat()
        except OSError:
            status = None  # read_bytes says what is wrong with it
        data = read_bytes(full, path, limit)
        if status is not None:
            self._stamps.add_input(full, status, now)
        return data


def as_source(label: str, value: Any) -> Source:
    """Return JSON data as an input, under the name of the file it came from."""
    data = canonical(value)
    return Source(label, of_bytes(data), data)


def check_unchanged(base: Base) -> None:
    """Raise CharForgeError where a folder that weights were taken from is no longer what it was."""
    for params, job in _pairs(base.params, base.job):
        # Where there are safetensors, pickled tensors never count.
        if params["kind"] == "folder" and weights.digest(Path(job["path"]), pickled=True) != params["digest"]:
            raise CharForgeError(f"{job['path']} was changed while it was read", "build again")


def _pairs(params: dict[str, Any], job: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if params["kind"] == "delta":
        return [*_pairs(params["delta"], job["delta"]), *_pairs(params["onto"], job["onto"])]
    return [(params, job)]
