"""The plain answer at the top: is the reference better than the others, and can that be told at all?

One difference decides: of the grades over all dimensions or, where none were given, of the pairs. Six looks at the data would find
something by chance one time in four. It counts where its interval leaves out zero and, if it could be computed, the interval at
equal length does too: judges like long answers. What single dimensions say is told besides, and where it goes against the whole, the
answer is "partly". Scores of judges who failed their exam, or took none, count for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charforge.metrics import METRICS
from charforge.report.words import amount, in_order, in_words, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.report.people import Person

    Record = Mapping[str, Any]

NAMED = 4
"""Metrics named in a sentence; the table has all."""


BETTER, WORSE, BY_LENGTH, OPEN = "better", "worse", "by length", "open"


@dataclass(slots=True)
class Found:
    """What judges say of the reference against one other: `whole` of all together, the rest of dimensions and of the pairs, by name."""

    whole: str = OPEN
    by: str = ""
    parts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def state(self) -> str:
        """`better`, `worse`, `mixed` or `open`."""
        if self.whole not in {BETTER, WORSE}:
            return OPEN
        return "mixed" if self.parts[WORSE if self.whole == BETTER else BETTER] else self.whole


def verdict(everyone: Sequence[Person], statistics: Record, exam: Record, short_name: str) -> dict[str, Any]:
    """Return {"question", "state", "answer", "why": sentences}; `state` is yes, no, partly or unknown.

    `statistics` is statistics.json, `exam` exam.json; both may be empty.
    """
    reference = next((one for one in everyone if one.reference), None)
    others = [one for one in everyone if not one.reference]
    if reference is None:
        question = f"Is {short_name} better than a prompt?"
        return _made(question, "unknown", "It cannot be told: nobody was interviewed.", [])
    trained = reference.kind == "trained"
    question = (
        f"Is the trained {short_name} better than a prompt?"
        if trained
        else f"Is {reference.label} better than the others?"
    )
    counted = [sentence for other in others for sentence in _counted(other, statistics)]
    if not others:
        return _made(question, "unknown", "It cannot be told: there is nobody to compare with.", [])
    untold = _untold(statistics, exam)
    if untold:
        return _made(question, "unknown", f"It cannot be told. {untold}", counted)
    found = {other.name: _judged(other.name, statistics) for other in others}
    who = f"the trained {short_name}" if trained else reference.label
    state, answer = _answer(who, others, found)
    why = [_sentence(other, found[other.name]) for other in others]
    return _made(question, state, answer, [*why, *counted])


def _made(question: str, state: str, answer: str, why: list[str]) -> dict[str, Any]:
    return {"question": question, "state": state, "answer": answer, "why": why}


def _untold(statistics: Record, exam: Record) -> str:
    """Return why the judges say nothing, empty where they do."""
    scored = any(
        cell["scored"] for row in statistics.get("scores", {}).values() for cell in row.values()
    ) or any(one["rate"] is not None for one in statistics.get("pairwise", {}).values())
    if not statistics.get("judges") or not (scored or exam.get("judges")):
        return "No judge was asked, so nothing is said here about how good the answers are."
    if not statistics.get("usable"):
        return f"{exam_failed(statistics)} These scores are not usable."
    if not scored:
        return "The judge passed its exam, but scored no answer."
    return ""


def exam_failed(statistics: Record) -> str:
    """Return, in a sentence, that no judge passed the exam or that none took it."""
    judges = statistics.get("judges", {})
    failed = [judge for judge, one in judges.items() if one["passed"] is False]
    if not failed:
        return "No judge was examined, so nobody knows whether the scores can tell good answers from bad."
    if len(failed) == 1 == len(judges):
        return f"The judge, {failed[0]}, failed its exam: it cannot tell planted good answers from planted bad ones."
    return (
        f"No judge passed its exam: {listed(failed)} cannot tell planted good answers from planted bad ones."
    )


def _judged(other: str, statistics: Record) -> Found:
    found = Found()
    for dimension, row in in_order(statistics["differences"]):
        if row[other]["mean"] is not None:
            found.parts[_says(row[other], 0.0)].append(dimension)
    whole, pairs = statistics["overall"].get(other), statistics["pairwise"].get(other)
    if pairs and pairs["rate"] is not None:
        compared = _says({**pairs, "mean": pairs["rate"]}, 0.5)
        found.parts[compared].append("the comparison side by side")
        found.whole, found.by = compared, "side by side"
    if whole and whole["mean"] is not None:
        found.whole, found.by = _says(whole, 0.0), "over all dimensions"
    return found


def _says(one: Record, zero: float) -> str:
    if not one["decided"]:
        return OPEN
    up, length = one["mean"] > zero, one["length"]
    if length and length["low"] is not None and not (length["low"] > zero if up else length["high"] < zero):
        return BY_LENGTH
    return BETTER if up else WORSE


def _answer(who: str, others: Sequence[Person], found: Mapping[str, Found]) -> tuple[str, str]:
    groups = {
        state: [one.label for one in others if found[one.name].state == state]
        for state in ("better", "worse", "mixed", "open")
    }
    everyone = len(others)
    name = who[0].upper() + who[1:]
    if len(groups["better"]) == everyone:
        return "yes", f"Yes. {name} was judged better than {listed(groups['better'])}."
    if len(groups["worse"]) == everyone:
        return "no", f"No. {name} was judged worse than {listed(groups['worse'])}."
    if len(groups["open"]) == everyone:
        return "unknown", (
            f"It cannot be told. Between {who} and {listed(groups['open'])}, the interval of the judged difference "
            "covers zero or does so at equal length."
        )
    parts = [
        f"judged better than {listed(groups['better'])}" if groups["better"] else "",
        f"judged worse than {listed(groups['worse'])}" if groups["worse"] else "",
        f"better in some ways and worse in others than {listed(groups['mixed'])}" if groups["mixed"] else "",
        f"not to be told from {listed(groups['open'])}" if groups["open"] else "",
    ]
    return "partly", f"Partly. {name} is {'; '.join(filter(None, parts))}."


_WHOLE = {
    BETTER: "better {}",
    WORSE: "worse {}",
    BY_LENGTH: "different {}, but not at equal length",
    OPEN: "no difference to be told {}",
}


def _sentence(other: Person, found: Found) -> str:
    if not found.by:
        return f"Judged against {other.label}: nothing was scored."
    one_by_one = [
        f"{_WHOLE[said].format(f'in {listed(found.parts[said])}')}" for said in _WHOLE if found.parts[said]
    ]
    whole = _WHOLE[found.whole].format(found.by)
    return f"Judged against {other.label}: {whole}. One by one: {'; '.join(one_by_one)}."


def _counted(other: Person, statistics: Record) -> list[str]:
    """Return a sentence on the metrics, which need no judge, or none where nothing was measured."""
    better: list[str] = []
    worse: list[str] = []
    undecided = 0
    for key, metric in METRICS.items():
        one = statistics.get("metric_differences", {}).get(key, {}).get(other.name)
        if metric.better is None or one is None or one["mean"] is None:
            continue
        if not one["decided"]:
            undecided += 1
            continue
        text = f"{metric.label.lower()} ({amount(metric.unit, one['mean'], signed=True)}{' points' * (metric.unit == 'share')})"
        (better if (one["mean"] > 0) == (metric.better == "high") else worse).append(text)
    if not better and not worse and not undecided:
        return []
    parts = [_few("better in", better), _few("worse in", worse)]
    parts.append(f"no difference to be told in {in_words(undecided)} more" if undecided else "")
    return [f"Counted, against {other.label}: {'; '.join(filter(None, parts))}."]


def _few(how: str, several: Sequence[str]) -> str:
    if not several:
        return ""
    more = len(several) - NAMED
    return f"{how} {listed([*several[:NAMED], *([f'{in_words(more)} more'] if more > 0 else [])])}"
