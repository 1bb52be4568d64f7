"""Findings as data: verdicts, and what a level's comes to."""

import pytest

from charforge.audit.finding import (
    BIT_IDENTICAL,
    DIVERGENT,
    METRIC_EQUIVALENT,
    NOT_CHECKABLE,
    Difference,
    Finding,
    Level,
    Result,
)


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([], NOT_CHECKABLE),
        ([BIT_IDENTICAL], BIT_IDENTICAL),
        ([BIT_IDENTICAL, METRIC_EQUIVALENT], METRIC_EQUIVALENT),
        ([METRIC_EQUIVALENT, NOT_CHECKABLE, BIT_IDENTICAL], NOT_CHECKABLE),
        ([NOT_CHECKABLE, DIVERGENT, BIT_IDENTICAL], DIVERGENT),
    ],
)
def test_a_level_is_what_its_worst_stage_is(verdicts, together):
    level = Level("replay", [Result(f"stage{n}", verdict) for n, verdict in enumerate(verdicts)])
    assert level.verdict == together
    assert Finding("ada", "0" * 64, [level]).verdict == together


def test_an_audit_without_levels_proves_nothing():
    assert Finding("ada", "0" * 64, []).verdict == NOT_CHECKABLE


def test_a_finding_as_json():
    difference = Difference("output scenes.jsonl", "line 3 differs", "1" * 64, "2" * 64, {"number": 3})
    level = Level(
        "replay",
        [Result("scenes", DIVERGENT, 4, [difference]), Result("model", NOT_CHECKABLE, why="no weights")],
        {"replies": 5},
    )
    assert Finding("ada", "0" * 64, [level], {"python": "3"}).as_json() == {
        "charforge_audit": 1,
        "character": "ada",
        "lock": "0" * 64,
        "verdict": "divergent",
        "levels": {
            "replay": {
                "verdict": "divergent",
                "counts": {"not checkable": 1, "divergent": 1},
                "facts": {"replies": 5},
                "stages": {
                    "scenes": {
                        "verdict": "divergent",
                        "checked": 4,
                        "why": None,
                        "differences": [
                            {
                                "what": "output scenes.jsonl",
                                "said": "line 3 differs",
                                "expected": "1" * 64,
                                "found": "2" * 64,
                                "record": {"number": 3},
                            }
                        ],
                    },
                    "model": {
                        "verdict": "not checkable",
                        "checked": 0,
                        "why": "no weights",
                        "differences": [],
                    },
                },
            }
        },
        "environment": {"python": "3"},
    }
