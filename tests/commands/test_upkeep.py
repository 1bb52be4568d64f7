"""`charforge check`, `schema`, `new` and `gc`."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest


def test_check_says_what_was_found(run, eliza):
    assert eliza.is_file()
    assert run("check", "eliza") == (
        0,
        (
            "eliza: ok\n"
            "  characters/eliza.yaml: Eliza Doolittle, preset laptop\n"
            "  characters/eliza.yaml: portrays historical, knows until 1900-01-01\n"
            "  characters/profiles/eliza.md: 5 paragraphs, 114 words\n"
            "  characters/written/eliza.md: 1 dialogue, 1 protective, 157 words\n"
            "  characters/questions/eliza.yaml: 8 questions (past 2, relations 2, values 2, traps 2), "
            "2 multi-turn subjects\n"
            "  cost from nothing: local, ~205 calls, 159k tokens in, 10.1k out\n"
            "  unfinished: characters/eliza.yaml:27: knows.until: the boundary is still the skeleton's\n"
            "    27 |   until: 1900-01-01                 # year-month-day\n"
            "  hint: write the last day of which the character can know, and what came later\n"
            "  unfinished: characters/profiles/eliza.md:4: the source is still the skeleton's\n"
            "    4 | source: Say where the facts are from.\n"
            "  hint: say where the facts are from: books, archives, an encyclopaedia and its date\n"
            "  unfinished: characters/profiles/eliza.md:11: this is still the skeleton's text (and 4 more like it)\n"
            "    11 | Write here where and when Eliza was born, who the parents were and how they lived. Facts are better than "
            "judgements: na…\n"
            "  hint: write what is known of the person\n"
            "  unfinished: characters/written/eliza.md:6: this dialogue is still the skeleton's (and 1 more like it)\n"
            "    6 | ## A visitor at the door {#first-visitor}\n"
            "  hint: write your own, from the profile\n"
            "  note: characters/questions/eliza.yaml: single: few questions on a topic: past 2, relations 2, values 2, "
            "traps 2\n"
            "  hint: with fewer than 4 a topic's mean says little; ten are good\n"
        ),
        "",
    )
    assert not (eliza.parents[1] / ".charforge").exists()


def test_check_strict_refuses_what_is_unfinished(run, eliza):
    assert eliza.is_file()
    status, out, err = run("check", "eliza", "--strict")
    assert (status, out) == (1, "")
    assert err.startswith(
        "error: characters/eliza.yaml:27: knows.until: the boundary is still the skeleton's\n"
    )


def test_check_says_what_a_character_costs_of_whom_paid_models_are_asked(run, eliza):
    assert eliza.is_file()
    (line,) = (line for line in run("check", "eliza", "--preset", "paper")[1].splitlines() if "cost" in line)
    assert re.fullmatch(
        r"  cost from nothing: \$\d+\.\d\d / \$\d+\.\d\d / \$\d+\.\d\d \(low / expected / high\), ~[\d,]+ calls, .*",
        line,
    )
    (line,) = (
        line
        for line in run("check", "eliza", "--set", "judge.model=some/thing")[1].splitlines()
        if "cost" in line
    )
    assert line.startswith("  cost from nothing: unknown for some/thing, ~")


def test_check_tells_every_problem_of_every_character(run, eliza, edit):
    eliza.with_name("ada.yaml").write_text(eliza.read_text())
    edit(eliza, "preset: laptop", "preset: lapto")
    edit(eliza.parent / "profiles" / "eliza.md", "licence: CC0-1.0\n", "")
    status, out, err = run("check", "ada", "eliza", "--set", "judge.limit=-1", "--preset", "smoke")
    assert (status, out) == (1, "")
    assert err == (
        "error: --set judge.limit=-1: judge.limit: expected a whole number of at least 0 or null, got -1\n\n"
        "error: characters/eliza.yaml:13: preset: expected one of laptop, smoke, paper, got 'lapto'\n"
        "  13 | preset: lapto                      # laptop: minutes; smoke: seconds; paper: the "
        "paper's figures, on GPUs\nhint: did you mean 'laptop'?\n\n"
        "error: characters/profiles/eliza.md:4: the front matter has no 'licence'\n  4 | ---\n"
        "hint: begin the file with '---', the lines 'name: …', 'licence: …' and 'source: …', and '---'\n"
    )


def test_check_of_one_good_and_one_bad_character_reports_both(run, eliza):
    eliza.with_name("ada.yaml").write_text("charforge: 1\n- x\n")
    status, out, err = run("check", "ada", "eliza")
    assert (status, out.splitlines()[0]) == (1, "eliza: ok")
    assert err == (
        "error: characters/ada.yaml:2: not valid YAML: did not find expected key\n  2 | - x\n"
        if "expected key" in err
        else "error: characters/ada.yaml:2: not valid YAML: did not find expected '-' indicator\n  2 | - x\n"
    )


def test_the_schema_is_printed_whole(run):
    status, out, err = run("schema")
    assert (status, err) == (0, "")
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == "CharForge character"


def test_a_new_character_passes_check(run, tmp_path):
    assert run("new", "ada-lovelace") == (
        0,
        (
            "characters/ada-lovelace.yaml\n"
            "characters/profiles/ada-lovelace.md\n"
            "characters/written/ada-lovelace.md\n"
            "characters/questions/ada-lovelace.yaml\n"
        ),
        "next: edit them, then charforge check ada-lovelace, and charforge build ada-lovelace\n",
    )
    text = (tmp_path / "characters" / "ada-lovelace.yaml").read_text()
    assert "\nname: Ada Lovelace\nshort_name: Lovelace " in text
    assert run("check", "ada-lovelace")[0] == 0


def test_new_takes_the_names_it_is_given(run, tmp_path):
    assert run("new", "b", "--name", "Ludwig van Beethoven", "--short-name", "Ludwig")[0] == 0
    assert (
        "\nname: Ludwig van Beethoven\nshort_name: Ludwig "
        in (tmp_path / "characters" / "b.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            ["eliza"],
            (
                "error: characters/eliza.yaml, characters/profiles/eliza.md, characters/written/eliza.md, "
                "characters/questions/eliza.yaml: there already\nhint: choose another id, or move the old files away\n"
            ),
        ),
        (
            ["Ada Lovelace"],
            (
                "error: expected an id such as ludwig-van-beethoven, got 'Ada Lovelace'\n"
                "hint: the id is the spec's file name: small letters, digits and '-', at most 64\n"
            ),
        ),
        (
            ["ada", "--name", ""],
            "error: name: expected a name of 1 to 200 printable characters on one line, without < > |, got ''\n",
        ),
        (
            ["ada", "--name", " "],
            "error: name: expected a name of 1 to 200 printable characters on one line, without < > |, got ' '\n",
        ),
    ],
)
def test_new_overwrites_nothing_and_takes_no_impossible_name(run, eliza, argv, error):
    before = eliza.read_text()
    assert run("new", *argv) == (1, "", error)
    assert eliza.read_text() == before


def test_gc_without_a_store_says_where_to_run_it(run):
    assert run("gc") == (
        1,
        "",
        "error: no store here: .charforge/\nhint: run gc in the folder above characters/\n",
    )


def test_gc_removes_what_no_spec_reaches_any_more(run, eliza, edit):
    run("build", "eliza", "--to", "written")
    assert run("gc") == (0, "nothing to remove\n", "")
    edit(eliza.parent / "written" / "eliza.md", "one evening in winter", "one evening in spring")
    run("build", "eliza", "--to", "written")
    status, out, err = run("gc", "-n")
    assert (status, err) == (0, "")
    assert out.startswith("would remove 1 actions and ")
    assert run("gc")[1] == out.replace("would remove", "removed")
    assert run("gc") == (0, "nothing to remove\n", "")
    assert run("build", "eliza", "--to", "written")[1] == "eliza: up to date, 2 stages\n"


def test_gc_keeps_everything_while_a_spec_cannot_be_read(run, eliza, edit):
    run("build", "eliza", "--to", "written")
    edit(eliza, "preset: laptop", "preset: lapto")
    status, out, err = run("gc")
    assert (status, out) == (1, "")
    assert err.startswith(
        "error: characters/eliza.yaml:13: preset: expected one of laptop, smoke, paper, got 'lapto'\n"
    )


def test_gc_knows_a_spec_that_lies_beside_the_store(run, eliza, tmp_path):
    flat = tmp_path / "flat"
    eliza.parent.rename(flat)
    (flat / "docs.yaml").write_text("not: a spec\n")
    assert run("build", "flat/eliza.yaml", "--to", "written")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(flat)
        assert run("gc") == (0, "nothing to remove\n", "")


def test_gc_refuses_to_remove_everything(run, eliza):
    run("build", "eliza", "--to", "written")
    eliza.rename(eliza.with_suffix(".away"))
    assert run("gc") == (
        1,
        "",
        "error: no spec and no lock file here: everything would go\nhint: remove .charforge/ if you mean that\n",
    )


def test_check_reads_neither_base_weights_nor_large_data_for_its_estimate(run, eliza, edit, monkeypatch):
    models = eliza.parents[1] / "models" / "mine"
    models.mkdir(parents=True)
    (models / "config.json").write_text("{}")
    (eliza.parent / "p.jsonl").write_text('{"prompt": "a", "output": "b<|eot|>"}\n')
    monkeypatch.setattr("charforge.sources.Sources.data", None)
    edit(eliza, "#train:\n", "train: {base_model: ../models/mine, data: {prompted: ./p.jsonl}}\n")
    status, out, err = run("check", "eliza")
    assert (status, err) == (0, "")
    assert "  characters/p.jsonl: 1 sample\n  cost from nothing: local, ~" in out


def test_check_tells_what_keeps_it_from_an_estimate_beside_everything_else(run, eliza, monkeypatch):
    (eliza.parents[1] / "endpoints.toml").write_text("[")
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", str(eliza.parents[1] / "endpoints.toml"))
    status, out, err = run("check", "eliza")
    assert (status, out) == (1, "")
    assert err.startswith("error: ~/endpoints.toml: not TOML: ")
