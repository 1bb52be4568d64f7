"""The characters that this repository ships: their locks are what this checkout derives, and their recordings fit them.

Where this fails after a change of a stage, a prompt or a spec: build the character, `charforge record export` it, and commit
its lock and its recording with the change. An auditor has nothing else to go by.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import recording
from charforge.commands.loading import NothingNew, load
from charforge.engine import lock
from charforge.engine.explain import sentences
from charforge.pipeline import OBSERVED
from charforge.workspace import target

CHARACTERS = Path(__file__).parents[1] / "characters"
SHIPPED = sorted(path.stem for path in CHARACTERS.glob("*.yaml") if not path.stem.startswith("released-"))


def test_beethoven_is_shipped():
    assert "beethoven" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_the_lock_is_what_this_checkout_derives(name):
    loaded, graph = load([target(str(CHARACTERS / f"{name}.yaml"))], NothingNew())
    found = lock.read(loaded[0].target.lock)
    assert found.character == name
    assert lock.self_check(found) == {}
    underived = lock.underived(found, graph, [loaded[0].character.stage("report")])
    assert {stage: sentences(why) for stage, why in underived.items()} == {}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_recording_has_what_the_lock_stands_on(name):
    one = target(str(CHARACTERS / f"{name}.yaml"))
    found = lock.read(one.lock)
    with recording.verified(one.recording) as recorded:
        assert recorded.character == name
        observed = {each.action.kind: each for each in recorded.observed()}
        calls = sum(1 for _ in recorded)
    for kind, line in found.stages.items():
        if kind in OBSERVED:
            assert observed[kind].action.digest == line.action
            assert {name: kept.digest for name, kept in observed[kind].outputs.items()} == line.outputs
    assert calls <= sum(line.observations.get("count", 0) for line in found.stages.values())
