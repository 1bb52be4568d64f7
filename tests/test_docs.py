"""The reference pages say what is so."""

from __future__ import annotations

import argparse
import operator
import re
import shlex
from functools import reduce
from pathlib import Path

import pytest

from charforge import safe_yaml, spec
from charforge.cli import parser
from charforge.pipeline import STAGES
from charforge.schema import schema_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def keys(node, path=()):
    """Yield each key of a spec that has a value of its own: its path, its schema, and whether it is required."""
    for key, child in node["properties"].items():
        if child.get("type") == "object":
            yield from keys(child, (*path, key))
        else:
            yield (*path, key), child, key in node.get("required", ())


@pytest.mark.parametrize(
    ("path", "schema", "required"),
    [pytest.param(*key, id=".".join(key[0])) for key in keys(schema_file("spec"))],
)
def test_the_spec_page_has_every_key_with_its_defaults_and_meaning(path, schema, required):
    name = ".".join(path)
    page = (DOCS / "spec.md").read_text(encoding="utf-8")
    rows = [
        re.split(r" (?<!\\)\| ", row.strip("| "))
        for row in page.splitlines()
        if row.startswith(f"| `{name}` |")
    ]
    assert len(rows) == 1, f"docs/spec.md needs one row for {name}"
    _, value, *defaults, meaning = rows[0]
    assert value
    assert meaning == schema["description"].replace("<", "\\<")
    for preset, cell in zip(spec.PRESETS, defaults, strict=True):
        if required:
            assert cell == "required"
        else:
            values = {"preset": preset, "knows": {"never": []}, **spec.preset_document(preset).value}
            assert safe_yaml.parse(cell.strip("`"), "").value == reduce(operator.getitem, path, values), (
                preset
            )


def test_the_spec_page_has_no_key_that_there_is_not():
    page = (DOCS / "spec.md").read_text(encoding="utf-8")
    known = {".".join(path) for path, _, _ in keys(schema_file("spec"))}
    assert set(re.findall(r"(?m)^\| `([a-z0-9_.-]+)` \|", page)) == known


def commands():
    return list(parser().commands.items())


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_the_cli_page_has_every_command_with_every_option(name, command):
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert page.count(f"\n## charforge {name}\n") == 1
    section = page.split(f"\n## charforge {name}\n")[1].split("\n## ")[0]
    usage = next(line for line in section.splitlines() if line.startswith(f"    charforge {name}"))
    options = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    for action in options:
        assert (action.option_strings[0] if action.option_strings else action.metavar) in usage
    rows = re.findall(r"(?m)^\| `(.*)` \| .+ \|$", section)
    assert rows == ["`, `".join(action.option_strings) for action in options if action.option_strings]


def test_the_cli_page_names_every_stage():
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert f"stop after this stage: {', '.join(STAGES[:-1])} or {STAGES[-1]} |" in page


# --- Commands in the pages ---------------------------------------------------------------------------------------------

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/cli.md",
    "docs/spec.md",
    "docs/endpoints.md",
    "docs/plan.md",
    "docs/recordings.md",
    "docs/lock.md",
    "docs/threats.md",
    "docs/store.md",
    "docs/diff.md",
    "docs/audit.md",
    "docs/attestations.md",
    "docs/exports.md",
    "docs/transcripts.md",
    "docs/questions.md",
    "docs/metrics.md",
    "docs/judge.md",
    "docs/statistics.md",
    "docs/report.md",
    "bench/RESULTS.md",
)
_COMMAND = re.compile(
    r"^\s*(?:\$ )?((?:charforge|make|python -m charforge\.versions|python bench/\S+)(?: .*)?)$"
)


def commands(page):
    """Return the command lines of a page's code blocks, without their comments."""
    inside = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif (inside or line.startswith("    ")) and (found := _COMMAND.match(line)):
            yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_page_is_one_we_have(page):
    found = list(commands(page))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in found:
        if words[0] == "charforge":
            if not any(word.startswith("[") for word in words):  # a line of usage, not a command
                parser().parse_args(words[1:])
        elif words[0] == "make":
            for goal in (word for word in words[1:] if "=" not in word):
                assert re.search(rf"^{goal}:", makefile, re.MULTILINE), f"{page}: make {goal}"
        elif words[1] != "-m":
            assert (ROOT / words[1]).is_file(), f"{page}: {words[1]}"
