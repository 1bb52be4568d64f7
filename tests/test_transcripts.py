"""Somebody else's interviews become records of ours: nothing lost, nothing mended in silence."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge import transcripts
from charforge.errors import FileProblems
from charforge.questions import question_id
from charforge.transcripts import contestants, read

EAR, BEER = "Who was your best friend?", "What beer do you like?"
EAR_ID, BEER_ID = question_id("single", EAR), question_id("single", BEER)


def as_json(*values: object, lines: bool = False) -> bytes:
    return ("\n".join(map(json.dumps, values)) if lines else json.dumps(values)).encode()


def say(content: str, role: str = "Ada", action: str = "(speaking)") -> dict[str, str]:
    return {"role": role, "action": action, "content": content}


def single(reply: object, question: str = EAR, topic: str = "topic-2") -> dict[str, object]:
    return {"topic_id": topic, "question": question, "reply": reply}


def talk(*turns: tuple[str, object], **more: object) -> dict[str, object]:
    content = [
        {"turn_id": place // 2, "turn_role": role, "turn_content": said}
        for place, (role, said) in enumerate(turns)
    ]
    return {"character": "Ada King", "model": "m-1", "topic": "Your mills", "qid": 3, "max_turns": len(turns) // 2,
            "finished": True, "content": content} | more  # fmt: skip


def of(*files: tuple[str, bytes], **more: object) -> transcripts.Transcripts:
    return read(files, contestant="m-1", name="Ada King", short_name="Ada", **more)


def told(found: transcripts.Transcripts) -> list[tuple[str, str]]:
    return [(odd["place"], odd["what"]) for odd in found.oddities]


def wrong(*files: tuple[str, bytes], **more: object) -> str:
    with pytest.raises(FileProblems) as caught:
        of(*files, **more)
    return caught.value.render()


# --- As released -------------------------------------------------------------------------------------------------------


def test_a_released_answer_becomes_a_record_of_ours():
    found = of(("Ada_m.json", as_json(single([say(" Mary. ")]))))
    assert found.single == [
        {
            "id": f"m-1/{EAR_ID}",
            "contestant": "m-1",
            "question": EAR_ID,
            "topic": "relations",
            "text": EAR,
            "answer": "Mary.",
            "thoughts": [],
            "finish_reason": None,
            "marks": [],
        }
    ]
    assert found.questions == {"single": [{"id": EAR_ID, "topic": "relations", "question": EAR}], "multi": []}
    assert found.oddities == []


def test_a_released_interview_becomes_a_record_of_ours():
    found = of(("Ada_m.jsonl", as_json(talk(("interviewer", [say("How?", "Man")]), ("character", [say("So.")])))),
               ("questions.json", as_json({"topic_id": "topic-3", "topic": "values", "question": "Your mills"})))  # fmt: skip
    identity = question_id("multi", "Your mills")
    assert found.turns == [
        {
            "id": f"m-1/{identity}",
            "contestant": "m-1",
            "question": identity,
            "topic": "values",
            "subject": "Your mills",
            "turns": [
                {"role": "Visitor", "action": "speaking", "content": "How?", "marks": []},
                {"role": "Ada", "action": "speaking", "content": "So.", "marks": []},
            ],
            "marks": [],
        }
    ]
    assert found.questions["multi"] == [{"id": identity, "topic": "values", "subject": "Your mills"}]
    assert found.oddities == []


def test_a_reply_may_be_one_turn_a_text_or_a_list_and_the_first_two_are_told():
    file = as_json(
        single(say("One."), "A one?"), single("Two.", "A two?"), single([say("Three.")], "A three?")
    )
    found = of(("a.json", file))
    assert [record["answer"] for record in found.single] == ["One.", "Two.", "Three."]
    assert told(found) == [
        ("item 1; item 2", "the reply is one turn, not a list of turns"),
        ("item 2", "a turn is a text, without role and action"),
    ]


def test_the_mark_of_the_token_limit_is_taken_off_and_the_answer_is_cut_off():
    found = of(("a.json", as_json(single([say("I went to the<|NONSTOP|>")]))))
    assert [(r["answer"], r["finish_reason"], r["marks"]) for r in found.single] == [
        ("I went to the", "length", ["cut-off"])
    ]
    assert told(found) == [
        ("item 1", "cut off at the token limit, as the mark at its end says; the mark was taken off")
    ]


def test_a_control_token_elsewhere_stays_and_is_marked():
    (record,) = of(("a.json", as_json(single([say("Yes<|NONSTOP|> and no.")])))).single
    assert (record["answer"], record["marks"]) == ("Yes<|NONSTOP|> and no.", ["special-token"])


def test_what_is_spoken_for_somebody_else_stays_in_the_answer():
    reply = [say("I am well."), say("Then good night.", "Man"), say("Good night.")]
    found = of(("a.json", as_json(single(reply))))
    assert found.single[0]["answer"] == "I am well.\nMan (speaking): Then good night.\nGood night."
    assert found.single[0]["marks"] == ["wrong-speaker"]
    assert told(found) == [
        ("item 1", "the answer has 3 parts; they were put together"),
        ("item 1", "the answer goes on to speak for somebody else"),
    ]


def test_headers_within_an_answer_are_marked_and_its_own_is_taken_off():
    text = "Ada (speaking): Yes.\n\nMan (speaking): Why?\n\nAda"
    (record,) = of(("a.json", as_json(single([say(text)])))).single
    assert record["answer"] == "Yes.\n\nMan (speaking): Why?\n\nAda"
    assert record["marks"] == ["own-header", "wrong-speaker"]


def test_thoughts_go_to_the_thoughts_of_an_answer_and_before_the_speech_of_a_turn():
    reply = [say("Yes."), say("He smells.", action="(thinking)")]
    found = of(
        ("a.json", as_json(single(reply))),
        ("b.jsonl", as_json(talk(("interviewer", [say("How?", "Man")]), ("character", reply)), lines=True)),
    )
    assert (found.single[0]["answer"], found.single[0]["thoughts"]) == ("Yes.", ["He smells."])
    assert [(t["role"], t["action"], t["content"]) for t in found.turns[0]["turns"]] == [
        ("Visitor", "speaking", "How?"),
        ("Ada", "thinking", "He smells."),
        ("Ada", "speaking", "Yes."),
    ]


def test_a_thought_alone_is_an_empty_answer():
    found = of(
        (
            "b.jsonl",
            as_json(
                talk(("interviewer", [say("How?", "Man")]), ("character", [say("Hm.", action="(thinking)")]))
            ),
        )
    )
    assert [(t["action"], t["content"], t["marks"]) for t in found.turns[0]["turns"][1:]] == [
        ("thinking", "Hm.", []),
        ("speaking", "", ["empty"]),
    ]
    assert found.turns[0]["marks"] == ["empty"]
    assert ("item 1, turn 2", "a thought, and nothing was said") in told(found)


def test_empty_answers_are_kept_and_marked():
    found = of(("a.json", as_json(single([]), single([say("  ")], BEER))))
    assert [(record["answer"], record["marks"]) for record in found.single] == [("", ["empty"])] * 2
    assert told(found) == [("item 1; item 2", "the answer is empty")]


@pytest.mark.parametrize(
    ("given", "oddities"),
    [
        ("(speaking)", []),
        ("speaking", []),
        ("((speaking)", ["the action is '((speaking)', read as speaking"]),
        ("", ["the action is '', read as speaking"]),
        (None, ["the action is missing, read as speaking"]),
        (7, ["the action is 'int', read as speaking"]),
        ("lost in thought", ["the action is 'lost in thought', read as thinking", "a thought, and nothing was said"]),
    ],
)  # fmt: skip
def test_an_action_is_read_as_what_it_is_most_like(given, oddities):
    found = of(("a.json", as_json(single([{**say("Hm."), "action": given}]))))
    assert [what for _, what in told(found)] == oddities


@pytest.mark.parametrize("role", ["Ada", "ada king", "Lady Ada King", "King", None, ""])
def test_the_character_is_known_by_all_its_names(role):
    assert of(("a.json", as_json(single([{**say("Hm."), "role": role}])))).single[0]["marks"] == []


@pytest.mark.parametrize("role", ["Man", "Visitor", "Byron"])
def test_anybody_else_is_somebody_else(role):
    (record,) = of(("a.json", as_json(single([say("Hm.", role)])))).single
    assert (record["answer"], record["marks"]) == (f"{role} (speaking): Hm.", ["wrong-speaker"])


def test_an_interviewer_who_speaks_for_the_character_is_marked_and_not_the_character():
    found = of(
        (
            "b.jsonl",
            as_json(
                talk(
                    ("interviewer", [say("Ada (speaking): I am<|NONSTOP|>", "Man")]),
                    ("character", [say("Oh.")]),
                )
            ),
        )
    )
    assert [turn["marks"] for turn in found.turns[0]["turns"]] == [["cut-off", "wrong-speaker"], []]


def test_what_is_odd_about_an_interview_is_told():
    turns = [
        ("interviewer", [say("How?", "Man")]),
        ("someone", [say("So.")]),
        ("interviewer", [say("Ah?", "Man")]),
    ]
    content = talk(*turns, finished=False, max_turns=5)
    content["content"][0]["turn_id"] = 4
    assert told(of(("b.jsonl", as_json(content)))) == [
        ("item 1", "nobody says what the question is about; taken for past"),
        ("item 1", "the interview was not finished"),
        ("item 1, turn 2", "the turn's role is 'someone', read as the character's"),
        ("item 1, turn 2", "turns out of order; left as they stand"),
        ("item 1", "the last question has no answer"),
        ("item 1", "2 questions where max_turns is 5"),
    ]  # fmt: skip


def test_an_interview_without_an_answer_is_told():
    assert ("line 1; line 2", "an interview without an answer") in told(
        of(("b.jsonl", as_json(talk(("interviewer", [say("How?", "Man")])), talk(), lines=True)))
    )


def test_alike_oddities_are_counted_with_their_first_places():
    found = of(("a.json", as_json(*(single([], f"A {n}?") for n in range(5)))))
    assert found.oddities == [
        {"file": "a.json", "place": "item 1; item 2; item 3; …", "what": "the answer is empty", "count": 5}
    ]


# --- Topics and ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("topic-1", "past"),
        ("topic-2", "relations"),
        ("topic-3", "values"),
        ("topic-4", "traps"),
        ("Things long past, and experiences", "past"),
        ("relationships to others", "relations"),
        ("what she values", "values"),
        ("hard to answer without breaking out", "traps"),
        ("traps", "traps"),
    ],
)
def test_topics_of_others_are_topics_of_ours(given, ours):
    found = of(("a.json", as_json(single([say("Hm.")], topic=given))))
    assert (found.single[0]["topic"], found.oddities) == (ours, [])


@pytest.mark.parametrize("given", ["topic-9", "", None, 3, "x" * 300])
def test_a_topic_that_nobody_knows_is_told(given):
    found = of(("a.json", as_json(single([say("Hm.")], topic=given))))
    assert found.single[0]["topic"] == transcripts.DEFAULT_TOPIC
    assert told(found) == [("item 1", "nobody says what the question is about; taken for past")]


def test_a_file_of_questions_says_the_topic_and_asks_nothing():
    asked = as_json({"topic_id": "topic-1", "topic": "values", "question": EAR}, {"question": BEER})
    found = of(("q.json", asked), ("a.json", as_json(single([say("Hm.")], EAR.upper(), "topic-2"))))
    assert [record["topic"] for record in found.single] == ["values"]
    assert len(found.questions["single"]) == 1


def test_the_same_question_has_the_same_id_in_every_system_and_none_in_two_parts():
    one = of(("a.json", as_json(single([say("Hm.")]))))
    other = of(("b.json", as_json({"question": f"  {EAR.lower()} ", "answer": "Mary", "topic": "relations"})))
    assert one.single[0]["question"] == other.single[0]["question"] == EAR_ID
    assert question_id("multi", EAR) != EAR_ID


def test_a_question_that_is_there_twice_keeps_both_answers():
    found = of(("a.json", as_json(*(single([say(text)]) for text in ("One.", "Two.", "Three.")))))
    assert [record["id"] for record in found.single] == [f"m-1/{EAR_ID}{end}" for end in ("", "-2", "-3")]
    assert told(found) == [
        ("item 2; item 3", "the question is there already; the answer was kept, under an id of its own"),
    ]


def test_a_question_of_the_spec_keeps_its_id_and_topic():
    asked = {"single": [{"id": "best-friend", "topic": "values", "question": EAR}], "multi": []}
    found = of(
        ("a.json", as_json(single([say("Mary.")]), single([say("None.")], BEER, "topic-4"))), asked=asked
    )
    assert [(r["question"], r["topic"]) for r in found.single] == [
        ("best-friend", "values"),
        (BEER_ID, "traps"),
    ]


# --- Our own, and plain ------------------------------------------------------------------------------------------------

OWN_SINGLE = {
    "id": "base/best-friend",
    "contestant": "base",
    "question": "best-friend",
    "topic": "relations",
    "text": EAR,
    "answer": "Mary, and\nnobody else",
    "thoughts": ["Who asks?"],
    "finish_reason": "length",
    "marks": ["cut-off"],
}
OWN_TURNS = {
    "id": "base/mills",
    "contestant": "base",
    "question": "mills",
    "topic": "past",
    "subject": "Your mills",
    "turns": [
        {"role": "Visitor", "action": "speaking", "content": "How?", "marks": ["scripted-question"]},
        {"role": "Ada", "action": "thinking", "content": "Hm.", "marks": []},
        {"role": "Ada", "action": "speaking", "content": "", "marks": ["empty"]},
    ],
    "marks": ["empty", "scripted-question"],
}


def test_our_own_records_come_back_as_they_were_under_another_name():
    found = of(("mine.jsonl", as_json(OWN_SINGLE, OWN_TURNS, lines=True)))
    assert found.single == [{**OWN_SINGLE, "id": "m-1/best-friend", "contestant": "m-1"}]
    assert found.turns == [{**OWN_TURNS, "id": "m-1/mills", "contestant": "m-1"}]
    assert found.oddities == []


def test_an_own_answer_is_marked_again_and_never_touched():
    answer = "Ada: Yes. Man: Why?"
    found = of(("mine.jsonl", as_json({**OWN_SINGLE, "answer": answer, "marks": ["cut-off", "gold"]})))
    assert (found.single[0]["answer"], found.single[0]["marks"]) == (answer, ["cut-off", "wrong-speaker"])
    assert told(found) == [("item 1", "the mark 'gold' is none of ours, and was left out")]


def test_what_an_own_record_says_wrongly_is_told():
    record = {**OWN_SINGLE, "question": "NO ID", "finish_reason": "tired", "topic": "?", "thoughts": None}
    found = of(("mine.jsonl", as_json(record)))
    assert [(r["question"], r["finish_reason"], r["topic"]) for r in found.single] == [(EAR_ID, None, "past")]
    assert told(found) == [
        ("item 1", "nobody says what the question is about; taken for past"),
        ("item 1", "finish_reason is 'tired', taken for unknown"),
    ]


def test_a_file_of_several_contestants_is_taken_apart_or_refused():
    data = as_json(OWN_SINGLE, {**OWN_SINGLE, "contestant": "trained", "answer": "Mine."}, lines=True)
    assert contestants("single.jsonl", data) == ["base", "trained"]
    assert [r["answer"] for r in of(("single.jsonl", data), only="trained").single] == ["Mine."]
    assert wrong(("single.jsonl", data)) == (
        "error: single.jsonl: answers of several contestants: base, trained\n"
        "hint: one file holds those of one; charforge import transcripts parts them"
    )


def test_plain_questions_and_answers_are_read_as_lines_or_csv():
    line = {"question": BEER, "answer": "Stout.", "topic": "traps"}
    comma = f'question,answer,topic\n\n{BEER},"Stout.",traps\n"One,\ntwo?","Three\nfour",past\n'
    assert of(("a.jsonl", as_json(line))).single[0]["answer"] == "Stout."
    found = of(("a.csv", b"\xef\xbb\xbf" + comma.replace("\n", "\r\n").encode()))
    assert [(r["text"], r["topic"], r["answer"]) for r in found.single] == [
        (BEER, "traps", "Stout."),
        ("One, two?", "past", "Three\nfour"),
    ]


def test_bad_csv_is_told_with_its_lines():
    assert wrong(("a.csv", b"asked,answered\n1,2\n")) == (
        "error: a.csv:1: the first line names no question and answer\nhint: such as: question,answer"
    )
    assert wrong(("a.csv", b'question,answer\n"a\nb",c\nd,e,f\ng\n')) == (
        "error: a.csv:4: 3 values, and the first line names 2\nhint: a value with a comma needs quotes\n\n"
        "error: a.csv:5: 1 values, and the first line names 2\nhint: a value with a comma needs quotes"
    )
    assert wrong(("a.csv", b'question,answer\n"a')).startswith("error: a.csv:2: not CSV: ")


# --- What cannot be read ------------------------------------------------------------------------------------------------


def test_all_problems_of_all_files_are_one_error():
    bad = [
        {"name": "x"},
        single([say("Hm.")], question=" "),
        single([{"role": "Ada"}]),
        single(7),
        {"question": EAR, "answer": None},
        {"question": EAR, "answer": 1},
        {"topic": "Your mills", "content": "none"},
        {"topic": "Your mills", "content": [{"turn_role": "character"}]},
        {**OWN_SINGLE, "thoughts": "none"},
        {**OWN_TURNS, "turns": 3},
        {**OWN_TURNS, "turns": [{}]},
        {"question": EAR, "answer": "x" * (transcripts.MAX_TEXT + 1)},
        {**OWN_TURNS, "turns": [{}] * (transcripts.MAX_TURNS + 1)},
    ]
    problems = wrong(("a.json", as_json(*bad, lines=True)), ("b.json", b"{"), ("c.json", b"[]")).split("\n\n")
    said = [problem.split("\n")[0].removeprefix("error: ") for problem in problems]
    assert said == [
        "a.json:1: no interview and no answer",
        "a.json:2: question is empty",
        "a.json:3: a turn of the reply has no content",
        "a.json:4: a turn of the reply has no content",
        "a.json:5: answer is missing",
        "a.json:6: answer is no text",
        "a.json:7: content is no list of turns",
        "a.json:8: turn 1 has no turn_content",
        "a.json:9: thoughts is no list of texts",
        "a.json:10: turns is no list",
        "a.json:11: turn 1 has no content",
        "a.json:12: answer has 100,001 characters, the limit is 100,000",
        "a.json:13: 1,001 turns, the limit is 1,000",
        "b.json:1: not JSON: Expecting property name enclosed in double quotes",
        "c.json: there is nothing in it",
    ]


def test_files_without_an_answer_are_an_error():
    assert wrong(("q.json", as_json({"topic": "values", "question": EAR}))).startswith(
        "error: q.json: no answer in it\nhint: "
    )


def test_half_a_character_is_told_and_shown():
    found = of(("a.json", b'{"question": "Why\\ud83d?", "answer": "No\\udc00\\u0000.", "topic": "past"}'))
    assert [(r["text"], r["answer"]) for r in found.single] == [("Why\ufffd?", "No\ufffd\x00.")]
    assert Counter(what for _, what in told(found)) == {
        "question has half a character (a lone surrogate); shown as U+FFFD": 1,
        "answer has half a character (a lone surrogate); shown as U+FFFD": 1,
    }


def test_long_runs_take_no_long_time():
    text = "<|" * 20_000 + " " * 50_000 + "x"
    assert of(("a.json", as_json(single([say(text)])))).single[0]["answer"] == text


TEXT = st.text(max_size=12) | st.sampled_from(["Ada", "Man", "(thinking)", "Ada: hi", "x<|NONSTOP|>", EAR])
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
KEYS = st.sampled_from(
    [
        *("topic_id", "topic", "question", "reply", "role", "action", "content", "character", "max_turns", "finished"),
        *("turn_id", "turn_role", "turn_content", "answer", "text", "turns", "subject", "thoughts", "marks", "contestant"),
    ]
)  # fmt: skip
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=8), max_leaves=25
)
PART = st.fixed_dictionaries({"content": TEXT}, optional={"role": LEAF, "action": LEAF})
REPLY = PART | TEXT | st.lists(PART | TEXT, max_size=3)
TURN = st.fixed_dictionaries({"turn_content": REPLY}, optional={"turn_role": LEAF, "turn_id": LEAF})
RELEASED = st.one_of(
    st.fixed_dictionaries({"question": TEXT, "reply": REPLY}, optional={"topic_id": LEAF}),
    st.fixed_dictionaries({"topic": TEXT, "content": st.lists(TURN, max_size=4)}, optional={"max_turns": LEAF}),
    st.fixed_dictionaries({"question": TEXT, "answer": TEXT}, optional={"topic": LEAF}),
)  # fmt: skip


@given(st.lists(ANY | RELEASED, max_size=4), st.booleans())
def test_whatever_is_in_a_file_it_is_read_or_refused(values, lines):
    try:
        found = of(("a.json", as_json(*values, lines=lines)))
    except FileProblems as error:
        assert error.render().startswith("error: a.json")  # noqa: PT017 - either is right
        return
    records = [*found.single, *found.turns]
    json.dumps(records, ensure_ascii=False).encode()
    assert len({record["id"] for record in records}) == len(records)


@given(st.lists(RELEASED, min_size=1, max_size=4))
def test_what_was_read_is_read_back_the_same(values):
    try:
        found = of(("a.json", as_json(*values, lines=True)))
    except FileProblems:
        return
    again = of(("b.jsonl", as_json(*found.single, *found.turns, lines=True)))
    assert again[:3] == found[:3]
