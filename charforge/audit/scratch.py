"""The scratch folder of a replay: copies of what a character is made from, recorded replies, and the children that work on them.

Judges nothing. A child is killed with its parent, when its time is over, and when nobody waits for it any more; the folder is
removed at the end. Of the workspace nothing but files is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import charforge
from charforge import pipeline, spec
from charforge.audit import variations
from charforge.audit.pieces import Pieces
from charforge.audit.replayer import GIVEN, Recorded
from charforge.engine.digest import Action, of_bytes
from charforge.engine.errors import EngineError
from charforge.engine.graph import Graph, Output, Stage
from charforge.engine.lock import Line, Lock, observations_root
from charforge.engine.receipt import Stamps
from charforge.engine.store import Store
from charforge.files import visible
from charforge.models.process import PARENT, available_cpus
from charforge.workspace import Target

BASE = "base"
"""The stage that works on weights: it gets a child of its own, beside the others."""


@dataclass(slots=True)
class Told:
    """What a child told of its stages, by kind, and why it ended where it did not get through them."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    ended: str | None = None


# -- the replies at hand ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Known:
    """The replies at hand: reply digest by call, and which calls are said to be a stage's."""

    replies: dict[str, str] = field(default_factory=dict)
    listed: dict[str, list[str]] = field(default_factory=dict)
    stage: dict[str, str] = field(default_factory=dict)

    def wrong(self, kind: str, line: Line) -> str | None:
        """Say why a request without a reply means more than that one is missing; None where it does not.

        That is so where the replies at hand are just those that the lock names, or as many others.
        """
        calls = self.listed.get(kind) or [
            call for call, stage in self.stage.items() if stage.rpartition("/")[2] == kind
        ]
        pairs = [(call, self.replies[call]) for call in calls if call in self.replies]
        if not line.observations:
            return "the lock says that it makes none"
        if observations_root(pairs) == line.observations["root"]:
            return "it asks for other things than were recorded"
        if len(pairs) == line.observations["count"]:
            return "the replies at hand are others than those that the lock names"
        return None


# -- the scratch folder and its children -----------------------------------------------------------------------------


class Scratch:
    """A scratch folder with copies of what a character is made from, and children that work in it."""

    def __init__(self, target: Target, limit: float) -> None:
        self._target = target
        self._limit = limit
        self._children: set[subprocess.Popen[bytes]] = set()
        stamps = Stamps()
        character = pipeline.character(
            spec.load(target.spec, target.workspace), target.workspace, Recorded(), stamps
        )
        self.graph = Graph(character.stages)
        # An empty stamp is of a file that was looked for and is not there.
        self._files = [target.spec, *(Path(name) for name, stamp in stamps.inputs.items() if stamp != [])]
        self._folder = tempfile.TemporaryDirectory(prefix="charforge-replay-")
        self._root = Path(self._folder.name)
        self._given = self._root / "given"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    # -- what children start from ----------------------------------------------------------------------------------

    def fill(self, lock: Lock, stages: Iterable[Stage], pieces: Pieces) -> Known:
        """Put recorded replies, and what the lock says stages read of each other, into the store that children start from."""
        known = Known()
        told = True
        for stage in stages:
            line = lock.stages[stage.kind]
            calls = pieces.calls(line.action, line.outputs) if line.observations else []
            if calls is not None and len(calls) == line.observations.get("count", 0):
                known.listed[stage.kind] = calls
            else:
                told = False  # nobody says which they were, so take all there are
        wanted = {call for calls in known.listed.values() for call in calls} if told else None
        with Store(self._given) as store:
            write = None
            for action, reply, facts in pieces.replies(wanted):
                known.replies[action.digest] = of_bytes(reply)
                known.stage[action.digest] = str(facts.get("stage", ""))
                write = store.record(action, store.pack({"reply": reply}), facts, first=True)
            for digest in _read_by(lock, stages):
                data = pieces.blob(digest)
                if data is not None:
                    write = _give(store, digest, data)
            if write is not None:
                write.result()
        return known

    def keep(self, lock: Lock, kinds: Iterable[str]) -> None:
        """Let later children start also from what these stages read and earlier children made."""
        with Store(self._given) as store:
            for digest in _read_by(lock, (stage for stage in self.graph if stage.kind in set(kinds))):
                data = None if store.has(digest) else self.made(digest)
                if data is not None:
                    _give(store, digest, data).result()

    def made(self, digest: str) -> bytes | None:
        """Return bytes that a child made; None where none did."""
        for folder in sorted(self._root.glob("run-*/*/.charforge")):
            with Store(folder) as store, contextlib.suppress(EngineError):
                if store.has(digest):
                    return store.read(digest)
        return None

    # -- children --------------------------------------------------------------------------------------------------

    def run(self, jobs: list[tuple[list[str], Collection[str]]], lock: Lock) -> list[Told]:
        """Run (stages, variation) in a child each, as many at once as there are processors, and return what they tell."""
        stop = threading.Event()
        with ThreadPoolExecutor(max(2, available_cpus())) as pool:
            futures = [pool.submit(self._run, kinds, variation, lock, stop) for kinds, variation in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                for child in list(self._children):
                    _kill(child)
                raise

    def _run(self, kinds: list[str], variation: Collection[str], lock: Lock, stop: threading.Event) -> Told:
        if stop.is_set():
            return Told(ended="stopped")
        workspace = self._copy(variation, with_store=kinds != [BASE])
        job = {
            "spec": self._target.label,
            "variation": list(variation),
            "stages": {kind: dict(lock.stages[kind].inputs) for kind in kinds},
        }
        # The thread lives as long as the child: the kernel kills a child with the thread that started it.
        child = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "charforge.audit.replayer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=workspace,
            env=environment(workspace.parent, variation) | (_WEIGHTS if kinds == [BASE] else {}),
            start_new_session=True,
        )
        self._children.add(child)
        if stop.is_set():
            _kill(child)
        ended = None
        try:
            out, err = child.communicate(json.dumps(job).encode(), timeout=self._limit)
        except subprocess.TimeoutExpired:
            _kill(child)
            out, err = child.communicate()
            ended = f"the replay took more than {self._limit:g} seconds and was stopped"
        finally:
            _kill(child)
            self._children.discard(child)
        told = Told(ended=ended)
        for line in out.splitlines():
            with contextlib.suppress(ValueError):  # cut off
                message = json.loads(line)
                if "done" in message:
                    told.done = message
                elif "ended" in message:
                    told.ended = message["ended"]
                else:
                    told.stages[message["stage"]] = message
        if not told.done and told.ended is None:
            last = err.decode(errors="replace").strip().splitlines()[-1:]
            told.ended = visible(": ".join([f"the replay's process {_exit(child)}", *last]))
        return told

    def _copy(self, variation: Collection[str], *, with_store: bool) -> Path:
        run = Path(tempfile.mkdtemp(prefix="run-", dir=self._root))
        workspace = run / variations.folder(variation)
        for source in self._files:
            to = workspace / source.relative_to(self._target.workspace)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)
        for name in ("home", "tmp"):
            (run / name).mkdir()
        if with_store:
            shutil.copytree(self._given, workspace / ".charforge")
        return workspace


def _read_by(lock: Lock, stages: Iterable[Stage]) -> list[str]:
    """Return the digests of what these stages read of others, but for folders, which nobody reads."""
    return sorted(
        {
            lock.stages[stage.kind].inputs[name]
            for stage in stages
            for name, ref in stage.inputs.items()
            if isinstance(ref, Output)
            and not ref.name.endswith("/")
            and name in lock.stages[stage.kind].inputs
        }
    )


def _give(store: Store, digest: str, data: bytes) -> Any:
    return store.record(Action(GIVEN, 1, {"digest": digest}, {}), store.pack({"bytes": data}), {})


_KEPT = ("LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ", "LANG", "LANGUAGE")
"""What a child has of this process's environment, with LC_*: what finds libraries, and what a variation replaces."""


_WEIGHTS = {"PYTHONUTF8": "1"}
"""Whatever the locale: so every child of a build runs that works on weights (`models.process`)."""


def environment(folder: Path, variation: Collection[str]) -> dict[str, str]:
    """Return a child's environment: nothing that could hold a key, and a home with nothing in it."""
    source = str(Path(charforge.__file__).resolve().parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    home = str(folder / "home")
    return {
        **{name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")},
        PARENT: str(os.getpid()),
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": home,
        "XDG_CONFIG_HOME": home,
        "XDG_CACHE_HOME": home,
        "XDG_DATA_HOME": home,
        "TMPDIR": str(folder / "tmp"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        **variations.settings(variation),
    }


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)


def _exit(child: subprocess.Popen[bytes]) -> str:
    code = child.returncode
    return f"exited with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
