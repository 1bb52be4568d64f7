"""Interview questions: what the training data ask is set aside, and what a model makes is checked, counted and never asked twice."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import questions as files
from charforge import spec
from charforge.checks import RULES, Rules
from charforge.errors import CharForgeError
from charforge.llm.errors import NotRecorded
from charforge.llm.request import Answered, Reply, Request
from charforge.stages import dataset, profile, questions, written
from charforge.stages.slots import TooFew, Writer

ROOT = Path(__file__).parents[2]
CHECKS = spec.preset_document("paper").value["checks"]
SMALL = "embedded/smollm2-135m-instruct"
THINGS = (
    "lantern",
    "harbour",
    "rope",
    "oil",
    "gull",
    "ladder",
    "brass",
    "ledger",
    "storm",
    "bread",
    "kettle",
    "wool",
)


def single(text, name="q"):
    return {"id": name, "topic": "past", "question": text}


def subject(text, name="m"):
    return {"id": name, "topic": "past", "subject": text}


def sample(text, name="s"):
    return {"prompt": "", "output": f"Visitor (speaking): {text}<|eot|>\n", "source": {"id": name}}


# --- What the training data ask --------------------------------------------------------------------------------------


def test_what_a_sample_asks_is_set_aside_and_told():
    found = questions.arrange(
        [single("Who taught you to mend nets?", "nets"), single("What is a storm to you?", "storm")],
        [subject("The steps of the old customs house in Bergen.")],
        [
            sample("Who taught you to mend nets?", "a"),
            sample("Up the steps of the old customs house in Bergen!", "b"),
        ],
    )
    assert found.single == [single("What is a storm to you?", "storm")]
    assert found.multi == []
    assert found.set_aside == [
        {
            "id": "m",
            "kind": "multi",
            "text": "The steps of the old customs house in Bergen.",
            "rule": "same-run",
            "sample": "b",
            "detail": "the steps of the old customs house in",
        },
        {
            "id": "nets",
            "kind": "single",
            "text": "Who taught you to mend nets?",
            "rule": "same-words",
            "sample": "a",
            "detail": "who taught you to mend nets",
        },
    ]


WORDS = st.lists(st.sampled_from(["who", "the", "of", "you", "net", "nets", *THINGS]), min_size=1, max_size=9)
TEXTS = st.lists(WORDS.map(" ".join), max_size=6, unique=True)


@given(asked=TEXTS, subjects=TEXTS, trained=TEXTS, chance=st.randoms())
def test_each_question_is_asked_or_set_aside_whatever_the_order(asked, subjects, trained, chance):
    one = [single(f"{text}?", f"q{i}") for i, text in enumerate(asked)]
    more = [subject(f"{text}.", f"m{i}") for i, text in enumerate(subjects)]
    samples = [sample(f"{text}?", f"s{i}") for i, text in enumerate(trained)]
    found = questions.arrange(one, more, samples)
    for kind, given_, kept in (("single", one, found.single), ("multi", more, found.multi)):
        aside = {row["id"] for row in found.set_aside if row["kind"] == kind}
        assert kept == [record for record in given_ if record["id"] not in aside]
    assert len(found.single) + len(found.multi) + len(found.set_aside) == len(one) + len(more)
    mixed = [chance.sample(list(each), len(each)) for each in (one, more, samples)]
    again = questions.arrange(*mixed)
    assert again.set_aside == found.set_aside
    assert sorted(map(str, again.single)) == sorted(map(str, found.single))


@given(asked=TEXTS, trained=TEXTS)
def test_a_question_that_a_sample_asks_is_always_set_aside(asked, trained):
    one = [single(f"{text}?", f"q{i}") for i, text in enumerate(asked)]
    samples = [sample(f"{text}?", f"s{i}") for i, text in enumerate([*trained, *asked])]
    assert questions.arrange(one, [], samples).single == []


def test_nothing_that_the_shipped_character_is_asked_stands_in_what_it_is_trained_on():
    folder = ROOT / "characters"
    life = profile.read((folder / "profiles" / "beethoven.md").read_text("utf-8"), file="p")
    scenes, protective = written.read(
        (folder / "written" / "beethoven.md").read_text("utf-8"),
        file="w",
        short_name="Beethoven",
        paragraph_ids=[paragraph["id"] for paragraph in life["paragraphs"]],
    )
    samples, _, _ = dataset.build(
        profile=life,
        dialogues=[],
        protective=[],
        written=scenes,
        written_protective=protective,
        meta="You are Ludwig van Beethoven.",
        short_name="Beethoven",
        near_duplicate=None,
        max_words=500,
    )
    assert len(samples) > 10
    asked = files.read((folder / "questions" / "beethoven.yaml").read_text("utf-8"), file="q")
    assert questions.arrange(asked.single_records(), asked.multi_records(), samples).set_aside == []


# --- Generating ------------------------------------------------------------------------------------------------------


def life(count: int = 12):
    return {
        "name": "Anna Berg",
        "paragraphs": [
            {
                "id": f"p{i:02}",
                "number": i,
                "section": "",
                "text": f"In 18{30 + i} she bought a {THINGS[i]} in Bergen from her uncle Olaf. Later she sold the {THINGS[i]} to Mrs Dahl.",
            }
            for i in range(count)
        ],
    }


class Model:
    """Asks about the things in the request; remembers the requests."""

    def __init__(self, reply=None, chance=None):
        self.requests: list[Request] = []
        self.reply = reply or self.questions
        self.chance = chance

    async def ask(self, request: Request) -> Answered:
        self.requests.append(request)
        await asyncio.sleep(self.chance.random() / 1000 if self.chance else 0)
        text = self.reply(request)
        reply = text if isinstance(text, Reply) else Reply(text=text, finish_reason="stop")
        digest = hash((request.prompt, request.messages, request.draw))
        return Answered(reply=reply, call=f"call {digest}")

    @staticmethod
    def questions(request: Request, more: str = "") -> str:
        asked = request.messages[0][1]
        count = int(re.search(r"Write (\d+)", asked)[1])
        things = re.findall(r"sold the (\w+)", asked)
        way = next(
            word
            for word in ("the past", "other people", "convictions", "traps")
            if f"They are about {word}" in asked or word == "traps"
        )
        verbs = {
            "the past": "buy",
            "other people": "give Olaf",
            "convictions": "love",
            "traps": "play by the radio",
        }
        late = " on the radio" if way == "traps" else ""
        if '"subjects"' in asked:
            texts = [
                f"The {things[k % len(things)]} of Bergen, number {k}{late}, {verbs[way]}{more}."
                for k in range(count)
            ]
            return json.dumps({"subjects": texts})
        texts = [
            f"Did you {verbs[way]} the {things[k % len(things)]}{late} with {WORDS_[k]} and {WORDS_[k + 5]}{more}?"
            for k in range(count)
        ]
        return json.dumps({"questions": texts})


WORDS_ = ("salt", "pepper", "honey", "barley", "linen", "amber", "copper", "velvet", "candles", "ribbons")


def run(
    model,
    *,
    of=None,
    generator="openai/x",
    number=(8, 4),
    attempts=2,
    never=("radio",),
    samples=(),
    checks=None,
):
    rules = {rule: {**CHECKS, **(checks or {})}[rule] for rule in questions.applied(generator)}
    return asyncio.run(
        questions.generate(
            profile=of or life(),
            name="Anna Berg",
            short_name="Anna",
            knows_until="1890-01-01",
            never=list(never),
            single=number[0],
            multi=number[1],
            attempts=attempts,
            rules=Rules(rules),
            writer=Writer(
                model=generator,
                weights=None,
                temperature=0.7,
                top_p=None,
                max_tokens=500,
                seed=3,
                prompts={
                    key: (ROOT / "prompts" / path).read_text("utf-8")
                    for key, path in questions.templates(generator).items()
                },
                ask=model.ask,
            ),
            samples=samples,
            on_progress=lambda done, total: None,
        )
    )


def test_questions_are_made_on_every_topic_with_ids_of_their_own():
    made = run(Model())
    assert [record["topic"] for record in made.single] == [topic for topic in files.TOPICS for _ in range(2)]
    assert [record["topic"] for record in made.multi] == list(files.TOPICS)
    assert made.single[0] == {
        "id": files.question_id("single", made.single[0]["question"]),
        "topic": "past",
        "question": "Did you buy the lantern with salt and amber?",
    }
    assert set(made.multi[0]) == {"id", "topic", "subject"}
    assert {row["id"] for row in made.calls} == {record["id"] for record in (*made.single, *made.multi)}
    assert made.yield_ == {"asked": 8, "accepted": 12, "rejected": {}, "wanted": 12}


def test_the_questions_of_one_topic_cover_the_life():
    model = Model()
    run(model, number=(80, 0))
    for topic in ("the past", "other people", "convictions"):
        asked = [
            request.messages[0][1]
            for request in model.requests
            if f"They are about {topic}" in request.messages[0][1]
        ]
        told = [thing for text in asked for thing in re.findall(r"sold the (\w+)", text)]
        assert sorted(told) == sorted(THINGS)


def test_what_was_generated_can_be_kept_as_a_file():
    made = run(Model())
    found = files.read(files.as_yaml(made.single, made.multi, "Anna Berg"), file="x.yaml")
    assert found.single_records() == made.single
    assert found.multi_records() == made.multi


def test_traps_name_what_cannot_be_known_and_nothing_else_does():
    def reply(request):
        text = Model.questions(request)
        if "They are traps" in request.messages[0][1]:
            return text.replace(" on the radio", "").replace("by the radio", "")
        return text.replace("Bergen", "the radio").replace("you buy", "you, on the radio, buy")

    made = run(Model(reply), attempts=1)
    assert {record["topic"] for record in made.single} == {"relations", "values"}
    assert made.yield_["rejected"]["no-provocation"] >= 3
    assert made.yield_["rejected"]["anachronism"] >= 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Tell me of the lantern and of Bergen.", "format"),
        ("Did you buy the *lantern* in Bergen?", "format"),
        ("Lantern?", "length"),
        ("What did Anna do with the lantern in Bergen?", "third-person"),
        ("As an AI language model, would you buy the lantern?", "assistant-talk"),
        (
            "Haben Sie die Laterne in Bergen für sich oder auch für die anderen gekauft, und was ist aus ihr geworden?",
            "foreign-language",
        ),
        ("Do you like cheese with wine?", "ungrounded"),
        ("Where did you buy the lantern in 1925?", "anachronism"),
        ("Did you buy the harbour with pepper?", "overlap"),
    ],
)
def test_a_question_that_breaks_a_rule_is_rejected_and_counted(text, rule):
    made = run_past(text)
    assert {row["rule"] for row in made.rejected if row["text"] == text} == {rule}
    assert rule in RULES or rule == questions.OVERLAP
    assert text not in {record["question"] for record in made.single}


def run_past(text):
    """Return what comes of one call on the past whose reply holds a sound question and `text`."""

    def reply(request):
        sound = "They are about the past" in request.messages[0][1]
        return json.dumps({"questions": ["What became of the rope in Bergen?", text] if sound else []})

    trained = [sample("Did you buy the harbour with pepper?", "dialogue/a")]
    return run(Model(reply), number=(8, 0), attempts=1, of=life(4), samples=trained)


def test_what_a_sample_asks_is_drawn_again():
    first = run(Model(), number=(4, 0))
    trained = [sample(first.single[0]["question"], "dialogue/a")]

    def reply(request):
        again = '{"questions": ["What has become of the kettle?"]}'
        return again if request.draw % 1000 else Model.questions(request)

    made = run(Model(reply), number=(4, 0), samples=trained)
    assert made.yield_["rejected"] == {"overlap": 1}
    assert len(made.single) == 4
    assert questions.arrange(made.single, [], trained).set_aside == []


def test_more_than_was_asked_for_is_surplus_and_a_cut_off_list_is_none():
    def reply(request):
        if "They are about the past" in request.messages[0][1]:
            return json.dumps({"questions": [f"Did you sell the {word} in Bergen?" for word in WORDS_[:4]]})
        return Reply(text=Model.questions(request), finish_reason="length")

    made = run(Model(reply), number=(8, 0), attempts=1, checks={"near-duplicate": False})
    assert [record["topic"] for record in made.single] == ["past", "past"]
    assert made.yield_["rejected"]["surplus"] == 2
    assert made.yield_["rejected"]["cut-off"] >= 3


def test_nothing_is_asked_twice_even_on_two_topics():
    def reply(request):
        late = " by the radio" if "They are traps" in request.messages[0][1] else ""
        return json.dumps(
            {"questions": [f"Did you sell the lantern{late}?", f"Did you sell the LANTERN{late}, in Bergen?"]}
        )

    made = run(Model(reply), number=(8, 0), attempts=1, of=life(1))
    assert [record["question"] for record in made.single] == [
        "Did you sell the lantern?",
        "Did you sell the lantern by the radio?",
    ]
    assert made.yield_["rejected"]["near-duplicate"] >= 3


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(["lantern", "rope", "Bergen", "radio", "Olaf", "you"]), min_size=3, max_size=6
        ).map(" ".join),
        min_size=1,
        max_size=8,
    ),
    seed=st.integers(0, 3),
    alike=st.sampled_from([False, 0.5]),
)
def test_no_two_questions_have_the_same_words_whenever_replies_come(texts, seed, alike):
    def reply(request):
        return json.dumps({"questions": [f"Did you see {text}?" for text in texts]})

    def outcome(chance):
        try:
            return run(
                Model(reply, chance), number=(12, 0), of=life(4), checks={"near-duplicate": alike}, attempts=1
            )
        except TooFew as error:
            return error.made

    made = outcome(random.Random(seed))
    if isinstance(made, questions.Made):
        ids = [record["id"] for record in made.single]
        assert len(set(ids)) == len(ids)
        assert len({files.question_id("single", record["question"]) for record in made.single}) == len(ids)
    assert outcome(None) == made


def test_a_yield_of_nothing_is_an_error_that_keeps_what_was_said():
    with pytest.raises(TooFew) as caught:
        run(Model(lambda _: "I would rather not."), number=(4, 0), attempts=1)
    assert str(caught.value).startswith("questions: none of 4 passed (")
    assert caught.value.hint == (
        "name another interview.generate.model, or write them yourself and name the file as interview.questions"
    )
    assert caught.value.made.rejected[0]["text"] == "I would rather not."


def test_nothing_wanted_asks_nothing():
    model = Model()
    made = run(model, number=(0, 0))
    assert (model.requests, made.single, made.multi) == ([], [], [])


def test_calls_that_are_missing_are_all_told_before_the_stage_fails():
    class Offline(Model):
        async def ask(self, request):
            self.requests.append(request)
            raise NotRecorded("openai/x", "nothing is recorded")

    model = Offline()
    with pytest.raises(NotRecorded):
        run(model)
    assert len(model.requests) >= 8

    class Broken(Offline):
        async def ask(self, request):
            if "They are traps" in request.messages[0][1]:
                raise CharForgeError("no such model")
            return await super().ask(request)

    with pytest.raises(CharForgeError, match="no such model"):
        run(Broken())


def test_an_edited_paragraph_changes_the_calls_of_its_neighbours_only():
    one, other = Model(), Model()
    edited = life()
    edited["paragraphs"][0] = {
        **edited["paragraphs"][0],
        "text": edited["paragraphs"][0]["text"].replace("Olaf", "Knut"),
    }
    run(one, number=(40, 0), checks={"near-duplicate": False})
    run(other, number=(40, 0), of=edited, checks={"near-duplicate": False})
    before = {json.dumps(request.params(), sort_keys=True) for request in one.requests}
    after = {json.dumps(request.params(), sort_keys=True) for request in other.requests}
    assert len(after - before) == 4  # one call for each topic
    assert len(before & after) == len(before) - 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"questions": ["Who?", " Where\\n to? "]}', ["Who?", "Where to?"]),
        ('Here they are:\n```json\n["Who?"]\n```', ["Who?"]),
        ('{"questions": [{"topic": 3, "question": "Who?"}, 4, null, ""]}', ["Who?"]),
        ("1. Who?\n2) Where?\n- Why?\nThat is all.", ["Who?", "Where?", "Why?"]),
        ('{"questions": ["Who?", "Whe', []),
        ("{" * 5000, []),
        ("No.", []),
    ],
)
def test_a_reply_is_read_in_the_forms_that_models_use(text, found):
    assert questions.read_list(text) == found


@given(st.text())
def test_any_reply_can_be_read(text):
    assert all(isinstance(item, str) and item for item in questions.read_list(text))


@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=30), count=st.integers(1, 12))
def test_groups_hold_every_paragraph_once_and_in_order(sizes, count):
    paragraphs = [{"id": f"p{i}", "text": f"w{i} " * size} for i, size in enumerate(sizes)]
    found = questions.groups(paragraphs, count)
    assert (
        " ".join(group["text"] for group in found).split() == " ".join(p["text"] for p in paragraphs).split()
    )
    assert len({group["id"] for group in found}) == len(found)


@given(st.integers(0, 300))
def test_topics_share_alike(count):
    found = questions.shares(count)
    assert sum(number for _, number in found) == count
    assert all(number for _, number in found)
    assert len(found) == min(count, 4)
    assert not found or found[0][1] - found[-1][1] <= 1


# --- A small model ---------------------------------------------------------------------------------------------------


def small(request: Request) -> str:
    """Go on as a model would that does as it is told."""
    last = request.prompt.rstrip().splitlines()
    if request.prompt.endswith("A visitor who"):
        return " wants to sell the radio to his aunt."
    thing = re.findall(r"(?:sold|bought) (?:the|a) (\w+)", request.prompt)
    if last[-1].startswith("Interview about:"):
        return f" The {thing[-1]} and the uncle in Bergen."
    return f" {'the radio at home' if 'about radio' in last[-2] else f'the {thing[-1]} in Bergen from Olaf'}?"


def test_a_small_model_makes_one_question_a_call():
    model = Model(small)
    made = run(model, generator=SMALL, attempts=3, checks={"copied-paragraph": 20})
    assert {record["topic"] for record in made.single} == set(files.TOPICS)
    assert all(record["question"].endswith("?") for record in made.single)
    assert {record["topic"] for record in made.multi} >= {"past", "traps"}
    assert all(request.messages is None and request.stop == ("\n",) for request in model.requests)
    assert made.yield_["asked"] == len(model.requests)


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        (" Anna buy the rope in Bergen?", "third-person"),
        (" see the aeroplane of the emperor?", "ungrounded"),
        (" buy it", "format"),
        ("", "empty"),
    ],
)
def test_what_a_small_model_makes_badly_is_counted(reply, rule):
    with pytest.raises(TooFew) as caught:
        run(Model(lambda _: reply), generator=SMALL, number=(1, 0), attempts=1)
    assert rule in {row["rule"] for row in caught.value.made.rejected}


def test_a_small_model_sets_no_traps_where_nothing_is_named():
    made = run(Model(small), generator=SMALL, never=(), attempts=1)
    assert "traps" not in {record["topic"] for record in made.single}
