"""What the engine itself costs, without any model: `python bench/engine.py [--json] [--calls N] [--stages N]`.

Calls are made by a stage that answers at once, so everything measured is the engine's: digesting, claims, the store, the
event loop, the writer thread. CPU is this process's, all threads together (`time.process_time`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charforge.engine.build import RAN, Build, Context
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.stale import UP_TO_DATE, plan
from charforge.engine.store import Store

PROMPT = "You are asked for one scene of a composer's life, and for nothing else. " * 20
"""1.4 kB: the size of a rendered request."""

REPLY = "He stood at the window, and the town lay under snow. " * 12


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    taken: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield taken
    taken["wall"] = time.perf_counter() - wall
    taken["cpu"] = time.process_time() - cpu


def request(index: int) -> Action:
    """An action as the pipeline makes one: a request with every field, unset ones as nulls."""
    params = {
        "model": "embedded/none",
        "weights": "0" * 64,
        "messages": [["system", PROMPT], ["user", f"scene {index}"]],
        "prompt": None,
        "schema": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.95,
        "repetition_penalty": None,
        "stop": ["<|eot|>"],
        "seed": None,
        "draw": index,
    }
    return Action("call", 1, params, {})


def answering(index: int) -> Callable[[], Awaitable[tuple[bytes, dict[str, Any]]]]:
    async def perform() -> tuple[bytes, dict[str, Any]]:
        return canonical({"text": f"{REPLY}{index}", "finish_reason": "stop"}), {"prompt_tokens": 400}

    return perform


def calling(calls: int, salt: str) -> Graph:
    async def run(ctx: Context) -> dict[str, bytes]:
        replies = await asyncio.gather(
            *(ctx.call(request(index), answering(index)) for index in range(calls))
        )
        return {"replies.jsonl": b"\n".join(called.reply for called in replies)}

    return Graph([Stage("calls", "calls", 1, {"salt": salt}, {}, run)])


def chain(stages: int) -> Graph:
    """Stages each of which reads the one before, a source, and a few parameters."""

    async def run(ctx: Context) -> dict[str, bytes]:
        return {
            "out": of_bytes("".join(sorted(ctx.digest(name) for name in ctx.stage.inputs)).encode()).encode()
        }

    data = b"a source"
    graph = Graph()
    for index in range(stages):
        before = {"before": Output(f"s{index - 1}", "out")} if index else {}
        source = Source(f"source {index}", of_bytes(data), data)
        params = {"index": index, "temperature": 0.7, "prompt": PROMPT}
        graph.add(Stage(f"s{index}", "link", 1, params, {"source": source, **before}, run))
    return graph


def build(root: Path, graph: Graph, target: str, jobs: int = 64) -> Any:
    with Store(root) as store:
        claims = Claims(root / "claims")
        try:
            return asyncio.run(Build(store, claims, graph, jobs=jobs).run([target]))[target]
        finally:
            claims.close()


def measure(calls: int, stages: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        with timed() as taken:
            outcome = build(root, calling(calls, "first"), "calls")
        assert (outcome.status, outcome.calls_made) == (RAN, calls)
        found["cpu per call made, ms"] = taken["cpu"] * 1e3 / calls
        found["calls made per second"] = calls / taken["wall"]
        with timed() as taken:
            outcome = build(root, calling(calls, "second"), "calls")
        assert (outcome.status, outcome.calls_replayed) == (RAN, calls)
        found["cpu per call replayed, ms"] = taken["cpu"] * 1e3 / calls
        found["calls replayed per second"] = calls / taken["wall"]

        graph = chain(stages)
        with timed() as taken:
            assert build(root, graph, f"s{stages - 1}").status == RAN
        found[f"first build of {stages} stages, s"] = taken["wall"]
        with timed() as taken:
            assert build(root, graph, f"s{stages - 1}").status == UP_TO_DATE
        found[f"null build of {stages} stages, s"] = taken["wall"]
        graph = chain(stages)
        with Store(root) as store, timed() as taken:
            planned = plan(store, graph, [f"s{stages - 1}"])
        assert {one.status for one in planned.values()} == {UP_TO_DATE}
        found[f"null plan over {stages} stages, s"] = taken["wall"]
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        found["store, MB"] = size / 1e6
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="what the engine itself costs, without any model")
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(args.calls, args.stages)
    if args.json:
        machine = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "cores": os.cpu_count(),
        }
        print(json.dumps({"calls": args.calls, "stages": args.stages, **machine, "figures": found}, indent=2))
        return
    print(f"{args.calls} calls, -j 64; {args.stages} stages in a chain")
    for what, figure in found.items():
        print(f"  {what:<32} {figure:>10.3f}")


if __name__ == "__main__":
    main()
