"""The report: what a character was made of, whether training changed it, and whether that beats a prompt.

Pure: records in, one HTML page and one JSON summary out. The page says first what can be told and what cannot, shows the words
themselves untouched, and leads from each score back to what it stands on. It has no date, so that equal inputs give equal bytes.
Its parts and how it looks are charforge/report's business.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from charforge.metrics import METRICS
from charforge.notice import about_answers
from charforge.report import answers, counted, judged, made, page, training, words
from charforge.report.links import Links
from charforge.report.people import people
from charforge.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.report.people import Person

    Record = Mapping[str, Any]

VERSION = 4


def build(
    *,
    spec: Record,
    profile: Record,
    dataset_stats: Record,
    yields: Mapping[str, Record],
    rejected: Sequence[Record],
    train_log: Sequence[Record],
    train_summary: Record,
    probes: Sequence[Record],
    single: Sequence[Record],
    turns: Sequence[Record],
    scores: Sequence[Record],
    metrics: Mapping[str, Record],
    samples: Sequence[Record],
    provenance: Record,
    contestants: Sequence[Record],
    measures: Sequence[Record],
    statistics: Record,
    exam: Record,
    pairs: Sequence[Record],
    set_aside: Sequence[Record],
    sft: Sequence[Record],
    scenes: Sequence[Record],
    dialogues: Sequence[Record],
    usage: Mapping[str, Mapping[str, Record]],
) -> tuple[str, dict[str, Any]]:
    """Return (report.html, report.json). Arguments are the records of the stages' artifacts of these names; any may be empty.

    `yields` maps a stage's name to its yield.json, in the order in which to show them; `samples` are dialogues to show as examples,
    `dialogues` all of dialogues, protective and written ones, for links; `probes` answers to the probe questions before and after
    training; `usage` {stage: {model: {"calls", "prompt_tokens", "completion_tokens", "cost"}}}; `provenance` any JSON data, shown as it is.
    """
    short_name = str(spec["short_name"])
    everyone = people(contestants, short_name, single, turns)
    trained = training.section(train_summary, train_log, spec) if train_summary or train_log else None
    told = verdict(everyone, statistics, exam, short_name)
    links = Links(
        profile=profile,
        sft=sft,
        dialogues=dialogues,
        scenes=scenes,
        held_out=map(str, train_summary.get("held_out") or ()),
    )
    said = answers.Said(scores, measures, pairs, links)
    questions = answers.questions(single, everyone, said, links)
    chosen = answers.choose(single)
    titles = {str(one["id"]): str(one["text"]) for one in single} | {
        str(one["id"]): str(one["subject"]) for one in turns
    }
    values: dict[str, Any] = {
        "name": spec["name"],
        "short_name": short_name,
        "lede": _lede(spec, dataset_stats, trained),
        "notice": about_answers(str(spec["name"]), spec["portrays"], spec["notice"]),
        "profile": {
            "paragraphs": len(profile["paragraphs"]),
            "words": words.count(sum(len(str(one["text"]).split()) for one in profile["paragraphs"])),
            "licence": profile.get("licence"),
            "source": profile.get("source"),
        },
        "verdict": told,
        "figures": _figures(trained, metrics, everyone, statistics),
        "contestants": [{"person": one, "answers": _answers(one, single, turns)} for one in everyone],
        "reference": next((one.label for one in everyone if one.reference), short_name),
        "others": [one for one in everyone if not one.reference],
        "training": trained,
        "probes": [dict(one) for one in probes],
        "counted": counted.section(metrics, statistics, everyone),
        "judge": judged.section(statistics, exam, scores, everyone)
        | {"extremes": answers.extremes(scores, everyone, titles)},
        "chosen": [question for question in questions if question["id"] in chosen],
        "chosen_title": answers.chosen_title(chosen),
        "chosen_note": answers.chosen_note(chosen, single),
        "stats": made.data_set(dataset_stats),
        "yields": [made.given(stage, one) for stage, one in yields.items()],
        "rejected": made.rejected(rejected),
        "spent": made.spent(usage),
        "left_out": made.left_out(set_aside, links),
        "samples": [links.dialogue(one, short_name) for one in samples],
        "talks": answers.talks(turns, everyone, said, links),
        "scripted": answers.scripted(turns),
        "questions": questions,
        "provenance": words.flat(provenance),
        "spec": json.dumps(spec, indent=2, ensure_ascii=False),
        "spec_lines": json.dumps(spec, indent=2).count("\n") + 1,
    }
    # Last: everything above may have put something into the appendix, and samples cite paragraphs.
    values["linked_samples"] = links.samples(short_name)
    values["linked_paragraphs"] = links.paragraphs()
    report = {
        "name": spec["name"],
        "contestants": [one.name for one in everyone],
        "verdict": told,
        "training": trained["report"] if trained else None,
        "dataset": dict(dataset_stats),
        "yields": {stage: dict(one) for stage, one in yields.items()},
        "metrics": {contestant: dict(values) for contestant, values in metrics.items()},
        "statistics": dict(statistics),
        "exam": dict(exam),
        "answers_shown": chosen,
        "provenance": dict(provenance),
    }
    return page.fill(values), report


def _answers(person: Person, single: Sequence[Record], turns: Sequence[Record]) -> str:
    one = sum(record["contestant"] == person.name for record in single)
    several = sum(record["contestant"] == person.name for record in turns)
    return (
        f"{words.count(one)} single, {words.count(several)} {'interview' if several == 1 else 'interviews'}"
    )


# --- What stands above -----------------------------------------------------------------------------------------------


def _lede(spec: Record, stats: Record, trained: Record | None) -> list[str]:
    until = spec["knows"]["until"]
    boundary = f"It should know nothing after {until}, and should not pretend to."
    if trained is None:
        return [
            f"Answers in the role of {spec['name']}, measured and compared. Nothing was trained here.",
            boundary,
        ]
    train = spec["train"]
    method = {
        "full": "all of its weights",
        "lora": "a LoRA adapter",
        "qlora": "a LoRA adapter on 4-bit weights",
    }.get(train["method"], train["method"])
    base = train["base_model"]
    if isinstance(base, dict):
        base = f"{base['onto']} with the weight difference {base['delta']}"
    parameters = trained["report"]["parameters"]
    size = f", {words.size(parameters)} parameters," if parameters else ""
    totals = made.totals(stats)
    scenes, length = totals.get("dialogues", totals.get("scenes")), totals.get("words")
    experience = ""
    if isinstance(scenes, int) and isinstance(length, int):
        experience = f", trained on {words.count(scenes)} dialogues ({words.count(length)} words)"
    first = f"A language model that answers as {spec['name']}: {base}{size} with {method} tuned{experience}."
    return [first, boundary]


def _figures(
    trained: Record | None, metrics: Mapping[str, Record], everyone: Sequence[Person], statistics: Record
) -> list[dict[str, Any]]:
    figures = []
    facts = trained["report"] if trained else {"held_out_before": None, "held_out_after": None}
    before, after = facts["held_out_before"], facts["held_out_after"]
    if after is not None:
        kept = facts["chosen_epoch"]
        figures.append(
            {
                "label": "Loss on held-out dialogues",
                "before": None if before is None else f"{before:.2f}",
                "value": f"{after:.2f}",
                "under": "before → after training, nats per token"
                + (f"; epoch {kept} was kept" if kept else ""),
            }
        )
    for key in ("claims_unknown", "third_person"):
        figure = _figure(key, metrics, everyone)
        if figure:
            figures.append(figure)
    cells = [cell for row in statistics.get("scores", {}).values() for cell in row.values()]
    scored, unscored = sum(one["scored"] for one in cells), sum(one["unscored"] for one in cells)
    if scored + unscored:
        figures.append(
            {
                "label": "Judges’ verdicts",
                "before": None,
                "value": f"{words.count(scored)} of {words.count(scored + unscored)}",
                "under": "gave a score"
                + ("" if statistics.get("usable") else "; none of the scores is usable, see below"),
            }
        )
    return figures


def _figure(key: str, metrics: Mapping[str, Record], everyone: Sequence[Person]) -> dict[str, Any] | None:
    """Return a metric of the reference, the others' under it; None where it was not measured."""
    metric = METRICS.get(key)
    known = [one for one in everyone if metrics.get(one.name, {}).get(key) is not None]
    if metric is None or not known or not known[0].reference:
        return None
    texts = [words.amount(metric.unit, metrics[one.name][key]) for one in known]
    others = [f"{one.label} {text}" for one, text in zip(known[1:], texts[1:], strict=True)]
    return {
        "label": metric.label,
        "before": None,
        "value": texts[0],
        "under": f"{known[0].label}" + (f"; {'; '.join(others)}" if others else ""),
    }
