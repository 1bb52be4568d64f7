"""Slots are filled the same way whatever the order of replies, and everything that was asked is accounted for."""

from __future__ import annotations

import asyncio
import random

import pytest

from charforge.checks import Broken
from charforge.errors import CharForgeError
from charforge.llm.errors import NotRecorded
from charforge.llm.request import Answered, Reply, Request
from charforge.stages.slots import WINDOW, Account, Drawn, Slot, TooFew, ahead, fill, paragraph_slots, spread

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
            return Drawn([], account)
        account.calls.append(reply.call)
        return Drawn([{"id": f"x/{slot.name}", "text": reply.reply.text, "draw": d}], account, reply)

    def run(self, count: int, *, attempts: int = 2, min_yield: float = 0.0, **more):
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
                **more,
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
    ).run(3, attempts=1)
    assert [record["id"] for record in made.records] == ["x/p0/0", "x/p1/0", "x/p4/0"]
    assert [(rejected["id"], rejected["rule"], rejected["detail"]) for rejected in made.rejected] == [
        ("x/p2/0/0", "near-duplicate", "like x/p0/0")
    ]


def test_a_slot_whose_record_fell_as_a_near_duplicate_is_drawn_for_again():
    script = Script(
        writes=lambda name, d: (
            "the same words each time" if d == 0 and name in {"p0/0", "p2/0"} else f"other {name}"
        )
    )
    made = script.run(3)
    assert [record["id"] for record in made.records] == ["x/p0/0", "x/p2/0", "x/p4/0"]
    assert made.records[1]["draw"] == 1
    assert made.yield_ == {"asked": 4, "accepted": 3, "rejected": {"near-duplicate": 1}, "wanted": 3}


@pytest.mark.parametrize("seed", range(8))
def test_the_result_does_not_depend_on_the_order_of_replies(seed):
    delays = random.Random(seed)

    def passes(name, d):
        return (sum(map(ord, name)) + d) % 3 == 0

    def writes(name, d):
        return f"one of three texts {sum(map(ord, name)) % 3}"

    slow = Script(passes, writes, delay=lambda: delays.random() / 500)
    assert slow.run(6, attempts=3) == Script(passes, writes).run(6, attempts=3)


def test_too_small_a_yield_fails_with_the_reasons_counted():
    with pytest.raises(TooFew) as caught:
        Script(passes=lambda name, d: name == "p0/0").run(3, min_yield=0.5)
    assert caught.value.render() == (
        "error: scenes: 1 of 3 were accepted, expected at least 2 (scenes.min_yield 0.5); rejected: format 10\n"
        "hint: read them with 'show … scenes --rejected'; raise scenes.attempts, name a more capable generator.model, or lower scenes.min_yield; finished calls are kept"
    )
    assert len(caught.value.made.rejected) == 10
    assert caught.value.made.yield_["rejected"] == {"format": 10}


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
            return Drawn([], Account(asked=1))

    script = Failing()
    with pytest.raises(CharForgeError, match="no such model"):
        script.run(3, attempts=5)
    assert sorted(script.drawn) == [("p0/0", 0), ("p2/0", 0), ("p4/0", 0)]
    assert finished == ["p0/0", "p2/0"]


class Several(Script):
    """Each draw gives up to four records."""

    async def draw(self, slot: Slot, d: int) -> Drawn:
        drawn = await super().draw(slot, d)
        drawn.records = [
            {**record, "id": f"{record['id']}/{k}", "text": f"{slot.name}-{k} {k}-{slot.name} {k}{slot.n}"}
            for record in drawn.records
            for k in range(4)
            if self.passes(f"{slot.name}/{k}", d)
        ]
        return drawn


def test_a_draw_may_give_several_records_and_only_as_many_as_are_wanted_are_kept():
    made = Several().run(6, per_slot=4)
    assert [record["id"] for record in made.records] == [f"x/p0/0/{k}" for k in range(4)] + [
        "x/p4/0/0",
        "x/p4/0/1",
    ]
    assert made.yield_ == {"asked": 2, "accepted": 6, "rejected": {"surplus": 2}, "wanted": 6}


@pytest.mark.parametrize("seed", range(5))
def test_slots_are_opened_for_what_is_missing_whatever_the_order_of_replies(seed):
    delays = random.Random(seed)

    def passes(name, d):
        return (sum(map(ord, name)) + d) % 3 != 0

    slow = Several(passes, delay=lambda: delays.random() / 500)
    assert slow.run(11, per_slot=4) == Several(passes).run(11, per_slot=4)


def test_a_slow_slot_does_not_hold_up_those_that_make_up_for_others():
    drawn = []

    class Slow(Script):
        async def draw(self, slot, d):
            if slot.name == "p0/0":
                while len(drawn) < 5:
                    await asyncio.sleep(0)
            drawn.append(slot.name)
            return await super().draw(slot, d)

    made = Slow(passes=lambda name, d: name not in {"p4/0", "p2/0"}).run(4, attempts=1)
    assert drawn.index("p0/0") > drawn.index("p0/1")
    assert len(made.records) == 4


def test_what_passed_is_told_at_once_and_a_known_near_duplicate_is_not():
    told = []
    Script(writes=lambda name, d: "the same words each time").run(3, on_passed=told.append)
    assert told[0]["id"] == "x/p0/0"
    assert len(told) < 3


def test_likeness_may_be_left_out_of_account():
    made = Script(writes=lambda name, d: "the same words each time").run(3, near_duplicate=None)
    assert len(made.records) == 3


def test_where_nothing_may_be_asked_all_that_is_missing_is_found_and_nothing_made_up_for():
    class Offline(Script):
        async def draw(self, slot, d):
            if slot.name in {"p4/0", "p2/0"}:
                self.drawn.append((slot.name, d))
                raise NotRecorded(
                    Request(model="m", prompt=slot.name, max_tokens=1, temperature=0.0), f"no {slot.name}"
                )
            return await super().draw(slot, d)

    script = Offline()
    with pytest.raises(NotRecorded):
        script.run(4)
    assert sorted(name for name, _ in script.drawn) == ["p0/0", "p1/0", "p2/0", "p4/0"]


def test_thousands_of_slots_are_not_all_begun_at_once():
    now = most = 0

    class Counting(Script):
        async def draw(self, slot, d):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            drawn = await super().draw(slot, d)
            now -= 1
            return drawn

    assert len(Counting().run(3 * WINDOW, near_duplicate=None).records) == 3 * WINDOW
    assert most == WINDOW


def test_a_head_start_draws_for_slots_as_they_come():
    script, given = Script(passes=lambda name, d: d == 1), []

    async def coming():
        for slot in paragraph_slots(PARAGRAPHS, 3)[:3]:
            given.append(len(script.drawn))
            yield slot
            while len(script.drawn) < 2 * len(given):
                await asyncio.sleep(0)

    asyncio.run(ahead(coming(), attempts=2, draw=script.draw, on_progress=lambda done, total: None))
    assert given == [0, 2, 4]
    assert len(script.drawn) == 6


def test_a_head_start_ends_with_what_a_call_raises():
    async def fails(slot, d):
        raise CharForgeError("no such model")

    async def coming():
        for slot in paragraph_slots(PARAGRAPHS, 3):
            yield slot

    with pytest.raises(CharForgeError, match="no such model"):
        asyncio.run(ahead(coming(), attempts=1, draw=fails, on_progress=lambda done, total: None))


def test_a_head_start_that_fails_lets_the_calls_in_flight_come_to_their_end():
    finished = []

    async def draw(slot, d):
        if slot.name == "p4/0":
            raise CharForgeError("no more money")
        await asyncio.sleep(0.005)
        finished.append((slot.name, d))
        return Drawn([], Account(asked=1))

    async def coming():
        for slot in paragraph_slots(PARAGRAPHS, 2)[:3]:
            yield slot

    with pytest.raises(CharForgeError, match="no more money"):
        asyncio.run(ahead(coming(), attempts=3, draw=draw, on_progress=lambda done, total: None))
    assert finished == [("p0/0", 0)] or sorted(finished) == [("p0/0", 0), ("p2/0", 0)]
