"""Dialogues: what was said and thought in each scene.

A capable model writes a whole dialogue in one call. A small one retells facts of the paragraph, answer by answer, each
answer with the question that leads to it (charforge.stages.retelling); what passed in one draw is kept for the next.
Knows slots, prompts and rules; no store and no file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import Turn, one_line
from charforge.evidence import content_words
from charforge.reading import parse, without_reasoning
from charforge.stages import retelling, slots
from charforge.stages.retelling import Exchange, Teller
from charforge.stages.slots import Account, Drawn, Generated, Slot, Writer, ended, fill, small

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from charforge.checks import Broken, Rules
    from charforge.llm.request import Answered
    from charforge.reading import Parsed

VERSION = 5

VISITOR = "Visitor"
"""Who asks in a small model's dialogues; interviews are held by a Visitor too."""

MAX_EXCHANGES = 4
"""Facts that a small model retells in one dialogue."""


def templates(model: str) -> dict[str, str]:
    """Return the prompts that this stage reads, as key → path under prompts/."""
    return dict(retelling.PROMPTS) if small(model) else {"dialogue": "dialogue.j2"}


def applied(model: str) -> tuple[str, ...]:
    """Return the rules that this stage applies and a spec can switch off."""
    if small(model):
        return (*retelling.RULES, "near-duplicate")
    return (*SPOKEN, "assistant-talk", "ungrounded", "anachronism", "near-duplicate")


SPOKEN = (
    "length",
    "character-silent",
    "foreign-language",
    "third-person",
    "copied-prompt",
    "copied-paragraph",
    "repetition",
)
"""The rules of `spoken_rules`."""


async def generate(
    *,
    scenes: Sequence[Mapping[str, Any]],
    attempts: int,
    min_yield: float,
    rules: Rules,
    on_progress: Callable[[int, int], None],
    **given: Any,
) -> Generated:
    """Draw one dialogue for each scene of scenes.jsonl and return dialogues.jsonl (generated ones) and what goes with it.

    `given` is what `_drawing` takes. Raises CharForgeError as `slots.fill` does.
    """
    return await fill(
        scenes,
        what="dialogues",
        count=len(scenes),
        attempts=attempts,
        min_yield=min_yield,
        draw=_drawing(rules=rules, **given),
        text=lambda record: "\n".join(turn["content"] for turn in record["turns"]),
        near_duplicate=rules.limit("near-duplicate") or None,
        on_progress=on_progress,
    )


async def ahead(
    *,
    scenes: AsyncIterator[Mapping[str, Any]],
    attempts: int,
    min_yield: float,
    on_progress: Callable[[int, int], None],
    **given: Any,
) -> None:
    """Make the calls that `generate` will make, for scenes that still arrive. Raises what a call raises."""
    del min_yield  # of the whole; nothing is decided here
    await slots.ahead(scenes, attempts=attempts, draw=_drawing(**given), on_progress=on_progress)


def _drawing(
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    min_turns: int,
    max_turns: int,
    min_words: int,
    rules: Rules,
    writer: Writer,
) -> Callable[[Mapping[str, Any], int], Awaitable[Drawn]]:
    """Return how the d-th dialogue of a scene is drawn. `writer.prompts` holds the sources of `templates(writer.model)` by key."""
    names = (name, short_name)
    limits = {"min_turns": min_turns, "max_turns": max_turns, "min_words": min_words}
    paragraphs = {paragraph["id"]: paragraph for paragraph in profile["paragraphs"]}
    whole = "\n".join(str(paragraph["text"]) for paragraph in profile["paragraphs"])
    telling: dict[str, list[Exchange]] = {}
    who = retelling.pronoun(profile)

    async def draw(scene: Mapping[str, Any], d: int) -> Drawn:
        slot = Slot(paragraphs[scene["paragraph"]], scene["n"])
        if not small(writer.model):
            return await _dialogue(
                writer,
                scene,
                slot,
                d,
                names=names,
                until=knows_until,
                never=never,
                limits=limits,
                rules=rules,
            )
        text = str(slot.paragraph["text"])
        teller = Teller(
            writer=writer,
            rules=rules,
            names=names,
            who=who,
            paragraph=text,
            profile=whole,
            identity=f"dialogue/{slot.name}",
        )
        if scene["id"] not in telling:
            found = related(retelling.facts(text, names, who), scene["background"], limits["max_turns"])
            telling[scene["id"]] = [Exchange(fact) for fact in found]
        return await _small_dialogue(teller, scene, slot, d, telling[scene["id"]], limits=limits)

    return draw


async def _dialogue(
    writer: Writer,
    scene: Mapping[str, Any],
    slot: Slot,
    d: int,
    *,
    names: tuple[str, str],
    until: str,
    never: Sequence[str],
    limits: Mapping[str, int],
    rules: Rules,
) -> Drawn:
    paragraph = str(slot.paragraph["text"])
    answered = await writer.write(
        "dialogue",
        {
            "name": names[0],
            "short_name": names[1],
            "paragraph": paragraph,
            "location": scene["location"],
            "background": scene["background"],
            "until": until,
            "never": list(never),
            **limits,
        },
        draw=slot.draw(d),
    )
    async with writer.desk:
        if (known := writer.judged.get((scene["id"], d, answered.call))) is not None:
            return known
        account = Account.of(f"dialogue/{slot.name}/{d}", answered)
        parsed, turns = read_turns(answered.reply.text, names)
        spoken = "\n".join(turn.content for turn in turns)
        broken = (
            ended(answered)
            or rules.first(
                refused=None if turns else checks.refusal(without_reasoning(answered.reply.text).lstrip())
            )
            or spoken_rules(
                parsed,
                turns,
                names,
                rules,
                paragraph=paragraph,
                own_words=writer.own_words("dialogue"),
                limits=limits,
            )
            or rules.first(
                assistant_talk=checks.assistant_talk(spoken),
                ungrounded=checks.ungrounded(
                    spoken,
                    f"{paragraph}\n{scene['background']}",
                    least=rules.words("ungrounded"),
                    besides=names,
                ),
                anachronism=checks.anachronism(spoken, never=never, until=until),
            )
        )
        judged = drawn(_record(scene, slot, d, turns), broken, account, answered)
        writer.judged[scene["id"], d, answered.call] = judged
    return judged


def read_turns(text: str, names: tuple[str, str]) -> tuple[Parsed, list[Turn]]:
    """Return a reply as parsed, and its turns with the character under the short name, however the reply called him."""
    parsed = parse(text, known=names)
    return parsed, [Turn(names[1], t.action, t.content) if t.role == names[0] else t for t in parsed.turns]


def spoken_rules(
    parsed: Parsed,
    turns: Sequence[Turn],
    names: tuple[str, str],
    rules: Rules,
    *,
    paragraph: str,
    own_words: str,
    limits: Mapping[str, int],
) -> Broken | None:
    """Return the first rule that holds for every whole dialogue of a capable model and that this one breaks."""
    spoken = "\n".join(turn.content for turn in turns)
    own = [turn.content for turn in turns if turn.role == names[1]]
    return rules.first(
        format=checks.dialogue_form(parsed),
        length=checks.length(turns, **limits),
        character_silent=checks.character_silent(turns, names[1]),
        foreign_language=checks.foreign_language(spoken, paragraph),
        third_person=next((detail for text in own if (detail := checks.third_person(text, names))), None),
        copied_prompt=checks.copied(spoken, own_words, rules.words("copied-prompt")),
        copied_paragraph=checks.copied(spoken, paragraph, rules.words("copied-paragraph")),
        repetition=checks.repetition(spoken),
    )


# --- Small models ----------------------------------------------------------------------------------------------------


def related(facts: Sequence[retelling.Fact], background: str, max_turns: int) -> list[retelling.Fact]:
    """Return the facts for one dialogue, in the paragraph's order: those that share most words with the background."""
    about = set(content_words(background))
    ranked = sorted(facts, key=lambda fact: (-len(about & set(content_words(fact.text))), fact.number))
    return sorted(ranked[: max(1, min(MAX_EXCHANGES, max_turns // 2))], key=lambda fact: fact.number)


async def _small_dialogue(
    teller: Teller,
    scene: Mapping[str, Any],
    slot: Slot,
    d: int,
    exchanges: Sequence[Exchange],
    *,
    limits: Mapping[str, int],
) -> Drawn:
    account = Account()
    await asyncio.gather(
        *(teller.advance(exchange, draw=slot.draw(d), attempt=d, account=account) for exchange in exchanges)
    )
    told = [exchange for exchange in exchanges if exchange.complete]
    turns: list[Turn] = []
    for exchange in told:
        turns.append(Turn(VISITOR, "speaking", exchange.question or ""))
        turns.append(Turn(teller.short_name, "speaking", exchange.answer or ""))
    short = teller.rules.first(length=checks.length(turns, **limits))
    if short or not told:
        # What passed is kept and what is missing is asked for in the next draw.
        if short and told and told[-1].answered:
            account.reject(f"{teller.identity}/{d}", short, told[-1].answered)
        return Drawn([], account)
    account.calls = [call for exchange in told for call in exchange.calls]
    return Drawn([_record(scene, slot, d, turns)], account, told[-1].answered)


# --- Records ---------------------------------------------------------------------------------------------------------


def _record(scene: Mapping[str, Any], slot: Slot, d: int, turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "id": f"dialogue/{slot.name}",
        "kind": "generated",
        "scene": scene["id"],
        "paragraphs": [scene["paragraph"]],
        "type": scene["type"],
        "location": one_line(scene["location"]),
        "background": one_line(scene["background"]),
        "turns": [turn.record() for turn in turns],
        "draw": d,
    }


def drawn(record: dict[str, Any], broken: Broken | None, account: Account, answered: Answered) -> Drawn:
    """Return a draw of one call: the record, or its rejection under `<record id>/<draw>`."""
    if broken:
        account.reject(f"{record['id']}/{record['draw']}", broken, answered)
        return Drawn([], account)
    account.calls.append(answered.call)
    return Drawn([record], account, answered)
