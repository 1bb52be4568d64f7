"""The tables of bench/faults.py: plain text of one run, and Markdown of several, with the counts of pieces added up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]

_SAME = ("in a build", "at once", "files compared", "files in the store")
_MOST = ("most ", "age of the oldest")


def plain(found: Figures) -> str:
    """Return one run's figures as indented lines."""
    head = f"{found['what']}, {found['seconds']} s, {json.dumps(found['machine'])}"
    return "\n".join([head, *_lines(found["figures"], 1)])


def _lines(figures: Figures, depth: int) -> list[str]:
    found = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += [f"{'  ' * depth}{name}", *_lines(value, depth + 1)]
        else:
            found.append(f"{'  ' * depth}{name:<72} {value}")
    return found


def markdown(runs: Sequence[Figures]) -> str:
    """Return the tables of several runs. Pieces of one measurement are added up."""
    parts = []
    ours = [run["figures"] for run in runs if run["what"] == "charforge"]
    for part in ("kills", "pairs"):
        pieces = [each[part] for each in ours if part in each]
        parts += [_table(("what", "measured"), _added(pieces).items())] if pieces else []
    if pieces := [run["figures"] for run in runs if run["what"] == "corruption"]:
        parts.append(_table(_FLIPPED, _flipped(_added(pieces))))
    if peers := _added([run["figures"] for run in runs if run["what"] == "peers"]):
        parts += [
            _table(_KILLED, _killed(peers)),
            _table(_PAIRED, _paired(peers)),
            _table(_CORRUPT, _corrupt(peers)),
        ]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _added(pieces: Sequence[Figures]) -> dict[str, Any]:
    """Add up counts; of what is the same in each piece, or the most of it, take the most."""
    found: dict[str, Any] = {}
    for piece in pieces:
        for name, value in piece.items():
            if isinstance(value, str) or name == "null":
                found[name] = value
            elif isinstance(value, Mapping):
                found[name] = _added([found.get(name, {}), value])
            elif name.startswith(_MOST) or name.endswith(_SAME):
                found[name] = max(found.get(name, 0), value)
            else:
                found[name] = found.get(name, 0) + value
    return found


_FLIPPED = (
    "flipped in",
    "flips",
    "outputs identical",
    "one clear error",
    "wrong",
    "told of damage",
    "replies asked for again",
)


def _flipped(figures: Figures) -> Iterable[Sequence[Any]]:
    for place, counts in figures.items():
        if isinstance(counts, Mapping):
            yield (
                f"`{place}`",
                counts["flips"],
                counts.get("outputs identical", 0),
                counts.get("refused with one clear error", 0),
                counts.get("outputs WRONG", 0) + counts.get("ended in another way", 0),
                counts["said that something is damaged"],
                counts["replies asked for again"],
            )


_KILLED = (
    "engine",
    "used as",
    "build with nothing to do",
    "kills",
    "finished steps run again",
    "of these, finished > 0.1 s before",
    "rerun",
    "wrong output, called done",
)


def _killed(peers: Figures) -> Iterable[Sequence[Any]]:
    for name, rows in peers.items():
        if "not measured" in rows:
            yield _name(name, rows), f"not measured: {rows['not measured']}", *[""] * 6
            continue
        if not rows.get("kills", {}).get("kills"):
            continue
        kills, null = rows["kills"], rows["null"]
        failed = kills.get("reruns that failed", 0)
        stuck = kills.get("reruns that failed even after what the manual says", 0)
        reruns = f"fails {failed} times" + (
            f", {failed - stuck} of them mended by hand" if failed > stuck else ""
        )
        yield (
            _name(name, rows),
            rows["how"],
            f"{null['null build, s']:.2f} s, {null['steps run by null builds']} steps",
            kills["kills"],
            f"{kills.get('finished steps run again', 0)} of {kills['steps finished']}",
            kills.get("of these finished more than 0.1 s before the kill", 0),
            reruns if failed else "goes through",
            f"{kills.get('rebuilds that ended with a wrong output', 0)} of {kills['kills'] - stuck}",
        )


_PAIRED = ("engine", "pairs", "both end well", "one refuses or fails", "both fail", "steps run more than once", "wrong output though a build ended well", "still wrong, or failing, one build later")  # fmt: skip


def _paired(peers: Figures) -> Iterable[Sequence[Any]]:
    for name, rows in peers.items():
        if not rows.get("pairs", {}).get("pairs"):
            continue
        pairs = rows["pairs"]
        yield (
            _name(name, rows),
            pairs["pairs"],
            pairs["pairs of which both ended well"],
            pairs["pairs of which one failed"],
            pairs["pairs of which both failed"],
            pairs["steps run more than once"],
            pairs["pairs after which an output was wrong, though a build ended well"],
            pairs["pairs after which the next build left an output wrong"]
            + pairs["pairs after which the next build failed"],
        )


_CORRUPT = (
    "engine",
    "artifact flipped: noticed by a build with nothing to do",
    "then used: final output wrong, called done",
    "own copy flipped: handed out wrong",
    "final output wrong, called done",
    "database flipped: right / refused / wrong",
)


def _corrupt(peers: Figures) -> Iterable[Sequence[Any]]:
    for name, rows in peers.items():
        if "corruption" not in rows:
            continue
        artifact, copy, database = rows["corruption"].values()
        wrong = "final output wrong, called done"
        yield (
            _name(name, rows),
            _of(artifact, "noticed by the next build"),
            _of(artifact, wrong),
            _of(copy, "wrong bytes shown after a build that ended well"),
            _of(copy, wrong),
            " / ".join(str(database.get(each, 0)) for each in ("final output right", "refused", wrong)),
        )


def _of(counts: Figures, what: str) -> str:
    if "flips" not in counts:
        return "time ran out"
    return f"{counts.get(what, 0)} of {counts['flips']}" if counts["flips"] else "keeps none"


def _name(name: str, rows: Figures) -> str:
    return name if "==" not in rows["version"] else f"{name} {rows['version'].partition('==')[2]}"
