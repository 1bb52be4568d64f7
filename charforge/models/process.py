"""Both ends of talking to a child process that does heavy work with torch: start it, feed it, read it, end it.

A child runs in the same interpreter on the same code, reads JSON from stdin, writes JSON lines to stdout and nothing else there, and
dies with its parent. Knows nothing of models; imports no torch, so that the parent stays light.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import charforge
from charforge.errors import CharForgeError

PARENT = "CHARFORGE_PARENT"
"""The environment variable that names the process a child must not outlive."""
_LINE_LIMIT = 1 << 26
"""Bytes one protocol line may have; asyncio's default of 64 KiB is less than a long reply."""
_STDERR_LINES = 20


_THREADS = {"GOMP_SPINCOUNT": "20000"}
"""Threads that wait for each other spin for a moment (a fraction of a millisecond), then sleep. Measured on two cores: never
spinning writes a fifth to a third fewer tokens a second in small batches; always spinning, the default, takes 5 to 10 times
as long for a small matrix product where other programs want the cores too."""


_SOURCE = str(Path(charforge.__file__).resolve().parents[1])


# -- the parent's end


async def start_child(module: str, *, offline: bool = False) -> asyncio.subprocess.Process:
    """Start `python -m module` with pipes on all three streams.

    The working folder is kept off the child's import path (-P): a workspace is a stranger's, and a file called torch.py
    in it must not run. The folder this package came from is on it, so the child runs the parent's code.
    """
    paths = [_SOURCE]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    env = (
        _THREADS
        | os.environ
        | {
            PARENT: str(os.getpid()),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUTF8": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        # Read when huggingface_hub is imported: what is in the local cache does, and the network is left alone.
        | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        limit=_LINE_LIMIT,
        # Ctrl-C reaches the whole terminal group: the parent alone decides what becomes of the child.
        start_new_session=True,
    )


async def keep_tail(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end and return its last lines."""
    lines: deque[str] = deque(maxlen=_STDERR_LINES)
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # one line longer than the limit: what is left of it comes next
            continue
        if not line:
            return "\n".join(lines)
        if text := line.decode(errors="replace").rstrip():
            lines.append(text)


async def end_child(process: asyncio.subprocess.Process, patience: float = 0.0) -> None:
    """Close the child's stdin, give it `patience` seconds to exit, then kill it; returns when it is gone."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None and patience:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


def describe_exit(process: asyncio.subprocess.Process) -> str:
    """Return how an ended child ended, for an error message."""
    code = process.returncode or 0
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


async def run_job(
    module: str, job: dict[str, Any], on_progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run `module` as a child with `job` on its stdin and return its result; its progress goes to `on_progress`.

    With a true `offline` in the job it fetches nothing from a hub.

    Raises CharForgeError with the job's own error, or with the end of its stderr where it crashed. The child is killed
    when the caller is cancelled.
    """
    process = await start_child(module, offline=bool(job.get("offline")))
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    tail = asyncio.create_task(keep_tail(process.stderr))
    result: dict[str, Any] | None = None
    failure: CharForgeError | None = None
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(json.dumps(job).encode())
            await process.stdin.drain()
        process.stdin.close()
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "progress" in message:
                on_progress(message["progress"])
            elif "error" in message:
                failure = CharForgeError(message["error"], message.get("hint"))
            else:
                result = message["result"]
        await process.wait()
        stderr = await tail
    finally:
        tail.cancel()
        await end_child(process)
    if failure is not None:
        raise failure
    if result is None or process.returncode != 0:
        raise CharForgeError(f"{module} {describe_exit(process)}" + (f":\n{stderr}" if stderr else ""))
    return result


# -- the child's end


def die_with_parent() -> None:
    """Arrange to be killed when the parent process dies (Linux; elsewhere the end of stdin has to do).

    The kernel watches the parent's thread that started us: start children from a thread that lives as long as they should.
    """
    parent = os.environ.get(PARENT)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent is not None and os.getppid() != int(parent):
        sys.exit("the parent process is gone")


def claim_stdout() -> IO[str]:
    """Return the real stdout for the protocol; whatever else is printed from now on goes to stderr."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return protocol


def available_cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve_job(work: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]) -> None:
    """The child's main for `run_job`: read the job, call `work(job, progress)`, write what it returns, exit."""
    protocol = claim_stdout()
    die_with_parent()

    def send(message: dict[str, Any]) -> None:
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    try:
        result = work(json.load(sys.stdin), lambda progress: send({"progress": progress}))
    except CharForgeError as error:
        send({"error": error.message, "hint": error.hint})
        sys.exit(1)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        sys.exit(3)
    send({"result": result})
