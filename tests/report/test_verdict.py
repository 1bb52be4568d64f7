"""The answer at the top claims no more than intervals, exams and equal length allow."""

from __future__ import annotations

import pytest

from charforge.report.people import people
from charforge.report.verdict import verdict

NAMES = ("trained", "base", "openai/other")


def everyone(*names, reference="trained"):
    kinds = {"trained": "trained", "base": "base"}
    return people(
        [
            {"name": n, "kind": kinds.get(n, "prompted"), "model": n, "reference": n == reference}
            for n in names
        ],
        "Anna",
    )


def difference(mean, low, high, length=None):
    equal = (
        None if length is None else dict(zip(("mean", "low", "high", "slope"), (*length, 0.1), strict=True))
    )
    return {"mean": mean, "low": low, "high": high, "decided": low > 0 or high < 0, "length": equal}


UP, DOWN, OPEN = difference(1.0, 0.5, 1.5), difference(-1.0, -1.5, -0.5), difference(0.1, -0.5, 0.7)


def told(
    names=("trained", "base"),
    *,
    usable=True,
    passed=True,
    metrics=None,
    pairwise=None,
    overall=None,
    **dimensions,
):
    """`dimensions`: of each a difference, or one for every other contestant; `overall`: that of the first unless given."""
    others = [name for name in names if name != "trained"]
    rows = {
        d: v if "base" in v or "openai/other" in v else dict.fromkeys(others, v)
        for d, v in dimensions.items()
    }
    statistics = {
        "judges": {"judge": {"passed": passed}},
        "usable": usable,
        "scores": {d: {n: {"scored": 9} for n in names} for d in rows},
        "differences": rows,
        "overall": dict.fromkeys(others, overall) if overall else next(iter(rows.values()), {}),
        "pairwise": pairwise or {},
        "metric_differences": metrics or {},
    }
    return verdict(everyone(*names), statistics, {"judges": {"judge": {}}}, "Anna")


def test_better_where_the_whole_is_decided_for_it():
    found = told(values=UP, memorization=OPEN)
    assert found["state"] == "yes"
    assert found["answer"] == "Yes. The trained Anna was judged better than Base model, prompted."
    assert found["why"] == [
        "Judged against Base model, prompted: better over all dimensions. One by one: better in values; no difference to be told in memorization."
    ]


def test_worse_where_the_whole_is_decided_against_it():
    found = told(values=DOWN, memorization=OPEN)
    assert (found["state"], found["answer"]) == (
        "no",
        "No. The trained Anna was judged worse than Base model, prompted.",
    )


def test_a_dimension_against_the_whole_is_partly():
    found = told(values=DOWN, memorization=UP)
    assert found["state"] == "partly"
    assert (
        found["answer"]
        == "Partly. The trained Anna is better in some ways and worse in others than Base model, prompted."
    )


def test_each_other_contestant_counts_for_itself():
    found = told(NAMES, values={"base": UP, "openai/other": OPEN})
    assert (
        found["answer"]
        == "Partly. The trained Anna is judged better than Base model, prompted; not to be told from openai/other."
    )


def test_an_interval_over_zero_tells_nothing():
    found = told(values=OPEN)
    assert found["state"] == "unknown"
    assert found["answer"].startswith(
        "It cannot be told. Between the trained Anna and Base model, prompted, the interval"
    )


def test_a_dimension_that_is_decided_alone_decides_nothing():
    found = told(values=UP, memorization=OPEN, overall=OPEN)
    assert found["state"] == "unknown"
    assert "One by one: better in values" in found["why"][0]


def test_pairs_decide_only_where_nothing_was_graded():
    won = {"base": {"rate": 0.8, "low": 0.6, "high": 0.9, "decided": True, "length": None}}
    assert told(values=OPEN, pairwise=won)["state"] == "unknown"
    assert told(values=DOWN, pairwise=won)["state"] == "partly"


def test_a_lead_that_is_gone_at_equal_length_tells_nothing():
    found = told(values=difference(1.0, 0.5, 1.5, length=(0.2, -0.3, 0.7)))
    assert found["state"] == "unknown"
    assert found["why"] == [
        (
            "Judged against Base model, prompted: different over all dimensions, but not at equal length. "
            "One by one: different in values, but not at equal length."
        )
    ]


def test_a_lead_that_turns_at_equal_length_tells_nothing():
    assert told(values=difference(1.0, 0.5, 1.5, length=(-0.5, -0.9, -0.1)))["state"] == "unknown"


@pytest.mark.parametrize(("rate", "low", "high", "state"), [(0.8, 0.6, 0.9, "yes"), (0.2, 0.1, 0.4, "no")])
def test_a_win_rate_is_held_against_one_half(rate, low, high, state):
    one = {"rate": rate, "low": low, "high": high, "decided": True, "length": None}
    assert told(pairwise={"base": one})["state"] == state


def test_a_judge_that_failed_says_nothing_however_sure_it_is():
    found = told(usable=False, passed=False, values=UP)
    assert found["state"] == "unknown"
    assert found["answer"] == (
        "It cannot be told. The judge, judge, failed its exam: it cannot tell planted good answers from planted bad ones. "
        "These scores are not usable."
    )
    assert found["why"] == []


def test_a_judge_that_was_not_examined_says_nothing():
    assert "No judge was examined" in told(usable=False, passed=None, values=UP)["answer"]


def test_what_was_counted_is_said_even_where_no_judge_may_be_believed():
    metrics = {
        "leaves_role": {"base": difference(-0.2, -0.3, -0.1)},
        "third_person": {"base": difference(0.2, 0.1, 0.3)},
        "empty": {"base": OPEN},
        "words_mean": {"base": difference(-30.0, -40.0, -20.0)},
    }
    found = told(usable=False, passed=False, metrics=metrics, values=UP)
    assert found["why"] == [
        (
            "Counted, against Base model, prompted: better in leaves the role (−20 points); worse in third person (+20 points); "
            "no difference to be told in one more."
        )
    ]


def test_no_judge_no_contestant_and_nobody_else_are_said():
    assert "No judge was asked" in verdict(everyone("trained", "base"), {}, {}, "Anna")["answer"]
    assert "nobody to compare with" in verdict(everyone("trained"), {}, {}, "Anna")["answer"]
    assert "nobody was interviewed" in verdict([], {}, {}, "Anna")["answer"]


def test_a_reference_that_was_not_trained_is_called_by_its_name():
    names = everyone("alpaca-7b", "vicuna-7b", reference="vicuna-7b")
    assert verdict(names, {}, {}, "Anna")["question"] == "Is vicuna-7b better than the others?"
