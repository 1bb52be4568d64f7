"""Interviews and scores, measured: the parts of the bench and the one that reads what Character-LLM's authors released.

    python bench/evaluation.py released --peer DIR [--keep DIR]
    python bench/evaluation.py single | side-by-side | traps | report [options of that part]

`released` imports a folder of released interviews into an empty workspace and builds it, by the real command and its clock. What comes
out is then held against the raw files, which are read here a second time without any of CharForge: every question, every spoken
word of every answer, and every count. DIR holds interview_single/, interview_turns/, questions/ and profiles/; nothing of it is kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PARTS = {
    "single": "evaluation_speed",
    "side-by-side": "evaluation_speed",
    "traps": "evaluation_traps",
    "report": "evaluation_report",
}
"""Parts that are files of their own, each with a `main(argv)`."""

TIMED = {
    "reading": ("profile", "questions", "interviews"),
    "measuring": ("metrics",),
    "statistics": ("scores",),
    "report": ("report",),
}
"""What a user waits for, and the stages that it is made of."""


class Raw(NamedTuple):
    """What one system answered, by the files themselves: (question, spoken words, was cut off) in order of the files."""

    single: list[tuple[str, list[str], bool]]
    turns: list[tuple[str, list[tuple[str, list[str], bool]]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the part that is named first."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PARTS:
        module = importlib.import_module(PARTS[words[0]])
        rest = words if PARTS[words[0]] == "evaluation_speed" else words[1:]
        return int(module.main(rest) or 0)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["released", *PARTS])
    parser.add_argument("--peer", type=Path, required=True, help="the released folder")
    parser.add_argument("--keep", type=Path, help="an empty folder to build in, which is kept")
    options = parser.parse_args(words)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        return released(options.peer.resolve(), options.keep)
    with tempfile.TemporaryDirectory() as folder:
        return released(options.peer.resolve(), Path(folder))


def released(peer: Path, workspace: Path) -> int:
    """Import and build everything in `peer`, print times, what was verified, and the systems; return 1 where something is lost."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "charforge", "import", "transcripts", str(peer)],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        return done.returncode
    began = time.perf_counter()
    ids = sorted(path.stem for path in (workspace / "characters").glob("*.yaml"))
    subprocess.run(
        [sys.executable, "-m", "charforge", "build", *ids], cwd=workspace, capture_output=True, check=True
    )
    again = time.perf_counter() - began
    print(
        f"import, build and comparison, process start to end: {seconds:.1f} s; the build again: {again:.2f} s"
    )
    took = _stage_seconds(done.stderr)
    for what, stages in TIMED.items():
        print(f"  {what}: {sum(took[stage] for stage in stages):.1f} s (of all characters, added up)")
    for id_ in ids:
        page = workspace / "build" / id_ / "report.html"
        print(f"  {page.relative_to(workspace)}: {page.stat().st_size / 1e6:.2f} MB")
    wrong: list[str] = []
    total: Counter[str] = Counter()
    for who, systems in sorted(_raw(peer).items()):
        found = _verify(workspace / "build" / f"released-{who.casefold()}", systems, wrong)
        print(f"{who}: " + ", ".join(f"{count} {what}" for what, count in found.items()))
        total += found
    print("together: " + ", ".join(f"{count} {what}" for what, count in total.items()))
    print(f"not as in the files: {len(wrong)}" + "".join(f"\n  {each}" for each in wrong[:20]))
    for id_ in ids:
        _table(workspace / "build" / id_)
    return 1 if wrong else 0


def _stage_seconds(text: str) -> defaultdict[str, float]:
    took: defaultdict[str, float] = defaultdict(float)
    for stage, seconds in re.findall(r"(?m)^\S+/(\w+): done in ([\d.]+) s", text):
        took[stage] += float(seconds)
    return took


# --- The files themselves ------------------------------------------------------------------------------------------------


def _raw(peer: Path) -> dict[str, dict[str, Raw]]:
    """Return what the files hold, by character and system, read by the standard library alone."""
    found: dict[str, dict[str, Raw]] = {}
    for path in sorted((peer / "interview_single").glob("*.json")):
        who, _, system = path.stem.partition("_")
        entries = json.loads(path.read_bytes())
        single = [(each["question"], *_said(each["reply"])) for each in entries]
        found.setdefault(who, {})[system] = Raw(single, [])
    for path in sorted((peer / "interview_turns").glob("*.jsonl")):
        who, _, system = path.stem.partition("_")
        for line in path.read_bytes().split(b"\n"):
            if line.strip():
                each = json.loads(line)
                turns = [(turn["turn_role"], *_said(turn["turn_content"])) for turn in each["content"]]
                found[who][system].turns.append((each["topic"], turns))
    return found


def _said(reply: Any) -> tuple[list[str], bool]:
    """Return the words that were spoken, and whether the released programs say that they were cut off."""
    parts = reply if isinstance(reply, list) else [reply]
    spoken = " ".join(part["content"] for part in parts if "thinking" not in part["action"])
    return spoken.replace("<|NONSTOP|>", " ").split(), any("<|NONSTOP|>" in part["content"] for part in parts)


# --- What came of them -----------------------------------------------------------------------------------------------------


def _verify(view: Path, systems: dict[str, Raw], wrong: list[str]) -> Counter[str]:
    """Hold a build against the raw files, and return how much there is. What differs goes to `wrong`."""
    single = {
        (each["contestant"], each["text"]): each for each in _lines(view / "interviews" / "single.jsonl")
    }
    turns = {
        (each["contestant"], each["subject"]): each for each in _lines(view / "interviews" / "turns.jsonl")
    }
    measured = Counter((each["contestant"], each["kind"]) for each in _lines(view / "measures.jsonl"))
    counts: Counter[str] = Counter(systems=len(systems))
    for system, raw in systems.items():
        for question, words, cut in raw.single:
            record = single.pop((system, " ".join(question.split())), None)
            if record is None or not _same(words, record["answer"], cut, record["marks"]):
                wrong.append(f"{view.name}: {system}: {question[:60]}")
        for subject, asked in raw.turns:
            record = turns.pop((system, " ".join(subject.split())), None)
            spoken = [turn for turn in record["turns"] if turn["action"] == "speaking"] if record else []
            if len(spoken) != len(asked):
                wrong.append(f"{view.name}: {system}: {subject[:60]}: {len(spoken)} turns for {len(asked)}")
            for (role, words, cut), turn in zip(asked, spoken, strict=False):
                asks = turn["role"] == "Visitor"
                if asks != (role == "interviewer") or not _same(words, turn["content"], cut, turn["marks"]):
                    wrong.append(f"{view.name}: {system}: {subject[:60]}: {' '.join(words[:6])}")
        answers = sum(role == "character" for _, asked in raw.turns for role, _, _ in asked)
        counts += Counter(
            {
                "single answers": len(raw.single),
                "interviews": len(raw.turns),
                "answers in interviews": answers,
            }
        )
        for kind, there in (("single", len(raw.single)), ("turns", answers)):
            if measured[system, kind] != there:
                wrong.append(f"{view.name}: {system}: {measured[system, kind]} measured of {there} ({kind})")
    wrong += [f"{view.name}: not in the files: {key}" for key in [*single, *turns]]
    return counts


def _same(words: list[str], text: str, cut: bool, marks: list[str]) -> bool:
    """Whether a text has these words and no others, but for the names under which it speaks for somebody else."""
    if cut != ("cut-off" in marks):
        return False
    if text.split() == words or "wrong-speaker" not in marks:
        return text.split() == words
    # The names may stand in the file as roles, which the text then has as headers. So nobody's are compared.
    header = r"[^\s(]{1,60} \(speaking\):"
    return re.sub(header, "", text).split() == re.sub(header, "", " ".join(words)).split()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        if line:
            yield json.loads(line)


def _table(view: Path) -> None:
    """Print the judge-free metrics, a column for each system, as a table of Markdown."""
    from charforge.metrics import METRICS

    found = json.loads((view / "metrics.json").read_bytes())
    systems = [each["name"] for each in json.loads((view / "interviews" / "contestants.json").read_bytes())]
    print(f"\n| {view.name} | " + " | ".join(systems) + " |\n|---|" + "---|" * len(systems))
    for key, metric in METRICS.items():
        values = [found[system].get(key) for system in systems]
        if any(value is not None for value in values):
            unit = "" if metric.unit in {"share", "count", "words"} else f" ({metric.unit})"
            cells = [_cell(value, metric.unit) for value in values]
            print(f"| {metric.label}{unit} | " + " | ".join(cells) + " |")


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if unit == "share" else f"{value:.0f}" if unit == "count" else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
