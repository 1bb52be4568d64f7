"""Scenes are asked for paragraph by paragraph; a request knows its paragraph's text and nothing of the others."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from charforge import spec
from charforge.checks import Rules
from charforge.errors import CharForgeError
from charforge.llm.request import Answered, Reply, Request
from charforge.stages import scenes
from charforge.stages.slots import Writer

PROMPTS = Path(__file__).parents[2] / "prompts"
CHECKS = spec.preset_document("paper").value["checks"]
WORDS = (
    "lantern",
    "harbour",
    "rope",
    "oil",
    "winter",
    "gull",
    "ladder",
    "brass",
    "ledger",
    "storm",
    "bread",
    "kettle",
    "wool",
    "anchor",
    "chart",
    "bell",
)


def profile(count: int = 16, **texts: str):
    return {
        "name": "Anna Berg",
        "paragraphs": [
            {
                "id": f"p{i}",
                "number": i,
                "section": "",
                "text": texts.get(
                    f"p{i}",
                    f"Anna kept a {WORDS[i]} and a {WORDS[i - 1]} in Bergen. In 1850 she sold the {WORDS[i]} to her aunt.",
                ),
            }
            for i in range(count)
        ],
    }


class Model:
    """Writes a scene about the paragraph in the request; remembers the requests."""

    def __init__(self, reply=None):
        self.requests: list[Request] = []
        self.reply = reply or self.scene

    async def ask(self, request: Request) -> Answered:
        self.requests.append(request)
        call = f"call-{len(self.requests)}"
        await asyncio.sleep(0)
        text = self.reply(request)
        reply = text if isinstance(text, Reply) else Reply(text=text, finish_reason="stop")
        return Answered(reply=reply, call=call)

    @staticmethod
    def thing(request: Request) -> tuple[str, str]:
        return re.findall(
            r"kept a (\w+) and a (\w+)", request.messages[0][1] if request.messages else request.prompt
        )[-1]

    def scene(self, request: Request) -> str:
        one, two = self.thing(request)
        background = f"{one} {request.draw} {two} lie on the floor; somebody wants the {one} {request.draw % 7} and cries about the {two}."
        return json.dumps({"location": f"Bergen, {one}", "background": background})

    def asked(self) -> set[str]:
        return {json.dumps(request.params(), sort_keys=True) for request in self.requests}


def rules(generator, checks):
    """Only the stage's own: asking for another is a KeyError."""
    return Rules({rule: {**CHECKS, **(checks or {})}[rule] for rule in scenes.applied(generator)})


def run(
    model: Model,
    *,
    of=None,
    count=4,
    generator="openai/x",
    attempts=2,
    min_yield=0.0,
    never=("radio",),
    per_call=1,
    checks=None,
):
    return asyncio.run(
        scenes.generate(
            profile=of or profile(),
            name="Anna Berg",
            short_name="Anna",
            knows_until="1890-01-01",
            never=list(never),
            count=count,
            attempts=attempts,
            min_yield=min_yield,
            per_call=per_call,
            rules=rules(generator, checks),
            writer=Writer(
                model=generator,
                weights=None,
                temperature=0.7,
                top_p=0.9,
                max_tokens=500,
                seed=3,
                prompts={
                    key: (PROMPTS / path).read_text("utf-8")
                    for key, path in scenes.templates(generator).items()
                },
                ask=model.ask,
            ),
            on_progress=lambda done, total: None,
        )
    )


def test_a_scene_record_says_where_it_comes_from():
    made = run(Model(), of=profile(1), count=1)
    (record,) = made.records
    assert record == {
        "id": "scene/p0/0",
        "kind": "generated",
        "type": record["type"],
        "location": "Bergen, lantern",
        "background": "lantern 0 bell lie on the floor; somebody wants the lantern 0 and cries about the bell.",
        "paragraph": "p0",
        "n": 0,
        "draw": 0,
    }
    assert made.calls == [{"id": "scene/p0/0", "call": "call-1"}]


def test_a_request_is_complete_and_holds_the_paragraph_but_not_its_name():
    model = Model()
    run(model, of=profile(1), count=1)
    (request,) = model.requests
    text = request.messages[0][1]
    assert "Anna kept a lantern" in text
    assert "1890-01-01" in text
    assert "radio" in text
    assert "p0" not in text
    assert (request.model, request.max_tokens, request.temperature, request.top_p, request.seed) == (
        "openai/x",
        500,
        0.7,
        0.9,
        3,
    )
    assert request.schema == scenes.SCHEMA


def test_editing_a_paragraph_changes_only_its_requests():
    before, after = Model(), Model()
    run(before, count=20)
    run(after, of=profile(p4="Anna kept a mirror and a comb in Bergen."), count=20)
    gone, new = before.asked() - after.asked(), after.asked() - before.asked()
    assert len(gone) == len(new) == 2  # twenty scenes of sixteen paragraphs: this one has two
    assert all("kept a winter" in request for request in gone)
    assert all("kept a mirror" in request for request in new)


def test_moving_or_renaming_a_paragraph_changes_no_request():
    renamed = profile(4)
    renamed["paragraphs"][2]["id"] = "other"
    before, after = Model(), Model()
    run(before, of=profile(4))
    run(after, of=renamed)
    assert before.asked() == after.asked()


def test_more_scenes_ask_only_for_the_new_ones():
    fewer, more = Model(), Model()
    run(fewer, count=12)
    run(more, count=16)
    assert fewer.asked() < more.asked()
    assert len(more.asked() - fewer.asked()) == 4


def test_scenes_of_one_paragraph_are_of_different_kinds():
    made = run(Model(), of=profile(1), count=3)
    assert len({record["type"] for record in made.records}) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"location": "Bonn", "background": "It rains."}', {"location": "Bonn", "background": "It rains."}),
        (
            'Sure:\n```json\n{"location": "Bonn", "background": "It\\nrains.", "mood": 1}\n```',
            {"location": "Bonn", "background": "It rains."},
        ),
        ("**Location:** Bonn\n**Background:** It rains.", {"location": "Bonn", "background": "It rains."}),
        ("Location: Bonn\nStatus: It rains.", {"location": "Bonn", "background": "It rains."}),
        ('{"location": "Bonn", "background": ""}', None),
        ('{"location": "Bonn", "background": ["It rains."]}', None),
        ('{"location": "Bonn", "backgr', None),
        ("{" * 5000, None),
        ("It rains in Bonn.", None),
    ],
)
def test_a_scene_is_read_from_json_or_from_lines(text, found):
    items = scenes.read_scenes(text)
    assert (scenes.read_scene(items[0]) if items else None) == found


def rule_for(text: str | Reply) -> str:
    made = run(Model(lambda request: text), of=profile(1), count=1, attempts=1)
    assert made.records == []
    assert made.yield_["asked"] == 2  # two slots
    return made.rejected[0]["rule"]


def scene(background: str, location: str = "Bergen") -> str:
    return json.dumps({"location": location, "background": background})


def test_each_bad_reply_is_rejected_by_its_rule():
    assert rule_for(Reply(text="", finish_reason="filtered")) == "refused"
    assert rule_for(Reply(text="not JSON: 'b\\x00'", finish_reason="malformed")) == "malformed"
    assert rule_for(" \n") == "empty"
    assert rule_for("I would write about the lantern.") == "format"
    assert rule_for("I'm sorry, but I can't help with that.") == "refused"
    assert rule_for(scene("A lantern.")) == "length"
    assert (
        rule_for(scene("As an AI language model I see a lantern and a bell in Bergen, says Anna."))
        == "assistant-talk"
    )
    assert (
        rule_for(
            scene(
                "Die Frau ist nicht im Haus und das Kind hat auch den lantern und die bell nicht, aber sie kommt."
            )
        )
        == "foreign-language"
    )
    assert (
        rule_for(
            scene("The lantern and the bell: at least one other person who could have been there speaks too.")
        )
        == "copied-prompt"
    )
    assert (
        rule_for(scene("At night Anna kept a lantern and a bell in Bergen. In 1850 she sold it."))
        == "copied-paragraph"
    )
    assert rule_for(scene("Anna sits in the kitchen with somebody who is tired.")) == "ungrounded"
    assert rule_for(scene("Anna turns on the radio beside the lantern and the bell.")) == "anachronism"
    assert rule_for(scene("In 1950 Anna sits beside the lantern and the bell.")) == "anachronism"


def test_rejected_replies_are_kept_with_their_call():
    made = run(Model(lambda request: "nonsense"), of=profile(1), count=1, attempts=2)
    assert made.rejected[0] == {
        "id": "scene/p0/0/0",
        "rule": "format",
        "detail": "no JSON object with location and background",
        "text": "nonsense",
        "call": "call-1",
    }
    assert [rejected["id"] for rejected in made.rejected] == [
        "scene/p0/0/0",
        "scene/p0/0/1",
        "scene/p0/1/0",
        "scene/p0/1/1",
    ]


@pytest.mark.parametrize(
    ("background", "rule"),
    [
        ("A lantern.", "length"),
        ("As an AI language model I see a lantern and a bell in Bergen, says Anna.", "assistant-talk"),
        ("At night Anna kept a lantern and a bell in Bergen. In 1850 she sold it.", "copied-paragraph"),
        ("Anna sits in the kitchen with somebody who is tired.", "ungrounded"),
        ("Anna turns on the radio beside the lantern and the bell.", "anachronism"),
    ],
)
def test_a_rule_that_is_switched_off_rejects_nothing(background, rule):
    asked = {"of": profile(1), "count": 1, "attempts": 1}
    assert rule in run(Model(lambda request: scene(background)), **asked).yield_["rejected"]
    off = run(Model(lambda request: scene(background)), **asked, checks={rule: False})
    assert rule not in off.yield_["rejected"]


# --- Several scenes a call -------------------------------------------------------------------------------------------


FIT = [
    {
        "kind": "a lesson",
        "location": "Bergen",
        "background": f"Anna and her aunt {doing} the lantern and the bell {why}.",
    }
    for doing, why in (
        ("polish", "because a visitor is coming up from the harbour"),
        ("hide", "from two customs men who knock on doors"),
        ("weigh", "and quarrel over what they would bring in winter"),
        ("drop", "down the stairs, and neither wants to have let go"),
    )
]


def listed(items, **more) -> Reply:
    return Reply(text=json.dumps({"scenes": items}), finish_reason=more.get("finish_reason", "stop"))


def test_several_scenes_come_of_one_call():
    model = Model(lambda request: listed(FIT[:3]))
    made = run(model, of=profile(1), count=3, per_call=3)
    assert len(model.requests) == 1
    assert [(record["id"], record["n"], record["type"]) for record in made.records] == [
        ("scene/p0/0/0", 0, "lesson"),
        ("scene/p0/0/1", 1, "lesson"),
        ("scene/p0/0/2", 2, "lesson"),
    ]
    assert {entry["call"] for entry in made.calls} == {"call-1"}
    assert made.yield_ == {"asked": 1, "accepted": 3, "rejected": {}, "wanted": 3}
    (request,) = model.requests
    assert request.schema == scenes.LIST_SCHEMA
    asked = request.messages[0][1]
    assert "Imagine 3 scenes." in asked
    assert len(set(re.findall(r"(?m)^[123]\. (.*)$", asked)) & set(scenes.KINDS)) == 3


def test_each_scene_of_a_list_is_judged_by_itself():
    items = [FIT[0], {**FIT[1], "background": "Hm."}, "no scene", {"location": "Bergen"}, FIT[2]]
    made = run(Model(lambda request: listed(items)), of=profile(1), count=5, per_call=5, attempts=1)
    assert [record["id"] for record in made.records][:2] == ["scene/p0/0/0", "scene/p0/0/4"]
    first = [rejected for rejected in made.rejected if rejected["call"] == "call-1"]
    assert [(rejected["id"], rejected["rule"]) for rejected in first] == [
        ("scene/p0/0/1/0", "length"),
        ("scene/p0/0/2/0", "format"),
        ("scene/p0/0/3/0", "format"),
    ]
    assert json.loads(first[0]["text"]) == items[1]


def test_a_short_list_is_no_fault_and_a_long_one_is_surplus():
    made = run(Model(lambda request: listed(FIT[:2])), of=profile(1), count=2, per_call=3)
    assert (made.yield_["accepted"], made.yield_["rejected"]) == (2, {})
    made = run(Model(lambda request: listed(FIT[:3])), of=profile(1), count=2, per_call=2)
    assert (made.yield_["accepted"], made.yield_["rejected"]) == (2, {"surplus": 1})


def test_of_a_list_that_was_cut_off_nothing_is_taken():
    cut = Reply(text=json.dumps({"scenes": FIT})[:-40], finish_reason="length")
    made = run(Model(lambda request: cut), of=profile(1), count=4, per_call=4, attempts=1)
    assert made.records == []
    assert set(made.yield_["rejected"]) == {"cut-off"}


def test_what_a_reasoning_model_thought_is_no_scene():
    thought = Reply(
        text=f"<think>{scene('A draft about the lantern and the bell, not yet good at all.')}</think>",
        finish_reason="stop",
    )
    assert rule_for(thought) == "format"
    said = replace(thought, text=thought.text + listed(FIT[:2]).text)
    made = run(Model(lambda request: said), of=profile(1), count=2, per_call=2)
    assert [record["background"] for record in made.records] == [each["background"] for each in FIT[:2]]


def test_later_lists_of_a_paragraph_have_numbers_of_their_own():
    def reply(request):
        part = request.draw // 1000
        return listed(FIT[2 * part : 2 * part + 2])

    made = run(Model(reply), of=profile(1), count=4, per_call=2)
    assert [(record["id"], record["n"]) for record in made.records] == [
        ("scene/p0/0/0", 0),
        ("scene/p0/0/1", 1),
        ("scene/p0/1/0", 2),
        ("scene/p0/1/1", 3),
    ]


def test_a_small_model_writes_one_scene_a_call_whatever_the_spec_says():
    made = run(Small(), of=profile(1), count=1, generator=SMALL, per_call=16)
    assert [record["id"] for record in made.records] == ["scene/p0/0"]


@pytest.mark.parametrize(
    "text",
    [
        '{"scenes": [{"location": "A", "background": "b"}, {"location": "C", "background": "d"}]}',
        '[{"location": "A", "background": "b"}, {"location": "C", "background": "d"}]',
        'Here they are:\n```json\n[\n  {"location": "A", "background": "b"},\n  {"location": "C", "background": "d"}\n]\n```\nEnjoy [them]!',
        '{"location": "A", "background": "b"}\n{"location": "C", "background": "d"}',
        '1. {"location": "A", "background": "b"}\n2. {"location": "C", "background": "d"}',
        "### Scene 1\n**Location:** A\n**Background:** b\n\n### Scene 2\n**Location:** C\n**Background:** d",
        "1. Kind: a lesson\n   Location: A\n   Status: b\n2. Kind: a quarrel\n   Location: C\n   Status: d",
    ],
)
def test_a_list_of_scenes_is_read_in_whatever_form(text):
    found = [scenes.read_scene(item) for item in scenes.read_scenes(text)]
    assert found == [{"location": "A", "background": "b"}, {"location": "C", "background": "d"}]


# --- Small models ----------------------------------------------------------------------------------------------------

SMALL = "embedded/tiny"


class Small(Model):
    """Chooses the first of what the schema allows, and asks about the first thing of the paragraph."""

    def scene(self, request: Request) -> str:
        if request.schema:
            return json.dumps({key: value["enum"][0] for key, value in request.schema["properties"].items()})
        return f" the {self.thing(request)[0]}."


def test_a_small_model_chooses_a_place_and_names_a_subject():
    model = Small()
    made = run(model, of=profile(1), count=1, generator=SMALL)
    (record,) = made.records
    assert record["location"] == "A kitchen, Bergen"
    assert record["background"] == "A visitor asks Anna about the lantern."
    assert made.calls == [{"id": "scene/p0/0", "call": "call-1"}, {"id": "scene/p0/0", "call": "call-2"}]
    place, topic = model.requests
    assert place.messages is None
    assert place.prompt.endswith("her aunt.")
    assert topic.prompt.endswith("\nA visitor asks Anna about")
    assert (place.stop, topic.stop) == ((), ("\n",))


@pytest.mark.parametrize(
    ("topic", "rule"),
    [
        (" her dog", "format"),
        (" it.", "length"),
        (" the lantern and the elephant.", "ungrounded"),
        (" the lantern and the lantern.", "repetition"),
    ],
)
def test_a_small_model_may_name_only_what_the_paragraph_tells(topic, rule):
    def reply(request):
        return '{"room": "a kitchen"}' if request.schema else topic

    made = run(Small(reply), of=profile(1), count=1, generator=SMALL, attempts=1)
    assert made.records == []
    assert made.rejected[0]["rule"] == rule


def test_a_profile_that_a_small_model_cannot_retell_is_told():
    told = profile(1, p0="The harbour was cold. Nobody came.")
    with pytest.raises(CharForgeError) as caught:
        run(Small(), of=told, count=1, generator=SMALL, min_yield=0.5)
    assert caught.value.message == "no paragraph of the profile has 2 sentences about what 'he' or 'Anna' did"


def test_where_any_yield_will_do_such_a_profile_gives_nothing():
    made = run(Small(), of=profile(1, p0="The harbour was cold. Nobody came."), count=1, generator=SMALL)
    assert made.records == []
    assert made.yield_ == {"asked": 0, "accepted": 0, "rejected": {}, "wanted": 1}
