"""Slots are filled the same way whatever the order of replies, and everything that was asked is accounted for."""

from __future__ import annotations

import asyncio
import random

import pytest

from charforge.checks import Broken
from charforge.errors import CharForgeError
from charforge.llm.request import Answered, Reply
from charforge.stages.slots import Account, Drawn, Slot, fill, paragraph_slots, spread

PARAGRAPHS = [{"id": f"p{i}", "text": f"text {i}"} for i in range(5)]


def answered(text: str) -> Answered:
    return Answered(reply=Reply(text=text, finish_reason="stop"), call=f"call of {text}")


class Script:
    """Says of every (slot, draw) whether it passes, and what it writes; remembers what was drawn."""

    def __init__(
        self, passes=lambda name, d: True, writes=lambda name, d: f"{name} {d} unlike", delay=lambda: 0.0
    ):
        self.passes, self.writes, self.delay = passes, writes, delay
        self.drawn: list[tuple[str, int]] = []
        self.progress: list[tuple[int, int]] = []

    async def draw(self, slot: Slot, d: int) -> Drawn:
        self.drawn.append((slot.name, d))
        await asyncio.sleep(self.delay())
        reply = answered(self.writes(slot.name, d))
        account = Account(asked=1)
        if not self.passes(slot.name, d):
            account.reject(f"x/{slot.name}/{d}", Broken("format", "bad"), reply)
            return Drawn(None, account)
        account.calls.append(reply.call)
        return Drawn({"id": f"x/{slot.name}", "text": reply.reply.text, "draw": d}, account, reply)

    def run(self, count: int, *, attempts: int = 2, min_yield: float = 0.0):
        return asyncio.run(
            fill(
                paragraph_slots(PARAGRAPHS, count),
                what="scenes",
                count=count,
                attempts=attempts,
                min_yield=min_yield,
                draw=self.draw,
                text=lambda record: record["text"],
                on_progress=lambda done, total: self.progress.append((done, total)),
            )
        )


def test_positions_are_spread_over_the_whole():
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert spread(5) == [0, 4, 2, 1, 3]
    assert spread(1) == [0]
    assert spread(0) == []
    assert all(sorted(spread(n)) == list(range(n)) for n in range(40))


def test_slots_go_round_the_paragraphs_before_any_gets_a_second():
    assert [slot.name for slot in paragraph_slots(PARAGRAPHS, 3)] == [
        "p0/0",
        "p4/0",
        "p2/0",
        "p1/0",
        "p3/0",
        "p0/1",
    ]


def test_a_draw_index_depends_on_slot_and_draw_alone():
    slot = Slot(PARAGRAPHS[0], 3)
    assert [slot.draw(0), slot.draw(7)] == [3000, 3007]


def test_a_choice_depends_on_the_text_and_turns_with_n():
    options = ["a", "b", "c"]
    chosen = [Slot({"id": "p", "text": "some text"}, n).choose(options, "x") for n in range(4)]
    assert sorted(chosen[:3]) == options
    assert chosen[3] == chosen[0]
    assert Slot({"id": "moved", "text": "some text"}, 0).choose(options, "x") == chosen[0]


def test_what_passes_at_once_is_drawn_once():
    script = Script()
    made = script.run(3)
    assert sorted(script.drawn) == [("p0/0", 0), ("p2/0", 0), ("p4/0", 0)]
    assert [record["id"] for record in made.records] == ["x/p0/0", "x/p2/0", "x/p4/0"]
    assert made.yield_ == {"asked": 3, "accepted": 3, "rejected": {}, "wanted": 3}
    assert made.calls[0] == {"id": "x/p0/0", "call": "call of p0/0 0 unlike"}
    assert script.progress == [(1, 3), (2, 3), (3, 3)]


def test_a_slot_is_drawn_until_it_passes():
    script = Script(passes=lambda name, d: name != "p4/0" or d == 1)
    made = script.run(3)
    assert sorted(script.drawn) == [("p0/0", 0), ("p2/0", 0), ("p4/0", 0), ("p4/0", 1)]
    assert made.rejected == [
        {
            "id": "x/p4/0/0",
            "rule": "format",
            "detail": "bad",
            "text": "p4/0 0 unlike",
            "call": "call of p4/0 0 unlike",
        }
    ]
    assert made.yield_ == {"asked": 4, "accepted": 3, "rejected": {"format": 1}, "wanted": 3}


def test_slots_that_stay_empty_are_made_up_for_by_further_ones():
    script = Script(passes=lambda name, d: not name.startswith("p4"))
    made = script.run(3)
    assert [record["id"] for record in made.records] == ["x/p0/0", "x/p1/0", "x/p2/0"]
    assert sorted(set(script.drawn)) == [("p0/0", 0), ("p1/0", 0), ("p2/0", 0), ("p4/0", 0), ("p4/0", 1)]


def test_no_more_than_twice_as_many_slots_are_opened():
    script = Script(passes=lambda name, d: False)
    made = script.run(3)
    assert len({name for name, _ in script.drawn}) == 6
    assert made.yield_ == {"asked": 12, "accepted": 0, "rejected": {"format": 12}, "wanted": 3}


def test_raising_the_count_draws_only_new_slots():
    fewer, more = Script(passes=lambda name, d: d == 1), Script(passes=lambda name, d: d == 1)
    first, second = fewer.run(2), more.run(4)
    assert set(fewer.drawn) < set(more.drawn)
    assert [
        record for record in second.records if record["id"] in {r["id"] for r in first.records}
    ] == first.records


def test_the_later_of_two_near_duplicates_is_rejected_whatever_came_first():
    made = Script(
        writes=lambda name, d: "the same words each time" if name in {"p0/0", "p2/0"} else f"other {name}"
    ).run(3)
    assert [record["id"] for record in made.records] == ["x/p0/0", "x/p1/0", "x/p4/0"]
    assert [(rejected["id"], rejected["rule"], rejected["detail"]) for rejected in made.rejected] == [
        ("x/p2/0/0", "near-duplicate", "like x/p0/0")
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_the_order_of_replies(seed):
    delays = random.Random(seed)

    def passes(name, d):
        return (sum(map(ord, name)) + d) % 3 == 0

    def writes(name, d):
        return f"one of three texts {sum(map(ord, name)) % 3}"

    slow = Script(passes, writes, delay=lambda: delays.random() / 500)
    assert slow.run(6, attempts=3) == Script(passes, writes).run(6, attempts=3)


def test_too_small_a_yield_fails_with_the_reasons_counted():
    with pytest.raises(CharForgeError) as caught:
        Script(passes=lambda name, d: name == "p0/0").run(3, min_yield=0.5)
    assert caught.value.render() == (
        "error: scenes: 1 of 3 were accepted, expected at least 2 (scenes.min_yield 0.5); rejected: format 10\n"
        "hint: raise scenes.attempts, name a more capable generator.model, or lower scenes.min_yield; finished calls are kept"
    )


def test_a_failing_call_stops_further_draws_but_not_those_in_flight():
    finished = []

    class Failing(Script):
        async def draw(self, slot, d):
            self.drawn.append((slot.name, d))
            if slot.name == "p4/0":
                await asyncio.sleep(0)
                raise CharForgeError("no such model")
            await asyncio.sleep(0.001)
            finished.append(slot.name)
            return Drawn(None, Account(asked=1))

    script = Failing()
    with pytest.raises(CharForgeError, match="no such model"):
        script.run(3, attempts=5)
    assert sorted(script.drawn) == [("p0/0", 0), ("p2/0", 0), ("p4/0", 0)]
    assert finished == ["p0/0", "p2/0"]
