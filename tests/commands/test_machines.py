"""Which processes train, by the command line."""

from __future__ import annotations

import pytest

from charforge.cli import parser
from charforge.commands import machines
from charforge.errors import UsageError


def world(*options):
    return machines.of_build(parser().parse_args(["build", "eliza", *options]))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machines, "_GPUS", tmp_path / "none")


def test_one_process_needs_nobody():
    assert world() is None
    assert world("--processes", "1") is None


def test_one_process_for_each_gpu(monkeypatch, tmp_path):
    for number in range(3):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(machines, "_GPUS", tmp_path / "gpus")
    assert world()["processes"] == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert world() == {"processes": 2, "nodes": 1, "node_rank": 0, "rendezvous": None}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert world() is None


def test_several_machines_meet_at_the_builds():
    assert world("--nodes", "2", "--rendezvous", "node0:29500") == {
        "processes": 1,
        "nodes": 2,
        "node_rank": 0,
        "rendezvous": "node0:29500",
    }


@pytest.mark.parametrize(
    "options",
    [
        ("--nodes", "2"),
        ("--rendezvous", "node0:29500"),
        ("--nodes", "2", "--rendezvous", "node0"),
        ("--nodes", "2", "--rendezvous", "node0:99999"),
        ("--nodes", "2", "--rendezvous", ":1"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(options):
    with pytest.raises(UsageError):
        world(*options)


@pytest.mark.parametrize(
    "options", [("--nodes", "1"), ("--node-rank", "2"), ("--nodes", "3", "--node-rank", "3")]
)
def test_a_machine_that_joins_has_a_number_of_its_own(run, options):
    status, _, err = run("join", "node0:29500", *options)
    assert status == 2
    assert "--node-rank" in err
