"""The training set holds every dialogue whole, or in parts that are whole turns, or says why it does not."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from charforge.dialogue import Turn, trained_spans
from charforge.reading import parse
from charforge.stages import dataset
from charforge.stages.released import File
from charforge.templates import render

PROFILE = {"paragraphs": [{"id": "a", "text": ""}, {"id": "b", "text": ""}, {"id": "c", "text": ""}]}
META = "You are Anna."


def dialogue(identity: str, *rows: str, kind: str = "written", **more):
    turns = [dict(zip(("role", "action", "content"), row.split("|"), strict=True)) for row in rows]
    return {
        "id": identity,
        "kind": kind,
        "paragraphs": ["a"],
        "type": "chat",
        "location": "Bergen",
        "background": "It rains.",
        "turns": turns,
        **more,
    }


HELLO = dialogue(
    "written/hello", "Man|speaking|Who are you?", "Anna|thinking|A stranger.", "Anna|speaking|I am Anna."
)


def build(
    *,
    written=(),
    written_protective=(),
    dialogues=(),
    protective=(),
    near_duplicate=0.5,
    max_words=100,
    mix=None,
):
    return dataset.build(
        profile=PROFILE,
        dialogues=dialogues,
        protective=protective,
        written=written,
        written_protective=written_protective,
        meta=META,
        short_name="Anna",
        near_duplicate=near_duplicate,
        max_words=max_words,
        mix=mix,
    )


def test_near_duplicates_stay_where_the_spec_says_so():
    again = {**HELLO, "id": "dialogue/a/0"}
    assert len(build(written=[HELLO], dialogues=[again])[0]) == 1
    assert len(build(written=[HELLO], dialogues=[again], near_duplicate=None)[0]) == 2


def test_a_sample_is_prompt_output_kind_and_source():
    samples, _, rejected = build(written=[HELLO])
    assert rejected == []
    assert samples == [
        {
            "prompt": "You are Anna.\n\nLocation: Bergen\nStatus: It rains.\n\n",
            "output": "Man (speaking): Who are you?<|eot|>\nAnna (thinking): A stranger.<|eot|>\nAnna (speaking): I am Anna.<|eot|>\n",
            "kind": "dialogue",
            "source": {"id": "written/hello", "origin": "written", "part": 1, "paragraphs": ["a"]},
        }
    ]


def test_samples_come_sorted_and_know_their_kind_and_origin():
    samples, _, _ = build(
        written=[HELLO],
        written_protective=[dialogue("written/film", "Man|speaking|A film?", "Anna|speaking|A what?")],
        dialogues=[dialogue("dialogue/a/0", "Man|speaking|Cold?", "Anna|speaking|Always.", kind="generated")],
        protective=[
            dialogue("protective/a/0", "Man|speaking|A radio?", "Anna|speaking|No.", kind="generated")
        ],
    )
    assert [(s["source"]["id"], s["source"]["origin"], s["kind"]) for s in samples] == [
        ("dialogue/a/0", "generated", "dialogue"),
        ("protective/a/0", "generated", "protective"),
        ("written/film", "written", "protective"),
        ("written/hello", "written", "dialogue"),
    ]


LONG = dialogue(
    "written/long",
    "Man|speaking|one two three four five six",
    "Anna|speaking|seven eight nine ten eleven",
    "Man|speaking|twelve thirteen fourteen fifteen",
    "Anna|thinking|sixteen seventeen",
    "Anna|speaking|eighteen nineteen twenty",
)


def test_a_long_dialogue_is_split_between_turns_with_its_prompt_again():
    samples, stats, rejected = build(written=[LONG], max_words=24)
    assert rejected == []
    assert [sample["source"]["part"] for sample in samples] == [1, 2]
    assert {sample["prompt"] for sample in samples} == {
        "You are Anna.\n\nLocation: Bergen\nStatus: It rains.\n\n"
    }
    assert [len(parse(sample["output"]).turns) for sample in samples] == [2, 3]
    assert "".join(sample["output"] for sample in samples) == build(written=[LONG])[0][0]["output"]
    assert (stats["by_kind"]["dialogue"]["split"], stats["by_kind"]["dialogue"]["samples"]) == (1, 2)


def test_a_turn_that_is_too_long_is_rejected_and_the_rest_is_kept():
    text = " ".join(["word"] * 50)
    record = dialogue(
        "written/x",
        "Man|speaking|Hm?",
        "Anna|speaking|Yes.",
        f"Man|speaking|{text}",
        "Man|speaking|Well?",
        "Anna|speaking|No.",
    )
    samples, stats, rejected = build(written=[record], max_words=30)
    assert [parse(sample["output"]).turns[0].content for sample in samples] == ["Hm?", "Well?"]
    assert rejected == [
        {
            "id": "written/x/2",
            "rule": "length",
            "detail": "60 words in a part that cannot be split, expected at most 30",
            "text": text,
            "call": None,
        }
    ]
    assert stats["rejected"] == {"length": 1}


def test_what_cannot_be_a_sample_is_rejected_with_its_reason():
    samples, stats, rejected = build(
        written=[HELLO, dialogue("written/silent", "Man|speaking|Who?", "Anna|thinking|Hm.")],
        dialogues=[
            dialogue(
                "dialogue/a/0",
                *[f"{t['role']}|{t['action']}|{t['content']}" for t in HELLO["turns"]],
                kind="generated",
            ),
            dialogue("dialogue/b/0", "Man: x|speaking|Hm?", "Anna|speaking|Yes.", kind="generated"),
            dialogue(
                "dialogue/c/0", "Man|speaking|Hm!", "Anna|speaking|Yes!", kind="generated", location=" "
            ),
        ],
    )
    assert len(samples) == 1
    assert [(r["id"], r["rule"], r["detail"]) for r in rejected] == [
        ("dialogue/a/0", "near-duplicate", "like written/hello"),
        ("dialogue/b/0", "format", "turn 1 cannot be written: 'Man: x' (speaking)"),
        ("dialogue/c/0", "format", "no location or no status"),
        ("written/silent", "character-silent", "Anna never speaks"),
    ]
    assert stats["rejected"] == {"character-silent": 1, "format": 2, "near-duplicate": 1}


def test_the_statistics_are_the_papers_table():
    _, stats, _ = build(
        written=[HELLO, LONG],
        protective=[
            dialogue(
                "protective/b/0",
                "Man|speaking|A radio?",
                "Anna|speaking|No.",
                kind="generated",
                paragraphs=["b"],
            )
        ],
    )
    assert stats == {
        "all": {
            "scenes": 3,
            "written": 2,
            "generated": 1,
            "words": 31,
            "mean_turns": 3.3,
            "mean_words": 10.3,
            "samples": 3,
            "split": 0,
        },
        "by_kind": {
            "dialogue": {
                "scenes": 2,
                "written": 2,
                "generated": 0,
                "words": 28,
                "mean_turns": 4.0,
                "mean_words": 14.0,
                "samples": 2,
                "split": 0,
            },
            "protective": {
                "scenes": 1,
                "written": 0,
                "generated": 1,
                "words": 3,
                "mean_turns": 2.0,
                "mean_words": 3.0,
                "samples": 1,
                "split": 0,
            },
        },
        "samples": {
            "by_kind": {"dialogue": 2, "protective": 1},
            "by_origin": {"generated": 1, "written": 2},
        },
        "sample_words": {"mean": 25.0, "longest": 38, "all": 75},
        "paragraphs": {"told": 2, "all": 3},
        "rejected": {},
    }


def test_nothing_makes_an_empty_training_set():
    samples, stats, rejected = build()
    assert (samples, rejected) == ([], [])
    assert stats["all"]["mean_turns"] is None
    assert stats["sample_words"] == {"mean": None, "longest": None, "all": 0}


turn_lists = st.lists(
    st.builds(
        Turn,
        st.sampled_from(["Anna", "Man"]),
        st.sampled_from(["speaking", "thinking"]),
        st.integers(1, 12).map(lambda n: " ".join(["w"] * n)),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(turn_lists, st.integers(5, 40))
def test_splitting_loses_nothing_and_keeps_to_the_room(turns, room):
    parts = dataset.split(turns, "Anna", room)
    assert [turn for part in parts for turn in part] == turns
    for part in parts:
        assert part
        assert len(part) == 1 or sum(2 + len(turn.content.split()) for turn in part) <= room


def test_the_spans_of_every_sample_are_those_of_the_character():
    samples, _, _ = build(written=[HELLO, LONG], max_words=24)
    for sample in samples:
        texts = [
            sample["output"][start:end] for start, end in trained_spans(sample["output"], "Anna", "character")
        ]
        assert texts
        assert all(text.startswith(("speaking): ", "thinking): ")) for text in texts)


def test_the_meta_prompt_is_short_and_complete():
    source = (Path(__file__).parents[2] / "prompts/meta.j2").read_text("utf-8")
    text = render(source, "meta.j2", name="Anna Berg", short_name="Anna")
    assert text.startswith("You are Anna Berg.")
    assert len(text.split()) <= 60


# -- released and general data ---------------------------------------------------------------------------------------


def lines(*values):
    return File("\n".join(json.dumps(value) for value in values).encode(), "data.jsonl")


def build_released(form, file, **more):
    return dataset.build_released(
        form=form,
        file=file,
        profile=PROFILE,
        meta=META,
        name="Anna Holm",
        short_name="Anna",
        max_words=29,
        **more,
    )


RELEASED = [
    {"prompt": "P1\n\n", "output": "Man (speaking): Who?<|eot|>\nAnna (laughing): Me,\nof course.<|eot|>"},
    {"prompt": "P2\n\n", "output": "Anna (speaking): Hm.<|eot|>"},
    {"prompt": "P2\n\n", "output": "Man (speaking): Hm.<|eot|>"},
    {"prompt": "P3\n\n", "output": "cut"},
]
RAW = {
    "setting": ["It rains."],
    "location": "Bergen",
    "dialogue": [
        {"role": "Man", "action": "", "content": "one two three four five six seven?"},
        {"role": "Anna", "action": "(speaking)", "content": "eight nine ten eleven twelve."},
        {"role": "Man", "action": "(speaking)", "content": "thirteen fourteen fifteen sixteen?"},
        {"role": "Anna", "action": "(speaking)", "content": "seventeen eighteen nineteen."},
    ],
}
GENERAL = lines(*({"prompt": f"Say {n}.", "output": str(n)} for n in range(9)))


def test_released_samples_stay_word_for_word_and_are_counted():
    samples, stats, rejected = build_released("prompted", lines(*RELEASED))
    assert [(s["prompt"], s["output"]) for s in samples] == [(r["prompt"], r["output"]) for r in RELEASED[:3]]
    assert [row["detail"] for row in rejected] == ["line 4: output does not end in <|eot|>"]
    assert stats["all"] == {
        "scenes": 3,
        "released": 3,
        "words": 6,
        "mean_turns": 1.3,
        "mean_words": 2.0,
        "samples": 3,
        "split": 0,
    }
    assert stats["without_character"] == 1
    assert stats["speakers"] == {"Anna": 2, "Man": 2}
    assert [len(trained_spans(s["output"], "Anna", "character")) for s in samples] == [1, 1, 0]
    assert stats["samples"] == {"by_kind": {"dialogue": 3}, "by_origin": {"released": 3}}
    assert stats["rejected"] == {"cut-off": 1}


def test_raw_dialogues_get_our_prompt_and_are_split_like_ours():
    samples, stats, rejected = build_released("generated", lines(RAW, RAW))
    assert rejected == []
    assert [(s["source"]["id"], s["source"]["part"]) for s in samples] == [
        ("released/0000001", 1),
        ("released/0000001", 2),
        ("released/0000002", 1),
        ("released/0000002", 2),
    ]
    assert samples[0] == {
        "prompt": "You are Anna.\n\nLocation: Bergen\nStatus: It rains.\n\n",
        "output": "Man (speaking): one two three four five six seven?<|eot|>\n"
        "Anna (speaking): eight nine ten eleven twelve.<|eot|>\n",
        "kind": "dialogue",
        "source": {"id": "released/0000001", "origin": "released", "part": 1, "paragraphs": []},
    }
    assert (stats["all"]["released"], stats["all"]["samples"], stats["all"]["split"]) == (2, 4, 2)
    assert [spans for s in samples for spans in trained_spans(s["output"], "Anna", "character")]


def test_general_samples_are_mixed_in_by_ratio_and_counted_beside():
    plain, before, _ = build_released("prompted", lines(*RELEASED))
    mix = dataset.Mix(GENERAL, 1.4, 0)
    samples, stats, _ = build_released("prompted", lines(*RELEASED), mix=mix)
    assert [s for s in samples if s["kind"] != "general"] == plain
    assert stats["general"] == {"wanted": 4, "there": 9, "taken": 4}
    assert stats["samples"] == {
        "by_kind": {"dialogue": 3, "general": 4},
        "by_origin": {"general": 4, "released": 3},
    }
    assert stats["all"] == before["all"]
    _, stats, _ = build_released("prompted", lines(*RELEASED), mix=dataset.Mix(GENERAL, 100, 0))
    assert stats["general"] == {"wanted": 300, "there": 9, "taken": 9}


def test_what_this_build_made_is_mixed_with_general_samples_too():
    mix = dataset.Mix(GENERAL, 0.01, 7)
    samples, stats, _ = build(written=[HELLO], mix=mix)
    assert [s["kind"] for s in samples] == ["general", "dialogue"]
    assert stats["general"] == {"wanted": 1, "there": 9, "taken": 1}
    assert build(written=[HELLO])[0] == samples[1:]
    assert build(mix=mix)[0] == []
