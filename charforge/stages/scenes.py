"""Scenes: settings in which the character could have spoken, each drawn from one paragraph of the profile.

A capable model imagines a scene of a given kind as one JSON object. A small one chooses a place (constrained JSON) and says
what a visitor asks about (a few words), which is all it can do. Knows slots, prompts and rules; no store and no file.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import one_line
from charforge.errors import CharForgeError
from charforge.evidence import content_words
from charforge.stages.retelling import COPIED_EXAMPLE, facts, place_schema, pronoun, read_place
from charforge.stages.slots import (
    LIMIT,
    Account,
    Drawn,
    Generated,
    Slot,
    Writer,
    ended,
    fill,
    paragraph_slots,
    small,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from charforge.checks import Broken
    from charforge.llm.request import Answered

VERSION = 2

KINDS = (
    "a quiet talk between two people who trust each other",
    "a quarrel",
    "a lesson",
    "a first meeting",
    "a farewell",
    "a request that is refused",
    "a confession",
    "a joke that goes too far",
    "a bargain",
    "a comfort in grief",
    "a triumph that tastes of something else",
    "an argument about what is right",
)
"""What n-th scenes of a paragraph are. Named in the request, so that draws of one paragraph differ by more than chance."""

VISIT = "visit"
MIN_FACTS = 2
"""Facts that a paragraph must hold for a small model: a dialogue of it retells them."""

SCHEMA = {
    "type": "object",
    "properties": {"location": {"type": "string"}, "background": {"type": "string"}},
    "required": ["location", "background"],
    "additionalProperties": False,
}


def templates(model: str) -> dict[str, str]:
    """Return the prompts that this stage reads, as key → path under prompts/."""
    return (
        {"place": "embedded/place.j2", "topic": "embedded/topic.j2"}
        if small(model)
        else {"scene": "scene.j2"}
    )


async def generate(
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    count: int,
    attempts: int,
    min_yield: float,
    per_call: int,
    writer: Writer,
    on_progress: Callable[[int, int], None],
    on_passed: Callable[[dict[str, Any]], None] = lambda _scene: None,
) -> Generated:
    """Draw `count` scenes over the paragraphs of the profile and return scenes.jsonl and what goes with it.

    `writer.prompts` holds the sources of `templates(writer.model)` by key; `on_passed` hears of each scene as soon as it
    may be used. Raises CharForgeError as `slots.fill` does.
    """
    names = (name, short_name)
    whole = "\n".join(str(paragraph["text"]) for paragraph in profile["paragraphs"])
    slots = paragraph_slots(profile["paragraphs"], count)
    same = asks(short_name) if small(writer.model) else ""  # what all of a small model's backgrounds share

    if small(writer.model):
        slots = tellable(profile, names, count, min_yield)

        async def draw(slot: Slot, d: int) -> Drawn:
            return await _small_scene(writer, slot, d, names=names, profile=whole)

    else:

        async def draw(slot: Slot, d: int) -> Drawn:
            return await _scene(writer, slot, d, names=names, until=knows_until, never=never)

    return await fill(
        slots,
        what="scenes",
        count=count,
        attempts=attempts,
        min_yield=min_yield,
        draw=draw,
        text=lambda record: f"{record['location']} {record['background'].removeprefix(same)}",
        on_progress=on_progress,
        on_passed=on_passed,
    )


def asks(short_name: str) -> str:
    """Return how the background of a small model's scene begins; its prompt ends in the same words."""
    return f"A visitor asks {short_name} about"


def tellable(profile: Mapping[str, Any], names: Sequence[str], count: int, min_yield: float) -> list[Slot]:
    """Return the slots of the paragraphs that a small model can retell, those with most to tell first.

    Where there are none, that is a yield of nothing; raises CharForgeError if `min_yield` asks for more.
    """
    who = pronoun(profile)
    # The order is that of all paragraphs, so that an edit which makes one tellable moves no other.
    order = [profile["paragraphs"][position] for position in spread(len(profile["paragraphs"]))]
    told = {p["id"]: min(len(facts(str(p["text"]), names, who)), MIN_FACTS + 1) for p in order}
    chosen = [p for number in (MIN_FACTS + 1, MIN_FACTS) for p in order if told[p["id"]] == number]
    if not chosen and min_yield == 0:
        return []
    if not chosen:
        raise CharForgeError(
            f"no paragraph of the profile has {MIN_FACTS} sentences about what '{who}' or '{names[-1]}' did",
            "a small model can only retell such sentences; set scenes.count and protective.count to 0, or name another generator.model",
        )
    return [Slot(chosen[i % len(chosen)], i // len(chosen)) for i in range(LIMIT * count)]


async def _scene(
    writer: Writer, slot: Slot, d: int, *, names: tuple[str, str], until: str, never: Sequence[str]
) -> Drawn:
    kind = slot.choose(KINDS, "kind")
    paragraph = str(slot.paragraph["text"])
    answered = await writer.write(
        "scene",
        {
            "name": names[0],
            "short_name": names[1],
            "paragraph": paragraph,
            "kind": kind,
            "until": until,
            "never": list(never),
        },
        draw=slot.draw(d),
        schema=SCHEMA,
    )
    account = Account.of(f"scene/{slot.name}/{d}", answered)
    found = read_scene(answered.reply.text)
    record = _record(slot, d, kind.removeprefix("a ").removeprefix("an "), **found) if found else None
    text = "" if record is None else f"{record['location']}\n{record['background']}"
    broken = ended(answered) or checks.first(
        format="no JSON object with location and background" if record is None else checks.text_form(text),
        length=checks.word_count(text, least=10, most=220),
        assistant_talk=checks.assistant_talk(text),
        foreign_language=checks.foreign_language(text, paragraph),
        copied_prompt=checks.copied(text, writer.own_words("scene"), checks.COPIED_PROMPT),
        copied_paragraph=checks.copied(text, paragraph, checks.COPIED_PARAGRAPH),
        repetition=checks.repetition(text),
        ungrounded=checks.ungrounded(text, paragraph, besides=names),
        anachronism=checks.anachronism(text, never=never, until=until),
    )
    return _drawn(slot, d, record, broken, account, answered)


def read_scene(text: str) -> dict[str, str] | None:
    """Return {"location", "background"} from a reply: a JSON object anywhere in it, or lines `Location:` and `Background:`.

    None where there is neither, or one of the two is empty.
    """
    values: Any = None
    start = text.find("{")
    if start >= 0:
        try:
            values, _ = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            values = None
    if not isinstance(values, dict):
        lines = re.findall(
            r"^[*_\s]*(Location|Background|Status)[*_\s]*:[*_]*(.*)$", text, re.IGNORECASE | re.MULTILINE
        )
        values = {key.lower().replace("status", "background"): value for key, value in lines}
    found = {
        key: one_line(values[key]) for key in ("location", "background") if isinstance(values.get(key), str)
    }
    return found if len(found) == 2 and all(found.values()) else None


async def _small_scene(writer: Writer, slot: Slot, d: int, *, names: tuple[str, str], profile: str) -> Drawn:
    name, short_name = names
    paragraph = str(slot.paragraph["text"])
    place, topic = await asyncio.gather(
        writer.write(
            "place",
            {"name": name, "paragraph": paragraph},
            draw=slot.draw(d),
            schema=place_schema(paragraph),
            max_tokens=48,
        ),
        writer.write(
            "topic",
            {"name": name, "short_name": short_name, "facts": paragraph},
            draw=slot.draw(d),
            max_tokens=32,
        ),
    )
    account = Account(asked=2)
    text = one_line(topic.reply.text)
    background = f"{asks(short_name)} {text}"
    location = read_place(place.reply.text)
    if location is None:
        missing = ended(place) or checks.Broken("format", "no JSON object with a room")
        return _drawn(slot, d, None, missing, account, place)
    record = _record(slot, d, VISIT, location=location, background=background)
    said = content_words(text)
    unknown = [word for word in said if word not in content_words(paragraph)]
    account.calls.append(place.call)
    broken = (
        ended(topic)
        or checks.first(
            format=checks.text_form(text) or (None if text.endswith(".") else "no whole sentence"),
            length=checks.word_count(text, least=2, most=20),
            copied_prompt=checks.copied(background, writer.own_words("topic"), COPIED_EXAMPLE),
            repetition=checks.repetition(text) or (None if len(set(said)) == len(said) else "a word twice"),
            ungrounded=f"not in the paragraph: {', '.join(unknown[:4])}"
            if unknown
            else checks.ungrounded(text, paragraph, least=1),
        )
        or checks.first(ungrounded=checks.unknown_names(text, [profile]))
    )
    return _drawn(slot, d, record, broken, account, topic)


def _record(slot: Slot, d: int, kind: str, *, location: str, background: str) -> dict[str, Any]:
    return {
        "id": f"scene/{slot.name}",
        "kind": "generated",
        "type": kind,
        "location": location,
        "background": background,
        "paragraph": slot.paragraph["id"],
        "n": slot.n,
        "draw": d,
    }


def _drawn(
    slot: Slot,
    d: int,
    record: dict[str, Any] | None,
    broken: Broken | None,
    account: Account,
    answered: Answered,
) -> Drawn:
    """Return the draw: accepted with its calls, or rejected under its id."""
    if broken:
        account.reject(f"scene/{slot.name}/{d}", broken, answered)
        account.calls.clear()
        return Drawn([], account)
    assert record is not None
    account.calls.append(answered.call)
    return Drawn([record], account, answered)
