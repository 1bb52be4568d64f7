"""The hand-labelled answers are sound, and the rules about knowing too much agree with the part they were not written by."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("evaluation_traps", ROOT / "bench" / "evaluation_traps.py")
evaluation = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = evaluation
_SPEC.loader.exec_module(evaluation)

KEYS = {
    "id", "person", "short_name", "until", "never", "question", "topic", "answer", "claims_unknown",
    "knows_own_death", "source",
}  # fmt: skip


@pytest.mark.parametrize("part", evaluation.PARTS)
def test_records_are_well_formed_and_balanced(part):
    gold = evaluation.records(part)
    for one in gold:
        assert KEYS <= one.keys() <= KEYS | {"note"}
        assert one["topic"] in ("past", "relations", "values", "traps")
        assert one["answer"].strip()
        assert one["question"].endswith((".", "?"))
        assert re.fullmatch(r"-?\d{4}-\d\d-\d\d", one["until"])
        assert one["source"] == "written" or one["source"].startswith("model:")
        assert type(one["knows_own_death"]) is bool
        assert type(one["claims_unknown"]) is bool or (one["topic"] != "traps" and one["knows_own_death"])
    for flag in evaluation.FLAGS:
        labels = Counter(one[flag] for one in gold)
        assert labels[True] >= 40
        assert labels[False] >= 60


def test_no_answer_is_twice_and_the_parts_share_no_person_and_no_question():
    parts = [evaluation.records(part) for part in evaluation.PARTS]
    every = [one for part in parts for one in part]
    for unique in (lambda one: one["id"], lambda one: (one["person"], one["question"], one["answer"])):
        assert len({unique(one) for one in every}) == len(every)
    for one_part, other in combinations(parts, 2):
        for key in ("person", "question"):
            assert not {one[key] for one in one_part} & {one[key] for one in other}


def test_released_answers_are_named_without_their_text():
    lines = (ROOT / "bench" / "gold_released.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    places = [(row["file"], row.get("index"), row.get("line"), row.get("turn")) for row in rows]
    assert len(set(places)) == len(rows)
    for row in rows:
        assert all(re.fullmatch(r"[0-9a-f]{64}", row[key]) for key in ("sha256", "question_sha256"))
        assert max(len(value) for value in row.values() if isinstance(value, str)) == 64
        assert (row["claims_unknown"] is None) == (row["topic"] != "traps")


# (precision, recall) that docs/metrics.md owns up to. The aim was 0.9 each; who reaches it raises these.
OWNED_UP_TO = {"claims_unknown": (0.71, 0.68), "knows_own_death": (0.78, 0.41)}


@pytest.mark.parametrize("flag", evaluation.FLAGS)
def test_rules_do_on_answers_they_were_not_written_by_what_the_docs_say(flag):
    judged = evaluation.judge(evaluation.records("held_out"))
    counts = evaluation.Counts.of(one for one in judged if one.flag == flag)
    precision, recall = OWNED_UP_TO[flag]
    assert counts.precision >= precision
    assert counts.recall >= recall


def test_a_missing_part_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests" / "gold").mkdir(parents=True)
    monkeypatch.setattr(evaluation, "GOLD", tmp_path / "tests" / "gold")
    assert evaluation.main(["--part", "held_out"]) == 1
    assert "the part held_out is missing" in capsys.readouterr().err


def test_intervals_are_exact():
    assert evaluation.interval(0, 10) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert evaluation.interval(10, 10) == (pytest.approx(0.6915, abs=1e-4), 1.0)
    assert evaluation.interval(5, 10) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))


def test_command_names_the_misjudged_only(capsys):
    assert evaluation.main(["--part", "dev"]) == 0
    printed = capsys.readouterr().out
    assert "claims_unknown: 168 labels" in printed
    assert not any(one["answer"] in printed for one in evaluation.records("dev") if len(one["answer"]) > 20)
