"""What must make no difference: circumstances that a replay is put under, each of them alone or all at once.

A character that comes out otherwise in another time zone, or where folders are listed in another order, cannot be confirmed by
anybody else. Some of these hold for a process from its start (`settings`), the others are entered by the child itself (`enter`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

TIME_ZONE = "time zone"
LOCALE = "locale"
HASH_SEED = "hash seed"
FOLDER_ORDER = "folder order"
WORKERS = "workers"
UMASK = "umask"
PATH = "path"
CLOCK = "clock"

ALL = (TIME_ZONE, LOCALE, HASH_SEED, FOLDER_ORDER, WORKERS, UMASK, PATH, CLOCK)
"""By the names that a finding uses."""

_SETTINGS: Mapping[str, Mapping[str, str]] = {
    # The POSIX form needs no time zone files: 13 hours and 45 minutes before UTC's midnight.
    TIME_ZONE: {"TZ": "<+1345>-13:45"},
    # Files opened without an encoding are ASCII then, and so are file names. It is installed everywhere.
    LOCALE: {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    HASH_SEED: {"PYTHONHASHSEED": "4171"},
    WORKERS: {"OMP_NUM_THREADS": "1"},
}
_PLAIN = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}

_NEW_YEAR = 2145916795.0
"""Five seconds before 2038 begins in UTC: a replay crosses into another year, and nears the end of 32-bit times."""
_UMASK = 0o077
_JOBS = 64
"""Calls in flight at once, as `charforge build` has it unless told otherwise."""


def settings(variation: Collection[str]) -> dict[str, str]:
    """Return the environment variables that set a process apart."""
    found = dict(_PLAIN)
    for name in ALL:
        if name in variation:
            found |= _SETTINGS.get(name, {})
    return found


def folder(variation: Collection[str]) -> str:
    """Return a name for the folder that the files are copied to."""
    return "pröbe läuft" if PATH in variation else "workspace"


def jobs(variation: Collection[str]) -> int:
    """Return how many calls may be in flight at once."""
    return 1 if WORKERS in variation else _JOBS


def turns(variation: Collection[str], call: str) -> int:
    """Return how many turns of the event loop a reply is late: replies come in another order than they were asked for."""
    return int(call[:2], 16) % 7 if WORKERS in variation else 0


def enter(variation: Collection[str]) -> None:
    """Put this process, for good, under what cannot be said before it starts. Call it before stages are imported."""
    if FOLDER_ORDER in variation:
        _list_backwards()
    if UMASK in variation:
        os.umask(_UMASK)
    if CLOCK in variation:
        import time_machine

        # It ticks: what waits for the clock would wait for ever. The event loop's own clock is left alone.
        time_machine.travel(_NEW_YEAR, tick=True).start()


class _Entries(AbstractContextManager["_Entries"]):
    """What `os.scandir` gives, in another order."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._entries = iter(())


def _list_backwards() -> None:
    """List folders backwards by name, whoever lists them: os.walk, glob, pathlib and shutil ask these two.

    Backwards, and not shuffled: no folder then comes as it does elsewhere by chance, and a finding can be had again.
    """
    scandir, listdir = os.scandir, os.listdir

    def scandir_backwards(path: Any = ".") -> Any:
        with scandir(path) as entries:
            return _Entries(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def listdir_backwards(path: Any = ".") -> Any:
        return sorted(listdir(path), reverse=True)

    # The import system keeps finding modules by its own functions; who wrote `from os import listdir` before has the real one.
    setattr(os, "scandir", scandir_backwards)  # noqa: B010 - a plain assignment is no match for the overloads
    setattr(os, "listdir", listdir_backwards)  # noqa: B010
    for name in ("glob", "pathlib", "shutil"):
        module = sys.modules.get(name)
        for function, instead in (("scandir", scandir_backwards), ("listdir", listdir_backwards)):
            if module is not None and hasattr(module, function):
                setattr(module, function, instead)
