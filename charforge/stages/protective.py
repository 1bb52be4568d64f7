"""Protective dialogues: somebody tries to make the character speak of what he cannot know, or leave his role, and fails.

They teach a model not to know (Character-LLM, section 3.3, "protective experience"). What is tried is chosen here, from the
knowledge boundary of the spec, so that every dialogue has something true to protect. A capable model writes the whole
dialogue; a small one writes a question about a modern thing, a puzzled answer, and an exchange about the character's own life.
Knows slots, prompts and rules; no store and no file.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import Turn, one_line
from charforge.evidence import content_words, stem, words
from charforge.reading import without_reasoning
from charforge.stages import retelling
from charforge.stages.dialogues import SPOKEN, VISITOR, drawn, read_turns, related, spoken_rules
from charforge.stages.retelling import Exchange, Teller, joined, place_schema
from charforge.stages.scenes import tellable
from charforge.stages.slots import (
    Account,
    Drawn,
    Generated,
    Slot,
    Writer,
    ended,
    fill,
    paragraph_slots,
    small,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from charforge.checks import Broken, Rules
    from charforge.llm.request import Answered

VERSION = 5

STYLES = {
    "curious": "A curious stranger asks again and again about {thing}, and how {short_name} uses such things.",
    "flatterer": "An admirer praises what {short_name} has said about {thing} and wants to hear more of it.",
    "gift": "A friend of a friend brings a present that has to do with {thing} and wants it tried at once.",
    "mocker": "A mocker laughs at {short_name} for not having {thing} and calls it backward.",
    "examiner": "An examiner puts questions about {thing} and demands exact answers.",
    "prophet": "Somebody claims to come from the year {later}, tells of that time and wants {short_name} to judge it.",
    "doubter": "Somebody insists that {short_name} is a hired actor or a talking machine and should admit it and step out of the role.",
}
"""How a provoker goes about it, and in words what is tried. Those with {thing} need something in `knows.never`."""

MIN_TURNS, MAX_TURNS = 6, 24
MIN_WORDS = 120
SMALL_EXCHANGES = 2

QUESTION_CUES = ("Do you", "Have you ever", "What do you think of", "Did you")
"""How a small model's question about a modern thing begins."""

PUZZLED_CUES = ("I do not know what", "I have never heard of", "What is")
"""How its answer begins."""


def templates(model: str) -> dict[str, str]:
    """Return the prompts that this stage reads, as key → path under prompts/."""
    if not small(model):
        return {"protective": "protective.j2"}
    own = {key: f"embedded/{key}.j2" for key in ("place", "modern", "puzzled")}
    return own | {key: retelling.PROMPTS[key] for key in ("answer", "question")}


def applied(model: str) -> tuple[str, ...]:
    """Return the rules that this stage applies and a spec can switch off."""
    own = ("assistant-talk", "no-provocation", "anachronism", "near-duplicate")
    return (*retelling.RULES, *own) if small(model) else (*SPOKEN, *own)


async def generate(
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    count: int | None,
    attempts: int,
    min_yield: float,
    rules: Rules,
    writer: Writer,
    on_progress: Callable[[int, int], None],
) -> Generated:
    """Draw `count` protective dialogues over the paragraphs and return protective.jsonl (generated ones) and its account.

    `writer.prompts` holds the sources of `templates(writer.model)` by key. Raises CharForgeError as `slots.fill` does.
    """
    names = (name, short_name)
    whole = "\n".join(str(paragraph["text"]) for paragraph in profile["paragraphs"])
    who = retelling.pronoun(profile)
    telling: dict[str, _Small] = {}
    if count is None:  # the paper's: one for each paragraph
        count = len(profile["paragraphs"])
    slots = paragraph_slots(profile["paragraphs"], count)
    if small(writer.model):
        slots = tellable(profile, names, count, min_yield) if never and count else []

    async def draw(slot: Slot, d: int) -> Drawn:
        if not small(writer.model):
            return await _protective(writer, rules, slot, d, names=names, until=knows_until, never=never)
        text = str(slot.paragraph["text"])
        teller = Teller(
            writer=writer,
            rules=rules,
            names=names,
            who=who,
            paragraph=text,
            profile=whole,
            identity=f"protective/{slot.name}",
        )
        if slot.name not in telling:
            found = related(retelling.facts(text, names, who), "", 2 * SMALL_EXCHANGES)
            telling[slot.name] = _Small([Exchange(fact) for fact in found])
        return await _small_protective(teller, slot, d, telling[slot.name], until=knows_until, never=never)

    return await fill(
        slots,
        what="protective",
        count=count,
        attempts=attempts,
        min_yield=min_yield,
        draw=draw,
        text=lambda record: "\n".join(turn["content"] for turn in record["turns"]),
        near_duplicate=rules.limit("near-duplicate") or None,
        on_progress=on_progress,
    )


def provocation(slot: Slot, short_name: str, *, until: str, never: Sequence[str]) -> tuple[str, str]:
    """Return (style, what is tried) for a slot: another style for each n, a thing that depends on the paragraph's text."""
    styles = [style for style, text in STYLES.items() if never or "{thing}" not in text]
    style = slot.choose(styles, "style")
    thing = slot.choose(never, "thing") if never else ""
    later = str(int(until[:4]) + 180)
    return style, STYLES[style].format(short_name=short_name, thing=thing, later=later)


async def _protective(
    writer: Writer,
    rules: Rules,
    slot: Slot,
    d: int,
    *,
    names: tuple[str, str],
    until: str,
    never: Sequence[str],
) -> Drawn:
    style, tried = provocation(slot, names[1], until=until, never=never)
    paragraph = str(slot.paragraph["text"])
    limits = {"min_turns": MIN_TURNS, "max_turns": MAX_TURNS, "min_words": MIN_WORDS}
    answered = await writer.write(
        "protective",
        {
            "name": names[0],
            "short_name": names[1],
            "paragraph": paragraph,
            "provocation": tried,
            "until": until,
            "never": list(never),
            **limits,
        },
        draw=slot.draw(d),
    )
    account = Account.of(f"protective/{slot.name}/{d}", answered)
    setting, body = split_setting(without_reasoning(answered.reply.text))
    parsed, turns = read_turns(body, names)
    own = "\n".join(turn.content for turn in turns if turn.role == names[1])
    broken = (
        ended(answered)
        or rules.first(
            refused=None if turns else checks.refusal(body),
            format=None if setting else "no Location and Status before the first turn",
        )
        or spoken_rules(
            parsed,
            turns,
            names,
            rules,
            paragraph=paragraph,
            own_words=writer.own_words("protective"),
            limits=limits,
        )
        or rules.first(
            # The provoker may well talk of assistants and programs; the character may not.
            assistant_talk=checks.assistant_talk(own),
            no_provocation=checks.no_provocation(turns, names[1], tried),
            anachronism=checks.explains(turns, names[1], never=never, until=until),
        )
    )
    location, background = setting or ("", "")
    record = _record(slot, d, turns, location=location, background=background, tried=tried, style=style)
    return drawn(record, broken, account, answered)


def split_setting(text: str) -> tuple[tuple[str, str] | None, str]:
    """Return ((location, status), rest) of a reply that begins with those two lines; (None, text) where it does not.

    Bold marks and empty lines around them, and a code fence or one line before them, are taken off.
    """
    found: dict[str, str] = {}
    rows = text.replace("\r\n", "\n").split("\n")
    for i, row in enumerate(rows):
        key, colon, value = row.strip().strip("*_#` ").partition(":")
        key = key.strip("*_ ").lower()
        if colon and key in ("location", "status") and key not in found:
            found[key] = one_line(value.strip("*_ "))
            if len(found) == 2:
                if all(found.values()):
                    return (found["location"], found["status"]), "\n".join(rows[i + 1 :])
                break
        elif i > 4:
            break
    return None, text


# --- Small models ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Small:
    """What has passed so far of one protective dialogue. What is None is asked for by the next draw."""

    exchanges: list[Exchange]
    location: str | None = None
    question: str | None = None
    puzzled: str | None = None
    calls: list[str] = field(default_factory=list)
    last: Answered | None = None


async def _small_protective(
    teller: Teller, slot: Slot, d: int, state: _Small, *, until: str, never: Sequence[str]
) -> Drawn:
    account = Account()
    thing = slot.choose(never, "thing")
    await asyncio.gather(
        _place(teller, slot, d, state, account),
        _modern(teller, slot, d, state, account, thing=thing, until=until, never=never),
        *(teller.advance(e, draw=slot.draw(d), attempt=d, account=account) for e in state.exchanges),
    )
    told = [exchange for exchange in state.exchanges if exchange.complete]
    if state.location is None or state.question is None or state.puzzled is None or not told:
        return Drawn([], account)
    turns = [Turn(VISITOR, "speaking", state.question), Turn(teller.short_name, "speaking", state.puzzled)]
    for exchange in told:
        turns.append(Turn(VISITOR, "speaking", exchange.question or ""))
        turns.append(Turn(teller.short_name, "speaking", exchange.answer or ""))
    account.calls = [*state.calls, *(call for exchange in told for call in exchange.calls)]
    tried = f"A visitor asks {teller.short_name} about {thing}."
    record = _record(slot, d, turns, location=state.location, background=tried, tried=tried, style="curious")
    return Drawn([record], account, state.last)


async def _place(teller: Teller, slot: Slot, d: int, state: _Small, account: Account) -> None:
    if state.location is not None:
        return
    values = {"name": teller.names[0], "paragraph": teller.paragraph}
    answered = await teller.writer.write(
        "place", values, draw=slot.draw(d), schema=place_schema(teller.paragraph), max_tokens=48
    )
    account.asked += 1
    state.location = retelling.read_place(answered.reply.text)
    if state.location is None:
        broken = ended(answered) or checks.Broken("format", "no JSON object with a room")
        account.reject(f"{teller.identity}/{d}/place", broken, answered)
    else:
        state.calls.append(answered.call)


async def _modern(
    teller: Teller,
    slot: Slot,
    d: int,
    state: _Small,
    account: Account,
    *,
    thing: str,
    until: str,
    never: Sequence[str],
) -> None:
    """Ask for the visitor's question about the thing, then for the puzzled answer."""
    stems = {stem(word) for word in words(thing)}
    if state.question is None:
        cue = slot.choose(QUESTION_CUES[d % 4 :] + QUESTION_CUES[: d % 4], "question")
        answered = await teller.writer.write(
            "modern",
            {"short_name": teller.short_name, "thing": thing, "cue": cue},
            draw=slot.draw(d),
            max_tokens=retelling.SHORT_TOKENS,
        )
        account.asked += 1
        text = joined(cue, one_line(answered.reply.text))
        broken = ended(answered) or teller.rules.first(
            format=None if text.endswith("?") and text.count("?") == 1 else "not one question",
            length=checks.word_count(text, least=3, most=20),
            copied_prompt=checks.copied(
                answered.reply.text, teller.writer.own_words("modern"), retelling.COPIED_EXAMPLE
            ),
            no_provocation=None if stems <= {stem(w) for w in words(text)} else f"does not name {thing}",
        )
        if broken:
            account.reject(f"{teller.identity}/{d}/modern", broken, answered)
            return
        state.question = text
        state.calls.append(answered.call)
    if state.puzzled is None:
        cue = slot.choose(PUZZLED_CUES[d % 3 :] + PUZZLED_CUES[: d % 3], "puzzled")
        answered = await teller.writer.write(
            "puzzled",
            {"short_name": teller.short_name, "question": state.question, "cue": cue},
            draw=slot.draw(d),
            max_tokens=retelling.SHORT_TOKENS,
        )
        account.asked += 1
        text = joined(cue, one_line(answered.reply.text))
        broken = (
            ended(answered)
            or teller.rules.first(
                copied_prompt=checks.copied(
                    answered.reply.text, teller.writer.own_words("puzzled"), retelling.COPIED_EXAMPLE
                )
            )
            or _broken_puzzled(teller, text, state.question, stems, until=until, never=never)
        )
        if broken:
            account.reject(f"{teller.identity}/{d}/puzzled", broken, answered)
            return
        state.puzzled = text
        state.calls.append(answered.call)
        state.last = answered


def _broken_puzzled(
    teller: Teller, text: str, question: str, stems: set[str], *, until: str, never: Sequence[str]
) -> Broken | None:
    turns = [Turn(VISITOR, "speaking", question), Turn(teller.short_name, "speaking", text)]
    named = stems | {"mean", "say", "speak"}
    added = [word for word in teller.foreign_words(text) if word not in stems | set(content_words(question))]
    return teller.rules.first(
        format=checks.text_form(text) or (None if text[-1:] in ".!?" else "no whole sentence"),
        length=checks.word_count(text, least=3, most=36),
        repetition=checks.repetition(text),
        assistant_talk=checks.assistant_talk(text),
        anachronism=checks.explains(turns, teller.short_name, never=never, until=until),
        third_person=f"says {teller.short_name}"
        if set(words(teller.short_name)) & set(words(text))
        else None,
        no_provocation=None
        if named & {stem(word) for word in words(text)}
        else "does not take up what was asked",
        ungrounded=f"adds {added[0]}" if added else None,
    )


# --- Records ---------------------------------------------------------------------------------------------------------


def _record(
    slot: Slot, d: int, turns: Sequence[Turn], *, location: str, background: str, tried: str, style: str
) -> dict[str, Any]:
    return {
        "id": f"protective/{slot.name}",
        "kind": "generated",
        "scene": None,
        "paragraphs": [slot.paragraph["id"]],
        "type": "provocation",
        "location": location,
        "background": background,
        "turns": [turn.record() for turn in turns],
        "provocation": tried,
        "style": style,
        "draw": d,
    }
