"""Prices, costs, and the purse."""

import asyncio
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge.errors import CharForgeError
from charforge.llm import money
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import BudgetReached
from charforge.llm.money import Account, Ledger, Price

MODEL = "openai/some-model"


def endpoint(provider, **settings):
    return Endpoint(name=provider, provider=provider, lane="direct", **settings)


# --- Prices ---------------------------------------------------------------------------------------------------------------------


def test_the_users_price_comes_first():
    mine = Price(1.0, 2.0)
    assert money.price_of("openai/gpt-4o-mini", endpoint("openai", price=mine)) == mine


def test_litellms_list_knows_models_by_both_names():
    listed = money.price_of("openai/gpt-4o-mini", endpoint("openai"))
    assert listed is not None
    assert listed.output > listed.input > 0
    assert money.price_of("gpt-4o-mini", endpoint("")) == listed
    assert money.price_of("deepseek/deepseek-chat", endpoint("deepseek")) is not None


def test_a_bare_name_is_its_own_providers():
    assert money.price_of("hosted_vllm/gpt-4o-mini", endpoint("hosted_vllm")) is None
    assert money.price_of("open/gpt-4o-mini", endpoint("open")) is None


def test_families_of_a_provider_are_that_provider(monkeypatch):
    monkeypatch.setattr(
        money, "_price_list", lambda: {"claude-x": ("vertex_ai-anthropic_models", Price(3.0, 15.0))}
    )
    assert money.price_of("vertex_ai/claude-x", endpoint("vertex_ai")) == Price(3.0, 15.0)
    assert money.price_of("vert/claude-x", endpoint("vert")) is None


def test_what_nobody_knows_is_unknown():
    assert money.price_of("openai/no-such-model", endpoint("openai")) is None


@pytest.mark.parametrize("provider", ["ollama", "llamafile", "lm_studio"])
def test_ones_own_machine_is_free(provider):
    assert money.price_of(f"{provider}/llama3", endpoint(provider)) == Price(0, 0)


def test_local_models_are_free():
    assert money.price_of("embedded/smollm2-135m-instruct", None) == Price(0, 0)


@pytest.mark.parametrize(
    ("entry", "price"),
    [
        ({"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07}, Price(0.15, 0.6)),
        ({"input_cost_per_token": 0, "output_cost_per_token": 0}, None),
        ({"input_cost_per_token": 1e-06}, None),
        ({"input_cost_per_token": "x", "output_cost_per_token": 1e-06}, None),
        (
            {
                "input_cost_per_token": 1e-06,
                "output_cost_per_token": 2e-06,
                "output_cost_per_reasoning_token": 3e-06,
            },
            Price(1.0, 3.0),
        ),
        (
            {"tiered_pricing": [{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}, {}]},
            Price(1.0, 2.0),
        ),
    ],
)
def test_entries_are_read_as_far_as_they_can_be_trusted(entry, price):
    assert money._entry_price(entry) == price


def test_the_list_is_read_without_importing_litellm():
    code = (
        "import sys; from charforge.llm.money import price_of; from charforge.llm.endpoints import Endpoint\n"
        "assert price_of('openai/gpt-4o-mini', Endpoint(name='', provider='openai', lane='direct'))\n"
        "assert not {'litellm', 'aiohttp', 'asyncio.runners.x'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_without_the_list_knows_no_price(monkeypatch):
    money._price_list.cache_clear()
    try:
        monkeypatch.setattr(money, "_LIST", "moved.json")
        assert money.price_of("openai/gpt-4o-mini", endpoint("openai")) is None
        monkeypatch.setattr(money, "find_spec", lambda name: None)
        money._price_list.cache_clear()
        assert money.price_of("openai/gpt-4o-mini", endpoint("openai")) is None
    finally:
        money._price_list.cache_clear()


def test_cost_is_price_times_tokens():
    assert money.cost(Price(0.15, 0.6), 1000, 200) == 0.00027
    assert money.cost(Price(0.15, 0.6), None, 200) is None
    assert money.cost(None, 1000, 200) is None


# --- The ledger ---------------------------------------------------------------------------------------------------------------------


DOLLAR = Price(1.0, 1.0)
MILLION = 1_000_000


def call(ledger, *, prompt=0, completion=MILLION):
    """Open a call that costs a dollar at worst."""
    return ledger.call(MODEL, DOLLAR, prompt, completion)


def test_calls_are_counted_by_model():
    async def go():
        ledger = Ledger()
        for counts in ((10, 5), (20, None)):
            charge = ledger.call(MODEL, Price(1.0, 2.0), 100, 50)
            await charge.hold()
            charge.settle(*counts)
        charge = ledger.call("openai/other", None, 100, 50)
        await charge.hold()
        assert charge.settle(1, 1) is None
        return ledger

    ledger = asyncio.run(go())
    assert ledger.accounts == {
        MODEL: Account(calls=2, prompt_tokens=30, completion_tokens=5, cost=0.00002, unknown=1),
        "openai/other": Account(calls=1, prompt_tokens=1, completion_tokens=1, unknown=1),
    }


def test_a_lost_attempt_counts_at_its_worst():
    async def go():
        ledger = Ledger()
        charge = call(ledger)
        await charge.hold()
        charge.lose()
        charge.lose()  # nothing was under way
        await charge.hold()
        assert charge.settle(0, 1000) == 0.001
        return ledger, charge

    ledger, charge = asyncio.run(go())
    assert (charge.losses, charge.lost) == (1, 1.0)
    assert ledger.accounts[MODEL] == Account(calls=1, completion_tokens=1000, cost=0.001, lost=1.0)
    assert ledger.spent == 1.001


def test_what_an_attempt_lost_without_a_price_is_unknown():
    async def go():
        charge = Ledger().call(MODEL, None, 1, 1)
        await charge.hold()
        charge.lose()
        return charge

    assert asyncio.run(go()).lost is None


def test_the_call_that_could_exceed_the_limit_is_never_made():
    async def go():
        ledger = Ledger(2.5)
        for _ in range(2):
            charge = call(ledger)
            await charge.hold()
            charge.settle(0, MILLION)
        with pytest.raises(BudgetReached) as caught:
            await call(ledger).hold()
        return caught.value

    assert asyncio.run(go()).render() == (
        "error: the limit of $2.50 is reached: $2.0000 is spent, and the next call could cost $1.0000\n"
        "hint: rerun with a higher --max-cost; it goes on from here, finished work is kept"
    )


def test_the_whole_limit_can_be_spent():
    async def go():
        ledger = Ledger(1.0)
        for _ in range(10):
            charge = call(ledger, completion=MILLION // 10)
            await charge.hold()
            charge.settle(0, MILLION // 10)
        return ledger.spent

    assert asyncio.run(go()) == pytest.approx(1.0)


def test_what_does_not_fit_waits_for_those_in_flight():
    async def go():
        ledger, order = Ledger(2.5), []

        async def one(name, tokens):
            charge = call(ledger)
            await charge.hold()
            order.append(f"{name} sent")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            charge.settle(0, tokens)
            order.append(f"{name} paid")

        await asyncio.gather(*(one(name, MILLION // 10) for name in "abcd"))
        return order, ledger.spent

    order, spent = asyncio.run(go())
    assert order[:4] == ["a sent", "b sent", "a paid", "b paid"]
    assert order[4:6] == ["c sent", "d sent"]
    assert spent == pytest.approx(0.4)


def test_those_that_wait_are_told_when_nothing_can_free_enough():
    async def go():
        ledger = Ledger(1.5)
        first = call(ledger)
        await first.hold()
        waiting = [asyncio.create_task(call(ledger).hold()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        first.settle(0, MILLION)
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(each) for each in asyncio.run(go())] == [BudgetReached, BudgetReached]


def test_a_call_that_is_dropped_gives_back_what_it_held():
    async def go():
        ledger = Ledger(1.0)
        charge = call(ledger)
        await charge.hold()
        charge.drop()
        charge.drop()
        charge = call(ledger)
        await charge.hold()
        charge.settle(0, 10)
        charge.drop()
        return ledger.spent

    assert asyncio.run(go()) == 0.00001


def test_a_call_that_is_cancelled_while_it_waits_holds_nothing():
    async def go():
        ledger = Ledger(1.0)
        first = call(ledger)
        await first.hold()
        gone, there = (asyncio.create_task(call(ledger).hold()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        first.drop()
        await there
        with pytest.raises(asyncio.CancelledError):
            await gone
        # And when the turn came in the same moment as the end.
        second = asyncio.create_task(call(ledger).hold())
        await asyncio.sleep(0)
        ledger.give_back(1.0, 0.0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await call(ledger).hold()

    asyncio.run(go())


def test_what_costs_nothing_goes_on():
    async def go():
        ledger = Ledger(0.5)
        with pytest.raises(BudgetReached):
            await call(ledger).hold()
        charge = ledger.call("ollama/llama3", money.FREE, 100, 100)
        await charge.hold()
        return charge.settle(100, 100)

    assert asyncio.run(go()) == 0


def test_counts_that_the_endpoint_kept_to_itself_are_charged_at_the_worst():
    async def go():
        ledger = Ledger(1.5)
        charge = call(ledger)
        await charge.hold()
        assert charge.settle(None, None) is None
        return ledger.spent

    assert asyncio.run(go()) == 1.0


def test_a_limit_needs_a_price():
    Ledger().check(MODEL, None)
    Ledger(5.0).check(MODEL, DOLLAR)
    with pytest.raises(CharForgeError) as caught:
        Ledger(5.0).check(MODEL, None)
    assert caught.value.render() == (
        "error: openai/some-model: nobody knows its price, so --max-cost cannot be kept\n"
        'hint: name it in endpoints.toml: ["openai/some-model"] price = {input = …, output = …}, in USD per million tokens'
    )


@given(st.integers(0, 2**32), st.floats(0.5, 20))
def test_no_order_of_events_spends_more_than_the_limit(seed, limit):
    chance = random.Random(seed)

    async def go():
        ledger = Ledger(limit)
        worst_seen = 0.0

        async def one():
            nonlocal worst_seen
            charge = call(ledger, completion=chance.randint(1, MILLION))
            try:
                for _ in range(chance.randint(1, 3)):
                    if not charge.held:
                        await charge.hold()
                    worst_seen = max(worst_seen, ledger.spent)
                    for _ in range(chance.randint(0, 3)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.3:
                        charge.lose()
                if not charge.held:
                    await charge.hold()
                charge.settle(0, chance.choice([0, 1, None]))
            except BudgetReached:
                return "stopped"
            finally:
                charge.drop()
            return "done"

        tasks = [asyncio.create_task(one()) for _ in range(30)]
        for task in tasks:
            if chance.random() < 0.1:
                await asyncio.sleep(0)
                task.cancel()
        async with asyncio.timeout(5):  # nobody waits for ever
            await asyncio.gather(*tasks, return_exceptions=True)
        assert ledger.spent <= limit + 1e-6
        assert ledger._held == 0
        assert ledger._holders == 0

    asyncio.run(go())
