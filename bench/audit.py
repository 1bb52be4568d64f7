"""What an audit takes, and whether every output comes out the same under each variation of a replay.

    python bench/audit.py [SPEC] [--runs N] [--no-variations] [--json]

First the command: levels 1 to 3, each alone and all at once, `charforge audit SPEC` as a process of its own (interpreter start included)
with its processor time and peak memory, children included. Then the replay by itself: as it is here, under each
variation alone and under all of them, with how many stages came out bit for bit, and how long each stage took.

Without SPEC a small character (the smoke preset, with the model that comes with the install) is built for it first, in a folder
that is removed. With it nothing is written but the finding, in such a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from charforge import recording, skeleton
from charforge.audit import scratch, variations
from charforge.audit.finding import BIT_IDENTICAL
from charforge.audit.pieces import Pieces
from charforge.audit.replay import replay
from charforge.engine import lock
from charforge.engine.reader import Reader
from charforge.workspace import Target, target

LEVELS = ("integrity", "derivation", "replay")
AIM = 60.0
"""Seconds that levels 1 to 3 may take of the laptop Beethoven on two cores."""


def small(folder: Path) -> Path:
    """Build a character of the smoke preset in `folder`, and return its spec."""
    spec = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
    text = spec.read_text(encoding="utf-8")
    spec.write_text(text.replace("preset: laptop", "preset: smoke"), encoding="utf-8")
    command = [sys.executable, "-m", "charforge"]
    began = time.perf_counter()
    subprocess.run([*command, "build", str(spec)], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "record", "export", "eliza"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    print(f"built a small character in {time.perf_counter() - began:.0f} s", flush=True)
    return spec


# -- the command -----------------------------------------------------------------------------------------------------


def audit(spec: Path, levels: Collection[str], out: Path) -> dict[str, Any]:
    """Run the command once; return seconds of wall clock and processor, MB of memory and the verdicts."""
    words = [word for level in levels for word in ("--level", level)]
    command = [sys.executable, "-m", "charforge", "audit", str(spec), "--json", "--out", str(out), *words]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    text = child.stdout.read()
    # Not `wait`, which keeps the usage to itself.
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if not text:
        raise SystemExit(child.stderr.read().decode() if child.stderr else "no finding")
    finding = json.loads(text)
    return {
        "levels": list(levels),
        "seconds": round(seconds, 2),
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "memory_mb": round(usage.ru_maxrss / 1024),
        "status": os.waitstatus_to_exitcode(status),
        "verdicts": {name: level["verdict"] for name, level in finding["levels"].items()},
    }


def command(spec: Path, runs: int) -> list[dict[str, Any]]:
    """Time each level alone, and all three at once; the first run of all warms the disk's cache and is dropped."""
    rows = []
    with tempfile.TemporaryDirectory() as out:
        audit(spec, LEVELS, Path(out))
        for levels in (*((level,) for level in LEVELS), LEVELS):
            found = [audit(spec, levels, Path(out)) for _ in range(runs)]
            seconds = [each["seconds"] for each in found]
            rows.append({**found[0], "seconds": statistics.median(seconds), "runs": seconds})
            said = ", ".join(f"{name} {verdict}" for name, verdict in found[0]["verdicts"].items())
            print(
                f"  {' + '.join(levels):<34} {rows[-1]['seconds']:6.2f} s  ({found[0]['cpu']:.1f} s of processor,"
                f" {found[0]['memory_mb']} MB)  {said}",
                flush=True,
            )
    return rows


# -- the replay under each variation ---------------------------------------------------------------------------------


@contextmanager
def timed(into: dict[str, float]) -> Any:
    """Note the seconds that each stage takes in its child, and what the children spend besides."""
    run = scratch.Scratch.run

    def noting(self: scratch.Scratch, *args: Any) -> list[scratch.Told]:
        told = run(self, *args)
        for each in told:
            stages = {kind: said["seconds"] for kind, said in each.stages.items()}
            into.update(stages)
            into[f"start of the child of {next(iter(stages), '?')}"] = each.done.get("done", 0) - sum(
                stages.values()
            )
        return told

    scratch.Scratch.run = noting
    try:
        yield
    finally:
        scratch.Scratch.run = run


def varied(found: Target, pieces: Pieces) -> list[dict[str, Any]]:
    """Replay as it is here, under each variation alone, and under all of them at once."""
    said = lock.read(found.lock)
    rows = []
    cases: list[tuple[str, Collection[str]]] = [
        ("none", ()),
        *((name, (name,)) for name in variations.ALL),
        ("all at once", variations.ALL),
    ]
    for name, variation in cases:
        stages: dict[str, float] = {}
        began = time.perf_counter()
        with timed(stages):
            level = replay(said, found, pieces, variation=variation)
        seconds = time.perf_counter() - began
        same = [result.stage for result in level.results if result.verdict == BIT_IDENTICAL]
        others = {
            result.stage: f"{result.verdict}: {result.why or '; '.join(each.said for each in result.differences)}"
            for result in level.results
            if result.verdict != BIT_IDENTICAL
        }
        rows.append(
            {
                "variation": name,
                "seconds": round(seconds, 2),
                "bit_identical": len(same),
                "stages": len(level.results),
                "others": others,
                "took": {kind: round(value, 2) for kind, value in stages.items()},
            }
        )
        print(
            f"  {name:<14} {seconds:6.2f} s  {len(same)} of {len(level.results)} stages bit-identical",
            flush=True,
        )
        for kind, why in others.items():
            print(f"    {kind}: {why}", flush=True)
    longest = sorted(rows[-1]["took"].items(), key=lambda item: -item[1])[:8]
    print("  where the time goes: " + ", ".join(f"{kind} {value:.1f} s" for kind, value in longest))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", help="the spec of a finished character")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each command, of which the median counts"
    )
    parser.add_argument("--no-variations", action="store_true", help="time the command only")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON at the end")
    args = parser.parse_args()
    with ExitStack() as stack:
        if args.spec is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found = target(str(small(folder)))
        else:
            found = target(args.spec)
        print(
            f"{found.id}: charforge audit, levels 1 to 3; {len(os.sched_getaffinity(0))} processors",
            flush=True,
        )
        figures: dict[str, Any] = {"command": command(found.spec, args.runs)}
        whole = figures["command"][-1]["seconds"]
        print(f"  levels 1 to 3 in {whole:.1f} s; the aim for the laptop Beethoven is {AIM:.0f} s")
        if not args.no_variations:
            print("replay under each variation")
            reader = None
            if (found.workspace / ".charforge").is_dir():
                reader = stack.enter_context(Reader(found.workspace / ".charforge"))
            recorded = (
                stack.enter_context(recording.verified(found.recording))
                if found.recording.is_file()
                else None
            )
            figures["variations"] = varied(found, Pieces(reader, recorded))
            same = all(row["bit_identical"] == row["stages"] for row in figures["variations"])
            print(f"  every output bit-identical under every variation: {'yes' if same else 'NO'}")
    if args.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
