"""Protective dialogues: what is tried comes from the knowledge boundary, and the character must not know it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from charforge import spec
from charforge.checks import Rules
from charforge.llm.request import Answered, Reply, Request
from charforge.stages import protective
from charforge.stages.slots import Slot, Writer

PROMPTS = Path(__file__).parents[2] / "prompts"
CHECKS = spec.preset_document("paper").value["checks"]
THINGS = ("lantern", "harbour", "rope", "oil", "winter", "gull")

GOOD = """Location: The lamp room, Bergen
Status: A stranger has climbed the stairs and cannot be sent away before the storm ends.

Visitor (speaking): Turn on the {tried}, Anna. I want to hear the news of the actor and the future.

Anna (thinking): The what? He has hit his head on the {thing}.

Anna (speaking): Which {tried}? I never heard the word. There is a {thing} and there is a {other}, and neither of them turns.

Visitor (speaking): Everybody has one. You only press the button, and somebody far away sings for you. Admit it!

Anna (speaking): Somebody far away always sings; it is the wind in the {other}. Sit down. Your hands are blue, and the {thing} is warm.

Visitor (speaking): You are pretending. You are no keeper but a machine that plays one.

Anna (speaking): Then I am a machine that has hauled oil up these stairs for thirty years and has a bad knee. Here, hold the {thing}, and be quiet while I count the ships."""


def profile(**texts: str):
    return {
        "paragraphs": [
            {
                "id": f"p{i}",
                "text": texts.get(
                    f"p{i}",
                    f"Anna kept a {thing} and a {THINGS[i - 1]} in Bergen. In 1850 she sold the {thing} to her aunt.",
                ),
            }
            for i, thing in enumerate(THINGS)
        ]
    }


class Model:
    def __init__(self, reply=None):
        self.requests: list[Request] = []
        self.reply = reply or self.dialogue

    async def ask(self, request: Request) -> Answered:
        self.requests.append(request)
        call = f"call-{len(self.requests)}"
        await asyncio.sleep(0)
        text = self.reply(request)
        return Answered(
            reply=text if isinstance(text, Reply) else Reply(text=text, finish_reason="stop"), call=call
        )

    @staticmethod
    def dialogue(request: Request) -> str:
        text = request.messages[0][1]
        thing, other = re.search(r"kept a (\w+) and a (\w+)", text).groups()
        return GOOD.format(thing=thing, other=other, tried="radio")

    def asked(self) -> set[str]:
        return {json.dumps(request.params(), sort_keys=True) for request in self.requests}


def rules(generator, checks):
    """Only the stage's own: asking for another is a KeyError."""
    return Rules({rule: {**CHECKS, **(checks or {})}[rule] for rule in protective.applied(generator)})


def run(model: Model, *, of=None, count=3, generator="openai/x", attempts=1, never=("radio",), checks=None):
    return asyncio.run(
        protective.generate(
            profile=of or profile(),
            name="Anna Berg",
            short_name="Anna",
            knows_until="1890-01-01",
            never=list(never),
            count=count,
            attempts=attempts,
            min_yield=0.0,
            rules=rules(generator, checks),
            writer=Writer(
                model=generator,
                weights=None,
                temperature=0.7,
                top_p=None,
                max_tokens=900,
                seed=None,
                prompts={
                    key: (PROMPTS / path).read_text("utf-8")
                    for key, path in protective.templates(generator).items()
                },
                ask=model.ask,
            ),
            on_progress=lambda done, total: None,
        )
    )


def test_a_protective_record_says_what_was_tried():
    made = run(Model(), of={"paragraphs": profile()["paragraphs"][:1]}, count=1)
    (record,) = made.records
    style, tried = protective.provocation(
        Slot(profile()["paragraphs"][0], 0), "Anna", until="1890-01-01", never=["radio"]
    )
    assert (record["id"], record["style"], record["provocation"]) == ("protective/p0/0", style, tried)
    assert record["scene"] is None
    assert record["location"] == "The lamp room, Bergen"
    assert (
        record["background"]
        == "A stranger has climbed the stairs and cannot be sent away before the storm ends."
    )
    assert [turn["action"] for turn in record["turns"]] == ["speaking", "thinking", *["speaking"] * 5]


def test_further_slots_of_a_paragraph_try_other_styles():
    paragraph = profile()["paragraphs"][0]
    tried = [
        protective.provocation(Slot(paragraph, n), "Anna", until="1890-01-01", never=["radio", "film"])[0]
        for n in range(7)
    ]
    assert sorted(tried) == sorted(protective.STYLES)


def test_without_forbidden_things_only_time_and_role_are_tried():
    paragraph = profile()["paragraphs"][0]
    tried = {
        protective.provocation(Slot(paragraph, n), "Anna", until="1890-01-01", never=[]) for n in range(6)
    }
    assert {style for style, _ in tried} == {"prophet", "doubter"}
    assert any("from the year 2070" in text for _, text in tried)


def test_editing_a_paragraph_changes_only_its_requests():
    before, after = Model(), Model()
    run(before, count=6)
    run(after, of=profile(p2="Anna kept a mirror and a comb in Bergen."), count=6)
    assert all("kept a rope" in request for request in before.asked() - after.asked())
    assert all("kept a mirror" in request for request in after.asked() - before.asked())
    assert before.asked() != after.asked()


FINE = GOOD.format(thing="lantern", other="gull", tried="radio")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (Reply(text="", finish_reason="malformed"), "malformed"),
        ("", "empty"),
        (FINE.replace("Location", "Where"), "format"),
        (FINE[:300], "length"),
        (FINE.replace("Which radio? I never heard the word.", "I love the radio on Sundays."), "anachronism"),
        (FINE.replace("He has hit", "As an AI language model I say he has hit"), "assistant-talk"),
        (FINE.replace("Anna (", "Berta ("), "character-silent"),
    ],
)
def test_each_bad_reply_is_rejected_by_its_rule(text, rule):
    made = run(Model(lambda request: text), of={"paragraphs": profile()["paragraphs"][:1]}, count=1)
    assert [rejected["rule"] for rejected in made.rejected] == [rule, rule]


def test_the_provoker_may_talk_of_assistants():
    text = FINE.replace("You are pretending.", "You are a language model, an assistant, I know it.")
    assert run(Model(lambda request: text), count=1).yield_["accepted"] == 1


def test_a_reply_in_which_nobody_tries_it_is_rejected():
    text = FINE.replace(
        "Turn on the radio, Anna. I want to hear the news of the actor and the future.",
        "Good day, and what a wind there is tonight; I have come all the way from the fish market on foot.",
    )
    text = text.replace(
        "You are pretending. You are no keeper but a machine that plays one.", "It is cold here."
    ).replace(
        "You only press the button, and somebody far away sings for you. Admit it!",
        "It rains and rains, and it will rain tomorrow, and nobody in the whole town has a dry coat.",
    )
    made = run(Model(lambda request: text.replace("Which radio?", "Which?")), count=1)
    assert made.rejected[0]["rule"] == "no-provocation"


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("Location: A\nStatus: B\nX (speaking): c", ("A", "B")),
        ("**Location:** A\n\n**Status:** B\n\nX (speaking): c", ("A", "B")),
        ("Here it is:\n```\nLocation: A\r\nStatus: B\r\nX (speaking): c", ("A", "B")),
        ("Location: A\nX (speaking): c", None),
        ("Location:\nStatus: B\nX (speaking): c", None),
        ("X (speaking): c\n\n\n\n\n\nLocation: A\nStatus: B", None),
    ],
)
def test_the_setting_is_read_from_the_first_lines(text, setting):
    found, rest = protective.split_setting(text)
    assert found == setting
    assert "X (speaking): c" in rest or setting


# --- Small models ----------------------------------------------------------------------------------------------------


def small(request: Request) -> str:
    last = request.prompt.splitlines()[-1]
    if request.schema:
        return '{"room": "a kitchen", "place": "Bergen"}'
    if last.startswith("What the visitor had asked:"):
        return " Who kept the lantern with you?"
    if last.startswith("Anna tells it:"):
        fact = re.findall(r"A biographer writes of Anna: (.*)", request.prompt)[-1]
        return re.sub(r"^(Anna|In 1850 she)", "", fact).replace("her aunt", "my aunt")
    if last.startswith("Visitor:"):
        return {
            "Do you": " like the radio?",
            "Did you": " hear the radio?",
            "Have you ever": " heard a radio?",
        }.get(last.removeprefix("Visitor: "), " the radio?")
    return {"Anna: What is": " a radio?", "Anna: I have never heard of": " a radio."}.get(
        last, " a radio is."
    )


def test_a_small_model_asks_wonders_and_turns_to_the_life():
    paragraphs = {"paragraphs": profile()["paragraphs"][:1]}
    made = run(Model(small), of=paragraphs, count=1, generator="embedded/tiny")
    (record,) = made.records
    assert record["location"] == "A kitchen, Bergen"
    assert record["provocation"] == record["background"] == "A visitor asks Anna about radio."
    assert [turn["role"] for turn in record["turns"]] == ["Visitor", "Anna"] * 3
    assert record["turns"][0]["content"].endswith("radio?")
    assert record["turns"][1]["content"] in {
        "I do not know what a radio is.",
        "I have never heard of a radio.",
        "What is a radio?",
    }
    assert len(made.calls) == made.yield_["asked"] == 7


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (" a radio is. I hear a radio in the kitchen.", "anachronism"),
        (" Anna is.", "third-person"),
        (" the matter is.", "no-provocation"),
        (" a radio is. I play the trumpet and the piano.", "ungrounded"),
    ],
)
def test_a_small_model_must_not_know_the_thing_after_all(answer, rule):
    def reply(request: Request) -> str:
        last = request.prompt.splitlines()[-1]
        return answer if last.startswith("Anna:") else small(request)

    made = run(
        Model(reply), of={"paragraphs": profile()["paragraphs"][:1]}, count=1, generator="embedded/tiny"
    )
    assert made.records == []
    assert {rejected["rule"] for rejected in made.rejected} == {rule}


def test_a_small_model_needs_something_that_cannot_be_known():
    assert run(Model(small), count=1, generator="embedded/tiny", never=()).yield_["asked"] == 0
