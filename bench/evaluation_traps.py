"""How well do the rules find who knows too much? `python bench/evaluation_traps.py [--part dev|used|held_out|all] [--peer DIR] [--show]`

Compares the flags of `charforge.traps` with labels set by hand (`tests/gold/README.md`): precision and recall with exact
95 % intervals (Clopper-Pearson), counts, and the ids that are misjudged. The rules are written by `dev` and `used`; only
`held_out` says how good they are on answers that they were not written by, and who writes rules does not read it. `--peer` reads the released answers of the
original project in DIR, whose labels in `gold_released.jsonl` name them by file, place and digest: of Beethoven, whose
answers the author of the rules may have seen, and of Caesar. The digest is of the contents of all parts of an answer, joined
by line breaks, just as released; `close` marks a decision that could have gone the other way, and `read` is `passage` where a
passage around the positive statement was read and not the whole. The answers in question were sought, so that rates are not those of
an interview.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import beta

from charforge import evidence, traps

HERE = Path(__file__).parent
GOLD = HERE.parent / "tests" / "gold"
FLAGS = ("claims_unknown", "knows_own_death")
PARTS = ("dev", "used", "held_out")
"""`used` was held out once: rules were measured on it, and then written by it."""
RELEASED = {
    "Beethoven": ("Ludwig van Beethoven", "1827-03-26"),
    "Caesar": ("Julius Caesar", "-0044-03-15"),
}
NEVER = ("motor cars", "computers", "programming", "aeroplanes", "films")
"""What the released trap questions ask for."""


@dataclass(frozen=True)
class Judged:
    """An answer's label and what the rules say; None where the label does not apply."""

    id: str
    flag: str
    label: bool
    said: bool
    close: bool
    text: str


@dataclass(frozen=True)
class Counts:
    """Right and wrong of one flag."""

    hits: int
    false_alarms: int
    missed: int
    quiet: int

    @classmethod
    def of(cls, judged: Iterable[Judged]) -> Counts:
        pairs = [(one.label, one.said) for one in judged]
        return cls(
            *(pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False)))
        )

    @property
    def precision(self) -> float:
        """Of what is flagged, how much is rightly so; nan where nothing is flagged."""
        return self.hits / flagged if (flagged := self.hits + self.false_alarms) else float("nan")

    @property
    def recall(self) -> float:
        """Of what should be flagged, how much is; nan where nothing should be."""
        return self.hits / positive if (positive := self.hits + self.missed) else float("nan")


def interval(hits: int, of: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a proportion (Clopper and Pearson)."""
    low = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return low, high


def records(part: str) -> list[dict[str, Any]]:
    """Return the labelled answers of a part, one of PARTS. Raises FileNotFoundError where the part is not there."""
    path = GOLD / f"traps_{part}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"the part {part} is missing: there is no {path.relative_to(GOLD.parents[1])}"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def judge(gold: Sequence[dict[str, Any]]) -> Iterator[Judged]:
    """Yield every label beside what the rules say. What a person's ordinary questions name counts as known, as in a build."""
    known: dict[str, set[str]] = {}
    for one in gold:
        own = known.setdefault(one["person"], set())
        if one["topic"] != "traps":
            own |= set(evidence.content_words(one["question"]))
    for one in gold:
        person = traps.Person(
            names=(one["person"], one["short_name"]),
            until=one["until"],
            never=tuple(one["never"]),
            known=frozenset(known[one["person"]]),
        )
        yield from _compared(one, one["question"], one["answer"], person)


def released(folder: Path) -> Iterator[tuple[str, Judged]]:
    """Yield (character, judged) of the labelled released answers.

    Raises ValueError where an answer is not the one that was labelled.
    """
    lines = (HERE / "gold_released.jsonl").read_text(encoding="utf-8").splitlines()
    people = {short: _person(folder, short) for short in RELEASED}
    for one in map(json.loads, lines):
        question, answer = _released_answer(folder, one)
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in (question, answer)]
        if digests != [one["question_sha256"], one["sha256"]]:
            raise ValueError(f"{_place(one)} is not the answer that was labelled")
        short = Path(one["file"]).name.partition("_")[0]
        for judged in _compared(one | {"id": _place(one)}, question, answer, people[short]):
            yield short, judged


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Compare the rules about knowing too much with hand-set labels."
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--peer", type=Path, metavar="DIR", help="the folder of the released data")
    parser.add_argument("--show", action="store_true", help="print the text of misjudged answers")
    options = parser.parse_args(argv)
    for part in PARTS if options.part == "all" else (options.part,):
        try:
            gold = records(part)
        except FileNotFoundError as missing:
            print(missing, file=sys.stderr)
            return 1
        _report(part, list(judge(gold)), show=options.show)
    if options.peer:
        judged = list(released(options.peer))
        for short in RELEASED:
            own = [one for character, one in judged if character == short]
            _report(f"released, {short}", own, show=options.show)
            _report(
                f"released, {short}, without close ones", [one for one in own if not one.close], show=None
            )
    return 0


def _compared(one: dict[str, Any], question: str, answer: str, person: traps.Person) -> Iterator[Judged]:
    said = traps.flags(question, answer, topic=one["topic"], person=person)
    for flag in FLAGS:
        if one[flag] is not None:
            # An answer in which the rules find no words is not flagged.
            yield Judged(one["id"], flag, one[flag], bool(said[flag]), one.get("close", False), answer)


def _report(title: str, judged: Sequence[Judged], *, show: bool | None) -> None:
    """Print the counts of each flag; `show` None: without the misjudged."""
    print(title)
    for flag in FLAGS:
        own = [one for one in judged if one.flag == flag]
        counts = Counts.of(own)
        flagged, positive = counts.hits + counts.false_alarms, counts.hits + counts.missed
        print(f"  {flag}: {len(own)} labels, {positive} positive")
        for what, value, of in (
            ("precision", counts.precision, flagged),
            ("recall", counts.recall, positive),
        ):
            low, high = interval(counts.hits, of)
            print(f"    {what:9} {value:.3f} [{low:.3f}, {high:.3f}] ({counts.hits} of {of})")
        if show is not None:
            for one in own:
                if one.label != one.said:
                    what = "missed" if one.label else "false alarm"
                    print(f"    {what}: {one.id}" + (f": {one.text}" if show else ""))


def _person(folder: Path, short: str) -> traps.Person:
    name, until = RELEASED[short]
    profile = (folder / "profiles" / f"wiki_{short}.txt").read_text(encoding="utf-8")
    questions = json.loads(
        (folder / "questions" / f"generated_agent_interview_{short}.json").read_text(encoding="utf-8")
    )
    ordinary = " ".join(one["question"] for one in questions if "breaking character" not in one["topic"])
    known = frozenset(evidence.content_words(f"{profile} {ordinary}"))
    return traps.Person(names=(name, short), until=until, never=NEVER, known=known)


def _place(one: dict[str, Any]) -> str:
    where = one["index"] if "index" in one else f"{one['line']}/{one['turn']}"
    return f"{one['file']}#{where}"


def _released_answer(folder: Path, one: dict[str, Any]) -> tuple[str, str]:
    """Return (question, answer). `index` counts from 0, `line` from 1, `turn` is the place in `content` from 0."""
    text = (folder / one["file"]).read_text(encoding="utf-8")
    if "index" in one:
        asked = json.loads(text)[one["index"]]
        return asked["question"], _joined(asked["reply"])
    content = json.loads(text.splitlines()[one["line"] - 1])["content"]
    return _joined(content[one["turn"] - 1]["turn_content"]), _joined(content[one["turn"]]["turn_content"])


def _joined(parts: Any) -> str:
    return "\n".join(str(part["content"]) for part in ([parts] if isinstance(parts, dict) else parts))


if __name__ == "__main__":
    raise SystemExit(main())
