"""A finding in words, for people who meet a lock for the first time: what is proven, what not, where the first difference lies."""

from __future__ import annotations

from collections.abc import Iterator

from charforge.audit.finding import (
    BIT_IDENTICAL,
    DIVERGENT,
    METRIC_EQUIVALENT,
    NOT_CHECKABLE,
    Difference,
    Finding,
    Level,
    Result,
)
from charforge.files import visible

_SHOWN = 10
"""Differences of a stage that are printed; all of them are in the finding itself."""
_LEGENDS = {
    "derivation": " (what the lock says → what this checkout derives)",
    "replay": " (what the lock names → what came out)",
}


def level_line(level: Level) -> str:
    """Return what a level came to, on one line."""
    counts = level.counts()
    total = sum(counts.values())
    alike = counts.get(level.verdict, 0) == total
    said = [f"{number} {verdict}" for verdict, number in counts.items()]
    stages = (
        f"{total} stage{'s' * (total != 1)}"
        if alike
        else f"{total} stage{'s' * (total != 1)}: {', '.join(said)}"
    )
    how = _how(level)
    return visible(f"{level.name:<10}  {level.verdict:<17}  {stages}" + (f" ({how})" if how else ""))


def _how(level: Level) -> str:
    facts = level.facts
    match level.name:
        case "integrity":
            return f"{facts['blobs']:,} blobs of {size(facts['bytes'])}, {facts['replies']:,} replies"
        case "replay" if facts.get("variation"):
            return f"under another {', '.join(facts['variation'])}"
        case "retrain" if "held_out_loss" in facts:
            return f"epsilon {facts['epsilon']:g} nats a token"
    return ""


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def report(finding: Finding) -> Iterator[str]:
    """Yield all there is to say beside the levels' own lines."""
    first = first_difference(finding)
    if first is not None:
        level, result, difference = first
        yield ""
        yield visible(f"The first difference: {result.stage}, {level.name}: {difference.said}")
    for level in finding.levels:
        told = [result for result in level.results if result.verdict != BIT_IDENTICAL]
        if told:
            yield ""
            yield f"{level.name}{_LEGENDS.get(level.name, '')}:"
        for alike in _alike(told):
            yield from _result(alike)
    yield ""
    yield "Proven:"
    yield from (f"  {line}" for line in _proven(finding) or ["nothing"])
    yield "Not proven:"
    yield from (f"  {line}" for line in _not_proven(finding))


def first_difference(finding: Finding) -> tuple[Level, Result, Difference] | None:
    """Return the difference that lies nearest to the character's sources; None where nothing diverges."""
    order = {
        result.stage: number
        for level in reversed(finding.levels)
        for number, result in enumerate(level.results)
    }
    found = [
        (order[result.stage], number, level, result)
        for number, level in enumerate(finding.levels)
        for result in level.results
        if result.verdict == DIVERGENT and result.differences
    ]
    if not found:
        return None
    _, _, level, result = min(found, key=lambda each: each[:2])
    return level, result, result.differences[0]


def _alike(results: list[Result]) -> Iterator[list[Result]]:
    """Yield results that say the same together, the others alone."""
    groups: dict[object, list[Result]] = {}
    for result in results:
        key = result.stage if result.differences else (result.verdict, result.why)
        groups.setdefault(key, []).append(result)
    yield from groups.values()


def _result(alike: list[Result]) -> Iterator[str]:
    result = alike[0]
    why = f": {result.why}" if result.why else ""
    many = f" ({len(alike)} stages)" if len(alike) > 3 else ""
    yield visible(f"  {', '.join(each.stage for each in alike)}{many}: {result.verdict}{why}")
    for difference in result.differences[:_SHOWN]:
        yield visible(f"    {difference.said}")
    if len(result.differences) > _SHOWN:
        yield f"    and {len(result.differences) - _SHOWN:,} more (--json tells them all)"


# -- what it comes to ------------------------------------------------------------------------------------------------

_PROVES = {
    (
        "integrity",
        BIT_IDENTICAL,
    ): "Integrity: every byte that the lock names of {} is here, and is what its name says.",
    (
        "derivation",
        BIT_IDENTICAL,
    ): "Derivation: spec, profile, prompts and code of this checkout derive {} as the lock says.",
    (
        "replay",
        BIT_IDENTICAL,
    ): "Replay: run again from the recorded replies, without key and network, {} gave the same bytes.",
    (
        "retrain",
        BIT_IDENTICAL,
    ): "Retrain: trained again from the same samples and base weights, {} gave the same weights, bit for bit.",
    (
        "retrain",
        METRIC_EQUIVALENT,
    ): "Retrain: trained again, {} gave other weights of the same quality: held-out loss within {epsilon} nats a token.",
}


def _proven(finding: Finding) -> list[str]:
    lines = []
    for level in finding.levels:
        for verdict in (BIT_IDENTICAL, METRIC_EQUIVALENT):
            stages = [result.stage for result in level.results if result.verdict == verdict]
            template = _PROVES.get((level.name, verdict))
            if stages and template:
                which = _which(stages, [result.stage for result in level.results])
                lines.append(visible(template.format(which, epsilon=level.facts.get("epsilon"))))
    return lines


def _which(stages: list[str], of: list[str]) -> str:
    others = [stage for stage in of if stage not in stages]
    if not others and len(of) > 1:
        return f"all {len(of)} stages"
    if others and len(others) < len(stages):
        return f"all stages but {', '.join(others)}"
    return ", ".join(stages)


def _not_proven(finding: Finding) -> Iterator[str]:
    levels = {level.name: level for level in finding.levels}
    replayed = {
        result.stage
        for result in (levels["replay"].results if "replay" in levels else [])
        if result.verdict == BIT_IDENTICAL
    }
    for level in finding.levels:
        of = [result.stage for result in level.results]
        divergent = [result.stage for result in level.results if result.verdict == DIVERGENT]
        lacking = [result.stage for result in level.results if result.verdict == NOT_CHECKABLE]
        again = [stage for stage in lacking if level.name == "integrity" and stage in replayed]
        for stages, words in (
            (divergent, "not what the lock says"),
            ([stage for stage in lacking if stage not in again], "could not be checked"),
            (again, "not everything is here; but the replay gave the same bytes"),
        ):
            if stages:
                yield visible(f"{level.name.capitalize()} of {_which(stages, of)}: {words}.")
    for name in ("integrity", "derivation", "replay"):
        if name not in levels:
            yield f"{name.capitalize()}: was not asked for (--level {name})."
    if "retrain" not in levels:
        yield "That the weights come of this training set: --level retrain trains them again."
    yield "That a model ever gave the recorded replies: for that, whoever recorded them is to be trusted."
