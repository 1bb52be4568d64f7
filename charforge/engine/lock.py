"""The lock: what a finished build stood on, committed beside the spec, one line a stage so that diffs stay small."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charforge.engine.build import Outcome
from charforge.engine.errors import EngineError

VERSION = 1


def write(
    path: Path, character: str, outcomes: Mapping[str, Outcome], notes: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the lock of a finished build atomically, unless it says the same already.

    `notes` adds facts to a stage's line: counts, models, tokens.
    """
    lines = [f'  "character": {json.dumps(character)},', f'  "charforge_lock": {VERSION},', '  "stages": {']
    rows = []
    for name in sorted(outcomes):
        outcome = outcomes[name]
        entry = {"action": outcome.action, "outputs": dict(outcome.outputs or {}), **notes.get(name, {})}
        rows.append(f"    {json.dumps(name)}: {json.dumps(entry, sort_keys=True, ensure_ascii=False)}")
    text = "{\n" + "\n".join(lines) + "\n" + ",\n".join(rows) + "\n  }\n}\n"
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror}", "make it writable and rerun") from error


def actions(path: Path) -> list[str]:
    """Return the action digests a lock names. Raises EngineError if it is not a lock this version can read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["charforge_lock"] > VERSION:
            raise EngineError(f"{path}: written by a newer CharForge", "upgrade CharForge")
        return [entry["action"] for entry in data["stages"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{path}: not a lock file ({error})", "restore it from git, or remove it and build again"
        ) from error
