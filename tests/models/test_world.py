"""Training by several processes: gloo on the processor, one thread each, the two-layer Llama of conftest.

A run with two processes is started three times (whole; killed and gone on; as two machines) and has to give the same bytes each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from charforge.dialogue import Turn, render_output, render_prompt
from charforge.errors import CharForgeError
from charforge.models import launch as launching
from charforge.models.process import run_job
from charforge.models.rows import Row, pack
from charforge.models.samples import Sample
from charforge.models.train import train
from charforge.models.world import World

SETTINGS = {
    "method": "full",
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 3,
    "gradient_accumulation": 1,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.1,
    "betas": [0.9, 0.95],
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "tf32": False,
    "gradient_checkpointing": "auto",
    # Three samples of a step are two rows for one process, and one and an empty one for the other.
    "packing": False,
    "context_length": 256,
    "loss": "character",
    "held_out": 0.2,
    "keep": "best",
    "max_samples": None,
    "seed": 0,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "merge": False},
}
TWO = {"processes": 2, "nodes": 1, "node_rank": 0, "rendezvous": None}


def record(number: int) -> dict:
    turns = [
        Turn("Man", "speaking", "Will you play for us tonight?"),
        Turn("Beethoven", "thinking", "The prince wants a clown."),
        Turn("Beethoven", "speaking", "I do not play " + "for officers " * (number % 4) + "tonight."),
    ]
    return {
        "prompt": render_prompt("I want you to act like Beethoven.", "Vienna", "a salon"),
        "output": render_output(turns),
        "kind": "dialogue",
        "source": {"id": f"d{number}", "origin": "written", "part": 1, "paragraphs": ["p1"]},
    }


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    """Return what makes a job that trains in a folder."""
    sft = tmp_path_factory.mktemp("data") / "sft.jsonl"
    # Of 13 samples 3 are held out: the last of an epoch's four steps has one sample, and one process none.
    sft.write_text("".join(json.dumps(record(number)) + "\n" for number in range(13)))

    def make(folder: Path, **train: object) -> dict:
        return {
            "base": str(tiny),
            "base_name": "embedded/tiny",
            "sft": str(sft),
            "out": str(folder / "model"),
            "kept": str(folder / "kept"),
            "keep_checkpoints": 2,
            "character": "Beethoven",
            "train": SETTINGS | train,
            "checkpoint_every_steps": 2,
        }

    return make


def run(job: dict, told: list | None = None, module: str = "charforge.models.launch") -> dict:
    return asyncio.run(run_job(module, job, (told if told is not None else []).append))


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = [*sorted((folder / "model").iterdir()), folder / "train_log.jsonl", folder / "train_summary.json"]
    return {path.name: path.read_bytes() for path in files}


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pair(job, tmp_path_factory):
    """The folder of an unbroken run with two processes."""
    folder = tmp_path_factory.mktemp("pair")
    done = run(job(folder) | {"world": TWO})
    assert (done["processes"], done["resumed_at_step"]) == (2, 0)
    return folder


def test_two_processes_train_what_one_does(job, pair, tmp_path):
    """Within rounding: float32 gradients are added in another order, and AdamW makes steps of equal size of small differences."""
    train(job(tmp_path), lambda _: None)
    ours, theirs = log(pair), log(tmp_path)
    for name in ("step", "epoch", "tokens", "learning_rate"):
        assert [line[name] for line in ours] == [line[name] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, pair))
    assert one.keys() == two.keys()
    for name in one:
        # Saved as bfloat16, whose neighbours are 2^-8 apart: some weights round to the other side.
        torch.testing.assert_close(two[name], one[name], rtol=2**-7, atol=1e-3)
    summaries = [json.loads((folder / "train_summary.json").read_text()) for folder in (tmp_path, pair)]
    measured = [
        [summary["base_loss"], *(epoch["held_out_loss"] for epoch in summary["epochs"])]
        for summary in summaries
    ]
    assert measured[1] == pytest.approx(measured[0], rel=1e-4)
    assert {name: summaries[0][name] for name in ("samples", "tokens", "steps", "held_out", "rows")} == {
        name: summaries[1][name] for name in ("samples", "tokens", "steps", "held_out", "rows")
    }


def test_an_adapter_is_trained_in_parts_too(job, tmp_path):
    settings = {"method": "lora", "epochs": 1, "keep": "last", "packing": True}
    done = run(job(tmp_path / "two", **settings) | {"world": TWO, "kept": None})
    assert done["processes"] == 2
    train(job(tmp_path / "one", **settings) | {"kept": None}, lambda _: None)
    losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    one, two = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2**-7, atol=1e-3)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write `a_launch`, a job whose processes run the given script."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "a_launch.py").write_text(
        "from charforge.models.launch import launch\n"
        "from charforge.models.process import serve_job\n"
        "serve_job(lambda job, progress: launch(job, progress, member='a_member'))\n"
    )

    def write(script: str) -> str:
        (tmp_path / "a_member.py").write_text(script)
        return "a_launch"

    return write


DIES = """
import os
from charforge.models import train
from charforge.models.world import serve_member

def work(job, progress, world):
    save = train.checkpoint.save
    def dying(folder, name, step, *rest, **named):
        if (world.rank, step) == (1, 6):
            os.kill(os.getpid(), 9)
        return save(folder, name, step, *rest, **named)
    train.checkpoint.save = dying
    return train.train(job, progress, world)

serve_member(work)
"""


def test_a_run_that_lost_a_process_goes_on_and_ends_with_the_same_bytes(job, pair, module, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(CharForgeError) as caught:
        run(job(folder) | {"world": TWO}, module=module(DIES))
    assert caught.value.render() == (
        "error: training process 1 was killed by SIGKILL (out of memory?)\n"
        "hint: checkpoints are kept: build again to go on from the last one"
    )
    # The first process may have saved step 6 before it noticed: only what all of them hold counts.
    assert (folder / "kept" / "1-of-2" / "step-00000004").is_dir()
    told: list = []
    assert run(job(folder) | {"world": TWO}, told)["resumed_at_step"] == 4
    assert {"told": "going on from the checkpoint of step 4 of 8"} in told
    assert bytes_of(folder) == bytes_of(pair)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_machines_that_share_no_files_do_what_two_processes_do(job, pair, tmp_path):
    def machine(rank: int) -> dict:
        return {"processes": 1, "nodes": 2, "node_rank": rank, "rendezvous": f"127.0.0.1:{port}"}

    async def both() -> list[dict]:
        # The second knows the rendezvous and a folder of its own, and nothing of the job.
        joined = {"world": machine(1), "kept": str(tmp_path / "joined")}
        first = job(tmp_path / "first") | {"world": machine(0)}
        return await asyncio.gather(
            *(run_job("charforge.models.launch", each, lambda _: None) for each in (first, joined))
        )

    port = free_port()
    done, nothing = asyncio.run(both())
    assert (done["processes"], nothing) == (2, {})
    assert bytes_of(tmp_path / "first") == bytes_of(pair)
    assert [path.name for path in (tmp_path / "first" / "kept").iterdir()] == ["0-of-2"]
    assert [path.name for path in (tmp_path / "joined" / "kept").iterdir()] == ["1-of-2"]


def test_another_number_of_processes_begins_anew_and_says_so(job, tmp_path):
    (tmp_path / "kept" / "0-of-2" / "step-00000002").mkdir(parents=True)
    told: list = []
    done = train(job(tmp_path, epochs=1, keep="last"), told.append)
    assert done["resumed_at_step"] == 0
    line = "the checkpoints there are another number of processes' (1 now): training begins anew"
    assert {"told": line} in told


# -- processes without torch, so that they start at once

TALKS = """
import json, os, sys, time
from charforge.models.process import claim_stdout, die_with_parent
protocol = claim_stdout()
die_with_parent()
job = json.loads(os.pread(0, os.fstat(0).st_size, 0))
print("noise")
"""


def test_the_first_process_speaks_for_all(module):
    told: list = []
    script = TALKS + (
        "if os.environ['RANK'] == '0':\n"
        "    print(json.dumps({'progress': {'step': 1}}), file=protocol)\n"
        "    print(json.dumps({'result': {'twice': 2 * job['n'], 'of': os.environ['WORLD_SIZE']}}), file=protocol)\n"
    )
    assert run({"n": 21, "world": TWO}, told, module(script)) == {"twice": 42, "of": "2"}
    assert told == [{"step": 1}]


def test_a_machine_that_finds_nobody_says_where_it_looked(module, tmp_path):
    name = module("")
    script = (tmp_path / "a_launch.py").read_text()
    (tmp_path / "a_launch.py").write_text(
        script.replace("serve_job(", "import charforge.models.launch as l; l._PATIENCE = 1\nserve_job(", 1)
    )
    meeting = f"127.0.0.1:{free_port()}"
    heard: list = []
    with pytest.raises(CharForgeError) as caught:
        run({"world": TWO | {"nodes": 2, "node_rank": 1, "rendezvous": meeting}}, heard, name)
    assert caught.value.message.startswith(f"the 2 machines did not find each other at {meeting}: ")
    assert caught.value.hint == (
        "start `charforge build` there and `charforge join` on every other machine, with the same --nodes"
    )
    assert heard == [{"told": f"meeting the other machines at {meeting}, 2 in all"}]


PARENT = """
import asyncio, sys
from charforge.models.process import run_job
world = {"processes": 2, "nodes": 1, "node_rank": 0, "rendezvous": None}
asyncio.run(run_job("a_launch", {"world": world}, lambda progress: print(*progress["pids"], flush=True)))
"""


def gone(pid: int) -> bool:
    """Say whether a process has ended, a zombie counting as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
@pytest.mark.parametrize("killed", ["the build", "the launcher"])
def test_nothing_outlives_the_build(module, tmp_path, killed):
    module(
        TALKS + f"place = {str(tmp_path)!r} + '/pid' + os.environ['RANK']\n"
        "open(place + '.part', 'w').write(str(os.getpid())); os.rename(place + '.part', place)\n"
        "other = place[:-1] + '1'\n"
        "if os.environ['RANK'] == '0':\n"
        "    while not os.path.exists(other): time.sleep(0.01)\n"
        "    print(json.dumps({'progress': {'pids': [os.getppid(), os.getpid(), int(open(other).read())]}}), file=protocol)\n"
        "time.sleep(60)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    build = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": paths},
        text=True,
    )
    assert build.stdout is not None
    launcher, *members = (int(pid) for pid in build.stdout.readline().split())
    os.kill(build.pid if killed == "the build" else launcher, signal.SIGKILL)
    build.wait()
    build.stdout.close()
    for _ in range(500):
        if all(gone(pid) for pid in (launcher, *members)):
            return
        time.sleep(0.01)
    pytest.fail("a process outlived the build")


# -- one error for all of them


def failure(folder: Path, rank: int, code: int, note: dict | None = None) -> ProcessFailure:
    file = folder / f"{rank}.json"
    if note is not None:
        file.write_text(json.dumps(note | {"timestamp": 1}))
    return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file=str(file))


def told(*failures: ProcessFailure, nodes: int = 1) -> str:
    return launching._told({each.local_rank: each for each in failures}, nodes).render()


def test_an_error_of_every_process_is_said_once(tmp_path):
    note = {"message": "too long", "told": "too long", "hint": "cut it", "at": 1.5}
    assert told(failure(tmp_path, 0, 1, note), failure(tmp_path, 1, 1, note)) == (
        "error: too long\nhint: cut it"
    )


def test_who_was_killed_is_named_and_not_who_noticed(tmp_path):
    noticed = {"message": "RuntimeError: Connection closed by peer", "at": 1.0}
    assert told(failure(tmp_path, 0, 1, noticed), failure(tmp_path, 1, -9)) == (
        "error: training process 1 was killed by SIGKILL (out of memory?)\n"
        "hint: checkpoints are kept: build again to go on from the last one"
    )


def test_of_two_crashes_the_first_counts(tmp_path):
    crashed, noticed = {"message": "KeyError: 'x'", "at": 1.0}, {"message": "RuntimeError: closed", "at": 1.2}
    failures = failure(tmp_path, 0, 1, noticed), failure(tmp_path, 1, 1, crashed)
    assert told(*failures) == "error: training process 1 failed: KeyError: 'x'"
    assert told(*failures, nodes=2) == (
        "error: training process 1 failed: KeyError: 'x'\n"
        "hint: if it lost another machine, that one says why; checkpoints are kept"
    )


def test_four_bit_weights_are_for_one_process(job, tmp_path):
    several = World(0, 2, 0, 2, torch.device("cpu"))
    with pytest.raises(CharForgeError) as caught:
        train(job(tmp_path, method="qlora"), lambda _: None, several)
    assert caught.value.render() == (
        "error: train.method: qlora trains in one process: weights in 4 bits are not cut into parts here\n"
        "hint: use lora, or --processes 1"
    )


# -- who gets what


def sample(length: int) -> Sample:
    return Sample("s", 1, tuple(range(length)), (1,))


@given(st.lists(st.integers(2, 90), max_size=20), st.integers(1, 5))
def test_every_sample_has_one_process(lengths, size):
    samples = [sample(length) for length in lengths]
    worlds = [World(rank, size, rank, size, torch.device("cpu")) for rank in range(size)]
    shares = worlds[0].shares(samples)
    assert sorted(len(each.ids) for share in shares for each in share) == sorted(lengths)
    loads = [sum(len(each.ids) for each in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    assert all(world.shares(samples) == shares for world in worlds)


@given(st.lists(st.integers(2, 90), min_size=1, max_size=20), st.integers(1, 5))
def test_every_process_has_as_many_rows_and_each_sample_counts_once(lengths, size):
    samples = [sample(length) for length in lengths]
    worlds = [World(rank, size, rank, size, torch.device("cpu")) for rank in range(size)]
    rows = [world.rows(samples, lambda some: pack(some, 100, packing=True)) for world in worlds]
    assert len({len(each) for each, _ in rows}) == 1
    counted = [length for each, count in rows for row in each[:count] for length in row.lengths]
    assert sorted(counted) == sorted(lengths)
    assert all(row == Row((0, 0), (2,), (1,), ()) for each, count in rows for row in each[count:])


def test_alone_there_is_nobody_to_ask():
    world = World.alone()
    assert (world.agree({"a": 1}), world.gather(2), float(world.sum(torch.tensor(3.0)))) == (
        {"a": 1},
        [2],
        3.0,
    )
    samples = [sample(5), sample(9)]
    assert world.shares(samples) == [samples]
