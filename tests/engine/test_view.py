"""The view shows the current artifacts; it is never a way into the store."""

from __future__ import annotations

import os
import textwrap

import pytest

from charforge.engine import view
from charforge.engine.digest import Action, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.store import INLINE_LIMIT

LARGE = b"L" * (INLINE_LIMIT + 1)


@pytest.fixture
def store(yard):
    with yard.open() as store:
        yield store


@pytest.fixture
def folder(quick_path):
    return quick_path / "build" / "eliza"


def keep(store, **outputs):
    packed = store.pack({name.replace("_", "."): value for name, value in outputs.items()})
    store.record(Action("a", 1, {}, {"x": of_bytes(repr(outputs).encode())}), packed, {}).result()
    return packed.outputs


def tree(store, quick_path, files):
    folder = quick_path / "weights"
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    packed = store.pack({"weights/": folder})
    store.record(Action("t", 1, {}, {"x": of_bytes(repr(files).encode())}), packed, {}).result()
    return packed.outputs["weights/"]


def shown(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_files_and_trees_appear_under_their_human_names(store, folder, quick_path):
    outputs = keep(store, sft_jsonl=b"{}\n", report_html=LARGE)
    weights = tree(store, quick_path, {"config.json": b"{}", "deep/model": LARGE})
    paths = view.sync(
        store,
        folder,
        {"sft.jsonl": outputs["sft.jsonl"], "out/report.html": outputs["report.html"], "model/": weights},
    )
    files = {
        "sft.jsonl": b"{}\n",
        "out/report.html": LARGE,
        "model/config.json": b"{}",
        "model/deep/model": LARGE,
    }
    assert shown(folder) == files
    assert paths == [folder / name for name in files]


def test_what_is_as_it_was_left_is_not_touched(store, folder):
    outputs = keep(store, a=b"a", b=LARGE)
    view.sync(store, folder, outputs)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    view.sync(store, folder, outputs)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_an_edited_file_is_restored_and_the_store_never_changed(store, folder, data):
    outputs = keep(store, a=data)
    (path,) = view.sync(store, folder, outputs)
    path.write_bytes(b"scribble")
    assert store.read(outputs["a"]) == data
    view.sync(store, folder, outputs)
    assert path.read_bytes() == data


def test_no_file_of_the_view_is_the_stores_own(store, folder, yard, quick_path):
    outputs = {**keep(store, a=LARGE), "w/": tree(store, quick_path, {"model": LARGE + b"2"})}
    paths = view.sync(store, folder, outputs)
    inodes = {path.stat().st_ino for path in yard.root.rglob("*")}
    for path in paths:
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1
        assert path.stat().st_ino not in inodes
        assert os.access(path, os.W_OK)


def test_deleting_the_view_loses_nothing(store, folder):
    outputs = keep(store, a=b"a", b=LARGE)
    for path in view.sync(store, folder, outputs):
        path.unlink()
    folder.rmdir()
    view.sync(store, folder, outputs)
    assert shown(folder) == {"a": b"a", "b": LARGE}


def test_what_is_no_longer_wanted_goes_with_its_empty_folders(store, folder, quick_path):
    outputs = keep(store, a=b"a")
    weights = tree(store, quick_path, {"deep/deeper/model": b"m", "config.json": b"{}"})
    view.sync(store, folder, {**outputs, "model/": weights})
    view.sync(store, folder, outputs)
    assert shown(folder) == {"a": b"a"}
    assert not (folder / "model").exists()


def test_files_that_somebody_else_put_there_stay(store, folder, quick_path):
    outputs = keep(store, a=b"a", b=b"b")
    view.sync(store, folder, {"a": outputs["a"], "deep/b": outputs["b"]})
    (folder / "notes.txt").write_text("mine")
    (folder / "deep" / "notes.txt").write_text("mine too")
    view.sync(store, folder, {"a": outputs["a"]})
    assert shown(folder) == {"a": b"a", "notes.txt": b"mine", "deep/notes.txt": b"mine too"}


def test_a_link_in_a_files_place_is_replaced_and_not_followed(store, folder, quick_path):
    outputs = keep(store, a=b"a")
    elsewhere = quick_path / "elsewhere"
    elsewhere.write_text("precious")
    folder.mkdir(parents=True)
    (folder / "a").symlink_to(elsewhere)
    view.sync(store, folder, outputs)
    assert elsewhere.read_text() == "precious"
    assert not (folder / "a").is_symlink()
    assert shown(folder) == {"a": b"a"}


def test_what_a_killed_build_left_half_written_is_no_harm(store, folder):
    outputs = keep(store, a=LARGE)
    folder.mkdir(parents=True)
    (folder / "a.part").write_bytes(b"half")
    view.sync(store, folder, outputs)
    assert shown(folder) == {"a": LARGE}


def test_characters_do_not_touch_each_others_views(store, folder):
    outputs = keep(store, a=b"a")
    beside = folder.with_name("eliza2")
    view.sync(store, folder, outputs)
    view.sync(store, beside, {"b": outputs["a"]})
    view.sync(store, folder, {"c": outputs["a"]})
    assert (shown(folder), shown(beside)) == ({"c": b"a"}, {"b": b"a"})


def test_a_damaged_blob_is_named_and_the_old_file_stays(store, folder, yard):
    old = keep(store, a=b"old")
    new = keep(store, a=LARGE)
    view.sync(store, folder, old)
    yard.object(new["a"]).chmod(0o644)
    yard.object(new["a"]).write_bytes(b"short")
    with pytest.raises(Damaged) as caught:
        view.sync(store, folder, new)
    assert caught.value.digest == new["a"]
    assert shown(folder) == {"a": b"old"}


def test_a_folder_in_a_files_place_is_a_clear_error(store, folder):
    outputs = keep(store, a=b"a")
    (folder / "a").mkdir(parents=True)
    with pytest.raises(EngineError) as caught:
        view.sync(store, folder, outputs)
    assert caught.value.message == f"cannot write {folder / 'a.part'}: Is a directory"
    assert caught.value.hint == "mend that and rerun"


def test_a_file_in_the_folders_place_is_a_clear_error(store, folder):
    outputs = keep(store, a=b"a")
    folder.parent.mkdir()
    folder.write_bytes(b"a file where the view's folder would be")
    with pytest.raises(EngineError) as caught:
        view.sync(store, folder, outputs)
    assert caught.value.message == f"cannot write {folder / 'a'}: Not a directory"


def test_a_view_that_cannot_be_written_does_not_blame_the_store(store, folder, monkeypatch):
    def refuse(_source, target):
        raise PermissionError(13, "Permission denied", str(target))

    outputs = keep(store, a=LARGE)
    monkeypatch.setattr("charforge.engine.store.copy_hashed", refuse)
    with pytest.raises(EngineError) as caught:
        view.sync(store, folder, outputs)
    assert caught.value.message == f"cannot write {folder / 'a.part'}: Permission denied"


TWICE = """
import sys
from pathlib import Path
from charforge.engine import view
from charforge.engine.store import Store
root, folder, digest = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with Store(root) as store:
    for n in range(10):
        view.sync(store, folder, {f"{n}/file{m}": digest for m in range(10)})
"""


def test_two_builds_may_show_the_same_at_once(yard, folder, nursery, quick_path):
    with yard.open() as store:
        outputs = keep(store, a=LARGE)
    script = quick_path / "twice.py"
    script.write_text(textwrap.dedent(TWICE))
    children = [nursery.start(script, yard.root, folder, outputs["a"]) for _ in range(3)]
    assert [(child.wait(), child.said()) for child in children] == [(0, "")] * 3
    assert shown(folder) == {f"9/file{m}": LARGE for m in range(10)}
