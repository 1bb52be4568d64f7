"""Transcripts: somebody else's interviews of one system, as records of single.jsonl and turns.jsonl.

Four forms are read, each as JSON lines or as one JSON list, and any of them mixed:

- what the authors of Character-LLM released (github.com/choosewhatulike/trainable-agents): single answers
  `{"topic_id", "question", "reply"}`, interviews `{"character", "topic", "qid", "content": [{"turn_role", "turn_content"}]}`, and their
  files of questions `{"topic_id", "topic", "question"}`, which say what the other two are about;
- our own single.jsonl and turns.jsonl, of another build;
- `{"question", "answer"}` with a `topic` or without;
- the same as CSV, with these words in its first line.

Nothing is lost and nothing is mended in silence: what can be understood is read, and each thing about it that is not as it should be is an
oddity, told with its place. What cannot be understood is a problem, and all problems are one error. Of imported answers
nobody knows whether they stopped by themselves, so their `finish_reason` is None, unless the file says that one was cut off.
Pure: bytes in, records out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from charforge import safe_csv, safe_json
from charforge.errors import FileProblems, Problem
from charforge.files import visible
from charforge.llm.request import FINISH_REASONS
from charforge.marks import CUT_OFF, MARKS, OWN_HEADER, WRONG_SPEAKER, mark_answer
from charforge.questions import TOPICS, question_id
from charforge.stages.interviews import INTERVIEWER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from charforge.safe_json import Entry

__all__ = ["DEFAULT_TOPIC", "Transcripts", "contestants", "question_id", "read"]

Record = dict[str, Any]

DEFAULT_TOPIC = "past"
"""Of a question whose topic nobody says. Not traps: these are measured by rules of their own."""

MAX_TEXT = 100_000
"""Characters of one answer or question. Nobody speaks that long; it is another thing."""

SHOWN_PLACES = 3
"""Of alike oddities."""

MAX_TURNS = 1_000
"""Turns of one interview."""

_TOPIC_WORDS = {
    "traps": ("trap", "break", "unknown", "difficult"),
    "relations": ("relation", "friend", "famil"),
    "values": ("value", "preference", "opinion"),
    "past": ("past", "personal", "experience", "biograph"),
}
"""What the name of a topic of others holds; the first that fits."""
_TOPIC_IDS = {"topic-1": "past", "topic-2": "relations", "topic-3": "values", "topic-4": "traps"}
_INTERVIEWERS = ("man", "interviewer", "visitor", "user", "human", "question", "q")
_NONSTOP = "<|NONSTOP|>"
"""What the released programs put after an answer that came to the token limit. No word of the answer."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_ID = 64

_FORMS = (
    "an entry has question and reply, or topic and content (as Character-LLM's authors released them), "
    "question and answer, or is a record of our single.jsonl or turns.jsonl"
)


class Transcripts(NamedTuple):
    """What the files of one system hold.

    `single` and `turns` are records as charforge.stages.interviews makes them, in the files' order. `questions` is
    {"single": [{"id", "topic", "question"}], "multi": [{"id", "topic", "subject"}]}, each question once. An oddity is {"file", "place", "what",
    "count"}: alike ones of a file are one, with the first places.
    """

    single: list[Record]
    turns: list[Record]
    questions: dict[str, list[Record]]
    oddities: list[Record]


def read(
    files: Sequence[tuple[str, bytes]],
    *,
    contestant: str,
    name: str,
    short_name: str,
    asked: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    only: str | None = None,
) -> Transcripts:
    """Return the answers in `files`, which are (name, bytes), as those of `contestant`, who plays `name`.

    A question that `asked` has too, word for word, gets the id and the topic that it has there; `asked` has the shape of
    `Transcripts.questions`. `only` takes the records of one contestant out of our own files; without it a file of several is a problem.
    Raises FileProblems with everything that cannot be read.
    """
    reader = _Reader(contestant, name, short_name, only)
    entries = []
    for file, data in files:
        try:
            entries.append((file, _entries(file, data)))
        except FileProblems as error:
            reader.problems += error.problems
    for kind, key in (("single", "question"), ("multi", "subject")):
        for question in (asked or {}).get(kind, ()):
            reader.known[question_id(kind, question[key])] = str(question["id"]), str(question["topic"])
    for _, found in entries:
        reader.hear_topics(found)
    for file, found in entries:
        reader.add(file, found)
    if not reader.problems and not (reader.single or reader.turns):
        names = ", ".join(file for file, _ in files) or contestant
        reader.problems.append(Problem(names, None, None, "no answer in it", None, _FORMS))
    if reader.problems:
        raise FileProblems(reader.problems)
    return Transcripts(reader.single, reader.turns, reader.questions, _counted(reader.oddities))


def contestants(file: str, data: bytes) -> list[str]:
    """Return whose answers one of our own files holds, in order of appearance; nothing for other forms.

    Raises FileProblems where the file cannot be read.
    """
    values = [entry.value for entry in _entries(file, data)]
    named = [value.get("contestant") for value in values if isinstance(value, dict)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))


def _counted(oddities: Iterable[tuple[str, str, str]]) -> list[Record]:
    places: dict[tuple[str, str], list[str]] = {}
    for file, place, what in oddities:
        places.setdefault((file, what), []).append(place)
    return [
        {
            "file": file,
            "place": "; ".join([*found[:SHOWN_PLACES], *(["…"] if len(found) > SHOWN_PLACES else [])]),
            "what": what,
            "count": len(found),
        }
        for (file, what), found in places.items()
    ]


class _Wrong(Exception):
    """An entry cannot be understood. The argument says why."""


class _Reader:
    """Turns entries into records, and collects what is odd or wrong on the way."""

    def __init__(self, contestant: str, name: str, short_name: str, only: str | None) -> None:
        self.contestant = contestant
        self.names = (name, short_name)
        self.short_name = short_name
        self.only = only
        self.single: list[Record] = []
        self.turns: list[Record] = []
        self.questions: dict[str, list[Record]] = {"single": [], "multi": []}
        self.oddities: list[tuple[str, str, str]] = []  # file, place, what
        self.problems: list[Problem] = []
        self.known: dict[str, tuple[str, str]] = {}  # question_id -> id and topic, where somebody says
        self.topics: dict[str, str] = {}  # the question in lower case -> its topic, by a file of questions
        self.used: set[str] = set()
        self.file = ""
        self.place = ""

    def odd(self, what: str, place: str = "") -> None:
        self.oddities.append((self.file, self.place + place, what))

    def hear_topics(self, entries: Iterable[Entry]) -> None:
        """Learn from a file of questions what each is about."""
        for entry in entries:
            value = entry.value
            if _form(value) == "question" and isinstance(value["question"], str):
                topic = _topic(value.get("topic")) or _topic(value.get("topic_id"))
                if topic:
                    self.topics.setdefault(_key(value["question"]), topic)

    def add(self, file: str, entries: Iterable[Entry]) -> None:
        """Read all entries of a file."""
        self.file = file
        whose: set[str] = set()
        for entry in entries:
            self.place = entry.place
            value, form = entry.value, _form(entry.value)
            own = value.get("contestant") if form in {"own answer", "own interview"} else None
            if isinstance(own, str):
                if self.only is not None and own != self.only:
                    continue
                whose.add(own)
            try:
                self._entry(form, value)
            except _Wrong as error:
                hint = _FORMS if form is None else None
                self.problems.append(Problem(file, entry.line, None, str(error), None, hint))
                if len(self.problems) >= safe_json.MAX_PROBLEMS:
                    return
        if len(whose) > 1:
            names = ", ".join(visible(name) for name in sorted(whose)[:5])
            message = f"answers of several contestants: {names}"
            hint = "one file holds those of one; charforge import transcripts parts them"
            self.problems.append(Problem(file, None, None, message, None, hint))

    def _entry(self, form: str | None, value: Any) -> None:
        match form:
            case "reply":
                self._released_single(value)
            case "content":
                self._released_turns(value)
            case "own answer":
                self._own_single(value)
            case "own interview":
                self._own_turns(value)
            case "answer":
                self._plain(value)
            case "question":
                self._text(value["question"], "question")
            case _:
                _wrong("no interview and no answer")

    # --- As released -------------------------------------------------------------------------------------------------

    def _released_single(self, value: Record) -> None:
        text = self._question(value.get("question"), "question")
        identity, topic = self._ask("single", "question", text, value)
        if not isinstance(value["reply"], list):
            self.odd("the reply is one turn, not a list of turns")
        said = self._parts(value["reply"], "")
        answer, thoughts, marks = self._answer(said, "")
        self._add_single(
            identity, topic, text, answer, thoughts, "length" if CUT_OFF in marks else None, marks
        )

    def _released_turns(self, value: Record) -> None:
        subject = self._question(value.get("topic"), "topic")
        identity, topic = self._ask("multi", "subject", subject, {**value, "topic": None})
        if value.get("finished") is False:
            self.odd("the interview was not finished")
        if not isinstance(value["content"], list):
            _wrong("content is no list of turns")
        turns: list[Record] = []
        number = -1
        for place, turn in enumerate(_few(value["content"]), 1):
            at = f", turn {place}"
            if not isinstance(turn, dict) or "turn_content" not in turn:
                _wrong(f"turn {place} has no turn_content")
            role = str(turn.get("turn_role")).casefold()
            if role not in {"interviewer", "character"}:
                self.odd(f"the turn's role is {_short(turn.get('turn_role'))}, read as the character's", at)
            count = turn.get("turn_id")
            if isinstance(count, int):
                if count < number:
                    self.odd("turns out of order; left as they stand", at)
                number = count
            said = self._parts(turn["turn_content"], at)
            turns += self._asked(said, at) if role == "interviewer" else self._spoken(said, at)
        self._add_turns(identity, topic, subject, turns)
        asked = sum(turn["role"] == INTERVIEWER for turn in turns)
        wanted = value.get("max_turns")
        if isinstance(wanted, int) and asked != wanted:
            self.odd(f"{asked} questions where max_turns is {wanted}")

    def _asked(self, said: Sequence[_Part], place: str) -> list[Record]:
        """Return the interviewer's turn."""
        theirs = tuple(
            dict.fromkeys([INTERVIEWER, *(part.role for part in said if not self._own(part.role))])
        )
        text, marks = mark_answer(_joined(said, [self._own(part.role) for part in said]), theirs)
        if OWN_HEADER in marks:
            self.odd("the question began with the interviewer's own name, which was taken off", place)
        if WRONG_SPEAKER in marks:
            self.odd("the interviewer speaks for somebody else", place)
        if not text:
            self.odd("the question is empty", place)
        if any(part.cut for part in said):
            marks.append(CUT_OFF)
        return [_turn(INTERVIEWER, "speaking", text, sorted(marks))]

    def _spoken(self, said: Sequence[_Part], place: str) -> list[Record]:
        """Return the character's thoughts, then what it said, as one turn."""
        answer, thoughts, marks = self._answer(said, place)
        return [
            *(_turn(self.short_name, "thinking", thought, []) for thought in thoughts),
            _turn(self.short_name, "speaking", answer, marks),
        ]

    def _answer(self, said: Sequence[_Part], place: str) -> tuple[str, list[str], list[str]]:
        """Return what was said, what was thought, and the marks.

        What stands there for somebody else stays in the answer, under that one's name: it is what the system came up with.
        """
        thoughts = [part.text for part in said if part.action == "thinking" and part.text]
        aloud = [part for part in said if part.action != "thinking"]
        others = [not self._own(part.role) for part in aloud]
        if len(aloud) > 1:
            self.odd(f"the answer has {len(aloud)} parts; they were put together", place)
        text, marks = mark_answer(_joined(aloud, others), self.names)
        found = {*marks}
        if any(part.cut for part in said):
            found.add(CUT_OFF)
        if any(others):
            found.add(WRONG_SPEAKER)
        if OWN_HEADER in found:
            self.odd("the answer began with the character's own name, which was taken off", place)
        if WRONG_SPEAKER in found:
            self.odd("the answer goes on to speak for somebody else", place)
        if not text:
            self.odd("a thought, and nothing was said" if thoughts else "the answer is empty", place)
        return text, thoughts, sorted(found)

    def _own(self, role: str) -> bool:
        """Whether a role is the character: by one of its names, or by a name with more or fewer parts (Gaius Julius Caesar)."""
        if not role:
            return True
        words = {*role.casefold().split()}
        if role.casefold() in _INTERVIEWERS:
            return False
        return any(
            words <= own or own <= words for own in ({*name.casefold().split()} for name in self.names)
        )

    def _parts(self, reply: Any, place: str) -> list[_Part]:
        """Return the turns of a reply: a list of them, one by itself, or only a text."""
        parts = []
        for each in _few(reply) if isinstance(reply, list) else [reply]:
            if isinstance(each, str):
                self.odd("a turn is a text, without role and action", place)
                parts.append(self._part("", "speaking", self._text(each, "the text", place), place))
                continue
            if not isinstance(each, dict) or "content" not in each:
                _wrong("a turn of the reply has no content")
            role = "" if each.get("role") is None else self._text(each["role"], "role", place)
            text = self._text(each["content"], "content", place)
            parts.append(self._part(" ".join(role.split())[:60], self._action(each, place), text, place))
        return parts

    def _part(self, role: str, action: str, text: str, place: str) -> _Part:
        text = text.strip()
        cut = text.endswith(_NONSTOP)
        if cut:
            self.odd("cut off at the token limit, as the mark at its end says; the mark was taken off", place)
            text = text.removesuffix(_NONSTOP).rstrip()
        return _Part(role, action, text, cut)

    def _action(self, turn: Record, place: str) -> str:
        given = turn.get("action")
        text = given.casefold().strip() if isinstance(given, str) else ""
        action = "thinking" if "think" in text or "thought" in text else "speaking"
        if text.removeprefix("(").removesuffix(")") != action:
            self.odd(f"the action is {_short(given)}, read as {action}", place)
        return action

    # --- Our own, and plain --------------------------------------------------------------------------------------------

    def _own_single(self, value: Record) -> None:
        text = self._question(value["text"], "text")
        identity, topic = self._ask("single", "question", text, value, value["question"])
        answer = self._text(value["answer"], "answer")
        thoughts = value.get("thoughts")
        if not isinstance(thoughts, list | None) or not all(isinstance(each, str) for each in thoughts or ()):
            _wrong("thoughts is no list of texts")
        reason = value.get("finish_reason")
        if reason is not None and reason not in FINISH_REASONS:
            self.odd(f"finish_reason is {_short(reason)}, taken for unknown")
            reason = None
        self._add_single(
            identity,
            topic,
            text,
            answer,
            [self._text(each, "a thought") for each in thoughts or ()],
            reason,
            self._own_marks(value.get("marks"), answer, self.names),
        )

    def _own_turns(self, value: Record) -> None:
        subject = self._question(value.get("subject"), "subject")
        identity, topic = self._ask("multi", "subject", subject, value, value.get("question"))
        if not isinstance(value["turns"], list):
            _wrong("turns is no list")
        turns = []
        for place, turn in enumerate(_few(value["turns"]), 1):
            if not isinstance(turn, dict) or "content" not in turn:
                _wrong(f"turn {place} has no content")
            at = f", turn {place}"
            content = self._text(turn["content"], f"turn {place}: content", at)
            asks = str(turn.get("role")).casefold() in _INTERVIEWERS
            role = INTERVIEWER if asks else self.short_name
            action = self._action(turn, at)
            marks = []
            if action == "speaking":
                marks = self._own_marks(
                    turn.get("marks"), content, (INTERVIEWER,) if asks else self.names, at
                )
            turns.append(_turn(role, action, content, marks))
        self._add_turns(identity, topic, subject, turns)

    def _own_marks(self, given: Any, text: str, names: Sequence[str], place: str = "") -> list[str]:
        """Return the marks that a record has, with those that its text shows. The text is not touched a second time."""
        marks = {mark for mark in mark_answer(text, names)[1] if mark != OWN_HEADER}
        for mark in given if isinstance(given, list) else ():
            if isinstance(mark, str) and mark in MARKS:
                marks.add(mark)
            else:
                self.odd(f"the mark {_short(mark)} is none of ours, and was left out", place)
        return sorted(marks)

    def _plain(self, value: Record) -> None:
        text = self._question(value.get("question"), "question")
        identity, topic = self._ask("single", "question", text, value)
        said = [self._part("", "speaking", self._text(value["answer"], "answer"), "")]
        answer, thoughts, marks = self._answer(said, "")
        self._add_single(
            identity, topic, text, answer, thoughts, "length" if CUT_OFF in marks else None, marks
        )

    # --- Records -----------------------------------------------------------------------------------------------------

    def _ask(self, kind: str, key: str, text: str, value: Record, own: Any = None) -> tuple[str, str]:
        """Return the id and the topic of a question, and note it."""
        identity = question_id(kind, text)
        topic = self._topic_of(text, value)
        if identity in self.known:
            identity, topic = self.known[identity]
        elif isinstance(own, str) and len(own) <= _MAX_ID and _ID.fullmatch(own):
            identity = own
        first, number = identity, 1
        while identity in self.used:
            number += 1
            identity = f"{first[: _MAX_ID - 6]}-{number}"
        self.used.add(identity)
        if number > 1:
            self.odd("the question is there already; the answer was kept, under an id of its own")
        self.questions[kind].append({"id": identity, "topic": topic, key: text})
        return identity, topic

    def _topic_of(self, text: str, value: Record) -> str:
        topic = self.topics.get(_key(text)) or _topic(value.get("topic")) or _topic(value.get("topic_id"))
        if topic is None:
            self.odd(f"nobody says what the question is about; taken for {DEFAULT_TOPIC}")
        return topic or DEFAULT_TOPIC

    def _add_single(
        self,
        identity: str,
        topic: str,
        text: str,
        answer: str,
        thoughts: list[str],
        finish_reason: str | None,
        marks: list[str],
    ) -> None:
        self.single.append(
            {
                "id": f"{self.contestant}/{identity}",
                "contestant": self.contestant,
                "question": identity,
                "topic": topic,
                "text": text,
                "answer": answer,
                "thoughts": thoughts,
                "finish_reason": finish_reason,
                "marks": marks,
            }
        )

    def _add_turns(self, identity: str, topic: str, subject: str, turns: list[Record]) -> None:
        if not any(turn["action"] == "speaking" and turn["role"] != INTERVIEWER for turn in turns):
            self.odd("an interview without an answer")
        elif turns[-1]["role"] == INTERVIEWER:
            self.odd("the last question has no answer")
        self.turns.append(
            {
                "id": f"{self.contestant}/{identity}",
                "contestant": self.contestant,
                "question": identity,
                "topic": topic,
                "subject": subject,
                "turns": turns,
                "marks": sorted({mark for turn in turns for mark in turn["marks"]}),
            }
        )

    def _question(self, value: Any, what: str) -> str:
        text = " ".join(self._text(value, what).split())
        if not text:
            _wrong(f"{what} is empty")
        return text

    def _text(self, value: Any, what: str, place: str = "") -> str:
        """Return a text that can be written down as UTF-8."""
        if not isinstance(value, str):
            _wrong(f"{what} is missing" if value is None else f"{what} is no text")
        if len(value) > MAX_TEXT:
            _wrong(f"{what} has {len(value):,} characters, the limit is {MAX_TEXT:,}")
        if _SURROGATE.search(value):
            self.odd(f"{what} has half a character (a lone surrogate); shown as U+FFFD", place)
            return _SURROGATE.sub("\ufffd", value)
        return value


class _Part(NamedTuple):
    """What one speaker says in a reply. `role` is "" where nobody is named; `cut` where it was cut off."""

    role: str
    action: str
    text: str
    cut: bool


def _joined(said: Sequence[_Part], named: Sequence[bool]) -> str:
    """Return parts as one text, those of somebody else under that one's name."""
    return "\n".join(
        f"{part.role} (speaking): {part.text}" if other else part.text
        for part, other in zip(said, named, strict=True)
    )


def _turn(role: str, action: str, content: str, marks: list[str]) -> Record:
    return {"role": role, "action": action, "content": content, "marks": marks}


def _form(value: Any) -> str | None:
    """Return which form an entry has, by its keys; None for none."""
    if not isinstance(value, dict):
        return None
    if "turns" in value:
        return "own interview"
    if "content" in value and "topic" in value:
        return "content"
    if "reply" in value:
        return "reply"
    if "answer" in value:
        return "own answer" if "text" in value and "question" in value else "answer"
    return "question" if "question" in value else None


def _topic(given: Any) -> str | None:
    """Return our word for a topic, by its name or by the number that the released files give it; None where it says nothing."""
    if not isinstance(given, str) or len(given) > 200:
        return None
    text = given.strip().casefold()
    if text in TOPICS:
        return text
    if text in _TOPIC_IDS:
        return _TOPIC_IDS[text]
    return next((topic for topic, words in _TOPIC_WORDS.items() if any(word in text for word in words)), None)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _few(turns: list[Any]) -> list[Any]:
    if len(turns) > MAX_TURNS:
        _wrong(f"{len(turns):,} turns, the limit is {MAX_TURNS:,}")
    return turns


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    text = value if isinstance(value, str) else type(value).__name__
    return f"'{visible(text[:40])}'"


def _wrong(message: str) -> NoReturn:
    raise _Wrong(message)


def _entries(file: str, data: bytes) -> list[Entry]:
    if file.casefold().endswith(".csv"):
        return safe_csv.entries(data, file, ("question", "answer"))
    return safe_json.entries(data, file)
