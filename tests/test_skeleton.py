"""`charforge new`: files that pass check, in place of nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from charforge import skeleton, spec
from charforge.check import check
from charforge.errors import CharForgeError

ROOT = Path(__file__).parents[1]


def test_a_new_character_passes_check_as_it_is(tmp_path):
    paths = skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "characters/eliza.yaml",
        "characters/profiles/eliza.md",
        "characters/written/eliza.md",
        "characters/questions/eliza.yaml",
    ]
    assert len(check(paths[0], tmp_path).facts) == 5
    assert all("$" not in path.read_text().replace("$schema", "") for path in paths)


def test_the_first_line_names_the_schema_where_it_lies(tmp_path):
    bare, checkout = tmp_path / "bare", tmp_path / "checkout"
    (checkout / "charforge").mkdir(parents=True)
    (checkout / "charforge" / "spec.schema.json").write_text("{}")
    assert (
        skeleton.write(bare, "eliza", "Eliza", "Eliza")[0]
        .read_text()
        .startswith("# yaml-language-server: $schema=spec.schema.json\n")
    )
    assert (
        skeleton.write(checkout, "eliza", "Eliza", "Eliza")[0]
        .read_text()
        .startswith("# yaml-language-server: $schema=../charforge/spec.schema.json\n")
    )


@pytest.mark.parametrize("which", ["new", "beethoven"])
def test_what_is_left_to_the_preset_is_shown_as_it_is(tmp_path, which):
    """The example's lines behind a bare '#' say what the laptop preset says, and do not make the smoke build large."""
    path = skeleton.write(tmp_path, "eliza", "Eliza", "Eliza")[0]
    if which == "beethoven":
        shutil.copytree(ROOT / "characters", path.parent, dirs_exist_ok=True)
        path = path.with_name("beethoven.yaml")
    text = path.read_text(encoding="utf-8")
    plain = {preset: spec.load(path, tmp_path, preset=preset).resolved() for preset in spec.PRESETS}
    shown = re.sub(r"(?m)^#(?=[a-z]|  [a-z])", "", text)
    assert shown.count("\n#") < text.count("\n#") - 8
    path.write_text(shown, encoding="utf-8")
    assert spec.load(path, tmp_path).resolved() == plain["laptop"]
    for preset in spec.PRESETS:
        defaults = spec.preset_document(preset).value
        for section in set(defaults) - {"written", "portrays", "notice"}:
            assert {**plain[preset][section], **defaults[section]} == plain[preset][section]


@pytest.mark.parametrize(
    "name", ["True", "Null", "1984", "O'Neill", "Dr. No: #1", '"Q"', "- x", "Å", "*star", "a $name"]
)
def test_a_name_that_yaml_would_misread_is_quoted(tmp_path, name):
    short = name.replace(":", "")
    path = skeleton.write(tmp_path, "x", name, short)[0]
    found = spec.load(path, tmp_path)
    assert (found.name, found.short_name) == (name, short)


def test_nothing_is_overwritten_and_nothing_is_half_written(tmp_path):
    mine = tmp_path / "characters" / "written" / "eliza.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(CharForgeError) as caught:
        skeleton.write(tmp_path, "eliza", "Eliza", "Eliza")
    assert caught.value.render() == (
        "error: characters/written/eliza.md: there already\nhint: choose another id, or move the old files away"
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_what_the_disk_refuses_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "characters").mkdir()
    (tmp_path / "characters" / "written").write_text("in the way")
    with pytest.raises(CharForgeError) as caught:
        skeleton.write(tmp_path, "eliza", "Eliza", "Eliza")
    assert caught.value.render() == "error: characters/written/eliza.md cannot be written: File exists"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["written"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            ("../x", "Eliza", "Eliza"),
            (
                "error: expected an id such as ludwig-van-beethoven, got '../x'\n"
                "hint: the id is the spec's file name: small letters, digits and '-', at most 64"
            ),
        ),
        (
            ("eliza", "Eliza\nD", "Eliza"),
            "error: name: expected a name of 1 to 200 printable characters on one line, without < > |, got 'Eliza\\nD'",
        ),
        (
            ("eliza", "Eliza", "E (x)"),
            "error: short_name: expected a name of 1 to 60 printable characters on one line, without < > | ( ) :, got 'E (x)'",
        ),
        (("eliza", "E\u202e", "Eliza"), "error: expected a name that prints, got 'E\\u202e'"),
    ],
)
def test_an_id_or_name_that_cannot_be_used_is_refused(tmp_path, given, error):
    with pytest.raises(CharForgeError) as caught:
        skeleton.write(tmp_path, *given)
    assert caught.value.render() == error
    assert list(tmp_path.iterdir()) == []
