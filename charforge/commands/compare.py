"""`charforge compare`: evaluations side by side. What a model wrote is printed as data, never obeyed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge.commands.loading import last_made, load
from charforge.engine.stale import plan
from charforge.engine.store import Store
from charforge.errors import CharForgeError
from charforge.progress import clean
from charforge.workshop import LocalWorkshop
from charforge.workspace import Target, target

if TYPE_CHECKING:
    from rich.console import Console

    from charforge.report.compare import Evaluation

# Field of an evaluation → the stage that makes it, its output, and the output's name in a view.
_ARTIFACTS = {
    "contestants": ("interviews", "contestants.json", "interviews/contestants.json"),
    "single": ("interviews", "single.jsonl", "interviews/single.jsonl"),
    "turns": ("interviews", "turns.jsonl", "interviews/turns.jsonl"),
    "measures": ("metrics", "measures.jsonl", "measures.jsonl"),
    "metrics": ("metrics", "metrics.json", "metrics.json"),
    "scores": ("scores", "scores.jsonl", "scores.jsonl"),
    "statistics": ("scores", "statistics.json", "statistics.json"),
    "exam": ("scores", "exam.json", "exam.json"),
}
NOTE = (
    "In brackets: the 95 % interval. *: differs from the reference, which is to say that the interval of the paired",
    "difference leaves out zero. Everything else may be chance. Differences of shares are in percentage points.",
)

_STAGES = tuple(dict.fromkeys(stage for stage, _, _ in _ARTIFACTS.values()))


def run(args: argparse.Namespace) -> int:
    """Print evaluations side by side, or write them as a page."""
    show(args.evaluations, html=args.html, as_json=args.json)
    return 0


def show(
    evaluations: Sequence[str | Target], *, html: str | Path | None = None, as_json: bool = False
) -> None:
    """Print evaluations side by side: names of characters, paths of specs, or folders as `build/<id>`.

    With `html` a page is written there too. Raises CharForgeError where one was never made.
    """
    from charforge.report import compare

    found = compare.compare(_labelled([_read(one) for one in evaluations]))
    if html is not None:
        path = Path(html)
        try:
            path.write_text(compare.html(found), encoding="utf-8")
        except OSError as error:
            raise CharForgeError(f"--html: cannot write {path}: {error.strerror}") from error
        print(f"wrote {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, sort_keys=True))
    elif html is None:
        _print(found)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _labelled(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Number those that share a label, so that each can be named."""
    labels = [one.label for one in evaluations]
    return [
        replace(one, label=f"{one.label} ({labels[: place + 1].count(one.label)})")
        if labels.count(one.label) > 1
        else one
        for place, one in enumerate(evaluations)
    ]


def _read(evaluation: str | Target) -> Evaluation:
    if isinstance(evaluation, Target):
        return _from_store(evaluation)
    spec = target(evaluation) if not Path(evaluation).is_dir() else None
    # A character's name means the character, even where a folder is called the same.
    named = Path("characters") / f"{evaluation}.yaml"
    if spec is None and "/" not in evaluation and named.is_file():
        spec = target(str(named))
    return _from_folder(Path(evaluation)) if spec is None else _from_store(spec)


def _from_store(wanted: Target) -> Evaluation:
    """Read what a character's last build made. Raises CharForgeError where a stage was never built."""
    loaded, graph = load([wanted], LocalWorkshop())
    character = loaded[0].character
    with Store(wanted.workspace / ".charforge") as store:
        planned = plan(store, graph, [character.stage(stage) for stage in _STAGES])
        outputs = {
            stage: last_made(store, planned[character.stage(stage)], wanted, stage).outputs
            for stage in _STAGES
        }
        missing = [name for stage, name, _ in _ARTIFACTS.values() if name not in outputs[stage]]
        if missing:
            raise CharForgeError(
                f"{wanted.id}: its last build made no {missing[0]}", f"charforge build {wanted.label}"
            )
        data = {field: store.read(outputs[stage][name]) for field, (stage, name, _) in _ARTIFACTS.items()}
    return _evaluation(wanted.id, character.spec.name, character.spec.short_name, data)


def _from_folder(folder: Path) -> Evaluation:
    """Read a view, such as `build/beethoven` of any workspace. Raises CharForgeError."""
    data = {field: _bytes(folder, name) for field, (_, _, name) in _ARTIFACTS.items()}
    spec = json.loads(_bytes(folder, "spec.json"))
    return _evaluation(folder.resolve().name, str(spec["name"]), str(spec["short_name"]), data)


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CharForgeError(
            f"{folder} is no finished build: {name}: {error.strerror}",
            "give a character's name, or a folder that a build wrote, such as build/beethoven",
        ) from error


def _evaluation(label: str, name: str, short_name: str, data: Mapping[str, bytes]) -> Evaluation:
    from charforge.report.compare import Evaluation

    read: dict[str, Any] = {}
    for field, (_, output, _) in _ARTIFACTS.items():
        try:
            read[field] = (
                [json.loads(line) for line in data[field].splitlines()]
                if output.endswith(".jsonl")
                else json.loads(data[field])
            )
        except ValueError as error:
            raise CharForgeError(f"{label}: {output} is damaged: {error}", "build it again") from error
    return Evaluation(label=label, name=name, short_name=short_name, **read)


# --- Printing --------------------------------------------------------------------------------------------------------


def _print(found: Mapping[str, Any]) -> None:
    """Print a comparison as tables that fit the terminal; without colours where stdout is none."""
    from rich.console import Console

    from charforge.report import compare

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    for one in found["characters"]:
        _character(console, compare.shown(one))
    for one in found["against"]:
        _difference(console, compare.shown_against(one))
    for line in NOTE:
        _say(console, line)


def _character(console: Console, one: Mapping[str, Any]) -> None:
    _say(console, f"{one['label']}: {one['name']}, {one['asked']}", style="bold")
    for person in one["contestants"]:
        model = f" ({person['model']})" if person["model"] else ""
        role = "; the reference" if person["reference"] else ""
        _say(console, f"  {person['label']}: {person['what']}{model}{role}")
    heads = [person["label"] for person in one["contestants"]]
    _table(console, "metrics without a judge", heads, one["metrics"])
    if one["scores"]:
        for line in one["judges"]:
            _say(console, f"judge {line}")
        _table(console, "judge, 1 to 7" + ("" if one["usable"] else ", not usable"), heads, one["scores"])
    else:
        _say(console, "nothing was judged")
    for row in one["pairwise"]:
        mark = "*" if row["decided"] and one["usable"] else ""
        _say(
            console,
            f"{one['reference']} against {row['other']}: {row['rate']}{mark} won"
            + (f" ({row['span']})" if row["span"] else "")
            + f", {row['wins']} wins, {row['ties']} ties, {row['losses']} losses, {row['unscored']} unscored, "
            f"{row['disagreed']} where the orders disagreed",
        )
    if one["chance"]:
        _say(console, one["chance"])
    _say(console, "")


def _difference(console: Console, one: Mapping[str, Any]) -> None:
    _say(console, f"{one['one']} minus {one['other']}", style="bold")
    if one["why"]:
        _say(console, f"side by side only: {one['why']}\n")
        return
    _say(console, f"{one['paired']}.")
    for line in one["judges"]:
        _say(console, f"judge {line}")
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name in ("difference", "pairs"):
        table.add_column(name, justify="right")
    table.add_column(clean(f"{one['one']} is"))
    for row in one["rows"]:
        span = f" ({row['span']})" if row["span"] else ""
        style = "bold" if row["decided"] else ""
        texts = (row["label"], row["text"] + span, str(row["pairs"]), row["verdict"])
        table.add_row(*(Text(clean(text), style=style) for text in texts))
    console.print("", table, "", sep="\n")
    if one["chance"]:
        _say(console, one["chance"])
    _say(console, "")


def _table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of figures with their intervals: beside them where there is room, else below, else in several tables."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    def texts(row: Mapping[str, Any], between: str) -> list[str]:
        return [
            cell["text"]
            + ("*" if cell["decided"] else "")
            + (f"{between}({cell['span']})" if cell["span"] else "")
            + (f"{between}{cell['unscored']} unscored" if cell.get("unscored") else "")
            for cell in row["cells"]
        ]

    if not rows:
        return
    first = max(cell_len(text) for text in (title, *(row["label"] for row in rows)))
    for between in (" ", "\n"):
        filled = [[clean_lines(text) for text in texts(row, between)] for row in rows]
        widest = [
            max(
                min(cell_len(head), 20),
                *(cell_len(line) for row in filled for line in row[place].split("\n")),
            )
            for place, head in enumerate(heads)
        ]
        if first + sum(width + 2 for width in widest) <= console.width:
            break
    begin = 0
    while begin < len(heads):
        end, used = begin, first
        while end < len(heads) and (end == begin or used + widest[end] + 2 <= console.width):
            used += widest[end] + 2
            end += 1
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(title, no_wrap=False)
        for place in range(begin, end):
            table.add_column(
                Text(clean(heads[place])), justify="right", max_width=max(widest[place], 8), overflow="fold"
            )
        for row, cells in zip(rows, filled, strict=True):
            table.add_row(Text(clean(row["label"])), *(Text(text) for text in cells[begin:end]))
        console.print("", table, "", sep="\n")
        begin = end


def clean_lines(text: str) -> str:
    """Return text of several lines without control characters in any of them."""
    return "\n".join(clean(line) for line in text.split("\n"))


def _say(console: Console, text: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(clean_lines(text), style=style), soft_wrap=not console.is_terminal)
