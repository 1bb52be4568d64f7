"""The child processes here are small scripts of our own: none of them loads torch."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charforge.errors import CharForgeError
from charforge.models.process import run_job


@pytest.fixture
def job_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module that a child can run by name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(work: str) -> str:
        (tmp_path / "a_job.py").write_text(
            "import os, sys, time\n"
            "from charforge.errors import CharForgeError\n"
            "from charforge.models.process import serve_job\n"
            f"def work(job, progress):\n    {work}\n"
            "serve_job(work)\n"
        )
        return "a_job"

    return write


def run(module: str, job: dict | None = None, heard: list | None = None) -> dict:
    return asyncio.run(run_job(module, job or {}, (heard if heard is not None else []).append))


def test_a_job_gets_its_parameters_and_returns_its_result(job_module):
    heard: list = []
    module = job_module("progress({'step': 1}); progress({'step': 2}); return {'twice': job['n'] * 2}")
    assert run(module, {"n": 21}, heard) == {"twice": 42}
    assert heard == [{"step": 1}, {"step": 2}]


def test_what_a_job_prints_is_not_taken_for_protocol(job_module):
    assert run(job_module("print('noise'); os.system('echo noise'); return {}")) == {}


def test_a_jobs_own_error_arrives_whole(job_module):
    with pytest.raises(CharForgeError) as caught:
        run(job_module("raise CharForgeError('the loss is no number', 'lower the rate')"))
    assert caught.value.render() == "error: the loss is no number\nhint: lower the rate"


def test_a_crash_shows_the_end_of_stderr(job_module):
    with pytest.raises(CharForgeError) as caught:
        run(job_module("raise RuntimeError('no room')"))
    assert caught.value.message.startswith(
        "a_job exited with status 3:\nTraceback (most recent call last):\n"
    )
    assert caught.value.message.endswith("\nRuntimeError: no room")


def test_a_killed_job_says_by_what(job_module):
    with pytest.raises(CharForgeError) as caught:
        run(job_module("os.kill(os.getpid(), 9)"))
    assert caught.value.message == "a_job was killed by SIGKILL (out of memory?)"


def test_a_job_that_says_nothing_is_a_crash(job_module):
    with pytest.raises(CharForgeError, match=r"^a_job exited with status 0$"):
        run(job_module("os._exit(0)"))


def test_cancelling_kills_the_child(job_module):
    module = job_module("progress({'pid': os.getpid()}); time.sleep(60)")
    heard: list = []

    async def main() -> None:
        task = asyncio.create_task(run_job(module, {}, heard.append))
        while not heard:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(heard[0]["pid"], 0)


def test_the_working_folder_is_not_on_the_childs_path(job_module, tmp_path, monkeypatch):
    module = job_module("import json; return {'path': json.__file__}")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "json.py").write_text("raise RuntimeError('a stranger ran')")
    monkeypatch.chdir(workspace)
    assert "workspace" not in run(module)["path"]


PARENT = """
import asyncio, sys
from charforge.models.process import run_job
asyncio.run(run_job(sys.argv[1], {}, lambda progress: print(progress["pid"], flush=True)))
"""


def gone(pid: int) -> bool:
    """Say whether a process has ended, a zombie counting as ended."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_child_dies_with_its_parent(job_module, tmp_path):
    module = job_module("progress({'pid': os.getpid()}); time.sleep(60)")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            module,
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])},
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(500):
        if gone(child):
            return
        time.sleep(0.01)
    pytest.fail("the child outlived its parent")
