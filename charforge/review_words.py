"""A review's data in words, as sections of lines: printed as they are, or fenced in Markdown, where no text of a stranger is markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from charforge.differences import ABSENT, clipped, near, shown
from charforge.files import visible
from charforge.metrics import METRICS
from charforge.report.words import amount

Section = tuple[str, list[str]]
"""A heading of ours and its lines, each free of control characters."""

_WIDTH = 120
_LINES = 60
_RECORD_LINES = 300
"""Of a section. A pull request's summary has room for a megabyte, a reader for less."""
_REASONS = 4
_FIELDS = 3
"""Of a record that differs; a scene that was written anew differs in all."""


def text(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that a terminal gets."""
    yield _title(found)
    yield summary(found)
    for heading, lines in sections(found):
        yield ""
        yield f"{heading}:"
        yield from (f"  {line}" if line else "" for line in lines)


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a pull request's summary."""
    # In fences only: a profile's text could otherwise be a link, an image or a mention of a person.
    yield f"### {re.sub('[^A-Za-z0-9-]', '', found['character'])}"
    yield ""
    yield from fenced([_title(found), summary(found)])
    for heading, lines in sections(found):
        yield ""
        yield f"**{heading}**"
        yield ""
        yield from fenced(lines, "diff" if heading.startswith(("Records", "Prompts")) else "")


def fenced(lines: Sequence[str], kind: str = "") -> Iterator[str]:
    """Yield lines between fences that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield fence + kind
    yield from lines
    yield fence


def _title(found: Mapping[str, Any]) -> str:
    how = {"new": " (new)", "gone": " (gone)"}.get(found["change"], "")
    return visible(f"{found['character']}{how}: {found['was']} → {found['now']}")


def summary(found: Mapping[str, Any]) -> str:
    """Return on one line how much differs, and what it took."""
    stages = found["stages"].values()
    anew = sum(each["change"] in {"new", "made anew"} for each in stages)
    parts = [
        _many(len(found["spec"]), "value of the spec", "values of the spec"),
        _many(
            sum(len(each["changes"] or [1]) for each in found["files"]),
            "change of its files",
            "changes of its files",
        ),
        _many(len(found["prompts"]), "prompt", "prompts"),
    ]
    told = ", ".join(part for part in parts if part) or "no change of spec, files and prompts"
    if not anew:
        return f"{told}; no stage was made anew"
    return f"{told}; {_many(anew, 'stage', 'stages')} made anew: {_used(found['cost']['total']['anew'])}"


def _many(number: int, one: str, several: str) -> str:
    return "" if not number else f"{number:,} {one if number == 1 else several}"


def sections(found: Mapping[str, Any]) -> Iterator[Section]:
    """Yield every part that has something to say, and `Nothing` where none has."""
    parts: list[tuple[str, Iterable[str]]] = [
        ("To look at", (f"- {line}" for line in found["look"])),
        ("Spec", _spec(found["spec"])),
        *_files(found["files"]),
        ("Prompts", _prompts(found["prompts"])),
        ("Stages", _stages(found["stages"])),
        ("Cost", _cost(found["cost"])),
        ("Scores", _scores(found)),
        ("Records", _records(found["records"])),
        ("Not looked at", found["notes"]),
    ]
    told = False
    for heading, lines in parts:
        kept = [visible(line) for line in lines]
        if kept:
            told = True
            most = _RECORD_LINES if heading == "Records" else _LINES
            more = len(kept) - most
            yield heading, kept[:most] + ([f"… and {more:,} more lines (--json)"] if more > 0 else [])
    if not told:
        yield "Nothing", ["no difference in spec, files, stages and figures"]


# -- parts -----------------------------------------------------------------------------------------------------------


def difference(each: Mapping[str, Any], *, width: int = _WIDTH) -> Iterator[str]:
    """Yield one difference: on one line where it is short, old and new text below each other where not."""
    was, now = each.get("was", ABSENT), each.get("now", ABSENT)
    path = clipped(each["path"]) if each["path"] else ""
    before = f"{path}: " if path else ""
    match each["kind"]:
        case "added":
            yield f"+ {before}{shown(_readable(now), width)}"
        case "removed":
            yield f"- {before}{shown(_readable(was), width)}"
        case "moved":
            yield f"moved from line {was} to line {now}"
        case _:
            one, other = near(was, now, width)
            if len(before) + len(one) + len(other) < 90:
                yield f"{before}{one} → {other}"
            else:
                if path:
                    yield f"{path}:"
                yield f"- {one}"
                yield f"+ {other}"


def _readable(value: Any) -> Any:
    """Return what a person would read of a whole record: the text that it is about."""
    if isinstance(value, dict):
        for key in ("text", "question", "subject", "answer", "title", "background"):
            if isinstance(value.get(key), str):
                return value[key]
    return value


def _spec(changes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in changes:
        stages = f"  ({', '.join(each['stages'])})" if each.get("stages") else ""
        *first, last = difference(each)
        yield from first
        yield last + stages


_UNITS = {"profile": "paragraphs", "questions": "questions", "written": "dialogues"}


def _files(files: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Iterable[str]]]:
    for each in files:
        yield each["file"].capitalize(), _file(each)


def _file(each: Mapping[str, Any]) -> Iterator[str]:
    where = each["path"] or "as the locks name it"
    if each["changes"] is None:
        yield f"{where}: differs; this side or the other is not here to be read"
        return
    was, now = each["units"]
    if each["file"] == "profile":  # name, licence and source are compared beside the paragraphs
        was, now = max(was - 3, 0), max(now - 3, 0)
    kinds = [
        f"{len({row['path'].split('.')[0].split('[')[0] for row in each['changes'] if row['kind'] in how})} {word}"
        for word, how in (("changed", {"changed"}), ("added", {"added"}), ("removed", {"removed"}))
        if any(row["kind"] in how for row in each["changes"])
    ]
    yield f"{where}: {was} {_UNITS[each['file']]} → {now}; {', '.join(kinds)}"
    for row in each["changes"]:
        yield from difference(row)


def _prompts(prompts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in prompts:
        yield f"{each['prompt']} ({', '.join(each['stages'])})" + (
            "" if each["diff"] is not None else ": differs; the texts of both sides are not here"
        )
        yield from each["diff"] or ()


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for kind, each in stages.items():
        counts = ", ".join(
            f"{name} {_none(was)} → {_none(now)}" for name, (was, now) in each["counts"].items()
        )
        change = "only what is said of it differs" if each["change"] == "same" else each["change"]
        why = [clipped(one, 90) for one in each["why"][:_REASONS]]
        more = len(each["why"]) - _REASONS
        said = (f": {', '.join(why)}" if why else "") + (f" and {more} more" if more > 0 else "")
        yield clipped(f"{kind}: {change}{said}", 240)
        if counts:
            yield f"    {clipped(counts, 200)}"


def _none(value: Any) -> str:
    return "none" if value is None else f"{value:,}"


def _cost(cost: Mapping[str, Any]) -> Iterator[str]:
    was, now, anew = (cost["total"][side] for side in ("was", "now", "anew"))
    if was == now and not anew["calls"]:
        return
    yield f"before: {_used(was)}"
    yield f"now:    {_used(now)}"
    if anew["calls"]:
        yield f"of these, by stages that were made anew: {_used(anew)}"
    for model, each in cost["models"].items():
        sides = " → ".join("none" if each[side] is None else _used(each[side]) for side in ("was", "now"))
        yield clipped(f"  {model}: {sides}", 200)
    if cost.get("recorded") is not None:
        yield cost["recorded"]


def _used(used: Mapping[str, float]) -> str:
    unpriced = f", and {used['unpriced']:,.0f} calls of unknown price" if used["unpriced"] else ""
    return (
        f"{used['calls']:,.0f} calls, {used['prompt_tokens']:,.0f} tokens in, "
        f"{used['completion_tokens']:,.0f} out, {money(used['cost'])}{unpriced}"
    )


def money(usd: float) -> str:
    """Return an amount in US dollars: cents from a dollar up, more digits below."""
    return f"{usd:,.2f} USD" if usd >= 1 or usd == 0 else f"{usd:.4f} USD"


def _scores(found: Mapping[str, Any]) -> Iterator[str]:
    rows = found["scores"]
    if rows is None:
        if "scores" in found["stages"]:
            yield "differ, but statistics.json of both sides is not in a store here"
        return
    # The largest first: those that lie apart, then those of which nothing is known.
    for row in sorted(rows, key=lambda row: {False: 0, None: 1, True: 2}[row["within"]]):
        metric = METRICS.get(row["what"]) if row["kind"] == "metrics" else None
        label = row["what"] if metric is None else metric.label
        sides = " → ".join(_cell(row[side], metric) for side in ("was", "now"))
        said = {
            False: "; the intervals lie apart",
            True: "; within the intervals, may be chance",
            None: "; not both sides have an interval",
        }
        yield clipped(f"{row['contestant']}, {label}: {sides}{said[row['within']]}", 200)
    if rows:
        yield "In brackets: the 95 % interval of each side. Intervals that overlap do not show that anything changed."


def _cell(cell: Mapping[str, Any] | None, metric: Any) -> str:
    if cell is None or cell["value"] is None:
        return "none"

    def said(value: float) -> str:
        return f"{value:.2f}" if metric is None else amount(metric.unit, value)

    if cell["low"] is None or cell["high"] is None:
        return said(cell["value"])
    return f"{said(cell['value'])} ({said(cell['low'])} to {said(cell['high'])})"


def _records(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    missing = [f"{each['stage']}/{each['output']}" for each in outputs if not each["here"]]
    for each in outputs:
        if not each["here"]:
            continue
        was, now = each["of"]
        counts = ", ".join(f"{number:,} {how}" for how, number in each["counts"].items() if number)
        yield clipped(f"{each['stage']}/{each['output']}: {counts}; {was:,} records → {now:,}", 160)
        for record in each["shown"]:
            yield from _record(record)
    if missing:
        yield clipped(
            f"differ, but the bytes of both sides are not in a store here: {', '.join(missing)}", 400
        )


def _record(record: Mapping[str, Any]) -> Iterator[str]:
    name = record["id"] if record["id"] is not None else f"line {record['line']}"
    about = "" if record["about"] is None else f": {clipped(record['about'], 90)}"
    if record["kind"] != "changed":  # the line says all of it that is worth a reader's time
        yield f"@ {clipped(name, 80)} ({record['kind']}){about}"
        return
    yield f"@ {clipped(name, 80)}{about}"
    for each in record["differences"][:_FIELDS]:
        yield from difference(each, width=160)
    if len(record["differences"]) > _FIELDS:
        yield f"  and {len(record['differences']) - _FIELDS} more of its fields"


def as_json(reviews: Sequence[Mapping[str, Any]], elsewhere: Sequence[str]) -> str:
    """Return all reviews as one JSON document, of ASCII characters only: a lock may hold halves of characters."""
    found = {"charforge_diff": 1, "characters": list(reviews), "elsewhere": list(elsewhere)}
    return json.dumps(found, indent=2)
