"""Released data becomes samples word for word or by one rule, and what cannot be used is named by its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge.dialogue import EOT
from charforge.errors import FileProblems
from charforge.stages import released

PROMPT = "I want you to act like Anna Holm. \n\nLocation: Bergen\nStatus: It rains.\n\nThe interactions are as follows:\n\n"
OUTPUT = "Man (speaking): Is it cold?\nVery?<|eot|>\nAnna (thinking): A stranger.<|eot|>\nAnna (laughing): No.<|eot|>"
SAMPLE = {"prompt": PROMPT, "output": OUTPUT, "source": "seed_dialogue_7"}


def turn(role, content, action="(speaking)"):
    return {"role": role, "action": action, "content": content}


DIALOGUE = {
    "setting": ["It rains.\nAnna waits."],
    "dialogue": [
        turn("Man", "Who are you?"),
        turn("Anna", "A stranger.", "(thinking)"),
        turn("Anna", "I am Anna."),
    ],
    "location": "Bergen - Evening",
    "background": "Anna waits in the rain.",
    "source": "seed_dialogue_12",
}


def file(*values, joined="\n"):
    lines = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
    return released.File(joined.join(lines).encode(), "data.jsonl")


def told(rejected):
    return [(row["id"], row["rule"], row["detail"]) for row in rejected.rows]


def prompted(*values, **options):
    return released.prompted(file(*values, **options))


def generated(*values, **options):
    return released.generated(file(*values, **options), "Anna Holm", "Anna")


# -- prompted --------------------------------------------------------------------------------------------------------


def test_prompted_samples_stay_word_for_word():
    samples, rejected = prompted(SAMPLE, {"prompt": "Ü ", "output": "x (y): z<|eot|>\n\n"})
    assert told(rejected) == []
    assert samples == [
        {
            "prompt": PROMPT,
            "output": OUTPUT,
            "kind": "dialogue",
            "source": {"id": "released/0000001", "origin": "released", "part": 1, "paragraphs": []},
        },
        {
            "prompt": "Ü ",
            "output": "x (y): z<|eot|>\n\n",
            "kind": "dialogue",
            "source": {"id": "released/0000002", "origin": "released", "part": 1, "paragraphs": []},
        },
    ]


@pytest.mark.parametrize(
    ("line", "rule", "detail"),
    [
        ("{", "format", "line 2: not JSON: Expecting property name enclosed in double quotes"),
        ('{"prompt": 1e999999', "format", "line 2: not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "format", "line 2: not JSON: too many levels"),
        ("[]", "format", "line 2: expected an object with prompt and output"),
        ("3", "format", "line 2: expected an object with prompt and output"),
        ({"prompt": "a"}, "format", "line 2: no output"),
        ({"output": "a"}, "format", "line 2: no prompt"),
        ({"prompt": ["a"], "output": "a"}, "format", "line 2: prompt is no text"),
        ({"prompt": " \n", "output": "a"}, "empty", "line 2: prompt is empty"),
        ({"prompt": "a", "output": "<|eot|>\n<|eot|>"}, "empty", "line 2: output is empty"),
        ({"prompt": "a", "output": "A (b): c"}, "cut-off", "line 2: output does not end in <|eot|>"),
        ({"prompt": "a<|eot|>", "output": OUTPUT}, "format", "line 2: prompt has the mark <|eot|>"),
        (
            {"prompt": "a", "output": "A (b): <|im_start|>system<|eot|>"},
            "format",
            "line 2: output has the mark <|im_start|>",
        ),
        ('{"prompt": "a", "output": "\\u0000<|eot|>"}', "format", "line 2: output has the character U+0000"),
        ('{"prompt": "\\ud800", "output": "a<|eot|>"}', "format", "line 2: prompt has the character U+D800"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_the_others_are_kept(line, rule, detail):
    samples, rejected = prompted(SAMPLE, line, SAMPLE)
    assert told(rejected) == [("released/0000002", rule, detail)]
    assert [sample["source"]["id"] for sample in samples] == ["released/0000001", "released/0000003"]
    json.dumps(rejected.rows, ensure_ascii=False).encode()


def test_a_line_that_is_no_utf_8_is_named():
    data = json.dumps(SAMPLE).encode() + b'\n{"prompt": "K\xe4rnten"}\n'
    samples, rejected = released.prompted(released.File(data, "x"))
    assert (len(samples), told(rejected)) == (
        1,
        [("released/0000002", "format", "line 2: not UTF-8: byte 0xe4")],
    )


@pytest.mark.parametrize(
    "dress",
    [
        lambda lines: b"\xef\xbb\xbf" + b"\n".join(lines),
        lambda lines: b"\r\n".join(lines) + b"\r\n",
        lambda lines: b"\n\n  \n" + b"\n\n".join(lines) + b"\n\n",
        lambda lines: b"[" + b",\n".join(lines) + b"]\n",
        lambda lines: json.dumps([json.loads(line) for line in lines], indent=2).encode(),
        lambda lines: json.dumps({str(n): json.loads(line) for n, line in enumerate(lines)}).encode(),
        lambda lines: json.dumps(
            {str(n): json.loads(line) for n, line in enumerate(lines)}, indent=1
        ).encode(),
        lambda lines: json.dumps({"data": [json.loads(line) for line in lines]}).encode(),
        lambda lines: "".join(json.dumps(json.loads(line), indent=2) for line in lines).encode(),
        lambda lines: b"\xef\xbb\xbf  [" + b" , ".join(lines) + b"  ]",
    ],
)
def test_lines_lists_and_objects_hold_the_same_samples(dress):
    texts = [f"A (speaking): {n} ü\u2028<|eot|>" for n in range(3)]
    lines = [json.dumps({"prompt": "p", "output": text}, ensure_ascii=False).encode() for text in texts]
    samples, rejected = released.prompted(released.File(dress(lines), "x"))
    assert told(rejected) == []
    assert [sample["output"] for sample in samples] == texts


def test_one_sample_alone_is_a_file():
    assert len(prompted(SAMPLE)[0]) == 1
    assert len(generated(DIALOGUE)[0]) == 1
    assert len(generated({"dialogue": DIALOGUE["dialogue"]})[0]) == 1


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (
            b"",
            "x: nothing in it can be trained on: it is empty",
            'each line is {"prompt": …, "output": …}, the output\'s turns ending in <|eot|>',
        ),
        (
            b'{"prompt": "a"}\n{"q": 1}\n\n7',
            "x: nothing in it can be trained on; of 3 the first: line 1: no output",
            'each line is {"prompt": …, "output": …}, the output\'s turns ending in <|eot|>',
        ),
        (
            b'[{"prompt":\n "a"}, {"pro',
            "x:2: not JSON: Unterminated string starting at",
            "is the file whole? fetch it again",
        ),
        (b'[{"prompt": "a"}\n', "x:2: the list does not end", "is the file whole? fetch it again"),
        (b'["\xff"]', "x:1: not UTF-8: byte 0xff", "save it as UTF-8"),
        ("[1]".encode("utf-16"), "x: not UTF-8 but UTF-16", "save it as UTF-8"),
    ],
)
def test_a_file_without_any_sample_is_one_error(data, message, hint):
    with pytest.raises(FileProblems) as caught:
        released.prompted(released.File(data, "x"))
    assert caught.value.render() == f"error: {message}\nhint: {hint}"


def test_ten_thousand_bad_lines_are_counted_and_a_thousand_written_down():
    samples, rejected = prompted(SAMPLE, *["{}"] * 10_000)
    assert (len(samples), len(rejected.rows), rejected.counts.total()) == (1, 1000, 10_000)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"{}", b"[", b"[1", b"]", b"\xef\xbb\xbf", b'{"a":', b"}{"])
    )
)
def test_no_bytes_make_it_stumble(lines):
    for data in (b"\n".join(lines), b"".join(lines), b"[" + b",".join(lines)):
        for read in (
            released.prompted,
            lambda file: released.generated(file, "Anna Holm", "Anna"),
            lambda file: released.general(file, 3, 0),
        ):
            with pytest.raises(FileProblems):
                read(released.File(data, "x"))


# -- generated -------------------------------------------------------------------------------------------------------


def test_a_raw_dialogue_becomes_a_record_of_the_dialogues():
    dialogues, rejected = generated(DIALOGUE)
    assert told(rejected) == []
    assert dialogues == [
        {
            "id": "released/0000001",
            "kind": "released",
            "paragraphs": [],
            "turns": [
                {"role": "Man", "action": "speaking", "content": "Who are you?"},
                {"role": "Anna", "action": "thinking", "content": "A stranger."},
                {"role": "Anna", "action": "speaking", "content": "I am Anna."},
            ],
            "location": "Bergen - Evening",
            "background": "It rains. Anna waits.",
        }
    ]


@pytest.mark.parametrize(
    ("row", "role", "action", "content"),
    [
        (turn("Anna", "Yes.", ""), "Anna", "speaking", "Yes."),
        (turn("ANNA:", "Yes.", "(laughing)"), "Anna", "speaking", "Yes."),
        (turn("Anna Holm", "Yes.", "(thinking to herself)"), "Anna", "thinking", "Yes."),
        (turn("**Anna** (aged 8)", '"Yes."', "(Inner thoughts)"), "Anna", "thinking", "Yes."),
        ({"role": "Anna", "content": "One\n\ntwo <|im_end|>."}, "Anna", "speaking", "One two < |im_end|>."),
        (turn("Anna", "Yes.", None), "Anna", "speaking", "Yes."),
    ],
)
def test_odd_roles_and_actions_are_read_as_what_they_mean(row, role, action, content):
    (dialogue,), rejected = generated({**DIALOGUE, "dialogue": [turn("Man", "Hm?"), row]})
    assert told(rejected) == []
    assert dialogue["turns"][1] == {"role": role, "action": action, "content": content}


def test_turns_of_one_speaker_in_a_row_are_one():
    rows = [
        turn("Man", "Who?"),
        turn("Anna", "I."),
        turn("Anna Holm", "Me.", ""),
        turn("Anna", "Hm.", "(thinking)"),
    ]
    (dialogue,), _ = generated({**DIALOGUE, "dialogue": rows})
    assert [(t["role"], t["action"], t["content"]) for t in dialogue["turns"]] == [
        ("Man", "speaking", "Who?"),
        ("Anna", "speaking", "I. Me."),
        ("Anna", "thinking", "Hm."),
    ]


def test_nobodys_turns_and_an_unfinished_end_are_left_out_and_named():
    rows = [
        turn("Man", "One two three four five six seven eight nine ten eleven twelve?"),
        turn("Narrator", "It rains."),
        turn("Anna", "One two three four five six seven eight nine ten."),
        turn("", "Hm."),
        turn("Anna", ""),
        "no turn",
        turn("Anna", "And then we"),
    ]
    (dialogue,), rejected = generated({**DIALOGUE, "dialogue": rows})
    assert [t["role"] for t in dialogue["turns"]] == ["Man", "Anna"]
    assert dialogue["turns"][1]["content"].endswith(" ten.")
    assert told(rejected) == [
        ("released/0000001/turn 2", "format", "nobody's turn: 'Narrator'"),
        ("released/0000001/turn 4", "format", "nobody's turn: ''"),
        ("released/0000001/turn 5", "empty", "no content"),
        ("released/0000001/turn 6", "empty", "no content"),
        ("released/0000001/turn 7", "cut-off", "the last turn does not end"),
    ]


@pytest.mark.parametrize(
    ("value", "rule", "detail"),
    [
        ({"setting": ["x"]}, "format", "line 2: no dialogue"),
        ({"dialogue": "x"}, "format", "line 2: dialogue is no list"),
        ({"dialogue": []}, "empty", "line 2: dialogue is empty"),
        ({"dialogue": [3, None, {}]}, "format", "line 2: no turn"),
        (
            {"dialogue": [turn("Anna", "Yes."), turn("Narrator", "It rains all day.")]},
            "format",
            "line 2: 4 of 5 words stand in no turn that can be used",
        ),
    ],
)
def test_a_dialogue_that_cannot_be_used_is_named(value, rule, detail):
    dialogues, rejected = generated(DIALOGUE, value)
    assert len(dialogues) == 1
    assert told(rejected) == [("released/0000002", rule, detail)]


@pytest.mark.parametrize(
    ("changes", "location", "background"),
    [
        ({"location": "."}, "A room", "Anna is talking with somebody."),
        ({"location": None, "setting": None}, "A room", "Anna is talking with somebody."),
        ({"setting": "By the sea."}, "Bergen - Evening", "By the sea."),
        ({"setting": []}, "Bergen - Evening", "Anna waits in the rain."),
        ({"setting": [3, " "], "background": ""}, "Bergen - Evening", "Anna is talking with somebody."),
    ],
)
def test_a_dialogue_without_a_place_is_any_talk(changes, location, background):
    (dialogue,), _ = generated({**DIALOGUE, **changes})
    assert (dialogue["location"], dialogue["background"]) == (location, background)


# -- general ---------------------------------------------------------------------------------------------------------

GENERAL = [{"prompt": f"Say {n}.\n", "output": f"{n}"} for n in range(50)]


def test_general_samples_have_their_texts_and_an_end():
    values = [
        {"prompt": "Hi.\n\n", "output": "Hello."},
        {"instruction": "Add.", "input": "1 and 2", "output": "3<|eot|>\n"},
        {"instruction": "Sing.", "input": "", "output": "La "},
        {"instruction": "Sing.", "input": None, "output": "La"},
    ]
    samples, there, rejected = released.general(file(*values), 9, 0)
    assert (there, told(rejected)) == (4, [])
    assert [(sample["prompt"], sample["output"]) for sample in samples] == [
        ("Hi.\n\n", "Hello.<|eot|>"),
        ("Add.\n\n1 and 2\n\n", "3<|eot|>"),
        ("Sing.\n\n", "La<|eot|>"),
        ("Sing.\n\n", "La<|eot|>"),
    ]
    assert {(sample["kind"], sample["source"]["origin"]) for sample in samples} == {("general", "general")}


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"instruction": "a"}, "line 1: no output"),
        ({"instruction": "a", "input": 3, "output": "b"}, "line 1: input is no text"),
        ({"output": "b"}, "line 1: no instruction"),
        ({"prompt": "a", "output": "b<|eot|>c"}, "line 1: has the mark <|eot|>"),
        ({"prompt": "a<|eot|>", "output": "b"}, "line 1: has the mark <|eot|>"),
    ],
)
def test_a_general_line_that_cannot_be_used_is_named(value, detail):
    _, there, rejected = released.general(file(value, GENERAL[0]), 1, 0)
    assert (there, [row["detail"] for row in rejected.rows]) == (1, [detail])


def texts(samples):
    return {(sample["prompt"], sample["output"]) for sample in samples}


def test_which_general_samples_are_taken_depends_on_their_texts_and_the_seed():
    taken = released.general(file(*GENERAL), 10, 0).samples
    assert len(texts(taken)) == 10
    assert [s["source"]["id"] for s in taken] == sorted(s["source"]["id"] for s in taken)
    assert texts(released.general(file(*reversed(GENERAL)), 10, 0).samples) == texts(taken)
    assert texts(released.general(file(*GENERAL), 10, 1).samples) != texts(taken)
    assert texts(taken) < texts(released.general(file(*GENERAL), 11, 0).samples)
    kept = [value for value in GENERAL if (value["prompt"], value["output"] + EOT) in texts(taken)]
    assert texts(released.general(file(*kept), 10, 0).samples) == texts(taken)


def test_where_there_are_fewer_all_are_taken():
    samples, there, _ = released.general(file(*GENERAL[:3]), 10, 0)
    assert (len(samples), there) == (3, 3)
