"""The page on threats names tests that there are, and all of these here."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_every_test_that_the_page_names_is_there():
    gone = []
    for file, test in NAMED:
        path = ROOT / file
        if not path.is_file() or not re.search(
            rf"(?m)^(async )?def {test}\(", path.read_text(encoding="utf-8")
        ):
            gone.append(f"{file}::{test}")
    assert gone == []


def test_every_row_names_a_test():
    rows = [
        row for row in PAGE.splitlines() if row.startswith("| ") and not row.startswith("| what is tried")
    ]
    assert len(rows) > 40
    assert [row for row in rows if "::test_" not in row.rpartition(" | ")[2]] == []


def test_every_file_of_threats_is_on_the_page():
    files = {f"tests/threats/{path.name}" for path in Path(__file__).parent.glob("test_*.py")} - {
        "tests/threats/test_table.py"
    }
    assert files <= {file for file, _ in NAMED}
