"""Kill it, build twice at once, flip bytes: `python bench/faults.py charforge|peers|corruption|table`, figure by figure.

    python bench/faults.py charforge [--kills 200] [--pairs 50]     CharForge whole, against the mock endpoint
    python bench/faults.py corruption [--flips 3]                   a flipped bit in every file of its store
    python bench/faults.py peers [--only NAME…] [--kills 20] [--pairs 6] [--flips 10] [--cache DIR]
    python bench/faults.py table FILE…                              Markdown of what `--json` wrote

`peers` measures CharForge's engine and the build engines of bench/faults_peers.py by the same trials on the same graph
(bench/faults_trials.py), each peer in an environment of its own under `--cache`, made at the first run. In the other two, CharForge is the real command line in
processes of its own: every stage from scenes to the report and the lock, with models that answer by HTTP. Only training, and what
is asked of weights that lie here, is scripted.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import faults_peers
import faults_table
import faults_trials
from faults_peers import JOBS, LOG, PEERS, SECONDS, Engine, graph, python
from faults_trials import Figures

from charforge.testing.endpoint import Endpoint, Mock, Settings, identity

REPOSITORY = Path(__file__).parents[1]
SPEC = """\
charforge: 1
name: Ludwig van Beethoven
short_name: Beethoven
preset: laptop
profile: {file: profiles/beethoven.md}
knows: {until: 1827-03-26, never: [motor cars, aeroplanes, telephones, cinema, computers]}
written: written/beethoven.md
generator: {model: openai/scripted}
scenes: {count: 80}
protective: {count: 2}
interview: {questions: questions/beethoven.yaml, limit_single: 4, limit_multi: 1}
judge: {model: openai/scripted, limit: 3, exam: false, pairwise: 1}
"""
WIDTH = 16
CACHE = Path(tempfile.gettempdir()) / "charforge-faults"
LATENCY = {"latency": 0.02, "tail": 0.6}


# --- A character, its endpoint, and whole processes ------------------------------------------------------------------


class Steady(Mock):
    """A mock that gives the same text each time it is asked the same, so that outputs can be compared; and knows when it did."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.when: dict[bytes, list[float]] = {}

    def _text(self, asked: Any, fate: Any) -> str:
        del fate
        return super()._text(asked, self.fates.of(asked.key, 0))

    def write(self, asked: Any, fate: Any) -> tuple[bytes, bool]:
        self.when.setdefault(asked.key, []).append(time.monotonic())
        return super().write(asked, fate)


def part_build(words: list[str]) -> int:
    """In a child: the command line, with training scripted, and weights that answer by a script and say so in a log."""
    from charforge import workshop
    from charforge.cli import main as command_line
    from charforge.testing.scripted import ScriptedWorkshop

    class Workshop(workshop.LocalWorkshop):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._script = ScriptedWorkshop()
            self.export_base = self._script.export_base
            self.bring = self._script.bring
            self.train = self._script.train
            self.probe = self._script.probe
            self._log = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

        def ready(self, models: Any) -> None:
            """Scripted weights need nothing."""

        async def complete(self, request: Any, weights: Any) -> Any:
            if request.model.startswith("openai/"):
                return await super().complete(request, weights)
            await asyncio.sleep(LATENCY["latency"])
            reply = await self._script.complete(request, weights)
            asked = hashlib.sha256(json.dumps(request.params(), sort_keys=True).encode()).hexdigest()
            os.write(self._log, f"{asked} {time.monotonic()}\n".encode())
            return reply

    workshop.LocalWorkshop = Workshop
    return command_line(words)


class Site:
    """A workspace with one character, and the builds started there against one endpoint."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        shutil.copytree(REPOSITORY / "characters", folder / "characters", dirs_exist_ok=True)
        for path in (folder / "characters").glob("*.*"):
            path.unlink()
        (folder / "characters" / "faults.yaml").write_text(SPEC)
        self.log = folder / "log"
        self._started: list[subprocess.Popen] = []
        endpoints = folder / "endpoints.toml"
        endpoints.write_text(f'[openai]\napi_base = "{url}"\nkey = "MOCK_API_KEY"\nconcurrency = {WIDTH}\n')
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(folder / "home"),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MPLCONFIGDIR": str(folder.parent / "matplotlib"),  # its list of fonts is made once
            "CHARFORGE_ENDPOINTS": str(endpoints),
            "MOCK_API_KEY": "sk-mock-0123456789",
            "FAULTS_LOG": str(self.log),
            "LANG": "C.UTF-8",
        }

    @property
    def store(self) -> Path:
        return self.folder / ".charforge"

    @property
    def view(self) -> Path:
        return self.folder / "build" / "faults"

    def start(self, *words: str) -> subprocess.Popen:
        # A file, not a pipe: a killed build's own children must not keep us waiting.
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            [
                *(sys.executable, __file__, "part-build", "build", "characters/faults.yaml"),
                *("-j", str(WIDTH), *words),
            ],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.said = said
        self._started.append(process)
        return process

    def stop(self) -> None:
        """End what still runs: this was interrupted."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def outputs(self) -> dict[str, bytes]:
        """Return every file that a person is shown, and the lock."""
        files = [path for path in self.view.rglob("*") if path.is_file()]
        files += self.folder.glob("characters/*.lock")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def answered_here(self) -> dict[str, list[float]]:
        """Return when each question to weights that lie here was answered."""
        found: dict[str, list[float]] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            asked, when = line.split()
            found.setdefault(asked, []).append(float(when))
        return found


def said(process: subprocess.Popen) -> str:
    process.said.seek(0)
    return process.said.read()


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    made.mock = Steady(Settings(mode="scripted", **LATENCY))
    with made:
        yield made


@contextmanager
def site() -> Iterator[tuple[Site, Steady]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, endpoint() as served:
        (Path(folder) / "workspace").mkdir()
        place = Site(Path(folder) / "workspace", served.url)
        try:
            yield place, served.mock
        finally:
            place.stop()


def answered(place: Site, mock: Steady) -> dict[str, list[float]]:
    """Return when each question was answered, wherever it was."""
    return {**{key.hex(): times for key, times in mock.when.items()}, **place.answered_here()}


def undisturbed() -> tuple[dict[str, bytes], float, Counter[str]]:
    """Return what a build left alone gives, how long it takes, and how often it is told each thing (the same text may be drawn twice)."""
    with site() as (place, mock):
        began = time.monotonic()
        process = place.start()
        if process.wait():
            sys.exit(f"an undisturbed build failed:\n{said(process)}")
        seconds = time.monotonic() - began
        return place.outputs(), seconds, counted(answered(place, mock))


def same(expected: Mapping[str, bytes], came: Mapping[str, bytes]) -> bool:
    """Say whether a build gave what it had to; tell on stderr what is different."""
    for name in sorted(expected.keys() | came.keys()):
        was, now = expected.get(name, b""), came.get(name, b"")
        if was != now:
            lines = difflib.unified_diff(
                *(each.decode(errors="replace").splitlines() for each in (was, now)), n=0
            )
            told = [line[:400] for line in lines][:12]
            print(f"different: {name}: {len(was)} and {len(now)} bytes", *told, sep="\n  ", file=sys.stderr)
    return expected == came


def counted(times: Mapping[str, list[float]]) -> Counter[str]:
    return Counter({call: len(each) for call, each in times.items()})


# --- Kills -----------------------------------------------------------------------------------------------------------


def durable(place: Site) -> Counter[str]:
    """Return the replies that a store has, as `answered` names them. Reads a copy: who builds next is to find it as the kill left it."""
    found: Counter[str] = Counter()
    if not (place.store / "store.db").exists():
        return found
    with tempfile.TemporaryDirectory() as folder:
        for path in place.store.glob("store.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, folder)
        sql = "SELECT body FROM actions JOIN traces ON action = digest"
        # It may have been killed before it had any table.
        with closing(sqlite3.connect(Path(folder) / "store.db")) as db, suppress(sqlite3.OperationalError):
            for (body,) in db.execute(sql):
                action = json.loads(body)
                if action["kind"] == "call":
                    found[_named(action["params"])] += 1
    return found


def _named(params: Mapping[str, Any]) -> str:
    if not params["model"].startswith("openai/"):
        return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
    messages = [tuple(each) for each in params["messages"]]
    return identity(params["model"].removeprefix("openai/"), messages).hex()


def killed(wanted: int, seed: int, end: float) -> Figures:
    """Kill builds of one workspace at random moments until one gets through, then compare; again with a new one, up to the time `end`."""
    expected, seconds, calls = undisturbed()
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    most, oldest = 0, 0.0
    while found["kills"] < wanted and time.monotonic() < end:
        with site() as (place, mock):
            found["workspaces"] += 1
            known: Counter[str] = Counter()
            excused: Counter[str] = Counter()
            while True:
                process = place.start()
                # From before the interpreter has started to after the lock is written.
                limit = chance.uniform(0, 1.05 * seconds) if found["kills"] < wanted else None
                with suppress(subprocess.TimeoutExpired):
                    process.wait(limit)
                if process.poll() is not None:
                    break
                os.killpg(process.pid, signal.SIGKILL)
                at = time.monotonic()
                process.wait()
                while mock.in_flight:
                    time.sleep(0.002)
                times, kept = answered(place, mock), durable(place)
                came = counted(times)
                in_flight = came - kept - excused
                found["kills"] += 1
                found["durable replies gone after the next kill"] += (known - kept).total()
                found["replies answered and not yet durable at a kill"] += in_flight.total()
                most = max(most, in_flight.total())
                oldest = max([oldest, *(at - times[call][-1] for call in in_flight)])
                known, excused = kept, excused + in_flight
                if came:
                    during = "during the calls" if came.keys() != calls.keys() else "after the last call"
                moments[during if came else "before the first call"] += 1
            came = counted(answered(place, mock))
            if process.returncode:
                found["builds that failed"] += 1
                print(said(process), file=sys.stderr)
            found["replies answered"] += came.total()
            found["replies answered again"] += (came - calls).total()
            found["replies answered again and not in flight at a kill"] += (came - calls - excused).total()
            found["replies missing in the store at the end"] += (calls - durable(place)).total()
            found["builds that ended with another output than one left alone"] += not same(
                expected, place.outputs()
            )
    return {
        **found,
        "calls in a build": calls.total(),
        "each of two lanes: calls at once": WIDTH,
        "files compared": len(expected),
        "most replies answered and not yet durable at one kill": most,
        "age of the oldest such reply at the kill, s": round(oldest, 3),
        **{f"kills {words}": count for words, count in sorted(moments.items())},
    }


def paired(wanted: int, seed: int, end: float) -> Figures:
    """Start two builds of one workspace, the second at a random moment of the first; `wanted` times, up to the time `end`."""
    expected, seconds, calls = undisturbed()
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(wanted):
        if time.monotonic() > end:
            break
        with site() as (place, mock):
            first = place.start()
            # Every other pair at almost the same instant.
            time.sleep(chance.uniform(0, 0.05 if number % 2 else 0.8 * seconds))
            second = place.start()
            statuses = [first.wait(), second.wait()]
            times = answered(place, mock)
            found["pairs"] += 1
            found["builds that failed"] += sum(map(bool, statuses))
            for status, process in zip(statuses, (first, second), strict=True):
                if status:
                    print(said(process), file=sys.stderr)
            found["replies answered"] += counted(times).total()
            found["replies answered again"] += (counted(times) - calls).total()
            found["pairs that ended with another output than one left alone"] += not same(
                expected, place.outputs()
            )
    return {**found, "calls in a build": calls.total()}


# --- Flipped bits ----------------------------------------------------------------------------------------------------

WAYS = {
    "view deleted": (),
    # The stages that ask models run again, and read every reply that the store has.
    "calls replayed": ("--set", "checks.copied-prompt=9"),
    # Everything from the data set on runs again, and reads what the stages before it left.
    "later stages again": ("--set", "dataset.max_words=400"),
}
"""How a build is made to read the store once a bit in it is flipped. The view is deleted in all three."""


def flipped(flips: int, seed: int) -> Figures:
    """Flip a bit of a finished build's store, size and time kept; then build in one of the WAYS, and compare."""
    chance = random.Random(seed)
    found: dict[str, Counter[str]] = {}
    with site() as (place, mock):
        expected, needed = {}, {}
        assert place.start().wait() == 0
        whole = place.folder.parent / "whole"
        shutil.copytree(place.folder, whole, symlinks=True)
        for way, words in WAYS.items():
            _begin_anew(place, whole)
            before = mock.requests
            assert place.start(*words).wait() == 0
            expected[way], needed[way] = place.outputs(), mock.requests - before
        files = sorted(path.relative_to(whole) for path in (whole / ".charforge").rglob("*") if _own(path))
        for name in files:
            kind = _kind(name)
            spots = 20 * flips if kind == "store.db" else flips
            for number in range(spots):
                way = list(WAYS)[number % len(WAYS)]
                _begin_anew(place, whole)
                path, before = place.folder / name, mock.requests
                faults_trials.flip(path, chance.randrange(path.stat().st_size), chance)
                process = place.start(*WAYS[way])
                status, came = process.wait(), place.outputs()
                counts = found.setdefault(kind, Counter())
                counts["flips"] += 1
                if status == 0:
                    counts["outputs identical" if same(expected[way], came) else "outputs WRONG"] += 1
                elif status == 1 and "error: " in said(process) and "Traceback" not in said(process):
                    counts["refused with one clear error"] += 1
                    counts[f"says: {_error(said(process), place.folder)}"] += 1
                else:
                    counts["ended in another way"] += 1
                    print(name, said(process), file=sys.stderr)
                heard = said(process)
                counts["said that something is damaged"] += "damaged" in heard or "does not hash" in heard
                counts["replies asked for again"] += mock.requests - before - needed[way]
    return {**found, "files in the store": len(files)}


def _own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def _kind(name: Path) -> str:
    part = name.parts[1]
    return f"{part}/" if len(name.parts) > 2 else part


def _begin_anew(place: Site, whole: Path) -> None:
    """Put the workspace back as it was when it had been built, but for the view."""
    shutil.rmtree(place.folder)
    shutil.copytree(whole, place.folder, symlinks=True, ignore=shutil.ignore_patterns("build", "trees"))
    # Checked-out trees are hard links to the objects, and have to be so again.
    trees = whole / ".charforge" / "trees"
    for path in trees.rglob("*") if trees.exists() else ():
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            target = place.folder / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(place.store / "objects" / digest[:2] / digest[2:], target)


def _error(text: str, folder: Path) -> str:
    line = next(each for each in text.splitlines() if "error: " in each)
    return re.sub(r"[0-9a-f]{12,64}", "…", line.replace(str(folder), "WORKSPACE"))[:120]


# --- CharForge's engine beside the others ----------------------------------------------------------------------------


def part_engine() -> None:
    """In a child: build the graph of bench/faults_peers.py in the current folder with CharForge's engine."""
    from charforge.engine import view
    from charforge.engine.build import RAN, Build, Context
    from charforge.engine.claims import Claims
    from charforge.engine.digest import of_bytes
    from charforge.engine.errors import Damaged, EngineError
    from charforge.engine.graph import Graph, Output, Source, Stage
    from charforge.engine.stale import UP_TO_DATE
    from charforge.engine.store import Store

    here = Path.cwd()
    places = asyncio.Semaphore(JOBS)

    def running(step: faults_peers.Step) -> Any:
        async def run(ctx: Context) -> dict[str, bytes]:
            for name in step.inputs:
                path = ctx.scratch / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(ctx.read(name))
            command = [*python(), str(here / LOG), str(SECONDS), step.name, "out", *step.inputs]
            async with places:
                process = await asyncio.create_subprocess_exec(*command, cwd=ctx.scratch)
                if await process.wait():
                    raise RuntimeError(f"{step.name} failed")
            return {"out": (ctx.scratch / "out").read_bytes()}

        return run

    made = Graph()
    for step in graph():
        inputs: dict[str, Source | Output] = {}
        for name in step.inputs:
            if name.startswith("src/"):
                data = (here / name).read_bytes()
                inputs[name] = Source(name, of_bytes(data), data)
            else:
                inputs[name] = Output(Path(name).stem, "out")
        made.add(Stage(step.name, "step", 1, {"name": step.name}, inputs, running(step)))

    async def build(store: Store, claims: Claims) -> int:
        outcomes = await Build(store, claims, made).run(["e"])
        for outcome in outcomes.values():
            if outcome.status not in {RAN, UP_TO_DATE}:
                print(f"{outcome.stage}: {outcome.status}: error: {outcome.error}")
                return 1
        outputs = {f"{name}.txt": outcome.outputs["out"] for name, outcome in outcomes.items()}
        view.sync(store, here / "build" / "work", outputs)
        return 0

    try:
        with Store(here / ".charforge") as store, closing(Claims(store.root / "claims")) as claims:
            try:
                status = asyncio.run(build(store, claims))
            except Damaged:
                # As the command does: found bad while it was copied into the view.
                status = asyncio.run(build(store, claims))
    except EngineError as error:
        sys.exit(f"error: {error.message}")
    sys.exit(status)


OURS = Engine(
    "CharForge's engine",
    None,
    (sys.executable, __file__, "part-engine"),
    dict,
    database=(".charforge/store.db*",),
    shown="build/work",
    how=f"each step a stage, {JOBS} at once",
    path=str(REPOSITORY),
)


def peers(options: argparse.Namespace) -> Figures:
    """Measure each engine by the same trials."""
    found: Figures = {}
    options.cache.mkdir(parents=True, exist_ok=True)
    for engine in (OURS, *PEERS):
        if options.only and engine.name.split("'")[0].lower() not in {each.lower() for each in options.only}:
            continue
        rows: Figures = {"version": engine.package or "this checkout", "how": engine.how}
        found[engine.name] = rows
        if (why := engine.install(options.cache)) is not None:
            rows["not measured"] = f"could not be installed: {why}"
            continue
        counts = {"kills": options.kills, "pairs": options.pairs, "corruption": options.flips}
        began, seconds = time.monotonic(), 60 * options.minutes
        try:
            rows["null"] = faults_trials.null(engine, options.cache)
            for part, default, share in (("kills", 20, 0.45), ("pairs", 6, 0.65), ("corruption", 10, 1)):
                if wanted := default if counts[part] is None else counts[part]:
                    measure, end = getattr(faults_trials, part), began + share * seconds
                    rows[part] = measure(engine, options.cache, wanted, options.seed, end)
        except (RuntimeError, OSError) as error:
            rows["not measured"] = str(error)
        print(f"{engine.name}: done", file=sys.stderr)
    return found


def charforge(options: argparse.Namespace) -> Figures:
    """Measure CharForge whole."""
    end = time.monotonic() + 60 * options.minutes
    found: Figures = {}
    if kills := 200 if options.kills is None else options.kills:
        found["kills"] = killed(kills, options.seed, end)
    if pairs := 50 if options.pairs is None else options.pairs:
        found["pairs"] = paired(pairs, options.seed, end)
    return found


def corruption(options: argparse.Namespace) -> Figures:
    """Flip bits in CharForge's store."""
    return flipped(3 if options.flips is None else options.flips, options.seed)


# --- What is printed -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("charforge", "peers", "corruption", "table"))
    parser.add_argument("files", nargs="*", type=Path, help="for table: what --json wrote")
    parser.add_argument("--kills", type=int, help="kills, in all or for each engine (200; 20), 0 for none")
    parser.add_argument("--pairs", type=int, help="pairs of builds (50; 6), 0 for none")
    parser.add_argument(
        "--flips", type=int, help="flips for each place of an engine (10), or each file of the store (3)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="engines to measure: charforge, ninja, …")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="where the engines are installed (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed, other moments: for a long run in pieces"
    )
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="begin nothing new after so long (peers: for each engine)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == "table":
        print(faults_table.markdown([json.loads(path.read_text()) for path in options.files]))
        return
    # Asked to end: what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }
    began = time.monotonic()
    figures = {"charforge": charforge, "peers": peers, "corruption": corruption}[options.what](options)
    found = {
        "what": options.what,
        "machine": machine,
        "seconds": round(time.monotonic() - began),
        "figures": figures,
    }
    print(json.dumps(found, indent=2) if options.json else faults_table.plain(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["part-build"]:
        sys.exit(part_build(sys.argv[2:]))
    if sys.argv[1:2] == ["part-engine"]:
        part_engine()
    main()
