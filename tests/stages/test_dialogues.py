"""Dialogues are asked for scene by scene; whatever is not a clean dialogue of the scene is rejected with its reason."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from charforge import spec
from charforge.checks import ALWAYS, Rules
from charforge.errors import CharForgeError
from charforge.llm.request import Answered, Reply, Request
from charforge.stages import dialogues
from charforge.stages.slots import Writer

PROMPTS = Path(__file__).parents[2] / "prompts"
CHECKS = spec.preset_document("paper").value["checks"]
THINGS = ("lantern", "harbour", "rope", "oil", "winter", "gull")

GOOD = """**Aunt (speaking):** Give me the {thing}, Anna! It was never yours.

**Anna Berg (thinking):** She has been drinking again.

**Anna Berg (speaking):** The {thing} stays where I hung it. You may have the {other}: it is worth more, and less to me.

**Aunt (speaking):** And what would I do with a {other} in this house?

**Anna Berg (speaking):** What I did with it for ten years. Look at it, and be cross with me."""


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


def scenes(count: int = 6):
    return [
        {
            "id": f"scene/p{i}/0",
            "kind": "generated",
            "type": "quarrel",
            "location": "Bergen",
            "background": f"The aunt wants the {THINGS[i]}.",
            "paragraph": f"p{i}",
            "n": 0,
            "draw": 1,
        }
        for i in range(count)
    ]


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
        thing, other = re.search(r"kept a (\w+) and a (\w+)", request.messages[0][1]).groups()
        return (
            f"Aunt (speaking): Is my {thing} here? I want the {thing}, not that {other}!\n"
            f"Anna Berg (thinking): A {thing} for her, a {other} for me, as ever.\n"
            f"Anna Berg (speaking): Take the {other}, aunt. This {thing} stays, and no {other} pays for a {thing}.\n"
            f"Aunt (speaking): Your {other} leaks, your {thing} smokes!"
        )

    def asked(self) -> set[str]:
        return {json.dumps(request.params(), sort_keys=True) for request in self.requests}


def rules(generator, checks):
    """Only the stage's own: asking for another is a KeyError."""
    return Rules({rule: {**CHECKS, **(checks or {})}[rule] for rule in dialogues.applied(generator)})


def arguments(
    model: Model, *, generator="openai/x", attempts=2, min_yield=0.0, min_turns=4, min_words=30, checks=None
):
    return {
        "name": "Anna Berg",
        "short_name": "Anna",
        "knows_until": "1890-01-01",
        "never": ["radio"],
        "attempts": attempts,
        "min_yield": min_yield,
        "min_turns": min_turns,
        "max_turns": 12,
        "min_words": min_words,
        "rules": rules(generator, checks),
        "writer": Writer(
            model=generator,
            weights=None,
            temperature=0.7,
            top_p=None,
            max_tokens=900,
            seed=None,
            prompts={
                key: (PROMPTS / path).read_text("utf-8")
                for key, path in dialogues.templates(generator).items()
            },
            ask=model.ask,
        ),
        "on_progress": lambda done, total: None,
    }


def run(model: Model, *, of=None, count=6, **options):
    return asyncio.run(
        dialogues.generate(profile=of or profile(), scenes=scenes(count), **arguments(model, **options))
    )


def run_ahead(model: Model, *, count=6):
    async def coming():
        for scene in scenes(count):
            yield scene

    asyncio.run(dialogues.ahead(profile=profile(), scenes=coming(), **arguments(model)))


def test_a_dialogue_record_holds_scene_and_turns():
    made = run(Model(), count=1)
    (record,) = made.records
    assert record["id"] == "dialogue/p0/0"
    assert record["scene"] == "scene/p0/0"
    assert record["paragraphs"] == ["p0"]
    assert (record["type"], record["location"], record["background"]) == (
        "quarrel",
        "Bergen",
        "The aunt wants the lantern.",
    )
    assert record["turns"][1] == {
        "role": "Anna",
        "action": "thinking",
        "content": "A lantern for her, a gull for me, as ever.",
    }
    assert [turn["role"] for turn in record["turns"]] == ["Aunt", "Anna", "Anna", "Aunt"]
    assert made.calls == [{"id": "dialogue/p0/0", "call": "call-1"}]
    assert made.yield_ == {"asked": 1, "accepted": 1, "rejected": {}, "wanted": 1}


def test_every_scene_is_asked_for_once_when_all_is_well():
    model = Model()
    made = run(model)
    assert len(model.requests) == 6
    assert [record["id"] for record in made.records] == [f"dialogue/p{i}/0" for i in range(6)]


def test_editing_a_paragraph_changes_only_its_request():
    before, after = Model(), Model()
    run(before)
    run(after, of=profile(p2="Anna kept a mirror and a comb in Bergen."))
    (gone,), (new,) = before.asked() - after.asked(), after.asked() - before.asked()
    assert "kept a rope" in gone
    assert "kept a mirror" in new


def rule_for(text: str | Reply) -> tuple[str, str]:
    made = run(Model(lambda request: text), count=1, attempts=1)
    assert made.records == []
    (rejected,) = made.rejected
    assert rejected["id"] == "dialogue/p0/0/0"
    return rejected["rule"], rejected["detail"]


FINE = GOOD.format(thing="lantern", other="gull")


BAD = [
    (Reply(text="", finish_reason="malformed"), "malformed"),
    ("", "empty"),
    (Reply(text="", finish_reason="filtered"), "refused"),
    ("I cannot write that.", "refused"),
    ("It was a cold night.", "format"),
    (FINE + "\nUncle: Hm.", "format"),
    (FINE[:140], "length"),
    (FINE.replace("Anna Berg", "Berta"), "character-silent"),
    (FINE.replace("Aunt", "Anna"), "character-silent"),
    (FINE.replace("The lantern stays", "Anna was always cross. The lantern stays"), "third-person"),
    (FINE.replace("She has been", "How can I help you? She has been"), "assistant-talk"),
    (
        FINE.replace(
            "Look at it",
            "Answer the one before it and move the scene: somebody asks, resists, gives in, remembers. Look",
        ),
        "copied-prompt",
    ),
    (
        FINE.replace(
            "She has",
            "So I kept a lantern and a gull in Bergen. In 1850 she sold the lantern to her aunt. She has",
        ),
        "copied-paragraph",
    ),
    (FINE + "\n\n" + FINE, "repetition"),
    (
        FINE.replace("lantern", "table")
        .replace("gull", "table")
        .replace("Aunt (", "Uncle (")
        .replace("aunt", "uncle"),
        "ungrounded",
    ),
    (FINE.replace("Look at it", "Turn on the radio"), "anachronism"),
    (
        (
            "Aunt (speaking): Wo ist die lantern? Ich will sie haben, und das ist nicht zu viel, mit dem gull für dich.\n"
            "Anna (speaking): Sie ist nicht hier, und ich habe sie auch nicht. Der Mann hat sie mir aus dem Haus genommen.\n"
            "Aunt (speaking): Das ist nicht wahr, Anna, und das wird dir auch noch leid tun.\n"
            "Anna (speaking): Dann wird es so sein. Aber du gehst jetzt, und zwar ohne die lantern."
        ),
        "foreign-language",
    ),
]


@pytest.mark.parametrize(("text", "rule"), BAD)
def test_each_bad_reply_is_rejected_by_its_rule(text, rule):
    assert rule_for(text)[0] == rule


@pytest.mark.parametrize(("text", "rule"), [bad for bad in BAD if bad[1] not in ALWAYS])
def test_a_rule_that_is_switched_off_rejects_nothing(text, rule):
    made = run(Model(lambda request: text), count=1, attempts=1, checks={rule: False})
    assert rule not in made.yield_["rejected"]


def test_every_rule_of_the_stage_is_among_those_tried():
    tried = {rule for _, rule in BAD} | {"near-duplicate"}
    assert set(dialogues.applied("openai/x")) == tried - ALWAYS


def test_a_rule_takes_the_limit_of_the_spec():
    said = FINE.replace(
        "She has", "So I kept a lantern and a gull in Bergen. In 1850 she sold the lantern to. She has"
    )
    assert run(Model(lambda _: said), count=1, attempts=1, checks={"copied-paragraph": 15}).yield_[
        "rejected"
    ] == {"copied-paragraph": 1}
    assert run(Model(lambda _: said), count=1, attempts=1, checks={"copied-paragraph": 16}).records


def test_near_duplicates_stay_where_the_spec_says_so():
    off = {"ungrounded": False}
    made = run(Model(lambda _: FINE), count=2, attempts=1, checks=off)
    assert made.yield_["rejected"] == {"near-duplicate": 1}
    made = run(Model(lambda _: FINE), count=2, attempts=1, checks={**off, "near-duplicate": False})
    assert len(made.records) == 2


def test_a_reply_that_was_cut_off_is_asked_for_once_more_with_more_room():
    def say(request):
        return Reply(text=FINE, finish_reason="length" if request.max_tokens == LIMIT else "stop")

    LIMIT = 900
    model = Model(say)
    made = run(model, count=1)
    assert [request.max_tokens for request in model.requests] == [LIMIT, 2 * LIMIT]
    assert made.yield_ == {"asked": 2, "accepted": 1, "rejected": {"cut-off": 1}, "wanted": 1}
    assert [rejected["id"] for rejected in made.rejected] == [f"{made.records[0]['id']}/0/cut"]
    assert made.calls[0]["call"] != made.rejected[0]["call"]


def test_a_reply_that_is_cut_off_with_more_room_too_is_never_taken_as_text():
    made = run(Model(lambda request: Reply(text=FINE, finish_reason="length")), count=1, attempts=1)
    assert made.records == []
    assert made.yield_["rejected"] == {"cut-off": 2}


def test_what_runs_ahead_asks_what_the_stage_will_ask():
    whole, early = Model(lambda request: FINE), Model(lambda request: FINE)
    run(whole, count=3)
    run_ahead(early, count=3)
    assert sorted(map(repr, early.requests)) == sorted(map(repr, whole.requests))


def test_too_small_a_yield_fails_the_stage():
    with pytest.raises(CharForgeError) as caught:
        run(Model(lambda request: "no"), count=2, min_yield=0.5)
    assert caught.value.message == (
        "dialogues: 0 of 2 were accepted, expected at least 1 (dialogues.min_yield 0.5); rejected: format 4"
    )


def test_no_scenes_make_no_dialogues():
    assert run(Model(), count=0).yield_ == {"asked": 0, "accepted": 0, "rejected": {}, "wanted": 0}


# --- Small models ----------------------------------------------------------------------------------------------------


def retell(request: Request) -> str:
    """Answer the small prompts as a good small model would."""
    if "What the visitor had asked:" in request.prompt:
        answer = re.findall(r"^Anna: (.*)$", request.prompt, re.MULTILINE)[-1]
        thing = re.search(r"(?:kept|sold) (?:a|the) (\w+)", answer)[1]
        return f" What became of your {thing}?" if "sold" in answer else f" Who kept the {thing} with you?"
    fact = re.findall(r"A biographer writes of Anna: (.*)", request.prompt)[-1]
    fact = re.sub(r"^Anna ", "", re.sub(r"^In 1850 she ", "", fact)).replace("her aunt", "my aunt")
    return f" {fact}"


def test_a_small_model_retells_fact_by_fact():
    model = Model(retell)
    made = run(model, count=1, generator="embedded/tiny", min_words=20)
    (record,) = made.records
    assert [(turn["role"], turn["content"]) for turn in record["turns"]] == [
        ("Visitor", "Who kept the lantern with you?"),
        ("Anna", "I kept a lantern and a gull in Bergen."),
        ("Visitor", "What became of your lantern?"),
        ("Anna", "I sold the lantern to my aunt."),
    ]
    assert len(made.calls) == made.yield_["asked"] == 4
    assert all(
        request.prompt and request.stop == ("\n",) and request.max_tokens <= 56 for request in model.requests
    )
    assert model.requests[0].prompt.endswith("Anna tells it: I")


def test_what_passed_is_kept_and_only_the_rest_is_asked_for_again():
    def reply(request: Request) -> str:
        if request.draw == 0 and "she sold" in request.prompt and "asked:" not in request.prompt:
            return " sold it in Paris."
        return retell(request)

    model = Model(reply)
    made = run(model, count=1, generator="embedded/tiny", min_words=20)
    assert [(r["id"], r["rule"]) for r in made.rejected] == [
        ("dialogue/p0/0/0", "length"),
        ("dialogue/p0/0/0/answer-2", "ungrounded"),
    ]
    assert [request.draw for request in model.requests] == [0, 0, 0, 1, 1]
    assert made.records[0]["draw"] == 1
    assert len(made.calls) == 4
