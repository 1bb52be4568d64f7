"""How long a report takes and how large it is: 100 answers and 20 interviews of four contestants, and larger ones.

    python bench/evaluation_report.py [--json] [--out FILE]

The evaluation is made up (charforge/testing/evaluations.py), in real sizes: 70 words an answer, five turns an interview, every answer graded
in all dimensions. `cold` is a new process that builds one report, matplotlib's import and its first font included; `warm` the median
of five more. Where Chromium is installed, the page is opened, and its console's errors and requests are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from charforge.testing import browser
from charforge.testing.evaluations import evaluation

SIZES: dict[str, dict[str, Any]] = {
    "laptop": {"contestants": 4, "single": 100, "multi": 20, "dialogues": 80},
    "eight contestants": {"contestants": 8, "single": 100, "multi": 20, "dialogues": 80},
    "paper's data set": {"contestants": 4, "single": 100, "multi": 20, "dialogues": 1600},
    "prompted only": {"contestants": 4, "single": 100, "multi": 20, "dialogues": 0},
}


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="keep the laptop's page here")
    parser.add_argument("--one", choices=SIZES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(SIZES[args.one], args.out)))
        return 0
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SIZES:
            page = Path(folder) / "report.html"
            command = [sys.executable, __file__, "--one", name, "--out", str(page)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[name] = json.loads(done.stdout) | opened(page)
            if args.out and name == "laptop":
                args.out.write_bytes(page.read_bytes())
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'report':<20}{'cold s':>8}{'warm s':>8}{'MB':>7}{'console errors':>16}{'requests':>10}")
    for name, row in rows.items():
        print(
            f"{name:<20}{row['cold']:>8.2f}{row['warm']:>8.2f}{row['bytes'] / 1e6:>7.2f}"
            f"{row['errors'] if row['errors'] is not None else 'no Chromium':>16}"
            f"{row['requests'] if row['requests'] is not None else '':>10}"
        )
    return 0


def measure(size: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return seconds of the first report in this process and of later ones, and the page's bytes; write the page."""
    records = evaluation(**size)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        from charforge.stages import report

        html, _ = report.build(**records)
        seconds.append(time.perf_counter() - started)
    out.write_text(html, encoding="utf-8")
    return {"cold": seconds[0], "warm": statistics.median(seconds[1:]), "bytes": len(html.encode())}


def opened(page: Path) -> dict[str, int | None]:
    """Return how many errors a page has on the console and how many requests it makes, itself not counted."""
    if browser.find() is None:
        return {"errors": None, "requests": None}

    async def look() -> dict[str, int | None]:
        async with browser.Browser() as chromium, chromium.tab(page.as_uri()) as tab:
            return {"errors": len(tab.complaints), "requests": len(tab.requests) - 1}

    return asyncio.run(look())


if __name__ == "__main__":
    sys.exit(main())
