"""Places for calls are shared: nobody starves, nobody gets a second share, nothing leaks."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from charforge.engine.fair import Places


def served(width, asked, first=()):
    """Return the order in which parties were served when all ask at once and give back after a turn each."""

    async def run():
        places, order = Places(width, first), []

        async def work(party):
            await places.take(party)
            order.append(party)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            places.give(party)

        await asyncio.gather(*(work(party) for party in asked))
        return order

    return asyncio.run(run())


def test_a_stage_that_comes_late_does_not_wait_for_one_that_asked_for_much():
    order = served(2, ["a/scenes"] * 20 + ["a/protective"] * 5)
    assert set(order[:4]) == {"a/scenes", "a/protective"}
    assert Counter(order[2:12]) == {"a/scenes": 5, "a/protective": 5}


def test_of_a_group_those_whom_others_wait_for_go_first_and_other_groups_keep_their_share():
    order = served(2, ["a/dialogues"] * 8 + ["a/scenes"] * 8 + ["b/dialogues"] * 8, first=["a/scenes"])
    assert Counter(order[2:16]) == {"a/scenes": 7, "b/dialogues": 7}
    assert order.index("a/dialogues", 2) > max(n for n, party in enumerate(order) if party == "a/scenes")


def test_characters_share_before_their_stages_do():
    order = served(1, ["a/scenes", "a/dialogues", "a/protective"] * 10 + ["b/scenes"] * 10)
    assert Counter(party[0] for party in order[2:20]) == {"a": 9, "b": 9}


@given(st.integers(1, 5), st.lists(st.sampled_from(["a/x", "a/y", "b/x", "c"]), max_size=30))
def test_everybody_is_served_once(width, asked):
    assert Counter(served(width, asked)) == Counter(asked)


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(["a/x", "b/x"]), st.booleans()), max_size=20))
def test_a_waiter_that_gives_up_takes_no_place_with_it(width, asked):
    async def run():
        places, inside, most = Places(width), 0, 0

        async def work(party):
            nonlocal inside, most
            await places.take(party)
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0)
            finally:
                inside -= 1
                places.give(party)

        tasks = [asyncio.ensure_future(work(party)) for party, _ in asked]
        for task, (_, gives_up) in zip(tasks, asked, strict=True):
            if gives_up:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= width
        # All places are free again.
        for _ in range(width):
            await asyncio.wait_for(places.take("z"), 5)

    asyncio.run(run())
