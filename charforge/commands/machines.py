"""Which processes of which machines train a model, by the command line; and `charforge join`, for every machine but the first."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from charforge.errors import UsageError

_GPUS = Path("/proc/driver/nvidia/gpus")


def of_build(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the world that a build trains in, as charforge.models.launch takes it; None for one process here."""
    if args.nodes > 1 and args.rendezvous is None:
        raise UsageError(
            f"--nodes {args.nodes} needs --rendezvous", "the address of this machine, such as node0:29500"
        )
    if args.nodes == 1 and args.rendezvous is not None:
        raise UsageError("--rendezvous needs --nodes", "how many machines train together, this one included")
    return _world(args, 0)


def run_join(args: argparse.Namespace) -> int:
    """Train what a build on another machine trains, until it is done."""
    import asyncio

    import platformdirs

    from charforge.models.process import run_job
    from charforge.workshop import progress_note

    if args.nodes < 2 or args.node_rank >= args.nodes:
        raise UsageError(
            f"--nodes {args.nodes} and --node-rank {args.node_rank} do not fit",
            "--nodes counts all machines; --node-rank goes from 1 up to one less",
        )
    # What this machine can go on from after a kill lies here; the build's own machine has it in its store.
    where = hashlib.sha256(f"{args.rendezvous} {args.nodes} {args.node_rank}".encode()).hexdigest()[:16]
    kept = Path(platformdirs.user_cache_dir("charforge")) / "joined" / where
    job = {"world": _world(args, args.node_rank), "kept": str(kept)}

    def heard(message: dict[str, Any]) -> None:
        if note := message.get("told") or progress_note(message):
            print(note, file=sys.stderr, flush=True)

    asyncio.run(run_job("charforge.models.launch", job, heard))
    print(f"trained with {args.rendezvous}; the model is there")
    return 0


def _world(args: argparse.Namespace, rank: int) -> dict[str, Any] | None:
    if args.rendezvous is not None:
        host, colon, port = args.rendezvous.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(
                f"--rendezvous: expected HOST:PORT, got {args.rendezvous!r}", "such as node0:29500"
            )
    processes = args.processes or max(1, _gpus())
    if processes == 1 and args.nodes == 1:
        return None
    return {
        "processes": processes,
        "nodes": args.nodes,
        "node_rank": rank,
        "rendezvous": args.rendezvous,
    }


def _gpus() -> int:
    """Return how many GPUs there are, without torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([each for each in visible.split(",") if each.strip() not in {"", "-1"}])
    return len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
