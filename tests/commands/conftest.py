"""A workspace with one sound character, and a way to run commands in it."""

from __future__ import annotations

import pytest

from charforge import skeleton
from charforge.cli import main
from charforge.testing import ScriptedWorkshop


@pytest.fixture
def run(capsys):
    """Run a command; return its exit status and what it printed."""

    def command(*argv):
        capsys.readouterr()
        status = main(argv)
        return (status, *capsys.readouterr())

    return command


@pytest.fixture
def eliza(tmp_path):
    """The path of a spec that passes check; the test's working folder is its workspace."""
    return skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]


@pytest.fixture
def scripted(monkeypatch):
    """The scripted stand-in for models, in place of this machine's workshop."""
    workshop = ScriptedWorkshop()
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: workshop)
    return workshop


@pytest.fixture
def edit():
    """Replace a text in a file, where it has to be."""

    def replace(path, old, new):
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return replace
