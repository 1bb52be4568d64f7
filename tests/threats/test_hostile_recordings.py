"""A recording that wants memory, time, or a place on this disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from charforge import recorded, recording
from charforge.errors import FileProblems

HEADER = b'{"character":"ada","charforge_recording":2,"count":1,"root":"' + b"0" * 64 + b'","stages":0}\n'


def test_a_line_of_nothing_but_brackets_takes_no_memory(tmp_path):
    """30 MB of them pack into 3 kB, and would become a gigabyte of lists."""
    path = tmp_path / "ada.jsonl.zst"
    path.write_bytes(recording.zstd.compress(HEADER + b'{"a":[' + b"[]," * 10_000_000 + b"[]]}\n"))
    code = (
        "import sys; from pathlib import Path\nfrom charforge import recording\nfrom charforge.errors import FileProblems\n"
        "try:\n    with recording.verified(Path(sys.argv[1])): pass\n"
        "except FileProblems as error: print(error.problems[0].message)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)),
    )
    assert ran.stdout == "more than 500,000 values\n"


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "ada.jsonl"
    os.mkfifo(path)
    with pytest.raises(FileProblems, match=r"1 problem") as raised, recording.verified(path):
        pass
    assert raised.value.problems[0].message == "not a regular file"


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../b",
        "C:\\x",
        "a\\..\\b",
        "",
        ".",
        "..",
        "a//b",
        "a/",
        "\x1b[2J",
        "a\0b",
        "\u202ea",
    ],
    ids=ascii,
)
def test_no_file_of_a_tree_leads_out(name):
    line = {
        "action": {"inputs": {}, "kind": "model", "params": {}, "version": 1},
        "digest": "0" * 64,
        "outputs": {"weights/": {"digest": "a" * 64, "tree": {name: {"digest": "a" * 64, "size": 1}}}},
        "record": {},
    }
    assert (
        recorded.observed_problem(line)
        == "weights/: the tree does not say path, digest and size of its files"
    )


@pytest.mark.parametrize(
    "name",
    ["../weights/", "/weights/", "a/b/", "C:\\x/", "weights.bin\0", ".hidden/", "W/", "..", "."],
    ids=ascii,
)
def test_no_output_of_a_stage_leads_out(name):
    line = {
        "action": {"inputs": {}, "kind": "model", "params": {}, "version": 1},
        "digest": "0" * 64,
        "outputs": {name: {"digest": "a" * 64}},
        "record": {},
    }
    assert recorded.observed_problem(line) == "the outputs are not named as outputs are"


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b'"count":1', b'"count":9007199254740992'),
        (b'"stages":0', b'"stages":1e400'),
        (b'"ada"', b'"\\ud800"'),
        (b'"count":1', b'"count":' + b"9" * 5_000),
    ],
)
def test_a_first_line_with_what_no_canonical_json_holds_is_told(tmp_path, part, instead):
    """Found by the fuzzer: the first line was written again to compare it, and that failed."""
    path = tmp_path / "ada.jsonl"
    path.write_bytes(HEADER.replace(part, instead))
    with pytest.raises(FileProblems) as raised, recording.verified(path):
        pass
    assert len(raised.value.problems) == 1
