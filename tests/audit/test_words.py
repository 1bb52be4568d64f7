"""A finding in words: whole texts, as an auditor reads them."""

import pytest

from charforge.audit import words
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

FACTS = {"blobs": 68, "bytes": 546_475_744, "replies": 1755}


def finding(*levels):
    return Finding("eliza", "0" * 64, list(levels))


def text(*levels):
    found = finding(*levels)
    return "\n".join([*map(words.level_line, found.levels), *words.report(found)])


def test_a_whole_audit_that_found_nothing_wrong():
    both = [Result("scenes", BIT_IDENTICAL, 3), Result("model", BIT_IDENTICAL, 3)]
    assert (
        text(
            Level("integrity", both, FACTS),
            Level("derivation", both),
            Level("replay", both[:1], {"variation": ["time zone", "path"]}),
        )
        == """\
integrity   bit-identical      2 stages (68 blobs of 546.5 MB, 1,755 replies)
derivation  bit-identical      2 stages
replay      bit-identical      1 stage (under another time zone, path)

Proven:
  Integrity: every byte that the lock names of all 2 stages is here, and is what its name says.
  Derivation: spec, profile, prompts and code of this checkout derive all 2 stages as the lock says.
  Replay: run again from the recorded replies, without key and network, scenes gave the same bytes.
Not proven:
  That the weights come of this training set: --level retrain trains them again.
  That a model ever gave the recorded replies: for that, whoever recorded them is to be trusted."""
    )


def test_what_differs_and_what_is_missing():
    assert (
        text(
            Level(
                "integrity",
                [Result("scenes", BIT_IDENTICAL, 3), Result("model", NOT_CHECKABLE, 1, why="not here: output weights/")],
                FACTS,
            ),
            Level(
                "replay",
                [
                    Result("scenes", BIT_IDENTICAL, 3),
                    Result("dialogues", DIVERGENT, 3, [Difference("output dialogues.jsonl", "line 3: I sang. → I \x1b[31msat.")]),
                ],
            ),
        )
        == """\
integrity   not checkable      2 stages: 1 bit-identical, 1 not checkable (68 blobs of 546.5 MB, 1,755 replies)
replay      divergent          2 stages: 1 bit-identical, 1 divergent

The first difference: dialogues, replay: line 3: I sang. → I \\x1b[31msat.

integrity:
  model: not checkable: not here: output weights/

replay (what the lock names → what came out):
  dialogues: divergent
    line 3: I sang. → I \\x1b[31msat.

Proven:
  Integrity: every byte that the lock names of scenes is here, and is what its name says.
  Replay: run again from the recorded replies, without key and network, scenes gave the same bytes.
Not proven:
  Integrity of model: could not be checked.
  Replay of dialogues: not what the lock says.
  Derivation: was not asked for (--level derivation).
  That the weights come of this training set: --level retrain trains them again.
  That a model ever gave the recorded replies: for that, whoever recorded them is to be trusted."""
    )  # fmt: skip


def test_nothing_at_all_is_proven_by_nothing():
    lines = list(words.report(finding(Level("replay", []))))
    assert lines[1:3] == ["Proven:", "  nothing"]


def test_other_weights_of_the_same_quality():
    level = Level(
        "retrain",
        [Result("model", METRIC_EQUIVALENT, 4)],
        {"epsilon": 0.02, "held_out_loss": {"lock": 3.4, "here": 3.41}},
    )
    assert words.level_line(level) == "retrain     metric-equivalent  1 stage (epsilon 0.02 nats a token)"
    assert (
        "  Retrain: trained again, model gave other weights of the same quality: held-out loss within 0.02 nats a token."
        in words.report(finding(level))
    )


def test_the_first_difference_is_the_one_nearest_to_the_sources():
    profile, report = (
        Result("profile", DIVERGENT, 1, [Difference("input", "of profile")]),
        Result("report", DIVERGENT, 1, [Difference("blob", "of report")]),
    )
    level, result, difference = words.first_difference(
        finding(
            Level("integrity", [Result("profile", BIT_IDENTICAL, 1), report]),
            Level("derivation", [profile, Result("report", BIT_IDENTICAL, 1)]),
        )
    )
    assert (level.name, result.stage, difference.said) == ("derivation", "profile", "of profile")


def test_of_many_differences_ten_are_printed():
    many = [Difference("blob", f"number {n}") for n in range(15)]
    lines = list(words.report(finding(Level("integrity", [Result("scenes", DIVERGENT, 15, many)], FACTS))))
    assert sum(line.startswith("    number") for line in lines) == 10
    assert "    and 5 more (--json tells them all)" in lines


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (10**10, "10.0 GB")]
)  # fmt: skip
def test_sizes(count, said):
    assert words.size(count) == said


def test_stages_that_lack_the_same_are_told_together():
    missing = [Result(kind, NOT_CHECKABLE, why="not here: its outputs") for kind in ("scenes", "dialogues")]
    other = Result("model", NOT_CHECKABLE, why="not here: output weights/")
    lines = list(words.report(finding(Level("integrity", [missing[0], other, missing[1]], FACTS))))
    assert lines[1:4] == [
        "integrity:",
        "  scenes, dialogues: not checkable: not here: its outputs",
        "  model: not checkable: not here: output weights/",
    ]
    assert "  Integrity of all 3 stages: could not be checked." in lines


def test_what_is_not_here_but_was_made_again_is_told_apart():
    missing = [Result(kind, NOT_CHECKABLE, why="not here: its outputs") for kind in ("scenes", "model")]
    again = [Result("scenes", BIT_IDENTICAL, 3)]
    lines = list(words.report(finding(Level("integrity", missing, FACTS), Level("replay", again))))
    assert lines[-5:-3] == [
        "  Integrity of model: could not be checked.",
        "  Integrity of scenes: not everything is here; but the replay gave the same bytes.",
    ]
