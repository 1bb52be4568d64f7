"""Statistics of an evaluation: known values, no value where there is none, and the order of records changes nothing."""

import math
import random
from types import SimpleNamespace

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from charforge import intervals
from charforge.intervals import (
    GRADE,
    GRADE_DIFFERENCE,
    SHARE,
    SHARE_DIFFERENCE,
    VALUE,
    alpha,
    at_equal_length,
    interval,
    summarise,
)

# --- Intervals -------------------------------------------------------------------------------------------------------


def singles(values):
    return [[value] for value in values]


def test_few_single_values_have_students_interval():
    values = [3.0, 5.0, 4.5, 7.25, 1.0, 2.5, 6.0]
    found = interval(singles(values), VALUE)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.clusters, found.method) == (pytest.approx(np.mean(values)), 7, "t")


def test_many_values_have_the_percentile_interval_that_scipy_finds():
    values = np.random.default_rng(3).exponential(size=80)
    found = interval(singles(values.tolist()), VALUE)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.method == "bootstrap"


def test_equal_clusters_count_as_one_value_each():
    values = [3.0, 5.0, 4.5, 7.25, 1.0, 2.5]
    alone, fivefold = interval(singles(values), VALUE), interval([[value] * 5 for value in values], VALUE)
    assert (fivefold.low, fivefold.high) == pytest.approx((alone.low, alone.high))


def test_the_mean_is_over_answers_and_not_over_clusters():
    assert interval([[1, 1, 1], [0], [0]], SHARE).mean == pytest.approx(3 / 5)


def test_a_share_of_none_still_has_a_width():
    found = interval(singles([0.0] * 20), SHARE)
    assert found.mean == found.low == 0
    assert 0.1 < found.high < 0.3


@pytest.mark.parametrize("hits", [0, 2, 5])
def test_a_share_of_a_few_single_answers_has_the_exact_interval(hits):
    found = interval(singles([1.0] * hits + [0.0] * (5 - hits)), SHARE)
    exact = stats.binomtest(hits, 5).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.method == "exact"


def test_three_equal_differences_decide_nothing_and_ten_do():
    assert not interval(singles([1.0] * 3), GRADE_DIFFERENCE).decided
    assert interval(singles([1.0] * 10), GRADE_DIFFERENCE).decided


@pytest.mark.parametrize(
    ("clusters", "scale", "method"),
    [
        ([], VALUE, "too few"),
        ([[]], SHARE, "too few"),
        ([[1.0, 0.0]], SHARE, "too few"),
        ([[2.5]] * 30, VALUE, "no spread"),
        ([[0.0]] * 30 + [[1.0]] * 4, VALUE, "no spread"),
    ],
)
def test_no_interval_where_none_can_be_computed(clusters, scale, method):
    found = interval(clusters, scale)
    assert (found.low, found.high, found.method, found.decided) == (None, None, method, False)


values_of = {
    "share": (SHARE, st.sampled_from([0.0, 1.0])),
    "difference": (SHARE_DIFFERENCE, st.sampled_from([-1.0, 0.0, 1.0])),
    "grade": (GRADE, st.integers(1, 7).map(float)),
    "grades": (GRADE_DIFFERENCE, st.floats(-6, 6)),
    "value": (VALUE, st.floats(-1e4, 1e4)),
}


@pytest.mark.parametrize("name", values_of)
@given(data=st.data())
def test_the_mean_lies_in_its_interval_and_the_interval_in_the_scale(name, data):
    scale, value = values_of[name]
    found = interval(data.draw(st.lists(st.lists(value, max_size=5), max_size=70)), scale)
    if found.low is not None:
        assert scale.low <= found.low <= found.mean <= found.high <= scale.high


@given(
    st.lists(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), max_size=4), max_size=70), st.randoms()
)
def test_order_changes_nothing_and_the_other_way_round_is_the_other_way_round(clusters, rng):
    found = interval(clusters, GRADE_DIFFERENCE)
    mixed = [rng.sample(one, len(one)) for one in rng.sample(clusters, len(clusters))]
    assert interval(mixed, GRADE_DIFFERENCE) == found
    turned = interval([[-value for value in one] for one in clusters], GRADE_DIFFERENCE)
    if found.low is not None:
        assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))


# --- At equal length -------------------------------------------------------------------------------------------------


def test_a_difference_that_is_all_length_vanishes_at_equal_length():
    pairs = [(x / 10, 2 * x / 10) for x in range(-8, 25)]
    found = at_equal_length(pairs, VALUE)
    assert (found.mean, found.slope) == (pytest.approx(0, abs=1e-9), pytest.approx(2))


def test_the_line_is_that_of_least_squares():
    rng = np.random.default_rng(5)
    x = rng.normal(size=40)
    y = 1 - 0.5 * x + rng.normal(size=40)
    found, known = at_equal_length(zip(x.tolist(), y.tolist(), strict=True), VALUE), stats.linregress(x, y)
    assert (found.mean, found.slope) == pytest.approx((known.intercept, known.slope))
    width = stats.t.ppf(0.975, 38) * known.intercept_stderr
    assert found.high - found.mean == pytest.approx(width, rel=0.25)


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([(-1.0, 1.0), (1.0, 2.0)] * 4, "fewer than 10 questions"),
        ([(1.0 + x, 1.0) for x in range(20)], "one of the two is nearly always longer"),
        ([(0.0, 1.0)] * 20, "one of the two is nearly always longer"),
        ([(1e-7, 1.0), (-1e-7, 2.0)] * 10, "the lengths hardly differ"),
    ],
)
def test_equal_length_says_why_it_cannot_be_told(pairs, why):
    found = at_equal_length(pairs, GRADE_DIFFERENCE)
    assert (found.record(), found.why) == (None, why)


# --- Agreement -------------------------------------------------------------------------------------------------------

nan = math.nan
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), C: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
]


def test_alpha_is_the_published_one():
    units = [
        {str(rater): float(row[unit]) for rater, row in enumerate(OBSERVERS) if not math.isnan(row[unit])}
        for unit in range(12)
    ]
    assert alpha(units) == pytest.approx(0.815, abs=0.0005)
    assert alpha(units) == pytest.approx(
        krippendorff.alpha(reliability_data=OBSERVERS, level_of_measurement="ordinal")
    )


@pytest.mark.parametrize("units", [[], [{"a": 1.0}, {"b": 2.0}], [{"a": 3.0, "b": 3.0}] * 5])
def test_no_alpha_where_nothing_can_agree_or_differ(units):
    assert alpha(units) is None


# --- The summary -----------------------------------------------------------------------------------------------------

METRICS = {
    "words_mean": SimpleNamespace(unit="words", per="answer-value"),
    "empty": SimpleNamespace(unit="share", per="answer-flag"),
    "overlap": SimpleNamespace(unit="share", per="answer-value"),
    "distinct": SimpleNamespace(unit="share", per="contestant"),
}
CONTESTANTS = [{"name": "trained", "reference": True}, {"name": "base", "reference": False}]
PASSED = {"judges": {"good": {"passed": True}, "bad": {"passed": False}}}


def measure(contestant, question, words, *, kind="single", turn=None, empty=False, overlap=0.5):
    return {
        "contestant": contestant,
        "kind": kind,
        "question": question,
        "turn": turn,
        "words": words,
        "values": {"words_mean": words, "overlap": overlap},
        "flags": {"empty": empty},
    }


def grade(contestant, question, score, *, judge="good", repeat=0, kind="single", dimension="values"):
    return {
        "answer": f"{contestant}/{question}",
        "contestant": contestant,
        "kind": kind,
        "question": question,
        "dimension": dimension,
        "judge": judge,
        "repeat": repeat,
        "score": score,
    }


def pair(question, first, second, *, one="trained", other="base", judge="good", words=(10, 10)):
    names = {"one": one, "other": other, "tie": "tie"}
    winner = None if None in (first, second) else names[first] if first == second else "tie"
    return {
        "kind": "single",
        "question": question,
        "one": one,
        "other": other,
        "judge": judge,
        "repeat": 0,
        "first": first,
        "second": second,
        "winner": winner,
        "words": list(words),
    }


def summary(**records):
    given = {"contestants": CONTESTANTS, "exam": PASSED, "dimensions": ["values"], "metrics_units": METRICS}
    return summarise(**{**given, "measures": [], "scores": [], "pairs": [], **records})


def test_scores_are_means_over_questions_with_the_unscored_beside_them():
    scores = [grade("trained", "a", 6), grade("trained", "a", 4, repeat=1), grade("trained", "b", 2)]
    scores += [grade("trained", "c", None), grade("base", "a", 1)]
    found = summary(scores=scores)["scores"]["values"]
    assert {key: found["trained"][key] for key in ("mean", "scored", "unscored", "questions")} == {
        "mean": 3.5,
        "scored": 3,
        "unscored": 1,
        "questions": 2,
    }
    assert found["base"] == {
        "mean": 1.0,
        "low": None,
        "high": None,
        "scored": 1,
        "unscored": 0,
        "questions": 1,
        "clusters": 1,
    }


def test_only_judges_who_passed_count():
    scores = [
        grade(who, q, score, judge=judge)
        for q in "abcdefgh"
        for who, judge, score in [
            ("trained", "good", 6),
            ("base", "good", 4),
            ("trained", "bad", 1),
            ("base", "bad", 7),
        ]
    ]
    found = summary(scores=scores)
    assert found["usable"]
    assert found["judges"] == {"bad": {"passed": False}, "good": {"passed": True}}
    assert found["differences"]["values"]["base"]["mean"] == 2
    none = summary(scores=scores, exam={"judges": {"good": {"passed": False}, "bad": {"passed": None}}})
    assert not none["usable"]
    assert none["differences"]["values"]["base"]["mean"] == -2


def test_a_judges_missing_grade_is_no_difference():
    exam = {"judges": {"strict": {"passed": True}, "kind": {"passed": True}}}
    scores = [grade("trained", "a", 2, judge="strict"), grade("base", "a", 2, judge="strict")]
    scores += [grade("trained", "a", 7, judge="kind"), grade("base", "a", None, judge="kind")]
    found = summary(scores=scores, exam=exam)["differences"]["values"]["base"]
    assert (found["mean"], found["pairs"]) == (0, 1)


def test_agreement_is_between_judges_and_between_repeats():
    exam = {"judges": {"x": {"passed": True}, "y": {"passed": True}}}
    scores = [
        grade("trained", str(place), score + move, judge=judge, repeat=repeat)
        for place, score in enumerate([1, 3, 5, 2, 6, 4])
        for judge, move in [("x", 0), ("y", 1)]
        for repeat in (0, 1)
    ]
    found = summary(scores=scores, exam=exam)["agreement"]
    assert found["repeats"] == {"values": 1.0}
    assert 0.5 < found["judges"]["values"] < 1
    assert summary()["agreement"] == {"judges": {"values": None}, "repeats": {"values": None}}


def test_pairwise_counts_a_tie_half_and_disagreement_as_a_tie():
    pairs = [pair("a", "one", "one"), pair("b", "one", "other"), pair("c", "other", "other")]
    pairs += [pair("d", "tie", "tie"), pair("e", "one", None)]
    pairs += [pair("f", "other", "other", one="base", other="trained")]
    found = summary(pairs=pairs)["pairwise"]["base"]
    counted = {
        key: found[key] for key in ("wins", "ties", "losses", "unscored", "disagreed", "rate", "decided")
    }
    assert counted == {
        "wins": 2,
        "ties": 2,
        "losses": 1,
        "unscored": 1,
        "disagreed": 1,
        "rate": 0.6,
        "decided": False,
    }
    assert 0 <= found["low"] < 0.5 < found["high"] <= 1


def test_turns_of_an_interview_are_one_cluster_and_pair_by_turn():
    measures = [
        measure(who, "i", 10 + turn, kind="turns", turn=turn)
        for who in ("trained", "base")
        for turn in range(5)
    ]
    measures += [measure("trained", "a", 30), measure("base", "a", 10), measure("trained", "b", 8)]
    found = summary(measures=measures)
    assert found["metrics"]["words_mean"]["trained"] == {
        **found["metrics"]["words_mean"]["trained"],
        "value": 14.0,
        "answers": 7,
        "clusters": 3,
    }
    difference = found["metric_differences"]["words_mean"]["base"]
    assert (difference["pairs"], difference["clusters"]) == (6, 2)
    assert difference["mean"] == pytest.approx(20 / 6, abs=1e-6)
    assert "distinct" not in found["metrics"]


def everything(seed=1, count=60):
    rng = random.Random(seed)
    measures, scores, pairs = [], [], []
    for place in range(count):
        question, kind = f"q{place}", "turns" if place % 6 == 0 else "single"
        words = {}
        for who in ("trained", "base"):
            words[who] = rng.randrange(20, 80)
            measures += [
                measure(who, question, words[who], kind=kind, turn=turn, empty=rng.random() < 0.1)
                for turn in (range(5) if kind == "turns" else [None])
            ]
            scores += [
                grade(who, question, rng.choice([None, 3, 4, 5]), kind=kind, judge=judge)
                for judge in ("good", "bad")
            ]
        orders = [rng.choice(["one", "other", "tie"]) for _ in range(2)]
        pairs.append(pair(question, *orders, words=(words["trained"], words["base"])))
    return {"measures": measures, "scores": scores, "pairs": pairs}


@pytest.mark.parametrize("count", [12, 60])
def test_order_of_records_changes_nothing(count):
    records = everything(count=count)
    mixed = {key: random.Random(2).sample(several, len(several)) for key, several in records.items()}
    assert summary(**mixed) == summary(**records)


@pytest.mark.parametrize("count", [12, 60])
def test_other_names_change_nothing_but_the_names(count):
    records = everything(count=count)
    renamed = {
        key: [{**one, "question": one["question"][::-1]} for one in several]
        for key, several in records.items()
    }
    assert summary(**renamed) == summary(**records)


@pytest.mark.parametrize("count", [12, 60])
def test_a_swapped_reference_flips_every_sign(count):
    records = everything(count=count)
    one = summary(**records)
    swapped = [{**each, "reference": not each["reference"]} for each in CONTESTANTS]
    other = summary(**records, contestants=swapped)

    def flipped(found, turn=lambda value: -value):
        return {"mean": turn(found["mean"]), "low": turn(found["high"]), "high": turn(found["low"])}

    for mine, theirs in [
        (one["differences"]["values"]["base"], other["differences"]["values"]["trained"]),
        (one["differences"]["values"]["base"]["length"], other["differences"]["values"]["trained"]["length"]),
        (one["metric_differences"]["empty"]["base"], other["metric_differences"]["empty"]["trained"]),
    ]:
        if mine is not None:
            assert {key: theirs[key] for key in ("mean", "low", "high")} == pytest.approx(
                flipped(mine), abs=2e-6
            )
    mine, theirs = one["pairwise"]["base"], other["pairwise"]["trained"]
    assert (mine["wins"], mine["losses"]) == (theirs["losses"], theirs["wins"])
    assert (mine["rate"], mine["low"], mine["high"]) == pytest.approx(
        (1 - theirs["rate"], 1 - theirs["high"], 1 - theirs["low"]), abs=2e-6
    )


def test_chance_is_counted_over_all_intervals_shown():
    found = summary(**everything())["comparisons"]
    assert found["scores"]["made"] == 1
    assert found["metrics"] == {"made": 3, "decided": found["metrics"]["decided"], "by_chance": 0.15}


def test_nothing_at_all_is_none_everywhere():
    found = summary(exam={})
    assert (found["reference"], found["usable"], found["judges"]) == ("trained", False, {})
    assert found["differences"]["values"]["base"]["method"] == "too few"
    assert found["pairwise"]["base"]["rate"] is None


def test_the_resampling_is_the_one_that_numpy_promises_to_keep():
    assert int(np.random.PCG64(intervals.SEED).random_raw()) == 1405485988775917517
    assert set(intervals.draws(60).sum(axis=1)) == {60.0}


def test_all_dimensions_together_are_one_difference_a_question():
    given = {"values": [("a", 6, 3), ("b", 4, 4)], "personality": [("a", 5, 4)]}
    scores = [
        grade(name, question, score, dimension=dimension)
        for dimension, rows in given.items()
        for question, *both in rows
        for name, score in zip(("trained", "base"), both, strict=True)
    ]
    found = summary(scores=scores, dimensions=list(given))["overall"]["base"]
    assert (found["mean"], found["pairs"], found["clusters"]) == (1.0, 2, 2)
