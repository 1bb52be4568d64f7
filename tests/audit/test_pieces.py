"""The pieces of an audit: from a store, a recording, both or none; never bytes that are not what their name says."""

from __future__ import annotations

import pytest

from charforge import recording
from charforge.audit.pieces import Pieces, manifest
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.reader import Reader
from charforge.engine.store import INLINE_LIMIT, Store
from charforge.llm.request import Request
from charforge.recorded import Kept, Observation, Observed

SUMMARY = b'{"chosen_epoch":1}'
MODEL = Action("model", 2, {"epochs": 1}, {})


def call(draw):
    request = Request(
        model="openai/scripted", messages=(("user", "Who?"),), max_tokens=9, temperature=0.7, draw=draw
    )
    return Action("call", 1, request.params(), {})


def reply(text):
    return canonical({"text": text, "finish_reason": "stop"})


@pytest.fixture
def recorded(tmp_path):
    """A recording of calls 1 and 2, and of a training."""
    replies = sorted(
        (Observation(call(n), reply(f"recorded {n}"), {}) for n in (1, 2)), key=lambda one: one.action.digest
    )
    kept = {"train_summary.json": Kept(of_bytes(SUMMARY), SUMMARY), "weights/": Kept("1" * 64, None)}
    recording.write(tmp_path / "ada.jsonl", "ada", replies, [Observed(MODEL, kept, {})])
    with recording.verified(tmp_path / "ada.jsonl") as found:
        yield found


@pytest.fixture
def stored(tmp_path):
    """A store with calls 0 and 1, a stage that made them, a small blob, a large one and a folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a")
    calls = [call(0), call(1)]
    with Store(tmp_path / "store") as store:
        for n, each in enumerate(calls):
            store.record(each, store.pack({"reply": reply(f"stored {n}")}), {"stage": "ada/scenes"}).result()
        noted = store.pack({"calls": canonical(sorted(each.digest for each in calls))})
        packed = store.pack({"small": b"small", "large": b"l" * (INLINE_LIMIT + 1), "weights/": folder})
        packed.inline |= noted.inline
        stage = Action("scenes", 1, {}, {})
        store.record(stage, packed, {"calls": noted.outputs["calls"]}).result()
    with Reader(tmp_path / "store") as reader:
        yield reader, stage, packed.outputs


def test_with_nothing_at_hand_nothing_is_given():
    pieces = Pieces(None, None)
    assert pieces.blob("0" * 64) is None
    assert pieces.tree("0" * 64) is None
    assert pieces.path("0" * 64) is None
    assert pieces.body("0" * 64) is None
    assert pieces.calls("0" * 64) is None
    assert list(pieces.replies(None)) == []


def test_a_store_gives_blobs_folders_and_calls(stored):
    reader, stage, outputs = stored
    pieces = Pieces(reader)
    assert pieces.blob(outputs["small"]) == b"small"
    assert len(pieces.blob(outputs["large"])) == INLINE_LIMIT + 1
    assert pieces.path(outputs["small"]) is None
    assert pieces.path(outputs["large"]).is_file()
    assert pieces.tree(outputs["weights/"]) == {"a.bin": {"digest": of_bytes(b"a"), "size": 1}}
    assert pieces.body(stage.digest) == stage.plain()
    assert pieces.calls(stage.digest) == sorted([call(0).digest, call(1).digest])
    assert pieces.calls(stage.digest, {"small": "0" * 64}) is None
    assert pieces.trace(stage.digest, outputs).outputs == outputs
    assert pieces.trace(stage.digest, {}) is None


def test_a_recording_gives_what_was_observed(recorded):
    pieces = Pieces(None, recorded)
    assert pieces.blob(of_bytes(SUMMARY)) == SUMMARY
    assert pieces.body(MODEL.digest) == MODEL.plain()
    assert pieces.observed[MODEL.digest].outputs["weights/"].digest == "1" * 64
    assert pieces.calls(MODEL.digest) is None


def test_replies_come_from_both_each_once_and_the_stores_first(stored, recorded):
    pieces = Pieces(stored[0], recorded)
    found = list(pieces.replies(None))
    assert [action.digest for action, _, _ in found] == sorted(call(n).digest for n in (0, 1, 2))
    texts = {action.digest: data for action, data, _ in found}
    assert texts == {
        call(0).digest: reply("stored 0"),
        call(1).digest: reply("stored 1"),
        call(2).digest: reply("recorded 2"),
    }
    assert [action.digest for action, _, _ in pieces.replies([call(2).digest, "0" * 64])] == [call(2).digest]


def test_bytes_that_are_others_are_never_given_but_remembered(stored, tmp_path):
    reader, _, outputs = stored
    path = Pieces(reader).path(outputs["large"])
    path.chmod(0o644)
    path.write_bytes(b"something else")
    pieces = Pieces(reader)
    assert pieces.blob(outputs["large"]) is None
    assert pieces.damaged == {outputs["large"]: "the stored bytes hash to another name"}
    assert path.read_bytes() == b"something else"
    assert not (tmp_path / "store" / "damaged").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"a":1}',
        b'{"a":{"digest":"0","size":1}}',
        b'{"a":{"size":1}}',
        b'{ "a":{}}',
        b"\xff",
        b"[" * 9999,
        *(
            canonical({name: {"digest": "0" * 64, "size": 1}})
            for name in ("../x", "/x", "a/../../x", "a//b", "", "a\\b", "a\0")
        ),
    ],
)
def test_what_is_no_manifest_is_none(data):
    assert manifest(data) is None
