"""The scores: which answers are graded and compared, by which judges, how often; and each judge's exam.

How one verdict comes about is charforge.stages.judging's affair, what an exam asks charforge.stages.exam's, and who meets whom
charforge.stages.pairwise's. What the verdicts mean is statistics, and not done here.
This module knows no store, no file, and of a model nothing but `ask`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.stages import exam as exams
from charforge.stages import judging
from charforge.stages import pairwise as comparing
from charforge.stages.judging import DIMENSIONS, Judge, Room, room_for
from charforge.stages.slots import all_of, by_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from charforge.llm.request import Ask
    from charforge.stages.judging import Person

__all__ = [
    "DIMENSIONS",
    "VERSION",
    "Judge",
    "Plan",
    "Results",
    "plan",
    "room_for",
    "sample",
    "score",
    "templates",
]

VERSION = 2


class Results(NamedTuple):
    """What the stage makes, each list sorted by id; docs/judge.md has the fields of every record.

    `exam`, `scores` and `pairs` are exam.jsonl, scores.jsonl and pairs.jsonl; `exam_summary` is exam.json
    ({"judges": {model: {"passed", "dimensions", "means"}}}); `calls` is calls.jsonl ({"id": score id, or one of a pair's orders, "call"}).
    """

    exam: list[dict[str, Any]]
    exam_summary: dict[str, Any]
    scores: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    calls: list[dict[str, Any]]


class Plan(NamedTuple):
    """What every judge has to do: grade `papers` of the exam and `grades`, and compare `pairs`. Each pair takes two calls."""

    papers: list[exams.Paper]
    grades: list[tuple[Mapping[str, Any], str, int]]
    pairs: list[tuple[comparing.Pair, int]]

    @property
    def calls(self) -> int:
        """How many calls it takes one judge."""
        return len(self.papers) + len(self.grades) + 2 * len(self.pairs)


def plan(
    *,
    reference: str,
    single: Sequence[Mapping[str, Any]],
    turns: Sequence[Mapping[str, Any]],
    dimensions: Sequence[str],
    repeats: int,
    limit: int | None,
    exam: bool,
    pairwise: int | None,
) -> Plan:
    """Return what a judge is asked: exactly one call for each verdict, and the same for every judge.

    `limit` and `pairwise` are numbers of questions and subjects, None for all of them. Of a record only its contestant, its question
    and what `sample` reads counts, so that calls can be counted before anybody has answered. There is no exam where there is
    nothing to judge.
    """
    records = (*single, *turns)
    chosen = sample(single, turns, limit)
    grades = [
        (record, dimension, repeat)
        for record in records
        if _key(record) in chosen
        for dimension in dimensions
        if dimension != "stability" or judging.kind(record) == "turns"
        for repeat in range(repeats)
    ]
    met = comparing.pairs(records, reference)
    both = {_key(pair.one) for pair in met}
    compared = sample(
        [record for record in single if _key(record) in both],
        [record for record in turns if _key(record) in both],
        pairwise,
    )
    pairs = [(pair, repeat) for pair in met if _key(pair.one) in compared for repeat in range(repeats)]
    papers = exams.papers(dimensions) if exam and (grades or pairs) else []
    return Plan(papers, grades, pairs)


def templates(judges: Sequence[str], *, pairwise: int | None) -> list[str]:
    """Return the files under prompts/ that these judges are asked with."""
    names = ["judge"] if pairwise == 0 else ["judge", "pairwise"]
    return sorted({judging.template(name, model) for name in names for model in judges})


async def score(
    *,
    contestants: Sequence[Mapping[str, Any]],
    single: Sequence[Mapping[str, Any]],
    turns: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any],
    dimensions: Sequence[str],
    judges: Sequence[Judge],
    repeats: int,
    limit: int | None,
    evidence: int,
    exam: bool,
    pairwise: int | None,
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    seed: int | None,
    prompts: Mapping[str, str],
    ask: Ask,
    on_progress: Callable[[int, int], None],
) -> Results:
    """Examine the judges, and let them grade and compare the interviews' records.

    `contestants` are those of contestants.json; exactly one is the reference. `evidence` paragraphs of the profile are
    quoted to a judge. `prompts` holds the sources of `templates(...)`. `knows_until` is an ISO date, `never` names things beyond the
    knowledge boundary. `on_progress(done, total)` counts verdicts. Raises CharForgeError where a judge could not be reached, after the
    other calls came to their end.
    """
    (reference,) = (str(one["name"]) for one in contestants if one["reference"])
    wanted = plan(
        reference=reference,
        single=single,
        turns=turns,
        dimensions=dimensions,
        repeats=repeats,
        limit=limit,
        exam=exam,
        pairwise=pairwise,
    )
    person: Person = {
        "name": name,
        "short_name": short_name,
        "until": knows_until,
        "never": never,
        "paragraphs": profile["paragraphs"],
    }
    room = Room(evidence, seed, prompts, ask)
    total, done = wanted.calls * len(judges), 0

    def tick(verdicts: int) -> None:
        nonlocal done
        done += verdicts
        on_progress(done, total)

    calls: list[dict[str, Any]] = []

    async def examine(judge: Judge, paper: exams.Paper) -> dict[str, Any]:
        record, call = await exams.grade(room, judge, paper)
        return noted(record, [(record["id"], call)])

    async def grade(judge: Judge, record: Mapping[str, Any], dimension: str, repeat: int) -> dict[str, Any]:
        judged = await judging.grade(room, judge, person, record, dimension, draw=repeat)
        graded = judging.score_record(judged, judge, record, dimension, repeat=repeat)
        return noted(graded, [(graded["id"], judged.call)])

    async def compare(judge: Judge, pair: comparing.Pair, repeat: int) -> dict[str, Any]:
        return noted(*await comparing.compare(room, judge, person, pair, repeat=repeat))

    def noted(record: dict[str, Any], made: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
        calls.extend({"id": identity, "call": call} for identity, call in made if call is not None)
        tick(len(made))
        return record

    examined, graded, compared = await all_of(
        [
            all_of([examine(judge, paper) for judge in judges for paper in wanted.papers]),
            all_of([grade(judge, *one) for judge in judges for one in wanted.grades]),
            all_of([compare(judge, *one) for judge in judges for one in wanted.pairs]),
        ]
    )
    asked = dimensions if wanted.papers else ()
    return Results(
        by_id(examined),
        {
            "judges": {
                judge["model"]: exams.result(
                    [record for record in examined if record["judge"] == judge["model"]], asked
                )
                for judge in judges
            }
        },
        by_id(graded),
        by_id(compared),
        by_id(calls),
    )


def _key(record: Mapping[str, Any]) -> tuple[str, str]:
    return judging.kind(record), str(record["question"])


def sample(
    single: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]], limit: int | None
) -> set[tuple[str, str]]:
    """Return which (kind, question id) are graded: the same for every contestant, spread over kinds and topics.

    Groups are the single-turn topics and the interviews. They are served in turn; within a group those come first that more
    contestants answered, and then the order is that of the digests of the questions' texts, so that adding a question moves no
    more than one other in or out.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    answered: dict[tuple[str, str], set[str]] = {}
    for record in (*single, *turns):
        key = _key(record)
        if key not in answered:  # imported answers may give another topic to it
            alone = key[0] == "single"
            text = str(record["text"] if alone else record["subject"])
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            groups.setdefault((key[0], str(record["topic"]) if alone else ""), {})[key] = digest
        answered.setdefault(key, set()).add(str(record["contestant"]))
    queues = [
        sorted(groups[group], key=lambda one: (-len(answered[one]), groups[group][one], one))
        for group in sorted(groups)
    ]
    everything = [
        queue[place]
        for place in range(max(map(len, queues), default=0))
        for queue in queues
        if place < len(queue)
    ]
    return set(everything if limit is None else everything[:limit])
