"""A receipt holds only while nothing it names has changed; any doubt means the full look."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from charforge.engine import receipt
from charforge.engine.receipt import Stamps

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture
def world(tmp_path):
    """Two inputs, one missing input, two kept files, and a receipt over them."""
    files = {name: tmp_path / name for name in ("spec.yaml", "profile.md", "object", "report.html")}
    for path in files.values():
        path.write_text(path.name)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    stamps = Stamps()
    # Files' change times cannot be set, so the clock is: the snapshot is taken an hour from now.
    later = time.time_ns() + 3600 * 10**9
    for name in ("spec.yaml", "profile.md"):
        stamps.add_input(files[name], files[name].stat(), later)
    stamps.add_missing(tmp_path / "override.j2")
    stamps.add_kept([files["object"], files["report.html"]])
    receipt.write(tmp_path / "receipts" / "eliza", "key", stamps, {"stages": 11})
    return tmp_path


def read(world, key="key"):
    return receipt.read(world / "receipts" / "eliza", key)


def test_while_nothing_changed_it_says_what_the_build_said(world):
    assert read(world) == {"stages": 11}


def test_another_key_means_the_full_look(world):
    assert read(world, "another") is None


@pytest.mark.parametrize("name", ["spec.yaml", "profile.md", "object", "report.html"])
def test_a_file_that_changed_means_the_full_look(world, name):
    (world / name).write_text("other")
    assert read(world) is None


@pytest.mark.parametrize("name", ["spec.yaml", "profile.md", "object", "report.html"])
def test_a_file_that_is_gone_means_the_full_look(world, name):
    (world / name).unlink()
    assert read(world) is None


def test_an_input_edited_to_the_same_size_and_time_is_noticed_by_its_change_time(world):
    path = world / "spec.yaml"
    path.write_text("SPEC.YAML")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert read(world) is None


@pytest.mark.parametrize("name", ["spec.yaml", "report.html"])
def test_a_file_replaced_by_another_of_the_same_size_and_time_is_noticed(world, name):
    other = world / "other"
    shutil.copy2(world / name, other)
    other.rename(world / name)
    os.utime(world / name, ns=(LONG_AGO, LONG_AGO))
    assert read(world) is None


def test_a_further_link_to_a_kept_file_is_no_change(world):
    os.link(world / "object", world / "tree")
    assert read(world) == {"stages": 11}


@pytest.mark.parametrize("how", ["file", "folder", "dangling link"])
def test_a_missing_file_that_appears_means_the_full_look(world, how):
    path = world / "override.j2"
    if how == "file":
        path.write_text("")
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert read(world) is None


@pytest.mark.parametrize("age_ns", [0, 10**6, -(10**6)])
def test_an_input_touched_within_the_clocks_grain_of_its_snapshot_is_never_trusted(tmp_path, age_ns):
    path = tmp_path / "spec.yaml"
    path.write_text("one")
    stamps = Stamps()
    status = path.stat()
    stamps.add_input(path, status, status.st_ctime_ns + age_ns)
    receipt.write(tmp_path / "receipt", "key", stamps, {})
    assert stamps.inputs == {str(path): None}
    assert receipt.read(tmp_path / "receipt", "key") is None


def test_an_input_older_than_the_grain_is_trusted(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("one")
    stamps = Stamps()
    stamps.add_input(path, path.stat(), path.stat().st_ctime_ns + 10**9)
    receipt.write(tmp_path / "receipt", "key", stamps, {"says": 1})
    assert receipt.read(tmp_path / "receipt", "key") == {"says": 1}


def test_no_receipt_means_the_full_look(tmp_path):
    assert receipt.read(tmp_path / "receipt", "key") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1, "key": "key"}',
        '{"format": 2, "key": "key", "inputs": {}, "kept": {}, "says": {}}',
        '{"format": 1, "key": "key", "inputs": [], "kept": {}, "says": {}}',
        '{"format": 1, "key": "key", "inputs": {"a": 1}, "kept": {}, "says": {}}',
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
)
def test_a_receipt_that_makes_no_sense_means_the_full_look(tmp_path, text):
    (tmp_path / "receipt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert receipt.read(tmp_path / "receipt", "key") is None


def test_a_receipt_cut_anywhere_means_the_full_look(world):
    path = world / "receipts" / "eliza"
    whole = path.read_bytes()
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        assert read(world) is None
    path.write_bytes(whole)
    assert read(world) == {"stages": 11}


def test_a_receipt_that_cannot_be_written_is_no_harm(tmp_path):
    (tmp_path / "receipts").write_text("a file in the way")
    receipt.write(tmp_path / "receipts" / "eliza", "key", Stamps(), {})
    assert receipt.read(tmp_path / "receipts" / "eliza", "key") is None


def test_writing_leaves_one_file(world):
    assert [path.name for path in (world / "receipts").iterdir()] == ["eliza"]
    assert set(json.loads((world / "receipts" / "eliza").read_text())) == {
        "format",
        "key",
        "inputs",
        "kept",
        "says",
    }
