"""The table of what a build's calls used and cost."""

from charforge.spending import Spending, spending_lines

CALL = {"model": "openai/x", "prompt_tokens": 1200, "completion_tokens": 300}


def table(*calls, lost=0.0):
    spending = Spending()
    for stage, record in calls:
        spending.call_made(stage, "0" * 64, record)
    return [line.rstrip() for line in spending_lines(spending.spent, lost=lost)]


def test_a_build_without_calls_says_nothing():
    assert table() == []


def test_one_model_is_one_row():
    assert table(("a/scenes", {**CALL, "cost": 0.0004})) == [
        "  a/scenes  openai/x  1 call  1,200 + 300 tokens  $0.0004"
    ]


def test_several_rows_have_a_sum():
    lines = table(
        ("a/scenes", {**CALL, "cost": 1.5}),
        ("a/scenes", {**CALL, "cost": 2.25}),
        ("a/scores", {**CALL, "model": "embedded/small"}),
    )
    assert [line.split() for line in lines] == [
        ["a/scenes", "openai/x", "2", "calls", "2,400", "+", "600", "tokens", "$3.75"],
        ["a/scores", "embedded/small", "1", "call", "1,200", "+", "300", "tokens", "$0.00"],
        ["all", "3", "calls", "3,600", "+", "900", "tokens", "$3.75"],
    ]


def test_what_is_not_known_is_said():
    lines = table(("a/scenes", {**CALL, "cost": None}), ("a/scenes", {**CALL, "cost": 2.0}))
    assert lines[0].endswith("$2.00 + 1 of unknown cost")
    assert "endpoints.toml" in lines[1]
    assert table(("a/scenes", CALL))[0].endswith("cost unknown")


def test_answers_that_never_came_are_told_apart_also_where_no_other_came():
    assert "up to $0.0120 more" in table(("a/scenes", {**CALL, "cost": 2.0}), lost=0.012)[-1]
    assert table(lost=0.012) == ["  Answers that never came may have cost up to $0.0120 more."]
