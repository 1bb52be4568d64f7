"""How fast the audit reads a store, held against sha256sum on the same bytes with both cores in use.

    python bench/audit_integrity.py            10 GB, in a temporary folder (TMPDIR), removed at the end
    python bench/audit_integrity.py --gb 1

The store is a real one: stages with folders of large files as trainings leave them, records, and calls, all reached by a lock. All sides read the
same files in turn, several times each after a first reading that warms the page cache; medians are compared. openssl is measured too, where it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from charforge.audit.finding import BIT_IDENTICAL
from charforge.audit.integrity import integrity
from charforge.audit.pieces import Pieces
from charforge.engine import lock
from charforge.engine.digest import Action, canonical
from charforge.engine.reader import Reader
from charforge.engine.store import Store
from charforge.workshop import environment

MODEL_BYTES = 1_000_000_000
SHARDS = (0.45, 0.45, 0.1)
"""Of a model's weights: two large files, and one that is not."""
CALLS = 2_000


def build(root: Path, size: int) -> lock.Lock:
    """Make a store of that many bytes, and return the lock that reaches all of it."""
    chance = random.Random(0)
    block = chance.randbytes(8 << 20)
    traces = {}
    with Store(root / ".charforge") as store:
        for number in range(max(1, round(size / MODEL_BYTES))):
            folder = root / "weights"
            folder.mkdir()
            for shard, share in enumerate(SHARDS):
                with (folder / f"model-{shard}.safetensors").open("wb") as file:
                    file.write(f"{number} {shard}".encode())
                    for _ in range(int(share * MODEL_BYTES / len(block))):
                        file.write(block)
            action = Action(f"model{number}", 1, {}, {})
            store.record(action, store.pack({"weights/": folder}), {}).result()
            shutil.rmtree(folder)
            traces[action.kind] = store.observations(action.digest)[0]
        calls = [
            Action("call", 1, {"model": "openai/m", "weights": None, "draw": draw}, {})
            for draw in range(CALLS)
        ]
        for call in calls:
            reply = canonical({"text": chance.randbytes(300).hex(), "finish_reason": "stop"})
            written = store.record(call, store.pack({"reply": reply}), {"stage": "ada/scenes"})
        written.result()
        noted = store.pack({"calls": canonical(sorted(call.digest for call in calls))})
        packed = store.pack({"scenes.jsonl": b'{"id":1}\n' * 100_000})
        packed.inline |= noted.inline
        scenes = Action("scenes", 1, {}, {})
        used = {"calls": CALLS, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, "unpriced": CALLS}
        record = {"calls": noted.outputs["calls"], "usage": {"openai/m": used}}
        store.record(scenes, packed, record).result()
        traces["scenes"] = store.observations(scenes.digest)[0]
        return lock.collect(store, "ada", traces)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=10, help="size of the store (default: 10)")
    parser.add_argument("--runs", type=int, default=3, help="how often each side reads it (default: 3)")
    args = parser.parse_args()
    size = int(args.gb * 1e9)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="charforge-bench-") as name:
        root = Path(name)
        if shutil.disk_usage(root).free < size + 2 * MODEL_BYTES:
            raise SystemExit(f"not enough room in {root}")
        said = build(root, size)
        objects = root / ".charforge" / "objects"
        bytes_ = sum(path.stat().st_size for path in objects.rglob("*") if path.is_file())

        def audit() -> None:
            with Reader(root / ".charforge") as reader:
                level = integrity(said, Pieces(reader))
            assert level.verdict == BIT_IDENTICAL, level.data()
            assert level.facts["bytes"] > bytes_ - 1_000_000  # lists of calls are not counted

        def program(*words: str) -> None:
            found = subprocess.run(
                ["find", str(objects), "-type", "f", "-print0"], capture_output=True, check=True
            )
            command = ["xargs", "-0", "-n", "1", "-P", str(cores), *words]
            subprocess.run(command, input=found.stdout, stdout=subprocess.DEVNULL, check=True)

        sides: dict[str, Callable[[], None]] = {"integrity": audit, "sha256sum": lambda: program("sha256sum")}
        if shutil.which("openssl"):  # which asks the processor for what sha256sum does by itself
            sides["openssl"] = lambda: program("openssl", "dgst", "-sha256", "-r")
        audit()  # warms the page cache, as far as memory goes, for all
        seconds: dict[str, list[float]] = {who: [] for who in sides}
        for _ in range(args.runs):
            for who, work in sides.items():
                seconds[who].append(timed(work))
    machine = environment()
    print(f"{machine['processor']}, {cores} cores, {platform.platform()}, Python {machine['python']}")
    print(
        f"{bytes_ / 1e9:.2f} GB in {len(said.stages)} stages, {CALLS:,} replies; page cache warmed for all first"
    )
    ours = statistics.median(seconds["integrity"])
    for who, took in seconds.items():
        middle = statistics.median(took)
        ratio = "" if who == "integrity" else f", so integrity has {middle / ours:.2f} of its speed"
        each = ", ".join(f"{one:.2f}" for one in took)
        print(f"{who}: {middle:.2f} s ({each}), {bytes_ / middle / 1e9:.2f} GB/s{ratio}")


if __name__ == "__main__":
    main()
