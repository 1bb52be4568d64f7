"""What calls cost, and the purse they are paid from.

Prices are the user's own (`endpoints.toml`) or those that litellm's package carries, read from its file without importing
it. A price that nobody gave is unknown, never guessed. The ledger keeps a build under its limit: the worst that an attempt
can cost is set aside before it is sent. Knows no transport.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge.errors import CharForgeError
from charforge.llm.errors import BudgetReached

if TYPE_CHECKING:
    from charforge.llm.endpoints import Endpoint

_MILLION = 1_000_000
_OWN_MACHINES = frozenset({"ollama", "ollama_chat", "llamafile", "lm_studio"})
_MODES = frozenset({"chat", "completion", "responses"})
_LIST = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float


FREE = Price(0.0, 0.0)


def price_of(model: str, endpoint: Endpoint | None) -> Price | None:
    """Return the price of a model: the endpoint's own, else litellm's list. `endpoint` is None for a local model (free).

    None: unknown.
    """
    if endpoint is None:
        return FREE
    if endpoint.price is not None:
        return endpoint.price
    if endpoint.provider in _OWN_MACHINES:
        return FREE
    return _listed(model, endpoint.provider)


def cost(price: Price | None, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    """Return USD; None where the price or a count is unknown."""
    if price is None or prompt_tokens is None or completion_tokens is None:
        return None
    # To a tenth of a nano-dollar: sums of binary fractions would print their rounding errors otherwise.
    return round((price.input * prompt_tokens + price.output * completion_tokens) / _MILLION, 10)


def _listed(model: str, provider: str) -> Price | None:
    prices = _price_list()
    for name in (model, model.removeprefix(f"{provider}/")):
        found = prices.get(name)
        if found is None:
            continue
        # A bare name is its provider's: `openai/claude-…`, served by somebody else, has no price there.
        # litellm splits providers into families: `bedrock_converse`, `vertex_ai-anthropic_models`.
        theirs = found[0] == provider or found[0].startswith((f"{provider}_", f"{provider}-"))
        if name == model or theirs:
            return found[1]
    return None


@cache
def _price_list() -> dict[str, tuple[str, Price]]:
    """Return `{name: (litellm's provider, price)}`. 30 ms, once."""
    spec = find_spec("litellm")  # finds the folder; imports nothing
    if spec is None or not spec.submodule_search_locations:
        return {}
    try:
        listed: dict[str, Any] = json.loads(Path(spec.submodule_search_locations[0], _LIST).read_bytes())
    except (OSError, ValueError):  # another release may keep it elsewhere: no price is known then
        return {}
    prices = {}
    for name, entry in listed.items():
        price = _entry_price(entry) if isinstance(entry, dict) and entry.get("mode") in _MODES else None
        if price is not None:
            prices[name] = (str(entry.get("litellm_provider")), price)
    return prices


def _entry_price(entry: dict[str, Any]) -> Price | None:
    tiers = entry.get("tiered_pricing")
    if isinstance(tiers, list) and tiers and isinstance(tiers[0], dict):
        entry = tiers[0]  # for short prompts, which ours are
    put, out = _amount(entry.get("input_cost_per_token")), _amount(entry.get("output_cost_per_token"))
    # Two zeros mean "nobody filled this in" as often as "free": a limit on the cost must not rely on them.
    if put is None or out is None or put == out == 0:
        return None
    out = max(out, _amount(entry.get("output_cost_per_reasoning_token")) or 0.0)
    return Price(round(put * _MILLION, 9), round(out * _MILLION, 9))


def _amount(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value >= 0 else None


@dataclass(slots=True)
class Account:
    """What one model's calls came to.

    `cost` in USD, without the `unknown` calls; `lost` is what attempts without an answer may have cost, at worst.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unknown: int = 0
    lost: float = 0.0


class Ledger:
    """Counts what is spent, and holds calls back that could exceed `limit` (USD; None: there is none).

    Belongs to one event loop. `accounts` by model.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.accounts: dict[str, Account] = {}
        self.spent = 0.0  # known costs, and lost attempts at their worst
        self._held = 0.0
        self._holders = 0
        self._reached = False
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    def account(self, model: str) -> Account:
        """Return a model's account."""
        found = self.accounts.get(model)
        if found is None:
            found = self.accounts[model] = Account()
        return found

    def check(self, model: str, price: Price | None) -> None:
        """Raise CharForgeError where there is a limit, and a model without a price."""
        if self.limit is not None and price is None:
            raise CharForgeError(
                f"{model}: nobody knows its price, so --max-cost cannot be kept",
                f'name it in endpoints.toml: ["{model}"] price = {{input = …, output = …}}, in USD per million tokens',
            )

    def call(self, model: str, price: Price | None, prompt_bound: int, max_tokens: int) -> Charge:
        """Open a call of at most `prompt_bound` prompt tokens and `max_tokens` of completion."""
        worst = None if price is None else (price.input * prompt_bound + price.output * max_tokens) / _MILLION
        return Charge(self, self.account(model), price, worst)

    async def hold(self, amount: float) -> None:
        """Set `amount` aside, waiting for calls in flight to give back what they did not need. Raises BudgetReached."""
        if self.limit is None:
            return
        if not self._waiting and self._fits(amount):
            self._held += amount
            self._holders += 1
            return
        if amount > 0 and (self._reached or not self._holders):
            raise self._reach(amount)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(amount, 0.0)
            raise

    def give_back(self, amount: float, spent: float) -> None:
        """Put `amount` back that was held, of which `spent` is gone."""
        self.spent += spent
        if self.limit is None:
            return
        self._held -= amount
        self._holders -= 1
        if not self._holders:
            self._held = 0.0  # no dust
        while self._waiting:
            wanted, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
            elif self._fits(wanted):
                self._waiting.popleft()
                self._held += wanted
                self._holders += 1
                future.set_result(None)
            elif self._reached or not self._holders:
                self._waiting.popleft()
                future.set_exception(self._reach(wanted))
            else:
                return

    def _fits(self, amount: float) -> bool:
        assert self.limit is not None
        # What costs nothing goes on after the limit is reached.
        if amount == 0:
            return True
        return not self._reached and self.spent + self._held + amount <= self.limit + 1e-9

    def _reach(self, amount: float) -> BudgetReached:
        self._reached = True
        return BudgetReached(
            f"the limit of ${self.limit:,.2f} is reached: ${self.spent:,.4f} is spent, and the next call could cost "
            f"${amount:,.4f}",
            "rerun with a higher --max-cost; it goes on from here, finished work is kept",
        )


class Charge:
    """One call's part of the ledger, from before its first attempt to its answer.

    `attempts` is the caller's to count. `losses`: attempts that brought no answer and may have to be paid for; `lost`: what they
    cost at worst, in USD, None where that is unknown. `held`: the worst that the next attempt can cost is set aside.
    """

    __slots__ = ("_account", "_ledger", "_price", "_worst", "attempts", "held", "losses", "lost")

    def __init__(self, ledger: Ledger, account: Account, price: Price | None, worst: float | None) -> None:
        self._ledger = ledger
        self._account = account
        self._price = price
        self._worst = worst
        self.held = False
        self.attempts = self.losses = 0
        self.lost: float | None = 0.0

    async def hold(self) -> None:
        """Set the worst that an attempt can cost aside. Raises BudgetReached."""
        if self._ledger.limit is not None:
            assert self._worst is not None, "a model without a price got past the check"
            await self._ledger.hold(self._worst)
        self.held = True

    def lose(self) -> None:
        """Say that the attempt under way brought no answer and may have to be paid for."""
        if not self.held:
            return
        self.losses += 1
        if self._worst is None or self.lost is None:
            self.lost = None
        else:
            self.lost = round(self.lost + self._worst, 10)
            self._account.lost += self._worst
        self._let_go(self._worst or 0.0)

    def settle(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """End the call with its answer; return what it cost in USD, None where that is unknown.

        Where the endpoint counted no tokens, the limit is charged with the most that it can have been.
        """
        account = self._account
        account.calls += 1
        account.prompt_tokens += prompt_tokens or 0
        account.completion_tokens += completion_tokens or 0
        paid = cost(self._price, prompt_tokens, completion_tokens)
        if paid is None:
            account.unknown += 1
        else:
            account.cost += paid
        self._let_go((self._worst or 0.0) if paid is None else paid)
        return paid

    def drop(self) -> None:
        """End the call without an answer, if it has not ended: what is still set aside was not needed."""
        if self.held:
            self._let_go(0.0)

    def _let_go(self, spent: float) -> None:
        if self.held:
            self.held = False
            self._ledger.give_back(self._worst or 0.0, spent)
        else:
            self._ledger.spent += spent
