"""Generation against a mock endpoint, figure by figure: `python bench/llm.py WHAT [--json]`; `python bench/llm.py --help` lists them.

The endpoint is charforge.testing.endpoint in a process of its own; what asks it is the product: the engine's build, the client and its
direct lane, and for `generation` and `paper` the command line. Everything shares one machine, so ratios of one run mean
something and absolute numbers only with the machine. `speed` runs the client libraries of bench/llm_peers.py beside ours.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from charforge.engine.build import FAILED, RAN, Build, Context
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical
from charforge.engine.graph import Graph, Stage
from charforge.engine.store import Store
from charforge.llm.client import Client
from charforge.llm.request import Request
from charforge.testing.endpoint import Fates, Settings, arguments, identity

REPOSITORY = Path(__file__).parents[1]
PEERS = Path(__file__).with_name("llm_peers.py")
MODEL = "openai/scripted"
SAID = "You are asked for one scene of a composer's life, and for nothing else. " * 20
"""1.4 kB: the size of a rendered request."""

ISSUE_FAULTS = {
    "429": 5,
    "500": 3,
    "disconnect": 1,
    "disconnect-midway": 1,
    "stall": 1,
    "cut-off": 1,
    "malformed": 1,
}

Figures = dict[str, Any]


# --- The endpoint ----------------------------------------------------------------------------------------------------


class Server:
    """A mock endpoint in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", "charforge.testing.endpoint", "--until-eof", *arguments(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.url = json.loads(self.process.stdout.readline())["url"]

    def stats(self, *, digests: bool = False) -> dict[str, Any]:
        address = self.url.removesuffix("/v1") + ("/stats?digests=1" if digests else "/stats")
        with urllib.request.urlopen(address) as response:
            return json.load(response)

    def cpu(self) -> float:
        """Return the seconds of CPU that the server has used."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    server = Server(Settings(**settings))
    try:
        yield server
    finally:
        server.close()


@contextmanager
def using(url: str, **fields: Any) -> Iterator[dict[str, str]]:
    """Write an endpoints.toml that leads openai/… to a URL, and yield the environment in which it is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "endpoints.toml"
        lines = [f'api_base = "{url}"', 'key = "MOCK_API_KEY"']
        lines += [f"{name} = {_toml(value)}" for name, value in fields.items()]
        path.write_text("\n".join(["[openai]", *lines]) + "\n")
        changes = {"CHARFORGE_ENDPOINTS": str(path), "MOCK_API_KEY": "sk-mock-0123456789"}
        before = dict(os.environ)
        os.environ |= changes
        try:
            yield dict(os.environ)
        finally:
            os.environ.clear()
            os.environ |= before


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


# --- Calls through the engine ----------------------------------------------------------------------------------------


def request(number: int) -> Request:
    return Request(
        model=MODEL, messages=(("user", f"{SAID}{number}"),), max_tokens=256, temperature=0.7, seed=0
    )


def action(number: int) -> Action:
    return Action("call", 1, request(number).params(), {})


def calling(
    client: Client,
    calls: int,
    width: int,
    *,
    seconds: float | None = None,
    at: Callable[[int], None] = lambda _: None,
) -> Graph:
    """A stage that makes calls, `width` at once, for so long or so many, and counts what came.

    As the pipeline asks: through the engine, every reply durable before it counts. `at(done)` is called after each.
    """

    async def run(ctx: Context) -> dict[str, bytes]:
        outcomes: Counter[str] = Counter()
        numbers = iter(range(calls))
        end = None if seconds is None else time.monotonic() + seconds

        async def work() -> None:
            for number in numbers:
                if end is not None and time.monotonic() > end:
                    return
                asked = request(number)

                async def perform(asked: Request = asked) -> tuple[bytes, dict[str, Any]]:
                    reply = await client.complete(asked, None)
                    usage = {
                        "prompt_tokens": reply.prompt_tokens,
                        "completion_tokens": reply.completion_tokens,
                    }
                    return canonical({"text": reply.text, "finish_reason": reply.finish_reason}), {
                        **usage,
                        **reply.facts,
                    }

                called = await ctx.call(
                    Action("call", 1, asked.params(), {}), perform, lane=client.lane(MODEL)
                )
                reply = json.loads(called.reply)
                outcomes["accepted" if reply["finish_reason"] == "stop" else reply["finish_reason"]] += 1
                at(outcomes.total())

        await asyncio.gather(*(work() for _ in range(width)))
        return {"outcomes.json": canonical(dict(outcomes))}

    return Graph([Stage("calls", "calls", 1, {"calls": calls}, {}, run)])


def build(root: Path, calls: int, jobs: int, **more: Any) -> dict[str, int]:
    """Make calls in a store at `root`, and return how many came to which end."""

    async def go() -> dict[str, int]:
        client = Client()
        try:
            # Twice as many askers as places, so that a free place never waits for one.
            graph = calling(client, calls, 2 * jobs, **more)
            outcome = (await Build(store, claims, graph, jobs=jobs).run(["calls"]))["calls"]
        finally:
            await client.close()
        if outcome.status == FAILED:
            raise outcome.error
        assert outcome.status == RAN, outcome
        return json.loads(store.read(outcome.outputs["outcomes.json"]))

    with Store(root) as store:
        claims = Claims(root / "claims")
        try:
            return asyncio.run(go())
        finally:
            claims.close()


def child(*words: Any, **popen: Any) -> subprocess.Popen:
    """Start this file again, for a part that wants a process of its own."""
    command = [sys.executable, __file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **popen)


def finished(process: subprocess.Popen) -> Any:
    """Return what a child printed as its last line. Its troubles are on stderr."""
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a part of the benchmark failed with status {process.returncode}")
    return json.loads(out.splitlines()[-1])


# --- speed -----------------------------------------------------------------------------------------------------------


def part_calls(calls: int, jobs: int) -> Figures:
    """In a child: make calls through the engine."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "warm", 8, 8)
        wall, cpu = time.perf_counter(), time.process_time()
        came = build(Path(folder) / "store", calls, jobs)
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    assert came == {"accepted": calls}, came
    return {"calls": calls, **found}


def part_client(calls: int, jobs: int) -> Figures:
    """In a child: make calls with the client alone, nothing traced."""

    async def go() -> Figures:
        client = Client()
        for number in range(-4, 0):
            await client.complete(request(number), None)
        numbers = iter(range(calls))

        async def work() -> None:
            for number in numbers:
                assert (await client.complete(request(number), None)).finish_reason == "stop"

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(jobs)))
        found = {"calls": calls, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        await client.close()
        return found

    return asyncio.run(go())


def speed(options: argparse.Namespace) -> Figures:
    """Latency 0: what the client costs, beside the libraries that do the same."""
    jobs = 64
    # Fewer calls of the slow ones; a call costs what it costs.
    peers = {"aiohttp": 5000, "openai": 600, "openai-aiohttp": 1500, "litellm": 300}
    names = {
        "ours": "CharForge, each call durably traced",
        "client": "CharForge's client alone",
        "aiohttp": "aiohttp alone",
        "openai": "openai, httpx",
        "openai-aiohttp": "openai, aiohttp",
        "litellm": "litellm.acompletion",
    }
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    with serving() as server, using(server.url, concurrency=jobs):
        for _ in range(options.rounds):
            for name in names:
                if name == "openai-aiohttp" and importlib.util.find_spec("httpx_aiohttp") is None:
                    continue
                if name in peers:
                    calls = min(peers[name], options.calls or peers[name])
                    given = ["--url", server.url, "--calls", calls, "--concurrency", jobs]
                    command = [sys.executable, str(PEERS), name, *map(str, given)]
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                else:
                    part = "part_calls" if name == "ours" else "part_client"
                    process = child(part, options.calls or 5000, jobs)
                before = server.cpu()
                found = finished(process)
                found["server"] = server.cpu() - before
                taken[name].append(found)
    rows: Figures = {}
    best = {
        name: max(runs, key=lambda run: run["calls"] / run["wall"]) for name, runs in taken.items() if runs
    }
    for name, run in best.items():
        rate = run["calls"] / run["wall"]
        rows[f"{names[name]}: calls/s"] = rate
        rows[f"{names[name]}: ms of CPU a call"] = run["cpu"] / run["calls"] * 1e3
    rows["times litellm"] = _rate(best["ours"]) / _rate(best["litellm"])
    rows["the mock: ms of CPU a call"] = best["aiohttp"]["server"] / best["aiohttp"]["calls"] * 1e3
    return rows


def _rate(run: Figures) -> float:
    return run["calls"] / run["wall"]


def peers(options: argparse.Namespace) -> Figures:
    """Latency 0: whole generators from PyPI, each with the interpreter of its own environment (--python NAME=PATH)."""
    jobs, calls = 64, options.calls or 1000
    rows: Figures = {}
    with serving() as server, using(server.url, concurrency=jobs):
        ours = finished(child("part_calls", calls, jobs))
        rows["CharForge: calls/s"] = _rate(ours)
        rows["CharForge: ms of CPU a call"] = ours["cpu"] / calls * 1e3
        for given in options.python:
            name, _, python = given.partition("=")
            command = [
                python,
                str(PEERS),
                name,
                "--url",
                server.url,
                "--calls",
                str(calls),
                "--concurrency",
                str(jobs),
            ]
            with tempfile.TemporaryDirectory() as folder:
                run = subprocess.run(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    cwd=folder,
                    check=True,
                )
            found = json.loads(run.stdout.splitlines()[-1])
            rows[f"{name}: calls/s"] = _rate(found)
            rows[f"{name}: ms of CPU a call"] = found["cpu"] / calls * 1e3
            rows[f"CharForge, times {name}"] = _rate(ours) / _rate(found)
    return rows


# --- latency ---------------------------------------------------------------------------------------------------------


def latency(options: argparse.Namespace) -> Figures:
    """200 ms: how much of what the concurrency allows is used."""
    rows: Figures = {}
    for jobs in (64, 256):
        calls = options.calls or jobs * 100
        with serving(latency=0.2) as server, using(server.url, concurrency=jobs):
            found = finished(child("part_calls", calls, jobs))
            ideal = jobs / 0.2
            rows[f"at {jobs}: calls/s over {calls} calls, ideal {ideal:.0f}"] = _rate(found)
            rows[f"at {jobs}: % of the ideal"] = 100 * _rate(found) / ideal
            rows[f"at {jobs}: most in flight"] = server.stats()["max_in_flight"]
    return rows


# --- memory ----------------------------------------------------------------------------------------------------------


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def part_memory(calls: int) -> Figures:
    """In a child: make calls, and look at the memory on the way."""
    seen: dict[int, float] = {}

    def look(done: int) -> None:
        if done == min(1000, calls) or done % 5000 == 0:
            seen[done] = resident()

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "store", calls, 64, at=look)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seen": seen, "peak": peak}


def memory(options: argparse.Namespace) -> Figures:
    """The size of the process at 1,000 calls, and how it has grown at 100,000."""
    calls = options.calls or 100_000
    with serving(digests=False) as server, using(server.url, concurrency=64):
        small = finished(child("part_memory", 1000))["peak"]
        found = finished(child("part_memory", calls))
    seen = {int(done): size for done, size in found["seen"].items()}
    rows = {f"resident after {done} calls, MB": seen[done] for done in _few(sorted(seen))}
    rows["peak of a build of 1000 calls, MB"] = small
    rows[f"peak of a build of {calls} calls, MB"] = found["peak"]
    rows["more, MB"] = found["peak"] - small
    return rows


def _few(points: list[int]) -> list[int]:
    return points if len(points) < 6 else [*points[:: len(points) // 4], points[-1]]


# --- generation ------------------------------------------------------------------------------------------------------


@contextmanager
def workspace() -> Iterator[Path]:
    """Yield a workspace with Beethoven in it and an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(REPOSITORY / "characters", Path(folder) / "characters")
        yield Path(folder)


def charforge(folder: Path, environment: Mapping[str, str], *words: str) -> tuple[float, float, str]:
    """Run the command line; return wall seconds, CPU seconds, and what it printed."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "-m", "charforge", *words],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        sys.exit(f"charforge {' '.join(words)} failed:\n{run.stdout[-2000:]}{run.stderr[-4000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, run.stdout


def generation(options: argparse.Namespace) -> Figures:
    """400 scenes, their dialogues, and protective dialogues at 500 ms with a heavy tail, against the bound of the latencies."""
    rows: Figures = {}
    for per_call in (1, 16):
        found = _generation(options, per_call)
        rows |= {f"scenes.per_call={per_call}: {what}": figure for what, figure in found.items()}
    return rows


def _generation(options: argparse.Namespace, per_call: int) -> Figures:
    jobs, count = 64, options.calls or 400
    settings = {"latency": 0.5, "tail": 0.5, "mode": "scripted"}
    with (
        serving(**settings) as server,
        using(server.url, concurrency=jobs) as environment,
        workspace() as folder,
    ):
        wall, cpu, _ = charforge(
            folder,
            environment,
            *("build", "characters/beethoven.yaml", "--preset", "paper", "--to", "dataset", "-j", str(jobs)),
            *("--set", f"scenes.count={count}", "--set", f"scenes.per_call={per_call}"),
            *("--set", f"generator.model={MODEL}", *options.more),
        )
        stats, served = server.stats(digests=True), server.cpu()
        after = _dependencies(folder)
        generated = _generated(folder)
        took = _latencies(folder, after, Fates(server.settings), stats["digests"])
    work = stats["latency_seconds"]
    path = max(_path(call, after, took) for call in after)
    bound = max(work / jobs, path)
    # Nobody knows beforehand which call will take long, so the last ones leave places idle: no scheduler reaches the lower bound.
    scheduled = _scheduled(after, took, jobs)
    calls = stats["requests"]
    return {
        "calls": calls,
        "most in flight": stats["max_in_flight"],
        "all latencies / concurrency, s": work / jobs,
        "longest chain of calls, s": path,
        "lower bound: the larger of the two, s": bound,
        "the same calls on places that cost nothing, s": scheduled,
        "wall, from the first of the three stages to the last one's end, s": generated,
        "wall, whole command with start and data set, s": wall,
        "wall / lower bound": generated / bound,
        "wall / places that cost nothing": generated / scheduled,
        "CPU of the command, s": cpu,
        "CPU of the mock, s": served,
    }


def _generated(folder: Path) -> float:
    """Return the seconds from the start of the first generating stage to the end of the last."""
    with Store(folder / ".charforge") as store:
        records = [
            store.find(store.last(f"beethoven/{stage}")[0]).record
            for stage in ("scenes", "dialogues", "protective")
        ]
    return max(each["started"] + each["seconds"] for each in records) - min(
        each["started"] for each in records
    )


def _dependencies(folder: Path) -> dict[str, str | None]:
    """Return every call of a generation with the call that it had to wait for, if any; those waited for come first.

    A dialogue waits for the call that gave its scene, and its next draw for the one before.
    """
    view = folder / "build" / "beethoven"

    def of(stage: str, kind: str) -> list[tuple[str, str]]:
        """Return (what of a record's id follows the stage, call)."""
        records = _jsonl(view / kind / f"{stage}.jsonl")
        return [("/".join(record["id"].split("/")[1:3]), record["call"]) for record in records]

    scene_calls = dict(of("scenes", "calls"))
    after: dict[str, str | None] = {}
    for stage in ("scenes", "protective"):
        after |= {call: None for kind in ("rejected", "calls") for _, call in of(stage, kind)}
    before = dict(scene_calls)
    for kind in ("rejected", "calls"):
        for name, call in of("dialogues", kind):
            if call not in after:
                after[call] = before.get(name)
                before[name] = call
    return after


def _latencies(
    folder: Path, calls: Mapping[str, Any], fates: Fates, asked: Mapping[str, list[int]]
) -> dict[str, float]:
    """Return the seconds that the mock let each call wait, from its own seed.

    Where a content was asked for more than once (draws of one prompt), its answers are dealt out in order, as the mock did.
    """
    dealt: Counter[bytes] = Counter()
    found = {}
    with Store(folder / ".charforge") as store:
        for call in calls:
            params = store.action_body(call)["params"]
            said = [(role, text) for role, text in params["messages"]]
            key = identity(params["model"].partition("/")[2], said)
            assert key.hex() in asked, "a call that the mock never saw"
            found[call] = fates.of(key, dealt[key]).latency
            dealt[key] += 1
    return found


def _path(call: str | None, after: Mapping[str, str | None], took: Mapping[str, float]) -> float:
    """Return the latencies of a call and of all that it had to wait for."""
    return 0.0 if call is None else took[call] + _path(after[call], after, took)


def _scheduled(after: Mapping[str, str | None], took: Mapping[str, float], width: int) -> float:
    """Return when all calls would be done on `width` places, if whichever could begin first did, with nothing lost between."""
    places = [0.0] * width
    ended: dict[str | None, float] = {None: 0.0}
    waiting = dict(after)
    while waiting:
        ready = [call for call, before in waiting.items() if before in ended]
        call = min(ready, key=lambda one: ended[after[one]])
        ended[call] = max(heapq.heappop(places), ended[waiting.pop(call)]) + took[call]
        heapq.heappush(places, ended[call])
    return max(ended.values())


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- limits ----------------------------------------------------------------------------------------------------------


def part_limited(seconds: float) -> Figures:
    """In a child: make calls for so long."""
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder) / "store", 10**9, 64, seconds=seconds)


def limits(options: argparse.Namespace) -> Figures:
    """An endpoint of 600 requests a minute, whether we are told or not, whether it tells or not: what is used and what refused."""
    tells = {"both": "headers and Retry-After", "retry-after": "Retry-After only", "nothing": "bare 429s"}
    cases = [
        (window, says, told) for says in tells for window in ("sliding", "bucket") for told in (True, False)
    ]
    rows: Figures = {}
    minutes = options.minutes
    with ExitStack() as stack:
        running = []
        for window, says, told in cases:
            settings = {
                "requests_per_minute": 600,
                "window": window,
                "says": says,
                "latency": 0.3,
                "spread": 0.3,
            }
            if window == "bucket":
                settings["burst"] = 60
            server = stack.enter_context(serving(**settings))
            # Each process reads its endpoints.toml late, so all of them stay until the end.
            stack.enter_context(using(server.url, **({"requests_per_minute": 600} if told else {})))
            running.append((window, says, told, server, child("part_limited", 60 * minutes)))
        for window, says, told, server, process in running:
            finished(process)
            stats = server.stats()["minutes"]
            later = [stats.get(str(minute), {}) for minute in range(1, int(minutes))]
            used = sum(counts.get("200", 0) for counts in later)
            refused = sum(counts.get("429", 0) for counts in later)
            name = f"{window}, {tells[says]}, {'configured' if told else 'learned'}"
            rows[f"{name}: % used after the first minute"] = 100 * used / (600 * max(1, len(later)))
            rows[f"{name}: % of calls answered 429"] = 100 * refused / max(1, used + refused)
            rows[f"{name}: answered in the first minute"] = stats["0"].get("200", 0)
    return rows


# --- faults ----------------------------------------------------------------------------------------------------------


def part_faults(root: str, calls: int) -> Figures:
    """In a child, which may be killed: make calls in a store that stays."""
    return build(Path(root), calls, 64)


def _durable(root: Path, calls: int) -> set[int]:
    with Store(root) as store:
        return {number for number in range(calls) if store.find(action(number).digest) is not None}


def faults(options: argparse.Namespace) -> Figures:
    """The issue's mix of faults and five times kill -9: is every call accounted for once, and what was paid for twice?"""
    calls, kills, jobs = options.calls or 5000, 5, 64
    keys = {identity("scripted", [("user", f"{SAID}{number}")]).hex(): number for number in range(calls)}
    chance = random.Random(7)
    settings = {"faults": ISSUE_FAULTS, "latency": 0.1, "tail": 0.5}
    began = time.perf_counter()
    in_flight: list[set[int]] = []
    left: list[int] = []
    with (
        serving(**settings) as server,
        using(server.url, concurrency=jobs, timeout=5),
        tempfile.TemporaryDirectory() as folder,
    ):
        root = Path(folder) / "store"

        def good() -> set[int]:
            found = server.stats(digests=True)["digests"]
            return {keys[key] for key, (_, answered) in found.items() if answered}

        for kill in range(1, kills + 1):
            goal = calls * kill // (kills + 1) + chance.randrange(max(1, calls // 20))
            process = child("part_faults", root, calls)
            while server.stats()["good"] < goal and process.poll() is None:
                time.sleep(0.005)
            left_before = server.stats()["abandoned"]
            process.send_signal(signal.SIGKILL)
            process.communicate()
            while server.stats()["in_flight"]:
                time.sleep(0.01)
            left.append(server.stats()["abandoned"] - left_before)
            in_flight.append(good() - _durable(root, calls))
        came = finished(child("part_faults", root, calls))
        wall = time.perf_counter() - began
        durable = _durable(root, calls)
        stats = server.stats(digests=True)
    twice = {keys[key] for key, (_, answered) in stats["digests"].items() if answered > 1}
    return {
        "calls": calls,
        "accepted": came.pop("accepted", 0),
        **{f"rejected: {reason}": count for reason, count in sorted(came.items())},
        "not accounted for": calls - len(durable),
        "waiting for an answer at the kills": ", ".join(map(str, left)),
        "answered but not durable at the kills": ", ".join(str(len(lost)) for lost in in_flight),
        "answered twice": len(twice),
        "answered twice and not in flight at a kill": len(twice - set().union(*in_flight)),
        "requests sent": stats["requests"],
        "faults given": ", ".join(f"{name} {count}" for name, count in stats["faults"].items()),
        "wall with restarts, s": wall,
    }


# --- paper -----------------------------------------------------------------------------------------------------------


def paper(options: argparse.Namespace) -> Figures:
    """Beethoven at the size of --preset paper, up to the data set, against an endpoint with faults and some bad replies."""
    settings = {
        "latency": 0.5,
        "tail": 0.5,
        "mode": "scripted",
        "faults": ISSUE_FAULTS,
        "bad": {"assistant": 1, "foreign": 1, "copied": 1, "duplicate": 1, "form": 1, "short": 1, "late": 1},
    }
    price = {"input": 0.15, "output": 0.60}
    with (
        serving(**settings) as server,
        using(server.url, concurrency=64, timeout=10, price=price) as environment,
        workspace() as folder,
    ):
        wall, cpu, said = charforge(
            folder,
            environment,
            "build",
            "characters/beethoven.yaml",
            "--preset",
            "paper",
            "--to",
            "dataset",
            *options.more,
        )
        again, _, _ = charforge(
            folder,
            environment,
            "build",
            "characters/beethoven.yaml",
            "--preset",
            "paper",
            "--to",
            "dataset",
            *options.more,
        )
        stats = server.stats()
        view = folder / "build" / "beethoven"
        yields = {
            name: json.loads((view / "yield" / f"{name}.json").read_text())
            for name in ("scenes", "dialogues", "protective")
        }
        words = [
            sum(len(turn["content"].split()) for turn in record["turns"])
            for record in _jsonl(view / "dialogues.jsonl")
        ]
        samples = len(_jsonl(view / "sft.jsonl"))
    rows: Figures = {
        "wall, s": wall,
        "wall of the same build again, s": again,
        "CPU of the command, s": cpu,
        "requests": stats["requests"],
        "most in flight": stats["max_in_flight"],
        "prompt tokens": stats["tokens"]["prompt"],
        "completion tokens": stats["tokens"]["completion"],
        "cost, USD": sum(
            stats["tokens"][kind] * price[name]
            for kind, name in (("prompt", "input"), ("completion", "output"))
        )
        / 1e6,
        "all latencies / 64, s": stats["latency_seconds"] / 64,
    }
    for name, found in yields.items():
        rejected = ", ".join(f"{rule} {count}" for rule, count in found["rejected"].items())
        rows[f"{name}"] = f"{found['accepted']} of {found['wanted']}, {found['asked']} asked; {rejected}"
    rows["words of a dialogue, mean"] = statistics.mean(words)
    rows["samples of the data set"] = samples
    rows["the command said"] = said.strip().splitlines()[-1] if said.strip() else ""
    return rows


# --- The command -----------------------------------------------------------------------------------------------------

BENCHES = (speed, latency, memory, generation, limits, faults, paper, peers)
PARTS = (part_calls, part_client, part_memory, part_limited, part_faults)


def part(name: str, words: list[str]) -> None:
    """Run a part in this process, which is a child's, and print what it found."""
    known = {function.__name__: function for function in PARTS}
    given = [float(word) if "." in word else int(word) if word.isdigit() else word for word in words]
    print(json.dumps(known[name](*given)))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1].startswith("part_"):
        part(sys.argv[1], sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description="Generation against a mock endpoint.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{bench.__name__:<12}{bench.__doc__.splitlines()[0]}" for bench in BENCHES),
    )
    parser.add_argument("what", nargs="+", choices=[bench.__name__ for bench in BENCHES], metavar="WHAT")
    parser.add_argument(
        "--calls", type=int, help="calls (scenes for generation) instead of the figure's own number"
    )
    parser.add_argument("--rounds", type=int, default=3, help="speed: rounds, of which the best counts")
    parser.add_argument("--minutes", type=int, default=3, help="limits: how long")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="peers: an interpreter that has it"
    )
    parser.add_argument(
        "--more",
        nargs=argparse.REMAINDER,
        default=[],
        help="generation, paper: further options of charforge build",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.what:
        found = next(bench for bench in BENCHES if bench.__name__ == name)(options)
        if options.json:
            print(json.dumps({name: found}, indent=2))
            continue
        print(f"{name}:")
        for what, figure in found.items():
            print(f"  {what:<86} {_shown(figure):>10}")


def _shown(figure: Any) -> str:
    if isinstance(figure, float):
        return f"{figure:,.3f}" if abs(figure) < 10 else f"{figure:,.1f}"
    return f"{figure:,}" if isinstance(figure, int) else str(figure)


if __name__ == "__main__":
    main()
