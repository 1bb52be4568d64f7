"""Forecasts: what is known comes first, what was recorded second, what is assumed last."""

from __future__ import annotations

import asyncio

import pytest

from charforge import pipeline, skeleton, spec
from charforge.commands.loading import NothingNew
from charforge.engine.graph import Graph
from charforge.engine.reader import Reader
from charforge.engine.receipt import Stamps
from charforge.engine.rehearse import rehearse
from charforge.forecast import ANSWER_TOKENS, DRAWS, Past, Range, forecast, spread_of, total
from charforge.llm.money import Price

REMOTE = (
    "generator.model=openai/a",
    "interview.interviewer.model=openai/b",
    "judge.model=openai/c",
    "interview.limit_single=3",
    "interview.limit_multi=2",
    "interview.turns=4",
    "judge.limit=null",
)
CHEAP = Price(1.0, 2.0)


@pytest.fixture
def predict(tmp_path):
    """Forecast a character that was never built; return {stage: {model: part}}."""
    path = skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]

    def command(*overrides, past=None, price=lambda _model: CHEAP, preset="smoke"):
        found = spec.load(path, tmp_path, preset=preset, overrides=[*REMOTE, *overrides])
        character = pipeline.character(found, tmp_path, NothingNew(), Stamps())
        with Reader(tmp_path / ".charforge") as store:
            rehearsed = asyncio.run(rehearse(store, Graph(character.stages), [character.stage("report")]))
        lines = forecast(character, rehearsed, past or Past(), price)
        return {line.stage: {part.model: part for part in line.parts} for line in lines}

    return command


# --- Calls -------------------------------------------------------------------------------------------------------------


def test_scenes_are_known_up_to_the_draws(predict):
    part = predict("scenes.count=4", "scenes.attempts=3", "scenes.per_call=1")["scenes"]["openai/a"]
    assert part.calls == Range(4, 4 * DRAWS, 12)


def test_one_call_gives_several_scenes(predict):
    part = predict("scenes.count=20", "scenes.attempts=3", "scenes.per_call=8")["scenes"]["openai/a"]
    assert part.calls == Range(3, 3 * DRAWS, 9)


def test_dialogues_are_as_many_as_scenes_are_wanted(predict):
    part = predict("scenes.count=10", "dialogues.attempts=2")["dialogues"]["openai/a"]
    assert part.calls == Range(10, 10 * DRAWS, 20)


def test_recorded_draws_come_before_assumed_ones(predict):
    past = Past()
    past.add_yield("dialogues", {"asked": 30, "accepted": 15}, 1)
    part = predict("scenes.count=10", "dialogues.attempts=3", past=past)["dialogues"]["openai/a"]
    assert part.calls == Range(10, 20, 30)


def test_a_yield_of_nothing_tells_nothing():
    past = Past()
    past.add_yield("scenes", {"asked": 30, "accepted": 0}, 1)
    assert past.draws == {}


def test_draws_of_lists_are_draws_of_lists():
    past = Past()
    past.add_yield("scenes", {"asked": 10, "accepted": 64}, 8)
    assert past.draws == {"scenes": 1.25}


def test_interviews_are_counted_from_questions_contestants_and_turns(predict):
    parts = predict("interview.baselines=[base, openai/d]")["interviews"]
    answers = 3 + 2 * 4
    assert parts["local/eliza"].calls == Range.exactly(answers)
    assert parts["local/base"].calls == Range.exactly(answers)
    assert parts["openai/d"].calls == Range.exactly(answers)
    # The opening question is the same for all.
    asked = 2 * (1 + 3 * 3)
    assert (parts["openai/b"].calls.low, parts["openai/b"].calls.high) == (asked, 3 * asked)


def test_thoughts_take_calls_of_their_own(predict):
    parts = predict("interview.baselines=[base]", "interview.thoughts=true")["interviews"]
    assert parts["local/eliza"].calls == Range(11, 16.5, 33)
    assert parts["local/base"].calls == Range.exactly(11)


def test_without_talks_there_is_no_interviewer(predict):
    assert "openai/b" not in predict("interview.limit_multi=0")["interviews"]


def test_scores_are_exact(predict):
    grading = ("judge.dimensions=[values, stability]", "judge.pairwise=0", "judge.exam=false")

    def verdicts(*more, model="openai/c"):
        return predict("interview.baselines=[openai/d]", *grading, *more)["scores"][model].calls

    # Single answers are not graded for stability.
    assert verdicts("judge.repeats=2") == Range.exactly(2 * 2 * (3 * 1 + 2 * 2))
    assert verdicts("judge.limit=1") == Range.exactly(2 * 1)
    assert verdicts("judge.limit=1", "judge.panel=[openai/e]", model="openai/e") == Range.exactly(2 * 1)
    assert verdicts("judge.limit=0", "judge.pairwise=2") == Range.exactly(2 * 2)  # in both orders
    assert verdicts("judge.limit=1", "judge.exam=true").low > 20
    assert predict("judge.limit=0", "judge.pairwise=0")["scores"] == {}


def test_generated_questions_are_counted_and_so_is_what_is_asked_with_them(predict):
    parts = predict("interview.questions=null", "interview.generate.single=8", "interview.generate.multi=4")
    (asked,) = parts["questions"].values()
    assert 0 < asked.calls.low <= asked.calls.expected <= asked.calls.high
    assert parts["interviews"]["local/eliza"].calls.low > 0


def test_who_is_only_read_is_not_asked(predict):
    assert (
        "local/eliza"
        not in predict("interview.trained=false", "interview.baselines=[openai/d]")["interviews"]
    )


# --- Tokens ------------------------------------------------------------------------------------------------------------


def test_a_spread_is_the_tenths_and_the_mean():
    assert spread_of([float(n) for n in range(11)]) == Range(1, 5, 9)
    assert spread_of([7]) == Range(7, 7, 7)
    skewed = spread_of([1.0] * 19 + [1000.0])
    assert skewed.low <= skewed.expected <= skewed.high


def test_recorded_calls_to_the_same_model_come_first_then_to_others_of_its_kind():
    past = Past()
    for n in range(3):
        past.add_call("scenes", "openai/a", n, n)
        past.add_call("scenes", "openai/b", 10 + n, n)
        past.add_call("scenes", "embedded/x", 20 + n, n)
    past.add_call("scenes", "openai/a", None, 5)
    assert past.of("scenes", "openai/a") == ([(0, 0), (1, 1), (2, 2)], "3 recorded calls of scenes")
    assert past.of("scenes", "openai/c")[1] == "6 recorded calls of scenes to other models"
    assert past.of("scenes", "embedded/y")[1] == "3 recorded calls of scenes to other models"
    assert past.of("dialogues", "openai/a") == ([], "")


def test_recorded_tokens_make_the_cost(predict):
    past = Past()
    for n in range(11):
        past.add_call("dialogues", "openai/a", 1000, 100 * n)
    part = predict("scenes.count=10", "dialogues.attempts=2", past=past)["dialogues"]["openai/a"]
    assert part.prompt_tokens == Range(10_000, 13_000, 20_000)
    assert part.completion_tokens == Range(10 * 100, 13 * 500, 20 * 900)
    assert part.cost is not None
    assert part.cost.low == pytest.approx((10_000 * 1 + 1000 * 2) / 1e6)
    assert part.cost.expected == pytest.approx((13_000 * 1 + 6500 * 2) / 1e6)
    assert part.cost.high == pytest.approx((20_000 * 1 + 18_000 * 2) / 1e6)


def test_no_reply_is_assumed_longer_than_it_may_be(predict):
    parts = predict("generator.max_tokens=20", "judge.max_tokens=20", "interview.max_tokens=20")
    for stage in ("scenes", "dialogues", "protective", "scores"):
        for part in parts[stage].values():
            assert part.completion_tokens.high <= 20 * part.calls.high
            assert (
                part.completion_tokens.low <= part.completion_tokens.expected <= part.completion_tokens.high
            )


def test_a_longer_minimum_makes_longer_dialogues(predict):
    def expected(words):
        found = predict("generator.max_tokens=4096", f"dialogues.min_words={words}")
        return found["dialogues"]["openai/a"].completion_tokens.expected

    assert expected(600) == pytest.approx(6 * expected(100))


# --- Money -------------------------------------------------------------------------------------------------------------


def test_local_models_are_free_and_unknown_prices_stay_unknown(predict):
    parts = predict(
        "interview.baselines=[openai/d]", price=lambda model: None if model == "openai/d" else CHEAP
    )
    assert parts["interviews"]["local/eliza"].cost == Range.exactly(0)
    assert parts["interviews"]["local/eliza"].local
    assert parts["interviews"]["openai/d"].cost is None
    cost, unknown = total(part for stage in parts.values() for part in stage.values())
    assert unknown == ["openai/d"]
    assert cost.low > 0


@pytest.mark.parametrize("preset", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("model", ["openai/a", "embedded/smollm2-135m-instruct"])
def test_every_figure_is_in_order(predict, preset, model):
    parts = predict(f"generator.model={model}", preset=preset)
    for part in (part for stage in parts.values() for part in stage.values()):
        for value in (part.calls, part.prompt_tokens, part.completion_tokens, part.cost):
            assert 0 <= value.low <= value.expected <= value.high, part


def test_assumptions_are_told(predict):
    parts = predict("interview.max_tokens=200")["interviews"]
    assert parts["local/eliza"].reply_basis == f"{ANSWER_TOKENS} tokens a reply, assumed"
