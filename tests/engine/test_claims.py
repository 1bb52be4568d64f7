"""A claim is held by one at a time, and ends with its holder, however that ends."""

from __future__ import annotations

import asyncio
import os
import textwrap
import time

import pytest

from charforge.engine.claims import Claims

A, B = "a" * 64, "b" * 64


@pytest.fixture
def claims(quick_path):
    claims = Claims(quick_path / "claims")
    yield claims
    claims.close()


def until(what, *, seconds=20):
    """Wait for another process: never for a time that means something."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "the other process did not come that far"
        time.sleep(0.005)


HOLDER = """
import asyncio, sys
from pathlib import Path
from charforge.engine.claims import Claims

async def main():
    folder = Path(sys.argv[1])
    async with Claims(folder / "claims").hold(sys.argv[2]):
        (folder / "held").touch()
        while not (folder / "let-go").exists():
            await asyncio.sleep(0.005)

asyncio.run(main())
"""


@pytest.fixture
def holder(nursery, quick_path):
    """Another process that holds A until a file `let-go` is there, or it is killed."""
    script = quick_path / "holder.py"
    script.write_text(textwrap.dedent(HOLDER))
    child = nursery.start(script, quick_path, A)
    until((quick_path / "held").exists)
    return child


# -- one process -----------------------------------------------------------------------------------------------------


def test_within_a_process_the_second_waits_for_the_first(claims):
    order = []

    async def user(name):
        async with claims.hold(A):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    async def main():
        await asyncio.gather(user("one"), user("two"), user("three"))

    asyncio.run(main())
    assert order == ["one in", "one out", "two in", "two out", "three in", "three out"]


def test_different_actions_do_not_wait_for_each_other(claims):
    async def main():
        async with claims.hold(A), claims.hold(B):
            pass

    asyncio.run(main())


def test_a_waiter_that_gives_up_does_not_keep_the_claim(claims):
    async def use():
        async with claims.hold(A):
            pass

    async def main():
        async with claims.hold(A):
            waiting = asyncio.ensure_future(use())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        await use()

    asyncio.run(main())
    assert claims._here == {}


def test_an_error_inside_lets_go(claims):
    async def main():
        with pytest.raises(ZeroDivisionError):
            async with claims.hold(A):
                raise ZeroDivisionError
        async with claims.hold(A):
            pass

    asyncio.run(main())
    assert claims._here == {}


# -- several processes -----------------------------------------------------------------------------------------------


def test_another_process_waits_until_the_holder_lets_go(claims, holder, quick_path):
    looks = []

    def waiting(number):
        looks.append(number)
        if number == 2:
            (quick_path / "let-go").touch()

    async def main():
        async with claims.hold(A, waiting):
            pass

    asyncio.run(main())
    assert looks[:3] == [0, 1, 2]
    assert holder.wait() == 0


def test_another_action_is_free_meanwhile(claims, holder):
    async def main():
        async with claims.hold(B):
            pass

    asyncio.run(main())
    holder.kill()
    holder.wait()


def test_a_killed_holder_leaves_its_claim_free(claims, holder):
    async def main():
        async with claims.hold(A, lambda number: holder.kill() if number == 0 else None):
            pass

    asyncio.run(main())
    assert holder.wait() == -9


def test_a_waiter_may_give_up_and_the_claim_is_not_its(claims, holder, quick_path):
    class EnoughError(Exception):
        pass

    def waiting(number):
        if number == 1:
            raise EnoughError

    async def main():
        with pytest.raises(EnoughError):
            async with claims.hold(A, waiting):
                pytest.fail("another process has it")

    asyncio.run(main())
    assert claims._here == {}
    (quick_path / "let-go").touch()
    assert holder.wait() == 0


def test_claims_leave_nothing_to_clean_up(claims, quick_path):
    async def main():
        async with claims.hold(A), claims.hold(B):
            assert os.listdir(quick_path) == ["claims"]

    asyncio.run(main())
    assert (quick_path / "claims").stat().st_size == 0
