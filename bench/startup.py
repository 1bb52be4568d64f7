"""Whole-process times of a build that has nothing to do: one character, a hundred, and `--help`.

    python bench/startup.py [--json]

Makes a workspace with 100 small characters, builds them with the scripted stand-in for models (charforge/testing/scripted.py), and
then times the real command, each figure as the median of several runs after a warm-up, interpreter start included. For
scale, in the same run: the bare interpreter, and a stat of every file that the builds stand on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from charforge import cli
from charforge.testing import MODEL, ScriptedWorkshop

COUNT = 100
RUNS = 9

SPEC = """\
charforge: 1
name: Person {n}
short_name: Person{n}
preset: smoke
profile: {{file: profiles/{id}.md}}
knows: {{until: 1852-11-27, never: [telephones]}}
generator: {{model: {model}, max_tokens: 600}}
interview: {{questions: questions/{id}.yaml, interviewer: {{model: {model}}}}}
judge: {{model: {model}}}
"""

QUESTIONS = """\
single:
  - {id: tutor, topic: past, question: Who taught you numbers?}
  - {id: friend, topic: relations, question: Whom do you write to most often?}
  - {id: poetry, topic: values, question: Is there poetry in a machine?}
  - {id: radio, topic: traps, question: Which radio station do you listen to?}
multi:
  - {id: m-work, topic: past, subject: The work of those years.}
"""

PARAGRAPHS = (
    "studied the drawings of the engine, counted its brass wheels and wrote long notes about every column",
    "rode horses across the heath in the morning, betted quietly with friends and lost large sums in autumn",
    "planned wings from silk and feathers, measured ravens and named the whole study in letters home",
    "met engineers, astronomers and novelists, danced until midnight and argued over logarithms with bankers",
    "lay ill behind curtains, translated an Italian memoir and dictated corrections to patient servants",
)


def make(root: Path) -> list[str]:
    """Write the specs of the hundred, and return their paths."""
    paths = []
    for n in range(COUNT):
        name = f"person-{n:03}"
        profile = "\n\n".join(
            f"In year {n} of the tale this person {text}. {{#p{i}}}" for i, text in enumerate(PARAGRAPHS)
        )
        head = (
            f"---\nname: Person {n}\nlicence: CC0-1.0\nsource: Made by a benchmark.\n---\n\n# Person {n}\n\n"
        )
        for folder, text in (("profiles", head + profile + "\n"), ("questions", QUESTIONS)):
            path = root / "characters" / folder / f"{name}.{'md' if folder == 'profiles' else 'yaml'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        spec = root / "characters" / f"{name}.yaml"
        spec.write_text(SPEC.format(n=n, id=name, model=MODEL), encoding="utf-8")
        paths.append(f"characters/{name}.yaml")
    return paths


def seconds(command: list[str], root: Path) -> float:
    """Return the median wall time of a command, after one run that does not count."""
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        paths = make(root)
        os.chdir(root)
        with (
            mock.patch("charforge.workshop.LocalWorkshop", return_value=ScriptedWorkshop()),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as said,
        ):
            for specs in (paths, paths, paths[:1]):
                if cli.main(["build", *specs]) != 0:
                    sys.exit(said.getvalue()[-2000:])
                # Receipts distrust files younger than the clock's grain; a person is never that quick.
                time.sleep(0.1)
        charforge = [sys.executable, "-m", "charforge"]
        files = [path for path in root.rglob("*") if path.is_file()]
        began = time.perf_counter()
        for path in files:
            path.stat()
        stat = time.perf_counter() - began
        heavy = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "charforge", "build", paths[0]],
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        result = {
            "interpreter alone": seconds([sys.executable, "-c", "pass"], root),
            "charforge --help": seconds([*charforge, "--help"], root),
            "nothing to do, 1 character": seconds([*charforge, "build", paths[0]], root),
            f"nothing to do, {COUNT} characters": seconds([*charforge, "build", *paths], root),
            f"stat of all {len(files)} files": stat,
        }
    found = [
        name
        for name in ("torch", "transformers", "litellm", "asyncio", "sqlite3", "yaml")
        if f" {name}\n" in heavy
    ]
    if args.json:
        print(json.dumps({"seconds": result, "heavy imports": found}, indent=2))
        return
    for name, value in result.items():
        print(f"{name:36} {value:8.3f} s")
    print(f"{'heavy imports of a null build':36} {', '.join(found) or 'none'}")


if __name__ == "__main__":
    main()
