"""Scenes: settings in which the character could have spoken, each drawn from one paragraph of the profile.

A capable model imagines a scene of a given kind as one JSON object, or a list of scenes of different kinds. A small one chooses a place (constrained JSON) and says
what a visitor asks about (a few words), which is all it can do. Knows slots, prompts and rules; no store and no file.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import one_line
from charforge.errors import CharForgeError
from charforge.evidence import content_words
from charforge.reading import without_reasoning
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

    from charforge.checks import Broken, Rules
    from charforge.llm.request import Answered

VERSION = 5

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

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"location": {"type": "string"}, "background": {"type": "string"}},
    "required": ["location", "background"],
    "additionalProperties": False,
}


LIST_SCHEMA = {
    "type": "object",
    "properties": {
        "scenes": {
            "type": "array",
            "items": {
                "type": "object",
                # Providers that enforce a schema want every key required; the reader takes scenes without a kind too.
                "properties": {"kind": {"type": "string", "enum": list(KINDS)}, **SCHEMA["properties"]},
                "required": ["kind", "location", "background"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["scenes"],
    "additionalProperties": False,
}


def templates(model: str) -> dict[str, str]:
    """Return the prompts that this stage reads, as key → path under prompts/."""
    return (
        {"place": "embedded/place.j2", "topic": "embedded/topic.j2"}
        if small(model)
        else {"scene": "scene.j2"}
    )


def applied(model: str) -> tuple[str, ...]:
    """Return the rules that this stage applies and a spec can switch off."""
    both = ("length", "copied-prompt", "repetition", "ungrounded", "near-duplicate")
    more = ("assistant-talk", "foreign-language", "copied-paragraph", "anachronism")
    return both if small(model) else (*both, *more)


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
    rules: Rules,
    writer: Writer,
    on_progress: Callable[[int, int], None],
    on_passed: Callable[[dict[str, Any]], None] | None = None,
) -> Generated:
    """Draw `count` scenes over the paragraphs of the profile and return scenes.jsonl and what goes with it.

    A capable model is asked for `per_call` scenes at once: a list that is shorter is no fault, what is longer is surplus.
    `writer.prompts` holds the sources of `templates(writer.model)` by key; `on_passed` hears of each scene as soon as it
    may be used. Raises CharForgeError as `slots.fill` does.
    """
    names = (name, short_name)
    whole = "\n".join(str(paragraph["text"]) for paragraph in profile["paragraphs"])
    same = asks(short_name) if small(writer.model) else ""  # what all of a small model's backgrounds share

    if small(writer.model):
        per_call = 1
        slots = tellable(profile, names, count, min_yield)

        async def draw(slot: Slot, d: int) -> Drawn:
            return await _small_scene(writer, rules, slot, d, names=names, profile=whole)

    else:
        slots = paragraph_slots(profile["paragraphs"], -(-count // per_call))
        teller = _Teller(writer, rules, names, knows_until, never, per_call)

        async def draw(slot: Slot, d: int) -> Drawn:
            return await teller.scenes(slot, d)

    return await fill(
        slots,
        what="scenes",
        count=count,
        attempts=attempts,
        min_yield=min_yield,
        draw=draw,
        per_slot=per_call,
        near_duplicate=rules.limit("near-duplicate") or None,
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


@dataclass(frozen=True, slots=True)
class _Teller:
    """What is the same for all scenes of a capable model."""

    writer: Writer
    rules: Rules
    names: tuple[str, str]
    until: str
    never: Sequence[str]
    per_call: int

    async def scenes(self, slot: Slot, d: int) -> Drawn:
        """Ask for a paragraph's n-th scene, or its n-th list of scenes, and judge each scene by itself."""
        kinds = [each.choose(KINDS, "kind") for each in self._each(slot)]
        answered = await self.writer.write(
            "scene",
            {
                "name": self.names[0],
                "short_name": self.names[1],
                "paragraph": str(slot.paragraph["text"]),
                "count": self.per_call,
                "kinds": kinds,
                "until": self.until,
                "never": list(self.never),
            },
            draw=slot.draw(d),
            schema=SCHEMA if self.per_call == 1 else LIST_SCHEMA,
        )
        identity = f"scene/{slot.name}"
        account = Account.of(f"{identity}/{d}", answered)
        text = without_reasoning(answered.reply.text)
        # Of a list that was cut off not even the whole scenes are taken: what a model would have gone on to is unknown.
        items = [] if ended(answered) else read_scenes(text)
        broken = ended(answered) or self.rules.first(
            refused=None if items else checks.refusal(text),
            format=None if items else "no JSON object with location and background",
        )
        if broken:
            account.reject(f"{identity}/{d}", broken, answered)
            return Drawn([], account)
        records = []
        for k, item in enumerate(items):
            found = read_scene(item)
            kind = item.get("kind") if item.get("kind") in KINDS else kinds[k % self.per_call]
            record = {
                "id": identity if self.per_call == 1 and k == 0 else f"{identity}/{k}",
                "n": slot.n * self.per_call + k,
                **_record(slot, d, str(kind).removeprefix("a ").removeprefix("an "), found or {}),
            }
            broken = (
                checks.Broken("surplus", f"{self.per_call} were asked for")
                if k >= self.per_call
                else self._broken(found, str(slot.paragraph["text"]))
            )
            if broken:
                shown = answered if len(items) == 1 else _one_of(answered, item)
                account.reject(f"{record['id']}/{d}", broken, shown)
            else:
                records.append(record)
        if records:
            account.calls.append(answered.call)
        return Drawn(records, account, answered)

    def _each(self, slot: Slot) -> list[Slot]:
        """Return the slot as if each scene of its list had one of its own: these have different kinds."""
        return [Slot(slot.paragraph, slot.n * self.per_call + k) for k in range(self.per_call)]

    def _broken(self, found: Mapping[str, str] | None, paragraph: str) -> Broken | None:
        if found is None:
            return checks.Broken("format", "no location or no background")
        text = f"{found['location']}\n{found['background']}"
        rules = self.rules
        return rules.first(
            format=checks.text_form(text),
            length=checks.word_count(text, least=10, most=220),
            assistant_talk=checks.assistant_talk(text),
            foreign_language=checks.foreign_language(text, paragraph),
            copied_prompt=checks.copied(text, self.writer.own_words("scene"), rules.words("copied-prompt")),
            copied_paragraph=checks.copied(text, paragraph, rules.words("copied-paragraph")),
            repetition=checks.repetition(text),
            ungrounded=checks.ungrounded(
                text, paragraph, least=rules.words("ungrounded"), besides=self.names
            ),
            anachronism=checks.anachronism(text, never=self.never, until=self.until),
        )


def _one_of(answered: Answered, item: Mapping[str, Any]) -> Answered:
    """Return a reply as if it had held one scene of its list only: what is rejected is to be seen by itself."""
    text = json.dumps(item, ensure_ascii=False)
    return replace(answered, reply=replace(answered.reply, text=text))


def read_scenes(text: str) -> list[dict[str, Any]]:
    """Return what may be scenes in a reply, in order: JSON objects, in a list or one after another, or groups of lines.

    A group has lines `Location:` and `Background:` (or `Status:`), and maybe `Kind:`. What is in a list and no object is an
    empty scene here, so that it counts.
    """
    found: list[Any] = []
    decoder = json.JSONDecoder()
    at = 0
    while len(found) < MAX_OBJECTS and (start := _JSON.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            break  # and not on from the next brace: half an object is none, and its inner ones are not what was asked for
        listed = value.get("scenes", value) if isinstance(value, dict) else value
        found += listed if isinstance(listed, list) else [listed]
    if any(isinstance(each, dict) for each in found):
        return [each if isinstance(each, dict) else {} for each in found]
    groups: list[dict[str, Any]] = []
    for key, value in _LINE.findall(text):
        name = {"status": "background", "type": "kind"}.get(key.lower(), key.lower())
        if not groups or name in groups[-1]:
            groups.append({})
        groups[-1][name] = value
    return groups


MAX_OBJECTS = 200
_JSON = re.compile(r"[{\[](?=\s*[{\"\]}])")
_LINE = re.compile(
    r"^[*_\s#\d.)-]*(Kind|Type|Location|Background|Status)[*_\s]*:[*_]*(.*)$", re.IGNORECASE | re.MULTILINE
)


def read_scene(item: Mapping[str, Any]) -> dict[str, str] | None:
    """Return {"location", "background"} of one scene, each on one line; None where one of them is missing or empty."""
    found = {key: one_line(item[key]) for key in ("location", "background") if isinstance(item.get(key), str)}
    return found if len(found) == 2 and all(found.values()) else None


async def _small_scene(
    writer: Writer, rules: Rules, slot: Slot, d: int, *, names: tuple[str, str], profile: str
) -> Drawn:
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
    record = {
        "id": f"scene/{slot.name}",
        "n": slot.n,
        **_record(slot, d, VISIT, {"location": location, "background": background}),
    }
    said = content_words(text)
    unknown = [word for word in said if word not in content_words(paragraph)]
    account.calls.append(place.call)
    broken = (
        ended(topic)
        or rules.first(
            format=checks.text_form(text) or (None if text.endswith(".") else "no whole sentence"),
            length=checks.word_count(text, least=2, most=20),
            copied_prompt=checks.copied(background, writer.own_words("topic"), COPIED_EXAMPLE),
            repetition=checks.repetition(text) or (None if len(set(said)) == len(said) else "a word twice"),
            ungrounded=f"not in the paragraph: {', '.join(unknown[:4])}"
            if unknown
            else checks.ungrounded(text, paragraph, least=1),
        )
        or rules.first(ungrounded=checks.unknown_names(text, [profile]))
    )
    return _drawn(slot, d, record, broken, account, topic)


def _record(slot: Slot, d: int, kind: str, found: Mapping[str, str]) -> dict[str, Any]:
    return {
        "kind": "generated",
        "type": kind,
        **found,
        "paragraph": slot.paragraph["id"],
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
