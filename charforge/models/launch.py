"""`python -m charforge.models.launch`: one training job on several processes of this machine, and on other machines with it.

Starting, watching and ending the processes is torchrun's work (`torch.distributed.launcher`, torchrun's own Python interface);
here stand only what goes in and what comes out. The job is train.py's, with

    "world": {"processes": on this machine, "nodes": machines, "node_rank": which of them this is, "rendezvous": "host:port" or null}

On the first machine (node_rank 0) it is the whole job; what it says reaches the others from its first process (world.py). On
another machine it is only {"world": …, "kept": folder for its checkpoints}, and the result is {}.

The processes read the job from stdin, which is a file that has no name; the first one writes its progress and the result to
stdout. Each dies with this process, and this one with its parent. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from charforge.errors import CharForgeError
from charforge.models.process import PARENT, available_cpus, serve_job

MEMBER = "charforge.models.train"
"""What each process runs, with `--member`."""
_PATIENCE = 900
"""Seconds that machines wait for each other at the start: people start them by hand, one after the other."""

Progress = Callable[[dict[str, Any]], None]


def launch(job: dict[str, Any], progress: Progress, *, member: str = MEMBER) -> dict[str, Any]:
    """Run the job on all its processes; returns the first process's result ({} on a machine that joined).

    One CharForgeError where any of them fails: the one that a process raised, else how the first of them ended. To be called
    from the main thread (torchrun handles signals) of a process that has no use for its stdin and stdout.
    """
    world = job["world"]
    result: dict[str, Any] = {}
    if world["nodes"] > 1:
        progress({"told": f"meeting the other machines at {world['rendezvous']}, {world['nodes']} in all"})

    def relay(pipe: int) -> None:
        with os.fdopen(pipe, encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                else:
                    result.update(message["result"])

    # What torchrun starts inherits these. The parent check needs our number, and a folder of a stranger's is no place to import from.
    os.environ |= {PARENT: str(os.getpid()), "PYTHONSAFEPATH": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // world["processes"])))
    # cuBLAS repeats its results only with a workspace of a fixed size, and reads this once, when it is loaded.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory(prefix="charforge-") as folder, tempfile.TemporaryFile() as text:
        text.write(json.dumps(job).encode())
        text.flush()
        os.dup2(text.fileno(), 0)
        reading, writing = os.pipe()
        stdout = os.dup(1)
        os.dup2(writing, 1)
        os.close(writing)
        listener = threading.Thread(target=relay, args=(reading,))
        listener.start()
        try:
            elastic_launch(_config(world, folder), sys.executable)("-m", member, "--member")
        except ChildFailedError as error:
            raise _told(error.failures, world["nodes"]) from None
        except (TimeoutError, RuntimeError) as error:
            if world["nodes"] == 1:
                raise
            # Of all torch's classes for it none is public: a store that cannot be reached is a RuntimeError.
            raise CharForgeError(
                f"the {world['nodes']} machines did not find each other at {world['rendezvous']}: {error}",
                "start `charforge build` there and `charforge join` on every other machine, with the same --nodes",
            ) from None
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
            listener.join()
    return result


def _config(world: dict[str, Any], folder: str) -> LaunchConfig:
    logs = DefaultLogsSpecs(log_dir=folder)
    common: dict[str, Any] = {"nproc_per_node": world["processes"], "max_restarts": 0, "logs_specs": logs}
    if world["nodes"] == 1:
        return LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            run_id="charforge",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            **common,
        )
    # Not c10d: that numbers the machines as it likes, and the first process has to be where the files are.
    return LaunchConfig(
        min_nodes=world["nodes"],
        max_nodes=world["nodes"],
        run_id="charforge",
        rdzv_backend="static",
        rdzv_endpoint=world["rendezvous"],
        rdzv_configs={"rank": world["node_rank"], "timeout": _PATIENCE},
        **common,
    )


def _told(failures: dict[int, ProcessFailure], nodes: int) -> CharForgeError:
    """Return the one error to show. Where one process fails, the others fail because they no longer hear from it."""
    ranked = sorted(failures.items())
    for _, failure in ranked:
        if "told" in failure.error_file_data:
            return CharForgeError(failure.error_file_data["told"], failure.error_file_data["hint"])
    for rank, failure in ranked:
        # SIGTERM is torchrun's, for those that are left.
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            name = signal.Signals(-failure.exitcode).name
            memory = " (out of memory?)" if name == "SIGKILL" else ""
            return CharForgeError(
                f"training process {rank} was killed by {name}{memory}",
                "checkpoints are kept: build again to go on from the last one",
            )
    # Who was first: the others wrote theirs after it had closed its connections.
    rank, failure = min(ranked, key=lambda pair: pair[1].error_file_data.get("at", float("inf")))
    ending = failure.message if "at" in failure.error_file_data else f"status {failure.exitcode}"
    hint = "if it lost another machine, that one says why; checkpoints are kept" if nodes > 1 else None
    return CharForgeError(f"training process {rank} failed: {ending}", hint)


if __name__ == "__main__":
    serve_job(launch)
