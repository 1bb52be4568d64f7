"""What is told of whom a character is made after, and to whom: readers, and no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import pipeline, skeleton, spec
from charforge.commands.loading import NothingNew
from charforge.engine.digest import canonical
from charforge.engine.receipt import Stamps
from charforge.notice import about, about_answers

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("portrays", "notice", "card", "page"),
    [
        (None, None, "", ""),
        (None, "A joke.", "A joke.", "A joke."),
        ("fictional", None, "Ann is a character of fiction.", "Ann is a character of fiction."),
        (
            "historical",
            None,
            "Ann was a real person.",
            "Ann was a real person. None of the answers on this page is Ann's own.",
        ),
        (
            "living",
            "She was not asked.",
            "Ann is a real and living person. She was not asked.",
            "Ann is a real and living person. None of the answers on this page is Ann's own. She was not asked.",
        ),
    ],
)
def test_what_is_said(portrays, notice, card, page):
    assert about("Ann", portrays, notice) == card
    assert about_answers("Ann", portrays, notice) == page


def stages(path, *overrides):
    """Return what is in the digest of each stage's action, as bytes, but for its inputs of other stages."""
    found = spec.load(path, path.parents[1], overrides=overrides)
    made = pipeline.character(found, path.parents[1], NothingNew(), Stamps())
    return {
        stage.name: canonical(
            {
                "version": stage.version,
                "params": stage.params,
                "inputs": {
                    name: getattr(given, "digest", str(given)) for name, given in stage.inputs.items()
                },
            }
        )
        for stage in made.stages
    }


def test_no_stage_but_the_report_depends_on_it(tmp_path):
    path = skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]
    plain = stages(path, "portrays=null", "notice=null")
    told = stages(path, "portrays=living", "notice=Nobody was asked.")
    assert [name for name in plain if plain[name] != told[name]] == ["eliza/report"]
    assert len(plain) == len(pipeline.STAGES)


def test_of_the_character_that_comes_along_it_is_said():
    found = spec.load(ROOT / "characters" / "beethoven.yaml", ROOT)
    assert found.portrays == "historical"
