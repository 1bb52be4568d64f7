"""Recordings: the same replies are the same bytes; what is not right, in any way, adds nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import recorded, recording
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.store import Store
from charforge.errors import CharForgeError, FileProblems
from charforge.llm.request import FINISH_REASONS, Request

zstd = recording.zstd


def action(question="Who are you?", **fields):
    request = Request(
        **{
            "model": "openai/scripted",
            "messages": (("user", question),),
            "max_tokens": 60,
            "temperature": 0.7,
            **fields,
        }
    )
    return Action("call", 1, request.params(), {})


def reply(text="I am Ada.", finish_reason="stop"):
    return canonical({"text": text, "finish_reason": finish_reason})


def observations(count=3):
    found = [
        recorded.Observation(
            action(draw=n),
            reply(f"I am Ada, for the {n}th time: é, ☃."),
            {"prompt_tokens": 10 + n, "cost": 0.5},
        )
        for n in range(count)
    ]
    return sorted(found, key=lambda each: each.action.digest)


@pytest.fixture(params=["ada.jsonl", "ada.jsonl.zst"])
def file(request, tmp_path):
    path = tmp_path / request.param
    recording.write(path, "ada", observations())
    return path


@pytest.fixture
def lines(tmp_path):
    """The lines of a sound recording, as data to be spoilt."""
    path = tmp_path / "sound.jsonl"
    recording.write(path, "ada", observations())
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read(path, **options):
    with recording.verified(path, **options) as found:
        return list(found)


def problems(path, **options):
    with pytest.raises(FileProblems) as caught:
        read(path, **options)
    return caught.value.render().replace(str(path), path.name)


def sealed(lines):
    """Return the bytes of lines with a header that fits them."""
    body = b"".join(canonical(line) + b"\n" for line in lines[1:])
    header = {key: value for key, value in lines[0].items() if key != "root"}
    return canonical({**header, "root": recording._root(header, of_bytes(body))}) + b"\n" + body


def spoilt(tmp_path, lines):
    path = tmp_path / "ada.jsonl"
    path.write_bytes(sealed(lines))
    return problems(path)


# --- Round trip --------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_again(file):
    with recording.verified(file) as found:
        assert (found.character, found.count) == ("ada", 3)
        assert list(found) == observations()
        assert list(found) == observations()  # and once more


def test_the_same_replies_are_the_same_bytes(file):
    before = file.read_bytes()
    recording.write(file, "ada", observations())
    assert file.read_bytes() == before


def test_a_recording_of_nothing_is_sound(tmp_path):
    count, _root = recording.write(tmp_path / "none.jsonl.zst", "ada", [])
    assert count == 0
    assert read(tmp_path / "none.jsonl.zst") == []


def test_a_name_must_say_the_format(tmp_path):
    with pytest.raises(CharForgeError) as caught:
        recording.write(Path("ada.json"), "ada", [])
    assert caught.value.render() == (
        "error: ada.json: a recording's name ends in .jsonl.zst or .jsonl\nhint: such as beethoven.jsonl.zst"
    )


def test_a_write_that_fails_leaves_the_old_file_and_no_other(file):
    before = file.read_bytes()
    bad = recorded.Observation(Action("stage", 1, {}, {}), reply(), {})
    with pytest.raises(CharForgeError, match="cannot be recorded: the action is no model call"):
        recording.write(file, "ada", [bad])
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_fields_are_those_of_a_request():
    assert set(recorded._FIELDS) == {field.name for field in dataclasses.fields(Request)}


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_every_finish_reason_can_be_recorded(tmp_path, reason):
    path = tmp_path / "ada.jsonl"
    recording.write(path, "ada", [recorded.Observation(action(), reply("", reason), {})])
    assert read(path)[0].reply == reply("", reason)


def test_requests_of_all_kinds_can_be_recorded(tmp_path):
    kinds = [
        action(),
        action(messages=None, prompt="Ada:", stop=("\n",), seed=0, top_p=0.9, weights="a" * 64),
        action(schema={"type": "object", "properties": {"a": {"enum": [1, None, 2.5]}}}),
    ]
    found = sorted((recorded.Observation(each, reply(), {}) for each in kinds), key=lambda o: o.action.digest)
    recording.write(tmp_path / "a.jsonl", "ada", found)
    assert [each.action.digest for each in read(tmp_path / "a.jsonl")] == [o.action.digest for o in found]


# --- What is wrong with a file -----------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    assert problems(tmp_path / "no.jsonl") == "error: no.jsonl: cannot be read: No such file or directory"


def test_a_folder(tmp_path):
    assert problems(tmp_path) == f"error: {tmp_path.name}: cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 a zip file", "not a recording: neither Zstandard nor JSON lines"),
        (zstd.compress(b""), "the file is empty"),
    ],
)
def test_another_kind_of_file(tmp_path, data, what):
    path = tmp_path / "ada.jsonl.zst"
    path.write_bytes(data)
    assert problems(path) == f"error: ada.jsonl.zst: {what}\nhint: charforge record export writes one"


def test_other_json_lines(tmp_path):
    path = tmp_path / "ada.jsonl"
    path.write_bytes(b'{"id":"scene/1"}\n')
    assert problems(path) == "error: ada.jsonl:1: not a recording\nhint: charforge record export writes one"


def test_a_newer_version(file):
    text = recording.zstd.decompress(file.read_bytes()) if file.suffix == ".zst" else file.read_bytes()
    file.write_bytes(text.replace(b'"charforge_recording":2', b'"charforge_recording":3'))
    assert problems(file) == (f"error: {file.name}:1: written by a newer CharForge\nhint: upgrade CharForge")


def test_a_file_cut_off_anywhere_adds_nothing(file):
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(FileProblems) as caught:
            read(file)
        assert len(caught.value.problems) == 1, size
    file.write_bytes(whole[:-1])
    assert "hint: it was cut off: get it again" in problems(file)


def test_a_whole_number_of_lines_missing(tmp_path, lines):
    (tmp_path / "ada.jsonl").write_bytes(b"".join(canonical(line) + b"\n" for line in lines[:-1]))
    assert problems(tmp_path / "ada.jsonl") == (
        "error: ada.jsonl:1: there should be 3 replies, and there are 2\nhint: get it again"
    )


def test_something_behind_the_end(file):
    with file.open("ab") as stream:
        stream.write(b"\x00")
    assert ("something follows the end" in problems(file)) or (
        "the file ends within a line" in problems(file)
    )


def test_a_second_frame(tmp_path):
    path = tmp_path / "ada.jsonl.zst"
    recording.write(path, "ada", observations())
    path.write_bytes(path.read_bytes() + zstd.compress(b"{}\n"))
    assert problems(path) == (
        "error: ada.jsonl.zst:4: something follows the end of the compressed data\nhint: get it again"
    )


def test_a_changed_reply(tmp_path, lines):
    path = tmp_path / "ada.jsonl"
    lines[2]["reply"]["text"] = "I am a spy."
    path.write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    assert problems(path) == (
        "error: ada.jsonl:1: the replies are not those that its root digest names\n"
        "hint: it was changed or damaged: get it again"
    )


def test_a_bomb_of_one_line(tmp_path):
    path = tmp_path / "ada.jsonl.zst"
    path.write_bytes(zstd.compress(b"{" + b" " * (recorded.MAX_LINE + recorded.MIB)))
    assert path.stat().st_size < 10_000
    assert problems(path) == ("error: ada.jsonl.zst: a line of more than 32 MiB\nhint: this is no recording")


def test_a_bomb_of_many_lines_ends_at_the_first_few(tmp_path, lines):
    path = tmp_path / "ada.jsonl.zst"
    path.write_bytes(zstd.compress(sealed(lines[:1]) + b"{}\n" * 3_000_000))
    text = problems(path)
    assert text.count("expected an object with action, digest, record and reply") == recording.MAX_PROBLEMS
    assert text.endswith("too much is wrong here: the rest was not read")


def test_a_bomb_of_sound_lines_ends_at_the_limit(tmp_path):
    path = tmp_path / "ada.jsonl.zst"
    big = [recorded.Observation(action(draw=n), reply("a" * recorded.MIB), {}) for n in range(3)]
    recording.write(path, "ada", sorted(big, key=lambda each: each.action.digest))
    assert path.stat().st_size < 10_000
    assert problems(path, max_mib=2) == (
        "error: ada.jsonl.zst:2: more than 2 MiB of records\n"
        "hint: if you trust it, allow more with --max-size"
    )
    assert len(read(path, max_mib=4)) == 3


def test_a_frame_that_wants_much_memory(tmp_path):
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    path = tmp_path / "ada.jsonl.zst"
    path.write_bytes(compressor.compress(b"{}\n" * 1000) + compressor.flush())
    assert "the compressed data is damaged" in problems(path)


# --- What is wrong with a line -----------------------------------------------------------------------------------------


def at(number, text):
    return f"error: ada.jsonl:{number}: {text}"


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("action", "kind"), "stage", "the action is no model call"),
        (("action", "inputs"), {"profile": "a" * 64}, "the action is no model call"),
        (("action", "version"), 0, "the action's version is no whole number"),
        (("action", "version"), True, "the action's version is no whole number"),
        (("action", "extra"), 1, "the action is no object with kind, version, params and inputs"),
        (("action", "params", "api_base"), "x", "the call's parameters are not those of a request: api_base"),
        (("action", "params", "model"), "", "the call's model is not what a request has there"),
        (("action", "params", "draw"), -1, "the call's draw is not what a request has there"),
        (("action", "params", "draw"), True, "the call's draw is not what a request has there"),
        (("action", "params", "max_tokens"), 1.5, "the call's max_tokens is not what a request has there"),
        (("action", "params", "messages"), [["user"]], "the call's messages is not what a request has there"),
        (("action", "params", "messages"), None, "the call has not exactly one of messages and prompt"),
        (("action", "params", "prompt"), "Ada:", "the call has not exactly one of messages and prompt"),
        (("action", "params", "weights"), "../x", "the call's weights is not what a request has there"),
        (("action", "params", "schema"), [], "the call's schema is not what a request has there"),
        (
            ("reply", "finish_reason"),
            "done",
            "the reply's finish_reason is none of stop, length, filtered, malformed",
        ),
        (("reply", "text"), None, "the reply's text is no text"),
        (("reply", "tool_calls"), [], "the reply is no object with text and finish_reason"),
        (
            ("record", "seconds"),
            1.0,
            "the record is no object with some of completion_tokens, cost, prompt_tokens, stage",
        ),
        (("record", "cost"), -1, "the record holds something else than tokens, cost and stage"),
        (("record", "stage"), "a\x1b[2J", "the record holds something else than tokens, cost and stage"),
        (("more",), 1, "expected an object with action, digest, record and reply"),
    ],
)
def test_a_field_that_is_not_right(tmp_path, lines, path, value, what):
    place = lines[1]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert spoilt(tmp_path, lines) == at(2, what)


def test_a_digest_of_another_action(tmp_path, lines):
    wanted = lines[1]["digest"]
    lines[1]["digest"] = "0" * 64
    assert spoilt(tmp_path, lines) == at(2, f"the digest is not that of the action, which is {wanted[:12]}…")


def test_the_same_call_twice(tmp_path, lines):
    lines[2] = lines[1]
    assert spoilt(tmp_path, lines) == at(3, "the same call as before")


def test_an_order_of_its_own(tmp_path, lines):
    lines[1:] = reversed(lines[1:])
    assert spoilt(tmp_path, lines) == at(3, "not sorted by digest") + "\n\n" + at(4, "not sorted by digest")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"action":', b'"action": ', "not in canonical form"),
        (b'"text":', b'"text":"","text":', "a key comes twice"),
        (b'"max_tokens":60', b'"max_tokens":6e1', "the call's max_tokens is not what a request has there"),
        (b'"temperature":0.7', b'"temperature":NaN', "NaN is no JSON"),
        (b'"max_tokens":60', b'"max_tokens":6' + b"0" * 5000, "a number too large for JSON"),
        (b'"schema":null', b'"schema":' + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'"schema":null', b'"schema":' + b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
        (b'"text":"', b'"text":"\xff', "not UTF-8"),
        (b'"text":"', b'"text":"\\ud800', "not canonical JSON: "),
        (b'"action":', b'"action"', "not JSON: Expecting ':' delimiter in column 10"),
    ],
)
def test_a_line_that_is_not_right(tmp_path, lines, old, new, what):
    rows = sealed(lines).splitlines()
    assert old in rows[1]
    rows[1] = rows[1].replace(old, new, 1)
    (tmp_path / "ada.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    text = problems(tmp_path / "ada.jsonl")
    assert text.startswith(at(2, what))
    assert text.count("error: ") == 1


# --- Fuzz --------------------------------------------------------------------------------------------------------------

SMALL = {}
for _name in ("ada.jsonl", "ada.jsonl.zst"):
    with tempfile.TemporaryDirectory() as _folder:
        recording.write(Path(_folder, _name), "ada", observations(2))
        SMALL[_name] = Path(_folder, _name).read_bytes()

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert"]),
        st.integers(0, 10_000),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"\n", b'"', b"{", b"}", b"[", b",", b"\x00", b"9" * 400]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", list(SMALL))
@given(edits=EDITS)
@settings(max_examples=150, deadline=None)
def test_a_mutated_recording_is_refused_or_says_the_same(name, edits):
    data = bytearray(SMALL[name])
    for kind, somewhere, value in edits:
        place = somewhere % (len(data) + 1)
        if kind == "set":
            data[place : place + len(value)] = value
        elif kind == "insert":
            data[place:place] = value
        else:
            del data[place : place + len(value)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            found = read(path)
        except FileProblems:
            return
    # A Zstandard frame may say the same in other bytes; plain lines may not.
    assert bytes(data) == SMALL[name] or name.endswith(".zst")
    assert found == observations(2)


# --- Into a store ------------------------------------------------------------------------------------------------------


def add(root, path):
    with Store(root) as store, recording.verified(path) as found:
        claims = Claims(root / "claims")
        try:
            return asyncio.run(recording.add(store, claims, found))
        finally:
            claims.close()


def test_replies_are_added_once_and_marked(file, tmp_path):
    root = tmp_path / "store"
    assert add(root, file) == recording.Added(added=3)
    assert add(root, file) == recording.Added(known=3)
    with Store(root) as store, recording.verified(file) as found:
        for each in found:
            (trace,) = store.observations(each.action.digest)
            assert trace.record == {**each.facts, "imported": found.root}
            assert store.read(trace.outputs["reply"]) == each.reply
            assert store.action_body(each.action.digest) == json.loads(each.action.canonical)


def test_what_is_observed_already_stays_in_use(file, tmp_path):
    root = tmp_path / "store"
    first = observations()[0]
    with Store(root) as store:
        store.record(first.action, store.pack({"reply": reply("I was here before.")}), {}).result()
    assert add(root, file) == recording.Added(added=2, differs=1)
    with Store(root) as store:
        (trace,) = store.observations(first.action.digest)
        assert store.read(trace.outputs["reply"]) == reply("I was here before.")


def test_a_lost_reply_is_brought_back(file, tmp_path):
    root = tmp_path / "store"
    add(root, file)
    first = observations()[0]
    with Store(root) as store:
        store.discard(of_bytes(first.reply))
        assert store.find(first.action.digest) is None
    assert add(root, file) == recording.Added(added=1, known=2)
    with Store(root) as store:
        assert recorded.observe(store, first.action.digest) == first


def test_what_was_imported_is_exported_as_the_same_bytes(file, tmp_path):
    root = tmp_path / "store"
    add(root, file)
    with Store(root) as store:
        again = [recorded.observe(store, each.action.digest) for each in observations()]
    recording.write(tmp_path / "again.jsonl", "ada", again)
    recording.write(tmp_path / "first.jsonl", "ada", observations())
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()


def test_a_call_that_a_build_is_making_is_waited_for(tmp_path):
    recording.write(tmp_path / "a.jsonl", "ada", observations())
    first = observations()[0]

    async def go(store, claims, found):
        async with claims.hold(first.action.digest):  # as a build does while it asks
            adding = asyncio.ensure_future(recording.add(store, claims, found))
            while len(list(store.all_actions())) < 2:
                await asyncio.sleep(0)
            store.record(first.action, store.pack({"reply": reply("Asked and paid for.")}), {}).result()
        return await adding

    with Store(tmp_path / "store") as store, recording.verified(tmp_path / "a.jsonl") as found:
        claims = Claims(store.root / "claims")
        assert asyncio.run(go(store, claims, found)) == recording.Added(added=2, differs=1)
        claims.close()
        (trace,) = store.observations(first.action.digest)
        assert store.read(trace.outputs["reply"]) == reply("Asked and paid for.")


# --- Observed stages ---------------------------------------------------------------------------------------------------


def training():
    manifest = canonical({"model.safetensors": {"digest": "a" * 64, "size": 7}})
    outputs = {
        "weights/": recorded.Kept(of_bytes(manifest), manifest),
        "train_summary.json": recorded.Kept(of_bytes("{é}".encode()), "{é}".encode()),
        "data": recorded.Kept("b" * 64, None),
    }
    model = Action("model", 2, {"train": {"epochs": 3}}, {"sft": "c" * 64})
    return recorded.Observed(model, outputs, {"seconds": 240.5, "dtype": "bfloat16"})


@pytest.fixture
def with_training(tmp_path):
    path = tmp_path / "ada.jsonl"
    recording.write(path, "ada", observations(), [training()])
    return path


@pytest.fixture
def stage(with_training):
    """The lines of a recording with an observed stage, and which of them is the stage's."""
    found = [json.loads(line) for line in with_training.read_bytes().splitlines()]
    return found, next(n for n, line in enumerate(found) if "outputs" in line)


def test_what_was_trained_is_kept_beside_the_replies(with_training):
    with recording.verified(with_training) as found:
        assert (found.count, found.stages) == (3, 1)
        assert list(found) == observations()
        assert list(found.observed()) == [training()]


@pytest.mark.parametrize(
    ("where", "value", "problem"),
    [
        (("outputs", "train_summary.json", "text"), "{}", "train_summary.json: the text does not hash to its digest"),
        (("outputs", "weights/", "tree", "model.safetensors", "size"), 8,
         "weights/: the tree does not hash to its digest"),
        (("outputs", "weights/", "tree", "../../.bashrc"), {"digest": "a" * 64, "size": 7},
         "weights/: the tree does not say path, digest and size of its files"),
        (("outputs", "weights/", "tree", "a\\..\\b"), {"digest": "a" * 64, "size": 7},
         "weights/: the tree does not say path, digest and size of its files"),
        (("outputs", "weights/", "text"), "{}", "weights/: expected a digest, with tree or without"),
        (("outputs", "../x"), {"digest": "a" * 64}, "the outputs are not named as outputs are"),
        (("action", "inputs", "sft"), "no digest", "the action is no stage's"),
        (("action", "kind"), "call", "the action is no stage's"),
        (("record", "host"), "evil.example",
         "the record is no object with some of device, dtype, peak_memory_bytes, processes, seconds, threads"),
        (("record", "dtype"), "\x1b[2J", "the record holds something else than figures and names"),
    ],
)  # fmt: skip
def test_a_stage_is_verified_like_a_reply(tmp_path, stage, where, value, problem):
    found, place = stage
    spot = found[place]
    for key in where[:-1]:
        spot = spot[key]
    spot[where[-1]] = value
    if where[0] == "action":
        found[place]["digest"] = Action(**found[place]["action"]).digest
    assert spoilt(tmp_path, found).splitlines()[0] == f"error: ada.jsonl:{place + 1}: {problem}"


def test_the_counts_are_of_replies_and_of_stages(tmp_path, stage):
    found, _ = stage
    found[0] |= {"count": 4, "stages": 0}
    assert spoilt(tmp_path, found).startswith(
        "error: ada.jsonl:1: there should be 4 replies, and there are 4"
    )
    found[0] |= {"count": 3, "stages": 2}
    assert spoilt(tmp_path, found).startswith(
        "error: ada.jsonl:1: there should be 5 replies and stages, and there are 4"
    )


def test_a_recording_of_version_1_is_read(tmp_path, lines):
    del lines[0]["stages"]
    lines[0]["charforge_recording"] = 1
    path = tmp_path / "old.jsonl"
    path.write_bytes(sealed(lines))
    with recording.verified(path) as found:
        assert list(found) == observations()
        assert list(found.observed()) == []


def test_a_stage_in_a_recording_of_version_1_is_none(tmp_path, stage):
    found, _ = stage
    del found[0]["stages"]
    found[0] |= {"charforge_recording": 1, "count": 4}
    assert "expected an object with action, digest, record and reply" in spoilt(tmp_path, found)
