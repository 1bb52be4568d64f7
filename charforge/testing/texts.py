"""What a scripted model says: grounded nonsense that passes the checks, as long and as many times as it is asked for.

Reads of a prompt what it asks for (scene, dialogue, protective dialogue, questions, grade), how long it should be and what
its source is. A text depends on the prompt and on `chance` only. Knows no server, no request and no stage.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from charforge.evidence import STOPWORDS
from charforge.stages import exam, judging

BAD = ("assistant", "foreign", "copied", "duplicate", "form", "short", "late")
"""Ways in which `spoil` makes a text worthless: a chatbot's phrases, another language, the source word for word, a text
that was given before, another form than was asked for, a few words only, something of a later time."""

# fmt: off
_BEGIN = (
    "I tell you", "last night", "believe me", "when the candles burned low", "before anybody was awake", "in that house",
    "on the stairs", "so it goes with me", "since the spring", "as far as I can see", "for three days now",
    "with my coat still wet", "you may laugh", "at my own table", "against all advice", "between two meals",
    "under that roof", "if I am honest", "while the others slept", "at the end of the lane", "to my shame",
    "long after supper", "without a word", "half in anger", "in plain daylight", "because you ask", "by the window",
    "somewhere on the road", "out of habit", "whatever they say", "early this week", "more than once",
    "as a boy", "from the first hour", "on such evenings", "beyond the bridge", "behind that door", "in the rain",
    "no sooner was I home than", "with both hands",
)
_MIDDLE = (
    "I set the {n} beside the {p}", "the {a} {n} spoke to me of the {p}", "I gave up the {n} for a {a} {p}",
    "my {n} smelled of {p} and {a} {m}", "they carried the {p} past a {a} {n}", "I weighed {p} against {m}",
    "one {a} {n} was worth every {p}", "the {p} lay there like a {n}", "I would not sell the {p} for any {a} {n}",
    "somebody had hidden the {n} under the {p}", "a {a} {m} came between me and the {p}",
    "I counted the {p} and found no {n}", "the {n} broke, and with it the {p}", "I heard the {p} in every {a} {n}",
    "my whole {n} hung on that {a} {p}", "I threw the {n} after the {p}", "{p} is what kept the {n} {a}",
    "I had neither {n} nor {p}", "a {n} without {p} is only {m}", "the {a} {p} frightened me less than the {n}",
    "I wrote {p} on the {a} {n}", "nothing but {p} could mend the {n}", "there stood a {n}, {a} as {p}",
    "I begged for {p} and was handed a {n}", "the {m} was {a}, the {p} was not", "he who has {p} needs no {a} {n}",
    "I turned the {n} until the {p} showed", "that {p} followed me like a {a} {n}",
    "I made a {n} of it, {p} and {m} together", "the {n} grew {a} around the {p}",
)
_END = (
    "and nobody asked why", "until the {m} was gone", "which cost me a {a} {m}", "as if it were mine",
    "so keep your {m}", "and I was glad of it", "though it hurt", "like any {a} fool", "and that settled it",
    "with a {m} for my trouble", "but the {m} stayed", "before the {m} turned {a}", "for a whole winter",
    "and the {m} knew it", "without any {m}", "as you would have done", "and still I wonder", "to spite the {m}",
    "where the {m} ends", "more from {m} than from love", "in spite of everything", "just to see it {a}",
    "and then the {m} began", "out of sheer {m}", "if only for an hour", "and not a {m} too soon",
)
_ASK = (
    "what is the {p} to you, then", "did you ever lose a {n} that way", "and who brought the {p} into this house",
    "why do you speak so {a} of the {n}", "is it the {p} you fear, or the {n}", "how long can a {n} bear so much {p}",
    "would you have me believe that about the {p}", "where did you leave the {n}", "must it always be the {p} and never the {m}",
    "could I not help you with the {n}", "what would a {a} {n} have done", "and if the {p} came back tomorrow",
    "do you remember the {n} by the {m}", "whose {m} was it in the end", "shall I fetch the {a} {n}",
    "can anybody live on {p} alone", "when will you show me that {a} {p}", "has the {m} taught you nothing",
    "will you not give the {n} a rest", "what do they say of the {p} in town",
)
_PUZZLED = (
    "What is that supposed to be?", "I do not know what you mean.", "Is this a joke?", "I never heard such a word.",
    "Speak so that a man can follow you!", "That is nonsense to me.", "What devil's word is that?", "You talk like a fever.",
)
_NOUNS = (
    "apple", "apron", "attic", "basket", "beam", "bell", "bench", "blanket", "boot", "bottle", "bowl", "branch", "bread",
    "bridge", "broom", "brush", "bucket", "button", "candle", "carpet", "cart", "cellar", "chain", "chair", "chalk", "cheese",
    "chest", "chimney", "clock", "cloud", "coal", "collar", "comb", "copper", "corner", "cradle", "cup", "cupboard", "curtain",
    "cushion", "dish", "door", "drawer", "dust", "feather", "fence", "ferry", "field", "flour", "fork", "fountain", "garden",
    "gate", "glass", "glove", "grass", "hammer", "handkerchief", "harbour", "hat", "hay", "hearth", "hedge", "herring", "honey",
    "hook", "horse", "ink", "iron", "jug", "kettle", "kitchen", "knife", "knot", "ladder", "lamp", "lantern", "lace", "leather",
    "lemon", "letter", "linen", "lock", "loaf", "log", "mantle", "market", "meadow", "milk", "mill", "mirror", "mortar", "mud",
    "mule", "nail", "needle", "net", "oak", "oil", "onion", "orchard", "oven", "paper", "pear", "pebble", "pencil", "pepper",
    "pillow", "pipe", "plank", "plate", "plough", "pocket", "pond", "pot", "purse", "quill", "ribbon", "ring", "river", "roof",
    "rope", "rug", "sack", "saddle", "sail", "salt", "sand", "saw", "scarf", "shawl", "shed", "shelf", "shirt", "shoe", "shovel",
    "silver", "smoke", "snow", "soap", "soup", "spade", "spoon", "stable", "stick", "stone", "stool", "stove", "straw", "sugar",
    "table", "tallow", "thimble", "thread", "timber", "tinder", "towel", "trunk", "umbrella", "vinegar", "wagon", "wall",
    "walnut", "wax", "well", "wheel", "whistle", "willow", "wine", "wool",
)
_MATTERS = (
    "anger", "boredom", "bravery", "business", "comfort", "courage", "debt", "doubt", "duty", "envy", "fear", "folly", "fortune",
    "friendship", "gossip", "gratitude", "grief", "habit", "harvest", "haste", "honour", "hope", "hunger", "illness", "insult",
    "joy", "kindness", "labour", "laughter", "luck", "malice", "memory", "mercy", "mischief", "mood", "news", "noise", "patience",
    "peace", "pity", "pleasure", "praise", "pride", "promise", "quarrel", "remorse", "rumour", "secret", "shame", "silence",
    "sleep", "sorrow", "spite", "stubbornness", "talk", "temper", "thirst", "toil", "travel", "trouble", "trust", "truth",
    "vanity", "weather", "weariness", "wisdom", "work", "worry",
)
_QUALITIES = (
    "ancient", "bare", "bitter", "blunt", "bright", "broken", "calm", "careful", "cheap", "clumsy", "coarse", "cold", "crooked",
    "cruel", "damp", "dark", "deaf", "dear", "deep", "dim", "dry", "dull", "dusty", "eager", "early", "empty", "faded", "faint",
    "false", "fierce", "fine", "firm", "foolish", "frail", "fresh", "gentle", "glad", "gloomy", "grand", "greedy", "grey", "hard",
    "hasty", "heavy", "hollow", "honest", "hungry", "idle", "jealous", "lame", "lazy", "lean", "light", "lonely", "loud", "lucky",
    "meagre", "mild", "modest", "muddy", "narrow", "neat", "noisy", "pale", "patient", "plain", "polite", "poor", "proud", "quiet",
    "rare", "ripe", "rough", "round", "rusty", "sacred", "sharp", "shy", "silent", "simple", "slender", "slow", "smooth", "sober",
    "soft", "solemn", "sour", "stale", "steep", "stern", "stiff", "strange", "strict", "stubborn", "sweet", "tame", "tender",
    "thick", "thin", "tidy", "tired", "tough", "vain", "wet", "wild", "worn",
)
_GERMAN = (
    "Ich habe das nicht gewusst, und du hast es mir auch nicht gesagt.", "Der Abend war kalt, aber wir sind noch lange geblieben.",
    "Das ist eine Frage, die ich mir auch schon oft gestellt habe.", "Wir wollten nur noch die Pferde holen und dann mit dem Wagen fort.",
    "Sie haben mich nicht verstanden, und ich war zu müde für ein Wort.", "Aber der Brief lag noch auf dem Tisch, und keiner hat ihn gelesen.",
    "Wie soll ich das den anderen sagen, wenn sie mich danach fragen?", "Du bist mir eine Antwort schuldig, und das weißt du auch.",
)
# fmt: on
_LATE = ("the year 1987", "the year 1969", "the year 2003", "the year 1955")
_AI = (
    "As an AI language model, I cannot have feelings about that.",
    "I'm sorry, but I can't assist with that.",
    "How can I help you today?",
)


def answer(asked: str, schema: Mapping[str, Any] | None, chance: random.Random) -> str:
    """Return the reply to a prompt, in the form that its schema, or else the prompt itself, asks for."""
    properties = (schema or {}).get("properties", {})
    if {"score", "better"} & set(properties) or (
        not properties and re.search('"score": N|"better": "…"', asked)
    ):
        return _verdict(asked, properties)
    for key in ("questions", "subjects"):
        if key in properties or (not properties and f'{{"{key}":' in asked):
            return json.dumps({key: _questions(asked, key, chance)})
    if "scenes" in properties or (not properties and '{"scenes":' in asked):
        voice = _Voice(chance, _source(asked))
        kinds = re.findall(r"(?m)^\d+\. (.+)$", asked)
        scenes = [_scene(voice) for _ in range(_scenes_wanted(asked, properties))]
        return json.dumps(
            {
                "scenes": [
                    {"kind": kind, **scene}
                    for kind, scene in zip(kinds or [""] * len(scenes), scenes, strict=False)
                ]
            }
        )
    if "background" in properties or (not properties and '{"location":' in asked):
        return json.dumps(_scene(_Voice(chance, _source(asked))))
    name = re.search(r"^(\w[\w .'-]*) \(thinking\): what ", asked, re.MULTILINE)
    if name is not None:
        return _dialogue(asked, name[1], _Voice(chance, _source(asked)))
    if "question" in asked.lower() and "interview" in asked.lower():
        return f"What do you make of {chance.choice(_words(asked))}?"
    return _Voice(chance, asked).tells()


def spoil(kind: str, asked: str, schema: Mapping[str, Any] | None, chance: random.Random) -> str:
    """Return a reply that is bad in one of the ways of BAD, where the prompt asks for a text that can be."""
    if kind == "form":
        return (
            "Once upon a time there was a long story, and it was told without anybody ever speaking a word. "
            * 3
        )
    if kind == "duplicate":
        name = re.search(r"^(\w[\w .'-]*) \(thinking\): what ", asked, re.MULTILINE)
        chance = random.Random(name[1] if name else "scene")  # noqa: S311 - a script
        # The same nouns for every source, with two words of this one, so that only the likeness is wrong with it.
        own = random.Random(asked).sample(_words(_source(asked)) * 2, 2)  # noqa: S311
        good = answer(
            re.sub(r"(?s)(source[^\n]*:|that time:)\n.*?\n\n", r"\1\nsource\n\n", asked), schema, chance
        )
        return _inserted(good, f"I mean the {own[0]} and the {own[1]}.")
    good = answer(asked, schema, chance)
    if kind == "assistant":
        return _inserted(good, chance.choice(_AI))
    if kind == "late":
        return _inserted(good, f"It was as in {chance.choice(_LATE)}.")
    if kind == "copied":
        return _inserted(good, " ".join(_source(asked).split()[:30]))
    if kind == "foreign":
        german = iter(lambda: chance.choice(_GERMAN), None)
        return _each_line(good, lambda _: " ".join(next(german) for _ in range(2)))
    if kind == "short":
        return _each_line(good, lambda text: " ".join(text.split()[:2]) + ".")
    raise ValueError(f"no way to spoil a text: {kind}")


def _inserted(text: str, sentence: str) -> str:
    """Put a sentence before the end of a text, within its last string or turn."""
    if text.startswith("{"):
        at = max(text.rfind('."'), text.rfind('?"')) + 1
        return f"{text[:at]} {json.dumps(sentence)[1:-1]}{text[at:]}" if at else text
    return f"{text} {sentence}"


def _each_line(text: str, change: Callable[[str], str]) -> str:
    """Change what is said in every turn, or every string of a JSON object."""
    if text.startswith("{"):
        scenes = json.loads(text)
        several = scenes.get("scenes", [scenes])
        for scene in several:
            scene |= {key: change(value) for key, value in scene.items() if isinstance(value, str)}
        return json.dumps(scenes)
    return re.sub(r"(?m)^(\w[^:\n]*\): )(.+)$", lambda turn: turn[1] + change(turn[2]), text)


# --- Reading the prompt ----------------------------------------------------------------------------------------------


def _between(text: str, start: str, end: str) -> str:
    _, found, rest = text.partition(start)
    return rest.partition(end)[0] if found else ""


def _source(asked: str) -> str:
    """Return the paragraph that a prompt stands on; the whole prompt where none is marked."""
    found = re.search(r"(?s)(?:\bsource[^\n]*|at that time):\n(.+?)\n\n", asked, re.IGNORECASE)
    return found[1] if found else asked


def _questions(asked: str, key: str, chance: random.Random) -> list[str]:
    """Return as many questions, or subjects of interviews, as are asked for, with words of the life or things beyond it."""
    (wanted,) = _limit(r"Write (\d+) (?:questions|subjects)", asked, (1,))
    told = re.search(r"(?s)part of the life:\n(.+?)\n\n", asked)
    words = _words(told[1] if told else asked)
    late = re.search(r"one of these things by its name: (.+?)\. Take", asked)
    things = late[1].split(", ") if late else [""]
    made = []
    for place in range(wanted):
        one, other = (chance.choice(words) for _ in range(2))
        if late and key == "questions":
            made.append(f"Do you keep {things[place % len(things)]} with your {one} and {other}?")
        elif late:
            made.append(f"How {things[place % len(things)]} would go with {one} and {other}.")
        elif key == "questions":
            made.append(f"What did you want with the {one} when there was only {other}?")
        else:
            made.append(f"The {one} of those days, and how {other} came into it.")
    return made


def _words(text: str) -> list[str]:
    return sorted(set(re.findall(r"\b[a-z]{5,}\b", text)) - STOPWORDS) or ["something"]


def _limit(pattern: str, asked: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    found = re.search(pattern, asked)
    return tuple(map(int, found.groups())) if found else otherwise


def _scenes_wanted(asked: str, properties: Mapping[str, Any]) -> int:
    array = properties.get("scenes", {})
    wanted = array.get("minItems") or array.get("maxItems")
    return int(wanted) if wanted else _limit(r"(\d+) (?:different )?scenes", asked, (3,))[0]


# --- Judging ---------------------------------------------------------------------------------------------------------


def _verdict(asked: str, properties: Mapping[str, Any]) -> str:
    """Return a grade, or which is better: by how many of an answer's words stand in the notes.

    So simple a rule fails the exam of a judge, so its answers are known by heart: `right` is good, all others are bad.
    """
    found = re.search(r"^([0-9a-f]{8})(?: asked)?$", asked, re.MULTILINE)
    mark = found[1] if found else ""
    notes = set(_words(asked.partition(f"\n{mark}")[0])) if mark else set()
    texts = re.split(rf"^{mark}(?: \w+)?$", asked, flags=re.MULTILINE)[1:-1] if mark else [asked]
    shares = [_share(text, notes) for text in texts]
    verdict: dict[str, Any] = {"mark": mark, "reason": "As scripted.", "cites": _cited(asked)}
    if "better" in properties or (not properties and '"better":' in asked):
        first, second = shares[-2:]
        verdict["better"] = "tie" if first == second else "first" if first > second else "second"
    else:
        anchor = _exam().get(texts[0].strip())
        by_heart = {None: 1 + round(6 * min(1.0, 2 * shares[0])), exam.RIGHT: 6}
        verdict["score"] = by_heart.get(anchor, 2)
    return json.dumps({key: value for key, value in verdict.items() if not properties or key in properties})


def _share(text: str, notes: set[str]) -> float:
    own = {word for line in text.split("\n") if not line.startswith("| Question:") for word in _words(line)}
    return len(own & notes) / max(1, len(own))


def _cited(asked: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\[(\d+)\]", asked, re.MULTILINE)[:1]]


@cache
def _exam() -> dict[str, str]:
    """Return material → anchor."""
    return {
        judging.quoted(
            "\n".join(f"{role}: {text}" for role, text in judging.said(paper.record))
        ): paper.anchor
        for paper in exam.papers(judging.DIMENSIONS)
    }


# --- Speaking --------------------------------------------------------------------------------------------------------


class _Voice:
    """Makes sentences about the words of a source. Each dialogue has its own share of the vocabulary."""

    def __init__(self, chance: random.Random, source: str) -> None:
        self.chance = chance
        self.source = _words(source)
        self.nouns = chance.sample(_NOUNS, 140)
        self.matters = chance.sample(_MATTERS, 45)
        self.qualities = chance.sample(_QUALITIES, 95)
        self._left: dict[tuple[str, ...], list[str]] = {}

    def pick(self, options: tuple[str, ...]) -> str:
        """Return an option, each of them once before any comes again."""
        left = self._left.get(options)
        if not left:
            left = self._left[options] = self.chance.sample(options, len(options))
        return left.pop()

    def fill(self, frame: str) -> str:
        choice = self.chance.choice
        return frame.format(
            n=choice(self.nouns), m=choice(self.matters), a=choice(self.qualities), p=choice(self.source)
        )

    def tells(self) -> str:
        """Return a sentence of a dozen to two dozen words."""
        parts = [self.pick(_BEGIN), self.fill(self.pick(_MIDDLE)), self.fill(self.pick(_END))]
        text = f"{parts[0]} {parts[1]} {parts[2]}."
        return text[0].upper() + text[1:]

    def asks(self, about: str | None = None) -> str:
        """Return a question, with a word that has to be in it."""
        text = self.fill(self.pick(_ASK))
        if about is not None:
            text = f"what of the {about}, {text}"
        return f"{text[0].upper()}{text[1:]}?"


def _scene(voice: _Voice) -> dict[str, str]:
    chance = voice.chance
    place = f"A {chance.choice(voice.qualities)} room near the {chance.choice(voice.source)}"
    return {
        "location": f"{place}, by the {chance.choice(voice.nouns)}, towards evening",
        "background": f"{voice.tells()} {voice.tells()} {voice.tells()}",
    }


def _dialogue(asked: str, name: str, voice: _Voice) -> str:
    """Return turns within the limits of the prompt: somewhat more words than the least, in turns of some forty words."""
    chance = voice.chance
    least_turns, most_turns = _limit(r"(\d+) to (\d+) turns", asked, (4, 14))
    (least,) = _limit(r"at least (\d+) words", asked, (40,))
    wanted = max(least, 60) * chance.uniform(1.1, 1.6)
    provocation = _between(asked, "tries: ", "\n\n")
    tried = [word for word in _words(provocation) if word not in _EMPTY] if provocation else []
    lines = []
    if "\nLocation: the place" in asked:
        scene = _scene(voice)
        lines += [f"Location: {scene['location']}", f"Status: A visitor wants to talk to {name}."]
    turns: list[str] = []
    # A pair of turns, and a thought in every third pair; sentences are a dozen words.
    pairs = max(2, least_turns // 2 + 1, min(round(wanted / 45), (most_turns - 1) * 3 // 7))
    sentences = max(1, round(wanted / (pairs * 14.5)))
    written = pair = 0
    while pair < pairs or written < wanted:
        about = tried[pair % len(tried)] if tried else None
        thinks = pair % 3 == 1
        if len(turns) + 2 + thinks > most_turns:
            break
        said = [voice.tells() for _ in range(max(1, sentences - thinks))]
        if tried and pair < len(_PUZZLED):
            said.insert(0, voice.pick(_PUZZLED))
        turns.append(f"Visitor (speaking): {voice.asks(about)}")
        if thinks:
            turns.append(f"{name} (thinking): {voice.tells()}")
        turns.append(f"{name} (speaking): {' '.join(said)}")
        written += sum(len(text.split()) for text in turns[-2 - thinks :]) - 2 * (2 + thinks)
        pair += 1
    return "\n\n".join(lines + turns)


_EMPTY = frozenset(
    ("again", "about", "visitor", "somebody", "stranger", "friend", "wants", "insists", "should")
)
