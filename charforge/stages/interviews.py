"""The interviews: every contestant answers the same single questions, and talks with an interviewer about each subject.

Single-turn questions go to all contestants at once. In a multi-turn interview the interviewer is a model too: it
knows the subject, a little of the profile and what was said aloud, never what was thought. All interviews advance side
by side, so that a local model answers in batches. Whatever went wrong with an answer is marked, never hidden or mended.
This module knows no store, no file, and of a model nothing but `ask`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from charforge import evidence
from charforge.dialogue import EOT, Turn, cue, one_line, render_prompt, render_turn
from charforge.llm.request import Request
from charforge.marks import (
    CUT_OFF,
    FILTERED,
    HEADER,
    MALFORMED,
    MARKS,
    SCRIPTED_QUESTION,
    SPECIAL,
    hear,
    mark_answer,
    own_words,
)
from charforge.stages.slots import all_of, by_id
from charforge.templates import render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from charforge.llm.request import Answered, Ask, Message

__all__ = [
    "INTERVIEWER",
    "LOCATION",
    "MARKS",
    "SCRIPTED_QUESTION",
    "VERSION",
    "Contestant",
    "Imported",
    "Interviewer",
    "Results",
    "interview",
    "mark_answer",
    "roster",
    "status",
]

VERSION = 2

INTERVIEWER = "Visitor"
"""The interviewer's name in every transcript and prompt. Training data should know a Visitor too."""

LOCATION = "A quiet room"
SILENCE = "…"
"""Stands for an empty answer in the history that models see; a turn of the text format cannot be empty."""

THOUGHT_CALLS = 3
"""Calls an answer may take where the character may think first; the last one must speak."""

FACTS = 2
"""Profile paragraphs that the interviewer gets to read: those most like the subject."""

QUESTION_DRAWS = 3
"""How often the interviewer may try; after that a scripted question is asked, and marked."""

SCRIPTED = (
    "Can you tell me more about that?",
    "How did you feel about it at the time?",
    "What happened after that?",
    "Who was with you in those days?",
    "Why did it matter so much to you?",
    "Looking back, would you do the same again?",
    "What do other people say about it?",
    "Is there something about it that nobody knows?",
)
"""Neutral questions for when the interviewer's own fail; the first that was not asked yet is taken."""

_TAIL = r"[a-z][A-Za-z ,'’\-]{8,70}\?"
EMBEDDED_REPLY: dict[str, Any] = {
    "type": "string",
    "pattern": "^("
    rf"(What|How|Why|When|Where|Who) (did|was|were|made|would|could) your? {_TAIL}"
    rf"|(Did|Were|Would|Could) your? {_TAIL}"
    rf"|(What|How|Why) do you (remember|think|feel|believe|love|say|call|hope) {_TAIL}"
    rf"|Do you (remember|think|feel|believe|love|still|ever|hope) {_TAIL}"
    rf"|(What|Who) (made|taught|helped|gave|told|brought) you {_TAIL}"
    ")$",
}
"""What an embedded interviewer may reply: a JSON string that begins like a question to somebody.

Without it 18 of 40 questions of SmolLM2-135M passed `question_problem` at temperature 0.7, with it 39; half of those keep to the
subject (26 of 40 at temperature 0.5), so that three draws almost always give one.
"""

_QUOTED_QUESTION = re.compile(r'"([^"\n]+\?)"')
_ACTION = re.compile(r"\s*(?P<action>speaking|thinking)\)\s*:(?P<content>.*)", re.DOTALL)


KINDS = ("trained", "base", "prompted", "imported")
"""What a contestant can be, in the order in which contestants are shown."""


class Contestant(TypedDict):
    """Who answers. `style` is `character` (continues the raw text format) or `chat` (is told by a system message).

    `weights` is the digest of the weights where we know it.
    """

    name: str
    kind: Literal["trained", "base", "prompted"]
    model: str
    weights: str | None
    style: str


class Interviewer(TypedDict):
    """The model that asks in multi-turn interviews, and how it is sampled."""

    model: str
    weights: str | None
    temperature: float
    max_tokens: int


class Imported(NamedTuple):
    """Somebody else's interviews of one system: records as `interview` makes them, `finish_reason` None where nobody knows it."""

    name: str
    single: Sequence[Mapping[str, Any]]
    turns: Sequence[Mapping[str, Any]]


class Results(NamedTuple):
    """What the stage makes: contestants.json, see `roster`, and the records of single.jsonl, turns.jsonl and calls.jsonl.

    A call is {"id": "<record id>/<nn>", "call"}; imported records have none.
    """

    contestants: list[dict[str, Any]]
    single: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    calls: list[dict[str, Any]]


@dataclass(slots=True)
class _Answer:
    """One answer, in the words of the model."""

    text: str
    thoughts: list[str]
    finish_reason: str
    marks: list[str]
    calls: list[str]


@dataclass(slots=True)
class _Room:
    """What is the same for every question of the stage."""

    short_name: str
    name: str
    meta: str
    history: int
    thoughts: bool
    sampling: dict[str, Any]
    repetition_penalty: float | None
    interviewer: Interviewer
    profile: Mapping[str, Any]
    prompts: Mapping[str, str]
    ask: Ask
    tick: Callable[[], None]
    seed: int | None
    calls: list[dict[str, Any]] = field(default_factory=list)


def status(short_name: str) -> str:
    """Return the Status line under which every interview of a character-style contestant stands."""
    return f"A visitor has come to {short_name}, sits down, and asks one question after another."


def roster(contestants: Sequence[Contestant], imported: Sequence[str]) -> list[dict[str, Any]]:
    """Return contestants.json: everybody whose answers there are, by kind, then as given.

    `imported` are the names of transcripts. The first is the `reference` that the others are compared with: the trained
    character where there is one. Raises ValueError where two have one name.
    """
    known: list[dict[str, Any]] = [
        {"name": each["name"], "kind": each["kind"], "model": each["model"], "style": each["style"]}
        for each in contestants
    ] + [{"name": name, "kind": "imported", "model": None, "style": None} for name in imported]
    if len({each["name"] for each in known}) < len(known):
        raise ValueError("two contestants of one name")
    known.sort(key=lambda each: KINDS.index(each["kind"]))
    return [{**each, "reference": place == 0} for place, each in enumerate(known)]


async def interview(
    *,
    contestants: Sequence[Contestant],
    imported: Sequence[Imported] = (),
    single: Sequence[Mapping[str, Any]],
    multi: Sequence[Mapping[str, Any]],
    turns: int,
    history: int,
    thoughts: bool,
    temperature: float,
    top_p: float | None,
    repetition_penalty: float | None,
    max_tokens: int,
    seed: int | None,
    interviewer: Interviewer,
    name: str,
    short_name: str,
    meta: str,
    prompts: Mapping[str, str],
    profile: Mapping[str, Any],
    ask: Ask,
    on_progress: Callable[[int, int], None],
) -> Results:
    """Interview all contestants and return the records, those of `imported` interviews among them, sorted by id.

    `single` are questions {"id", "topic", "question"}, `multi` subjects {"id", "topic", "subject"}. An interview has
    `turns` questions; each contestant sees the last `history` turns. `meta` is the rendered meta prompt. `prompts`
    holds the sources of `interview_chat` and `interviewer` (the embedded one where the interviewer is embedded).
    `on_progress(done, total)` counts answers. Raises CharForgeError where a model could not be reached, after the other
    interviews came to their end: what was paid for is kept.
    The opening question of a subject is asked for once and put to every contestant.
    """
    everybody = roster(contestants, [each.name for each in imported])
    total = len(contestants) * (len(single) + len(multi) * turns)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    room = _Room(
        short_name=short_name,
        name=name,
        meta=meta,
        history=history,
        thoughts=thoughts,
        sampling={"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens},
        repetition_penalty=repetition_penalty,
        interviewer=interviewer,
        profile=profile,
        prompts=prompts,
        ask=ask,
        tick=tick,
        seed=seed,
    )
    asked = [_single(room, contestant, question) for contestant in contestants for question in single]
    talks = [_subject(room, contestants, subject, turns) for subject in multi]
    answers, transcripts = await all_of([all_of(asked), all_of(talks)])
    answers += [dict(record) for each in imported for record in each.single]
    records = [record for several in transcripts for record in several]
    records += [dict(record) for each in imported for record in each.turns]
    return Results(everybody, by_id(answers), by_id(records), by_id(room.calls))


def _note_calls(room: _Room, identity: str, calls: Sequence[str]) -> None:
    room.calls += [{"id": f"{identity}/{number:02}", "call": call} for number, call in enumerate(calls)]


# --- Answers ---------------------------------------------------------------------------------------------------------


async def _single(room: _Room, contestant: Contestant, question: Mapping[str, Any]) -> dict[str, Any]:
    identity = f"{contestant['name']}/{question['id']}"
    text = one_line(str(question["question"]))
    answer = await _answer(room, contestant, [Turn(INTERVIEWER, "speaking", text)])
    _note_calls(room, identity, answer.calls)
    return {
        "id": identity,
        "contestant": contestant["name"],
        "question": question["id"],
        "topic": question["topic"],
        "text": question["question"],
        "answer": answer.text,
        "thoughts": answer.thoughts,
        "finish_reason": answer.finish_reason,
        "marks": answer.marks,
    }


async def _answer(room: _Room, contestant: Contestant, said: Sequence[Turn]) -> _Answer:
    """Return the contestant's answer to the last turn of `said`, which holds everything up to and with the question."""
    window = _window(said, room.history)
    if contestant["style"] == "chat":
        answer = await _chat_answer(room, contestant, window)
    else:
        answer = await _character_answer(room, contestant, window)
    room.tick()
    return answer


def _window(said: Sequence[Turn], history: int) -> Sequence[Turn]:
    """Return the question, the `history` spoken turns before it, and the thoughts among these.

    Thoughts do not count, so that a contestant who thinks sees as much of the conversation as any other.
    """
    spoken = [place for place, turn in enumerate(said) if turn.action == "speaking"]
    return said[spoken[-(history + 1)] if len(spoken) > history else 0 :]


def _sampling(room: _Room, contestant: Contestant) -> dict[str, Any]:
    """Return how a contestant's answers are sampled. Only models whose weights we have know a repetition penalty."""
    local = contestant["weights"] is not None
    return {**room.sampling, "repetition_penalty": room.repetition_penalty if local else None}


async def _chat_answer(room: _Room, contestant: Contestant, window: Sequence[Turn]) -> _Answer:
    """Ask a prompted model: a system message, then the interviewer as user and the character as assistant.

    What a reasoning model thought earlier is not sent back to it: providers say to leave it out.
    """
    system = render(
        room.prompts["interview_chat"],
        "interview_chat.j2",
        name=room.name,
        short_name=room.short_name,
        meta=room.meta,
    ).strip()
    spoken = [turn for turn in window if turn.action == "speaking"]
    while spoken and spoken[0].role != INTERVIEWER:
        spoken = spoken[1:]  # some providers refuse a conversation that does not begin with the user
    messages: tuple[Message, ...] = (
        ("system", system),
        *(("user" if turn.role == INTERVIEWER else "assistant", turn.content) for turn in spoken),
    )
    answered = await room.ask(
        Request(
            model=contestant["model"],
            weights=contestant["weights"],
            messages=messages,
            seed=room.seed,
            **_sampling(room, contestant),
        )
    )
    return _judged(room, answered, answered.reply.text, [], [answered.call])


async def _character_answer(room: _Room, contestant: Contestant, window: Sequence[Turn]) -> _Answer:
    """Let the model go on with the raw text format, until the character has spoken."""
    prompt = render_prompt(room.meta, LOCATION, status(room.short_name)) + "".join(map(render_turn, window))
    thoughts: list[str] = []
    calls: list[str] = []
    for left in reversed(range(THOUGHT_CALLS if room.thoughts else 1)):
        head = cue(room.short_name, None if left else "speaking")
        answered = await room.ask(
            Request(
                model=contestant["model"],
                weights=contestant["weights"],
                prompt=prompt + head,
                stop=(EOT,),
                seed=room.seed,
                **_sampling(room, contestant),
            )
        )
        calls.append(answered.call)
        if not left:
            return _judged(room, answered, answered.reply.text, thoughts, calls)
        match = _ACTION.match(answered.reply.text)
        if match and match["action"] == "speaking":
            return _judged(room, answered, match["content"], thoughts, calls)
        thought = one_line(match["content"]) if match else ""
        if thought:
            thoughts.append(thought)
            prompt += render_turn(Turn(room.short_name, "thinking", thought))
    raise AssertionError("the last call always speaks")


def _judged(room: _Room, answered: Answered, text: str, thoughts: list[str], calls: list[str]) -> _Answer:
    """Return the answer with its marks. The text stays as it came, but for white space, thoughts and the speaker's own header.

    What a malformed reply holds is our own words about it, which nobody may grade or measure: they stay with the call.
    """
    reason = answered.reply.finish_reason
    heard = hear("" if reason == "malformed" else text)
    text, marks = mark_answer(heard.text, (room.name, room.short_name))
    marks += heard.marks
    if mark := {"length": CUT_OFF, "filtered": FILTERED, "malformed": MALFORMED}.get(reason):
        marks.append(mark)
    return _Answer(text, [*thoughts, *heard.thoughts], reason, sorted(marks), calls)


# --- Multi-turn ------------------------------------------------------------------------------------------------------


async def _subject(
    room: _Room, contestants: Sequence[Contestant], subject: Mapping[str, Any], turns: int
) -> list[dict[str, Any]]:
    """Return the transcripts of all contestants about one subject. The opening question is the same for all."""
    opening = await _question(room, subject, [])
    talks = [_transcript(room, contestant, subject, turns, opening) for contestant in contestants]
    return await all_of(talks)


async def _transcript(
    room: _Room,
    contestant: Contestant,
    subject: Mapping[str, Any],
    turns: int,
    opening: tuple[str, list[str], list[str]],
) -> dict[str, Any]:
    identity = f"{contestant['name']}/{subject['id']}"
    said: list[Turn] = []
    record_turns: list[dict[str, Any]] = []
    calls: list[str] = []
    for number in range(turns):
        question, marks, asked = opening if number == 0 else await _question(room, subject, said)
        said.append(Turn(INTERVIEWER, "speaking", question))
        record_turns.append({**said[-1].record(), "marks": marks})
        answer = await _answer(room, contestant, said)
        for thought in answer.thoughts:
            said.append(Turn(room.short_name, "thinking", thought))
            record_turns.append({**said[-1].record(), "marks": []})
        # The record has the whole answer. What goes on after it, when it speaks for the visitor too, was never asked or said: it would
        # teach the contestant to do so every time, and the interviewer to go on from questions that are not its own.
        heard = own_words(answer.text, (room.name, room.short_name))
        said.append(Turn(room.short_name, "speaking", one_line(heard) or SILENCE))
        record_turns.append({**said[-1].record(), "content": answer.text, "marks": answer.marks})
        calls += [*asked, *answer.calls]
    _note_calls(room, identity, calls)
    return {
        "id": identity,
        "contestant": contestant["name"],
        "question": subject["id"],
        "topic": subject["topic"],
        "subject": subject["subject"],
        "turns": record_turns,
        "marks": sorted({mark for turn in record_turns for mark in turn["marks"]}),
    }


async def _question(
    room: _Room, subject: Mapping[str, Any], said: Sequence[Turn]
) -> tuple[str, list[str], list[str]]:
    """Return the interviewer's next question, its marks, and the calls it took.

    An embedded interviewer goes on with raw text, within EMBEDDED_REPLY, and must keep to the subject or to what was said: so
    small a model drifts. Any other one gets a message and is trusted to know what the interview is about.
    """
    embedded = room.interviewer["model"].startswith("embedded/")
    spoken = [turn for turn in said if turn.action == "speaking"]
    earlier = [turn.content for turn in spoken if turn.role == INTERVIEWER]
    about = one_line(str(subject["subject"]))
    facts = [
        one_line(str(paragraph["text"]))
        for paragraph in evidence.relevant(room.profile["paragraphs"], about, FACTS)
    ]
    text = render(
        room.prompts["interviewer"],
        "interviewer.j2",
        name=room.name,
        short_name=room.short_name,
        interviewer=INTERVIEWER,
        subject=about,
        facts=facts,
        turns=[turn.record() for turn in spoken[-room.history :]],
    )
    topic = " ".join([about, *facts, *(turn.content for turn in spoken)]) if embedded else None
    calls = []
    for draw in range(QUESTION_DRAWS):
        answered = await room.ask(
            Request(
                model=room.interviewer["model"],
                weights=room.interviewer["weights"],
                messages=None if embedded else (("user", text.strip()),),
                prompt=text.rstrip() if embedded else None,
                schema=EMBEDDED_REPLY if embedded else None,
                max_tokens=room.interviewer["max_tokens"],
                temperature=room.interviewer["temperature"],
                seed=room.seed,
                draw=draw,
            )
        )
        calls.append(answered.call)
        question = _tidy(answered.reply.text)
        if answered.reply.finish_reason == "stop" and not question_problem(
            question, earlier, prompt=text, topic=topic
        ):
            return question, [], calls
    unused = [question for question in SCRIPTED if not _repeats(question, earlier)]
    if not said:
        unused = [opening(about)]
    return (unused or list(SCRIPTED))[0], [SCRIPTED_QUESTION], calls


def opening(subject: str) -> str:
    """Return the scripted opening question about a subject."""
    return f"I should like to talk with you about this. {one_line(subject)} Would you begin?"


def question_problem(
    question: str, earlier: Sequence[str], *, prompt: str = "", topic: str | None = None
) -> str | None:
    """Say why a question cannot be asked, or None if it can.

    `earlier` are the questions asked before in this interview. `prompt` is where the question came from: one that stands in it
    word for word, or repeats one of its quoted examples, was copied, not asked. Where `topic` is given, a question needs one of its content
    words, or has none of its own (`And what did you do then?`).
    """
    spoken = evidence.words(question)
    if not question.endswith("?") or question.count("?") > 1:
        return "not one question"
    if not 4 <= len(spoken) <= 50:
        return "too short or too long"
    if not {"you", "your", "yours", "yourself"} & set(spoken):
        return "not put to anybody"
    if SPECIAL.search(question) or HEADER.search(question):
        return "holds a speaker's name or a control token"
    if _repeats(question, earlier):
        return "repeats an earlier question"
    if question.casefold() in prompt.casefold() or _repeats(question, _QUOTED_QUESTION.findall(prompt)):
        return "copied from its prompt"
    content = set(evidence.content_words(question))
    if topic is not None and content and not content & set(evidence.content_words(topic)):
        return "off the subject"
    return None


def _tidy(text: str) -> str:
    """Return the first line of a reply without the interviewer's own header and without quotes around it."""
    line = one_line(next((row for row in text.splitlines() if row.strip()), ""))
    line = re.sub(rf"^[*_]*{INTERVIEWER}[*_]*(?: ?\(speaking\))?[*_]*:[*_]* ?", "", line)
    if line[:1] in {'"', "“"} and line[-1:] in {'"', "”"}:
        line = line[1:-1].strip()
    return line


def _repeats(question: str, earlier: Sequence[str]) -> bool:
    """Say whether a question has (almost) the words of an earlier one: Jaccard index of the stems at least 0.7."""

    def key(text: str) -> set[str]:
        return set(evidence.content_words(text)) or set(evidence.words(text))

    mine = key(question)
    return any(len(mine & key(other)) >= 0.7 * len(mine | key(other)) for other in earlier)
