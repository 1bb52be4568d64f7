"""Questions: those of an interview, generated from the profile where no file has any, and never asked of the training data.

`arrange` sets aside what the training samples ask already, by the rules of charforge.overlap. `generate` makes questions on each topic: past,
relations, values, and traps about what the character cannot know. They are frozen by being recorded, as all calls are: the same profile, prompt
and parameters give the same questions for good. A capable model writes several in one call, about a few paragraphs, so that all questions
together cover the life. A small one writes one from one sentence; most of what it writes is rejected, and counted.

Knows no store, no file and nobody who is asked.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import one_line
from charforge.evidence import content_words, stem, words
from charforge.llm.errors import NotRecorded
from charforge.overlap import ALIKE, MIN_SHARED, Trained
from charforge.questions import TOPICS, question_id
from charforge.reading import without_reasoning
from charforge.stages import retelling
from charforge.stages.retelling import COPIED_EXAMPLE, Fact, Teller, joined
from charforge.stages.scenes import tellable
from charforge.stages.slots import (
    LIMIT,
    Account,
    Drawn,
    Generated,
    Slot,
    TooFew,
    Writer,
    by_id,
    ended,
    fill,
    paragraph_slots,
    small,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from charforge.checks import Broken, Rules
    from charforge.llm.request import Answered

    Draw = Callable[[Slot, int], Awaitable[Drawn]]

VERSION = 1

KINDS = {"single": "question", "multi": "subject"}
"""The kinds of records, and the key of a record's text."""

PER_CALL = 5
"""Questions that a capable model is asked for at once: more of them begin to repeat each other."""

GROUP_WORDS = 1500
"""Words of the profile that one call is given, at most, unless one paragraph has more."""

MOST_WORDS = 40
MAX_CHARACTERS = 500
"""The longest text that a questions file may hold."""

OVERLAP = "overlap"
"""The rule that a generated question breaks which the training samples ask; checks.RULES has the others."""

CUES: dict[str, tuple[str, ...]] = {
    "past": ("When did you", "Why did you", "How did you", "What do you remember of", "Where did you"),
    "relations": (
        "What do you think of",
        "How did you meet",
        "What did you learn from",
        "How did you get on with",
    ),
    "values": ("How do you feel about", "What do you love about", "Do you want", "What do you think of"),
    "traps": ("Do you", "What do you think of", "How often do you", "When did you first use"),
}
"""How a small model's question begins. Every word of them is the prompt's, so nothing that is asked depends on them."""


VISITOR_WHO = "A visitor who"
"""How its subject of a trap begins."""

HIM = {"he": {"he", "him", "his", "himself"}, "she": {"she", "her", "hers", "herself"}}
"""What a sentence of the profile calls the character, and a question to the character cannot."""

_NAME = re.compile(r"(?<=[a-z,] )[A-ZÄÖÜÉ][a-zäöüéß]+")


# --- What the training data ask already ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arranged:
    """Records that may be asked, in the order given, and rows of set_aside.jsonl: {"id", "kind", "text", "rule", "sample", "detail"}."""

    single: list[dict[str, Any]]
    multi: list[dict[str, Any]]
    set_aside: list[dict[str, Any]]


def arrange(
    single: Sequence[Mapping[str, Any]],
    multi: Sequence[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]],
) -> Arranged:
    """Part the questions that overlap a training sample from the others. `samples` are records of sft.jsonl, in any order.

    `single` has {"id", "topic", "question"}, `multi` has {"id", "topic", "subject"}. The rules are charforge.overlap's; no
    question's fate depends on any other question. `sample` is the id of the sample's source, `detail` its words.
    """
    trained = Trained(samples)
    kept: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    aside = []
    for kind, records in (("single", single), ("multi", multi)):
        for record in records:
            text = str(record[KINDS[kind]])
            found = trained.overlap(text)
            if found is None:
                kept[kind].append(dict(record))
            else:
                aside.append({"id": record["id"], "kind": kind, "text": text, **found._asdict()})
    return Arranged(kept["single"], kept["multi"], by_id(aside))


# --- Generating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """What `generate` makes: records with their ids, sorted by topic, and the account of it; `yield_` is yield.json."""

    single: list[dict[str, Any]]
    multi: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    yield_: dict[str, Any]


def templates(model: str) -> dict[str, str]:
    """Return the prompts that this stage reads, as key → path under prompts/."""
    return {"question": "embedded/questions.j2" if small(model) else "questions.j2"}


def applied(model: str) -> tuple[str, ...]:
    """Return the rules that this stage applies and a spec can switch off."""
    both = (
        "length",
        "third-person",
        "copied-prompt",
        "ungrounded",
        "anachronism",
        "no-provocation",
        "near-duplicate",
    )
    return (
        (*both, "repetition", "copied-paragraph")
        if small(model)
        else (*both, "assistant-talk", "foreign-language")
    )


async def generate(
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    single: int,
    multi: int,
    attempts: int,
    rules: Rules,
    writer: Writer,
    samples: Iterable[Mapping[str, Any]] = (),
    on_progress: Callable[[int, int], None],
) -> Made:
    """Draw `single` questions and `multi` subjects, as many on each topic, and return those that pass with their account.

    What overlaps one of `samples`, records of sft.jsonl, is rejected and drawn again. `writer.prompts` holds the sources of
    `templates(writer.model)` by key. Fewer than wanted is no error, but raises TooFew where nothing at all passed, and
    otherwise what a call raises.
    """
    asker = _Asker(
        writer=writer,
        rules=rules,
        names=(name, short_name),
        until=knows_until,
        never=tuple(never),
        profile=profile,
        trained=Trained(samples),
    )
    progress: dict[tuple[str, str], tuple[int, int]] = {}

    async def topic(kind: str, name: str, count: int) -> Generated:
        def tell(done: int, total: int) -> None:
            progress[kind, name] = (done, total)
            on_progress(*map(sum, zip(*progress.values(), strict=True)))

        slots, draw, per_call = (
            asker.small(kind, name, count) if small(writer.model) else asker.capable(kind, name, count)
        )
        return await fill(
            slots,
            what="questions",
            count=count,
            attempts=attempts,
            min_yield=0,
            draw=draw,
            per_slot=per_call,
            near_duplicate=rules.limit("near-duplicate") or None,
            text=lambda record: str(record[KINDS[kind]]),
            on_progress=tell,
        )

    wanted = [
        (kind, name, count)
        for kind, of in (("single", single), ("multi", multi))
        for name, count in shares(of)
    ]
    made = await asyncio.gather(*(topic(*each) for each in wanted), return_exceptions=True)
    failed = [each for each in made if isinstance(each, BaseException)]
    if failed:  # a topic that failed stops no other, so that all calls that are missing are told at once
        raise min(failed, key=lambda error: isinstance(error, NotRecorded))
    done = [each for each in made if isinstance(each, Generated)]
    return _whole(
        [(kind, name, each) for (kind, name, _), each in zip(wanted, done, strict=True)],
        rules,
        single + multi,
    )


def shares(count: int) -> list[tuple[str, int]]:
    """Return how many of `count` records are wanted on each topic: as many on all, one more on the first ones. No zeros."""
    whole, more = divmod(count, len(TOPICS))
    found = [(topic, whole + (position < more)) for position, topic in enumerate(TOPICS)]
    return [(topic, number) for topic, number in found if number]


def _whole(parts: Sequence[tuple[str, str, Generated]], rules: Rules, wanted: int) -> Made:
    """Return what all topics made, without what two of them have in common."""
    records: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    known: dict[str, dict[str, frozenset[str]]] = {kind: {} for kind in KINDS}
    rejected, calls, asked = [], [], 0
    for kind, topic, made in parts:
        asked += made.yield_["asked"]
        rejected += made.rejected
        call_of = {row["id"]: row["call"] for row in made.calls}
        for record in made.records:
            text = str(record[KINDS[kind]])
            identity, stems = question_id(kind, text), frozenset(content_words(text))
            like = _like(identity, stems, known[kind], alike=bool(rules.limit("near-duplicate")))
            if like is not None:
                rejected.append(
                    {
                        "id": f"{record['id']}/{record['draw']}",
                        "rule": "near-duplicate",
                        "detail": f"like {like}",
                        "text": text,
                        "call": call_of[record["id"]],
                    }
                )
                continue
            known[kind][identity] = stems
            records[kind].append({"id": identity, "topic": topic, KINDS[kind]: text})
            calls.append({"id": identity, "call": call_of[record["id"]]})
    accepted = len(records["single"]) + len(records["multi"])
    rejected = by_id(rejected)
    counts = dict(sorted(Counter(row["rule"] for row in rejected).items()))
    yield_ = {"asked": asked, "accepted": accepted, "rejected": counts, "wanted": wanted}
    if wanted and not accepted:
        told = ", ".join(f"{number} {rule}" for rule, number in counts.items())
        raise TooFew(
            f"questions: none of {wanted} passed ({told or 'nothing to ask about'})",
            "name another interview.generate.model, or write them yourself and name the file as interview.questions",
            Generated([], rejected, [], yield_),
        )
    return Made(records["single"], records["multi"], rejected, by_id(calls), yield_)


def _like(
    identity: str, stems: frozenset[str], known: Mapping[str, frozenset[str]], *, alike: bool
) -> str | None:
    """Return the earlier question that says the same, or, if `alike`, nearly the same as overlap's `same-subject` has it."""
    if identity in known:
        return identity
    for other, theirs in known.items() if alike else ():
        shared = len(stems & theirs)
        if shared >= MIN_SHARED and shared >= ALIKE * len(stems | theirs):
            return other
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asker:
    """What is the same for all questions."""

    writer: Writer
    rules: Rules
    names: tuple[str, str]
    until: str
    never: tuple[str, ...]
    profile: Mapping[str, Any]
    trained: Trained

    def values(self, kind: str, topic: str, **more: Any) -> dict[str, Any]:
        """Return what a prompt is given."""
        both = {"kind": kind, "topic": topic, "name": self.names[0], "short_name": self.names[1]}
        return both | more

    def overlaps(self, text: str) -> Broken | None:
        """Refuse what a training sample asks."""
        found = self.trained.overlap(text)
        return found and checks.Broken(OVERLAP, f"{found.rule} in {found.sample}: {found.detail}")

    # -- A capable model ---------------------------------------------------------------------------------------------

    def capable(self, kind: str, topic: str, count: int) -> tuple[list[Slot], Draw, int]:
        """Return the slots for `count` records, how one is drawn, and how many records a draw gives."""
        per_call = min(PER_CALL, count)
        calls = -(-count // per_call)

        async def draw(slot: Slot, d: int) -> Drawn:
            return await self._several(kind, topic, per_call, slot, d)

        return paragraph_slots(groups(self.profile["paragraphs"], calls), calls), draw, per_call

    async def _several(self, kind: str, topic: str, count: int, slot: Slot, d: int) -> Drawn:
        paragraph = str(slot.paragraph["text"])
        answered = await self.writer.write(
            "question",
            self.values(
                kind, topic, paragraph=paragraph, count=count, until=self.until, never=list(self.never)
            ),
            draw=slot.draw(d),
            schema=SCHEMAS[kind],
        )
        identity = f"{kind}/{topic}/{slot.name}"
        account = Account.of(f"{identity}/{d}", answered)
        text = without_reasoning(answered.reply.text)
        items = [] if ended(answered) else read_list(text)
        broken = ended(answered) or self.rules.first(
            refused=None if items else checks.refusal(text),
            format=None if items else f"no JSON object with {KINDS[kind]}s",
        )
        if broken:
            account.reject(f"{identity}/{d}", broken, answered)
            return Drawn([], account)
        records = []
        for k, item in enumerate(items):
            if k >= count:
                broken = checks.Broken("surplus", f"{count} were asked for")
            else:
                broken = self._broken(kind, topic, item, paragraph)
            if broken:
                shown = replace(answered, reply=replace(answered.reply, text=item))
                account.reject(f"{identity}/{k}/{d}", broken, shown)
            else:
                records.append({"id": f"{identity}/{k}", KINDS[kind]: item, "draw": d})
        if records:
            account.calls.append(answered.call)
        return Drawn(records, account, answered)

    def _broken(self, kind: str, topic: str, text: str, paragraph: str) -> Broken | None:
        trap = topic == "traps"
        late = checks.anachronism(text, never=self.never, until=self.until)
        grounded = topic in ("past", "relations") and self.rules.words("ungrounded")
        return self.rules.first(
            format=checks.text_form(text) or _form(kind, text),
            length=checks.word_count(text, least=3, most=MOST_WORDS),
            third_person=self._of_somebody_else(text) if kind == "single" else None,
            # A trap may well talk of programs and assistants.
            assistant_talk=None if trap else checks.assistant_talk(text),
            foreign_language=checks.foreign_language(text, paragraph),
            copied_prompt=checks.copied(
                text, self.writer.own_words("question"), self.rules.words("copied-prompt")
            ),
            ungrounded=checks.ungrounded(text, paragraph, least=1) if grounded else None,
            anachronism=None if trap else late,
            no_provocation="nothing in it that cannot be known" if trap and self.never and not late else None,
        ) or self.overlaps(text)

    def _of_somebody_else(self, text: str) -> str | None:
        """Refuse a question about the character that is not put to him: `What did Beethoven do in Bonn?`."""
        said = set(words(text))
        named = set(words(self.names[1])) & said
        return (
            f"asks about {self.names[1]}, not him" if named and not said & {"you", "your", "yours"} else None
        )

    # -- A small model -----------------------------------------------------------------------------------------------

    def small(self, kind: str, topic: str, count: int) -> tuple[list[Slot], Draw, int]:
        """Return the same for a small model: one record a draw."""

        async def draw(slot: Slot, d: int) -> Drawn:
            return await self._one(kind, topic, slot, d)

        if topic == "traps":
            return paragraph_slots(self.profile["paragraphs"], count) if self.never else [], draw, 1
        every = tellable(self.profile, self.names, len(self.profile["paragraphs"]), 0)
        told = list({slot.paragraph["id"]: slot.paragraph for slot in every}.values())
        # Each kind and topic begins elsewhere in the life: from one sentence come the same questions, whatever they are for.
        place = list(KINDS).index(kind) * len(TOPICS) + TOPICS.index(topic)
        first = len(told) * place // (len(KINDS) * len(TOPICS))
        slots = [
            Slot(told[(first + i) % len(told)], i // len(told)) for i in range(LIMIT * count if told else 0)
        ]
        return slots, draw, 1

    async def _one(self, kind: str, topic: str, slot: Slot, d: int) -> Drawn:
        thing = slot.choose(self.never, f"{kind}-thing") if topic == "traps" else ""
        fact = self._fact(topic, slot) if topic != "traps" else None
        cues = CUES[topic]
        cue = slot.choose([*cues[d % len(cues) :], *cues[: d % len(cues)]], kind) if kind == "single" else ""
        if kind == "multi" and topic == "traps":
            cue = VISITOR_WHO
        answered = await self.writer.write(
            "question",
            self.values(kind, topic, thing=thing, fact=fact.text if fact else "", cue=cue),
            draw=slot.draw(d),
        )
        identity = f"{kind}/{topic}/{slot.name}"
        account = Account(asked=1)
        text = joined(cue, one_line(answered.reply.text)) if cue else one_line(answered.reply.text)
        if fact is None:
            broken = self._broken_trap(kind, text, answered, thing)
        elif kind == "single":
            broken = self._broken_small(topic, text, answered, slot, fact)
        else:
            broken = self._broken_subject(text, answered, slot, fact)
        broken = broken or self.overlaps(text)
        if broken:
            account.reject(f"{identity}/{d}", broken, answered)
            return Drawn([], account)
        account.calls.append(answered.call)
        return Drawn([{"id": identity, KINDS[kind]: text, "draw": d}], account, answered)

    def _fact(self, topic: str, slot: Slot) -> Fact:
        """Return the sentence that a question is made of: another for each n, as far as there are any."""
        found = retelling.facts(str(slot.paragraph["text"]), self.names, self._who())
        if topic == "relations":  # first what somebody else did to the character
            found = sorted(found, key=lambda fact: fact.cue in ("I", "My"))
        return found[slot.n % len(found)]

    def _broken_small(
        self, topic: str, text: str, answered: Answered, slot: Slot, fact: Fact
    ) -> Broken | None:
        teller = Teller(
            writer=self.writer,
            rules=self.rules,
            names=self.names,
            who=self._who(),
            paragraph=str(slot.paragraph["text"]),
            profile=self._all(),
            identity="",
        )
        own = {word for name in self.names for word in words(name)} | HIM[self._who()]
        left = [word for word in words(text) if word in own]
        return (
            ended(answered)
            or self.rules.first(third_person=f"says {left[0]}" if left else None)
            or teller.broken_question(answered, text, fact.text)
        ) or self.rules.first(
            repetition=checks.repetition(text),
            ungrounded=checks.ungrounded(text, fact.text, least=1)
            or (None if topic != "relations" or _NAME.search(text) else "names nobody"),
            anachronism=checks.anachronism(text, never=self.never, until=self.until),
        )

    def _broken_subject(self, text: str, answered: Answered, slot: Slot, fact: Fact) -> Broken | None:
        paragraph = str(slot.paragraph["text"])
        held = set(content_words(paragraph))
        unknown = [word for word in content_words(text) if word not in held]
        return ended(answered) or self.rules.first(
            format=checks.text_form(text) or (None if text.endswith(".") else "no whole sentence"),
            length=checks.word_count(text, least=3, most=20),
            copied_prompt=self._copied(answered),
            copied_paragraph=checks.copied(text, paragraph, self.rules.words("copied-paragraph")),
            repetition=checks.repetition(text),
            ungrounded=(f"not in the paragraph: {', '.join(unknown[:4])}" if unknown else None)
            or checks.ungrounded(text, fact.text, least=2)
            or checks.unknown_names(text, [self._all()])
            or checks.misnamed(text, paragraph),
        )

    def _broken_trap(self, kind: str, text: str, answered: Answered, thing: str) -> Broken | None:
        named = {stem(word) for word in words(thing)} <= {stem(word) for word in words(text)}
        form = "not one question" if kind == "single" else "no whole sentence"
        sound = text.endswith("?") and text.count("?") == 1 if kind == "single" else text.endswith(".")
        return ended(answered) or self.rules.first(
            format=checks.text_form(text) or (None if sound else form),
            length=checks.word_count(text, least=4, most=24),
            copied_prompt=self._copied(answered),
            repetition=checks.repetition(text),
            no_provocation=None if named else f"does not name {thing}",
        )

    def _copied(self, answered: Answered) -> str | None:
        return checks.copied(answered.reply.text, self.writer.own_words("question"), COPIED_EXAMPLE)

    def _who(self) -> str:
        return retelling.pronoun(self.profile)

    def _all(self) -> str:
        return "\n".join(str(paragraph["text"]) for paragraph in self.profile["paragraphs"])


def groups(paragraphs: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the paragraphs of a profile as `count` neighbourhoods, {"id", "text"}, or more where they would be too long.

    Each is named by its first paragraph. All have about as many words, so that a question stands for as much of the life as any.
    """
    sizes = [len(str(paragraph["text"]).split()) for paragraph in paragraphs]
    count = min(len(paragraphs), max(1, count, math.ceil(sum(sizes) / GROUP_WORDS)))
    found: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    before = 0
    for paragraph, size in zip(paragraphs, sizes, strict=True):
        found[min(count - 1, (2 * before + size) * count // max(1, 2 * sum(sizes)))].append(paragraph)
        before += size
    return [
        {"id": group[0]["id"], "text": "\n\n".join(str(paragraph["text"]) for paragraph in group)}
        for group in found
        if group
    ]


SCHEMAS: dict[str, dict[str, Any]] = {
    kind: {
        "type": "object",
        "properties": {f"{key}s": {"type": "array", "items": {"type": "string"}}},
        "required": [f"{key}s"],
        "additionalProperties": False,
    }
    for kind, key in KINDS.items()
}

MAX_ITEMS = 200
_JSON = re.compile(r"[{\[](?=\s*[{\"\]}])")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+(.+)$", re.MULTILINE)


def read_list(text: str) -> list[str]:
    """Return the texts of a reply, each on one line: those of a JSON list, or of an object that holds one, or of a plain list's lines.

    An object in the list stands for its first text. What is no text is left out; white space in a text is folded.
    """
    start = _JSON.search(text)
    value: Any = None
    if start is not None:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return []
    if isinstance(value, dict):
        value = next((each for each in value.values() if isinstance(each, list)), None)
    if not isinstance(value, list):
        value = _ITEM.findall(text)
    items = [
        next((each for each in item.values() if isinstance(each, str)), None)
        if isinstance(item, dict)
        else item
        for item in value[:MAX_ITEMS]
    ]
    return [one_line(item) for item in items if isinstance(item, str) and one_line(item)]


def _form(kind: str, text: str) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters"
    if "<|" in text or "|>" in text:
        return "markup: <| or |>"
    if kind == "single":
        return None if text.endswith("?") else "no question"
    return None if text.endswith((".", "!")) else "no whole sentence"
