"""Integrity: every byte is read; what is wrong or missing is named by stage and output, and nothing is touched."""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from charforge import recording
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE
from charforge.audit.integrity import integrity
from charforge.engine.digest import canonical, of_bytes
from charforge.engine.store import Store
from charforge.recorded import Observation

OTHER = "0" * 64


@pytest.fixture
def audit(eliza):
    """Audit the copy's integrity, and see that nothing in it changed."""

    def look(*, store=True, recorded=False):
        before = snapshot(eliza.folder)
        with eliza.pieces(store=store, recorded=recorded) as pieces:
            level = integrity(eliza.lock, pieces, eliza.sources)
        assert snapshot(eliza.folder) == before
        return level

    return look


def snapshot(folder):
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.lstat().st_size)
        for path in folder.rglob("*")
    }


def results(level, verdict):
    return {result.stage: result for result in level.results if result.verdict == verdict}


def said(level):
    return [difference.said for result in level.results for difference in result.differences]


def spoil(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def small(eliza, digest, data=None):
    """Change a small blob in the store, or take it out."""
    with sqlite3.connect(eliza.store / "store.db") as db:
        if data is None:
            changed = db.execute("DELETE FROM blobs WHERE digest = ?", (digest,)).rowcount
        else:
            changed = db.execute("UPDATE blobs SET data = ? WHERE digest = ?", (data, digest)).rowcount
    db.close()
    assert changed == 1


def test_a_finished_build_is_whole(audit, eliza):
    level = audit(recorded=True)
    assert level.verdict == BIT_IDENTICAL
    assert len(level.results) == 13
    assert said(level) == []
    with eliza.pieces(store=False, recorded=True) as pieces:
        assert level.facts["replies"] == pieces.recording.count


def test_modes_and_times_do_not_count(audit, eliza):
    for path in (eliza.store / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.utime(path, (1, 1))
    assert audit().verdict == BIT_IDENTICAL


def test_a_flipped_bit_in_a_large_file_is_named_by_stage_and_path(audit, eliza):
    path = eliza.object("model", "weights/", "model.safetensors")
    spoil(path)
    level = audit()
    assert set(results(level, DIVERGENT)) == {"model"}
    digest = path.parent.name + path.name
    (difference,) = results(level, DIVERGENT)["model"].differences
    assert difference.what == f"blob {digest}"
    assert (
        difference.said
        == f"output weights/model.safetensors: blob {digest[:12]}… is in the store with other bytes"
    )
    assert difference.found == of_bytes(path.read_bytes())


def test_a_missing_file_is_not_checkable(audit, eliza):
    eliza.object("model", "weights/", "model.safetensors").unlink()
    level = audit()
    assert level.verdict == NOT_CHECKABLE
    assert {kind: result.why for kind, result in results(level, NOT_CHECKABLE).items()} == {
        "model": "not here: output weights/model.safetensors"
    }


@pytest.mark.parametrize("put", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_something_else_than_a_file_is_told_and_not_waited_for(audit, eliza, put):
    path = eliza.object("model", "weights/", "model.safetensors")
    path.unlink()
    put(path)
    assert audit().verdict in {DIVERGENT, NOT_CHECKABLE}


def test_a_damaged_record_is_told_with_its_output(audit, eliza):
    digest = eliza.lock.stages["scenes"].outputs["scenes.jsonl"]
    small(eliza, digest, b"{}\n")
    assert said(audit()) == [f"output scenes.jsonl: blob {digest[:12]}… is in the store with other bytes"]


def test_an_input_counts_from_the_checkout_or_from_the_store(audit, eliza):
    digest = eliza.lock.stages["profile"].inputs["profile"]
    small(eliza, digest)
    assert audit().verdict == BIT_IDENTICAL
    profile = eliza.folder / "characters" / "profiles" / "eliza.md"
    profile.write_text(profile.read_text(encoding="utf-8") + "\n\nShe sang.\n", encoding="utf-8")
    level = audit()
    assert {kind: result.why for kind, result in results(level, NOT_CHECKABLE).items()} == {
        "profile": "not here: input profile"
    }


def test_damaged_and_missing_replies_are_told_with_their_call(audit, eliza):
    with eliza.pieces() as pieces:
        line = eliza.lock.stages["protective"]
        call = pieces.calls(line.action, line.outputs)[0]
        digest = pieces.reader.find(call).outputs["reply"]
    small(eliza, digest, b"{}")
    assert said(audit()) == [
        f"the reply to call {call[:12]}…: blob {digest[:12]}… is in the store with other bytes"
    ]
    small(eliza, digest)
    level = audit()
    assert list(results(level, NOT_CHECKABLE)) == ["protective"]
    assert "the replies to 1 of" in results(level, NOT_CHECKABLE)["protective"].why
    assert audit(recorded=True).verdict == BIT_IDENTICAL


def test_a_reply_put_in_the_place_of_another_is_found_by_the_root(audit, eliza):
    """Every blob hashes to its name, and the trace is sound in itself: only the lock's root tells."""
    with eliza.pieces() as pieces:
        line = eliza.lock.stages["protective"]
        call = pieces.calls(line.action, line.outputs)[0]
        action, _, facts = next(pieces.replies([call]))
    with sqlite3.connect(eliza.store / "store.db") as db:
        db.execute("DELETE FROM traces WHERE action = ?", (call,))
    db.close()
    with Store(eliza.store) as store:
        packed = store.pack({"reply": canonical({"text": "I know of cinemas.", "finish_reason": "stop"})})
        store.record(action, packed, facts).result()
    level = audit()
    assert list(results(level, DIVERGENT)) == ["protective"]
    assert [each.what for each in results(level, DIVERGENT)["protective"].differences] == ["observations"]


def test_without_any_piece_only_the_checkouts_own_files_are_checked(audit, eliza):
    shutil.rmtree(eliza.store)
    level = audit(store=False)
    assert level.verdict == NOT_CHECKABLE
    assert results(level, DIVERGENT) == {}
    assert {result.why for result in level.results if result.stage in {"base", "dataset"}} == {
        "not here: its outputs (there is no store)"
    }


def test_a_recording_alone_proves_the_replies_it_says_are_a_stages_own(audit, eliza):
    level = audit(store=False, recorded=True)
    scenes = next(result for result in level.results if result.stage == "scenes")
    assert scenes.verdict == NOT_CHECKABLE  # its outputs are not here
    assert scenes.why == "not here: its outputs (there is no store)"
    assert scenes.checked > eliza.lock.stages["scenes"].observations["count"]
    model = next(result for result in level.results if result.stage == "model")
    assert "output train_summary.json" not in model.why


# -- locks that lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "what", "words"),
    [
        ("counts", lambda was: {**was, "scenes.jsonl": 99}, "counts scenes.jsonl",
         "output scenes.jsonl has 12 records, the lock counts 99"),
        ("counts", {}, "counts scenes.jsonl", "output scenes.jsonl has 12 records, the lock counts none"),
        ("models", {"openai/other": None}, "models", "models: the lock names openai/other, which no call asked"),
        ("models", {"openai/scripted": OTHER}, "models", "models: openai/scripted has weights 000000000000… in the lock, none in the calls"),
        ("usage", lambda was: {name: {**used, "prompt_tokens": 7} for name, used in was.items()}, "usage", "usage: openai/scripted prompt_tokens 7 in the lock"),
        ("usage", lambda was: {name: {**used, "cost": 12.5} for name, used in was.items()}, "usage", "usage: openai/scripted cost 12.5 in the lock"),
        ("usage", lambda was: {name: {key: n for key, n in used.items() if key != "cost"} for name, used in was.items()}, "usage", "usage: openai/scripted cost nothing in the lock, 0.0 beside"),
        ("usage", {}, "usage", "usage: openai/scripted calls nothing in the lock, 14 beside the replies"),
        ("observations", lambda was: {**was, "root": OTHER}, "observations", "the lock names"),
        ("observations", lambda was: {**was, "count": was["count"] - 1}, "observations", "the lock names"),
        ("observations", {}, "observations", "the lock names 0 with root none"),
    ],
)  # fmt: skip
def test_a_lock_that_lies_of_what_was_made_is_found(audit, eliza, field, value, what, words, recorded):
    eliza.lie("scenes", **{field: value})
    level = audit(recorded=recorded)
    assert list(results(level, DIVERGENT)) == ["scenes"]
    differences = results(level, DIVERGENT)["scenes"].differences
    assert what in [each.what for each in differences]
    assert any(words in each.said for each in differences)


def test_a_lock_that_names_other_outputs_is_found(audit, eliza):
    was = eliza.lock.stages["scenes"].outputs["scenes.jsonl"]
    eliza.lie("scenes", outputs=lambda was: {**was, "scenes.jsonl": OTHER})
    level = audit()
    assert (
        f"output scenes.jsonl: the lock names 000000000000…, the store has {was[:12]}… of this action"
        in said(level)
    )


def test_a_lock_that_names_other_weights_is_found_by_the_recording_alone(audit, eliza):
    was = eliza.lock.stages["model"].outputs["weights/"]
    eliza.lie("model", outputs=lambda was: {**was, "weights/": OTHER})
    assert (
        f"output weights/: the lock names 000000000000…, the recording has {was[:12]}… of this action"
        in said(audit(store=False, recorded=True))
    )


def test_a_folder_whose_list_is_none_is_told(audit, eliza):
    profile = eliza.lock.stages["profile"].outputs["profile.json"]
    eliza.lie("base", outputs={"weights/": profile})
    assert f"output weights/: blob {profile[:12]}… is no list of a folder's files" in said(audit())


def test_a_replaced_recording_is_told(audit, eliza, finished, tmp_path):
    """A recording with another reply, whole in itself, in a workspace whose store has the right one."""
    with recording.verified(eliza.target.recording) as found:
        replies = list(found)
        line = next(n for n, each in enumerate(replies) if each.facts.get("stage") == "eliza/scenes")
        lied = canonical({"text": "The cinema was dark.", "finish_reason": "stop"})
        replies[line] = Observation(replies[line].action, lied, replies[line].facts)
        stages = list(found.observed())
    recording.write(eliza.target.recording, "eliza", replies, stages)
    both = audit(recorded=True)
    assert [each.what for each in results(both, DIVERGENT)["scenes"].differences] == ["recording"]
    alone = audit(store=False, recorded=True)
    assert [each.what for each in results(alone, DIVERGENT)["scenes"].differences] == ["observations"]
