"""What bench/faults.py does to an engine and what it counts: kills, two builds at once, flipped bytes.

Every figure comes from three things that no engine can colour: the steps' own log (which step started and ended when), the bytes of the
outputs against those worked out beforehand, and the exit status of the command.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from faults_peers import LOG, Engine, expected, graph, sources

Figures = dict[str, Any]

# PR_SET_CHILD_SUBREAPER: what a killed engine leaves behind becomes ours, to be waited for.
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

MARK = "FAULTS_TRIAL"
_LIMIT = 180
JUST = 0.1
"""Seconds before a kill in which a step's end may not have reached the engine's database yet: its commit window, so to say."""


class Trial:
    """A folder with a project in it, and the builds that are started there."""

    def __init__(self, engine: Engine, root: Path, cache: Path) -> None:
        self.engine = engine
        self.folder = root / "project"
        self.folder.mkdir()
        engine.prepare(self.folder, cache)
        self._mark = uuid.uuid4().hex
        self._environment = {**engine.environment(self.folder, cache), MARK: self._mark}
        self.version = 0
        self.started: list[subprocess.Popen] = []

    def start(self, command: Any = None) -> subprocess.Popen:
        """Start a build in a session of its own; what it says goes to a file."""
        said = (self.folder.parent / f"said-{uuid.uuid4().hex}").open("w+b")
        process = subprocess.Popen(
            command or self.engine.command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.said = said
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen) -> int:
        """Wait for a build and return its status; one that hangs is killed, and counts as -9."""
        try:
            return process.wait(_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill(process)
            return process.wait()

    def build(self, command: Any = None) -> int:
        self.process = self.start(command)
        return self.end(self.process)

    def kill(self, process: subprocess.Popen) -> None:
        """kill -9 of everything that the build started: first its process group at one stroke, then what left the group."""
        members = set(self._left())
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        ended = members
        # Oldest first: an engine must not see its step die and write that down.
        while found := sorted(self._left()):
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended.update(found)
            time.sleep(0.002)
        process.wait()
        # As an init does: StepUp takes a process that nobody has waited for to be running.
        for pid in ended - {process.pid}:
            while Path(f"/proc/{pid}").exists():
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                time.sleep(0.001)

    def _left(self) -> Iterator[int]:
        mark = f"{MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0") and not _zombie(entry):
                        yield int(entry.name)

    def log(self, since: int = 0) -> list[tuple[str, str, float]]:
        """Return (start or end, step, when) of everything that ran, from the `since`th line on."""
        path = self.folder / LOG
        lines = path.read_text().splitlines()[since:] if path.exists() else []
        return [(word, step, float(when)) for word, step, when in map(str.split, lines)]

    def edit(self) -> None:
        """Change the source that the last sixteen steps read."""
        self.version += 1
        (self.folder / "src/late.txt").write_text(sources(self.version)["src/late.txt"])

    def shown(self, out: str) -> Path:
        return self.folder / self.engine.shown / Path(out).name

    def wrong(self) -> list[str]:
        """Return the outputs that are missing, or not what they have to be."""
        return [
            out
            for out, data in expected(self.version).items()
            if not (path := self.shown(out)).exists() or path.read_bytes() != data
        ]

    def why(self, process: subprocess.Popen) -> str:
        """Return what a build that failed said: the line that names an error, else the last one."""
        process.said.seek(0)
        lines = [each.strip() for each in process.said.read().decode(errors="replace").splitlines()]
        lines = [each for each in lines if each]
        telling = (
            [each for each in lines if "rror" in each and "Background on" not in each] or lines or ["nothing"]
        )
        return telling[-1].replace(str(self.folder), "PROJECT")[:160]


def _zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


@contextmanager
def trial(engine: Engine, cache: Path) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        one = Trial(engine, Path(root), cache)
        try:
            yield one
        finally:
            for process in one.started:
                one.kill(process)


def built(one: Trial) -> None:
    """Build what has to succeed."""
    status = one.build()
    if status or one.wrong():
        raise RuntimeError(
            f"{one.engine.name}: an undisturbed build ended with {status}: {one.why(one.process)}"
        )


def null(engine: Engine, cache: Path) -> Figures:
    """How long a build with nothing to do takes, and the steps that it runs."""
    with trial(engine, cache) as one:
        began = time.perf_counter()
        built(one)
        first = time.perf_counter() - began
        before, seconds = len(one.log()), []
        for _ in range(5):
            began = time.perf_counter()
            built(one)
            seconds.append(time.perf_counter() - began)
        return {
            "first build, s": round(first, 2),
            "null build, s": round(statistics.median(seconds), 3),
            "steps run by null builds": len(one.log(before)),
        }


def kills(engine: Engine, cache: Path, wanted: int, seed: int, end: float) -> Figures:
    """Kill builds while steps run: every other one a first build, every other one after a change to one source."""
    chance = random.Random(seed)
    spans = [_span(engine, cache, rebuild=rebuild) for rebuild in (False, True)]
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    while found["kills"] < wanted and time.monotonic() < end:
        with trial(engine, cache) as one:
            rebuild = found["kills"] % 2 == 1
            if rebuild:
                built(one)
                one.edit()
            found.update(_killed(one, chance.uniform(0, spans[rebuild]), reasons))
    return {**found, "reasons": dict(reasons)}


def _span(engine: Engine, cache: Path, *, rebuild: bool) -> float:
    """Return the seconds from the first step's start to the last one's end, undisturbed."""
    with trial(engine, cache) as one:
        built(one)
        before = 0
        if rebuild:
            one.edit()
            before = len(one.log())
            built(one)
        times = [when for _, _, when in one.log(before)]
        return max(times) - min(times)


def _killed(one: Trial, wait: float, reasons: Counter[str]) -> Counter[str]:
    """Kill one build so long after its first step began, build again, and count. Nothing is counted if it ended before."""
    before = len(one.log())
    process = one.start()
    while len(one.log()) == before and process.poll() is None:
        time.sleep(0.002)
    time.sleep(wait)
    if process.poll() is not None:
        return Counter()
    at = time.monotonic()
    one.kill(process)
    ran = one.log(before)
    ended = {step: when for word, step, when in ran if word == "end"}
    started = {step for word, step, _ in ran if word == "start"}
    found = Counter(
        {"kills": 1, "steps finished": len(ended), "steps in flight": len(started - ended.keys())}
    )

    before = len(one.log())
    if one.build():
        reasons[one.why(one.process)] += 1
        found["reruns that failed"] = 1
        if one.engine.unlock is None or one.build(one.engine.unlock) or one.build():
            found["reruns that failed even after what the manual says"] = 1
            return found
    again = Counter(step for word, step, _ in one.log(before) if word == "start")
    lost = ended.keys() & again.keys()
    found["finished steps run again"] = len(lost)
    found["of these finished more than 0.1 s before the kill"] = sum(ended[step] < at - JUST for step in lost)
    found["wrong outputs, called done"] = len(one.wrong())
    found["rebuilds that ended with a wrong output"] = bool(one.wrong())
    return found


def pairs(engine: Engine, cache: Path, wanted: int, seed: int, end: float) -> Figures:
    """Start two builds of one project within 0.3 s, and look how both end; then build once more.

    Every other pair meets in a new project, every other one in a built one of which a source has changed.
    """
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    while found["pairs"] < wanted and time.monotonic() < end:
        with trial(engine, cache) as one:
            if found["pairs"] % 2:
                built(one)
                one.edit()
            before = len(one.log())
            first = one.start()
            time.sleep(chance.uniform(0, 0.3))
            second = one.start()
            statuses = [one.end(first), one.end(second)]
            for status, process in zip(statuses, (first, second), strict=True):
                if status:
                    reasons[one.why(process)] += 1
            starts = Counter(step for word, step, _ in one.log(before) if word == "start")
            found["pairs"] += 1
            found["pairs of which both ended well"] += statuses == [0, 0]
            found["pairs of which one failed"] += sum(map(bool, statuses)) == 1
            found["pairs of which both failed"] += sum(map(bool, statuses)) == 2
            found["steps run more than once"] += sum(count > 1 for count in starts.values())
            found["pairs after which an output was wrong, though a build ended well"] += (
                0 in statuses and bool(one.wrong())
            )
            status = one.build()
            if status and one.engine.unlock is not None:
                one.build(one.engine.unlock)
                status = one.build()
            found["pairs after which the next build failed"] += status != 0
            found["pairs after which the next build left an output wrong"] += status == 0 and bool(
                one.wrong()
            )
    return {**found, "reasons": dict(reasons)}


# --- Flipped bytes ---------------------------------------------------------------------------------------------------

ARTIFACT, COPY, DATABASE = "intermediate artifact", "the engine's own copy of it", "the engine's database"
_PLACES = (ARTIFACT, COPY, DATABASE)


def corruption(engine: Engine, cache: Path, wanted: int, seed: int, end: float) -> Figures:
    """Flip one byte at a time, each file's size and modification time kept; build; change a source; build again.

    - An intermediate artifact where it is shown: then the steps that read it have to run again, since the source changed.
    - The copy of such an artifact that the engine keeps (its cache or store), with the shown one deleted.
    - Any byte of the files in which the engine remembers what it built.
    """
    left = end - time.monotonic()
    return {
        place: _flips(
            engine, cache, place, wanted, random.Random(f"{seed} {place}"), end - left * later / len(_PLACES)
        )
        for later, place in zip((2, 1, 0), _PLACES, strict=True)
    }


def _flips(
    engine: Engine, cache: Path, place: str, wanted: int, chance: random.Random, end: float
) -> Figures:
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    while found["flips"] < wanted and time.monotonic() < end:
        with trial(engine, cache) as one:
            built(one)
            fit = True
            # A project that came out of it whole is used for the next.
            while fit and found["flips"] < wanted and time.monotonic() < end:
                out = f"work/b{chance.randrange(12):02}.txt"
                if not _flip_in(one, place, out, chance):
                    return {"flips": 0}
                before = len(one.log())
                statuses = [one.build()]
                noticed = bool(statuses[0] or len(one.log()) > before)
                if place != DATABASE:
                    noticed = noticed or out not in one.wrong()
                    found["wrong bytes shown after a build that ended well"] += (
                        not statuses[0] and out in one.wrong()
                    )
                if not statuses[0]:
                    one.edit()
                    statuses.append(one.build())
                found["flips"] += 1
                found["noticed by the next build"] += noticed
                if any(statuses):
                    reasons[one.why(one.process)] += 1
                    found["refused"] += 1
                elif "work/e.txt" in one.wrong():
                    found["final output wrong, called done"] += 1
                else:
                    found["final output right"] += 1
                fit = not any(statuses) and not one.wrong()
    return {**found, "reasons": dict(reasons)}


def _flip_in(one: Trial, place: str, out: str, chance: random.Random) -> bool:
    """Flip a byte; False if the engine keeps no such thing."""
    data = expected(one.version)[out]
    if place == ARTIFACT:
        flip(one.shown(out), chance.randrange(len(data)), chance)
        return True
    if place == COPY:
        shown = one.shown(out)
        spots = list(_kept(one, data, shown))
        if not spots:
            return False
        shown.unlink()
        path, start = chance.choice(spots)
        flip(path, start + chance.randrange(64), chance)
        return True
    files = [
        path
        for pattern in one.engine.database
        for path in sorted(one.folder.resolve().glob(pattern))
        if path.is_file() and path.stat().st_size
    ]
    # Each byte as likely as any other.
    path = chance.choices(files, [each.stat().st_size for each in files])[0]
    flip(path, chance.randrange(path.stat().st_size), chance)
    return True


def _kept(one: Trial, data: bytes, shown: Path) -> Iterator[tuple[Path, int]]:
    """Yield where a line of an artifact lies in a file of the engine's, each line that lies in one piece there."""
    for base in (one.folder, one.folder.parent / "home"):
        for path in sorted(base.rglob("*")):
            if path.is_symlink() or not path.is_file() or path == shown:
                continue
            content = path.read_bytes()
            for line in data.split():
                if (start := content.find(line)) >= 0:
                    yield path, start


def flip(path: Path, at: int, chance: random.Random) -> None:
    """Flip one bit of the byte `at`, and leave size, mode and times as they were."""
    status = path.stat()
    path.chmod(status.st_mode | 0o200)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << chance.randrange(8))]))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


assert len(graph()) == 40
