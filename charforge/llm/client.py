"""One way to any model: embedded and trained ones run here, every other name goes to an endpoint.

Puts together what a remote call needs: the endpoint it goes to, the gate in front of that, the lane that leads there, and the
ledger. What the request means, and whether it was asked before, is others' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from charforge.errors import CharForgeError
from charforge.llm.errors import NotRecorded
from charforge.llm.local import LocalLane, WeightsRef
from charforge.llm.request import Reply, Request
from charforge.models.embedded import EMBEDDED

if TYPE_CHECKING:
    from charforge.llm.endpoints import Endpoint, Endpoints
    from charforge.llm.flow import Answer, Gate
    from charforge.llm.money import Ledger, Price

EMBEDDED_PREFIX = "embedded/"
LOCAL_PREFIX = "local/"
LOCAL_LANE = "local"

_TEMPLATE_TOKENS = 128
"""What a provider's chat template may add to a prompt, at most."""
_BYTES_PER_TOKEN = 4
"""Roughly, for the endpoint's budget of tokens a minute, until the reply says."""


class Lane(Protocol):
    """A way to an endpoint."""

    def ready(self) -> None:
        """Raise WrongKey where it is plain that no call can succeed."""

    def body(self, request: Request) -> bytes:
        """Return what `send` wants; its length bounds the prompt's tokens."""

    async def send(self, request: Request, body: bytes) -> Answer:
        """Send once. Raises Failure, or the CharForgeError that ends the call."""

    async def close(self) -> None:
        """End all connections."""


class _Route(NamedTuple):
    """What leads to a remote model."""

    endpoint: Endpoint
    gate: Gate
    lane: Lane
    price: Price | None


class Client:
    """Answers requests. Close it when done: it may hold a worker process with gigabytes of weights, and connections.

    `offline`: nothing is sent. `ledger`: what is paid from; one without a limit unless given. `endpoints`: the user's own
    unless given. `tell` may be set to hear, in words for the user, why nothing moves for a while. Belongs to one event loop.
    """

    def __init__(
        self, *, offline: bool = False, ledger: Ledger | None = None, endpoints: Endpoints | None = None
    ) -> None:
        self.tell: Callable[[str], None] = lambda _note: None
        self._offline = offline
        self._local = LocalLane()
        self._ledger = ledger
        self._endpoints = endpoints
        self._routes: dict[str, _Route] = {}
        self._gates: dict[tuple[Any, ...], Gate] = {}
        self._lanes: dict[tuple[Any, ...], Lane] = {}
        self._lane_names: dict[str, str] = {}

    @property
    def ledger(self) -> Ledger:
        """What was spent."""
        if self._ledger is None:
            from charforge.llm.money import Ledger

            self._ledger = Ledger()
        return self._ledger

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Return the model's reply. `weights` says where local weights lie. Raises CharForgeError."""
        model = request.model
        if model.startswith(EMBEDDED_PREFIX) and weights is None:
            weights = WeightsRef("embedded", model.removeprefix(EMBEDDED_PREFIX))
        if weights is not None:
            return await self._local.complete(request, weights)
        if self._offline:
            raise NotRecorded(
                request,
                f"{model} is served over the network, and this build is --offline",
                "drop --offline, or name a local model such as embedded/smollm2-135m-instruct",
            )
        if request.messages is None:
            raise CharForgeError(
                f"{model}: a remote model takes messages, not raw text",
                "only local models can speak in the trained text format",
            )
        if request.repetition_penalty is not None:
            raise CharForgeError(f"{model}: remote models take no repetition penalty", "leave it unset")
        return await self._remote(request, self._routes.get(model) or self._route(model))

    async def _remote(self, request: Request, route: _Route) -> Reply:
        lane = route.lane
        body = lane.body(request)
        charge = self.ledger.call(
            request.model, route.price, len(body) + _TEMPLATE_TOKENS, request.max_tokens
        )

        async def attempt(number: int) -> Answer:
            charge.attempts = number
            if not charge.held:  # the attempt before is paid for, for all we know
                await charge.hold()
            return await lane.send(request, body)

        await charge.hold()
        try:
            answer = await route.gate.run(
                attempt, tokens=len(body) // _BYTES_PER_TOKEN + request.max_tokens, on_lost=charge.lose
            )
        except BaseException:
            charge.drop()
            raise
        reply = answer.reply
        facts: dict[str, Any] = {"endpoint": route.gate.name}
        if reply.finish_reason == "malformed" or "refused" in reply.facts:
            facts["cost"] = charge.settle(0, 0)
        else:
            facts["cost"] = charge.settle(reply.prompt_tokens, reply.completion_tokens)
        if charge.attempts > 1:
            facts["attempts"] = charge.attempts
        if charge.losses:
            facts["lost"] = charge.lost
        for name in ("schema", "refused", "struck"):
            if name in reply.facts:
                facts[name] = reply.facts[name]
        return Reply(
            text=reply.text,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            facts=facts,
        )

    def lane(self, model: str) -> str:
        """Return the name of what serves a model, for those who share it fairly: "local", or an endpoint's. Never raises."""
        name = self._lane_names.get(model)
        if name is None:
            name = self._lane_names[model] = self._lane_name(model)
        return name

    def _lane_name(self, model: str) -> str:
        if is_local(model):
            return LOCAL_LANE
        if self._offline:
            return model.split("/", 1)[0]
        try:
            endpoint = self._endpoint(model)
        except CharForgeError:  # whoever calls it will hear
            return model.split("/", 1)[0]
        return self._gate(endpoint).name

    def ready(self, models: Iterable[str]) -> None:
        """Raise CharForgeError, before anything is sent, where it is plain that one of these models cannot be used.

        Its endpoint is unknown, its key is not set, or there is a limit on the cost and its price is unknown.
        """
        for model in models:
            if not is_local(model) and not self._offline:
                self._route(model)

    def price(self, model: str) -> Price | None:
        """Return what a model costs, None where nobody knows. Raises CharForgeError where its endpoint is unknown."""
        from charforge.llm.money import price_of

        return price_of(model, None if is_local(model) else self._endpoint(model))

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return the counters of each endpoint's gate."""
        return {gate.name: gate.stats() for gate in self._gates.values()}

    async def release(self) -> None:
        """Let go of local models, to make room for training."""
        await self._local.release()

    async def close(self) -> None:
        """End every worker and every connection."""
        for lane in self._lanes.values():
            await lane.close()
        await self._local.close()

    def _endpoint(self, model: str) -> Endpoint:
        if self._endpoints is None:
            from charforge.llm import endpoints

            self._endpoints = endpoints.load()
        return self._endpoints.of(model)

    def _gate(self, endpoint: Endpoint) -> Gate:
        gate = self._gates.get(endpoint.place)
        if gate is None:
            from charforge.llm.flow import Gate

            gate = self._gates[endpoint.place] = Gate(
                endpoint.name,
                concurrency=endpoint.concurrency,
                requests_per_minute=endpoint.requests_per_minute,
                tokens_per_minute=endpoint.tokens_per_minute,
                deadline=endpoint.deadline,
                patience=endpoint.patience,
                tell=self.tell,
            )
        return gate

    def _route(self, model: str) -> _Route:
        from charforge.llm.money import price_of

        endpoint = self._endpoint(model)
        price = price_of(model, endpoint)
        self.ledger.check(model, price)
        key = (endpoint.place, endpoint.provider, endpoint.schema)
        lane = self._lanes.get(key)
        if lane is None:
            if endpoint.lane == "direct":
                from charforge.llm.direct import DirectLane

                lane = DirectLane(endpoint)
            else:
                from charforge.llm.litellm_lane import LitellmLane

                lane = LitellmLane(endpoint)
            self._lanes[key] = lane
        lane.ready()
        route = self._routes[model] = _Route(endpoint, self._gate(endpoint), lane, price)
        return route


def is_local(model: str) -> bool:
    """Say whether a model runs on this machine."""
    return model.startswith((EMBEDDED_PREFIX, LOCAL_PREFIX))


def weights_digest(model: str) -> str | None:
    """Return the digest of an embedded model's weights; None for a model whose weights we never see."""
    if not model.startswith(EMBEDDED_PREFIX):
        return None
    return EMBEDDED[model.removeprefix(EMBEDDED_PREFIX)].sha256
