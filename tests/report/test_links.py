"""An answer leads to samples by words, to dialogues, scenes and paragraphs; nothing else gets into the appendix."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from charforge.report import words
from charforge.report.links import Links, reason
from charforge.stages import judging

PROFILE = {
    "paragraphs": [
        {"id": name, "number": number, "section": "", "text": f"About {name}."}
        for number, name in enumerate(("lamp", "sea", "bread"), 1)
    ]
}
TEXTS = {
    "written/lamp": "Anna (speaking): The lamp burned oil from Bremen all winter.",
    "written/sea": "Anna (speaking): The storm drowned three fishermen from Sylt.",
    "dialogue/lamp/0": "Anna (speaking): The lamp burned oil from Bremen all winter.",
    "held/out": "Anna (speaking): The storm drowned three fishermen from Sylt.",
}
SCENE = {
    "id": "scene/sea",
    "type": "chat",
    "location": "Quay",
    "background": "It storms.",
    "paragraph": "sea",
}
DIALOGUE = {
    "id": "written/sea",
    "kind": "written",
    "scene": "scene/sea",
    "title": "The storm",
    "paragraphs": ["bread"],
    "location": "Quay.",
    "background": "A boat is late.",
    "turns": [{"role": "Anna", "action": "thinking", "content": "Late."}],
}


def links(**changed):
    sft = [
        {"prompt": "Be Anna. ", "output": text, "kind": "dialogue", "source": {"id": name, "part": part}}
        for name, text in TEXTS.items()
        for part in (1, 2)
    ]
    given = {
        "profile": PROFILE,
        "sft": sft,
        "dialogues": [DIALOGUE],
        "scenes": [SCENE],
        "held_out": ["held/out"],
    }
    return Links(**given | changed)


def test_nearest_are_the_samples_with_the_most_telling_words_each_source_once_ties_to_the_earlier():
    found = links().nearest("Did the lamp burn oil in winter?")
    assert [one["title"] for one in found] == ["written/lamp", "dialogue/lamp/0"]


def test_what_was_held_out_was_not_trained_on_and_is_not_near():
    assert [one["title"] for one in links().nearest("Three fishermen drowned in a storm off Sylt.")] == [
        "written/sea"
    ]


def test_too_few_common_words_are_not_near():
    made = links()
    assert made.nearest("Oil?") == []
    assert made.nearest("") == []
    assert made.samples("Anna") == []
    assert links(sft=[]).nearest("The lamp burned oil.") == []


def test_the_appendix_holds_what_was_linked_to_and_nothing_else():
    made = links()
    made.nearest("Three fishermen drowned in a storm off Sylt.")
    (sample,) = made.samples("Anna")
    assert (sample["title"], sample["location"], sample["scene"]["background"]) == (
        "The storm",
        "Quay",
        "It storms.",
    )
    assert [one["title"] for one in sample["paragraphs"]] == ["bread", "sea"]
    assert [one["id"] for one in made.paragraphs()] == ["sea", "bread"]


def test_a_sample_without_a_dialogue_of_ours_is_shown_as_it_was_trained_on():
    made = links()
    made.sample("written/lamp")
    (sample,) = made.samples("Anna")
    assert sample["text"].startswith("Be Anna. Anna (speaking): The lamp burned")
    assert sample["paragraphs"] == []


def test_what_is_not_there_is_named_and_not_linked():
    made = links()
    assert made.paragraph("nowhere", 7) == {"href": "", "text": "paragraph 7"}
    assert made.sample("nowhere") == {"href": "", "text": "nowhere"}
    assert made.samples("Anna") == made.paragraphs() == []


@given(st.text(), st.text())
def test_an_anchor_is_safe_whatever_the_id_and_differs_with_it(one, other):
    assert re.fullmatch(r"answer-[0-9a-f]{12}", words.anchor("answer", one))
    assert (words.anchor("answer", one) == words.anchor("answer", other)) == (one == other)


def test_the_reason_of_a_verdict_is_what_its_json_gives_and_else_its_words():
    assert reason(json.dumps({"reason": " Knows the lamp. ", "score": 5}), 100) == "Knows the lamp."
    assert reason("Fine.\n\n Score: 5", 100) == "Fine. Score: 5"
    assert reason('{"score": 5}', 100) == '{"score": 5}'
    assert reason("[" * 100_000, 10) == "[[[[[[[[[[ …"
    assert reason("", 10) == ""


def test_the_order_of_dimensions_is_the_judges():
    assert words.DIMENSIONS == judging.DIMENSIONS


def test_amounts_as_a_reader_sees_them():
    assert words.amount("share", 0.0512) == "5.1\u202f%"
    assert words.amount("share", -0.2, signed=True) == "−20"
    assert words.amount("share", 0.0, signed=True) == "±0"
    assert words.amount("count", 1200.0) == "1\u202f200"
    assert words.amount("words", 61.25) == "61.2"
    assert words.amount("score", 4.0) == "4.00"
    assert words.between("score", None, None) == ""
    assert words.listed(["a", "b", "c"]) == "a, b and c"
