"""A model that is made in a moment, and a watch on what is opened."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a model of a few thousand weights."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("models_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(tmp_path_factory.mktemp("tiny") / "model")


_watching: list[list[str]] = []
_hooked = False


def _hook(event, args):
    if _watching and event in {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.link",
                               "os.symlink", "os.rmdir", "shutil.rmtree", "subprocess.Popen", "socket.connect"}:  # fmt: skip
        if event == "open" and not isinstance(args[0], str | bytes | os.PathLike):
            return  # an open file, by its number
        _watching[-1].append(
            f"{event} {os.fsdecode(args[0]) if args and isinstance(args[0], str | bytes | os.PathLike) else args}"
        )


@pytest.fixture
def watched():
    """Give what is opened, listed, moved, removed, started and called within a `with` block, as `event path`."""
    global _hooked
    if not _hooked:  # a hook stays until the process ends
        sys.addaudithook(_hook)
        _hooked = True

    @contextmanager
    def watch():
        _watching.append([])
        try:
            yield _watching[-1]
        finally:
            _watching.pop()

    return watch
