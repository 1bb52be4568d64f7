"""What a model or a stranger wrote is text wherever it goes: no template, no markup, no formula, no code for a terminal."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import charforge
from charforge.files import visible
from charforge.templates import render

PACKAGE = Path(charforge.__file__).parent


@cache
def parsed():
    """Return each module of the package with the parts of it that say something here."""
    wanted = ast.Attribute | ast.Import | ast.ImportFrom | ast.Call
    trees = ((path, ast.parse(path.read_bytes())) for path in sorted(PACKAGE.rglob("*.py")))
    return [(path, [node for node in ast.walk(tree) if isinstance(node, wanted)]) for path, tree in trees]


@pytest.mark.parametrize(
    "text", ["{{ 7 * 7 }}", "{% for a in b %}", "{# #}", "{{ self }}", "{% raw %}", "\n# for x in y\n"]
)
def test_a_value_is_never_a_template(text):
    once = render("<{{ value }}|{{ items | join(', ') }}>", "x.j2", value=text, items=[text])
    assert once == f"<{text}|{text}>"


def test_nothing_here_writes_csv():
    """A cell that begins with '=' is a formula to a spreadsheet. What is exported is JSON, Markdown or HTML."""
    writers = []
    for path, nodes in parsed():
        for node in nodes:
            if isinstance(node, ast.Attribute) and node.attr in {
                "writer",
                "DictWriter",
                "to_csv",
                "to_excel",
            }:
                value = node.value
                if node.attr.startswith("to_") or (isinstance(value, ast.Name) and value.id == "csv"):
                    writers.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert writers == []


@pytest.mark.parametrize(
    "code",
    ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\r", "\b", "\u202e", "\u2066", "\x7f", "\ud800", "\U000e0041"],
)
def test_no_code_for_a_terminal_is_shown(code):
    shown = visible(f"a{code}b")
    assert shown.isprintable()
    assert code not in shown
    shown.encode()


def test_nothing_here_runs_what_it_reads():
    """No eval, exec, pickle, marshal, shelve, and no YAML loader that makes objects; torch.load takes tensors only."""
    found = []
    for path, nodes in parsed():
        for node in nodes:
            where = f"{path.relative_to(PACKAGE).as_posix()}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                found += [
                    f"{where} {name}"
                    for name in names
                    if name in {"pickle", "marshal", "shelve", "dill", "joblib"}
                ]
            if not isinstance(node, ast.Call):
                continue
            options = {option.arg: option.value for option in node.keywords}
            called = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            if called in {
                "eval",
                "exec",
                "os.system",
                "os.popen",
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
            }:
                found.append(f"{where} {called}")
            shell = options.get("shell")
            if isinstance(shell, ast.Constant) and shell.value:
                found.append(f"{where} a shell")
            trust = options.get("trust_remote_code")
            if trust is not None and not (isinstance(trust, ast.Constant) and trust.value is False):
                found.append(f"{where} trust_remote_code")
            if called == "torch.load":
                only = options.get("weights_only")
                if not (isinstance(only, ast.Constant) and only.value is True):
                    found.append(f"{where} torch.load")
    assert found == []
