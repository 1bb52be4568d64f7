"""Receipts: what lets a build with nothing to do end without reading, parsing or hashing anything.

A finished build leaves a list of every file it stood on (inputs, code, stored objects, the view) with the status
the kernel gives for each. If all are unchanged, so is the answer. A receipt is a cache and no fact: any doubt
(a missing field, another key, a file touched within the clock's grain of its snapshot) means the full look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FORMAT = 1
_GRAIN_NS = 20_000_000
"""File times advance with the kernel's tick (up to 10 ms): a file changed within this of its snapshot could change
again without a new time, as git's index knows."""


@dataclass(slots=True)
class Stamps:
    """The status of files, taken as the build reads them."""

    inputs: dict[str, list[int] | None] = field(default_factory=dict)
    kept: dict[str, list[int]] = field(default_factory=dict)

    def add_input(self, path: Path, status: os.stat_result, now_ns: int) -> None:
        """Stamp a file that the build reads. `status` was taken before reading, `now_ns` is that moment's clock."""
        racy = max(status.st_mtime_ns, status.st_ctime_ns) > now_ns - _GRAIN_NS
        self.inputs[str(path)] = None if racy else _input_stamp(status)

    def add_missing(self, path: Path) -> None:
        """Stamp a file that was looked for and is not there: its coming changes the build."""
        self.inputs[str(path)] = []

    def add_kept(self, paths: Iterable[Path]) -> None:
        """Stamp files that must stay as they are: stored objects and the view."""
        for path in paths:
            self.kept[str(path)] = _kept_stamp(path.stat())


def write(path: Path, key: str, stamps: Stamps, says: dict[str, Any]) -> None:
    """Leave a receipt for a finished build. `says` is handed back by `read` while all holds. Failing is no harm."""
    data = {"format": _FORMAT, "key": key, "inputs": stamps.inputs, "kept": stamps.kept, "says": says}
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    if path.parent.is_symlink():  # it may have come with a pull request, and lead anywhere
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as file:  # never through a link of that name
            file.write(json.dumps(data))
        temporary.replace(path)


def read(path: Path, key: str) -> dict[str, Any] | None:
    """Return what the last finished build said if nothing that it stood on has changed, else None."""
    try:
        data = json.loads(path.read_bytes())
        if data["format"] != _FORMAT or data["key"] != key:
            return None
        for name, stamp in data["inputs"].items():
            if stamp == []:
                if os.path.lexists(name):
                    return None
            elif stamp is None or _input_stamp(os.stat(name)) != stamp:  # noqa: PTH116 - ten thousand of these count
                return None
        for name, stamp in data["kept"].items():
            if _kept_stamp(os.stat(name)) != stamp:  # noqa: PTH116
                return None
        says: dict[str, Any] = data["says"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return says


def _input_stamp(status: os.stat_result) -> list[int]:
    # The change time catches what keeps the modification time: `cp -p`, `touch -d`, a restored backup.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _kept_stamp(status: os.stat_result) -> list[int]:
    # No change time: a hard link made elsewhere in the store moves it.
    return [status.st_size, status.st_mtime_ns, status.st_ino]
