"""A finished character, built by the script and recorded: a copy for each test, to plant lies in."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from charforge import recording, skeleton
from charforge.audit.pieces import Pieces
from charforge.cli import main
from charforge.commands.loading import NothingNew, load
from charforge.engine import lock
from charforge.engine.graph import Source
from charforge.engine.reader import Reader
from charforge.testing import ScriptedWorkshop
from charforge.workspace import target


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A workspace with Eliza's spec, store, lock and recording. Not to be written to: `eliza` is a copy."""
    folder = tmp_path_factory.mktemp("finished")
    spec = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
    text, found = re.subn(
        r"(?m)^preset: laptop.*$",
        "preset: laptop\ngenerator: {model: openai/scripted}",
        spec.read_text(encoding="utf-8"),
    )
    assert found == 1
    spec.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
        assert main(["build", str(spec)]) == 0
    assert main(["record", "export", str(spec)]) == 0
    return folder


class Audited:
    """A finished workspace that a test may damage, and what an audit reads of it."""

    def __init__(self, folder):
        self.folder = folder
        self.target = target(str(folder / "characters" / "eliza.yaml"))
        self.store = folder / ".charforge"

    @property
    def lock(self):
        return lock.read(self.target.lock)

    def lie(self, stage, **fields):
        """Change fields of a line of the lock; a value may be a function of what is there."""
        data = json.loads(self.target.lock.read_text(encoding="utf-8"))
        for field, value in fields.items():
            line = data["stages"][stage]
            line[field] = value(line.get(field, {})) if callable(value) else value
        self.target.lock.write_text(json.dumps(data), encoding="utf-8")

    def derived(self):
        """The checkout's graph, and the stage that everything is made for."""
        loaded, graph = load([self.target], NothingNew())
        return graph, loaded[0].character.stage("report")

    @property
    def sources(self):
        return [
            ref for stage in self.derived()[0] for ref in stage.inputs.values() if isinstance(ref, Source)
        ]

    @contextmanager
    def pieces(self, *, store=True, recorded=False):
        with recording.verified(self.target.recording) as found, Reader(self.store) as reader:
            yield Pieces(reader if store else None, found if recorded else None)

    def object(self, stage, output, path):
        """The store's file of a folder among a stage's outputs."""
        with Reader(self.store) as reader:
            entry = reader.manifest(self.lock.stages[stage].outputs[output])[path]
            return next(reader.files([("", entry["digest"])]))

    def relock(self, **stages):
        """Write the lock anew with some stages' lines changed by functions."""
        said = self.lock
        changed = {kind: change(said.stages[kind]) for kind, change in stages.items()}
        lock.write(self.target.lock, replace(said, stages={**said.stages, **changed}))


@pytest.fixture
def eliza(finished, tmp_path):
    """A copy of the finished workspace."""
    shutil.copytree(finished, tmp_path / "eliza", symlinks=True)
    return Audited(tmp_path / "eliza")
